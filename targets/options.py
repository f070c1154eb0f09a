"""A target's options: checked against its schema at the border, refused with the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from optim.errors import UserError


class TargetOptions(BaseModel):
    """Base of the option records; unknown keys are refused, types are not coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


OptionsT = TypeVar("OptionsT", bound=TargetOptions)


def parse_options(schema: type[OptionsT], target: str, options: Mapping[str, object]) -> OptionsT:
    """``options`` as a ``schema`` record.

    Raises:
        UserError: an unknown key (with the nearest known one) or a value of the wrong type or size.
    """
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = list(schema.model_fields)
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(
                f"target {target} has no option {key!r}",
                where=f"targets.{target}.options",
                expected="one of " + ", ".join(known) if known else "no options",
                hint=f"did you mean {near[0]!r}?" if near else "remove it",
            ) from error
        raise UserError(
            f"{first['msg']} (given {first['input']!r})", where=f"targets.{target}.options.{key}"
        ) from error
