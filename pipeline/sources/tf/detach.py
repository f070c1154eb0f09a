"""Large constants out of the graph, before conversion: the converter then copies shapes, not weights.

Only constants that reach nothing but the weight operand of a convolution, matrix product or lookup are
detached: everything else (batch-norm vectors, recurrent weights, shapes) the converter wants to read.
"""

from __future__ import annotations

import numpy as np

from optim.contract import Array
from pipeline.sources.tf.alignment import aligned
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    consumers,
    data_inputs,
    make_placeholder,
    node_of,
)

LARGE_BYTES = 1 << 14

# Ops whose operand at this position may be a placeholder: the converter only transposes or reshapes it.
_WEIGHT_OPERANDS: dict[str, tuple[int, ...]] = {
    "Conv2D": (1,),
    "Conv3D": (1,),
    "DepthwiseConv2dNative": (1,),
    "Conv2DBackpropInput": (1,),
    "Conv3DBackpropInputV2": (1,),
    "MatMul": (0, 1),
    "BatchMatMulV2": (1,),
    "Gather": (0,),
    "GatherV2": (0,),
}


def may_detach(node: str, readers: dict[str, list[NodeDef]]) -> bool:
    """Whether every reader of ``node``'s output, through Identity, takes it as a weight."""
    pending, seen = [f"{node}:0"], False
    while pending:
        tensor = pending.pop()
        for reader in readers.get(tensor, []):
            if reader.op in ("Identity", "ReadVariableOp"):
                pending.append(f"{reader.name}:0")
                continue
            positions = [i for i, one in enumerate(data_inputs(reader)) if one == tensor]
            if any(i not in _WEIGHT_OPERANDS.get(reader.op, ()) for i in positions):
                return False
            seen = True
    return seen


def detach_constants(graph_def: GraphDef, outputs: list[str], known: dict[str, Array]) -> dict[str, Array]:
    """Turn the large constants of ``graph_def`` into placeholders, in place; their values by node name.

    ``known`` are already detached and stay so where they may; the others come back as constants.
    """
    from tensorflow.python.framework import dtypes

    readers = consumers(graph_def)
    kept = {node_of(tensor) for tensor in outputs}
    detached: dict[str, Array] = {}
    for node in graph_def.node:
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            dtype = dtypes.as_dtype(tensor.dtype)
            # Only plainly stored tensors; repeated or listed values are small on disk.
            if len(tensor.tensor_content) < LARGE_BYTES or dtype.is_quantized or dtype == dtypes.string:
                continue
            if node.name in kept or not may_detach(node.name, readers):
                continue
            shape = tuple(int(dim.size) for dim in tensor.tensor_shape.dim)
            stored = np.frombuffer(tensor.tensor_content, dtype.as_numpy_dtype)
            detached[node.name] = aligned(stored.reshape(shape))
            del stored
            make_placeholder(node, tensor.dtype, shape)
    present = {node.name for node in graph_def.node}
    return {**{name: array for name, array in known.items() if name in present}, **detached}
