"""What is carried to a GPU host: networks made from a seed, the torch baseline's graph, and packed files."""

from __future__ import annotations

import io
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.errors import UnsupportedModelError
from pipeline.bench.cuda.precision import as_half
from pipeline.bench.cuda.torch_graph import torch_module

onnx = pytest.importorskip("onnx")
from benchmarks.gpu.check import images  # noqa: E402
from benchmarks.gpu.networks import NETWORKS, Network, in_half  # noqa: E402
from benchmarks.gpu.pack_onnxruntime import archive, cut, joined  # noqa: E402


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", 25.53), ("mobilenet_v2", 3.49), ("efficientnet_b0", 5.27)]
)
def test_networks_have_the_parameters_of_their_papers(name: str, millions: float, tmp_path: Path) -> None:
    """Batch norm is folded: a bias in place of four vectors."""
    model = onnx.load(NETWORKS[name](tmp_path / "m.onnx"))
    onnx.checker.check_model(model)
    count = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", ["digits", "mobilenet_v2", "efficientnet_b0"])
def test_networks_run_and_are_the_same_each_time(name: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = NETWORKS[name](tmp_path / "a.onnx")
    again = NETWORKS[name](tmp_path / "b.onnx")
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    shape = [d if isinstance(d, int) else 2 for d in session.get_inputs()[0].shape]
    (out,) = session.run(None, {"image": np.random.default_rng(0).random(shape, np.float32)})
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    graphs = [onnx.load(m).graph for m in (model, again)]
    assert list(graphs[0].initializer) == list(graphs[1].initializer)


@pytest.mark.parametrize("name", ["digits", "mobilenet_v2", "efficientnet_b0", "resnet50"])
def test_networks_answer_the_same_in_half_precision(name: str, tmp_path: Path) -> None:
    """And their answers are not one and zeros, so that a wrong cell would be seen."""
    ort = pytest.importorskip("onnxruntime")
    single, halved = NETWORKS[name](tmp_path / "a.onnx"), tmp_path / "h.onnx"
    assert in_half(single, halved) == ""
    onnx.checker.check_model(halved)
    given = images(single, 2)
    sessions = [ort.InferenceSession(str(m), providers=["CPUExecutionProvider"]) for m in (single, halved)]
    (expected,) = sessions[0].run(None, given)
    (got,) = sessions[1].run(None, as_half(given))
    assert got.dtype == np.float16
    assert np.abs(got.astype(np.float32) - expected).max() / np.ptp(expected) < 0.02
    assert expected.max() < 0.9


def test_what_cannot_be_halved_says_why(tmp_path: Path) -> None:
    assert in_half(tmp_path / "none.onnx", tmp_path / "h.onnx").startswith("no float16 variant: FileNotFound")


class Tensor(np.ndarray):
    """A NumPy array as PyTorch's functions get it."""


class Module:
    """``torch.nn.Module`` as far as a graph needs it."""

    def register_buffer(self, name: str, value: Tensor) -> None:
        setattr(self, name, value)

    def __call__(self, *inputs: Tensor) -> Any:
        return self.forward(*inputs)  # type: ignore[attr-defined]


def numpy_torch() -> Any:
    """PyTorch's functions of a dense network, computed by NumPy."""
    return types.SimpleNamespace(
        nn=types.SimpleNamespace(Module=Module),
        from_numpy=lambda a: a.view(Tensor),
        matmul=np.matmul,
        add=np.add,
        mul=np.multiply,
        relu=lambda x: np.maximum(x, 0),
        sigmoid=lambda x: 1 / (1 + np.exp(-x)),
        softmax=lambda x, dim: np.exp(x) / np.exp(x).sum(axis=dim, keepdims=True),
        clamp=np.clip,
    )


def test_the_torch_baseline_computes_the_graph(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    net = Network()
    x = net.dense(net.add("Flatten", "image"), (4 * 9, 8), act="relu6")
    path = net.save(tmp_path / "m.onnx", net.dense(x, (8, 5), act="swish"), (4, 3, 3), 5)
    image = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = torch_module(path, numpy_torch())(image.view(Tensor))
    np.testing.assert_allclose(got, session.run(None, {"image": image})[0], rtol=1e-5)


def test_the_torch_baseline_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    net = Network()
    path = net.save(tmp_path / "m.onnx", net.add("Erf", net.add("Flatten", "image")), (1, 2, 2), 4)
    with pytest.raises(UnsupportedModelError, match="Erf is not covered"):
        torch_module(path, numpy_torch())
    net = Network()
    x = net.add("Conv", "image", net.weight(2, 1, 3, 3, scale=1.0), auto_pad="SAME_UPPER")
    path = net.save(tmp_path / "p.onnx", net.add("Flatten", x), (1, 4, 4), 32)
    with pytest.raises(UnsupportedModelError, match="auto_pad"):
        torch_module(path, numpy_torch())


def test_pieces_make_up_the_archive_and_damage_is_seen(tmp_path: Path) -> None:
    data = bytes(np.random.default_rng(0).integers(0, 256, 10_001, dtype=np.uint8))
    cut(data, tmp_path, 4096)
    assert len(list(tmp_path.glob("piece_*"))) == 3
    assert joined(tmp_path) == data
    piece = tmp_path / "piece_01"
    piece.write_bytes(piece.read_bytes()[:-1] + b"\0")
    with pytest.raises(SystemExit, match="damaged"):
        joined(tmp_path)


def test_the_archive_holds_all_wheels_less_what_is_not_needed(tmp_path: Path) -> None:
    for name, files in (
        ("onnxruntime_gpu-1.whl", {"onnxruntime/a.py": "a", "onnxruntime/capi/libonnxruntime.so.1": "copy"}),
        ("pydantic-2.whl", {"pydantic/b.py": "b"}),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            for file, text in files.items():
                wheel.writestr(file, text)
    packed = archive(list(tmp_path.glob("*.whl")))
    assert packed == archive(sorted(tmp_path.glob("*.whl"), reverse=True))
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as held:
        assert held.getnames() == ["onnxruntime/a.py", "pydantic/b.py"]
