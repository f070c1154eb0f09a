"""The padding of a node in numbers, as text."""

from __future__ import annotations

import onnx_ir as ir

from optim.facts import constant_tensor_of, ints_attribute, static_shape, string_attribute
from targets.float64.windows import resolve_pads

WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})


def padding_of(node: ir.Node) -> str:
    """Pads of a windowed node or a Pad as ``[top, left] ... [bottom, right]``; empty for other operators."""
    if node.op_type == "Pad":
        tensor = constant_tensor_of(node.inputs[1]) if len(node.inputs) > 1 else None
        flat = [int(v) for v in tensor.numpy().tolist()] if tensor is not None else []
        half = len(flat) // 2
        return f"Pad {flat[:half]} ... {flat[half:]}" if flat else "Pad, computed"
    if node.op_type not in WINDOWED or node.domain not in ("", "ai.onnx"):
        return ""
    auto = string_attribute(node, "auto_pad", "NOTSET")
    shape = static_shape(node.inputs[0])
    kernel = _kernel(node)
    if kernel is None:
        return auto
    ones = (1,) * len(kernel)
    if auto not in ("", "NOTSET", "VALID") and (shape is None or node.op_type == "ConvTranspose"):
        return f"{auto} (the size of the input decides)"
    pads = resolve_pads(
        auto,
        ints_attribute(node, "pads") or (),
        shape[2:] if shape is not None else tuple(0 for _ in kernel),
        kernel,
        ints_attribute(node, "strides") or ones,
        ints_attribute(node, "dilations") or ones,
    )
    return f"{[b for b, _ in pads]} ... {[e for _, e in pads]}"


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    given = ints_attribute(node, "kernel_shape")
    if given is not None:
        return given
    weight = static_shape(node.inputs[1]) if len(node.inputs) > 1 else None
    return weight[2:] if weight is not None else None
