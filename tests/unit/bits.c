/* bits.c - one answer: the SHA-256 of a model's logits, in every way to compute them.
 *
 *   bits MODEL [golden.json]    prints one SHA-256; of the golden's tokens where there is one
 *   bits --all MODEL [golden]   every thread count, batch, division and kernel; fails if two differ
 *   bits --self MODEL           --all, on MODEL and on models made here, over MP 1 to 8, the older form and rows with gaps
 */
#define _GNU_SOURCE /* sched_setaffinity */
#include "../tools/checkpoint.h"
#include <fenv.h>
#include <sched.h>

typedef enum {
    PLAIN,
    MATES,    /* five other sequences with tokens of their own in each call */
    FORKED,   /* the last token evaluated in a copy of the sequence, which is copied back */
    UPWARD,   /* a host that rounds upward, */
    FLUSHING, /* or flushes denormals to zero */
    ONE_CORE, /* a process that may use one core only */
    KEPT      /* a session with all_logits: `step` tokens at once, then the logits at each position */
} twist;

typedef struct {
    int threads, batch;
    size_t step; /* tokens a call; 0: each position from the beginning, at once */
    const char *kernels;
    twist twist;
} way;

static size_t n_tokens = 48;
static int32_t tokens[512];

/* Set the floating-point mode a host may have; PLAIN puts the default back. */
static void set_mode(twist t) {
    fesetround(t == UPWARD ? FE_UPWARD : FE_TONEAREST);
#if defined(__x86_64__)
    unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(t == FLUSHING ? mode | 0x8040 : mode & ~0x8040u); /* FTZ and DAZ */
#endif
}

/* Tokens from..i in sequence 0, third of six that each evaluate something else. */
static int eval_with_mates(llama_session *s, size_t from, size_t i) {
    static const int order[] = {3, 1, 0, 5, 2, 4};
    llama_span spans[6];
    for (int k = 0; k < 6; k++) {
        int seq = order[k];
        size_t n = (i + (size_t)k) % 4; /* 0 to 3 tokens */
        spans[k] = (llama_span){seq, tokens + (i * 5 + (size_t)k * 7) % (n_tokens - 3), n};
        if (seq == 0)
            spans[k] = (llama_span){0, tokens + from, i + 1 - from};
        else if (llama_length(s, seq) + n > 64)
            llama_rewind(s, seq, 0);
    }
    return llama_eval_batch(s, spans, 6);
}

/* Logits of every position, hashed. NULL kernels not of this CPU: "" */
static void hash_logits(const llama *m, const way *w, char hex[65]) {
    int seqs = w->twist == MATES ? 6 : w->twist == FORKED ? 2 : 1;
    llama_session_options o = {.size = sizeof o, .context = 64, .sequences = seqs, .threads = w->threads, .batch = w->batch, .kernels = w->kernels, .allocator = &dirty,
                               .all_logits = w->twist == KEPT};
    llama_session *s = NULL;
    llama_error err;
    llama_info info = {.size = sizeof info};
    cpu_set_t all_cores, one_core;
    hex[0] = 0;
    sched_getaffinity(0, sizeof all_cores, &all_cores);
    for (int c = CPU_SETSIZE - 1; c >= 0; c--)
        if (CPU_ISSET(c, &all_cores)) {
            CPU_ZERO(&one_core);
            CPU_SET(c, &one_core);
        }
    if (w->twist == ONE_CORE) sched_setaffinity(0, sizeof one_core, &one_core);
    llama_describe(m, &info);
    if (llama_session_new(&s, m, &o, &err)) return;
    sha256 h;
    sha256_begin(&h);
    for (size_t i = 0; i < n_tokens; i++) {
        size_t from = w->step ? i / w->step * w->step : 0; /* back to a multiple of step */
        int status, seq = 0;
        if (w->twist != KEPT) check(llama_rewind(s, 0, from) == LLAMA_OK, "%s", llama_session_error(s));
        set_mode(w->twist);
        if (w->twist == KEPT)
            status = i > from ? LLAMA_OK : llama_eval(s, 0, tokens + i, w->step < n_tokens - i ? w->step : n_tokens - i);
        else if (w->twist == MATES)
            status = eval_with_mates(s, from, i);
        else if (w->twist == FORKED) {
            status = llama_eval(s, 0, tokens + from, i - from);
            if (status == LLAMA_OK) status = llama_fork(s, seq = 1, 0);
            if (status == LLAMA_OK) status = llama_eval(s, 1, tokens + i, 1);
            if (status == LLAMA_OK) status = llama_fork(s, 0, 1);
        } else
            status = llama_eval(s, 0, tokens + from, i + 1 - from);
        set_mode(PLAIN);
        if (!check(status == LLAMA_OK, "eval: %s", llama_session_error(s))) break;
        const float *logits = w->twist == KEPT ? llama_logits_at(s, 0, i) : llama_logits(s, seq);
        if (!check(logits != NULL, "no logits at %zu", i)) break;
        sha256_add(&h, logits, (size_t)info.vocab * sizeof(float));
    }
    sha256_end(&h, hex);
    llama_session_free(s);
    sched_setaffinity(0, sizeof all_cores, &all_cores);
}

static llama *open_quietly(const char *path) {
    llama *m = NULL;
    llama_error err;
    check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "%s: %s", path, err.text);
    return m;
}

static void choose_tokens(const llama *m, const char *golden) {
    char *json = golden ? read_file(golden, NULL) : NULL;
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    if (json) {
        size_t n = 0;
        int32_t *ids = json_ids(json, "tokens", &n);
        n_tokens = n < 48 ? n : 48;
        memcpy(tokens, ids, n_tokens * sizeof *tokens);
        free(ids), free(json);
        return;
    }
    n_tokens = 48;
    for (size_t i = 0; i < n_tokens; i++) tokens[i] = (int32_t)((i * 37 + 1) % (size_t)info.vocab);
}

