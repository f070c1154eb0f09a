"""Reference inputs and outputs: what a bundle replays where it is deployed.

On disk: one ``.npz`` a reference, keys ``in|<tensor>`` and ``out|<tensor>``, no pickled objects. Where the
model could be evaluated in float64, another ``.npz`` of the same name holds those outputs, by the same keys.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optim.contract import Array
from optim.errors import UserError


@dataclass(frozen=True)
class Reference:
    """One set of input arrays and the outputs the source framework (or the proved graph) gave for it."""

    name: str  # file stem: letters, digits, "_", "-", "."
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]
    truth: Mapping[str, Array] = field(default_factory=dict)  # outputs in float64, where there are any


def save_truth(reference: Reference, file: Path) -> None:
    """Write the float64 outputs of ``reference``."""
    arrays = {f"out|{k}": np.asarray(v, order="C") for k, v in reference.truth.items()}
    with file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]


def load_truth(file: Path) -> dict[str, Array]:
    """Read what ``save_truth`` wrote.

    Raises:
        UserError: the file is damaged or holds unknown keys.
    """
    return _read(file)[1]


def save_reference(reference: Reference, file: Path) -> None:
    """Write ``reference``; byte-identical for identical arrays."""
    # Row-major, whatever it was: readers in other languages know no other order.
    arrays = {f"in|{k}": np.asarray(v, order="C") for k, v in reference.feeds.items()}
    arrays |= {f"out|{k}": np.asarray(v, order="C") for k, v in reference.outputs.items()}
    if any(a.dtype.hasobject for a in arrays.values()):
        raise UserError("object arrays cannot be stored", where=reference.name)
    with file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]


def load_reference(file: Path) -> Reference:
    """Read what ``save_reference`` wrote.

    Raises:
        UserError: the file is damaged, holds pickled objects or unknown keys, or lacks inputs or outputs.
    """
    feeds, outputs = _read(file)
    if not feeds or not outputs:
        raise UserError("holds no inputs or no outputs", where=str(file))
    return Reference(file.stem, feeds, outputs)


def _read(file: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs in a file of references."""
    feeds: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    try:
        with np.load(file, allow_pickle=False) as stored:
            for key in stored.files:
                side, _, tensor = key.partition("|")
                if side not in ("in", "out") or not tensor:
                    raise UserError(
                        f"unknown key {key!r}", where=str(file), expected="in|<tensor> or out|<tensor>"
                    )
                (feeds if side == "in" else outputs)[tensor] = stored[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise UserError(f"cannot be read: {error}", where=str(file)) from error
    return feeds, outputs
