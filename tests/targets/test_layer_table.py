"""Layers in a target's own words, and which source layer each carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from targets.catalog import target_named
from targets.contract import Artefact
from targets.layer_table import (
    OPTION,
    TargetLayer,
    layers_of,
    onnx_layers,
    openvino_layers,
    recorded,
    with_target_layers,
)

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] x) => (float[1,4] y) <float[4,3,3,3] w, float[4] b, float[4,4] k>
{
  c = Conv <pads = [0, 0, 1, 1], strides = [2, 2]> (x, w, b)
  r = Relu (c)
  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
  p = GlobalAveragePool (m)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, k)
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {"w": (4, 3, 3, 3), "b": (4,), "k": (4, 4)}.items():
        values = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for number, node in enumerate(proto.graph.node):
        node.name = f"block/{node.op_type.lower()}{number}/{node.op_type}"
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


# target → the words for: the convolution's type, its weight's shape, its padding (part of the text)
WORDS = [
    ("onnxruntime", "Conv", (4, 3, 3, 3), "[0, 0] ... [1, 1]"),
    ("openvino", "Convolution", (4, 3, 3, 3), "pads_begin 0, 0; pads_end 1, 1"),
    ("keras", "Conv2D", (3, 3, 3, 4), "same"),
    ("litert", "CONV_2D", (4, 3, 3, 3), ""),
    ("caffe", "Convolution", (4, 3), "pad"),
    ("wolfram", "ConvolutionLayer", (4, 3, 3, 3), "PaddingSize"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "op", "weight", "padding"), WORDS, ids=[w[0] for w in WORDS])
def test_every_target_names_its_layers(model, tmp_path, name, op, weight, padding):
    target = target_named(name)
    if not target.available().available and name != "wolfram":
        pytest.skip(f"no {name} on this machine")
    artefact = target.build(model, tmp_path, {})
    found = layers_of(tmp_path, artefact)
    by_tensor = {one.tensor: one for one in found}
    convolution = next(one for one in found if one.tensor == "c" and one.op == op)
    shapes = [shape for _, shape in convolution.weights]
    assert any(shape[: len(weight)] == weight for shape in shapes), shapes
    assert padding in convolution.padding
    assert "y" in by_tensor
    (placed, other) = with_target_layers([{"name": "conv", "tensors": ["c", "r"]}, {"name": "gone"}], found)
    assert any(one["op"] == op for one in placed["target"])
    assert other["target"] == []


def test_an_onnx_graph_names_its_own(model):
    found = onnx_layers(ir.load(model))
    assert [one.op for one in found] == ["Conv", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"]
    assert found[0] == TargetLayer(
        "block/conv0/Conv", "Conv", "c", (("w", (4, 3, 3, 3)), ("b", (4,))), "[0, 0] ... [1, 1]"
    )


def test_what_is_recorded_comes_back(tmp_path):
    layers = (TargetLayer("a", "Conv", "t", (("w", (1, 2)),), "pad 1"), TargetLayer("b", "Relu", "u"))
    artefact = Artefact(("model.bin",), {OPTION: recorded(layers)})
    assert layers_of(tmp_path, artefact) == layers


def test_a_format_without_names_has_no_table(tmp_path):
    assert layers_of(tmp_path, Artefact(("model.c",))) == ()


def test_openvino_ports_may_name_several_tensors(tmp_path):
    (tmp_path / "m.xml").write_text(
        '<net><layers><layer id="0" name="w" type="Const"><data element_type="f32" shape="2, 3"/></layer>'
        '<layer id="1" name="fc" type="MatMul"><output><port id="0" names="a,b"/></output></layer></layers>'
        '<edges><edge from-layer="0" to-layer="1"/></edges></net>'
    )
    found = openvino_layers(tmp_path / "m.xml")
    assert [(one.tensor, one.weights) for one in found] == [("a", (("w", (2, 3)),)), ("b", (("w", (2, 3)),))]
