"""Stored weights of Keras 1 and 2, in the shapes and the order that Keras 3 reads.

Keras 3 reads ``.h5`` weights by position and converts nothing, where Keras 2 converted files of Keras 1, of
Theano and of the cuDNN layers (keras 2.3, engine/saving.py, preprocess_weights_for_loading).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optim.contract import Array
from pipeline.sources.keras_refusal import lost_layer
from pipeline.sources.keras_repair import Config, is_first_version

_CONVOLUTIONS = {
    "AtrousConvolution1D": 1, "AtrousConvolution2D": 2, "Conv1D": 1, "Conv2D": 2, "Conv2DTranspose": 2,
    "Conv3D": 3, "ConvLSTM2D": 2, "Convolution1D": 1, "Convolution2D": 2, "Convolution3D": 3,
    "Deconvolution2D": 2,
}  # fmt: skip
_TRANSPOSED = ("Deconvolution2D", "Conv2DTranspose")


@dataclass(frozen=True)
class _Leaf:
    """A stored layer that holds no layers, and its class in the file."""

    kind: str
    config: Config


@dataclass(frozen=True)
class _Origin:
    """Which Keras wrote the file."""

    first: bool  # Keras 1
    theano: bool


def repair_weights(file: Any, config: Config, version: str) -> tuple[str, ...]:
    """Rewrite in place what Keras 3 would misread in an open HDF5 file; one note for each kind of change.

    Args:
        file: the file, open for writing.
        config: the model as the file stores it, not repaired.
        version: the ``keras_version`` stored beside it.

    Raises:
        UnsupportedModelError: the file does not say what its numbers mean; names the layer.
    """
    from keras.src.legacy.saving import legacy_h5_format as h5

    group = file.get("model_weights", file)
    leaves: dict[str, _Leaf] = {}
    _collect(config, leaves)
    origin = _Origin(is_first_version(version), _backend(file, group) == "theano")
    if origin.first and not _backend(file, group):
        _refuse_unsaid(leaves)
    notes: dict[str, None] = {}
    for name in h5.load_attributes_from_hdf5_group(group, "layer_names"):
        held = group[name]
        stored = h5.load_attributes_from_hdf5_group(held, "weight_names")
        repaired: list[Array] = []
        changed = False
        for leaf, part in _runs(stored, name, leaves):
            arrays = [np.asarray(held[weight]) for weight in part] if _concerned(leaf, origin) else None
            fresh = None if arrays is None else _repaired(leaf, arrays, origin, notes)
            changed = changed or fresh is not None
            repaired += fresh if fresh is not None else [np.asarray(held[weight]) for weight in part]
        if changed:
            _replace(held, repaired, h5.save_attributes_to_hdf5_group)
    return tuple(notes)


def needs_repair(config: Config, version: str, backend: str) -> bool:
    """Whether a file of this origin can hold weights that Keras 3 misreads."""
    text = str(config)
    return is_first_version(version) or backend == "theano" or "CuDNN" in text


def _backend(file: Any, group: Any) -> str:
    stored = group.attrs.get("backend", file.attrs.get("backend", ""))
    return stored.decode() if isinstance(stored, bytes) else str(stored)


def _collect(stored: Any, leaves: dict[str, _Leaf]) -> None:
    """Layers by name; a wrapper stands for the layer in it, unless that is a model."""
    if isinstance(stored, list):
        for one in stored:
            _collect(one, leaves)
        return
    if not isinstance(stored, dict):
        return
    config = stored.get("config")
    kind = stored.get("class_name")
    if isinstance(kind, str) and isinstance(config, dict) and isinstance(config.get("name"), str):
        inner = config.get("layer")
        if (
            isinstance(inner, dict)
            and isinstance(inner.get("config"), dict)
            and "layers" not in inner["config"]
        ):
            kept = dict(inner["config"])
            leaves[config["name"]] = _Leaf(f"Bidirectional {inner['class_name']}" if kind == "Bidirectional"
                                           else str(inner["class_name"]), kept)  # fmt: skip
            return
        if "layers" not in config:
            leaves[config["name"]] = _Leaf(kind, config)
    for one in stored.values():
        _collect(one, leaves)


def _refuse_unsaid(leaves: dict[str, _Leaf]) -> None:
    """Theano turned its kernels round, TensorFlow did not, and files of Keras 1 do not say whose they are."""
    for name, leaf in leaves.items():
        if leaf.kind in _CONVOLUTIONS and leaf.config.get("dim_ordering") == "th":
            raise lost_layer(
                leaf.kind,
                name,
                "in Theano's order of axes, and the file does not say whether Theano, which computes true "
                "convolutions with turned kernels, or TensorFlow trained it",
                "say it in the file: h5py.File(PATH, 'r+').attrs['backend'] = 'theano' (or 'tensorflow')",
            )


def _runs(
    stored: Sequence[str], group: str, leaves: dict[str, _Leaf]
) -> list[tuple[_Leaf | None, list[str]]]:
    """The weights of a group, cut where another leaf begins."""
    runs: list[tuple[str, list[str]]] = []
    for weight in stored:
        name = _leaf_of(weight, group, leaves)
        if not runs or runs[-1][0] != name:
            runs.append((name, []))
        runs[-1][1].append(weight)
    return [(leaves.get(name), part) for name, part in runs]


def _leaf_of(weight: str, group: str, leaves: dict[str, _Leaf]) -> str:
    if group in leaves:
        return group
    parts = weight.split("/")
    found = [name for name in leaves if name in parts or parts[-1].startswith(f"{name}_")]
    return max(found, key=len, default=group)


def _concerned(leaf: _Leaf | None, origin: _Origin) -> bool:
    return leaf is not None and (origin.first or origin.theano or "CuDNN" in leaf.kind)


def _repaired(
    leaf: _Leaf | None, arrays: list[Array], origin: _Origin, notes: dict[str, None]
) -> list[Array] | None:
    """New arrays of a layer; None: they stay."""
    assert leaf is not None
    kind = leaf.kind.removeprefix("Bidirectional ")
    if kind != leaf.kind:
        half = len(arrays) // 2
        sides = [
            _repaired(_Leaf(kind, leaf.config), part, origin, notes)
            for part in (arrays[:half], arrays[half:])
        ]
        return None if sides[0] is None or sides[1] is None else sides[0] + sides[1]
    if kind.startswith("CuDNN"):
        notes[f"weights of {kind} rearranged"] = None
        return _from_cudnn(arrays, is_gru=kind == "CuDNNGRU")
    if kind in _CONVOLUTIONS:
        return _convolution(leaf, arrays, origin, notes)
    if origin.first and kind == "LSTM" and len(arrays) == 12:
        notes["weights of LSTM joined by gates"] = None
        return _joined(arrays, "icfo", "ifco")
    if origin.first and kind == "GRU" and len(arrays) == 9:
        notes["weights of GRU joined by gates"] = None
        return _joined(arrays, "zrh", "zrh")
    return None


def _joined(arrays: list[Array], stored: str, wanted: str) -> list[Array]:
    """W, U, b of each gate → kernel, recurrent kernel, bias of all gates side by side."""
    by_gate = {gate: arrays[3 * number : 3 * number + 3] for number, gate in enumerate(stored)}
    return [np.concatenate([by_gate[gate][part] for gate in wanted], axis=-1) for part in range(3)]


def _from_cudnn(arrays: list[Array], *, is_gru: bool) -> list[Array]:
    """cuDNN's matrices are stored transposed, gate by gate, with a bias for each of the two products."""
    kernel, recurrent, bias = arrays
    gates = 3 if is_gru else 4
    kernels = [one.T.reshape(one.shape, order="F") for one in np.hsplit(kernel, gates)]
    recurrents = [one.T for one in np.hsplit(recurrent, gates)]
    both = bias.reshape(2, -1)
    return [np.hstack(kernels), np.hstack(recurrents), both if is_gru else both.sum(axis=0)]


