"""`papi-env`: everything registered is listed and shown, an episode is what the environment itself gives."""

import gymnasium as gym
import pytest

from agents.registry import make_policy
from papi_env.commands.catalog import KINDS
from papi_env.commands.main import main
from papi_env.commands.wording import quantity
from papi_env.hardware.system import SYSTEMS
from papi_env.hardware.units import PimUnit


def said(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_listed_and_shown(kind, capsys):
    names = said(capsys, "list", kind, "--names").split()
    assert names == list(KINDS[kind].things())
    lines = said(capsys, "list", kind).splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all(len(line.split()) > 1 for line in lines)
    for name in names[:40]:
        assert f"{name}  ({KINDS[kind].singular})" in said(capsys, "show", name)


def test_the_list_of_kinds_counts_them(capsys):
    text = said(capsys, "list")
    assert f"({len(SYSTEMS)})" in text
    assert all(kind in text for kind in KINDS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_machine_is_shown_with_its_parts(name, capsys):
    text = said(capsys, "show", name)
    system = SYSTEMS[name]
    for unit in (system.pu, system.fc_pim, system.attn_pim):
        if unit is not None:
            assert unit.name in text
        if isinstance(unit, PimUnit):
            assert f"{quantity(unit.capacity_bytes, 'bytes')} in all" in text
            assert f"at most {quantity(unit.power_budget_w, 'W')}" in text
            assert f"of {unit.stack.technology.die_area_mm2:g} mm2 a die" in text
    assert quantity(system.static_power_w, "W") in text
    assert "\nsources\n" in text


def test_sources_are_the_comments_beside_the_numbers(capsys):
    assert "A100 data sheet: 312 TFLOP/s dense FP16" in said(capsys, "show", "papi")
    text = said(capsys, "show", "hbm3")
    assert "JESD238A" in text
    assert "Geometry." not in text  # heads a group of fields


def test_what_a_policy_is_made_with_has_names(capsys):
    assert "Here: unit='pu'." in said(capsys, "list", "policies")
    assert "\nwith speculation=4\n" in said(capsys, "show", "threshold-spec4")
    assert "\nwith " not in said(capsys, "show", "threshold")


def test_a_name_of_two_kinds_is_shown_as_both(capsys):
    text = said(capsys, "show", "a100")
    assert "a100  (system)" in text
    assert "a100  (GPU)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "papy"), "Did you mean 'papi'"),
        (("list", "sytems"), "Did you mean 'systems'"),
        (("play", "--env", "Decod-v0"), "Did you mean 'Decode-v0'"),
        (("play", "--policy", "treshold"), "Did you mean 'threshold'"),
        (("play", "--scenario", "no-such"), "Unknown scenario 'no-such'"),
        (("play", "--seed", "-1"), "--seed is -1, expected 0 or more"),
        (("play", "--render", "a.avi"), "expected nothing (text), or a path that ends in .gif or .png"),
        (("play", "--render", "/no/such/a.gif"), "there is no folder /no/such"),
        (("play", "--env", "Serving-v0", "--batch-size", "2"), "Unknown argument of ServingEnv 'batch_size'"),
    ],
)
def test_what_cannot_be_used_is_answered_in_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_episode_is_that_of_the_environment(capsys):
    text = said(capsys, "play", "--batch-size", "4", "--speculation", "4", "--seed", "3", "--render")
    env = gym.make("papi_env/Decode-v0", batch_size=4, speculation=4)
    policy = make_policy("threshold")
    policy.bind(env)
    observation, _ = env.reset(seed=3)
    steps, done = 0, False
    while not done:
        observation, _, done, _, info = env.step(int(policy.predict(observation)[0]))
        steps += 1
    assert f"{steps} steps; FC kernels on fc-pim in {steps}" in text
    assert quantity(info["metrics"]["total_j"], "J") in text
    assert f"iteration {steps:4d}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--env", "Kernels-v0", "--scenario", "vision-stream", "--policy", "oracle"), "64 steps\n"),
        (("--env", "Kernels-v0", "--batch-size", "2", "--policy", "static-pu"), "FC kernels on pu in"),
        (("--policy", "tests.commands.test_main:AlwaysPim", "--batch-size", "2"), "FC kernels on fc-pim in"),
    ],
)
def test_every_kind_of_action_is_played(arguments, words, capsys):
    assert words in said(capsys, "play", *arguments)


class AlwaysPim:
    """A policy of a user's own: no more than `predict`."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return 1, None


def test_an_animation_ends_with_the_episode(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "episode.gif"
    text = said(capsys, "play", "--batch-size", "1", "--render", str(path), "--frames", "2")
    assert "2 frame(s)" in text
    with image.open(path) as film:
        assert film.n_frames == 2


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (3352e9, "B/s", "3.352 TB/s"),
        (1e-6, "seconds", "1 µs"),
        (0.0, "seconds", "0 s"),
        (64, "tokens", "64 tokens"),
        (1000, "W", "1 kW"),
        (0.5, "a share", "0.5"),
        (float("inf"), "W", "inf W"),
    ],
)
def test_quantities_are_written_with_their_units(value, unit, shown):
    assert quantity(value, unit) == shown
