"""Stored configs of Keras 1 and 2, brought to what Keras 3 reads.

Only what Keras 3 refuses is changed, so that a config it reads stays as it is: keys that no longer exist
and carry nothing that inference needs are dropped, renamed keys are renamed, old forms are rewrapped.
What is not known to be harmless is left for Keras to refuse.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

Config: TypeAlias = dict[str, Any]

# Initialisers, regularisers and constraints shape training only: the weights are stored.
_TRAINING_ONLY = (
    "initializer", "regularizer", "constraint", "init", "W_regularizer", "b_regularizer", "W_constraint",
    "b_constraint",
)  # fmt: skip
_HARMLESS_INITIALIZER = "zeros"
# Keras 1 name → Keras 2/3 name (https://github.com/keras-team/keras/wiki/Keras-2.0-release-notes).
_RENAMED = {
    "output_dim": "units",
    "nb_filter": "filters",
    "subsample": "strides",
    "border_mode": "padding",
    "bias": "use_bias",
    "dim_ordering": "data_format",
    "atrous_rate": "dilation_rate",
    "inner_activation": "recurrent_activation",
    "p": "rate",
    "sigma": "stddev",
    "consume_less": None,
    "input_dtype": None,
}
_RENAMED_IN = {
    "p": {
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "GaussianDropout",
        "AlphaDropout",
    },
    "sigma": {"GaussianNoise"},
    "output_dim": {"Dense", "LSTM", "GRU", "SimpleRNN"},
}
_CLASSES = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "AtrousConvolution2D": "Conv2D",
    "SeparableConvolution2D": "SeparableConv2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Model": "Functional",
}
_ORDERINGS = {"tf": "channels_last", "th": "channels_first"}
# Keys that old layers wrote and Keras 3 does not know.
_GONE: dict[str, tuple[str, ...]] = {
    "DepthwiseConv2D": ("groups", "filters"),
    "SeparableConv2D": ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "BatchNormalization": ("mode", "gamma_init", "beta_init", "renorm", "renorm_clipping", "renorm_momentum",
                           "fused", "virtual_batch_size", "adjustment"),
    "Conv2DTranspose": ("groups",),
    "InputLayer": ("ragged",),
    "LSTM": ("time_major", "implementation"),
    "GRU": ("time_major", "implementation"),
    "SimpleRNN": ("time_major",),
    "Bidirectional": ("input_dim",),
}  # fmt: skip


def repair_config(config: Config, version: str) -> tuple[Config, tuple[str, ...]]:
    """A repaired copy of ``config`` (a model's class_name and config) and one note for each kind of repair.

    Args:
        config: as stored in the file.
        version: the ``keras_version`` stored beside it.
    """
    repaired = copy.deepcopy(config)
    notes: dict[str, None] = {}
    if version.startswith("3"):
        return repaired, ()
    _walk(repaired, notes)
    return repaired, tuple(f"config of Keras {version} repaired: {note}" for note in notes)


def _walk(value: Any, notes: dict[str, None]) -> None:
    if isinstance(value, dict):
        class_name = value.get("class_name")
        if isinstance(class_name, str):
            if class_name == "Sequential" and isinstance(value.get("config"), list):
                value["config"] = {"name": "sequential", "layers": value["config"]}
                notes["Sequential as a plain list"] = None
            if class_name == "Sequential":
                _lift_input(value["config"], notes)
            if isinstance(value.get("config"), dict) and "name" in value["config"]:
                _repair_layer(value, notes)
        for inner in value.values():
            _walk(inner, notes)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, notes)


def _lift_input(config: Config, notes: dict[str, None]) -> None:
    """The input shape that a Sequential's first layer carries becomes an InputLayer before it."""
    layers = config.get("layers")
    if not isinstance(layers, list) or not layers or layers[0].get("class_name") == "InputLayer":
        return
    first = layers[0].get("config")
    if not isinstance(first, dict) or first.get("batch_input_shape") is None or "layers" in first:
        return
    shape = first.pop("batch_input_shape")
    name = f"{first.get('name', 'input')}_input"
    entry = {"name": name, "batch_shape": shape, "dtype": first.get("dtype", "float32")}
    layers.insert(0, {"class_name": "InputLayer", "config": entry})
    notes["the input shape of the first layer is an InputLayer"] = None


def _repair_layer(layer: Config, notes: dict[str, None]) -> None:
    config: Config = layer["config"]
    renamed_class = _CLASSES.get(layer["class_name"])
    if renamed_class is not None and (renamed_class != "Functional" or "layers" not in config):
        notes[f"{layer['class_name']} is {renamed_class}"] = None
        layer["class_name"] = renamed_class
    name = str(layer["class_name"])
    _join_kernel_sizes(config, notes)
    for old, new in _RENAMED.items():
        if old not in config or (old in _RENAMED_IN and name not in _RENAMED_IN[old]):
            continue
        stored = config.pop(old)
        notes[f"'{old}' is '{new}'" if new else f"'{old}' dropped"] = None
        if new is not None:
            config.setdefault(new, stored)
    if config.get("data_format") in _ORDERINGS:
        config["data_format"] = _ORDERINGS[config["data_format"]]
    for key in _GONE.get(name, ()):
        if key in config and _harmless(key, config[key]):
            del config[key]
            notes[f"{name}.{key} dropped"] = None
    _drop_training_only(config, notes)
    if name == "BatchNormalization" and isinstance(config.get("axis"), list) and len(config["axis"]) == 1:
        config["axis"] = config["axis"][0]
        notes["BatchNormalization.axis as a list"] = None


def _harmless(key: str, value: Any) -> bool:
    """Whether a key that Keras 3 does not know may go: it must hold what Keras 3 does anyway."""
    if key in ("renorm", "ragged", "time_major", "virtual_batch_size"):
        return not value
    if key == "mode":
        return bool(value == 0)  # feature-wise, the only mode left
    return True


def _join_kernel_sizes(config: Config, notes: dict[str, None]) -> None:
    if "nb_row" in config and "nb_col" in config:
        config["kernel_size"] = [config.pop("nb_row"), config.pop("nb_col")]
        notes["'nb_row', 'nb_col' are 'kernel_size'"] = None
    if "filter_length" in config:
        config["kernel_size"] = [config.pop("filter_length")]
        notes["'filter_length' is 'kernel_size'"] = None
    if "pool_length" in config:
        config["pool_size"] = config.pop("pool_length")
    if config.get("strides") is None and "stride" in config:
        config["strides"] = config.pop("stride")


def _drop_training_only(config: Config, notes: dict[str, None]) -> None:
    for key in list(config):
        if not key.endswith(_TRAINING_ONLY[:3]) and key not in _TRAINING_ONLY:
            continue
        value = config[key]
        if key in _TRAINING_ONLY[3:]:
            del config[key]
            notes["initialisers and regularisers of training dropped"] = None
        elif isinstance(value, dict):
            if key.endswith("initializer"):
                config[key] = _HARMLESS_INITIALIZER
            else:
                config[key] = None
            notes["initialisers and regularisers of training dropped"] = None
