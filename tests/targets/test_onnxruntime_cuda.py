"""A bundle for the CUDA provider: what it records, how its scripts run it, and what they say without a GPU.

The scripts run as they are shipped, in processes of their own. Where a GPU is asked for, a stand-in for ONNX
Runtime takes its place and computes on the CPU; nothing here was run on a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optim.errors import MissingRuntimeError, UserError
from pipeline.bench.records import CudaSettings
from targets.bundle import Bundle, BundleSpec, verify_bundle, write_bundle
from targets.contract import Artefact, State
from targets.cuda_provider import provider_options
from targets.manifest import entries_for, read_manifest, write_manifest
from targets.onnxruntime import HOST_FILE, MODEL_FILE, ORT_FILE, OnnxRuntime
from targets.references import Reference
from tests.targets.conftest import FakeCuda, build_classifier, references_for

CUDA = "CUDAExecutionProvider"
GRAPH: dict[str, object] = {"device": "cuda", "layout": "NHWC", "io_binding": True, "cuda_graph": True}


def make(folder: Path, **options: object) -> Bundle:
    model = build_classifier(folder.parent / f"{folder.name}.onnx")
    return write_bundle(
        BundleSpec("digits", model, OnnxRuntime(), references_for(model), options=options), folder
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made where no GPU is."""
    folder = tmp_path_factory.mktemp("cuda") / "bundle"
    assert make(folder, **GRAPH).path == folder
    return folder


def run(script: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **more}
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    file = tmp_path / "digit.npy"
    np.save(file, np.random.default_rng(3).normal(size=(1, 1, 8, 8)).astype(np.float32))
    return file


# --- what is recorded ----------------------------------------------------------------------------


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("cpu_fallback", [False, True])
def test_the_provider_is_recorded_with_all_its_options(
    classifier: Path, tmp_path: Path, tf32: bool, layout: str, cpu_fallback: bool
) -> None:
    given = {"device": "cuda", "tf32": tf32, "layout": layout, "cpu_fallback": cpu_fallback}
    artefact = OnnxRuntime().build(classifier, tmp_path, given)
    options = artefact.options
    settings = CudaSettings.model_validate({"tf32": tf32, "layout": layout, "bound": False})
    assert options["providers"] == [[CUDA, provider_options(settings)]]  # as the benchmark states them
    strict = {} if cpu_fallback else {"session.disable_cpu_ep_fallback": "1"}
    assert options["session_config"] == strict
    assert options["environment"] == ({} if tf32 else {"NVIDIA_TF32_OVERRIDE": "0"})
    assert options["runnable"] == [f"{MODEL_FILE}#cuda", f"{MODEL_FILE}#cpu"]
    assert options["cpu_optimization"] == options["optimization"] == "all"
    assert artefact.requires == {"onnxruntime-gpu": ">=1.20"}


def test_a_bundle_for_the_cpu_records_nothing_of_cuda(classifier: Path, tmp_path: Path) -> None:
    artefact = OnnxRuntime().build(classifier, tmp_path, {})
    assert artefact.options == {
        "ort": False, "preoptimized": False, "threads": 0, "allow_spinning": False, "optimization": "all",
        "io_binding": False, "device": "cpu", "providers": ["CPUExecutionProvider"], "runnable": [MODEL_FILE],
        "optional": [], "host": "",
    }  # fmt: skip
    assert artefact.requires == {"onnxruntime": ">=1.14"}


REFUSED = [
    ({"layout": "NHWC"}, "layout is of the CUDA provider", "device: cuda"),
    ({"tf32": False}, "tf32 is of the CUDA provider", "leave it out"),
    ({"tf32": True, "cuda_graph": True, "device": "cpu"}, "tf32 and cuda_graph are of", "leave them out"),
    ({"cpu_fallback": True}, "cpu_fallback is of the CUDA provider", "device: cuda"),
    ({"cpu_optimization": "basic"}, "cpu_optimization is of the CUDA provider", "device: cuda"),
    ({"device": "cuda", "cuda_graph": True}, "buffers that stay where they are", "io_binding: true"),
    ({"device": "gpu"}, "'cpu' or 'cuda'", ""),
    ({"device": "cuda", "layout": "nhwc"}, "'NCHW' or 'NHWC'", ""),
]


