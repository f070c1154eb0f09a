"""Read an ONNX file that may be damaged or hostile."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from optim.errors import UserError


def load_untrusted(path: Path) -> ir.Model:
    """The model in ``path``, its weights lazy; external data are mapped only from its own folder.

    Raises:
        UserError: no such file, no ONNX model in it, or external data that are missing, too short, or
            lie outside the model's folder.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected="an ONNX model")
    try:
        model = ir.load(path, format="protobuf")
    except UserError:
        raise
    except Exception as error:  # protobuf, UTF-8, missing fields: every parser has its own class
        raise UserError(
            f"cannot be read as ONNX: {_first_line(error)}",
            where=str(path),
            expected="a complete ONNX protobuf file",
            hint="copy or export the file again; its size or checksum may tell whether it was cut short",
        ) from error
    if not len(model.graph) and not model.graph.outputs:
        raise UserError("holds no graph", where=str(path), expected="an ONNX model with outputs")
    for graph in model.graphs():
        _free_negative_dimensions(graph)
        for value in graph.initializers.values():
            if value.const_value is not None:
                _check_tensor(value.const_value, path)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    _check_tensor(attribute.as_tensor(), path)
    return model


def _free_negative_dimensions(graph: ir.Graph) -> None:
    """Some writers put -1 where the standard wants a free dimension to have no value."""
    for value in (*graph.inputs, *graph.outputs, *(output for node in graph for output in node.outputs)):
        shape = value.shape
        if shape is not None and any(isinstance(d, int) and d < 0 for d in shape):
            value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in shape])


def _check_tensor(tensor: ir.TensorProtocol, model: Path) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        _check_external(tensor, model)
        return
    if tensor.dtype == ir.DataType.STRING:
        return
    try:
        array = tensor.numpy()
    except Exception as error:
        raise UserError(
            f"weight {tensor.name!r} is damaged: {_first_line(error)}", where=str(model)
        ) from error
    if array.shape != tuple(tensor.shape.numpy()):
        raise UserError(f"weight {tensor.name!r} does not have the shape it states", where=str(model))


def _check_external(tensor: ir.ExternalTensor, model: Path) -> None:
    folder = model.resolve().parent
    target = (folder / str(tensor.location)).resolve()
    where = f"{model}: weight {tensor.name!r}"
    if not target.is_relative_to(folder):
        raise UserError(
            f"its external data lie outside the model's folder: {tensor.location}",
            where=where,
            expected="a file beside the model",
            hint="move the data file beside the model and correct its location",
        )
    if not target.is_file():
        raise UserError(f"its external data file {tensor.location} is missing", where=where)
    needed = (tensor.offset or 0) + tensor.nbytes
    stated = tensor.length if tensor.length is not None else tensor.nbytes
    if stated != tensor.nbytes or target.stat().st_size < needed or (tensor.offset or 0) < 0:
        raise UserError(
            f"its external data do not hold the {tensor.nbytes} bytes that its shape needs", where=where
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
