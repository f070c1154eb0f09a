"""The inference head of a training graph: what the last trained layers compute, before the loss uses it.

1. A *base* is an op with trained weights from which no other such op is reached: the last layer of a branch.
2. A *label* is a data source that reaches no trained op; what depends on one, on a loss op, or on a reduction
   over the batch belongs to the loss.
3. From each base the head extends forward. Where it ends with nothing reading it, that end is the output (a
   softmax beside the loss). Where everything goes on into the loss, the output is the last tensor before the
   loss begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.sources.tf.graph import NodeDef, ancestors, constant, data_inputs, node_of

_PARAMETRISED = frozenset(
    {"Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul", "BatchMatMul", "BatchMatMulV2",
     "Conv2DBackpropInput", "Conv3DBackpropInputV2", "GatherV2", "Gather", "ResourceGather"}
)  # fmt: skip
_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp"})
_LOSS_OPS = re.compile(r"SoftmaxCrossEntropyWithLogits|^L2Loss$|^CTCLoss|^InTopK|CandidateSampler$")
_DATA = re.compile(r"Placeholder|Iterator|Dequeue|Random|Reader")
_REDUCTIONS = frozenset({"Mean", "Sum", "Prod", "Max", "Min", "All", "Any"})
# Ops that begin a distance or a metric when all of what follows is the loss.
_DISTANCE = frozenset(
    {"Sub", "SquaredDifference", "Square", "Abs", "Pow", "Log", "Log1p", "Neg", "Exp", "Greater",
     "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual", "Select", "SelectV2", "ArgMax", "Cast",
     "Round",
     "TopKV2", "Rank", "Shape", "Size", "ZerosLike", "OnesLike", "ClipByValue", "Minimum", "Slice",
     "StridedSlice", "Mul", "Add", "AddV2", "Sum", "Mean", "Reshape", "Squeeze"}
)  # fmt: skip
_METADATA = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
# Reading a score only to name a class does not make it part of the loss.
_CLASS_CHOICES = frozenset({"ArgMax", "ArgMin", "TopKV2", "InTopK", "InTopKV2", "Round"})
_INTEGERS = frozenset({3, 9})  # int32 and int64, tensorflow/core/framework/types.proto
_INDICES = frozenset({"ArgMax", "ArgMin", "TopKV2", "Round", "Equal", "Cast", "Greater", "GreaterEqual"})


def training_heads(
    nodes: Mapping[str, NodeDef], sources: set[str], named: set[str]
) -> tuple[list[str], list[str]]:
    """Head tensors, and the label sources that were set aside.

    Args:
        nodes: the forward part of the graph, by name.
        sources: data sources, as tensors.
        named: the sources that the user calls inputs.
    """
    readers = _readers(nodes)
    trained = {
        name
        for name, node in nodes.items()
        if node.op in _PARAMETRISED and (_has_weights(node, nodes) or _computes_weights(node, nodes))
    }
    fed = _forward(readers, sources)
    trained &= fed
    labels = sorted(t for t in sources - named if not _forward(readers, {t}) & trained)
    feeding = sources - set(labels)
    bases = [name for name in nodes if name in trained and not (_forward(readers, {f"{name}:0"}) & trained)]
    loss = _forward(readers, set(labels)) | _loss_nodes(nodes)
    loss |= _forward(readers, {f"{name}:{i}" for name in loss for i in range(2)})
    inference = _forward(readers, feeding) - loss
    heads: dict[str, None] = {}
    for base in bases:
        if base in inference:
            for head in _heads_of(base, nodes, readers, inference, loss):
                heads[f"{_as_trained(head, nodes, readers)}:0"] = None
    return _ends_only(list(heads), nodes), labels


def _heads_of(
    base: str,
    nodes: Mapping[str, NodeDef],
    readers: Mapping[str, list[str]],
    inference: set[str],
    loss: set[str],
) -> list[str]:
    reached = [name for name in nodes if name in _forward(readers, {f"{base}:0"}) and name in inference]
    ends = [
        name
        for name in [base, *reached]
        if nodes[name].op not in _METADATA | _INDICES
        and all(nodes[reader].op in _CLASS_CHOICES for reader in _read_by(name, readers))
    ]
    if ends:
        return ends
    current = base
    while True:
        following = _read_by(current, readers)
        onward = [name for name in following if name in inference and nodes[name].op not in _METADATA]
        if len(onward) != 1 or any(name in loss for name in following):
            return [current]
        if nodes[onward[0]].op in _DISTANCE and not _stays_layer(onward[0], nodes, readers, loss):
            return [current]
        current = onward[0]


def _as_trained(head: str, nodes: Mapping[str, NodeDef], readers: Mapping[str, list[str]]) -> str:
    """Of a head and its copy in the other layout, the one that training looks at: ``Transpose`` at the end
    whose operand something else reads too serves only whoever exports the model."""
    while nodes[head].op == "Transpose":
        operand = data_inputs(nodes[head])[0]
        if len(set(readers.get(operand, []))) < 2 or nodes[node_of(operand)].op in _METADATA:
            break
        head = node_of(operand)
    return head


def _stays_layer(
    name: str, nodes: Mapping[str, NodeDef], readers: Mapping[str, list[str]], loss: set[str]
) -> bool:
    """Whether an op that may be part of a loss is still a layer: a bias, a skip connection, or a reshape that
    an activation follows."""
    node = nodes[name]
    if node.op in ("Add", "AddV2", "Mul") and _has_weights(node, nodes):
        return True
    if node.op in ("Add", "AddV2", "Reshape", "Squeeze"):
        following = _read_by(name, readers)
        return any(nodes[one].op not in _DISTANCE for one in following if one not in loss) or any(
            _LOSS_OPS.search(nodes[one].op) for one in following
        )
    return False


def _read_by(name: str, readers: Mapping[str, list[str]]) -> list[str]:
    return [reader for index in range(3) for reader in readers.get(f"{name}:{index}", [])]


def _readers(nodes: Mapping[str, NodeDef]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for tensor in data_inputs(node):
            found.setdefault(tensor, []).append(name)
    return found


def _forward(readers: Mapping[str, list[str]], start: set[str]) -> set[str]:
    """Nodes that depend on the tensors ``start``."""
    seen: set[str] = set()
    pending = list(start)
    while pending:
        for name in readers.get(pending.pop(), []):
            if name not in seen:
                seen.add(name)
                pending += [f"{name}:{index}" for index in range(8)]
    return seen


def _has_weights(node: NodeDef, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether an operand is a variable or a constant tensor, read directly."""
    for tensor in data_inputs(node):
        source = nodes.get(node_of(tensor))
        while source is not None and source.op in ("Identity", "ReadVariableOp", "Enter") and source.input:
            source = nodes.get(node_of(source.input[0]))
        if source is None or source.op in _VARIABLES:
            return True
        if source.op == "Const" and len(source.attr["value"].tensor.tensor_shape.dim):
            return True
    return False


