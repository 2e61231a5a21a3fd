"""Tune the parameters of a rule of Serving-v0 or -v1: `python -m experiments.tune --help`.

The search is over the training split, by family of presets, by Optuna's tree-structured Parzen estimator (Akiba et
al., KDD 2019; Bergstra et al., NIPS 2011), started from hand-made guesses, among them the likes of good fixed actions,
and from what is stored. A first search, `default`, is over all training settings; each family then goes on from it by
itself, on its own presets. The best sets of a search and all guesses play again on other training seeds, and the best
there is what is stored: not the luckiest of many. Models, families and seeds that the split holds out are never met.

A set is scored by its return per request that arrived, averaged over presets: by the unit of the reward, a request
served in time. Returns over the best guess's would weigh presets alike in which little can be won, and lose their
meaning where the price of energy brings returns near zero or below.

The budget is stated; `--requests` states it in simulated requests, the same for rules with more and with fewer
parameters. On Serving-v1 parameters may be options, such as the order of admission, and a set is scored by its return
per request that was offered, further turns of conversations included. Searches are kept in the run folder trial by
trial, so that an interrupted one goes on. `--write` puts the parameters where the policy finds them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.common.command import command_line
from experiments.tuning.options import SPELLINGS, Config, run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("tune", Config, run, arguments, SPELLINGS, watched=True)


if __name__ == "__main__":
    sys.exit(main())
