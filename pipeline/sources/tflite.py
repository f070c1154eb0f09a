"""TFLite files: float, half-precision weights, int8 with quantisation kept as QDQ pairs, sparse."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_ir.passes.common import RemoveUnusedNodesPass

from optim.errors import UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.frozen_inputs import with_frozen_inputs
from pipeline.sources.onnx_signature import apply_request
from pipeline.sources.onnx_upgrade import upgrade
from pipeline.sources.tflite_graph import convert_entry
from pipeline.sources.tflite_hybrid import hybrid_operators
from pipeline.sources.tflite_model import load_tflite
from pipeline.sources.tflite_session import TfliteSession, framework
from pipeline.sources.tflite_spread import tolerance
from targets.contract import Session


@dataclass(frozen=True)
class TfliteSource:
    """A TensorFlow Lite (LiteRT) model."""

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Read ``request.model`` and write its entry graph in ONNX.

        Raises:
            UserError: the file is missing or damaged, or a given shape does not fit.
            UnsupportedModelError: an operator cannot be carried over; names it and its place.
        """
        started = time.perf_counter()
        progress("read", 0.0)
        source = load_tflite(Path(request.model))
        loaded = time.perf_counter()
        progress("convert", 0.2)
        notes: list[str] = []
        reached = source.reachable()
        if unused := [graph.name for n, graph in enumerate(source.subgraphs) if n not in reached]:
            notes.append(f"the entry graph was converted; graphs that it does not run: {', '.join(unused)}")
        hybrid = [operator for number in reached for operator in hybrid_operators(source.subgraphs[number])]
        if hybrid:
            notes.append(
                f"{len(hybrid)} operators have integer weights and float data; TFLite rounds their data to 8 "
                "bits at run time, the converted model computes them in float32, nearer to the trained model"
            )
        known = {source.main.tensors[index].name for index in source.main.inputs}
        shapes = {name: shape for name, shape in request.inputs.items() if name in known}
        if unknown := sorted(set(request.inputs) - known):
            raise UserError(
                f"the model has no input {', '.join(unknown)}",
                where="inputs",
                expected=", ".join(sorted(known)),
            )
        model, layers = convert_entry(source, shapes)
        frozen = apply_request(model, replace(request, inputs={}))
        RemoveUnusedNodesPass()(model)
        progress("upgrade", 0.9)
        upgrade(model, request.opset)
        progress("compare kernels", 0.95)
        allowed = tolerance(request, source.main)
        if allowed:
            notes.append(
                "computes in integers; TFLite's double rounding is carried along, and outputs are held to "
                + ", ".join(f"{name} ± {bound:.3g}" for name, bound in allowed.items())
                + ", from how far TFLite's own kernels spread a rounding"
            )
        seconds = {"load": loaded - started, "convert": time.perf_counter() - loaded}
        return Converted(
            model=model,
            framework=framework(),
            frozen=frozen,
            notes=tuple(notes),
            layers=layers,
            seconds=seconds,
            tolerance=allowed,
        )

    def open(self, request: ConvertRequest) -> Session:
        """The file in TFLite's own interpreter, reference kernels."""
        return with_frozen_inputs(TfliteSession(request), request)
