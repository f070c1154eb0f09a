"""The child's side of ``child.py``: read a call, run it, send back progress, result or error; repeat.

``python -m pipeline.sources.child_entry FD``, where FD is one end of a socket pair.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from optim.errors import FairleadError


def peak_rss_mib() -> float:
    """Largest resident set of this process so far, in MiB.

    ``VmHWM`` belongs to this program alone; ``ru_maxrss`` may be inherited across fork and stands in where
    there is no ``/proc``.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    divisor = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / divisor


def main() -> None:
    """Answer calls until the parent closes the channel."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    channel = Connection(int(sys.argv[1]))
    while True:
        try:
            target, arguments = channel.recv()
        except EOFError:
            return
        _answer(channel, target, arguments)


def _answer(channel: Connection, target: str, arguments: tuple[object, ...]) -> None:
    def progress(text: str, fraction: float) -> None:
        channel.send(("progress", text, fraction))

    try:
        module, _, name = target.partition(":")
        value = getattr(import_module(module), name)(*arguments, progress)
        channel.send(("result", value, peak_rss_mib()))
    except FairleadError as error:
        traceback.print_exc()
        channel.send(("error", error))
    except MemoryError:
        os._exit(137)
    except Exception as error:
        text = traceback.format_exc()
        sys.stderr.write(text)
        channel.send(("crash", f"{type(error).__name__}: {error}"[:2000], text))


def _die_with_parent() -> None:
    # The parent holds the other end of our standard input and never writes to it.
    # os.read: a Python-level read would hold the buffer's lock when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
