"""What works on this machine, found by trying: each provider runs a session in a process of its own."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.bench.host import environment
from pipeline.probes import (
    LISTED_PROBE,
    PROVIDER_PROBE,
    Probe,
    TargetProbe,
    import_all,
    in_parallel,
    run_probe,
    target_probes,
)
from pipeline.sources.contract import Progress, no_progress

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


Parts = tuple[PartRecord, ...]
Providers = tuple[ProviderRecord, ...]


def diagnose(progress: Progress = no_progress) -> DoctorRecord:
    """Try everything; takes seconds, since frameworks are really loaded, each in its own process."""
    facts = environment()
    targets = {name: _as_parts(probe) for name, probe in target_probes().items()}
    probes: dict[str, Callable[[], Parts | Providers]] = {
        ", ".join(SOURCES): lambda: _libraries("source", SOURCES),
        **targets,
        ", ".join(SUPPORT): lambda: _libraries("support", SUPPORT),
        "providers of ONNX Runtime": _providers,
    }
    found = [one for records in in_parallel(probes, progress).values() for one in records]
    providers = tuple(one for one in found if isinstance(one, ProviderRecord))
    parts = tuple(sorted((one for one in found if isinstance(one, PartRecord)), key=_place))
    shown = tuple(
        p for p in providers if p.listed or p.name in {"CPUExecutionProvider", "CUDAExecutionProvider"}
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


def _providers() -> Providers:
    listing = run_probe(LISTED_PROBE)
    return tuple(_provider(name, extra, listing) for name, extra in PROVIDERS.items())


def _provider(name: str, extra: str, listing: Probe) -> ProviderRecord:
    listed = listing.ok and name in listing.detail.split(",")
    if not listed:
        why = "not in this build of ONNX Runtime" if listing.ok else listing.detail
        return ProviderRecord(name=name, listed=False, works=False, detail=why, needs=install(extra))
    tried = run_probe(PROVIDER_PROBE, name)
    needs = "" if tried.ok else install(extra)
    return ProviderRecord(name=name, listed=True, works=tried.ok, detail=tried.detail, needs=needs)


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


def _as_parts(probe: Callable[[], dict[str, TargetProbe]]) -> Callable[[], Parts]:
    return lambda: tuple(_target(name, found) for name, found in probe().items())


def _target(name: str, found: TargetProbe) -> PartRecord:
    return PartRecord(
        name=name,
        role="target",
        works=found.available,
        detail=found.detail,
        purpose=found.summary,
        needs="" if found.available else _command(found.needs),
    )


def _place(part: PartRecord) -> int:
    """Sources, targets in the order of their table, libraries: as they are shown, not as they were tried."""
    from targets.catalog import TARGETS

    names = {"source": list(SOURCES), "target": list(TARGETS), "support": list(SUPPORT)}
    return [*names].index(part.role) * 1000 + names[part.role].index(part.name)


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
