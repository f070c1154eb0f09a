"""The processes that measure on a GPU, as processes: what is said, what is set, and how they end."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from optim.errors import GateNotMetError, MissingRuntimeError, UserError
from pipeline.bench.cuda.libraries import why_no_gpu
from pipeline.bench.cuda.process import CudaProcess, Kind, StationLostError, Stations, kind_of
from pipeline.bench.records import CudaSettings
from targets.cuda_provider import TF32_OVERRIDE

# A worker of the real protocol whose device does what it is asked to.
WORKER = """
    import os, signal, sys, time
    from multiprocessing.connection import Connection
    from optim.errors import GateNotMetError
    from pipeline.bench.cuda.worker import serve

    class Bench:
        def answer(self, request):
            match request["do"]:
                case "environment":
                    return {"value": os.environ.get(request["name"])}
                case "refuse":
                    raise GateNotMetError("too slow", where="net", expected="quick")
                case "fail":
                    raise RuntimeError("Error in execution\\n  CUDA failure 2: out of memory\\n")
                case "die":
                    print("last words", file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                case "sleep":
                    time.sleep(60)
            return {"heard": request["do"]}

        def close(self):
            pass

    reads, writes = (int(a) for a in sys.argv[1:3])
    serve(Bench(), Connection(reads, writable=False), Connection(writes, readable=False))
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    program = tmp_path / "worker.py"
    program.write_text(textwrap.dedent(WORKER))
    return (sys.executable, str(program))


def test_it_answers_and_raises_what_was_raised_there(command: tuple[str, ...]) -> None:
    process = CudaProcess("TF32 on", command)
    assert process.ask({"do": "anything"}) == {"heard": "anything"}
    with pytest.raises(GateNotMetError, match="too slow") as caught:
        process.ask({"do": "refuse"})
    assert (caught.value.where, caught.value.expected) == ("net", "quick")
    with pytest.raises(UserError, match="RuntimeError: CUDA failure 2: out of memory"):
        process.ask({"do": "fail"})
    assert process.alive
    process.close()
    assert not process.alive
    with pytest.raises(StationLostError):
        process.ask({"do": "anything"})


@pytest.mark.parametrize(("kind", "value"), [("TF32 off", "0"), ("TF32 on", None), ("torch.compile", None)])
def test_tf32_is_off_in_a_process_or_it_is_not(
    command: tuple[str, ...], kind: Kind, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TF32_OVERRIDE, "0")  # whatever this process was started with
    process = CudaProcess(kind, command)
    try:
        assert process.ask({"do": "environment", "name": TF32_OVERRIDE}) == {"value": value}
    finally:
        process.close()


def test_one_that_dies_is_lost_with_its_last_words_and_another_takes_its_place(
    command: tuple[str, ...],
) -> None:
    with Stations(lambda kind: CudaProcess(kind, command)) as stations:
        first = stations.get("TF32 on")
        assert stations.get("TF32 on") is first
        assert set(stations.pids()) == {os.getpid(), first.pid}
        with pytest.raises(StationLostError, match=r"exit status -9\): last words"):
            first.ask({"do": "die"})
        assert not stations.is_live("TF32 on")
        second = stations.get("TF32 on")
        assert second is not first
        assert second.ask({"do": "hello"}) == {"heard": "hello"}


def test_one_that_does_not_answer_is_ended(command: tuple[str, ...]) -> None:
    process = CudaProcess("TF32 on", command)
    process.ask({"do": "hello"})
    begin = time.monotonic()
    with pytest.raises(StationLostError, match="no answer to 'sleep' in 0 s"):
        process.ask({"do": "sleep"}, 0.2)
    assert not process.alive
    assert time.monotonic() - begin < 30  # it did not wait for the sleeper
    process.close()


def test_a_command_that_cannot_start_is_lost_too(tmp_path: Path) -> None:
    process = CudaProcess("TF32 on", (sys.executable, str(tmp_path / "no such file")))
    with pytest.raises(StationLostError, match="can't open file"):
        process.ask({"do": "hello"})
    process.close()


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (CudaSettings(), "TF32 off"),
        (CudaSettings(tf32=True), "TF32 on"),
        (CudaSettings(precision="fp16"), "TF32 on"),
        (CudaSettings(stock=True, bound=False), "TF32 on"),
        (CudaSettings(runtime="torch.compile"), "torch.compile"),
        (CudaSettings(runtime="tensorrt"), "TensorRT"),
    ],
)
def test_cells_run_in_the_kind_of_process_that_they_need(cell: CudaSettings, kind: Kind) -> None:
    assert kind_of(cell) == kind


@pytest.mark.skipif(why_no_gpu() == "", reason="this machine may have a GPU")
def test_the_real_worker_says_why_it_can_do_nothing() -> None:
    process = CudaProcess("TF32 on")
    try:
        assert "no NVIDIA GPU" in process.ask({"do": "hello"})["why_not"]
        with pytest.raises(MissingRuntimeError, match="no NVIDIA GPU"):
            process.ask({"do": "memory"})
    finally:
        process.close()
