"""Whether a target's runtime works here: a tiny model is built, loaded and run, not a list read."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optim import model as onnx_file
from optim.contract import Array
from targets.child import RUNTIMES, Child, signature_facts
from targets.contract import Availability, Target

_probed: dict[str, Availability] = {}


def prove(target: Target, package: str, extra: str) -> Availability:
    """Availability of ``target``, whose runtime is the distribution ``package`` that ``extra`` brings.

    Builds, opens and runs a one-node model. Probed once a process.
    """

    def run(folder: Path) -> Array:
        return _round_trip(target, folder)

    if target.name not in _probed:
        _probed[target.name] = _installed(package, extra) or _tried(run, extra, _named(package))
    return _probed[target.name]


def prove_with(target: Target, needs: str) -> Availability:
    """Likewise, for a runtime that is no Python distribution; ``needs`` says what brings it."""

    def run(folder: Path) -> Array:
        return _round_trip(target, folder)

    if target.name not in _probed:
        _probed[target.name] = _tried(run, needs)
    return _probed[target.name]


def prove_in_one_child(
    name: str,
    package: str,
    extra: str,
    *,
    exporter: str,
    model_file: str,
    options: Mapping[str, object],
) -> Availability:
    """Likewise, in the one child where TensorFlow is: it takes seconds to import, so targets share it."""

    def run(folder: Path) -> Array:
        model = _write_probe(folder)
        manifest = {
            "artefact": {"files": [model_file], "options": {"signature": signature_facts(model), **options}}
        }
        child = _tensorflow_child()
        out = child.folder / name
        out.mkdir()
        work = {"model": str(model), "out": str(out)}
        child.ask({"request": "export", "exporter": exporter, **work, "options": dict(options)})
        runtime = str(RUNTIMES / f"{name}.py")
        load = {"runtime": runtime, "folder": str(out), "model": model_file}
        child.ask({"request": "load", "manifest": manifest, **load})
        return child.ask({"request": "run"}, {"x": probe_input()})[1]["y"]

    if name not in _probed:
        _probed[name] = _installed(package, extra) or _tried(run, extra, _named(package))
    return _probed[name]


@functools.cache
def _tensorflow_child() -> Child:
    child = Child()
    atexit.register(child.kill)
    return child


def _round_trip(target: Target, folder: Path) -> Array:
    out = folder / "out"
    out.mkdir()
    with target.open(out, target.build(_write_probe(folder), out, {})) as session:
        return session.run({"x": probe_input()})["y"]


def _installed(package: str, extra: str) -> Availability | None:
    """None where it is."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Availability(available=False, detail=f"{package} is not installed", needs=extra)
    return None


def _named(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _tried(run: Callable[[Path], Array], needs: str, what: str = "") -> Availability:
    try:
        with tempfile.TemporaryDirectory() as folder:
            got = run(Path(folder))
    except Exception as error:  # whatever a broken installation raises is the answer here
        detail = f"{what} fails: {error}" if what else str(error)
        return Availability(available=False, detail=detail, needs=needs)
    if not np.array_equal(got, np.maximum(probe_input(), 0)):
        return Availability(available=False, detail=f"{what or 'it'} computes max(x, 0) wrongly", needs=needs)
    return Availability(available=True, detail=what or "a model was built, loaded and run")


@functools.cache
def probe_input() -> np.ndarray:
    """An image batch of one, channels first."""
    return np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(1, 2, 2, 2)


def _write_probe(folder: Path) -> Path:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 2, 2, 2]))
    node = ir.node("Relu", [x], name="probe")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 13}, name="probe")
    file = folder / "probe.onnx"
    onnx_file.save(ir.Model(graph, ir_version=8), file)
    return file
