/* math.c - our own exp, log, sine and cosine against libm, the half-float conversion against its
 * definition, RoPE's frequencies against Meta's, the hash table against collisions: what only the inside
 * knows. Includes the library as one file, as a user may.
 *
 *   math [rope_freqs.json]              of the conformance data
 *   math --scaled rope_freqs_scaled.json  of the data of the newer shapes
 */
#define LLAMA_STATIC
#include "../../llama.c"
#include "../../tokenizer.c"
#include "../tools/test.h"

#ifndef SETS /* avx512.c has its own */
#define SETS          "scalar", "avx2", "avx512", "neon"
#define KERNELS(name) find_kernels(name, false)
#define UNSUPPORTED   0
#define SUITE         "math"
#endif
static const char *const set_names[] = {SETS};

static double ulps(double got, double want, double unit) { return fabs(got - want) / unit; }

static float exp_scalar(float x) { return exp_float(x, HAS_FMA); }

static void test_exp_float(void) {
    double worst = 0;
    for (float x = -87.2f; x < 88.2f; x += 0.00037f) {
        double want = exp((double)x), unit = ldexp(1, ilogb(want) - 23);
        worst = fmax(worst, ulps(exp_scalar(x), want, unit));
    }
    check(worst <= 1.0, "exp_float is off by %.2f ulp", worst); /* polynomial 3.8e-9, plus roundings */
    check(exp_scalar(0) == 1, "exp_float(0)");
    check(exp_scalar(-87.4f) == 0 && exp_scalar(-HUGE_VALF) == 0, "exp_float far below 0");
    check(exp_scalar(89) == HUGE_VALF && exp_scalar(HUGE_VALF) == HUGE_VALF, "exp_float far above 0");
    check(exp_scalar(NAN) != exp_scalar(NAN), "exp_float of no number");
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
#if defined(_WIN32)
    t /= 4; /* of the C library's own sine */
#endif
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
    static uint16_t all[65536 + 16];
    for (unsigned h = 0; h < 65536; h++) all[h] = (uint16_t)h;
    for (size_t k = 0; k < sizeof set_names / sizeof *set_names; k++) {
        const kernels *fast = KERNELS(set_names[k]);
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
                matmul_args p = {{&row, 1, BLOCK, 2 * BLOCK, type}, one, &y, 1, 1, PREFETCH_TILE, NULL};
                fast->matmul(&p, 0, 1);
                wrong += memcmp(&y, &want, 4) != 0;
            }
        check(wrong == 0, "%s widens %d of 131072 wrongly", set_names[k], wrong);
    }
}

/* ---- Products and attention of every width, against the defined order written plainly ---- */

static uint32_t draw(void) {
    static uint32_t state = 1;
    state ^= state << 13, state ^= state >> 17;
    return state ^= state << 5;
}

static float noise(void) { return (float)(draw() >> 21) / 1024 - 1; } /* in [-1, 1), with the eleven bits that a half has */

/* Random bits of a float32 (exponent_bits 8) or a half (5), one in eight of them a zero. The kinds: near 1, where each
 * order of a sum has bits of its own; of every size, but so that no product or sum overflows; denormal or nearly; and
 * that with one sign, where products underflow to -0, which a zero that is added behind them makes +0. */
enum { NEAR, WIDE, SMALL, SMALL_SIGNED, KINDS };
static uint32_t draw_bits(int kind, int exponent_bits, uint32_t sign) {
    static const uint32_t least[2][KINDS] = {{124, 60, 0, 0}, {12, 1, 0, 0}}, most[2][KINDS] = {{130, 177, 60, 60}, {18, 30, 2, 2}};
    bool half = exponent_bits == 5;
    uint32_t low = least[half][kind], exponent = low + draw() % (most[half][kind] - low + 1);
    uint32_t mantissa = half ? draw() >> 22 : draw() >> 9;
    if (kind != SMALL_SIGNED) sign = draw() >> 31;
    if (draw() >> 29 == 0) exponent = mantissa = 0;
    return half ? sign << 15 | exponent << 10 | mantissa : sign << 31 | exponent << 23 | mantissa;
}

