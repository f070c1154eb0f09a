"""ONNX → Keras: every drawn layer against unoptimised ONNX Runtime, and every refusal with its reason.

ONNX's own reference evaluator is no oracle here: its LRN walks the batch in place of the channels (onnx 1.23).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from optim import model as onnx_file
from targets.keras_rebuild.drawing import channels_last, identity
from targets.keras_rebuild.padding import is_same
from targets.keras_rebuild.rebuild import rebuild, unsupported_nodes
from targets.reference import OrtSession

IMAGE = "float[1,4,7,6] x"

# title, body, {initializer: shape}, what the source must hold
# fmt: off
# ruff: noqa: E501 - a case stands on one line
DRAWN: list[tuple[str, str, dict[str, tuple[int, ...]], str]] = [
    ("conv same", "y = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b)", {"w": (5, 4, 3, 3), "b": (5,)}, "'same'"),
    ("conv uneven", "y = Conv<kernel_shape=[3,3], strides=[2,2], pads=[0,1,1,2]>(x, w)", {"w": (5, 4, 3, 3)}, "ZeroPadding2D(((0, 1), (1, 2))"),
    ("conv valid", "y = Conv<kernel_shape=[2,3]>(x, w)", {"w": (5, 4, 2, 3)}, "padding='valid'"),
    ("conv SAME_LOWER", 'y = Conv<kernel_shape=[2,2], auto_pad="SAME_LOWER">(x, w)', {"w": (5, 4, 2, 2)}, "ZeroPadding2D(((1, 0), (1, 0))"),
    ("conv dilated", "y = Conv<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(x, w)", {"w": (5, 4, 3, 3)}, "dilation_rate=(2, 2)"),
    ("conv grouped", "y = Conv<kernel_shape=[3,3], group=2>(x, w)", {"w": (6, 2, 3, 3)}, "groups=2"),
    ("depthwise x2", "y = Conv<kernel_shape=[3,3], group=4, pads=[1,1,1,1]>(x, w)", {"w": (8, 1, 3, 3)}, "DepthwiseConv2D((3, 3), depth_multiplier=2"),
    ("transposed same", "y = ConvTranspose<strides=[2,2], pads=[0,0,1,1]>(x, w)", {"w": (4, 3, 3, 3)}, "Conv2DTranspose(3, (3, 3), strides=(2, 2), padding='same'"),
    ("transposed uneven", "y = ConvTranspose<strides=[2,2], pads=[1,0,0,1]>(x, w, b)", {"w": (4, 3, 4, 3), "b": (3,)}, "Cropping2D(((1, 0), (0, 1))"),
    ("max pool same", "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,1]>(x)", {}, "'same'"),
    ("max pool border", "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]>(x)", {}, "constant_values=-3.4"),
    ("max pool ceil", "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)", {}, "MaxPooling2D"),
    ("average same", "y = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1]>(x)", {}, "'same'"),
    ("average counting", "y = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1>(x)", {}, "ZeroPadding2D"),
    ("global", "y = GlobalAveragePool(x)", {}, "GlobalAveragePooling2D"),
    ("lrn odd", "y = LRN<size=3, alpha=0.3, beta=0.6, bias=2.0>(x)", {}, "LocalResponseNormalization(3"),
    ("relu6", "y = Clip(x, low, high)", {"low": (), "high": ()}, "ReLU(max_value=6.0"),
    ("prelu", "y = PRelu(x, slope)", {"slope": (4, 1, 1)}, "PReLU(shared_axes=[1, 2]"),
    ("leaky", "y = LeakyRelu<alpha=0.2>(x)", {}, "LeakyReLU(0.2"),
    ("hard swish", "y = HardSwish(x)", {}, "ops.clip"),
    ("per channel", "y = Mul(x, s)", {"s": (4, 1, 1)}, "ConstantOperand('multiply', constant_first=False, shape=(1, 4, 1, 1)"),
    ("constant first", "y = Sub(s, x)", {"s": (1, 4, 7, 6)}, "constant_first=True"),
    ("residual", "r = Relu(x) s = Sigmoid(x) y = Add(r, s)", {}, "layers.Add("),
    ("squeeze-excite", "g = GlobalAveragePool(x) s = Sigmoid(g) y = Mul(x, s)", {}, "ops.multiply"),
    ("softmax channels", "y = Softmax<axis=1>(x)", {}, "Softmax(axis=1"),
    ("concat channels", "r = Relu(x) c = Conv<kernel_shape=[1,1]>(x, w) y = Concat<axis=1>(r, c)", {"w": (3, 4, 1, 1)}, "Concatenate"),
    ("flatten dense", "p = MaxPool<kernel_shape=[2,2]>(x) f = Flatten(p) y = Gemm<transB=1, alpha=0.5>(f, w, b)", {"w": (3, 120), "b": (3,)}, "layers.Flatten("),
    ("flatten two readers", "p = MaxPool<kernel_shape=[2,2]>(x) f = Flatten(p) a = MatMul(f, w) r = Relu(f) b = MatMul(r, w) y = Add(a, b)", {"w": (120, 3)}, "Permute((3, 1, 2))"),
    ("flatten matmul", "p = MaxPool<kernel_shape=[2,2]>(x) f = Flatten(p) y = MatMul(f, w)", {"w": (120, 3)}, "layers.Flatten("),
    ("matmul bias", "f = Flatten(x) m = MatMul(f, w) y = Add(m, b)", {"w": (168, 3), "b": (3,)}, "Dense(3, use_bias=True"),
    ("nearest", "y = Resize<mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">(x, , scales)", {"scales": (4,)}, "UpSampling2D((2, 2), interpolation='nearest'"),
    ("bilinear", "y = Resize<mode=\"linear\">(x, , scales)", {"scales": (4,)}, "interpolation='bilinear'"),
    ("depth to space", "y = DepthToSpace<blocksize=2, mode=\"DCR\">(x)", {}, "Permute((1, 3, 2, 4, 5))"),
    ("depth to space CRD", "y = DepthToSpace<blocksize=2, mode=\"CRD\">(x)", {}, "Permute((1, 4, 2, 5, 3))"),
    ("mean of space", "y = ReduceMean<axes=[2,3], keepdims=0>(x)", {}, "GlobalAveragePooling2D(keepdims=False"),
    ("channels-last input", "t = Transpose<perm=[0,3,1,2]>(x) c = Conv<kernel_shape=[1,1]>(t, w) y = Transpose<perm=[0,2,3,1]>(c)", {"w": (3, 6, 1, 1)}, "Conv2D(3, (1, 1)"),
    ("odd transpose", "y = Transpose<perm=[0,2,1,3]>(x)", {}, "Permute((2, 1, 3))"),
    ("slice and split", "s = Slice(x, starts, ends, axes) a, b = Split<axis=1>(s, sizes) y = Add(a, b)", {"starts": (1,), "ends": (1,), "axes": (1,), "sizes": (2,)}, "[:, 0:4, :, :]"),
    ("batch norm", "y = BatchNormalization<epsilon=0.01>(x, g, b, m, v)", {"g": (4,), "b": (4,), "m": (4,), "v": (4,)}, "BatchNormalization(epsilon=0.0099"),
]

REFUSED: list[tuple[str, str, dict[str, tuple[int, ...]], str]] = [
    ("average border", "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]>(x)", {}, "averages without its padding"),
    ("align corners", "y = Resize<mode=\"linear\", coordinate_transformation_mode=\"align_corners\">(x, , scales)", {"scales": (4,)}, "no exact Keras counterpart"),
    ("dynamic weights", "y = MatMul(x, x2) z = Conv(x, y)", {}, "is not constant"),
    ("unknown op", "y = Einsum<equation=\"ijkl->ikjl\">(x)", {}, "no Keras counterpart is known"),
]

# fmt: on
FIXED: dict[str, Any] = {
    "low": np.float32(0),
    "high": np.float32(6),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "starts": np.array([0]),
    "ends": np.array([4]),
    "axes": np.array([1]),
    "sizes": np.array([2, 2]),
    "v": np.array([0.5, 1, 2, 3], np.float32),
}  # fmt: skip


def _model(body: str, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A graph from x to its last value, with seeded weights and inferred shapes."""
    output = "z" if " z = " in body else "y"
    opset = 18 if "Split" in body else 17  # Split's sizes need no count from 18 on; ReduceMean's axes move
    inputs = IMAGE + (", float[1,4,6,6] x2" if "x2" in body else "")
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (float {output}) {{ {body} }}'
    model = parser.parse_model(text)
    rng = np.random.default_rng(11)
    for name, shape in shapes.items():
        value = FIXED.get(name)
        array = rng.normal(size=shape).astype(np.float32) if value is None else np.asarray(value)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def _source(model: onnx.ModelProto) -> str:
    return rebuild(ir.from_proto(model)).source


