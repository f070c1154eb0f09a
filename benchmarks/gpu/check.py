"""The whole CUDA matrix in one call, on a host with an NVIDIA GPU; one JSON file with the host's facts.

    python -m benchmarks.gpu.check [--minutes 8] [--networks resnet50,…] [--out FILE]

{fp32 TF32 off, TF32, fp16} x {NCHW, NHWC} x graph x bound/plain x batch 1, 8, 64, 256, and the baselines:
session.run as the package installs, torch.compile with CUDA graphs, TensorRT where its libraries are. What
the issue asks for is read off in ``reach``; what the time did not allow is listed as not reached. Without a
GPU it says so, writes nothing, and exits with 4.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.networks import NETWORKS
from benchmarks.gpu.plan import BATCHES, Part, plan, share_s
from benchmarks.gpu.reach import reach
from optim.contract import Array, Feeds
from pipeline.bench.cuda_child import joined, measure_in_children
from pipeline.bench.cuda_device import find_device
from pipeline.bench.cuda_precision import as_half, half
from pipeline.bench.grade import FEW_SAMPLES
from pipeline.bench.host import environment
from pipeline.bench.records import CudaRecord, CudaResult

RESULT: Final = Path(__file__).parents[1] / "results" / "cuda.json"
RUNS: Final = FEW_SAMPLES  # of each figure; fewer would cost the grade, where the time allows so many
LEAST_PART_S: Final = 10.0  # a child needs seconds to load the libraries
NO_RUNTIME: Final = 4  # exit code
QUICK_FIRST: Final = ("digits", "mobilenet_v2", "efficientnet_b0", "resnet50", "vgg16")
REFERENCE_BATCH: Final = 1

Measure = Callable[..., CudaRecord]
Make = Callable[[Path], Path]


@dataclass
class Models:
    """Files of the networks, made when they are first asked for."""

    folder: Path
    networks: Mapping[str, Make]
    made: dict[tuple[str, str], Path] = field(default_factory=dict)
    answers: dict[str, dict[int, dict[str, Array]]] = field(default_factory=dict)

    def file(self, part: Part) -> tuple[Path, str]:
        """The part's file, or why there is none."""
        single = self.folder / f"{part.network}.onnx"
        if not single.is_file():
            self.networks[part.network](single)
        if part.precision == "fp32":
            return single, ""
        halved = self.folder / f"{part.network}_fp16.onnx"
        return halved, "" if halved.is_file() else half(single, halved)

    def feeds(self, part: Part) -> dict[int, Feeds]:
        """Seeded images for each batch size."""
        single = self.folder / f"{part.network}.onnx"
        made = {batch: images(single, batch) for batch in part.batches}
        return {b: as_half(f) for b, f in made.items()} if part.precision == "fp16" else made

    def references(self, part: Part) -> dict[int, dict[str, Array]]:
        """What the CPU answers in float32 at the least batch size."""
        if part.network not in self.answers:
            single = self.folder / f"{part.network}.onnx"
            self.answers[part.network] = {REFERENCE_BATCH: on_cpu(single, images(single, REFERENCE_BATCH))}
        return self.answers[part.network]


def images(model: Path, batch: int) -> Feeds:
    """Seeded images, float32."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[1:]]
    return {"image": np.random.default_rng(batch).random((batch, *shape), dtype=np.float32)}


def on_cpu(model: Path, given: Feeds) -> dict[str, Array]:
    """The outputs by name, in ONNX Runtime on the CPU."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(given)), strict=True))