/* Every set's products of n rows of x and w, whose rows consist of `parts` segments of `cols` columns, from row `begin`
 * on, have matmul_plain's bits, and nothing else is written. Weights are at odd addresses; NaN is behind each row of a
 * segment, behind x and where it is packed to. */
static void compare_products(int type, size_t rows, size_t cols, size_t parts, size_t n, size_t begin) {
    enum { ROWS = 130, COLS = 3 * 272, GAP = 65, TOKENS = 33 };
    static unsigned char w[3][1 + ROWS * (COLS * 4 + GAP)];
    static float x[TOKENS * (COLS + 2 * BLOCK)], packed[TOKENS * COLS], want[TOKENS * ROWS], y[TOKENS * ROWS],
        panel[PANEL_ROWS * PANEL_COLUMNS], acc[GROUP * TOKENS * PANEL_ROWS * LANES];
    size_t size = dtype_bytes[type], stride = (cols * size + GAP) / 2 * 2, ldx = COLS + 2 * BLOCK;
    size_t filled = (parts * cols + BLOCK - 1) / BLOCK * BLOCK;
    const unsigned char *const part[] = {w[0] + 1, w[1] + 1, w[2] + 1};
    for (size_t s = 0; s < parts; s++) memset(w[s], 0xff, 1 + rows * stride);
    memset(x, 0xff, sizeof x), memset(packed, 0xff, sizeof packed), memset(want, 0xff, sizeof want);
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0, kind = draw() % KINDS; k < parts * cols; k++) {
            uint32_t bits = draw_bits((int)kind, type == F16 ? 5 : 8, 0) >> (type == BF16 ? 16 : 0); /* little-endian */
            memcpy(w[k / cols] + 1 + r * stride + k % cols * size, &bits, size);
        }
    for (size_t t = 0; t < n; t++) {
        memset(x + t * ldx, 0, filled * sizeof *x);
        for (size_t k = 0, kind = draw() % KINDS; k < parts * cols; k++) {
            uint32_t bits = draw_bits((int)kind, 8, 1);
            memcpy(x + t * ldx + k, &bits, sizeof bits);
        }
    }
    workspace own = {.panel = panel, .acc = acc};
    matmul_args p = {{part, parts, cols, stride, type}, x, want, ROWS, n, PREFETCH_NOTHING, &own};
    matmul_plain(&p, ldx, begin, rows);
    p.x = n > 1 ? packed : x;
    p.y = y;
    for (size_t i = 0; i < 3 * (sizeof set_names / sizeof *set_names); i++) {
        const kernels *set = KERNELS(set_names[i / 3]);
        p.prefetch = i % 3; /* on which the order of the rows depends, with few tokens */
        if (!set || (p.prefetch && n > FEW)) continue;
        for (size_t k = 0; k < parts && n > 1; k++) pack(packed + k * cols * n, x + k * cols, ldx, n, cols);
        memset(y, 0xff, sizeof y), memset(panel, 0xff, sizeof panel), memset(acc, 0xff, sizeof acc);
        set->matmul(&p, begin, rows);
        check(memcmp(y, want, sizeof y) == 0, "%s, prefetching %d: %zu rows from %zu on of %zu segments of %zu columns (%s) by %zu rows", set->name,
              p.prefetch, rows, begin, parts, cols, dtype_names[type], n);
    }
}

static void test_products(void) {
    static const size_t tokens[] = {1, 2, 3, 5, 6, 7, 8, 10, 12, 13, 33}, heights[] = {1, 3, 16, 17, 40, 130},
                        widths[] = {1, 15, 16, 17, 100, 256, 272, 515};
    size_t which = 0;
    for (size_t i = 0; i < 8; i++)
        for (size_t parts = 1; parts <= 3 && (parts == 1 || widths[i] % BLOCK == 0); parts++)
            for (size_t j = 0; j < 6; j++)
                for (size_t k = 0; k < 11; k++)
                    for (int type = 0; type < DTYPES; type++)
                        if (test_sampled(which++, 7)) compare_products(type, heights[j], widths[i], parts, tokens[k], 0);
}

