"""A mode kept in a variable, and the names and layers of a TF1 graph after its conversion."""

from __future__ import annotations

from importlib.util import find_spec

import onnx
import pytest

from pipeline.sources.child import Child
from pipeline.sources.contract import Conversion, ConvertRequest

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Conversion]:
    """The graph saved in inference and in training mode, converted."""
    if find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: pip install 'fairlead[tensorflow]'")
    found: dict[bool, Conversion] = {}
    with Child() as child:
        for stored in (False, True):
            folder = tmp_path_factory.mktemp("mode")
            child.call("tests.sources.mode_graphs:build", folder / "model.ckpt", stored)
            request = ConvertRequest(str(folder / "model.ckpt"), outputs=("scores:0",))
            entry = "pipeline.sources.conversion:convert_here"
            found[stored] = child.call(entry, request, folder / "model.onnx").value
    return found


@pytest.mark.parametrize(
    ("stored", "why"), [(False, "as it is stored"), (True, "stored as True. training switch")]
)
def test_the_mode_is_inference_whatever_was_stored(
    conversions: dict[bool, Conversion], stored: bool, why: str
) -> None:
    done = conversions[stored]
    (frozen,) = done.frozen
    assert (frozen.name, frozen.value) == ("mode:0", "False")
    assert why in frozen.why
    assert done.parity
    assert all(one.passed for one in done.parity)


def test_both_give_the_same_model(conversions: dict[bool, Conversion]) -> None:
    assert conversions[False].sha256 == conversions[True].sha256


def test_a_bias_belongs_to_its_layer(conversions: dict[bool, Conversion]) -> None:
    layers = {layer.name: layer for layer in conversions[False].layers}
    first, second = layers["first/conv"], layers["second/conv"]
    assert first.weights == (("first/kernel", (3, 3, 2, 16)), ("first/bias", (16,)))
    assert (first.parameters, second.parameters) == (3 * 3 * 2 * 16 + 16, 3 * 3 * 16 * 32 + 32)
    assert (first.outputs, second.outputs) == (("first/sum:0",), ("second/sum:0",))
    assert "first/sum" not in layers
    assert layers["Relu"].inbound == ("first/conv",)
    assert layers["dense/product"].weights == (("dense/kernel", (512, 5)),)


def test_weights_keep_the_names_of_their_variables(conversions: dict[bool, Conversion]) -> None:
    graph = onnx.load(conversions[False].output).graph
    held = [tensor.name for tensor in graph.initializer]
    for name in ("first/kernel", "first/bias", "second/bias", "dense/kernel"):
        assert any(name in one for one in held), held
    assert not [one for one in held if "/read" in one]
    assert [node.op_type for node in graph.node].count("Conv") == 2
    assert "Add" not in [node.op_type for node in graph.node]
