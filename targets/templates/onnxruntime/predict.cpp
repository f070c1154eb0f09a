/*% if cuda %*/
// Run this bundle's model from C++ with ONNX Runtime for GPUs (1.20 or later), in its CUDA provider, with the
// options that manifest.json records.
/*% else %*/
// Run this bundle's model from C++ with ONNX Runtime 1.14 or later, on the CPU.
/*% endif %*/
//
//   cmake -B build -DONNXRUNTIME_ROOT=/path/to/onnxruntime-linux-x64-1.22.0 && cmake --build build
//   build/predict ../model.onnx INPUT.bin/*= " [--device cpu]" if cuda else "" */
//
// INPUT.bin holds the model's only input as raw little-endian float32, in the order and range that
// preprocess.json says (NumPy: array.astype("<f4").tofile("INPUT.bin")). The batch is whatever the file's size
// makes it. Prints every output's first values and, for two-dimensional outputs, the best five classes.
/*% if cuda %*/
// Exit code 0: done. 1: the model or INPUT.bin cannot be used. 2: wrong arguments. 4: no CUDA here; there is
// no fallback, --device cpu runs the same file on the CPU.
/*% endif %*/

/*% if cuda and o.io_binding %*/
#include <cuda_runtime_api.h>
/*% endif %*/
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
/*% if cuda %*/
#include <memory>
/*% endif %*/
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

/*% if cuda %*/
constexpr int kMissing = 4;

struct NoCuda : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The CUDA provider with exactly the recorded options; without it the session is not made.
void append_cuda(Ort::SessionOptions& options) {
  const std::vector<std::string> held = Ort::GetAvailableProviders();
  if (std::find(held.begin(), held.end(), "CUDAExecutionProvider") == held.end()) {
    throw NoCuda("this ONNX Runtime has no CUDA provider");
  }
/*% for key, value in o.session_config.items() %*/
  options.AddConfigEntry("/*= key */", "/*= value */");
/*% endfor %*/
  const char* const keys[] = {
/*% for key, value in o.providers[0][1].items() %*/
      "/*= key */",
/*% endfor %*/
  };
  const char* const values[] = {
/*% for key, value in o.providers[0][1].items() %*/
      "/*= value */",  // /*= key */
/*% endfor %*/
  };
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* made = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> cuda(
      made, api.ReleaseCUDAProviderOptions);
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda.get(), keys, values, std::size(keys)));
  options.AppendExecutionProvider_CUDA_V2(*cuda);
}

Ort::Session open_session(const Ort::Env& environment, const std::string& model, Ort::SessionOptions& options,
                          bool on_cpu) {
  if (on_cpu) return Ort::Session(environment, model.c_str(), options);
  const Ort::SessionOptions plain;
  try {
    append_cuda(options);
    return Ort::Session(environment, model.c_str(), options);
  } catch (const Ort::Exception& error) {
    const std::string said = error.what();
    Ort::Session(environment, model.c_str(), plain);  // throws in its turn where the file itself is at fault
    throw NoCuda("the CUDA provider does not take it: " + said);
  }
}

/*% if o.io_binding %*/
void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

bool known(const std::vector<int64_t>& shape) {
  return std::all_of(shape.begin(), shape.end(), [](int64_t d) { return d > 0; });
}

