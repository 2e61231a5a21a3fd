"""What rules remember from one decision to the next, compiled: estimates of drafts and prompts, ages of units.

Every environment has a row of `NUM_MEMORY` numbers. A row of zeros knows nothing: so an episode begins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agents.serving.inside.compiled import exposed, inlined, unlocked
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.seen import see, seen_acceptance

# Drafted tokens of late, weighed; requests that decoded at the last decision.
EVIDENCE, LAST_RLP = 0, 1
# Prompt tokens that were seen to come, and with how many requests; both fade.
TOKENS, REQUESTS = 2, 3
# At the last decision: requests that it would admit, and prompt tokens that waited.
ADMITTED, BACKLOG = 4, 5
# Iterations since PUs and FC-PIM were last used, as of the coming decision.
AGE = 6
# Scratch of a decision, see `network`.
SCRATCH = 8
NUM_MEMORY = SCRATCH + 16

# Acceptance before anything was drafted: the measured rates of small models lie between 0.5 and 0.84. It counts
# as much as so many drafted tokens. chosen: 64, a few iterations; range 8-512.
PRIOR_ACCEPTANCE = 0.65
PRIOR_DRAFTS = 64.0
# Share of the evidence that is forgotten in an iteration, so that drafting is tried again some time after it
# did not pay: requests change. chosen: 1/128, some seconds; range 1/1024-1/16.
FORGETTING = 1.0 / 128.0
# Share of what is known of prompts that is forgotten whenever requests are admitted. chosen: 1/32, some tens of
# requests; range 1/256-1/8.
PROMPT_FORGETTING = 1.0 / 32.0


class Known(NamedTuple):
    """What is made of the past: the chance that a drafted token is accepted, and a prompt's tokens on average."""

    acceptance: float
    prompt: float


@inlined
def chunk_tokens(scalars):
    """Prompt tokens of a full chunk; 0 where prompts arrive processed."""
    return scalars[at.CHUNK] if scalars[at.PREFILL_ON] > 0.0 else 0.0


@inlined
def know_acceptance(e, seen, observations, memory):
    """Take the last iteration into account; the chance that a drafted token is accepted.

    The moving averages of the observation, weighed by how many tokens were drafted lately against a prior: a single
    early rejection does not end drafting for good.
    """
    drafted = max(seen.last_speculation - 1, 0) * memory[e, LAST_RLP]
    evidence = (1.0 - FORGETTING) * memory[e, EVIDENCE] + drafted
    memory[e, EVIDENCE] = evidence
    memory[e, LAST_RLP] = seen.rlp
    acceptance = seen_acceptance(e, observations)
    if np.isnan(acceptance):
        acceptance = PRIOR_ACCEPTANCE
    return (PRIOR_DRAFTS * PRIOR_ACCEPTANCE + evidence * acceptance) / (PRIOR_DRAFTS + evidence)


@inlined
def know(e, seen, observations, memory, scalars):
    """Take the last iteration into account; what is `Known` then.

    If all who waited were admitted, who waits now came during the last iteration; the prompt tokens that were
    processed or wait now, beyond those that waited before, are theirs.
    """
    everyone = seen.queued == 0 or seen.oldest_wait_s <= 1.001 * seen.last_s
    came = (seen.backlog + seen.last_chunk) - memory[e, BACKLOG]
    count = memory[e, ADMITTED] if everyone and came > 0.0 else 0.0
    keep = 1.0 - PROMPT_FORGETTING * min(count, 1.0)
    memory[e, TOKENS] = keep * memory[e, TOKENS] + (came if count != 0.0 else 0.0)
    memory[e, REQUESTS] = keep * memory[e, REQUESTS] + count
    prompt = (chunk_tokens(scalars) + memory[e, TOKENS]) / (1.0 + memory[e, REQUESTS])
    return Known(know_acceptance(e, seen, observations, memory), prompt)


@inlined
def remember(e, seen, admitting, memory):
    """Note whether those who wait are to be admitted now."""
    memory[e, ADMITTED] = seen.queued if admitting else 0
    memory[e, BACKLOG] = seen.backlog


@exposed
def coming_chunk(seen, admitting, prompt, scalars):
    """Prompt tokens to expect in the coming iteration, if those who wait have prompts of `prompt` tokens."""
    waiting = seen.queued * prompt if admitting else 0.0
    return np.int64(min(seen.backlog + waiting, chunk_tokens(scalars)))


@exposed
def expected_gain(acceptance, length):
    """Tokens that an iteration gains a request on average, verifying `length` with drafts passing by `acceptance`."""
    gained = 1.0
    for _ in range(length - 1):
        gained = 1.0 + acceptance * gained
    return gained


@unlocked
def know_all(observations, scalars, memory, acceptance, prompt):
    """`know` for every row, into `acceptance` and `prompt`, float64 [num_envs]."""
    for e in range(observations.shape[0]):
        known = know(e, see(e, observations, scalars), observations, memory, scalars)
        acceptance[e] = known.acceptance
        prompt[e] = known.prompt


@unlocked
def know_acceptances(observations, scalars, memory, acceptance):
    """`know_acceptance` for every row, into `acceptance`, float64 [num_envs]."""
    for e in range(observations.shape[0]):
        acceptance[e] = know_acceptance(e, see(e, observations, scalars), observations, memory)
