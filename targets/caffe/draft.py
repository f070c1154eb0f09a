"""The net as it grows: one layer after another, and which blob holds which ONNX value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array
from optim.facts import constant_of
from targets.axis_order import Held, Perm, held_shape_of, identity, refuse
from targets.caffe.net import Layer, Options
from targets.layer_names import LayerNames


@dataclass(frozen=True)
class PlacedWeight:
    """Where an ONNX initializer went: a layer's blob, whose two axes are turned if ``turned``."""

    layer: str
    shape: tuple[int, ...]
    turned: bool = False


@dataclass
class Draft:
    """Collects layers while the graph is walked in order. A blob is named after its layer."""

    names: LayerNames
    layers: list[Layer] = field(default_factory=list)
    weights: dict[str, PlacedWeight] = field(default_factory=dict)  # by ONNX initializer
    _held: dict[str, Held] = field(default_factory=dict)

    def add(
        self,
        node: ir.Node,
        kind: str,
        bottoms: Sequence[str],
        parameters: Mapping[str, Options] | None = None,
        blobs: Sequence[Array] = (),
        *,
        part: str = "",
    ) -> str:
        """Append a layer of type ``kind`` with one top; returns the top's name."""
        name = self.names.of(node, part)
        arrays = tuple(np.asarray(blob, dtype=np.float32) for blob in blobs)
        self.layers.append(Layer(name, kind, tuple(bottoms), (name,), parameters or {}, arrays))
        return name

    def placed(self, node: ir.Node, position: int, layer: str, blob: int, *, turned: bool = False) -> None:
        """Note that a node's constant input went into blob number ``blob`` of ``layer``."""
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is not None and value.name:
            made = next(one for one in self.layers if one.name == layer)
            self.weights[value.name] = PlacedWeight(layer, tuple(made.blobs[blob].shape), turned)

    @property
    def held_values(self) -> dict[str, Held]:
        """How every ONNX value is held."""
        return dict(self._held)

    def power(
        self,
        node: ir.Node,
        bottom: str,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
        power: float = 1.0,
        part: str = "",
    ) -> str:
        """(scale · x + shift)^power."""
        given = {"power": power, "scale": scale, "shift": shift}
        defaults = {"power": 1.0, "scale": 1.0, "shift": 0.0}
        options = {key: float(value) for key, value in given.items() if value != defaults[key]}
        return self.add(node, "Power", [bottom], {"power_param": options}, part=part)

    def barrier(self, node: ir.Node, bottom: str, rank: int) -> str:
        """A Reshape that changes nothing.

        OpenCV fuses a scale that follows a Power as if its exponent were 1, and one that differs along other
        axes than the channels as if it did along them; not across a Reshape.
        """
        return self.add(node, "Reshape", [bottom], {"reshape_param": {"shape": [0] * rank}}, part="barrier")

    def cut(
        self, node: ir.Node, bottom: str, axis: int, bounds: Sequence[int], *, kept: Sequence[bool]
    ) -> list[str]:
        """Slice ``bottom`` along a held axis at ``bounds``; parts not kept go into a Silence layer.

        ``kept`` has one entry more than ``bounds``. Returns the names of the kept parts.
        """
        stem = self.names.of(node, "slice")
        tops = [self.names.unique(f"{stem}_{k}") for k in range(len(kept))]
        options: dict[str, object] = {"axis": axis, "slice_point": list(bounds)}
        self.layers.append(Layer(stem, "Slice", (bottom,), tuple(tops), {"slice_param": options}))
        unused = tuple(top for top, keep in zip(tops, kept, strict=True) if not keep)
        if unused:
            self.layers.append(Layer(self.names.of(node, "silence"), "Silence", unused, ()))
        return [top for top, keep in zip(tops, kept, strict=True) if keep]

    def crop(self, node: ir.Node, bottom: str, axis: int, size: int, begin: int, end: int) -> str:
        """``bottom`` without its first ``begin`` and last ``end`` elements along a held axis of ``size``."""
        bounds = [bound for bound in (begin, size - end) if 0 < bound < size]
        if not bounds:
            return bottom
        kept = [False] * (begin > 0) + [True] + [False] * (end > 0)
        return self.cut(node, bottom, axis, bounds, kept=kept)[0]

    def put(
        self, value: ir.Value, blob: str, perm: Perm, shape: tuple[int | None, ...], rows: Array | None = None
    ) -> None:
        """Say that ``blob`` holds ``value``, of ONNX shape ``shape``, in this order of axes."""
        self._held[value.name or ""] = Held(blob, perm, shape, rows)

    def result(self, node: ir.Node, blob: str, perm: Perm | None = None) -> None:
        """``put`` for a node's first output; ``perm`` defaults to ONNX's order."""
        shape = held_shape_of(node, node.outputs[0])
        self.put(node.outputs[0], blob, identity(len(shape)) if perm is None else perm, shape)

    def get(self, node: ir.Node, position: int = 0, *, flat: bool = False) -> Held:
        """How a computed input is held; ``flat`` allows rows in another order.

        Raises:
            UnsupportedModelError: it is missing, or constant where a computed value is needed.
        """
        value = node.inputs[position] if position < len(node.inputs) else None
        found = self._held.get(value.name or "") if value is not None else None
        if found is None:
            what = "is constant" if constant_of(value) is not None else "is missing"
            raise refuse(node, f"input {value.name if value else position} {what}", "fold constants first")
        if found.rows is not None and not flat:
            raise refuse(
                node,
                "reads a vector that was flattened with its channels last; only a dense layer can follow it",
                "optimise with the canonical recipe first",
            )
        return found

    def known(self, value: ir.Value | None) -> bool:
        """Whether a value has been computed."""
        return value is not None and (value.name or "") in self._held

    def held(self, value: ir.Value) -> Held:
        """How a value that is ``known`` is held."""
        return self._held[value.name or ""]

    def plain(self, node: ir.Node, position: int = 0) -> Held:
        """``get``, for a layer that needs ONNX's own order (batch, channels, space).

        Raises:
            UnsupportedModelError: the value is held in another order; Caffe has no layer that turns axes.
        """
        held = self.get(node, position)
        if held.perm != identity(held.rank):
            raise refuse(
                node,
                f"its input is held in the order {held.perm}, and Caffe has no transposing layer",
                "optimise with the canonical recipe first",
            )
        return held

    def image(self, node: ir.Node, position: int = 0) -> Held:
        """``plain``, of rank 4.

        Raises:
            UnsupportedModelError: of another rank.
        """
        held = self.plain(node, position)
        if held.rank != 4:
            raise refuse(node, f"{held.rank - 2} spatial axes; this target takes two")
        return held
