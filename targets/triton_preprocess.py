"""A bundle's pre-processing as an ONNX model: uint8 pixels [N, H, W, C] → (x · scale − mean) / std, in the
network's own layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from targets.triton_config import ModelPlan

RAW: Final = "RAW"


def preprocessing_model(plan: ModelPlan, preprocess: Mapping[str, Any]) -> ir.Model | None:
    """None where the network's only input is not an image of floats, or nothing is known about it."""
    if not preprocess or len(plan.inputs) != 1 or preprocess["layout"] is None:
        return None
    spec = plan.inputs[0]
    if preprocess["dtype"] != "float32" or preprocess["channels"] is None:
        return None
    height, width = preprocess["size"] or (None, None)
    raw = ir.Value(
        name=RAW,
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape([spec.shape[0], height, width, preprocess["channels"]]),
    )
    nodes = [ir.node("Cast", [raw], attributes={"to": ir.DataType.FLOAT.value}, name="to_float")]
    weights = []
    for op, key in (("Mul", "scale"), ("Sub", "mean"), ("Div", "std")):
        # By channel, which is the last axis here.
        array = np.atleast_1d(np.asarray(preprocess[key], np.float32))
        if array.size:
            value = ir.Value(name=key, const_value=ir.tensor(array, name=key))
            weights.append(value)
            nodes.append(ir.node(op, [nodes[-1].outputs[0], value], name=key))
    if preprocess["layout"] == "NCHW":
        order = {"perm": [0, 3, 1, 2]}
        nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], attributes=order, name="channels_first"))
    result = nodes[-1].outputs[0]
    result.name, result.type = spec.name, ir.TensorType(ir.DataType.FLOAT)
    result.shape = ir.Shape(list(spec.shape))
    graph = ir.Graph(
        [raw], [result], nodes=nodes, initializers=weights, opset_imports={"": 13}, name="preprocess"
    )
    return ir.Model(graph, ir_version=8)