def _computes_weights(node: NodeDef, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether an operand is computed from variables alone: put together from parts, or normalised."""
    for tensor in data_inputs(node):
        kinds = {nodes[name].op for name in ancestors(nodes, [tensor])}
        if kinds & _VARIABLES and not kinds & _PARAMETRISED and not any(_DATA.search(kind) for kind in kinds):
            return True
    return False


def _loss_nodes(nodes: Mapping[str, NodeDef]) -> set[str]:
    return {name for name, node in nodes.items() if _LOSS_OPS.search(node.op) or _reduces_batch(node, nodes)}


def _reduces_batch(node: NodeDef, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether a reduction includes axis 0, as losses and metrics do and inference does not."""
    if node.op not in _REDUCTIONS or len(data_inputs(node)) != 2 or node.attr["T"].type in _INTEGERS:
        return False  # integers are shapes, multiplied up by Flatten
    axes = nodes.get(node_of(data_inputs(node)[1]))
    if axes is None or node.attr["keep_dims"].b:  # batch statistics of a normalisation keep their rank
        return False
    if axes.op != "Const":
        return bool(axes.op == "Range")
    return any(int(axis) == 0 for axis in constant(axes).reshape(-1))


def _ends_only(heads: list[str], nodes: Mapping[str, NodeDef]) -> list[str]:
    before: set[str] = set()
    for head in heads:
        before |= ancestors(nodes, [head]) - {node_of(head)}
    return [head for head in heads if node_of(head) not in before]
