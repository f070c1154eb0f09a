"""Channels-first graphs on a CPU: TensorFlow has most kernels in channels-last only, so the reference run
turns each channels-first node round: Transpose → the same op, channels-last → Transpose. Exact.
"""

from __future__ import annotations

from pipeline.sources.tf.graph import GraphDef, NodeDef, data_inputs, input_name, node_of

_TO_LAST = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
_TO_FIRST = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
# Op → position of the data operand; its outputs of full rank are output 0.
_DATA_OPERAND = {
    "Conv2D": 0, "DepthwiseConv2dNative": 0, "Conv3D": 0, "Conv2DBackpropInput": 2,
    "Conv3DBackpropInputV2": 2, "MaxPool": 0, "AvgPool": 0, "MaxPool3D": 0, "AvgPool3D": 0, "BiasAdd": 0,
    "FusedBatchNorm": 0, "FusedBatchNormV2": 0, "FusedBatchNormV3": 0, "DepthToSpace": 0, "SpaceToDepth": 0,
}  # fmt: skip
_PER_AXIS = ("strides", "dilations", "ksize")
_RANK = {b"NCHW": 4, b"NCDHW": 5}
_LAST = {4: b"NHWC", 5: b"NDHWC"}


def channels_last(graph_def: GraphDef) -> int:
    """Turn the channels-first nodes of ``graph_def`` round, in place; how many there were."""
    turned = 0
    for node in list(graph_def.node):
        rank = _RANK.get(node.attr["data_format"].s) if "data_format" in node.attr else None
        if rank is not None and node.op in _DATA_OPERAND:
            _turn(graph_def, node, rank)
            turned += 1
    return turned


def _turn(graph_def: GraphDef, node: NodeDef, rank: int) -> None:
    to_last = _TO_LAST[rank]
    name, kind = node.name, node.attr["T"].type
    inner = graph_def.node.add()
    inner.CopyFrom(node)
    inner.name = f"{name}/channels_last"
    inner.attr["data_format"].s = _LAST[rank]
    for key in _PER_AXIS:
        if key in inner.attr:
            values = list(inner.attr[key].list.i)
            inner.attr[key].list.i[:] = [values[axis] for axis in to_last]
    if "explicit_paddings" in inner.attr and inner.attr["explicit_paddings"].list.i:
        pads = list(inner.attr["explicit_paddings"].list.i)
        inner.attr["explicit_paddings"].list.i[:] = [
            pads[2 * axis + end] for axis in to_last for end in (0, 1)
        ]
    position = _DATA_OPERAND[node.op]
    operands = data_inputs(node)
    data = _transpose(graph_def, f"{name}/to_channels_last", operands[position], to_last, kind)
    inner.input[position] = data
    if node.op.endswith(("BackpropInput", "BackpropInputV2")):
        inner.input[0] = _permuted_sizes(graph_def, name, operands[0], to_last)
    result = _transpose(graph_def, f"{name}/to_channels_first", f"{inner.name}:0", _TO_FIRST[rank], kind)
    # The node's own name carries the result; further outputs (batch statistics) come from the inner node.
    for other in graph_def.node:
        for index, text in enumerate(other.input):
            if not text.startswith("^") and node_of(text) == name and ":" in text and not text.endswith(":0"):
                other.input[index] = f"{inner.name}:{text.rpartition(':')[2]}"
    node.Clear()
    node.name, node.op = name, "Identity"
    node.input.append(result)
    node.attr["T"].type = kind


def _transpose(graph_def: GraphDef, name: str, tensor: str, permutation: tuple[int, ...], kind: int) -> str:
    import numpy as np

    from pipeline.sources.tf.graph import make_constant

    axes = graph_def.node.add()
    axes.name = f"{name}/perm"
    make_constant(axes, np.asarray(permutation, np.int32))
    node = graph_def.node.add()
    node.name, node.op = name, "Transpose"
    node.input.extend([input_name(tensor), axes.name])
    node.attr["T"].type = kind
    node.attr["Tperm"].type = axes.attr["dtype"].type
    return str(node.name)


def _permuted_sizes(graph_def: GraphDef, name: str, tensor: str, permutation: tuple[int, ...]) -> str:
    import numpy as np
    import tensorflow as tf

    from pipeline.sources.tf.graph import make_constant

    order = graph_def.node.add()
    order.name = f"{name}/sizes_order"
    make_constant(order, np.asarray(permutation, np.int32))
    axis = graph_def.node.add()
    axis.name = f"{name}/sizes_axis"
    make_constant(axis, np.asarray(0, np.int32))
    node = graph_def.node.add()
    node.name, node.op = f"{name}/sizes_channels_last", "GatherV2"
    node.input.extend([input_name(tensor), order.name, axis.name])
    int32 = tf.int32.as_datatype_enum
    node.attr["Tparams"].type = node.attr["Tindices"].type = node.attr["Taxis"].type = int32
    return str(node.name)
