/* math.c - our own exp, log, sine and cosine against libm, the half-float conversion against its
 * definition, RoPE's frequencies against Meta's, the hash table against collisions: what only the inside
 * knows. Includes the library as one file, as a user may.
 *
 *   math [rope_freqs.json]
 */
#define LLAMA_STATIC
#include "../../llama.c"
#include "../../tokenizer.c"
#include "../tools/test.h"

static double ulps(double got, double want, double unit) { return fabs(got - want) / unit; }

static void test_exp_float(void) {
    double worst = 0;
    for (float x = -87.2f; x < 88.2f; x += 0.00037f) {
        double want = exp((double)x), unit = ldexp(1, ilogb(want) - 23);
        worst = fmax(worst, ulps(exp_float(x), want, unit));
    }
    check(worst <= 1.0, "exp_float is off by %.2f ulp", worst); /* polynomial 3.8e-9, plus roundings */
    check(exp_float(0) == 1, "exp_float(0)");
    check(exp_float(-87.4f) == 0 && exp_float(-HUGE_VALF) == 0, "exp_float far below 0");
    check(exp_float(89) == HUGE_VALF && exp_float(HUGE_VALF) == HUGE_VALF, "exp_float far above 0");
    check(exp_float(NAN) != exp_float(NAN), "exp_float of no number");
    printf("exp_float %.2f ulp", worst);
}

static void test_doubles(void) {
    double e = 0, l = 0, t = 0;
    for (double x = -699; x < 699; x += 0.013) e = fmax(e, fabs(exp_double(x) / exp(x) - 1));
    for (double x = 1e-12; x < 1e12; x *= 1.0007) l = fmax(l, fabs(log_double(x) - log(x)) / fmax(1e-3, fabs(log(x))));
    for (double x = 0; x < (1 << 20); x = x * 1.0001 + 0.0013) {
        double s, c;
        sincos_double(x, &s, &c);
        t = fmax(t, fmax(fabs(s - sin(x)), fabs(c - cos(x))));
    }
    /* a few roundings of 1.1e-16 each; the float32 they are rounded to has 6e-8 */
    check(e < 5e-16 && l < 1e-13 && t < 5e-16, "exp_double %.1e, log_double %.1e, sincos_double %.1e", e, l, t);
    check(exp_double(-HUGE_VAL) == 0 && exp_double(HUGE_VAL) == HUGE_VAL && exp_double(NAN) != exp_double(NAN), "exp_double at the ends");
    printf(", exp %.1e, log %.1e, sincos %.1e\n", e, l, t);
}

static void test_half(void) {
    int wrong = 0;
    for (unsigned h = 0; h < 65536; h++) {
        int exponent = h >> 10 & 31, mantissa = h & 1023;
        double want = exponent == 31 ? (mantissa ? NAN : INFINITY)
                                     : exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        float got = half_to_float((uint16_t)h);
        if (h >> 15) want = -want;
        wrong += isnan(want) ? !isnan(got) : (double)got != want || !signbit(got) != !signbit(want);
    }
    check(wrong == 0, "%d of 65536 halves are wrong", wrong);
}

/* Each instruction set widens every half and every bfloat16 as the plain functions do. */
static void test_widening(void) {
    static const char *const names[] = {"avx2", "avx512", "neon"};
    static uint16_t all[65536 + 16];
    for (unsigned h = 0; h < 65536; h++) all[h] = (uint16_t)h;
    for (int k = 0; k < 3; k++) {
        const kernels *fast = find_kernels(names[k], false);
        if (!fast) continue;
        float one[BLOCK] = {1}; /* picks the first of each block of 16 */
        int wrong = 0;
        for (int type = F16; type <= BF16; type++)
            for (unsigned h = 0; h < 65536; h++) {
                const unsigned char *part = (const unsigned char *)&all[h];
                uint16_t alone[BLOCK] = {(uint16_t)h};
                const unsigned char *row = (const unsigned char *)alone;
                float y, want = element(type, part, 0) + 0.0f;
                if (!isfinite(want)) continue;
                matmul_args p = {{&row, 1, BLOCK, 2 * BLOCK, type}, one, &y, 1, 1, NULL};
                fast->matmul(&p, 0, 1);
                wrong += memcmp(&y, &want, 4) != 0;
            }
        check(wrong == 0, "%s widens %d of 131072 wrongly", names[k], wrong);
    }
}

