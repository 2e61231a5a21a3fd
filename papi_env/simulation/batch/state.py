"""Where each quantity stands in the engine's arrays, and the names under which they are published.

Plain integers, because compiled code folds module constants.
"""

from __future__ import annotations

from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import KernelClass
from papi_env.simulation import engine
from papi_env.workload.images import MAX_STAGES

# Kernel classes of a decode iteration, in the order of actions.
KERNEL_CLASSES = (
    KernelClass.QKV,
    KernelClass.ATTENTION,
    KernelClass.PROJECTION,
    KernelClass.FEED_FORWARD,
)
QKV, ATTENTION, PROJECTION, FEED_FORWARD = range(4)
NUM_CLASSES, NUM_UNITS = len(KERNEL_CLASSES), len(UNIT_NAMES)
# What else an action names: the classes of a stage of an image encode, after those of an iteration. FC1 and
# FC2, the global perceptron, go together.
STAGE_CLASSES = ("repmlp_fc1_fc2", "repmlp_fc3", "repmlp_ffn")
REPMLP_FC1_FC2, REPMLP_FC3, REPMLP_FFN = range(NUM_CLASSES, NUM_CLASSES + 3)
CHOICE_CLASSES: tuple[str, ...] = (*map(str, KERNEL_CLASSES), *STAGE_CLASSES)
NUM_STAGE_CLASSES, NUM_CHOICES = len(STAGE_CLASSES), len(CHOICE_CLASSES)
# What is timed: convolutions too, which no action names (see `simulation.stages`).
TIMED_CLASSES = (*CHOICE_CLASSES, str(KernelClass.CONVOLUTION))
CONVOLUTION, NUM_TIMED = NUM_CHOICES, len(TIMED_CLASSES)

# --- counters: int64 [num_envs, NUM_COUNTERS] -------------------------------------------------------
SEED, EPISODE, DONE = engine.SEED, engine.EPISODE, engine.DONE  # the columns that all engines share
RLP = 3
TLP = 4
ITERATION = 5
DECODED = 6
SWITCHES = 7
INVALID = 8
CONTEXT_SUM = 9  # over active requests, of the context the next iteration attends to
GROUP_SUM = 10  # over active requests, of ceil(context / 16)
GROUP_MAX = 11
CHUNK_SUM = 12  # over active requests, of the DRAM rows of keys (see `hardware.attention`)
CHUNK_MAX = 13
LAST_FC = 14  # the FC unit that ran last: PU, FC_PIM, or -1 before the first step
LAST_N = 15
LAST_FINISHED = 16  # requests that reached end-of-sequence in the last iteration
LAST_DECODED = 17
SEEN_N = 18  # .. +1: n when all FC kernels last ran on the PUs, on FC-PIM
LAST_UNIT = 20  # .. +7: the unit each timed class ran on; the four of an iteration end the third cache line
STAGE = 28  # the stage of an encode that comes next, or -1: a decode iteration
ENCODE = 29  # encodes finished
IMAGES = 30  # of the encode that is under way, or waits
STAGES_RUN = 31  # steps that were stages; ITERATION counts the others
LAST_STAGE = 32  # what the last step was: a stage, or -1
LAST_IMAGES = 33
ENCODED = 34  # images of finished encodes
PREFILL_TOKENS = 35
PREFILL_PAIRS = 36  # (query, key) pairs of causal attention in the prefill
NUM_COUNTERS = 40  # whole cache lines

# --- clocks: float64 [num_envs, NUM_CLOCKS] ---------------------------------------------------------
# A cache line of totals of an iteration, then what else is summed; two lines of the last step.
TIME_S = 0
DYNAMIC_J = 1
COMMUNICATION_S = 2
SWITCHING_S = 3
CLASS_S = 4  # .. +7: by timed class
BUSY_S = 12  # .. +2: by unit
RETURN = 15
LAST_TIME_S = 16
LAST_DYNAMIC_J = 17
LAST_COMMUNICATION_S = 18
LAST_SWITCHING_S = 19
LAST_CLASS_S = 20  # .. +7
LAST_REWARD_TIME = 28
LAST_REWARD_ENERGY = 29
SEEN_FC_S = 30  # .. +1: seconds of all FC kernels when they last ran on the PUs, on FC-PIM
NUM_CLOCKS = 32

