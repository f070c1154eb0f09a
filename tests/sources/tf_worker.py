"""One warm child process with TensorFlow for all tests of TensorFlow sources: importing it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.sources.child import Child
from pipeline.sources.contract import Conversion, ConvertRequest


class Worker:
    """Builds models and converts them in one child."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def build(self, name: str, path: Path) -> Path:
        """Write the model that ``tests.sources.tf_models`` knows as ``name``."""
        self._child.call("tests.sources.tf_models:build", name, path)
        return path

    def convert(self, request: ConvertRequest, out: Path) -> Conversion:
        """``convert`` without a process of its own."""
        done: Conversion = self._child.call("pipeline.sources.conversion:convert_here", request, out).value
        return done

    def call(self, target: str, *arguments: object) -> object:
        """``module:function(*arguments)`` in the child."""
        return self._child.call(target, *arguments).value

    def ask(self, function: str, *arguments: object) -> object:
        """``function`` of ``tests.sources.tf_models``."""
        return self._child.call(f"tests.sources.tf_models:{function}", *arguments).value


@pytest.fixture(scope="session")
def tf() -> Iterator[Worker]:
    """The warm child; skipped where TensorFlow is not installed."""
    from importlib.util import find_spec

    if find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: pip install 'fairlead[tensorflow]'")
    with Child() as child:
        yield Worker(child)
