"""A scenario: a system, what it runs, and an objective, validated where it enters.

What runs: a model that decodes a workload, an encoder of images, or both. Presets by name, files in TOML, or
dictionaries; a system, model or network inside a scenario is a registered name, or a table that starts from
one (`base = "papi"`) and overrides fields, or a whole definition. A model may also start from a hub's description
(`hf = "qwen3/config.json"`, see `Transformer.from_hf`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, lookup, unknown_name
from papi_env.files import read_toml
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import SYSTEMS, System, get_system
from papi_env.hardware.table import DENSE_ROWS
from papi_env.hardware.units import kept_of_stacks
from papi_env.quantities import Count, EnergyWeight, OverheadSeconds, Share, Tokens, Whole
from papi_env.registry import resolve
from papi_env.workload.images import MAX_IMAGES, Images
from papi_env.workload.lengths import ContextPolicy, RequestPopulation
from papi_env.workload.presets import serving_presets
from papi_env.workload.requests import Lengths
from papi_env.workload.servers import SERVERS
from papi_env.workload.service_presets import FAMILIES as CLASS_FAMILIES
from papi_env.workload.service_presets import MODELS as CLASS_MODELS
from papi_env.workload.service_presets import TRAFFIC as CLASS_TRAFFIC
from papi_env.workload.service_presets import service_presets
from papi_env.workload.serving import Serving
from papi_env.workload.transformer import PRESET_MODELS, TRANSFORMERS, Transformer, get_transformer
from papi_env.workload.vision.network import RepMLPNet, get_repmlpnet, names_a_file
from papi_env.workload.vision.presets import IMAGE_PRESETS

MAX_BATCH = 128
MAX_SPECULATION = 8
assert MAX_BATCH * MAX_SPECULATION == DENSE_ROWS


class Workload(Definition):
    """A static batch and how it is decoded.

    `speculation` is the number of tokens verified per request and iteration (TLP); 1 decodes one
    token at a time. `speculation_schedule` changes it while the batch runs, as (from iteration,
    length) pairs: PAPI's TLP register. `acceptance_rate` is the chance that a drafted token is
    accepted, given that all before it were; 1 counts every verified token, the default because the
    paper does not say what it assumes. `beyond_context` says what becomes of requests longer than the
    model's context: refused (left out of the population), their output truncated, or kept as an
    extrapolation; `population()` counts them.
    """

    lengths: Lengths
    batch_size: Count = Field(64, ge=1, le=MAX_BATCH)
    speculation: Tokens = Field(2, ge=1, le=MAX_SPECULATION)
    speculation_schedule: tuple[tuple[Whole, Whole], ...] = ()
    acceptance_rate: Share = Field(1.0, ge=0, le=1)
    beyond_context: ContextPolicy = "refuse"

    @field_validator("speculation_schedule")
    @classmethod
    def _ordered(cls, schedule: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        starts = [start for start, _ in schedule]
        if any(not 1 <= start < 2**31 for start in starts) or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"iterations {starts} must be >= 1, below 2^31, and increase")
        for _, length in schedule:
            if not 1 <= length <= MAX_SPECULATION:
                raise ValueError(f"speculation length {length} is outside 1..{MAX_SPECULATION}")
        return schedule


class AnyReplacements(TypedDict, total=False):
    """The parts of any scenario that may be replaced; what is None stays."""

    system: str | System | None
    model: str | Transformer | None
    energy_weight: float | None
    switch_s: float | None


class BatchReplacements(AnyReplacements, total=False):
    """And those of static batches and of images that arguments of environments replace."""

    batch_size: int | None
    speculation: int | None
    acceptance_rate: float | None
    network: str | RepMLPNet | None
    reparameterized: bool | None


class ServingReplacements(AnyReplacements, total=False):
    """And that of serving: a table of fields of `Serving`."""

    serving: Mapping[str, Any] | None


class Replacements(BatchReplacements, ServingReplacements, total=False):
    """All that `Scenario.replace` takes."""

    lengths: Lengths | None
    beyond_context: ContextPolicy | None


class Scenario(Definition):
    """What an environment simulates; see the module docstring for how one is written.

    `model` with `workload` decodes static batches, `images` encodes images; at least one of the two is there.
    Or `model` with `serving`, and neither of the two, serves requests as they arrive.
    """

    name: str
    description: str = ""
    system: System
    model: Transformer | None = None
    workload: Workload | None = None
    images: Images | None = None
    serving: Serving | None = None
    energy_weight: EnergyWeight = Field(
        0.0, ge=0, le=1e6, description="in the reward: seconds per joule; in serving, tokens per joule"
    )
    # Seconds of a mode switch; 0 is free switching (nothing is charged, PAPI's assumption). Absent: the
    # problem's default, free in Decode-v0 and the system's `mode_switch_s` in Kernels-v0.
    switch_s: OverheadSeconds | None = Field(None, ge=0, le=1)
    # How the experts of the model lie in the stacks; absent: slices of all in every bank.
    experts: ExpertPlacement | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Stored scenarios are older than the field.
        data: dict[str, Any] = write(self)
        if data.get("experts", ...) is None:
            del data["experts"]
        return data

    @field_validator("system", mode="before")
    @classmethod
    def _system(cls, value: Any) -> Any:
        return resolve(value, SYSTEMS, "system", kept=kept_of_stacks)

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        return resolve(value, TRANSFORMERS, "model", {"hf": Transformer.from_hf})

    @model_validator(mode="after")
    def _experts_to_place(self) -> Scenario:
        if self.experts is not None and (self.model is None or self.model.experts is None):
            name = "none" if self.model is None else repr(self.model.name)
            raise ValueError(f"experts: placed, but model {name} has no experts: expected none")
        return self

    @model_validator(mode="after")
    def _something_to_run(self) -> Scenario:
        if self.serving is not None:
            for name, value, there in (
                ("model", self.model, True),
                ("workload", self.workload, False),
                ("images", self.images, False),
            ):
                if (value is not None) != there:
                    raise ValueError(f"{name}: {'required' if there else 'not used'} with serving")
            assert self.model is not None
            if self.model.experts is not None and self.model.experts.draws != "expectation":
                raise ValueError(
                    f"model: experts.draws of {self.model.name} is {self.model.experts.draws!r}, which static batches "
                    "alone have; expected 'expectation' with serving"
                )
            if self.experts is not None and self.experts != ExpertPlacement():
                raise ValueError(
                    "experts: placed otherwise than in slices of all in every bank, which static batches alone have; "
                    "expected no experts part with serving (dual_row_buffers are a field of serving)"
                )
            return self
        if self.images is None or self.model is not None or self.workload is not None:
            for name, value, other in (
                ("model", self.model, "workload"),
                ("workload", self.workload, "model"),
            ):
                if value is None:
                    raise ValueError(
                        f"{name}: required to decode, together with a {other} (images alone do without both)"
                    )
        if self.images is None:
            return self
        images, workload = self.images, self.workload
        if (workload is None) == (images.per_request is not None):
            kind = "a stream: batch_sizes and encodes" if workload is None else "images per_request"
            raise ValueError(f"images: with{'out' * (workload is None)} a workload, expected {kind}")
        if workload is not None and workload.batch_size * (images.per_request or 0) > MAX_IMAGES:
            raise ValueError(
                f"images: {workload.batch_size} requests with {images.per_request} images each are more than "
                f"the {MAX_IMAGES} of one encode"
            )
        if self.system.pu is None and not images.reparameterized:
            raise ValueError(
                f"images: system {self.system.name!r} has no PUs, which alone run the overlapping convolutions "
                "of the training form; expected reparameterized = true"
            )
        return self

    def decoding(self) -> tuple[Transformer, Workload]:
        """The model and the workload; ConfigurationError where the scenario decodes nothing."""
        if self.model is None or self.workload is None:
            raise ConfigurationError(
                f"Scenario {self.name!r} decodes no text: it has no model and no workload"
            )
        return self.model, self.workload

    def replace(self, **replacements: Unpack[Replacements]) -> Scenario:
        """The scenario with some parts replaced (see `Replacements`); what is None stays. Validated like any other.

        Raises ConfigurationError also where the scenario lacks what a part belongs to, and for unknown parts.
        """
        for name in replacements:
            if name not in Replacements.__annotations__:
                raise unknown_name("part of a scenario", name, Replacements.__annotations__)
        system, model = replacements.get("system"), replacements.get("model")
        network, reparameterized = replacements.get("network"), replacements.get("reparameterized")
        lengths, serving = replacements.get("lengths"), replacements.get("serving")
        for field, value, kinds in (
            ("system", system, (str, System)),
            ("model", model, (str, Transformer)),
            ("network", network, (str, RepMLPNet)),
            ("lengths", lengths, (Lengths,)),
            ("serving", serving, (Mapping,)),
        ):
            if value is not None and not isinstance(value, kinds):
                names = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigurationError(f"{field} is {value!r}, expected {names}")
        data = self.model_dump()
        if system is not None:
            data["system"] = (get_system(system) if isinstance(system, str) else system).model_dump()
        workload = {
            "lengths": None if lengths is None else lengths.model_dump(),
            **{
                name: replacements.get(name)
                for name in ("batch_size", "speculation", "acceptance_rate", "beyond_context")
            },
        }
        workload = {key: value for key, value in workload.items() if value is not None}
        if workload or model is not None:
            if workload or self.serving is None:
                self.decoding()
            if model is not None:
                data["model"] = (get_transformer(model) if isinstance(model, str) else model).model_dump()
            if replacements.get("speculation") is not None:
                data["workload"]["speculation_schedule"] = ()
            if workload:
                data["workload"].update(workload)
        if network is not None or reparameterized is not None:
            if self.images is None:
                raise ConfigurationError(f"Scenario {self.name!r} has no images, so no network to replace")
            if network is not None:
                network = get_repmlpnet(network) if isinstance(network, str) else network
                data["images"]["network"] = network.model_dump()
            if reparameterized is not None:
                data["images"]["reparameterized"] = reparameterized
        if serving is not None:
            if self.serving is None:
                raise ConfigurationError(
                    f"Scenario {self.name!r} serves no requests: no serving part to replace"
                )
            # An end of the episode takes the place of the other.
            if serving.get("requests") is not None:
                data["serving"]["horizon_s"] = None
            elif serving.get("horizon_s") is not None:
                data["serving"]["requests"] = None
            data["serving"].update(serving)
        whole = {"energy_weight": replacements.get("energy_weight"), "switch_s": replacements.get("switch_s")}
        data.update({key: value for key, value in whole.items() if value is not None})
        return parse_scenario(data, f"scenario {self.name!r}")

    def population(self) -> RequestPopulation:
        """The requests that instances are drawn from, those beyond the model's context treated as asked.

        Lengths are those of the text; positions of images take their part of the context.
        """
        model, workload = self.decoding()
        limit = model.context_limit - self.image_tokens
        if limit < 2:
            raise ConfigurationError(
                f"Scenario {self.name!r}: the images of a request take {self.image_tokens} positions, but "
                f"{model.name} has a context of {model.context_limit} tokens"
            )
        return workload.lengths.population(limit, workload.beyond_context)

    @property
    def image_tokens(self) -> int:
        """Positions that images add to every prompt."""
        return 0 if self.images is None else self.images.tokens_per_request

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of all models."""
        images = 0 if self.images is None else self.images.weight_bytes
        return images + (0 if self.model is None else self.model.weight_bytes)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV caches of the longest batch that can be drawn; 0 where none is decoded.

        They are those of its longest request (input with its images, all of its output, and the drafted tokens being
        verified) times the batch size.
        """
        if self.model is None or self.workload is None:
            return 0
        tlp = max([self.workload.speculation, *(length for _, length in self.workload.speculation_schedule)])
        longest = self.population().max_total + self.image_tokens + tlp - 1
        return self.workload.batch_size * self.model.kv_bytes(longest)

    def check(self) -> Scenario:
        """Refuse a scenario that the system cannot hold, with the sizes. Returns itself.

        Every batch that can be drawn fits (`kv_bytes`), beside the weights of all models. Of a scenario that serves,
        the weights alone are looked at.
        """
        self.system.check_capacity(self.weight_bytes, self.kv_bytes)
        return self


def parse_scenario(data: Mapping[str, Any], where: str) -> Scenario:
    """A scenario from plain data; `where` names its origin in an error."""
    return Scenario.define(data, where)


def load_scenario(path: str | Path) -> Scenario:
    """A scenario from a TOML file. Relative paths of traces, networks and a model's `hf` are taken from its folder."""
    path = Path(path)
    data = read_toml(path)
    data.setdefault("name", path.stem)
    for part, source in (("workload", "lengths"), ("serving", "lengths"), ("serving", "arrivals")):
        table = data.get(part)
        _from_folder(table.get(source) if isinstance(table, dict) else None, "trace", path.parent)
    for lengths in _lengths_of_classes(data.get("serving")):
        _from_folder(lengths, "trace", path.parent)
    _from_folder(data.get("model"), "hf", path.parent)
    images = data.get("images")
    if isinstance(images, dict) and names_a_file(images.get("network")):
        images["network"] = str(path.parent / images["network"])
    return parse_scenario(data, str(path))


