"""Which of a race's choices a bundle is made of, with which options, and what it may expect."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.bench.contender import CudaOptions
from pipeline.bench.records import TunedChoice, TuneRecord
from pipeline.stages.tuned_settings import choice_for_bundle, expected_of, options_of, with_choice
from targets.onnxruntime import recorded_options

HOST = {"gpus": [{"name": "NVIDIA H200", "driver": "570.1", "memory_mib": 1}], "fingerprint": "f"}
GRAPH = CudaOptions(layout="NHWC", tf32=False, graph=True)


def choice(runtime: str, latency_ms: float, **contender: Any) -> TunedChoice:
    return TunedChoice.model_validate(
        {
            "runtime": runtime,
            "contender": {"name": runtime, "kind": "onnx", "model": "m", **contender},
            "recipe": "fast",
            "latency_ms": latency_ms,
            "interval_ms": (0.9 * latency_ms, 1.1 * latency_ms),
            "ratio": 0.5,
            "ratio_interval": (0.4, 0.6),
            "verdict": "faster",
        }
    )


ON_CPU = choice("onnxruntime", 4.0, threads=2, optimization="extended", allow_spinning=True)
ON_GPU = choice("cuda", 1.0, device="cuda", cuda=GRAPH, io_binding=True)
OPENVINO = choice("openvino", 3.0, kind="openvino", threads=2)


def race(winner: TunedChoice, *choices: TunedChoice) -> TuneRecord:
    return TuneRecord(
        default="default", batch=8, winner=winner, choices=choices or (winner,), undecided=(), dropped=(),
        raced=(), stages=1, seconds=1.0, budget_s=1.0, out_of_time=False, host="f",
    )  # fmt: skip


ALL = (ON_CPU, OPENVINO, ON_GPU)


@pytest.mark.parametrize(
    ("tune", "target", "given", "expected"),
    [
        (race(ON_GPU, *ALL), "onnxruntime", {}, ON_GPU),
        (race(ON_GPU, *ALL), "onnxruntime", {"device": "cpu"}, ON_CPU),
        (race(ON_CPU, *ALL), "onnxruntime", {}, ON_CPU),
        (race(OPENVINO, *ALL), "onnxruntime", {}, ON_CPU),
        (race(ON_CPU, *ALL), "onnxruntime", {"device": "cuda"}, ON_GPU),
        (race(ON_CPU, ON_CPU), "onnxruntime", {"device": "cuda"}, None),
        (race(ON_GPU, ON_GPU), "onnxruntime", {"device": "cpu"}, None),
        (race(ON_GPU, *ALL), "openvino", {}, OPENVINO),
        (race(ON_GPU, *ALL), "litert", {}, None),
        (race(ON_GPU, *ALL), "tensorrt", {}, None),
        (None, "onnxruntime", {}, None),
    ],
)
def test_the_choice_is_that_of_the_winner_or_of_the_device_wanted(
    tune: TuneRecord | None, target: str, given: dict[str, object], expected: TunedChoice | None
) -> None:
    assert choice_for_bundle(tune, target, given) == expected


def test_options_are_those_of_the_contender() -> None:
    assert options_of(ON_CPU) == {
        "threads": 2, "allow_spinning": True, "optimization": "extended", "io_binding": False,
    }  # fmt: skip
    assert options_of(OPENVINO) == {"threads": 2}
    on_gpu = recorded_options(options_of(ON_GPU))
    assert (on_gpu.device, on_gpu.layout, on_gpu.tf32, on_gpu.cuda_graph) == ("cuda", "NHWC", False, True)
    assert (on_gpu.io_binding, on_gpu.cpu_fallback, on_gpu.threads) == (True, False, 1)


def test_the_provider_as_installed_is_stated_too() -> None:
    """The default of a benchmark on the GPU wins: what it leaves unsaid is said in the bundle."""
    stock = recorded_options(options_of(choice("cuda", 1.0, device="cuda")))
    assert (stock.tf32, stock.cpu_fallback, stock.layout, stock.cuda_graph) == (True, True, "NCHW", False)


def test_the_users_options_come_first() -> None:
    assert with_choice({"threads": 3, "ort": True}, ON_CPU) == {
        **options_of(ON_CPU), "threads": 3, "ort": True,
    }  # fmt: skip
    assert with_choice({"threads": 3}, None) == {"threads": 3}


def test_what_is_expected_names_device_and_gpu() -> None:
    found = expected_of(race(ON_GPU, *ALL), ON_GPU, options_of(ON_GPU), HOST)
    assert (found["device"], found["gpu"]) == ("cuda", "NVIDIA H200, driver 570.1")
    assert (found["latency_ms"], found["interval_ms"], found["batch"]) == (1.0, [0.9, 1.1], 8)
    on_cpu = expected_of(race(ON_CPU, *ALL), ON_CPU, options_of(ON_CPU), HOST)
    assert on_cpu["device"] == "cpu"
    assert "gpu" not in on_cpu


def test_of_other_settings_nothing_is_expected() -> None:
    for given in ({"tf32": True}, {"cuda_graph": False}, {"threads": 2}):
        options = with_choice(given, ON_GPU)
        assert expected_of(race(ON_GPU, *ALL), ON_GPU, options, HOST) == {}
    assert expected_of(race(ON_CPU, *ALL), ON_CPU, with_choice({"ort": True}, ON_CPU), HOST) != {}
