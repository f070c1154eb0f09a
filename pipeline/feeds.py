"""Model inputs: zeros, seeded random, edge cases, and the user's data with its encoder and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Array, TensorSpec
from optim.errors import MissingRuntimeError, UserError
from pipeline.config import Config, PreprocessConfig

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
CHANNEL_MODES: Mapping[int, str] = {1: "L", 3: "RGB", 4: "RGBA"}
UNIT_RANGE = (0.0, 1.0)  # of image-like inputs where no data tell better
LARGE = 1e4  # the "large" edge feed; float16 ends at 65504
TOKENS = 10  # random integers are drawn below this: any vocabulary holds them

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Dataset:
    """The user's data, encoded as the model wants it.

    ``feeds``: input name to array ``[examples, ...]``; an input without a free batch dimension may be shared.
    """

    feeds: Mapping[str, Array]
    labels: Array | None = None  # int64 [examples]
    label_names: tuple[str, ...] = ()
    preprocessing: PreprocessConfig = field(default_factory=PreprocessConfig)
    shared: frozenset[str] = frozenset()  # inputs that are the same for every example
    source: str = ""

    @property
    def examples(self) -> int:
        """Number of examples."""
        return max((len(v) for k, v in self.feeds.items() if k not in self.shared), default=1)


@dataclass(frozen=True)
class Batch:
    """A slice of a dataset; only the first ``count`` examples are real, the rest repeat the last."""

    feeds: dict[str, Array]
    count: int
    start: int


# --- shapes --------------------------------------------------------------------------------------


def free_batch(specs: Sequence[TensorSpec]) -> bool:
    """Whether some input's first dimension is free, so that batch sizes can be chosen."""
    return any(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)


def resolve_shape(spec: TensorSpec, batch: int, known: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """A concrete shape: the first dimension is the batch where it is free.

    ``known`` gives sizes of symbolic dimensions.

    Raises:
        UserError: another dimension is free and nothing tells its size; says which line to add.
    """
    dims: list[int] = []
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, int) and dim >= 0:
            dims.append(dim)
        elif isinstance(dim, str) and known and dim in known:
            dims.append(known[dim])
        elif axis == 0:
            dims.append(batch)
        else:
            line = ", ".join(
                str(d) if isinstance(d, int) and d >= 0 else "-1" if i == 0 else "<size>"
                for i, d in enumerate(spec.shape)
            )
            raise UserError(
                f"dimension {axis} of input {spec.name!r} is free ({dim if dim is not None else 'unknown'})",
                where="model.inputs",
                expected="a size for every dimension but the first",
                hint=f"add under model.inputs:  {spec.name}: [{line}]",
            )
    return tuple(dims)


# --- synthetic feeds -----------------------------------------------------------------------------


def zeros(specs: Sequence[TensorSpec], batch: int = 1) -> dict[str, Array]:
    """All inputs zero."""
    return {s.name: np.zeros(resolve_shape(s, batch), dtype=s.dtype) for s in specs}


def random(
    specs: Sequence[TensorSpec], seed: int = 0, batch: int = 1, ranges: Ranges | None = None
) -> dict[str, Array]:
    """Seeded uniform inputs in ``ranges`` (see ``ranges_of``).

    Without a range: [0, 1) for images (rank 4 or 5 with 1, 3 or 4 channels), [-1, 1) for other floats,
    0 ... 255 for bytes, 0 ... 9 for other integers.
    """
    generator = np.random.default_rng(seed)
    return {s.name: _draw(generator, s, resolve_shape(s, batch), (ranges or {}).get(s.name)) for s in specs}


def _draw(
    generator: np.random.Generator,
    spec: TensorSpec,
    shape: tuple[int, ...],
    limits: tuple[float, float] | None,
) -> Array:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low, high = limits or ((0, 255) if dtype.itemsize == 1 else (0, TOKENS - 1))
        info = np.iinfo(dtype)
        return generator.integers(
            max(int(low), info.min), min(int(high), info.max), shape, endpoint=True
        ).astype(dtype)
    low, high = limits or (UNIT_RANGE if is_image(shape) else (-1.0, 1.0))
    return (low + (high - low) * generator.random(shape)).astype(dtype)


def is_image(shape: Sequence[int | str | None]) -> bool:
    """Whether a shape looks like pictures: rank 4 or 5 and 1, 3 or 4 channels, first or last."""
    return len(shape) in (4, 5) and (shape[1] in CHANNEL_MODES or shape[-1] in CHANNEL_MODES)


