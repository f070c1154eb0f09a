"""Sources: a trained model in any format a user has, converted to ONNX in a child process and checked."""

from __future__ import annotations

from pipeline.sources.conversion import convert
from pipeline.sources.detect import detect
from pipeline.sources.sessions import open_native, open_source

__all__ = ["convert", "detect", "open_native", "open_source"]
