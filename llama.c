/* llama.c - LLaMA (Touvron et al. 2023, arXiv:2302.13971) on a CPU, from the files Meta shipped.
 *
 * What it does: maps the checkpoint, runs the transformer in float32 arithmetic whose every rounding
 * is defined (the same bits on each instruction set, thread count, batch and sharding), samples.
 * What it does not do: convert or copy weights, quantise, train, keep global state, print, exit.
 *
 *   I.   The model        types with their shapes, the forward pass
 *   II.  The verbs        embed, rmsnorm, matmul, rope, attention, swiglu: each with its equation
 *   III. Weights          mapping, JSON, zip, pickle, the binding table: files are hostile input
 *   IV.  Using it         sampler, then the public functions in the order of llama.h
 *   V.   The machine      which kernels this CPU runs, and the kernels themselves, written once and
 *                         read once per instruction set: this file includes itself (LLAMA_PASS)
 *
 * Memory: weights stay in the page cache, mapped read-only. A model owns an arena of a few kilobytes
 * a layer. A session is one allocation: scratch for one batch, then the KV cache, touched as used.
 *
 * Read I first: forward() is all of LLaMA. Then II for the equations, V for how they are made fast.
 */
#ifndef LLAMA_PASS
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* mmap, madvise and mlock under -std=c11 */
#endif
#define LLAMA_PRIVATE
#include "llama.h"
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* The bits are a promise, so the source forbids what would change them under a user's flags. */
#if defined(__FAST_MATH__)
#error "llama.c defines the order of its arithmetic: compile it without -ffast-math"
#elif FLT_EVAL_METHOD != 0
#error "llama.c needs float arithmetic in float: on x86 compile with -msse2 -mfpmath=sse"
#elif defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "llama.c uses the files as they lie, and they are little-endian: this machine is not"
#elif SIZE_MAX < UINT64_MAX
#error "llama.c maps files larger than 4 GiB: it needs a 64-bit machine"
#endif
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

/* ============================================================================================== */
/* I. The model                                                                                   */
/* ============================================================================================== */

/* The equations, for the token at position t of a sequence (paper, section 2.2):
 *
 *   x    = tok_embeddings[token]
 *   each layer:
 *     h  = rmsnorm(x) * attention_norm
 *     q, k, v = wq h, wk h, wv h            q, k rotated by their position (RoPE)
 *     a  = for each head: softmax(q . K / sqrt(head_dim)) V     over positions 0..t
 *     x += wo a
 *     h  = rmsnorm(x) * ffn_norm
 *     x += w2 (silu(w1 h) * w3 h)
 *   logits = output (rmsnorm(x) * norm)
 *
 * Letters in comments: n tokens evaluated together, D dim, H hidden, V vocab, K kv_heads * head_dim.
 * A row of an activation buffer of width W takes padded(W) floats; those behind W stay zero. */

typedef enum { F32, F16, BF16, DTYPES } dtype;
static const size_t dtype_bytes[DTYPES] = {4, 2, 2};
static const char *const dtype_names[DTYPES] = {"float32", "float16", "bfloat16"};

/* How a model-parallel checkpoint divides a tensor over its shards. */
typedef enum { WHOLE, BY_ROWS, BY_COLUMNS } division;

typedef struct {                      /* a matrix [rows][cols] as it lies in the files */
    const unsigned char *const *part; /* [parts] the first byte of each shard's piece */
    size_t rows, cols, parts;         /* of the whole matrix; a vector is one row */
    unsigned char type, split;        /* dtype, division */
    short layer;                      /* -1: outside the layers */
    const char *name;                 /* "attention.wq" */
} weight;

typedef struct {
    weight attention_norm; /* [D] */
    weight wq;             /* [D][D] */
    weight wk, wv;         /* [K][D] */
    weight wo;             /* [D][D] */
    weight ffn_norm;       /* [D] */
    weight w1, w3;         /* [H][D] */
    weight w2;             /* [D][H] */
} layer;

typedef struct {
    const unsigned char *data;
    size_t size;
} mapping;

struct llama {
    size_t dim, n_layers, n_heads, n_kv_heads, head_dim, hidden, vocab_size, kv_dim;
    float norm_eps, rope_theta;
    weight tok_embeddings; /* [V][D] */
    weight norm;           /* [D] */
    weight output;         /* [V][D] */
    layer *layers;         /* [n_layers] */
    float *freqs;          /* [head_dim/2] radians per position */
    llamac_vocab *vocab;   /* NULL: no tokenizer */
    mapping *files;        /* [n_files] the shards, then the tokenizer */
    size_t n_files, n_shards;
    uint64_t parameters, file_bytes;
    const char *type_name;
    llamac_arena arena;
};

typedef struct {      /* one sequence */
    float *k, *v;     /* [n_layers][context][K] */
    int32_t *tokens;  /* [context] */
    float *logits;    /* [V] of the last token */
    size_t length;    /* positions filled */
    bool have_logits; /* false: empty or rewound */
} sequence;

typedef struct kernels kernels;

struct llama_session {
    const llama *model;
    const kernels *kernels;
    llamac_arena arena;
    llama_progress_fn progress;
    void *progress_user;
    llama_trace_fn trace;
    void *trace_user;
    size_t n_sequences, context, batch;
    int threads, team; /* asked for; used by this call */
    pid_t pid;
    sequence *sequences; /* [n_sequences] */
    /* scratch of one batch */
    sequence **row_seq; /* [batch] whose token each row is */
    size_t *row_pos;    /* [batch] and its position there */
    int32_t *row_token; /* [batch] */
    float *x, *h, *o;   /* [batch][D] the residual stream, the normed input, a block's output */
    float *q, *k, *v;   /* [batch][D], [batch][K], [batch][K] */
    float *a, *b;       /* [batch][H] */
    float *cos, *sin;   /* [batch][head_dim/2] */
    float *panel, *acc, *scores; /* [threads][...] the kernels' own */
    size_t panel_size, acc_size;
    float *logits;        /* [SCORED][V] */
    double *probs;        /* [V] */
    int32_t *ids;         /* [V] */
    unsigned char *seen;  /* [V] */
    uint64_t done, total; /* layers * tokens: before this batch, of this call */
    bool cancelled;
    llama_error error;
    char about[48];
};

enum {
    BLOCK = 16,        /* columns: rows of matrices are visited in blocks of 16, zero-padded */
    SCORED = 8,        /* rows whose logits are computed together */
    MAX_LAYERS = 1024, /* what a file may ask for at most */
    MAX_WIDTH = 1 << 20,
    MAX_VOCAB = 1 << 20,
    MAX_CONTEXT = 1 << 20,
    MAX_SHARDS = 100,
    MAX_TENSORS = 65536
};

/* Floats from one row of an activation buffer to the next. The second block lets kernels read a
 * whole block from the start of any head, and keeps rows off the same cache sets. */
static size_t padded(size_t width) { return (width + BLOCK - 1) / BLOCK * BLOCK + BLOCK; }

/* The verbs; n is the number of rows, shapes as above. */
static void embed(llama_session *, float *x, size_t n); /* x = E[token] */
static void rmsnorm(llama_session *, float *y, const float *x, const weight *w, size_t n);
static void matmul(llama_session *, float *y, const weight *w, const float *x,
                   size_t n);                                        /* y = w x */
static void rope(llama_session *, float *q, size_t heads, size_t n); /* rotate by position */
static void remember(llama_session *, size_t l, const float *k, const float *v, size_t n);
static void attention(llama_session *, float *y, const float *q, size_t l, size_t n);
static void swiglu(llama_session *, float *a, const float *b, size_t n); /* a = silu(a) * b */
static void add(llama_session *, float *x, const float *y, size_t n);    /* x += y */
static bool cancelled(llama_session *, size_t l, size_t n);

/* LLaMA. n tokens go through all layers together, each at its own position of its own sequence; a
 * prompt and a generated token differ only in n. Leaves the normed last activations in h. */
static void forward(llama_session *s, size_t n) {
    const llama *m = s->model;
    embed(s, s->x, n);
    for (size_t l = 0; l < m->n_layers && !cancelled(s, l, n); l++) {
        const layer *w = &m->layers[l];

        rmsnorm(s, s->h, s->x, &w->attention_norm, n);
        matmul(s, s->q, &w->wq, s->h, n);
        matmul(s, s->k, &w->wk, s->h, n);
        matmul(s, s->v, &w->wv, s->h, n);
        rope(s, s->q, m->n_heads, n);
        rope(s, s->k, m->n_kv_heads, n);
        remember(s, l, s->k, s->v, n);
        attention(s, s->h, s->q, l, n);
        matmul(s, s->o, &w->wo, s->h, n);
        add(s, s->x, s->o, n);

        rmsnorm(s, s->h, s->x, &w->ffn_norm, n);
        matmul(s, s->a, &w->w1, s->h, n);
        matmul(s, s->b, &w->w3, s->h, n);
        swiglu(s, s->a, s->b, n);
        matmul(s, s->o, &w->w2, s->a, n);
        add(s, s->x, s->o, n);
    }
    rmsnorm(s, s->h, s->x, &m->norm, n);
}

/* ============================================================================================== */
/* II. The verbs                                                                                  */
/* ============================================================================================== */

/* Guarantee: an output element is computed by one thread in an order that does not depend on n, on
 * the threads or on the shards. Kernels (part V) do the inner loops; here is who computes what. */

typedef struct {                      /* some rows of a matrix, each in one or more segments */
    const unsigned char *const *part; /* [parts] where row 0 of each segment begins */
    size_t parts, cols, stride;       /* cols of one segment; bytes from row to row */
    int type;
} strip;

struct kernels {
    const char *name;
    /* y[t][r] = sum_k w[r][k] x[t][k] for rows begin <= r < end */
    void (*matmul)(const strip *w, size_t begin, size_t end, const float *x, size_t ldx, float *y,
                   size_t ldy, size_t n, float *panel, float *acc);
    void (*rmsnorm)(float *y, const float *x, const unsigned char *w, int type, size_t n,
                    float eps);
    void (*rope)(float *v, const float *cos, const float *sin, size_t head_dim);
    void (*attend)(float *y, const float *q, const float *keys, const float *values, size_t n,
                   size_t head_dim, size_t stride, float *scores);
    void (*swiglu)(float *a, const float *b, size_t n);
};

/* The floating-point mode: a host may flush denormals or round otherwise, and the bits must not
 * follow. fp_enter sets the default and returns what was there. */
static uint64_t fp_enter(void) {
#if defined(__x86_64__)
    unsigned old = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return old;
#elif defined(__aarch64__)
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return old;
#else
    return 0;
#endif
}

static void fp_leave(uint64_t old) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#else
    (void)old;
#endif
}

typedef void job(void *task, int thread, size_t begin, size_t end);

/* Run a job over 0..items in chunks, on the session's team; the only place that knows OpenMP. */
static void parallel(const llama_session *s, job *run, void *task, size_t items, size_t chunk) {
#ifdef _OPENMP
    if (s->team > 1 && items > chunk) {
        size_t chunks = (items + chunk - 1) / chunk;
#pragma omp parallel num_threads(s->team)
        {
            uint64_t mode = fp_enter();
#pragma omp for schedule(dynamic, 1)
            for (size_t c = 0; c < chunks; c++) {
                size_t begin = c * chunk, end = begin + chunk < items ? begin + chunk : items;
                run(task, omp_get_thread_num(), begin, end);
            }
            fp_leave(mode);
        }
        return;
    }
#endif
    (void)s;
    (void)chunk;
    run(task, 0, 0, items);
}

/* Items a thread takes at a time: an eighth of its share, in whole `unit`s; all of them when the
 * work (multiply-adds) is less than waking a team costs. */
static size_t chunk_of(const llama_session *s, size_t items, size_t unit, size_t work) {
    enum { WORTH_A_TEAM = 1 << 16 };
    if (work < WORTH_A_TEAM) return items;
    size_t chunk = items / ((size_t)s->team * 8) / unit * unit;
    return chunk ? chunk : unit;
}

/* Hand what a weight made of its input to the host, by the weight's name and with the rows packed;
 * the padding is put back afterwards. */
static void trace(llama_session *s, const weight *w, float *x, size_t n, size_t width) {
    if (!s->trace) return;
    char text[96];
    if (w->layer < 0)
        snprintf(text, sizeof text, "%s", w->name);
    else
        snprintf(text, sizeof text, "layers.%d.%s", w->layer, w->name);
    size_t ld = padded(width);
    for (size_t t = 1; t < n; t++) memmove(x + t * width, x + t * ld, width * sizeof *x);
    s->trace(s->trace_user, text, x, n, width);
    for (size_t t = n; t-- > 0;) {
        memmove(x + t * ld, x + t * width, width * sizeof *x);
        memset(x + t * ld + width, 0, (ld - width) * sizeof *x);
    }
}

/* IEEE half to float: the exponent is rebiased by a multiplication, exact for subnormals too. */
static inline float half_to_float(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float f;
    memcpy(&f, &bits, 4);
    f *= 0x1p112f;
    memcpy(&bits, &f, 4);
    if ((h & 0x7c00) == 0x7c00) bits |= 0x7f800000; /* inf, nan */
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &bits, 4);
    return f;
}

/* Element i of a stored row, exactly, at any address. */
static inline float element(int type, const unsigned char *row, size_t i) {
    float f;
    uint16_t half;
    if (type == F32) {
        memcpy(&f, row + 4 * i, 4);
        return f;
    }
    memcpy(&half, row + 2 * i, 2);
    if (type == F16) return half_to_float(half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&f, &bits, 4);
    return f;
}

/* x[t] = tok_embeddings[token of row t]; each shard holds some columns. */
static void embed(llama_session *s, float *x, size_t n) {
    const weight *e = &s->model->tok_embeddings;
    size_t cols = e->cols / e->parts, bytes = dtype_bytes[e->type];
    for (size_t t = 0; t < n; t++)
        for (size_t p = 0; p < e->parts; p++) {
            const unsigned char *row = e->part[p] + (size_t)s->row_token[t] * cols * bytes;
            float *to = x + t * padded(e->cols) + p * cols;
            for (size_t i = 0; i < cols; i++) to[i] = element(e->type, row, i);
        }
    trace(s, e, x, n, e->cols);
}

/* y = x / sqrt(mean(x^2) + eps) * w      (Zhang & Sennrich 2019, arXiv:1910.07467) */
typedef struct {
    const llama_session *s;
    const weight *w;
    float *y;
    const float *x;
} rmsnorm_task;

static void rmsnorm_job(void *task, int thread, size_t begin, size_t end) {
    const rmsnorm_task *j = task;
    size_t ld = padded(j->w->cols);
    (void)thread;
    for (size_t t = begin; t < end; t++)
        j->s->kernels->rmsnorm(j->y + t * ld, j->x + t * ld, j->w->part[0], j->w->type, j->w->cols,
                               j->s->model->norm_eps);
}

static void rmsnorm(llama_session *s, float *y, const float *x, const weight *w, size_t n) {
    rmsnorm_task task = {s, w, y, x};
    parallel(s, rmsnorm_job, &task, n, chunk_of(s, n, 1, n * w->cols));
    trace(s, w, y, n, w->cols);
}

/* y[t][r] = sum_k w[r][k] x[t][k]. Rows are shared out over the threads; a matrix divided by rows
 * is several matrices one below the other, one divided by columns has rows of several segments. */
typedef struct {
    const llama_session *s;
    const weight *w;
    float *y;
    const float *x;
    size_t n;
} matmul_task;

static void matmul_job(void *task, int thread, size_t begin, size_t end) {
    const matmul_task *j = task;
    const llama_session *s = j->s;
    const weight *w = j->w;
    bool by_rows = w->split == BY_ROWS;
    size_t height = by_rows ? w->rows / w->parts : w->rows;
    strip rows = {w->part, by_rows ? 1 : w->parts, by_rows ? w->cols : w->cols / w->parts, 0,
                  w->type};
    rows.stride = rows.cols * dtype_bytes[w->type];
    float *panel = s->panel + (size_t)thread * s->panel_size;
    float *acc = s->acc + (size_t)thread * s->acc_size;
    for (size_t r = begin; r < end;) {
        size_t p = r / height, base = p * height;
        size_t stop = end < base + height ? end : base + height;
        if (by_rows) rows.part = w->part + p;
        s->kernels->matmul(&rows, r - base, stop - base, j->x, padded(w->cols), j->y + base,
                           padded(w->rows), j->n, panel, acc);
        r = stop;
    }
}

