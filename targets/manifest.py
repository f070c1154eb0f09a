"""A bundle's manifest: what is in the folder, where it came from, and how it was proved.

``manifest.json`` names every other file with its SHA-256 and size; ``manifest.json.sha256`` (in the form that
``sha256sum -c`` reads) guards the manifest itself. Together they show damage and tampering by accident;
against a forger, sign the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from optim.errors import UserError
from targets.contract import State

MANIFEST_FILE: Final = "manifest.json"
GUARD_FILE: Final = "manifest.json.sha256"
SIGNATURE_FILE: Final = "model.sig"  # over all other files, this manifest among them
MANIFEST_VERSION: Final = 1
_CHUNK: Final = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorEntry(_Part):
    """An input or output of the model; a dimension is a number, a name, or null.

    ``head`` is "softmax" for an output of probabilities, which are compared as logarithms.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    head: Literal["", "softmax"] = ""


class FileEntry(_Part):
    """Digest and size of one file."""

    sha256: str
    bytes: int


class GateEntry(_Part):
    """The bounds that the replayed references must keep."""

    max_abs_over_range: float
    snr_db: float
    source_error_factor: float | None = None  # error ≤ this × the source's own + 1e-6; None: not judged


class ArtefactEntry(_Part):
    """Files of the target's own format; the first is the model."""

    files: tuple[str, ...]
    options: dict[str, Any] = {}


class VerificationEntry(_Part):
    """What the replay found when the bundle was made. ``snr_db`` is a number or "inf"."""

    max_abs_over_range: float | str
    snr_db: float | str
    references: int
    error: float | str | None = None  # max|error| / range of the artefact against float64
    source_error: float | str | None = None  # of the source framework, likewise
    error_multiple: float | str | None = None  # the one as a multiple of the other


class Manifest(_Part):
    """The whole of ``manifest.json``."""

    manifest_version: Literal[1] = 1
    name: str
    target: str
    state: State
    detail: str
    created: str
    made_by: str
    artefact: ArtefactEntry
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    gate: GateEntry
    verification: VerificationEntry | None
    references: tuple[str, ...]
    truth: tuple[str, ...] = ()  # outputs in float64 for references of the same file name
    labels: int | None
    licences: dict[str, str]
    versions: dict[str, str]
    provenance: dict[str, Any]
    layers: tuple[dict[str, Any], ...]
    parity: dict[str, Any]
    benchmark: dict[str, Any]
    hardware: dict[str, Any]
    files: dict[str, FileEntry]


def plain(value: Any) -> Any:
    """``value`` as strict JSON holds it: tuples as lists, non-finite floats as strings ("inf", "nan")."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def sha256_of(file: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def files_under(folder: Path) -> list[str]:
    """Relative POSIX paths of everything under ``folder`` that is not a plain directory, sorted."""
    return sorted(
        entry.relative_to(folder).as_posix()
        for entry in folder.rglob("*")
        if entry.is_symlink() or not entry.is_dir()
    )


def entries_for(folder: Path) -> dict[str, FileEntry]:
    """Digests of all files under ``folder`` but the manifest and its guard."""
    return {
        name: FileEntry(sha256=sha256_of(folder / name), bytes=(folder / name).stat().st_size)
        for name in files_under(folder)
        if name not in (MANIFEST_FILE, GUARD_FILE, SIGNATURE_FILE)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest and guard."""
    body = json.dumps(plain(manifest.model_dump()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / MANIFEST_FILE).write_text(body, encoding="utf-8")
    (folder / GUARD_FILE).write_text(guard_for(body.encode()), encoding="utf-8")


def guard_for(body: bytes) -> str:
    """The text of the guard file, in ``sha256sum``'s form."""
    return f"{hashlib.sha256(body).hexdigest()}  {MANIFEST_FILE}\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in ``folder``, whether or not it is intact (see ``integrity_problems``).

    Raises:
        UserError: there is none, or it does not follow the schema of this version.
    """
    file = folder / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"no readable {MANIFEST_FILE}: {error.strerror}",
            where=str(folder),
            hint="give the folder of a bundle",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{first['msg']} at {key or 'its top'}",
            where=str(file),
            expected=f"manifest_version {MANIFEST_VERSION}",
        ) from error


def unsafe_path(name: str) -> bool:
    """Whether ``name`` could leave the folder or means different files on different systems."""
    path = PurePosixPath(name)
    return (
        not name
        or path.is_absolute()
        or any(part in ("..", ".", "") for part in name.split("/"))
        or any(character in name for character in "\\:\0")
    )


def integrity_problems(folder: Path, manifest: Manifest) -> list[str]:
    """Every way in which ``folder`` differs from its manifest; empty for an intact bundle.

    A file that the manifest does not list is a problem too: a ``numpy.py`` beside ``predict.py`` would be
    imported in place of NumPy.
    """
    problems: list[str] = []
    guard = folder / GUARD_FILE
    body = (folder / MANIFEST_FILE).read_bytes()
    if guard.is_symlink() or not guard.is_file():
        problems.append(f"{GUARD_FILE} is missing")
    elif guard.read_bytes() != guard_for(body).encode():
        problems.append(f"{MANIFEST_FILE} does not match {GUARD_FILE}")
    for name, entry in manifest.files.items():
        if unsafe_path(name):
            problems.append(f"the manifest lists {name!r}, which points outside the bundle")
            continue
        problem = _file_problem(folder / name, entry)
        if problem:
            problems.append(f"{name} {problem}")
    listed = {*manifest.files, MANIFEST_FILE, GUARD_FILE, SIGNATURE_FILE}
    problems += [f"{name} is not in the manifest" for name in files_under(folder) if name not in listed]
    needed = {*manifest.artefact.files, *manifest.references, *manifest.truth}
    problems += [
        f"the manifest needs {name!r} but does not list it" for name in sorted(needed - {*manifest.files})
    ]
    if not manifest.references:
        problems.append("there are no references to replay")
    return problems


def _file_problem(file: Path, entry: FileEntry) -> str:
    try:
        status = file.lstat()
    except OSError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a plain file"
    if status.st_size != entry.bytes:
        return f"has {status.st_size} bytes, the manifest says {entry.bytes}"
    if sha256_of(file) != entry.sha256:
        return "does not have the digest in the manifest"
    return ""
