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
    then FC kernels (and the prompt's attention on the PUs) from the start, decode attention up to the end,
    transfers from the start. Lengths are exact, places within an iteration are not.
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
            Segment("link", "communication", start + draft, busy[at.BUSY_LINK]),
        ]
        kept = tuple(segment for segment in segments if segment.duration_s > 0)
        self.iterations.append(Iteration(int(counters[at.ITERATION]), int(counters[at.LAST_N]), kept))


def _on_pu(counters: npt.NDArray[np.int64]) -> str:
    """What the PUs' segment is: decode FC kernels, a prompt's chunk, or both in one."""
    if counters[at.LAST_CHUNK] == 0:
        return "fc"
    alone = counters[at.LAST_N] == 0 or counters[at.LAST_ACTION + at.FC] == at.FC_PIM
    return "prefill" if alone else "fc + prefill"
