"""A model that is a TensorFlow function: of a SavedModel's signature, or made by the user's factory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from optim.contract import Feeds, Outputs, TensorSpec
from optim.errors import UserError
from pipeline.sources.contract import Converted, ConvertRequest, Frozen, Progress
from pipeline.sources.frozen_inputs import asked_value, with_frozen_inputs
from pipeline.sources.tf.convert import convert_function
from pipeline.sources.tf.double_precision import DoubleGraph
from pipeline.sources.tf.fold import static_shapes
from pipeline.sources.tf.function_graph import graph_of_function
from pipeline.sources.tf.graph import Edge, TfGraph, node_of
from pipeline.sources.tf.graph_layers import graph_layers
from pipeline.sources.tf.request import asked, shaped
from pipeline.sources.tf.switches import freeze_switches
from pipeline.sources.tf.text import as_text
from targets.contract import Session


@dataclass(frozen=True)
class FunctionModel:
    """A concrete function, its inputs and outputs by name, and what keeps its variables alive."""

    owner: Any
    function: Any
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    by_keyword: bool = False

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the order of ``input_names``."""
        tensors = self.tensors
        return tuple(
            TensorSpec(
                name,
                tensors[name].dtype.name,
                dims_of(tensors[name]) or (),
            )
            for name in self.input_names
        )

    @property
    def tensors(self) -> dict[str, Any]:
        """Symbolic inputs by name."""
        captured = {id(inner) for _, inner in self.function.graph.captures}
        free = [tensor for tensor in self.function.inputs if id(tensor) not in captured]
        if not self.by_keyword:
            return dict(zip(self.input_names, free, strict=True))
        # A signature's placeholders are named after its keywords, perhaps made unique.
        arguments = self.function.structured_input_signature[1]
        ordered = list(getattr(self.function, "_arg_keywords", None) or sorted(arguments))
        return dict(zip(ordered, free, strict=True))


def convert_model_function(
    model: FunctionModel, request: ConvertRequest, *, load_s: float, progress: Progress
) -> Converted:
    """Convert ``model``; an argument that only switches training on is set to inference.

    Raises:
        UserError: an input or output is named that it does not have, or shapes must be given.
        UnsupportedModelError: an op cannot be carried over.
    """
    import tensorflow as tf

    started = time.perf_counter()
    progress("convert", 0.3)
    function, tensors = _reshaped(model, request)
    names = {tensor.name: name for name, tensor in tensors.items()}
    captured = {id(inner) for _, inner in function.graph.captures}
    ordered = [names[t.name] for t in function.inputs if id(t) not in captured]
    switches = training_switches(model, request)
    result = convert_function(
        function,
        inputs=ordered,
        outputs=_chosen(model, request),
        request=with_switches(request, switches),
        switches=switches,
    )
    return Converted(
        model=result.model,
        framework=f"tensorflow {tf.__version__}",
        frozen=result.frozen,
        notes=model.notes + result.notes,
        layers=graph_layers(result.graph_def, result.weights, static_shapes(result.graph_def), result.model),
        seconds={"load": load_s, "convert": time.perf_counter() - started},
    )


def training_switches(model: FunctionModel, request: ConvertRequest) -> dict[str, Frozen]:
    """Scalar inputs that only choose between training and inference, by name, with their inference value."""
    named = {name.removesuffix(":0") for name in request.inputs}
    scalars = [one.name for one in model.specs if one.shape == () and one.dtype == "bool"]
    scalars = [name for name in scalars if name not in named]
    open_ones = [name for name in scalars if asked_value(name, request) is None]
    if not open_ones:
        return {}
    tensors = model.tensors
    nodes = {node_of(tensors[name].name): name for name in open_ones}
    graph = graph_of_function(model.function)
    frozen = freeze_switches(graph.graph_def, list(graph.outputs))
    return {nodes[node]: replace(one, name=nodes[node]) for node, one in frozen.items() if node in nodes}


def with_switches(request: ConvertRequest, switches: Mapping[str, Frozen]) -> ConvertRequest:
    """``request`` with these inputs frozen as well."""
    values = {name: one.value == "True" for name, one in switches.items()}
    return replace(request, freeze={**values, **request.freeze})


def open_function(model: FunctionModel, request: ConvertRequest) -> Session:
    """``model`` as a session in TensorFlow, with the inputs of the converted model."""
    session = FunctionSession(model, request)
    return with_frozen_inputs(session, with_switches(request, training_switches(model, request)))


