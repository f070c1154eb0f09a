# ruff: noqa: E501 - graphs in tables are easier to read in one line
"""Each speed rewrite computes what it replaces, in its own operators, and says why it leaves a site alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.catalog import FORMS, PASSES
from optim.contract import Array
from optim.model import op_counts
from optim.passes.lrn_as_convolution import band
from optim.passes.winograd_convolution import WinogradConvolution, transforms
from tests.optim.table import Case, Unoptimised, assert_sound, check, graph, normal, positive

_CONV = "g (float[N, 5, 9, 11] X) => (float[N, m, h, w] Y)"
_WINOGRAD = {"Conv": 1, "MatMul": 2, "Transpose": 3}  # the transforms and the product
_X = "g (float[N, 6, 5, 4] X) => (float[N, 6, 5, 4] Y)"
_GATED = "g (float[N, 6, 5, 4] X) => (float[N, 6, 5, 4] Y)"

CASES = {
    "winograd_convolution": [
        Case(
            "pads and bias",
            f"{_CONV} {{ Y = Conv<pads = [1, 1, 1, 1]>(X, W, B) }}",
            {**_WINOGRAD, "Reshape": 7, "Slice": 1, "Add": 1},
            {"W": normal(7, 5, 3, 3), "B": normal(7)},
        ),
        Case(
            "no pads, no bias, and a ragged last tile",
            f"{_CONV} {{ Y = Conv(X, W) }}",
            {**_WINOGRAD, "Reshape": 7, "Slice": 1},
            {"W": normal(7, 5, 3, 3)},
        ),
        Case(
            "whole tiles need no crop",
            'g (float[1, 5, 8, 12] X) => (float[1, 7, 8, 12] Y) { Y = Conv<auto_pad = "SAME_UPPER">(X, W) }',
            {**_WINOGRAD, "Reshape": 7},
            {"W": normal(7, 5, 3, 3)},
        ),
        Case(
            "stride 2",
            f"{_CONV} {{ Y = Conv<strides = [2, 2]>(X, W) }}",
            {"Conv": 1},
            {"W": normal(7, 5, 3, 3)},
            refusal="strides are [2, 2]",
        ),
        Case(
            "dilated",
            f"{_CONV} {{ Y = Conv<dilations = [1, 2]>(X, W) }}",
            {"Conv": 1},
            {"W": normal(7, 5, 3, 3)},
            refusal="dilations are [1, 2]",
        ),
        Case(
            "depthwise",
            f"{_CONV} {{ Y = Conv<group = 5>(X, W) }}",
            {"Conv": 1},
            {"W": normal(5, 1, 3, 3)},
            refusal="grouped",
        ),
        Case(
            "4×4 is another matter", f"{_CONV} {{ Y = Conv(X, W) }}", {"Conv": 1}, {"W": normal(7, 5, 4, 4)}
        ),
        Case(
            "free spatial size",
            "g (float[N, 5, H, 9] X) => (float[N, m, h, w] Y) { Y = Conv(X, W) }",
            {"Conv": 1},
            {"W": normal(7, 5, 3, 3)},
            refusal="spatial size",
        ),
        Case(
            "dynamic weights",
            "g (float[N, 5, 9, 9] X, float[7, 5, 3, 3] V) => (float[N, 7, h, w] Y) { Y = Conv(X, V) }",
            {"Conv": 1},
            refusal="weights are not constant",
        ),
    ],
    "lrn_as_convolution": [
        Case(
            "AlexNet's",
            f"{_X} {{ Y = LRN<size = 5, alpha = 0.3, beta = 0.75, bias = 2.0>(X) }}",
            {"Mul": 2, "Conv": 1, "Sqrt": 2, "Div": 1},
        ),
        Case(
            "one root",
            f"{_X} {{ Y = LRN<size = 3, alpha = 0.3, beta = 0.5>(X) }}",
            {"Mul": 1, "Conv": 1, "Sqrt": 1, "Div": 1},
        ),
        Case(
            "another power",
            f"{_X} {{ Y = LRN<size = 7, alpha = 0.9, beta = 0.6>(X) }}",
            {"Mul": 1, "Conv": 1, "Pow": 1, "Div": 1},
        ),
        Case(
            "no power",
            f"{_X} {{ Y = LRN<size = 11, alpha = 0.9, beta = 1.0>(X) }}",
            {"Mul": 1, "Conv": 1, "Div": 1},
        ),
        Case(
            "bias zero",
            f"{_X} {{ Y = LRN<size = 5, bias = 0.0>(X) }}",
            {"LRN": 1},
            refusal="below zero",
            numbers=False,
        ),
        Case(
            "free channels",
            "g (float[N, C, 5, 4] X) => (float[N, C, 5, 4] Y) { Y = LRN<size = 5>(X) }",
            {"LRN": 1},
            refusal="channels",
        ),
    ],
    "affine_as_depthwise": [
        Case(
            "Mul and Add",
            f"{_X} {{ A = Mul(X, s) B = Add(A, t) Y = Relu(B) }}",
            {"Conv": 1, "Relu": 1},
            {"s": normal(6, 1, 1), "t": normal(1, 6, 1, 1)},
        ),
        Case(
            "Sub and Div",
            f"{_X} {{ A = Sub(X, t) B = Div(A, s) Y = Relu(B) }}",
            {"Conv": 1, "Relu": 1},
            {"s": positive(6, 1, 1), "t": normal(6, 1, 1)},
        ),
        Case(
            "batch normalisation",
            f"{_X} {{ B = BatchNormalization(X, s, t, m, v) Y = Relu(B) }}",
            {"Conv": 1, "Relu": 1},
            {"s": normal(6), "t": normal(6), "m": normal(6), "v": positive(6)},
        ),
        Case(
            "by pixel",
            f"{_X} {{ A = Mul(X, s) B = Add(A, t) Y = Relu(B) }}",
            {"Mul": 1, "Add": 1, "Relu": 1},
            {"s": normal(5, 4), "t": normal(6, 1, 1)},
        ),
        Case(
            "the product is read twice",
            f"{_X} {{ A = Mul(X, s) B = Add(A, t) C = Relu(B) Y = Add(A, C) }}",
            {"Mul": 1, "Add": 2, "Relu": 1},
            {"s": normal(6, 1, 1), "t": normal(6, 1, 1)},
        ),
        Case(
            "no activation behind",
            f"{_X} {{ A = Mul(X, s) Y = Add(A, t) }}",
            {"Mul": 1, "Add": 1},
            {"s": normal(6, 1, 1), "t": normal(6, 1, 1)},
        ),
    ],
    "expand_gates": [
        Case(
            "squeeze-excite",
            f"{_GATED} {{ M = ReduceMean<keepdims = 1>(X, axes) C = Conv(M, W) G = Sigmoid(C) Y = Mul(X, G) }}",
            {"GlobalAveragePool": 1, "Conv": 1, "Sigmoid": 1, "Resize": 1, "Mul": 1},
            {"W": normal(6, 6, 1, 1), "axes": np.asarray([2, 3])},
        ),
        Case(
            "a maximum is no mean; gate first",
            f"{_GATED} {{ M = ReduceMax<keepdims = 1>(X, axes) Y = Mul(M, X) }}",
            {"ReduceMax": 1, "Resize": 1, "Mul": 1},
            {"axes": np.asarray([-1, 2])},
        ),
        Case("a constant gate", f"{_GATED} {{ Y = Mul(X, G) }}", {"Mul": 1}, {"G": normal(1, 6, 1, 1)}),
        Case(
            "free size",
            "g (float[N, 6, H, 4] X) => (float[N, 6, H, 4] Y) { M = GlobalAveragePool(X) Y = Mul(X, M) }",
            {"GlobalAveragePool": 1, "Mul": 1},
            refusal="spatial size",
        ),
        Case(
            "opset 11",
            f"{_GATED} {{ M = GlobalAveragePool(X) Y = Mul(X, M) }}",
            {"GlobalAveragePool": 1, "Mul": 1},
            refusal="opset 11",
            opset=11,
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, cases in CASES.items() for case in cases],
    ids=str,
)
def test_table(name: str, case: Case) -> None:
    check(PASSES[name](), case)


def test_every_form_is_in_the_catalogue() -> None:
    assert set(CASES) == set(FORMS)
    for name, forms in FORMS.items():
        assert {form.info for form in forms} == {PASSES[name]().info}


@pytest.mark.parametrize(("width", "size"), [(4, 3), (5, 3), (6, 3), (6, 5)])
def test_the_transforms_are_an_exact_convolution(width: int, size: int) -> None:
    matrices, rng = transforms(width, size), np.random.default_rng(width)
    data, kernel = rng.standard_normal(width), rng.standard_normal(size)
    product = (matrices.weight @ kernel) * (matrices.input @ data)
    np.testing.assert_allclose(matrices.output @ product, np.correlate(data, kernel), rtol=0, atol=1e-13)


def test_other_tiles_are_no_option() -> None:
    with pytest.raises(ValueError, match="width is 8"):
        WinogradConvolution(8)


def test_a_tile_of_one_output_is_no_site() -> None:
    model = graph(
        "g (float[1, 2, 9, 9] X) => (float[1, 3, 5, 5] Y) { Y = Conv(X, W) }", {"W": normal(3, 2, 5, 5)}
    )
    assert WinogradConvolution(4).candidates(model) == ((), ())
    assert [c.site for c in WinogradConvolution(6).candidates(model)[0]] == ["Y"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_the_band_is_the_window_of_the_specification(size: int) -> None:
    channels = 7
    expected = np.zeros((channels, channels))
    for c in range(channels):  # the formula of the LRN page, literally
        low = max(0, c - int(np.floor((size - 1) / 2)))
        high = min(channels - 1, c + int(np.ceil((size - 1) / 2)))
        expected[c, low : high + 1] = 0.5
    assert np.array_equal(band(channels, size, 0.5), expected)


_PADS = st.tuples(*[st.integers(0, 3)] * 4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    tile=st.sampled_from([(4, 3), (5, 3), (6, 3), (6, 5)]),
    grouped=st.booleans(),
    channels=st.integers(1, 9),
    filters=st.integers(1, 9),
    height=st.integers(5, 13),
    width=st.integers(5, 13),
    pads=_PADS,
    batch=st.sampled_from(["N", "1", "3"]),
    bias=st.booleans(),
)
def test_winograd_of_any_geometry(
    tile: tuple[int, int], grouped: bool, channels: int, filters: int, height: int, width: int,
    pads: tuple[int, int, int, int], batch: str, bias: bool,
) -> None:  # fmt: skip
    text = (
        f"g (float[{batch}, {channels}, {height}, {width}] X) => (float[{batch}, {filters}, h, w] Y)"
        f" {{ Y = Conv<pads = {list(pads)}>(X, W{', B' if bias else ''}) }}"
    )
    weights: dict[str, Array] = {"W": normal(filters, channels, tile[1], tile[1]), "B": normal(filters)}
    if not bias:
        del weights["B"]
    before, after = graph(text, weights), graph(text, weights)
    rewrite = WinogradConvolution(tile[0], grouped=grouped)
    assert rewrite.apply(after).sites == ("Y",)
    assert_sound(rewrite, before, after)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    size=st.integers(0, 6).map(lambda half: 2 * half + 1),  # ONNX Runtime takes odd windows only
    channels=st.integers(1, 20),
    batch=st.integers(1, 3),
    beta=st.sampled_from([0.5, 0.6, 0.75, 1.0]),
    alpha=st.floats(1e-4, 1.0),
)
def test_lrn_of_any_window(size: int, channels: int, batch: int, beta: float, alpha: float) -> None:
    shape = f"float[{batch}, {channels}, 3, 5]"
    text = f"g ({shape} X) => ({shape} Y) {{ Y = LRN<size = {size}, alpha = {alpha:.6f}, beta = {beta}>(X) }}"
    before, after = graph(text), graph(text)
    rewrite = PASSES["lrn_as_convolution"]()
    assert rewrite.apply(after).sites == ("Y",)
    assert_sound(rewrite, before, after)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_points_of_the_large_tile_keep_the_error_small(size: int, grouped: bool) -> None:
    """Deep sums are where transforms lose digits: against float64, 128 channels stay near float32's own error."""
    weights, pad = {"W": normal(16, 128, size, size, scale=0.12 / size)}, size // 2
    text = f"g (float[1, 128, 12, 12] X) => (float[1, 16, 12, 12] Y) {{ Y = Conv<pads = {[pad] * 4}>(X, W) }}"
    model = graph(text, weights)
    data = np.maximum(normal(1, 128, 12, 12, seed=3, scale=1.0), 0)
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    truth = np.einsum("nchwij,kcij->nkhw", windows, weights["W"].astype(np.float64))
    WinogradConvolution(6, grouped=grouped).apply(model)
    assert op_counts(model)["MatMul"] == 2 - grouped
    error = np.abs(Unoptimised()(model, {"X": data})["Y"] - truth).max() / np.ptp(truth)
    assert error < 3e-6
