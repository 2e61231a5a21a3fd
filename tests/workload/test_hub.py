"""A hub's `config.json` gives the model that it describes, or is refused by the field that is wrong."""

import json

import pytest

from papi_env.errors import DataError
from papi_env.workload.hub.config import MOST_BYTES
from papi_env.workload.hub.families import FAMILIES
from papi_env.workload.transformer import TRANSFORMERS, Transformer
from tests.workload.configs import CONFIGS

# Worked out by hand: bytes of keys and values a token (layers x 2 x heads x elements x bytes), and parameters, layer by
# layer: queries, keys, values, projection, feed-forward (three matrices with a gate); then embedding and LM head.
KV_BYTES = {
    "llama-3.2-1b": 16 * 2 * 8 * 64 * 2,
    "deepseek-v2-lite": 27 * (512 + 64) * 2,
    "mistral-7b-v0.1": 32 * 2 * 8 * 128 * 2,
    "mistral-nemo": 40 * 2 * 8 * 128 * 2,
    "qwen2.5-7b": 28 * 2 * 4 * 128 * 2,
    "gemma-2-27b": 46 * 2 * 16 * 128 * 2,
    "gemma-3-27b": 62 * 2 * 16 * 128 * 2,
    "gemma-3-4b": 34 * 2 * 4 * 256 * 2,
    "phi-2": 32 * 2 * 32 * 80 * 2,
    "phi-3-mini": 32 * 2 * 32 * 96 * 2,
    "opt-30b": 48 * 2 * 56 * 128 * 2,
    "falcon-7b": 32 * 2 * 1 * 64 * 2,
    "falcon-40b": 60 * 2 * 8 * 64 * 2,
    "falcon-180b": 80 * 2 * 8 * 64 * 2,
    "gpt-oss-20b": 24 * 2 * 8 * 64 * 2,
}
PARAMETERS = {
    # Tied: the embedding once.
    "llama-3.2-1b": 16 * (2048 * (2048 + 2 * 512) + 2048 * 2048 + 3 * 2048 * 8192) + 128256 * 2048,
    # Queries are not compressed; two shared experts; the first layer is dense.
    "deepseek-v2-lite": 27 * (2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048)
    + 3 * 2048 * 10944
    + 26 * (66 * 3 * 2048 * 1408 + 2048 * 64)
    + 2 * 102400 * 2048,
    "mistral-7b-v0.1": 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336) + 2 * 32000 * 4096,
    # 32 heads of 128 are 4096, where hidden is 5120.
    "mistral-nemo": 40 * (5120 * (4096 + 2 * 1024) + 4096 * 5120 + 3 * 5120 * 14336) + 2 * 131072 * 5120,
    "qwen2.5-7b": 28 * (3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944) + 2 * 152064 * 3584,
    "gemma-2-27b": 46 * (4608 * (4096 + 2 * 2048) + 4096 * 4608 + 3 * 4608 * 36864) + 256000 * 4608,
    "gemma-3-27b": 62 * (5376 * (4096 + 2 * 2048) + 4096 * 5376 + 3 * 5376 * 21504) + 262208 * 5376,
    # Heads and vocabulary are not in the file.
    "gemma-3-4b": 34 * (2560 * (2048 + 2 * 1024) + 2048 * 2560 + 3 * 2560 * 10240) + 262208 * 2560,
    "phi-2": 32 * (4 * 2560 * 2560 + 2 * 2560 * 10240) + 2 * 51200 * 2560,
    "phi-3-mini": 32 * (4 * 3072 * 3072 + 3 * 3072 * 8192) + 2 * 32064 * 3072,
    "opt-30b": 48 * (4 * 7168 * 7168 + 2 * 7168 * 28672) + 50272 * 7168,
    "falcon-7b": 32 * (4544 * (4544 + 2 * 64) + 4544 * 4544 + 2 * 4544 * 18176) + 65024 * 4544,
    "falcon-40b": 60 * (8192 * (8192 + 2 * 512) + 8192 * 8192 + 2 * 8192 * 32768) + 65024 * 8192,
    "falcon-180b": 80 * (14848 * (14848 + 2 * 512) + 14848 * 14848 + 2 * 14848 * 59392) + 65024 * 14848,
    "gpt-oss-20b": 24 * (2880 * (4096 + 2 * 512) + 4096 * 2880 + 32 * 3 * 2880 * 2880 + 2880 * 32)
    + 2 * 201088 * 2880,
}
# Tokens, and layers that have them.
WINDOWS = {
    "mistral-7b-v0.1": (4096, 32),
    "gemma-2-27b": (4096, 23),
    "gemma-3-27b": (1024, 52),
    "gemma-3-4b": (1024, 29),
    "phi-3-mini": (2047, 32),
    "gpt-oss-20b": (128, 12),
}
EACH = pytest.mark.parametrize("name", CONFIGS)
LLAMA = CONFIGS["llama-3.1-8b"]


