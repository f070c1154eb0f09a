"""One op or one pattern a graph, against TensorFlow: converted with the same numbers, or refused by name.

``convert`` itself compares each with TensorFlow on zeros and random input; what it writes is run here too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from optim.errors import FairleadError, UnsupportedModelError
from pipeline.sources.contract import ConvertRequest
from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow

REFUSED = {
    # graph: part of the reason
    "dilation2d": "no ONNX operator Dilation2D",
    "lgamma": "no ONNX operator Lgamma",
    "where_places": "empty outputs",  # of zeros: nothing to compare
}

# TensorFlow's own CPU kernels lack these; its oneDNN kernels, on processors that have them, do not.
MAYBE_REFUSED = {
    "transposed_dilated": "do not yet support dilation rates",
    "depthwise_dilated": "does not support dilations",
}


def test_every_graph_is_right_or_refused(tf: Worker, tmp_path: Path) -> None:
    names = tf.call("tests.sources.tf_ops:listed")
    assert isinstance(names, list)
    assert len(names) > 200
    assert set(REFUSED) | set(MAYBE_REFUSED) <= set(names)
    wrong: list[str] = []
    for name in names:
        model, out = tmp_path / "net.pb", tmp_path / "net.onnx"
        tf.call("tests.sources.tf_ops:build", name, model)
        reason = REFUSED.get(name) or MAYBE_REFUSED.get(name)
        try:
            done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), out)
        except FairleadError as error:
            if reason is None or reason not in str(error) or not isinstance(error, UnsupportedModelError):
                wrong.append(f"{name}: {error}")
            continue
        if name in REFUSED:
            wrong.append(f"{name}: converted, though it should be refused ({reason})")
        if not done.parity or not all(one.passed for one in done.parity):
            wrong.append(f"{name}: {done.parity}")
        out.unlink()
    assert wrong == []


@pytest.mark.parametrize("name", ["fused_resize_reflect", "fused_resize_symmetric"])
def test_what_is_written_out_agrees_with_the_fused_kernel(tf: Worker, tmp_path: Path, name: str) -> None:
    """The reference of a fused op is written out as well, so its own kernel is asked here, for one image."""
    error = tf.call("tests.sources.tf_ops:against_original", name, tmp_path)
    assert isinstance(error, float)
    assert error <= 2e-6


SMALL = (
    # op, argument, its value in float64
    ("log1p", 1e-6),
    ("expm1", 1e-6),
)


@pytest.mark.parametrize(("name", "argument"), SMALL)
def test_small_arguments_keep_their_digits(tf: Worker, tmp_path: Path, name: str, argument: float) -> None:
    import numpy as np

    from targets.reference import OrtSession

    model = tmp_path / "net.pb"
    tf.call("tests.sources.tf_ops:build", name, model)
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "net.onnx")
    x = np.linspace(argument, 3 * argument, 24, dtype=np.float32).reshape(3, 8)
    with OrtSession(done.output) as session:
        got = session.run({"x:0": x})["y:0"]
    want = getattr(np, name)(x.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=5e-7)


@pytest.mark.parametrize("peephole", ["", "_peephole"])
def test_a_plain_block_lstm_is_one_onnx_lstm(tf: Worker, tmp_path: Path, peephole: str) -> None:
    import onnx

    model = tmp_path / "net.pb"
    tf.call("tests.sources.tf_ops:build", f"blocklstm{peephole or '_h'}", model)
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "net.onnx")
    ops = [node.op_type for node in onnx.load(done.output).graph.node]
    assert ops.count("LSTM") == 1
    assert "Scan" not in ops
