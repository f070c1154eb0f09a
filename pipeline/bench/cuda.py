"""Measure a model on an NVIDIA GPU: the GPU's own time, the host's, and what a user of NumPy arrays gets.

The device stands behind a protocol, so that the order of work, the arithmetic and the refusals are tested
where no GPU is. On such a machine ``measure_matrix`` says "not measured" and why; it never invents a
figure. ``cuda_device.py`` is the real device.

Cells run one after the other, in random order: their sessions together would not fit a GPU. Each is warmed
up until it has settled, and graded by what NVML saw of clocks, throttling and other processes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, Literal, Protocol

import numpy as np

from optim.contract import Feeds, Outputs
from optim.errors import FairleadError, GateNotMetError, UserError
from pipeline.bench.cuda_compare import launch_gaps
from pipeline.bench.cuda_grade import SeenOnGpu, grade_cuda
from pipeline.bench.cuda_precision import widened
from pipeline.bench.nvml import GpuCondition
from pipeline.bench.records import CudaRecord, CudaResult, CudaSettings, Timing
from pipeline.bench.sampling import Take, collect, settle, timing
from pipeline.sources.contract import Progress, no_progress
from targets.closeness import closeness, worst

LEAST_ENERGY_WINDOW_S: Final = 5.0  # NVML's counter moves in steps of up to 100 ms and 1 % noise
ROTATE_BEYOND: Final = 2.0  # input sets together, as a multiple of the L2 cache
MOST_SETS: Final = 64
# max|Δ| / range from the CPU's answer beyond which a cell computes something else. TF32 and float16 round to
# 11 bits at every product; that is not to be mistaken for a fault, nor a fault for that.
SAME: Final = {"fp32": 1e-3, "rounded": 5e-2}
References = Mapping[int, Outputs]
"""What the CPU answers, by batch size and output name."""


class BoundModel(Protocol):
    """A session with its input sets on the device."""

    @property
    def session_creation_ms(self) -> float: ...

    @property
    def first_run_ms(self) -> float: ...

    def timed_run(self, which: int) -> tuple[float, float]:
        """Run on input set ``which``: milliseconds by events on the GPU, and on the host's clock."""
        ...

    def plain_run(self, which: int) -> float:
        """``session.run`` on NumPy arrays, milliseconds on the host's clock."""
        ...

    def enqueue(self, which: int) -> None:
        """Start a run and do not wait for it."""
        ...

    def copy_in(self, which: int, *, pinned: bool) -> float:
        """Milliseconds, by events, to bring an input set to the device."""
        ...

    def copy_out(self) -> float:
        """Milliseconds, by events, to bring the outputs back."""
        ...

    def end_to_end(self, which: int, *, pinned: bool) -> float:
        """Milliseconds on the host's clock from NumPy arrays to NumPy arrays: copy in, run, copy out."""
        ...

    def outputs(self, which: int) -> Outputs:
        """What the timed call computes, by output name; not for timing."""
        ...

    def close(self) -> None: ...


class Device(Protocol):
    """A GPU."""

    @property
    def name(self) -> str: ...

    @property
    def l2_bytes(self) -> int: ...

    @property
    def has_tensorrt(self) -> bool: ...

    @property
    def why_unwatched(self) -> str:
        """Why ``condition`` and ``energy_mj`` answer None; empty where they do not."""
        ...

    def open(self, model: str, settings: CudaSettings, feeds: Feeds, sets: int) -> BoundModel: ...

    def synchronize(self) -> None: ...

    def memory_used_mib(self) -> float: ...

    def energy_mj(self) -> int | None:
        """NVML's counter of all energy since the driver was loaded; None where the device has none."""
        ...

    def condition(self) -> GpuCondition | None:
        """Clock, what holds it down, and who else computes; None where the device does not tell."""
        ...

    def clock_s(self) -> float: ...


def matrix(
    *,
    bound_only: bool = False,
    precision: Literal["fp32", "fp16"] = "fp32",
    tensorrt: bool = False,
    cpu_fallback: bool = False,
) -> tuple[CudaSettings, ...]:
    """All cells of a model file of one precision; a graph needs bound buffers.

    The last ones are the baselines: the package as it installs, and ``torch.compile``; the runs of fp16 have
    no TF32. ``cpu_fallback`` lets nodes run on the CPU that the GPU cannot run; else that is an error.
    """
    kinds = (False, True) if precision == "fp32" else (False,)
    cells = product(kinds, ("NCHW", "NHWC"), (False, True), (True,) if bound_only else (True, False))
    made = [
        CudaSettings.model_validate(
            {
                "tf32": t,
                "layout": lay,
                "graph": g,
                "bound": b,
                "precision": precision,
                "cpu_fallback": cpu_fallback,
            }
        )
        for t, lay, g, b in cells
        if b or not g
    ]
    if bound_only:
        return tuple(made)
    if tensorrt:
        made.append(
            CudaSettings(
                runtime="tensorrt", precision=precision, graph=True, tf32=precision == "fp32",
                cpu_fallback=cpu_fallback,
            )
        )  # fmt: skip
    if precision == "fp32":
        made.append(CudaSettings(stock=True, bound=False, tf32=True))
    made.append(
        CudaSettings(runtime="torch.compile", graph=True, precision=precision, tf32=precision == "fp32")
    )
    return tuple(made)


