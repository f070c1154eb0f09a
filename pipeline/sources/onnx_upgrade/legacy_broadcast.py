"""Opset < 7 broadcasting (attributes ``broadcast`` and ``axis``) as NumPy broadcasting.

Before opset 7 the second operand was aligned with the first from ``axis`` on, or with its last dimensions
when ``axis`` was absent (https://github.com/onnx/onnx/blob/main/docs/Changelog.md#Add-6).
"""

from __future__ import annotations

from pipeline.sources.onnx_upgrade.site import Site


def align_second_operand(site: Site) -> None:
    """``Op(A, B, axis=k, broadcast=1)`` → ``Op(A, Unsqueeze(B))``: exact."""
    axis_attribute = site.take("axis")
    broadcast = site.take_int("broadcast", 0)
    if broadcast and axis_attribute is not None:
        rank_a, rank_b = site.rank(0), site.rank(1)
        if rank_a is None or rank_b is None:
            site.refuse("it broadcasts along an axis and the ranks of its operands are not known")
        axis = axis_attribute.as_int()
        axis += rank_a if axis < 0 else 0
        trailing = rank_a - axis - rank_b
        if trailing > 0 and rank_b > 0:
            value = site.required(1)
            axes = list(range(rank_b, rank_b + trailing))
            site.set_input(1, site.emit("Unsqueeze", [value], {"axes": axes}, like=value))
    _shape_as_first_operand(site)


def per_channel_slope(site: Site) -> None:
    """PRelu before opset 7: a slope of size C belongs to axis 1; since 7 it broadcasts from the last axis."""
    slope = site.dims(1)
    rank = site.rank(0)
    if slope is None or rank is None:
        site.refuse("the ranks of X and slope are not known")
    if len(slope) == 1 and slope[0] != 1 and rank > 2:
        value = site.required(1)
        axes = list(range(1, rank - 1))
        site.set_input(1, site.emit("Unsqueeze", [value], {"axes": axes}, like=value))
    _shape_as_first_operand(site)


def _shape_as_first_operand(site: Site) -> None:
    """Shape inference knows nothing of the old broadcasting; the result always had the shape of A."""
    first, output = site.required(0), site.node.outputs[0]
    if output.shape is None and first.shape is not None:
        output.shape = first.shape.copy()
    if output.dtype is None and site.node.op_type not in ("Equal", "Greater", "Less"):
        output.type = first.type
