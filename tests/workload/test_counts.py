"""Parameters, bytes and FLOPs of registered models against counts worked out by hand.

The numbers come from the public configurations (`config.json` at Hugging Face); every sum is written out, matrix by
matrix, and none of the package's formulas is called for the expected side.
"""

from pathlib import Path

import pytest

from papi_env.workload import transformer
from papi_env.workload.transformer import TRANSFORMERS

# A layer of Llama 3.1 8B: queries, keys and values, projection; gate, up, down. Embedding and LM head apart.
LLAMA_8B = 32 * (4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096 + 3 * 4096 * 14336) + 2 * 128256 * 4096
LLAMA_70B = 80 * (8192 * 8192 + 2 * 8192 * 1024 + 8192 * 8192 + 3 * 8192 * 28672) + 2 * 128256 * 8192
# 64 heads of 128 are 8192, where hidden is 5120.
QWEN3_32B = 64 * (5120 * 8192 + 2 * 5120 * 1024 + 8192 * 5120 + 3 * 5120 * 25600) + 2 * 151936 * 5120
# Of an expert three matrices; the router gives a number for each.
MIXTRAL_REST = 32 * (4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096 + 4096 * 8) + 2 * 32000 * 4096
MIXTRAL_EXPERTS = 32 * 3 * 4096 * 14336
QWEN3_MOE_REST = 48 * (2048 * 4096 + 2 * 2048 * 512 + 4096 * 2048 + 2048 * 128) + 2 * 151936 * 2048
QWEN3_MOE_EXPERTS = 48 * 3 * 2048 * 768
# Query: 7168 to 1536, to 128 heads of 128 + 64. Keys and values: 7168 to 512 + 64, 512 to 128 heads of 128 + 128.
DEEPSEEK_ATTENTION = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
DEEPSEEK_EMBEDDINGS = 2 * 129280 * 7168
DEEPSEEK_ROUTERS = 58 * 7168 * 256
DEEPSEEK_REST = 61 * DEEPSEEK_ATTENTION + 3 * 3 * 7168 * 18432 + 58 * 3 * 7168 * 2048
DEEPSEEK_EXPERTS = 58 * 3 * 7168 * 2048

# name: parameters, active ones, bytes of keys and values a token.
COUNTS = {
    "llama-3.1-8b": (LLAMA_8B, LLAMA_8B, 32 * 2 * 8 * 128 * 2),
    "llama-3.1-70b": (LLAMA_70B, LLAMA_70B, 80 * 2 * 8 * 128 * 2),
    "qwen3-32b": (QWEN3_32B, QWEN3_32B, 64 * 2 * 8 * 128 * 2),
    "mixtral-8x7b": (
        MIXTRAL_REST + 8 * MIXTRAL_EXPERTS,
        MIXTRAL_REST + 2 * MIXTRAL_EXPERTS,
        32 * 2 * 8 * 128 * 2,
    ),
    "qwen3-30b-a3b": (
        QWEN3_MOE_REST + 128 * QWEN3_MOE_EXPERTS,
        QWEN3_MOE_REST + 8 * QWEN3_MOE_EXPERTS,
        48 * 2 * 4 * 128 * 2,
    ),
    "deepseek-v3": (
        DEEPSEEK_REST + DEEPSEEK_ROUTERS + DEEPSEEK_EMBEDDINGS + 256 * DEEPSEEK_EXPERTS,
        DEEPSEEK_REST + DEEPSEEK_ROUTERS + DEEPSEEK_EMBEDDINGS + 8 * DEEPSEEK_EXPERTS,
        61 * (512 + 64) * 2,
    ),
}
# Multiply-accumulates of a query token and a context token in one layer: scores, weighted values.
ATTENTION = {
    "llama-3.1-8b": 32 * (32 * 128 + 32 * 128),
    "llama-3.1-70b": 80 * (64 * 128 + 64 * 128),
    "qwen3-32b": 64 * (64 * 128 + 64 * 128),
    "mixtral-8x7b": 32 * (32 * 128 + 32 * 128),
    "qwen3-30b-a3b": 48 * (32 * 128 + 32 * 128),
    # In the compressed space: 128 heads, keys of 576 and values of 512.
    "deepseek-v3": 61 * (128 * 576 + 128 * 512),
}
EMBEDDING = {
    "llama-3.1-8b": 128256 * 4096,
    "llama-3.1-70b": 128256 * 8192,
    "qwen3-32b": 151936 * 5120,
    "mixtral-8x7b": 32000 * 4096,
    "qwen3-30b-a3b": 151936 * 2048,
    "deepseek-v3": 129280 * 7168,
}
# As their makers say, in billions: all, and active ones.
PUBLISHED = {
    "llama-3.1-8b": (8.03, 8.03),
    "llama-3.1-70b": (70.6, 70.6),
    "qwen3-32b": (32.8, 32.8),
    "mixtral-8x7b": (46.7, 12.9),
    "qwen3-30b-a3b": (30.5, 3.3),
    "deepseek-v3": (671, 37),
}
BY_HAND = pytest.mark.parametrize("name", COUNTS)