def _lengths_of_classes(serving: Any) -> Iterator[Any]:
    """The tables of lengths of a serving part's classes and their conversations, whatever else they hold."""
    classes: Any = serving
    for part in ("service", "classes"):
        classes = classes.get(part) if isinstance(classes, dict) else None
    for entry in classes.values() if isinstance(classes, dict) else ():
        if isinstance(entry, dict):
            talk = entry.get("conversation")
            yield entry.get("lengths")
            yield talk.get("lengths") if isinstance(talk, dict) else None


def _from_folder(table: Any, name: str, folder: Path) -> None:
    """Make a path in a table one from the folder of its file."""
    if isinstance(table, dict) and isinstance(table.get(name), str):
        table[name] = str(folder / table[name])


_DATASETS = {
    "creative-writing": "dolly-creative-writing",
    "general-qa": "dolly-general-qa",
    "azure-code": "azure-code",
    "azure-conversation": "azure-conversation",
}


def _near() -> System:
    """`papi-1gpu` where a unit is worth choosing although kernels take microseconds.

    Activations cross no link: FC-PIM is the GPU's own memory, and a kernel's cost already moves its vectors in
    and out of the stacks. chosen: mode switches of 0.1 us, three row openings (range of `System.mode_switch_s`
    0.03-10 us): with 1 us, or over NVLink, what FC-PIM gains on FC3 of few images is lost on the way there.
    """
    return get_system("papi-1gpu").model_copy(
        update={
            "name": "papi-1gpu-near",
            "description": "1 A100 and its 5 FC-PIM stacks, no link between them, mode switches of 0.1 us",
            "fabric": None,
            "mode_switch_s": 1e-7,
        }
    )