def edge_cases(
    specs: Sequence[TensorSpec], batch: int = 1, ranges: Ranges | None = None
) -> dict[str, dict[str, Array]]:
    """Inputs that show what typical ones hide.

    * ``constant``: one value throughout, so borders stand out;
    * ``one-hot``: a single element in the middle, so a shift or a permuted axis stands out;
    * ``large``: random times 1e4, so an overflow or a saturated activation stands out (floats only).
    """
    cases: dict[str, dict[str, Array]] = {"constant": {}, "one-hot": {}, "large": {}}
    noise = random(specs, seed=1, batch=batch, ranges=ranges)
    for spec in specs:
        shape = resolve_shape(spec, batch)
        dtype = np.dtype(spec.dtype)
        low, high = (ranges or {}).get(spec.name, UNIT_RANGE)
        value = 1 if dtype.kind in "iub" else high or low or 1.0
        cases["constant"][spec.name] = np.full(shape, value, dtype=dtype)
        single = np.zeros(shape, dtype=dtype)
        if single.size:
            single[tuple(n // 2 for n in shape)] = value
        cases["one-hot"][spec.name] = single
        cases["large"][spec.name] = (
            (noise[spec.name] * LARGE).astype(dtype) if dtype.kind == "f" else noise[spec.name]
        )
    return cases


def ranges_of(dataset: Dataset) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each input: the realistic range of random ones."""
    return {
        name: (float(array.min()), float(array.max()))
        for name, array in dataset.feeds.items()
        if array.size and array.dtype.kind in "iuf" and np.isfinite(array).all()
    }


# --- the user's data -----------------------------------------------------------------------------


def load_data(config: Config, specs: Sequence[TensorSpec]) -> Dataset | None:
    """The config's data for a model with these inputs; None where the config names none.

    Raises:
        UserError: no such file, key, label or size; both sides are named.
    """
    data = config.data
    if data.path is None:
        return None
    path = config.resolve(data.path)
    names = read_label_names(config.resolve(data.label_names)) if data.label_names else ()
    if path.is_dir():
        return _load_images(path, specs, config, names)
    if not path.is_file():
        raise UserError(
            "no such data file or folder", where=str(path), hint="data.path is relative to the config"
        )
    arrays = read_npz(path)
    feeds = select_feeds(arrays, specs, key=data.input, where=str(path), ignore=data.labels)
    if data.limit is not None:
        feeds = {k: v[: data.limit] if v.ndim else v for k, v in feeds.items()}
    feeds, shared = encode(feeds, specs, data.preprocess, where=str(path))
    labels = None
    if data.labels is not None:
        if data.labels not in arrays:
            raise UserError(
                f"no key {data.labels!r} for the labels", where=str(path), expected=f"one of {sorted(arrays)}"
            )
        labels = check_labels(arrays[data.labels][: data.limit], names, where=str(path))
    dataset = Dataset(feeds, labels, names, data.preprocess, shared, str(path))
    if labels is not None and len(labels) != dataset.examples:
        raise UserError(f"{dataset.examples} examples, but {len(labels)} labels", where=str(path))
    return dataset


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an .npz; pickled objects are refused, never loaded."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not hasattr(stored, "files"):
                raise UserError(
                    "a single array, not an .npz", where=str(path), hint="np.savez(path, x=array)"
                )
            return {key: stored[key] for key in stored.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise UserError(f"not a readable .npz without pickled objects: {error}", where=str(path)) from error


def select_feeds(
    arrays: Mapping[str, Array],
    specs: Sequence[TensorSpec],
    *,
    key: str = "x",
    where: str = "",
    ignore: str | None = None,
) -> dict[str, Array]:
    """Arrays for the model's inputs: by name, as ``in|name``, or under ``key`` for the first one.

    Raises:
        UserError: an input has no array.
    """
    found: dict[str, Array] = {}
    for index, spec in enumerate(specs):
        candidates = [spec.name, f"in|{spec.name}", *([key] if index == 0 else [])]
        hit = next((c for c in candidates if c in arrays and c != ignore), None)
        if hit is None:
            raise UserError(
                f"no array for input {spec.name!r}",
                where=where,
                expected=f"one of the keys {candidates}; the file holds {sorted(arrays)}",
                hint="set data.input to the key that holds the model's first input",
            )
        found[spec.name] = arrays[hit]
    return found


def encode(
    feeds: Mapping[str, Array], specs: Sequence[TensorSpec], preprocess: PreprocessConfig, *, where: str = ""
) -> tuple[dict[str, Array], frozenset[str]]:
    """Pre-process and fit arrays to the inputs; also which inputs are shared by all examples.

    The first input is pre-processed. A missing channel axis of size 1 is added, and pictures are flattened
    for an input ``[N, features]`` of as many elements.
    """
    encoded: dict[str, Array] = {}
    shared: set[str] = set()
    for index, spec in enumerate(specs):
        array = preprocessed(feeds[spec.name], spec, preprocess) if index == 0 else feeds[spec.name]
        whole = len(specs) > 1 and all(isinstance(d, int) for d in spec.shape) and array.shape == spec.shape
        if whole and index > 0:
            shared.add(spec.name)
            encoded[spec.name] = array.astype(spec.dtype, copy=False)
        else:
            encoded[spec.name] = fitted(array, spec, where=where)
    counts = {name: len(array) for name, array in encoded.items() if name not in shared}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise UserError(f"inputs hold different or zero numbers of examples: {counts}", where=where)
    return encoded, frozenset(shared)


def preprocessed(raw: Array, spec: TensorSpec, preprocess: PreprocessConfig) -> Array:
    """x = (raw * scale - mean) / std, per channel, in float64; ``raw`` itself where nothing is asked."""
    if preprocess == PreprocessConfig():
        return raw
    x = raw.astype(np.float64) * preprocess.scale
    for vector, apply in ((preprocess.mean, np.subtract), (preprocess.std, np.divide)):
        if vector:
            x = apply(x, _along_channels(np.asarray(vector, dtype=np.float64), x, spec))
    return x


def _along_channels(vector: Array, x: Array, spec: TensorSpec) -> Array:
    if vector.size == 1:
        return vector.reshape(())
    axes = [a for a in (x.ndim - 1, 1) if 0 < a < x.ndim and x.shape[a] == vector.size]
    if not axes:
        raise UserError(
            f"{vector.size} values for mean or std, but the data are {list(x.shape)}",
            where="data.preprocess",
            expected=f"one value, or one for each channel of input {spec.name!r}",
        )
    shape = [1] * x.ndim
    shape[axes[0]] = -1
    return vector.reshape(shape)


def fitted(array: Array, spec: TensorSpec, *, where: str = "") -> Array:
    """``array`` with the shape and dtype of an input, or a UserError that names both."""
    if not _fits(array.shape, spec.shape):
        flat = (len(array), int(np.prod(array.shape[1:]))) if array.ndim > 1 else array.shape
        options = [(*array.shape, 1), (*array.shape[:1], 1, *array.shape[1:])]
        options += [flat] if len(spec.shape) == 2 else []
        # only where the model states its sizes: a free axis would accept anything
        fixed = all(isinstance(d, int) for d in spec.shape[1:])
        fit = next((o for o in options if fixed and _fits(o, spec.shape)), None)
        if fit is None:
            raise UserError(
                f"data of shape {list(array.shape)} do not fit input {spec.name!r} {list(spec.shape)}",
                where=where,
                expected="examples first, then the input's own axes in its own order",
            )
        array = array.reshape(fit)
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"data of dtype {array.dtype} for input {spec.name!r}", where=where, expected="numbers"
        )
    refuse_nonfinite(array, spec.name, where=where)
    if np.dtype(spec.dtype).kind in "iu" and array.dtype.kind == "f" and not np.all(array == np.rint(array)):
        raise UserError(f"fractions for the integer input {spec.name!r}", where=where, expected=spec.dtype)
    return np.asarray(array.astype(spec.dtype, copy=False), order="C")  # a scalar stays one


def refuse_nonfinite(array: Array, name: str, *, where: str = "") -> None:
    """Refuse data for input ``name`` with a NaN or an infinity in it.

    Raises:
        UserError: says how many there are and the index of the first.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    holes = np.argwhere(~np.isfinite(array))
    count = "1 value" if len(holes) == 1 else f"{len(holes)} values"
    raise UserError(
        f"{count} of the data for input {name!r} {'is' if len(holes) == 1 else 'are'} NaN or infinite, "
        f"the first at {holes[0].tolist()}",
        where=where,
        expected="finite numbers: an answer that is NaN can be compared with nothing",
        hint="leave those examples out",
    )


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    """All axes but the first, which counts examples."""
    return len(shape) == len(wanted) and all(
        not isinstance(w, int) or w < 0 or w == s for s, w in zip(shape[1:], wanted[1:], strict=True)
    )


def read_label_names(path: Path) -> tuple[str, ...]:
    """One class name a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the label names: {error}", where=str(path)) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError("no label names in the file", where=str(path), expected="one class name a line")
    return names


def check_labels(labels: Array, names: Sequence[str], *, where: str = "") -> Array:
    """Integer labels as int64 [examples], each an index of ``names`` where those are given."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(
            f"labels are {labels.dtype}{list(labels.shape)}",
            where=where,
            expected="integers of shape [examples]",
        )
    if names and labels.size and (labels.min() < 0 or labels.max() >= len(names)):
        raise UserError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {len(names)} label names",
            where=where,
        )
    return labels.astype(np.int64)


