"""The five systems' shapes and sizes by arithmetic, without building anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

Zoo = Callable[[str], ModuleType]


def test_vgg16_has_sixteen_layers_and_138_million_weights(zoo: Zoo) -> None:
    layers = list(zoo("vgg16").all_layers())
    assert [layer.scope for layer in layers] == [
        *(["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"]),
        *(["conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3", "fc_6", "fc_7", "fc_8"]),
    ]
    assert sum(layer.parameters for layer in layers) == 138_357_544
    assert layers[-3].weights == (7 * 7 * 512, 4096)
    # What one layer gives, the next takes.
    for before, after in itertools.pairwise(layers[:13]):
        assert before.weights[-1] == after.weights[-2]


@pytest.mark.parametrize("writing", ["core", "layers", "slim"])
def test_vgg16_is_written_three_ways(zoo: Zoo, writing: str) -> None:
    names = {"core": ("weights", "biases"), "layers": ("kernel", "bias"), "slim": ("weights", "biases")}
    chosen = zoo("vgg16").WRITINGS[writing]
    assert (chosen.weights, chosen.biases) == names[writing]
    assert chosen.dense_as_convolution == (writing == "slim")


def test_alexnet_for_270_by_480(zoo: Zoo) -> None:
    shapes = zoo("alexnet").weight_shapes(zoo("alexnet").SIZES["small"])
    parameters = {name: int(np.prod(shape)) + shape[-1] for name, shape in shapes.items()}
    assert parameters["Conv2D"] == 1456
    assert [shape[-1] for shape in shapes.values()] == [4, 8, 12, 12, 8, 120, 120, 29]
    # 270×480 → 68×120 → pools 34×60, 17×30, 9×15, of 8 channels each.
    assert shapes["FullyConnected"] == (9 * 15 * 8, 120)
    assert zoo("alexnet").LRN == {"depth_radius": 5, "bias": 1.0, "alpha": 1e-4, "beta": 0.75}


def test_mobilenet_has_the_stated_channels(zoo: Zoo) -> None:
    module = zoo("mobilenet_v2_wolfram")
    blocks = module.bottlenecks()
    assert len(blocks) == 17
    stem, last = blocks[0].entering, module.rounded(1280 * 1.4)
    leaving = list(dict.fromkeys(block.leaving for block in blocks))  # 48 occurs as stem and as block
    assert [stem, *leaving, last] == [48, 24, 32, 48, 88, 136, 224, 448, 1792]
    assert [block.scope for block in blocks[:3]] == ["expanded_conv", "expanded_conv_1", "expanded_conv_2"]
    assert sum(block.residual for block in blocks) == 10
    assert [block.stride for block in blocks].count(2) == 4  # with the stem: 224 → 7
    assert module.CLASSES == 1001


def test_mobilenet_encoder_is_the_authors(zoo: Zoo) -> None:
    encoder = zoo("mobilenet_v2_wolfram").ENCODER
    assert encoder.mean == (0.485, 0.456, 0.406)
    # The author gives variances.
    np.testing.assert_allclose(np.square(encoder.std), (0.052441, 0.050176, 0.050625), rtol=1e-12)
    white = encoder(np.full((1, 2, 2, 3), 255, np.uint8))
    np.testing.assert_allclose(white[0, 0, 0], (np.ones(3) - encoder.mean) / encoder.std, rtol=1e-6)


@pytest.mark.parametrize("wanted, channels", [(44.8, 48), (22.4, 24), (33.6, 32), (89.6, 88), (134.4, 136)])
def test_channels_are_rounded_as_slim_does(zoo: Zoo, wanted: float, channels: int) -> None:
    assert zoo("mobilenet_v2_wolfram").rounded(wanted) == channels
