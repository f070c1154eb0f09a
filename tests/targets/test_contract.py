"""What every target promises, whoever it is: one suite over the whole table and the null target."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet
from onnx import parser

from optim.errors import MissingRuntimeError, UnsupportedModelError, UserError
from targets.bundle import Bundle, BundleSpec, verify_bundle, write_bundle
from targets.catalog import all_targets
from targets.closeness import Gate, closeness
from targets.contract import Artefact, Session, State, Target
from targets.fake import Fake
from targets.manifest import read_manifest, unsafe_path
from targets.references import Reference, save_reference
from targets.replay import replay

LABELS = ("zero", "one", "two", "three")
EVERY_BUNDLE = {
    "LICENCES.md",
    "MODEL_CARD.md",
    "README.md",
    "labels.txt",
    "manifest.json",
    "manifest.json.sha256",
    "preprocess.json",
    "references/random_0.npz",
    "references/zeros.npz",
    "sbom.cdx.json",
}
SCRIPTS = {"predict.py", "runtime.py", "verify.py"}
FREE_HEIGHT_IS_FINE = {"onnxruntime", "openvino", "keras", "web", "triton"}


def _param(target: Target) -> ParameterSet:
    tensorflow = target.name in ("keras", "litert", "coreml")  # seconds to import in each child
    marks = (pytest.mark.tensorflow, pytest.mark.slow) if tensorflow else ()
    marks = (pytest.mark.slow,) if target.name == "web" else marks  # a browser is started
    return pytest.param(target, id=target.name, marks=marks)


EVERY_TARGET = [_param(t) for t in (*all_targets(), Fake())]
REAL_TARGETS = [_param(t) for t in all_targets()]


@dataclass(frozen=True)
class Made:
    """One bundle of the classifier, its artefact opened once: frameworks take seconds to start."""

    source: Path  # the folder that held the model
    source_bytes: bytes
    folder: Path
    bundle: Bundle
    session: Session | None  # None where there is no runtime

    @property
    def artefact(self) -> Artefact:
        return self.bundle.artefact


@pytest.fixture(scope="session")
def make(
    classifier: Path, references: tuple[Reference, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Target], Made]]:
    made: dict[str, Made] = {}

    def of(target: Target) -> Made:
        if target.name not in made:
            folder = tmp_path_factory.mktemp(target.name)
            (folder / "in").mkdir()
            copy = Path(shutil.copy(classifier, folder / "in"))
            references_here = _fakes(copy) if isinstance(target, Fake) else references
            spec = BundleSpec("digits", copy, target, references_here, labels=LABELS)
            try:
                bundle = write_bundle(spec, folder / "bundle")
            except MissingRuntimeError as error:
                pytest.skip(f"{target.name} cannot be built here: {error}")
            session = None
            if bundle.verdict.state is State.VERIFIED:
                session = target.open(folder / "bundle", bundle.artefact)
            made[target.name] = Made(
                folder / "in", classifier.read_bytes(), folder / "bundle", bundle, session
            )
        return made[target.name]

    yield of
    for one in made.values():
        if one.session is not None:
            one.session.close()


def _fakes(model: Path) -> tuple[Reference, ...]:
    """The null target answers by its own rule."""
    feeds = {"zeros": np.zeros((1, 1, 8, 8), np.float32), "random_0": np.ones((1, 1, 8, 8), np.float32)}
    out = model.parent.parent / "fake"
    out.mkdir()
    with Fake().open(out, Fake().build(model, out, {})) as session:
        return tuple(Reference(name, {"image": x}, session.run({"image": x})) for name, x in feeds.items())


def _session(target: Target, make: Callable[[Target], Made]) -> Session:
    session = make(target).session
    if session is None:
        pytest.skip(f"{target.name} is not executed here: {make(target).bundle.verdict.detail}")
    return session


@pytest.mark.parametrize("target", EVERY_TARGET)
class TestEveryTarget:
    def test_says_what_it_is(self, target: Target) -> None:
        assert target.name == target.name.lower().strip() != ""
        assert len(target.summary) > 10
        assert target.summary[-1] != "."

    def test_says_whether_it_runs_here_and_what_would_bring_it(self, target: Target) -> None:
        found = target.available()
        assert found.detail
        assert found.available or found.needs

    def test_has_no_objection_to_a_plain_network(self, target: Target, classifier: Path) -> None:
        assert target.unsupported(classifier) == ()

    def test_is_verified_exactly_where_it_was_loaded_again(
        self, target: Target, make: Callable[[Target], Made]
    ) -> None:
        verdict = make(target).bundle.verdict
        available = target.available().available
        assert verdict.state is (State.VERIFIED if available else State.PRODUCED), verdict
        manifest = read_manifest(make(target).folder)
        assert manifest.state is verdict.state
        assert (manifest.verification is not None) == available == (verdict.snr_db is not None)
        assert verdict.detail == manifest.detail != ""
        assert manifest.state.value in (make(target).folder / "README.md").read_text()

    def test_bundle_holds_what_every_bundle_holds_and_the_artefact(
        self, target: Target, make: Callable[[Target], Made]
    ) -> None:
        made = make(target)
        written = {f.relative_to(made.folder).as_posix() for f in made.folder.rglob("*") if f.is_file()}
        assert not EVERY_BUNDLE - written
        assert written - EVERY_BUNDLE - SCRIPTS == set(made.artefact.files)
        assert len(made.artefact.files) == len(set(made.artefact.files)) > 0
        assert not any(unsafe_path(name) for name in made.artefact.files)

    def test_bill_of_materials_lists_every_file_of_the_artefact(
        self, target: Target, make: Callable[[Target], Made]
    ) -> None:
        made = make(target)
        bill = json.loads((made.folder / "sbom.cdx.json").read_text())
        put_in = {name for part in made.artefact.redistributed for name in part.files}
        digests = {c["name"]: c["hashes"][0]["content"] for c in bill["components"] if c["type"] == "file"}
        manifest = read_manifest(made.folder)
        assert set(digests) == set(made.artefact.files) - put_in
        assert all(manifest.files[name].sha256 == digest for name, digest in digests.items())
        libraries = {c["name"] for c in bill["components"] if c["type"] == "library"}
        assert libraries == {*made.artefact.requires, *(part.name for part in made.artefact.redistributed)}

    def test_leaves_its_input_alone(self, target: Target, make: Callable[[Target], Made]) -> None:
        made = make(target)
        (model,) = made.source.iterdir()
        assert model.read_bytes() == made.source_bytes

    def test_a_tampered_artefact_is_found(
        self, target: Target, make: Callable[[Target], Made], tmp_path: Path
    ) -> None:
        made = make(target)
        for name in made.artefact.files:
            bundle = Path(shutil.copytree(made.folder, tmp_path / "bundle"))
            content = bytearray((bundle / name).read_bytes())
            content[len(content) // 2] ^= 1
            (bundle / name).write_bytes(bytes(content))
            verdict = verify_bundle(bundle)
            assert verdict.state is State.FAILED
            assert any(name in problem for problem in verdict.problems)
            shutil.rmtree(bundle)

    def test_refuses_unknown_options_with_the_nearest(
        self, target: Target, classifier: Path, tmp_path: Path
    ) -> None:
        if isinstance(target, Fake):
            pytest.skip("the null target takes any option")
        with pytest.raises(UserError, match="no option 'no_such_option'"):
            target.build(classifier, tmp_path, {"no_such_option": 1})
        assert list(tmp_path.iterdir()) == []

    def test_refuses_what_is_no_model(self, target: Target, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.onnx"
        damaged.write_bytes(b"\x08\x08this is not a model")
        out = tmp_path / "out"
        out.mkdir()
        with pytest.raises(UserError):
            target.build(damaged, out, {})
        assert list(out.iterdir()) == []

    @pytest.mark.parametrize("labels", [LABELS[:3], (*LABELS, "four")])
    def test_refuses_a_label_list_of_the_wrong_length(
        self,
        target: Target,
        classifier: Path,
        references: tuple[Reference, ...],
        tmp_path: Path,
        labels: tuple[str, ...],
    ) -> None:
        spec = BundleSpec("digits", classifier, target, references, labels=labels)
        with pytest.raises(UserError, match=f"{len(labels)} labels"):
            write_bundle(spec, tmp_path / "bundle")
        assert list(tmp_path.iterdir()) == []

    def test_session_knows_its_signature_and_refuses_wrong_feeds(
        self, target: Target, make: Callable[[Target], Made]
    ) -> None:
        session = _session(target, make)
        assert [(s.name, s.dtype, s.shape) for s in session.inputs] == [("image", "float32", (1, 1, 8, 8))]
        assert [(s.name, s.dtype, s.shape) for s in session.outputs] == [("scores", "float32", (1, 4))]
        good = np.zeros((1, 1, 8, 8), np.float32)
        for wrong in ({}, {"picture": good}, {"image": good[0]}, {"image": good, "more": good}):
            with pytest.raises(UserError):
                session.run(wrong)
        assert session.run({"image": good})["scores"].shape == (1, 4)


# Our packages must not be importable while a bundle's script runs: it has to do without them.
ALONE = """
import importlib.abc, runpy, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("optim", "targets", "pipeline"):
            raise ModuleNotFoundError(f"a bundle's script imports {name}")
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _alone(script: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(script)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )


