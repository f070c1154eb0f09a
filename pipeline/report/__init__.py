"""Records → one self-contained HTML page, Markdown, JSON."""

from pipeline.report.pages import render

__all__ = ["render"]
