"""A Loop that writes one element of an array in each round → the Loop's own stacked output.

before: a tensor [n, …] carried through the rounds, ScatterND at a counter from 0 in steps of 1
after:  the rounds' values, stacked by the Loop, and behind them what the array held there before

A carried tensor is copied in every round, the stacked output is not. The numbers are the same; arrays that
are read while they are written, or written in any other order, stay as they are.
https://onnx.ai/onnx/operators/onnx__Loop.html
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from optim.facts import constant_of

_MOVES = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity"})
_FIXED = 2  # a body's inputs before its variables: the round and the condition


def stack_loop_outputs(model: ir.Model) -> int:
    """Rewrite the Loops of ``model`` in place; how many arrays there were."""
    loops = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.op_type == "Loop"]
    names = (f"{number}" for number in itertools.count())
    done = 0
    for loop in loops:
        while (position := next(_ready(loop), None)) is not None:
            _stack(loop, position, next(names))
            done += 1
    return done


def _body(loop: ir.Node) -> ir.Graph:
    return loop.attributes["body"].as_graph()


def _ready(loop: ir.Node) -> Iterator[int]:
    """Positions of the variables that can become stacked outputs."""
    body = _body(loop)
    for position, variable in enumerate(list(body.inputs)[_FIXED:]):
        result = body.outputs[1 + position]
        scatter = result.producer()
        if scatter is None or scatter.op_type != "ScatterND" or scatter.attributes.get("reduction"):
            continue
        update = scatter.inputs[2].producer() if scatter.inputs[2] is not None else None
        if update is None or update.op_type != "Unsqueeze" or update.graph is not body:
            continue
        before = loop.inputs[_FIXED + position]
        if before is None or (_zero_of(before) is None and not _has_fixed_elements(variable)):
            continue  # after no round at all, nothing would say what shape the stacked output has
        if _only_written(variable, scatter, result, body) and _counts(loop, scatter.inputs[1]):
            yield position


def _has_fixed_elements(array: ir.Value) -> bool:
    return array.shape is not None and all(isinstance(dim, int) for dim in list(array.shape)[1:])


def _only_written(variable: ir.Value, scatter: ir.Node, result: ir.Value, body: ir.Graph) -> bool:
    """Whether all that depends on the array is the array after the write."""
    if result.uses() or sum(output is result for output in body.outputs) != 1:
        return False
    pending, seen = [variable], {variable}
    while pending:
        value = pending.pop()
        if value is result:
            continue
        if value.is_graph_output():
            return False
        for node, index in value.uses():
            if node.graph is not body or (node is scatter and index != 0):
                return False
            fresh = [output for output in node.outputs if output not in seen]
            seen |= set(fresh)
            pending += fresh
    return result in seen


def _counts(loop: ir.Node, index: ir.Value | None) -> bool:
    """Whether ``index`` is a variable of the loop that is 0 in its first round and grows by 1."""
    body = _body(loop)
    source = _origin(index)
    places = [i for i, one in enumerate(list(body.inputs)[_FIXED:]) if one is source]
    if not places:
        return False
    start = constant_of(_origin(loop.inputs[_FIXED + places[0]]))
    following = _origin(body.outputs[1 + places[0]])
    step = following.producer() if following is not None else None
    if start is None or start.size != 1 or start.reshape(()) != 0 or step is None or step.op_type != "Add":
        return False
    operands = [_origin(one) for one in step.inputs]
    others = [constant_of(one) for one in operands if one is not source]
    return len(others) == 1 and others[0] is not None and others[0].size == 1 and others[0].item() == 1


def _origin(value: ir.Value | None) -> ir.Value | None:
    """Where a number comes from, past what only changes its form."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _MOVES:
        value = node.inputs[0]
    return value


