"""The formats of numbers that a hub's `config.json` states: `torch_dtype` and `quantization_config`."""

from __future__ import annotations

from typing import Any, NamedTuple

from papi_env.workload.hub.config import Config

# As vLLM's `dtype = "auto"` has it, weights in FP32 are served in FP16.
_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp16"}
# GPTQ and AWQ keep with the FP16 scale of a group a zero point of as many bits as a weight.
_SCALE_BYTES = 2.0


class Formats(NamedTuple):
    """Fields of `ElementFormat` by what they are of; None: 16 bits. `experts` where experts have one of their own."""

    weights: dict[str, Any] | None = None
    kv: dict[str, Any] | None = None
    experts: dict[str, Any] | None = None


def read_dtype(*configs: Config) -> None:
    """Check the type of elements, which must be one of 16 bits, or FP32; None of these objects may say another."""
    for config in configs:
        config.agree("dtype", "torch_dtype")
        for name in ("dtype", "torch_dtype"):
            config.text(name, _DTYPES)
    said = [(config, name) for config in configs for name in ("dtype", "torch_dtype") if config.has(name)]
    for config, name in said[1:]:
        first, first_name = said[0]
        if config.raw(name) != first.raw(first_name):
            config.refuse(
                name,
                config.raw(name),
                f"{first.raw(first_name)!r}, which is what {first_name} of the whole says: the file contradicts itself",
            )


def read_quantization(config: Config) -> Formats:
    """Formats by `quantization_config`; those of 16 bits where there is none.

    Known methods: `fp8` (with scales for blocks of weights) and `fbgemm_fp8`, `gptq`, `awq`, `mxfp4` (of experts only,
    as in gpt-oss), and `compressed-tensors` with one group of weights. Vectors are taken as kept in 16 bits, and so are
    LM heads, whatever is left out of quantisation besides.
    """
    inner = config.inner("quantization_config")
    if inner is None:
        return Formats()
    readers = {
        "fp8": _fp8,
        "fbgemm_fp8": lambda _: Formats({"elements": "fp8"}),
        "gptq": _grouped,
        "awq": _grouped,
        "mxfp4": lambda _: Formats(experts={"elements": "mxfp4"}),
        "compressed-tensors": _compressed_tensors,
    }
    method = inner.text("quant_method", readers)
    if method is None:
        inner.refuse("quant_method", None, f"one of {', '.join(sorted(readers))}")
    return readers[method](inner)


def _fp8(config: Config) -> Formats:
    block = config.listed("weight_block_size")
    config.text("fmt", ("e4m3", "e5m2"))
    if block is None:
        return Formats({"elements": "fp8"})
    if len(block) != 2 or any(
        isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in block
    ):
        config.refuse("weight_block_size", block, "two whole numbers above 0")
    return Formats({"elements": "fp8", "group_size": block[0] * block[1], "scale_bytes": 4.0})


def _grouped(config: Config) -> Formats:
    config.agree("bits", "w_bit")
    config.agree("group_size", "q_group_size")
    bits = config.whole("w_bit" if config.has("w_bit") else "bits")
    if bits not in (4, 8):
        config.refuse("bits", bits, "4 or 8")
    name = "q_group_size" if config.has("q_group_size") else "group_size"
    group = config.whole(name, 128, low=-1)
    if group == -1:  # a scale for each output
        return Formats(
            {"elements": f"int{bits}", "group_size": 1 << 24} if bits == 4 else {"elements": "int8"}
        )
    if group < 8:
        config.refuse(name, group, "-1, or 8 or more")
    return Formats({"elements": f"int{bits}", "group_size": group, "scale_bytes": _SCALE_BYTES + bits / 8})


def _compressed_tensors(config: Config) -> Formats:
    groups = config.inner("config_groups")
    names = [] if groups is None else groups.others(lambda _: False)
    if groups is None or len(names) != 1:
        config.refuse("config_groups", names, "one group of weights")
    weights = None
    if (group := groups.inner(names[0])) is not None:
        weights = group.inner("weights")
    if weights is None:
        groups.refuse(names[0], None, "weights in the group")
    kv = config.inner("kv_cache_scheme")
    return Formats(_tensor(weights), None if kv is None else _tensor(kv))


def _tensor(config: Config) -> dict[str, Any]:
    bits, kind = config.whole("num_bits"), config.text("type", ("float", "int"))
    if bits not in (4, 8) or (bits == 4 and kind == "float"):
        config.refuse("num_bits", bits, "8, or 4 of type int")
    elements = "fp8" if kind == "float" else f"int{bits}"
    group = config.optional("group_size")
    if group is not None:
        if group < 8:
            config.refuse("group_size", group, "8 or more")
        return {"elements": elements, "group_size": group, "scale_bytes": _SCALE_BYTES}
    return {"elements": elements, "group_size": 1 << 24} if bits == 4 else {"elements": elements}
