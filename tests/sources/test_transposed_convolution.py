"""Pads of a transposed convolution against its definition: the gradient of a convolution."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.tf.handlers.transposed_convolution import axis_pads


def _by_definition(x: np.ndarray, kernel: np.ndarray, stride: int, begin: int, size: int) -> np.ndarray:
    """Scatter each input through the kernel: output[i·s + j − begin] += x[i]·w[j], where it lies inside."""
    out = np.zeros(size)
    for i, value in enumerate(x):
        for j, weight in enumerate(kernel):
            if 0 <= i * stride + j - begin < size:
                out[i * stride + j - begin] += value * weight
    return out


@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 5),
    size=st.integers(1, 20),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
)
def test_explicit_pads_cut_what_the_definition_keeps(
    kernel: int, stride: int, size: int, before: int, after: int
) -> None:
    if size + before + after < kernel or before >= kernel or after >= kernel:
        return
    count = (size + before + after - kernel) // stride + 1  # of the forward convolution
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=count), rng.normal(size=kernel)
    full = (count - 1) * stride + kernel
    pads = axis_pads(full, size, before)
    complete = np.zeros(full + pads.output_padding)
    for i, value in enumerate(x):
        complete[i * stride : i * stride + kernel] += value * weights
    got = complete[pads.begin : len(complete) - pads.end]
    assert len(got) == size
    assert min(pads.begin, pads.end, pads.output_padding) >= 0
    assert pads.output_padding < stride + kernel
    np.testing.assert_allclose(got, _by_definition(x, weights, stride, before, size))


@given(kernel=st.integers(1, 7), stride=st.integers(1, 5), size=st.integers(1, 30))
def test_same_pads_mirror_those_of_the_forward_convolution(kernel: int, stride: int, size: int) -> None:
    count = -(-size // stride)
    total = max((count - 1) * stride + kernel - size, 0)  # TensorFlow's definition of SAME
    pads = axis_pads((count - 1) * stride + kernel, size, None)
    assert (pads.begin, pads.end) == (total // 2, total - total // 2)
    assert (count - 1) * stride + kernel + pads.output_padding - pads.begin - pads.end == size
