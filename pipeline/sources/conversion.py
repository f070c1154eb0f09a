"""The whole way from a source file to a checked ONNX file, in child processes.

convert → edge layout → write aside → run the source | check the file (``checks.py``) → move into place. Only
what passed is moved. Large models are checked in a second child, once the framework's has ended: two runtimes
would hold the weights at the same time.
"""

from __future__ import annotations

import gc
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from optim import model as onnx_file
from optim.errors import UserError
from optim.passes.sign_pool_borders import SignPoolBorders
from pipeline.sources import check_feeds
from pipeline.sources.catalog import source_for
from pipeline.sources.check_optimised import check_optimised
from pipeline.sources.checks import Reference, check_file, check_graph, run_source
from pipeline.sources.child import Child, ChildLimits
from pipeline.sources.contract import (
    Conversion,
    Converted,
    ConvertRequest,
    EdgeLayout,
    Progress,
    SourceFormat,
    SourceParity,
    no_progress,
)
from pipeline.sources.detect import detect
from pipeline.sources.edge_layout import change_edge_layout, edge_session
from pipeline.sources.sessions import keep_source
from pipeline.sources.warm_child import KEPT_WEIGHT_BYTES, WarmChild
from pipeline.sources.write_model import Written, mapped, read_skeleton, skeleton, write_model

# With oneDNN, TensorFlow takes memory in doubling blocks and never gives it back; without, a conversion holds
# its weights once. glibc, too, keeps what was freed once it has seen large blocks, unless the size from which
# blocks are given back is fixed. Only the conversion runs so: benchmarks keep the defaults.
_PLAIN_ALLOCATOR = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
_DRAFT = "pipeline.sources.conversion:draft_here"
_CHECK = "pipeline.sources.conversion:check_here"


@dataclass(frozen=True)
class Draft:
    """A converted model written aside, not yet checked; ``conversion`` lacks parity and fingerprint.

    ``skeleton`` is the model without its large weights.
    """

    conversion: Conversion
    written: Written
    skeleton: bytes
    references: tuple[Reference, ...]
    tolerance: Mapping[str, float]

    @property
    def is_small(self) -> bool:
        """Whether one process may hold it in two runtimes at once."""
        return self.conversion.weight_bytes <= KEPT_WEIGHT_BYTES


@dataclass(frozen=True)
class Checked:
    """What the check of a written model adds to its conversion."""

    parity: tuple[SourceParity, ...]
    notes: tuple[str, ...]
    sha256: str
    seconds: float


def convert(
    request: ConvertRequest, out: Path, *, progress: Progress = no_progress, warm: WarmChild | None = None
) -> Conversion:
    """Convert ``request.model`` to ``out``, checked against its own framework.

    Args:
        request: the model and how to convert it.
        out: the file to write.
        progress: called now and then.
        warm: where the child is left for the next session of this model, if its weights are small.

    Raises:
        UserError: the file is missing or damaged, shapes must be given, or a limit was exceeded.
        UnsupportedModelError: something cannot be carried over; nothing is written.
        MissingRuntimeError: the framework is not installed.
    """
    detect(request.model)  # the user's mistakes first, without a process
    if out.is_dir():
        raise UserError("the output is a folder", where=str(out), expected="a file such as model.onnx")
    limits = ChildLimits(request.memory_limit_mib, request.time_limit_s)
    started = time.perf_counter()
    with _aside(out) as folder:
        child = Child(limits, _PLAIN_ALLOCATOR)
        try:
            drafted = child.call(_DRAFT, request, folder / out.name, progress=_part(progress, 0.0, 0.85))
            draft: Draft = drafted.value
            if not draft.is_small:
                child.close()
                child = Child(limits)
            checked = child.call(_CHECK, draft, progress=_part(progress, 0.85, 1.0))
            draft.written.move_to(out)
        except BaseException:
            child.close()
            raise
    if warm is not None and draft.is_small:
        warm.keep(child, request)
    else:
        child.close()
    conversion = _finished(draft, checked.value, out)
    seconds = {**conversion.seconds, "total": time.perf_counter() - started}
    peak = max(drafted.peak_rss_mib, checked.peak_rss_mib)
    return replace(conversion, seconds=seconds, peak_rss_mib=peak)


def convert_here(request: ConvertRequest, out: Path, progress: Progress = no_progress) -> Conversion:
    """``convert`` in this process, which must be a child: it imports the framework."""
    with _aside(out) as folder:
        draft = draft_here(request, folder / out.name, _part(progress, 0.0, 0.85))
        checked = check_here(draft, _part(progress, 0.85, 1.0))
        draft.written.move_to(out)
    return _finished(draft, checked, out)


