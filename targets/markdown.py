"""Untrusted text in Markdown: shown, never read as markup."""

from __future__ import annotations

import html
import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def markdown_text(value: object) -> str:
    """``value`` on one line, with nothing of it left that Markdown or HTML would read as markup."""
    flat = " ".join(str(value).split())
    return _SPECIAL.sub(r"\\\1", html.escape(flat, quote=False))


def markdown_code(value: object) -> str:
    """``value`` as a code span; backquotes and table bars are replaced, for they would end it."""
    flat = " ".join(str(value).split())
    return "`" + flat.replace("`", "'").replace("|", "¦") + "`" if flat else ""
