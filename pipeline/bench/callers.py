"""What is timed: the runtime's own call, with its arguments already in place.

Nothing of fairlead lies between the two readings of the clock: checks, names and buffers are dealt with in
``bind``, once. Importing a runtime is no part of making a session, so it is done before that clock starts.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import UnsupportedModelError, UserError
from pipeline.bench.contender import Contender
from pipeline.bench.ort_session import PROVIDERS, import_onnxruntime, import_runtime, ort_session, ort_spec
from targets.validate_feeds import validate_feeds

Call: TypeAlias = Callable[[], object]
"""One inference; whatever it returns is dropped."""


class Caller(Protocol):
    """A loaded model. ``creation_ms`` is what loading it took, without importing its runtime."""

    @property
    def runtime(self) -> str: ...

    @property
    def creation_ms(self) -> float: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def bind(self, feeds: Feeds) -> Call:
        """The call on these inputs, good until the next ``bind``; raises UserError when they do not fit."""
        ...

    def results(self, feeds: Feeds) -> Outputs:
        """What the call computes, by output name; not for timing."""
        ...

    def close(self) -> None: ...


def open_caller(contender: Contender) -> Caller:
    """Load a contender's model.

    Raises:
        MissingRuntimeError: the framework or runtime is not installed.
        UserError: the model cannot be loaded, or a source comes without its request.
    """
    match contender.kind:
        case "busy_wait":
            return BusyWait(float(contender.model))
        case "onnx" if contender.cuda is not None:
            # Late: what the CUDA measurement is made of has no place in the memory of a CPU's process.
            from pipeline.bench.cuda.caller import CudaCaller

            return CudaCaller(contender)
        case "onnx":
            return OrtCaller(contender)
        case "openvino":
            return OpenVinoCaller(contender)
        case "source":
            return SourceCaller(contender)


class BusyWait:
    """Takes a set time and does nothing: tells the loop's own cost from the model's."""

    runtime: str = "busy wait"
    creation_ms: float = 0.0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, microseconds: float) -> None:
        self._nanoseconds = int(microseconds * 1e3)

    def bind(self, feeds: Feeds) -> Call:  # noqa: ARG002 - the protocol's signature
        """A call that returns once the time is over."""

        def call() -> None:
            end = time.perf_counter_ns() + self._nanoseconds
            while time.perf_counter_ns() < end:
                pass

        return call

    def results(self, feeds: Feeds) -> Outputs:  # noqa: ARG002 - the protocol's signature
        """Nothing is computed."""
        return {}

    def close(self) -> None:
        """Nothing to release."""


class OrtCaller:
    """A model in ONNX Runtime, by ``InferenceSession.run`` or with inputs and outputs bound to buffers."""

    def __init__(self, contender: Contender) -> None:
        ort = import_onnxruntime(contender)
        self.runtime = f"onnxruntime {ort.__version__}"
        if contender.device == "cuda":
            self.runtime += ", CUDA provider as installed: TF32 on"
        self._where = contender.model
        self._bound = contender.io_binding
        begin = time.perf_counter_ns()
        self._session = ort_session(ort, contender, [PROVIDERS[contender.device]])
        self.creation_ms = (time.perf_counter_ns() - begin) / 1e6
        self.inputs = tuple(ort_spec(i) for i in self._session.get_inputs())
        self.outputs = tuple(ort_spec(o) for o in self._session.get_outputs())

    def bind(self, feeds: Feeds) -> Call:
        """``session.run`` with its arguments, or ``run_with_iobinding`` on fixed buffers."""
        validate_feeds(self.inputs, feeds, where=self._where)
        arrays = {name: np.asarray(value, order="C") for name, value in feeds.items()}  # keeps rank 0
        names = [spec.name for spec in self.outputs]
        if not self._bound:
            return partial(self._session.run, names, arrays)
        binding = self._session.io_binding()
        for name, array in arrays.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name in names:
            binding.bind_output(name, "cpu")  # allocated in the first run, the same buffer from then on
        self._fed, self._binding = arrays, binding  # the binding holds addresses only
        return partial(self._session.run_with_iobinding, binding)

    def results(self, feeds: Feeds) -> Outputs:
        """Outputs by name, from the same call as is timed."""
        call = self.bind(feeds)
        returned = call()
        if self._bound:
            returned = [value.numpy() for value in self._binding.get_outputs()]
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, cast("list[Array]", returned), strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


class OpenVinoCaller:
    """An ONNX model in OpenVINO's CPU plugin, float32 pinned, compiled for the shapes it is fed."""

    def __init__(self, contender: Contender) -> None:
        self._ov = import_runtime("openvino", "fairlead[openvino]")
        self.runtime = f"openvino {importlib.metadata.version('openvino')}"
        self._where = contender.model
        self._config = {
            "INFERENCE_PRECISION_HINT": "f32",  # its default is bfloat16 where the CPU has it
            "INFERENCE_NUM_THREADS": contender.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the measurement places processes itself
        }
        if not Path(contender.model).is_file():
            raise UserError("no such model file", where=contender.model)
        begin = time.perf_counter_ns()
        try:
            self._core = self._ov.Core()
            self._model = self._core.read_model(contender.model)
            self._compiled = self._core.compile_model(self._model, "CPU", self._config)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UnsupportedModelError(
                f"OpenVINO cannot load it: {lines[-1][:300]}", where=contender.model
            ) from error
        self.creation_ms = (time.perf_counter_ns() - begin) / 1e6
        self._free_shape = any(port.partial_shape.is_dynamic for port in self._model.inputs)
        self.inputs = tuple(_ov_spec(port) for port in self._model.inputs)
        self.outputs = tuple(_ov_spec(port) for port in self._model.outputs)

    def bind(self, feeds: Feeds) -> Call:
        """``InferRequest.infer`` on the model compiled for these very shapes."""
        validate_feeds(self.inputs, feeds, where=self._where)
        try:
            if self._free_shape:
                self._model.reshape({name: list(value.shape) for name, value in feeds.items()})
                self._compiled = self._core.compile_model(self._model, "CPU", self._config)
            request = self._compiled.create_infer_request()
            self._fed = {name: np.asarray(value, order="C") for name, value in feeds.items()}
            for name, array in self._fed.items():  # shared: the tensor holds an address only
                request.set_tensor(name, self._ov.Tensor(array, shared_memory=True))
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"OpenVINO failed while running the model: {str(error).strip().splitlines()[-1]}",
                where=self._where,
            ) from error
        self._request = request
        return cast(Call, request.infer)

    def results(self, feeds: Feeds) -> Outputs:
        """Outputs by name, from the same call as is timed."""
        self.bind(feeds)()
        arrays = [np.array(self._request.get_output_tensor(k).data) for k in range(len(self.outputs))]
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}

    def close(self) -> None:
        """Drop the compiled model."""
        self._compiled = None


