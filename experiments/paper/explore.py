"""Where the published rows contradict each other: a search of everything that the paper leaves open.

Settings are drawn from the whole bounded box of `experiments.paper.readings`, then bred from the best trade-offs.
What no setting reaches, alone or together with another row, is a finding about the paper or about a
mechanism that the model lacks; nothing here changes a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.common.pools import Call, OwnProcess, Pool
from experiments.paper.calibration import BEST, REPRODUCTION, UNFITTED, place, scale
from experiments.paper.facts import fact
from experiments.paper.published import NUMBER_ROWS, published_value
from experiments.paper.readings import BOUNDS, CHOICES, Setting
from experiments.paper.rows import Bench
from papi_env.kernel import FloatArray

GROUPS = ("E", "N", "S", "P")
GROUP_NAMES = {"E": "end to end", "N": "energy", "S": "speculation", "P": "PIM-only", "O": "orders"}
# The last two are of row F4: no reading found has them together with the orders before.
ORDER_PARTS = (
    *("O1", "attacc_only_beats_a100_attacc", "papi_beats_all", "lead_falls_with_tlp", "O3", "F1"),
    *("E6_below_E3", "E4_below_E1"),
)
MAIN_ORDERS = ORDER_PARTS[:6]
# The aims: rows P within 10 %, the others within 15 %.
TIGHT, LOOSE = 0.10, 0.15
GENERATIONS = 8
EXPLORE_SEEDS = 6
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class Exploration:
    """Settings and how far each is from the rows.

    Attributes:
        settings: what was tried.
        errors: logarithm of simulated over published, float [settings, NUMBER_ROWS].
        orders: which statements of order hold, bool [settings, ORDER_PARTS].
    """

    settings: list[Setting]
    errors: FloatArray
    orders: npt.NDArray[np.bool_]

    @property
    def misses(self) -> FloatArray:
        """Distance from the published value as a share, symmetric for ratios: exp|log| - 1."""
        return np.asarray(np.expm1(np.abs(self.errors)))

    @property
    def objectives(self) -> FloatArray:
        """Mean miss of every group, and the share of broken order statements: [settings, groups + 1]."""
        return _objectives(self.errors, self.orders)

    @property
    def ordered(self) -> npt.NDArray[np.bool_]:
        """Which settings hold all of `MAIN_ORDERS`."""
        return np.asarray(self.orders[:, : len(MAIN_ORDERS)].all(axis=1))

    @property
    def front(self) -> npt.NDArray[np.int64]:
        """Settings that no other one beats in every objective."""
        return non_dominated(self.objectives)


def random_setting(rng: np.random.Generator) -> Setting:
    """A setting drawn uniformly from the box; constants with a logarithmic bound uniformly in logarithm."""
    values: dict[str, Any] = {name: scale(bound, rng.random()) for name, bound in BOUNDS.items()}
    values |= {name: options[rng.integers(len(options))] for name, options in CHOICES.items()}
    return Setting(**values)


def mutated(setting: Setting, rng: np.random.Generator) -> Setting:
    """A neighbour: one to three fields drawn anew, constants mostly close to where they were."""
    names = rng.choice([*BOUNDS, *CHOICES], size=rng.integers(1, 4), replace=False)
    values: dict[str, Any] = {}
    for name in names:
        if name in CHOICES:
            values[name] = CHOICES[name][rng.integers(len(CHOICES[name]))]
        else:
            bound = BOUNDS[name]
            near = place(bound, getattr(setting, name)) + 0.1 * rng.standard_normal()
            values[name] = scale(
                bound, float(np.clip(near, 0.0, 1.0)) if rng.random() < 0.7 else rng.random()
            )
    return replace(setting, **values)


def evaluate(settings: Iterable[Setting], seeds: Sequence[int]) -> list[tuple[list[float], list[bool]]]:
    """Log errors of the number rows and the order statements that hold, for every setting."""
    results = []
    for setting in settings:
        bench = Bench(setting, seeds)
        errors = [float(np.log(bench.value(row) / published_value(row))) for row in NUMBER_ROWS]
        holds = {row: fact(bench, row)[1] for row in ("O1", "O3", "F1")}
        for row in ("O2", "F4"):
            holds |= fact(bench, row)[0]["parts"]
        results.append((errors, [bool(holds[part]) for part in ORDER_PARTS]))
    return results


def non_dominated(objectives: FloatArray) -> npt.NDArray[np.int64]:
    """Indices of the rows of `objectives` [settings, objectives] that no other row beats; smaller is better."""
    kept = []
    for i, row in enumerate(objectives):
        no_worse = (objectives <= row).all(axis=1)
        if not (no_worse & (objectives < row).any(axis=1)).any():
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def explore(
    samples: int, seed: int = 0, seeds: Sequence[int] = range(EXPLORE_SEEDS), pool: Pool | None = None
) -> Exploration:
    """Try `samples` settings: half drawn from the box, the rest bred in generations from the front so far.

    The same arguments give the same settings, in any pool (default: this process).
    """
    rng = np.random.default_rng(seed)
    first = [Setting(), REPRODUCTION, UNFITTED, BEST]  # in this order: `figure` marks all but the first
    settings = first + [random_setting(rng) for _ in range(max(samples // 2 - len(first), 0))]
    pool = pool or OwnProcess()
    found = _evaluate_all(pool, settings, seeds)
    for generation in range(GENERATIONS):
        left = samples - len(settings)
        size = left // (GENERATIONS - generation)
        if size < 1:
            continue
        parents = _parents(found)
        children = [mutated(settings[parents[rng.integers(len(parents))]], rng) for _ in range(size)]
        settings = settings + children
        found = found + _evaluate_all(pool, children, seeds)
    return Exploration(settings, *_arrays(found))


def _evaluate_all(
    pool: Pool, settings: Sequence[Setting], seeds: Sequence[int]
) -> list[tuple[list[float], list[bool]]]:
    chunks = [settings[i : i + _CHUNK] for i in range(0, len(settings), _CHUNK)]
    calls = [Call(f"settings {_CHUNK * k}", evaluate, (chunk, seeds)) for k, chunk in enumerate(chunks)]
    return [one for part in pool.map(calls) for one in part]


def _arrays(found: Sequence[tuple[list[float], list[bool]]]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    return np.array([errors for errors, _ in found]), np.array(
        [orders for _, orders in found], dtype=np.bool_
    )


def _objectives(errors: FloatArray, orders: npt.NDArray[np.bool_]) -> FloatArray:
    misses = np.expm1(np.abs(errors))
    columns = [misses[:, [row.startswith(group) for row in NUMBER_ROWS]].mean(axis=1) for group in GROUPS]
    return np.stack([*columns, 1 - orders.mean(axis=1)], axis=1)


def _parents(found: Sequence[tuple[list[float], list[bool]]]) -> npt.NDArray[np.int64]:
    """The front, and as many of the settings that are best over all groups, each row counted once."""
    errors, orders = _arrays(found)
    objectives = _objectives(errors, orders)
    front = non_dominated(objectives)
    overall = np.abs(errors).mean(axis=1) + objectives[:, -1] / 10
    return np.concatenate([front, np.argsort(overall, kind="stable")[: len(front)]])


# --- what was found ------------------------------------------------------------------------------------


def summarize(found: Exploration, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything that is reported, as plain data: best settings, front, reach of each row, conflicts, sensitivity."""
    objectives, misses = found.objectives, found.misses
    good_p = misses[:, _columns("P")].max(axis=1) <= TIGHT
    whole = int(np.argmin(np.abs(found.errors).mean(axis=1)))
    named: dict[str, int] = {"all rows": whole}
    named |= {f"rows {group}": int(np.argmin(objectives[:, k])) for k, group in enumerate(GROUPS)}
    if good_p.any():
        ranked = np.where(good_p, np.abs(found.errors).mean(axis=1), np.inf)
        named["all rows, P within 10 %"] = int(np.argmin(ranked))
        ordered = np.where(found.ordered, ranked, np.inf)
        if np.isfinite(ordered).any():
            named["the same, main orders hold"] = int(np.argmin(ordered))
    reach = {}
    for k, row in enumerate(NUMBER_ROWS):
        alone = int(np.argmin(misses[:, k]))
        entry = {
            "paper": published_value(row),
            "closest": _simulated(found, alone, row),
            "miss": float(misses[alone, k]),
        }
        if good_p.any():
            beside = int(np.argmin(np.where(good_p, misses[:, k], np.inf)))
            entry["closest_with_p"] = _simulated(found, beside, row)
            entry["miss_with_p"] = float(misses[beside, k])
        reach[row] = entry
    return {
        "samples": len(found.settings),
        "rows": list(NUMBER_ROWS),
        "best": {
            name: {
                "setting": found.settings[i].as_dict(),
                "group_misses": dict(zip((*GROUPS, "O"), objectives[i].tolist(), strict=True)),
                "rows": {row: _simulated(found, i, row) for row in NUMBER_ROWS},
                "orders": dict(zip(ORDER_PARTS, found.orders[i].tolist(), strict=True)),
            }
            for name, i in named.items()
        },
        "reach": reach,
        "conflicts": conflicts(misses),
        "sensitivity": sensitivity(found.settings[whole], seeds),
        "front": [
            {"setting": found.settings[i].as_dict(), "group_misses": objectives[i].tolist()}
            for i in found.front
        ],
    }


