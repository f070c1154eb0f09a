"""What the float64 run of the source says about the conversion, in words. Light: for terminal and report."""

from __future__ import annotations

from pipeline.records import SourceTruthRecord


def told(record: SourceTruthRecord) -> list[str]:
    """A notice where the user should know; none where the conversion is what it should be."""
    if record.state != "apart":
        return []
    return [
        f"in float64 the source and the converted graph are {record.max_abs_over_range:.3g} of the range "
        f"apart on {record.feed}: more than rounding; errors are measured from the source's own float64 run"
    ]


def in_words(record: SourceTruthRecord) -> str:
    """One sentence for the terminal and the report."""
    if record.state == "not_evaluated":
        return f"the source is not evaluated in float64: {record.reason}"
    figure = f"{record.max_abs_over_range:.1e} of the range"
    inputs = f"{len(record.feeds)} input" + ("s" if len(record.feeds) > 1 else "")
    rounding = "" if record.source_rounding is None else f"; its own rounding is {record.source_rounding:.1e}"
    both = f"the source in its own framework and the converted graph, both in float64 on {inputs}"
    if record.state == "exact":
        return f"the conversion is exact to {figure} ({both}{rounding})"
    if record.state == "within_rounding":
        return f"the conversion is right to {figure}, what folding constants leaves ({both}{rounding})"
    return f"the conversion is {figure} off ({both}{rounding})"
