"""The Keras bundle: the .keras file and the SavedModel, both loaded again; LRN kept as a registered layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.keras import Keras
from targets.reference import OrtSession
from targets.references import Reference

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

LRN_NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,9,8,3] image) => (float[N,4,4,6] y) {
  t = Transpose<perm=[0,3,1,2]>(image)
  c = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,1]>(t, w)
  n = LRN<size=5, alpha=0.0001, beta=0.75, bias=2.0>(c)
  p = MaxPool<kernel_shape=[2,2], strides=[1,1], pads=[0,0,0,0]>(n)
  q = Pad(p, pads)
  y = Transpose<perm=[0,2,3,1]>(q)
}
"""


def test_lrn_survives_in_both_files(tmp_path: Path) -> None:
    model = parser.parse_model(LRN_NET)
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(6, 3, 3, 3)).astype(np.float32)
    pads = np.array([0, 0, 0, 0, 0, 0, 0, 1], np.int64)
    model.graph.initializer.extend(
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(pads, "pads")]
    )
    onnx.save(model, tmp_path / "net.onnx")
    feeds = {"image": rng.normal(size=(1, 9, 8, 3)).astype(np.float32)}
    with OrtSession(tmp_path / "net.onnx", optimization="off") as session:
        reference = Reference("random", feeds, session.run(feeds))
    result = write_bundle(
        BundleSpec("lrn", tmp_path / "net.onnx", Keras(), (reference,)), tmp_path / "bundle"
    )
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.artefact.options["runnable"] == ["model.keras", "saved_model/saved_model.pb"]
    source = (tmp_path / "bundle" / "architecture.py").read_text()
    assert "LocalResponseNormalization(5" in source
    assert "Permute" not in source
    assert verify_bundle(tmp_path / "bundle").state is State.VERIFIED
