"""The child process of a measurement on a GPU.

``python -m pipeline.bench.cuda.worker READ_FD WRITE_FD PARENT_PID`` answers framed JSON requests until the
pipe closes. What libraries print goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from optim.errors import FairleadError
from pipeline.bench.cuda.bench import CudaBench
from pipeline.bench.cuda.contract import last_line
from pipeline.bench.cuda.device import find_device
from pipeline.bench.cuda.process import RAISED
from pipeline.bench.worker import PR_SET_PDEATHSIG


def serve(bench: CudaBench, requests: Connection, replies: Connection) -> None:
    """Answer until the parent closes the pipe."""
    try:
        while True:
            try:
                request = json.loads(requests.recv_bytes())
            except (EOFError, OSError):
                return
            try:
                answer = bench.answer(request)
            except Exception as error:  # out of memory, a failed capture: the parent decides what it means
                answer = failure(error)
            replies.send_bytes(json.dumps(answer).encode())
    finally:
        bench.close()


def failure(error: Exception) -> dict[str, Any]:
    """An error as the parent reads it."""
    if isinstance(error, FairleadError):
        fields = {name: str(getattr(error, name)) for name in ("what", "where", "expected")}
        return {RAISED: {"kind": type(error).__name__, **fields}}
    what = f"{type(error).__name__}: {last_line(error)}"
    return {RAISED: {"kind": "UserError", "what": what, "where": "", "expected": ""}}


def main() -> None:
    """Take the pipe's ends from the command line and serve."""
    read_fd, write_fd, parent = (int(a) for a in sys.argv[1:4])
    if sys.platform == "linux":  # the kernel ends this process when the parent's thread ends
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; closing the pipe ends us
    os.dup2(2, 1)
    device, why_not = find_device()
    serve(
        CudaBench(device, why_not), Connection(read_fd, writable=False), Connection(write_fd, readable=False)
    )


if __name__ == "__main__":
    main()
