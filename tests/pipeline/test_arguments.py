"""Command-line words to typed values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optim.errors import UserError
from pipeline.arguments import convert_request, key_values, parse_inputs, read_io


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("x", {"x": None}),
        ("x:0[1,2,3]", {"x:0": (1, 2, 3)}),
        ("a/b:0[1,224,224,3], c[1,10]", {"a/b:0": (1, 224, 224, 3), "c": (1, 10)}),
        ("a[-1,?,3],b", {"a": (-1, -1, 3), "b": None}),
        ("scalar[]", {"scalar": ()}),
    ],
)
def test_parse_inputs(text: str, expected: dict[str, tuple[int, ...] | None]) -> None:
    assert parse_inputs(text) == expected


@pytest.mark.parametrize("text", ["a[1,2", "[1,2]", "a[1,x]", "a[0]", "a[-3]", "a b", "a[1]b[2]"])
def test_parse_inputs_refuses(text: str) -> None:
    with pytest.raises(UserError, match="--inputs"):
        parse_inputs(text)


def test_key_values() -> None:
    assert key_values(["a=1", "b=true", "c=1.5", "d=x:0", "e=1e-3"]) == {
        "a": 1,
        "b": True,
        "c": 1.5,
        "d": "x:0",
        "e": 1e-3,
    }
    for bad in ("a", "=1", "a=[1]", "a="):
        with pytest.raises(UserError):
            key_values([bad])


def test_convert_request() -> None:
    request = convert_request("m.pb", inputs="x:0[1,4]", outputs="a:0, b:0", freeze=["keep_prob:0=1.0"])
    assert request.outputs == ("a:0", "b:0")
    assert request.freeze == {"keep_prob:0": 1.0}
    with pytest.raises(UserError, match="not a number"):
        convert_request("m.pb", freeze=["keep_prob=high"])
    with pytest.raises(UserError, match="source, nhwc, nchw"):
        convert_request("m.pb", edge_layout="chwn")


def test_read_io(tmp_path: Path) -> None:
    file = tmp_path / "io.npz"
    arrays = {"in|x:0": np.ones(2), "out|y:0": np.zeros(1), "z": np.arange(3)}
    np.savez(file, **arrays)
    inputs, outputs = read_io(file)
    assert set(inputs) == {"x:0", "z"}
    assert set(outputs) == {"y:0"}


def test_read_io_never_unpickles(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    file = tmp_path / "io.npz"
    np.savez(file, **{"in|x": np.array([Trap()], dtype=object)})
    with pytest.raises(UserError, match="plain arrays"):
        read_io(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_read_io_refuses_damage(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "io.npz"
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a readable"):
        read_io(file)
    with pytest.raises(UserError, match="does not exist"):
        read_io(tmp_path / "none.npz")


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_read_io_refuses_inputs_that_are_not_finite(tmp_path: Path, hole: float, dtype: type) -> None:
    file = tmp_path / "io.npz"
    x = np.ones((2, 3), dtype)
    x[1, 2] = hole
    np.savez(file, **{"in|mask": np.ones(2, bool), "in|x:0": x, "out|y:0": x})
    with pytest.raises(UserError, match=r"1 value of the data for input 'x:0' is .* at \[1, 2\]") as refused:
        read_io(file)
    assert refused.value.where == str(file)
