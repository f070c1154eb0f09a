"""How far a cell is from what the GPU could do with the whole model at best (``roofline`` for the CPU).

Operations are those of convolutions and matrix products in the graph at hand, counted from its shapes by the
same rules as on the CPU; elementwise work is left out, since a runtime may fuse it away, and a limit must be
one. Bytes are weights, inputs and outputs, once each. The peaks come from ONNX Runtime on the same GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from optim.contract import Feeds
from optim.errors import FairleadError, UnsupportedModelError
from pipeline.bench.cuda.heat import words_of
from pipeline.bench.cuda.process import Kind, Stations
from pipeline.bench.records import CudaLimit, CudaPeaks, CudaRecord, CudaResult, CudaSettings
from pipeline.bench.roofline import CONVOLUTIONS, PRODUCTS, operations
from pipeline.bench.trace import CPU, NodeEvent

COUNTED: Final = CONVOLUTIONS | PRODUCTS | {"ConvTranspose"}
SMALL_BYTES: Final = 4096  # initializers that shape inference may have to read
PRODUCT_SIZES: Final = (4096, 8192)
COPY_SIZES: Final = (32 << 20, 128 << 20)  # elements
PEAK_LIMIT_S: Final = 60.0
CACHED: Final = "weights, inputs and outputs fit the L2 cache: less than that may have to come from memory"
FASTER: Final = "faster than the limit: the peaks were measured when the GPU was slower"


@dataclass(frozen=True)
class Work:
    """What a model does at one batch size; bytes as in its file."""

    operations: int
    least_bytes: int


def count_work(model: Path, feeds: Feeds) -> Work:
    """Of the model on inputs of these shapes.

    Raises:
        UnsupportedModelError: the shape of a convolution or product is not known; names the node.
    """
    import onnx

    loaded = onnx.load(model)
    graph = loaded.graph
    weights = {t.name: tuple(t.dims) for t in graph.initializer}
    moved = sum(_bytes(t.data_type, t.dims) for t in graph.initializer)
    _without_large_weights(graph)
    for value in graph.input:
        if value.name in feeds:
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(
                    value.name, value.type.tensor_type.elem_type, feeds[value.name].shape
                )
            )
    inputs = sum(a.nbytes for a in feeds.values())
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(loaded).graph
    known = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    counted = 0
    for node in graph.node:
        if node.op_type not in COUNTED:
            continue
        shapes = [_shape(known.get(name)) for name in (node.input[0], node.output[0])]
        own = tuple(weights[name] for name in node.input if name in weights)
        if None in shapes or (node.op_type not in PRODUCTS and not own):
            raise UnsupportedModelError(f"{node.op_type}: its shapes are not known", where=node.name)
        read, written = (tuple(shape or ()) for shape in shapes)
        counted += operations(NodeEvent(node.name, node.op_type, CPU, 0.0, (read,), (written,), (), 0), own)
    for value in graph.output:
        moved += _bytes(value.type.tensor_type.elem_type, _shape(value) or ())
    return Work(operations=counted, least_bytes=moved + inputs)


def limit_of(work: Work, peaks: CudaPeaks, result: CudaResult) -> CudaLimit | None:
    """The limit of a cell; None where its peaks were not measured."""
    rate = {"fp32": peaks.fp32_tflop_per_s, "TF32": peaks.tf32_tflop_per_s, "fp16": peaks.fp16_tflop_per_s}[
        numbers_of(result.settings)
    ]
    if not rate or not peaks.gbyte_per_s:
        return None
    compute_us, memory_us = work.operations / rate / 1e6, work.least_bytes / peaks.gbyte_per_s / 1e3
    limit = max(compute_us, memory_us)
    measured_us = (result.gpu or result.host).median_ms * 1e3
    cached = memory_us > compute_us and work.least_bytes <= peaks.l2_bytes
    return CudaLimit(
        operations=work.operations,
        least_bytes=work.least_bytes,
        limit_us=limit,
        bound="compute" if compute_us >= memory_us else "memory",
        share_of_limit=limit / measured_us if measured_us > 0 else 0.0,
        note=CACHED if cached else FASTER if limit > measured_us else "",
    )


def numbers_of(cell: CudaSettings) -> str:
    """In which numbers a cell multiplies."""
    return "fp16" if cell.precision == "fp16" else "TF32" if cell.tf32 or cell.stock else "fp32"


def with_limits(record: CudaRecord, work: Mapping[tuple[str, int], Work]) -> CudaRecord:
    """The record with a limit in each cell whose work is known, by precision and batch size."""
    peaks = record.peaks
    if peaks is None:
        return record
    results = []
    for one in record.results:
        own = work.get((one.settings.precision, one.batch))
        limit = None if own is None else limit_of(own, peaks, one)
        results.append(one.model_copy(update={"limit": limit}))
    return record.model_copy(update={"results": tuple(results)})


def measure_peaks(
    stations: Stations,
    l2_bytes: int,
    *,
    products: Sequence[int] = PRODUCT_SIZES,
    copies: Sequence[int] = COPY_SIZES,
) -> CudaPeaks:
    """The GPU's rates; one that cannot be measured stands in ``failed`` with its words.

    Args:
        stations: the processes.
        l2_bytes: of the GPU.
        products: sizes n of matrices [n, n].
        copies: sizes of vectors, elements.
    """
    found: dict[str, float] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for title, kind, settings, op, dtype in _PEAKS:
            model = _node_model(Path(name) / f"{title}.onnx", op, dtype)
            for size in products if op == "MatMul" else copies:
                shape = [size, size] if op == "MatMul" else [size]
                work = 2 * size**3 / 1e12 if op == "MatMul" else 2 * size * 4 / 1e9
                request = {
                    "do": "peak", "model": str(model), "settings": settings.model_dump(mode="json"),
                    "shapes": {"a": shape, "b": shape} if op == "MatMul" else {"a": shape}, "dtype": dtype,
                }  # fmt: skip
                try:
                    best_ms = float(stations.get(kind).ask(request, PEAK_LIMIT_S)["ms"])
                except (FairleadError, OSError) as error:
                    failed.append(f"{title}, size {size}: {words_of(error)}")
                else:
                    found[title] = max(found.get(title, 0.0), work / (best_ms / 1e3))
    return CudaPeaks.model_validate({**found, "l2_bytes": l2_bytes, "failed": tuple(failed)})


WITH_TF32: Final = CudaSettings(tf32=True)
HALF: Final = CudaSettings(precision="fp16", tf32=True)
# Rate, the kind of process, settings, operator, type.
_PEAKS: Final[tuple[tuple[str, Kind, CudaSettings, str, str], ...]] = (
    ("fp16_tflop_per_s", "TF32 on", HALF, "MatMul", "float16"),
    ("tf32_tflop_per_s", "TF32 on", WITH_TF32, "MatMul", "float32"),
    ("gbyte_per_s", "TF32 on", WITH_TF32, "Neg", "float32"),
    ("fp32_tflop_per_s", "TF32 off", CudaSettings(), "MatMul", "float32"),
)


def _node_model(path: Path, op: str, dtype: str) -> Path:
    """One node on free shapes."""
    from onnx import TensorProto, checker, helper, save

    kind = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    rank, names = (2, ["a", "b"]) if op == "MatMul" else (1, ["a"])
    values = [helper.make_tensor_value_info(n, kind, [f"{n}{k}" for k in range(rank)]) for n in (*names, "y")]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="peak")], "peak", values[:-1], values[-1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, path)
    return path


def _without_large_weights(graph: Any) -> None:
    """Shape inference needs their shapes only; gigabytes of values would be copied."""
    import onnx

    kept = []
    for tensor in graph.initializer:
        if _bytes(tensor.data_type, tensor.dims) <= SMALL_BYTES:
            kept.append(tensor)
        elif tensor.name not in {value.name for value in graph.input}:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    small = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(small)


def _bytes(data_type: int, shape: Any) -> int:
    import onnx

    return int(prod(shape)) * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _shape(value: Any) -> tuple[int, ...] | None:
    """None where a dimension is not known."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
    return None if None in sizes else tuple(int(size or 0) for size in sizes)
