"""Untrained Keras networks come out of calibration numerically alive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL_UNET = """
import json, sys
import keras
import numpy as np
from applications import TABLE, unet
from calibrate import calibrate
from photos import crop_photos

keras.utils.set_random_seed(1)
model = unet(keras, size=64, base=4, depth=3)
before = [layer.momentum for layer in model.layers if hasattr(layer, "momentum")]
x = TABLE["unet"].encoder(crop_photos(8, 64, 64, seed=1))
calibrate(model, x, seed=1)
norms = [layer for layer in model.layers if hasattr(layer, "momentum")]
inner = keras.Model(model.inputs, [(layer.input, layer.output) for layer in norms])
print(json.dumps({
    "shape": list(model.output_shape),
    "transposed": sum("Transpose" in type(layer).__name__ for layer in model.layers),
    "momenta_kept": before == [layer.momentum for layer in norms],
    "mean_error": max(float(np.abs(np.mean(i, (0, 1, 2)) - layer.moving_mean).max() / np.std(i))
                      for layer, (i, _) in zip(norms, inner(x))),
    "variance_ratio": [float((np.var(i, (0, 1, 2)) / np.asarray(layer.moving_variance)).min())
                       for layer, (i, _) in zip(norms, inner(x))],
    "moved": min(float(np.abs(layer.moving_mean).max()) for layer in norms),
    "gammas": min(float(np.ptp(np.asarray(layer.gamma))) for layer in norms),
}))
"""


@pytest.mark.tensorflow
def test_moving_statistics_are_those_of_the_images(child: Callable[..., str]) -> None:
    found: dict[str, Any] = json.loads(child("-c", SMALL_UNET))
    assert found["shape"] == [None, 64, 64, 3]
    assert found["transposed"] == 3
    assert found["momenta_kept"]
    assert found["mean_error"] < 1e-2
    assert min(found["variance_ratio"]) == pytest.approx(1.0, abs=0.05)
    assert found["moved"] > 1e-3
    assert found["gammas"] > 0.01


@pytest.mark.tensorflow
@pytest.mark.slow
def test_mobilenet_v3_small(
    build: Callable[[str, Path], tuple[Path, dict[str, Any]]], child: Callable[..., str], tmp_path: Path
) -> None:
    folder, summary = build("mobilenet_v3_small", tmp_path)
    assert summary["parameters"] == 2_554_968  # as Keras' documentation has it, statistics included
    script = """
import json, sys
import keras
import numpy as np

model = keras.models.load_model(sys.argv[1] + "/model.keras")
x = np.load(sys.argv[1] + "/test.npz")["x"].astype("float32")
norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
print(json.dumps({
    "output": model.predict_on_batch(x).tolist(),
    "means": min(float(np.abs(layer.moving_mean).max()) for layer in norms),
    "variances": min(float(np.abs(np.asarray(layer.moving_variance) - 1).max()) for layer in norms),
}))
"""
    found = json.loads(child("-c", script, folder))
    output = np.asarray(found["output"])
    assert output.shape == (8, 1000)
    assert len(set(output.argmax(axis=1).tolist())) > 2
    assert output.max() < 0.999
    assert found["means"] > 1e-4
    assert found["variances"] > 1e-3