# --- slots: int32 [num_envs, 2 x width] ----------------------------------------------------------------
# Tokens held by the request in each slot, then tokens it still lacks; active requests first, 0 behind them. The
# width is a multiple of 16, which is what a vector register takes of int32.
SLOTS = 16

# --- scalars of a scenario: float64 [NUM_SCALARS] ---------------------------------------------------
ENERGY_WEIGHT = 0
REFERENCE = 1
STATIC_W = 2
SWITCH_S = 3
LAYERS = 4
ALPHA = 5
CONTEXT_LIMIT = 6
BATCH = 7
ACCEPTANCE = 8  # the rate times 2**53: what a 53-bit draw is compared with
OVERHEAD_S = 9  # of an iteration: what no unit and no link is charged with
GROUP_COLUMNS = 10  # columns of keys in a group, on the unit with the KV caches
ENCODES = 11  # of an episode
IMAGE_TOKENS = 12  # positions that its images add to each prompt
CONVOLUTION_UNIT = 13
MERGED = 14  # 1 after Locality Injection, else 0
NUM_SCALARS = 15

# --- columns of the look-ups of an iteration (see `lookups`) ------------------------------------------
# By unit and n: all FC kernels.
QKV_S, PROJECTION_S, FEED_FORWARD_S, QKV_J, PROJECTION_J, FEED_FORWARD_J = range(6)
NUM_FC = 8
# By unit of attention, TLP and RLP: everything else.
(
    GROUPS_S,  # per group of all requests, if they spread evenly over the channels
    LONGEST_GROUPS_S,  # per group of the longest request
    CHUNKS_S,  # likewise, per DRAM row of keys
    LONGEST_CHUNKS_S,
    FIXED_S,  # per pair and per start
    TOKENS_S,  # per token attended to
    LINK_TOKENS_S,
    GROUPS_J,
    TOKENS_J,
    MOVES_S,  # queries, keys, values and outputs over the attention link, and combining outputs
    MOVES_J,
    CROSS_S,  # one crossing of activations between PUs and FC-PIM
    CROSS_J,
) = range(13)
NUM_OTHER = 16

# --- columns of the cost tables ---------------------------------------------------------------------
COST_S, COST_J = 0, 1
(
    PER_GROUP_S,
    PER_CHUNK_S,
    PER_PAIR_S,
    PER_START_S,
    UNPAIRED_S,
    PER_TOKEN_S,
    LINK_PER_TOKEN_S,
    PER_GROUP_J,
    PER_TOKEN_J,
) = range(9)
NUM_ATTENTION = 9
ROUNDS, UNPAIRED = 0, 1
COMBINE_S, COMBINE_J, CROSSING_S, CROSSING_J = range(4)
# Of a stage: combining outputs, and one crossing of its input, its pooled channels, its map.
STAGE_COMBINE_S, INPUT_S, POOLED_S, MAP_S, STAGE_COMBINE_J, INPUT_J, POOLED_J, MAP_J = range(8)
NUM_STAGE_MOVES = 8

