"""Golden files: reference inputs and outputs, recorded where the old framework still runs, as HDF5 or npz.

Names of the arrays follow the MobileNetV2 checks: ``OutputForZeros``, ``RandomInput``, ``OutputForRandom``. A
model with one input and one output stores plain arrays under these names; one with several stores an array
for each tensor: ``RandomInput|<tensor>`` in npz, a group ``RandomInput`` with one array a tensor in HDF5.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optim.contract import Array, Feeds, Outputs
from optim.errors import MissingRuntimeError, UserError
from pipeline import feeds as make
from pipeline.config import GateConfig
from pipeline.feeds import read_npz
from pipeline.parity.compare import Contender, compare_pair
from pipeline.parity.study import summary
from pipeline.records import ParityRecord
from targets.contract import Session

ZEROS, RANDOM, FOR_RANDOM = "OutputForZeros", "RandomInput", "OutputForRandom"
SUFFIXES = (".h5", ".hdf5", ".npz")


@dataclass(frozen=True)
class Golden:
    """Reference arrays by tensor name; the name is empty where the file holds one plain array."""

    random_input: Mapping[str, Array]
    output_for_random: Mapping[str, Array]
    output_for_zeros: Mapping[str, Array]

    def arrays(self) -> dict[str, Mapping[str, Array]]:
        """The three sets under their names in the file."""
        return {ZEROS: self.output_for_zeros, RANDOM: self.random_input, FOR_RANDOM: self.output_for_random}


def record(
    session: Session,
    path: Path,
    *,
    seed: int = 0,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...] | None] | None = None,
) -> Golden:
    """Run a model on zeros and on a seeded random input, and write both results to ``path``.

    ``shapes``: of inputs whose sizes the model leaves free; -1 stays free.

    Raises:
        UserError: the suffix is none of .h5, .hdf5, .npz; a dimension is free; the outputs are not finite.
    """
    _suffix(path)
    specs = make.with_shapes(session.inputs, shapes or {})
    inputs = make.random(specs, seed, batch)
    golden = Golden(
        random_input=inputs,
        output_for_random=session.run(inputs),
        output_for_zeros=session.run(make.zeros(specs, batch)),
    )
    write_golden(path, golden)
    return golden


def write_golden(path: Path, golden: Golden) -> None:
    """Write a golden file; the old one stays until the new one is whole.

    Raises:
        UserError: unknown suffix, nothing to store, or arrays that are not finite.
    """
    _check(golden, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    if _suffix(path) == ".npz":
        flat = {
            f"{key}|{name}" if len(tensors) > 1 or not _single(golden) else key: value
            for key, tensors in golden.arrays().items()
            for name, value in tensors.items()
        }
        with partial.open("wb") as stream:
            np.savez(stream, **flat)  # type: ignore[arg-type]
    else:
        with _h5py().File(partial, "w") as file:
            for key, tensors in golden.arrays().items():
                if _single(golden):
                    file[key] = next(iter(tensors.values()))
                    continue
                group = file.create_group(key)
                for name, value in tensors.items():
                    group[name] = value
    os.replace(partial, path)  # noqa: PTH105  the atomic one


def read_golden(path: Path) -> Golden:
    """Read a golden file of either kind.

    Raises:
        UserError: missing or damaged file, or one of the three sets is not in it.
    """
    if not path.is_file():
        raise UserError("no such golden file", where=str(path))
    flat = dict(_from_npz(path) if _suffix(path) == ".npz" else _from_h5(path))
    sets: dict[str, dict[str, Array]] = {ZEROS: {}, RANDOM: {}, FOR_RANDOM: {}}
    for (key, name), value in flat.items():
        if key in sets:
            sets[key][name] = value
    missing = [key for key, tensors in sets.items() if not tensors]
    if missing:
        raise UserError(
            f"the golden file lacks {', '.join(missing)}",
            where=str(path),
            expected=f"{ZEROS}, {RANDOM} and {FOR_RANDOM}; it holds {sorted({k for k, _ in flat})}",
        )
    golden = Golden(sets[RANDOM], sets[FOR_RANDOM], sets[ZEROS])
    _check(golden, str(path))
    return golden


def is_golden(path: Path) -> bool:
    """Whether a file is a golden one: an .npz, or HDF5 with ``OutputForZeros``, which no Keras model has."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return True
    if suffix not in SUFFIXES or not path.is_file():
        return False
    try:
        with _h5py().File(path, "r") as file:
            return ZEROS in file
    except (OSError, MissingRuntimeError):
        return False


