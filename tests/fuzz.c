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
 *   -DFUZZ=checklist   the input is a checklist.chk in a sound folder of Meta's
 *   -DFUZZ=state       the input is what llama_save wrote, for llama_load
 *   -DFUZZ=text        the input is text for tests/tiny: run it where that folder is
 *   -DFUZZ=cli         the input is for the command line's functions, which its first byte says: so is this
 *   -DMAKE_SEEDS       no fuzzer: writes a first sound input of each kind into a folder
 *
 * Whatever the input, a call gives what llama.h promises or refuses; anything else aborts. Opening
 * may have 16 times the bytes of the files and 1 MB in memory, and leaves nothing behind. Files go
 * to a new folder in $TMPDIR, /dev/shm or /tmp. */
#include "checkpoint.h"
#include <dirent.h>
#include <unistd.h>

enum { params, pth, config, safetensors, indexed, gguf, bin, tokenizer, checklist, state, text, cli };
#ifndef FUZZ
#define FUZZ params
#endif
#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define IS_CLI JOINED(IS_CLI_, FUZZ) /* these are for #if, where a name that is not defined is 0 */
#define IS_CLI_cli 1
#define MUTATES JOINED(MUTATES_, FUZZ)
#define MUTATES_pth 1
#define MUTATES_tokenizer 1
#define MUTATES_state 1

#if IS_CLI
static FILE *said[2]; /* what the command line writes to stdout and to stderr */
#undef stdout
#undef stderr
#define stdout said[0]
#define stderr said[1]
#define main       cli_main
#define isatty(fd) 0
#include "../main.c"
#undef main
#undef isatty
#undef stdout
#undef stderr
#define stdout stdout
#define stderr stderr
#endif

/* As small as it can be and still have every tensor; the tokenizer's has room for 1024 pieces. */
static const model_spec spec = {
    .dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 8, .vocab = 12, .shards = 1};

static char folder[1024];
static size_t beside; /* bytes of the sound files in it */
static llama *tiny;
static llama_session *session; /* of it */
static buffer sound;           /* what it saves */

/* Unlike assert, this stays whatever the flags. */
static void must(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz: broken promise: %s\n", what);
    abort();
}

/* ---- Memory, counted ---- */

static struct {
    size_t alive, most; /* bytes now, and allowed; 0: any number */
} memory;

static void *counted_alloc(void *user, size_t bytes, size_t align) {
    void *p = NULL;
    (void)user;
    memory.alive += bytes;
    must(!memory.most || memory.alive <= memory.most, "memory within 16 times the files and 1 MB");
    return posix_memalign(&p, align, bytes) == 0 ? p : NULL; /* not rounded: one byte too many shows */
}

static void counted_free(void *user, void *p, size_t bytes) {
    (void)user;
    memory.alive -= bytes;
    free(p);
}

static const llama_allocator counted = {NULL, counted_alloc, counted_free};

/* Bytes of the folder's files but that one. */
static size_t bytes_beside(const char *but) {
    size_t sum = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[2048];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (strcmp(e->d_name, but) != 0 && stat(path, &st) == 0 && S_ISREG(st.st_mode)) sum += (size_t)st.st_size;
    }
    if (d) closedir(d);
    return sum;
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

