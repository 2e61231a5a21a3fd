"""What the coming iteration takes as the offline profile has it, compiled, for rules and as features of observations.

Profile: times of kernels by rows on an undrifted machine, slow-downs as last observed, contexts on average.
"""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import COLUMNS_PER_ROW, GROUP_TOKENS
from papi_env.simulation.compiled import inlined, unlocked
from papi_env.simulation.features import Feature, names, squash
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.parts import of_layers
from papi_env.simulation.serving.requests import key_rows_of
from papi_env.simulation.serving.seen import ALMOST_ONE, see
from papi_env.simulation.serving.state import SERVICE_COLUMN
from papi_env.simulation.serving.terms import NOTHING, Decoding, Placement, PromptChunk, Slowdowns
from papi_env.workload.serving import SPECULATION_LENGTHS, WATERMARK

# Unit, speculation and overlap: int64 [24, 4], with whoever fits admitted; who that is changes no kernel's profile.
PROFILED: np.ndarray = np.array(
    [
        (fc, speculation, at.ALL, overlap)
        for fc in range(at.NVEC[at.FC])
        for speculation in range(at.NVEC[at.SPECULATION])
        for overlap in range(at.NVEC[at.OVERLAP])
    ],
    dtype=np.int64,
)
NUM_PROFILED = len(PROFILED)
# As features: seconds of all, then joules of all. 0 where nothing would run, 1 where the system lacks the choice.
PROFILE_FEATURES = tuple(
    Feature(
        f"profiled_{kind}_"
        + "_".join(str(at.CHOICES[k][row[k]]) for k in (at.FC, at.SPECULATION, at.OVERLAP)),
        "profiled {} of FC {}, speculation {}, overlap {}".format(
            what, *(at.CHOICES[k][row[k]] for k in (at.FC, at.SPECULATION, at.OVERLAP))
        ),
        squash(),
        unit,
    )
    for kind, what, unit in (
        ("s", "time", "reference iterations"),
        ("j", "dynamic energy", "static energy of a reference iteration"),
    )
    for row in PROFILED
)
PROFILE_NAMES = names(PROFILE_FEATURES)


@inlined
def coming_prompts(chunk, prompt, scalars):
    """`PromptChunk` of so many prompt tokens, where a prompt has `prompt` on average."""
    window = scalars[at.WINDOW]
    # A token attends to half of its prompt on average, or to a window at most. Of short prompts there are several in a
    # chunk.
    half = 0.5 * prompt
    behind = max(prompt, 1.0 * chunk)
    if window > 0.0:
        if prompt > window:
            half = of_layers(half, window - 0.5 * window * window / prompt, scalars)
        behind = of_layers(behind, min(behind, chunk + window - 1.0), scalars)
    pairs = np.int64(half * chunk)
    read = np.int64(behind) if chunk > 0 else np.int64(0)
    # As many end in it as it has of average length.
    ending = np.int64(chunk / max(prompt, 1.0) + 0.5)
    return PromptChunk(chunk, pairs, read, ending, max(ending, np.int64(1)))


@inlined
def coming_decoding(tlp, seen, scalars):
    """`Decoding` of those who decode, `tlp` tokens each, whose contexts lie evenly about their mean."""
    rlp = seen.rlp
    columns = np.int64(scalars[at.GROUP_COLUMNS])
    window = scalars[at.WINDOW]
    # A context ends anywhere in its last group and its last row of the memory.
    context = seen.mean_context + tlp
    groups = np.int64(rlp * (context / GROUP_TOKENS + 0.5))
    key_rows = np.int64(rlp * (context / GROUP_TOKENS * columns / COLUMNS_PER_ROW + 0.5))
    longest = np.int64(np.ceil((seen.longest_context + tlp) / GROUP_TOKENS))
    near = 0.0
    near_groups, near_key_rows, near_longest = np.int64(0), np.int64(0), np.int64(0)
    if window > 0.0:
        # Contexts beyond the window fill the same groups, all of them.
        inside = window + tlp - 1.0
        filled = np.int64(np.ceil(inside / GROUP_TOKENS))
        near = min(context, inside)
        near_groups = min(groups, np.int64(rlp * filled))
        near_key_rows = min(key_rows, np.int64(rlp * key_rows_of(filled, columns)))
        near_longest = min(longest, filled)
    return Decoding(
        rlp,
        tlp,
        np.int64(rlp * context),
        groups,
        longest,
        key_rows,
        key_rows_of(longest, columns),
        np.int64(rlp * near),
        near_groups,
        near_longest,
        near_key_rows,
        key_rows_of(near_longest, columns),
        np.int64(0),
        NOTHING,
    )


