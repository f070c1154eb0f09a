"""What must go from any stored graph before TensorFlow reads it again.

- ``_output_shapes`` and ``_class``: caches and placement hints of the program that wrote it; stale, they
  break imports. ``_XlaMustCompile`` and friends: ask for a compiler.
- Reference types (``float32_ref``) of TF ≤ 1.x variables become their base types.
- ``T`` lists and devices of machines that are not here.
"""

from __future__ import annotations

from pipeline.sources.tf.graph import REF_OFFSET, GraphDef, NodeDef, all_nodes

_STALE = (
    "_output_shapes",
    "_class",
    "_XlaMustCompile",
    "_XlaCompile",
    "_XlaScope",
    "_XlaSeparateCompiledGradients",
    "_noinline",
    "_gradient_op_type",
    "_grappler_do_not_remove",
)
_OLD_OPS = {
    "BatchMatrixTriangularSolve": "MatrixTriangularSolve",
    "RefSwitch": "Switch",
    "RefMerge": "Merge",
    "RefIdentity": "Identity",
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefNextIteration": "NextIteration",
    "RefSelect": "Select",
    "BiasAddV1": "BiasAdd",
}


def clean(graph_def: GraphDef) -> None:
    """Clean ``graph_def`` and its functions in place."""
    for node in all_nodes(graph_def):
        node.device = ""
        node.op = _OLD_OPS.get(node.op, node.op)
        for key in _STALE:
            if key in node.attr:
                del node.attr[key]
        _use_base_types(node)
        node.ClearField("experimental_debug_info")
    for function in graph_def.library.function:
        for key in ("_XlaMustCompile", "_noinline", "api_implements"):
            if key in function.attr:
                del function.attr[key]


def _use_base_types(node: NodeDef) -> None:
    for attribute in node.attr.values():
        kind = attribute.WhichOneof("value")
        if kind == "type" and attribute.type > REF_OFFSET:
            attribute.type -= REF_OFFSET
        elif kind == "list" and any(one > REF_OFFSET for one in attribute.list.type):
            base = [one - REF_OFFSET if one > REF_OFFSET else one for one in attribute.list.type]
            del attribute.list.type[:]
            attribute.list.type.extend(base)
