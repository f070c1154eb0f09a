"""Models of Keras 1 and 2 in their own format, each with what NumPy says it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.sources.old_keras import (
    Arrays,
    convolve,
    entry,
    gru,
    hard_sigmoid,
    layer,
    lstm,
    model,
    node,
    sigmoid,
)  # fmt: skip

RNG = np.random.default_rng(17)
D, H = 3, 4


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.6, shape).astype(np.float32)


@dataclass
class Case:
    """A stored model and what it computes of inputs of these shapes (without the batch)."""

    config: Mapping[str, Any]
    weights: Mapping[str, Arrays]
    shapes: Sequence[tuple[int, ...]]
    expected: Callable[..., np.ndarray]
    version: str = "2.2.4"
    backend: str | None = "tensorflow"
    says: Sequence[str] = field(default_factory=tuple)  # parts of the notes


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": list(layers)}


def named(name: str, parts: Mapping[str, np.ndarray]) -> Arrays:
    """Weights as Keras 2 names them."""
    return [(f"{name}/{part}:0", array) for part, array in parts.items()]


def flat(name: str, parts: Mapping[str, np.ndarray]) -> Arrays:
    """Weights as Keras 1 names them."""
    return [(f"{name}_{part}", array) for part, array in parts.items()]


# --- Keras 1 ---------------------------------------------------------------------------------


def keras_1_convolution(order: str, backend: str | None, *, turned: bool) -> Case:
    kernel, bias, dense, offset = draw(3, 2, 2, 5), draw(5), draw(5 * 4 * 4, 3), draw(3)
    first = order == "th"
    shape = [None, 2, 6, 5] if first else [None, 6, 5, 2]
    config = sequential(
        layer("Convolution2D", "c", nb_filter=5, nb_row=3, nb_col=2, border_mode="valid", subsample=[1, 1],
              dim_ordering=order, bias=True, init="glorot_uniform", activation="relu",
              batch_input_shape=shape, input_dtype="float32", W_regularizer=None, b_constraint=None),
        layer("Dropout", "p", p=0.5),
        layer("Flatten", "f"),
        layer("Dense", "d", output_dim=3, init="uniform", activation="linear", bias=True, input_dim=80),
    )  # fmt: skip
    stored = kernel.transpose(3, 2, 0, 1) if first else kernel

    def expected(x: np.ndarray) -> np.ndarray:
        x = x.transpose(0, 2, 3, 1) if first else x
        y = np.maximum(convolve(x, kernel, turned=turned) + bias, 0)
        y = y.transpose(0, 3, 1, 2) if first else y
        return y.reshape(len(y), -1) @ dense + offset

    weights = {"c": flat("c", {"W": stored, "b": bias}), "p": [], "f": [],
               "d": flat("d", {"W": dense, "b": offset})}  # fmt: skip
    return Case(config, weights, [tuple(shape[1:])], expected, "1.2.2", backend)  # type: ignore[arg-type]


def keras_1_recurrent(kind: str, squash: str) -> Case:
    gates = {g: (draw(D, H), draw(H, H), draw(H)) for g in ("icfo" if kind == "LSTM" else "zrh")}
    config = sequential(
        layer(kind, "r", output_dim=H, init="glorot_uniform", inner_init="orthogonal", activation="tanh",
              inner_activation=squash, batch_input_shape=[None, 5, D], input_dtype="float32", input_dim=D,
              consume_less="cpu", dropout_W=0.1, dropout_U=0.1, return_sequences=False, go_backwards=False,
              stateful=False, unroll=False, input_length=None, W_regularizer=None, U_regularizer=None,
              b_regularizer=None, **({"forget_bias_init": "one"} if kind == "LSTM" else {}))
    )  # fmt: skip
    arrays = [
        (f"r_{part}_{g}", a) for g, three in gates.items() for part, a in zip("WUb", three, strict=True)
    ]
    function = {"hard_sigmoid": hard_sigmoid, "sigmoid": sigmoid}[squash]

    def expected(x: np.ndarray) -> np.ndarray:
        return lstm(x, gates, function) if kind == "LSTM" else gru(x, gates, function, reset_after=False)

    return Case(config, {"r": arrays}, [(5, D)], expected, "1.1.0", None)


def keras_1_merge(mode: str) -> Case:
    wa, wb, wc = draw(D, H), draw(2, H), draw(2 * H if mode == "concat" else 1 if mode == "dot" else H, 2)

    def branch(name: str, size: int) -> dict[str, Any]:
        one = layer("Dense", name, output_dim=H, bias=False, batch_input_shape=[None, size],
                    activation="tanh", input_dtype="float32")  # fmt: skip
        return {"class_name": "Sequential", "config": [one]}

    merge = layer("Merge", "m", mode=mode, mode_type="raw", concat_axis=-1, dot_axes=-1, output_shape=None,
                  output_mask=None, arguments={}, node_indices=[0, 0], tensor_indices=[0, 0],
                  layers=[branch("a", D), branch("b", 2)])  # fmt: skip
    last = layer("Dense", "c", output_dim=2, bias=False, activation="linear")
    join = {
        "sum": np.add, "mul": np.multiply, "max": np.maximum, "ave": lambda a, b: (a + b) / 2,
        "concat": lambda a, b: np.concatenate([a, b], 1), "dot": lambda a, b: (a * b).sum(1, keepdims=True),
    }[mode]  # fmt: skip
    weights = {"a": flat("a", {"W": wa}), "b": flat("b", {"W": wb}), "c": flat("c", {"W": wc})}

    def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return join(np.tanh(a @ wa), np.tanh(b @ wb)) @ wc

    return Case(sequential(merge, last), weights, [(D,), (2,)], expected, "1.2.0", None)


def keras_1_dense_kinds() -> Case:
    w, carry, b, bc = draw(D, D), draw(D, D), draw(D), draw(D)
    wide, narrow = draw(2, D, H), draw(2, H)
    config = sequential(
        layer("Highway", "h", init="glorot_uniform", activation="tanh", bias=True, input_dim=D,
              batch_input_shape=[None, D], input_dtype="float32", W_regularizer=None),
        layer("BatchNormalization", "n", mode=0, epsilon=1e-3, axis=-1, momentum=0.99, beta_init="zero",
              gamma_init="one", gamma_regularizer=None, beta_regularizer=None),
        layer("MaxoutDense", "m", output_dim=H, nb_feature=2, init="glorot_uniform", bias=True, input_dim=D),
    )  # fmt: skip
    gamma, beta, mean, var = draw(D), draw(D), draw(D), np.abs(draw(D)) + 0.5

    def expected(x: np.ndarray) -> np.ndarray:
        gate = sigmoid(x @ carry + bc)
        y = gate * np.tanh(x @ w + b) + (1 - gate) * x
        y = (y - mean) / np.sqrt(var + 1e-3) * gamma + beta
        return np.max(np.einsum("bd,kdh->bkh", y, wide) + narrow, axis=1)

    weights = {
        "h": flat("h", {"W": w, "W_carry": carry, "b": b, "b_carry": bc}),
        "n": flat("n", {"gamma": gamma, "beta": beta, "running_mean": mean, "running_std": var}),
        "m": flat("m", {"W": wide, "b": narrow}),
    }
    return Case(config, weights, [(D,)], expected, "1.2.2", None)


def keras_1_sequence() -> Case:
    kernel, bias, dense = draw(3, 1, D, H), draw(H), draw(H, 2)
    config = sequential(
        layer("Convolution1D", "c", nb_filter=H, filter_length=3, border_mode="valid", subsample_length=1,
              activation="linear", bias=True, input_dim=D, input_length=None, init="uniform",
              batch_input_shape=[None, 8, D], input_dtype="float32"),
        layer("MaxPooling1D", "p", pool_length=2, stride=2, border_mode="valid"),
        layer("TimeDistributedDense", "t", output_dim=2, bias=False, activation="linear", init="uniform",
              input_dim=H, input_length=None),
    )  # fmt: skip

    def expected(x: np.ndarray) -> np.ndarray:
        y = sum(x[:, i : i + 6] @ kernel[i, 0] for i in range(3)) + bias
        return np.maximum(y[:, ::2], y[:, 1::2]) @ dense

    weights = {"c": flat("c", {"W": kernel, "b": bias}), "p": [], "t": flat("t", {"W": dense})}
    return Case(config, weights, [(8, D)], expected, "1.2.0", None)


# --- Keras 2 ---------------------------------------------------------------------------------


def side_by_side(gates: Mapping[str, Sequence[np.ndarray]], order: str, part: int) -> np.ndarray:
    return np.concatenate([gates[g][part] for g in order], axis=-1)


def hard_sigmoid_lstm(*, both_ways: bool) -> Case:
    sides = [{g: (draw(D, H), draw(H, H), draw(H)) for g in "ifco"} for _ in range(2 if both_ways else 1)]
    inner = {"units": H, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True,
             "unit_forget_bias": True, "implementation": 1, "return_sequences": False, "unroll": False,
             "kernel_initializer": {"class_name": "VarianceScaling", "config": {"scale": 1.0}}}  # fmt: skip
    parts = [
        {p: side_by_side(s, "ifco", i) for i, p in enumerate(("kernel", "recurrent_kernel", "bias"))}
        for s in sides
    ]
    if both_ways:
        held = layer("LSTM", "l", **inner)
        one = layer("Bidirectional", "b", layer=held, merge_mode="concat", batch_input_shape=[None, 5, D],
                    dtype="float32")  # fmt: skip
        weights = {"b": [*named("b/forward_l", parts[0]), *named("b/backward_l", parts[1])]}
    else:
        one = layer("LSTM", "b", batch_input_shape=[None, 5, D], dtype="float32", **inner)
        weights = {"b": named("b", parts[0])}

    def expected(x: np.ndarray) -> np.ndarray:
        ends = [lstm(x, sides[0], hard_sigmoid)]
        return np.concatenate(ends + ([lstm(x[:, ::-1], sides[1], hard_sigmoid)] if both_ways else []), 1)

    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [one]}}
    return Case(config, weights, [(5, D)], expected, says=["hard_sigmoid"])


def cudnn(kind: str) -> Case:
    is_gru = kind == "CuDNNGRU"
    order = "zrh" if is_gru else "ifco"
    # cuDNN computes W' x with W' [H, D] stored as rows of [D, H]: the numbers of W transposed.
    gates = {g: (draw(D, H), draw(H, H), draw(2, H)) for g in order}
    kernel = np.concatenate([gates[g][0].T.ravel().reshape(D, H) for g in order], 1)
    recurrent = np.concatenate([gates[g][1].T for g in order], 1)
    bias = np.concatenate([np.concatenate([gates[g][2][side] for g in order]) for side in (0, 1)])
    one = layer(kind, "r", units=H, batch_input_shape=[None, 5, D], dtype="float32", return_sequences=False,
                return_state=False, go_backwards=False, stateful=False, kernel_constraint=None,
                **({} if is_gru else {"unit_forget_bias": True}))  # fmt: skip
    weights = {"r": named("r", {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})}

    def expected(x: np.ndarray) -> np.ndarray:
        if is_gru:
            return gru(x, gates, sigmoid, reset_after=True)
        return lstm(x, {g: (w, u, b.sum(0)) for g, (w, u, b) in gates.items()}, sigmoid)

    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [one]}}
    return Case(config, weights, [(5, D)], expected, says=["rearranged"])


def old_gru() -> Case:
    """Without the key ``reset_after`` and without a bias, which would give the mistake away."""
    gates = {g: (draw(D, H), draw(H, H), np.zeros(H)) for g in "zrh"}
    one = layer("GRU", "r", units=H, use_bias=False, activation="tanh", recurrent_activation="sigmoid",
                batch_input_shape=[None, 5, D], dtype="float32")  # fmt: skip
    parts = {p: side_by_side(gates, "zrh", i) for i, p in enumerate(("kernel", "recurrent_kernel"))}
    config = {"class_name": "Sequential", "config": [one]}
    return Case(
        config,
        {"r": named("r", parts)},
        [(5, D)],
        lambda x: gru(x, gates, sigmoid, reset_after=False),
        "2.0.8",
    )


def theano_kernels() -> Case:
    kernel = draw(3, 2, 2, 5)
    one = layer("Conv2D", "c", filters=5, kernel_size=[3, 2], strides=[1, 1], padding="valid", use_bias=False,
                data_format="channels_last", dilation_rate=[1, 1], batch_input_shape=[None, 6, 5, 2],
                dtype="float32", activation="linear")  # fmt: skip
    return Case(
        {"class_name": "Sequential", "config": [one]},
        {"c": named("c", {"kernel": kernel})},
        [(6, 5, 2)],
        lambda x: convolve(x, kernel, turned=True),
        backend="theano",
        says=["turned round"],
    )


def local_2d(data_format: str) -> Case:
    first = data_format == "channels_first"
    kernel, bias = draw(2 * 2, 3 * 2 * 2, H), draw(*((H, 2, 2) if first else (2, 2, H)))
    shape = (2, 5, 4) if first else (5, 4, 2)
    one = layer("LocallyConnected2D", "c", filters=H, kernel_size=[3, 2], strides=[2, 2], padding="valid",
                data_format=data_format, activation="relu", use_bias=True, implementation=1,
                batch_input_shape=[None, *shape], dtype="float32", kernel_initializer=None)  # fmt: skip

    def expected(x: np.ndarray) -> np.ndarray:
        result = np.zeros((len(x), 2, 2, H))
        for i in range(2):
            for j in range(2):
                rows, columns = slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 2)
                patch = x[:, :, rows, columns] if first else x[:, rows, columns]
                result[:, i, j] = patch.reshape(len(x), -1) @ kernel[2 * i + j]
        return np.maximum((result.transpose(0, 3, 1, 2) if first else result) + bias, 0)

    weights = {"c": named("c", {"kernel": kernel, "bias": bias})}
    return Case({"class_name": "Sequential", "config": [one]}, weights, [shape], expected)


def local_1d() -> Case:
    kernel, bias = draw(6, 3 * D, H), draw(6, H)
    one = layer("LocallyConnected1D", "c", filters=H, kernel_size=[3], strides=[1], padding="valid",
                activation="linear", use_bias=True, batch_input_shape=[None, 8, D])  # fmt: skip

    def expected(x: np.ndarray) -> np.ndarray:
        return np.stack([x[:, i : i + 3].reshape(len(x), -1) @ kernel[i] for i in range(6)], 1) + bias

    weights = {"c": named("c", {"kernel": kernel, "bias": bias})}
    return Case({"class_name": "Sequential", "config": [one]}, weights, [(8, D)], expected)


def small_layers() -> Case:
    gamma, beta = draw(5, D), draw(5, D)
    layers = [
        entry("x", (5, D)),
        node(
            "LayerNormalization", "n", [["x", 0, 0, {}]], axis=[1, 2], epsilon=1e-3, center=True, scale=True
        ),
        node("LeakyReLU", "l", [["n", 0, 0, {}]], alpha={"type": "ndarray", "value": 0.25}),
        node("ThresholdedReLU", "t", [["l", 0, 0, {}]], theta=0.3),
        node("Softmax", "s", [["t", 0, 0, {}]], axis=[1, 2]),
    ]

    def expected(x: np.ndarray) -> np.ndarray:
        mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        y = (x - mean) / np.sqrt(var + 1e-3) * gamma + beta
        y = np.where(y > 0, y, 0.25 * y)
        y = np.exp(y * (y > 0.3))
        return y / y.sum((1, 2), keepdims=True)

    weights = {"x": [], "n": named("n", {"gamma": gamma, "beta": beta}), "l": [], "t": [], "s": []}
    return Case(model(layers, ["x"], "s"), weights, [(5, D)], expected, "2.4.0")


def tensor_functions() -> Case:
    """The functional form of TF 2.4 to 2.15: constants first, operands by name, slices."""
    layers = [
        entry("x", (6, D)),
        node("SlicingOpLambda", "cut", ["x", 0, 0, {"slice_spec": [
            {"start": None, "stop": None, "step": None}, {"start": 1, "stop": None, "step": 2}]}],
             dtype="float32", function="__operators__.getitem"),
        node("TFOpLambda", "less", ["_CONSTANT_VALUE", -1, 1.0, {"y": ["cut", 0, 0], "name": None}],
             dtype="float32", function="math.subtract"),
        node("TFOpLambda", "plus", ["less", 0, 0, {"y": 3.0, "name": None}], dtype="float32",
             function="__operators__.add"),
        node("TFOpLambda", "six", ["plus", 0, 0, {"name": None}], dtype="float32", function="nn.relu6"),
        node("TFOpLambda", "times", ["six", 0, 0, {"y": ["cut", 0, 0], "name": None}], dtype="float32",
             function="math.multiply"),
        node("TFOpLambda", "joined", [["times", 0, 0, {"axis": -1}], ["cut", 0, 0, {"axis": -1}]],
             dtype="float32", function="concat"),
    ]  # fmt: skip

    def expected(x: np.ndarray) -> np.ndarray:
        cut = x[:, 1::2]
        return np.concatenate([np.clip(1.0 - cut + 3.0, 0, 6) * cut, cut], -1)

    config = model(layers, ["x"], "joined")
    config["class_name"] = "Functional"
    return Case(config, {"x": []}, [(6, D)], expected, "2.8.0")


def states_and_attention() -> Case:
    """An encoder's states into a decoder, and attention with its value given by name."""
    enc, dec = ({g: (draw(D, H), draw(H, H), draw(H)) for g in "ifco"} for _ in range(2))
    shared = {"units": H, "activation": "tanh", "recurrent_activation": "sigmoid", "return_state": True}
    parts = [
        {p: side_by_side(s, "ifco", i) for i, p in enumerate(("kernel", "recurrent_kernel", "bias"))}
        for s in (enc, dec)
    ]
    wq, wk, wv, o = (*(draw(H, 1, 2) for _ in range(3)), draw(1, 2, H))
    layers = [
        entry("a", (5, D)),
        entry("b", (4, D)),
        node("LSTM", "enc", [["a", 0, 0, {}]], return_sequences=False, **shared),
        node("LSTM", "dec", [["b", 0, 0, {}], ["enc", 0, 1, {}], ["enc", 0, 2, {}]], return_sequences=True,
             **shared),
        node("MultiHeadAttention", "m", [["dec", 0, 0, {"value": ["dec", 0, 0]}]], num_heads=1, key_dim=2,
             value_dim=2, dropout=0.0, use_bias=False, output_shape=None, attention_axes=[1],
             query_shape=[None, 4, H], key_shape=[None, 4, H], value_shape=[None, 4, H]),
    ]  # fmt: skip

    def step(x: np.ndarray, h: np.ndarray, c: np.ndarray, gates: Any) -> tuple[np.ndarray, np.ndarray]:
        z = {g: x @ w + h @ u + b for g, (w, u, b) in gates.items()}
        c = sigmoid(z["f"]) * c + sigmoid(z["i"]) * np.tanh(z["c"])
        return sigmoid(z["o"]) * np.tanh(c), c

    def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        h = c = np.zeros((len(a), H))
        for t in range(a.shape[1]):
            h, c = step(a[:, t], h, c, enc)
        seen = []
        for t in range(b.shape[1]):
            h, c = step(b[:, t], h, c, dec)
            seen.append(h)
        y = np.stack(seen, 1)
        scores = (y @ wq[:, 0]) @ (y @ wk[:, 0]).transpose(0, 2, 1) / np.sqrt(2)
        share = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        return share @ (y @ wv[:, 0]) @ o[0]

    weights = {
        "a": [], "b": [], "enc": named("enc", parts[0]), "dec": named("dec", parts[1]),
        "m": [("m/query/kernel:0", wq), ("m/key/kernel:0", wk), ("m/value/kernel:0", wv),
              ("m/attention_output/kernel:0", o)],
    }  # fmt: skip
    return Case(model(layers, ["a", "b"], "m"), weights, [(5, D), (4, D)], expected, "2.5.0")


