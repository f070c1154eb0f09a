"""A synthetic but realistic record of a run: every branch of the report has something to show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from optim.contract import Numerics
from pipeline import records as r
from pipeline.parity.layer_map import LayerMapRow, WeightMapRow
from targets.contract import State

LAYERS = (
    ("image", "InputLayer", (None, 28, 28, 1), 0, (), ""),
    ("conv1", "Conv2D", (None, 28, 28, 16), 144, (("conv1/kernel", (3, 3, 1, 16)),), "same"),
    ("bn1", "BatchNormalization", (None, 28, 28, 16), 64, (("bn1/gamma", (16,)), ("bn1/beta", (16,))), ""),
    ("relu1", "ReLU", (None, 28, 28, 16), 0, (), ""),
    ("conv2", "Conv2D", (None, 14, 14, 32), 4640, (("conv2/kernel", (3, 3, 16, 32)),), "same"),
    ("pool", "MaxPooling2D", (None, 7, 7, 32), 0, (), "same"),
    ("flatten", "Flatten", (None, 1568), 0, (), ""),
    ("dropout", "Dropout", (None, 1568), 0, (), ""),
    ("dense", "Dense", (None, 10), 15690, (("dense/kernel", (1568, 10)), ("dense/bias", (10,))), ""),
)


def convert_record(**changes: Any) -> r.ConvertRecord:
    layers = tuple(
        r.LayerRecord(
            name=name,
            op=op,
            outputs=(f"{name}_out",),
            output_shape=shape,
            parameters=parameters,
            weights=weights,
            padding=padding,
        )
        for name, op, shape, parameters, weights, padding in LAYERS
    )
    fields: dict[str, Any] = {
        "output": "digits.onnx",
        "source_format": "keras",
        "framework": "tensorflow 2.21.0, keras 3.15.1",
        "inputs": (r.Tensor(name="image", dtype="float32", shape=("N", 28, 28, 1)),),
        "outputs": (r.Tensor(name="scores", dtype="float32", shape=("N", 10)),),
        "frozen": (r.FrozenInput(name="keep_prob:0", value="1.0", why="dropout is off at inference"),),
        "notes": ("the output 'scores' was found at the end of the only path from the input",),
        "layers": layers,
        "parity": (
            r.SourceParityRecord(
                feed="zeros", output="scores", max_abs_over_range=1.25e-7, snr_db=135.25, passed=True
            ),
            r.SourceParityRecord(
                feed="random(seed=0)", output="scores", max_abs_over_range=0.0, snr_db=math.inf, passed=True
            ),
        ),
        "opset": 18,
        "nodes": 17,
        "weight_bytes": 82_152,
        "sha256": "3f" * 32,
        "stage_seconds": {"load": 2.25, "convert": 1.5, "check": 0.125, "parity": 0.5},
        "seconds": 4.375,
        "peak_rss_mib": 812.5,
    }
    return r.ConvertRecord(**{**fields, **changes})


def _line(name: str, numerics: Numerics, sites: int, **changes: Any) -> r.LedgerLine:
    certificate = r.CertificateRecord(
        feeds=("zeros/batch=1", "random/batch=2"),
        max_abs_over_range=0.0 if numerics is Numerics.EXACT else 3.125e-7,
        snr_db=math.inf if numerics is Numerics.EXACT else 128.5,
        bound=0.0 if numerics is Numerics.EXACT else 2e-6,
        passed=True,
    )
    fields: dict[str, Any] = {
        "name": name,
        "why": "so that later passes see constants",
        "numerics": numerics,
        "sites": sites,
        "site_names": tuple(f"{name}_site_{k}" for k in range(sites)),
        "refusals": (),
        "rolled_back": (),
        "nodes_before": 17,
        "nodes_after": 17 - sites,
        "bytes_before": 82_152,
        "bytes_after": 81_900,
        "certificate": certificate if sites else None,
        "seconds": 0.015625,
        "certificate_seconds": 0.0625,
    }
    return r.LedgerLine(**{**fields, **changes})


def optimize_record() -> r.OptimizeRecord:
    ledger = (
        _line("fold_constants", Numerics.EXACT, 3),
        _line(
            "fold_batchnorm",
            Numerics.REASSOCIATES,
            2,
            refusals=(
                r.RefusalRecord(
                    site="bn3_out",
                    reason="a Pad lies between and channel 4 has a shift of 0.2; folding changes the border",
                ),
            ),
            rolled_back=(
                r.RollbackRecord(site="bn4_out", measured=4.5e-4, bound=2e-6, feed="random/batch=2"),
            ),
        ),
        _line("explicit_padding", Numerics.EXACT, 1),
        _line("sink_transposes", Numerics.EXACT, 0),
    )
    return r.OptimizeRecord(
        output="digits.optimized.onnx",
        recipe="canonical",
        ledger=ledger,
        nodes_before=17,
        nodes_after=11,
        bytes_before=82_152,
        bytes_after=81_144,
        ops_before={
            "Conv": 2,
            "Mul": 2,
            "Add": 2,
            "Relu": 2,
            "MaxPool": 1,
            "Transpose": 5,
            "Reshape": 2,
            "Gemm": 1,
        },
        ops_after={"Conv": 2, "Relu": 2, "MaxPool": 1, "Transpose": 3, "Reshape": 2, "Gemm": 1},
        sha256="a7" * 32,
        seconds=0.75,
    )


def metrics(max_abs_over_range: float = 1.5e-7, snr_db: float = 132.5) -> r.Metrics:
    return r.Metrics(
        max_abs=9.5e-7,
        max_abs_over_range=max_abs_over_range,
        rms=1.25e-7,
        snr_db=snr_db,
        cosine=1.0,
        median_ulp=1.0,
        max_relative_clipped=2.5e-5,
        nan_count=0,
        inf_count=0,
        elements=10,
    )


def parity_record(*, passed: bool = True) -> r.ParityRecord:
    names = (
        ("source_vs_converted", "tensorflow", "converted"),
        ("before_vs_after", "converted", "optimised"),
        ("reference_vs_artefact", "tensorflow", "onnxruntime"),
    )
    comparisons = tuple(
        r.ComparisonRecord(
            question=question,  # type: ignore[arg-type]
            a=a,
            b=b,
            feed=feed,
            output="scores",
            metrics=metrics(1.5e-7 * (k + 1), 132.5 - k),
            source_error=2.5e-7 if question != "before_vs_after" else None,
            b_error=1.75e-7 if question != "before_vs_after" else None,
            passed=True,
        )
        for k, (question, a, b) in enumerate(names)
        for feed in ("zeros", "random(seed=0)", "data")
    )
    divergence = None
    if not passed:
        worst = metrics(3.5e-3, 41.5)
        failed = comparisons[-1].model_copy(
            update={"metrics": worst, "passed": False, "reasons": ("max|Δ|/range is 0.0035, above 2e-05",)}
        )
        comparisons = (*comparisons[:-1], failed)
        divergence = r.DivergenceRecord(
            node="conv2", tensor="conv2_out", cause="padding (1, 1, 1, 1) where the source pads (0, 0, 1, 1)"
        )
    return r.ParityRecord(
        status="ok" if passed else "gate_not_met",
        passed=passed,
        gate={"max_abs_over_range": 2e-5, "snr_db": 90.0, "min_accuracy": 0.98, "top1_agreement": 1.0},
        comparisons=comparisons,
        accuracy=(
            r.AccuracyRecord(contender="source", examples=360, accuracy=0.9889, top1_agreement=None),
            r.AccuracyRecord(contender="onnxruntime", examples=360, accuracy=0.9889, top1_agreement=1.0),
        ),
        metrics=comparisons[-1].metrics,
        first_divergence=divergence,
        runtime_settings={"tensorflow": "threads 1, oneDNN off", "onnxruntime": "ENABLE_ALL, threads 1"},
        seconds=3.25,
    )


def _result(contender: str, median_ms: float, seed: int, batch: int) -> r.BenchResult:
    rng = np.random.default_rng(seed)
    raw = median_ms * np.exp(rng.normal(0.0, 0.04, 400)) * np.where(rng.random(400) < 0.02, 1.6, 1.0)
    raw = np.round(raw, 5)
    middle = float(np.median(raw))
    return r.BenchResult(
        model=f"{contender}.onnx",
        contender=contender,
        device="cpu",
        batch=batch,
        threads=1,
        latency_ms=middle,
        interval_ms=(float(np.quantile(raw, 0.46)), float(np.quantile(raw, 0.54))),
        percentiles=(
            r.Percentile(
                p=90,
                value_ms=float(np.quantile(raw, 0.9)),
                interval_ms=(float(np.quantile(raw, 0.87)), float(np.quantile(raw, 0.93))),
                samples_needed=60,
            ),
            r.Percentile(p=99, value_ms=float(np.quantile(raw, 0.99)), interval_ms=None, samples_needed=299),
            r.Percentile(p=99.9, value_ms=None, interval_ms=None, samples_needed=2995),
        ),
        samples=len(raw),
        raw_ms=tuple(float(x) for x in raw),
        session_creation_ms=12.5,
        first_run_ms=median_ms * 3,
        throughput_per_s=1000 * batch / middle,
        peak_rss_mib=143.5,
        file_bytes=84_001,
        warmup_runs=20,
        stable=True,
        grade=r.Grade(letter="B", reasons=("the clock is not pinned", "a hypervisor shares the cores")),
    )


def benchmark_record() -> r.BenchmarkRecord:
    results = tuple(
        _result(contender, ms * (1 if batch == 1 else 5), seed + batch, batch)
        for batch in (1, 8)
        for contender, ms, seed in (("source", 1.9, 10), ("raw", 0.142, 20), ("optimized", 0.118, 30))
    )
    comparisons = tuple(
        r.BenchComparison(
            a=a, b=b, device="cpu", batch=batch, verdict=verdict, ratio=ratio, interval=interval,
            a_a_ratio_interval=(0.984, 1.015),
        )
        for batch in (1, 8)
        for a, b, verdict, ratio, interval in (
            ("source", "optimized", "faster", 0.0621, (0.0612, 0.0633)),
            ("raw", "optimized", "faster", 0.831, (0.815, 0.846)),
            ("raw", "tuned", "no_difference_shown", 0.981, (0.952, 1.012)),
        )
    )  # fmt: skip
    return r.BenchmarkRecord(
        results=results,
        comparisons=comparisons,
        host={"cpu_model": "AMD EPYC", "cores": 2, "load_average": 0.25},
        skipped=("batch 64: the source needs more than 4 GiB",),
        seconds=31.25,
    )


def run_record(*, passed: bool = True, benchmark: bool = True, **changes: Any) -> r.RunRecord:
    """A whole run; ``passed=False`` misses the parity gate and fails its bundle."""
    bundles = (
        r.BundleRecord(
            status="ok" if passed else "failed",
            target="onnxruntime",
            state=State.VERIFIED if passed else State.FAILED,
            path="runs/digits/bundles/onnxruntime" if passed else "",
            artefacts=("model.onnx", "model.ort"),
            max_abs_over_range=1.5e-7 if passed else 3.5e-3,
            snr_db=132.5 if passed else 41.5,
            reasons=() if passed else ("model.onnx, reference data, output scores: max|Δ|/range 0.0035",),
            seconds=0.5,
        ),
        r.BundleRecord(
            target="coreml",
            state=State.PRODUCED,
            path="runs/digits/bundles/coreml",
            artefacts=("model.mlpackage",),
            max_abs_over_range=None,
            snr_db=None,
            reasons=("Core ML runs on macOS only",),
            seconds=1.5,
        ),
    )
    fields: dict[str, Any] = {
        "status": "ok" if passed else "gate_not_met",
        "name": "digits",
        "started": "2026-01-31T12:34:56+00:00",
        "seconds": 41.75,
        "steps": (
            r.StepRecord(name="convert", key="c0" * 32, cached=True, reason="", seconds=0.002),
            r.StepRecord(name="optimize", key="d1" * 32, cached=False, reason="recipe changed", seconds=0.75),
            r.StepRecord(
                name="parity", key="e2" * 32, cached=False, reason="its input changed", seconds=3.25
            ),
        ),
        "convert": convert_record(),
        "optimize": optimize_record(),
        "parity_detail": parity_record(passed=passed),
        "parity": (
            r.ParitySummary(
                question="source_vs_converted",
                passed=True,
                worst_max_abs_over_range=1.5e-7,
                worst_snr_db=132.5,
            ),
            r.ParitySummary(
                question="before_vs_after", passed=True, worst_max_abs_over_range=3e-7, worst_snr_db=131.5
            ),
            r.ParitySummary(
                question="reference_vs_artefact",
                passed=passed,
                worst_max_abs_over_range=4.5e-7 if passed else 3.5e-3,
                worst_snr_db=130.5 if passed else 41.5,
            ),
        ),
        "benchmark": benchmark_record() if benchmark else None,
        "bundles": bundles,
        "environment": {
            "cpu_model": "AMD EPYC",
            "cores": 2,
            "flags": ["avx2", "avx512f"],
            "gpus": [],
            "packages": {"onnx": "1.23.2", "onnxruntime": "1.31.1"},
            "governor": "",
        },
        "config": {
            "name": "digits",
            "description": "Reads the handwritten digits that scikit-learn ships, at 28 × 28 pixels.",
            "model": {"path": "zoo/digits.keras"},
            "targets": [{"name": "onnxruntime"}],
        },
        "out": "runs/digits",
        "report": "runs/digits/report.html",
    }
    return r.RunRecord(**{**fields, **changes})


def layer_map_rows() -> tuple[LayerMapRow, ...]:
    """The layer map of the same run."""
    nodes = {
        "conv1": ("Conv conv1",),
        "bn1": ("Conv conv1",),
        "conv2": ("Conv conv2",),
        "dense": ("Gemm dense",),
    }
    rows = []
    for name, op, shape, parameters, weights, padding in LAYERS:
        weight_rows = tuple(
            WeightMapRow(
                name=weight,
                shape=dims,
                tensor_after=weight if len(dims) == 4 else "",
                shape_after=tuple(dims[a] for a in (3, 2, 0, 1)) if len(dims) == 4 else (),
                permutation_after=(3, 2, 0, 1) if len(dims) == 4 else None,
                note="" if len(dims) == 4 else "folded into other constants",
            )
            for weight, dims in weights
        )
        rows.append(
            LayerMapRow(
                layer=name,
                op=op,
                parameters=parameters,
                output_shape=shape,
                padding=padding,
                tensor_before=f"{name}_out",
                nodes_before=nodes.get(name, ()),
                padding_before="",
                tensor_after=f"{name}_out",
                nodes_after=nodes.get(name, ()),
                padding_after="[0, 0] ... [1, 1]" if padding else "",
                weights=weight_rows,
                note="merged into Conv conv1" if name == "bn1" else "",
            )
        )
    return tuple(rows)
