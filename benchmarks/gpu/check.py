"""The whole CUDA matrix in one call, on a host with an NVIDIA GPU; one JSON file with the host's facts.

    python -m benchmarks.gpu.check [--minutes 8] [--networks resnet50,…] [--out FILE]

{fp32 TF32 off, TF32, fp16} x {NCHW, NHWC} x graph x bound/plain x batch 1, 8, 64, 256, and the baselines:
session.run as the package installs, torch.compile with CUDA graphs, TensorRT where its libraries are. What
the time did not allow is listed as not reached. Without a GPU it says so, writes nothing, and exits with 4.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.gpu.networks import NETWORKS
from pipeline.bench.cuda import matrix
from pipeline.bench.cuda_child import measure_in_children
from pipeline.bench.cuda_device import GpuDevice, find_device
from pipeline.bench.records import CudaRecord, CudaSettings

BATCHES = (1, 8, 64, 256)
RESULT = Path(__file__).parents[1] / "results" / "cuda.json"
ENERGY_WINDOW_S = 5.0
NO_RUNTIME = 4  # exit code


def host_facts() -> dict[str, Any]:
    """As in every other result; as much as a bare host can tell where psutil is missing."""
    try:
        from pipeline.bench.host import environment
    except ImportError:
        return {
            "machine": platform.machine(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        }
    return environment()


def half(model: Path, out: Path) -> str:
    """Write the model with float16 weights, inputs and outputs; the reason where that cannot be done."""
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        return str(error)
    onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=False), out)
    return ""


def feeds(model: Path, batch: int, dtype: type[np.floating[Any]]) -> dict[str, np.ndarray]:
    """Seeded images."""
    import onnx

    shape = [d.dim_value for d in onnx.load(model).graph.input[0].type.tensor_type.shape.dim[1:]]
    rng = np.random.default_rng(batch)
    return {"image": rng.random((batch, *shape), dtype=np.float32).astype(dtype)}


def measure(model: Path, precision: Literal["fp32", "fp16"], limit_s: float, *, tensorrt: bool) -> CudaRecord:
    """All cells of one file; energy in the cells that would be deployed."""
    dtype = np.float32 if precision == "fp32" else np.float16
    given = {batch: feeds(model, batch, dtype) for batch in BATCHES}
    cells = matrix(precision=precision, tensorrt=tensorrt)
    begin = time.monotonic()
    found = measure_in_children(str(model), given, cells, runs=50, limit_s=limit_s)
    deployed = [c for c in cells if c.graph and c.layout == "NHWC" and c.runtime == "onnxruntime"][:1]
    left = limit_s - (time.monotonic() - begin)
    if found.status == "measured" and left > 3 * ENERGY_WINDOW_S:
        spent = measure_in_children(
            str(model), {64: given[64]}, deployed, runs=50, energy_window_s=ENERGY_WINDOW_S, limit_s=left
        )
        energies: dict[CudaSettings, float | None] = {r.settings: r.energy_mj for r in spent.results}
        results = tuple(
            r.model_copy(update={"energy_mj": energies[r.settings], "energy_note": ""})
            if r.batch == 64 and r.settings in energies
            else r
            for r in found.results
        )
        return found.model_copy(update={"results": results})
    return found


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    device, why_not = find_device()
    if device is None:
        print(f"CUDA was not measured: {why_not}", file=sys.stderr)
        return NO_RUNTIME
    tensorrt = isinstance(device, GpuDevice) and device.has_tensorrt
    names = [name for name in given.networks.split(",") if name]
    begin, parts, not_reached = time.monotonic(), [], []
    todo = [(name, precision) for name in names for precision in ("fp32", "fp16")]
    with tempfile.TemporaryDirectory() as folder:
        for k, (name, precision) in enumerate(todo):
            left = 60 * given.minutes - (time.monotonic() - begin)
            if left < 10:
                not_reached.append(f"{name} {precision}")
                continue
            single = Path(folder) / f"{name}.onnx"
            model = single if single.exists() else NETWORKS[name](single)
            if precision == "fp16":
                model = Path(folder) / f"{name}_fp16.onnx"
                if reason := half(single, model):
                    not_reached.append(f"{name} fp16: {reason}")
                    continue
            # Each gets its share of what is left, and what the quick ones leave over goes to the rest.
            share = left if k == len(todo) - 1 else min(left, 2 * left / (len(todo) - k))
            record = measure(model, precision, share, tensorrt=tensorrt)  # type: ignore[arg-type]
            parts.append({"network": name, "precision": precision, **record.model_dump(mode="json")})
            best = min((r.gpu.median_ms for r in record.results if r.gpu and r.batch == 1), default=None)
            print(f"{name} {precision}: {len(record.results)} cells, best at batch 1: {best} ms", flush=True)
            write(given.out, parts, not_reached, time.monotonic() - begin)
    write(given.out, parts, not_reached, time.monotonic() - begin)
    return 0


def write(out: Path, parts: list[dict[str, Any]], not_reached: list[str], seconds: float) -> None:
    """What there is so far, aside and then in place."""
    result = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "batches": BATCHES,
        "matrix": parts,
        "not_reached": not_reached,
        "host": host_facts(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".part")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.replace(out)


if __name__ == "__main__":
    sys.exit(main())
