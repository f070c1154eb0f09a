"""``python:module:factory``: the factory returns a Keras model, a ``tf.function``, or a concrete function."""

from __future__ import annotations

import inspect
import time
from typing import Any

from optim.errors import UserError
from pipeline.sources.contract import Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.detect import FACTORY_PREFIX
from pipeline.sources.factory import call_factory
from pipeline.sources.frozen_inputs import with_frozen_inputs
from pipeline.sources.function_model import FunctionModel, convert_model_function, open_function
from pipeline.sources.keras_model import KerasSession, convert_keras
from targets.contract import Session

_EXPECTED = "a Keras model, a tf.function with an input_signature, or a concrete function"


class TfFunctionSource:
    """A model made by the user's own Python code; needs ``allow_custom_code``."""

    def __init__(self) -> None:
        self._made: tuple[str, Any] | None = None

    def convert(self, request: ConvertRequest, progress: Progress = no_progress) -> Converted:
        """Call the factory and convert what it makes.

        Raises:
            UserError: custom code is not allowed, the factory is unknown or returns something else.
            UnsupportedModelError: the factory failed, or an op cannot be carried over.
        """
        started = time.perf_counter()
        made = self._make(request)
        load_s = time.perf_counter() - started
        if _is_keras(made):
            return convert_keras(made, request, notes=(), load_s=load_s, progress=progress)
        model = _function_model(made, request)
        try:
            return convert_model_function(model, request, load_s=load_s, progress=progress)
        except AssertionError as error:
            raise _deleted(error, request) from error

    def open(self, request: ConvertRequest) -> Session:
        """What the factory made, in TensorFlow itself."""
        made = self._make(request)
        if _is_keras(made):
            return with_frozen_inputs(KerasSession(made, request), request)
        return open_function(_function_model(made, request), request)

    def _make(self, request: ConvertRequest) -> Any:
        if self._made is None or self._made[0] != request.model:
            self._made = (request.model, call_factory(request.model.removeprefix(FACTORY_PREFIX), request))
        return self._made[1]


def _deleted(error: AssertionError, request: ConvertRequest) -> Exception:
    """TensorFlow's assertion that a function's variables still exist, as the user's error."""
    if "deleted" not in str(error):
        return error
    return UserError(
        "the function reads variables that are gone: nothing keeps them alive",
        where=request.model,
        expected="a factory whose result holds its variables, such as a tf.Module",
        hint="keep the variables in an attribute of what the factory returns",
    )


def _is_keras(made: object) -> bool:
    import keras

    return isinstance(made, keras.Model)


def _function_model(made: Any, request: ConvertRequest) -> FunctionModel:
    import tensorflow as tf

    owner = made
    if isinstance(made, tf.Module) and not hasattr(made, "get_concrete_function"):
        made = made.__call__
    if hasattr(made, "get_concrete_function"):
        made = _concrete(made, request)
    if not hasattr(made, "captured_inputs"):
        raise UserError(f"the factory returned a {type(made).__name__}", expected=_EXPECTED)
    captured = {id(inner) for _, inner in made.graph.captures}
    inputs = [tensor.name.removesuffix(":0") for tensor in made.inputs if id(tensor) not in captured]
    structured = made.structured_outputs
    if isinstance(structured, dict):
        outputs = sorted(structured)
    else:
        count = len(made.outputs)
        outputs = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return FunctionModel(owner, made, tuple(inputs), tuple(outputs))


def _concrete(function: Any, request: ConvertRequest) -> Any:
    import tensorflow as tf

    if getattr(function, "input_signature", None) is not None:
        return function.get_concrete_function()
    if not request.inputs:
        raise UserError(
            "the tf.function has no input_signature",
            hint="give it one, or add --inputs 'x[1,224,224,3]' in the order of its arguments",
        )
    python_function = getattr(function, "python_function", function)
    parameters = [name for name in inspect.signature(python_function).parameters if name != "self"]
    specs = []
    for name in parameters[: len(request.inputs)]:
        shape = request.inputs.get(name)
        if shape is None:
            raise UserError(f"argument '{name}' has no shape", hint=f"add --inputs '{name}[1,224,224,3]'")
        specs.append(tf.TensorSpec([None if d < 0 else d for d in shape], tf.float32, name=name))
    return function.get_concrete_function(*specs)
