/* machines.c - two processes complete a text together: each reads its half of the weights.
 *
 *   cc machines.c llama.c tokenizer.c -lm -pthread
 *   ./a.out MODEL "Once upon a time" */
#include "llama.h"
#include "ring.h"
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* Prints the text; on one rank only, as all have the same. */
static int print(void *user, llama_request *r, const char *text, size_t n) {
    (void)r;
    if (*(int *)user == 0) fwrite(text, 1, n, stdout);
    return 0;
}

int main(int argc, char **argv) {
    enum { RANKS = 2, TOKENS = 64, MAX_PROMPT = 512 };
    int32_t prompt[MAX_PROMPT];
    llama *model = NULL;
    llama_session *session = NULL;
    llama_error err = {.text = ""};
    ring r;
    pid_t children[RANKS];
    if (argc < 3) return 1;
    int rank = ring_start(&r, RANKS, children);
    if (rank < 0) return 1;

    llama_options open = {.size = sizeof open, .rank = rank, .ranks = RANKS};
    llama_session_options options = {
        .size = sizeof options, .gather = ring_gather, .gather_user = &r, .rank = rank, .ranks = RANKS, .threads = 1};
    int status = llama_open(&model, argv[1], &open, &err);
    if (status == LLAMA_OK) status = llama_session_new(&session, model, &options, &err);
    ptrdiff_t n = status ? -1 : llama_text_to_tokens(model, argv[2], strlen(argv[2]), LLAMA_ADD_BOS, prompt, MAX_PROMPT);
    if (n > 0 && n <= MAX_PROMPT) {
        llama_request request = {.prompt = prompt, .n_prompt = (size_t)n, .max_tokens = TOKENS};
        request.sampler.size = sizeof request.sampler; /* greedy */
        request.utf8.started = 1;
        status = llama_generate(session, &request, 1, print, &rank);
    }
    if (status || n <= 0) fprintf(stderr, "rank %d: %s\n", rank, session ? llama_session_error(session) : err.text);
    else if (rank == 0) putchar('\n');
    llama_session_free(session);
    llama_close(model);
    for (int i = 1; rank == 0 && i < RANKS; i++) waitpid(children[i], NULL, 0);
    return status || n <= 0;
}
