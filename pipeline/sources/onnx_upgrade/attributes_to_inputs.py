"""Attributes that became inputs: Reshape-5, Slice-10, TopK-10, Clip-11, Pad-11, ReduceSum/Squeeze/…-13, …"""

from __future__ import annotations

import numpy as np

from pipeline.sources.onnx_upgrade.site import Adapter, Site


def integers_to_input(attribute: str, index: int) -> Adapter:
    """An adapter that turns the integer list ``attribute`` into int64 input ``index``."""

    def adapt(site: Site) -> None:
        values = site.take_ints(attribute)
        # An empty list meant the same as an absent one (all axes), as the absent input does now.
        if values:
            site.set_input(index, site.integers(values, attribute))

    return adapt


def slice_bounds(site: Site) -> None:
    """Slice-1 → Slice-10: ``starts, ends, axes`` become inputs 1, 2, 3."""
    starts, ends, axes = site.take_ints("starts"), site.take_ints("ends"), site.take_ints("axes")
    if starts is None or ends is None:
        site.refuse("starts or ends are missing")
    site.set_input(1, site.integers(starts, "starts"))
    site.set_input(2, site.integers(ends, "ends"))
    if axes is not None:
        site.set_input(3, site.integers(axes, "axes"))


def clip_bounds(site: Site) -> None:
    """Clip-6 → Clip-11: ``min`` and ``max`` become scalar inputs; an absent bound stays absent."""
    for index, name in ((1, "min"), (2, "max")):
        bound = site.take(name)
        if bound is not None:
            site.set_input(index, site.constant(np.asarray(bound.as_float(), site.dtype(0)), name))


def pad_amounts(site: Site) -> None:
    """Pad-2 → Pad-11: ``pads`` and ``value`` become inputs."""
    pads = site.take_ints("pads")
    if pads is None:
        site.refuse("pads are missing")
    value = site.take_float("value", 0.0)
    site.set_input(1, site.integers(pads, "pads"))
    if value != 0.0:
        site.set_input(2, site.constant(np.asarray(value, site.dtype(0)), "value"))


def top_k_count(site: Site) -> None:
    """TopK-1 → TopK-10: ``k`` becomes input 1, a vector of one."""
    site.set_input(1, site.integers([site.take_int("k", 1)], "k"))


def reshape_shape(site: Site) -> None:
    """Reshape-1 → Reshape-5: ``shape`` becomes input 1."""
    site.take("consumed_inputs")
    shape = site.take_ints("shape")
    site.set_input(1, site.integers(shape or (), "shape"))


def split_count(site: Site) -> None:
    """Split-13 → Split-18: equal parts are asked for with ``num_outputs``."""
    if site.input(1) is None:
        site.put(num_outputs=len(site.node.outputs))


def split_sizes_to_attribute(site: Site) -> None:
    """Split-1 → Split-2: constant sizes from input 1 become the attribute ``split``."""
    if site.input(1) is None:
        return
    sizes = site.constant_of(1)
    if sizes is None:
        site.refuse("its sizes are computed at run time")
    site.node.resize_inputs(1)
    site.put(split=[int(size) for size in sizes.reshape(-1)])


def tile_repeats(site: Site) -> None:
    """Tile-1 (tiles along one axis) → Tile-6 (repeats for every axis)."""
    tiles, axis, rank = site.constant_of(1), site.constant_of(2), site.rank(0)
    if tiles is None or axis is None or rank is None:
        site.refuse("tiles and axis must be constant and the rank of the input known")
    repeats = [1] * rank
    repeats[int(axis.reshape(-1)[0])] = int(tiles.reshape(-1)[0])
    site.node.resize_inputs(2)
    site.set_input(1, site.integers(repeats, "repeats"))


def dft_axis(site: Site) -> None:
    """DFT-17 → DFT-20: ``axis`` becomes scalar input 2 (the default changed from 1 to -2)."""
    site.set_input(2, site.constant(np.asarray(site.take_int("axis", 1), np.int64), "axis"))
