"""Messages between fairlead and a child process: a JSON header, then arrays as ``.npy``. No pickles."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import numpy as np

from optim.contract import Array

_LENGTH: Final = struct.Struct("<Q")
_LIMIT: Final = 1 << 40


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    """Write one message and flush."""
    names = list(arrays or {})
    body = io.BytesIO()
    for name in names:
        np.lib.format.write_array(body, np.asarray((arrays or {})[name]), allow_pickle=False)
    head = json.dumps({**header, "arrays": names}).encode()
    for part in (head, body.getvalue()):
        stream.write(_LENGTH.pack(len(part)))
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one message.

    Raises:
        EOFError: the other side has gone.
    """
    header = json.loads(_part(stream))
    body = io.BytesIO(_part(stream))
    return header, {n: np.lib.format.read_array(body, allow_pickle=False) for n in header["arrays"]}


def _part(stream: BinaryIO) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > _LIMIT:
        raise EOFError(f"a message of {length} bytes is no message")
    return _exactly(stream, length)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    pieces: list[bytes] = []
    while count:
        piece = stream.read(count)
        if not piece:
            raise EOFError("the other side has gone")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