@pytest.fixture
def written(tmp_path):
    """A function that writes a configuration, or raw text, to a file and returns its path."""

    def write(content, name="model"):
        path = tmp_path / name / "config.json"
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def refusal(path):
    with pytest.raises(DataError) as caught:
        Transformer.from_hf(path)
    message = str(caught.value)
    assert str(path) in message
    return message


def without(config, *names):
    return {name: value for name, value in config.items() if name not in names}


def test_every_family_has_an_example():
    there = {config["model_type"] for config in CONFIGS.values()} | {"gemma3_text"}
    assert there == set(FAMILIES)


@EACH
def test_the_counts_are_those_made_by_hand(name, written):
    model = Transformer.from_hf(written(CONFIGS[name], name))
    if name in TRANSFORMERS and name != "opt-30b":
        assert model == TRANSFORMERS[name]
        return
    assert (model.kv_bytes_per_token, model.parameters) == (KV_BYTES[name], PARAMETERS[name])


@EACH
def test_windows_are_where_the_family_has_them(name, written):
    model = Transformer.from_hf(written(CONFIGS[name], name))
    found = None if model.windows is None else (model.windows.tokens, model.windowed_layers)
    assert found == WINDOWS.get(name)


def test_the_folder_names_the_model_and_the_decoder_of_a_multimodal_one_is_the_text(written):
    path = written(CONFIGS["gemma-3-27b"], "gemma")
    assert Transformer.from_hf(path.parent) == Transformer.from_hf(str(path))
    assert Transformer.from_hf(path).name == "gemma"
    alone = {**CONFIGS["gemma-3-27b"]["text_config"], "torch_dtype": "bfloat16"}
    assert Transformer.from_hf(written(alone, "gemma")) == Transformer.from_hf(
        written(CONFIGS["gemma-3-27b"], "gemma")
    )


@pytest.mark.parametrize(
    ("method", "weights", "bytes_each"),
    [
        ({"quant_method": "fp8"}, "fp8", 1.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}, "fp8", 1 + 4 / 16384),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 1.0),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4", 0.5 + 2.5 / 64),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            "fp8",
            1.0,
        ),
    ],
)
def test_quantised_weights_take_their_bytes_and_the_lm_head_keeps_two(method, weights, bytes_each, written):
    model = Transformer.from_hf(written({**LLAMA, "quantization_config": method}))
    assert model.weight_format.elements == weights
    inside, head = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336), 2 * 128256 * 4096
    assert model.weight_bytes == pytest.approx(inside * bytes_each + 2 * head, rel=1e-6)
    assert model.kv_bytes_per_token == 131072 // (2 if "kv_cache_scheme" in method else 1)


def test_experts_in_mxfp4_leave_attention_in_16_bits(written):
    model = Transformer.from_hf(written(CONFIGS["gpt-oss-20b"]))
    experts = 24 * 32 * 3 * 2880 * 2880
    others = PARAMETERS["gpt-oss-20b"] - experts
    assert model.weight_bytes == pytest.approx(experts * (0.5 + 1 / 32) + 2 * others, rel=1e-6)


