/* llama.c - LLaMA (Touvron et al. 2023, arXiv:2302.13971) on a CPU, from the files Meta shipped.
 *
 * It maps the checkpoint, runs the transformer in float32 arithmetic whose every rounding is
 * defined (the same bits on each instruction set, thread count, batch and sharding), samples. It
 * does not convert or copy weights, quantise, train, keep global state, print or exit.
 *
 *   I.   The model        types with their shapes, the forward pass
 *   II.  The verbs        embed, rmsnorm, matmul, rope, attention, swiglu: each with its equation
 *   III. Weights          formats, parameters, the binding table: files are hostile input
 *   IV.  Using it         sampler, opening, sessions, evaluating, looking, saved state: the public
 *                         functions (those of whole texts are in tokenizer.c)
 *   V.   The machine      which kernels this CPU runs, and the kernels themselves, written once and
 *                         read once per instruction set: this file includes itself (LLAMA_PASS)
 *
 * Memory: weights stay in the page cache, mapped read-only. A model owns an arena of a few KB a
 * layer. A session is one allocation: scratch for one batch, then the KV cache, touched as used.
 *
 * What knows no model, readers of zip, pickle, safetensors and GGUF, JSON, numbers, stands in
 * llama.h's private part.
 *
 * Read I first: forward() is all of LLaMA. Then II for the equations, V for how they are made fast.
 */
#ifndef LLAMA_PASS
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* mmap, madvise and mlock under -std=c11 */
#endif
#include <float.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h> /* SYS_arch_prctl, for AMX */
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* The bits are a promise, so the source forbids what would change them under a user's flags. */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "llama.c defines the order of its arithmetic: compile it without -ffast-math"
#elif FLT_EVAL_METHOD != 0
#error "llama.c needs float arithmetic in float: on x86 compile with -msse2 -mfpmath=sse"
#elif defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "llama.c uses the files as they lie, and they are little-endian: this machine is not"
#elif SIZE_MAX < UINT64_MAX
#error "llama.c maps files larger than 4 GiB: it needs a 64-bit machine"
#endif
_Static_assert(sizeof 0.1 == sizeof(double), "compile llama.c without -fsingle-precision-constant");
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif
#define LLAMA_PRIVATE /* the ground: bytes, memory, files, */
#define LLAMA_CORE    /* numbers, readers of tensors */
#include "llama.h"

/* ============================================================================================== */
/* I. The model                                                                                   */
/* ============================================================================================== */

/* The equations, for the token at position t of a sequence (paper, section 2.2):
 *
 *   x    = tok_embeddings[token]
 *   each layer:
 *     h  = rmsnorm(x) * attention_norm
 *     q, k, v = wq h, wk h, wv h            q, k rotated by their position (RoPE)
 *     h  = for each head: softmax(q . keys / sqrt(head_dim)) values     over positions 0..t
 *     x += wo h
 *     h  = rmsnorm(x) * ffn_norm
 *     x += w2 (silu(w1 h) * w3 h)
 *   logits = output (rmsnorm(x) * norm)
 *
 * Letters in comments: n tokens evaluated together, D dim, H hidden, V vocab_size, K kv_dim.
 * A row of an activation buffer of width W takes padded(W) floats; those behind W stay zero. */

static const char *const dtype_names[DTYPES] = {"float32", "float16", "bfloat16"};

/* How a model-parallel checkpoint divides a tensor over its shards. */
typedef enum { WHOLE, BY_ROWS, BY_COLUMNS } division;

typedef struct {                      /* a matrix [rows][cols] as it lies in the files */
    const unsigned char *const *part; /* [parts] the first byte of each shard's piece */
    size_t rows, cols, parts;         /* of the whole matrix; a vector is one row */
    unsigned char type, split;        /* dtype, division */
    bool sorted; /* the rows of a head: the first of each pair that RoPE turns, then the second */
    short layer; /* -1: outside the layers */
    const char *name; /* "attention.wq" */
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

struct llama {
    size_t dim, n_layers, n_heads, n_kv_heads, vocab_size; /* as params.json has them */
    size_t head_dim, kv_dim, hidden; /* dim / n_heads, head_dim * n_kv_heads, rows of w1 */
    size_t context;                  /* positions it was trained for */
    float norm_eps, rope_theta;      /* rounded to float32, as Meta's code has them */
    weight tok_embeddings;           /* [V][D] */
    weight norm;                     /* [D] */
    weight output;                   /* [V][D] */
    layer *layers;                   /* [n_layers] */
    float *freqs;                    /* [head_dim/2] radians per position */
    llamac_vocab *vocab;             /* NULL: no tokenizer */
    llamac_mapping *files;           /* [n_shards] those of weights */
    const char **paths;              /* [n_shards] */
    size_t n_shards;                 /* files */
    int lost;                        /* 1 + the number of the file whose pages are gone; 0: none */
    int team_pid;                    /* the process that first had a team of threads; 0: none */
    size_t page;                     /* bytes of one */
    uint64_t parameters, file_bytes; /* elements of all weights; bytes of their files, */
    uint64_t token_bytes;            /* and of the matrices that a token is multiplied with */
    const char *type_name;           /* "float16", or "mixed" */
    int format;                      /* part III */
    llamac_arena arena;              /* owns what the pointers above point to, and this struct */
};

typedef struct {      /* one sequence */
    float *k, *v;     /* [n_layers][n_kv_heads][context][head_dim] */
    int32_t *tokens;  /* [context] */
    float *logits;    /* [V] of the last token */
    size_t length;    /* positions filled */
    size_t end;       /* the length after the call under way */
    uint64_t call;    /* the last call that named it */
    bool have_logits; /* false: empty or rewound */
} sequence;

typedef struct {    /* what one thread works in */
    float *panel;   /* [TILED * PANEL_COLUMNS] widened weights, or their parts for AMX */
    float *acc;     /* [GROUP][rows][PANEL_ROWS * LANES] lanes of sums under way */
    float *scores;  /* [ATTENDED][context] of one head */
    float *queries; /* [ATTENDED][head_dim] of one head, packed */
} workspace;

typedef struct kernels kernels;

struct llama_session {
    const llama *model;         /* shared, never written */
    const kernels *kernels;     /* of one instruction set */
    llama_allocator allocator;  /* asked once, at the start */
    uint64_t bytes;             /* of the whole allocation, this struct included */
    llama_progress_fn progress; /* NULL: nobody asks */
    void *progress_user;
    llama_trace_fn trace; /* NULL: nobody looks */
    void *trace_user;
    size_t n_sequences, context, batch; /* positions of each sequence; tokens evaluated together */
    int threads, team;                  /* asked for; used by this call */
    sequence *sequences;                /* [n_sequences] */
    /* scratch of one batch */
    sequence **row_seq;   /* [batch] whose token each row is */
    size_t *row_pos;      /* [batch] and its position there */
    int32_t *row_token;   /* [batch] */
    float *x, *h, *o;     /* [batch][D] the residual stream, the normed input, a block's output */
    float *q, *k, *v;     /* [batch][D], [batch][K], [batch][K] */
    float *a, *b;         /* [batch][H] */
    float *packed;        /* [batch][D or H] the input of a product; with room for AMX's parts */
    float *cos, *sin;     /* [batch][head_dim/2] */
    workspace *own;       /* [threads] */
    float *last;          /* [n_sequences][D] h of the tokens whose logits are wanted */
    float *logits;        /* [n_logits][V] */
    double *probs;        /* [V] */
    int32_t *ids;         /* [V] */
    unsigned char *seen;  /* [V] */
    size_t n_logits;      /* rows of logits: for all sequences, at least SCORED */
    uint64_t calls;       /* of llama_eval and its kin so far */
    uint64_t done, total; /* layers * tokens: before this batch, of this call */
    bool cancelled;       /* the host said stop */
    bool all_rows;        /* of this call's tokens the logits, or a trace, are wanted */
    llama_error error;    /* of the last call that failed */
    char about[48];       /* "avx512, 2 threads" */
};

enum {
    BLOCK = 16,            /* columns: rows of matrices are visited in blocks of 16, zero-padded */
    LANES = 4,             /* of a sum: part V */
    TILE_TOKENS = 6,       /* rows of x in a register tile, at most */
    PANEL_COLUMNS = 256,   /* of the weights that are widened at once... */
    PANEL_ROWS = 16,       /* ...and their rows, at most */
    GROUP = 4,             /* panels that take turns */
    TILED = 32,            /* rows of x, columns and rows of w that AMX's tiles multiply at once */
    ATTENDED = 48,         /* rows of a sequence whose attention is computed together */
    SCORED = 8,            /* rows of a text to score whose logits are computed together */
    MAX_LAYERS = 1024,     /* what a file may ask for at most */
    MAX_WIDTH = 1 << 20,   /* dim, heads, rows of w1 */
    MAX_VOCAB = 1 << 20,   /* embeddings */
    MAX_CONTEXT = 1 << 20, /* positions; RoPE's sine is exact to twice that */
    MAX_FILES = 1000,      /* with weights */
    DEFAULT_CONTEXT = 2048 /* of files that do not say, as Meta's */
};

/* Floats from one row of an activation buffer to the next. The second block lets kernels
 * read a whole block from the start of any head, and keeps rows off the same cache sets. */
static size_t padded(size_t width) { return (width + BLOCK - 1) / BLOCK * BLOCK + BLOCK; }

/* The verbs, for n rows. E are the embeddings, w a weight, K and V the cached keys and values of
 * layer l, d the width of a head.
 *
 *   embed        x = E[token]                       attention    y = softmax(q K / sqrt d) V
 *   rmsnorm      y = x / rms(x) * w                 swiglu       a = silu(a) * b
 *   matmul       y = w x                            add          x = x + y
 *   rope         q = q turned by its position       cancelled    has the host had enough?
 *   remember     K, V at the position = k, v        keep_wanted  drop rows nobody asks for
 */
static void embed(llama_session *, float *x, size_t n);
static void rmsnorm(llama_session *, float *y, const float *x, const weight *w, size_t n);
static void matmul(llama_session *, float *y, const weight *w, const float *x, size_t n);
static void rope(llama_session *, float *q, size_t heads, size_t n);
static void remember(llama_session *, size_t l, const float *k, const float *v, size_t n);
static void attention(llama_session *, float *y, const float *q, size_t l, size_t n);
static void swiglu(llama_session *, float *a, const float *b, size_t n);
static void add(llama_session *, float *x, const float *y, size_t n);
static bool cancelled(llama_session *, size_t l, size_t n);
static size_t keep_wanted(llama_session *, size_t n);

/* LLaMA. n tokens go through all layers together, each at its own position of its own
 * sequence; a prompt and a generated token differ only in n. Leaves in h the normed last
 * activations of the tokens whose logits are wanted, and returns how many these are. */
static size_t forward(llama_session *s, size_t n) {
    const llama *m = s->model;
    embed(s, s->x, n); /* x [n][D] */
    for (size_t l = 0; l < m->n_layers && !cancelled(s, l, n); l++) {
        const layer *w = &m->layers[l];

        rmsnorm(s, s->h, s->x, &w->attention_norm, n); /* h [n][D] */
        matmul(s, s->q, &w->wq, s->h, n);              /* q [n][D] */
        matmul(s, s->k, &w->wk, s->h, n);              /* k [n][K] */
        matmul(s, s->v, &w->wv, s->h, n);              /* v [n][K] */
        rope(s, s->q, m->n_heads, n);                  /* turn q and k by their positions */
        rope(s, s->k, m->n_kv_heads, n);
        remember(s, l, s->k, s->v, n);                   /* into the KV cache */
        if (l + 1 == m->n_layers) n = keep_wanted(s, n); /* the others have served */
        if (n == 0) return 0;
        attention(s, s->h, s->q, l, n);   /* h [n][D], all heads side by side */
        matmul(s, s->o, &w->wo, s->h, n); /* o [n][D] */
        add(s, s->x, s->o, n);            /* the residual stream */

        rmsnorm(s, s->h, s->x, &w->ffn_norm, n); /* h [n][D] */
        matmul(s, s->a, &w->w1, s->h, n);        /* a [n][H], the gate */
        matmul(s, s->b, &w->w3, s->h, n);        /* b [n][H] */
        swiglu(s, s->a, s->b, n);                /* a = silu(a) * b */
        matmul(s, s->o, &w->w2, s->a, n);        /* o [n][D] */
        add(s, s->x, s->o, n);
    }
    rmsnorm(s, s->h, s->x, &m->norm, n); /* [n][D], of which output() makes logits */
    return n;
}

/* ============================================================================================== */
/* II. The verbs                                                                                  */
/* ============================================================================================== */

/* Guarantee: one thread computes an output element, in an order that does not depend on n,
 * on the number of threads or on the shards. The inner loops are kernels (part V); here
 * stands who does what, and the equation of each. Activations are written once per verb and
 * read by the next. */

/* Some rows of a matrix. A row lies in one segment, or in as many as there are shards side
 * by side; a sum runs through the segments from left to right as if they were one. */
typedef struct {
    const unsigned char *const *part; /* [parts] where row 0 of each segment begins */
    size_t parts, cols, stride;       /* cols of one segment; bytes from one row to the next */
    int type;                         /* dtype */
} strip;

/* y[t][r] = sum_k w[r][k] x[t][k] for t < n, and the memory a thread needs for it. */
typedef struct {
    strip w;
    const float *x; /* packed */
    float *y;
    size_t ldy, n; /* floats from row to row of y; rows of x */
    const workspace *own;
} product;

/* One head of `rows` tokens at consecutive positions of a sequence; the first sees n of them. */
typedef struct {
    float *y;
    const float *q, *keys, *values;
    size_t rows, n, head_dim, ld; /* ld floats from row to row of y and q */
    const workspace *own;
} view;

/* What an instruction set has to offer; all sets give the same bits. */
struct kernels {
    const char *name;                                          /* "avx512" */
    void (*matmul)(const product *, size_t begin, size_t end); /* rows begin <= r < end of w */
    void (*rmsnorm)(float *y, const float *x, const weight *w, float eps);       /* one row */
    void (*rope)(float *v, const float *cos, const float *sin, size_t head_dim); /* one head */
    void (*attend)(const view *);
    void (*swiglu)(float *a, const float *b, size_t n); /* one row */
    void (*pack)(float *to, const float *x, size_t ldx, size_t n,
                 size_t cols); /* for AMX's tiles */
};

/* ---- Threads ---- */

/* One verb's work: y from x and w, for n rows, in layer l. A job does items begin <= i <
 * end of it, what an item is being the verb's own affair. */
typedef struct {
    llama_session *s;
    const weight *w;
    float *y;
    const float *x;
    size_t n, l;
} task;
typedef void job(const task *, int thread, size_t begin, size_t end);

/* Do all items of a task. `work` in multiply-adds: less than waking a team is worth stays on
 * this thread. Of little work each thread takes its part, of much an eighth of that at a time, so
 * that a slow core does not hold up the others. The only place that knows OpenMP. */
static void parallel(const task *t, job *run, size_t items, size_t unit, size_t work) {
    (void)unit, (void)work;
#ifdef _OPENMP
    enum { WORTH_A_TEAM = 1 << 14, WORTH_SHARES = 1 << 22, SHARES = 8 };
    int team = t->s->team;
    size_t parts = (size_t)team * (work < WORTH_SHARES ? 1 : SHARES);
    size_t chunk = ((items + parts - 1) / parts + unit - 1) / unit * unit;
    if (team > 1 && items > chunk && work >= WORTH_A_TEAM) {
        size_t chunks = (items + chunk - 1) / chunk; /* handed out one by one */
#pragma omp parallel num_threads(team)
        {
            uint64_t mode = llamac_fp_enter(); /* a worker has a mode of its own */
#pragma omp for schedule(dynamic, 1)
            for (size_t c = 0; c < chunks; c++) {
                size_t begin = c * chunk, end = begin + chunk < items ? begin + chunk : items;
                run(t, omp_get_thread_num(), begin, end);
            }
            llamac_fp_leave(mode);
        }
        return;
    }
#endif
    run(t, 0, 0, items);
}

/* "layers.3.attention.wq": a weight's name as Meta has it, but for ".weight". */
static void full_name(char out[64], int l, const char *name) {
    if (l < 0) snprintf(out, 64, "%s", name);
    else snprintf(out, 64, "layers.%d.%s", l, name);
}

/* Hand what a weight made of its input to the host: under the weight's name, with the rows
 * packed. The padding is put back afterwards, so tracing changes no bit. */
static void trace(llama_session *s, const weight *w, float *x, size_t n, size_t width) {
    if (!s->trace) return;
    char name[64];
    size_t ld = padded(width);
    full_name(name, w->layer, w->name);
    for (size_t t = 1; t < n; t++) memmove(x + t * width, x + t * ld, width * sizeof *x);
    s->trace(s->trace_user, name, x, n, width);
    for (size_t t = n; t-- > 0;) {
        memmove(x + t * ld, x + t * width, width * sizeof *x);
        memset(x + t * ld + width, 0, (ld - width) * sizeof *x);
    }
}

/* ---- The verbs themselves ---- */

/* x[t] = tok_embeddings[token of row t]; of a sharded table each shard holds some columns. */
static void embed(llama_session *s, float *x, size_t n) {
    const weight *e = &s->model->tok_embeddings;
    size_t cols = e->cols / e->parts, stride = cols * dtype_bytes[e->type];
    for (size_t t = 0; t < n; t++)
        for (size_t p = 0; p < e->parts; p++) {
            const unsigned char *row = e->part[p] + (size_t)s->row_token[t] * stride;
            float *to = x + t * padded(e->cols) + p * cols;
            for (size_t i = 0; i < cols; i++) to[i] = element(e->type, row, i);
        }
    trace(s, e, x, n, e->cols);
}

/* y = x / sqrt(mean(x^2) + eps) * w      (Zhang & Sennrich 2019, arXiv:1910.07467) */
static void rmsnorm_job(const task *j, int thread, size_t begin, size_t end) {
    size_t ld = padded(j->w->cols);
    (void)thread;
    for (size_t t = begin; t < end; t++)
        j->s->kernels->rmsnorm(j->y + t * ld, j->x + t * ld, j->w, j->s->model->norm_eps);
}

/* Row by row: one thread a row. */
static void rmsnorm(llama_session *s, float *y, const float *x, const weight *w, size_t n) {
    parallel(&(task){s, w, y, x, n, 0}, rmsnorm_job, n, 1, n * w->cols);
    trace(s, w, y, n, w->cols);
}

/* Rows of the next tile when n are left: as many as in the others, or one more. */
static size_t tile_tokens(size_t n) {
    size_t tiles = (n + TILE_TOKENS - 1) / TILE_TOKENS;
    return (n + tiles - 1) / tiles;
}

/* Pack `cols` columns of n rows of x as the kernels read them, in one run through memory: by
 * panels of PANEL_COLUMNS columns, in these by tiles of rows, in these four columns of all its
 * rows, then the next four. One row is packed as it is. */
static void pack(float *to, const float *x, size_t ldx, size_t n, size_t cols) {
    for (size_t k = 0; k < cols; k += PANEL_COLUMNS) {
        size_t end =
            k + PANEL_COLUMNS < cols ? k + PANEL_COLUMNS : (cols + BLOCK - 1) / BLOCK * BLOCK;
        for (size_t t = 0, tokens; t < n; t += tokens) {
            tokens = tile_tokens(n - t);
            for (size_t i = k; i < end; i += LANES)
                for (size_t r = t; r < t + tokens; r++, to += LANES)
                    memcpy(to, x + r * ldx + i, LANES * sizeof *to);
        }
    }
}

/* Columns of w that lie side by side, and panels of these. */
static size_t across(const weight *w) { return w->split == BY_ROWS ? w->cols : w->cols / w->parts; }
static size_t n_panels(const weight *w) { return (across(w) + PANEL_COLUMNS - 1) / PANEL_COLUMNS; }

/* Can AMX's tiles make this product? Rows of x are then packed up to a multiple of TILED. */
static bool is_tiled(int type, size_t n, size_t cols) {
    return type != F32 && n >= TILED && cols % TILED == 0;
}

/* Item i is panel i % panels of the columns side by side number i / panels. */
static void pack_job(const task *j, int thread, size_t begin, size_t end) {
    size_t cols = across(j->w);
    const kernels *k = j->s->kernels;
    bool tiled = k->pack && is_tiled(j->w->type, j->n, cols);
    size_t rows = tiled ? (j->n + TILED - 1) / TILED * TILED : j->n;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t first = i % n_panels(j->w) * PANEL_COLUMNS, at = i / n_panels(j->w) * cols + first;
        size_t count = cols - first < PANEL_COLUMNS ? cols - first : PANEL_COLUMNS;
        if (tiled) k->pack(j->y + at * rows / 2 * 3, j->x + at, padded(j->w->cols), j->n, count);
        else pack(j->y + at * rows, j->x + at, padded(j->w->cols), j->n, count);
    }
}

