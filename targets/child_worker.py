"""The child's side: ``python -m targets.child_worker READ_FD WRITE_FD``.

Two requests are known. ``export`` calls a function of ours, ``module:function(model, out, options)``, which
writes files and returns plain facts. ``load`` runs a bundle's own ``runtime.py``, so that what is verified
is what is shipped; ``run`` then answers feeds until the pipe closes.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

from optim.errors import FairleadError
from targets.child_messages import receive, send


def main(read_fd: int, write_fd: int) -> None:
    """Serve until the pipe closes."""
    with os.fdopen(read_fd, "rb") as requests, os.fdopen(write_fd, "wb") as answers:
        while True:
            try:
                header, arrays = receive(requests)
            except EOFError:
                return
            _answer(header, arrays, answers)


_loaded: dict[str, Any] = {}


def _answer(header: dict[str, Any], arrays: dict[str, Any], answers: BinaryIO) -> None:
    try:
        if header["request"] == "export":
            module, _, function = header["exporter"].partition(":")
            export = getattr(importlib.import_module(module), function)
            send(answers, {"facts": export(Path(header["model"]), Path(header["out"]), header["options"])})
        elif header["request"] == "load":
            runtime = _module(Path(header["runtime"]))
            _loaded["run"] = runtime.load(Path(header["folder"]), header["manifest"], header["model"])
            send(answers, {"version": runtime.VERSION})
        else:
            send(answers, {}, _loaded["run"](arrays))
    except ImportError as error:
        send(answers, {"error": "MissingRuntimeError", "fields": {"what": str(error)}})
    except FairleadError as error:
        fields = {k: v for k, v in vars(error).items() if isinstance(v, str)}
        send(answers, {"error": type(error).__name__, "fields": fields})
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        fields = {"what": f"cannot write the artefact: {error.strerror}"} if full else {"what": str(error)}
        send(answers, {"error": "UserError" if full else "", "fields": fields})
    except Exception as error:  # whatever the framework raises is the answer
        send(answers, {"error": "", "fields": {"what": f"{type(error).__name__}: {error}"}})


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location("bundle_runtime", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
