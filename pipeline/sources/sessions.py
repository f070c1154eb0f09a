"""The source model as a session: in its own framework, in this process or behind a child."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Self

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import UnsupportedModelError
from pipeline.sources.catalog import source_for
from pipeline.sources.child import Child, ChildLimits
from pipeline.sources.contract import AnyLayer, ConvertRequest, Progress, Source
from pipeline.sources.detect import detect
from pipeline.sources.float64_values import RunsInFloat64
from pipeline.sources.layer_values import ShowsLayers
from pipeline.sources.warm_child import WarmChild
from targets.contract import Session

_OPEN = "pipeline.sources.sessions:_open_here"
_RUN = "pipeline.sources.sessions:_run_here"
_FLOAT64 = "pipeline.sources.sessions:_float64_here"
_LAYERS = "pipeline.sources.sessions:_layers_here"


def open_native(request: ConvertRequest) -> Session:
    """Load the model in its own framework, in this process (which must be a child: it imports the framework).

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: as when it is converted.
    """
    return source_for(request, detect(request.model)).open(request)


def open_source(request: ConvertRequest, *, warm: WarmChild | None = None) -> Session:
    """Load the model in its own framework, in a child process: the one that converted it, if ``warm`` has it.

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: as when it is converted.
    """
    child = None if warm is None else warm.take(request)
    return RemoteSession(request, child)


class RemoteSession:
    """A session whose framework lives in a child process, which ends with it."""

    def __init__(self, request: ConvertRequest, child: Child | None = None) -> None:
        self._memory_limit_mib = request.memory_limit_mib
        self._child = child or Child(ChildLimits(request.memory_limit_mib, request.time_limit_s))
        try:
            self._inputs, self._outputs = self._child.call(_OPEN, request).value
        except BaseException:
            self._child.close()
            raise

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        inputs: tuple[TensorSpec, ...] = self._inputs
        return inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        outputs: tuple[TensorSpec, ...] = self._outputs
        return outputs

    def run(self, feeds: Feeds) -> Outputs:
        outputs: Outputs = self._child.call(_RUN, dict(feeds)).value
        return outputs

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs in float64; raises UnsupportedModelError where that cannot be, or memory is limited."""
        if self._memory_limit_mib is not None:  # the child would not survive going beyond it
            raise UnsupportedModelError("memory is limited, and a copy in float64 takes twice the weights")
        outputs: Outputs = self._child.call(_FLOAT64, dict(feeds)).value
        return outputs

    def layer_values(self, feeds: Feeds, layers: Collection[AnyLayer]) -> dict[str, Array]:
        """Values of inner layers by name; empty where the framework does not show them."""
        values: dict[str, Array] = self._child.call(_LAYERS, dict(feeds), tuple(layers)).value
        return values

    def close(self) -> None:
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


_here: list[Session] = []  # the child's one session
_loaded: list[tuple[str, Source]] = []  # the child's one source, with its model in memory


def keep_source(model: str, source: Source) -> None:
    """Leave a source that has ``model`` in memory to the next session in this process."""
    _loaded[:] = [(model, source)]


def _open_here(
    request: ConvertRequest, _progress: Progress
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    known = [source for model, source in _loaded if model == request.model]
    session = known[0].open(request) if known else open_native(request)
    _here[:] = [session]
    return session.inputs, session.outputs


def _run_here(feeds: Feeds, _progress: Progress) -> Outputs:
    return _here[0].run(feeds)


def _float64_here(feeds: Feeds, _progress: Progress) -> Outputs:
    session = _here[0]
    if not isinstance(session, RunsInFloat64):
        raise UnsupportedModelError("the runtime of this format computes in float32 only")
    return session.run_float64(feeds)


def _layers_here(feeds: Feeds, layers: tuple[AnyLayer, ...], _progress: Progress) -> dict[str, Array]:
    session = _here[0]
    return session.layer_values(feeds, layers) if isinstance(session, ShowsLayers) else {}
