"""The whole way: any control flow → StatelessIf and StatelessWhile over plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.sources.tf.flow.arrays import lower_arrays
from pipeline.sources.tf.flow.branches import conditions_of, functionalise_branches
from pipeline.sources.tf.flow.cases import chain_switches
from pipeline.sources.tf.flow.flatten import FUNCTIONAL
from pipeline.sources.tf.flow.loops import functionalise_loops
from pipeline.sources.tf.flow.recurrent import recurrent_frames
from pipeline.sources.tf.flow.shapes import flow_types
from pipeline.sources.tf.graph import GraphDef, prune

_FLAT = frozenset({"Switch", "Merge", "Enter", "_SwitchN"})
_ARRAYS = ("TensorArray", "TensorList", "EmptyTensorList")


def functionalise(graph_def: GraphDef, ends: Sequence[str], opset: int) -> GraphDef:
    """``graph_def``, in which no node calls a function, with functions in place of flat control flow.

    Loops that the converter knows as LSTM or GRU layers stay as they are.

    Raises:
        UnsupportedModelError: a branch or loop has a form that TensorFlow's own functions do not write.
    """
    if not any(node.op in _FLAT or node.op.startswith(_ARRAYS) for node in graph_def.node):
        return graph_def
    chain_switches(graph_def)
    kept = recurrent_frames(graph_def, list(ends), opset)
    lower_arrays(graph_def, kept, {node.name for node in graph_def.node if node.op in FUNCTIONAL})
    types, conditions = flow_types(graph_def), conditions_of(graph_def, ends)
    functionalise_loops(graph_def, types, conditions, kept)
    functionalise_branches(graph_def, ends, types, conditions)
    return prune(graph_def, ends)
