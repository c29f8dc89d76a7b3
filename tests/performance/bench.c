/* bench.c - measure the speed of the library as a fraction of what this machine can do, in one run.
 *
 *   bench [-t THREADS] [-r REPEATS] [-n TOKENS,...] [--kernels NAME] [--json] [--weak-probe] [MODEL]
 *
 * The law: a pass of n tokens takes at least
 *     max(bytes of weights / read bandwidth, 2 n weights / multiply-add peak).
 * Each round measures, through llama.h: opening, decode at both ends of the context, prompts of 1 to 2,048 tokens (or
 * those of -n), 32 sequences at once, the first token. Both limits are measured just before and just after each of
 * these, because the speed of a shared machine changes from second to second. The larger of the two probes is the limit.
 * The fraction shown is the median of the rounds' fractions.
 *
 * No program is faster than its machine. If a fraction is over 100%, the probe is weaker than the program: the bench
 * names the figure and fails (exit code 1). --weak-probe reads with one thread,
 * byte by byte, to show that.
 *
 * Without MODEL a folder of LLaMA-7B's shape with two layers of noise is made under build/. $PEER, a command, is timed
 * in each round too. */
#define _GNU_SOURCE
#include "../tools/checkpoint.h"
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MOST_REPEATS = 101, CONTEXT = 2112, LONGEST = 2048, DECODED = 8, MANY = 32, MOST_PROMPTS = 16 };

static int threads, repeats = 5;
static bool json, weak;
static size_t prompts[MOST_PROMPTS] = {1, 2, 3, 4, 6, 8, 12, 16, 32, 128, 512, LONGEST};
static int n_prompts = 12;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds that this process's threads were ready to run, but had no processor; 0 where the system does not tell. */
static double waited(void) {
    double sum = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *e; tasks && (e = readdir(tasks));) {
        char path[300], text[100];
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", e->d_name);
        FILE *f = fopen(path, "r");
        unsigned long long ns; /* the second number */
        if (f && fgets(text, sizeof text, f) && sscanf(text, "%*u %llu", &ns) == 1) sum += 1e-9 * (double)ns;
        if (f) fclose(f);
    }
    if (tasks) closedir(tasks);
    return sum;
}