ODD = """
<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
net (float[1,1,8,8] image) => (float[1,1,8,8] y) {
  r = Relu(image)
  [odd_7] y = com.example.Frobnicate(r)
}
"""
FREE_HEIGHT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,1,H,8] image) => (float[1,1,H,8] y) { y = Relu(image) }
"""
NO_ROOM = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from optim.errors import MissingRuntimeError, UserError
from targets.bundle import BundleSpec, write_bundle
from targets.catalog import target_named
from tests.targets.conftest import build_classifier, references_for
folder = Path({folder!r})
model = build_classifier(folder / "m.onnx")
spec = BundleSpec("x", model, target_named({target!r}), references_for(model))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_bundle(spec, folder / "out" / "bundle")
except (UserError, MissingRuntimeError) as error:
    print(type(error).__name__, error)
"""

# What each cannot do without, under the name by which it is imported; and what two look for on PATH.
NEEDED = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "keras": "keras",
    "litert": "ai_edge_litert",
    "coreml": "coremltools",
    "caffe": "cv2",
    "wolfram": "wolframclient",
}
PROGRAMS = {"web": "chromium", "c": "compiler"}
WITHOUT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from optim.errors import MissingRuntimeError
from targets.bundle import BundleSpec, write_bundle
from targets.catalog import target_named
from targets.references import load_reference
folder = Path({folder!r})
references = tuple(load_reference(f) for f in sorted((folder / "references").iterdir()))
spec = BundleSpec("x", folder / "m.onnx", target_named({target!r}), references)
try:
    verdict = write_bundle(spec, folder / "out" / "bundle").verdict
    print(verdict.state.value, "|", verdict.detail, verdict.problems)