def run_parts(
    parts: Sequence[Part],
    models: Models,
    limit_s: float,
    *,
    measure: Measure = measure_in_children,
    clock: Callable[[], float] = time.monotonic,
    keep: Callable[[Mapping[str, CudaRecord], Sequence[str]], None] = lambda _records, _not_reached: None,
) -> tuple[dict[str, CudaRecord], list[str]]:
    """Measure the parts in their order, each within its share of the time that is left.

    Args:
        parts: from ``plan``.
        models: their files.
        limit_s: for all.
        measure: ``measure_in_children``, or what stands for it in a test.
        clock: seconds.
        keep: told of all that is known after each part.

    Returns:
        A record of each network, all its precisions together, and the parts that were not reached.
    """
    begin, done, not_reached = clock(), dict[str, list[CudaRecord]](), list[str]()
    records: dict[str, CudaRecord] = {}
    for k, part in enumerate(parts):
        left = limit_s - (clock() - begin)
        if left < LEAST_PART_S + 2 * part.energy_window_s:
            not_reached.append(part.title)
            continue
        model, reason = models.file(part)
        if reason:
            not_reached.append(f"{part.title}: {reason}")
            continue
        found = measure(
            str(model),
            models.feeds(part),
            part.cells,
            runs=RUNS,
            energy_window_s=part.energy_window_s,
            limit_s=max(share_s(left, parts[k:]), LEAST_PART_S + 2 * part.energy_window_s),
            references=models.references(part),
            name=part.network,
        )
        own = done.setdefault(part.network, [])
        if part.energy_window_s:
            with_energy(own, found)
        else:
            own.append(found)
        records[part.network] = joined(own)
        print(f"{part.title}: {_said(found)}", flush=True)
        keep(records, not_reached)
    return records, not_reached


def with_energy(own: list[CudaRecord], found: CudaRecord) -> None:
    """Put energies where their cells stand; a cell that was not reached before is a result of its own."""
    spent = {(r.batch, r.settings): r for r in found.results}
    for k, record in enumerate(own):
        results = tuple(_with_energy_of(r, spent.pop((r.batch, r.settings), None)) for r in record.results)
        own[k] = record.model_copy(update={"results": results})
    if spent or found.status != "measured" or found.failed:
        own.append(found.model_copy(update={"results": tuple(spent.values())}))


def _with_energy_of(one: CudaResult, spent: CudaResult | None) -> CudaResult:
    if spent is None:
        return one
    return one.model_copy(update={"energy_mj": spent.energy_mj, "energy_note": spent.energy_note})


def _said(found: CudaRecord) -> str:
    if found.status != "measured":
        return f"not measured: {found.reason}"
    best = min((r.host.median_ms for r in found.results), default=None)
    quickest = "" if best is None else f", the quickest {best:.3f} ms"
    return f"{len(found.results)} cells{quickest}" + (f", {len(found.failed)} failed" if found.failed else "")


def content(
    records: Mapping[str, CudaRecord], not_reached: Sequence[str], seconds: float, host: Mapping[str, Any]
) -> dict[str, Any]:
    """What stands in the file."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "batches": BATCHES,
        "reach": reach(records),
        "matrix": [{"network": n, **record.model_dump(mode="json")} for n, record in records.items()],
        "not_reached": list(not_reached),
        "host": dict(host),
    }


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Aside, and then in place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".part")
    aside.write_text(json.dumps(found, indent=1) + "\n")
    aside.replace(out)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--networks", default=",".join(QUICK_FIRST), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    names = [name for name in given.networks.split(",") if name]
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"no such network: {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    device, why_not = find_device()
    if device is None:
        print(f"CUDA was not measured: {why_not}", file=sys.stderr)
        return NO_RUNTIME
    torch = importlib.util.find_spec("torch") is not None
    parts = plan(names, tensorrt=device.has_tensorrt, torch=torch)
    absent = [] if torch else ["torch.compile: PyTorch is not installed here"]
    host, begin = environment(), time.monotonic()

    def keep(records: Mapping[str, CudaRecord], not_reached: Sequence[str]) -> None:
        if any(record.status == "measured" for record in records.values()):
            found = content(records, [*absent, *not_reached], time.monotonic() - begin, host)
            write(given.out, found)

    with tempfile.TemporaryDirectory() as folder:
        records, not_reached = run_parts(parts, Models(Path(folder), NETWORKS), 60 * given.minutes, keep=keep)
    if not any(record.status == "measured" for record in records.values()):
        why = "; ".join(dict.fromkeys(r.reason for r in records.values())) or "there was no time"
        print(f"CUDA was not measured: {why}", file=sys.stderr)
        return NO_RUNTIME
    keep(records, not_reached)
    for answer in reach(records):
        print(
            f"{answer['network']}, batch {answer['batch']}, {answer['asked']}: reached: {answer['reached']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
