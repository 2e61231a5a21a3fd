"""What trained policies choose: shares that add up, drawn choices that are others, and what is refused."""

import re

import pytest

from experiments.choices import main
from experiments.training.choices import chosen
from experiments.training.curves.data import read_curve
from experiments.training.record import BEST
from papi_env.envs.registration import KERNELS, SERVING_V1
from tests.experiments.commands import called
from tests.experiments.training.runs import HYPER, command
from tests.experiments.training.test_serving_v1 import SERVED

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    (folder / "served.toml").write_text(SERVED)
    arguments = ["--algorithm", "ppo", "--env", SERVING_V1, "--scenarios", folder / "served.toml"]
    arguments += ["--timesteps", 64, "--validations", 1, "--episodes", 2, "--no-tensorboard"]
    hyper = [*HYPER["ppo"], "critic_first=0", "critic_until=0.0", "scale_steps=0", "draws=false"]
    assert command(*arguments, "--hyper", *hyper, "--out", folder / "run")[0] == 0
    return folder / "run"


def test_what_is_played_and_what_is_drawn(run):
    _, curve, validation = read_curve(run)
    played, drawn = (chosen(run / BEST, validation, one) for one in (False, True))
    assert played.score == pytest.approx(curve.returns.max(), rel=1e-9)
    for one in (played, drawn):
        for shares in one.shares.values():
            assert sum(shares.values()) == pytest.approx(1.0)
    # Hardly trained: it draws all orders alike, and plays few of them.
    assert min(drawn.shares["order"].values()) > 0.1 > min(played.shares["order"].values())
    again = chosen(run / BEST, validation, True)
    assert again == drawn


def test_the_command_prints_both(run):
    status, out, err = called(main, run)
    assert status == 0, err
    _, curve, validation = read_curve(run)
    drawn = chosen(run / BEST, validation, True)
    (line,) = (line for line in out.splitlines() if line.startswith("share of worth"))
    assert re.split(r"\s{2,}", line.strip())[1:] == [f"{curve.returns.max():.4f}", f"{drawn.score:.4f}"]
    for word in drawn.shares:
        assert word in out
    assert called(main, run, "--checkpoint", "last")[0] == 0


def test_what_draws_nothing_of_serving_is_refused(run, tmp_path):
    assert called(main, tmp_path)[0] == 2
    arguments = [
        "--algorithm",
        "ppo",
        "--env",
        KERNELS,
        "--batch-sizes",
        2,
        "--timesteps",
        64,
        "--validations",
        1,
    ]
    arguments += ["--episodes", 2, "--no-tensorboard", "--hyper", *HYPER["ppo"]]
    assert command(*arguments, "--out", tmp_path / "kernels")[0] == 0
    status, _, err = called(main, tmp_path / "kernels")
    assert status == 2
    assert "expected a problem of serving" in err
