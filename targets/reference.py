"""The runs that others are measured against: plain ONNX Runtime, and float64."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from optim.model import load, signature, weight_bytes
from optim.stream_weights import large_initializers
from targets.float64.call import to_host
from targets.float64.evaluate import GraphEvaluator
from targets.light_model import LightModel, light_model
from targets.validate_feeds import validate_feeds

OptimizationLevel: TypeAlias = Literal["off", "basic", "extended", "all"]
Provider: TypeAlias = str | tuple[str, Mapping[str, object]]

_FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
IN_MEMORY_BYTES = 1 << 30  # a larger model goes to ONNX Runtime by path: protobuf ends at 2 GiB
LEVELS: Mapping[OptimizationLevel, str] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
ORT_DTYPES: Mapping[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


def import_onnxruntime() -> Any:
    """ONNX Runtime, or MissingRuntimeError with the extra that brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            "ONNX Runtime is not installed", hint="pip install 'fairlead[cpu]'"
        ) from error
    return onnxruntime


class _Closing(ABC):
    """Context-manager half of the Session protocol."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class OrtSession(_Closing):
    """An ONNX model in ONNX Runtime.

    Args:
        model: path of the model, its serialised bytes, or a ``LightModel``.
        optimization: ONNX Runtime's own graph optimisation level.
        threads: intra-op threads; inter-op is always 1 (sequential execution).
        allow_spinning: let worker threads spin while they wait.
        providers: execution providers in order of preference, each a name or (name, options).
        expose: intermediate tensors to return beside the outputs.
        session_config: further ``add_session_config_entry`` pairs.
        map_weights: of a path: map large weights where they lie in the file instead of parsing and copying
            them. The numbers are the same; memory and the time to load are not what a user of the file sees.

    Raises:
        MissingRuntimeError: ONNX Runtime or an asked-for provider is not on this machine.
        UserError: the file is missing, damaged or holds no such tensor.
        UnsupportedModelError: ONNX Runtime has no kernel for one of its nodes.
    """

    def __init__(
        self,
        model: str | Path | bytes | LightModel,
        *,
        optimization: OptimizationLevel = "all",
        threads: int = 1,
        allow_spinning: bool = False,
        providers: Sequence[Provider] = ("CPUExecutionProvider",),
        expose: Sequence[str] = (),
        session_config: Mapping[str, str] | None = None,
        map_weights: bool = False,
    ) -> None:
        ort = import_onnxruntime()
        self.where = str(model) if isinstance(model, str | Path) else "model in memory"
        if isinstance(model, str | Path) and not Path(model).is_file():
            raise UserError("no such model file", where=self.where)
        wanted = [p if isinstance(p, str) else p[0] for p in providers]
        absent = [p for p in wanted if p not in ort.get_available_providers()]
        if absent:
            raise MissingRuntimeError(
                f"this ONNX Runtime has no {', '.join(absent)}",
                expected=f"one of {ort.get_available_providers()}",
                hint="pip install 'fairlead[gpu]'",
            )
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[optimization])
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(allow_spinning)))
        for key, value in (session_config or {}).items():
            options.add_session_config_entry(key, value)
        if expose or (map_weights and isinstance(model, str | Path)):
            model = _exposing(model, tuple(expose))
        self._lent: list[Any] = []  # ONNX Runtime reads these arrays for as long as the session lives
        self._session = self._open(ort, model, options, providers)
        self._inputs = tuple(_spec(i) for i in self._session.get_inputs())
        self._outputs = tuple(_spec(o) for o in self._session.get_outputs())
        self.settings: Mapping[str, str] = {
            "runtime": f"onnxruntime {ort.__version__}",
            "optimization": optimization,
            "threads": str(threads),
            "allow_spinning": str(allow_spinning).lower(),
            "providers": ", ".join(self._session.get_providers()),
        }

    def _open(
        self, ort: Any, model: str | Path | bytes | LightModel, options: Any, providers: Sequence[Provider]
    ) -> Any:
        given = [p if isinstance(p, str) else (p[0], dict(p[1])) for p in providers]
        try:
            if isinstance(model, LightModel):
                self._lent = _hand_over(ort, model, options)
                model = model.content
            return ort.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=given
            )
        except Exception as error:
            text = str(error).replace("\n", " ")
            if type(error).__name__ == "NotImplemented" or "NOT_IMPLEMENTED" in text:
                raise UnsupportedModelError(
                    f"ONNX Runtime has no kernel for this model: {text}", where=self.where
                ) from error
            raise UserError(f"ONNX Runtime cannot load the model: {text}", where=self.where) from error

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    @property
    def raw(self) -> Any:
        """The ``onnxruntime.InferenceSession`` itself, for I/O binding and profiling."""
        return self._session

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs keyed by name.

        Raises:
            UserError: the feeds do not fit the inputs.
            UnsupportedModelError: a kernel failed while it ran.
        """
        validate_feeds(self._inputs, feeds, where=self.where)
        names = [o.name for o in self._outputs]
        arrays = {name: np.asarray(value, order="C") for name, value in feeds.items()}  # keeps rank 0
        try:
            results = self._session.run(names, arrays)
        except Exception as error:
            raise UnsupportedModelError(
                f"ONNX Runtime failed while running the model: {error}", where=self.where
            ) from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        self._session = None
        self._lent = []


