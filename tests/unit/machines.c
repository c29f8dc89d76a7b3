/* machines.c - several processes divide the rows of every matrix: the bits of one process, whatever they compute, and a
 * process that fails or differs is an error for all.
 *
 *   machines WORKDIR [--quick]
 */
#include "../tools/checkpoint.h"
#include "../examples/ring.h"
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>

static char work[1024];
static const model_spec grouped = {.dim = 64, .layers = 3, .heads = 16, .kv_heads = 8, .hidden = 88, .vocab = 264, .shards = 1};
static const int32_t some[] = {1, 5, 9, 2, 7, 7, 3, 11, 4, 8, 6, 10, 5, 9, 2, 7, 7, 3, 11, 250, 5, 9, 2};
enum { SOME = sizeof some / sizeof *some, VOCAB = 264, CONTEXT = 64 };

static const char *in_work(const char *name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", work, name);
    return path;
}

/* ---- Groups of processes ---- */

/* What a process of a group does. Its checks are counted in the first process. */
typedef struct {
    ring r;
    int rank, ranks;
    const char *path;
    size_t gathers, fail_at; /* calls of gather so far; the number of the call that fails, from 1 on; 0: none does */
} member;
typedef void member_function(member *, void *user);

static int gather(void *user, float *x, const size_t *offsets, int rank, int ranks) {
    member *m = user;
    return ++m->gathers == m->fail_at ? -7 : ring_gather(&m->r, x, offsets, rank, ranks);
}

/* Runs fn in `ranks` processes, of which this is the first, and checks that each ends without a failed check. */
static void in_group(int ranks, const char *path, member_function *fn, void *user) {
    pid_t children[64];
    member m = {.ranks = ranks, .path = path};
    fflush(NULL);
    m.rank = ring_start(&m.r, ranks, children);
    if (!check(m.rank >= 0, "%d processes", ranks)) return;
    int failed = tests_failed;
    fn(&m, user);
    close(m.r.next), close(m.r.previous);
    if (m.rank) _exit(tests_failed > failed);
    for (int i = 1; i < ranks; i++) {
        int status = -1;
        waitpid(children[i], &status, 0);
        check(status == 0, "rank %d of %d: status %x", i, ranks, (unsigned)status);
    }
}

static llama *open_model(const member *m, llama_options o) {
    llama *model = NULL;
    llama_error err = {.text = ""};
    o.size = sizeof o;
    check(llama_open(&model, m->path, &o, &err) == LLAMA_OK, "%s: %s", m->path, err.text);
    return model;
}

static llama_session_options shared(member *m, llama_session_options o) {
    o.size = sizeof o;
    o.rank = m->rank, o.ranks = m->ranks, o.gather = gather, o.gather_user = m;
    if (!o.context) o.context = CONTEXT;
    if (!o.allocator) o.allocator = &dirty;
    return o;
}

static llama_session *open_session(member *m, const llama *model, llama_session_options o) {
    llama_session *s = NULL;
    llama_error err = {.text = ""};
    o = shared(m, o);
    check(llama_session_new(&s, model, &o, &err) == LLAMA_OK, "rank %d of %d: %s", m->rank, m->ranks, err.text);
    return s;
}

/* ---- Everything that a session computes ---- */

static void add_trace(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    sha256_add(user, name, strlen(name));
    sha256_add(user, x, rows * cols * sizeof *x);
}

static int add_text(void *user, llama_request *r, const char *text, size_t n) {
    (void)text, (void)n;
    if (r->finish_reason) return 0;
    uint64_t *hash = (uint64_t *)user + r->prompt[1]; /* of each text */
    *hash = (*hash ^ (uint64_t)r->token) * 0x100000001b3;
    return 0;
}

static int add_state(void *user, const void *p, size_t n) {
    sha256_add(user, p, n);
    return 0;
}