/* y[t][r] = sum_k w[r][k] x[t][k]. The rows of w are shared out. A matrix divided by rows
 * is several matrices one below the other; one divided by columns has rows of several
 * segments. */
static void matmul_job(const task *j, int thread, size_t begin, size_t end) {
    const llama_session *s = j->s;
    const weight *w = j->w;
    bool by_rows = w->split == BY_ROWS;
    size_t height = by_rows ? w->rows / w->parts : w->rows;
    size_t cols = across(w);
    for (size_t r = begin; r < end;) { /* r is in piece p, whose first row is row `top` of w */
        size_t p = r / height, top = p * height, stop = end < top + height ? end : top + height;
        product one = {
            .w = {w->part + (by_rows ? p : 0), by_rows ? 1 : w->parts, cols,
                  cols * dtype_bytes[w->type], w->type},
            .x = j->x,
            .y = j->y + top,
            .ldy = padded(w->rows),
            .n = j->n,
            .own = &s->own[thread],
        };
        s->kernels->matmul(&one, r - top, stop - top);
        r = stop;
    }
}

/* Put what sorted rows made into the order of Meta's, each pair side by side. */
static void pair_up(llama_session *s, float *y, size_t width, size_t n) {
    size_t head_dim = s->model->head_dim, half = head_dim / 2;
    float *head = s->own->queries;
    for (size_t t = 0; t < n; t++, y += padded(width))
        for (size_t h = 0; h < width; h += head_dim) {
            memcpy(head, y + h, head_dim * sizeof *head);
            for (size_t j = 0; j < half; j++) {
                y[h + 2 * j] = head[j];
                y[h + 2 * j + 1] = head[j + half];
            }
        }
}

/* One row of x is read as it lies; of many each thread reads all, so they are packed first. */
static void matmul(llama_session *s, float *y, const weight *w, const float *x, size_t n) {
    if (n > 1) {
        parallel(&(task){s, w, s->packed, x, n, 0}, pack_job, w->cols / across(w) * n_panels(w), 1,
                 n * w->cols);
        x = s->packed;
    }
    parallel(&(task){s, w, y, x, n, 0}, matmul_job, w->rows, BLOCK, n * w->rows * w->cols);
    if (w->sorted) pair_up(s, y, w->rows, n);
    trace(s, w, y, n, w->rows);
}

/* RoPE (Su et al. 2021, arXiv:2104.09864) as Meta's code pairs elements: (2j, 2j+1) of each
 * head turn by position * theta^(-2j/head_dim) radians. */
static void rope(llama_session *s, float *q, size_t heads, size_t n) {
    size_t width = s->model->head_dim, half = width / 2, ld = padded(heads * width);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < heads; h++)
            s->kernels->rope(q + t * ld + h * width, s->cos + t * half, s->sin + t * half, width);
}

/* Where the keys or the values of the i-th kv_head of all layers begin: [context][head_dim] */
static float *cache(const llama_session *s, float *kv, size_t i) {
    return kv + i * s->context * s->model->head_dim;
}

/* The KV cache, in float32: K[l][head][position] = k, V[l][head][position] = v. */
static void remember(llama_session *s, size_t l, const float *k, const float *v, size_t n) {
    size_t heads = s->model->n_kv_heads, width = s->model->head_dim, ld = padded(heads * width);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < heads; i++) {
            size_t from = t * ld + i * width, to = s->row_pos[t] * width;
            memcpy(cache(s, s->row_seq[t]->k, l * heads + i) + to, k + from, width * sizeof *k);
            memcpy(cache(s, s->row_seq[t]->v, l * heads + i) + to, v + from, width * sizeof *v);
        }
}

/* y = softmax(q K^T / sqrt(head_dim)) V for each row and head, over the positions up to its
 * own (Vaswani et al. 2017, arXiv:1706.03762; with fewer kv_heads, neighbouring heads share
 * one). */
static void attention_job(const task *j, int thread, size_t begin, size_t end) {
    const llama_session *s = j->s;
    const llama *m = s->model;
    for (size_t i = begin; i < end; i++) { /* a head of up to ATTENDED rows, sequence by sequence */
        size_t head = i % m->n_heads, t = i / m->n_heads * ATTENDED, rows;
        size_t stop = j->n < t + ATTENDED ? j->n : t + ATTENDED;
        size_t kv = j->l * m->n_kv_heads + head / (m->n_heads / m->n_kv_heads);
        for (; t < stop; t += rows) {
            const sequence *q = s->row_seq[t];
            size_t at = t * padded(m->dim) + head * m->head_dim;
            for (rows = 1; t + rows < stop && s->row_seq[t + rows] == q;) rows++;
            s->kernels->attend(&(view){j->y + at, j->x + at, cache(s, q->k, kv), cache(s, q->v, kv),
                                       rows, s->row_pos[t] + 1, m->head_dim, padded(m->dim),
                                       &s->own[thread]});
        }
    }
}

/* An item is one head of ATTENDED rows; a row meets as many positions as stand before it. */
static void attention(llama_session *s, float *y, const float *q, size_t l, size_t n) {
    size_t positions = 0, groups = (n + ATTENDED - 1) / ATTENDED;
    for (size_t t = 0; t < n; t++) positions += s->row_pos[t] + 1;
    parallel(&(task){s, NULL, y, q, n, l}, attention_job, groups * s->model->n_heads, 1,
             positions * s->model->dim * 2);
}

/* a = silu(a) * b, silu(a) = a / (1 + exp(-a))      (Shazeer 2020, arXiv:2002.05202) */
static void swiglu_job(const task *j, int thread, size_t begin, size_t end) {
    size_t width = j->s->model->hidden, ld = padded(width);
    (void)thread;
    for (size_t t = begin; t < end; t++) j->s->kernels->swiglu(j->y + t * ld, j->x + t * ld, width);
}

/* Row by row, in place. */
static void swiglu(llama_session *s, float *a, const float *b, size_t n) {
    enum { WORTH = 8 }; /* an exp costs about as much as so many multiply-adds */
    parallel(&(task){s, NULL, a, b, n, 0}, swiglu_job, n, 1, n * s->model->hidden * WORTH);
}

/* x += y: the residual connection; a dot product is complete before it is added */
static void add(llama_session *s, float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n * padded(s->model->dim); i++) x[i] += y[i];
}

