"""What the package offers by name, and that importing it is cheap."""

import inspect
import subprocess
import sys

import gymnasium as gym
import pytest

import papi_env
import papi_env.envs
from papi_env.errors import ConfigurationError
from papi_env.scenario import BatchReplacements, Replacements, ServingReplacements

HEAVY = ("torch", "stable_baselines3", "matplotlib", "numba")


@pytest.mark.parametrize("module", [papi_env, papi_env.envs])
def test_every_public_name_is_there(module):
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, papi_env, papi_env.envs; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_ids_have_names():
    assert (papi_env.DECODE, papi_env.KERNELS, papi_env.SERVING, papi_env.SERVING_V1) == papi_env.ENV_IDS


def test_the_package_makes_batches():
    envs = papi_env.make_vec(papi_env.DECODE, num_envs=2, batch_size=2)
    assert envs.num_envs == 2
    envs.close()


@pytest.mark.parametrize("name", ["repmlp", "weights"])
def test_old_documented_paths_lead_to_the_same_things(name):
    pytest.importorskip("torch")
    old = __import__(f"papi_env.workload.{name}", fromlist=["*"])
    new = __import__(f"papi_env.workload.vision.{name}", fromlist=["*"])
    assert old.__all__
    for each in old.__all__:
        assert getattr(old, each) is getattr(new, each)


@pytest.mark.parametrize(
    ("kind", "replaced", "default"),
    [
        ("Decode", BatchReplacements, "creative-writing/llama-65b"),
        ("Kernels", BatchReplacements, "creative-writing/llama-65b"),
        ("Serving", ServingReplacements, "saturated/llama-65b"),
        ("ServingV1", ServingReplacements, "saturated/llama-65b"),
    ],
)
@pytest.mark.parametrize("which", ["Env", "VectorEnv"])
def test_signatures_spell_out_what_an_environment_takes(kind, replaced, default, which):
    cls = getattr(papi_env.envs, kind + which)
    parameters = inspect.signature(cls).parameters
    assert parameters["scenario"].default == default == cls.default_scenario
    assert set(replaced.__annotations__) <= set(parameters)
    assert {"strict", "render_mode"} <= set(parameters)
    assert ({"num_envs", "threads", "copy", "autoreset_mode"} <= set(parameters)) == (which == "VectorEnv")
    assert "replacements" not in parameters


@pytest.mark.parametrize(
    ("env_id", "argument", "near"),
    [(papi_env.DECODE, "batchsize", "batch_size"), (papi_env.SERVING, "batch_size", None)],
)
def test_an_unknown_argument_is_answered_with_the_known_ones(env_id, argument, near):
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ConfigurationError, match=f"Unknown argument of .*'{argument}'") as found:
            make(env_id, **{argument: 3})
        assert near is None or f"Did you mean {near!r}" in str(found.value)


def test_an_unknown_part_of_a_scenario_is_answered_with_the_known_ones():
    scenario = papi_env.get_scenario("general-qa/llama-65b")
    with pytest.raises(
        ConfigurationError, match=r"Unknown part of a scenario 'modle'\. Did you mean 'model'\?"
    ):
        scenario.replace(modle="opt-30b")
    assert list(inspect.get_annotations(Replacements))


def test_what_one_problem_has_only_it_has():
    batch, serving = (gym.make(env_id).unwrapped for env_id in (papi_env.DECODE, papi_env.SERVING))
    assert batch.profile.alpha == batch.alpha > 0
    assert serving.alpha > 0
    for name in ("profile", "valid_units", "ignored"):
        assert hasattr(batch, name)
        assert not hasattr(serving, name)


@pytest.mark.parametrize("name", papi_env.envs.__all__)
def test_a_class_docstring_lists_every_feature_in_order(name):
    cls = getattr(papi_env.envs, name)
    if name.endswith("VectorEnv"):
        cls = getattr(papi_env.envs, name.replace("Vector", ""))
    rows = [
        line.split("|")[1:3] for line in cls.__doc__.splitlines() if line.startswith("| ") and "`" in line
    ]
    listed = [(int(index), feature.strip().strip("`")) for index, feature in rows]
    assert listed == list(enumerate(cls.observation_names))
    assert "{" + "features}" not in cls.__doc__
