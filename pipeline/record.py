"""What all records share: frozen, nothing extra, and floats that strict JSON can hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


def _float_in(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _float_out(value: float) -> float | str:
    """Strict JSON has no Infinity: an exact match's SNR is written as the string "inf"."""
    return value if value - value == 0 else str(value)


Real = Annotated[float, BeforeValidator(_float_in), PlainSerializer(_float_out, when_used="json")]


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")
