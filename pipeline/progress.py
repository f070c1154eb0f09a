"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from pipeline.sources.contract import Progress, no_progress


class Reporter(Protocol):
    """Shows the steps of a run as they go by."""

    def step(self, name: str) -> AbstractContextManager[Progress]:
        """Show one step; the callback takes a text and the fraction done in [0, 1]."""
        ...

    def cached(self, name: str) -> None:
        """Show a step that the store already had."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:  # noqa: ARG002
        yield no_progress

    def cached(self, name: str) -> None:
        """Nothing to show."""


# Seconds between two plain lines of one step: a log is read afterwards.
_LINE_EVERY_S = 5.0


class PlainLines:
    """One line when a step starts, when its text changes (not too often), and when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        begin = shown = time.monotonic()
        last = ""

        def show(text: str, fraction: float) -> None:
            nonlocal last, shown
            now = time.monotonic()
            if text != last and now - shown >= _LINE_EVERY_S:
                last, shown = text, now
                self._line(f"{name}: {text} ({fraction:.0%})")

        self._line(f"{name} ...")
        yield show
        self._line(f"{name}: done in {time.monotonic() - begin:.1f} s")

    def cached(self, name: str) -> None:
        self._line(f"{name}: from the store")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class Bars:
    """One bar a step, with elapsed time and the time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream)

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        from rich.progress import (
            BarColumn,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("[bold]{task.fields[step]:<22}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", style="dim", markup=False),
        )
        with RichProgress(*columns, console=self._console) as bar:
            task = bar.add_task("", total=1.0, step=name)
            yield lambda text, fraction: bar.update(task, description=text, completed=fraction)
            bar.update(task, description="", completed=1.0)

    def cached(self, name: str) -> None:
        self._console.print(f"[green]✓[/] [bold]{name:<22}[/] [dim]from the store[/]", highlight=False)


def reporter(stream: TextIO | None = None, *, quiet: bool = False) -> Reporter:
    """The reporter that fits the stream (default: standard error)."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Silent()
    return Bars(stream) if stream.isatty() else PlainLines(stream)
