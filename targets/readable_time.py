"""A moment as people read it."""

from __future__ import annotations

from datetime import UTC, datetime


def readable_time(iso: str) -> str:
    """An ISO 8601 time as ``2026-11-21 19:40 UTC``; what is no such time stays as it is.

    A time that names no zone is shown without one.
    """
    try:
        told = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if told.tzinfo is None:
        return f"{told:%Y-%m-%d %H:%M}"
    return f"{told.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
