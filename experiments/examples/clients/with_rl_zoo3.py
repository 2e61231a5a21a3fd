"""RL Baselines3 Zoo: its own command trains on an id, with a file of hyper-parameters (`pip install rl_zoo3`).

    python -m rl_zoo3.train --algo ppo --env papi_env/Decode-v0 --gym-packages papi_env --conf-file FILE.yml
    python -m rl_zoo3.enjoy --algo ppo --env papi_env/Decode-v0 --gym-packages papi_env --folder FOLDER --no-render

`--gym-packages papi_env` registers the ids. The zoo makes single environments (`n_envs` of them), so it steps slower
than what takes a batch; to train quickly, use `with_sb3.py`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HYPERPARAMETERS = Path(__file__).resolve().parents[1] / "files/zoo-ppo.yml"


def main(steps: int = 32_768, folder: Path | None = None) -> float:
    """Train briefly by the zoo's command, in a folder of its own; environment steps per CPU second, all included."""
    with tempfile.TemporaryDirectory() as temporary:
        before = _seconds()
        command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "ppo", "--env", "papi_env/Decode-v0"]
        command += ["--gym-packages", "papi_env", "--conf-file", str(HYPERPARAMETERS), "--eval-freq", "-1"]
        command += ["--n-timesteps", str(steps), "--device", "cpu", "--seed", "0", "--verbose", "0"]
        subprocess.run(
            [*command, "--log-folder", str(folder or temporary)], check=True, stdout=subprocess.DEVNULL
        )
        return steps / (_seconds() - before)


def _seconds() -> float:
    """Of the processor, that processes which have ended took."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    print(f"RL Baselines3 Zoo: {main():,.0f} steps per CPU second")
