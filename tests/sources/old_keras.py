"""Files of Keras 1 and 2 as those versions wrote them, with h5py, and what their layers compute, in NumPy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Sequence[tuple[str, np.ndarray]]


def save(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Arrays],
    *,
    version: str,
    backend: str | None = None,
) -> Path:
    """Write a model file: ``weights`` gives each layer's arrays by name, in order."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        if backend is not None:
            file.attrs["backend"] = group.attrs["backend"] = backend.encode()
        group.attrs["keras_version"] = version.encode()
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            held = group.create_group(layer)
            held.attrs["weight_names"] = [name.encode() for name, _ in arrays]
            for name, array in arrays:
                held.create_dataset(name, data=array.astype(np.float32))
    return path


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    """A stored layer of a Sequential."""
    return {"class_name": kind, "config": {"name": name, "trainable": True, **config}}


def node(kind: str, name: str, inbound: Any, **config: Any) -> dict[str, Any]:
    """A stored layer of a functional model, called once on ``inbound``."""
    nodes = [] if inbound is None else [inbound]
    return {**layer(kind, name, **config), "name": name, "inbound_nodes": nodes}


def entry(name: str, shape: Sequence[int | None], dtype: str = "float32") -> dict[str, Any]:
    """An InputLayer of Keras 2."""
    return node("InputLayer", name, None, batch_input_shape=[None, *shape], dtype=dtype, sparse=False)


def model(layers: Sequence[dict[str, Any]], inputs: Sequence[str], output: str) -> dict[str, Any]:
    """A functional model of Keras 2."""
    config = {
        "name": "model_1",
        "layers": list(layers),
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": [[output, 0, 0]],
    }
    return {"class_name": "Model", "config": config}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def hard_sigmoid(x: np.ndarray) -> np.ndarray:
    """As Keras 1 and 2 have it."""
    return np.clip(0.2 * x + 0.5, 0.0, 1.0)


def convolve(x: np.ndarray, kernel: np.ndarray, *, turned: bool = False) -> np.ndarray:
    """Valid correlation of NHWC ``x`` with [h, w, in, out]; ``turned``: true convolution."""
    kernel = kernel[::-1, ::-1] if turned else kernel
    high, wide = kernel.shape[:2]
    rows, columns = x.shape[1] - high + 1, x.shape[2] - wide + 1
    result = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(high):
        for j in range(wide):
            result += x[:, i : i + rows, j : j + columns] @ kernel[i, j]
    return result


def lstm(x: np.ndarray, gates: Mapping[str, Arrays], squash: Any) -> np.ndarray:
    """Last state of an LSTM; ``gates`` gives (W [D, H], U [H, H], b [H]) of i, f, c, o."""
    h = c = np.zeros((x.shape[0], gates["i"][0].shape[1]))  # type: ignore[union-attr]
    for step in range(x.shape[1]):
        z = {g: x[:, step] @ w + h @ u + b for g, (w, u, b) in gates.items()}  # type: ignore[misc,operator]
        c = squash(z["f"]) * c + squash(z["i"]) * np.tanh(z["c"])
        h = squash(z["o"]) * np.tanh(c)
    return h


def gru(x: np.ndarray, gates: Mapping[str, Any], squash: Any, *, reset_after: bool) -> np.ndarray:
    """Last state of a GRU; ``gates`` gives (W, U, b) of z, r, h; after: b is (b of W, b of U)."""
    h = np.zeros((x.shape[0], gates["z"][0].shape[1]))
    for step in range(x.shape[1]):
        if reset_after:
            ahead = {g: x[:, step] @ w + b[0] for g, (w, u, b) in gates.items()}
            back = {g: h @ u + b[1] for g, (w, u, b) in gates.items()}
            z, r = squash(ahead["z"] + back["z"]), squash(ahead["r"] + back["r"])
            new = np.tanh(ahead["h"] + r * back["h"])
        else:
            z, r = (squash(x[:, step] @ gates[g][0] + h @ gates[g][1] + gates[g][2]) for g in "zr")
            new = np.tanh(x[:, step] @ gates["h"][0] + (r * h) @ gates["h"][1] + gates["h"][2])
        h = z * h + (1 - z) * new
    return h
