"""A network of known cost, for measuring: equal layers, so that the ratio of two depths is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir


def chain(path: Path, *, layers: int, width: int = 64, seed: int = 0) -> Path:
    """Write ``layers`` times MatMul [width, width] and Tanh; input ``x`` [batch, width], output ``y``."""
    rng = np.random.default_rng(seed)
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float32, shape=ir.Shape(["batch", width]))
    value, nodes, weights = x, [], []
    for k in range(layers):
        array = (rng.random((width, width), dtype=np.float32) - np.float32(0.5)) * np.float32(
            (12 / width) ** 0.5
        )
        weight = ir.Value(name=f"w{k}", const_value=ir.tensor(array, name=f"w{k}"))
        weights.append(weight)
        product = ir.node("MatMul", [value, weight], name=f"matmul_{k}")
        activation = ir.node("Tanh", [product.outputs[0]], name=f"tanh_{k}")
        nodes += [product, activation]
        value = activation.outputs[0]
    value.name, value.type, value.shape = "y", float32, ir.Shape(["batch", width])
    graph = ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 18}, name="chain")
    ir.save(ir.Model(graph, ir_version=8), path)
    return path


def feeds(batch: int = 1, width: int = 64) -> dict[str, np.ndarray]:
    """A random input."""
    return {"x": np.random.default_rng(0).standard_normal((batch, width)).astype(np.float32)}
