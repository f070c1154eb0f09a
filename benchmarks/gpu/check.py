"""The whole CUDA matrix in one call, on a host with an NVIDIA GPU; one JSON file with the host's facts.

    python -m benchmarks.gpu.check [--minutes 8] [--networks resnet50,…] [--out FILE]

{fp32 TF32 off, TF32, fp16} x {NCHW, NHWC} x graph x bound/plain x batch 1, 8, 64, 256, in rounds with the
baseline: session.run as the package installs. Then torch.compile with CUDA graphs, and TensorRT where its
libraries are. What the issue asks for is read off in ``reach``; what the time did not allow is listed as not
reached. The file is written anew after every heat. Without a GPU it says so, writes nothing, and exits with
4.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.networks import NETWORKS, in_half
from benchmarks.gpu.plan import BATCHES, Part, plan, share_s
from benchmarks.gpu.reach import reach
from optim.contract import Array, Feeds
from pipeline.bench.cuda.course import Subject
from pipeline.bench.cuda.heat import words_of
from pipeline.bench.cuda.libraries import why_no_gpu
from pipeline.bench.cuda.measure import hello, measure
from pipeline.bench.cuda.precision import FP16, Precision
from pipeline.bench.cuda.process import Stations
from pipeline.bench.cuda.results import joined
from pipeline.bench.cuda.roofline import measure_peaks
from pipeline.bench.host import environment
from pipeline.bench.records import CudaPeaks, CudaRecord

RESULT: Final = Path(__file__).parents[1] / "results" / "cuda.json"
LEAST_PART_S: Final = 10.0  # sessions have to be made
KEPT_EVERY_S: Final = 15.0
NO_RUNTIME: Final = 4  # exit code
QUICK_FIRST: Final = ("digits", "mobilenet_v2", "efficientnet_b0", "resnet50", "vgg16")
REFERENCE_BATCH: Final = 1

Make = Callable[[Path], Path]
Measure = Callable[[Part, Subject, float, Callable[[CudaRecord], None]], CudaRecord]
"""A part's cells of a subject, in so many seconds; told of each record so far."""
Records = Callable[[], Mapping[str, CudaRecord]]
Keep = Callable[[Records, Sequence[str]], None]


@dataclass
class Models:
    """Files of the networks, made when they are first asked for."""

    folder: Path
    networks: Mapping[str, Make]
    why_not: dict[str, str] = field(default_factory=dict)  # why a network has no float16 variant
    answers: dict[str, dict[int, dict[str, Array]]] = field(default_factory=dict)

    def subject(self, part: Part) -> Subject:
        """The part's files, inputs, and what the CPU answers in float32 at the least batch size."""
        name = part.network
        single = self.folder / f"{name}.onnx"
        if not single.is_file():
            self.networks[name](single)
        files: dict[Precision, str] = {"fp32": str(single)}
        halved = self.folder / f"{name}_fp16.onnx"
        if FP16 in part.precisions and name not in self.why_not:
            reason = "" if halved.is_file() else in_half(single, halved)
            if reason:
                self.why_not[name] = reason
        if halved.is_file():
            files[FP16] = str(halved)
        if name not in self.answers:
            self.answers[name] = {REFERENCE_BATCH: on_cpu(single, images(single, REFERENCE_BATCH))}
        feeds = {batch: images(single, batch) for batch in part.batches}
        return Subject(name, files, feeds, references=self.answers[name])


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
    measure: Measure,
    *,
    clock: Callable[[], float] = time.monotonic,
    keep: Keep = lambda _known, _not_reached: None,
) -> tuple[dict[str, CudaRecord], list[str]]:
    """Measure the parts in their order, each within its share of the time that is left.

    A part that fails costs itself only.

    Args:
        parts: from ``plan``.
        models: their files.
        limit_s: for all.
        measure: one part.
        clock: seconds.
        keep: told after each heat how to know all that is known by then.

    Returns:
        A record of each network, and the parts that were not reached.
    """
    begin, done, not_reached = clock(), dict[str, list[CudaRecord]](), list[str]()
    records: dict[str, CudaRecord] = {}
    parts_of_it: dict[str, list[CudaRecord]] = {}
    for k, part in enumerate(parts):
        left = limit_s - (clock() - begin)
        if left < LEAST_PART_S:
            not_reached.append(part.title)
            continue
        earlier = done.setdefault(part.network, [])

        def so_far(
            record: CudaRecord, name: str = part.network, earlier: Sequence[CudaRecord] = earlier
        ) -> None:
            parts_of_it[name] = [*earlier, record]
            keep(lambda: {**records, name: joined(parts_of_it[name])}, not_reached)

        try:
            subject = models.subject(part)
            cells = tuple(cell for cell in part.cells if cell.precision in subject.files)
            if len(cells) < len(part.cells):
                not_reached.append(f"{part.title}: {models.why_not[part.network]}")
            part_here = Part(part.network, part.batches, cells, part.weight, part.energy)
            found = measure(part_here, subject, max(share_s(left, parts[k:]), LEAST_PART_S), so_far)
        except Exception as error:  # whatever one network does must not cost the others
            not_reached.append(f"{part.title}: {type(error).__name__}: {words_of(error)}")
            traceback.print_exc()
            earlier[:] = parts_of_it.get(part.network, earlier)  # what was measured by then
        else:
            earlier.append(found)
            print(f"{part.title}: {_said(found)}", flush=True)
        if earlier:
            records[part.network] = joined(earlier)
        keep(lambda: records, not_reached)
    return records, not_reached


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
    aside.write_text(json.dumps(found) + "\n")
    aside.replace(out)


