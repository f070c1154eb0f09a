"""The TFLite file in its own interpreter."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from optim.contract import Feeds, Outputs, TensorSpec
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.tflite_detections import cleared, detection_heads
from pipeline.sources.tflite_hybrid import with_float_weights


def framework() -> str:
    """Name and version of the interpreter on this machine."""
    from importlib.metadata import PackageNotFoundError, version

    for package in ("ai-edge-litert", "tensorflow", "tensorflow-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return "tflite"


class Kernels(StrEnum):
    """Which of TFLite's implementations run."""

    BUILT_IN = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"  # TFLite's own
    REFERENCE = "BUILTIN_REF"  # plain loops
    FASTEST = "AUTO"  # with XNNPACK where it is built in


class TfliteSession:
    """An interpreter with TFLite's built-in kernels: no delegate, one thread."""

    def __init__(self, request: ConvertRequest, kernels: Kernels = Kernels.BUILT_IN) -> None:
        path = Path(request.model)
        module = _interpreter_module()
        if not path.is_file():
            raise UserError("no such file", where=str(path), expected="a .tflite file")
        # Hybrid operators are compared in float32: their rounding at run time is TFLite's, not the model's.
        content = with_float_weights(path.read_bytes())
        try:
            interpreter = module.Interpreter(
                model_content=content,
                num_threads=1,
                experimental_op_resolver_type=getattr(module.OpResolverType, kernels.value),
            )
        except Exception as error:
            raise UserError(f"the interpreter cannot load it: {error}", where=str(path)) from error
        self._interpreter: Any = interpreter
        self._heads = detection_heads(content)
        self._allocated: dict[str, tuple[int, ...]] | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs by tensor name; None where the shape signature leaves a dimension free."""
        return tuple(_spec(detail) for detail in self._interpreter.get_input_details())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs by tensor name."""
        return tuple(_spec(detail) for detail in self._interpreter.get_output_details())

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by tensor name, integers where the model's are.

        Raises:
            UserError: an input is missing or has another type or shape.
        """
        details = self._interpreter.get_input_details()
        for detail in details:
            name = detail["name"]
            if name not in feeds:
                raise UserError(f"no data for {name}", where="inputs")
            if feeds[name].dtype != detail["dtype"]:
                raise UserError(
                    f"{name} is {feeds[name].dtype}", where="inputs", expected=np.dtype(detail["dtype"]).name
                )
        shapes = {detail["name"]: feeds[detail["name"]].shape for detail in details}
        try:
            if shapes != self._allocated:
                for detail in details:
                    if tuple(detail["shape"]) != shapes[detail["name"]]:
                        self._interpreter.resize_tensor_input(detail["index"], shapes[detail["name"]])
                self._interpreter.allocate_tensors()
                self._allocated = shapes
            self._interpreter.reset_all_variables()  # the converted model starts anew with every run
            for detail in details:
                self._interpreter.set_tensor(detail["index"], np.asarray(feeds[detail["name"]], order="C"))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise _cannot_run(error, free=any(None in spec.shape for spec in self.inputs)) from error
        # A copy: the interpreter reuses its memory.
        outputs = {
            detail["name"]: np.array(self._interpreter.get_tensor(detail["index"]))
            for detail in self._interpreter.get_output_details()
        }
        return cleared(outputs, self._heads)

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _interpreter_module() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        try:
            from tensorflow.lite.python import interpreter
        except ImportError as error:
            raise MissingRuntimeError(str(error), hint="pip install 'fairlead[litert]'") from error
    return interpreter


def _cannot_run(error: Exception, *, free: bool) -> UserError | UnsupportedModelError:
    """With shapes left free the inputs may be at fault; else the file is, by the operator that is named."""
    if free:
        return UserError(f"the interpreter cannot run these inputs: {error}", where="inputs")
    named = re.search(r"Node number \d+ \((\w+)\)", str(error))
    return UnsupportedModelError(
        f"TFLite's own interpreter cannot run the model: {error}",
        op=named.group(1) if named else "",
        hint="convert the framework's own model instead of the .tflite file, or make the file again",
    )


def _spec(detail: dict[str, Any]) -> TensorSpec:
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or len(signature) != len(detail["shape"]) else signature
    dims = tuple(None if size < 0 else int(size) for size in shape)
    return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, dims)
