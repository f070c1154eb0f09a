"""Python values as Wolfram Language text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np


def number(value: float) -> str:
    """A number; a float with as few digits as name the same float32."""
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number of a layer")
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    digits = str(np.float32(value))
    mantissa, _, exponent = digits.partition("e")
    dotted = mantissa if "." in mantissa else f"{mantissa}."
    return dotted if not exponent else f"{dotted}*^{int(exponent)}"


def string(value: str) -> str:
    """A string literal."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def listing(values: Iterable[object]) -> str:
    """{a, b, ...}; nested sequences become nested lists, strings are text as they stand."""
    return "{" + ", ".join(_item(value) for value in values) + "}"


def _item(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return listing(value)
    return value if isinstance(value, str) else number(value)  # type: ignore[arg-type]


def call(head: str, *arguments: str, options: Mapping[str, str] | None = None) -> str:
    """head[a, b, "Option" -> value]."""
    rules = [f"{string(key)} -> {value}" for key, value in (options or {}).items()]
    return f"{head}[{', '.join([*arguments, *rules])}]"
