"""Old Keras configs: what is repaired, what is left alone, and that the note says so."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.sources.keras_repair import repair_config


def _layer(class_name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": "one", **config}}


CASES = (
    ("depthwise groups", _layer("DepthwiseConv2D", groups=1), _layer("DepthwiseConv2D")),
    (
        "keras 1 convolution",
        _layer("Convolution2D", nb_filter=4, nb_row=3, nb_col=5, border_mode="same", subsample=[2, 2],
               dim_ordering="tf", bias=True, init="uniform"),
        _layer("Conv2D", filters=4, kernel_size=[3, 5], padding="same", strides=[2, 2],
               data_format="channels_last", use_bias=True),
    ),
    ("keras 1 dense", _layer("Dense", output_dim=3), _layer("Dense", units=3)),
    ("keras 1 dropout", _layer("Dropout", p=0.5), _layer("Dropout", rate=0.5)),
    (
        "old initialiser",
        _layer("Dense", units=2, kernel_initializer={"class_name": "VarianceScaling",
                                                     "config": {"dtype": "float32", "scale": 1.0}}),
        _layer("Dense", units=2, kernel_initializer="zeros"),
    ),
    ("axis as a list", _layer("BatchNormalization", axis=[3]), _layer("BatchNormalization", axis=3)),
    ("batch norm, old class", _layer("BatchNormalizationV1", axis=-1), _layer("BatchNormalization", axis=-1)),
)  # fmt: skip


@pytest.mark.parametrize(("title", "stored", "expected"), CASES, ids=[case[0] for case in CASES])
def test_repairs(title: str, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    repaired, notes = repair_config(stored, "2.1.6")
    assert repaired == expected
    assert notes
    assert all(note.startswith("config of Keras 2.1.6 repaired: ") for note in notes)
    again, more = repair_config(repaired, "2.1.6")
    assert (again, more) == (repaired, ())


@pytest.mark.parametrize(
    "stored",
    [
        _layer("BatchNormalization", renorm=True),  # computes something that Keras 3 lacks
        _layer("LSTM", time_major=True),
        _layer("Dense", units=3),
        _layer("Mine", output_dim=3, p=0.5),  # unknown classes may mean anything
    ],
)
def test_what_is_not_known_to_be_harmless_stays_for_keras_to_refuse(stored: dict[str, Any]) -> None:
    assert repair_config(stored, "2.2.4") == (stored, ())


def test_a_sequential_as_a_list_gets_its_input_layer() -> None:
    stored = {
        "class_name": "Sequential",
        "config": [_layer("Dense", units=3, batch_input_shape=[None, 4], dtype="float32")],
    }
    repaired, _ = repair_config(stored, "2.0.6")
    entry, dense = repaired["config"]["layers"]
    assert entry["config"] == {"name": "one_input", "batch_shape": [None, 4], "dtype": "float32"}
    assert "batch_input_shape" not in dense["config"]


def test_keras_3_files_are_left_alone() -> None:
    stored = _layer("DepthwiseConv2D", groups=1)
    assert repair_config(stored, "3.5.0") == (stored, ())
