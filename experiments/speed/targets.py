"""What `experiments.throughput` measures by name, and what its ratios must reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A ratio with a name: what it is, what it must reach, and what would be good.

    `at_most` turns the comparison round. `part` is what measures it.
    """

    name: str
    what: str
    part: str
    must: float
    goal: float
    at_most: bool = False

    def reached(self, value: float) -> str:
        """`goal`, `yes` or `no`."""
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.goal:
            return "goal"
        return "yes" if sign * value >= sign * self.must else "no"


TARGETS = (
    Target("ratio_decode_single", "Decode-v0 through make / CartPole-v1", "single", 0.6, 1.0),
    Target(
        "ratio_decode_batch",
        "4096 Decode-v0 of 16 requests, TLP 1 / CartPole's vector version",
        "batch",
        0.85,
        2.0,
    ),
    Target("ratio_decode_batch_tlp4", "the same at TLP 4, acceptance drawn", "batch", 0.5, 1.5),
    Target("ratio_kernels_batch", "Kernels-v0 likewise, TLP 1", "batch", 0.7, 1.5),
    Target("ratio_serving_batch", "1024 Serving-v1 of 64 concurrent / CartPole's", "batch", 0.12, 0.3),
    Target(
        "ratio_fork",
        "1024 forks of Serving-v0, copies included / as many plain, 200 steps",
        "inside",
        0.8,
        1.0,
    ),
    Target("ratio_v1", "64 Serving-v1 of one class / Serving-v0 at equal load", "inside", 1 / 1.5, 1.0),
    Target("ratio_v1_conversations", "the same with three classes and conversations", "inside", 1 / 1.5, 1.0),
    Target("ratio_policy_inside", "an evaluation of profile-greedy inside / through Python", "inside", 5, 15),
    Target("ratio_policy_inside_64", "the same of 64 environments", "inside", 5, 15),
    Target("ratio_replay", "a long trace under the threshold, inside / through Python", "replay", 10, 40),
    Target("ratio_threads", "two threads over one, 4096 Decode-v0", "threads", 1.7, 1.95),
    Target("ratio_ppo_same", "PPO, adapter / DummyVecEnv, same settings", "ppo", 2.5, 4),
    Target("ratio_ppo_target", "time to 1 % of the oracle, SB3 defaults / adapter tuned", "target", 15, 30),
    Target("share_env", "environments and adapter in PPO's time", "ppo", 0.15, 0.05, at_most=True),
)
# In this order; those that train come last, since they are long.
PARTS: Mapping[str, str] = {
    # These first: threads that another part's libraries start while pinned would stay on that core.
    "threads": "one thread and two",
    "jobs": "one process and two, of this machine and of Ray",
    "single": "every id through make",
    "batch": "batches of every id, and bytes of state",
    "adapter": "SB3's adapter alone",
    "inside": "forks and policies inside the loop",
    "crowded": "machines on which many run and wait, by what is asked",
    "replay": "an hour of requests, through Python and inside",
    "sweeps": "over requests, TLP and environments",
    "grid": "seconds per grid point",
    "startup": "import and first step",
    "ppo": "PPO's steps per second",
    "target": "PPO's time to the oracle",
}
# Those that need more cores than one.
UNPINNED = ("threads", "jobs")
