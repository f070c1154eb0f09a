"""A conversion's child is handed to the next session of the same model, and to nobody else."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.sources import convert, open_source
from pipeline.sources.child import Child
from pipeline.sources.contract import ConvertRequest
from pipeline.sources.sessions import RemoteSession
from pipeline.sources.warm_child import WarmChild

REQUEST = ConvertRequest("a.keras", outputs=("y:0",))


def _children() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True)}


def test_who_asks_for_the_same_model_takes_it_once() -> None:
    with WarmChild() as warm, Child() as child:
        warm.keep(child, REQUEST)
        assert warm.take(replace(REQUEST, outputs=("z:0",))) is child
        assert warm.take(REQUEST) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, model="b.keras"),
        replace(REQUEST, freeze={"k": 0.5}),
        replace(REQUEST, inputs={"x": (1, 2)}),
        replace(REQUEST, time_limit_s=3.0),
        replace(REQUEST, allow_custom_code=True),
    ],
)
def test_another_conversion_gets_none(other: ConvertRequest) -> None:
    with WarmChild() as warm, Child() as child:
        warm.keep(child, REQUEST)
        assert warm.take(other) is None


def test_what_nobody_took_ends_with_it() -> None:
    before = _children()
    warm = WarmChild()
    with warm:
        warm.keep(Child(), REQUEST)
        assert len(_children() - before) == 1
        warm.keep(Child(), REQUEST)  # only the last is kept
        assert len(_children() - before) == 1
    assert _children() == before


def test_it_ends_when_the_run_is_interrupted() -> None:
    before = _children()
    with pytest.raises(KeyboardInterrupt), WarmChild() as warm:
        warm.keep(Child(), REQUEST)
        raise KeyboardInterrupt
    assert _children() == before


def test_a_child_that_died_in_the_meantime_is_not_given_away() -> None:
    before = _children()
    with WarmChild() as warm:
        child = Child()
        warm.keep(child, REQUEST)
        (pid,) = _children() - before
        os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
        assert warm.take(REQUEST) is None
    assert _children() == before


@pytest.mark.tensorflow
def test_the_session_after_a_conversion_reuses_its_process(repository: Path, tmp_path: Path) -> None:
    request = ConvertRequest(str(repository / "configs" / "zoo" / "digits.keras"))
    before = _children()
    with WarmChild() as warm:
        done = convert(request, tmp_path / "model.onnx", warm=warm)
        (kept,) = _children() - before
        named = replace(request, outputs=tuple(spec.name for spec in done.outputs))
        with open_source(named, warm=warm) as session:
            assert isinstance(session, RemoteSession)
            assert _children() - before == {kept}
            spec = session.inputs[0]
            x = np.zeros([dim if isinstance(dim, int) else 2 for dim in spec.shape], np.float32)
            assert session.run({spec.name: x})[done.outputs[0].name].shape == (2, 10)
        assert _children() == before
    with WarmChild() as empty, open_source(request, warm=empty) as session:  # a conversion from the store
        assert len(_children() - before) == 1
    assert _children() == before