# --- image folders -------------------------------------------------------------------------------


def _load_images(
    folder: Path, specs: Sequence[TensorSpec], config: Config, names: tuple[str, ...]
) -> Dataset:
    """Pictures of a folder, or of one subfolder a class where label names are given."""
    data = config.data
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise UserError(
            "no pictures in the folder", where=str(folder), expected=f"files {sorted(IMAGE_SUFFIXES)}"
        )
    if len(specs) != 1:
        raise UserError(f"a picture folder feeds one input, the model has {len(specs)}", where=str(folder))
    files = files[: data.limit] if data.limit else files
    height, width, channels, first = image_geometry(specs[0])
    pictures = np.stack([read_image(f, height, width, channels) for f in files])
    if first:
        pictures = pictures.transpose(0, 3, 1, 2)
    feeds, shared = encode({specs[0].name: pictures}, specs, data.preprocess, where=str(folder))
    parents = [f.relative_to(folder).parts[0] if f.parent != folder else "" for f in files]
    labels = None
    if names and any(parents):
        unknown = sorted(set(parents) - set(names))
        if unknown:
            raise UserError(
                f"folders without a label name: {unknown}",
                where=str(folder),
                expected=f"some of {list(names)[:10]}",
            )
        labels = np.array([names.index(p) for p in parents], dtype=np.int64)
    return Dataset(feeds, labels, names, data.preprocess, shared, str(folder))


