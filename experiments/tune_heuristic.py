"""The earlier name of experiments.tune, with --policy RULE for the rule."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from experiments.common.command import command_line
from experiments.tuning.options import SPELLINGS, Config, run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of `experiments.tune`; searches are where they were."""
    earlier = argparse.ArgumentParser(
        prog="python -m experiments.tune_heuristic",
        description="The earlier name of experiments.tune, whose other options are understood too.",
        allow_abbrev=False,
    )
    earlier.add_argument("--policy", default="heuristic", metavar="RULE", help="(default: %(default)s)")
    earlier.add_argument("--out", default="runs/tune-heuristic", metavar="DIR", help="(default: %(default)s)")
    known, others = earlier.parse_known_args(arguments)
    asked = [known.policy, "--out", known.out, *others]
    return command_line("tune", Config, run, asked, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
