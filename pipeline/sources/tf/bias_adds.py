"""A convolution plus one number a channel, written as ``Add``, becomes ``BiasAdd``.

conv [N, …, C] + const [C] is what ``BiasAdd`` is defined as for channels-last data
(https://www.tensorflow.org/api_docs/python/tf/raw_ops/BiasAdd): exact. The converter makes one convolution
with a bias of the two and keeps the name of the sum; an ``Add`` it fuses later, and its name is lost.
"""

from __future__ import annotations

from pipeline.sources.tf.graph import GraphDef, NodeDef, attr_shape, by_name, data_inputs, input_name, node_of

_CONVOLUTIONS = frozenset({"Conv2D", "Conv2DBackpropInput"})
_ADDS = frozenset({"Add", "AddV2"})
# Kernels are HWIO; of a transposed convolution HWOI.
_CHANNEL_AXIS = {"Conv2D": 3, "Conv2DBackpropInput": 2}


def use_bias_adds(graph_def: GraphDef) -> int:
    """Rewrite the sums of ``graph_def``, in place; how many there were."""
    nodes = by_name(graph_def)
    count = 0
    for node in graph_def.node:
        if node.op not in _ADDS:
            continue
        for convolved, bias in (data_inputs(node), data_inputs(node)[::-1]):
            convolution = nodes.get(node_of(convolved))
            if convolution is not None and _is_bias(nodes.get(node_of(bias)), convolution, nodes):
                _rewrite(node, convolved, bias)
                count += 1
                break
    return count


def _is_bias(node: NodeDef | None, convolution: NodeDef, nodes: dict[str, NodeDef]) -> bool:
    """Whether ``node`` is a constant with one number for each channel that ``convolution`` gives."""
    if node is None or node.op != "Const" or convolution.op not in _CONVOLUTIONS:
        return False
    if "data_format" in convolution.attr and convolution.attr["data_format"].s != b"NHWC":
        return False
    kernel = _kernel_shape(convolution, nodes)
    return kernel is not None and _shape_of(node) == (kernel[_CHANNEL_AXIS[convolution.op]],)


def _kernel_shape(convolution: NodeDef, nodes: dict[str, NodeDef]) -> tuple[int | None, ...] | None:
    source = nodes.get(node_of(data_inputs(convolution)[1]))
    while source is not None and source.op == "Identity":
        source = nodes.get(node_of(data_inputs(source)[0]))
    return _shape_of(source)


def _shape_of(node: NodeDef | None) -> tuple[int | None, ...] | None:
    if node is None:
        return None
    if node.op == "Const":
        return tuple(int(dim.size) for dim in node.attr["value"].tensor.tensor_shape.dim)
    return attr_shape(node) if node.op == "Placeholder" else None


def _rewrite(node: NodeDef, convolved: str, bias: str) -> None:
    name, kind = node.name, node.attr["T"].type
    node.Clear()
    node.name, node.op = name, "BiasAdd"
    node.input.extend([input_name(convolved), input_name(bias)])
    node.attr["T"].type = kind
    node.attr["data_format"].s = b"NHWC"
