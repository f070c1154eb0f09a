"""The tuner's candidates on a GPU, with a fake ONNX Runtime: what is timed, stated and refused.

No figure of a real GPU is here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.bench import tune_model
from pipeline.bench.callers import open_caller
from pipeline.bench.candidates import cuda_candidates, cuda_refinements, refinements
from pipeline.bench.contender import Contender, CudaOptions
from pipeline.bench.cuda import libraries as cuda_libraries
from pipeline.bench.cuda.caller import CudaCaller
from pipeline.bench.cuda.libraries import why_no_cuda
from pipeline.bench.records import Dropped
from pipeline.bench.tune import Sameness
from pipeline.bench.worker import Worker, process_environment
from pipeline.config import TuneConfig
from targets.cuda_provider import TF32_OVERRIDE
from tests.bench.models import chain

CUDA = "CUDAExecutionProvider"
MODELS = {"raw": Path("r.onnx"), "fast": Path("f.onnx")}
GIVEN = {"x": np.arange(4, dtype=np.float32).reshape(1, 4)}


class Options:
    """Session or run options: what was set."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add(self, key: str, value: str) -> None:
        self.entries[key] = value

    add_session_config_entry = add_run_config_entry = add


@dataclass
class Held:
    """An array on the device."""

    array: np.ndarray

    def update_inplace(self, array: np.ndarray) -> None:
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        return self.array.copy()

    def shape(self) -> list[int]:
        return list(self.array.shape)


class Values:
    """``OrtValue``."""

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, device: str, number: int) -> Held:
        assert (device, number) == ("cuda", 0)
        return Held(array.copy())

    @staticmethod
    def ortvalue_from_shape_and_type(shape: list[int], dtype: type, device: str, number: int) -> Held:
        assert (device, number) == ("cuda", 0)
        return Held(np.zeros(shape, dtype))


class Binding:
    def __init__(self) -> None:
        self.ends: dict[str, Held] = {}

    def bind(self, name: str, value: Held) -> None:
        self.ends[name] = value

    bind_ortvalue_input = bind_ortvalue_output = bind

    def bind_output(self, name: str, device: str, number: int) -> None:
        assert (device, number) == ("cuda", 0)
        assert name == "y"  # placed by the runtime

    def get_outputs(self) -> list[Held]:
        return [self.ends["y"]]


@dataclass
class Session:
    """The network doubles its input."""

    options: Options
    providers: Sequence[Any]
    fell_back: bool = False
    runs: list[dict[str, str]] = field(default_factory=list)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"] if self.fell_back else [CUDA, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="x", type="tensor(float)", shape=["batch", 4])]

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="y", type="tensor(float)", shape=["batch", 4])]

    def run(self, _names: list[str], given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        assert self.providers[0][1]["enable_cuda_graph"] == "0"  # such a session runs on buffers only
        return [2 * given["x"]]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Options) -> None:
        self.runs.append(options.entries)
        doubled = 2 * binding.ends["x"].array
        if "y" in binding.ends:
            binding.ends["y"].array[...] = doubled
        else:
            assert options.entries.get("gpu_graph_id", "-1") == "-1"  # a graph keeps addresses
            binding.ends["y"] = Held(doubled)


@dataclass
class Ort:
    """ONNX Runtime as far as a candidate needs it."""

    available: tuple[str, ...] = (CUDA, "CPUExecutionProvider")
    fell_back: bool = False
    cpu_node: bool = False  # the graph has a node without a CUDA kernel
    sessions: list[Session] = field(default_factory=list)
    preloaded: int = 0
    __version__ = "1.99"
    SessionOptions = RunOptions = Options
    OrtValue = Values
    GraphOptimizationLevel = types.SimpleNamespace(ORT_ENABLE_ALL=99)

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def InferenceSession(
        self, _model: str, options: Options, providers: Sequence[Any], enable_fallback: int
    ) -> Session:
        assert enable_fallback == 0
        if self.cpu_node and options.entries.get("session.disable_cpu_ep_fallback") == "1":
            raise RuntimeError(
                "This session contains graph nodes that are assigned to the default CPU EP, but "
                "fallback to CPU EP has been explicitly disabled by the user."
            )
        self.sessions.append(Session(options, providers, fell_back=self.fell_back))
        return self.sessions[-1]


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> Ort:
    fake = Ort()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)  # type: ignore[arg-type]  # as far as it is needed
    monkeypatch.delenv(TF32_OVERRIDE, raising=False)
    return fake


