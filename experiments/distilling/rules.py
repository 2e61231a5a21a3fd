"""A decision tree in words: features in physical units, choices by name, beside the rule of PAPI.

Features are what `papi_env.simulation.{batch,serving}.state` say; here their scaling is undone. Where a feature is
relative to something of the scenario (an objective, an iteration of reference, the context limit), so is the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.learned.distilled import Tree
from experiments.splitting.definition import DECODE, KERNELS, SERVING
from papi_env.errors import ConfigurationError, unknown_name
from papi_env.hardware.units import UNIT_NAMES
from papi_env.simulation.batch import state as layout
from papi_env.simulation.serving import state as serving_layout
from papi_env.workload.images import MAX_STAGES


@dataclass(frozen=True)
class Quantity:
    """What a feature means.

    Attributes:
        words: what it is.
        value: the quantity, from the feature as observed; increasing. None for a yes or no.
        unit: printed after the value.
    """

    words: str
    value: Callable[[float], float] | None = None
    unit: str = ""


def _unsquash(x: float) -> float:
    """Invert x / (1 + x); infinite at 1."""
    return x / (1 - x) if x < 1 else float("inf")


def _times(factor: float) -> Callable[[float], float]:
    return lambda x: factor * x


def _open(factor: float) -> Callable[[float], float]:
    return lambda x: factor * _unsquash(x)


def _decades(x: float) -> float:
    return 10.0 ** (20 * x)


def _descriptors() -> dict[str, Quantity]:
    found = {}
    for unit, name in zip(("pu", "fc_pim", "attn_pim"), UNIT_NAMES, strict=True):
        found[f"system_{unit}_flops"] = Quantity(f"peak of {name}", _decades, "FLOP/s")
        found[f"system_{unit}_bandwidth"] = Quantity(f"bandwidth of {name}", _decades, "B/s")
    return found | {
        "system_link_bandwidth": Quantity("bandwidth of the attention link", _decades, "B/s"),
        "system_switch_time": Quantity("mode switch", _open(1), "reference times"),
        "system_dual_row_buffers": Quantity("the stacks have dual row buffers"),
        "model_weight_bytes": Quantity("weights", _decades, "B"),
        "model_kv_bytes_per_token": Quantity("KV cache per token", _decades, "B"),
        "model_layers": Quantity("layers", _times(1000)),
    }


def _batch() -> dict[str, Quantity]:
    """Features of Decode-v0 and Kernels-v0."""
    names: dict[str, Quantity] = {
        "rlp": Quantity("requests decoding", _times(128)),
        "tlp": Quantity("tokens verified per request", _times(8)),
        "n": Quantity("n = RLP x TLP", _times(1024)),
        "n_share_of_alpha": Quantity("n / α", _open(1)),
        "batch_size": Quantity("batch size", _times(128)),
        "finished": Quantity("share of the batch that has finished", _times(100), "%"),
        "mean_context": Quantity("mean context", _open(25), "% of the limit"),
        "longest_context": Quantity("longest context", _open(25), "% of the limit"),
        "iteration": Quantity("iterations so far", _open(256)),
        "last_finished": Quantity("share of the batch that ended in the last iteration", _times(100), "%"),
        "last_decoded": Quantity("tokens decoded per verified row", _times(1)),
        "last_time": Quantity("time of the last step", _open(1), "reference times"),
        "last_communication": Quantity("communication of the last step", _open(1), "reference times"),
        "seen_fc_time_pu": Quantity("FC time when last on pu", _open(1), "reference times"),
        "seen_fc_time_fc-pim": Quantity("FC time when last on fc-pim", _open(1), "reference times"),
        "seen_n_pu": Quantity("n when last on pu", _times(1024)),
        "seen_n_fc-pim": Quantity("n when last on fc-pim", _times(1024)),
        "images": Quantity("images of the encode", _times(128)),
        "encodes_left": Quantity("encodes left", _times(100), "% of the episode"),
        "energy_weight": Quantity("price of static power", _open(1), "s/s"),
        "network_weight_bytes": Quantity("network weights", _decades, "B"),
        "network_blocks": Quantity("network blocks", _times(100)),
        "network_reparameterized": Quantity("the network is merged"),
        "image_tokens": Quantity("positions of images", _times(100), "% of the context limit"),
    }
    for stage in range(MAX_STAGES):
        names[f"stage_{stage}"] = Quantity(f"stage {stage} of an encode comes next")
    for kind in layout.CHOICE_CLASSES:
        names[f"last_time_{kind}"] = Quantity(f"last time of {kind}", _open(1), "reference times")
        for unit in UNIT_NAMES:
            names[f"last_unit_{kind}_{unit}"] = Quantity(f"{kind} ran on {unit} last")
    for kind in layout.STAGE_CLASSES:
        names[f"rows_{kind}"] = Quantity(f"rows per weight of {kind}", lambda x: float(np.exp2(32 * x) - 1))
        names[f"intensity_{kind}"] = Quantity(
            f"intensity of {kind}", lambda x: float(np.exp2(16 * x) - 1), "FLOP/B"
        )
    return names | _descriptors()


def _serving() -> dict[str, Quantity]:
    return {f.name: Quantity(f.words, f.scale.inverse, f.unit) for f in serving_layout.FEATURES}


QUANTITIES: Mapping[str, Mapping[str, Quantity]] = {DECODE: _batch(), KERNELS: _batch(), SERVING: _serving()}

# What each choice is called, and its options.
_BATCH_CHOICES = (("FC kernels on", UNIT_NAMES[:2]),)
_CLASS_CHOICES = tuple((f"{kind} on", UNIT_NAMES) for kind in layout.CHOICE_CLASSES)
_SERVING_CHOICES = tuple(zip(("FC", "speculation", "admit", "overlap"), serving_layout.CHOICES, strict=True))
CHOICES: Mapping[str, Sequence[tuple[str, Sequence[object]]]] = {
    DECODE: _BATCH_CHOICES,
    KERNELS: _CLASS_CHOICES,
    SERVING: _SERVING_CHOICES,
}

PAPI_RULES: Mapping[str, str] = {
    DECODE: "if n = RLP x TLP > α: FC kernels on pu\nelse: FC kernels on fc-pim",
    KERNELS: "for each FC class of the step: if rows per weight (RLP x TLP when decoding) > α: on pu\n"
    "else: on fc-pim\nattention on attn-pim",
    SERVING: "if n = RLP x TLP > α: FC pu\nelse: FC fc-pim\nspeculation 1, admit all, overlap off",
}


def own_actions(env_id: str) -> frozenset[str]:
    """The features that repeat what the policy itself did in the last step."""
    return frozenset(
        name for name, q in QUANTITIES[env_id].items() if q.value is None and name.startswith("last_")
    )


def condition(env_id: str, name: str, threshold: float, below: bool) -> str:
    """A comparison in words: the feature at most the threshold (`below`), or above it.

    Raises:
        ConfigurationError: the problem has no such feature.
    """
    known = QUANTITIES[env_id]
    if name not in known:
        raise unknown_name("feature", name, known)
    quantity = known[name]
    if quantity.value is None:
        return f"not ({quantity.words})" if below else quantity.words
    unit = f" {quantity.unit}" if quantity.unit else ""
    return f"{quantity.words} {'<=' if below else '>'} {quantity.value(float(threshold)):.4g}{unit}"


def action_text(env_id: str, action: Sequence[int]) -> str:
    """A joint action in words."""
    parts = CHOICES[env_id]
    if len(action) != len(parts):
        raise ConfigurationError(f"{env_id} takes {len(parts)} choices, not {len(action)}")
    return ", ".join(
        f"{what} {options[choice]}" for (what, options), choice in zip(parts, action, strict=True)
    )


def tree_text(env_id: str, tree: Tree, names: Sequence[str], shares: Sequence[float] | None = None) -> str:
    """A tree as nested conditions.

    Args:
        env_id: of the problem.
        tree: over its features.
        names: of the features, in order.
        shares: of the decisions that each leaf takes, to be printed.
    """
    lines: list[str] = []

    def write(node: int, indent: str, lead: str) -> None:
        if tree.feature[node] < 0:
            leaf = int(tree.left[node])
            share = "" if shares is None else f"   [{shares[leaf]:.1%}]"
            lines.append(f"{indent}{lead}{action_text(env_id, tree.actions[leaf].tolist())}{share}")
            return
        name, threshold = names[int(tree.feature[node])], float(tree.threshold[node])
        for child, below in ((int(tree.left[node]), True), (int(tree.right[node]), False)):
            head = f"if {condition(env_id, name, threshold, True)}:" if below else "else:"
            if tree.feature[child] < 0:
                write(child, indent, f"{head} ")
            else:
                lines.append(f"{indent}{head}")
                write(child, indent + "  ", "")

    write(0, "", "")
    return "\n".join(lines)
