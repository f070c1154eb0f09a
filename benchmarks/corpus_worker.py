"""One corpus item, in a warm child process: convert with all checks, run, compare with the references."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus_metric import within
from optim.errors import FairleadError, UnsupportedModelError, UserError
from pipeline.sources.contract import ConvertRequest, Progress

_DEFAULT_TOLERANCE = 1e-4  # where the manifest gives none
_SHAPES_WANTED = "--inputs"  # in the hint of an error that asks for shapes
_MODEL_FILE = {
    **{"tf_frozen": "net.pb", "keras_h5": "model.h5", "tflite": "model.tflite", "onnx": "model.onnx"},
    **{"caffe": "net.prototxt"},
}
KINDS = ("onnx", "tflite", "tf_frozen", "tf1_ckpt", "savedmodel", "keras_h5", "caffe")
_NAMED_BY_ROLE = frozenset({"keras_h5", "caffe"})  # their arrays are given in order, under no tensor's name


class Status(StrEnum):
    """How an item ended."""

    PASSED = "passed"
    WRONG = "wrong"  # called good by the conversion, but beyond the item's tolerance
    REFUSED = "refused"  # a deliberate error, although the source framework runs the model
    REJECTED = "rejected by its own framework"  # neither can run it: the right answer
    CRASHED = "crashed"  # our bug, or the process died


@dataclass(frozen=True)
class ItemScore:
    """What became of one item."""

    name: str
    family: str
    kind: str
    has_io: bool  # there are references to compare with
    status: Status
    error: float | None  # the corpus's measure, worst output, ONNX Runtime without optimisation
    error_optimised: float | None  # the same with all of ONNX Runtime's optimisations
    tolerance: float
    detail: str
    seconds: float
    nodes: int | None = None


def score_item(item: Mapping[str, Any], corpus: str, _progress: Progress) -> dict[str, Any]:
    """Score one item of the manifest."""
    started = time.perf_counter()
    folder = Path(corpus) / str(item["dir"])
    arrays = _arrays(folder)
    request = request_of(item, folder, arrays)
    status, detail, errors, nodes = Status.PASSED, "", (None, None), None
    with tempfile.TemporaryDirectory() as aside:
        out = Path(aside) / "model.onnx"
        try:
            request, nodes = _convert(request, out, arrays)
            errors, status, detail = _judge(item, out, arrays)
        except FairleadError as error:
            status, detail = _why(item, request), f"{type(error).__name__}: {error}"
            if error.exit_code == 70:
                status = Status.CRASHED
    gc.collect()
    score = ItemScore(
        name=str(item["name"]),
        family=str(item["family"]),
        kind=str(item["kind"]),
        has_io=bool(arrays),
        status=status,
        error=errors[0],
        error_optimised=errors[1],
        tolerance=_tolerance(item),
        detail=detail[:1000],
        seconds=round(time.perf_counter() - started, 3),
        nodes=nodes,
    )
    return asdict(score)


def request_of(item: Mapping[str, Any], folder: Path, arrays: Mapping[str, Any]) -> ConvertRequest:
    """What a user would ask for: the model, where to cut it, and shapes only where the model has none."""
    kind, spec = str(item["kind"]), item["spec"]
    if kind == "tf1_ckpt":
        model = folder / str(spec["prefix"])
    elif kind == "savedmodel":
        model = folder / "saved_model"
    else:
        model = folder / _MODEL_FILE[kind]
    fed = {key.removeprefix("in|"): array for key, array in arrays.items() if key.startswith("in|")}
    if kind == "caffe":
        return ConvertRequest(model=str(model), inputs=_shapes_in_order(model, list(fed.values())))
    shapeless = {_tensor(name) for name in spec.get("shapeless", ())}
    inputs: dict[str, tuple[int, ...] | None] = {}
    for name in spec.get("inputs", ()):
        shape = fed[name].shape if _tensor(name) in shapeless and name in fed else None
        inputs[name] = shape
    if kind == "onnx":
        inputs = _shapes_of_untold(model, fed)
    for name, _, shape in spec.get("ph", ()):  # placeholders of an item without data
        inputs[_tensor(name)] = tuple(shape)
    outputs = tuple(spec.get("outputs", ())) or tuple(_tensor(name) for name in spec.get("outs", ()))
    return ConvertRequest(model=str(model), inputs=inputs, outputs=outputs)


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _shapes_of_untold(model: Path, fed: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    """Shapes of ONNX inputs that the file declares without dimensions, though data have some."""
    from pipeline.sources.onnx_load import load_untrusted

    try:
        declared = load_untrusted(model).graph.inputs
    except FairleadError:
        return {}  # the conversion will say why
    return {
        value.name: fed[value.name].shape
        for value in declared
        if value.name in fed and not value.shape and fed[value.name].ndim
    }


def _shapes_in_order(prototxt: Path, fed: list[Any]) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the data for a Caffe net's inputs, which the files name by number."""
    from pipeline.sources.caffe_model import files_of
    from targets.caffe.read import read_net

    if not fed:
        return {}
    inputs = read_net(*files_of(prototxt)).inputs
    return {name: array.shape for name, array in zip(inputs, fed, strict=True)}