/* Keep of x and q the rows whose logits are wanted: the last of each span, unless all are. */
static size_t keep_wanted(llama_session *s, size_t n) {
    size_t kept = 0, ld = padded(s->model->dim);
    for (size_t t = 0; t < n; t++) {
        if (!s->all_rows && s->row_pos[t] + 1 != s->row_seq[t]->end) continue;
        memmove(s->x + kept * ld, s->x + t * ld, ld * sizeof *s->x);
        memmove(s->q + kept * ld, s->q + t * ld, ld * sizeof *s->q);
        s->row_seq[kept] = s->row_seq[t];
        s->row_pos[kept++] = s->row_pos[t];
    }
    return kept;
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

/* Guarantee: every number of a file is checked before use. Parsers read through
 * llamac_cursor alone, from bytes in memory; nothing recurses; nothing is allocated beyond
 * a small multiple of the bytes that ask for it. A refusal is one line: which file, what,
 * why, what to do. */

/* ---- Formats ---- */

/* A format is data, the columns of the tables below, and a reader. What comes out is the same,
 * weights that say where their elements lie, and from there on nobody knows the format.
 *
 *   meta         params.json, consolidated.NN.pth: a weight is divided over all the files
 *   huggingface  config.json, safetensors or PyTorch's: each weight in one file; the rows of wq and
 *                wk sorted (see pair_up)
 *   gguf         one file with everything in it, the vocabulary too, or several such
 *   llama2.c     seven numbers and float32 in a fixed order; no names
 *
 * Opening goes: the parameters, by follow(); the files mapped, by add_file(); their tensors bound
 * to weights by name, by bind_file(); each checked and put in its place, by place(). */
enum { META, HUGGING_FACE, GGUF, NAMED_FORMATS, LLAMA2C = NAMED_FORMATS }; /* llama.format */
static const char *const format_names[] = {"meta", "huggingface", "gguf", "llama2.c"};

/* The numbers that make a LLaMA; 0 where absent. The last three are what others have. */
enum { DIM, LAYERS, HEADS, KV_HEADS, VOCAB, HIDDEN, MULTIPLE_OF, FFN_MULTIPLIER, CONTEXT };
enum { NORM_EPS = CONTEXT + 1, ROPE_THETA, TIED, HEAD_DIM, ROTARY, WINDOW, PARAMS };
typedef double params[PARAMS];

/* The keys we follow, and what they may say. GGUF's stand behind "llama.". */
static const struct {
    const char *key[NAMED_FORMATS]; /* "": the format has none */
    char kind;                      /* '1' a whole number, '0' any, 't' true or false */
    double least, most;
} param_keys[PARAMS] = {
    /* clang-format off */
    [DIM] = {{"dim", "hidden_size", "embedding_length"}, '1', 2, MAX_WIDTH},
    [LAYERS] = {{"n_layers", "num_hidden_layers", "block_count"}, '1', 1, MAX_LAYERS},
    [HEADS] = {{"n_heads", "num_attention_heads", "attention.head_count"}, '1', 1, MAX_WIDTH},
    [KV_HEADS] = {{"n_kv_heads", "num_key_value_heads", "attention.head_count_kv"}, /* as HEADS */
                  '1', 1, MAX_WIDTH},
    [VOCAB] = {{"vocab_size", "vocab_size", "vocab_size"}, '1', -1, MAX_VOCAB}, /* -1: unknown */
    [HIDDEN] = {{"", "intermediate_size", "feed_forward_length"}, '1', 1, MAX_WIDTH},
    [MULTIPLE_OF] = {{"multiple_of", "", ""}, '1', 1, MAX_WIDTH},        /* the hidden width is */
    [FFN_MULTIPLIER] = {{"ffn_dim_multiplier", "", ""}, '0', 1e-3, 1e3}, /* of it, in Llama 2 */
    [CONTEXT] = {{"", "max_position_embeddings", "context_length"}, '1', 1, MAX_CONTEXT},
    [NORM_EPS] = {{"norm_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon"}, '0', 1e-30, 1},
    [ROPE_THETA] = {{"rope_theta", "rope_theta", "rope.freq_base"}, '0', 1, 1e30}, /* or 10000 */
    [TIED] = {{"", "tie_word_embeddings", ""}, 't', 0, 1},           /* output is tok_embeddings */
    [HEAD_DIM] = {{"", "head_dim", "attention.key_length"}, '1', 1, MAX_WIDTH}, /* dim / n_heads */
    [ROTARY] = {{"", "", "rope.dimension_count"}, '1', 1, MAX_WIDTH},           /* the same */
    [WINDOW] = {{"", "sliding_window", "attention.sliding_window"}, '1', 0, 0x1p53}, /* Mistral */
    /* clang-format on */
};

/* Keys that other models have and that must say this, if anything: kinds as in llamac_json. */
static const struct {
    unsigned char format;
    const char *key;
    char kind;        /* of what it must be */
    const char *text; /* '"': this */
    double number;    /* '0': this */
} param_wants[] = {
    {META, "use_scaled_rope", 'f', "", 0},         /* Llama 3.1 */
    {HUGGING_FACE, "model_type", '"', "llama", 0}, /* not mistral, qwen2, ... */
    {HUGGING_FACE, "architectures", '"', "LlamaForCausalLM", 0},
    {HUGGING_FACE, "architectures", '"', "LLaMAForCausalLM", 0}, /* of early conversions */
    {HUGGING_FACE, "hidden_act", '"', "silu", 0},                /* of SwiGLU */
    {HUGGING_FACE, "attention_bias", 'f', "", 0},                /* InternLM */
    {HUGGING_FACE, "mlp_bias", 'f', "", 0},                      /* Granite */
    {HUGGING_FACE, "quantization_config", 'n', "", 0},           /* GPTQ, AWQ */
    {HUGGING_FACE, "partial_rotary_factor", '0', "", 1},         /* of a head */
    {HUGGING_FACE, "rope_type", '"', "default", 0},    /* in rope_scaling or rope_parameters */
    {HUGGING_FACE, "type", '"', "default", 0},         /* its older name */
    {HUGGING_FACE, "factor", '0', "", 1},              /* for longer contexts */
    {GGUF, "general.architecture", '"', "llama", 0},   /* not mistral, qwen2, ... */
    {GGUF, "llama.rope.scaling.type", '"', "none", 0}, /* for longer contexts */
    {GGUF, "llama.rope.scaling.factor", '0', "", 1},
    {GGUF, "llama.rope.scale_linear", '0', "", 1}, /* its older name */
    {GGUF, "llama.expert_count", '0', "", 0},      /* Mixtral */
};

typedef struct { /* one key and its value, from whatever format */
    const char *key;
    size_t length;
    char kind; /* as in llamac_json */
    double number;
    const char *text; /* '"', [n] */
    size_t n;
    char stored; /* GGUF's '0': as a float '0', as a whole number '1'; else 0 */
} setting;

/* What is wrong with the parameters of a model. */
static int bad_params(const char *file, const char *why, llama_error *err) {
    return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; use the one the model came with", file, why);
}

/* A key, and what it says, that is another model's. */
static int not_llama(const char *file, const setting *s, llama_error *err) {
    bool text = s->kind == '"';
    return llamac_fail(
        err, LLAMA_EFORMAT,
        "%s: '%.*s'%s%.*s is not of LLaMA 1 or 2: not supported; give a model that is", file,
        (int)(s->length < 64 ? s->length : 64), s->key, text ? " " : "",
        text ? (int)(s->n < 64 ? s->n : 64) : 0, text ? s->text : "");
}

/* Put a number into params, as row i of the table allows. */
static int put_param(params p, size_t i, const char *key, const setting *s, const char *file,
                     llama_error *err) {
    char want = param_keys[i].kind;
    double least = param_keys[i].least, most = param_keys[i].most;
    double v = s->kind == '0' ? s->number : s->kind == 't';
    bool right = want == 't' ? s->kind == 't' || s->kind == 'f' : s->kind == '0';
    right &= !s->stored || s->stored == want;
    if (!right || !(v >= least && v <= most) || (want == '1' && v != (double)(long)v))
        return llamac_fail(
            err, LLAMA_EFORMAT,
            "%s: '%s' must be a%s number from %.10g to %.10g; use the file the model came with",
            file, key, want == '1' ? " whole" : "", least, most);
    p[i] = v;
    return LLAMA_OK;
}

/* Follow a setting, or leave it if it is one we need not know; null is as good as absent. */
static int follow(params p, int format, const setting *s, const char *file, llama_error *err) {
    bool known = false, wanted = false;
    if (s->kind == 'n' || s->kind == '[') return LLAMA_OK;
    for (size_t i = 0; i < sizeof param_wants / sizeof *param_wants; i++) {
        if (param_wants[i].format != format || !is(param_wants[i].key, s->key, s->length)) continue;
        known = true;
        wanted |= s->kind == param_wants[i].kind &&
                  (s->kind != '"' || is(param_wants[i].text, s->text, s->n)) &&
                  (s->kind != '0' || s->number == param_wants[i].number);
    }
    if (known && !wanted) return not_llama(file, s, err);
    for (size_t i = 0; i < PARAMS; i++) {
        const char *key = param_keys[i].key[format];
        if (*key && is(key, s->key, s->length)) return put_param(p, i, key, s, file, err);
    }
    return LLAMA_OK;
}

/* Defaults, then the model's shape; V and H are known only with the tensors. */
static int params_apply(llama *m, params p, const char *file, llama_error *err) {
    if (p[DIM] == 0 || p[LAYERS] == 0 || p[HEADS] == 0 || p[NORM_EPS] == 0)
        return bad_params(file, "width, layers, heads and norm epsilon must be there", err);
    if (p[KV_HEADS] == 0) p[KV_HEADS] = p[HEADS];
    if (p[ROPE_THETA] == 0) p[ROPE_THETA] = 10000;
    if (p[CONTEXT] == 0) p[CONTEXT] = DEFAULT_CONTEXT;
    m->dim = (size_t)p[DIM];
    m->n_layers = (size_t)p[LAYERS];
    m->n_heads = (size_t)p[HEADS];
    m->n_kv_heads = (size_t)p[KV_HEADS];
    m->context = (size_t)p[CONTEXT];
    m->norm_eps = (float)p[NORM_EPS];
    m->rope_theta = (float)p[ROPE_THETA];
    if (m->dim % m->n_heads || m->n_heads % m->n_kv_heads)
        return bad_params(file, "width, heads and key-value heads do not divide one another", err);
    m->head_dim = m->dim / m->n_heads;
    m->kv_dim = m->head_dim * m->n_kv_heads;
    if (m->head_dim % 2) return bad_params(file, "an odd head has no pairs for RoPE", err);
    if ((p[HEAD_DIM] > 0 && p[HEAD_DIM] != (double)m->head_dim) ||
        (p[ROTARY] > 0 && p[ROTARY] != (double)m->head_dim))
        return bad_params(file, "heads that are not dim / n_heads wide are not of LLaMA", err);
    if (p[WINDOW] > 0 && p[WINDOW] < p[CONTEXT])
        return bad_params(file, "a sliding window shorter than the context is not of LLaMA", err);
    return LLAMA_OK;
}

/* ---- The binding: which tensor goes where, of which shape, divided how ---- */

/* The letters of the shapes; NONE stands for the rows of a vector. */
enum { NONE, DIM_D, DIM_H, DIM_V, DIM_K, DIMS };

/* Weights are numbered: those outside the layers, then those of each layer in this order. */
enum { EMBEDDINGS, NORM, OUTPUT, OUTSIDE };
enum { ATTENTION_NORM = OUTSIDE, WQ, WK, WV, WO, FFN_NORM, W1, W2, W3, BINDINGS };
enum { INSIDE = BINDINGS - OUTSIDE };

static const char *const layer_prefix[NAMED_FORMATS] = {"layers.", "model.layers.", "blk."};
static const struct {
    const char *name[NAMED_FORMATS]; /* without the prefix "layers.N." and ".weight" */
    unsigned char rows, cols, split;
    size_t at; /* in llama, or in layer */
} binding[BINDINGS] = {
    /* clang-format off */
    [EMBEDDINGS] = {{"tok_embeddings", "model.embed_tokens", "token_embd"},
                    DIM_V, DIM_D, BY_COLUMNS, offsetof(llama, tok_embeddings)},
    [NORM] = {{"norm", "model.norm", "output_norm"}, NONE, DIM_D, WHOLE, offsetof(llama, norm)},
    [OUTPUT] = {{"output", "lm_head", "output"}, DIM_V, DIM_D, BY_ROWS, offsetof(llama, output)},
    [ATTENTION_NORM] = {{"attention_norm", "input_layernorm", "attn_norm"},
                    NONE, DIM_D, WHOLE, offsetof(layer, attention_norm)},
    [WQ] = {{"attention.wq", "self_attn.q_proj", "attn_q"},
                    DIM_D, DIM_D, BY_ROWS, offsetof(layer, wq)},
    [WK] = {{"attention.wk", "self_attn.k_proj", "attn_k"},
                    DIM_K, DIM_D, BY_ROWS, offsetof(layer, wk)},
    [WV] = {{"attention.wv", "self_attn.v_proj", "attn_v"},
                    DIM_K, DIM_D, BY_ROWS, offsetof(layer, wv)},
    [WO] = {{"attention.wo", "self_attn.o_proj", "attn_output"},
                    DIM_D, DIM_D, BY_COLUMNS, offsetof(layer, wo)},
    [FFN_NORM] = {{"ffn_norm", "post_attention_layernorm", "ffn_norm"},
                    NONE, DIM_D, WHOLE, offsetof(layer, ffn_norm)},
    [W1] = {{"feed_forward.w1", "mlp.gate_proj", "ffn_gate"},
                    DIM_H, DIM_D, BY_ROWS, offsetof(layer, w1)},
    [W2] = {{"feed_forward.w2", "mlp.down_proj", "ffn_down"},
                    DIM_D, DIM_H, BY_COLUMNS, offsetof(layer, w2)},
    [W3] = {{"feed_forward.w3", "mlp.up_proj", "ffn_up"},
                    DIM_H, DIM_D, BY_ROWS, offsetof(layer, w3)},
    /* clang-format on */
};
static size_t row_of(size_t i) { return i < OUTSIDE ? i : OUTSIDE + (i - OUTSIDE) % INSIDE; }
static size_t layer_of(size_t i) { return (i - OUTSIDE) / INSIDE; }

/* Weight i of a model; only place() writes to it. */
static const weight *nth_weight(const llama *m, size_t i) {
    const char *base = i < OUTSIDE ? (const char *)m : (const char *)&m->layers[layer_of(i)];
    return (const weight *)(const void *)(base + binding[row_of(i)].at);
}

typedef struct { /* what one shard has of one weight; where shards are none, all of it */
    const unsigned char *data;
    uint64_t shape[2], stride[2]; /* rows, columns; in elements */
    int type;                     /* -1: not found yet */
    size_t file;                  /* its number in llama.paths */
} piece;

typedef struct {          /* a model whose weights are being found */
    llama *m;             /* to be filled in */
    params p;             /* as the files say */
    const char *path;     /* the folder or file as it was given */
    const char *about;    /* the file that has the parameters */
    size_t parts;         /* shards: pieces of a weight */
    piece *pieces;        /* [OUTSIDE + n_layers * INSIDE][parts] */
    size_t sizes[DIMS];   /* what the letters of shapes stand for */
    uint64_t gathered;    /* bytes copied */
    llamac_arena scratch; /* freed once the model is open */
    llama_error *err;     /* the caller's */
} binder;

/* The number of the weight a tensor's name means; SIZE_MAX: none. *ignored: it changes
 * nothing, being outside the layers or RoPE's table, which we compute. In a layer, an
 * unknown name is another model. */
static size_t weight_named(const binder *b, const tensor *t, bool *ignored) {
    static const char *const tables[] = {"rope.freqs", "rotary_emb.inv_freq"};
    const char *name = t->name, *prefix = layer_prefix[b->m->format];
    size_t n = t->length, l = 0, i = 0, front = strlen(prefix), suffix = strlen(".weight");
    bool in_layer = n > front && memcmp(name, prefix, front) == 0;
    *ignored =
        !in_layer && b->m->format != GGUF && !is("rope_freqs.weight", name, n); /* it scales RoPE */
    for (int k = 0; k < 2; k++)
        *ignored |= n >= strlen(tables[k]) &&
                    is(tables[k], name + n - strlen(tables[k]), strlen(tables[k]));
    if (in_layer) {
        for (i = front; i < n && i < front + 5 && name[i] >= '0' && name[i] <= '9'; i++)
            l = l * 10 + (size_t)(name[i] - '0');
        if (i == front || i == n || name[i++] != '.' || l >= b->m->n_layers) return SIZE_MAX;
    }
    if (n - i <= suffix || !is(".weight", name + n - suffix, suffix)) return SIZE_MAX;
    for (size_t r = in_layer ? OUTSIDE : 0; r < (in_layer ? BINDINGS : OUTSIDE); r++)
        if (is(binding[r].name[b->m->format], name + i, n - i - suffix)) return r + l * INSIDE;
    return SIZE_MAX;
}

/* Note a tensor of file number f under its weight, as part k of it. */
static int bind_tensor(binder *b, const archive *a, const tensor *t, size_t f, size_t k) {
    bool ignored = false;
    size_t i = weight_named(b, t, &ignored);
    if (i == SIZE_MAX && ignored) return LLAMA_OK;
    if (i == SIZE_MAX)
        return bad_tensor(a, t, "is not one of a LLaMA with so many layers as n_layers says");
    piece *to = &b->pieces[i * b->parts + k];
    if (t->type < 0)
        return llamac_fail(
            a->err, LLAMA_EFORMAT,
            "%s: tensor '%.*s' is %s, not supported; get the model as F16, BF16 or F32", a->file,
            (int)(t->length < 80 ? t->length : 80), t->name, t->stored);
    if (to->type >= 0) return bad_tensor(a, t, "stands there twice");
    if (t->dims < 1 || t->dims > 2) return bad_tensor(a, t, "is neither a vector nor a matrix");
    *to = (piece){.data = t->data, .type = t->type, .file = f};
    to->shape[0] = t->dims == 2 ? t->shape[0] : 1;
    to->stride[0] = t->dims == 2 ? t->stride[0] : 0;
    to->shape[1] = t->shape[t->dims - 1];
    to->stride[1] = t->stride[t->dims - 1];
    return LLAMA_OK;
}

/* Read file f and bind its tensors, as part k of each. */
static int bind_file(binder *b, size_t f, size_t k, int (*read)(archive *)) {
    llamac_mapping *file = &b->m->files[f];
    archive a = {.file = b->m->paths[f], .scratch = &b->scratch, .err = b->err};
    a.bytes = llamac_cursor_on(file->data, file->size);
    bool cold = llamac_browse(file);
    int status = read(&a);
    for (const tensor *t = a.tensors; t && status == LLAMA_OK; t = t->next)
        status = bind_tensor(b, &a, t, f, k);
    llamac_browsed(file, cold);
    return status;
}

/* What the files call weight i, for messages. */
static const char *weight_name(const binder *b, size_t i, char out[96]) {
    int format = b->m->format < NAMED_FORMATS ? b->m->format : META;
    if (i < OUTSIDE) snprintf(out, 96, "%s.weight", binding[i].name[format]);
    else
        snprintf(out, 96, "%s%zu.%s.weight", layer_prefix[format], layer_of(i),
                 binding[row_of(i)].name[format]);
    return out;
}

/* V and H are the tensors' own; what the parameters say of them must agree. */
static int sizes_from_tensors(binder *b) {
    llama *m = b->m;
    const double *p = b->p;
    const piece *embeddings = &b->pieces[EMBEDDINGS], *w1 = &b->pieces[W1 * b->parts];
    bool absent = embeddings->type < 0 || w1->type < 0;
    uint64_t vocab = absent ? 0 : embeddings->shape[0], rows = absent ? 0 : w1->shape[0];
    char name[96];
    if (absent || vocab > MAX_VOCAB || rows > MAX_WIDTH)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s is missing or too large; download it again", b->path,
                           weight_name(b, embeddings->type < 0 ? EMBEDDINGS : W1, name));
    m->vocab_size = (size_t)vocab;
    m->hidden = (size_t)rows * b->parts;
    if (m->hidden > MAX_WIDTH)
        return llamac_fail(b->err, LLAMA_EFORMAT, "%s: w1 is %zu wide, over %d; it is not LLaMA's",
                           b->path, m->hidden, (int)MAX_WIDTH);
    uint64_t want = (uint64_t)(2 * 4 * p[DIM] / 3), unit = (uint64_t)p[MULTIPLE_OF];
    if (p[FFN_MULTIPLIER] > 0) want = (uint64_t)(p[FFN_MULTIPLIER] * (double)want);
    if (unit) want = (want + unit - 1) / unit * unit;
    if (p[HIDDEN] > 0) want = (uint64_t)p[HIDDEN];
    if (((unit || p[HIDDEN] > 0) && m->hidden != want) ||
        (p[VOCAB] > 0 && (uint64_t)p[VOCAB] != vocab))
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: %zu embeddings and a hidden width of %zu over %zu shards are not what "
            "%s wants (vocab_size %.0f, hidden %llu); a shard is missing or the two are "
            "not of one model",
            b->path, m->vocab_size, m->hidden, b->parts, b->about, p[VOCAB],
            (unsigned long long)want);
    size_t sizes[DIMS] = {1, m->dim, m->hidden, m->vocab_size, m->kv_dim};
    memcpy(b->sizes, sizes, sizeof sizes);
    return LLAMA_OK;
}

/* Part k's piece of weight i, expected as [rows][cols]. */
static int check_piece(const binder *b, size_t i, size_t k, size_t rows, size_t cols) {
    const piece *p = &b->pieces[i * b->parts + k], *first = &b->pieces[i * b->parts];
    const char *file =
        p->type < 0 && b->parts == 1 ? b->path : b->m->paths[b->parts > 1 ? k : p->file];
    char name[96];
    weight_name(b, i, name);
    if (p->type < 0)
        return llamac_fail(b->err, LLAMA_EFORMAT, "%s: %s is missing; download it again", file,
                           name);
    if (p->shape[0] != rows || p->shape[1] != cols)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: %s is [%llu][%llu], not the [%zu][%zu] of %s; the two are not of one model", file,
            name, (unsigned long long)p->shape[0], (unsigned long long)p->shape[1], rows, cols,
            b->about);
    if (p->type != first->type)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s is %s, in the first shard %s; the shards are not of one model",
                           file, name, dtype_names[p->type], dtype_names[first->type]);
    return LLAMA_OK;
}

/* Copy the pieces of w into one matrix in the arena: only for what cannot be used in place,
 * elements that are not neighbours and columns divided into pieces that are not whole
 * blocks. */
static const unsigned char *gather(llama *m, const weight *w, const piece *from) {
    size_t size = dtype_bytes[w->type];
    size_t down = w->split == BY_ROWS ? w->rows / w->parts : w->rows;
    size_t wide = w->split == BY_COLUMNS ? w->cols / w->parts : w->cols;
    unsigned char *to = llamac_new(&m->arena, (uint64_t)w->rows * w->cols, size);
    for (size_t r = 0; to && r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c++) {
            const piece *p = &from[r / down + c / wide];
            uint64_t i = (r % down) * p->stride[0] + (c % wide) * p->stride[1];
            memcpy(to + (r * w->cols + c) * size, p->data + i * size, size);
        }
    return to;
}

/* Check weight i against the table and put it in its place. */
static int place(binder *b, size_t i) {
    llama *m = b->m;
    size_t row = row_of(i), parts = b->parts;
    weight *w = (weight *)(uintptr_t)nth_weight(m, i);
    const piece *from = &b->pieces[i * parts];
    *w = (weight){.rows = b->sizes[binding[row].rows],
                  .cols = b->sizes[binding[row].cols],
                  .split = binding[row].split,
                  .sorted = (row == WQ || row == WK) && b->m->format == HUGGING_FACE,
                  .layer = i < OUTSIDE ? -1 : (short)layer_of(i),
                  .name = binding[row].name[META]};
    size_t rows = w->split == BY_ROWS ? w->rows / parts : w->rows;
    size_t cols = w->split == BY_COLUMNS ? w->cols / parts : w->cols;
    if ((w->split == BY_ROWS && w->rows % parts) || (w->split == BY_COLUMNS && w->cols % parts))
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s of [%zu][%zu] does not divide over %zu shards", b->path, w->name,
                           w->rows, w->cols, parts);
    bool in_place = w->split != BY_COLUMNS || parts == 1 || cols % BLOCK == 0;
    for (size_t k = 0; k < parts; k++) {
        int status = check_piece(b, i, k, rows, cols);
        if (status) return status;
        in_place &=
            (rows == 1 || from[k].stride[0] == cols) && (cols == 1 || from[k].stride[1] == 1);
    }
    w->type = (unsigned char)from[0].type;
    w->parts = w->split == WHOLE ? 1 : parts;
    const unsigned char **part = llamac_new(&m->arena, w->parts, sizeof *part);
    if (!part) return llamac_out_of_memory(b->err, b->path);
    for (size_t k = 0; k < w->parts; k++) part[k] = from[k].data; /* in the mapping, as they lie */
    uint64_t elements = (uint64_t)w->rows * w->cols, bytes = elements * dtype_bytes[w->type];
    if (!in_place) { /* honest files have each element once, so the copies are no larger */
        b->gathered += bytes;
        if (b->gathered > m->file_bytes)
            return llamac_fail(b->err, LLAMA_EFORMAT,
                               "%s: its tensors overlap; it is not a checkpoint", b->path);
        if (!(part[0] = gather(m, w, from))) return llamac_out_of_memory(b->err, b->path);
        w->parts = 1;
        w->split = WHOLE;
    }
    w->part = part;
    if (i != OUTPUT || part[0] != m->tok_embeddings.part[0]) /* not if they are tied */
        m->parameters += elements;
    if (w->rows > 1 && i != EMBEDDINGS) m->token_bytes += bytes;
    m->type_name = i == 0 || m->type_name == dtype_names[w->type] ? dtype_names[w->type] : "mixed";
    return LLAMA_OK;
}

/* With the shape known: room for what will be found. */
static int begin_binding(binder *b, size_t parts) {
    llama *m = b->m;
    enum { NAMED = 16, ELEMENT = 2 }; /* bytes at least, of a part with its name; each has D */
    size_t n = (OUTSIDE + m->n_layers * INSIDE) * parts;
    if ((b->m->format != LLAMA2C && n * NAMED > m->file_bytes) ||
        (n / parts - 1) * m->dim * ELEMENT > m->file_bytes)
        return bad_params(b->path, "is too small for a model of this shape", b->err);
    b->parts = parts;
    b->pieces = llamac_new(&b->scratch, n, sizeof *b->pieces);
    m->layers = llamac_new(&m->arena, m->n_layers, sizeof *m->layers);
    m->freqs = llamac_new(&m->arena, m->head_dim / 2, sizeof *m->freqs);
    if (!b->pieces || !m->layers || !m->freqs) return llamac_out_of_memory(b->err, b->path);
    for (size_t i = 0; i < n; i++) b->pieces[i].type = -1; /* not found yet */
    return LLAMA_OK;
}

/* With all that there is found: every weight into its place. */
static int end_binding(binder *b) {
    int status = sizes_from_tensors(b);
    if (b->p[TIED] > 0) b->pieces[OUTPUT] = b->pieces[EMBEDDINGS];
    for (size_t i = 0; i < OUTSIDE + b->m->n_layers * INSIDE && status == LLAMA_OK; i++)
        status = place(b, i);
    return status;
}

/* Map folder/name, or name alone, as the next file of weights. */
static int add_file(binder *b, const char *folder, const char *name) {
    llama *m = b->m;
    char path[LLAMAC_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name);
    if (n < 0 || n >= (int)sizeof path)
        return llamac_fail(b->err, LLAMA_EINVAL, "%.300s: the path is too long", b->path);
    if (m->n_shards == MAX_FILES)
        return llamac_fail(b->err, LLAMA_EFORMAT, "%s: has over %d files of weights", b->path,
                           (int)MAX_FILES);
    char *kept = llamac_new(&m->arena, (uint64_t)n + 1, 1);
    if (!kept) return llamac_out_of_memory(b->err, b->path);
    m->paths[m->n_shards] = memcpy(kept, path, (size_t)n + 1);
    int status = llamac_map_file(&m->files[m->n_shards], path, b->err);
    if (status) return status;
    m->file_bytes += m->files[m->n_shards].size;
    m->n_shards++;
    return LLAMA_OK;
}