def partly_frozen() -> Case:
    """A model in a model, one of its layers frozen: its weights are stored behind all trainable ones."""
    one, two, scale = draw(D, D), draw(D, D), [draw(D), draw(D), draw(D), np.abs(draw(D)) + 0.5]
    inner = model(
        [
            entry("i", (D,)),
            node("Dense", "f", [["i", 0, 0, {}]], units=D, use_bias=False, activation="tanh"),
            node("BatchNormalization", "n", [["f", 0, 0, {}]], axis=[1], epsilon=1e-3, momentum=0.9),
            node("Dense", "d", [["n", 0, 0, {}]], units=D, use_bias=False, activation="tanh"),
        ],
        ["i"],
        "d",
    )
    inner["config"]["layers"][1]["config"]["trainable"] = False
    inner["config"]["name"] = "base"
    layers = [entry("x", (D,)), {**inner, "name": "base", "inbound_nodes": [[["x", 0, 0, {}]]]}]
    arrays = [("n/gamma:0", scale[0]), ("n/beta:0", scale[1]), ("d/kernel:0", two), ("f/kernel:0", one),
              ("n/moving_mean:0", scale[2]), ("n/moving_variance:0", scale[3])]  # fmt: skip

    def expected(x: np.ndarray) -> np.ndarray:
        y = (np.tanh(x @ one) - scale[2]) / np.sqrt(scale[3] + 1e-3) * scale[0] + scale[1]
        return np.tanh(y @ two)

    config = model(layers, ["x"], "base")
    config["config"]["output_layers"] = [["base", 1, 0]]
    return Case(config, {"x": [], "base": arrays}, [(D,)], expected, "2.3.1")


