"""Bring onnxruntime-gpu to a GPU host that reaches no package index, as plain files below a size.

    python benchmarks/gpu/pack_onnxruntime.py pack [--version 1.31.1] [--python 3.12] [--piece-mib 56] OUT
    python benchmarks/gpu/pack_onnxruntime.py unpack IN SITE       on the GPU host; then PYTHONPATH=SITE

*pack* downloads the wheel with pip, and with it what the check needs and such a host may lack; it leaves out
the TensorRT provider (its libraries are not in the wheel) and the C library's copy, compresses, and cuts the
archive into pieces with a list of digests. *unpack* needs the
standard library only: it checks every digest, puts the pieces together, and links the CUDA libraries that
came with the host's own Python packages (``nvidia``) beside onnxruntime, which looks only there.
The host needs the Python version packed for, a driver for CUDA 13, and those libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

LIST = "pieces.json"
BESIDE = ("pydantic>=2.9,<3", "nvidia-ml-py>=12.560,<14")  # with what they need
LEFT_OUT = ("libonnxruntime.so.", "libonnxruntime_providers_tensorrt.so", "ThirdPartyNotices.txt")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


def digest(data: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(data).hexdigest()


def archive(wheels: Sequence[Path]) -> bytes:
    """The wheels' files, less what is not needed, as an xz-compressed tar; the same bytes every time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=6) as target:
        for wheel in sorted(wheels):
            with zipfile.ZipFile(wheel) as source:
                for name in sorted(source.namelist()):
                    if name.endswith("/") or any(part in name for part in LEFT_OUT):
                        continue
                    data = source.read(name)
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = len(data), 0o644
                    target.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def cut(data: bytes, out: Path, size: int) -> None:
    """Pieces of at most ``size`` bytes, and their list."""
    out.mkdir(parents=True, exist_ok=True)
    pieces = {}
    for k, start in enumerate(range(0, len(data), size)):
        piece = data[start : start + size]
        (out / f"piece_{k:02d}").write_bytes(piece)
        pieces[f"piece_{k:02d}"] = digest(piece)
    (out / LIST).write_text(json.dumps({"pieces": pieces, "whole": digest(data)}, indent=1) + "\n")


def joined(folder: Path) -> bytes:
    """The archive again; every digest must hold."""
    listed = json.loads((folder / LIST).read_text())
    parts = []
    for name, expected in listed["pieces"].items():
        data = (folder / name).read_bytes()
        if digest(data) != expected:
            sys.exit(f"{name} is damaged: carry it over again")
        parts.append(data)
    whole = b"".join(parts)
    if digest(whole) != listed["whole"]:
        sys.exit("the pieces do not make up the archive")
    return whole


def unpack(folder: Path, site: Path) -> None:
    """Write the packages into ``site`` and link the CUDA libraries."""
    site.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(joined(folder)), mode="r:xz") as source:
        source.extractall(site, filter="data")
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations or []) if found is not None else []
    link = site / "nvidia"
    if places and not link.exists():
        link.symlink_to(places[0])
    print(f"unpacked into {site}; CUDA libraries: {places[0] if places else 'those of the system'}")


def main() -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--version", default="1.31.1")
    packing.add_argument("--python", default="3.12")
    packing.add_argument("--piece-mib", type=int, default=56)
    packing.add_argument("out", type=Path)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("site", type=Path)
    given = parser.parse_args()
    if given.command == "unpack":
        unpack(given.folder, given.site)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "-d", folder]
        command += ["--python-version", given.python, "--implementation", "cp"]
        command += [word for name in PLATFORMS for word in ("--platform", name)]
        subprocess.run([*command, "--no-deps", f"onnxruntime-gpu=={given.version}"], check=True)
        subprocess.run([*command, *BESIDE], check=True)
        cut(archive(list(Path(folder).glob("*.whl"))), given.out, given.piece_mib << 20)
    print(f"packed into {given.out}: carry the whole folder, or piece by piece")


if __name__ == "__main__":
    main()
