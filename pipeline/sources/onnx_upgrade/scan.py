"""Scan-8, which ran over a batch by itself, as a Scan-9 over the batch that holds a Scan-9 over the sequence.

Scan-8 took ``[batch, sequence, …]`` and began each example with its own state; Scan-9 has no batch. The outer
loop hands each example's states and sequences to the inner one and stacks the results: exact, for any batch.
https://github.com/onnx/onnx/blob/main/docs/Changelog.md#Scan-8
"""

from __future__ import annotations

import onnx_ir as ir

from pipeline.sources.onnx_upgrade.site import Site


def scan_over_batch(site: Site) -> None:
    """``Scan-8(lengths, states, sequences)`` → ``Scan-9(body=Scan-9(body))``."""
    if site.input(0) is not None:
        site.refuse("it is given sequence lengths; only whole sequences can be carried over")
    body_attribute = site.take("body")
    if body_attribute is None:
        site.refuse("its body is missing")
    body = body_attribute.as_graph()
    count = site.take_int("num_scan_inputs", 1)
    directions = site.take_ints("directions")
    outside = [value for value in site.node.inputs[1:] if value is not None]
    elements = [_one_example(site, value) for value in outside]
    inner = ir.node(
        "Scan", elements, {"body": body, "num_scan_inputs": count}, num_outputs=len(site.node.outputs)
    )
    if directions is not None:
        inner.attributes.update(
            {
                a.name: a
                for a in ir.convenience.convert_attributes({"scan_input_directions": list(directions)})
            }
        )
    inner.name = site.journal.unique(f"{site.place}/sequence")
    for mine, outer in zip(inner.outputs, site.node.outputs, strict=True):
        mine.name = site.journal.unique(f"{outer.name or site.place}/example")
        mine.type = outer.type
    opsets = dict(site.graph.opset_imports)
    batch_body = ir.Graph(
        elements, inner.outputs, nodes=[inner], name=f"{site.place}/batch", opset_imports=opsets
    )
    outer_node = ir.node(
        "Scan",
        outside,
        {"body": batch_body, "num_scan_inputs": len(outside)},
        num_outputs=len(site.node.outputs),
    )
    outer_node.name = site.journal.unique(f"{site.place}/batch")
    for new, old in zip(outer_node.outputs, site.node.outputs, strict=True):
        new.name = site.journal.unique(f"{old.name or site.place}/stacked")
        new.type = old.type
    site.graph.insert_before(site.node, outer_node)
    site.replace(list(outer_node.outputs))


def _one_example(site: Site, value: ir.Value) -> ir.Value:
    """The input of the outer body that carries one example of ``value``."""
    shape = None if value.shape is None else ir.Shape(list(value.shape)[1:])
    return ir.Value(name=site.journal.unique(f"{value.name}/example"), shape=shape, type=value.type)
