"""Bring an ONNX graph from an old opset to a newer one without changing its numbers."""

from pipeline.sources.onnx_upgrade.upgrade import Upgraded, upgrade

__all__ = ["Upgraded", "upgrade"]
