"""Upgrades of old opsets against an oracle that reads the old definition: ONNX Runtime at the old opset, or,
below opset 7, which it does not implement, the operator's definition in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.defs
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.contract import Array
from optim.errors import UnsupportedModelError
from pipeline.sources.onnx_upgrade import upgrade
from pipeline.sources.onnx_upgrade.transitions import ADAPTERS, NEWEST_OPSET, SAME

RNG = np.random.default_rng(5)
NumPy = Callable[..., Array]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass
class Case:
    """``text`` is a graph in ONNX's text format, ``feeds`` its inputs."""

    title: str
    opset: int
    text: str
    feeds: Mapping[str, Array]
    expected: NumPy | None = None
    ops: tuple[str, ...] = ()  # operators at opset 18, where the test is about the form
    constants: Mapping[str, Array] = field(default_factory=dict)
    bound: float = 0.0
    highest: int = NEWEST_OPSET  # of the opsets that ONNX Runtime implements


def _spread(b: Array, a: Array, axis: int) -> Array:
    return b.reshape(b.shape + (1,) * (a.ndim - axis - b.ndim))


def _mean_inside(x: Array) -> Array:
    ones, padded = np.ones_like(x), ((0, 0), (0, 0), (1, 1), (1, 1))

    def sums(a: Array) -> Array:
        p = np.pad(a, padded)
        return p[..., :-1, :-1] + p[..., 1:, :-1] + p[..., :-1, 1:] + p[..., 1:, 1:]

    return sums(x) / sums(ones)


def _prelu_behind_convolution(x: Array, w: Array, s: Array) -> Array:
    c = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0])
    return np.where(c > 0, c, c * s[:, None, None])