def _sixth() -> System:
    """A sixth of `papi`: a GPU with its weight stacks, and as many stacks for attention as come on one.

    As in `_near`, activations cross no link between a GPU and its own memory; mode switches are the system's usual.
    """
    whole = get_system("papi")
    assert whole.pu is not None
    assert whole.fc_pim is not None
    assert whole.attn_pim is not None
    parts = whole.pu.count
    return System.model_validate(
        whole.model_copy(
            update={
                "name": "papi-sixth",
                "description": "a sixth of papi: 1 A100 whose 5 stacks are FC-PIM, 10 Attn-PIM stacks",
                "pu": whole.pu.model_copy(update={"count": 1}),
                "fc_pim": whole.fc_pim.model_copy(update={"stacks": whole.fc_pim.stacks // parts}),
                "attn_pim": whole.attn_pim.model_copy(update={"stacks": whole.attn_pim.stacks // parts}),
                "fabric": None,
            }
        ).model_dump()
    )


def _mixtures() -> Iterator[Scenario]:
    """Qwen3-30B-A3B, whose experts are many and small, on the least part of PAPI that holds its 61 GB.

    On all of PAPI more than half of an iteration goes to all-reduces, which no choice changes.
    """
    model = get_transformer("qwen3-30b-a3b")
    assert model.experts is not None
    # chosen: Zipf with 0.7, range 0-1.5.
    skewed = model.experts.model_copy(update={"routing": "zipf", "exponent": 0.7, "draws": "keyed"})
    uniform = model.experts.model_copy(update={"draws": "keyed"})
    for name, experts, words in (
        ("mixture-of-experts", uniform, "evenly"),
        ("mixture-of-experts-zipf", skewed, "by Zipf's law with exponent 0.7"),
    ):
        yield Scenario(
            name=name,
            description=f"{model.name} decodes static batches on a sixth of papi; a router sends tokens {words}",
            system=_sixth(),
            model=model.model_copy(update={"experts": experts}),
            workload=Workload(lengths=Lengths(table="dolly-creative-writing")),
        )


def class_scenario(
    name: str, traffic: str, model: str, serving: Serving, description: str = "", energy_weight: float = 0.0
) -> Scenario:
    """A scenario of a traffic of `service_presets.TRAFFIC` on a model, on the machine that serves that model there.

    Args:
        name, description, energy_weight: see `Scenario`.
        traffic: says how a router of experts is skewed.
        model: a name in `service_presets.MODELS`.
        serving: see `service_presets.traffic_serving`.

    Raises:
        ConfigurationError: an unknown name.
    """
    sent = lookup("traffic", traffic, CLASS_TRAFFIC)
    machine = lookup("model", model, CLASS_MODELS).system
    sixth = _sixth()
    served = get_transformer(model)
    if sent.skew is not None:
        assert served.experts is not None
        routing = {"routing": "zipf", "exponent": sent.skew}
        served = served.model_copy(update={"experts": served.experts.model_copy(update=routing)})
    return Scenario(
        name=name,
        description=description,
        system=sixth if machine == sixth.name else get_system(machine),
        model=served,
        serving=serving,
        energy_weight=energy_weight,
    )


def _classes() -> Iterator[Scenario]:
    """Presets with classes of requests."""
    for name, preset in service_presets().items():
        traffic = CLASS_FAMILIES[name.partition("/")[0]].traffic
        yield class_scenario(
            name, traffic, preset.model, preset.serving, preset.description, preset.energy_weight
        )


def _presets() -> dict[str, Scenario]:
    presets = {}
    for dataset, table in _DATASETS.items():
        for model in PRESET_MODELS.values():
            name = f"{dataset}/{model.name}"
            presets[name] = Scenario(
                name=name,
                description=f"{model.name} decodes static batches with the lengths of {table}",
                system=get_system("papi"),
                model=model,
                workload=Workload(lengths=Lengths(table=table)),
            )
    presets["vision-stream"] = Scenario(
        name="vision-stream",
        description="RepMLPNet-B256 encodes a stream of batches of 1 to 8 images on one GPU with FC-PIM stacks",
        system=_near(),
        # chosen: mostly few images, as cameras give them (range 1-128), and 16 encodes, so that an episode meets
        # every size. FC3 of the third stage has 12 rows an image: up to three are on FC-PIM's side.
        images=Images(network=get_repmlpnet("repmlpnet-b256"), batch_sizes=(1, 1, 2, 4, 8), encodes=16),
    )
    for name, seen in IMAGE_PRESETS.items():
        workload = None
        if seen.lengths is not None:
            workload = Workload(
                lengths=seen.lengths, batch_size=seen.batch_size, speculation=seen.speculation
            )
        presets[name] = Scenario(
            name=name,
            description=seen.description,
            system=get_system(seen.system),
            model=None if seen.model is None else get_transformer(seen.model),
            workload=workload,
            images=seen.images,
        )
    presets |= {scenario.name: scenario for scenario in _mixtures()}
    for name, preset in serving_presets().items():
        presets[name] = Scenario(
            name=name,
            description=preset.description,
            system=get_system("papi"),
            model=get_transformer(preset.model),
            serving=preset.serving,
            energy_weight=preset.energy_weight,
        )
    presets |= {scenario.name: scenario for scenario in _classes()}
    for name, server in SERVERS.items():
        presets[name] = Scenario(
            name=name,
            description=server.description,
            system=get_system(server.system),
            model=get_transformer(server.model),
            serving=server.serving(),
        )
    return presets


SCENARIOS: Mapping[str, Scenario] = _presets()
DEFAULT_SCENARIO = "creative-writing/llama-65b"
DEFAULT_SERVING_SCENARIO = "saturated/llama-65b"
# The paper's three models and two datasets (PAPI, section 7.1).
PAPER_SCENARIOS = tuple(
    f"{dataset}/{model}"
    for dataset in ("creative-writing", "general-qa")
    for model in ("llama-65b", "gpt3-66b", "gpt3-175b")
)


def get_scenario(scenario: str | Path | Mapping[str, Any] | Scenario) -> Scenario:
    """A scenario from a preset's name, a path that ends in .toml, plain data, or itself."""
    if isinstance(scenario, Scenario):
        return scenario
    if isinstance(scenario, Mapping):
        return parse_scenario(scenario, "scenario")
    if isinstance(scenario, Path) or str(scenario).endswith(".toml"):
        return load_scenario(scenario)
    if not isinstance(scenario, str):
        raise ConfigurationError(f"scenario is {scenario!r}, expected a name, a .toml path or a table")
    return lookup("scenario", scenario, SCENARIOS)
