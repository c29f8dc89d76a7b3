/* test.h - what the tests share: counting checks, reading files and the little JSON of the goldens. */
#ifndef TEST_H
#define TEST_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../llama.h"
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int tests_passed, tests_failed;

#if defined(__linux__) && !defined(__GLIBC__) /* musl has none of these; as under valgrind, no exception is enabled */
#define feenableexcept(which)  ((void)(which), -1)
#define fedisableexcept(which) ((void)(which), -1)
#define fegetexcept()          0
#endif

/* ---- Cases: a suite is a table of them, and --case NAME runs one alone ---- */

typedef struct {
    const char *name;
    void (*run)(void);
} test_case;
#define CASE(function) {#function, test_##function}

static const char *test_only; /* --case NAME,NAME: these; --case -NAME,NAME: all but these */
static bool test_quick;       /* --quick: the longest loops try a sample, for make test */

/* Remove the options from the arguments; return how many are left. Output appears line by line, so that the log of a
 * program that crashes is complete. */
static inline int tests_begin(int argc, char **argv) {
    int n = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < argc; i++)
        if (i && strcmp(argv[i], "--quick") == 0) test_quick = true;
        else if (i && strcmp(argv[i], "--case") == 0 && i + 1 < argc) test_only = argv[++i];
        else argv[n++] = argv[i];
    argv[n] = NULL;
    return n;
}

/* With --quick only every k-th value of a loop's counter is tried. */
static inline bool test_sampled(size_t i, size_t k) { return !test_quick || i % k == 0; }

static int tests_matched;

static inline bool test_wanted(const char *name) {
    if (!test_only) return true;
    const char *at = test_only + (*test_only == '-');
    for (size_t n = strlen(name); at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0)) return *test_only != '-';
    }
    return *test_only == '-';
}

/* Run the cases of a table, or those that were asked for. "-- NAME" tells the runner which case what follows is of. */
static inline void tests_run(const test_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!test_wanted(cases[i].name)) continue;
        printf("-- %s\n", cases[i].name);
        tests_matched++;
#ifdef TEST_WINDOWS_H
        if (test_lacks(cases[i].name)) continue;
#endif
        cases[i].run();
    }
    if (n) printf("--\n"); /* what follows is of no case */
}
#define RUN(cases) tests_run(cases, sizeof(cases) / sizeof *(cases))

/* ---- Memory ---- */

/* An allocator whose memory is full of ones: NaN, and tokens of -1. What is read before it is written shows. */
static inline void *dirty_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    void *p = aligned_alloc(align, (bytes + align - 1) / align * align);
    return p ? memset(p, 0xff, bytes) : NULL;
}
static inline void plain_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    free(p);
}
__attribute__((unused)) static const llama_allocator dirty = {NULL, dirty_alloc, plain_free};

/* ---- Checks ---- */

/* Count a check; a failed one says what was wrong. */
__attribute__((format(printf, 2, 3))) static bool check(bool holds, const char *format, ...) {
    if (holds) {
        tests_passed++;
        return true;
    }
    va_list args;
    va_start(args, format);
    printf("FAIL: ");
    vprintf(format, args);
    printf("\n");
    va_end(args);
    tests_failed++;
    return false;
}

static inline int tests_done(const char *name) {
    if (test_only && !tests_matched) check(false, "%s has no case %s", name, test_only);
    printf("%s: %d passed, %d failed\n", name, tests_passed, tests_failed);
    return tests_failed != 0;
}

static inline bool exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static inline void *must_alloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) {
        printf("FAIL: out of memory\n");
        exit(1);
    }
    return p;
}

/* A whole file, with a 0 behind it; NULL if it cannot be read. */
static inline char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) != 0) {
        if (f) fclose(f);
        return NULL;
    }
    char *text = must_alloc((size_t)st.st_size + 1);
    size_t got = fread(text, 1, (size_t)st.st_size, f);
    text[got] = 0;
    if (n) *n = got;
    fclose(f);
    return text;
}

/* ---- JSON as our own goldens have it: find a key, read what stands behind it ---- */

/* Just behind "key": or NULL. */
static inline const char *json_find(const char *json, const char *key) {
    char quoted[128];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = json ? strstr(json, quoted) : NULL;
    return at ? at + strlen(quoted) : NULL;
}

static inline double json_double(const char *json, const char *key) {
    const char *at = json_find(json, key);
    return at ? strtod(at, NULL) : NAN;
}

/* The numbers of a flat array; the caller frees. */
static inline double *json_numbers(const char *json, const char *key, size_t *n) {
    const char *at = json_find(json, key);
    *n = 0;
    if (!at || !(at = strchr(at, '['))) return NULL;
    const char *end = strchr(at, ']');
    double *out = must_alloc((size_t)(end - at) * sizeof *out);
    for (at++; at < end;) {
        char *next;
        double v = strtod(at, &next);
        if (next == at) {
            at++;
            continue;
        }
        out[(*n)++] = v;
        at = next;
    }
    return out;
}

