"""The settings that a race starts from: each a contender whose name says what is different about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optim.errors import UserError
from pipeline.bench.contender import Contender
from pipeline.bench.measure import usable_cpus
from pipeline.config import TuneConfig


def cpu_candidates(
    default: Contender, models: Mapping[str, Path], settings: TuneConfig
) -> tuple[Contender, ...]:
    """All combinations of graph, threads, spinning and optimisation for each runtime; the default first.

    Args:
        default: the contender as it came; what the winner is compared with.
        models: graphs of the same model by the name of what made them ("raw", a recipe).
        settings: what to combine. Buffers bound once come later, see ``refinements``.

    Raises:
        UserError: the default's own graph is not among the models.
    """
    if default.model not in {str(path) for path in models.values()}:
        raise UserError(f"{default.model} is not among the graphs to race", expected=", ".join(models))
    found = {_settings(default): default}
    for label, path in models.items():
        for threads, spinning in _thread_settings(settings):
            for runtime in settings.runtimes:
                for level in settings.optimization if runtime == "onnxruntime" else ("all",):
                    made = Contender(
                        name=_name(runtime, label, level, threads, spinning=spinning),
                        kind="onnx" if runtime == "onnxruntime" else "openvino",
                        model=str(path),
                        optimization=level,
                        threads=threads,
                        allow_spinning=spinning and runtime == "onnxruntime",
                    )
                    found.setdefault(_settings(made), made)
    return tuple(found.values())


def refinements(winner: Contender, settings: TuneConfig) -> tuple[Contender, ...]:
    """Variants of a winner that save microseconds a call, whatever the graph and threads: I/O binding."""
    if winner.kind != "onnx":
        return ()
    return tuple(
        winner.model_copy(
            update={"io_binding": bound, "name": f"{winner.name}, {'bound' if bound else 'not bound'}"}
        )
        for bound in dict.fromkeys(settings.io_binding)
        if bound != winner.io_binding
    )


def _thread_settings(settings: TuneConfig) -> list[tuple[int, bool]]:
    """(threads, spinning); one thread has nobody to wait for."""
    cpus = len(usable_cpus()) or 1
    counts = settings.threads or tuple(sorted({*(2**k for k in range(8) if 2**k <= cpus), cpus}))
    spinning = tuple(dict.fromkeys(settings.allow_spinning)) or (False,)
    return [(t, s) for t in dict.fromkeys(counts) for s in (spinning if t > 1 else (False,))]


def _settings(one: Contender) -> str:
    return one.model_copy(update={"name": ""}).model_dump_json()


def _name(runtime: str, label: str, level: str, threads: int, *, spinning: bool) -> str:
    parts = [label] if runtime == "onnxruntime" else [label, runtime]
    if runtime == "onnxruntime":
        parts.append("blocked layout" if level == "all" else level)
    parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    if threads > 1 and runtime == "onnxruntime":
        parts.append("spinning" if spinning else "waiting")
    return ", ".join(parts)