A = normal(2, 3, 4, 5)
BEFORE_7 = [
    Case(
        f"{op} along an axis",
        6,
        f"""g (float[2,3,4,5] a, float[3,4] b) => (float[2,3,4,5] y) {{
            y = {op} <axis=1, broadcast=1> (a, b)
        }}""",
        {"a": np.abs(A) + 0.5, "b": np.abs(normal(3, 4)) + 0.5},
        lambda a, b, function=function: function(a, _spread(b, a, 1)),
        ("Unsqueeze", op),
    )
    for op, function in (
        ("Add", np.add),
        ("Sub", np.subtract),
        ("Mul", np.multiply),
        ("Div", np.divide),
    )
] + [
    Case(
        "Pow along a negative axis",
        6,
        "g (float[2,3,4,5] a, float[4] b) => (float[2,3,4,5] y) { y = Pow <axis=-2, broadcast=1> (a, b) }",
        {"a": np.abs(A) + 0.5, "b": np.abs(normal(4))},
        lambda a, b: a ** _spread(b, a, 2),
        ("Unsqueeze", "Pow"),
        bound=1e-6,
    ),
    Case(
        "Add behind Add: the shape of the first is known",
        6,
        """g (float[2,3,4,5] a, float[3] b, float[4] c) => (float[2,3,4,5] y) {
            t = Add <axis=1, broadcast=1> (a, b)
            y = Mul <axis=2, broadcast=1> (t, c)
        }""",
        {"a": A, "b": normal(3), "c": normal(4)},
        lambda a, b, c: (a + _spread(b, a, 1)) * _spread(c, a, 2),
    ),
    Case(
        "Greater along an axis",
        6,
        "g (float[2,3,4,5] a, float[3] b) => (bool[2,3,4,5] y) { y = Greater <axis=1, broadcast=1> (a, b) }",
        {"a": A, "b": normal(3)},
        lambda a, b: a > _spread(b, a, 1),
    ),
    Case(
        "PRelu with a slope for each channel",
        6,
        "g (float[2,3,4,5] x, float[3] s) => (float[2,3,4,5] y) { y = PRelu (x, s) }",
        {"x": A, "s": normal(3)},
        lambda x, s: np.where(x > 0, x, x * s[:, None, None]),
        ("Unsqueeze", "PRelu"),
    ),
    Case(
        "PRelu with one slope",
        6,
        "g (float[2,3,4,5] x, float[1] s) => (float[2,3,4,5] y) { y = PRelu (x, s) }",
        {"x": A, "s": normal(1)},
        lambda x, s: np.where(x > 0, x, x * s),
        ("PRelu",),
    ),
    Case(
        "PRelu behind a convolution",
        6,
        """g (float[1,2,5,5] x, float[3,2,1,1] w, float[3] s) => (float[1,3,5,5] y) {
            c = Conv (x, w)
            y = PRelu (c, s)
        }""",
        {"x": normal(1, 2, 5, 5), "w": normal(3, 2, 1, 1), "s": normal(3)},
        _prelu_behind_convolution,
        bound=1e-6,
    ),
    Case(
        "Gemm with a row to add",
        6,
        "g (float[2,3] a, float[3,4] b, float[4] c) => (float[2,4] y) { y = Gemm <broadcast=1> (a, b, c) }",
        {"a": normal(2, 3), "b": normal(3, 4), "c": normal(4)},
        lambda a, b, c: a @ b + c,
        ("Gemm",),
        bound=1e-6,
    ),
    Case(
        "BatchNormalization with is_test",
        6,
        """g (float[2,3,4,4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3,4,4] y) {
            y = BatchNormalization <is_test=1, epsilon=0.01> (x, s, b, m, v)
        }""",
        {"x": normal(2, 3, 4, 4), "s": normal(3), "b": normal(3), "m": normal(3), "v": np.abs(normal(3))},
        lambda x, s, b, m, v: (
            (x - m[:, None, None]) / np.sqrt(v[:, None, None] + 0.01) * s[:, None, None] + b[:, None, None]
        ),
        ("BatchNormalization",),
        bound=1e-5,
    ),
    Case(
        "Dropout is the identity",
        6,
        "g (float[2,3] x) => (float[2,3] y) { y = Dropout <is_test=1, ratio=0.4> (x) }",
        {"x": normal(2, 3)},
        lambda x: x,
        ("Identity",),
    ),
    Case(
        "AveragePool leaves its padding out",
        6,
        """g (float[1,1,3,3] x) => (float[1,1,4,4] y) {
            y = AveragePool <kernel_shape=[2,2], pads=[1,1,1,1]> (x)
        }""",
        {"x": normal(1, 1, 3, 3)},
        _mean_inside,
        bound=1e-6,
    ),
    Case(
        "experimental Affine, Scale, ScaledTanh",
        6,
        """g (float[2,3] x) => (float[2,3] y) {
            a = Affine <alpha=2.0, beta=0.5> (x)
            s = Scale <scale=3.0> (a)
            y = ScaledTanh <alpha=1.5, beta=0.25> (s)
        }""",
        {"x": normal(2, 3)},
        lambda x: 1.5 * np.tanh(0.25 * (3 * (2 * x + 0.5))),
        bound=1e-6,
    ),
    Case(
        "experimental ImageScaler and Crop",
        6,
        """g (float[1,2,5,6] x) => (float[1,2,3,2] y) {
            i = ImageScaler <scale=0.5, bias=[1.0, -1.0]> (x)
            y = Crop <border=[1,0,3,2]> (i)
        }""",
        {"x": normal(1, 2, 5, 6)},
        lambda x: (x * 0.5 + np.array([1, -1], np.float32).reshape(1, 2, 1, 1))[:, :, 0:3, 1:3],
    ),
    Case(
        "experimental ParametricSoftplus",
        6,
        "g (float[2,3] x) => (float[2,3] y) { y = ParametricSoftplus <alpha=2.0, beta=0.5> (x) }",
        {"x": normal(2, 3)},
        lambda x: 2.0 * np.log1p(np.exp(0.5 * x)),
        bound=1e-6,
    ),
]