def candidate(tmp_path: Path, *, bound: bool = False, **options: Any) -> Contender:
    model = tmp_path / "m.onnx"
    model.touch()
    chosen = CudaOptions.model_validate({"tf32": True, **options})
    return Contender(name="c", kind="onnx", model=str(model), device="cuda", io_binding=bound, cuda=chosen)


def test_a_plain_candidate_is_session_run_with_its_options_stated(ort: Ort, tmp_path: Path) -> None:
    caller = open_caller(candidate(tmp_path, layout="NHWC"))
    assert caller.runtime == "onnxruntime 1.99, CUDA provider, fp32, TF32, NHWC, plain session.run"
    (session,) = ort.sessions
    ((provider, options),) = session.providers
    assert (provider, ort.preloaded) == (CUDA, 1)
    assert (options["prefer_nhwc"], options["use_tf32"], options["enable_cuda_graph"]) == ("1", "1", "0")
    assert session.options.entries["session.disable_cpu_ep_fallback"] == "1"
    np.testing.assert_array_equal(caller.results(GIVEN)["y"], 2 * GIVEN["x"])
    with pytest.raises(UserError):
        caller.bind({"x": np.zeros((1, 5), np.float32)})


def test_a_bound_call_copies_in_and_out_each_time(ort: Ort, tmp_path: Path) -> None:
    caller = CudaCaller(candidate(tmp_path, bound=True))
    given = {"x": GIVEN["x"].copy()}
    call = caller.bind(given)
    (first,) = call()
    np.testing.assert_array_equal(first, 2 * GIVEN["x"])
    given["x"] += 1  # the caller's own array, as in a loop over requests
    np.testing.assert_array_equal(call()[0], 2 * GIVEN["x"] + 2)
    np.testing.assert_array_equal(first, 2 * GIVEN["x"])  # an answer stays what it was
    assert ort.sessions[0].runs == [{}] * 3  # the first tells the shapes


def test_each_binding_has_a_graph_of_its_own(ort: Ort, tmp_path: Path) -> None:
    caller = CudaCaller(candidate(tmp_path, bound=True, graph=True))
    captured = ort.sessions[0]
    assert captured.providers[0][1]["enable_cuda_graph"] == "1"
    np.testing.assert_array_equal(caller.results(GIVEN)["y"], 2 * GIVEN["x"])
    assert captured.runs == [
        {"gpu_graph_id": "-1"},
        *[{"gpu_graph_id": "1"}] * 2,
    ]  # shapes; captured; replayed
    assert ort.sessions == [captured]
    caller.bind({"x": np.ones((3, 4), np.float32)})()
    assert captured.runs[-1] == {"gpu_graph_id": "2"}


def test_a_node_on_the_cpu_is_refused_with_the_reason_unless_allowed(ort: Ort, tmp_path: Path) -> None:
    ort.cpu_node = True
    with pytest.raises(UnsupportedModelError, match="a node would run on the CPU: This session contains"):
        CudaCaller(candidate(tmp_path))
    CudaCaller(candidate(tmp_path, cpu_fallback=True))
    assert "session.disable_cpu_ep_fallback" not in ort.sessions[0].options.entries


def test_what_is_not_the_gpu_is_no_candidate(ort: Ort, tmp_path: Path) -> None:
    ort.fell_back = True
    with pytest.raises(MissingRuntimeError, match="fell back to CPUExecutionProvider"):
        CudaCaller(candidate(tmp_path))
    ort.available = ("CPUExecutionProvider",)
    with pytest.raises(MissingRuntimeError, match="no CUDAExecutionProvider"):
        CudaCaller(candidate(tmp_path))


