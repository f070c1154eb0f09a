"""Conversion against plain tf2onnx: seconds and peak memory, each contender in a fresh process, in turn.

    python -m benchmarks.conversion [MODEL.keras ...] [--repeats N] [--large-model]
    python -m benchmarks.conversion --peaks [NAME ...]

Models default to what `configs/zoo/build.py resnet50 vgg16_keras` writes. Both sides load one Keras file;
loading is counted in the peak and shown apart from the conversion proper. `--large-model` adds tf2onnx's own
mode for large models, which needs `np.product` back under NumPy 2, and 17 GiB for VGG-16. `--peaks` converts
the zoo's models once each and sets the peak of the conversion against TensorFlow's import + 3 x the weights;
given names, it replaces the rows of these.
Writes `benchmarks/results/conversion.json` with every sample and the host's facts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from optim.errors import FairleadError
from pipeline.bench.host import environment
from pipeline.load_config import load_config
from pipeline.sources import convert
from pipeline.sources.contract import ConvertRequest
from pipeline.stages.convert import request_of

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "conversion.json"
MODELS = tuple(Path(".fairlead/zoo") / name / "model.keras" for name in ("resnet50", "vgg16_keras"))

ZOO = (
    "mnist_softmax", "cnn_introduction", "mnist_caffe", "alexnet_keras", "mobilenet_v3_small", "mobilenet_v2",
    "efficientnet_b0", "mobilenet_v2_wolfram", "densenet121", "unet", "symbols_wolfram", "resnet50",
    "resnet50_v2", "alexnet", "vgg16_keras", "vgg16", "vgg16_layers", "vgg16_slim",
)  # fmt: skip

TF2ONNX = textwrap.dedent(
    """
    import json, sys, time
    import numpy as np
    np.product = np.prod
    model, out, large = sys.argv[1], sys.argv[2], sys.argv[3] == "large"
    begin = time.perf_counter()
    import keras, tensorflow as tf, tf2onnx
    net = keras.models.load_model(model, compile=False)
    call = tf.function(lambda x: net(x, training=False))
    spec = [tf.TensorSpec(net.inputs[0].shape, tf.float32, name="x")]
    loaded = time.perf_counter()
    tf2onnx.convert.from_function(call, spec, opset=18, large_model=large, output_path=out)
    print(json.dumps({"load_s": loaded - begin, "convert_s": time.perf_counter() - loaded}))
    """
)


def peak_of(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak resident MiB of the process and its children, standard output."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=REPOSITORY, text=True)
        watched = psutil.Process(process.pid)
        peak = 0
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in family))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            return (
                seconds,
                peak / 2**20,
                json.dumps({"failed": errors.read()[-500:], "code": process.returncode}),
            )
        return seconds, peak / 2**20, output.read()


def ours(model: Path, out: Path) -> dict[str, Any]:
    """`fairlead convert`, all its checks included."""
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "convert",
        str(model),
        "-o",
        str(out),
        "--json",
        "--quiet",
    ]
    seconds, peak, output = peak_of(command)
    record = json.loads(output)
    if "failed" in record:
        return {"whole_s": seconds, "peak_mib": peak, **record}
    stages = record["stage_seconds"]
    return {
        "whole_s": seconds,
        "peak_mib": peak,
        "child_peak_mib": record["peak_rss_mib"],
        "load_s": stages["load"],
        "convert_s": stages["convert"],
    }


def peer(model: Path, out: Path, *, large: bool) -> dict[str, Any]:
    """tf2onnx's own way; nothing is checked."""
    command = [sys.executable, "-c", TF2ONNX, str(model), str(out), "large" if large else "plain"]
    seconds, peak, output = peak_of(command)
    return {"whole_s": seconds, "peak_mib": peak, **json.loads(output.strip().splitlines()[-1])}


_IMPORT = "import tensorflow"
# The same without the packages that Keras imports where they happen to be installed (scikit-learn, ...).
_BARE_IMPORT = (
    "from pipeline.sources.contract import SourceFormat\n"
    "from pipeline.sources.light_imports import import_framework\n"
    "import_framework(SourceFormat.KERAS, for_custom_code=False)"
)
_HIGH_WATER = "\nprint(next(l.split()[1] for l in open('/proc/self/status') if 'VmHWM' in l))"