def conflicts(misses: FloatArray, limit: float = LOOSE) -> list[dict[str, Any]]:
    """Pairs of rows of which some setting reaches each within `limit`, but none both; the widest first."""
    reached = np.flatnonzero(misses.min(axis=0) <= limit)
    pairs = []
    for i in reached:
        for j in reached[reached > i]:
            together = float(np.maximum(misses[:, i], misses[:, j]).min())
            if together > limit:
                pairs.append({"rows": [NUMBER_ROWS[i], NUMBER_ROWS[j]], "miss_together": together})
    return sorted(pairs, key=lambda pair: -pair["miss_together"])


def sensitivity(setting: Setting, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What each mechanism moves: rows of `setting` with one field changed, over those of the setting itself."""
    base = Bench(setting, seeds).values()
    changed = []
    for name in (*CHOICES, *BOUNDS):
        options = CHOICES[name] if name in CHOICES else (BOUNDS[name].low, BOUNDS[name].high)
        for option in options:
            if option == getattr(setting, name):
                continue
            values = Bench(replace(setting, **{name: option}), seeds).values()
            moves = {row: values[row] / base[row] for row in NUMBER_ROWS}
            changed.append({"field": name, "from": getattr(setting, name), "to": option, "factors": moves})
    return changed


def _columns(group: str) -> list[int]:
    return [k for k, row in enumerate(NUMBER_ROWS) if row.startswith(group)]


def _simulated(found: Exploration, i: int, row: str) -> float:
    return published_value(row) * float(np.exp(found.errors[i, NUMBER_ROWS.index(row)]))


# The settings that `explore` tries after the first, and how the figure marks them.
_MARKED = {"reproduction": "*", "unfitted": "^", "best fitted": "D"}


def figure(found: Exploration) -> bytes:
    """The trade-offs between pairs of row groups as PNG: every setting tried, and the front of each pair."""
    from matplotlib.figure import Figure

    from experiments.common.plots import png

    objectives = 100 * found.objectives
    pairs = (("P", "E"), ("P", "S"), ("E", "S"), ("E", "N"))
    drawing = Figure(figsize=(8, 6.6), dpi=150, layout="constrained")
    for axes, (x, y) in zip(drawing.subplots(2, 2).flat, pairs, strict=True):
        columns = objectives[:, [GROUPS.index(x), GROUPS.index(y)]]
        holds = found.ordered
        axes.scatter(*columns[~holds].T, s=5, color="0.75", label="an order breaks", rasterized=True)
        axes.scatter(*columns[holds].T, s=9, color="#56B4E9", label="O1, O2, O3, F1 hold", rasterized=True)
        front = columns[non_dominated(columns)]
        front = front[np.argsort(front[:, 0])]
        axes.plot(*front.T, drawstyle="steps-post", color="#D55E00", label="front of the two")
        for at, (name, marker) in enumerate(_MARKED.items(), start=1):
            axes.scatter(*columns[at], marker=marker, s=45, color="black", zorder=3, label=name)
        axes.set_xlabel(f"rows {x} ({GROUP_NAMES[x]}): mean miss, %")
        axes.set_ylabel(f"rows {y} ({GROUP_NAMES[y]}): mean miss, %")
        axes.set_xlim(0, float(np.quantile(columns[:, 0], 0.9)))
        axes.set_ylim(0, float(np.quantile(columns[:, 1], 0.9)))
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=7)
    return png(drawing)
