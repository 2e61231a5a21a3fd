"""Models have the published shapes, and a shape that is none is refused by name."""

import math

import pytest
from pydantic import ValidationError

from papi_env.errors import ConfigurationError
from papi_env.kernel import KernelClass
from papi_env.workload.transformer import (
    FC_CLASSES,
    PRESET_MODELS,
    TRANSFORMERS,
    Transformer,
    get_transformer,
)

MODELS = pytest.mark.parametrize("model", PRESET_MODELS.values(), ids=PRESET_MODELS)
ALL_MODELS = pytest.mark.parametrize("model", TRANSFORMERS.values(), ids=TRANSFORMERS)
GPT3, LLAMA, GROUPED = (TRANSFORMERS[name] for name in ("gpt3-175b", "llama-65b", "llama2-70b"))


def shape(**changes):
    return {"name": "small", "layers": 2, "hidden": 64, "heads": 4, "feed_forward": 256, **changes}


@pytest.mark.parametrize(
    ("name", "billions"),
    [("opt-30b", 30), ("gpt3-66b", 66), ("gpt3-175b", 175), ("llama-65b", 65.2), ("llama2-70b", 69)],
)
def test_fc_parameters_are_within_5_percent_of_the_models_size(name, billions):
    # Short of it: embeddings, the LM head and norms are left out.
    parameters = TRANSFORMERS[name].weight_bytes / 2
    assert 0.95 * billions <= parameters / 1e9 <= billions


def test_a_gpt_block_has_twelve_and_a_llama_block_its_three_matrices():
    assert GPT3.weight_bytes == 2 * 96 * 12 * 12288**2
    assert LLAMA.weight_bytes == 2 * 80 * (4 * 8192**2 + 3 * 8192 * 22016)


@MODELS
def test_every_head_has_128_elements(model):
    assert model.head_size == 128


def test_kv_caches_take_the_known_bytes_per_token():
    assert GPT3.kv_bytes_per_token == 2 * 2 * 96 * 12288  # 4.72 MB
    assert round(GPT3.kv_bytes_per_token / 1e6, 2) == 4.72
    assert LLAMA.kv_bytes_per_token == 2 * 2 * 80 * 8192


def test_eight_kv_heads_for_64_make_the_kv_cache_eight_times_smaller():
    full = GROUPED.model_copy(update={"kv_heads": None})
    assert full.kv_bytes_per_token == 8 * GROUPED.kv_bytes_per_token
    assert GROUPED.fc_kernels()[0].outer == 8192 + 2 * 8192 // 8  # queries, then keys and values


def test_context_limits_are_the_models():
    assert {name: model.context_limit for name, model in PRESET_MODELS.items()} == {
        "opt-30b": 2048,
        "gpt3-66b": 2048,
        "gpt3-175b": 2048,
        "llama-65b": 2048,
        "llama2-70b": 4096,
    }


@MODELS
def test_kernels_come_in_order_once_a_layer_and_chain(model):
    kernels = model.fc_kernels()
    assert [k.kernel_class for k in kernels[:2]] == [KernelClass.QKV, KernelClass.PROJECTION]
    assert {k.kernel_class for k in kernels} == set(FC_CLASSES)
    assert len(kernels) == 4
    assert [k.split for k in kernels] == ["outputs", "inputs"] * 2
    assert all(k.count == model.layers and k.rows == 1 for k in kernels)
    assert kernels[0].inner == kernels[1].outer == kernels[2].inner == kernels[-1].outer == model.hidden
    # Gate and up run as one.
    assert kernels[2].outer == model.feed_forward * (2 if model.gated else 1)
    assert kernels[-1].inner == model.feed_forward


@MODELS
def test_attention_agrees_with_the_model(model):
    attention = model.attention_kernel()
    assert attention.count == model.layers
    assert attention.kv_bytes_per_token * attention.count == model.kv_bytes_per_token
    assert attention.macs_per_context_token == 2 * model.hidden


@ALL_MODELS
def test_a_model_survives_being_written_down(model):
    assert Transformer.model_validate(model.model_dump()) == model
    assert Transformer.model_validate_json(model.model_dump_json()) == model


def test_a_user_may_describe_a_model():
    assert Transformer.model_validate(shape(kv_heads=1)).kv_width == 16


@pytest.mark.parametrize("field", ["layers", "hidden", "heads", "kv_heads", "feed_forward", "context_limit"])
@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, math.inf, "many", 10**9])
def test_a_size_that_means_nothing_is_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        Transformer.model_validate(shape(**{field: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "hidden 64 is not a multiple of heads 5"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"kv_heads": 8}, "heads 4 is not a multiple of kv_heads 8"),
        ({"depth": 2}, "depth"),
        ({"name": None}, "name"),
    ],
)
def test_a_shape_that_does_not_divide_or_is_unknown_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Transformer.model_validate(shape(**changes))


@pytest.mark.parametrize("name", ["llama-65", "GPT3-175B", "", None, 65])
def test_an_unknown_model_is_answered_with_the_known_ones(name):
    with pytest.raises(ConfigurationError, match="Unknown model") as caught:
        get_transformer(name)
    assert all(known in str(caught.value) for known in TRANSFORMERS)
