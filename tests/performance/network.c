/* network.c - what several machines exchange for a token, and the formula that says how long that takes.
 *
 *   network WORKDIR [--quick]
 *
 * The formula: with N machines in a ring, K exchanges and S bytes of results a token,
 *     time of a token = time without a network + K (N - 1) latency + S (N - 1) / N / bandwidth.
 * K and S are counted in a gather function. The formula is checked with networks that this function imitates: it waits as
 * long as they would take. Times are the shortest of several, as other programs use the cores too. */
#include "../tools/checkpoint.h"
#include "../examples/ring.h"
#include <sched.h>
#include <sys/wait.h>
#include <time.h>

static const model_spec spec = {.dim = 256, .layers = 8, .heads = 8, .kv_heads = 8, .hidden = 704, .vocab = 1024, .shards = 1};
enum { TOKENS = 24, CONTEXT = 256 };

typedef struct {
    double latency, bandwidth; /* of the imitated network, in seconds and bytes a second; 0, 0: none */
    double passes[3];          /* seconds: the shortest time of a token, of TOKENS together, of a gather */
    size_t calls, sent;        /* so far */
    ring r;
} network;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds for which this process was ready to run and had no processor; 0 if the system does not say. */
static double waited(void) {
    unsigned long long ns = 0;
    FILE *f = fopen("/proc/self/schedstat", "r");
    if (f && fscanf(f, "%*u %llu", &ns) != 1) ns = 0;
    if (f) fclose(f);
    return 1e-9 * (double)ns;
}

/* A llama_gather_fn: exchanges, counts, and waits as long as the imitated network takes. */
static int gather(void *user, float *x, const size_t *offsets, int rank, int ranks) {
    network *n = user;
    int next = (rank + 1) % ranks; /* whose piece is not sent to it */
    size_t bytes = (offsets[ranks] - (offsets[next + 1] - offsets[next])) * sizeof *x;
    int failed = ring_gather(&n->r, x, offsets, rank, ranks);
    n->calls++, n->sent += bytes;
    double end = now() + (ranks - 1) * n->latency + (n->bandwidth > 0 ? (double)bytes / n->bandwidth : 0);
    while (n->latency > 0 && now() < end) sched_yield();
    return failed;
}

/* Evaluates tokens as rank 0 of two, and sets n->passes, calls and sent of one token. */
static void measure(const char *path, int ranks, int repeats, network *n) {
    pid_t children[8];
    fflush(NULL);
    int rank = ring_start(&n->r, ranks, children);
    if (!check(rank >= 0, "%d processes", ranks)) return;
    llama *model = NULL;
    llama_session *s = NULL;
    llama_error err = {.text = ""};
    llama_options open = {.size = sizeof open, .rank = rank, .ranks = ranks};
    llama_session_options o = {.size = sizeof o, .context = CONTEXT, .threads = 1, .rank = rank, .ranks = ranks, .gather = gather, .gather_user = n};
    int32_t tokens[TOKENS];
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % spec.vocab;
    bool good = llama_open(&model, path, &open, &err) == LLAMA_OK && llama_session_new(&s, model, &o, &err) == LLAMA_OK;
    check(good, "rank %d: %s", rank, err.text);
    for (int i = 0; i < 3; i++) n->passes[i] = 1e9;
    for (int i = 0; good && i < repeats; i++) {
        double start = now();
        good = llama_rewind(s, 0, 0) == LLAMA_OK && llama_eval(s, 0, tokens, TOKENS) == LLAMA_OK;
        if (now() - start < n->passes[1]) n->passes[1] = now() - start;
        n->calls = n->sent = 0;
        start = now();
        good = good && llama_eval(s, 0, tokens, 1) == LLAMA_OK;
        if (now() - start < n->passes[0]) n->passes[0] = now() - start;
    }
    check(good, "rank %d: %s", rank, s ? llama_session_error(s) : "");
    size_t calls = n->calls, sent = n->sent, offsets[9] = {0};
    static float x[8192]; /* a result of 65B's width */
    for (int r = 1; r <= ranks; r++) offsets[r] = 8192 / (size_t)ranks * (size_t)r;
    for (int i = 0; good && i < 20 * repeats; i++) {
        double start = now();
        good = gather(n, x, offsets, rank, ranks) == 0;
        if (now() - start < n->passes[2]) n->passes[2] = now() - start;
    }
    n->calls = calls, n->sent = sent;
    llama_session_free(s);
    llama_close(model);
    close(n->r.next), close(n->r.previous);
    if (rank) _exit(!good);
    for (int i = 1; i < ranks; i++) {
        int status = -1;
        waitpid(children[i], &status, 0);
        check(status == 0, "rank %d: status %x", i, (unsigned)status);
    }
}