static void matmul(llama_session *s, float *y, const weight *w, const float *x, size_t n) {
    matmul_task task = {s, w, y, x, n};
    parallel(s, matmul_job, &task, w->rows, chunk_of(s, w->rows, BLOCK, n * w->rows * w->cols));
    trace(s, w, y, n, w->rows);
}

/* RoPE (Su et al. 2021, arXiv:2104.09864) as Meta's code pairs elements: (2j, 2j+1) of each head
 * turn by position * theta^(-2j/head_dim) radians. */
static void rope(llama_session *s, float *q, size_t heads, size_t n) {
    const llama *m = s->model;
    size_t half = m->head_dim / 2, ld = padded(heads * m->head_dim);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < heads; h++)
            s->kernels->rope(q + t * ld + h * m->head_dim, s->cos + t * half, s->sin + t * half,
                             m->head_dim);
}

/* Keys and values of layer l at position 0 of a sequence: [context][K] */
static float *cache(const llama_session *s, float *kv, size_t l) {
    return kv + l * s->context * s->model->kv_dim;
}

/* The KV cache: K[l][t] = k, V[l][t] = v, in float32. */
static void remember(llama_session *s, size_t l, const float *k, const float *v, size_t n) {
    size_t width = s->model->kv_dim, ld = padded(width);
    for (size_t t = 0; t < n; t++) {
        size_t at = s->row_pos[t] * width;
        memcpy(cache(s, s->row_seq[t]->k, l) + at, k + t * ld, width * sizeof *k);
        memcpy(cache(s, s->row_seq[t]->v, l) + at, v + t * ld, width * sizeof *v);
    }
}

/* y = softmax(q K^T / sqrt(head_dim)) V for each row and head, over the positions up to its own
 * (Vaswani et al. 2017, arXiv:1706.03762; with fewer kv_heads, neighbouring heads share one). */
typedef struct {
    const llama_session *s;
    size_t l;
    float *y;
    const float *q;
} attention_task;

static void attention_job(void *task, int thread, size_t begin, size_t end) {
    const attention_task *j = task;
    const llama_session *s = j->s;
    const llama *m = s->model;
    size_t ld = padded(m->dim), group = m->n_heads / m->n_kv_heads;
    for (size_t i = begin; i < end; i++) {
        size_t t = i / m->n_heads, head = i % m->n_heads, at = t * ld + head * m->head_dim;
        size_t kv = head / group * m->head_dim;
        const sequence *q = s->row_seq[t];
        s->kernels->attend(j->y + at, j->q + at, cache(s, q->k, j->l) + kv,
                           cache(s, q->v, j->l) + kv, s->row_pos[t] + 1, m->head_dim, m->kv_dim,
                           s->scores + (size_t)thread * padded(s->context));
    }
}

static void attention(llama_session *s, float *y, const float *q, size_t l, size_t n) {
    attention_task task = {s, l, y, q};
    size_t work = n * (s->row_pos[n - 1] + 1) * s->model->dim * 2;
    parallel(s, attention_job, &task, n * s->model->n_heads,
             chunk_of(s, n * s->model->n_heads, 1, work));
}

/* a = a / (1 + exp(-a)) * b      (Shazeer 2020, arXiv:2002.05202) */
typedef struct {
    const llama_session *s;
    float *a;
    const float *b;
} swiglu_task;

static void swiglu_job(void *task, int thread, size_t begin, size_t end) {
    const swiglu_task *j = task;
    size_t width = j->s->model->hidden, ld = padded(width);
    (void)thread;
    for (size_t t = begin; t < end; t++) j->s->kernels->swiglu(j->a + t * ld, j->b + t * ld, width);
}

static void swiglu(llama_session *s, float *a, const float *b, size_t n) {
    swiglu_task task = {s, a, b};
    parallel(s, swiglu_job, &task, n, chunk_of(s, n, 1, n * s->model->hidden * 8));
}

static void add(llama_session *s, float *x, const float *y, size_t n) {
    size_t ld = padded(s->model->dim);
    for (size_t i = 0; i < n * ld; i++) x[i] += y[i];
}

/* Ask the host, before each layer, whether to go on. */
static bool cancelled(llama_session *s, size_t l, size_t n) {
    if (s->progress && !s->cancelled)
        s->cancelled = s->progress(s->progress_user, "prompt", s->done + l * n, s->total) != 0;
    return s->cancelled;
}

/* ============================================================================================== */
/* III. Weights                                                                                   */
/* ============================================================================================== */

/* Guarantee: every number of a file is checked before use. Parsers read through llamac_cursor alone,
 * from bytes in memory; nothing recurses; nothing is allocated beyond a small multiple of the bytes
 * that ask for it. A refusal says which file, what and why. */

/* ---- Memory, errors, files ---- */

struct llamac_block {
    llamac_block *next;
    size_t bytes;
};
enum { ALIGNMENT = 64 };

static void *default_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void default_free(void *user, void *p, size_t bytes) {
    (void)user;
    (void)bytes;
    free(p);
}

static llama_allocator allocator_or_default(const llama_allocator *a) {
    static const llama_allocator standard = {NULL, default_alloc, default_free};
    return a ? *a : standard;
}

/* bytes of memory in the arena, not zeroed */
static void *arena_raw(llamac_arena *a, uint64_t bytes) {
    uint64_t total;
    if (__builtin_add_overflow(bytes, ALIGNMENT, &total) || total > SIZE_MAX / 2) return NULL;
    llamac_block *b = a->allocator.alloc(a->allocator.user, (size_t)total, ALIGNMENT);
    if (!b) return NULL;
    b->next = a->last;
    b->bytes = (size_t)total;
    a->last = b;
    return (unsigned char *)b + ALIGNMENT;
}

LLAMA_SHARED void *llamac_new(llamac_arena *a, uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    void *p = arena_raw(a, bytes);
    return p ? memset(p, 0, (size_t)bytes) : NULL;
}

LLAMA_SHARED void llamac_free_all(llamac_arena *a) {
    while (a->last) {
        llamac_block *b = a->last;
        a->last = b->next;
        a->allocator.free(a->allocator.user, b, b->bytes);
    }
}

LLAMA_SHARED int llamac_fail(llama_error *err, int status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        for (char *c = err->text; *c; c++) /* a file's own names must not act on a terminal */
            if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
    }
    return status;
}

static int out_of_memory(llama_error *err, const char *what) {
    return llamac_fail(err, LLAMA_ENOMEM, "%s: out of memory", what);
}

enum { PATH_BYTES = 4096 };

/* out = folder/name; false if it does not fit */
static bool join(char out[PATH_BYTES], const char *folder, const char *name) {
    int n = snprintf(out, PATH_BYTES, "%s/%s", folder, name);
    return n > 0 && n < PATH_BYTES;
}

/* Map a regular file read-only. LLAMA_EIO with errno kept tells an absent file from a bad one. */
static int map_file(mapping *f, const char *path, llama_error *err) {
    f->data = NULL;
    f->size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    struct stat st;
    int status = LLAMA_OK;
    void *p = MAP_FAILED;
    if (fstat(fd, &st) != 0)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status =
            llamac_fail(err, LLAMA_EIO, "%s: is not a regular file; give the file itself", path);
    else if (st.st_size <= 0)
        status = llamac_fail(err, LLAMA_EFORMAT, "%s: is empty; download it again", path);
    else if ((p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be mapped: %s", path, strerror(errno));
    close(fd);
    if (status == LLAMA_OK) {
        f->data = p;
        f->size = (size_t)st.st_size;
    }
    return status;
}

static void unmap_file(mapping *f) {
    if (f->data) munmap((void *)(uintptr_t)f->data, f->size);
    f->data = NULL;
}

/* ---- params.json: one flat object (ECMA-404) ---- */

static void json_space(llamac_cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
        c->at++;
}

/* Skip space, then take this character if it is next. */
static bool json_is(llamac_cursor *c, char want) {
    json_space(c);
    if (c->at == c->end || *c->at != (unsigned char)want) return false;
    c->at++;
    return true;
}

/* A string, its escapes left as they stand: keys we look for have none. */
static bool json_string(llamac_cursor *c, const char **text, size_t *n) {
    if (!json_is(c, '"')) return false;
    const unsigned char *begin = c->at;
    while (c->at < c->end && *c->at != '"') {
        size_t step = *c->at == '\\' ? 2 : 1;
        if (*c->at < ' ' || step > llamac_left(c)) return false;
        c->at += step;
    }
    if (c->at == c->end) return false;
    *text = (const char *)begin;
    *n = (size_t)(c->at - begin);
    c->at++;
    return true;
}

static bool is_digit(const llamac_cursor *c) {
    return c->at < c->end && *c->at >= '0' && *c->at <= '9';
}

/* A number, exact to a double for up to 15 digits and exponents within 22, as params.json has. */
static bool json_number(llamac_cursor *c, double *out) {
    bool minus = json_is(c, '-'), down = false;
    double v = 0, scale = 1;
    int exponent = 0, shift = 0, digits = 0;
    for (; is_digit(c) && digits < 400; digits++) v = v * 10 + (*c->at++ - '0');
    if (!digits) return false;
    if (c->at < c->end && *c->at == '.')
        for (c->at++; is_digit(c) && digits < 400; digits++, shift--) v = v * 10 + (*c->at++ - '0');
    if (c->at < c->end && (*c->at | 32) == 'e') {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) down = *c->at++ == '-';
        if (!is_digit(c)) return false;
        while (is_digit(c) && exponent < 1000) exponent = exponent * 10 + (*c->at++ - '0');
    }
    exponent = (down ? -exponent : exponent) + shift;
    for (int i = 0; i < abs(exponent) && i < 400; i++) scale *= 10;
    v = exponent < 0 ? v / scale : v * scale;
    *out = minus ? -v : v;
    return !is_digit(c);
}

static bool json_word(llamac_cursor *c, const char *word) {
    size_t n = strlen(word);
    json_space(c);
    if (llamac_left(c) < n || memcmp(c->at, word, n) != 0) return false;
    c->at += n;
    return true;
}

enum json_kind {
    JSON_BAD,
    JSON_NUMBER,
    JSON_STRING,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NULL,
    JSON_NESTED
};

/* Any value but an object or array, of which only the kind is told. */
static enum json_kind json_scalar(llamac_cursor *c, double *number) {
    const char *text;
    size_t n;
    json_space(c);
    if (c->at == c->end) return JSON_BAD;
    switch (*c->at) {
    case '{':
    case '[': return JSON_NESTED;
    case '"': return json_string(c, &text, &n) ? JSON_STRING : JSON_BAD;
    case 't': return json_word(c, "true") ? JSON_TRUE : JSON_BAD;
    case 'f': return json_word(c, "false") ? JSON_FALSE : JSON_BAD;
    case 'n': return json_word(c, "null") ? JSON_NULL : JSON_BAD;
    default: return json_number(c, number) ? JSON_NUMBER : JSON_BAD;
    }
}

typedef struct { /* params.json; zero where absent */
    double dim, n_layers, n_heads, n_kv_heads, vocab_size, multiple_of;
    double norm_eps, rope_theta, ffn_dim_multiplier;
} params;

/* What the keys of params.json may say. */
static const struct {
    const char *key;
    size_t at;
    bool whole;
    double least, most;
} params_keys[] = {
    {"dim", offsetof(params, dim), true, 2, MAX_WIDTH},
    {"n_layers", offsetof(params, n_layers), true, 1, MAX_LAYERS},
    {"n_heads", offsetof(params, n_heads), true, 1, MAX_WIDTH},
    {"n_kv_heads", offsetof(params, n_kv_heads), true, 1, MAX_WIDTH},
    {"vocab_size", offsetof(params, vocab_size), true, -1, MAX_VOCAB},
    {"multiple_of", offsetof(params, multiple_of), true, 1, MAX_WIDTH},
    {"norm_eps", offsetof(params, norm_eps), false, 1e-30, 1},
    {"rope_theta", offsetof(params, rope_theta), false, 1, 1e30},
    {"ffn_dim_multiplier", offsetof(params, ffn_dim_multiplier), false, 1e-3, 1e3},
};
enum { PARAMS_KEYS = sizeof params_keys / sizeof *params_keys };

/* One "key": value of params.json. What we do not know may be there if it is a plain value. */
static int params_entry(params *p, llamac_cursor *c, const char *file, llama_error *err) {
    const char *key;
    size_t n;
    double number = 0;
    if (!json_string(c, &key, &n) || !json_is(c, ':'))
        return llamac_fail(err, LLAMA_EFORMAT, "%s: is not a JSON object; use the file Meta ships",
                           file);
    int shown = n < 64 ? (int)n : 64;
    enum json_kind kind = json_scalar(c, &number);
    bool scaled = n == 15 && memcmp(key, "use_scaled_rope", 15) == 0 && kind != JSON_FALSE;
    if (kind == JSON_BAD)
        return llamac_fail(err, LLAMA_EFORMAT, "%s: '%.*s' has no JSON value", file, shown, key);
    if (kind == JSON_NESTED || scaled)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: '%.*s' is not of LLaMA 1 or 2 and is not supported", file, shown,
                           key);
    for (int i = 0; i < PARAMS_KEYS; i++) {
        if (strlen(params_keys[i].key) != n || memcmp(params_keys[i].key, key, n) != 0) continue;
        if (kind == JSON_NULL) break; /* Meta writes "ffn_dim_multiplier": null */
        double least = params_keys[i].least, most = params_keys[i].most;
        if (kind != JSON_NUMBER || !(number >= least && number <= most) ||
            (params_keys[i].whole && number != (double)(long)number))
            return llamac_fail(
                err, LLAMA_EFORMAT, "%s: '%s' must be a%s number from %.10g to %.10g", file,
                params_keys[i].key, params_keys[i].whole ? " whole" : "", least, most);
        memcpy((char *)p + params_keys[i].at, &number, sizeof number);
    }
    return LLAMA_OK;
}

static int params_parse(params *p, const void *bytes, size_t n, const char *file,
                        llama_error *err) {
    llamac_cursor c = llamac_cursor_on(bytes, n);
    memset(p, 0, sizeof *p);
    if (!json_is(&c, '{'))
        return llamac_fail(err, LLAMA_EFORMAT, "%s: is not a JSON object; use the file Meta ships",
                           file);
    bool closed = json_is(&c, '}');
    if (!closed) {
        do {
            int status = params_entry(p, &c, file, err);
            if (status) return status;
        } while (json_is(&c, ','));
        closed = json_is(&c, '}');
    }
    json_space(&c);
    if (!closed || c.at != c.end)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: the JSON object is cut short or followed by more", file);
    if (p->dim == 0 || p->n_layers == 0 || p->n_heads == 0 || p->norm_eps == 0)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: dim, n_layers, n_heads and norm_eps must be there", file);
    if (p->n_kv_heads == 0) p->n_kv_heads = p->n_heads;
    if (p->rope_theta == 0) p->rope_theta = 10000;
    return LLAMA_OK;
}

/* The model's shape from its parameters; V and H are known only with the tensors. */
static int params_apply(llama *m, const params *p, const char *file, llama_error *err) {
    m->dim = (size_t)p->dim;
    m->n_layers = (size_t)p->n_layers;
    m->n_heads = (size_t)p->n_heads;
    m->n_kv_heads = (size_t)p->n_kv_heads;
    m->norm_eps = (float)p->norm_eps;
    m->rope_theta = (float)p->rope_theta;
    if (m->dim % m->n_heads || m->n_heads % m->n_kv_heads)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: dim %zu, n_heads %zu and n_kv_heads %zu must divide one another",
                           file, m->dim, m->n_heads, m->n_kv_heads);
    m->head_dim = m->dim / m->n_heads;
    m->kv_dim = m->head_dim * m->n_kv_heads;
    if (m->head_dim % 2)
        return llamac_fail(err, LLAMA_EFORMAT, "%s: heads of %zu elements have no pairs for RoPE",
                           file, m->head_dim);
    return LLAMA_OK;
}

