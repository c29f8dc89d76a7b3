/* bench.c - how fast, as a fraction of what this machine can do, all in one run.
 *
 *   bench [-t THREADS] [-r REPEATS] [--kernels NAME] [--json] [MODEL]
 *
 * First the limits: memory read (anonymous, and the checkpoint as it is mapped) and float32 multiply-adds of each
 * instruction set. Then the library, through llama.h: opening, decode at both ends of the context, prompts of 1 to
 * 2,048 tokens, 32 sequences at once, the first token. Every figure is taken once in each repeat, so that all see the
 * same machine; medians are shown, with the least and the most. Without MODEL a folder of LLaMA-7B's shape with two
 * layers of noise is made under build/. $PEER, a command, is timed in each repeat too. */
#define _GNU_SOURCE
#include "../tools/checkpoint.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_procs(void) { return 1; }
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MOST_REPEATS = 101, CONTEXT = 2112, LONGEST = 2048, DECODED = 8, MANY = 32 };

static int threads, repeats = 5;
static bool json;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Figures ---- */

typedef struct {
    const char *name, *unit; /* what `value` counts: "GB/s", "GFLOP/s", "tokens/s", "ms" */
    double per_second[MOST_REPEATS];
    int n, limit; /* limit: which figure it is a fraction of; -1: none */
    double work;  /* in the limit's unit, for one of ours: bytes or operations, in 10^9 */
} figure;
static figure figures[48];
static int n_figures;

static int new_figure(const char *name, const char *unit, int limit, double work) {
    figures[n_figures] = (figure){.name = name, .unit = unit, .limit = limit, .work = work};
    return n_figures++;
}
static void add(int which, double value) {
    figure *f = &figures[which];
    if (f->n < MOST_REPEATS) f->per_second[f->n++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(figure *f) {
    qsort(f->per_second, (size_t)f->n, sizeof *f->per_second, ascending);
    return f->n ? f->per_second[f->n / 2] : 0;
}

static void report(void) {
    for (int i = 0; i < n_figures; i++) {
        figure *f = &figures[i];
        double value = median(f), most = f->limit >= 0 ? median(&figures[f->limit]) : 0;
        if (!f->n) continue;
        if (json)
            printf("{\"name\": \"%s\", \"unit\": \"%s\", \"median\": %.6g, \"min\": %.6g, \"max\": %.6g", f->name, f->unit,
                   value, f->per_second[0], f->per_second[f->n - 1]);
        else
            printf("%-38s %10.4g %-9s (%.4g to %.4g)", f->name, value, f->unit, f->per_second[0], f->per_second[f->n - 1]);
        if (most > 0 && json)
            printf(", \"of\": \"%s\", \"fraction\": %.4f", figures[f->limit].name, value * f->work / most);
        else if (most > 0)
            printf("  %6.1f GB or GFLOP/s, %5.1f%% of %s", value * f->work, 100 * value * f->work / most, figures[f->limit].name);
        puts(json ? "}" : "");
    }
}

/* ---- The machine's limits ---- */

/* Read all of p once, by all threads; the strongest of several ways counts. GB/s */
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_some(const char *p, size_t n, size_t ahead) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i + 256 <= n; i += 256) {
        for (size_t k = 0; ahead && k < 256; k += 64) _mm_prefetch(p + i + k + ahead, _MM_HINT_T0);
        a = _mm256_xor_si256(a, _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + i)), _mm256_loadu_si256((const void *)(p + i + 32))));
        b = _mm256_xor_si256(b, _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + i + 64)), _mm256_loadu_si256((const void *)(p + i + 96))));
        c = _mm256_xor_si256(c, _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + i + 128)), _mm256_loadu_si256((const void *)(p + i + 160))));
        d = _mm256_xor_si256(d, _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + i + 192)), _mm256_loadu_si256((const void *)(p + i + 224))));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 3);
}
#else
static uint64_t read_some(const char *p, size_t n, size_t ahead) {
    uint64_t sum = 0, v[8];
    for (size_t i = 0; i + 64 <= n; i += 64) {
        if (ahead) __builtin_prefetch(p + i + ahead);
        memcpy(v, p + i, 64);
        for (int k = 0; k < 8; k++) sum ^= v[k];
    }
    return sum;
}
#endif

static double bandwidth(const char *p, size_t n) {
    static const size_t aheads[] = {0, 1024, 4096, 16384};
    double best = 0;
    volatile uint64_t sink = 0;
    for (int way = 0; way < 4; way++) {
        double began = now();
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
        {
            size_t share = n / (size_t)threads / 4096 * 4096;
            sink ^= read_some(p + share * (size_t)omp_get_thread_num(), share, aheads[way]);
        }
        double rate = (double)n / (now() - began) / 1e9;
        if (rate > best) best = rate;
    }
    return best;
}

/* Multiply-adds that touch no memory, in enough chains to hide their latency. GFLOP/s */
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

