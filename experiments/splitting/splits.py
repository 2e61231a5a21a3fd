"""Training, validation and test settings, pinned by hashes; `python -m experiments.splits` shows them.

`experiments.splitting.definition` says which settings a split has; `splits.json` pins what they resolve to. A preset,
system or model that has changed since makes loading its split fail, with what changed: results on a split can then be
compared whenever they name the same hash.

What is new in the test settings of a problem (whole models, a whole trace, a machine, ...) is held out: a policy that
was trained on any of it is refused, by content, whatever it is called. Instances of settings that both splits have
differ by their seeds, whose ranges are disjoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from pydantic import BaseModel, ValidationError

from experiments.common.runner import canonical, digest, write_whole
from experiments.common.study import json_text
from experiments.splitting.definition import (
    PROBLEM_IDS,
    SEED_RANGES,
    SPLIT_NAMES,
    TRACES,
    Setting,
    SplitName,
    define,
    family_of,
)
from experiments.splitting.parts import (
    DIGITS,
    Part,
    fingerprint,
    parts_of,
    trace_content,
    trace_contents,
    trace_paths,
)
from papi_env.errors import ConfigurationError, DataError, describe_validation, lookup, unknown_name
from papi_env.files import read_json
from papi_env.scenario import Scenario, parse_scenario

PINS = Path(__file__).with_name("splits.json")
_FORMAT, _VERSION = "papi_env splits", 1
_HOW = "If that is meant, pin it anew: python -m experiments.splits --pin"


class Trained(Protocol):
    """What a policy says of its training: the description of a checkpoint, or of a distilled policy."""

    @property
    def env(self) -> str: ...  # noqa: D102

    @property
    def scenarios(self) -> tuple[dict[str, Any], ...]: ...  # noqa: D102

    @property
    def training(self) -> dict[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Split:
    """A split of a problem, as pinned.

    Attributes:
        env_id, name: such as "papi_env/Serving-v0", "test".
        settings: those that can be played with the traces at hand.
        skipped: names of those that need another trace, with the trace's name.
        seeds: what instances are drawn with.
        held_out: labels of the parts that no policy judged on this split may have been trained on, by kind and hash.
        traces: content hashes by path, of the files that settings read.
        sha256: of the whole pinned split, skipped settings included.
        families: those that are left of it; empty for all.
    """

    env_id: str
    name: SplitName
    settings: tuple[Setting, ...]
    skipped: Mapping[str, str]
    seeds: range
    held_out: Mapping[tuple[str, str], str]
    traces: Mapping[str, str]
    sha256: str
    families: tuple[str, ...] = ()

    def of_families(self, names: Sequence[str]) -> Split:
        """The settings of some families alone, in the order of the split; all where none is named.

        Raises:
            ConfigurationError: a family has no setting, or none that the traces at hand suffice for.
        """
        if not names:
            return self
        skipped = {setting: trace for setting, trace in self.skipped.items() if family_of(setting) in names}
        # By family the trace that all its settings lack; None where some can be played.
        lacking: dict[str, str | None] = {
            family_of(setting): trace for setting, trace in self.skipped.items()
        }
        lacking |= dict.fromkeys(family_of(setting.name) for setting in self.settings)
        for name in names:
            trace = lookup(f"family of the {self.name} split of {self.env_id}", name, lacking)
            if trace is not None:
                raise ConfigurationError(f"{name} needs the trace {trace}, expected its file in --trace")
        kept = tuple(setting for setting in self.settings if family_of(setting.name) in names)
        return replace(self, settings=kept, skipped=skipped, families=tuple(names))

    def describe(self) -> dict[str, Any]:
        """What a run folder or a policy records of it."""
        part = {"families": list(self.families)} if self.families else {}
        return {"problem": self.env_id, "name": self.name, "sha256": self.sha256, **part}

    def check_unseen(self, description: Trained, where: str) -> None:
        """Refuse a policy that must not be judged on this split.

        Args:
            description: of a checkpoint or a distilled policy.
            where: how the policy is called.

        Raises:
            ConfigurationError: it plays another problem, was trained on something held out here, or does not say
                what it was trained on.
        """
        refusal = f"{where}: cannot be judged on the {self.name} split of {self.env_id}"
        if description.env != self.env_id:
            raise ConfigurationError(f"{refusal}: it was trained on {description.env}")
        if self.name == "train":
            return
        if not description.scenarios:
            raise ConfigurationError(f"{refusal}: it does not say what it was trained on")
        known = description.training.get("traces", {})
        traces = {str(k): str(v) for k, v in known.items()} if isinstance(known, Mapping) else {}
        met: dict[str, None] = {}
        for data in description.scenarios:
            scenario = parse_scenario(data, f"{where}: a scenario it was trained on")
            unknown = [path for path in trace_paths(scenario) if path not in traces]
            if unknown:
                raise ConfigurationError(
                    f"{refusal}: it was trained on the trace {unknown[0]}, whose content it does not record"
                )
            for part in parts_of(scenario, traces):
                if (part.kind, part.sha256) in self.held_out:
                    met[f"{part.kind} {self.held_out[part.kind, part.sha256]}"] = None
        if met:
            found = ", ".join(list(met)[:6]) + (f" and {len(met) - 6} more" if len(met) > 6 else "")
            raise ConfigurationError(f"{refusal}: it was trained on what is held out there: {found}")


def load_split(env_id: str, name: str, traces: Sequence[str | Path] = (), pins: str | Path = PINS) -> Split:
    """A split, checked against its pins.

    Args:
        env_id: of the problem.
        name: "train", "validation" or "test".
        traces: files of published traces, recognised by their content; settings that need others are skipped.
        pins: the file of pins.

    Raises:
        ConfigurationError: an unknown name, a trace that is none of those pinned, or settings that are not those
            pinned.
        DataError: a file that cannot be read.
    """
    lookup("split", name, dict.fromkeys(SPLIT_NAMES))
    document = read_pins(pins)
    contents = {trace: str(pin["sha256"]) for trace, pin in document["traces"].items()}
    files = recognised(traces, pins)
    defined = _known(define(env_id), contents)
    _check(document["problems"].get(env_id, {}), _problem(defined, contents), f"{pins}: {env_id}")
    settings = define(env_id, files)[name]  # type: ignore[index]
    here = {str(path): contents[trace] for trace, path in files.items()}
    held_out = _held_out(defined)[name]  # type: ignore[index]
    pinned = document["problems"][env_id][name]
    return Split(
        env_id=env_id,
        name=name,  # type: ignore[arg-type]
        settings=tuple(s for s in settings if s.trace is None or s.trace in files),
        skipped={s.name: s.trace for s in settings if s.trace is not None and s.trace not in files},
        seeds=SEED_RANGES[name],  # type: ignore[index]
        held_out=held_out,
        traces=here,
        sha256=digest(canonical(pinned))[:DIGITS],
    )


def trace_records(scenarios: Sequence[Scenario]) -> dict[str, str]:
    """What a policy records of the traces that it was trained on: their content by path, as `check_unseen` reads it."""
    return {path: content for scenario in scenarios for path, content in trace_contents(scenario).items()}


class _Trace(BaseModel):
    sha256: str
    requests: int


class _Setting(BaseModel):
    sha256: str
    parts: dict[str, str]


class _Split(BaseModel):
    settings: dict[str, _Setting]


class _Pins(BaseModel):
    """What is read of a file of pins; the rest is compared as it is."""

    traces: dict[str, _Trace]
    problems: dict[str, dict[str, _Split]]


def read_pins(path: str | Path = PINS) -> dict[str, Any]:
    """The file of pins as plain data.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    document = read_json(Path(path))
    try:
        form = (document["format"], document["version"])
        traces, problems = document["traces"], document["problems"]
    except KeyError as error:
        raise DataError(f"{path}: not a file of splits ({error!r})") from None
    if form != (_FORMAT, _VERSION) or not isinstance(traces, dict) or not isinstance(problems, dict):
        raise DataError(f"{path}: found format {form}, expected {(_FORMAT, _VERSION)}")
    missing = [name for name in TRACES if name not in traces]
    if missing:
        raise DataError(f"{path}: pins no content of the trace {missing[0]}")
    try:
        _Pins.model_validate(document, strict=True)
    except ValidationError as error:
        raise DataError(str(describe_validation(str(path), error))) from None
    return document


