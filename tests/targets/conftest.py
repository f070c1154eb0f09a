"""Small real models for every target, with outputs from ONNX's reference evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from targets.references import Reference

CLASSIFIER = """
<ir_version: 8, opset_import: ["" : 17, "unused.domain" : 1]>
digits (float[1,1,8,8] image) => (float[1,4] scores) {
  c = Conv<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(image, conv_w, conv_b)
  r = Relu(c)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
  f = Flatten<axis=1>(p)
  scores = Gemm<transB=1>(f, dense_w, dense_b)
}
"""


def build_classifier(file: Path, *, external: bool = False) -> Path:
    """Conv with uneven padding, ReLU, max pool, dense: seeded weights, 4 classes, channels first."""
    rng = np.random.default_rng(7)
    shapes = {"conv_w": (3, 1, 3, 3), "conv_b": (3,), "dense_w": (4, 12), "dense_b": (4,)}
    model = parser.parse_model(CLASSIFIER)
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model, full_check=True)
    if external:
        onnx.save(model, file, save_as_external_data=True, location=file.name + ".data", size_threshold=0)
    else:
        onnx.save(model, file)
    return file


def references_for(model: Path) -> tuple[Reference, ...]:
    """Zeros and a seeded random input, answered by ONNX's own reference evaluator."""
    evaluator = ReferenceEvaluator(onnx.load(model))
    rng = np.random.default_rng(3)
    feeds = {
        "zeros": np.zeros((1, 1, 8, 8), np.float32),
        "random_0": rng.normal(size=(1, 1, 8, 8)).astype(np.float32),
    }
    return tuple(
        Reference(name, {"image": x}, {"scores": np.asarray(evaluator.run(None, {"image": x})[0])})
        for name, x in feeds.items()
    )


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_classifier(tmp_path_factory.mktemp("models") / "digits.onnx")


@pytest.fixture(scope="session")
def references(classifier: Path) -> tuple[Reference, ...]:
    return references_for(classifier)


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The checkout; ``repository`` is a model repository in the tests here."""
    return Path(__file__).resolve().parents[2]


class FakeCuda:
    """A machine with a GPU, as far as child processes see it: ``fake_cuda_onnxruntime.py`` says how."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log.jsonl"
        source = Path(__file__).with_name("fake_cuda_onnxruntime.py")
        (folder / "onnxruntime.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")

    def environment(self, kind: str = "works") -> dict[str, str]:
        """Variables that put a machine of this kind in place of the real one."""
        (self.folder / "kind").write_text(kind)
        return {"PYTHONPATH": str(self.folder)}

    def taken(self) -> list[dict[str, Any]]:
        """What was asked of the GPU since the last call."""
        if not self._log.exists():
            return []
        found = [json.loads(line) for line in self._log.read_text().splitlines()]
        self._log.unlink()
        return found


@pytest.fixture
def fake_cuda(tmp_path: Path) -> FakeCuda:
    folder = tmp_path / "fake_cuda"
    folder.mkdir()
    return FakeCuda(folder)
