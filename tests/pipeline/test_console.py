"""What the terminal says at the end of a run about a difference that passes beyond the gate."""

from __future__ import annotations

import pytest

from pipeline.console import _judged_by
from pipeline.records import ComparisonRecord, Metrics, ParityRecord
from pipeline.tables import console


def _comparison(
    feed: str, distance: float, *, passed: bool, errors: tuple[float, float] | None
) -> ComparisonRecord:
    source_error, own = errors or (None, None)
    return ComparisonRecord(
        question="source_vs_converted",
        a="source",
        b="converted",
        feed=feed,
        output="y",
        metrics=Metrics(
            max_abs=distance,
            max_abs_over_range=distance,
            rms=distance,
            snr_db=90.0,
            cosine=1.0,
            median_ulp=1.0,
            max_relative_clipped=distance,
            nan_count=0,
            inf_count=0,
            elements=10,
        ),
        source_error=source_error,
        b_error=own,
        passed=passed,
    )


def _parity(*comparisons: ComparisonRecord) -> ParityRecord:
    return ParityRecord(
        status="ok",
        passed=True,
        gate={"max_abs_over_range": 2e-5, "snr_db": 90.0},
        comparisons=comparisons,
        accuracy=(),
        metrics=comparisons[0].metrics,
        first_divergence=None,
        runtime_settings={},
        notices=(),
        reasons=(),
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (_comparison("zeros", 1e-6, passed=True, errors=(1e-7, 1e-7)), ""),
        (_comparison("random", 5e-5, passed=False, errors=None), ""),
        (
            _comparison("x 1e4", 5.8e-5, passed=True, errors=(4.7e-5, 3.7e-5)),
            "x 1e4, a made-up extreme, asks for more digits than float32 has: judged by the distance from "
            "float64, source 4.7e-05, converted 3.7e-05",
        ),
    ],
)
def test_a_difference_beyond_the_gate_says_why_it_passes(comparison: ComparisonRecord, said: str) -> None:
    usual = _comparison("zeros", 1e-7, passed=True, errors=(1e-7, 1e-7))
    parity = _parity(usual, comparison)
    assert _judged_by(parity, "source_vs_converted") == said
    assert _judged_by(parity, "before_vs_after") == ""


def test_a_long_sentence_in_a_pipe_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = "a folder/" * 40
    console().print(path)
    assert capsys.readouterr().out == path + "\n"
