"""The part of Caffe's file format that nets of common layers use, as protobuf messages made at run time.

Only messages and fields that are written or read here stand in the table. Field numbers, types and defaults
are those of BVLC Caffe's format; what is not listed is skipped on reading.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "caffe"
_TYPES: Final = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}


class Field(NamedTuple):
    """One field of a message. ``kind``: a scalar type, an enum, or another message."""

    name: str
    number: int
    kind: str
    repeated: bool = False
    default: str = ""
    packed: bool = False


def _many(name: str, number: int, kind: str, *, packed: bool = False) -> Field:
    return Field(name, number, kind, repeated=True, packed=packed)


ENUMS: Final[dict[str, tuple[str, ...]]] = {
    "Phase": ("TRAIN", "TEST"),
    "PoolMethod": ("MAX", "AVE", "STOCHASTIC"),
    "RoundMode": ("CEIL", "FLOOR"),
    "NormRegion": ("ACROSS_CHANNELS", "WITHIN_CHANNEL"),
    "EltwiseOp": ("PROD", "SUM", "MAX"),
}

_RATE: Final = (
    Field("power", 1, "float", default="1"),
    Field("scale", 2, "float", default="1"),
    Field("shift", 3, "float", default="0"),
)
_BASE: Final = (Field("base", 1, "float", default="-1"), *_RATE[1:])

MESSAGES: Final[dict[str, tuple[Field, ...]]] = {
    "BlobShape": (_many("dim", 1, "int64", packed=True),),
    "BlobProto": (
        Field("shape", 7, "BlobShape"),
        _many("data", 5, "float", packed=True),
        _many("double_data", 8, "double", packed=True),
        *(
            Field(name, k, "int32", default="0")
            for k, name in enumerate(("num", "channels", "height", "width"), 1)
        ),
    ),
    "NetState": (
        Field("phase", 1, "Phase", default="TEST"),
        Field("level", 2, "int32"),
        _many("stage", 3, "string"),
    ),
    "NetStateRule": (
        Field("phase", 1, "Phase"),
        Field("min_level", 2, "int32"),
        Field("max_level", 3, "int32"),
        _many("stage", 4, "string"),
        _many("not_stage", 5, "string"),
    ),
    "NetParameter": (
        Field("name", 1, "string"),
        _many("input", 3, "string"),
        _many("input_dim", 4, "int32"),
        _many("input_shape", 8, "BlobShape"),
        _many("layer", 100, "LayerParameter"),
    ),
    "LayerParameter": (
        Field("name", 1, "string"),
        Field("type", 2, "string"),
        _many("bottom", 3, "string"),
        _many("top", 4, "string"),
        _many("blobs", 7, "BlobProto"),
        _many("include", 8, "NetStateRule"),
        _many("exclude", 9, "NetStateRule"),
        Field("phase", 10, "Phase"),
        Field("concat_param", 104, "ConcatParameter"),
        Field("convolution_param", 106, "ConvolutionParameter"),
        Field("eltwise_param", 110, "EltwiseParameter"),
        Field("exp_param", 111, "ExpParameter"),
        Field("inner_product_param", 117, "InnerProductParameter"),
        Field("lrn_param", 118, "LRNParameter"),
        Field("mvn_param", 120, "MVNParameter"),
        Field("pooling_param", 121, "PoolingParameter"),
        Field("power_param", 122, "PowerParameter"),
        Field("relu_param", 123, "ReLUParameter"),
        Field("softmax_param", 125, "SoftmaxParameter"),
        Field("slice_param", 126, "SliceParameter"),
        Field("prelu_param", 131, "PReLUParameter"),
        Field("reshape_param", 133, "ReshapeParameter"),
        Field("log_param", 134, "LogParameter"),
        Field("flatten_param", 135, "FlattenParameter"),
        Field("batch_norm_param", 139, "BatchNormParameter"),
        Field("elu_param", 140, "ELUParameter"),
        Field("bias_param", 141, "BiasParameter"),
        Field("scale_param", 142, "ScaleParameter"),
        Field("input_param", 143, "InputParameter"),
        Field("crop_param", 144, "CropParameter"),
        Field("clip_param", 148, "ClipParameter"),
        Field("permute_param", 153, "PermuteParameter"),  # not BVLC's; read from descriptions only
    ),
    "ConcatParameter": (
        Field("concat_dim", 1, "uint32", default="1"),
        Field("axis", 2, "int32", default="1"),
    ),
    "ConvolutionParameter": (
        Field("num_output", 1, "uint32"),
        Field("bias_term", 2, "bool", default="true"),
        _many("pad", 3, "uint32"),
        _many("kernel_size", 4, "uint32"),
        Field("group", 5, "uint32", default="1"),
        _many("stride", 6, "uint32"),
        Field("pad_h", 9, "uint32", default="0"),
        Field("pad_w", 10, "uint32", default="0"),
        Field("kernel_h", 11, "uint32"),
        Field("kernel_w", 12, "uint32"),
        Field("stride_h", 13, "uint32"),
        Field("stride_w", 14, "uint32"),
        Field("axis", 16, "int32", default="1"),
        _many("dilation", 18, "uint32"),
    ),
    "EltwiseParameter": (Field("operation", 1, "EltwiseOp", default="SUM"), _many("coeff", 2, "float")),
    "ExpParameter": _BASE,
    "LogParameter": _BASE,
    "InnerProductParameter": (
        Field("num_output", 1, "uint32"),
        Field("bias_term", 2, "bool", default="true"),
        Field("axis", 5, "int32", default="1"),
        Field("transpose", 6, "bool", default="false"),
    ),
    "LRNParameter": (
        Field("local_size", 1, "uint32", default="5"),
        Field("alpha", 2, "float", default="1"),
        Field("beta", 3, "float", default="0.75"),
        Field("norm_region", 4, "NormRegion", default="ACROSS_CHANNELS"),
        Field("k", 5, "float", default="1"),
    ),
    "MVNParameter": (
        Field("normalize_variance", 1, "bool", default="true"),
        Field("across_channels", 2, "bool", default="false"),
        Field("eps", 3, "float", default="1e-9"),
    ),
    "PoolingParameter": (
        Field("pool", 1, "PoolMethod", default="MAX"),
        Field("kernel_size", 2, "uint32"),
        Field("stride", 3, "uint32", default="1"),
        Field("pad", 4, "uint32", default="0"),
        Field("kernel_h", 5, "uint32"),
        Field("kernel_w", 6, "uint32"),
        Field("stride_h", 7, "uint32"),
        Field("stride_w", 8, "uint32"),
        Field("pad_h", 9, "uint32", default="0"),
        Field("pad_w", 10, "uint32", default="0"),
        Field("global_pooling", 12, "bool", default="false"),
        Field("round_mode", 13, "RoundMode", default="CEIL"),
    ),
    "PowerParameter": _RATE,
    "ReLUParameter": (Field("negative_slope", 1, "float", default="0"),),
    "SoftmaxParameter": (Field("axis", 2, "int32", default="1"),),
    "SliceParameter": (
        Field("slice_dim", 1, "uint32", default="1"),
        _many("slice_point", 2, "uint32"),
        Field("axis", 3, "int32", default="1"),
    ),
    "PReLUParameter": (Field("channel_shared", 2, "bool", default="false"),),
    "ReshapeParameter": (
        Field("shape", 1, "BlobShape"),
        Field("axis", 2, "int32", default="0"),
        Field("num_axes", 3, "int32", default="-1"),
    ),
    "FlattenParameter": (Field("axis", 1, "int32", default="1"), Field("end_axis", 2, "int32", default="-1")),
    "BatchNormParameter": (Field("use_global_stats", 1, "bool"), Field("eps", 3, "float", default="1e-5")),
    "ELUParameter": (Field("alpha", 1, "float", default="1"),),
    "BiasParameter": (Field("axis", 1, "int32", default="1"), Field("num_axes", 2, "int32", default="1")),
    "ScaleParameter": (
        Field("axis", 1, "int32", default="1"),
        Field("num_axes", 2, "int32", default="1"),
        Field("bias_term", 4, "bool", default="false"),
    ),
    "InputParameter": (_many("shape", 1, "BlobShape"),),
    "CropParameter": (Field("axis", 1, "int32", default="2"), _many("offset", 2, "uint32")),
    "PermuteParameter": (_many("order", 1, "uint32"),),
    "ClipParameter": (Field("min", 1, "float"), Field("max", 2, "float")),
}


def message(name: str) -> Any:
    """The protobuf class of a message in the table."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_subset.proto", package=PACKAGE, syntax="proto2")
    for name, values in ENUMS.items():
        scope = file.message_type.add(name=f"{name}Scope").enum_type.add(name=name)
        for number, value in enumerate(values):
            scope.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        written = file.message_type.add(name=name)
        for field in fields:
            _add(written, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add(written: descriptor_pb2.DescriptorProto, field: Field) -> None:
    label = descriptor_pb2.FieldDescriptorProto
    made = written.field.add(
        name=field.name,
        number=field.number,
        label=label.LABEL_REPEATED if field.repeated else label.LABEL_OPTIONAL,
    )
    if field.default:
        made.default_value = field.default
    if field.packed:
        made.options.packed = True
    if field.kind in _TYPES:
        made.type = _TYPES[field.kind]
    elif field.kind in ENUMS:
        made.type = label.TYPE_ENUM
        made.type_name = f".{PACKAGE}.{field.kind}Scope.{field.kind}"
    else:
        made.type = label.TYPE_MESSAGE
        made.type_name = f".{PACKAGE}.{field.kind}"
