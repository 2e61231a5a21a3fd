"""Published traces on Serving-v1: requests come when they came, as long as they were; who sent them is drawn.

A trace does not say who asks and by when. Each of its requests is of one of the classes of a traffic of
`service_presets`, by their shares, with the objectives, worth and patience of that class. How many times as fast the
trace is played is relative to what the machine can carry: `service_traces.json` holds, for each trace and model, the
largest time scale at which the best tuned rule serves 95 % of the worth that fits the model's context, as measured by
`python -m experiments.presets --env papi_env/Serving-v1 --trace FILE ...`. Users bring the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from papi_env.errors import DataError, lookup
from papi_env.workload.arrivals import Arrivals
from papi_env.workload.presets import rounded
from papi_env.workload.requests import Lengths
from papi_env.workload.service import Service
from papi_env.workload.service_presets import (
    TRACE_FAMILIES,
    check_measured,
    measured_entries,
    traffic_serving,
)
from papi_env.workload.serving import Serving

TIME_SCALES = Path(__file__).with_name("service_traces.json")
# One model of training, whose context of 2048 tokens holds 62 % of the requests of Azure's code service and 85 % of its
# conversations, so that the others are refused as they come; and one that no training meets, which holds all.
MODELS = ("llama-65b", "qwen3-30b-a3b")
# Seconds in which requests come, a window of the trace drawn by episode. As in most presets; of the code service
# so long that something comes in every window at time scales of 0.61 and more: its longest hole lasts 217 s.
HORIZONS_S: Mapping[str, float] = {"azure-conversation": 120.0, "azure-code": 360.0}


def without_lengths(service: Service) -> Service:
    """The same classes, whose requests are as long as the scenario says, so that what is known of them is true.

    Nor do they share a prefix: prompts as long as a trace has them may be shorter, and it does not say what they share.
    """
    ours = {"lengths": None, "shared_prefix": 0}
    return service.model_copy(
        update={"classes": {name: entry.model_copy(update=ours) for name, entry in service.classes.items()}}
    )


def trace_serving(trace: str, path: str, traffic: str, model: str, time_scale: float) -> Serving:
    """What is served of a trace on a model.

    Args:
        trace: a name in HORIZONS_S.
        path: of its file, which is not read here.
        traffic, model: names in `service_presets`.
        time_scale: how many times as fast its requests come.

    Raises:
        ConfigurationError: an unknown name.
    """
    horizon_s = lookup("trace", trace, HORIZONS_S)
    arrivals = Arrivals(process="trace", trace=path, time_scale=time_scale)
    serving = traffic_serving(traffic, model, arrivals, lengths=Lengths(trace=path), horizon_s=horizon_s)
    assert serving.service is not None
    return serving.model_copy(update={"service": without_lengths(serving.service)})


def family_serving(name: str, path: str, model: str, scales: Mapping[tuple[str, str], float]) -> Serving:
    """What is served in a family of `service_presets.TRACE_FAMILIES` on a model.

    Args:
        name, model: of the family and the model.
        path: of the trace's file, which is not read here.
        scales: time scales at capacity, see `load_time_scales`.

    Raises:
        ConfigurationError: an unknown name.
    """
    family = lookup("family of a trace", name, TRACE_FAMILIES)
    scale = rounded(family.load * scales[family.trace, model])
    return trace_serving(family.trace, path, family.traffic, model, scale)


def load_time_scales(path: str | Path = TIME_SCALES) -> dict[tuple[str, str], float]:
    """The largest time scales that the machine can carry, by trace and model.

    Raises:
        DataError: the file is not what `experiments.presets` writes; it says which entry is wrong.
    """
    path = Path(path)
    found = {}
    for key, value in measured_entries(path).items():
        where = f"{path}: measured.{key}"
        trace, _, model = key.partition("/")
        if trace not in HORIZONS_S or model not in MODELS:
            raise DataError(f"{where}: expected TRACE/MODEL, with one of {', '.join(HORIZONS_S)}")
        check_measured(where, value, 1e6)
        found[trace, model] = float(value)
    missing = [f"{trace}/{model}" for trace in HORIZONS_S for model in MODELS if (trace, model) not in found]
    if missing:
        raise DataError(f"{path}: measured: found no {missing[0]}, expected one for each trace and model")
    return found
