"""The baseline of another compiler: the same network by ``torch.compile`` with CUDA graphs.

Its outputs are compared with ONNX Runtime's on the same input first: a baseline of another function would
be no baseline. Not yet run on a GPU by this project's own tests.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Feeds
from optim.errors import FairleadError
from pipeline.bench.cuda import Device, are_beyond_l2, input_sets, last_line
from pipeline.bench.cuda_grade import SeenOnGpu, grade_cuda
from pipeline.bench.records import CudaResult, CudaSettings
from pipeline.bench.sampling import collect, settle, timing
from pipeline.bench.torch_graph import torch_module
from targets.closeness import closeness

EXAMPLES = 4  # compared with the CPU
SAME: dict[str, float] = {"fp32": 1e-3, "fp16": 5e-2}  # of the range: TF32 and fp16 round, they do not err


def measure_compiled(
    model: str, batch: int, feeds: Feeds, cell: CudaSettings, device: Device, *, runs: int
) -> CudaResult | str:
    """The result, or the reason why there is none."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    if not torch.cuda.is_available():
        return "PyTorch finds no usable GPU"
    try:
        return _measured(torch, model, batch, feeds, cell, device, runs)
    except FairleadError as error:
        return str(error)
    except Exception as error:  # the compiler's or the allocator's words are the finding
        return f"torch.compile: {type(error).__name__}: {last_line(error)}"


def _measured(
    torch: Any, model: str, batch: int, feeds: Feeds, cell: CudaSettings, device: Device, runs: int
) -> CudaResult | str:
    before_mib = device.memory_used_mib()
    network = torch_module(Path(model), torch)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cell.tf32
    sets = input_sets(feeds, device.l2_bytes)
    inputs = [[torch.from_numpy(np.roll(a, k)).cuda() for a in feeds.values()] for k in range(sets)]
    begin = time.perf_counter()
    mode = "reduce-overhead" if cell.graph else "max-autotune-no-cudagraphs"  # the first uses CUDA graphs
    compiled = torch.compile(network, mode=mode)
    with torch.inference_mode():
        first = compiled(*inputs[0])
        torch.cuda.synchronize()
        first_run_ms = (time.perf_counter() - begin) * 1e3
        if reason := _apart(model, feeds, first, cell):
            return reason
        gpu: list[float] = []

        def take(k: int) -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            clock = time.perf_counter()
            start.record()
            compiled(*inputs[k % sets])
            end.record()
            end.synchronize()
            gpu.append(start.elapsed_time(end))
            return (time.perf_counter() - clock) * 1e3

        warmup_runs, settled = settle(take, least=3 * sets)
        gpu.clear()
        before = device.condition()
        host = timing(collect(take, runs))
        seen = SeenOnGpu(
            timing=timing(np.array(gpu)),
            settled=settled,
            beyond_l2=are_beyond_l2(feeds, sets, device.l2_bytes),
            before=before,
            after=device.condition(),
            why_unwatched=device.why_unwatched,
        )
    return CudaResult(
        model=model,
        batch=batch,
        settings=cell,
        session_creation_ms=0.0,  # compiling happens in the first run
        first_run_ms=first_run_ms,
        gpu=seen.timing,
        host=host,
        input_sets=sets,
        beyond_l2=seen.beyond_l2,
        warmup_runs=warmup_runs,
        grade=grade_cuda(seen),
        energy_note="not measured for this baseline",
        device_memory_mib=device.memory_used_mib() - before_mib,
    )


def _apart(model: str, feeds: Feeds, first: object, cell: CudaSettings) -> str:
    """Why the compiled network is not the same function on the first examples; empty where it is.

    On all of a large batch the CPU would take longer than the measurement.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: array[:EXAMPLES] for name, array in feeds.items()})
    got = [t.cpu().numpy() for t in (first if isinstance(first, tuple) else (first,))]
    for a, b in zip(got, expected, strict=True):
        found = closeness(a[:EXAMPLES], np.asarray(b))
        if found.max_abs_over_range > SAME[cell.precision]:
            return f"the compiled network differs: max|Δ|/range {found.max_abs_over_range:.3g}"
    return ""