/* ---- PyTorch's zip: stored entries, found through the central directory (APPNOTE.TXT 4.3) ---- */

typedef struct {
    const char *name;
    size_t name_length;
    const unsigned char *data;
    uint64_t size;
} zip_entry;

typedef struct { /* one shard while it is read; `scratch` is freed when the model is open */
    const char *file;
    llamac_cursor bytes;
    llamac_arena *scratch;
    llama_error *err;
    zip_entry *entries;
    size_t n_entries, hint; /* hint: where the next storage probably is */
    const char *root;       /* "consolidated" of consolidated/data.pkl */
    size_t root_length;
} shard;

static int bad_zip(shard *z, const char *why) {
    return llamac_fail(z->err, LLAMA_EFORMAT,
                       "%s: %s; the file is damaged or not a checkpoint: download it again",
                       z->file, why);
}

static llamac_cursor at(const shard *z, uint64_t offset, uint64_t n) {
    llamac_cursor c = z->bytes;
    llamac_take(&c, offset);
    const unsigned char *p = llamac_take(&c, n);
    llamac_cursor part = {p, p ? p + n : p, p == NULL};
    return part;
}

/* Where the central directory is: the end record, then its zip64 form where there is one. */
static int zip_directory(shard *z, llamac_cursor *directory, uint64_t *count) {
    enum { END = 22, LOCATOR = 20, END64 = 56, COMMENT_MAX = 65535 };
    size_t size = llamac_left(&z->bytes), back = END;
    for (; back <= size && back <= END + COMMENT_MAX; back++) {
        const unsigned char *p = z->bytes.end - back;
        if (memcmp(p, "PK\5\6", 4) == 0 && (size_t)(p[20] | p[21] << 8) == back - END) break;
    }
    if (back > size || back > END + COMMENT_MAX) return bad_zip(z, "no zip end record");
    llamac_cursor end = at(z, size - back, END);
    llamac_take(&end, 10);
    *count = llamac_uint(&end, 2);
    uint64_t bytes = llamac_uint(&end, 4), offset = llamac_uint(&end, 4);
    llamac_cursor locator =
        size >= back + LOCATOR ? at(z, size - back - LOCATOR, LOCATOR) : at(z, size, 1);
    if (llamac_uint(&locator, 4) == 0x07064b50) {
        llamac_take(&locator, 4);
        llamac_cursor end64 = at(z, llamac_uint(&locator, 8), END64);
        if (llamac_uint(&end64, 4) != 0x06064b50)
            return bad_zip(z, "no zip64 end record where it should be");
        llamac_take(&end64, 28);
        *count = llamac_uint(&end64, 8);
        bytes = llamac_uint(&end64, 8);
        offset = llamac_uint(&end64, 8);
    }
    *directory = at(z, offset, bytes);
    if (directory->bad) return bad_zip(z, "the zip directory lies outside the file");
    return LLAMA_OK;
}

/* One directory entry. In the extra field 0x0001 stand, in order, the numbers that did not fit in 32
 * bits. The data follow the local header, whose own name and extra field may be of other lengths. */
static int zip_one(shard *z, llamac_cursor *c, zip_entry *e) {
    if (llamac_uint(c, 4) != 0x02014b50) return bad_zip(z, "a zip directory entry is damaged");
    llamac_take(c, 6);
    uint64_t method = llamac_uint(c, 2);
    llamac_take(c, 8);
    uint64_t packed = llamac_uint(c, 4), size = llamac_uint(c, 4);
    uint64_t name = llamac_uint(c, 2), extra = llamac_uint(c, 2), comment = llamac_uint(c, 2);
    llamac_take(c, 8);
    uint64_t offset = llamac_uint(c, 4);
    e->name = (const char *)llamac_take(c, name);
    e->name_length = (size_t)name;
    const unsigned char *fields = llamac_take(c, extra);
    llamac_take(c, comment);
    if (c->bad) return bad_zip(z, "the zip directory is cut short");
    llamac_cursor x = llamac_cursor_on(fields, (size_t)extra);
    while (llamac_left(&x) >= 4) {
        uint64_t id = llamac_uint(&x, 2), n = llamac_uint(&x, 2);
        const unsigned char *p = llamac_take(&x, n);
        if (!p || id != 1) continue;
        llamac_cursor wide = llamac_cursor_on(p, (size_t)n);
        if (size == UINT32_MAX) size = llamac_uint(&wide, 8);
        if (packed == UINT32_MAX) packed = llamac_uint(&wide, 8);
        if (offset == UINT32_MAX) offset = llamac_uint(&wide, 8);
        if (wide.bad) return bad_zip(z, "a zip64 field is cut short");
    }
    if (method != 0 || packed != size)
        return bad_zip(z, "a zip entry is compressed, which checkpoints are not");
    llamac_cursor local = at(z, offset, 30);
    if (llamac_uint(&local, 4) != 0x04034b50)
        return bad_zip(z, "a zip entry is not where the directory says");
    llamac_take(&local, 22);
    uint64_t local_name = llamac_uint(&local, 2), local_extra = llamac_uint(&local, 2);
    llamac_cursor data = z->bytes;
    llamac_take(&data, offset);
    llamac_take(&data, 30 + local_name + local_extra);
    e->data = llamac_take(&data, size);
    e->size = size;
    return e->data ? LLAMA_OK : bad_zip(z, "a zip entry reaches past the end");
}

static int zip_open(shard *z) {
    enum { ENTRY_MIN = 46 };
    llamac_cursor directory = {0};
    uint64_t count = 0;
    int status = zip_directory(z, &directory, &count);
    if (status) return status;
    if (count > llamac_left(&directory) / ENTRY_MIN || count > MAX_TENSORS)
        return bad_zip(z, "the zip directory has more entries than bytes for them");
    z->entries = llamac_new(z->scratch, count, sizeof *z->entries);
    if (!z->entries) return out_of_memory(z->err, z->file);
    for (; z->n_entries < count; z->n_entries++)
        if ((status = zip_one(z, &directory, &z->entries[z->n_entries]))) return status;
    return LLAMA_OK;
}

/* The entry root/data/key, looked for from where the last one was found. */
static const zip_entry *zip_storage(shard *z, const char *key, size_t n) {
    size_t prefix = z->root_length + 6;
    for (size_t i = 0; i < z->n_entries; i++) {
        const zip_entry *e = &z->entries[(z->hint + i) % z->n_entries];
        if (e->name_length == prefix + n && memcmp(e->name + prefix, key, n) == 0 &&
            memcmp(e->name, z->root, z->root_length) == 0 &&
            memcmp(e->name + prefix - 6, "/data/", 6) == 0) {
            z->hint = (z->hint + i + 1) % z->n_entries;
            return e;
        }
    }
    return NULL;
}

/* The pickle, and with it the root: the one entry whose name ends in data.pkl. */
static const zip_entry *zip_pickle(shard *z) {
    for (size_t i = 0; i < z->n_entries; i++) {
        const zip_entry *e = &z->entries[i];
        if (e->name_length < 9 || memcmp(e->name + e->name_length - 9, "/data.pkl", 9) != 0)
            continue;
        z->root = e->name;
        z->root_length = e->name_length - 9;
        return e;
    }
    return NULL;
}

/* ---- The pickle: a stack machine that can build tensors, and nothing else ---- */

/* Opcodes and globals outside the lists below are refused by name; no opcode calls anything. */

typedef enum {
    P_NONE,
    P_INT,
    P_STRING,
    P_TUPLE,
    P_DICT,
    P_GLOBAL,
    P_STORAGE,
    P_TENSOR,
    P_MARK
} pickle_kind;
typedef enum { G_TENSOR, G_PARAMETER, G_ORDERED_DICT, G_STORAGE /* + dtype */ } pickle_global;

typedef struct {
    pickle_kind kind;
    uint32_t n; /* bytes of a string, items of a tuple */
    union {
        int64_t integer;  /* P_INT; P_GLOBAL: which */
        const char *text; /* P_STRING, in the mapped file */
        size_t at;        /* P_TUPLE: first of its items; P_DICT, P_STORAGE, P_TENSOR: which */
    };
} pickle_value;

typedef struct {
    int type;
    const char *key;
    size_t key_length;
    uint64_t numel;
} pickle_storage;

enum { MAX_DIMS = 4 };
typedef struct {
    size_t storage;
    uint64_t offset, shape[MAX_DIMS], stride[MAX_DIMS]; /* in elements */
    int dims;
} pickle_tensor;

typedef struct {
    size_t dict, tensor;
    const char *name;
    size_t name_length;
} pickle_entry;

typedef struct { /* a growing array */
    void *items;
    size_t n, room;
} list;

enum {
    STACK_MAX = 4096
}; /* Python's pickler batches items by 1000, so 2,010 is the most it needs */
typedef struct {
    shard *z;
    llamac_cursor c;
    pickle_value stack[STACK_MAX];
    size_t depth, n_dicts;
    list memo, tuples;      /* pickle_value */
    list storages, tensors; /* pickle_storage, pickle_tensor */
    list entries;           /* pickle_entry */
    int status;
} pickle;

static bool pickle_fail(pickle *p, const char *why) {
    if (p->status == LLAMA_OK)
        p->status =
            llamac_fail(p->z->err, LLAMA_EFORMAT,
                        "%s: in its pickle, %s; it is not a LLaMA checkpoint", p->z->file, why);
    return false;
}

/* Room for one more item, zeroed; NULL without memory. Old copies stay until the scratch is freed:
 * they double, so that is no more than the list again. */
static void *list_add(pickle *p, list *l, size_t size) {
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        void *items = llamac_new(p->z->scratch, room, size);
        if (!items) {
            p->status = out_of_memory(p->z->err, p->z->file);
            return NULL;
        }
        if (l->n) memcpy(items, l->items, l->n * size);
        l->items = items;
        l->room = room;
    }
    return (char *)l->items + l->n++ * size;
}

static bool push(pickle *p, pickle_value v) {
    if (p->depth == STACK_MAX) return pickle_fail(p, "the stack grows past any checkpoint's");
    p->stack[p->depth++] = v;
    return true;
}

static bool push_int(pickle *p, int64_t i) {
    pickle_value v = {P_INT, 0, {.integer = i}};
    return push(p, v);
}

static bool push_at(pickle *p, pickle_kind kind, size_t at, size_t n) {
    pickle_value v = {kind, (uint32_t)n, {.at = at}};
    return push(p, v);
}

/* The topmost value, taken off; P_MARK if there is none. */
static pickle_value pop(pickle *p) {
    static const pickle_value none = {P_MARK, 0, {.integer = 0}};
    return p->depth ? p->stack[--p->depth] : none;
}

/* Items above the topmost mark; the mark goes too. SIZE_MAX: there is no mark. */
static size_t pop_mark(pickle *p) {
    for (size_t i = p->depth; i-- > 0;)
        if (p->stack[i].kind == P_MARK) {
            size_t n = p->depth - i - 1;
            p->depth = i;
            return n;
        }
    pickle_fail(p, "a mark is missing");
    return SIZE_MAX;
}

/* A tuple of the n values from stack[from] on, which the caller has taken off. */
static bool push_tuple(pickle *p, size_t from, size_t n) {
    size_t first = p->tuples.n;
    for (size_t i = 0; i < n; i++) {
        pickle_value *item = list_add(p, &p->tuples, sizeof *item);
        if (!item) return false;
        *item = p->stack[from + i];
    }
    return push_at(p, P_TUPLE, first, n);
}

/* Item i of a tuple; P_MARK if it is not a tuple or has no such item. */
static pickle_value item(const pickle *p, pickle_value tuple, size_t i) {
    static const pickle_value none = {P_MARK, 0, {.integer = 0}};
    if (tuple.kind != P_TUPLE || i >= tuple.n) return none;
    return ((const pickle_value *)p->tuples.items)[tuple.at + i];
}

static bool push_string(pickle *p, uint64_t n) {
    const unsigned char *s = llamac_take(&p->c, n);
    if (!s || n > UINT32_MAX) return pickle_fail(p, "a string reaches past the end");
    pickle_value v = {P_STRING, (uint32_t)n, {.text = (const char *)s}};
    return push(p, v);
}

static bool is_text(pickle_value v, const char *text) {
    return v.kind == P_STRING && v.n == strlen(text) && memcmp(v.text, text, v.n) == 0;
}

/* The globals a checkpoint may name. */
static bool push_global(pickle *p, pickle_value module, pickle_value name) {
    static const struct {
        const char *module, *name;
        int global;
    } allowed[] = {
        {"torch._utils", "_rebuild_tensor_v2", G_TENSOR},
        {"torch._utils", "_rebuild_parameter", G_PARAMETER},
        {"collections", "OrderedDict", G_ORDERED_DICT},
        {"torch", "FloatStorage", G_STORAGE + F32},
        {"torch", "HalfStorage", G_STORAGE + F16},
        {"torch", "BFloat16Storage", G_STORAGE + BF16},
    };
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (is_text(module, allowed[i].module) && is_text(name, allowed[i].name)) {
            pickle_value v = {P_GLOBAL, 0, {.integer = allowed[i].global}};
            return push(p, v);
        }
    if (module.kind != P_STRING || name.kind != P_STRING)
        return pickle_fail(p, "a global has no name");
    char why[160];
    snprintf(why, sizeof why, "'%.*s %.*s' is asked for, which is not run",
             (int)(module.n < 60 ? module.n : 60), module.text, (int)(name.n < 60 ? name.n : 60),
             name.text);
    return pickle_fail(p, why);
}

/* The rest of a line, as GLOBAL writes its two names. */
static pickle_value line(pickle *p) {
    pickle_value v = {P_STRING, 0, {.text = (const char *)p->c.at}};
    while (p->c.at < p->c.end && *p->c.at != '\n' && v.n < 256) p->c.at++, v.n++;
    if (!llamac_take(&p->c, 1)) v.kind = P_MARK;
    return v;
}

/* Storages are named by ('storage', type, key, location, numel). */
static bool push_storage(pickle *p, pickle_value id) {
    pickle_value type = item(p, id, 1), key = item(p, id, 2), numel = item(p, id, 4);
    if (!is_text(item(p, id, 0), "storage") || type.kind != P_GLOBAL || type.integer < G_STORAGE ||
        key.kind != P_STRING || numel.kind != P_INT || numel.integer < 0)
        return pickle_fail(p, "a persistent id is not of a float storage");
    pickle_storage *s = list_add(p, &p->storages, sizeof *s);
    if (!s) return false;
    s->type = (int)type.integer - G_STORAGE;
    s->key = key.text;
    s->key_length = key.n;
    s->numel = (uint64_t)numel.integer;
    return push_at(p, P_STORAGE, p->storages.n - 1, 0);
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, ...); what it reaches is checked in the binding */
static bool push_tensor(pickle *p, pickle_value args) {
    pickle_value storage = item(p, args, 0), offset = item(p, args, 1);
    pickle_value shape = item(p, args, 2), stride = item(p, args, 3);
    if (storage.kind != P_STORAGE || offset.kind != P_INT || offset.integer < 0 ||
        shape.kind != P_TUPLE || stride.kind != P_TUPLE || shape.n != stride.n ||
        shape.n > MAX_DIMS || p->tensors.n == MAX_TENSORS)
        return pickle_fail(p, "a tensor is malformed");
    pickle_tensor t = {storage.at, (uint64_t)offset.integer, {0}, {0}, (int)shape.n};
    for (size_t i = 0; i < shape.n; i++) {
        pickle_value size = item(p, shape, i), step = item(p, stride, i);
        if (size.kind != P_INT || step.kind != P_INT || size.integer < 1 || step.integer < 0)
            return pickle_fail(p, "a tensor has a size or stride that is none");
        t.shape[i] = (uint64_t)size.integer;
        t.stride[i] = (uint64_t)step.integer;
    }
    pickle_tensor *to = list_add(p, &p->tensors, sizeof *to);
    if (!to) return false;
    *to = t;
    return push_at(p, P_TENSOR, p->tensors.n - 1, 0);
}

