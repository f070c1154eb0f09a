"""Whether a target's runtime works here: a tiny model is built, loaded and run, not a list read."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
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
        out = folder / "out"
        out.mkdir()
        with target.open(out, target.build(_write_probe(folder), out, {})) as session:
            return session.run({"x": probe_input()})["y"]

    return _probed_once(target.name, package, extra, run)


def prove_in_one_child(
    name: str,
    package: str,
    extra: str,
    *,
    exporter: str,
    model_file: str,
    options: Mapping[str, object],
) -> Availability:
    """Likewise, with export, load and run in one process: its framework takes seconds to import."""

    def run(folder: Path) -> Array:
        model = _write_probe(folder)
        manifest = {
            "artefact": {"files": [model_file], "options": {"signature": signature_facts(model), **options}}
        }
        with Child() as child:
            (child.folder / "out").mkdir()
            out = str(child.folder / "out")
            child.ask(
                {
                    "request": "export",
                    "exporter": exporter,
                    "model": str(model),
                    "out": out,
                    "options": dict(options),
                }
            )
            runtime = str(RUNTIMES / f"{name}.py")
            child.ask(
                {
                    "request": "load",
                    "runtime": runtime,
                    "folder": out,
                    "manifest": manifest,
                    "model": model_file,
                }
            )
            return child.ask({"request": "run"}, {"x": probe_input()})[1]["y"]

    return _probed_once(name, package, extra, run)


def _probed_once(name: str, package: str, extra: str, run: Callable[[Path], Array]) -> Availability:
    if name not in _probed:
        _probed[name] = _probe(package, extra, run)
    return _probed[name]


def _probe(package: str, extra: str, run: Callable[[Path], Array]) -> Availability:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Availability(available=False, detail=f"{package} is not installed", needs=extra)
    try:
        with tempfile.TemporaryDirectory() as folder:
            got = run(Path(folder))
    except Exception as error:  # whatever a broken installation raises is the answer here
        return Availability(available=False, detail=f"{package} {version} fails: {error}", needs=extra)
    if not np.array_equal(got, np.maximum(probe_input(), 0)):
        return Availability(
            available=False, detail=f"{package} {version} computes max(x, 0) wrongly", needs=extra
        )
    return Availability(available=True, detail=f"{package} {version}")


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
