"""Tensors whose channels a pass has reordered are compared in the old order, and faults there found."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optim.passes.sink_channel_shuffles import SinkChannelShuffles
from optim.recipes import recipe_of
from optim.reordered import note_reordered, reordered_tensors, shuffle_order
from optim.schedule import optimize
from pipeline.parity.cause import Cause, round_fraction
from pipeline.parity.compare_layers import compare_layers, without_counterpart
from pipeline.parity.first_divergence import first_divergence
from pipeline.parity.layer_map import layer_map
from pipeline.parity.layer_study import study_layers
from pipeline.parity.restore_order import own_nodes, restores, with_order_restored
from pipeline.sources.contract import SourceLayer
from targets.reference import Float64Session, OrtSession

from .networks import Builder

CHANNELS, GROUPS = 12, 3
PASSES = ("lift_constants", "infer_shapes", "fold_constants", "eliminate_noops", "sink_channel_shuffles",
          "fold_batchnorm", "remove_dead_ends")  # fmt: skip


def shuffled(b: Builder, x: str, side: int) -> str:
    """A channel shuffle as ShuffleNet's exporters write it."""
    apart = np.array([1, GROUPS, CHANNELS // GROUPS, side, side], np.int64)
    together = np.array([1, CHANNELS, side, side], np.int64)
    x = b.node("Reshape", x, b.weight(apart))
    x = b.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", x, b.weight(together))


def network(seed: int = 0, blocks: int = 2) -> ir.Model:
    """Grouped 1×1 convolution, shuffle, depthwise convolution, batch norm, 1×1 convolution; twice."""
    b = Builder(seed, (1, CHANNELS, 10, 10))
    x = "x"
    for _ in range(blocks):
        y = b.node("Relu", b.conv(x, CHANNELS, CHANNELS, 1, group=GROUPS))
        y = shuffled(b, y, 10)
        y = b.batch_norm(b.conv(y, CHANNELS, CHANNELS, group=CHANNELS), CHANNELS)
        x = b.node("Add", x, b.node("LeakyRelu", b.conv(y, CHANNELS, CHANNELS, 1), alpha=0.1))
    return b.model(x)


def feed(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(1, CHANNELS, 10, 10)).astype(np.float32)}


def optimised(model: ir.Model) -> ir.Model:
    copy = model.clone()
    optimize(copy, recipe_of(PASSES), oracle=None)
    assert not any(n.op_type == "Transpose" for n in copy.graph)
    assert reordered_tensors(copy)
    return copy


def test_every_reordered_tensor_leads_back_to_the_original():
    model = network()
    copy = optimised(model)
    names = {one.original for one in reordered_tensors(copy).values()}
    whole = Float64Session(model, expose=sorted(names)).run(feed())
    moved = Float64Session(copy, expose=list(reordered_tensors(copy))).run(feed())
    for name, one in reordered_tensors(copy).items():
        np.testing.assert_allclose(
            np.take(moved[name], one.order, axis=1),
            whole[one.original],
            rtol=0,
            atol=1e-5,  # folded batch norms are rounded
        )
        assert not np.allclose(moved[name], whole[one.original])


def test_the_copy_shows_them_and_computes_the_same():
    copy = optimised(network())
    restored = with_order_restored(copy)
    names = {v.name for node in restored.graph for v in node.outputs}
    assert {one.original for one in reordered_tensors(copy).values()} <= names
    assert len(own_nodes(list(restored.graph))) == copy.graph.num_nodes()
    assert sum(restores(n) for n in restored.graph) == 2 * len(reordered_tensors(copy))
    x, y = (OrtSession(ir.to_proto(m).SerializeToString(), optimization="off").run(feed())["y"]
            for m in (copy, restored))  # fmt: skip
    np.testing.assert_array_equal(x, y)
    assert copy.graph.num_nodes() < restored.graph.num_nodes()  # the model itself is left as it was


def test_a_model_without_them_is_left_alone():
    model = network()
    assert with_order_restored(model) is model


def test_the_table_survives_the_file(tmp_path):
    copy = optimised(network())
    ir.save(copy, tmp_path / "m.onnx")
    again = ir.load(tmp_path / "m.onnx")
    for name, one in reordered_tensors(copy).items():
        assert reordered_tensors(again)[name].original == one.original
        np.testing.assert_array_equal(reordered_tensors(again)[name].order, one.order)


def test_orders_add_up():
    """A tensor that was reordered twice leads to the first name."""
    model = network()
    conv = next(n for n in model.graph if n.op_type == "Conv")
    conv.outputs[0].name = "second"
    note_reordered(model, "first", "plain", 3, 4)
    note_reordered(model, "second", "first", 2, 6)
    one = reordered_tensors(model)["second"]
    assert one.original == "plain"
    values = np.arange(12) * 10  # "second"
    first = values[shuffle_order(2, 6)]
    np.testing.assert_array_equal(values[one.order], first[shuffle_order(3, 4)])


def test_no_alarm_on_healthy_pairs():
    for seed in range(5):
        model = network(seed)
        assert first_divergence(model, optimised(model), {"random": feed(seed)}) is None, seed


def pads(node: ir.Node) -> None:
    node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 2, 2])


