"""Figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pipeline.report import format_values as fmt
from targets.readable_time import readable_time

CASES: list[tuple[Callable[..., str], object, str]] = [
    (fmt.scientific, 1.5e-7, "1.5e-07"),
    (fmt.scientific, 0.0, "0"),
    (fmt.scientific, math.inf, "∞"),
    (fmt.scientific, math.nan, "NaN"),
    (fmt.scientific, None, "–"),
    (fmt.decibel, 132.46, "132.5 dB"),
    (fmt.decibel, math.inf, "∞ (equal)"),
    (fmt.decibel, -math.inf, "-∞"),
    (fmt.milliseconds, 0.1184, "0.118 ms"),
    (fmt.milliseconds, 12.345, "12.3 ms"),
    (fmt.milliseconds, 1234.5, "1,234 ms"),
    (fmt.milliseconds, 0.0, "0 ms"),
    (fmt.seconds, 0.123, "0.12 s"),
    (fmt.seconds, 41.75, "41.8 s"),
    (fmt.seconds, 125.2, "2 min 05 s"),
    (fmt.seconds, 0.0042, "4 ms"),
    (fmt.seconds, 0.0, "< 1 ms"),
    (fmt.digits, -16.18564842035217, "-16.1856484"),
    (fmt.digits, 0.1, "0.1"),
    (fmt.digits, math.nan, "NaN"),
    (
        fmt.unbroken,
        "on 100.00 % of 450, 12 dB, 3 ms, 2 models",
        "on 100.00\u00a0% of 450, 12\u00a0dB, 3\u00a0ms, 2 models",
    ),
    (readable_time, "2026-11-21T19:40:59+00:00", "2026-11-21 19:40 UTC"),
    (readable_time, "2026-11-21T19:40:59+02:00", "2026-11-21 17:40 UTC"),
    (readable_time, "2026-11-21T19:40:59", "2026-11-21 19:40"),
    (readable_time, "yesterday", "yesterday"),
    (fmt.count, 1234567, "1,234,567"),
    (fmt.size, 512, "512 B"),
    (fmt.size, 84_001, "82.0 KiB"),
    (fmt.size, 3 * 2**30, "3.00 GiB"),
    (fmt.percent, 0.98889, "98.89 %"),
    (fmt.shape, (None, 28, "C"), "? × 28 × C"),
    (fmt.shape, (), "scalar"),
    (fmt.speed_up, 0.0621, "16.1× faster"),
    (fmt.speed_up, 1.3, "1.30× slower"),
    (fmt.speed_up, 0.0, "–"),
]


@pytest.mark.parametrize(("form", "value", "text"), CASES)
def test_table(form: Callable[..., str], value: object, text: str) -> None:
    assert form(value) == text


def test_datum_keeps_every_digit_and_escapes() -> None:
    assert fmt.datum("0.1", 0.1 + 0.2) == '<data value="0.30000000000000004">0.1</data>'
    assert fmt.datum("<b>", '"') == '<data value="&#34;">&lt;b&gt;</data>'
