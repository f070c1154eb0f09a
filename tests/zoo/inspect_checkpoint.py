"""Restore a zoo checkpoint with TensorFlow and print what is in it as JSON.

python inspect_checkpoint.py FOLDER IMAGES
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SWITCHES = {"keep_prob:0": 1.0, "is_training:0": False}


def encode(raw: np.ndarray, encoder: dict[str, Any]) -> np.ndarray:
    """The summary's encoder, written out independently of the zoo's own."""
    mean, std = encoder["mean"] or [0.0], encoder["std"] or [1.0]
    return ((raw.astype(np.float64) * encoder["scale"] - mean) / std).astype(np.float32)


def main(folder: Path, images: int) -> dict[str, Any]:
    import tensorflow as tf

    tf1 = tf.compat.v1
    summary = json.loads((folder / "summary.json").read_text())
    prefix = str(folder / "model.ckpt")
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        tf1.train.import_meta_graph(prefix + ".meta").restore(session, prefix)
        operations = graph.get_operations()
        fed = {item.outputs[0].name for item in operations if item.type.startswith("Placeholder")}
        with np.load(folder / "test.npz", allow_pickle=False) as data:
            raw = data["x"][:images]
            labels = data["y"][:images] if "y" in data.files else None
        feed = {name: value for name, value in SWITCHES.items() if name in fed}
        (name,) = summary["inputs"]
        feed[name] = encode(raw, summary["encoder"])
        convolutions = [item.outputs[0] for item in operations if item.type == "Conv2D"]
        forward = [tensor for tensor in convolutions if "gradients" not in tensor.name]
        output, first = session.run((summary["outputs"][0], forward[0] if forward else name), feed)
    return {
        "variables": {name: list(shape) for name, shape in shapes.items()},
        "means": {
            name: float(np.abs(reader.get_tensor(name)).max())
            for name in shapes
            if name.endswith("moving_mean")
        },
        "variances": {
            name: [float(value) for value in np.percentile(reader.get_tensor(name), (0, 100))]
            for name in shapes
            if name.endswith("moving_variance")
        },
        "operations": Counter(item.type for item in operations),
        "placeholders": sorted(fed),
        "first_convolution": list(first.shape),
        "output": output.tolist(),
        "accuracy": None if labels is None else float(np.mean(output.argmax(axis=1) == labels)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
