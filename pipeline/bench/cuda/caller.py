"""A tuner's candidate on the GPU: the whole call from NumPy arrays to NumPy arrays, with its options stated.

Plain, it is ``session.run``. Bound, inputs and outputs have buffers on the device that stay where they are;
the call copies in, runs, and copies out, all of it within what is timed. A CUDA graph is captured in the
first runs after ``bind`` and replayed from then on; it needs those buffers.

Not yet run on a GPU by this project's own tests: they use a fake runtime.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import InternalError
from pipeline.bench.contender import Contender
from pipeline.bench.cuda.device import NO_CAPTURE, PLACE, require_tf32
from pipeline.bench.ort_session import PROVIDERS, import_onnxruntime, ort_session, ort_spec
from pipeline.bench.records import CudaSettings
from targets.cuda_provider import provider_options, session_entries
from targets.validate_feeds import validate_feeds


def cuda_settings(contender: Contender) -> CudaSettings:
    """The cell of the matrix that the contender is.

    Raises:
        InternalError: it states no options.
    """
    chosen = contender.cuda
    if chosen is None:
        raise InternalError(f"{contender.name} states no CUDA options")
    return CudaSettings(
        tf32=chosen.tf32,
        layout=chosen.layout,
        graph=chosen.graph,
        bound=contender.io_binding,
        cpu_fallback=chosen.cpu_fallback,
    )


class CudaCaller:
    """A model in ONNX Runtime's CUDA provider.

    Raises:
        MissingRuntimeError: there is no such provider, or it cannot be started.
        UserError: the process is of another kind: TF32 on where it should be off, or the other way round.
        UnsupportedModelError: a node would run on the CPU, and that is not allowed.
    """

    def __init__(self, contender: Contender) -> None:
        self._settings = cuda_settings(contender)
        require_tf32(self._settings, os.environ)
        self._ort = import_onnxruntime(contender)
        self._contender = contender
        self._captures = 0
        self.runtime = f"onnxruntime {self._ort.__version__}, CUDA provider, {self._settings.title}"
        begin = time.perf_counter_ns()
        self._session = self._open()
        self.creation_ms = (time.perf_counter_ns() - begin) / 1e6
        self.inputs = tuple(ort_spec(i) for i in self._session.get_inputs())
        self.outputs = tuple(ort_spec(o) for o in self._session.get_outputs())

    def bind(self, feeds: Feeds) -> partial[list[Array]]:
        """The whole call, from these arrays to new ones."""
        validate_feeds(self.inputs, feeds, where=self._contender.model)
        arrays = {name: np.asarray(value, order="C") for name, value in feeds.items()}
        if not self._contender.io_binding:
            return partial(self._session.run, [spec.name for spec in self.outputs], arrays)
        return self._bound(arrays)

    def results(self, feeds: Feeds) -> Outputs:
        """Outputs by name, from the same call as is timed."""
        call = self.bind(feeds)
        found = call()
        if self._settings.graph:
            found = call()  # the first captures, this one replays
        return dict(zip((spec.name for spec in self.outputs), found, strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    def _open(self) -> Any:
        provider = (PROVIDERS["cuda"], provider_options(self._settings))
        entries = session_entries(cpu_fallback=self._settings.cpu_fallback)
        return ort_session(self._ort, self._contender, [provider], entries)

    def _bound(self, arrays: Mapping[str, Array]) -> partial[list[Array]]:
        values = self._ort.OrtValue
        held = {name: values.ortvalue_from_numpy(array, *PLACE) for name, array in arrays.items()}
        landing = [
            values.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype).type, *PLACE)
            for spec, shape in zip(self.outputs, self._output_shapes(held), strict=True)
        ]
        binding = self._session.io_binding()
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        for spec, value in zip(self.outputs, landing, strict=True):
            binding.bind_ortvalue_output(spec.name, value)
        options = self._ort.RunOptions()
        if self._settings.graph:  # a graph keeps addresses: these buffers have one of their own
            self._captures += 1
            options.add_run_config_entry("gpu_graph_id", str(self._captures))
        run = partial(self._session.run_with_iobinding, binding, options)
        return partial(_copied, run, [(held[name], array) for name, array in arrays.items()], landing)

    def _output_shapes(self, held: Mapping[str, Any]) -> list[list[int]]:
        """From a run in which the runtime places the outputs; no graph is captured in it."""
        binding = self._session.io_binding()
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self.outputs:
            binding.bind_output(spec.name, *PLACE)
        options = self._ort.RunOptions()
        if self._settings.graph:
            options.add_run_config_entry("gpu_graph_id", str(NO_CAPTURE))
        self._session.run_with_iobinding(binding, options)
        return [list(value.shape()) for value in binding.get_outputs()]


def _copied(run: Any, held: list[tuple[Any, Array]], landing: list[Any]) -> list[Array]:
    """Copy in, run, copy out."""
    for value, array in held:
        value.update_inplace(array)
    run()
    return [value.numpy() for value in landing]
