"""Functional control flow → Switch, Merge and frames, by TensorFlow's own function optimiser."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipeline.sources.tf.clean import clean
from pipeline.sources.tf.graph import GraphDef, all_nodes, node_of

FUNCTIONAL = frozenset({"If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


def flatten(graph_def: GraphDef, ends: Sequence[str], kept: Collection[str] = ()) -> GraphDef:
    """A copy in which no node but those ``kept`` calls a function; ``graph_def`` itself where none does.

    Raises:
        ValueError: TensorFlow rejects the graph.
    """
    calls = [node for node in graph_def.node if node.op in FUNCTIONAL or node.op in _CALLS]
    if all(node.name in kept for node in calls):
        return graph_def
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    meta_graph = meta_graph_pb2.MetaGraphDef()
    meta_graph.graph_def.CopyFrom(graph_def)
    for node in all_nodes(meta_graph.graph_def):
        if node.op in FUNCTIONAL or node.op in _CALLS:
            node.attr["_lower_using_switch_merge"].b = node.name not in kept
    inputs = [node.name for node in graph_def.node if node.op == "Placeholder"]
    fetched = dict.fromkeys([*(node_of(tensor) for tensor in ends), *inputs])
    meta_graph.collection_def["train_op"].node_list.value.extend(fetched)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1  # small graphs too
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    options.optimizers.append("function")
    flat: GraphDef = tf_optimizer.OptimizeGraph(config, meta_graph)
    clean(flat)
    return flat
