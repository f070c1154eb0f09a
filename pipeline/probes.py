"""Trying what is installed, each piece in a process of its own, as many at once as there are CPUs.

A probe takes seconds, since frameworks are really loaded, and nothing of it is kept: what worked an hour ago
may not work now.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final, TypeVar

from pipeline.affinity import usable_cpu_count
from pipeline.sources.contract import Progress

PROBE_LIMIT_S: Final = 120.0  # CUDA's first start can take a minute
_Found = TypeVar("_Found")

# Several modules in one process, since most of them load TensorFlow: name -> [works, version or reason].
IMPORT_PROBE: Final = """
import importlib, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        found[name] = [True, str(getattr(module, "__version__", "loads"))]
    except Exception as error:
        found[name] = [False, f"{type(error).__name__}: {error}"]
print(json.dumps(json.dumps(found)))
"""

# One Add node, so that a provider that takes nothing at all is found out: fallback to the CPU is forbidden.
PROVIDER_PROBE: Final = """
import json, sys
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper
name = sys.argv[1]
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
options = ort.SessionOptions()
options.log_severity_level = 4
if name != "CPUExecutionProvider":
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
session = ort.InferenceSession(model.SerializeToString(), options, providers=[name])
if session.get_providers()[0] != name:
    sys.exit(f"the session fell back to {session.get_providers()[0]}")
got = session.run(None, {"x": np.array([1.0, -2.5], np.float32)})[0]
if got.tolist() != [2.0, -5.0]:
    sys.exit(f"1 + 1 and -2.5 - 2.5 came out as {got.tolist()}")
print(json.dumps(f"onnxruntime {ort.__version__}: a session was made and ran"))
"""

LISTED_PROBE: Final = """
import json, onnxruntime
print(json.dumps(",".join(onnxruntime.get_available_providers())))
"""

# Several targets in one process: name -> what was found.
TARGET_PROBE: Final = """
import json, sys
from dataclasses import asdict
from targets.catalog import target_named
found = {}
for name in sys.argv[1:]:
    target = target_named(name)
    found[name] = {**asdict(target.available()), "summary": target.summary}
print(json.dumps(json.dumps(found)))
"""


@dataclass(frozen=True)
class Probe:
    """What a child process found: ``ok``, and a version or the reason why not."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class TargetProbe:
    """Whether a target's runtime works here, as ``targets.contract.Availability`` has it; its summary."""

    available: bool
    detail: str
    needs: str = ""
    summary: str = ""


def run_probe(code: str, *arguments: str, limit_s: float = PROBE_LIMIT_S) -> Probe:
    """Run Python ``code`` in a fresh process; its last line of output is a JSON string or it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Probe(False, f"no answer within {limit_s:.0f} s")
    if done.returncode < 0:
        return Probe(False, f"its process was ended by signal {-done.returncode}")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return Probe(True, str(json.loads(lines[-1])))
    said = done.stderr.strip().splitlines()
    return Probe(False, said[-1] if said else f"exit status {done.returncode}")


def import_all(modules: Sequence[str]) -> dict[str, Probe]:
    """Import modules in one fresh process; where that process dies, each in its own."""
    together = run_probe(IMPORT_PROBE, *modules)
    if together.ok:
        return {name: Probe(ok, detail) for name, (ok, detail) in json.loads(together.detail).items()}
    if len(modules) == 1:
        return {modules[0]: together}
    return {name: import_all([name])[name] for name in modules}


def probe_targets(names: Sequence[str]) -> dict[str, TargetProbe]:
    """Try targets in one fresh process; where that process dies, each in its own."""
    tried = run_probe(TARGET_PROBE, *names, limit_s=PROBE_LIMIT_S * 2)
    if tried.ok:
        return {name: TargetProbe(**found) for name, found in json.loads(tried.detail).items()}
    if len(names) == 1:
        return {names[0]: TargetProbe(False, tried.detail)}
    return {name: found for one in names for name, found in probe_targets((one,)).items()}


def target_probes() -> dict[str, Callable[[], dict[str, TargetProbe]]]:
    """Every target's probe, for ``in_parallel``: one a child process, by the names of its targets."""
    from targets.catalog import TARGETS, TOGETHER

    apart = {name for group in TOGETHER for name in group}
    groups = (*TOGETHER, tuple(name for name in TARGETS if name not in apart))
    return {", ".join(group): _probe_of(group) for group in groups}


def _probe_of(group: Sequence[str]) -> Callable[[], dict[str, TargetProbe]]:
    return lambda: probe_targets(group)


def in_parallel(
    probes: Mapping[str, Callable[[], _Found]], progress: Progress, *, workers: int | None = None
) -> dict[str, _Found]:
    """Results of ``probes`` by name, in their order; they start in that order, so the longest come first.

    Args:
        probes: each spends its time in a child process. An exception in one ends all.
        progress: told which are still under way whenever one has ended.
        workers: how many run at once; by default one for each CPU that this process may use.
    """
    found: dict[str, _Found] = {}
    progress(_under_way(probes), 0.0)
    pool = ThreadPoolExecutor(workers or usable_cpu_count(), thread_name_prefix="probe")
    try:
        futures = {pool.submit(probe): name for name, probe in probes.items()}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            progress(_under_way([name for name in probes if name not in found]), len(found) / len(probes))
    finally:
        pool.shutdown(cancel_futures=True)
    return {name: found[name] for name in probes}


def _under_way(names: Sequence[str] | Mapping[str, object]) -> str:
    return f"trying {'; '.join(names)}" if names else "done"
