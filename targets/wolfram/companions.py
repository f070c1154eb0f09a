"""What stands beside a Wolfram net: references in HDF5, the classifier of images, and the scripts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from optim.contract import Array
from optim.errors import InternalError
from targets.bundle_context import BundleContext
from targets.closeness import Closeness, Gate, closeness, worst
from targets.references import Reference
from targets.test_set import TestSet
from targets.wolfram.evaluate import NetGraph
from targets.wolfram.text import call, listing, string

REFERENCES_FILE: Final = "references.h5"
CLASSIFIER_FILE: Final = "classifier.wl"
TEMPLATES: Final = Path(__file__).parents[1] / "templates" / "wolfram"
SCRIPTS: Final = ("verify.wls", "export.wls")
ACCURACY: Final = "accuracy.wls"
TEST_SET_FILE: Final = "test_set.h5"


def held_example(array: Array, perm: list[int]) -> Array:
    """The first example of a batch as the net holds it: without the batch, channels first."""
    return np.ascontiguousarray(array.transpose(perm)[0])


def check(
    text: str,
    parameters: Mapping[str, Array],
    ports: Mapping[str, Any],
    given: BundleContext,
    *,
    softmax: bool,
) -> Closeness:
    """The emitted text, evaluated on the first example of every reference.

    ``softmax``: the outputs are probabilities, compared as logarithms.

    Raises:
        InternalError: it does not compute what the references say.
    """
    net = NetGraph(text, parameters)
    entered, left = ports["input"], ports["output"]
    found, gate = [], Gate()
    for reference in given.references:
        x = held_example(reference.feeds[entered["tensor"]], entered["perm"])
        expected = held_example(reference.outputs[left["tensor"]], left["perm"])
        figure = closeness(net(x).astype(expected.dtype), expected, softmax=softmax)
        if not gate.passes(figure):
            raise InternalError(
                f"the net is {figure.max_abs_over_range:.3g} of the range off, {figure.snr_db:.0f} dB",
                where=f"reference {reference.name}",
                expected=_bounds(gate),
            )
        found.append(figure)
    return worst(found)


def _bounds(gate: Gate) -> str:
    return f"at most {gate.max_abs_over_range:g} and at least {gate.snr_db:g} dB"


def write_references(file: Path, ports: Mapping[str, Any], given: BundleContext) -> None:
    """Zeros, one random input and the user's examples, in the dimensions of the net's ports.

    Datasets: ``OutputForZeros``, ``RandomInput``, ``OutputForRandom``; ``ExampleInputs`` and
    ``ExampleOutputs`` where there is data. float32, channels first; the examples have a first axis more.
    """
    import h5py

    entered, left = ports["input"], ports["output"]

    def both(reference: Reference) -> tuple[Array, Array]:
        feed, output = reference.feeds[entered["tensor"]], reference.outputs[left["tensor"]]
        return feed.transpose(entered["perm"]), output.transpose(left["perm"])

    named = {reference.name: reference for reference in given.references}
    random = next((named[name] for name in named if name.startswith("random")), None)
    with h5py.File(file, "w", track_order=True) as store:
        store.attrs["order"] = "channels first, without a batch axis"
        if "zeros" in named:
            store["OutputForZeros"] = both(named["zeros"])[1][0]
        if random is not None:
            x, y = both(random)
            store["RandomInput"], store["OutputForRandom"] = x[0], y[0]
        if "data" in named:
            store["ExampleInputs"], store["ExampleOutputs"] = both(named["data"])


def classifier_text(ports: Mapping[str, Any], given: BundleContext) -> str | None:
    """The text of ``classifier.wl``: the net behind a NetEncoder of images, before a NetDecoder of classes.

    None where the input is no image. NetEncoder takes bytes to [0, 1], subtracts the mean and divides by the
    square root of the variance, channel by channel: x = (u - mean/(255·scale)) / (std/(255·scale)).
    """
    spec = given.preprocess
    dimensions = ports["input"]["dimensions"]
    if not spec or spec["layout"] is None or spec["channels"] not in (1, 3) or len(dimensions) != 3:
        return None
    scale = 255.0 * float(spec["scale"])
    count = int(spec["channels"])
    mean = _spread(spec["mean"], count, 0.0) / scale
    variance = (_spread(spec["std"], count, 1.0) / scale) ** 2
    width, height = dimensions[2], dimensions[1]
    rules = {"ColorSpace": '"Grayscale"' if count == 1 else '"RGB"'}
    if mean.any():
        rules["MeanImage"] = _numbers(mean)
    if not np.allclose(variance, 1.0, rtol=1e-12):
        rules["VarianceImage"] = _numbers(variance)
    texts = [f"{string(key)} -> {value}" for key, value in rules.items()]
    encoder = call("NetEncoder", listing(['"Image"', listing([width, height]), *texts]))
    lines = [
        '(* Get["classifier.wl"] gives a net that takes an image{}. *)',
        "Block[{here, net, labels},",
        "here = DirectoryName[$InputFileName];",
        'net = Get[FileNameJoin[{here, "build.wl"}]];',
    ]
    replaced = f'"Input" -> {encoder}'
    names = given.labels
    if names and len(ports["output"]["dimensions"]) == 1 and ports["output"]["dimensions"] == [len(names)]:
        lines[0] = lines[0].format(" and names its class")
        lines += [
            'labels = StringSplit[Import[FileNameJoin[{here, "labels.txt"}], "Text"], "\\n"];',
            *_distinct(names),
        ]
        replaced += ', "Output" -> NetDecoder[{"Class", labels}]'
    else:
        lines[0] = lines[0].format("")
    return "\n".join([*lines, "", f"NetReplacePart[net, {{{replaced}}}]", "]", ""])


def _distinct(names: tuple[str, ...]) -> list[str]:
    """NetDecoder needs distinct classes; one that occurs twice gets its number, counted from 0."""
    if max(Counter(names).values()) == 1:
        return []
    return [
        "labels = MapIndexed[If[Count[labels, #1] > 1,"
        ' #1 <> " (" <> ToString[First[#2] - 1] <> ")", #1] &, labels];'
    ]


def _spread(values: Any, count: int, default: float) -> Array:
    found = np.asarray(list(values) or [default], np.float64)
    return np.broadcast_to(found, (count,))


def _numbers(values: Array) -> str:
    texts = []
    for value in values:
        mantissa, _, exponent = f"{value:.12g}".partition("e")
        texts.append(mantissa if not exponent else f"{mantissa}*^{int(exponent)}")
    return listing(texts)


def write_test_set(file: Path, given: TestSet) -> None:
    """Raw pictures as bytes, [N, H, W] or [N, H, W, C], and class numbers counted from 0."""
    import h5py

    images = given.images[..., 0] if given.images.ndim == 4 and given.images.shape[-1] == 1 else given.images
    with h5py.File(file, "w") as store:
        store.create_dataset("Images", data=images, compression="gzip")
        if given.labels is not None:
            store["Labels"] = given.labels


def write(
    folder: Path, ports: Mapping[str, Any], given: BundleContext, test_set: TestSet | None
) -> list[str]:
    """References, the classifier and the test set where there are some, scripts; returns their names."""
    write_references(folder / REFERENCES_FILE, ports, given)
    written = [REFERENCES_FILE]
    classifier = classifier_text(ports, given)
    if classifier is not None:
        (folder / CLASSIFIER_FILE).write_text(classifier, encoding="utf-8")
        written.append(CLASSIFIER_FILE)
    scripts = list(SCRIPTS)
    if test_set is not None:
        write_test_set(folder / TEST_SET_FILE, test_set)
        written.append(TEST_SET_FILE)
        named = classifier is not None and "NetDecoder" in classifier and test_set.images.dtype == np.uint8
        scripts += [ACCURACY] if named and test_set.labels is not None else []
    for name in scripts:
        shutil.copyfile(TEMPLATES / name, folder / name)
    return [*written, *scripts]
