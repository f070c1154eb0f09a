"""The outputs of a graph whose user named none.

An inference graph's outputs are its ends: what nothing reads. In a graph that also trains, the inference
head is looked for (``training_heads.py``). Gradients, optimisers, summaries, savers and initialisers are left
out first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from optim.errors import UserError
from pipeline.sources.tf.graph import GraphDef, NodeDef, by_name, data_inputs, node_of, tensor_name
from pipeline.sources.tf.training_heads import training_heads

_SIDE_OPS = re.compile(
    r"Summary|^Assert$|^NoOp$|^Save|^Restore|^Print|^(Resource)?(Assign|Apply|Scatter|Sparse.*Apply)|Grad$|"
    r"Gradient$|^Merge(V2Checkpoints|Summary)|^Write|Enqueue|Queue(V2)?$|QueueClose|QueueSize|Dataset|"
    r"^(OneShot)?Iterator(V2)?$|^MakeIterator|^IteratorToStringHandle|^ShardedFilename|^StringJoin|"
    r"IsVariableInitialized|^VarIsInitializedOp"
)
_SIDE_SCOPES = re.compile(
    r"(^|/)(gradients?(_\d+)?|save(_\d+)?|Initializer|report_uninitialized_variables|init(_\d+)?|"
    r"[Aa]dam|RMSProp|Momentum|GradientDescent|ExponentialMovingAverage|train_op|optimizer)(_\d+)?(/|$)"
)
_TRAINING = re.compile(r"^(Resource)?(Sparse)?Apply|CrossEntropyWithLogits|^CTCLoss|Iterator")
_UPDATES = re.compile(r"^(Resource)?(Assign|Apply|Scatter|Sparse.*Apply)")
_NO_OUTPUT = re.compile(
    r"^(Variable(V2)?|VarHandleOp|ReadVariableOp|Const|Placeholder.*|NoOp|Assert|IteratorGetNext|Shape|Rank|Size)$"
)
_SOURCES = re.compile(r"^Placeholder|^IteratorGetNext$|^QueueDequeue")
_MOST_NAMES = 4
_LAST_STEPS = frozenset({"Softmax", "Sigmoid", "LogSoftmax", "Tanh", "Transpose", "Squeeze", "Identity"})
_NEXT_STEPS = frozenset(
    {"Softmax", "Sigmoid", "LogSoftmax", "Tanh", "Transpose", "ArgMax", "TopKV2", "Identity"}
)
_INDICES = frozenset({"ArgMax", "TopKV2", "Equal", "InTopK", "InTopKV2", "Round"})


@dataclass(frozen=True)
class Heads:
    """Output tensors and why they were chosen."""

    outputs: tuple[str, ...]
    why: str


def find_heads(graph_def: GraphDef, inputs: tuple[str, ...] = ()) -> Heads:
    """The inference outputs of ``graph_def``; ``inputs`` are the tensors that the user calls inputs.

    Raises:
        UserError: nothing looks like an output.
    """
    nodes = {name: node for name, node in by_name(graph_def).items() if not _is_side(node)}
    named = {tensor_name(tensor) for tensor in inputs}
    sources = named | {t for node in nodes.values() for t in data_inputs(node) if _is_source(t, nodes)}
    if any(_TRAINING.search(node.op) for node in graph_def.node):
        heads, labels = training_heads(nodes, sources, named)
        if heads:
            why = "outputs found: what the last trained layers compute, before losses and metrics"
            shown = ", ".join(labels[:_MOST_NAMES]) + (", …" if len(labels) > _MOST_NAMES else "")
            why += f"; labels set aside: {shown}" if labels else ""
            return Heads(tuple(heads), f"{why}: {', '.join(heads)}{_others(nodes, heads, sources)}")
    stored = {node_of(t) for node in graph_def.node if _UPDATES.search(node.op) for t in data_inputs(node)}
    ends = _ends(nodes, sources, stored)
    if not ends:
        raise UserError(
            "no output could be found in the graph",
            expected="a tensor that depends on the inputs and serves no loss",
            hint="name it: --outputs 'softmax:0'",
        )
    why = f"outputs found as the ends of the graph: {', '.join(ends)}"
    return Heads(tuple(ends), f"{why}{_others(nodes, ends, sources)}")


def _others(nodes: dict[str, NodeDef], heads: list[str], sources: set[str]) -> str:
    """What else could have been meant, for the note: the scores before an activation, the same in the other
    layout, and the class chosen from it."""
    chosen = {node_of(tensor) for tensor in heads}
    found: dict[str, None] = {}
    for name in heads:
        node = nodes[node_of(name)]
        if node.op in _LAST_STEPS and (before := nodes.get(node_of(data_inputs(node)[0]))) is not None:
            found[f"{before.name}:0"] = None
    fed = _fed(nodes, sources)
    for name, node in nodes.items():
        reads = {node_of(tensor) for tensor in data_inputs(node)}
        if name in fed and node.op in _NEXT_STEPS and reads & chosen:
            found[f"{name}:0"] = None
    others = [tensor for tensor in found if node_of(tensor) not in chosen]
    if not others:
        return ""
    shown = ", ".join(others[:_MOST_NAMES]) + (", …" if len(others) > _MOST_NAMES else "")
    return f"; others that could be named with --outputs: {shown}"


def _is_side(node: NodeDef) -> bool:
    return bool(_SIDE_OPS.search(node.op) or _SIDE_SCOPES.search(node.name))


def _is_source(tensor: str, nodes: dict[str, NodeDef]) -> bool:
    node = nodes.get(node_of(tensor))
    return node is not None and _SOURCES.search(node.op) is not None


def _ends(nodes: dict[str, NodeDef], sources: set[str], stored: set[str]) -> list[str]:
    """Tensors that nothing reads; what is only ``stored`` in a variable is an update, no output."""
    read = stored | {node_of(tensor) for node in nodes.values() for tensor in data_inputs(node)}
    fed = _fed(nodes, sources)
    ends = [
        name for name in nodes if name in fed and name not in read and not _NO_OUTPUT.search(nodes[name].op)
    ]
    scores = [name for name in ends if nodes[name].op not in _INDICES]
    return [f"{name}:0" for name in scores or ends]


def _fed(nodes: dict[str, NodeDef], sources: set[str]) -> set[str]:
    """Nodes that depend on a source."""
    readers: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for tensor in data_inputs(node):
            readers.setdefault(node_of(tensor), []).append(name)
    seen: set[str] = set()
    pending = [node_of(tensor) for tensor in sources]
    while pending:
        for name in readers.get(pending.pop(), []):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return seen