/* ---- JSON beside the weights: params.json, config.json ---- */

/* Read folder/name. */
static int read_json(binder *b, const char *name, char path[LLAMAC_PATH_BYTES], llamac_json *j) {
    enum { LARGEST = 1 << 26 }; /* an index of 65,536 tensors is smaller */
    llamac_cursor c = {0};
    int status = llamac_join(path, b->path, name, b->err);
    if (status == LLAMA_OK) status = llamac_read_file(&c, &b->scratch, path, LARGEST, b->err);
    *j = llamac_json_on(c.at, llamac_left(&c));
    return status;
}

/* One object: each key at its first level is followed, in config.json some of those inside too. In
 * Meta's file an object is another model's. */
static int read_params(binder *b, const char *name) {
    static const char *const inside[] = {"architectures", "rope_scaling", "rope_parameters"};
    char path[LLAMAC_PATH_BYTES];
    llamac_json j;
    int status = read_json(b, name, path, &j);
    if (status) return status;
    const unsigned char *begin = j.c.at;
    bool object = llamac_json_next(&j) == '{';
    while (status == LLAMA_OK && object && llamac_json_next(&j)) {
        bool followed = j.level == 1 && j.kind != '}' && j.kind != ']';
        for (int i = 0; i < 3 && b->m->format == HUGGING_FACE; i++)
            followed |=
                j.level == 2 && llamac_json_under(&j, 1, inside[i]) && !strchr("[]{}", j.kind);
        int key = j.key[j.level].n ? j.level : 1; /* an array's own */
        setting s = {j.key[key].text, j.key[key].n, j.kind, j.number, j.text, j.n, 0};
        if (b->m->format == META && (j.kind == '{' || j.kind == '['))
            status = not_llama(path, &s, b->err);
        else if (followed) status = follow(b->p, b->m->format, &s, path, b->err);
    }
    if (status == LLAMA_OK && (!object || j.c.bad))
        status = llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: is not a JSON object, as byte %zu shows; use the one the model came with", path,
            (size_t)(j.c.at - begin));
    if (status == LLAMA_OK) status = params_apply(b->m, b->p, path, b->err);
    b->about = name;
    return status;
}

/* ---- Meta's folder ---- */

/* consolidated.00.pth, 01, ... up to the first that is not there, are shards: each weight is
 * divided over all of them. */
static int open_meta(binder *b) {
    enum { MAX_SHARDS = 100 };
    int status = read_params(b, "params.json");
    for (int k = 0; k < MAX_SHARDS && status == LLAMA_OK; k++) {
        char name[32];
        snprintf(name, sizeof name, "consolidated.%02d.pth", k);
        status = add_file(b, b->path, name);
    }
    if (llamac_is_absent(status) && b->m->n_shards) status = LLAMA_OK;
    if (status == LLAMA_OK) status = begin_binding(b, b->m->n_shards);
    for (size_t k = 0; k < b->m->n_shards && status == LLAMA_OK; k++)
        status = bind_file(b, k, k, read_torch);
    return status;
}

/* ---- Hugging Face's folder: config.json, safetensors or PyTorch's files, perhaps an index ---- */

/* A file that the index names: once, and in this folder. */
static int add_indexed(binder *b, const char *index, const char *name, size_t n) {
    char plain[256];
    bool inside = n > 0 && n < sizeof plain && name[0] != '.' && !memchr(name, '/', n) &&
                  !memchr(name, '\\', n) && !memchr(name, 0, n);
    if (!inside) return bad_params(index, "names a file that is not beside it", b->err);
    snprintf(plain, sizeof plain, "%.*s", (int)n, name);
    for (size_t f = 0; f < b->m->n_shards; f++)
        if (strcmp(strrchr(b->m->paths[f], '/') + 1, plain) == 0) return LLAMA_OK;
    int status = add_file(b, b->path, plain);
    if (llamac_is_absent(status))
        status = llamac_fail(b->err, LLAMA_EFORMAT, "%s: names %s, which is not there; download it",
                             index, plain);
    errno = 0; /* of what is absent, it is not the index */
    return status;
}

/* {"metadata": ..., "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", ...}} */
static int read_index(binder *b, const char *name) {
    char path[LLAMAC_PATH_BYTES];
    llamac_json j;
    int status = read_json(b, name, path, &j);
    while (status == LLAMA_OK && llamac_json_next(&j))
        if (j.level == 2 && j.kind == '"' && llamac_json_under(&j, 1, "weight_map"))
            status = add_indexed(b, path, j.text, j.n);
    if (status == LLAMA_OK && (j.c.bad || !b->m->n_shards))
        status = bad_params(path, "is not an index of weights in JSON", b->err);
    return status;
}

/* One file of weights, or those an index names; safetensors rather than PyTorch's, as files often
 * come in both. */
static int open_hugging_face(binder *b) {
    static const struct {
        const char *one, *index;
        int (*read)(archive *);
    } kinds[] = {
        {"model.safetensors", "model.safetensors.index.json", read_safetensors},
        {"pytorch_model.bin", "pytorch_model.bin.index.json", read_torch},
    };
    int k, status = read_params(b, "config.json");
    if (status) return status;
    for (k = 0; k < 2; k++) {
        status = add_file(b, b->path, kinds[k].one);
        if (llamac_is_absent(status)) status = read_index(b, kinds[k].index);
        if (!llamac_is_absent(status)) break;
    }
    if (k == 2)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: holds neither model.safetensors nor pytorch_model.bin, nor an index "
            "of either; download them",
            b->path);
    if (status == LLAMA_OK) status = begin_binding(b, 1);
    for (size_t f = 0; f < b->m->n_shards && status == LLAMA_OK; f++)
        status = bind_file(b, f, 0, kinds[k].read);
    return status;
}

/* ---- GGUF: one file, or NAME-00001-of-0000N.gguf and the rest ---- */

/* The pairs of a file, then its tensors. */
static int read_gguf(archive *a) {
    gguf_file g;
    llamac_pair pair;
    int status = gguf_open(&g, a);
    for (uint64_t i = 0; i < g.n_pairs && status == LLAMA_OK; i++)
        if (!gguf_next(&g, &pair)) status = bad_archive(a, "its list of keys is damaged");
    return status ? status : gguf_tensors(&g);
}

/* The parameters, from the first file. */
static int gguf_params(binder *b, llamac_gguf_vocab *v) {
    static const char prefix[] = "llama.";
    enum { PREFIX = sizeof prefix - 1 };
    archive a = {.file = b->path, .scratch = &b->scratch, .err = b->err};
    a.bytes = llamac_cursor_on(b->m->files[0].data, b->m->files[0].size);
    gguf_file g;
    llamac_pair p;
    bool has_name = false;
    int status = gguf_open(&g, &a);
    for (uint64_t i = 0; i < g.n_pairs && status == LLAMA_OK; i++) {
        if (!gguf_next(&g, &p)) return bad_archive(&a, "its list of keys is damaged");
        setting s = {p.key, p.length, p.kind, p.number, p.text, (size_t)p.n, 0};
        if (p.kind == '0') s.stored = p.type == GGUF_FLOAT || p.type == GGUF_DOUBLE ? '0' : '1';
        status = follow(b->p, GGUF, &s, b->path, b->err); /* whole names: what it must be */
        has_name |= is("general.architecture", p.key, p.length);
        if (status == LLAMA_OK && p.length > PREFIX && memcmp(p.key, prefix, PREFIX) == 0) {
            s.key += PREFIX;
            s.length -= PREFIX;
            status = follow(b->p, GGUF, &s, b->path, b->err); /* the rest of the name: a number */
        }
        llamac_vocab_note(v, &p);
    }
    if (status == LLAMA_OK && !has_name)
        return bad_archive(
            &a, "it names no architecture (of a split model give the first file, -00001-of-...)");
    return status ? status : params_apply(b->m, b->p, b->path, b->err);
}

/* The other parts of a model that is split, if the name says it is. */
static int add_splits(binder *b) {
    enum { SUFFIX = sizeof "-00001-of-00002.gguf" - 1, MOST = 99999 };
    size_t n = strlen(b->path);
    char suffix[32] = "", name[LLAMAC_PATH_BYTES];
    int status = LLAMA_OK, count = 0;
    if (n > SUFFIX && n < sizeof name) count = (int)strtol(b->path + n - 10, NULL, 10);
    snprintf(suffix, sizeof suffix, "-00001-of-%05d.gguf", count);
    if (count < 1 || count > MOST || strcmp(b->path + n - SUFFIX, suffix) != 0) return LLAMA_OK;
    for (int k = 2; k <= count && status == LLAMA_OK; k++) {
        snprintf(name, sizeof name, "%.*s-%05d-of-%05d.gguf", (int)(n - SUFFIX), b->path, k, count);
        status = add_file(b, "", name);
    }
    return status;
}

/* `vocabulary`: the one inside is wanted, no other having been given. */
static int open_gguf(binder *b, bool vocabulary) {
    llamac_gguf_vocab v = {.bos = 1, .eos = 2, .space_in_front = 1};
    b->about = "its header";
    int status = gguf_params(b, &v);
    if (status == LLAMA_OK) status = add_splits(b);
    if (status == LLAMA_OK) status = begin_binding(b, 1);
    for (size_t f = 0; f < b->m->n_shards && status == LLAMA_OK; f++)
        status = bind_file(b, f, 0, read_gguf);
    b->p[TIED] = b->pieces && b->pieces[OUTPUT].type < 0; /* an output that is absent is tied */
    if (status == LLAMA_OK) status = end_binding(b);
    if (status || !vocabulary) return status;
    return llamac_vocab_gather(&b->m->vocab, &v, b->m->vocab_size, b->path, &b->m->arena, b->err);
}

/* ---- llama2.c: a header of seven numbers, then float32 in a fixed order ---- */

static const unsigned char llama2c_orders[2][BINDINGS] = {
    {EMBEDDINGS, ATTENTION_NORM, WQ, WK, WV, WO, FFN_NORM, W1, W2, W3, NORM, OUTPUT},
    {ATTENTION_NORM, FFN_NORM, NORM, EMBEDDINGS, WQ, WK, WV, WO, W1, W2, W3, OUTPUT},
};

/* Without a magic, all there is to know such a file by is that its numbers fit one another. */
static int not_llama2c(const binder *b) {
    return llamac_fail(
        b->err, LLAMA_EFORMAT,
        "%s: is not GGUF, and not as long as llama2.c's header says; it is damaged or "
        "no model: give a model's folder, a .gguf or a .bin",
        b->path);
}

/* The header, which leaves *c at the first weight. Version 0 has no magic and tells by the sign of
 * the vocabulary whether the embeddings are tied. */
static int llama2c_params(binder *b, llamac_cursor *c, int *version) {
    enum { VERSION_1_HEADER = 256 };
    static const unsigned char header[] = {DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, CONTEXT};
    llamac_cursor old = *c;
    uint64_t v = 0;
    *version = llamac_uint(c, 4) == 0x616b3432; /* "ak42" */
    if (*version) v = llamac_uint(c, 4);
    else *c = old;
    if (v > 1)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: is of llama2.c's version %llu, which is quantised; export version 0 or 1", b->path,
            (unsigned long long)v);
    int status = LLAMA_OK;
    for (int i = 0; i < 7 && status == LLAMA_OK; i++) {
        double number = (double)(int32_t)llamac_uint(c, 4);
        if (header[i] == VOCAB) {
            b->p[TIED] = number > 0;
            number = number < 0 && !*version ? -number : number;
        }
        status = put_param(b->p, header[i], param_keys[header[i]].key[HUGGING_FACE],
                           &(setting){.kind = '0', .number = number}, b->path, b->err);
    }
    if (*version) {
        b->p[TIED] = llamac_uint(c, 1) != 0;
        *c = old;
        llamac_take(c, VERSION_1_HEADER);
    }
    b->p[NORM_EPS] = 1e-5; /* which the file does not say */
    if (status == LLAMA_OK && b->p[VOCAB] < 1) return not_llama2c(b);
    if (status == LLAMA_OK) status = params_apply(b->m, b->p, b->path, b->err);
    return status && !*version ? not_llama2c(b) : status;
}

/* All of one weight's matrices, layer after layer. */
static void llama2c_weight(binder *b, llamac_cursor *c, unsigned row) {
    const llama *m = b->m;
    size_t sizes[DIMS] = {1, m->dim, (size_t)b->p[HIDDEN], (size_t)b->p[VOCAB], m->kv_dim};
    uint64_t rows = sizes[binding[row].rows], cols = sizes[binding[row].cols];
    for (size_t l = 0; l < (row < OUTSIDE ? 1 : m->n_layers); l++)
        b->pieces[row + l * INSIDE] =
            (piece){.data = llamac_take(c, rows * cols * sizeof(float)), /* below 2^42 */
                    .shape = {rows, cols},
                    .stride = {cols, 1},
                    .type = F32};
}

/* No names, so no tensors to bind: weight after weight is as long as the header makes it, and the
 * last must end with the file. */
static int open_llama2c(binder *b) {
    llama *m = b->m;
    llamac_cursor c = llamac_cursor_on(m->files[0].data, m->files[0].size);
    int version = 0, status = llama2c_params(b, &c, &version);
    b->about = "its header";
    if (status == LLAMA_OK) status = begin_binding(b, 1);
    if (status) return status;
    for (int i = 0; i < BINDINGS; i++) {
        unsigned row = llama2c_orders[version][i];
        if (row == OUTPUT && !version) /* behind RoPE's tables, which we compute */
            llamac_take(&c, (uint64_t)m->context * m->head_dim * sizeof(float));
        if (row != OUTPUT || b->p[TIED] == 0) llama2c_weight(b, &c, row);
    }
    if (c.bad || llamac_left(&c)) return not_llama2c(b);
    return end_binding(b);
}

/* ---- Any of them ---- */

/* Which format it is, then everything of it. Meta's comes first where a folder has both. */
static int open_weights(binder *b, bool vocabulary) {
    struct stat st;
    llama *m = b->m;
    m->files = llamac_new(&m->arena, MAX_FILES, sizeof *m->files);
    m->paths = llamac_new(&m->arena, MAX_FILES, sizeof *m->paths);
    if (!m->files || !m->paths) return llamac_out_of_memory(b->err, b->path);
    if (stat(b->path, &st) != 0)
        return llamac_fail(b->err, LLAMA_EIO, "%s: cannot be opened: %s", b->path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        bool hugging_face =
            llamac_holds(b->path, "config.json") && !llamac_holds(b->path, "consolidated.00.pth");
        if (!hugging_face && !llamac_holds(b->path, "params.json"))
            return llamac_fail(
                b->err, LLAMA_EFORMAT,
                "%s: holds neither params.json nor config.json; give the folder that does",
                b->path);
        m->format = hugging_face ? HUGGING_FACE : META;
        int status = hugging_face ? open_hugging_face(b) : open_meta(b);
        return status ? status : end_binding(b);
    }
    int status = add_file(b, "", b->path);
    if (status) return status;
    bool gguf = m->files[0].size >= 4 && memcmp(m->files[0].data, "GGUF", 4) == 0;
    m->format = gguf ? GGUF : LLAMA2C;
    return gguf ? open_gguf(b, vocabulary) : open_llama2c(b);
}

/* The tokenizer: the file asked for, else the one beside the weights. Without one the model opens
 * all the same. */
static int open_tokenizer(binder *b, const char *asked) {
    static const char *const names[][2] = {[META] = {"tokenizer.model", "../tokenizer.model"},
                                           [HUGGING_FACE] = {"tokenizer.model", "tokenizer.json"},
                                           [LLAMA2C] = {"tokenizer.bin", "tokenizer.model"}};
    enum { LARGEST = 1 << 26 }; /* LLaMA's have 0.5 MB, as JSON 2 */
    char folder[LLAMAC_PATH_BYTES], found[LLAMAC_PATH_BYTES];
    llama *m = b->m;
    llamac_cursor c = {0};
    char *slash = strrchr(memcpy(folder, b->path, strlen(b->path) + 1), '/');
    if (m->format == LLAMA2C && slash) *slash = 0; /* the path is a file's */
    if (m->format == LLAMA2C && !slash) memcpy(folder, ".", 2);
    for (int i = 0; i < (asked ? 1 : 2) && !c.at; i++) {
        const char *path = asked ? asked : found;
        int status = asked ? LLAMA_OK : llamac_join(found, folder, names[m->format][i], b->err);
        if (status == LLAMA_OK) status = llamac_read_file(&c, &b->scratch, path, LARGEST, b->err);
        if (status && (asked || !llamac_is_absent(status))) return status;
    }
    if (!c.at) return LLAMA_OK;
    return llamac_vocab_parse(&m->vocab, c, m->vocab_size, asked ? asked : found, &m->arena,
                              b->err);
}

/* Were the files others, or of other lengths, while they were looked at? A download may be under
 * way, or a file replaced between two of a model. */
static int check_unchanged(const binder *b) {
    const llama *m = b->m;
    struct stat st;
    size_t f = 0;
    while (f < m->n_shards && stat(m->paths[f], &st) == 0 && st.st_dev == m->files[f].device &&
           st.st_ino == m->files[f].inode && (uint64_t)st.st_size == m->files[f].size)
        f++;
    if (f == m->n_shards && !m->lost) return LLAMA_OK;
    return llamac_fail(b->err, LLAMA_EIO, "%s: changed while it was opened; try again later",
                       m->paths[m->lost ? m->lost - 1 : (int)f]);
}

/* ============================================================================================== */
/* IV. Using it                                                                                   */
/* ============================================================================================== */

/* ---- RoPE's table ---- */

/* Radians a position turns pair j, with the roundings of Meta's float32 code. */
static void rope_freqs(llama *m) {
    double log_theta = log_double((double)m->rope_theta);
    for (size_t j = 0; j < m->head_dim / 2; j++) {
        float e = (float)(2 * j) / (float)m->head_dim;
        float power = (float)exp_double((double)e * log_theta);
        m->freqs[j] = 1.0f / power;
    }
}

/* ---- The sampler ---- */

/* Sums in double, over ids in ascending order or in order of probability: fixed, so the
 * same seed gives the same token everywhere. */

