"""Record reference outputs with TensorFlow 1.x or 2.x and NumPy alone.

Copy this one file to the machine that still has the old framework; it needs nothing else of fairlead.

    python record_reference.py MODEL -o refs.npz [--inputs "x:0[1,224,224,3]"] [--outputs "prob:0"]
                               [--feed "keep_prob:0=1.0"] [--seed 0] [--range 0 1]

MODEL: a SavedModel folder, a .keras or .h5 file, a frozen .pb, or a checkpoint (prefix or .meta). A frozen
graph and a checkpoint need --inputs and --outputs. Written: OutputForZeros, RandomInput, OutputForRandom, as
npz, or as HDF5 where the name ends in .h5 and h5py is there. ``fairlead parity`` compares a
converted model with it.
"""

# Written for Python 3.5 and later: no f-strings, no newer syntax.
# ruff: noqa: UP006, UP032, UP035, T201, PTH105, PTH112, PTH123, C402, B905

import argparse
import os
import re
import sys
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

Arrays = Dict[str, Any]
Shapes = Dict[str, Tuple[List[int], str]]


def parse_inputs(text: str) -> Dict[str, List[int]]:
    """``a:0[1,2],b:0[3]`` as a mapping from name to shape."""
    found = re.findall(r"([^,\[\]]+)\[([0-9,\s]*)\]", text)
    return dict((name.strip(), [int(d) for d in dims.split(",") if d.strip()]) for name, dims in found)


def parse_feeds(pairs: List[str]) -> Arrays:
    """``keep_prob:0=1.0`` as a mapping; true and false are booleans."""
    fixed = {}  # type: Arrays
    for pair in pairs:
        name, _, value = pair.partition("=")
        words = {"true": True, "false": False}
        fixed[name] = words[value.lower()] if value.lower() in words else float(value)
    return fixed


def open_keras(tf: Any, path: str) -> Tuple[Callable[[Arrays], Arrays], Shapes]:
    """A Keras model: inputs and outputs by their Keras names."""
    model = tf.keras.models.load_model(path, compile=False)
    names = [t.name.split(":")[0] for t in model.inputs]
    outputs = list(getattr(model, "output_names", None) or ["output"])
    shapes = {}  # type: Shapes
    for name, tensor in zip(names, model.inputs):
        dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
        shapes[name] = ([d if d else 1 for d in list(tensor.shape)], dtype)

    def run(feeds: Arrays) -> Arrays:
        given = [feeds[name] for name in names]
        result = model.predict(given if len(given) > 1 else given[0])
        results = result if isinstance(result, list) else [result]
        return dict(zip(outputs, results))

    return run, shapes


def open_saved_model(tf: Any, path: str) -> Tuple[Callable[[Arrays], Arrays], Shapes]:
    """The default signature of a SavedModel, by the signature's own names."""
    loaded = tf.saved_model.load(path)
    call = loaded.signatures["serving_default"]
    shapes = {}  # type: Shapes
    for name, spec in call.structured_input_signature[1].items():
        shapes[name] = ([d if d else 1 for d in spec.shape.as_list()], spec.dtype.name)

    def run(feeds: Arrays) -> Arrays:
        results = call(**dict((k, tf.constant(v)) for k, v in feeds.items()))
        return dict((k, v.numpy()) for k, v in results.items())

    run.keep = loaded  # type: ignore[attr-defined]  # the function does not hold the variables
    return run, shapes


def open_graph(
    tf: Any, path: str, inputs: Dict[str, List[int]], outputs: List[str], fixed: Arrays
) -> Tuple[Callable[[Arrays], Arrays], Shapes]:
    """A frozen graph or a TF1 checkpoint, by tensor names."""
    v1 = tf.compat.v1 if hasattr(tf, "compat") and hasattr(tf.compat, "v1") else tf
    if not inputs or not outputs:
        sys.exit("a frozen graph or a checkpoint needs --inputs and --outputs")
    graph = tf.Graph()
    with graph.as_default():
        if path.endswith(".pb"):
            definition = v1.GraphDef()
            with open(path, "rb") as stream:
                definition.ParseFromString(stream.read())
            v1.import_graph_def(definition, name="")
            session = v1.Session(graph=graph)
        else:
            prefix = path[: -len(".meta")] if path.endswith(".meta") else path
            saver = v1.train.import_meta_graph(prefix + ".meta", clear_devices=True)
            session = v1.Session(graph=graph)
            saver.restore(session, prefix)
    shapes = {}  # type: Shapes
    for name, shape in inputs.items():
        shapes[name] = (shape, graph.get_tensor_by_name(name).dtype.base_dtype.name)

    def run(feeds: Arrays) -> Arrays:
        given = dict(fixed)
        given.update(feeds)
        results = session.run(outputs, dict((graph.get_tensor_by_name(k), v) for k, v in given.items()))
        return dict(zip(outputs, results))

    return run, shapes


def draw(shapes: Shapes, seed: int, low: float, high: float) -> Arrays:
    """Seeded uniform inputs; integers from 0 to 9."""
    generator = np.random.RandomState(seed)
    arrays = {}  # type: Arrays
    for name in sorted(shapes):
        shape, dtype = shapes[name]
        if np.dtype(dtype).kind == "f":
            arrays[name] = (low + (high - low) * generator.random_sample(shape)).astype(dtype)
        else:
            arrays[name] = generator.randint(0, 2 if np.dtype(dtype).kind == "b" else 10, shape).astype(dtype)
    return arrays


def write(path: str, sets: Dict[str, Arrays]) -> None:
    """One plain array a set where the model has one input and one output, else one for each tensor."""
    single = all(len(tensors) == 1 for tensors in sets.values())
    flat = {}  # type: Arrays
    separator = "/" if path.endswith((".h5", ".hdf5")) else "|"
    for key, tensors in sets.items():
        for name, value in tensors.items():
            flat[key if single else key + separator + name] = np.asarray(value)
    partial = path + ".part"
    if separator == "/":
        import h5py

        with h5py.File(partial, "w") as file:
            for key, value in flat.items():
                file[key] = value
    else:
        with open(partial, "wb") as stream:
            np.savez(stream, **flat)
    os.replace(partial, path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--inputs", default="")
    parser.add_argument("--outputs", default="")
    parser.add_argument("--feed", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--range", nargs=2, type=float, default=[0.0, 1.0])
    arguments = parser.parse_args()
    import tensorflow as tf

    path, inputs = arguments.model, parse_inputs(arguments.inputs)
    outputs = [name.strip() for name in arguments.outputs.split(",") if name.strip()]
    if os.path.isdir(path):
        run, shapes = open_saved_model(tf, path)
    elif path.endswith((".keras", ".h5", ".hdf5")):
        run, shapes = open_keras(tf, path)
    else:
        run, shapes = open_graph(tf, path, inputs, outputs, parse_feeds(arguments.feed))
    for name, shape in inputs.items():
        shapes[name] = (shape, shapes[name][1])
    given = draw(shapes, arguments.seed, arguments.range[0], arguments.range[1])
    blank = dict((name, np.zeros_like(value)) for name, value in given.items())
    sets = {"OutputForZeros": run(blank), "RandomInput": given, "OutputForRandom": run(given)}
    write(arguments.out, sets)
    print("TensorFlow {}: wrote {}".format(tf.__version__, arguments.out))


if __name__ == "__main__":
    main()
