"""Build the zoo's models, each in the format its author used.

    python configs/zoo/build.py NAME... [--out DIR]
    python configs/zoo/build.py --list

Each model goes to ``DIR/NAME/`` (unless told otherwise ``.fairlead/zoo/NAME/``, which git ignores): its own
files, ``test.npz`` (``x`` raw images; ``y`` labels where it was trained), ``labels.txt`` where there are
class names, and ``summary.json`` with names, shapes, parameters, the encoder's numbers and the held-out
accuracy. Every model is made in a process of its own, so that building many costs no more memory than the
largest, and its folder is filled aside and takes the old one's place when it is whole. The quickstart's
model has a script of its own, ``digits.py``, and is committed.

This folder is not a package: its scripts import their neighbours, and run from any directory.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A line of the table: ``module.write(out)`` or, with an argument, ``module.write(argument, out)``."""

    module: str
    what: str
    argument: str | None = None


TABLE: dict[str, Entry] = {
    # The five systems.
    "symbols_wolfram": Entry("symbols_wolfram", "TF1 CNN, 64×64 grey, trained on digits"),
    "mobilenet_v2_wolfram": Entry("mobilenet_v2_wolfram", "TF-Slim MobileNetV2 1.4, 1001 classes"),
    "mnist_caffe": Entry("mnist_caffe", "TF1 classifier with batch norm, trained on digits"),
    "vgg16": Entry("vgg16", "TF1 VGG-16 in core ops", "core"),
    "vgg16_layers": Entry("vgg16", "the same VGG-16 as tf.layers writes it", "layers"),
    "vgg16_slim": Entry("vgg16", "the same VGG-16 as TF-Slim writes it", "slim"),
    "mnist_softmax": Entry("mnist_softmax", "TF1 softmax regression on flat digits"),
    "cnn_introduction": Entry("cnn_introduction", "pooling, striding and reshape of a 4×4 map"),
    "alexnet_keras": Entry("alexnet", "TFLearn AlexNet, 270×480×3, 29 classes", "small"),
    # Networks for benchmarks.
    "alexnet": Entry("alexnet", "TFLearn AlexNet, 227×227×3, 1000 classes", "full"),
    "resnet50": Entry("applications", "Keras ResNet-50", "resnet50"),
    "resnet50_v2": Entry("applications", "Keras ResNet50V2", "resnet50_v2"),
    "mobilenet_v2": Entry("applications", "Keras MobileNetV2", "mobilenet_v2"),
    "mobilenet_v3_small": Entry("applications", "Keras MobileNetV3-Small", "mobilenet_v3_small"),
    "efficientnet_b0": Entry("applications", "Keras EfficientNet-B0", "efficientnet_b0"),
    "densenet121": Entry("applications", "Keras DenseNet-121", "densenet121"),
    "vgg16_keras": Entry("applications", "Keras VGG-16", "vgg16_keras"),
    "unet": Entry("applications", "Keras U-Net with transposed convolutions", "unet"),
}


def build(name: str, out: Path) -> Path:
    """Build one model in this process; returns its folder."""
    entry = TABLE[name]
    write = importlib.import_module(entry.module).write
    out.mkdir(parents=True, exist_ok=True)
    folder = out / name
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as place:
        aside = Path(place) / name
        aside.mkdir()
        built = write(aside) if entry.argument is None else write(entry.argument, aside)
        built.write_summary(aside / "summary.json")
        if folder.exists():
            folder.rename(Path(place) / "old")
        aside.rename(folder)
    accuracy = "" if built.accuracy is None else f", held-out accuracy {built.accuracy:.4f}"
    print(f"{name}: {folder / built.model.name}, {built.parameters:,} parameters{accuracy}", flush=True)
    return folder


def main() -> int:
    """The command line; exit code 2 for an unknown name, otherwise the first failing build's."""
    parser = argparse.ArgumentParser(description="Build models of the zoo in their original formats.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to build; --list shows them")
    parser.add_argument("--out", type=Path, default=Path(".fairlead/zoo"), help="folder for the models")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:22}{entry.what}" for name, entry in TABLE.items()))
        return 0
    if not options.names:
        parser.error("name at least one model; --list shows them")
    if unknown := [name for name in options.names if name not in TABLE]:
        parser.error(f"unknown model: {', '.join(unknown)}; --list shows the names")
    if len(options.names) == 1:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        build(options.names[0], options.out)
        return 0
    for name in options.names:
        command = [sys.executable, str(Path(__file__)), name, "--out", str(options.out)]
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