static inline int32_t *json_ids(const char *json, const char *key, size_t *n) {
    double *v = json_numbers(json, key, n);
    if (!v) return NULL;
    int32_t *ids = must_alloc(*n * sizeof *ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)v[i];
    free(v);
    return ids;
}

static inline size_t utf8_put(unsigned code, char *out) {
    if (code < 0x80) return out[0] = (char)code, 1;
    if (code < 0x800) return out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 63)), 2;
    if (code < 0x10000)
        return out[0] = (char)(0xe0 | code >> 12), out[1] = (char)(0x80 | (code >> 6 & 63)),
               out[2] = (char)(0x80 | (code & 63)), 3;
    return out[0] = (char)(0xf0 | code >> 18), out[1] = (char)(0x80 | (code >> 12 & 63)),
           out[2] = (char)(0x80 | (code >> 6 & 63)), out[3] = (char)(0x80 | (code & 63)), 4;
}

/* The string behind a key, unescaped; the caller frees. NULL: no such key. */
static inline char *json_text(const char *json, const char *key, size_t *n) {
    const char *at = json_find(json, key);
    if (!at || !(at = strchr(at, '"'))) return NULL;
    char *out = must_alloc(strlen(at) + 1);
    *n = 0;
    for (at++; *at && *at != '"'; at++) {
        if (*at != '\\') {
            out[(*n)++] = *at;
            continue;
        }
        static const char from[] = "nrtbf", to[] = "\n\r\t\b\f";
        const char *which = strchr(from, *++at);
        if (*at == 'u') {
            unsigned code = 0, low = 0;
            sscanf(at + 1, "%4x", &code);
            at += 4;
            if (code >= 0xd800 && code < 0xdc00 && sscanf(at + 1, "\\u%4x", &low) == 1) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                at += 6;
            }
            *n += utf8_put(code, out + *n);
        } else
            out[(*n)++] = which ? to[which - from] : *at;
    }
    out[*n] = 0;
    return out;
}

/* ---- SHA-256 (FIPS 180-4), for comparing bits across builds ---- */

typedef struct {
    uint32_t h[8];
    unsigned char block[64];
    size_t n;
    uint64_t total;
} sha256;

static inline uint32_t sha256_rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* The first 32 bits of the fractional part of a root of a prime, as the standard defines its tables. */
static inline uint32_t sha256_fraction(double root) { return (uint32_t)((root - floor(root)) * 4294967296.0); }

static uint32_t sha256_first[8], sha256_constants[64];

static inline void sha256_tables(void) {
    int n = 0;
    for (int p = 2; n < 64; p++) {
        bool prime = true;
        for (int d = 2; d * d <= p; d++) prime &= p % d != 0;
        if (!prime) continue;
        if (n < 8) sha256_first[n] = sha256_fraction(sqrt(p));
        sha256_constants[n++] = sha256_fraction(cbrt(p));
    }
}

static inline void sha256_begin(sha256 *s) {
    sha256_tables();
    memset(s, 0, sizeof *s);
    memcpy(s->h, sha256_first, sizeof s->h);
}

static inline void sha256_block(sha256 *s) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (sha256_rotate(a, 7) ^ sha256_rotate(a, 18) ^ a >> 3) +
               (sha256_rotate(b, 17) ^ sha256_rotate(b, 19) ^ b >> 10);
    }
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t1 = v[7] + (sha256_rotate(e, 6) ^ sha256_rotate(e, 11) ^ sha256_rotate(e, 25)) +
                      ((e & v[5]) ^ (~e & v[6])) + sha256_constants[i] + w[i];
        uint32_t t2 = (sha256_rotate(a, 2) ^ sha256_rotate(a, 13) ^ sha256_rotate(a, 22)) +
                      ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) s->h[i] += v[i];
    s->n = 0;
}

static inline void sha256_add(sha256 *s, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        s->block[s->n++] = ((const unsigned char *)p)[i];
        if (s->n == 64) sha256_block(s);
    }
    s->total += 8 * (uint64_t)n;
}

