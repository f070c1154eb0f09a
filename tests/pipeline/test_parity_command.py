"""`fairlead parity` and `fairlead record` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.pipeline.conftest import small_net
from tests.pipeline.test_cli import answer, fairlead


def leaky(net: Path, path: Path) -> Path:
    """The net with a leaky activation instead of the plain one."""
    model = onnx.load(net)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "LeakyRelu"
    relu.attribute.append(onnx.helper.make_attribute("alpha", 0.2))
    onnx.save(model, path)
    return path


def test_parted_models_leave_the_smallest_that_show_it(net: Path, tmp_path: Path) -> None:
    record = answer("parity", net, leaky(net, tmp_path / "leaky.onnx"), "-o", tmp_path / "out", code=1)
    found = record["first_divergence"]
    assert (found["node"], found["tensor"], found["cause"]) == ("relu", "r", "activation")
    folder = Path(found["folder"])
    assert folder == tmp_path / "out" / "divergence"
    assert {p.name for p in folder.iterdir()} == {
        "a.onnx", "b.onnx", "divergence.json", "io.npz", "reproduce.py",
    }  # fmt: skip
    assert [len(onnx.load(folder / f"{side}.onnx").graph.node) for side in "ab"] == [1, 1]
    alone = subprocess.run(
        [sys.executable, "-I", folder / "reproduce.py"], capture_output=True, text=True, check=True, cwd="/"
    )
    good, bad = (float(line.rsplit(" ", 1)[1]) for line in alone.stdout.splitlines())
    assert good < 1e-6 < bad
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["passed"] is False
    page = (tmp_path / "out" / "parity.html").read_text()
    assert "not the same model" in page
    assert "activation" in page


def test_the_reproduction_goes_to_a_folder_of_its_own_without_an_option(net: Path, tmp_path: Path) -> None:
    done = fairlead("parity", net, leaky(net, tmp_path / "leaky.onnx"), cwd=tmp_path)
    assert done.returncode == 1
    assert "probable cause: activation" in done.stdout
    assert (tmp_path / "parity-out" / "divergence" / "reproduce.py").is_file()
    assert not (tmp_path / "parity-out" / "parity.html").exists()


def test_equal_models_write_nothing_unasked(net: Path, tmp_path: Path) -> None:
    assert fairlead("parity", net, net, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "parity-out").exists()


def test_layers_with_moments_and_a_page(net: Path, tmp_path: Path) -> None:
    record = answer("parity", net, net, "--layers", "-o", tmp_path / "page")
    rows = {row["tensor"]: row for row in record["layers"]}
    assert list(rows) == ["c", "n", "r", "p", "f", "scores"]
    assert rows["c"]["mean_a"] == rows["c"]["mean_b"]
    assert rows["c"]["metrics"]["max_abs"] == 0
    assert rows["c"]["error_a"] > 0
    assert [row["tensor_before"] for row in record["source_layers"]] == list(rows)
    page = Path(record["report"]).read_text()
    assert "Layer by layer" in page
    assert "Feature maps" in page
    assert 'class="maps"' in page


def test_layers_that_only_one_side_has_are_named(net: Path, tmp_path: Path) -> None:
    assert fairlead("optimize", net, "-o", tmp_path / "opt.onnx").returncode == 0
    record = answer("parity", net, tmp_path / "opt.onnx", "--layers")
    assert [row["tensor"] for row in record["layers"]] != ["c", "n", "r", "p", "f", "scores"]
    (notice,) = (text for text in record["notices"] if "counterpart" in text)
    assert notice == "1 tensor of the first model without a counterpart in the second: c"


def test_shapes_are_stated_where_the_model_leaves_them_free(net: Path, tmp_path: Path) -> None:
    model = onnx.load(net)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    assert fairlead("parity", net, tmp_path / "free.onnx").returncode == 0
    refused = fairlead("parity", tmp_path / "free.onnx", net)
    assert refused.returncode == 2
    assert "free" in refused.stderr
    stated = fairlead("parity", tmp_path / "free.onnx", net, "--inputs", "x[-1,3,9,9]")
    assert stated.returncode == 0, stated.stderr


@pytest.mark.parametrize("name", ["refs.npz", "refs.h5"])
def test_a_golden_file_stands_for_the_framework(net: Path, tmp_path: Path, name: str) -> None:
    if name.endswith(".h5"):
        pytest.importorskip("h5py")
    recorded = answer("record", net, "-o", tmp_path / name, "--seed", 3, "--batch", 2)
    assert {(one["key"], one["name"], tuple(one["shape"])) for one in recorded["tensors"]} == {
        ("OutputForZeros", "scores", (2, 5)),
        ("RandomInput", "x", (2, 3, 9, 9)),
        ("OutputForRandom", "scores", (2, 5)),
    }
    assert answer("parity", tmp_path / name, net)["metrics"]["max_abs"] == 0
    assert answer("parity", net, tmp_path / name)["passed"]
    parted = answer("parity", tmp_path / name, leaky(net, tmp_path / "leaky.onnx"), code=1)
    assert {one["feed"] for one in parted["comparisons"]} == {"golden zeros", "golden random"}


def test_recording_and_golden_files_are_refused_where_they_make_no_sense(net: Path, tmp_path: Path) -> None:
    assert answer("record", net, "-o", tmp_path / "a.npz")["status"] == "ok"
    other = small_net(tmp_path / "other.onnx", output="logits")
    np.savez(tmp_path / "half.npz", OutputForZeros=np.zeros((1, 5), np.float32))
    (tmp_path / "text.npz").write_text("no arrays")
    cases = [
        (["record", net, "-o", tmp_path / "a.txt"], "a.txt"),
        (["record", tmp_path / "none.onnx", "-o", tmp_path / "b.npz"], "none.onnx"),
        (["parity", tmp_path / "a.npz", tmp_path / "a.npz"], "both are golden files"),
        (["parity", tmp_path / "a.npz", net, "--layers"], "no layers"),
        (["parity", tmp_path / "half.npz", net], "RandomInput"),
        (["parity", tmp_path / "text.npz", net], "text.npz"),
        (["parity", tmp_path / "none.npz", net], "none.npz"),
    ]
    for words, told in cases:
        done = fairlead(*words)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert told in done.stderr
    assert answer("parity", tmp_path / "a.npz", other)["passed"]  # one array needs no name


@pytest.mark.parametrize("command", ["parity", "optimize", "export"])
def test_data_with_a_nan_is_refused_by_every_command(net: Path, tmp_path: Path, command: str) -> None:
    x = np.zeros((2, 3, 9, 9), np.float32)
    x[1, 2, 3, 4] = np.nan
    np.savez(tmp_path / "io.npz", **{"in|x": x})  # type: ignore[arg-type, unused-ignore]
    words = {
        "parity": (net,),
        "optimize": ("-o", tmp_path / "made.onnx"),
        "export": ("--target", "onnxruntime", "-o", tmp_path / "made"),
    }[command]
    done = fairlead(command, net, *words, "--data", tmp_path / "io.npz")
    assert done.returncode == 2
    assert f"{tmp_path / 'io.npz'}: 1 value of the data for input 'x' is NaN or infinite" in done.stderr
    assert "[1, 2, 3, 4]" in done.stderr
    assert not list(tmp_path.glob("made*"))
