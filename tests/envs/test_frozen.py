"""What every registered environment returns stays the same to the last bit.

Hashes of observations, rewards and ends of episodes on many scenarios, of one environment and of a batch, and the
metrics at the end. Run this file as a script to write `tests/data/frozen_environments.json` anew, after a change
that is meant: its differences show which scenarios and which of the three changed.
"""

import hashlib
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import papi_env  # noqa: F401  registers the ids

FROZEN = Path(__file__).resolve().parents[1] / "data" / "frozen_environments.json"
STEPS, BATCH, SEED = 60, 3, 5
DECODE, KERNELS, SERVING, SERVING_V1 = FROZEN_IDS = (
    "papi_env/Decode-v0",
    "papi_env/Kernels-v0",
    "papi_env/Serving-v0",
    "papi_env/Serving-v1",
)
TEXT = (
    {},
    {"scenario": "general-qa/opt-30b", "batch_size": 4, "speculation": 4, "acceptance_rate": 0.7},
    {"scenario": "creative-writing/gpt3-66b", "batch_size": 16, "speculation": 2, "energy_weight": 1e-3},
    {"scenario": "general-qa/gpt3-175b", "batch_size": 64, "speculation": 1, "switch_s": 1e-5},
    {"scenario": "azure-code/llama2-70b", "batch_size": 8, "speculation": 8, "acceptance_rate": 0.5},
    {"scenario": "azure-conversation/llama-65b", "system": "papi-h100", "batch_size": 32},
    {"system": "a100-attacc", "batch_size": 16, "speculation": 4},
    {"system": "a100-hbm-pim", "batch_size": 4},
    {"system": "attacc-only", "batch_size": 2, "speculation": 2, "acceptance_rate": 0.9},
    {"system": "papi-pim-only", "batch_size": 8, "speculation": 4, "acceptance_rate": 0.64},
    {"system": "h100", "model": "opt-30b", "batch_size": 8},
    {"system": "papi-1gpu", "model": "opt-30b", "batch_size": 1, "speculation": 8, "acceptance_rate": 0.8},
)
ARGUMENTS = {
    DECODE: TEXT,
    KERNELS: (
        *TEXT[1::2],
        {"scenario": "vision-stream"},
        {"scenario": "vision-stream", "reparameterized": False, "network": "repmlpnet-t224"},
        {"scenario": "vision-stream", "system": "papi-pim-only", "network": "repmlpnet-l256"},
        {"scenario": "vision-stream", "energy_weight": 1e-3, "switch_s": 0.0},
        {"scenario": "vision-language", "batch_size": 8, "speculation": 2, "acceptance_rate": 0.7},
    ),
    SERVING: (
        {},
        {"scenario": "light/llama2-70b"},
        {"scenario": "bursty/gpt3-175b", "serving": {"horizon_s": 4.0}},
        {"scenario": "long-context/llama-65b"},
        {"scenario": "short-context/llama-65b", "serving": {"requests": 5, "max_running": 8}},
        {"scenario": "energy-priced/llama2-70b", "serving": {"reward": "on-time"}},
        {"scenario": "tight-objectives/gpt3-175b", "serving": {"dual_row_buffers": True}},
        {"scenario": "drifting/llama-65b", "serving": {"drift": {"period_s": 0.5, "pu": 2.0, "fc_pim": 1.5}}},
        {"system": "papi-pim-only", "model": "llama2-70b", "serving": {"requests": 20}},
        {"system": "a100", "model": "llama2-70b", "serving": {"requests": 20}},
        {"system": "papi-h100", "switch_s": 1e-5, "serving": {"prefill": False, "decision_s": 1e-3}},
        {"scenario": "saturated/llama-65b", "serving": {"arrivals": {"process": "together"}, "requests": 40}},
    ),
    SERVING_V1: (
        {"scenario": "saturated/llama-65b", "serving": {"horizon_s": 0.5}},
        {"scenario": "overload/llama-65b"},
        {"scenario": "bursts/gpt3-175b", "serving": {"horizon_s": 4.0}},
        {"scenario": "storms/llama-65b", "profile": True},
        {"scenario": "two-classes/llama-65b", "serving": {"dual_row_buffers": True}},
        {"scenario": "agents/llama-65b", "serving": {"kv_tokens": 8192}},
        {"scenario": "documents/llama-3.1-70b", "serving": {"kv_tokens": 32768, "max_running": 16}},
        {"scenario": "wandering/llama-65b", "serving": {"horizon_s": 0.5}},
        {"scenario": "priced/llama-3.1-70b", "switch_s": 1e-5},
        {"scenario": "hot/llama-65b", "serving": {"prefill": False, "requests": 20, "horizon_s": None}},
        {"scenario": "experts/qwen3-30b-a3b"},
    ),
}
CASES = [(env_id, k) for env_id in FROZEN_IDS for k in range(len(ARGUMENTS[env_id]))]


def sizes(space):
    """How many options each choice has."""
    return np.array(getattr(space, "nvec", [getattr(space, "n", 0)]), dtype=np.int64)


