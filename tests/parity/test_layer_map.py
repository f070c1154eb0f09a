"""The table of correspondences, before and after real passes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optim.recipes import recipe_of
from optim.schedule import optimize
from pipeline.parity.layer_map import layer_map, padding_of, parameter_total, permutation_between
from pipeline.sources.contract import SourceLayer
from targets.reference import OrtOracle

from .networks import Builder

PASSES = ("lift_constants", "infer_shapes", "fold_constants", "make_padding_explicit", "fold_batchnorm")


def network():
    """A strided SAME convolution, batch norm, ReLU, depthwise, dense; and the layers as Keras lists them."""
    b = Builder(0, (1, 3, 8, 8))
    x = b.conv("x", 3, 4, 3, name="conv1", auto_pad="SAME_UPPER", strides=[2, 2])
    x = b.batch_norm(x, 4, name="bn1")
    x = b.node("Relu", x, name="relu1")
    x = b.conv(x, 4, 4, 3, group=4, name="depthwise")
    x = b.node("Flatten", x, name="flatten")
    x = b.dense(x, 64, 5, name="dense")
    layers = (
        SourceLayer("conv1", "Conv2D", ("conv1:0",), (None, 4, 4, 4), 112,
                    (("conv1/kernel", (3, 3, 3, 4)), ("conv1/bias", (4,))), "same"),
        SourceLayer("bn1", "BatchNormalization", ("bn1:0",), (None, 4, 4, 4), 16,
                    tuple((f"bn1/{n}", (4,)) for n in ("gamma", "beta", "moving_mean", "moving_variance"))),
        SourceLayer("relu1", "ReLU", ("relu1:0",), (None, 4, 4, 4), 0),
        SourceLayer("depthwise", "DepthwiseConv2D", ("depthwise:0",), (None, 4, 4, 4), 40,
                    (("depthwise/kernel", (3, 3, 4, 1)), ("depthwise/bias", (4,))), "same"),
        SourceLayer("dropout", "Dropout", (), (None, 4, 4, 4), 0),
        SourceLayer("dense", "Dense", ("dense:0",), (None, 5), 325,
                    (("dense/kernel", (64, 5)), ("dense/bias", (5,)))),
    )  # fmt: skip
    return b.model(x), layers


@pytest.fixture(scope="module")
def rows():
    before, layers = network()
    after = before.clone()
    optimize(after, recipe_of(PASSES), oracle=OrtOracle())
    assert "BatchNormalization" not in {n.op_type for n in after.graph}
    return {row.layer: row for row in layer_map(layers, before, after)}


def test_every_layer_has_a_row_in_order(rows):
    assert list(rows) == ["conv1", "bn1", "relu1", "depthwise", "dropout", "dense"]
    assert parameter_total(network()[1]) == sum(r.parameters for r in rows.values()) == 493


def test_kernels_and_their_permutations(rows):
    kernel, bias = rows["conv1"].weights
    assert (kernel.shape, kernel.shape_before, kernel.permutation_before) == (
        (3, 3, 3, 4),
        (4, 3, 3, 3),
        (3, 2, 0, 1),
    )
    assert (kernel.shape_after, kernel.permutation_after) == ((4, 3, 3, 3), (3, 2, 0, 1))
    assert kernel.note == "scaled: a following or preceding operator was folded in"
    assert bias.shape_before == (4,)
    assert bias.note.startswith("folded into")
    depthwise, _ = rows["depthwise"].weights
    assert (depthwise.shape_after, depthwise.permutation_after, depthwise.note) == (
        (4, 1, 3, 3),
        (2, 3, 0, 1),
        "",
    )
    dense, bias = rows["dense"].weights
    assert (dense.shape_after, dense.permutation_after, dense.note) == ((64, 5), (0, 1), "")
    assert (bias.shape_after, bias.note) == ((5,), "")


def test_folded_layers_say_where_they_went(rows):
    row = rows["bn1"]
    assert row.nodes_before == ("BatchNormalization bn1",)
    assert len(row.nodes_after) == 1
    assert row.nodes_after[0].startswith("Conv")
    assert all("folded into" in w.note and w.tensor_after == "" for w in row.weights)
    assert rows["conv1"].tensor_after == rows["bn1"].tensor_after
    assert rows["relu1"].tensor_after == "relu1:0"
    assert rows["dropout"].note == "inference does nothing here"


def test_padding_in_words_and_numbers(rows):
    row = rows["conv1"]
    assert row.padding == "same"
    assert row.padding_before == row.padding_after == "[0, 0] ... [1, 1]"
    assert rows["depthwise"].padding_after == "[1, 1] ... [1, 1]"
    assert rows["relu1"].padding_after == ""


def test_padding_that_the_input_decides():
    node = ir.node("Conv", [ir.Value(name="x"), ir.Value(name="w")],
                   {"auto_pad": "SAME_UPPER", "kernel_shape": [3, 3]})  # fmt: skip
    assert padding_of(node) == "SAME_UPPER (the size of the input decides)"


@pytest.mark.parametrize(
    ("source", "held", "op", "want"),
    [
        ((5, 5, 1, 32), (32, 1, 5, 5), "Conv", (3, 2, 0, 1)),
        ((3, 3, 3, 3), (3, 3, 3, 3), "Conv", (3, 2, 0, 1)),  # square throughout: the operator decides
        ((3, 3, 8, 2), (16, 1, 3, 3), "Conv", (2, 3, 0, 1)),
        ((3, 16, 32), (32, 16, 3), "Conv", (2, 1, 0)),
        ((3, 3, 16, 8), (8, 16, 3, 3), "ConvTranspose", (3, 2, 0, 1)),
        ((1568, 512), (512, 1568), "Gemm", (1, 0)),
        ((64, 64), (64, 64), "MatMul", (0, 1)),
        ((7,), (1, 7, 1, 1), "Mul", (0,)),
        ((7,), (8,), "Mul", None),
        ((2, 3), (2, 4), "Gemm", None),
    ],
)
def test_permutation_between(source, held, op, want):
    assert permutation_between(source, held, op) == want


def test_permutations_hold_for_the_arrays_themselves():
    array = np.arange(5 * 5 * 3 * 4).reshape(5, 5, 3, 4)
    assert array.transpose(permutation_between((5, 5, 3, 4), (4, 3, 5, 5), "Conv")).shape == (4, 3, 5, 5)
