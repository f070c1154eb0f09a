"""Plain tables on a terminal or in a pipe. Names come from model files, so nothing of theirs is markup."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.standard_output import discard_output

GOOD = "green"
BAD = "bold red"
# Piped output keeps its columns: a table is not folded to the width of a screen that is not there.
_PIPED_WIDTH = 160


class _Output(Console):
    """Standard output that falls silent once its reader has left, so that the exit code is the command's."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Tables fit the width; sentences and paths in a pipe stay whole lines, for grep and for scripts."""
        if not self.is_terminal and all(isinstance(one, (str, Text)) for one in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()


def console() -> Console:
    """Standard output, as wide as the terminal or as COLUMNS says."""
    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return _Output(file=sys.stdout, width=None if known else _PIPED_WIDTH, highlight=False, markup=False)


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in ``right`` hold numbers."""
    made = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        min_width=len(title),  # a title longer than its table would be folded
    )
    numbers = set(right)
    for column in columns:
        made.add_column(Text(column), justify="right" if column in numbers else "left", overflow="fold")
    return made


def row(made: Table, *cells: object, style: str = "") -> None:
    """Add a row; texts keep their style."""
    made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells), style=style)