@inlined
def seen_mode(seen):
    """The mode that the last iteration left: FC-PIM's, unless the PUs had prompts beside it."""
    return np.int64(at.FC_PIM if seen.on_pim > 0.0 and seen.last_chunk == 0 else at.PU)


@inlined
def seen_slowdowns(seen):
    """`Slowdowns` as last observed."""
    return Slowdowns(seen.drift_pu, seen.drift_fc_pim, seen.drift_attention)


@inlined
def profile(options, k, seen, chunk, prompt, look, busy):
    """The `Cost` of the coming iteration by choice k of `options`, as the profile has it; `busy` is scratch."""
    placement = Placement(options[k, at.FC], options[k, at.OVERLAP], seen_mode(seen))
    decoding = coming_decoding(SPECULATION_LENGTHS[options[k, at.SPECULATION]], seen, look.scalars)
    coming = coming_prompts(chunk, prompt, look.scalars)
    return iteration(decoding, coming, placement, seen_slowdowns(seen), look, busy)


@inlined
def _waiting_tokens(e, observations):
    """Prompt tokens that wait, if all of a class have a prompt like the one at its head; and how many requests."""
    tokens = 0.0
    requests = 0.0
    for c in range(at.MAX_CLASSES):
        queued = min(np.float64(observations[e, SERVICE_COLUMN.queued_0 + c]), ALMOST_ONE)
        prompt = min(np.float64(observations[e, SERVICE_COLUMN.prompt_0 + c]), ALMOST_ONE)
        count = np.rint(16.0 * queued / (1.0 - queued))
        requests += count
        tokens += count * np.rint(2048.0 * prompt / (1.0 - prompt))
    return tokens, requests


@unlocked
def write_profiles(start, stop, options, look, busy, observations):
    """Write the `PROFILE_FEATURES` of rows `start` to `stop`, the last columns, from the other columns alone.

    The coming iteration has the prompt tokens of those admitted and of all who wait, where there is room; on average a
    prompt is as long as those at the heads of the queues or, where nobody waits, as a full chunk. Args: `options` is
    `PROFILED`, `look` the tables, `busy` scratch of an iteration.
    """
    scalars = look.scalars
    count = options.shape[0]
    first = observations.shape[1] - 2 * count
    full = scalars[at.CHUNK] if scalars[at.PREFILL_ON] > 0.0 else 0.0
    standing_j = max(scalars[at.STATIC_W], 1.0) * scalars[at.REFERENCE_S]
    only = np.int64(scalars[at.ONLY_UNIT])
    for e in range(start, stop):
        seen = see(e, observations, scalars)
        waiting, requests = _waiting_tokens(e, observations)
        has_room = seen.running_share < 1.0 and seen.kv_use < 1.0 - WATERMARK
        chunk = np.int64(min(seen.backlog + (waiting if has_room else 0.0), full))
        prompt = waiting / requests if requests > 0.0 else full
        for k in range(count):
            seconds = 0.0
            joules = 0.0
            lacks = (only >= 0 and options[k, at.FC] != only) or (
                options[k, at.OVERLAP] == 1 and scalars[at.ATTENTION_UNIT] != 2.0
            )
            if lacks:
                observations[e, first + k] = 1.0
                observations[e, first + count + k] = 1.0
                continue
            if seen.rlp + chunk > 0:
                expected = profile(options, k, seen, chunk, prompt, look, busy)
                seconds = expected.seconds / scalars[at.REFERENCE_S]
                joules = expected.joules / standing_j
            observations[e, first + k] = seconds / (1.0 + seconds)
            observations[e, first + count + k] = joules / (1.0 + joules)
