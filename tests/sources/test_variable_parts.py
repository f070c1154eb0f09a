"""The place of a part within its variable, as a checkpoint's restore ops write it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.tf1_checkpoint import _part


@pytest.mark.parametrize("text", ["", " "])
def test_no_place_means_the_whole_variable(text: str) -> None:
    assert _part(text) is None


@given(
    st.lists(
        st.integers(1, 9).flatmap(
            lambda size: st.one_of(
                st.just((size, None)),
                st.integers(0, size - 1).flatmap(
                    lambda start: st.tuples(
                        st.just(size), st.tuples(st.just(start), st.integers(1, size - start))
                    )
                ),
            )
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_place_selects_its_rows_and_columns(axes: list[tuple[int, tuple[int, int] | None]]) -> None:
    sizes = [size for size, _ in axes]
    ranges = ["-" if bounds is None else f"{bounds[0]},{bounds[1]}" for _, bounds in axes]
    whole = np.arange(np.prod(sizes)).reshape(sizes)
    part = whole[_part(f"{' '.join(map(str, sizes))} {':'.join(ranges)}")]
    starts = [0 if bounds is None else bounds[0] for _, bounds in axes]
    lengths = [size if bounds is None else bounds[1] for size, bounds in axes]
    assert list(part.shape) == lengths
    assert part.flat[0] == whole[tuple(starts)]
    last = tuple(start + length - 1 for start, length in zip(starts, lengths, strict=True))
    assert part.flat[-1] == whole[last]
