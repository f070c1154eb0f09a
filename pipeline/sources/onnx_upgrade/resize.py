"""Upsample-1/7/9 → Resize-10 → Resize-11, keeping each one's sampling positions.

Opset 10 knew one rule: output pixel i samples input position i / scale. ``nearest`` takes its floor when
enlarging and its ceiling when shrinking, as ONNX's own test data for Resize-10 do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from pipeline.sources.onnx_upgrade.site import Site


def upsample_scales(site: Site) -> None:
    """Upsample-1 → Upsample-7: ``height_scale`` and ``width_scale`` become ``scales`` over N, C, H, W."""
    height, width = site.take_float("height_scale", 1.0), site.take_float("width_scale", 1.0)
    if site.take_string("mode", "nearest") != "nearest":
        site.put(mode="linear")
    site.put(scales=[1.0, 1.0, height, width])


def upsample_scales_to_input(site: Site) -> None:
    """Upsample-7 → Upsample-9: ``scales`` becomes input 1."""
    scales = site.take("scales")
    if scales is None:
        site.refuse("scales are missing")
    site.set_input(1, site.constant(np.asarray(scales.as_floats(), np.float32), "scales"))


def upsample_to_resize(site: Site) -> None:
    """Upsample-9 → Resize-10, which took its place."""
    site.become("Resize")
    site.node.metadata_props[ENLARGES] = "true"  # Upsample may only enlarge


ENLARGES = "fairlead.enlarges"


def resize_coordinates(site: Site) -> None:
    """Resize-10 → Resize-11: the one rule of opset 10 is spelt out; scales move to input 2."""
    mode_attribute = site.node.attributes.get("mode")
    mode = "nearest" if mode_attribute is None else mode_attribute.as_string()
    scales_value, scales = site.required(1), site.constant_of(1)
    only_enlarges = site.node.metadata_props.pop(ENLARGES, None) == "true"
    if scales is not None:
        only_enlarges = bool(np.all(scales >= 1))
    only_shrinks = scales is not None and bool(np.all(scales <= 1))
    if mode == "nearest" and not (only_enlarges or only_shrinks):
        if scales is None:
            site.refuse("scales are computed at run time, and opset 10 rounds by whether they enlarge")
        _in_two_steps(site, scales)
        return
    site.set_input(1, _no_roi(site))
    site.set_input(2, scales_value)
    site.put(coordinate_transformation_mode="asymmetric")
    if mode == "nearest":
        site.put(nearest_mode="floor" if only_enlarges else "ceil")


def _in_two_steps(site: Site, scales: Array) -> None:
    """Enlarge some axes and shrink others: nearest is separable, so one Resize for each rounding."""
    data, no_roi = site.required(0), _no_roi(site)
    result = data
    for what, rounding, kept in (("enlarge", "floor", scales > 1), ("shrink", "ceil", scales < 1)):
        factor = site.constant(np.where(kept, scales, np.float32(1)).astype(np.float32), what)
        attributes = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": rounding,
        }
        result = site.emit("Resize", [result, no_roi, factor], attributes, like=data)
    site.replace([result])


def _no_roi(site: Site) -> ir.Value:
    """An empty region of interest: input 1 could not be left out before opset 13."""
    return site.constant(np.zeros(0, np.float32), "roi")


def half_pixel_for_nearest(site: Site) -> None:
    """Resize-11 → 13: ``tf_half_pixel_for_nn`` went.

    It sampled floor((i + 0.5) / scale), which is round_prefer_ceil((i + 0.5) / scale - 0.5): half_pixel.
    """
    attribute = site.node.attributes.get("coordinate_transformation_mode")
    if attribute is None or attribute.as_string() != "tf_half_pixel_for_nn":
        return
    mode, rounding = (site.node.attributes.get(name) for name in ("mode", "nearest_mode"))
    nearest = mode is None or mode.as_string() == "nearest"
    if not nearest or rounding is None or rounding.as_string() != "floor":
        site.refuse("coordinate mode tf_half_pixel_for_nn has an equal only with nearest_mode floor")
    site.put(coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil")