def import_mib(code: str = _IMPORT) -> float:
    """Peak resident MiB of a process that only imports TensorFlow."""
    command = [sys.executable, "-c", code + _HIGH_WATER]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return int(done.stdout) / 1024


def request_for(name: str) -> ConvertRequest:
    """How a model of the zoo is converted: as its config says, else as it is."""
    config = REPOSITORY / "configs" / f"{name}.yaml"
    if config.is_file():
        return request_of(load_config(config))
    folder = REPOSITORY / ".fairlead" / "zoo" / name
    found = next((one for one in ("model.keras", "model.pb") if (folder / one).is_file()), "model.ckpt")
    return ConvertRequest(str(folder / found))


def peaks(names: Sequence[str]) -> list[dict[str, Any]]:
    """The conversion's peak of each model beside its bound, and beside the bound of an environment in which
    nothing is installed that Keras imports on the side; everything in MiB."""
    base, bare = import_mib(), import_mib(_BARE_IMPORT)
    print(f"import tensorflow {base:.0f}, without packages on the side {bare:.0f}")
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fairlead-peak-") as folder:
            try:
                done = convert(request_for(name), Path(folder) / "model.onnx")
            except FairleadError as error:
                rows.append({"model": name, "failed": str(error)})
                print(name, error)
                continue
        weights = done.weight_bytes / 2**20
        row = {
            "model": name,
            "format": done.source_format.value,
            "weights_mib": weights,
            "import_mib": base,
            "bare_import_mib": bare,
            "peak_mib": done.peak_rss_mib,
            "bound_mib": base + 3 * weights,
            "bare_bound_mib": bare + 3 * weights,
            "beyond_import_mib": done.peak_rss_mib - base,
            "holds": done.peak_rss_mib <= base + 3 * weights,
            "holds_bare": done.peak_rss_mib <= bare + 3 * weights,
            "seconds": dict(done.seconds),
        }
        rows.append(row)
        print(
            f"{name:<22} weights {weights:7.1f}  peak {row['peak_mib']:7.1f}  bound {row['bound_mib']:7.1f}"
            f"  bare {row['bare_bound_mib']:7.1f}"
        )
    return rows


def compared(samples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of ratios, ours over the peer's, over the rounds in which both ended."""
    ratios: dict[str, Any] = {}
    for name, runs in samples.items():
        if name == "fairlead":
            continue
        pairs = [(a, b) for a, b in zip(samples["fairlead"], runs, strict=True) if "failed" not in {**a, **b}]
        ratios[name] = {
            figure: float(np.median([a[figure] / b[figure] for a, b in pairs])) if pairs else None
            for figure in ("convert_s", "peak_mib")
        }
    return ratios


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, default=MODELS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large-model", action="store_true")
    parser.add_argument("--peaks", action="store_true")
    options = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {"models": {}}
    if options.peaks:
        chosen = [] if options.models == MODELS else [str(one) for one in options.models]
        known = {row["model"]: row for row in results.get("peaks", [])} if chosen else {}
        known |= {row["model"]: row for row in peaks(chosen or ZOO)}
        results["peaks"] = list(known.values())
        options.models = ()
    mode = "tf2onnx large_model" if options.large_model else "tf2onnx"
    for model in options.models:
        samples: dict[str, list[dict[str, Any]]] = {"fairlead": [], mode: []}
        with tempfile.TemporaryDirectory(prefix="fairlead-conversion-") as folder:
            for _ in range(options.repeats):
                samples["fairlead"].append(ours(model, Path(folder) / "ours.onnx"))
                suffix = "zip" if options.large_model else "onnx"
                samples[mode].append(peer(model, Path(folder) / f"peer.{suffix}", large=options.large_model))
        results["models"][f"{model.parent.name} against {mode}"] = {
            "ratios": compared(samples),
            "samples": samples,
        }
        print(model.parent.name, json.dumps(compared(samples)), json.dumps(samples))
    results["host"] = environment()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
