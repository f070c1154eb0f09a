"""The checks that every conversion passes: what is left over or differs is refused, rounding is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from optim.contract import Array
from optim.errors import UnsupportedModelError
from pipeline.sources.checks import Reference, check_file, check_graph, compare
from pipeline.sources.contract import SourceLayer
from pipeline.sources.write_model import write_model


def _model(op: str, domain: str = "", dtype: ir.DataType = ir.DataType.FLOAT, **attributes: int) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape([4]))
    node = ir.node(op, [x], attributes, domain=domain, name=f"block/conv/{op}")
    node.outputs[0].name = "y"
    node.outputs[0].type = x.type
    node.outputs[0].shape = x.shape
    imports = {"": 18, **({domain: 1} if domain else {})}
    return ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports=imports, name="g"), ir_version=8)


LAYER = SourceLayer("block/conv", "Conv2D", (), (), 0)


@pytest.mark.parametrize(
    ("op", "domain", "message"),
    [
        ("StatefulPartitionedCall", "", "no ONNX operator StatefulPartitionedCall"),
        ("Erfc", "", "no ONNX operator Erfc"),
        ("RandomUniformLike", "", "random op RandomUniformLike"),
        ("Swirl", "my.own", "my.own::Swirl is not a standard"),
    ],
)
def test_leftovers_are_refused_by_op_node_and_layer(op: str, domain: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as refused:
        check_graph(_model(op, domain), [LAYER])
    error = refused.value
    assert (error.op, error.node, error.layer) == (op, f"block/conv/{op}", "block/conv")
    assert error.hint


def test_a_standard_graph_passes() -> None:
    check_graph(_model("Relu"))


def _outcome(got: Array, ref: Array, other: Array | None = None, op: str = "Relu") -> bool:
    """Whether ``got`` passes against ``ref``, where another input gave ``other`` in both."""
    gots, refs = [{"y": got}], [{"y": ref}]
    if other is not None:
        gots.append({"y": other})
        refs.append({"y": other})
    found = compare(_model(op), [f"feed{i}" for i in range(len(gots))], gots, refs)
    return all(one.passed for one in found)


WIDE = np.linspace(-1, 1, 100, dtype=np.float32)
FLAT = np.full(100, 0.1, np.float32)


@pytest.mark.parametrize(
    ("title", "got", "ref", "other", "passed"),
    [
        ("equal", WIDE, WIDE, None, True),
        ("rounding", WIDE * np.float32(1 + 2e-7), WIDE, None, True),
        ("beyond the range bound", WIDE + np.float32(1e-4), WIDE, None, False),
        ("another shape", WIDE[:-1], WIDE, None, False),
        ("another dtype", WIDE.astype(np.float64), WIDE, None, False),
        ("not a number", np.where(WIDE > 0, np.nan, WIDE).astype(np.float32), WIDE, None, False),
        ("noise around zero, elsewhere signal", WIDE * np.float32(1e-7), WIDE * 0, WIDE, True),
        ("noise around zero, nowhere signal", WIDE * np.float32(1e-3), WIDE * 0, None, False),
        ("flat to the last bit", np.nextafter(FLAT, np.float32(1)), FLAT, None, True),
        ("flat but off", FLAT * np.float32(1.001), FLAT, None, False),
    ],
)
def test_the_gate(title: str, got: Array, ref: Array, other: Array | None, passed: bool) -> None:
    assert _outcome(got, ref, other) is passed, title


def test_integers_are_exact_but_for_ties_of_floats() -> None:
    ref = np.arange(2000)
    off = ref.copy()
    off[0] += 1
    assert not _outcome(off, ref)
    assert _outcome(off, ref, op="ArgMax")
    assert not _outcome(ref + 1, ref, op="ArgMax")


def test_nothing_compared_is_a_failure() -> None:
    with pytest.raises(UnsupportedModelError, match="no outputs"):
        compare(_model("Relu"), ["zeros"], [{}], [{}])


def test_a_wrong_file_is_refused_and_says_where(tmp_path: Path) -> None:
    model = _model("Relu")
    write_model(model, tmp_path / "m.onnx")
    x = np.array([-1, 0, 1, 2], np.float32)
    good = Reference("random", {"x": x}, {"y": np.maximum(x, 0)})
    assert all(one.passed for one in check_file(tmp_path / "m.onnx", model, [good]))
    with pytest.raises(UnsupportedModelError, match="differs from its source: output y on random") as refused:
        check_file(tmp_path / "m.onnx", model, [Reference("random", {"x": x}, {"y": x})], [LAYER])
    assert (refused.value.op, refused.value.layer) == ("Relu", "block/conv")


def test_what_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    model = _model("Relu", dtype=ir.DataType.STRING)
    write_model(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModelError, match="refuses the converted model"):
        check_file(tmp_path / "m.onnx", model, [Reference("zeros", {"x": np.zeros(4)}, {"y": np.zeros(4)})])
