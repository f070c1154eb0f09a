"""The TFLite source as a whole: names, shapes, refusals, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optim.errors import FairleadError, UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite import TfliteSource
from tests.sources.tflite_builder import OneOp, Operand, write, write_unchecked

pytest.importorskip("ai_edge_litert")


def relu(path: Path, signature: tuple[int, ...] | None = None) -> Path:
    x = Operand("in:0", (1, 4), signature=signature)
    return write(OneOp("RELU", [x], [Operand("out:0", ())]), path)


def test_names_and_free_dimensions_survive(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.tflite", (-1, 4))
    graph = TfliteSource().convert(ConvertRequest(str(path))).model.graph
    assert [value.name for value in graph.inputs] == ["in:0"]
    assert [value.name for value in graph.outputs] == ["out:0"]
    assert not isinstance(graph.inputs[0].shape[0], int)
    assert graph.inputs[0].shape[1] == 4


def test_a_given_shape_fixes_a_free_dimension(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.tflite", (-1, 4))
    graph = TfliteSource().convert(ConvertRequest(str(path), inputs={"in:0": (3, 4)})).model.graph
    assert list(graph.inputs[0].shape) == [3, 4]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"nothing": (1, 4)}, "no input nothing"),
        ({"in:0": (1, 4, 1)}, "rank 3"),
        ({"in:0": (1, 5)}, "built for"),
    ],
)
def test_wrong_shapes_are_the_users_mistake(
    inputs: dict[str, tuple[int, ...]], says: str, tmp_path: Path
) -> None:
    path = relu(tmp_path / "m.tflite")
    with pytest.raises(UserError, match=says):
        TfliteSource().convert(ConvertRequest(str(path), inputs=inputs))


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    case = OneOp("CUSTOM", [Operand("x", (1, 4))], [Operand("y", (1, 4))], custom="FlexTricks")
    path = write_unchecked(case, tmp_path / "m.tflite")
    with pytest.raises(UnsupportedModelError, match="FlexTricks") as caught:
        TfliteSource().convert(ConvertRequest(str(path)))
    assert caught.value.op == "FlexTricks"
    assert caught.value.node == "y"


def test_a_file_that_tflite_itself_cannot_run_is_not_the_users_input(tmp_path: Path) -> None:
    """Its kernel knows float32 and int32 only, yet converters write it with 16-bit operands."""
    operands = [Operand(name, (1, 4), "int16", scales=[0.1], zero_points=[0]) for name in ("a", "b")]
    result = Operand("y", (1, 4), "int16", scales=[0.1], zero_points=[0])
    case = OneOp("SQUARED_DIFFERENCE", operands, [result], "SquaredDifference")
    path = write_unchecked(case, tmp_path / "m.tflite")
    with TfliteSource().open(ConvertRequest(str(path))) as session:
        feeds = {spec.name: np.ones((1, 4), np.int16) for spec in session.inputs}
        with pytest.raises(UnsupportedModelError, match="cannot run the model") as refused:
            session.run(feeds)
    assert refused.value.op == "SQUARED_DIFFERENCE"


def test_a_missing_file_and_no_tflite_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        TfliteSource().convert(ConvertRequest(str(tmp_path / "nothing.tflite")))
    (tmp_path / "other.tflite").write_bytes(b"not a flatbuffer, but long enough")
    with pytest.raises(UserError, match="no TFLite model"):
        TfliteSource().convert(ConvertRequest(str(tmp_path / "other.tflite")))


def test_damaged_files_end_in_a_deliberate_error(tmp_path: Path) -> None:
    """Cut short or with bytes turned: never a crash, never anything but our own errors."""
    whole = relu(tmp_path / "m.tflite").read_bytes()
    damaged = tmp_path / "damaged.tflite"
    rng = np.random.default_rng(0)
    outcomes = set()
    for length in range(8, len(whole), 16):
        damaged.write_bytes(whole[:length])
        outcomes.add(_outcome(damaged))
    for _ in range(100):
        broken = bytearray(whole)
        for place in rng.integers(8, len(whole), 4):
            broken[place] = int(rng.integers(0, 256))
        damaged.write_bytes(bytes(broken))
        outcomes.add(_outcome(damaged))
    assert "UserError" in outcomes


def _outcome(path: Path) -> str:
    try:
        TfliteSource().convert(ConvertRequest(str(path)))
    except FairleadError as error:
        return type(error).__name__
    return "converted"
