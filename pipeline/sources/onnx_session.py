"""The original ONNX file as its own reference: ONNX Runtime without optimisation, or ONNX's evaluator.

ONNX Runtime implements most operators from opset 7 on. What it refuses as not implemented runs in
``onnx.reference``, with the opset 1-6 definitions of :mod:`pipeline.sources.onnx_legacy_reference`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.onnx_exporters import repair_exporter_faults
from pipeline.sources.onnx_load import load_untrusted
from pipeline.sources.onnx_signature import apply_request, lift_weights
from targets.reference import Float64Session

OLDEST_EVALUATED = 7  # the oldest opset that broadcasts as NumPy does

Run = Callable[[Mapping[str, Array]], list[Array]]


class OnnxSession:
    """The file of ``request``, loaded as it is. Inputs and outputs have the file's own names."""

    def __init__(self, request: ConvertRequest) -> None:
        path = Path(request.model)
        self._request = request
        self._double: Float64Session | None = None
        model, cut = _read(request)
        self._inputs = tuple(map(_spec, model.graph.inputs))
        self._outputs = tuple(map(_spec, model.graph.outputs))
        self._run: Run | None = _open(path, model if cut else None, self.output_names)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return [spec.name for spec in self._outputs]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs without weights."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in the graph's order."""
        return self._outputs

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            UserError: an input is missing, unknown, or does not fit.
        """
        if self._run is None:
            raise UserError("the session is closed")
        names = {spec.name for spec in self._inputs}
        if missing := sorted(names - set(feeds)):
            raise UserError(f"no data for {', '.join(missing)}", where="inputs")
        try:
            results = self._run({name: feeds[name] for name in names})
        except Exception as error:
            raise UserError(f"the model cannot run on these inputs: {error}", where="inputs") from error
        return dict(zip(self.output_names, results, strict=True))

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs of the file's own graph, before it is brought to another opset, in float64.

        Raises:
            UnsupportedModelError: its opset is older than our evaluator reads, or an operator has no float64
                form.
        """
        if self._double is None:
            model, _ = _read(self._request)
            opset = model.opset_imports.get("", 1)
            if opset < OLDEST_EVALUATED:
                raise UnsupportedModelError(
                    f"the float64 evaluator reads opset {OLDEST_EVALUATED} and newer, this file is of {opset}"
                )
            self._double = Float64Session(model)
        with np.errstate(all="ignore"):
            return self._double.run(feeds)

    def close(self) -> None:
        """Free the runtime."""
        self._run = self._double = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _read(request: ConvertRequest) -> tuple[ir.Model, bool]:
    """The file's graph, cut and frozen as asked, and whether it is another than the file's."""
    model = load_untrusted(Path(request.model))
    lift_weights(model, keep=frozenset(request.inputs))
    repaired = repair_exporter_faults(model)
    apply_request(model, request)
    return model, bool(request.outputs or request.freeze or request.inputs or repaired)


def _open(path: Path, changed: ir.Model | None, outputs: list[str]) -> Run:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingRuntimeError(str(error), hint="pip install 'fairlead[cpu]'") from error
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        # By path where nothing changed: ONNX Runtime then finds external data by itself.
        model = str(path) if changed is None else _serialize(changed)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if not re.search("NOT_IMPLEMENTED|opset", str(error), re.IGNORECASE):
            raise UnsupportedModelError(
                f"ONNX Runtime cannot load the original: {error}", where=str(path)
            ) from error
        return _reference(path, changed)

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return list(session.run(outputs, dict(feeds)))
        except Exception:
            # The runtime's fault, or the model's? If the evaluator fails too, the first error stands.
            with contextlib.suppress(Exception):
                return _reference(path, changed)(feeds)
            raise

    return run


def _reference(path: Path, changed: ir.Model | None) -> Run:
    import onnx

    from pipeline.sources.onnx_legacy_reference import evaluator

    proto = onnx.load(path) if changed is None else onnx.ModelProto.FromString(_serialize(changed))
    return evaluator(proto)


def _serialize(model: ir.Model) -> bytes:
    proto: Any = ir.to_proto(model)
    serialized: bytes = proto.SerializeToString()
    return serialized


def _spec(value: ir.Value) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else d.value for d in value.shape or ())
    return TensorSpec(value.name or "", _dtype_name(value), shape)


def _dtype_name(value: ir.Value) -> str:
    if value.dtype is None or value.dtype == ir.DataType.UNDEFINED:
        return ""
    if value.dtype == ir.DataType.STRING:
        return "object"
    return np.dtype(value.dtype.numpy()).name
