"""What `experiments.throughput` measures of a long trace: the Python loop beside the policy inside the compiled one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.arena.settings import replay_scenario
from experiments.speed.inside import Prepared, measure_prepared
from experiments.speed.measure import SERVING
from experiments.speed.parts import Effort, Findings, Ratio, Say
from papi_env.envs.serving import ServingVectorEnv
from papi_env.scenario import Scenario, get_scenario

# Machine, model and objectives that `experiments.serve` has where none are named.
PRESET, POLICY = "saturated/llama-65b", "threshold"
# What is replayed without a file: requests of the hour of Azure's conversation trace, with its lengths and its rate
# (19 366 requests in an hour, see `papi_env.workload.lengths`), but evenly mixed and Poisson arrivals.
LENGTHS, REQUESTS, SECONDS = "azure-conversation", 19_366, 3600.0
# chosen: a call through Python takes a dozen seconds, and the two differ by far more than machines do (range: 2 on).
_ROUNDS = 3


def replayed(trace: Path | None, requests: int) -> tuple[Scenario, str]:
    """The scenario that is replayed, and what it is.

    Raises:
        ConfigurationError, DataError: the trace cannot be read.
    """
    if trace is not None:
        return replay_scenario(get_scenario(PRESET), trace), f"the trace {trace.name}"
    what = f"{requests} requests generated with the rate and lengths of {LENGTHS}"
    return generated(requests), what


def generated(requests: int) -> Scenario:
    """That scenario with so many requests like those of the trace."""
    arrivals = {"process": "poisson", "rate_per_s": REQUESTS / SECONDS}
    serving = {"arrivals": arrivals, "lengths": {"table": LENGTHS}, "requests": requests}
    return get_scenario(PRESET).replace(serving=serving)


def replay(found: Findings, effort: Effort, say: Say, trace: Path | None = None) -> None:
    """Episodes under the threshold, through Python and inside: a long trace, and a run as long as peers report."""
    scenario, what = replayed(trace, effort.replayed_requests)
    say(f"replays of {what}")
    found.ratios["ratio_replay"] = _beside(found, effort, scenario, what)
    what = f"{effort.run_requests} requests"
    say(f"runs of {what}")
    _beside(found, effort, generated(effort.run_requests), what)


def _beside(found: Findings, effort: Effort, scenario: Scenario, what: str) -> Ratio:
    """One episode from its reset to its metrics, both ways."""
    env = ServingVectorEnv(scenario, num_envs=1, autoreset_mode=AutoresetMode.DISABLED)
    policy = make_policy(POLICY)

    def play(inside: bool) -> int:
        return int(evaluate(policy, env, (0,), inside=inside)["iterations"].sum())

    ways = {"through Python": False, "inside": True}
    timed = [Prepared(words, lambda: None, partial(play, inside)) for words, inside in ways.items()]
    rates = measure_prepared(timed, min(effort.rounds, _ROUNDS))
    iterations = play(True)
    for words in ways:
        seconds = iterations / rates[words].steps_per_s
        found.add_values("replay", SERVING, "s/run", seconds, variant=f"{what}, {POLICY} {words}", envs=1)
    first, second = ways
    found.add("replay", SERVING, rates[first], variant=f"{what}, {POLICY} {first}", envs=1)
    about = {"variant": f"{what}, {POLICY} {second}", "reference": first, "envs": 1}
    ratios = found.add("replay", SERVING, rates[second], rates[first], **about)
    return Ratio.of(ratios, f"{what}, {iterations} iterations, {POLICY}")