def draft_here(request: ConvertRequest, file: Path, progress: Progress = no_progress) -> Draft:
    """Convert the model to ``file`` and run the source on the inputs of the check, in this process."""
    started = time.perf_counter()
    source_format = detect(request.model)
    progress(f"read {source_format.value}", 0.02)
    source = source_for(request, source_format)
    imported = time.perf_counter()
    converted = source.convert(request, _part(progress, 0.05, 0.7))
    gc.collect()  # the converter's graphs refer to themselves; the source runs in what they held
    loaded = time.perf_counter()
    model = converted.model
    native = _layout_of(source_format, converted)
    wanted = native if request.edge_layout is EdgeLayout.SOURCE else request.edge_layout
    turned = change_edge_layout(model, native, wanted)
    SignPoolBorders().apply(model)  # or ONNX Runtime's default settings would make another model of it
    check_graph(model, converted.layers)
    weight_bytes = onnx_file.weight_bytes(model)
    checked = time.perf_counter()
    progress("run the source", 0.75)
    session = edge_session(source.open(request), turned, wanted)
    try:
        references = run_source(session, onnx_file.signature(model)[0])
    finally:
        session.close()
    state_ranks(model, references)
    part_batches(model, references)
    inputs, outputs = onnx_file.signature(model)
    progress("write", 0.9)
    written = write_model(model, file)
    if weight_bytes <= KEPT_WEIGHT_BYTES:
        keep_source(request.model, source)
    seconds = {
        **converted.seconds,
        "load": imported - started + converted.seconds.get("load", 0.0),
        "check": checked - loaded,
        "parity": time.perf_counter() - checked,
        "total": time.perf_counter() - started,
    }
    conversion = Conversion(
        output=file,
        source_format=source_format,
        framework=converted.framework,
        inputs=inputs,
        outputs=outputs,
        frozen=converted.frozen,
        notes=converted.notes + _turned_note(turned, wanted),
        layers=converted.layers,
        parity=(),
        opset=model.graph.opset_imports.get("", 0),
        nodes=onnx_file.node_count(model),
        weight_bytes=weight_bytes,
        sha256="",
        seconds=seconds,
        peak_rss_mib=0.0,
    )
    return Draft(conversion, written, skeleton(model), references, dict(converted.tolerance))


def state_ranks(model: ir.Model, references: Sequence[Reference]) -> None:
    """Outputs of unknown rank get the rank that the source gives them, in place: the standard wants one."""
    for value in model.graph.outputs:
        ranks = {reference.outputs[value.name].ndim for reference in references if value.name is not None}
        if value.shape is None and len(ranks) == 1:
            value.shape = ir.Shape([None] * ranks.pop())


def part_batches(model: ir.Model, references: Sequence[Reference]) -> None:
    """Where the source refuses inputs of one batch, first dimensions get names of their own, in place."""
    specs = onnx_file.signature(model)[0]
    if not check_feeds.in_one_size([reference.feeds for reference in references], specs):
        return
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None and value.shape.rank() and not isinstance(value.shape[0], int):
            stem = re.sub(r"\W+", "_", (value.name or "").removesuffix(":0"))
            value.shape = ir.Shape([f"{stem}_dim0", *list(value.shape)[1:]])


def check_here(draft: Draft, progress: Progress = no_progress) -> Checked:
    """Check the file that ``draft`` describes, in this process; needs no framework but ONNX Runtime."""
    started = time.perf_counter()
    progress("compare", 0.1)
    file, model = draft.written.file, read_skeleton(draft.skeleton)
    parity = check_file(file, model, draft.references, draft.conversion.layers, draft.tolerance)
    progress("compare with the runtime's optimisations", 0.5)
    with mapped(draft.written, draft.skeleton) as light:
        notes = check_optimised(light, model, draft.references, draft.tolerance)
    fingerprint = onnx_file.sha256(file)
    return Checked(parity, notes, fingerprint, time.perf_counter() - started)


def _finished(draft: Draft, checked: Checked, out: Path) -> Conversion:
    done = draft.conversion
    seconds = {**done.seconds, "parity": done.seconds["parity"] + checked.seconds}
    seconds["total"] = done.seconds["total"] + checked.seconds
    return replace(
        done,
        output=out,
        notes=done.notes + checked.notes,
        parity=checked.parity,
        sha256=checked.sha256,
        seconds=seconds,
    )


class _aside:  # noqa: N801  (a context manager, used as a verb)
    """A folder beside ``out`` that is gone afterwards, whatever happens."""

    def __init__(self, out: Path) -> None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        except OSError as error:
            raise UserError(f"cannot write there: {error.strerror}", where=str(out)) from error

    def __enter__(self) -> Path:
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _layout_of(source_format: SourceFormat, converted: Converted) -> EdgeLayout:
    """ONNX is channels-first by definition; TensorFlow is channels-last unless the model says otherwise."""
    if source_format is SourceFormat.ONNX:
        return EdgeLayout.NCHW
    return EdgeLayout.NCHW if _CHANNELS_FIRST_NOTE in converted.notes else EdgeLayout.NHWC


_CHANNELS_FIRST_NOTE = "the source is channels-first (data_format NCHW)"


def _turned_note(turned: frozenset[str], wanted: EdgeLayout) -> tuple[str, ...]:
    if not turned:
        return ()
    return (f"edge layout {wanted.value.upper()}: {', '.join(sorted(turned))} transposed",)


def _part(progress: Progress, start: float, end: float) -> Progress:
    def scaled(text: str, fraction: float) -> None:
        progress(text, start + (end - start) * fraction)

    return scaled
