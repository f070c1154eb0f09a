"""Every error fairlead raises on purpose.

::

    FairleadError
    ├── GateNotMetError         exit 1   a promised bound was measured and missed
    ├── UserError               exit 2   the input is wrong: config, path, shape, label list
    │   └── ConfigError         exit 2   ... in a config file, with its line
    ├── UnsupportedModelError   exit 3   the model holds something that cannot be carried over
    ├── MissingRuntimeError     exit 4   a framework, runtime or device is not on this machine
    └── InternalError           exit 70  our bug

A message says what happened, where, what was expected, and what to try.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class FairleadError(Exception):
    """Base of all deliberate errors.

    Args:
        what: what happened, in one sentence.
        where: file, node or key at fault.
        expected: what would have been right.
        hint: what to try.
    """

    exit_code: ClassVar[int] = 70
    kind: ClassVar[str] = "error"

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        tail = [f"Expected: {self.expected}."] if self.expected else []
        tail += [f"Try: {self.hint}"] if self.hint else []
        return "\n  ".join([head, *tail])

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a process boundary with all fields."""
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(cls: type[FairleadError], fields: dict[str, object]) -> FairleadError:
    error = cls.__new__(cls)
    Exception.__init__(error, fields["what"])
    error.__dict__.update(fields)
    return error


class GateNotMetError(FairleadError):
    """A bound that was promised has been measured and missed."""

    exit_code = 1
    kind = "gate not met"


class UserError(FairleadError):
    """What the user gave is wrong."""

    exit_code = 2
    kind = "input error"


class ConfigError(UserError):
    """A config file is wrong; carries file and line (1-based)."""

    kind = "config error"

    def __init__(
        self,
        what: str,
        *,
        file: Path | None = None,
        line: int | None = None,
        expected: str = "",
        hint: str = "",
    ) -> None:
        place = "" if file is None else str(file) if line is None else f"{file}:{line}"
        super().__init__(what, where=place, expected=expected, hint=hint)
        self.file = file
        self.line = line


class UnsupportedModelError(FairleadError):
    """The model holds something that cannot be carried over."""

    exit_code = 3
    kind = "unsupported model"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        hint: str = "",
        op: str = "",
        node: str = "",
        layer: str = "",
    ) -> None:
        super().__init__(what, where=where or node, expected=expected, hint=hint)
        self.op = op
        self.node = node
        self.layer = layer


class MissingRuntimeError(FairleadError):
    """A framework, runtime or device is not on this machine."""

    exit_code = 4
    kind = "missing runtime"


class InternalError(FairleadError):
    """Our bug."""

    exit_code = 70
    kind = "internal error"
