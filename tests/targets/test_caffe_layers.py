"""Each ONNX operator as Caffe layers, run by OpenCV and compared with ONNX Runtime, unoptimised."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from optim import model as onnx_file
from optim.errors import UnsupportedModelError
from targets.caffe.lower import lower, unsupported_nodes
from targets.caffe.target import DESCRIPTION_FILE, MODEL_FILE, export
from targets.child import RUNTIMES
from targets.closeness import Gate, closeness
from tests.targets.operator_cases import CASES, IMAGE, LINKS, W, expected_of, graph, ints, seeded

pytest.importorskip("cv2", reason="fairlead[caffe] is not installed")

Run = Callable[[onnx.ModelProto, np.ndarray], tuple[np.ndarray, list[str]]]


@pytest.fixture(scope="module")
def runtime() -> Any:
    """The module that bundles ship."""
    spec = importlib.util.spec_from_file_location("caffe_runtime", RUNTIMES / "caffe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_in_opencv(
    runtime: Any, model: onnx.ModelProto, x: np.ndarray, folder: Path, *, fusion: bool
) -> np.ndarray:
    onnx.save(model, folder / "m.onnx")
    facts = export(folder / "m.onnx", folder, {})
    manifest = {"artefact": {"options": {**facts, "fusion": fusion}}}
    return np.asarray(runtime.load(folder, manifest, MODEL_FILE)({"x": x})["y"])


def check(runtime: Any, model: onnx.ModelProto, x: np.ndarray, folder: Path, reach: float = 0.0) -> None:
    """``reach``: the largest number on the way, whose rounding stays when a clip has narrowed the range."""
    expected = expected_of(model, x)
    bound = 2e-6 * max(1.0, reach / float(np.ptp(expected) or 1.0))
    for fusion in (True, False):
        got = run_in_opencv(runtime, model, x, folder, fusion=fusion)
        assert got.shape == expected.shape
        assert Gate(bound, 100.0).passes(closeness(got, expected)), (fusion, closeness(got, expected))


@pytest.mark.parametrize("title", CASES)
def test_layers_agree_with_the_reference(title: str, runtime: Any, tmp_path: Path) -> None:
    model, kinds = CASES[title]
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    check(runtime, model, 2 * seeded(*dims, seed=9), tmp_path)
    if kinds is not None:
        lowered = lower(onnx_file.load(tmp_path / "m.onnx"))
        assert [layer.type for layer in lowered.net.layers[1:]] == kinds


REFUSED = {
    "unknown op": (graph("y = Sin(x)", IMAGE, IMAGE), "no Caffe layer computes it"),
    "turned axes": (
        graph("t = Transpose<perm=[0,1,3,2]>(x) y = GlobalMaxPool(t)", IMAGE, "[1,3,1,1]"),
        "transposing",
    ),
    "dynamic weights": (
        graph("r = Relu(x) y = Conv(x, r)", "[1,3,9,10]", "[1,1,1,1]"),
        "input 1 is not constant",
    ),
    "bilinear": (
        graph(
            'y = Resize<mode="linear">(x, , s)', IMAGE, "[1,3,18,20]", s=np.asarray([1, 1, 2, 2], np.float32)
        ),
        "mode linear",
    ),
    "reflect": (
        graph('y = Pad<mode="reflect">(x, p)', IMAGE, "[1,3,10,10]", p=ints(0, 0, 1, 0, 0, 0, 0, 0)),
        "zero padding",
    ),
    "even local response": (graph("y = LRN<size=4>(x)", IMAGE, IMAGE), "even size 4"),
    "elu's alpha": (graph("y = Elu<alpha=0.5>(x)", IMAGE, IMAGE), "alpha 0.5"),
    "broadcast sum": (graph("p = GlobalMaxPool(x) y = Add(x, p)", IMAGE, IMAGE), "broadcasts only a factor"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_refusals_name_the_node_and_the_reason(title: str, tmp_path: Path) -> None:
    model, reason = REFUSED[title]
    model.graph.node[-1].name = "culprit"
    onnx.save(model, tmp_path / "m.onnx")
    reasons = unsupported_nodes(onnx_file.load(tmp_path / "m.onnx"))
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert "culprit" in reasons[0]
    with pytest.raises(UnsupportedModelError):
        export(tmp_path / "m.onnx", tmp_path, {})
    assert not (tmp_path / DESCRIPTION_FILE).exists()


def test_every_refused_node_is_named(tmp_path: Path) -> None:
    onnx.save(graph("a = Sin(x) b = Relu(a) y = Cos(b)", IMAGE, IMAGE), tmp_path / "m.onnx")
    reasons = unsupported_nodes(onnx_file.load(tmp_path / "m.onnx"))
    assert ["Sin" in reasons[0], "Cos" in reasons[1], len(reasons)] == [True, True, 2]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_free_batch_is_taken_at_any_size(batch: int, runtime: Any, tmp_path: Path) -> None:
    conv, pool = "Conv<pads=[0,0,1,1]>(x, w)", "AveragePool<kernel_shape=[2,2], pads=[0,0,1,1]>(c)"
    body = f"c = {conv} p = {pool} f = Flatten(p) y = MatMul(f, d)"
    model = graph(body, "[N,3,5,6]", "[N,2]", w=W, d=seeded(80, 2))
    check(runtime, model, seeded(batch, 3, 5, 6), tmp_path)


def test_free_sizes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    onnx.save(graph("y = Relu(x)", "[N,3,H,W]", "[N,3,H,W]"), tmp_path / "m.onnx")
    (reason,) = unsupported_nodes(onnx_file.load(tmp_path / "m.onnx"))
    assert "input x" in reason
    assert "optimize.shapes" in reason


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    return {
        "kernel": kernel,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "pads": pads,
        "size": draw(st.tuples(st.integers(4, 9), st.integers(4, 9))),
        "ceil": draw(st.integers(0, 1)),
        "counted": draw(st.integers(0, 1)),
        "op": draw(st.sampled_from(["MaxPool", "AveragePool", "Conv"])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows())
def test_any_window_is_exact_or_refused(window: dict[str, Any], runtime: Any, tmp_path: Path) -> None:
    attributes = {"strides": list(window["strides"]), "pads": window["pads"]}
    height, width = window["size"]
    inputs = ["x", "w"] if window["op"] == "Conv" else ["x"]
    if window["op"] != "Conv":
        attributes |= {"kernel_shape": list(window["kernel"]), "ceil_mode": window["ceil"]}
    if window["op"] == "AveragePool":
        attributes["count_include_pad"] = window["counted"]
    node = onnx.helper.make_node(window["op"], inputs, ["y"], **attributes)
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2, height, width])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    weights = (
        [numpy_helper.from_array(seeded(3, 2, *window["kernel"]), "w")] if window["op"] == "Conv" else []
    )
    made = onnx.helper.make_graph([node], "g", [shape], [result], weights)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    try:
        check(runtime, model, seeded(1, 2, height, width), tmp_path)
    except UnsupportedModelError as error:
        assert "reaches beyond" in error.what or "wholly in the padding" in error.what


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chain=st.lists(st.sampled_from(sorted(LINKS)), min_size=2, max_size=5))
def test_chains_survive_the_importers_fusions(chain: list[str], runtime: Any, tmp_path: Path) -> None:
    """Four channels and a 2 x 2 map: a fusion that confuses the two would pass unseen elsewhere."""
    lines, value = [], "x"
    for k, link in enumerate(chain):
        lines.append(f"t{k} = {LINKS[link].format(value)}")
        value = f"t{k}"
    body = " ".join(lines) + f" y = Identity({value})"
    shape = "[1,4,2,2]"
    vectors = {f"v{k}": np.abs(seeded(4, seed=k)) + 0.5 for k in (1, 2, 3, 4)}
    weights = {
        "w": 0.3 * seeded(4, 4, 3, 3),
        "one": seeded(4, 1, 1, 1),
        "c": seeded(4, 1, 1, seed=2),
        "m": seeded(2, 2, seed=3),
        "s": np.float32(0.7),
        "low": np.float32(-0.4),
        "two": np.float32(2),
    }
    used = {name: array for name, array in {**vectors, **weights}.items() if name in body}
    x = seeded(1, 4, 2, 2, seed=4)
    whole = graph(body, shape, shape, **used)
    onward = [expected_of(_until(whole, f"t{k}"), x) for k in range(len(chain))]
    check(runtime, whole, x, tmp_path, max(float(np.abs(value).max()) for value in onward))


def _until(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """``model`` with the value ``name`` as its output."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    part.graph.output[0].name = name
    return part
