"""One call: where do two models part, why, and the smallest files that show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from optim.errors import UserError
from optim.model import save
from pipeline.parity.localise import Divergence, localise
from pipeline.parity.localise_runtime import localise_runtime
from pipeline.parity.restore_order import with_order_restored
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator
from targets.reference import OptimizationLevel

SCRIPT = '''"""{node} ({op}) differs at {tensor}: {cause}. {detail}

Needs numpy and onnxruntime. Prints the largest difference from the float64 result of the reference.
"""

from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).resolve().parent
stored = np.load(here / "io.npz", allow_pickle=False)
feeds = {{key[3:]: stored[key] for key in stored.files if key.startswith("in|")}}
expected = stored["out|" + {tensor!r}]
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.{level}
for name in {models!r}:
    session = onnxruntime.InferenceSession(str(here / name), options, providers=["CPUExecutionProvider"])
    given = {{i.name: feeds[i.name] for i in session.get_inputs()}}
    got = session.run(None, given)[0]
    if got.shape != expected.shape:
        print(name, "shape", got.shape, "expected", expected.shape)
    else:
        print(name, "max|difference|", np.abs(got.astype(np.float64) - expected).max())
'''


def first_divergence(
    a: ir.Model,
    b: ir.Model,
    feeds: Mapping[str, Feeds],
    *,
    optimization: OptimizationLevel = "off",
    folder: Path | None = None,
) -> Divergence | None:
    """The first difference of ``b`` from ``a``: of the graphs, else of the runtime's arithmetic.

    Args:
        a: the reference; ``b``: the model under suspicion, run at ``optimization``.
        feeds: named inputs.
        folder: where to write the smallest sub-models, their input and a script; None writes nothing.

    Raises:
        UnsupportedModelError: a node cannot be evaluated in float64, or not at all.
    """
    found = localise(a, b, feeds)
    found = found or localise_runtime(b, feeds, optimization=optimization, reference=a)
    if found is not None and folder is not None:
        graph = found.level == "graph"
        shown = with_order_restored(b) if graph else b  # the tensor that parts may exist only so
        write_reproduction(found, a if graph else b, shown, feeds[found.feed], folder, optimization)
    return found


def write_reproduction(
    found: Divergence,
    a: ir.Model,
    b: ir.Model,
    feed: Feeds,
    folder: Path,
    optimization: OptimizationLevel = "off",
) -> tuple[Path, ...]:
    """Write ``a.onnx`` and ``b.onnx`` (the stretch that parts), their ``io.npz``, a script and the finding.

    The sub-models start from tensors on which both graphs agree, so they need nothing before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = found.inputs
    with np.errstate(all="ignore"):
        values = {k: to_host(v) for k, v in GraphEvaluator(a).run(feed, (*names, found.tensor)).items()}
    given = {name: narrowed(values[name], _dtype_of(a, name)) for name in names}
    models = {"a.onnx": a, "b.onnx": b} if found.level == "graph" else {"b.onnx": b}
    for file, model in models.items():
        save(cut(model, given, found.tensor), folder / file)
    stored = {f"in|{k}": v for k, v in given.items()} | {f"out|{found.tensor}": values[found.tensor]}
    np.savez(folder / "io.npz", **stored)  # type: ignore[arg-type]
    level = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
    script = SCRIPT.format(
        node=found.node,
        op=found.op,
        tensor=found.tensor,
        cause=found.cause.value,
        detail=found.detail.replace('"""', "'''").replace("\\", "/"),
        level=level.get(optimization, "ORT_ENABLE_ALL"),
        models=list(models),
    )
    (folder / "reproduce.py").write_text(script, encoding="utf-8")
    told = found.record().model_dump() | {
        "op": found.op,
        "detail": found.detail,
        "feed": found.feed,
        "level": found.level,
        "inputs": list(names),
        "nodes_a": list(found.nodes_a),
        "nodes_b": list(found.nodes_b),
        "max_abs_over_range": str(found.error),
    }
    (folder / "divergence.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return tuple(sorted(folder.iterdir()))


def narrowed(value: Array, dtype: np.dtype) -> Array:
    """A float64 truth in the dtype that the model declares."""
    return value.astype(dtype) if value.dtype.kind == "f" else value


def _dtype_of(model: ir.Model, name: str) -> np.dtype:
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    dtype = next((v.dtype for v in values if v.name == name), None)
    return np.dtype(np.float32) if dtype is None else dtype.numpy()


def cut(model: ir.Model, inputs: Mapping[str, Array], output: str) -> ir.Model:
    """The part of ``model`` that computes ``output`` from the given tensors, as a model of its own.

    Raises:
        UserError: the model has no such output.
    """
    whole = model.clone()
    values = {v.name: v for v in whole.graph.inputs if v.name}
    values |= {v.name: v for node in whole.graph for v in node.outputs if v.name}
    if output not in values:
        raise UserError(f"the model computes no tensor named {output!r}")
    starts = [values[name] for name in inputs if name in values]
    for value in starts:
        array = inputs[value.name or ""]
        value.dtype = ir.DataType.from_numpy(array.dtype)
        value.shape = ir.Shape(array.shape)
    graph = ir.convenience.extract(whole.graph, inputs=starts, outputs=[values[output]])
    for value in list(graph.inputs):  # what only the other side reads
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)
    graph.opset_imports.update(model.opset_imports)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(whole.functions.values()))
