"""Inputs of a function or Keras model that ``--freeze`` turns into constants, in its own framework too."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Self

import numpy as np

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import AnyLayer, ConvertRequest
from pipeline.sources.float64_values import RunsInFloat64
from pipeline.sources.layer_values import ShowsLayers
from targets.contract import Session


def asked_value(name: str, request: ConvertRequest) -> float | int | bool | None:
    """What the request freezes input ``name`` to, with or without its output index; None: nothing."""
    for key in (name, name.removesuffix(":0"), f"{name}:0"):
        if key in request.freeze:
            return request.freeze[key]
    return None


def filled(spec: TensorSpec, value: float | int | bool) -> Array:
    """An array of the input's shape that holds one number.

    Raises:
        UserError: the input has free dimensions, so that no constant fills it.
    """
    if any(not isinstance(dim, int) for dim in spec.shape):
        shape = ",".join(str(dim) if isinstance(dim, int) else "-1" for dim in spec.shape)
        raise UserError(
            f"input '{spec.name}' has free dimensions [{shape}] and cannot be frozen to one number",
            hint=f"fix them as well: --inputs '{spec.name}[{shape.replace('-1', '1')}]'",
        )
    return np.full([int(dim) for dim in spec.shape if isinstance(dim, int)], value, spec.dtype)


def with_frozen_inputs(session: Session, request: ConvertRequest) -> Session:
    """``session`` without the inputs that the request freezes.

    Raises:
        UserError: one of them has free dimensions.
    """
    values = {one.name: asked_value(one.name, request) for one in session.inputs}
    specs = {one.name: one for one in session.inputs}
    frozen = {name: filled(specs[name], value) for name, value in values.items() if value is not None}
    return FrozenInputsSession(session, frozen) if frozen else session


class FrozenInputsSession:
    """A session some of whose inputs are constants."""

    def __init__(self, session: Session, frozen: Feeds) -> None:
        self._session = session
        self._frozen = dict(frozen)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self._session.inputs if spec.name not in self._frozen)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._session.outputs

    def run(self, feeds: Feeds) -> Outputs:
        return self._session.run({**feeds, **self._frozen})

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs in float64; raises UnsupportedModelError where the framework cannot."""
        if not isinstance(self._session, RunsInFloat64):
            raise UnsupportedModelError("its framework has no float64 run")
        return self._session.run_float64({**feeds, **self._frozen})

    def layer_values(self, feeds: Feeds, layers: Collection[AnyLayer]) -> dict[str, Array]:
        """Values of inner layers by name, where the session inside shows them."""
        if not isinstance(self._session, ShowsLayers):
            return {}
        return self._session.layer_values({**feeds, **self._frozen}, layers)

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
