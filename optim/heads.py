"""Outputs that saturate: the Softmax or Sigmoid at an output, through operators that only move values."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

SATURATING = frozenset({"Softmax", "Sigmoid"})
TRANSPARENT = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True)
class Head:
    """A saturating operator at an output."""

    output: str
    op: str
    logits: str  # tensor that the operator reads


def saturating_heads(model: ir.Model) -> dict[str, Head]:
    """The head of each output that ends in Softmax or Sigmoid, through operators that only move values."""
    heads: dict[str, Head] = {}
    for output in model.graph.outputs:
        node = output.producer()
        while node is not None and node.op_type in TRANSPARENT and node.domain in ("", "ai.onnx"):
            source = node.inputs[0]
            node = None if source is None else source.producer()
        if node is None or node.op_type not in SATURATING or node.domain not in ("", "ai.onnx"):
            continue
        logits = node.inputs[0]
        if logits is not None and logits.name and logits.producer() is not None and output.name:
            heads[output.name] = Head(output.name, node.op_type, logits.name)
    return heads


def with_logits(model: ir.Model) -> tuple[ir.Model, dict[str, str]]:
    """A copy whose Softmax heads give their logits too, and the name of those by output name.

    The copy shares all tensors. Without such heads it is the model itself.
    """
    heads = [h for h in saturating_heads(model).values() if h.op == "Softmax"]
    if not heads:
        return model, {}
    copy = model.clone()
    given = {v.name for v in copy.graph.outputs}
    values = {v.name: v for node in copy.graph for v in node.outputs if v.name}
    for head in heads:
        if head.logits not in given:
            copy.graph.outputs.append(values[head.logits])
            given.add(head.logits)
    return copy, {h.output: h.logits for h in heads}
