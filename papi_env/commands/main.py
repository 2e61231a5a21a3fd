"""`papi-env`: lists what is registered, shows one thing, plays an episode."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from papi_env.commands.catalog import KINDS, find
from papi_env.commands.describe import describe
from papi_env.commands.play import TEXT, play
from papi_env.commands.wording import rows
from papi_env.envs.registration import DECODE, ENV_IDS
from papi_env.errors import ConfigurationError, DataError, lookup

_EXAMPLES = """examples:
  papi-env list                                    how many there are of each kind
  papi-env list systems                            a line about each machine
  papi-env show papi                               units, rates, capacities, area, power, links, sources
  papi-env show Serving-v0                         observations, actions and rewards of a problem
  papi-env play --policy threshold --render        an episode of Decode-v0 and its last iterations
  papi-env play --render episode.gif               the same as an animation (needs Pillow)
  papi-env play --env Serving-v0 --scenario bursty/llama-65b --policy heuristic --render end.png
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "papi-env", description=__doc__, epilog=_EXAMPLES, formatter_class=formatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="what is registered", description="List what is registered.")
    listing.add_argument("kind", nargs="?", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    listing.add_argument("--names", action="store_true", help="names alone, one a line")
    showing = commands.add_parser("show", help="what one thing is", description="Show one registered thing.")
    showing.add_argument("name", metavar="NAME", help="a name that `papi-env list` prints")
    playing = commands.add_parser(
        "play",
        help="play an episode",
        description="Play an episode of a problem with a policy, and print its metrics.",
    )
    playing.add_argument("--env", default=DECODE, metavar="ID", help=f"the problem (default: {DECODE})")
    playing.add_argument("--scenario", metavar="NAME|FILE.toml", help="default: the problem's own")
    playing.add_argument(
        "--policy", default="threshold", metavar="NAME", help="default: threshold; MODULE:CLASS is yours"
    )
    playing.add_argument("--seed", type=int, default=0, help="of the episode (default: 0)")
    playing.add_argument(
        "--render",
        nargs="?",
        const=TEXT,
        metavar="FILE",
        help="print the timeline's end; or write it to a file that ends in .gif or .png",
    )
    playing.add_argument("--frames", type=int, default=40, help="of a .gif, at most (default: 40)")
    playing.add_argument(
        "--until", type=int, metavar="N", help="the step that pictures end with (default: the last)"
    )
    playing.add_argument("--batch-size", type=int, metavar="N", help="requests of a static batch")
    playing.add_argument(
        "--speculation", type=int, metavar="N", help="tokens verified per request and iteration"
    )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, or 2 with a line on standard error for what cannot be used."""
    asked = parser().parse_args(arguments)
    try:
        {"list": _list, "show": _show, "play": _play}[asked.command](asked)
    except (ConfigurationError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has seen enough
        sys.stderr.close()
    except KeyboardInterrupt:
        return 130
    return 0


def _list(asked: argparse.Namespace) -> None:
    if asked.kind is None:
        table = []
        for kind in KINDS.values():
            names = list(kind.things())
            more = f", ... ({len(names)})" if len(names) > 4 else ""
            table.append((kind.plural, ", ".join(names[:4]) + more))
        print(
            "\n".join(
                [
                    *rows(table),
                    "papi-env list KIND has a line about each, papi-env show NAME everything about one",
                ]
            )
        )
        return
    kind = lookup("kind", asked.kind, KINDS)
    names = list(kind.things())
    print("\n".join(names if asked.names else rows([(name, kind.line(name)) for name in names], "")))


def _show(asked: argparse.Namespace) -> None:
    print("\n\n".join("\n".join(describe(kind, name)) for kind, name in find(asked.name)))


def _play(asked: argparse.Namespace) -> None:
    ids = {**{name: name for name in ENV_IDS}, **{name.partition("/")[2]: name for name in ENV_IDS}}
    given: dict[str, Any] = {
        "scenario": asked.scenario,
        "batch_size": asked.batch_size,
        "speculation": asked.speculation,
    }
    if asked.seed < 0:
        raise ConfigurationError(f"--seed is {asked.seed}, expected 0 or more")
    arguments = {name: value for name, value in given.items() if value is not None}
    if asked.until is not None and asked.until < 1:
        raise ConfigurationError(f"--until is {asked.until}, expected a step from 1 on")
    problem = lookup("problem", asked.env, ids)
    play(problem, asked.policy, arguments, asked.seed, asked.render, asked.frames, asked.until, print)


if __name__ == "__main__":
    sys.exit(main())
