"""Range over constant integers becomes the constant it is.

ONNX Runtime counts the elements of a Range in float64 (onnxruntime/core/providers/cpu/generator/range.cc), so
that integers beyond 2**53 give a wrong length; exact integer arithmetic at conversion does not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_LARGEST = 1_000_000  # elements; longer ranges stay computed rather than stored


def fold_constant_ranges(model: ir.Model) -> int:
    """Replace every integer Range with constant operands by an initializer: exact. Returns how many."""
    folded = 0
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        graph = node.graph
        if node.op_type != "Range" or node.domain not in ("", "ai.onnx") or not isinstance(graph, ir.Graph):
            continue
        tensors = [None if v is None else ir.convenience.get_const_tensor(v) for v in node.inputs]
        operands = [tensor.numpy() for tensor in tensors if tensor is not None]
        output = node.outputs[0]
        if len(operands) != 3 or operands[0].dtype.kind != "i" or output.is_graph_output():
            continue
        values = range(*(int(operand.reshape(-1)[0]) for operand in operands))
        if len(values) > _LARGEST:
            continue
        tensor = ir.tensor(np.array(values, operands[0].dtype), name=output.name)
        shape = ir.Shape([len(values)])
        constant = ir.Value(name=output.name, shape=shape, type=ir.TensorType(tensor.dtype))
        constant.const_value = tensor
        output.replace_all_uses_with(constant)
        graph.remove(node)
        graph.register_initializer(constant)
        folded += 1
    return folded