/* Cores that this process may use. */
static int cores(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

enum { MOST_THREADS = 256 };

/* Runs a function in `team` threads, of which this is one, until all return. */
static void on_threads(int team, void *(*run)(void *), void *user) {
    pthread_t id[MOST_THREADS];
    int started = 1;
    while (started < team && pthread_create(&id[started], NULL, run, user) == 0) started++;
    run(user);
    while (--started > 0) pthread_join(id[started], NULL);
}

/* ---- Figures ---- */

typedef struct {
    const char *name, *unit; /* unit: "GB/s", "GFLOP/s", "tokens/s", "ms" */
    double value[MOST_REPEATS * 2 * (MOST_PROMPTS + 8)];
    int n;

    /* For a figure that the law judges; one entry a round: */
    double fraction[MOST_REPEATS]; /* least time by the law / time taken */
    int rounds, reading;           /* rounds judged; rounds in which reading was the limit */
    bool in_cache;                 /* the weights may stay in a cache: never a failure */
} figure;
static figure figures[64];
static int n_figures;

static int new_figure(const char *name, const char *unit) {
    figures[n_figures] = (figure){.name = name, .unit = unit};
    return n_figures++;
}
static void add(int which, double value) {
    figure *f = &figures[which];
    if (which >= 0 && f->n < (int)(sizeof f->value / sizeof *f->value)) f->value[f->n++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
/* Sorts. */
static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return n ? (v[(n - 1) / 2] + v[n / 2]) / 2 : 0;
}

/* Print all figures. Returns how many exceed their limit. */
static int report(const char *reading, const char *multiplying) {
    int failed = 0;
    for (int i = 0; i < n_figures; i++) {
        figure *f = &figures[i];
        if (!f->n) continue;
        double value = median(f->value, f->n);
        if (json)
            printf("{\"name\": \"%s\", \"unit\": \"%s\", \"median\": %.6g, \"min\": %.6g, \"max\": %.6g", f->name, f->unit,
                   value, f->value[0], f->value[f->n - 1]);
        else
            printf("%-38s %10.4g %-9s (%.4g to %.4g)", f->name, value, f->unit, f->value[0], f->value[f->n - 1]);
        if (f->rounds) {
            const char *of = 2 * f->reading > f->rounds ? reading : multiplying;
            double fraction = median(f->fraction, f->rounds);
            bool over = fraction > 1 && !f->in_cache;
            failed += over;
            if (json)
                printf(", \"of\": \"%s\", \"fraction\": %.4f, \"in_cache\": %s, \"failed\": %s", of, fraction,
                       f->in_cache ? "true" : "false", over ? "true" : "false");
            else
                printf("  %5.1f%% of %s%s", 100 * fraction, of, over ? " FAILED" : "");
            if (over)
                fprintf(stderr, "bench: FAILED: %s: %.1f%% of %s: the probe is weaker than the program\n", f->name, 100 * fraction, of);
        }
        puts(json ? "}" : "");
    }
    return failed;
}

/* ---- The machine's limits ---- */

/* Read `streams` regions at once, which stand one behind the other from p on; each is prefetched into L2 `ahead` bytes
 * before it is read, if ahead > 0. `region`: bytes of each, a multiple of 128. Made for several widths of vectors. */
#define UNROLL _Pragma("GCC unroll 16")
#define READER(name, attribute, width)                                                                                 \
    typedef uint64_t name##_vec __attribute__((vector_size(width), may_alias));                                        \
    attribute __attribute__((always_inline)) static inline uint64_t name##_some(const char *p, size_t region,          \
                                                                                const int streams, const size_t ahead) { \
        name##_vec sum[4] = {{0}};                                                                                     \
        for (size_t i = 0; i < region; i += 128, p += 128) {                                                           \
            UNROLL for (int s = 0; s < streams; s++) {                                                                 \
                const char *at = p + (size_t)s * region;                                                               \
                if (ahead) __builtin_prefetch(at + ahead, 0, 2), __builtin_prefetch(at + ahead + 64, 0, 2);            \
                UNROLL for (int k = 0; k < 128 / width; k++) sum[k % 4] ^= *(const name##_vec *)(const void *)(at + k * width); \
            }                                                                                                          \
        }                                                                                                              \
        sum[0] ^= sum[1] ^ sum[2] ^ sum[3];                                                                            \
        return sum[0][0] ^ sum[0][1];                                                                                  \
    }                                                                                                                  \
    attribute static uint64_t name(const char *p, size_t n, int streams, bool prefetch) {                              \
        enum { AHEAD = 8192 };                                                                                         \
        size_t region = n / (size_t)streams;                                                                           \
        switch (streams) {                                                                                             \
        case 1: return prefetch ? name##_some(p, region, 1, AHEAD) : name##_some(p, region, 1, 0);                     \
        case 2: return prefetch ? name##_some(p, region, 2, AHEAD) : name##_some(p, region, 2, 0);                     \
        case 4: return prefetch ? name##_some(p, region, 4, AHEAD) : name##_some(p, region, 4, 0);                     \
        default: return prefetch ? name##_some(p, region, 8, AHEAD) : name##_some(p, region, 8, 0);                    \
        }                                                                                                              \
    }
READER(read_128, , 16)
#if defined(__x86_64__)
READER(read_256, __attribute__((target("avx2"))), 32)
READER(read_512, __attribute__((target("avx512f"))), 64)
#endif

static uint64_t read_bytes(const char *p, size_t n, int streams, bool prefetch) {
    uint64_t sum = 0;
    (void)streams, (void)prefetch;
    for (size_t i = 0; i < n; i++) sum += *(const volatile char *)(p + i);
    return sum;
}

/* The ways to read; the fastest of them is the limit. */
typedef struct {
    const char *kernels; /* the instruction set that it needs; "": none */
    const char *name;
    uint64_t (*run)(const char *p, size_t n, int streams, bool prefetch);
    int streams;
    bool prefetch;
} way;
static const way ways[] = {
#if defined(__x86_64__)
    {"avx2", "256 bits, 1 stream", read_256, 1, false},
    {"avx2", "256 bits, 1 stream, prefetch", read_256, 1, true},
    {"avx2", "256 bits, 2 streams, prefetch", read_256, 2, true},
    {"avx2", "256 bits, 4 streams, prefetch", read_256, 4, true},
    {"avx2", "256 bits, 8 streams, prefetch", read_256, 8, true},
    {"avx2", "256 bits, 2 streams", read_256, 2, false},
    {"avx2", "256 bits, 4 streams", read_256, 4, false},
    {"avx2", "256 bits, 8 streams", read_256, 8, false},
    {"avx512", "512 bits, 1 stream, prefetch", read_512, 1, true},
    {"avx512", "512 bits, 2 streams, prefetch", read_512, 2, true},
    {"avx512", "512 bits, 4 streams, prefetch", read_512, 4, true},
    {"avx512", "512 bits, 8 streams, prefetch", read_512, 8, true},
    {"avx512", "512 bits, 4 streams", read_512, 4, false},
#else
    {"", "128 bits, 1 stream", read_128, 1, false},
    {"", "128 bits, 4 streams", read_128, 4, false},
    {"", "128 bits, 2 streams, prefetch", read_128, 2, true},
    {"", "128 bits, 4 streams, prefetch", read_128, 4, true},
    {"", "128 bits, 8 streams, prefetch", read_128, 8, true},
#endif
    {"", "128 bits, 1 stream, prefetch", read_128, 1, true},
};
enum { WAYS = sizeof ways / sizeof *ways };
static const way weak_way = {"", "a byte at a time", read_bytes, 1, false};

static bool has(const char *kernels);

/* Memory to be read: each probe reads the part after the last one's, so that no cache holds it. */
typedef struct {
    const char *p;
    size_t bytes, next;
} region;

/* Read chunks until all are read. The threads take them as they become free, as the library's do with rows. */
typedef struct {
    const region *m;
    const way *w;
    size_t chunk, chunks, from;
    atomic_size_t next, sink;
} reading;
static void *read_chunks(void *user) {
    reading *r = user;
    size_t there = r->m->bytes / r->chunk, sink = 0;
    for (size_t c; (c = atomic_fetch_add(&r->next, 1)) < r->chunks;)
        sink ^= r->w->run(r->m->p + (r->from + c) % there * r->chunk, r->chunk, r->w->streams, r->w->prefetch);
    r->sink ^= sink;
    return NULL;
}

/* Read `total` bytes in one of the ways: from where the last reading of this region ended, and around its end. Returns
 * GB/s. */
static double bandwidth(region *m, const way *w, size_t total, int team) {
    enum { UNIT = 4096, LARGEST = 2 << 20, CHUNKS = 8 };
    size_t chunk = total / ((size_t)team * CHUNKS), own = m->bytes / (size_t)team;
    if (chunk > own) chunk = own;
    if (chunk > LARGEST) chunk = LARGEST;
    chunk = chunk < UNIT ? UNIT : chunk / UNIT * UNIT;
    reading r = {.m = m, .w = w, .chunk = chunk, .chunks = total / chunk, .from = m->next};
    double began = now();
    on_threads(team, read_chunks, &r);
    double rate = (double)(r.chunks * chunk) / (now() - began) / 1e9;
    m->next = (r.from + r.chunks) % (m->bytes / chunk);
    return rate;
}

/* The strongest of all the ways, GB/s; each way's rate goes to its figure, if there is a first of them. */
static double strongest(region *m, size_t total, int first_figure) {
    double best = 0;
    if (weak) return bandwidth(m, &weak_way, total / 4, 1);
    for (int i = 0; i < WAYS; i++) {
        if (*ways[i].kernels && !has(ways[i].kernels)) continue;
        double rate = bandwidth(m, &ways[i], total, threads);
        if (first_figure >= 0) add(first_figure + i, rate);
        if (rate > best) best = rate;
    }
    return best;
}

/* Multiply-adds that touch no memory. The chains hide the latency: two pipes of five cycles want ten, four of four (NEON)
 * sixteen. All accumulators stay in registers. */
#define FMA_PEAK(name, attribute, vec, chains, set, fma)                                                               \
    attribute static float name(long n) {                                                                              \
        vec v[chains], a = set(0.999f), b = set(1e-3f);                                                                \
        for (int i = 0; i < chains; i++) v[i] = set((float)i);                                                         \
        for (long k = 0; k < n; k++) {                                                                                 \
            _Pragma("GCC unroll 24") for (int i = 0; i < chains; i++) v[i] = fma(v[i], a, b);                          \
        }                                                                                                              \
        float sum = 0, f[sizeof(vec) / sizeof(float)];                                                                 \
        for (int i = 0; i < chains; i++) {                                                                             \
            memcpy(f, &v[i], sizeof f);                                                                                \
            for (size_t k = 0; k < sizeof f / sizeof *f; k++) sum += f[k];                                             \
        }                                                                                                              \
        return sum;                                                                                                    \
    }
#if defined(__x86_64__)
FMA_PEAK(peak_avx2, __attribute__((target("avx2,fma"))), __m256, 12, _mm256_set1_ps, _mm256_fmadd_ps)
FMA_PEAK(peak_avx512, __attribute__((target("avx512f"))), __m512, 24, _mm512_set1_ps, _mm512_fmadd_ps)
#elif defined(__aarch64__)
#include <arm_neon.h>
#define NEON_FMA(a, b, c) vfmaq_f32(c, a, b)
FMA_PEAK(peak_neon, , float32x4_t, 24, vdupq_n_f32, NEON_FMA)
#endif

static const struct {
    const char *kernels, *name;
    float (*run)(long);
    double each; /* operations of one turn of the loop */
} peaks[] = {
#if defined(__x86_64__)
    {"avx2", "float32 multiply-adds, avx2", peak_avx2, 12 * 8 * 2},
    {"avx512", "float32 multiply-adds, avx512", peak_avx512, 24 * 16 * 2},
#elif defined(__aarch64__)
    {"neon", "float32 multiply-adds, neon", peak_neon, 24 * 4 * 2},
#endif
    {NULL, NULL, NULL, 0}};

/* Whether this CPU has them; what every CPU of its kind has is not asked. */
static bool has(const char *kernels) {
#if defined(__x86_64__)
    return strcmp(kernels, "avx2") == 0 ? __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") : __builtin_cpu_supports("avx512f");
#else
    return *kernels;
#endif
}

/* The best of some runs, GFLOP/s. */
enum { TURNS = 1000000 };
static void *run_peak(void *user) {
    volatile float sink = peaks[*(int *)user].run(TURNS);
    (void)sink;
    return NULL;
}
static double multiply_adds(int i) {
    enum { RUNS = 3 };
    double best = 0;
    for (int r = 0; r < RUNS; r++) {
        double began = now();
        on_threads(threads, run_peak, &i);
        double rate = peaks[i].each * TURNS * threads / (now() - began) / 1e9;
        if (rate > best) best = rate;
    }
    return best;
}

/* The limits at one moment: GB/s of the mapped file and of anonymous memory, GFLOP/s of the program's instruction set. */
typedef struct {
    double mapped, anonymous, peak;
} limits;

static region mapped_file, anonymous_memory;
static int read_mapped, read_anonymous, first_way; /* figures */
static int multiply_add[4];                                 /* figures, of each of peaks; -1: not on this CPU */
static int waiting;                                 /* figure */
static int widest = -1;                            /* of peaks: the program's instruction set; -1: none is known */

/* Memory last: on some machines it is slow for the first 20 to 200 ms after a moment in which nothing was read, and a
 * pass follows. */
static limits probe(void) {
    limits l = {0, 0, 0};
    for (int i = 0; peaks[i].name; i++) {
        if (multiply_add[i] < 0) continue;
        double rate = multiply_adds(i);
        add(multiply_add[i], rate);
        if (i <= widest && rate > l.peak) l.peak = rate; /* a wide program may use narrow vectors too */
    }
    add(read_anonymous, l.anonymous = strongest(&anonymous_memory, (size_t)1 << 28, -1));
    add(read_mapped, l.mapped = strongest(&mapped_file, (size_t)1 << 29, first_way));
    return l;
}

/* Judge one measurement by the law, against the larger of the probes before and after it. Takes seconds, 10^9 bytes of
 * weights and of keys and values, and 10^9 operations. */
static void judge(int which, double seconds, double weights, double kv, double operations, limits a, limits b) {
    figure *f = &figures[which];
    if (f->rounds == MOST_REPEATS) return;
    limits l = {fmax(a.mapped, b.mapped), fmax(a.anonymous, b.anonymous), fmax(a.peak, b.peak)};
    double reading = weights / l.mapped + kv / fmax(l.mapped, l.anonymous);
    double multiplying = l.peak > 0 ? operations / l.peak : 0;
    bool reads = reading >= multiplying;
    f->reading += reads;
    f->fraction[f->rounds] = fmax(reading, multiplying) / seconds;
    f->rounds++;
}

/* ---- The library ---- */

static llama *model;
static llama_info info = {.size = sizeof info};
static int32_t tokens[CONTEXT];

static llama_session *new_session(const char *kernels, int sequences, int context) {
    llama_session_options o = {.size = sizeof o, .context = context, .sequences = sequences, .threads = threads, .kernels = kernels};
    llama_session *s = NULL;
    llama_error err;
    if (llama_session_new(&s, model, &o, &err)) fprintf(stderr, "bench: %s\n", err.text);
    return s;
}

static double waited_before; /* of the measurement that was begun last */
static double begin(void) {
    waited_before = waited();
    return now();
}
/* Seconds since then; notes for how much of that there was no processor. */
static double end(double began) {
    double took = now() - began;
    add(waiting, 100 * fmin(1, (waited() - waited_before) / (took * threads)));
    return took;
}

static void must(int status) {
    if (status == LLAMA_OK) return;
    fprintf(stderr, "bench: %s\n", llama_strerror(status));
    exit(1);
}

/* Seconds that n tokens take from a position on. */
static double timed(llama_session *s, size_t from, size_t n, size_t each) {
    must(llama_rewind(s, 0, from));
    double began = begin();
    for (size_t i = 0; i < n; i += each) must(llama_eval(s, 0, tokens + from + i, each));
    return end(began);
}

/* Seconds that one token of each of 32 sequences takes. */
static double timed_batch(llama_session *s) {
    llama_span spans[MANY];
    for (int i = 0; i < MANY; i++) spans[i] = (llama_span){i, tokens + i, 1};
    double began = begin();
    must(llama_eval_batch(s, spans, MANY));
    return end(began);
}

/* Weights that n tokens meet, each counted for every token. The last layer computes keys and values of all tokens, but
 * the rest of it and the output only for the last token. */
static double weights_met(double n) {
    double d = info.dim, kv = 2 * d * info.kv_heads * info.head_dim, layer = 2 * d * info.heads * info.head_dim + kv + 3 * d * info.hidden;
    return (info.layers - 1) * layer * n + kv * n + (layer - kv) + (double)info.vocab * d;
}
/* Operations of n tokens from a position on, in 10^9: two for each weight, and attention's two products. */
static double operations(double from, double n) {
    double positions = (info.layers - 1) * n * (from + (n + 1) / 2) + from + n;
    return (2 * weights_met(n) + 4.0 * info.dim * positions) / 1e9;
}

/* The file with the weights, or the first of them. */
static int open_weights(const char *path) {
    static const char *const names[] = {"", "/consolidated.00.pth", "/model.safetensors"};
    for (int i = 0; i < 3; i++) {
        char file[4200];
        struct stat st;
        snprintf(file, sizeof file, "%s%s", path, names[i]);
        int fd = open(file, O_RDONLY);
        if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
        if (fd >= 0) close(fd);
    }
    return -1;
}

/* Map the file with the weights, or the first part of it, as the library does. */
static bool map_weights(const char *path) {
    const size_t MOST = (size_t)2 << 30;
    int fd = open_weights(path);
    size_t bytes = fd < 0 ? 0 : (size_t)lseek(fd, 0, SEEK_END);
    if (bytes > MOST) bytes = MOST;
    void *p = bytes >= 4096 ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (p == MAP_FAILED) return false;
    madvise(p, bytes, MADV_HUGEPAGE);
    mapped_file = (region){p, bytes, 0};
    return true;
}
static bool get_memory(void) {
    const size_t bytes = (size_t)1 << 29;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return false;
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    anonymous_memory = (region){p, bytes, 0};
    return true;
}

/* Whether a pass may find weights in a cache. */
static bool fits_a_cache(double bytes) {
    double cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    cache = (double)sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return bytes < fmax(4 * cache, 1 << 28);
}

/* Everything, in rounds. Returns how many figures exceed their limit; -1: it cannot be done. */
static int run(const char *path, const char *kernels) {
    static char prompt_names[MOST_PROMPTS][40];
    llama_session *s = new_session(kernels, 1, CONTEXT), *many = new_session(kernels, MANY, 16);
    if (!s || !many) return -1;
    if (!map_weights(path) || !get_memory()) return fprintf(stderr, "bench: no file or no memory to read for the limits\n"), -1;
    read_anonymous = new_figure("read, anonymous memory", "GB/s");
    read_mapped = new_figure("read, the mapped file", "GB/s");
    for (int i = 0; i < WAYS; i++) {
        int way = new_figure(ways[i].name, "GB/s");
        if (i == 0) first_way = way;
    }
    const char *multiplying = "";
    for (int i = 0; peaks[i].name; i++) {
        multiply_add[i] = has(peaks[i].kernels) ? new_figure(peaks[i].name, "GFLOP/s") : -1;
        if (strstr(llama_session_kernels(s), peaks[i].kernels)) widest = i, multiplying = peaks[i].name;
    }
    double weights = weights_met(1) * (double)info.file_bytes / (double)info.parameters / 1e9;
    double kv = (double)info.kv_bytes_per_token * LONGEST / 1e9;
    waiting = new_figure("waiting for a processor", "%");
    int opening = new_figure("opening", "ms"), first = new_figure("first token of 16", "ms");
    int near = new_figure("decode, first positions", "tokens/s"), far = new_figure("decode, position 2,048", "tokens/s");
    int prompt[MOST_PROMPTS], beside = new_figure("decode, 32 sequences at once", "tokens/s");
    for (int i = 0; i < n_prompts; i++) {
        snprintf(prompt_names[i], sizeof prompt_names[i], "prompt of %zu", prompts[i]);
        prompt[i] = new_figure(prompt_names[i], "tokens/s");
    }
    for (int i = near; i < n_figures; i++) figures[i].in_cache = fits_a_cache(weights * 1e9);
    const char *peer = getenv("PEER");
    int other = new_figure("the peer's command", "s");
    timed(s, 0, 64, 64); /* the pages of the weights are mapped, the threads are there */
    timed_batch(many);
    figures[waiting].n = 0;
    strongest(&mapped_file, mapped_file.bytes, -1); /* the same for the probe's own mapping */
    for (int r = 0; r < repeats; r++) {
        llama *again = NULL;
        double began = now(), took;
        must(llama_open(&again, path, NULL, NULL));
        add(opening, (now() - began) * 1e3);
        llama_close(again);
        limits before = probe(), after;

        add(near, DECODED / (took = timed(s, 0, DECODED, 1)));
        judge(near, took, weights * DECODED, 0, operations(0, DECODED), before, after = probe());
        before = after;

        for (int i = 0; i < MANY; i++) llama_rewind(many, i, 0);
        add(beside, MANY / (took = timed_batch(many)));
        judge(beside, took, weights, 0, operations(0, 1) * MANY, before, after = probe());
        before = after;

        for (int i = 0; i < n_prompts; i++) {
            double n = (double)prompts[i];
            add(prompt[i], n / (took = timed(s, 0, prompts[i], prompts[i])));
            judge(prompt[i], took, weights, 0, operations(0, n), before, after = probe());
            before = after;
            if (prompts[i] != LONGEST) continue;
            add(far, DECODED / (took = timed(s, LONGEST, DECODED, 1)));
            judge(far, took, weights * DECODED, kv * DECODED, operations(LONGEST, 1) * DECODED, before, after = probe());
            before = after;
        }
        add(first, timed(s, 0, 16, 16) * 1e3);
        began = now();
        if (peer && system(peer) == 0) add(other, now() - began);
        fprintf(stderr, "\rbench: %d of %d%s", r + 1, repeats, r + 1 < repeats ? "" : "\n");
    }
    if (!json) {
        printf("%s: dim %d, %d layers, %s, %.2f GB; %s\n", path, info.dim, info.layers, info.dtype,
               (double)info.file_bytes / 1e9, llama_session_kernels(s));
        puts("A pass of n tokens takes at least max(bytes of weights / read bandwidth, 2 n weights / multiply-add peak).\n"
             "Its fraction of that is judged in each round against the larger of the probes just before and after it.\n"
             "The median of the rounds is shown. Over 100% the probe would be weaker than the program: the bench fails.");
        if (figures[near].in_cache) puts("The model is so small that it may stay in a cache: no fraction is a failure.");
        if (median(figures[waiting].value, figures[waiting].n) > 5)
            puts("Other programs keep the processors busy: passes wait for them, and look slower than they are.");
        puts("");
    }
    int failed = report(figures[read_mapped].name, multiplying);
    llama_session_free(s);
    llama_session_free(many);
    munmap((void *)(uintptr_t)mapped_file.p, mapped_file.bytes);
    munmap((void *)(uintptr_t)anonymous_memory.p, anonymous_memory.bytes);
    return failed;
}

/* "1,8,512": lengths of prompts, in ascending order or not. */
static bool read_prompts(const char *text) {
    for (n_prompts = 0; n_prompts < MOST_PROMPTS; text++) {
        char *end;
        unsigned long n = strtoul(text, &end, 10);
        if (end == text || n < 1 || n > LONGEST) return false;
        prompts[n_prompts++] = n;
        text = end;
        if (!*text) return true;
        if (*text != ',') return false;
    }
    return false;
}

int main(int argc, char **argv) {
    const char *path = NULL, *kernels = NULL;
    llama_error err;
    threads = cores();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (i + 1 < argc && strcmp(argv[i], "-t") == 0) threads = atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "-r") == 0) repeats = atoi(argv[++i]);
        else if (strcmp(argv[i], "--weak-probe") == 0) weak = true;
        else if (i + 1 < argc && strcmp(argv[i], "-n") == 0) {
            if (!read_prompts(argv[++i])) return fprintf(stderr, "bench: -n: not 1 to 16 lengths from 1 to 2048: %s\n", argv[i]), 2;
        } else if (i + 1 < argc && strcmp(argv[i], "--kernels") == 0) kernels = argv[++i];
        else path = argv[i];
    }
    if (threads < 1 || threads > MOST_THREADS || repeats < 1 || repeats > MOST_REPEATS) return 2;
    if (!path) {
        path = "build/bench-7B-2";
        if (access("build/bench-7B-2/consolidated.00.pth", R_OK) != 0) {
            static const model_spec shape = {.dim = 4096, .layers = 2, .heads = 32, .kv_heads = 32, .hidden = 11008, .vocab = 32000, .shards = 1};
            fprintf(stderr, "bench: making %s, 1.3 GB\n", path);
            model_write(&shape, path);
        }
    }
    if (llama_open(&model, path, NULL, &err)) return fprintf(stderr, "bench: %s\n", err.text), 3;
    llama_describe(model, &info);
    for (int i = 0; i < CONTEXT; i++) tokens[i] = (i * 7919 + 1) % info.vocab;
    int failed = run(path, kernels);
    llama_close(model);
    return failed != 0;
}