static void write_input(const char *name, const uint8_t *data, size_t n) {
    char path[2048];
    buffer b = {0};
    put(&b, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(write_file(path, &b), "the input can be written");
    free(b.at);
}

/* Nothing in it acts on a terminal, or turns the direction of writing. */
static bool harmless(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char *c = (const unsigned char *)s + i;
        if ((*c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f) return false;
        if (n - i > 1 && ((*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) || (*c == 0xd8 && c[1] == 0x9c))) return false;
        if (n - i < 3 || *c != 0xe2) continue;
        if (c[1] == 0x80 && (c[2] == 0x8e || c[2] == 0x8f || (c[2] >= 0xaa && c[2] <= 0xae))) return false;
        if (c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9) return false;
    }
    return true;
}

static void must_agree(int status, const llama_error *err) {
    must(status == err->status, "the status and the error's are one");
    must((status == LLAMA_OK) == (*err->text == 0) && !strchr(err->text, '\n'), "one line of error");
    must(harmless(err->text, strlen(err->text)), "an error acts on no terminal");
}

/* Open the folder, or the file if it is a model alone, with the input as file `name`. */
static void try_folder(const char *name, const uint8_t *data, size_t n) {
    char path[2048];
    llama *m = NULL;
    llama_error err;
    llama_options o = {.size = sizeof o, .allocator = &counted};
    bool alone = FUZZ == gguf || FUZZ == bin;
    write_input(name, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    memory.most = 16 * (n + (alone ? 0 : beside)) + (1 << 20);
    int status = llama_open(&m, alone ? path : folder, &o, &err);
    memory.most = 0;
    must((status == LLAMA_OK) == (m != NULL), "a model or an error");
    must_agree(status, &err);
    if (m && (FUZZ == tokenizer || (FUZZ == gguf && llama_token_text(m, 0, NULL)))) try_tokenizer(m);
    if (m && FUZZ != tokenizer) {
        try_eval(m);
        status = llama_check(m, NULL, NULL, &err);
        must_agree(status, &err);
        must(status == LLAMA_OK || status == LLAMA_EFORMAT, "sound, or what is wrong");
    }
    llama_close(m);
    must(memory.alive == 0, "a model that is closed or refused leaves nothing behind");
}

static void try_checklist(const uint8_t *data, size_t n) {
    llama_error err;
    write_input("checklist.chk", data, n);
    int status = llama_check(tiny, NULL, NULL, &err);
    must_agree(status, &err);
    must(status == LLAMA_OK || status == LLAMA_EFORMAT || status == LLAMA_EIO, "sound, or what is wrong");
}

/* ---- Saved state ---- */

typedef struct {
    const uint8_t *at;
    size_t n;
} unread;

static int next_bytes(void *user, void *p, size_t n) {
    unread *u = user;
    if (n > u->n) return 1;
    if (n) memcpy(p, u->at, n);
    u->at += n;
    u->n -= n;
    return 0;
}

static int same_bytes(void *user, const void *p, size_t n) {
    unread *u = user;
    must(n <= u->n && memcmp(u->at, p, n) == 0, "a state that is loaded and saved is the same");
    u->at += n;
    u->n -= n;
    return 0;
}

static int keep_bytes(void *user, const void *p, size_t n) {
    put(user, p, n);
    return 0;
}

/* Sequence 2 has {1, 2}, and 3 the same with 3 behind it: what 0 must have if it refuses the input. */
static void make_sequences(void) {
    llama_session_options o = {.size = sizeof o, .context = 8, .sequences = 4, .threads = 1, .allocator = &counted};
    must(llama_session_new(&session, tiny, &o, NULL) == LLAMA_OK, "a session");
    must(llama_eval(session, 2, (int32_t[]){1, 2}, 2) == LLAMA_OK, "two tokens");
    must(llama_eval(session, 3, (int32_t[]){1, 2, 3}, 3) == LLAMA_OK, "three tokens");
    must(llama_save(session, 2, keep_bytes, &sound) == LLAMA_OK, "a state");
}

static bool same_sequences(int a, int b) {
    const float *x = llama_logits(session, a), *y = llama_logits(session, b);
    size_t n = llama_length(session, a);
    return n == llama_length(session, b) && memcmp(llama_tokens(session, a), llama_tokens(session, b), n * sizeof(int32_t)) == 0 &&
           !x == !y && (!x || memcmp(x, y, (size_t)spec.vocab * sizeof *x) == 0);
}

/* What was loaded into a sequence is what the input says, and can be used. */
static void try_loaded(int seq, const uint8_t *data, size_t n) {
    llama_sampler sampler = {.size = sizeof sampler, .repeat_penalty = 1.1f, .repeat_last = -1};
    size_t length = llama_length(session, seq);
    must(length <= 8, "no more than the context");
    for (size_t i = 0; i < length; i++)
        must(llama_tokens(session, seq)[i] >= 0 && llama_tokens(session, seq)[i] < spec.vocab, "tokens of the vocabulary");
    must(llama_save(session, seq, same_bytes, &(unread){data, n}) == LLAMA_OK, "what was loaded can be saved");
    must(!llama_logits(session, seq) || llama_sample(session, seq, &sampler) < spec.vocab, "a token, or a code");
    int status = llama_eval(session, seq, (int32_t[]){3}, 1);
    must(length == 8 ? status == LLAMA_EFULL : status == LLAMA_OK || status == LLAMA_ENUMERIC, "it goes on");
}

/* Into a sequence with tokens, then into an empty one. */
static void try_state(const uint8_t *data, size_t n) {
    size_t alive = memory.alive;
    must(llama_fork(session, 0, 2) == LLAMA_OK && llama_rewind(session, 1, 0) == LLAMA_OK, "sequences to load into");
    int status = llama_load(session, 0, next_bytes, &(unread){data, n});
    must(status == LLAMA_OK || status == LLAMA_EFORMAT || status == LLAMA_EMISMATCH || status == LLAMA_EFULL || status == LLAMA_EIO,
         "loaded, or why not");
    must(llama_load(session, 1, next_bytes, &(unread){data, n}) == status, "the same into an empty sequence");
    must(memory.alive == alive, "loading leaves nothing behind");
    if (status == LLAMA_OK) {
        must(same_sequences(0, 1), "the same in both");
        try_loaded(0, data, n);
    } else {
        must(same_sequences(0, 2) && llama_length(session, 1) == 0 && !llama_logits(session, 1), "what they had");
        must(llama_eval(session, 0, (int32_t[]){3}, 1) == LLAMA_OK && same_sequences(0, 3), "it goes on");
        must(llama_eval(session, 1, (int32_t[]){1, 2}, 2) == LLAMA_OK && same_sequences(1, 2), "it goes on from nothing");
    }
}

/* ---- The command line ---- */

#if IS_CLI
/* The n bytes, each of the parts that a 0 divides them into a string of its own, at[0] NULL; *count is n and more. */
static char **divide(const char *s, size_t n, int *count) {
    char **at = calloc(n + 3, sizeof *at);
    must(at != NULL, "memory for words");
    for (*count = 1; n; ++*count) {
        size_t length = strnlen(s, n), whole = length < n ? length + 1 : n;
        at[*count] = strndup(s, length);
        s += whole;
        n -= whole;
    }
    return at;
}

static void free_words(char **at, int count) {
    for (int i = 0; i < count; i++) free(at[i]);
    free(at);
}

static void try_unescape(const char *s, size_t n) {
    bytes b = {must_alloc(n), n};
    memcpy(b.text, s, n);
    unescape(&b);
    must(b.n <= n && 4 * b.n >= n, "unescaped text is no longer, nor shorter than a quarter");
    must((n && memchr(s, '\\', n)) || (b.n == n && memcmp(b.text, s, n) == 0), "without a backslash nothing changes");
    free(b.text);
}

/* Numbers that were taken are within their limits, and a sampler of them is one the library takes. */
static void must_hold(const options *o) {
    float probs[4096];
    llama_sampler sampler = sampler_of(o);
    must(sizeof probs / sizeof *probs >= 512, "room for tests/tiny");
    for (size_t i = 0; i < OPTIONS; i++) {
        option_kind kind = option_table[i].kind;
        const void *at = (const char *)o + option_table[i].at;
        if (kind != WHOLE && kind != REAL) continue;
        double v = kind == WHOLE ? *(const int *)at : *(const double *)at;
        must(v <= option_table[i].most && (v == 0 || v >= option_table[i].least), "a number within its limits");
    }
    must(llama_distribution(session, 0, &sampler, probs) == LLAMA_OK, "options make a sampler");
    for (int i = 0; i < 512; i++) must(probs[i] >= 0 && probs[i] <= 1.0001f, "probabilities");
}

/* As main does it, short of opening a model or reading a file. */
static void try_options(const char *s, size_t n) {
    int argc;
    char **argv = divide(s, n, &argc);
    options o = {.n = 256, .temperature = 0.8, .top_p = 0.95, .repeat_penalty = 1};
    const char **words = o.words = calloc((size_t)argc + 1, sizeof *words);
    o.stops = calloc((size_t)argc + 1, sizeof *o.stops);
    bytes all = {NULL, 0};
    int32_t *tokens = NULL;
    size_t count;
    int code = read_options(&o, argc, argv);
    must(code == 0 || code == EXIT_USAGE, "options are read, or refused");
    if (code == 0) must_hold(&o);
    if (code == 0) code = settle_model(&o);
    must(code || o.model, "a model is named");
    if (code == 0 && !o.file && (o.prompt || o.n_words) && read_text(&o, &all, n & 1) == 0)
        must(tokenize(tiny, &all, LLAMA_ADD_BOS, &tokens, &count) == 0 && count > 0, "the text is made tokens");
    free(all.text), free(tokens), free(words), free(o.stops);
    free_words(argv, argc);
}

/* Where text that comes in pieces of that size must end: a stop text ends it in the piece that completes it. */
static size_t end_of(const options *o, const char *s, size_t n, size_t piece) {
    size_t first = SIZE_MAX, at = n;
    for (size_t i = 0; i < o->n_stops; i++) {
        size_t length = strlen(o->stops[i]);
        const char *p = memmem(s, n, o->stops[i], length);
        if (!p) continue;
        size_t last = ((size_t)(p - s) + length - 1) / piece;
        if (last < first || (last == first && (size_t)(p - s) < at)) at = (size_t)(p - s);
        if (last < first) first = last;
    }
    return at;
}

/* How long the pieces are, stop texts up to an empty one, the text. */
static void try_stops(const char *s, size_t n, char *const *written, const size_t *length) {
    options o = {0};
    output w = {.o = &o};
    size_t stop = find_option("--stop", NULL), piece = n ? 1 + (unsigned char)*s % 16 : 1, count = 0;
    char **kept = calloc(n + 1, sizeof *kept);
    must(kept && (o.stops = calloc(n + 1, sizeof *o.stops)) != NULL, "memory for stop texts");
    for (s += n > 0, n -= n > 0; n && *s; count++) {
        size_t size = strnlen(s, n), whole = size + (size < n);
        kept[count] = strndup(s, size);
        int code = set_option(&o, stop, kept[count]);
        must(code == 0 || code == EXIT_USAGE, "a stop text, or a refusal");
        s += whole, n -= whole;
    }
    s += n > 0, n -= n > 0;
    size_t end = end_of(&o, s, n, piece);
    for (size_t k = 0; k < n && !w.stopped; k += piece)
        must(emit(&w, s + k, n - k < piece ? n - k : piece, false) == 0, "text goes out");
    if (!w.stopped) must(emit(&w, "", 0, true) == 0, "the rest goes out");
    fflush(said[0]);
    must(*length == end && (end == 0 || memcmp(*written, s, end) == 0), "all up to the stop text");
    free(w.held), free(o.stops);
    free_words(kept, (int)count);
}

static void try_decode(const char *s, size_t n) {
    char *copy = must_alloc(n + 1);
    if (n) memcpy(copy, s, n);
    copy[n] = 0;
    int code = decode(tiny, copy, n);
    must(code == 0 || code == EXIT_USAGE, "ids are decoded, or refused");
    free(copy);
}

static void try_cli(const char *s, size_t n) {
    char *written[2] = {NULL, NULL};
    size_t length[2];
    for (int i = 0; i < 2; i++) said[i] = open_memstream(&written[i], &length[i]);
    must(said[0] && said[1], "memory for what is said");
    int which = n ? (unsigned char)(*s - '0') % 5 : -1;
    s += n > 0, n -= n > 0;
    if (which == 0) try_unescape(s, n);
    if (which == 1) try_options(s, n);
    if (which == 2) try_stops(s, n, &written[0], &length[0]);
    if (which == 3) try_decode(s, n);
    if (which == 4) put_visible(said[0], s, n, true);
    for (int i = 0; i < 2; i++) fclose(said[i]);
    must(which != 3 || valid_utf8((unsigned char *)written[0], length[0]), "decoded are whole characters");
    must(which != 4 || harmless(written[0], length[0]), "what is shown acts on no terminal");
    if (which == 4 && harmless(s, n) && valid_utf8((const unsigned char *)s, n))
        must(length[0] == n && memcmp(written[0], s, n) == 0, "what is harmless is shown as it is");
    must(harmless(written[1], length[1]), "an error acts on no terminal");
    must(length[1] == 0 || which == 2 || memchr(written[1], '\n', length[1]) == written[1] + length[1] - 1, "one line of error");
    free(written[0]), free(written[1]);
}
#else
static void try_cli(const char *s, size_t n) { (void)s, (void)n; }
#endif

/* ---- What libFuzzer calls ---- */

static const char *const input_names[] = {"params.json", "consolidated.00.pth", "config.json", "model.safetensors",
                                          "model.safetensors.index.json", "model.gguf", "model.bin", "tokenizer.model",
                                          "checklist.chk", ""};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void initialize_tiny(void) {
    llama_session_options o = {.size = sizeof o, .context = 8, .threads = 1};
    unsetenv("LLAMA_MODEL");
    must(llama_open(&tiny, "tests/tiny", NULL, NULL) == LLAMA_OK, "tests/tiny is here");
    must(llama_session_new(&session, tiny, &o, NULL) == LLAMA_OK, "a session");
    must(llama_eval(session, 0, (int32_t[]){1, 2, 3}, 3) == LLAMA_OK, "three tokens");
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *tmp = getenv("TMPDIR");
    if (FUZZ == text || FUZZ == cli) return initialize_tiny(), 0;
    if (!tmp) tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%.900s/fuzz-XXXXXX", tmp);
    must(mkdtemp(folder) != NULL, "a folder can be made");
    model_spec m = spec;
    if (FUZZ == tokenizer) m.vocab = 1024;
    if (FUZZ == config || FUZZ == safetensors) model_write_as(&m, SAFETENSORS, folder);
    else if (FUZZ == indexed) model_write_as(&m, SAFETENSORS_SPLIT, folder);
    else model_write(&m, folder);
    beside = bytes_beside(input_names[FUZZ < state ? FUZZ : state]);
    if (FUZZ == checklist || FUZZ == state) must(llama_open(&tiny, folder, NULL, NULL) == LLAMA_OK, "a sound model");
    if (FUZZ == state) make_sequences();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    switch (FUZZ) {
    case checklist: try_checklist(data, n); break;
    case state: try_state(data, n); break;
    case text: there_and_back(tiny, (const char *)data, n, true); break;
    case cli: try_cli((const char *)data, n); break;
    default: try_folder(input_names[FUZZ < state ? FUZZ : state], data, n);
    }
    return 0;
}

/* ---- Mutations that leave what is around them sound ---- */

#if MUTATES
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed);

/* Append these n bytes, mutated to any number of them up to room. */
static void put_mutated(buffer *b, const uint8_t *p, size_t n, size_t room) {
    uint8_t *copy = must_alloc(room);
    if (n) memcpy(copy, p, n);
    put(b, copy, LLVMFuzzerMutate(copy, n, room));
    free(copy);
}

static size_t number(const uint8_t *p, int bytes) {
    size_t v = 0;
    while (bytes--) v = v << 8 | p[bytes];
    return v;
}

/* A sound zip of the entries whose headers can be found, with data.pkl mutated; without bytes: there are none. */
static buffer mutate_zip(const uint8_t *p, size_t n, size_t room) {
    zip z = {0};
    for (size_t at = 0, next; n - at > 30 && memcmp(p + at, "PK\3\4", 4) == 0 && z.file.n <= room; at = next) {
        char name[256];
        size_t length = number(p + at + 26, 2), begin = at + 30 + length + number(p + at + 28, 2);
        if (begin > n) break;
        const uint8_t *end = memmem(p + begin, n - begin, "PK\3\4", 4);
        if (!end) end = memmem(p + begin, n - begin, "PK\1\2", 4);
        next = end ? (size_t)(end - p) : n;
        snprintf(name, sizeof name, "%.*s", (int)length, (const char *)p + at + 30);
        buffer data = {0};
        bool pickled = strlen(name) >= 8 && strcmp(name + strlen(name) - 8, "data.pkl") == 0;
        if (pickled) put_mutated(&data, p + begin, next - begin, next - begin + room - n + 1);
        else put(&data, p + begin, next - begin);
        zip_add(&z, name, data.at, data.n);
        free(data.at);
    }
    return z.entries ? zip_end(&z) : (buffer){0};
}

/* Protobuf's integer: seven bits a byte, the lowest first. */
static bool varint(const uint8_t *p, size_t n, size_t *at, uint64_t *v) {
    *v = 0;
    for (int i = 0; i < 64 && *at < n; i += 7) {
        *v |= (uint64_t)(p[*at] & 127) << i;
        if (p[(*at)++] < 128) return true;
    }
    return false;
}

static unsigned draw(unsigned *seed) { return (*seed = *seed * 1103515245 + 12345) >> 16; }

/* A message with one of its fields that have a length mutated, or one of such a field's own; false: there is none. */
static bool mutate_message(buffer *out, const uint8_t *p, size_t n, size_t room, unsigned *seed, int levels) {
    enum { LONGER = 5 }; /* bytes of a length, at most */
    size_t at = 0, found = 0, before = 0, begin = 0, size = 0;
    for (uint64_t tag, v; at < n;) {
        if (!varint(p, n, &at, &tag)) return false;
        size_t here = at, fixed = (tag & 7) == 1 ? 8 : 4;
        if ((tag & 7) == 0 || (tag & 7) == 2) {
            if (!varint(p, n, &at, &v)) return false;
            fixed = (tag & 7) == 2 ? v : 0;
        } else if ((tag & 7) != 1 && (tag & 7) != 5) return false;
        if (fixed > n - at) return false;
        if ((tag & 7) == 2 && draw(seed) % ++found == 0) before = here, begin = at, size = fixed;
        at += fixed;
    }
    if (!found || room < n + LONGER) return false;
    buffer inner = {0};
    size_t most = size + room - n - LONGER;
    if (!levels || draw(seed) % 2 || !mutate_message(&inner, p + begin, size, most, seed, levels - 1))
        put_mutated(&inner, p + begin, size, most ? most : 1);
    put(out, p, before);
    size_t left = inner.n;
    for (; left > 127; left >>= 7) put_int(out, (left & 127) | 128, 1);
    put_int(out, left, 1);
    put(out, inner.at, inner.n);
    put(out, p + begin + size, n - begin - size);
    free(inner.at);
    return true;
}

static uint64_t add_up(uint64_t sum, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        sum = (sum ^ number(p + i, n - i < 8 ? (int)(n - i) : 8)) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 29;
    }
    return sum;
}

