"""Sizes that another model fixes."""

from __future__ import annotations

import pytest

from optim.contract import TensorSpec
from pipeline.fixed_sizes import fixed_by


@pytest.mark.parametrize(
    ("mine", "other", "found"),
    [
        ((None, "h", 3), (4, 8, 3), (4, 8, 3)),
        ((None, "h", 3), (None, "w", 3), (None, "h", 3)),
        ((2, "h", 3), (4, 8, 3), (2, 8, 3)),  # what is fixed stays; that they part is found elsewhere
        ((None, 3), (4, 8, 3), (None, 3)),
    ],
)
def test_sizes_that_another_model_fixes_are_taken_where_free(
    mine: tuple[int | str | None, ...],
    other: tuple[int | str | None, ...],
    found: tuple[int | str | None, ...],
) -> None:
    specs = [TensorSpec("x", "float32", mine), TensorSpec("y", "float32", mine)]
    ours = fixed_by(specs, [TensorSpec("x", "float32", other)])
    assert [one.shape for one in ours] == [found, mine]
