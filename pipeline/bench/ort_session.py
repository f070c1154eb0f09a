"""An ONNX Runtime session as a contender asks for it: its provider is there, and nothing falls back in
silence.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optim.contract import TensorSpec
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.bench.contender import Contender, OrtLevel
from pipeline.bench.cuda.libraries import preload
from targets.cuda_provider import CPU_PROVIDER, CUDA_PROVIDER

LEVELS: Final[Mapping[OrtLevel, str]] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
DTYPES: Final[Mapping[str, str]] = {"float": "float32", "double": "float64"}  # the others are NumPy's own
PROVIDERS: Final = {"cpu": CPU_PROVIDER, "cuda": CUDA_PROVIDER}


def import_runtime(name: str, extra: str) -> Any:
    """The runtime's module.

    Raises:
        MissingRuntimeError: it is not installed; ``extra`` brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingRuntimeError(
            f"{name} is not installed: {error}", hint=f"pip install '{extra}'"
        ) from error


def import_onnxruntime(contender: Contender) -> Any:
    """ONNX Runtime with the contender's provider, and that provider's libraries loaded.

    Raises:
        MissingRuntimeError: it is not installed, or has no such provider.
    """
    ort = import_runtime("onnxruntime", "fairlead[gpu]" if contender.device == "cuda" else "fairlead[cpu]")
    provider = PROVIDERS[contender.device]
    if provider not in ort.get_available_providers():
        raise MissingRuntimeError(
            f"this ONNX Runtime has no {provider}: not measured",
            expected=f"one of {ort.get_available_providers()}",
            hint="pip install 'fairlead[gpu]' on a machine with an NVIDIA GPU",
        )
    if contender.device == "cuda":
        preload(ort)
    return ort


def ort_session(
    ort: Any, contender: Contender, providers: Sequence[Any], entries: Mapping[str, str] | None = None
) -> Any:
    """A session with the contender's settings.

    Args:
        ort: from ``import_onnxruntime``.
        contender: the model and its settings.
        providers: names, or (name, options); the session must run on the first.
        entries: of the session's configuration, beside the contender's own.

    Raises:
        UserError: there is no such file, or ONNX Runtime cannot load it; in its own words.
        UnsupportedModelError: an operator has no kernel, or none on the only provider allowed.
        MissingRuntimeError: the provider could not be started, and the session fell back.
    """
    if not Path(contender.model).is_file():
        raise UserError("no such model file", where=contender.model)
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[contender.optimization])
    options.intra_op_num_threads = contender.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    spinning = str(int(contender.allow_spinning))
    for key, value in {"session.intra_op.allow_spinning": spinning, **(entries or {})}.items():
        options.add_session_config_entry(key, value)
    try:  # without enable_fallback=0 it would print what failed, and go on with the CPU, here or in a run
        session = ort.InferenceSession(contender.model, options, providers=list(providers), enable_fallback=0)
    except Exception as error:
        raise _refused(error, contender) from error
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise MissingRuntimeError(
            f"the session fell back to {session.get_providers()[0]}: not measured",
            where=contender.model,
            hint="is there a working GPU and driver? `fairlead doctor` says",
        )
    return session


def ort_spec(argument: Any) -> TensorSpec:
    """Name, dtype and shape of a session's input or output."""
    dtype = argument.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(argument.name, DTYPES.get(dtype, dtype), tuple(argument.shape))


def _refused(error: Exception, contender: Contender) -> Exception:
    text = str(error).replace("\n", " ")
    if "fallback to CPU EP has been explicitly disabled" in text:
        return UnsupportedModelError(
            f"a node would run on the CPU: {text}",
            where=contender.model,
            expected=f"every node on {PROVIDERS[contender.device]}",
            hint="allow_cpu_fallback accepts nodes on the CPU",
        )
    kind = UnsupportedModelError if "NOT_IMPLEMENTED" in text else UserError
    return kind(f"ONNX Runtime cannot load the model: {text}", where=contender.model)
