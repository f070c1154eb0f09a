"""Read an earlier benchmark, wherever a run or a command left it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from optim.errors import UserError
from pipeline.bench.records import BenchmarkRecord

REPORT = "report.json"


def read_benchmark(path: Path) -> BenchmarkRecord:
    """The benchmark in a run's folder, its ``report.json``, or a file that ``--json`` printed.

    Raises:
        UserError: there is nothing to read, or no benchmark in it.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"no readable benchmark: {error.strerror}",
            where=str(file),
            expected="a run's folder, a report.json, or what `fairlead bench --json` printed",
        ) from error
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=str(file)) from error
    found = _inside(content)
    if found is None:
        raise UserError(
            "holds no benchmark", where=str(file), hint="was the run configured with `benchmark: null`?"
        )
    try:
        return BenchmarkRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"not a benchmark of this version: {first['msg']} at {key}",
            where=str(file),
            hint="measure the baseline again",
        ) from error


def _inside(content: Any) -> Any:
    """The benchmark itself: the whole, or what stands under record, benchmark."""
    if not isinstance(content, dict):
        return None
    if "results" in content:
        known = BenchmarkRecord.model_fields
        return {key: value for key, value in content.items() if key in known}
    for key in ("record", "benchmark"):
        if content.get(key) is not None:
            return _inside(content[key])
    return None
