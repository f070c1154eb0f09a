"""TensorFlow sources end to end: each small model is converted, checked against TensorFlow by ``convert``
itself, and read back here with what the record promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from optim.errors import UnsupportedModelError, UserError
from pipeline.sources import convert, open_source
from pipeline.sources.contract import ConvertRequest, EdgeLayout, SourceFormat
from targets.reference import OrtSession
from tests.sources.tf_worker import Worker

pytestmark = pytest.mark.tensorflow


def _ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


KERAS = (
    "convolution",
    "grouped",
    "recurrent",
    "embedded",
    "transposed",
    "resized_freely",
    "preprocessing",
    "two_heads",
    "large",
)


@pytest.mark.parametrize("name", KERAS)
def test_keras_models_convert_with_keras_own_parameter_counts(tf: Worker, tmp_path: Path, name: str) -> None:
    model = tf.build(name, tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    summary = tf.ask("keras_summary", model)
    assert isinstance(summary, dict)
    assert done.source_format is SourceFormat.KERAS
    assert {one.feed for one in done.parity} == {"zeros", "random(seed=0)"}
    assert all(one.passed for one in done.parity)
    assert sum(layer.parameters for layer in done.layers) == summary["total"]
    listed = {layer.name: layer.parameters for layer in done.layers}
    assert {name: listed[name] for name in summary["layers"]} == summary["layers"]
    assert not {"RandomUniformLike", "StatefulPartitionedCall"} & set(_ops(done.output))


def test_layers_say_where_they_went(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("convolution", tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    conv = next(layer for layer in done.layers if layer.name == "conv")
    assert (conv.op, conv.padding, conv.output_shape) == ("Conv2D", "same", (None, 5, 5, 6))
    assert conv.weights == (("conv/kernel", (3, 3, 3, 6)),)
    graph = onnx.load(done.output).graph
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    named = [name for layer in done.layers for name in layer.outputs]
    assert named
    assert set(named) <= made


def test_names_and_order_of_inputs_and_outputs_survive(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("two_heads", tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert [spec.name for spec in done.inputs] == ["a", "b"]
    assert [spec.name for spec in done.outputs] == ["p", "q"]
    chosen = tf.convert(ConvertRequest(str(model), outputs=("q",)), tmp_path / "q.onnx")
    assert [spec.name for spec in chosen.outputs] == ["q"]


def test_two_conversions_give_the_same_bytes(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("convolution", tmp_path / "model.keras")
    texts: list[str] = []
    first = convert(
        ConvertRequest(str(model)), tmp_path / "a.onnx", progress=lambda text, _: texts.append(text)
    )
    second = convert(ConvertRequest(str(model)), tmp_path / "b.onnx")
    assert first.sha256 == second.sha256
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert {"load", "convert", "check", "parity", "total"} <= set(first.seconds)
    assert first.peak_rss_mib > 100
    assert texts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "model.keras"]


def test_the_parent_of_a_conversion_stays_light(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("convolution", tmp_path / "model.keras")
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.sources import convert\nfrom pipeline.sources.contract import ConvertRequest\n"
        f"convert(ConvertRequest({str(model)!r}), Path({str(tmp_path / 'a.onnx')!r}))\n"
        "sys.exit(str({'tensorflow', 'keras', 'tf2onnx'} & set(sys.modules)) if "
        "{'tensorflow', 'keras', 'tf2onnx'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.onnx").is_file()


def test_the_source_as_a_session_agrees_with_its_conversion(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("two_heads", tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    rng = np.random.default_rng(1)
    feeds = {
        "a": rng.normal(size=(3, 8)).astype(np.float32),
        "b": rng.normal(size=(3, 6, 6, 2)).astype(np.float32),
    }
    with open_source(ConvertRequest(str(model))) as source, OrtSession(done.output) as converted:
        assert [spec.name for spec in source.inputs] == [spec.name for spec in done.inputs]
        assert [spec.name for spec in source.outputs] == [spec.name for spec in done.outputs]
        want, got = source.run(feeds), converted.run(feeds)
        with pytest.raises(UserError, match="no array for input b"):
            source.run({"a": feeds["a"]})
    for name in ("p", "q"):
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_lambda_layers_need_permission(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("lambda_layer", tmp_path / "model.keras")
    with pytest.raises(UnsupportedModelError, match="Lambda layer 'double'") as refused:
        tf.convert(ConvertRequest(str(model)), tmp_path / "model.onnx")
    assert refused.value.layer == "double"
    assert "allow-custom-code" in refused.value.hint
    assert not (tmp_path / "model.onnx").exists()
    done = tf.convert(ConvertRequest(str(model), allow_custom_code=True), tmp_path / "model.onnx")
    assert done.output.exists()


def test_channels_first_at_the_edge(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("channels_first", tmp_path / "net.pb")
    asis = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "nchw.onnx")
    assert asis.inputs[0].shape == (1, 2, 7, 7)
    request = ConvertRequest(str(model), outputs=("y:0",), edge_layout=EdgeLayout.NHWC)
    turned = tf.convert(request, tmp_path / "nhwc.onnx")
    assert turned.inputs[0].shape == (1, 7, 7, 2)
    assert turned.outputs[0].shape == (1, 2, 2, 4)
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 7)).astype(np.float32)
    with OrtSession(asis.output) as a, OrtSession(turned.output) as b:
        want = a.run({"x:0": x})["y:0"]
        got = b.run({"x:0": np.ascontiguousarray(x.transpose(0, 2, 3, 1))})["y:0"]
    np.testing.assert_array_equal(got, want.transpose(0, 2, 3, 1))


GRAPHS = (
    "transposed_same", "transposed_valid_adjusted", "transposed_explicit", "transposed_wide_stride",
    "nearest", "nearest_align", "nearest_half_pixel", "nearest_down", "bilinear", "bilinear_align",
    "bilinear_half_pixel", "fused_resize", "fused_resize_pad",
)  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_ops_that_converters_get_wrong(tf: Worker, tmp_path: Path, name: str) -> None:
    model = tf.build(name, tmp_path / "net.pb")
    done = tf.convert(ConvertRequest(str(model), outputs=("y:0",)), tmp_path / "net.onnx")
    assert [spec.name for spec in done.inputs] == ["x:0"]
    assert [spec.name for spec in done.outputs] == ["y:0"]
    assert all(one.passed for one in done.parity)


def test_a_placeholder_without_shape_needs_one(tf: Worker, tmp_path: Path) -> None:
    model = tf.build("shapeless", tmp_path / "net.pb")
    with pytest.raises(UserError, match="'x:0' has no shape") as refused:
        tf.convert(ConvertRequest(str(model)), tmp_path / "net.onnx")
    assert "--inputs 'x:0[" in refused.value.hint
    done = tf.convert(ConvertRequest(str(model), inputs={"x:0": (1, 6, 7, 2)}), tmp_path / "net.onnx")
    assert done.outputs[0].shape == (1, 6, 7, 4)


TRAINING = (
    # model, frozen placeholders, their values
    ("keep_prob", {"k:0": "1.0"}),
    ("rate_default", {"r:0": "0.0"}),
    ("constant_dropout", {}),
    ("conditional_norm", {"switch_a:0": "False"}),
)


@pytest.mark.parametrize(("name", "frozen"), TRAINING)
def test_training_graphs_become_inference_graphs(
    tf: Worker, tmp_path: Path, name: str, frozen: dict[str, str]
) -> None:
    prefix = tf.build(name, tmp_path / "model.ckpt")
    done = tf.convert(ConvertRequest(str(prefix)), tmp_path / "model.onnx")
    assert done.source_format is SourceFormat.TF1_CHECKPOINT
    assert {one.name: one.value for one in done.frozen} == frozen
    assert [spec.name for spec in done.inputs] == ["pictures:0"]
    assert [spec.name for spec in done.outputs] == ["scores:0"]
    assert any("labels set aside: anything:0" in note for note in done.notes)
    assert not {"If", "RandomUniform", "RandomUniformLike", "Dropout"} & set(_ops(done.output))


def test_a_random_op_is_never_left_silently(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("noise", tmp_path / "model.ckpt")
    with pytest.raises(UnsupportedModelError, match="random op RandomStandardNormal") as refused:
        tf.convert(ConvertRequest(str(prefix)), tmp_path / "model.onnx")
    assert refused.value.op == "RandomStandardNormal"
    assert not (tmp_path / "model.onnx").exists()


def test_freezing_by_hand_wins(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("conditional_norm", tmp_path / "model.ckpt")
    request = ConvertRequest(str(prefix), freeze={"switch_a": False})
    done = tf.convert(request, tmp_path / "model.onnx")
    assert [(one.name, one.value, one.why) for one in done.frozen] == [
        ("switch_a:0", "False", "asked for (--freeze)")
    ]


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [("saved_model", ["x"], ["double", "shifted"]), ("saved_model_v1", ["input"], ["output"])],
)
def test_saved_models_keep_the_names_of_their_signature(
    tf: Worker, tmp_path: Path, name: str, inputs: list[str], outputs: list[str]
) -> None:
    folder = tf.build(name, tmp_path / "saved")
    done = tf.convert(ConvertRequest(str(folder)), tmp_path / "model.onnx")
    assert [spec.name for spec in done.inputs] == inputs
    assert [spec.name for spec in done.outputs] == outputs


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({}, ("scorez:0",), "no output 'scorez:0'"),
        ({"pixels:0": (1, 8, 8, 2)}, (), "no input 'pixels:0'"),
        ({"pictures:0": (1, 9, 8, 2)}, (), "has shape"),
    ],
)
def test_wrong_names_and_shapes_are_the_users_mistake(
    tf: Worker, tmp_path: Path, inputs: dict[str, tuple[int, ...]], outputs: tuple[str, ...], message: str
) -> None:
    prefix = tf.build("keep_prob", tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=message):
        tf.convert(ConvertRequest(str(prefix), inputs=inputs, outputs=outputs), tmp_path / "model.onnx")


def test_a_damaged_checkpoint_is_named(tf: Worker, tmp_path: Path) -> None:
    prefix = tf.build("keep_prob", tmp_path / "model.ckpt")
    data = next(tmp_path.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        tf.convert(ConvertRequest(str(prefix)), tmp_path / "model.onnx")


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_the_opset_asked_for_is_the_opset_written(tf: Worker, tmp_path: Path, opset: int) -> None:
    model = tf.build("convolution", tmp_path / "model.keras")
    done = tf.convert(ConvertRequest(str(model), opset=opset), tmp_path / "model.onnx")
    assert done.opset == opset
