"""``LookupTableFindV2`` of text keys → LabelEncoder, from a text to its place among the keys.

https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html
"""

from __future__ import annotations

from typing import Any

from pipeline.sources.tf.tables import KEYS

_ML = "ai.onnx.ml"


def convert(ctx: Any, node: Any, **_: Any) -> None:
    """tf2onnx handler."""
    keys = [key.decode("utf-8") for key in node.get_attr(KEYS).strings]
    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, list(node.output)
    holder, text = node.inputs[0], node.input[1]
    ctx.remove_node(node.name)
    if not ctx.find_output_consumers(holder.output[0]):
        ctx.remove_node(holder.name)
    ctx.make_node(
        "LabelEncoder",
        [text],
        name=node.name,
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
        domain=_ML,
        attr={
            "keys_strings": keys,
            "values_int64s": list(range(len(keys))),
            "default_int64": len(keys),
        },
    )
