"""Plant one fault of a known kind into a copy of a network, at a node chosen at random.

Each fault is what a converter or a runtime has really done: padding split at the other end, another way to
read coordinates, a batch norm's epsilon taken from another framework, weights in another axis order, and so
on. Where a batch norm has been taken apart into Mul and Add, the statistics that epsilon works on are those
of the tensor that enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Array, Feeds
from pipeline.parity.cause import Cause, round_fraction
from targets.float64.evaluate import GraphEvaluator

BIG = 3e4  # added and taken away again: float32 loses the low digits
OVERFLOW = 1e6  # scale at which a value of order 1 leaves float16


@dataclass(frozen=True)
class Planted:
    """A faulty copy, the fault's name, and where it sits: the node's name and the tensors it shows at."""

    model: ir.Model
    cause: Cause
    node: str
    tensors: frozenset[str]


@dataclass(frozen=True)
class Sketch:
    """What the faults need to know of a tensor [N, C, *spatial]: its shape and each channel's moments."""

    shape: tuple[int, ...]
    mean: Array
    variance: Array

    @staticmethod
    def of(value: Array) -> Sketch:
        if value.dtype.kind != "f" or value.ndim < 2 or not value.size:
            return Sketch(tuple(value.shape), np.zeros(0), np.zeros(0))
        axes = (0, *range(2, value.ndim))
        return Sketch(tuple(value.shape), value.mean(axes), value.var(axes))


@dataclass
class Site:
    """One place to plant a fault at: a faulty copy in the making."""

    model: ir.Model
    node: ir.Node
    rng: np.random.Generator
    tensors: Mapping[str, Sketch] = field(default_factory=dict)  # by name


Plant = Callable[[Site], bool]  # False: this node offers nothing for the fault, and is unchanged


# --- surgery ---------------------------------------------------------------------------------------


def held(value: ir.Value | None) -> Array | None:
    """The array of a constant input."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _initializer(model: ir.Model, name: str, array: Array) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    model.graph.register_initializer(value)
    return value


def _before(site: Site, build: Callable[[ir.Value], list[ir.Node]]) -> None:
    """Put nodes between the node and its first input."""
    source = site.node.inputs[0]
    assert source is not None
    extra = build(source)
    site.model.graph.insert_before(site.node, extra)
    site.node.replace_input_with(0, extra[-1].outputs[0])


def _integers(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else []


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default


# --- the faults ------------------------------------------------------------------------------------


def shifted(pads: list[int]) -> list[int]:
    """The same totals, split at the other end; all at the end where they were even."""
    half = len(pads) // 2
    begin, end = pads[:half], pads[half:]
    return end + begin if begin != end else [0] * half + [x + y for x, y in zip(begin, end, strict=True)]


def padding(site: Site) -> bool:
    """Padding at the other end: of the window itself, or of a Pad before it."""
    node = site.node
    if node.op_type == "Pad":
        flat = held(node.inputs[1]) if len(node.inputs) > 1 else None
        users = [n.op_type for n, _ in node.outputs[0].uses()]
        if flat is None or not flat.any() or not {"Conv", "ConvTranspose"} & set(users):
            return False
        turned = np.array(shifted(flat.tolist()), flat.dtype)
        node.replace_input_with(1, _initializer(site.model, "planted_pads", turned))
        return True
    auto = _text(node, "auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        other = "SAME_LOWER" if auto == "SAME_UPPER" else "SAME_UPPER"
        node.attributes["auto_pad"] = ir.AttrString("auto_pad", other)
        return True
    pads = _integers(node, "pads")
    if not any(pads):
        return False
    node.attributes["pads"] = ir.AttrInt64s("pads", shifted(pads))
    return True


def pool_border(site: Site) -> bool:
    """The border counted into the mean or left out; padding at the other end."""
    node = site.node
    if node.op_type == "AveragePool" and any(_integers(node, "pads")):
        given = node.attributes.get("count_include_pad")
        counted = 0 if given is None else given.as_int()
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1 - counted)
        return True
    return padding(site)


def resize(site: Site) -> bool:
    """Another reading of coordinates."""
    now = _text(site.node, "coordinate_transformation_mode", "half_pixel")
    other = site.rng.choice([m for m in ("half_pixel", "asymmetric", "align_corners") if m != now])
    site.node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", str(other)
    )
    return True


def epsilon(site: Site) -> bool:
    """TensorFlow's 1e-3 for PyTorch's 1e-5, or the reverse."""
    node = site.node
    if node.op_type == "BatchNormalization":
        now = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5 if now > 5e-5 else 1e-3)
        return True
    return _epsilon_taken_apart(site)


def _epsilon_taken_apart(site: Site) -> bool:
    """scale = gamma / sqrt(v + e) and shift = beta - mean * scale, with another e."""
    node = site.node
    users = [n for n, _ in node.outputs[0].uses()]
    scale = held(node.inputs[1])
    entering = site.tensors.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
    if scale is None or entering is None or len(users) != 1 or users[0].op_type != "Add":
        return False
    place = next((i for i, v in enumerate(users[0].inputs) if held(v) is not None), None)
    shift = None if place is None else held(users[0].inputs[place])
    if place is None or shift is None or shift.shape != scale.shape or scale.size != entering.mean.size:
        return False
    if scale.size < 2 or scale.ndim != 4:
        return False
    mean, variance = entering.mean.reshape(scale.shape), entering.variance.reshape(scale.shape)
    before, after = (1e-3, 1e-5) if site.rng.random() < 0.5 else (1e-5, 1e-3)
    other = scale * np.sqrt((variance + before) / (variance + after))
    node.replace_input_with(1, _initializer(site.model, "planted_scale", other.astype(scale.dtype)))
    moved = (shift + mean * (scale - other)).astype(shift.dtype)
    users[0].replace_input_with(place, _initializer(site.model, "planted_shift", moved))
    return True


def axis(site: Site) -> bool:
    """Axes in another order: of a kernel, of the input, of a dense layer's rows, of what is joined."""
    node, model = site.node, site.model
    if node.op_type == "Conv":
        weight = held(node.inputs[1])
        if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] == 1:
            return False
        turned = weight.transpose(0, 1, 3, 2)
        node.replace_input_with(1, _initializer(model, "planted_kernel", turned))
        return True
    if node.op_type in ("Flatten", "Reshape"):
        entering = site.tensors.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
        leaving = site.tensors.get(node.outputs[0].name or "")
        if entering is None or leaving is None or len(entering.shape) != 4 or len(leaving.shape) != 2:
            return False
        if entering.shape[1] < 2 or entering.shape[2] * entering.shape[3] < 2:
            return False
        _before(site, lambda v: [_transpose(v, (0, 2, 3, 1))])
        return True
    if node.op_type == "Concat":
        values = [site.tensors.get(v.name or "") for v in node.inputs if v is not None]
        if len(values) < 2 or values[0] is None or values[1] is None or values[0].shape != values[1].shape:
            return False
        first, second = node.inputs[0], node.inputs[1]
        node.replace_input_with(0, second)
        node.replace_input_with(1, first)
        return True
    return _rows(site)