class SourceCaller:
    """A model in the framework it was trained in."""

    def __init__(self, contender: Contender) -> None:
        if contender.request is None:
            raise UserError("a source contender needs its conversion request", where=contender.name)
        _bound_tensorflow_threads(contender)
        from pipeline.sources import open_native

        begin = time.perf_counter_ns()
        self._session = open_native(contender.request)
        self.creation_ms = (time.perf_counter_ns() - begin) / 1e6
        tensorflow = sys.modules.get("tensorflow")
        self.runtime = f"tensorflow {tensorflow.__version__}" if tensorflow else "source framework"
        self.inputs, self.outputs = self._session.inputs, self._session.outputs

    def bind(self, feeds: Feeds) -> Call:
        """The framework's own compiled call."""
        return partial(self._session.run, feeds)

    def results(self, feeds: Feeds) -> Outputs:
        """Outputs by name."""
        return self._session.run(feeds)

    def close(self) -> None:
        """Close the framework's session."""
        self._session.close()


def _ov_spec(port: Any) -> TensorSpec:
    dims = tuple(None if d.is_dynamic else d.get_length() for d in port.partial_shape)
    return TensorSpec(port.any_name, np.dtype(port.element_type.to_dtype()).name, dims)


def _bound_tensorflow_threads(contender: Contender) -> None:
    """Tell TensorFlow before it starts its pools; where it is not installed, opening will say so."""
    if Path(contender.model).suffix in {".onnx", ".tflite"}:
        return
    try:
        import tensorflow as tf
    except ImportError:
        return
    tf.config.threading.set_intra_op_parallelism_threads(contender.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
