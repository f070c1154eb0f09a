"""Figures as people read them. In HTML each stands in a ``<data value="…">`` that keeps every digit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

MISSING = "–"


def scientific(value: float | None) -> str:
    """``1.5e-07``; an exact zero is ``0``."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return _not_finite(value)
    return "0" if value == 0 else f"{value:.3g}"


def decibel(value: float | None) -> str:
    """``132.5 dB``; an infinite ratio means that not one bit differs."""
    if value is None:
        return MISSING
    if value == math.inf:
        return "∞ (equal)"
    return f"{value:.1f} dB" if math.isfinite(value) else _not_finite(value)


def milliseconds(value: float | None) -> str:
    """Three significant digits: ``0.118 ms``, ``12.3 ms``, ``1,234 ms``."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return _not_finite(value)
    return f"{significant(value)} ms"


def seconds(value: float | None) -> str:
    """``4 ms``, ``0.75 s``, ``3.3 s``, ``41.8 s``, ``2 min 05 s``."""
    if value is None:
        return MISSING
    if value < 0.1:
        return f"{1000 * value:.0f} ms" if value >= 1e-3 else "< 1 ms"
    if value >= 120:
        whole = round(value)
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def significant(value: float, digits: int = 3) -> str:
    """``value`` to so many significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else _not_finite(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def count(value: int | None) -> str:
    """``1,234,567``."""
    return MISSING if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """Bytes in binary units: ``82.0 KiB``."""
    if value is None:
        return MISSING
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"


def percent(value: float | None) -> str:
    """A share as ``98.89 %``."""
    return MISSING if value is None else f"{100 * value:.2f} %"


def shape(value: Sequence[int | str | None]) -> str:
    """``? × 28 × 28 × 1``; a scalar is ``scalar``."""
    return " × ".join("?" if d is None else str(d) for d in value) or "scalar"


def speed_up(ratio: float) -> str:
    """A latency ratio b/a as ``16.1× faster`` or ``1.3× slower``."""
    if ratio <= 0 or not math.isfinite(ratio):
        return MISSING
    return f"{significant(1 / ratio)}× faster" if ratio < 1 else f"{significant(ratio)}× slower"


def datum(text: str, value: object) -> Markup:
    """``text`` in a ``<data>`` element whose attribute holds ``value`` with every digit."""
    return Markup('<data value="{}">{}</data>').format(_exact(value), text)


def _exact(value: object) -> str:
    return repr(value) if isinstance(value, float) else "" if value is None else str(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"


def digits(value: float) -> str:
    """Nine significant digits, which tell any two float32 values apart."""
    return f"{value:.9g}" if math.isfinite(value) else _not_finite(value)


def unbroken(text: str) -> str:
    """``text`` with no line break between a figure and its unit."""
    return re.sub(r"(?<=\d) (?=%|dB\b|ms\b|s\b|[KMG]iB\b)", "\u00a0", text)


def moment(value: float) -> str:
    """A mean or variance with two decimals, as the MNIST system prints it, and enough digits where that says
    nothing: ``-82.80``, ``0.0031``.
    """
    return f"{value:.2f}" if abs(value) >= 0.095 or value == 0 else f"{value:.2g}"


def breakable(name: str) -> Markup:
    """A tensor's or node's name, escaped, that a narrow column may break behind its slashes."""
    return Markup("/<wbr>").join(escape(part) for part in name.split("/"))
