"""``GroupNormalization`` of opsets 18 to 20 as reshapes round an ``InstanceNormalization``. Reassociates.

Its scale and bias count groups (https://onnx.ai/onnx/operators/onnx__GroupNormalization.html), a definition
that opset 21 withdrew, so that the checker refuses the operator while runtimes still run it.
"""

from __future__ import annotations

import onnx_ir as ir

_FIRST_OPSET, _LAST_OPSET = 18, 20
_EPSILON = 1e-5


def write_out_group_norms(model: ir.Model) -> int:
    """Rewrite them in place; how many there were."""
    if not _FIRST_OPSET <= model.graph.opset_imports.get("", 1) <= _LAST_OPSET:
        return 0
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    found = [node for node in nodes if node.op_type == "GroupNormalization" and node.domain == ""]
    for node in found:
        _write_out(node)
    return len(found)


def _write_out(node: ir.Node) -> None:
    """x: [N, C, ...] → [N, groups, -1], where one channel is one group, and back."""
    graph, (x, scale, bias), output = node.graph, node.inputs, node.outputs[0]
    assert graph is not None
    epsilon = node.attributes.get("epsilon")
    groups = ir.tensor([0, node.attributes["num_groups"].as_int(), -1], dtype=ir.DataType.INT64)
    stem = node.name or output.name
    form = ir.node("Constant", [], {"value": groups}, name=f"{stem}/form")
    split = ir.node("Reshape", [x, form.outputs[0]], name=f"{stem}/split")
    settings = {"epsilon": _EPSILON if epsilon is None else epsilon.as_float()}
    norm = ir.node("InstanceNormalization", [split.outputs[0], scale, bias], settings, name=f"{stem}/norm")
    shape = ir.node("Shape", [x], name=f"{stem}/shape")
    joined = ir.node("Reshape", [norm.outputs[0], shape.outputs[0]], name=f"{stem}/joined")
    name, kind, dims = output.name, output.type, output.shape
    for made in (form, split, norm, shape):
        made.outputs[0].name = f"{made.name}/output"
    graph.insert_before(node, [form, split, norm, shape, joined])
    output.name = f"{name}/replaced"
    joined.outputs[0].name, joined.outputs[0].type, joined.outputs[0].shape = name, kind, dims
    ir.convenience.replace_all_uses_with(output, joined.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