static bool reduce(pickle *p) {
    pickle_value args = pop(p), callable = pop(p), tensor = item(p, args, 0);
    if (callable.kind != P_GLOBAL || args.kind != P_TUPLE)
        return pickle_fail(p, "something is called that cannot be");
    if (callable.integer == G_TENSOR) return push_tensor(p, args);
    if (callable.integer == G_ORDERED_DICT) return push_at(p, P_DICT, p->n_dicts++, 0);
    if (callable.integer == G_PARAMETER && tensor.kind == P_TENSOR) return push(p, tensor);
    return pickle_fail(p, "something is called that cannot be");
}

/* dict[key] = value for the n values (key, value, ...) from stack[from] on, taken off already; the
 * dict is on top. Only named tensors are kept. */
static bool set_items(pickle *p, size_t from, size_t n) {
    if (n % 2 || p->depth == 0 || p->stack[p->depth - 1].kind != P_DICT)
        return pickle_fail(p, "items are set on what is not a dict");
    size_t dict = p->stack[p->depth - 1].at;
    for (size_t i = 0; i < n; i += 2) {
        pickle_value key = p->stack[from + i], value = p->stack[from + i + 1];
        if (key.kind != P_STRING || value.kind != P_TENSOR) continue;
        pickle_entry *e = list_add(p, &p->entries, sizeof *e);
        if (!e) return false;
        *e = (pickle_entry){dict, value.at, key.text, key.n};
    }
    return true;
}

static bool memoize(pickle *p, uint64_t index) {
    if (p->depth == 0 || index > p->memo.n + 1)
        return pickle_fail(p, "the memo is used out of order");
    while (p->memo.n <= index)
        if (!list_add(p, &p->memo, sizeof(pickle_value))) return false;
    ((pickle_value *)p->memo.items)[index] = p->stack[p->depth - 1];
    return true;
}

static bool recall(pickle *p, uint64_t index) {
    if (index >= p->memo.n) return pickle_fail(p, "the memo has no such value");
    return push(p, ((pickle_value *)p->memo.items)[index]);
}

/* A little-endian two's complement number of n <= 8 bytes. */
static bool push_long(pickle *p, uint64_t n) {
    if (n > 8) return pickle_fail(p, "a number is too large");
    uint64_t v = llamac_uint(&p->c, (int)n);
    if (n && n < 8 && v >> (8 * n - 1)) v |= UINT64_MAX << (8 * n);
    return push_int(p, (int64_t)v);
}

/* One opcode; false ends the run, at STOP or with a failure in status. */
static bool step(pickle *p) {
    uint64_t n = 0;
    unsigned op = (unsigned)llamac_uint(&p->c, 1);
    if (p->c.bad) return pickle_fail(p, "the end is missing");
    switch (op) {
    case 0x80:
        n = llamac_uint(&p->c, 1);
        return n <= 5 || pickle_fail(p, "the protocol is newer than 5");
    case 0x95: llamac_uint(&p->c, 8); return true; /* FRAME */
    case '(': return push_at(p, P_MARK, 0, 0);
    case 'N': /* NONE, NEWFALSE, NEWTRUE */
    case 0x89:
    case 0x88: return push_at(p, P_NONE, 0, 0);
    case 'K': return push_int(p, (int64_t)llamac_uint(&p->c, 1)); /* BININT1, 2, BININT */
    case 'M': return push_int(p, (int64_t)llamac_uint(&p->c, 2));
    case 'J': return push_long(p, 4);
    case 0x8a: return push_long(p, llamac_uint(&p->c, 1));  /* LONG1 */
    case 'X': return push_string(p, llamac_uint(&p->c, 4)); /* BINUNICODE, SHORT_, 8 */
    case 0x8c: return push_string(p, llamac_uint(&p->c, 1));
    case 0x8d: return push_string(p, llamac_uint(&p->c, 8));
    case '}': return push_at(p, P_DICT, p->n_dicts++, 0);
    case ')': return push_tuple(p, 0, 0);
    case 't': n = pop_mark(p); return n != SIZE_MAX && push_tuple(p, p->depth + 1, n);
    case 0x85: /* TUPLE1, 2, 3 */
    case 0x86:
    case 0x87:
        n = op - 0x84;
        if (p->depth < n) return pickle_fail(p, "the stack is empty");
        p->depth -= n;
        return push_tuple(p, p->depth, n);
    case 'q': return memoize(p, llamac_uint(&p->c, 1)); /* BINPUT, LONG_BINPUT */
    case 'r': return memoize(p, llamac_uint(&p->c, 4));
    case 0x94: return memoize(p, p->memo.n);           /* MEMOIZE */
    case 'h': return recall(p, llamac_uint(&p->c, 1)); /* BINGET, LONG_BINGET */
    case 'j': return recall(p, llamac_uint(&p->c, 4));
    case 'c': {
        pickle_value module = line(p), name = line(p);
        return push_global(p, module, name);
    }
    case 0x93: { /* STACK_GLOBAL */
        pickle_value name = pop(p), module = pop(p);
        return push_global(p, module, name);
    }
    case 'Q': return push_storage(p, pop(p)); /* BINPERSID */
    case 'R': return reduce(p);
    case 's': /* SETITEM, SETITEMS */
        if (p->depth < 3) return pickle_fail(p, "the stack is empty");
        p->depth -= 2;
        return set_items(p, p->depth, 2);
    case 'u': n = pop_mark(p); return n != SIZE_MAX && set_items(p, p->depth + 1, n);
    case 'b':
        pop(p);
        return p->depth > 0 || pickle_fail(p, "the stack is empty"); /* BUILD: _metadata */
    case '.': return false;
    default: {
        char why[64];
        snprintf(why, sizeof why, "opcode 0x%02x is not one that builds tensors", op);
        return pickle_fail(p, why);
    }
    }
}

/* Run data.pkl; afterwards p->entries of the dict on top name the tensors. */
static int pickle_run(pickle *p, shard *z) {
    const zip_entry *e = zip_pickle(z);
    if (!e) return bad_zip(z, "it holds no data.pkl");
    p->z = z;
    p->c = llamac_cursor_on(e->data, (size_t)e->size);
    while (step(p)) {}
    if (p->status == LLAMA_OK && (p->depth == 0 || p->stack[p->depth - 1].kind != P_DICT))
        pickle_fail(p, "the result is not a dict of tensors");
    return p->status;
}

/* ---- The binding: which tensor goes where, of which shape, divided how ---- */

enum {
    NO_SIZE,
    DIM_D,
    DIM_H,
    DIM_V,
    DIM_K,
    DIMS
}; /* letters of the shapes; NO_SIZE: a vector's rows */

static const struct {
    const char *name; /* Meta's, less "layers.N." and ".weight" */
    size_t at;        /* in llama, or in layer */
    bool in_layer;
    unsigned char rows, cols, split;
} binding[] = {
    {"tok_embeddings", offsetof(llama, tok_embeddings), false, DIM_V, DIM_D, BY_COLUMNS},
    {"norm", offsetof(llama, norm), false, NO_SIZE, DIM_D, WHOLE},
    {"output", offsetof(llama, output), false, DIM_V, DIM_D, BY_ROWS},
    {"attention_norm", offsetof(layer, attention_norm), true, NO_SIZE, DIM_D, WHOLE},
    {"attention.wq", offsetof(layer, wq), true, DIM_D, DIM_D, BY_ROWS},
    {"attention.wk", offsetof(layer, wk), true, DIM_K, DIM_D, BY_ROWS},
    {"attention.wv", offsetof(layer, wv), true, DIM_K, DIM_D, BY_ROWS},
    {"attention.wo", offsetof(layer, wo), true, DIM_D, DIM_D, BY_COLUMNS},
    {"ffn_norm", offsetof(layer, ffn_norm), true, NO_SIZE, DIM_D, WHOLE},
    {"feed_forward.w1", offsetof(layer, w1), true, DIM_H, DIM_D, BY_ROWS},
    {"feed_forward.w2", offsetof(layer, w2), true, DIM_D, DIM_H, BY_COLUMNS},
    {"feed_forward.w3", offsetof(layer, w3), true, DIM_H, DIM_D, BY_ROWS},
};
enum {
    BINDINGS = sizeof binding / sizeof *binding,
    OUTSIDE = 3
}; /* the first three are not in layers */

typedef struct { /* what one shard has of one weight */
    const unsigned char *data;
    uint64_t shape[2], stride[2]; /* rows, columns, in elements */
    int type;                     /* -1: not found yet */
} piece;

typedef struct {
    llama *m;
    piece *pieces; /* [weights][n_shards] */
    char (*files)[PATH_BYTES];
    llama_error *err;
} binder;

/* Weights are numbered: the three outside the layers, then nine for each layer. */
static size_t weight_count(const llama *m) { return OUTSIDE + m->n_layers * (BINDINGS - OUTSIDE); }
static size_t row_of(size_t i) {
    return i < OUTSIDE ? i : OUTSIDE + (i - OUTSIDE) % (BINDINGS - OUTSIDE);
}
static size_t layer_of(size_t i) { return (i - OUTSIDE) / (BINDINGS - OUTSIDE); }

static weight *weight_at(llama *m, size_t i) {
    char *base = i < OUTSIDE ? (char *)m : (char *)&m->layers[layer_of(i)];
    return (weight *)(void *)(base + binding[row_of(i)].at);
}

/* "layers.3.attention.wq" for messages */
static const char *weight_name(size_t i, char out[64]) {
    if (i < OUTSIDE)
        snprintf(out, 64, "%s", binding[i].name);
    else
        snprintf(out, 64, "layers.%zu.%s", layer_of(i), binding[row_of(i)].name);
    return out;
}

/* The number of the weight a tensor's name means; SIZE_MAX: none. *ignored: it changes nothing, being
 * RoPE's table, which we compute, or outside the layers. In a layer another name is another model. */
static size_t weight_named(const llama *m, const char *name, size_t n, bool *ignored) {
    static const char prefix[] = "layers.", suffix[] = ".weight", freqs[] = "rope.freqs";
    size_t l = 0, i = 0;
    bool in_layer = n > sizeof prefix && memcmp(name, prefix, sizeof prefix - 1) == 0;
    if (in_layer) {
        i = sizeof prefix - 1;
        size_t first = i;
        for (; i < n && name[i] >= '0' && name[i] <= '9' && i - first < 5; i++)
            l = l * 10 + (size_t)(name[i] - '0');
        if (i == first || i >= n || name[i++] != '.' || l >= m->n_layers) return SIZE_MAX;
    }
    size_t left = n - i, tail = sizeof suffix - 1;
    *ignored = !in_layer || (left >= sizeof freqs - 1 &&
                             memcmp(name + n - (sizeof freqs - 1), freqs, sizeof freqs - 1) == 0);
    if (left <= tail || memcmp(name + n - tail, suffix, tail) != 0) return SIZE_MAX;
    for (size_t b = 0; b < BINDINGS; b++)
        if (binding[b].in_layer == in_layer && strlen(binding[b].name) == left - tail &&
            memcmp(binding[b].name, name + i, left - tail) == 0)
            return in_layer ? b + l * (BINDINGS - OUTSIDE) : b;
    return SIZE_MAX;
}

static int bad_tensor(const shard *z, const pickle_entry *e, const char *why) {
    int n = e->name_length < 80 ? (int)e->name_length : 80;
    return llamac_fail(z->err, LLAMA_EFORMAT, "%s: tensor '%.*s' %s", z->file, n, e->name, why);
}

/* One named tensor of shard number k: find its bytes and note them under its weight. */
static int bind_tensor(binder *b, const pickle *p, const pickle_entry *e, size_t k) {
    shard *z = p->z;
    bool ignored = false;
    size_t i = weight_named(b->m, e->name, e->name_length, &ignored);
    if (i == SIZE_MAX)
        return ignored
                   ? LLAMA_OK
                   : bad_tensor(z, e, "is not one of this LLaMA's; check n_layers in params.json");
    piece *to = &b->pieces[i * b->m->n_shards + k];
    const pickle_tensor *t = &((const pickle_tensor *)p->tensors.items)[e->tensor];
    const pickle_storage *s = &((const pickle_storage *)p->storages.items)[t->storage];
    if (to->type >= 0) return bad_tensor(z, e, "stands in the file twice");
    if (t->dims < 1 || t->dims > 2) return bad_tensor(z, e, "is neither a vector nor a matrix");
    const zip_entry *stored = zip_storage(z, s->key, s->key_length);
    uint64_t size = dtype_bytes[s->type], bytes, last = t->offset, elements = 1;
    if (!stored || __builtin_mul_overflow(s->numel, size, &bytes) || bytes > stored->size)
        return bad_tensor(z, e,
                          "has a storage that is absent or cut short; download the file again");
    bool over = false;
    for (int d = 0; d < t->dims; d++) {
        uint64_t reach;
        over |= __builtin_mul_overflow(t->shape[d] - 1, t->stride[d], &reach);
        over |= __builtin_add_overflow(last, reach, &last);
        over |= __builtin_mul_overflow(elements, t->shape[d], &elements);
    }
    if (over || last >= s->numel || elements > s->numel)
        return bad_tensor(z, e, "reaches past its storage");
    to->type = s->type;
    to->data = stored->data + t->offset * size;
    to->shape[0] = t->dims == 2 ? t->shape[0] : 1;
    to->stride[0] = t->dims == 2 ? t->stride[0] : 0;
    to->shape[1] = t->shape[t->dims - 1];
    to->stride[1] = t->stride[t->dims - 1];
    return LLAMA_OK;
}

/* Read shard number k: zip, pickle, tensors. */
static int bind_shard(binder *b, size_t k, llamac_arena *scratch) {
    shard z = {0};
    z.file = b->files[k];
    z.bytes = llamac_cursor_on(b->m->files[k].data, b->m->files[k].size);
    z.scratch = scratch;
    z.err = b->err;
    int status = zip_open(&z);
    if (status) return status;
    pickle *p = llamac_new(scratch, 1, sizeof *p);
    if (!p) return out_of_memory(b->err, z.file);
    if ((status = pickle_run(p, &z))) return status;
    size_t dict = p->stack[p->depth - 1].at;
    for (size_t i = 0; i < p->entries.n && status == LLAMA_OK; i++) {
        const pickle_entry *e = &((const pickle_entry *)p->entries.items)[i];
        if (e->dict == dict) status = bind_tensor(b, p, e, k);
    }
    return status;
}

/* Copy the pieces of weight w into one matrix in the arena: for the two cases that cannot be used in
 * place, elements that are not neighbours and shards not a whole number of blocks wide. */
static const unsigned char *gather(llama *m, const weight *w, const piece *from) {
    size_t size = dtype_bytes[w->type];
    unsigned char *to = llamac_new(&m->arena, (uint64_t)w->rows * w->cols, size);
    for (size_t r = 0; to && r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c++) {
            size_t down = w->split == BY_ROWS ? w->rows / w->parts : w->rows;
            size_t across = w->split == BY_COLUMNS ? w->cols / w->parts : w->cols;
            const piece *s = &from[r / down + c / across];
            uint64_t i = (r % down) * s->stride[0] + (c % across) * s->stride[1];
            memcpy(to + (r * w->cols + c) * size, s->data + i * size, size);
        }
    return to;
}