/* Put right what would have llama_load refuse the rest unread: whose state it is, and the two sums. */
static void mend_state(uint8_t *p, size_t n) {
    enum { OWNER = 32, HEADER = 48 };
    if (n < HEADER + 8) return;
    memcpy(p, sound.at, OWNER);
    uint64_t sum = add_up(0, p, HEADER), length = number(p + OWNER, 8);
    memcpy(p + HEADER, &sum, 8);
    sum = add_up(sum, p + HEADER, 8);
    size_t cache = length * (size_t)(spec.dim / spec.heads * spec.kv_heads) * sizeof(float);
    size_t sizes[] = {length * sizeof(int32_t), cache, cache, p[OWNER + 8] ? (size_t)spec.vocab * sizeof(float) : 0}, at = HEADER + 8;
    for (int i = 0; i < 4 && length <= 8; i++) {
        if (sizes[i] > n - at) return;
        sum = add_up(sum, p + at, sizes[i]);
        at += sizes[i];
    }
    if (n - at >= 8) memcpy(p + at, &sum, 8);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed) {
    buffer b = {0};
    bool plain = draw(&seed) % 2;
    if (FUZZ == pth && !plain) b = mutate_zip(data, n, room);
    if (FUZZ == tokenizer && !plain) mutate_message(&b, data, n, room, &seed, 1);
    if (b.n && b.n <= room) memcpy(data, b.at, n = b.n);
    else n = LLVMFuzzerMutate(data, n, room);
    free(b.at);
    if (FUZZ == state && draw(&seed) % 8) mend_state(data, n);
    return n;
}
#endif

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