FROM_7 = [
    Case(
        f"{op} over axes {axis} and behind",
        9,
        f"g (float[2,3,4,5] x) => (float[2,3,4,5] y) {{ y = {op} <axis={axis}> (x) }}",
        {"x": A},
        bound=1e-6,
    )
    for op in ("Softmax", "LogSoftmax", "Hardmax")
    for axis in (0, 1, 2, 3)
] + [
    Case(
        "Softmax whose flattened axes have one element",
        9,
        "g (float[2,6,1,1] x) => (float[2,6,1,1] y) { y = Softmax (x) }",
        {"x": normal(2, 6, 1, 1)},
        None,
        ("Softmax",),
        bound=1e-6,
    ),
    Case(
        "Softmax of unknown shape",
        11,
        "g (float[N,C,H,W] x) => (float[N,C,H,W] y) { y = Softmax <axis=-3> (x) }",
        {"x": A},
        None,
        ("Shape", "Flatten", "Softmax", "Reshape"),
        bound=1e-6,
    ),
    Case(
        "Clip",
        9,
        "g (float[2,3] x) => (float[2,3] y) { y = Clip <min=-0.5, max=0.25> (x) }",
        {"x": normal(2, 3)},
        None,
        ("Clip",),
    ),
    Case(
        "Clip with one bound",
        9,
        "g (float[2,3] x) => (float[2,3] y) { y = Clip <max=0.25> (x) }",
        {"x": normal(2, 3)},
    ),
    Case(
        "Slice",
        9,
        "g (float[4,5,6] x) => (float[2,5,3] y) { y = Slice <starts=[1,-4], ends=[3,-1], axes=[0,2]> (x) }",
        {"x": normal(4, 5, 6)},
    ),
    Case(
        "Pad",
        9,
        """g (float[1,2,3,3] x) => (float[1,2,6,5] y) {
            y = Pad <mode="constant", pads=[0,0,1,2,0,0,2,0], value=1.5> (x)
        }""",
        {"x": normal(1, 2, 3, 3)},
    ),
    Case(
        "Pad by reflection",
        9,
        'g (float[1,2,3,3] x) => (float[1,2,5,4] y) { y = Pad <mode="reflect", pads=[0,0,1,1,0,0,1,0]> (x) }',
        {"x": normal(1, 2, 3, 3)},
    ),
    Case(
        "Squeeze and Unsqueeze",
        11,
        """g (float[2,1,3] x) => (float[1,2,3,1] y) {
            s = Squeeze <axes=[1]> (x)
            y = Unsqueeze <axes=[0,3]> (s)
        }""",
        {"x": normal(2, 1, 3)},
    ),
    Case(
        "Squeeze of all", 11, "g (float[2,1,1] x) => (float[2] y) { y = Squeeze (x) }", {"x": normal(2, 1, 1)}
    ),
    Case(
        "Split by sizes",
        11,
        "g (float[2,5] x) => (float[2,2] y, float[2,3] z) { y, z = Split <axis=1, split=[2,3]> (x) }",
        {"x": normal(2, 5)},
    ),
    Case(
        "Split into equal parts",
        11,
        "g (float[2,6] x) => (float[2,3] y, float[2,3] z) { y, z = Split <axis=-1> (x) }",
        {"x": normal(2, 6)},
    ),
    *(
        Case(
            f"{op} {attributes}",
            11,
            f"g (float[2,3,4] x) => (float{shape} y) {{ y = {op} <{attributes}> (x) }}",
            {"x": np.abs(normal(2, 3, 4)) + 0.1},
            bound=1e-5,
        )
        for op in ("ReduceSum", "ReduceMean", "ReduceL2", "ReduceMax", "ReduceLogSumExp", "ReduceProd")
        for attributes, shape in (
            ("axes=[1], keepdims=0", "[2,4]"),
            ("axes=[0,-1]", "[1,3,1]"),
            ("keepdims=1", "[1,1,1]"),
        )
    ),
    Case(
        "TopK",
        9,
        "g (float[2,6] x) => (float[2,3] y, int64[2,3] i) { y, i = TopK <axis=1, k=3> (x) }",
        {"x": normal(2, 6)},
    ),
    *(
        Case(
            f"Upsample {mode}",
            8,
            f"""g (float[1,1,3,4] x) => (float[1,1,6,12] y) {{
                y = Upsample <mode="{mode}", scales=[1.0,1.0,2.0,3.0]> (x)
            }}""",
            {"x": normal(1, 1, 3, 4)},
            bound=1e-6,
        )
        for mode in ("nearest", "linear")
    ),
    Case(
        "Upsample-9 with scales as an input",
        9,
        'g (float[1,1,3,4] x, float[4] s) => (float[1,1,H,W] y) { y = Upsample <mode="nearest"> (x, s) }',
        {"x": normal(1, 1, 3, 4), "s": np.array([1, 1, 1.5, 2], np.float32)},
    ),
    *(
        Case(
            f"Resize-10 {mode} by {scales}",
            10,
            f'g (float[1,1,6,7] x) => (float[1,1,H,W] y) {{ y = Resize <mode="{mode}"> (x, s) }}',
            {"x": normal(1, 1, 6, 7)},
            constants={"s": np.array([1, 1, *scales], np.float32)},
            bound=1e-6,
        )
        for mode in ("nearest", "linear")
        for scales in ((2.0, 1.5), (0.5, 0.6), (2.0, 0.5), (0.4, 3.0))
    ),
    Case(
        "Resize with half pixels as TensorFlow rounds them",
        11,
        """g (float[1,1,5,4] x) => (float[1,1,8,3] y) {
            y = Resize <mode="nearest", coordinate_transformation_mode="tf_half_pixel_for_nn",
                nearest_mode="floor"> (x, r, e, s)
        }""",
        {"x": normal(1, 1, 5, 4)},
        constants={
            "r": np.zeros(0, np.float32),
            "e": np.zeros(0, np.float32),
            "s": np.array([1, 1, 8, 3], np.int64),
        },
    ),
    Case(
        "BatchNormalization with statistics for each activation",
        8,
        """g (float[2,3,2] x, float[3,2] s, float[3,2] b, float[3,2] m, float[3,2] v) => (float[2,3,2] y) {
            y = BatchNormalization <spatial=0, epsilon=0.001> (x, s, b, m, v)
        }""",
        {
            **{"x": normal(2, 3, 2), "s": normal(3, 2), "b": normal(3, 2), "m": normal(3, 2)},
            **{"v": np.abs(normal(3, 2))},
        },
        lambda x, s, b, m, v: (x - m) / np.sqrt(v + 0.001) * s + b,
        bound=1e-5,
    ),
    Case(
        "Dropout with a ratio",
        9,
        "g (float[2,3] x) => (float[2,3] y) { y = Dropout <ratio=0.7> (x) }",
        {"x": normal(2, 3)},
        None,
        ("Identity",),
    ),
    Case(
        "Scatter",
        9,
        "g (float[3,3] x, int64[2,3] i, float[2,3] u) => (float[3,3] y) { y = Scatter <axis=0> (x, i, u) }",
        {"x": normal(3, 3), "i": np.array([[1, 0, 2], [0, 2, 1]]), "u": normal(2, 3)},
        None,
        ("ScatterElements",),
    ),
    Case(
        "RoiAlign without the half pixel",
        10,
        """g (float[1,1,6,6] x, float[1,4] r, int64[1] i) => (float[1,1,2,2] y) {
            y = RoiAlign <output_height=2, output_width=2, sampling_ratio=2> (x, r, i)
        }""",
        {"x": normal(1, 1, 6, 6), "r": np.array([[0.5, 1, 4, 5]], np.float32), "i": np.array([0])},
        highest=18,
        bound=1e-6,
    ),
    Case(
        "Scan over a batch",
        8,
        """g (float[2,3] s, float[2,4,3] x) => (float[2,3] last, float[2,4,3] all) {
            last, all = Scan <num_scan_inputs=1, body = b (float[3] before, float[3] item) =>
                (float[3] after, float[3] seen) {
                after = Add (before, item)
                seen = Identity (after)
            }> ("", s, x)
        }""",
        {"s": normal(2, 3), "x": normal(2, 4, 3)},
    ),
    Case(
        "inside a branch",
        11,
        """g (bool c, float[2,3,4] x) => (float[2,4] y) {
            y = If (c) <
                then_branch = t () => (float[2,4] a) { a = ReduceSum <axes=[1], keepdims=0> (x) },
                else_branch = e () => (float[2,4] b) { b = ReduceMax <axes=[1], keepdims=0> (x) }
            >
        }""",
        {"c": np.array(True), "x": normal(2, 3, 4)},
        bound=1e-6,
    ),
]


