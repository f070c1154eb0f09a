"""The C++ sample of a bundle: one text for every CPU, the options of CUDA written out, and it compiles."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from targets.cpp_sample import SAMPLE_FILES
from targets.onnxruntime import OnnxRuntime
from tests.targets.conftest import build_classifier

# Declarations of what the sample uses, as ONNX Runtime's documentation gives them
# (https://onnxruntime.ai/docs/api/c/namespace_ort.html): enough for a compiler to check the sample's types.
ORT = """
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING };
enum GraphOptimizationLevel { ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED, ORT_ENABLE_ALL = 99 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };
enum OrtAllocatorType { OrtDeviceAllocator = 0, OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
struct OrtAllocator;
struct OrtMemoryInfo;
struct OrtStatus;
struct OrtCUDAProviderOptionsV2;
struct OrtApi {
  OrtStatus* (*CreateCUDAProviderOptions)(OrtCUDAProviderOptionsV2**) noexcept;
  OrtStatus* (*UpdateCUDAProviderOptions)(OrtCUDAProviderOptionsV2*, const char* const*, const char* const*,
                                          std::size_t) noexcept;
  void (*ReleaseCUDAProviderOptions)(OrtCUDAProviderOptionsV2*) noexcept;
};
namespace Ort {
const OrtApi& GetApi() noexcept;
void ThrowOnError(OrtStatus*);
std::vector<std::string> GetAvailableProviders();
struct Exception : std::exception { const char* what() const noexcept override; };
struct Env { Env(OrtLoggingLevel, const char*); };
struct SessionOptions {
  SessionOptions();
  SessionOptions& SetGraphOptimizationLevel(GraphOptimizationLevel);
  SessionOptions& SetIntraOpNumThreads(int);
  SessionOptions& AddConfigEntry(const char*, const char*);
  SessionOptions& AppendExecutionProvider_CUDA_V2(const OrtCUDAProviderOptionsV2&);
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
  MemoryInfo(const char*, OrtAllocatorType, int, OrtMemType);
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType);
  operator const OrtMemoryInfo*() const;
};
struct Value {
  Value(const Value&) = delete;
  Value(Value&&) noexcept;
  Value& operator=(const Value&) = delete;
  Value& operator=(Value&&) noexcept;
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const;
  template <typename T> const T* GetTensorData() const;
  template <typename T> T* GetTensorMutableData();
  template <typename T>
  static Value CreateTensor(const OrtMemoryInfo*, T*, std::size_t, const int64_t*, std::size_t);
  template <typename T> static Value CreateTensor(OrtAllocator*, const int64_t*, std::size_t);
  static Value CreateTensor(OrtAllocator*, const int64_t*, std::size_t, ONNXTensorElementDataType);
};
struct RunOptions {
  explicit RunOptions(std::nullptr_t);
  RunOptions();
  RunOptions& AddConfigEntry(const char*, const char*);
};
struct IoBinding;
struct Session {
  Session(const Env&, const char*, const SessionOptions&);
  Session(const Session&) = delete;
  Session(Session&&) noexcept;
  std::size_t GetInputCount() const;
  std::size_t GetOutputCount() const;
  AllocatedStringPtr GetInputNameAllocated(std::size_t, OrtAllocator*) const;
  AllocatedStringPtr GetOutputNameAllocated(std::size_t, OrtAllocator*) const;
  TypeInfo GetInputTypeInfo(std::size_t) const;
  TypeInfo GetOutputTypeInfo(std::size_t) const;
  std::vector<Value> Run(const RunOptions&, const char* const*, const Value*, std::size_t,
                         const char* const*, std::size_t);
  void Run(const RunOptions&, const IoBinding&);
};
struct Allocator {
  Allocator(const Session&, const OrtMemoryInfo*);
  operator OrtAllocator*() const;
};
struct IoBinding {
  explicit IoBinding(Session&);
  void BindInput(const char*, const Value&);
  void BindOutput(const char*, const Value&);
  void BindOutput(const char*, const OrtMemoryInfo*);
  std::vector<Value> GetOutputValues() const;
};
}
"""
# https://docs.nvidia.com/cuda/cuda-runtime-api
CUDA_RUNTIME = """
#pragma once
#include <cstddef>
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaMemcpy(void*, const void*, std::size_t, cudaMemcpyKind);
"""
CUDA = {"device": "cuda"}
KINDS: dict[str, dict[str, object]] = {
    "cpu": {},
    "cuda": CUDA,
    "bound": {
        **CUDA,
        "io_binding": True,
        "tf32": True,
        "cpu_fallback": True,
        "threads": 3,
        "cpu_optimization": "basic",
    },
    "graph": {**CUDA, "io_binding": True, "cuda_graph": True, "layout": "NHWC", "optimization": "extended"},
}


def sample(folder: Path, options: dict[str, object]) -> dict[str, str]:
    """The files of the sample of a bundle with these options."""
    folder.mkdir()
    made = OnnxRuntime().build(build_classifier(folder / "m.onnx"), folder, options)
    assert {f"cpp/{name}" for name in SAMPLE_FILES} <= set(made.files)
    return {name: (folder / "cpp" / name).read_text() for name in SAMPLE_FILES}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_compiles(kind: str, tmp_path: Path) -> None:
    """Against ONNX Runtime's own headers where ONNXRUNTIME_INCLUDE names them, else against declarations; and
    against CUDA's own where its toolkit is.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    sample(tmp_path / kind, KINDS[kind])
    include = os.environ.get("ONNXRUNTIME_INCLUDE", "")
    if not include:
        (tmp_path / "onnxruntime_cxx_api.h").write_text(ORT)
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if not (toolkit / "cuda_runtime_api.h").is_file():
        (tmp_path / "cuda_runtime_api.h").write_text(CUDA_RUNTIME)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include or tmp_path}"]
    command = [
        compiler,
        *flags,
        f"-I{tmp_path}",
        "-isystem",
        str(toolkit),
        str(tmp_path / kind / "cpp" / "predict.cpp"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_on_the_cpu_nothing_is_said_of_cuda(tmp_path: Path) -> None:
    plain = sample(tmp_path / "a", {})
    assert sample(tmp_path / "b", {"threads": 4, "io_binding": True}) == plain
    assert not any(word in text for text in plain.values() for word in ("CUDA", "cuda", "/*", "device"))


def test_the_recorded_options_of_cuda_stand_in_the_text(tmp_path: Path) -> None:
    text = sample(tmp_path / "graph", KINDS["graph"])["predict.cpp"]
    for line in (
        '"1",  // prefer_nhwc',
        '"0",  // use_tf32',
        '"1",  // enable_cuda_graph',
        'options.AddConfigEntry("session.disable_cpu_ep_fallback", "1");',
        'setenv("NVIDIA_TF32_OVERRIDE", "0", 1);',
        'options.AddConfigEntry("gpu_graph_id", "1");',
        "GraphOptimizationLevel::ORT_ENABLE_EXTENDED",
    ):
        assert line in text
    assert text.index("setenv") > text.index("int main")  # before anything of CUDA is loaded
    other = sample(tmp_path / "bound", KINDS["bound"])
    assert "CUDA::cudart" in other["CMakeLists.txt"]
    assert "SetIntraOpNumThreads(3)" in other["predict.cpp"]
    assert "on_cpu ? level::ORT_ENABLE_BASIC : level::ORT_ENABLE_ALL" in other["predict.cpp"]
    for absent in ("NVIDIA_TF32_OVERRIDE", "disable_cpu_ep_fallback", "gpu_graph_id"):
        assert absent not in other["predict.cpp"]
    alone = sample(tmp_path / "cuda", CUDA)
    assert "cudart" not in alone["CMakeLists.txt"] + alone["predict.cpp"]
