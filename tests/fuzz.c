/* fuzz.c - libFuzzer over everything that reads what others wrote, through the public API.
 *
 *   -DFUZZ=params      the input is a params.json beside a sound checkpoint
 *   -DFUZZ=pth         the input is a consolidated.00.pth beside a sound params.json
 *   -DFUZZ=tokenizer   the input is a tokenizer.model beside a sound model
 *   -DFUZZ=text        the input is text for tests/tiny: run it where that folder is
 *   -DMAKE_SEEDS       no fuzzer: writes a first sound input of each kind into a folder
 *
 * Whatever the input, a call gives what llama.h promises or refuses; anything else aborts. Files go
 * to a new folder in $TMPDIR, /dev/shm or /tmp. */
#include "checkpoint.h"
#include <unistd.h>

enum { params, pth, tokenizer, text };
#ifndef FUZZ
#define FUZZ params
#endif

/* As small as it can be and still have every tensor; the tokenizer's has room for 1024 pieces. */
static const model_spec spec = {
    .dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 8, .vocab = 12, .shards = 1};

static char folder[1024];
static llama *tiny;

/* Unlike assert, this stays whatever the flags. */
static void must(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz: broken promise: %s\n", what);
    abort();
}

/* ---- What is checked ---- */

static bool valid_utf8(const unsigned char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned c = s[i], size = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || size > n - i) return false;
        for (size_t k = 1; k < size; k++)
            if ((s[i + k] & 0xc0) != 0x80) return false;
        unsigned second = size > 1 ? s[i + 1] : 0;
        if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second > 0x9f)) return false;
        if ((c == 0xf0 && second < 0x90) || (c == 0xf4 && second > 0x8f)) return false;
        i += size;
    }
    return true;
}

/* One push: whole characters, no more than was promised; appended to `all` where there is one. */
static void push(const llama *m, llama_utf8 *u, int32_t token, buffer *all) {
    char *out = must_alloc(LLAMA_TEXT_MAX); /* on the heap, where one byte too many shows */
    size_t n = llama_utf8_push(m, u, token, out);
    must(n <= LLAMA_TEXT_MAX, "a push writes no more than LLAMA_TEXT_MAX");
    must(valid_utf8((unsigned char *)out, n), "a push gives whole characters");
    if (all) put(all, out, n);
    free(out);
}

/* Text to tokens and back; where it is the tokenizer of LLaMA, valid text comes back as it was. */
static void there_and_back(const llama *m, const char *s, size_t n, bool exactly) {
    static const char space[] = "\xe2\x96\x81"; /* U+2581 means a space, and comes back as one */
    ptrdiff_t count = llama_text_to_tokens(m, s, n, LLAMA_ADD_BOS, NULL, 0);
    must(count >= 0, "text is made tokens");
    int32_t *tokens = must_alloc((size_t)count * sizeof *tokens);
    memset(tokens, -1, (size_t)count * sizeof *tokens);
    ptrdiff_t half = llama_text_to_tokens(m, s, n, LLAMA_ADD_BOS, tokens, (size_t)count / 2);
    must(half == count, "the count does not depend on the room");
    for (ptrdiff_t i = count / 2; i < count; i++) must(tokens[i] == -1, "no more than the room");
    ptrdiff_t again = llama_text_to_tokens(m, s, n, LLAMA_ADD_BOS, tokens, (size_t)count);
    must(again == count, "the same count twice");
    llama_utf8 u = {.n = 0};
    buffer all = {0};
    for (ptrdiff_t i = 0; i < count; i++) {
        must(llama_token_text(m, tokens[i], NULL) != NULL, "every token has a text");
        push(m, &u, tokens[i], &all);
    }
    push(m, &u, LLAMA_FLUSH, &all);
    if (exactly && valid_utf8((const unsigned char *)s, n) && !(n && memmem(s, n, space, 3)))
        must(all.n == n && (n == 0 || memcmp(all.at, s, n) == 0), "text comes back as it was");
    free(tokens), free(all.at);
}

