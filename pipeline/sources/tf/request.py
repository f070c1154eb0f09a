"""What the user's request says about shapes, applied to what the model says."""

from __future__ import annotations

from collections.abc import Sequence

from optim.errors import UserError
from pipeline.sources.contract import ConvertRequest

Dims = tuple[int | None, ...]


def shaped(name: str, shape: Dims | None, request: ConvertRequest) -> Dims:
    """The shape of input ``name``: the user's where given, else the model's.

    Raises:
        UserError: neither says the rank, with the line to add; or they contradict each other.
    """
    given = asked(name, request)
    if given is None:
        if shape is None:
            raise needs_shape(name)
        return shape
    wanted = tuple(None if dim < 0 else dim for dim in given)
    if shape is not None and not _agree(wanted, shape):
        raise UserError(
            f"input '{name}' has shape {_text(shape)} in the model, not {_text(wanted)}",
            hint=f"--inputs '{name}{_text(shape)}', with numbers for -1",
        )
    if shape is None:
        return wanted
    return tuple(mine if mine is not None else theirs for mine, theirs in zip(wanted, shape, strict=True))


def asked(name: str, request: ConvertRequest) -> tuple[int, ...] | None:
    """The shape that the request gives ``name``, with or without its output index."""
    for key in (name, name.removesuffix(":0"), f"{name}:0"):
        if request.inputs.get(key) is not None:
            return request.inputs[key]
    return None


def needs_shape(name: str, shape: Dims | None = None) -> UserError:
    """The error for an input whose shape nobody says, with the line to add."""
    line = f"{name}{_text(shape)}" if shape is not None else f"{name}[1,224,224,3]"
    return UserError(
        f"input '{name}' has no shape in the model",
        expected="its shape, since the conversion depends on it",
        hint=f"add --inputs '{line}' with your numbers, or model.inputs in the config",
    )


def _agree(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ",".join("-1" if dim is None else str(dim) for dim in shape) + "]"
