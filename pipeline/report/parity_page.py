"""The page of one comparison: verdicts, layers, pictures, worst elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from markupsafe import Markup

from optim.errors import UserError
from pipeline.parity.feature_maps import FeatureMaps
from pipeline.parity.verdict import summaries
from pipeline.records import ParityRecord
from pipeline.report.headline import asked
from pipeline.report.pages import TEMPLATES, growth_plot, html_environment, write_whole
from pipeline.report.parity_plots import pictures


def render_parity(record: ParityRecord, maps: Sequence[FeatureMaps], out_dir: Path, title: str) -> Path:
    """Write ``parity.html`` and ``parity.json`` into ``out_dir``; returns the page.

    Raises:
        UserError: the folder cannot be written.
    """
    facts = {
        "r": SimpleNamespace(parity_detail=record, parity=summaries(record)),
        "title": title,
        "asked": _asked_of(record),
        "growth_plot": growth_plot(record),
        "pictures": pictures(maps),
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # our own file
    }
    page = html_environment().get_template("parity_page.html.j2").render(facts)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_whole(out_dir / "parity.json", record.model_dump_json(indent=1) + "\n")
        return write_whole(out_dir / "parity.html", page)
    except OSError as error:
        raise UserError(f"cannot write the report: {error.strerror}", where=str(out_dir)) from error


def _asked_of(record: ParityRecord) -> Callable[[str], tuple[str, str]]:
    """A question in words, between the two models that were given."""
    pairs = {(one.a, one.b) for one in record.comparisons if one.question == "reference_vs_artefact"}
    if len(pairs) != 1:
        return asked
    ((a, b),) = pairs
    return lambda question: (
        ("Is it the same model?", f"{b} against {a}, the reference.")
        if question == "reference_vs_artefact"
        else asked(question)
    )
