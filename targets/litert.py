"""LiteRT (TensorFlow Lite): ``model.tflite`` from the rebuilt Keras model: float32, float16 weights, or int8.

int8 is integer arithmetic between float32 ends: per-channel weights, activations scaled by what calibration
data showed, softmax in float32. The way goes through a SavedModel with a static signature: converting a
Keras 3 model's concrete function directly drops its weights without a word. A file that still holds
VAR_HANDLE ops is such a file, and is refused.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from optim import model as onnx_file
from optim.contract import Array
from optim.errors import UnsupportedModelError, UserError
from optim.facts import opset_of
from targets.bundle_context import REFERENCES, bundle_context
from targets.calibration import Calibration, load_calibration
from targets.child import ChildSession, export_in_child, signature_facts
from targets.contract import Artefact, Availability, Session
from targets.keras import build_with_tensors
from targets.keras_rebuild.rebuild import unsupported_nodes
from targets.layer_table import OPTION, TargetLayer, recorded
from targets.litert_int8 import first_class_kept, quantised
from targets.long_means import split_long_means
from targets.options import TargetOptions, parse_options
from targets.runtime_probe import prove_in_one_child

MODEL_FILE: Final = "model.tflite"
# Rounding each weight to 11 significant bits moves outputs by some 1e-3 of their range; rounding every value
# to one of 256 levels by some 1e-2 to 1e-1.
GATES: Final = {
    "f16": {"max_abs_over_range": 1e-2, "snr_db": 45.0},
    "int8": {"max_abs_over_range": 0.25, "snr_db": 12.0},
}
CALIBRATION_EXAMPLES: Final = 200
DATA: Final = "data"  # how the pipeline names references of the user's data


class LiteRtOptions(TargetOptions):
    """Options of the ``litert`` target."""

    precision: Literal["f32", "f16", "int8"] = "f32"
    """f16 stores weights in half the bytes; int8 computes in integers. Each has its own, wider gate."""
    calibration: str = ""
    """For int8: an .npz with arrays by input name, as the model takes them. Default: the run's own data."""


@dataclass(frozen=True)
class LiteRt:
    """LiteRT's interpreter on the CPU."""

    @property
    def name(self) -> str:
        return "litert"

    @property
    def summary(self) -> str:
        return "LiteRT (TFLite) flatbuffer, f32, f16 or int8, run by ai-edge-litert"

    def available(self) -> Availability:
        """Builds and runs a one-node model."""
        return prove_in_one_child(
            self.name,
            "ai-edge-litert",
            "fairlead[litert]",
            exporter="targets.litert:export",
            model_file=MODEL_FILE,
            options={"precision": "f32", "calibration": ""},
        )

    def unsupported(self, model: Path) -> tuple[str, ...]:
        """What Keras cannot express, and inputs whose size is not fixed."""
        loaded = onnx_file.load(model)
        inputs, _ = onnx_file.signature(loaded)
        free = tuple(
            f"input {spec.name}: shape {list(spec.shape)} has free dimensions; LiteRT needs them fixed"
            for spec in inputs
            if not all(isinstance(d, int) for d in spec.shape[1:])
        )
        return (*free, *unsupported_nodes(loaded))

    def build(self, model: Path, out: Path, options: Mapping[str, object]) -> Artefact:
        """Write ``model.tflite``; a free batch becomes 1.

        Raises:
            UserError: int8 without calibration data, or with data that does not fit.
            UnsupportedModelError: a node has no counterpart, or the file would have lost its weights.
            MissingRuntimeError: tensorflow, keras or ai-edge-litert is not installed.
        """
        chosen = parse_options(LiteRtOptions, self.name, options)
        if reasons := self.unsupported(model):
            raise UnsupportedModelError(reasons[0], where=str(model))
        asked = chosen.model_dump()
        notes: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            if chosen.precision == "int8":
                found = _calibration(model, out, chosen.calibration)
                asked["calibration"] = str(_calibration_file(found.feeds, Path(folder)))
                notes.append(f"calibrated on {_examples_in(found.feeds)} examples {found.told}")
            facts = export_in_child("targets.litert:export", model, out, asked)
        told: dict[str, object] = {
            "precision": chosen.precision,
            "signature": signature_facts(model),
            "notes": notes,
            **facts,
        }
        if chosen.precision in GATES:
            told["gate"] = GATES[chosen.precision]
        data = [r.name for r in bundle_context(out).references if r.name.startswith(DATA)]
        if chosen.precision == "int8" and data:
            # Scales fit the calibration's range; zeros and noise lie outside it and say nothing.
            told["judged"] = [f"{REFERENCES}/{name}.npz" for name in data]
        return Artefact((MODEL_FILE,), told, requires={"ai-edge-litert": str(facts["ai_edge_litert"])})

    def open(self, folder: Path, artefact: Artefact) -> Session:
        return ChildSession(self.name, folder, artefact)


