"""Conv 3×3 or 5×5, stride 1 → the same by Winograd's minimal filtering F(m×m, r×r), in standard operators.

Allowed: float32 in two dimensions, group 1, dilation 1, constant weights, known channels and spatial size;
any pads, any batch. Numbers: reassociates, with a bound of its own for all sites together, half the parity
gate: the transforms amplify rounding (eleven sites of a VGG-16: 1.6e-6 of the range of its logits).

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A   on tiles d of t², outputs of m², kernels of r², t = m + r - 1

instead of m² r² multiplications t²: 4 × fewer for F(4×4, 3×3), 2.8 × for F(2×2, 5×5).

The weights G g Gᵀ are computed once, in float64. Bᵀ d B is one convolution of every channel by itself with
t² filters (kernel t, stride m), which also cuts the tiles and pads; the sum over channels is, for each of the
t² positions, a product of matrices (weights first, since ONNX Runtime packs the second factor anew in each
run) or a group of one 1×1 convolution; Aᵀ M A is one small product over all tiles. Each Transpose moves one
axis, the case with fast kernels.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016); matrices after Toom and Cook, from
interpolation points. These decide about the error (Barabasz et al., Error Analysis and Improving the Accuracy
of Winograd Convolution, 2020). Those for t = 6 were taken from thirteen sets that were measured: ±√½ and ±√2
have about a quarter of the largest error of the textbook's ±1 and ±2, at 256 channels.
https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Numerics, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.errors import InternalError
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
from optim.passes.faster_sites import Candidate, candidates_of, rewrite_candidates
from optim.passes.window import same_pads
from optim.rewrite import Rewrite
from optim.weights import read_once

_BOUND: Final = 1e-5
_KERNELS: Final = (3, 5)
_POINTS: Final = {
    4: (0.0, 1.0, -1.0),
    5: (0.0, 0.75, -0.75, 1.5),
    6: (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5)),
}
"""By t, the side of a tile."""


@dataclass(frozen=True)
class Transforms:
    """Bᵀ [t, t], G [t, r] and Aᵀ [m, t] of F(m, r), float64."""

    input: Array
    weight: Array
    output: Array


def transforms(width: int, kernel: int) -> Transforms:
    """The matrices of F(width + 1 - kernel, kernel) on the points above and infinity (Toom–Cook).

    With V the Vandermonde matrix of degree t - 1: Bᵀ = V⁻ᵀ, G and A the Vandermonde matrices of degrees r - 1
    and m - 1. Powers of two are moved from Bᵀ to G so that the rows of Bᵀ have about unit size.
    """
    points = np.asarray(_POINTS[width], dtype=np.float64)

    def vandermonde(columns: int) -> Array:
        matrix = np.zeros((width, columns))
        matrix[:-1] = np.vander(points, columns, increasing=True)
        matrix[-1, -1] = 1.0
        return matrix

    of_input = np.linalg.inv(vandermonde(width)).T
    scale = 2.0 ** np.round(np.log2(np.abs(of_input).max(axis=1, keepdims=True)))
    return Transforms(of_input / scale, vandermonde(kernel) * scale, vandermonde(width + 1 - kernel).T)


@dataclass(frozen=True)
class WinogradConvolution:
    """Rewrites every such convolution.

    Args:
        width: t, the side of a tile: 4, 5 or 6; a kernel of r a side makes t + 1 - r outputs a side at once.
        grouped: the sum over channels is a 1×1 convolution with one group a position instead of a product
            of matrices a position. Which is faster depends on the sizes and on the runtime.
    """

    width: int = 6
    grouped: bool = False

    def __post_init__(self) -> None:
        if self.width not in _POINTS:
            raise ValueError(f"width is {self.width}; one of {sorted(_POINTS)}")

    @property
    def info(self) -> PassInfo:
        summary = "3×3 or 5×5 convolution → Winograd's minimal filtering where that is faster"
        return PassInfo("winograd_convolution", Numerics.REASSOCIATES, summary, bound=_BOUND)

    def candidates(self, model: ir.Model) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
        """All such convolutions that have the form; those that have not, with the reason."""

        def look(node: ir.Node) -> Candidate | str | None:
            found = _geometry(node, self.width)
            return found if found is None or isinstance(found, str) else Candidate(node, (node,))

        return candidates_of(model, look)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        def write(rw: Rewrite, candidate: Candidate) -> None:
            geometry = _geometry(candidate.last, self.width)
            if not isinstance(geometry, _Geometry):
                raise InternalError(f"{candidate.site} was a candidate: {geometry}")
            _write(rw, candidate.last, geometry, grouped=self.grouped)

        return rewrite_candidates(self, model, allowed, write)


@dataclass(frozen=True)
class _Geometry:
    """Channels, spatial sizes, leading pads and tiles of one convolution."""

    channels: int
    filters: int
    size: tuple[int, int]
    pads: tuple[int, int]  # top, left
    out: tuple[int, int]
    kernel: int
    width: int

    @property
    def tile(self) -> int:
        """Outputs a side of one tile."""
        return self.width + 1 - self.kernel

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.out[0] // self.tile), -(-self.out[1] // self.tile)

    @property
    def matrices(self) -> Transforms:
        """The transforms of this size."""
        return transforms(self.width, self.kernel)


def _geometry(node: ir.Node, width: int) -> _Geometry | str | None:
    """What the rewrite must know; why it may not be done (str); None where no kernel of this size is."""
    weight = constant_tensor_of(input_of(node, 1)) if is_op(node, "Conv") else None
    shape = dims(input_of(node, 1)) if is_op(node, "Conv") else None
    if shape is None or len(shape) != 4 or shape[2] != shape[3] or shape[2] not in _KERNELS:
        return None
    kernel = int(shape[2])
    if width + 1 - kernel < 2:
        return None  # one output a tile saves nothing
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
    _, channels, height, columns = (d if isinstance(d, int) else 0 for d in data)
    pads = _pads(node, (height, columns), kernel)
    if isinstance(pads, str):
        return pads
    top, left, bottom, right = pads
    out = height + top + bottom + 1 - kernel, columns + left + right + 1 - kernel
    if min(out) < 1 or min(pads) < 0:
        return f"pads {list(pads)} leave an output of {list(out)}"
    filters = shape[0] if isinstance(shape[0], int) else 0
    return _Geometry(channels, filters, (height, columns), (top, left), out, kernel, width)


def _pads(node: ir.Node, size: tuple[int, int], kernel: int) -> tuple[int, ...] | str:
    auto = string_attribute(node, "auto_pad", "NOTSET")
    if auto == "NOTSET":
        return ints_attribute(node, "pads") or (0, 0, 0, 0)
    if auto == "VALID":
        return (0, 0, 0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return same_pads(size, (kernel, kernel), (1, 1), (1, 1), upper=auto == "SAME_UPPER")
    return f"auto_pad is '{auto}', which ONNX does not define"


class _Maker:
    """Makes the nodes that stand for one convolution."""

    def __init__(self, rw: Rewrite, conv: ir.Node) -> None:
        self.rw, self.conv, self.name = rw, conv, f"{conv.outputs[0].name}/winograd"

    def __call__(self, op: str, *inputs: ir.Value | None, **attributes: int | list[int]) -> ir.Value:
        return self.rw.node(op, inputs, attributes, before=self.conv, out=f"{self.name}/{op}")

    def ints(self, *numbers: int) -> ir.Value:
        """An int64 vector."""
        return self.rw.constant(np.asarray(numbers, np.int64), f"{self.name}/shape")

    def floats(self, array: Array, what: str) -> ir.Value:
        """A float32 constant."""
        return self.rw.constant(array.astype(np.float32), f"{self.name}/{what}")


def _write(rw: Rewrite, conv: ir.Node, g: _Geometry, *, grouped: bool) -> None:
    make, old = _Maker(rw, conv), conv.outputs[0]
    covered = g.tiles[0] * g.tile, g.tiles[1] * g.tile
    bias = constant_of(input_of(conv, 2))
    value = _transformed_input(make, g)
    weights = _transformed_weights(conv, g)
    if grouped:
        value = _by_groups(make, g, value, weights, bias)
        bias = None
    else:
        value = _by_matrices(make, g, value, weights)
    ending = [("Reshape", [make.ints(-1, g.filters, *covered)])]
    if covered != g.out:
        ending.append(("Slice", [make.ints(0, 0), make.ints(*g.out), make.ints(2, 3)]))
    if bias is not None:
        ending.append(("Add", [make.floats(bias.reshape(-1, 1, 1), "bias")]))
    for op, extra in ending[:-1]:
        value = make(op, value, *extra)
    op, extra = ending[-1]
    rw.replace(old, rw.node(op, [value, *extra], before=conv, sources=(conv,), like=old))
    rw.drop(conv)


def _transformed_input(make: _Maker, g: _Geometry) -> ir.Value:
    """Bᵀ d B of every channel by itself, [N·C, 1, H, W] → [N·C, t², rows, columns], as one convolution."""
    matrix, width = g.matrices.input, g.width
    both = np.kron(matrix, matrix).reshape(width * width, 1, width, width)
    sides = zip(g.tiles, g.size, g.pads, strict=True)
    ends = [(n - 1) * g.tile + width - size - pad for n, size, pad in sides]
    return make(
        "Conv",
        make("Reshape", make.conv.inputs[0], make.ints(-1, 1, *g.size)),
        make.floats(both, "input"),
        kernel_shape=[width, width],
        strides=[g.tile, g.tile],
        pads=[*g.pads, *ends],
    )


def _transformed_weights(conv: ir.Node, g: _Geometry) -> Array:
    """G g Gᵀ as [t², K, C], float64."""
    tensor = constant_tensor_of(conv.inputs[1])
    if tensor is None:
        raise ValueError("checked before")
    kernels = read_once(tensor).reshape(g.filters * g.channels, -1).astype(np.float64)
    both = np.kron(g.matrices.weight, g.matrices.weight)
    return (both @ kernels.T).reshape(len(both), g.filters, g.channels)


def _by_matrices(make: _Maker, g: _Geometry, value: ir.Value, weights: Array) -> ir.Value:
    """The sum over channels as one product of matrices a position; [m, N·K·rows, m, columns·m] in memory.

    [t², 1, K, C] × [t², N, C, tiles], then Aᵀ M A over all tiles: [m², t²] × [t², N·K·tiles].
    """
    places, count = len(weights), g.tiles[0] * g.tiles[1]
    value = make("Transpose", make("Reshape", value, make.ints(-1, places, count)), perm=[1, 0, 2])
    value = make("Reshape", value, make.ints(places, -1, g.channels, count))
    value = make("MatMul", make.floats(weights[:, np.newaxis], "weights"), value)
    back = make.floats(np.kron(g.matrices.output, g.matrices.output), "output")
    value = make("MatMul", back, make("Reshape", value, make.ints(places, -1)))
    # A tile's columns beside each other, then its rows below each other. A Reshape stands between the two,
    # since a runtime makes one Transpose of two neighbours, and that one is slow.
    value = make("Transpose", make("Reshape", value, make.ints(g.tile, g.tile, -1)), perm=[0, 2, 1])
    value = make("Reshape", value, make.ints(g.tile, -1, g.tiles[1] * g.tile))
    return make("Transpose", value, perm=[1, 0, 2])


def _by_groups(make: _Maker, g: _Geometry, value: ir.Value, weights: Array, bias: Array | None) -> ir.Value:
    """The sum over channels as a 1×1 convolution with one group a position.

    [N, t²·C, rows, columns] → [N, t²·K, rows, columns], then Aᵀ M A: [m², t²] × [N, t², K·tiles]. The bias
    goes through that transform: with Aᵀ u = 1, Aᵀ (b u uᵀ) A is b everywhere.
    """
    places, count = len(weights), g.tiles[0] * g.tiles[1]
    value = make("Reshape", value, make.ints(-1, g.channels, places, count))
    value = make("Transpose", value, perm=[0, 2, 1, 3])
    inputs = [
        make("Reshape", value, make.ints(-1, places * g.channels, *g.tiles)),
        make.floats(weights.reshape(-1, g.channels, 1, 1), "weights"),
    ]
    if bias is not None:
        ones = np.linalg.pinv(g.matrices.output) @ np.ones(g.tile)
        inputs.append(
            make.floats(np.outer(np.outer(ones, ones), bias.astype(np.float64)).reshape(-1), "bias")
        )
    value = make("Conv", *inputs, group=places, kernel_shape=[1, 1])
    value = make("Reshape", value, make.ints(-1, places, g.filters * count))
    value = make("MatMul", make.floats(np.kron(g.matrices.output, g.matrices.output), "output"), value)
    # As above, with the batch in front.
    value = make(
        "Transpose", make("Reshape", value, make.ints(-1, g.tile, g.filters * count)), perm=[0, 2, 1]
    )
    value = make("Reshape", value, make.ints(-1, g.tile, g.filters * g.tiles[0], g.tiles[1] * g.tile))
    return make("Transpose", value, perm=[0, 2, 1, 3])
