"""What PAPI says without a number to divide by: orders (rows O) and facts (rows F), and whether a reading holds them.

Some follow from a model and a capacity alone, and hold under every reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from experiments.attacc import machines
from experiments.attacc.simulate import decode_columns
from experiments.paper.data import fc_intensity
from experiments.paper.published import NUMBER_ROWS
from experiments.paper.rows import (
    ALL_CELLS,
    ATTACC,
    ATTACC_ONLY,
    CREATIVE,
    HBM_PIM,
    LLAMA,
    LONG_SPECULATION,
    PAPI,
    PIM_ONLY,
    Bench,
)
from papi_env.hardware import dram
from papi_env.hardware.system import System
from papi_env.hardware.units import STACKS_PER_GPU
from papi_env.kernel import FP16_BYTES
from papi_env.workload.transformer import get_transformer

# What decides a row, and whether it is true.
Fact: TypeAlias = tuple[dict[str, Any], bool]

# Words of the paper, as numbers of ours.
TINY = 0.10  # "attention is a tiny share": of the time of PAPI and A100+AttAcc
EQUAL = 0.05  # "about equals"
CONVERGED = 0.10  # "converges"
HEAD_MOVES = 0.003  # F10
SAME_RATE = 0.03  # F6: clocks are whole, so that 333 MHz is 4 of them, 3.08 ns
FEW_ROWS, MANY_ROWS = 8, 32  # n of F1 and F2


def fact(bench: Bench, row: str) -> Fact:
    """What decides a row O or F under the bench's setting, and whether the row holds."""
    return _FACTS[row](bench)


def fc_latency(bench: Bench) -> dict[str, dict[str, float]]:
    """Seconds of the A100s over those of AttAcc and HBM-PIM on LLaMA-65B's FC kernels, by n: above 1, PIM leads."""
    gpu = bench.fc_seconds(ATTACC)
    return {
        name: {str(n): round(float(gpu[n] / seconds[n]), 3) for n in (1, 2, 4, 8, 16, 32, 64, 128)}
        for name, seconds in {
            "attacc": bench.fc_seconds(ATTACC_ONLY),
            "hbm_pim": bench.fc_seconds(ATTACC_ONLY, fpus_per_bank=0.5),
        }.items()
    }


def pim_leads_at_eight(bench: Bench) -> Fact:
    """Row F1."""
    leads = fc_latency(bench)
    facts = {f"{name}_over_a100s": lead[str(FEW_ROWS)] for name, lead in leads.items()}
    return facts, all(lead > 1 for lead in facts.values())


def gpus_lead_from_32(bench: Bench) -> Fact:
    """Row F2; n = 16 is shown, and not asked."""
    leads = fc_latency(bench)
    facts = {
        f"{name}_over_a100s": {n: lead[n] for n in ("16", "32", "64", "128")} for name, lead in leads.items()
    }
    return facts, all(lead[str(n)] < 1 for lead in leads.values() for n in (32, 64, 128))


def attacc_only_trails(bench: Bench) -> Fact:
    """Row O3 (fact F3): settings of 36 in which AttAcc-only is slower than A100+AttAcc; most are more than half."""
    alone, beside = bench.ratios("total_s", ATTACC_ONLY, ATTACC, ALL_CELLS)
    slower = int((alone > beside).sum())
    return {"slower_in": slower, "of": len(ALL_CELLS)}, slower > len(ALL_CELLS) / 2


def shorter_outputs_gain_less(bench: Bench) -> Fact:
    """Row F4."""
    rows = bench.values(("E1", "E4", "E3", "E6"))
    holds = {"E6_below_E3": rows["E6"] < rows["E3"], "E4_below_E1": rows["E4"] < rows["E1"]}
    return {**{row: round(value, 3) for row, value in rows.items()}, "parts": holds}, all(holds.values())


