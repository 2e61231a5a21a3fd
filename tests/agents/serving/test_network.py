"""The network that sees requests: what it is untrained, inside the loop and outside, and as a file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.checkpoint import (
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    document_digest,
    load_checkpoint,
    save_checkpoint,
)
from agents.learned.onnx_export import network_to_onnx
from agents.learned.policy import load_policy
from agents.learned.request_network import RequestNetwork
from agents.registry import make_policy
from agents.serving.combined import ServingTuned
from agents.serving.network import NUM_WEIGHTS, SeesRequests, untrained
from papi_env.envs.serving import ServingVectorEnv
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError, DataError
from papi_env.simulation.serving import state as at

SEEDS = [3, 4]


def env_of(name="chats/llama-65b", num_envs=2, horizon_s=6.0, **arguments):
    return ServingV1VectorEnv(
        name,
        num_envs=num_envs,
        autoreset_mode=AutoresetMode.DISABLED,
        serving={"horizon_s": horizon_s},
        **arguments,
    )


def drawn(seed=0):
    return untrained(seed) + np.random.default_rng(seed).normal(0.0, 0.3, NUM_WEIGHTS)


def checkpoint(weights):
    network = RequestNetwork()
    description = Description(
        algorithm="Evolution",
        env="papi_env/Serving-v1",
        observation=ObservationLayout(names=at.OBSERVATION_NAMES_V1),
        action=ActionLayout(options=at.NVEC_V1),
        architecture=network,
        masked=False,
    )
    return Checkpoint(description, network.split(weights))


@pytest.mark.parametrize("name", ["overload/llama-65b", "bursts/llama-3.1-70b", "agents/llama-65b"])
def test_untrained_it_is_the_rule_that_goes_by_weight_per_work(name):
    env = env_of(name, horizon_s=3.0)
    found = evaluate(SeesRequests(), env, SEEDS)
    rule = SeesRequests()
    rule.bind(env)
    same = ServingTuned.kind(
        **{
            **vars(rule.parameters),
            "admit_slack": -1e9,
            "order": "weight-per-work",
            "shedding": "late",
            "victim": "latest",
            "keeping": "keep",
            "eviction": "return",
            "drafted_for": "draft-all",
            "pacing": "by-chunk",
        }
    )
    expected = evaluate(ServingTuned(same), env, SEEDS)
    assert expected["offered"].min() > 0
    np.testing.assert_array_equal(found["return"], expected["return"])


def test_inside_the_loop_and_step_by_step_it_decides_alike():
    env = env_of()
    inside = evaluate(SeesRequests(drawn()), env, SEEDS)
    outside = evaluate(SeesRequests(drawn()), env, SEEDS, inside=False)
    np.testing.assert_array_equal(inside["return"], outside["return"])
    np.testing.assert_array_equal(inside["iterations"], outside["iterations"])
    assert not inside["invalid_actions"].any()


def test_weights_change_what_is_done_and_each_environment_has_its_own():
    env = env_of()
    first, second = (evaluate(SeesRequests(drawn(seed)), env, SEEDS)["return"] for seed in (1, 2))
    assert (first != second).any()
    both = evaluate(SeesRequests(drawn(1), drawn(2)), env_of(num_envs=4), SEEDS * 2)["return"]
    np.testing.assert_array_equal(both, np.concatenate([first, second]))


def test_it_goes_through_a_file_and_back(tmp_path):
    made = checkpoint(drawn())
    folder = save_checkpoint(tmp_path / "policy", made)
    policy = load_policy(folder)
    assert isinstance(policy, SeesRequests)
    np.testing.assert_array_equal(policy.weights[0], drawn().astype(np.float32).astype(np.float64))
    assert load_checkpoint(folder).description == made.description
    with pytest.raises(ConfigurationError, match="sees requests"):
        network_to_onnx(made)


@pytest.mark.parametrize(
    ("field", "value"), [("hidden", 9), ("traits", 7), ("network", "others"), ("machine", "13")]
)
def test_a_network_of_another_layout_is_refused(tmp_path, field, value):
    folder = save_checkpoint(tmp_path / "policy", checkpoint(drawn()))
    document = json.loads((folder / "policy.json").read_text())
    document["architecture"][field] = value
    del document["sha256"]
    document["sha256"] = document_digest(document)
    (folder / "policy.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=field):
        load_policy(folder)


def test_presets_of_a_traffic_are_played_with_its_weights(tmp_path):
    network = RequestNetwork(traffics=("chats",))
    plain = checkpoint(drawn(1))
    description = plain.description.model_copy(update={"architecture": network})
    both = Checkpoint(description, {**network.split(drawn(1)), **network.split(drawn(2), "chats")})
    policy = load_policy(save_checkpoint(tmp_path / "policy", both))
    for name, weights in (
        ("chats/llama-65b", drawn(2)),
        ("chat-bursts/llama-65b", drawn(2)),
        ("bursts/llama-65b", drawn(1)),
    ):
        env = env_of(name)
        expected = evaluate(SeesRequests(weights.astype(np.float32).astype(np.float64)), env, SEEDS)
        np.testing.assert_array_equal(evaluate(policy, env, SEEDS)["return"], expected["return"])


def test_parts_fix_what_it_would_choose(tmp_path):
    folder = save_checkpoint(tmp_path / "policy", checkpoint(drawn(1)))
    env = env_of(horizon_s=12.0)
    free, fixed = make_policy(str(folder)), make_policy(f"{folder}+deadline+shed-class")
    assert (evaluate(free, env, SEEDS)["return"] != evaluate(fixed, env, SEEDS)["return"]).any()
    with pytest.raises(ConfigurationError, match="deadlin"):
        make_policy(f"{folder}+deadlin")
    with pytest.raises(ConfigurationError, match="see requests"):
        make_policy("agents/pretrained/decode-v0+late")


def test_weights_that_are_none_are_refused():
    with pytest.raises(ConfigurationError, match=str(NUM_WEIGHTS)):
        SeesRequests(np.zeros(3))
    with pytest.raises(ConfigurationError, match="finite"):
        SeesRequests(np.full(NUM_WEIGHTS, np.nan))
    with pytest.raises(ConfigurationError, match="multiple"):
        SeesRequests(drawn(1), drawn(2)).bind(env_of(num_envs=3))


def test_serving_v0_is_not_its_problem():
    with pytest.raises(ConfigurationError, match="Serving-v1 alone"):
        SeesRequests().bind(ServingVectorEnv(num_envs=2))


def test_a_description_of_other_observations_does_not_fit_it():
    made = checkpoint(drawn())
    with pytest.raises(ValueError, match="features"):
        Description.model_validate(
            {**made.description.model_dump(), "observation": {"names": ("queued",), "low": 0, "high": 1}}
        )
    with pytest.raises(DataError, match=r"query\.hidden"):
        replace(made, weights={**made.weights, "query.hidden": np.zeros((1, 1), dtype=np.float32)})