@BY_HAND
def test_parameters_and_kv_bytes_are_those_counted_by_hand(name):
    model = TRANSFORMERS[name]
    assert (model.parameters, model.active_parameters, model.kv_bytes_per_token) == COUNTS[name]


def test_the_page_of_models_has_these_counts():
    page = (Path(transformer.__file__).parent / "README.md").read_text(encoding="utf-8")
    for name, (parameters, active, kv) in COUNTS.items():
        model = TRANSFORMERS[name]
        size, flops = model.weight_bytes / 1e9, model.flops_per_token(4096) / 1e9
        row = f"| `{name}` | {parameters / 1e9:.2f} G | {active / 1e9:.2f} G | {size:.1f} GB | {kv} | {flops:.1f} |"
        assert row in page


@BY_HAND
def test_parameters_are_as_published(name):
    model = TRANSFORMERS[name]
    found = (model.parameters / 1e9, model.active_parameters / 1e9)
    assert found == pytest.approx(PUBLISHED[name], rel=0.02)


@BY_HAND
@pytest.mark.parametrize("context", [1, 4096])
def test_flops_of_a_token_are_those_counted_by_hand(name, context):
    macs = COUNTS[name][1] - EMBEDDING[name] + context * ATTENTION[name]
    assert TRANSFORMERS[name].flops_per_token(context) == 2 * macs


@BY_HAND
def test_weights_take_their_formats_bytes(name):
    if name != "deepseek-v3":
        assert TRANSFORMERS[name].weight_bytes == 2 * COUNTS[name][0]
        return
    # FP8 with four bytes of scale for 128 x 128 weights; routers, embedding and LM head in 16 bits.
    in_fp8 = DEEPSEEK_REST + 256 * DEEPSEEK_EXPERTS
    expected = in_fp8 + in_fp8 * 4 / (128 * 128) + 2 * (DEEPSEEK_ROUTERS + DEEPSEEK_EMBEDDINGS)
    assert TRANSFORMERS[name].weight_bytes == pytest.approx(expected, rel=1e-8)


@BY_HAND
def test_every_kernel_of_a_token_is_in_its_flops(name):
    model, context = TRANSFORMERS[name], 1000
    kernels = sum(kernel.flops * kernel.count for kernel in model.decode_kernels())
    if model.experts is not None:
        kernels += model.experts.active * sum(k.flops * k.count for k in model.expert_kernels())
        kernels += 2 * model.expert_layers * model.hidden * model.experts.experts  # routers
    attention = model.attention_kernel()
    kernels += 2 * attention.count * attention.macs_per_context_token * context
    assert model.flops_per_token(context) == kernels
