"""ONNX Runtime without copies of the weights: mapped from their file or lent, and the same numbers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import targets.reference as reference
from optim.contract import Feeds, Numerics, Outputs, PassInfo
from optim.model import load, save
from optim.recipes import recipe_of
from optim.schedule import optimize
from optim.stored_weights import StoredTensor
from optim.verify import Certifier, Probe
from targets.light_model import light_model
from targets.reference import OrtOracle, OrtSession
from tests.optim.table import graph, normal

_WIDTH = 600  # a float32 matrix of this width and height is large (1.4 MB)
X = normal(3, _WIDTH, scale=1.0)


def _network() -> ir.Model:
    """Two dense layers, the first behind a transposed weight, and a small bias; weights in memory."""
    square = (_WIDTH, _WIDTH)
    model = graph(
        f"g (float[N, {_WIDTH}] X) => (float[N, {_WIDTH}] Y)"
        "{ T = Transpose<perm = [1, 0]>(a) H = MatMul(X, T) R = Relu(H) S = MatMul(R, b) Y = Add(S, c) }",
        {
            "a": normal(*square, seed=1, scale=0.03),
            "b": normal(*square, seed=2, scale=0.03),
            "c": normal(_WIDTH, seed=3),
        },
    )
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.Tensor(value.const_value.numpy())
    return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    save(_network(), path)
    return path


@pytest.fixture
def plain(file: Path) -> np.ndarray:
    """What ONNX Runtime answers when it parses the file itself."""
    with OrtSession(file, optimization="off") as session:
        return session.run({"X": X})["Y"]


def _weight(model: ir.Model, name: str) -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def test_weights_in_a_file_are_named_by_their_place(file: Path, plain: np.ndarray) -> None:
    model = load(file)
    light = light_model(model)
    assert light.folder == file.parent.resolve()
    assert not light.arrays
    assert len(light.content) < 5000 < file.stat().st_size
    stored = {t.name: t for t in onnx.ModelProto.FromString(light.content).graph.initializer}
    places = {e.key: e.value for e in stored["a"].external_data}
    tensor = _weight(model, "a")
    assert isinstance(tensor, StoredTensor)  # the model itself is as it was
    assert places["location"] == "m.onnx"
    assert int(places["offset"]) == tensor.offset
    assert stored["c"].HasField("raw_data")  # small
    with OrtSession(light, optimization="off") as session:
        np.testing.assert_array_equal(session.run({"X": X})["Y"], plain)


def test_weights_in_memory_are_lent_not_copied(plain: np.ndarray) -> None:
    model = _network()
    light = light_model(model)
    assert sorted(light.arrays) == ["a", "b"]
    for name, array in light.arrays.items():
        assert np.shares_memory(array, _weight(model, name).numpy())
    assert len(light.content) < 5000
    with OrtSession(light, optimization="off") as session:
        del light, model
        gc.collect()
        np.testing.assert_array_equal(session.run({"X": X})["Y"], plain)


def test_a_file_that_another_has_replaced_is_not_opened_by_its_name(file: Path, plain: np.ndarray) -> None:
    model = load(file)
    changed = load(file)
    changed.graph.initializers["b"].const_value = ir.Tensor(_weight(changed, "b").numpy() * 2)
    save(changed, file)
    light = light_model(model)
    assert sorted(light.arrays) == ["a", "b"]
    assert light.folder is None
    with OrtSession(light, optimization="off") as session:
        np.testing.assert_array_equal(session.run({"X": X})["Y"], plain)


def test_external_data_beside_the_model(tmp_path: Path, plain: np.ndarray) -> None:
    save(_network(), tmp_path / "apart.onnx", external=True)
    model = load(tmp_path / "apart.onnx")
    np.testing.assert_array_equal(OrtOracle()(model, {"X": X})["Y"], plain)
    model.graph.initializers["b"].const_value = ir.Tensor(_weight(model, "b").numpy() * 2)
    light = light_model(model)
    assert sorted(light.arrays) == ["b"]
    with OrtSession(light, optimization="off") as session:
        np.testing.assert_allclose(session.run({"X": X})["Y"], plain * 2, atol=1.0)


@pytest.mark.parametrize("level", ["off", "basic", "extended", "all"])
def test_mapped_and_parsed_weights_give_the_same_bits(file: Path, level: reference.OptimizationLevel) -> None:
    with (
        OrtSession(file, optimization=level) as parsed,
        OrtSession(file, optimization=level, map_weights=True) as mapped,
    ):
        assert [s.name for s in mapped.outputs] == [s.name for s in parsed.outputs]
        np.testing.assert_array_equal(mapped.run({"X": X})["Y"], parsed.run({"X": X})["Y"])


def test_exposing_writes_no_copy_of_the_model(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a model was written")

    monkeypatch.setattr(ir, "save", refused)
    monkeypatch.setattr(reference, "written", refused)
    with OrtSession(file, optimization="off", expose=["H"]) as session:
        found = session.run({"X": X})
    np.testing.assert_allclose(found["H"], X @ _weight(load(file), "a").numpy().T, rtol=1e-3, atol=1e-4)
    with OrtSession(light_model(load(file)), optimization="off", expose=["H"]) as session:
        np.testing.assert_array_equal(session.run({"X": X})["H"], found["H"])


class _Counted:
    """An oracle that knows how many graphs it has prepared, and how many of them were alive at once."""

    def __init__(self) -> None:
        self._inner = OrtOracle()
        self._alive: weakref.WeakSet[OrtSession] = weakref.WeakSet()
        self.most = self.prepared = 0

    def __call__(self, model: ir.Model, feeds: Feeds) -> Outputs:
        raise AssertionError("called where it could have been prepared")

    def prepare(self, model: ir.Model) -> Callable[[Feeds], Outputs]:
        session = self._inner._load(model)
        self._alive.add(session)
        self.prepared += 1
        self.most = max(self.most, len(self._alive))
        return session.run


def test_a_recipe_holds_one_graph_at_a_time(file: Path) -> None:
    model, oracle = load(file), _Counted()
    ledger = optimize(model, recipe_of(("infer_shapes", "fold_constants", "fuse_gemm")), oracle=oracle)
    assert sum(len(record.sites) for record in ledger.records) >= 2
    assert oracle.prepared >= 3
    assert oracle.most == 1


def test_a_certificate_holds_one_graph_at_a_time(file: Path) -> None:
    """The graph before, the graph after, and, since they differ, the one before with its weights moved."""
    before, after, oracle = load(file), load(file), _Counted()
    after.graph.initializers["b"].const_value = ir.Tensor(_weight(after, "b").numpy() * np.float32(1 + 1e-5))
    certifier = Certifier(oracle, before, [Probe("random", {"X": X})])
    info = PassInfo("scales", Numerics.REASSOCIATES, "")
    certificate, _ = certifier.check(after, info, before)
    assert certificate.max_abs_over_range > 16 * np.finfo(np.float32).eps
    assert oracle.prepared == 3
    assert oracle.most == 1


def test_a_graph_that_was_optimised_shares_the_untouched_weights(file: Path) -> None:
    model = load(file)
    untouched = _weight(model, "b")
    optimize(model, recipe_of(("infer_shapes", "fold_constants")), oracle=OrtOracle())
    assert _weight(model, "b") is untouched
    folded = [v.const_value for v in model.graph.initializers.values() if v.name not in ("b", "c")]
    assert folded
    assert all(isinstance(tensor, ir.LazyTensor) for tensor in folded)  # computed when read, held by nobody


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many ONNX Runtime sessions were alive each time one was made."""
    alive: weakref.WeakSet[OrtSession] = weakref.WeakSet()
    counts: list[int] = []
    original = OrtSession._open

    def counted(self: OrtSession, *arguments: object) -> object:
        opened = original(self, *arguments)  # type: ignore[arg-type]
        alive.add(self)
        counts.append(sum(getattr(one, "_session", opened) is not None for one in alive))
        return opened

    monkeypatch.setattr(OrtSession, "_open", counted)
    yield counts


def test_parity_opens_one_runtime_at_a_time(file: Path, sessions: list[int]) -> None:
    from pipeline.config import ParityConfig
    from pipeline.feeds import Dataset
    from pipeline.parity.study import study
    from targets.reference import Float64Session

    class Source(Float64Session):
        def run(self, feeds: Feeds) -> Outputs:
            return {name: value.astype(np.float32) for name, value in super().run(feeds).items()}

    record = study(Source(file), file, file, Dataset({"X": X}), ParityConfig(batch_sizes=(1, 2)))
    assert record.passed
    assert len(sessions) >= 4  # the signature, levels of optimisation, before, after
    assert set(sessions) == {1}
