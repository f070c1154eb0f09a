"""Check this bundle where it is deployed: python verify.py [--device cpu]

Every file must have the digest in manifest.json, no file may be missing or added, and the model must answer
every reference within the gate. Needs numpy and the target's runtime, nothing else. A bundle made for a GPU
is judged there and on the CPU; --device cpu asks for the CPU alone. Exit code 0: all holds. 1: something does
not. 2: the bundle is not made for that device. 4: a runtime or the device is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A file slipped in beside this script must not be imported before it has been found.
sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != HERE]
sys.dont_write_bytecode = True  # a __pycache__ would be a file that the manifest does not list

import argparse  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from typing import Any  # noqa: E402


def digest(file: Path) -> str:
    """SHA-256 of a file, in pieces."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def leaves_the_folder(name: str) -> bool:
    """Whether a path in the manifest could point outside the bundle."""
    parts = name.split("/")
    return any(part in ("", ".", "..") for part in parts) or bool(set(name) & set("\\:\0"))


def integrity_problems(manifest: dict[str, Any]) -> list[str]:
    """Every way in which this folder differs from its manifest."""
    problems = []
    guard = HERE / "manifest.json.sha256"
    if guard.is_symlink() or not guard.is_file():
        problems.append("manifest.json.sha256 is missing")
    elif guard.read_bytes() != f"{digest(HERE / 'manifest.json')}  manifest.json\n".encode():
        problems.append("manifest.json does not match manifest.json.sha256")
    for name, entry in manifest["files"].items():
        file = HERE / name
        if leaves_the_folder(name):
            problems.append(f"the manifest lists {name!r}, which points outside the bundle")
        elif file.is_symlink() or not file.is_file():
            problems.append(f"{name} is missing or is no plain file")
        elif file.stat().st_size != entry["bytes"] or digest(file) != entry["sha256"]:
            problems.append(f"{name} does not have the size and digest in the manifest")
    found = {f.relative_to(HERE).as_posix() for f in HERE.rglob("*") if f.is_symlink() or not f.is_dir()}
    listed = {*manifest["files"], "manifest.json", "manifest.json.sha256", "model.sig"}
    problems += [f"{name} is not in the manifest" for name in sorted(found - listed)]
    needed = {*manifest["artefact"]["files"], *manifest["references"], *manifest["truth"], "runtime.py"}
    problems += [f"{name} is not listed in the manifest" for name in sorted(needed - {*manifest["files"]})]
    if not manifest["references"]:
        problems.append("there are no references to replay")
    return problems


def closeness(np: Any, got: Any, ref: Any, softmax: bool = False) -> tuple[float, float]:
    """(max|got - ref| / range, SNR in dB); (inf, -inf) where shapes or non-finite values differ.

    Probabilities are compared as logarithms, unless some have vanished on either side.
    """
    if got.shape != ref.shape or got.dtype != ref.dtype:
        return math.inf, -math.inf
    if softmax and got.dtype.kind == "f" and got.size and min(got.min(), ref.min()) >= 1e-30:
        return closeness(np, np.log(got.astype(np.float64)), np.log(ref.astype(np.float64)))
    if got.dtype.kind not in "fiub":
        return (0.0, math.inf) if np.array_equal(got, ref) else (math.inf, -math.inf)
    a, b = got.astype(np.float64).ravel(), ref.astype(np.float64).ravel()
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return math.inf, -math.inf
    a, b = a[finite], b[finite]
    if b.size == 0:
        return 0.0, math.inf
    delta = np.abs(a - b)
    noise, signal = float(delta @ delta), float(b @ b)
    if noise == 0.0:
        return 0.0, math.inf
    scale = max(float(b.max() - b.min()), float(np.abs(b).max()) / 16) or 1.0  # nearly constant: no range
    return float(delta.max()) / scale, 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def models_on(manifest: dict[str, Any], device: str | None) -> tuple[list[str], list[str]]:
    """What to run on the device wanted (None: on all that it is made for), and what that leaves out."""
    options = manifest["artefact"]["options"]
    models = list(options.get("runnable", manifest["artefact"]["files"][:1]))
    if device is None:
        return models, []
    wanted = [one for one in models if (one.partition("#")[2] or options.get("device")) == device]
    return wanted, [one for one in models if one not in wanted]


