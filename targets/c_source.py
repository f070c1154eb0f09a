"""C source: ``model.c`` with its weights in ``model.bin``, ``model.h`` and a Makefile, from emx-onnx-cgen.

Plain C11 and the mathematics library, nothing else: for small networks on anything that has a compiler.
Verified by compiling it with ``-Wall -Werror`` and calling it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from optim import model as onnx_file
from optim.errors import InternalError, UnsupportedModelError
from targets.c_weights import C_TYPES, NETWORK, attached, detach, write_weights
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Redistributed, Session
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove
from targets.standard_ops import nonstandard_nodes

SOURCE: Final = "model.c"
HEADER: Final = "model.h"
WEIGHTS: Final = "model.bin"
MAKEFILE: Final = "Makefile"
TEMPLATES: Final = Path(__file__).parent / "templates" / "c"
GENERATOR: Final = "emx-onnx-cgen"
COMPILERS: Final = ("cc", "gcc", "clang")
MOST_BYTES: Final = 2_000_000_000  # of weights: an object file's addresses reach 2 GiB
_FUNCTION: Final = r"^(?:static )?void {}\((.*?)\) *\{{"
_LOADER: Final = "_Bool model_load("
_PASSED: Final = frozenset(C_TYPES) - {"uint64"}


class CSourceOptions(TargetOptions):
    """Options of the ``c`` target."""

    accumulation: Literal["f64", "f32"] = "f64"
    """What sums of float32 products are held in. One float32 sum after another drifts in deep layers."""


@dataclass(frozen=True)
class CSource:
    """C11 source that needs no runtime."""

    @property
    def name(self) -> str:
        return "c"

    @property
    def summary(self) -> str:
        return "C11 source and its weights, for small networks; compiled with -Wall -Werror and called"

    def available(self) -> Availability:
        """Generates, compiles and calls a one-node model."""
        if not any(shutil.which(name) for name in COMPILERS):
            needs = "a C compiler (gcc or clang)"
            return Availability(available=False, detail="no C compiler on PATH", needs=needs)
        return prove(self, GENERATOR, "fairlead[c]")

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """Nodes outside the standard, sizes that are not fixed, and types that the caller cannot pass."""
        loaded = onnx_file.load(model)
        inputs, outputs = onnx_file.signature(loaded)
        free = tuple(
            f"input {spec.name}: shape {list(spec.shape)} has free dimensions; C arrays need them fixed"
            for spec in inputs
            if not all(isinstance(d, int) for d in spec.shape[1:])
        )
        types = tuple(
            f"{spec.name}: type {spec.dtype} is not passed; cast it"
            for spec in (*inputs, *outputs)
            if spec.dtype not in _PASSED
        )
        stored = onnx_file.weight_bytes(loaded)
        large = (
            (f"the weights take {stored} bytes; a C source holds {MOST_BYTES} at most",)
            if stored > MOST_BYTES
            else ()
        )
        return (*free, *types, *large, *nonstandard_nodes(loaded))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write the source; a free batch becomes 1.

        Raises:
            UnsupportedModelError: see ``unsupported``, or the generator lacks an operator.
            MissingRuntimeError: emx-onnx-cgen is not installed.
        """
        chosen = parse_options(CSourceOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        facts = export_in_child("targets.c_source:export", model, out, chosen.model_dump())
        shutil.copyfile(TEMPLATES / MAKEFILE, out / MAKEFILE)
        files = tuple(name for name in (SOURCE, HEADER, WEIGHTS, MAKEFILE) if (out / name).exists())
        version = str(facts["emx_onnx_cgen"])
        part = Redistributed(GENERATOR, version, "Apache-2.0", (SOURCE,), f"pkg:pypi/{GENERATOR}@{version}")
        recorded = {**chosen.model_dump(), "signature": signature_facts(model), **facts}
        return Artefact(files, recorded, redistributed=(part,))

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """The source, compiled and loaded.

        Raises:
            MissingRuntimeError: there is no C compiler.
        """
        return ChildSession(self.name, folder, artefact)


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: generate the source with the batch pinned to 1, and the header for its function."""
    from emx_onnx_cgen.cli import main  # type: ignore[import-untyped, import-not-found, unused-ignore]

    loaded = onnx_file.load(model)
    inputs, _ = onnx_file.signature(loaded)
    weights = detach(loaded)
    seen = model.with_name("seen.onnx")
    onnx_file.save(loaded, seen)
    function = NETWORK if weights else "model"
    strategy = "fp64" if options["accumulation"] == "f64" else "simple"
    command = ["compile", str(seen), str(out / SOURCE), "--model-name", function, "--color", "never"]
    command += ["--fp32-accumulation-strategy", strategy]
    if weights:
        command += ["--large-weight-threshold", "0"]  # what is left stands in the source
    for spec in inputs:
        if spec.shape and not isinstance(spec.shape[0], int):
            command += ["--input-dim", f"{spec.name}:0=1"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(command)
        except SystemExit as stop:
            code = stop.code
    if code or not (out / SOURCE).is_file():
        told = " ".join(said.getvalue().split())[-500:]
        raise UnsupportedModelError(
            f"the generator refuses it: {told}", hint="the onnxruntime target takes it, or freeze its shapes"
        )
    text = (out / SOURCE).read_text(encoding="utf-8")
    if weights:
        text = attached(text, arguments_of(text, NETWORK), len(inputs), weights)
        (out / SOURCE).write_text(text, encoding="utf-8")
        write_weights(weights, out / WEIGHTS)
    (out / HEADER).write_text(header_of(text), encoding="utf-8")
    return {"emx_onnx_cgen": importlib.metadata.version(GENERATOR), "loads_weights": _LOADER in text}


def header_of(source: str) -> str:
    """Declarations of what ``model.c`` defines, for C and C++.

    Raises:
        InternalError: the generator's function is not where it was.
    """
    arguments = arguments_of(source, "model").replace("restrict ", "")
    loader = (
        "/* Read the weights once, before the first call; false where the file is not theirs. */\n"
        "bool model_load(const char *path);\n\n"
        if _LOADER in source
        else ""
    )
    return (
        "/* Declarations for model.c: inputs first, then outputs, in row-major order. */\n\n"
        "#ifndef MODEL_H\n#define MODEL_H\n\n#include <stdbool.h>\n#include <stdint.h>\n\n"
        f'#ifdef __cplusplus\nextern "C" {{\n#endif\n\n{loader}void model({arguments});\n\n'
        "#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
    )


def arguments_of(source: str, function: str) -> str:
    """What stands between the parentheses of ``function``'s definition.

    Raises:
        InternalError: the generator's function is not where it was.
    """
    found = re.search(_FUNCTION.format(function), source, re.MULTILINE | re.DOTALL)
    if found is None:
        raise InternalError(f"the generated source has no function `{function}`", where=SOURCE)
    return found.group(1)