def make_pins(contents: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    """What `splits.json` holds; `contents` are hash and length of every trace in TRACES."""
    hashes = {name: sha256 for name, (sha256, _) in contents.items()}
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "command": "python -m experiments.splits --pin",
        "traces": {
            name: {"published": trace.published, "requests": contents[name][1], "sha256": contents[name][0]}
            for name, trace in TRACES.items()
        },
        "problems": {env_id: _problem(_known(define(env_id), hashes), hashes) for env_id in PROBLEM_IDS},
    }


class _Known(NamedTuple):
    """A setting and the parts of its scenario."""

    setting: Setting
    parts: tuple[Part, ...]


_Defined: TypeAlias = Mapping[SplitName, Sequence[_Known]]


def _known(defined: Mapping[SplitName, Sequence[Setting]], contents: Mapping[str, str]) -> _Defined:
    """The settings of a problem with their parts, which take longer to find than to compare."""
    return {
        split: [_Known(setting, parts_of(setting.scenario, contents)) for setting in settings]
        for split, settings in defined.items()
    }


def _problem(defined: _Defined, contents: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The splits of a problem as the file pins them."""
    held_out = _held_out(defined)
    pinned: dict[str, dict[str, Any]] = {}
    for split, settings in defined.items():
        kinds: dict[str, list[str]] = {}
        for (kind, _), label in held_out[split].items():
            kinds.setdefault(kind, []).append(label)
        seeds = SEED_RANGES[split]
        pinned[split] = {
            "seeds": {"first": seeds.start, "count": len(seeds)},
            "held_out": {kind: sorted(set(labels)) for kind, labels in sorted(kinds.items())},
            "settings": {
                setting.name: {
                    "shift": setting.shift,
                    "sha256": fingerprint(setting.scenario, contents, parts),
                    "parts": {part.kind: part.sha256 for part in parts},
                }
                for setting, parts in settings
            },
        }
    return pinned


def _held_out(defined: _Defined) -> dict[SplitName, dict[tuple[str, str], str]]:
    """By split, the parts of its settings that no earlier split's settings have, with their labels."""
    before: set[tuple[str, str]] = set()
    held_out: dict[SplitName, dict[tuple[str, str], str]] = {}
    for split in SPLIT_NAMES:
        found = {(part.kind, part.sha256): part.label for _, parts in defined[split] for part in parts}
        held_out[split] = {} if split == "train" else {k: v for k, v in found.items() if k not in before}
        before |= found.keys()
    return held_out


def recognised(paths: Sequence[str | Path], pins: str | Path = PINS) -> dict[str, Path]:
    """Files by the name of the trace that each is.

    Raises:
        ConfigurationError: one is no pinned trace, or two are the same.
        DataError: a file cannot be read.
    """
    contents = {name: str(pin["sha256"]) for name, pin in read_pins(pins)["traces"].items()}
    by_content = {sha256: name for name, sha256 in contents.items()}
    found: dict[str, Path] = {}
    for path in paths:
        sha256, count = trace_content(path)
        if sha256 not in by_content:
            expected = ", ".join(f"{name} ({TRACES[name].published})" for name in contents)
            raise ConfigurationError(
                f"{path}: its {count} requests are those of no pinned trace, expected {expected}"
            )
        name = by_content[sha256]
        if name in found:
            raise ConfigurationError(f"{path} and {found[name]} are both the trace {name}")
        found[name] = Path(path)
    return found


def _check(pinned: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise ConfigurationError with what is no longer as it was pinned."""
    changes: list[str] = []
    for split in SPLIT_NAMES:
        then = pinned.get(split) or {"settings": {}}
        for name in {**then["settings"], **now[split]["settings"]}:
            old, new = then["settings"].get(name), now[split]["settings"].get(name)
            if old is None or new is None:
                changes.append(f"{split}: {name} {'is new' if old is None else 'is gone'}")
            elif old != new:
                kinds = [k for k in new["parts"] if old.get("parts", {}).get(k) != new["parts"][k]]
                changes.append(f"{split}: {name} changed ({', '.join(kinds) or 'other than its parts'})")
        if not changes and then != now[split]:
            changes.append(f"{split}: seeds or what is held out changed")
    if changes:
        more = f"; and {len(changes) - 4} more" if len(changes) > 4 else ""
        raise ConfigurationError(
            f"{where}: not as it was pinned, so results would not compare with earlier ones: "
            f"{'; '.join(changes[:4])}{more}. {_HOW}"
        )


def write_pins(traces: Sequence[Path], path: Path = PINS) -> None:
    """Pin the splits as they are now.

    Args:
        traces: files to pin the content of, recognised by their names: as published, or a trace's own (with .csv). What
            is not given stays as pinned.
        path: of the file of pins.

    Raises:
        ConfigurationError: a trace is given by a name that says none of TRACES, or one is neither given nor pinned.
        DataError: a file cannot be read.
    """
    contents: dict[str, tuple[str, int]] = {}
    if path.exists():
        contents = {name: (pin["sha256"], pin["requests"]) for name, pin in read_pins(path)["traces"].items()}
    for file in traces:
        names = [name for name, trace in TRACES.items() if file.name in (trace.published, f"{name}.csv")]
        if not names:
            raise unknown_name(
                "trace file",
                file.name,
                [t for n, trace in TRACES.items() for t in (trace.published, f"{n}.csv")],
            )
        contents[names[0]] = trace_content(file)
    missing = [name for name in TRACES if name not in contents]
    if missing:
        raise ConfigurationError(
            f"The trace {missing[0]} is not pinned yet, expected --traces {TRACES[missing[0]].published}"
        )
    write_whole(path, json_text(make_pins(contents)))