// One run with input and outputs in buffers on the GPU, as a server would keep them from run to run.
std::vector<Ort::Value> run_bound(Ort::Session& session, const char* input_name,
                                  const std::vector<float>& values, const std::vector<int64_t>& shape,
                                  const std::vector<std::string>& names) {
  const Ort::MemoryInfo gpu("Cuda", OrtDeviceAllocator, /*= o.providers[0][1].device_id */, OrtMemTypeDefault);
  Ort::Allocator memory(session, gpu);
  Ort::IoBinding binding(session);
  Ort::Value input = Ort::Value::CreateTensor<float>(memory, shape.data(), shape.size());
  const std::size_t bytes = values.size() * sizeof(float);
  check(cudaMemcpy(input.GetTensorMutableData<float>(), values.data(), bytes, cudaMemcpyHostToDevice));
  binding.BindInput(input_name, input);
  std::vector<Ort::Value> landing;  // where the shape is known; else the first run makes the buffer
  for (std::size_t k = 0; k < names.size(); ++k) {
    const Ort::TypeInfo type = session.GetOutputTypeInfo(k);
    const auto info = type.GetTensorTypeAndShapeInfo();
    const std::vector<int64_t> size = info.GetShape();
    if (known(size)) {
      landing.push_back(Ort::Value::CreateTensor(memory, size.data(), size.size(), info.GetElementType()));
      binding.BindOutput(names[k].c_str(), landing.back());
    } else {
      binding.BindOutput(names[k].c_str(), gpu);
    }
  }
  Ort::RunOptions options;
/*% if o.cuda_graph %*/
  options.AddConfigEntry("gpu_graph_id", "1");
  session.Run(options, binding);  // captures the graph
  session.Run(options, binding);  // replays it, as every further run with these buffers does
/*% else %*/
  session.Run(options, binding);
/*% endif %*/
  Ort::AllocatorWithDefaultOptions host;
  std::vector<Ort::Value> outputs = binding.GetOutputValues();
  for (Ort::Value& output : outputs) {
    const auto info = output.GetTensorTypeAndShapeInfo();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) continue;  // only its name is printed
    const std::vector<int64_t> size = info.GetShape();
    Ort::Value copy = Ort::Value::CreateTensor<float>(host, size.data(), size.size());
    check(cudaMemcpy(copy.GetTensorMutableData<float>(), output.GetTensorData<float>(),
                     info.GetElementCount() * sizeof(float), cudaMemcpyDeviceToHost));
    output = std::move(copy);
  }
  return outputs;
}

/*% endif %*/
int run(const std::string& model, const std::string& file, bool on_cpu) {
/*% else %*/
int run(const std::string& model, const std::string& file) {
/*% endif %*/
  const Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "predict");
  Ort::SessionOptions options;
/*% if cuda %*/
/*% if cpu_level == level %*/
  options.SetGraphOptimizationLevel(GraphOptimizationLevel::/*= level */);
/*% else %*/
  using level = GraphOptimizationLevel;
  options.SetGraphOptimizationLevel(on_cpu ? level::/*= cpu_level */ : level::/*= level */);
/*% endif %*/
  options.SetIntraOpNumThreads(/*= o.threads */);
  options.AddConfigEntry("session.intra_op.allow_spinning", "/*= o.allow_spinning|int */");
  if (on_cpu) std::cerr << "on the CPU, not on CUDA, for which this bundle is made\n";
  Ort::Session session = open_session(environment, model, options, on_cpu);
/*% else %*/
  options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // as on a machine that others use too
  Ort::Session session(environment, model.c_str(), options);
/*% endif %*/
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
/*% if cuda and o.io_binding %*/
  if (!on_cpu) {
    const std::vector<Ort::Value> outputs = run_bound(session, input_name.c_str(), values, shape, names);
    for (std::size_t k = 0; k < outputs.size(); ++k) print_output(names[k], outputs[k]);
    return EXIT_SUCCESS;
  }
/*% endif %*/
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
/*% if cuda %*/
  const bool on_cpu = argc == 5 && std::string(argv[3]) == "--device" && std::string(argv[4]) == "cpu";
  if (argc != 3 && !on_cpu) {
    std::cerr << "usage: predict MODEL.onnx INPUT.bin [--device cpu]\n";
    return 2;
  }
/*% for key, value in o.environment.items() %*/
#ifdef _WIN32
  _putenv_s("/*= key */", "/*= value */");
#else
  setenv("/*= key */", "/*= value */", 1);  // read by each CUDA library when it is loaded
#endif
/*% endfor %*/
  try {
    return run(argv[1], argv[2], on_cpu);
  } catch (const NoCuda& error) {
    std::cerr << error.what() << "; expected ONNX Runtime for GPUs, CUDA, cuDNN and an NVIDIA GPU with its "
              << "driver. Try: --device cpu\n";
    return kMissing;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return EXIT_FAILURE;
  }
/*% else %*/
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
/*% endif %*/
}
