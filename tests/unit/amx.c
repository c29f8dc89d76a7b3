/* amx.c - LLAMA_FAST's arithmetic where no AMX is: the tile instructions in plain C, as the processor's manual
 * defines them, in place of the real ones.
 *
 *   amx [MODEL golden-folder]...       logits of a golden within 2e-4
 *
 * Speed, and whether a real AMX does as its manual says, only such a machine can tell.
 */
#if !defined(__x86_64__)
#include <stdio.h>
int main(void) {
    printf("SKIP: AMX is of x86-64\n0 passed, 0 failed\n");
    return 0;
}
#else
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#define LLAMAC_TILES /* llama.c leaves these alone */
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadd(t, from, stride)  tile_load(t, from, stride)
#define _tile_stored(t, to, stride)   tile_store(t, to, stride)
#define _tile_dpbf16ps(c, a, b)       tile_products(c, a, b)
#define _tile_loadconfig(config)      tile_configure(config)
#define _tile_release()               tile_configure(NULL)

static struct {
    unsigned char palette, start_row, reserved[14];
    uint16_t bytes[16];
    unsigned char rows[16];
} tiles_are;
static unsigned char tiles[8][16][64];
static int misuse; /* what a processor would fault on */
static long multiplied;

static void tile_configure(const void *config) {
    memset(&tiles_are, 0, sizeof tiles_are);
    if (config) memcpy(&tiles_are, config, sizeof tiles_are);
    memset(tiles, 0xff, sizeof tiles); /* NaN: nothing may be counted on */
    for (int i = 0; config && i < 16; i++) misuse += tiles_are.rows[i] > 16 || tiles_are.bytes[i] > 64 || (i >= 8 && tiles_are.rows[i]);
    misuse += config && (tiles_are.palette != 1 || tiles_are.start_row);
}
static void tile_load(int t, const void *from, size_t stride) {
    misuse += tiles_are.rows[t] != 16 || tiles_are.bytes[t] != 64;
    for (int r = 0; r < 16; r++) memcpy(tiles[t][r], (const char *)from + (size_t)r * stride, 64);
}
static void tile_store(int t, void *to, size_t stride) {
    misuse += tiles_are.rows[t] != 16 || tiles_are.bytes[t] != 64;
    for (int r = 0; r < 16; r++) memcpy((char *)to + (size_t)r * stride, tiles[t][r], 64);
}
static float bf16_at(const unsigned char *p) {
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float f;
    memcpy(&f, &bits, 4);
    return (bits & 0x7f800000) ? f : 0; /* denormals are zero */
}
/* TDPBF16PS: C[m][n] += the sum of A[m][2k] B[k][2n] + that of A[m][2k+1] B[k][2n+1], k from 0 to 15 */
static void tile_products(int c, int a, int b) {
    misuse += c == a || c == b || a == b;
    multiplied++;
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum, even = 0, odd = 0;
            memcpy(&sum, tiles[c][m] + 4 * n, 4);
            for (int k = 0; k < 16; k++) {
                even += bf16_at(tiles[a][m] + 4 * k) * bf16_at(tiles[b][k] + 4 * n);
                odd += bf16_at(tiles[a][m] + 4 * k + 2) * bf16_at(tiles[b][k] + 4 * n + 2);
            }
            sum += even + odd;
            memcpy(tiles[c][m] + 4 * n, &sum, 4);
        }
}

#include "../../llama.c"
#include "../../tokenizer.c"
#include "../tools/checkpoint.h"

static double random_number(void) {
    static uint64_t x = 1;
    x = x * 6364136223846793005u + 1442695040888963407u;
    return (double)(x >> 33) * 0x1p-31 - 0.5;
}

