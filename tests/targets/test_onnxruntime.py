"""What the onnxruntime target adds to a portable model: a graph for this host, and a C++ sample."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from optim.errors import MissingRuntimeError
from targets import onnxruntime
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.onnxruntime import HOST_FILE, MODEL_FILE, SAMPLES, OnnxRuntime, processor
from targets.references import Reference

RUNTIME = Path(onnxruntime.__file__).parent / "templates" / "runtimes" / "onnxruntime.py"


def test_a_graph_for_this_host_runs_here_and_is_refused_elsewhere(
    classifier: Path, references: tuple[Reference, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BundleSpec("digits", classifier, OnnxRuntime(), references, options={"preoptimized": True})
    result = write_bundle(spec, tmp_path / "bundle")
    assert result.verdict.state is State.VERIFIED, result.verdict.problems
    assert result.artefact.options["host"] == processor() != ""
    assert result.artefact.options["runnable"] == [MODEL_FILE, HOST_FILE]
    portable = {node.domain for node in onnx.load(tmp_path / "bundle" / MODEL_FILE).graph.node}
    assert portable <= {"", "ai.onnx"}
    fused = [node.op_type for node in onnx.load(tmp_path / "bundle" / HOST_FILE).graph.node]
    assert "Relu" not in fused  # part of its convolution now
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bundle" / "verify.py")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"ok   {HOST_FILE}") == len(references)
    monkeypatch.setattr(onnxruntime, "processor", lambda: "another CPU")
    verdict = verify_bundle(tmp_path / "bundle")
    assert verdict.state is State.VERIFIED
    assert f"not executed: {HOST_FILE}" in verdict.detail
    with pytest.raises(MissingRuntimeError, match="another CPU"):
        OnnxRuntime().open(tmp_path / "bundle", onnxruntime.Artefact((HOST_FILE,), result.artefact.options))


def test_both_sides_know_the_processor_by_one_name() -> None:
    code = f"import runpy; print(runpy.run_path({str(RUNTIME)!r})['processor']())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == processor()


# Declarations of what the sample uses, as ONNX Runtime's documentation gives them
# (https://onnxruntime.ai/docs/api/c/namespace_ort.html): enough for a compiler to check the sample's types.
DECLARATIONS = """
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING };
enum GraphOptimizationLevel { ORT_ENABLE_ALL = 99 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
struct OrtAllocator;
namespace Ort {
struct Env { Env(OrtLoggingLevel, const char*); };
struct SessionOptions {
  SessionOptions& SetGraphOptimizationLevel(GraphOptimizationLevel);
  SessionOptions& AddConfigEntry(const char*, const char*);
};
struct AllocatorWithDefaultOptions { operator OrtAllocator*() const; };
struct AllocatedFree { void operator()(void*) const {} };
using AllocatedStringPtr = std::unique_ptr<char, AllocatedFree>;
struct ConstTensorTypeAndShapeInfo {
  ONNXTensorElementDataType GetElementType() const;
  std::size_t GetElementCount() const;
  std::vector<int64_t> GetShape() const;
};
using TensorTypeAndShapeInfo = ConstTensorTypeAndShapeInfo;
struct TypeInfo { ConstTensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const; };
struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType);
  operator const struct OrtMemoryInfo*() const;
};
struct Value {
  Value(const Value&) = delete;
  Value(Value&&) noexcept;
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const;
  template <typename T> const T* GetTensorData() const;
  template <typename T>
  static Value CreateTensor(const struct OrtMemoryInfo*, T*, std::size_t, const int64_t*, std::size_t);
};
struct RunOptions { explicit RunOptions(std::nullptr_t); };
struct Session {
  Session(const Env&, const char*, const SessionOptions&);
  std::size_t GetInputCount() const;
  std::size_t GetOutputCount() const;
  AllocatedStringPtr GetInputNameAllocated(std::size_t, OrtAllocator*) const;
  AllocatedStringPtr GetOutputNameAllocated(std::size_t, OrtAllocator*) const;
  TypeInfo GetInputTypeInfo(std::size_t) const;
  std::vector<Value> Run(const RunOptions&, const char* const*, const Value*, std::size_t,
                         const char* const*, std::size_t);
};
}
"""


@pytest.mark.slow
def test_the_cpp_sample_compiles(tmp_path: Path) -> None:
    """Against ONNX Runtime's own headers where ONNXRUNTIME_INCLUDE names them, else against declarations."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    include = os.environ.get("ONNXRUNTIME_INCLUDE", "")
    if not include:
        (tmp_path / "onnxruntime_cxx_api.h").write_text(DECLARATIONS)
        include = str(tmp_path)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include}"]
    command = [compiler, *flags, str(SAMPLES / "predict.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
