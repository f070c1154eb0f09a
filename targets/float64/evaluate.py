"""Walk an ONNX graph node by node in float64.

Every floating-point tensor becomes float64, whatever the model declares: float initializers are widened,
casts to a float type widen, outputs are float64. Integers and booleans keep their types. Operators without a
kernel here run in ``onnx.reference`` on the same widened tensors. Values are freed after their last reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from optim.errors import UnsupportedModelError
from optim.stored_weights import StoredTensor
from targets.float64.arrange import ARRANGE
from targets.float64.call import Call, Kernel, NotCoveredError, to_host
from targets.float64.elementwise import ELEMENTWISE
from targets.float64.neural import NEURAL
from targets.float64.windows import Array, Module

KERNELS: Mapping[str, Kernel] = MappingProxyType({**ELEMENTWISE, **ARRANGE, **NEURAL})
RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
RESIDENT_BYTES = 16 << 20  # a larger initializer is widened at each use and not kept

Environment: TypeAlias = MutableMapping[str, Array | None]
Replace: TypeAlias = Callable[[ir.Node, str, Array], Array]


class GraphEvaluator:
    """Evaluates one model. The model must not be changed while this lives.

    Args:
        model: its functions are inlined on a copy.
        xp: NumPy, or CuPy for a GPU. Integer tensors stay in host memory until they meet a float one.
    """

    def __init__(self, model: ir.Model, xp: Module = np) -> None:
        if model.functions:
            model = model.clone()
            from onnx_ir.passes.common import InlinePass

            InlinePass()(model)
        self.model = model
        self.xp = xp
        self._resident: dict[ir.Value, Array] = {}
        self._constants: dict[ir.Node, Mapping[str, Any]] = {}
        self._references: dict[ir.Node, tuple[Any, tuple[str, ...]]] = {}

    def trace(
        self, feeds: Mapping[str, Array], replace: Replace | None = None
    ) -> Iterator[tuple[ir.Node, str, Array]]:
        """Every value in order of execution, as (its node, its name, array); only live values are held.

        ``replace`` may put another value in the place of one of the main graph's before its readers see it.
        """
        environment: dict[str, Array | None] = {
            name: self.xp.asarray(widen(value)) if is_float(value) else np.asarray(value)
            for name, value in feeds.items()
        }
        yield from self._walk(self.model.graph, environment, replace)

    def run(self, feeds: Mapping[str, Array], wanted: tuple[str, ...]) -> dict[str, Array]:
        """The named values, on the evaluator's device."""
        missing = set(wanted)
        found: dict[str, Array] = {}
        for name in wanted:  # outputs that are inputs or initializers themselves
            if name in feeds:
                found[name] = widen(np.asarray(feeds[name]))
            elif name in self.model.graph.initializers:
                found[name] = self._initializer(self.model.graph.initializers[name])
        missing -= found.keys()
        if missing:
            for _node, name, value in self.trace(feeds):
                if name in missing:
                    found[name] = value
                    missing.discard(name)
                    if not missing:
                        break
        return {name: found[name] for name in wanted}

    def run_nodes(self, nodes: Sequence[ir.Node], values: Mapping[str, Array]) -> dict[str, Array]:
        """Run a sorted stretch of nodes on named values; everything they compute, by name."""
        environment: dict[str, Array | None] = {
            name: self.xp.asarray(value) if is_float(value) else value for name, value in values.items()
        }
        computed: dict[str, Array] = {}
        for node in nodes:
            for value, result in zip(node.outputs, self._node(node, environment), strict=False):
                if value.name:
                    environment[value.name] = computed[value.name] = result
        return computed

    def _walk(
        self, graph: ir.Graph, environment: Environment, replace: Replace | None = None
    ) -> Iterator[tuple[ir.Node, str, Array]]:
        reads = Counter(v.name for node in graph for v in node.inputs if v is not None)
        for node in graph:  # what a subgraph captures lives to the end
            for name in captured(node):
                reads[name] += 1 << 30
        for value in graph.outputs:
            reads[value.name] += 1 << 30
        for node in graph:
            results = self._node(node, environment)
            for value, result in zip(node.outputs, results, strict=False):
                if value.name:
                    placed = result if replace is None else replace(node, value.name, result)
                    environment[value.name] = placed
                    yield node, value.name, placed
            for source in node.inputs:
                if source is not None and source.name:
                    reads[source.name] -= 1
                    if reads[source.name] == 0:
                        environment.pop(source.name, None)
            for value in node.outputs:
                if value.name and not reads[value.name]:
                    environment.pop(value.name, None)

    def _node(self, node: ir.Node, environment: Environment) -> tuple[Array, ...]:
        if node.op_type in RANDOM_OPS:
            raise UnsupportedModelError(
                f"{node.op_type} draws random numbers, so the model has no single true result",
                op=node.op_type,
                node=node.name or node.outputs[0].name or "",
                hint="freeze the switch that turns dropout off",
            )
        inputs = tuple(self._lookup(value, environment) for value in node.inputs)
        try:
            if node.domain in ("", "ai.onnx"):
                if node.op_type == "If":
                    return self._if(node, inputs, environment)
                if node.op_type == "Loop":
                    return self._loop(node, inputs, environment)
                kernel = KERNELS.get(node.op_type)
                if kernel is not None:
                    try:
                        return kernel(self._call(node, inputs))
                    except NotCoveredError:
                        pass
            return self._reference(node, inputs, environment)
        except UnsupportedModelError:
            raise
        except Exception as error:
            shapes = [None if v is None else (v.dtype.name, tuple(v.shape)) for v in inputs]
            raise UnsupportedModelError(
                f"{node.op_type} cannot be evaluated in float64 on inputs {shapes}: {error}",
                op=node.op_type,
                node=node.name or node.outputs[0].name or "",
            ) from error

    def _call(self, node: ir.Node, inputs: tuple[Array | None, ...]) -> Call:
        on_device = any(v is not None and not isinstance(v, np.ndarray) for v in inputs)
        if node not in self._constants:
            self._constants[node] = {
                attribute.name: widen(attribute.as_tensor().numpy())
                if attribute.type == ir.AttributeType.TENSOR
                else attribute.value
                for attribute in node.attributes.values()
            }
        return Call(
            xp=self.xp if on_device else np,
            inputs=inputs,
            attributes=self._constants[node],
            opset=self.model.opset_imports.get("", 1),
            output_count=sum(1 for v in node.outputs if v.name),
        )

    def _lookup(self, value: ir.Value | None, environment: Environment) -> Array | None:
        if value is None or not value.name:
            return None
        if value.name in environment:
            return environment[value.name]
        if value.const_value is not None:
            return self._initializer(value)
        raise UnsupportedModelError(
            f"value {value.name!r} has no producer, is no initializer and was not fed",
            expected="a topologically sorted, complete graph",
        )

    def _initializer(self, value: ir.Value) -> Array:
        kept = self._resident.get(value)
        if kept is not None:
            return kept
        tensor = value.const_value
        if tensor is None:
            raise UnsupportedModelError(f"initializer {value.name!r} has no data")
        array = _wide(tensor)
        if is_float(array) and self.xp is not np:
            array = self.xp.asarray(array)
        if array.nbytes <= RESIDENT_BYTES:
            self._resident[value] = array
        return array

    def _if(
        self, node: ir.Node, inputs: tuple[Array | None, ...], environment: Environment
    ) -> tuple[Array, ...]:
        condition = inputs[0]
        if condition is None:
            raise NotCoveredError("If without a condition")
        branch = node.attributes[
            "then_branch" if bool(to_host(condition).item()) else "else_branch"
        ].as_graph()
        inner = dict(environment)
        for _ in self._walk(branch, inner):
            pass
        return tuple(self._lookup(value, inner) for value in branch.outputs)

    def _loop(
        self, node: ir.Node, inputs: tuple[Array | None, ...], environment: Environment
    ) -> tuple[Array, ...]:
        """https://onnx.ai/onnx/operators/onnx__Loop.html; the scan outputs gain an axis in front."""
        body = node.attributes["body"].as_graph()
        trips, condition, *carried = inputs
        most = None if trips is None else int(to_host(trips).item())
        going = condition is None or bool(to_host(condition).item())
        collected: list[list[Array]] = [[] for _ in body.outputs[1 + len(carried) :]]
        step = 0
        while going and (most is None or step < most):
            inner = dict(environment)
            given = (np.asarray(step, np.int64), np.asarray(going), *carried)
            inner |= {v.name or "": value for v, value in zip(body.inputs, given, strict=True)}
            for _ in self._walk(body, inner):
                pass
            keep, *results = (self._lookup(value, inner) for value in body.outputs)
            going = keep is None or bool(to_host(keep).item())
            carried = results[: len(carried)]
            for column, value in zip(collected, results[len(carried) :], strict=True):
                if value is not None:
                    column.append(value)
            step += 1
        scans = zip(collected, body.outputs[1 + len(carried) :], strict=True)
        return (*carried, *(self._stacked(column, value) for column, value in scans))

    def _stacked(self, column: list[Array], value: ir.Value) -> Array:
        """What a loop collected; of one that never ran, an empty array of the declared shape."""
        if column:
            on_device = any(not isinstance(v, np.ndarray) for v in column)
            return (self.xp if on_device else np).stack(column)
        dims = () if value.shape is None else tuple(d if isinstance(d, int) else 0 for d in value.shape)
        dtype = np.dtype(np.float64) if value.dtype is None else value.dtype.numpy()
        empty: Array = widen(np.zeros((0, *dims), dtype))
        return empty

    def _reference(
        self, node: ir.Node, inputs: tuple[Array | None, ...], environment: Environment
    ) -> tuple[Array, ...]:
        """Run one node in onnx's reference implementation, on host arrays."""
        if node not in self._references:
            self._references[node] = reference_of(node, self.model.opset_imports)
        evaluator, outer = self._references[node]
        feeds = {f"in{i}": to_host(v) for i, v in enumerate(inputs) if v is not None}
        for name in outer:
            value = environment.get(name)
            if value is None and name in self.model.graph.initializers:
                value = self._initializer(self.model.graph.initializers[name])
            if value is not None:
                feeds[name] = to_host(value)
        results = iter(evaluator.run(None, feeds, attributes={}))  # of the named outputs only
        return tuple(self._placed(next(results)) if v.name else None for v in node.outputs)

    def _placed(self, result: Any) -> Array:
        floating = isinstance(result, np.ndarray) and is_float(result)
        return self.xp.asarray(widen(result)) if floating else result


