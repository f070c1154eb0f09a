"""Weights that are read by reference: the stored values, held once, and not copied with every later read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow
HERE = "tests.sources.test_keras_weights"


def loaded(dtype: str, folder: Path, _progress: object) -> dict[str, bool]:
    """In the child: a model saved and loaded again, both ways; what is true of its kernel."""
    import keras

    from pipeline.sources.contract import ConvertRequest
    from pipeline.sources.keras_file import load_keras, load_trusted
    from pipeline.sources.tf.function_graph import read_variable

    keras.config.set_dtype_policy(dtype)
    try:
        model = keras.Sequential([keras.Input((600,)), keras.layers.Dense(1200)])
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = model.layers[0].kernel
    kernel.assign(np.random.default_rng(0).standard_normal(kernel.shape).astype("float32"))
    wanted = np.asarray(kernel.value)
    found = {}
    for name, load in {"model.keras": load_keras, "model.h5": load_trusted}.items():
        model.save(folder / name)
        again = load(folder / name, ConvertRequest(str(folder / name)))
        variable = again.layers[0].kernel.value
        first, second = read_variable(variable), read_variable(variable)
        found[f"{name}: equal"] = bool(np.array_equal(first, wanted))
        found[f"{name}: one buffer"] = first.ctypes.data == second.ctypes.data
        found[f"{name}: trains"] = _trains(variable, wanted)
    return found


def _trains(variable: object, wanted: np.ndarray) -> bool:
    """Whether the variable still changes as any other, its neighbours untouched."""
    variable.assign_add(variable)  # type: ignore[attr-defined]
    return bool(np.array_equal(variable.numpy(), wanted + wanted))  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_weights_are_taken_over(tf: Worker, tmp_path: Path, dtype: str) -> None:
    found = tf.call(f"{HERE}:loaded", dtype, tmp_path)
    assert isinstance(found, dict)
    assert len(found) == 6
    assert [what for what, holds in found.items() if not holds] == []
