"""What a race found, as the settings of a bundle: which choice it takes, its options, and what to expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipeline.bench.contender import Contender, CudaOptions
from pipeline.bench.host import gpu_names
from pipeline.bench.records import TunedChoice, TuneRecord

AS_INSTALLED: Final = CudaOptions(tf32=True, cpu_fallback=True)  # the provider where nothing is stated


def choice_for_bundle(
    tune: TuneRecord | None, target: str, given: Mapping[str, object]
) -> TunedChoice | None:
    """The race's choice that a bundle for ``target`` is made of; None where there is none.

    A bundle for ONNX Runtime is for the device that the user names; else for the GPU where the race was won
    there, and for the CPU where not.
    """
    if tune is None:
        return None
    if target != "onnxruntime":
        return tune.choice_for(target)
    on_gpu = tune.winner.runtime == "cuda" if "device" not in given else given["device"] == "cuda"
    return tune.choice_for("cuda" if on_gpu else "onnxruntime")


def options_of(choice: TunedChoice) -> dict[str, object]:
    """The target's options that make a bundle run as the choice ran in the race."""
    one = choice.contender
    if choice.runtime == "openvino":
        return {"threads": one.threads}
    options: dict[str, object] = {
        "threads": one.threads,
        "allow_spinning": one.allow_spinning,
        "optimization": one.optimization,
        "io_binding": one.io_binding,
    }
    return options | (_cuda_options(one) if choice.runtime == "cuda" else {})


def _cuda_options(one: Contender) -> dict[str, object]:
    stated = one.cuda or AS_INSTALLED
    return {
        "device": "cuda",
        "layout": stated.layout,
        "tf32": stated.tf32,
        "cuda_graph": stated.graph,
        "cpu_fallback": stated.cpu_fallback,
    }


def with_choice(given: Mapping[str, object], choice: TunedChoice | None) -> dict[str, object]:
    """The user's options, and beside them those of the choice."""
    return {**({} if choice is None else options_of(choice)), **given}


def expected_of(
    tune: TuneRecord, choice: TunedChoice, options: Mapping[str, object], host: Mapping[str, Any]
) -> dict[str, Any]:
    """What latency a bundle has on the machine it was raced on; nothing where the user set it otherwise.

    Args:
        tune: the race.
        choice: of which the bundle is made.
        options: of the bundle.
        host: facts of the machine, ``environment()``.
    """
    if any(options.get(name) != value for name, value in options_of(choice).items()):
        return {}
    device = choice.contender.device
    return {
        "latency_ms": choice.latency_ms,
        "interval_ms": list(choice.interval_ms),
        "device": device,
        **({"gpu": gpu_names(host)} if device == "cuda" else {}),
        "batch": tune.batch,
        "threads": choice.contender.threads,
        "host": tune.host,
        "recipe": choice.recipe,
        "settings": choice.contender.name,
        "ratio_to_default": choice.ratio,
        "ratio_interval": list(choice.ratio_interval),
        "verdict": choice.verdict,
    }
