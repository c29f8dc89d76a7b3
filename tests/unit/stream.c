/* stream.c - weights that are streamed from the files: the bits of mapped weights, as many bytes read as promised, and
 * whatever happens to the files, the threads or the process, no hang and no harm.
 *
 *   stream TINY WORKDIR [--quick]      TINY: tests/tiny
 *
 * Linked with --wrap of pread, open and pthread_create: reads are counted, fail, end early or take long; files cannot be
 * opened unbuffered; the system gives no threads. On Windows tools/windows.h calls the same three (TEST_DISK). */
#include "../tools/checkpoint.h"
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#ifdef POSIX_FADV_DONTNEED
#include <sys/mman.h>
#endif
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

/* ---- The disk, and the system's threads ---- */

static struct {
    atomic_long reads, failed, unbuffered;        /* so far; unbuffered: reads that worked */
    atomic_llong bytes;                           /* so far; a long of Windows is too short */
    atomic_long first, last;                      /* reads of these numbers fail, counted like `reads` */
    atomic_int error;                             /* with this errno; 0: they find the end of the file */
    atomic_bool cut, interrupted;                 /* reads move few bytes; two of three are interrupted */
    atomic_bool no_unbuffered, refuses;           /* opening for unbuffered reads fails; or these reads do */
    atomic_long delay;                            /* of a read, in nanoseconds */
    atomic_int threads;                           /* that the system still gives; -1: any number */
} disk = {.threads = -1};

static void repair_disk(void) {
    disk.first = disk.last = 0;
    disk.error = 0;
    disk.cut = disk.interrupted = disk.no_unbuffered = disk.refuses = false;
    disk.delay = 0;
    disk.threads = -1;
}

/* From now on, reads number first to last fail. */
static void fail_reads(long first, long last, int error) {
    disk.first = disk.last = 0;
    disk.error = error;
    disk.failed = 0;
    long now = disk.reads;
    disk.last = last < LONG_MAX - now ? now + last : LONG_MAX;
    disk.first = now + first;
}

static void pause_for(long nanoseconds) { nanosleep(&(struct timespec){nanoseconds / 1000000000, nanoseconds % 1000000000}, NULL); }

ssize_t __real_pread(int, void *, size_t, off_t), __wrap_pread(int, void *, size_t, off_t);
int __real_open(const char *, int, ...), __wrap_open(const char *, int, ...);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at) {
    long number = ++disk.reads;
    bool direct = O_DIRECT && fcntl(fd, F_GETFL) & O_DIRECT;
    if (disk.delay) pause_for(disk.delay);
    if (disk.interrupted && number % 3) return errno = EINTR, -1;
    if (direct && disk.refuses) return errno = EINVAL, -1;
    if (disk.first && number >= disk.first && number <= disk.last) {
        disk.failed++;
        errno = disk.error;
        return disk.error ? -1 : 0;
    }
    if (disk.cut && !direct && n > 1000) n = 1000;
    ssize_t got = __real_pread(fd, to, n, at);
    if (disk.cut && direct && got > 8192) got = number % 2 ? 4096 : 8192 - 100;
    if (got > 0) {
        disk.bytes += got;
        disk.unbuffered += direct;
    }
    return got;
}

int __wrap_open(const char *path, int flags, ...) {
    if (O_DIRECT && flags & O_DIRECT && disk.no_unbuffered) return errno = EINVAL, -1;
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return __real_open(path, flags, mode);
}

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *user) {
    if (disk.threads == 0) return EAGAIN;
    if (disk.threads > 0) disk.threads--;
    return __real_pthread_create(id, attributes, run, user);
}

/* ---- Models ---- */

enum { PATH = 2048, TOKENS = 24, BLOCK_BYTES = 1 << 16, RING = 16 * BLOCK_BYTES }; /* upper limits, of the models here */
static char work[1024], tokenizer[PATH];
static const char *tiny_folder;
static int32_t tokens[TOKENS]; /* of every prompt */

static const char *in_work(const char *name) {
    static char path[4][PATH];
    static int turn;
    snprintf(path[++turn % 4], PATH, "%s/%s", work, name);
    return path[turn % 4];
}

/* Several blocks to a matrix, and in shards the last block of each part is not full. */
static const model_spec usual = {.dim = 128, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 352, .vocab = 1040, .shards = 1};
static char usual_path[PATH];

/* Puts n spaces into the header of a safetensors file: its weights move to other addresses. */
static void move_weights(const char *file, int n) {
    size_t size = 0;
    char *bytes = read_file(file, &size);
    uint64_t header;
    buffer b = {0};
    if (!check(bytes != NULL, "%s", file)) return;
    memcpy(&header, bytes, 8);
    put_int(&b, header + (uint64_t)n, 8);
    put(&b, "{       ", 1 + (size_t)n);
    put(&b, bytes + 9, size - 9);
    check(write_file(file, &b), "%s", file);
    free(b.at), free(bytes);
}

/* Calls it with every kind of model. */
static void each_model(void (*run)(const char *name, const char *path, const char *vocabulary)) {
    static const struct {
        const char *name;
        int shards, gap;
        bool tied, legacy;
        int hidden;
    } meta[] = {{"Meta, a shard", 1, 0, false, false, 352}, {"Meta, two shards", 2, 0, false, false, 352}, {"Meta, four shards", 4, 0, false, false, 320},
                {"Meta, older torch", 1, 0, false, true, 352}, {"Meta, copied", 1, 3, false, false, 352},
                {"Meta, shards of which some weights are copied", 2, 0, false, false, 336}, {"Meta, two shards, tied", 2, 0, true, false, 352}};
    static const char *const names[FORMS] = {"safetensors", "safetensors, three files", "PyTorch", "PyTorch, two files",
                                             "GGUF", "GGUF, two files", "llama2.c version 0", "llama2.c version 1"};
    char path[PATH], name[96], file[PATH + 32];
    run("tests/tiny", tiny_folder, NULL);
    for (size_t i = 0; i < sizeof meta / sizeof *meta; i++) {
        model_spec m = usual;
        m.shards = meta[i].shards, m.gap = meta[i].gap, m.tied = meta[i].tied, m.legacy = meta[i].legacy, m.hidden = meta[i].hidden;
        snprintf(path, sizeof path, "%s", in_work(meta[i].name));
        model_write(&m, path);
        run(meta[i].name, path, tokenizer);
    }
    model_spec newer = usual; /* heads of another width, embeddings by rows, scaled RoPE */
    newer.head_dim = model_head(&usual) + 10, newer.by_rows = true, newer.scaling = newer.shards = 2;
    snprintf(path, sizeof path, "%s", in_work("newer"));
    model_write(&newer, path);
    run("Meta, two shards, a newer shape", path, tokenizer);
    for (int form = 0; form < FORMS; form++)
        for (int tied = 0; tied < 2; tied++) {
            model_spec m = usual;
            m.tied = tied;
            snprintf(name, sizeof name, "%s%s", names[form], tied ? ", tied" : "");
            snprintf(path, sizeof path, "%s", model_write_as(&m, (model_form)form, in_work(name)));
            run(name, path, tokenizer);
        }
    for (int n = 1; n < 4; n++) {
        snprintf(name, sizeof name, "safetensors, moved by %d", n);
        snprintf(path, sizeof path, "%s", model_write_as(&usual, SAFETENSORS, in_work(name)));
        snprintf(file, sizeof file, "%s/model.safetensors", path);
        move_weights(file, n);
        run(name, path, tokenizer);
    }
    /* Halves taken for bfloat16, as many bytes */
    snprintf(path, sizeof path, "%s", model_write_as(&usual, SAFETENSORS, in_work("bfloat16")));
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    size_t n = 0;
    char *bytes = read_file(file, &n);
    uint64_t header;
    buffer b = {0};
    memcpy(&header, bytes, 8);
    put_int(&b, header, 8);
    for (size_t i = 8; i < n; i++) {
        bool type = i + 14 < 8 + header && memcmp(bytes + i, "dtype\":\"F16\",\"", 14) == 0;
        put(&b, type ? "dtype\":\"BF16\",\"" : bytes + i, type ? 15 : 1);
        i += type ? 13 : 0;
    }
    memcpy(b.at, &(uint64_t){header + b.n - n}, 8);
    check(write_file(file, &b), "%s", file);
    free(b.at), free(bytes);
    run("bfloat16", path, tokenizer);
}

