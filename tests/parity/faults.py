"""Plant one fault of a known kind into a copy of a network, at a node chosen at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.parity.cause import Cause, round_fraction


@dataclass(frozen=True)
class Planted:
    """A faulty copy, the tensors at which it may rightly be found, and the fault's name."""

    model: ir.Model
    cause: Cause
    tensors: frozenset[str]


def constant(name: str, array: np.ndarray) -> ir.Value:
    return ir.Value(name=name, const_value=ir.tensor(array, name=name))


def insert_after(model: ir.Model, node: ir.Node, extra: list[ir.Node]) -> None:
    model.graph.insert_after(node, extra)


def swap_input(model: ir.Model, node: ir.Node, build: Callable[[ir.Value], list[ir.Node]]) -> None:
    """Put nodes between a node and its first input."""
    source = node.inputs[0]
    extra = build(source)
    model.graph.insert_before(node, extra)
    node.replace_input_with(0, extra[-1].outputs[0])


def add_initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    value = constant(name, array)
    model.graph.register_initializer(value)
    return value


def shifted(pads: list[int]) -> list[int]:
    """The same totals, split at the other end."""
    half = len(pads) // 2
    begin, end = pads[:half], pads[half:]
    return end + begin if begin != end else [0] * half + [x + y for x, y in zip(begin, end, strict=True)]


def padding(model, node, rng):
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if auto.startswith("SAME"):
        node.attributes["auto_pad"] = ir.AttrString(
            "auto_pad", "SAME_LOWER" if auto == "SAME_UPPER" else "SAME_UPPER"
        )
        return True
    pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else []
    if not any(pads):
        return False
    node.attributes["pads"] = ir.AttrInt64s("pads", shifted(pads))
    return True


def pool_border(model, node, rng):
    if node.op_type == "AveragePool" and "pads" in node.attributes and any(node.attributes["pads"].as_ints()):
        include = (
            node.attributes["count_include_pad"].as_int() if "count_include_pad" in node.attributes else 0
        )
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1 - include)
        return True
    return padding(model, node, rng)


def resize(model, node, rng):
    now = node.attributes["coordinate_transformation_mode"].as_string()
    other = rng.choice([m for m in ("half_pixel", "asymmetric", "align_corners") if m != now])
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", str(other)
    )
    return True


def epsilon(model, node, rng):
    now = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5 if now > 5e-5 else 1e-3)
    return True


def axis(model, node, rng):
    if node.op_type in ("Softmax", "Concat"):
        return False
    if node.op_type == "Conv":
        weight = node.inputs[1].const_value.numpy()
        if weight.shape[2] == 1 or rng.random() < 0.5:
            swap_input(model, node, lambda v: [transpose(v, (0, 1, 3, 2))])
        else:
            node.replace_input_with(1, add_initializer(model, "turned", weight.transpose(0, 1, 3, 2).copy()))
        return True
    if node.op_type == "Flatten":
        swap_input(model, node, lambda v: [transpose(v, (0, 2, 3, 1))])
        return True
    weight = node.inputs[1].const_value.numpy()  # Gemm: rows of the weight in another order
    order = np.arange(len(weight)).reshape(-1, 4 if len(weight) % 4 == 0 else 1).T.ravel()
    node.replace_input_with(1, add_initializer(model, "turned", weight[order].copy()))
    return len(weight) % 4 == 0 and len(weight) > 4


def transpose(value: ir.Value, perm: tuple[int, ...]) -> ir.Node:
    return ir.node("Transpose", [value], {"perm": perm}, outputs=[ir.Value(name="planted:0")], name="planted")


