"""coremltools neither prints nor evaluates the weights of a graph, and reads the same values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("tensorflow", "coremltools"):
    pytest.importorskip(package, reason="fairlead[coreml] is not installed")

SCRIPT = """
import importlib, json, sys
import numpy as np
import tensorflow as tf
sys.path.insert(0, {root!r})
from coremltools.converters.mil.frontend.tensorflow2.load import TF2Loader
from targets.coreml_graph import frozen
from targets.coreml_memory import _PROPAGATION, weights_left_alone

rng = np.random.default_rng(0)
plain = tf.Variable(rng.normal(size=(600, 600)).astype(np.float32), name="plain")
turned = tf.Variable(rng.normal(size=(600, 600)).astype(np.float32), name="turned")

@tf.function
def network(x):
    return (x @ plain) @ tf.transpose(turned)

spec = tf.TensorSpec((2, 600), tf.float32, name="x")
graph = frozen(network.get_concrete_function(spec))
module = importlib.import_module(_PROPAGATION)
evaluated = []
original = module._constant_propagation

def counted(function, subgraph, *rest):
    evaluated.append(sorted(n.op for n in subgraph.node if n.ByteSize() > 1 << 20))
    return original(function, subgraph, *rest)

module._constant_propagation = counted

def values():
    loader = TF2Loader(graph)
    loader._graph_def = graph
    loader._tf_ssa = loader._tf_ssa_from_graph_def()
    module.constant_propagation(loader._tf_ssa)
    nodes = loader._tf_ssa.functions["main"].graph
    held = {{name: getattr(node.value, "val", None) for name, node in nodes.items()}}
    return {{name: np.asarray(value) for name, value in held.items() if value is not None}}

before = values()
with weights_left_alone(graph):
    text = "{{}}".format(graph)
    inside = values()
after = values()
large = [k for k, v in before.items() if v.nbytes > 1 << 20]
print(json.dumps({{
    "text": text,
    "restored": len("{{}}".format(graph)) > 1 << 20,
    "evaluated": evaluated,
    "large": len(large),
    "same": before.keys() == inside.keys() == after.keys()
        and all(np.array_equal(before[k], inside[k]) and before[k].dtype == inside[k].dtype for k in before),
    "true": any(np.array_equal(inside[k], plain.numpy()) for k in large),
}}))
"""


def test_weights_are_read_not_evaluated(tmp_path: Path) -> None:
    """A weight that a constant is computed from (a transposed one) is still evaluated with it."""
    root = str(Path(__file__).parents[2])
    surroundings = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(root=root)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=surroundings,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["text"] == "GraphDef"
    assert told["restored"]
    assert told["large"] == 3
    assert told["evaluated"] == [["Const", "Const"], ["Const"], ["Const", "Const"]]
    assert told["same"]
    assert told["true"]
