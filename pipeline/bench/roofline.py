"""How far a run is from what this machine could do: each node's operations and least bytes against its peaks.

The limit of a node is the longer of operations / peak rate and bytes / bandwidth (Williams, Waterman &
Patterson, "Roofline", CACM 52(4), 2009). Operations count a multiply-add as two. Bytes are the least that
must move if a node reads its inputs and weights once and writes its outputs once. Their bandwidth is that of
the working set that they belong to (Ilic, Pratas & Sousa, "Cache-aware Roofline model", IEEE CAL 13(1),
2014): activations are as near as the node's own tensors together, weights as near as all that a run touches
between two uses of them. A limit from the memory's bandwidth alone would be none for a model that fits a
cache.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any, Final

import numpy as np

from optim.errors import UserError
from pipeline.bench.profile import profile
from pipeline.bench.records import NodeProfile, NodeRoofline, Peaks, ReadRate, RooflineRecord
from pipeline.bench.trace import NodeEvent, Trace
from pipeline.bench.worker import thread_environment

ITEM_BYTES: Final = {
    "float": 4, "double": 8, "float16": 2, "bfloat16": 2, "bool": 1, "int8": 1, "uint8": 1,
    "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
}  # fmt: skip
CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger"})
PRODUCTS: Final = frozenset(
    {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul"}
)
VIEWS: Final = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"})
# They move or rename data; an operation count would flatter them.
FREE: Final = VIEWS | frozenset(
    {"Transpose", "Concat", "Slice", "Split", "Gather", "Pad", "Cast", "ReorderInput", "ReorderOutput",
     "Expand", "Tile"}
)  # fmt: skip


def roofline(trace: Trace, peaks: Peaks) -> RooflineRecord:
    """Limits of each executed node and of the whole."""
    if not trace.events or not trace.events[-1]:
        raise UserError("the trace holds no executed node")
    medians = {n.node: n for n in profile(trace).nodes}
    first, last = trace.events[-1][0], trace.events[-1][-1]
    edges = sum(_elements(s) * 4 for s in (*first.input_shapes[:1], *last.output_shapes))
    least = sum(trace.weight_bytes.get(event.node, 0) for event in trace.events[-1]) + edges
    nodes = [_node(event, trace, peaks, medians[event.node], least) for event in trace.events[-1]]
    return _whole(nodes, least, peaks)


def _whole(nodes: list[NodeRoofline], least: int, peaks: Peaks) -> RooflineRecord:
    limit, measured = sum(n.limit_us for n in nodes), sum(n.median_us for n in nodes)
    return RooflineRecord(
        peaks=peaks,
        operations=sum(n.operations for n in nodes),
        least_bytes=least,
        limit_us=limit,
        measured_us=measured,
        share_of_limit=limit / measured if measured > 0 else 0.0,
        note=_note(limit, measured),
        nodes=tuple(sorted(nodes, key=lambda n: n.limit_us - n.median_us)),
    )


def rescaled(found: RooflineRecord, peaks: Peaks) -> RooflineRecord:
    """The same nodes against other peaks."""
    return _whole([_limited(one, peaks, found.least_bytes) for one in found.nodes], found.least_bytes, peaks)


def operations(event: NodeEvent, weights: tuple[tuple[int, ...], ...]) -> int:
    """Arithmetic operations of one execution; a multiply-add counts two, an elementwise result one.

    Convolutions: 2 · outputs · (C/group) · kH · kW. Products: 2 · outputs · K.
    """
    out = _elements(event.output_shapes[0]) if event.output_shapes else 0
    if event.op in CONVOLUTIONS and weights:
        return 2 * out * math.prod(weights[0][1:])
    if event.op == "ConvTranspose" and weights:
        return 2 * _elements(event.input_shapes[0]) * math.prod(weights[0][1:])
    if event.op in PRODUCTS:
        return 2 * out * _inner(event, weights)
    if event.op in FREE:
        return 0
    if "Pool" in event.op or event.op.startswith("Reduce"):
        return max(out, _elements(event.input_shapes[0]) if event.input_shapes else 0)
    return out


def least_bytes(event: NodeEvent, weight_bytes: int) -> int:
    """Bytes in, weights, bytes out, each once; inputs take the outputs' item size where it is not known.

    Nodes that only rename their input's buffer move none.
    """
    if event.op in VIEWS:
        return 0
    item = ITEM_BYTES.get(event.output_dtypes[0], 4) if event.output_dtypes else 4
    moved = sum(_elements(s) for s in (*event.input_shapes, *event.output_shapes))
    return item * moved + weight_bytes


def measure_peaks(threads: int = 1) -> Peaks:
    """This machine's rates with ``threads`` threads, measured in fresh processes.

    Raises:
        UserError: a measuring process failed; with its last words.
    """
    gflop, gbyte = _measured(RATES_PROGRAM, threads, blas_threads=threads)
    # One product a thread: a BLAS with threads of its own has them wait for each other.
    read = _measured(READING_PROGRAM, threads, blas_threads=1)
    rates = np.maximum.accumulate([rate for _size, rate in reversed(read)])[::-1]
    cached = tuple(
        ReadRate(bytes=size, gbyte_per_s=float(rate)) for (size, _), rate in zip(read, rates, strict=True)
    )
    return Peaks(
        threads=threads,
        gflop_per_s=gflop,
        gbyte_per_s=max(gbyte, cached[-1].gbyte_per_s),
        cached=cached,
    )


def _measured(program: str, threads: int, *, blas_threads: int) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", BEST + program, str(threads)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **thread_environment(blas_threads, allow_spinning=True)},
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"the machine's peaks could not be measured: {said[-1]}")
    answer: list[Any] = json.loads(done.stdout)
    return answer


# Best of several repetitions: a peak is what the machine can do, not what it does on average.
BEST: Final = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
threads = int(sys.argv[1])
def best(work, seconds):
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        begin = time.perf_counter(); work(); times.append(time.perf_counter() - begin)
    return min(times)
"""
RATES_PROGRAM: Final = """
import onnxruntime as ort
from onnx import TensorProto, helper
def session(b):  # a product in the runtime that is judged
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, b.shape)
    held = helper.make_tensor("b", TensorProto.FLOAT, b.shape, b.tobytes(), raw=True)
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [value("a")], [value("c")], [held])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
gflop = 0.0
for n in (384, 512, 1024):
    a, b = (np.random.default_rng(k).standard_normal((n, n)).astype(np.float32) for k in (0, 1))
    c = np.empty((n, n), np.float32)
    theirs = session(b)
    for work in (lambda: np.matmul(a, b, out=c), lambda: theirs.run(None, {"a": a})):
        gflop = max(gflop, 2 * n**3 / best(work, 0.2) / 1e9)
    del theirs  # its threads spin
size = 32 << 20  # bytes a thread; four threads' worth lies beyond any cache
sources = [np.ones(size // 4, np.float32) for _ in range(max(4, threads))]
targets = [np.zeros(size // 4, np.float32) for _ in sources]
with ThreadPoolExecutor(threads) as pool:
    copy = lambda: list(pool.map(np.copyto, targets, sources))
    copy()
    gbyte = 2 * size * len(sources) / best(copy, 0.5) / 1e9
print(json.dumps([gflop, gbyte]))
"""
READING_PROGRAM: Final = """
rates = []
with ThreadPoolExecutor(threads) as pool:
    for bits in range(18, 28):  # bytes of all threads' arrays together: 256 KiB to 128 MiB
        share = (1 << bits) // 8 // threads
        pairs = [(np.ones(share, np.float32), np.ones(share, np.float32)) for _ in range(threads)]
        repeats = max(1, (1 << 26) >> bits)  # a product alone is too short for the clock
        again = lambda pair: [np.dot(*pair) for _ in range(repeats)]
        seconds = best(lambda: list(pool.map(again, pairs)), 0.1) / repeats
        rates.append([1 << bits, 8 * share * threads / seconds / 1e9])
print(json.dumps(rates))
"""