def activation(model, node, rng):
    name, attributes, inputs = {
        "Relu": [("LeakyRelu", {"alpha": 0.1}, 1), ("Elu", {"alpha": 1.0}, 1)],
        "LeakyRelu": [("LeakyRelu", {"alpha": 0.3}, 1), ("Relu", {}, 1)],
        "Clip": [("Relu", {}, 1)],
        "Elu": [("Relu", {}, 1), ("Elu", {"alpha": 0.5}, 1)],
        "HardSwish": [("Relu", {}, 1)],
        "Sigmoid": [("HardSigmoid", {}, 1), ("Tanh", {}, 1)],
        "HardSigmoid": [("Sigmoid", {}, 1)],
    }[node.op_type][rng.integers(0, 1 if node.op_type in ("Clip", "HardSwish", "HardSigmoid") else 2)]
    old = node.outputs[0]
    fresh = ir.node(name, list(node.inputs)[:inputs], attributes, name=node.name)
    model.graph.insert_after(node, [fresh])
    ir.convenience.replace_all_uses_with(old, fresh.outputs[0])
    label = old.name
    model.graph.remove(node, safe=True)
    fresh.outputs[0].name = label
    return True


def tf32(model, node, rng):
    weight = node.inputs[1].const_value.numpy()
    rounded = round_fraction(weight, 10).astype(np.float32)
    node.replace_input_with(1, add_initializer(model, "rounded", rounded))
    return True


def fp16(model, node, rng):
    """The node's input goes through float16, scaled so that its largest value does not fit."""
    scale = add_initializer(model, "scale", np.float32(1e6))
    back = add_initializer(model, "unscale", np.float32(1e-6))

    def build(value):
        a = ir.node("Mul", [value, scale], outputs=[ir.Value(name="scaled:0")], name="scaled")
        b = ir.node("Cast", a.outputs, {"to": 10}, outputs=[ir.Value(name="half:0")], name="half")
        c = ir.node("Cast", b.outputs, {"to": 1}, outputs=[ir.Value(name="whole:0")], name="whole")
        return [a, b, c, ir.node("Mul", [c.outputs[0], back], outputs=[ir.Value(name="back:0")], name="back")]

    swap_input(model, node, build)
    return True


def reduction(model, node, rng):
    """A large number is added and taken away again: float32 loses the low digits."""
    big = add_initializer(model, "big", np.float32(3e4))

    def build(value):
        a = ir.node("Add", [value, big], outputs=[ir.Value(name="raised:0")], name="raised")
        return [a, ir.node("Sub", [a.outputs[0], big], outputs=[ir.Value(name="lowered:0")], name="lowered")]

    swap_input(model, node, build)
    return True


@dataclass(frozen=True)
class Fault:
    cause: Cause
    ops: frozenset[str]
    plant: Callable[..., bool]
    found_at: str = ""  # tensor at which it shows; empty: the output of the node itself


ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Elu", "HardSwish", "Sigmoid", "HardSigmoid"})
FAULTS = (
    Fault(Cause.PADDING, frozenset({"Conv"}), padding),
    Fault(Cause.RESIZE, frozenset({"Resize"}), resize),
    Fault(Cause.EPSILON, frozenset({"BatchNormalization"}), epsilon),
    Fault(Cause.POOL_BORDER, frozenset({"MaxPool", "AveragePool"}), pool_border),
    Fault(Cause.AXIS, frozenset({"Conv", "Flatten", "Gemm"}), axis),
    Fault(Cause.ACTIVATION, ACTIVATIONS, activation),
    Fault(Cause.TF32, frozenset({"Conv", "Gemm"}), tf32),
    Fault(Cause.FP16, frozenset({"Conv", "Gemm"}), fp16, "half:0"),
    Fault(Cause.REDUCTION, frozenset({"Conv", "Gemm"}), reduction, "lowered:0"),
)


def plant(model: ir.Model, fault: Fault, rng: np.random.Generator) -> Planted | None:
    """A faulty copy, or None where the network has no node for this fault."""
    copy = model.clone()
    nodes = [n for n in copy.graph if n.op_type in fault.ops]
    for index in rng.permutation(len(nodes)):
        node = nodes[index]
        tensor = node.outputs[0].name
        if fault.plant(copy, node, rng):
            return Planted(copy, fault.cause, frozenset({fault.found_at or tensor}))
    return None
