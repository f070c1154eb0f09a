"""Measure a model on an NVIDIA GPU: the GPU's own time, the host's, and what a user of NumPy arrays gets.

The device stands behind a protocol, so that the order of work, the arithmetic and the refusals are tested
where no GPU is. On such a machine ``measure_matrix`` says "not measured" and why; it never invents a
figure. ``cuda_device.py`` is the real device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final, Literal, Protocol

import numpy as np

from optim.contract import Feeds
from optim.errors import FairleadError, UserError
from pipeline.bench.records import CudaRecord, CudaResult, CudaSettings, LaunchGap, Timing
from pipeline.bench.stats import Floats, median
from pipeline.sources.contract import Progress, no_progress

LEAST_ENERGY_WINDOW_S: Final = 5.0  # NVML's counter moves in steps of up to 100 ms and 1 % noise
ROTATE_BEYOND: Final = 2.0  # input sets together, as a multiple of the L2 cache
MOST_SETS: Final = 64


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

    def close(self) -> None: ...


class Device(Protocol):
    """A GPU."""

    @property
    def name(self) -> str: ...

    @property
    def l2_bytes(self) -> int: ...

    def open(self, model: str, settings: CudaSettings, feeds: Feeds, sets: int) -> BoundModel: ...

    def synchronize(self) -> None: ...

    def memory_used_mib(self) -> float: ...

    def energy_mj(self) -> int | None:
        """NVML's counter of all energy since the driver was loaded; None where the device has none."""
        ...

    def clock_s(self) -> float: ...


def matrix(
    *, bound_only: bool = False, precision: Literal["fp32", "fp16"] = "fp32", tensorrt: bool = False
) -> tuple[CudaSettings, ...]:
    """All cells of a model file of one precision; a graph needs bound buffers.

    The last ones are the baselines: the package as it installs, and ``torch.compile``; the runs of fp16 have
    no TF32.
    """
    kinds = (False, True) if precision == "fp32" else (False,)
    cells = product(kinds, ("NCHW", "NHWC"), (False, True), (True,) if bound_only else (True, False))
    made = [
        CudaSettings.model_validate(
            {"tf32": t, "layout": lay, "graph": g, "bound": b, "precision": precision}
        )
        for t, lay, g, b in cells
        if b or not g
    ]
    if bound_only:
        return tuple(made)
    if tensorrt:
        made.append(
            CudaSettings(runtime="tensorrt", precision=precision, graph=True, tf32=precision == "fp32")
        )
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
    progress: Progress = no_progress,
) -> CudaRecord:
    """Measure every cell at every batch size; ``device`` None: not measured, for the reason given."""
    if device is None:
        return CudaRecord(status="not measured", reason=why_not)
    results: list[CudaResult] = []
    failed: list[str] = []
    todo = [(batch, cell) for batch in feeds_by_batch for cell in cells]
    for k, (batch, cell) in enumerate(todo):
        progress(f"batch {batch}, {cell.title}", k / len(todo))
        try:
            feeds = feeds_by_batch[batch]
            results.append(_measure_cell(device, model, batch, feeds, cell, runs, energy_window_s))
        except FairleadError as error:
            failed.append(f"batch {batch}, {cell.title}: {error}")
    if not results:
        return CudaRecord(
            status="not measured", reason="no cell could run", device=device.name, failed=tuple(failed)
        )
    return CudaRecord(
        status="measured",
        device=device.name,
        results=tuple(results),
        launch_gaps=launch_gaps(results),
        failed=tuple(failed),
    )


def launch_gaps(results: Sequence[CudaResult]) -> tuple[LaunchGap, ...]:
    """Eager less graph, for each pair of cells that differ in nothing else."""
    eager = {_twin_key(r): r.gpu for r in results if not r.settings.graph and r.settings.bound}
    found = []
    for r in results:
        other = eager.get(_twin_key(r))
        if r.settings.graph and r.gpu is not None and other is not None:
            found.append(
                LaunchGap(
                    model=r.model,
                    batch=r.batch,
                    precision=r.settings.precision,
                    tf32=r.settings.tf32,
                    layout=r.settings.layout,
                    gap_ms=other.median_ms - r.gpu.median_ms,
                )
            )
    return tuple(found)


def _twin_key(r: CudaResult) -> tuple[str, int, CudaSettings]:
    return (r.model, r.batch, r.settings.model_copy(update={"graph": False}))


def _measure_cell(
    device: Device,
    model: str,
    batch: int,
    feeds: Feeds,
    cell: CudaSettings,
    runs: int,
    energy_window_s: float,
) -> CudaResult:
    sets = input_sets(feeds, device.l2_bytes)
    before_mib = device.memory_used_mib()
    opened = device.open(model, cell, feeds, sets)
    try:
        _warm_up(device, opened, cell, sets)
        facts = {
            "model": model,
            "batch": batch,
            "settings": cell,
            "session_creation_ms": opened.session_creation_ms,
            "first_run_ms": opened.first_run_ms,
            "input_sets": sets,
            "device_memory_mib": device.memory_used_mib() - before_mib,
        }
        if not cell.bound:
            plain = np.array([opened.plain_run(k % sets) for k in range(runs)])
            return CudaResult.model_validate({**facts, "host": timing(plain)})
        pairs = np.array([opened.timed_run(k % sets) for k in range(runs)])
        pageable = timing(np.array([opened.copy_in(k % sets, pinned=False) for k in range(runs)]))
        pinned = timing(np.array([opened.copy_in(k % sets, pinned=True) for k in range(runs)]))
        back = timing(np.array([opened.copy_out() for _ in range(runs)]))
        host = timing(pairs[:, 1])
        energy, note = _energy(device, opened, sets, energy_window_s)
        return CudaResult.model_validate(
            {
                **facts,
                "gpu": timing(pairs[:, 0]),
                "host": host,
                "host_to_device_pageable": pageable,
                "host_to_device_pinned": pinned,
                "device_to_host": back,
                "end_to_end_pageable_ms": pageable.median_ms + host.median_ms + back.median_ms,
                "end_to_end_pinned_ms": pinned.median_ms + host.median_ms + back.median_ms,
                "energy_mj": energy,
                "energy_note": note,
            }
        )
    finally:
        opened.close()


def _warm_up(device: Device, opened: BoundModel, cell: CudaSettings, sets: int, *, rounds: int = 10) -> None:
    """Every input set several times: each has a graph of its own to capture, and clocks must rise."""
    for k in range(max(rounds, 3 * sets)):
        if cell.bound:
            opened.enqueue(k % sets)
        else:
            opened.plain_run(k % sets)
    device.synchronize()


def _energy(device: Device, opened: BoundModel, sets: int, window_s: float) -> tuple[float | None, str]:
    if window_s <= 0:
        return None, "not asked for"
    start_mj = device.energy_mj()
    if start_mj is None:
        return None, "this device has no energy counter"
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


def timing(samples_ms: Floats) -> Timing:
    """Median with its interval; None for the interval where the samples are too few."""
    middle = median(samples_ms)
    value = middle.value if middle.value is not None else float(np.median(samples_ms))
    return Timing(median_ms=value, interval_ms=middle.interval, samples=len(samples_ms))
