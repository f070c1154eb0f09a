"""The commands as a user types them: exit codes, JSON on standard output, errors on standard error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from optim.errors import GateNotMetError
from pipeline.cli import _fail
from pipeline.commands.options import Printed
from tests.pipeline.conftest import small_net


def fairlead(*words: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
    variables = {**os.environ, **env}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, check=False)


def answer(*words: object, code: int = 0) -> dict[str, Any]:
    done = fairlead(*words, "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert "status" in found
    return found


def test_version_and_help() -> None:
    assert fairlead("--version").stdout.startswith("fairlead ")
    listed = fairlead("--help").stdout
    for command in (
        "run", "plan", "convert", "optimize", "parity", "bench", "gate", "export",
        "verify", "inspect", "doctor", "schema", "targets", "passes",
    ):  # fmt: skip
        assert f" {command} " in listed


def test_run_and_plan(config_file: Path) -> None:
    planned = answer("plan", config_file)
    assert [step["cached"] for step in planned["steps"]] == [False] * 4
    record = answer("run", config_file, "--quiet")
    assert record["status"] == "ok"
    assert record["bundles"][0]["target"] == "onnxruntime"
    assert record["bundles"][0]["state"] == "verified"
    assert Path(record["bundles"][0]["path"]).is_dir()
    assert all(one["passed"] for one in record["parity"])
    assert Path(record["report"]).is_file()
    assert [step["cached"] for step in answer("plan", config_file)["steps"]] == [True] * 4


def test_run_prints_tables_and_progress_apart(config_file: Path) -> None:
    done = fairlead("run", config_file)
    assert done.returncode == 0, done.stderr
    assert "Is it the same model?" in done.stdout
    assert "verified" in done.stdout
    assert "convert ..." in done.stderr
    assert "convert ..." not in done.stdout


def test_run_with_a_missed_gate_exits_1(config_file: Path) -> None:
    done = fairlead("run", config_file, "--set", "parity.gate.snr_db=1000", "--json", "--quiet")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "gate_not_met"
    assert "gate not met" in done.stderr


def test_run_with_a_bad_config_exits_2_and_writes_nothing(config_file: Path, tmp_path: Path) -> None:
    config_file.write_text(config_file.read_text() + "paritty: {}\n")
    done = fairlead("run", config_file, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown key paritty" in done.stderr
    assert "parity (the nearest key)" in done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx", "small.yaml"]


def test_convert(net: Path, tmp_path: Path) -> None:
    record = answer("convert", net, "-o", tmp_path / "out.onnx", "--opset", 18)
    assert {"output", "inputs", "outputs", "frozen", "notes", "peak_rss_mib", "seconds"} <= record.keys()
    assert [one["name"] for one in record["inputs"]] == ["x"]
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 18


def test_optimize_writes_the_ledger(net: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "io.npz", **{"in|x": np.ones((3, 3, 9, 9), np.float32)})
    ledger = tmp_path / "ledger.json"
    out = tmp_path / "out.onnx"
    record = answer("optimize", net, "-o", out, "--ledger", ledger, "--data", tmp_path / "io.npz")
    assert json.loads(ledger.read_text()) == record
    folded = next(line for line in record["ledger"] if line["pass"] == "fold_batchnorm")
    assert folded["sites"] == 1
    assert folded["certificate"]["passed"]
    assert any(feed.startswith("supplied") for feed in folded["certificate"]["feeds"])
    assert {"refusals", "rolled_back"} <= folded.keys()
    assert record["nodes_before"] - record["nodes_after"] >= 1


def test_parity_of_equal_and_unequal_models(net: Path, tmp_path: Path) -> None:
    other = small_net(tmp_path / "other.onnx", scale=1.001)
    same = answer("parity", net, net)
    assert same["passed"]
    assert same["metrics"]["max_abs"] == 0
    parted = answer("parity", net, other, "--out", tmp_path / "out", code=1)
    assert not parted["passed"]
    assert parted["metrics"]["max_abs_over_range"] > 2e-5


def test_parity_of_models_that_cannot_be_paired_exits_2(net: Path, tmp_path: Path) -> None:
    done = fairlead("parity", net, small_net(tmp_path / "other.onnx", output="logits"))
    assert done.returncode == 2
    assert "scores" in done.stderr
    assert "logits" in done.stderr


def test_bench(net: Path, tmp_path: Path) -> None:
    other = small_net(tmp_path / "other.onnx")
    record = answer(
        "bench", net, other, "--min-duration-s", 0.05, "--min-samples", 20, "--batch", 1, "--batch", 2
    )
    assert [(one["contender"], one["batch"]) for one in record["results"]] == [
        ("net.onnx", 1), ("other.onnx", 1), ("net.onnx", 2), ("other.onnx", 2),
    ]  # fmt: skip
    for result in record["results"]:
        assert result["interval_ms"][0] <= result["latency_ms"] <= result["interval_ms"][1]
        assert result["samples"] >= 20
    assert record["comparisons"][0]["verdict"] in ("faster", "slower", "no_difference_shown")


def test_bench_refuses_models_with_other_inputs(net: Path, tmp_path: Path) -> None:
    model = onnx.load(net)
    model.graph.input[0].name = model.graph.node[0].input[0] = "other"
    onnx.save(model, tmp_path / "other.onnx")
    done = fairlead("bench", net, tmp_path / "other.onnx")
    assert done.returncode == 2
    assert "['other']" in done.stderr


def test_export_and_verify(net: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    record = answer("export", net, "--target", "onnxruntime", "-o", bundle)
    assert (record["target"], record["state"]) == ("onnxruntime", "verified")
    assert record["artefacts"]
    verified = answer("verify", bundle)
    assert verified["state"] == "verified"
    assert {"max_abs_over_range", "snr_db"} <= verified.keys()
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    assert answer("verify", bundle, code=1)["state"] == "failed"


def test_a_signed_bundle_is_its_owners(net: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="fairlead[sign] is not installed")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    keys = {}
    for name in ("owner", "other"):
        keys[name] = tmp_path / f"{name}.pem"
        subprocess.run(
            ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", keys[name]], check=True
        )
        public = ["openssl", "ec", "-in", keys[name], "-pubout", "-out", keys[name].with_suffix(".pub")]
        subprocess.run(public, check=True, capture_output=True)
    bundle = tmp_path / "bundle"
    words = ("--licence", "Apache-2.0", "--sign", keys["owner"])
    answer("export", net, "--target", "onnxruntime", "-o", bundle, *words)
    assert json.loads((bundle / "manifest.json").read_text())["licences"]["model"] == "Apache-2.0"
    answer("verify", bundle, "--public-key", keys["owner"].with_suffix(".pub"))
    answer("verify", bundle, "--public-key", keys["other"].with_suffix(".pub"), code=1)


def test_a_bundle_is_an_artefact_that_parity_takes(net: Path, tmp_path: Path) -> None:
    answer("export", net, "--target", "onnxruntime", "-o", tmp_path / "bundle")
    assert answer("parity", net, tmp_path / "bundle")["passed"]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_export_takes_a_source_in_its_own_framework_s_format(repository: Path, tmp_path: Path) -> None:
    zoo = repository / "configs" / "zoo"
    words = ("--target", "onnxruntime", "--labels", zoo / "digits_labels.txt", "-o", tmp_path / "digits")
    assert answer("export", zoo / "digits.keras", *words)["state"] == "verified"
    manifest = json.loads((tmp_path / "digits" / "manifest.json").read_text())
    assert manifest["provenance"]["source_format"] == "keras"
    assert manifest["provenance"]["recipe"] == "canonical"
    assert manifest["labels"] == 10


def test_inspect(net: Path) -> None:
    record = answer("inspect", net)
    assert record["format"] == "onnx"
    assert record["ops"]["Conv"] == 1
    assert record["parameters"] > 0


def test_lists() -> None:
    targets = answer("targets")["targets"]
    assert {"name", "state", "needs"} <= targets[0].keys()
    assert "onnxruntime" in [one["name"] for one in targets]
    passes = answer("passes")
    assert "fold_batchnorm" in [one["name"] for one in passes["passes"]]
    assert {"cleanup", "canonical"} <= {one["name"] for one in passes["recipes"]}


def test_schema_is_json(repository: Path) -> None:
    done = fairlead("schema")
    assert json.loads(done.stdout) == json.loads((repository / "configs" / "schema.json").read_text())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["convert", "nowhere.onnx", "-o", "out.onnx"], 2, "nowhere.onnx"),
        (["convert", "damaged.onnx", "-o", "out.onnx"], 2, "damaged.onnx"),
        (["optimize", "nowhere.onnx", "-o", "out.onnx"], 2, "nowhere.onnx"),
        (["optimize", "net.onnx", "-o", "out.onnx", "--recipe", "canonicl"], 2, "canonical"),
        (["optimize", "net.onnx", "-o", "out.onnx", "--passes", "fold_batchnrm"], 2, "fold_batchnorm"),
        (["export", "net.onnx", "--target", "onxruntime", "-o", "b"], 2, "onnxruntime"),
        (["verify", "."], 2, "manifest"),
        (["run", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["parity", "net.onnx", "nowhere.onnx"], 2, "nowhere.onnx"),
        (["bench", "net.onnx", "--device", "tpu"], 2, "tpu"),
        (["bench", "net.onnx", "--min-duration-s", "-1"], 2, "--min-duration-s"),
        (["parity", "net.onnx", "net.onnx", "--max-abs-over-range", "0"], 2, "--max-abs-over-range"),
        (["record", "net.onnx", "-o", "golden.npz", "--seed", "-1"], 2, "--seed"),
        (["convert", "net.onnx", "-o", "out.onnx", "--memory-limit-mib", "-5"], 2, "--memory-limit-mib"),
        (["run", "."], 2, "a folder"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_the_users_mistakes_exit_2(net: Path, words: list[str], code: int, message: str) -> None:
    folder = net.parent
    (folder / "damaged.onnx").write_bytes(net.read_bytes()[:100])
    done = fairlead(*words, cwd=folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(one.name for one in folder.iterdir()) == ["damaged.onnx", "net.onnx"]


def test_an_error_is_json_too(tmp_path: Path) -> None:
    found = answer("convert", tmp_path / "nowhere.onnx", "-o", tmp_path / "out.onnx", code=2)
    assert found["status"] == "error"
    assert found["error"]["exit_code"] == 2
    assert set(found["error"]) == {"kind", "exit_code", "what", "where", "expected"}


@pytest.mark.parametrize(
    ("words", "what"),
    [(["convert"], "MODEL"), (["conver"], "conver"), (["bench", "a.onnx", "--batch", "0"], "--batch")],
)
def test_a_misuse_is_json_too(words: list[str], what: str) -> None:
    found = answer(*words, code=2)
    assert found["error"]["kind"] == "usage error"
    assert what in found["error"]["what"]


def test_a_config_error_has_its_line_as_a_number(config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + "paritty: {}\n")
    lines = len(config_file.read_text().splitlines())
    assert answer("plan", config_file, code=2)["error"]["line"] == lines


def test_a_gate_missed_before_there_is_a_record_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Printed, "record", False)
    assert _fail(GateNotMetError("no candidate is the same model"), as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "gate not met"
    monkeypatch.setattr(Printed, "record", True)
    assert _fail(GateNotMetError("no candidate is the same model"), as_json=True) == 1
    assert capsys.readouterr().out == ""


def test_optimize_names_the_unknown_operator(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18, "my" : 1]> g (float[1] x) => (float[1] y) {y = my.Odd(x)}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "odd.onnx")
    done = fairlead("optimize", tmp_path / "odd.onnx", "-o", tmp_path / "out.onnx")
    assert done.returncode == 3
    assert "operator my::Odd is defined neither by ONNX nor by ONNX Runtime" in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_that_leaves_does_not_change_the_exit_code(
    net: Path, tmp_path: Path, form: list[str]
) -> None:
    other = small_net(tmp_path / "other.onnx", scale=1.001)
    for second, code in ((net, 0), (other, 1)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "pipeline.cli", "parity", str(net), str(second), "-q", *form]
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
        os.close(writer)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_closed_and_full_outputs(net: Path) -> None:
    command = f'"{sys.executable}" -m pipeline.cli inspect "{net}"'
    for redirection, code, message in (
        (">&-", 0, ""),
        ("--json >&-", 0, ""),
        (">/dev/full", 2, "No space left"),
        ("--json >/dev/full", 2, "No space left"),
    ):
        done = subprocess.run(
            f"{command} {redirection}", shell=True, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_onnx_runtime_records_nothing_about_its_user(net: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    done = fairlead("export", net, "--target", "onnxruntime", "-o", tmp_path / "bundle", **places)
    assert done.returncode == 0, done.stderr
    verify = [sys.executable, str(tmp_path / "bundle" / "verify.py")]
    subprocess.run(verify, env={**os.environ, **places}, check=True, capture_output=True)
    assert not [one for one in home.rglob("*") if "microsoft" in str(one).lower()]


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_a_bundle_that_was_not_executed_says_what_is_missing(net: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    record = answer("export", net, "--target", "coreml", "-o", tmp_path / "bundle")
    assert record["state"] == "produced, not executed"
    assert "macOS" in " ".join(record["reasons"])
    assert "macOS" in fairlead("verify", tmp_path / "bundle").stdout


def test_tables_are_as_wide_as_columns_says() -> None:
    assert max(map(len, fairlead("passes", COLUMNS="60").stdout.splitlines())) <= 60
    assert max(map(len, fairlead("passes").stdout.splitlines())) > 60


def test_external_data_is_not_followed_out_of_the_folder(net: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 432)
    inner = tmp_path / "inner"
    inner.mkdir()
    model = onnx.load(net)
    weight = next(one for one in model.graph.initializer if one.name == "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../secret"
    (inner / "net.onnx").write_bytes(model.SerializeToString())
    for words in (["convert", "net.onnx", "-o", "o.onnx"], ["optimize", "net.onnx", "-o", "o.onnx"]):
        done = fairlead(*words, cwd=inner)
        assert done.returncode == 2, done.stderr
        assert "secret" in done.stderr
        assert not (inner / "o.onnx").exists()


QUICK_BENCH = ("--min-duration-s", 0.1, "--min-samples", 20, "--quiet")


def test_bench_keeps_a_baseline_and_the_gate_judges_by_it(net: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    record = answer("bench", net, *QUICK_BENCH, "--profile", "--scenario", "offline", "--out", base)
    assert record["dissections"][0]["placement"]["elsewhere"] == []
    assert record["scenarios"][0]["scenario"]["name"] == "offline"
    assert record["cuda"]["status"] == "not measured"
    same = answer("gate", base, "--against", base, "--junit", tmp_path / "junit.xml")
    assert same["status"] == "ok"
    assert "<testsuite" in (tmp_path / "junit.xml").read_text()

    worse = json.loads(base.read_text())
    for result in worse["results"]:
        result["latency_ms"] *= 2
        result["interval_ms"] = [2 * v for v in result["interval_ms"]]
    (tmp_path / "worse.json").write_text(json.dumps(worse))
    found = answer("gate", tmp_path / "worse.json", "--against", base, code=1)
    assert found["status"] == "gate_not_met"
    assert [c["figure"] for c in found["checks"] if not c["passed"]] == ["latency_ms"]

    half = json.loads(base.read_text())
    for result in half["results"]:
        result["latency_ms"] /= 100
        result["interval_ms"] = [v / 100 for v in result["interval_ms"]]
    (tmp_path / "half.json").write_text(json.dumps(half))
    again = answer("bench", net, *QUICK_BENCH, "--against", tmp_path / "half.json", code=1)
    assert (again["status"], again["gate"]["status"]) == ("gate_not_met", "gate_not_met")

    other = json.loads(base.read_text())
    other["host"]["cpu_model"] = "another machine"
    (tmp_path / "other.json").write_text(json.dumps(other))
    refused = fairlead("gate", base, "--against", tmp_path / "other.json")
    assert refused.returncode == 2
    assert "unlike hosts" in refused.stderr


def test_bench_on_cuda_without_a_gpu_measures_nothing_in_its_place(net: Path) -> None:
    done = fairlead("bench", net, "--device", "cuda")
    if done.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 4
    assert "not measured" in done.stderr


def test_bench_takes_a_bundle_with_its_own_settings(net: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    answer("export", net, "--target", "onnxruntime", "-o", bundle, "--option", "threads=1")
    record = answer("bench", bundle, *QUICK_BENCH)
    assert [one["contender"] for one in record["results"]] == ["bundle"]
    assert record["results"][0]["threads"] == 1
    (bundle / "model.onnx").write_bytes(b"not what the manifest lists")
    assert fairlead("bench", bundle).returncode == 2
