/* tokenizer_speed.c - seconds to encode a file, for tokenizer_speed.py.    tokenizer_speed MODEL TOKENIZER TEXT */
#include "../tools/test.h"
#include <time.h>

int main(int argc, char **argv) {
    llama *m = NULL;
    size_t n = 0;
    struct timespec a, b;
    llama_options o = {.size = sizeof o, .tokenizer = argc > 3 ? argv[2] : ""};
    char *text = argc > 3 ? read_file(argv[3], &n) : NULL;
    if (!text || llama_open(&m, argv[1], &o, NULL)) return 1;
    int32_t *ids = must_alloc((n + 1) * sizeof *ids);
    clock_gettime(CLOCK_MONOTONIC, &a);
    ptrdiff_t count = llama_text_to_tokens(m, text, n, 0, ids, n + 1);
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%td %.9f\n", count, (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec));
    llama_close(m);
    free(text), free(ids);
    return 0;
}
