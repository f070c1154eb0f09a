"""The small operations of the CNN introduction in one TF1 graph, a frozen ``.pb``.

The input arrives flat, ``x`` [N, 16], and is reshaped with -1 to a 4×4 map; ``max_pool`` and
``average_pool`` (2×2, stride 2) and ``strided`` (a 1×1 convolution by 1 with stride 2: every second pixel)
come out as [N, 2, 2, 1], ``flat`` again as [N, 16]. ``test.npz`` holds the introduction's map
[[1,3,2,4],[1,3,2,4],[5,7,6,8],[5,7,6,8]].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from built import Built
from saving import save_arrays, write_whole
from tf1_graph import tf1_session

MAP = ((1, 3, 2, 4), (1, 3, 2, 4), (5, 7, 6, 8), (5, 7, 6, 8))
OUTPUTS = ("max_pool", "average_pool", "strided", "flat")


def write(out: Path) -> Built:
    """Write ``model.pb`` and ``test.npz`` (x float32 [1, 16]) into ``out``."""
    with tf1_session(seed=0) as (tf1, session):
        x = tf1.placeholder(tf1.float32, [None, 16], name="x")
        grid = tf1.reshape(x, [-1, 4, 4, 1], name="map")
        window, step = [1, 2, 2, 1], [1, 2, 2, 1]
        tf1.nn.max_pool(grid, window, step, "VALID", name="max_pool")
        tf1.nn.avg_pool(grid, window, step, "VALID", name="average_pool")
        tf1.nn.conv2d(grid, np.ones((1, 1, 1, 1), np.float32), strides=step, padding="SAME", name="strided")
        tf1.reshape(grid, [-1, 16], name="flat")
        model = write_whole(out / "model.pb", session.graph_def.SerializeToString(deterministic=True))
    save_arrays(out / "test.npz", x=np.asarray(MAP, np.float32).reshape(1, 16))
    return Built(
        model=model,
        inputs={"x:0": (None, 16)},
        outputs=tuple(f"{name}:0" for name in OUTPUTS),
        parameters=0,
        variables={},
    )