def test_without_tf32_the_whole_process_is(ort: Ort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that fails in fp32 is retried with TF32, unless the process was told otherwise."""
    strict = candidate(tmp_path, tf32=False)
    with pytest.raises(UserError, match="must be off for the whole process"):
        CudaCaller(strict)
    assert process_environment(strict) == {TF32_OVERRIDE: "0"}
    assert process_environment(candidate(tmp_path)) == {}
    assert process_environment(Contender(name="c", kind="onnx", model="m")) == {}
    monkeypatch.setenv(TF32_OVERRIDE, "1")  # so that it is put back after the test
    Worker().answer({"do": "open", "contender": strict.model_dump(mode="json")})
    assert ort.sessions[0].providers[0][1]["use_tf32"] == "0"


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="bound buffers"):
        Contender(name="c", kind="onnx", model="m", device="cuda", cuda=CudaOptions(graph=True))
    for kind in ("openvino", "onnx"):
        with pytest.raises(ValidationError, match="CUDA options are for"):
            Contender.model_validate({"name": "c", "kind": kind, "model": "m", "cuda": {}})


def test_candidates_on_a_gpu_are_all_combinations() -> None:
    found = cuda_candidates(MODELS, TuneConfig(), cpu_fallback=True)
    assert len({c.name for c in found}) == len(found) == 2 * 2 * 2
    assert {(c.device, c.kind, c.threads, c.io_binding) for c in found} == {("cuda", "onnx", 1, False)}
    assert all(c.cuda is not None and c.cuda.cpu_fallback and not c.cuda.graph for c in found)
    assert found[0].name == "raw, CUDA, NCHW, TF32 off"
    assert cuda_candidates(MODELS, TuneConfig(runtimes=("onnxruntime",))) == ()
    assert len(cuda_candidates(MODELS, TuneConfig(tf32=(False,), layout=("NHWC",)))) == 2


def test_a_graph_comes_with_bound_buffers_and_fixed_shapes() -> None:
    winner = cuda_candidates(MODELS, TuneConfig())[0]
    fixed = cuda_refinements(winner, TuneConfig(), fixed_shapes=True)
    assert [c.name for c in fixed] == [f"{winner.name}, bound", f"{winner.name}, bound, graph"]
    assert all(c.io_binding for c in fixed)
    assert [c.cuda.graph for c in fixed if c.cuda] == [False, True]
    free = cuda_refinements(winner, TuneConfig(), fixed_shapes=False)
    assert [c.name for c in free] == [f"{winner.name}, bound"]
    assert cuda_refinements(winner, TuneConfig(io_binding=(False,)), fixed_shapes=True) == ()
    on_cpu = Contender(name="w", kind="onnx", model="m.onnx")
    assert cuda_refinements(on_cpu, TuneConfig(), fixed_shapes=True) == ()
    assert refinements(winner, TuneConfig()) == ()


def subject(tmp_path: Path) -> tune_model.Subject:
    model = chain(tmp_path / "m.onnx", layers=1)
    default = Contender(name="default", kind="onnx", model=str(model))
    return tune_model.Subject(default, {"raw": model}, model, (), tune_model.Gate())


def test_without_a_gpu_cuda_is_left_out_and_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_libraries, "DEVICE_FILES", ())
    monkeypatch.setattr("pipeline.bench.host.gpus", lambda: ())
    given = subject(tmp_path)
    found, left_out = tune_model._on_gpu(given, given.models, TuneConfig())
    assert found == ()
    ((name, reason),) = [(one.name, one.reason) for one in left_out]
    assert (name, reason.split(":")[0]) == ("CUDA", "no NVIDIA GPU on this machine")
    assert tune_model._on_gpu(given, given.models, TuneConfig(runtimes=("onnxruntime",))) == ((), ())


def test_with_a_gpu_cuda_races_and_a_graph_needs_fixed_shapes(
    ort: Ort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_libraries, "DEVICE_FILES", (tmp_path,))  # one that exists
    assert why_no_cuda() == ""
    given = subject(tmp_path)
    found, left_out = tune_model._on_gpu(given, given.models, TuneConfig())
    assert len(found) == 4
    assert [(one.name, one.reason) for one in left_out] == [
        ("CUDA graph", "the shapes of its inputs are free (x); optimize.shapes fixes them")
    ]
    ort.available = ("CPUExecutionProvider",)
    found, left_out = tune_model._on_gpu(given, given.models, TuneConfig())
    assert found == ()
    assert "has no CUDA provider" in left_out[0].reason


def test_variants_on_a_gpu_are_held_to_the_references_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def parity(one: Contender) -> Sameness:
        asked.append(one.name)
        return Sameness(0.5, "max|Δ| 0.5") if one.cuda and one.cuda.graph else Sameness(1e-7)

    unlike: list[Dropped] = []
    given = subject(tmp_path)
    (winner, *_) = cuda_candidates(given.models, TuneConfig())
    refine = tune_model.refined(TuneConfig(), parity, unlike)
    for _ in range(2):
        assert [c.name for c in refine(winner)] == [f"{winner.name}, bound"]
    assert asked == [f"{winner.name}, bound"]  # the batch is free: no graph
    assert unlike == []
    assert [c.io_binding for c in refine(given.default)] == [True]
    monkeypatch.setattr(tune_model, "free_inputs", lambda _model: ())
    assert len(tune_model.refined(TuneConfig(), parity, unlike)(winner)) == 1
    assert [(d.name, d.reason) for d in unlike] == [(f"{winner.name}, bound, graph", "parity: max|Δ| 0.5")]
