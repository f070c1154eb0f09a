"""How the optimiser's time and memory grow: deep graphs, large weights, and real networks.

Without certificates, which cost runs of the model and are shown apart: this is the rewriting itself.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from benchmarks.optimizer.nodes import Workers
from pipeline.sources.child import Child, ChildLimits
from pipeline.sources.contract import Progress

SIZES: Final = (1_000, 2_000, 5_000, 10_000, 20_000)
_HERE: Final = "benchmarks.optimizer.scale"
_MIB: Final = 1 << 20
_SIDE, _LAYERS = 4096, 36  # 36 weights of 64 MiB: 2.25 GiB


# --- deep graphs -----------------------------------------------------------------------------------


def conv_chain(nodes: int) -> ir.Model:
    """Conv – BatchNormalization – Relu, over and over."""
    rng = np.random.default_rng(0)
    graph, value = _Chain([1, 4, 8, 8]), None
    weight = graph.weight(rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6)
    statistics = [graph.weight(rng.random(4).astype(np.float32) + 0.5) for _ in range(4)]
    for _ in range(nodes // 3):
        value = graph.add("Conv", [value, weight], pads=[1, 1, 1, 1])
        value = graph.add("BatchNormalization", [value, *statistics])
        value = graph.add("Relu", [value])
    return graph.model(value)


def layout_chain(nodes: int) -> ir.Model:
    """Reshape – Transpose – Relu – Transpose back, over and over."""
    graph, value = _Chain([1, 4, 8, 8]), None
    target = graph.weight(np.asarray([1, 4, 8, 8]))
    for _ in range(nodes // 4):
        value = graph.add("Reshape", [value, target])
        value = graph.add("Transpose", [value], perm=[0, 2, 3, 1])
        value = graph.add("Relu", [value])
        value = graph.add("Transpose", [value], perm=[0, 3, 1, 2])
    return graph.model(value)


class _Chain:
    """A graph of one input that is built node after node."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._input = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        self._nodes: list[ir.Node] = []
        self._weights: list[ir.Value] = []

    def weight(self, array: np.ndarray) -> ir.Value:
        name = f"w{len(self._weights)}"
        tensor = ir.tensor(array, name=name)
        self._weights.append(
            ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
        return self._weights[-1]

    def add(self, op_type: str, inputs: list[ir.Value | None], **attributes: list[int]) -> ir.Value:
        given = [self._input if v is None else v for v in inputs]
        node = ir.Node(
            "", op_type, given, [ir.AttrInt64s(k, v) for k, v in attributes.items()],
            outputs=[ir.Value(name=f"v{len(self._nodes)}")], name=f"n{len(self._nodes)}",
        )  # fmt: skip
        self._nodes.append(node)
        return node.outputs[0]

    def model(self, last: ir.Value | None) -> ir.Model:
        if last is None:
            raise ValueError("the chain is empty")
        last.type, last.shape = self._input.type, ir.Shape(list(self._input.shape or ()))
        graph = ir.Graph(
            [self._input], [last], nodes=self._nodes, initializers=self._weights,
            opset_imports={"": 18}, name="chain",
        )  # fmt: skip
        return ir.Model(graph, ir_version=10)


def time_chain(kind: str, nodes: int) -> dict[str, Any]:
    """Seconds of `canonical` on a chain, in this process: on the clock, and of the processor.

    The rewriting runs on one thread, so on a machine with other work the processor's time is the one that
    can be compared.
    """
    from optim.model import node_count
    from optim.recipes import recipe_named
    from optim.schedule import optimize

    optimize(CHAINS[kind](40), recipe_named("canonical"), oracle=None)  # imports
    model = CHAINS[kind](nodes)
    before = node_count(model)
    begin, processor = time.perf_counter(), time.process_time()
    optimize(model, recipe_named("canonical"), oracle=None)
    return {
        "nodes": before,
        "after": node_count(model),
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - processor,
    }


CHAINS: Final[dict[str, Callable[[int], ir.Model]]] = {"conv": conv_chain, "layout": layout_chain}


def judged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The exponent of time over nodes, and whether the largest graph took no more than five seconds."""
    ordered = sorted(runs, key=lambda r: r["nodes"])
    first, last = ordered[0], ordered[-1]
    growth = last["processor_seconds"] / first["processor_seconds"]
    exponent = math.log(growth) / math.log(last["nodes"] / first["nodes"]) if first is not last else None
    return {"runs": ordered, "exponent": exponent, "reached": last["processor_seconds"] <= 5.0}


# --- large weights ---------------------------------------------------------------------------------


def large_weights() -> dict[str, Any]:
    """2.25 GiB of weights beside the model, all to be scaled: memory until and while saving."""
    with tempfile.TemporaryDirectory(prefix="fairlead-weights-") as folder:
        source = Path(folder) / "large.onnx"
        write_large(source)
        child = Child(ChildLimits(time_s=600.0))
        try:
            return dict(child.call(f"{_HERE}:optimize_large", str(source), folder).value)
        finally:
            child.close()


def write_large(file: Path) -> None:
    """36 dense layers of 4096 × 4096 with Mul and Add behind each, weights written one by one."""
    rng = np.random.default_rng(0)
    row = (rng.standard_normal((_SIDE, _SIDE)) / 64).astype(np.float32)
    data = file.with_suffix(".data")
    with data.open("wb") as stream:
        for i in range(_LAYERS):
            stream.write(np.roll(row, i, axis=0).tobytes())
    chain = _Chain([1, _SIDE])
    scale = chain.weight(rng.random(_SIDE).astype(np.float32) + 0.5)
    shift = chain.weight(rng.standard_normal(_SIDE).astype(np.float32))
    value: ir.Value | None = None
    for i in range(_LAYERS):
        tensor = ir.ExternalTensor(
            data.name, i * row.nbytes, row.nbytes, ir.DataType.FLOAT,
            shape=ir.Shape([_SIDE, _SIDE]), name=f"W{i}", base_dir=str(file.parent),
        )  # fmt: skip
        weight = ir.Value(
            name=f"W{i}", shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        chain._weights.append(weight)
        value = chain.add("MatMul", [value, weight])
        value = chain.add("Mul", [value, scale])
        value = chain.add("Add", [value, shift])
    ir.save(chain.model(value), file)


def optimize_large(source: str, folder: str, _progress: Progress) -> dict[str, Any]:
    """Peak of this process's private memory above its start, until saving and while saving."""
    from optim.model import load, node_count, save, weight_bytes
    from optim.recipes import recipe_named
    from optim.schedule import optimize

    model = load(Path(source))
    with _Peak() as before_saving:
        begin = time.perf_counter()
        model = load(Path(source))
        optimize(model, recipe_named("canonical"), oracle=None)
        optimized = time.perf_counter() - begin
    out = Path(folder) / "out.onnx"
    with _Peak() as saving:
        begin = time.perf_counter()
        save(model, out)
        saved = time.perf_counter() - begin
    largest = _SIDE * _SIDE * 4 / _MIB
    return {
        "weights_mib": weight_bytes(model) / _MIB,
        "largest_tensor_mib": largest,
        "nodes": node_count(model),
        "seconds": optimized,
        "peak_before_saving_mib": before_saving.mib,
        "saving_seconds": saved,
        "peak_while_saving_mib": saving.mib,
        "reached": before_saving.mib <= 512 + largest and saving.mib <= 512 + 2 * largest,
    }


class _Peak:
    """Samples the process's resident set (mapped files included); ``mib`` is the peak above the start."""

    def __enter__(self) -> _Peak:
        self._start, self._stop = _resident_mib(), threading.Event()
        self._most = self._start
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self._most = max(self._most, _resident_mib())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._most = max(self._most, _resident_mib())

    @property
    def mib(self) -> float:
        return self._most - self._start


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


# --- time on real networks -------------------------------------------------------------------------


TOOLS: Final = ("fairlead canonical, no certificate", "onnxsim", "onnxslim")


def seconds_on(file: Path, repeats: int = 3) -> dict[str, Any]:
    """Time of `canonical` without certificates against onnxsim and onnxslim, load and save included.

    Medians, interleaved; on the clock, and of the processor (all threads).
    """
    found: dict[str, Any] = {tool: {"seconds": [], "processor_seconds": []} for tool in TOOLS}
    workers = Workers()
    try:
        with tempfile.TemporaryDirectory(prefix="fairlead-seconds-") as folder:
            for _ in range(repeats):
                for tool in TOOLS:
                    said = workers.run(tool, file, Path(folder) / "out.onnx")
                    for what in ("seconds", "processor_seconds"):
                        found[tool][what].append(said.get(what, math.inf))
    finally:
        workers.close()
    return {tool: {what: median(times) for what, times in both.items()} for tool, both in found.items()}


def totals(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over the networks; ours must not be above the fastest peer's."""
    sums = {
        tool: {
            what: sum(n[tool][what] for n in networks.values()) for what in ("seconds", "processor_seconds")
        }
        for tool in TOOLS
    }
    ours, *peers = (sums[tool]["processor_seconds"] for tool in TOOLS)
    return {"totals": sums, "reached": ours <= min(peers)}
