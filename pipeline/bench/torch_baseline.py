"""The baseline of another compiler: the same network by ``torch.compile`` with CUDA graphs.

Its outputs are compared with ONNX Runtime's on the same input first: a baseline of another function would
be no baseline. Not yet run on a GPU by this project's own tests.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from optim.contract import Feeds
from optim.errors import FairleadError
from pipeline.bench.cuda import Device, input_sets, timing
from pipeline.bench.records import CudaResult, CudaSettings
from pipeline.bench.torch_graph import torch_module
from targets.closeness import closeness

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
        network = torch_module(Path(model), torch)
    except FairleadError as error:
        return str(error)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cell.tf32
    before_mib = device.memory_used_mib()
    sets = input_sets(feeds, device.l2_bytes)
    inputs = [[torch.from_numpy(np.roll(a, k)).cuda() for a in feeds.values()] for k in range(sets)]
    begin = time.perf_counter()
    mode = "reduce-overhead" if cell.graph else "max-autotune-no-cudagraphs"  # the first uses CUDA graphs
    compiled = torch.compile(network, mode=mode)
    with torch.inference_mode():
        try:
            first = compiled(*inputs[0])
        except Exception as error:  # the compiler's words are the finding
            return f"torch.compile: {str(error).strip().splitlines()[-1]}"
        torch.cuda.synchronize()
        first_run_ms = (time.perf_counter() - begin) * 1e3
        if reason := _apart(model, feeds, first, cell):
            return reason
        for k in range(max(10, 3 * sets)):
            compiled(*inputs[k % sets])
        torch.cuda.synchronize()
        gpu, host = [], []
        for k in range(runs):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            clock = time.perf_counter()
            start.record()
            compiled(*inputs[k % sets])
            end.record()
            end.synchronize()
            host.append((time.perf_counter() - clock) * 1e3)
            gpu.append(start.elapsed_time(end))
    return CudaResult(
        model=model,
        batch=batch,
        settings=cell,
        session_creation_ms=0.0,  # compiling happens in the first run
        first_run_ms=first_run_ms,
        gpu=timing(np.array(gpu)),
        host=timing(np.array(host)),
        input_sets=sets,
        device_memory_mib=device.memory_used_mib() - before_mib,
    )


def _apart(model: str, feeds: Feeds, first: object, cell: CudaSettings) -> str:
    """Why the compiled network is not the same function; empty where it is."""
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(feeds))
    got = [t.cpu().numpy() for t in (first if isinstance(first, tuple) else (first,))]
    for a, b in zip(got, expected, strict=True):
        found = closeness(a, np.asarray(b))
        if found.max_abs_over_range > SAME[cell.precision]:
            return f"the compiled network differs: max|Δ|/range {found.max_abs_over_range:.3g}"
    return ""
