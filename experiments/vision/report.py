"""What `experiments.reparameterize` prints: networks, stages, whole encodes, and the threshold's kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from papi_env.simulation.batch import state as at

Rows = Sequence[Mapping[str, Any]]

_SHORT = {"pu": "P", "fc-pim": "F"}


def networks_table(rows: Rows) -> Table:
    """Parameters and multiply-accumulates before and after, and the largest relative difference of the output."""
    kinds = [kind for kind in ("float32", "float64") if any(f"difference_{kind}" in row for row in rows)]
    table = _table("network", "Mparameters", "GMACs/image", *(f"difference {kind}" for kind in kinds))
    for row in rows:
        table.add_row(
            row["network"],
            _change(row["parameters_training"] / 1e6, row["parameters_deploy"] / 1e6, ".2f"),
            _change(row["macs_training"] / 1e9, row["macs_deploy"] / 1e9, ".2f"),
            *(f"{row[f'difference_{kind}']:.1e}" for kind in kinds),
        )
    return table


def kernels_table(kernels: Rows, stages: Rows) -> Table:
    """Kernels, weights, rows and intensity by stage, and the unit that is faster and cheaper for each class."""
    table = _table("images", "stage", "kernels", "MB", "rows", "FLOP/B", "faster", "cheaper", first=2)
    classes = _by(kernels, "form", "images", "stage", "kernel")
    found = _by(stages, "form", "images", "stage")
    for (form, images, stage), row in found.items():
        if form != "deploy" or stage == "all":
            continue
        parts = [classes["deploy", images, int(stage), kind] for kind in at.STAGE_CLASSES]
        before = found["training", images, stage]
        table.add_row(
            str(images) if stage == "1" else "",
            stage,
            _change(before["kernels"], row["kernels"], "d"),
            f"{row['weight_bytes'] / 1e6:.2f}",
            " · ".join(str(part["rows"]) for part in parts),
            " · ".join(_three(part["intensity"]) for part in parts),
            " ".join(_SHORT[part["least_time"]] for part in parts),
            " ".join(_SHORT[part["least_energy"]] for part in parts),
        )
    return table


def stages_table(stages: Rows) -> Table:
    """Time and energy by stage with every FC kernel on the PUs, and on FC-PIM; the best plan, and merging's gain."""
    table = _table(
        *("images", "stage", "PU / µs", "FC-PIM / µs", "PU / mJ", "FC-PIM / mJ", "best", "gain s", "J"),
        first=2,
    )
    found = _by(stages, "form", "images", "stage")
    for (form, images, stage), row in found.items():
        if form != "deploy":
            continue
        before = found["training", images, stage]
        table.add_row(
            str(images) if stage == "1" else "",
            stage,
            *(
                _arrow(_three(scale * before[name]), _three(scale * row[name]))
                for name, scale in (("pu_s", 1e6), ("fc_pim_s", 1e6), ("pu_j", 1e3), ("fc_pim_j", 1e3))
            ),
            "" if stage == "all" else " ".join(_SHORT[unit] for unit in row["best_units"].split()),
            *(f"{row[f'best_{quantity}_gain']:.2f}" for quantity in "sj"),
        )
    return table


def encodes_table(stages: Rows) -> Table:
    """Whole encodes of all networks by the best plan, before and after."""
    table = _table("network", "images", "kernels", "best / µs", "best / mJ", "images/s", "gain s", "J")
    found = _by(stages, "network", "form", "images", "stage")
    named = None
    for (network, form, images, stage), row in found.items():
        if form != "deploy" or stage != "all":
            continue
        before = found[network, "training", images, "all"]
        table.add_row(
            network if network != named else "",
            str(images),
            _change(before["kernels"], row["kernels"], "d"),
            _arrow(_three(1e6 * before["best_s"]), _three(1e6 * row["best_s"])),
            _arrow(_three(1e3 * before["best_j"]), _three(1e3 * row["best_j"])),
            _three(images / row["best_s"]),
            *(f"{row[f'best_{quantity}_gain']:.3f}" for quantity in "sj"),
        )
        named = network
    return table


def rules_table(rows: Rows) -> Table:
    """Both thresholds of each network, what they leave of the best, and how often each measure errs."""
    table = _table("network", "F faster", "measure", "α", "excess %", "at 1 image", "inverted %", first=1)
    for row in rows:
        for measure, unit in (("rows", "rows"), ("intensity", "FLOP/B")):
            head = measure == "rows"
            table.add_row(
                row["network"] if head else "",
                f"{row['kernels_on_fc_pim']} of {row['kernels']}" if head else "",
                unit,
                f"{row[f'alpha_{measure}']:.3g}",
                f"{row[f'excess_percent_{measure}']:.2f}",
                f"{row[f'excess_percent_1_image_{measure}']:.1f}",
                _optional(row[f"inverted_percent_{measure}"], ".0f"),
            )
    return table


def print_tables(console: Console, results: Mapping[str, Any]) -> None:
    """All tables of `results` (as summary.json holds them) but those of the policies, with what explains them."""
    shown = {results["images"][0], results["images"][-1]}

    def section(title: str, table: Table, *notes: str) -> None:
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(table)
        for note in notes:
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()

    section(
        "Networks, before → after Locality Injection",
        networks_table(results["networks"]),
        "Difference: largest of a logit after merging, relative to the largest logit; random statistics.",
    )
    for row in results["networks"]:
        name = row["network"]
        kernels, stages = (
            [r for r in results[part] if r["network"] == name and r["images"] in shown]
            for part in ("kernels", "stages")
        )
        section(f"{name}: kernels by stage", kernels_table(kernels, stages))
        section(f"{name}: time and energy by stage", stages_table(stages))
    section(
        "Whole encodes",
        encodes_table([r for r in results["stages"] if r["images"] in shown]),
        "In threes: FC1 and FC2 · FC3 · FFN; P on the PUs, F on FC-PIM. Faster and cheaper: each class by itself, "
        "links and mode switches left out. PU, FC-PIM: all FC kernels there, embeddings and local perceptron on "
        "the PUs. Best: the least time of a stream of such encodes. Gain: before / after, by the best plans. "
        f"Joules are dynamic; {results['static_w']:g} W static come on top. Every kernel pays its start.",
    )
    section(
        "PAPI's threshold on kernels of 1 to 64 images",
        rules_table(results["rules"]),
        "α by the offline sweep of every class, stage and number of images; 0 sends everything to the PUs. F faster: "
        "what FC-PIM runs faster. Excess: time above each kernel on its faster unit. Inverted: of the pairs of a "
        "kernel that FC-PIM runs faster and one that it does not, those in which the first measures more, so that "
        "no threshold gets both right.",
        f"{results['system']}: {', '.join(text for part in results['readings'].values() for text in part)}.",
    )


def _table(*names: str, first: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i < first else "right", no_wrap=i >= first)
    return table


def _by(rows: Iterable[Mapping[str, Any]], *keys: str) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Rows by the values of some columns, which tell them apart, in their order."""
    return {tuple(row[key] for key in keys): row for row in rows}


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before}→{after}"


def _change(before: float, after: float, form: str) -> str:
    return _arrow(format(before, form), format(after, form))


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _three(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