/* Three tokens in the first sequence, in the second five; then nothing. */
static void save_states(void) {
    llama_session_options o = {.size = sizeof o, .context = 8, .sequences = 3, .threads = 1};
    must(llama_open(&tiny, folder, NULL, NULL) == LLAMA_OK, "the folder can be opened");
    must(llama_session_new(&session, tiny, &o, NULL) == LLAMA_OK, "a session");
    must(llama_eval(session, 0, (int32_t[]){1, 2, 3}, 3) == LLAMA_OK, "three tokens");
    must(llama_eval(session, 1, (int32_t[]){4, 5, 6, 7, 8}, 5) == LLAMA_OK, "five tokens");
    must(llama_rewind(session, 1, 4) == LLAMA_OK, "the logits go");
    for (int seq = 0; seq < 3; seq++) {
        char name[16];
        buffer b = {0};
        snprintf(name, sizeof name, "state%d", seq);
        if (llama_save(session, seq, keep_bytes, &b) == LLAMA_OK) put_file(&b, folder, name);
        free(b.at);
    }
    llama_session_free(session);
    llama_close(tiny);
}

/* As they are, 0 bytes and all. */
static void write_cli_seeds(void) {
#define SEED(name, s) put_file(&(buffer){(unsigned char *)s, sizeof s - 1, 0}, folder, name)
    SEED("cli0", "0a\\nb\\x41\\xe2\\x96\\x81\\\"\\q\\");
    SEED("cli1", "1tests/tiny\0once\0-n\0" "64\0--temp\0.8\0--top-p=0.9\0-s\0" "1\0-r\0end\0-e");
    SEED("cli2", "1-m\0tests/tiny\0-p\0\\x61 b\0-e\0--top-k\0" "40\0--min-p\0.05\0--repeat-penalty\0" "1.3\0--repeat-last-n=-1");
    SEED("cli3", "1tokenize\0tests/tiny\0--decode\0-1\0--\0-p");
    SEED("cli4", "2\1the end\0nd of\0\0it is the en, the end of it");
    SEED("cli5", "2\6aab\0aaab\0\xc3\xa9\0\0aaaaaaab\xc3\xa9");
    SEED("cli6", "31 2 300\n 511\t3");
    SEED("cli7", "4a\33[31m\x9b\xe2\x80\xae\xc2\x9b\xd8\x9c\xf0\x9f\x99\x82\t\n");
#undef SEED
}

int main(int argc, char **argv) {
    char path[4096];
    if (argc < 2) return 2;
    model_write(&spec, argv[1]);
    snprintf(folder, sizeof folder, "%s", argv[1]);
    save_states();
    write_cli_seeds();
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
