"""SAME in numbers, and Pad nodes taken into the window behind them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from optim.contract import Array
from optim.model import op_counts
from optim.passes.fold_pads import FoldPads
from optim.passes.make_padding_explicit import MakePaddingExplicit
from optim.passes.sign_pool_borders import SignPoolBorders
from optim.passes.window import same_pads
from tests.optim.table import Case, assert_sound, check, graph, normal

_P = {"p": np.asarray([0, 0, 1, 2, 0, 0, 2, 1], dtype=np.int64)}
_W = {"W": normal(4, 3, 3, 3)}


def _one(body: str, shape: str = "N, 3, 8, 9", channels: int = 4) -> str:
    return f"g (float[{shape}] X) => (float[N, {channels}, h, w] Y) {{ {body} }}"


FOLDED = [
    Case("into a Conv", _one("P = Pad(X, p) Y = Conv(P, W)"), {"Conv": 1}, {**_P, **_W}),
    Case(
        "two Pads one after the other, and the Conv's own",
        _one("P = Pad(X, p) Q = Pad(P, p) Y = Conv<pads = [1, 0, 0, 1]>(Q, W)"),
        {"Conv": 1},
        {**_P, **_W},
    ),
    Case(
        "one Pad that feeds several windows",
        _one("P = Pad(X, p) A = Conv(P, W) B = Conv(P, W) Y = Add(A, B)"),
        {"Conv": 2, "Add": 1},
        {**_P, **_W},
    ),
    Case(
        "the Pad stays for a reader that cannot take it",
        "g (float[N, 3, 8, 9] X) => (float[N, 4, h, w] Y, float[N, 3, a, b] Z) "
        "{ P = Pad(X, p) Y = Conv(P, W) Z = Relu(P) }",
        {"Conv": 1, "Pad": 1, "Relu": 1},
        {**_P, **_W},
    ),
    Case(
        "axes given (opset 18)",
        _one("P = Pad(X, p, , a) Y = Conv(P, W)"),
        {"Conv": 1},
        {**_W, "p": np.asarray([1, 2, 2, 1]), "a": np.asarray([-2, 3])},
    ),
    Case(
        "MaxPool, border of -infinity",
        _one("P = Pad(X, p, c) Y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(P)", channels=3),
        {"MaxPool": 1},
        {**_P, "c": np.float32(-np.inf)},
    ),
    Case(
        "MaxPool, border of zero after a Relu",
        _one("R = Relu(X) P = Pad(R, p) Y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(P)", channels=3),
        {"Relu": 1, "MaxPool": 1},
        _P,
    ),
    Case(
        "AveragePool counts the border from then on",
        _one("P = Pad(X, p) Y = AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(P)", channels=3),
        {"AveragePool": 1},
        _P,
    ),
    # --- refusals
    Case(
        "reflect",
        _one('P = Pad<mode = "reflect">(X, p) Y = Conv(P, W)'),
        {"Pad": 1, "Conv": 1},
        {**_P, **_W},
        refusal="Pad mode is 'reflect'",
    ),
    Case(
        "a border of one before a Conv",
        _one("P = Pad(X, p, c) Y = Conv(P, W)"),
        {"Pad": 1, "Conv": 1},
        {**_P, **_W, "c": np.float32(1)},
        refusal="a Conv pads with 0",
    ),
    Case(
        "a border of zero before a MaxPool, signed input",
        _one("P = Pad(X, p) Y = MaxPool<kernel_shape = [3, 3]>(P)", channels=3),
        {"Pad": 1, "MaxPool": 1},
        _P,
        refusal="can win over the input",
    ),
    Case(
        "a window that would see nothing but border",
        _one("R = Relu(X) P = Pad(R, p) Y = MaxPool<kernel_shape = [2, 2]>(P)", channels=3),
        {"Relu": 1, "Pad": 1, "MaxPool": 1},
        _P,
        refusal="wholly in the border",
    ),
    Case(
        "channels",
        _one("P = Pad(X, p) Y = Conv(P, W)", "N, 2, 8, 9"),
        {"Pad": 1, "Conv": 1},
        {**_W, "p": np.asarray([0, 1, 0, 0, 0, 0, 0, 0])},
        refusal="batch or the channels",
    ),
    Case(
        "a crop",
        _one("P = Pad(X, p) Y = Conv(P, W)"),
        {"Pad": 1, "Conv": 1},
        {**_W, "p": np.asarray([0, 0, -1, 0, 0, 0, 1, 0])},
        refusal="negative pad crops",
    ),
    Case(
        "a pool that does not count its own border",
        _one("P = Pad(X, p) Y = AveragePool<kernel_shape = [5, 5], pads = [1, 1, 1, 1]>(P)", channels=3),
        {"Pad": 1, "AveragePool": 1},
        _P,
        refusal="does not count its own border",
    ),
]


@pytest.mark.parametrize("case", FOLDED, ids=str)
def test_fold_pads(case: Case) -> None:
    check(FoldPads(), case)


_POOL = "MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(P)"
SIGNED = [
    ("a zero border of a max pool", f"P = Pad(X, p) Y = {_POOL}", {}, 1),
    ("a border that is given as 0", f"P = Pad(X, p, v) Y = {_POOL}", {"v": np.float32(0)}, 1),
    ("another border value", f"P = Pad(X, p, v) Y = {_POOL}", {"v": np.float32(-3)}, 0),
    ("a reflected border", f'P = Pad<mode = "reflect">(X, p) Y = {_POOL}', {}, 0),
    ("no max pool", "P = Pad(X, p) Y = Relu(P)", {}, 0),
]


@pytest.mark.parametrize(("title", "body", "weights", "sites"), SIGNED)
def test_sign_pool_borders(title: str, body: str, weights: dict[str, Array], sites: int) -> None:
    before, after = (graph(_one(body, channels=3), {**_P, **weights}) for _ in range(2))
    assert len(SignPoolBorders().apply(after).sites) == sites, title
    assert op_counts(after) == op_counts(before)
    assert_sound(SignPoolBorders(), before, after)


def test_a_signed_border_survives_the_runtimes_own_optimiser() -> None:
    """With +0 ONNX Runtime 1.31 answers 1.6 off from its first optimisation level on."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = graph(_one(f"P = Pad(X, p) Y = {_POOL}", channels=3), _P)
    SignPoolBorders().apply(model)
    x = -1 - np.random.default_rng(0).random((1, 3, 8, 9), np.float32)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(_P["p"][2:4], _P["p"][6:8], strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"X": x})[0], windows.max((-1, -2)))