def replay(np: Any, runtime: Any, manifest: dict[str, Any], device: str | None = None) -> int:
    """Run every model of the bundle on every reference; print and judge each output."""
    options = manifest["artefact"]["options"]
    executed, good, absent = 0, True, []
    errors: list[tuple[float, float]] = []
    judged = options.get("judged", manifest["references"])  # int8 is held to real data alone
    models, left_out = models_on(manifest, device)
    for model in left_out:
        print(f"not executed: {model}: --device {device} leaves it out")
    for model in models:
        try:
            run = runtime.load(HERE, manifest, model)
        except ImportError as error:
            absent += [] if model in options.get("optional", []) else [model]
            print(f"not executed: {model}: {error}")
            continue
        except Exception as error:  # a runtime may raise anything; a model that does not load has failed
            good = failed(f"{model} cannot be loaded", error)
            continue
        for reference in [one for one in manifest["references"] if one in judged]:
            try:
                feeds, expected = read_reference(np, reference)
                got = run(feeds)
            except Exception as error:
                good = failed(f"{model} {reference} does not run", error)
                break
            held = judge(np, manifest, f"{model} {reference}", got, expected)
            errors += errors_against_float64(np, manifest, reference, got, expected)
            good, executed = good and held, executed + 1
    good = near_float64(manifest, errors) and good
    if good and (absent or not executed):
        print("every file is intact, but not everything was executed")
        if executed and any(model.endswith("#cpu") for model in models):
            print("what was executed is within the gate. Try: --device cpu, which asks for the CPU alone")
        return 4
    gate = manifest["gate"]
    bounds = f"gate {gate['max_abs_over_range']:g}, {gate['snr_db']:g} dB"
    print(f"{'VERIFIED' if good else 'FAILED'}{f' on {device}' if left_out else ''} ({bounds})")
    return 0 if good else 1


def failed(what: str, error: Exception) -> bool:
    """Say so, in one line."""
    print(f"FAIL {what}: {type(error).__name__}: {' '.join(str(error).split())}")
    return False


def read_reference(np: Any, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and the outputs they must give."""
    with np.load(HERE / name, allow_pickle=False) as stored:
        feeds = {k[3:]: stored[k] for k in stored.files if k.startswith("in|")}
        expected = {k[4:]: stored[k] for k in stored.files if k.startswith("out|")}
    return feeds, expected


def errors_against_float64(
    np: Any, manifest: dict[str, Any], reference: str, got: Any, expected: Any
) -> list[tuple[float, float]]:
    """(error of this artefact, error of the source framework), as shares of the range, for each output."""
    held = [one for one in manifest["truth"] if one.rpartition("/")[2] == reference.rpartition("/")[2]]
    if not held:
        return []
    probabilities = {entry["name"] for entry in manifest["outputs"] if entry["head"] == "softmax"}
    found = []
    with np.load(HERE / held[0], allow_pickle=False) as stored:
        truth = {key[4:]: stored[key] for key in stored.files}
    for output, exact in truth.items():
        if output not in got or output not in expected:
            continue  # judged above
        sides = (got[output], expected[output])
        if exact.dtype.kind == "f" and all(s.dtype.kind == "f" and s.shape == exact.shape for s in sides):
            softmax = output in probabilities
            own, source = (closeness(np, s.astype(np.float64), exact, softmax)[0] for s in sides)
            found.append((own, source))
    return [pair for pair in found if math.isfinite(pair[1])]


def near_float64(manifest: dict[str, Any], errors: list[tuple[float, float]]) -> bool:
    """Print the error as a multiple of the source's own; whether it keeps the gate's factor, if any."""
    if not errors:
        return True
    own, source = (max(side) for side in zip(*errors))  # noqa: B905  (also for Python 3.9)
    multiple = f", {own / source:.2g} x the source framework's own {source:.3g}" if source > 0 else ""
    factor = manifest["gate"]["source_error_factor"]
    held = factor is None or own <= factor * source + 1e-6
    print(f"{'ok  ' if held else 'FAIL'} error against float64: {own:.3g} of the range{multiple}")
    return held


def judge(np: Any, manifest: dict[str, Any], what: str, got: Any, expected: Any) -> bool:
    """Whether one answer is within the gate; nothing compared is not."""
    gate = manifest["gate"]
    probabilities = {entry["name"] for entry in manifest["outputs"] if entry["head"] == "softmax"}
    good = bool(expected)
    for output, ref in expected.items():
        softmax = output in probabilities
        share, snr = closeness(np, got[output], ref, softmax) if output in got else (math.inf, -math.inf)
        held = share <= gate["max_abs_over_range"] and snr >= gate["snr_db"]
        good = good and held
        print(f"{'ok  ' if held else 'FAIL'} {what} {output}: max|d|/range {share:.3g}, SNR {snr:.1f} dB")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Check this bundle where it is deployed.")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="judge on this device alone")
    device = parser.parse_args().device
    try:
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        problems = integrity_problems(manifest)
    except OSError as error:
        problems = [f"{error.filename or 'manifest.json'} cannot be read: {error.strerror}"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problems = [f"manifest.json is damaged: {type(error).__name__}: {error}"]
    if problems:
        print("\n".join(["NOT INTACT", *problems, "Try: copy or export the whole bundle again"]))
        return 1
    if not models_on(manifest, device)[0]:
        print(f"this bundle is not made for {device}. Try: leave --device out")
        return 2
    sys.path.append(str(HERE))  # last: installed packages come first
    try:
        import numpy as np
        import runtime  # type: ignore[import-not-found]
    except ImportError as error:
        print(f"every file is intact, but nothing was executed: {error}")
        return 4
    print(f"{manifest['name']} on {runtime.VERSION}; every file is intact")
    return replay(np, runtime, manifest, device)


if __name__ == "__main__":
    sys.exit(main())
