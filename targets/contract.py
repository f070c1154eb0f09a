"""What a target is: a place where a model runs, how an artefact for it is built, and how it is run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from optim.contract import Feeds, Outputs, TensorSpec


class State(StrEnum):
    """How far an artefact is proved."""

    VERIFIED = "verified"  # loaded again by a runtime and compared with the references
    PRODUCED = "produced, not executed"  # no runtime for it, or for all of it, on this machine
    UNSUPPORTED = "unsupported"  # the model holds something the target cannot express
    FAILED = "failed"  # built, but wrong or not loadable


class Session(Protocol):
    """A loaded model that can be run. Used for artefacts and for source frameworks alike."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs keyed by name; raises UserError when feeds do not fit the inputs."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Availability:
    """Whether a target's runtime works here, found by making a session, not by reading a list."""

    available: bool
    detail: str  # version, or why not
    needs: str = ""  # the extra or system package that brings it


@dataclass(frozen=True)
class Redistributed:
    """Someone else's work inside a bundle: what the SBOM lists and whose licence travels along."""

    name: str
    version: str
    licence: str  # SPDX expression
    files: tuple[str, ...]  # relative to the bundle's folder; part of the artefact's files
    purl: str  # package URL, https://github.com/package-url/purl-spec
    text: str = ""  # copyright notice and licence as the licence asks for them


@dataclass(frozen=True)
class Artefact:
    """Files that a target's build wrote, relative to the bundle's folder; the first is the model itself."""

    files: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)  # package → version to run it
    redistributed: tuple[Redistributed, ...] = ()


class Target(Protocol):
    """One module a target; one line in ``targets/catalog.py``."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    def available(self) -> Availability: ...

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """Reasons why ``model`` (ONNX) cannot go there, each naming the node; empty when it can."""
        ...

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write the artefact into the existing folder ``out``.

        For a bundle, ``preprocess.json``, ``references/*.npz`` and, where the model has named classes,
        ``labels.txt`` already stand in ``out``, for targets that make use of them; a build by itself has to
        do without. See ``targets/bundle_context.py``.
        """
        ...

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """Load the artefact again; raises MissingRuntimeError where no runtime is on this machine."""
        ...
