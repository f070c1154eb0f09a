"""The deployable folder: written aside, proved, moved into place; and its own check wherever it ends up.

::

    BUNDLE/
      model.onnx ...           the artefact, in the target's format
      manifest.json            digests, versions, provenance, parity and benchmark figures, hardware
      manifest.json.sha256     guards the manifest (sha256sum -c)
      preprocess.json          from raw data to the model's input
      labels.txt               one class a line, where the model has classes with names
      references/*.npz         inputs and the outputs they must give
      truth/*.npz              the same outputs in float64, where the model can be evaluated so
      predict.py verify.py     stand-alone, in the target's own world
      README.md MODEL_CARD.md LICENCES.md
      sbom.cdx.json            CycloneDX: the model, what it needs, what was put in
      model.sig                signature of all other files, where a key was given
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from optim import model as onnx_file
from optim.contract import TensorSpec
from optim.errors import FairleadError, InternalError, UnsupportedModelError, UserError
from optim.heads import Head, saturating_heads
from targets.bundle_context import LABELS_FILE, PREPROCESS_FILE, REFERENCES
from targets.bundle_documents import write_documents
from targets.calibration import CALIBRATION_FILE, Calibration, save_calibration
from targets.catalog import target_named
from targets.closeness import Gate
from targets.contract import Artefact, State, Target
from targets.layer_table import OPTION, layers_of, with_target_layers
from targets.layer_trace import LayerTrace, save_trace
from targets.licences import licences_of, write_licences
from targets.manifest import (
    MANIFEST_FILE,
    ArtefactEntry,
    GateEntry,
    Manifest,
    TensorEntry,
    VerificationEntry,
    entries_for,
    integrity_problems,
    plain,
    read_manifest,
    unsafe_path,
    write_manifest,
)
from targets.preprocessing import Preprocessing
from targets.references import Reference, save_reference, save_truth
from targets.replay import BundleVerdict, replay, verdict_of
from targets.sbom import write_sbom
from targets.signature import sign_folder, signature_problem

__all__ = ["Bundle", "BundleSpec", "BundleVerdict", "class_count", "verify_bundle", "write_bundle"]
from targets.test_set import TestSet, save_test_set

_FULL: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
TRUTH: Final = "truth"
_FILE_STEM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")


@dataclass(frozen=True)
class BundleSpec:
    """Everything a bundle is made of. The mappings are plain JSON values."""

    name: str
    model: Path  # the proved ONNX model
    target: Target
    references: tuple[Reference, ...]
    options: Mapping[str, object] = field(default_factory=dict)  # of the target
    gate: Gate = field(default_factory=Gate)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] | None = None
    description: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)  # source file, digest, framework, notes
    parity: Mapping[str, object] = field(default_factory=dict)
    benchmark: Mapping[str, object] = field(default_factory=dict)
    hardware: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)  # component → SPDX expression or "unknown"
    layers: tuple[Mapping[str, object], ...] = ()  # source layers, in order; `tensors`: ONNX tensors of each
    created: str = ""  # ISO 8601, UTC; empty: now
    trace: LayerTrace | None = None  # the source's layers, for a target that compares its own
    test_set: TestSet | None = None  # raw, for a target that ships it
    calibration: Calibration | None = None  # for a target that quantises; not shipped
    signing_key: Path | None = None  # private elliptic-curve key (PEM); None: not signed


@dataclass(frozen=True)
class Bundle:
    """A bundle that was made; ``path`` is None when it failed its own check and was not put in place."""

    path: Path | None
    artefact: Artefact
    verdict: BundleVerdict
    layers: tuple[Mapping[str, object], ...] = ()  # source layers with the target's, where it names any


def write_bundle(spec: BundleSpec, destination: Path) -> Bundle:
    """Build, prove and put in place the bundle ``spec`` at ``destination``.

    An earlier bundle there is replaced; any other folder is left alone. Until the new one is complete and
    proved, ``destination`` is not touched, and what was half-written is removed.

    Raises:
        UserError: labels, references or options do not fit the model; the key does not sign; the folder
        cannot be written; the disk is full.
        UnsupportedModelError: the target cannot express the model; names the node.
        MissingRuntimeError: building needs a library that is not here.
    """
    _refuse_foreign_folder(destination)
    inputs, outputs = onnx_file.signature(onnx_file.load(spec.model))
    _check_labels(spec.labels, outputs)
    _check_references(spec.references, inputs, outputs)
    if reasons := spec.target.unsupported(spec.model):
        raise UnsupportedModelError(
            "; ".join(reasons),
            where=f"target {spec.target.name}",
            hint="`fairlead targets` lists other targets",
        )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(
            tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent)
        )
        try:
            bundle = _fill(spec, aside, inputs, outputs)
            if bundle.verdict.state is State.FAILED:
                return bundle
            _move_into_place(aside, destination)
            return replace(bundle, path=destination)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise _as_user_error(error, destination) from error
    except FairleadError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise _as_user_error(error.__cause__, destination) from error
        raise


def verify_bundle(
    folder: Path,
    *,
    target: Target | None = None,
    gate: Gate | None = None,
    public_key: Path | None = None,
    device: str | None = None,
) -> BundleVerdict:
    """Check a bundle where it stands: its files against the manifest, its outputs against the references.

    Args:
        folder: the bundle.
        target: opens the artefact; by default the one the manifest names.
        gate: bounds to hold; by default those in the manifest.
        public_key: whose signature the bundle must carry; without one a signature is not judged.
        device: judge on it alone, ``cpu`` for a bundle that is made for a GPU; else on all it is made for.

    Raises:
        UserError: there is no bundle in ``folder``, no key at ``public_key``, or nothing for ``device``.
        MissingRuntimeError: a signature is to be checked and model-signing is not installed.
    """
    manifest = read_manifest(folder)
    problems = integrity_problems(folder, manifest)
    if not problems and public_key is not None and (problem := signature_problem(folder, public_key)):
        problems = [problem]
    if problems:
        # Nothing in a folder that is not what it claims to be is loaded.
        return verdict_of(manifest, State.FAILED, None, problems, "not executed: the bundle is not intact")
    bounds = gate or Gate(**manifest.gate.model_dump())
    try:
        chosen = target or target_named(manifest.target)
    except UserError as error:
        return verdict_of(manifest, State.FAILED, None, [str(error)], "not executed: unknown target")
    return replay(folder, manifest, chosen, bounds, device)


def _fill(
    spec: BundleSpec, folder: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Bundle:
    # First what a build may want to read (see bundle_context), then the artefact.
    preprocess = spec.preprocessing.for_input(inputs[0])
    _write_json(folder / PREPROCESS_FILE, preprocess)
    if spec.labels is not None:
        (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in spec.labels), encoding="utf-8")
    (folder / REFERENCES).mkdir()
    for reference in spec.references:
        save_reference(reference, folder / REFERENCES / f"{reference.name}.npz")
    known = [reference for reference in spec.references if reference.truth]
    if known:
        (folder / TRUTH).mkdir()
    for reference in known:
        save_truth(reference, folder / TRUTH / f"{reference.name}.npz")
    if spec.trace is not None:
        save_trace(spec.trace, folder)
    if spec.test_set is not None:
        save_test_set(spec.test_set, folder)
    if spec.calibration is not None:
        save_calibration(spec.calibration, folder)
    artefact = spec.target.build(spec.model, folder, spec.options)
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    for name in artefact.files:
        if unsafe_path(name) or not (folder / name).is_file():
            raise InternalError(f"target {spec.target.name} promised {name!r} and did not write it")
    layers = with_target_layers(spec.layers, layers_of(folder, artefact))
    artefact = replace(artefact, options={k: v for k, v in artefact.options.items() if k != OPTION})
    gate = _gate_for(artefact, spec.gate)
    heads = saturating_heads(onnx_file.load(spec.model))
    manifest = Manifest(
        name=spec.name,
        target=spec.target.name,
        state=State.PRODUCED,
        detail="",
        created=spec.created or datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=f"fairlead {_own_version()}",
        artefact=ArtefactEntry(files=artefact.files, options=plain(artefact.options)),
        inputs=tuple(TensorEntry(**asdict(t)) for t in inputs),
        outputs=tuple(TensorEntry(**asdict(t), head=_head(heads, t.name)) for t in outputs),
        gate=GateEntry(**asdict(gate)),
        verification=None,
        references=tuple(f"{REFERENCES}/{reference.name}.npz" for reference in spec.references),
        truth=tuple(f"{TRUTH}/{reference.name}.npz" for reference in known),
        labels=None if spec.labels is None else len(spec.labels),
        licences=licences_of(spec.licences, artefact),
        versions=dict(spec.versions),
        provenance=plain(spec.provenance),
        layers=tuple(plain(layer) for layer in layers),
        parity=plain(spec.parity),
        benchmark=plain(spec.benchmark),
        hardware=plain(spec.hardware),
        files={},
    )
    verdict = replay(folder, manifest, spec.target, gate)
    if verdict.max_abs_over_range is not None and verdict.snr_db is not None:
        verification = VerificationEntry(
            max_abs_over_range=plain(verdict.max_abs_over_range),
            snr_db=plain(verdict.snr_db),
            references=len(spec.references),
            error=plain(None if verdict.error is None else verdict.error.artefact),
            source_error=plain(None if verdict.error is None else verdict.error.source),
            error_multiple=plain(None if verdict.error is None else verdict.error.multiple),
        )
        manifest = manifest.model_copy(update={"verification": verification})
    manifest = manifest.model_copy(update={"state": verdict.state, "detail": verdict.detail})
    write_documents(
        folder, manifest, spec.labels or (), preprocess, spec.description, signed=spec.signing_key is not None
    )
    write_licences(folder, manifest.licences, artefact)
    write_sbom(folder, manifest, artefact)
    write_manifest(folder, manifest.model_copy(update={"files": entries_for(folder)}))
    if spec.signing_key is not None:
        sign_folder(folder, spec.signing_key)
    return Bundle(None, artefact, verdict, layers)


def _head(heads: Mapping[str, Head], output: str) -> Literal["", "softmax"]:
    return "softmax" if output in heads and heads[output].op == "Softmax" else ""


def _gate_for(artefact: Artefact, gate: Gate) -> Gate:
    """The bundle's gate, or the wider one that a target declares for an artefact of lower precision."""
    declared = artefact.options.get("gate")
    if not isinstance(declared, Mapping):
        return gate
    return Gate(float(declared["max_abs_over_range"]), float(declared["snr_db"]))