/* Logits with bias and repetition penalty (Keskar et al. 2019, arXiv:1909.05858) into p. */
static void penalise(const llama_session *s, const sequence *q, const llama_sampler *o, double *p) {
    size_t vocab = s->model->vocab_size, window = o->repeat_last ? (size_t)o->repeat_last : 64;
    for (size_t i = 0; i < vocab; i++)
        p[i] = (double)q->logits[i] + (o->bias ? (double)o->bias[i] : 0);
    double penalty = (double)o->repeat_penalty;
    if (penalty == 0 || penalty == 1) return;
    size_t first = o->repeat_last < 0 || window > q->length ? 0 : q->length - window;
    memset(s->seen, 0, vocab);
    for (size_t i = first; i < q->length; i++) {
        int32_t id = q->tokens[i];
        if (!s->seen[id]) p[id] = p[id] > 0 ? p[id] / penalty : p[id] * penalty;
        s->seen[id] = 1;
    }
}

/* The distribution a sampler draws from, into s->probs: bias and penalty, temperature and
 * softmax, top_k, top_p, then min_p (a share of the best's probability), and what is kept
 * adds up to 1. NULL: the bias leaves no token. */
static const double *distribute(const llama_session *s, const sequence *q, const llama_sampler *o) {
    double *p = s->probs, best = 0, sum = 0;
    size_t n = s->model->vocab_size;
    penalise(s, q, o, p);
    if (o->temperature == 0) { /* greedy: the first of the highest */
        size_t top = n;
        best = -HUGE_VAL;
        for (size_t i = 0; i < n; i++) {
            if (p[i] != p[i]) return NULL;
            if (p[i] > best) best = p[i], top = i;
        }
        if (top == n) return NULL;
        memset(p, 0, n * sizeof *p);
        p[top] = 1;
        return p;
    }
    if (!soften(p, n, (double)o->temperature)) return NULL;
    if (o->top_k > 0) keep_foremost(p, s->ids, n, (size_t)o->top_k, HUGE_VAL);
    if (o->top_p > 0 && o->top_p < 1) { /* Meta's rule (Holtzman et al. 2019, arXiv:1904.09751) */
        for (size_t i = 0; i < n; i++) sum += p[i];
        keep_foremost(p, s->ids, n, n, (double)o->top_p * sum);
    }
    sum = 0;
    for (size_t i = 0; i < n; i++) best = p[i] > best ? p[i] : best;
    for (size_t i = 0; i < n; i++) sum += p[i] = p[i] >= (double)o->min_p * best ? p[i] : 0;
    for (size_t i = 0; i < n; i++) p[i] /= sum;
    return p;
}

/* ---- Opening ---- */

/* Keep the files in memory, where the system lets us. */
static int lock_files(const llama *m, llama_error *err) {
    for (size_t i = 0; i < m->n_shards; i++)
        if (mlock(m->files[i].data, m->files[i].size) != 0)
            return llamac_fail(err, LLAMA_ENOMEM,
                               "%llu bytes cannot be locked in memory: %s; raise ulimit -l",
                               (unsigned long long)m->file_bytes, strerror(errno));
    return LLAMA_OK;
}

/* All of llama_open but the making and unmaking of m. */
static int open_model(llama *m, const char *path, const llama_options *o, llama_error *err) {
    if (o->memory < LLAMA_MEMORY_AUTO || o->memory > LLAMA_MEMORY_STREAM)
        return llamac_fail(err, LLAMA_EINVAL, "memory mode %d does not exist", o->memory);
    if (o->memory == LLAMA_MEMORY_STREAM)
        return llamac_fail(err, LLAMA_EINVAL,
                           "memory mode 'stream' comes with a later release; use 'map'");
    if (strlen(path) >= LLAMAC_PATH_BYTES)
        return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", path);
    binder b = {.m = m, .path = path, .scratch = {m->arena.allocator, NULL}, .err = err};
    int status = open_weights(&b, !o->tokenizer);
    if (status == LLAMA_OK && (o->tokenizer || m->format != GGUF)) /* which has it inside */
        status = open_tokenizer(&b, o->tokenizer);
    if (status == LLAMA_OK || m->lost) status = check_unchanged(&b);
    llamac_free_all(&b.scratch); /* all that the reading needed and the model does not */
    if (status) return status;
    rope_freqs(m);
    return o->memory == LLAMA_MEMORY_LOCK ? lock_files(m, err) : LLAMA_OK;
}

LLAMAC_API int llama_open(llama **model, const char *path, const llama_options *options,
                          llama_error *err) {
    llama_options o;
    if (err) memset(err, 0, sizeof *err);
    if (model) *model = NULL;
    if (!model || !path || !llamac_take_struct(&o, sizeof o, options))
        return llamac_fail(err, LLAMA_EINVAL,
                           "llama_open: model and path must be given, and options' size set");
    llamac_arena arena = {llamac_allocator_or_default(o.allocator), NULL};
    llama *m = llamac_new(&arena, 1, sizeof *m);
    if (!m) return llamac_out_of_memory(err, path);
    m->arena = arena;
    m->page = (size_t)sysconf(_SC_PAGESIZE);
    *model = m; /* already, for llama_handle_sigbus */
    uint64_t mode = llamac_fp_enter();
    int status = open_model(m, path, &o, err);
    llamac_fp_leave(mode);
    if (status) *model = NULL;
    if (status) llama_close(m);
    else if (err) memset(err, 0, sizeof *err); /* a file that was looked for and not needed */
    return status;
}

/* Also the way out of a failed llama_open: any part of m may be missing. */
LLAMAC_API void llama_close(llama *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n_shards; i++) llamac_unmap_file(&m->files[i]);
    llamac_arena arena = m->arena; /* m itself is in it */
    llamac_free_all(&arena);
}

/* ---- A file that is cut short while it is mapped ---- */

