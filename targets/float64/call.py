"""One operator call as the kernels see it: inputs, attributes, opset and array module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from targets.float64.windows import Array, Module


class NotCoveredError(Exception):
    """A kernel meets a variant it does not handle; the reference implementation takes over."""


@dataclass(frozen=True)
class Call:
    """Arguments of one node. A missing optional input is None; float tensors are float64."""

    xp: Module
    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, Any]  # as onnx_ir holds them; tensors already as arrays
    opset: int
    output_count: int

    def optional(self, index: int) -> Array | None:
        """Input ``index``, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor(self, index: int) -> Array:
        """Input ``index`` on the call's device."""
        value = self.optional(index)
        if value is None:
            raise NotCoveredError(f"input {index} is missing")
        return self.xp.asarray(value)

    def tensors(self) -> list[Array]:
        """All inputs on the call's device."""
        return [self.tensor(i) for i in range(len(self.inputs))]

    def host(self, index: int) -> np.ndarray | None:
        """Input ``index`` as a NumPy array: shapes, axes and the like."""
        value = self.optional(index)
        return None if value is None else to_host(value)

    def host_ints(self, index: int) -> tuple[int, ...] | None:
        """Input ``index`` as integers, or None where it is left out."""
        value = self.host(index)
        return None if value is None else tuple(int(v) for v in np.atleast_1d(value))

    def number(self, name: str, default: float) -> float:
        """A float attribute, rounded to float32 as ONNX stores it (and runtimes do with defaults)."""
        return float(np.float32(self.attributes.get(name, default)))

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes.get(name, default))

    def integers(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        return tuple(int(v) for v in self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        return str(self.attributes.get(name, default))


Kernel: TypeAlias = Callable[[Call], tuple[Array, ...]]


def to_host(value: Array) -> np.ndarray:
    """A NumPy array of a NumPy or CuPy array."""
    return value.get() if hasattr(value, "get") else np.asarray(value)
