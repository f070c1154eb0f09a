"""The page's JavaScript against NumPy: arrays read, figures computed, images encoded."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.closeness import closeness
from targets.references import Reference, save_reference
from targets.web import PAGE

DTYPES = (
    "float32",
    "float64",
    "int8",
    "uint8",
    "bool",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a script beside the page's modules; what it prints is JSON."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js on this machine")
    folder = tmp_path_factory.mktemp("page")
    for name in ("npz.js", "parity.js", "image.js"):
        shutil.copy(PAGE / name, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(code: str, **values: Any) -> Any:
        (folder / "values.json").write_text(json.dumps(values))
        head = (
            'import { readFileSync } from "node:fs";\n'
            'const values = JSON.parse(readFileSync(new URL("values.json", import.meta.url)));\n'
        )
        (folder / "main.js").write_text(head + code)
        done = subprocess.run(
            [found, str(folder / "main.js")], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


READ = """
import { readNpz } from "./npz.js";
const bytes = readFileSync(values.file);
const arrays = await readNpz(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const plain = {};
for (const [name, { dtype, shape, data }] of arrays) {
  plain[name] = { dtype, shape, data: Array.from(data, String) };
}
console.log(JSON.stringify(plain));
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_are_read(node: Any, tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2 if dtype == "bool" else 100, (2, 3, 4)).astype(dtype)
    turned = np.asfortranarray(x)  # NumPy would store it column by column
    feeds = {"input": x, "turned": turned, "odd name/0:0": np.zeros((0, 3), dtype)}
    save_reference(Reference("r", feeds, {"y": np.array(7, dtype)}), tmp_path / "r.npz")
    got = node(READ, file=str(tmp_path / "r.npz"))
    assert set(got) == {"in|input", "in|turned", "in|odd name/0:0", "out|y"}
    for name in ("in|input", "in|turned"):
        assert got[name]["dtype"] == dtype
        assert got[name]["shape"] == [2, 3, 4]
        assert [float(v) for v in got[name]["data"]] == x.astype(float).ravel().tolist()
    assert got["out|y"]["shape"] == []
    assert got["in|odd name/0:0"]["data"] == []


CUT = """
import { readNpz } from "./npz.js";
const bytes = readFileSync(values.file);
const whole = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
const said = [];
for (const length of values.lengths) {
  try {
    await readNpz(whole.slice(0, length));
    said.push(null);
  } catch (error) {
    said.push(error.message);
  }
}
console.log(JSON.stringify(said));
"""


@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(node: Any, tmp_path: Path, compressed: bool) -> None:
    file = tmp_path / "r.npz"
    arrays = {"in|x": np.arange(12, dtype=np.float32), "out|y": np.ones((2, 3))}
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    size = file.stat().st_size
    said = node(CUT, file=str(file), lengths=[*range(size), size])
    assert all(said[:-1])
    assert said[0] == "the file is empty"
    assert said[-1] is None


COMPARE = """
import { closeness } from "./parity.js";
const array = (list) => ({ dtype: "float32", shape: [list.length], data: Float32Array.from(list, Number) });
const { share, snr } = closeness(array(values.got), array(values.ref), values.softmax);
console.log(JSON.stringify([String(share), String(snr)]));
"""
NUMBERS = st.lists(
    st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.inf, -np.inf, np.nan, 0.0]), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ref=NUMBERS, moved=st.floats(0, 1, width=32), softmax=st.booleans())
def test_figures_are_those_of_the_manifest(node: Any, ref: list[float], moved: float, softmax: bool) -> None:
    b = np.array(ref, np.float32)
    if softmax:
        b = (np.abs(np.nan_to_num(b, nan=1.0, posinf=2.0, neginf=3.0)) + np.float32(1e-3)).astype(np.float32)
    a = (b + np.float32(moved) * np.arange(b.size, dtype=np.float32)).astype(np.float32)
    wanted = closeness(a, b, softmax=softmax)
    share, snr = node(COMPARE, got=[str(v) for v in _js(a)], ref=[str(v) for v in _js(b)], softmax=softmax)
    assert float(share.replace("Infinity", "inf")) == pytest.approx(wanted.max_abs_over_range, rel=1e-6)
    assert float(snr.replace("Infinity", "inf")) == pytest.approx(wanted.snr_db, rel=1e-6, abs=1e-9)


def _js(values: Any) -> list[str]:
    words = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
    return [words.get(str(float(v)), repr(float(v))) for v in values]


ENCODE = """
import { encode } from "./image.js";
const [height, width] = values.spec.size;
const context = { drawImage() {}, getImageData: () => ({ data: Uint8ClampedArray.from(values.rgba) }) };
const canvas = { getContext: () => context };
const { dtype, shape, data } = encode({ height, width }, values.spec, canvas);
console.log(JSON.stringify({ dtype, shape, data: Array.from(data) }));
"""


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (3, [0.5], []), (4, [], []), (1, [0.5], [0.25])],
)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_images_become_the_input_that_predict_makes(
    node: Any, layout: str, channels: int, mean: list[float], std: list[float], dtype: str
) -> None:
    rgba = np.random.default_rng(3).integers(0, 256, (5, 4, 4), np.uint8)
    spec = {"layout": layout, "channels": channels, "size": [5, 4], "dtype": dtype}
    spec |= {"scale": 1 / 255, "mean": mean, "std": std}
    got = node(ENCODE, spec=spec, rgba=rgba.ravel().tolist())
    raw = rgba[..., :channels].astype(np.float64)
    if channels == 1:
        weights = np.array([0.299, 0.587, 0.114])
        raw = np.floor(rgba[..., :3].astype(np.float64) @ weights + 0.5)[..., None]
    if dtype == "float32":
        raw = (raw / 255 - np.array(mean or [0.0])) / np.array(std or [1.0])
    wanted = raw.transpose(2, 0, 1) if layout == "NCHW" else raw
    assert got["shape"] == [1, *wanted.shape]
    assert got["dtype"] == dtype
    assert np.allclose(np.array(got["data"]).reshape(wanted.shape), wanted, atol=1e-6)