/* The SHA-256 of what these calls give. */
static void everything(llama_session *s, char hex[65]) {
    sha256 sum;
    float logprob[SOME];
    int32_t rank[SOME], out[8];
    uint64_t hashes[VOCAB] = {0};
    llama_sampler drawn = {.size = sizeof drawn, .temperature = 1.3f, .top_p = 0.9f, .seed = 5}, greedy = {.size = sizeof greedy};
    sha256_begin(&sum);
#define ADD_LOGITS(seq) sha256_add(&sum, llama_logits(s, seq), VOCAB * sizeof(float))
#define CALL(call) check((call) >= 0, #call ": %s", llama_session_error(s))
    CALL(llama_eval(s, 0, some, SOME)); /* a prompt, then tokens one by one */
    for (int i = 0; i < 5; i++) {
        ADD_LOGITS(0);
        int32_t token = llama_sample(s, 0, i % 2 ? &drawn : &greedy);
        CALL(llama_eval(s, 0, &token, 1));
    }
    CALL(llama_fork(s, 1, 0));
    CALL(llama_rewind(s, 0, 9));
    CALL(llama_eval_batch(s, (llama_span[]){{0, some, 3}, {1, some + 4, 1}, {2, some, 7}}, 3));
    for (int i = 0; i < 3; i++) ADD_LOGITS(i);
    CALL(llama_score_batch(s, (llama_span[]){{2, some, SOME}}, 1, logprob, rank));
    sha256_add(&sum, logprob, sizeof logprob);
    sha256_add(&sum, rank, sizeof rank);
    ptrdiff_t n = llama_verify(s, 2, &drawn, some, 4, out);
    CALL(n);
    sha256_add(&sum, out, (size_t)n * sizeof *out);
    llama_request texts[4];
    for (int i = 0; i < 4; i++)
        texts[i] = (llama_request){.prompt = some + i, .n_prompt = 12, .sampler = i % 2 ? drawn : greedy, .max_tokens = 24};
    CALL(llama_generate(s, texts, 4, add_text, hashes));
    sha256_add(&sum, hashes, sizeof hashes);
    CALL(llama_rewind(s, 0, 0));
    CALL(llama_eval(s, 0, some, SOME));
    CALL(llama_save(s, 0, add_state, &sum));
    CALL(llama_trace(s, add_trace, &sum));
    CALL(llama_eval(s, 0, some, 1));
    CALL(llama_trace(s, NULL, NULL));
    sha256_end(&sum, hex);
}

typedef struct {
    const char *want;
    llama_options open;
    llama_session_options session;
} comparison;

static void compute_all(member *m, void *user) {
    const comparison *c = user;
    char hex[65];
    llama_options open = c->open;
    open.rank = m->rank, open.ranks = m->ranks;
    llama *model = open_model(m, open);
    llama_session *s = open_session(m, model, c->session);
    everything(s, hex);
    if (!c->want[0]) memcpy((char *)(uintptr_t)c->want, hex, 65);
    check(strcmp(hex, c->want) == 0, "%s, rank %d of %d, draft %d, all_logits %d, no_lookup %d: other bits", m->path, m->rank, m->ranks, c->session.draft != NULL, c->session.all_logits, c->session.no_lookup);
    llama_session_free(s);
    llama_close(model);
}

/* Any number of processes gives the bits of one: formats, shards, batches, threads, kept logits, kernels. */
static void test_same_bits(void) {
    static const int groups[] = {1, 2, 3, 4, 8};
    char folder[2048], want[65] = "";
    for (int form = -4; form < FORMS; form += test_quick ? 3 : 1) {
        model_spec spec = grouped;
        const char *path = folder;
        snprintf(folder, sizeof folder, "%s", in_work("model"));
        if (form < 0) { /* Meta's: 1, 2, 4 and 8 shards */
            spec.shards = 1 << (form + 4);
            snprintf(folder, sizeof folder, "%s%d", in_work("meta"), spec.shards);
            model_write(&spec, folder);
        } else {
            snprintf(folder, sizeof folder, "%s%d", in_work("form"), form);
            path = model_write_as(&spec, (model_form)form, folder);
        }
        char kept[4096];
        snprintf(kept, sizeof kept, "%s", path);
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            comparison c = {want, {0}, {.sequences = 3, .threads = 1 + (int)g % 2, .batch = g == 3 ? 5 : 0}};
            if (g == 4) c.session.kernels = "scalar";
            in_group(groups[g], kept, compute_all, &c);
        }
    }
}

