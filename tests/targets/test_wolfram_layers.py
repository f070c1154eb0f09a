"""Each ONNX operator as Wolfram Language text; the text is read by others and must say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optim import model as onnx_file
from optim.errors import InternalError
from targets.closeness import Gate, closeness
from targets.wolfram.evaluate import NetGraph
from targets.wolfram.expression import Call, Symbol, Tree, parse
from targets.wolfram.lower import Lowered, lower, unsupported_nodes
from tests.targets.operator_cases import CASES, IMAGE, LINKS, expected_of, graph, ints, seeded

# What Caffe lacks and this target has.
MORE = {
    "elu's alpha": graph("y = Elu<alpha=0.5>(x)", IMAGE, IMAGE),
    "pad with a number": graph(
        "y = Pad(x, p, v)", IMAGE, "[1,3,12,11]", p=ints(0, 0, 1, 0, 0, 0, 2, 1), v=np.float32(-2)
    ),
    "pad with the edge": graph(
        'y = Pad<mode="edge">(x, p)', IMAGE, "[1,3,12,11]", p=ints(0, 0, 1, 0, 0, 0, 2, 1)
    ),
    "gate, added": graph("p = GlobalMaxPool(x) y = Add(x, p)", IMAGE, IMAGE),
    "flatten, channels last, no dense": graph(
        "t = Transpose<perm=[0,2,3,1]>(x) y = Reshape(t, s)", IMAGE, "[1,270]", s=ints(-1, 270)
    ),
    "max pool of what is never negative": graph(
        "r = Relu(x) y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)", IMAGE, IMAGE
    ),
    "max pool of what may be negative": graph(
        "y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", IMAGE, IMAGE
    ),
}
# Without a step along an axis, and without what no layer is known for.
LACKING = {"slice by steps", "space to depth"}
EVERY = {**{title: case[0] for title, case in CASES.items() if title not in LACKING}, **MORE}


def lowered_of(model: onnx.ModelProto, folder: Path) -> Lowered:
    onnx.save(model, folder / "m.onnx")
    return lower(onnx_file.load(folder / "m.onnx"))


@pytest.mark.parametrize("title", EVERY)
def test_the_text_computes_what_onnx_runtime_does(title: str, tmp_path: Path) -> None:
    model = EVERY[title]
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = 2 * seeded(*dims, seed=9)
    made = lowered_of(model, tmp_path)
    got = NetGraph(made.text, made.parameters)(x.transpose(made.input.perm)[0])
    assert got.shape == made.output.dimensions
    expected = expected_of(model, x).transpose(made.output.perm)[0]
    figure = closeness(got.astype(np.float32), np.ascontiguousarray(expected))
    assert Gate(2e-6, 100.0).passes(figure), (figure, made.text)


@pytest.mark.parametrize("title", EVERY)
def test_another_parser_reads_the_same_expression(title: str, tmp_path: Path) -> None:
    """Mathics3 is an independent implementation of the language."""
    pytest.importorskip("mathics", reason="Mathics3 (fairlead[dev]) is not installed")
    text = lowered_of(EVERY[title], tmp_path).text
    (expression,) = mathics_expressions(text)
    assert _plain(parse(text)) == _plain_mathics(expression)


def mathics_expressions(text: str) -> list[Any]:
    """The expressions in ``text`` as Mathics3 reads them; its syntax errors are raised."""
    from mathics.core.parser import parse as mathics_parse
    from mathics_scanner import MultiLineFeeder
    from mathics_scanner.location import ContainerKind

    class Definitions:
        def lookup_name(self, name: str) -> str:
            return name

        def get_context_path(self) -> list[str]:
            return ["System`"]

        def get_current_context(self) -> str:
            return "Global`"

    feeder = MultiLineFeeder(text, "", ContainerKind.STRING)
    found = []
    while not feeder.empty():
        one = mathics_parse(Definitions(), feeder)
        found += [] if one is None else [one]  # a comment by itself is an empty line
    assert not feeder.messages
    return found


def _plain_mathics(expression: Any) -> Any:
    if hasattr(expression, "elements"):
        head = str(expression.head).removeprefix("System`")
        return _normal(head, [_plain_mathics(e) for e in expression.elements])
    value = getattr(expression, "value", None)
    if isinstance(value, (int, float, str)) and not hasattr(expression, "name"):
        return value
    if value is not None and not hasattr(expression, "name"):
        return float(value)
    return Symbol(re.sub(r"^.*`", "", str(expression)))


def _plain(tree: Tree) -> Any:
    if isinstance(tree, Call):
        return _normal(tree.name, [_plain(a) for a in tree.arguments])
    return tree


def _normal(head: str, arguments: list[Any]) -> Any:
    """One spelling for what the two parsers write differently: differences, quotients, signs."""
    if head == "Minus" or (head == "Times" and arguments[0] == -1 and len(arguments) == 2):
        inner = arguments[-1]
        if isinstance(inner, (int, float)):
            return -inner
        return ("Times", -1, *(inner[1:] if inner[0] == "Times" else [inner]))
    if head == "Subtract":
        return _normal("Plus", [arguments[0], _normal("Minus", [arguments[1]])])
    if head == "Divide":
        return _normal("Times", [arguments[0], _normal("Power", [arguments[1], -1])])
    flat: list[Any] = []
    for one in arguments:
        nested = head in ("Plus", "Times") and isinstance(one, tuple) and one[0] == head
        flat += one[1:] if nested else [one]
    return (head, *flat)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a -> b", Call(Symbol("Rule"), (Symbol("a"), Symbol("b")))),
        ("1.5*^-3", 0.0015),
        ('"say \\"x\\""', 'say "x"'),
        ("f[1][2]", Call(Call(Symbol("f"), (1,)), (2,))),
        ("(* one (* two *) *) {}", Call(Symbol("List"), ())),
        ("# + 1 &", Call(Symbol("Function"), (Call(Symbol("Plus"), (Call(Symbol("Slot"), (1,)), 1)),))),
        (
            "a - b - c",
            Call(Symbol("Subtract"), (Call(Symbol("Subtract"), (Symbol("a"), Symbol("b"))), Symbol("c"))),
        ),
        ("a;", Call(Symbol("CompoundExpression"), (Symbol("a"), Symbol("Null")))),
    ],
)
def test_reads_expressions(text: str, tree: Tree) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    "text", ["f[1", "{1, 2", "<|a -> b", "f[1]]", "1 +", '"open', "(* open", "a b", "f[1 2]"]
)
def test_refuses_what_is_no_expression(text: str) -> None:
    with pytest.raises(InternalError):
        parse(text)


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ('"Stride" -> {1, 1}', '"Stride" -> {2, 2}'),
        ('"c" -> "r"', 'NetPort["Input"] -> "r"'),
        ("{{1, 1}, {1, 1}}", "{{2, 0}, {1, 1}}"),
        ('params["c/Weights"]', 'params["c/Biases"]'),
        ("ConvolutionLayer", "ConvolutionLeyer"),
    ],
)
def test_a_changed_text_is_caught(change: str, to: str, tmp_path: Path) -> None:
    """The evaluator works from the text: a wrong number there is a wrong result or an error."""
    body = "c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) y = Add(r, x)"
    model = graph(body, "[1,4,6,6]", "[1,4,6,6]", w=seeded(4, 4, 3, 3), b=seeded(4))
    made = lowered_of(model, tmp_path)
    assert change in made.text
    x = seeded(1, 4, 6, 6, seed=3)
    right = NetGraph(made.text, made.parameters)(x[0])
    assert np.allclose(right, expected_of(model, x)[0], atol=1e-5)
    try:
        wrong = NetGraph(made.text.replace(change, to), made.parameters)(x[0])
    except InternalError:
        return
    assert not np.allclose(wrong, right, atol=1e-3)


REFUSED = {
    "unknown op": (graph("y = Sin(x)", IMAGE, IMAGE), "no layer is known"),
    "bilinear": (
        graph(
            'y = Resize<mode="linear">(x, , s)', IMAGE, "[1,3,18,20]", s=np.asarray([1, 1, 2, 2], np.float32)
        ),
        "mode linear",
    ),
    "two outputs": (None, "1 inputs and 2 outputs"),
    "free size": (graph("y = Relu(x)", "[N,3,H,W]", "[N,3,H,W]"), "optimize.shapes"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_refusals_say_what_and_why(title: str, tmp_path: Path) -> None:
    model, reason = REFUSED[title]
    if model is None:
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 18]> g (float[1,2] x) => (float[1,2] y, float[1,2] z)'
            " { y = Relu(x) z = Neg(x) }"
        )
    onnx.save(model, tmp_path / "m.onnx")
    reasons = unsupported_nodes(onnx_file.load(tmp_path / "m.onnx"))
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_chains_of_every_link(tmp_path: Path) -> None:
    value, lines = "x", []
    for k, link in enumerate(LINKS):
        lines.append(f"t{k} = {LINKS[link].format(value)}")
        value = f"t{k}"
    vectors = {f"v{k}": np.abs(seeded(4, seed=k)) + 0.5 for k in (1, 2, 3, 4)}
    weights = {
        "w": 0.3 * seeded(4, 4, 3, 3),
        "one": seeded(4, 1, 1, 1),
        "c": seeded(4, 1, 1, seed=2),
        "m": seeded(2, 2, seed=3),
        "s": np.float32(0.7),
        "low": np.float32(-0.4),
        "two": np.float32(2),
    }
    model = graph(f"{' '.join(lines)} y = Tanh({value})", "[1,4,2,2]", "[1,4,2,2]", **vectors, **weights)
    x = seeded(1, 4, 2, 2, seed=4)
    made = lowered_of(model, tmp_path)
    got = NetGraph(made.text, made.parameters)(x[0])
    assert np.abs(got - expected_of(model, x)[0]).max() < 1e-5
