"""The baseline of another compiler: the same network by ``torch.compile`` with CUDA graphs.

It takes part in the rounds like any cell, on the device's own inputs only. Its outputs are compared with
ONNX Runtime's on the same input first: a baseline of another function would be no baseline. Not yet run on a
GPU by this project's own tests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Outputs
from optim.errors import MissingRuntimeError, UserError
from pipeline.bench.cuda.contract import RUN, Figure
from pipeline.bench.cuda.torch_graph import torch_module
from pipeline.bench.records import CudaSettings


def import_torch() -> Any:
    """PyTorch with a GPU.

    Raises:
        MissingRuntimeError: it is not there, or finds no GPU.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingRuntimeError(str(error), hint="pip install torch") from error
    if not torch.cuda.is_available():
        raise MissingRuntimeError("PyTorch finds no usable GPU")
    return torch


class CompiledNetwork:
    """The network as a module on the GPU, compiled at the first run of each batch size.

    Raises:
        MissingRuntimeError: PyTorch is not there, or finds no GPU.
        UnsupportedModelError: an operator is not covered; names the node.
    """

    def __init__(self, model: Path, settings: CudaSettings, torch: Any = None) -> None:
        begin = time.perf_counter()
        self.torch = import_torch() if torch is None else torch
        self.torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        self.torch.backends.cudnn.allow_tf32 = settings.tf32
        network = torch_module(model, self.torch).cuda().eval()
        # The first mode uses CUDA graphs. Shapes are compiled in: a batch size is a network of its own.
        mode = "reduce-overhead" if settings.graph else "max-autotune-no-cudagraphs"
        self.compiled = self.torch.compile(network, mode=mode, dynamic=False)
        self.names = network.output_names
        self.creation_ms = (time.perf_counter() - begin) * 1e3

    def bind(self, inputs: Any, *, bound: bool) -> CompiledRuns:
        """Compile and run once on the inputs' NumPy arrays, brought to the device."""
        if not bound:
            raise UserError("torch.compile is measured on the device's own inputs", expected="bound buffers")
        return CompiledRuns(self, [list(host.values()) for host in inputs.hosts])

    def close(self) -> None:
        """Drop the module and what was compiled."""
        self.compiled = None
        self.torch.compiler.reset()
        self.torch.cuda.empty_cache()


class CompiledRuns:
    """Runs of the compiled network on inputs of one batch size."""

    def __init__(self, network: CompiledNetwork, hosts: list[list[np.ndarray]]) -> None:
        self._torch, self._network = network.torch, network
        self._inputs = [[self._torch.from_numpy(np.array(a)).cuda() for a in one] for one in hosts]
        begin = time.perf_counter()
        self.enqueue(0)
        self._torch.cuda.synchronize()
        self.first_run_ms = (time.perf_counter() - begin) * 1e3
        self._start, self._end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))

    def enqueue(self, which: int) -> Any:
        """Start a run; what it answers lives until the next."""
        with self._torch.inference_mode():
            return self._network.compiled(*self._inputs[which])

    @property
    def figures(self) -> Mapping[str, Figure]:
        return {RUN: self._timed_run}

    def _timed_run(self, which: int) -> tuple[float, float]:
        """Milliseconds by events on PyTorch's stream, and on the host until it is empty."""
        clock = time.perf_counter()
        self._start.record()
        self.enqueue(which)
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)), (time.perf_counter() - clock) * 1e3

    def outputs(self, which: int) -> Outputs:
        """By name, from the same call as is timed."""
        found = self.enqueue(which)
        given = found if isinstance(found, tuple) else (found,)
        return {n: t.cpu().numpy() for n, t in zip(self._network.names, given, strict=True)}

    def release(self) -> None:
        """Give the inputs back."""
        self._inputs.clear()
