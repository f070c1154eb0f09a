"""Under which terms a bundle is passed on: the model's, the scripts', and those of what was put in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from targets.contract import Artefact
from targets.markdown import markdown_text

LICENCES_FILE: Final = "LICENCES.md"
UNKNOWN: Final = "unknown"
SCRIPTS: Final = "scripts and documents of this bundle"
_HEAD: Final = """# Licences

| part | licence (SPDX) | files |
|---|---|---|
"""
_MODEL_UNKNOWN: Final = """
The licence of the model was not recorded. Ask whoever trained it before you pass this bundle on.
"""


def licences_of(given: Mapping[str, str], artefact: Artefact) -> dict[str, str]:
    """Part → SPDX expression; a model about which nothing was said is ``unknown``, never assumed free."""
    parts = {"model": UNKNOWN, **given, SCRIPTS: "Apache-2.0"}
    return parts | {f"{part.name} {part.version}": part.licence for part in artefact.redistributed}


def write_licences(folder: Path, licences: Mapping[str, str], artefact: Artefact) -> None:
    """Write ``LICENCES.md`` with the notices that redistributed parts ask to be kept."""
    files = {f"{part.name} {part.version}": ", ".join(part.files) for part in artefact.redistributed}
    rows = "".join(
        f"| {markdown_text(part)} | {markdown_text(licence)} | {markdown_text(files.get(part, ''))} |\n"
        for part, licence in licences.items()
    )
    notices = "".join(
        f"\n## {markdown_text(f'{part.name} {part.version}')}\n\n```\n{part.text.strip()}\n```\n"
        for part in artefact.redistributed
        if part.text
    )
    warning = _MODEL_UNKNOWN if licences.get("model") == UNKNOWN else ""
    (folder / LICENCES_FILE).write_text(_HEAD + rows + warning + notices, encoding="utf-8")
