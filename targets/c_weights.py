"""Large weights of a C source: kept from the generator's eyes, read from ``model.bin`` by a loader of ours.

The generator holds every constant as Python numbers, some forty bytes for four. So it is given the graph with
its large weights as further inputs, writes ``network(inputs, weights, outputs)``, and what is appended here
holds the weights, reads them, and calls it: ``model(inputs, outputs)``. Memory stays at one tensor's size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from optim.errors import InternalError
from optim.stored_weights import raw_data

NETWORK: Final = "network"
C_TYPES: Final = {
    "float32": "float",
    "float64": "double",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
INLINE_BYTES: Final = 100 * 1024  # of all weights together: up to here they stand in the source as numbers
LARGE_ELEMENTS: Final = 1024  # of one weight: above shapes, axes and scales, which the generator must see
_IDLE_LOADER: Final = re.compile(rf"_Bool {NETWORK}_load\(const char \*path\) \{{.*?\n\}}\n+", re.DOTALL)


@dataclass(frozen=True)
class Weight:
    """One weight kept apart: ``name`` is its C identifier, also the generator's input."""

    name: str
    tensor: ir.TensorProtocol

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(int(d) for d in self.tensor.shape)  # type: ignore[arg-type, unused-ignore]

    @property
    def c_type(self) -> str:
        return C_TYPES[self.tensor.dtype.numpy().name]


def detach(model: ir.Model) -> tuple[Weight, ...]:
    """Turn the large weights of ``model`` into inputs behind its own, in place; none for a small model."""
    graph = model.graph
    held = {name: value for name, value in graph.initializers.items() if value.const_value is not None}
    if sum(value.const_value.nbytes for value in held.values() if value.const_value) <= INLINE_BYTES:
        return ()
    outputs = set(graph.outputs)
    taken = {value.name for node in graph.all_nodes() for value in (*node.inputs, *node.outputs) if value}
    weights: list[Weight] = []
    for name, value in held.items():
        tensor = value.const_value
        if tensor is None or tensor.size <= LARGE_ELEMENTS or value in outputs:
            continue
        if not value.uses() or tensor.dtype.numpy().name not in C_TYPES:
            continue
        word = f"weight_{len(weights)}"
        while word in taken:
            word += "_"
        del graph.initializers[name]
        value.const_value = None
        weights.append(Weight(word, tensor))
        value.name, value.shape, value.dtype = word, ir.Shape(weights[-1].dims), tensor.dtype
        if value in graph.inputs:
            graph.inputs.remove(value)
        graph.inputs.append(value)
    return tuple(weights)


def write_weights(weights: Sequence[Weight], file: Path) -> None:
    """All weights in order, each row-major and little-endian, nothing between them."""
    with file.open("wb") as stream:
        for weight in weights:
            stream.write(raw_data(weight.tensor))  # under no name, which would hold it beside the next


def attached(source: str, arguments: str, inputs: int, weights: Sequence[Weight]) -> str:
    """``source``, which defines ``network(arguments)``, then the weights, ``model_load`` and ``model``.

    Args:
        source: what the generator wrote; its ``network`` becomes private to the file.
        arguments: of ``network``: ``inputs`` of the model's, the weights, the outputs.
        inputs: how many inputs the model has.
        weights: what ``detach`` returned.

    Raises:
        InternalError: ``network`` does not take what it must.
    """
    listed = [argument.strip() for argument in arguments.split(",")]
    names = [argument.partition("[")[0].split()[-1] for argument in listed]
    end = inputs + len(weights)
    if names[inputs:end] != [weight.name for weight in weights] or len(names) <= end:
        raise InternalError(
            "the generated function does not take the weights", where=f"{NETWORK}({arguments})"
        )
    own = ", ".join((*listed[:inputs], *listed[end:]))
    held = "".join(f"static {w.c_type} held_{w.name}{_brackets(w.dims)};\n" for w in weights)
    read = "\n        && ".join(f"fread(held_{w.name}, sizeof held_{w.name}, 1, file) == 1" for w in weights)
    passed = ", ".join((*names[:inputs], *map(_as_constant, weights), *names[end:]))
    network = _IDLE_LOADER.sub("", source).replace(f"void {NETWORK}(", f"static void {NETWORK}(")
    return f"""#include <stdio.h>

{network}
/* The weights, as they stand in model.bin one after the other. */
{held}
_Bool model_load(const char *path) {{
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    _Bool whole = {read}
        && fgetc(file) == EOF;
    fclose(file);
    return whole;
}}

void model({own}) {{
    {NETWORK}({passed});
}}
"""


def _brackets(dims: Sequence[int]) -> str:
    return "".join(f"[{d}]" for d in dims)


def _as_constant(weight: Weight) -> str:
    """The argument: C before C23 does not add ``const`` to an array of arrays by itself."""
    rows = f"(*){_brackets(weight.dims[1:])}" if len(weight.dims) > 1 else "*"
    return f"(const {weight.c_type} {rows})held_{weight.name}"
