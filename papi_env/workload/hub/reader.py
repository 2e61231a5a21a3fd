"""From a hub's `config.json` to the fields of `Transformer`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from papi_env.errors import DataError, nearest
from papi_env.workload.hub.config import Config, read_json
from papi_env.workload.hub.families import FAMILIES, HARMLESS, USUAL, Family
from papi_env.workload.hub.formats import read_dtype, read_quantization

FILE = "config.json"


def read_config(path: str | Path, highest: Mapping[str, int]) -> tuple[dict[str, Any], str]:
    """The fields of `Transformer` from a `config.json`, or the one in the folder `path`; and its name, for errors.

    The model is named by the folder, or by the file if that is called otherwise. LM head and embedding count. Fields
    that change no size are ignored (`families.HARMLESS`), those that are null are as if absent, and all others must be
    understood. The vision part of multimodal models is left out.

    Raises:
        DataError: the file is not within bounds or no JSON object (`config.read_json`), its `model_type` is not known,
            or a field is missing, unknown, of the wrong kind or in contradiction to another; it is named.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE
    data = read_json(file)
    whole = Config(str(file), data)
    family = _family(whole)
    text = whole
    if family.text is not None and whole.has(family.text):
        inner = whole.inner(family.text)
        assert inner is not None
        text = inner
        for name in USUAL.values():
            if whole.has(name) and text.has(name) and whole.raw(name) != text.raw(name):
                whole.refuse(
                    name,
                    whole.raw(name),
                    f"{text.raw(name)!r}, as in {family.text}: the file contradicts itself",
                )
    text.assume(family.absent)
    fields = _sizes(text, family, highest)
    for part in family.parts:
        fields |= part(text, fields)
    _check_heads(text, family, fields)
    read_dtype(*dict.fromkeys((whole, text)))
    formats = read_quantization(whole)
    tied = whole.truth("tie_word_embeddings", text.truth("tie_word_embeddings", family.tied))
    fields |= {"name": _name(file), "gated": family.gated, "lm_head": True, "tied_embeddings": tied}
    if formats.weights is not None:
        fields["weight_format"] = formats.weights
    if formats.kv is not None:
        fields["kv_format"] = formats.kv
    if formats.experts is not None:
        if "experts" not in fields:
            raise DataError(
                f"{file}: quantization_config: quant_method 'mxfp4' of experts, but the model has none"
            )
        fields["experts"] = {**fields["experts"], "weight_format": formats.experts}
    for config in dict.fromkeys((whole, text)):
        others = config.others(lambda name: HARMLESS.fullmatch(name) is not None)
        if others:
            raise DataError(
                f"{config.where}: {', '.join(others)}: not understood for model_type "
                f"{whole.raw('model_type')!r}, and may change sizes"
            )
    return {name: value for name, value in fields.items() if value is not None}, str(file)


def _name(file: Path) -> str:
    return file.resolve().parent.name if file.name == FILE else file.stem


def _family(config: Config) -> Family:
    """The family that the file names; what `architectures` says must be of it."""
    kind = config.text("model_type")
    if kind is None:
        raise DataError(
            f"{config.where}: model_type: not there, expected one of {', '.join(sorted(FAMILIES))}"
        )
    if kind not in FAMILIES:
        close = nearest(kind, FAMILIES)
        hint = f"; the nearest known is {close!r}" if close else ""
        config.refuse("model_type", kind, f"one of {', '.join(sorted(FAMILIES))}{hint}")
    family = FAMILIES[kind]
    for name in config.listed("architectures") or []:
        # "Phi3ForCausalLM" is of Phi3, not of Phi.
        stem = re.sub(r"(For[A-Z].*|Model)$", "", name) if isinstance(name, str) else None
        if stem not in family.classes:
            config.refuse(
                "architectures", name, f"{' or '.join(family.classes)}..., as model_type is {kind!r}"
            )
    return family


def _sizes(config: Config, family: Family, highest: Mapping[str, int]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for ours, usual in USUAL.items():
        theirs = family.names.get(ours, usual)
        if not theirs:  # worked out from others
            continue
        default, high = family.defaults.get(ours), highest.get(ours, 1 << 24)
        if ours in ("kv_heads", "head_dim") and default is None:
            fields[ours] = config.optional(theirs, high)
        else:
            fields[ours] = config.whole(theirs, default, high=high)
    return fields


def _check_heads(config: Config, family: Family, fields: dict[str, Any]) -> None:
    """What `Transformer` would refuse, in the file's own names."""
    hidden, heads = fields["hidden"], fields["heads"]
    if fields.get("head_dim") is None and "latent" not in fields and hidden % heads:
        config.refuse("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}, or a head_dim")
    kv_heads = fields.get("kv_heads")
    if kv_heads is not None and heads % kv_heads:
        config.refuse("num_attention_heads", heads, f"a multiple of the {kv_heads} heads of keys and values")
