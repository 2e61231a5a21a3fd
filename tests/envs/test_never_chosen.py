"""An environment warns, once, of a unit that nothing can choose for what it declares."""

import warnings

import gymnasium as gym
import pytest

from papi_env.envs.registration import ENV_IDS
from papi_env.hardware import unused
from papi_env.hardware.system import SYSTEMS, System
from papi_env.scenario import SCENARIOS

FC_PIM = {**SYSTEMS["papi"].fc_pim.model_dump(), "runs": ("fc", "attention")}
INSIDE = System.model_validate(
    {**SYSTEMS["papi"].model_dump(), "name": "inside", "fc_pim": FC_PIM, "attn_pim": None}
)


def warned(make):
    unused._said.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(item.message) for item in caught if "never chooses" in str(item.message)]


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_attention_inside_the_gpus_stacks(env_id, vector):
    serving = "Serving" in env_id
    size = {"scenario": "saturated/llama-65b"} if serving else {"batch_size": 2, "speculation": 1}
    arguments = {"system": INSIDE, "model": "opt-30b", **size}

    def make():
        for _ in range(2):
            if vector:
                gym.make_vec(env_id, num_envs=3, **arguments)
            else:
                gym.make(env_id, **arguments)

    messages = warned(make)
    if "Kernels" in env_id:
        assert not messages
    else:
        (message,) = messages
        assert "System 'inside': fc_pim.runs names 'attention'" in message
        assert "their default is 'pu'" in message


def test_kernels_that_a_scenario_has_none_of_are_not_missed():
    data = SCENARIOS["vision-stream"].model_dump() | {"system": INSIDE}
    assert not warned(lambda: gym.make("papi_env/Kernels-v0", scenario=data))


def test_a_name_with_a_percent_sign_is_only_a_name():
    system = INSIDE.model_copy(update={"name": "100 %s"})
    (message,) = warned(lambda: gym.make("papi_env/Decode-v0", system=system, model="opt-30b", batch_size=2))
    assert "'100 %s'" in message
