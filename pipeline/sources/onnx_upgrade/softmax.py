"""Softmax, LogSoftmax and Hardmax before opset 13 worked on the input flattened to two dimensions.

Since opset 13 they work along one axis (https://onnx.ai/onnx/operators/onnx__Softmax.html#softmax-13).
"""

from __future__ import annotations

from pipeline.sources.onnx_upgrade.site import Site


def flatten_around(site: Site) -> None:
    """``Softmax-11(axis)`` → along the last axis, or Flatten → Softmax → Reshape where they differ."""
    axis = site.take_int("axis", 1)
    dims = site.dims(0)
    if dims is not None and len(dims) > 0:
        along = axis + len(dims) if axis < 0 else axis
        reduced = [index for index in range(along, len(dims)) if dims[index] != 1]
        if len(reduced) <= 1:  # at most one dimension is longer than 1: the two definitions agree
            site.put(axis=reduced[0] if reduced else len(dims) - 1)
            return
    data = site.required(0)
    shape = site.emit("Shape", [data])
    flat = site.emit("Flatten", [data], {"axis": axis}, like=data)
    result = site.emit(site.node.op_type, [flat], {"axis": -1}, like=data)
    site.replace([site.emit("Reshape", [result, shape], like=data)])