/* Check weight i against the table and put it in its place. */
static int place(binder *b, size_t i, const size_t sizes[DIMS]) {
    llama *m = b->m;
    weight *w = weight_at(m, i);
    const piece *from = &b->pieces[i * m->n_shards];
    size_t row = row_of(i), shards = m->n_shards;
    char name[64];
    weight_name(i, name);
    w->rows = binding[row].rows ? sizes[binding[row].rows] : 1;
    w->cols = sizes[binding[row].cols];
    w->split = binding[row].split;
    w->parts = w->split == WHOLE ? 1 : shards;
    w->layer = i < OUTSIDE ? -1 : (short)layer_of(i);
    w->name = binding[row].name;
    size_t rows = w->split == BY_ROWS ? w->rows / shards : w->rows;
    size_t cols = w->split == BY_COLUMNS ? w->cols / shards : w->cols;
    if ((w->split == BY_ROWS && w->rows % shards) || (w->split == BY_COLUMNS && w->cols % shards))
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s of [%zu][%zu] does not divide over %zu shards", b->files[0],
                           name, w->rows, w->cols, shards);
    bool in_place = w->split != BY_COLUMNS || shards == 1 || cols % BLOCK == 0;
    for (size_t k = 0; k < shards; k++) {
        const piece *s = &from[k];
        if (s->type < 0)
            return llamac_fail(b->err, LLAMA_EFORMAT,
                               "%s: tensor %s.weight is missing; download it again", b->files[k],
                               name);
        if (s->shape[0] != rows || s->shape[1] != cols)
            return llamac_fail(b->err, LLAMA_EFORMAT,
                               "%s: tensor %s.weight is [%llu][%llu] where params.json and %zu "
                               "shards want [%zu][%zu]",
                               b->files[k], name, (unsigned long long)s->shape[0],
                               (unsigned long long)s->shape[1], shards, rows, cols);
        if (s->type != from[0].type)
            return llamac_fail(b->err, LLAMA_EFORMAT,
                               "%s: tensor %s.weight is %s, but %s in the first shard", b->files[k],
                               name, dtype_names[s->type], dtype_names[from[0].type]);
        in_place &= (rows == 1 || s->stride[0] == cols) && (cols == 1 || s->stride[1] == 1);
    }
    w->type = (unsigned char)from[0].type;
    const unsigned char **part = llamac_new(&m->arena, w->parts, sizeof *part);
    if (!part) return out_of_memory(b->err, b->files[0]);
    for (size_t k = 0; k < w->parts; k++) part[k] = from[k].data;
    if (!in_place) {
        if (!(part[0] = gather(m, w, from))) return out_of_memory(b->err, b->files[0]);
        w->parts = 1;
        w->split = WHOLE;
    }
    w->part = part;
    m->parameters += (uint64_t)w->rows * w->cols;
    if (i == 0) m->type_name = dtype_names[w->type];
    if (m->type_name != dtype_names[w->type]) m->type_name = "mixed";
    return LLAMA_OK;
}

/* V and H, which params.json leaves to the tensors; H is checked against Meta's formula. */
static int sizes_from_tensors(binder *b, const params *p, size_t sizes[DIMS]) {
    llama *m = b->m;
    const piece *embeddings = &b->pieces[0];
    const piece *w1 = &b->pieces[(OUTSIDE + 6) * m->n_shards];
    bool absent = embeddings->type < 0 || w1->type < 0;
    uint64_t vocab = absent ? 0 : embeddings->shape[0],
             hidden = absent ? 0 : w1->shape[0] * m->n_shards;
    if (absent || vocab > MAX_VOCAB || w1->shape[0] > MAX_WIDTH || hidden > 4 * MAX_WIDTH)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: tok_embeddings.weight or layers.0.feed_forward.w1.weight is missing or too large",
            b->files[0]);
    if (p->vocab_size > 0 && (uint64_t)p->vocab_size != vocab)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: has %llu embeddings where params.json says vocab_size %.0f",
                           b->files[0], (unsigned long long)vocab, p->vocab_size);
    uint64_t want = (uint64_t)(2 * 4 * p->dim / 3), unit = (uint64_t)p->multiple_of;
    if (p->ffn_dim_multiplier > 0) want = (uint64_t)(p->ffn_dim_multiplier * (double)want);
    if (unit && hidden != (want + unit - 1) / unit * unit)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: w1 is %llu wide over %zu shards where params.json wants %llu; a "
                           "shard or the right "
                           "params.json is missing",
                           b->files[0], (unsigned long long)hidden, m->n_shards,
                           (unsigned long long)((want + unit - 1) / unit * unit));
    m->vocab_size = (size_t)vocab;
    m->hidden = (size_t)hidden;
    sizes[DIM_D] = m->dim;
    sizes[DIM_H] = m->hidden;
    sizes[DIM_V] = m->vocab_size;
    sizes[DIM_K] = m->kv_dim;
    return LLAMA_OK;
}

/* ---- Meta's folder ---- */

/* Map consolidated.00.pth, 01, ... up to the first that is not there. */
static int map_shards(llama *m, const char *folder, char (*files)[PATH_BYTES], llama_error *err) {
    for (int k = 0; k < MAX_SHARDS; k++) {
        char name[32];
        snprintf(name, sizeof name, "consolidated.%02d.pth", k);
        if (!join(files[k], folder, name))
            return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", folder);
        errno = 0;
        int status = map_file(&m->files[k], files[k], err);
        if (status == LLAMA_EIO && errno == ENOENT && k > 0) return LLAMA_OK;
        if (status) return status;
        m->n_files = m->n_shards = (size_t)k + 1;
        m->file_bytes += m->files[k].size;
    }
    return llamac_fail(err, LLAMA_EFORMAT, "%s: has more than %d shards", folder, MAX_SHARDS - 1);
}

static int read_params(params *p, llama *m, const char *folder, llama_error *err) {
    enum { LARGEST = 1 << 20 };
    char path[PATH_BYTES];
    mapping file;
    struct stat st;
    if (!join(path, folder, "params.json"))
        return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", folder);
    if (stat(folder, &st) != 0)
        return llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", folder, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: is not a folder; give the one that holds params.json", folder);
    int status = map_file(&file, path, err);
    if (status) return status;
    if (file.size > LARGEST)
        status = llamac_fail(err, LLAMA_EFORMAT, "%s: is too large to be a params.json", path);
    else if ((status = params_parse(p, file.data, file.size, path, err)) == LLAMA_OK)
        status = params_apply(m, p, path, err);
    unmap_file(&file);
    return status;
}

static int bind_all(llama *m, const params *p, const char *folder, llamac_arena *scratch,
                    llama_error *err) {
    binder b = {m, NULL, llamac_new(scratch, MAX_SHARDS, PATH_BYTES), err};
    m->files = llamac_new(&m->arena, MAX_SHARDS + 1, sizeof *m->files);
    if (!b.files || !m->files) return out_of_memory(err, folder);
    int status = map_shards(m, folder, b.files, err);
    if (status) return status;
    size_t weights = weight_count(m), sizes[DIMS] = {0};
    m->layers = llamac_new(&m->arena, m->n_layers, sizeof *m->layers);
    b.pieces = llamac_new(scratch, weights * m->n_shards, sizeof *b.pieces);
    if (!m->layers || !b.pieces) return out_of_memory(err, folder);
    for (size_t i = 0; i < weights * m->n_shards; i++) b.pieces[i].type = -1;
    for (size_t k = 0; k < m->n_shards; k++)
        if ((status = bind_shard(&b, k, scratch))) return status;
    if ((status = sizes_from_tensors(&b, p, sizes))) return status;
    for (size_t i = 0; i < weights; i++)
        if ((status = place(&b, i, sizes))) return status;
    return LLAMA_OK;
}

static int open_meta(llama *m, const char *folder, llama_error *err) {
    params p;
    int status = read_params(&p, m, folder, err);
    if (status) return status;
    llamac_arena scratch = {m->arena.allocator, NULL};
    status = bind_all(m, &p, folder, &scratch, err);
    llamac_free_all(&scratch);
    return status;
}

/* The tokenizer: the file asked for, else tokenizer.model in the folder, else in its parent. */
static int open_tokenizer(llama *m, const char *folder, const char *asked, llama_error *err) {
    static const char *const places[] = {"tokenizer.model", "../tokenizer.model"};
    char path[PATH_BYTES];
    mapping *file = &m->files[m->n_files];
    int status = LLAMA_OK, tries = asked ? 1 : 2;
    for (int i = 0; i < tries; i++) {
        if (asked ? snprintf(path, sizeof path, "%s", asked) >= PATH_BYTES
                  : !join(path, folder, places[i]))
            return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long",
                               asked ? asked : folder);
        errno = 0;
        status = map_file(file, path, err);
        bool absent = status == LLAMA_EIO && errno == ENOENT;
        if (!absent || asked) break;
        status = llamac_fail(err, LLAMA_OK, "%s", ""); /* none: the model opens without */
    }
    if (status || !file->data) return status;
    m->n_files++;
    status = llamac_vocab_parse(&m->vocab, file->data, file->size, path, &m->arena, err);
    if (status == LLAMA_OK && (size_t)llamac_vocab_size(m->vocab) > m->vocab_size)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: has %d pieces where the model has %zu; it is another model's", path,
                           (int)llamac_vocab_size(m->vocab), m->vocab_size);
    return status;
}

/* ============================================================================================== */
/* IV. Using it                                                                                   */
/* ============================================================================================== */

/* ---- exp, log, sine, cosine: our own, so that they are the same everywhere ---- */

/* To about 1 ulp of double, from + - * / alone. Used for tables and the sampler; the forward pass
 * has a float exp of its own in part V. */

static double exp_double(double x) {
    static const double inverse_factorial[] = {1.0,
                                               1.0,
                                               1.0 / 2,
                                               1.0 / 6,
                                               1.0 / 24,
                                               1.0 / 120,
                                               1.0 / 720,
                                               1.0 / 5040,
                                               1.0 / 40320,
                                               1.0 / 362880,
                                               1.0 / 3628800,
                                               1.0 / 39916800,
                                               1.0 / 479001600,
                                               1.0 / 6227020800};
    if (!(x > -700)) return x != x ? x : 0;
    if (x > 700) return HUGE_VAL;
    double n = (double)(long)(x * 0x1.71547652b82fep+0 + (x < 0 ? -0.5 : 0.5)); /* x / ln 2 */
    double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33; /* ln 2 in two parts */
    double sum = inverse_factorial[13];
    for (int i = 12; i >= 0; i--) sum = sum * r + inverse_factorial[i];
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double power;
    memcpy(&power, &bits, 8);
    return sum * power;
}

/* x > 0 and normal: x = m 2^e with m near 1, log m = 2 atanh((m-1)/(m+1)) */
static double log_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    double z = (m - 1) / (m + 1), z2 = z * z, sum = 0;
    for (int k = 21; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
    return e * 0x1.a39ef35793c76p-33 + 2 * z * sum + e * 0x1.62e42fee00000p-1;
}

/* 0 <= x < 2^21: reduced by multiples of pi/2 in three parts, then Taylor's series */
static void sincos_double(double x, double *sine, double *cosine) {
    double n = (double)(long)(x * 0x1.45f306dc9c883p-1 + 0.5);
    double r =
        ((x - n * 0x1.921fb54400000p+0) - n * 0x1.0b4611a600000p-34) - n * 0x1.3198a2e037073p-69;
    double r2 = r * r, s = 1, c = 1;
    for (int k = 10; k >= 1; k--) {
        s = 1 - s * r2 / (2 * k * (2 * k + 1));
        c = 1 - c * r2 / (2 * k * (2 * k - 1));
    }
    s *= r;
    switch ((long)n & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s;
    }
}

/* Radians a position turns pair j, with the roundings of Meta's float32 code. */
static void rope_freqs(llama *m) {
    double log_theta = log_double(m->rope_theta);
    for (size_t j = 0; j < m->head_dim / 2; j++) {
        float e = (float)(2 * j) / (float)m->head_dim;
        float power = (float)exp_double((double)e * log_theta);
        m->freqs[j] = 1.0f / power;
    }
}

/* ---- The sampler ---- */

/* Sums in double, over ids in ascending order or in order of probability: fixed, so the same seed
 * gives the same token everywhere. */

/* Uniform in [0,1): a counter-based generator (splitmix64's mixing) keyed by seed and position. */
static double uniform(uint64_t seed, uint64_t position) {
    uint64_t x = seed;
    for (int i = 0; i < 2; i++) {
        x += 0x9e3779b97f4a7c15 * (i ? position + 1 : 1);
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        x ^= x >> 31;
    }
    return (double)(x >> 11) * 0x1p-53;
}

/* Before which token another comes: the higher value, then the lower id. */
static bool before(const double *p, int32_t a, int32_t b) {
    return p[a] > p[b] || (p[a] == p[b] && a < b);
}

/* ids[0..n) is a heap with the foremost id on top, but for ids[i], which may be too high. */
static void sift_down(int32_t *ids, size_t n, size_t i, const double *p) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(p, ids[child + 1], ids[child])) child++;
        if (!before(p, ids[child], ids[i])) return;
        int32_t other = ids[i];
        ids[i] = ids[child];
        ids[child] = other;
    }
}

static void heapify(int32_t *ids, size_t n, const double *p) {
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)i;
    for (size_t i = n / 2; i-- > 0;) sift_down(ids, n, i, p);
}

/* Move the foremost of a heap of n to ids[n-1]; n-1 remain. */
static int32_t heap_pop(int32_t *ids, size_t n, const double *p) {
    int32_t top = ids[0];
    ids[0] = ids[n - 1];
    ids[n - 1] = top;
    sift_down(ids, n - 1, 0, p);
    return top;
}

/* Logits with bias and repetition penalty (Keskar et al. 2019, arXiv:1909.05858) into p. */
static void penalise(const llama_session *s, const sequence *q, const llama_sampler *o, double *p) {
    size_t vocab = s->model->vocab_size, window = o->repeat_last ? (size_t)o->repeat_last : 64;
    for (size_t i = 0; i < vocab; i++)
        p[i] = (double)q->logits[i] + (o->bias ? (double)o->bias[i] : 0);
    if (o->repeat_penalty == 0 || o->repeat_penalty == 1) return;
    size_t first = o->repeat_last < 0 || window > q->length ? 0 : q->length - window;
    memset(s->seen, 0, vocab);
    for (size_t i = first; i < q->length; i++) {
        int32_t id = q->tokens[i];
        if (!s->seen[id]) p[id] = p[id] > 0 ? p[id] / o->repeat_penalty : p[id] * o->repeat_penalty;
        s->seen[id] = 1;
    }
}

/* p = softmax(p / temperature) */
static void soften(double *p, size_t n, double temperature) {
    double top = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) top = p[i] > top ? p[i] : top;
    for (size_t i = 0; i < n; i++) sum += p[i] = exp_double((p[i] - top) / temperature);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
}

/* Keep the top_k foremost tokens, and of these as many as top_p wants; the others become 0. */
static void keep_foremost(double *p, int32_t *ids, size_t n, const llama_sampler *o) {
    bool by_p = o->top_p > 0 && o->top_p < 1;
    size_t most = o->top_k > 0 && (size_t)o->top_k < n ? (size_t)o->top_k : n, kept = 0;
    if (most == n && !by_p) return;
    heapify(ids, n, p);
    double total = 1, before_it = 0;
    if (most < n) {
        for (total = 0; kept < most; kept++) total += p[heap_pop(ids, n - kept, p)];
    }
    if (by_p) { /* the foremost stand at the end of ids, the first of them last */
        size_t popped = kept;
        for (kept = 0; kept < most && before_it <= (double)o->top_p * total; kept++) {
            if (kept >= popped) heap_pop(ids, n - kept, p);
            before_it += p[ids[n - 1 - kept]];
        }
    }
    for (size_t i = 0; i < n - kept; i++) p[ids[i]] = 0;
}

/* The distribution a sampler draws from, into s->probs. */
static const double *distribute(const llama_session *s, const sequence *q, const llama_sampler *o) {
    double *p = s->probs, best = 0, sum = 0;
    size_t n = s->model->vocab_size;
    penalise(s, q, o, p);
    if (o->temperature == 0) {
        size_t top = 0;
        for (size_t i = 1; i < n; i++) top = p[i] > p[top] ? i : top;
        memset(p, 0, n * sizeof *p);
        p[top] = 1;
        return p;
    }
    soften(p, n, o->temperature);
    keep_foremost(p, s->ids, n, o);
    for (size_t i = 0; i < n; i++) best = p[i] > best ? p[i] : best;
    for (size_t i = 0; i < n; i++) sum += p[i] = p[i] >= (double)o->min_p * best ? p[i] : 0;
    for (size_t i = 0; i < n; i++) p[i] /= sum;
    return p;
}

/* Natural-log probability of each token under the plain softmax is logits[i] minus this. */
static double log_sum_exp(const float *logits, size_t n) {
    double top = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) top = (double)logits[i] > top ? (double)logits[i] : top;
    for (size_t i = 0; i < n; i++) sum += exp_double((double)logits[i] - top);
    return top + log_double(sum);
}

/* ---- Opening ---- */

/* Copy a caller's struct, which may be older (shorter) or newer than ours; absent fields are 0. */
static bool take_struct(void *to, size_t known, const void *from) {
    size_t size = known;
    memset(to, 0, known);
    if (!from) return true;
    memcpy(&size, from, sizeof size);
    if (size < sizeof size) return false;
    memcpy(to, from, size < known ? size : known);
    return true;
}

