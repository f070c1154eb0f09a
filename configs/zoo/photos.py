"""Real colour images without a download: seeded crops of the two photographs that scikit-learn ships.

``sklearn.datasets.load_sample_images`` holds ``china.jpg`` and ``flower.jpg``, 427×640×3 each. A crop takes
15 to 100 % of a photograph's area with the wanted aspect ratio, mirrored half of the time, and is resized
bilinearly. They feed calibration and references; they carry no labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Photos = npt.NDArray[np.uint8]


def crop_photos(count: int, height: int, width: int, *, seed: int) -> Photos:
    """``count`` crops: uint8 [count, height, width, 3], RGB. The same seed gives the same crops."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    sources = [Image.fromarray(photo) for photo in load_sample_images().images]
    crops = np.empty((count, height, width, 3), np.uint8)
    for index in range(count):
        source = sources[index % len(sources)]
        largest = min(source.width / width, source.height / height)  # pixels of the photograph per pixel
        step = largest * np.sqrt(rng.uniform(0.15, 1.0))
        left = rng.uniform(0, source.width - step * width)
        top = rng.uniform(0, source.height - step * height)
        box = (left, top, left + step * width, top + step * height)
        crop = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR, box=box))
        crops[index] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return crops


def calibration_images(count: int, height: int, width: int, *, seed: int) -> Photos:
    """Crops to measure statistics on, roughened: uint8 [count, height, width, 3], ``count`` at least 4.

    Photographs are smooth, so filters for fine detail respond weakly to them; statistics from photographs
    alone would blow such responses up on any other input, and drown float32 in its own rounding. So every
    fourth crop carries Gaussian noise of 64 levels, the last image is noise alone, and the last but one grey.
    """
    rng = np.random.default_rng(seed)
    images = crop_photos(count, height, width, seed=seed)
    noise = rng.normal(0.0, 64.0, (len(images[::4]), height, width, 3))
    images[::4] = np.clip(images[::4] + noise, 0, 255).astype(np.uint8)
    images[-2] = 127
    images[-1] = rng.integers(0, 256, (height, width, 3))
    return images
