"""The real digit images that scikit-learn ships, brought to the size a model wants.

``sklearn.datasets.load_digits`` holds 1797 scanned handwritten digits of 8×8 pixels with 17 grey levels
(UCI "Optical Recognition of Handwritten Digits", test part). They are enlarged bilinearly with half-pixel
centres (``scipy.ndimage.zoom``, ``order=1, grid_mode=True``) and stored as uint8 in [0, 255]; nothing here
draws random numbers except the split, which is seeded and stratified by class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCALE = 1.0 / 255.0
"""What brings a stored image to the [0, 1] that the models are trained on."""


@dataclass(frozen=True)
class DigitImages:
    """Two disjoint parts of the data. ``*_x``: uint8 [N, size, size, 1]; ``*_y``: int64 [N] in 0..9."""

    train_x: Images
    train_y: Labels
    test_x: Images
    test_y: Labels


def load_digit_images(size: int, *, test_share: float = 0.25, seed: int = 0) -> DigitImages:
    """The digits at ``size``×``size`` pixels, split once and for all.

    The split depends on ``seed`` and ``test_share`` alone, not on ``size``: every model of the zoo holds
    out the same images.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = enlarge(digits.images, size)
    y = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), test_size=test_share, random_state=seed, stratify=y)
    return DigitImages(train_x=x[train], train_y=y[train], test_x=x[test], test_y=y[test])


def enlarge(images: npt.NDArray[np.float64], size: int) -> Images:
    """[N, 8, 8] in 0..16 to uint8 [N, size, size, 1] in 0..255, bilinear with half-pixel centres."""
    from scipy.ndimage import zoom

    factor = size / images.shape[1]
    large = zoom(images, (1.0, factor, factor), order=1, mode="nearest", grid_mode=True)
    grey: Images = np.rint(large * (255.0 / 16.0)).clip(0, 255).astype(np.uint8)
    return grey[..., np.newaxis]


def as_floats(images: Images) -> Floats:
    """uint8 [0, 255] to float32 [0, 1], as the configs' ``preprocess.scale`` does it."""
    return (images * np.float32(SCALE)).astype(np.float32)


def jitter(images: Images, rng: np.random.Generator, *, degrees: float = 10.0, shift: float = 0.07) -> Images:
    """Each image turned by up to ``degrees`` and moved by up to ``shift`` of its size: training only."""
    from scipy.ndimage import affine_transform

    size = images.shape[1]
    centre = np.full(2, (size - 1) / 2)
    moved = np.empty_like(images)
    for index, image in enumerate(images[..., 0]):
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = centre - turn @ centre + rng.uniform(-shift, shift, size=2) * size
        moved[index, ..., 0] = affine_transform(image, turn, offset=offset, order=1, output=np.uint8)
    return moved
