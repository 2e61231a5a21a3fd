"""Where each quantity of a serving environment stands, and the names under which it is published."""

from __future__ import annotations

from papi_env.simulation import engine
from papi_env.workload.serving import SPECULATION_LENGTHS

# --- actions: int64 [num_envs, 4] -------------------------------------------------------------------
FC, SPECULATION, ADMISSION, OVERLAP = range(4)
PU, FC_PIM, SPLIT = range(3)
NONE, ONE, ALL = range(3)
CHOICES = (("pu", "fc-pim", "split"), SPECULATION_LENGTHS, ("none", "one", "all"), ("off", "on"))
NVEC = tuple(len(choices) for choices in CHOICES)
NUM_ACTIONS = 72

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
GROUP_SUM = 14  # over decoding requests, ceil((context + 1) / 16): pages at TLP 1
GROUP_MAX = 15
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
NUM_COUNTERS = 43

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
NUM_CLOCKS = 43

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
# longer than the context or than all KV pages.
FUTURE, WAITING, RUNNING, ATTAINED_STATUS, LATE, REFUSED = range(6)
STATUS_NAMES = ("future", "waiting", "running", "attained", "late", "rejected")

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
NUM_SCALARS = 40

# --- observations: float32 --------------------------------------------------------------------------
# squash(x) = x / (1 + x) where the range is open.
STATE_NAMES = (
    "queued",  # squash(requests waiting / 16)
    "oldest_wait",  # squash(seconds the next request to admit has waited / TTFT objective)
    "rlp",  # requests decoding / 256: exact
    "prefilling",  # requests / 256: exact
    "prefill_backlog",  # squash(tokens / 2048)
    "running_share",  # admitted requests / most that may run
    "kv_use",  # pages in use / pages; at most 1, also where requests have just grown out of them
    "mean_context",  # squash(4 x tokens / context limit)
    "longest_context",
    "n_share_of_alpha",  # rlp / (rlp + α): what PAPI's rule compares at TLP 1
    "last_time",  # squash(seconds / reference)
    "last_fc_time",
    "last_attention_time",
    "last_draft_time",
    "last_prefill_time",
    "last_communication",
    "last_decoded",  # tokens per verified row in the last iteration
    "last_chunk",  # prompt tokens / 512
    *(
        f"last_{name}_{choice}"
        for name, choices in zip(("fc", "speculation", "admission", "overlap"), CHOICES, strict=True)
        for choice in choices
    ),  # one-hot
    *(f"drift_{unit}" for unit in DRIFTING),  # squash(log2 of observed over profiled, at least 0)
    *(f"tokens_at_{length}" for length in SPECULATION_LENGTHS[1:]),  # moving averages / length; 0 before
    "accepted",  # moving average of accepted over drafted tokens; 0 before
    "tpot_slack_mean",  # 0.5 + 0.5 x / (1 + |x|), x = slack / (16 TPOT objectives)
    "tpot_slack_min",
    "behind",  # share of decoding requests behind their pace
    "lost",  # share of decoding requests that missed their first-token objective
    "attainment",  # attained over finished requests so far; 1 before
    "arrival_rate",  # squash(requests arrived so far per second x TTFT objective / 16)
)
DESCRIPTOR_NAMES = (
    "system_pu_flops",
    "system_pu_bandwidth",
    "system_fc_pim_flops",
    "system_fc_pim_bandwidth",
    "system_attn_pim_flops",
    "system_attn_pim_bandwidth",
    "system_link_bandwidth",
    "system_switch_time",  # squash, of the reference
    "system_dual_row_buffers",
    "model_weight_bytes",
    "model_kv_bytes_per_token",
    "model_layers",
    "energy_weight",
    "ttft_objective",  # squash(seconds / (100 references))
    "tpot_objective",  # squash(seconds / (4 references))
    "alpha",  # α / 1024, at most 1
)
OBSERVATION_NAMES = STATE_NAMES + DESCRIPTOR_NAMES
NUM_STATE_FEATURES = len(STATE_NAMES)
LAST_ACTION_FEATURE = STATE_NAMES.index("last_fc_pu")
DRIFT_FEATURE = STATE_NAMES.index("drift_pu")
