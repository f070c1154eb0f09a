"""A loaded Keras model → ONNX, and as a session. Shared by the ``.keras`` and ``.h5`` sources."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import UnsupportedModelError, UserError
from pipeline.sources.contract import AnyLayer, Converted, ConvertRequest, Progress, no_progress
from pipeline.sources.keras_channels_first import convolutions_channels_last
from pipeline.sources.keras_layers import LayerTrace, source_layers
from pipeline.sources.keras_resizes import free_resizes
from pipeline.sources.layer_values import keras_layer_values
from pipeline.sources.tf.convert import convert_function
from pipeline.sources.tf.double_precision import DoubleGraph
from pipeline.sources.tf.function_graph import graph_of_function
from pipeline.sources.tf.graph import Edge, TfGraph
from pipeline.sources.tf.request import shaped
from targets.contract import Session


@dataclass(frozen=True)
class KerasInput:
    """One input tensor of a Keras model: ONNX name, dtype, shape (None: free)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class KerasCall:
    """How to call a model: flat arguments to its own structure and back."""

    model: Any
    inputs: tuple[KerasInput, ...]
    output_names: tuple[str, ...]

    def __call__(self, *tensors: Any) -> list[Any]:
        """Flat outputs for flat inputs, in inference mode."""
        import tensorflow as tf

        structure = getattr(_functional(self.model), "_inputs_struct", None)
        packed = tensors[0] if len(tensors) == 1 else list(tensors)
        if structure is not None:
            packed = tf.nest.pack_sequence_as(structure, list(tensors))
        with free_resizes(), convolutions_channels_last():
            flat: list[Any] = tf.nest.flatten(self.model(packed, training=False))
        return flat


def keras_framework() -> str:
    """Versions of TensorFlow and Keras."""
    import keras
    import tensorflow as tf

    return f"tensorflow {tf.__version__}, keras {keras.__version__}"


def convert_keras(
    model: Any,
    request: ConvertRequest,
    *,
    notes: tuple[str, ...],
    load_s: float,
    progress: Progress = no_progress,
) -> Converted:
    """Convert ``model`` in inference mode.

    Raises:
        UserError: an input or output is named that the model does not have, or shapes must be given.
        UnsupportedModelError: an op cannot be carried over.
    """
    import tensorflow as tf

    started = time.perf_counter()
    call = call_of(model, request)
    trace = LayerTrace(model)
    signature = [tf.TensorSpec(one.shape, one.dtype, name=_plain(one.name)) for one in call.inputs]
    with trace, traceable_names(model):
        concrete = _traced(tf.function(call, autograph=False), signature, call)
    progress("convert", 0.3)
    chosen = _chosen(call.output_names, request.outputs)
    result = convert_function(
        concrete,
        inputs=[one.name for one in call.inputs],
        outputs=chosen,
        request=request,
    )
    return Converted(
        model=result.model,
        framework=keras_framework(),
        frozen=result.frozen,
        notes=notes + _stateful_note(model) + result.notes,
        layers=source_layers(model, trace, result.model),
        seconds={"load": load_s, "convert": time.perf_counter() - started},
    )


def _traced(function: Any, signature: list[Any], call: KerasCall) -> Any:
    """The function for these inputs.

    Raises:
        UserError: a layer needs sizes that the inputs leave free.
        UnsupportedModelError: Keras cannot express the model as a graph.
    """
    try:
        return function.get_concrete_function(*signature)
    except (ValueError, TypeError, NotImplementedError) as error:
        what = f"Keras cannot trace the model: {type(error).__name__}: {_plain_text(error)[:400]}"
        free = [one for one in call.inputs if any(dim is None for dim in one.shape[1:])]
        if free:
            shape = free[0].shape
            dims = ",".join(str(dim or (1 if axis == 0 else 224)) for axis, dim in enumerate(shape))
            raise UserError(
                what,
                expected="sizes that every layer can work with",
                hint=f"give fixed sizes: --inputs '{free[0].name}[{dims}]' with your numbers",
            ) from error
        raise UnsupportedModelError(what, hint="run the model in Keras with model.predict first") from error