def test_windows_as_long_as_the_context_are_none(written):
    config = {**CONFIGS["mistral-7b-v0.1"], "sliding_window": 32768}
    assert Transformer.from_hf(written(config)).windows is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama-3.1-8b", {"model_type": "lama"}, "model_type: found 'lama'.* nearest known is 'llama'"),
        ("llama-3.1-8b", {"model_type": "mamba"}, "model_type: found 'mamba', expected one of deepseek_v2, "),
        ("llama-3.1-8b", {"architectures": ["Qwen2ForCausalLM"]}, "architectures: found 'Qwen2ForCausalLM'"),
        ("phi-2", {"architectures": ["Phi3ForCausalLM"]}, "architectures: found 'Phi3ForCausalLM'"),
        ("llama-3.1-8b", {"hidden_size": "4096"}, "hidden_size: found '4096', expected a whole number"),
        ("llama-3.1-8b", {"hidden_size": 4096.0}, "hidden_size: found 4096.0, expected a whole number"),
        ("llama-3.1-8b", {"hidden_size": True}, "hidden_size: found True"),
        ("llama-3.1-8b", {"hidden_size": 10**30}, "hidden_size: found 1000000"),
        ("llama-3.1-8b", {"num_hidden_layers": 0}, "num_hidden_layers: found 0"),
        ("llama-3.1-8b", {"num_hidden_layers": None}, "num_hidden_layers: not there"),
        ("llama-3.1-8b", {"num_hidden_layers": 5000}, "num_hidden_layers: found 5000, expected .* to 1000"),
        (
            "llama-3.1-8b",
            {"max_position_embeddings": 1 << 22},
            "max_position_embeddings: found 4194304, expected .* to 1048576",
        ),
        (
            "qwen3-30b-a3b",
            {"shared_expert_intermediate_size": 768},
            "shared_expert_intermediate_size: found 768",
        ),
        (
            "falcon-40b",
            {"ffn_hidden_size": 1024, "ff_factor": 4},
            "ffn_hidden_size: found 1024, expected ff_factor",
        ),
        (
            "llama-3.1-8b",
            {"num_key_value_heads": 7},
            "num_attention_heads: found 32, expected a multiple of the 7",
        ),
        (
            "llama-3.1-8b",
            {"num_attention_heads": 24},
            "hidden_size: found 4096, expected a multiple of .* 24",
        ),
        ("llama-3.1-8b", {"torch_dtype": "float8"}, "torch_dtype: found 'float8', expected one of bfloat16"),
        (
            "llama-3.1-8b",
            {"dtype": "float16"},
            "torch_dtype: found 'bfloat16', expected 'float16'.*contradicts",
        ),
        (
            "llama-3.1-8b",
            {"tie_word_embeddings": "no"},
            "tie_word_embeddings: found 'no', expected true or false",
        ),
        ("llama-3.1-8b", {"num_experts": 8}, "num_experts: not understood for model_type 'llama'"),
        ("llama-3.1-8b", {"sliding_window": 128}, "sliding_window: not understood"),
        (
            "llama-3.1-8b",
            {"quantization_config": {"quant_method": "exl3"}},
            "quant_method: found 'exl3', expected",
        ),
        ("llama-3.1-8b", {"quantization_config": {}}, "quant_method: found None, expected one of awq"),
        ("llama-3.1-8b", {"quantization_config": {"quant_method": "gptq", "bits": 3}}, "bits: found 3"),
        (
            "llama-3.1-8b",
            {"quantization_config": {"quant_method": "mxfp4"}},
            "of experts, but the model has none",
        ),
        (
            "qwen2.5-7b",
            {"layer_types": ["full_attention"] * 27},
            "layer_types: found '27 entries', expected one for",
        ),
        ("qwen2.5-7b", {"layer_types": ["full"] * 28}, "layer_types: found 'full', expected full_attention"),
        ("qwen2.5-7b", {"layer_types": ["sliding_attention"] * 28}, "as use_sliding_window is false"),
        ("qwen3-32b", {"use_sliding_window": True}, "sliding_window: found None"),
        (
            "gpt-oss-20b",
            {"sliding_window": None},
            "sliding_window: found None, expected the tokens of the 12",
        ),
        (
            "gpt-oss-20b",
            {"experts_per_token": 5},
            "experts_per_token: found 5, expected 4, .* contradicts itself",
        ),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "num_experts_per_tok: found 9, expected at most .* = 8"),
        ("qwen3-30b-a3b", {"mlp_only_layers": [48]}, "mlp_only_layers: found 48"),
        ("qwen3-30b-a3b", {"decoder_sparse_step": 49}, "dense_layers 48 of 48 layers"),
        (
            "deepseek-v3",
            {"num_key_value_heads": 8},
            "num_key_value_heads: found 8, expected num_attention_heads",
        ),
        ("deepseek-v3", {"kv_lora_rank": None}, "kv_lora_rank: not there"),
        ("opt-30b", {"word_embed_proj_dim": 512}, "word_embed_proj_dim: found 512, expected hidden_size"),
        ("gemma-3-27b", {"hidden_size": 5000}, "hidden_size: found 5000, expected 5376, as in text_config"),
        ("gemma-3-27b", {"text_config": 3}, "text_config: found 3, expected an object"),
    ],
)
def test_what_is_wrong_is_named(name, changes, message, written):
    with pytest.raises(DataError, match=message):
        Transformer.from_hf(written({**CONFIGS[name], **changes}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a JSON file"),
        ("{", "not a JSON file"),
        (b"\xff\xfe{}", "not a JSON file"),
        ("[1]", "found a list, expected a JSON object"),
        ('{"hidden_size": NaN}', "found NaN, expected a finite number"),
        ('{"hidden_size": 1, "hidden_size": 2}', "'hidden_size' is there twice"),
        ("[" * 100000, "nested more than 16 levels"),
        ('{"a": ' * 20 + "1" + "}" * 20, "nested more than 16 levels"),
        (" " * (MOST_BYTES + 1), "expected at most 4194304"),
        ("{}", "model_type: not there, expected one of deepseek_v2, "),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not a JSON file"),
    ],
    ids=range(11),
)
def test_what_is_no_description_of_a_model_is_refused(content, message, written):
    assert message in refusal(written(content))


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "nothing.json")
    assert f"{tmp_path / 'config.json'}: cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("llama-3.1-8b", {"max_sequence_length": 2048, "unsloth_version": "2024.9", "unsloth_fixed": True}),
        (
            "phi-3-mini",
            {"interpolate_factor": 1, "full_attn_mod": 1, "lm_head_bias": False, "mlp_bias": False},
        ),
        ("qwen3-30b-a3b", {"shared_expert_intermediate_size": 0, "qkv_bias": False, "use_qk_norm": True}),
        ("falcon-40b", {"ff_factor": 4, "ffn_hidden_size": 32768, "num_ln_in_parallel_attn": 1}),
    ],
)
def test_more_that_public_files_say_changes_nothing(name, more, written):
    plain, fuller = CONFIGS[name], {**CONFIGS[name], **more}
    assert Transformer.from_hf(written(fuller)) == Transformer.from_hf(written(plain))


