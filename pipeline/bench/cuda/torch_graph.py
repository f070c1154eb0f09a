"""An ONNX graph as a PyTorch module, for the baseline "what torch.compile makes of this network".

Covers the operators of the benchmark's image classifiers; anything else is refused by name, so that no
baseline is quoted for another network than the one measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from optim.errors import UnsupportedModelError

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[["Site"], Callable[..., Any]]


@dataclass(frozen=True)
class Site:
    """A node, and what its operator may ask."""

    torch: Any
    node: Any  # onnx.NodeProto
    attributes: Attributes
    constants: Mapping[str, Any]  # arrays by name

    def refuse(self, what: str) -> UnsupportedModelError:
        """The error that names this node."""
        return UnsupportedModelError(f"{self.node.op_type}: {what}", where=self.node.name)


def torch_module(model: Path, torch: Any) -> Any:
    """The graph as a ``torch.nn.Module`` of its inputs, in their order, with ``output_names``.

    Weights are buffers of the module: as mere constants of a function, a compiler that replays CUDA graphs
    would copy them at every call.

    Raises:
        UnsupportedModelError: an operator, or an attribute of one, is not covered; names the node.
    """
    import onnx

    graph = onnx.load(model).graph
    constants = {t.name: np.array(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    held = {name: f"weight_{k}" for k, name in enumerate(constants)}
    steps = []
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        make = _OPERATORS.get(node.op_type)
        if make is None:
            raise UnsupportedModelError(f"{node.op_type} is not covered by the baseline", where=node.name)
        steps.append((make(Site(torch, node, attributes, constants)), list(node.input), list(node.output)))
    names = [i.name for i in graph.input if i.name not in constants]
    results = [o.name for o in graph.output]

    class Network(torch.nn.Module):  # type: ignore[misc]  # the library is loaded late
        output_names = results

        def __init__(self) -> None:
            super().__init__()
            for name, array in constants.items():
                self.register_buffer(held[name], torch.from_numpy(array))

        def forward(self, *inputs: Any) -> Any:
            values = {}
            for name, attribute in held.items():
                values[name] = getattr(self, attribute)
            for name, given in zip(names, inputs, strict=True):
                values[name] = given
            for compute, reads, writes in steps:
                values[writes[0]] = compute(*(values[name] for name in reads if name))
            found = tuple(values[name] for name in results)
            return found[0] if len(found) == 1 else found

    return Network()


def _pads(site: Site) -> list[int]:
    if site.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise site.refuse("auto_pad is not covered; make the padding explicit")
    return list(site.attributes.get("pads", [0, 0, 0, 0]))


def _padded(torch: Any, x: Any, pads: list[int], value: float) -> Any:
    top, left, bottom, right = pads
    return torch.nn.functional.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def _conv(site: Site) -> Callable[..., Any]:
    torch, given = site.torch, site.attributes
    pads, strides = _pads(site), list(given.get("strides", [1, 1]))
    dilations, group = list(given.get("dilations", [1, 1])), int(given.get("group", 1))

    def compute(x: Any, w: Any, b: Any = None) -> Any:
        padded = _padded(torch, x, pads, 0.0)
        return torch.nn.functional.conv2d(padded, w, b, strides, 0, dilations, group)

    return compute


def _max_pool(site: Site) -> Callable[..., Any]:
    torch, given = site.torch, site.attributes
    pads, size, strides = _pads(site), list(given["kernel_shape"]), list(given.get("strides", [1, 1]))
    if given.get("ceil_mode", 0) or any(d != 1 for d in given.get("dilations", [1, 1])):
        raise site.refuse("ceil_mode and dilations are not covered")
    lowest = float("-inf")
    return lambda x: torch.nn.functional.max_pool2d(_padded(torch, x, pads, lowest), size, strides)


def _gemm(site: Site) -> Callable[..., Any]:
    torch, given = site.torch, site.attributes
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        raise site.refuse("alpha and beta are not covered")
    turn_a, turn_b = bool(given.get("transA", 0)), bool(given.get("transB", 0))

    def compute(a: Any, b: Any, c: Any = None) -> Any:
        product = torch.matmul(a.T if turn_a else a, b.T if turn_b else b)
        return product if c is None else product + c

    return compute


def _clip(site: Site) -> Callable[..., Any]:
    torch = site.torch
    bounds = [float(site.constants[n]) if n else None for n in [*site.node.input[1:], "", ""][:2]]
    return lambda x, *_bounds: torch.clamp(x, *bounds)


def _reduce_mean(site: Site) -> Callable[..., Any]:
    torch, inputs = site.torch, site.node.input
    axes = site.attributes.get("axes") or (site.constants[inputs[1]].tolist() if len(inputs) > 1 else None)
    if axes is None:
        raise site.refuse("a mean over all axes is not covered")
    keep = bool(site.attributes.get("keepdims", 1))
    return lambda x, *_axes: torch.mean(x, dim=tuple(axes), keepdim=keep)


def _reshape(site: Site) -> Callable[..., Any]:
    if site.node.input[1] not in site.constants or site.attributes.get("allowzero", 0):
        raise site.refuse("a computed shape is not covered")
    shape = [int(d) for d in site.constants[site.node.input[1]]]
    return lambda x, _shape: x.reshape([x.shape[k] if d == 0 else d for k, d in enumerate(shape)])


def _flatten(site: Site) -> Callable[..., Any]:
    if site.attributes.get("axis", 1) != 1:
        raise site.refuse("only axis 1 is covered")
    return lambda x: x.reshape(x.shape[0], -1)


def _softmax(site: Site) -> Callable[..., Any]:
    torch, axis = site.torch, int(site.attributes.get("axis", -1))
    return lambda x: torch.softmax(x, dim=axis)


def _transpose(site: Site) -> Callable[..., Any]:
    order = tuple(site.attributes["perm"])
    return lambda x: x.permute(order).contiguous()


def _global_average(site: Site) -> Callable[..., Any]:
    torch = site.torch
    return lambda x: torch.mean(x, dim=(2, 3), keepdim=True)


def _plain(name: str) -> Operator:
    """An operator that PyTorch has under this name, with the same arguments."""

    def make(site: Site) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(site.torch, name)
        return found

    return make


_OPERATORS: Mapping[str, Operator] = {
    "Add": _plain("add"),
    "Clip": _clip,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "MatMul": _plain("matmul"),
    "MaxPool": _max_pool,
    "Mul": _plain("mul"),
    "ReduceMean": _reduce_mean,
    "Relu": _plain("relu"),
    "Reshape": _reshape,
    "Sigmoid": _plain("sigmoid"),
    "Softmax": _softmax,
    "Sub": _plain("sub"),
    "Transpose": _transpose,
}
