"""The child of a conversion, kept for the next who opens the source: importing TensorFlow takes seconds.

Only for models whose weights are small. Larger ones are converted in a process that ends before their file is
checked, since two runtimes in one process take more memory than a conversion may (see ``conversion.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from pipeline.sources.child import Child
from pipeline.sources.contract import ConvertRequest

KEPT_WEIGHT_BYTES = 8 << 20


@dataclass(frozen=True)
class _Kept:
    """A child that has converted ``request``'s model."""

    child: Child
    request: ConvertRequest


class WarmChild:
    """At most one child, handed from a conversion to the next session of the same model.

    Whoever takes it closes it; what nobody took ends with this object.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def keep(self, child: Child, request: ConvertRequest) -> None:
        """Keep ``child``, which has converted ``request``'s model, instead of the one kept before."""
        self.close()
        self._kept = _Kept(child, request)

    def take(self, request: ConvertRequest) -> Child | None:
        """The child that has converted the model of ``request``, if it still lives; outputs may differ."""
        kept = self._kept
        if kept is None or _without_outputs(kept.request) != _without_outputs(request):
            return None
        self._kept = None
        if kept.child.alive:
            return kept.child
        kept.child.close()
        return None

    def close(self) -> None:
        """End the child that is kept, if any."""
        if self._kept is not None:
            self._kept.child.close()
            self._kept = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _without_outputs(request: ConvertRequest) -> ConvertRequest:
    return replace(request, outputs=())
