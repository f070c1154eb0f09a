"""Frameworks imported without what they load on the side: memory that a conversion would hold for nothing.

TensorFlow loads all of Keras at the end of its import, for whoever may use it ("an eager load for Keras'
code", ``tensorflow/__init__.py``), and Keras loads scikit-learn, SciPy, Matplotlib, OpenCV and pandas where
they are installed, for wrappers and plots. Together they are a fifth of the memory and a third of the seconds
of ``import tensorflow``. Both are written to do without: what is left out here they take as not installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pipeline.sources.contract import SourceFormat

# What Keras imports inside `try: ... except ImportError`, and a model's inference never needs.
_SIDE_PACKAGES = ("cv2", "jax", "matplotlib", "pandas", "PIL", "scipy", "sklearn", "torch")
# TensorFlow imports this module, and with it all of Keras, where it can; `tf.keras` loads Keras when asked.
_EAGER_KERAS = "keras.src.optimizers"

_FRAMEWORKS: dict[SourceFormat, tuple[str, ...]] = {
    SourceFormat.KERAS: ("tensorflow", "keras"),
    SourceFormat.KERAS_H5: ("tensorflow", "keras"),
    SourceFormat.SAVED_MODEL: ("tensorflow",),
    SourceFormat.TF1_CHECKPOINT: ("tensorflow",),
    SourceFormat.FROZEN_GRAPH: ("tensorflow",),
    SourceFormat.TFLITE: ("tensorflow",),
}


def import_framework(source_format: SourceFormat, *, for_custom_code: bool) -> None:
    """Import what models of ``source_format`` need, and no more.

    Args:
        source_format: whose framework; formats that are not listed import theirs themselves.
        for_custom_code: the user's own code will run, and may want anything: nothing is left out.

    Raises:
        ImportError: the framework is not installed, or broken.
    """
    side = () if for_custom_code else _SIDE_PACKAGES
    eager = () if for_custom_code else (_EAGER_KERAS,)
    names = _FRAMEWORKS.get(source_format, ())
    with without((*side, *eager)):
        for name in names[:1]:
            importlib.import_module(name)
    with without(side):
        for name in names[1:]:
            importlib.import_module(name)


@contextmanager
def without(names: Iterable[str]) -> Iterator[None]:
    """While active, the modules ``names`` seem not to be installed, unless they are loaded already."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # "import of ... halted": the import system's own
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
