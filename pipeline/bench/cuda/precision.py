"""A model file's precision, and the same model in float16 for the cells that run it so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from optim.contract import Array, Feeds

Precision: TypeAlias = Literal["fp32", "fp16"]
FP16: Final[Precision] = "fp16"


def precision_of(model: Path) -> Precision:
    """``fp16`` where the floating-point weights or, without any, the inputs are float16."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    kinds = {t.data_type for t in graph.initializer} & {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    kinds = kinds or {i.type.tensor_type.elem_type for i in graph.input}
    return "fp16" if onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds else "fp32"


def half(model: Path, out: Path) -> str:
    """Write the model with float16 weights, inputs and outputs; the reason where that cannot be done."""
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        return f"no float16 variant: {error}"
    try:
        onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=False), out)
    except Exception as error:  # the converter's words are the finding
        return f"no float16 variant: {type(error).__name__}: {error}"
    return ""


def as_half(feeds: Feeds) -> Feeds:
    """The same inputs, float32 as float16."""
    return {name: _half(array) for name, array in feeds.items()}


def widened(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """float16 as float32, to compare with."""
    return {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in outputs.items()}


def _half(array: Array) -> Array:
    return array.astype(np.float16) if array.dtype == np.float32 else array
