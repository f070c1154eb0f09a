"""Names for a target's layers, nearest to what the source called its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import onnx_ir as ir

from optim.facts import label, sources_of

# Scopes that control flow and converters add; they name no layer.
_NO_LAYER: Final = re.compile(r"^(cond|while|StatefulPartitionedCall|PartitionedCall|const_fold_opt.*|)$")
_COUNTED: Final = re.compile(r"__\d+$")
_COUNT: Final = re.compile(r"_\d+$")
_ANONYMOUS: Final = re.compile(r"^[A-Za-z]+__\d+(:\d+)?$")  # a node that the converter made: Conv__97
_BORDER: Final = re.compile(r"/Pad(V2)?(_\d+)?(:\d+)?$")
_READ: Final = re.compile(r"/(ReadVariableOp|read)(_\d+)?(:\d+)?$")
_WORDS: Final = {"BatchNormalization": "bn", "MaxPool": "pool", "AveragePool": "pool", "Gemm": "dense"}


class LayerNames:
    """Gives each node of a graph a unique name: the scope that the source's layer gave it.

    ``conv1/Conv2D`` becomes ``conv1``, its ``conv1/Relu`` becomes ``conv1/relu``; a scope that all share is
    left out. No name holds a dot, by which OpenCV separates a layer from the number of its output.
    """

    def __init__(self, nodes: Iterable[ir.Node]) -> None:
        scopes = [scope for scope in (_scope(node) for node in nodes) if len(scope) > 1]
        first = scopes[0][0] if scopes else ""
        shared = len(scopes) > 1 and all(scope[0] == first for scope in scopes)
        self._shared = first if shared else None
        # Keras counts a model's scope and with it every layer's: functional_1/conv_1, functional_1/bn_1, ...
        inner = [scope[1] for scope in scopes]
        self._counted = (
            shared and _COUNT.search(first) is not None and all(_COUNT.search(one) for one in inner)
        )
        self._taken: set[str] = set()
        self.given: dict[str, str] = {}  # name → the ONNX tensor that its node computes

    def of(self, node: ir.Node, part: str = "") -> str:
        """A name that no earlier call has given; ``part`` is one of several layers made of the node."""
        scope = _scope(node)
        if len(scope) > 1 and scope[0] == self._shared:
            scope = [_COUNT.sub("", part) for part in scope[1:]] if self._counted else scope[1:]
        stem = "/".join(scope)
        word = _WORDS.get(node.op_type, node.op_type.lower())
        name = self.unique(f"{stem}/{part}" if part else stem, word)
        self.given[name] = node.outputs[0].name or "" if node.outputs else ""
        return name

    def unique(self, wanted: str, word: str = "") -> str:
        """``wanted``, or with ``word`` and a number behind it where it is taken."""
        name, number = wanted, 1
        if name in self._taken and word and not wanted.endswith(f"/{word}"):
            wanted = name = f"{wanted}/{word}"
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _scope(node: ir.Node) -> list[str]:
    # Where a converter fused nodes and named the result itself, the weights still say whose they are.
    weights = (_READ.sub("", v.name) for v in node.inputs[1:] if v is not None and v.name)
    # A border that was folded into a convolution is not what the convolution is called after.
    sources = sorted(sources_of(node), key=lambda source: _BORDER.search(source) is not None)
    known = (t for t in (*sources, label(node)) if t and not _ANONYMOUS.match(t))
    scoped = (w for w in weights if "/" in w)
    text = next(iter((*known, *scoped, label(node) or node.op_type)))
    text = text.split(";")[0].partition(":")[0]
    parts = [re.sub(r"[^A-Za-z0-9_-]", "_", _COUNTED.sub("", part)) for part in text.split("/")]
    parts = [part for part in parts if not _NO_LAYER.match(part)]
    return (parts[:-1] if len(parts) > 1 else parts) or [node.op_type.lower()]