def _hand_over(ort: Any, model: LightModel, options: Any) -> list[Any]:
    """Tell the session options where the weights are; what is lent has to outlive the session."""
    if model.folder is not None:
        options.add_session_config_entry(_FOLDER_ENTRY, str(model.folder))
    lent = [ort.OrtValue.ortvalue_from_numpy(array) for array in model.arrays.values()]
    if lent:
        options.add_external_initializers(list(model.arrays), lent)
    return lent


def _spec(argument: Any) -> TensorSpec:
    return TensorSpec(argument.name, ORT_DTYPES.get(argument.type, argument.type), tuple(argument.shape))


def _exposing(model: str | Path | bytes | LightModel, names: tuple[str, ...]) -> LightModel:
    """``model`` that also returns the named tensors, its large weights where they lie."""
    if isinstance(model, LightModel):
        return replace(model, content=light_model(_with_outputs(model.content, names)).content)
    if isinstance(model, bytes):
        return light_model(_with_outputs(model, names))
    loaded = load(model)
    add_outputs(loaded, names)
    return light_model(loaded)


def _with_outputs(content: bytes, names: tuple[str, ...]) -> ir.Model:
    loaded: ir.Model = ir.from_proto(_parse(content))
    add_outputs(loaded, names)
    return loaded


def _parse(data: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(data)


def add_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """Make intermediate values of the main graph outputs too, in place.

    Raises:
        UserError: the graph computes no value of that name.
    """
    known = {v.name: v for node in model.graph for v in node.outputs if v.name}
    present = {v.name for v in model.graph.outputs}
    for name in names:
        if name in present:
            continue
        if name not in known:
            raise UserError(f"the model computes no tensor named {name!r}", where=model.graph.name or "")
        model.graph.outputs.append(known[name])
        present.add(name)


@contextlib.contextmanager
def written(model: ir.Model) -> Any:
    """Path of a temporary copy of ``model``, its large weights in a file beside it."""
    with tempfile.TemporaryDirectory(prefix="fairlead-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="weights.bin")
        yield path


def content_key(model: ir.Model) -> bytes:
    """Digest of everything that decides what the model computes, weights included."""
    digest = hashlib.blake2b(digest_size=16)
    proto = ir.to_proto(_without_weights(model))
    digest.update(proto.SerializeToString(deterministic=True))
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is not None:
                digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
                digest.update(_raw(tensor))
    return digest.digest()


def _raw(tensor: ir.TensorProtocol) -> Any:
    if tensor.dtype == ir.DataType.STRING:
        return repr(tensor.numpy().tolist()).encode()
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8) if array.size else b""


def _without_weights(model: ir.Model) -> ir.Model:
    """A copy that shares no graph with ``model`` and whose main initializers are mere inputs."""
    copy = model.clone()
    for name in list(copy.graph.initializers):
        value = copy.graph.initializers.pop(name)
        value.const_value = None
        if value not in copy.graph.inputs:
            copy.graph.inputs.append(value)
    return copy


class OrtOracle:
    """``optim.contract.Oracle``: ONNX Runtime on one thread with its own optimisations off.

    Of the models that were called, the last ``keep`` stay loaded; a model is recognised by its content, so
    one that was changed in place is loaded anew. A prepared one lives as long as what ``prepare`` returned.
    """

    def __init__(self, *, keep: int = 2, threads: int = 1) -> None:
        self._keep = keep
        self._threads = threads
        self._sessions: OrderedDict[bytes, OrtSession] = OrderedDict()

    def __call__(self, model: ir.Model, feeds: Feeds) -> Outputs:
        """Outputs of ``model``, keyed by name."""
        return self.session(model).run(feeds)

    def prepare(self, model: ir.Model) -> Callable[[Feeds], Outputs]:
        """``model`` as it is now, loaded once for several inputs."""
        return self._load(model).run

    def truth(self, model: ir.Model) -> Callable[[Feeds], Outputs]:
        """The same model in float64."""
        return Float64Session(model).run

    def session(self, model: ir.Model) -> OrtSession:
        """The loaded session of a model in its present state."""
        key = content_key(model)
        if key not in self._sessions:
            self._sessions[key] = self._load(model)
            while len(self._sessions) > self._keep:
                self._sessions.popitem(last=False)[1].close()
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def _load(self, model: ir.Model) -> OrtSession:
        large = (value.const_value for value in large_initializers(model).values())
        if weight_bytes(model) - sum(t.nbytes for t in large if t is not None) < IN_MEMORY_BYTES:
            return OrtSession(light_model(model), optimization="off", threads=self._threads)
        with written(model) as path:  # ONNX Runtime has read the weights when the session stands
            return OrtSession(path, optimization="off", threads=self._threads)

    def close(self) -> None:
        """Drop all loaded models."""
        while self._sessions:
            self._sessions.popitem()[1].close()


class Float64Session(_Closing):
    """An ONNX graph evaluated in float64, whatever precision it declares.

    Feeds may have the model's declared dtypes or float64; floating-point outputs are float64.

    Args:
        model: a path, or a model in memory that nobody changes meanwhile.
        xp: the array module: NumPy, or CuPy to evaluate on a GPU.
        expose: intermediate tensors to return beside the outputs.

    Raises:
        UnsupportedModelError: on run, where a node has no float64 implementation or draws random numbers.
    """

    def __init__(self, model: str | Path | ir.Model, *, xp: Any = np, expose: Sequence[str] = ()) -> None:
        self.where = "model in memory" if isinstance(model, ir.Model) else str(model)
        loaded = model if isinstance(model, ir.Model) else load(model)
        self._inputs, outputs = signature(loaded)
        known = {v.name for node in loaded.graph for v in node.outputs}
        for name in expose:
            if name not in known:
                raise UserError(f"the model computes no tensor named {name!r}", where=self.where)
        declared = {spec.name for spec in outputs}
        extra = tuple(TensorSpec(name, "float32", ()) for name in expose if name not in declared)
        self._outputs = tuple(_widened(spec) for spec in (*outputs, *extra))
        self._evaluator = GraphEvaluator(loaded, xp)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    @property
    def evaluator(self) -> GraphEvaluator:
        """The graph walk itself, for tracing every intermediate value."""
        return self._evaluator

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs keyed by name; floating-point ones are float64."""
        self.validate(feeds)
        results = self._evaluator.run(feeds, tuple(o.name for o in self._outputs))
        return {name: to_host(value) for name, value in results.items()}

    def validate(self, feeds: Feeds) -> None:
        """Raise UserError unless the feeds fit; float64 is welcome at every floating-point input."""
        specs = {s.name: s for s in self._inputs}
        as_declared: dict[str, Array] = {
            name: value.astype(specs[name].dtype, copy=False)
            if name in specs and specs[name].dtype.startswith("float") and value.dtype == np.float64
            else value
            for name, value in feeds.items()
        }
        validate_feeds(self._inputs, as_declared, where=self.where)

    def close(self) -> None:
        pass


def _widened(spec: TensorSpec) -> TensorSpec:
    floating = spec.dtype.startswith(("float", "bfloat"))
    return TensorSpec(spec.name, "float64", spec.shape) if floating else spec
