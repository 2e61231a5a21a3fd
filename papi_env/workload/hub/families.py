"""Which field of a hub's `config.json` is which field of `Transformer`, family by family.

A family is what the file calls `model_type`. Names, defaults of fields that files leave out, and what only code says
(whether feed-forward layers have gates, which layers have windows) are those of the configuration classes of Hugging
Face's transformers (4.57).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from papi_env.workload.hub.config import Config

Fields = dict[str, Any]

# What makes no difference to sizes: positions and their scaling, norms, biases and activation functions (left out of
# costs, see `decoder`), dropout and other things of training, tokens, how a router weighs its choices, and how and by
# what the file was written.
HARMLESS = re.compile(
    r"""
    rope_.* | .*rotary.* | position_embedding_type | alibi | original_max_position_embeddings | initial_context_length
    | max_sequence_length | interpolate_factor
    | max_window_layers | use_mrope | rotary_.* | query_pre_attn_scalar | .*logit_softcapping | attn_scale.*
    | .*_eps | .*_epsilon | .*layernorm.* | .*layer_norm.* | .*_norm | norm_.* | num_ln_in_parallel_attn
    | use_qk_norm | parallel_attn | bias | .*_bias | hidden_act | hidden_activation | activation_function | activation
    | swiglu_limit
    | .*dropout.* | .*_pdrop | layerdrop | initializer_.* | init_std | .*aux_loss.* | seq_aux | pretraining_tp
    | ep_size | use_cache | gradient_checkpointing | unsloth_.* | transformers\.js_config
    | .*_token_id | .*_token_ids | .*_token_index | prefix | mm_tokens_per_image | summary_.* | tokenizer_class
    | router_jitter_noise | output_router_logits | routed_scaling_factor | scoring_func | topk_method | topk_group
    | n_group | norm_topk_prob
    | architectures | model_type | auto_map | transformers_version | .*attn_implementation.* | _name_or_path
    | cache_implementation | task_specific_params | id2label | label2id | problem_type | .*return_dict.* | torchscript
    | use_bidirectional_attention | output_attentions | output_hidden_states | is_decoder | is_encoder_decoder
    | add_cross_attention | chunk_size_feed_forward | full_attn_mod
    | vision_config | num_nextn_predict_layers
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Family:
    """How the files of a family are read.

    Attributes:
        classes: how the names in `architectures` begin.
        gated: whether feed-forward layers have a gate.
        tied: whether embedding and LM head are one where the file does not say.
        names: their names of fields of `Transformer`, where those are not the usual ones.
        defaults: of whole numbers that files of this family leave out, by the field of `Transformer`.
        absent: what the configuration class has where a file leaves out a field of its own name.
        parts: what else is read; each returns fields of `Transformer`.
        text: where a multimodal model keeps the fields of its decoder.
    """

    classes: tuple[str, ...]
    gated: bool = True
    tied: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[Callable[[Config, Fields], Fields], ...] = ()
    text: str | None = None


# Fields of `Transformer` and how most families call them.
USUAL = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "feed_forward": "intermediate_size",
    "context_limit": "max_position_embeddings",
    "vocabulary": "vocab_size",
}


def _windows(tokens: int | None, layers: int, fields: Fields) -> Fields:
    """Windows of so many layers, if any; those as long as the context make no difference."""
    if tokens is None or not layers or tokens >= fields["context_limit"]:
        return {}
    return {"windows": {"tokens": tokens, "layers": layers}}


def _typed_layers(config: Config, fields: Fields) -> int | None:
    """How many layers `layer_types` gives windows; None where it is not there."""
    types = config.listed("layer_types")
    if types is None:
        return None
    if len(types) != fields["layers"]:
        config.refuse(
            "layer_types", f"{len(types)} entries", f"one for each of num_hidden_layers = {fields['layers']}"
        )
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            config.refuse("layer_types", kind, "full_attention or sliding_attention")
    found = types.count("sliding_attention")
    if found and not config.has("sliding_window"):
        config.refuse(
            "sliding_window", None, f"the tokens of the {found} layers that layer_types gives windows"
        )
    return found


def all_windows(config: Config, fields: Fields) -> Fields:
    """Mistral, Mixtral, Phi-3: all layers, where there is a window."""
    typed = _typed_layers(config, fields)
    layers = fields["layers"] if typed is None else typed
    return _windows(config.optional("sliding_window"), layers, fields)