def roofline_of_opt(bench: Bench) -> Fact:
    """Row F5: below the ridge of peak FLOP/s over peak B/s, a kernel is bound by memory."""
    pu = bench.system(PAPI).pu
    assert pu is not None
    ridge = pu.total_flops / pu.total_bandwidth
    model = get_transformer("opt-30b")
    by_batch = {batch: fc_intensity(model, 8 * batch) for batch in (4, 8, 16, 32, 64, 128)}
    by_tlp = {tlp: fc_intensity(model, 32 * tlp) for tlp in range(1, 9)}
    holds = all((value > ridge) == (batch >= 32) for batch, value in by_batch.items())
    holds = holds and all((value > ridge) == (tlp >= 6) for tlp, value in by_tlp.items())
    facts = {
        "ridge": round(ridge, 1),
        "compute_bound_from_batch": next((b for b, value in by_batch.items() if value > ridge), None),
        "compute_bound_from_speculation": next((t for t, value in by_tlp.items() if value > ridge), None),
    }
    return facts, holds


def memory_of_the_evaluation(bench: Bench) -> Fact:
    """Row F6: five stacks a GPU, and a bank's command a cycle of 333 MHz."""
    system = bench.system(PAPI)
    assert system.pu is not None
    assert system.fc_pim is not None
    given = {"gpu_bandwidth": system.pu.stacks * dram.STACK_BANDWIDTH, "command_s": 1 / 333e6}
    found = {
        "gpu_bandwidth": system.pu.memory_bandwidth,
        "command_s": system.fc_pim.cadence_clocks * dram.CLOCK_S,
    }
    facts = {
        "gpu_gb_per_s": round(found["gpu_bandwidth"] / 1e9),
        "command_ns": round(1e9 * found["command_s"], 2),
    }
    return facts, all(abs(found[name] / given[name] - 1) <= SAME_RATE for name in given)


@lru_cache(maxsize=1)
def requests_housed() -> dict[str, int]:
    """Row F7: requests of GPT-3 175B whose KV caches fit beside the weights; the last token has none."""
    model = get_transformer("gpt3-175b")

    def housed(gib: int, tokens: int) -> int:
        kv = model.kv_bytes_per_token * (2 * tokens - 1)
        # The paper rounds up.
        return math.ceil((gib * 2**30 - model.weight_bytes) / kv)

    return {
        "640_gb_128": housed(640, 128),
        "640_gb_2048": housed(640, 2048),
        "1280_gb_128": housed(1280, 128),
    }


@lru_cache(maxsize=1)
def largest_initial_rlp(objective_s: float = 30e-3) -> dict[str, Any]:
    """Row F8: requests in a batch that decode within the objective, by AttAcc's equations; 128 tokens in and out."""
    gpu, model = machines.GPUS["A100a"], machines.MODELS["GPT-175B"]

    def iteration_ms(batch: int) -> float:
        run = machines.Run(gpu, 8, None, model, FP16_BYTES, batch, 128, 128)
        return decode_columns(run)["g_time (ms)"]

    batch = next(b for b in range(1, 129) if iteration_ms(b + 1) > 1e3 * objective_s)
    milliseconds = {str(b): round(iteration_ms(b), 2) for b in (batch, batch + 1)}
    return {"rlp": batch, "iteration_ms": milliseconds}


def attention_intensity(context: int, tlp: int = 8, head_size: int = 128) -> float:
    """FLOP/B of a head's attention: keys, values, queries and outputs move once, scores four times.

    Scores are written, read and written by the softmax, and read again: t d L / (L d + 2 t L + t d).
    """
    flops = 2 * 2 * tlp * head_size * context
    elements = 2 * context * head_size + 2 * tlp * head_size + 4 * tlp * context
    return flops / (elements * FP16_BYTES)


def _attention_intensity(_: Bench) -> Fact:
    """Row F9, at the context that gives it; the paper names none."""
    found = round(attention_intensity(448), 2)
    return {"flop_per_byte": found, "context": 448}, found == 7.0


def a_head_per_stack(bench: Bench) -> Fact:
    """Row F10: how much the number rows change between heads dealt evenly and a head in one stack."""
    other = "dealt" if bench.setting.heads == "per-stack" else "per-stack"
    changed = Bench(replace(bench.setting, heads=other), bench.seeds).values()
    moves = {row: abs(changed[row] / bench.value(row) - 1) for row in NUMBER_ROWS}
    most = max(moves, key=lambda row: moves[row])
    return {"row": most, "moved_by": round(moves[most], 4)}, moves[most] <= HEAD_MOVES