/* With a draft model, kept logits, no lookup; with own rows that are locked. */
static void test_options(void) {
    char want[65] = "";
    const char *path = in_work("options");
    char kept[2048];
    snprintf(kept, sizeof kept, "%s", path);
    model_write(&grouped, kept);
    llama *draft = NULL;
    llama_options o = {.size = sizeof o};
    check(llama_open(&draft, kept, &o, NULL) == LLAMA_OK, "a draft model");
    for (int i = 0; i < 5; i++) {
        comparison c = {want, {0}, {.sequences = 3, .threads = 2}};
        if (i == 1) c.session.draft = draft;
        if (i == 2) c.session.all_logits = 1;
        if (i == 3) c.session.no_lookup = 1;
        if (i == 4) c.open.memory = LLAMA_MEMORY_LOCK;
        for (int ranks = 1; ranks < 4; ranks++) in_group(ranks, kept, compute_all, &c);
    }
    llama_close(draft);
}

/* ---- The memory and the reads of one of them ---- */

static void compute_streamed(member *m, void *user) {
    char hex[65];
    llama_info info = {.size = sizeof info};
    llama *model = open_model(m, (llama_options){.memory = LLAMA_MEMORY_STREAM, .memory_limit = 1, .rank = m->rank, .ranks = m->ranks});
    llama_session *s = open_session(m, model, (llama_session_options){.sequences = 3});
    everything(s, hex);
    check(strcmp(hex, user) == 0, "streamed, rank %d of %d: other bits", m->rank, m->ranks);
    llama_describe(model, &info);
    uint64_t all = info.token_bytes, share = all / (uint64_t)m->ranks;
    check(info.stream_bytes > share / 2 && info.stream_bytes <= share * 5 / 4 + (1 << 20), "rank %d of %d reads %llu of %llu bytes", m->rank, m->ranks, (unsigned long long)info.stream_bytes, (unsigned long long)all);
    check(info.rank_bytes > share / 2 && info.rank_bytes < share * 3 / 2, "its rows are %llu bytes", (unsigned long long)info.rank_bytes);
    llama_session_free(s);
    check(m->ranks == 1 || llama_session_new(&s, model, &(llama_session_options){.size = sizeof(llama_session_options), .gather = gather, .rank = 0, .ranks = m->ranks + 1}, NULL) == LLAMA_EINVAL, "a session of another rank");
    llama_close(model);
}

static void test_streamed(void) {
    for (int newer = 0; newer < 2; newer++) { /* then heads of another width, embeddings by rows, scaled RoPE */
        char want[65] = "", kept[2048];
        model_spec spec = grouped;
        spec.shards = 2;
        if (newer) spec.head_dim = model_head(&grouped) + 6, spec.by_rows = true, spec.scaling = 2;
        snprintf(kept, sizeof kept, "%s", in_work(newer ? "streamed-newer" : "streamed"));
        model_write(&spec, kept);
        in_group(1, kept, compute_all, &(comparison){want, {0}, {.sequences = 3}});
        for (int ranks = 1; ranks <= 4; ranks++) in_group(ranks, kept, compute_streamed, want);
    }
}

