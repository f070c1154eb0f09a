"""``While``, ``StatelessWhile`` over plain tensors → Loop.

ONNX's Loop asks for the condition before the first round and at the end of each; the condition's function is
therefore written out twice. What the body hands through unchanged is no variable of the Loop: its body sees
the tensors around it. https://onnx.ai/onnx/operators/onnx__Loop.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    from onnx import TensorProto
    from tf2onnx import utils
    from tf2onnx.onnx_opset.controlflow import inline_subgraph
    from tf2onnx.tf_loader import find_function

    test, body = find_function(node.get_attr_str("cond")), find_function(node.get_attr_str("body"))
    test.parent_graph = body.parent_graph = ctx
    starts, names = list(node.input), list(body.input_names)
    unchanged = {i for i, result in enumerate(body.outputs) if _source(body, result) == names[i]}
    carried = [i for i in range(len(starts)) if i not in unchanged]
    first = inline_subgraph(ctx, test, f"{node.name}/first", _bound(test, starts))[0]

    placeholders = {one.output[0]: one for one in body.inputs}
    for i in unchanged:
        outer = placeholders[names[i]]
        outer.type = "Identity"
        body.replace_inputs(outer, [starts[i]])
    step, before = (
        body.make_node("Placeholder", [], name=utils.make_name(f"{node.name}/{word}"), output_count=1,
                       dtypes=[kind], shapes=[[]])
        for word, kind in (("round", TensorProto.INT64), ("going", TensorProto.BOOL))
    )  # fmt: skip
    results = [body.make_node("Identity", [body.outputs[i]]).output[0] for i in carried]
    for i, result in zip(carried, results, strict=True):
        body.set_dtype(result, node.output_dtypes[i])
        body.set_shape(result, node.output_shapes[i])
        body.set_shape(names[i], node.output_shapes[i])
    after = dict(zip(carried, results, strict=True))
    again = inline_subgraph(
        body, test, "again", _bound(test, [after.get(i, starts[i]) for i in range(len(starts))])
    )[0]
    body.inputs = [step, before, *(placeholders[names[i]] for i in carried)]
    body.outputs = [again, *results]

    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, list(node.output)
    ctx.remove_node(node.name)
    for i in unchanged:
        ctx.make_node("Identity", [starts[i]], outputs=[outputs[i]], shapes=[shapes[i]], dtypes=[dtypes[i]])
    ctx.make_node(
        "Loop",
        ["", first, *(starts[i] for i in carried)],
        name=node.name,
        outputs=[outputs[i] for i in carried],
        shapes=[shapes[i] for i in carried],
        dtypes=[dtypes[i] for i in carried],
        skip_conversion=True,
        branches={"body": body},
    )


def _bound(graph: Any, values: Sequence[str]) -> Mapping[str, str]:
    return dict(zip(graph.input_names, values, strict=True))


def _source(graph: Any, tensor: str) -> str:
    """Where a tensor comes from, past Identity nodes."""
    while (producer := graph.get_node_by_output(tensor)) is not None and producer.type == "Identity":
        tensor = producer.input[0]
    return tensor