static double multiply_adds(int i) {
    enum { TURNS = 2000000 };
    volatile float sink;
    double began = now();
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
#endif
    sink = peaks[i].run(TURNS);
    (void)sink;
    return peaks[i].each * TURNS * threads / (now() - began) / 1e9;
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

/* Seconds that n tokens take from a position on. */
static double timed(llama_session *s, size_t from, size_t n, size_t each) {
    if (llama_rewind(s, 0, from)) return 1e9;
    double began = now();
    for (size_t i = 0; i < n; i += each)
        if (llama_eval(s, 0, tokens + from + i, each)) return 1e9;
    return now() - began;
}

/* Seconds that one token of each of 32 sequences takes. */
static double timed_batch(llama_session *s) {
    llama_span spans[MANY];
    for (int i = 0; i < MANY; i++) spans[i] = (llama_span){i, tokens + i, 1};
    double began = now();
    return llama_eval_batch(s, spans, MANY) ? 1e9 : now() - began;
}

/* Operations of n tokens from a position on, in 10^9: two for each weight that a token meets, and attention's two
 * products. The last layer has keys and values of all tokens, the rest of it and the output only of the last. */
static double operations(double from, double n) {
    double d = info.dim, kv = 2 * d * info.kv_heads * info.head_dim, layer = 2 * d * d + kv + 3 * d * info.hidden;
    double weights = (info.layers - 1) * layer * n + kv * n + (layer - kv) + (double)info.vocab * d;
    double positions = (info.layers - 1) * n * (from + (n + 1) / 2) + from + n;
    return (2 * weights + 4 * d * positions) / 1e9;
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

static void set_limits_and_run(const char *path, const char *kernels) {
    static const size_t prompts[] = {1, 8, 32, 128, 512, LONGEST};
    static char prompt_names[6][40];
    int fd = open_weights(path);
    size_t file_bytes = fd < 0 ? 0 : (size_t)lseek(fd, 0, SEEK_END), bytes = (size_t)1 << 30;
    if (file_bytes > bytes) file_bytes = bytes;
    char *file = fd < 0 ? MAP_FAILED : mmap(NULL, file_bytes, PROT_READ, MAP_SHARED, fd, 0);
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || file == MAP_FAILED) return;
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);

    llama_session *s = new_session(kernels, 1, CONTEXT), *many = new_session(kernels, MANY, 16);
    if (!s || !many) return;
    int anonymous = new_figure("read, anonymous memory", "GB/s", -1, 0), mapped = new_figure("read, the mapped file", "GB/s", -1, 0);
    int fma[2] = {-1, -1}, best = -1;
    for (int i = 0; peaks[i].name; i++) {
        fma[i] = has(peaks[i].kernels) ? new_figure(peaks[i].name, "GFLOP/s", -1, 0) : -1;
        if (strstr(llama_session_kernels(s), peaks[i].kernels)) best = i;
    }
    int limit = best < 0 ? -1 : fma[best];
    double element = (double)info.file_bytes / (double)info.parameters;
    double weights = operations(0, 1) / 2 * element; /* attention at position 0 is nothing */
    int opening = new_figure("opening", "ms", -1, 0), first = new_figure("first token of 16", "ms", -1, 0);
    int near = new_figure("decode, first positions", "tokens/s", mapped, weights);
    int far = new_figure("decode, position 2,048", "tokens/s", mapped, weights + (double)info.kv_bytes_per_token * LONGEST / 1e9);
    int prompt[6], beside = new_figure("decode, 32 sequences at once", "tokens/s", limit, operations(0, 1));
    for (int i = 0; i < 6; i++) {
        snprintf(prompt_names[i], sizeof prompt_names[i], "prompt of %zu", prompts[i]);
        prompt[i] = new_figure(prompt_names[i], "tokens/s", limit, operations(0, (double)prompts[i]) / (double)prompts[i]);
    }
    const char *peer = getenv("PEER");
    int other = new_figure("the peer's command", "s", -1, 0);
    timed(s, 0, 64, 64); /* the pages of the weights are mapped, the threads are there */
    timed_batch(many);
    for (int r = 0; r < repeats; r++) {
        add(anonymous, bandwidth(memory, bytes));
        add(mapped, bandwidth(file, file_bytes));
        for (int i = 0; peaks[i].name; i++)
            if (fma[i] >= 0) add(fma[i], multiply_adds(i));
        llama *again = NULL;
        double began = now();
        llama_open(&again, path, NULL, NULL);
        add(opening, (now() - began) * 1e3);
        llama_close(again);
        add(near, DECODED / timed(s, 0, DECODED, 1));
        add(beside, MANY / timed_batch(many));
        for (int i = 0; i < MANY; i++) llama_rewind(many, i, 0);
        for (int i = 0; i < 6; i++) add(prompt[i], (double)prompts[i] / timed(s, 0, prompts[i], prompts[i]));
        add(far, DECODED / timed(s, LONGEST, DECODED, 1));
        add(first, timed(s, 0, 16, 16) * 1e3);
        began = now();
        if (peer && system(peer) == 0) add(other, now() - began);
        fprintf(stderr, "\rbench: %d of %d%s", r + 1, repeats, r + 1 < repeats ? "" : "\n");
    }
    if (!json)
        printf("%s: dim %d, %d layers, %s, %.2f GB; %s\n", path, info.dim, info.layers, info.dtype,
               (double)info.file_bytes / 1e9, llama_session_kernels(s));
    report();
    llama_session_free(s);
    llama_session_free(many);
    munmap(memory, bytes);
    munmap(file, file_bytes);
    close(fd);
}

int main(int argc, char **argv) {
    const char *path = NULL, *kernels = NULL;
    llama_error err;
    threads = omp_get_num_procs();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (i + 1 < argc && strcmp(argv[i], "-t") == 0) threads = atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "-r") == 0) repeats = atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--kernels") == 0) kernels = argv[++i];
        else path = argv[i];
    }
#if defined(__x86_64__)
    if (!has("avx2")) return fprintf(stderr, "bench: wants AVX2\n"), 1;
#endif
#ifndef _OPENMP
    threads = 1;
#endif
    if (threads < 1 || repeats < 1 || repeats > MOST_REPEATS) return 2;
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
    set_limits_and_run(path, kernels);
    llama_close(model);
    return 0;
}