def _stack(loop: ir.Node, position: int, number: str) -> None:
    body, graph = _body(loop), loop.graph
    assert isinstance(graph, ir.Graph)
    before, after = loop.inputs[_FIXED + position], loop.outputs[position]
    scatter = body.outputs[1 + position].producer()
    assert scatter is not None and before is not None and scatter.inputs[2] is not None
    update = scatter.inputs[2].producer()
    assert update is not None and update.inputs[0] is not None
    element = update.inputs[0]

    stem = f"{after.name}/stacked{number}"
    handed = ir.node("Identity", [element])  # each output of a body needs a name of its own
    handed.outputs[0].name = f"{stem}_element"
    variable = body.inputs[_FIXED + position]
    dims = list(variable.shape)[1:] if variable.shape is not None else None
    handed.outputs[0].type = variable.type
    handed.outputs[0].shape = None if dims is None else ir.Shape(dims)
    body.append(handed)
    body.outputs.pop(1 + position)
    body.outputs.append(handed.outputs[0])
    _drop(body, scatter)
    body.inputs.pop(_FIXED + position)
    assert not variable.uses()

    kept = [output for output in loop.outputs if output is not after]
    made = ir.Node(
        loop.domain,
        "Loop",
        [one for i, one in enumerate(loop.inputs) if i != _FIXED + position],
        attributes=list(loop.attributes.values()),
        num_outputs=len(kept) + 1,
        name=loop.name,
    )
    graph.insert_before(loop, made)
    for old, new in zip(kept, made.outputs, strict=False):
        _take_over(old, new)
    stacked = made.outputs[-1]
    stacked.name, stacked.type = stem, after.type
    stacked.shape = None if dims is None else ir.Shape([None, *dims])
    whole = _behind(graph, loop, stacked, before, stem)
    _take_over(after, whole)
    graph.remove(loop, safe=True)


def _drop(body: ir.Graph, node: ir.Node) -> None:
    """Remove a node that nothing reads, and what only it read."""
    pending = [node]
    while pending:
        one = pending.pop()
        unread = all(not output.uses() and not output.is_graph_output() for output in one.outputs)
        if one.graph is not body or not unread:
            continue
        sources = [value.producer() for value in one.inputs if value is not None]
        body.remove(one, safe=True)
        pending += [source for source in sources if source is not None]


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """``new`` in the place of ``old``, under its name."""
    name = old.name
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, name


def _behind(graph: ir.Graph, place: ir.Node, stacked: ir.Value, before: ir.Value, stem: str) -> ir.Value:
    """The stacked values, and behind them what the array held there before the loop."""
    count = itertools.count()

    def emit(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op, list(inputs), attributes=attributes)
        node.outputs[0].name = f"{stem}_{op}{next(count)}"
        graph.insert_before(place, node)
        return node.outputs[0]

    def numbers(*values: int) -> ir.Value:
        tensor = ir.tensor(np.array(values, np.int64), name=f"{stem}_numbers{next(count)}")
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, type=kind, shape=ir.Shape([len(values)]), const_value=tensor)
        graph.initializers.add(value)
        return value

    first, zero, last = numbers(1), numbers(0), numbers(np.iinfo(np.int64).max)
    shape = emit("Shape", stacked)
    rounds = emit("Slice", shape, zero, first)
    filler = _zero_of(before)
    if filler is None:
        rest = emit("Slice", before, rounds, last, zero)
    else:  # whose elements may not have had their shape yet
        places = emit("Slice", emit("Shape", before), zero, first)
        missing = emit("Max", emit("Sub", places, rounds), zero)  # an array that grew has none
        rest = emit("Expand", filler, emit("Concat", missing, emit("Slice", shape, first, last), axis=0))
    return emit("Concat", stacked, rest, axis=0)


def _zero_of(array: ir.Value) -> ir.Value | None:
    """The scalar zero that ``array`` is filled with; None where it holds anything else."""
    node = array.producer()
    if node is None or node.op_type != "Expand" or node.inputs[0] is None:
        return None
    value = constant_of(node.inputs[0])
    plain = value is not None and value.ndim == 0 and value.dtype.kind in "fiub"
    return node.inputs[0] if plain and not value else None
