"""Features that describe a machine and a model to a scheduler, the same in every problem."""

from __future__ import annotations

from papi_env.hardware.units import UNIT_NAMES
from papi_env.simulation.features import DECADES, Feature, linear, squash

SYSTEM = (
    *(
        Feature(f"system_{unit.replace('-', '_')}_{column}", f"{words} of {unit}", DECADES, rate)
        for unit in UNIT_NAMES
        for column, words, rate in (("flops", "peak", "FLOP/s"), ("bandwidth", "bandwidth", "B/s"))
    ),
    Feature("system_link_bandwidth", "bandwidth of the attention link", DECADES, "B/s"),
    Feature("system_switch_time", "mode switch", squash(), "reference times"),
)
MODEL = (
    Feature("model_weight_bytes", "weights", DECADES, "B"),
    Feature("model_kv_bytes_per_token", "KV cache per token", DECADES, "B"),
    Feature("model_layers", "layers", linear(1000)),
)
