"""Frameworks in a child process: private HOME, copied input, no network by proxy, no prints among results.

Exporters rewrite their input, write beside it and under HOME, and take the whole process with them when
they crash.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from optim import errors
from optim import model as onnx_file
from optim.contract import Array, Feeds, Outputs, TensorSpec
from optim.errors import FairleadError, MissingRuntimeError, UnsupportedModelError
from targets.child_messages import receive, send
from targets.contract import Artefact
from targets.validate_feeds import validate_feeds

_ROOT: Final = Path(__file__).resolve().parents[1]
RUNTIMES: Final = Path(__file__).parent / "templates" / "runtimes"
_NOWHERE: Final = "http://127.0.0.1:9"  # the discard port: a library that phones home is refused at once
_LOG_TAIL: Final = 1500
GPU_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_TF32_OVERRIDE")


class Child:
    """One worker process in a private folder, which goes with it.

    Args:
        gpu: let it see the GPUs that this process sees; else none, so that no framework takes one.
    """

    def __init__(self, *, gpu: bool = False) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="fairlead-child-"))
        self._log = (self._home / "log").open("w+b")
        to_child, write_end = os.pipe()
        read_end, from_child = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "targets.child_worker", str(to_child), str(from_child)],
                cwd=self._home,
                env=_environment(self._home, gpu=gpu),
                pass_fds=(to_child, from_child),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        finally:
            os.close(to_child)
            os.close(from_child)
        self._requests = os.fdopen(write_end, "wb")
        self._answers = os.fdopen(read_end, "rb")

    @property
    def folder(self) -> Path:
        """Private to the child; removed with it."""
        return self._home

    def ask(
        self, header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Send a request and wait for its answer.

        Raises:
            FairleadError: what the child raised; ``UnsupportedModelError`` for a framework's own error or a
            crash.
        """
        try:
            send(self._requests, header, arrays)
            answer, found = receive(self._answers)
        except (EOFError, BrokenPipeError) as error:
            code = self._process.wait()
            raise UnsupportedModelError(
                f"the child process died (exit code {code}): {self.log_tail()}", where=str(header["request"])
            ) from error
        if "error" in answer:
            kind = getattr(errors, answer["error"], UnsupportedModelError)
            raise _rebuilt(kind, answer["fields"])
        return answer, found

    def log_tail(self) -> str:
        """The end of what the child printed."""
        text = (self._home / "log").read_bytes()[-_LOG_TAIL:].decode(errors="replace")
        return " ".join(text.split()) or "it printed nothing"

    def kill(self) -> None:
        """End the process at once: TensorFlow takes a second to leave in order, with nothing to save."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process and remove its folder."""
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def export_in_child(exporter: str, model: Path, out: Path, options: Mapping[str, object]) -> dict[str, Any]:
    """Run ``module:function(model, out, options)`` on a copy of ``model``; its files are moved to ``out``.

    Returns:
        The facts that the function returned.

    Raises:
        MissingRuntimeError, UnsupportedModelError, UserError: as raised there.
    """
    loaded = onnx_file.load(model)  # a damaged file needs no child to be refused
    with Child() as child:
        made = child.folder / "out"
        made.mkdir()
        (child.folder / "in").mkdir()
        copy = child.folder / "in" / "model.onnx"
        onnx_file.save(loaded, copy)
        answer, _ = child.ask(
            {
                "request": "export",
                "exporter": exporter,
                "model": str(copy),
                "out": str(made),
                "options": dict(options),
            }
        )
        for file in made.iterdir():
            shutil.move(file, out / file.name)
    facts = answer["facts"]
    assert isinstance(facts, dict)
    return facts


class ChildSession:
    """An artefact opened by the very ``runtime.py`` that its bundle ships, in a child process.

    Args:
        target: name of ``templates/runtimes/<target>.py``.
        folder: where the artefact's files are.
        artefact: its options hold the ``signature`` that ``signature_facts`` wrote.
        gpu: the runtime runs on a GPU.

    Raises:
        MissingRuntimeError: the runtime is not installed.
        FairleadError: it does not load the artefact.
    """

    def __init__(self, target: str, folder: Path, artefact: Artefact, *, gpu: bool = False) -> None:
        self.inputs, self.outputs = _specs(artefact.options["signature"])
        self._child = Child(gpu=gpu)
        manifest = {"artefact": {"files": list(artefact.files), "options": dict(artefact.options)}}
        try:
            answer, _ = self._child.ask(
                {
                    "request": "load",
                    "runtime": str(RUNTIMES / f"{target}.py"),
                    "folder": str(folder.resolve()),
                    "manifest": manifest,
                    "model": artefact.files[0],
                }
            )
        except BaseException:
            self._child.close()
            raise
        self.version = str(answer["version"])

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs by name.

        Raises:
            UserError: the feeds do not fit the inputs.
        """
        validate_feeds(self.inputs, feeds)
        return self._child.ask({"request": "run"}, feeds)[1]

    def close(self) -> None:
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def signature_facts(model: Path) -> dict[str, Any]:
    """Inputs and outputs of ``model`` as an artefact's options keep them, in graph order."""
    sides = onnx_file.signature(onnx_file.load(model))
    return {
        side: [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in specs]
        for side, specs in zip(("inputs", "outputs"), sides, strict=True)
    }


def _specs(signature: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs, outputs = (
        tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in signature[side])
        for side in ("inputs", "outputs")
    )
    return inputs, outputs


def _environment(home: Path, *, gpu: bool = False) -> dict[str, str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if k in ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "CHROMIUM", "TRITON_URL")
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": "-1"}
    seen = {k: v for k, v in os.environ.items() if gpu and k in GPU_VARIABLES}
    return {
        **kept,
        **threads,
        **seen,
        **hidden,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "PYTHONUSERBASE": site.getuserbase(),  # packages installed for the user stay importable
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN reorders sums; parity wants the plain kernels
        "KERAS_BACKEND": "tensorflow",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),  # or glibc keeps large blocks that were freed
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NOWHERE),
    }


def _rebuilt(kind: type[FairleadError], fields: Mapping[str, str]) -> FairleadError:
    known = ("what", "where", "expected", "hint")
    error = kind(fields.get("what", "?"), **{k: fields[k] for k in known[1:] if fields.get(k)})
    if isinstance(error, MissingRuntimeError) and not error.hint:
        error.hint = "`fairlead targets` names the extra that brings it"
    return error
