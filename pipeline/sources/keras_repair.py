"""Stored configs of Keras 1 and 2, brought to what Keras 3 reads.

Only what Keras 3 refuses or reads as something else is changed, so that a config it reads stays as it is:
keys that no longer exist and carry nothing that inference needs are dropped, renamed keys are renamed, old
forms are rewrapped. What is not known to be harmless is left for Keras to refuse, or refused by name.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

from pipeline.sources import keras_one
from pipeline.sources.keras_nodes import rewrite_nodes
from pipeline.sources.keras_refusal import lost_layer

Config: TypeAlias = dict[str, Any]

# Initialisers, regularisers and constraints shape training only: the weights are stored.
_TRAINING_SUFFIXES = ("initializer", "regularizer", "constraint")
_TRAINING_KEYS = ("init", "inner_init", "forget_bias_init", "beta_init", "gamma_init", "W_regularizer",
                  "U_regularizer", "b_regularizer", "W_constraint", "U_constraint",
                  "b_constraint")  # fmt: skip
_HARMLESS_INITIALIZER = "zeros"
_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "GRUV2": "GRU",
    "LSTMV2": "LSTM",
    "Model": "Functional",
    "SyncBatchNormalization": "BatchNormalization",
    "ThresholdedReLU": "ReLU",
}
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
    "SimpleRNN": ("time_major", "implementation"),
    "ConvLSTM2D": ("time_major", "implementation"),
    "RNN": ("time_major", "implementation"),
    "Bidirectional": ("input_dim",),
    "MultiHeadAttention": ("query_shape", "key_shape", "value_shape"),
}  # fmt: skip
_AXES = frozenset({"LayerNormalization", "Normalization", "Softmax", "UnitNormalization"})
_INNER = ("layer", "backward_layer", "forward_layer", "cell")


def repair_config(config: Config, version: str) -> tuple[Config, tuple[str, ...]]:
    """A repaired copy of ``config`` (a model's class_name and config) and one note for each kind of repair.

    Args:
        config: as stored in the file.
        version: the ``keras_version`` stored beside it.

    Raises:
        UnsupportedModelError: a layer computed what no later version does; names it.
    """
    repaired = copy.deepcopy(config)
    notes: dict[str, None] = {}
    if is_current(version):
        return repaired, ()
    if repaired.get("class_name") == "Graph":
        raise lost_layer("Graph", "model", "the container Graph of Keras 0 and 1 is not read",
                         "rebuild it with the functional API of Keras 1 and save it again")  # fmt: skip
    _walk(repaired, notes, first=is_first_version(version))
    return repaired, tuple(f"config of Keras {version} repaired: {note}" for note in notes)


def is_current(version: str) -> bool:
    """Whether a ``keras_version`` is one of Keras 3."""
    return version.split(".", maxsplit=1)[0] == "3"


def is_first_version(version: str) -> bool:
    """Whether a ``keras_version`` is one of Keras 1 (or older, where it is not stored)."""
    return version.split(".", maxsplit=1)[0] in ("0", "1")


def _walk(value: Any, notes: dict[str, None], *, first: bool) -> None:
    """Repair what ``value`` holds, the innermost first."""
    if isinstance(value, list):
        for inner in value:
            _walk(inner, notes, first=first)
    elif isinstance(value, dict):
        is_object = isinstance(value.get("class_name"), str)
        if is_object and value["class_name"] == "Sequential":
            _open_sequential(value, notes, first=first)
        for inner in value.values():
            _walk(inner, notes, first=first)
        config = value.get("config")
        if is_object and isinstance(config, dict) and "name" in config:
            _repair_layer(value, notes)
            if "input_layers" in config and isinstance(config.get("layers"), list):
                rewrite_nodes(config, notes)


def _open_sequential(model: Config, notes: dict[str, None], *, first: bool) -> None:
    """A Sequential as it is stored from Keras 2.2 on: a dict that begins with an InputLayer."""
    if isinstance(model.get("config"), list):
        flat = keras_one.flattened(model["config"]) if first else None
        if flat is not None:
            model["class_name"], model["config"] = "Functional", flat
            notes["Sequential that begins with models is one model of all their layers"] = None
            return
        model["config"] = {"name": "sequential", "layers": model["config"]}
        notes["Sequential as a plain list"] = None
    if isinstance(model.get("config"), dict):
        _lift_input(model["config"], notes)


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
    dtype = first.pop("input_dtype", None) or first.get("dtype", "float32")
    entry = {"name": name, "batch_shape": shape, "dtype": dtype}
    layers.insert(0, {"class_name": "InputLayer", "config": entry})
    notes["the input shape of the first layer is an InputLayer"] = None


def _repair_layer(layer: Config, notes: dict[str, None]) -> None:
    config: Config = layer["config"]
    if layer["class_name"] == "InputLayer" and config.get("input_dtype"):
        config["dtype"] = config.pop("input_dtype")
        notes["'input_dtype' is 'dtype'"] = None
    keras_one.in_newer_words(layer, notes)
    config = layer["config"]
    stored_class = str(layer["class_name"])
    renamed_class = _CLASSES.get(stored_class)
    if renamed_class is not None and (renamed_class != "Functional" or "layers" not in config):
        notes[f"{stored_class} is {renamed_class}"] = None
        layer["class_name"] = renamed_class
    elif renamed_class == "Functional":
        layer["class_name"] = renamed_class
    name = str(layer["class_name"])
    _unwrap_numbers(config, notes)
    if stored_class == "ThresholdedReLU":
        config["threshold"] = config.pop("theta", 1.0)
    if name == "GRU" and "reset_after" not in config:
        # Files without the key are older than it; Keras 3 would take the newer form for them.
        config["reset_after"] = stored_class == "CuDNNGRU"
        notes[f"GRU.reset_after is {config['reset_after']}, as before the key existed"] = None
    for key in _GONE.get(name, ()):
        if key in config and _harmless(key, config[key]):
            del config[key]
            notes[f"{name}.{key} dropped"] = None
    _drop_training_only(config, notes)
    _repair_axis(layer, notes)
    _refuse_local_forms(name, config)
    _name_modules(config, notes)


def _repair_axis(layer: Config, notes: dict[str, None]) -> None:
    config, name = layer["config"], str(layer["class_name"])
    axis = config.get("axis")
    if not isinstance(axis, list):
        return
    if len(axis) == 1 and name == "BatchNormalization":
        config["axis"] = axis[0]
        notes["BatchNormalization.axis as a list"] = None
    elif len(axis) > 1 and name in _AXES:
        # The loader of .h5 files forgets several axes; see keras_old_layers.
        layer["class_name"] = "AxesOf"
        config["kind"], config["axes"] = name, config.pop("axis")
        notes[f"{name} over several axes"] = None


def _refuse_local_forms(name: str, config: Config) -> None:
    if name in ("LocallyConnected1D", "LocallyConnected2D"):
        form = config.get("implementation", 1)
        if form != 1 or config.get("padding", "valid") != "valid":
            raise lost_layer(
                name,
                str(config["name"]),
                f"weights in the form of implementation {form} are not read",
                "save the layer with implementation=1 and padding='valid'",
            )


def _unwrap_numbers(config: Config, notes: dict[str, None]) -> None:
    """Scalars that came from NumPy: {"type": "ndarray", "value": 0.3}."""
    for key, value in config.items():
        if isinstance(value, dict) and value.get("type") == "ndarray" and "value" in value:
            config[key] = value["value"]
            notes[f"'{key}' stored as an array"] = None


def _name_modules(config: Config, notes: dict[str, None]) -> None:
    """Layers inside wrappers are looked up by module; old files name none."""
    for key in _INNER:
        _name_module(config.get(key), notes)
    for cell in config.get("cells") or ():
        _name_module(cell, notes)


def _name_module(inner: Any, notes: dict[str, None]) -> None:
    if not isinstance(inner, dict) or not isinstance(inner.get("class_name"), str) or "module" in inner:
        return
    own = inner["class_name"] in OWN_CLASSES
    inner["module"] = None if own else "keras.models" if _is_model(inner) else "keras.layers"
    inner["registered_name"] = f"fairlead>{inner['class_name']}" if own else inner["class_name"]
    notes["layers inside wrappers name their module"] = None


def _is_model(stored: Config) -> bool:
    return stored["class_name"] in ("Functional", "Sequential", "Model")


# Classes in ``keras_old_layers``.
OWN_CLASSES = frozenset({"AxesOf", "Highway", "LocallyConnected1D", "LocallyConnected2D", "MaxoutDense",
                         "RandomFourierFeatures", "SlicingOpLambda", "TFOpLambda"})  # fmt: skip


def _harmless(key: str, value: Any) -> bool:
    """Whether a key that Keras 3 does not know may go: it must hold what Keras 3 does anyway."""
    if key in ("renorm", "ragged", "time_major", "virtual_batch_size"):
        return not value
    if key == "mode":
        return bool(value == 0)  # feature-wise, the only mode left
    return True


def _drop_training_only(config: Config, notes: dict[str, None]) -> None:
    for key in list(config):
        value = config[key]
        if key in _TRAINING_KEYS:
            del config[key]
        elif key.endswith(_TRAINING_SUFFIXES) and isinstance(value, dict):
            config[key] = _HARMLESS_INITIALIZER if key.endswith("initializer") else None
        else:
            continue
        notes["initialisers and regularisers of training dropped"] = None
