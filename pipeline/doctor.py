"""What works on this machine, found by trying: each provider runs a session in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.bench.host import environment

PROBE_LIMIT_S: Final = 120.0  # CUDA's first start can take a minute

# framework or library -> (distributions that bring it, the extra of ours, what it is for)
SOURCES: Final[Mapping[str, tuple[tuple[str, ...], str, str]]] = {
    "tensorflow": (
        ("tensorflow-cpu", "tensorflow", "tensorflow-intel"),
        "tensorflow",
        "reads SavedModel, .keras, .h5, TF1",
    ),
    "keras": (("keras",), "tensorflow", "reads .keras and .h5"),
    "tf2onnx": (("tf2onnx",), "tensorflow", "converts TensorFlow graphs"),
    "h5py": (("h5py",), "tensorflow", "reads .h5"),
}
SUPPORT: Final[Mapping[str, tuple[tuple[str, ...], str, str]]] = {
    "onnxsim": (("onnxsim",), "simplify", "`optimize.simplify`"),
    "matplotlib": (("matplotlib",), "report", "plots of the report"),
    "PIL": (("pillow",), "report", "image folders as data"),
    "sklearn": (("scikit-learn",), "zoo", "the quickstart's data"),
}
PROVIDERS: Final = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "gpu",
    "TensorrtExecutionProvider": "gpu",
    "OpenVINOExecutionProvider": "",
    "CoreMLExecutionProvider": "",
    "DmlExecutionProvider": "",
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartRecord(_Record):
    """A source framework, a target or a helper, and what brings it."""

    name: str
    role: Literal["source", "target", "support"]
    works: bool
    detail: str  # version, or why not
    purpose: str
    needs: str = ""  # the command that brings it; empty when it works


class ProviderRecord(_Record):
    """An execution provider of ONNX Runtime."""

    name: str
    listed: bool  # in the runtime's own list, which says nothing about whether it loads
    works: bool  # a session was made with it alone, run, and its result was right
    detail: str
    needs: str = ""


class DoctorRecord(_Record):
    """What ``fairlead doctor`` prints."""

    stage: Literal["doctor"] = "doctor"
    status: Literal["ok", "incomplete"]  # ok: the main way (TensorFlow to ONNX Runtime on the CPU) works
    python: str
    executable: str
    packages: dict[str, str]
    host: dict[str, Any]
    gpu: str  # what is known of it, in words
    providers: tuple[ProviderRecord, ...]
    parts: tuple[PartRecord, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """What a child process found: ``ok``, and a version or the reason why not."""

    ok: bool
    detail: str


def diagnose() -> DoctorRecord:
    """Try everything; takes seconds, since frameworks are really loaded, each in its own process."""
    facts = environment()
    listing = run_probe(LISTED_PROBE)
    providers = tuple(_provider(name, extra, listing) for name, extra in PROVIDERS.items())
    shown = tuple(
        p for p in providers if p.listed or p.name in {"CPUExecutionProvider", "CUDAExecutionProvider"}
    )
    parts = (
        *_libraries("source", SOURCES),
        *_targets(),
        *_libraries("support", SUPPORT),
    )
    main_way = all(p.works for p in parts if p.name in {"tensorflow", "tf2onnx", "onnxruntime"})
    works_on_cpu = any(p.works for p in providers if p.name == "CPUExecutionProvider")
    return DoctorRecord(
        status="ok" if main_way and works_on_cpu else "incomplete",
        python=facts["python"],
        executable=sys.executable,
        packages=dict(facts["packages"]),
        host={k: v for k, v in facts.items() if k not in {"packages", "python"}},
        gpu=_gpu_in_words(facts, shown),
        providers=shown,
        parts=parts,
        advice=tuple(f"{name}: {needs}" for name, needs in _needs(parts, shown) if needs),
    )


def _needs(parts: Sequence[PartRecord], providers: Sequence[ProviderRecord]) -> tuple[tuple[str, str], ...]:
    return (*((p.name, p.needs) for p in parts), *((p.name, p.needs) for p in providers))


def install(extra: str) -> str:
    """The command that brings an extra."""
    return f"pip install 'fairlead[{extra}]'" if extra else ""


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


def _provider(name: str, extra: str, listing: Probe) -> ProviderRecord:
    listed = listing.ok and name in listing.detail.split(",")
    if not listed:
        why = "not in this build of ONNX Runtime" if listing.ok else listing.detail
        return ProviderRecord(name=name, listed=False, works=False, detail=why, needs=install(extra))
    tried = run_probe(PROVIDER_PROBE, name)
    needs = "" if tried.ok else install(extra)
    return ProviderRecord(name=name, listed=True, works=tried.ok, detail=tried.detail, needs=needs)


def import_all(modules: Sequence[str]) -> dict[str, Probe]:
    """Import modules in one fresh process; where that process dies, each in its own."""
    together = run_probe(IMPORT_PROBE, *modules)
    if together.ok:
        return {name: Probe(ok, detail) for name, (ok, detail) in json.loads(together.detail).items()}
    if len(modules) == 1:
        return {modules[0]: together}
    return {name: import_all([name])[name] for name in modules}


def _libraries(
    role: Literal["source", "support"], table: Mapping[str, tuple[tuple[str, ...], str, str]]
) -> tuple[PartRecord, ...]:
    tried = import_all(list(table))
    return tuple(
        PartRecord(
            name=name,
            role=role,
            works=tried[name].ok,
            detail=(_version(distributions) or tried[name].detail) if tried[name].ok else tried[name].detail,
            purpose=purpose,
            needs="" if tried[name].ok else install(extra),
        )
        for name, (distributions, extra, purpose) in table.items()
    )


def _version(distributions: tuple[str, ...]) -> str:
    for name in distributions:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


# All targets in one process, since several share TensorFlow, which they start once: name -> what was found.
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


def _targets() -> tuple[PartRecord, ...]:
    from targets.catalog import TARGETS

    return probe_targets(tuple(TARGETS))


def probe_targets(names: tuple[str, ...]) -> tuple[PartRecord, ...]:
    """Try targets in one fresh process; where that process dies, each in its own."""
    tried = run_probe(TARGET_PROBE, *names, limit_s=PROBE_LIMIT_S * 2)
    if tried.ok:
        found = json.loads(tried.detail)
        return tuple(_target(name, found[name]) for name in names)
    if len(names) == 1:
        (name,) = names
        return (PartRecord(name=name, role="target", works=False, detail=tried.detail, purpose=""),)
    return tuple(part for name in names for part in probe_targets((name,)))


def _target(name: str, found: Mapping[str, Any]) -> PartRecord:
    return PartRecord(
        name=name,
        role="target",
        works=found["available"],
        detail=found["detail"],
        purpose=found["summary"],
        needs="" if found["available"] else _command(found["needs"]),
    )


def _command(needs: str) -> str:
    """What a target says it needs, as a command where it names one of our extras."""
    return f"pip install '{needs}'" if needs.startswith("fairlead[") else needs


def _gpu_in_words(facts: Mapping[str, Any], providers: tuple[ProviderRecord, ...]) -> str:
    cards = [f"{g['name']} ({g['memory_mib']} MiB, driver {g['driver']})" for g in facts["gpus"]]
    usable = any(p.works for p in providers if p.name == "CUDAExecutionProvider")
    if not cards:
        return "no NVIDIA GPU or driver found"
    return ", ".join(cards) + (
        "; the CUDA provider works" if usable else "; the CUDA provider does not work yet"
    )
