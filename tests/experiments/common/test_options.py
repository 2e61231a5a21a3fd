"""Old spellings become today's, and nothing else of a command line changes."""

import pytest

from experiments.common.options import DEFAULT, Spelling, check_counts, respell
from papi_env.errors import ConfigurationError

SPELLINGS = (
    Spelling("--scenario", "--scenarios"),
    Spelling("--policies", "--entries"),
    Spelling("--learned", "--entries", adds=True),
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--seeds", "3", "a b"], ["--seeds", "3", "a b"]),
        (["x", "--scenario", "a", "b", "--seeds", "3"], ["x", "--scenarios", "a", "b", "--seeds", "3"]),
        (["--scenario=a"], ["--scenarios", "a"]),
        (["--entries", "a", "--seeds", "1"], ["--entries", "a", "--seeds", "1"]),
        (["--policies", "a", "--seeds", "1", "--learned", "b"], ["--entries", "a", "b", "--seeds", "1"]),
        (["--learned", "b", "--entries", "a"], ["--entries", "a", "b"]),
        (["--learned", "b", "c"], ["--entries", DEFAULT, "b", "c"]),
        (["--learned", "b", "--scale=-2"], ["--entries", DEFAULT, "b", "--scale", "-2"]),
        (["--scenario", "a", "--trace_json"], ["--scenarios", "a", "--trace_json"]),
        ([], []),
    ],
)
def test_old_spellings_become_new_ones(old, new):
    assert respell(old, SPELLINGS) == new


@pytest.mark.parametrize(("seed", "seeds"), [(-1, 1), (0, 0), (2**62, 1)])
def test_counts_that_are_none_are_refused(seed, seeds):
    with pytest.raises(ConfigurationError, match="--seed is"):
        check_counts(seed, seeds)


def test_counts_name_the_seeds():
    assert check_counts(5, 3) == (5, 6, 7)
