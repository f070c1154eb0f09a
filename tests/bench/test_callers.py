"""The timed call is the runtime's own: its results are those of an independent evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optim.errors import MissingRuntimeError, UserError
from pipeline.bench.callers import OpenVinoCaller, OrtCaller, open_caller
from pipeline.bench.contender import Contender
from tests.bench.models import chain, feeds


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return chain(tmp_path / "m.onnx", layers=3)


def expected(model: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    return np.asarray(ReferenceEvaluator(onnx.load(model)).run(None, given)[0])


def test_ort_runs_the_model_it_was_given(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    caller = open_caller(Contender(name="m", kind="onnx", model=str(model)))
    assert [s.name for s in caller.inputs] == ["x"]
    assert caller.inputs[0].dtype == "float32"
    assert caller.creation_ms > 0
    (got,) = caller.bind(feeds(batch=4))()  # type: ignore[misc]
    np.testing.assert_allclose(got, expected(model, feeds(batch=4)), atol=1e-5)


def test_bound_buffers_give_the_same_result_run_after_run(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    caller = OrtCaller(Contender(name="m", kind="onnx", model=str(model), io_binding=True))
    call: Any = caller.bind(feeds(batch=4))
    binding = call.args[0]
    addresses = set()
    for _ in range(3):
        call()
        (value,) = binding.get_outputs()
        addresses.add(value.data_ptr())
        np.testing.assert_allclose(value.numpy(), expected(model, feeds(batch=4)), atol=1e-5)
    assert len(addresses) == 1  # the buffer stays
    other = feeds(batch=2)
    np.testing.assert_allclose(caller.results(other)["y"], expected(model, other), atol=1e-5)


def test_openvino_runs_the_model_at_float32_and_at_the_shapes_it_is_fed(model: Path) -> None:
    pytest.importorskip("openvino")
    caller = OpenVinoCaller(Contender(name="m", kind="openvino", model=str(model)))
    assert caller.runtime.startswith("openvino ")
    assert caller.inputs[0].shape[0] is None
    for batch in (4, 2):
        got = caller.results(feeds(batch=batch))
        np.testing.assert_allclose(got["y"], expected(model, feeds(batch=batch)), atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_inputs_that_do_not_fit_and_files_that_are_not_there(kind: Any, model: Path) -> None:
    pytest.importorskip("onnxruntime" if kind == "onnx" else "openvino")
    caller = open_caller(Contender(name="m", kind=kind, model=str(model)))
    with pytest.raises(UserError):
        caller.bind(feeds(width=3))
    with pytest.raises(UserError, match="no such model file"):
        open_caller(Contender(name="m", kind=kind, model=str(model.with_name("gone.onnx"))))


def test_cuda_without_a_gpu_is_said_to_be_not_measured(model: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(MissingRuntimeError, match="not measured"):
        open_caller(Contender(name="m", kind="onnx", model=str(model), device="cuda"))
