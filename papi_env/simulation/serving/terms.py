"""What belongs together in an iteration of continuous batching: tuples that compiled code builds and takes apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# A whole number, as Python or as compiled code has it.
Count = int | np.int64


class Attended(NamedTuple):
    """What some of the requests that decode attend to, by the names of `Decoding`; int64."""

    context_sum: Count
    group_sum: Count
    group_max: Count
    key_row_sum: Count
    key_row_max: Count
    near_context_sum: Count
    near_group_sum: Count
    near_group_max: Count
    near_key_row_sum: Count
    near_key_row_max: Count


NOTHING = Attended(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class Decoding(NamedTuple):
    """What the requests that decode attend to, with the tokens that are verified of each; int64.

    Compiled code has to name all fields.

    Attributes:
        rlp, tlp: how many requests, and tokens verified of each but those that verify a single one.
        context_sum: tokens. group_sum, key_row_sum: the memory's groups of tokens, and DRAM rows of keys.
        group_max, key_row_max: those of the longest context.
        near_*: the same of what is inside the windows of layers that have any, else 0.
        single: how many of the requests verify one token, without drafts, while the others verify `tlp`; fewer than
            all, and 0 where TLP is 1.
        drafting: of all this, what belongs to the others; read only where some verify a single token.
    """

    rlp: Count
    tlp: Count
    context_sum: Count
    group_sum: Count
    group_max: Count
    key_row_sum: Count
    key_row_max: Count
    near_context_sum: Count = 0
    near_group_sum: Count = 0
    near_group_max: Count = 0
    near_key_row_sum: Count = 0
    near_key_row_max: Count = 0
    single: Count = 0
    drafting: Attended = NOTHING


class PromptChunk(NamedTuple):
    """The prompt tokens of an iteration; int64.

    Attributes:
        rows: tokens. pairs: (query, key) pairs. context: tokens read. Both the mean over layers, if any have windows.
        ending: prompts that end in it, and so yield a token. prompts: that it has tokens of.
    """

    rows: Count
    pairs: Count
    context: Count
    ending: Count = 0
    prompts: Count = 1


class Placement(NamedTuple):
    """Where an iteration runs; int64.

    Attributes:
        unit: of the decode rows' FC kernels: `PU`, `FC_PIM` or `SPLIT`, valid for the system.
        overlap: whether two half-batches take turns.
        last_mode: what the stacks were left in: `PU`, `FC_PIM`, or -1.
    """

    unit: Count
    overlap: Count
    last_mode: Count


class Slowdowns(NamedTuple):
    """True over profiled time of PUs, FC-PIM, and the unit that runs attention; float64."""

    pu: float
    fc_pim: float
    attention: float


class Ran(NamedTuple):
    """What an iteration ran, for its joules by cause; int64.

    Attributes:
        first, second: decoding requests of either half-batch.
        first_pu, first_pim, second_pu, second_pim: rows of their FC kernels by unit, with a prompt's.
        beside: a prompt's rows on the PUs, beside decode rows on FC-PIM.
        crossings: of all rows between PUs and FC-PIM.
    """

    first: Count
    second: Count
    first_pu: Count
    first_pim: Count
    second_pu: Count
    second_pim: Count
    beside: Count
    crossings: Count


class Cost(NamedTuple):
    """What an iteration takes.

    Attributes:
        seconds: from its start to its end; joules: dynamic.
        fc_s, attention_s, draft_s, prompt_s, communication_s, switching_s: seconds by cause, which may coincide;
            `prompt_s` is the prompt's attention, and communication takes no longer than the iteration.
        switches: changes of the stacks' mode; mode: what they are left in.
        pim_rows: decode rows whose FC kernels ran on FC-PIM.
        ran: what joules by cause follow from.
    """

    seconds: float
    joules: float
    fc_s: float
    attention_s: float
    draft_s: float
    prompt_s: float
    communication_s: float
    switching_s: float
    switches: int
    mode: int
    pim_rows: int
    ran: Ran


class PromptCost(NamedTuple):
    """Attention of a prompt chunk, and its keys and values on their way home; seconds and joules."""

    seconds: float
    attention_j: float
    link_s: float
    write_j: float


class Apart(NamedTuple):
    """What an iteration takes wherever its FC kernels run: drafting, the LM head, and attention of prompts."""

    draft_s: float
    draft_j: float
    head_s: float
    head_j: float
    prompt: PromptCost


class Half(NamedTuple):
    """Requests of a half-batch, those of them that draft, and the seconds of their attention."""

    requests: Count
    drafters: Count
    attention_s: float


class Halves(NamedTuple):
    """The decode batch, in one (the second half is empty) or two; joules of the attention of all."""

    first: Half
    second: Half
    attention_j: float


class BesideCost(NamedTuple):
    """FC kernels of a prompt chunk on the PUs, beside decode rows on FC-PIM; seconds and joules."""

    seconds: float
    joules: float
    combine_s: float
    banks_s: float


class HalfCost(NamedTuple):
    """One half-batch; times of units are with their slow-downs.

    Attributes:
        fc_s: from the first to the last of a layer's FC kernels; pu_s, pim_s, banks_s: in which PUs, FC-PIM and the
            stacks' banks are busy; fc_j: joules.
        combine_s, combine_j: adding up what the units found; transfer_s, transfer_j: on the attention link.
        attention_s: of decode attention.
        pu_rows, pim_rows: rows on PUs and FC-PIM; decode_on_pim: those of the latter that are decode rows.
    """

    fc_s: float
    pu_s: float
    pim_s: float
    banks_s: float
    fc_j: float
    combine_s: float
    combine_j: float
    attention_s: float
    transfer_s: float
    transfer_j: float
    pu_rows: int
    pim_rows: int
    decode_on_pim: int


class Busy(NamedTuple):
    """Seconds in which units and banks are busy."""

    pu_s: float
    pim_s: float
    attention_s: float
    banks_s: float