def check_golden(session: Session, golden: Golden, gate: GateConfig, *, name: str = "model") -> ParityRecord:
    """Compare a model's outputs with the recorded ones.

    The record's ``max_abs`` and ``max_relative_clipped`` are MaxAbsoluteDifference and MaxRelativeDifference.

    Raises:
        UserError: the recorded tensors are not the model's: other names, counts or shapes.
    """
    inputs = _named(golden.random_input, [s.name for s in session.inputs], "inputs")
    cases: dict[str, tuple[Feeds, Mapping[str, Array]]] = {
        "golden zeros": ({k: np.zeros_like(v) for k, v in inputs.items()}, golden.output_for_zeros),
        "golden random": (inputs, golden.output_for_random),
    }
    outputs = tuple(s.name for s in session.outputs)
    reference, model = Contender("golden file"), Contender(name)
    comparisons = []
    for label, (feed, recorded) in cases.items():
        expected: Outputs = _named(recorded, list(outputs), "outputs")
        comparisons += compare_pair(
            "reference_vs_artefact", label, outputs, reference, model, expected, session.run(feed), gate
        )
    settings = dict(getattr(session, "settings", {}))
    return summary(comparisons, (), gate, settings, [], [], 0.0)


def _named(arrays: Mapping[str, Array], names: list[str], kind: str) -> dict[str, Array]:
    """Arrays under the model's names; one nameless array belongs to the only tensor."""
    if set(arrays) == {""} and len(names) == 1:
        return {names[0]: arrays[""]}
    if set(arrays) != set(names):
        raise UserError(
            f"the golden file's {kind} are not the model's",
            where=f"golden file: {sorted(arrays) if set(arrays) != {''} else '1 array without a name'}",
            expected=f"{names}",
        )
    return dict(arrays)


def _single(golden: Golden) -> bool:
    return all(len(tensors) == 1 for tensors in golden.arrays().values())


def _check(golden: Golden, where: str) -> None:
    for key, tensors in golden.arrays().items():
        if not tensors:
            raise UserError(f"nothing recorded under {key}", where=where)
        for name, value in tensors.items():
            if value.dtype.kind not in "biuf" or value.size == 0 or not np.isfinite(value).all():
                raise UserError(
                    f"{key} {name} is {value.dtype}{list(value.shape)} and not usable as a reference",
                    where=where,
                    expected="finite numbers, at least one",
                )


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            "no name of a golden file", where=str(path), expected=f"a name that ends in {', '.join(SUFFIXES)}"
        )
    return suffix


def _from_npz(path: Path) -> Iterator[tuple[tuple[str, str], Array]]:
    for key, value in read_npz(path).items():
        head, _, name = key.partition("|")
        yield (head, name), value


def _from_h5(path: Path) -> list[tuple[tuple[str, str], Array]]:
    h5py = _h5py()
    found: list[tuple[tuple[str, str], Array]] = []

    def visit(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise UserError(f"{place} keeps its data in another file", where=str(path))
            head, _, name = place.partition("/")
            found.append(((head, name), np.asarray(item)))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise UserError(f"not a readable HDF5 file: {error}", where=str(path)) from error
    return found


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingRuntimeError(
            "HDF5 files need h5py", hint="pip install 'fairlead[tensorflow]', or use .npz"
        ) from error
    return h5py
