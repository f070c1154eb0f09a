"""Ctrl-C that cannot get lost: Python drops an interrupt that happens to be raised in a finaliser."""

from __future__ import annotations

import signal
from types import FrameType


class _Seen:
    """Whether the user has interrupted this process."""

    interrupted = False


def remember_interrupts() -> None:
    """From now on an interrupt is remembered, besides being raised; where the program has no handler yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def stop_if_interrupted() -> None:
    """Raise the interrupt again that was lost; to be called between the steps of long work.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if _Seen.interrupted:
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _Seen.interrupted = True
    raise KeyboardInterrupt
