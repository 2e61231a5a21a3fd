"""Property tests: the same examples on every run, unless a search is asked for.

`HYPOTHESIS_PROFILE=search python -m pytest` draws new examples, twenty times as many.
"""

import os

import pytest
from hypothesis import settings

# Commands that tests start say what they are asked for alone, whoever of them compiles first.
os.environ.setdefault("PAPI_ENV_QUIET", "1")

# chosen: 50 examples of each property, half of the usual number, to save time; the search above has many more.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_xdist_auto_num_workers():
    """One more than there are cores: a process that waits for what another one compiles leaves its own idle."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # as pytest-xdist says
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.fixture(scope="session", autouse=True)
def _logs_of_learners_are_kept_with_the_tests(tmp_path_factory):
    """Stable-Baselines3 makes a folder for the logs of a model without a logger, elsewhere in /tmp."""
    before = os.environ.get("SB3_LOGDIR")
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))
    yield
    if before is None:
        del os.environ["SB3_LOGDIR"]
    else:
        os.environ["SB3_LOGDIR"] = before