def _arrays(folder: Path) -> dict[str, Any]:
    """Inputs and references: ``io.npz``, or Caffe's ``in_0.npy`` … and ``out.npy``; empty: there are none."""
    if (folder / "io.npz").is_file():
        with np.load(folder / "io.npz", allow_pickle=False) as stored:
            return {key: stored[key] for key in stored}
    if not (folder / "out.npy").is_file():
        return {}
    files = {f"in|{file.stem}": file for file in sorted(folder.glob("in_*.npy"))}
    files["out|out"] = folder / "out.npy"
    return {key: np.load(file, allow_pickle=False) for key, file in files.items()}


def _tolerance(item: Mapping[str, Any]) -> float:
    return _DEFAULT_TOLERANCE if item["tol"] is None else float(item["tol"])


def _convert(request: ConvertRequest, out: Path, arrays: Mapping[str, Any]) -> tuple[ConvertRequest, int]:
    """Convert; where shapes are asked for, give those of the item's data, as a user would."""
    from pipeline.sources.conversion import convert_here

    try:
        return request, convert_here(request, out).nodes
    except UserError as error:
        shapes = {
            key.removeprefix("in|"): array.shape for key, array in arrays.items() if key.startswith("in|")
        }
        given = {name: shapes.get(name) for name in request.inputs or shapes}
        if _SHAPES_WANTED not in error.hint or not shapes or given == dict(request.inputs):
            raise
        request = replace(request, inputs=given)
        return request, convert_here(request, out).nodes


def _judge(
    item: Mapping[str, Any], model: Path, arrays: Mapping[str, Any]
) -> tuple[tuple[float | None, float | None], Status, str]:
    if not arrays:
        return (None, None), Status.PASSED, "agrees with its own framework"
    worst: list[float] = []
    passed, detail = True, ""
    for level in ("off", "all"):
        figures = _compare(item, model, arrays, level)
        worst.append(max(figure for figure, _, _ in figures))
        for figure, fits, name in figures:
            if not fits:
                passed, detail = False, f"{name}: {figure:.3g} ({level})"
    return (worst[0], worst[1]), Status.PASSED if passed else Status.WRONG, detail


def _compare(
    item: Mapping[str, Any], model: Path, arrays: Mapping[str, Any], level: Any
) -> list[tuple[float, bool, str]]:
    from targets.reference import OrtSession

    feeds = {key.removeprefix("in|"): array for key, array in arrays.items() if key.startswith("in|")}
    references = {key.removeprefix("out|"): array for key, array in arrays.items() if key.startswith("out|")}
    with OrtSession(model, optimization=level, threads=0) as session:
        feeds = _named(feeds, [spec.name for spec in session.inputs], item, "input")
        for spec in session.inputs:
            if spec.name in feeds and spec.dtype:
                feeds[spec.name] = np.asarray(feeds[spec.name]).astype(spec.dtype, copy=False)
        got = session.run({spec.name: feeds[spec.name] for spec in session.inputs})
        references = _named(references, [spec.name for spec in session.outputs], item, "output")
    if not references:
        raise ValueError("the item has no reference outputs")
    found = []
    for name, reference in references.items():
        figure, fits = within(got[name], reference, _tolerance(item))
        found.append((figure, fits, name))
    top = item["spec"].get("top1")
    if top is not None:
        first = next(iter(got.values()))
        found.append((0.0, bool(int(np.argmax(first.reshape(-1))) == int(top)), "top1"))
    return found


def _named(arrays: Mapping[str, Any], names: list[str], item: Mapping[str, Any], role: str) -> dict[str, Any]:
    """``arrays`` under the model's tensor names; where they are named only by role, by order."""
    if item["kind"] in _NAMED_BY_ROLE and len(arrays) == len(names):
        return dict(zip(names, arrays.values(), strict=True))
    known = {_bare(name): name for name in names}
    renamed = {known[_bare(name)]: array for name, array in arrays.items() if _bare(name) in known}
    lost = [name for name in arrays if _bare(name) not in known]
    # An input may go: a training switch that was frozen. An output may not.
    if lost and role == "output":
        raise UnsupportedModelError(f"output names did not survive: {lost} are not among {names}")
    return renamed


def _bare(name: str) -> str:
    return name.removesuffix(":0")


def _why(item: Mapping[str, Any], request: ConvertRequest) -> Status:
    """Whether the source's own framework rejects the model as well."""
    if item["kind"] == "caffe":
        return _why_caffe(request)
    from pipeline.sources import check_feeds
    from pipeline.sources.sessions import open_native

    try:
        with open_native(request) as session:
            for free in check_feeds.candidates(session.inputs):
                try:
                    session.run(check_feeds.zeros(session.inputs, free))
                except FairleadError:
                    continue
                return Status.REFUSED
    except UserError as refused:
        return Status.REFUSED if _SHAPES_WANTED in refused.hint else Status.REJECTED
    except Exception:
        return Status.REJECTED
    return Status.REJECTED


def _why_caffe(request: ConvertRequest) -> Status:
    """Whether OpenCV, which stands in for Caffe, rejects the net as well."""
    import cv2

    from pipeline.sources.caffe_model import files_of
    from targets.caffe.read import read_net

    prototxt, caffemodel = files_of(Path(request.model))
    shapes = {**read_net(prototxt, None).inputs, **request.inputs}
    try:
        net = cv2.dnn.readNetFromCaffe(*(str(file) for file in (prototxt, caffemodel) if file is not None))
        for name, shape in shapes.items():
            net.setInput(np.zeros(shape or (), np.float32), name)
        net.forward()
    except cv2.error:
        return Status.REJECTED
    return Status.REFUSED


def ping(_progress: Progress) -> str:
    """Whether the worker is alive."""
    return "alive"
