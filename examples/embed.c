/* Vectors of texts, from a package with its tokenizer in the graph (`homoexport export --with-tokenizer`):
 *
 *     embed EXTENSIONS_LIBRARY package/strings/text_model.onnx TEXT...
 *
 * prints a line of numbers for each text. docs/loading.md says how to build it. */
#include <stdio.h>
#include <stdlib.h>

#include <onnxruntime_c_api.h>

static const OrtApi *ort;

static void check(OrtStatus *status) {
  if (status == NULL) return;
  fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  exit(1);
}

int main(int count, char **arguments) {
  if (count < 4) {
    fprintf(stderr, "usage: %s EXTENSIONS_LIBRARY MODEL TEXT...\n", arguments[0]);
    return 2;
  }
  const char *const *texts = (const char *const *)arguments + 3;
  const int64_t batch = count - 3;
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == NULL) {
    fprintf(stderr, "the header is newer than onnxruntime %s\n", OrtGetApiBase()->GetVersionString());
    return 1;
  }

  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "embed", &env));
  check(ort->CreateSessionOptions(&options));
  check(ort->RegisterCustomOpsLibrary_V2(options, arguments[1]));
  check(ort->CreateSession(env, arguments[2], options, &session));

  OrtAllocator *allocator;
  OrtValue *input, *vectors = NULL;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->CreateTensorAsOrtValue(allocator, &batch, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &input));
  check(ort->FillStringTensor(input, texts, (size_t)batch));
  const char *const inputs[] = {"text"}, *const outputs[] = {"sentence_embedding"};
  check(ort->Run(session, NULL, inputs, (const OrtValue *const *)&input, 1, outputs, 1, &vectors));

  OrtTensorTypeAndShapeInfo *info;
  int64_t shape[2]; /* texts, width of a vector */
  float *numbers;
  check(ort->GetTensorTypeAndShape(vectors, &info));
  check(ort->GetDimensions(info, shape, 2));
  check(ort->GetTensorMutableData(vectors, (void **)&numbers));
  for (int64_t index = 0; index < shape[0] * shape[1]; index++)
    printf("%.9g%c", numbers[index], (index + 1) % shape[1] ? ' ' : '\n');

  ort->ReleaseTensorTypeAndShapeInfo(info);
  ort->ReleaseValue(vectors);
  ort->ReleaseValue(input);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(env);
  return 0;
}
