"""Loops of TensorFlow 1 that are a whole LSTM or GRU layer: the converter makes one operator of each.

Its own patterns decide, run on a copy of the graph: a loop whose LoopCond they take away is left to them.
"""

from __future__ import annotations

from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import GraphDef, NodeDef, by_name, constant, data_inputs, node_of

_FLOATS = frozenset({1, 2, 19})  # DT_FLOAT, DT_DOUBLE, DT_HALF


def recurrent_frames(graph_def: GraphDef, ends: list[str], opset: int) -> set[str]:
    """Names of the frames that become LSTM or GRU operators; not of loops inside branches or other loops."""
    conditions = {node.name for node in graph_def.node if node.op == "LoopCond"}
    if not conditions or not any(node.op == "TensorArrayReadV3" for node in graph_def.node):
        return set()
    nodes = by_name(graph_def)
    taken = conditions - _left_over(graph_def, ends, opset)
    frames: set[str] = set()
    for node in graph_def.node:
        if node.op == "Switch" and node_of(data_inputs(node)[1]) in taken:
            merge = nodes[node_of(data_inputs(node)[0])]
            enters = [nodes[node_of(t)] for t in data_inputs(merge) if nodes[node_of(t)].op == "Enter"]
            frames |= {enter.attr["frame_name"].s.decode() for enter in enters}
    return {
        frame
        for frame in frames
        if _stands_free(graph_def, frame, nodes) and _begins_right(graph_def, frame, nodes)
    }


def _begins_right(graph_def: GraphDef, frame: str, nodes: dict[str, NodeDef]) -> bool:
    """ONNX's operators give zeros as the last state of a sequence of length 0, TensorFlow its initial state:
    the same only where that is zero, or where there are no lengths."""
    scope = frame.rpartition("/")[0]
    if not any(n.op in ("Select", "SelectV2") and n.name.startswith(f"{scope}/") for n in graph_def.node):
        return True
    for node in graph_def.node:
        variable = node.op == "Enter" and not node.attr["is_constant"].b
        if variable and node.attr["frame_name"].s.decode() == frame and node.attr["T"].type in _FLOATS:
            source = nodes[node_of(data_inputs(node)[0])]
            while source.op == "Identity":
                source = nodes[node_of(data_inputs(source)[0])]
            value = nodes[node_of(data_inputs(source)[1])] if source.op == "Fill" else source
            if source.op not in ("ZerosLike", "TensorArrayV3") and not _is_zero(value):
                return False
    return True


def _is_zero(node: NodeDef) -> bool:
    return node.op == "Const" and not constant(node).any()


def recurrent_calls(graph_def: GraphDef, ends: list[str], opset: int) -> set[str]:
    """Names of the While nodes that become LSTM or GRU operators: layers as TensorFlow 2 writes them."""
    import tensorflow as tf
    from tf2onnx import tfonnx
    from tf2onnx.rewriter import rewrite_gru_tf2, rewriter_lstm_tf2

    loops = {node.name for node in graph_def.node if node.op in ("While", "StatelessWhile")}
    if not loops:
        return set()
    graph = import_graph(graph_def)
    with tf.compat.v1.Session(graph=graph):
        try:
            tfonnx.clear_functions()
            main, functions = tfonnx.graphs_from_tf(graph, [], ends)
            for one in (main, *functions):
                one.set_config(None, opset, None)
            for one in functions:  # a body's pattern is looked for in the body itself
                made = tfonnx.process_parsed_graph(one, {}, [], [], False, [], {})
                tfonnx.set_function(made.graph_name, made)
            tfonnx.run_rewriters(main, [rewriter_lstm_tf2, rewrite_gru_tf2], True)
            main.delete_unused_nodes(main.outputs)  # their results are read from the new operators
        except Exception:  # a pattern that fails has recognised nothing
            return set()
    return loops - {node.name for node in main.get_nodes()}


def _left_over(graph_def: GraphDef, ends: list[str], opset: int) -> set[str]:
    """LoopCond nodes that are still there once the converter's patterns were applied."""
    import tensorflow as tf
    from tf2onnx import tfonnx
    from tf2onnx.rewriter.rnn import rewrite_single_direction_gru, rewrite_single_direction_lstm

    graph = import_graph(graph_def)
    with tf.compat.v1.Session(graph=graph):
        try:
            tfonnx.clear_functions()
            main, _ = tfonnx.graphs_from_tf(graph, [], ends)
            main.set_config(None, opset, None)
            tfonnx.run_rewriters(main, [rewrite_single_direction_lstm, rewrite_single_direction_gru], True)
        except Exception:  # a pattern that fails has recognised nothing
            return {node.name for node in graph_def.node if node.op == "LoopCond"}
    return {node.name for node in main.get_nodes() if node.type == "LoopCond"}


def _stands_free(graph_def: GraphDef, frame: str, nodes: dict[str, NodeDef]) -> bool:
    """Whether what enters the frame comes from no branch and no other loop that is still open."""
    pending = [
        node_of(tensor)
        for node in graph_def.node
        if node.op == "Enter" and node.attr["frame_name"].s.decode() == frame
        for tensor in data_inputs(node)
    ]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if nodes[name].op in ("Switch", "Merge", "Enter"):
            return False
        if nodes[name].op != "Exit":
            pending += [node_of(tensor) for tensor in data_inputs(nodes[name])]
    return True