def export(model: Path, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """In the child: rebuild in Keras, export a SavedModel with a static signature, convert that."""
    import tensorflow as tf

    work = out.parent / "saved"
    work.mkdir()
    built, tensors = build_with_tensors(_with_short_means(model), work)
    signature = [tf.TensorSpec((t.shape[0] or 1, *t.shape[1:]), t.dtype) for t in built.inputs]
    built.export(work / "model", verbose=False, input_signature=[signature])
    converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "model"))
    if options["precision"] == "f16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    examples = functools.partial(_examples, Path(options["calibration"]))
    try:
        content = quantised(converter, examples) if options["precision"] == "int8" else converter.convert()
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[-600:]
        raise UnsupportedModelError(f"TensorFlow's converter refuses it: {said}") from error
    (out / MODEL_FILE).write_bytes(content)
    operators = _operators(out / MODEL_FILE)
    lost = sorted(set(operators) & {"VAR_HANDLE", "READ_VARIABLE"})
    flex = sorted(op for op in set(operators) if op.startswith("Flex"))
    if lost or flex:
        raise UnsupportedModelError(
            f"the converter left {', '.join(lost + flex)} in the file",
            expected="weights as constants and LiteRT's own operators only",
        )
    kept = first_class_kept(out / MODEL_FILE, built, examples) if options["precision"] == "int8" else {}
    return {
        **kept,
        "tensorflow": tf.__version__,
        "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
        "operators": len(operators),
        OPTION: recorded(_told(out / MODEL_FILE, tensors, _output_names(model))),
    }


def _with_short_means(model: Path) -> Path:
    loaded = onnx_file.load(model)
    if not split_long_means(loaded, opset_of(loaded)):
        return model
    onnx_file.save(loaded, model.with_name("short_means.onnx"))
    return model.with_name("short_means.onnx")


def _output_names(model: Path) -> list[str]:
    return [spec.name for spec in onnx_file.signature(onnx_file.load(model))[1]]


def _told(file: Path, tensors: Mapping[str, str], outputs: Sequence[str]) -> Iterator[TargetLayer]:
    """The operators, by the Keras layers whose scopes the converter has left in their results' names.

    Fused operators name all their layers: ``model/conv1/Relu;model/conv1/BiasAdd;...``. Those at the outputs
    have lost their names: they compute the outputs of the ONNX graph, in its order.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file))
    known = {one["index"]: one for one in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    made = {int(k) for op in operators for k in op["outputs"]}
    given = {int(one["index"]) for one in interpreter.get_input_details()}
    details = interpreter.get_output_details()
    ends = {int(one["index"]): name for one, name in zip(details, outputs, strict=False)}
    for op in operators:
        result = str(known[int(op["outputs"][0])]["name"])
        constants = [known[int(k)] for k in op["inputs"] if int(k) >= 0 and int(k) not in made | given]
        weights = tuple((str(c["name"]), tuple(int(n) for n in c["shape"])) for c in constants)
        carried = [tensors[scope] for scope in _scopes(result) if scope in tensors]
        if not carried and int(op["outputs"][0]) in ends:
            carried = [ends[int(op["outputs"][0])]]
        for tensor in carried:
            yield TargetLayer(result.rpartition(";")[2], str(op["op_name"]), tensor, weights)


def _scopes(result: str) -> list[str]:
    """The layer names in a result's name, each once: ``model_1/conv1_1/Relu`` gives conv1_1 and conv1."""
    found: dict[str, None] = {}
    for part in result.split(";"):
        for scope in part.split("/"):
            found |= dict.fromkeys((scope, re.sub(r"_\d+$", "", scope)))
    return list(found)


def _calibration(model: Path, out: Path, named: str) -> Calibration:
    """Examples by input name: from the file ``named``, else of the run's data, else the references' data.

    Raises:
        UserError: there are none, or they do not fit the inputs.
    """
    inputs, _ = onnx_file.signature(onnx_file.load(model))
    given = load_calibration(out)
    if named:
        feeds = _read_calibration(Path(named), [spec.name for spec in inputs])
        given = Calibration(feeds, "of the file given as calibration")
    elif given is None:
        # The pipeline's references of zeros and random input say nothing about real activations.
        data = [r for r in bundle_context(out).references if r.name.startswith(DATA)]
        if not data:
            raise UserError(
                "int8 needs calibration data",
                where="targets.litert.options.calibration",
                expected="an .npz with arrays by input name, as the model takes them",
                hint="a few hundred examples; or name `data` in the config, whose examples serve too",
            )
        feeds = {s.name: np.concatenate([r.feeds[s.name] for r in data]) for s in inputs}
        given = Calibration(feeds, "of the references, by which it is judged too")
    for spec in inputs:
        array = given.feeds[spec.name]
        if array.dtype.name != spec.dtype or array.shape[1:] != spec.shape[1:]:
            raise UserError(
                f"calibration data {array.dtype}{list(array.shape)}",
                where=f"input {spec.name}",
                expected=f"{spec.dtype}{['N', *spec.shape[1:]]}",
            )
    return Calibration({s.name: given.feeds[s.name][:CALIBRATION_EXAMPLES] for s in inputs}, given.told)


def _calibration_file(feeds: Mapping[str, Array], folder: Path) -> Path:
    """The arrays by position of the input, for the child."""
    file = folder / "calibration.npz"
    arrays = {f"input{k}": array for k, array in enumerate(feeds.values())}
    np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type, unused-ignore]
    return file


def _examples_in(feeds: Mapping[str, Array]) -> int:
    return min(len(array) for array in feeds.values())


def _read_calibration(file: Path, names: list[str]) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            if set(names) - set(stored.files):
                raise UserError(f"holds {stored.files}", where=str(file), expected=f"arrays {names}")
            return {name: stored[name] for name in names}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot be read: {error}", where=str(file), expected="an .npz of arrays") from error


def _examples(file: Path) -> Iterator[list[Array]]:
    """One example at a time, inputs in order, as the converter asks for them."""
    with np.load(file, allow_pickle=False) as stored:
        arrays = [stored[f"input{k}"] for k in range(len(stored.files))]
    for k in range(len(arrays[0])):
        yield [array[k : k + 1] for array in arrays]


def _operators(file: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file))
    return [op["op_name"] for op in interpreter._get_ops_details()]
