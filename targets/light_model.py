"""A model for ONNX Runtime without its large weights in the message: mapped from their files, or lent.

A serialised model holds its weights; the runtime parses them into its own memory, and packs them into other
copies for its kernels. What it finds as external data it maps, and drops once it is packed; what it is handed
as an array it uses where it is. The numbers are the same, since the same kernels see the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.stored_weights import StoredTensor
from optim.stream_weights import large_initializers

LENT = "memory"  # location of a weight that is handed over as an array: it is in no file
_LENDABLE = frozenset({"float16", "float32", "float64", "bool"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class LightModel:
    """A serialised model and where its large weights are. The arrays have to outlive the session."""

    content: bytes
    folder: Path | None = None  # that the model's external data lie in
    arrays: Mapping[str, Array] = field(default_factory=dict)  # by initializer


def light_model(model: ir.Model) -> LightModel:
    """``model`` as it is now; it is not changed. Weights in one folder are mapped, others are lent.

    A lent weight that is computed when it is read (``ir.LazyTensor``) is computed here, once.
    """
    large = large_initializers(model)
    folder = _folder(model, large)
    places: dict[str, ir.ExternalTensor] = {}
    arrays: dict[str, Array] = {}
    for name, value in large.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if isinstance(tensor, StoredTensor) and tensor.file.path.parent == folder and tensor.file.in_place:
            places[name] = _external(name, tensor, tensor.file.path.name, tensor.offset)
        elif tensor.dtype.numpy().name in _LENDABLE:
            arrays[name] = np.ascontiguousarray(tensor.numpy())
            places[name] = _external(name, tensor, LENT, 0)
    with _replaced(large, places):
        content = ir.to_proto(model).SerializeToString()
    return LightModel(content, folder, arrays)


def _folder(model: ir.Model, large: Mapping[str, ir.Value]) -> Path | None:
    """The folder of the model's external data; without any, that of the first weight in a file."""
    initializers = (value.const_value for value in model.graph.initializers.values())
    for tensor in initializers:
        if isinstance(tensor, ir.ExternalTensor):
            return Path(tensor.base_dir).resolve()
    for value in large.values():
        if isinstance(value.const_value, StoredTensor) and value.const_value.file.in_place:
            return value.const_value.file.path.parent
    return None


def _external(name: str, tensor: ir.TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
    )


@contextmanager
def _replaced(large: Mapping[str, ir.Value], places: Mapping[str, ir.ExternalTensor]) -> Iterator[None]:
    whole = {name: value.const_value for name, value in large.items()}
    try:
        for name, place in places.items():
            large[name].const_value = place
        yield
    finally:
        for name, tensor in whole.items():
            large[name].const_value = tensor
