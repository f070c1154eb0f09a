"""Run this model on one file: python predict.py INPUT [--top K]

INPUT is an array (.npy, or .npz with one array) or an image (needs Pillow). Floats are taken as the model's
input; integers, where the model takes floats, and images are raw data, scaled and normalised as
preprocess.json says. Needs numpy and the target's runtime, nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.dont_write_bytecode = True  # a __pycache__ would be a file that the manifest does not list
import runtime  # type: ignore[import-not-found] # noqa: E402

HERE = Path(__file__).resolve().parent
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def read_array(file: Path) -> Any:
    """The array of an .npy, or the only input in an .npz; never a pickle."""
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    keys = [key for key in loaded.files if not key.startswith("out|")]
    if len(keys) != 1:
        sys.exit(f"{file} holds {keys}; give one array")
    return loaded[keys[0]]


def read_image(file: Path, spec: dict[str, Any]) -> Any:
    """Pixels of an image as the model's input: resize, scale, subtract mean, divide by std."""
    try:
        from PIL import Image
    except ImportError:
        sys.exit("reading images needs Pillow: pip install pillow")
    if spec["layout"] is None or spec["channels"] not in (1, 3, 4):
        sys.exit("this model's input is not an image; give an .npy or .npz")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[spec["channels"]]
    with Image.open(file) as image:
        converted = image.convert(mode)
        if spec["size"]:
            height, width = spec["size"]
            converted = converted.resize((width, height), Image.Resampling.BILINEAR)
        pixels: Any = np.asarray(converted, np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], spec["channels"])
    return encoded(pixels.transpose(2, 0, 1) if spec["layout"] == "NCHW" else pixels, spec)


def encoded(raw: Any, spec: dict[str, Any]) -> Any:
    """(raw * scale - mean) / std; mean and std run along the channels."""
    data = np.asarray(raw, np.float32) * np.float32(spec["scale"])
    shape = (-1, 1, 1) if spec["layout"] == "NCHW" else (-1,)
    if spec["mean"]:
        data = data - np.asarray(spec["mean"], np.float32).reshape(shape)
    if spec["std"]:
        data = data / np.asarray(spec["std"], np.float32).reshape(shape)
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description="Run this model on one array or image.")
    parser.add_argument("input", type=Path)
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")
    given = parser.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    spec = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    if len(manifest["inputs"]) != 1:
        sys.exit(f"this model has {len(manifest['inputs'])} inputs; see references/ for how to feed it")
    image = given.input.suffix.lower() in IMAGES
    data = read_image(given.input, spec) if image else read_array(given.input)
    if data.dtype.kind in "iu" and np.dtype(spec["dtype"]).kind == "f":
        print("integers are raw data: scaled and normalised as preprocess.json says")
        data = encoded(data, spec)
    data = np.asarray(data, spec["dtype"])
    if data.ndim == len(spec["shape"]) - 1:
        data = data[None]
    run = runtime.load(HERE, manifest, manifest["artefact"]["files"][0])
    output = run({spec["input"]: data})[manifest["outputs"][0]["name"]]
    labels = HERE / "labels.txt"
    names = labels.read_text(encoding="utf-8").split("\n")[:-1] if labels.exists() else []
    for index, row in enumerate(output.reshape(output.shape[0], -1)):
        print(f"example {index}:")
        if row.size != len(names) and output.ndim != 2:
            print(f"  output {output.shape[1:]}, min {row.min():.6g}, max {row.max():.6g}")
            continue
        for best in np.argsort(-row, kind="stable")[: given.top]:
            print(f"  {row[best]:10.6f}  {names[best] if best < len(names) else f'class {best}'}")


if __name__ == "__main__":
    main()
