"""Stepping over protobuf messages, against protobuf's own parser."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optim.wire import delimited, fields, read_varint, varint


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=3))
def test_varints_come_back(number: int, behind: bytes) -> None:
    coded = varint(number)
    assert read_varint(coded + behind, 0, len(coded) + len(behind)) == (number, len(coded))


@given(
    st.text(max_size=300),
    st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=5),
    st.binary(max_size=300),
)
def test_fields_are_those_that_protobuf_reads(
    name: str, floats: list[float], dims: list[int], raw: bytes
) -> None:
    proto = onnx.TensorProto(name=name, float_data=floats, dims=dims, raw_data=raw)
    content = proto.SerializeToString(deterministic=True)
    found = list(fields(content, 0, len(content)))
    assert {f.number for f in found} == {descriptor.number for descriptor, _ in proto.ListFields()}
    assert [f.start for f in found] == [0, *(f.end for f in found[:-1])][: len(found)]
    again = b"".join(
        delimited(f.number, f.end - f.value) + content[f.value : f.end]
        if f.kind == 2
        else content[f.start : f.end]
        for f in found
    )
    assert again == content
    assert [content[f.value : f.end] for f in found if f.number == 8] == [name.encode()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"\x0a\x05abc", "ends at 7", id="cut short"),
        pytest.param(b"\x0b", "wire type 3", id="a group"),
        pytest.param(b"\x0a" + b"\xff" * 12, "does not end", id="a length without end"),
        pytest.param(b"\x02\x00", "field 0", id="no field number"),
        pytest.param(b"\x0d\x00", "ends at 5", id="a cut fixed number"),
    ],
)
def test_what_is_no_message_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(fields(content, 0, len(content)))
