"""The optimiser and its peers as functions of one shape: read a model file, write a model file.

Ours: the recipes. Peers: onnxsim, onnxslim, onnxscript's optimiser, onnxoptimizer, and ONNX Runtime's own,
saved at each level. Each is called as its documentation says. A tool that is not installed raises
ImportError, which the caller lists as the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from optim.contract import Feeds, Outputs
from optim.model import load, op_counts, signature, weight_bytes
from optim.probes import Probe, probes_for
from optim.verify import PARITY_GATE, difference
from pipeline.sources.contract import Progress

RAW: Final = "raw"
OURS: Final = ("fairlead canonical", "fairlead fast")

Tool = Callable[[Path, Path], dict[str, Any]]


def _ours(recipe: str) -> Tool:
    def run(source: Path, out: Path) -> dict[str, Any]:
        from pipeline.stages.optimize import optimize_file

        supplied = _supplied(source, source.parent / "io.npz")
        record = optimize_file(source, out, recipe=recipe, supplied=supplied, progress=lambda _t, _d: None)
        lines = [
            {"pass": line.name, "sites": line.sites, "rolled_back": len(line.rolled_back)}
            for line in record.ledger
            if line.sites or line.rolled_back
        ]
        refused = {
            line.name: [r.model_dump() for r in line.refusals]
            for line in record.ledger
            if line.refusals and line.name == "choose_layout"
        }
        return {
            "certificate_seconds": sum(line.certificate_seconds for line in record.ledger),
            "pass_seconds": sum(line.seconds for line in record.ledger),
            "ledger": lines,
            "surviving_transposes": refused.get("choose_layout", []),
        }

    return run


def _uncertified(source: Path, out: Path) -> dict[str, Any]:
    from optim.model import save
    from optim.recipes import recipe_named
    from optim.schedule import optimize

    model = load(source)
    optimize(model, recipe_named("canonical"), oracle=None)
    save(model, out)
    return {}


def _onnxsim(source: Path, out: Path) -> dict[str, Any]:
    import onnx
    import onnxsim

    model, kept = onnxsim.simplify(str(source))
    if not kept:
        raise ValueError("its own check failed")
    onnx.save(model, out)
    return {}


def _onnxslim(source: Path, out: Path) -> dict[str, Any]:
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(str(source)), out)
    return {}


def _onnxscript(source: Path, out: Path) -> dict[str, Any]:
    import onnx
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), out)
    return {}


def _onnxoptimizer(source: Path, out: Path) -> dict[str, Any]:
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), out)
    return {}


def _onnxruntime(level: str) -> Tool:
    def run(source: Path, out: Path) -> dict[str, Any]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(out)
        options.log_severity_level = 4
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        return {}

    return run


TOOLS: Final[dict[str, Tool]] = {
    "fairlead canonical": _ours("canonical"),
    "fairlead fast": _ours("fast"),
    "fairlead canonical, no certificate": _uncertified,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxscript": _onnxscript,
    "onnxoptimizer": _onnxoptimizer,
    "onnxruntime basic": _onnxruntime("BASIC"),
    "onnxruntime extended": _onnxruntime("EXTENDED"),
    "onnxruntime layout": _onnxruntime("LAYOUT"),
    "onnxruntime all": _onnxruntime("ALL"),
}


def run_tool(name: str, source: str, out: str, _progress: Progress) -> dict[str, Any]:
    """Run one tool; seconds of the tool alone (imports done before), and what it has to say.

    Called in a child process, so that a crash or a hang of a peer costs that peer only.
    """
    import onnx
    import onnx_ir  # noqa: F401 - loaded before the clock starts, for ours as for the peers
    import onnxruntime  # noqa: F401

    _import_peer(name)
    begin, processor = time.perf_counter(), time.process_time()
    said = TOOLS[name](Path(source), Path(out))
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    if not Path(out).is_file():
        raise ValueError("it wrote nothing")
    onnx.load(out, load_external_data=False)
    return {"seconds": seconds, "processor_seconds": processor, **said}


def _import_peer(name: str) -> None:
    import importlib

    if name.startswith("fairlead"):
        importlib.import_module("pipeline.stages.optimize")
    elif not name.startswith("onnxruntime"):
        importlib.import_module(name if name != "onnxscript" else "onnxscript.optimizer")


def session_outputs(model: str | Path, feeds: Feeds, *, optimized: bool) -> Outputs:
    """Outputs in ONNX Runtime's CPU provider, one thread."""
    from targets.reference import OrtSession

    with OrtSession(model, optimization="all" if optimized else "off") as session:
        return session.run(feeds)


