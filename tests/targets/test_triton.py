"""The Triton repository: config by Triton's own protobuf, pre-processing, and one real server over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optim.errors import UnsupportedModelError, UserError
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.closeness import Gate, closeness
from targets.contract import State
from targets.preprocessing import Preprocessing
from targets.reference import OrtSession
from targets.references import Reference
from targets.triton import Triton
from targets.triton_config import messages

pytest.importorskip("tritonclient", reason="fairlead[triton] is not installed")
MEAN, STD, SCALE = (0.5,), (0.25,), 1 / 16


def _config(file: Path) -> Any:
    from google.protobuf import text_format

    return text_format.Parse(file.read_text(), messages().ModelConfig())


def _free_batch(source: Path, file: Path) -> Path:
    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, file)
    return file


@pytest.fixture(scope="module")
def repository(classifier: Path, references: tuple[Reference, ...], tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("triton")
    spec = BundleSpec(
        "digits",
        _free_batch(classifier, folder / "free.onnx"),
        Triton(),
        references,
        options={"max_batch_size": 4, "accelerator": "openvino", "device": "cpu", "instances": 2},
        labels=("a", "b", "c", "d"),
        preprocessing=Preprocessing(SCALE, MEAN, STD),
    )
    result = write_bundle(spec, folder / "bundle")
    assert result.verdict.state is State.PRODUCED
    assert "TRITON_URL" in result.verdict.detail
    return folder / "bundle" / "model_repository"


def test_config_says_what_was_asked(repository: Path) -> None:
    config = _config(repository / "model" / "config.pbtxt")
    pb = messages()
    assert (config.name, config.backend, config.max_batch_size) == ("model", "onnxruntime", 4)
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("image", pb.TYPE_FP32, [1, 8, 8])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("scores", [4])]
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, pb.ModelInstanceGroup.KIND_CPU)
    (accelerator,) = config.optimization.execution_accelerators.cpu_execution_accelerator
    assert accelerator.name == "openvino"
    (warm,) = config.model_warmup
    assert list(warm.inputs["image"].dims) == [1, 8, 8]
    assert (repository / "model" / config.output[0].label_filename).read_text().split() == list("abcd")


def test_ensemble_joins_two_models_that_fit(repository: Path) -> None:
    whole = _config(repository / "model_ensemble" / "config.pbtxt")
    before, then = whole.ensemble_scheduling.step
    assert whole.platform == "ensemble"
    assert (before.model_name, then.model_name) == ("model_preprocess", "model")
    for step in (before, then):
        part = _config(repository / step.model_name / "config.pbtxt")
        assert set(step.input_map) == {t.name for t in part.input}
        assert set(step.output_map) == {t.name for t in part.output}
        assert (repository / step.model_name / "1" / "model.onnx").is_file()
        assert part.max_batch_size == whole.max_batch_size
    assert set(before.output_map.values()) == set(then.input_map.values())
    assert {t.name for t in whole.output} == set(then.output_map.values())
    assert (repository / "model_ensemble" / "1").is_dir()


def test_preprocessing_model_is_the_formula(repository: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with OrtSession(repository / "model_preprocess" / "1" / "model.onnx", optimization="off") as session:
        got = session.run({"RAW": pixels})["image"]
    wanted = ((pixels * np.float32(SCALE) - np.float32(MEAN[0])) / np.float32(STD[0])).transpose(0, 3, 1, 2)
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted)


def test_ensemble_answers_as_the_whole_way_by_hand(repository: Path) -> None:
    """Its steps run in order by ONNX Runtime, each tensor passed under the name that the config gives it."""
    whole = _config(repository / "model_ensemble" / "config.pbtxt")
    pixels = np.random.default_rng(4).integers(0, 256, (3, 8, 8, 1), np.uint8)
    (given,) = whole.input
    tensors = {given.name: pixels}
    for step in whole.ensemble_scheduling.step:
        with OrtSession(repository / step.model_name / "1" / "model.onnx", optimization="off") as session:
            found = session.run({inner: tensors[outer] for inner, outer in step.input_map.items()})
        tensors |= {outer: found[inner] for inner, outer in step.output_map.items()}
    by_hand = (pixels * np.float32(SCALE) - np.float32(MEAN[0])) / np.float32(STD[0])
    with OrtSession(repository / "model" / "1" / "model.onnx", optimization="off") as session:
        wanted = session.run({"image": by_hand.transpose(0, 3, 1, 2)})["scores"]
    (output,) = whole.output
    assert list(given.dims) == [8, 8, 1]
    assert np.array_equal(tensors[output.name], wanted)


def test_a_fixed_batch_is_not_gathered(classifier: Path, tmp_path: Path) -> None:
    Triton().build(classifier, tmp_path, {"accelerator": "tensorrt", "warmup": False})
    config = _config(tmp_path / "model_repository" / "model" / "config.pbtxt")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 1, 8, 8]
    assert not config.model_warmup
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, accelerator.parameters["precision_mode"]) == ("tensorrt", "FP32")


@pytest.mark.parametrize("name", ["../up", "", "a b", ".hidden"])
def test_a_model_name_is_a_folder_name(classifier: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"model_name|pattern"):
        Triton().build(classifier, tmp_path, {"model_name": name})
    assert list(tmp_path.iterdir()) == []


def test_what_the_protocol_cannot_carry_is_named(classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(classifier)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    (reason,) = Triton().unsupported(tmp_path / "half.onnx")
    assert "image: type bfloat16" in reason
    with pytest.raises(UnsupportedModelError):
        Triton().build(tmp_path / "half.onnx", tmp_path, {})


# --- a real server -----------------------------------------------------------------------------------


def _mlserver(repository: Path) -> str:
    found = os.environ.get("FAIRLEAD_MLSERVER") or shutil.which("mlserver")
    beside = repository / ".venv-mlserver" / "bin" / "mlserver"
    if found or beside.is_file():
        return found or str(beside)
    pytest.skip(
        "no MLServer: make an environment in .venv-mlserver with "
        "`pip install mlserver onnxruntime -c tests/targets/mlserver-constraints.txt`, "
        "or name its mlserver in FAIRLEAD_MLSERVER"
    )


@contextlib.contextmanager
def _served(mlserver: str, models: dict[str, Path], folder: Path) -> Iterator[str]:
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    settings = {"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2]}
    settings |= {"parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    shutil.copy(Path(__file__).with_name("kserve_model.py"), folder)
    for name, file in models.items():
        (folder / name).mkdir()
        one = {"name": name, "implementation": "kserve_model.OnnxModel", "parameters": {"uri": str(file)}}
        (folder / name / "model-settings.json").write_text(json.dumps(one))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([mlserver, "start", str(folder)], env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{ports[0]}"
            for _ in range(300):
                assert server.poll() is None, (folder / "log").read_text()[-3000:]
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/v2/health/ready"):
                    break
                time.sleep(0.2)
            else:
                pytest.fail((folder / "log").read_text()[-3000:])
            yield url
        finally:
            server.terminate()
            server.wait(timeout=30)


def _infer(url: str, model: str, name: str, array: Any, datatype: str) -> Any:
    body = {
        "inputs": [{"name": name, "shape": array.shape, "datatype": datatype, "data": array.ravel().tolist()}]
    }
    request = urllib.request.Request(
        f"{url}/v2/models/{model}/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        (output,) = json.load(answer)["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


@pytest.mark.slow
def test_served_over_http_and_verified(
    repository: Path,
    references: tuple[Reference, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    mlserver = _mlserver(request.getfixturevalue("repository_root"))
    names = ("model", "model_preprocess")
    with _served(mlserver, {n: repository / n / "1" / "model.onnx" for n in names}, tmp_path) as url:
        monkeypatch.setenv("TRITON_URL", url)
        assert Triton().available().available
        verdict = verify_bundle(repository.parent)
        assert verdict.state is State.VERIFIED, verdict
        assert verdict.detail.startswith("mlserver")
        done = subprocess.run(
            [sys.executable, str(repository.parent / "verify.py")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": os.environ["PATH"], "TRITON_URL": url},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # The ensemble, its two steps asked one after the other as Triton would.
        pixels = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 1), np.uint8)
        encoded = _infer(url, "model_preprocess", "RAW", pixels, "UINT8")
        scores = _infer(url, "model", "image", encoded, "FP32")
        with OrtSession(repository / "model" / "1" / "model.onnx", optimization="off") as session:
            by_hand = (pixels * np.float32(SCALE) - np.float32(MEAN[0])) / np.float32(STD[0])
            wanted = session.run({"image": by_hand.transpose(0, 3, 1, 2)})["scores"]
        assert Gate().passes(closeness(scores, wanted))
    verdict = verify_bundle(repository.parent)  # the server has gone
    assert verdict.state is State.PRODUCED
    assert "does not serve" in verdict.detail
    assert not Triton().available().available
