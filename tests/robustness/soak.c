/* soak.c - what a server would notice after a day: memory that grows, descriptors that stay open, allocations while it runs.
 *
 *   soak MODEL [TOKENS [CYCLES]]      100,000 tokens drawn, 10,000 times opened and closed; a tenth of each streamed
 *
 * What malloc has given out must not grow: what glibc keeps for itself (its caches of freed blocks count as given out) is
 * under a page, while the least that malloc gives, 32 bytes, lost with each opening, is 300 KB in the end. Memory of our own,
 * as the kernel counts it, may grow by LIMIT: a few pages of stack and of malloc's come late. It counts page by page in
 * smaps_rollup; in status its counts lag by up to 64 pages a thread. Pages of the files are the kernel's: printed, not judged. */
#include "../tools/test.h"
#include <dirent.h>
#include <malloc.h>
#include <time.h>

enum { CONTEXT = 256, PROMPT = 24, WARM = 8, LIMIT = 64, LIMIT_INEXACT = 512 }; /* the limits in KB */
enum { GIVEN_LIMIT = 4096 }; /* in bytes */
enum { STREAMED = 26000000 }; /* in bytes: the model's limit; a part of it is kept */

/* ---- What there is ---- */

static struct {
    long calls, blocks;
    size_t bytes;
} heap; /* of the host's allocator */

static void *count_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    heap.calls++, heap.blocks++, heap.bytes += bytes;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void count_free(void *user, void *p, size_t bytes) {
    (void)user;
    heap.blocks--, heap.bytes -= bytes;
    free(p);
}
static const llama_allocator counting = {NULL, count_alloc, count_free};

/* "Name:   123 kB" in a file of /proc; -1: not there */
static long kilobytes(const char *path, const char *name) {
    char line[256];
    FILE *f = fopen(path, "r");
    long kb = -1;
    while (f && kb < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0) kb = strtol(line + strlen(name), NULL, 10);
    if (f) fclose(f);
    return kb;
}

/* Bytes malloc has given out and not got back; 0 where it does not tell */
static size_t given_out(void) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#else
    return 0;
#endif
}