def _convolution(
    leaf: _Leaf, arrays: list[Array], origin: _Origin, notes: dict[str, None]
) -> list[Array] | None:
    kernel = arrays[0]
    if origin.first:
        kernel = _kernel_of_keras_1(leaf, kernel)
    if origin.theano:
        spatial = _CONVOLUTIONS[leaf.kind]
        kernel = np.flip(kernel, axis=tuple(range(spatial)))
        notes["kernels of Theano, which convolves, turned round for TensorFlow, which correlates"] = None
    if kernel is arrays[0]:
        return None
    if origin.first:
        notes["kernels of Keras 1 in the order of axes of today"] = None
    fresh = [np.ascontiguousarray(kernel), *arrays[1:]]
    if origin.theano and leaf.kind == "ConvLSTM2D" and not origin.first:
        fresh[1] = np.ascontiguousarray(np.flip(arrays[1], axis=(0, 1)))
    return fresh


def _kernel_of_keras_1(leaf: _Leaf, kernel: Array) -> Array:
    """→ [space…, in, out], for a transposed convolution [space…, out, in]."""
    first = leaf.config.get("dim_ordering") == "th"
    if _CONVOLUTIONS[leaf.kind] == 1 and kernel.ndim == 4:
        length, filters = int(leaf.config["filter_length"]), int(leaf.config["nb_filter"])
        if kernel.shape[:2] != (length, 1) or kernel.shape[3] != filters:
            kernel = np.transpose(kernel, (2, 3, 1, 0))  # Keras 1.0: [out, in, length, 1]
        return np.asarray(kernel[:, 0])
    if leaf.kind in _TRANSPOSED:
        return np.transpose(kernel, (2, 3, 0, 1) if first else (0, 1, 3, 2))
    if first:
        space = range(2, kernel.ndim)
        return np.transpose(kernel, (*space, 1, 0))
    return kernel


def _replace(held: Any, arrays: list[Array], save: Callable[..., None]) -> None:
    names = [f"repaired/{number}:0" for number in range(len(arrays))]
    for name, array in zip(names, arrays, strict=True):
        held.create_dataset(name, data=array)
    for key in [key for key in held.attrs if str(key).startswith("weight_names")]:
        del held.attrs[key]
    save(held, "weight_names", [name.encode() for name in names])
