"""What Locality Injection changes: the kernels of a RepMLPNet and their cost by unit, before and after.

A form is `training`, with the local perceptron's convolutions, or `deploy`, after Locality Injection. Costs are
those of papi_env/Kernels-v0: kernels from the same tables, stages from the function that its engine steps with.
Joules are dynamic; static power times seconds comes on top. Every kernel pays its start, so that the form with fewer
of them gains by that too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from papi_env.errors import ConfigurationError
from papi_env.hardware.system import SYSTEMS, System, get_system
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES
from papi_env.kernel import FloatArray, Kernel, KernelClass
from papi_env.scenario import MAX_IMAGES, Scenario, get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.encode import stage_cost
from papi_env.simulation.batch.stages import SWEPT_IMAGES
from papi_env.simulation.batch.tables import EngineTables, Profile, build_profiled_tables
from papi_env.workload.vision.network import RepMLPNet, get_repmlpnet, macs, parameters, stage_kernels

SCENARIO = "vision-stream"
FORMS: Mapping[str, bool] = {"training": False, "deploy": True}
UNITS = (PU, FC_PIM)
# The units of FC1 and FC2, FC3, and FFN of a stage.
MAPPINGS: tuple[tuple[int, int, int], ...] = tuple(product(UNITS, UNITS, UNITS))
CLASSES: tuple[str, ...] = (*at.STAGE_CLASSES, str(KernelClass.CONVOLUTION))
_CLASS_OF = {KernelClass.REPMLP_FC1: "repmlp_fc1_fc2", KernelClass.REPMLP_FC2: "repmlp_fc1_fc2"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network on a system in both forms, tabulated.

    Attributes:
        net: the network.
        scenarios: a stream of its encodes on the system, by form.
        tables: of the engine, by form.
        profile: the offline profile of its FC kernels, which are the same in both forms.
    """

    net: RepMLPNet
    scenarios: Mapping[str, Scenario]
    tables: Mapping[str, EngineTables]
    profile: Profile

    def kernels(self, form: str, stage: int, images: int) -> dict[str, list[Kernel]]:
        """The kernels of a stage from 0, by class."""
        found: dict[str, list[Kernel]] = {kind: [] for kind in CLASSES}
        for kernel in stage_kernels(self.net, stage, images, reparameterized=FORMS[form]):
            found[_CLASS_OF.get(kernel.kernel_class, str(kernel.kernel_class))].append(kernel)
        return found


def find_system(name: str | None, gpu_bandwidth: str | None = None, bank_rate: str | None = None) -> System:
    """The machine of `vision-stream`, or a registered one by name, under readings of PAPI's ambiguous figures.

    Raises:
        ConfigurationError: an unknown name or reading, or a system on which there is no unit to choose.
    """
    own = get_scenario(SCENARIO).system
    system = own if name in (None, own.name) else get_system(str(name))
    if not all(system.can_run(UNIT_NAMES[unit], "fc") for unit in UNITS):
        able = [
            s.name for s in (own, *SYSTEMS.values()) if all(s.can_run(UNIT_NAMES[u], "fc") for u in UNITS)
        ]
        raise ConfigurationError(
            f"System {system.name!r} runs FC kernels on {system.unit_of('fc')} alone; expected PUs and FC-PIM, "
            f"as of {', '.join(able)}"
        )
    return system.with_readings(gpu_bandwidth, bank_rate)


def tabulate(network: str | RepMLPNet, system: System) -> Network:
    """A network, as `get_repmlpnet` takes it, on a system, in both forms.

    Raises ConfigurationError for an unknown name, or weights that do not fit.
    """
    net = get_repmlpnet(network)
    scenarios, tables, profiles = {}, {}, {}
    for form, merged in FORMS.items():
        scenario = get_scenario(SCENARIO).replace(system=system, network=net, reparameterized=merged)
        tables[form], profiles[form] = build_profiled_tables(scenario, system.mode_switch_s)
        scenarios[form] = scenario
    return Network(net, scenarios, tables, profiles["deploy"])


def network_row(network: Network) -> Row:
    """Learned parameters and multiply-accumulates per image, before and after."""
    net = network.net
    row: Row = {"network": net.name, "image_size": net.image_size}
    for form, merged in FORMS.items():
        row[f"parameters_{form}"] = parameters(net, merged)
        row[f"macs_{form}"] = macs(net, reparameterized=merged)
    return row


