"""Train a policy: `python -m experiments.train --help`.

PPO, A2C and DQN of Stable-Baselines3, MaskablePPO, RecurrentPPO and QR-DQN of sb3-contrib, and of a network that sees
requests evolution strategies and expert iteration, on one scenario or on many at once. Hyper-parameters come from
`agents/hyperparameters/ALGORITHM.toml`. The run folder holds:

* run.json: the command, what was asked, everything it resolved to, and every session with its versions;
* best/ and last/: checkpoints (policy.json and policy.safetensors) of the best and the last validation;
* evaluations.csv: every validation, on instances that training never meets, with regret as a share of the oracle's
  cost; curves.png: the learning curve;
* rounds.csv: of expert iteration, what each round looked at, fitted and moved;
* state.safetensors: the whole state, from which an interrupted run goes on;
* tensorboard/: curves; those of validations come first, with regret in percent.

`--resume DIR` goes on after any interruption, and ends with the weights that the run would have had without it, bit
for bit, on the same code, versions and `--threads`. Ctrl-C stops after the rollout under way and loses nothing; a
crash loses what came since the last validation. Evolution and expert iteration play on the processes of `--jobs` and
`--backend`, each a setting at a time: how many there are changes no bit, and a run may go on with others. `--tune N`
looks for hyper-parameters instead (see `experiments.training.trials`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.common.command import command_line
from experiments.training.options import SPELLINGS, Config
from experiments.training.session import run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("train", Config, run, arguments, SPELLINGS, watched=True)


if __name__ == "__main__":
    sys.exit(main())
