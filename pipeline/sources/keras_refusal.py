"""The error for a stored layer that cannot be rebuilt."""

from __future__ import annotations

from optim.errors import UnsupportedModelError


def lost_layer(kind: str, name: str, what: str, hint: str = "") -> UnsupportedModelError:
    """``what`` keeps layer ``name`` of class ``kind`` from being rebuilt."""
    return UnsupportedModelError(
        f"layer '{name}': {what}",
        where=name,
        op=kind,
        node=name,
        layer=name,
        hint=hint or "save the model as a SavedModel with the framework it was made with, and convert that",
    )