def kernel_rows(network: Network, image_counts: Sequence[int]) -> Iterator[Row]:
    """A row for each form, image count, stage and kernel class: all kernels of the class in the stage together.

    Bytes are those of weights, and of inputs and outputs; `rows` and `intensity` (FLOP/B) are a matrix's, none for
    convolutions, of which several kinds come together. Seconds and joules are None on a unit that cannot run them.
    """
    stages = network.profile.stages
    assert stages is not None
    for form, images, stage in product(FORMS, image_counts, range(network.net.stages)):
        for k, (kind, kernels) in enumerate(network.kernels(form, stage, images).items()):
            costs = network.tables[form].stages[stage, k, :, images]
            measured = k < at.NUM_STAGE_CLASSES
            yield {
                "network": network.net.name,
                "form": form,
                "images": images,
                "stage": stage + 1,
                "kernel": kind,
                "kernels": sum(kernel.count for kernel in kernels),
                "weight_bytes": sum(kernel.count * kernel.weight_bytes for kernel in kernels),
                "activation_bytes": sum(kernel.count * kernel.activation_bytes for kernel in kernels),
                "macs": sum(kernel.count * kernel.macs for kernel in kernels),
                "rows": int(stages.rows[stage, k, images]) if measured else None,
                "intensity": float(stages.intensity[stage, k, images]) if measured else None,
                **{
                    f"{_column(unit)}_{quantity}": _finite(costs[unit, i])
                    for i, quantity in ((at.COST_S, "s"), (at.COST_J, "j"))
                    for unit in UNITS
                },
                "least_time": UNIT_NAMES[UNITS[int(np.argmin(costs[list(UNITS), at.COST_S]))]],
                "least_energy": UNIT_NAMES[UNITS[int(np.argmin(costs[list(UNITS), at.COST_J]))]],
            }


def mapping_costs(tables: EngineTables, images: int) -> FloatArray:
    """Seconds and joules of each stage, float64 [stages, unit before (2), MAPPINGS (8), (s, J)].

    Combining, crossings and mode switches are in them; `unit before` ran the FC kernel before the stage.
    """
    stages = tables.stages.shape[0]
    costs = np.empty((stages, len(UNITS), len(MAPPINGS), 2))
    for stage, before, (m, mapping) in product(range(stages), UNITS, enumerate(MAPPINGS)):
        costs[stage, before, m] = stage_cost(
            stage, images, before, *mapping, tables.stages, tables.stage_moves, tables.blocks, tables.scalars
        )[:2]
    return costs


def steady_plan(seconds: FloatArray) -> tuple[int, ...]:
    """The mapping of each stage with which encodes that follow each other take the least time.

    Args:
        seconds: [stages, unit before, MAPPINGS]; a stage begins on the unit where the FFN before it ran, the
            first one on that of the last stage.

    Returns:
        An index into MAPPINGS for each stage. A dynamic programme over that unit finds it.
    """
    best: tuple[float, tuple[int, ...]] = (math.inf, ())
    for entered in UNITS:
        reached: dict[int, tuple[float, tuple[int, ...]]] = {entered: (0.0, ())}
        for stage in seconds:
            onward: dict[int, tuple[float, tuple[int, ...]]] = {}
            for before, (spent, plan) in reached.items():
                for m, (_, _, ffn) in enumerate(MAPPINGS):
                    way = (spent + float(stage[before, m]), (*plan, m))
                    onward[ffn] = min(onward.get(ffn, way), way)
            reached = onward
        best = min(best, reached[entered])
    return best[1]


def stage_rows(network: Network, image_counts: Sequence[int]) -> Iterator[Row]:
    """A row for each form, image count and stage, then one for the whole encode, whose `stage` is "all".

    Seconds and joules are those of a stream of such encodes with every FC kernel on the PUs, with every one on
    FC-PIM (embeddings and local perceptron stay on the PUs), and by the best plan; of deploy form also the
    gains, training form's over its own.
    """
    for images in image_counts:
        before: list[Row] = []
        for form in FORMS:
            rows = list(_form_rows(network, form, images))
            for row, other in zip(rows, before or rows, strict=True):
                for way, quantity in product(("pu", "fc_pim", "best"), ("s", "j")):
                    name = f"{way}_{quantity}"
                    row[f"{name}_gain"] = other[name] / row[name] if before else None
                yield row
            before = rows


