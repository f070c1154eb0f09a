"""Convolution and pooling in float64 against loops written from the specification, and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from targets.float64 import windows

SMALL = settings(max_examples=60, deadline=None)


@st.composite
def geometries(draw: st.DrawFn, *, kernel_max: int = 3) -> dict[str, object]:
    rank = draw(st.integers(1, 3))
    ints = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    kernel, strides, dilations = ints(1, kernel_max), ints(1, 3), ints(1, 2)
    extent = windows.effective(kernel, dilations)
    spatial = tuple(e + draw(st.integers(0, 4)) for e in extent)
    pads = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in extent)
    return {
        "kernel": kernel,
        "strides": strides,
        "dilations": dilations,
        "spatial": spatial,
        "pads": pads,
        "group": draw(st.sampled_from([1, 2, 3])),
        "per_group": draw(st.integers(1, 2)),
        "multiplier": draw(st.integers(1, 2)),
        "batch": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def naive_conv(x, w, strides, dilations, pads, group):
    """y[n, m, p] = sum over c, k of w[m, c, k] * x_padded[n, group offset + c, p * stride + k * dilation]."""
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    n, m, kernel = x.shape[0], w.shape[0], w.shape[2:]
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(s - e) // t + 1 for s, e, t in zip(x.shape[2:], extent, strides, strict=True)]
    y = np.zeros((n, m, *out))
    for image, channel in itertools.product(range(n), range(m)):
        first = channel // (m // group) * w.shape[1]
        for place in np.ndindex(*out):
            for c in range(w.shape[1]):
                for tap in np.ndindex(*kernel):
                    at = tuple(
                        p * s + t * d for p, s, t, d in zip(place, strides, tap, dilations, strict=True)
                    )
                    y[(image, channel, *place)] += w[(channel, c, *tap)] * x[(image, first + c, *at)]
    return y


@given(geometries())
@SMALL
def test_conv_is_the_sum_of_its_definition(g):
    rng = np.random.default_rng(g["seed"])
    group = g["group"]
    x = rng.normal(size=(g["batch"], group * g["per_group"], *g["spatial"]))
    w = rng.normal(size=(group * g["multiplier"], g["per_group"], *g["kernel"]))
    bias = rng.normal(size=group * g["multiplier"])
    want = naive_conv(x, w, g["strides"], g["dilations"], g["pads"], group)
    want += bias.reshape(1, -1, *([1] * len(g["kernel"])))
    got = windows.conv(
        np, x, w, bias, strides=g["strides"], dilations=g["dilations"], pads=g["pads"], group=group
    )
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 50, 10_000])
def test_conv_does_not_depend_on_the_block_size(monkeypatch, elements):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 9, 7)), rng.normal(size=(4, 3, 3, 3))
    monkeypatch.setattr(windows, "COLUMN_ELEMENTS", elements)
    got = windows.conv(np, x, w, None, strides=(1, 1), dilations=(1, 1), pads=((1, 1), (1, 1)), group=1)
    want = np.stack([[sum(correlate(i[c], k[c], "same") for c in range(3)) for k in w] for i in x])
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 100, 1 << 20])
def test_depthwise_does_not_depend_on_the_block_size(monkeypatch, elements):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 6, 8, 8)), rng.normal(size=(6, 1, 3, 3))
    monkeypatch.setattr(windows, "TAP_ELEMENTS", elements)
    got = windows.conv(np, x, w, None, strides=(1, 1), dilations=(1, 1), pads=((1, 1), (1, 1)), group=6)
    want = np.stack([correlate(x[0, c], w[c, 0], "same") for c in range(6)])[None]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@given(geometries())
@SMALL
def test_conv_transpose_is_the_adjoint_of_conv(g):
    """<conv(u), v> = <u, conv_transpose(v)> for all u, v: the definition that frameworks share."""
    rng = np.random.default_rng(g["seed"])
    group = g["group"]
    u = rng.normal(size=(g["batch"], group * g["per_group"], *g["spatial"]))
    w = rng.normal(size=(group * g["multiplier"], g["per_group"], *g["kernel"]))
    shape = {"strides": g["strides"], "dilations": g["dilations"], "group": group}
    forward = windows.conv(np, u, w, None, pads=g["pads"], **shape)
    v = rng.normal(size=forward.shape)
    back = windows.conv_transpose(np, v, w, None, pads=g["pads"], lengths=g["spatial"], **shape)
    np.testing.assert_allclose((forward * v).sum(), (u * back).sum(), rtol=1e-9, atol=1e-9)


def naive_pool(x, kernel, strides, dilations, pads, out, reduce):
    y = np.zeros((*x.shape[:2], *out))
    for n, c in np.ndindex(*x.shape[:2]):
        for place in np.ndindex(*out):
            cells = []
            for tap in np.ndindex(*kernel):
                at = [
                    p * s + t * d - b
                    for p, s, t, d, (b, _) in zip(place, strides, tap, dilations, pads, strict=True)
                ]
                if all(0 <= a < size for a, size in zip(at, x.shape[2:], strict=True)):
                    cells.append(x[(n, c, *at)])
            y[(n, c, *place)] = reduce(cells)
    return y


@given(geometries(), st.booleans())
@SMALL
def test_pools_see_only_real_cells(g, ceil):
    rng = np.random.default_rng(g["seed"])
    x = rng.normal(size=(g["batch"], 2, *g["spatial"]))
    dilations = (1,) * len(g["kernel"])  # so that no window lies wholly in the padding
    pads = tuple((min(b, k - 1), min(e, k - 1)) for (b, e), k in zip(g["pads"], g["kernel"], strict=True))
    shape = {"kernel": g["kernel"], "strides": g["strides"], "dilations": dilations, "pads": pads}
    out = windows.output_lengths(x.shape[2:], g["kernel"], g["strides"], dilations, pads, ceil=ceil)
    args = (x, g["kernel"], g["strides"], dilations, pads, out)
    top = windows.reduce_windows(np, x, combine=np.maximum, fill=-np.inf, lengths=out, **shape)
    np.testing.assert_array_equal(top, naive_pool(*args, max))
    total = windows.reduce_windows(np, x, combine=np.add, fill=0.0, lengths=out, **shape)
    counts = windows.window_counts(np, x.shape[2:], lengths=out, include_pad=False, **shape)
    np.testing.assert_allclose(total / counts, naive_pool(*args, np.mean), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
@SMALL
def test_lrn_sums_the_neighbouring_channels(size, channels, seed):
    x = np.random.default_rng(seed).normal(size=(2, channels, 3))
    got = windows.local_response(np, x, size=size, alpha=0.3, beta=0.75, bias=2.0)
    for c in range(channels):
        low, high = max(0, c - (size - 1) // 2), min(channels - 1, c + -(-(size - 1) // 2))
        squares = (x[:, low : high + 1] ** 2).sum(axis=1)
        np.testing.assert_allclose(got[:, c], x[:, c] / (2.0 + 0.3 / size * squares) ** 0.75, rtol=1e-12)


@pytest.mark.parametrize(
    ("auto_pad", "size", "kernel", "stride", "want"),
    [
        ("SAME_UPPER", 28, 3, 2, (0, 1)),
        ("SAME_LOWER", 28, 3, 2, (1, 0)),
        ("SAME_UPPER", 7, 3, 2, (1, 1)),
        ("SAME_UPPER", 8, 1, 3, (0, 0)),
        ("VALID", 28, 3, 2, (0, 0)),
        ("NOTSET", 28, 3, 2, (4, 5)),
    ],
)
def test_auto_pad(auto_pad, size, kernel, stride, want):
    assert windows.resolve_pads(auto_pad, (4, 5), (size,), (kernel,), (stride,), (1,)) == (want,)


def test_the_known_pooling_example():
    """Pooling of the 4x4 map of the CNN introduction: 2x2, stride 2."""
    x = np.array([[1, 3, 2, 4], [1, 3, 2, 4], [5, 7, 6, 8], [5, 7, 6, 8]], dtype=float)[None, None]
    shape = {
        "kernel": (2, 2),
        "strides": (2, 2),
        "dilations": (1, 1),
        "pads": ((0, 0), (0, 0)),
        "lengths": (2, 2),
    }
    top = windows.reduce_windows(np, x, combine=np.maximum, fill=-np.inf, **shape)
    mean = windows.reduce_windows(np, x, combine=np.add, fill=0.0, **shape) / 4
    assert top[0, 0].tolist() == [[3, 4], [7, 8]]
    assert mean[0, 0].tolist() == [[2, 3], [6, 7]]