static const char *path;

/* What a token exchanges: llama info --ranks says it before. */
static void test_counted(void) {
    size_t floats = (size_t)spec.layers * (3 * (size_t)spec.dim + (size_t)spec.hidden) + (size_t)spec.vocab;
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        network n = {0};
        measure(path, ranks, 1, &n);
        size_t want = 4 * floats * (size_t)(ranks - 1) / (size_t)ranks; /* all divide evenly */
        check(n.calls == 4 * (size_t)spec.layers + 1, "%d ranks: %zu gathers", ranks, n.calls);
        check(n.sent == want, "%d ranks: rank 0 sends %zu bytes, not %zu", ranks, n.sent, want);
    }
}

/* The formula holds for three networks, within 10%, in one of a few attempts, unless other programs take the processors. */
static void test_formula(void) {
    static const struct {
        const char *name;
        double latency, bandwidth;
    } networks[] = {{"25 us, 1.17 GB/s", 25e-6, 1.17e9}, {"50 us, 117 MB/s", 50e-6, 117e6}, {"10 us, 10 MB/s", 10e-6, 10e6}};
    enum { BUSY = 5 }; /* percent */
    bool holds = false;
    double start = now(), before = waited();
    for (int attempt = 0; attempt < 6 && !holds; attempt++) {
        network none = {0};
        measure(path, 2, 60, &none);
        printf("no network: a token %.3f ms, %d tokens %.3f ms, a gather of 8,192 floats over sockets %.1f us\n", none.passes[0] * 1e3, TOKENS,
               none.passes[1] * 1e3, none.passes[2] * 1e6);
        holds = true;
        for (int i = 0; i < 3; i++) {
            network n = {.latency = networks[i].latency, .bandwidth = networks[i].bandwidth};
            measure(path, 2, 30, &n);
            for (int many = 0; many < 2; many++) { /* a token; TOKENS together: the last layer and the output are of one */
                double bytes = (double)n.sent * (many ? TOKENS : 1);
                if (many) bytes -= (TOKENS - 1) * 2.0 * (3 * spec.dim + spec.hidden + spec.vocab);
                double want = none.passes[many] + (double)n.calls * n.latency + bytes / n.bandwidth;
                printf("%s: %s %.3f ms, the formula says %.3f\n", networks[i].name, many ? "a prompt" : "a token", n.passes[many] * 1e3, want * 1e3);
                holds = holds && fabs(n.passes[many] - want) <= 0.1 * want;
            }
        }
    }
    double busy = 100 * (waited() - before) / (now() - start);
    printf("waiting for a processor: %.1f%% of the time\n", busy);
    if (!holds && busy > BUSY) printf("SKIP: the formula (other programs take the processors)\n");
    else check(holds, "in no attempt the formula held for all networks");
}

static const test_case cases[] = {CASE(counted), CASE(formula)};

int main(int argc, char **argv) {
    static char folder[2048];
    if ((argc = tests_begin(argc, argv)) < 2) return 2;
    snprintf(folder, sizeof folder, "%s/model", argv[1]);
    path = folder;
    make_folder("build");
    make_folder(argv[1]);
    model_write(&spec, folder);
    RUN(cases);
    return tests_done("network");
}