static int lock_files(const llama *m, llama_error *err) {
    for (size_t i = 0; i < m->n_files; i++)
        if (mlock(m->files[i].data, m->files[i].size) != 0)
            return llamac_fail(err, LLAMA_ENOMEM,
                               "%llu bytes cannot be locked in memory: %s; raise ulimit -l",
                               (unsigned long long)m->file_bytes, strerror(errno));
    return LLAMA_OK;
}

static int open_model(llama *m, const char *path, const llama_options *o, llama_error *err) {
    if (o->memory < LLAMA_MEMORY_AUTO || o->memory > LLAMA_MEMORY_STREAM)
        return llamac_fail(err, LLAMA_EINVAL, "memory mode %d does not exist", o->memory);
    if (o->memory == LLAMA_MEMORY_STREAM)
        return llamac_fail(err, LLAMA_EINVAL,
                           "memory mode 'stream' comes with a later release; use 'map'");
    int status = open_meta(m, path, err);
    if (status) return status;
    if (!(m->freqs = llamac_new(&m->arena, m->head_dim / 2, sizeof *m->freqs)))
        return out_of_memory(err, path);
    rope_freqs(m);
    if ((status = open_tokenizer(m, path, o->tokenizer, err))) return status;
    return o->memory == LLAMA_MEMORY_LOCK ? lock_files(m, err) : LLAMA_OK;
}

LLAMA_API int llama_open(llama **model, const char *path, const llama_options *options,
                         llama_error *err) {
    llama_options o;
    if (err) memset(err, 0, sizeof *err);
    if (!model || !path || !take_struct(&o, sizeof o, options))
        return llamac_fail(err, LLAMA_EINVAL,
                           "llama_open: model and path must be given, and options' size set");
    *model = NULL;
    llamac_arena arena = {allocator_or_default(o.allocator), NULL};
    llama *m = llamac_new(&arena, 1, sizeof *m);
    if (!m) return out_of_memory(err, path);
    m->arena = arena;
    uint64_t mode = fp_enter();
    int status = open_model(m, path, &o, err);
    fp_leave(mode);
    if (status) {
        llama_close(m);
        return status;
    }
    if (err) memset(err, 0, sizeof *err); /* a file that was looked for and not needed */
    *model = m;
    return LLAMA_OK;
}

LLAMA_API void llama_close(llama *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n_files; i++) unmap_file(&m->files[i]);
    if (m->files) unmap_file(&m->files[m->n_files]); /* a tokenizer that was mapped, then refused */
    llamac_arena arena = m->arena;                   /* m itself is in it */
    llamac_free_all(&arena);
}

LLAMA_SHARED const llamac_vocab *llamac_vocab_of(const llama *m) { return m->vocab; }
LLAMA_SHARED const llama_allocator *llamac_allocator_of(const llama *m) {
    return &m->arena.allocator;
}

/* ---- Sessions ---- */

static const kernels *find_kernels(const char *name);

static int default_threads(void) {
#ifdef _OPENMP
    return omp_get_num_procs(); /* those in this process's affinity mask */
#else
    return 1;
#endif
}

/* The next count * size bytes of one allocation, each run 64-byte aligned; only counts at base NULL. */
static void *carve(unsigned char *base, uint64_t *used, uint64_t count, uint64_t size) {
    uint64_t bytes, begin = *used;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 4 ||
        begin > SIZE_MAX / 4) {
        *used = SIZE_MAX / 2;
        return NULL;
    }
    *used = (begin + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return base ? base + begin : NULL;
}

enum { PANEL_ROWS = 16, PANEL_COLUMNS = 256, LANES = 4 }; /* see part V */

/* Lay a session's buffers out from base, or count only. Returns the bytes; *cleared: those of them,
 * from the start, that must be zero. */
static uint64_t lay_out(llama_session *s, unsigned char *base, uint64_t *cleared) {
    const llama *m = s->model;
    uint64_t used = 0, b = s->batch, t = (uint64_t)s->threads, f = sizeof(float);
    s->panel_size = PANEL_ROWS * PANEL_COLUMNS;
    s->acc_size = s->batch * PANEL_ROWS * LANES;
    s->x = carve(base, &used, b * padded(m->dim), f);
    s->h = carve(base, &used, b * padded(m->dim), f);
    s->o = carve(base, &used, b * padded(m->dim), f);
    s->q = carve(base, &used, b * padded(m->dim), f);
    s->k = carve(base, &used, b * padded(m->kv_dim), f);
    s->v = carve(base, &used, b * padded(m->kv_dim), f);
    s->a = carve(base, &used, b * padded(m->hidden), f);
    s->b = carve(base, &used, b * padded(m->hidden), f);
    s->logits = carve(base, &used, SCORED * padded(m->vocab_size), f);
    s->sequences = carve(base, &used, s->n_sequences, sizeof *s->sequences);
    *cleared = used;
    s->row_seq = carve(base, &used, b, sizeof *s->row_seq);
    s->row_pos = carve(base, &used, b, sizeof *s->row_pos);
    s->row_token = carve(base, &used, b, sizeof *s->row_token);
    s->cos = carve(base, &used, b * (m->head_dim / 2), f);
    s->sin = carve(base, &used, b * (m->head_dim / 2), f);
    s->panel = carve(base, &used, t * s->panel_size, f);
    s->acc = carve(base, &used, t * s->acc_size, f);
    s->scores = carve(base, &used, t * padded(s->context), f);
    s->probs = carve(base, &used, m->vocab_size, sizeof *s->probs);
    s->ids = carve(base, &used, m->vocab_size, sizeof *s->ids);
    s->seen = carve(base, &used, m->vocab_size, 1);
    for (size_t i = 0; i < s->n_sequences; i++) {
        sequence none = {0}, *q = base ? &s->sequences[i] : &none;
        q->logits = carve(base, &used, m->vocab_size, f);
        q->tokens = carve(base, &used, s->context, sizeof *q->tokens);
        q->k = carve(base, &used, (uint64_t)m->n_layers * s->context, m->kv_dim * f);
        q->v = carve(base, &used, (uint64_t)m->n_layers * s->context, m->kv_dim * f);
    }
    return used;
}

enum { DEFAULT_CONTEXT = 2048, DEFAULT_BATCH = 512, MAX_THREADS = 1024 };

/* Settle the options of a session whose buffers are not yet there. */
static int settle(llama_session *s, const llama *m, const llama_session_options *given,
                  llama_error *err) {
    llama_session_options o;
    if (!m || !take_struct(&o, sizeof o, given))
        return llamac_fail(err, LLAMA_EINVAL,
                           "llama_session_new: a model must be given, and options' size set");
    if (o.context < 0 || o.context > MAX_CONTEXT || o.sequences < 0 || o.sequences > MAX_CONTEXT ||
        o.batch < 0 || o.batch > MAX_CONTEXT || o.threads < 0 || o.threads > MAX_THREADS)
        return llamac_fail(err, LLAMA_EINVAL,
                           "context, sequences and batch must be 0 to %d, threads 0 to %d",
                           (int)MAX_CONTEXT, (int)MAX_THREADS);
    if (o.numerics == LLAMA_FAST)
        return llamac_fail(err, LLAMA_EINVAL,
                           "LLAMA_FAST comes with a later release; use LLAMA_EXACT");
    if (o.numerics != LLAMA_EXACT)
        return llamac_fail(err, LLAMA_EINVAL, "numerics %d do not exist", o.numerics);
    s->model = m;
    s->context = o.context ? (size_t)o.context : DEFAULT_CONTEXT;
    s->n_sequences = o.sequences ? (size_t)o.sequences : 1;
    s->batch = o.batch ? (size_t)o.batch : DEFAULT_BATCH;
    if (s->batch > s->context) s->batch = s->context;
    s->threads = o.threads ? o.threads : default_threads();
    s->progress = o.progress;
    s->progress_user = o.user;
    s->arena.allocator = allocator_or_default(o.allocator);
    s->kernels = find_kernels(o.kernels);
    if (!s->kernels)
        return llamac_fail(err, LLAMA_EINVAL,
                           "kernels '%.32s' are not in this build or not of this CPU (%s)",
                           o.kernels, llama_build());
    return LLAMA_OK;
}

LLAMA_API uint64_t llama_session_bytes(const llama *m, const llama_session_options *options) {
    llama_session s = {0};
    uint64_t cleared;
    if (settle(&s, m, options, NULL)) return 0;
    return lay_out(&s, NULL, &cleared) + sizeof s + 2 * ALIGNMENT;
}

LLAMA_API int llama_session_new(llama_session **session, const llama *m,
                                const llama_session_options *options, llama_error *err) {
    llama_session s = {0}, *made;
    uint64_t cleared, bytes;
    if (err) memset(err, 0, sizeof *err);
    if (!session) return llamac_fail(err, LLAMA_EINVAL, "llama_session_new: session must be given");
    *session = NULL;
    int status = settle(&s, m, options, err);
    if (status) return status;
    bytes = lay_out(&s, NULL, &cleared);
    made = llamac_new(&s.arena, 1, sizeof s);
    unsigned char *base = made ? arena_raw(&s.arena, bytes) : NULL;
    if (!base) {
        llamac_free_all(&s.arena);
        return llamac_fail(err, LLAMA_ENOMEM,
                           "a session of %llu MB cannot be allocated; ask for a smaller context",
                           (unsigned long long)(bytes >> 20));
    }
    *made = s;
    memset(base, 0, (size_t)cleared);
    lay_out(made, base, &cleared);
    made->pid = getpid();
    made->team = made->threads;
    snprintf(made->about, sizeof made->about, "%s, %d thread%s", s.kernels->name, s.threads,
             s.threads > 1 ? "s" : "");
    *session = made;
    return LLAMA_OK;
}

LLAMA_API void llama_session_free(llama_session *s) {
    if (!s) return;
    llamac_arena arena = s->arena; /* s itself is in it */
    llamac_free_all(&arena);
}

/* ---- Evaluating ---- */

static int fail(llama_session *s, int status, const char *text) {
    return llamac_fail(&s->error, status, "%s", text);
}

static sequence *sequence_of(const llama_session *s, int seq) {
    return s && seq >= 0 && (size_t)seq < s->n_sequences ? &s->sequences[seq] : NULL;
}

/* Set up rows 0..n for the next tokens of q: who they are, and how far RoPE turns them. */
static void set_rows(llama_session *s, sequence *q, const int32_t *tokens, size_t n) {
    size_t half = s->model->head_dim / 2;
    for (size_t t = 0; t < n; t++) {
        s->row_seq[t] = q;
        s->row_pos[t] = q->length + t;
        s->row_token[t] = tokens[t];
        for (size_t j = 0; j < half; j++) {
            double sine, cosine;
            sincos_double((float)s->row_pos[t] * s->model->freqs[j], &sine, &cosine);
            s->sin[t * half + j] = (float)sine;
            s->cos[t * half + j] = (float)cosine;
        }
    }
}

static bool all_finite(const float *x, size_t n) {
    float sum = 0; /* 0 * x is 0 unless x is infinite or no number */
    for (size_t i = 0; i < n; i++) sum += 0 * x[i];
    return sum == 0;
}

/* s->logits[0..n) of rows first..first+n of the last forward pass */
static int output(llama_session *s, size_t first, size_t n) {
    const llama *m = s->model;
    size_t ld = padded(m->vocab_size);
    matmul(s, s->logits, &m->output, s->h + first * padded(m->dim), n);
    for (size_t t = 0; t < n; t++)
        if (!all_finite(s->logits + t * ld, m->vocab_size))
            return fail(s, LLAMA_ENUMERIC, "the logits are not finite; the weights may be damaged");
    return LLAMA_OK;
}

/* logprob[i] of tokens[i] from the logits before it: those of the sequence for i = 0, then row i-1's.
 * The last row's logits are left in s->logits. */
static int score_rows(llama_session *s, const sequence *q, const int32_t *tokens, size_t n,
                      float *logprob) {
    size_t vocab = s->model->vocab_size, ld = padded(vocab);
    if (logprob)
        logprob[0] =
            q->length ? (float)((double)q->logits[tokens[0]] - log_sum_exp(q->logits, vocab)) : 0;
    for (size_t i = logprob ? 0 : n - 1; i < n; i += SCORED) {
        size_t rows = n - i < SCORED ? n - i : SCORED;
        int status = output(s, i, rows);
        if (status) return status;
        for (size_t t = 0; logprob && t < rows && i + t + 1 < n; t++) {
            const float *l = s->logits + t * ld;
            logprob[i + t + 1] = (float)((double)l[tokens[i + t + 1]] - log_sum_exp(l, vocab));
        }
        if (i + rows == n && rows > 1)
            memmove(s->logits, s->logits + (rows - 1) * ld, vocab * sizeof(float));
    }
    return LLAMA_OK;
}

/* Append tokens in batches of nearly equal size; logprob may be NULL. The length counts only what has
 * succeeded, and is put back on failure: what lies in the cache beyond it is never read. */
static int append(llama_session *s, sequence *q, const int32_t *tokens, size_t n, float *logprob) {
    size_t was = q->length, vocab = s->model->vocab_size;
    s->total = s->model->n_layers * n;
    for (size_t i = 0; i < n;) {
        size_t batches = (n - i + s->batch - 1) / s->batch, rows = (n - i + batches - 1) / batches;
        s->done = s->model->n_layers * i;
        set_rows(s, q, tokens + i, rows);
        forward(s, rows);
        int status =
            s->cancelled ? fail(s, LLAMA_ECANCEL, "cancelled by the progress callback") : LLAMA_OK;
        i += rows;
        if (status == LLAMA_OK && (logprob || i == n))
            status = score_rows(s, q, tokens + i - rows, rows, logprob ? logprob + i - rows : NULL);
        if (status) {
            q->length = was;
            return status;
        }
        memcpy(q->tokens + q->length, tokens + i - rows, rows * sizeof *tokens);
        q->length += rows;
        if (logprob || i == n) memcpy(q->logits, s->logits, vocab * sizeof(float));
    }
    q->have_logits = true;
    return LLAMA_OK;
}

static int evaluate(llama_session *s, int seq, const int32_t *tokens, size_t n, float *logprob) {
    if (!s) return LLAMA_EINVAL;
    sequence *q = sequence_of(s, seq);
    if (!q) return fail(s, LLAMA_EINVAL, "there is no such sequence");
    if (n && !tokens) return fail(s, LLAMA_EINVAL, "tokens must be given");
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (size_t)tokens[i] >= s->model->vocab_size)
            return fail(s, LLAMA_EINVAL, "a token is not in the vocabulary");
    if (n > s->context - q->length) return fail(s, LLAMA_EFULL, "the context is full");
    if (logprob && q->length && !q->have_logits)
        return fail(s, LLAMA_EINVAL, "the sequence was rewound: evaluate a token before scoring");
    if (n == 0) return LLAMA_OK;
    s->team = getpid() == s->pid ? s->threads : 1; /* OpenMP's threads do not survive a fork */
    s->cancelled = false;
    uint64_t mode = fp_enter();
    int status = append(s, q, tokens, n, logprob);
    fp_leave(mode);
    return status;
}

LLAMA_API int llama_eval(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    return evaluate(s, seq, tokens, n, NULL);
}

LLAMA_API int llama_score(llama_session *s, int seq, const int32_t *tokens, size_t n,
                          float *logprob) {
    if (s && n && !logprob) return fail(s, LLAMA_EINVAL, "logprob must be given");
    return evaluate(s, seq, tokens, n, logprob);
}

/* ---- Sampling ---- */

/* The sequence to sample from and the sampler's settings, or an error. */
static int sampling(llama_session *s, int seq, const llama_sampler *given, llama_sampler *o,
                    sequence **q) {
    if (!s) return LLAMA_EINVAL;
    *q = sequence_of(s, seq);
    if (!*q || !(*q)->have_logits)
        return fail(s, LLAMA_EINVAL, "the sequence has no logits: evaluate a token first");
    if (!given || !take_struct(o, sizeof *o, given))
        return fail(s, LLAMA_EINVAL, "the sampler's size is not set");
    if (!(o->temperature >= 0 && o->top_p >= 0 && o->min_p >= 0 && o->min_p <= 1 &&
          o->repeat_penalty >= 0 && o->top_k >= 0 && o->repeat_last >= -1 &&
          o->temperature < HUGE_VALF && o->repeat_penalty < HUGE_VALF))
        return fail(s, LLAMA_EINVAL, "a sampler setting is negative, infinite or not a number");
    return LLAMA_OK;
}

