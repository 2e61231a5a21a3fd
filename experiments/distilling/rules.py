"""A decision tree in words: features in physical units, choices by name, beside the rule of PAPI.

Features are what `papi_env.simulation.{batch,serving}.state` say; here their scaling is undone. Where a feature is
relative to something of the scenario (an objective, an iteration of reference, the context limit), so is the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.learned.distilled import Tree
from experiments.splitting.definition import DECODE, KERNELS, SERVING
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError, unknown_name
from papi_env.hardware.units import UNIT_NAMES
from papi_env.simulation.batch import state as layout
from papi_env.simulation.features import Feature
from papi_env.simulation.serving import state as serving_layout


@dataclass(frozen=True)
class Quantity:
    """What a feature means.

    Attributes:
        words: what it is.
        value: the quantity, from the feature as observed; increasing. None for a yes or no.
        unit: printed after the value.
    """

    words: str
    value: Callable[[Any], Any] | None = None
    unit: str = ""


def _declared(features: Iterable[Feature]) -> dict[str, Quantity]:
    return {f.name: Quantity(f.words, f.scale.inverse, f.unit) for f in features}


QUANTITIES: Mapping[str, Mapping[str, Quantity]] = {
    DECODE: _declared(layout.FEATURES),
    KERNELS: _declared(layout.KERNELS_FEATURES),
    SERVING: _declared(serving_layout.FEATURES),
    SERVING_V1: _declared(serving_layout.FEATURES_V1),
}

# What each choice is called, and its options.
_BATCH_CHOICES = (("FC kernels on", UNIT_NAMES[:2]),)
_CLASS_CHOICES = tuple((f"{kind} on", UNIT_NAMES) for kind in layout.CHOICE_CLASSES)
_SERVING_CHOICES = tuple(zip(("FC", "speculation", "admit", "overlap"), serving_layout.CHOICES, strict=True))
_WHOM = ("order by", "shed", "preempt", "after a turn", "evict", "draft for", "admit")
_SERVICE_CHOICES = tuple(zip(_WHOM, serving_layout.SERVICE_CHOICES, strict=True))
CHOICES: Mapping[str, Sequence[tuple[str, Sequence[object]]]] = {
    DECODE: _BATCH_CHOICES,
    KERNELS: _CLASS_CHOICES,
    SERVING: _SERVING_CHOICES,
    SERVING_V1: _SERVING_CHOICES + _SERVICE_CHOICES,
}

PAPI_RULES: Mapping[str, str] = {
    DECODE: "if n = RLP x TLP > α: FC kernels on pu\nelse: FC kernels on fc-pim",
    KERNELS: "for each FC class of the step: if rows per weight (RLP x TLP when decoding) > α: on pu\n"
    "else: on fc-pim\nattention on attn-pim",
    SERVING: "if n = RLP x TLP > α: FC pu\nelse: FC fc-pim\nspeculation 1, admit all, overlap off",
    SERVING_V1: "if n = RLP x TLP > α: FC pu\nelse: FC fc-pim\nspeculation 1, admit all, overlap off\n"
    "order by arrival, nobody shed, nothing kept",
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
