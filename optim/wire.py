"""Protobuf's wire format, as far as it takes to step over a message without parsing it.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

_FIXED_BYTES = {1: 8, 5: 4}  # wire type → length of the value
_MOST_VARINT_BITS = 64


class Buffer(Protocol):
    """Bytes, a memory map or a view."""

    def __getitem__(self, position: int, /) -> int: ...

    def __len__(self) -> int: ...


class Field(NamedTuple):
    """One field of a message; all positions count from the start of the buffer."""

    number: int
    kind: int  # wire type; 2: length-delimited
    start: int  # of the tag
    value: int  # of the content, behind its length
    end: int


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``buffer[start:end]``, in the order in which they lie there.

    Raises:
        ValueError: it is no message, or cut short.
    """
    position = start
    while position < end:
        tag, value = read_varint(buffer, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            length, value = read_varint(buffer, value, end)
            stop = value + length
        elif kind == 0:
            stop = read_varint(buffer, value, end)[1]
        elif kind in _FIXED_BYTES:
            stop = value + _FIXED_BYTES[kind]
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if stop > end or number == 0:
            raise ValueError(f"field {number} at byte {position} ends at {stop}, its message at {end}")
        yield Field(number, kind, position, value, stop)
        position = stop


def read_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """A base-128 number and the position behind it.

    Raises:
        ValueError: it goes beyond ``end`` or 64 bits.
    """
    number = shift = 0
    while position < end and shift < _MOST_VARINT_BITS:
        byte = buffer[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise ValueError(f"a number that does not end at byte {position}")


def varint(number: int) -> bytes:
    """Base-128 encoding, least significant group first."""
    out = bytearray()
    while number > 0x7F:
        out.append((number & 0x7F) | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(number: int, length: int) -> bytes:
    """What stands before the content of a length-delimited field."""
    return varint((number << 3) | 2) + varint(length)