/* A page of it that is read then raises SIGBUS. The model is immutable but for this mark. */
LLAMAC_API int llama_handle_sigbus(const llama *m, const void *address) {
    for (size_t f = 0; m && m->files && f < m->n_shards; f++) {
        const llamac_mapping *file = &m->files[f];
        uintptr_t at = (uintptr_t)address, begin = (uintptr_t)file->data, end = begin + file->size;
        if (at < begin || at >= end) continue;
        at -= (at - begin) % m->page; /* and all behind it, which is as likely gone */
        __atomic_store_n((int *)(uintptr_t)&m->lost, (int)f + 1, __ATOMIC_RELAXED);
        void *zeros =
            mmap((void *)at, end - at, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        return zeros != MAP_FAILED;
    }
    return 0;
}

/* An error once that was called. */
static int check_files(const llama *m, llama_error *err) {
    int lost = __atomic_load_n(&m->lost, __ATOMIC_RELAXED);
    if (!lost) return LLAMA_OK;
    return llamac_fail(err, LLAMA_EIO,
                       "%s: was cut short, or cannot be read any more; see to the file and open "
                       "the model anew",
                       m->paths[lost - 1]);
}

/* ---- Checking ---- */

/* Opening looks at shapes and places alone, in milliseconds; this reads everything. */
typedef struct {
    const llama *m;
    llama_progress_fn progress; /* NULL: nobody asks */
    void *user;
    llama_error *err;
    uint64_t done; /* bytes */
} checking;

/* So many more bytes are good; false: the host said stop. */
static bool passed(checking *c, const char *what, uint64_t bytes, uint64_t total) {
    c->done += bytes;
    return !c->progress || c->progress(c->user, what, c->done, total) == 0;
}

/* n elements of w that lie at data in rows of cols. */
static int check_elements(checking *c, const weight *w, const unsigned char *data, size_t n,
                          size_t cols) {
    enum { PIECE = 1 << 14, LONGEST = 1 << 16, UNTRAINED = 1 << 20 }; /* bytes; of zeros that... */
    size_t size = dtype_bytes[w->type], zeros = 0, count, at;
    size_t longest = w->layer < 0 ? UNTRAINED : LONGEST; /* ...words nobody uses may have */
    if (n * size < longest) longest = n * size;
    for (size_t i = 0; i < n; i += count) {
        count = n - i < PIECE / size ? n - i : PIECE / size;
        const char *why = find_damage(w->type, data + i * size, count, longest, &zeros, &at);
        char name[64];
        size_t first = zeros ? i + count - zeros : i + at, f = 0; /* which file it is in */
        while (f + 1 < c->m->n_shards &&
               (uintptr_t)data - (uintptr_t)c->m->files[f].data >= c->m->files[f].size)
            f++;
        full_name(name, w->layer, w->name);
        if (why)
            return llamac_fail(c->err, LLAMA_EFORMAT,
                               "%s: %s.weight has %s at row %zu, column %zu; download it again",
                               c->m->paths[f], name, why, first / cols, first % cols);
        if (!passed(c, "weights", count * size, c->m->file_bytes)) return LLAMA_ECANCEL;
    }
    return LLAMA_OK;
}

/* Weight by weight, each once, then the list of sums. */
LLAMAC_API int llama_check(const llama *m, llama_progress_fn progress, void *user,
                           llama_error *err) {
    checking c = {m, progress, user, err, 0};
    if (err) memset(err, 0, sizeof *err);
    if (!m) return llamac_fail(err, LLAMA_EINVAL, "llama_check: a model must be given");
    int status = LLAMA_OK;
    for (size_t i = 0; i < OUTSIDE + m->n_layers * INSIDE && status == LLAMA_OK; i++) {
        const weight *w = nth_weight(m, i);
        bool tied = i == OUTPUT && w->part[0] == m->tok_embeddings.part[0]; /* it was seen */
        for (size_t p = 0; p < (tied ? 0 : w->parts) && status == LLAMA_OK; p++)
            status = check_elements(&c, w, w->part[p], w->rows * w->cols / w->parts, across(w));
    }
    if (status != LLAMA_ECANCEL && check_files(m, err)) return LLAMA_EIO; /* zeros, not damage */
    if (status == LLAMA_OK && m->format == META) {
        char folder[LLAMAC_PATH_BYTES];
        llamac_arena scratch = {m->arena.allocator, NULL};
        snprintf(folder, sizeof folder, "%s", m->paths[0]);
        *strrchr(folder, '/') = 0;
        status = md5_list(folder, "checklist.chk", &scratch, progress, user, err);
        llamac_free_all(&scratch);
    }
    if (status == LLAMA_ECANCEL) return llamac_fail(err, status, "cancelled by the host");
    if (status == LLAMA_OK && err) memset(err, 0, sizeof *err); /* no list is no error */
    return status;
}

/* Text is made in tokenizer.c. */
LLAMAC_SHARED const llamac_vocab *llamac_vocab_of(const llama *m) { return m ? m->vocab : NULL; }
LLAMAC_SHARED const llama_allocator *llamac_allocator_of(const llama *m) {
    return &m->arena.allocator;
}

/* ---- Sessions ---- */

static const kernels *find_kernels(const char *name, bool fast);

enum { DEFAULT_BATCH = 256, MAX_THREADS = 1024 };

/* Bytes between what two threads write: hardware prefetchers run past the end of what is read
 * and would take the next thread's lines from it. Where the two cores share no cache, 32 rows
 * took 324 ms without a gap, 208 with one page, 176 with four. */
enum { THREAD_GAP = 16384 };

/* The buffers of session s behind s itself; returns the bytes of all. */
static uint64_t lay_out(llama_session *s, unsigned char *base) {
    const llama *m = s->model;
    uint64_t b = s->batch, threads = (uint64_t)s->threads, f = sizeof(float);
    carver c = {base, 0};
    carve(&c, 1, sizeof *s);                                         /* the session itself */
    uint64_t rows = s->batch > s->n_logits ? s->batch : s->n_logits; /* of one product at most */
    s->x = carve(&c, b * padded(m->dim), f);                         /* [batch][D] */
    s->h = carve(&c, b * padded(m->dim), f);                         /* [batch][D] */
    s->o = carve(&c, b * padded(m->dim), f);                         /* [batch][D] */
    s->q = carve(&c, b * padded(m->dim), f);                         /* [batch][D] */
    s->k = carve(&c, b * padded(m->kv_dim), f);                      /* [batch][K] */
    s->v = carve(&c, b * padded(m->kv_dim), f);                      /* [batch][K] */
    s->a = carve(&c, b * padded(m->hidden), f);                      /* [batch][H] */
    s->b = carve(&c, b * padded(m->hidden), f);                      /* [batch][H] */
    s->packed = /* AMX's three parts of 2 bytes an element are the larger form */
        carve(&c, (rows + TILED - 1) * padded(m->hidden > m->dim ? m->hidden : m->dim), f / 2 * 3);
    s->last = carve(&c, s->n_sequences * padded(m->dim), f);        /* [n_sequences][D] */
    s->logits = carve(&c, s->n_logits * padded(m->vocab_size), f);  /* [n_logits][V] */
    s->sequences = carve(&c, s->n_sequences, sizeof *s->sequences); /* [n_sequences] */
    s->row_seq = carve(&c, b, sizeof *s->row_seq);                  /* [batch] */
    s->row_pos = carve(&c, b, sizeof *s->row_pos);                  /* [batch] */
    s->row_token = carve(&c, b, sizeof *s->row_token);              /* [batch] */
    s->cos = carve(&c, b * (m->head_dim / 2), f);                   /* [batch][head_dim/2] */
    s->sin = carve(&c, b * (m->head_dim / 2), f);                   /* [batch][head_dim/2] */
    s->probs = carve(&c, m->vocab_size, sizeof *s->probs);          /* [V], the sampler's */
    s->ids = carve(&c, m->vocab_size, sizeof *s->ids);              /* [V], its heap */
    s->seen = carve(&c, m->vocab_size, 1);                          /* [V], ids already penalised */
    s->own = carve(&c, threads, sizeof *s->own);                    /* [threads] */
    for (size_t i = 0; i < threads; i++) {
        workspace none = {0}, *own = base ? &s->own[i] : &none;
        carve(&c, THREAD_GAP, 1);
        own->panel = carve(&c, TILED * PANEL_COLUMNS, f);
        own->acc = carve(&c, GROUP * rows * PANEL_ROWS * LANES, f);
        own->queries = carve(&c, ATTENDED * padded(m->head_dim), f);
        own->scores = carve(&c, ATTENDED * padded(s->context), f);
    }
    carve(&c, THREAD_GAP, 1);
    for (size_t i = 0; i < s->n_sequences; i++) {
        sequence none = {0}, *q = base ? &s->sequences[i] : &none;
        *q = (sequence){0};                                                  /* empty */
        q->logits = carve(&c, m->vocab_size, f);                             /* [V] */
        q->tokens = carve(&c, s->context, sizeof *q->tokens);                /* [context] */
        q->k = carve(&c, (uint64_t)m->n_layers * s->context, m->kv_dim * f); /* the KV cache */
        q->v = carve(&c, (uint64_t)m->n_layers * s->context, m->kv_dim * f);
        carve(&c, BLOCK, f); /* a vec may reach past the last head */
    }
    return c.used;
}

/* Settle the options of a session that has a model and no buffers yet. */
static int settle(llama_session *s, const llama_session_options *given, llama_error *err) {
    llama_session_options o; /* ours: complete, whatever the caller's size */
    if (!llamac_take_struct(&o, sizeof o, given))
        return llamac_fail(err, LLAMA_EINVAL, "the session's options have no size set");
    s->allocator = llamac_allocator_or_default(o.allocator);
    if (o.context < 0 || o.context > MAX_CONTEXT || o.sequences < 0 || o.sequences > MAX_CONTEXT ||
        o.batch < 0 || o.batch > MAX_CONTEXT || o.threads < 0 || o.threads > MAX_THREADS)
        return llamac_fail(err, LLAMA_EINVAL,
                           "context, sequences and batch must be 0 to %d, threads 0 to %d",
                           (int)MAX_CONTEXT, (int)MAX_THREADS);
    if (o.numerics != LLAMA_EXACT && o.numerics != LLAMA_FAST)
        return llamac_fail(err, LLAMA_EINVAL, "numerics %d does not exist", o.numerics);
    s->context = o.context ? (size_t)o.context : s->model->context;
    s->n_sequences = o.sequences ? (size_t)o.sequences : 1;
    s->batch = o.batch ? (size_t)o.batch : DEFAULT_BATCH;
    if (s->batch > s->context * s->n_sequences) s->batch = s->context * s->n_sequences;
    s->n_logits = s->n_sequences > SCORED ? s->n_sequences : SCORED;
    s->threads = o.threads ? o.threads : default_threads(MAX_THREADS);
#ifndef _OPENMP
    s->threads = 1; /* there are no others */
#endif
    s->team = s->threads;
    s->progress = o.progress;
    s->progress_user = o.user;
    s->kernels = find_kernels(o.kernels, o.numerics == LLAMA_FAST);
    if (!s->kernels)
        return llamac_fail(err, LLAMA_EINVAL, "kernels '%.32s' are not in this build or CPU (%s)",
                           o.kernels, llama_build());
    snprintf(s->about, sizeof s->about, "%s, %d thread%s", s->kernels->name, s->threads,
             s->threads > 1 ? "s" : "");
    return LLAMA_OK;
}

/* The same counting that llama_session_new does, without the memory. */
LLAMAC_API uint64_t llama_session_bytes(const llama *m, const llama_session_options *options) {
    llama_session s = {.model = m};
    return !m || settle(&s, options, NULL) ? 0 : lay_out(&s, NULL);
}

/* What lies behind the width of a row is read by kernels, whole blocks at a time, and is
 * zero. The rest of a session's memory is written before it is read, and touched only then. */
static void clear_padding(float *x, size_t rows, size_t width) {
    size_t ld = padded(width);
    for (size_t t = 0; t < rows; t++) memset(x + t * ld + width, 0, (ld - width) * sizeof *x);
}

LLAMAC_API int llama_session_new(llama_session **session, const llama *m,
                                 const llama_session_options *options, llama_error *err) {
    llama_session s = {.model = m};
    if (err) memset(err, 0, sizeof *err);
    if (session) *session = NULL;
    if (!session || !m)
        return llamac_fail(err, LLAMA_EINVAL, "llama_session_new: session and model must be given");
    int status = settle(&s, options, err);
    if (status) return status;
    s.bytes = lay_out(&s, NULL);
    unsigned char *base =
        s.bytes > SIZE_MAX / 4
            ? NULL
            : s.allocator.alloc(s.allocator.user, (size_t)s.bytes, LLAMAC_ALIGNMENT);
    if (!base)
        return llamac_fail(err, LLAMA_ENOMEM,
                           "%llu MB for a session cannot be had; ask for a smaller context",
                           (unsigned long long)(s.bytes >> 20));
    llama_session *made = *session = (llama_session *)(void *)base;
    *made = s;
    lay_out(made, base);
    if (s.allocator.alloc == llamac_default_alloc) llamac_used_sparsely(base, s.bytes, m->page);
    float *const by_dim[] = {made->x, made->h, made->o, made->q};
    for (int i = 0; i < 4; i++) clear_padding(by_dim[i], made->batch, m->dim);
    clear_padding(made->a, made->batch, m->hidden);
    return LLAMA_OK;
}

LLAMAC_API void llama_session_free(llama_session *s) {
    if (s) s->allocator.free(s->allocator.user, s, (size_t)s->bytes);
}

/* ---- Evaluating ---- */

/* Guarantee: no allocation, and a call that fails leaves the session as it was. */

/* Note why a call on this session, if there is one, failed: for llama_session_error. */
LLAMAC_SHARED int llamac_failed(llama_session *s, int status, const char *text) {
    return llamac_fail(s ? &s->error : NULL, status, "%s", text);
}

/* The sequence of that number, or NULL. */
static sequence *sequence_of(const llama_session *s, int seq) {
    return s && seq >= 0 && (size_t)seq < s->n_sequences ? &s->sequences[seq] : NULL;
}

/* Make row t of the next batch token number i of a span: who it is, and how far RoPE turns it. */
static void set_row(llama_session *s, size_t t, const llama_span *span, size_t i) {
    size_t half = s->model->head_dim / 2;
    s->row_seq[t] = &s->sequences[span->seq];
    s->row_pos[t] = s->row_seq[t]->length + i;
    s->row_token[t] = span->tokens[i];
    for (size_t j = 0; j < half; j++) {
        double sine, cosine;
        float angle = (float)s->row_pos[t] * s->model->freqs[j];
        sincos_double((double)angle, &sine, &cosine);
        s->sin[t * half + j] = (float)sine;
        s->cos[t * half + j] = (float)cosine;
    }
}

/* s->logits[0..n) of n rows of h [n][D] */
static int output(llama_session *s, const float *h, size_t n) {
    const llama *m = s->model;
    size_t ld = padded(m->vocab_size);
    matmul(s, s->logits, &m->output, h, n);
    for (size_t t = 0; t < n; t++)
        if (!all_finite(s->logits + t * ld, m->vocab_size))
            return llamac_failed(s, LLAMA_ENUMERIC,
                                 "the logits are not finite; the weights may be damaged");
    return LLAMA_OK;
}

/* Of each of the n tokens of a batch, from the logits before it (a span's first: its sequence's; 0
 * without any), the log of its probability and how many rank above it. The logits of the last row
 * stay in s->logits, for the next batch or the sequence. */
static int score_rows(llama_session *s, size_t n, float *logprob, int32_t *rank) {
    size_t vocab = s->model->vocab_size, ld = padded(vocab), width = padded(s->model->dim);
    const float *before = s->logits;
    for (size_t t = 0; t < n; t++) {
        const sequence *q = s->row_seq[t];
        int32_t token = s->row_token[t];
        if (s->row_pos[t] == q->length) before = q->length ? q->logits : NULL;
        logprob[t] = before ? log_probability(before, vocab, token) : 0;
        if (rank) rank[t] = before ? rank_of(before, vocab, token) : 0;
        int status =
            t % SCORED ? LLAMA_OK : output(s, s->h + t * width, n - t < SCORED ? n - t : SCORED);
        if (status) return status;
        before = s->logits + t % SCORED * ld;
    }
    memmove(s->logits, before, vocab * sizeof *before);
    return LLAMA_OK;
}

/* Run the tokens of all spans through the model, in batches of nearly equal size; rows of
 * several sequences share a batch. Leaves in s->logits a row for each span that has tokens.
 * The cache is filled beyond the sequences' lengths only, where nobody reads yet. With
 * logprob every row is scored. */
static int evaluate_spans(llama_session *s, const llama_span *spans, size_t total, float *logprob,
                          int32_t *rank) {
    size_t rows, i = 0, kept = 0, ld = padded(s->model->dim); /* i: tokens of *spans done */
    int status;
    s->total = s->model->n_layers * total;
    s->all_rows = logprob || s->trace;
    for (size_t done = 0; done < total; done += rows) {
        size_t batches = (total - done + s->batch - 1) / s->batch; /* still to come */
        rows = (total - done + batches - 1) / batches;
        for (size_t t = 0; t < rows; t++, i++) {
            /* NOLINTNEXTLINE: there are `total` tokens in all spans, so none past the last */
            for (; i == spans->n; i = 0) spans++;
            set_row(s, t, spans, i);
        }
        s->done = s->model->n_layers * done;
        size_t wanted = forward(s, rows);
        if (s->cancelled) return llamac_failed(s, LLAMA_ECANCEL, "cancelled by the host");
        for (size_t t = 0; t < wanted; t++)
            if (s->row_pos[t] + 1 == s->row_seq[t]->end)
                memcpy(s->last + kept++ * ld, s->h + t * ld, ld * sizeof(float));
        if (logprob && (status = score_rows(s, rows, logprob + done, rank ? rank + done : NULL)))
            return status;
    }
    return logprob && kept == 1 ? LLAMA_OK : output(s, s->last, kept);
}

/* OpenMP's threads do not survive a fork: a child of the process that had them has none. */
static bool may_team(const llama *m) {
    int pid = (int)getpid(), first = 0, *at = (int *)(uintptr_t)&m->team_pid;
    __atomic_compare_exchange_n(at, &first, pid, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return first == 0 || first == pid; /* first: what was there before */
}

/* llama_eval and all its kin: refuse what cannot be, evaluate, and only then let the sequences have
 * their tokens and logits: after a failure nothing has happened. */
LLAMAC_API int llama_score_batch(llama_session *s, const llama_span *spans, size_t n,
                                 float *logprob, int32_t *rank) {
    size_t total = 0, vocab, k = 0;
    if (!s) return LLAMA_EINVAL;
    if (n && !spans) return llamac_failed(s, LLAMA_EINVAL, "spans must be given");
    vocab = s->model->vocab_size;
    s->calls++;
    for (size_t i = 0; i < n; i++) {
        sequence *q = sequence_of(s, spans[i].seq);
        if (!q) return llamac_failed(s, LLAMA_EINVAL, "there is no such sequence");
        if (q->call == s->calls) return llamac_failed(s, LLAMA_EINVAL, "a sequence is named twice");
        if (spans[i].n && !spans[i].tokens)
            return llamac_failed(s, LLAMA_EINVAL, "tokens must be given");
        if (spans[i].n > s->context - q->length)
            return llamac_failed(s, LLAMA_EFULL, "the context is full");
        for (size_t t = 0; t < spans[i].n; t++)
            if (spans[i].tokens[t] < 0 || (size_t)spans[i].tokens[t] >= vocab)
                return llamac_failed(s, LLAMA_EINVAL, "a token is not in the vocabulary");
        if (logprob && q->length && !q->have_logits)
            return llamac_failed(s, LLAMA_EINVAL,
                                 "the sequence was rewound: evaluate a token before scoring");
        q->call = s->calls;
        q->end = q->length + spans[i].n;
        total += spans[i].n;
    }
    if (total == 0) return LLAMA_OK;
    s->team = s->threads > 1 && may_team(s->model) ? s->threads : 1;
    s->cancelled = false;
    uint64_t mode = llamac_fp_enter();
    int status = evaluate_spans(s, spans, total, logprob, rank);
    llamac_fp_leave(mode);
    if (check_files(s->model, &s->error)) status = LLAMA_EIO;
    for (size_t i = 0; i < n && status == LLAMA_OK; i++) {
        sequence *q = &s->sequences[spans[i].seq];
        if (spans[i].n == 0) continue;
        memcpy(q->tokens + q->length, spans[i].tokens, spans[i].n * sizeof *q->tokens);
        memcpy(q->logits, s->logits + k++ * padded(vocab), vocab * sizeof(float));
        q->length = q->end;
        q->have_logits = true;
    }
    return status;
}

LLAMAC_API int llama_eval_batch(llama_session *s, const llama_span *spans, size_t n) {
    return llama_score_batch(s, spans, n, NULL, NULL);
}

LLAMAC_API int llama_eval(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    return llama_eval_batch(s, &(llama_span){seq, tokens, n}, 1);
}

LLAMAC_API int llama_score(llama_session *s, int seq, const int32_t *tokens, size_t n,
                           float *logprob) {
    if (s && n && !logprob) return llamac_failed(s, LLAMA_EINVAL, "logprob must be given");
    return llama_score_batch(s, &(llama_span){seq, tokens, n}, 1, logprob, NULL);
}

/* ---- Sampling ---- */

/* The sequence to sample from and the sampler's settings, or an error. */
static int sampling(llama_session *s, int seq, const llama_sampler *given, llama_sampler *o,
                    sequence **q) {
    if (!s) return LLAMA_EINVAL;
    *q = sequence_of(s, seq);
    if (!*q || !(*q)->have_logits)
        return llamac_failed(s, LLAMA_EINVAL, "the sequence has no logits: evaluate a token first");
    if (!given || !llamac_take_struct(o, sizeof *o, given))
        return llamac_failed(s, LLAMA_EINVAL, "the sampler's size is not set");
    uint64_t mode = llamac_fp_enter(); /* a comparison with no number may trap in the host's */
    bool sane = o->temperature >= 0 && o->top_p >= 0 && o->min_p >= 0 && o->min_p <= 1 &&
                o->repeat_penalty >= 0 && o->top_k >= 0 && o->repeat_last >= -1 &&
                o->temperature < HUGE_VALF && o->repeat_penalty < HUGE_VALF;
    llamac_fp_leave(mode);
    if (!sane)
        return llamac_failed(s, LLAMA_EINVAL,
                             "a sampler setting is negative, infinite or not a number");
    return LLAMA_OK;
}

/* The first token at which the running sum of probabilities, in order of ids, exceeds u. */
LLAMAC_API int32_t llama_sample(llama_session *s, int seq, const llama_sampler *sampler) {
    llama_sampler o = {0};
    sequence *q;
    int status = sampling(s, seq, sampler, &o, &q);
    if (status) return status;
    uint64_t mode = llamac_fp_enter();
    const double *p = distribute(s, q, &o);
    double u = uniform(o.seed, q->length), sum = 0;
    int32_t token = -1;
    for (size_t i = 0; p && i < s->model->vocab_size; i++) {
        if (p[i] == 0) continue; /* filtered out */
        token = (int32_t)i;      /* should rounding leave the whole sum below u, the last one */
        if ((sum += p[i]) > u) break;
    }
    llamac_fp_leave(mode);
    return token >= 0 ? token : llamac_failed(s, LLAMA_EINVAL, "the bias leaves no token");
}

LLAMAC_API int llama_probabilities(llama_session *s, int seq, const llama_sampler *sampler,
                                   float *probs) {
    llama_sampler o = {0};
    sequence *q;
    int status = sampling(s, seq, sampler, &o, &q);
    if (status) return status;
    if (!probs) return llamac_failed(s, LLAMA_EINVAL, "probs must be given");
    uint64_t mode = llamac_fp_enter();
    const double *p = distribute(s, q, &o);
    for (size_t i = 0; p && i < s->model->vocab_size; i++) probs[i] = (float)p[i];
    llamac_fp_leave(mode);
    return p ? LLAMA_OK : llamac_failed(s, LLAMA_EINVAL, "the bias leaves no token");
}

/* Only the k best leave the heap. */
LLAMAC_API int llama_top_logprobs(const llama_session *s, int seq, llama_token_logprob *out,
                                  int k) {
    const sequence *q = sequence_of(s, seq);
    if (!q || !q->have_logits || !out || k < 0) return LLAMA_EINVAL;
    uint64_t mode = llamac_fp_enter();
    size_t vocab = s->model->vocab_size, n = (size_t)k < vocab ? (size_t)k : vocab;
    double all = log_sum_exp(q->logits, vocab);
    for (size_t i = 0; i < vocab; i++) s->probs[i] = (double)q->logits[i], s->ids[i] = (int32_t)i;
    heapify(s->ids, vocab, s->probs);
    for (size_t i = 0; i < n; i++) {
        int32_t id = heap_pop(s->ids, vocab - i, s->probs);
        out[i] = (llama_token_logprob){id, (float)(s->probs[id] - all)};
    }
    llamac_fp_leave(mode);
    return (int)n;
}

/* ---- Looking ---- */

LLAMAC_API int32_t llama_eos(const llama *m) {
    return m && m->vocab ? llamac_vocab_eos(m->vocab) : -1;
}

/* As many bytes of it as the caller's struct has. */
LLAMAC_API int llama_describe(const llama *m, llama_info *info) {
    if (!m || !info || info->size < sizeof info->size) return LLAMA_EINVAL;
    llama_info all = {
        .size = info->size,
        .format = format_names[m->format],
        .dtype = m->type_name,
        .dim = (int)m->dim,
        .layers = (int)m->n_layers,
        .heads = (int)m->n_heads,
        .kv_heads = (int)m->n_kv_heads,
        .head_dim = (int)m->head_dim,
        .hidden = (int)m->hidden,
        .vocab = (int)m->vocab_size,
        .context = (int)m->context,
        .shards = (int)m->n_shards,
        .bos = m->vocab ? llamac_vocab_bos(m->vocab) : -1,
        .eos = llama_eos(m),
        .norm_eps = m->norm_eps,
        .rope_theta = m->rope_theta,
        .parameters = m->parameters,
        .file_bytes = m->file_bytes,
        .token_bytes = m->token_bytes,
        .kv_bytes_per_token = (uint64_t)m->n_layers * m->kv_dim * 2 * sizeof(float),
    };
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
    return LLAMA_OK;
}

LLAMAC_API const float *llama_logits(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q && q->have_logits ? q->logits : NULL;
}

/* See trace() in part II. */
LLAMAC_API int llama_trace(llama_session *s, llama_trace_fn fn, void *user) {
    if (!s) return LLAMA_EINVAL;
    s->trace = fn;
    s->trace_user = user;
    return LLAMA_OK;
}

LLAMAC_API const char *llama_session_error(const llama_session *s) {
    return s ? s->error.text : "";
}
LLAMAC_API const char *llama_session_kernels(const llama_session *s) { return s ? s->about : ""; }

/* ---- Sequences ---- */

static int no_sequence(llama_session *s) {
    return s ? llamac_failed(s, LLAMA_EINVAL, "there is no such sequence") : LLAMA_EINVAL;
}

LLAMAC_API size_t llama_length(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q ? q->length : 0;
}

LLAMAC_API int llama_rewind(llama_session *s, int seq, size_t length) {
    sequence *q = sequence_of(s, seq);
    if (!q) return no_sequence(s);
    if (length > q->length)
        return llamac_failed(s, LLAMA_EINVAL, "a sequence cannot be rewound to beyond its end");
    q->have_logits = q->have_logits && length == q->length;
    q->length = length;
    return LLAMA_OK;
}

/* Only what is there is copied: the memory is touched as far as `from` is long. The heads of its
 * cache are from_context positions apart. */
static void copy_sequence(llama_session *s, sequence *to, const sequence *from,
                          size_t from_context) {
    size_t width = s->model->head_dim, bytes = from->length * width * sizeof(float);
    for (size_t i = 0; i < s->model->n_layers * s->model->n_kv_heads; i++) {
        memcpy(cache(s, to->k, i), from->k + i * from_context * width, bytes);
        memcpy(cache(s, to->v, i), from->v + i * from_context * width, bytes);
    }
    memcpy(to->tokens, from->tokens, from->length * sizeof *to->tokens);
    if (from->have_logits) memcpy(to->logits, from->logits, s->model->vocab_size * sizeof(float));
    to->length = from->length;
    to->have_logits = from->have_logits;
}

LLAMAC_API int llama_fork(llama_session *s, int dst, int src) {
    sequence *to = sequence_of(s, dst);
    const sequence *from = sequence_of(s, src);
    if (!to || !from) return no_sequence(s);
    if (to != from) copy_sequence(s, to, from, s->context);
    return LLAMA_OK;
}

LLAMAC_API const int32_t *llama_tokens(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q ? q->tokens : NULL;
}

/* ---- Saved state ---- */

/* Everything in 64 bits or arrays of 32, in this order: a header and the sum of it; the tokens
 * [length]; of each layer and kv_head K, then V [length][head_dim]; the logits [V], if the sequence
 * has them; the sum of all before. */
enum { STATE_MAGIC, STATE_VERSION, STATE_MODEL, STATE_NUMERICS, STATE_LENGTH, STATE_LOGITS, STATE };

/* A number that tells models apart: of the shape, the constants, and of every weight the first
 * elements of the first row and the last of the last, which are the same in each format. */
static uint64_t fingerprint(const llama *m) {
    uint64_t shape[] = {m->dim, m->n_layers, m->n_heads, m->n_kv_heads, m->hidden, m->vocab_size};
    float constants[] = {m->norm_eps, m->rope_theta}, x[2 * BLOCK];
    uint64_t mode = llamac_fp_enter(),
             sum = checksum(checksum(0, shape, sizeof shape), constants, sizeof constants);
    for (size_t i = 0; i < OUTSIDE + m->n_layers * INSIDE; i++) {
        const weight *w = nth_weight(m, i);
        size_t last = w->rows * w->cols / w->parts, n = across(w) < BLOCK ? across(w) : BLOCK;
        for (size_t k = 0; k < n; k++) {
            x[k] = element(w->type, w->part[0], k);
            x[n + k] = element(w->type, w->part[w->parts - 1], last - n + k);
        }
        sum = checksum(sum, x, 2 * n * sizeof *x);
    }
    llamac_fp_leave(mode);
    return sum;
}

/* What this session writes into a header, and wants to read there. The version is that of this form
 * and of the arithmetic that made the numbers. */
static void make_header(uint64_t h[STATE], const llama_session *s, const sequence *q) {
    memcpy(&h[STATE_MAGIC], LLAMAC_STATE, sizeof *h);
    h[STATE_VERSION] = 2;
    h[STATE_MODEL] = fingerprint(s->model);
    h[STATE_NUMERICS] = s->kernels->pack ? LLAMA_FAST : LLAMA_EXACT;
    h[STATE_LENGTH] = q->length;
    h[STATE_LOGITS] = q->have_logits;
}

/* All behind the header, either way; true: the sum was right. */
static bool pass_sequence(const llama_session *s, stream *st, const sequence *q, size_t context) {
    size_t width = s->model->head_dim, bytes = q->length * width * sizeof(float);
    pass(st, q->tokens, q->length * sizeof *q->tokens);
    for (size_t i = 0; i < s->model->n_layers * s->model->n_kv_heads; i++) {
        pass(st, q->k + i * context * width, bytes);
        pass(st, q->v + i * context * width, bytes);
    }
    if (q->have_logits) pass(st, q->logits, s->model->vocab_size * sizeof(float));
    return pass_sum(st);
}

LLAMAC_API int llama_save(llama_session *s, int seq, llama_write_fn fn, void *user) {
    const sequence *q = sequence_of(s, seq);
    if (!q) return no_sequence(s);
    if (!fn) return llamac_failed(s, LLAMA_EINVAL, "a function that writes must be given");
    stream st = {.write = fn, .user = user};
    uint64_t header[STATE];
    make_header(header, s, q);
    if (check_files(s->model, &s->error)) return LLAMA_EIO;
    pass(&st, header, sizeof header);
    pass_sum(&st);
    pass_sequence(s, &st, q, s->context);
    return st.failed ? llamac_failed(s, LLAMA_EIO, "the state could not be written") : LLAMA_OK;
}

/* Read a header; say what is wrong with it for this session, else give q its length. */
static int load_header(llama_session *s, stream *st, sequence *q) {
    static const char *const other[] = {
        "this is not a saved state", "another version made the state",
        "the state is another model's", "the state is of other numerics (LLAMA_FAST)"};
    uint64_t h[STATE] = {0}, want[STATE];
    make_header(want, s, q);
    if (check_files(s->model, &s->error)) return LLAMA_EIO;
    pass(st, h, sizeof h);
    bool whole = pass_sum(st);
    if (st->failed)
        return llamac_failed(s, LLAMA_EIO, "the state could not be read, or is cut short");
    if (h[STATE_MAGIC] == want[STATE_MAGIC] && (!whole || h[STATE_LOGITS] > 1))
        return llamac_failed(s, LLAMA_EFORMAT, "the state is damaged");
    for (int i = 0; i < STATE_LENGTH; i++)
        if (h[i] != want[i]) return llamac_failed(s, i ? LLAMA_EMISMATCH : LLAMA_EFORMAT, other[i]);
    if (h[STATE_LENGTH] > s->context)
        return llamac_failed(s, LLAMA_EFULL, "the state is longer than the context");
    q->length = (size_t)h[STATE_LENGTH];
    q->have_logits = h[STATE_LOGITS];
    return LLAMA_OK;
}

/* The rest, into q, of which header and memory are there. */
static int load_rest(llama_session *s, stream *st, const sequence *q, size_t context) {
    size_t vocab = s->model->vocab_size;
    bool sound = pass_sequence(s, st, q, context);
    if (st->failed)
        return llamac_failed(s, LLAMA_EIO, "the state could not be read, or is cut short");
    for (size_t i = 0; i < q->length; i++)
        sound = sound && q->tokens[i] >= 0 && (size_t)q->tokens[i] < vocab;
    if (q->have_logits) sound = sound && q->length && all_finite(q->logits, vocab);
    return sound ? LLAMA_OK : llamac_failed(s, LLAMA_EFORMAT, "the state is damaged");
}

/* A sequence that is empty is read into where it is; another is kept until all has been read. */
LLAMAC_API int llama_load(llama_session *s, int seq, llama_read_fn fn, void *user) {
    sequence *q = sequence_of(s, seq), loaded;
    if (!q) return no_sequence(s);
    if (!fn) return llamac_failed(s, LLAMA_EINVAL, "a function that reads must be given");
    stream st = {.read = fn, .user = user};
    llamac_arena room = {s->allocator, NULL};
    size_t width = s->model->kv_dim, vocab = s->model->vocab_size, context = s->context;
    loaded = *q;
    int status = load_header(s, &st, &loaded);
    if (status == LLAMA_OK && q->length) {
        uint64_t cells = (uint64_t)s->model->n_layers * (context = loaded.length) * width;
        loaded.tokens = llamac_new(&room, context, sizeof *loaded.tokens);
        loaded.logits = llamac_new(&room, vocab, sizeof *loaded.logits);
        loaded.k = llamac_new(&room, cells, sizeof *loaded.k);
        loaded.v = llamac_new(&room, cells, sizeof *loaded.v);
        if (!loaded.tokens || !loaded.logits || !loaded.k || !loaded.v)
            status = llamac_failed(s, LLAMA_ENOMEM,
                                   "there is no memory for the state beside the sequence");
    }
    if (status == LLAMA_OK) status = load_rest(s, &st, &loaded, context);
    if (status == LLAMA_OK && q->length) copy_sequence(s, q, &loaded, context);
    q->length = status == LLAMA_OK ? loaded.length : q->length;
    q->have_logits = status == LLAMA_OK ? loaded.have_logits : q->have_logits;
    llamac_free_all(&room);
    return status;
}

/* ---- Library ---- */

/* From the first byte to the last, by one thread: the kernel reads ahead as fast as the disk goes,
 * in large pages; two threads, or asking for pages ahead, took up to twice as long. */
LLAMAC_API int llama_prefetch(const llama *m, llama_progress_fn progress, void *user) {
    enum { PIECE = 4 << 20 };
    uint64_t done = 0;
    for (size_t f = 0; m && f < m->n_shards; f++)
        for (size_t i = 0, n; i < m->files[f].size; i += n, done += n) {
            n = m->files[f].size - i < PIECE ? m->files[f].size - i : PIECE;
            llamac_page_in(m->files[f].data + i, n);
            if (progress && progress(user, "weights", done + n, m->file_bytes))
                return LLAMA_ECANCEL;
        }
    return m ? LLAMA_OK : LLAMA_EINVAL;
}

LLAMAC_API const char *llama_strerror(int status) { return status_text(status); }
LLAMAC_API int llama_release(void) { return LLAMA_RELEASE; }
LLAMAC_API const char *llama_build(void) { return build_text; }

/* ============================================================================================== */
/* V. The machine                                                                                 */
/* ============================================================================================== */

/* One answer: the defined order of a dot product of length K is four float32 lanes; lane k
 * mod 4 takes fma(w[k], x[k], lane) for ascending k from +0, K filled up to a block with
 * zeros; the sum is (lane0 + lane2) + (lane1 + lane3). Four, because then a 512-bit
 * register holds four rows of weights against one broadcast of x: measured with 504 tokens
 * the register tile runs at 92% of the FMA peak, where sixteen lanes (one row a register,
 * four times the cache traffic) reach 59%.
 *
 * The kernels are written once, at the end of this file. Each reading with LLAMA_PASS
 * defined compiles them for one instruction set from a vocabulary of nine verbs. "scalar"
 * is their plain twin. */

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
/* ---- AMX: LLAMA_FAST, another numerics ---- */

/* Tiles of bfloat16 are multiplied at many times the rate of float32, so numbers are taken in parts
 * of 8 bits: exactly x = x0 + x1 + x2, a float16 weight w = w0 + w1, a bfloat16 one w = w0. Of the
 * products w0 x0, w0 x1, w0 x2, w1 x0 and w1 x1 are summed; what is left out is below 1e-7 of w x.
 * (Three products, without w0 x2 and w1 x1, put logits off by 3e-4.) The order of the sums is the
 * processor's, so the bits are not those of other kernels.
 *
 * 32 rows of w by 32 rows of x, over 32 columns: each part is two tiles of a KB, those of w [16
 * rows][32 columns], those of x, as the instruction wants it, [16 pairs of columns][16 rows][2]. */
#define AMX __attribute__((target("avx512f,avx512bw,avx2,fma,f16c,amx-tile,amx-bf16")))
enum { SIDE = 16, TILE_BYTES = 1024, TILE_LD = 64, TILE_FLOATS = 256 };
enum { W_BYTES = 4 * TILE_BYTES, X_BYTES = 6 * TILE_BYTES }; /* of 32 by 32 in all their parts */

/* The first parts of 16 floats, each 8 bits cut off the front, `step` bytes behind one another. */
AMX INLINE void split_amx(__m512 x, unsigned char *to, size_t step, int parts) {
    for (int i = 0; i < parts; i++, to += step) {
        __m512i bits = _mm512_castps_si512(x), top = _mm512_set1_epi32((int)0xffff0000);
        __m256i part = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
        _mm256_storeu_si256((__m256i *)(void *)to, part);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(bits, top)));
    }
}