static llama *open_as(const char *path, const char *vocabulary, int memory, uint64_t limit) {
    llama_options o = {.size = sizeof o, .tokenizer = vocabulary, .memory = memory, .memory_limit = limit, .allocator = &dirty};
    llama *m = NULL;
    llama_error err;
    check(llama_open(&m, path, &o, &err) == LLAMA_OK, "%s, memory %d, limit %llu: %s", path, memory, (unsigned long long)limit, err.text);
    return m;
}
static llama *open_streamed(uint64_t limit) { return open_as(usual_path, tokenizer, LLAMA_MEMORY_STREAM, limit); }

static llama_session_options small_session(int threads) {
    return (llama_session_options){.size = sizeof(llama_session_options), .context = 48, .sequences = 3, .batch = 8, .threads = threads, .allocator = &dirty};
}
static llama_session *session_of(const llama *m, int threads) {
    llama_session_options o = small_session(threads);
    llama_session *s = NULL;
    llama_error err;
    check(llama_session_new(&s, m, &o, &err) == LLAMA_OK, "%s", err.text);
    return s;
}
static llama_info info_of(const llama *m) {
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    return info;
}

/* ---- What a session answers ---- */

static int add_state(void *user, const void *p, size_t n) {
    put(user, p, n);
    return 0;
}
static int add_token(void *user, llama_request *r, const char *text, size_t n) {
    buffer *made = user;
    (void)text, (void)n;
    if (!r->finish_reason) put_int(&made[r->max_tokens % 3], (uint64_t)r->token, 4);
    return 0;
}

/* Every way of evaluating, and the bits that come of it; to be freed. */
static buffer tour(const llama *m, const llama_session_options *o) {
    buffer all = {0}, texts[3] = {{0}};
    llama_session *s = NULL;
    llama_error err;
    llama_sampler sampler = {.size = sizeof sampler, .temperature = 1, .top_p = 0.9f, .seed = 3};
    size_t row = (size_t)info_of(m).vocab * sizeof(float);
    if (!check(llama_session_new(&s, m, o, &err) == LLAMA_OK, "%s", err.text)) return all;
    int status = llama_eval(s, 0, tokens, TOKENS);
    if (!status) put(&all, llama_logits(s, 0), row);
    for (int i = 0; i < 3 && !status; i++) {
        int32_t token = llama_sample(s, 0, &sampler);
        status = llama_eval(s, 0, &token, 1);
        if (!status) put(&all, llama_logits(s, 0), row);
    }
    int32_t draft[4] = {llama_sample(s, 0, &sampler), 5, 5, 6}, out[5], rank[2 * TOKENS];
    ptrdiff_t drawn = llama_verify(s, 0, &sampler, draft, 4, out);
    if (drawn > 0) put(&all, out, (size_t)drawn * sizeof *out);
    const llama_span spans[] = {{1, tokens, 10}, {2, tokens + 3, 7}, {0, tokens, 1}};
    if (!status) status = llama_eval_batch(s, spans, 3);
    for (int q = 0; q < 3 && !status; q++) put(&all, llama_logits(s, q), row);
    float logprob[2 * TOKENS];
    if (!status) status = llama_score(s, 1, tokens, 12, logprob);
    if (!status) put(&all, logprob, 12 * sizeof *logprob);
    const llama_span scored[] = {{1, tokens, 9}, {2, tokens, 17}};
    if (!status) status = llama_score_batch(s, scored, 2, logprob, rank);
    if (!status) put(&all, logprob, 26 * sizeof *logprob), put(&all, rank, 26 * sizeof *rank);
    if (!status) status = llama_save(s, 1, add_state, &all);
    for (int q = 0; q < 3; q++) llama_rewind(s, q, 0);
    llama_request r[3];
    for (int i = 0; i < 3; i++) {
        r[i] = (llama_request){.prompt = tokens, .n_prompt = (size_t)(TOKENS - 4 * i), .max_tokens = (size_t)(12 + i), .utf8 = {.started = 1}};
        r[i].sampler = (llama_sampler){.size = sizeof(llama_sampler), .temperature = i == 0 ? 0 : 1, .seed = (uint64_t)i};
    }
    if (!status) status = llama_generate(s, r, 3, add_token, texts);
    for (int i = 0; i < 3; i++) {
        put(&all, texts[i].at, texts[i].n);
        free(texts[i].at);
    }
    llama_continuation e[] = {{"There was", " a king", 9, 7, 0, 0, 0, 0}, {"There was ", "once", 10, 4, 0, 0, 0, 0}, {"A", "b", 1, 1, 0, 0, 0, 0}};
    if (!status) status = llama_loglikelihood(s, e, 3);
    for (int i = 0; i < 3 && !status; i++) put(&all, &e[i].logprob, sizeof e[i].logprob);
    check(status == LLAMA_OK && drawn > 0, "%d, %td: %s", status, drawn, llama_session_error(s));
    llama_session_free(s);
    return all;
}

static bool equal(const buffer *a, const buffer *b) { return a->n > 0 && a->n == b->n && memcmp(a->at, b->at, a->n) == 0; }

