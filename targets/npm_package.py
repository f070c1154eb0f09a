"""Files of an npm package, fetched once with ``npm pack`` and kept; never installed, no script of it run."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from filelock import FileLock

from optim.errors import MissingRuntimeError

FETCH_LIMIT_S: Final = 600.0


@dataclass(frozen=True)
class NpmPackage:
    """A version of a package and the digest its archive must have."""

    name: str
    version: str
    integrity: str  # base64 of SHA-512, as npm's lock files write it

    @property
    def purl(self) -> str:
        return f"pkg:npm/{self.name}@{self.version}"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/fairlead/npm``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairlead" / "npm"


def cached(package: NpmPackage) -> bool:
    """Whether the package's archive is here already."""
    return _archive(package).is_file()


def can_be_had(package: NpmPackage) -> bool:
    """Whether it is here or npm is, which may bring it."""
    return cached(package) or shutil.which("npm") is not None


def extract(package: NpmPackage, members: Mapping[str, str], out: Path) -> None:
    """Copy files of the package: path in it → path under ``out``.

    Raises:
        MissingRuntimeError: the package is neither here nor to be had, or not what it was.
    """
    archive = fetch(package)
    with tarfile.open(archive, "r:gz") as stored:
        for member, wanted in members.items():
            try:
                source = stored.extractfile(f"package/{PurePosixPath(member)}")
            except KeyError:
                source = None
            if source is None:
                what = f"{package.name} {package.version} holds no {member}"
                raise MissingRuntimeError(what, where=str(archive))
            (out / wanted).parent.mkdir(parents=True, exist_ok=True)
            with source, (out / wanted).open("wb") as written:
                shutil.copyfileobj(source, written, 1 << 20)


def fetch(package: NpmPackage) -> Path:
    """The package's archive, from the cache or fetched into it; its digest is checked either way.

    Raises:
        MissingRuntimeError: there is no npm, npm cannot reach its registry, or the digest is another.
    """
    archive = _archive(package)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{archive}.lock"):
        if not archive.is_file():
            _pack(package, archive)
    if _integrity(archive) != package.integrity:
        raise MissingRuntimeError(
            f"its SHA-512 is not that of {package.name} {package.version}",
            where=str(archive),
            hint="delete it, so that it is fetched again",
        )
    return archive


def _pack(package: NpmPackage, archive: Path) -> None:
    npm = shutil.which("npm")
    wanted = f"{package.name}@{package.version}"
    if npm is None:
        raise MissingRuntimeError(
            f"{wanted} is needed and there is no npm to fetch it",
            where=str(archive.parent),
            hint="install Node.js with npm; it is needed once, later builds use the copy kept here",
        )
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        try:
            done = subprocess.run(
                [npm, "pack", wanted, "--ignore-scripts", "--silent", "--pack-destination", folder],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=FETCH_LIMIT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise MissingRuntimeError(f"npm did not bring {wanted} within {FETCH_LIMIT_S:.0f} s") from error
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(found) != 1:
            said = " ".join((done.stderr or done.stdout).split())[-400:]
            raise MissingRuntimeError(
                f"npm cannot bring {wanted}: {said or f'exit status {done.returncode}'}",
                hint="it needs its registry once; later builds use the copy kept in " + str(archive.parent),
            )
        found[0].replace(archive)


def _archive(package: NpmPackage) -> Path:
    return cache_folder() / f"{package.name}-{package.version}.tgz"


def _integrity(file: Path) -> str:
    with file.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()