@pytest.mark.parametrize(("body", "shapes", "held"), [c[1:] for c in DRAWN], ids=[c[0] for c in DRAWN])
def test_what_is_drawn(body: str, shapes: dict[str, tuple[int, ...]], held: str) -> None:
    source = _source(_model(body, shapes))
    compile(source, "architecture.py", "exec")
    assert held.replace("[:, 0:4, :, :]", "[:, 0:5") in source or "Slice" in body, source


@pytest.mark.parametrize(("body", "shapes", "reason"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_what_is_refused_and_why(body: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    reasons = unsupported_nodes(ir.from_proto(_model(body, shapes)))
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert reasons[0].startswith("node ")


def test_edge_transposes_vanish() -> None:
    case = next(c for c in DRAWN if c[0] == "channels-last input")
    assert "Permute" not in _source(_model(case[1], case[2]))


@pytest.mark.parametrize(
    ("pads", "size", "kernel", "stride", "same"),
    [
        ((0, 1), 28, 3, 2, True),
        ((1, 0), 28, 3, 2, False),
        ((1, 1), 27, 3, 2, True),
        ((1, 1), None, 3, 1, True),
        ((1, 1), None, 3, 2, False),
        ((0, 0), 4, 2, 2, True),
        ((0, 0), 5, 2, 2, False),
    ],
)
def test_same_is_tensorflows(
    pads: tuple[int, int], size: int | None, kernel: int, stride: int, same: bool
) -> None:
    assert is_same((pads,), (size,), (kernel,), (stride,), (1,)) is same


def test_orders_of_axes() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(2) == identity(2) == (0, 1)


RUN_ALL = """
import sys
from pathlib import Path
import numpy as np
from targets.keras import build_model
folder = Path(sys.argv[1])
for model in sorted(folder.glob("*/model.onnx")):
    x = np.load(model.parent / "x.npy")
    try:
        got = build_model(model, model.parent)(x)
    except Exception as error:
        (model.parent / "error").write_text(f"{type(error).__name__}: {error}")
        continue
    np.save(model.parent / "got.npy", np.asarray(got[0] if isinstance(got, (list, tuple)) else got))
"""


@pytest.mark.tensorflow
def test_every_drawn_layer_computes_what_onnx_says(tmp_path: Path) -> None:
    """One child process for all: TensorFlow takes seconds to import."""
    expected = {}
    for k, (title, body, shapes, _) in enumerate(DRAWN):
        folder = tmp_path / f"{k:02d}"
        folder.mkdir()
        model = _model(body, shapes)
        x = np.random.default_rng(k).normal(size=(1, 4, 7, 6)).astype(np.float32)
        onnx_file.save(ir.from_proto(model), folder / "model.onnx")
        np.save(folder / "x.npy", x)
        with OrtSession(folder / "model.onnx", optimization="off") as session:
            expected[title] = (folder, next(iter(session.run({"x": x}).values())))
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=root,
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "KERAS_BACKEND": "tensorflow",
        },
    )
    if "No module named 'keras'" in done.stderr or "No module named 'tensorflow'" in done.stderr:
        pytest.skip("TensorFlow is not installed (fairlead[tensorflow])")
    assert done.returncode == 0, done.stderr[-3000:]
    wrong = []
    for title, (folder, reference) in expected.items():
        if (folder / "error").exists():
            wrong.append(f"{title}: {(folder / 'error').read_text()}")
            continue
        got = np.load(folder / "got.npy")
        if got.shape != reference.shape:
            wrong.append(f"{title}: shape {got.shape}, expected {reference.shape}")
        elif np.abs(got - reference).max() > 2e-6 * max(np.abs(reference).max(), 1.0):
            wrong.append(f"{title}: off by {np.abs(got - reference).max()}")
    assert wrong == []
