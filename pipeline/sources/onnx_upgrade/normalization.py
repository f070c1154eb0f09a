"""Batch and group normalisation and dropout: training switches go, old forms become the present ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from pipeline.sources.onnx_upgrade.site import Site

_WHY = "the converted model is for inference"


def batch_norm_is_test(site: Site) -> None:
    """BatchNormalization-6 → 7: ``is_test`` went; training mode is frozen to inference and said so."""
    if site.take_int("is_test", 0) == 0 and len(site.node.outputs) > 1:
        site.freeze("inference", f"is_test was 0; {_WHY}")


def batch_norm_spatial(site: Site) -> None:
    """BatchNormalization-7 → 9: statistics per activation (``spatial=0``) are written out.

    Y = (X - mean) / sqrt(var + epsilon) · scale + B, broadcast over the batch
    (https://onnx.ai/onnx/operators/onnx__BatchNormalization.html).
    """
    if site.take_int("spatial", 1) == 1:
        return
    site.drop_unused_outputs(keep=1)
    x, scale, bias, mean, variance = (site.required(index) for index in range(5))
    dtype = site.dtype(0)
    epsilon = site.constant(np.asarray(site.take_float("epsilon", 1e-5), dtype), "epsilon")
    centred = site.emit("Sub", [x, mean], like=x)
    deviation = site.emit("Sqrt", [site.emit("Add", [variance, epsilon], like=x)], like=x)
    scaled = site.emit("Mul", [site.emit("Div", [centred, deviation], like=x), scale], like=x)
    site.replace([site.emit("Add", [scaled, bias], like=x)])


def batch_norm_outputs(site: Site) -> None:
    """BatchNormalization-9 → 14: five outputs meant training; inference has one."""
    if len(site.node.outputs) > 1:
        site.drop_unused_outputs(keep=1)
        site.freeze("inference", f"batch statistics were among its outputs; {_WHY}")


def dropout_is_test(site: Site) -> None:
    """Dropout-6 → 7: ``is_test`` went; dropout is the identity at inference."""
    if site.take_int("is_test", 0) == 0:
        site.freeze("identity", f"is_test was 0; {_WHY}")


def dropout_to_identity(site: Site) -> None:
    """Dropout-10 → 12: before 12 it was only ever the identity; a mask that is read is all true."""
    site.take("ratio")
    if site.used(1):
        data, mask = site.required(0), site.node.outputs[1]
        kept = np.ones(1, np.bool_ if mask.dtype is None else mask.dtype.numpy())
        ones = site.emit("ConstantOfShape", [site.emit("Shape", [data])], {"value": ir.tensor(kept)})
        site.replace([site.emit("Identity", [data], like=data), ones])
        return
    site.drop_unused_outputs(keep=1)
    site.become("Identity")


def group_norm_per_channel(site: Site) -> None:
    """GroupNormalization-18 → 21: scale and bias went from one a group to one a channel."""
    dims = site.dims(0)
    channels = dims[1] if dims is not None and len(dims) > 1 else None
    groups = site.node.attributes["num_groups"].as_int()
    if channels is None:
        site.refuse("the number of channels is not known")
    for index, what in ((1, "scale"), (2, "bias")):
        value = site.required(index)
        column = site.emit("Reshape", [value, site.integers([groups, 1], f"{what}_column")], like=value)
        sizes = site.integers([groups, channels // groups], f"{what}_sizes")
        spread = site.emit("Expand", [column, sizes], like=value)
        site.set_input(index, site.emit("Reshape", [spread, site.integers([-1], f"{what}_flat")], like=value))
