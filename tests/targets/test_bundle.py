"""Bundles: complete, self-checking, never half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from optim.errors import UnsupportedModelError, UserError
from targets import bundle as bundle_module
from targets.bundle import BundleSpec, class_count, verify_bundle, write_bundle
from targets.closeness import Gate
from targets.contract import State
from targets.fake import Fake
from targets.manifest import GUARD_FILE, MANIFEST_FILE, guard_for, read_manifest
from targets.onnxruntime import OnnxRuntime
from targets.preprocessing import Preprocessing
from targets.references import Reference
from tests.targets.conftest import build_classifier

LABELS = ("zero", "one", "two <b>", "three | `four`")


@pytest.fixture(scope="session")
def spec(classifier: Path, references: tuple[Reference, ...]) -> BundleSpec:
    return BundleSpec(
        name="digits",
        model=classifier,
        target=OnnxRuntime(),
        references=references,
        options={"ort": True, "threads": 1},
        preprocessing=Preprocessing(scale=1 / 16, mean=(0.5,), std=(0.25,)),
        labels=LABELS,
        description="Reads <script>alert(1)</script> digits.",
        provenance={"source": "digits.keras", "sha256": "ab" * 32, "framework": "keras 3"},
        parity={"source_vs_converted": {"max_abs_over_range": 1e-7, "snr_db": float("inf")}},
        benchmark={"median_ms": 0.12},
        hardware={"cpu": "one"},
        licences={"model": "unknown"},
        layers=({"name": "conv", "op": "Conv2D", "output_shape": (None, 4, 4, 3), "parameters": 30},),
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(scope="session")
def made(spec: BundleSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    result = write_bundle(spec, folder)
    assert result.path == folder
    assert result.verdict.state is State.VERIFIED
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def _script(bundle: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -I would hide the script's own folder; an empty working directory shows that none is needed.
    return subprocess.run(
        [sys.executable, str(bundle / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=bundle.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(bundle.parent)},
    )


EVERY_FILE = [
    "LICENCES.md",
    "MODEL_CARD.md",
    "README.md",
    "cpp/CMakeLists.txt",
    "cpp/predict.cpp",
    "labels.txt",
    "manifest.json",
    "manifest.json.sha256",
    "model.onnx",
    "model.ort",
    "predict.py",
    "preprocess.json",
    "references/random_0.npz",
    "references/zeros.npz",
    "runtime.py",
    "sbom.cdx.json",
    "verify.py",
]


def test_holds_what_is_promised(made: Path) -> None:
    assert sorted(f.relative_to(made).as_posix() for f in made.rglob("*") if f.is_file()) == EVERY_FILE
    manifest = read_manifest(made)
    assert sorted(manifest.files) == sorted(set(EVERY_FILE) - {MANIFEST_FILE, GUARD_FILE})
    assert manifest.state is State.VERIFIED
    assert manifest.labels == len(LABELS)
    assert manifest.parity["source_vs_converted"]["snr_db"] == "inf"
    assert (made / "labels.txt").read_text().split("\n")[:-1] == list(LABELS)
    preprocess = json.loads((made / "preprocess.json").read_text())
    assert (preprocess["layout"], preprocess["channels"], preprocess["size"]) == ("NCHW", 1, [8, 8])


def test_verifies_here_and_in_its_own_world(made: Path) -> None:
    verdict = verify_bundle(made)
    assert verdict.state is State.VERIFIED
    assert verdict.problems == ()
    assert verdict.max_abs_over_range is not None
    assert verdict.max_abs_over_range <= 2e-5
    assert verdict.artefacts == ("model.onnx", "model.ort", "cpp/predict.cpp", "cpp/CMakeLists.txt")
    done = _script(made, "verify.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERIFIED" in done.stdout
    assert done.stdout.count("ok  ") == 4  # two models, two references
    assert verify_bundle(made).state is State.VERIFIED  # running the script leaves nothing behind


def test_its_scripts_import_nothing_of_ours(made: Path) -> None:
    for script in ("predict.py", "verify.py", "runtime.py"):
        text = (made / script).read_text()
        for package in ("fairlead", "pipeline", "optim", "targets"):
            assert f"import {package}" not in text
            assert f"from {package}" not in text


def test_the_manifest_guard_is_read_by_sha256sum(made: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    done = subprocess.run(
        ["sha256sum", "-c", GUARD_FILE], cwd=made, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_pruned_and_standard(made: Path) -> None:
    assert [o.domain for o in onnx.load(made / "model.onnx").opset_import] == [""]


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_a_tampered_byte_anywhere_is_found(bundle: Path, name: str, place: float) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    (bundle / name).write_bytes(bytes(content))
    try:
        verdict = verify_bundle(bundle)
    except UserError as error:  # a manifest that is no JSON any more
        assert name == MANIFEST_FILE, error
        return
    assert verdict.state is State.FAILED
    assert any(name.removesuffix(".sha256") in problem for problem in verdict.problems)


@pytest.mark.parametrize(
    "name", ["model.onnx", "references/zeros.npz", "labels.txt", MANIFEST_FILE, GUARD_FILE]
)
def test_the_script_finds_a_tampered_byte_too(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(bytes(content))
    assert _script(bundle, "verify.py").returncode == 1


@pytest.mark.parametrize("name", sorted(set(EVERY_FILE) - {MANIFEST_FILE}))
def test_a_missing_file_is_found(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    verdict = verify_bundle(bundle)
    assert verdict.state is State.FAILED
    assert any(name in problem and "missing" in problem for problem in verdict.problems)
    if name != "verify.py":
        done = _script(bundle, "verify.py")
        assert done.returncode == 1
        assert name in done.stdout


def test_a_missing_manifest_is_the_users_error(bundle: Path, tmp_path: Path) -> None:
    (bundle / MANIFEST_FILE).unlink()
    with pytest.raises(UserError, match="no readable manifest"):
        verify_bundle(bundle)
    with pytest.raises(UserError, match="no readable manifest"):
        verify_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["numpy.py", "json.py", "references/more.npz", "__pycache__/runtime.pyc"])
def test_an_added_file_is_found_and_not_run(bundle: Path, name: str) -> None:
    witness = bundle.parent / "was_run"
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text(f"open({str(witness)!r}, 'w').close()\n")
    verdict = verify_bundle(bundle)
    assert verdict.state is State.FAILED
    assert f"{name} is not in the manifest" in verdict.problems
    done = _script(bundle, "verify.py")
    assert done.returncode == 1
    assert name in done.stdout
    assert not witness.exists()


def _rewrite_manifest(bundle: Path, change: dict[str, object]) -> None:
    """What a forger who can compute digests would do."""
    body = {**json.loads((bundle / MANIFEST_FILE).read_text()), **change}
    text = json.dumps(body)
    (bundle / MANIFEST_FILE).write_text(text)
    (bundle / GUARD_FILE).write_text(guard_for(text.encode()))


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/hostname", "references/../../outside", "a\\b", "C:x", "references//zeros.npz", ""],
)
def test_a_path_out_of_the_folder_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_text("secret")
    files = json.loads((bundle / MANIFEST_FILE).read_text())["files"]
    _rewrite_manifest(bundle, {"files": {**files, name: {"sha256": "0" * 64, "bytes": 6}}})
    verdict = verify_bundle(bundle)
    assert verdict.state is State.FAILED
    assert any("points outside" in problem for problem in verdict.problems)
    assert _script(bundle, "verify.py").returncode == 1


def test_a_model_path_out_of_the_folder_is_never_opened(bundle: Path, classifier: Path) -> None:
    shutil.copy(classifier, bundle.parent / "outside.onnx")
    _rewrite_manifest(bundle, {"artefact": {"files": ["../outside.onnx"], "options": {}}})
    verdict = verify_bundle(bundle)
    assert verdict.state is State.FAILED
    assert verdict.max_abs_over_range is None


def test_a_symbolic_link_is_no_file(bundle: Path) -> None:
    moved = bundle.parent / "moved.onnx"
    (bundle / "model.onnx").rename(moved)
    (bundle / "model.onnx").symlink_to(moved)
    assert "model.onnx is not a plain file" in verify_bundle(bundle).problems


def test_no_references_is_no_proof(bundle: Path) -> None:
    _rewrite_manifest(bundle, {"references": []})
    assert "there are no references to replay" in verify_bundle(bundle).problems
    assert _script(bundle, "verify.py").returncode == 1


def test_an_output_beyond_the_gate_fails(made: Path) -> None:
    verdict = verify_bundle(made, target=Fake(), gate=Gate())
    assert verdict.state is State.FAILED  # the null target cannot even read model.onnx


def test_a_wrong_model_is_not_put_in_place(spec: BundleSpec, tmp_path: Path) -> None:
    wrong = tuple(
        replace(
            r,
            outputs={k: v + np.float32(1e-3) * np.arange(4, dtype=np.float32) for k, v in r.outputs.items()},
        )
        for r in spec.references
    )
    result = write_bundle(replace(spec, references=wrong), tmp_path / "wrong")
    assert result.path is None
    assert result.verdict.state is State.FAILED
    assert result.verdict.max_abs_over_range is not None
    assert result.verdict.max_abs_over_range > 2e-5
    assert "random_0" in " ".join(result.verdict.problems)
    assert list(tmp_path.iterdir()) == []


def test_a_nan_in_the_references_is_beyond_every_gate(spec: BundleSpec, tmp_path: Path) -> None:
    bad = replace(spec.references[1], outputs={"scores": np.full((1, 4), np.nan, np.float32)})
    result = write_bundle(replace(spec, references=(bad,), gate=Gate(1e9, -1e9)), tmp_path / "nan")
    assert result.verdict.state is State.FAILED


def test_without_a_runtime_it_is_produced_not_executed(spec: BundleSpec, tmp_path: Path) -> None:
    result = write_bundle(replace(spec, target=Fake(runtime=False), options={}), tmp_path / "produced")
    assert result.path is not None
    assert result.verdict.state is State.PRODUCED
    assert read_manifest(result.path).state is State.PRODUCED
    assert read_manifest(result.path).verification is None
    assert "produced, not executed" in (result.path / "README.md").read_text()


def test_the_same_spec_gives_the_same_bytes(spec: BundleSpec, tmp_path: Path) -> None:
    # Without model.ort: ONNX Runtime writes its tables in hash-map order, which differs each time.
    written = []
    for name in ("one", "two"):
        folder = write_bundle(replace(spec, options={}), tmp_path / name).path
        assert folder is not None
        written.append({f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()})
    assert written[0] == written[1]
    assert len(written[0]) == len(EVERY_FILE) - 1


def test_external_data_is_carried(spec: BundleSpec, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    model = build_classifier(source / "big.onnx", external=True)
    result = write_bundle(replace(spec, model=model, options={}), tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED
    assert result.artefact.files[:2] == ("model.onnx", "model.onnx.data")
    shutil.rmtree(source)
    assert verify_bundle(tmp_path / "bundle").state is State.VERIFIED


def test_predict_names_the_classes(made: Path, spec: BundleSpec, tmp_path: Path) -> None:
    feed = spec.references[1].feeds["image"]
    np.save(tmp_path / "one.npy", feed)
    done = _script(made, "predict.py", str(tmp_path / "one.npy"), "--top", "4")
    assert done.returncode == 0, done.stderr
    scores = spec.references[1].outputs["scores"][0]
    printed = [line.split(maxsplit=1) for line in done.stdout.splitlines()[1:]]
    order = np.argsort(-scores)
    assert [label for _, label in printed] == [LABELS[i] for i in order]
    assert np.allclose([float(score) for score, _ in printed], scores[order], atol=2e-6)
    assert verify_bundle(made).state is State.VERIFIED


def test_predict_reads_images_as_preprocess_says(made: Path, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(5).integers(0, 256, (8, 8), np.uint8)
    image_module.fromarray(pixels).save(tmp_path / "one.png")
    by_hand = ((pixels.astype(np.float32) * np.float32(1 / 16) - np.float32(0.5)) / np.float32(0.25))[
        None, None
    ]
    np.savez(tmp_path / "one.npz", image=by_hand)
    from_image = _script(made, "predict.py", str(tmp_path / "one.png"))
    from_array = _script(made, "predict.py", str(tmp_path / "one.npz"))
    assert from_image.returncode == 0, from_image.stderr
    assert from_image.stdout == from_array.stdout


def test_predict_takes_integers_for_raw_data(made: Path, tmp_path: Path) -> None:
    raw = np.random.default_rng(5).integers(0, 256, (1, 8, 8), np.uint8)
    np.save(tmp_path / "raw.npy", raw)
    np.save(
        tmp_path / "ready.npy",
        (raw.astype(np.float32) * np.float32(1 / 16) - np.float32(0.5)) / np.float32(0.25),
    )
    raw_answer = _script(made, "predict.py", str(tmp_path / "raw.npy"))
    ready_answer = _script(made, "predict.py", str(tmp_path / "ready.npy"))
    assert raw_answer.returncode == 0, raw_answer.stderr
    assert "integers are raw data" in raw_answer.stdout
    assert raw_answer.stdout.splitlines()[1:] == ready_answer.stdout.splitlines()


# --- what the user may get wrong ------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS[:3], (*LABELS, "five"), ()])
def test_wrong_number_of_labels(spec: BundleSpec, tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"{len(labels)} labels") as caught:
        write_bundle(replace(spec, labels=labels), tmp_path / "x")
    assert "4 labels" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", ["", "  ", "two\nlines"])
def test_labels_are_single_lines(spec: BundleSpec, tmp_path: Path, label: str) -> None:
    with pytest.raises(UserError, match="empty or spans lines"):
        write_bundle(replace(spec, labels=(*LABELS[:3], label)), tmp_path / "x")


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((1, 10), 10),
        ((None, 1, 1, 1001), 1001),
        (("N", 1001, 1, 1), 1001),
        ((1, 21, 64, 64), None),
        ((1, "C"), None),
    ],
)
def test_class_count(shape: tuple[int | str | None, ...], classes: int | None) -> None:
    from optim.contract import TensorSpec

    assert class_count((TensorSpec("y", "float32", shape),)) == classes


def test_references_must_fit_the_model(spec: BundleSpec, tmp_path: Path) -> None:
    good = spec.references[0]
    for wrong in (
        (),
        (good, good),
        (replace(good, name="../escape"),),
        (replace(good, feeds={"picture": good.feeds["image"]}),),
        (replace(good, outputs={}),),
        (replace(good, outputs={"other": good.outputs["scores"]}),),
    ):
        with pytest.raises(UserError):
            write_bundle(replace(spec, references=wrong), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_not_overwritten(spec: BundleSpec, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "family.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="is not a bundle"):
        write_bundle(spec, tmp_path / "photos")
    assert (tmp_path / "photos" / "family.jpg").read_bytes() == b"x"


def test_an_earlier_bundle_is_replaced_whole(spec: BundleSpec, bundle: Path) -> None:
    before = len(list(bundle.parent.iterdir()))
    (bundle / "stray").write_text("from before")
    result = write_bundle(replace(spec, options={}), bundle)
    assert result.verdict.state is State.VERIFIED
    assert not (bundle / "stray").exists()
    assert not (bundle / "model.ort").exists()
    assert verify_bundle(bundle).state is State.VERIFIED
    assert len(list(bundle.parent.iterdir())) == before


def test_an_unsupported_model_leaves_nothing(spec: BundleSpec, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="node conv_7: cannot"):
        write_bundle(
            replace(spec, target=Fake(refusals=("node conv_7: cannot",)), options={}), tmp_path / "x"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_nonstandard_op_is_refused_by_name(classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(classifier)
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.microsoft", "QuickGelu"
    model.graph.node[1].name = "act_1"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "fused.onnx")
    (reason,) = OnnxRuntime().unsupported(tmp_path / "fused.onnx")
    assert "act_1" in reason
    assert "com.microsoft::QuickGelu" in reason


# --- failing disks --------------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from optim.errors import UserError
from targets.bundle import BundleSpec, write_bundle
from targets.onnxruntime import OnnxRuntime
from tests.targets.conftest import build_classifier, references_for
model = build_classifier(Path({folder!r}) / "m.onnx")
spec = BundleSpec("x", model, OnnxRuntime(), references_for(model))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_bundle(spec, Path({folder!r}) / "out" / "bundle")
except UserError as error:
    print("UserError", error)
"""


@pytest.mark.parametrize("limit", [100, 1200, 3000])
def test_no_room_for_a_file_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    """The kernel refuses to let any file grow past ``limit`` bytes: the model, a reference, the manifest."""
    root = str(Path(__file__).parents[2])
    code = FULL_DISK.format(root=root, folder=str(tmp_path), limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.startswith("UserError"), done.stdout + done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("stage", ["write_documents", "write_manifest", "_move_into_place"])
def test_a_full_disk_at_any_stage_keeps_the_old_bundle(
    spec: BundleSpec, bundle: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    before = {f: f.read_bytes() for f in bundle.rglob("*") if f.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, stage, full)
    with pytest.raises(UserError, match="No space left on device"):
        write_bundle(replace(spec, options={}), bundle)
    assert {f: f.read_bytes() for f in bundle.rglob("*") if f.is_file()} == before
    assert [f.name for f in bundle.parent.iterdir() if f.name.startswith(".")] == []
