"""``ResizeBicubic`` and ``ResizeArea`` as two matrix products: out = A_h · image · A_wᵀ, channel by channel.

Both are linear and separable. Their weights are not ONNX's: TensorFlow looks cubic weights up in a table of
1024 entries, and without half pixels takes a = -0.75; ``Resize`` has no area mode. So TensorFlow itself is
asked for each axis's matrix, by resizing the unit matrix, and the numbers agree to rounding. Sizes must be
known.
"""

from __future__ import annotations

import numpy as np

from optim.contract import Array
from pipeline.sources.tf.fold import import_graph
from pipeline.sources.tf.graph import (
    GraphDef,
    NodeDef,
    by_name,
    constant,
    data_inputs,
    input_name,
    make_constant,
    node_of,
    tensor_name,
)

_OPS = frozenset({"ResizeBicubic", "ResizeArea"})
_FLOAT, _INT32 = 1, 3  # tensorflow/core/framework/types.proto


def resize_by_matrices(graph_def: GraphDef) -> int:
    """Rewrite what has known sizes in ``graph_def``, in place; how many there were."""
    found = [node for node in graph_def.node if node.op in _OPS]
    if not found:
        return 0
    graph, nodes = import_graph(graph_def), by_name(graph_def)
    done = 0
    for node in found:
        image, size = data_inputs(node)
        shape = graph.get_tensor_by_name(tensor_name(image)).shape
        wanted = nodes[node_of(size)]
        if shape.rank != 4 or None in shape[1:].as_list() or wanted.op != "Const":
            continue
        height, width, channels = (int(dim) for dim in shape[1:])
        rows, columns = (int(number) for number in constant(wanted))
        matrices = (_axis_matrix(node, height, rows), _axis_matrix(node, width, columns))
        _rewrite(graph_def, node, matrices, channels)
        done += 1
    return done


def _axis_matrix(node: NodeDef, given: int, wanted: int) -> Array:
    """[wanted, given] weights along one axis, float32."""
    import tensorflow as tf

    unit = np.eye(given, dtype=np.float32)[:, :, None, None]  # one image a basis vector, of width 1
    options = {"align_corners": node.attr["align_corners"].b}
    if node.op == "ResizeBicubic":
        options["half_pixel_centers"] = node.attr["half_pixel_centers"].b
    with tf.Graph().as_default() as graph:
        result = getattr(tf.raw_ops, node.op)(images=unit, size=[wanted, 1], **options)
        with tf.compat.v1.Session(graph=graph) as session:
            resized = session.run(result)
    return np.ascontiguousarray(resized[:, :, 0, 0].T)


def _rewrite(graph_def: GraphDef, node: NodeDef, matrices: tuple[Array, Array], channels: int) -> None:
    by_height, by_width = matrices
    rows, height = by_height.shape
    columns, width = by_width.shape
    name, image, kind = node.name, node.input[0], node.attr["T"].type

    def add(part: str, op: str, *operands: str) -> NodeDef:
        made = graph_def.node.add()
        made.name, made.op = f"{name}/{part}", op
        made.input.extend(operands)
        return made

    def const(part: str, value: Array) -> str:
        made = graph_def.node.add()
        made.name = f"{name}/{part}"
        make_constant(made, value)
        return str(made.name)

    def reshaped(part: str, tensor: str, *dims: int) -> str:
        made = add(part, "Reshape", tensor, const(f"{part}/shape", np.asarray(dims, np.int32)))
        made.attr["T"].type, made.attr["Tshape"].type = _FLOAT, _INT32
        return str(made.name)

    def product(part: str, matrix: Array, tensor: str) -> str:
        made = add(part, "BatchMatMulV2", const(f"{part}/weights", matrix), tensor)
        made.attr["T"].type = _FLOAT
        return str(made.name)

    if kind != _FLOAT:
        cast = add("float", "Cast", image)
        cast.attr["SrcT"].type, cast.attr["DstT"].type = kind, _FLOAT
        image = cast.name
    tall = product("height", by_height, reshaped("lines", input_name(image), -1, height, width * channels))
    wide = product("width", by_width, reshaped("columns", tall, -1, width, channels))
    shape = const("shape", np.asarray([-1, rows, columns, channels], np.int32))
    node.Clear()
    node.name, node.op = name, "Reshape"
    node.input.extend([wide, shape])
    node.attr["T"].type, node.attr["Tshape"].type = _FLOAT, _INT32
