"""Whom to serve, by words: the further choices of Serving-v1 as parts of a policy's name.

`profile-greedy+deadline+late+keep+return` is profile-greedy that admits by deadline, drops who cannot be in time any
more, keeps the context of finished turns, and evicts who comes back last. Parts come in any order; a choice that no
part names is what Serving-v0 always does, or is left to a rule that makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from agents.serving.inside.choices import LEFT, NUM_SERVICE
from papi_env.errors import ConfigurationError, lookup
from papi_env.simulation.serving import state as at

# Every option by a word that no other has, in the order of `state.SERVICE_CHOICES`, the first as in Serving-v0.
WORDS: Mapping[str, tuple[str, ...]] = {
    "order": at.SERVICE_CHOICES[at.ORDER - at.ORDER],
    "shedding": ("shed-none", "late", "shed-class"),
    "victim": at.SERVICE_CHOICES[at.VICTIM - at.ORDER],
    "keeping": ("keep-none", "keep", "keep-class"),
    "eviction": at.SERVICE_CHOICES[at.EVICTION - at.ORDER],
    "drafted_for": ("draft-all", "draft-accepted"),
    "pacing": at.SERVICE_CHOICES[at.PACING - at.ORDER],
}
CHOICE_NAMES = tuple(WORDS)
# Options that know what no scheduler does, when conversations go on and how long answers will be: policies with them
# are privileged.
CLAIRVOYANT: Mapping[str, tuple[int, int]] = {
    "belady": (at.EVICTION - at.ORDER, at.EVICT_TRUE_RETURN),
    "weight-per-true-work": (at.ORDER - at.ORDER, at.BY_TRUE_WORK),
    "weight-per-true-space": (at.ORDER - at.ORDER, at.BY_TRUE_SPACE),
}
# Where a word stands: which of the choices, and which option of it.
_PLACES = {
    word: (choice, option) for choice, words in enumerate(WORDS.values()) for option, word in enumerate(words)
}
_PLACES.update(CLAIRVOYANT)
SEPARATOR = "+"

IntArray = npt.NDArray[np.int64]


def nothing_given() -> IntArray:
    """The further choices, all left to the rule; int64 [7]."""
    return np.full(NUM_SERVICE, LEFT, dtype=np.int64)


def parse_parts(name: str, parts: Iterable[str]) -> IntArray:
    """The further choices that parts of a policy's name give, int64 [7]; `LEFT` where none does.

    Raises:
        ConfigurationError: a part is unknown, or two parts are of one choice.
    """
    found = nothing_given()
    given: dict[int, str] = {}
    for part in parts:
        choice, option = lookup(f"part of policy {name!r},", part, _PLACES)
        if choice in given:
            raise ConfigurationError(
                f"Policy {name!r} names two options of {CHOICE_NAMES[choice]}, {given[choice]!r} and {part!r}; "
                "expected one"
            )
        given[choice] = part
        found[choice] = option
    return found


def parts_of(choices: Iterable[int]) -> str:
    """What such choices add to a policy's name; nothing for those that are left to it."""
    words = {place: word for word, place in _PLACES.items()}
    return "".join(f"{SEPARATOR}{words[place]}" for place in enumerate(choices) if place[1] != LEFT)


def clairvoyant(choices: IntArray) -> dict[int, int]:
    """Which of the further choices, int64 [choices], take an option that knows what will come: option by choice."""
    return {choice: option for choice, option in CLAIRVOYANT.values() if choices[choice] == option}
