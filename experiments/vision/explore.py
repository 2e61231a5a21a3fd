"""Where the choice of a unit matters: what the best plan gains over static mappings, over machines and networks.

A machine has one GPU, whose memory is FC-PIM stacks. Starts of kernels are as registered (a GPU's kernel pays four
times what one on PIM pays), equal on both units, or none, with the GPU by the roofline: what a gain owes to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.vision.data import MAPPINGS, Row, mapping_costs, steady_plan
from papi_env.hardware import dram
from papi_env.hardware.system import System, get_system
from papi_env.hardware.units import FC_PIM, PU
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.tables import EngineTables, build_tables
from papi_env.workload.vision.network import RepMLPNet, get_repmlpnet
from papi_env.workload.vision.presets import with_shares

# FLOP/s, B/s, stacks, FPUs a bank. The first is `papi-1gpu`, the last but two `papi-edge`. Between them 121 TFLOP/s
# and 300 GB/s are an L4's (data sheet), 665.6 GB/s is the interface of one HBM3 stack. The last is half of an Orin.
MACHINES: Mapping[str, tuple[float, float, int, float]] = {
    "312 TF 3352 GB/s 5x4": (312e12, 3352e9, 5, 4),
    "312 TF 3352 GB/s 5x1": (312e12, 3352e9, 5, 1),
    "121 TF 666 GB/s 1x4": (121e12, 665.6e9, 1, 4),
    "121 TF 300 GB/s 1x4": (121e12, 300e9, 1, 4),
    "42 TF 666 GB/s 1x4": (42.5e12, 665.6e9, 1, 4),
    "42 TF 205 GB/s 1x4": (42.5e12, 204.8e9, 1, 4),
    "42 TF 205 GB/s 1x1": (42.5e12, 204.8e9, 1, 1),
    "21 TF 102 GB/s 1x1": (21.3e12, 102.4e9, 1, 1),
}
STARTS = ("as is", "equal", "none")
# Registered networks, with how many times their share-sets.
NETWORKS = (("repmlpnet-t224", 1), ("repmlpnet-t224", 4), ("repmlpnet-b256", 1), ("repmlpnet-b256", 4))


def networks() -> list[RepMLPNet]:
    """The networks of the search."""
    return [get_repmlpnet(name) if times == 1 else with_shares(name, times) for name, times in NETWORKS]


def machine(name: str, starts: str) -> System:
    """A machine of `MACHINES` with starts of kernels as one of `STARTS`; no links, mode switches of 1 us."""
    flops, bandwidth, stacks, fpus = MACHINES[name]
    data = get_system("papi-1gpu").model_dump()
    stack = dram.Stack(banks_per_die=dram.max_banks_per_die(fpus))
    data["fc_pim"] |= {"stacks": stacks, "fpus_per_bank": fpus, "stack": stack.model_dump()}
    data["pu"] |= {
        "peak_flops": flops,
        "memory_bandwidth": bandwidth,
        "stacks": stacks,
        "memory_bytes": stacks * stack.capacity_bytes,
    }
    if starts == "none":
        data |= {"pu": data["pu"] | {"kernels": "roofline"}, "pim_start_s": 0.0}
    system = System.define(data | {"name": name, "fabric": None}, name)
    if starts == "equal":
        assert system.pu is not None
        system = system.model_copy(update={"pim_start_s": system.pu.kernel_start_s})
    return system


def gains(tables: EngineTables, images: int) -> Row:
    """Seconds of an encode in a stream of such, in one row.

    Every FC kernel on the PUs, and on FC-PIM; the best of all mappings that are the same in every stage (`class_s`),
    and of all; `gain` is the better unit's over the best's, `class_gain` that of a unit for each class.
    """
    seconds = mapping_costs(tables, images)[..., at.COST_S]
    plan = steady_plan(seconds)
    befores = [MAPPINGS[plan[stage - 1]][2] for stage in range(len(plan))]
    best = float(seconds[np.arange(len(plan)), befores, list(plan)].sum())
    same = [float(seconds[:, ffn, m].sum()) for m, (_, _, ffn) in enumerate(MAPPINGS)]
    pu, pim = (same[MAPPINGS.index((unit,) * 3)] for unit in (PU, FC_PIM))
    return {
        "pu_s": pu,
        "fc_pim_s": pim,
        "class_s": min(same),
        "best_s": best,
        "gain": min(pu, pim) / best,
        "class_gain": min(same) / best,
    }


def explored_rows(image_counts: Sequence[int]) -> Iterator[Row]:
    """A row for each network in merged form, machine, starts and number of images."""
    for net, name, starts in product(networks(), MACHINES, STARTS):
        system = machine(name, starts)
        scenario = get_scenario("vision-stream").replace(system=system, network=net)
        tables = build_tables(scenario, system.mode_switch_s)
        for images in image_counts:
            about = {"network": net.name, "machine": name, "starts": starts, "images": images}
            yield {**about, **gains(tables, images)}


def print_explored(console: Console, rows: Sequence[Row]) -> None:
    """Gains over static mappings by number of images, with what explains them."""
    counts = sorted({row["images"] for row in rows})
    for network in dict.fromkeys(row["network"] for row in rows):
        table = Table(box=None, pad_edge=False, header_style="bold", title=network, title_justify="left")
        for name in ("machine", "starts"):
            table.add_column(name, no_wrap=True)
        for count in counts:
            table.add_column(str(count), justify="right", no_wrap=True)
        own = [row for row in rows if row["network"] == network]
        for name, starts in product(MACHINES, STARTS):
            line = {r["images"]: r for r in own if (r["machine"], r["starts"]) == (name, starts)}
            cells = [f"{line[count]['gain']:.2f}/{line[count]['class_gain']:.2f}" for count in counts]
            table.add_row(name if starts == STARTS[0] else "", starts, *cells)
        console.print(table)
        console.print()
    console.print(_summary(rows), style="dim", markup=False, highlight=False)


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for starts in STARTS:
        own = [row for row in rows if row["starts"] == starts]
        most = [sum(row[name] >= 1.1 for row in own) for name in ("gain", "class_gain")]
        parts.append(f"{most[0]} and {most[1]} of {len(own)} ({starts})")
    return (
        "Seconds of the better single unit / best plan, then of the best unit for each class / best plan, by images "
        f"at once, merged form. Gains of a tenth and more: {'; '.join(parts)}. "
        "Machine: peak, bandwidth, stacks x FPUs a bank. Starts of kernels: as registered, "
        "equal on both units, or none with the GPU by the roofline. More images are more rows, which are the PUs'."
    )