class Keeper:
    """Writes what is known so far, at most every ``KEPT_EVERY_S`` seconds: the measuring waits for it."""

    def __init__(
        self, out: Path, whole: Callable[[Mapping[str, CudaRecord], Sequence[str]], Mapping[str, Any]]
    ) -> None:
        self._out, self._whole, self._written = out, whole, -KEPT_EVERY_S

    def __call__(self, known: Records, not_reached: Sequence[str]) -> None:
        """Unless that was done just now."""
        if time.monotonic() - self._written >= KEPT_EVERY_S:
            self.last(known(), not_reached)

    def last(self, records: Mapping[str, CudaRecord], not_reached: Sequence[str]) -> None:
        """Once more, in any case; nothing is written where nothing was measured."""
        if any(record.status == "measured" for record in records.values()):
            write(self._out, self._whole(records, not_reached))
            self._written = time.monotonic()


def say(text: str, done: float) -> None:
    """One line for each cell that is opened, and for each heat that is over."""
    if text != "measuring" or done >= 1:
        print(f"  {text}", file=sys.stderr, flush=True)


def on_this_gpu(stations: Stations, said: Mapping[str, Any], peaks: CudaPeaks) -> Measure:
    """Measures parts in these processes."""

    def one(part: Part, subject: Subject, limit_s: float, keep: Callable[[CudaRecord], None]) -> CudaRecord:
        return measure(
            subject,
            part.cells,
            stations,
            said,
            peaks=peaks,
            energy=part.energy,
            limit_s=limit_s,
            keep=keep,
            progress=say,
        )

    return one


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
    begin = time.monotonic()
    if why_not := why_no_gpu():
        return _not_measured(why_not)
    with Stations() as stations, tempfile.TemporaryDirectory() as folder:
        said = hello(stations)
        if said["why_not"]:
            return _not_measured(said["why_not"])
        torch = importlib.util.find_spec("torch") is not None
        absent = [] if torch else ["torch.compile: PyTorch is not installed here"]
        absent += [] if said["has_tensorrt"] else ["TensorRT: its libraries are not here"]
        host = environment()
        print(f"{said['name']}: peaks", flush=True)
        peaks = measure_peaks(stations, said["l2_bytes"])

        def whole(records: Mapping[str, CudaRecord], not_reached: Sequence[str]) -> dict[str, Any]:
            return content(records, [*absent, *not_reached], time.monotonic() - begin, host)

        keep = Keeper(given.out, whole)

        parts = plan(names, tensorrt=said["has_tensorrt"], torch=torch)
        limit_s = 60 * given.minutes - (time.monotonic() - begin)
        models = Models(Path(folder), NETWORKS)
        records, not_reached = run_parts(
            parts, models, limit_s, on_this_gpu(stations, said, peaks), keep=keep
        )
        keep.last(records, not_reached)
    if not any(record.status == "measured" for record in records.values()):
        return _not_measured(
            "; ".join(dict.fromkeys(r.reason for r in records.values())) or "there was no time"
        )
    for answer in reach(records):
        print(
            f"{answer['network']}, batch {answer['batch']}, {answer['asked']}: reached: {answer['reached']}"
        )
    return 0


def _not_measured(why: str) -> int:
    print(f"CUDA was not measured: {why}", file=sys.stderr)
    return NO_RUNTIME


if __name__ == "__main__":
    sys.exit(main())
