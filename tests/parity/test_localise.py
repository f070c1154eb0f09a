"""First divergence: planted faults are found at their node and named; healthy pairs raise no alarm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks.plant_faults import FAULTS, Fault, plant, sketches_for
from optim.recipes import recipe_of
from optim.schedule import optimize
from pipeline.parity.cause import Cause, round_fraction
from pipeline.parity.first_divergence import cut, first_divergence
from pipeline.parity.localise import OUTPUT_NOISE, difference, outputs_agree
from pipeline.parity.localise_runtime import localise_runtime
from targets.float64.evaluate import GraphEvaluator, widen
from targets.reference import Float64Session, OrtSession

from .networks import NETWORKS, classifier, mobile

PASSES = (
    "lift_constants", "infer_shapes", "fold_constants", "eliminate_noops", "make_padding_explicit",
    "fold_pads", "fold_batchnorm", "remove_dead_ends",
)  # fmt: skip
RUNTIME = (Cause.FP16, Cause.REDUCTION)


def feed_of(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    dims = [d if isinstance(d, int) else 2 for d in model.graph.inputs[0].shape]
    return {"x": np.random.default_rng(seed).random(dims).astype(np.float32)}


def optimised(model: ir.Model) -> ir.Model:
    optimize(model, recipe_of(PASSES), oracle=None)
    return model


def has_effect(model: ir.Model, faulty: ir.Model, fault: Fault, feed: dict[str, np.ndarray]) -> bool:
    """Whether the planted fault moves an output beyond the gate at all."""
    if fault.cause not in RUNTIME:
        return not outputs_agree(GraphEvaluator(model), GraphEvaluator(faulty), feed)
    got = OrtSession(ir.to_proto(faulty).SerializeToString(), optimization="off").run(feed)["y"]
    with np.errstate(all="ignore"):
        return difference(Float64Session(faulty).run(feed)["y"], widen(got)) > OUTPUT_NOISE


def score(seeds: range, *, through_optimizer: bool) -> dict[Cause, list[tuple[bool, bool]]]:
    """For each cause, (node right, cause right) of every fault that could be planted."""
    results: dict[Cause, list[tuple[bool, bool]]] = defaultdict(list)
    for seed in seeds:
        for make in NETWORKS:
            model = make(seed)
            feed = feed_of(model, seed)
            for fault in FAULTS:
                if through_optimizer and fault.cause in RUNTIME:
                    continue
                planted = plant(model, fault, np.random.default_rng(seed), sketches_for(model, feed))
                if planted is None:
                    continue
                faulty = optimised(planted.model) if through_optimizer else planted.model
                if not has_effect(model, faulty, fault, feed):
                    continue
                found = first_divergence(model, faulty, {"random": feed})
                tensor = next(iter(planted.tensors))
                right = found is not None and (
                    found.tensor == tensor or tensor.split(":")[0] in found.nodes_b
                )
                results[fault.cause].append((right, found is not None and found.cause == fault.cause))
    return results


@pytest.mark.parametrize(("seeds", "through_optimizer"), [(range(4), False), (range(4, 7), True)])
def test_planted_faults_are_found_and_named(seeds, through_optimizer):
    results = score(seeds, through_optimizer=through_optimizer)
    flat = [pair for pairs in results.values() for pair in pairs]
    report = {
        cause.value: (len(p), sum(a for a, _ in p), sum(b for _, b in p)) for cause, p in results.items()
    }
    assert len(flat) >= 40, report
    assert set(results) == set(Cause) - {Cause.UNKNOWN} - (set(RUNTIME) if through_optimizer else set()), (
        report
    )
    assert sum(node for node, _ in flat) >= 0.95 * len(flat), report
    assert sum(cause for _, cause in flat) >= 0.80 * len(flat), report


def test_no_false_alarm_on_fifty_healthy_pairs():
    pairs = 0
    for seed in range(17):
        for make in NETWORKS:
            model = make(seed)
            good = optimised(model.clone())
            assert first_divergence(model, good, {"random": feed_of(model, seed)}) is None, (
                make.__name__,
                seed,
            )
            pairs += 1
    assert pairs >= 50


def test_the_same_graph_has_no_divergence_and_no_feeds_find_none():
    model = classifier()
    assert first_divergence(model, model.clone(), {"random": feed_of(model, 0)}) is None


def test_a_fault_behind_another_is_not_reported_first():
    model = mobile()
    faulty = model.clone()
    norms = [n for n in faulty.graph if n.op_type == "BatchNormalization"]
    for node in norms[2:5]:
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.05)
    found = first_divergence(model, faulty, {"random": feed_of(model, 0)})
    assert found is not None
    assert (found.node, found.cause) == (norms[2].name, Cause.EPSILON)
    assert "epsilon" in found.detail


def test_reproduction_is_small_and_runs_by_itself(tmp_path):
    model = classifier()
    faulty = model.clone()
    node = next(n for n in faulty.graph if n.op_type == "Conv" and "auto_pad" in n.attributes)
    node.attributes["auto_pad"] = ir.AttrString("auto_pad", "SAME_LOWER")
    found = first_divergence(model, faulty, {"random": feed_of(model, 0)}, folder=tmp_path / "cut")
    assert found is not None
    a, b = ir.load(tmp_path / "cut" / "a.onnx"), ir.load(tmp_path / "cut" / "b.onnx")
    assert [n.op_type for n in a.graph] == [n.op_type for n in b.graph] == ["Conv"]
    told = json.loads((tmp_path / "cut" / "divergence.json").read_text())
    assert (told["node"], told["cause"]) == (node.name, "asymmetric padding")
    result = subprocess.run(
        [sys.executable, tmp_path / "cut" / "reproduce.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    good, bad = (float(line.rsplit(" ", 1)[1]) for line in result.stdout.splitlines())
    assert good < 1e-5
    assert bad > 1e-3


def test_reproduction_of_an_overflow(tmp_path):
    model = classifier()
    fault = next(f for f in FAULTS if f.cause == Cause.FP16)
    planted = plant(model, fault, np.random.default_rng(1))
    assert planted is not None
    found = first_divergence(model, planted.model, {"random": feed_of(model, 0)}, folder=tmp_path)
    assert found is not None
    assert (found.cause, found.level, found.error) == (Cause.FP16, "runtime", np.inf)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b.onnx",
        "divergence.json",
        "io.npz",
        "reproduce.py",
    ]


def test_cut_computes_what_the_whole_does():
    model = mobile()
    feed = feed_of(model, 0)
    convs = [n.outputs[0].name for n in model.graph if n.op_type == "Conv"]
    norm = next(n.outputs[0].name for n in model.graph if n.name == "batchnormalization_10")
    values = Float64Session(model, expose=[convs[2], norm]).run(feed)
    part = cut(model, {convs[2]: values[convs[2]].astype(np.float32), **feed}, norm)
    assert [v.name for v in part.graph.inputs] == [convs[2]]
    got = Float64Session(part).run({convs[2]: values[convs[2]]})[norm]
    np.testing.assert_allclose(got, values[norm], rtol=1e-12)
    assert sum(1 for _ in part.graph) < sum(1 for _ in model.graph)


@pytest.mark.parametrize(
    ("value", "want"),
    [(1.0, 1.0), (1 + 2**-11, 1.0), (1 + 3 * 2**-11, 1 + 2**-9), (-(1 + 2**-10), -(1 + 2**-10)), (0.0, 0.0)],
)
def test_rounding_to_ten_fraction_bits(value, want):
    assert round_fraction(np.array([value]), 10)[0] == want


@pytest.mark.corpus
@pytest.mark.slow
def test_faults_in_trained_networks(corpus):
    """Every fault that can be planted in a trained network and has an effect is found at its node."""
    right = named = total = 0
    for folder in sorted((corpus / "onnx_trained").iterdir()):
        model = ir.load(folder / "model.onnx")
        if model.graph.num_nodes() > 100:  # only for the time it takes
            continue
        stored = np.load(folder / "io.npz", allow_pickle=False)
        feed = {k[3:]: stored[k] for k in stored.files if k.startswith("in|")}
        for fault in FAULTS:
            if fault.cause in RUNTIME:
                continue
            try:
                planted = plant(model, fault, np.random.default_rng(5), sketches_for(model, feed))
            except (AttributeError, KeyError, ValueError):  # the planter does not know this form of the node
                continue
            if planted is None or not has_effect(model, planted.model, fault, feed):
                continue
            found = first_divergence(model, planted.model, {"io": feed})
            total += 1
            right += found is not None and found.tensor in planted.tensors
            named += found is not None and found.cause == fault.cause
    assert total >= 3
    assert right >= 0.95 * total
    assert named >= 0.8 * total


def in_other_layout(model: ir.Model) -> ir.Model:
    """The same function: the flattened picture stands in the other layout, and the dense rows follow it."""
    turned = model.clone()
    flatten = next(n for n in turned.graph if n.op_type == "Flatten")
    dense = next(n for n in turned.graph if n.op_type == "Gemm")
    move = ir.node("Transpose", [flatten.inputs[0]], {"perm": (0, 2, 3, 1)}, outputs=[ir.Value(name="moved")])
    turned.graph.insert_before(flatten, [move])
    flatten.replace_input_with(0, move.outputs[0])
    weight = dense.inputs[1].const_value.numpy()
    rows = weight.reshape(8, 4, 4, -1).transpose(1, 2, 0, 3).reshape(weight.shape)
    dense.replace_input_with(1, stored(turned, "rows", rows))
    return turned


def stored(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    model.graph.register_initializer(value)
    return value


def test_a_change_of_layout_on_purpose_is_no_fault():
    model = classifier()
    assert first_divergence(model, in_other_layout(model), {"random": feed_of(model, 0)}) is None


def test_a_fault_behind_a_change_of_layout_is_found_where_it_is():
    model = classifier()
    faulty = in_other_layout(model)
    dense = next(n for n in faulty.graph if n.op_type == "Gemm")
    narrow = round_fraction(dense.inputs[1].const_value.numpy(), 10).astype(np.float32)
    dense.replace_input_with(1, stored(faulty, "narrow", narrow))
    found = first_divergence(model, faulty, {"random": feed_of(model, 0)})
    assert found is not None
    assert (found.tensor, found.cause) == (dense.outputs[0].name, Cause.TF32)


def test_a_change_of_layout_that_nothing_undoes_is_the_fault():
    model = classifier()
    faulty = in_other_layout(model)
    first, second = (next(n for n in m.graph if n.op_type == "Gemm") for m in (model, faulty))
    weight = first.inputs[1].const_value.numpy()
    second.replace_input_with(1, stored(faulty, "as_before", weight))
    found = first_divergence(model, faulty, {"random": feed_of(model, 0)})
    assert found is not None
    flatten = next(n for n in faulty.graph if n.op_type == "Flatten")
    assert (found.node, found.cause) == (flatten.name, Cause.AXIS)


def test_what_rounding_does_to_the_reference_too_is_no_fault():
    """A graph whose own terms cancel misses the gate in float32 on both sides alike."""
    model = classifier()
    fault = next(f for f in FAULTS if f.cause == Cause.REDUCTION)
    planted = plant(model, fault, np.random.default_rng(0))
    assert planted is not None
    feeds = {"random": feed_of(model, 0)}
    assert localise_runtime(planted.model, feeds) is not None
    assert localise_runtime(planted.model, feeds, reference=model) is not None
    assert localise_runtime(planted.model, feeds, reference=planted.model) is None
    assert first_divergence(planted.model, planted.model.clone(), feeds) is None


def test_padding_said_otherwise_is_no_cause():
    """SAME_UPPER on one side and the same numbers on the other: the weights are what differs."""
    model = classifier()
    faulty = model.clone()
    node = next(n for n in faulty.graph if n.op_type == "Conv" and "auto_pad" in n.attributes)
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 1, 1])
    narrow = round_fraction(node.inputs[1].const_value.numpy(), 10).astype(np.float32)
    node.replace_input_with(1, stored(faulty, "narrow", narrow))
    found = first_divergence(model, faulty, {"random": feed_of(model, 0)})
    assert found is not None
    assert (found.node, found.cause) == (node.name, Cause.TF32)