def parse(case: Case) -> ir.Model:
    header = f'<ir_version: 7, opset_import: ["" : {case.opset}]>\n'
    proto = onnx.parser.parse_model(header + case.text)
    for name, array in case.constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def evaluate(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    data = ir.to_proto(model).SerializeToString()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


@pytest.mark.parametrize("target", [13, 18, NEWEST_OPSET])
@pytest.mark.parametrize("case", [*BEFORE_7, *FROM_7], ids=lambda case: case.title)
def test_numbers_stay(case: Case, target: int) -> None:
    target = min(target, case.highest)
    if case.expected is not None:
        expected = [case.expected(*case.feeds.values())]
    else:
        expected = evaluate(parse(case), case.feeds)
    model = parse(case)
    done = upgrade(model, target)
    assert (done.opset_before, done.opset) == (case.opset, target)
    model.ir_version = 10
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    got = evaluate(model, case.feeds)
    assert len(got) == len(expected)
    for ours, reference in zip(got, expected, strict=True):
        assert ours.shape == reference.shape
        assert ours.dtype == reference.dtype
        if case.bound:
            np.testing.assert_allclose(ours, reference, rtol=case.bound, atol=case.bound)
        else:
            np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("case", [c for c in [*BEFORE_7, *FROM_7] if c.ops], ids=lambda case: case.title)
def test_form_at_opset_18(case: Case) -> None:
    model = parse(case)
    upgrade(model, 18)
    assert tuple(node.op_type for node in model.graph) == case.ops
    again = ir.to_proto(model).SerializeToString()
    upgrade(model, 18)
    assert ir.to_proto(model).SerializeToString() == again


def test_every_change_in_the_history_of_onnx_is_covered() -> None:
    versions: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, set()).add(schema.since_version)
    changes = {(op, v) for op, since in versions.items() for v in sorted(since)[1:] if v <= NEWEST_OPSET}
    covered = set(ADAPTERS) | {(op, v) for op, since in SAME.items() for v in since}
    assert changes - covered == set()
    assert not set(ADAPTERS) & {(op, v) for op, since in SAME.items() for v in since}


