"""The frozen graph that Core ML's package is made from: the function it was, or None where it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="fairlead[tensorflow] is not installed")

SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf
sys.path.insert(0, {root!r})
from targets.coreml_graph import frozen

shared = tf.Variable(np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32), name="shared")
bias = tf.Variable(np.arange(4, dtype=np.float32), name="bias")
unused = tf.Variable(np.zeros(4, np.float32))

def twice(x):
    seen = unused + x  # needed by nothing
    return tf.nn.relu(x @ shared + bias) @ shared, x - bias

def loop(x):
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y @ shared), [0, x])[1]

table = tf.constant(np.ones((64, 64), np.float32))
def constant(x):
    return x @ table

def traced(function, width):
    spec = tf.TensorSpec((2, width), tf.float32, name="x")
    return tf.function(function).get_concrete_function(spec)

f = traced(twice, 4)
graph = frozen(f)
x = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)
with tf.Graph().as_default() as made:
    tf.import_graph_def(graph, name="")
    with tf.compat.v1.Session() as session:
        got = session.run([t.name for t in f.outputs], {{"x:0": x}})
wanted = f(tf.constant(x))
print(json.dumps({{
    "equal": [bool(np.array_equal(a, b)) for a, b in zip(got, wanted)],
    "ops": sorted(node.op for node in graph.node),
    "loop": frozen(traced(loop, 4)) is None,
    "constant": frozen(traced(constant, 64)) is None,
}}))
"""


@pytest.fixture(scope="module")
def told(repository_root: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(root=str(repository_root))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.tensorflow
@pytest.mark.slow
class TestFrozen:
    def test_answers_as_the_function_does(self, told: dict[str, Any]) -> None:
        assert told["equal"] == [True, True]

    def test_holds_each_variable_once_and_nothing_unneeded(self, told: dict[str, Any]) -> None:
        ops = told["ops"]
        assert ops.count("Const") == 2  # read three times, and the third variable is needed by nothing
        assert ops.count("Placeholder") == 1
        assert not {"ReadVariableOp", "NoOp", "VarHandleOp"} & set(ops)

    def test_leaves_loops_to_tensorflow(self, told: dict[str, Any]) -> None:
        assert told["loop"]

    def test_a_constant_from_outside_is_a_variable_or_left_alone(self, told: dict[str, Any]) -> None:
        assert told["constant"]
