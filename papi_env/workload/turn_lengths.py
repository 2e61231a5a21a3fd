"""Lengths of turns of conversations and of agents' calls, known by their means alone.

Nobody publishes their quantiles. So the shapes are those that ServeGen found in production (Xiang et al., 2025, section
3.2): outputs are exponential, inputs lognormal but for their tail. The standard deviation of inputs over their mean is
published where it says so. Quantiles are at the levels of `lengths.LEVELS`; with them `sample_table` meets the means to
1 %. Inputs are the *new* part of a prompt, without what was said before.
"""

from __future__ import annotations

from papi_env.workload.lengths import LENGTH_TABLES, LengthTable

# Inputs and outputs: ServeGen finds a weak correlation of the two, and gives no number. chosen: 0, range 0-0.3.
_CORRELATION = 0.0

# fmt: off
TURN_TABLES: dict[str, LengthTable] = {table.name: table for table in (
    # 69.83 +- 143.49 tokens in, as WildChat (Zhao et al., ICLR 2024, table 1) counts them; not checked.
    LengthTable(
        name="lmsys-chat-turn", n=1_000_000,
        source="LMSYS-Chat-1M (Zheng et al., ICLR 2024), table of statistics: means of a prompt and of a response",
        input_quantiles=(1, 1, 2, 4, 6, 10, 15, 21, 30, 41, 58, 88, 154, 246, 416, 591, 815, 1578, 4416),
        output_quantiles=(1, 2, 4, 11, 22, 48, 76, 109, 148, 196, 257, 344, 492, 639, 835, 983, 1131, 1475, 2114),
        input_mean=69.5, output_mean=214.5, rank_correlation=_CORRELATION,
    ),
    # 295.58 +- 1609.18 in, 441.34 +- 410.91 out, in tokens of Llama 2 (checked): as wide as an exponential.
    LengthTable(
        name="wildchat-turn", n=1_039_785,
        source="WildChat (Zhao et al., ICLR 2024), table 1: means of a user's and of the chatbot's turn",
        input_quantiles=(1, 1, 1, 3, 5, 11, 20, 33, 53, 85, 140, 251, 567, 1111, 2367, 3919, 6217, 16102, 32000),
        output_quantiles=(1, 4, 9, 23, 46, 98, 157, 224, 305, 403, 529, 707, 1012, 1316, 1719, 2023, 2328, 3035,
                          4096),
        input_mean=295.58, output_mean=441.34, rank_correlation=_CORRELATION,
    ),
    # Whole prompts, with what was said before; 2000 tokens at most, as there. chosen: a standard deviation of inputs as
    # large as their mean, range 0.8-1.5 (its figure 7 is a wide one).
    LengthTable(
        name="sharegpt-request", n=90_000,
        source="ShareGPT as DistServe serves it (Zhong et al., OSDI 2024), figure 7: means",
        input_quantiles=(23, 85, 107, 150, 203, 292, 381, 477, 589, 728, 912, 1188, 1713, 2000, 2000, 2000, 2000, 2000,
                         2000),
        output_quantiles=(1, 2, 4, 10, 21, 44, 71, 102, 138, 183, 240, 321, 459, 597, 780, 918, 1056, 1377, 1974),
        input_mean=755.5, output_mean=200.3, rank_correlation=_CORRELATION,
    ),
    # Cut to the context of OPT there, so that most are about as long as it. chosen: a deviation of 0.1, range 0.05-0.2.
    LengthTable(
        name="longbench-request", n=4_750,
        source="LongBench as DistServe serves it (Zhong et al., OSDI 2024), figure 7: means",
        input_quantiles=(1179, 1378, 1416, 1475, 1530, 1598, 1650, 1695, 1738, 1783, 1832, 1890, 1975, 2000, 2000, 2000,
                         2000, 2000, 2000),
        output_quantiles=(1, 1, 2, 5, 10, 20, 32, 46, 63, 83, 109, 145, 208, 270, 353, 416, 478, 623, 894),
        input_mean=1738.3, output_mean=90.7, rank_correlation=_CORRELATION,
    ),
    # chosen: a standard deviation of half the mean, range 0.3-0.8, and 20,000 tokens at most.
    LengthTable(
        name="mlperf-405b", n=8_313,
        source="MLPerf Inference v5.0, Llama-3.1 405B: means of prompts (long texts with a question) and of answers",
        input_quantiles=(1362, 2851, 3243, 3934, 4670, 5749, 6679, 7591, 8556, 9644, 10961, 12733, 15674, 18609,
                         20000, 20000, 20000, 20000, 20000),
        output_quantiles=(1, 7, 14, 35, 72, 152, 243, 348, 472, 624, 820, 1096, 1567, 2039, 2663, 3135, 3607, 4702,
                          6742),
        input_mean=9400, output_mean=684, rank_correlation=_CORRELATION,
    ),
    # chosen: means of 150 and 60, ranges 100-400 and 30-150: with a prompt of 512 and 2.5-28 calls, contexts end at
    # InferCept's 1246-2185 tokens (Abhyankar et al., ICML 2024, table 1); deviation 0.5, range 0.2-1.
    LengthTable(
        name="react-call", n=1,
        source="chosen: steps of agents with contexts of 2048 tokens, see InferCept (ICML 2024), table 1",
        input_quantiles=(21, 45, 51, 62, 73, 90, 104, 119, 134, 151, 171, 199, 245, 291, 353, 402, 452, 576, 841),
        output_quantiles=(1, 1, 1, 3, 6, 13, 21, 31, 41, 55, 72, 96, 138, 179, 234, 275, 317, 413, 500),
        input_mean=150, output_mean=60, rank_correlation=_CORRELATION,
    ),
    # From its means: contexts of 12,367 tokens at the first of 33 calls and 84,482 at the last, 17,239 tokens put out
    # in all, so 522 a call, and 1731 put in by tools between two. chosen: a deviation of 1, range 0.7-2.
    LengthTable(
        name="codex-call", n=610 * 33,
        source="codex_swebenchpro_traces (Inferact, 2026): means over 610 tasks of SWE-bench Pro",
        input_quantiles=(48, 175, 219, 308, 417, 602, 784, 982, 1213, 1498, 1877, 2444, 3525, 4770, 6705, 8413, 10355,
                         15892, 30942),
        output_quantiles=(1, 5, 10, 27, 55, 116, 185, 265, 360, 476, 625, 836, 1196, 1556, 2032, 2392, 2752, 3589,
                          5145),
        input_mean=1731, output_mean=522, rank_correlation=_CORRELATION,
    ),
)}
# fmt: on

# Every table that `Lengths.table` may name.
ALL_TABLES: dict[str, LengthTable] = {**LENGTH_TABLES, **TURN_TABLES}
