"""Conv 3×3, stride 1 → the same by Winograd's minimal filtering F(m×m, 3×3), in standard operators.

Allowed: float32 in two dimensions, group 1, dilation 1, constant weights, known channels and spatial size;
any pads, any batch. Numbers: reassociates, with a bound of its own, the parity gate for all sites together:
the transforms amplify rounding.

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A   on tiles d of (m + 2)², outputs of m², t = m + 2

The weights G g Gᵀ are computed once, in float64. Bᵀ d B is one convolution of every channel by itself with
t² filters (kernel t, stride m), which also cuts the tiles and pads; the sum over channels is a product of
matrices for each of the t² positions, weights first, since ONNX Runtime packs the second factor anew in each
run; Aᵀ M A is one small product over all tiles. Each Transpose moves one axis, the case with fast kernels.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016); matrices after Toom and Cook, from
interpolation points. These decide about the error (Barabasz et al., Error Analysis and Improving the Accuracy
of Winograd Convolution, 2020). Those for m = 4 were taken from thirteen sets that were measured: ±√½ and ±√2
have about a quarter of the largest error of the textbook's ±1 and ±2, at 256 channels.
https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.facts import (
    constant_of,
    constant_tensor_of,
    dims,
    input_of,
    int_attribute,
    ints_attribute,
    is_op,
    string_attribute,
)
from optim.passes.faster_sites import Candidate, candidates_of
from optim.passes.window import same_pads
from optim.rewrite import Rewrite
from optim.verify import PARITY_GATE
from optim.weights import read_once

_KERNEL: Final = 3
_POINTS: Final = {
    2: (0.0, 1.0, -1.0),
    3: (0.0, 0.75, -0.75, 1.5),
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5)),
}


@dataclass(frozen=True)
class Transforms:
    """Bᵀ [t, t], G [t, 3] and Aᵀ [m, t] of F(m, 3), float64."""

    input: Array
    weight: Array
    output: Array


def transforms(tile: int) -> Transforms:
    """The matrices of F(tile, 3) on the points above and infinity (Toom–Cook).

    With V the Vandermonde matrix of degree t - 1: Bᵀ = V⁻ᵀ, G and A the Vandermonde matrices of degrees 2
    and m - 1. Powers of two are moved from Bᵀ to G so that the rows of Bᵀ have about unit size.
    """
    points = np.asarray(_POINTS[tile], dtype=np.float64)
    width = tile + _KERNEL - 1

    def vandermonde(columns: int) -> Array:
        matrix = np.zeros((width, columns))
        matrix[:-1] = np.vander(points, columns, increasing=True)
        matrix[-1, -1] = 1.0
        return matrix

    of_input = np.linalg.inv(vandermonde(width)).T
    scale = 2.0 ** np.round(np.log2(np.abs(of_input).max(axis=1, keepdims=True)))
    return Transforms(of_input / scale, vandermonde(_KERNEL) * scale, vandermonde(tile).T)


@dataclass(frozen=True)
class WinogradConvolution:
    """Rewrites every such convolution; ``tile`` is m: 2, 3 or 4 outputs a side at once."""

    tile: int = 4

    def __post_init__(self) -> None:
        if self.tile not in _POINTS:
            raise ValueError(f"tile is {self.tile}; one of {sorted(_POINTS)}")

    @property
    def info(self) -> PassInfo:
        summary = "3×3 convolution → Winograd's minimal filtering where that is faster"
        return PassInfo("winograd_convolution", Numerics.REASSOCIATES, summary, bound=PARITY_GATE)

    def candidates(self, model: ir.Model) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
        """All 3×3 convolutions that have the form; those that have not, with the reason."""

        def look(node: ir.Node) -> Candidate | str | None:
            found = _geometry(node)
            return found if found is None or isinstance(found, str) else Candidate(node, (node,))

        return candidates_of(model, look)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        candidates, refusals = self.candidates(model)
        for refusal in refusals:
            rw.refuse(refusal.site, refusal.reason)
        for candidate in candidates:
            if rw.allows(candidate.site):
                geometry = _geometry(candidate.last)
                if isinstance(geometry, _Geometry):
                    rw.done(candidate.site)
                    _write(rw, candidate.last, geometry, self.tile)
        return rw.outcome()


@dataclass(frozen=True)
class _Geometry:
    """Channels, spatial sizes and leading pads of one convolution."""

    batch: int | None
    channels: int
    filters: int
    size: tuple[int, int]
    pads: tuple[int, int]  # top, left
    out: tuple[int, int]


def _geometry(node: ir.Node) -> _Geometry | str | None:
    """What the rewrite must know; why it may not be done (str); None where it is no 3×3 convolution."""
    weight = constant_tensor_of(input_of(node, 1)) if is_op(node, "Conv") else None
    shape = dims(input_of(node, 1)) if is_op(node, "Conv") else None
    if shape is None or len(shape) != 4 or shape[2:] != (_KERNEL, _KERNEL):
        return None
    if weight is None:
        return "the weights are not constant"
    if weight.dtype != ir.DataType.FLOAT:
        return f"the weights are {weight.dtype.name}; only FLOAT is taken"
    if int_attribute(node, "group", 1) != 1:
        return "the convolution is grouped: too few channels are summed up"
    for name in ("strides", "dilations"):
        given = ints_attribute(node, name) or (1, 1)
        if given != (1, 1):
            return f"{name} are {list(given)}; the tiles need 1"
    bias = input_of(node, 2)
    if bias is not None and constant_of(bias) is None:
        return "the bias is not constant"
    data = dims(input_of(node, 0))
    if data is None or len(data) != 4 or not all(isinstance(d, int) and d > 0 for d in data[1:]):
        return "the channels or the spatial size are not known"
    batch, channels, height, width = (d if isinstance(d, int) else 0 for d in data)
    pads = _pads(node, (height, width))
    if isinstance(pads, str):
        return pads
    top, left, bottom, right = pads
    out = height + top + bottom - 2, width + left + right - 2
    if min(out) < 1 or min(pads) < 0:
        return f"pads {list(pads)} leave an output of {list(out)}"
    filters = shape[0] if isinstance(shape[0], int) else 0
    return _Geometry(batch or None, channels, filters, (height, width), (top, left), out)


def _pads(node: ir.Node, size: tuple[int, int]) -> tuple[int, ...] | str:
    auto = string_attribute(node, "auto_pad", "NOTSET")
    if auto == "NOTSET":
        return ints_attribute(node, "pads") or (0, 0, 0, 0)
    if auto == "VALID":
        return (0, 0, 0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(size, (3, 3), (1, 1), (1, 1), upper=auto == "SAME_UPPER")
    return f"auto_pad is '{auto}', which ONNX does not define"


def _write(rw: Rewrite, conv: ir.Node, g: _Geometry, tile: int) -> None:
    matrices, width = transforms(tile), tile + _KERNEL - 1
    old, places = conv.outputs[0], width * width
    tiles = tuple(-(-n // tile) for n in g.out)
    count = tiles[0] * tiles[1]
    name = f"{old.name}/winograd"

    def ints(*numbers: int) -> ir.Value:
        return rw.constant(np.asarray(numbers, np.int64), f"{name}/shape")

    def then(op: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        return rw.node(op, inputs, attributes, before=conv, out=f"{name}/{op}")

    # Bᵀ d B of every channel by itself: [N·C, 1, H, W] → [N·C, t², rows, columns]
    both = np.kron(matrices.input, matrices.input).reshape(places, 1, width, width)
    ends = [(n - 1) * tile + width - size - pad for n, size, pad in zip(tiles, g.size, g.pads, strict=True)]
    value = rw.node(
        "Reshape",
        [conv.inputs[0], ints(-1, 1, *g.size)],
        before=conv,
        out=f"{name}/Reshape",
    )
    value = then(
        "Conv",
        value,
        rw.constant(both.astype(np.float32), f"{name}/input"),
        kernel_shape=[width, width],
        strides=[tile, tile],
        pads=[*g.pads, *ends],
    )
    value = then("Transpose", then("Reshape", value, ints(-1, places, count)), perm=[1, 0, 2])
    # The sum over channels, position by position: [t², (N,) K, C] × [t², (N,) C, tiles]
    one = g.batch == 1
    value = then("Reshape", value, ints(places, *(() if one else (-1,)), g.channels, count))
    value = then("MatMul", _weights(rw, conv, g, matrices, name, batched=not one), value)
    # Aᵀ M A over all tiles: [m², t²] × [t², N·K·tiles], then the tiles side by side
    back = rw.constant(np.kron(matrices.output, matrices.output).astype(np.float32), f"{name}/output")
    value = then("MatMul", back, then("Reshape", value, ints(places, -1)))
    value = then("Reshape", value, ints(tile, tile, -1, *tiles))
    value = then("Transpose", then("Transpose", value, perm=[0, 2, 3, 4, 1]), perm=[1, 2, 0, 3, 4])
    ending = [("Reshape", [ints(-1, g.filters, tiles[0] * tile, tiles[1] * tile)])]
    if (tiles[0] * tile, tiles[1] * tile) != g.out:
        ending.append(("Slice", [ints(0, 0), ints(*g.out), ints(2, 3)]))
    bias = constant_of(input_of(conv, 2))
    if bias is not None:
        ending.append(("Add", [rw.constant(bias.astype(np.float32).reshape(-1, 1, 1), f"{name}/bias")]))
    for op, extra in ending[:-1]:
        value = then(op, value, *extra)
    op, extra = ending[-1]
    rw.replace(old, rw.node(op, [value, *extra], before=conv, sources=(conv,), like=old))
    rw.drop(conv)


def _weights(
    rw: Rewrite, conv: ir.Node, g: _Geometry, matrices: Transforms, name: str, *, batched: bool
) -> ir.Value:
    """G g Gᵀ as [t², (1,) K, C]."""
    tensor = constant_tensor_of(conv.inputs[1])
    if tensor is None:
        raise ValueError("checked before")
    kernels = read_once(tensor).reshape(g.filters * g.channels, -1).astype(np.float64)
    both = np.kron(matrices.weight, matrices.weight)
    shape = (len(both), *((1,) if batched else ()), g.filters, g.channels)
    return rw.constant((both @ kernels.T).astype(np.float32).reshape(shape), f"{name}/weights")