/* w [rows][cols] in `segments` side by side by x [n][cols], against sums in double: the error as a share of sum |w x| */
static void product_case(int type, size_t rows, size_t cols, size_t segments, size_t n, size_t begin, size_t end) {
    size_t width = cols * segments, tokens = (n + TILED - 1) / TILED * TILED, ldx = padded(width), ldy = padded(rows);
    unsigned char *w = must_alloc(rows * width * 2);
    float *x = must_alloc(n * ldx * 4), *y = must_alloc(n * ldy * 4);
    float *packed = aligned_alloc(64, tokens * width * 6 + 64), *acc = aligned_alloc(64, GROUP * TILED * tokens * 4);
    float *panel = aligned_alloc(64, TILED * PANEL_COLUMNS * 4);
    const unsigned char *part[4];
    for (size_t i = 0; i < rows * width; i++) {
        float f = (float)random_number();
        uint32_t bits;
        memcpy(&bits, &f, 4);
        uint16_t half = type == BF16 ? (uint16_t)(bits >> 16) : (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 13) & 0x3ffff) - (112 << 10)));
        if (type == F16 && fabsf(f) < 0x1p-14f) half = (uint16_t)(i % 1024); /* denormals too */
        memcpy(w + 2 * i, &half, 2);
    }
    for (size_t i = 0; i < n * ldx; i++) x[i] = (float)(8 * random_number());
    for (size_t i = 0; i < n * ldy; i++) y[i] = -77;
    for (size_t s = 0; s < segments; s++) {
        part[s] = w + s * rows * cols * 2; /* one segment after the other, rows of cols */
        for (size_t k = 0; k < cols; k += PANEL_COLUMNS) {
            size_t count = cols - k < PANEL_COLUMNS ? cols - k : PANEL_COLUMNS;
            pack_amx(packed + (s * cols + k) * tokens / 2 * 3, x + s * cols + k, ldx, n, count);
        }
    }
    workspace own = {panel, acc, NULL, NULL};
    matmul_amx(&(matmul_args){{part, segments, cols, cols * 2, type}, packed, y, ldy, n, PREFETCH_TILE, &own}, begin, end);
    double worst = 0;
    int touched = 0;
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < rows; r++) {
            double sum = 0, size = 0;
            for (size_t c = 0; c < width; c++) {
                double one = (double)element(type, part[c / cols], r * cols + c % cols) * (double)x[t * ldx + c];
                sum += one, size += fabs(one);
            }
            if (r >= begin && r < end) worst = fmax(worst, fabs(sum - (double)y[t * ldy + r]) / size);
            else touched += y[t * ldy + r] != -77;
        }
    check(worst < 4e-7 && worst > 0, "%s [%zu][%zu] x %zu, rows %zu to %zu: off by %.2e", dtype_names[type], rows, width, n, begin, end, worst);
    check(touched == 0, "%d elements of other rows are written", touched);
    free(w), free(x), free(y), free(packed), free(acc), free(panel);
}

/* The logits of `tokens`, by some kernels; false: they could not be had. */
static bool logits_of(const llama *m, const kernels *k, const int32_t *tokens, size_t n, int batch, float *out) {
    llama_session *s = NULL;
    llama_session_options o = {.size = sizeof o, .threads = 1, .batch = batch};
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    if (!check(llama_session_new(&s, m, &o, NULL) == LLAMA_OK, "session")) return false;
    s->kernels = k;
    bool good = check(llama_eval(s, 0, tokens, n) == LLAMA_OK, "%zu tokens: %s", n, llama_session_error(s));
    if (good) memcpy(out, llama_logits(s, 0), (size_t)info.vocab * sizeof *out);
    llama_session_free(s);
    return good;
}

/* Whole models: near the exact logits with 32 tokens and more, their bits with fewer or in float32. */
static void test_models(void) {
    const model_spec spec = {.dim = 64, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 160, .vocab = 70, .shards = 2};
    int32_t tokens[80];
    static float exact[4096], fast[4096];
    for (int i = 0; i < 80; i++) tokens[i] = (i * 31 + 1) % 70;
    for (int form = 0; form < 3; form++) { /* Meta's in two shards, safetensors, float32 */
        llama *m = NULL;
        llama_error err;
        model_spec one = spec;
        const char *path = "build/amx/meta";
        make_folder("build/amx");
        if (form == 0) model_write(&spec, path);
        else {
            one.shards = 1;
            path = model_write_as(&one, form == 1 ? SAFETENSORS : BIN_0, "build/amx/other");
        }
        if (!check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "%s", err.text)) continue;
        for (size_t n = 1; n <= 80; n += n < 30 || n > 34 ? 5 : 1) {
            long before = multiplied;
            double worst = 0, largest = 0;
            if (!logits_of(m, &kernels_avx512, tokens, n, 0, exact) || !logits_of(m, &kernels_amx, tokens, n, n % 2 ? 0 : (int)n, fast)) continue;
            for (int i = 0; i < 70; i++) worst = fmax(worst, fabs((double)exact[i] - (double)fast[i])), largest = fmax(largest, fabs((double)exact[i]));
            bool tiled = multiplied > before;
            check(tiled == (n >= 32 && form < 2), "form %d, %zu tokens: %ld tiles", form, n, multiplied - before);
            if (tiled) check(worst < 2e-4 * (largest > 1 ? largest : 1), "form %d, %zu tokens: logits off by %.2e of %.2e", form, n, worst, largest);
            else check(worst == 0, "form %d, %zu tokens: other bits", form, n);
        }
        llama_close(m);
    }
}

