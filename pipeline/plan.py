"""Config to immutable steps, each keyed by the hash of its inputs, options and tool versions.

A step's key holds the keys of the steps it needs, so a change anywhere runs again all that depends on it
and nothing else. ``explain`` says of each step whether the store has it, and if not, what changed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optim.errors import UserError
from pipeline.bench.host import host
from pipeline.config import FACTORY_PREFIX, Config
from pipeline.store import Store, hash_path, write_atomically

_GRAPH_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu")
_FRAMEWORKS = ("tensorflow", "tensorflow-cpu", "keras", "tf2onnx", "h5py")

_TARGET_TOOLS = (
    *("openvino", "ai-edge-litert", "opencv-python-headless", "wolframclient"),
    *("tritonclient", "coremltools", "emx-onnx-cgen", "tensorrt", "cyclonedx-python-lib", "model-signing"),
)

# What each stage's result depends on: distributions whose version counts, and our own code.
_TOOLS: Mapping[str, tuple[str, ...]] = {
    "convert": (*_FRAMEWORKS, *_GRAPH_TOOLS),
    "optimize": (*_GRAPH_TOOLS, "onnxsim"),
    "parity": (*_FRAMEWORKS, *_GRAPH_TOOLS),
    "benchmark": (*_FRAMEWORKS, *_GRAPH_TOOLS),
    "export": (*_FRAMEWORKS, *_GRAPH_TOOLS, *_TARGET_TOOLS),
}
# Programs that decide whether a bundle can be verified here.
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "npm", "wolframscript", "tritonserver", "gcc")
_CODE: Mapping[str, tuple[str, ...]] = {
    "convert": ("optim", "targets", "pipeline/sources", "pipeline/stages/convert.py"),
    "optimize": ("optim", "targets/reference.py", "pipeline/feeds.py", "pipeline/stages/optimize.py"),
    "parity": (
        "targets",
        "pipeline/parity",
        "pipeline/sources",
        "pipeline/feeds.py",
        "pipeline/fixed_sizes.py",
        "pipeline/stages/parity.py",
    ),
    "benchmark": (
        "targets",
        "pipeline/bench",
        "pipeline/sources",
        "pipeline/feeds.py",
        "pipeline/fixed_sizes.py",
        "pipeline/stages/benchmark.py",
    ),
    "export": (
        "targets",
        "pipeline/feeds.py",
        "pipeline/stages/calibration.py",
        "pipeline/stages/export.py",
        "pipeline/stages/test_set.py",
        "pipeline/stages/trace_layers.py",
        "pipeline/stages/tuned_settings.py",
    ),
}
# Stages whose result belongs to the machine it was made on.
_HOST_BOUND = ("parity", "benchmark")


@dataclass(frozen=True)
class Step:
    """One piece of work. ``inputs`` maps a role to a content hash or to a needed step's key."""

    name: str
    stage: str
    needs: tuple[str, ...]
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def key(self) -> str:
        """SHA-256 over everything the result depends on."""
        parts = {
            "stage": self.stage,
            "inputs": self.inputs,
            "options": self.options,
            "versions": self.versions,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class StepState:
    """Whether the store has a step, and why it must run if not."""

    step: Step
    cached: bool
    reason: str


def make_plan(config: Config) -> tuple[Step, ...]:
    """The steps of a run in order.

    Raises:
        UserError: a file that the config names cannot be read.
    """
    dumped = config.model_dump(mode="json")
    model = {"model": _model_hash(config)}
    data = _data_hashes(config)
    steps: dict[str, Step] = {}

    def add(name: str, stage: str, needs: tuple[str, ...], inputs: Mapping[str, str], options: Any) -> None:
        keys = {need: steps[need].key for need in needs}
        steps[name] = Step(name, stage, needs, {**inputs, **keys}, options, _versions(stage))

    add("convert", "convert", (), model, {**dumped["model"], "path": Path(config.model.path).name})
    options = {"optimize": dumped["optimize"], "data": dumped["data"]}
    add("optimize", "optimize", ("convert",), data, options)
    options = {"parity": dumped["parity"], "data": dumped["data"]}
    add("parity", "parity", ("convert", "optimize"), {**model, **data}, options)
    before_export: tuple[str, ...] = ("convert", "optimize", "parity")
    if config.benchmark is not None:
        needs: tuple[str, ...] = ("convert", "optimize")
        inputs = model
        if config.benchmark.tune is not None:  # settings are raced under the parity of the source's answers
            needs, inputs = (*needs, "parity"), {**model, **data}
        add("benchmark", "benchmark", needs, inputs, dumped["benchmark"])
        before_export += ("benchmark",)
    for target, entry in zip(config.targets, dumped["targets"], strict=True):
        name = f"export {target.name}"
        if name in steps:
            raise UserError(f"target {target.name} is listed twice", hint="one entry a target")
        words = {key: dumped[key] for key in ("name", "description", "bundle", "data")}
        options = {**words, "target": entry, "gate": dumped["parity"]["gate"]}
        add(name, "export", before_export, data, options)
    return tuple(steps.values())


def explain(steps: tuple[Step, ...], store: Store, name: str) -> tuple[StepState, ...]:
    """State of each step; ``name`` is the run's, to compare with what it did last."""
    last = _last_plan(store, name)
    states: list[StepState] = []
    for step in steps:
        found = store.look_up(step.key)
        if found.entry is not None:
            states.append(StepState(step, cached=True, reason="same inputs, options and versions"))
            continue
        changes = _changes(last.get(step.name), step)
        reason = found.problem if "damaged" in found.problem else changes or found.problem
        states.append(StepState(step, cached=False, reason=reason))
    return tuple(states)


def remember(steps: tuple[Step, ...], store: Store, name: str) -> None:
    """Keep what a run was made of, so that the next plan can say what changed."""
    content = {step.name: asdict(step) for step in steps}
    write_atomically(_plan_file(store, name), json.dumps(content, indent=1, default=str))


def _changes(before: Mapping[str, Any] | None, step: Step) -> str:
    """What differs from the last run of the step of this name, in words."""
    if before is None:
        return ""
    found = []
    for role, now in step.inputs.items():
        if before["inputs"].get(role) != now:
            found.append(f"step {role} changed" if role in step.needs else f"the {role} file changed")
    found += [
        f"{name}: {old!r} -> {new!r}" for name, old, new in _differences(before["options"], step.options, "")
    ]
    for tool, now in step.versions.items():
        was = before["versions"].get(tool)
        if was != now:
            plain = tool in ("fairlead", "host")
            found.append(f"{tool} changed" if plain else f"{tool} {was or 'absent'} -> {now}")
    found += [f"{tool} is gone" for tool in before["versions"] if tool not in step.versions]
    return "; ".join(found)


def _differences(old: Any, new: Any, prefix: str) -> list[tuple[str, Any, Any]]:
    new = json.loads(json.dumps(new, default=str))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            one
            for key in keys
            for one in _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [(prefix, old, new)]


def _last_plan(store: Store, name: str) -> dict[str, Any]:
    try:
        content = json.loads(_plan_file(store, name).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _plan_file(store: Store, name: str) -> Path:
    return store.root / "plans" / f"{name}.json"


# --- what a step depends on ----------------------------------------------------------------------


def _model_hash(config: Config) -> str:
    given = config.model.path
    parts = []
    if config.model.graph_factory is not None:
        parts.append(_module_hash(config.model.graph_factory.partition(":")[0], config.base))
    if given.startswith(FACTORY_PREFIX):
        parts.append(_module_hash(given.removeprefix(FACTORY_PREFIX).partition(":")[0], config.base))
    else:
        path = config.resolve(given)
        # A checkpoint is a prefix of several files; .meta names the same ones.
        stem = path.with_suffix("") if path.suffix in (".meta", ".index") else path
        shards = [one for one in path.parent.glob(f"{stem.name}.*") if one.suffix != ".lock"]
        checkpoint = not path.exists() or path.suffix in (".meta", ".index")
        parts += [hash_path(one) for one in (sorted(shards) if checkpoint else [path])]
        if not checkpoint and path.suffix == ".onnx":  # external data beside it
            parts += [hash_path(one) for one in sorted(path.parent.glob(f"{path.name}*")) if one != path]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _data_hashes(config: Config) -> dict[str, str]:
    named = {"data": config.data.path, "label_names": config.data.label_names}
    return {role: hash_path(config.resolve(path)) for role, path in named.items() if path is not None}


def _module_hash(module: str, base: Path) -> str:
    """Hash of a module's file, found without importing anything."""
    places: list[str] | None = [str(base), str(Path.cwd())]
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        places = list(spec.submodule_search_locations or []) if spec is not None else None
    if spec is None or spec.origin is None:
        raise UserError(
            f"the Python module {module} was not found", where=str(base), hint="put it beside the config"
        )
    return hash_path(Path(spec.origin))


@functools.cache
def _versions(stage: str) -> Mapping[str, str]:
    found = {"fairlead": _code_hash(_CODE[stage])}
    for tool in _TOOLS[stage]:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    if stage == "export":
        found["programs"] = ", ".join(name for name in _PROGRAMS if shutil.which(name))
    if stage in _HOST_BOUND:
        found["host"] = host().fingerprint
    return found


def _code_hash(places: tuple[str, ...]) -> str:
    """Hash of our own source below the given places: a changed line of a stage runs it again."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for place in places:
        path = root / place
        files = sorted(one for one in path.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
        for file in files if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
