"""The whole way from a source file to a checked ONNX file, in a child process.

convert → edge layout → write aside → check (``checks.py``) → move into place. Only what passed is moved.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from optim import model as onnx_file
from optim.errors import UserError
from pipeline.sources.catalog import source_of
from pipeline.sources.checks import check_file, check_graph, run_source
from pipeline.sources.child import ChildLimits, call_once
from pipeline.sources.contract import (
    Conversion,
    Converted,
    ConvertRequest,
    EdgeLayout,
    Progress,
    SourceFormat,
    no_progress,
)
from pipeline.sources.detect import detect
from pipeline.sources.edge_layout import change_edge_layout, edge_session
from pipeline.sources.write_model import STREAMED_BYTES, write_model

# With oneDNN, TensorFlow takes memory in doubling blocks and never gives it back; without, a conversion holds
# its weights once. Only the conversion runs so: sessions and benchmarks keep TensorFlow's defaults.
_PLAIN_ALLOCATOR = {"TF_ENABLE_ONEDNN_OPTS": "0"}
_IN_CHILD = "pipeline.sources.conversion:convert_here"


def convert(request: ConvertRequest, out: Path, *, progress: Progress = no_progress) -> Conversion:
    """Convert ``request.model`` to ``out``, checked against its own framework.

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
    done = call_once(_IN_CHILD, request, out, limits=limits, environment=_PLAIN_ALLOCATOR, progress=progress)
    conversion: Conversion = done.value
    seconds = {**conversion.seconds, "total": time.perf_counter() - started}
    return replace(conversion, seconds=seconds, peak_rss_mib=done.peak_rss_mib)


def convert_here(request: ConvertRequest, out: Path, progress: Progress = no_progress) -> Conversion:
    """``convert`` in this process, which must be a child: it imports the framework."""
    started = time.perf_counter()
    source_format = detect(request.model)
    source = source_of(source_format)
    progress(f"read {source_format.value}", 0.02)
    converted = source.convert(request, _part(progress, 0.05, 0.6))
    loaded = time.perf_counter()
    model = converted.model
    native = _layout_of(source_format, converted)
    wanted = native if request.edge_layout is EdgeLayout.SOURCE else request.edge_layout
    turned = change_edge_layout(model, native, wanted)
    check_graph(model, converted.layers)
    inputs, outputs = onnx_file.signature(model)
    weight_bytes = onnx_file.weight_bytes(model)
    progress("write", 0.65)
    checked = time.perf_counter()
    with _aside(out) as folder:
        written = write_model(model, folder / out.name)
        progress("run the source", 0.7)
        session = edge_session(source.open(request), turned, wanted)
        try:
            references = run_source(session, inputs)
        finally:
            session.close()
        # What follows needs only the file: let the framework's weights go before a second runtime loads it.
        del session, source
        forget_weights(model)
        progress("compare", 0.85)
        parity = check_file(folder / out.name, model, references, converted.layers, converted.tolerance)
        compared = time.perf_counter()
        written.move_to(out)
    seconds = {
        **converted.seconds,
        "check": checked - loaded,
        "parity": compared - checked,
        "total": time.perf_counter() - started,
    }
    return Conversion(
        output=out,
        source_format=source_format,
        framework=converted.framework,
        inputs=inputs,
        outputs=outputs,
        frozen=converted.frozen,
        notes=converted.notes + _turned_note(turned, wanted),
        layers=converted.layers,
        parity=parity,
        opset=model.graph.opset_imports.get("", 0),
        nodes=onnx_file.node_count(model),
        weight_bytes=weight_bytes,
        sha256=onnx_file.sha256(out),
        seconds=seconds,
        peak_rss_mib=0.0,
    )


def forget_weights(model: ir.Model) -> None:
    """Drop the large initializers' values in place; dtypes and shapes stay."""
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes >= STREAMED_BYTES:
            value.const_value = None
    gc.collect()


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
