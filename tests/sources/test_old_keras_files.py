"""``.h5`` files of Keras 1 and 2, written here in their own format, against NumPy.

The comparison inside ``convert`` cannot see a file that Keras 3 reads wrongly: both sides would be wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optim.errors import UnsupportedModelError
from pipeline.sources.contract import Conversion, ConvertRequest
from pipeline.sources.conversion import convert
from targets.reference import OrtSession
from tests.sources.old_keras import entry, layer, model, node, save
from tests.sources.old_keras_cases import CASES, RNG, Case, keras_1_convolution, sequential
from tests.sources.tf_worker import Worker

pytest.importorskip("h5py")
pytestmark = pytest.mark.tensorflow


def converted(tf: Worker, case: Case, folder: Path) -> Conversion:
    path = save(folder / "m.h5", case.config, case.weights, version=case.version, backend=case.backend)
    return tf.convert(ConvertRequest(str(path)), folder / "m.onnx")


@pytest.mark.parametrize("title", CASES)
def test_old_file_computes_what_it_did(tf: Worker, tmp_path: Path, title: str) -> None:
    case = CASES[title]
    done = converted(tf, case, tmp_path)
    data = [RNG.normal(0, 1.5, (3, *shape)).astype(np.float32) for shape in case.shapes]
    with OrtSession(done.output, optimization="off") as session:
        feeds = dict(zip([spec.name for spec in session.inputs], data, strict=True))
        (got,) = session.run(feeds).values()
    np.testing.assert_allclose(got, case.expected(*(d.astype(np.float64) for d in data)), rtol=0, atol=2e-5)
    for part in case.says:
        assert any(part in note for note in done.notes)


def test_channels_first_converts_without_onednn(tmp_path: Path) -> None:
    """As a user runs it: in a child of its own, where TensorFlow's plain kernels know channels last only."""
    case = CASES["keras 1, channels first"]
    path = save(tmp_path / "m.h5", case.config, case.weights, version=case.version, backend=case.backend)
    done = convert(ConvertRequest(str(path)), tmp_path / "m.onnx")
    data = RNG.normal(0, 1, (3, *case.shapes[0])).astype(np.float32)
    with OrtSession(done.output, optimization="off") as session:
        (got,) = session.run({session.inputs[0].name: data}).values()
    np.testing.assert_allclose(got, case.expected(data.astype(np.float64)), rtol=0, atol=2e-5)


GRAPH = {"class_name": "Graph", "config": {"name": "g", "nodes": []}}
REFUSED = {
    "graph": (Case(GRAPH, {}, [], np.copy, "1.0.0", None), "container Graph"),
    "whose kernels": (keras_1_convolution("th", None, turned=True), "attrs\\['backend'\\]"),
    "mode 2": (
        Case(sequential(layer("BatchNormalization", "n", mode=2, batch_input_shape=[None, 3])), {}, [],
             np.copy, "1.2.2", None),
        "mode 2",
    ),
    "merge by a function": (
        Case(sequential(layer("Merge", "m", mode="f", mode_type="lambda")), {}, [], np.copy, "1.2.2"),
        "function of the user's own",
    ),
    "local, other form": (
        Case(sequential(layer("LocallyConnected1D", "c", filters=1, kernel_size=[3], implementation=2,
                              batch_input_shape=[None, 8, 3])), {}, [], np.copy),
        "implementation 2",
    ),
    "function of a file": (
        Case(model([entry("x", (3,)), node("TFOpLambda", "r", ["x", 0, 0, {}], function="io.read_file")],
                   ["x"], "r"), {"x": []}, [], np.copy, "2.8.0"),
        "tf.io.read_file is not among",
    ),
    "own layer": (
        Case(sequential(layer("Squashing", "q", batch_input_shape=[None, 3])), {"q": []}, [], np.copy),
        "Squashing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(tf: Worker, tmp_path: Path, title: str) -> None:
    case, reason = REFUSED[title]
    with pytest.raises(UnsupportedModelError, match=reason) as refused:
        converted(tf, case, tmp_path)
    assert refused.value.hint or "Try" in str(refused.value)
    assert not (tmp_path / "m.onnx").exists()
