"""What the source framework computes, layer by layer, on a few examples: for bundles that show the same.

In a bundle: ``layers.npz`` with keys ``in|<tensor>`` and ``layer|<name>``, and ``layers.json`` that says what
each layer is. Values are in the axis order of the ONNX tensor that carries the layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array

VALUES_FILE: Final = "layers.npz"
TRACE_FILE: Final = "layers.json"


@dataclass(frozen=True)
class TracedWeight:
    """A source variable and the ONNX initializer that holds it; empty where it was folded into another."""

    name: str
    shape: tuple[int, ...]
    tensor: str
    permutation: tuple[int, ...] | None = None
    note: str = ""  # what was folded into it


@dataclass(frozen=True)
class TracedLayer:
    """A source layer and the ONNX tensor that carries its result."""

    name: str
    op: str
    tensor: str
    weights: tuple[TracedWeight, ...] = ()


@dataclass(frozen=True)
class LayerTrace:
    """Layers in order, their values by layer name, and the feed they were computed on."""

    framework: str
    feed: str  # in words: "the first 10 examples"
    layers: tuple[TracedLayer, ...]
    feeds: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)


def save_trace(trace: LayerTrace, folder: Path) -> None:
    """Write both files."""
    arrays = {f"in|{name}": array for name, array in trace.feeds.items()}
    arrays |= {f"layer|{name}": array for name, array in trace.values.items()}
    np.savez_compressed(folder / VALUES_FILE, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]
    write_rows(folder, trace, [asdict(layer) for layer in trace.layers])


def write_rows(folder: Path, trace: LayerTrace, rows: list[dict[str, Any]]) -> None:
    """``layers.json``, with what a target has to add to each row."""
    text = json.dumps({"framework": trace.framework, "feed": trace.feed, "layers": rows}, indent=1)
    (folder / TRACE_FILE).write_text(text + "\n", encoding="utf-8")


def load_trace(folder: Path) -> LayerTrace | None:
    """What ``save_trace`` wrote; None where there is nothing."""
    if not (folder / TRACE_FILE).is_file():
        return None
    told = json.loads((folder / TRACE_FILE).read_text(encoding="utf-8"))
    layers = tuple(
        TracedLayer(
            one["name"],
            one["op"],
            one["tensor"],
            tuple(
                TracedWeight(
                    w["name"],
                    tuple(w["shape"]),
                    w["tensor"],
                    w["permutation"] and tuple(w["permutation"]),
                    w["note"],
                )
                for w in one["weights"]
            ),
        )
        for one in told["layers"]
    )
    with np.load(folder / VALUES_FILE, allow_pickle=False) as stored:
        sides: dict[str, dict[str, Array]] = {"in": {}, "layer": {}}
        for key in stored.files:
            side, _, name = key.partition("|")
            sides[side][name] = stored[key]
    return LayerTrace(told["framework"], told["feed"], layers, sides["in"], sides["layer"])
