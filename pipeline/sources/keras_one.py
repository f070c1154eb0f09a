"""Stored configs of Keras 1, in the words of Keras 2 and 3.

https://github.com/keras-team/keras/wiki/Keras-2.0-release-notes lists what was renamed. What computed
something that later versions lack is refused here, by name, since Keras would only report an unknown key.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias

from pipeline.sources.keras_refusal import lost_layer

Config: TypeAlias = dict[str, Any]
_RENAMED = {
    "output_dim": "units",
    "nb_filter": "filters",
    "subsample": "strides",
    "subsample_length": "strides",
    "border_mode": "padding",
    "bias": "use_bias",
    "dim_ordering": "data_format",
    "atrous_rate": "dilation_rate",
    "inner_activation": "recurrent_activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "p": "rate",
    "sigma": "stddev",
    "length": "size",
    "pool_length": "pool_size",
    "stride": "strides",
    "consume_less": None,
    "input_dtype": None,
    "input_length": None,
    "weights": None,
}
_DROPOUTS = frozenset({"AlphaDropout", "Dropout", "GaussianDropout", "SpatialDropout1D", "SpatialDropout2D",
                       "SpatialDropout3D"})  # fmt: skip
_ONLY_IN = {
    "p": _DROPOUTS,
    "sigma": frozenset({"GaussianNoise"}),
    "output_dim": frozenset({"Dense", "LSTM", "GRU", "SimpleRNN", "ConvLSTM2D", "MaxoutDense"}),
    "length": frozenset({"UpSampling1D"}),
    "stride": frozenset({"MaxPooling1D", "AveragePooling1D"}),
    "pool_length": frozenset({"MaxPooling1D", "AveragePooling1D"}),
    "input_length": frozenset({"Dense", "LSTM", "GRU", "SimpleRNN", "Conv1D", "Embedding"}),
    "weights": frozenset({"Dense", "Embedding", "Conv1D", "Conv2D", "BatchNormalization"}),
}
CLASSES = {
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "AtrousConv1D": "Conv1D",
    "AtrousConv2D": "Conv2D",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "Deconv2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "TimeDistributedDense": "Dense",
}
_ORDERINGS = {"tf": "channels_last", "th": "channels_first"}
MERGES = {
    "sum": "Add",
    "mul": "Multiply",
    "concat": "Concatenate",
    "ave": "Average",
    "max": "Maximum",
    "min": "Minimum",
    "dot": "Dot",
}


def in_newer_words(layer: Config, notes: dict[str, None]) -> None:
    """Rename class and keys of one layer of Keras 1 in place.

    Raises:
        UnsupportedModelError: names the layer whose mode later versions cannot compute.
    """
    config: Config = layer["config"]
    kind = str(layer["class_name"])
    _refuse_lost(kind, config)
    if kind == "Merge":
        _merge(layer, notes)
        return
    if kind in CLASSES:
        layer["class_name"] = CLASSES[kind]
        notes[f"{kind} is {CLASSES[kind]}"] = None
    name = str(layer["class_name"])
    _join_sizes(config, notes)
    for old, new in _RENAMED.items():
        if old not in config or (old in _ONLY_IN and name not in _ONLY_IN[old]):
            continue
        stored = config.pop(old)
        notes[f"'{old}' is '{new}'" if new else f"'{old}' dropped"] = None
        if new is not None:
            config.setdefault(new, stored)
    if config.get("data_format") in _ORDERINGS:
        config["data_format"] = _ORDERINGS[config["data_format"]]
    if name == "Conv2DTranspose":
        config.pop(
            "output_shape", None
        )  # found from padding and strides, and checked once the model is there
    if name == "Embedding" and config.pop("dropout", None) is not None:
        notes["Embedding.dropout dropped"] = None
    if name == "ZeroPadding2D":
        config["padding"] = _paddings(config.get("padding", [1, 1]))


def _refuse_lost(kind: str, config: Config) -> None:
    name = str(config.get("name", kind))
    if kind == "BatchNormalization" and config.get("mode", 0) != 0:
        _refuse(kind, name, f"BatchNormalization mode {config['mode']} (statistics of the batch at hand)")
    if kind == "Merge" and config.get("mode_type") not in (None, "raw"):
        _refuse(kind, name, "Merge by a function of the user's own")
    if kind.startswith("SeparableConvolution") and config.get("dim_ordering") == "th":
        _refuse(kind, name, "a separable convolution in Theano's order of axes")


def _refuse(kind: str, name: str, what: str) -> NoReturn:
    what = f"{what} has no counterpart in later versions of Keras"
    raise lost_layer(kind, name, what, "replace the layer in Keras 1 and save the model again")


def _merge(layer: Config, notes: dict[str, None]) -> None:
    """Merge(mode): one of the merging layers."""
    config: Config = layer["config"]
    mode, name = str(config.get("mode")), str(config.get("name", "merge"))
    if mode not in MERGES:
        _refuse("Merge", name, f"Merge mode '{mode}'")
    layer["class_name"] = MERGES[mode]
    fresh: Config = {"name": name}
    if mode == "concat":
        fresh["axis"] = config.get("concat_axis", -1)
    if mode == "dot":
        fresh["axes"] = config.get("dot_axes", -1)
    if "layers" in config:
        fresh["layers"] = config["layers"]
    layer["config"] = fresh
    notes[f"Merge of mode '{mode}' is {layer['class_name']}"] = None


def _paddings(stored: Any) -> Any:
    """ZeroPadding2D's amounts: (top, bottom, left, right), or these by name, as pairs for each axis."""
    if isinstance(stored, dict):
        return [
            [stored.get(f"{side}_pad", 0) for side in pair] for pair in (("top", "bottom"), ("left", "right"))
        ]
    return [list(stored[:2]), list(stored[2:])] if len(stored) == 4 else stored