/* The KV cache is divided; the rows are, too: no rank has more than its share of heads. */
static void test_memory(void) {
    char kept[2048];
    model_spec spec = grouped;
    snprintf(kept, sizeof kept, "%s", in_work("memory"));
    model_write(&spec, kept);
    member m = {.path = kept};
    llama *model = open_model(&m, (llama_options){0});
    llama_info info = {.size = sizeof info};
    llama_describe(model, &info);
    for (int ranks = 1; ranks <= 8; ranks++) {
        uint64_t cache = 0;
        for (int rank = 0; rank < ranks; rank++) {
            llama_session_options o = {.size = sizeof o, .context = 1 << 10, .rank = rank, .ranks = ranks, .threads = 1}, more = o;
            more.context *= 2;
            more.no_lookup = o.no_lookup = 1;
            uint64_t added = llama_session_bytes(model, &more) - llama_session_bytes(model, &o); /* and tokens, and scores */
            cache += added;
        }
        uint64_t all = info.kv_bytes_per_token << 10;
        check(cache >= all && cache < all + (uint64_t)ranks * (1 << 18), "%d ranks: %llu bytes of KV cache, %llu in all", ranks, (unsigned long long)cache, (unsigned long long)all);
    }
    check(llama_session_bytes(model, &(llama_session_options){.size = sizeof(llama_session_options), .ranks = 9}) == 0, "9 ranks of 8 heads");
    llama_close(model);
}

/* Bytes of the model's file that this process has in memory; 0: the system does not say. */
static uint64_t mapped_bytes(void) {
    FILE *f = fopen("/proc/self/smaps", "r");
    uint64_t sum = 0, kb = 0;
    bool ours = false;
    for (char line[4096]; f && fgets(line, sizeof line, f);) {
        if (strstr(line, "consolidated.00.pth")) ours = true;
        if (ours && sscanf(line, "Rss: %" SCNu64, &kb) == 1) sum += kb << 10;
        if (strncmp(line, "VmFlags:", 8) == 0) ours = false;
    }
    if (f) fclose(f);
    return sum;
}

static void touch(member *m, void *user) {
    llama_info info = {.size = sizeof info};
    llama *model = open_model(m, (llama_options){.memory = LLAMA_MEMORY_MAP, .rank = m->rank, .ranks = m->ranks});
    llama_session *s = open_session(m, model, (llama_session_options){.threads = 1});
    (void)user;
    check(llama_eval(s, 0, some, SOME) == LLAMA_OK && llama_eval(s, 0, some, 1) == LLAMA_OK, "two passes");
    llama_describe(model, &info);
    /* Pages that two ranks have rows of, small vectors and rows of embeddings are read besides. */
    check(mapped_bytes() < info.rank_bytes + (5 << 18), "rank %d of %d has %.1f MB of the file in memory, its rows are %.1f MB", m->rank, m->ranks,
          (double)mapped_bytes() / 1e6, (double)info.rank_bytes / 1e6);
    llama_session_free(s);
    llama_close(model);
}

/* A rank has no rows of others in its memory. The file comes from the disk, as large pages do where the system has them. */
static void test_touched(void) {
    char kept[2048];
    model_spec spec = {.dim = 512, .layers = 2, .heads = 8, .kv_heads = 8, .hidden = 1376, .vocab = VOCAB, .shards = 1};
    snprintf(kept, sizeof kept, "%s", in_work("touched"));
    model_write(&spec, kept);
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        char path[4096];
        snprintf(path, sizeof path, "%s/consolidated.00.pth", kept);
        int fd = open(path, O_RDONLY);
        check(fd >= 0 && fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "%s leaves memory", path);
        close(fd);
        in_group(ranks, kept, touch, NULL);
    }
}

/* ---- What is refused ---- */