def narrow(node: ir.Node) -> None:
    weight = round_fraction(node.inputs[1].const_value.numpy(), 10).astype(np.float32)
    value = ir.Value(name="narrow", const_value=ir.tensor(weight, name="narrow"))
    node.graph.register_initializer(value)
    node.replace_input_with(1, value)


def epsilon(node: ir.Node) -> None:
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-2)


CASES = [
    ("a depthwise convolution behind a shuffle", "Conv", 1, pads, Cause.PADDING),
    ("its weights", "Conv", 1, narrow, Cause.TF32),
    ("the batch norm that is folded into it", "BatchNormalization", 0, epsilon, Cause.EPSILON),
    ("the convolution that takes the shuffle in", "Conv", 2, narrow, Cause.TF32),
    ("the second block", "Conv", 4, pads, Cause.PADDING),
    ("the convolution before a shuffle", "Conv", 3, narrow, Cause.TF32),
]


@pytest.mark.parametrize(
    ("op", "index", "change", "cause"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_faults_among_reordered_tensors_are_found_at_their_node(op, index, change, cause, tmp_path):
    model = network()
    faulty = model.clone()
    node = [n for n in faulty.graph if n.op_type == op][index]
    name = node.name
    change(node)
    found = first_divergence(model, optimised(faulty), {"random": feed()}, folder=tmp_path / "cut")
    assert found is not None
    merged = {name, *(n for n in found.nodes_b)}  # what carries it after folding
    assert found.node in merged
    assert len(found.nodes_b) == 1  # found at the node, not somewhere in a stretch
    assert name in found.nodes_a
    assert found.cause == cause, found.detail
    assert (tmp_path / "cut" / "b.onnx").is_file()


def test_the_pass_says_so_once():
    model = network(blocks=1)
    SinkChannelShuffles().apply(model)
    table = dict(reordered_tensors(model))
    SinkChannelShuffles().apply(model)
    assert dict(reordered_tensors(model)).keys() == table.keys()


def test_reordered_layers_are_compared_element_by_element(tmp_path):
    model = network()
    ir.save(model, tmp_path / "a.onnx")
    ir.save(optimised(model), tmp_path / "b.onnx")
    rows = {row.tensor: row for row in compare_layers(tmp_path / "a.onnx", tmp_path / "b.onnx", feed())}
    originals = {one.original for one in reordered_tensors(ir.load(tmp_path / "b.onnx")).values()}
    assert originals <= rows.keys()
    for name in originals:
        assert rows[name].note == ""  # not sorted to be comparable
        assert rows[name].metrics is not None
        assert rows[name].metrics.max_abs_over_range < 1e-5
    assert not originals & set(without_counterpart(tmp_path / "a.onnx", tmp_path / "b.onnx"))
    layers = [
        SourceLayer(n.name, n.op_type, tuple(v.name for v in n.outputs), (1, CHANNELS, 10, 10), 0)
        for n in model.graph
        if n.outputs[0].name in originals
    ]
    mapped = layer_map(layers, model, ir.load(tmp_path / "b.onnx"))
    assert {row.note for row in mapped} == {"its channels stand in another order"}
    studied = list(study_layers(None, layers, tmp_path / "a.onnx", tmp_path / "b.onnx", feed()))
    assert len(studied) == len(layers)
    for one in studied:
        assert one.row.before_vs_after is not None
        assert one.row.before_vs_after.max_abs_over_range < 1e-5
        assert "stand in another order" in one.row.note
