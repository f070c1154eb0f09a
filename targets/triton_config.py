"""``config.pbtxt`` through Triton's own message types; fields as in
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from optim.contract import TensorSpec
from optim.errors import MissingRuntimeError
from targets.triton_preprocess import RAW

BACKEND: Final = "onnxruntime"
DTYPES: Final = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{f"{u}int{n}": f"TYPE_{u.upper()}INT{n}" for u in ("", "u") for n in (8, 16, 32, 64)},
}
WORKSPACE_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class ModelPlan:
    """What goes into the repository."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int  # 0: the batch is fixed, and its axis stands among the dims
    max_queue_delay_us: int = 100
    instances: int = 1
    device: str = "auto"
    accelerator: str = "none"
    warmup: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # input → whole shape
    labels: str = ""  # file of class names, for the first output


@functools.cache
def messages() -> Any:
    """Tritonclient's compiled ``model_config.proto``, without its gRPC client around it.

    Raises:
        MissingRuntimeError: tritonclient is not installed.
    """
    try:
        found = importlib.metadata.files("tritonclient") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingRuntimeError(
            "tritonclient is not installed", hint="pip install 'fairlead[triton]'"
        ) from error
    file = next((f.locate() for f in found if f.name == "model_config_pb2.py"), None)
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(file)) if file else None
    if spec is None or spec.loader is None:
        raise MissingRuntimeError(
            "this tritonclient has no model_config_pb2", hint="pip install -U tritonclient"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(config: Any) -> str:
    """The message as ``config.pbtxt``, read back once to be sure."""
    from google.protobuf import text_format

    text = str(text_format.MessageToString(config))
    if text_format.Parse(text, messages().ModelConfig()) != config:
        raise MissingRuntimeError("this protobuf does not read back the config that it wrote")
    return text


def model_config(plan: ModelPlan) -> Any:
    """The network itself."""
    pb = messages()
    config = pb.ModelConfig(name=plan.name, backend=BACKEND, max_batch_size=plan.max_batch_size)
    for spec in plan.inputs:
        config.input.add(name=spec.name, data_type=_type(spec), dims=_dims(plan, spec))
    for spec in plan.outputs:
        config.output.add(name=spec.name, data_type=_type(spec), dims=_dims(plan, spec))
    if plan.labels:
        config.output[0].label_filename = plan.labels
    if plan.max_batch_size:
        config.dynamic_batching.max_queue_delay_microseconds = plan.max_queue_delay_us
        preferred = {plan.max_batch_size, max(plan.max_batch_size // 2, 1)}
        config.dynamic_batching.preferred_batch_size.extend(sorted(preferred))
    kind = pb.ModelInstanceGroup.Kind.Value(f"KIND_{plan.device.upper()}")
    config.instance_group.add(count=plan.instances, kind=kind)
    _accelerate(config, plan)
    if plan.warmup:
        warm = config.model_warmup.add(name="zeros", batch_size=min(plan.max_batch_size, 1) or 0, count=1)
        for spec in plan.inputs:
            shape = plan.warmup[spec.name]
            warm.inputs[spec.name].data_type = _type(spec)
            warm.inputs[spec.name].dims.extend(shape[1:] if plan.max_batch_size else shape)
            warm.inputs[spec.name].zero_data = True
    return config


def preprocess_config(plan: ModelPlan, raw: TensorSpec) -> Any:
    """Raw pixels to the network's input."""
    pb = messages()
    name = f"{plan.name}_preprocess"
    config = pb.ModelConfig(name=name, backend=BACKEND, max_batch_size=plan.max_batch_size)
    config.input.add(name=RAW, data_type=_type(raw), dims=_dims(plan, raw))
    spec = plan.inputs[0]
    config.output.add(name=spec.name, data_type=_type(spec), dims=_dims(plan, spec))
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.Kind.Value("KIND_CPU"))
    return config


def ensemble_config(plan: ModelPlan, raw: TensorSpec) -> Any:
    """Raw pixels to the network's outputs, in the server."""
    pb = messages()
    name = f"{plan.name}_ensemble"
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=plan.max_batch_size)
    config.input.add(name=RAW, data_type=_type(raw), dims=_dims(plan, raw))
    for spec in plan.outputs:
        config.output.add(name=spec.name, data_type=_type(spec), dims=_dims(plan, spec))
    spec = plan.inputs[0]
    steps = config.ensemble_scheduling.step
    steps.add(
        model_name=f"{plan.name}_preprocess",
        model_version=-1,
        input_map={RAW: RAW},
        output_map={spec.name: "encoded"},
    )
    steps.add(
        model_name=plan.name,
        model_version=-1,
        input_map={spec.name: "encoded"},
        output_map={output.name: output.name for output in plan.outputs},
    )
    return config


def _accelerate(config: Any, plan: ModelPlan) -> None:
    accelerators = config.optimization.execution_accelerators
    if plan.accelerator == "tensorrt":
        asked = {"precision_mode": "FP32", "max_workspace_size_bytes": str(WORKSPACE_BYTES)}
        accelerators.gpu_execution_accelerator.add(name="tensorrt", parameters=asked)
    elif plan.accelerator == "openvino":
        accelerators.cpu_execution_accelerator.add(name="openvino")


def _type(spec: TensorSpec) -> int:
    return int(messages().DataType.Value(DTYPES[spec.dtype]))


def _dims(plan: ModelPlan, spec: TensorSpec) -> list[int]:
    shape = spec.shape[1:] if plan.max_batch_size else spec.shape
    return [d if isinstance(d, int) else -1 for d in shape]
