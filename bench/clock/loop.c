/* One ONNX file through ONNX Runtime's C API, timed by clock_gettime: a clock that shares nothing with ours.
 *
 *     loop LIBONNXRUNTIME MODEL OUTPUT THREADS BATCH LENGTH RUNS IDS INPUT...
 *
 * IDS is a file of BATCH x LENGTH int64 token ids. Where RUNS is above 0, does them and ends. Where it is 0,
 * reads numbers of runs from stdin, and for each prints the nanoseconds of every run in one line. The API is a table of functions to which new ones are only ever appended
 * (onnxruntime_c_api.h, struct OrtApi), so a function's place in it serves in place of the header, which
 * the Python wheel does not bring.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum place {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_NUM_THREADS = 24,
    SET_INTER_OP_NUM_THREADS = 25,
    CREATE_TENSOR_WITH_DATA = 49,
    CREATE_CPU_MEMORY_INFO = 69,
    RELEASE_VALUE = 96,
};
enum { WARNING = 2, INT64 = 7, ARENA_ALLOCATOR = 1, DEFAULT_MEMORY = 0, MAX_INPUTS = 3 };

typedef void *(*function)();
struct api_base {
    const function *(*get_api)(uint32_t version);
    const char *(*version)(void);
};

static const function *api;

static void check(void *status)
{
    if (status != NULL) {
        fprintf(stderr, "%s\n", (const char *)api[GET_ERROR_MESSAGE](status));
        exit(1);
    }
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

int main(int count, char **words)
{
    if (count < 10 || count > 9 + MAX_INPUTS) {
        fprintf(stderr, "usage: loop LIBONNXRUNTIME MODEL OUTPUT THREADS BATCH LENGTH RUNS IDS INPUT...\n");
        return 2;
    }
    const char *output = words[3];
    int threads = atoi(words[4]), runs = atoi(words[7]), inputs = count - 9;
    int64_t shape[2] = {atoi(words[5]), atoi(words[6])};
    size_t tokens = (size_t)(shape[0] * shape[1]);

    void *library = dlopen(words[1], RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    const struct api_base *(*base)(void) = (const struct api_base *(*)(void))dlsym(library, "OrtGetApiBase");
    api = base()->get_api(1);

    void *environment, *options, *session, *memory, *tensors[MAX_INPUTS];
    check(api[CREATE_ENV](WARNING, "loop", &environment));
    check(api[CREATE_SESSION_OPTIONS](&options));
    check(api[SET_INTRA_OP_NUM_THREADS](options, threads));
    check(api[SET_INTER_OP_NUM_THREADS](options, 1));
    check(api[CREATE_SESSION](environment, words[2], options, &session));
    check(api[CREATE_CPU_MEMORY_INFO](ARENA_ALLOCATOR, DEFAULT_MEMORY, &memory));

    for (int i = 0; i < inputs; i++) {
        int64_t *values = calloc(tokens, sizeof *values);
        if (strcmp(words[9 + i], "input_ids") == 0) {
            FILE *file = fopen(words[8], "rb");
            if (file == NULL || fread(values, sizeof *values, tokens, file) != tokens) {
                fprintf(stderr, "%s: too few token ids\n", words[8]);
                return 1;
            }
            fclose(file);
        } else if (strcmp(words[9 + i], "attention_mask") == 0) {
            for (size_t j = 0; j < tokens; j++)
                values[j] = 1;
        }
        size_t bytes = tokens * sizeof *values;
        check(api[CREATE_TENSOR_WITH_DATA](memory, values, bytes, shape, (size_t)2, INT64, &tensors[i]));
    }

    const char *const *names = (const char *const *)&words[9];
    int asked = runs == 0;
    while (asked ? scanf("%d", &runs) == 1 : runs > 0) {
        int64_t *samples = malloc((size_t)runs * sizeof *samples);
        for (int run = 0; run < runs; run++) {
            void *answer = NULL;
            int64_t start = now_ns();
            check(api[RUN](session, NULL, names, tensors, (size_t)inputs, &output, (size_t)1, &answer));
            samples[run] = now_ns() - start;
            api[RELEASE_VALUE](answer);
        }
        for (int run = 0; run < runs; run++)
            printf(run + 1 < runs ? "%lld " : "%lld\n", (long long)samples[run]);
        fflush(stdout);
        free(samples);
        if (!asked)
            break;
    }
    return 0;
}
