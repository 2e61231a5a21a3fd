"""A timeline of continuous batching: what each unit did in each iteration; for pictures and trace viewers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from papi_env.envs.rendering import Iteration, Segment, Timeline
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at


class ServingTimeline(Timeline):
    """Iterations as segments by unit.

    An iteration interleaves its layers; a segment gathers what a unit does in all of them: drafting first,
    then FC kernels (and the prompt's attention on the PUs) from the start, decode attention up to the end, and
    transfers before the attention that they are charged with, or, where none decodes, from the start, as prompts
    write their keys and values. Lengths are exact, places within an iteration are not.
    """

    colours: ClassVar[Mapping[str, str]] = {
        "draft": "#ddcc77",
        "fc": "#117733",
        "fc + prefill": "#44aa99",
        "prefill": "#4477aa",
        "attention": "#cc6677",
        "communication": "#aaaaaa",
    }

    def record(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> None:
        """Append the iteration that the state's `LAST_` entries describe; waiting leaves a gap."""
        duration = float(clocks[at.LAST_TIME_S])
        if duration == 0.0:
            return
        start = float(clocks[at.LAST_START_S])
        busy = [float(x) for x in clocks[at.LAST_BUSY_S : at.LAST_BUSY_S + at.NUM_RESOURCES]]
        draft = float(clocks[at.LAST_DRAFT_S])
        attention = busy[at.BUSY_ATTN]
        drafting = "pu" if busy[at.BUSY_PU] > 0 else "fc-pim"
        on_pu = busy[at.BUSY_PU] - (draft if drafting == "pu" else 0.0)
        on_pim = busy[at.BUSY_FC_PIM] - (draft if drafting == "fc-pim" else 0.0)
        segments = [
            Segment(drafting, "draft", start, draft),
            Segment("pu", _on_pu(counters), start + draft, on_pu),
            Segment("fc-pim", "fc", start + draft, on_pim),
            Segment("attn-pim", "attention", start + duration - attention, attention),
            Segment(
                "link", "communication", self._link_start(start, duration, draft, busy), busy[at.BUSY_LINK]
            ),
        ]
        kept = tuple(segment for segment in segments if segment.duration_s > 0)
        number, rows = int(counters[at.ITERATION]), int(counters[at.LAST_N])
        self.iterations.append(Iteration(number, rows, kept, span_s=(start, start + duration)))

    @staticmethod
    def _link_start(start: float, duration: float, draft: float, busy: list[float]) -> float:
        """When transfers begin: they end with the beginning of attention, as far as that leaves them room."""
        first = start + draft
        attention, link = busy[at.BUSY_ATTN], busy[at.BUSY_LINK]
        if attention == 0.0:
            return first
        return min(max(start + duration - attention - link, first), start + duration - link)


def _on_pu(counters: npt.NDArray[np.int64]) -> str:
    """What the PUs' segment is: decode FC kernels, a prompt's chunk, or both in one."""
    if counters[at.LAST_CHUNK] == 0:
        return "fc"
    alone = counters[at.LAST_N] == 0 or counters[at.LAST_ACTION + at.FC] == at.FC_PIM
    return "prefill" if alone else "fc + prefill"
