"""Load a bundle's artefact again, answer its references, and judge: the only way to ``verified``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from optim.contract import Array
from optim.errors import MissingRuntimeError, UserError
from targets.closeness import (
    APART,
    SOURCE_ERROR_SLACK,
    Closeness,
    Gate,
    OwnError,
    closeness,
    own_error,
    worst,
    worst_error,
)
from targets.contract import Artefact, Session, State, Target
from targets.manifest import Manifest
from targets.references import load_reference, load_truth

NOT_EXECUTED: Final = "; not executed: "  # in a detail, between the runtimes and what lacked its own


@dataclass(frozen=True)
class BundleVerdict:
    """What a replay of the references found."""

    target: str
    state: State
    max_abs_over_range: float | None  # None where nothing was executed
    snr_db: float | None
    problems: tuple[str, ...]  # why it failed
    detail: str  # runtime and version, or why it was not executed
    artefacts: tuple[str, ...]
    error: OwnError | None = None  # against float64, where the bundle holds that
    not_executed: tuple[str, ...] = ()  # runnable models without a runtime here, each with the reason
    hint: str = ""  # what brings the runtime that is missing


def replay(
    folder: Path, manifest: Manifest, target: Target, gate: Gate, device: str | None = None
) -> BundleVerdict:
    """Load every runnable model of the artefact again and compare it on every reference.

    ``options.runnable`` lists the models, by default the artefact's first file; ``model.onnx#webgpu`` is a
    file run in a manner of its own. What ``options.optional`` names may lack its runtime, if another ran;
    where any other lacks it, the artefact is not verified, whatever ran beside it and is judged.
    ``options.judged`` names the only references that a calibrated artefact is held to: those of real data.

    Args:
        folder: where the artefact is.
        manifest: of the bundle.
        target: opens the artefact.
        gate: bounds to hold.
        device: judge on it alone; what is made for another is named as not executed.

    Raises:
        UserError: nothing of the artefact is made for ``device``.
    """
    artefact = Artefact(manifest.artefact.files, manifest.artefact.options)
    runnable = _names(artefact, "runnable") or [artefact.files[0]]
    wanted = _on_device(artefact, runnable, device)
    left_out = tuple(f"{one}: device {device} leaves it out" for one in runnable if one not in wanted)
    if {name.partition("#")[0] for name in runnable} - set(artefact.files):
        problem = "the manifest's runnable models are not its files"
        return verdict_of(manifest, State.FAILED, None, [problem], "")
    optional = _names(artefact, "optional")
    figures: list[Closeness] = []
    errors: list[OwnError] = []
    problems: list[str] = []
    absent: dict[str, MissingRuntimeError] = {}
    runtimes: dict[str, None] = {}  # in order, each once
    for model in wanted:
        try:
            found, wrong, own, ran_on = _replay_one(folder, manifest, target, gate, model)
            runtimes[ran_on] = None
            figures += found
            problems += wrong
            errors += [] if own is None else [own]
        except MissingRuntimeError as error:
            absent[model] = error
        except Exception as error:  # a runtime may raise anything; a model that cannot run has failed
            problems.append(f"{model}: {error}" if model in optional else f"{target.name}: {error}")
            return verdict_of(manifest, State.FAILED, None, problems, "the runtime failed")
    missing = tuple(f"{model}: {error.what}" for model, error in absent.items())
    not_executed = (*missing, *left_out)
    hint = next((error.hint for error in absent.values() if error.hint), "")
    runtime = " and ".join(runtimes)
    detail = f"{runtime}{NOT_EXECUTED}{'; '.join(not_executed)}" if not_executed else runtime
    if problems:
        verdict = verdict_of(manifest, State.FAILED, worst(figures), problems, runtime, worst_error(errors))
    elif not figures and not absent:
        verdict = verdict_of(manifest, State.FAILED, None, [], "nothing was compared")
    elif not figures:
        detail = f"no runtime on this machine: {'; '.join(missing)}"
        verdict = verdict_of(manifest, State.PRODUCED, None, [], detail)
    else:
        state = State.PRODUCED if set(absent) - set(optional) else State.VERIFIED
        verdict = verdict_of(manifest, state, worst(figures), [], detail, worst_error(errors))
    return replace(verdict, not_executed=not_executed, hint=hint)


def _on_device(artefact: Artefact, runnable: list[str], device: str | None) -> list[str]:
    """Those of the runnable models that are for ``device``; all, where none is named."""
    own = artefact.options.get("device")
    wanted = [one for one in runnable if device is None or (one.partition("#")[2] or own) == device]
    if not wanted:
        raise UserError(
            f"nothing in this bundle is made for {device}",
            where=artefact.files[0],
            expected=f"{own}, for which it is made" if own else "no device: this target has none to choose",
            hint="leave --device out",
        )
    return wanted


def verdict_of(
    manifest: Manifest,
    state: State,
    found: Closeness | None,
    problems: list[str],
    detail: str,
    error: OwnError | None = None,
) -> BundleVerdict:
    """A verdict on the artefact of ``manifest``."""
    return BundleVerdict(
        target=manifest.target,
        state=state,
        max_abs_over_range=None if found is None else found.max_abs_over_range,
        snr_db=None if found is None else found.snr_db,
        problems=tuple(problems),
        detail=detail,
        artefacts=manifest.artefact.files,
        error=error,
    )


def _replay_one(
    folder: Path, manifest: Manifest, target: Target, gate: Gate, model: str
) -> tuple[list[Closeness], list[str], OwnError | None, str]:
    """Figures, what is beyond the gate, the error against float64, and the runtime, of one runnable model."""
    probabilities = {entry.name for entry in manifest.outputs if entry.head == "softmax"}
    others = tuple(name for name in manifest.artefact.files if name != model)
    figures: list[Closeness] = []
    problems: list[str] = []
    errors: list[OwnError | None] = []
    with target.open(folder, Artefact((model, *others), manifest.artefact.options)) as session:
        for file in _judged(manifest):
            reference = load_reference(folder / file)
            truth = _truth_of(folder, manifest, file)
            got = session.run(reference.feeds)
            for name, expected in reference.outputs.items():
                softmax = name in probabilities
                found = closeness(got[name], expected, softmax=softmax) if name in got else APART
                figures.append(found)
                if not gate.passes(found):
                    problems.append(_beyond(model, reference.name, name, found, gate))
                if name in got and name in truth:
                    errors.append(own_error(got[name], expected, truth[name], softmax=softmax))
        own = worst_error(error for error in errors if error is not None)
        factor = gate.source_error_factor
        if own is not None and factor is not None and not own.within(factor):
            problems.append(_too_far(model, own, factor))
        return figures, problems, own, _runtime_of(session)


def _truth_of(folder: Path, manifest: Manifest, reference: str) -> Mapping[str, Array]:
    """The float64 outputs of a reference; empty where the bundle has none."""
    wanted = reference.rpartition("/")[2]
    held = next((file for file in manifest.truth if file.rpartition("/")[2] == wanted), None)
    return {} if held is None else load_truth(folder / held)


def _judged(manifest: Manifest) -> tuple[str, ...]:
    listed = manifest.artefact.options.get("judged")
    if not isinstance(listed, list):
        return manifest.references
    return tuple(file for file in manifest.references if file in listed)


def _names(artefact: Artefact, key: str) -> list[str]:
    listed = artefact.options.get(key)
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _runtime_of(session: Session) -> str:
    """Runtime and version, as far as the session says them."""
    settings = getattr(session, "settings", {})
    return str(getattr(session, "version", "") or settings.get("runtime", "") or type(session).__name__)


def _too_far(model: str, own: OwnError, factor: float) -> str:
    return (
        f"{model}: the error against float64 is {own.artefact:.3g} of the range, above {factor:g} × "
        f"the source's own {own.source:.3g} + {SOURCE_ERROR_SLACK:g}"
    )


def _beyond(model: str, reference: str, output: str, found: Closeness, gate: Gate) -> str:
    return (
        f"{model}, reference {reference}, output {output}: max|Δ|/range {found.max_abs_over_range:.3g} "
        f"(bound {gate.max_abs_over_range:g}), SNR {found.snr_db:.1f} dB (bound {gate.snr_db:g} dB)"
    )
