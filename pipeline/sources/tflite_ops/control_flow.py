"""IF, WHILE, CALL, CALL_ONCE and composites: operators that run other subgraphs of the file.

TFLite hands every tensor that a subgraph reads to it as an input; ONNX's subgraphs see the tensors around
them. What a loop's body passes on unchanged is therefore not carried: its constants stay constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from pipeline.sources.tflite_model import Operator, Subgraph
from pipeline.sources.tflite_ops.build import OPSET, Build


def if_(build: Build, operator: Operator) -> None:
    """IF(condition, operands…): one of two subgraphs."""
    then, otherwise = (int(operator.option(f"{side}SubgraphIndex")) for side in ("then", "else"))
    known = build.constant_of(build.input(operator, 0))
    if known is not None:  # decided in the file
        _inline(build, operator, then if known.any() else otherwise, first=1)
        return
    condition = _truth(build, build.get(build.input(operator, 0)))
    operands = [build.get(index) for index in operator.inputs[1:]]
    results = build.ops(
        "If",
        [condition],
        len(operator.outputs),
        then_branch=_branch(build, then, operands, "then"),
        else_branch=_branch(build, otherwise, operands, "else"),
    )
    for output, value in zip(operator.outputs, results, strict=True):
        build.put_held(output, value)


def while_(build: Build, operator: Operator) -> None:
    """WHILE(operands…): the body again and again while the condition subgraph says so."""
    cond_number = int(operator.option("condSubgraphIndex"))
    body_number = int(operator.option("bodySubgraphIndex"))
    operands = [build.get(index) for index in operator.inputs]
    first = _condition(build, cond_number, operands)

    body = build.inside(body_number)
    kept = _passed_on(body.subgraph)
    step = _formal(build, "iteration", ir.TensorType(ir.DataType.INT64), [])
    before = _formal(build, "condition", ir.TensorType(ir.DataType.BOOL), [])
    carried: list[ir.Value] = []
    for position, index in enumerate(body.subgraph.inputs):
        if position in kept:
            body.put_held(index, operands[position])
            continue
        tensor = body.tensor(index)
        same = tensor.dims == build.tensor(operator.outputs[position]).dims
        dims = tensor.dims if same and _static_loop(build, operator, position) else (None,) * tensor.rank
        value = _formal(build, tensor.name or "carried", body.held_type(index), dims)
        body.put_held(index, value)
        carried.append(value)
    body.run()
    results = [body.get(index) for index in body.subgraph.outputs]
    again = _condition(body, cond_number, results)
    moved = [value for position, value in enumerate(results) if position not in kept]
    outputs = _as_outputs(body, [again, *moved])
    for value, formal in zip(outputs, [before, *carried], strict=True):
        value.type, value.shape = formal.type, formal.shape
    graph = ir.Graph(
        [step, before, *carried],
        outputs,
        nodes=body.nodes,
        opset_imports={"": OPSET},
        name=build.unique("body"),
    )
    starts = [value for position, value in enumerate(operands) if position not in kept]
    finals = iter(build.ops("Loop", [None, first, *starts], len(starts), body=graph))
    for position, output in enumerate(operator.outputs):
        build.put_held(output, operands[position] if position in kept else next(finals))


def call(build: Build, operator: Operator) -> None:
    """CALL: another subgraph in this one's place."""
    _inline(build, operator, int(operator.option("subgraph")), first=0)


def call_once(build: Build, operator: Operator) -> None:
    """CALL_ONCE of a subgraph that does nothing; one that fills variables or tables is refused."""
    number = int(operator.option("initSubgraphIndex"))
    for inner in build.inside(number).subgraph.operators:
        build.refuse(f"it sets up state that later calls read ({inner.name} in subgraph {number})")


def composite(build: Build, operator: Operator) -> None:
    """STABLEHLO_COMPOSITE: a named group of operators, as its decomposition spells it out."""
    _inline(build, operator, int(operator.option("decompositionSubgraphIndex")), first=0)


def _inline(build: Build, operator: Operator, number: int, *, first: int) -> None:
    """The subgraph's nodes in this graph; ``first`` is the operand that its first input stands for."""
    inner = build.inside(number, in_place=True)
    for index, operand in zip(inner.subgraph.inputs, operator.inputs[first:], strict=True):
        inner.put_held(index, build.get(operand))
    inner.run()
    for output, index in zip(operator.outputs, inner.subgraph.outputs, strict=True):
        build.put_held(output, inner.get(index))


def _branch(build: Build, number: int, operands: Sequence[ir.Value], side: str) -> ir.Graph:
    inner = build.inside(number)
    for index, value in zip(inner.subgraph.inputs, operands, strict=True):
        inner.put_held(index, value)
    inner.run()
    outputs = _as_outputs(inner, [inner.get(index) for index in inner.subgraph.outputs])
    for index, value in zip(inner.subgraph.outputs, outputs, strict=True):
        value.type = inner.held_type(index)
    return ir.Graph([], outputs, nodes=inner.nodes, opset_imports={"": OPSET}, name=build.unique(side))


def _condition(build: Build, number: int, operands: Sequence[ir.Value]) -> ir.Value:
    """The truth value that subgraph ``number`` makes of ``operands``, written into ``build``."""
    inner = build.inside(number, in_place=True)
    for index, value in zip(inner.subgraph.inputs, operands, strict=True):
        inner.put_held(index, value)
    inner.run()
    return _truth(build, inner.get(inner.subgraph.outputs[0]))


def _truth(build: Build, value: ir.Value) -> ir.Value:
    """A condition as a scalar: TFLite also takes one of shape [1]."""
    scalar: ir.Value = build.op("Reshape", [value, build.integers([], "scalar")])
    return scalar


def _passed_on(body: Subgraph) -> frozenset[int]:
    """Positions at which the body gives back its own input."""
    pairs = zip(body.inputs, body.outputs, strict=True)
    return frozenset(position for position, (given, result) in enumerate(pairs) if given == result)


def _static_loop(build: Build, operator: Operator, position: int) -> bool:
    """Whether a carried tensor keeps one known shape all through the loop."""
    body = build.subgraphs[int(operator.option("bodySubgraphIndex"))]
    dims = [
        build.tensor(operator.inputs[position]).dims,
        body.tensors[body.inputs[position]].dims,
        body.tensors[body.outputs[position]].dims,
    ]
    return all(one == dims[0] and None not in one for one in dims) and _entry_is_static(build)


def _entry_is_static(build: Build) -> bool:
    """Whether no input of the model leaves a dimension free, which inner tensors do not always say."""
    entry = build.subgraphs[0]
    return all(None not in entry.tensors[index].dims for index in entry.inputs)


def _formal(build: Build, name: str, kind: ir.TensorType, dims: Sequence[int | None]) -> ir.Value:
    return ir.Value(name=build.unique(f"{build.base}/{name}"), type=kind, shape=ir.Shape(list(dims)))


def _as_outputs(inner: Build, values: Sequence[ir.Value]) -> list[ir.Value]:
    """Values a graph may give out: made by a node of its own, each once."""
    own = {output for node in inner.nodes for output in node.outputs}
    taken: set[ir.Value] = set()
    outputs = []
    for value in values:
        result = value if value in own and value not in taken else inner.op("Identity", [value])
        taken.add(result)
        outputs.append(result)
    return outputs


def refuse_state(build: Build, _operator: Operator) -> None:
    """VAR_HANDLE and its like: a value that lives on between two calls."""
    build.refuse(
        "it keeps state between calls, which an ONNX graph cannot; give the state out as an output and "
        "take it as an input in the framework's model, and convert that"
    )
