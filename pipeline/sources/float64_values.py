"""What a source means in float64, computed by its own framework, where the framework can."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from optim.contract import Feeds, Outputs


@runtime_checkable
class RunsInFloat64(Protocol):
    """A session that can also evaluate its model in float64."""

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs by name, the floating-point ones in float64.

        Raises:
            UnsupportedModelError: the framework cannot; says which operator, or why not.
        """
        ...
