"""Small TensorFlow 1 models with control flow: written, converted, compared on inputs of their own.

Runs in a child process. A case builds its graph and returns its outputs by name and the inputs to compare
on: other batches, trip counts and branches than those on which ``convert`` itself compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from pipeline.sources.contract import ConvertRequest
from pipeline.sources.conversion import convert_here
from targets.reference import OrtSession

v1 = tf.compat.v1
Feeds = dict[str, Any]
Built = tuple[dict[str, Any], list[Feeds]]
KINDS = ("frozen", "checkpoint", "saved")


@dataclass(frozen=True)
class Case:
    """How a graph is built, and with which form of control flow: 1 or 2."""

    build: Callable[[], Built]
    form: int = 1


def both_forms(**builders: Callable[[], Built]) -> dict[str, Case]:
    """Each case in the form of TensorFlow 1 and in that of 2."""
    return {f"{name}_v{form}": Case(build, form) for name, build in builders.items() for form in (1, 2)}


def placeholder(name: str, *shape: int | None, dtype: Any = tf.float32) -> Any:
    """An input."""
    return v1.placeholder(dtype, shape, name=name)


def flag(name: str) -> Any:
    """A scalar that is true or false."""
    return v1.placeholder(tf.bool, [], name=name)


def whole(name: str) -> Any:
    """A scalar whole number."""
    return v1.placeholder(tf.int32, [], name=name)


def variable(name: str, *shape: int) -> Any:
    """A stored variable."""
    return v1.get_variable(name, initializer=random(*shape), use_resource=False)


def random(*shape: int) -> Any:
    """Normal numbers, the same for a shape in every run."""
    return np.random.default_rng(sum(shape) + len(shape)).normal(0, 0.5, shape).astype(np.float32)


def names(family: str, _progress: object) -> list[str]:
    """Every case of a family."""
    return list(_cases(family))


def check(family: str, name: str, kind: str, folder: Path, _progress: object) -> dict[str, Any]:
    """Store a case as ``kind``, convert it, and compare ONNX Runtime, optimising, with TensorFlow.

    Returns the operators of the model (those inside others too), and the largest difference over the largest
    number, infinite where shapes differ.
    """
    case = _cases(family)[name]
    graph = tf.Graph()
    with graph.as_default():
        (v1.enable_control_flow_v2 if case.form == 2 else v1.disable_control_flow_v2)()
        outputs, feeds = case.build()
        outputs = {key: tf.identity(value, name=f"{key}_out") for key, value in outputs.items()}
        inputs = {name: graph.get_tensor_by_name(f"{name}:0") for name in feeds[0]}
        with v1.Session(graph=graph) as session:
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            wanted = [session.run(outputs, {inputs[k]: v for k, v in one.items()}) for one in feeds]
            model = _store(session, kind, inputs, outputs, folder)
    named = () if kind == "saved" else tuple(tensor.name for tensor in outputs.values())
    done = convert_here(ConvertRequest(str(model), outputs=named), folder / "model.onnx")
    worst = 0.0
    with OrtSession(folder / "model.onnx", optimization="all") as converted:
        known = {spec.name for spec in converted.inputs}
        for one, want in zip(feeds, wanted, strict=True):
            bound = {key if key in known else f"{key}:0": np.asarray(value) for key, value in one.items()}
            got = converted.run({key: value for key, value in bound.items() if key in known})
            for key, tensor in outputs.items():
                ours = got[key] if key in got else got[tensor.name]
                worst = max(worst, _difference(ours, np.asarray(want[key])))
    return {"ops": _ops(folder / "model.onnx"), "worst": worst, "frozen": [one.name for one in done.frozen]}


def _store(session: Any, kind: str, inputs: Feeds, outputs: Feeds, folder: Path) -> Path:
    if kind == "frozen":
        path = folder / "model.pb"
        ends = [tensor.op.name for tensor in outputs.values()]
        frozen = v1.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), ends)
        path.write_bytes(frozen.SerializeToString())
        return path
    if kind == "checkpoint":
        path = folder / "model.ckpt"
        if not v1.global_variables():
            session.run(v1.get_variable("unused", initializer=np.float32(0)).initializer)
        v1.train.Saver().save(session, str(path))
        return path
    path = folder / "saved"
    builder = v1.saved_model.Builder(str(path))
    builder.add_meta_graph_and_variables(
        session,
        ["serve"],
        {"serving_default": v1.saved_model.predict_signature_def(inputs, outputs)},
        main_op=v1.tables_initializer(),
        assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
    )
    builder.save()
    return path


def _difference(got: Any, want: Any) -> float:
    if got.shape != want.shape:
        return float("inf")
    if want.dtype.kind in "OS":
        texts = [one.decode() if isinstance(one, bytes) else one for one in want.reshape(-1)]
        return 0.0 if list(got.reshape(-1)) == texts else float("inf")
    if want.size == 0:
        return 0.0
    delta = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    return float(delta / max(np.abs(want.astype(np.float64)).max(), 1e-6))


def _ops(file: Path) -> list[str]:
    found: list[str] = []

    def visit(graph: Any) -> None:
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)

    visit(onnx.load(file).graph)
    return found


def _cases(family: str) -> dict[str, Case]:
    from importlib import import_module

    cases: dict[str, Case] = import_module(f"tests.sources.tf_{family}_cases").CASES
    return cases
