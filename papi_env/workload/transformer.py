"""The registry of transformers."""

from __future__ import annotations

from collections.abc import Mapping

from papi_env.errors import lookup
from papi_env.workload.attention import LatentAttention
from papi_env.workload.decoder import FC_CLASSES as FC_CLASSES
from papi_env.workload.decoder import Transformer as Transformer
from papi_env.workload.experts import Experts
from papi_env.workload.formats import ElementFormat

# Shapes: OPT (Zhang et al. 2022), GPT-3 (Brown et al. 2020), LLaMA and Llama 2 (Touvron et al. 2023).
_PUBLISHED = (
    Transformer(name="opt-30b", layers=48, hidden=7168, heads=56, feed_forward=4 * 7168),
    Transformer(name="gpt3-66b", layers=64, hidden=9216, heads=72, feed_forward=4 * 9216),
    Transformer(name="gpt3-175b", layers=96, hidden=12288, heads=96, feed_forward=4 * 12288),
    Transformer(name="llama-65b", layers=80, hidden=8192, heads=64, feed_forward=22016, gated=True),
    Transformer(
        name="llama2-70b",
        layers=80,
        hidden=8192,
        heads=64,
        kv_heads=8,
        feed_forward=28672,
        gated=True,
        context_limit=4096,
    ),
)
# As their `config.json` at Hugging Face has them: Llama 3.1 (Grattafiori et al. 2024), Qwen3 (Yang et al. 2025),
# Mixtral (Jiang et al. 2024), DeepSeek-V3 (2024; a checkpoint in FP8 with an FP32 scale for 128 x 128 weights). The
# additional layer that DeepSeek-V3 drafts with is left out.
_HUB = (
    Transformer(
        name="llama-3.1-8b",
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        feed_forward=14336,
        gated=True,
        context_limit=131072,
        vocabulary=128256,
        lm_head=True,
    ),
    Transformer(
        name="llama-3.1-70b",
        layers=80,
        hidden=8192,
        heads=64,
        kv_heads=8,
        feed_forward=28672,
        gated=True,
        context_limit=131072,
        vocabulary=128256,
        lm_head=True,
    ),
    Transformer(
        name="qwen3-32b",
        layers=64,
        hidden=5120,
        heads=64,
        kv_heads=8,
        head_dim=128,
        feed_forward=25600,
        gated=True,
        context_limit=40960,
        vocabulary=151936,
        lm_head=True,
    ),
    Transformer(
        name="mixtral-8x7b",
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        feed_forward=14336,
        gated=True,
        context_limit=32768,
        vocabulary=32000,
        lm_head=True,
        experts=Experts(experts=8, active=2, feed_forward=14336),
    ),
    Transformer(
        name="qwen3-30b-a3b",
        layers=48,
        hidden=2048,
        heads=32,
        kv_heads=4,
        head_dim=128,
        feed_forward=6144,
        gated=True,
        context_limit=40960,
        vocabulary=151936,
        lm_head=True,
        experts=Experts(experts=128, active=8, feed_forward=768),
    ),
    Transformer(
        name="deepseek-v3",
        layers=61,
        hidden=7168,
        heads=128,
        feed_forward=18432,
        gated=True,
        context_limit=163840,
        vocabulary=129280,
        lm_head=True,
        weight_format=ElementFormat(elements="fp8", group_size=128 * 128, scale_bytes=4),
        experts=Experts(experts=256, active=8, feed_forward=2048, shared=1, dense_layers=3),
        latent=LatentAttention(q_lora_rank=1536, kv_lora_rank=512, qk_nope=128, qk_rope=64, v=128),
    ),
)
# The models that presets of static batches and figures of the paper go through.
PRESET_MODELS: Mapping[str, Transformer] = {model.name: model for model in _PUBLISHED}
TRANSFORMERS: Mapping[str, Transformer] = {model.name: model for model in (*_PUBLISHED, *_HUB)}


def get_transformer(name: str) -> Transformer:
    """The registered model of that name; an unknown name is answered with the known ones."""
    return lookup("model", name, TRANSFORMERS)
