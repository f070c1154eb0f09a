"""Does a bundle run here as fast as its manifest says?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.bench.host import gpu_names
from pipeline.bench.records import BenchResult, ExpectationRecord


def compare_with_expected(
    result: BenchResult, expected: Mapping[str, Any], host: Mapping[str, Any]
) -> ExpectationRecord | None:
    """The result against the interval that a bundle expects on the machine it was tuned on.

    Args:
        result: a bundle's measured latency.
        expected: ``benchmark.expected`` of its manifest; None is returned where there is none.
        host: this machine's facts, with its fingerprint, of which the GPUs and their driver are a part.
    """
    if not expected:
        return None
    low, high = (float(v) for v in expected["interval_ms"])
    facts = {
        "contender": result.contender,
        "expected_ms": float(expected["latency_ms"]),
        "expected_interval_ms": (low, high),
        "latency_ms": result.latency_ms,
        "interval_ms": result.interval_ms,
    }
    reasons = _unlike(result, expected, host)
    if reasons:
        return ExpectationRecord.model_validate(
            {**facts, "verdict": "not_comparable", "reason": "; ".join(reasons)}
        )
    centre = math.log(result.latency_ms / float(expected["latency_ms"]))
    below = math.hypot(
        math.log(result.latency_ms / result.interval_ms[0]), math.log(high / float(expected["latency_ms"]))
    )
    above = math.hypot(
        math.log(result.interval_ms[1] / result.latency_ms), math.log(float(expected["latency_ms"]) / low)
    )
    verdict = "slower" if centre > below else "faster" if -centre > above else "as_expected"
    return ExpectationRecord.model_validate({**facts, "verdict": verdict})


def _unlike(result: BenchResult, expected: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Why the two do not compare: another device, GPU, batch, number of threads, or machine."""
    device = expected.get("device", "cpu")  # bundles made before CUDA could win do not say
    pairs = [
        ("device", device, result.device),
        ("batch", expected.get("batch"), result.batch),
        ("threads", expected.get("threads"), result.threads),
    ]
    if device == "cuda":
        pairs.append(("GPU", expected.get("gpu") or "not known", gpu_names(host) or "none known"))
    pairs.append(("host", expected.get("host"), host.get("fingerprint")))
    return [f"{name} {there} there, {here} here" for name, there, here in pairs if there != here]
