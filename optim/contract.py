"""What a graph pass is, and what it reports.

A pass rewrites an ``onnx_ir`` model in place, site by site. A *site* is one place where its pattern
matched, named after the value whose producer it replaces, so that a single site can be forbidden and the
rest kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # loading it takes half a second
    import onnx_ir as ir

Array: TypeAlias = np.ndarray  # any dtype, any rank
Feeds: TypeAlias = Mapping[str, Array]
Outputs: TypeAlias = dict[str, Array]


class Numerics(StrEnum):
    """What a rewrite may do to the numbers."""

    EXACT = "exact"  # bit-equal outputs
    REASSOCIATES = "reassociates"  # same real-number function, rounding may differ
    LOSSY = "lossy"  # another function within a declared bound


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of one model input or output.

    A dimension is an int, a symbolic name, or None where nothing is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class PassInfo:
    """What a pass declares about itself."""

    name: str
    numerics: Numerics
    summary: str
    bound: float | None = None  # max|Δ| / scale it may reach; None: the default of its numerics


@dataclass(frozen=True)
class Refusal:
    """A site that looked like the pattern and was left alone, and why."""

    site: str
    reason: str


@dataclass(frozen=True)
class Rollback:
    """A rewrite that was undone because its certificate failed."""

    site: str
    measured: float  # max|Δ| / range
    bound: float
    feed: str  # which probe input showed it


@dataclass(frozen=True)
class Certificate:
    """Outputs after a pass against outputs before it, under an oracle that does not optimise."""

    feeds: tuple[str, ...]  # probe names, e.g. "zeros/batch=1"
    max_abs_over_range: float
    snr_db: float
    bound: float
    passed: bool


@dataclass(frozen=True)
class PassOutcome:
    """What one application of a pass did."""

    sites: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def modified(self) -> bool:
        """Whether the graph was changed."""
        return bool(self.sites)


@dataclass(frozen=True)
class PassRecord:
    """One line of the ledger."""

    name: str
    numerics: Numerics
    sites: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    rolled_back: tuple[Rollback, ...]
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    certificate: Certificate | None
    seconds: float
    certificate_seconds: float
    why: str = ""  # the recipe's reason for this line


SiteFilter: TypeAlias = Callable[[str], bool]


def every_site(_site: str) -> bool:
    """The filter that allows all sites."""
    return True


@runtime_checkable
class Pass(Protocol):
    """One rewrite. Implementations are frozen dataclasses whose fields are their options."""

    @property
    def info(self) -> PassInfo:
        """Name, declared numerics, one-line summary."""
        ...

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        """Rewrite every allowed site of ``model`` in place; a second call must change nothing."""
        ...


class Oracle(Protocol):
    """Runs a model without optimising it. Supplied from outside: ``optim`` knows no runtime.

    An oracle may also offer ``prepare(model) -> Callable[[Feeds], Outputs]``: then a model that is run on
    several inputs is loaded once. And ``truth(model) -> Callable[[Feeds], Outputs]``, which computes in
    float64: then a rewrite whose rounding differs by more than usual is judged by its distance from that.
    """

    def __call__(self, model: ir.Model, feeds: Feeds) -> Outputs:
        """Outputs of ``model`` for ``feeds``, keyed by graph output name."""
        ...


@dataclass(frozen=True)
class Ledger:
    """What a whole recipe did."""

    recipe: str
    records: tuple[PassRecord, ...] = field(default=())
    nodes_before: int = 0
    nodes_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    seconds: float = 0.0
    overall: Certificate | None = None  # the last graph against the first; passed: within the sum of bounds
    skipped_feeds: tuple[str, ...] = ()  # probes that the model itself could not run, with the reason
