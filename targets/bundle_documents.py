"""The parts of a bundle that people read or run: README, model card and the target's stand-alone scripts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import jinja2

from targets.manifest import Manifest
from targets.markdown import markdown_code, markdown_text
from targets.readable_time import readable_time

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("predict.py", "verify.py")


def write_documents(
    folder: Path,
    manifest: Manifest,
    labels: tuple[str, ...],
    preprocess: Mapping[str, object],
    description: str,
    *,
    signed: bool = False,
) -> None:
    """Write ``README.md`` and ``MODEL_CARD.md``, and copy the scripts where the target has a Python runtime.

    ``templates/runtimes/<target>.py`` becomes ``runtime.py``: the only part of the scripts that knows the
    target.
    """
    names = []
    runtime = _TEMPLATES / "runtimes" / f"{manifest.target}.py"
    if runtime.is_file():
        shutil.copyfile(runtime, folder / "runtime.py")
        for script in _SCRIPTS:
            shutil.copyfile(_TEMPLATES / "scripts" / script, folder / script)
        names = [*_SCRIPTS, "runtime.py"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,  # Markdown; every untrusted name goes through the filters below
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    environment.filters["code"] = markdown_code
    environment.filters["time"] = readable_time
    facts = {
        "m": manifest,
        "labels": labels,
        "preprocess": preprocess,
        "description": description,
        "scripts": names,
        "signed": signed,
    }
    for name in ("README.md", "MODEL_CARD.md"):
        text = environment.get_template(f"{name}.j2").render(facts)
        (folder / name).write_text(text, encoding="utf-8")