def two_dimensional_sums(bench: Bench) -> Fact:
    """Row F11: the reading sums partial outputs of several stacks."""
    setting = bench.setting
    exchanges = setting.combining == "exchange"
    facts = {
        "behind_a_host": setting.partial_sums if exchanges else 1,
        "in_a_gpu": STACKS_PER_GPU if exchanges and setting.stack_sums else 1,
    }
    return facts, facts["behind_a_host"] > 1


def same_interconnect(bench: Bench) -> Fact:
    """Row F12: what joins the weight stacks of both PIM-only systems in rows P, where prefill is never counted."""
    carriers = {
        name: _carrier(bench.system(name, same_interconnect=True)) for name in (ATTACC_ONLY, PIM_ONLY)
    }
    return {**carriers, "prefill": "left out"}, carriers[ATTACC_ONLY] == carriers[PIM_ONLY]


def _carrier(system: System) -> str:
    link = getattr(system, "output_link", None) or system.fabric or system.attention_link
    assert link is not None
    return str(link.name)


def shares_of_time(bench: Bench) -> Fact:
    """Row F13."""
    shares = {}
    for name in (PAPI, ATTACC):
        costs = [bench.cost(name, *cell) for cell in ALL_CELLS]
        shares[name] = float(np.mean([cost.attention_s / cost.total_s for cost in costs]))
    above, below = bench.ratios("total_s", HBM_PIM, ATTACC, ALL_CELLS)
    equal = float(np.exp(np.log(above / below).mean()))
    bars = {}
    for name in (ATTACC_ONLY, PIM_ONLY):
        cost = bench.cost(name, CREATIVE, LLAMA, 4, 4, bench.setting.pim_batch, True)
        bars[name] = cost.fc_s / cost.decode_s
    parts = {
        "attention_is_tiny": max(shares.values()) <= TINY,
        "a100_attacc_equals_a100_hbm_pim": abs(equal - 1) <= EQUAL,
        "fc_dominates": min(bars.values()) > 0.5,
    }
    facts = {
        "attention_share": {name: round(share, 3) for name, share in shares.items()},
        "a100_hbm_pim_over_a100_attacc_s": round(equal, 3),
        "fc_share": {name: round(share, 3) for name, share in bars.items()},
        "parts": parts,
    }
    return facts, all(parts.values())


def converges(bench: Bench) -> Fact:
    """Row F14: PAPI's lead by TLP at batch 4, and where n is largest, at batch 64 with equal requests."""
    cells = [(CREATIVE, LLAMA, 4, tlp) for tlp in LONG_SPECULATION]
    above, below = bench.ratios("total_s", ATTACC, PAPI, cells)
    falls = above / below
    most, least = bench.ratios("total_s", ATTACC, PAPI, [(CREATIVE, LLAMA, 64, 8)], "fixed")
    at_most = float(most[0] / least[0])
    facts = {
        "batch_4_by_tlp": dict(zip(map(str, LONG_SPECULATION), np.round(falls, 3).tolist(), strict=True)),
        "batch_64_tlp_8": round(at_most, 3),
    }
    return facts, bool((np.diff(falls) < 0).all()) and abs(at_most - 1) <= CONVERGED


def _housed(_: Bench) -> Fact:
    found = requests_housed()
    return dict(found), list(found.values()) == [282, 18, 854]


def _initial_rlp(_: Bench) -> Fact:
    found = largest_initial_rlp()
    return dict(found), found["rlp"] == 22


_FACTS: Mapping[str, Callable[[Bench], Fact]] = {
    "O1": Bench.fc_order,
    "O2": Bench.end_to_end_order,
    "O3": attacc_only_trails,
    "F1": pim_leads_at_eight,
    "F2": gpus_lead_from_32,
    "F4": shorter_outputs_gain_less,
    "F5": roofline_of_opt,
    "F6": memory_of_the_evaluation,
    "F7": _housed,
    "F8": _initial_rlp,
    "F9": _attention_intensity,
    "F10": a_head_per_stack,
    "F11": two_dimensional_sums,
    "F12": same_interconnect,
    "F13": shares_of_time,
    "F14": converges,
}
