"""Inputs: shapes resolved or refused, seeded values, the user's data and labels."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from optim.contract import TensorSpec
from optim.errors import UserError
from pipeline import feeds
from pipeline.config import Config, DataConfig, ModelConfig, PreprocessConfig

IMAGE = TensorSpec("image", "float32", ("N", 6, 5, 3))
FIXED = TensorSpec("image", "float32", (2, 6, 5, 3))
FLAT = TensorSpec("x", "float32", (None, 16))
TOKENS = TensorSpec("ids", "int64", ("N", 7))


def config(tmp_path, **data):
    return Config(name="t", model=ModelConfig(path="m"), data=DataConfig(**data), base=tmp_path)


# --- synthetic -----------------------------------------------------------------------------------


def test_the_first_free_dimension_is_the_batch():
    assert feeds.resolve_shape(IMAGE, 3) == (3, 6, 5, 3)
    assert feeds.resolve_shape(FIXED, 3) == (2, 6, 5, 3)
    assert feeds.free_batch([IMAGE])
    assert not feeds.free_batch([FIXED])
    assert feeds.batch_size([IMAGE], 8) == 8
    assert feeds.batch_size([FIXED], 8) == 2


def test_other_free_dimensions_need_a_line_in_the_config():
    spec = TensorSpec("image", "float32", (None, "h", None, 3))
    with pytest.raises(UserError) as caught:
        feeds.zeros([spec])
    assert "image: [-1, <size>, <size>, 3]" in caught.value.hint
    assert feeds.resolve_shape(TensorSpec("a", "float32", ("n", "h")), 2, {"h": 9}) == (2, 9)


def test_random_is_seeded_and_in_range():
    specs = [IMAGE, TOKENS, FLAT, TensorSpec("byte", "uint8", (9,)), TensorSpec("flag", "bool", (50,))]
    a, b, c = feeds.random(specs, 1, 2), feeds.random(specs, 1, 2), feeds.random(specs, 2, 2)
    for spec in specs:
        np.testing.assert_array_equal(a[spec.name], b[spec.name])
        assert a[spec.name].dtype == spec.dtype
    assert not np.array_equal(a["image"], c["image"])
    assert 0 <= a["image"].min() < a["image"].max() < 1
    assert a["x"].min() < 0
    assert 0 <= a["ids"].min() <= a["ids"].max() < 10
    assert set(a["flag"]) == {True, False}
    ranged = feeds.random(specs, 1, 2, {"image": (100, 200), "ids": (5, 6)})
    assert 100 <= ranged["image"].min() < ranged["image"].max() <= 200
    assert set(np.unique(ranged["ids"])) == {5, 6}


def test_edge_cases():
    cases = feeds.edge_cases([IMAGE, TOKENS], 2, {"image": (-1, 3)})
    assert cases.keys() == {"constant", "one-hot", "large"}
    assert set(np.unique(cases["constant"]["image"])) == {3}
    assert np.count_nonzero(cases["one-hot"]["image"]) == 1
    assert 1e3 < np.abs(cases["large"]["image"]).max() < 65504
    assert cases["large"]["ids"].max() < 10  # no token outside any vocabulary


# --- files ---------------------------------------------------------------------------------------


def test_npz_with_labels(tmp_path):
    x = np.arange(6 * 90, dtype=np.int32).astype(np.uint8).reshape(6, 6, 5, 3)
    np.savez(tmp_path / "d.npz", pics=x, y=np.arange(6) % 3)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    preprocess = PreprocessConfig(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    data = feeds.load_data(
        config(
            tmp_path,
            path="d.npz",
            input="pics",
            labels="y",
            label_names="names.txt",
            limit=4,
            preprocess=preprocess,
        ),
        [IMAGE],
    )
    want = (x[:4] / 255 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.4]
    np.testing.assert_allclose(data.feeds["image"], want, rtol=1e-5)
    assert data.feeds["image"].dtype == np.float32
    assert data.labels.tolist() == [0, 1, 2, 0]
    assert data.label_names == ("a", "b", "c")
    assert data.examples == 4
    assert data.preprocessing == preprocess
    assert feeds.ranges_of(data)["image"] == (pytest.approx(want.min()), pytest.approx(want.max()))


def test_channels_first_preprocessing(tmp_path):
    x = np.ones((2, 3, 4, 5), np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    spec = TensorSpec("image", "float32", ("N", 3, 4, 5))
    cfg = config(tmp_path, path="d.npz", preprocess=PreprocessConfig(mean=(1, 2, 3)))
    assert feeds.load_data(cfg, [spec]).feeds["image"][0, :, 0, 0].tolist() == [0, -1, -2]


@pytest.mark.parametrize(
    ("stored", "wanted", "shape"),
    [
        ((6, 4, 4), ("N", 4, 4, 1), (6, 4, 4, 1)),
        ((6, 4, 4), ("N", 1, 4, 4), (6, 1, 4, 4)),
        ((6, 4, 4), ("N", 16), (6, 16)),
        ((6, 4, 4, 1), ("N", 16), (6, 16)),
        ((6, 16), ("N", 16), (6, 16)),
    ],
)
def test_trivial_axes_are_added(stored, wanted, shape):
    got = feeds.fitted(np.arange(96).reshape(stored), TensorSpec("x", "float32", wanted))
    assert got.shape == shape
    assert got.ravel().tolist() == list(range(96))


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ((6, 5, 4), ("N", 4, 5)),
        ((6, 4, 5), ("N", None, 4, 5)),
        ((6, 3, 4, 5), ("N", 4, 5, 3)),
        ((96,), ("N", 16)),
    ],
)
def test_other_shapes_are_refused_with_both_sides(stored, wanted):
    with pytest.raises(UserError, match=r"do not fit input 'x'") as caught:
        feeds.fitted(np.zeros(stored), TensorSpec("x", "float32", wanted))
    assert str(list(stored)) in str(caught.value)
    assert str(list(wanted)) in str(caught.value)


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_data_with_holes_are_refused_with_the_place(hole):
    data = np.zeros((6, 16), np.float32)
    data[3, 5] = data[4, 0] = hole
    with pytest.raises(UserError, match=r"2 values .* NaN or infinite, the first at \[3, 5\]"):
        feeds.fitted(data, TensorSpec("x", "float32", ("N", 16)), where="data.npz")


def test_fractions_are_no_tokens():
    with pytest.raises(UserError, match="fractions"):
        feeds.fitted(np.full((2, 7), 0.5), TOKENS)
    assert feeds.fitted(np.full((2, 7), 3.0), TOKENS).dtype == np.int64


def test_inputs_by_name_and_shared_ones():
    specs = [IMAGE, TensorSpec("anchor", "float32", (4,)), TOKENS]
    arrays = {
        "x": np.zeros((3, 6, 5, 3)),
        "in|anchor": np.ones(4, np.float32),
        "ids": np.zeros((3, 7)),
        "out|y": np.zeros(3),
    }
    found = feeds.select_feeds(arrays, specs)
    encoded, shared = feeds.encode(found, specs, PreprocessConfig())
    assert shared == {"anchor"}
    data = feeds.Dataset(encoded, shared=shared)
    parts = list(feeds.batches(data, specs, 2))
    assert [(b.count, b.feeds["image"].shape[0], b.feeds["anchor"].shape) for b in parts] == [
        (2, 2, (4,)),
        (1, 1, (4,)),
    ]
    with pytest.raises(UserError, match="no array for input 'ids'"):
        feeds.select_feeds({"x": 1}, [IMAGE, TOKENS])


def test_a_fixed_batch_is_filled_up():
    data = feeds.Dataset({"image": np.arange(3 * 90, dtype=np.float32).reshape(3, 6, 5, 3)})
    first, last = feeds.batches(data, [FIXED], 32)
    assert (first.count, last.count, last.start) == (2, 1, 2)
    assert last.feeds["image"].shape == (2, 6, 5, 3)
    np.testing.assert_array_equal(last.feeds["image"][1], data.feeds["image"][2])


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    import zipfile

    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(UserError, match="without pickled objects"):
        feeds.load_data(config(tmp_path, path="d.npz"), [FLAT])
    (tmp_path / "e.npz").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError):
        feeds.read_npz(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("arrays", "settings", "said"),
    [
        ({"x": np.zeros((3, 16))}, {"input": "z"}, "no array for input 'x'|'z'"),
        ({"x": np.zeros((3, 16))}, {"labels": "y"}, "no key 'y' for the labels"),
        ({"x": np.zeros((3, 16)), "y": np.zeros(3)}, {"labels": "y"}, r"labels are float64\[3\]"),
        ({"x": np.zeros((3, 16)), "y": np.zeros(2, int)}, {"labels": "y"}, "3 examples, but 2 labels"),
        ({"x": np.zeros((0, 16))}, {}, "zero numbers of examples"),
        ({"x": np.array(["a"] * 16)[None]}, {}, "dtype <U1"),
        ({"x": np.zeros((3, 16))}, {"preprocess": PreprocessConfig(mean=(1, 2))}, "2 values for mean"),
    ],
)
def test_wrong_data_are_refused(tmp_path, arrays, settings, said):
    np.savez(tmp_path / "d.npz", **arrays)
    spec = FLAT if settings.get("input") != "z" else TensorSpec("q", "float32", (None, 16))
    with pytest.raises(UserError, match=said.replace("'x'|", "'q'|")):
        feeds.load_data(config(tmp_path, path="d.npz", **settings), [spec])


def test_no_data_and_missing_data(tmp_path):
    assert feeds.load_data(config(tmp_path), [IMAGE]) is None
    with pytest.raises(UserError, match="no such data file"):
        feeds.load_data(config(tmp_path, path="nothing.npz"), [IMAGE])


def test_label_names(tmp_path):
    (tmp_path / "n").write_text("eins\n\n zwei \n", encoding="utf-8")
    assert feeds.read_label_names(tmp_path / "n") == ("eins", "zwei")
    with pytest.raises(UserError, match="2 label names"):
        feeds.check_labels(np.array([0, 2]), ("a", "b"))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError):
        feeds.read_label_names(tmp_path / "empty")


# --- pictures ------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    raw = {}
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            raw[f"{folder}/{i}"] = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            image.fromarray(raw[f"{folder}/{i}"]).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "names").write_text("dog\ncat\n")
    return tmp_path, raw


def test_picture_folders(pictures):
    folder, raw = pictures
    data = feeds.load_data(config(folder, path=".", label_names="names"), [IMAGE])
    np.testing.assert_array_equal(data.feeds["image"], np.stack(list(raw.values())).astype(np.float32))
    assert data.labels.tolist() == [1, 1, 0, 0]
    first = feeds.load_data(config(folder, path="."), [TensorSpec("i", "float32", (1, 3, 6, 5))])
    np.testing.assert_array_equal(first.feeds["i"][0], raw["cat/0"].transpose(2, 0, 1))
    assert first.labels is None  # without names no order of classes is known
    gray = feeds.load_data(config(folder, path=".", limit=1), [TensorSpec("i", "uint8", (1, 8, 9, 1))])
    assert gray.feeds["i"].shape == (1, 8, 9, 1)


def test_picture_folders_that_do_not_fit(pictures):
    folder, _ = pictures
    with pytest.raises(UserError, match="takes no pictures"):
        feeds.load_data(config(folder, path="."), [TensorSpec("i", "float32", ("N", "h", "w", 3))])
    (folder / "names").write_text("dog\n")
    with pytest.raises(UserError, match=r"without a label name: \['cat'\]"):
        feeds.load_data(config(folder, path=".", label_names="names"), [IMAGE])
    (folder / "cat" / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not a readable picture"):
        feeds.load_data(config(folder, path="."), [IMAGE])
