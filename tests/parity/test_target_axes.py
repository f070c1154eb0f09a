"""Axes told from shapes, and only where they leave no doubt."""

from __future__ import annotations

import pytest

from pipeline.parity.target_axes import axes_of

CASES = [
    ("a kernel as ONNX has it", [(5, 5, 1, 32), (32,)], (32, 1, 5, 5), (3, 2, 0, 1)),
    ("as TensorFlow Lite has it", [(3, 3, 16, 32)], (32, 3, 3, 16), (3, 0, 1, 2)),
    ("as it was", [(3, 3, 16, 32)], (3, 3, 16, 32), (0, 1, 2, 3)),
    ("a depthwise kernel", [(3, 3, 24, 1)], (24, 1, 3, 3), (2, 3, 0, 1)),
    ("a depthwise kernel with several outputs each", [(3, 3, 8, 2)], (16, 1, 3, 3), (2, 3, 0, 1)),
    ("a matrix turned round", [(8192, 1024), (1024,)], (1024, 8192), (1, 0)),
    ("a matrix as it was", [(8192, 1024)], (8192, 1024), (0, 1)),
    ("a square matrix leaves doubt", [(64, 64)], (64, 64), None),
    ("a cube leaves doubt", [(3, 3, 3, 3)], (3, 3, 3, 3), None),
    ("a vector says nothing", [(32,)], (32,), None),
    ("another number of elements", [(3, 3, 1, 8)], (8, 1, 3, 4), None),
    ("no weights", [], (3, 3), None),
]


@pytest.mark.parametrize(("sources", "target", "axes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_table(sources, target, axes):
    assert axes_of(sources, target) == axes