def _chosen(model: FunctionModel, request: ConvertRequest) -> list[tuple[int, str]]:
    available = list(model.output_names)
    chosen = []
    for name in request.outputs or available:
        plain = name if name in available else name.removesuffix(":0")
        if plain not in available:
            raise UserError(f"the model has no output '{name}'", expected=f"among {', '.join(available)}")
        chosen.append((available.index(plain), name))
    return chosen


def _reshaped(model: FunctionModel, request: ConvertRequest) -> tuple[Any, dict[str, Any]]:
    """The function, traced again where the user fixes shapes."""
    import tensorflow as tf

    for name in (*request.inputs, *request.freeze):
        if name.removesuffix(":0") not in model.input_names and name not in model.input_names:
            raise UserError(
                f"the model has no input '{name}'", expected=f"among {', '.join(model.input_names)}"
            )
    tensors = model.tensors
    wanted = {}
    for name, tensor in tensors.items():
        wanted[name] = shaped(name, dims_of(tensor), request)
    if all(asked(name, request) is None for name in tensors):
        return model.function, tensors
    names = list(tensors)
    specs = [tf.TensorSpec(wanted[name], tensors[name].dtype, name=name.replace(":", "_")) for name in names]

    def call(*arguments: Any) -> list[Any]:
        if model.by_keyword:
            result = model.function(**dict(zip(names, arguments, strict=True)))
        else:
            result = model.function(*arguments)
        return flat_outputs(model, result)

    fixed = tf.function(call, autograph=False).get_concrete_function(*specs)
    captured = {id(inner) for _, inner in fixed.graph.captures}
    free = [tensor for tensor in fixed.inputs if id(tensor) not in captured]
    return fixed, dict(zip(names, free, strict=True))


def dims_of(tensor: Any) -> tuple[int | None, ...] | None:
    """A symbolic tensor's shape; None where the rank is unknown."""
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def flat_outputs(model: FunctionModel, result: Any) -> list[Any]:
    """A call's result in the order of ``output_names``."""
    import tensorflow as tf

    if isinstance(result, dict):
        return [result[name] for name in sorted(result)]
    del model
    flat: list[Any] = tf.nest.flatten(result)
    return flat


class FunctionSession:
    """A function model in TensorFlow itself."""

    def __init__(self, model: FunctionModel, request: ConvertRequest) -> None:
        self._model = model
        self._double: DoubleGraph | None = None
        self._chosen = _chosen(model, request)
        self._inputs = tuple(
            TensorSpec(one.name, one.dtype, shaped(one.name, dims_of(model.tensors[one.name]), request))
            for one in model.specs
        )
        outputs = model.function.outputs
        self._outputs = tuple(
            TensorSpec(
                name,
                outputs[i].dtype.name,
                dims_of(outputs[i]) or (),
            )
            for i, name in self._chosen
        )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            UserError: an input is missing, or the function rejects the feeds.
        """
        import tensorflow as tf

        missing = [one.name for one in self._inputs if one.name not in feeds]
        if missing:
            raise UserError(f"no array for input {missing[0]}", expected=f"{[i.name for i in self._inputs]}")
        tensors = {one.name: tf.convert_to_tensor(feeds[one.name], one.dtype) for one in self._inputs}
        try:
            result = (
                self._model.function(**tensors)
                if self._model.by_keyword
                else self._model.function(*tensors.values())
            )
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise UserError(f"TensorFlow rejects the inputs: {str(error)[:400]}") from error
        flat = flat_outputs(self._model, result)
        return {name: as_text(np.asarray(flat[i])) for i, name in self._chosen}

    def run_float64(self, feeds: Feeds) -> Outputs:
        """Outputs in float64; raises UnsupportedModelError where TensorFlow cannot."""
        if self._double is None:
            graph = graph_of_function(self._model.function)
            names = {tensor.name: name for name, tensor in self._model.tensors.items()}
            self._double = DoubleGraph(
                TfGraph(
                    graph.graph_def,
                    tuple(Edge(tensor, names[tensor]) for tensor in graph.inputs),
                    tuple(Edge(graph.outputs[i], name) for i, name in self._chosen),
                    graph.weights,
                )
            )
        return self._double.run(feeds)

    def close(self) -> None:
        """Nothing to release before the process ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
