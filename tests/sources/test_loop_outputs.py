"""Arrays carried through a Loop that become its stacked output, and those that must not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnx_ir as ir
import pytest
from onnx_ir import serde

from pipeline.sources.tf.loop_outputs import stack_loop_outputs

# n rounds of: array[PLACE] = x * (i + 1); the counter starts at START and grows by STEP.
_MODEL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[2] x, int64 n, float[N,2] given) => (float[M,2] y, int64 last)
<int64 start = {{{start}}}, int64 step = {{{step}}}, int64[1] first = {{0}}, int64[2] pair = {{1, 1}},
 int64[2] size = {{6, 2}}, float zero = {{{fill}}}>
{{
    yes = Constant <value = bool {{1}}> ()
    filled = Expand (zero, size)
    last, y = Loop (n, yes, start, {array}) <body = body (int64 round, bool going, int64 i, float[N,2] a)
        => (bool again, int64 next, float[N,2] b)
    {{
        again = Identity (going)
        next = Add (i, step)
        scale = Cast <to = 1> (next)
        value = Mul (x, scale)
        update = Unsqueeze (value, first)
        {place}
        b = ScatterND ({into}, index, update)
    }}>
}}
"""
_COUNTER = "index = Reshape (i, pair)"


def _model(
    start: int = 0, step: int = 1, fill: float = 0.0, array: str = "filled", place: str = _COUNTER,
    into: str = "a",
) -> onnx.ModelProto:  # fmt: skip
    text = _MODEL.format(start=start, step=step, fill=fill, array=array, place=place, into=into)
    proto = onnx.parser.parse_model(text)
    onnx.checker.check_model(proto)
    return proto


def _run(proto: onnx.ModelProto, rounds: int) -> list[np.ndarray]:
    feeds = {
        "x": np.array([1.5, -2.0], np.float32),
        "n": np.array(rounds, np.int64),
        "given": np.arange(12, dtype=np.float32).reshape(6, 2),
    }
    values: list[np.ndarray] = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    return values


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("zeros", {}),
        ("what was there stays behind", {"array": "given"}),
        ("filled with another number", {"fill": 7.0}),
        (
            "elements that get their shape in the first round",
            {
                "place": f"{_COUNTER}\n        shape = Shape (a)\n        wide = Expand (a, shape)",
                "into": "wide",
            },
        ),
    ],
)
def test_written_in_order_becomes_a_stacked_output(title: str, model: dict[str, str]) -> None:
    del title
    proto = _model(**model)  # type: ignore[arg-type]
    changed = serde.deserialize_model(proto)
    assert stack_loop_outputs(changed) == 1
    assert stack_loop_outputs(changed) == 0
    after = serde.serialize_model(changed)
    onnx.checker.check_model(after)
    ops = [node.op_type for node in ir.traversal.RecursiveGraphIterator(changed.graph)]
    assert "ScatterND" not in ops
    for rounds in (1, 3, 6):
        for want, got in zip(_run(proto, rounds), _run(after, rounds), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("starts behind the first element", {"start": 1}),
        ("every second element", {"step": 2}),
        (
            "backwards",
            {"place": "five = Constant <value = int64 {5}> ()\n        back = Sub (five, i)\n"
             "        index = Reshape (back, pair)"},
        ),
        (
            "the place is read from the array",
            {"place": "top = ReduceMax <keepdims = 0> (a)\n        cut = Mul (top, zero)\n"
             "        whole = Cast <to = 7> (cut)\n        index = Reshape (whole, pair)"},
        ),
    ],
)  # fmt: skip
def test_any_other_order_stays(title: str, model: dict[str, str]) -> None:
    del title
    changed = serde.deserialize_model(_model(**model))  # type: ignore[arg-type]
    before = serde.serialize_model(changed).SerializeToString()
    assert stack_loop_outputs(changed) == 0
    assert serde.serialize_model(changed).SerializeToString() == before
