"""What every target promises, whoever it is: one suite over the whole table and the null target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from optim.errors import MissingRuntimeError, UserError
from targets.catalog import all_targets
from targets.closeness import Gate, closeness
from targets.contract import Artefact, Session, Target
from targets.fake import Fake
from targets.manifest import unsafe_path
from targets.references import Reference


def _param(target: Target) -> ParameterSet:
    slow = target.name in ("keras", "litert")  # TensorFlow takes seconds to import in each child
    marks = (pytest.mark.tensorflow, pytest.mark.slow) if slow else ()
    return pytest.param(target, id=target.name, marks=marks)


EVERY_TARGET = [_param(t) for t in (*all_targets(), Fake())]
REAL_TARGETS = [_param(t) for t in all_targets()]


@dataclass(frozen=True)
class Built:
    """One build of the classifier, opened once: frameworks take seconds to start."""

    source: Path  # the folder that held the model
    source_bytes: bytes
    out: Path
    artefact: Artefact
    session: Session


@pytest.fixture(scope="session")
def build(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Target], Built]]:
    made: dict[str, Built] = {}

    def of(target: Target) -> Built:
        found = target.available()
        if not found.available:
            pytest.skip(f"{target.name}: {found.detail}; needs {found.needs}")
        if target.name not in made:
            folder = tmp_path_factory.mktemp(target.name)
            (folder / "in").mkdir()
            (folder / "out").mkdir()
            copy = Path(shutil.copy(classifier, folder / "in"))
            artefact = target.build(copy, folder / "out", {})
            session = target.open(folder / "out", artefact)
            made[target.name] = Built(
                folder / "in", classifier.read_bytes(), folder / "out", artefact, session
            )
        return made[target.name]

    yield of
    for one in made.values():
        one.session.close()


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

    def test_writes_what_it_promises_and_nothing_else(
        self, target: Target, build: Callable[[Target], Built]
    ) -> None:
        built = build(target)
        written = {f.relative_to(built.out).as_posix() for f in built.out.rglob("*") if f.is_file()}
        assert written == set(built.artefact.files)
        assert len(built.artefact.files) == len(written) > 0
        assert not any(unsafe_path(name) for name in built.artefact.files)

    def test_leaves_its_input_alone(self, target: Target, build: Callable[[Target], Built]) -> None:
        built = build(target)
        (model,) = built.source.iterdir()
        assert model.read_bytes() == built.source_bytes

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

    def test_session_knows_its_signature_and_refuses_wrong_feeds(
        self, target: Target, build: Callable[[Target], Built]
    ) -> None:
        session = build(target).session
        assert [(s.name, s.dtype, s.shape) for s in session.inputs] == [("image", "float32", (1, 1, 8, 8))]
        assert [(s.name, s.dtype, s.shape) for s in session.outputs] == [("scores", "float32", (1, 4))]
        good = np.zeros((1, 1, 8, 8), np.float32)
        for wrong in ({}, {"picture": good}, {"image": good[0]}, {"image": good, "more": good}):
            with pytest.raises(UserError):
                session.run(wrong)
        assert session.run({"image": good})["scores"].shape == (1, 4)


@pytest.mark.parametrize("target", REAL_TARGETS)
class TestRealTarget:
    def test_answers_as_the_reference_evaluator(
        self, target: Target, references: tuple[Reference, ...], build: Callable[[Target], Built]
    ) -> None:
        session = build(target).session
        for reference in references:
            got = session.run(reference.feeds)
            assert set(got) == {"scores"}
            assert Gate().passes(closeness(got["scores"], reference.outputs["scores"]))

    def test_memory_does_not_leak_between_runs(
        self, target: Target, references: tuple[Reference, ...], build: Callable[[Target], Built]
    ) -> None:
        session = build(target).session
        zeros, random = references
        first = session.run(random.feeds)["scores"].copy()
        session.run(zeros.feeds)
        assert np.array_equal(session.run(random.feeds)["scores"], first)

    def test_options_can_be_written_as_json(self, target: Target, build: Callable[[Target], Built]) -> None:
        options = build(target).artefact.options
        assert json.loads(json.dumps(options, allow_nan=False)) == options


def test_a_missing_runtime_is_said_not_guessed(classifier: Path, tmp_path: Path) -> None:
    absent = Fake(runtime=False)
    assert not absent.available().available
    with pytest.raises(MissingRuntimeError):
        absent.open(tmp_path, absent.build(classifier, tmp_path, {}))
