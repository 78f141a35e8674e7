// Describes a picture with an ONNX file that `keras-netvlad export --layout nhwc` wrote.
//
//     describe MODEL.onnx PICTURE.ppm
//
// Prints the digest of the model's weights and the descriptor, one value per line. The picture is a binary PPM (P6) of 8
// bits per channel, as ImageMagick, FFmpeg and OpenCV write it. The model contains preprocessing and whitening.

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const OrtApi* const api = OrtGetApiBase()->GetApi(16);  // of ONNX Runtime 1.16, which later releases keep

// Throws the message of a call that failed.
void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

template <typename T>
using Handle = std::unique_ptr<T, void (*)(T*)>;

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> bytes;  // (height, width, 3), RGB
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t largest = 0;
  Picture picture;
  file >> kind >> picture.width >> picture.height >> largest;
  file.get();  // one white space ends the header
  const bool is_ppm = file && kind == "P6" && largest == 255 && picture.width > 0 && picture.height > 0;
  if (!is_ppm || picture.width > 65535 || picture.height > 65535) {
    throw std::runtime_error("The picture must be a binary PPM of 8 bits without comments. Received: " + path);
  }
  picture.bytes.resize(static_cast<size_t>(picture.height * picture.width * 3));
  if (!file.read(reinterpret_cast<char*>(picture.bytes.data()), static_cast<std::streamsize>(picture.bytes.size()))) {
    throw std::runtime_error("The picture must be a complete PPM file. Received: " + path);
  }
  return picture;
}

// Returns an entry of the file's metadata, or an empty string.
std::string metadata_of(const OrtSession* session, const char* key) {
  OrtModelMetadata* loaded = nullptr;
  check(api->SessionGetModelMetadata(session, &loaded));
  const Handle<OrtModelMetadata> metadata(loaded, api->ReleaseModelMetadata);
  OrtAllocator* allocator = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  char* value = nullptr;
  check(api->ModelMetadataLookupCustomMetadataMap(metadata.get(), allocator, key, &value));
  if (value == nullptr) return "";
  const std::string text = value;
  allocator->Free(allocator, value);
  return text;
}

// Returns the descriptor of a picture.
std::vector<float> describe(OrtSession* session, Picture& picture) {
  OrtMemoryInfo* info = nullptr;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
  const Handle<OrtMemoryInfo> memory(info, api->ReleaseMemoryInfo);
  const int64_t shape[] = {1, picture.height, picture.width, 3};
  OrtValue* made = nullptr;
  check(api->CreateTensorWithDataAsOrtValue(memory.get(), picture.bytes.data(), picture.bytes.size(), shape, 4,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &made));
  const Handle<OrtValue> input(made, api->ReleaseValue);

  const char* const input_names[] = {"images"};
  const char* const output_names[] = {"descriptor"};
  const OrtValue* const inputs[] = {input.get()};
  OrtValue* result = nullptr;
  check(api->Run(session, nullptr, input_names, inputs, 1, output_names, 1, &result));
  const Handle<OrtValue> output(result, api->ReleaseValue);

  OrtTensorTypeAndShapeInfo* described = nullptr;
  check(api->GetTensorTypeAndShape(output.get(), &described));
  const Handle<OrtTensorTypeAndShapeInfo> type(described, api->ReleaseTensorTypeAndShapeInfo);
  size_t size = 0;
  check(api->GetTensorShapeElementCount(type.get(), &size));
  void* values = nullptr;
  check(api->GetTensorMutableData(output.get(), &values));
  return {static_cast<float*>(values), static_cast<float*>(values) + size};
}

void run(const std::string& model, const std::string& path) {
  if (api == nullptr) throw std::runtime_error("ONNX Runtime 1.16 or later is needed.");
  OrtEnv* made = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "describe", &made));
  const Handle<OrtEnv> env(made, api->ReleaseEnv);
  OrtSessionOptions* defaults = nullptr;
  check(api->CreateSessionOptions(&defaults));
  const Handle<OrtSessionOptions> options(defaults, api->ReleaseSessionOptions);
  // A GPU: call SessionOptionsAppendExecutionProvider_CUDA_V2 or ..._TensorRT_V2 with the options here.
  OrtSession* loaded = nullptr;
  check(api->CreateSession(env.get(), model.c_str(), options.get(), &loaded));
  const Handle<OrtSession> session(loaded, api->ReleaseSession);

  const std::string layout = metadata_of(session.get(), "layout");
  if (layout != "nhwc" || metadata_of(session.get(), "channels") != "RGB") {
    throw std::runtime_error("The model must take RGB pictures of layout nhwc. Received: layout '" + layout + "'");
  }
  Picture picture = read_ppm(path);
  std::printf("# weights_sha256 %s\n", metadata_of(session.get(), "weights_sha256").c_str());
  for (const float value : describe(session.get(), picture)) std::printf("%.9g\n", value);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: describe MODEL.onnx PICTURE.ppm\n");
    return EXIT_FAILURE;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "describe: %s\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
