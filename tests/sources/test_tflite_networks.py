"""TFLite files as TensorFlow's converter writes them: loops, branches, spectra, 16-bit activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite import TfliteSource
from targets.reference import OrtSession
from tests.sources.tf_worker import Worker

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("loop", {"Loop"}),
        ("loop_of_any_batch", {"Loop"}),
        ("loop_until", {"Loop"}),
        ("branches", {"If"}),
        ("branch_in_loop", {"Loop"}),
        ("lstm", {"Loop"}),
        ("lstm_8_bit_weights", {"Loop"}),
        ("suppressed", {"If"}),
        ("spectrum", {"MatMul"}),
        ("spectrum_filled_up", {"MatMul"}),
        ("spectrum_2d", {"MatMul"}),
    ],
)
def test_network_agrees_with_tflite(tf: Worker, tmp_path: Path, name: str, ops: set[str]) -> None:
    model = tmp_path / "net.tflite"
    tf.call("tests.sources.tflite_networks:build", name, model)
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "net.onnx")
    assert ops <= {node.op_type for node in onnx.load(done.output).graph.node}
    rng = np.random.default_rng(4)
    with TfliteSource().open(ConvertRequest(str(model))) as native, OrtSession(done.output) as session:
        for scale in (0.1, 1.0, 3.0):
            feeds = {
                spec.name: (
                    rng.normal(-0.2, scale, [d if isinstance(d, int) else 5 for d in spec.shape])
                ).astype(np.float32)
                for spec in native.inputs
            }
            expected, got = native.run(feeds), session.run(feeds)
            for output, reference in expected.items():
                bound = 1e-5 * max(1.0, float(np.abs(reference).max()))
                np.testing.assert_allclose(got[output], reference, rtol=0, atol=bound)


@pytest.mark.parametrize("name", ["convolved_16", "resized_16", "corners_16"])
def test_16_bits_to_one_step(tf: Worker, tmp_path: Path, name: str) -> None:
    """TFLite's 16-bit kernels shorten multipliers and coordinates: what they do to every element is kept."""
    model = tmp_path / "net.tflite"
    tf.call("tests.sources.tflite_networks:build", name, model)
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "net.onnx")
    rng = np.random.default_rng(4)
    with TfliteSource().open(ConvertRequest(str(model))) as native, OrtSession(done.output) as session:
        feeds = {spec.name: rng.normal(0, 1, spec.shape).astype(np.float32) for spec in native.inputs}
        (reference,), (got,) = native.run(feeds).values(), session.run(feeds).values()
    values = np.unique(reference)
    step = float(np.diff(values).min())
    assert values.size > 100
    assert np.abs(got - reference).max() <= 1.5 * step
    assert np.mean(np.abs(got - reference) > 0.5 * step) < 0.05