static inline void sha256_end(sha256 *s, char hex[65]) {
    uint64_t bits = s->total;
    sha256_add(s, "\x80", 1);
    while (s->n != 56) sha256_add(s, "", 1);
    for (int i = 7; i >= 0; i--) {
        unsigned char byte = (unsigned char)(bits >> (8 * i));
        sha256_add(s, &byte, 1);
    }
    for (int i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", (unsigned)s->h[i]);
}

/* ---- Statistics ---- */

/* Chi-square's upper tail, by the Wilson-Hilferty approximation. */
static inline double chi_square_p(double x, double degrees) {
    double z = (cbrt(x / degrees) - (1 - 2 / (9 * degrees))) / sqrt(2 / (9 * degrees));
    return 0.5 * erfc(z / sqrt(2));
}

/* ---- The gate for a float32 forward pass ---- */

typedef struct {
    double max_abs, rms, kl, nll_difference;
    int argmax_differs, positions;
} gate;

/* One position's logits against the truth; `next` < 0 if it has no next token. */
static inline void gate_position(gate *g, const float *logits, const float *truth, size_t vocab) {
    double top_a = -INFINITY, top_b = -INFINITY, sum_a = 0, sum_b = 0, kl = 0, squares = 0;
    size_t best_a = 0, best_b = 0;
    for (size_t i = 0; i < vocab; i++) {
        double d = fabs((double)logits[i] - truth[i]);
        if (!(d <= g->max_abs)) g->max_abs = d;
        squares += d * d;
        if (logits[i] > top_a) top_a = logits[i], best_a = i;
        if (truth[i] > top_b) top_b = truth[i], best_b = i;
    }
    for (size_t i = 0; i < vocab; i++) sum_a += exp(logits[i] - top_a), sum_b += exp(truth[i] - top_b);
    for (size_t i = 0; i < vocab; i++) {
        double log_b = truth[i] - top_b - log(sum_b), log_a = logits[i] - top_a - log(sum_a);
        kl += exp(log_b) * (log_b - log_a);
    }
    double second = -INFINITY;
    for (size_t i = 0; i < vocab; i++)
        if (i != best_b && truth[i] > second) second = truth[i];
    if (best_a != best_b && top_b - second > 4e-4) g->argmax_differs++;
    double rms = sqrt(squares / (double)vocab);
    if (!(rms <= g->rms)) g->rms = rms;
    if (!(kl <= g->kl)) g->kl = kl;
    g->positions++;
}

static inline double nll_of(const float *logits, size_t vocab, int32_t next) {
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
    for (size_t i = 0; i < vocab; i++) sum += exp(logits[i] - top);
    return top + log(sum) - logits[next];
}

static inline bool gate_check(const gate *g, const char *name, double max_abs) {
    return check(g->positions > 0 && g->max_abs <= max_abs && g->rms <= 2e-5 && g->kl <= 1e-9 &&
                     g->argmax_differs == 0 && fabs(g->nll_difference) <= 1e-5,
                 "%s: max abs %.3g, rms %.3g, KL %.3g, NLL off by %.3g, %d argmax differ over %d positions", name,
                 g->max_abs, g->rms, g->kl, g->nll_difference, g->argmax_differs, g->positions);
}

/* Run a golden's tokens one by one through the gate, then its greedy continuation. `folder` holds
 * golden.json and truth_f32le.bin. Returns the worst figures. */
static inline gate gate_golden(const llama *m, const char *folder, const char *name) {
    gate g = {0};
    char path[4096];
    size_t n = 0, n_truth = 0, n_prompt = 0, n_ids = 0;
    snprintf(path, sizeof path, "%s/golden.json", folder);
    char *json = read_file(path, NULL);
    snprintf(path, sizeof path, "%s/truth_f32le.bin", folder);
    char *truth = read_file(path, &n_truth);
    int32_t *tokens = json_ids(json, "tokens", &n);
    const char *greedy = json_find(json, "greedy");
    int32_t *prompt = json_ids(greedy, "prompt", &n_prompt), *ids = json_ids(greedy, "ids", &n_ids);
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    size_t vocab = (size_t)info.vocab;
    llama_session *s = NULL;
    llama_sampler sampler = {.size = sizeof sampler};
    if (!check(json && truth && n_truth == n * vocab * 4 && n > 1 && n_ids == 64, "%s: the golden cannot be read", name) ||
        !check(llama_session_new(&s, m, NULL, NULL) == LLAMA_OK, "%s: no session", name))
        return g;
    double nll = 0;
    for (size_t i = 0; i < n && check(llama_eval(s, 0, &tokens[i], 1) == LLAMA_OK, "%s: eval", name); i++) {
        gate_position(&g, llama_logits(s, 0), (const float *)(void *)truth + i * vocab, vocab);
        if (i + 1 < n) nll += nll_of(llama_logits(s, 0), vocab, tokens[i + 1]) / (double)(n - 1);
    }
    g.nll_difference = nll - json_double(json, "nll_mean");
    gate_check(&g, name, 2e-4);
    llama_rewind(s, 0, 0);
    int status = llama_eval(s, 0, prompt, n_prompt), same = 0;
    for (size_t i = 0; i < n_ids && status == LLAMA_OK; i++) {
        int32_t token = llama_sample(s, 0, &sampler);
        same += token == ids[i];
        status = llama_eval(s, 0, &token, 1);
    }
    check(same == 64, "%s: %d of 64 greedy ids", name, same);
    llama_session_free(s);
    free(json), free(truth), free(tokens), free(prompt), free(ids);
    return g;
}
#endif
