// Run this bundle's model from C++ with ONNX Runtime 1.14 or later, on the CPU.
//
//   cmake -B build -DONNXRUNTIME_ROOT=/path/to/onnxruntime-linux-x64-1.22.0 && cmake --build build
//   build/predict ../model.onnx INPUT.bin
//
// INPUT.bin holds the model's only input as raw little-endian float32, in the order and range that
// preprocess.json says (NumPy: array.astype("<f4").tofile("INPUT.bin")). The batch is whatever the file's size
// makes it. Prints every output's first values and, for two-dimensional outputs, the best five classes.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::vector<float> read_floats(const std::string& path) {
  std::ifstream stream(path, std::ios::binary | std::ios::ate);
  if (!stream) throw std::runtime_error(path + " cannot be read");
  const auto bytes = static_cast<std::size_t>(stream.tellg());
  if (bytes == 0 || bytes % sizeof(float) != 0) throw std::runtime_error(path + " holds no float32 values");
  std::vector<float> values(bytes / sizeof(float));
  stream.seekg(0);
  stream.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(bytes));
  if (!stream) throw std::runtime_error(path + " cannot be read to its end");
  return values;
}

// Fill in the one size that the model leaves free (-1), from the number of values.
std::vector<int64_t> fitted(std::vector<int64_t> shape, std::size_t count) {
  const auto free = std::count_if(shape.begin(), shape.end(), [](int64_t d) { return d < 0; });
  int64_t known = 1;
  for (const int64_t d : shape) known *= d < 0 ? 1 : d;
  const auto total = static_cast<int64_t>(count);
  if (free > 1 || known == 0 || total % known != 0 || (free == 0 && total != known)) {
    throw std::runtime_error("the file has " + std::to_string(count) + " values, which do not fit the input");
  }
  std::replace_if(shape.begin(), shape.end(), [](int64_t d) { return d < 0; }, total / known);
  return shape;
}

void print_output(const std::string& name, const Ort::Value& value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const std::vector<int64_t> shape = info.GetShape();
  std::cout << name << " [";
  for (std::size_t k = 0; k < shape.size(); ++k) std::cout << (k ? ", " : "") << shape[k];
  std::cout << "]";
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    std::cout << " is not float32\n";
    return;
  }
  const float* data = value.GetTensorData<float>();
  const std::size_t count = info.GetElementCount();
  for (std::size_t k = 0; k < std::min<std::size_t>(count, 8); ++k) std::cout << " " << data[k];
  std::cout << (count > 8 ? " ...\n" : "\n");
  if (shape.size() != 2) return;
  const auto classes = static_cast<std::size_t>(shape[1]);
  std::vector<std::size_t> order(classes);
  for (std::size_t row = 0; row * classes < count; ++row) {
    const float* scores = data + row * classes;
    std::iota(order.begin(), order.end(), std::size_t{0});
    const std::size_t top = std::min<std::size_t>(classes, 5);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(top), order.end(),
                      [scores](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    std::cout << "example " << row << ":";
    for (std::size_t k = 0; k < top; ++k) std::cout << "  class " << order[k] << " " << scores[order[k]];
    std::cout << "\n";
  }
}

int run(const std::string& model, const std::string& file) {
  const Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "predict");
  Ort::SessionOptions options;
  options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // as on a machine that others use too
  Ort::Session session(environment, model.c_str(), options);
  if (session.GetInputCount() != 1) throw std::runtime_error("this sample feeds models of one input");

  Ort::AllocatorWithDefaultOptions allocator;
  const std::string input_name = session.GetInputNameAllocated(0, allocator).get();
  std::vector<std::string> names;
  for (std::size_t k = 0; k < session.GetOutputCount(); ++k) {
    names.emplace_back(session.GetOutputNameAllocated(k, allocator).get());
  }

  std::vector<float> values = read_floats(file);
  const Ort::TypeInfo type = session.GetInputTypeInfo(0);
  const std::vector<int64_t> shape = fitted(type.GetTensorTypeAndShapeInfo().GetShape(), values.size());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const Ort::Value input =
      Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());

  const char* const input_names[] = {input_name.c_str()};
  std::vector<const char*> output_names;
  std::transform(names.begin(), names.end(), std::back_inserter(output_names),
                 [](const std::string& name) { return name.c_str(); });
  const std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, input_names, &input, 1,
                                                      output_names.data(), output_names.size());
  for (std::size_t k = 0; k < outputs.size(); ++k) print_output(names[k], outputs[k]);
  return EXIT_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: predict MODEL.onnx INPUT.bin\n";
    return 2;
  }
  try {
    return run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return EXIT_FAILURE;
  }
}