enum { MOST_X = 13 };

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
    set->attend(&(attention_args){y, q, keys, values, rows, n, head_dim, LD, &own, NULL, NULL, 0});
    int wrong = 0;
    for (size_t t = 0; t < rows; t++) {
        float p[POSITIONS], top = -HUGE_VALF, lane[LANES] = {0};
        const unsigned char *part = (const unsigned char *)keys;
        matmul_plain(&(matmul_args){{&part, 1, head_dim, head_dim * sizeof *keys, F32}, q + t * LD, p, POSITIONS, 1, PREFETCH_TILE, NULL}, LD, 0, n + t);
        for (size_t j = 0; j < n + t; j++) top = fmaxf(top, p[j] /= sqrtf((float)head_dim));
        for (size_t j = 0; j < n + t; j++) lane[j % LANES] += p[j] = exp_scalar(p[j] - top);
        for (size_t d = 0; d < head_dim; d++) {
            float sum = 0;
            for (size_t j = 0; j < n + t; j++) sum = fused(p[j] / ((lane[0] + lane[2]) + (lane[1] + lane[3])), values[j * head_dim + d], sum, HAS_FMA);
            wrong += memcmp(&sum, &y[t * LD + d], 4) != 0;
        }
        for (size_t d = head_dim; d < LD; d++) wrong += y[t * LD + d] == y[t * LD + d]; /* still NaN */
    }
    return wrong;
}

