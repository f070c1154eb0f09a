"""Sources: a trained model in any format a user has, converted to ONNX in a child process and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.sources.conversion import convert
    from pipeline.sources.sessions import open_native, open_source

__all__ = ["convert", "open_native", "open_source"]

_HOMES = {
    "convert": "pipeline.sources.conversion",
    "open_native": "pipeline.sources.sessions",
    "open_source": "pipeline.sources.sessions",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are asked for: a benchmark's child must not wait for them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
