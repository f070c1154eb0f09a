"""TFLite's sparse tensors written out densely.

Format: traversal order over the (blocked) dimensions, each either dense or compressed rows; see
``SparsityParameters`` in schema.fbs and tensorflow/lite/kernels/internal/utils/sparsity_format_converter.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optim.contract import Array
from optim.errors import UserError

_DENSE = 0


def densify(values: Array, sparsity: Any, shape: tuple[int, ...]) -> Array:
    """The dense array [shape] of a sparse tensor with the stored ``values`` (in traversal order)."""
    order = [int(i) for i in sparsity.traversalOrder]
    blocks = [] if sparsity.blockMap is None else [int(i) for i in sparsity.blockMap]
    rank = len(shape)
    block_sizes = [
        int(sparsity.dimMetadata[position].denseSize) for position, dim in enumerate(order) if dim >= rank
    ]
    # Expanded shape: each dimension divided by its block, then the blocks.
    expanded = list(shape)
    for size, dim in zip(block_sizes, blocks, strict=True):
        expanded[dim] //= size
    expanded += block_sizes
    coordinates = np.zeros((1, 0), np.int64)  # [paths, levels], in traversal order
    offsets = np.zeros(1, np.int64)
    for position, dim in enumerate(order):
        level = sparsity.dimMetadata[position]
        if level.format == _DENSE:
            size = expanded[dim]
            steps = np.tile(np.arange(size), len(offsets))
            parents = np.repeat(np.arange(len(offsets)), size)
            offsets = offsets[parents] * size + steps
        else:
            segments, indices = _vector(level.arraySegments), _vector(level.arrayIndices)
            counts = segments[offsets + 1] - segments[offsets]
            parents = np.repeat(np.arange(len(offsets)), counts)
            starts = np.repeat(segments[offsets], counts)
            within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            offsets = starts + within
            steps = indices[offsets]
        coordinates = np.concatenate([coordinates[parents], steps[:, None]], axis=1)
    by_dimension = np.empty_like(coordinates)
    by_dimension[:, order] = coordinates
    place = [by_dimension[:, dim] for dim in range(rank)]
    for number, (size, dim) in enumerate(zip(block_sizes, blocks, strict=True)):
        place[dim] = place[dim] * size + by_dimension[:, rank + number]
    if values.size < len(offsets):
        raise UserError(f"a sparse tensor holds {values.size} values and indexes {len(offsets)}")
    dense = np.zeros(shape, values.dtype)
    dense[tuple(place)] = values[offsets]
    return dense


def _vector(holder: Any) -> Array:
    return np.asarray(holder.values, np.int64)
