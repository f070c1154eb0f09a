"""Matrices from diagonals."""

from __future__ import annotations

import numpy as np

from pipeline.sources.tflite_model import Operator
from pipeline.sources.tflite_ops.build import Build


def matrix_diag(build: Build, operator: Operator) -> None:
    """MATRIX_DIAG: [..., n] → [..., n, n] with zeros elsewhere."""
    data = build.input(operator, 0)
    size = build.tensor(data).dims[-1]
    if size is None:
        build.refuse("the length of its diagonal is not known")
    zero = build.constant(
        np.zeros((), build.tensor(data).dtype if not build.is_quantized(data) else np.float32)
    )
    rows = build.op("Unsqueeze", [build.get(data), build.integers([-2])])
    value = build.op("Where", [build.constant(np.eye(size, dtype=bool), "diagonal"), rows, zero])
    build.put(operator.outputs[0], value, on_grid_of=data)


def matrix_set_diag(build: Build, operator: Operator) -> None:
    """MATRIX_SET_DIAG(x [..., m, n], diagonal [..., min(m, n)])."""
    data, diagonal = build.input(operator, 0), build.input(operator, 1)
    rows, columns = build.tensor(data).dims[-2:]
    if rows is None or columns is None:
        build.refuse("the size of its matrices is not known")
    # On the diagonal both indices are equal, so the vector may lie along the shorter side.
    along = -2 if columns <= rows else -1
    spread = build.op("Unsqueeze", [build.get(diagonal), build.integers([along])])
    mask = build.constant(np.eye(rows, columns, dtype=bool), "diagonal")
    value = build.op("Where", [mask, spread, build.get(data)])
    build.put(operator.outputs[0], value, on_grid_of=data)