def described(file: Path) -> dict[str, Any]:
    """Nodes and bytes of a result; nodes outside the standard domain apart."""
    model = load(file)
    counts = op_counts(model)
    foreign = sum(n for op, n in counts.items() if "::" in op and not op.startswith("ai.onnx::"))
    return {
        "nodes": sum(counts.values()),
        "nodes_outside_standard": foreign,
        "transposes": counts.get("Transpose", 0),
        "foldable_affine": foldable_affine(model),
        "weight_bytes": weight_bytes(model),
    }


def foldable_affine(model: ir.Model) -> int:
    """Scales and shifts by channel that stand right behind a convolution with constant weights, alone."""
    found = 0
    for node in model.graph:
        if node.op_type not in ("Conv", "ConvTranspose") or node.domain not in ("", "ai.onnx"):
            continue
        readers, made = node.outputs[0].uses(), node.outputs[0]
        if (
            len(readers) != 1
            or made.is_graph_output()
            or any(v.const_value is None for v in node.inputs[1:] if v)
        ):
            continue
        reader = next(iter(readers)).node
        others = [v for v in reader.inputs if v is not None and v is not made]
        stored = bool(others) and all(v.const_value is not None and not v.is_graph_input() for v in others)
        if reader.op_type == "BatchNormalization":
            found += stored
        elif reader.op_type in ("Mul", "Add", "Sub", "Div") and stored and reader.inputs[0] is made:
            found += _by_channel(others[0], len(made.shape.dims) if made.shape is not None else 4)
    return found


def _by_channel(constant: ir.Value, rank: int) -> bool:
    shape = tuple(int(d) for d in constant.const_value.shape) if constant.const_value is not None else ()
    full = (1,) * (rank - len(shape)) + shape
    return len(full) == rank and all(d == 1 for axis, d in enumerate(full) if axis != 1)


def kept(raw: Path, file: Path, probes: tuple[Probe, ...]) -> dict[str, Any]:
    """Outputs of ``file`` against those of ``raw``, both unoptimised, on every probe that ``raw`` can run."""
    from targets.reference import OrtSession

    worst, compared = 0.0, 0
    with OrtSession(raw, optimization="off") as a, OrtSession(file, optimization="off") as b:
        for probe in probes:
            try:
                truth = a.run(probe.feeds)
            except Exception:  # a probe that the raw model refuses proves nothing
                continue
            try:
                found = b.run(probe.feeds)
            except Exception as error:
                return {"parity": False, "why": f"{probe.name}: {reason(error, file)}"}
            worst = max(worst, difference(found, truth).max_abs_over_range)
            compared += 1
    return {
        "parity": None if compared == 0 else bool(worst <= PARITY_GATE),
        "max_abs_over_range": float(np.float64(worst)),
        "probes": compared,
    }


def reason(error: Exception, file: Path) -> str:
    """The first line of an error, without the folder that the file lay in."""
    return str(error).splitlines()[0].replace(f"{file.parent}/", "")[:200]


def probes_of(source: Path) -> tuple[Probe, ...]:
    """Zeros, random at batch 1, 2 and 7, and the reference inputs beside the model, if they fit it."""
    return probes_for(load(source), _supplied(source, source.parent / "io.npz"))


def _supplied(source: Path, arrays: Path) -> Feeds | None:
    """The inputs in ``arrays`` (``in|NAME`` keys), if they are the model's."""
    if not arrays.is_file():
        return None
    with np.load(arrays, allow_pickle=False) as found:
        given = {k.removeprefix("in|"): found[k] for k in found.files if k.startswith("in|")}
    return given if set(given) == {s.name for s in signature(load(source))[0]} else None