def _rows(site: Site) -> bool:
    """A dense kernel whose rows stand in another order, as after a flatten in the other layout."""
    weight = held(site.node.inputs[1])
    if weight is None or weight.ndim != 2 or len(weight) % 4 or len(weight) < 8:
        return False
    order = np.arange(len(weight)).reshape(-1, 4).T.ravel()
    turned = weight[:, order] if _by_columns(site.node) else weight[order]
    if turned.shape != weight.shape:
        return False
    site.node.replace_input_with(1, _initializer(site.model, "planted_rows", turned))
    return True


def _by_columns(node: ir.Node) -> bool:
    return "transB" in node.attributes and bool(node.attributes["transB"].as_int())


def _transpose(value: ir.Value, perm: tuple[int, ...]) -> ir.Node:
    return ir.node("Transpose", [value], {"perm": perm}, outputs=[ir.Value(name="planted:0")], name="planted")


_OTHER: Mapping[str, tuple[tuple[str, Mapping[str, float]], ...]] = {
    "Relu": (("LeakyRelu", {"alpha": 0.1}), ("Elu", {"alpha": 1.0})),
    "LeakyRelu": (("LeakyRelu", {"alpha": 0.3}), ("Relu", {})),
    "Clip": (("Relu", {}),),
    "Elu": (("Relu", {}), ("Elu", {"alpha": 0.5})),
    "HardSwish": (("Relu", {}),),
    "Sigmoid": (("HardSigmoid", {}), ("Tanh", {})),
    "HardSigmoid": (("Sigmoid", {}),),
    "Tanh": (("Sigmoid", {}), ("HardSigmoid", {})),
}


def activation(site: Site) -> bool:
    """A neighbour of the activation: leaky for plain, hard for smooth, another slope."""
    node = site.node
    choices = _OTHER[node.op_type]
    op, attributes = choices[int(site.rng.integers(len(choices)))]
    old = node.outputs[0]
    fresh = ir.node(op, [node.inputs[0]], dict(attributes), name=node.name)
    site.model.graph.insert_after(node, [fresh])
    ir.convenience.replace_all_uses_with(old, fresh.outputs[0], replace_graph_outputs=True)
    name = old.name
    site.model.graph.remove(node, safe=True)
    fresh.outputs[0].name = name
    return True