static void test_order(void) {
    static const size_t widths[] = {2, 6, 8, 16, 18, 34, 48}, positions[] = {1, 5, 70};
    for (size_t cols = 1; cols <= 300; cols += cols < 40 ? 1 : 52)
        for (int type = 0; type < DTYPES; type++)
            for (size_t n = 1; n <= MOST_X; n += 3) compare_products(type, cols % 9 == 0 ? 80 : 2 + cols % 17, cols, 1, n, 1);
    for (size_t k = 0; k < sizeof set_names / sizeof *set_names; k++) {
        const kernels *set = KERNELS(set_names[k]);
        if (!set) continue;
        for (int i = 0; i < 7; i++)
            for (int j = 0; j < 3; j++)
                for (size_t rows = 1; rows <= MOST_X; rows += 6) {
                    int wrong = wrong_attention(set, widths[i], rows, positions[j]);
                    check(wrong == 0, "%s: %d of a head of %zu, %zu rows from position %zu", set->name, wrong, widths[i], rows, positions[j]);
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

/* The kinds of a model whose frequencies are scaled; the divisors that a converter computes from the constants. */
typedef struct {
    size_t head_dim;
    float theta;
    rope_scaling scaling;
} scaled_case;

static llama scaled_model(const scaled_case *c, float freqs[64], float divisors[64]) {
    llama m = {.head_dim = c->head_dim, .rope_theta = c->theta, .freqs = freqs};
    const rope_scaling *r = &c->scaling;
    rope_freqs(&m);
    for (size_t j = 0; j < c->head_dim / 2; j++) {
        double turns = (double)r->original * (double)freqs[j] / 6.283185307179586, s = (turns - (double)r->low) / (double)(r->high - r->low);
        divisors[j] = (float)(1 / ((1 - fmin(fmax(s, 0), 1)) / (double)r->factor + fmin(fmax(s, 0), 1)));
    }
    m.scaling = *r;
    rope_freqs(&m);
    return m;
}

static void test_scaling(void) {
    static const scaled_case cases[] = {
        {128, 5e5f, {LLAMA3, 8, 1, 4, 8192}}, {64, 5e5f, {LLAMA3, 32, 1, 4, 8192}}, {24, 5e4f, {LLAMA3, 32, 1, 4, 40}},
        {128, 5e5f, {LLAMA3, 1e6f, 1, 4, 131072}}, {128, 5e5f, {LLAMA3, 8, 2, 6, 8192}}, {128, 5e5f, {LLAMA3, 8, 1, 4, 1}},
        {128, 1e30f, {LLAMA3, 8, 1, 4, 4e25f}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const scaled_case *c = &cases[i];
        float want[64], divisors[64], got[64], plain[64];
        size_t half = c->head_dim / 2;
        bool published = c->scaling.low == 1 && c->scaling.original > 1 && c->scaling.original < 1e9f; /* and not all divisors are equal */
        scaled_model(c, want, divisors);
        llama m = {.head_dim = c->head_dim, .rope_theta = c->theta, .freqs = plain};
        rope_freqs(&m);
        for (size_t j = 0; j < half; j++)
            check(fabsf(plain[j] / divisors[j] / want[j] - 1) < 1e-6f * c->scaling.factor, "scaling %zu: frequency %zu is %g", i, j, (double)want[j]);
        m.freqs = got, m.divisors = divisors;
        find_llama3(&m);
        rope_freqs(&m);
        check(published ? m.scaling.kind == LLAMA3 && m.scaling.factor == c->scaling.factor && m.scaling.original == c->scaling.original
                        : m.scaling.kind == DIVISORS, "scaling %zu: found kind %d, %g, %g", i, (int)m.scaling.kind, (double)m.scaling.factor, (double)m.scaling.original);
        if (published) check(memcmp(got, want, half * sizeof *got) == 0, "scaling %zu: other bits from the divisors", i);
        for (size_t j = 0; j < half; j++)
            check(fabsf(got[j] / want[j] - 1) < 1e-5f, "scaling %zu: divided frequency %zu is %g", i, j, (double)got[j]);
        divisors[half / 2] *= 1.001f; /* of no constants */
        m.scaling.kind = UNSCALED, m.divisors = divisors;
        find_llama3(&m);
        rope_freqs(&m);
        check(m.scaling.kind == DIVISORS && got[half / 2] == plain[half / 2] / divisors[half / 2], "scaling %zu: other divisors are taken as they are", i);
    }
    float got[64];
    llama m = {.head_dim = 128, .rope_theta = 1e4f, .freqs = got, .scaling = {LINEAR, 3, 1, 4, 8192}};
    rope_freqs(&m);
    check(got[0] == 1.0f / 3, "linear: %g", (double)got[0]);
    float halves[64];
    for (int j = 0; j < 64; j++) halves[j] = 2;
    m.divisors = halves;
    find_llama3(&m);
    rope_freqs(&m);
    check(got[0] == 1.0f / 3 / 2, "linear, and divisors: %g", (double)got[0]);
    static const struct {
        size_t dim;
        bool tied;
        float factor;
    } meta[] = {{2048, true, 32}, {3072, true, 32}, {2048, false, 8}, {4096, true, 8}, {4096, false, 8}};
    for (size_t i = 0; i < sizeof meta / sizeof *meta; i++) {
        const unsigned char *part = NULL;
        llama model = {.dim = meta[i].dim, .tok_embeddings.part = &part, .output.part = meta[i].tied ? &part : NULL, .scaling.kind = LLAMA3};
        find_llama3(&model);
        check(model.scaling.factor == meta[i].factor, "Meta's factor of a width of %zu: %g", meta[i].dim, (double)model.scaling.factor);
    }
}

/* [{"head_dim": .., "theta": .., "scale": ["llama3", factor, low, high, original], "freqs_f32_bits_torch": ["3f800000", ..]}, ..] */
static const char *scaled_file;

static void test_scaled_freqs(void) {
    char *json = scaled_file ? read_file(scaled_file, NULL) : NULL;
    int entries = 0, differ = 0, tables = 0, found = 0, divided = 0;
    for (const char *at = json; at && (at = strstr(at, "{\"name\"")); at++, tables++) {
        size_t n = 0, head_dim = (size_t)json_double(at, "head_dim");
        const char *scale = json_find(at, "scale"), *bits = strchr(json_find(at, "freqs_f32_bits_torch"), '[');
        double original = 8192, f = 0, low = 1, high = 4;
        float got[64], again[64];
        llama m = {.head_dim = head_dim, .rope_theta = (float)json_double(at, "theta"), .freqs = got};
        if (sscanf(scale, " [\"linear\", %lf", &f) == 1) m.scaling.kind = LINEAR;
        if (sscanf(scale, " [\"llama3\", %lf, %lf, %lf, %lf", &f, &low, &high, &original) == 4) m.scaling.kind = LLAMA3;
        m.scaling.factor = (float)f, m.scaling.low = (float)low, m.scaling.high = (float)high, m.scaling.original = (float)original;
        rope_freqs(&m);
        for (size_t j = 0; j < head_dim / 2; j++, entries++) {
            uint32_t want = (uint32_t)strtoul(bits = strchr(bits, '"') + 1, NULL, 16), have;
            memcpy(&have, &got[j], 4);
            differ += have != want;
            bits = strchr(bits, '"') + 1;
        }
        if (m.scaling.kind != LLAMA3) continue;
        double *w = json_numbers(at, "gguf_rope_freqs_f32", &n);
        float divisors[64];
        for (size_t j = 0; j < n && j < 64; j++) divisors[j] = (float)w[j];
        m.freqs = again, m.divisors = divisors, m.scaling.kind = UNSCALED, m.scaling.original = 0;
        find_llama3(&m);
        rope_freqs(&m);
        divided++, found += n == head_dim / 2 && m.scaling.kind == LLAMA3 && memcmp(again, got, n * sizeof *got) == 0;
        free(w);
    }
    if (!scaled_file) return;
    check(entries > 0 && differ <= 1, "%s: %d of %d entries differ", scaled_file, differ, entries);
    check(divided > 0 && found == divided, "%s: the constants of %d of %d tables of divisors", scaled_file, found, divided);
    printf("rope_freqs_scaled.json: %d tables, %d of %d entries are PyTorch's bit for bit\n", tables, entries - differ, entries);
    free(json);
}

/* Pieces made to fall into one slot of the hash table are refused before they take long. */
static void test_collisions(void) {
    llamac_arena arena = {.last = NULL};
    llamac_copy_allocator(&arena.allocator, NULL, NULL);
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

/* Without an instruction: as libm's fmaf, where that is exact. Of all bits; of products and sums of similar size; of
 * results that are denormal; of sums halfway between two floats but for a little. */
static void test_fused(void) {
    int wrong = 0;
#if defined(_WIN32)
    puts("SKIP: fmaf of this C library is not exact");
#else
    for (int i = 0, n = test_quick ? 1000000 : 20000000; i < n; i++) {
        uint32_t bits[3] = {draw(), draw(), draw()}, exponents[3] = {127, 127, 100 + draw() % 40};
        float x[3];
        if (i % 4 == 2) exponents[0] = 30 + draw() % 60, exponents[1] = 30 + draw() % 40, exponents[2] = draw() % 2;
        if (i % 4 == 3) bits[0] &= ~0xfffu, bits[1] &= ~0xfffu, bits[2] &= 0x80000003, exponents[2] = 90 + draw() % 60;
        for (int k = 0; k < 3 && i % 4; k++) bits[k] = (bits[k] & 0x807fffff) | exponents[k] << 23;
        memcpy(x, bits, sizeof x);
        float got = fused(x[0], x[1], x[2], false), want = fmaf(x[0], x[1], x[2]);
        wrong += memcmp(&got, &want, sizeof got) != 0 && !(isnan(got) && isnan(want));
    }
#endif
    check(wrong == 0, "%d sums of a product are not rounded once", wrong);
}

/* ---- How many cores a container leaves us ---- */

#if defined(__linux__)

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
    int64_t got = llamac_cgroup_limit("build/cgroup/self", "build/cgroup/sys", "cpu", llamac_cgroup_quota);
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
    check(llamac_cgroup_limit("build/cgroup/none", "build/cgroup/sys", "cpu", llamac_cgroup_quota) == 0, "no such file");
}
#else
static void test_cgroups(void) { puts("SKIP: cgroups are Linux's"); }
#endif

static const test_case cases[] = {
    CASE(cgroups), CASE(collisions), CASE(exp_float), CASE(fused), CASE(doubles), CASE(half), CASE(widening), CASE(products), CASE(order),
    CASE(freqs), CASE(scaling), CASE(scaled_freqs)};

int main(int argc, char **argv) {
    argc = tests_begin(argc, argv);
    if (argc > 2) scaled_file = argv[2];
    else if (argc > 1) freqs_file = argv[1];
    if (UNSUPPORTED) printf("SKIP: the processor has no AVX2\n");
    else RUN(cases);
    return tests_done(SUITE);
}