def class_count(outputs: tuple[TensorSpec, ...]) -> int | None:
    """Number of classes of a classifier: the first output's only dimension that is neither the batch nor 1.

    None where there is no such dimension: a segmentation, a detector, an unknown shape.
    """
    wide = [d for d in outputs[0].shape[1:] if d != 1]
    return wide[0] if len(wide) == 1 and isinstance(wide[0], int) else None


def _check_labels(labels: tuple[str, ...] | None, outputs: tuple[TensorSpec, ...]) -> None:
    if labels is None:
        return
    if bad := [label for label in labels if not label.strip() or len(label.splitlines()) != 1]:
        raise UserError(
            f"label {bad[0]!r} is empty or spans lines", where="labels", expected="one class a line"
        )
    classes = class_count(outputs)
    widths = [d for d in outputs[0].shape[1:] if isinstance(d, int)]
    if len(labels) == classes or (classes is None and (len(labels) in widths or not widths)):
        return
    raise UserError(
        f"{len(labels)} labels for output {outputs[0].name!r} of shape {list(outputs[0].shape)}",
        where="labels",
        expected=f"{classes} labels"
        if classes is not None
        else "as many labels as one of the output's dimensions",
        hint="a model trained with a background class needs a label for it, usually the first",
    )


def _check_references(
    references: tuple[Reference, ...], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    if not references:
        raise UserError("a bundle needs references to be checked by", where="references")
    names = [reference.name for reference in references]
    if len(set(names)) != len(names):
        raise UserError(f"two references have one name: {sorted(names)}", where="references")
    for reference in references:
        if not _FILE_STEM.fullmatch(reference.name):
            raise UserError(
                f"{reference.name!r} is no file name", where="references", expected="letters, digits, _-.="
            )
        if set(reference.feeds) != {t.name for t in inputs}:
            raise UserError(
                f"feeds {sorted(reference.feeds)}",
                where=f"reference {reference.name}",
                expected=f"inputs {[t.name for t in inputs]}",
            )
        if not reference.outputs or set(reference.outputs) - {t.name for t in outputs}:
            raise UserError(
                f"outputs {sorted(reference.outputs)}",
                where=f"reference {reference.name}",
                expected=f"some of {[t.name for t in outputs]}",
            )


def _refuse_foreign_folder(destination: Path) -> None:
    if not destination.exists() or (destination / MANIFEST_FILE).is_file():
        return
    if destination.is_dir() and not any(destination.iterdir()):
        return
    raise UserError(
        "exists and is not a bundle; it will not be overwritten",
        where=str(destination),
        hint="give another folder",
    )


def _move_into_place(aside: Path, destination: Path) -> None:
    """Put ``aside`` at ``destination``; an earlier bundle is set aside first and comes back if that fails."""
    aside.chmod(0o755)  # mkdtemp makes 0o700
    if not destination.exists():
        aside.replace(destination)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".old", dir=destination.parent))
    destination.replace(old)
    try:
        aside.replace(destination)
    except OSError:
        old.replace(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _as_user_error(error: OSError, destination: Path) -> UserError:
    hint = "free some space; nothing was left behind" if error.errno in _FULL else "choose another folder"
    return UserError(f"cannot write the bundle: {error.strerror}", where=str(destination), hint=hint)


def _write_json(file: Path, body: Mapping[str, object]) -> None:
    file.write_text(json.dumps(plain(body), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _own_version() -> str:
    try:
        return version("fairlead")
    except PackageNotFoundError:
        return "unknown"
