"""Serving-v1: Serving-v0 with one class, ten choices that say what they do, worth that adds up, nothing hidden seen."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN

import papi_env  # noqa: F401 - registers the id
from agents.serving.inside.tuned import profile_all
from papi_env.envs.flatten import FlattenActions
from papi_env.envs.serving import JOINT_ACTIONS, ServingEnv
from papi_env.envs.serving_v1 import ServingV1Env, ServingV1VectorEnv
from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measures import METRIC_NAMES, SERVICE_METRIC_NAMES
from papi_env.simulation.serving.profiled import NUM_PROFILED, PROFILE_NAMES, PROFILED
from papi_env.simulation.serving.seen import see

ID = "papi_env/Serving-v1"
REST = np.zeros(len(at.NVEC_V1) - len(at.NVEC), dtype=np.int64)
SERVE = np.array([at.FC_PIM, 1, at.ALL, 1, *REST])
KEEP = np.array(
    [at.FC_PIM, 1, at.ALL, 1, at.BY_DEADLINE, at.SHED_LATE, 0, at.KEEP_ALL, at.EVICT_RETURN, 0, 0]
)
FIRST = sum(at.NVEC)
PLAIN = {
    "arrivals": {"process": "gamma", "rate_per_s": 20.0, "shape": 0.5},
    "lengths": {"input": 90, "output": 8},
    "objectives": {"ttft_s": 0.4, "tpot_s": 0.02},
    "speculation": {"classes": {"code": 1.0, "writing": 2.0}},
    "requests": 12,
    "max_running": 8,
}
CHAT = {
    "share": 3.0,
    "weight": 2.0,
    "acceptance": {"code": 1.0},
    "patience_s": [0.2, 0.8],
    "shared_prefix": 40,
    "conversation": {"turns": 2.5, "most_turns": 4, "think_s": 0.1},
}
BATCH = {"objectives": {"ttft_s": 2.0, "tpot_s": 0.1}, "acceptance": {"writing": 1.0}}
SERVICE = {"classes": {"chat": CHAT, "batch": BATCH}, "charge": 0.25, "max_waiting": 6, "max_open": 6}


def scenario(system="papi", energy_weight=0.0, service=None, **changes):
    serving = PLAIN | ({} if service is None else {"service": service}) | changes
    return {
        "name": "small",
        "system": system,
        "model": "llama-65b",
        "energy_weight": energy_weight,
        "serving": serving,
    }


def with_classes(**changes):
    return scenario(**({"service": SERVICE, "kv_tokens": 640} | changes))


def steps(env, choose, seed=0, most=3000):
    """Every step's tuple from a reset to the episode's end; `choose` is called with the environment."""
    env.reset(seed=seed)
    for _ in range(most):
        step = env.step(choose(env))
        yield step
        if step[2] or step[3]:
            return
    pytest.fail("the episode does not end")


def sampler(seed=0):
    rng = np.random.default_rng(seed)

    def choose(env):
        parts = np.split(env.action_masks(), np.cumsum(at.NVEC_V1)[:-1])
        return np.array([rng.choice(np.flatnonzero(part)) for part in parts])

    return choose


# --- one class is Serving-v0 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"energy_weight": 1e-3, "drift": {"period_s": 0.5}, "kv_tokens": 400},
        {
            "requests": None,
            "horizon_s": 3.0,
            "lengths": {"table": "dolly-general-qa"},
            "speculation": {"classes": {"code": 0.3, "writing": 0.6, "maths": 0.1}},
        },
        {"system": "a100", "prefill": False, "paging": False, "max_running": 3},
        {"arrivals": {"process": "together"}, "beyond_context": "refuse", "requests": 30},
    ],
    ids=["requests", "pressed", "horizon", "prefilled", "together"],
)
def test_one_class_and_the_first_of_each_choice_is_serving_v0(changes):
    old, new = ServingEnv(scenario(**changes)), ServingV1Env(scenario(**changes), records=True)
    assert new.reference == old.reference
    rng = np.random.default_rng(1)
    shared = at.NUM_STATE_FEATURES
    for seed in (3, None):
        first, second = old.reset(seed=seed)[0], new.reset(seed=seed)[0]
        ended = False
        while not ended:
            np.testing.assert_array_equal(first[:shared], second[:shared])
            np.testing.assert_array_equal(old.action_masks(), new.action_masks()[:FIRST])
            action = rng.integers(0, at.NVEC)
            first, *one, info = old.step(action)
            second, *other, more = new.step(np.concatenate([action, REST]))
            assert one == other
            ended = one[1] or one[2]
            assert {name: more[name] for name in info if name != "metrics"} == {
                name: value for name, value in info.items() if name != "metrics"
            }
        np.testing.assert_equal({name: more["metrics"][name] for name in METRIC_NAMES}, info["metrics"])
        for name, values in old.engine.records(0).items():
            if name != "class":
                np.testing.assert_array_equal(new.engine.records(0)[name], values, err_msg=name)


def test_a_plain_scenario_gets_one_class_that_charges_and_drains_nothing():
    service = ServingV1Env(scenario()).scenario.serving.service
    assert list(service.classes) == ["standard"]
    assert (service.charge, service.drain, service.max_waiting) == (0.0, False, 12)
    given = ServingV1Env(with_classes()).scenario.serving.service
    assert (list(given.classes), given.charge, given.drain) == (["chat", "batch"], 0.25, True)


@pytest.mark.parametrize("serving", [{}, {"service": SERVICE}])
def test_serving_v0_leaves_classes_to_serving_v1(serving):
    whole = scenario(service=None if serving else SERVICE)
    for make in (gym.make, gym.make_vec):
        with pytest.raises(
            ConfigurationError, match=r"'small' has classes of requests, which papi_env/Serving-v1"
        ):
            make("papi_env/Serving-v0", scenario=whole, serving=serving)


def test_what_is_not_combined_with_classes_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"token_budget, which is not combined .* papi_env/Serving-v0"
    ):
        ServingV1Env(scenario(token_budget=512))
    for service in (None, SERVICE):
        with pytest.raises(ConfigurationError, match=r"reward 'on-time', but with classes .* 'attained'"):
            ServingV1Env(scenario(service=service, reward="on-time"))
    with pytest.raises(ConfigurationError, match=r"has no serving part"):
        ServingV1Env("general-qa/llama-65b")
    for name in ("profile", "records"):
        with pytest.raises(ConfigurationError, match=rf"{name} is 'yes', expected true or false"):
            ServingV1Env(scenario(), **{name: "yes"})


# --- actions ---------------------------------------------------------------------------------------------


def test_the_space_is_the_documented_one():
    env = ServingV1Env(with_classes())
    assert env.action_space == gym.spaces.MultiDiscrete([3, 4, 3, 2, 5, 3, 3, 3, 2, 2, 2])
    assert env.choices == len(env.choice_words) == len(env.options) == 11
    assert f"`MultiDiscrete({list(at.NVEC_V1)})`" in type(env).__doc__
    assert env.observation_space.shape == (len(at.OBSERVATION_NAMES_V1),)


ONE = {"classes": {"chat": CHAT}}
ALONE = {"classes": {"a": {"acceptance": {"code": 1.0}}, "b": {"acceptance": {"writing": 1.0}}}}


@pytest.mark.parametrize(
    ("changes", "shedding", "victim", "keeping", "eviction", "drafts"),
    [
        ({"service": SERVICE}, 3, 3, 3, 2, 2),
        ({"service": SERVICE, "paging": False}, 3, 1, 3, 1, 2),
        ({"service": ONE}, 2, 3, 3, 2, 1),
        ({"service": ALONE}, 3, 3, 1, 1, 2),
        ({"service": {"classes": {"a": {}, "b": {}}}}, 3, 3, 1, 1, 2),
        (
            {
                "service": {"classes": {"a": {}, "b": {"weight": 2.0}}},
                "speculation": {"classes": {"code": 1.0}},
            },
            *(3, 3, 1, 1, 1),
        ),
        ({}, 2, 3, 1, 1, 1),
    ],
)
def test_masks_leave_out_what_a_scenario_has_no_use_for(changes, shedding, victim, keeping, eviction, drafts):
    env = ServingV1Env(scenario(**changes))
    env.reset(seed=0)
    parts = np.split(env.action_masks()[FIRST:], np.cumsum(at.NVEC_V1[4:])[:-1])
    assert [int(part.sum()) for part in parts] == [5, shedding, victim, keeping, eviction, drafts, 2]
    assert all(part[0] for part in parts)


def test_strict_environments_name_what_is_not_possible():
    env = ServingV1Env(scenario(), strict=True)
    many = ServingV1VectorEnv(scenario(), num_envs=2, strict=True)
    for choice, option, message in (
        (
            at.SHEDDING,
            at.SHED_CLASS,
            r"shedding 'class' .* scenario 'small'; expected one of \['keep', 'late'\]",
        ),
        (at.KEEPING, at.KEEP_ALL, r"keeping 'keep' .* scenario 'small'; expected one of \['drop'\]"),
        (
            at.DRAFTED_FOR,
            at.DRAFT_ACCEPTED,
            r"drafts 'accepted' .* scenario 'small'; expected one of \['all'\]",
        ),
        (at.ADMISSION, at.NONE, r"admission 'none' .* system 'papi'; expected one of \['one', 'all'\]"),
    ):
        action = SERVE.copy()
        action[choice] = option
        env.reset(seed=0)
        with pytest.raises(ConfigurationError, match=f"Environment 0: {message}"):
            env.step(action)
        many.reset(seed=0)
        with pytest.raises(ConfigurationError, match=f"Environment 1: {message}"):
            many.step(np.stack([SERVE, action]))
        assert env.engine.counters[0, at.ITERATION] == many.engine.counters[0, at.ITERATION] == 0


@pytest.mark.parametrize(("service", "count"), [(SERVICE, 408), (ONE, 264), (None, 264)])
def test_joint_actions_are_those_of_the_page(service, count):
    env = ServingV1Env(scenario(service=service))
    table = env.joint_actions()
    assert table.shape == (count, 11)
    assert len(np.unique(table, axis=0)) == count
    assert all(env.action_space.contains(row) for row in table)
    np.testing.assert_array_equal(table[:72, :4], JOINT_ACTIONS)
    assert not table[:72, 4:].any()
    talks = service is not None
    assert (table[72:, at.KEEPING] == (at.KEEP_ALL if talks else at.KEEP_NONE)).all()
    assert (table[72:, at.EVICTION] == (at.EVICT_RETURN if talks else at.EVICT_LRU)).all()
    assert (table[72:, at.SHEDDING] > 0).all()
    assert (table[72:, at.PACING] == at.BY_CHUNK).all()
    assert set(map(tuple, table[72:264, 4:6])) == {(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (4, 2)}
    # Drafts for some alone where there are drafts.
    assert (table[264:, at.SPECULATION] > 0).all()
    assert (table[264:, at.DRAFTED_FOR] == 1).all()
    env.reset(seed=0)
    np.testing.assert_array_equal(
        FlattenActions(env).action_masks(), env.joint_masks()[0], err_msg="the same masks both ways"
    )
    assert env.joint_masks()[0].sum() < count, "nothing runs yet, so admitting none is excluded"


@pytest.mark.parametrize(
    ("choice", "option", "name"),
    [
        (at.ORDER, at.BY_DEADLINE, "attained_0"),
        (at.SHEDDING, at.SHED_LATE, "dropped"),
        (at.SHEDDING, at.SHED_CLASS, "dropped"),
        (at.KEEPING, at.KEEP_ALL, "hit_tokens"),
    ],
)
def test_a_choice_of_who_is_served_shows_in_the_measures(choice, option, name):
    patient = {"chat": CHAT | {"patience_s": None}, "batch": BATCH}
    service = SERVICE | {"classes": patient, "max_waiting": 60, "max_open": 60}
    whole = with_classes(
        service=service, requests=60, arrivals={"process": "together"}, max_running=2, kv_tokens=2560
    )

    def measured(action):
        return list(steps(ServingV1Env(whole), lambda env: action))[-1][4]["metrics"]

    other = SERVE.copy()
    other[choice] = option
    before, after = measured(SERVE), measured(other)
    assert after[name] > before[name]


# --- rewards, info and metrics ---------------------------------------------------------------------------


@pytest.mark.parametrize("energy_weight", [0.0, 1e-3])
@pytest.mark.parametrize("worth", ["tokens", "requests"])
def test_a_drained_episode_returns_what_was_served_less_the_charge(worth, energy_weight):
    service = SERVICE | {"worth": worth}
    env = ServingV1Env(with_classes(service=service, energy_weight=energy_weight))
    began = env.reset(seed=0)[1]
    assert began["dt_s"] == 0
    total = energy = 0.0
    elapsed = began["time_s"]
    played = list(steps(env, sampler()))
    for _, reward, _, _, info in played:
        total += reward
        energy += info["reward_energy"]
        elapsed += info["dt_s"]
        assert reward == info["reward_goodput"] + info["reward_energy"]
    assert played[-1][2:4] == (True, False)
    metrics = info["metrics"]
    assert list(metrics) == list(SERVICE_METRIC_NAMES)
    assert metrics["offered"] == pytest.approx(metrics["served"] + metrics["lost"], rel=1e-12)
    assert (info["offered"], info["served"], info["lost"]) == tuple(
        metrics[n] for n in ("offered", "served", "lost")
    )
    assert metrics["g"] == pytest.approx(metrics["served"] / metrics["offered"])
    assert 0 < metrics["g"] < 1
    # Affine in G.
    expected = metrics["offered"] * (metrics["g"] - 0.25 * (1 - metrics["g"])) / env.reference + energy
    assert total == pytest.approx(expected, rel=1e-9)
    assert metrics["return"] == pytest.approx(total, rel=1e-12)
    assert elapsed == pytest.approx(metrics["time_s"], rel=1e-9)
    assert metrics["unfinished"] == 0
    assert metrics["sessions"] == 12
    counters = env.engine.counters[0]
    turns = counters[at.CLASS_OFFERED : at.CLASS_OFFERED + 4]
    assert turns.sum() == metrics["arrived"] + metrics["cut"]
    for number in (0, 1):
        attained = counters[at.CLASS_ATTAINED + number]
        assert metrics[f"attained_{number}"] == attained / turns[number]
    assert np.isnan(metrics["attained_2"])


def test_records_are_kept_where_asked():
    known = [
        list(steps(ServingV1Env(with_classes(), records=records), lambda env: SERVE))[-1]
        for records in (True, False)
    ]
    with_records, without = (step[4]["metrics"] for step in known)
    for name in SERVICE_METRIC_NAMES:
        if name.endswith(("_p50_s", "_p90_s", "_p99_s")):
            assert with_records[name] > 0
            assert np.isnan(without[name])
        else:
            np.testing.assert_equal(with_records[name], without[name], err_msg=name)


# --- observations ----------------------------------------------------------------------------------------


def quantities(env, observation):
    return dict(zip(env.observation_names, observation.astype(float).tolist(), strict=True))


def test_classes_are_seen_as_they_stand():
    env = ServingV1Env(with_classes(requests=40))
    waited, kept = set(), 0
    for observation, *_, info in steps(env, lambda env: KEEP):
        seen = quantities(env, observation)
        state, now = env.engine.state, info["time_s"]
        count = info["queued"] - env.engine.counters[0, at.PREEMPTED]
        front = env.engine.counters[0, at.QUEUE_FRONT]
        queue = state.queue[0, front : front + count]
        for number, ttft in ((0, 0.4), (1, 2.0)):
            kinds = env.engine.tables.kinds[state.facts[0, queue, at.CLASS], at.OF_CLASS]
            mine = queue[kinds == number]
            assert seen[f"queued_{number}"] == pytest.approx(len(mine) / (len(mine) + 16), rel=1e-6)
            if len(mine) == 0:
                assert (seen[f"slack_{number}"], seen[f"prompt_{number}"]) == (0.75, 0.0)
                continue
            waited.add(number)
            oldest = state.moments[0, mine, at.ARRIVAL_S].min()
            slack = (oldest + ttft - now) / ttft
            assert seen[f"slack_{number}"] == pytest.approx(0.5 + 0.5 * slack / (1 + abs(slack)), rel=1e-5)
            assert 0 < seen[f"prompt_{number}"] < 1
        assert seen["queued_2"] == seen["slack_2"] == seen["queued_3"] == 0
        assert seen["kept"] == pytest.approx(info["kept_pages"] / 40, rel=1e-6)
        kept += info["kept_pages"]
        assert seen["open"] == pytest.approx(info["open"] / (info["open"] + 64), rel=1e-6)
        judged = info["served"] + info["lost"]
        assert seen["served"] == pytest.approx(info["served"] / judged if judged else 1.0, rel=1e-6)
        lit = {name for name, value in seen.items() if name.startswith("last_") and value == 1.0}
        assert lit >= {
            *("last_order_deadline", "last_shedding_late", "last_victim_latest", "last_keeping_keep"),
            *("last_eviction_return", "last_drafted-for_all", "last_pacing_at-once"),
        }
    assert waited == {0, 1}
    assert kept > 0


def test_classes_are_described():
    env = ServingV1Env(with_classes())
    seen = quantities(env, env.reset(seed=0)[0])
    assert seen["charge"] == 0.25
    assert (seen["drains"], seen["worth_by_tokens"]) == (1.0, 1.0)
    assert [seen[f"share_{c}"] for c in range(4)] == pytest.approx([0.75, 0.25, 0.0, 0.0])
    worth = [seen[f"worth_{c}"] / (1 - seen[f"worth_{c}"]) for c in range(2)]
    assert worth[0] == pytest.approx(2 * worth[1], rel=1e-5)
    # Of all turns the mean is 1.
    turns = 0.75 * 2.5, 0.25
    assert np.average(worth, weights=turns) == pytest.approx(1.0, rel=1e-5)
    assert seen["ttft_objective_1"] > seen["ttft_objective_0"] > 0 == seen["ttft_objective_2"]
    assert seen["goes_on_0"] > 0 == seen["goes_on_1"] == seen["think_1"]
    assert seen["think_0"] == pytest.approx(0.1 / (0.1 + 100 * 0.4), rel=1e-5)
    assert seen["prefix_0"] == pytest.approx(40 / 2088, rel=1e-5)


def test_a_prefix_counts_once_and_kept_pages_are_at_risk_where_others_want_them():
    env = ServingV1Env(with_classes(requests=60, kv_tokens=1280))
    risks = set()
    for observation, *_, info in steps(env, lambda env: KEEP):
        state, counters, clocks = env.engine.state, env.engine.counters[0], env.engine.clocks[0]
        seen = quantities(env, observation)
        prefixes = int(state.prefixes[0, :, at.PREFIX_PAGES].sum())
        assert seen["shared"] == pytest.approx(prefixes / 80, abs=1e-7)
        running = counters[at.PAGE_SUM] + counters[at.PREFILL_PAGES] + counters[at.SHARED_PAGES]
        assert seen["kv_use"] == pytest.approx(running / 80, rel=1e-6)
        queued = counters[at.CLASS_QUEUED : at.CLASS_QUEUED + 4]
        wanted = (queued * clocks[at.CLASS_PROMPT : at.CLASS_PROMPT + 4]).sum() / 16
        kept = info["kept_pages"]
        risk = np.clip((running + kept + wanted - 80) / kept, 0, 1) if kept else 0.0
        assert seen["at_risk"] == pytest.approx(risk, abs=1e-6)
        risks.add(0.5 if 0 < risk < 1 else risk)
    assert prefixes > 0
    assert risks >= {0, 0.5}


def test_what_a_scheduler_cannot_know_is_not_seen():
    """Twins that differ in patience, in turns to come and in when they come look alike until one of these shows."""
    env = ServingV1Env(with_classes(requests=40, kv_tokens=4096))
    env.reset(seed=4)
    compared = 0
    for _ in range(60):
        env.step(KEEP)
        twin = copy.deepcopy(env)
        state, clocks = twin.engine.state, twin.engine.clocks[0]
        soon = clocks[at.NEXT_ARRIVAL_S]
        state.queue_until_s[:] += 1e6
        clocks[at.NEXT_LEAVE_S] = np.inf
        places = state.places[0]
        going = (places[at.NUMBER] >= 0) & np.isfinite(state.place_s[0, at.RETURN_S])
        places[at.TURNS, going] += 3
        state.place_s[0, at.RETURN_S, going] += 50.0
        real = copy.deepcopy(env)
        one, other = real.step(KEEP), twin.step(KEEP)
        quiet = one[4]["time_s"] < soon and one[4]["abandoned"] == env.engine.counters[0, at.ABANDONED]
        if quiet and going.any():
            np.testing.assert_array_equal(one[0], other[0])
            compared += 1
    assert compared > 5


# --- the profile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["papi", "a100", "papi-pim-only"])
def test_the_profile_is_that_of_profile_greedy(system):
    env = ServingV1Env(with_classes(system=system), profile=True)
    plain = ServingV1Env(with_classes(system=system))
    assert env.observation_names == (*plain.observation_names, *PROFILE_NAMES)
    look, busy = env.engine.frame("tables"), np.zeros(at.NUM_RESOURCES)
    scalars = env.engine.tables.scalars
    only, home = int(scalars[at.ONLY_UNIT]), scalars[at.ATTENTION_UNIT]
    lacks = ((only >= 0) & (PROFILED[:, at.FC] != only)) | ((PROFILED[:, at.OVERLAP] == 1) & (home != 2))
    plain.reset(seed=0)
    ran = 0
    for observation, *_, info in steps(env, sampler(2)):
        np.testing.assert_array_equal(
            plain.observation_names, env.observation_names[: len(plain.observation_names)]
        )
        seconds, joules = observation[-2 * NUM_PROFILED : -NUM_PROFILED], observation[-NUM_PROFILED:]
        assert (seconds[lacks] == 1).all()
        assert (joules[lacks] == 1).all()
        if info["queued"] > 0:
            continue  # what waits is an estimate
        seen = see(0, observation[None], scalars)
        chunk, prompt = min(seen.backlog, int(scalars[at.CHUNK])), float(scalars[at.CHUNK])
        out = busy, np.zeros((1, NUM_PROFILED)), np.zeros((1, NUM_PROFILED))
        given = np.array([chunk], dtype=np.int64), np.array([prompt])
        profile_all(PROFILED, observation[None], given, look, out)
        x = out[1][0] / scalars[at.REFERENCE_S]
        y = out[2][0] / (scalars[at.STATIC_W] * scalars[at.REFERENCE_S])
        np.testing.assert_allclose(seconds[~lacks], (x / (1 + x))[~lacks], rtol=1e-6)
        np.testing.assert_allclose(joules[~lacks], (y / (1 + y))[~lacks], rtol=1e-6)
        ran += info["rlp"] > 0
    assert ran > 5


def test_who_waits_lengthens_the_profile():
    env = ServingV1Env(with_classes(arrivals={"process": "together"}), profile=True)
    observation, info = env.reset(seed=0)
    assert info["queued"] > 0
    seconds = observation[-2 * NUM_PROFILED : -NUM_PROFILED]
    assert ((seconds > 0) & (seconds < 1)).all()


def test_forks_rollouts_and_threads_see_the_profile_too():
    one, four = (
        ServingV1VectorEnv(with_classes(), num_envs=4, profile=True, threads=threads) for threads in (1, 2)
    )
    one.reset(seed=0)
    four.reset(seed=0)
    for _ in range(10):
        np.testing.assert_array_equal(one.step(np.tile(KEEP, (4, 1)))[0], four.step(np.tile(KEEP, (4, 1)))[0])
    fork = one.engine.fork(2, 3)
    fork.actions[:] = KEEP
    fork.step()
    after = one.step(np.tile(KEEP, (4, 1)))[0]
    np.testing.assert_array_equal(fork.observations, np.tile(after[2], (3, 1)))


# --- learners --------------------------------------------------------------------------------------------


def test_learners_play_it():
    flat = make_vec(ID, 2, scenario=with_classes(), flatten=True)
    assert flat.action_space.n == 408
    DQN("MlpPolicy", flat, learning_starts=16, buffer_size=64, policy_kwargs={"net_arch": [8]}).learn(48)
    masked = make_vec(ID, 2, scenario=with_classes(), profile=True)
    MaskablePPO(
        "MlpPolicy", masked, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs={"net_arch": [8]}
    ).learn(32)
    assert masked.vector_env.engine.counters[:, at.INVALID].sum() == 0