LLAMA_API int32_t llama_sample(llama_session *s, int seq, const llama_sampler *sampler) {
    llama_sampler o;
    sequence *q;
    int status = sampling(s, seq, sampler, &o, &q);
    if (status) return status;
    uint64_t mode = fp_enter();
    const double *p = distribute(s, q, &o);
    double u = uniform(o.seed, q->length), sum = 0;
    int32_t token = -1;
    for (size_t i = 0; i < s->model->vocab_size; i++) {
        if (p[i] > 0) token = (int32_t)i; /* should rounding leave sum below u, the last one */
        if (p[i] > 0 && (sum += p[i]) > u) break;
    }
    fp_leave(mode);
    return token >= 0 ? token : fail(s, LLAMA_EINVAL, "the bias leaves no token");
}

LLAMA_API int llama_distribution(llama_session *s, int seq, const llama_sampler *sampler,
                                 float *probs) {
    llama_sampler o;
    sequence *q;
    int status = sampling(s, seq, sampler, &o, &q);
    if (status) return status;
    if (!probs) return fail(s, LLAMA_EINVAL, "probs must be given");
    uint64_t mode = fp_enter();
    const double *p = distribute(s, q, &o);
    for (size_t i = 0; i < s->model->vocab_size; i++) probs[i] = (float)p[i];
    fp_leave(mode);
    return LLAMA_OK;
}

LLAMA_API int llama_top(const llama_session *s, int seq, llama_choice *out, int k) {
    const sequence *q = sequence_of(s, seq);
    if (!q || !q->have_logits || !out || k < 0) return LLAMA_EINVAL;
    uint64_t mode = fp_enter();
    size_t vocab = s->model->vocab_size, n = (size_t)k < vocab ? (size_t)k : vocab;
    double all = log_sum_exp(q->logits, vocab);
    for (size_t i = 0; i < vocab; i++) s->probs[i] = q->logits[i];
    heapify(s->ids, vocab, s->probs);
    for (size_t i = 0; i < n; i++) {
        int32_t id = heap_pop(s->ids, vocab - i, s->probs);
        out[i] = (llama_choice){id, (float)(s->probs[id] - all)};
    }
    fp_leave(mode);
    return (int)n;
}

/* ---- Looking ---- */

LLAMA_API int32_t llama_eos(const llama *m) {
    return m && m->vocab ? llamac_vocab_eos(m->vocab) : -1;
}

LLAMA_API int llama_describe(const llama *m, llama_info *info) {
    if (!m || !info || info->size < sizeof info->size) return LLAMA_EINVAL;
    llama_info all = {
        .size = info->size,
        .format = "meta",
        .dtype = m->type_name,
        .dim = (int)m->dim,
        .layers = (int)m->n_layers,
        .heads = (int)m->n_heads,
        .kv_heads = (int)m->n_kv_heads,
        .head_dim = (int)m->head_dim,
        .hidden = (int)m->hidden,
        .vocab = (int)m->vocab_size,
        .context = DEFAULT_CONTEXT,
        .shards = (int)m->n_shards,
        .bos = m->vocab ? llamac_vocab_bos(m->vocab) : -1,
        .eos = llama_eos(m),
        .norm_eps = m->norm_eps,
        .rope_theta = m->rope_theta,
        .parameters = m->parameters,
        .file_bytes = m->file_bytes,
        .kv_bytes_per_token = (uint64_t)m->n_layers * m->kv_dim * 2 * sizeof(float),
    };
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
    return LLAMA_OK;
}

LLAMA_API const float *llama_logits(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q && q->have_logits ? q->logits : NULL;
}

LLAMA_API int llama_trace(llama_session *s, llama_trace_fn fn, void *user) {
    if (!s) return LLAMA_EINVAL;
    s->trace = fn;
    s->trace_user = user;
    return LLAMA_OK;
}

LLAMA_API const char *llama_session_error(const llama_session *s) { return s ? s->error.text : ""; }
LLAMA_API const char *llama_session_kernels(const llama_session *s) { return s ? s->about : ""; }

/* ---- Sequences ---- */

static int later(llama_session *s, const char *text) {
    return s ? fail(s, LLAMA_EINVAL, text) : LLAMA_EINVAL;
}

LLAMA_API int llama_eval_batch(llama_session *s, const llama_span *spans, size_t n) {
    (void)spans;
    (void)n;
    return later(s,
                 "llama_eval_batch comes with a later release; use llama_eval for each sequence");
}

LLAMA_API size_t llama_length(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q ? q->length : 0;
}

LLAMA_API int llama_rewind(llama_session *s, int seq, size_t length) {
    sequence *q = sequence_of(s, seq);
    if (!q) return s ? fail(s, LLAMA_EINVAL, "there is no such sequence") : LLAMA_EINVAL;
    if (length > q->length)
        return fail(s, LLAMA_EINVAL, "a sequence cannot be rewound to beyond its end");
    q->have_logits = q->have_logits && length == q->length;
    q->length = length;
    return LLAMA_OK;
}

LLAMA_API int llama_fork(llama_session *s, int dst, int src) {
    (void)dst;
    (void)src;
    return later(s, "llama_fork comes with a later release");
}

LLAMA_API int llama_save(llama_session *s, int seq, llama_write_fn write, void *user) {
    (void)seq;
    (void)write;
    (void)user;
    return later(s, "llama_save comes with a later release");
}

LLAMA_API int llama_load(llama_session *s, int seq, llama_read_fn read, void *user) {
    (void)seq;
    (void)read;
    (void)user;
    return later(s, "llama_load comes with a later release");
}

/* ---- Library ---- */

LLAMA_API int llama_warm(const llama *m, llama_progress_fn progress, void *user) {
    enum { PAGE = 4096, RUN = 16 << 20 };
    if (!m) return LLAMA_EINVAL;
    uint64_t done = 0;
    for (size_t f = 0; f < m->n_shards; f++)
        for (size_t i = 0; i < m->files[f].size; i += RUN) {
            size_t n = m->files[f].size - i < RUN ? m->files[f].size - i : RUN;
            madvise((void *)(uintptr_t)(m->files[f].data + i), n, MADV_WILLNEED);
            for (size_t k = 0; k < n; k += PAGE)
                (void)*(const volatile unsigned char *)(m->files[f].data + i + k);
            done += n;
            if (progress && progress(user, "weights", done, m->file_bytes)) return LLAMA_ECANCEL;
        }
    return LLAMA_OK;
}

LLAMA_API const char *llama_strerror(int status) {
    switch (status) {
    case LLAMA_OK: return "no error";
    case LLAMA_EINVAL: return "invalid argument";
    case LLAMA_EIO: return "reading or writing failed";
    case LLAMA_EFORMAT: return "the file is not what it should be";
    case LLAMA_ENOMEM: return "out of memory";
    case LLAMA_EFULL: return "the context is full";
    case LLAMA_ECANCEL: return "cancelled";
    case LLAMA_EMISMATCH: return "the saved state belongs to another model";
    case LLAMA_ENUMERIC: return "the logits are not finite";
    default: return "unknown error";
    }
}

LLAMA_API int llama_release(void) { return LLAMA_RELEASE; }

LLAMA_API const char *llama_build(void) {
    return
#if defined(__clang__)
        "clang " __clang_version__
#else
        "gcc " __VERSION__
#endif
#if defined(__x86_64__)
        ", kernels scalar avx2 avx512"
#elif defined(__aarch64__)
        ", kernels scalar neon"
#else
        ", kernels scalar"
#endif
#ifdef _OPENMP
        ", OpenMP";
#else
        ", no OpenMP";
#endif
}

/* ============================================================================================== */
/* V. The machine                                                                                 */
/* ============================================================================================== */

/* The defined order of a dot product of length K (DESIGN: one answer): four float32 lanes; lane k mod 4
 * takes fma(w[k], x[k], lane) for ascending k from +0, K filled up to a block with zeros; the sum
 * is (lane0 + lane2) + (lane1 + lane3). Four, because then a 512-bit register holds four rows of
 * weights against one broadcast of x: measured with 504 tokens the register tile runs at 92% of the
 * FMA peak, where sixteen lanes (one row a register, four times the cache traffic) reach 59%.
 *
 * The kernels are written once, at the end of this file. Each reading with LLAMA_PASS defined compiles
 * them for one instruction set from a vocabulary of eleven verbs. "scalar" is their plain twin. */

/* exp to about 1 ulp by range reduction and a minimax polynomial; the same steps in each instruction
 * set. Below -87.3 it is +0, above 88.3 infinity. */
static inline __attribute__((always_inline)) float exp_float(float x) {
    float shifted =
        __builtin_fmaf(x, 0x1.715476p+0f, 0x1.8p23f); /* x / ln 2, rounded, in the low bits */
    float n = shifted - 0x1.8p23f;
    float r = __builtin_fmaf(n, -0x1.62e4p-1f, x);
    r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 0x1.6a2434p-10f;
    p = __builtin_fmaf(p, r, 0x1.1239e2p-7f);
    p = __builtin_fmaf(p, r, 0x1.5558f2p-5f);
    p = __builtin_fmaf(p, r, 0x1.555492p-3f);
    p = __builtin_fmaf(p, r, 0x1.fffffcp-2f);
    p = __builtin_fmaf(p, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, 4);
    float y = p * power;
    y = x < -87.3f ? 0.0f : y;
    return x > 88.3f ? HUGE_VALF : y;
}

#define INLINE      static inline __attribute__((always_inline))
#define GLUE_(a, b) a##_##b
#define GLUE(a, b)  GLUE_(a, b)
#define FN(name)    GLUE(name, ISA) /* FN(tile) is tile_avx2 in the AVX2 reading */
#define TEXT_(a)    #a
#define TEXT(a)     TEXT_(a)
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define LLAMA_PASS 1 /* scalar */
#include "llama.c"
#if defined(__x86_64__)
#define LLAMA_PASS 2 /* AVX2, FMA, F16C */
#include "llama.c"
#define LLAMA_PASS 3 /* AVX-512F */
#include "llama.c"
#elif defined(__aarch64__)
#define LLAMA_PASS 4 /* NEON */
#include "llama.c"
#endif

#if defined(__x86_64__)
/* 0: plain x86-64; 1: AVX2, FMA and F16C; 2: AVX-512F too. The processor must have the instructions
 * and the system must save the registers. */
static int x86_level(void) {
    enum { FMA = 1 << 12, XSAVE = 1 << 27, F16C = 1 << 29, AVX2 = 1 << 5, AVX512F = 1 << 16 };
    enum { YMM_STATE = 6, ZMM_STATE = 0xe6 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & FMA) || !(c & XSAVE) || !(c & F16C)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & YMM_STATE) != YMM_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2))
        return 0;
    return (b & AVX512F) && (low & ZMM_STATE) == ZMM_STATE ? 2 : 1;
}
#endif

/* The kernels of that name, or the best; NULL: not in this build or not of this CPU. */
static const kernels *find_kernels(const char *name) {
#if defined(__x86_64__)
    static const kernels *const all[] = {&kernels_scalar, &kernels_avx2, &kernels_avx512};
    int best = x86_level();
#elif defined(__aarch64__)
    static const kernels *const all[] = {&kernels_scalar, &kernels_neon};
    int best = 1;
#else
    static const kernels *const all[] = {&kernels_scalar};
    int best = 0;
#endif
    for (int i = best; i >= 0; i--)
        if (!name || strcmp(name, all[i]->name) == 0) return all[i];
    return NULL;
}

#if !defined(__clang__)
#pragma GCC pop_options
#endif

#else /* LLAMA_PASS: from here on, read once per instruction set */

/* The vocabulary. A vec is VL floats: VR rows of four lanes.
 *
 *   zero  load  store  fma(a, b, c) = a b + c    arithmetic
 *   splat(f)            f in each lane
 *   spread(p)           the four floats at p, for each row
 *   f16(p)  bf16(p)     VL stored weights, widened exactly, at any address
 *   transpose(v)        VR vecs of VL weights of one row each -> VR vecs of four weights of each row
 *   sums(v, out)        the VR rows' lanes added in the defined order
 *
 * A tile is TILE_VECS vecs of rows by up to six tokens; DOT_VECS are dotted at a time with one. */
