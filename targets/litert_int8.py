"""Full integer quantisation for LiteRT: per-channel weights, activations scaled by calibration data.

Softmax stays in float32. LiteRT fixes the scale of an integer softmax at 1/256, so that of a thousand classes
nearly every probability rounds to nothing, whatever the calibration showed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array

FLOAT_OPS: Final = ("SOFTMAX", "LOG_SOFTMAX")
COMPARED: Final = 64  # examples on which the first class is compared

Examples = Callable[[], Iterator[list[Array]]]


def quantised(converter: Any, examples: Examples) -> bytes:
    """The flatbuffer that ``converter`` (a ``tf.lite.TFLiteConverter``) makes, in integers but for softmax.

    Raises:
        RuntimeError, ValueError: TensorFlow cannot.
    """
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # The second set is for what stands in FLOAT_OPS, and for operators that have no integer kernel.
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    converter.representative_dataset = examples
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(FLOAT_OPS))
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=examples, debug_options=options
    )
    return bytes(debugger.get_nondebug_quantized_model())


def first_class_kept(file: Path, model: Any, examples: Examples) -> dict[str, float | int]:
    """Share of the examples whose largest output is the same in ``file`` and in the float model it came from.

    Empty where the first output is no row of scores.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    inputs = sorted(interpreter.get_input_details(), key=lambda detail: detail["index"])
    (output, *_) = interpreter.get_output_details()
    same = count = 0
    for arrays, _ in zip(examples(), range(COMPARED), strict=False):
        if len(arrays) != 1 or len(inputs) != 1:
            return {}
        interpreter.set_tensor(inputs[0]["index"], arrays[0])
        interpreter.invoke()
        got = interpreter.get_tensor(output["index"])
        wanted = model(arrays[0], training=False)
        wanted = np.asarray(wanted[0] if isinstance(wanted, (list, tuple)) else wanted)
        if got.shape != wanted.shape or got.size < 2 or got.size != max(got.shape):
            return {}
        same += int(got.argmax() == wanted.argmax())
        count += 1
    return {"first_class_kept": same / count, "examples_compared": count} if count else {}