def _node(event: NodeEvent, trace: Trace, peaks: Peaks, timed: NodeProfile, least: int) -> NodeRoofline:
    weights = trace.weight_bytes.get(event.node, 0)
    moved = least_bytes(event, weights)
    counted = NodeRoofline(
        node=event.node,
        op=event.op,
        operations=operations(event, trace.weight_shapes.get(event.node, ())),
        bytes=moved,
        weight_bytes=min(weights, moved),
        median_us=timed.median_us,
        limit_us=0.0,
        bound="compute",
        share_of_limit=0.0,
    )
    return _limited(counted, peaks, least)


def _limited(one: NodeRoofline, peaks: Peaks, least: int) -> NodeRoofline:
    """The node with its limit; ``least``: bytes of weights, inputs and outputs of the whole graph."""
    compute_us = one.operations / peaks.gflop_per_s / 1e3
    activations = one.bytes - one.weight_bytes
    memory_us = one.weight_bytes / peaks.gbyte_per_s_of(least) / 1e3
    memory_us += activations / peaks.gbyte_per_s_of(activations) / 1e3
    limit = max(compute_us, memory_us)
    return one.model_copy(
        update={
            "limit_us": limit,
            "bound": "compute" if compute_us >= memory_us else "memory",
            "share_of_limit": limit / one.median_us if one.median_us > 0 else 0.0,
        }
    )


def _note(limit_us: float, measured_us: float) -> str:
    if limit_us <= measured_us:
        return ""
    return "faster than the limit: the machine was busier when its peaks were measured"


def _inner(event: NodeEvent, weights: tuple[tuple[int, ...], ...]) -> int:
    """The summed-over dimension K of a product, from the weights [K, N] or the left factor."""
    out = event.output_shapes[0]
    if weights and len(weights[0]) == 2 and out and weights[0][1] == out[-1]:
        return weights[0][0]
    if weights and len(weights[0]) == 2 and out and weights[0][0] == out[-1]:  # Gemm with transB
        return weights[0][1]
    return event.input_shapes[0][-1] if event.input_shapes and event.input_shapes[0] else 0


def _elements(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
