"""What a machine and its parts are: rates, capacities, area, power, links, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Iterator

from papi_env.commands.sources import entry_source
from papi_env.commands.wording import quantity
from papi_env.hardware import examples, gpus, links, technology
from papi_env.hardware import system as systems
from papi_env.hardware.links import Link
from papi_env.hardware.system import System
from papi_env.hardware.units import PimUnit, ProcessingUnit

Facts = list[tuple[str, str]]
# Where parts of machines are defined, with the comments that name their sources.
_DEFINED_IN = (gpus, links, technology, systems, examples)


def processing_unit(pu: ProcessingUnit) -> Facts:
    """GPUs: one of them, and all where there are several."""
    many = pu.count > 1

    def total(value: float, unit: str) -> str:
        return f"{quantity(value, unit)} each" + (
            f", {quantity(pu.count * value, unit)} in all" if many else ""
        )

    timed = {
        "roofline": "roofline",
        "table": "measured, from a file",
        "layers": "measured layers, from a folder",
    }
    return [
        ("GPUs", f"{pu.count} x {pu.name}"),
        ("peak", total(pu.peak_flops, "FLOP/s") + " (dense FP16)"),
        ("sustained", total(pu.sustained_flops, "FLOP/s")),
        ("memory bandwidth", total(pu.memory_bandwidth, "B/s")),
        ("memory", total(pu.memory_bytes, "bytes") + f", {pu.stacks} stacks each"),
        ("kernel times", timed.get(pu.kernels, f"as measured on {pu.kernels}, scaled to this card")),
        ("energy", f"{quantity(pu.mac_j, 'J per MAC')}, {quantity(pu.memory_j_per_byte, 'J/B')} read"),
        ("power", f"idle {total(pu.idle_power_w, 'W')}; board {total(pu.board_power_w, 'W')}"),
    ]


def pim_unit(unit: PimUnit) -> Facts:
    """Stacks with FPUs at their banks."""
    stack, tech = unit.stack, unit.stack.technology
    fpus = stack.banks_per_die * unit.fpus_per_bank
    area = stack.banks_per_die * tech.bank_area_mm2 + fpus * tech.fpu_area_mm2
    return [
        ("stacks", f"{unit.stacks} of {tech.name}, {stack.banks} banks each ({stack.banks_per_die} a die)"),
        ("runs", " and ".join(unit.runs)),
        (
            "FPUs",
            f"{unit.fpus_per_bank:g} per bank, {unit.stacks * stack.banks * unit.fpus_per_bank:g} in all",
        ),
        ("peak", quantity(unit.peak_flops, "FLOP/s") + " in all"),
        (
            "bank bandwidth",
            f"{quantity(unit.peak_bandwidth, 'B/s')} in all, a command every {unit.cadence_clocks:g} clocks",
        ),
        (
            "capacity",
            f"{quantity(stack.capacity_bytes, 'bytes')} a stack, {quantity(unit.capacity_bytes, 'bytes')} in all",
        ),
        ("area", f"{area:.4g} of {tech.die_area_mm2:g} mm2 a die (banks and FPUs)"),
        (
            "power",
            f"idle {quantity(unit.idle_power_w, 'W')} a stack, at work {quantity(unit.background_power_w, 'W')} and "
            f"its reads and MACs, at most {quantity(unit.power_budget_w, 'W')}",
        ),
    ]


def link(part: Link) -> Facts:
    """A link, and the one between nodes."""
    lanes = f" x {part.count}" if part.count > 1 else ""
    found = [
        ("link", part.name),
        ("bandwidth", f"{quantity(part.bandwidth, 'B/s')} each way{lanes}"),
        ("latency", f"{quantity(part.latency_s, 'seconds')} one way"),
        ("energy", quantity(part.j_per_byte, "J/B")),
    ]
    if part.max_devices is not None:
        found.append(("devices", f"at most {part.max_devices}"))
    if part.between is not None:
        found.append(("nodes", f"of {part.per_node}, joined by {part.between.name}"))
    return found


def system(machine: System) -> Iterator[tuple[str, Facts]]:
    """The parts of a machine, each under its name in a scenario's file, then the whole."""
    if machine.pu is not None:
        yield "pu", processing_unit(machine.pu)
    for name, unit in (("fc_pim", machine.fc_pim), ("attn_pim", machine.attn_pim)):
        if unit is not None:
            yield f"{name}: {unit.name}", pim_unit(unit)
    for name, part in (("fabric", machine.fabric), ("attention_link", machine.attention_link)):
        if part is not None and (name == "fabric" or machine.attn_pim is not None or machine.pu is None):
            yield name, link(part)
    kv = machine.kv_capacity_bytes
    yield (
        "whole",
        [
            ("FC kernels", f"on {' or '.join(n for n in systems.UNIT_NAMES if machine.can_run(n, 'fc'))}"),
            ("attention", f"on {machine.unit_of('attention')}"),
            ("prefill", f"on {machine.prefill_unit}"),
            ("room for weights", quantity(machine.weight_capacity_bytes, "bytes")),
            ("room for KV caches", "shared with weights" if kv is None else quantity(kv, "bytes")),
            ("static power", quantity(machine.static_power_w, "W") + " (idle, whatever runs)"),
            ("mode switch", quantity(machine.mode_switch_s, "seconds")),
        ],
    )


def sources(machine: System) -> Facts:
    """Where the numbers of a machine's parts come from, as the code beside them says."""
    named = [machine.name]
    named += [part.name for part in (machine.pu, machine.fc_pim, machine.attn_pim) if part is not None]
    named += [u.stack.technology.name for u in (machine.fc_pim, machine.attn_pim) if u is not None]
    named += [part.name for part in (machine.fabric, machine.attention_link) if part is not None]
    return [(name, words) for name in dict.fromkeys(named) if (words := source(name))]


def source(name: str) -> str:
    """The comment beside the definition of a part by its own name; empty where there is none."""
    return next(filter(None, (entry_source(module, name) for module in _DEFINED_IN)), "")