_SAME = 'auto_pad = "SAME_UPPER"'
EXPLICIT = [
    Case(
        "a stride-2 Conv of unknown size",
        _one(f"Y = Conv<{_SAME}, strides = [2, 2]>(X, W)", "N, 3, H, V"),
        {"Conv": 1},
        _W,
        refusal="fix the input shape first",
    ),
    Case(
        "a ConvTranspose with output_shape",
        _one(f"Y = ConvTranspose<{_SAME}, strides = [2, 2], output_shape = [16, 18]>(X, W)", channels=3),
        {"ConvTranspose": 1},
        {"W": normal(3, 3, 3, 3)},
        refusal="output_shape",
    ),
]


@pytest.mark.parametrize("case", EXPLICIT, ids=str)
def test_refusals_to_make_padding_explicit(case: Case) -> None:
    check(MakePaddingExplicit(), case)


def test_stride_1_needs_no_size() -> None:
    model = graph(_one(f"Y = Conv<{_SAME}>(X, W)", "N, 3, H, V"), {"W": normal(4, 3, 3, 2)})
    assert MakePaddingExplicit().apply(model).sites == ("Y",)
    (conv,) = model.graph
    assert "auto_pad" not in conv.attributes
    assert list(conv.attributes["pads"].as_ints()) == [1, 0, 1, 1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    op=st.sampled_from(["Conv", "MaxPool", "AveragePool", "ConvTranspose"]),
    auto=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(8, 13), st.integers(8, 13)),
)
def test_same_in_numbers(
    op: str, auto: str, kernel: tuple[int, int], strides: tuple[int, int], size: tuple[int, int]
) -> None:
    # ONNX Runtime refuses SAME pools whose stride is above the kernel; nothing to compare with.
    assume("Pool" not in op or all(s <= k for s, k in zip(strides, kernel, strict=True)))
    geometry = f'auto_pad = "{auto}", strides = {list(strides)}, kernel_shape = {list(kernel)}'
    weights = {} if "Pool" in op else {"W": normal(3, 3, *kernel)}
    call = f"{op}<{geometry}>(X{', W' * bool(weights)})"
    text = f"g (float[N, 3, {size[0]}, {size[1]}] X) => (float[N, 3, h, w] Y) {{ Y = {call} }}"
    before, after = graph(text, weights), graph(text, weights)
    outcome = MakePaddingExplicit().apply(after)
    assert outcome.sites or outcome.refusals
    assert_sound(MakePaddingExplicit(), before, after)


@given(
    n=st.integers(1, 40), k=st.integers(1, 7), s=st.integers(1, 4), d=st.integers(1, 3), upper=st.booleans()
)
def test_same_keeps_its_promise(n: int, k: int, s: int, d: int, upper: bool) -> None:
    """SAME means ceil(n / stride) outputs (TensorFlow's definition); the odd pad goes to the named side."""
    begin, end = same_pads([n], [k], [s], [d], upper=upper)
    assert (n + begin + end - (k - 1) * d - 1) // s + 1 >= -(-n // s)
    if begin + end:
        assert (n + begin + end - (k - 1) * d - 1) // s + 1 == -(-n // s)
        assert (n + begin + end - 1 - (k - 1) * d - 1) // s + 1 < -(-n // s), "one less would not do"
    assert (end - begin if upper else begin - end) in (0, 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    op=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    size=st.tuples(st.integers(8, 11), st.integers(8, 11)),
)
def test_any_border(
    op: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: int,
    pads: tuple[int, ...],
    size: tuple[int, int],
) -> None:
    geometry = f"strides = {list(strides)}, kernel_shape = {list(kernel)}"
    if op != "AveragePool":
        geometry += f", dilations = [{dilation}, {dilation}]"
    weights = {"p": np.asarray([0, 0, *pads[:2], 0, 0, *pads[2:]], dtype=np.int64)}
    if op == "Conv":
        weights["W"] = normal(3, 3, *kernel)
    text = (
        f"g (float[N, 3, {size[0]}, {size[1]}] X) => (float[N, 3, h, w] Y) "
        f"{{ R = Relu(X) P = Pad(R, p) Y = {op}<{geometry}>(P{', W' if op == 'Conv' else ''}) }}"
    )
    before, after = graph(text, weights), graph(text, weights)
    outcome = FoldPads().apply(after)
    assert outcome.sites or outcome.refusals
    assert_sound(FoldPads(), before, after)
