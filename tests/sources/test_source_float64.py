"""TensorFlow's own float64 run of a source against the float64 run of what was converted from it.

The two come from different programs: TensorFlow's kernels and our evaluator. Where the conversion folds
nothing they agree to float64's own rounding, which no float32 comparison could show.
"""

from __future__ import annotations

import numpy as np
import pytest

from optim.errors import UnsupportedModelError
from pipeline.parity.source_truth import EXACT
from pipeline.sources import open_source
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.float64_values import RunsInFloat64
from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow

MODELS = [
    ("convolution", "m.keras", 1e-7),  # batch norms are folded in float32
    ("grouped", "m.keras", EXACT),
    ("recurrent", "m.keras", EXACT),
    ("embedded", "m.keras", EXACT),
    ("two_heads", "m.keras", 1e-7),
    ("large", "m.keras", EXACT),  # its weights are fed, not stored in the graph
    ("keep_prob", "net.ckpt", EXACT),
    ("constant_dropout", "net.ckpt", EXACT),
    ("conditional_norm", "net.ckpt", 1e-7),
    ("channels_first", "net.pb", EXACT),
    ("transposed_valid_adjusted", "net.pb", EXACT),
    ("nearest_align", "net.pb", EXACT),
    ("saved_model", "saved", 1e-7),
    ("saved_model_v1", "saved", 1e-7),
]


@pytest.mark.parametrize(("name", "file", "bound"), MODELS, ids=[m[0] for m in MODELS])
def test_the_conversion_of_a_model_is_exact(tf: Worker, tmp_path, name, file, bound):
    found = tf.call("tests.sources.tf_float64:of_model", name, file, tmp_path)
    assert isinstance(found, dict), found
    assert found["apart"] <= bound
    assert found["rounding"] <= 1e-4


REFUSED = [
    ("bilinear", "net.pb", "ResizeBilinear computes in float32 only"),
    ("fused_resize", "net.pb", "FusedResizeAndPadConv2D computes something else in float64"),
]


@pytest.mark.parametrize(("name", "file", "reason"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_knows_float32_only_is_named(tf: Worker, tmp_path, name, file, reason):
    found = tf.call("tests.sources.tf_float64:of_model", name, file, tmp_path)
    assert isinstance(found, str)
    assert reason in found


def test_every_operator_agrees_or_says_why_not(tf: Worker, tmp_path):
    found = tf.call("tests.sources.tf_float64:of_operators", tmp_path)
    assert isinstance(found, dict)
    compared = {name: one for name, one in found.items() if isinstance(one, dict)}
    assert len(compared) > 150
    # Constants that ONNX holds in float32 where TensorFlow's kernel has them in float64: atan2, selu, LRN.
    apart = {name: one for name, one in compared.items() if one["apart"] > 1e-7}
    assert not apart
    assert sum(one["apart"] <= EXACT for one in compared.values()) >= len(compared) - 8
    reasons = [one for one in found.values() if isinstance(one, str)]
    assert all(reasons)


def test_a_format_without_float64_says_so(tf: Worker, tmp_path):
    """The remote session offers the run; what is behind it refuses."""
    model = tf.build("bilinear", tmp_path / "net.pb")
    with open_source(ConvertRequest(str(model))) as source:
        assert isinstance(source, RunsInFloat64)
        feed = {i.name: np.zeros([d or 1 for d in i.shape], np.float32) for i in source.inputs}
        with pytest.raises(UnsupportedModelError, match="ResizeBilinear"):
            source.run_float64(feed)


def test_a_child_whose_memory_is_limited_is_not_asked_for_more(tf: Worker, tmp_path):
    model = tf.build("transposed_same", tmp_path / "net.pb")
    with open_source(ConvertRequest(str(model), memory_limit_mib=4000)) as source:
        assert isinstance(source, RunsInFloat64)
        feed = {i.name: np.zeros([d or 1 for d in i.shape], np.float32) for i in source.inputs}
        with pytest.raises(UnsupportedModelError, match="memory is limited"):
            source.run_float64(feed)
        assert source.run(feed)