def wrapped() -> Case:
    """TimeDistributed and stacked cells, whose layers name no module."""
    dense = draw(D, H)
    cells = [{g: (draw(s, H), draw(H, H), draw(H)) for g in "ifco"} for s in (H, H)]
    inner = layer("Dense", "d", units=H, use_bias=False, activation="linear")
    stack = {
        "class_name": "StackedRNNCells",
        "config": {"name": "stack", "cells": [
            layer("LSTMCell", f"cell{i}", units=H, activation="tanh", recurrent_activation="hard_sigmoid")
            for i in range(2)]},
    }  # fmt: skip
    layers = [
        layer("TimeDistributed", "t", layer=inner, batch_input_shape=[None, 5, D], dtype="float32"),
        layer("RNN", "r", cell=stack, return_sequences=False, return_state=False, unroll=False),
    ]
    arrays = [
        (f"r/cell{i}/{p}:0", side_by_side(c, "ifco", n))
        for i, c in enumerate(cells)
        for n, p in enumerate(("kernel", "recurrent_kernel", "bias"))
    ]

    def expected(x: np.ndarray) -> np.ndarray:
        y, states = x @ dense, [np.zeros((2, len(x), H)) for _ in cells]
        for t in range(5):
            h = y[:, t]
            for n, gates in enumerate(cells):
                z = {g: h @ w + states[n][0] @ u + b for g, (w, u, b) in gates.items()}
                c = hard_sigmoid(z["f"]) * states[n][1] + hard_sigmoid(z["i"]) * np.tanh(z["c"])
                h = hard_sigmoid(z["o"]) * np.tanh(c)
                states[n] = np.stack([h, c])
        return h

    weights = {"t": named("t", {"kernel": dense}), "r": arrays}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    return Case(config, weights, [(5, D)], expected)


