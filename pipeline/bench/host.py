"""What the machine is and what it was doing: facts, a fingerprint, snapshots round a measurement."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from optim.errors import UserError
from pipeline.affinity import usable_cpu_count

PACKAGES: Final = (
    "fairlead",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
    "openvino",
    "numpy",
    "cupy-cuda13x",
)
# CPU features that decide which kernels run.
KERNEL_FLAGS: Final = (
    "sse4_1", "sse4_2", "avx", "fma", "f16c", "avx2", "avx_vnni",
    "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "sve",
)  # fmt: skip
CPU_FOLDER: Final = Path("/sys/devices/system/cpu")
CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")
CFS_QUOTA: Final = "cpu.cfs_quota_us"
CFS_PERIOD: Final = "cpu.cfs_period_us"
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia")
CLOCK_PROBE_STEPS: Final = 60_000


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver names it."""

    name: str
    driver: str
    memory_mib: int


@dataclass(frozen=True)
class Host:
    """What stays the same between two measurements on one machine."""

    cpu_model: str
    cores: int  # physical, as far as the system shows them
    threads: int
    usable_threads: int  # this process may run on
    flags: tuple[str, ...]
    governor: str  # "" where the system shows none
    max_mhz: float  # 0.0 where unknown
    memory_mib: int
    hypervisor: bool
    kernel: str
    machine: str
    python: str
    gpus: tuple[Gpu, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    cpu_quota: float | None = None  # CPU seconds a second that the control group allows; None: no quota

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what decides speed. Versions stay out: they are compared by name."""
        identity = [
            self.cpu_model,
            self.cores,
            self.threads,
            self.usable_threads,
            self.flags,
            self.governor,
            self.machine,
            round(self.memory_mib / 1024),
            self.hypervisor,
            [asdict(g) for g in self.gpus],
        ]
        if (quota := binding_quota(asdict(self))) is not None:
            identity.append(quota)
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Snapshot:
    """What the machine was doing at one moment. Times in seconds since boot or start; None where unknown."""

    at_s: float
    load_average: float  # over one minute
    busy_s: float  # all CPUs, without steal
    steal_s: float
    clock_probe_ms: float  # a fixed piece of work: the clock's effect where its rate is hidden
    mhz: float | None
    throttle_events: int | None  # thermal, all cores
    quota_throttled_s: float | None  # by the control group's CPU quota
    cpu_s_by_process: Mapping[int, tuple[str, float]]


def host() -> Host:
    """This machine's facts."""
    frequency = _frequency()
    flags = _cpu_flags()
    return Host(
        cpu_model=_cpu_model(),
        cores=psutil.cpu_count(logical=False) or 0,
        threads=psutil.cpu_count() or 0,
        usable_threads=usable_cpu_count(),
        flags=tuple(f for f in KERNEL_FLAGS if f in flags),
        governor=_text(CPU_FOLDER / "cpu0/cpufreq/scaling_governor"),
        max_mhz=frequency.max if frequency else 0.0,
        memory_mib=psutil.virtual_memory().total >> 20,
        hypervisor="hypervisor" in flags,
        kernel=platform.release(),
        machine=platform.machine(),
        python=platform.python_version(),
        gpus=gpus(),
        packages=package_versions(),
        cpu_quota=cpu_quota(_text(OWN_CGROUPS), CGROUPS),
    )


def environment() -> dict[str, Any]:
    """The host's facts as a record keeps them, with the fingerprint."""
    facts = host()
    plain: dict[str, Any] = json.loads(
        json.dumps(asdict(facts))
    )  # lists for tuples, as read back from a file
    return {**plain, "fingerprint": facts.fingerprint}


def package_versions() -> dict[str, str]:
    """Versions of those installed packages that figures depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs that the driver's own tool lists; empty where there is none.

    A container may have the driver without its tool: then by the driver's files, which tell no memory.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return gpus_of_driver(NVIDIA_DRIVER)
    query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return gpus_of_driver(NVIDIA_DRIVER)
    return parse_gpus(answer)


def gpus_of_driver(folder: Path) -> tuple[Gpu, ...]:
    """GPUs from the driver's files: ``version``, and ``gpus/*/information`` with a line ``Model: name``."""
    version = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _text(folder / "version"))
    models = [
        re.search(r"^Model:\s*(.+)$", _text(file), re.MULTILINE)
        for file in sorted(folder.glob("gpus/*/information"))
    ]
    driver = version[1] if version else ""
    return tuple(Gpu(name=found[1].strip(), driver=driver, memory_mib=0) for found in models if found)


def gpu_names(facts: Mapping[str, Any]) -> str:
    """The GPUs of recorded facts with their driver, as people read them; empty where none is known."""
    return "; ".join(f"{one['name']}, driver {one['driver'] or 'unknown'}" for one in facts.get("gpus", ()))


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's CSV lines ``name, driver, MiB``; lines of another form are passed over."""
    found = []
    for line in answer.splitlines():
        parts = [p.strip() for p in line.split(",")]
        if len(parts) == 3 and parts[2].isdigit():
            found.append(Gpu(name=parts[0], driver=parts[1], memory_mib=int(parts[2])))
    return tuple(found)


