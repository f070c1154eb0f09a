"""The settings that a race starts from: each a contender whose name says what is different about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optim.errors import UserError
from pipeline.affinity import usable_cpu_count
from pipeline.bench.contender import Contender, CudaOptions
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
            for runtime in ("onnxruntime", "openvino"):
                if runtime not in settings.runtimes:
                    continue
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


def cuda_candidates(
    models: Mapping[str, Path], settings: TuneConfig, *, cpu_fallback: bool = False
) -> tuple[Contender, ...]:
    """All combinations of graph, layout and TF32 on the GPU; one thread of the host feeds it.

    Args:
        models: graphs of the same model by the name of what made them.
        settings: what to combine. Bound buffers and CUDA graphs come later, see ``cuda_refinements``.
        cpu_fallback: let nodes run on the CPU that the GPU cannot run; else such a graph is refused.
    """
    if "cuda" not in settings.runtimes:
        return ()
    return tuple(
        Contender(
            name=f"{label}, CUDA, {layout}, {'TF32' if tf32 else 'TF32 off'}",
            kind="onnx",
            model=str(path),
            device="cuda",
            cuda=CudaOptions(layout=layout, tf32=tf32, cpu_fallback=cpu_fallback),
        )
        for label, path in models.items()
        for layout in dict.fromkeys(settings.layout)
        for tf32 in dict.fromkeys(settings.tf32)
    )


def cuda_refinements(winner: Contender, settings: TuneConfig, *, fixed_shapes: bool) -> tuple[Contender, ...]:
    """Variants of a winner on the GPU: buffers bound once, and with them a CUDA graph for fixed shapes."""
    if winner.cuda is None or True not in settings.io_binding:
        return ()
    graphs = [graph for graph in dict.fromkeys(settings.cuda_graph) if fixed_shapes or not graph]
    return tuple(
        winner.model_copy(
            update={
                "name": f"{winner.name}, bound{', graph' if graph else ''}",
                "io_binding": True,
                "cuda": winner.cuda.model_copy(update={"graph": graph}),
            }
        )
        for graph in graphs
    )


def refinements(winner: Contender, settings: TuneConfig) -> tuple[Contender, ...]:
    """Variants of a winner on the CPU that save microseconds a call, whatever its settings: I/O binding."""
    if winner.kind != "onnx" or winner.cuda is not None:
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
    cpus = usable_cpu_count()
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