def later_windows(config: Config, fields: Fields) -> Fields:
    """Qwen: the layers from `max_window_layers` on, if windows are used."""
    typed, tokens = _typed_layers(config, fields), config.optional("sliding_window")
    if not config.truth("use_sliding_window", False):
        if typed:
            config.refuse("layer_types", "sliding_attention", "full_attention as use_sliding_window is false")
        return {}
    if tokens is None:
        config.refuse("sliding_window", None, "the tokens of windows, as use_sliding_window is true")
    first = config.whole("max_window_layers", low=0)
    return _windows(tokens, max(fields["layers"] - first, 0) if typed is None else typed, fields)


def alternate_windows(config: Config, fields: Fields) -> Fields:
    """Gemma 2, gpt-oss: every second layer attends to everything."""
    config.agree("sliding_window", "sliding_window_size")
    typed, tokens = _typed_layers(config, fields), config.optional("sliding_window")
    config.raw("sliding_window_size")
    layers = fields["layers"]
    return _windows(tokens, layers - layers // 2 if typed is None else typed, fields)


def patterned_windows(config: Config, fields: Fields) -> Fields:
    """Gemma 3: every `sliding_window_pattern`-th layer attends to everything."""
    config.agree("sliding_window_pattern", "_sliding_window_pattern")
    typed, tokens = _typed_layers(config, fields), config.whole("sliding_window", 4096)
    name = "_sliding_window_pattern" if config.has("_sliding_window_pattern") else "sliding_window_pattern"
    every = config.whole(name, 6)
    layers = fields["layers"]
    return _windows(tokens, layers - layers // every if typed is None else typed, fields)


def mixtral_experts(config: Config, fields: Fields) -> Fields:
    """Mixtral: experts of the width of `intermediate_size` in all layers."""
    experts = _routed(config, "num_local_experts", ("num_experts_per_tok",))
    return {"experts": {**experts, "feed_forward": fields["feed_forward"]}}


def gpt_oss_experts(config: Config, fields: Fields) -> Fields:
    """As Mixtral, with another name for the experts of a token."""
    experts = _routed(config, "num_local_experts", ("num_experts_per_tok", "experts_per_token"))
    return {"experts": {**experts, "feed_forward": fields["feed_forward"]}}


def qwen_experts(config: Config, fields: Fields) -> Fields:
    """Qwen3: every `decoder_sparse_step`-th layer but those in `mlp_only_layers`."""
    experts = _routed(config, "num_experts", ("num_experts_per_tok",))
    every, layers = config.whole("decoder_sparse_step", 1), fields["layers"]
    plain = config.listed("mlp_only_layers") or []
    for index in plain:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < layers:
            config.refuse("mlp_only_layers", index, f"whole numbers from 0 to {layers - 1}")
    dense = sum(index in plain or (index + 1) % every != 0 for index in range(layers))
    width = config.whole("moe_intermediate_size")
    # Files of Qwen3-Coder say the width of the shared expert of older Qwen models, which Qwen3 has not.
    shared = config.whole("shared_expert_intermediate_size", 0, low=0)
    if shared:
        config.refuse("shared_expert_intermediate_size", shared, "0, as Qwen3 has no shared expert")
    return {"experts": {**experts, "feed_forward": width, "dense_layers": dense}}


def deepseek_experts(config: Config, fields: Fields) -> Fields:
    """DeepSeek: all layers from `first_k_dense_replace` on, and shared experts."""
    experts = _routed(config, "n_routed_experts", ("num_experts_per_tok",))
    every, first = config.whole("moe_layer_freq", 1), config.whole("first_k_dense_replace", 0, low=0)
    dense = sum(index < first or index % every != 0 for index in range(fields["layers"]))
    shared = config.whole("n_shared_experts", 0, low=0)
    width = config.whole("moe_intermediate_size")
    return {"experts": {**experts, "feed_forward": width, "shared": shared, "dense_layers": dense}}


def _routed(config: Config, name: str, active_names: tuple[str, ...]) -> Fields:
    config.agree(*active_names)
    for other in active_names:
        config.raw(other)
    active_name = next((other for other in active_names if config.has(other)), active_names[0])
    experts, active = config.whole(name, low=2), config.whole(active_name)
    if active > experts:
        config.refuse(active_name, active, f"at most {name} = {experts}")
    return {"experts": experts, "active": active}


def latent_attention(config: Config, fields: Fields) -> Fields:
    """DeepSeek's multi-head latent attention."""
    nope, rope = config.whole("qk_nope_head_dim"), config.whole("qk_rope_head_dim")
    if fields["kv_heads"] not in (None, fields["heads"]):
        expected = f"num_attention_heads = {fields['heads']}, as latent keys have"
        config.refuse("num_key_value_heads", fields["kv_heads"], expected)
    # Files that say it mean the whole query.
    told = config.optional("qk_head_dim")
    if told is not None and told != nope + rope:
        config.refuse("qk_head_dim", told, f"qk_nope_head_dim + qk_rope_head_dim = {nope + rope}")
    latent = {
        "kv_lora_rank": config.whole("kv_lora_rank"),
        "qk_nope": nope,
        "qk_rope": rope,
        "v": config.whole("v_head_dim"),
        "q_lora_rank": config.optional("q_lora_rank"),
    }
    return {"latent": latent, "head_dim": None, "kv_heads": None}


def opt_projection(config: Config, fields: Fields) -> Fields:
    """OPT-350M has an embedding narrower than its layers, which is not modelled."""
    width = config.whole("word_embed_proj_dim", fields["hidden"])
    if width != fields["hidden"]:
        config.refuse(
            "word_embed_proj_dim", width, f"hidden_size = {fields['hidden']}; projections are not modelled"
        )
    return {}


def falcon_heads(config: Config, fields: Fields) -> Fields:
    """Falcon 40B and 180B have `num_kv_heads`, Falcon 7B one head of keys, early models as many as of queries."""
    several = config.optional("num_kv_heads")
    multi_query = config.truth("multi_query", True)
    if config.truth("new_decoder_architecture", False):
        return {"kv_heads": fields["heads"] if several is None else several}
    return {"kv_heads": 1 if multi_query else fields["heads"]}


def falcon_width(config: Config, fields: Fields) -> Fields:
    """`ff_factor` times the hidden size, or four times, where the file does not say."""
    factor = config.optional("ff_factor")
    width = config.whole("ffn_hidden_size", (factor or 4) * fields["hidden"])
    if factor is not None and width != factor * fields["hidden"]:
        config.refuse("ffn_hidden_size", width, f"ff_factor {factor} times hidden_size {fields['hidden']}")
    return {"feed_forward": width}


_GEMMA_3 = Family(
    classes=("Gemma3",),
    tied=True,
    # `Gemma3TextConfig`; the files of the 4B model leave heads and vocabulary to it.
    defaults={
        "heads": 8,
        "kv_heads": 4,
        "head_dim": 256,
        "context_limit": 131072,
        "vocabulary": 262208,
    },
    parts=(patterned_windows,),
    text="text_config",
)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(("Llama",)),
    "mistral": Family(
        ("Mistral",), absent={"num_key_value_heads": 8, "sliding_window": 4096}, parts=(all_windows,)
    ),
    "qwen2": Family(("Qwen2",), absent={"num_key_value_heads": 32}, parts=(later_windows,)),
    "qwen3": Family(("Qwen3",), absent={"num_key_value_heads": 32, "head_dim": 128}, parts=(later_windows,)),
    "qwen3_moe": Family(
        ("Qwen3Moe",), absent={"num_key_value_heads": 4}, parts=(later_windows, qwen_experts)
    ),
    "gemma2": Family(
        ("Gemma2",),
        tied=True,
        absent={"num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096},
        parts=(alternate_windows,),
    ),
    "gemma3": _GEMMA_3,
    "gemma3_text": _GEMMA_3,
    "phi": Family(("Phi",), gated=False),
    "phi3": Family(("Phi3",), parts=(all_windows,)),
    "opt": Family(
        ("OPT",), gated=False, tied=True, names={"feed_forward": "ffn_dim"}, parts=(opt_projection,)
    ),
    "falcon": Family(
        ("Falcon",),
        gated=False,
        tied=True,
        names={"feed_forward": ""},
        defaults={"context_limit": 2048},
        parts=(falcon_heads, falcon_width),
    ),
    "mixtral": Family(("Mixtral",), absent={"num_key_value_heads": 8}, parts=(all_windows, mixtral_experts)),
    "deepseek_v2": Family(
        ("DeepseekV2",),
        absent={"q_lora_rank": 1536, "n_shared_experts": 2},
        parts=(latent_attention, deepseek_experts),
    ),
    "deepseek_v3": Family(
        ("DeepseekV3",),
        absent={"q_lora_rank": 1536, "n_shared_experts": 1, "first_k_dense_replace": 3},
        parts=(latent_attention, deepseek_experts),
    ),
    "gpt_oss": Family(
        ("GptOss",),
        absent={"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128},
        parts=(alternate_windows, gpt_oss_experts),
    ),
}
