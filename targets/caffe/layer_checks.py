"""The layers of a Caffe net beside those of its source: tables, pictures, and the script that shows them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from optim.errors import InternalError, UserError
from targets.child import RUNTIMES
from targets.layer_trace import TRACE_FILE, VALUES_FILE, LayerTrace, TracedWeight, write_rows

SCRIPT: Final = Path(__file__).parents[1] / "templates" / "caffe" / "compare_layers.py"
PICTURES: Final = "feature_maps"
FILES: Final = (VALUES_FILE, TRACE_FILE, SCRIPT.name)


def prepare(folder: Path, trace: LayerTrace, facts: dict[str, Any]) -> None:
    """Say in ``layers.json`` which blob shows each layer, and where each variable went; copy the script.

    Raises:
        UserError: no layer of the source is a layer of the net.
    """
    rows = []
    for layer in trace.layers:
        blob = facts["blobs"].get(layer.tensor)
        if blob is None or blob["blob"] not in facts["names"]:
            continue
        weights = [_went(weight, facts["weights"]) for weight in layer.weights]
        rows.append({**asdict(layer), **blob, "weights": weights})
    if not rows:
        raise UserError(
            "no layer of the source can be shown by the net",
            where="targets.caffe.options.layer_checks",
            hint="use `optimize.recipe: layered`, or leave layer_checks out",
        )
    write_rows(folder, trace, rows)
    shutil.copyfile(SCRIPT, folder / SCRIPT.name)


def _went(weight: TracedWeight, weights: dict[str, Any]) -> dict[str, Any]:
    """Where a variable is in the net: its blob's shape, and the order of axes that leads there."""
    found = weights.get(weight.tensor)
    row = asdict(weight)
    if found is None:
        return {**row, "after": "-", "how": weight.note or "folded into another"}
    order, after = weight.permutation, found["shape"]
    if found["turned"] and order is not None and len(order) == 2:
        order = (order[1], order[0])
    how = (
        f"{list(order)} in {found['layer']}"
        if order is not None and len(order) > 1
        else f"in {found['layer']}"
    )
    if weight.note:
        how += f": {weight.note}"
    return {**row, "after": after, "how": how}


def export(_model: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """In the child: run the net on the traced examples; rows for the manifest, pictures into ``out``."""
    folder = Path(options["folder"])
    shutil.copyfile(RUNTIMES / "caffe.py", out.parent / "runtime.py")
    sys.path.insert(0, str(out.parent))
    spec = importlib.util.spec_from_file_location("compare_layers", folder / SCRIPT.name)
    if spec is None or spec.loader is None:
        raise InternalError("the script is no module", where=str(folder))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = module.pictures(folder, options["artefact"], out / PICTURES)
    return {
        "layer_checks": module.compare(folder, options["artefact"]),
        "predictions": module.predictions(folder, options["artefact"]),
        "pictures": [f"{PICTURES}/{name}" for name in drawn],
    }