def image_geometry(spec: TensorSpec) -> tuple[int, int, int, bool]:
    """Height, width, channels of a picture input, and whether channels come first.

    Raises:
        UserError: the input is no picture, or its size is free.
    """
    shape = spec.shape
    if len(shape) == 4 and all(isinstance(d, int) for d in shape[1:]):
        if shape[3] in CHANNEL_MODES and shape[1] not in CHANNEL_MODES:
            return int(shape[1]), int(shape[2]), int(shape[3]), False  # type: ignore[arg-type]
        if shape[1] in CHANNEL_MODES and shape[3] not in CHANNEL_MODES:
            return int(shape[2]), int(shape[3]), int(shape[1]), True  # type: ignore[arg-type]
    raise UserError(
        f"input {spec.name!r} {list(shape)} takes no pictures of a known size",
        where="data.path",
        expected="[N, height, width, channels] or [N, channels, height, width] with 1, 3 or 4 channels",
        hint="give the data as an .npz, or fix the size under model.inputs",
    )


def read_image(path: Path, height: int, width: int, channels: int) -> Array:
    """One picture as uint8 [height, width, channels], resized bilinearly."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingRuntimeError("pictures need Pillow", hint="pip install 'fairlead[report]'") from error
    try:
        with Image.open(path) as opened:
            picture: Any = opened.convert(CHANNEL_MODES[channels])
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(picture, dtype=np.uint8).reshape(height, width, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"not a readable picture: {error}", where=str(path)) from error


# --- slices --------------------------------------------------------------------------------------


def with_shapes(
    specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...] | None]
) -> tuple[TensorSpec, ...]:
    """Specs with the shapes that the user states; -1 stays free."""
    return tuple(
        replace(spec, shape=tuple(None if d < 0 else d for d in shape))
        if (shape := shapes.get(spec.name)) is not None
        else spec
        for spec in specs
    )


def batch_size(specs: Sequence[TensorSpec], wanted: int) -> int:
    """``wanted`` where the batch is free, else the model's own fixed size."""
    fixed = {s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], int)}
    return wanted if free_batch(specs) or not fixed else max(int(f) for f in fixed)


def batches(dataset: Dataset, specs: Sequence[TensorSpec], size: int) -> Iterator[Batch]:
    """The dataset in slices that the model takes; a short last one is filled up where the batch is fixed."""
    fixed = not free_batch(specs)
    size = batch_size(specs, size)
    for start in range(0, dataset.examples, size):
        count = min(size, dataset.examples - start)
        feeds: dict[str, Array] = {}
        for name, array in dataset.feeds.items():
            if name in dataset.shared:
                feeds[name] = array
                continue
            part = array[start : start + count]
            if fixed and count < size:
                part = np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
            feeds[name] = part
        yield Batch(feeds, count, start)