/* Every way, or each `every`th, gives the bits of the first: scalar kernels, one thread, token by token. */
static void all_ways(const char *path, const char *golden, size_t every, char reference[65]) {
    static const char *const kernels[] = {"scalar", "avx2", "avx512", "neon"};
    static const way ways[] = {{1, 1, 1, NULL, PLAIN},    {2, 1, 1, NULL, PLAIN},     {3, 1, 1, NULL, PLAIN},
                               {1, 7, 48, NULL, PLAIN},   {2, 7, 48, NULL, MATES},    {2, 48, 48, NULL, PLAIN},
                               {3, 48, 0, NULL, PLAIN},   {1, 48, 5, NULL, PLAIN},    {2, 13, 11, NULL, PLAIN},
                               {2, 32, 1, NULL, MATES},   {1, 13, 11, NULL, MATES},   {2, 48, 7, NULL, FORKED},
                               {1, 1, 1, NULL, FORKED},   {2, 48, 48, NULL, UPWARD},  {1, 1, 1, NULL, UPWARD},
                               {2, 7, 48, NULL, FLUSHING}, {8, 48, 5, NULL, PLAIN},   {0, 48, 9, NULL, ONE_CORE},
                               {2, 48, 48, NULL, KEPT},   {1, 13, 48, NULL, KEPT},   {2, 7, 11, NULL, KEPT}};
    static const char *const twists[] = {"plain", "with mates", "forked", "rounding upward", "flushing denormals", "on one core", "all logits kept"};
    llama *m = open_quietly(path);
    if (!m) return;
    choose_tokens(m, golden);
    int tried = 0;
    for (size_t k = 0; k < 4; k++)
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i += every) {
            way w = ways[i];
            char hex[65];
            w.kernels = kernels[k];
            if (k == 0 && i > 4) break; /* the plain kernels are slow: five ways will do */
            hash_logits(m, &w, hex);
            if (!hex[0]) break; /* not of this CPU */
            if (!reference[0]) memcpy(reference, hex, 65);
            tried++;
            check(strcmp(hex, reference) == 0, "%s: %s, %d threads, batch %d, %zu tokens a call, %s: other bits", path,
                  w.kernels, w.threads, w.batch, w.step, twists[w.twist]);
        }
    printf("%s: %s in %d ways\n", path, reference, tried);
    llama_close(m);
}

static const char *self_model;

/* The contract: logits.sha256 beside the model, which changes for a named reason only */
static void test_tiny(void) {
    char reference[65] = "", path[4096];
    snprintf(path, sizeof path, "%s/logits.sha256", self_model);
    char *recorded = read_file(path, NULL);
    if (check(recorded && strlen(recorded) >= 64, "%s: no SHA-256", path)) memcpy(reference, recorded, 64);
    free(recorded);
    all_ways(self_model, NULL, test_quick ? 5 : 1, reference);
}

static void test_made(void) {
    make_folder("build/bits");
    /* dims that are no multiple of a block, grouped heads, shards narrower than a block; the last: heads of another
     * width, embeddings divided by rows, scaled RoPE */
    static const model_spec specs[] = {{.dim = 128, .layers = 2, .heads = 8, .kv_heads = 4, .hidden = 384, .vocab = 336},
                                        {.dim = 90, .layers = 2, .heads = 5, .kv_heads = 5, .hidden = 245, .vocab = 257},
                                        {.dim = 64, .layers = 2, .heads = 4, .kv_heads = 4, .hidden = 192, .vocab = 320},
                                        {.dim = 80, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 208, .vocab = 320, .head_dim = 26, .by_rows = true, .scaling = 2}};
    static const struct {
        const char *name;
        int shards, gap;
        bool legacy;
    } forms[] = {{"mp1", 1, 0, false}, {"mp2", 2, 0, false}, {"mp4", 4, 0, false}, {"mp8", 8, 0, false},
                 {"older-mp1", 1, 0, true}, {"older-mp2", 2, 0, true}, {"gaps-mp1", 1, 3, false}, {"gaps-mp4", 4, 1, false}};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        char reference[65] = "";
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
            model_spec m = specs[i];
            char folder[64];
            m.shards = forms[f].shards, m.gap = forms[f].gap, m.legacy = forms[f].legacy;
            if (m.dim % m.shards || m.hidden % m.shards || m.vocab % m.shards || m.kv_heads * model_head(&m) % m.shards) continue;
            snprintf(folder, sizeof folder, "build/bits/%zu-%s", i, forms[f].name);
            model_write(&m, folder);
            all_ways(folder, NULL, test_quick ? (f ? 9 : 5) : f ? 4 : 1, reference);
        }
    }
}

static const test_case cases[] = {CASE(tiny), CASE(made)};

int main(int argc, char **argv) {
    char hex[65] = "";
    argc = tests_begin(argc, argv);
    if (argc >= 3 && strcmp(argv[1], "--self") == 0) {
        self_model = argv[2];
        RUN(cases);
        return tests_done("bits");
    }
    if (argc >= 3 && strcmp(argv[1], "--all") == 0) {
        all_ways(argv[2], argc > 3 ? argv[3] : NULL, test_quick ? 5 : 1, hex);
        return tests_done("bits");
    }
    if (argc < 2) return 2;
    llama *m = open_quietly(argv[1]);
    if (!m) return 1;
    choose_tokens(m, argc > 2 ? argv[2] : NULL);
    hash_logits(m, &(way){0, 48, 48, NULL, PLAIN}, hex);
    printf("%s\n", hex);
    llama_close(m);
    return tests_failed != 0;
}
