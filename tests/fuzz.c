/* fuzz.c - libFuzzer over everything that reads what others wrote, through the public API.
 *
 *   -DFUZZ=params      the input is a params.json beside a sound checkpoint
 *   -DFUZZ=pth         the input is a consolidated.00.pth beside a sound params.json
 *   -DFUZZ=config      the input is a config.json beside sound safetensors
 *   -DFUZZ=safetensors the input is a model.safetensors beside a sound config.json
 *   -DFUZZ=indexed     the input is a model.safetensors.index.json beside the three files it names
 *   -DFUZZ=gguf        the input is a GGUF file
 *   -DFUZZ=bin         the input is a llama2.c file
 *   -DFUZZ=tokenizer   the input is a tokenizer.model, .json or .bin beside a sound model
 *   -DFUZZ=text        the input is text for tests/tiny: run it where that folder is
 *   -DMAKE_SEEDS       no fuzzer: writes a first sound input of each kind into a folder
 *
 * Whatever the input, a call gives what llama.h promises or refuses; anything else aborts. Files go
 * to a new folder in $TMPDIR, /dev/shm or /tmp. */
#include "checkpoint.h"
#include <unistd.h>

enum { params, pth, config, safetensors, indexed, gguf, bin, tokenizer, text };
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

/* Open the folder, or the file if it is a model alone, with the input as file `name`. */
static void try_folder(const char *name, const uint8_t *data, size_t n) {
    char path[2048];
    llama *m = NULL;
    llama_error err;
    buffer b = {0};
    put(&b, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(write_file(path, &b), "the input can be written");
    free(b.at);
    int status = llama_open(&m, FUZZ == gguf || FUZZ == bin ? path : folder, NULL, &err);
    must(status == err.status && (status == LLAMA_OK) == (m != NULL), "a model or an error");
    must((status == LLAMA_OK) == (*err.text == 0) && !strchr(err.text, '\n'), "one line of error");
    if (m && (FUZZ == tokenizer || (FUZZ == gguf && llama_token_text(m, 0, NULL)))) try_tokenizer(m);
    if (m && FUZZ != tokenizer) {
        try_eval(m);
        status = llama_check(m, NULL, NULL, &err);
        must(status == err.status && (status == LLAMA_OK || status == LLAMA_EFORMAT), "sound, or what is wrong");
    }
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
    if (FUZZ == config || FUZZ == safetensors) model_write_as(&m, SAFETENSORS, folder);
    else if (FUZZ == indexed) model_write_as(&m, SAFETENSORS_SPLIT, folder);
    else model_write(&m, folder);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[] = {"params.json", "consolidated.00.pth", "config.json", "model.safetensors", "model.safetensors.index.json",
                                        "model.gguf", "model.bin", "tokenizer.model"};
    if (FUZZ == text)
        there_and_back(tiny, (const char *)data, n, true);
    else
        try_folder(names[FUZZ], data, n);
    return 0;
}

/* ---- Seeds ---- */

#ifdef MAKE_SEEDS
/* A vocabulary of twelve pieces, in each form there is. */
enum { PIECES = 12 };
static const char *const texts[PIECES] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a",          "e",
                                          "h",     "t",   "th",   "the",          "\xc3\xa9", "\xe2\x96\x81the"};
static const int types[PIECES] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* SentencePiece {1 text, 2 score, 3 type}, then the specs. */
static buffer small_tokenizer(void) {
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

static buffer small_bin(void) {
    buffer b = {0};
    put_int(&b, 6, 4);
    for (int i = 0; i < PIECES; i++) {
        float score = (float)-i;
        put(&b, &score, 4);
        put_int(&b, strlen(texts[i]), 4);
        put_text(&b, texts[i]);
    }
    return b;
}

static buffer small_json(const char *treatment, const char *merges) {
    buffer b = {0};
    put_text(&b, "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\"}, {\"id\": 1, \"content\": \"<s>\"}], ");
    put_text(&b, treatment);
    put_text(&b, ", \"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"vocab\": {");
    for (int i = 0; i < PIECES; i++) {
        char entry[64];
        snprintf(entry, sizeof entry, "%s\"%s\": %d", i ? ", " : "", texts[i], i);
        put_text(&b, entry);
    }
    put_text(&b, "}, \"merges\": [");
    put_text(&b, merges);
    put_text(&b, "]}}");
    return b;
}

static buffer small_gguf(void) {
    static const char *const keys[] = {"tokens", "scores", "token_type"};
    buffer more = {0};
    gguf_text(&more, "tokenizer.ggml.model");
    put_int(&more, 8, 4);
    gguf_text(&more, "llama");
    for (int k = 0; k < 3; k++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s", keys[k]);
        gguf_text(&more, key);
        put_int(&more, 9, 4), put_int(&more, k == 0 ? 8 : k == 1 ? 6 : 5, 4), put_int(&more, PIECES, 8);
        for (int i = 0; i < PIECES; i++) {
            float score = (float)-i;
            if (k == 0) gguf_text(&more, texts[i]);
            else if (k == 1) put(&more, &score, 4);
            else put_int(&more, (uint64_t)types[i], 4);
        }
    }
    buffer b = model_gguf(&spec, 0, 1, &more, 4);
    free(more.at);
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
    static const char older_kind[] = "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}, "
                                     "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xe2\x96\x81\"}]}";
    static const char newer_kind[] = "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": \"first\"}";
    buffer seeds[] = {small_tokenizer(), small_bin(), small_gguf(),
                      small_json(older_kind, "\"t h\", \"th e\", \"\xe2\x96\x81 the\""),
                      small_json(newer_kind, "[\"t\", \"h\"], [\"th\", \"e\"], [\"\\u2581\", \"the\"]")};
    static const char *const seed_names[] = {"tokenizer.model", "tokenizer.bin", "vocabulary.gguf", "tokenizer.json", "newer.json"};
    for (int i = 0; i < 5; i++) {
        put_file(&seeds[i], argv[1], seed_names[i]);
        free(seeds[i].at);
    }
    for (int form = 0; form < FORMS; form++) {
        snprintf(path, sizeof path, "%s/form%d", argv[1], form);
        model_write_as(&spec, (model_form)form, path);
    }
    model_spec tied = spec;
    tied.tied = true;
    snprintf(path, sizeof path, "%s/tied", argv[1]);
    model_write_as(&tied, BIN_0, path);
    return tests_failed != 0;
}
#endif
