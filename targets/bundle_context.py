"""What a build finds in the folder it writes to: pre-processing, labels and references of its bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from targets.references import Reference, load_reference

PREPROCESS_FILE: Final = "preprocess.json"
LABELS_FILE: Final = "labels.txt"
REFERENCES: Final = "references"


@dataclass(frozen=True)
class BundleContext:
    """Empty for a build by itself, outside a bundle."""

    preprocess: Mapping[str, Any]  # content of preprocess.json; see ``Preprocessing.for_input``
    labels: tuple[str, ...]
    references: tuple[Reference, ...]


def bundle_context(folder: Path) -> BundleContext:
    """Read what ``write_bundle`` put into ``folder`` before the target's build."""
    preprocess, labels = folder / PREPROCESS_FILE, folder / LABELS_FILE
    return BundleContext(
        preprocess=json.loads(preprocess.read_text(encoding="utf-8")) if preprocess.is_file() else {},
        labels=tuple(labels.read_text(encoding="utf-8").split("\n")[:-1]) if labels.is_file() else (),
        references=tuple(load_reference(file) for file in sorted((folder / REFERENCES).glob("*.npz"))),
    )