except MissingRuntimeError as error:
    print("MissingRuntimeError", "|", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", [param for param in REAL_TARGETS if param.id in {*NEEDED, *PROGRAMS}])
def test_without_its_library_it_says_so_and_leaves_nothing_half_done(
    target: Target, classifier: Path, references: tuple[Reference, ...], tmp_path: Path
) -> None:
    """A package of the library's name that cannot be imported stands in the way of the real one."""
    name = NEEDED.get(target.name, "nothing")
    absent = tmp_path / "absent" / name
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
    )
    shutil.copy(classifier, tmp_path / "m.onnx")
    (tmp_path / "references").mkdir()
    for reference in references:
        save_reference(reference, tmp_path / "references" / f"{reference.name}.npz")
    root = str(Path(__file__).parents[2])
    code = WITHOUT.format(root=root, folder=str(tmp_path), target=target.name)
    environment = {**os.environ, "PYTHONPATH": str(absent.parent)}
    if target.name in PROGRAMS:
        environment |= {"PATH": str(absent), "CHROMIUM": "", "CC": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    said, _, detail = done.stdout.partition(" | ")
    assert said in ("MissingRuntimeError", State.PRODUCED.value), done.stdout + done.stderr
    wanted = PROGRAMS.get(target.name, name)
    assert wanted.replace("_", "") in re.sub(r"[^a-z0-9]", "", detail.lower())
    made = sorted((tmp_path / "out").iterdir())
    if said == "MissingRuntimeError":
        assert made == []
    else:
        assert [folder.name for folder in made] == ["bundle"]
        assert read_manifest(made[0]).state is State.PRODUCED


@pytest.mark.parametrize("target", REAL_TARGETS)
class TestRealTarget:
    def test_answers_as_the_reference_evaluator(
        self, target: Target, references: tuple[Reference, ...], make: Callable[[Target], Made]
    ) -> None:
        session = _session(target, make)
        for reference in references:
            got = session.run(reference.feeds)
            assert set(got) == {"scores"}
            assert Gate().passes(closeness(got["scores"], reference.outputs["scores"]))

    def test_memory_does_not_leak_between_runs(
        self, target: Target, references: tuple[Reference, ...], make: Callable[[Target], Made]
    ) -> None:
        session = _session(target, make)
        zeros, random = references
        first = session.run(random.feeds)["scores"].copy()
        session.run(zeros.feeds)
        assert np.array_equal(session.run(random.feeds)["scores"], first)

    def test_options_can_be_written_as_json(self, target: Target, make: Callable[[Target], Made]) -> None:
        options = make(target).artefact.options
        assert json.loads(json.dumps(options, allow_nan=False)) == options

    def test_verifies_in_its_own_world(
        self, target: Target, make: Callable[[Target], Made], tmp_path: Path
    ) -> None:
        made = make(target)
        if not (made.folder / "verify.py").exists():
            assert [f for f in made.artefact.files if Path(f).stem == "verify"], "nothing verifies it there"
            return
        done = _alone(made.folder / "verify.py", tmp_path)
        executed = made.bundle.verdict.state is State.VERIFIED
        assert done.returncode == (0 if executed else 4), done.stdout + done.stderr
        assert ("VERIFIED" in done.stdout) == executed
        assert "every file is intact" in done.stdout
        # It leaves nothing behind.
        assert verify_bundle(made.folder, target=Fake(runtime=False)).state is State.PRODUCED

    def test_its_own_script_finds_a_tampered_artefact(
        self, target: Target, make: Callable[[Target], Made], tmp_path: Path
    ) -> None:
        made = make(target)
        if not (made.folder / "verify.py").exists():
            pytest.skip(f"{target.name} has no Python there")
        bundle = Path(shutil.copytree(made.folder, tmp_path / "bundle"))
        name = made.artefact.files[0]
        content = bytearray((bundle / name).read_bytes())
        content[-1] ^= 1
        (bundle / name).write_bytes(bytes(content))
        done = _alone(bundle / "verify.py", tmp_path)
        assert done.returncode == 1
        assert name in done.stdout

    def test_a_wrong_answer_is_found_by_running_it(
        self, target: Target, make: Callable[[Target], Made], tmp_path: Path
    ) -> None:
        made = make(target)
        _session(target, make)  # or a skip
        bundle = Path(shutil.copytree(made.folder, tmp_path / "bundle"))
        for file in sorted((bundle / "references").iterdir()):
            with np.load(file) as stored:
                x, y = stored["in|image"], stored["out|scores"]
            moved = y + np.float32(1e-3) * np.arange(4, dtype=np.float32)
            save_reference(Reference(file.stem, {"image": x}, {"scores": moved}), file)
        verdict = replay(bundle, read_manifest(bundle), target, Gate())
        assert verdict.state is State.FAILED
        assert len(verdict.problems) >= 2
        assert all("max|Δ|/range" in problem for problem in verdict.problems)

    def test_an_op_it_lacks_is_named_with_its_node(
        self, target: Target, references: tuple[Reference, ...], tmp_path: Path
    ) -> None:
        file = tmp_path / "odd.onnx"
        onnx.save(parser.parse_model(ODD), file)
        reasons = target.unsupported(file)
        assert any("odd_7" in reason and "Frobnicate" in reason for reason in reasons), reasons
        feeds = {"image": np.zeros((1, 1, 8, 8), np.float32)}
        reference = Reference("zeros", feeds, {"y": feeds["image"]})
        with pytest.raises(UnsupportedModelError) as caught:
            write_bundle(BundleSpec("odd", file, target, (reference,)), tmp_path / "bundle")
        assert caught.value.hint
        assert caught.value.exit_code == 3
        with pytest.raises(UnsupportedModelError):
            target.build(file, tmp_path, {})
        assert list(tmp_path.iterdir()) == [file]

    def test_free_sizes_are_carried_or_refused_by_name(self, target: Target, tmp_path: Path) -> None:
        file = tmp_path / "free.onnx"
        onnx.save(parser.parse_model(FREE_HEIGHT), file)
        reasons = target.unsupported(file)
        assert bool(reasons) == (target.name not in FREE_HEIGHT_IS_FINE), reasons
        assert all("image" in reason or "node" in reason for reason in reasons)

    @pytest.mark.slow
    @pytest.mark.parametrize("limit", [64, 700])
    def test_no_room_leaves_nothing_behind(self, target: Target, tmp_path: Path, limit: int) -> None:
        """The kernel lets no file grow past ``limit`` bytes, in the exporter's child too."""
        root = str(Path(__file__).parents[2])
        code = NO_ROOM.format(root=root, folder=str(tmp_path), target=target.name, limit=limit)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.stdout.startswith(("UserError", "MissingRuntimeError")), done.stdout + done.stderr
        assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_runtime_is_said_not_guessed(classifier: Path, tmp_path: Path) -> None:
    absent = Fake(runtime=False)
    assert not absent.available().available
    with pytest.raises(MissingRuntimeError):
        absent.open(tmp_path, absent.build(classifier, tmp_path, {}))


def test_nothing_compared_is_no_proof(make: Callable[[Target], Made]) -> None:
    made = make(Fake())
    manifest = read_manifest(made.folder).model_copy(update={"references": ()})
    assert replay(made.folder, manifest, Fake(), Gate()).state is State.FAILED


def test_an_optional_runtime_may_lack_and_is_said_so(make: Callable[[Target], Made]) -> None:
    """Like WebGPU in a browser without an adapter: the rest is verified, and what was not run is named."""
    made = make(Fake())
    name = made.artefact.files[0]

    class Half(Fake):
        def open(self, folder: Path, artefact: Artefact) -> Session:
            if artefact.files[0].endswith("#absent"):
                raise MissingRuntimeError("no such device")
            return Fake().open(folder, replace(artefact, files=(artefact.files[0].partition("#")[0],)))

    stored = read_manifest(made.folder)
    for optional, state in (([f"{name}#absent"], State.VERIFIED), ([], State.PRODUCED)):
        options = {"runnable": [f"{name}#here", f"{name}#absent"], "optional": optional}
        entry = stored.artefact.model_copy(update={"options": options})
        verdict = replay(made.folder, stored.model_copy(update={"artefact": entry}), Half(), Gate())
        assert verdict.state is state
        assert "no such device" in verdict.detail
