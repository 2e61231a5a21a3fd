"""The vocabulary of the command lines: an option's name, type and help are said here, once for all commands.

A command takes what it needs as fields of its configuration (`scenarios: Scenarios = ()`), and says in a docstring
under the field only what is particular to it. Spellings of earlier versions are translated by `respell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError
from papi_env.workload.traces import TIME_UNITS, TimeUnit

# Seeds are int64 in the engines, and what is chosen on seeds of its own has those from 2**61 on.
MAX_SEED = 2**62
# Among entries it stands for those that the command plays where none are named.
DEFAULT = "default"


def words(metavar: str, text: str | None = None) -> Any:
    """How an option's value is called in --help, and what it is; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="", help=text)


Scenarios = Annotated[tuple[str, ...], words("NAME|FILE.toml ...")]
Entries = Annotated[tuple[str, ...], words("[LABEL=][SYSTEM/]POLICY ...")]
_IDS = "|".join(ENV_IDS)
Env = Annotated[str, tyro.conf.arg(metavar=_IDS)]
OneEnv = Annotated[str | None, words(_IDS)]
# Called --trace whatever the field is called.
Traces = Annotated[
    tuple[Path, ...],
    tyro.conf.arg(
        name="trace",
        metavar="FILE ...",
        help_behavior_hint="",
        help="Files of traces whose requests are used; published ones are recognised by content.",
    ),
]
# How a file of requests is read, where its content does not say it: see `papi_env.workload.traces.read_trace`.
InputColumn = Annotated[
    str | None, words("NAME", "Column of input tokens, for other formats (default: recognised by the names).")
]
OutputColumn = Annotated[str | None, words("NAME", "Column of output tokens, likewise.")]
TimeColumn = Annotated[str | None, words("NAME", "Column of arrival times, likewise.")]
Delimiter = Annotated[
    str | None,
    words("CHARACTER", "Between the fields of a CSV file, \\t for a tab (default: a comma or tab)."),
]
Unit = Annotated[
    TimeUnit | None,
    words("|".join(TIME_UNITS), "Of times that are numbers (default: as the format has them, else s)."),
]
CharactersPerToken = Annotated[
    float | None,
    words("FLOAT", "Estimates token counts of conversations that are text; English has about 4."),
]
Seed = Annotated[int, tyro.conf.arg(metavar="INT", help="First seed.")]
Out = Annotated[Path | None, words("DIR", "Run folder, new or to go on in (default: runs/COMMAND-TIME).")]
Flag = tyro.conf.FlagCreatePairsOff


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file of requests is read; commands that take one inherit these options."""

    input_column: InputColumn = None
    output_column: OutputColumn = None
    time_column: TimeColumn = None
    delimiter: Delimiter = None
    time_unit: Unit = None
    characters_per_token: CharactersPerToken = None


def reading(config: Reading) -> dict[str, Any]:
    """What of `Reading` is said, as arguments of `read_trace` and fields of `Lengths` and `Arrivals`."""
    said = {field.name: getattr(config, field.name) for field in fields(Reading)}
    if said["delimiter"] == "\\t":
        said["delimiter"] = "\t"
    return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Processes that run jobs, here or on a cluster; commands that have many jobs take these options."""

    jobs: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Processes; 0 uses all cores."""
    backend: Annotated[str, tyro.conf.arg(metavar="local|ray")] = "local"
    """Where they are: on this machine, or on a Ray cluster, which pip install 'papi-env[ray]' brings. Results are the
    same."""
    address: Annotated[str | None, words("HOST:PORT")] = None
    """Of the Ray cluster that --backend ray joins; "auto" is the one that runs on this machine (default: a new one, of
    this machine alone)."""

    def check(self) -> None:
        """Raise ConfigurationError where these are no processes."""
        if self.jobs < 0:
            raise ConfigurationError(
                f"--jobs is {self.jobs}, expected a number of processes, or 0 for all cores"
            )
        if self.address is not None and self.backend != "ray":
            raise ConfigurationError("--address is that of a Ray cluster; it needs --backend ray")


# As a field, `workers: OnWorkers = ALL_CORES`: its options have no prefix.
OnWorkers = Annotated[Workers, tyro.conf.arg(name="")]
ALL_CORES = Workers()


def check_counts(seed: int, seeds: int, limit: int = MAX_SEED) -> tuple[int, ...]:
    """The seeds that --seed and --seeds name.

    Raises:
        ConfigurationError: they are no such numbers.
    """
    if seeds < 1 or seed < 0 or seed + seeds > limit:
        raise ConfigurationError(
            f"--seed is {seed} and --seeds {seeds}, expected a first seed from 0 and at least one"
        )
    return tuple(range(seed, seed + seeds))


@dataclass(frozen=True)
class Spelling:
    """An option of an earlier version.

    Attributes:
        old, new: with their dashes.
        adds: its values joined the default entries, which `DEFAULT` now stands for.
    """

    old: str
    new: str
    adds: bool = False


def respell(arguments: Sequence[str], spellings: Sequence[Spelling]) -> list[str]:
    """A command line in today's spelling; values of options that have become one are joined.

    >>> respell(["--policies", "a", "--learned", "runs/b"], [Spelling("--policies", "--entries"),
    ...     Spelling("--learned", "--entries", adds=True)])
    ['--entries', 'a', 'runs/b']
    >>> respell(["--learned=runs/b", "--seeds", "2"], [Spelling("--learned", "--entries", adds=True)])
    ['--entries', 'default', 'runs/b', '--seeds', '2']
    >>> respell(["--learned", "runs/b", "--entries", "a"], [Spelling("--learned", "--entries", adds=True)])
    ['--entries', 'a', 'runs/b']
    """
    known = {spelling.old: spelling for spelling in spellings}
    targets = {spelling.new for spelling in spellings}
    # Options in the order of their first value; those before any option are positional.
    groups: dict[str, list[str]] = {}
    # What an old option added stood after what others named.
    added: dict[str, list[str]] = {}
    order: list[tuple[str, list[str]]] = []
    adding: dict[str, bool] = {}
    current: list[str] | None = None
    out: list[str] = []
    touched = False
    for argument in arguments:
        if not argument.startswith("--"):
            (out if current is None else current).append(argument)
            continue
        option, equals, value = argument.partition("=")
        option = option.replace("_", "-")
        spelling = known.get(option)
        new = option if spelling is None else spelling.new
        touched = touched or spelling is not None
        adding[new] = adding.get(new, True) and spelling is not None and spelling.adds
        if new in targets:
            if new not in groups:
                groups[new] = []
                order.append((new, groups[new]))
            current = added.setdefault(new, []) if spelling and spelling.adds else groups[new]
        else:
            current = []
            order.append((argument.partition("=")[0], current))
        if equals:
            current.append(value)
    if not touched:
        return list(arguments)
    for option, values in order:
        out += [option, *([DEFAULT] if adding.get(option) else []), *values, *added.get(option, ())]
    return out
