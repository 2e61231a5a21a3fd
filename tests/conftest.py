"""Property tests: the same examples on every run, unless a search is asked for.

`HYPOTHESIS_PROFILE=search python -m pytest` draws new examples, ten times as many.
"""

import os
from collections import Counter

import pytest
from hypothesis import settings

# Commands that tests start say what they are asked for alone, whoever of them compiles first.
os.environ.setdefault("PAPI_ENV_QUIET", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


# Begun in this order, one file on each of two processes: the first compiles the engine of serving for all, while the
# other works on what does not need it. With both at the same time, one would compile and the other wait.
FIRST = ("test_contract.py", "test_code.py", "test_reproduce.py", "test_planning.py")


def pytest_collection_modifyitems(items):
    """Files in the order above, then those with the most tests."""
    tests = Counter(item.path for item in items)

    def order(item):
        name = item.path.name
        place = FIRST.index(name) if name in FIRST else len(FIRST)
        return place, -tests[item.path], item.path

    items.sort(key=order)


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