@pytest.mark.parametrize(
    ("title", "opset", "text", "target", "reason"),
    [
        (
            "training outputs of BatchNormalization are read",
            9,
            """g (float[2,3] x, float[3] s, float[3] b, float[3] m, float[3] v)
                => (float[2,3] y, float[3] n) {
                y, n, o, p, q = BatchNormalization (x, s, b, m, v)
            }""",
            18,
            "training output",
        ),
        (
            "Scan with sequence lengths",
            8,
            """g (int64[2] l, float[2,3] s, float[2,4,3] x) => (float[2,3] last) {
                last = Scan <num_scan_inputs=1, body = b (float[3] before, float[3] item)
                    => (float[3] after) {
                    after = Add (before, item)
                }> (l, s, x)
            }""",
            18,
            "sequence lengths",
        ),
        (
            "nearest by scales of run time",
            10,
            'g (float[1,1,6,7] x, float[4] s) => (float[1,1,H,W] y) { y = Resize <mode="nearest"> (x, s) }',
            18,
            "run time",
        ),
        (
            "average pool with ceil_mode and padding counted",
            11,
            """g (float[1,1,5,5] x) => (float[1,1,H,W] y) {
                y = AveragePool <kernel_shape=[2,2], strides=[2,2], ceil_mode=1, count_include_pad=1> (x)
            }""",
            19,
            "ceil_mode",
        ),
        ("an opset nobody knows", 11, "g (float[2] x) => (float[2] y) { y = Relu (x) }", 99, "newest"),
    ],
)
def test_refusals_give_the_reason(title: str, opset: int, text: str, target: int, reason: str) -> None:
    model = parse(Case(title, opset, text, {}))
    with pytest.raises(UnsupportedModelError, match=reason):
        upgrade(model, target)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda rank: st.tuples(
            st.lists(st.integers(1, 4), min_size=rank, max_size=rank),
            st.integers(0, rank - 1),
            st.integers(0, rank),
        )
    )
)
def test_old_broadcasting_of_any_shape(drawn: tuple[list[int], int, int]) -> None:
    shape, axis, length = drawn
    part = shape[axis : axis + max(length, 1)]
    dims, inner = ",".join(map(str, shape)), ",".join(map(str, part))
    operation = f"y = Sub <axis={axis}, broadcast=1> (a, b)"
    text = f"g (float[{dims}] a, float[{inner}] b) => (float[{dims}] y) {{ {operation} }}"
    rng = np.random.default_rng(0)
    a = rng.standard_normal(shape).astype(np.float32)
    b = rng.standard_normal(part).astype(np.float32)
    model = parse(Case("", 6, text, {}))
    upgrade(model, 18)
    np.testing.assert_array_equal(evaluate(model, {"a": a, "b": b})[0], a - _spread(b, a, axis))
