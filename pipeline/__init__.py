"""fairlead: take a trained model to every place it must run, and prove that it is still the same model.

>>> from pipeline import run
>>> record = run("configs/quickstart.yaml")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import targets  # noqa: F401  (first of all: it keeps ONNX Runtime from recording its use)

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.execute import run
    from pipeline.load_config import load_config
    from pipeline.records import RunRecord

__all__ = ["Config", "RunRecord", "load_config", "run"]

_HOMES = {
    "Config": "pipeline.config",
    "RunRecord": "pipeline.records",
    "load_config": "pipeline.load_config",
    "run": "pipeline.execute",
}


def __getattr__(name: str) -> Any:
    """Load the public names when they are asked for: ``fairlead --help`` must not wait for them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
