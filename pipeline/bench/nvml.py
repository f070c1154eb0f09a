"""What NVML tells of the GPU that is measured: its energy counter, and what may disturb a measurement."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

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

    def condition(self) -> GpuCondition | None:
        """Clock, what holds it down, and who else computes."""
        if self._handle is None:
            return None
        try:
            bits = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
            return GpuCondition(
                sm_mhz=int(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM)),
                held_back=tuple(words for bit, words in HELD_BACK if bits & bit),
                others=self._others(),
            )
        except self._nvml.NVMLError:
            return None

    def _others(self) -> int | None:
        own = {os.getpid(), os.getppid()}  # the parent has looked for the device too
        pids = {p.pid for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        return len(pids - own) if os.getpid() in pids else None  # in a container pids are others


def _pynvml() -> Any:
    import pynvml

    return pynvml