def provider_options(settings: CudaSettings, stream: int | None = None) -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider; every one that moves numbers or time is stated."""
    options = {
        "device_id": "0",
        "use_tf32": "1" if settings.tf32 else "0",
        "prefer_nhwc": "1" if settings.layout == "NHWC" else "0",
        "enable_cuda_graph": "1" if settings.graph else "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",  # DEFAULT is a slow fallback
        "cudnn_conv_use_max_workspace": "1",
    }
    return options if stream is None else {**options, "user_compute_stream": str(stream)}


def input_sets(feeds: Feeds, l2_bytes: int) -> int:
    """How many input sets to rotate so that together they do not stay in the L2 cache."""
    size = sum(a.nbytes for a in feeds.values())
    if size == 0:
        raise UserError("the inputs are empty")
    return int(min(MOST_SETS, max(2, -(-ROTATE_BEYOND * l2_bytes // size))))


def energy_per_run_mj(start_mj: int, end_mj: int, runs: int, window_s: float) -> float:
    """Millijoule of one run.

    Raises:
        UserError: the window is too short for the counter, or the counter went backwards (driver reloaded).
    """
    if window_s < LEAST_ENERGY_WINDOW_S:
        raise UserError(
            f"{window_s:.1f} s are too short to read the energy counter",
            expected=f"at least {LEAST_ENERGY_WINDOW_S:.0f} s",
        )
    if end_mj < start_mj or runs < 1:
        raise UserError(f"energy counter from {start_mj} to {end_mj} mJ over {runs} runs")
    return (end_mj - start_mj) / runs


def measure_matrix(
    device: Device | None,
    model: str,
    feeds_by_batch: dict[int, Feeds],
    cells: Sequence[CudaSettings],
    *,
    runs: int = 200,
    energy_window_s: float = 0.0,
    why_not: str = "no NVIDIA GPU on this machine",
    references: References | None = None,
    name: str = "",
    seed: int = 0,
    limit_s: float = math.inf,
    progress: Progress = no_progress,
) -> CudaRecord:
    """Measure every cell at every batch size, in random order.

    Args:
        device: None: not measured, for the reason ``why_not``.
        model: the file.
        feeds_by_batch: inputs by name for each batch size.
        cells: settings of one precision, that of the file.
        runs: samples of each figure; fewer where they take long.
        energy_window_s: 0: no energy.
        why_not: see ``device``.
        references: what the CPU answers at some batch sizes; a cell that answers otherwise is no result.
        name: of the model in the record, where it is not the file's.
        seed: of the order.
        limit_s: cells that are not begun within it are listed as not reached.
        progress: progress callback.
    """
    if device is None:
        return CudaRecord(status="not measured", reason=why_not)
    results: list[CudaResult] = []
    failed: list[str] = []
    todo = [(batch, cell) for batch in feeds_by_batch for cell in cells]
    random.Random(seed).shuffle(todo)
    begin = device.clock_s()
    for k, (batch, cell) in enumerate(todo):
        progress(f"batch {batch}, {cell.title}", k / len(todo))
        if device.clock_s() - begin > limit_s:
            failed.append(f"batch {batch}, {cell.title}: not reached within {limit_s:.0f} s")
            continue
        try:
            known = (references or {}).get(batch)
            found = _measure_cell(
                device, model, batch, feeds_by_batch[batch], cell, runs, energy_window_s, known
            )
            results.append(found.model_copy(update={"model": name or model}))
        except FairleadError as error:
            failed.append(f"batch {batch}, {cell.title}: {error}")
        except Exception as error:  # out of memory, a failed capture: that cell's finding only
            failed.append(f"batch {batch}, {cell.title}: {type(error).__name__}: {last_line(error)}")
    if not results:
        return CudaRecord(
            status="not measured",
            reason=f"no cell could run; the first: {failed[0]}" if failed else "there was no cell to run",
            device=device.name,
            failed=tuple(failed),
        )
    return CudaRecord(
        status="measured",
        device=device.name,
        results=tuple(results),
        launch_gaps=launch_gaps(results),
        failed=tuple(failed),
    )


def _measure_cell(
    device: Device,
    model: str,
    batch: int,
    feeds: Feeds,
    cell: CudaSettings,
    runs: int,
    energy_window_s: float,
    reference: Outputs | None,
) -> CudaResult:
    sets = input_sets(feeds, device.l2_bytes)
    beyond_l2 = are_beyond_l2(feeds, sets, device.l2_bytes)
    before_mib = device.memory_used_mib()
    opened = device.open(model, cell, feeds, sets)
    try:
        error = None if reference is None else require_same(opened.outputs(0), reference, cell)
        warmup_runs, settled = settle(_host_clock(opened, cell, sets), least=3 * sets)
        before = device.condition()
        figures = _bound_figures(opened, sets, runs) if cell.bound else _plain_figures(opened, sets, runs)
        after = device.condition()
        energy, note = (None, "not measured without bound buffers")
        if cell.bound:
            energy, note = _energy(device, opened, sets, energy_window_s)
        seen = SeenOnGpu(
            timing=figures.get("gpu", figures["host"]),
            settled=settled,
            beyond_l2=beyond_l2,
            before=before,
            after=after,
            why_unwatched=device.why_unwatched,
        )
        facts = {
            "model": model,
            "batch": batch,
            "settings": cell,
            "session_creation_ms": opened.session_creation_ms,
            "first_run_ms": opened.first_run_ms,
            "input_sets": sets,
            "beyond_l2": beyond_l2,
            "warmup_runs": warmup_runs,
            "device_memory_mib": device.memory_used_mib() - before_mib,
            "energy_mj": energy,
            "energy_note": note,
            "error": error,
            "grade": grade_cuda(seen),
        }
        return CudaResult.model_validate({**facts, **figures})
    finally:
        opened.close()


def _host_clock(opened: BoundModel, cell: CudaSettings, sets: int) -> Take:
    """One run on the next input set: each has a graph of its own to capture."""
    if cell.bound:
        return lambda k: opened.timed_run(k % sets)[1]
    return lambda k: opened.plain_run(k % sets)


def _plain_figures(opened: BoundModel, sets: int, runs: int) -> dict[str, Timing]:
    return {"host": timing(collect(lambda k: opened.plain_run(k % sets), runs))}


def _bound_figures(opened: BoundModel, sets: int, runs: int) -> dict[str, Timing]:
    gpu: list[float] = []

    def both(k: int) -> float:
        gpu_ms, host_ms = opened.timed_run(k % sets)
        gpu.append(gpu_ms)
        return host_ms

    host = collect(both, runs)
    takes: dict[str, Take] = {
        "host_to_device_pageable": lambda k: opened.copy_in(k % sets, pinned=False),
        "host_to_device_pinned": lambda k: opened.copy_in(k % sets, pinned=True),
        "device_to_host": lambda _k: opened.copy_out(),
        "end_to_end_pageable": lambda k: opened.end_to_end(k % sets, pinned=False),
        "end_to_end_pinned": lambda k: opened.end_to_end(k % sets, pinned=True),
    }
    found = {name: timing(collect(take, runs)) for name, take in takes.items()}
    return {"gpu": timing(np.array(gpu)), "host": timing(host), **found}


def require_same(got: Outputs, expected: Outputs, cell: CudaSettings) -> float:
    """Worst max|Δ| / range of the outputs, float16 as float32.

    Raises:
        GateNotMetError: the cell computes another function; its speed is no news.
    """
    a, b = widened(got), widened(expected)
    if set(a) != set(b):
        raise GateNotMetError(f"outputs {sorted(a)}", expected=f"those on the CPU: {sorted(b)}")
    error = worst(closeness(a[name], b[name]) for name in b).max_abs_over_range
    bound = SAME["rounded" if cell.tf32 or cell.stock or cell.precision == "fp16" else "fp32"]
    if not error <= bound:
        raise GateNotMetError(
            f"its outputs are not those on the CPU: max|Δ|/range {error:.3g}", expected=f"at most {bound:g}"
        )
    return error


def last_line(error: Exception) -> str:
    """A runtime's words without its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no words"


def are_beyond_l2(feeds: Feeds, sets: int, l2_bytes: int) -> bool:
    """Whether the input sets together cannot stay in the cache; small inputs, of which 64 are too few, do."""
    return sets * sum(a.nbytes for a in feeds.values()) >= ROTATE_BEYOND * l2_bytes


def _energy(device: Device, opened: BoundModel, sets: int, window_s: float) -> tuple[float | None, str]:
    if window_s <= 0:
        return None, "not asked for"
    start_mj = device.energy_mj()
    if start_mj is None:
        return None, device.why_unwatched or "this device has no energy counter"
    begin, runs = device.clock_s(), 0
    while device.clock_s() - begin < window_s:
        for _ in range(32):
            opened.enqueue(runs % sets)
            runs += 1
        device.synchronize()
    end_mj = device.energy_mj()
    if end_mj is None:
        return None, "the energy counter went away"
    return energy_per_run_mj(start_mj, end_mj, runs, device.clock_s() - begin), ""
