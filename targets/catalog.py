"""The one table of targets: name → "module:Class", imported only when asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import Final, cast

from optim.errors import UserError
from targets.contract import Target

TARGETS: Final[dict[str, str]] = {
    "onnxruntime": "targets.onnxruntime:OnnxRuntime",
    "openvino": "targets.openvino:OpenVino",
    "keras": "targets.keras:Keras",
    "litert": "targets.litert:LiteRt",
    "web": "targets.web:Web",
    "triton": "targets.triton:Triton",
    "coreml": "targets.coreml:CoreMl",
    "tensorrt": "targets.tensorrt:TensorRt",
    "c": "targets.c_source:CSource",
    "caffe": "targets.caffe.target:Caffe",
    "wolfram": "targets.wolfram.target:Wolfram",
}

# Targets that share one process when it is tried which of them work here, those that take longest first: the
# pair needs TensorFlow started, browser and compiler take seconds each. All others are tried in one more.
TOGETHER: Final[tuple[tuple[str, ...], ...]] = (("keras", "litert"), ("web",), ("c", "caffe"))


def target_named(name: str) -> Target:
    """The target called ``name``.

    Raises:
        UserError: there is no such target; names the nearest one.
    """
    if name not in TARGETS:
        near = difflib.get_close_matches(name, TARGETS, n=1)
        raise UserError(
            f"there is no target {name!r}",
            expected="one of " + ", ".join(TARGETS),
            hint=f"did you mean {near[0]!r}?" if near else "`fairlead targets` lists them with their state",
        )
    module, _, attribute = TARGETS[name].partition(":")
    return cast(Target, getattr(importlib.import_module(module), attribute)())


def all_targets() -> tuple[Target, ...]:
    """Every target of the table, in its order."""
    return tuple(target_named(name) for name in TARGETS)
