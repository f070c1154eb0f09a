"""The C++ sample of an ONNX Runtime bundle, with the session options of its manifest written out.

The template stays C++ to read: its conditions stand in comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jinja2

SAMPLES: Final = Path(__file__).parent / "templates" / "onnxruntime"
SAMPLE_FILES: Final = ("predict.cpp", "CMakeLists.txt")
LEVELS: Final[Mapping[str, str]] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def write_cpp_sample(folder: Path, options: Mapping[str, object]) -> list[str]:
    """Write the sample for what ``options`` record into the new ``folder``; paths from the bundle's own.

    For the CPU it is the same for every bundle: what the manifest records beside is the user's to set.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SAMPLES),
        autoescape=False,  # C++; every value comes from a checked set of options
        undefined=jinja2.StrictUndefined,
        block_start_string="/*%",
        block_end_string="%*/",
        variable_start_string="/*=",
        variable_end_string="*/",
        comment_start_string="/*#",
        comment_end_string="#*/",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    level = str(options["optimization"])
    facts = {
        "o": options,
        "cuda": options["device"] == "cuda",
        "level": LEVELS[level],
        "cpu_level": LEVELS[str(options.get("cpu_optimization", level))],
    }
    folder.mkdir()
    for name in SAMPLE_FILES:
        text = environment.get_template(name).render(facts)
        (folder / name).write_text(text, encoding="utf-8")
    return [f"{folder.name}/{name}" for name in SAMPLE_FILES]
