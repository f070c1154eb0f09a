"""Run this model on one file: python predict.py INPUT [--top K] [--device cpu]

INPUT is an array (.npy, or .npz with one array) or an image (needs Pillow). Floats are taken as the model's
input; integers, where the model takes floats, and images are raw data, scaled and normalised as
preprocess.json says. Needs numpy and the target's runtime, nothing else. A bundle made for a GPU runs there
and never falls back; --device cpu runs the same file on the CPU. Exit code 0: done. 1: this bundle is damaged
or its model does not run. 2: INPUT cannot be used. 4: a package, runtime or device is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.dont_write_bytecode = True  # a __pycache__ would be a file that the manifest does not list

HERE = Path(__file__).resolve().parent
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
DAMAGED, WRONG_INPUT, MISSING = 1, 2, 4
CHECK = "`python verify.py` in this folder says what is wrong with it"


def stop(code: int, where: object, what: object, hint: str) -> NoReturn:
    """One line on standard error: where, what, and what to try."""
    print(f"{where}: {' '.join(str(what).split())}. Try: {hint}", file=sys.stderr)
    sys.exit(code)


def read_json(name: str) -> Any:
    """A file of this bundle."""
    try:
        return json.loads((HERE / name).read_text(encoding="utf-8"))
    except OSError as error:
        stop(DAMAGED, HERE / name, f"cannot be read: {error.strerror}", "copy the whole bundle again")
    except ValueError as error:
        stop(DAMAGED, HERE / name, f"is damaged: {error}", CHECK)


def read_array(np: Any, file: Path) -> Any:
    """The array of an .npy, or the only input in an .npz; never a pickle."""
    hint = "give an .npy, an .npz with one array, or an image: " + " ".join(sorted(IMAGES))
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            keys = [key for key in loaded.files if not key.startswith("out|")]
            if len(keys) == 1:
                return loaded[keys[0]]
    except Exception as error:  # numpy, zipfile and zlib each have their own
        known = file.suffix.lower() in (".npy", ".npz")
        what = f"cannot be read as an array: {error}" if known else "is neither an array nor an image"
        stop(WRONG_INPUT, file, what, hint)
    stop(WRONG_INPUT, file, f"holds {len(keys)} arrays: {', '.join(keys) or 'none'}", hint)


def read_image(np: Any, file: Path, spec: dict[str, Any]) -> Any:
    """Pixels of an image as the model's input: resize, scale, subtract mean, divide by std."""
    try:
        from PIL import Image
    except ImportError:
        stop(MISSING, file, "reading images needs Pillow", "pip install pillow")
    if spec["layout"] is None or spec["channels"] not in (1, 3, 4):
        stop(WRONG_INPUT, file, "this model's input is not an image", "give an .npy or .npz")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[spec["channels"]]
    try:
        with Image.open(file) as image:
            converted = image.convert(mode)
            if spec["size"]:
                height, width = spec["size"]
                converted = converted.resize((width, height), Image.Resampling.BILINEAR)
            pixels: Any = np.asarray(converted, np.float32)
    except Exception as error:  # each decoder has its own
        # Pillow's own message for a file that is no image names the file once more.
        damaged = str(error) if "cannot identify" not in str(error) else "no image format is recognised"
        hint = "does it open in an image viewer? Save it again as PNG"
        stop(WRONG_INPUT, file, f"cannot be read as an image: {damaged}", hint)
    pixels = pixels.reshape(*pixels.shape[:2], spec["channels"])
    return encoded(np, pixels.transpose(2, 0, 1) if spec["layout"] == "NCHW" else pixels, spec)


def encoded(np: Any, raw: Any, spec: dict[str, Any]) -> Any:
    """(raw * scale - mean) / std; mean and std run along the channels."""
    data = np.asarray(raw, np.float32) * np.float32(spec["scale"])
    shape = (-1, 1, 1) if spec["layout"] == "NCHW" else (-1,)
    if spec["mean"]:
        data = data - np.asarray(spec["mean"], np.float32).reshape(shape)
    if spec["std"]:
        data = data / np.asarray(spec["std"], np.float32).reshape(shape)
    return data


