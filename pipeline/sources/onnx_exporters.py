"""Known faults of exporters, repaired in terms of the file's own opset before the graph is read further."""

from __future__ import annotations

import re

import onnx_ir as ir

from pipeline.sources.onnx_upgrade.upgrade import opset_of


def repair_exporter_faults(model: ir.Model) -> tuple[str, ...]:
    """Repair ``model`` in place; one note for each repair.

    PyTorch before 0.4 exported ``avg_pool2d``, which counts its padding by default, as an AveragePool, which
    before opset 7 could not say so; from 0.4 on the exporter writes a Pad of its own, as is done here.

    Nodes that share a name, which the standard allows and ONNX Runtime refuses, are told apart.
    """
    return (*_tell_twins_apart(model), *_restore_padding(model))


def _tell_twins_apart(model: ir.Model) -> tuple[str, ...]:
    taken: set[str] = set()
    renamed = 0
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not node.name:
            continue
        name, number = node.name, 0
        while name in taken:
            number += 1
            name = f"{node.name}__{number}"
        renamed += name != node.name
        node.name = name
        taken.add(name)
    return (f"{renamed} nodes bore the name of another and were renamed",) if renamed else ()


def _restore_padding(model: ir.Model) -> tuple[str, ...]:
    if opset_of(model) >= 7 or not _is_pytorch_before_0_4(model):
        return ()
    padded = [node for node in model.graph if node.op_type == "AveragePool" and any(_pads(node))]
    for node in padded:
        _pad_before(model.graph, node)
    if not padded:
        return ()
    names = ", ".join(node.name or node.outputs[0].name or "?" for node in padded)
    return (
        f"PyTorch {model.producer_version} left out that average pooling counts padding; restored: {names}",
    )


def _is_pytorch_before_0_4(model: ir.Model) -> bool:
    version = re.match(r"0\.(\d+)", model.producer_version or "")
    return model.producer_name == "pytorch" and version is not None and int(version[1]) < 4


def _pads(node: ir.Node) -> tuple[int, ...]:
    attribute = node.attributes.get("pads")
    return () if attribute is None else tuple(attribute.as_ints())


def _pad_before(graph: ir.Graph, pool: ir.Node) -> None:
    """``AveragePool(pads)`` → ``Pad`` with zeros, then ``AveragePool`` without; pads as [begin…, end…]."""
    pads, data = _pads(pool), pool.inputs[0]
    half = len(pads) // 2
    full = [0, 0, *pads[:half], 0, 0, *pads[half:]]
    pad = ir.node("Pad", [data], {"pads": full, "mode": "constant", "value": 0.0})
    pad.name = pad.outputs[0].name = f"{pool.outputs[0].name}/padding"
    if data is not None:
        pad.outputs[0].type = data.type
    graph.insert_before(pool, pad)
    pool.replace_input_with(0, pad.outputs[0])
    pool.attributes.pop("pads")