def _plain_text(error: Exception) -> str:
    """An error's text without the colours that Keras puts into it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()


def call_of(model: Any, request: ConvertRequest) -> KerasCall:
    """Inputs and outputs of ``model`` under the names they get in ONNX.

    Raises:
        UserError: the model has no fixed signature and the request names no shapes.
    """
    import tensorflow as tf

    tensors = tf.nest.flatten(getattr(model, "inputs", None) or [])
    if not tensors:
        return _call_of_subclassed(model, request)
    names = _input_names(model, tensors)
    known = [KerasInput(n, _dtype(t), tuple(t.shape)) for n, t in zip(names, tensors, strict=True)]
    inputs = tuple(KerasInput(one.name, one.dtype, shaped(one.name, one.shape, request)) for one in known)
    _refuse_unknown(request, [one.name for one in inputs])
    # An output that is an input handed through would otherwise bear its name.
    taken = [one.name for one in inputs]
    found = [_plain(str(name)) for name in _functional(model).output_names]
    return KerasCall(model, inputs, _unique([*taken, *found])[len(taken) :])


def _functional(model: Any) -> Any:
    """The functional model behind a Sequential; else the model itself."""
    return getattr(model, "_functional", None) or model


def _call_of_subclassed(model: Any, request: ConvertRequest) -> KerasCall:
    """A subclassed model says its shapes only when it was built or called."""
    shapes = _built_shapes(model)
    if shapes is None and not request.inputs:
        raise UserError(
            f"the subclassed model {model.name} does not say its input shapes",
            hint="add --inputs 'inputs[-1,28,28,1]' with your shape",
        )
    if request.inputs:
        shapes = {name: shape for name, shape in request.inputs.items() if shape is not None} or shapes
    assert shapes is not None
    dtype = model.compute_dtype if isinstance(model.compute_dtype, str) else "float32"
    inputs = tuple(
        KerasInput(name, dtype, tuple(None if d is None or d < 0 else d for d in shape))
        for name, shape in shapes.items()
    )
    return KerasCall(model, inputs, ("output",))


def _built_shapes(model: Any) -> Mapping[str, tuple[int | None, ...]] | None:
    """Shapes that the model was built with, by argument name, the batch left free."""
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        return None
    found: dict[str, tuple[int | None, ...]] = {}
    for key, shape in shapes.items():
        if isinstance(shape, tuple | list) and all(d is None or isinstance(d, int) for d in shape):
            name = "inputs" if key == "input_shape" else str(key).removesuffix("_shape")
            found[name] = (None, *shape[1:])
    return found or None


def _input_names(model: Any, tensors: list[Any]) -> tuple[str, ...]:
    structure = getattr(_functional(model), "_inputs_struct", None)
    if isinstance(structure, dict) and len(structure) == len(tensors):
        return _unique([str(key) for key in sorted(structure)])
    return _unique([_plain(str(tensor.name)) for tensor in tensors])


def _unique(names: list[str]) -> tuple[str, ...]:
    taken: dict[str, int] = {}
    result = []
    for name in names:
        count = taken.get(name, 0)
        taken[name] = count + 1
        result.append(name if count == 0 else f"{name}_{count}")
    return tuple(result)


def _plain(name: str) -> str:
    return name.removesuffix(":0").replace("/", "_")


def _dtype(tensor: Any) -> str:
    return tensor.dtype if isinstance(tensor.dtype, str) else str(tensor.dtype.name)


def _chosen(available: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[int, str]]:
    """Index and ONNX name of each output kept."""
    if not wanted:
        return list(enumerate(available))
    chosen = []
    for name in wanted:
        plain = name if name in available else name.removesuffix(":0")
        if plain not in available:
            raise UserError(f"the model has no output '{name}'", expected=f"among {', '.join(available)}")
        chosen.append((available.index(plain), name))
    return chosen


def _refuse_unknown(request: ConvertRequest, names: list[str]) -> None:
    for name in (*request.inputs, *request.freeze):
        if name not in names and name.removesuffix(":0") not in names:
            raise UserError(f"the model has no input '{name}'", expected=f"among {', '.join(names)}")


class KerasSession(Session):
    """A Keras model in inference mode, with the converted model's names."""

    def __init__(self, model: Any, request: ConvertRequest) -> None:
        self._call = call_of(model, request)
        self._chosen = _chosen(self._call.output_names, request.outputs)
        self._inputs = tuple(TensorSpec(one.name, one.dtype, one.shape) for one in self._call.inputs)
        self._output_specs: tuple[TensorSpec, ...] | None = None
        self._function: Any = None
        self._double: DoubleGraph | None = None

    def _compiled(self) -> Any:
        """The model as one graph: how TensorFlow is deployed, and many times faster than layer by layer."""
        if self._function is None:
            import tensorflow as tf

            specs = [tf.TensorSpec(one.shape, one.dtype) for one in self._call.inputs]
            self._function = tf.function(self._call, autograph=False, input_signature=specs)
        return self._function

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        if self._output_specs is None:
            traced = self._compiled().get_concrete_function().outputs
            self._output_specs = tuple(
                TensorSpec(
                    name,
                    traced[i].dtype.name,
                    tuple(traced[i].shape.as_list() if traced[i].shape.rank is not None else ()),
                )
                for i, name in self._chosen
            )
        return self._output_specs

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            UserError: an input is missing, or the model rejects the feeds.
        """
        import tensorflow as tf

        missing = [one.name for one in self._call.inputs if one.name not in feeds]
        if missing:
            raise UserError(f"no array for input {missing[0]}", expected=f"{[i.name for i in self._inputs]}")
        tensors = [tf.convert_to_tensor(feeds[one.name], one.dtype) for one in self._call.inputs]
        for layer in stateful_layers(self._call.model):
            layer.reset_state()  # the converted model starts anew with every run
        try:
            flat = self._compiled()(*tensors)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise UserError(f"the Keras model rejects the inputs: {str(error)[:400]}") from error
        return {name: np.asarray(flat[i]) for i, name in self._chosen}

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs in float64; raises UnsupportedModelError where TensorFlow cannot."""
        if stateful_layers(self._call.model):
            raise UnsupportedModelError("layers that carry a state keep it in float32")
        if self._double is None:
            graph = graph_of_function(self._compiled().get_concrete_function())
            inputs = zip(graph.inputs, self._call.inputs, strict=True)
            self._double = DoubleGraph(
                TfGraph(
                    graph.graph_def,
                    tuple(Edge(tensor, one.name) for tensor, one in inputs),
                    tuple(Edge(graph.outputs[i], name) for i, name in self._chosen),
                    graph.weights,
                )
            )
        return self._double.run(feeds)

    def layer_values(self, feeds: Feeds, layers: Collection[AnyLayer]) -> dict[str, Array]:
        """What the layers return, by name."""
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(feeds[one.name], one.dtype) for one in self._call.inputs]
        names = {layer.name for layer in layers}
        return keras_layer_values(self._call, self._call.model, tensors, names)

    def close(self) -> None:
        """Nothing to release before the process ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _stateful_note(model: Any) -> tuple[str, ...]:
    names = ", ".join(str(layer.name) for layer in stateful_layers(model))
    return (f"stateful layers start from zero in every run of the converted model: {names}",) if names else ()


def stateful_layers(model: Any) -> list[Any]:
    """Recurrent layers that carry their state from one call to the next."""
    flatten = getattr(model, "_flatten_layers", None)
    layers: list[Any] = [] if flatten is None else flatten(include_self=False, recursive=True)
    return [layer for layer in layers if getattr(layer, "stateful", False) and hasattr(layer, "reset_state")]


@contextmanager
def traceable_names(model: Any) -> Iterator[None]:
    """While active, layers whose names TensorFlow cannot use as scopes carry a cleaned one."""
    changed: list[tuple[Any, str]] = []
    layers = [model, *getattr(model, "_flatten_layers", lambda **_: [])(include_self=False, recursive=True)]
    for layer in layers:
        name = str(layer.name)
        clean = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
        clean = clean if clean[:1].isalnum() else f"m{clean}"
        if clean != name:
            changed.append((layer, name))
            layer.name = clean
    try:
        yield
    finally:
        for layer, name in changed:
            layer.name = name