def batch_of(np: Any, file: Path, data: Any, spec: dict[str, Any]) -> Any:
    """``data`` as a batch of the model's inputs, or an end that names both shapes."""
    wanted = spec["shape"]
    if data.dtype.kind not in "biuf":
        stop(WRONG_INPUT, file, f"holds {data.dtype}, not numbers", f"an array of {spec['dtype']}")
    batch = data[None] if data.ndim == len(wanted) - 1 else data
    fits = batch.ndim == len(wanted) and all(
        not isinstance(w, int) or w == have
        for w, have in zip(wanted[1:], batch.shape[1:])  # noqa: B905
    )
    if not fits:
        shape = ", ".join(str(size) if isinstance(size, int) else "any" for size in wanted)
        what = f"holds an array of shape {list(data.shape)}; input {spec['input']!r} takes [{shape}]"
        stop(
            WRONG_INPUT,
            file,
            what,
            "give it in that shape; the first axis counts examples and may be left out",
        )
    if batch.dtype.kind in "iu" and np.dtype(spec["dtype"]).kind == "f":
        print("integers are raw data: scaled and normalised as preprocess.json says")
        batch = encoded(np, batch, spec)
    return np.asarray(batch, spec["dtype"])


def model_on(manifest: dict[str, Any], device: str | None) -> str:
    """The bundle's model, as `runtime.load` asks for it on the device wanted; None: the bundle's own."""
    model = str(manifest["artefact"]["files"][0])
    options = manifest["artefact"]["options"]
    own = options.get("device")
    if device in (None, own):
        return model
    if f"{model}#{device}" in options.get("runnable", []):
        print(f"on {device}, not on {own}, for which this bundle is made")
        return f"{model}#{device}"
    made_for = f", only for {own}" if own else ""
    stop(WRONG_INPUT, f"--device {device}", f"this bundle is not made for it{made_for}", "leave it out")


def answer(manifest: dict[str, Any], feeds: dict[str, Any], model: str) -> Any:
    """The model's first output."""
    install = "install it; sbom.cdx.json lists the versions"
    try:
        import runtime  # type: ignore[import-not-found]
    except ImportError as error:
        stop(MISSING, model, error, install)
    try:
        run = runtime.load(HERE, manifest, model)
    except ImportError as error:
        other = f"{model}#cpu" in manifest["artefact"]["options"].get("runnable", [])
        stop(MISSING, model, error, "--device cpu runs the same file on the CPU" if other else install)
    except Exception as error:  # a runtime may raise anything
        stop(DAMAGED, HERE / model, f"cannot be loaded: {error}", CHECK)
    try:
        return run(feeds)[manifest["outputs"][0]["name"]]
    except Exception as error:
        stop(DAMAGED, model, f"does not run: {error}", CHECK)


def show(np: Any, output: Any, names: list[str], top: int) -> None:
    """The best classes of every example, or the range of an output that is no row of classes."""
    for index, row in enumerate(output.reshape(output.shape[0], -1)):
        print(f"example {index}:")
        if row.size != len(names) and output.ndim != 2:
            print(f"  output {output.shape[1:]}, min {row.min():.6g}, max {row.max():.6g}")
            continue
        for best in np.argsort(-row, kind="stable")[:top]:
            print(f"  {row[best]:10.6f}  {names[best] if best < len(names) else f'class {best}'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run this model on one array or image.")
    parser.add_argument("input", type=Path)
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cpu: where a bundle for a GPU has none")
    given = parser.parse_args()
    try:
        import numpy as np
    except ImportError as error:
        stop(MISSING, Path(__file__).name, error, "pip install numpy")
    manifest, spec = read_json("manifest.json"), read_json("preprocess.json")
    if len(manifest["inputs"]) != 1:
        what = f"this model has {len(manifest['inputs'])} inputs, one file does not feed it"
        stop(WRONG_INPUT, given.input, what, "verify.py and references/ show how to feed all of them")
    if not given.input.is_file():
        what = "is a folder" if given.input.is_dir() else "there is no such file"
        stop(WRONG_INPUT, given.input, what, "give the path of an image, .npy or .npz")
    model = model_on(manifest, given.device)
    image = given.input.suffix.lower() in IMAGES
    data = read_image(np, given.input, spec) if image else read_array(np, given.input)
    output = answer(manifest, {spec["input"]: batch_of(np, given.input, data, spec)}, model)
    labels = HERE / "labels.txt"
    names = labels.read_text(encoding="utf-8").split("\n")[:-1] if labels.exists() else []
    show(np, output, names, given.top)


if __name__ == "__main__":
    main()
