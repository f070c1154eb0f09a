"""Fixtures of the source tests."""

from __future__ import annotations

from tests.sources.tf_worker import tf

__all__ = ["tf"]