static int entries(const char *folder) {
    DIR *d = opendir(folder);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

static int lines(const char *path) {
    FILE *f = fopen(path, "r");
    int n = 0;
    for (int c; f && (c = fgetc(f)) != EOF;) n += c == '\n';
    if (f) fclose(f);
    return n;
}

typedef struct {
    long own, resident, calls, blocks; /* KB, KB, of the allocator */
    size_t given;
    int descriptors, mappings;
    bool exact;
    double seconds;
} state;

static state look(void) {
    struct timespec t;
    state s = {.own = kilobytes("/proc/self/smaps_rollup", "Anonymous:"), .exact = true, .calls = heap.calls, .blocks = heap.blocks};
    if (s.own < 0) s.own = kilobytes("/proc/self/status", "RssAnon:"), s.exact = false;
    s.resident = kilobytes("/proc/self/status", "VmRSS:");
    s.descriptors = entries("/proc/self/fd");
    s.mappings = lines("/proc/self/maps");
    s.given = given_out();
    clock_gettime(CLOCK_MONOTONIC, &t);
    s.seconds = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    return s;
}

/* `done` of what was to be done between the two */
static void compare(const char *what, long done, const state *a, const state *b) {
    printf("%ld %s in %.1f s: malloc %zu to %zu bytes, own memory %ld to %ld KB, resident %ld to %ld KB, ", done, what, b->seconds - a->seconds,
           a->given, b->given, a->own, b->own, a->resident, b->resident);
    printf("descriptors %d to %d, mappings %d to %d, allocations %ld\n", a->descriptors, b->descriptors, a->mappings, b->mappings, b->calls - a->calls);
    if (a->own < 0) printf("SKIP: memory of %s (no /proc/self/smaps_rollup, no RssAnon)\n", what);
    else check(b->own - a->own <= (a->exact ? LIMIT : LIMIT_INEXACT), "%s: own memory grows by %ld KB", what, b->own - a->own);
    check(b->given <= a->given + GIVEN_LIMIT, "%s: %zu bytes more are malloc's", what, b->given - a->given);
    check(a->descriptors == b->descriptors, "%s: %d descriptors more are open", what, b->descriptors - a->descriptors);
    check(b->mappings <= a->mappings, "%s: %d mappings more", what, b->mappings - a->mappings);
    check(a->blocks == b->blocks, "%s: %ld blocks more are held", what, b->blocks - a->blocks);
}

/* ---- Tokens ---- */

/* A sequence from a prompt to the end of its context, drawn; the number of tokens, 0: a call failed */
static long fill(llama_session *s, uint64_t seed) {
    llama_sampler sampler = {.size = sizeof sampler, .temperature = 0.9f, .top_p = 0.95f, .repeat_penalty = 1.1f, .seed = seed};
    int32_t tokens[PROMPT];
    for (int i = 0; i < PROMPT; i++) tokens[i] = 3 + (int32_t)((seed * 31 + (uint64_t)i * 17) % 250);
    llama_rewind(s, 0, 0);
    if (llama_eval(s, 0, tokens, PROMPT)) return 0;
    for (int i = PROMPT; i < CONTEXT; i++) {
        int32_t token = llama_sample(s, 0, &sampler);
        if (token < 0 || llama_eval(s, 0, &token, 1)) return 0;
    }
    return llama_fork(s, 1, 0) ? 0 : CONTEXT;
}

/* Two sessions in turn, of one thread and of two: what they draw is the same. */
static void draw(const char *path, long n, int memory) {
    llama *m = NULL;
    llama_session *s[2] = {NULL, NULL};
    llama_options o = {.size = sizeof o, .memory = memory, .memory_limit = STREAMED, .allocator = &counting};
    llama_session_options so = {.size = sizeof so, .context = CONTEXT, .sequences = 2, .threads = 1, .allocator = &counting};
    llama_info info = {.size = sizeof info};
    llama_error err;
    if (!check(!llama_open(&m, path, &o, &err), "%s", err.text)) return;
    llama_describe(m, &info);
    for (int i = 0; i < 2; i++, so.threads++) check(!llama_session_new(&s[i], m, &so, &err), "%s", err.text);
    state begun = {0};
    long done = 0, each = 1, different = 0;
    uint64_t warm = memory == LLAMA_MEMORY_STREAM ? 2 : WARM;
    for (uint64_t seed = 0; s[0] && s[1] && each && (seed <= warm || done < n); seed++) {
        if (seed == warm) begun = look(), done = 0; /* by now all was touched */
        for (int i = 0; i < 2 && each; i++) done += each = fill(s[i], seed / 2);
        if (each) different += memcmp(llama_logits(s[0], 0), llama_logits(s[1], 0), (size_t)info.vocab * sizeof(float)) != 0;
    }
    state ended = look();
    check(each && done >= n, "a call failed after %ld tokens: %s", done, llama_session_error(s[0]));
    check(different == 0, "%ld times one thread and two differ", different);
    compare(memory == LLAMA_MEMORY_STREAM ? "tokens, streamed" : "tokens", done, &begun, &ended);
    check(begun.calls == ended.calls, "%ld allocations while tokens were drawn", ended.calls - begun.calls);
    for (int i = 0; i < 2; i++) llama_session_free(s[i]);
    llama_close(m);
    check(heap.blocks == 0 && heap.bytes == 0, "%ld blocks of %zu bytes are kept", heap.blocks, heap.bytes);
}

/* ---- Opening and closing, with the C library's allocator ---- */

static bool open_and_close(const char *path, const llama_allocator *allocator, int memory) {
    llama *m = NULL;
    llama_session *s = NULL;
    llama_options o = {.size = sizeof o, .memory = memory, .memory_limit = STREAMED, .allocator = allocator};
    llama_session_options so = {.size = sizeof so, .context = 16, .threads = 1, .allocator = allocator};
    int32_t tokens[16];
    bool good = !llama_open(&m, path, &o, NULL) && !llama_session_new(&s, m, &so, NULL);
    ptrdiff_t n = good ? llama_text_to_tokens(m, "once upon a time", 16, LLAMA_ADD_BOS, tokens, 16) : 0;
    good = good && n > 0 && n < 16 && !llama_eval(s, 0, tokens, (size_t)n);
    llama_session_free(s);
    llama_close(m);
    return good;
}

static void open_often(const char *path, long n) {
    const llama_allocator *allocators[] = {NULL, &counting};
    for (int k = 0; k < 3; k++) {
        int memory = k == 2 ? LLAMA_MEMORY_STREAM : LLAMA_MEMORY_MAP;
        const llama_allocator *allocator = allocators[k % 2];
        long good = 0, half = k == 2 ? n / 10 : (n + k) / 2;
        for (int i = 0; i < 20; i++) open_and_close(path, allocator, memory); /* until malloc's thresholds are where they stay */
        state begun = look();
        for (long i = 0; i < half; i++) good += open_and_close(path, allocator, memory);
        state ended = look();
        check(good == half, "%ld of %ld times opened and used", good, half);
        compare(k == 2 ? "cycles, streamed" : k ? "cycles, the host's allocator" : "cycles", good, &begun, &ended);
    }
    check(heap.blocks == 0 && heap.bytes == 0, "%ld blocks of %zu bytes are kept", heap.blocks, heap.bytes);
}

static const char *model_folder;
static long tokens = 100000, cycles = 10000;

static void test_tokens(void) { draw(model_folder, tokens, LLAMA_MEMORY_MAP); }
static void test_streamed(void) { draw(model_folder, tokens / 10, LLAMA_MEMORY_STREAM); }
static void test_cycles(void) { open_often(model_folder, cycles); }

static const test_case cases[] = {CASE(tokens), CASE(streamed), CASE(cycles)};

int main(int argc, char **argv) {
    if ((argc = tests_begin(argc, argv)) < 2) return 2;
    model_folder = argv[1];
    if (test_quick) tokens = 500, cycles = 50;
    if (argc > 2) tokens = atol(argv[2]);
    if (argc > 3) cycles = atol(argv[3]);
    look(); /* its own buffers */
    RUN(cases);
    return tests_done("soak");
}
