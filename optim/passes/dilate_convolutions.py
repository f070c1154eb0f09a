"""SpaceToBatch → Conv → BatchToSpace, spelled with Reshape and Transpose → one dilated Conv.

TensorFlow computes dilated convolutions so: with block b, the pixels of every b-th row and column make b · b
smaller images, each convolved without dilation, which go back to their places. In ONNX, [N, C, H, W] →
Reshape [N, C, H/b, b, W/b, b] → Transpose → Reshape [b·b·N, C, H/b, W/b], and back; a Pad before and a crop
after stay where they are, for ``fold_pads`` and the next rewrites.
Allowed: both sides are the same arrangement; stride 1 and no padding in the Conv; inner values are read by
the pattern alone; the shapes are known. Numbers: reassociates.
https://www.tensorflow.org/api_docs/python/tf/nn/with_space_to_batch
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import (
    dims,
    input_of,
    ints_attribute,
    ints_of,
    is_op,
    producer,
    site_of,
    sole_consumer,
    string_attribute,
)
from optim.rewrite import Rewrite, kept

_SPACE_TO_BATCH = (3, 5, 0, 1, 2, 4)  # [N, C, h, b, w, c] → [b, c, N, C, h, w]
_BATCH_TO_SPACE = (2, 3, 4, 0, 5, 1)


@dataclass(frozen=True)
class DilateConvolutions:
    """Convolutions over interleaved images become dilated convolutions."""

    @property
    def info(self) -> PassInfo:
        summary = "SpaceToBatch, Conv, BatchToSpace → Conv with dilations"
        return PassInfo("dilate_convolutions", Numerics.REASSOCIATES, summary)

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for node in tuple(model.graph):
            if node.graph is not None and is_op(node, "Conv"):
                _dilate(rw, node)
        return rw.outcome()


def _dilate(rw: Rewrite, conv: ir.Node) -> None:
    before, after = _to_batch(conv), _to_space(conv)
    if before is None or after is None:
        return
    site = site_of(after[-1])
    if not rw.allows(site):
        return
    reason = _why_not(conv, before, after)
    if reason:
        rw.refuse(site, reason)
        return
    inner = dims(before[0].outputs[0]) or ()
    block = [d for d in (inner[3], inner[5]) if isinstance(d, int)]
    own = ints_attribute(conv, "dilations") or (1, 1)
    attributes = {**kept(conv), "dilations": [b * d for b, d in zip(block, own, strict=True)]}
    attributes.pop("auto_pad", None)
    target, nodes = after[-1].outputs[0], [*before, conv, *after]
    inputs = [before[0].inputs[0], *conv.inputs[1:]]
    value = rw.node("Conv", inputs, attributes, before=after[-1], sources=nodes, name=conv.name, like=target)
    rw.replace(target, value)
    for node in reversed(nodes):
        rw.drop(node)
    rw.done(value.name or "")


def _to_batch(conv: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """Reshape, Transpose, Reshape that bring the input of ``conv`` there and are read by it alone."""
    last = producer(conv.inputs[0], "Reshape")
    turn = None if last is None else producer(last.inputs[0], "Transpose")
    first = None if turn is None else producer(turn.inputs[0], "Reshape")
    if first is None or turn is None or last is None:
        return None
    chain = (first, turn, last)
    readers = (turn, last, conv)
    alone = all(sole_consumer(n.outputs[0]) is r for n, r in zip(chain, readers, strict=True))
    return chain if alone and ints_attribute(turn, "perm") == _SPACE_TO_BATCH else None


def _to_space(conv: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    first = sole_consumer(conv.outputs[0])
    turn = None if first is None else sole_consumer(first.outputs[0])
    last = None if turn is None else sole_consumer(turn.outputs[0])
    if first is None or turn is None or last is None:
        return None
    shapes = is_op(first, "Reshape") and is_op(turn, "Transpose") and is_op(last, "Reshape")
    return (first, turn, last) if shapes and ints_attribute(turn, "perm") == _BATCH_TO_SPACE else None


def _why_not(conv: ir.Node, before: tuple[ir.Node, ...], after: tuple[ir.Node, ...]) -> str:
    if any(s != 1 for s in ints_attribute(conv, "strides") or ()):
        return "the convolution has a stride"
    if any(ints_attribute(conv, "pads") or ()) or string_attribute(conv, "auto_pad", "NOTSET").startswith(
        "SAME"
    ):
        return "the convolution pads each of the small images"
    data, split, joined = dims(before[0].inputs[0]), dims(before[0].outputs[0]), dims(before[2].outputs[0])
    made, parted, result = dims(conv.outputs[0]), dims(after[0].outputs[0]), _reshaped(after[2])
    if None in (data, split, joined, made, parted, result):
        return "the shapes are not known"
    assert data is not None and split is not None and joined is not None
    assert made is not None and parted is not None and result is not None
    sizes = (*data[1:], *split[1:], *joined[1:], *made[1:], *parted[:2], *parted[3:], *result[1:])
    if len(data) != 4 or len(split) != 6 or len(parted) != 6 or not all(isinstance(d, int) for d in sizes):
        return "the shapes are not known"
    numbers = [d if isinstance(d, int) else 0 for d in (*data[1:], *split[1:])]
    channels, height, width, same, rows, block, columns, across = numbers
    if (same, rows * block, columns * across) != (channels, height, width):
        return "the first Reshape does not part rows and columns into blocks"
    if joined[1:] != (channels, rows, columns):
        return "the second Reshape does not put the blocks into the batch"
    if parted[:2] != (block, across) or parted[3:] != made[1:]:
        return "the blocks are not taken back from the batch"
    out = [d if isinstance(d, int) else 0 for d in made[1:]]
    if result[1:] != (out[0], out[1] * block, out[2] * across):
        return "the blocks do not go back to their places"
    return ""


def _reshaped(node: ir.Node) -> tuple[int | str | None, ...] | None:
    """The shape a Reshape makes: a graph output may say less than the target does."""
    target, shape = ints_of(input_of(node, 1)), dims(node.outputs[0])
    if target is None or shape is None or len(target) != len(shape):
        return shape
    return tuple(t if t > 0 else d for t, d in zip(target, shape, strict=True))