def _form_rows(network: Network, form: str, images: int) -> Iterator[Row]:
    costs = mapping_costs(network.tables[form], images)
    plan = steady_plan(costs[..., at.COST_S])
    # Which unit a stage begins on: that of the FFN before it, in a stream the last stage's before the first.
    befores = [MAPPINGS[plan[stage - 1]][2] for stage in range(len(plan))]
    ways = {
        "pu": costs[:, PU, MAPPINGS.index((PU, PU, PU))],
        "fc_pim": costs[:, FC_PIM, MAPPINGS.index((FC_PIM, FC_PIM, FC_PIM))],
        "best": costs[np.arange(len(plan)), befores, list(plan)],
    }
    stages = [
        [kernel for kernels in network.kernels(form, stage, images).values() for kernel in kernels]
        for stage in range(network.net.stages)
    ]
    for stage in (*range(len(stages)), "all"):
        at_stage = slice(None) if isinstance(stage, str) else slice(stage, stage + 1)
        kernels = [kernel for some in stages[at_stage] for kernel in some]
        row: Row = {
            "network": network.net.name,
            "form": form,
            "images": images,
            "stage": stage if isinstance(stage, str) else str(stage + 1),
            "kernels": sum(kernel.count for kernel in kernels),
            "weight_bytes": sum(kernel.count * kernel.weight_bytes for kernel in kernels),
            "activation_bytes": sum(kernel.count * kernel.activation_bytes for kernel in kernels),
            "macs": sum(kernel.count * kernel.macs for kernel in kernels),
        }
        for way, values in ways.items():
            row[f"{way}_s"] = float(values[at_stage, at.COST_S].sum())
            row[f"{way}_j"] = float(values[at_stage, at.COST_J].sum())
        units = [MAPPINGS[m] for m in plan[at_stage]]
        row["best_units"] = " | ".join(" ".join(UNIT_NAMES[unit] for unit in mapping) for mapping in units)
        yield row


def rule_row(network: Network) -> Row:
    """The two thresholds, and how far each leaves its own offline sweep behind each kernel's faster unit.

    The sweep is that of `stages.profile_stages`: every kernel class of every stage by itself, for 1 to 64 images.
    By measure, `rows` or `intensity`:

    - `alpha`: the threshold; `kernels_on_fc_pim` are faster there, of `kernels`;
    - `excess_percent`: time above the faster units over the sweep, and `excess_percent_1_image` for single images;
    - `inverted_percent`: of the pairs of a kernel that is faster on FC-PIM and one that is not, those in which the
      former measures more than the latter, so that no threshold gets both right; None without pairs.
    """
    stages = network.profile.stages
    assert stages is not None
    swept = slice(1, SWEPT_IMAGES + 1)
    costs = network.tables["deploy"].stages[:, : at.NUM_STAGE_CLASSES, :, swept, at.COST_S]
    pu, pim = costs[:, :, PU], costs[:, :, FC_PIM]
    best, near = np.minimum(pu, pim), pim < pu
    row: Row = {
        "network": network.net.name,
        "kernels": near.size,
        "kernels_on_fc_pim": int(near.sum()),
    }
    for name, measure, alpha in (
        ("rows", stages.rows[..., swept], stages.alpha),
        ("intensity", stages.intensity[..., swept], stages.alpha_intensity),
    ):
        above = np.where(measure > alpha, pu, pim) - best
        inverted = measure[near][:, None] > measure[~near][None, :]
        row |= {
            f"alpha_{name}": alpha,
            f"excess_percent_{name}": float(100 * above.sum() / best.sum()),
            f"excess_percent_1_image_{name}": float(100 * above[..., 0].sum() / best[..., 0].sum()),
            f"inverted_percent_{name}": float(100 * inverted.mean()) if inverted.size else None,
        }
    return row


def check_image_counts(image_counts: Sequence[int]) -> None:
    """Raise ConfigurationError for counts that no encode has, or none at all."""
    if not image_counts or len(set(image_counts)) < len(image_counts):
        raise ConfigurationError(f"--images is {tuple(image_counts)}, expected different numbers of images")
    for count in image_counts:
        if not 1 <= count <= MAX_IMAGES:
            raise ConfigurationError(f"--images names {count}, expected 1 to {MAX_IMAGES}")


def _column(unit: int) -> str:
    return UNIT_NAMES[unit].replace("-", "_")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def output_difference(network: str | RepMLPNet, dtype: str, images: int, seed: int) -> dict[str, list[Any]]:
    """How far a network's output moves when it is merged: a column for each field of a table of one row.

    Fresh weights, statistics as after training (`randomize_statistics`) and normal images, all drawn from `seed`.
    The largest difference of a logit is relative to the largest logit. Needs torch.

    Args:
        network: a registered name, or a network of one's own.
        dtype: "float32" or "float64", of the network before and after; the merge itself is done in float64.
        images: in the batch, of the network's own size.
        seed: of all draws.
    """
    import torch

    from papi_env.workload.vision.injection import randomize_statistics, relative_difference
    from papi_env.workload.vision.repmlp import create_repmlpnet, locality_injected

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = create_repmlpnet(network)
        size = (images, before.spec.image_channels, before.spec.image_size, before.spec.image_size)
        batch = torch.randn(size)
    kind = getattr(torch, dtype)
    before = randomize_statistics(before, seed).to(kind).eval()
    difference = relative_difference(before, locality_injected(before), batch.to(kind))
    return {"network": [before.spec.name], "dtype": [dtype], "relative_difference": [difference]}
