#include <stdio.h>
#include "llama.h"

int main(void) {
    llama *model;
    llama_session *s;
    llama_error err;
    llama_decoder decoder = {.started = 1};
    llama_sampler sampler = {.size = sizeof sampler, .temperature = 0.8f, .top_p = 0.95f};
    if (llama_open(&model, "LLaMA/7B", NULL, &err) ||
        llama_session_new(&s, model, NULL, &err))
        return fprintf(stderr, "%s\n", err.text), 1;
    int32_t t[256];
    char text[LLAMA_TEXT_MAX];
    const char *prompt = "I believe the meaning of life is";
    ptrdiff_t n = llama_text_to_tokens(model, prompt, 32, LLAMA_ADD_BOS, t, 256);
    if (n < 0 || n > 256)
        return fprintf(stderr, "there is no tokenizer, or the prompt is too long\n"), 1;
    for (int i = 0; i < 100; i++, n = 1) {
        if (llama_eval(s, 0, t, (size_t)n))
            return fprintf(stderr, "%s\n", llama_session_error(s)), 1;
        t[0] = llama_sample(s, 0, &sampler);
        if (t[0] < 0 || llama_is_end(model, t[0])) break;
        fwrite(text, 1, llama_token_to_text(model, &decoder, t[0], text), stdout);
    }
    fwrite(text, 1, llama_token_to_text(model, &decoder, LLAMA_FLUSH, text), stdout);
    llama_session_free(s);
    llama_close(model);
}
