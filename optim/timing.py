"""What it takes to choose a form by its speed: a timer from outside, and a memory of what it said.

``optim`` knows no runtime, so the timer is handed in, as the oracle is. What it measured is kept by host and
site, so that the same graph is optimised alike, and at once, the next time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from optim.contract import Feeds

if TYPE_CHECKING:
    import onnx_ir as ir

logger = logging.getLogger(__name__)

_FORMAT: Final = 1  # of the file; another number is read as an empty one
_LEAST_GAIN: Final = 0.02  # relative; less is not worth a larger graph


@dataclass(frozen=True)
class Timing:
    """Latency of the second model over that of the first: median of paired ratios, and its interval."""

    ratio: float
    low: float
    high: float

    @property
    def faster(self) -> bool:
        """Whether the second is shown to be faster, by enough to be worth it."""
        return self.high < 1.0 and self.ratio <= 1.0 - _LEAST_GAIN

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


class Timer(Protocol):
    """Runs two models in turn and compares them. Supplied from outside: ``optim`` knows no runtime."""

    @property
    def fingerprint(self) -> str:
        """What its figures depend on besides the models: processor, runtime, threads."""
        ...

    def __call__(self, before: ir.Model, after: ir.Model, feeds: Feeds) -> Timing:
        """``after`` against ``before``, both run on ``feeds``."""
        ...


class Stopwatch:
    """A timer that remembers, in memory and, where given a file, from one run to the next.

    Args:
        timer: what measures.
        file: JSON, written whole and put in place at once; damaged or foreign ones are read as empty.
    """

    def __init__(self, timer: Timer, file: Path | None = None) -> None:
        self._timer = timer
        self._file = file
        self._known = {} if file is None else _read(file, timer.fingerprint)

    def compare(self, signature: str, models: Callable[[], tuple[ir.Model, ir.Model, Feeds]]) -> Timing:
        """The timing under ``signature``, measured on ``models()`` unless it is known."""
        if signature not in self._known:
            self._known[signature] = self._timer(*models())
            if self._file is not None and not _write(self._file, self._timer.fingerprint, self._known):
                self._file = None  # said once
        return self._known[signature]


def signature_of(*parts: str) -> str:
    """A short name of a comparison, from what decides about its outcome."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _content(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return dict(stored["hosts"]) if stored["format"] == _FORMAT else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read and is measured anew: %s", file, error)
        return {}


def _read(file: Path, fingerprint: str) -> dict[str, Timing]:
    found: dict[str, Timing] = {}
    for name, figures in _content(file).get(fingerprint, {}).items():
        try:
            found[name] = Timing(*(float(figures[key]) for key in ("ratio", "low", "high")))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def _write(file: Path, fingerprint: str, known: dict[str, Timing]) -> bool:
    """Merge into the file; whether it could be. A reader sees the old content or the new, never a part."""
    hosts = _content(file)
    hosts[fingerprint] = {**hosts.get(fingerprint, {}), **{name: asdict(t) for name, t in known.items()}}
    temporary = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=f".{file.name}.", delete=False, encoding="utf-8"
        ) as stream:
            temporary = stream.name
            json.dump({"format": _FORMAT, "hosts": hosts}, stream, indent=1, sort_keys=True)
        Path(temporary).replace(file)
    except OSError as error:  # a folder that cannot be written costs a measurement next time, no more
        logger.warning("timings cannot be kept in %s: %s", file, error)
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True