/* n rows of x, `cols` columns of one panel, as tiles; rows that fill up the last are zero. */
AMX static void pack_amx(float *to, const float *x, size_t ldx, size_t n, size_t cols) {
    for (size_t t = 0; t < n; t += TILED)
        for (size_t k = 0; k < cols; k += TILED, to += X_BYTES / sizeof *to)
            for (size_t i = 0; i < TILED; i++) {
                uint32_t pairs[3][SIDE] = {{0}}, *at = (uint32_t *)(void *)to;
                const float *row = x + (t + i) * ldx + k;
                for (size_t j = 0; j < 2 && t + i < n; j++) /* 16 columns are 8 pairs */
                    split_amx(_mm512_loadu_ps(row + j * SIDE), (unsigned char *)&pairs[0][j * 8],
                              sizeof *pairs, 3);
                at += i / SIDE * TILE_FLOATS + i % SIDE;
                for (size_t j = 0; j < 3 * SIDE; j++)
                    at[j / SIDE * 2 * TILE_FLOATS + j % SIDE * SIDE] = pairs[j / SIDE][j % SIDE];
            }
}

/* TILED rows of segment s from row r on, `count` columns from k on, into parts at `to`. */
AMX INLINE void split_rows_amx(unsigned char *to, int type, const strip *w, size_t s, size_t r,
                               size_t end, size_t k, size_t count) {
    for (size_t i = 0; i < TILED; i++) {
        const unsigned char *row = w->part[s] + (r + i < end ? r + i : end - 1) * w->stride + 2 * k;
        unsigned char *at = to + i * TILE_LD;
        for (size_t c = 0; c < count; c += TILED, at += W_BYTES) {
            if (type == BF16) memcpy(at, row + 2 * c, TILE_LD);
            for (size_t j = 0; j < TILE_LD && type == F16; j += TILE_LD / 2)
                split_amx(f16_avx512(row + 2 * c + j), at + j, 2 * TILE_BYTES, 2);
        }
    }
}

/* Tiles 0 to 3 take the products of tiles 4 and 5, of w, with 6 and 7, of x. */
AMX INLINE void products_amx(void) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* 32 x 32 sums, four tiles at acc, which go on over `steps` times 32 columns. */
AMX INLINE void block_amx(int type, float *acc, const unsigned char *w, const unsigned char *x,
                          size_t steps) {
    __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
    _tile_loadd(0, acc, TILE_LD);
    _tile_loadd(1, acc + TILE_FLOATS, TILE_LD);
    _tile_loadd(2, acc + 2 * TILE_FLOATS, TILE_LD);
    _tile_loadd(3, acc + 3 * TILE_FLOATS, TILE_LD);
    for (size_t i = 0; i < steps; i++, w += W_BYTES, x += X_BYTES) {
        if (type == F16) {
            _tile_loadd(4, w + 2 * TILE_BYTES, TILE_LD); /* w1 */
            _tile_loadd(5, w + 3 * TILE_BYTES, TILE_LD);
            _tile_loadd(6, x, TILE_LD); /* x0 */
            _tile_loadd(7, x + TILE_BYTES, TILE_LD);
            products_amx();
        }
        _tile_loadd(6, x + 2 * TILE_BYTES, TILE_LD); /* x1 */
        _tile_loadd(7, x + 3 * TILE_BYTES, TILE_LD);
        if (type == F16) products_amx();
        _tile_loadd(4, w, TILE_LD); /* w0 */
        _tile_loadd(5, w + TILE_BYTES, TILE_LD);
        products_amx();
        _tile_loadd(6, x, TILE_LD); /* x0 */
        _tile_loadd(7, x + TILE_BYTES, TILE_LD);
        products_amx();
        _tile_loadd(6, x + 4 * TILE_BYTES, TILE_LD); /* x2 */
        _tile_loadd(7, x + 5 * TILE_BYTES, TILE_LD);
        products_amx();
    }
    _tile_stored(0, acc, TILE_LD);
    _tile_stored(1, acc + TILE_FLOATS, TILE_LD);
    _tile_stored(2, acc + 2 * TILE_FLOATS, TILE_LD);
    _tile_stored(3, acc + 3 * TILE_FLOATS, TILE_LD);
}

/* Rows r.. of all tokens from their tiles [row][token], of those there are. */
static void unpack_amx(const product *p, const float *acc, size_t r, size_t end) {
    size_t tokens = (p->n + TILED - 1) / TILED * TILED;
    for (size_t i = 0; i < TILED * tokens; i++) {
        size_t tile = i / TILE_FLOATS, in = i % TILE_FLOATS;
        size_t row = r + tile % 4 / 2 * SIDE + in / SIDE;
        size_t t = tile / 4 * TILED + tile % 2 * SIDE + in % SIDE;
        if (row < end && t < p->n) p->y[t * p->ldy + row] = acc[i];
    }
}

/* As FN(panels) does it: groups of rows take turns, and what comes next is fetched meanwhile. */
AMX INLINE void multiply_amx(int type, const product *p, size_t begin, size_t end) {
    const strip *w = &p->w;
    size_t tokens = (p->n + TILED - 1) / TILED * TILED, groups = tokens / TILED;
    unsigned char *panel = (unsigned char *)p->own->panel;
    for (size_t top = begin, stop; top < end; top = stop) {
        stop = end - top < GROUP * TILED ? end : top + GROUP * TILED;
        memset(p->own->acc, 0, GROUP * TILED * tokens * sizeof(float));
        for (size_t s = 0; s < w->parts; s++)
            for (size_t k = 0, count; k < w->cols; k += count) {
                count = w->cols - k < PANEL_COLUMNS ? w->cols - k : PANEL_COLUMNS;
                const unsigned char *x = (const unsigned char *)p->x +
                                         (s * w->cols + k) * tokens / TILED / TILED * X_BYTES;
                for (size_t r = top; r < stop; r += TILED) {
                    bool last = r + TILED >= stop; /* then the columns to the right are next */
                    uintptr_t next = (uintptr_t)w->part[s] + (last ? top : r + TILED) * w->stride +
                                     2 * (last ? k + count : k);
                    float *acc = p->own->acc + (r - top) * tokens;
                    split_rows_amx(panel, type, w, s, r, end, k, count);
                    for (size_t g = 0; g < groups; g++, acc += TILED * TILED) {
                        for (size_t i = g * TILED / groups; i < (g + 1) * TILED / groups; i++)
                            for (size_t c = 0; c < 2 * count; c += 64)
                                __builtin_prefetch((const void *)(next + i * w->stride + c), 0, 2);
                        block_amx(type, acc, panel, x + g * (count / TILED) * X_BYTES,
                                  count / TILED);
                    }
                }
            }
        for (size_t r = top; r < stop; r += TILED)
            unpack_amx(p, p->own->acc + (r - top) * tokens, r, end);
    }
}

/* Tiles of 16 rows of 64 bytes, set up and given back for each piece of work. */
AMX static void matmul_amx(const product *p, size_t begin, size_t end) {
    if (!is_tiled(p->w.type, p->n, p->w.cols)) {
        matmul_avx512(p, begin, end);
        return;
    }
    struct {
        unsigned char palette, start_row, reserved[14];
        uint16_t bytes[16];
        unsigned char rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = TILE_LD, config.rows[i] = SIDE;
    _tile_loadconfig(&config);
    if (p->w.type == F16) multiply_amx(F16, p, begin, end);
    else multiply_amx(BF16, p, begin, end);
    _tile_release();
}

static const kernels kernels_amx = {"avx512 and amx", matmul_amx,    rmsnorm_avx512, rope_avx512,
                                    attend_avx512,    swiglu_avx512, pack_amx};
#endif

/* The kernels of that name, or the best; NULL: not in this build or not of this CPU. If `fast`,
 * with AMX where there is. */
static const kernels *find_kernels(const char *name, bool fast) {
#if defined(__x86_64__)
    static const kernels *const all[] = {&kernels_scalar, &kernels_avx2, &kernels_avx512};
    int best = x86_level();
    if (fast && best == 2 && (!name || strcmp(name, "avx512") == 0) && has_amx())
        return &kernels_amx; /* what it then does, tests/test_amx.c sees in plain C */
#elif defined(__aarch64__)
    static const kernels *const all[] = {&kernels_scalar, &kernels_neon};
    int best = 1;
#else
    static const kernels *const all[] = {&kernels_scalar};
    int best = 0;
#endif
    (void)fast;
    for (int i = best; i >= 0; i--)
        if (!name || strcmp(name, all[i]->name) == 0) return all[i];
    return NULL;
}

#if !defined(__clang__)
#pragma GCC pop_options
#endif
#undef INLINE /* for a program that includes this file */
#undef FN
#undef TEXT
#undef UNROLL
#undef AMX

#else /* LLAMA_PASS: from here on, read once per instruction set */

/* The vocabulary. A vec is VL floats: VR rows of four lanes.
 *
 *   load  store  fma(a, b, c) = a b + c
 *   splat(f)            f in each lane
 *   spread(p)           the four floats at p, for each row
 *   f16(p)  bf16(p)     VL stored weights, widened exactly, at any address
 *   transpose(v)        VR vecs of VL weights of a row each -> VR vecs of four weights of each row
 *   sums(v, out)        the VR rows' lanes added in the defined order
 *
 * A tile is TILE_VECS vecs of rows by up to six tokens; DOT_VECS are dotted at a time with
 * one. */
/* Plain C: one row of four lanes, each its own fmaf. The twin every other set is tested
 * against; without a fused multiply-add in the machine, fmaf is a function of libm and slow
 * but exact. */
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
    v[0] = _mm256_permute2f128_ps(a, b, 0x20); /* columns 0..3 of both rows */
    v[1] = _mm256_permute2f128_ps(a, b, 0x31); /* columns 4..7 of both */
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
enum { FN(VL) = 16, FN(TILE_VECS) = 4, FN(DOT_VECS) = 4 };
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
    v[0] = _mm512_shuffle_f32x4(a, c, 0x88); /* columns 0..3 of the four rows */
    v[1] = _mm512_shuffle_f32x4(a, c, 0xdd); /* columns 4..7 */
    v[2] = _mm512_shuffle_f32x4(b, d, 0x88); /* columns 8..11 */
    v[3] = _mm512_shuffle_f32x4(b, d, 0xdd); /* columns 12..15 */
}
TARGET INLINE void FN(sums)(__m512 v, float *out) {
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e)); /* lanes 0+2, 1+3 */
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    __m512i first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12)); /* of each row */
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, v)));
}

