"""Command-line words to typed values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from optim.contract import Array
from optim.errors import UserError
from pipeline.feeds import refuse_nonfinite
from pipeline.sources.contract import ConvertRequest, EdgeLayout

Io = tuple[dict[str, Array], dict[str, Array]]
"""(inputs, expected outputs), each by tensor name."""

_Settings = TypeVar("_Settings", bound=BaseModel)

# One input: a name (scopes, ports and dots allowed) with an optional shape.
_INPUT = re.compile(r"\s*(?P<name>[^\[\],\s]+)\s*(?:\[(?P<shape>[^\[\]]*)\])?\s*(?:,|$)")


def convert_request(
    model: str,
    *,
    inputs: str | None = None,
    outputs: str | None = None,
    freeze: Sequence[str] = (),
    opset: int = 18,
    edge_layout: str = "source",
    graph_factory: str | None = None,
    allow_custom_code: bool = False,
    memory_limit_mib: int | None = None,
    time_limit_s: float | None = None,
) -> ConvertRequest:
    """A conversion as the command line states it.

    Raises:
        UserError: a word cannot be read.
    """
    if edge_layout not in tuple(EdgeLayout):
        raise UserError(f"--edge-layout {edge_layout} is unknown", expected=", ".join(EdgeLayout))
    return ConvertRequest(
        model=model,
        inputs=parse_inputs(inputs or ""),
        outputs=tuple(name.strip() for name in (outputs or "").split(",") if name.strip()),
        freeze={name: _number(name, value) for name, value in key_values(freeze).items()},
        opset=opset,
        edge_layout=EdgeLayout(edge_layout),
        graph_factory=graph_factory,
        allow_custom_code=allow_custom_code,
        memory_limit_mib=memory_limit_mib,
        time_limit_s=time_limit_s,
    )


def settings_from_options(kind: type[_Settings], **values: object) -> _Settings:
    """A part of a config, with each value given by the option of its name.

    Raises:
        UserError: a value is out of bounds; names the option.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-") if first["loc"] else kind.__name__
        raise UserError(f"--{option}: {first['msg']} (got {first['input']!r})") from error


def parse_inputs(text: str) -> dict[str, tuple[int, ...] | None]:
    """``'a:0[1,224,224,3],b'`` to ``{'a:0': (1, 224, 224, 3), 'b': None}``; ``?`` or -1: free.

    Raises:
        UserError: the text is not of that form.
    """
    found: dict[str, tuple[int, ...] | None] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _INPUT.match(text, position)
        if match is None:
            raise UserError(
                f"--inputs cannot be read from {text[position:]!r}",
                expected="'name[1,224,224,3],other[1,10]'",
            )
        shape = match["shape"]
        found[match["name"]] = (
            None if shape is None else tuple(_dimension(one, text) for one in _split(shape))
        )
        position = match.end()
    return found


def key_values(words: Sequence[str]) -> dict[str, str | int | float | bool]:
    """``['a=1', 'b=true']`` to ``{'a': 1, 'b': True}``; values are YAML scalars.

    Raises:
        UserError: a word has no ``=`` or its value is not a scalar.
    """
    found: dict[str, str | int | float | bool] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator or not name.strip():
            raise UserError(f"{word!r} is not of the form NAME=VALUE")
        try:
            value = YAML(typ="safe").load(text)
        except YAMLError:
            value = text
        if not isinstance(value, (str, int, float, bool)):
            raise UserError(
                f"{name}: {text!r} is not a plain value", expected="a number, true, false or a word"
            )
        found[name.strip()] = value
    return found


def read_io(path: Path) -> Io:
    """Inputs and expected outputs from an ``.npz`` with keys ``in|NAME`` and ``out|NAME``.

    Keys without a prefix are inputs.

    Raises:
        UserError: the file is missing, damaged, holds Python objects, no arrays, or an input that is not
        finite.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError("data file does not exist", where=str(path)) from None
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise UserError(f"not a readable .npz of plain arrays: {error}", where=str(path)) from error
    inputs = {
        name.removeprefix("in|"): value for name, value in arrays.items() if not name.startswith("out|")
    }
    outputs = {name.removeprefix("out|"): value for name, value in arrays.items() if name.startswith("out|")}
    if not inputs:
        raise UserError("holds no inputs", where=str(path), expected="arrays with keys in|NAME")
    for name, array in inputs.items():
        refuse_nonfinite(array, name, where=str(path))
    return inputs, outputs


def _split(shape: str) -> list[str]:
    return [one.strip() for one in shape.split(",") if one.strip()]


def _dimension(text: str, whole: str) -> int:
    if text in ("?", "None"):
        return -1
    try:
        value = int(text)
    except ValueError:
        value = -2
    if value < -1 or value == 0:
        raise UserError(
            f"--inputs {whole!r}: {text!r} is not a dimension",
            expected="a positive number, or -1 or ? for free",
        )
    return value


def _number(name: str, value: str | float | bool) -> float | int | bool:
    if isinstance(value, str):
        raise UserError(f"--freeze {name}={value}: not a number, true or false")
    return value