/* The logits of `usual` after the first 1 to TOKENS tokens, of mapped weights */
static float *want;
static size_t row_bytes;

static void learn_answers(void) {
    llama *m = open_as(usual_path, tokenizer, LLAMA_MEMORY_MAP, 0);
    llama_session *s = session_of(m, 1);
    row_bytes = (size_t)info_of(m).vocab * sizeof(float);
    want = must_alloc(TOKENS * row_bytes);
    for (int i = 0; i < TOKENS && s; i++)
        if (check(llama_eval(s, 0, tokens + i, 1) == LLAMA_OK, "mapped: %s", llama_session_error(s)))
            memcpy((char *)want + (size_t)i * row_bytes, llama_logits(s, 0), row_bytes);
    llama_session_free(s);
    llama_close(m);
}

/* Has sequence `seq` the logits of its first tokens? */
static bool is_right(const llama_session *s, int seq) {
    size_t n = llama_length(s, seq);
    const float *logits = llama_logits(s, seq);
    return n > 0 && n <= TOKENS && logits && memcmp((const char *)want + (n - 1) * row_bytes, logits, row_bytes) == 0;
}

/* The next token of sequence 0, from its beginning if it is full. Returns the status. */
static int step(llama_session *s) {
    size_t n = llama_length(s, 0);
    if (n >= TOKENS) llama_rewind(s, 0, n = 0);
    return llama_eval(s, 0, tokens + n, 1);
}
static bool steps(llama_session *s, int n) {
    bool good = s != NULL;
    for (int i = 0; i < n && good; i++) good = step(s) == LLAMA_OK && is_right(s, 0);
    return good;
}

/* ---- The bits ---- */

static void same_bits(const char *name, const char *path, const char *vocabulary) {
    static const char *const kernels[] = {NULL, "scalar", "avx2", "avx512", "neon"};
    static int turn;
    llama *mapped = open_as(path, vocabulary, LLAMA_MEMORY_MAP, 0);
    if (!mapped) return;
    uint64_t bytes = info_of(mapped).file_bytes, session = 0;
    llama_session_options o = small_session(1);
    session = llama_session_bytes(mapped, &o);
    buffer right = tour(mapped, &o);
    /* Nothing is kept, some, nearly everything, everything */
    const uint64_t limits[] = {1, session + bytes / 8 + RING, session + bytes / 2 + RING / 4, session + bytes, 8 * bytes + 8 * session + RING, 0};
    int n = sizeof limits / sizeof *limits;
    for (int i = 0; i < 3 * n; i++) {
        if (!test_sampled((size_t)turn++, 13)) continue;
        llama *m = open_as(path, vocabulary, LLAMA_MEMORY_STREAM, limits[i / 3]);
        if (!m) continue;
        int memory = strcmp(name, "Meta, copied") ? LLAMA_MEMORY_STREAM : LLAMA_MEMORY_MAP; /* all are copies */
        check(info_of(m).memory == memory, "%s: memory %d", name, info_of(m).memory);
        o = small_session(1 + turn % 3);
        o.batch = (int[]){0, 1, 5, 32}[turn / 3 % 4];
        o.kernels = kernels[turn % 5];
        o.all_logits = turn % 4 == 0;
        o.draft = turn / 2 % 3 == 0 ? m : turn / 2 % 3 == 1 ? mapped : NULL;
        if (llama_session_bytes(m, &o) == 0) o.kernels = NULL; /* not on this processor */
        buffer got = tour(m, &o);
        check(equal(&right, &got), "%s, limit %d, threads %d, batch %d, kernels %s: other bits than mapped", name, i / 3, o.threads, o.batch, o.kernels ? o.kernels : "best");
        free(got.at);
        llama_close(m);
    }
    free(right.at);
    llama_close(mapped);
}
static void test_bits(void) { each_model(same_bits); }

/* A text of a mapped model with a streamed draft model, or with none. Returns how many guesses the draft made. */
static size_t draft_text(const llama *mapped, const llama *draft, buffer *text) {
    enum { LONG = 160 };
    llama_session_options o = {.size = sizeof o, .context = LONG + TOKENS, .threads = 1, .no_lookup = 1, .draft = draft};
    llama_request r = {.prompt = tokens, .n_prompt = TOKENS, .max_tokens = LONG / 3 * 3, .sampler = {.size = sizeof(llama_sampler)}};
    llama_session *s = NULL;
    check(!llama_session_new(&s, mapped, &o, NULL) && !llama_generate(s, &r, 1, add_token, text), "a text with a draft: %s", llama_session_error(s));
    llama_session_free(s);
    return r.drafted;
}
static void with_draft(bool fails) {
    const model_spec small = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 2, .hidden = 32, .vocab = 1040, .shards = 1};
    buffer right[3] = {{0}}, got[3] = {{0}};
    char path[PATH];
    snprintf(path, sizeof path, "%s", model_write_as(&small, GGUF_FILE, in_work("draft")));
    llama *mapped = open_as(usual_path, tokenizer, LLAMA_MEMORY_MAP, 0), *m = open_as(path, tokenizer, LLAMA_MEMORY_STREAM, 1);
    draft_text(mapped, NULL, right);
    if (fails) fail_reads(1, LONG_MAX - 1, EIO);
    size_t drafted = draft_text(mapped, m, got);
    check(equal(right, got), "a streamed draft%s: other tokens", fails ? " that fails" : "");
    check(fails ? disk.failed > 0 && drafted == 0 : info_of(m).read_bytes > 0 && drafted > 0, "%zu guesses, %llu bytes read, %ld reads failed", drafted,
          (unsigned long long)info_of(m).read_bytes, (long)disk.failed);
    repair_disk();
    free(right->at), free(got->at);
    llama_close(m);
    llama_close(mapped);
}
static void test_draft(void) { with_draft(false); }

/* ---- The law: a pass reads what is not kept ---- */

/* What is counted is what was read, but for the rest of a last sector that a file or a buffered read does not have. */
static void check_counted(const char *name, uint64_t counted, long long read, long reads) {
    check(counted + RING >= (uint64_t)read && (uint64_t)read + (uint64_t)reads * 4096 + RING >= counted, "%s: %llu bytes are counted, %lld were read in %ld reads", name,
          (unsigned long long)counted, read, reads);
}