/* ---- Products and attention of every width, against the defined order written plainly ---- */

enum { MOST_COLS = 300, MOST_ROWS = 80, MOST_X = 13 };

static float noise(void) { /* in [-1, 1), with the eleven bits that a half has */
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return (float)(int32_t)(state >> 21) / 1024 - 1;
}

static float plain_dot(int type, const unsigned char *row, const float *x, size_t cols) {
    float lane[LANES] = {0};
    for (size_t k = 0; k < cols; k++) lane[k % LANES] = fmaf(element(type, row, k), x[k], lane[k % LANES]);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* Rows r >= 1 of w [rows][cols] by n rows of x; how many results are not as they should be. */
static int wrong_products(const kernels *set, int type, size_t rows, size_t cols, size_t n) {
    static unsigned char w[MOST_ROWS * MOST_COLS * 4];
    static float x[MOST_X * 400], packed[MOST_X * 400], y[MOST_X * MOST_ROWS], panel[PANEL_ROWS * PANEL_COLUMNS],
        acc[GROUP * MOST_X * PANEL_ROWS * LANES];
    size_t size = dtype_bytes[type], ld = padded(cols);
    for (size_t i = 0; i < rows * cols; i++) {
        float f = noise();
        uint32_t bits;
        memcpy(&bits, &f, 4);
        uint16_t half = type == BF16 ? (uint16_t)(bits >> 16) : (uint16_t)(0x3000 | (bits >> 13 & 0x8bff)); /* of some value */
        memcpy(w + i * size, type == F32 ? (void *)&f : (void *)&half, size);
    }
    memset(x, 0, sizeof x);
    memset(packed, 0xff, sizeof packed);
    for (size_t i = 0; i < n * cols; i++) x[i / cols * ld + i % cols] = noise();
    pack(packed, x, ld, n, cols);
    const unsigned char *part = w;
    workspace own = {.panel = panel, .acc = acc};
    set->matmul(&(matmul_args){{&part, 1, cols, cols * size, type}, n == 1 ? x : packed, y, MOST_ROWS, n, &own}, 1, rows);
    int wrong = 0;
    for (size_t t = 0; t < n; t++)
        for (size_t r = 1; r < rows; r++) {
            float want = plain_dot(type, w + r * cols * size, x + t * ld, cols);
            wrong += memcmp(&want, &y[t * MOST_ROWS + r], 4) != 0;
        }
    return wrong;
}

/* A head of an odd width, over n positions and more for each of its rows; NaN behind everything. */
static int wrong_attention(const kernels *set, size_t head_dim, size_t rows, size_t n) {
    enum { POSITIONS = 90, LD = 64 };
    static float keys[POSITIONS * LD], values[POSITIONS * LD], q[MOST_X * LD], y[MOST_X * LD],
        scores[ATTENDED * 128], queries[ATTENDED * 64], panel[PANEL_ROWS * PANEL_COLUMNS], acc[GROUP * ATTENDED * PANEL_ROWS * LANES];
    memset(keys, 0xff, sizeof keys);
    memset(values, 0xff, sizeof values);
    memset(y, 0xff, sizeof y);
    memset(q, 0, sizeof q);
    for (size_t j = 0; j < n + rows - 1; j++)
        for (size_t d = 0; d < head_dim; d++) keys[j * head_dim + d] = noise(), values[j * head_dim + d] = noise();
    for (size_t t = 0; t < rows; t++)
        for (size_t d = 0; d < head_dim; d++) q[t * LD + d] = noise();
    workspace own = {.panel = panel, .acc = acc, .scores = scores, .queries = queries};
    set->attend(&(attention_args){y, q, keys, values, rows, n, head_dim, LD, &own});
    int wrong = 0;
    for (size_t t = 0; t < rows; t++) {
        float p[POSITIONS], top = -HUGE_VALF, lane[LANES] = {0};
        for (size_t j = 0; j < n + t; j++) {
            p[j] = plain_dot(F32, (const unsigned char *)(keys + j * head_dim), q + t * LD, head_dim) / sqrtf((float)head_dim);
            top = fmaxf(top, p[j]);
        }
        for (size_t j = 0; j < n + t; j++) lane[j % LANES] += p[j] = exp_float(p[j] - top);
        for (size_t d = 0; d < head_dim; d++) {
            float sum = 0;
            for (size_t j = 0; j < n + t; j++) sum = fmaf(p[j] / ((lane[0] + lane[2]) + (lane[1] + lane[3])), values[j * head_dim + d], sum);
            wrong += memcmp(&sum, &y[t * LD + d], 4) != 0;
        }
        for (size_t d = head_dim; d < LD; d++) wrong += y[t * LD + d] == y[t * LD + d]; /* still NaN */
    }
    return wrong;
}

static void test_order(void) {
    static const char *const names[] = {"scalar", "avx2", "avx512", "neon"};
    static const size_t widths[] = {2, 6, 8, 16, 18, 34, 48}, positions[] = {1, 5, 70};
    for (int k = 0; k < 4; k++) {
        const kernels *set = find_kernels(names[k], false);
        if (!set) continue;
        for (size_t cols = 1; cols <= MOST_COLS; cols += cols < 40 ? 1 : 52)
            for (int type = 0; type < DTYPES; type++)
                for (size_t n = 1; n <= MOST_X; n += 3) {
                    int wrong = wrong_products(set, type, cols % 9 == 0 ? MOST_ROWS : 2 + cols % 17, cols, n);
                    check(wrong == 0, "%s: %d products of %zu columns (%s) by %zu rows", names[k], wrong, cols, dtype_names[type], n);
                }
        for (int i = 0; i < 7; i++)
            for (int j = 0; j < 3; j++)
                for (size_t rows = 1; rows <= MOST_X; rows += 6) {
                    int wrong = wrong_attention(set, widths[i], rows, positions[j]);
                    check(wrong == 0, "%s: %d of a head of %zu, %zu rows from position %zu", names[k], wrong, widths[i], rows, positions[j]);
                }
    }
}

/* {"head_dim,theta": {"freqs_f32_meta": [...], ...}, ...} */
static const char *freqs_file; /* of the conformance data; NULL: not here */

static void test_freqs(void) {
    const char *path = freqs_file;
    if (!path) return;
    char *json = read_file(path, NULL);
    int entries = 0, differ = 0, tables = 0;
    for (const char *at = json; at && (at = strstr(at, "\"freqs_f32_meta\"")); at++, tables++) {
        const char *key = at;
        while (key > json && !(key[0] == '"' && key[1] >= '0' && key[1] <= '9')) key--;
        unsigned head_dim = 0;
        float theta = 0;
        sscanf(key, "\"%u,%f", &head_dim, &theta);
        size_t n;
        double *want = json_numbers(at, "freqs_f32_meta", &n);
        float *got = must_alloc((n + 1) * sizeof *got);
        llama m = {.head_dim = head_dim, .rope_theta = theta, .freqs = got};
        if (check(n == head_dim / 2 && n > 0, "rope_freqs.json: %u has %zu", head_dim, n)) rope_freqs(&m);
        for (size_t j = 0; j < n; j++, entries++) differ += got[j] != (float)want[j];
        free(want), free(got);
    }
    check(entries > 0 && differ <= 1, "rope_freqs.json: %d of %d entries differ", differ, entries);
    printf("rope_freqs.json: %d tables, %d of %d entries are Meta's bit for bit\n", tables, entries - differ, entries);
    free(json);
}

/* Pieces made to fall into one slot of the hash table are refused before they take long. */
static void test_collisions(void) {
    llamac_arena arena = {llamac_allocator_or_default(NULL), NULL};
    llamac_vocab *v = vocab_new(&arena, 4096);
    static char texts[4096][8];
    const char *why = NULL;
    int n = 0;
    for (uint64_t i = 0; n < 4096 && !why && i < 100000000; i++) {
        char *text = texts[n];
        for (int k = 0; k < 8; k++) text[k] = (char)('a' + (i >> (4 * k) & 15));
        if ((hash_text(text, 8) & v->slot_mask) == 0) why = vocab_add(v, texts[n++], 8, 0, NORMAL);
    }
    check(why && strstr(why, "collide") && n > 500 && n < 2000, "%d pieces in one slot: %s", n, why);
    llamac_free_all(&arena);
}

/* ---- How many cores a container leaves us ---- */

static void system_file(const char *path, const char *text) {
    char full[256] = "build/cgroup/";
    for (const char *c = path; *c; c++) { /* make its folders */
        full[strlen(full)] = *c;
        if (c[1] == '/') mkdir(full, 0777);
    }
    FILE *f = fopen(full, "w");
    if (!check(f && fputs(text, f) >= 0, "%s cannot be written", full)) return;
    fclose(f);
}

static void cores(const char *proc, long want, const char *what) {
    system_file("self", proc);
    long got = llamac_cgroup_cores("build/cgroup/self", "build/cgroup/sys");
    check(got == want, "%s: %ld cores, not %ld", what, got, want);
}

static void test_cgroups(void) {
    mkdir("build", 0777), mkdir("build/cgroup", 0777);
    remove("build/cgroup/sys/cpu.max"); /* of an earlier run */
    system_file("sys/two/inner/cpu.max", "max 100000\n");
    system_file("sys/two/cpu.max", "150000 100000\n");
    system_file("sys/one/cpu.max", "20000 100000\n");
    system_file("sys/one/inner/cpu.max", "800000 100000\n");
    system_file("sys/cpu/quota/cpu.cfs_quota_us", "300000\n");
    system_file("sys/cpu/quota/cpu.cfs_period_us", "100000\n");
    system_file("sys/cpu/free/cpu.cfs_quota_us", "-1\n");
    system_file("sys/cpu/free/cpu.cfs_period_us", "100000\n");
    cores("0::/two/inner\n", 2, "half a core counts as one, and the parent's limit");
    cores("0::/one/inner\n", 1, "the least of all");
    cores("0::/elsewhere\n", 0, "no such group, no limit");
    cores("7:memory:/two\n4:cpu,cpuacct:/quota/none\n0::/\n", 3, "version 1");
    cores("4:cpuacct:/quota\n3:cpuset:/quota\n", 0, "another controller");
    cores("4:cpu:/free\n", 0, "version 1 without a limit");
    system_file("sys/cpu.max", "400000 100000\n");
    cores("12:cpuset:/\n0::/../../host/path\n", 4, "in a container whose path is the host's");
    cores("", 0, "nothing is known");
    cores("nonsense\n:\n::\n7:cpu:\n/:cpu:\n", 0, "no line of ours");
    check(llamac_cgroup_cores("build/cgroup/none", "build/cgroup/sys") == 0, "no such file");
}

static const test_case cases[] = {
    CASE(cgroups), CASE(collisions), CASE(exp_float), CASE(doubles), CASE(half), CASE(widening), CASE(order),
    CASE(freqs)};

int main(int argc, char **argv) {
    if (tests_begin(argc, argv) > 1) freqs_file = argv[1];
    RUN(cases);
    return tests_done("math");
}
