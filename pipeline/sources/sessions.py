"""The source model as a session: in its own framework, in this process or behind a child."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from optim.contract import Feeds, Outputs, TensorSpec
from pipeline.sources.catalog import source_of
from pipeline.sources.child import Child, ChildLimits
from pipeline.sources.contract import ConvertRequest, Progress
from pipeline.sources.detect import detect
from targets.contract import Session

_OPEN = "pipeline.sources.sessions:_open_here"
_RUN = "pipeline.sources.sessions:_run_here"


def open_native(request: ConvertRequest) -> Session:
    """Load the model in its own framework, in this process (which must be a child: it imports the framework).

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: as when it is converted.
    """
    return source_of(detect(request.model)).open(request)


def open_source(request: ConvertRequest) -> Session:
    """Load the model in its own framework, in a child process.

    Raises:
        UserError, UnsupportedModelError, MissingRuntimeError: as when it is converted.
    """
    return RemoteSession(request)


class RemoteSession:
    """A session whose framework lives in a child process."""

    def __init__(self, request: ConvertRequest) -> None:
        self._child = Child(ChildLimits(request.memory_limit_mib, request.time_limit_s))
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

    def close(self) -> None:
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


_here: list[Session] = []  # the child's one session


def _open_here(
    request: ConvertRequest, _progress: Progress
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    session = open_native(request)
    _here[:] = [session]
    return session.inputs, session.outputs


def _run_here(feeds: Feeds, _progress: Progress) -> Outputs:
    return _here[0].run(feeds)