static void read_law(const char *name, const char *path, const char *vocabulary) {
    enum { PASSES = 12 };
    llama_session_options o = small_session(1);
    for (int k = 0; k < 5; k++) {
        if (!test_sampled((size_t)k, 2)) continue;
        llama *m = open_as(path, vocabulary, LLAMA_MEMORY_MAP, 0);
        uint64_t session = llama_session_bytes(m, &o), bytes = info_of(m).file_bytes;
        llama_close(m);
        uint64_t limit = k == 0 ? 1 : session + RING / 2 + bytes * (uint64_t)k / 3 + (k == 4 ? RING : 0);
        pause_for(1000000);
        long long read = disk.bytes;
        long reads = disk.reads;
        m = open_as(path, vocabulary, LLAMA_MEMORY_STREAM, limit);
        llama_session *s = session_of(m, 1);
        check(disk.bytes == read && info_of(m).read_bytes == 0, "%s: opening reads %lld bytes of weights", name, disk.bytes - read);
        llama_info before = info_of(m);
        check(before.kept_bytes + session <= limit || before.kept_bytes == 0, "%s: of %llu bytes, %llu are kept beside a session of %llu", name,
              (unsigned long long)limit, (unsigned long long)before.kept_bytes, (unsigned long long)session);
        check(k > 0 || before.kept_bytes == 0, "%s: %llu bytes are kept", name, (unsigned long long)before.kept_bytes);
        check(k < 4 || before.stream_bytes == 0 || before.kept_bytes > 3 * before.stream_bytes, "%s: only %llu bytes are kept", name, (unsigned long long)before.kept_bytes);
        uint64_t all = before.kept_bytes + before.stream_bytes;
        check(all < bytes + bytes / 2 + RING, "%s: a pass needs %llu bytes of %llu", name, (unsigned long long)all, (unsigned long long)bytes);
        check(llama_eval(s, 0, tokens, 1) == LLAMA_OK, "%s", llama_session_error(s));
        llama_info first = info_of(m);
        check(first.read_bytes >= all && first.read_bytes <= all + RING, "%s: the first pass reads %llu bytes of %llu", name, (unsigned long long)first.read_bytes,
              (unsigned long long)all);
        check_counted(name, first.read_bytes, disk.bytes - read, disk.reads - reads);
        for (int i = 1; i <= PASSES; i++) check(llama_eval(s, 0, tokens + i, 1) == LLAMA_OK, "%s", llama_session_error(s));
        llama_info after = info_of(m);
        uint64_t passes = after.read_bytes - first.read_bytes, promised = PASSES * before.stream_bytes;
        check(passes <= promised + RING && passes + RING >= promised, "%s: %d passes read %llu bytes, not %llu", name, PASSES, (unsigned long long)passes,
              (unsigned long long)promised);
        check(after.kept_bytes == before.kept_bytes && after.stream_bytes == before.stream_bytes, "%s: kept and streamed bytes change", name);
        check_counted(name, after.read_bytes, disk.bytes - read, disk.reads - reads);
        llama_session_free(s);
        llama_close(m);
    }
}
static void test_law(void) { each_model(read_law); }

/* What a session takes it gives back; what is kept and the sessions never exceed the limit. */
static void test_sessions_take(void) {
    enum { MOST = 6 };
    llama *m = open_as(usual_path, tokenizer, LLAMA_MEMORY_MAP, 0);
    llama_session_options o = small_session(1);
    uint64_t each = llama_session_bytes(m, &o), bytes = info_of(m).file_bytes;
    llama_close(m);
    uint64_t limit = bytes + RING + each;
    m = open_streamed(limit);
    llama_session *s[MOST] = {NULL};
    uint64_t kept[MOST + 1] = {info_of(m).kept_bytes};
    for (int i = 0; i < MOST; i++) {
        s[i] = session_of(m, 1);
        kept[i + 1] = info_of(m).kept_bytes;
        check(kept[i + 1] + (uint64_t)(i + 1) * each <= limit || kept[i + 1] == 0, "%d sessions: %llu bytes are kept", i + 1, (unsigned long long)kept[i + 1]);
        check(steps(s[i], 2) && steps(s[0], 1), "session %d", i);
        check(info_of(m).kept_bytes == kept[i + 1], "a pass changes what is kept");
    }
    check(kept[MOST] < kept[1], "%d sessions take nothing from %llu bytes", MOST, (unsigned long long)kept[1]);
    for (int i = MOST; i-- > 0;) {
        check(steps(s[i], 2), "session %d again", i);
        llama_session_free(s[i]);
        check(info_of(m).kept_bytes == kept[i], "without session %d %llu bytes are kept, not %llu", i, (unsigned long long)info_of(m).kept_bytes, (unsigned long long)kept[i]);
    }
    llama_close(m);
}

/* AUTO streams what does not fit; other values are refused. */
static void test_automatic(void) {
    llama *m = open_as(usual_path, tokenizer, LLAMA_MEMORY_AUTO, 1);
    check(info_of(m).memory == LLAMA_MEMORY_STREAM, "AUTO, 1 byte: %d", info_of(m).memory);
    llama_close(m);
    m = open_as(usual_path, tokenizer, LLAMA_MEMORY_AUTO, (uint64_t)1 << 40);
    check(info_of(m).memory == LLAMA_MEMORY_MAP && info_of(m).kept_bytes == 0 && info_of(m).stream_bytes == 0, "AUTO, much: %d", info_of(m).memory);
    llama_close(m);
    m = open_as(usual_path, tokenizer, LLAMA_MEMORY_MAP, 1);
    check(info_of(m).memory == LLAMA_MEMORY_MAP, "MAP, 1 byte: %d", info_of(m).memory);
    llama_close(m);
    model_spec longer = usual; /* its KV cache would be 64 times the weights, but few sessions use all of it */
    longer.context = 131072;
    m = open_as(model_write_as(&longer, SAFETENSORS, in_work("longer")), tokenizer, LLAMA_MEMORY_AUTO, (uint64_t)64 << 20);
    check(info_of(m).memory == LLAMA_MEMORY_MAP && info_of(m).context == 131072, "AUTO, a long context: %d", info_of(m).memory);
    llama_close(m);
    for (int memory = -1; memory <= LLAMA_MEMORY_STREAM + 1; memory += LLAMA_MEMORY_STREAM + 2) {
        llama_options o = {.size = sizeof o, .memory = memory};
        llama_error err;
        check(llama_open(&m, usual_path, &o, &err) == LLAMA_EINVAL && !m && strstr(err.text, "does not exist"), "memory %d: %s", memory, err.text);
    }
}

/* A control group with less memory than the model: the weights are streamed without being asked for, and the group's
 * limit is never exceeded. Needs the right to make such a group. */
