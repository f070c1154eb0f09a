"""Operators that ONNX once had as experiments and then dropped, written in operators it kept.

They stood in the default domain without a schema of their own opset; formulas from the operator
documentation of ONNX 1.0-1.4 (https://github.com/onnx/onnx/blob/v1.4.1/docs/Operators.md#experimental-ops).
"""

from __future__ import annotations

import numpy as np

from pipeline.sources.onnx_upgrade.site import Site


def affine(site: Site) -> None:
    """Affine: y = alpha · x + beta."""
    x, dtype = site.required(0), site.dtype(0)
    alpha = site.constant(np.asarray(site.take_float("alpha", 1.0), dtype), "alpha")
    beta = site.constant(np.asarray(site.take_float("beta", 0.0), dtype), "beta")
    site.replace([site.emit("Add", [site.emit("Mul", [x, alpha], like=x), beta], like=x)])


def image_scaler(site: Site) -> None:
    """ImageScaler: y[n, c, h, w] = scale · x[n, c, h, w] + bias[c]."""
    x, dtype = site.required(0), site.dtype(0)
    bias_attribute = site.take("bias")
    scale = site.constant(np.asarray(site.take_float("scale", 1.0), dtype), "scale")
    scaled = site.emit("Mul", [x, scale], like=x)
    if bias_attribute is None:
        site.replace([scaled])
        return
    bias = np.asarray(bias_attribute.as_floats(), dtype).reshape(1, -1, 1, 1)
    site.replace([site.emit("Add", [scaled, site.constant(bias, "bias")], like=x)])


def parametric_softplus(site: Site) -> None:
    """ParametricSoftplus: y = alpha · ln(exp(beta · x) + 1)."""
    x, dtype = site.required(0), site.dtype(0)
    alpha = site.constant(np.asarray(site.take_float("alpha", 1.0), dtype), "alpha")
    beta = site.constant(np.asarray(site.take_float("beta", 1.0), dtype), "beta")
    softplus = site.emit("Softplus", [site.emit("Mul", [x, beta], like=x)], like=x)
    site.replace([site.emit("Mul", [softplus, alpha], like=x)])


def scale(site: Site) -> None:
    """Scale: y = scale · x."""
    x = site.required(0)
    factor = site.constant(np.asarray(site.take_float("scale", 1.0), site.dtype(0)), "scale")
    site.replace([site.emit("Mul", [x, factor], like=x)])


def scaled_tanh(site: Site) -> None:
    """ScaledTanh: y = alpha · tanh(beta · x)."""
    x, dtype = site.required(0), site.dtype(0)
    alpha = site.constant(np.asarray(site.take_float("alpha", 1.0), dtype), "alpha")
    beta = site.constant(np.asarray(site.take_float("beta", 1.0), dtype), "beta")
    curve = site.emit("Tanh", [site.emit("Mul", [x, beta], like=x)], like=x)
    site.replace([site.emit("Mul", [curve, alpha], like=x)])


def crop(site: Site) -> None:
    """Crop of [N, C, H, W] by ``border`` (left, top, right, bottom), or to ``scale`` (height, width)."""
    border, size = site.take_ints("border"), site.take_ints("scale")
    if border is None or len(border) != 4:
        site.refuse("border must hold four numbers")
    left, top, right, bottom = border
    if size is not None:
        starts, ends = [top, left], [top + size[0], left + size[1]]
    else:
        far = np.iinfo(np.int64).max
        starts, ends = [top, left], [-bottom or far, -right or far]
    x = site.required(0)
    bounds = [site.integers(starts, "starts"), site.integers(ends, "ends"), site.integers([2, 3], "axes")]
    # Emitted in the form of Slice-10: experiments are rewritten once the walk has passed opset 10.
    site.replace([site.emit("Slice", [x, *bounds], like=x)])
