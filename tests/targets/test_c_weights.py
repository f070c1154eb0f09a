"""Large weights beside the C source: what the generator sees, what ``model.bin`` holds, what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from optim import model as onnx_file
from optim.errors import InternalError
from targets.bundle import BundleSpec, write_bundle
from targets.c_source import MOST_BYTES, CSource
from targets.c_weights import LARGE_ELEMENTS, attached, detach, write_weights
from targets.contract import State
from targets.references import Reference
from tests.targets.operator_cases import expected_of, graph, seeded

pytest.importorskip("emx_onnx_cgen", reason="fairlead[c] is not installed")

WIDE = "[1,160]"
CASES = {
    "dense": (
        graph("y = Gemm<transB=1>(x, w, b)", WIDE, "[1,170]", w=seeded(170, 160), b=seeded(170)),
        (1, 160),
    ),
    "matrix product": (graph("y = MatMul(x, w)", WIDE, "[1,170]", w=seeded(160, 170)), (1, 160)),
    "convolution": (
        graph("y = Conv<pads=[1,1,1,1]>(x, w)", "[1,40,4,4]", "[1,72,4,4]", w=seeded(72, 40, 3, 3)),
        (1, 40, 4, 4),
    ),
    "transposed convolution": (
        graph("y = ConvTranspose(x, w)", "[1,40,4,4]", "[1,72,6,6]", w=seeded(40, 72, 3, 3)),
        (1, 40, 4, 4),
    ),
    "added, and used twice": (
        graph("a = Add(x, w) y = Mul(a, w)", "[1,30000]", "[1,30000]", w=seeded(30000)),
        (1, 30000),
    ),
    "slopes": (graph("y = PRelu(x, w)", "[1,30000]", "[1,30000]", w=seeded(30000)), (1, 30000)),
    "integers": (
        graph(
            "d = DequantizeLinear(w, s, z) y = Gemm<transB=1>(x, d)", WIDE, "[1,700]",
            w=np.random.default_rng(1).integers(-128, 128, (700, 160)).astype(np.int8),
            s=np.float32(0.02), z=np.int8(3),
        ),
        (1, 160),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("title", CASES)
def test_weights_are_read_from_their_file(title: str, tmp_path: Path) -> None:
    proto, shape = CASES[title]
    onnx.save(proto, tmp_path / "m.onnx")
    x = seeded(*shape, seed=9)
    reference = Reference("random_0", {"x": x}, {"y": expected_of(proto, x)})
    out = tmp_path / "bundle"
    made = write_bundle(BundleSpec("large", tmp_path / "m.onnx", CSource(), (reference,)), out)
    if made.verdict.state is State.PRODUCED:
        pytest.skip(made.verdict.detail)
    assert made.verdict.state is State.VERIFIED, made.verdict.problems
    large = [t for t in proto.graph.initializer if np.prod(t.dims) > LARGE_ELEMENTS]
    stored = b"".join(numpy_helper.to_array(t).tobytes() for t in large)
    assert (out / "model.bin").read_bytes() == stored
    assert len((out / "model.c").read_text()) < 20_000  # no weight stands in it as a number


@pytest.mark.slow
@pytest.mark.parametrize("change", ["shorter", "longer", "missing"])
def test_a_file_that_is_not_theirs_is_refused(tmp_path: Path, change: str) -> None:
    onnx.save(CASES["dense"][0], tmp_path / "m.onnx")
    CSource().build(tmp_path / "m.onnx", tmp_path, {})
    file = tmp_path / "model.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if change == "shorter" else whole + b"\0")
    if change == "missing":
        file.unlink()
    program = '#include "model.h"\nint main(void) { return model_load("model.bin") ? 0 : 3; }\n'
    (tmp_path / "main.c").write_text(program)
    command = ["cc", "-std=c11", "-Wall", "-Werror", "-o", "main", "main.c", "model.c", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([str(tmp_path / "main")], cwd=tmp_path, check=False).returncode == 3


def _loaded(proto: onnx.ModelProto, file: Path) -> ir.Model:
    onnx.save(proto, file)
    return onnx_file.load(file)


def test_a_small_model_keeps_its_weights_in_the_source(tmp_path: Path) -> None:
    model = _loaded(graph("y = MatMul(x, w)", WIDE, "[1,100]", w=seeded(160, 100)), tmp_path / "m.onnx")
    assert detach(model) == ()
    assert list(model.graph.initializers) == ["w"]


def test_only_the_large_ones_are_detached_and_stand_behind_the_inputs(tmp_path: Path) -> None:
    proto = graph(
        "a = MatMul(x, w) b = Add(a, bias) y = MatMul(b, v)",
        WIDE,
        "[1,1200]",
        w=seeded(160, 170),
        bias=seeded(170),
        v=seeded(170, 1200),
    )
    model = _loaded(proto, tmp_path / "m.onnx")
    weights = detach(model)
    assert [(w.name, w.dims, w.c_type) for w in weights] == [
        ("weight_0", (160, 170), "float"),
        ("weight_1", (170, 1200), "float"),
    ]
    assert [value.name for value in model.graph.inputs] == ["x", "weight_0", "weight_1"]
    assert list(model.graph.initializers) == ["bias"]
    write_weights(weights, tmp_path / "w.bin")
    stored = [numpy_helper.to_array(t).tobytes() for t in proto.graph.initializer if t.name != "bias"]
    assert (tmp_path / "w.bin").read_bytes() == b"".join(stored)


def test_a_weight_that_is_an_output_stays(tmp_path: Path) -> None:
    proto = graph("y = MatMul(x, w)", WIDE, "[1,170]", w=seeded(160, 170))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [160, 170]))
    assert detach(_loaded(proto, tmp_path / "m.onnx")) == ()


def test_a_function_that_takes_other_arguments_is_our_bug(tmp_path: Path) -> None:
    model = _loaded(CASES["dense"][0], tmp_path / "m.onnx")
    weights = detach(model)
    with pytest.raises(InternalError, match="does not take the weights"):
        attached("", "const float x[1][160], float y[1][170]", 1, weights)


def test_more_than_an_object_file_holds_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(CASES["dense"][0], tmp_path / "m.onnx")
    assert CSource().unsupported(tmp_path / "m.onnx") == ()
    assert MOST_BYTES < 1 << 31
    monkeypatch.setattr("targets.c_source.MOST_BYTES", 1000)
    (reason,) = CSource().unsupported(tmp_path / "m.onnx")
    assert "109480 bytes" in reason