static void test_group(void) {
    enum { LIMIT = 96 << 20 };
    if (test_quick) return;
    static const char *const roots[][3] = {{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"}, {"/sys/fs/cgroup", "memory.max", "memory.events"}};
    char group[256] = "", file[512], model[1200];
    int version = 0;
    for (; version < 2 && !*group; version++) {
        snprintf(group, sizeof group, "%s/llamac-test-%d", roots[version][0], (int)getpid());
        if (mkdir(group, 0777) != 0) *group = 0;
    }
    version--;
    snprintf(file, sizeof file, "%s/%s", group, roots[version][1]);
    FILE *f = *group ? fopen(file, "w") : NULL;
    bool limited = f && fprintf(f, "%d", (int)LIMIT) > 0;
    if (f) limited &= fclose(f) == 0;
    if (!limited) {
        printf("SKIP: memory of a control group (none can be made)\n");
        if (*group) rmdir(group);
        return;
    }
    static const model_spec large = {.dim = 1024, .layers = 6, .heads = 8, .kv_heads = 8, .hidden = 2048, .vocab = 512, .shards = 1};
    snprintf(model, sizeof model, "%s/large", work);
    model_write(&large, model); /* 121 MB */
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        snprintf(file, sizeof file, "%s/cgroup.procs", group);
        f = fopen(file, "w");
        if (!f || fprintf(f, "%d", (int)getpid()) < 0 || fclose(f) != 0) _exit(10);
        llama *m = NULL;
        llama_session *s = NULL;
        llama_session_options o = {.size = sizeof o, .context = 32, .threads = 2};
        llama_info info = {.size = sizeof info};
        if (llama_open(&m, model, NULL, NULL) || llama_describe(m, &info)) _exit(11);
        if (info.memory != LLAMA_MEMORY_STREAM) _exit(12);
        if (info.memory_limit > LIMIT) _exit(13);
        if (llama_session_new(&s, m, &o, NULL) || llama_eval(s, 0, (int32_t[]){1, 2, 3}, 3)) _exit(14);
        for (int32_t t = 0; t < 10; t++)
            if (llama_eval(s, 0, &t, 1)) _exit(15);
        llama_describe(m, &info);
        if (info.kept_bytes < LIMIT / 2) _exit(16);
        llama_session_free(s);
        llama_close(m);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    check(status == 0, "in a group with %d MB: status %x", (int)LIMIT >> 20, (unsigned)status); /* 9: it was killed */
    rmdir(group);
}

/* ---- Sessions, threads, processes ---- */

static void test_in_turn(void) {
    for (int limit = 0; limit < 2; limit++) {
        llama *m = open_streamed(limit ? 600000 : 1);
        llama_session *a = session_of(m, 1), *b = session_of(m, 2);
        int good = 0;
        for (int i = 0; i < 2 * TOKENS; i++) good += steps(a, 1) && steps(b, 1);
        check(good == 2 * TOKENS, "%d of %d times two sessions in turn", good, 2 * TOKENS);
        llama_session_free(a);
        check(steps(b, 3), "the one that is left");
        llama_session_free(b);
        llama_close(m);
    }
}

static void *evaluate_often(void *model) {
    bool good = true;
    for (int i = 0; i < (test_quick ? 3 : 20) && good; i++) {
        llama_session_options o = small_session(1 + i % 2);
        llama_session *s = NULL;
        good = !llama_session_new(&s, model, &o, NULL) && steps(s, 8);
        llama_session_free(s);
    }
    return good ? model : NULL;
}
static atomic_bool at_work;
static void *prefetch_often(void *model) {
    while (at_work) llama_prefetch(model, NULL, NULL);
    return NULL;
}
static void test_at_once(void) {
    enum { HOSTS = 4 };
    llama *m = open_streamed(700000);
    pthread_t id[HOSTS], prefetching;
    int good = 0;
    at_work = true;
    check(!pthread_create(&prefetching, NULL, prefetch_often, m), "a thread");
    for (int i = 0; i < HOSTS; i++) check(!pthread_create(&id[i], NULL, evaluate_often, m), "a thread");
    for (int i = 0; i < HOSTS; i++) {
        void *result;
        pthread_join(id[i], &result);
        good += result != NULL;
    }
    at_work = false;
    pthread_join(prefetching, NULL);
    check(good == HOSTS, "%d of %d threads of the host", good, HOSTS);
    llama_close(m);
}

/* A session's progress function evaluates with another session: of the same model, in a thread for which it waits, or of a
 * model whose session does the same in another thread. */
typedef struct {
    llama *m;
    llama_session *s, *other;
    bool in_thread;
    int calls, wrong, reports, cancel_at;
} nesting;
static void *one_step(void *user) {
    nesting *n = user;
    if (llama_length(n->other, 0) > 8) llama_rewind(n->other, 0, 0);
    n->wrong += step(n->other) != LLAMA_OK || !is_right(n->other, 0);
    return NULL;
}
static int nest(void *user, const char *what, uint64_t done, uint64_t total) {
    nesting *n = user;
    pthread_t t;
    (void)what, (void)done, (void)total;
    n->calls++;
    if (!n->in_thread) one_step(n);
    else n->wrong += pthread_create(&t, NULL, one_step, n) != 0 || pthread_join(t, NULL) != 0;
    llama_session_options o = small_session(1); /* a session takes some of what is kept, in the middle of a pass */
    llama_session *made;
    n->wrong += llama_session_new(&made, n->m, &o, NULL) != LLAMA_OK || info_of(n->m).read_bytes == 0;
    llama_session_free(made);
    return 0;
}
static void *three_steps(void *user) {
    nesting *n = user;
    for (int i = 0; i < 3; i++) n->wrong += step(n->s) != LLAMA_OK || !is_right(n->s, 0);
    return NULL;
}
static void test_nested(void) {
    for (int way = 0; way < 3; way++) {
        nesting n[2] = {{.in_thread = way == 1}, {.in_thread = way == 1}};
        llama_session_options o = small_session(1);
        for (int i = 0; i < 2; i++) n[i].m = open_streamed(i ? 1 : 600000);
        for (int i = 0; i < 2; i++) {
            n[i].other = session_of(n[way == 2 ? !i : i].m, 1);
            o.progress = nest, o.user = &n[i];
            check(!llama_session_new(&n[i].s, n[i].m, &o, NULL) && n[i].other, "sessions");
        }
        pthread_t t;
        check(pthread_create(&t, NULL, three_steps, &n[0]) == 0, "a thread");
        three_steps(&n[1]);
        pthread_join(t, NULL);
        for (int i = 0; i < 2; i++)
            check(n[i].calls >= 9 && n[i].wrong == 0, "way %d: %d calls, %d wrong: %s", way, n[i].calls, n[i].wrong, llama_session_error(n[i].s));
        for (int i = 0; i < 2; i++) llama_session_free(n[i].s), llama_session_free(n[i].other);
        for (int i = 0; i < 2; i++) llama_close(n[i].m);
    }
}

/* Opened, used for a moment or not at all, and closed, while the readers read */
static void test_short_lives(void) {
    int good = 0, n = test_quick ? 60 : 400;
    for (int i = 0; i < n; i++) {
        disk.delay = i % 4 == 1 ? 100000 : 0;
        llama *m = open_streamed(i % 3 ? 1 : 700000);
        llama_session *s = i % 5 ? session_of(m, 1) : NULL;
        good += m && (!s || i % 2 || steps(s, 1));
        llama_session_free(s);
        llama_close(m);
    }
    disk.delay = 0;
    check(good == n, "%d of %d", good, n);
}

/* fork(), after a moment in which threads that begin or end come to rest: they hold locks of ASan's allocator, which
 * a child would inherit and wait for. */
static pid_t fork_at_rest(void) {
#ifdef __SANITIZE_ADDRESS__
    usleep(100000);
#endif
    return fork();
}

typedef struct {
    pid_t child; /* -1: not made yet */
    bool last, cancels; /* it is made in the last report; it cancels the call */
} forking;
static int forks(void *user, const char *what, uint64_t done, uint64_t total) {
    forking *f = user;
    (void)what;
    if (f->child >= 0 || done == 0 || (f->last && done < total)) return 0;
    f->child = fork_at_rest();
    if (f->child == 0) alarm(120);
    return f->child == 0 && f->cancels;
}
static void ends_well(pid_t child, const char *what) {
    int status = -1;
    bool ended = child > 0 && waitpid(child, &status, 0) == child;
    check(ended && WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: a child ends with %x", what, (unsigned)status);
}
static void test_fork(void) {
    llama *m = open_streamed(600000);
    llama_session *s = session_of(m, 2);
    for (int used = 0; used < 2; used++) { /* before and after a pass */
        pid_t child = fork_at_rest();
        if (child == 0) {
            alarm(120);
            llama_session *own = session_of(m, 1);
            bool good = steps(s, 4) && steps(own, 2);
            llama_session_free(s), llama_session_free(own);
            llama_close(m);
            _exit(!good);
        }
        check(steps(s, 4), "the parent, beside its child");
        ends_well(child, used ? "forked after a pass" : "forked before the first pass");
    }
    pid_t child = -1;
#ifndef __SANITIZE_THREAD__ /* which cannot follow new threads of a child */
    if ((child = fork_at_rest()) == 0) {
        alarm(120);
        llama *own = open_streamed(600000); /* with readers of its own */
        llama_session *t = session_of(own, 2);
        bool good = steps(t, 4) && steps(s, 2);
        llama_session_free(t);
        llama_close(own);
        _exit(!good);
    }
    ends_well(child, "a model of its own");
#endif
    /* In a call: the child ends it from the mapping, or cancels it, and goes on. */
    bool good;
    for (int way = 0; way < 4; way++) {
        forking f = {-1, way & 1, way & 2};
        llama_session_options o = small_session(2);
        llama_session *t = NULL;
        o.progress = forks, o.user = &f;
        check(!llama_session_new(&t, m, &o, NULL), "a session");
        int status = step(t);
        if (f.child == 0) {
            good = status == (f.cancels ? LLAMA_ECANCEL : LLAMA_OK) && steps(t, 3) && steps(s, 2);
            llama_session_free(s), llama_session_free(t);
            llama_close(m);
            _exit(!good);
        }
        check(status == LLAMA_OK && steps(t, 3) && steps(s, 1), "the parent, in whose call a child was made");
        ends_well(f.child, "forked in a call");
        llama_session_free(t);
    }
    /* The parent closes first. */
    int ready[2];
    char byte = 0;
    check(pipe(ready) == 0, "a pipe");
    if ((child = fork_at_rest()) == 0) {
        alarm(120);
        close(ready[1]);
        good = read(ready[0], &byte, 1) == 0 && steps(s, 5);
        llama_session_free(s);
        llama_close(m);
        _exit(!good);
    }
    llama_session_free(s);
    llama_close(m);
    close(ready[0]), close(ready[1]);
    ends_well(child, "the parent closed first");
}

/* ---- Errors ---- */

/* A pass in which reads fail: EIO with a reason and the session as it was, or the right answer. The next one works. */
static int pass_with_errors(llama_session *s, const char *what, const char *reason) {
    size_t n = llama_length(s, 0);
    int status = step(s);
    if (status) {
        const char *text = llama_session_error(s);
        check(status == LLAMA_EIO && strstr(text, reason) && strstr(text, "cannot be read") && strchr(text, '/'), "%s: %d, %s", what, status, text);
        check(llama_length(s, 0) == n && is_right(s, 0), "%s: the session is not as it was", what);
    } else check(is_right(s, 0), "%s: other logits", what);
    return status;
}

static void test_failing_reads(void) {
    llama *m = open_streamed(1);
    llama_session *s = session_of(m, 1);
    long before = disk.reads;
    check(steps(s, 3), "without an error");
    long each = (disk.reads - before) / 3;
    for (int error = 0; error < 2; error++)
        for (int onwards = 0; onwards < 2; onwards++) {
            int failed = 0, tried = 0;
            for (long at = 1; at <= each + 20; at += test_quick ? 3 : 1, tried++) {
                char what[64];
                if (llama_length(s, 0) == TOKENS) steps(s, 1);
                snprintf(what, sizeof what, "read %ld%s, errno %d", at, onwards ? " and on" : "", error ? EIO : 0);
                fail_reads(at, onwards ? LONG_MAX - 1 : at, error ? EIO : 0);
                failed += pass_with_errors(s, what, error ? strerror(EIO) : "it was truncated") != LLAMA_OK;
                if (onwards) pause_for(1000000); /* the readers go on, and find more errors */
                repair_disk();
                check(steps(s, 1), "after %s: %s", what, llama_session_error(s));
            }
            check(onwards ? failed >= tried / 2 : failed == 0, "%d of %d passes failed", failed, tried);
        }
    llama_session_free(s);
    llama_close(m);
    /* From the first read after opening on */
    for (int given = 0; given < 5; given += 2) {
        disk.threads = given;
        m = open_streamed(1000000);
        disk.threads = -1;
        s = session_of(m, 1);
        fail_reads(1, LONG_MAX - 1, EIO);
        check(step(s) == LLAMA_EIO && step(s) == LLAMA_EIO && llama_length(s, 0) == 0 && !llama_logits(s, 0), "%d readers: %s", given, llama_session_error(s));
        repair_disk();
        check(steps(s, 3), "%d readers, afterwards: %s", given, llama_session_error(s));
        fail_reads(1, LONG_MAX - 1, EIO); /* while nothing is evaluated */
        pause_for(2000000);
        repair_disk();
        check(steps(s, 3), "%d readers, an error between two calls: %s", given, llama_session_error(s));
        llama_session_free(s);
        llama_close(m);
    }
}

/* A draft model that cannot be read is given up, and changes nothing. */
static void test_failing_draft(void) { with_draft(true); }

/* Reads that move few bytes, are interrupted, or are refused when unbuffered; each with and without readers */
static void test_odd_reads(void) {
    static const char *const names[] = {"few bytes", "interrupted", "both", "unbuffered reads refused", "no unbuffered file", "as they are"};
    for (int way = 0; way < 6; way++)
        for (int given = 0; given <= 4; given += 2) {
            disk.cut = way == 0 || way == 2;
            disk.interrupted = way == 1 || way == 2;
            disk.refuses = way == 3;
            disk.no_unbuffered = way == 4;
            disk.threads = given;
            llama *m = open_streamed(given == 2 ? 600000 : 1);
            disk.threads = -1;
            disk.unbuffered = 0;
            llama_session *s = session_of(m, 1);
            check(steps(s, 4), "%s, %d readers: %s", names[way], given, llama_session_error(s));
            check((way != 3 && way != 4) || disk.unbuffered == 0, "%s: %ld unbuffered reads", names[way], (long)disk.unbuffered);
            if (way == 5 && disk.unbuffered == 0) printf("SKIP: unbuffered reads (%s has none)\n", work);
            llama_session_free(s);
            llama_close(m);
            repair_disk();
        }
}

#ifdef POSIX_FADV_DONTNEED
/* Returns how many pages of a mapping are in the page cache, after those that nobody has mapped are dropped, if `drop`. */
static size_t cached_pages(int fd, void *map, size_t n, bool drop) {
    size_t pages = (n + 4095) / 4096, cached = 0;
    unsigned char *resident = calloc(pages, 1);
    if (drop) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    check(resident && mincore(map, n, resident) == 0, "mincore: %s", strerror(errno));
    for (size_t i = 0; resident && i < pages; i++) cached += resident[i] & 1;
    free(resident);
    return cached;
}

/* What is read through the page cache does not stay there: neither the blocks, nor what the system would read ahead of them, which may be kept already. */
static void test_page_cache(void) {
    enum { FEW = 8 };
    char path[PATH];
    model_spec deep = usual;
    deep.layers = 12;
    snprintf(path, sizeof path, "%s", model_write_as(&deep, GGUF_FILE, work));
    int fd = open(path, O_RDWR);
    size_t n = fd < 0 ? 0 : (size_t)lseek(fd, 0, SEEK_END);
    void *map = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    if (!check(fd >= 0 && map != MAP_FAILED && fsync(fd) == 0, "%s", path)) return;
    cached_pages(fd, map, n, true);
    disk.no_unbuffered = true;
    llama *m = open_as(path, tokenizer, LLAMA_MEMORY_STREAM, RING + n * 2 / 3);
    llama_session *s = session_of(m, 1);
    check(llama_eval(s, 0, tokens, 1) == LLAMA_OK, "%s", llama_session_error(s));
    pause_for(100000000); /* the readers have read ahead */
    size_t before = cached_pages(fd, map, n, true);
    for (int i = 0; i < 8; i++) {
        llama_rewind(s, 0, 0);
        check(llama_eval(s, 0, tokens, 1) == LLAMA_OK, "%s", llama_session_error(s));
    }
    check(info_of(m).kept_bytes > n / 4 && info_of(m).stream_bytes > n / 4, "kept, streamed: %llu, %llu bytes of %zu", (unsigned long long)info_of(m).kept_bytes,
          (unsigned long long)info_of(m).stream_bytes, n);
    pause_for(100000000);
    size_t after = cached_pages(fd, map, n, false);
    check(after <= before + FEW, "%zu pages are in the page cache, %zu before the passes", after, before);
    llama_session_free(s);
    llama_close(m);
    repair_disk();
    munmap(map, n);
    close(fd);
}
#else
static void test_page_cache(void) { printf("SKIP: the page cache (the system does not say what it holds)\n"); }
#endif

/* A file system in memory, which may refuse unbuffered files */
static void test_in_memory(void) {
    char folder[64];
    snprintf(folder, sizeof folder, "/dev/shm/llamac-stream-%d", (int)getpid());
    if (mkdir(folder, 0700) != 0) {
        printf("SKIP: a file system in memory (no /dev/shm)\n");
        return;
    }
    char path[PATH];
    snprintf(path, sizeof path, "%s", model_write_as(&usual, GGUF_FILE, folder));
    llama *m = open_as(path, tokenizer, LLAMA_MEMORY_STREAM, 1);
    llama_session *s = session_of(m, 2);
    check(steps(s, 6), "in /dev/shm: %s", llama_session_error(s));
    unlink(path);
    check(steps(s, 2), "a file without a name: %s", llama_session_error(s));
    llama_session_free(s);
    llama_close(m);
    rmdir(folder);
}

/* The last file of llama2.c ends with the output, which no mapping is read for: the file is cut there, and comes back. */
typedef struct {
    const char *path;
    off_t size;
    bool cut;
} cutting;
static int cut_file(void *user, const char *what, uint64_t done, uint64_t total) {
    cutting *c = user;
    (void)what, (void)total;
    if (!c->cut && done > 0) c->cut = truncate(c->path, c->size) == 0;
    return 0;
}
static void test_truncated(void) {
    char path[PATH];
    snprintf(path, sizeof path, "%s", model_write_as(&usual, BIN_0, in_work("truncated")));
    size_t n = 0;
    char *bytes = read_file(path, &n);
    for (int during = 0; during < 2; during++) {
        cutting c = {path, (off_t)n - 150000, !during};
        llama *m = open_as(path, tokenizer, LLAMA_MEMORY_STREAM, 1);
        llama_session_options o = small_session(1);
        o.progress = cut_file, o.user = &c;
        llama_session *s = NULL, *other = session_of(m, 1);
        check(!llama_session_new(&s, m, &o, NULL) && steps(other, 2), "before");
        if (!during) check(steps(s, 1) && truncate(path, c.size) == 0, "cut: %s", path);
        for (int k = 0; k < 2; k++) {
            int status = step(s);
            check(status == LLAMA_EIO && strstr(llama_session_error(s), "it was truncated") && strstr(llama_session_error(s), path), "truncated %s a pass: %d, %s",
                  during ? "during" : "before", status, llama_session_error(s));
            check(llama_length(s, 0) == (size_t)!during, "the length is %zu", llama_length(s, 0));
        }
        check(step(other) == LLAMA_EIO && llama_length(other, 0) == 2 && is_right(other, 0), "the other session");
        int fd = open(path, O_WRONLY);
        check(pwrite(fd, bytes + c.size, n - (size_t)c.size, c.size) == (ssize_t)n - c.size && close(fd) == 0, "the file comes back");
        check(steps(s, 2) && steps(other, 2), "the file is back: %s", llama_session_error(s));
        llama_session_free(s), llama_session_free(other);
        llama_close(m);
    }
    free(bytes);
}

/* A file that loses its norms too: what is mapped raises SIGBUS. */
static llama *lost;
static volatile sig_atomic_t raised;
static void on_bus(int number, siginfo_t *info, void *context) {
    (void)context;
    raised++;
    if (!llama_handle_sigbus(lost, info->si_addr)) signal(number, SIG_DFL);
}
static void test_lost(void) {
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO}, old;
    char path[PATH];
    snprintf(path, sizeof path, "%s", model_write_as(&usual, GGUF_FILE, in_work("lost")));
    sigaction(SIGBUS, &action, &old);
    lost = open_as(path, tokenizer, LLAMA_MEMORY_STREAM, 600000);
    llama_session *s = session_of(lost, 2);
    check(steps(s, 2) && truncate(path, 4096) == 0, "before");
    for (int i = 0; i < 3; i++) check(step(s) == LLAMA_EIO && llama_length(s, 0) == 2, "a lost file: %s", llama_session_error(s));
    check(raised > 0, "no SIGBUS");
    llama_session_free(s);
    llama_close(lost);
    sigaction(SIGBUS, &old, NULL);
}

static void test_no_threads(void) {
    for (int given = 0; given <= 5; given++)
        for (int some = 0; some < 2; some++) {
            disk.threads = given;
            llama *m = open_streamed(some ? 600000 : 1);
            disk.threads = -1;
            llama_session *a = session_of(m, 1), *b = session_of(m, 2);
            check(steps(a, 3) && steps(b, 2) && steps(a, 2), "%d threads: %s", given, llama_session_error(a));
            llama_info info = info_of(m);
            uint64_t at = info.read_bytes;
            check(steps(a, 4) && info_of(m).read_bytes - at + RING >= 4 * info.stream_bytes && info_of(m).read_bytes - at <= 4 * info.stream_bytes + RING,
                  "%d threads: %llu bytes, not %llu", given, (unsigned long long)(info_of(m).read_bytes - at), (unsigned long long)(4 * info.stream_bytes));
            llama_session_free(a), llama_session_free(b);
            llama_close(m);
        }
}

/* Each allocation failed once: ENOMEM, and nothing is kept. */
typedef struct {
    long calls, fails_at, held;
} miser;
static void *miser_alloc(void *user, size_t bytes, size_t align) {
    miser *m = user;
    if (m->calls++ == m->fails_at) return NULL;
    m->held++;
    return dirty_alloc(NULL, bytes, align);
}
static void miser_free(void *user, void *p, size_t bytes) {
    (void)bytes;
    ((miser *)user)->held--;
    free(p);
}
static void test_no_memory(void) {
    long n = 0;
    int status = LLAMA_ENOMEM;
    for (; status == LLAMA_ENOMEM && n < 1000; n++) {
        miser purse = {0, n, 0};
        llama_allocator a = {&purse, miser_alloc, miser_free};
        llama_options o = {.size = sizeof o, .tokenizer = tokenizer, .memory = LLAMA_MEMORY_STREAM, .memory_limit = 600000, .allocator = &a};
        llama *m = NULL;
        llama_error err;
        status = llama_open(&m, usual_path, &o, &err);
        check(status == LLAMA_OK || (status == LLAMA_ENOMEM && strstr(err.text, "memory") && !m), "allocation %ld: %d, %s", n, status, err.text);
        llama_close(m);
        check(purse.held == 0, "allocation %ld: %ld blocks are kept", n, purse.held);
    }
    check(n > 4, "%ld allocations", n - 1);
    llama *m = open_streamed(2000000);
    uint64_t kept = info_of(m).kept_bytes;
    miser purse = {0, 0, 0};
    llama_allocator a = {&purse, miser_alloc, miser_free};
    llama_session_options o = small_session(1);
    llama_session *s = NULL;
    o.allocator = &a;
    check(llama_session_new(&s, m, &o, NULL) == LLAMA_ENOMEM && !s && info_of(m).kept_bytes == kept, "a session that has no memory takes some");
    llama_close(m);
}

/* ---- Cancelling ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int cancels(void *user, const char *what, uint64_t done, uint64_t total) {
    nesting *n = user;
    (void)what, (void)done, (void)total;
    return ++n->reports == n->cancel_at;
}
static void test_cancel(void) {
    nesting n = {.m = open_streamed(1)};
    llama_session_options o = small_session(1);
    o.progress = cancels, o.user = &n;
    llama_session *s = NULL;
    check(!llama_session_new(&s, n.m, &o, NULL) && steps(s, 3), "a session");
    for (int at = 1; at <= 3; at++) {
        n.reports = 0, n.cancel_at = at;
        check(step(s) == LLAMA_ECANCEL && llama_length(s, 0) == 3 && is_right(s, 0), "cancelled at report %d: %s", at, llama_session_error(s));
        n.cancel_at = 0;
        check(steps(s, 1), "after report %d: %s", at, llama_session_error(s));
        llama_rewind(s, 0, 0);
        check(steps(s, 3), "from the beginning");
    }
    /* A slow disk: reports come within the pass, several in a layer, and the call ends soon. */
    disk.delay = 40000000;
    pause_for(1000000);
    n.reports = 0, n.cancel_at = 6; /* without reports while it waits: 3 */
    double start = seconds();
    int status = step(s);
    double took = seconds() - start;
    check(status == LLAMA_ECANCEL && n.reports == 6 && llama_length(s, 0) == 3 && is_right(s, 0), "a slow disk: %d, %d reports", status, n.reports);
    printf("6 reports came in %.2f s\n", took);
    disk.delay = 0;
    n.cancel_at = 0;
    check(steps(s, 2), "a fast disk again");
    llama_session_free(s);
    llama_close(n.m);
}

static const test_case cases[] = {CASE(bits), CASE(draft), CASE(law), CASE(sessions_take), CASE(automatic), CASE(group), CASE(in_turn), CASE(at_once), CASE(nested),
                                  CASE(short_lives), CASE(fork), CASE(failing_reads), CASE(failing_draft), CASE(odd_reads), CASE(page_cache), CASE(in_memory), CASE(truncated),
                                  CASE(lost), CASE(no_threads), CASE(no_memory), CASE(cancel)};

int main(int argc, char **argv) {
    if ((argc = tests_begin(argc, argv)) < 3) return 2;
    tiny_folder = argv[1];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.model", tiny_folder);
    snprintf(work, sizeof work, "%.1000s", argv[2]);
    make_folder(work);
    for (int i = 0; i < TOKENS; i++) tokens[i] = i == 0 ? 1 : 3 + i * 37 % 900;
    snprintf(usual_path, sizeof usual_path, "%s", in_work("usual"));
    model_write(&usual, usual_path);
    learn_answers();
    alarm(840); /* for a pass that waits forever */
    RUN(cases);
    free(want);
    return tests_done("stream");
}
