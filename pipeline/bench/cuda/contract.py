"""The cells of the CUDA matrix, and what a GPU must offer to measure them.

The device stands behind protocols, so that the order of work, the arithmetic and the refusals are tested
where no GPU is. ``device.py`` is the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import product
from typing import Any, Final, Literal, Protocol, TypeAlias

from optim.contract import Feeds, Outputs
from optim.errors import GateNotMetError, UserError
from pipeline.bench.cuda.nvml import GpuCondition
from pipeline.bench.cuda.precision import widened
from pipeline.bench.records import CudaSettings
from targets.closeness import closeness, worst
from targets.cuda_provider import provider_options as provider_options  # noqa: PLC0414  (others import it here)

LEAST_ENERGY_WINDOW_S: Final = 5.0  # NVML's counter moves in steps of up to 100 ms and 1 % noise
ROTATE_BEYOND: Final = 2.0  # bytes read between two uses of an input set, as a multiple of the L2 cache
MOST_SETS: Final = 64
# max|Δ| / range from the CPU's answer beyond which a cell computes something else. TF32 and float16 round to
# 11 bits at every product; that is not to be mistaken for a fault, nor a fault for that.
SAME: Final = {"fp32": 1e-3, "rounded": 5e-2}
References = Mapping[int, Outputs]
"""What the CPU answers, by batch size and output name."""
Figure: TypeAlias = Callable[[int], tuple[float, ...]]
"""Measured once on an input set: milliseconds on the host's clock, of a copy by events; for a run on the
device's own inputs, first by events on the GPU and then on the host's clock."""
RUN: Final = "run"  # on the device's own inputs
PLAIN: Final = "plain"  # session.run on NumPy arrays
FROM_NUMPY: Final = ("end_to_end_pageable", "end_to_end_pinned")  # copy in, run, copy out
COPIES: Final = ("copy_in_pageable", "copy_in_pinned", "copy_out")


class Inputs(Protocol):
    """Input sets of one batch size: as NumPy arrays, in page-locked memory, and on the device."""

    @property
    def sets(self) -> int: ...

    def release(self) -> None: ...


class BoundModel(Protocol):
    """A session with its input sets at hand."""

    @property
    def first_run_ms(self) -> float: ...

    @property
    def figures(self) -> Mapping[str, Figure]:
        """What can be measured, by name; the one that the cell is about comes first."""
        ...

    def enqueue(self, which: int) -> None:
        """Start a run on input set ``which``, and do not wait for it where that is possible."""
        ...

    def outputs(self, which: int) -> Outputs:
        """What the timed call computes, by output name; not for timing."""
        ...

    def release(self) -> None:
        """Give the buffers back; the session stays."""
        ...


class Loaded(Protocol):
    """A session. It serves one batch size after the other, each from ``bind`` to ``release``."""

    @property
    def creation_ms(self) -> float: ...

    def bind(self, inputs: Any, *, bound: bool) -> BoundModel:
        """Run once on what this device's ``place`` gave; ``bound``: inputs and outputs stay on the device."""
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

    def place(self, feeds: Feeds, sets: int) -> Inputs:
        """So many copies of ``feeds``, other values in each."""
        ...

    def load(self, model: str, settings: CudaSettings) -> Loaded: ...

    def synchronize(self) -> None: ...

    def memory_mib(self) -> tuple[float, float]:
        """Free on the device, and in all."""
        ...

    def energy_mj(self) -> int | None:
        """NVML's counter of all energy since the driver was loaded; None where the device has none."""
        ...

    def condition(self, own: Collection[int] = ()) -> GpuCondition | None:
        """Clock, what holds it down, and who else computes; None where the device does not tell.

        ``own``: process ids of this measurement beside the caller's.
        """
        ...

    def clock_s(self) -> float: ...


def matrix(
    *,
    bound_only: bool = False,
    precision: Literal["fp32", "fp16"] = "fp32",
    tensorrt: bool = False,
    cpu_fallback: bool = False,
) -> tuple[CudaSettings, ...]:
    """All cells of a model file of one precision, what is deployed first; a graph needs bound buffers.

    The last ones are other compilers and, for fp32, the baseline: the package as it installs.
    ``cpu_fallback`` lets nodes run on the CPU that the GPU cannot run; else that is an error. The runs of
    fp16 know no TF32; ``use_tf32`` is on for them, see ``CudaSettings``.
    """
    kinds = (True, False) if precision == "fp32" else (True,)
    ways = ((True, True), (True, False)) if bound_only else ((True, True), (True, False), (False, False))
    made = [
        CudaSettings(
            tf32=tf32, layout=layout, graph=graph, bound=bound, precision=precision,
            cpu_fallback=cpu_fallback,
        )
        for (bound, graph), layout, tf32 in product(ways, _LAYOUTS, kinds)
    ]  # fmt: skip
    if bound_only:
        return tuple(made)
    if tensorrt:
        made.append(
            CudaSettings(
                runtime="tensorrt", precision=precision, graph=True, tf32=True, cpu_fallback=cpu_fallback
            )
        )
    if precision == "fp32":
        made.append(stock("fp32"))
    made.append(CudaSettings(runtime="torch.compile", graph=True, precision=precision, tf32=True))
    return tuple(made)


_LAYOUTS: Final[tuple[Literal["NHWC", "NCHW"], ...]] = ("NHWC", "NCHW")


def stock(precision: Literal["fp32", "fp16"]) -> CudaSettings:
    """The baseline: ``session.run`` as the package installs, no options stated, so TF32 on."""
    return CudaSettings(stock=True, bound=False, tf32=True, precision=precision)


def input_sets(feeds: Feeds, l2_bytes: int, weight_bytes: int = 0) -> int:
    """How many input sets to rotate so that none is still in the L2 cache when its turn comes again.

    Between two uses of a set the others are read, and the weights once for each run; 64 sets at most.
    """
    size = sum(a.nbytes for a in feeds.values())
    if size == 0:
        raise UserError("the inputs are empty")
    return int(min(MOST_SETS, max(2, -(-ROTATE_BEYOND * l2_bytes // (size + weight_bytes)))))


def are_beyond_l2(feeds: Feeds, sets: int, l2_bytes: int, weight_bytes: int = 0) -> bool:
    """Whether so many sets are enough for that; of a small model, 64 are too few."""
    size = sum(a.nbytes for a in feeds.values())
    return sets * (size + weight_bytes) >= ROTATE_BEYOND * l2_bytes


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
