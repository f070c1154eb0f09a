"""The browser: ``model.onnx``, ONNX Runtime Web and a page that runs the one on the other.

The page takes an image or a reference input, shows the output, and replays every reference. Any static server
will do, and no other machine is asked: the runtime travels in the bundle (the npm package onnxruntime-web,
fetched once and kept), and the page's content security policy forbids anything else. Verified by driving that
very page in a headless Chromium, in WebAssembly and, where the browser offers an adapter, in WebGPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import onnx_ir as ir

from optim import model as onnx_file
from optim.errors import UnsupportedModelError
from optim.facts import opset_of
from targets.child import ChildSession, signature_facts
from targets.contract import Artefact, Availability, Redistributed, Session
from targets.long_means import split_long_means
from targets.npm_package import NpmPackage, can_be_had, extract
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove_with
from targets.standard_ops import nonstandard_nodes

PACKAGE: Final = NpmPackage(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
MODEL_FILE: Final = "model.onnx"
PAGE: Final = Path(__file__).parent / "templates" / "web"
PAGE_FILES: Final = ("index.html", "app.js", "image.js", "npz.js", "parity.js", "style.css", "serve.py")
# One build of the runtime serves both providers; the one without WebGPU is half its size.
BUILDS: Final = {
    True: ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
    False: ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
}
LARGEST: Final = onnx_file.INLINE_LIMIT_BYTES  # the page reads the model as one message
NOTICE: Final = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

Third parties' notices: ThirdPartyNotices.txt in https://github.com/microsoft/onnxruntime
"""


class WebOptions(TargetOptions):
    """Options of the ``web`` target."""

    webgpu: bool = True
    """Ship the build that also runs on WebGPU (27 MB instead of 14 MB)."""
    optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    """Graph optimisation when the page makes its session."""


@dataclass(frozen=True)
class Web:
    """ONNX Runtime Web in a page of its own."""

    @property
    def name(self) -> str:
        return "web"

    @property
    def summary(self) -> str:
        return "page with ONNX Runtime Web for any static server, run by headless Chromium (wasm, WebGPU)"

    def available(self) -> Availability:
        """Builds the page round a one-node model and runs it in the browser, in WebAssembly."""
        if not can_be_had(PACKAGE):
            detail = f"no npm on this machine, and no copy of {PACKAGE.name} {PACKAGE.version} kept"
            return Availability(available=False, detail=detail, needs="Node.js with npm (needed once)")
        return prove_with(self, "Chromium on PATH, or its path in CHROMIUM")

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """Nodes outside the standard, strings, and weights beyond what a browser's memory holds."""
        loaded = onnx_file.load(model)
        reasons = list(nonstandard_nodes(loaded))
        reasons += [
            f"{value.name}: the page passes numbers, not strings"
            for value in (*loaded.graph.inputs, *loaded.graph.outputs)
            if value.dtype is ir.DataType.STRING
        ]
        weights = onnx_file.weight_bytes(loaded)
        if weights > LARGEST:
            reasons.append(
                f"its weights are {weights / 1e9:.1f} GB; a page holds {LARGEST / 1e9:g} GB of them"
            )
        return tuple(reasons)

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write the page, the runtime under ``ort/`` and ``model.onnx``.

        Raises:
            UnsupportedModelError: see ``unsupported``.
            MissingRuntimeError: onnxruntime-web is not kept here and npm cannot bring it.
        """
        chosen = parse_options(WebOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        loaded = onnx_file.load(model)
        split_long_means(loaded, opset_of(loaded))  # WebAssembly's kernels sum one element after another
        script, wasm = BUILDS[chosen.webgpu]
        # The script looks for its WebAssembly beside itself, under the name it was built with.
        members = {f"dist/{script}": "ort/ort.bundle.mjs", f"dist/{wasm}": f"ort/{wasm}"}
        extract(PACKAGE, members, out)
        onnx_file.save(loaded, out / MODEL_FILE, external=False)
        for name in PAGE_FILES:
            shutil.copyfile(PAGE / name, out / name)
        providers = ["wasm", "webgpu"] if chosen.webgpu else ["wasm"]
        recorded: dict[str, object] = {
            **chosen.model_dump(),
            "providers": providers,
            "runnable": [f"{MODEL_FILE}#{provider}" for provider in providers],
            "optional": [f"{MODEL_FILE}#webgpu"] if chosen.webgpu else [],
            "onnxruntime_web": PACKAGE.version,
            "signature": signature_facts(model),
        }
        name, version, runtime = PACKAGE.name, PACKAGE.version, tuple(members.values())
        put_in = Redistributed(name, version, "MIT", runtime, PACKAGE.purl, NOTICE)
        files = (MODEL_FILE, *PAGE_FILES, *runtime)
        return Artefact(files, recorded, requires={name: version}, redistributed=(put_in,))

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """The page in a headless browser.

        Raises:
            MissingRuntimeError: there is no Chromium here, or it has no WebGPU where that is asked for.
        """
        return ChildSession(self.name, folder, artefact)
