/* generate.c - complete several prompts together with llama_generate, and print each text on a line of its own.
 *
 *   generate MODEL PROMPT...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "llama.h"

enum { MAX_PROMPTS = 8, MAX_TOKENS = 256 };

static char texts[MAX_PROMPTS][MAX_TOKENS * LLAMA_TEXT_MAX];
static int32_t prompts[MAX_PROMPTS][MAX_TOKENS];

/* Called with each token of each text: append the characters it completes. */
static int append(void *user, llama_request *text, const char *bytes, size_t n) {
    strncat(texts[text - (llama_request *)user], bytes, n);
    return 0;
}

int main(int argc, char **argv) {
    size_t n = argc < 3 ? 0 : (size_t)argc - 2;
    if (n == 0 || n > MAX_PROMPTS) return fprintf(stderr, "usage: generate MODEL PROMPT...\n"), 2;
    llama *model = NULL;
    llama_session *s = NULL;
    llama_error err;
    llama_session_options options = {.size = sizeof options, .sequences = (int)n};
    if (llama_open(&model, argv[1], NULL, &err) || llama_session_new(&s, model, &options, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    static llama_request requests[MAX_PROMPTS];
    for (size_t i = 0; i < n; i++) {
        const char *prompt = argv[i + 2];
        ptrdiff_t tokens = llama_text_to_tokens(model, prompt, strlen(prompt), LLAMA_ADD_BOS, prompts[i], MAX_TOKENS);
        if (tokens <= 0 || tokens > MAX_TOKENS) return fprintf(stderr, "prompt %zu: no tokens, or too many\n", i), 1;
        requests[i].prompt = prompts[i];
        requests[i].n_prompt = (size_t)tokens;
        requests[i].sampler = (llama_sampler){.size = sizeof(llama_sampler)}; /* greedy */
        requests[i].max_tokens = 24;
        requests[i].utf8.started = 1;
    }
    if (llama_generate(s, requests, n, append, requests))
        return fprintf(stderr, "%s\n", llama_session_error(s)), 1;
    for (size_t i = 0; i < n; i++) printf("%s\n", texts[i]);
    llama_session_free(s);
    llama_close(model);
}