def snapshot() -> Snapshot:
    """What the machine does right now."""
    times = psutil.cpu_times()
    steal = float(getattr(times, "steal", 0.0))
    idle = times.idle + float(getattr(times, "iowait", 0.0)) + float(getattr(times, "guest", 0.0))
    frequency = _frequency()
    return Snapshot(
        at_s=time.monotonic(),
        load_average=os.getloadavg()[0],
        busy_s=sum(times) - idle - steal,
        steal_s=steal,
        clock_probe_ms=clock_probe_ms(),
        mhz=frequency.current if frequency else None,
        throttle_events=_throttle_events(),
        quota_throttled_s=_quota_throttled_s(_text(CGROUPS / "cpu.stat")),
        cpu_s_by_process=_cpu_s_by_process(),
    )


def clock_probe_ms(repeats: int = 15) -> float:
    """Least time, in milliseconds, of fixed integer work: moves with the clock, hardly with load."""
    least = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        x = 1
        for _ in range(CLOCK_PROBE_STEPS):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        least = min(least, (time.perf_counter_ns() - begin) / 1e6)
    return least


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two recorded hosts (``environment()``) so that their figures do not compare."""
    decisive = (
        "cpu_model",
        "cores",
        "threads",
        "usable_threads",
        "flags",
        "governor",
        "machine",
        "hypervisor",
        "gpus",
    )
    reasons = [
        f"{key}: {_brief(a.get(key))} against {_brief(b.get(key))}"
        for key in decisive
        if _plain(a.get(key)) != _plain(b.get(key))
    ]
    before, now = binding_quota(a), binding_quota(b)
    if before != now:
        reasons.append(f"cpu_quota: {before or 'none'} against {now or 'none'}")
    if not reasons and a.get("fingerprint") != b.get("fingerprint"):
        reasons.append(f"fingerprint: {a.get('fingerprint')} against {b.get('fingerprint')}")
    return tuple(reasons)


def binding_quota(facts: Mapping[str, Any]) -> float | None:
    """The CPU quota of recorded facts, where it is less than the CPUs that the process may run on."""
    quota = facts.get("cpu_quota")
    if quota is None or quota >= facts.get("usable_threads", 0):
        return None
    return float(quota)


def require_alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Refuse to compare figures of unlike hosts.

    Raises:
        UserError: names what differs.
    """
    if reasons := unlike(a, b):
        raise UserError(
            "figures of unlike hosts are not compared: " + "; ".join(reasons),
            expected="both measured on the same machine",
            hint="measure the baseline again here",
        )


def changed_packages(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """Package versions that differ between two recorded hosts: worth a note, not a refusal."""
    old, new = a.get("packages", {}), b.get("packages", {})
    names = sorted(set(old) | set(new))
    return tuple(
        f"{n} {old.get(n, 'absent')} -> {new.get(n, 'absent')}" for n in names if old.get(n) != new.get(n)
    )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=asdict))


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _cpu_flags() -> frozenset[str]:
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def _frequency() -> Any:
    try:
        return psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError):
        return None


def _throttle_events() -> int | None:
    files = list(CPU_FOLDER.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    counts = [int(t) for f in files if (t := _text(f)).isdigit()]
    return sum(counts) if counts else None


def cpu_quota(own: str, root: Path) -> float | None:
    """CPU seconds a second that this process's control group allows, or any group above it; None: no quota.

    Args:
        own: text of ``/proc/self/cgroup``: lines ``number:controllers:path``; version 2 names no controller.
        root: where the groups are mounted, ``/sys/fs/cgroup``.
    """
    found = []
    for line in own.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            found += [_quota_v2(_text(folder / "cpu.max")) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            for folder in _upwards(_mount(root, controllers), path):
                found.append(_quota_v1(_text(folder / CFS_QUOTA), _text(folder / CFS_PERIOD)))
    return min((quota for quota in found if quota is not None), default=None)


def _mount(root: Path, controllers: str) -> Path:
    """Of a version 1 controller: by the line's own words, or ``cpu``."""
    return root / controllers if (root / controllers).is_dir() else root / "cpu"


def _upwards(mount: Path, path: str) -> tuple[Path, ...]:
    """The group's folder and all above it; in a container the path may be the host's, and only the mount is
    there.
    """
    own = mount / path.strip("/")
    if not own.resolve().is_relative_to(mount.resolve()):
        return (mount,)
    return tuple(folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _quota_v2(text: str) -> float | None:
    """Of ``cpu.max``: ``quota period`` in microseconds, or ``max period``."""
    match = re.fullmatch(r"(\d+) ([1-9]\d*)", text)
    return int(match[1]) / int(match[2]) if match else None


def _quota_v1(quota: str, period: str) -> float | None:
    """Of ``cpu.cfs_quota_us``, -1 for none, and ``cpu.cfs_period_us``."""
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _quota_throttled_s(stat: str) -> float | None:
    match = re.search(r"^throttled_usec (\d+)$", stat, re.MULTILINE)
    return int(match.group(1)) / 1e6 if match else None


def _cpu_s_by_process() -> dict[int, tuple[str, float]]:
    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            found[process.pid] = (process.info["name"] or "?", times.user + times.system)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