static void refuse(member *m, void *user) {
    (void)user;
    llama *model = open_model(m, (llama_options){0});
    llama_session *s = NULL;
    llama_error err;
    static const struct {
        int rank, ranks;
        bool no_gather;
        const char *why;
    } bad[] = {{2, 2, false, "rank"}, {-1, 2, false, "rank"}, {1, 0, false, "rank"}, {0, -1, false, "rank"}, {0, 9, false, "KV heads"}, {1, 2, true, "gather"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        llama_session_options o = {.size = sizeof o, .rank = bad[i].rank, .ranks = bad[i].ranks, .gather = bad[i].no_gather ? NULL : gather, .gather_user = m};
        check(llama_session_new(&s, model, &o, &err) == LLAMA_EINVAL && !s && strstr(err.text, bad[i].why), "rank %d of %d: %s", bad[i].rank, bad[i].ranks, err.text);
    }
    check(m->gathers == 0, "nothing is exchanged before");
    /* rank 1 differs */
    for (int i = 0; i < 7; i++) {
        char other[2048];
        snprintf(other, sizeof other, "%s", in_work("other"));
        member own = *m;
        if (i == 6 && m->rank == 1) own.path = other;
        llama *mine = open_model(&own, (llama_options){0});
        llama_session_options o = shared(&own, (llama_session_options){.sequences = 2, .batch = 8});
        if (m->rank == 1) {
            if (i == 0) o.context--;
            if (i == 1) o.sequences++;
            if (i == 2) o.batch++;
            if (i == 3) o.all_logits = 1;
            if (i == 4) o.no_lookup = 1;
            if (i == 5) o.draft = model;
        }
        check(llama_session_new(&s, mine, &o, &err) == LLAMA_EINVAL && !s && strstr(err.text, "rank 1"), "difference %d, rank %d: %s", i, m->rank, err.text);
        llama_close(mine);
    }
    llama_close(model);
    check(llama_open(&model, m->path, &(llama_options){.size = sizeof(llama_options), .rank = 1, .ranks = 1}, &err) == LLAMA_EINVAL, "rank 1 of 1");
    check(llama_open(&model, m->path, &(llama_options){.size = sizeof(llama_options), .ranks = 9}, &err) == LLAMA_EINVAL && strstr(err.text, "KV heads"), "9 ranks: %s", err.text);
}

/* What differs in more than the options: the tokens that end a text. What may differ: memory. What cannot work. */
static void differ(member *m, void *user) {
    const char *const *folders = user; /* of each rank */
    llama_session *s = NULL;
    llama_error err;
    member own = *m;
    own.path = folders[m->rank];
    llama *model = open_model(&own, (llama_options){0});
    llama_session_options o = shared(&own, (llama_session_options){0});
    check(llama_session_new(&s, model, &o, &err) == LLAMA_EINVAL && !s && strstr(err.text, "rank 1"), "other ends, rank %d: %s", m->rank, err.text);
    llama_close(model);
    own.path = folders[0]; /* one streams, the other has enough memory */
    model = open_model(&own, (llama_options){.memory_limit = m->rank ? 1 : (uint64_t)1 << 40, .rank = m->rank, .ranks = m->ranks});
    s = open_session(&own, model, (llama_session_options){0});
    check(llama_eval(s, 0, some, SOME) == LLAMA_OK, "one streams: %s", llama_session_error(s));
    llama_session_free(s);
    llama *draft = open_model(&own, (llama_options){.memory = LLAMA_MEMORY_STREAM, .memory_limit = 1, .rank = m->rank, .ranks = m->ranks});
    o = shared(&own, (llama_session_options){.draft = draft});
    check(llama_session_new(&s, model, &o, &err) == LLAMA_EINVAL && strstr(err.text, "without ranks"), "a streamed draft model of a rank: %s", err.text);
    llama_close(draft);
    llama_close(model);
}

/* A gather function that calls the session. */
typedef struct {
    member *m;
    llama_session *s;
    size_t refused, accepted;
} caller;
static int call_session(void *user, float *x, const size_t *offsets, int rank, int ranks) {
    caller *c = user;
    if (c->s) *(llama_rewind(c->s, 0, 0) == LLAMA_EINVAL ? &c->refused : &c->accepted) += 1;
    return gather(c->m, x, offsets, rank, ranks);
}

static int no_text(void *user, llama_request *r, const char *text, size_t n) { return (void)user, (void)r, (void)text, (void)n, 0; }

static void call_back(member *m, void *user) {
    (void)user;
    caller c = {.m = m};
    llama *model = open_model(m, (llama_options){0});
    llama_session_options o = shared(m, (llama_session_options){.threads = 1});
    o.gather = call_session, o.gather_user = &c;
    llama_request r = {.prompt = some, .n_prompt = 6, .sampler = {.size = sizeof r.sampler}, .max_tokens = 20};
    check(llama_session_new(&c.s, model, &o, NULL) == LLAMA_OK, "a session");
    check(llama_generate(c.s, &r, 1, no_text, NULL) == LLAMA_OK, "%s", llama_session_error(c.s));
    check(r.generated == 20 && c.accepted == 0 && c.refused > 20, "calls in gather: %zu refused, %zu not", c.refused, c.accepted);
    llama_session_free(c.s);
    llama_close(model);
}

static void test_differ(void) {
    char first[2048], second[2048];
    const char *folders[] = {first, second};
    snprintf(first, sizeof first, "%s", in_work("ends1")), snprintf(second, sizeof second, "%s", in_work("ends2"));
    for (int i = 0; i < 2; i++) {
        buffer ends = {0};
        model_write_as(&grouped, SAFETENSORS, folders[i]);
        put_text(&ends, i ? "{\"eos_token_id\": [2, 77]}" : "{\"eos_token_id\": 2}");
        put_file(&ends, folders[i], "generation_config.json");
        free(ends.at);
    }
    in_group(2, first, differ, folders);
    in_group(2, first, call_back, NULL);
}

static void test_refused(void) {
    char kept[2048];
    model_spec other = grouped;
    other.layers++;
    model_write(&other, in_work("other"));
    snprintf(kept, sizeof kept, "%s", in_work("refused"));
    model_write(&grouped, kept);
    in_group(2, kept, refuse, NULL);
    in_group(3, kept, refuse, NULL);
}

/* ---- Failures ---- */

/* Any gather that fails ends the call with EIO, and the session is as it was. */
static void fail_each(member *m, void *user) {
    (void)user;
    llama *model = open_model(m, (llama_options){0});
    llama_session *s = open_session(m, model, (llama_session_options){.sequences = 2, .threads = 2});
    static float before[VOCAB], after[VOCAB], got[VOCAB];
    char state[2][65];
    sha256 sum;
    check(llama_eval(s, 0, some, 6) == LLAMA_OK, "%s", llama_session_error(s));
    memcpy(before, llama_logits(s, 0), sizeof before);
    size_t at = m->gathers;
    check(llama_eval(s, 0, some + 6, 3) == LLAMA_OK, "%s", llama_session_error(s));
    size_t calls = m->gathers - at;
    check(calls == 4 * (size_t)grouped.layers + 1, "%zu gathers for a pass", calls);
    memcpy(after, llama_logits(s, 0), sizeof after);
    for (size_t i = 1; i <= calls; i++) {
        check(llama_rewind(s, 0, 5) == LLAMA_OK && llama_eval(s, 0, some + 5, 1) == LLAMA_OK, "back: %s", llama_session_error(s));
        m->fail_at = m->gathers + i;
        check(llama_eval(s, 0, some + 6, 3) == LLAMA_EIO && strstr(llama_session_error(s), "gather") && strstr(llama_session_error(s), "-7"), "gather %zu: %s", i, llama_session_error(s));
        check(m->gathers == m->fail_at, "no other gather after the one that failed");
        check(llama_length(s, 0) == 6 && memcmp(llama_logits(s, 0), before, sizeof before) == 0, "gather %zu: the session is as it was", i);
        m->fail_at = 0;
        check(llama_eval(s, 0, some + 6, 3) == LLAMA_OK, "%s", llama_session_error(s));
        memcpy(got, llama_logits(s, 0), sizeof got);
        check(memcmp(got, after, sizeof got) == 0, "gather %zu: then the right bits", i);
    }
    for (int i = 0; i < 2; i++) { /* saving */
        sha256_begin(&sum);
        at = m->gathers;
        m->fail_at = i ? 0 : at + 3;
        check(llama_save(s, 0, add_state, &sum) == (i ? LLAMA_OK : LLAMA_EIO), "saving: %s", llama_session_error(s));
        if (!i) check(strstr(llama_session_error(s), "gather") != NULL, "saving: %s", llama_session_error(s));
        sha256_end(&sum, state[i]);
    }
    check(memcmp(llama_logits(s, 0), after, sizeof after) == 0, "and nothing is lost");
    llama_session_free(s);
    /* in llama_session_new */
    m->fail_at = m->gathers + 1;
    llama_session_options o = shared(m, (llama_session_options){0});
    llama_error err;
    check(llama_session_new(&s, model, &o, &err) == LLAMA_EIO && !s && strstr(err.text, "gather"), "a new session: %s", err.text);
    llama_close(model);
}

static void test_gather_fails(void) {
    char kept[2048];
    snprintf(kept, sizeof kept, "%s", in_work("fails"));
    model_write(&grouped, kept);
    in_group(2, kept, fail_each, NULL);
    in_group(5, kept, fail_each, NULL);
}

/* A process that dies in the middle of a text: the others get EIO. */
static int die(void *user, llama_request *r, const char *text, size_t n) {
    const member *m = user;
    (void)text, (void)n;
    if (m->rank == m->ranks - 1 && r->generated == 5) _exit(0);
    return 0;
}

static void lose_one(member *m, void *user) {
    (void)user;
    alarm(60);
    llama *model = open_model(m, (llama_options){0});
    llama_session *s = open_session(m, model, (llama_session_options){0});
    llama_request r = {.prompt = some, .n_prompt = 6, .sampler = {.size = sizeof r.sampler}, .max_tokens = 40};
    check(llama_generate(s, &r, 1, die, m) == LLAMA_EIO, "rank %d: %s", m->rank, llama_session_error(s));
    llama_session_free(s);
    llama_close(model);
    alarm(0);
}

static void test_dies(void) {
    char kept[2048];
    snprintf(kept, sizeof kept, "%s", in_work("dies"));
    model_write(&grouped, kept);
    for (int ranks = 2; ranks <= 6; ranks += 2) in_group(ranks, kept, lose_one, NULL);
}

/* ---- Saved states ---- */

static void save_state(member *m, void *user) {
    llama *model = open_model(m, (llama_options){0});
    llama_session *s = open_session(m, model, (llama_session_options){0});
    check(llama_eval(s, 0, some, SOME) == LLAMA_OK, "%s", llama_session_error(s));
    check(llama_save(s, 0, on_write, user) == LLAMA_OK, "%s", llama_session_error(s));
    llama_session_free(s);
    llama_close(model);
}

/* Into a sequence that is empty, and one that is not. */
static void load_state(member *m, void *user) {
    tape *t = user;
    llama *model = open_model(m, (llama_options){0});
    llama_session *s = open_session(m, model, (llama_session_options){.sequences = 2});
    float want[VOCAB];
    check(llama_eval(s, 0, some, SOME) == LLAMA_OK && llama_eval(s, 0, some, 3) == LLAMA_OK, "%s", llama_session_error(s));
    memcpy(want, llama_logits(s, 0), sizeof want);
    for (int seq = 0; seq < 2; seq++) {
        t->at = 0;
        check(llama_load(s, seq, on_read, t) == LLAMA_OK, "%s", llama_session_error(s));
        check(llama_length(s, seq) == SOME && llama_eval(s, seq, some, 3) == LLAMA_OK, "%s", llama_session_error(s));
        check(memcmp(llama_logits(s, seq), want, sizeof want) == 0, "rank %d of %d, sequence %d: goes on with other bits", m->rank, m->ranks, seq);
    }
    llama_session_free(s);
    llama_close(model);
}

static void test_states(void) {
    char kept[2048];
    tape first = {.b = {0}};
    snprintf(kept, sizeof kept, "%s", in_work("states"));
    model_write(&grouped, kept);
    for (int from = 1; from <= 8; from = from * 2 + (from == 1)) {
        tape t = {.stop = SIZE_MAX};
        in_group(from, kept, save_state, &t);
        if (from == 1) first = t;
        check(t.b.n == first.b.n && memcmp(t.b.at, first.b.at, t.b.n) == 0, "%d ranks save the same state", from);
        if (from > 1) free(t.b.at);
    }
    for (int to = 1; to <= 4; to++) in_group(to, kept, load_state, &first);
    free(first.b.at);
}

/* ---- Models for tests/cli/mpi.sh, which divides the command ---- */

static float half_value(uint16_t h) { /* of a normal half, or zero */
    uint32_t rest = h & 0x7fff, bits = (uint32_t)(h & 0x8000) << 16 | (rest ? (rest << 13) + ((uint32_t)(127 - 15) << 23) : 0);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A safetensors file with the weights rounded to bfloat16. */
static buffer in_bfloat16(const model_spec *m) {
    static const char old[] = "\"F16\"", new[] = "\"BF16\"";
    buffer b = {0}, from = model_safetensors(m, 0, 1), header = {0};
    uint64_t n;
    memcpy(&n, from.at, 8);
    for (uint64_t i = 8; i < 8 + n; i++) {
        bool type = i + 5 <= 8 + n && memcmp(from.at + i, old, 5) == 0;
        put(&header, type ? (const void *)new : from.at + i, type ? 6 : 1);
        if (type) i += 4;
    }
    put_int(&b, header.n, 8);
    put(&b, header.at, header.n);
    for (size_t i = 8 + n; i + 1 < from.n; i += 2) {
        float x = half_value((uint16_t)(from.at[i] | from.at[i + 1] << 8));
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        put_int(&b, bits >> 16, 2);
    }
    free(from.at), free(header.at);
    return b;
}

/* A model with 8 KV heads and a row for each token of tests/tiny, in the formats and types that there are. */
static void test_models(void) {
    static const char *const names[] = {"meta1", "meta4", "hf", "bf16", "gguf/model.gguf", "bin/model.bin"};
    static const char *const types[] = {"float16", "float16", "float16", "bfloat16", "mixed", "float32"};
    static const model_form forms[] = {SAFETENSORS, SAFETENSORS, SAFETENSORS, SAFETENSORS, GGUF_FILE, BIN_0};
    model_spec spec = grouped;
    spec.vocab = 1024;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[4096], folder[2048];
        snprintf(path, sizeof path, "%s", in_work(names[i]));
        snprintf(folder, sizeof folder, "%.*s", (int)(strchr(names[i], '/') ? strrchr(path, '/') - path : (long)strlen(path)), path);
        spec.shards = i == 1 ? 4 : 1;
        if (i < 2) model_write(&spec, folder);
        else model_write_as(&spec, forms[i], folder);
        if (i == 3) {
            buffer b = in_bfloat16(&spec);
            put_file(&b, folder, "model.safetensors");
            free(b.at);
        }
        member m = {.path = path};
        llama *model = open_model(&m, (llama_options){0});
        llama_info info = {.size = sizeof info};
        llama_describe(model, &info);
        check(info.dtype && strcmp(info.dtype, types[i]) == 0 && info.kv_heads == 8, "%s: not %s, or %d KV heads", path, types[i], info.kv_heads);
        llama_close(model);
    }
}

static const test_case cases[] = {CASE(same_bits), CASE(options), CASE(streamed), CASE(memory), CASE(touched), CASE(refused), CASE(differ), CASE(gather_fails), CASE(dies), CASE(states), CASE(models)};

int main(int argc, char **argv) {
    if ((argc = tests_begin(argc, argv)) < 2) return 2;
    snprintf(work, sizeof work, "%.1000s", argv[1]);
    make_folder("build");
    make_folder(work);
    RUN(cases);
    return tests_done("machines");
}
