"""Detections behind the last one: TFLite leaves there what its memory held, so that two runs differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optim.contract import Array, Outputs
from pipeline.sources.tflite_model import parse_tflite

_OPERATOR = "TFLite_Detection_PostProcess"


@dataclass(frozen=True)
class DetectionHead:
    """Names of the outputs of one head: lists [1, D, …] and the number of their entries that count [1]."""

    lists: tuple[str, ...]
    count: str


def detection_heads(content: bytes) -> tuple[DetectionHead, ...]:
    """The heads of a flatbuffer whose number of detections is an output of the model."""
    if _OPERATOR.encode() not in content:
        return ()
    graph = parse_tflite(content, Path("model.tflite")).main
    names = {index: graph.tensors[index].name for index in graph.outputs}
    heads = []
    for operator in graph.operators:
        if operator.name == _OPERATOR and operator.outputs[-1] in names:
            lists = tuple(names[index] for index in operator.outputs[:-1] if index in names)
            heads.append(DetectionHead(lists, names[operator.outputs[-1]]))
    return tuple(heads)


def cleared(outputs: Outputs, heads: tuple[DetectionHead, ...]) -> Outputs:
    """``outputs`` with zeros behind the last detection, as the converted model has."""
    changed: dict[str, Array] = dict(outputs)
    for head in heads:
        count = int(outputs[head.count].reshape(-1)[0])
        for name in head.lists:
            array = np.array(outputs[name])
            array[:, count:] = 0
            changed[name] = array
    return changed
