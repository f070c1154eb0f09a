"""A content-addressed store of finished steps: whole entries or none.

::

    <root>/entries/<k[:2]>/<key>/   entry.json (file sizes and hashes) + what the step wrote
    <root>/locks/<key>.lock         held by the one process that computes the key; freed by its death
    <root>/work/<key>.<random>/     a step in progress; never read, swept by the next holder of the lock

A step writes into ``work``; ``entry.json`` is written last, everything is flushed to disk, and one rename
makes the entry appear. A process killed at any moment leaves a finished entry or a folder to be swept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from optim.errors import UserError

ENTRY_FILE = "entry.json"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """A finished step's folder."""

    key: str
    path: Path


@dataclass(frozen=True)
class Lookup:
    """An entry, or why there is none."""

    entry: Entry | None
    problem: str = ""


class Store:
    """The store at ``root``; any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def look_up(self, key: str) -> Lookup:
        """The finished entry of ``key`` if all its files are as they were written."""
        path = self._entry_path(key)
        if not path.exists():
            return Lookup(None, "never run with these inputs")
        problem = _damage(path)
        return Lookup(None, f"stored result is damaged: {problem}") if problem else Lookup(Entry(key, path))

    def ensure(self, key: str, produce: Callable[[Path], None]) -> tuple[Entry, bool]:
        """The entry of ``key``, produced if it is not there; and whether it was there already.

        Only one process produces a key at a time; others wait and take its result. An exception in
        ``produce``, KeyboardInterrupt included, leaves no entry.
        """
        found = self.look_up(key).entry
        if found is not None:
            return found, True
        with self._locked(key):
            found = self.look_up(key).entry
            if found is not None:  # another process was faster
                return found, True
            return self._produce(key, produce), False

    def _produce(self, key: str, produce: Callable[[Path], None]) -> Entry:
        work = self.root / "work"
        for stale in work.glob(f"{key}.*"):  # we hold the lock: whoever made it is dead
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=work))
        try:
            produce(folder)
            _seal(folder)
            target = self._entry_path(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():  # damaged: look_up refused it
                target.rename(folder.with_name(f"{folder.name}.damaged"))
            folder.rename(target)
            _flush_folder(target.parent)
        finally:
            for leftover in work.glob(f"{key}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
        return Entry(key, target)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        try:
            for name in ("locks", "work", "entries"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the store cannot be written: {error.strerror}",
                where=str(self.root),
                hint="--set store=FOLDER with a folder you may write to",
            ) from None
        with FileLock(self.root / "locks" / f"{key}.lock"):
            yield

    def _entry_path(self, key: str) -> Path:
        return self.root / "entries" / key[:2] / key


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's relative names and contents."""
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file aside and move it into place; readers see the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def replace_folder(source: Path, target: Path) -> None:
    """Copy ``source`` beside ``target`` and swap it in; the old folder, if any, is removed after."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        copy = fresh / "new"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(ENTRY_FILE))
        if target.exists():
            target.rename(fresh / "old")
        copy.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Flush all files and write their sizes, times and hashes, the seal last."""
    files = {}
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        state = file.stat()
        files[file.relative_to(folder).as_posix()] = {
            "bytes": state.st_size,
            "mtime_ns": state.st_mtime_ns,
            "sha256": hash_file(file),
        }
    write_atomically(folder / ENTRY_FILE, json.dumps({"version": 1, "files": files}, indent=1))
    _flush_folder(folder)


def _damage(path: Path) -> str:
    """What is wrong with an entry, or "". Unchanged size and time spare the hash."""
    try:
        files = json.loads((path / ENTRY_FILE).read_text())["files"]
        for name, wanted in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            state = file.stat()
            if state.st_size != wanted["bytes"]:
                return f"{name} has another size"
            if state.st_mtime_ns != wanted["mtime_ns"] and hash_file(file) != wanted["sha256"]:
                return f"{name} has other content"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{ENTRY_FILE} cannot be read ({type(error).__name__})"
    return ""


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
