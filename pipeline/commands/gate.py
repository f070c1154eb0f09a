"""Did it get worse?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import JsonOption, print_record

if TYPE_CHECKING:
    from pipeline.bench.gate import GateRecord
    from pipeline.bench.records import BenchmarkRecord

AgainstOption = Annotated[
    Path,
    typer.Option(metavar="BASE", help="The earlier run's folder, its report.json, or `bench --json` output."),
]
JunitOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML for a CI system.")]


def gate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, report.json, or `bench --json` output.")
    ],
    against: AgainstOption,
    junit: JunitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exit 1 when latency or memory got worse beyond the interval. Unlike hosts are refused."""
    from pipeline.bench.baseline import read_benchmark
    from pipeline.console import show_gate

    found = against_baseline(read_benchmark(run), against, junit)
    print_record(found.model_dump(mode="json"), as_json, lambda: show_gate(found))
    require_no_regression(found, against)


def against_baseline(now: BenchmarkRecord, base: Path, junit: Path | None) -> GateRecord:
    """Compare with an earlier benchmark, and write JUnit XML where asked.

    Raises:
        UserError: unlike hosts, or nothing in common.
    """
    from pipeline.bench.baseline import read_benchmark
    from pipeline.bench.gate import gate as compare
    from pipeline.bench.gate import junit as as_junit
    from pipeline.store import write_atomically

    found = compare(now, read_benchmark(base))
    if junit is not None:
        write_atomically(junit, as_junit(found))
    return found


def require_no_regression(found: GateRecord, base: Path) -> None:
    """Turn a regression into the error that the command line exits with.

    Raises:
        GateNotMetError: names every figure that got worse.
    """
    from optim.errors import GateNotMetError

    worse = [check.title for check in found.checks if not check.passed]
    if worse:
        raise GateNotMetError(f"got worse: {'; '.join(worse)}", where=str(base))
