"""Tables of a target's layers beside those of its source."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from pipeline.records import BundleRecord, LayerCheckRow
from pipeline.tables import BAD, GOOD, row, table

DECIMALS = 2  # what `same_digits` was judged by


def print_layer_checks(console: Console, bundle: BundleRecord) -> None:
    """Predictions side by side, then mean and variance of every layer; nothing where none were compared."""
    if bundle.predictions:
        heads = ("example", "source", f"{bundle.target}", "")
        made = table(f"Predictions in the source and in {bundle.target}", *heads, right=("example",))
        for index, one in enumerate(bundle.predictions):
            texts = (f"{one.source} {one.source_value:.4f}", f"{one.target} {one.target_value:.4f}")
            row(made, index, *texts, _mark(one.source == one.target))
        console.print(made)
    if bundle.layers:
        numbers = (
            "mean, source",
            f"mean, {bundle.target}",
            "var., source",
            f"var., {bundle.target}",
            "max|Δ| / range",
        )
        made = table(
            f"Layers in the source and in {bundle.target}",
            "layer",
            "there",
            "shape",
            *numbers,
            "",
            right=numbers,
        )
        for layer in bundle.layers:
            row(made, *_cells(layer), _mark(layer.same_digits))
        console.print(made)


def _cells(layer: LayerCheckRow) -> tuple[str, ...]:
    figures = (layer.mean_source, layer.mean_target, layer.variance_source, layer.variance_target)
    shape = "×".join(map(str, layer.shape))
    texts = (f"{figure:.{DECIMALS}f}" for figure in figures)
    return (layer.layer, layer.target_layer, shape, *texts, f"{layer.max_abs_over_range:.1e}")


def _mark(same: bool) -> Text:
    return Text("same", style=GOOD) if same else Text("DIFFERS", style=BAD)