# --- observations: float32 [num_envs, len(OBSERVATION_NAMES)] ---------------------------------------
# squash(x) = x / (1 + x) maps [0, inf) onto [0, 1) without a clamp; times are first divided by the
# scenario's reference.
_STATE_NAMES = (
    "rlp",  # requests still decoding / 128
    "tlp",  # tokens verified per request in the coming iteration / 8
    "n",  # rlp x tlp / 1024
    "n_share_of_alpha",  # n / (n + α): above 0.5 where PAPI's rule picks the PUs
    "batch_size",  # / 128
    "finished",  # share of the batch that has reached end-of-sequence
    "mean_context",  # squash(4 x tokens / context limit)
    "longest_context",  # likewise, in 16-token groups
    "iteration",  # squash(iterations / 256)
    "last_finished",  # requests that ended in the last iteration / batch size
    "last_decoded",  # tokens decoded per verified row in the last iteration
    "last_time",  # squash, seconds of the last iteration
    "last_communication",  # squash
    *(f"last_time_{kind}" for kind in KERNEL_CLASSES),  # squash
    *(f"last_unit_{kind}_{unit}" for kind in KERNEL_CLASSES for unit in UNIT_NAMES),  # one-hot
    "seen_fc_time_pu",  # squash, seconds of all FC kernels when last on the PUs; 0 before
    "seen_fc_time_fc-pim",
    "seen_n_pu",  # / 1024
    "seen_n_fc-pim",
)
# Logarithms of rates are divided by 20 decades, so that one policy can meet many systems.
DESCRIPTOR_NAMES = (
    "system_pu_flops",
    "system_pu_bandwidth",
    "system_fc_pim_flops",
    "system_fc_pim_bandwidth",
    "system_attn_pim_flops",
    "system_attn_pim_bandwidth",
    "system_link_bandwidth",
    "system_switch_time",  # squash, of the reference
    "model_weight_bytes",  # logarithm / 20
    "model_kv_bytes_per_token",  # logarithm / 20
    "model_layers",  # / 1000
    "energy_weight",  # squash, of watts-seconds per reference: share of energy in the reward
)
OBSERVATION_NAMES = _STATE_NAMES + DESCRIPTOR_NAMES
NUM_STATE_FEATURES = len(_STATE_NAMES)
LAST_CLASS_FEATURE = _STATE_NAMES.index(f"last_time_{KERNEL_CLASSES[0]}")
LAST_UNIT_FEATURE = _STATE_NAMES.index(f"last_unit_{KERNEL_CLASSES[0]}_{UNIT_NAMES[0]}")
SEEN_FEATURE = _STATE_NAMES.index("seen_fc_time_pu")

# What Kernels-v0 appends: written in every step where a scenario has images, all zero where it has none.
_STAGE_STATE_NAMES = (
    *(f"stage_{stage}" for stage in range(MAX_STAGES)),  # one-hot, the coming stage; none: an iteration
    "images",  # of the encode / 128
    "encodes_left",  # waiting or under way / encodes of the episode
    *(f"rows_{kind}" for kind in STAGE_CLASSES),  # log2(1 + rows per weight matrix) / 32
    *(f"intensity_{kind}" for kind in STAGE_CLASSES),  # log2(1 + FLOP/B) / 16
    *(f"last_time_{kind}" for kind in STAGE_CLASSES),  # squash
    *(f"last_unit_{kind}_{unit}" for kind in STAGE_CLASSES for unit in UNIT_NAMES),  # one-hot
)
STAGE_DESCRIPTOR_NAMES = (
    "network_weight_bytes",  # logarithm / 20
    "network_blocks",  # / 100
    "network_reparameterized",  # 1 after Locality Injection
    "image_tokens",  # positions that images add to each prompt / context limit
)
STAGE_OBSERVATION_NAMES = _STAGE_STATE_NAMES + STAGE_DESCRIPTOR_NAMES
STAGE_FEATURE = len(OBSERVATION_NAMES)
IMAGES_FEATURE = STAGE_FEATURE + MAX_STAGES
SHAPE_FEATURE = IMAGES_FEATURE + 2  # rows, then intensities
LAST_STAGE_TIME_FEATURE = SHAPE_FEATURE + 2 * NUM_STAGE_CLASSES
LAST_STAGE_UNIT_FEATURE = LAST_STAGE_TIME_FEATURE + NUM_STAGE_CLASSES
STAGE_DESCRIPTOR_FEATURE = STAGE_FEATURE + len(_STAGE_STATE_NAMES)
