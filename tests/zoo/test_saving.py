"""The zoo's files are whole, plain and reproducible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Zoo = Callable[[str], ModuleType]


def test_arrays_come_back_and_twice_give_the_same_bytes(zoo: Zoo, tmp_path: Path) -> None:
    arrays = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4), "y": np.asarray([1, 2, 3], np.int64)}
    first, second = (zoo("saving").save_arrays(tmp_path / name, **arrays) for name in ("a.npz", "b.npz"))
    assert first.read_bytes() == second.read_bytes()
    with np.load(first, allow_pickle=False) as back:
        assert back.files == ["x", "y"]
        for key, array in arrays.items():
            np.testing.assert_array_equal(back[key], array)
            assert back[key].dtype == array.dtype


def test_objects_are_refused_and_leave_no_file(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        zoo("saving").save_arrays(tmp_path / "a.npz", x=np.asarray([{}], object))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(zoo: Zoo, tmp_path: Path) -> None:
    path = zoo("saving").save_lines(tmp_path / "labels.txt", ["one", "two"])
    with pytest.raises(TypeError):
        zoo("saving").write_whole(path, "text, not bytes")
    assert path.read_text() == "one\ntwo\n"
    assert [item.name for item in tmp_path.iterdir()] == ["labels.txt"]
