"""A traced function as a GraphDef with its weights in it, built with one copy of them.

coremltools would freeze the function through TensorFlow's own route, which takes the graph with all its
weights through grappler and copies them some twenty times. It accepts a GraphDef as well, and then does not.
"""

from __future__ import annotations

from typing import Any


def frozen(function: Any) -> Any | None:
    """The GraphDef of a concrete function, its variables as constants; its placeholders are the inputs.

    None where the graph calls functions of its own (loops, branches) or captures more than variables: those
    are TensorFlow's to freeze.
    """
    graph = function.graph.as_graph_def()
    variables = {id(variable.handle): variable for variable in function.graph.variables}
    held = {inner.name.partition(":")[0]: id(outer) for outer, inner in function.graph.captures}
    if len(graph.library.function) or any(outer not in variables for outer in held.values()):
        return None
    read: dict[str, str] = {}  # node that reads a variable → the constant it becomes
    for node in graph.node:
        if node.name in held:
            _become_constant(node, variables[held[node.name]])
        elif node.op == "ReadVariableOp":
            read[node.name] = node.input[0]
    for node in graph.node:
        # ``^name`` orders a node behind another: with no variable written there is nothing to order.
        inputs = [read.get(name, name) for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(inputs)
    sides = {tensor.op.name for tensor in (*function.inputs, *function.outputs)}
    needed = _ancestors(graph, sorted(sides - set(held)))
    for place in reversed(range(len(graph.node))):
        if graph.node[place].name not in needed:
            del graph.node[place]
    return graph


def _ancestors(graph: Any, names: list[str]) -> set[str]:
    """All nodes that these hang on, and these."""
    inputs = {node.name: [name.partition(":")[0] for name in node.input] for node in graph.node}
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            names += inputs[name]
    return found


def _become_constant(node: Any, variable: Any) -> None:
    node.op = "Const"
    node.attr.clear()
    node.attr["dtype"].type = variable.dtype.as_datatype_enum
    tensor = node.attr["value"].tensor
    tensor.dtype = variable.dtype.as_datatype_enum
    for size in variable.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = variable.numpy().tobytes()