def flattened(config: list[Config]) -> Config | None:
    """A Sequential that begins with a Merge of models, or a model, as a functional config of plain layers.

    That is how Keras 1 stored the weights: layer by layer, whatever holds them. None: nothing to flatten.
    """
    if not config or not _holds_models(config[0]):
        return None
    layers: list[Config] = []
    inputs: list[str] = []
    last = _chain(config, layers, inputs)
    return {
        "name": "sequential",
        "layers": layers,
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": [[last, 0, 0]],
    }


def _holds_models(layer: Config) -> bool:
    return layer.get("class_name") == "Sequential" or bool(
        layer.get("class_name") == "Merge" and layer["config"].get("layers")
    )


def _chain(config: list[Config], layers: list[Config], inputs: list[str]) -> str:
    """Append the layers of a Sequential one behind the other; the name of the last."""
    first, rest = config[0], config[1:]
    if first["class_name"] == "Merge" and first["config"].get("layers"):
        ends = [_chain(_layers_of(branch), layers, inputs) for branch in first["config"]["layers"]]
        merge = {**first, "config": {key: v for key, v in first["config"].items() if key != "layers"}}
        last = _append(merge, ends, layers)
    elif first["class_name"] == "Sequential":
        last = _chain(_layers_of(first), layers, inputs)
    else:
        stored = dict(first["config"])
        shape = stored.pop("batch_input_shape", None)
        name = f"{stored['name']}_input"
        entry = {"name": name, "batch_shape": shape, "dtype": stored.get("input_dtype") or "float32"}
        layers.append({"class_name": "InputLayer", "name": name, "config": entry, "inbound_nodes": []})
        inputs.append(name)
        last = _append({**first, "config": stored}, [name], layers)
    for layer in rest:
        last = _append(layer, [last], layers)
    return last


def _append(layer: Config, sources: list[str], layers: list[Config]) -> str:
    name = str(layer["config"]["name"])
    if any(one["name"] == name for one in layers):
        _refuse(str(layer["class_name"]), name, "a layer used in two branches of a Merge")
    nodes = [[[source, 0, 0, {}] for source in sources]]
    layers.append({**layer, "name": name, "inbound_nodes": nodes})
    return name


def _layers_of(model: Config) -> list[Config]:
    if model.get("class_name") != "Sequential" or not isinstance(model.get("config"), list):
        name = str(model.get("class_name"))
        _refuse(name, name, "a Merge of anything but Sequential models")
    layers: list[Config] = model["config"]
    return layers


def _join_sizes(config: Config, notes: dict[str, None]) -> None:
    if "nb_row" in config and "nb_col" in config:
        config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
        notes["'nb_row', 'nb_col' are 'kernel_size'"] = None
    if all(f"kernel_dim{axis}" in config for axis in (1, 2, 3)):
        config["kernel_size"] = [config.pop(f"kernel_dim{axis}") for axis in (1, 2, 3)]
        notes["'kernel_dim1', … are 'kernel_size'"] = None
    if "filter_length" in config:
        config["kernel_size"] = [config.pop("filter_length")]
        notes["'filter_length' is 'kernel_size'"] = None
