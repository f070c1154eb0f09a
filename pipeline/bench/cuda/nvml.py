"""What NVML tells of the GPU that is measured: its energy counter, and what may disturb a measurement."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

_SM: Final = 1  # NVML_CLOCK_SM
# Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML reference, "clocks event reasons").
HELD_BACK: Final[tuple[tuple[int, str], ...]] = (
    (0x04, "power limit"),
    (0x08, "hardware slowdown"),
    (0x20, "temperature (driver)"),
    (0x40, "temperature (hardware)"),
    (0x80, "power brake"),
)


@dataclass(frozen=True)
class GpuCondition:
    """The GPU at one moment."""

    sm_mhz: int
    held_back: tuple[str, ...]  # what holds its clock down
    others: int | None  # processes that compute on it beside us; None where we cannot tell ourselves apart


class Nvml:
    """The library and its handle of one GPU; ``why_not`` says why there is none, and then all answers are
    None.

    Args:
        identity: "GPU-…" (its UUID) or its PCI bus id: NVML's numbers are not those of CUDA, which
            ``CUDA_VISIBLE_DEVICES`` renames. Empty: not known.
        library: pynvml, or what stands for it in a test.
    """

    def __init__(self, identity: str, library: Any = None) -> None:
        self.why_not = ""
        self._handle: Any = None
        try:
            self._nvml = _pynvml() if library is None else library
        except ImportError as error:
            self.why_not = f"NVML cannot be asked: {error} (nvidia-ml-py brings it)"
            return
        if not identity:
            self.why_not = "NVML cannot be asked: the GPU's own identity is not known"
            return
        by_uuid = identity.startswith(("GPU-", "MIG-"))
        try:
            self._nvml.nvmlInit()
            find = self._nvml.nvmlDeviceGetHandleByUUID if by_uuid else None
            self._handle = (find or self._nvml.nvmlDeviceGetHandleByPciBusId)(identity)
        except self._nvml.NVMLError as error:
            self.why_not = f"NVML cannot be asked: {error}"

    def energy_mj(self) -> int | None:
        """All energy since the driver was loaded, millijoule; None where the GPU has no such counter."""
        if self._handle is None:
            return None
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError:
            return None

    def condition(self, own: Collection[int] = ()) -> GpuCondition | None:
        """Clock, what holds it down, and who else computes.

        A virtual machine may hide the reasons or the processes; the clock alone is still worth having.

        Args:
            own: process ids of this measurement beside the caller's and its parent's.
        """
        if self._handle is None:
            return None
        clock = self._asked(lambda: int(self._nvml.nvmlDeviceGetClockInfo(self._handle, _SM)))
        if clock is None:
            return None
        bits = self._asked(self._reasons) or 0
        return GpuCondition(
            sm_mhz=clock,
            held_back=tuple(words for bit, words in HELD_BACK if bits & bit),
            others=self._asked(lambda: self._others(own)),
        )

    def _asked(self, ask: Callable[[], int | None]) -> int | None:
        """The answer, or None where this driver, or this version of the library, has none."""
        try:
            return ask()
        except (self._nvml.NVMLError, AttributeError):
            return None

    def _reasons(self) -> int:
        """The function was renamed when throttle reasons became clock event reasons."""
        new = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        return int((new or self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(self._handle))

    def _others(self, own: Collection[int]) -> int | None:
        ours = {os.getpid(), os.getppid(), *own}
        pids = {p.pid for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        return len(pids - ours) if os.getpid() in pids else None  # in a container pids are others


def gpu_free_mib() -> float | None:
    """Free memory of the GPU that CUDA numbers 0, MiB, without a CUDA context of our own; None: not told."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return free_in(answer, os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def free_in(answer: str, visible: str) -> float | None:
    """MiB of the first visible GPU among lines ``index, uuid, MiB``; None where it is not among them."""
    first = visible.split(",", maxsplit=1)[0].strip() or "0"
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[2].isdigit() and (parts[0] == first or parts[1].startswith(first)):
            return float(parts[2])
    return None


def _pynvml() -> Any:
    import pynvml

    return pynvml
