"""A Keras model's own layers beside the converted and the optimised model's; totals as Keras counts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optim.model import load
from pipeline.parity.layer_map import layer_map, parameter_total
from pipeline.parity.layer_study import study_layers
from pipeline.sources import convert, open_source
from pipeline.sources.contract import ConvertRequest
from pipeline.stages.optimize import optimize_file

DIGITS = Path(__file__).parents[2] / "configs" / "zoo" / "digits.keras"
# Run apart, so that no test process loads TensorFlow. Keras's own summary is the oracle of the counts.
SUMMARY = """
import io, json, re, sys
import keras
model = keras.models.load_model(sys.argv[1], compile=False)
text = io.StringIO()
model.summary(print_fn=lambda line: text.write(line + "\\n"), line_length=120)
total = re.search(r"Total params: ([\\d,]+)", text.getvalue()).group(1)
inner = keras.Model(model.inputs, [layer.output for layer in model.layers])
values = inner(keras.ops.zeros((2, 28, 28, 1)), training=False)
print(json.dumps({
    "total": int(total.replace(",", "")),
    "layers": {layer.name: [layer.count_params(), float(keras.ops.mean(v)), float(keras.ops.var(v))]
               for layer, v in zip(model.layers, values)},
}))
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    pytest.importorskip("tensorflow", reason="the source is a Keras model")
    folder = tmp_path_factory.mktemp("digits")
    request = ConvertRequest(str(DIGITS))
    done = convert(request, folder / "raw.onnx")
    optimize_file(folder / "raw.onnx", folder / "opt.onnx", recipe="canonical", progress=lambda _t, _f: None)
    return request, done.layers, folder / "raw.onnx", folder / "opt.onnx"


@pytest.fixture(scope="module")
def summary():
    done = subprocess.run(
        [sys.executable, "-c", SUMMARY, DIGITS],
        capture_output=True,
        text=True,
        check=True,
        env={"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "/usr/bin:/bin"},
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rows(converted):
    request, layers, raw, optimized = converted
    feed = {"image": np.zeros((2, 28, 28, 1), np.float32)}
    with open_source(request) as source:
        whole = [one.row for one in study_layers(source, layers, raw, optimized, feed)]
        small = [one.row for one in study_layers(source, layers, raw, optimized, feed, budget_bytes=1 << 16)]
    assert small == whole  # the memory budget changes nothing
    return {row.layer: row for row in whole}


def test_parameter_totals_are_those_of_the_summary(converted, summary):
    _, layers, raw, optimized = converted
    assert parameter_total(layers) == summary["total"]
    mapped = layer_map(layers, load(raw), load(optimized))
    assert {row.layer: row.parameters for row in mapped} == {
        name: count for name, (count, _, _) in summary["layers"].items()
    }


def test_every_layer_with_weights_is_found_in_both_graphs(converted):
    _, layers, raw, optimized = converted
    for row in layer_map(layers, load(raw), load(optimized)):
        if row.weights:
            assert row.nodes_before, row
            assert row.nodes_after, row
            assert not any(weight.note.startswith("not") for weight in row.weights), row


def test_moments_of_the_source_are_those_that_keras_computes(rows, summary):
    for name, row in rows.items():
        _, mean, variance = summary["layers"][name]
        assert row.moments["source"].mean == pytest.approx(mean, rel=1e-4, abs=1e-6)
        assert row.moments["source"].variance == pytest.approx(variance, rel=1e-4, abs=1e-6)


def test_all_sides_print_the_same_digits_and_stay_near_float64(rows):
    assert len(rows) > 10
    for row in rows.values():
        assert {"source", "converted"} <= set(row.moments)
        assert row.digits == ()
        assert all(error < 2e-5 for error in row.errors.values())
        assert row.source_vs_converted is None or row.source_vs_converted.max_abs_over_range < 2e-5


def test_a_layer_merged_into_the_next_has_no_value_of_its_own(rows):
    merged = [row for row in rows.values() if row.note.startswith("merged")]
    assert merged
    assert all("optimized" not in row.moments and row.tensor_after == "" for row in merged)


def test_a_change_of_layout_is_said_and_not_taken_for_an_error(rows):
    row = rows["flatten"]
    assert row.before_vs_after is not None
    assert row.before_vs_after.max_abs_over_range < 2e-5