def is_float(value: Array) -> bool:
    """Whether an array holds floating-point numbers, ml_dtypes' small ones included."""
    dtype = value.dtype
    return bool(dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")))


def widen(value: Any) -> Any:
    """float64 for floating-point arrays, anything else as it is."""
    if isinstance(value, np.ndarray) and is_float(value) and value.dtype != np.float64:
        return value.astype(np.float64)
    return value


def _wide(tensor: ir.TensorProtocol) -> Array:
    """The content of a weight; where it still lies in a file, never all of it in two precisions at once."""
    if isinstance(tensor, StoredTensor) and tensor.dtype.is_floating_point():
        return tensor.astype(np.float64)
    array: Array = widen(tensor.numpy())
    return array


def captured(node: ir.Node) -> set[str]:
    """Names that the node's subgraphs read from outside."""
    names: set[str] = set()
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            names |= _free_names(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                names |= _free_names(graph)
    return names


def _free_names(graph: ir.Graph) -> set[str]:
    inside = {v.name for v in graph.inputs} | set(graph.initializers)
    inside |= {v.name for node in graph for v in node.outputs}
    used = {v.name for node in graph for v in node.inputs if v is not None}
    used |= {v.name for v in graph.outputs}
    for node in graph:
        used |= captured(node)
    return {name for name in used - inside if name}


def reference_of(node: ir.Node, opsets: Mapping[str, int]) -> tuple[Any, tuple[str, ...]]:
    """An evaluator of this one node, and the outer names its subgraphs need.

    Raises:
        UnsupportedModelError: onnx's reference implementation does not know the operator.
    """
    from onnx.reference import ReferenceEvaluator

    proto = ir.to_proto(node)
    widen_node(proto)
    names = [f"in{i}" if v is not None and v.name else "" for i, v in enumerate(node.inputs)]
    del proto.input[:]
    proto.input.extend(names)
    outer = tuple(sorted(captured(node)))
    function = onnx.helper.make_function(
        "fairlead.float64",
        "one",
        [*(n for n in names if n), *outer],
        [o for o in proto.output if o],
        [proto],
        [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
    )
    try:
        return ReferenceEvaluator(function), outer
    except Exception as error:
        raise UnsupportedModelError(
            f"{node.domain or 'ai.onnx'}::{node.op_type} has no float64 implementation",
            op=node.op_type,
            node=node.name or node.outputs[0].name or "",
            hint="set parity.float64 to false",
        ) from error


def widen_node(node: onnx.NodeProto) -> None:
    """Make a node's float tensors, cast targets and subgraphs float64, in place."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_widen_tensor(attribute.t))
        elif attribute.type == onnx.AttributeProto.GRAPH:
            _widen_graph(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                _widen_graph(graph)
        elif attribute.name in ("to", "dtype") and ir.DataType(attribute.i).is_floating_point():
            attribute.i = onnx.TensorProto.DOUBLE


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        tensor.CopyFrom(_widen_tensor(tensor))
    for node in graph.node:
        widen_node(node)


def _widen_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if not ir.DataType(tensor.data_type).is_floating_point():
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
