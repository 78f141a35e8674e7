/* Runs a SavedModel with TensorFlow's C API: the loader that TensorFlow Serving uses, and no Python.
 *
 *     run_saved_model DIRECTORY INPUT... -- OUTPUT...
 *
 *     INPUT   TENSOR:DTYPE:SIZES:FILE   such as  serving_default_frames:0:float32:2,5,12:frames.raw
 *     OUTPUT  TENSOR:FILE               such as  StatefulPartitionedCall:1:scores.raw
 *
 * TENSOR is OPERATION:INDEX, as the SavedModel's signature names it. A file holds the tensor's bytes, row-major, in this
 * machine's byte order; that of a string input is a TFRecord file, one record for each string. Prints the shape of each
 * output. Exits with 1 and one line on stderr if anything fails.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MAX_PORTS = 32, MAX_RANK = 8, CHECKSUM = 4 };

static void fail(const char *what, const char *received) {
  fprintf(stderr, "run_saved_model: %s Received: %s\n", what, received);
  exit(1);
}

static void check(const TF_Status *status, const char *doing) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "run_saved_model: TensorFlow failed %s: %s\n", doing, TF_Message(status));
    exit(1);
  }
}

/* Cuts the text at the last colon and returns what stood behind it. */
static char *cut(char *text, const char *whole) {
  char *colon = strrchr(text, ':');
  if (colon == NULL) fail("An input is TENSOR:DTYPE:SIZES:FILE and an output TENSOR:FILE.", whole);
  *colon = '\0';
  return colon + 1;
}

static TF_Output find(TF_Graph *graph, char *tensor) {
  char whole[1024];
  snprintf(whole, sizeof whole, "%s", tensor);
  char *end, *number = cut(tensor, whole);
  long index = strtol(number, &end, 10);
  TF_Operation *operation = TF_GraphOperationByName(graph, tensor);
  if (operation == NULL || end == number || *end != '\0' || index < 0 || index >= TF_OperationNumOutputs(operation))
    fail("A tensor must be one of the graph's, OPERATION:INDEX.", whole);
  return (TF_Output){operation, (int)index};
}

static TF_DataType parse_dtype(const char *name) {
  if (strcmp(name, "float32") == 0) return TF_FLOAT;
  if (strcmp(name, "int32") == 0) return TF_INT32;
  if (strcmp(name, "uint8") == 0) return TF_UINT8;
  if (strcmp(name, "string") == 0) return TF_STRING;
  fail("A dtype must be float32, int32, uint8 or string.", name);
  return TF_FLOAT;
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail("An input must be a file that can be read.", path);
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*size + 1);
  if (bytes == NULL || fread(bytes, 1, *size, file) != *size) fail("An input must be a file that can be read.", path);
  fclose(file);
  return bytes;
}

/* Makes `count` strings of a TFRecord file: each record is its length, a checksum, its bytes, and a checksum. */
static void copy_records(const char *bytes, size_t size, TF_TString *strings, size_t count, const char *path) {
  for (size_t i = 0; i < count; i++) {
    uint64_t length = 0;
    const size_t header = sizeof length + CHECKSUM;
    if (size >= header) memcpy(&length, bytes, sizeof length);
    if (size < header + CHECKSUM || length > size - header - CHECKSUM)
      fail("An input of strings must be a TFRecord file with a record for each.", path);
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], bytes + header, length);
    bytes += header + length + CHECKSUM;
    size -= header + length + CHECKSUM;
  }
  if (size != 0) fail("An input of strings must be a TFRecord file with a record for each.", path);
}

static TF_Tensor *read_tensor(TF_DataType dtype, char *sizes, const char *path) {
  int64_t shape[MAX_RANK];
  int rank = 0;
  size_t count = 1;
  for (char *size = strtok(sizes, ","); size != NULL; size = strtok(NULL, ",")) {
    char *end;
    if (rank == MAX_RANK) fail("A tensor has at most 8 sizes.", size);
    shape[rank] = strtoll(size, &end, 10);
    if (*end != '\0' || shape[rank] < 0) fail("A size must be an integer of at least 0.", size);
    count *= (size_t)shape[rank++];
  }
  size_t value_size = dtype == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(dtype);
  TF_Tensor *tensor = TF_AllocateTensor(dtype, shape, rank, count * value_size);
  if (tensor == NULL) fail("A tensor must fit into memory.", path);
  size_t size;
  char *bytes = read_file(path, &size);
  if (dtype == TF_STRING) {
    copy_records(bytes, size, TF_TensorData(tensor), count, path);
  } else if (size == TF_TensorByteSize(tensor)) {
    memcpy(TF_TensorData(tensor), bytes, size);
  } else {
    fail("An input must hold exactly the bytes of its shape.", path);
  }
  free(bytes);
  return tensor;
}

static void write_tensor(const TF_Tensor *tensor, const char *path) {
  if (TF_TensorType(tensor) == TF_STRING) fail("An output must hold numbers.", path);
  FILE *file = fopen(path, "wb");
  if (file == NULL) fail("An output must be a file that can be written.", path);
  size_t size = TF_TensorByteSize(tensor);
  if (fwrite(TF_TensorData(tensor), 1, size, file) != size || fclose(file) != 0)
    fail("An output must find room on the disk.", path);
}

int main(int argc, char **argv) {
  int separator = 2;
  while (separator < argc && strcmp(argv[separator], "--") != 0) separator++;
  int num_inputs = separator - 2, num_outputs = argc - separator - 1;
  if (num_outputs < 1 || num_inputs > MAX_PORTS || num_outputs > MAX_PORTS) {
    fprintf(stderr, "usage: run_saved_model DIRECTORY TENSOR:DTYPE:SIZES:FILE... -- TENSOR:FILE...\n");
    return 1;
  }

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, "to load the SavedModel");

  TF_Output inputs[MAX_PORTS], outputs[MAX_PORTS];
  TF_Tensor *values[MAX_PORTS], *results[MAX_PORTS];
  const char *paths[MAX_PORTS];
  for (int i = 0; i < num_inputs; i++) {
    char *text = argv[2 + i], whole[1024];
    snprintf(whole, sizeof whole, "%s", text);
    const char *path = cut(text, whole);
    char *sizes = cut(text, whole), *dtype = cut(text, whole);
    inputs[i] = find(graph, text);
    values[i] = read_tensor(parse_dtype(dtype), sizes, path);
  }
  for (int i = 0; i < num_outputs; i++) {
    paths[i] = cut(argv[separator + 1 + i], argv[separator + 1 + i]);
    outputs[i] = find(graph, argv[separator + 1 + i]);
  }

  TF_SessionRun(session, NULL, inputs, values, num_inputs, outputs, results, num_outputs, NULL, 0, NULL, status);
  check(status, "to run the SavedModel");

  for (int i = 0; i < num_outputs; i++) {
    write_tensor(results[i], paths[i]);
    for (int axis = 0; axis < TF_NumDims(results[i]); axis++)
      printf("%s%lld", axis == 0 ? "" : ",", (long long)TF_Dim(results[i], axis));
    printf("\n");
    TF_DeleteTensor(results[i]);
  }
  for (int i = 0; i < num_inputs; i++) TF_DeleteTensor(values[i]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
