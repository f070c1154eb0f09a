"""Wolfram Language: ``build.wl`` and ``params.wxf``, with encoder, decoder and a script that checks them.

There is no public description of ``.wlnet``, so the net is given as the text that builds it. No free runtime
exists either: what is written is checked by an exact round trip of the parameters and by an evaluator that
reads the text (``targets.wolfram.evaluate``); it is executed where a kernel is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from optim import model as onnx_file
from optim.errors import MissingRuntimeError
from optim.heads import saturating_heads
from targets.bundle_context import BundleContext, bundle_context
from targets.child import export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.layer_table import OPTION, recorded
from targets.options import TargetOptions, parse_options
from targets.test_set import TEST_SET_FILE, load_test_set
from targets.wolfram import companions, wxf
from targets.wolfram.lower import lower, unsupported_nodes

BUILD_FILE: Final = "build.wl"
PARAMETERS_FILE: Final = "params.wxf"
NEEDS: Final = "a Wolfram kernel: `wolframscript -file verify.wls` in the bundle replays its references"


class WolframOptions(TargetOptions):
    """Options of the ``wolfram`` target."""

    test_set: bool = False
    """Put the raw test examples and their labels into the bundle, with a script that measures accuracy."""


@dataclass(frozen=True)
class Wolfram:
    """A NetGraph in the Wolfram Language."""

    @property
    def name(self) -> str:
        return "wolfram"

    @property
    def summary(self) -> str:
        return "Wolfram Language: text that builds a NetGraph, WXF parameters, NetEncoder and NetDecoder"

    def available(self) -> Availability:
        """Never verifiable from here: a kernel, if there is one, is driven by the bundle's own script."""
        if importlib.util.find_spec("wolframclient") is None:
            return Availability(
                available=False, detail="wolframclient is not installed", needs="fairlead[wolfram]"
            )
        version = importlib.metadata.version("wolframclient")
        kernel = shutil.which("wolframscript")
        found = f"; {kernel} is here, run verify.wls with it" if kernel else "; no Wolfram kernel here"
        return Availability(available=False, detail=f"wolframclient {version} writes it{found}", needs=NEEDS)

    def unsupported(self, model: Path) -> tuple[str, ...]:
        return unsupported_nodes(onnx_file.load(model))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``build.wl`` and ``params.wxf``; in a bundle also references, classifier and scripts.

        Raises:
            UnsupportedModelError: a node has no exact counterpart.
            InternalError: the text does not compute what the references say.
            MissingRuntimeError: wolframclient is not installed.
        """
        chosen = parse_options(WolframOptions, self.name, options)
        loaded = onnx_file.load(model)
        facts = export_in_child("targets.wolfram.target:export", model, out, chosen.model_dump())
        told = {**chosen.model_dump(), "signature": signature_facts(model), **facts}
        files = [BUILD_FILE, PARAMETERS_FILE]
        given = bundle_context(out)
        if given.references:
            heads = saturating_heads(loaded)
            softmax = any(head.op == "Softmax" for head in heads.values())
            told["checks"] = self._checked(out, facts["ports"], given, softmax=softmax)
            files += companions.write(out, facts["ports"], given, load_test_set(out))
            (out / TEST_SET_FILE).unlink(missing_ok=True)  # there it is HDF5
        return Artefact(tuple(files), told)

    def _checked(
        self, out: Path, ports: Mapping[str, Any], given: BundleContext, *, softmax: bool
    ) -> dict[str, object]:
        """What was checked without a kernel, for the manifest."""
        text = (out / BUILD_FILE).read_text(encoding="utf-8")
        parameters = wxf.read(out / PARAMETERS_FILE)
        figure = companions.check(text, parameters, ports, given, softmax=softmax)
        return {
            "parameters": "read back from WXF bit for bit",
            "text": f"{BUILD_FILE} parsed and evaluated in float64 on the first example of each reference",
            "max_abs_over_range": figure.max_abs_over_range,
            "snr_db": figure.snr_db if math.isfinite(figure.snr_db) else "inf",
        }

    def open(self, folder: Path, artefact: Artefact) -> Session:
        """Never opens.

        Raises:
            MissingRuntimeError: always.
        """
        del folder, artefact
        raise MissingRuntimeError("no Wolfram kernel", hint=f"needs {NEEDS}")


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: lower the graph, write the text and the parameters.

    Raises:
        UnsupportedModelError: as ``lower``.
        InternalError: the parameters do not survive the round trip.
    """
    del options
    lowered = lower(onnx_file.load(model))
    (out / BUILD_FILE).write_text(lowered.text, encoding="utf-8")
    wxf.write(lowered.parameters, out / PARAMETERS_FILE)
    ports = {"input": asdict(lowered.input), "output": asdict(lowered.output)}
    return {
        "layers": lowered.layers,
        OPTION: recorded(lowered.table),
        "wolframclient": importlib.metadata.version("wolframclient"),
        "ports": {
            side: {**port, "perm": list(port["perm"]), "dimensions": list(port["dimensions"])}
            for side, port in ports.items()
        },
    }
