"""Two initializers with the same type, shape and bytes → one.

Allowed: neither is a graph input or output. Weights above ``size_limit_bytes`` are left alone: comparing
them costs reading them. Numbers: exact. https://onnx.ai/onnx/repo-docs/IR.html#graphs
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.rewrite import Rewrite


@dataclass(frozen=True)
class DeduplicateInitializers:
    """Equal initializers are shared; the first stays."""

    size_limit_bytes: int = 1 << 20

    @property
    def info(self) -> PassInfo:
        return PassInfo("deduplicate_initializers", Numerics.EXACT, "equal initializers → one")

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        first: dict[tuple[object, ...], ir.Value] = {}
        for name, value in tuple(model.graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output() or not value.uses():
                continue
            if tensor.nbytes > self.size_limit_bytes:
                continue
            key = _key(tensor)
            kept = first.setdefault(key, value)
            if kept is not value and rw.allows(name):
                value.replace_all_uses_with(kept)
                del model.graph.initializers[name]
                rw.done(name)
        return rw.outcome()


def _key(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    content: object
    if tensor.dtype == ir.DataType.STRING:
        content = tuple(tensor.numpy().reshape(-1).tolist())
    else:
        content = hashlib.sha256(tensor.tobytes()).digest()
    return tensor.dtype, tuple(tensor.shape), content