def fourier_features() -> Case:
    kernel, bias = draw(D, 6), draw(6)
    one = layer("RandomFourierFeatures", "r", output_dim=6, kernel_initializer="gaussian", scale=2.0,
                batch_input_shape=[None, D], dtype="float32")  # fmt: skip
    one["config"]["trainable"] = False
    weights = {"r": named("r", {"kernel_scale": np.array([2.0]), "unscaled_kernel": kernel, "bias": bias})}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [one]}}
    return Case(config, weights, [(D,)], lambda x: np.cos(x @ kernel / 2.0 + bias), "2.4.0")


CASES = {
    "keras 1, convolution": keras_1_convolution("tf", None, turned=False),
    "keras 1, channels first": keras_1_convolution("th", "tensorflow", turned=False),
    "keras 1, channels first, theano": keras_1_convolution("th", "theano", turned=True),
    "keras 1, lstm": keras_1_recurrent("LSTM", "hard_sigmoid"),
    "keras 1, gru": keras_1_recurrent("GRU", "sigmoid"),
    **{f"keras 1, merge {m}": keras_1_merge(m) for m in ("sum", "mul", "concat", "ave", "max", "dot")},
    "keras 1, highway, maxout": keras_1_dense_kinds(),
    "keras 1, sequence": keras_1_sequence(),
    "hard sigmoid": hard_sigmoid_lstm(both_ways=False),
    "hard sigmoid, bidirectional": hard_sigmoid_lstm(both_ways=True),
    "cudnn lstm": cudnn("CuDNNLSTM"),
    "cudnn gru": cudnn("CuDNNGRU"),
    "gru without reset_after": old_gru(),
    "theano kernels": theano_kernels(),
    "locally connected 1-D": local_1d(),
    "locally connected 2-D": local_2d("channels_last"),
    "locally connected 2-D, channels first": local_2d("channels_first"),
    "axes, alpha, theta": small_layers(),
    "functions as layers": tensor_functions(),
    "states and attention": states_and_attention(),
    "partly frozen inside": partly_frozen(),
    "wrapped layers": wrapped(),
    "fourier features": fourier_features(),
}