static void try_tokenizer(const llama *m) {
    static const char *const texts[] = {"", " ", "once upon a time",
                                        "a\xff\xc3\xa9\xf0\x9f\x99\x82 th"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        there_and_back(m, texts[i], strlen(texts[i]), false);
    llama_utf8 u = {.n = 0};
    llama_info info = {.size = sizeof info};
    must(llama_describe(m, &info) == LLAMA_OK, "a model is described");
    for (int32_t t = -1; t <= info.vocab; t++) push(m, &u, t, NULL);
    push(m, &u, LLAMA_FLUSH, NULL);
}

/* What opens can be evaluated; its logits are finite, or it says that they are not. */
static void try_eval(const llama *m) {
    llama_session_options o = {.size = sizeof o, .context = 8, .threads = 1};
    llama_session *s = NULL;
    llama_info info = {.size = sizeof info};
    must(llama_describe(m, &info) == LLAMA_OK, "a model is described");
    if (llama_session_new(&s, m, &o, NULL) == LLAMA_OK) {
        int status = llama_eval(s, 0, (int32_t[]){1, 2, 3}, 3);
        const float *logits = llama_logits(s, 0);
        must((status == LLAMA_OK) == (logits != NULL), "logits when eval says so");
        for (int i = 0; logits && i < info.vocab; i++) must(isfinite(logits[i]), "finite logits");
    }
    llama_session_free(s);
}

/* Open the folder, with the input in it as file `name`. */
static void try_folder(const char *name, const uint8_t *data, size_t n) {
    char path[2048];
    llama *m = NULL;
    llama_error err;
    buffer b = {0};
    put(&b, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(write_file(path, &b), "the input can be written");
    free(b.at);
    int status = llama_open(&m, folder, NULL, &err);
    must(status == err.status && (status == LLAMA_OK) == (m != NULL), "a model or an error");
    must((status == LLAMA_OK) == (*err.text == 0) && !strchr(err.text, '\n'), "one line of error");
    if (m && FUZZ == tokenizer) try_tokenizer(m);
    if (m && FUZZ != tokenizer) try_eval(m);
    llama_close(m);
}

/* ---- What libFuzzer calls ---- */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *tmp = getenv("TMPDIR");
    if (FUZZ == text) {
        must(llama_open(&tiny, "tests/tiny", NULL, NULL) == LLAMA_OK, "tests/tiny is here");
        return 0;
    }
    if (!tmp) tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%.900s/fuzz-XXXXXX", tmp);
    must(mkdtemp(folder) != NULL, "a folder can be made");
    model_spec m = spec;
    if (FUZZ == tokenizer) m.vocab = 1024;
    model_write(&m, folder);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[] = {"params.json", "consolidated.00.pth", "tokenizer.model"};
    if (FUZZ == text)
        there_and_back(tiny, (const char *)data, n, true);
    else
        try_folder(names[FUZZ], data, n);
    return 0;
}

/* ---- Seeds ---- */

#ifdef MAKE_SEEDS
/* A tokenizer.model of twelve pieces: SentencePiece {1 text, 2 score, 3 type}, then the specs. */
static buffer small_tokenizer(void) {
    enum { PIECES = 12 };
    static const char *const texts[PIECES] = {"<unk>", "<s>", "</s>",     "\xe2\x96\x81",
                                              "a",     "e",   "h",        "t",
                                              "th",    "the", "\xc3\xa9", "\xe2\x96\x81the"};
    static const int types[PIECES] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    buffer b = {0};
    for (int i = 0; i < PIECES; i++) {
        float score = (float)-i;
        size_t n = strlen(texts[i]);
        put_text(&b, "\x0a");
        put_int(&b, n + 9, 1);
        put_text(&b, "\x0a");
        put_int(&b, n, 1);
        put_text(&b, texts[i]);
        put_text(&b, "\x15");
        put(&b, &score, 4);
        put_text(&b, "\x18");
        put_int(&b, (uint64_t)types[i], 1);
    }
    put_text(&b, "\x12\x02\x18\x02");       /* trainer_spec: BPE */
    put(&b, "\x1a\x04\x20\x00\x18\x01", 6); /* normalizer_spec: changes nothing, space in front */
    return b;
}

int main(int argc, char **argv) {
    char path[4096];
    if (argc < 2) return 2;
    model_write(&spec, argv[1]);
    model_spec older = spec;
    older.legacy = true;
    buffer form = model_shard(&older, 0);
    snprintf(path, sizeof path, "%s/older.pth", argv[1]);
    check(write_file(path, &form), "%s: cannot be written", path);
    free(form.at);
    buffer b = small_tokenizer();
    snprintf(path, sizeof path, "%s/tokenizer.model", argv[1]);
    check(write_file(path, &b), "%s: cannot be written", path);
    free(b.at);
    return tests_failed != 0;
}
#endif