def action(space, step, env):
    """Every option in turn, in another order for each environment and choice."""
    options = sizes(space)
    chosen = (step * 7 + step // 5 + 3 * env + (2 + step // 3) * np.arange(len(options))) % options
    return chosen if isinstance(space, gym.spaces.MultiDiscrete) else chosen[0]


def digest(arrays, dtype):
    return hashlib.sha256(b"".join(np.asarray(a, dtype=dtype).tobytes() for a in arrays)).hexdigest()[:32]


def hashes(observations, rewards, ends):
    return {
        "observations": digest(observations, np.float32),
        "rewards": digest(rewards, np.float64),
        "ends": digest(ends, np.bool_),
    }


def plain(values):
    """Numbers of an array as JSON holds them."""
    return [None if np.isnan(x) else x for x in np.asarray(values).tolist()]


def alone(env_id, arguments):
    """One environment, reset where its episode ends."""
    env = gym.make(env_id, **arguments)
    observation, _ = env.reset(seed=SEED)
    observations, rewards, ends, over = [observation], [], [], []
    for step in range(STEPS):
        observation, reward, terminated, truncated, info = env.step(action(env.action_space, step, 0))
        observations.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
        if terminated or truncated:
            over.append(info["metrics"])
            observations.append(env.reset()[0])
    metrics = {name: plain(values)[0] for name, values in env.unwrapped.metrics().items()}
    if over:
        assert list(over[-1]) == list(metrics)
        metrics = {name: plain([x])[0] for name, x in over[-1].items()}
    env.close()
    return {**hashes(observations, rewards, ends), "episodes": len(over), "metrics": metrics}


def together(env_id, arguments, mode):
    """A batch, whose episodes end after 25 steps at the latest."""
    envs = gym.make_vec(env_id, num_envs=BATCH, max_episode_steps=25, autoreset_mode=mode, **arguments)
    observation, _ = envs.reset(seed=SEED)
    observations, rewards, ends, episodes, final = [observation], [], [], 0, []
    space = envs.single_action_space
    for step in range(STEPS):
        actions = np.array([action(space, step, env) for env in range(BATCH)])
        observation, reward, terminated, truncated, infos = envs.step(actions)
        observations.append(observation)
        rewards.append(reward)
        ends += [terminated, truncated]
        episodes += int((terminated | truncated).sum())
        if "final_obs" in infos:
            final.append(infos["final_obs"][infos["_final_obs"]])
    metrics = {name: plain(values) for name, values in envs.unwrapped.metrics().items()}
    envs.close()
    found = hashes(observations, rewards, ends)
    return {**found, "final": digest(final, np.float32), "episodes": episodes, "metrics": metrics}


def played(env_id, k):
    """Everything on record of one case. Half of the batches restart in the step of the end, half in the next."""
    arguments = ARGUMENTS[env_id][k]
    mode = ("NextStep", "SameStep")[k % 2]
    return {"alone": alone(env_id, arguments), "together": together(env_id, arguments, mode)}


@pytest.fixture(scope="module")
def frozen():
    return json.loads(FROZEN.read_text())


@pytest.mark.parametrize(("env_id", "k"), CASES)
def test_environments_return_what_they_did_to_the_last_bit(env_id, k, frozen):
    then = frozen[env_id]["cases"][k]
    assert then["arguments"] == ARGUMENTS[env_id][k]
    now = played(env_id, k)
    names = frozen[env_id]["metrics"]
    for way in ("alone", "together"):
        metrics, recorded = now[way].pop("metrics"), then[way].pop("metrics")
        assert now[way] == then[way], way
        assert list(metrics) == names
        for name, value in zip(names, recorded, strict=True):
            ours, theirs = (np.array(x, dtype=float) for x in (metrics[name], value))
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=f"{way}: {name}")


def test_the_record_has_every_environment_and_ends_of_episodes(frozen):
    assert set(frozen) == set(FROZEN_IDS)
    for env_id in FROZEN_IDS:
        cases = frozen[env_id]["cases"]
        assert len(cases) == len(ARGUMENTS[env_id]) >= 10
        assert all(case["together"]["episodes"] > 0 for case in cases)
        assert len({case["alone"]["observations"] for case in cases}) == len(cases)
    for env_id in (KERNELS, SERVING, SERVING_V1):
        assert any(case["alone"]["episodes"] > 0 for case in frozen[env_id]["cases"]), env_id


if __name__ == "__main__":
    parts = []
    for env_id in FROZEN_IDS:
        rows, names = [], []
        for k, arguments in enumerate(ARGUMENTS[env_id]):
            found = played(env_id, k)
            names = list(found["alone"]["metrics"])
            for way in found.values():
                assert list(way["metrics"]) == names
                way["metrics"] = list(way["metrics"].values())
            rows.append(json.dumps({"arguments": arguments, **found}))
        parts.append(
            f'"{env_id}": {{"metrics": {json.dumps(names)}, "cases": [\n' + ",\n".join(rows) + "\n]}"
        )
    FROZEN.write_text("{\n" + ",\n".join(parts) + "\n}\n")
