"""Where each quantity stands in the engine's arrays, and the names under which they are published.

Plain integers, because compiled code folds module constants.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from typing import Any

from papi_env.hardware import energy
from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import KernelClass
from papi_env.scenario import MAX_BATCH, MAX_SPECULATION
from papi_env.simulation import descriptors, engine
from papi_env.simulation.features import DECADES, Feature, linear, log2_of, names, squash
from papi_env.workload.images import MAX_IMAGES, MAX_STAGES

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
# And the experts, after them, where a model has any: the PUs, FC-PIM, or hot ones on the PUs and cold ones on FC-PIM.
EXPERTS, NUM_EXPERT_CHOICES = NUM_CHOICES, NUM_CHOICES + 1
EXPERT_CHOICE_CLASSES = (*CHOICE_CLASSES, str(KernelClass.EXPERTS))
EXPERT_OPTIONS = (*UNIT_NAMES[:2], "split")
SPLIT = EXPERT_OPTIONS.index("split")
# Options of each choice.
OPTIONS = (*(NUM_UNITS for _ in CHOICE_CLASSES), len(EXPERT_OPTIONS))
# What is timed: convolutions too, which no action names (see `simulation.stages`).
TIMED_CLASSES = (*CHOICE_CLASSES, str(KernelClass.CONVOLUTION))
CONVOLUTION, NUM_TIMED = NUM_CHOICES, len(TIMED_CLASSES)

# --- counters: int64 [num_envs, NUM_COUNTERS, NUM_PART_COUNTERS or NUM_WINDOW_COUNTERS] -----------------
# Three cache lines that every iteration reads and writes, one that it leaves alone, then what few scenarios have.
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
KEY_ROW_SUM = 12  # over active requests, of the DRAM rows of keys (see `hardware.attention`)
KEY_ROW_MAX = 13
LAST_FC = 14  # the FC unit that ran last: PU, FC_PIM, or -1 before the first step
LAST_N = 15
LAST_FINISHED = 16  # requests that reached end-of-sequence in the last iteration
LAST_DECODED = 17
SEEN_N = 18  # .. +1: n when all FC kernels last ran on the PUs, on FC-PIM
LAST_UNIT = 20  # .. +3: the unit each class of an iteration ran on
STAGE = 24  # the stage of an encode that comes next, or -1: a decode iteration
ENCODE = 25  # encodes finished
IMAGES = 26  # of the encode that is under way, or waits
STAGES_RUN = 27  # steps that were stages; ITERATION counts the others
LAST_STAGE = 28  # what the last step was: a stage, or -1
ENCODED = 29  # images of finished encodes
PREFILL_TOKENS = 30
PREFILL_PAIRS = 31  # (query, key) pairs of causal attention in the prefill
NUM_COUNTERS = 32  # whole cache lines
# A line that is there where a scenario has images, experts or windows.
LAST_STAGE_UNIT = 32  # .. +3: the unit each timed class of a stage ran on
LAST_IMAGES = 36
LAST_EXPERTS = 37  # where the experts ran last, of EXPERT_OPTIONS, or -1
NUM_PART_COUNTERS = 40
# A line that is there where layers have windows: CONTEXT_SUM to KEY_ROW_MAX of what is inside.
NEAR_CONTEXT_SUM, NEAR_GROUP_SUM, NEAR_GROUP_MAX, NEAR_KEY_ROW_SUM, NEAR_KEY_ROW_MAX = range(40, 45)
NUM_WINDOW_COUNTERS = 48

# --- clocks: float64 [num_envs, NUM_ITERATION_CLOCKS or more] -------------------------------------------
# A cache line of totals of an iteration, one of the last step, and one of what else both have.
TIME_S = 0
DYNAMIC_J = 1
COMMUNICATION_S = 2
SWITCHING_S = 3
CLASS_S = 4  # .. +3: by class of an iteration
LAST_TIME_S = 8
LAST_DYNAMIC_J = 9
LAST_COMMUNICATION_S = 10
LAST_SWITCHING_S = 11
LAST_CLASS_S = 12  # .. +3
BUSY_S = 16  # .. +2: by unit
RETURN = 19
LAST_REWARD_TIME = 20
LAST_REWARD_ENERGY = 21
SEEN_FC_S = 22  # .. +1: seconds of all FC kernels when they last ran on the PUs, on FC-PIM
NUM_ITERATION_CLOCKS = 24
# A line that is there where actions name units of stages.
STAGE_CLASS_S = 24  # .. +3: by timed class of a stage
LAST_STAGE_CLASS_S = 28  # .. +3
NUM_STAGE_CLOCKS = 32
# A line that an engine need not have: of 4096 environments, the steps take 7 % longer with it.
CAUSE_J = 32  # .. +5: dynamic joules by cause, in the order of `energy.CAUSES`
NUM_CLOCKS = 40
# A line behind it where a model has experts: seconds of the experts, and experts on the PUs times layers.
EXPERTS_S = 40
HOT_EXPERTS = 41
LAST_EXPERTS_S = 42
LAST_EXPERTS_PU_S = 43
LAST_EXPERTS_PIM_S = 44
NUM_EXPERT_CLOCKS = 48
# Where each of `TIMED_CLASSES` stands.
CLASS_TIMES = (*range(CLASS_S, CLASS_S + NUM_CLASSES), *range(STAGE_CLASS_S, LAST_STAGE_CLASS_S))
LAST_CLASS_TIMES = (
    *range(LAST_CLASS_S, LAST_CLASS_S + NUM_CLASSES),
    *range(LAST_STAGE_CLASS_S, NUM_STAGE_CLOCKS),
)
LAST_UNITS = (*range(LAST_UNIT, LAST_UNIT + NUM_CLASSES), *range(LAST_STAGE_UNIT, LAST_IMAGES))

# --- what a caller who keeps a step's results is given of both: [num_envs, columns] ---------------------
# What `info` names.
NUM_HANDED_COUNTERS, NUM_HANDED_STAGE_COUNTERS, NUM_HANDED_STAGE_CLOCKS = 6, 4, 4
HANDED_COUNTERS = tuple(range(RLP, RLP + NUM_HANDED_COUNTERS))
_OF_ITERATION = range(LAST_TIME_S, LAST_CLASS_S + NUM_CLASSES)
HANDED_CLOCKS = (*_OF_ITERATION, LAST_REWARD_TIME, LAST_REWARD_ENERGY, TIME_S)
NUM_HANDED_ITERATION, NUM_HANDED_CLOCKS = len(_OF_ITERATION), len(HANDED_CLOCKS)
# Behind them, where actions name units of stages.
HANDED_STAGE_COUNTERS = tuple(range(STAGE, STAGE + NUM_HANDED_STAGE_COUNTERS))
HANDED_STAGE_CLOCKS = tuple(range(LAST_STAGE_CLASS_S, NUM_STAGE_CLOCKS))
HANDED_EXPERT_CLOCKS = tuple(range(EXPERTS_S, NUM_EXPERT_CLOCKS))  # behind them, where a model has experts

# --- slots: int32 [num_envs, 2 x width] ----------------------------------------------------------------
# Tokens held by the request in each slot, then tokens it still lacks; active requests first, 0 behind them. The
# width is a multiple of 16, which is what a vector register takes of int32.
SLOTS = 16
# Drafts of a request that are drawn at a time: the bits of what a slot keeps of them.
DRAWN = 32
# Where such a vector begins that holds nothing: no context is behind it by fewer than DRAWN tokens.
NOTHING_DRAWN = 2**31

# --- what is foreseen of tokens that are not drawn: int32 [num_envs, NUM_FORESEEN], see `tokens.foresee` ---
# Two cache lines.
PENDING = 0  # tokens that every request has and its slot lacks
FORESEEN = 1  # how many those may become: until then nobody ends, and it is known what begins
LONGEST = 2  # the longest context, by the slots
# By how many tokens contexts are ahead of their slots, a byte each: how many 16-token groups begin with the next token,
# over all requests, which goes round and round, and how many DRAM rows of keys.
GROUPS_BEGUN, ROWS_BEGUN, NUM_FORESEEN = 4, 8, 32
ROWS_AHEAD = 4 * (NUM_FORESEEN - ROWS_BEGUN)

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
EXPERT_LAYERS = 15
EXPERTS_FED = 16  # 1 where layers with experts have a feed-forward kernel too
ENDS_FED = 17  # 1 where a feed-forward kernel, the LM head, follows the last layer
WINDOW = 18  # tokens that a query sees in layers with windows; 0 without
WINDOW_SHARE = 19  # of the layers that have them
NUM_SCALARS = 20

# --- columns of the look-ups of an iteration (see `lookups`) ------------------------------------------
# By unit and n: all FC kernels, seconds and then joules in the order of `workload.transformer.FC_CLASSES`.
QKV_S, PROJECTION_S, FEED_FORWARD_S, QKV_J, PROJECTION_J, FEED_FORWARD_J = range(6)
FC_S, FC_J = slice(QKV_S, QKV_J), slice(QKV_J, FEED_FORWARD_J + 1)
NUM_FC = 8
# Behind them, where causes are kept: joules by cause (see `energy`) of each class, and of all, a cache line each.
NUM_CAUSES, LINK, CAUSE_COLUMNS = energy.NUM_CAUSES, energy.LINK, 8
QKV_CAUSES, PROJECTION_CAUSES, FEED_FORWARD_CAUSES, FC_CAUSES = range(
    NUM_FC, NUM_FC + 4 * CAUSE_COLUMNS, CAUSE_COLUMNS
)
NUM_FC_CAUSES = NUM_FC + 4 * CAUSE_COLUMNS
# By unit of attention, TLP and RLP: everything else.
(
    GROUPS_S,  # per group of all requests, if they spread evenly over the channels
    LONGEST_GROUPS_S,  # per group of the longest request
    KEY_ROWS_S,  # likewise, per DRAM row of keys
    LONGEST_KEY_ROWS_S,
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
# Behind them: joules of attention by cause, per group on PIM and per token on PUs; on links, per token everywhere.
ATTENTION_CAUSES = NUM_OTHER
NUM_OTHER_CAUSES = NUM_OTHER + CAUSE_COLUMNS

# --- columns of the cost tables ---------------------------------------------------------------------
COST_S, COST_J, COST_CAUSES = 0, 1, 2  # the last where causes are kept, .. +5: joules by cause
NUM_COSTS = COST_CAUSES + NUM_CAUSES
(
    PER_GROUP_S,
    PER_KEY_ROW_S,
    PER_PAIR_S,
    PER_START_S,
    UNPAIRED_S,
    PER_TOKEN_S,
    LINK_PER_TOKEN_S,
    PER_GROUP_J,
    PER_TOKEN_J,
) = range(9)
NUM_ATTENTION = 9
(
    SHARE,  # contexts that the busiest channel works through (see `hardware.costs.AttentionMapping`)
    SHARE_OF_ONE,
    PAIRS,
    UNPAIRED,  # 1 / pairs if they are odd, else 0
) = range(4)
NUM_SHARES = 4
COMBINE_S, COMBINE_J, CROSSING_S, CROSSING_J = range(4)
# Of a stage: combining outputs, and one crossing of its input, its pooled channels, its map.
STAGE_COMBINE_S, INPUT_S, POOLED_S, MAP_S, STAGE_COMBINE_J, INPUT_J, POOLED_J, MAP_J = range(8)
NUM_STAGE_MOVES = 8

# --- observations: float32 [num_envs, features] -----------------------------------------------------
# Everything about a feature but how it is computed, which is in `decode` and `encode` (or, of a descriptor, in `tables`
# and `stages`). The reference of times is the scalar REFERENCE.
_TIMES = (squash(), "reference times")


def _last_times(kinds: Iterable[str]) -> tuple[Feature, ...]:
    return tuple(Feature(f"last_time_{kind}", f"last time of {kind}", *_TIMES) for kind in kinds)


def _last_units(kinds: Iterable[str]) -> tuple[Feature, ...]:
    return tuple(
        Feature(f"last_unit_{kind}_{unit}", f"{kind} ran on {unit} last")
        for kind in kinds
        for unit in UNIT_NAMES
    )


STATE_FEATURES = (
    Feature("rlp", "requests decoding", linear(MAX_BATCH)),
    Feature("tlp", "tokens verified per request", linear(MAX_SPECULATION)),
    Feature("n", "n = RLP x TLP", linear(MAX_BATCH * MAX_SPECULATION)),
    # Above 1/2 where PAPI's rule picks the PUs.
    Feature("n_share_of_alpha", "n / α", squash()),
    Feature("batch_size", "batch size", linear(MAX_BATCH)),
    Feature("finished", "share of the batch that has finished", linear(100), "%"),
    Feature("mean_context", "mean context", squash(25), "% of the limit"),
    # In whole 16-token groups.
    Feature("longest_context", "longest context", squash(25), "% of the limit"),
    Feature("iteration", "iterations so far", squash(256)),
    Feature("last_finished", "share of the batch that ended in the last iteration", linear(100), "%"),
    Feature("last_decoded", "tokens decoded per verified row", linear(1)),
    Feature("last_time", "time of the last step", *_TIMES),
    Feature("last_communication", "communication of the last step", *_TIMES),
    *_last_times(KERNEL_CLASSES),
    *_last_units(KERNEL_CLASSES),
    # 0 before all FC kernels have run there.
    *(Feature(f"seen_fc_time_{unit}", f"FC time when last on {unit}", *_TIMES) for unit in UNIT_NAMES[:2]),
    *(
        Feature(f"seen_n_{unit}", f"n when last on {unit}", linear(MAX_BATCH * MAX_SPECULATION))
        for unit in UNIT_NAMES[:2]
    ),
)
DESCRIPTOR_FEATURES = (
    *descriptors.SYSTEM,
    *descriptors.MODEL,
    # The share of energy in the reward.
    Feature("energy_weight", "price of static power", squash(), "s/s"),
)
# What Kernels-v0 appends: written in every step where a scenario has images, all zero where it has none.
STAGE_STATE_FEATURES = (
    # None of them: an iteration comes next.
    *(Feature(f"stage_{stage}", f"stage {stage} of an encode comes next") for stage in range(MAX_STAGES)),
    Feature("images", "images of the encode", linear(MAX_IMAGES)),
    # Waiting or under way.
    Feature("encodes_left", "encodes left", linear(100), "% of the episode"),
    *(Feature(f"rows_{kind}", f"rows per weight of {kind}", log2_of(32)) for kind in STAGE_CLASSES),
    *(Feature(f"intensity_{kind}", f"intensity of {kind}", log2_of(16), "FLOP/B") for kind in STAGE_CLASSES),
    *_last_times(STAGE_CLASSES),
    *_last_units(STAGE_CLASSES),
)
STAGE_DESCRIPTOR_FEATURES = (
    Feature("network_weight_bytes", "network weights", DECADES, "B"),
    Feature("network_blocks", "network blocks", linear(100)),
    Feature("network_reparameterized", "the network is merged"),
    Feature("image_tokens", "positions of images", linear(100), "% of the context limit"),
)
# What Kernels-v0 appends behind them where the model has experts.
EXPERT_STATE_FEATURES = (
    # Of experts that have any, on average over routings.
    Feature("expert_tokens", "tokens per active expert", squash(16)),
    # Above 1/2 where the rule by tokens per active expert picks the PUs.
    Feature("expert_tokens_share_of_alpha", "tokens per active expert / α of experts", squash()),
    Feature("active_experts", "experts with tokens", linear(100), "%"),
    Feature("last_time_experts", "last time of experts", *_TIMES),
    *(Feature(f"last_experts_{option}", f"experts ran on {option} last") for option in UNIT_NAMES[:2]),
    Feature("last_experts_split", "experts were split last"),
)
EXPERT_DESCRIPTOR_FEATURES = (
    Feature("experts", "experts of a layer", log2_of(16)),
    Feature("experts_per_token", "experts of a token", linear(100), "% of a layer's"),
    Feature("expert_bytes", "weights of an expert", DECADES, "B"),
    Feature("expert_exponent", "Zipf exponent of the experts' popularity", squash()),
)
EXPERT_FEATURES = EXPERT_STATE_FEATURES + EXPERT_DESCRIPTOR_FEATURES
FEATURES = STATE_FEATURES + DESCRIPTOR_FEATURES
STAGE_FEATURES = STAGE_STATE_FEATURES + STAGE_DESCRIPTOR_FEATURES
KERNELS_FEATURES = FEATURES + STAGE_FEATURES
EXPERT_KERNELS_FEATURES = KERNELS_FEATURES + EXPERT_FEATURES
OBSERVATION_NAMES, DESCRIPTOR_NAMES = names(FEATURES), names(DESCRIPTOR_FEATURES)
STAGE_OBSERVATION_NAMES, STAGE_DESCRIPTOR_NAMES = names(STAGE_FEATURES), names(STAGE_DESCRIPTOR_FEATURES)

# Features that are moved as one when an observation begins; none has twice as few. chosen: a cache line.
TEMPLATE = 16
# What observations begin as: rows of whole lines, for each TLP as many as there may be requests.
TEMPLATE_ROWS = MAX_BATCH + 1
TEMPLATE_WIDTH = -(-len(EXPERT_KERNELS_FEATURES) // TEMPLATE) * TEMPLATE

# Columns by name, "-" written as "_", for the writers; those of one-hot groups and of classes are the first ones.
NUM_STATE_FEATURES = len(STATE_FEATURES)
COLUMN: Any = namedtuple("Column", [name.replace("-", "_") for name in names(EXPERT_KERNELS_FEATURES)])(
    *range(len(EXPERT_KERNELS_FEATURES))
)
LAST_CLASS_FEATURE, LAST_UNIT_FEATURE = COLUMN.last_time_qkv, COLUMN.last_unit_qkv_pu
SEEN_FEATURE, SEEN_N_FEATURE = COLUMN.seen_fc_time_pu, COLUMN.seen_n_pu
STAGE_FEATURE, IMAGES_FEATURE = COLUMN.stage_0, COLUMN.images
SHAPE_FEATURE = COLUMN.rows_repmlp_fc1_fc2  # rows, then intensities
LAST_STAGE_TIME_FEATURE = COLUMN.last_time_repmlp_fc1_fc2
LAST_STAGE_UNIT_FEATURE = COLUMN.last_unit_repmlp_fc1_fc2_pu
STAGE_DESCRIPTOR_FEATURE = COLUMN.network_weight_bytes
EXPERT_FEATURE, NUM_EXPERT_SHAPE = COLUMN.expert_tokens, 3  # tokens, their share of α, active experts
LAST_EXPERTS_FEATURE, EXPERT_DESCRIPTOR_FEATURE = COLUMN.last_experts_pu, COLUMN.experts