#if LLAMA_PASS == 1
#define ISA scalar
#define TARGET
enum { FN(VL) = 4, FN(TILE_VECS) = 4, FN(DOT_VECS) = 4 };
typedef struct {
    float lane[4];
} FN(vec);
INLINE FN(vec) FN(load)(const float *p) {
    FN(vec) v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void FN(store)(float *p, FN(vec) v) { memcpy(p, &v, sizeof v); }
INLINE FN(vec) FN(splat)(float f) { return (FN(vec)){{f, f, f, f}}; }
INLINE FN(vec) FN(spread)(const float *p) { return FN(load)(p); }
INLINE FN(vec) FN(fma)(FN(vec) a, FN(vec) b, FN(vec) c) {
    for (int i = 0; i < 4; i++) c.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}
INLINE FN(vec) FN(f16)(const unsigned char *p) {
    return (FN(vec)){
        {element(F16, p, 0), element(F16, p, 1), element(F16, p, 2), element(F16, p, 3)}};
}
INLINE FN(vec) FN(bf16)(const unsigned char *p) {
    return (FN(vec)){
        {element(BF16, p, 0), element(BF16, p, 1), element(BF16, p, 2), element(BF16, p, 3)}};
}
INLINE void FN(transpose)(FN(vec) * v) { (void)v; }
INLINE void FN(sums)(FN(vec) v, float *out) {
    *out = (v.lane[0] + v.lane[2]) + (v.lane[1] + v.lane[3]);
}

#elif LLAMA_PASS == 2
#define ISA    avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
enum { FN(VL) = 8, FN(TILE_VECS) = 2, FN(DOT_VECS) = 4 };
typedef __m256 FN(vec);
TARGET INLINE __m256 FN(load)(const float *p) { return _mm256_loadu_ps(p); }
TARGET INLINE void FN(store)(float *p, __m256 v) { _mm256_storeu_ps(p, v); }
TARGET INLINE __m256 FN(splat)(float f) { return _mm256_set1_ps(f); }
TARGET INLINE __m256 FN(spread)(const float *p) {
    return _mm256_broadcast_ps((const __m128 *)(const void *)p);
}
TARGET INLINE __m256 FN(fma)(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
TARGET INLINE __m256 FN(f16)(const unsigned char *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
TARGET INLINE __m256 FN(bf16)(const unsigned char *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
TARGET INLINE void FN(transpose)(__m256 *v) {
    __m256 a = v[0], b = v[1];
    v[0] = _mm256_permute2f128_ps(a, b, 0x20);
    v[1] = _mm256_permute2f128_ps(a, b, 0x31);
}
TARGET INLINE void FN(sums)(__m256 v, float *out) {
    v = _mm256_add_ps(v, _mm256_permute_ps(v, 0x4e)); /* lanes 0+2, 1+3 */
    v = _mm256_add_ps(v, _mm256_permute_ps(v, 0xb1));
    out[0] = _mm256_cvtss_f32(v);
    out[1] = _mm_cvtss_f32(_mm256_extractf128_ps(v, 1));
}

#elif LLAMA_PASS == 3
#define ISA    avx512
#define TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
enum { FN(VL) = 16, FN(TILE_VECS) = 4, FN(DOT_VECS) = 1 };
typedef __m512 FN(vec);
TARGET INLINE __m512 FN(load)(const float *p) { return _mm512_loadu_ps(p); }
TARGET INLINE void FN(store)(float *p, __m512 v) { _mm512_storeu_ps(p, v); }
TARGET INLINE __m512 FN(splat)(float f) { return _mm512_set1_ps(f); }
TARGET INLINE __m512 FN(spread)(const float *p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
TARGET INLINE __m512 FN(fma)(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
TARGET INLINE __m512 FN(f16)(const unsigned char *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
TARGET INLINE __m512 FN(bf16)(const unsigned char *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
TARGET INLINE void FN(transpose)(__m512 *v) { /* a 4x4 transposition of 128-bit blocks */
    __m512 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44), b = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
    __m512 c = _mm512_shuffle_f32x4(v[2], v[3], 0x44), d = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    v[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
    v[2] = _mm512_shuffle_f32x4(b, d, 0x88);
    v[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}
TARGET INLINE void FN(sums)(__m512 v, float *out) {
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e)); /* lanes 0+2, 1+3 */
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    out[0] = _mm512_cvtss_f32(v);
    out[1] = _mm_cvtss_f32(_mm512_extractf32x4_ps(v, 1));
    out[2] = _mm_cvtss_f32(_mm512_extractf32x4_ps(v, 2));
    out[3] = _mm_cvtss_f32(_mm512_extractf32x4_ps(v, 3));
}

#elif LLAMA_PASS == 4
#define ISA neon
#define TARGET
enum { FN(VL) = 4, FN(TILE_VECS) = 4, FN(DOT_VECS) = 8 };
typedef float32x4_t FN(vec);
INLINE float32x4_t FN(load)(const float *p) { return vld1q_f32(p); }
INLINE void FN(store)(float *p, float32x4_t v) { vst1q_f32(p, v); }
INLINE float32x4_t FN(splat)(float f) { return vdupq_n_f32(f); }
INLINE float32x4_t FN(spread)(const float *p) { return vld1q_f32(p); }
INLINE float32x4_t FN(fma)(float32x4_t a, float32x4_t b, float32x4_t c) {
    return vfmaq_f32(c, a, b);
}
INLINE float32x4_t FN(f16)(const unsigned char *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
INLINE float32x4_t FN(bf16)(const unsigned char *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
INLINE void FN(transpose)(float32x4_t *v) { (void)v; }
INLINE void FN(sums)(float32x4_t v, float *out) {
    float32x2_t pair = vadd_f32(vget_low_f32(v), vget_high_f32(v)); /* lanes 0+2, 1+3 */
    *out = vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}
#endif

#define VEC FN(vec)
enum { FN(VR) = FN(VL) / LANES, FN(TILE_ROWS) = FN(TILE_VECS) * FN(VR), FN(TILE_TOKENS) = 6 };

/* VL weights of one row from column k on; type is a constant, so the switch disappears. */
TARGET INLINE VEC FN(widen)(int type, const unsigned char *row, size_t k) {
    switch (type) {
    case F16: return FN(f16)(row + 2 * k);
    case BF16: return FN(bf16)(row + 2 * k);
    default: {
        float f[FN(VL)];
        memcpy(f, row + 4 * k, sizeof f);
        return FN(load)(f);
    }
    }
}

/* One block of `count` rows, widened and interleaved: out[i] is columns k+4i.. of VR rows. The last
 * block of a row may be short: then it is copied and filled up with zeros. */
TARGET INLINE void FN(block)(VEC *out, int type, const unsigned char *const *row, size_t k,
                             size_t cols) {
    unsigned char copy[FN(VR)][BLOCK * sizeof(float)];
    const unsigned char *from[FN(VR)];
    bool whole = k + BLOCK <= cols;
    for (int i = 0; i < FN(VR); i++) {
        from[i] = row[i] + k * dtype_bytes[type];
        if (whole) continue;
        memset(copy[i], 0, sizeof copy[i]);
        memcpy(copy[i], from[i], (cols - k) * dtype_bytes[type]);
        from[i] = copy[i];
    }
    UNROLL
    for (int j = 0; j < BLOCK / FN(VL); j++) {
        UNROLL
        for (int i = 0; i < FN(VR); i++)
            out[j * FN(VR) + i] = FN(widen)(type, from[i], (size_t)(j * FN(VL)));
        FN(transpose)(out + j * FN(VR));
    }
}

/* Pointers to VR rows from row r on, in one segment; past the end the last row is repeated. */
TARGET INLINE void FN(rows)(const unsigned char **row, const strip *w, size_t segment, size_t r,
                            size_t end) {
    for (size_t i = 0; i < FN(VR); i++)
        row[i] = w->part[segment] + (r + i < end ? r + i : end - 1) * w->stride;
}

/* One token: y[r] = sum_k w[r][k] x[k]. Weights go from memory to registers once; the rows after
 * these are prefetched in the order they lie in, for memory likes one stream better than several. */
TARGET INLINE void FN(dots)(int type, const strip *w, size_t begin, size_t end, const float *x,
                            float *y) {
    enum { VECS = FN(DOT_VECS), ROWS = VECS * FN(VR) };
    bool adjacent = w->stride == w->cols * dtype_bytes[type];
    for (size_t r = begin; r < end; r += ROWS) {
        VEC sum[VECS];
        UNROLL
        for (int v = 0; v < VECS; v++) sum[v] = FN(splat)(0);
        for (size_t s = 0; s < w->parts; s++) {
            const unsigned char *row[VECS][FN(VR)];
            for (size_t v = 0; v < VECS; v++) FN(rows)(row[v], w, s, r + v * FN(VR), end);
            uintptr_t ahead = (uintptr_t)(w->part[s] + r * w->stride) + ROWS * w->stride;
            const float *xs = x + s * w->cols;
            for (size_t k = 0; k < w->cols; k += BLOCK) {
                if (adjacent) UNROLL
                for (size_t i = 0; i < ROWS * BLOCK * dtype_bytes[type]; i += 64)
                    __builtin_prefetch((const void *)(ahead + k * ROWS * dtype_bytes[type] + i));
                VEC b[VECS][BLOCK / LANES];
                UNROLL
                for (int v = 0; v < VECS; v++) FN(block)(b[v], type, row[v], k, w->cols);
                UNROLL
                for (int i = 0; i < BLOCK / LANES; i++) {
                    /* out[j * VR + i] of block() holds columns 4 (j VR + i) */
                    VEC xi = FN(spread)(xs + k + (size_t)i * LANES);
                    UNROLL
                    for (int v = 0; v < VECS; v++) sum[v] = FN(fma)(b[v][i], xi, sum[v]);
                }
            }
        }
        float out[ROWS];
        for (int v = 0; v < VECS; v++) FN(sums)(sum[v], out + v * FN(VR));
        for (size_t i = 0; i < ROWS && r + i < end; i++) y[r + i] = out[i];
    }
}

/* A register tile: TILE_ROWS rows, widened in the panel, by `tokens` <= 6 tokens, over `steps` times
 * four columns. The lanes wait in acc between panels, so the order of a sum does not change. */
TARGET INLINE void FN(tile)(float *acc, const float *panel, const float *x, size_t ldx,
                            size_t steps, bool first, const size_t tokens) {
    VEC sum[FN(TILE_TOKENS)][FN(TILE_VECS)];
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < FN(TILE_VECS); v++)
        sum[t][v] = first ? FN(splat)(0) : FN(load)(acc + (t * FN(TILE_VECS) + v) * FN(VL));
    for (size_t i = 0; i < steps; i++, panel += FN(TILE_VECS) * FN(VL), x += LANES) {
        VEC w[FN(TILE_VECS)];
        UNROLL
        for (size_t v = 0; v < FN(TILE_VECS); v++) w[v] = FN(load)(panel + v * FN(VL));
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            VEC xt = FN(spread)(x + t * ldx);
            UNROLL
            for (size_t v = 0; v < FN(TILE_VECS); v++) sum[t][v] = FN(fma)(w[v], xt, sum[t][v]);
        }
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < FN(TILE_VECS); v++)
        FN(store)(acc + (t * FN(TILE_VECS) + v) * FN(VL), sum[t][v]);
}

/* One panel against all n tokens. */
TARGET static void FN(tiles)(float *acc, const float *panel, const float *x, size_t ldx, size_t n,
                             size_t steps, bool first) {
    for (size_t t = 0; t < n; t += FN(TILE_TOKENS)) {
        float *a = acc + t * FN(TILE_VECS) * FN(VL);
        const float *xt = x + t * ldx;
        switch (n - t) {
        case 1: FN(tile)(a, panel, xt, ldx, steps, first, 1); break;
        case 2: FN(tile)(a, panel, xt, ldx, steps, first, 2); break;
        case 3: FN(tile)(a, panel, xt, ldx, steps, first, 3); break;
        case 4: FN(tile)(a, panel, xt, ldx, steps, first, 4); break;
        case 5: FN(tile)(a, panel, xt, ldx, steps, first, 5); break;
        default: FN(tile)(a, panel, xt, ldx, steps, first, 6);
        }
    }
}

/* Widen TILE_ROWS rows of `count` columns from column k on into a panel, as tile() reads it. */
TARGET INLINE void FN(fill)(float *panel, int type, const strip *w, size_t s, size_t r, size_t end,
                            size_t k, size_t count) {
    for (size_t v = 0; v < FN(TILE_VECS); v++) {
        const unsigned char *row[FN(VR)];
        FN(rows)(row, w, s, r + v * FN(VR), end);
        for (size_t c = 0; c < count; c += BLOCK) {
            VEC b[BLOCK / LANES];
            FN(block)(b, type, row, k + c, w->cols);
            UNROLL
            for (size_t i = 0; i < BLOCK / LANES; i++)
                FN(store)(panel + ((c / LANES + i) * FN(TILE_VECS) + v) * FN(VL), b[i]);
        }
    }
}

/* Many tokens: each panel of weights is widened once and used by all of them from the L1 cache. */
TARGET INLINE void FN(product)(int type, const strip *w, size_t begin, size_t end, const float *x,
                               size_t ldx, float *y, size_t ldy, size_t n, float *panel,
                               float *acc) {
    for (size_t r = begin; r < end; r += FN(TILE_ROWS)) {
        bool first = true;
        for (size_t s = 0; s < w->parts; s++)
            for (size_t k = 0; k < w->cols; k += PANEL_COLUMNS, first = false) {
                size_t count = w->cols - k < PANEL_COLUMNS ? w->cols - k : PANEL_COLUMNS;
                FN(fill)(panel, type, w, s, r, end, k, count);
                FN(tiles)
                (acc, panel, x + s * w->cols + k, ldx, n,
                 (count + BLOCK - 1) / BLOCK * (BLOCK / LANES), first);
            }
        for (size_t t = 0; t < n; t++)
            for (size_t v = 0; v < FN(TILE_VECS); v++) {
                float out[FN(VR)];
                FN(sums)(FN(load)(acc + (t * FN(TILE_VECS) + v) * FN(VL)), out);
                for (size_t i = 0; i < FN(VR) && r + v * FN(VR) + i < end; i++)
                    y[t * ldy + r + v * FN(VR) + i] = out[i];
            }
    }
}

TARGET INLINE void FN(multiply)(int type, const strip *w, size_t begin, size_t end, const float *x,
                                size_t ldx, float *y, size_t ldy, size_t n, float *panel,
                                float *acc) {
    if (n == 1)
        FN(dots)(type, w, begin, end, x, y);
    else
        FN(product)(type, w, begin, end, x, ldx, y, ldy, n, panel, acc);
}

TARGET static void FN(matmul)(const strip *w, size_t begin, size_t end, const float *x, size_t ldx,
                              float *y, size_t ldy, size_t n, float *panel, float *acc) {
    switch (w->type) {
    case F16: FN(multiply)(F16, w, begin, end, x, ldx, y, ldy, n, panel, acc); break;
    case BF16: FN(multiply)(BF16, w, begin, end, x, ldx, y, ldy, n, panel, acc); break;
    default: FN(multiply)(F32, w, begin, end, x, ldx, y, ldy, n, panel, acc);
    }
}

/* One token against rows of float32 that are not weights: the KV cache, or x itself. */
TARGET static void FN(dots_float)(const float *w, size_t rows, size_t cols, size_t stride,
                                  const float *x, float *y) {
    const unsigned char *part = (const unsigned char *)w;
    strip strip = {&part, 1, cols, stride * sizeof(float), F32};
    FN(dots)(F32, &strip, 0, rows, x, y);
}

/* r = 1 / sqrt(x.x / n + eps); y = (x r) w */
TARGET static void FN(rmsnorm)(float *y, const float *x, const unsigned char *w, int type, size_t n,
                               float eps) {
    float ss;
    FN(dots_float)(x, 1, n, n, x, &ss);
    float r = 1.0f / sqrtf(ss / (float)n + eps);
    for (size_t i = 0; i < n; i += BLOCK) {
        float f[BLOCK];
        size_t count = n - i < BLOCK ? n - i : BLOCK;
        if (count == BLOCK)
            for (size_t k = 0; k < BLOCK; k += FN(VL)) {
                VEC v = type == F16    ? FN(widen)(F16, w, i + k)
                        : type == BF16 ? FN(widen)(BF16, w, i + k)
                                       : FN(widen)(F32, w, i + k);
                FN(store)(f + k, v);
            }
        else
            for (size_t k = 0; k < count; k++) f[k] = element(type, w, i + k);
        for (size_t k = 0; k < count; k++) y[i + k] = x[i + k] * r * f[k];
    }
}

/* (a, b) -> (a cos - b sin, a sin + b cos) */
TARGET static void FN(rope)(float *v, const float *cosine, const float *sine, size_t head_dim) {
    for (size_t j = 0; j < head_dim / 2; j++) {
        float a = v[2 * j], b = v[2 * j + 1], c = cosine[j], s = sine[j];
        v[2 * j] = __builtin_fmaf(-b, s, a * c);
        v[2 * j + 1] = __builtin_fmaf(b, c, a * s);
    }
}

/* x = softmax(x): e = exp(x - max), summed in four lanes by position, then e / sum */
TARGET INLINE void FN(softmax)(float *x, size_t n) {
    float top = x[0], lane[LANES] = {0};
    for (size_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (size_t i = 0; i < n; i++) x[i] = exp_float(x[i] - top);
    for (size_t i = 0; i < n; i++) lane[i % LANES] += x[i];
    float sum = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

/* y[d] = sum_j p[j] v[j][d], j ascending, for `vecs` VL elements d */
TARGET INLINE void FN(mix)(float *y, const float *p, const float *v, size_t n, size_t stride,
                           const int vecs) {
    VEC sum[8];
    UNROLL
    for (int i = 0; i < vecs; i++) sum[i] = FN(splat)(0);
    for (size_t j = 0; j < n; j++) {
        VEC pj = FN(splat)(p[j]);
        UNROLL
        for (int i = 0; i < vecs; i++)
            sum[i] = FN(fma)(pj, FN(load)(v + j * stride + (size_t)i * FN(VL)), sum[i]);
    }
    UNROLL
    for (int i = 0; i < vecs; i++) FN(store)(y + (size_t)i * FN(VL), sum[i]);
}

/* One head of one token: y = softmax(q K^T / sqrt(head_dim)) V over n positions */
TARGET static void FN(attend)(float *y, const float *q, const float *keys, const float *values,
                              size_t n, size_t head_dim, size_t stride, float *scores) {
    FN(dots_float)(keys, n, head_dim, stride, q, scores);
    float root = sqrtf((float)head_dim);
    for (size_t i = 0; i < n; i++) scores[i] /= root;
    FN(softmax)(scores, n);
    size_t d = 0;
    for (; d + 8 * FN(VL) <= head_dim; d += 8 * FN(VL))
        FN(mix)(y + d, scores, values + d, n, stride, 8);
    for (; d + FN(VL) <= head_dim; d += FN(VL)) FN(mix)(y + d, scores, values + d, n, stride, 1);
    for (; d < head_dim; d++) {
        float sum = 0;
        for (size_t j = 0; j < n; j++) sum = __builtin_fmaf(scores[j], values[j * stride + d], sum);
        y[d] = sum;
    }
}

/* a = a / (1 + exp(-a)) * b */
TARGET static void FN(swiglu)(float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) a[i] = a[i] / (1.0f + exp_float(-a[i])) * b[i];
}

static const kernels FN(kernels) = {
    .name = TEXT(ISA),
    .matmul = FN(matmul),
    .rmsnorm = FN(rmsnorm),
    .rope = FN(rope),
    .attend = FN(attend),
    .swiglu = FN(swiglu),
};

#undef VEC
#undef TARGET
#undef ISA
#undef LLAMA_PASS
#endif