def tf32(site: Site) -> bool:
    """A kernel with the ten fraction bits of TF32."""
    weight = held(site.node.inputs[1])
    if weight is None or weight.dtype != np.float32:
        return False
    rounded = round_fraction(weight, 10).astype(np.float32)
    site.node.replace_input_with(1, _initializer(site.model, "planted_tf32", rounded))
    return not np.array_equal(rounded, weight)


def fp16(site: Site) -> bool:
    """The node's input goes through float16, scaled so that its largest value does not fit."""
    scale = _initializer(site.model, "scale", np.array(OVERFLOW, np.float32))
    back = _initializer(site.model, "unscale", np.array(1 / OVERFLOW, np.float32))

    def build(value: ir.Value) -> list[ir.Node]:
        a = ir.node("Mul", [value, scale], outputs=[ir.Value(name="scaled:0")], name="scaled")
        b = ir.node("Cast", a.outputs, {"to": 10}, outputs=[ir.Value(name="half:0")], name="half")
        c = ir.node("Cast", b.outputs, {"to": 1}, outputs=[ir.Value(name="whole:0")], name="whole")
        d = ir.node("Mul", [c.outputs[0], back], outputs=[ir.Value(name="back:0")], name="back")
        return [a, b, c, d]

    _before(site, build)
    return True


def reduction(site: Site) -> bool:
    """A large number is added and taken away again."""
    big = _initializer(site.model, "big", np.array(BIG, np.float32))

    def build(value: ir.Value) -> list[ir.Node]:
        a = ir.node("Add", [value, big], outputs=[ir.Value(name="raised:0")], name="raised")
        return [a, ir.node("Sub", [a.outputs[0], big], outputs=[ir.Value(name="lowered:0")], name="lowered")]

    _before(site, build)
    return True


@dataclass(frozen=True)
class Fault:
    """A kind of fault: the operators it can befall, how it is planted, and the tensor it shows at."""

    cause: Cause
    ops: frozenset[str]
    plant: Plant
    found_at: str = ""  # empty: the output of the node itself
    arithmetic: bool = False  # of the runtime: float64 shows nothing


FAULTS = (
    Fault(Cause.PADDING, frozenset({"Conv", "ConvTranspose", "Pad"}), padding),
    Fault(Cause.RESIZE, frozenset({"Resize"}), resize),
    Fault(Cause.EPSILON, frozenset({"BatchNormalization", "Mul"}), epsilon),
    Fault(Cause.POOL_BORDER, frozenset({"MaxPool", "AveragePool"}), pool_border),
    Fault(Cause.AXIS, frozenset({"Conv", "Flatten", "Reshape", "Concat", "Gemm", "MatMul"}), axis),
    Fault(Cause.ACTIVATION, frozenset(_OTHER), activation),
    Fault(Cause.TF32, frozenset({"Conv", "Gemm", "MatMul"}), tf32),
    Fault(Cause.FP16, frozenset({"Conv", "Gemm", "MatMul"}), fp16, "half:0", arithmetic=True),
    Fault(Cause.REDUCTION, frozenset({"Conv", "Gemm", "MatMul"}), reduction, "lowered:0", arithmetic=True),
)


def sketches_for(model: ir.Model, feed: Feeds) -> dict[str, Sketch]:
    """The tensors whose moments or shapes the faults need, from a float64 run."""
    wanted = {
        v.name
        for node in model.graph
        if node.op_type in ("Flatten", "Reshape", "Concat", "Mul")
        for v in (*node.inputs, *node.outputs)
        if v is not None and v.name
    }
    found: dict[str, Sketch] = {}
    with np.errstate(all="ignore"):
        for _, name, value in GraphEvaluator(model).trace(feed):
            if name in wanted:
                found[name] = Sketch.of(value)
    return found


def plant(
    model: ir.Model, fault: Fault, rng: np.random.Generator, sketches: Mapping[str, Sketch] | None = None
) -> Planted | None:
    """A faulty copy, or None where the network has no node for this fault."""
    names = [i for i, n in enumerate(model.graph) if n.op_type in fault.ops]
    for index in rng.permutation(names):
        copy = model.clone()
        node = list(copy.graph)[int(index)]
        tensor, name = node.outputs[0].name or "", node.name or ""
        if fault.plant(Site(copy, node, rng, sketches or {})):
            return Planted(copy, fault.cause, name, frozenset({fault.found_at or tensor}))
    return None