@pytest.mark.parametrize(
    ("name", "field", "ours", "absent", "null"),
    [
        ("mistral-nemo", "num_key_value_heads", "kv_heads", 8, None),
        ("mistral-nemo", "sliding_window", "windowed_layers", 40, 0),
        ("mixtral-8x7b", "sliding_window", "windowed_layers", 0, 0),
        ("qwen3-32b", "head_dim", "head_size", 128, 80),
        ("gemma-2-27b", "head_dim", "head_size", 256, 144),
        ("gpt-oss-20b", "num_key_value_heads", "kv_heads", 8, None),
    ],
)
def test_an_absent_field_has_the_default_of_its_class_and_null_is_none(
    name, field, ours, absent, null, written
):
    left_out = Transformer.from_hf(written(without(CONFIGS[name], field)))
    assert getattr(left_out, ours) == absent
    assert getattr(Transformer.from_hf(written({**CONFIGS[name], field: None})), ours) == null


def test_deepseek_v3_has_the_defaults_of_its_class(written):
    names = ("q_lora_rank", "n_shared_experts", "first_k_dense_replace")
    whole = Transformer.from_hf(written(CONFIGS["deepseek-v3"]))
    assert Transformer.from_hf(written(without(CONFIGS["deepseek-v3"], *names))) == whole


@EACH
def test_a_field_that_is_not_known_is_refused_by_name(name, written):
    path = written({**CONFIGS[name], "conv_kernel": 4})
    assert "conv_kernel: not understood" in refusal(path)


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "vocab_size", "model_type"])
def test_a_field_that_is_missing_is_named(field, written):
    assert f"{field}: not there" in refusal(written(without(LLAMA, field)))
