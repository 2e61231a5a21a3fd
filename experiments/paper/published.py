"""The figures that PAPI's paper states, as data: what `experiments.reproduce` compares with.

PAPI: ASPLOS 2025, arXiv 2502.15470, taken from notes of its full text. Dolly creative-writing and
general-qa, static batching, FP16, batch 4/16/64 x speculation 1/2/4, LLaMA-65B, GPT-3 66B and GPT-3 175B
(general-qa: the last only). Whether averages are arithmetic or geometric is not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["calibration", "validation"]
_BATCHES = {"fixed": "all requests of the mean length", "decaying": "requests that end as their lengths say"}
# Figures whose bars are no means over settings: shares and ratios of sums.
_RATIOS_OF_SUMS = ("P4", "P5", "P6")


def bars_and_rows(row: Mapping[str, Any]) -> str:
    """Why a figure's bars are not the rows that it is about, in a sentence each.

    Args:
        row: one of them, of reproduction.json, with the `readings` that it was simulated under.
    """
    setting, name = row["readings"], row["row"]
    batch = setting["pim_batch" if name.startswith("P") else "batch"]
    bars = "ratios of sums over seeds" if name in _RATIOS_OF_SUMS else "geometric means"
    rows = "" if name in _RATIOS_OF_SUMS else f", {setting['average']} means"
    return f"Bars: {_BATCHES['decaying']}, {bars}. Rows: {_BATCHES[batch]}{rows}."


@dataclass(frozen=True)
class PublishedRow:
    """A published figure.

    Attributes:
        row: its name here; the letter is its group (end to end, energy, speculation, PIM-only, order, fact).
        quantity: what was measured. Rows E and S are PAPI's speed-up end to end, N its energy efficiency, P are
            of decoding alone; S, P4-P6, O1 and O2 are of LLaMA-65B.
        source: where the paper says it.
        paper: the value; a text where the paper gives an order or several values.
        role: whether free constants may be fitted on it.
    """

    row: str
    quantity: str
    source: str
    paper: float | str
    role: Role = "validation"

    @property
    def group(self) -> str:
        """The letter of its group."""
        return self.row[0]

    @property
    def full_quantity(self) -> str:
        """What was measured, for a reader who does not see the other rows of its group."""
        return f"{_GROUP_QUANTITIES[self.group]}: {self.quantity}"


_GROUP_QUANTITIES = {
    "E": "PAPI's speed-up end to end",
    "N": "PAPI's energy efficiency",
    "S": "PAPI's speed-up end to end, LLaMA-65B",
    "P": "decoding",
    "O": "order",
    "F": "fact",
}
_EVALUATION = "PAPI, evaluation, end to end"
_ENERGY = "PAPI, evaluation, energy"
_SPECULATION = "PAPI, evaluation, speculation length"
_PIM_ONLY = "PAPI, evaluation, PIM-only PAPI"
_BREAKDOWN = "PAPI, evaluation, breakdown at batch 4, speculation 4"
_FC_LATENCY = "PAPI, section 3.3 and figure 4"
_PARALLELISM = "PAPI, section 3.2"

_ALL = (
    PublishedRow("E1", "creative-writing, over A100+AttAcc", _EVALUATION, 1.8, "calibration"),
    PublishedRow("E2", "creative-writing, over A100+HBM-PIM", _EVALUATION, 1.9),
    PublishedRow("E3", "creative-writing, over AttAcc-only", _EVALUATION, 11.1),
    PublishedRow("E4", "general-qa, over A100+AttAcc", _EVALUATION, 1.7),
    PublishedRow("E5", "general-qa, over A100+HBM-PIM", _EVALUATION, 1.7),
    PublishedRow("E6", "general-qa, over AttAcc-only", _EVALUATION, 8.1),
    PublishedRow("N1", "creative-writing, tokens/J over A100+AttAcc", _ENERGY, 3.4),
    PublishedRow("N2", "general-qa, tokens/J over A100+AttAcc", _ENERGY, 3.1),
    PublishedRow("N3", "creative-writing, tokens/J over AttAcc-only", _ENERGY, 1.15),
    PublishedRow("N4", "general-qa, tokens/J over AttAcc-only", _ENERGY, 1.01),
    PublishedRow("S1", "batch 4, spec 1..8, over A100+AttAcc", _SPECULATION, 1.5),
    PublishedRow("S2", "batch 4, spec 1..8, over AttAcc-only", _SPECULATION, 3.0),
    PublishedRow("P1", "PIM-only PAPI over AttAcc-only: mean", _PIM_ONLY, 2.3, "calibration"),
    PublishedRow("P2", "the same at batch 4, spec 1", _PIM_ONLY, 1.6, "calibration"),
    PublishedRow("P3", "the same at batch 64, spec 4", _PIM_ONLY, 2.7, "calibration"),
    PublishedRow("P4", "FC kernels: FC-PIM over AttAcc", _BREAKDOWN, 2.9, "calibration"),
    PublishedRow("P5", "attention: Attn-PIM over AttAcc", _BREAKDOWN, 1 / 1.7, "calibration"),
    PublishedRow("P6", "communication share of PIM-only PAPI", _BREAKDOWN, 0.282, "calibration"),
    PublishedRow(
        "O1",
        "FC latency, LLaMA-65B: AttAcc against the A100s",
        "PAPI, motivation, FC latency by batch size",
        "AttAcc faster at n = 8, the A100s from n = 16 on",
    ),
    PublishedRow(
        "O2",
        "end to end, LLaMA-65B: who leads",
        "PAPI, evaluation, batch size and speculation length",
        "AttAcc-only beats A100+AttAcc at batch 4; PAPI beats all at 4..128; lead falls with TLP",
    ),
    PublishedRow(
        "O3",
        "end to end, 36 settings: AttAcc-only against A100+AttAcc",
        "PAPI, section 7.2",
        "AttAcc-only is slower in most settings",
    ),
    PublishedRow(
        "F1", "FC latency at n = 8", _FC_LATENCY, "HBM-PIM and AttAcc are both faster than the A100s"
    ),
    # The figure's settings speculate by 2 and 8, so that its batch 16 means n = 32 at least.
    PublishedRow(
        "F2", "FC latency from batch 16 on", _FC_LATENCY, "the A100s are faster than both (asked from n = 32)"
    ),
    PublishedRow(
        "F4",
        "end to end, creative writing against general QA",
        "PAPI, section 7.2",
        "shorter outputs gain less: E6 < E3 and E4 < E1",
    ),
    PublishedRow(
        "F5",
        "roofline of OPT-30B's FC kernels",
        "PAPI, figure 2",
        "memory-bound at batch 4, 8, 16 x speculation 8, not from 32; batch 32 not from speculation 6",
    ),
    PublishedRow(
        "F6",
        "memory of the evaluation",
        "PAPI, section 7.1",
        "HBM3 at 5.2 Gb/s a pin (3328 GB/s a GPU), 333 MHz (3.0 ns a command)",
    ),
    PublishedRow(
        "F7",
        "GPT-3 175B: requests in 640 GB (128/128, 2048/2048), in 1280 GB (128/128)",
        _PARALLELISM,
        "282, 18, 854",
    ),
    PublishedRow("F8", "GPT-3 175B on eight A100, 30 ms an iteration: initial RLP", _PARALLELISM, "22"),
    PublishedRow("F9", "intensity of attention at batch 4, speculation 8", "PAPI, section 3.3", "7.0 FLOP/B"),
    PublishedRow(
        "F10", "Attn-PIM, each head in one stack", "PAPI, section 6.4", "moves no row by more than 0.3 %"
    ),
    PublishedRow("F11", "FC weights in 2D blocks", "PAPI, section 6.4", "partial sums cross stacks"),
    PublishedRow("F12", "PIM-only systems", "PAPI, section 7.4", "the same interconnect, prefill left out"),
    PublishedRow(
        "F13",
        "where the time goes",
        "PAPI, sections 7.2 and 7.4",
        "attention is tiny; A100+AttAcc about equals A100+HBM-PIM; FC dominates both bars of figure 12",
    ),
    PublishedRow("F14", "at large TLP", "PAPI, section 7.3", "PAPI converges to A100+AttAcc"),
)
PUBLISHED: Mapping[str, PublishedRow] = {row.row: row for row in _ALL}
CALIBRATION_ROWS = tuple(row.row for row in _ALL if row.role == "calibration")
NUMBER_ROWS = tuple(row.row for row in _ALL if not isinstance(row.paper, str))


def published_value(row: str) -> float:
    """The value of a row that is a number."""
    value = PUBLISHED[row].paper
    if isinstance(value, str):
        raise ValueError(f"Row {row} is an order, not a number")
    return value
