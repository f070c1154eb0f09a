"""Networks that benchmarks work on: the zoo's, converted once and kept, each with one realistic input."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Array, Feeds
from optim.model import load, signature
from pipeline.config import Config
from pipeline.feeds import load_data
from pipeline.load_config import load_config
from pipeline.sources import convert
from pipeline.sources.contract import ConvertRequest
from pipeline.stages.convert import request_of

REPOSITORY = Path(__file__).resolve().parent.parent
ZOO = REPOSITORY / ".fairlead" / "zoo"  # `python configs/zoo/build.py NAME...` fills it
KEPT = REPOSITORY / ".fairlead" / "benchmarks"
DIGITS = "digits"  # the quickstart's classifier, which is committed
WITHOUT_NETWORK = frozenset({"cnn_introduction"})  # single operators


@dataclass(frozen=True)
class Network:
    """A converted network; ``feed``: the first of its test images, as the network wants it."""

    name: str
    raw: Path
    feed: Feeds
    request: ConvertRequest  # of its source


def built() -> tuple[str, ...]:
    """Names of the zoo's models that have been built, and of the digits classifier, which always is."""
    return (DIGITS, *sorted({p.parent.name for p in ZOO.glob("*/summary.json")} - WITHOUT_NETWORK))


def network(name: str) -> Network:
    """Convert a model of the zoo unless that has been done; see ``built`` for the names."""
    folder = ZOO / name
    config = _config(name)
    request = _request(folder) if config is None else request_of(config)
    raw = KEPT / f"{name}.onnx"
    if not raw.is_file() or raw.stat().st_mtime < _changed(Path(request.model)):
        raw.parent.mkdir(parents=True, exist_ok=True)
        partial = raw.with_name(f".{os.getpid()}.{raw.name}")
        convert(request, partial)
        partial.replace(raw)
    specs = signature(load(raw))[0]
    data = None if config is None else load_data(config, specs)
    if data is not None:
        feed = {key: value if key in data.shared else value[:1] for key, value in data.feeds.items()}
        return Network(name, raw, feed, request)
    encoder = json.loads((folder / "summary.json").read_text())["encoder"]
    with np.load(folder / "test.npz", allow_pickle=False) as stored:
        image = _encoded(stored["x"][:1], encoder)
    return Network(name, raw, {specs[0].name: image.astype(specs[0].dtype)}, request)


def _config(name: str) -> Config | None:
    """The config of a system; the digits are the quickstart's."""
    path = REPOSITORY / "configs" / f"{'quickstart' if name == DIGITS else name}.yaml"
    return load_config(path) if path.is_file() else None


def _changed(model: Path) -> float:
    """When a model was last written; of a checkpoint, the youngest of its files."""
    return max((p.stat().st_mtime for p in model.parent.glob(f"{model.name}*")), default=0.0)


def _request(folder: Path) -> ConvertRequest:
    summary = json.loads((folder / "summary.json").read_text())
    inputs = {} if summary["model"].endswith(".keras") else summary["inputs"]
    outputs = () if summary["model"].endswith(".keras") else tuple(summary["outputs"])
    shapes = {key: tuple(-1 if d is None else d for d in shape) for key, shape in inputs.items()}
    return ConvertRequest(str(folder / summary["model"]), inputs=shapes, outputs=outputs)


def _encoded(image: Array, encoder: Mapping[str, Any]) -> Array:
    """x = (raw * scale - mean) / std, in float64."""
    x = image.astype(np.float64) * float(encoder.get("scale", 1.0))
    for key, apply in (("mean", np.subtract), ("std", np.divide)):
        numbers = np.asarray(encoder.get(key) or [], dtype=np.float64)
        if numbers.size:
            x = apply(x, numbers)
    return x
