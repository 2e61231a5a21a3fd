"""Everything the compiled engine looks up, computed once per scenario from the hardware's functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.hardware import dram
from papi_env.hardware.table import DENSE_ROWS, CostTable
from papi_env.hardware.threshold import least_time_threshold
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.decode_tables import (
    attention_causes,
    attention_link_table,
    attention_tables,
    attention_with_room,
    decades,
    group_columns,
    moves_table,
    rate_descriptors,
)
from papi_env.simulation.batch.encode import stage_cost
from papi_env.simulation.batch.expert_tables import ExpertProfile, expert_parts, options_of
from papi_env.simulation.batch.iteration import Ahead, Attended, Units, iteration_cost
from papi_env.simulation.batch.lookups import ExpertLookups, join_lookups
from papi_env.simulation.batch.stages import (
    StageProfile,
    convolution_unit,
    decode_intensity,
    profile_stages,
    stage_costs,
    stage_descriptors,
    stage_features,
    stage_moves,
)
from papi_env.workload.transformer import FC_CLASSES


class EngineTables(NamedTuple):
    """The look-ups of one scenario; shapes as given, seconds and joules unless said otherwise.

    Attributes:
        fc: [3 FC classes, units, n = 0..1024, (s, J, joules by cause)], all layers together; (s, J) where causes are
            not kept. Causes as in `energy.CAUSES`.
        attention: [units, RLP = 0..128, TLP = 0..8, coefficients], all layers together; see `state`.
        attention_causes: [units, RLP, TLP, causes], their joules by cause; see `decode_tables.attention_causes`.
        shares: [units, RLP, TLP, NUM_SHARES], what the busiest channel has of the contexts; see `state`.
        attention_link: [units, n, (s, J)], moving queries, keys, values and outputs in an iteration.
        moves: [n, (combining outputs s, J, one crossing between PUs and FC-PIM s, J)].
        schedule: int64 [k, (from iteration, TLP)].
        population: int32 [requests, (input, output)] tokens.
        allowed: bool [7 classes, units]; defaults: int64 [7 classes], the unit that replaces an invalid choice.
        scalars: see `layout`; descriptors: float32, the constant part of an observation.
        stages: [stages, 4 classes, units, images = 0..128, (s, J, joules by cause)], see `stages.stage_costs`; (s, J)
            where causes are not kept. No stages without images, nor in what follows.
        stage_moves: [stages, images, columns], see `stages.stage_moves`.
        stage_features: [stages, images, 6], observed rows and intensities.
        blocks: int64 [stages], units of the network.
        batches: int64 [k], image counts that an encode draws from.
        stage_descriptors: float32, the constant features of images.
        experts: [options, n, routings, columns], what the experts of all layers cost, see `expert_tables`; None where
            the model has none. Then `allowed` and `defaults` have a row more, of EXPERT_OPTIONS.
        expert_features: [n, NUM_EXPERT_SHAPE], observed; no rows without experts.
        expert_descriptors: float32, the constant features of experts.
    """

    fc: FloatArray
    attention: FloatArray
    attention_causes: FloatArray
    shares: FloatArray
    attention_link: FloatArray
    moves: FloatArray
    schedule: npt.NDArray[np.int64]
    population: npt.NDArray[np.int32]
    allowed: npt.NDArray[np.bool_]
    defaults: npt.NDArray[np.int64]
    scalars: FloatArray
    descriptors: npt.NDArray[np.float32]
    stages: FloatArray
    stage_moves: FloatArray
    stage_features: FloatArray
    blocks: npt.NDArray[np.int64]
    batches: npt.NDArray[np.int64]
    stage_descriptors: npt.NDArray[np.float32]
    experts: FloatArray | None = None
    expert_features: FloatArray = np.zeros((0, at.NUM_EXPERT_SHAPE))
    expert_descriptors: npt.NDArray[np.float32] = np.zeros(0, dtype=np.float32)

    @property
    def keeps_causes(self) -> bool:
        """Whether joules by cause are tabulated."""
        return self.fc.shape[-1] == at.NUM_COSTS


@dataclass(frozen=True)
class Profile:
    """What an offline sweep of the system gives a scheduler: thresholds, and the kernels' descriptions.

    Attributes:
        alpha: PAPI's threshold on n = RLP x TLP; for image streams, on rows.
        alpha_intensity: the same for arithmetic intensity, FLOP/B.
        intensity: of all FC kernels of an iteration, FLOP/B by n = 0..1024; None without a model.
        stages: the same of the network that encodes images; None without images.
        experts: what the sweep gives of experts; None without any.
    """

    alpha: float
    alpha_intensity: float
    intensity: FloatArray | None
    stages: StageProfile | None
    experts: ExpertProfile | None = None


def build_tables(scenario: Scenario, default_switch_s: float) -> EngineTables:
    """Tabulate a scenario; `default_switch_s` applies where the scenario says nothing about switching.

    Raises:
        ConfigurationError: the weights or the KV caches do not fit the system.
    """
    return build_profiled_tables(scenario, default_switch_s)[0]


# An overflow is no news here: the tables are checked as a whole.
@np.errstate(over="ignore", invalid="ignore")
def build_profiled_tables(scenario: Scenario, default_switch_s: float) -> tuple[EngineTables, Profile]:
    """`build_tables`, and the offline profile of what the scenario runs."""
    scenario.check()
    system = scenario.system
    kinds = ["attention" if kind == "attention" else "fc" for kind in at.CHOICE_CLASSES]
    allowed = np.array([[system.can_run(name, kind) for name in UNIT_NAMES] for kind in kinds])  # type: ignore[arg-type]
    defaults = np.array([UNIT_NAMES.index(system.unit_of(kind)) for kind in kinds])  # type: ignore[arg-type]

    scalars = np.zeros(at.NUM_SCALARS)
    scalars[at.ENERGY_WEIGHT] = scenario.energy_weight
    scalars[at.STATIC_W] = system.static_power_w
    scalars[at.SWITCH_S] = default_switch_s if scenario.switch_s is None else scenario.switch_s
    scalars[at.REFERENCE] = 1.0
    experts = expert_parts(scenario, scalars)
    if experts is not None:
        allowed = np.vstack([allowed, options_of(system)])
        defaults = np.append(defaults, int(defaults[at.QKV]))
    decoding = _decoding_tables(scenario, scalars)
    encoding, stage_profile = _encoding_tables(scenario, scalars)
    tables = EngineTables(
        **decoding,
        **encoding,
        allowed=allowed,
        defaults=defaults.astype(np.int64),
        scalars=scalars,
        descriptors=np.zeros(len(at.DESCRIPTOR_NAMES), dtype=np.float32),
        **({} if experts is None else experts.tables),
    )
    profile = _profile(scenario, tables, stage_profile, None if experts is None else experts.profile)
    scalars[at.ALPHA] = profile.alpha
    if scenario.model is None:
        scalars[at.REFERENCE] = _stage_reference(tables)
    else:
        mean_input = float(tables.population[:, 0].mean()) + scenario.image_tokens
        scalars[at.REFERENCE] = _reference(tables, mean_input)
    _check_finite(tables, system.name)
    tables.descriptors[:] = _descriptors(scenario, scalars)
    for array in tables:
        if array is not None:
            array.flags.writeable = False
    return tables, profile


def _decoding_tables(scenario: Scenario, scalars: FloatArray) -> dict[str, npt.NDArray[Any]]:
    """The tables of iterations, and their scalars; nothing in them where the scenario decodes no text."""
    system, model, workload = scenario.system, scenario.model, scenario.workload
    if model is None or workload is None:
        scalars[at.CONTEXT_LIMIT] = 1  # what features of requests, all zero, are divided by
        return {
            "fc": np.zeros((len(FC_CLASSES), at.NUM_UNITS, 1, at.NUM_COSTS)),
            "attention": np.zeros((at.NUM_UNITS, 1, 1, at.NUM_ATTENTION)),
            "attention_causes": np.zeros((at.NUM_UNITS, 1, 1, at.NUM_CAUSES)),
            "shares": np.zeros((at.NUM_UNITS, 1, 1, at.NUM_SHARES)),
            "attention_link": np.zeros((at.NUM_UNITS, 1, 2)),
            "moves": np.zeros((1, 4)),
            "schedule": np.zeros((1, 2), dtype=np.int64),
            "population": np.zeros((0, 2), dtype=np.int32),
        }
    costs_of_fc = CostTable(system, model.decode_kernels())
    fc = np.zeros((len(FC_CLASSES), at.NUM_UNITS, DENSE_ROWS + 1, at.NUM_COSTS))
    for i, kernel in enumerate(costs_of_fc.kernels):
        row = FC_CLASSES.index(kernel.kernel_class)
        fc[row, :, :, at.COST_S] += costs_of_fc.seconds[i]
        fc[row, :, :, at.COST_J] += costs_of_fc.joules[i]
        for unit in range(at.NUM_UNITS):
            fc[row, unit, :, at.COST_CAUSES :] += costs_of_fc.joules_by_cause(
                i, unit, np.arange(DENSE_ROWS + 1)
            )
    scalars[at.LAYERS] = model.layers
    scalars[at.CONTEXT_LIMIT] = model.context_limit
    scalars[at.BATCH] = workload.batch_size
    scalars[at.ACCEPTANCE] = workload.acceptance_rate * 2.0**53
    scalars[at.GROUP_COLUMNS] = group_columns(system, model)
    scalars[at.OVERHEAD_S] = model.layers * system.layer_overhead_s
    if model.windows is not None:
        scalars[at.WINDOW] = model.windows.tokens
        scalars[at.WINDOW_SHARE] = model.windowed_layers / model.layers
    attending = attention_with_room(scenario)
    attention, shares = attention_tables(system, model, kernel=attending)
    return {
        "fc": fc,
        "attention": attention,
        "attention_causes": attention_causes(system, model, kernel=attending),
        "shares": shares,
        "attention_link": attention_link_table(system, model),
        "moves": moves_table(system, model),
        "schedule": np.array([(0, workload.speculation), *workload.speculation_schedule], dtype=np.int64),
        "population": np.ascontiguousarray(scenario.population().lengths, dtype=np.int32),
    }


def _encoding_tables(
    scenario: Scenario, scalars: FloatArray
) -> tuple[dict[str, npt.NDArray[Any]], StageProfile | None]:
    """The tables of encodes, their scalars and their profile; no stages where the scenario has no images."""
    system, images = scenario.system, scenario.images
    scalars[at.ENCODES] = 1
    scalars[at.IMAGE_TOKENS] = scenario.image_tokens
    tables: dict[str, npt.NDArray[Any]] = {
        "stages": np.zeros((0, at.NUM_STAGE_CLASSES + 1, at.NUM_UNITS, 1, at.NUM_COSTS)),
        "stage_moves": np.zeros((0, 1, at.NUM_STAGE_MOVES)),
        "stage_features": np.zeros((0, 1, 2 * at.NUM_STAGE_CLASSES)),
        "blocks": np.zeros(0, dtype=np.int64),
        "batches": np.zeros(0, dtype=np.int64),
        "stage_descriptors": np.array(stage_descriptors(scenario), dtype=np.float32),
    }
    if images is None:
        return tables, None
    scalars[at.CONVOLUTION_UNIT] = UNIT_NAMES.index(convolution_unit(system))
    scalars[at.MERGED] = images.reparameterized
    sizes = images.batch_sizes
    if scenario.workload is not None and images.per_request is not None:
        sizes = (scenario.workload.batch_size * images.per_request,)
    else:
        scalars[at.ENCODES] = images.encodes or 1
    costs_of_stages = stage_costs(system, images)
    profile = profile_stages(images, costs_of_stages, system)
    tables |= {
        "stages": costs_of_stages,
        "stage_moves": stage_moves(system, images),
        "stage_features": stage_features(profile),
        "blocks": np.array(images.network.blocks, dtype=np.int64),
        "batches": np.array(sizes, dtype=np.int64),
    }
    return tables, profile


def _profile(
    scenario: Scenario, tables: EngineTables, stages: StageProfile | None, experts: ExpertProfile | None
) -> Profile:
    """Thresholds of the decoded model, or of the network where nothing is decoded."""
    system, model = scenario.system, scenario.model
    if model is None:
        assert stages is not None
        return Profile(stages.alpha, stages.alpha_intensity, None, stages)
    n = np.arange(1, DENSE_ROWS + 1)
    intensity = decode_intensity(model, n)
    pu, pim = (tables.fc[:, unit, 1:, at.COST_S].sum(axis=0) for unit in (PU, FC_PIM))
    beside = None if experts is None else experts.seconds
    alpha = CostTable(system, model.decode_kernels()).calibrate_alpha(beside)
    if beside is not None:
        pu, pim = pu + beside[PU, 1:], pim + beside[FC_PIM, 1:]
    alpha_intensity = least_time_threshold(system, intensity, pu, pim)
    return Profile(alpha, alpha_intensity, np.concatenate([[0.0], intensity]), stages, experts)


def _check_finite(tables: EngineTables, system: str) -> None:
    """Refuse figures so extreme that a cost of a usable unit is no finite number."""
    usable = [tables.fc[:, unit] for unit in np.flatnonzero(tables.allowed[at.QKV])]
    usable += [tables.attention[unit, 1:, 1:] for unit in np.flatnonzero(tables.allowed[at.ATTENTION])]
    usable += [
        tables.stages[:, : at.NUM_STAGE_CLASSES, u] for u in np.flatnonzero(tables.allowed[at.REPMLP_FC3])
    ]
    usable += [tables.stages[:, at.NUM_STAGE_CLASSES, int(tables.scalars[at.CONVOLUTION_UNIT])]]
    if tables.experts is not None:
        usable += [tables.experts[option] for option in np.flatnonzero(tables.allowed[at.EXPERTS])]
    usable += [tables.stage_moves, tables.attention_link, tables.moves, tables.scalars[: at.ALPHA]]
    if not all(np.isfinite(part).all() for part in usable) or not tables.scalars[at.REFERENCE] > 0:
        raise ConfigurationError(
            f"System {system!r}: figures so extreme that a cost is not a finite number of seconds"
        )


def _reference(tables: EngineTables, mean_input: float) -> float:
    """What one iteration of the full batch at the mean input costs on the default units: time + weight x energy."""
    rlp = int(tables.scalars[at.BATCH])
    tlp = int(tables.schedule[0, 1])

    def attended(tokens: float) -> Attended:
        groups = int(np.ceil(tokens / dram.GROUP_TOKENS))
        key_rows = int(np.ceil(groups * tables.scalars[at.GROUP_COLUMNS] / dram.COLUMNS_PER_ROW))
        return Attended(rlp * round(tokens), rlp * groups, groups, rlp * key_rows, key_rows)

    near = min(mean_input + tlp, float(tables.scalars[at.WINDOW]) + tlp - 1)
    ahead = Ahead(rlp, tlp, attended(mean_input + tlp), attended(near), last_fc=-1)
    qkv, attention, projection, feed_forward = (int(unit) for unit in tables.defaults[: at.NUM_CLASSES])
    units = Units(qkv, attention, projection, feed_forward, -1 if tables.experts is None else qkv)
    experts = ExpertLookups.of(tables)
    cost = iteration_cost(
        ahead, units, join_lookups(tables), tables.scalars, None if experts is None else experts[:], 0
    )
    return _charged(tables, float(cost.seconds), float(cost.joules))


def _stage_reference(tables: EngineTables) -> float:
    """What a stage of an encode of the mean image count costs on the default units, averaged over stages."""
    images = max(round(float(tables.batches.mean())), 1)
    global_unit, fc3, ffn = (int(unit) for unit in tables.defaults[at.NUM_CLASSES :])
    last, costs = -1, []
    for stage in range(len(tables.blocks)):
        cost = stage_cost(
            stage,
            images,
            last,
            global_unit,
            fc3,
            ffn,
            tables.stages,
            tables.stage_moves,
            tables.blocks,
            tables.scalars,
        )
        costs.append(_charged(tables, float(cost[0]), float(cost[1])))
        last = ffn
    return float(np.mean(costs))


def _charged(tables: EngineTables, seconds: float, dynamic_j: float) -> float:
    """Seconds, plus weighted joules with static power."""
    total_j = dynamic_j + seconds * float(tables.scalars[at.STATIC_W])
    return seconds + float(tables.scalars[at.ENERGY_WEIGHT]) * total_j


def _descriptors(scenario: Scenario, scalars: FloatArray) -> list[float]:
    """The constant features, in the order of `state.DESCRIPTOR_FEATURES`."""
    system, model = scenario.system, scenario.model

    def squash(value: float) -> float:
        return value / (1 + value)

    shape = (0.0, 0.0, 0.0)
    if model is not None:
        shape = (decades(model.weight_bytes), decades(model.kv_bytes_per_token), model.layers / 1000)
    return [
        *rate_descriptors(system),
        squash(scalars[at.SWITCH_S] / scalars[at.REFERENCE]),
        *shape,
        squash(scenario.energy_weight * system.static_power_w),
    ]
