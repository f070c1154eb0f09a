"""What parity costs and sees: the float64 truth's seconds, ONNX Runtime's error at each level, memory.

    python -m benchmarks.parity [NAME...] [--repeats N] [--memory] [--out FILE]

For each network of the zoo that is built (see `configs/zoo/build.py`):
* seconds of one float64 evaluation at batch 1, beside one run of unoptimised ONNX Runtime on one thread;
* max|error| / range against float64 of ONNX Runtime at each optimisation level, on a picture, zeros, a
  constant and a random input, and how far the full optimisation is from the plain one.
`--memory` compares the layers of a network in a process that is not allowed the memory that its activations
take, and notes the process's peak beside them. Adds to `benchmarks/results/parity.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.first_divergence import write
from benchmarks.zoo import Network, built, network
from optim.contract import Feeds
from optim.heads import saturating_heads
from optim.model import load
from pipeline.bench.host import environment
from pipeline.parity.runtime_choice import distance
from targets.reference import Float64Session, OptimizationLevel, OrtSession

RESULT = Path(__file__).parent / "results" / "parity.json"
LEVELS: tuple[OptimizationLevel, ...] = get_args(OptimizationLevel)

LAYERS_OF_A_LARGE_NETWORK = """
import json, resource, sys
import numpy as np, onnx
from pathlib import Path
from onnx import TensorProto, helper, numpy_helper
from pipeline.parity.compare_layers import compare_layers
from pipeline.sources.child_entry import peak_rss_mib

folder, depth, channels, size, allowed_mib, budget_mib = Path(sys.argv[1]), *map(int, sys.argv[2:7])
rng = np.random.default_rng(0)
nodes, weights, x = [], [], "x"
for index in range(depth):
    w = rng.normal(size=(channels, 1, 3, 3)) * 0.02
    w[:, :, 1, 1] += 1  # nearly the identity: the signal neither dies nor grows
    weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{index}"))
    nodes.append(helper.make_node(
        "Conv", [x, f"w{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4, group=channels
    ))
    nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
    x = f"r{index}"
shape = (1, channels, size, size)
graph = helper.make_graph(
    nodes, "large", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)], weights,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, folder / "m.onnx")
feed = {"x": rng.random(shape, dtype=np.float32)}
before = peak_rss_mib()
resource.setrlimit(resource.RLIMIT_DATA, (allowed_mib << 20, allowed_mib << 20))
budget = budget_mib << 20
files = folder / "m.onnx", folder / "m.onnx"
rows = list(compare_layers(*files, feed, optimization=("off", "all"), budget_bytes=budget))
total = sum(4 * int(np.prod(row.shape)) for row in rows) / 2**20
try:
    held = [np.ones(row.shape, np.float32) for row in rows]
    fits = True
except MemoryError:
    fits = False
print(json.dumps({
    "tensors": len(rows), "budget_mib": budget / 2**20, "activations_mib": total,
    "allowed_mib": allowed_mib, "all_of_one_side_fit": fits,
    "largest_mib": 4 * channels * size * size / 2**20,
    "peak_rss_before_mib": before, "peak_rss_mib": peak_rss_mib(),
    "worst_error_b": max(float(row.error_b) for row in rows),
}))
"""


def seconds_of_truth(one: Network, repeats: int) -> dict[str, Any]:
    """Median and all samples of the float64 run, and of plain ONNX Runtime.

    CPU seconds, of all threads together, say what the run costs whatever else the machine does.
    """
    truth = Float64Session(one.raw)
    samples: list[float] = []
    busy: list[float] = []
    plain: list[float] = []
    with OrtSession(one.raw, optimization="off", threads=1) as session:
        for _ in range(repeats):
            begin, work = time.perf_counter(), time.process_time()
            truth.run(one.feed)
            samples.append(time.perf_counter() - begin)
            busy.append(time.process_time() - work)
            begin = time.perf_counter()
            session.run(one.feed)
            plain.append(time.perf_counter() - begin)
    return {
        "float64_s": statistics.median(samples),
        "float64_first_s": samples[0],
        "float64_samples_s": samples,
        "float64_cpu_s": statistics.median(busy),
        "load_average": os.getloadavg(),
        "onnxruntime_off_s": statistics.median(plain),
    }


def inputs_of(one: Network) -> dict[str, Feeds]:
    """A picture, zeros, a constant, and a random input of the picture's range."""
    rng = np.random.default_rng(0)
    (name, picture), *_ = one.feed.items()
    low, high = float(picture.min()), float(picture.max())
    drawn = rng.uniform(low, high, picture.shape).astype(picture.dtype)
    return {
        "picture": one.feed,
        "zeros": {name: np.zeros_like(picture)},
        "constant": {name: np.full_like(picture, (low + high) / 2)},
        "random": {name: drawn},
    }


def errors_of_levels(one: Network) -> dict[str, Any]:
    """max|error| / range of each level on each input, and the ratio of full to plain."""
    model = load(one.raw)
    heads, names = saturating_heads(model), tuple(v.name or "" for v in model.graph.outputs)
    feeds, truth = inputs_of(one), Float64Session(one.raw)
    with np.errstate(all="ignore"):
        true = {label: truth.run(feed) for label, feed in feeds.items()}
    errors: dict[str, dict[str, float]] = {label: {} for label in feeds}
    for level in LEVELS:
        with OrtSession(one.raw, optimization=level, threads=1) as session:
            for label, feed in feeds.items():
                errors[label][level] = distance(true[label], session.run(feed), heads, names)
    ratios = {k: v["all"] / v["off"] if v["off"] else None for k, v in errors.items()}
    return {"errors": errors, "all_over_off": ratios}


def memory_of_layers(
    depth: int = 200, channels: int = 4, size: int = 512, allowed_mib: int = 896, budget_mib: int = 32
) -> dict[str, Any]:
    """Layers compared in a process that may not have the memory that one side's activations take.

    ``allowed_mib``: of data, everything the process allocates (``RLIMIT_DATA``).
    """
    with tempfile.TemporaryDirectory(prefix="fairlead-layers-") as folder:
        begin = time.perf_counter()
        done = subprocess.run(
            [
                *(sys.executable, "-c", LAYERS_OF_A_LARGE_NETWORK, folder),
                *map(str, (depth, channels, size, allowed_mib, budget_mib)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return {**json.loads(done.stdout), "seconds": time.perf_counter() - begin}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="only the layers of a large network")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"networks": {}}
    if options.memory:
        results["layers_of_a_large_network"] = memory_of_layers()
        print(json.dumps(results["layers_of_a_large_network"], indent=1))
        write(options.out, results)
        return
    for name in options.names or built():
        one = network(name)
        found = seconds_of_truth(one, options.repeats) | errors_of_levels(one)
        results["networks"][name] = found
        seconds = f"{found['float64_s']:.2f} s, {found['float64_cpu_s']:.2f} s of CPU"
        print(f"{name}: float64 {seconds}; all/off {found['all_over_off']}", flush=True)
        write(options.out, results | {"host": environment(), "gpu": "not measured: no GPU"})


if __name__ == "__main__":
    main()
