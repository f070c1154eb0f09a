"""A target without a runtime: deterministic, dependency-free, for tests of everything around targets.

Its model file is JSON that lists the tensors; its session answers each output with an affine function of
the sum of the inputs, so that a changed byte, a changed input or a changed scale shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from optim import model as onnx_file
from optim.contract import Feeds, Outputs, TensorSpec
from optim.errors import MissingRuntimeError, UserError
from targets.contract import Artefact, Availability
from targets.validate_feeds import validate_feeds


@dataclass
class FakeSession:
    """Answers output k, element i, with ``scale · (sum of all inputs + k + i)``."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scale: float = 1.0
    closed: bool = False

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs keyed by name; unknown dimensions count as 1.

        Raises:
            UserError: an input is missing, unknown, or of another type or shape.
        """
        if self.closed:
            raise UserError("the session is closed")
        validate_feeds(self.inputs, feeds)
        total = sum(float(np.sum(array, dtype=np.float64)) for array in feeds.values())
        return {spec.name: self._output(k, spec, total) for k, spec in enumerate(self.outputs)}

    def _output(self, k: int, spec: TensorSpec, total: float) -> np.ndarray:
        shape = tuple(d if isinstance(d, int) else 1 for d in spec.shape)
        count = int(np.prod(shape))
        return (
            (self.scale * (total + k + np.arange(count, dtype=np.float64))).reshape(shape).astype(spec.dtype)
        )

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Fake:
    """The null target. ``runtime=False`` plays a machine that lacks its runtime."""

    runtime: bool = True
    scale: float = 1.0
    refusals: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return "fake"

    @property
    def summary(self) -> str:
        return "deterministic null runtime for tests"

    def available(self) -> Availability:
        if self.runtime:
            return Availability(available=True, detail="always here")
        return Availability(available=False, detail="told to be absent", needs="nothing can bring it")

    def unsupported(self, model: Path) -> tuple[str, ...]:  # noqa: ARG002 - the contract's signature
        return self.refusals

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        inputs, outputs = onnx_file.signature(onnx_file.load(model))
        body = {
            "inputs": [[s.name, s.dtype, list(s.shape)] for s in inputs],
            "outputs": [[s.name, s.dtype, list(s.shape)] for s in outputs],
        }
        (out / "model.fake.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        return Artefact(files=("model.fake.json",), options=dict(options))

    def open(self, folder: Path, artefact: Artefact) -> FakeSession:
        if not self.runtime:
            raise MissingRuntimeError("the fake runtime is told to be absent")
        body = json.loads((folder / artefact.files[0]).read_text(encoding="utf-8"))
        inputs, outputs = (
            tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in body[side])
            for side in ("inputs", "outputs")
        )
        return FakeSession(inputs, outputs, self.scale)