/* A number that is not finite, in a weight or in x, leaves no finite sum behind. */
static void test_not_finite(void) {
    enum { N = 32, COLS = 64, ROWS = 32 };
    static const uint16_t bad[] = {0x7c00, 0xfc00, 0x7e00, 0x7fff, 0x7c01};
    static float x[N * (COLS + BLOCK)], y[N * (ROWS + BLOCK)];
    static uint16_t w[ROWS * COLS];
    float *packed = aligned_alloc(64, N * COLS * 6), *acc = aligned_alloc(64, GROUP * TILED * N * 4), *panel = aligned_alloc(64, TILED * PANEL_COLUMNS * 4);
    workspace own = {panel, acc, NULL, NULL};
    const unsigned char *part = (const unsigned char *)w;
    for (int k = 0; k < 7; k++) {
        for (int i = 0; i < ROWS * COLS; i++) w[i] = 0x3800;
        for (int i = 0; i < N * (COLS + BLOCK); i++) x[i] = 1;
        if (k < 5) w[7 * COLS + 33] = bad[k];
        else x[9 * (COLS + BLOCK) + 5] = k == 5 ? HUGE_VALF : -NAN;
        pack_amx(packed, x, COLS + BLOCK, N, COLS);
        matmul_amx(&(matmul_args){{&part, 1, COLS, COLS * 2, F16}, packed, y, ROWS + BLOCK, N, PREFETCH_TILE, &own}, 0, ROWS);
        int wrong = 0;
        for (int t = 0; t < N; t++)
            for (int r = 0; r < ROWS; r++) wrong += isfinite(y[t * (ROWS + BLOCK) + r]) == (k < 5 ? r == 7 : t == 9);
        check(wrong == 0, "not finite, case %d: %d sums", k, wrong);
    }
    free(packed), free(acc), free(panel);
}

static void test_golden(const char *model, const char *golden) {
    char path[4096];
    size_t n = 0, n_truth = 0;
    snprintf(path, sizeof path, "%s/golden.json", golden);
    char *json = read_file(path, NULL);
    snprintf(path, sizeof path, "%s/truth_rope32_f32le.bin", golden);
    float *truth = (float *)(void *)read_file(path, &n_truth);
    int32_t *tokens = json_ids(json, "tokens", &n);
    llama *m = NULL;
    llama_error err;
    if (!check(json && truth && n >= 32, "%s", golden) || !check(llama_open(&m, model, NULL, &err) == LLAMA_OK, "%s", err.text)) return;
    size_t vocab = n_truth / 4 / n;
    float *got = must_alloc(vocab * sizeof *got);
    double worst = 0;
    long before = multiplied;
    for (size_t i = 32; i <= n; i += 5) {
        if (!logits_of(m, &kernels_amx, tokens, i, 0, got)) continue;
        for (size_t k = 0; k < vocab; k++) worst = fmax(worst, fabs((double)got[k] - (double)truth[(i - 1) * vocab + k]));
    }
    check(worst <= 2e-4, "%s: off by %.2e", model, worst);
    printf("%-70s max abs %.2e, %ld tile products\n", model, worst, multiplied - before);
    llama_close(m);
    free(json), free(truth), free(tokens), free(got);
}

static void test_products(void) {
    static const size_t shapes[][6] = {{32, 32, 1, 32, 0, 32}, {48, 64, 1, 33, 0, 48}, {100, 256, 1, 47, 0, 100}, {64, 288, 1, 64, 0, 64},
                                       {33, 544, 2, 70, 0, 33}, {160, 32, 3, 32, 16, 144}, {17, 320, 4, 100, 3, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int type = F16; type <= BF16; type++)
            product_case(type, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], shapes[i][4], shapes[i][5]);
}

static const test_case cases[] = {CASE(products), CASE(models), CASE(not_finite)};

int main(int argc, char **argv) {
    argc = tests_begin(argc, argv);
    if (x86_level() < 2) {
        printf("SKIP: AMX's arithmetic (this CPU has no AVX-512)\n0 passed, 0 failed\n");
        return 0;
    }
    RUN(cases);
    for (int i = 1; i + 1 < argc && !test_only; i += 2) test_golden(argv[i], argv[i + 1]);
    check(misuse == 0, "%d uses of tiles that a processor refuses", misuse);
    if (has_amx()) printf("this machine has AMX\n");
    return tests_done("amx");
}
#endif
