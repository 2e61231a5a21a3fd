"""The registered scenarios with images in which the choice of a unit matters, and what makes it matter."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.registry import make_policy
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.scenario import get_scenario, parse_scenario

SEEDS = range(6)


def seconds(policy, scenario):
    env = KernelsVectorEnv(scenario, num_envs=len(SEEDS), autoreset_mode=AutoresetMode.DISABLED)
    return np.mean(evaluate(make_policy(policy), env, SEEDS)["time_s"])


def gain(scenario):
    """The better static mapping's seconds over the oracle's, prompts left out, which no choice changes."""
    static = min(seconds("static-pu", scenario), seconds("static-fc-pim", scenario))
    return static / seconds("oracle", scenario)


def altered(name, **changes):
    data = get_scenario(name).model_dump()
    for part, values in changes.items():
        data["system"][part] = {**data["system"][part], **values} if isinstance(values, dict) else values
    return parse_scenario(data, name)


@pytest.mark.parametrize("name", ["vision-edge", "vision-edge-shares", "vision-cameras"])
def test_no_single_unit_is_within_a_tenth_of_the_oracle(name):
    assert gain(get_scenario(name)) > 1.1


@pytest.mark.parametrize("name", ["vision-edge", "vision-edge-shares"])
@pytest.mark.parametrize(
    "changes",
    [
        # A kernel's start costs the same on both units, or nothing: what is left is bandwidth against arithmetic.
        {"pim_start_s": get_scenario("vision-edge").system.pu.kernel_start_s},
        {"pim_start_s": 0.0, "pu": {"kernels": "roofline"}},
        {"pu": {"memory_bandwidth": 665.6e9}},
    ],
    ids=["equal starts", "no starts", "a stack's own interface"],
)
def test_on_the_edge_it_is_not_the_starts_of_kernels_that_matter(name, changes):
    assert gain(altered(name, **changes)) > 1.1


def test_on_one_a100_it_is_the_starts_of_kernels_that_matter():
    assert gain(get_scenario("vision-stream")) > 1.1
    equal = get_scenario("vision-stream").system.pu.kernel_start_s
    assert gain(altered("vision-stream", pim_start_s=equal)) < 1.03


def test_rows_and_intensity_are_right_about_one_network_each():
    by_rows, by_intensity = (
        {name: seconds(policy, get_scenario(name)) for name in ("vision-edge", "vision-edge-shares")}
        for policy in ("threshold", "threshold-intensity")
    )
    assert by_intensity["vision-edge"] < 0.8 * by_rows["vision-edge"]
    assert by_rows["vision-edge-shares"] < 0.8 * by_intensity["vision-edge-shares"]
