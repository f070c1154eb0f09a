"""Compare this net with the framework it came from, layer by layer: python compare_layers.py [--pictures DIR]

For the examples in layers.npz: the class that each side predicts, mean and variance of every layer's output
on both sides, and the shapes of all variables before and after. With --pictures the feature maps of both are
drawn as PNG files. Needs numpy and OpenCV, nothing else. Exit code 1: a printed digit or a class differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True  # a __pycache__ would be a file that the manifest does not list
DECIMALS = 2
MOST_CHANNELS = 8


def net_values(folder: Path, options: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """What the net's layers compute on the stored examples, in the axis order of the stored values."""
    import runtime  # type: ignore[import-not-found]

    told = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in told["layers"] if row["name"] in names}
    model = options["runnable_model"]
    # Fused layers have no output of their own.
    net = runtime.read(folder, {"artefact": {"options": {**options, "fusion": False}}}, model)
    with np.load(folder / "layers.npz", allow_pickle=False) as stored:
        feeds = {key[3:]: stored[key] for key in stored.files if key.startswith("in|")}
    runtime.feed(net, options["ports"]["inputs"], feeds)
    results = net.forward([row["blob"] for row in rows.values()])
    return {
        name: np.transpose(result, np.argsort(row["perm"]))
        for (name, row), result in zip(rows.items(), results, strict=True)
    }


def source_values(folder: Path) -> dict[str, Any]:
    """What the source framework computed, by layer."""
    with np.load(folder / "layers.npz", allow_pickle=False) as stored:
        return {key[6:]: stored[key] for key in stored.files if key.startswith("layer|")}


def moments(value: Any) -> tuple[float, float]:
    """Mean and population variance, in float64."""
    doubled = value.astype(np.float64)
    return float(doubled.mean()), float(doubled.var())


def compare(folder: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a layer: moments on both sides, whether they print alike, and the largest difference."""
    told = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in told["layers"]]
    source, net = source_values(folder), net_values(folder, options, names)
    rows = []
    for row in told["layers"]:
        a, b = source[row["name"]], net[row["name"]]
        (mean_a, var_a), (mean_b, var_b) = moments(a), moments(b)
        alike = [f"{x:.{DECIMALS}f}" == f"{y:.{DECIMALS}f}" for x, y in ((mean_a, mean_b), (var_a, var_b))]
        spread = float(a.max() - a.min()) or 1.0
        rows.append(
            {
                "layer": row["name"],
                "target_layer": row["blob"],
                "shape": list(b.shape[1:]),
                "mean_source": mean_a,
                "mean_target": mean_b,
                "variance_source": var_a,
                "variance_target": var_b,
                "same_digits": all(alike),
                "max_abs_over_range": float(np.abs(a - b).max()) / spread,
            }
        )
    return rows


def pictures(folder: Path, options: dict[str, Any], out: Path) -> list[str]:
    """One PNG a layer of images: the first channels of the first example, source above, net below."""
    import cv2

    out.mkdir(parents=True, exist_ok=True)
    source = {name: value for name, value in source_values(folder).items() if value.ndim == 4}
    net = net_values(folder, options, list(source))
    written = []
    for name, value in source.items():
        # Channels first, unless the first axis after the batch is the picture's own height.
        first = 1 if value.shape[1] != value.shape[2] or value.shape[2] == value.shape[3] else 3
        both = [np.moveaxis(one[0], first - 1, 0)[:MOST_CHANNELS] for one in (value, net[name])]
        low, high = float(both[0].min()), float(both[0].max())
        grey = [np.clip((one - low) / ((high - low) or 1.0) * 255, 0, 255).astype(np.uint8) for one in both]
        lines = [np.hstack([np.pad(channel, 1, constant_values=128) for channel in side]) for side in grey]
        picture = np.kron(np.vstack(lines), np.ones((2, 2), np.uint8))
        file = "".join(c if c.isalnum() or c in "_-." else "_" for c in name) + ".png"
        if not cv2.imwrite(str(out / file), picture):
            raise OSError(f"cannot write {out / file}")
        written.append(file)
    return written


def show(folder: Path, options: dict[str, Any]) -> bool:
    """Print everything; whether every class and every printed digit agrees."""
    told = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    rows = compare(folder, options)
    print(f"{told['framework']} (source) and Caffe (net), on {told['feed']}\n")
    good = show_predictions(predictions(folder, options))
    heads = " ".join(f"{word:>12}" for word in ("mean source", "net", "var. source", "net"))
    print(f"{'layer':24} {'shape':14} {heads}  max|d|/range")
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        figures = [row[key] for key in ("mean_source", "mean_target", "variance_source", "variance_target")]
        texts = " ".join(f"{figure:12.{DECIMALS}f}" for figure in figures)
        mark = "" if row["same_digits"] else "  DIFFERS"
        print(f"{row['layer'][:24]:24} {shape:14} {texts}  {row['max_abs_over_range']:.1e}{mark}")
    print(f"\n{'variable':28} {'before':18} {'after':18} permutation")
    for layer in told["layers"]:
        for weight in layer["weights"]:
            print(f"{weight['name']:28} {weight['shape']!s:18} {weight['after']!s:18} {weight['how']}")
    return good and all(row["same_digits"] for row in rows)


def predictions(folder: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an example: the class that each side names and its value; none where the net names no class."""
    told = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    last = told["layers"][-1]["name"]
    source, net = source_values(folder)[last], net_values(folder, options, [last])[last]
    if source.ndim != 2:
        return []
    labels = folder / "labels.txt"
    names = labels.read_text(encoding="utf-8").split("\n")[:-1] if labels.is_file() else []
    rows = []
    for a, b in zip(source, net, strict=True):
        words = [names[k] if k < len(names) else f"class {k}" for k in (int(a.argmax()), int(b.argmax()))]
        values = (float(a.max()), float(b.max()))
        rows.append(
            {"source": words[0], "source_value": values[0], "target": words[1], "target_value": values[1]}
        )
    return rows


def show_predictions(rows: list[dict[str, Any]]) -> bool:
    """Print the predictions; whether the classes agree."""
    print(f"{'example':>7}  {'source':20} {'net':20}")
    for index, row in enumerate(rows):
        texts = [f"{row[side]} {row[f'{side}_value']:.4f}" for side in ("source", "target")]
        print(
            f"{index:7}  {texts[0]:20} {texts[1]:20}{'' if row['source'] == row['target'] else '  DIFFERS'}"
        )
    print()
    return all(row["source"] == row["target"] for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare this net with its source, layer by layer.")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw feature maps into DIR")
    given = parser.parse_args()
    sys.path.append(str(HERE))
    artefact = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))["artefact"]
    options = {**artefact["options"], "runnable_model": artefact["files"][0]}
    good = show(HERE, options)
    if given.pictures is not None:
        print(f"\n{len(pictures(HERE, options, given.pictures))} pictures in {given.pictures}")
    print("\nthe same in every printed digit" if good else "\nDIFFERENT: see the lines marked above")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