/* NEON: one row a register, thirty-two registers: tiles of 4 x 6 vecs. */
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
enum { FN(VR) = FN(VL) / LANES, FN(TILE_ROWS) = FN(TILE_VECS) * FN(VR) };

/* VL weights of one row from column k on; type is a constant, so the switch disappears. */
TARGET INLINE VEC FN(widen)(int type, const unsigned char *row, size_t k) {
    switch (type) {
    case F16: return FN(f16)(row + 2 * k);
    case BF16: return FN(bf16)(row + 2 * k);
    default: return FN(load)((const float *)(const void *)(row + 4 * k)); /* at any address */
    }
}

/* One block of VR rows from column k on, widened and interleaved: out[i] is the columns k +
 * 4i.. of all the rows. A block that is not whole, the last of a row, is copied and filled up with
 * zeros. */
TARGET INLINE void FN(block)(VEC *out, int type, const unsigned char *const *row, size_t k,
                             size_t cols, const bool whole) {
    unsigned char copy[FN(VR)][BLOCK * sizeof(float)] = {{0}};
    const size_t size = dtype_bytes[type];
    for (int i = 0; i < FN(VR) && !whole; i++) {
        const unsigned char *from = row[i] + k * size, *end = row[i] + cols * size;
        unsigned char *to = copy[i];
        UNROLL
        for (size_t n = BLOCK / 2 * size; n >= size; n /= 2) /* 8, 4, 2, 1 elements */
            if ((size_t)(end - from) >= n) {
                memcpy(to, from, n);
                to += n;
                from += n;
            }
    }
    UNROLL
    for (size_t j = 0; j < BLOCK; j += FN(VL), out += FN(VR)) {
        UNROLL
        for (int i = 0; i < FN(VR); i++)
            out[i] = whole ? FN(widen)(type, row[i], k + j) : FN(widen)(type, copy[i], j);
        FN(transpose)(out);
    }
}

/* Pointers to VR rows from row r on, in one segment; past the end the last row is repeated,
 * and its sums are dropped. */
TARGET INLINE void FN(rows)(const unsigned char **row, const strip *w, size_t segment, size_t r,
                            size_t end) {
    for (size_t i = 0; i < FN(VR); i++)
        row[i] = w->part[segment] + (r + i < end ? r + i : end - 1) * w->stride;
}

/* One block of DOT_VECS times VR rows with the 16 floats at x. */
TARGET INLINE void FN(dot)(VEC *sum, int type, const unsigned char *row[FN(DOT_VECS)][FN(VR)],
                           size_t k, size_t cols, const float *x, const bool whole) {
    VEC b[FN(DOT_VECS)][BLOCK / LANES];
    UNROLL
    for (int v = 0; v < FN(DOT_VECS); v++) FN(block)(b[v], type, row[v], k, cols, whole);
    UNROLL
    for (size_t i = 0; i < BLOCK / LANES; i++) {
        VEC xi = FN(spread)(x + i * LANES);
        UNROLL
        for (int v = 0; v < FN(DOT_VECS); v++) sum[v] = FN(fma)(b[v][i], xi, sum[v]);
    }
}

/* One token: y[r] = sum_k w[r][k] x[k]. Weights go from memory to registers once; the rows after
 * these are prefetched, to L2 as L1 is too small, in their order: memory likes one long stream. */
TARGET INLINE void FN(dots)(int type, const strip *w, size_t begin, size_t end, const float *x,
                            float *y) {
    enum { VECS = FN(DOT_VECS), ROWS = VECS * FN(VR) };
    const size_t bytes = ROWS * BLOCK * dtype_bytes[type]; /* of one block of all the rows */
    for (size_t r = begin; r < end; r += ROWS) {
        VEC sum[VECS];
        UNROLL
        for (int v = 0; v < VECS; v++) sum[v] = FN(splat)(0);
        for (size_t s = 0; s < w->parts; s++) {
            const unsigned char *row[VECS][FN(VR)];
            const float *xs = x + s * w->cols;
            uintptr_t ahead = (uintptr_t)w->part[s] + (r + ROWS) * w->stride;
            for (int v = 0; v < VECS; v++) FN(rows)(row[v], w, s, r + (size_t)v * FN(VR), end);
            size_t k = 0;
            for (; k + BLOCK <= w->cols; k += BLOCK, ahead += bytes) {
                UNROLL
                for (size_t i = 0; i < bytes; i += 64)
                    __builtin_prefetch((const void *)(ahead + i), 0, 2);
                FN(dot)(sum, type, row, k, w->cols, xs + k, true);
            }
            if (k < w->cols) FN(dot)(sum, type, row, k, w->cols, xs + k, false);
        }
        float out[ROWS];
        UNROLL
        for (int v = 0; v < VECS; v++) FN(sums)(sum[v], out + v * FN(VR));
        if (r + ROWS <= end) memcpy(y + r, out, sizeof out);
        else memcpy(y + r, out, (end - r) * sizeof *y);
    }
}

/* A register tile: the TILE_ROWS rows of a panel by `tokens` <= 6 tokens, over `steps`
 * times four columns. Its lanes wait in acc from panel to panel, so a sum keeps its order. */
TARGET INLINE void FN(tile)(float *acc, const float *panel, const float *x, size_t steps,
                            bool first, const size_t tokens) {
    enum { VECS = FN(TILE_VECS), VL = FN(VL) };
    VEC sum[TILE_TOKENS][VECS];
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < VECS; v++)
        sum[t][v] = first ? FN(splat)(0) : FN(load)(acc + (t * VECS + v) * VL);
    for (size_t i = 0; i < steps; i++, panel += VECS * VL, x += tokens * LANES) {
        VEC w[VECS];
        UNROLL
        for (size_t v = 0; v < VECS; v++) w[v] = FN(load)(panel + v * VL);
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            VEC xt = FN(spread)(x + t * LANES);
            UNROLL
            for (size_t v = 0; v < VECS; v++) sum[t][v] = FN(fma)(w[v], xt, sum[t][v]);
        }
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < VECS; v++) FN(store)(acc + (t * VECS + v) * VL, sum[t][v]);
}

/* One panel against all n tokens, packed from x on. The panel that comes next, `run` bytes of each
 * row from `next` on, is fetched into the L2 cache meanwhile: some of it before each tile. */
TARGET static void FN(tiles)(const product *p, float *acc, const float *x, size_t steps, bool first,
                             uintptr_t next, size_t run) {
    enum { LINE = 64 };
    size_t lines = FN(TILE_ROWS) * ((run + LINE - 1) / LINE), byte = 0;
    size_t share = lines * TILE_TOKENS / p->n + 1; /* before a tile */
    for (size_t t = 0, tokens; t < p->n; t += tokens) {
        for (size_t i = 0; i < share && lines; i++, lines--) {
            __builtin_prefetch((const void *)(next + byte), 0, 2);
            if ((byte += LINE) >= run) byte = 0, next += p->w.stride;
        }
        const float *panel = p->own->panel, *xt = x + t * steps * LANES;
        float *sums = acc + t * FN(TILE_VECS) * FN(VL);
        tokens = tile_tokens(p->n - t);
        switch (tokens) { /* each with its own unrolled body; tiles of equal size have 2 at least */
        case 2: FN(tile)(sums, panel, xt, steps, first, 2); break;
        case 3: FN(tile)(sums, panel, xt, steps, first, 3); break;
        case 4: FN(tile)(sums, panel, xt, steps, first, 4); break;
        case 5: FN(tile)(sums, panel, xt, steps, first, 5); break;
        default: FN(tile)(sums, panel, xt, steps, first, TILE_TOKENS);
        }
    }
}

/* Widen TILE_ROWS rows of segment s, `count` columns from column k on, into a panel as
 * tile() reads it: four columns of all the rows, then the next four. */
TARGET INLINE void FN(fill)(float *panel, int type, const strip *w, size_t s, size_t r, size_t end,
                            size_t k, size_t count) {
    for (size_t v = 0; v < FN(TILE_VECS); v++) {
        const unsigned char *row[FN(VR)];
        FN(rows)(row, w, s, r + v * FN(VR), end);
        for (size_t c = 0; c < count; c += BLOCK) {
            VEC b[BLOCK / LANES];
            if (k + c + BLOCK <= w->cols) FN(block)(b, type, row, k + c, w->cols, true);
            else FN(block)(b, type, row, k + c, w->cols, false);
            UNROLL
            for (size_t i = 0; i < BLOCK / LANES; i++)
                FN(store)(panel + ((c / LANES + i) * FN(TILE_VECS) + v) * FN(VL), b[i]);
        }
    }
}

/* y from the lanes of TILE_ROWS rows from r on, of those before `end`. */
TARGET INLINE void FN(add_up)(const product *p, const float *acc, size_t r, size_t end) {
    for (size_t i = 0; i < p->n * FN(TILE_VECS); i++, acc += FN(VL)) {
        size_t t = i / FN(TILE_VECS), from = r + i % FN(TILE_VECS) * FN(VR); /* vec i's */
        float out[FN(VR)];
        FN(sums)(FN(load)(acc), out);
        float *y = p->y + t * p->ldy + from;
        if (from + FN(VR) <= end) memcpy(y, out, sizeof out);
        else if (from < end) memcpy(y, out, (end - from) * sizeof *y);
    }
}

/* Many tokens: a panel of weights is widened once and used by all of them from the L1 cache. A
 * group of panels takes turns, so that what they all need of x stays in the L2 cache. */
TARGET INLINE void FN(panels)(int type, const product *p, size_t begin, size_t end) {
    enum { ROWS = FN(TILE_ROWS) };
    const strip *w = &p->w;
    size_t size = dtype_bytes[type], lanes = p->n * LANES; /* of a row */
    for (size_t top = begin, stop; top < end; top = stop) {
        stop = end - top < GROUP * ROWS ? end : top + GROUP * ROWS;
        for (size_t s = 0; s < w->parts; s++)
            for (size_t k = 0; k < w->cols; k += PANEL_COLUMNS) {
                size_t count = w->cols - k < PANEL_COLUMNS ? w->cols - k : PANEL_COLUMNS;
                size_t steps = (count + BLOCK - 1) / BLOCK * (BLOCK / LANES);
                const float *x = p->x + (s * w->cols + k) * p->n;
                for (size_t r = top; r < stop; r += ROWS) {
                    bool last = r + ROWS >= stop; /* then the columns to the right are next */
                    uintptr_t next = (uintptr_t)w->part[s] + (last ? top : r + ROWS) * w->stride;
                    FN(fill)(p->own->panel, type, w, s, r, end, k, count);
                    FN(tiles)
                    (p, p->own->acc + (r - top) * lanes, x, steps, s + k == 0,
                     next + (last ? k + count : k) * size, count * size);
                }
            }
        for (size_t r = top; r < stop; r += ROWS)
            FN(add_up)(p, p->own->acc + (r - top) * lanes, r, end);
    }
}

/* Generation reads weights once and has nothing to share; a prompt shares each panel. */
TARGET INLINE void FN(multiply)(int type, const product *p, size_t begin, size_t end) {
    if (p->n == 1) FN(dots)(type, &p->w, begin, end, p->x, p->y);
    else FN(panels)(type, p, begin, end);
}

/* The type of the weights is taken out of the loops: three bodies from one text. What one token
 * needs from memory, more than the caches hold, comes faster to narrower registers: 95% of what a
 * core can read. */
TARGET static void FN(matmul)(const product *p, size_t begin, size_t end) {
#if LLAMA_PASS == 3
    enum { CACHED = 1 << 18 };
    if (p->n == 1 && (end - begin) * p->w.stride > CACHED) {
        matmul_avx2(p, begin, end);
        return;
    }
#endif
    switch (p->w.type) { /* each with its own body, in which the type is a constant */
    case F16: FN(multiply)(F16, p, begin, end); break;
    case BF16: FN(multiply)(BF16, p, begin, end); break;
    default: FN(multiply)(F32, p, begin, end);
    }
}

/* r = 1 / sqrt(x.x / n + eps); y = (x r) w */
TARGET static void FN(rmsnorm)(float *y, const float *x, const weight *w, float eps) {
    const unsigned char *row = (const unsigned char *)x; /* a matrix of one row */
    size_t n = w->cols, i = 0;
    float ss;
    FN(matmul)(&(product){{&row, 1, n, n * sizeof *x, F32}, x, &ss, 1, 1, NULL}, 0, 1);
    float r = 1.0f / sqrtf(ss / (float)n + eps);
    for (; i + FN(VL) <= n; i += FN(VL)) { /* the norm's weights, widened a vec at a time */
        float f[FN(VL)];
        VEC v = w->type == F16    ? FN(widen)(F16, w->part[0], i)
                : w->type == BF16 ? FN(widen)(BF16, w->part[0], i)
                                  : FN(widen)(F32, w->part[0], i);
        FN(store)(f, v);
        for (size_t k = 0; k < FN(VL); k++) y[i + k] = x[i + k] * r * f[k];
    }
    for (; i < n; i++) y[i] = x[i] * r * element(w->type, w->part[0], i);
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

/* y[t][d] += sum_j p[t][j] v[j][d], begin <= j < end ascending, for `rows` tokens and `vecs` VL
 * elements d; from +0 if begin is 0. ldy and ldp are floats from token to token. */
TARGET INLINE void FN(mix)(float *y, size_t ldy, const float *p, size_t ldp, const float *v,
                           size_t head_dim, size_t begin, size_t end, const int rows,
                           const int vecs) {
    VEC sum[TILE_TOKENS][2 * FN(TILE_VECS)];
    UNROLL
    for (int t = 0; t < rows; t++) UNROLL
    for (int i = 0; i < vecs; i++)
        sum[t][i] = begin ? FN(load)(y + (size_t)t * ldy + (size_t)i * FN(VL)) : FN(splat)(0);
    for (size_t j = begin; j < end; j++) {
        VEC w[2 * FN(TILE_VECS)];
        UNROLL
        for (int i = 0; i < vecs; i++) w[i] = FN(load)(v + j * head_dim + (size_t)i * FN(VL));
        UNROLL
        for (int t = 0; t < rows; t++) {
            VEC pj = FN(splat)(p[(size_t)t * ldp + j]);
            UNROLL
            for (int i = 0; i < vecs; i++) sum[t][i] = FN(fma)(pj, w[i], sum[t][i]);
        }
    }
    UNROLL
    for (int t = 0; t < rows; t++) UNROLL
    for (int i = 0; i < vecs; i++) FN(store)(y + (size_t)t * ldy + (size_t)i * FN(VL), sum[t][i]);
}

/* The same for all elements d of a head; rows is 1 or TILE_TOKENS. One row has registers for more
 * elements at a time, so that memory is read more nearly in its order. */
TARGET INLINE void FN(mix_head)(const view *a, size_t t, const float *p, size_t ldp, size_t begin,
                                size_t end, const int rows) {
    enum { WIDE = FN(TILE_VECS) * FN(VL) };
    float *y = a->y + t * a->ld;
    size_t d = begin < end ? 0 : a->head_dim; /* nothing to add? */
    p += t * ldp;
    for (; rows == 1 && d + 2 * WIDE <= a->head_dim; d += 2 * WIDE)
        FN(mix)(y + d, a->ld, p, ldp, a->values + d, a->head_dim, begin, end, 1, 2 * FN(TILE_VECS));
    for (; d + WIDE <= a->head_dim; d += WIDE)
        FN(mix)(y + d, a->ld, p, ldp, a->values + d, a->head_dim, begin, end, rows, FN(TILE_VECS));
    for (; d + FN(VL) <= a->head_dim; d += FN(VL))
        FN(mix)(y + d, a->ld, p, ldp, a->values + d, a->head_dim, begin, end, rows, 1);
    if (d == a->head_dim) return;
    float rest[TILE_TOKENS][FN(VL)] = {{0}}; /* less than a vec is left; what is behind goes */
    size_t bytes = (a->head_dim - d) * sizeof(float);
    for (int r = 0; r < rows; r++) memcpy(rest[r], y + (size_t)r * a->ld + d, bytes);
    FN(mix)(rest[0], FN(VL), p, ldp, a->values + d, a->head_dim, begin, end, rows, 1);
    for (int r = 0; r < rows; r++) memcpy(y + (size_t)r * a->ld + d, rest[r], bytes);
}

/* y = softmax(q K^T / sqrt(head_dim)) V. The scores are a matrix product whose weights are the
 * keys; some positions' values are mixed at a time, for all tokens from the L1 cache. Tokens of
 * a tile differ in how far they see: the last few positions are mixed one by one. */
TARGET static void FN(attend)(const view *a) {
    enum { SOME = 64, TILE = TILE_TOKENS };
    const unsigned char *keys = (const unsigned char *)a->keys;
    size_t most = a->n + a->rows - 1, ld = padded(most), end;
    float *p = a->own->scores, root = sqrtf((float)a->head_dim);
    pack(a->own->queries, a->q, a->ld, a->rows, a->head_dim);
    strip k = {&keys, 1, a->head_dim, a->head_dim * sizeof(float), F32};
    product scores = {k, a->own->queries, p, ld, a->rows, a->own};
    FN(matmul)(&scores, 0, most);
    for (size_t t = 0; t < a->rows; t++) {
        for (size_t i = 0; i < a->n + t; i++) p[t * ld + i] /= root;
        FN(softmax)(p + t * ld, a->n + t);
    }
    for (size_t begin = 0; begin < most; begin = end) {
        end = most - begin < SOME ? most : begin + SOME;
        for (size_t t = 0, tile; t < a->rows; t += tile) {
            size_t seen = a->n + t < end ? a->n + t : end; /* by each token of the tile */
            tile = a->rows - t < TILE ? 1 : TILE;
            if (tile == TILE) FN(mix_head)(a, t, p, ld, begin, seen, TILE);
            for (size_t r = 0; r < tile; r++) {
                size_t own = a->n + t + r < end ? a->n + t + r : end, from = begin;
                if (tile == TILE && seen > begin) from = seen;
                FN(mix_head)(a, t + r, p, ld, from, own, 1);
            }
        }
    }
}

/* a = a / (1 + exp(-a)) * b */
TARGET static void FN(swiglu)(float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) a[i] = a[i] / (1.0f + exp_float(-a[i])) * b[i];
}

/* What the rest of the file sees of this reading. */
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
