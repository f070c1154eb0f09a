"""Constant node → initializer; a weight listed among the inputs → a weight.

Allowed: always for constants. An initializer that is also a graph input is formally a default its caller
may override; exporters list all weights so out of habit. Floating-point arrays are taken as weights;
scalars and integers (switches, shapes) stay inputs.
Numbers: reassociates (nothing is computed, but a runtime may pack a constant weight and use another kernel
for it). https://onnx.ai/onnx/operators/onnx__Constant.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import is_op, rank, site_of
from optim.rewrite import Rewrite


@dataclass(frozen=True)
class LiftConstants:
    """Every constant becomes an initializer of the graph it stands in."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "lift_constants", Numerics.REASSOCIATES, "Constant nodes and listed weights → initializers"
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        _unlist_weights(rw, model)
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in tuple(graph):
                if is_op(node, "Constant") and rw.allows(site_of(node)):
                    _lift(rw, graph, node)
        return rw.outcome()


def _unlist_weights(rw: Rewrite, model: ir.Model) -> None:
    graph = model.graph
    listed = [v for v in graph.inputs if v.name in graph.initializers]
    real = len(graph.inputs) - len(listed)
    for value in listed:
        site = value.name or ""
        if not rw.allows(site):
            continue
        if not (real and rank(value) and value.dtype is not None and value.dtype.is_floating_point()):
            rw.refuse(site, "an input with a default value; the caller may want to set it")
            continue
        graph.inputs.remove(value)
        rw.done(site)


def _lift(rw: Rewrite, graph: ir.Graph, node: ir.Node) -> None:
    output = node.outputs[0]
    if output.is_graph_output():
        rw.refuse(site_of(node), "a graph output must be made by a node")
        return
    tensor = _tensor(node)
    if tensor is None:
        rw.refuse(site_of(node), "holds a sparse tensor or a function's attribute")
        return
    name = output.name or rw.fresh("constant")
    tensor.name = name
    value = ir.Value(
        name=name,
        shape=ir.Shape([d for d in tensor.shape if isinstance(d, int)]),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    rw.done(name)


def _tensor(node: ir.Node) -> ir.TensorProtocol | None:
    if len(node.attributes) != 1:
        return None
    name, attribute = next(iter(node.attributes.items()))
    if attribute.is_ref():
        return None
    match name:
        case "value":
            return attribute.as_tensor()
        case "value_int":
            return ir.tensor(np.int64(attribute.as_int()))
        case "value_ints":
            return ir.tensor(np.asarray(attribute.as_ints(), dtype=np.int64))
        case "value_float":
            return ir.tensor(np.float32(attribute.as_float()))
        case "value_floats":
            return ir.tensor(np.asarray(attribute.as_floats(), dtype=np.float32))
        case "value_string":
            return ir.StringTensor([attribute.as_string().encode()], shape=ir.Shape([]))
        case "value_strings":
            texts = [text.encode() for text in attribute.as_strings()]
            return ir.StringTensor(texts, shape=ir.Shape([len(texts)]))
    return None