@pytest.mark.parametrize(("options", "what", "hint"), REFUSED)
def test_what_does_not_go_together_is_refused(
    classifier: Path, tmp_path: Path, options: dict[str, object], what: str, hint: str
) -> None:
    with pytest.raises(UserError, match=what) as refused:
        OnnxRuntime().build(classifier, tmp_path, options)
    assert hint in refused.value.hint
    assert refused.value.where.startswith("targets.onnxruntime.options.")


def test_a_graph_of_free_shapes_is_refused_and_named(classifier: Path, tmp_path: Path) -> None:
    model = onnx.load(classifier)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(UserError, match="those of image are free") as refused:
        OnnxRuntime().build(tmp_path / "free.onnx", tmp_path, GRAPH)
    assert "optimize.shapes" in refused.value.hint
    OnnxRuntime().build(tmp_path / "free.onnx", tmp_path, {**GRAPH, "cuda_graph": False})


def test_what_else_it_holds_runs_on_the_cpu(tmp_path: Path) -> None:
    made = make(tmp_path / "bundle", device="cuda", ort=True, preoptimized=True)
    options = made.artefact.options
    on_cpu = [f"{name}#cpu" for name in (MODEL_FILE, ORT_FILE, HOST_FILE)]
    assert options["runnable"] == [f"{MODEL_FILE}#cuda", *on_cpu]
    assert options["optional"] == [f"{HOST_FILE}#cpu"]
    assert [line.partition(":")[0] for line in made.verdict.not_executed] == [f"{MODEL_FILE}#cuda"]
    assert made.verdict.problems == ()


# --- made and verified without a GPU -------------------------------------------------------------


