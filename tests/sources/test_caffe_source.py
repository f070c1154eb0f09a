"""Caffe nets as a source: against Caffe's own outputs, OpenCV, and the nets that the target writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from optim import model as onnx_file
from optim.errors import UnsupportedModelError, UserError
from pipeline.sources import convert, open_source
from pipeline.sources.caffe_graph import graph_of
from pipeline.sources.caffe_model import files_of
from pipeline.sources.contract import ConvertRequest, SourceFormat
from pipeline.sources.detect import detect
from targets.caffe.lower import lower
from targets.caffe.net import Layer, Net, write_caffemodel, write_prototxt
from targets.caffe.read import read_net
from targets.closeness import Gate, closeness
from tests.targets.operator_cases import CASES, expected_of, seeded

# Layers of Caffe's descendants, which are refused by name.
FOREIGN = {"Accum", "DataAugmentation", "Interp"}


def answer(model: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def converted(folder: Path, out: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Path:
    net = read_net(*files_of(folder / "net.prototxt"))
    model, _ = graph_of(net, shapes or {})
    onnx_file.save(model, out)
    return out


def test_layers_give_what_caffe_gave(corpus: Path, tmp_path: Path) -> None:
    """Every layer in the corpus that Caffe itself has, with outputs that Caffe computed."""
    refused, checked = set(), 0
    for folder in sorted((corpus / "caffe_layers").iterdir()):
        net = read_net(*files_of(folder / "net.prototxt"))
        arrays = [np.load(file).astype(np.float32) for file in sorted(folder.glob("in_*.npy"))]
        feeds = dict(zip(net.inputs, arrays, strict=True))
        try:
            file = converted(folder, tmp_path / "m.onnx", {k: v.shape for k, v in feeds.items()})
        except UnsupportedModelError as error:
            refused.add(error.op)
            continue
        (got,) = answer(file, feeds).values()
        expected = np.load(folder / "out.npy")
        figure = closeness(got, expected.reshape(got.shape).astype(np.float32))
        assert Gate(2e-6, 110.0).passes(figure), (folder.name, figure)
        checked += 1
    assert refused == FOREIGN
    assert checked >= 11


def test_a_trained_net_keeps_its_accuracy(corpus: Path, tmp_path: Path) -> None:
    """LeNet on labelled digits: 997 of 1000 in another importer."""
    data = np.load(corpus / "data" / "mnist_1000_labelled" / "mnist_1000.npz", allow_pickle=False)
    images, labels = data["images"].reshape(1000, 1, 28, 28), data["labels"]
    folder = corpus / "caffe_nets" / "caffe_lenet_mnist"
    file = converted(folder, tmp_path / "m.onnx", {"data": (1000, 1, 28, 28)})
    (scores,) = answer(file, {"data": images.astype(np.float32) / 256}).values()
    assert int((scores.argmax(axis=1) == labels).sum()) == 997


def test_tensorflow_weights_of_a_caffe_net_are_the_same(corpus: Path) -> None:
    """A net that others carried to TensorFlow by hand: HWIO kernels, flattened in another order."""
    stored = np.load(corpus / "weights_npy" / "facenet_det2_npy" / "det2.npz", allow_pickle=False)
    net = read_net(*files_of(corpus / "caffe_nets" / "caffe_mtcnn_det2" / "net.prototxt"))
    blobs = {layer.name: layer.blobs for layer in net.layers}
    for key in stored.files:
        layer, _, kind = key.rpartition("/")
        array, own = stored[key], blobs[layer][1 if kind == "biases" else 0]
        if (
            key == "conv4/weights"
        ):  # rows in the order height, width, channel; Caffe's: channel, height, width
            array = array.reshape(3, 3, 64, 128).transpose(3, 2, 0, 1).reshape(128, 576)
        elif array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T
        assert np.array_equal(array, own), key
    assert len(stored.files) == 16


@pytest.mark.parametrize("name", ["caffe_lenet_mnist", "caffe_mtcnn_det2", "caffe_ultraface_slim_320"])
def test_conversion_agrees_with_opencv(corpus: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("cv2", reason="fairlead[caffe] is not installed")
    request = ConvertRequest(str(corpus / "caffe_nets" / name / "net.prototxt"))
    done = convert(request, tmp_path / "m.onnx")
    assert done.source_format is SourceFormat.CAFFE
    assert all(one.passed for one in done.parity)
    assert {one.feed for one in done.parity} == {"zeros", "random(seed=0)"}
    assert sum(layer.parameters for layer in done.layers) > 10_000


@pytest.mark.parametrize("title", CASES)
def test_what_the_target_writes_says_the_same_by_caffes_own_definitions(title: str, tmp_path: Path) -> None:
    """The second reader of the dialect: Caffe's definitions, as checked against Caffe's outputs above."""
    model, _ = CASES[title]
    onnx.save(model, tmp_path / "m.onnx")
    lowered = lower(onnx_file.load(tmp_path / "m.onnx"))
    write_prototxt(lowered.net, tmp_path / "net.prototxt")
    write_caffemodel(lowered.net, tmp_path / "net.caffemodel")
    again = converted(tmp_path, tmp_path / "again.onnx")
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = 2 * seeded(*dims, seed=9)
    (port,), (left,) = lowered.inputs, lowered.outputs
    got = answer(again, {port.blob: np.ascontiguousarray(x.transpose(port.perm))})[left.blob]
    expected = np.ascontiguousarray(expected_of(model, x).transpose(left.perm))
    assert Gate(2e-6, 100.0).passes(closeness(got, expected)), closeness(got, expected)


CONV = Layer("c", "Convolution", ("x",), ("c",), {"convolution_param": {"num_output": 2, "kernel_size": [1]}})
INPUT = Layer("x", "Input", (), ("x",), {"input_param": {"shape": [1, 3, 2, 2]}})


def written(folder: Path, *layers: Layer) -> Path:
    write_prototxt(Net("n", layers), folder / "net.prototxt")
    return folder / "net.prototxt"


def test_the_format_is_found(tmp_path: Path) -> None:
    assert detect(str(written(tmp_path, INPUT, CONV))) is SourceFormat.CAFFE
    graph = tmp_path / "graph.prototxt"
    graph.write_text('node { name: "x" op: "Placeholder" }')
    assert detect(str(graph)) is SourceFormat.FROZEN_GRAPH


def test_missing_weights_are_named(tmp_path: Path) -> None:
    net = read_net(*files_of(written(tmp_path, INPUT, CONV)))
    with pytest.raises(UserError, match="needs 1 blobs and has 0") as caught:
        graph_of(net, {})
    assert "layer c" in caught.value.where


def test_layers_of_training_are_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, INPUT, Layer("r", "ReLU", ("x",), ("x",)))
    training = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" top: "l" include { phase: TRAIN } }'
    file.write_text(file.read_text() + training)
    assert [layer.name for layer in read_net(file, None).layers] == ["r"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers { name: 'a' type: RELU }", "before Caffe 1.0"),
        ("name: 'empty'", "holds no layers"),
        ("layer { name: ", "no Caffe description"),
        ("input: 'x' layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'y' }", "1 inputs and 0 shapes"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(text)
    with pytest.raises((UserError, UnsupportedModelError), match=words):
        read_net(file, None)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, INPUT, CONV)
    file.with_suffix(".caffemodel").write_bytes(b"\x0a\xff\xff\xff\xffnonsense")
    with pytest.raises(UserError, match="damaged"):
        read_net(*files_of(file))
    with pytest.raises(UserError, match="no description beside it"):
        files_of(tmp_path / "other.caffemodel")


def test_a_reader_before_its_maker_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, INPUT, Layer("r", "ReLU", ("later",), ("y",)))
    with pytest.raises(UserError, match="no layer before it makes"):
        graph_of(read_net(file, None), {})


@pytest.mark.parametrize(
    "layer",
    [
        Layer("bad", "Pooling", ("x",), ("y",), {"pooling_param": {"kernel_size": 2, "stride": 0}}),
        Layer("bad", "Pooling", ("x",), ("y",), {"pooling_param": {"kernel_size": 9}}),
        Layer("bad", "Slice", ("x",), ("y", "z"), {"slice_param": {"slice_point": [7]}}),
        Layer("bad", "Reshape", ("x",), ("y",), {"reshape_param": {"shape": [0, 5]}}),
        Layer("bad", "Concat", ("x",), ("y",), {"concat_param": {"axis": 9}}),
        Layer(
            "bad", "InnerProduct", ("x",), ("y",), {"inner_product_param": {"num_output": 3}}, (np.ones(5),)
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, layer: Layer) -> None:
    file = written(tmp_path, INPUT, layer)
    write_caffemodel(Net("n", (layer,)), file.with_suffix(".caffemodel"))
    with pytest.raises((UserError, UnsupportedModelError)) as caught:
        graph_of(read_net(*files_of(file)), {})
    assert "bad" in caught.value.where


def test_inputs_beyond_memory_are_refused(tmp_path: Path) -> None:
    huge = Layer("x", "Input", (), ("x",), {"input_param": {"shape": [1, 3, 10**6, 10**6]}})
    file = written(tmp_path, huge, Layer("r", "ReLU", ("x",), ("r",)))
    with pytest.raises(UserError, match="shape"):
        graph_of(read_net(file, None), {})


def test_the_source_opens_in_opencv(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="fairlead[caffe] is not installed")
    file = written(tmp_path, INPUT, Layer("r", "ReLU", ("x",), ("r",)))
    with open_source(ConvertRequest(str(file))) as session:
        assert [spec.name for spec in session.outputs] == ["r"]
        x = seeded(1, 3, 2, 2)
        assert np.array_equal(session.run({"x": x})["r"], np.maximum(x, 0))
