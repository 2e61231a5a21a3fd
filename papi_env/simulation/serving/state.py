"""Where each quantity of a serving environment stands, and the names under which it is published."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from papi_env.hardware import energy
from papi_env.simulation import descriptors, engine
from papi_env.simulation.features import SLOWDOWN, Feature, linear, names, signed, squash
from papi_env.workload.service import MAX_CLASSES as MAX_CLASSES
from papi_env.workload.serving import SPECULATION_LENGTHS

# --- actions: int64 [num_envs, 4] -------------------------------------------------------------------
FC, SPECULATION, ADMISSION, OVERLAP = range(4)
PU, FC_PIM, SPLIT = range(3)
NONE, ONE, ALL = range(3)
CHOICES = (("pu", "fc-pim", "split"), SPECULATION_LENGTHS, ("none", "one", "all"), ("off", "on"))
NVEC = tuple(len(choices) for choices in CHOICES)
NUM_ACTIONS = 72
# Who is served, in Serving-v1 besides: int64 [num_envs, 11] in all. Option 0 of each is what Serving-v0 always does.
ORDER, SHEDDING, VICTIM, KEEPING, EVICTION, DRAFTED_FOR, PACING = range(4, 11)
# The last three are no options of a plain action: one is taken from policies that score requests (see `scoring`), two,
# of the reference alone, know how long answers will be.
BY_ARRIVAL, BY_DEADLINE, BY_PROMPT, BY_WORK, BY_WEIGHT, BY_SCORE, BY_TRUE_WORK, BY_TRUE_SPACE = range(8)
SHED_NONE, SHED_LATE, SHED_CLASS = range(3)
VICTIM_LATEST, VICTIM_PROGRESS, VICTIM_SLACK = range(3)
KEEP_NONE, KEEP_ALL, KEEP_CLASS = range(3)
# The last, of the reference alone, knows when conversations go on (Belady, IBM Systems Journal 5(2), 1966).
EVICT_LRU, EVICT_RETURN, EVICT_TRUE_RETURN = range(3)
DRAFT_ALL, DRAFT_ACCEPTED = range(2)
AT_ONCE, BY_CHUNK = range(2)
SERVICE_CHOICES = (
    ("arrival", "deadline", "shortest-prompt", "least-work", "weight-per-work"),
    ("keep", "late", "class"),
    ("latest", "least-progress", "most-slack"),
    ("drop", "keep", "class"),
    ("lru", "return"),
    ("all", "accepted"),
    ("at-once", "by-chunk"),
)
CHOICE_NAMES = ("fc", "speculation", "admission", "overlap")
SERVICE_CHOICE_NAMES = ("order", "shedding", "victim", "keeping", "eviction", "drafted-for", "pacing")
CHOICES_V1 = CHOICES + SERVICE_CHOICES
NVEC_V1 = tuple(len(choices) for choices in CHOICES_V1)

# Resources whose busy time is kept; `banks` are those of the stacks with the weights.
RESOURCES = ("pu", "fc-pim", "attn-pim", "link", "banks")
NUM_RESOURCES = len(RESOURCES)
BUSY_PU, BUSY_FC_PIM, BUSY_ATTN, BUSY_LINK, BUSY_BANKS = range(NUM_RESOURCES)
# Units that drift.
DRIFTING = ("pu", "fc-pim", "attn-pim")
NUM_DRIFTING = len(DRIFTING)

# --- counters: int64 [num_envs, NUM_COUNTERS] -------------------------------------------------------
SEED, EPISODE, DONE = engine.SEED, engine.EPISODE, engine.DONE  # the columns that all engines share
REQUESTS = 3  # of this episode, arrived or not
ARRIVED = 4  # requests whose arrival has passed
HEAD = 5  # the first request that was never admitted
RLP = 6  # requests decoding
PREFILLING = 7  # admitted requests whose prompt is not yet processed
PREFILL_FRONT = 8  # where the oldest of them stands in its ring
PREFILL_DONE = 9  # tokens already processed of that one
PREFILL_BACKLOG = 10  # tokens still to process of all admitted requests
PREFILL_PAGES = 11  # pages reserved by requests in prefill
PREEMPTED = 12  # requests preempted and waiting
CONTEXT_SUM = 13  # over decoding requests, tokens held
PAGE_SUM = 14  # over decoding requests, KV pages at TLP 1: of their contexts and a token
GROUP_MAX = 15  # groups of the memory at TLP 1 of the longest context
ITERATION = 16
FINISHED = 17
ATTAINED = 18  # finished requests that met both objectives
REJECTED = 19
PREEMPTIONS = 20
INVALID = 21
TOKENS = 22  # output tokens produced
GOOD_TOKENS = 23  # those of attained requests
ON_TIME_TOKENS = 24  # those produced before their deadline
FINISHED_TOKENS = 25
DRAFTED = 26
ACCEPTED = 27
RECOMPUTED = 28  # prefill tokens processed again after preemption
PREFILLED = 29  # prefill tokens processed
LAST_FC = 30  # the mode that the stacks were left in: PU, FC_PIM, or -1
SWITCHES = 31
PAGES_HIGH = 32  # most pages in use so far
LAST_ACTION = 33  # .. +3
LAST_N = 37  # rows verified in the last iteration
LAST_DECODED = 38
LAST_CHUNK = 39  # prompt tokens processed in the last iteration
QUEUED = 40  # requests waiting: arrived and not rejected, or preempted
SPLIT_ROWS = 41  # decode rows that ran on FC-PIM in the last iteration
STALLS = 42  # iterations without work to decode or prefill
# With a token budget; with prefix caching the pages that are free, in how many parts, and tokens found in them.
FREE_PAGES = 43
FREE_PARTS = 44
FOUND_TOKENS = 45
BEYOND = 46  # iterations whose times lie beyond what was measured, where tables of a server are used
# With classes of requests.
SESSIONS = 47  # that have come: conversations, and requests that are none
OPEN = 48  # places of conversations that are taken
FREE_RECORD = 49  # the first of a list of records that are free again, -1 at its end
FREE_PLACE = 50  # and of places of conversations
KEPT_PAGES = 51  # of turns that are done, which conversations may go on from
SHARED_PAGES = 52  # of prefixes, less what the requests that use them would take for them
ADMISSIONS = 53  # so far; the rank of the next
ABANDONED = 54  # requests whose sender gave up waiting
SHED = 55  # requests dropped by choice
EVICTIONS = 56  # of kept turns
CUT = 57  # turns that never came, since an earlier one of their conversation was given up
HIT_TOKENS = 58  # prompt tokens found in kept pages and shared prefixes
CLASS_QUEUED = 59  # .. +3: waiting requests by class
CLASS_OFFERED = 63  # .. +3: turns that have come or would have, by class
CLASS_ATTAINED = 67  # .. +3: of those, within their objectives
CLASS_LOST = 71  # .. +3: and late, dropped, refused, given up or cut
LAST_SERVICE = 75  # .. +6: the last choices from ORDER on
UNDRAFTED = 82  # kinds that draft nothing in this iteration, a bit each: at most 4 classes x 16 acceptances
# How many of the first records of requests, and places of conversations, were ever in use in this episode.
RECORDS_USED = 83
PLACES_USED = 84
QUEUE_FRONT = 85  # where the first of those who wait stands in their row
NUM_COUNTERS = 86

# --- clocks: float64 [num_envs, NUM_CLOCKS] ---------------------------------------------------------
TIME_S = 0
DYNAMIC_J = 1
IDLE_S = 2
BUSY_S = 3  # .. +4, by resource
OVERLAPPED_S = 8  # PUs and FC-PIM both busy, or attention beside FC kernels: see `iteration`
COMMUNICATION_S = 9
SWITCHING_S = 10
DRAFT_S = 11
RETURN = 12
LAST_TIME_S = 13
LAST_FC_S = 14
LAST_ATTENTION_S = 15
LAST_DRAFT_S = 16
LAST_PREFILL_S = 17
LAST_COMMUNICATION_S = 18
LAST_DYNAMIC_J = 19
LAST_BUSY_S = 20  # .. +4, by resource
LAST_REWARD_GOODPUT = 25
LAST_REWARD_ENERGY = 26
SEEN_DRIFT = 27  # .. +2: observed over profiled time of PUs, FC-PIM, Attn-PIM when last used
SEEN_TOKENS = 30  # .. +3: moving average of tokens gained per request and iteration, by speculation length
SEEN_ACCEPTED = 34  # moving average of accepted over drafted tokens
HEAD_ARRIVAL_S = 35  # of the request that would be admitted next
NEXT_ARRIVAL_S = 36
SLACK_MEAN_S = 37  # over decoding requests, their deadline for the latest token less the time
SLACK_MIN_S = 38
BEHIND = 39  # share of decoding requests whose slack is negative
LOST = 40  # share of decoding requests that missed their first-token objective
PAGES_USED_TIME = 41  # integral of pages in use over time
LAST_START_S = 42  # when the last iteration began
# With classes of requests.
OFFERED = 43  # worth of all requests that have come, and of the further turns of their conversations
SERVED = 44  # worth of those within their objectives
LOST_WORTH = 45  # worth of those late, dropped, refused, given up, and of turns that will never come
OPERATIONAL_S = 46  # the operational time of the last session that was drawn
NEXT_SESSION_S = 47
NEXT_RETURN_S = 48  # of a conversation
NEXT_LEAVE_S = 49  # when the first of those who wait gives up
LAST_SWITCH_S = 50  # when the stacks last changed mode
ELAPSED_S = 51  # from the last decision to the coming one
CLASS_SLACK_S = 52  # .. +3: to the first-token deadline of the request at the head of a class's queue
CLASS_PROMPT = 56  # .. +3: its prompt tokens to process
CLASS_ACCEPTED = 60  # .. +3: moving average of accepted over drafted tokens
HEAT = 64  # .. +1: temperatures of stacks with weights, and of those that attend, in degrees Celsius
THROTTLED = 66  # .. +1: whether they are throttled, 0 or 1
# What an engine need not have.
CAUSE_J = 68  # .. +5: dynamic joules by cause, in the order of `energy.CAUSES`
NUM_CAUSES, LINK = energy.NUM_CAUSES, energy.LINK
NUM_CLOCKS = CAUSE_J + NUM_CAUSES

# --- a request's record -----------------------------------------------------------------------------
# float64 [num_envs, requests, 4], seconds; NaN before it happens
ARRIVAL_S, ADMITTED_S, FIRST_TOKEN_S, FINISH_S = range(4)
NUM_MOMENTS = 4
MOMENT_NAMES = ("arrival_s", "admitted_s", "first_token_s", "finish_s")
# int32 [num_envs, requests, 6]
INPUT, OUTPUT, GENERATED, PREEMPTED_TIMES, CLASS, STATUS = range(6)
NUM_FACTS = 6
FACT_NAMES = ("input", "output", "generated", "preemptions", "class", "status")
# Status: not there yet, queued, admitted, finished within its objectives or not, or refused on arrival for being
# longer than the context or than all KV pages; with classes also where too many wait, dropped by choice, and given up.
FUTURE, WAITING, RUNNING, ATTAINED_STATUS, LATE, REFUSED, DROPPED, LEFT = range(8)
STATUS_NAMES = ("future", "waiting", "running", "attained", "late", "rejected", "dropped", "abandoned")
# With classes: int32 [num_envs, requests, 4]. `CLASS` is then the kind: a class with one of its acceptances. Of a
# request that stands alone PLACE is -1; RANK is that of its first admission, -1 before.
SESSION, PLACE, KEPT, RANK = range(4)
NUM_MORE = 4
MORE_NAMES = ("session", "place", "kept", "rank")

# --- beside the queue, with classes: int32 [num_envs, places, 2] ---------------------------------------
QUEUED_KIND, QUEUED_PROMPT = range(2)  # the kind of a request, and its prompt tokens
NUM_QUEUED = 2

# --- a conversation's record, with classes -----------------------------------------------------------
# A row of each, since all places are looked through at once. int32 [num_envs, 6, places]: its number, or -1 where the
# place is free; the next turn; turns in all; tokens so far; pages kept; kind. Of a place that is free again TOLD is the
# next one of those.
NUMBER, NEXT_TURN, TURNS, TOLD, PAGES, KIND = range(6)
NUM_PLACE = 6
# float64 [num_envs, 2, places]: when its next turn comes, infinite where none will or one is being served; when the
# last one was done.
RETURN_S, DONE_S = range(2)
NUM_PLACE_S = 2
# int32 [rows of a trace, 2]: the row of the turn that goes on from one, -1 if none does; tokens of its prompt that the
# turn before it left.
NEXT_ROW, LEFT_BEFORE = range(2)
# int32 [num_envs, classes, 2]: requests and kept turns that use the shared prefix; its pages, 0 where it is not there.
USERS, PREFIX_PAGES = range(2)
NUM_PREFIX = 2

# --- a kind of request, with classes: float64 [kinds, NUM_KIND] ---------------------------------------
# Class; what an output token within the objectives is worth; objectives; patience from and to, infinite without;
# chance that a turn is followed by another, and turns at most; parameters of lognormal think times; tokens of the
# prefix that the class shares, and its full pages; mean output tokens; whether `KEEP_CLASS` keeps its turns; where its
# returns begin, see `service_tables.CELL_BITS`.
OF_CLASS, WEIGHT, KIND_TTFT_S, KIND_TPOT_S, PATIENCE_S, LONGEST_S, GOES_ON, MOST_TURNS = range(8)
THINK_MU, THINK_SIGMA, PREFIX, SHARED, MEAN_OUTPUT, RETURNS, RETURN_CELL = range(8, 15)
NUM_KIND = 15
# --- what a score weighs of a request that waits: see `scoring.score` ---------------------------------
CONSTANT, SLACK, WAITED, PROMPT, WORTH, FOUND, NEED, HOPELESS = range(8)
NUM_TRAITS = 8
TRAIT_NAMES = ("constant", "slack", "waited", "prompt", "worth", "found", "need", "hopeless")
# int64 [kinds, 4]: first row and rows in `service_lengths` of first turns, and of later ones.
FIRST_ROW, FIRST_ROWS, LATER_ROW, LATER_ROWS = range(4)

# --- scalars: float64 [NUM_SCALARS] -----------------------------------------------------------------
ENERGY_WEIGHT = 0
REFERENCE_TOKENS = 1
STATIC_W = 2
SWITCH_S = 3
SWITCHES_PER_SPLIT = 4  # mode switches of an iteration in which PUs and FC-PIM share the stacks
LAYERS = 5
ALPHA = 6
CONTEXT_LIMIT = 7
MAX_RUNNING = 8
TOTAL_PAGES = 9
WATERMARK_PAGES = 10
CHUNK = 11
TTFT_S = 12
TPOT_S = 13
HORIZON_S = 14
OVERHEAD_S = 15
GROUP_COLUMNS = 16
PREFILL_ON = 17
DUAL_BUFFERS = 18
DECISION_S = 19
REWARD_ON_TIME = 20
PREFILL_UNIT = 21  # PU or FC_PIM
ATTENTION_UNIT = 22  # index of units
DRIFT_PERIOD_S = 23
DRIFT_LOG = 24  # .. +2
KV_LINK_S_PER_TOKEN = 27  # of a prompt's keys and values
KV_LINK_J_PER_TOKEN = 28
PREFILL_PAIR_COMPUTE_S = 29
PREFILL_TOKEN_MEMORY_S = 30
PREFILL_PAIR_S = 31
PREFILL_TOKEN_S = 32
PREFILL_PAIR_J = 33
PREFILL_TOKEN_J = 34
DRAFT_CONTEXT_S = 35  # seconds of one draft step per context token
DRAFT_CONTEXT_J = 36
REFERENCE_S = 37  # what times are squashed with: an iteration of a quarter-full machine on the defaults
ONLY_UNIT = 38  # the one unit that runs FC kernels, or -1 where there are both
PREFILL_ROW_J = 39
PAGE_LOG2 = 40  # of the tokens of a KV page
TOKEN_BUDGET = 41  # of an iteration, or 0: chunks of prompts beside decode rows
PREFIX_CACHING = 42
UNEVEN = 43  # share of what the longest context would cost all requests more than their mean, on the PUs
# Up to which tables were measured: rows of FC kernels, decoding requests beside a prompt, and those alone.
MEASURED_ROWS = 44
MEASURED_MIXED = 45
MEASURED_ALONE = 46
WINDOW = 47  # tokens that a query sees in layers with windows; 0 without
WINDOW_SHARE = 48  # of the layers that have them
# With classes of requests: whether there are any, what is charged for lost worth, whether a request's worth is by its
# output tokens, and whether the episode goes on until all are served.
SERVICE = 49
CHARGE = 50
WORTH_BY_TOKENS = 51
DRAINS = 52
NUM_CLASSES = 53
# Least seconds of a prompt token on the profile, and of an output token on a machine that is a quarter full.
PROMPT_TOKEN_S = 54
DECODE_TOKEN_S = 55
# With stacks that warm up: see `heat`. Thermal resistance, 0 without; one over the time constant; temperatures; how
# many times as slow a throttled stack is.
HEAT_RESISTANCE = 56
HEAT_RATE = 57
AMBIENT_C = 58
REFRESH_AT_C = 59
THROTTLE_AT_C = 60
RELEASE_AT_C = 61
THROTTLE = 62
# Of stacks with weights, and of those that attend: how many, idle watts of one, and how many times as long they take
# with refreshes doubled.
HEAT_STACKS = 63  # .. +1
HEAT_IDLE_W = 65  # .. +1
HEAT_REFRESH = 67  # .. +1
# Which of them decode attention and prompts' attention warm.
HEAT_KV = 69
HEAT_PROMPT = 70
# Whether all kinds of requests have the time per token that TPOT_S is.
ONE_PACE = 71
NUM_SCALARS = 72

# --- what else takes joules, by cause ----------------------------------------------------------------
# Of a prompt: each (query, key) pair, each token read, each token processed; and each token that a draft attends to.
PAIR, CONTEXT, ROW, DRAFTED_CONTEXT = range(4)
NUM_TERMS = 4

# --- observations: float32 --------------------------------------------------------------------------
# Everything about a feature but how it is computed, which is in `observe` (or, of a descriptor, in `tables`).
# Words of times say "reference" for what the scalar REFERENCE_S is.
_TIMES = (squash(), "reference iterations")
STATE_FEATURES = (
    Feature("queued", "requests waiting", squash(16)),
    # Of the request that would be admitted next.
    Feature("oldest_wait", "longest wait", squash(), "TTFT objectives"),
    Feature("rlp", "requests decoding", linear(256)),
    Feature("prefilling", "requests in prefill", linear(256)),
    Feature("prefill_backlog", "prompt tokens to process", squash(2048)),
    Feature("running_share", "running requests", linear(100), "% of the most"),
    # At most all, also where requests have just grown out of them.
    Feature("kv_use", "KV pages in use", linear(100), "%"),
    Feature("mean_context", "mean context", squash(25), "% of the limit"),
    Feature("longest_context", "longest context", squash(25), "% of the limit"),
    # What PAPI's rule compares at TLP 1.
    Feature("n_share_of_alpha", "RLP / α", squash()),
    Feature("last_time", "time of the last iteration", *_TIMES),
    Feature("last_fc_time", "fc in the last iteration", *_TIMES),
    Feature("last_attention_time", "attention in the last iteration", *_TIMES),
    Feature("last_draft_time", "draft in the last iteration", *_TIMES),
    Feature("last_prefill_time", "prefill in the last iteration", *_TIMES),
    Feature("last_communication", "communication in the last iteration", *_TIMES),
    Feature("last_decoded", "tokens decoded per verified row", linear(1)),
    Feature("last_chunk", "prompt tokens in the last iteration", linear(512)),
    *(
        Feature(f"last_{kind}_{choice}", f"the last iteration had {kind} {choice}")
        for kind, choices in zip(CHOICE_NAMES, CHOICES, strict=True)
        for choice in choices
    ),
    # Observed over profiled time.
    *(
        Feature(f"drift_{unit}", f"slow-down of {unit} when last used", SLOWDOWN, "x its profile")
        for unit in DRIFTING
    ),
    # Moving averages per request and iteration; 0 before the first.
    *(
        Feature(f"tokens_at_{length}", f"tokens gained at speculation {length}", linear(length))
        for length in SPECULATION_LENGTHS[1:]
    ),
    # A moving average; 0 before the first.
    Feature("accepted", "drafts accepted", linear(100), "%"),
    Feature("tpot_slack_mean", "mean slack", signed(16), "TPOT objectives"),
    Feature("tpot_slack_min", "least slack", signed(16), "TPOT objectives"),
    # Shares of decoding requests.
    Feature("behind", "requests behind their pace", linear(100), "%"),
    Feature("lost", "requests with a late first token", linear(100), "%"),
    # Of the finished requests; all before there is one.
    Feature("attainment", "requests within their objectives so far", linear(100), "%"),
    Feature("arrival_rate", "arrivals", squash(16), "per TTFT objective"),
)
DESCRIPTOR_FEATURES = (
    *descriptors.SYSTEM,
    Feature("system_dual_row_buffers", "the stacks have dual row buffers"),
    *descriptors.MODEL,
    Feature("energy_weight", "price of static energy per reference iteration", squash(), "tokens"),
    Feature("ttft_objective", "TTFT objective", squash(100), "reference iterations"),
    Feature("tpot_objective", "TPOT objective", squash(4), "reference iterations"),
    # At most 1024.
    Feature("alpha", "α", linear(1024)),
)
# With classes, after the state's and before the descriptors. Classes have numbers, in the order of the scenario; those
# that it lacks are 0 throughout, and so are temperatures where stacks have none.
_NUMBERS = range(MAX_CLASSES)
SERVICE_FEATURES = (
    *(Feature(f"queued_{c}", f"requests of class {c} waiting", squash(16)) for c in _NUMBERS),
    # Of the request of a class that has waited longest: what is left of its objective, all where nobody waits.
    *(
        Feature(f"slack_{c}", f"slack at the head of class {c}", signed(1), "TTFT objectives")
        for c in _NUMBERS
    ),
    *(Feature(f"prompt_{c}", f"prompt tokens at the head of class {c}", squash(2048)) for c in _NUMBERS),
    # Moving averages.
    *(Feature(f"accepted_{c}", f"drafts of class {c} accepted", linear(100), "%") for c in _NUMBERS),
    Feature("kept", "KV pages of turns that are done", linear(100), "%"),
    # If all who wait were admitted with prompts like those at the heads.
    Feature("at_risk", "kept pages that those who wait would take", linear(100), "% of those kept"),
    Feature("shared", "KV pages of shared prefixes", linear(100), "%"),
    Feature("open", "conversations", squash(64)),
    Feature("mode_age", "time since the stacks changed mode", squash(64), "reference iterations"),
    # Of the worth that was served or lost so far; all before there is any.
    Feature("served", "worth served within objectives so far", linear(100), "%"),
    Feature("heat_weights", "temperature of the stacks with the weights", linear(125), "°C"),
    Feature("heat_attention", "temperature of the stacks that attend", linear(125), "°C"),
    *(
        Feature(f"last_{kind}_{choice}", f"the last iteration had {kind} {choice}")
        for kind, choices in zip(SERVICE_CHOICE_NAMES, SERVICE_CHOICES, strict=True)
        for choice in choices
    ),
)
# And after them, what of classes no step changes.
SERVICE_DESCRIPTOR_FEATURES = (
    Feature("charge", "share of lost worth that is charged", linear(1)),
    Feature("worth_by_tokens", "a request's worth is by its output tokens"),
    Feature("drains", "the episode goes on until all are served"),
    *(Feature(f"share_{c}", f"sessions that are of class {c}", linear(100), "%") for c in _NUMBERS),
    *(Feature(f"worth_{c}", f"worth of a request of class {c}", squash(), "mean requests") for c in _NUMBERS),
    *(
        Feature(f"ttft_objective_{c}", f"TTFT objective of class {c}", squash(100), "reference iterations")
        for c in _NUMBERS
    ),
    *(
        Feature(f"tpot_objective_{c}", f"TPOT objective of class {c}", squash(4), "reference iterations")
        for c in _NUMBERS
    ),
    *(Feature(f"output_{c}", f"mean output tokens of class {c}", squash(512)) for c in _NUMBERS),
    *(Feature(f"prefix_{c}", f"shared prefix of class {c}", squash(2048), "tokens") for c in _NUMBERS),
    *(Feature(f"goes_on_{c}", f"chance of another turn in class {c}", linear(100), "%") for c in _NUMBERS),
    *(
        Feature(f"think_{c}", f"median think time of class {c}", squash(100), "TTFT objectives")
        for c in _NUMBERS
    ),
)
FEATURES = STATE_FEATURES + DESCRIPTOR_FEATURES
FEATURES_V1 = STATE_FEATURES + SERVICE_FEATURES + DESCRIPTOR_FEATURES + SERVICE_DESCRIPTOR_FEATURES
STATE_NAMES, DESCRIPTOR_NAMES = names(STATE_FEATURES), names(DESCRIPTOR_FEATURES)
OBSERVATION_NAMES = STATE_NAMES + DESCRIPTOR_NAMES
NUM_STATE_FEATURES = len(STATE_NAMES)
SERVICE_NAMES, SERVICE_DESCRIPTOR_NAMES = names(SERVICE_FEATURES), names(SERVICE_DESCRIPTOR_FEATURES)
OBSERVATION_NAMES_V1 = names(FEATURES_V1)
NUM_STATE_FEATURES_V1 = NUM_STATE_FEATURES + len(SERVICE_NAMES)
# Columns by name, "-" written as "_"; compiled code takes them for constants.
COLUMN: Any = namedtuple("Column", [name.replace("-", "_") for name in STATE_NAMES])(
    *range(NUM_STATE_FEATURES)
)
SERVICE_COLUMN: Any = namedtuple("ServiceColumn", [name.replace("-", "_") for name in SERVICE_NAMES])(
    *range(NUM_STATE_FEATURES, NUM_STATE_FEATURES_V1)
)