def test_without_a_gpu_the_cpu_is_proved_and_cuda_is_named(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.state is State.PRODUCED
    assert manifest.verification is not None  # the numbers of the same file on the CPU
    assert float(manifest.verification.max_abs_over_range) < 2e-5
    ran, _, absent = manifest.detail.partition("; not executed: ")
    assert ran.endswith("on the CPU")
    assert absent.startswith(f"{MODEL_FILE}#cuda: onnxruntime")
    assert "has no CUDA provider, only " in absent
    text = (bundle / "README.md").read_text()
    assert "**Not executed where it was made:** model.onnx" in text
    assert "| `prefer_nhwc` | 1 |" in text
    assert "| environment `NVIDIA_TF32_OVERRIDE` | 0, set before" in text
    assert '"onnxruntime-gpu"' in (bundle / "sbom.cdx.json").read_text()


def test_fairlead_verifies_it_on_the_cpu_alone_if_asked(bundle: Path) -> None:
    both = verify_bundle(bundle)
    assert (both.state, len(both.not_executed)) == (State.PRODUCED, 1)
    assert both.max_abs_over_range is not None
    assert "--device cpu" in both.hint
    alone = verify_bundle(bundle, device="cpu")
    assert alone.state is State.VERIFIED
    assert alone.not_executed == (f"{MODEL_FILE}#cuda: device cpu leaves it out",)
    only = verify_bundle(bundle, device="cuda")
    assert (only.state, only.max_abs_over_range) == (State.PRODUCED, None)


def test_a_bundle_for_the_cpu_knows_no_other_device(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    assert make(folder).verdict.state is State.VERIFIED
    assert verify_bundle(folder, device="cpu").state is State.VERIFIED
    with pytest.raises(UserError, match="nothing in this bundle is made for cuda"):
        verify_bundle(folder, device="cuda")
    done = run(folder / "verify.py", "--device", "cuda")
    assert (done.returncode, done.stderr) == (2, "")
    assert "this bundle is not made for cuda" in done.stdout
    assert run(folder / "verify.py", "--device", "cpu").stdout.splitlines()[-1].startswith("VERIFIED (gate")


def test_wrong_numbers_on_the_cpu_fail_whatever_is_missing(bundle: Path, tmp_path: Path) -> None:
    model = build_classifier(tmp_path / "m.onnx")
    off = tuple(
        Reference(r.name, r.feeds, {"scores": r.outputs["scores"] + 1}) for r in references_for(model)
    )
    made = write_bundle(BundleSpec("digits", model, OnnxRuntime(), off, options=GRAPH), tmp_path / "out")
    assert (made.path, made.verdict.state) == (None, State.FAILED)
    assert f"{MODEL_FILE}#cpu" in made.verdict.problems[0]


def test_verify_says_what_it_could_not_do_here(bundle: Path) -> None:
    done = run(bundle / "verify.py")
    assert (done.returncode, done.stderr) == (4, "")
    lines = done.stdout.splitlines()
    assert lines[1].startswith(f"not executed: {MODEL_FILE}#cuda: onnxruntime")
    assert sum(line.startswith(f"ok   {MODEL_FILE}#cpu references/") for line in lines) == 2
    assert lines[-2] == "every file is intact, but not everything was executed"
    assert "--device cpu" in lines[-1]


def test_verify_on_the_cpu_alone(bundle: Path) -> None:
    done = run(bundle / "verify.py", "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == f"not executed: {MODEL_FILE}#cuda: --device cpu leaves it out"
    assert done.stdout.splitlines()[-1].startswith("VERIFIED on cpu (gate")


# --- predict.py ----------------------------------------------------------------------------------


def test_predict_without_a_gpu_is_one_line_and_exit_4(bundle: Path, digit: Path) -> None:
    done = run(bundle / "predict.py", digit)
    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{MODEL_FILE}: onnxruntime")
    assert "has no CUDA provider, only " in line
    assert "expected: onnxruntime-gpu" in line
    assert line.endswith("Try: --device cpu runs the same file on the CPU")


def test_predict_on_the_cpu_says_so(bundle: Path, digit: Path, tmp_path: Path) -> None:
    done = run(bundle / "predict.py", digit, "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    first, *answers = done.stdout.splitlines()
    assert first == "on cpu, not on cuda, for which this bundle is made"
    make(tmp_path / "cpu")
    assert run(tmp_path / "cpu" / "predict.py", digit).stdout.splitlines() == answers
    same = run(tmp_path / "cpu" / "predict.py", digit, "--device", "cpu")
    assert same.stdout.splitlines() == answers  # no word where it is the bundle's own device
    other = run(tmp_path / "cpu" / "predict.py", digit, "--device", "cuda")
    assert other.returncode == 2
    assert "--device cuda: this bundle is not made for it, only for cpu. Try: leave it out" in other.stderr


@pytest.mark.parametrize(
    ("kind", "said", "code"),
    [
        ("absent", "has no CUDA provider", 4),
        ("falls back", "the CUDA provider does not start: This session contains graph nodes", 4),
        ("raises", "the CUDA provider does not start: CUDA failure 35", 4),
        ("cpu node", "CUDA starts, but not with the recorded options: This session contains graph nodes", 1),
    ],
)
def test_what_a_machine_lacks_is_said_and_never_passed_over(
    bundle: Path, digit: Path, fake_cuda: FakeCuda, kind: str, said: str, code: int
) -> None:
    done = run(bundle / "predict.py", digit, **fake_cuda.environment(kind))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if code == 4:
        assert done.stderr.splitlines()[-1].endswith("Try: --device cpu runs the same file on the CPU")
    checked = run(bundle / "verify.py", **fake_cuda.environment(kind))
    assert checked.returncode == code
    assert said in checked.stdout
    on_cpu = run(bundle / "predict.py", digit, "--device", "cpu", **fake_cuda.environment(kind))
    assert on_cpu.returncode == 0


def test_a_session_that_may_use_the_cpu_and_does_nothing_else_is_no_gpu(
    tmp_path: Path, digit: Path, fake_cuda: FakeCuda
) -> None:
    """With cpu_fallback ONNX Runtime makes the session without a word, all of it on the CPU."""
    make(tmp_path / "bundle", device="cuda", cpu_fallback=True)
    done = run(tmp_path / "bundle" / "predict.py", digit, **fake_cuda.environment("falls back"))
    assert (done.returncode, done.stdout) == (4, "")
    assert "the session fell back to CPUExecutionProvider" in done.stderr


def test_a_damaged_model_is_no_missing_gpu(
    bundle: Path, digit: Path, tmp_path: Path, fake_cuda: FakeCuda
) -> None:
    make(tmp_path / "bundle", **GRAPH)
    (tmp_path / "bundle" / MODEL_FILE).write_bytes(b"no model")
    done = run(tmp_path / "bundle" / "predict.py", digit, **fake_cuda.environment("raises"))
    assert done.returncode == 1
    assert "cannot be loaded" in done.stderr


# --- on a GPU, as far as a stand-in shows it -----------------------------------------------------


def recorded(folder: Path) -> dict[str, Any]:
    options = json.loads((folder / "manifest.json").read_text())["artefact"]["options"]
    assert isinstance(options, dict)
    return options


def test_predict_opens_the_provider_with_exactly_the_recorded_options(
    bundle: Path, digit: Path, fake_cuda: FakeCuda
) -> None:
    done = run(bundle / "predict.py", digit, **fake_cuda.environment())
    assert done.returncode == 0, done.stderr
    assert "Failed to load" not in done.stdout  # what preload_dlls prints is no answer
    session, *runs = fake_cuda.taken()
    assert session["session"] == [CUDA]
    assert session["options"] == recorded(bundle)["providers"][0][1]
    assert (session["no_fallback"], session["enable_fallback"]) == (True, 0)
    assert (session["tf32_override"], session["preloaded"]) == ("0", 1)
    assert runs == [{"run": "bound", "gpu_graph_id": "1"}] * 2  # captured, and replayed
    on_cpu = run(bundle / "predict.py", digit, "--device", "cpu")
    assert on_cpu.stdout.splitlines()[1:] == done.stdout.splitlines()


def test_on_the_cpu_it_is_optimised_as_recorded_for_that(
    tmp_path: Path, digit: Path, fake_cuda: FakeCuda
) -> None:
    """Parity may hold on the GPU with all of it, and on the CPU, whose kernels are others, with less."""
    make(tmp_path / "bundle", device="cuda", cpu_optimization="basic")
    done = run(tmp_path / "bundle" / "predict.py", digit, "--device", "cpu", **fake_cuda.environment())
    assert done.returncode == 0, done.stderr
    (session,) = fake_cuda.taken()
    assert session == {"session": ["CPUExecutionProvider"], "level": "ORT_ENABLE_BASIC"}


def test_tf32_is_left_to_the_process_where_it_is_wanted(
    tmp_path: Path, digit: Path, fake_cuda: FakeCuda
) -> None:
    make(tmp_path / "bundle", device="cuda", tf32=True, cpu_fallback=True)
    done = run(tmp_path / "bundle" / "predict.py", digit, **fake_cuda.environment())
    assert done.returncode == 0, done.stderr
    session, *runs = fake_cuda.taken()
    assert (session["tf32_override"], session["no_fallback"]) == (None, False)
    assert session["options"]["use_tf32"] == "1"
    assert runs == [{"run": "plain"}]


def test_buffers_are_made_once_for_each_shape(tmp_path: Path, fake_cuda: FakeCuda) -> None:
    """`runtime.py` as a server uses it: many calls, several batch sizes."""
    model = onnx.load(build_classifier(tmp_path / "m.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "free.onnx")
    options = {"device": "cuda", "io_binding": True}
    spec = BundleSpec("digits", tmp_path / "free.onnx", OnnxRuntime(), references_for(tmp_path / "m.onnx"),
                      options=options)  # fmt: skip
    folder = tmp_path / "bundle"
    write_bundle(spec, folder)
    code = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
sys.path.append(str(folder))
import runtime
run = runtime.load(folder, json.loads((folder / "manifest.json").read_text()), "model.onnx")
on_cpu = runtime.load(folder, json.loads((folder / "manifest.json").read_text()), "model.onnx#cpu")
kept = []
for batch in (1, 2, 1, 2, 1):
    x = np.random.default_rng(len(kept)).normal(size=(batch, 1, 8, 8)).astype(np.float32)
    kept.append((run({"image": x})["scores"], on_cpu({"image": x})["scores"]))
for got, wanted in kept:  # each answer stays what it was
    np.testing.assert_array_equal(got, wanted)
"""
    script = tmp_path / "serve.py"
    script.write_text(code)
    done = run(script, folder, **fake_cuda.environment())
    assert done.returncode == 0, done.stderr
    runs = [one["run"] for one in fake_cuda.taken() if "run" in one]
    assert runs.count("bound") == 5
    assert runs.count("plain") == 2  # the outputs' shapes, once for each batch size


def test_verify_and_export_run_both_on_a_gpu(
    tmp_path: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake_cuda.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    made = make(tmp_path / "bundle", **GRAPH)
    assert (made.verdict.state, made.verdict.not_executed) == (State.VERIFIED, ())
    gpu, cpu = made.verdict.detail.split(" and ")
    assert gpu.endswith("CUDA provider, NHWC, TF32 off, bound buffers, CUDA graph")
    assert cpu.endswith("on the CPU")
    sessions = [one for one in fake_cuda.taken() if one.get("session") == [CUDA]]
    assert [one["visible"] for one in sessions] == ["1"]  # the GPU that this process may use
    done = run(tmp_path / "bundle" / "verify.py", **fake_cuda.environment())
    assert done.returncode == 0, done.stdout
    assert sum(line.startswith("ok   model.onnx#cuda") for line in done.stdout.splitlines()) == 2
    assert "Not executed" not in (tmp_path / "bundle" / "README.md").read_text()


def test_wrong_numbers_on_the_gpu_fail(
    tmp_path: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake_cuda.environment("wrong").items():
        monkeypatch.setenv(name, value)
    made = make(tmp_path / "bundle", **GRAPH)
    assert (made.path, made.verdict.state) == (None, State.FAILED)
    assert all(problem.startswith(f"{MODEL_FILE}#cuda, reference") for problem in made.verdict.problems)


def test_a_node_that_the_gpu_lacks_fails_the_bundle_there(
    tmp_path: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fake_cuda.environment("cpu node").items():
        monkeypatch.setenv(name, value)
    made = make(tmp_path / "bundle", **GRAPH)
    assert made.verdict.state is State.FAILED
    assert "CUDA starts, but not with the recorded options" in made.verdict.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        {"providers": [[CUDA, {"gpu_external_alloc": "4096"}]]},
        {"providers": [["TensorrtExecutionProvider", {}]]},
        {"providers": "CUDAExecutionProvider"},
        {"session_config": {"session.model_external_initializers_file_folder_path": "/"}},
        {"environment": {"LD_PRELOAD": "x.so"}},
    ],
)
def test_what_a_manifest_may_ask_of_fairlead_is_bounded(
    tmp_path: Path, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    folder = tmp_path / "bundle"
    make(folder, **GRAPH)
    manifest = read_manifest(folder)
    artefact = manifest.artefact.model_copy(update={"options": {**manifest.artefact.options, **change}})
    write_manifest(folder, manifest.model_copy(update={"artefact": artefact, "files": entries_for(folder)}))
    for name, value in fake_cuda.environment().items():
        monkeypatch.setenv(name, value)
    verdict = verify_bundle(folder)
    assert verdict.state is State.FAILED
    assert "does not know" in verdict.problems[0]
    assert fake_cuda.taken() == []


def test_the_missing_device_is_named_with_a_way_out(bundle: Path) -> None:
    artefact = Artefact((f"{MODEL_FILE}#cuda",), recorded(bundle))
    with pytest.raises(MissingRuntimeError, match="has no CUDA provider") as missing:
        OnnxRuntime().open(bundle, artefact)
    assert "--device cpu" in missing.value.hint
