/* llama.c - LLaMA (Touvron et al. 2023, arXiv:2302.13971) on a CPU, from the files Meta shipped.
 *
 * Contract. The library maps a checkpoint, runs the transformer in float32 and samples tokens.
 * The order and the rounding of all arithmetic are defined. The output therefore has the same bits
 * for every instruction set, number of threads, batch size, and number of shards or machines. The
 * exception is LLAMA_FAST, which uses AMX. The library does not convert, quantise or train weights. It copies
 * a weight only if the kernels cannot use it in place (copy_weight), or if it is streamed
 * (weight_stream). It keeps no global state, prints nothing and never exits. In comments, the host is
 * the program that uses the library.
 *
 *   part                    holds
 *   I.    The model         element types, equations, structs with their shapes, forward()
 *   II.   The operations    threads, traces, several machines; embed, rmsnorm, matmul, rope,
 *                           attention, swiglu, add
 *   III.  Kernels           the order of a sum; exp, log, sine, cosine; packing; the inner loops,
 *                           compiled once per instruction set; AMX; the choice of kernels
 *   IV.   Common ground     cursor, UTF-8, memory, errors, JSON, GGUF values, every system call
 *   V.    Reading files     PyTorch (zip, pickle, older form), safetensors, GGUF, MD5
 *   VI.   Opening a model   formats, parameters, binding, tokenizer, weights in memory (mapped,
 *                           locked, streamed), open, close, SIGBUS, check
 *   VII.  Sessions          memory layout; evaluating, scoring, verifying; sequences; saved state
 *   VIII. Sampling          random numbers, penalties, filters, the draw
 *   IX.   Text              text and tokens, prefix reuse, guessing, generation, log-likelihood
 *   X.    The library       messages of status codes, version, build
 *
 * To read the file, start with forward() in part I: it is all of LLaMA. Part II has the equation of
 * each operation, part III makes them fast. To find a place, search for these names. A kernel's
 * name is written FN(name).
 *
 *   the order of a dot product's sum             III   matmul_plain, and part III's first comment
 *   the order of attention's sums                III   FN(softmax), FN(weighted_sum)
 *   how the weights of a matmul reach registers  III   FN(multiply), and the table before it
 *   the loops of a matmul for 1 to 12 tokens     III   FN(few)
 *   the loops of a matmul for more tokens        III   matmul_blocked, FN(multiply_panel)
 *   which instruction set is used                III   find_kernels
 *   how work is divided over threads             II    parallel
 *   how the KV cache is laid out                 I     sequence
 *   how the KV cache is written                  II    store_kv
 *   which elements RoPE rotates together         II    rope, pair_up
 *   RoPE's angles, their sines and cosines       VI, VII rope_freqs, set_row
 *   how RoPE is scaled for a longer context      VI    scaled_frequency, find_llama3
 *   where eps is added, and the causal mask      III   FN(rmsnorm), FN(attend)
 *   where scores are divided by sqrt(head_dim)   III   FN(attend)
 *   where rows are dropped that need no logits   II    select_rows
 *   how several machines divide the rows         II    part_of, gather
 *   which function maps a file (mmap)            IV    llamac_map_file
 *   where an error gets its text                 IV    llamac_fail
 *   where a PyTorch pickle is interpreted        V     pickle_run
 *   where a safetensors header is checked        V     read_safetensors
 *   where a GGUF header is checked               V     gguf_open, gguf_tensors
 *   which tensor name becomes which weight       VI    binding[BINDINGS], bind_weight
 *   where an element type is refused             VI    bind_tensor
 *   which tensors are skipped or refused         VI    unneeded, foreign, skip_tensor
 *   what a wrong file or folder is said to be    VI    kind_of_file, refuse_file, refuse_folder
 *   how weights that do not fit are streamed     VI   weight_stream, read_ahead, await_rows
 *   what happens if a mapped file is truncated   VI    llama_handle_sigbus
 *   how the memory of a session is laid out      VII   layout_session
 *   what happens if the context is full          VII   LLAMA_EFULL in check_span
 *   where the logits of every position are kept  VII   evaluate_spans, llama_logits_at
 *   where a batch's prompts get their rows        VII   evaluate_spans, set_row
 *   how a saved state is laid out                VII   STATE_MAGIC, transfer_sequence
 *   where guessed tokens become tokens           VII   accept_guess, llama_verify
 *   where temperature and the filters apply      VIII  distribute
 *   what a random draw depends on                VIII  draw_token
 *   where a prompt of a batch gets its sequence  IX    start_request
 *   how much of a prompt is in the KV cache      IX    cached_prefix
 *   where the next tokens are guessed            IX    look_up, choose_guesses
 *   where a stop text is found                   IX    llama_find_stop
 *   where a text is tokenized, and BOS added     tokenizer.c, llamac_encode
 *   where characters and spaces are normalised   tokenizer.c, normalise, match_charsmap
 *
 * Memory. Weights stay in the page cache, mapped read-only, or are streamed. A model owns an arena, which holds the
 * vocabulary and about 1 KB per layer. A session is one allocation: buffers for one batch, a
 * workspace per thread, then the KV cache, whose pages are touched only when they are used.
 *
 * Macros that select what is compiled:
 *
 *   LLAMA_PASS          1 to 5: only the kernels of part III, for one instruction set. Part III
 *                       includes this file once per set, so the kernels are written once.
 *   LLAMA_COMMON_ONLY   only part IV and its types. tokenizer.c includes this file this way.
 *   LLAMAC_COMMON       part IV is already compiled. If a program includes llama.c and then
 *                       tokenizer.c, it gets part IV once.
 *   LLAMA_STATIC        every function is static, for a program of one file: see llama.h.
 *   LLAMA_OPENMP        OpenMP's threads instead of the session's own. Compile with -fopenmp.
 */
#ifndef LLAMA_PASS
/* Refuse languages, compilers and machines for which llama.c is not written, before a message about
 * a detail hides the reason. */
#if defined(__cplusplus)
#error "llama.c is C: compile it as C11; C++ programs include llama.h"
#elif !defined(__GNUC__) || defined(__TINYC__)
#error "llama.c needs gcc or clang: it uses their vector types, attributes and builtin functions"
#elif __STDC_VERSION__ < 199901L
#error "llama.c is C11: compile it with -std=c11 or -std=gnu11, or without -std"
#elif __SIZEOF_POINTER__ < 8
#error "llama.c maps files larger than 4 GiB: it needs a 64-bit machine"
#elif __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "llama.c maps little-endian files as they are: it needs a little-endian machine"
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* mmap, madvise and mlock under -std=c11 */
#endif
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef LLAMA_COMMON_ONLY
#ifdef LLAMA_OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#endif
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <fenv.h>
#endif

/* Refuse compiler flags that change the bits of the output, which are part of the contract. */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "llama.c defines the order of its arithmetic: compile it without -ffast-math"
#elif FLT_EVAL_METHOD != 0
#error "llama.c needs float arithmetic in float: on x86 compile with -msse2 -mfpmath=sse"
#endif
_Static_assert(sizeof 0.1 == sizeof(double), "compile llama.c without -fsingle-precision-constant");
#ifndef LLAMA_COMMON_ONLY
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif
#endif
#include "llama.h"

#ifndef LLAMAC_COMMON
/* ---- Platform: headers and types of the system ---- */

/* LLAMAC_PRINTF names the rules of printf that gcc checks, LLAMAC_THREADS the threads that are used.
 * LLAMAC_HIDDEN keeps a function out of a shared library's list. A handle is an open file; -1 is
 * none. */
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#define NOGDI
#if !defined(_WIN32_WINNT) || _WIN32_WINNT < 0x0602
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602 /* Windows 8 has PrefetchVirtualMemory */
#endif
#include <malloc.h>
#include <windows.h>
#define LLAMAC_PRINTF  __MINGW_PRINTF_FORMAT
#define LLAMAC_THREADS "Windows threads"
#define LLAMAC_HIDDEN  /* has no counterpart in the objects of Windows */
#if !defined(LLAMA_COMMON_ONLY) && defined(__x86_64__) && !defined(__clang__) &&                   \
    !defined(LLAMAC_TILES)
/* gcc's own macros take the stride as a long, which has 32 bits here. LLAMAC_TILES: a test has its own. */
#undef _tile_loadd
#undef _tile_stored
#define _tile_loadd(t, p, stride)                                                                  \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((ptrdiff_t)(stride)))
#define _tile_stored(t, p, stride)                                                                 \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((ptrdiff_t)(stride))        \
                     : "memory")
#endif
typedef intptr_t llamac_handle; /* a HANDLE */
typedef SRWLOCK llamac_mutex;
typedef CONDITION_VARIABLE llamac_condition;
typedef struct {
    HANDLE handle;
    DWORD id;
    void *(*run)(void *); /* what the thread calls, with `user` */
    void *user;
} llamac_thread;
#else
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#elif defined(__FreeBSD__)
#include <sys/param.h> /* which these two need */
#include <sys/cpuset.h>
#include <sys/sysctl.h>
#endif
#if defined(__GLIBC__) && !defined(__USE_MISC)
#error "under -std=c11, include llama.c before any other header, or compile with -D_GNU_SOURCE"
#endif
#define LLAMAC_PRINTF  printf
#define LLAMAC_THREADS "POSIX threads"
#define LLAMAC_HIDDEN  __attribute__((visibility("hidden")))
typedef int llamac_handle; /* a descriptor */
typedef pthread_mutex_t llamac_mutex;
typedef pthread_cond_t llamac_condition;
typedef pthread_t llamac_thread;
#endif

/* ---- Declarations of part IV that parts I to III need ---- */

#ifdef LLAMA_STATIC
#define LLAMAC_SHARED static __attribute__((unused))
#else
#define LLAMAC_SHARED LLAMAC_HIDDEN
#endif
#define LLAMAC_INLINE static inline __attribute__((unused))

/* An arena owns all allocations of one object and frees them together. A small allocation is a part
 * of a 64 KB chunk, a large one has its own block. Opening a model uses two arenas: one for what
 * the model keeps, one for temporary data, which is always freed. So an error in the middle of a
 * file needs no clean-up of single allocations. */
enum { LLAMAC_ALIGNMENT = 64, LLAMAC_CHUNK = 1 << 16 };
typedef struct llamac_block {
    struct llamac_block *next;
    size_t bytes, used; /* including this header */
} llamac_block;
typedef struct {
    llama_allocator allocator;
    llamac_block *last;
} llamac_arena;

typedef struct {               /* a file mapped read-only */
    const unsigned char *data; /* [size]; NULL: not mapped */
    size_t size;               /* in bytes */
    uint64_t id[2];            /* device and inode: the same for all names of one file */
} llamac_mapping;

typedef struct llamac_vocab llamac_vocab;

/* The host program may flush denormals or round in another direction, which would change the bits.
 * llamac_fp_enter sets the default floating-point mode and returns the host's mode; llamac_fp_leave
 * restores it. */
LLAMAC_INLINE uint64_t llamac_fp_enter(void);
LLAMAC_INLINE void llamac_fp_leave(uint64_t old);
LLAMAC_INLINE bool llamac_allow_amx(void); /* returns whether Linux lets this process use AMX */

/* A bell: where threads that have nothing to do sleep until another thread rings. */
typedef struct {
    llamac_mutex mutex;
    llamac_condition rung;
    atomic_int asleep; /* number of threads that sleep, or are about to */
} llamac_bell;

/* For part II; the section Platform says what each does. */
LLAMAC_INLINE bool llamac_start_thread(llamac_thread *, void *(*run)(void *), void *user);
LLAMAC_INLINE void llamac_join_thread(llamac_thread);
LLAMAC_INLINE void llamac_make_bell(llamac_bell *);
LLAMAC_INLINE void llamac_sleep(llamac_bell *, bool (*until)(void *), void *user);
LLAMAC_INLINE void llamac_ring(llamac_bell *);
LLAMAC_INLINE void llamac_enter(llamac_bell *);
LLAMAC_INLINE void llamac_wait(llamac_bell *);
LLAMAC_INLINE void llamac_wait_briefly(llamac_bell *);
LLAMAC_INLINE void llamac_notify(llamac_bell *);
LLAMAC_INLINE void llamac_leave(llamac_bell *);
LLAMAC_INLINE void llamac_unlock(llamac_bell *);
LLAMAC_INLINE llamac_thread llamac_this_thread(void);
LLAMAC_INLINE bool llamac_same_thread(llamac_thread, llamac_thread);
LLAMAC_INLINE void llamac_pause(void);
LLAMAC_INLINE uint64_t llamac_nanoseconds(void);
LLAMAC_INLINE uint64_t llamac_running_time(void);
__attribute__((format(LLAMAC_PRINTF, 3, 4))) LLAMAC_INLINE int
llamac_fail(llama_error *err, int status, const char *format, ...);
LLAMAC_INLINE int llamac_process(void);
LLAMAC_INLINE int llamac_cores(void);
#endif /* LLAMAC_COMMON */

#ifndef LLAMA_COMMON_ONLY

/* ============================================================================================== */
/* I. The model                                                                                   */
/* ============================================================================================== */

/* ---- Element types ---- */

/* The bits of each type, where a normal number is (-1)^sign 2^(exponent - bias) 1.fraction:
 *
 *              sign   exponent   fraction   bias
 *   float32    1      8          23         127
 *   float16    1      5          10         15     from 6e-8 to 65504
 *   bfloat16   1      8          7          127    the upper half of a float32
 *
 * If all exponent bits are 0, the number is (-1)^sign 2^(1 - bias) 0.fraction. If all are 1, it is
 * infinite or NaN. Every float16 and bfloat16 number is also a float32 number, so widening is
 * exact. */

typedef enum { F32, F16, BF16, DTYPES } dtype;
static const size_t dtype_bytes[DTYPES] = {4, 2, 2};

/* Returns the float16 number h as float32. The multiplication corrects the bias of the exponent and
 * is exact, for subnormal numbers too. */
static inline float half_to_float(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float f;
    memcpy(&f, &bits, 4);
    f *= 0x1p112f; /* 2^(127 - 15): the difference of the biases */
    memcpy(&bits, &f, 4);
    if ((h & 0x7c00) == 0x7c00) bits |= 0x7f800000; /* inf, nan */
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &bits, 4);
    return f;
}

/* Returns element i of a stored row as float32, exactly. The row need not be aligned. */
static inline float element(int type, const unsigned char *row, size_t i) {
    uint16_t half;
    uint32_t bits;
    float f;
    if (type == F32) {
        memcpy(&f, row + 4 * i, 4);
        return f;
    }
    memcpy(&half, row + 2 * i, 2);
    if (type == F16) return half_to_float(half);
    bits = (uint32_t)half << 16; /* bfloat16 is the upper half of a float */
    memcpy(&f, &bits, 4);
    return f;
}

/* ---- The equations ---- */

/* For the token at position t of a sequence (paper, section 2.2):
 *
 *   x    = tok_embeddings[token]
 *   in each layer:
 *     h  = rmsnorm(x) * attention_norm
 *     q, k, v = wq h, wk h, wv h            then RoPE rotates q and k by angles that grow with t
 *     h  = for each head: softmax(q . keys / sqrt(head_dim)) values     over positions 0..t
 *     x += wo h
 *     h  = rmsnorm(x) * ffn_norm
 *     x += w2 (silu(w1 h) * w3 h)
 *   logits = output (rmsnorm(x) * norm)
 *
 * Letters in comments: n is the number of tokens evaluated together, D is dim, Q q_dim (which is dim
 * in most models), H hidden, V vocab_size, K kv_dim. A row of an activation buffer of width W takes
 * padded(W) floats. The floats after the first W are zero if a kernel reads them (clear_padding). */

/* ---- The structs ---- */

static const char *const dtype_names[DTYPES] = {"float32", "float16", "bfloat16"};

/* How a model-parallel checkpoint divides a tensor over its shards. WHOLE: it is not divided. */
typedef enum { WHOLE, BY_ROWS, BY_COLUMNS } division;

typedef struct {                      /* a matrix [rows][cols], row-major, in the mapped files */
    const unsigned char *const *part; /* [parts] the first byte of each shard's part */
    size_t rows, cols, parts;         /* of the complete matrix; a vector has one row */
    unsigned char type, split;        /* dtype, division */
    bool sorted;                      /* Hugging Face's order of rows in wq and wk: see pair_up */
    short layer;                      /* -1: outside the layers */
    bool local;  /* several machines: each needs only its own part of the output */
    size_t unit; /* rows that one machine computes together: in wq, wk and wv those of a kv_head */
    struct row_block *blocks; /* of its rows, if it is streamed: part VI; NULL: it is mapped */
    const char *name;         /* Meta's, without the layer: "attention.wq" */
} weight;

typedef struct {
    weight attention_norm; /* [D] */
    weight wq;             /* [Q][D] */
    weight wk, wv;         /* [K][D] */
    weight wo;             /* [D][Q] */
    weight ffn_norm;       /* [D] */
    weight w1, w3;         /* [H][D] */
    weight w2;             /* [D][H] */
} layer;

/* How the angles of RoPE are scaled, for a context longer than that of the training: see
 * scaled_frequency. */
typedef enum { UNSCALED, LINEAR, LLAMA3, DIVISORS, SCALINGS } scaling_kind;
typedef struct {
    scaling_kind kind;
    float factor;    /* of LINEAR and LLAMA3; 0: not known yet */
    float low, high; /* LLAMA3: numbers of turns, between which the scale changes gradually */
    float original;  /* LLAMA3: context of the first training, in which turns are counted */
} rope_scaling;
static const char *const scaling_names[SCALINGS] = {"none", "linear", "llama3", "divisors"};

enum { MAX_ENDS = 64 }; /* ids of end-of-text in the files of a model */

struct llama {
    size_t dim, n_layers, n_heads, n_kv_heads, vocab_size; /* named as in params.json */
    size_t head_dim, hidden;    /* width of a head, dim / n_heads in most models; rows of w1 */
    size_t q_dim, kv_dim;       /* head_dim * n_heads, head_dim * n_kv_heads */
    size_t context;             /* positions that the model was trained for */
    size_t window;              /* positions that may be attended to; 0: no limit is named */
    float norm_eps, rope_theta; /* rounded to float32, as in Meta's code */
    rope_scaling scaling;       /* of the angles of RoPE */
    weight tok_embeddings;      /* [V][D] */
    weight norm;                /* [D] */
    weight output;              /* [V][D] */
    layer *layers;              /* [n_layers] */
    float *freqs;               /* [head_dim/2] radians per position */
    float *divisors;            /* [head_dim/2] of freqs, as GGUF gives them; NULL: none */
    llamac_vocab *vocab;        /* NULL: no tokenizer */
    int32_t ends[MAX_ENDS];     /* [n_ends] ids of end-of-text, the vocabulary's apart */
    size_t n_ends;
    llamac_mapping *files; /* [n_shards] the files of weights */
    const char **paths;    /* [n_shards] */
    size_t n_shards;       /* number of files of weights */
    int lost;    /* 1 + the index of a file that was truncated while mapped; 0: no such file */
    size_t page; /* bytes of a page of memory */
    uint64_t parameters, file_bytes; /* elements of all weights; bytes of their files */
    uint64_t token_bytes;            /* bytes of the matrices that one token is multiplied with */
    const char *type_name;           /* "float16", or "mixed" */
    int format;                      /* see part VI */
    int memory;                      /* LLAMA_MEMORY_MAP, _LOCK or _STREAM */
    uint64_t memory_limit;           /* bytes for weights and sessions; 0: not known */
    size_t rank, ranks;              /* the rows that are prefetched, locked or streamed */
    struct weight_stream *stream; /* of weights that do not fit in memory; NULL: all are mapped */
    llamac_arena arena;           /* owns what the pointers above point to, and this struct */
};

typedef struct sequence { /* a text with its KV cache */
    float *k, *v;         /* [n_layers][own kv_heads][context][head_dim] */
    int32_t *tokens;      /* [context] */
    float *logits;        /* [V] of the last token */
    size_t length;        /* number of positions filled */
    size_t given;         /* the length after the current call, without its guesses */
    size_t wanted; /* the current call needs the logits before this position, and all later ones */
    uint64_t call; /* number of the last call that evaluated this sequence */
    bool have_logits; /* false: the sequence is empty or was rewound */
    /* all_logits: the sequence's first row, the position of that row, the number of its rows */
    size_t row, row_position, rows;
    /* tokens after `length` that are evaluated guesses, and the logits after each: accept_guess */
    size_t n_guesses;
    const float *guess_logits; /* [guesses][V] */
    /* The sequence with which this one begins: the current call evaluates its tokens before position
     * `shared` once, for all sequences that follow it. See follow */
    const struct sequence *leader;
    size_t shared; /* of a leader; else 0 */
    /* where each three tokens in a row occur in `tokens`, by the position of the last of the three */
    size_t indexed;   /* positions below are in the index */
    uint32_t *newest; /* [2^index_bits] the last position with this hash, or UNINDEXED */
    uint32_t *before; /* [context] the position before it with the same hash, or UNINDEXED */
} sequence;

typedef struct {    /* buffers of one thread */
    float *panel;   /* [TILED * PANEL_COLUMNS] widened weights, or their parts for AMX */
    float *acc;     /* [GROUP][rows][PANEL_ROWS * LANES] lanes of unfinished sums */
    float *scores;  /* [ATTENDED][context] scores, then probabilities, of one head */
    float *queries; /* [ATTENDED][head_dim] of one head, packed */
} workspace;

typedef struct kernels kernels;
typedef struct task task;
typedef void job(const task *, int thread, size_t begin, size_t end);

/* The threads that help the host's thread, and what they are doing: see parallel, in part II. */
typedef struct {
    struct helper *helpers; /* [threads - 1] */
    int process;            /* that started them: a child of fork has none */
    uint64_t spin;          /* nanoseconds that a thread waits before it sleeps */
    const task *task;       /* the current task: run is called for each of its chunks */
    job *run;
    size_t items, chunk, chunks; /* chunk: items of a chunk; chunks: their number */
    atomic_size_t left, done;    /* chunks that no thread has taken; that are complete */
    atomic_bool stop;            /* the helpers end */
    llamac_bell work, finished;  /* the helpers sleep at `work`, the host's thread at `finished` */
} pool;

/* What passes of about n rows have taken: see paced_forward. */
typedef struct {
    double alone, team; /* nanoseconds per row; 0: not known */
    double since;       /* nanoseconds of passes since the slower of the two was tried */
} pace;

enum {
    LOOKUPS = 4,     /* sources of guesses: matches of 3, of 4 to 7, of 8 to 15, of more tokens, */
    DRAFT = LOOKUPS, /* and the draft model */
    SOURCES,
    MAX_GUESSES = 32,                            /* maximum number of guesses in a pass */
    MAX_CONCURRENT = 64,                         /* maximum number of texts in a pass */
    MAX_TEXT_ROWS = MAX_CONCURRENT + MAX_GUESSES /* of a pass that has no prompt */
};

enum { SINGLY, LOOKED_UP, DRAFTED, WAYS }; /* to make a pass: see part IX */

/* What llama_generate uses to guess tokens, and what it has learnt about guesses: part IX. The
 * session of a draft model has only its own times of passes. */
typedef struct {
    bool lookup;                         /* guesses are looked up in the texts */
    int index_bits;                      /* of a hash in the index of a sequence */
    llama_session *drafter;              /* of the draft model, in this session's memory; or NULL */
    unsigned tried[SOURCES];             /* recent guesses compared with the token drawn */
    unsigned right[SOURCES];             /* those of them that were equal to it */
    double pass_time[MAX_TEXT_ROWS + 1]; /* [rows] of a pass, in ns; 0: not known */
    size_t timed, max_rows;              /* passes that were timed; the most rows of one */
    double idle[WAYS], patience[WAYS];   /* ns of passes since it was used; how rare trials are */
} guessing;

struct llama_session {
    const llama *model;         /* shared, never written */
    const kernels *kernels;     /* of one instruction set */
    llama_allocator allocator;  /* for this struct, and for llama_load's temporary copy */
    uint64_t bytes;             /* size of the complete allocation, including this struct */
    llama_progress_fn progress; /* NULL: no progress is reported */
    void *progress_user;
    llama_trace_fn trace; /* NULL: no activations are reported */
    void *trace_user;
    float *traced_scores, *traced_probs; /* [heads][rows][traced_positions]; of llama_trace */
    size_t traced_positions;
    /* number of sequences; positions of each; maximum number of tokens evaluated together */
    size_t n_sequences, context, batch;
    size_t rank, ranks; /* of several machines: this one, their number; else 0 and 1 */
    llama_gather_fn gather;
    void *gather_user;
    float *gather_buffer; /* [gather_floats] pieces of a result, one after the other: see gather */
    size_t gather_floats, *offsets; /* [ranks + 1] where in it the pieces begin */
    int threads, team;              /* number of threads: of the session; of the current pass */
    pool *pool, own_pool; /* the threads but the host's: a draft's session uses its owner's */
    pace paces[21];       /* [floor(log2 n)] of passes of n rows */
    sequence *sequences;  /* [n_sequences] */
    /* buffers of one batch, which has one row per token */
    sequence **row_seq; /* [batch] the sequence of each row's token */
    size_t *row_pos;    /* [batch] the position of the token in that sequence */
    int32_t *row_token; /* [batch] the token */
    /* [batch][D] the residual stream; the input of a block; what a block adds to the residual
     * stream */
    float *x, *h, *block_out;
    float *q, *k, *v;      /* [batch][Q], [batch][K], [batch][K] */
    float *mixed;          /* [batch][Q] the output of attention; the same as h if Q is D */
    float *gate, *up;      /* [batch][H] */
    float *packed;         /* [batch][D, Q or H] the packed input of a matmul, times 1.5 for AMX */
    float *cos, *sin;      /* [batch][head_dim/2] of the angles of RoPE */
    workspace *workspaces; /* [threads] */
    float *last;           /* [n_logits][D] h of the tokens whose logits are needed */
    sequence **last_seq;   /* [n_logits] the sequence of each; NULL: a guess */
    float *logits;         /* [n_logits][V] */
    float *all_logits;     /* [n_sequences * context][V] of every token of the last call; or NULL */
    double *probs;         /* [V] probabilities, for the sampler */
    int32_t *ids;          /* [V] token ids, for the sampler's heap */
    unsigned char *seen;   /* [V] 1: the sampler has penalised this token */
    size_t n_logits;       /* rows of logits: n_sequences, and MAX_GUESSES more */
    guessing guess;        /* what follows a text: llama_generate */
    const char *what;      /* the work that is reported to the progress function */
    uint64_t calls;        /* number of evaluating calls so far: llama_eval, llama_score ... */
    uint64_t done, total;  /* in layers * tokens: before this batch; of this call */
    uint64_t counted;      /* bytes that the model\'s stream counts for this session */
    uint64_t report_time;  /* of the last report while weights were streamed */
    uint64_t reported;     /* of `total`: what the progress function was given last */
    int stopped;           /* LLAMA_ECANCEL: the host cancelled this call; LLAMA_EIO: weights
                               * could not be read; else LLAMA_OK */
    struct weight_stream *stream; /* the model's, during a call that evaluates; else NULL */
    bool borrows;                 /* another session, whose function made this call, has lent it */
    bool all_rows;                /* this call needs h of all tokens: a trace, all_logits */
    bool keep_logits;             /* the session has all_logits */
    bool busy;                    /* a call is at work that may call functions of the host */
    llama_error error;            /* of the last call; its text is "" if that call succeeded */
    char kernels_text[2][48];     /* "avx512, 1 thread", "avx512, 2 threads": alone, with a team */
};

enum {
    BLOCK = 16,          /* columns of a block: rows of matrices are padded with zeros to blocks */
    LANES = 4,           /* lanes of a sum: part III */
    FEW = 12,            /* rows of x that one register tile may hold */
    TILE_TOKENS = 6,     /* the same, of each tile after the first */
    PANEL_COLUMNS = 512, /* maximum number of columns of a panel of weights */
    PANEL_ROWS = 16,     /* rows of a panel, except for AMX */
    GROUP = 4,           /* panels of a group: see matmul_blocked */
    TILED = 32,          /* rows of x, and rows and columns of w, of one step of AMX */
    ATTENDED = 48,       /* maximum number of rows whose attention is computed together */
    SCORED = 8,          /* maximum number of scored tokens whose logits are computed together */
    MAX_LAYERS = 1024,   /* limits for the numbers in a file: layers, */
    MAX_WIDTH = 1 << 20, /* dim, heads, rows of w1, */
    MAX_VOCAB = 1 << 20, /* tokens, */
    MAX_CONTEXT = 1 << 20,   /* positions (sincos_double is accurate up to twice that), */
    MAX_FILES = 1000,        /* files of weights */
    RANK_NUMBERS = 4,        /* floats that a rank gives of itself: see compare_ranks */
    MAX_EXCHANGED = 1 << 24, /* floats: of one call of the host's gather function */
    DEFAULT_CONTEXT = 2048   /* if a file does not say, as in Meta's checkpoints */
};

/* Returns the stride of an activation buffer: floats from one row to the next. The padding after
 * the last full block has two uses. Kernels may read a full block from the start of any head. And
 * rows of a power of two floats do not all fall into the same cache sets. */
static size_t padded(size_t width) { return (width + BLOCK - 1) / BLOCK * BLOCK + BLOCK; }

/* ---- The forward pass ---- */

/* The operations, for n rows. E are the embeddings, w is a weight, K and V are the cached keys and
 * values of layer l, d is head_dim.
 *
 *   embed        x = E[token]
 *   rmsnorm      y = x / rms(x) * w
 *   matmul       y = w x
 *   rope         q = q rotated by angles that grow with its position
 *   store_kv     K[position], V[position] = k, v
 *   attention    y = softmax(q K^T / sqrt(d)) V
 *   swiglu       a = silu(a) * b
 *   add          x = x + y
 *   stopped      asks the host whether to stop; so does a weight that cannot be read
 *   select_rows  drops the rows whose logits are not needed
 *
 * `name`, and the layer l of rope, swiglu and add, are what a trace calls the result.
 *
 * Several machines divide the rows of every matrix, and with them the heads and the columns of a.
 * matmul, attention and swiglu then compute a part of y or a, and gather the others' parts where the
 * next operation needs them: four times in a layer.
 */
static void embed(llama_session *, float *x, size_t n);
static void rmsnorm(llama_session *, float *y, const float *x, const weight *w, size_t n);
static void matmul(llama_session *, float *y, const weight *w, const float *x, size_t n);
static void rope(llama_session *, const char *name, float *q, size_t heads, size_t l, size_t n);
static void store_kv(llama_session *, size_t l, const float *k, const float *v, size_t n);
static void attention(llama_session *, float *y, const float *q, size_t l, size_t n);
static void swiglu(llama_session *, float *a, const float *b, size_t l, size_t n);
static void add(llama_session *, const char *name, float *x, const float *y, size_t l, size_t n);
static bool stopped(llama_session *, size_t l, size_t n);
static size_t select_rows(llama_session *, size_t n);

/* Runs n tokens through all layers together. Each token has its own sequence and position. A prompt
 * and a generated token differ only in n. Afterwards h holds the normed final activations of the
 * tokens whose logits are needed. Returns the number of these tokens. */
static size_t forward(llama_session *s, size_t n) {
    const llama *m = s->model;
    embed(s, s->x, n); /* x [n][D] */
    for (size_t l = 0; l < m->n_layers && !stopped(s, l, n); l++) {
        const layer *w = &m->layers[l];

        rmsnorm(s, s->h, s->x, &w->attention_norm, n);      /* h [n][D] */
        matmul(s, s->q, &w->wq, s->h, n);                   /* q [n][Q] */
        matmul(s, s->k, &w->wk, s->h, n);                   /* k [n][K] */
        matmul(s, s->v, &w->wv, s->h, n);                   /* v [n][K] */
        rope(s, "attention.xq", s->q, m->n_heads, l, n);    /* q [n][Q] */
        rope(s, "attention.xk", s->k, m->n_kv_heads, l, n); /* k [n][K] */
        store_kv(s, l, s->k, s->v, n);                      /* into the KV cache */
        if (l + 1 == m->n_layers) n = select_rows(s, n);    /* only their logits are needed */
        if (n == 0) return 0;
        attention(s, s->mixed, s->q, l, n);           /* mixed [n][Q], all heads side by side */
        matmul(s, s->block_out, &w->wo, s->mixed, n); /* block_out [n][D] */
        add(s, "h", s->x, s->block_out, l, n);        /* x [n][D], the residual stream */

        rmsnorm(s, s->h, s->x, &w->ffn_norm, n);     /* h [n][D] */
        matmul(s, s->gate, &w->w1, s->h, n);         /* gate [n][H] */
        matmul(s, s->up, &w->w3, s->h, n);           /* up [n][H] */
        swiglu(s, s->gate, s->up, l, n);             /* gate = silu(gate) * up */
        matmul(s, s->block_out, &w->w2, s->gate, n); /* block_out [n][D] */
        add(s, "", s->x, s->block_out, l, n);
    }
    rmsnorm(s, s->h, s->x, &m->norm, n); /* h [n][D]: output() computes logits from it */
    return n;
}

/* ============================================================================================== */
/* II. The operations                                                                             */
/* ============================================================================================== */

/* Guarantee: each output element is computed by one thread. The order of its arithmetic does not
 * depend on n, on the number of threads, on the shards or on the machines. This part has the equation of each
 * operation and divides the work over threads; the inner loops are kernels (part III). Each
 * operation writes its activations once, and the next operation reads them. */

/* Rows of a matrix, as the kernels see them. If shards divide the matrix by columns, a row consists
 * of one segment per shard. A sum runs through the segments from left to right, as if the row were
 * contiguous. If there are several segments, each has full blocks only: see bind_weight. */
typedef struct {
    const unsigned char *const *part; /* [parts] the address of row 0 of each segment */
    size_t parts, cols, stride;       /* segments; columns of one; bytes from row to row in it */
    int type;                         /* dtype */
} weight_rows;

/* What few() prefetches of the weights. The results are the same. */
enum {
    PREFETCH_NOTHING, /* the rows of a tile are far apart, as streams that the processor detects */
    PREFETCH_TILE,    /* the next tile; the rows of a tile are adjacent, all tiles one stream */
    PREFETCH_ROWS     /* each row of the tile, further on; the rows are far apart */
};

/* The arguments of y[t][r] = sum_k w[r][k] x[t][k] for t < n. */
typedef struct {
    weight_rows w;
    const float *x; /* [n][cols of all segments], packed if n > 1 */
    float *y;
    size_t ldy, n; /* stride of y in floats; rows of x */
    int prefetch;  /* what few() prefetches: PREFETCH_... */
    const workspace *workspace;
} matmul_args;

/* The arguments of attention for one head and `rows` tokens at consecutive positions of a sequence.
 * The first token attends to n positions, each later one to one position more. */
typedef struct {
    float *y;                       /* [rows][ld] */
    const float *q, *keys, *values; /* [rows][ld], [position][head_dim], [position][head_dim] */
    size_t rows, n, head_dim, ld;   /* ld: stride of y and q in floats */
    const workspace *workspace;
    /* a trace: where the first row's scores and probabilities go, [rows][traced_positions]; else
     * NULL */
    float *scores, *probs;
    size_t traced_positions;
} attention_args;

/* The kernels of one instruction set. All sets compute the same bits, except AMX. */
struct kernels {
    const char *name;     /* "avx512" */
    size_t prefetch_from; /* from this many rows of x on, few() prefetches weights */
    int prefetch;         /* which: PREFETCH_... */
    void (*matmul)(const matmul_args *, size_t begin, size_t end); /* rows begin <= r < end of w */
    void (*rmsnorm)(float *y, const float *x, const weight *w, float eps);       /* one row */
    void (*rope)(float *v, const float *cos, const float *sin, size_t head_dim); /* one head */
    void (*attend)(const attention_args *);
    void (*swiglu)(float *a, const float *b, size_t n); /* one row */
    void (*pack)(float *to, const float *x, size_t ldx, size_t n,
                 size_t cols); /* into AMX's tiles; NULL in other sets */
};

/* Packs n rows of x into s->packed, in the order in which the kernels read them: part III. */
static void pack_input(llama_session *, const weight *, const float *x, size_t n);

/* ---- Threads ---- */

/* The work of one operation: y from x and w, for n rows, in layer l. A job does items `begin` to
 * `end` - 1. Each operation defines its items, for example rows of w. */
struct task {
    llama_session *s;
    const weight *w;
    float *y;
    const float *x;
    size_t n, l;
    size_t first; /* of a matmul: the row of w that is item 0 */
};

struct helper { /* a thread of a session's pool */
    pool *pool;
    int number; /* from 1 on; the host's thread is 0 */
    llamac_thread thread;
};

/* Takes a chunk of the current task and does it. Returns false if no chunk is left. The task is
 * read after the chunk is taken: from then on it cannot end before this chunk is done, so nothing
 * of it changes. */
static bool do_chunk(pool *p, int thread) {
    size_t left = atomic_load(&p->left);
    do
        if (left == 0) return false;
    while (!atomic_compare_exchange_weak(&p->left, &left, left - 1));
    size_t chunks = p->chunks, begin = (chunks - left) * p->chunk, end = begin + p->chunk;
    p->run(p->task, thread, begin, end < p->items ? end : p->items);
    if (atomic_fetch_add(&p->done, 1) + 1 == chunks) llamac_ring(&p->finished);
    return true;
}

/* What threads wait for: a helper for work or the end, the host's thread for the last chunk. */
static bool has_work(void *p) { return ((pool *)p)->left || ((pool *)p)->stop; }
static bool is_finished(void *p) { return ((pool *)p)->done == ((pool *)p)->chunks; }

/* Waits: first p->spin nanoseconds without sleeping. Waking a thread takes the system up to some
 * hundred microseconds, more if it has to wake a core too, and most waits are shorter: the next
 * task comes at once, and the threads of a task end at about the same time. */
static void await(pool *p, bool (*until)(void *), llamac_bell *bell) {
    enum {
        LOOKS = 64,    /* at the condition, for each look at the clock */
        MOST = 1 << 20 /* in case the clock does not run */
    };
    uint64_t begin = llamac_nanoseconds();
    for (int i = 1; i < MOST && (i % LOOKS || llamac_nanoseconds() - begin < p->spin); i++) {
        if (until(p)) return;
        llamac_pause();
    }
    llamac_sleep(bell, until, p);
}

/* What a helper does, from llama_session_new to llama_session_free. */
static void *help(void *h) {
    pool *p = ((struct helper *)h)->pool;
    llamac_fp_enter(); /* the default floating-point mode, not that of the thread that started it */
    while (!p->stop)
        if (!do_chunk(p, ((struct helper *)h)->number)) await(p, has_work, &p->work);
    return NULL;
}

/* Does all items of a task, in chunks of a multiple of `unit` items. `work` is the cost of the task
 * in multiply-adds and decides how it is divided:
 *
 *   below 2^14    this thread does everything: handing over would cost more
 *   below 2^18    the same, if the helpers sleep: waking them would cost more
 *   below 2^22    there is one chunk per thread
 *   otherwise     there are 8 chunks per thread, and each thread takes the next chunk when it has
 *                 finished one; so a slow core does less of the work
 *
 * The task is complete when its chunks are. A helper that took no chunk, as its core was busy with
 * other programs, is not waited for. */
static void parallel(const task *t, job *run, size_t items, size_t unit, size_t work) {
    enum {
        MIN_TEAM_WORK = 1 << 14,
        MIN_WAKE_WORK = 1 << 18,
        MIN_SHARED_WORK = 1 << 22,
        SHARES = 8
    };
    pool *p = t->s->pool;
    size_t parts = (size_t)t->s->team * (work < MIN_SHARED_WORK ? 1 : SHARES);
    size_t chunk = ((items + parts - 1) / parts + unit - 1) / unit * unit;
    if (t->s->team == 1 || items <= chunk || work < MIN_TEAM_WORK ||
        (work < MIN_WAKE_WORK && p->work.asleep)) {
        run(t, 0, 0, items);
        return;
    }
    p->task = t, p->run = run, p->items = items, p->chunk = chunk;
    p->chunks = (items + chunk - 1) / chunk; /* NOLINT: chunk > 0, as items > 0 */
#ifdef LLAMA_OPENMP
    p->left = p->chunks;
#pragma omp parallel num_threads(t->s->team)
    {
        uint64_t mode = llamac_fp_enter(); /* each thread has its own mode */
        while (do_chunk(p, omp_get_thread_num())) continue;
        llamac_fp_leave(mode);
    }
#else
    p->done = 0;
    p->left = p->chunks; /* from here on, helpers work */
    llamac_ring(&p->work);
    while (do_chunk(p, 0)) continue;
    await(p, is_finished, &p->finished);
#endif
}

/* Starts the helpers of a session. If the system does not give that many threads, the session has
 * fewer. */
static void start_helpers(llama_session *s) {
    pool *p = s->pool;
    enum { SPIN = 1000000 }; /* nanoseconds: see await */
    p->process = llamac_process();
    p->spin = s->threads <= llamac_cores() ? SPIN : 0; /* else a thread that waits is in the way */
#ifdef LLAMA_OPENMP
    (void)help, (void)is_finished; /* OpenMP starts its threads when they are needed */
#else
    int started = 0;
    llamac_make_bell(&p->work);
    llamac_make_bell(&p->finished);
    for (struct helper *h = p->helpers; started < s->threads - 1; started++, h++) {
        *h = (struct helper){.pool = p, .number = started + 1};
        if (!llamac_start_thread(&h->thread, help, h)) break;
    }
    s->threads = started + 1;
#endif
}

/* Ends the helpers. A child of fork has none: fork copies only the thread that calls it. */
static void stop_helpers(llama_session *s) {
    pool *p = s->pool;
    if (p->process != llamac_process()) return;
#ifndef LLAMA_OPENMP
    p->stop = true;
    llamac_ring(&p->work);
    for (int i = 0; i < s->threads - 1; i++) llamac_join_thread(p->helpers[i].thread);
#endif
}

/* Returns how many threads a session may use: in a child of fork, only the caller's own. OpenMP
 * keeps its threads for each thread of the host, and waits forever in a child for those that it had
 * in the parent; so each thread of the host remembers its process. That is the library's only
 * variable outside models and sessions. */
static int usable_threads(const llama_session *s) {
#ifdef LLAMA_OPENMP
    static __thread int process; /* 0: this thread has not asked yet */
    if (!process) process = llamac_process();
    return process == llamac_process() ? s->threads : 1;
#else
    return s->pool->process == llamac_process() ? s->threads : 1;
#endif
}

/* Runs forward() with all threads, or with one if that takes less time: because the model is small,
 * or because other programs keep the cores busy. Both ways are measured, for each power of two of
 * n. The way that was slower is tried again whenever that costs about 1% of the time since. The first
 * trial of one thread comes sooner if the host's thread has to wait for a core, or for helpers that
 * wait for one: once it has lost as much time as the trial may cost. */
static size_t paced_forward(llama_session *s, size_t n) {
    enum { RARELY = 100, MOST = 4 };
    pace *p = s->paces;
    for (size_t k = n; k > 1; k /= 2) p++;
    int threads = usable_threads(s);
    bool alone = threads == 1 || (p->alone > 0 && p->alone < p->team);
    double better = alone ? p->alone : p->team, other = alone ? p->team : p->alone;
    double price = other > 0 ? other - better : better * (threads - 1); /* of a trial, per row */
    bool trial = threads > 1 && p->since > RARELY * (double)n * (price + better / 16) && better > 0;
    alone ^= trial;
    s->team = alone ? 1 : threads;
    /* One thread was not tried yet, and the host's thread waits for no disk and no other machine. */
    bool first = threads > 1 && !alone && p->alone <= 0 && !s->stream && s->ranks == 1;
    uint64_t ran = first ? llamac_running_time() : 0, begin = llamac_nanoseconds();
    size_t wanted = forward(s, n);
    double taken = (double)(llamac_nanoseconds() - begin), *mean = alone ? &p->alone : &p->team;
    double lost = first ? taken - (double)(llamac_running_time() - ran) : 0;
    /* A trial is rare, so it counts more. One interruption does not decide. The first pass does not
     * count once there is another: it may have waited for the disk. */
    double row = taken / (double)n, part = trial ? 0.5 : p->since > 0 ? 0.125 : 1;
    if (*mean > 0 && row > MOST * *mean) row = MOST * *mean;
    *mean = *mean > 0 ? *mean + (row - *mean) * part : row;
    if (trial) p->since = taken;
    else if (better > 0) p->since += taken + (lost > 0 ? RARELY * lost : 0);
    return wanted;
}

/* Writes Meta's name of a weight without ".weight", or of another result of layer l, to out:
 * "layers.3.attention.wq". What has no name of its own is the result of the layer: "layers.3". */
static void full_name(char out[64], int l, const char *name) {
    if (l < 0) snprintf(out, 64, "%s", name);
    else snprintf(out, 64, "layers.%d%s%s", l, *name ? "." : "", name);
}

/* For weights that are streamed from the files (part VI). await_rows waits for row r of w and returns
 * how many rows from there on are in memory; 0 if the call is to stop. find_rows sets *rows to the
 * matrix in memory that has row r, and *end to the row of w after its last; returns the row of w that
 * is its row 0. release_rows lets the memory of rows that were awaited be used again. While a function
 * of the host runs, the stream is lent: calls that this function makes may use it. */
static size_t await_rows(llama_session *, const weight *w, size_t r);
static size_t find_rows(const llama_session *, const weight *w, size_t r, weight_rows *rows,
                        size_t *end);
static void release_rows(llama_session *);
static void lend_stream(llama_session *, bool lent);

/* Passes x, [rows][width] without padding, to the host's trace function. */
static void report_trace(llama_session *s, int l, const char *name, const float *x, size_t rows,
                         size_t width) {
    char full[64];
    full_name(full, l, name);
    lend_stream(s, true);
    s->trace(s->trace_user, full, x, rows, width);
    lend_stream(s, false);
}

/* Passes a result x of layer l, n rows of an activation buffer, to the host's trace function, if there
 * is one. The rows are moved together to a stride of `width` for the call, then back, and their padding
 * is set to zero again. So a trace changes no bit of the results. */
static void trace(llama_session *s, int l, const char *name, float *x, size_t n, size_t width) {
    if (!s->trace || s->stopped) return;
    size_t ld = padded(width);
    /* NOLINTNEXTLINE: a session has all its buffers */
    for (size_t t = 1; t < n; t++) memmove(x + t * width, x + t * ld, width * sizeof *x);
    report_trace(s, l, name, x, n, width);
    for (size_t t = n; t-- > 0;) {
        /* NOLINTNEXTLINE: a session has all its buffers */
        memmove(x + t * ld, x + t * width, width * sizeof *x);
        memset(x + t * ld + width, 0, (ld - width) * sizeof *x);
    }
}

/* ---- Several machines ---- */

/* Each machine (rank) computes some rows of every matrix, with whole heads in wq, wk and wv, so that
 * it also has the KV cache of these heads and computes their attention. A sum is never divided. So the
 * bits are those of one machine. */
typedef struct {
    size_t begin, end;
} range;

/* Returns the part of `items` items that a rank has. Parts differ by one item at most. */
static range part_of(size_t items, size_t rank, size_t ranks) {
    /* NOLINTNEXTLINE: there is 1 rank or more */
    return (range){items * rank / ranks, items * (rank + 1) / ranks};
}

/* Returns the rows of w that a rank computes. */
static range rows_of(const weight *w, size_t rank, size_t ranks) {
    range units = part_of(w->rows / w->unit, rank, ranks);
    return (range){units.begin * w->unit, units.end * w->unit};
}

/* Returns the kv_heads that this session computes. */
static range own_heads(const llama_session *s) {
    return part_of(s->model->n_kv_heads, s->rank, s->ranks);
}

/* Gives every rank the complete x: rank r has filled x[offsets[r]] to x[offsets[r + 1]], and gets the
 * others' parts from the host's function. If that fails, the call is to stop. */
static void exchange(llama_session *s, float *x) {
    if (s->stopped) return;
    lend_stream(s, true);
    int failed = s->gather(s->gather_user, x, s->offsets, (int)s->rank, (int)s->ranks);
    lend_stream(s, false);
    if (failed)
        s->stopped = llamac_fail(&s->error, LLAMA_EIO,
                                 "rank %zu of %zu: the host's gather function failed: %d", s->rank,
                                 s->ranks, failed);
}

/* Copies the columns of rank r, of some rows of y with stride ld, to its piece of x; or back. */
static void copy_piece(const llama_session *s, float *y, float *x, size_t r, size_t rows, size_t ld,
                       bool back) {
    size_t count = (s->offsets[r + 1] - s->offsets[r]) / rows;
    float *piece = x + s->offsets[r], *columns = y + s->offsets[r] / rows;
    for (size_t i = 0; i < rows; i++, piece += count, columns += ld)
        /* NOLINTNEXTLINE: a session has all its buffers */
        memcpy(back ? columns : piece, back ? piece : columns, count * sizeof *y);
}

/* Gives every rank all columns of y, n rows of `width` columns. Each rank has computed some of them,
 * in multiples of `unit`. A rank's columns of several rows are moved together, for as many rows at a
 * time as there is room. */
static void gather(llama_session *s, float *y, size_t width, size_t unit, size_t n) {
    if (s->ranks == 1) return;
    size_t ld = padded(width), max_rows = s->gather_floats / width;
    for (size_t t = 0, rows; t < n && !s->stopped; t += rows, y += rows * ld) {
        rows = n - t < max_rows ? n - t : max_rows;
        for (size_t r = 0; r <= s->ranks; r++)
            s->offsets[r] = part_of(width / unit, r, s->ranks).begin * unit * rows;
        float *x = rows == 1 ? y : s->gather_buffer; /* the pieces of one row are in their places */
        if (x != y) copy_piece(s, y, x, s->rank, rows, ld, false);
        exchange(s, x);
        for (size_t r = 0; r < s->ranks && x != y; r++)
            if (r != s->rank) copy_piece(s, y, x, r, rows, ld, true);
    }
}

/* ---- The operations themselves ---- */

/* Returns the number of columns of w that are contiguous in a row: the columns of one segment. */
static size_t across(const weight *w) { return w->split == BY_ROWS ? w->cols : w->cols / w->parts; }

/* Returns the number of rows of w in one shard. */
static size_t part_rows(const weight *w) {
    return w->split == BY_ROWS ? w->rows / w->parts : w->rows;
}

/* x[t] = tok_embeddings[token of row t]. If the table is sharded, each shard has some columns or, as in
 * Llama 3, some rows. */
static void embed(llama_session *s, float *x, size_t n) {
    const weight *e = &s->model->tok_embeddings;
    size_t cols = across(e), rows = part_rows(e), stride = cols * dtype_bytes[e->type];
    for (size_t t = 0; t < n; t++)
        for (size_t c = 0; c < e->cols; c += cols) {
            size_t token = (size_t)s->row_token[t], part = token / rows + c / cols;
            const unsigned char *row = e->part[part] + token % rows * stride;
            float *to = x + t * padded(e->cols) + c;
            for (size_t i = 0; i < cols; i++) to[i] = element(e->type, row, i);
        }
    trace(s, -1, e->name, x, n, e->cols);
}

/* y = x / sqrt(mean(x^2) + eps) * w      (Zhang & Sennrich 2019, arXiv:1910.07467) */
static void rmsnorm_job(const task *j, int thread, size_t begin, size_t end) {
    size_t ld = padded(j->w->cols);
    (void)thread;
    for (size_t t = begin; t < end; t++)
        j->s->kernels->rmsnorm(j->y + t * ld, j->x + t * ld, j->w, j->s->model->norm_eps);
}

/* Normalizes n rows. An item is one row. */
static void rmsnorm(llama_session *s, float *y, const float *x, const weight *w, size_t n) {
    parallel(&(task){s, w, y, x, n, 0, 0}, rmsnorm_job, n, 1, n * w->cols);
    trace(s, w->layer, w->name, y, n, w->cols);
}

/* y[t][r] = sum_k w[r][k] x[t][k] for some rows of w, of which an item is one. A matrix that shards
 * divide by rows, or that is streamed, is several matrices, one below the other: each takes one
 * call of the kernel. If shards divide it by columns, its rows consist of several segments. */
static void matmul_job(const task *j, int thread, size_t begin, size_t end) {
    const llama_session *s = j->s;
    for (size_t r = j->first + begin, stop; r < j->first + end; r = stop) {
        matmul_args args = {
            .x = j->x,
            .ldy = padded(j->w->rows),
            .n = j->n,
            .prefetch = j->n >= s->kernels->prefetch_from ? s->kernels->prefetch : PREFETCH_NOTHING,
            .workspace = &s->workspaces[thread],
        };
        size_t top =
            find_rows(s, j->w, r, &args.w, &stop); /* the row of w that is row 0 of args.w */
        if (stop > j->first + end) stop = j->first + end;
        args.y = j->y + top;
        s->kernels->matmul(&args, r - top, stop - top);
    }
}

/* Reorders the own columns of n outputs y of a sorted wq or wk. In each head, Hugging Face's row order has the
 * first elements of all pairs that RoPE rotates, then the second elements. Meta's order, which RoPE
 * here expects, has the two elements of each pair side by side. */
static void pair_up(llama_session *s, float *y, size_t width, range own, size_t n) {
    size_t head_dim = s->model->head_dim, half = head_dim / 2;
    float *head = s->workspaces->queries;
    for (size_t t = 0; t < n; t++, y += padded(width))
        for (size_t h = own.begin; h < own.end; h += head_dim) {
            /* NOLINTNEXTLINE: a session has all its buffers */
            memcpy(head, y + h, head_dim * sizeof *head);
            for (size_t j = 0; j < half; j++) {
                y[h + 2 * j] = head[j];
                y[h + 2 * j + 1] = head[j + half];
            }
        }
}

/* Multiplies n rows of x with w. An item is one row of w. If n > 1, the rows of x are packed first,
 * because each thread reads all of them, once per panel of w. If w is mapped, all its rows are there
 * at once; if it is streamed, they come in several parts. */
static void matmul(llama_session *s, float *y, const weight *w, const float *x, size_t n) {
    if (n > 1) {
        pack_input(s, w, x, n);
        x = s->packed;
    }
    range own = rows_of(w, s->rank, s->ranks);
    for (size_t r = own.begin, rows; r < own.end; r += rows) {
        if ((rows = await_rows(s, w, r)) == 0) return; /* s->stopped says why */
        if (rows > own.end - r) rows = own.end - r;
        parallel(&(task){s, w, y, x, n, 0, r}, matmul_job, rows, BLOCK, n * rows * w->cols);
        release_rows(s);
    }
    if (w->sorted) pair_up(s, y, w->rows, own, n);
    if (!w->local || s->trace) gather(s, y, w->rows, w->unit, n);
    trace(s, w->layer, w->name, y, n, w->rows);
}

/* RoPE (Su et al. 2021, arXiv:2104.09864), with Meta's pairs of elements: the pair (2j, 2j+1) of
 * each head is rotated by position * theta^(-2j/head_dim) radians. set_row has filled s->cos and
 * s->sin for the position of each row. */
static void rope(llama_session *s, const char *name, float *q, size_t heads, size_t l, size_t n) {
    size_t width = s->model->head_dim, half = width / 2, ld = padded(heads * width);
    range own = own_heads(s);
    size_t shared = heads / s->model->n_kv_heads; /* by how many heads a kv_head is used */
    for (size_t t = 0; t < n; t++)
        for (size_t h = own.begin * shared; h < own.end * shared; h++)
            s->kernels->rope(q + t * ld + h * width, s->cos + t * half, s->sin + t * half, width);
    if (s->trace) gather(s, q, heads * width, shared * width, n);
    trace(s, (int)l, name, q, n, heads * width);
}

/* Returns the keys or values [context][head_dim] of one of the own kv_heads of layer l. */
static float *cache(const llama_session *s, float *kv, size_t l, size_t head) {
    range own = own_heads(s);
    size_t i = l * (own.end - own.begin) + head - own.begin;
    return kv + i * s->context * s->model->head_dim;
}

/* K[l][head][position] = k, V[l][head][position] = v, in the KV cache of one sequence. */
static void store_row(llama_session *s, const sequence *q, size_t l, size_t position,
                      const float *k, const float *v) {
    size_t width = s->model->head_dim, to = position * width;
    range own = own_heads(s);
    for (size_t i = own.begin; i < own.end; i++) {
        memcpy(cache(s, q->k, l, i) + to, k + i * width, width * sizeof *k);
        memcpy(cache(s, q->v, l, i) + to, v + i * width, width * sizeof *v);
    }
}

/* Stores the keys and values of n rows for their own sequences and for those that follow these. The
 * KV cache is in float32. */
static void store_kv(llama_session *s, size_t l, const float *k, const float *v, size_t n) {
    size_t ld = padded(s->model->kv_dim);
    for (size_t t = 0; t < n; t++) {
        const sequence *own = s->row_seq[t];
        store_row(s, own, l, s->row_pos[t], k + t * ld, v + t * ld);
        if (s->row_pos[t] >= own->shared) continue;
        for (size_t i = 0; i < s->n_sequences; i++)
            if (s->sequences[i].leader == own)
                store_row(s, &s->sequences[i], l, s->row_pos[t], k + t * ld, v + t * ld);
    }
}

/* y = softmax(q keys^T / sqrt(head_dim)) values for each row and head, over the positions from 0
 * to the row's own (Vaswani et al. 2017, arXiv:1706.03762). If there are fewer kv_heads than
 * heads, neighbouring heads share a kv_head. */
static void attention_job(const task *j, int thread, size_t begin, size_t end) {
    const llama_session *s = j->s;
    const llama *m = s->model;
    range own = own_heads(s);
    size_t shared = m->n_heads / m->n_kv_heads, heads = (own.end - own.begin) * shared;
    for (size_t i = begin; i < end; i++) { /* one head of up to ATTENDED rows, from row t on */
        size_t head = own.begin * shared + i % heads, t = i / heads * ATTENDED, rows;
        size_t stop = j->n < t + ATTENDED ? j->n : t + ATTENDED;
        for (; t < stop; t += rows) { /* `rows` rows of one sequence */
            const sequence *sq = s->row_seq[t];
            size_t at = t * padded(m->q_dim) + head * m->head_dim;
            for (rows = 1; t + rows < stop && s->row_seq[t + rows] == sq;) rows++;
            attention_args args = {.y = j->y + at,
                                   .q = j->x + at,
                                   .keys = cache(s, sq->k, j->l, head / shared),
                                   .values = cache(s, sq->v, j->l, head / shared),
                                   .rows = rows,
                                   .n = s->row_pos[t] + 1,
                                   .head_dim = m->head_dim,
                                   .ld = padded(m->q_dim),
                                   .workspace = &s->workspaces[thread]};
            if (s->trace) {
                size_t row = (head * j->n + t) * (args.traced_positions = s->traced_positions);
                args.scores = s->traced_scores + row, args.probs = s->traced_probs + row;
            }
            s->kernels->attend(&args);
        }
    }
}

/* Prepares the memory in which a trace gets the scores and the probabilities, both
 * [heads][n][traced_positions], for as many positions as the row with the most. Positions that a row
 * does not attend to have a score of -infinity and a probability of 0. */
static void begin_attention_trace(llama_session *s, size_t n) {
    if (!s->trace) return;
    s->traced_positions = 0;
    for (size_t t = 0; t < n; t++)
        if (s->row_pos[t] >= s->traced_positions) s->traced_positions = s->row_pos[t] + 1;
    for (size_t i = 0; i < s->model->n_heads * n * s->traced_positions; i++)
        s->traced_scores[i] = -HUGE_VALF, s->traced_probs[i] = 0;
}

/* Passes the scores and the probabilities of all heads to the host's trace function. Each machine gets
 * those of the others first. */
static void end_attention_trace(llama_session *s, size_t l, size_t n) {
    static const char *const names[] = {"attention.scores", "attention.probs"};
    size_t heads = s->model->n_heads, kv_heads = s->model->n_kv_heads;
    size_t each = heads / kv_heads * n * s->traced_positions; /* floats of a kv_head */
    for (int k = 0; s->trace && k < 2; k++) {
        float *x = k ? s->traced_probs : s->traced_scores;
        for (size_t r = 0; s->ranks > 1 && r <= s->ranks; r++)
            s->offsets[r] = part_of(kv_heads, r, s->ranks).begin * each;
        if (s->ranks > 1) exchange(s, x);
        if (!s->stopped) report_trace(s, (int)l, names[k], x, heads * n, s->traced_positions);
    }
}

/* Computes attention for n rows of layer l. An item is one head of up to ATTENDED rows. */
static void attention(llama_session *s, float *y, const float *q, size_t l, size_t n) {
    size_t positions = 0, groups = (n + ATTENDED - 1) / ATTENDED;
    for (size_t t = 0; t < n; t++) positions += s->row_pos[t] + 1;
    const llama *m = s->model;
    range own = own_heads(s);
    size_t heads = (own.end - own.begin) * (m->n_heads / m->n_kv_heads);
    begin_attention_trace(s, n);
    parallel(&(task){s, NULL, y, q, n, l, 0}, attention_job, groups * heads, 1,
             positions * heads * m->head_dim * 2);
    gather(s, y, m->q_dim, m->q_dim / m->n_kv_heads, n);
    end_attention_trace(s, l, n);
    trace(s, (int)l, "attention.output", y, n, m->q_dim);
}

/* a = silu(a) * b, silu(a) = a / (1 + exp(-a))      (Shazeer 2020, arXiv:2002.05202) */
static void swiglu_job(const task *j, int thread, size_t begin, size_t end) {
    const llama_session *s = j->s;
    size_t ld = padded(s->model->hidden);
    range own = part_of(s->model->hidden, s->rank, s->ranks); /* its columns */
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        size_t at = t * ld + own.begin;
        s->kernels->swiglu(j->y + at, j->x + at, own.end - own.begin);
    }
}

/* A trace has silu(a) by itself: silu(a) * 1, computed in the memory of packed rows. */
static void trace_silu(llama_session *s, const float *a, size_t l, size_t n) {
    size_t width = s->model->hidden, ld = padded(width);
    float *copy = s->packed, *ones = s->packed + n * ld;
    if (!s->trace) return;
    memcpy(copy, a, n * ld * sizeof *a); /* complete, as w1 was traced */
    for (size_t i = 0; i < width; i++) ones[i] = 1;
    for (size_t t = 0; t < n; t++) s->kernels->swiglu(copy + t * ld, ones, width);
    trace(s, (int)l, "feed_forward.silu", copy, n, width);
}

/* Computes swiglu for n rows, in place. An item is one row. */
static void swiglu(llama_session *s, float *a, const float *b, size_t l, size_t n) {
    enum { EXP_COST = 8 }; /* the cost of an exp, in multiply-adds */
    trace_silu(s, a, l, n);
    parallel(&(task){s, NULL, a, b, n, 0, 0}, swiglu_job, n, 1,
             n * s->model->hidden / s->ranks * EXP_COST);
    gather(s, a, s->model->hidden, 1, n);
    trace(s, (int)l, "feed_forward.gated", a, n, s->model->hidden);
}

/* x += y: the residual connection. The sums of a matmul are complete before they are added to x. */
static void add(llama_session *s, const char *name, float *x, const float *y, size_t l, size_t n) {
    for (size_t i = 0; i < n * padded(s->model->dim); i++) x[i] += y[i];
    trace(s, (int)l, name, x, n, s->model->dim);
}

/* Keeps the rows of x and q whose logits are needed: all if s->all_rows, else those of the last token
 * of each span, of its guesses, and of each token before one to score. Returns their number. */
static size_t select_rows(llama_session *s, size_t n) {
    size_t kept = 0, ld = padded(s->model->dim), q_ld = padded(s->model->q_dim);
    for (size_t t = 0; t < n; t++) {
        if (!s->all_rows && s->row_pos[t] + 1 < s->row_seq[t]->wanted) continue;
        memmove(s->x + kept * ld, s->x + t * ld, ld * sizeof *s->x);
        memmove(s->q + kept * q_ld, s->q + t * q_ld, q_ld * sizeof *s->q);
        s->row_seq[kept] = s->row_seq[t];
        s->row_token[kept] = s->row_token[t];
        s->row_pos[kept++] = s->row_pos[t];
    }
    return kept;
}

/* Gives the progress function the number that it was given last, or a larger one, unless the call
 * is to stop already. Returns whether it is to stop. */
static bool report_progress(llama_session *s) {
    if (s->progress && !s->stopped) {
        lend_stream(s, true);
        if (s->progress(s->progress_user, s->what, s->reported, s->total) != 0)
            s->stopped = LLAMA_ECANCEL;
        lend_stream(s, false);
        if (s->model->stream) s->report_time = llamac_nanoseconds();
    }
    return s->stopped != LLAMA_OK;
}

/* Reports progress before layer l, and at the end. Returns true if the call is to stop: the host has
 * cancelled it, or weights could not be read. */
static bool stopped(llama_session *s, size_t l, size_t n) {
    s->reported = s->done + l * n;
    return report_progress(s);
}

/* ============================================================================================== */
/* III. Kernels                                                                                   */
/* ============================================================================================== */

/* Guarantee: every kernel except AMX's adds in the same order, so all give the same bits.
 *
 * The order of a dot product of w and x, of N elements each:
 *   1. N is rounded up to a multiple of BLOCK; the additional elements are zero.
 *   2. There are four float32 lanes, which begin at +0.
 *   3. For k = 0, 1, 2 ...: lane[k mod 4] = fma(w[k], x[k], lane[k mod 4]).
 *   4. The sum is (lane[0] + lane[2]) + (lane[1] + lane[3]).
 *
 * With four lanes, a 512-bit register holds four rows of weights, and one broadcast of four floats
 * of x serves all of them. Measured with 504 tokens, the register tile then reaches 92% of the FMA
 * peak. With sixteen lanes a register holds one row, which takes four times the cache traffic: 59%
 * of the peak.
 *
 * The kernels are written once, in terms of nine vector functions. For each instruction set, this
 * file includes itself with LLAMA_PASS defined and so compiles them with that set's functions. The
 * set "scalar" is plain C. */

/* Whether plain C code has an instruction for a b + c, rounded once. x86-64 has it since AVX2 only. */
#if defined(__x86_64__) && !defined(__FMA__)
enum { HAS_FMA = 0 };
#else
enum { HAS_FMA = 1 };
#endif

/* Returns a b + c, rounded once: by an instruction, or exactly as that does. fmaf of libm is not exact
 * everywhere. The product is exact in double. If the sum is not, its last bit is set ("rounding to
 * odd"), so that rounding it to float decides as for the exact sum (Boldo & Melquiond 2008). */
static inline __attribute__((always_inline)) float fused(float a, float b, float c, bool has_fma) {
    if (has_fma) return __builtin_fmaf(a, b, c);
    double p = (double)a * (double)b, z = (double)c, sum = p + z, t = sum - p;
    double error = (p - (sum - t)) + (z - t); /* sum + error = p + z (Knuth's TwoSum) */
    int64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    bool finite = sum - sum == 0;
    if (finite && error != 0 && !(bits & 1)) bits += (error > 0) == (bits >= 0) ? 1 : -1;
    memcpy(&sum, &bits, sizeof bits);
    return (float)sum;
}

/* Computes y = w x for the rows begin <= r < end of w, where x is [n][ldx] and not packed. It is
 * the definition above as code. Only tests call it: they compare every kernel with it. */
__attribute__((unused)) static void matmul_plain(const matmul_args *p, size_t ldx, size_t begin,
                                                 size_t end) {
    size_t cols = p->w.parts * p->w.cols, filled = (cols + BLOCK - 1) / BLOCK * BLOCK;
    for (size_t t = 0; t < p->n; t++)
        for (size_t r = begin; r < end; r++) {
            float lane[LANES] = {0};
            for (size_t k = 0; k < filled; k++) {
                const unsigned char *row = p->w.part[k < cols ? k / p->w.cols : 0];
                float w = k < cols ? element(p->w.type, row + r * p->w.stride, k % p->w.cols) : 0;
                float x = k < cols ? p->x[t * ldx + k] : 0;
                lane[k % LANES] = fused(w, x, lane[k % LANES], HAS_FMA);
            }
            p->y[t * p->ldy + r] = (lane[0] + lane[2]) + (lane[1] + lane[3]);
        }
}

/* ---- exp, log, sine, cosine ---- */

/* The library has its own functions because those of libm differ from system to system. The three
 * functions in double use + - * / only and are accurate to about 1 ulp. RoPE's angles and the
 * sampler use them. The kernels use exp_float. */

/* Returns exp(x): 0 for x <= -700, infinity for x > 700. With x = n ln 2 + r and |r| <= ln 2 / 2,
 * exp x = 2^n exp r. The Taylor series of exp r ends with r^13: the next term is below 2^-57. ln 2
 * is split into two parts. The first has so few bits that its product with n is exact, so r stays
 * accurate when x and n ln 2 nearly cancel. */
static double exp_double(double x) {
    /* clang-format off */
    static const double inverse_factorial[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
        1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    /* clang-format on */
    if (!(x > -700)) return x != x ? x : 0;
    if (x > 700) return HUGE_VAL;
    double n = (double)(long)(x * 0x1.71547652b82fep+0 + (x < 0 ? -0.5 : 0.5)); /* x / ln 2 */
    double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;      /* x - n ln 2 */
    double sum = inverse_factorial[13];
    for (int i = 12; i >= 0; i--) sum = sum * r + inverse_factorial[i];
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52; /* 2^n: only the exponent is set */
    double power;
    memcpy(&power, &bits, 8);
    return sum * power;
}

/* Returns the natural logarithm of x, which must be positive and normal. With x = m 2^e and m from
 * sqrt(1/2) to sqrt(2), log x = e ln 2 + log m, and log m = 2 atanh(z) for z = (m-1)/(m+1). The
 * series atanh(z) = z + z^3/3 + z^5/5 + ... can end with z^21 because |z| < 0.172. */
static double log_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 0x1.6a09e667f3bcdp+0) m *= 0.5, e++; /* above sqrt(2) */
    double z = (m - 1) / (m + 1), z2 = z * z, sum = 0;
    for (int k = 21; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
    return e * 0x1.a39ef35793c76p-33 + 2 * z * sum + e * 0x1.62e42fee00000p-1;
}

/* Computes the sine and cosine of x, 0 <= x < 2^21. x = n pi/2 + r with |r| <= pi/4, and the Taylor
 * series end with r^21 and r^20. pi/2 is split into three parts; the products of n with the first
 * two are exact. The quadrant n mod 4 decides which series is the sine, and the signs. */
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
    switch ((int64_t)n & 3) { /* the quadrant */
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s;
    }
}

/* Returns exp(x) to about 1 ulp: +0 below -87.3, infinity above 88.3. exp x = 2^n exp r, as in
 * exp_double, but exp r is a minimax polynomial. The steps are the same in each instruction set. */
static inline __attribute__((always_inline)) float exp_float(float x, bool has_fma) {
    float shifted =
        fused(x, 0x1.715476p+0f, 0x1.8p23f, has_fma); /* its low bits: n = round(x / ln 2) */
    float n = shifted - 0x1.8p23f;
    float r = fused(n, -0x1.62e4p-1f, x, has_fma); /* x - n ln 2, with ln 2 in two parts */
    r = fused(n, -0x1.7f7d1cp-20f, r, has_fma);
    float p = 0x1.6a2434p-10f; /* five terms: (exp(r) - 1 - r) / r^2, error at most 4e-9 */
    p = fused(p, r, 0x1.1239e2p-7f, has_fma);
    p = fused(p, r, 0x1.5558f2p-5f, has_fma);
    p = fused(p, r, 0x1.555492p-3f, has_fma);
    p = fused(p, r, 0x1.fffffcp-2f, has_fma);
    p = fused(p, r, 1.0f, has_fma);
    p = fused(p, r, 1.0f, has_fma);
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23; /* 2^n */
    memcpy(&power, &bits, 4);
    float y = p * power;
    return x > 88.3f ? HUGE_VALF : x < -87.3f ? 0.0f : y;
}

/* ---- Packing x ---- */

/* Returns the number of rows in the register tile that begins at row t of n rows of x. The first
 * tile takes up to FEW rows, so that each tile after it has exactly TILE_TOKENS. */
static size_t tile_tokens(size_t n, size_t t) {
    if (t > 0) return TILE_TOKENS;
    return n <= FEW ? n : FEW - TILE_TOKENS + 1 + (n - FEW - 1) % TILE_TOKENS;
}

/* Packs `cols` columns of n rows of x, stride ldx, in the order in which the kernels read them, so
 * that they read contiguous memory: panels of PANEL_COLUMNS columns, in a panel tiles of rows, in a
 * tile groups of LANES columns, in a group the rows of the tile. `cols` is rounded up to a full
 * block. A single row keeps its order. */
static void pack(float *to, const float *x, size_t ldx, size_t n, size_t cols) {
    for (size_t k = 0; k < cols; k += PANEL_COLUMNS) {
        size_t end =
            k + PANEL_COLUMNS < cols ? k + PANEL_COLUMNS : (cols + BLOCK - 1) / BLOCK * BLOCK;
        for (size_t t = 0, tokens; t < n; t += tokens) {
            tokens = tile_tokens(n, t);
            for (size_t i = k; i < end; i += LANES)
                for (size_t r = t; r < t + tokens; r++, to += LANES)
                    memcpy(to, x + r * ldx + i, LANES * sizeof *to);
        }
    }
}

/* Returns true if AMX can compute this matmul of n rows, whose segments have `cols` columns. The
 * packed rows of x are then filled up to a multiple of TILED. */
static bool is_tiled(int type, size_t n, size_t cols) {
    return type != F32 && n >= TILED && cols % TILED == 0;
}

/* Packs the items begin <= i < end. Item i is panel i % panels of segment i / panels. */
static void pack_job(const task *j, int thread, size_t begin, size_t end) {
    size_t cols = across(j->w);
    const kernels *k = j->s->kernels;
    bool tiled = k->pack && is_tiled(j->w->type, j->n, cols);
    size_t panels = (cols + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    size_t rows = tiled ? (j->n + TILED - 1) / TILED * TILED : j->n;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t first = i % panels * PANEL_COLUMNS, at = i / panels * cols + first;
        size_t count = cols - first < PANEL_COLUMNS ? cols - first : PANEL_COLUMNS;
        if (tiled) k->pack(j->y + at * rows / 2 * 3, j->x + at, padded(j->w->cols), j->n, count);
        else pack(j->y + at * rows, j->x + at, padded(j->w->cols), j->n, count);
    }
}

/* Divides the panels of all segments over the threads. */
static void pack_input(llama_session *s, const weight *w, const float *x, size_t n) {
    size_t panels = (across(w) + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    parallel(&(task){s, w, s->packed, x, n, 0, 0}, pack_job, w->cols / across(w) * panels, 1,
             n * w->cols);
}

/* ---- The loop over panels, for several tokens ---- */

/* A panel of w: `count` columns of one segment from column k on, and the rows from row r on. */
typedef struct {
    size_t segment, k, count;
    size_t r, end;    /* rows from `end` on are not computed: the last panel may have fewer rows */
    size_t group_row; /* r, counted from the first row of the group: the place of its sums in acc */
    bool first;       /* true for the first columns of the rows: the sums begin at +0 */
    size_t next;      /* distance in bytes to the next panel, for prefetching */
} panel;
typedef void panel_function(const matmul_args *, const panel *);
typedef void tile_function(const matmul_args *, const panel *, size_t i, float *acc,
                           const float *x);
typedef void few_function(const matmul_args *, size_t begin, size_t end);

/* Computes the rows begin <= r < end of a matmul of several tokens. Each panel is widened once and
 * used for all tokens. GROUP panels, one below the other, form a group. All panels of a group use
 * the same columns before the next columns begin, so those columns of x stay in the L2 cache.
 * `multiply` adds one panel's products to the unfinished sums in p->workspace->acc. `finish` writes
 * a panel's sums to y after its last columns. `rows` is the number of rows of a panel. */
__attribute__((noinline)) static void matmul_blocked(const matmul_args *p, size_t begin, size_t end,
                                                     size_t rows, panel_function *multiply,
                                                     panel_function *finish) {
    const weight_rows *w = &p->w;
    for (size_t top = begin, stop; top < end; top = stop) {
        stop = end - top < GROUP * rows ? end : top + GROUP * rows;
        for (size_t s = 0; s < w->parts; s++)
            for (size_t k = 0, count; k < w->cols; k += count) {
                count = w->cols - k < PANEL_COLUMNS ? w->cols - k : PANEL_COLUMNS;
                for (size_t r = top; r < stop; r += rows) {
                    bool last = r + rows >= stop; /* of the group: the next columns follow */
                    size_t next = last ? (top - r) * w->stride + count * dtype_bytes[w->type]
                                       : rows * w->stride;
                    multiply(p, &(panel){s, k, count, r, end, r - top, s + k == 0, next});
                }
            }
        for (size_t r = top; r < stop; r += rows)
            finish(p, &(panel){.r = r, .end = end, .group_row = r - top});
    }
}

/* ---- The kernels, once for each instruction set ---- */

#define INLINE      static inline __attribute__((always_inline))
#define GLUE_(a, b) a##_##b
#define GLUE(a, b)  GLUE_(a, b)
#define FN(name)    GLUE(name, ISA) /* FN(few) is few_avx2 in the AVX2 pass */
#define LITERAL_(a) #a
#define LITERAL(a)  LITERAL_(a)
/* Only "full" makes clang 16 and older unroll a loop in a loop wholly, so that registers hold the sums. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define LLAMA_PASS 1 /* scalar */
#include "llama.c"
#undef LLAMA_PASS
#if defined(__x86_64__)
#define LLAMA_PASS 2 /* AVX2, FMA, F16C */
#include "llama.c"
#undef LLAMA_PASS
#define LLAMA_PASS 3 /* AVX2 with the registers of AVX-512VL */
#include "llama.c"
#undef LLAMA_PASS
#define LLAMA_PASS 4 /* AVX-512F */
#include "llama.c"
#undef LLAMA_PASS
#elif defined(__aarch64__)
#define LLAMA_PASS 5 /* NEON */
#include "llama.c"
#undef LLAMA_PASS
#endif
#endif /* LLAMA_COMMON_ONLY */

#else /* LLAMA_PASS: from here to its #endif, compiled once per instruction set */

/* ---- Kernels: the nine vector functions, and their sizes, for each instruction set ---- */

/* A vec is a register of VL floats: four lanes for each of VR rows.
 *
 *   load(p)  store(p, v)   VL floats, not aligned
 *   splat(f)               f in each lane
 *   broadcast4(p)          the four floats at p, for each row
 *   fma(a, b, c)           a b + c, rounded once
 *   f16(p)  bf16(p)        VL stored weights, widened exactly, not aligned
 *   transpose(v)           before: each of VR vecs has VL weights of one row; after: each has four
 *                          weights of every row
 *   sums(v, out)           the sums of the VR rows' lanes, in the defined order
 *
 * AVX-512 has a tenth, interleave: read_vec with half as many shuffles.
 *
 * A register tile has REGISTERS registers. The first tile of a matmul has as many vecs of weights as
 * fit beside the sums of its tokens, up to DOT_VECS; the others have TILE_VECS vecs. */

/* Plain C: a vec holds one row. FUSED: there is an instruction for fma(a, b, c). */
#if LLAMA_PASS == 1
#define ISA scalar
#define TARGET
enum { FN(VL) = 4, FN(TILE_VECS) = 1, FN(DOT_VECS) = 3, FN(REGISTERS) = 8, FN(FUSED) = HAS_FMA };
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
INLINE FN(vec) FN(broadcast4)(const float *p) { return FN(load)(p); }
INLINE FN(vec) FN(fma)(FN(vec) a, FN(vec) b, FN(vec) c) {
    for (int i = 0; i < 4; i++) c.lane[i] = fused(a.lane[i], b.lane[i], c.lane[i], FN(FUSED));
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

/* AVX2: a register holds two rows. AVX-512VL gives the same instructions 32 registers. */
#elif LLAMA_PASS == 2 || LLAMA_PASS == 3
#if LLAMA_PASS == 2
#define ISA    avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
enum { FN(REGISTERS) = 16 };
#else
#define ISA    avx512vl
#define TARGET __attribute__((target("avx512f,avx512vl,avx2,fma,f16c")))
enum { FN(REGISTERS) = 32 };
#endif
enum { FN(VL) = 8, FN(TILE_VECS) = 2, FN(DOT_VECS) = 4, FN(FUSED) = 1 };
typedef __m256 FN(vec);
TARGET INLINE __m256 FN(load)(const float *p) { return _mm256_loadu_ps(p); }
TARGET INLINE void FN(store)(float *p, __m256 v) { _mm256_storeu_ps(p, v); }
TARGET INLINE __m256 FN(splat)(float f) { return _mm256_set1_ps(f); }
TARGET INLINE __m256 FN(broadcast4)(const float *p) {
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

/* AVX-512: a register holds four rows. */
#elif LLAMA_PASS == 4
#define ISA    avx512
#define TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
enum { FN(VL) = 16, FN(TILE_VECS) = 4, FN(DOT_VECS) = 4, FN(REGISTERS) = 32, FN(FUSED) = 1 };
typedef __m512 FN(vec);
TARGET INLINE __m512 FN(load)(const float *p) { return _mm512_loadu_ps(p); }
TARGET INLINE void FN(store)(float *p, __m512 v) { _mm512_storeu_ps(p, v); }
TARGET INLINE __m512 FN(splat)(float f) { return _mm512_set1_ps(f); }
TARGET INLINE __m512 FN(broadcast4)(const float *p) {
    return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
}
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
/* 16-bit weights of four rows, interleaved and then widened, as read_vec gives them */
TARGET INLINE __m256i FN(two_rows)(const unsigned char *a, const unsigned char *b) {
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)a);
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)b);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}
TARGET INLINE void FN(interleave)(__m512 *out, int type, const unsigned char *const *row,
                                  size_t k) {
    for (size_t i = 0; i < 4; i += 2, k += 8) { /* 8 columns */
        __m256i a = FN(two_rows)(row[0] + 2 * k, row[2] + 2 * k);
        __m256i b = FN(two_rows)(row[1] + 2 * k, row[3] + 2 * k);
        __m256i low = _mm256_unpacklo_epi64(a, b), high = _mm256_unpackhi_epi64(a, b);
        const void *first = &low, *next = &high;
        out[i] = type == F16 ? FN(f16)(first) : FN(bf16)(first);
        out[i + 1] = type == F16 ? FN(f16)(next) : FN(bf16)(next);
    }
}
TARGET INLINE void FN(sums)(__m512 v, float *out) {
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e)); /* lanes 0+2, 1+3 */
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    __m512i first = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12)); /* lane 0 of each row */
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, v)));
}

/* NEON: a register holds one row. There are 32 registers, enough for a tile of 4 by 6 vecs. */
#elif LLAMA_PASS == 5
#define ISA neon
#define TARGET
enum { FN(VL) = 4, FN(TILE_VECS) = 4, FN(DOT_VECS) = 8, FN(REGISTERS) = 32, FN(FUSED) = 1 };
typedef float32x4_t FN(vec);
INLINE float32x4_t FN(load)(const float *p) { return vld1q_f32(p); }
INLINE void FN(store)(float *p, float32x4_t v) { vst1q_f32(p, v); }
INLINE float32x4_t FN(splat)(float f) { return vdupq_n_f32(f); }
INLINE float32x4_t FN(broadcast4)(const float *p) { return vld1q_f32(p); }
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

/* ---- Kernels: reading weights ---- */

/* Returns VL weights of a row from column k on. */
TARGET INLINE VEC FN(widen)(int type, const unsigned char *row, size_t k) {
    switch (type) {
    case F16: return FN(f16)(row + 2 * k);
    case BF16: return FN(bf16)(row + 2 * k);
    default: return FN(load)((const float *)(const void *)(row + 4 * k)); /* not aligned */
    }
}

/* Reads VL columns of VR rows from column k on, widens and interleaves them: out[i] has the four
 * columns from k + 4i on. If `early`, AVX-512 interleaves 16-bit weights before it widens them: half
 * as many shuffles, twice as many loads. */
TARGET INLINE void FN(read_vec)(VEC *out, int type, const unsigned char *const *row, size_t k,
                                bool early) {
    (void)early;
#if LLAMA_PASS == 4
    if (early && type != F32) {
        FN(interleave)(out, type, row, k);
        return;
    }
#endif
    UNROLL
    for (size_t i = 0; i < FN(VR); i++) out[i] = FN(widen)(type, row[i], k);
    FN(transpose)(out);
}

/* Reads `vecs` * VR rows: out[v] has those of vec v. The type is chosen once for all rows. Fewer than
 * DOT_VECS vecs belong to many tokens, whose arithmetic competes with shuffles. */
TARGET INLINE void FN(read_weights)(VEC (*out)[FN(VR)], int type, const unsigned char *const *row,
                                    size_t k, const size_t vecs) {
#define READ(constant)                                                                             \
    UNROLL                                                                                         \
    for (size_t v = 0; v < vecs; v++)                                                              \
    FN(read_vec)(out[v], constant, row + v * FN(VR), k, vecs < FN(DOT_VECS))
    switch (type) {
    case F16: READ(F16); break;
    case BF16: READ(BF16); break;
    default: READ(F32); break;
    }
#undef READ
}

/* Up to MAX_ROWS rows of a segment. A row that ends within a block has a copy of that block, filled
 * up with zeros. */
enum { FN(MAX_ROWS) = FN(DOT_VECS) * FN(VR) };
typedef struct {
    const unsigned char *row[FN(MAX_ROWS)];
    unsigned char copy[FN(MAX_ROWS)][BLOCK * sizeof(float)];
    size_t whole; /* columns in full blocks; the copies begin there */
    int type;
} FN(weights);

/* Sets pointers to `rows` rows of a segment, r and those that follow it at distances of `apart` rows.
 * Instead of rows from `end` on, the last row is repeated; the callers drop those sums. */
TARGET INLINE void FN(find_rows)(FN(weights) * from, const weight_rows *w, size_t segment, size_t r,
                                 size_t end, size_t rows, size_t apart) {
    size_t size = dtype_bytes[w->type], rest = w->cols % BLOCK;
    from->whole = w->cols - rest;
    from->type = w->type;
    for (size_t i = 0; i < rows; i++) {
        size_t at = r + i * apart < end ? r + i * apart : end - 1;
        from->row[i] = w->part[segment] + at * w->stride;
        if (rest == 0) continue;
        memset(from->copy[i], 0, sizeof from->copy[i]);
        memcpy(from->copy[i], from->row[i] + from->whole * size, rest * size);
    }
}

/* ---- Kernels: matmul ---- */

/* All matmuls are made of register tiles: the sums of `vecs` vecs of rows of w and of `tokens` rows
 * of x stay in registers while the columns go by. What differs is how weights reach the tile:
 *
 *   n          weights                                        columns at a time    function
 *   1 to FEW   memory -> registers -> tile                    all                  few
 *   more       memory -> registers -> first tile, and L1;     PANEL_COLUMNS        multiply_panel
 *              L1 -> tiles of the other tokens
 *
 * With up to FEW tokens one tile holds all of them, so nothing is read twice and nothing is stored.
 * More tokens do not fit in the registers. Then the sums of a few rows and columns are computed for
 * all tokens, tile after tile, while the widened weights are in the L1 cache. */

/* Adds the products of the columns k <= c < end to the sums of a tile, with weights from memory.
 * If `keeps`, the widened weights are stored in the panel `keep`, for multiply_kept.
 * What comes `ahead` bytes after these weights is prefetched into the L2 cache, because L1 is too
 * small: in each row, or, if `linear`, in the order of the addresses. If `ahead` is 0, nothing is. */
TARGET INLINE void FN(multiply)(VEC *sum, const FN(weights) * from, size_t k, size_t end,
                                const float *x, float *keep, const bool keeps, size_t ahead,
                                bool linear, const size_t tokens, const size_t vecs) {
    enum { LINE = 64 };
    size_t size = dtype_bytes[from->type], rows = vecs * FN(VR), bytes = rows * BLOCK * size;
    /* With 16 registers the tokens are the outer loop: else compilers keep sums in memory. A sum
     * gets its columns in the same order. */
    const bool by_token = FN(REGISTERS) < 32;
    const size_t outer = by_token ? tokens : FN(VR), inner = by_token ? FN(VR) : tokens;
    uintptr_t next = (uintptr_t)from->row[0] + ahead;
    for (int copied = 0; k < end; copied++) { /* the columns in full blocks, then those copied */
        const unsigned char *row[FN(MAX_ROWS)];
        size_t stop = copied || end < from->whole ? end : from->whole;
        size_t base = copied ? from->whole : 0;
        UNROLL
        for (size_t i = 0; i < rows; i++) row[i] = copied ? from->copy[i] : from->row[i];
        while (k < stop) {
            uintptr_t column = k * size + ahead;
            if (ahead && !linear && column % LINE < BLOCK * size) UNROLL
            for (size_t i = 0; i < rows; i++)
                __builtin_prefetch((const void *)((uintptr_t)from->row[i] + column), 0, 2);
            for (size_t i = 0; ahead && linear && i < bytes; i += LINE, next += LINE)
                __builtin_prefetch((const void *)next, 0, 2);
            for (size_t block = k + BLOCK; k < block; k += FN(VL)) {
                VEC w[FN(DOT_VECS)][FN(VR)];
                FN(read_weights)(w, from->type, row, k - base, vecs);
                if (keeps) UNROLL
                for (size_t i = 0; i < FN(VR); i++, keep += PANEL_ROWS * LANES) UNROLL
                for (size_t v = 0; v < vecs; v++) FN(store)(keep + v * FN(VL), w[v][i]);
                UNROLL
                for (size_t a = 0; a < outer; a++) UNROLL
                for (size_t b = 0; b < inner; b++) {
                    size_t t = by_token ? a : b, i = by_token ? b : a;
                    VEC xt = FN(broadcast4)(x + (i * tokens + t) * LANES);
                    UNROLL
                    for (size_t v = 0; v < vecs; v++)
                        sum[t * vecs + v] = FN(fma)(w[v][i], xt, sum[t * vecs + v]);
                }
                x += FN(VR) * tokens * LANES;
            }
        }
    }
}

/* Adds the products of `cols` columns to the sums of a tile, with weights that multiply kept. */
TARGET INLINE void FN(multiply_kept)(VEC *sum, const float *kept, const float *x, size_t cols,
                                     const size_t tokens, const size_t vecs) {
    for (size_t k = 0; k < cols; k += LANES, kept += PANEL_ROWS * LANES, x += tokens * LANES) {
        VEC w[FN(DOT_VECS)];
        UNROLL
        for (size_t v = 0; v < vecs; v++) w[v] = FN(load)(kept + v * FN(VL));
        UNROLL
        for (size_t t = 0; t < tokens; t++) {
            VEC xt = FN(broadcast4)(x + t * LANES);
            UNROLL
            for (size_t v = 0; v < vecs; v++)
                sum[t * vecs + v] = FN(fma)(w[v], xt, sum[t * vecs + v]);
        }
    }
}

/* Computes one tile for up to FEW tokens: `vecs` vecs of rows, r and those that follow it at distances
 * of `apart` rows. */
TARGET INLINE void FN(few_rows)(const matmul_args *p, size_t r, size_t end, size_t apart,
                                const size_t tokens, const size_t vecs) {
    const weight_rows *w = &p->w;
    enum { AHEAD = 2048 }; /* bytes: 1,024 to 6,144 are as fast on Zen 5 */
    const size_t rows = vecs * FN(VR), filled = (w->cols + BLOCK - 1) / BLOCK * BLOCK;
    const size_t aheads[] = {0, rows * w->stride, AHEAD}, ahead = aheads[p->prefetch];
    VEC sum[FEW * FN(DOT_VECS)];
    FN(weights) from;
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < vecs; v++) sum[t * vecs + v] = FN(splat)(0);
    for (size_t s = 0; s < w->parts; s++) {
        FN(find_rows)(&from, w, s, r, end, rows, apart);
        FN(multiply)
        (sum, &from, 0, filled, p->x + s * w->cols * tokens, NULL, false, ahead,
         p->prefetch == PREFETCH_TILE, tokens, vecs);
    }
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
        float out[FN(MAX_ROWS)], *y = p->y + t * p->ldy + r;
        UNROLL
        for (size_t v = 0; v < vecs; v++) FN(sums)(sum[t * vecs + v], out + v * FN(VR));
        /* cppcheck-suppress uninitvar; vecs is at least 1 */
        for (size_t i = 0; i < rows && r + i * apart < end; i++) y[i * apart] = out[i];
    }
}

/* Computes the rows begin <= r < end for up to FEW tokens. The rows of a tile are as far apart as
 * they can be, so that the processor reads as many long streams, each from row to row. If the next
 * tile is prefetched, they are adjacent, so that all tiles are one long stream. */
TARGET INLINE void FN(few)(const matmul_args *p, size_t begin, size_t end, const size_t tokens,
                           const size_t vecs) {
    const size_t rows = vecs * FN(VR);
    for (size_t top = begin, apart; top < end; top += apart * rows) {
        apart = p->prefetch == PREFETCH_TILE || end - top < rows ? 1 : (end - top) / rows;
        for (size_t r = top; r < top + apart; r++) FN(few_rows)(p, r, end, apart, tokens, vecs);
    }
}

/* Returns how many vecs of rows the registers hold: each has a sum for each token, and VR vecs of
 * weights. */
INLINE size_t FN(vecs)(size_t tokens) {
    size_t fit = FN(REGISTERS) / (tokens + FN(VR));
    return fit == 0 ? 1 : fit < FN(DOT_VECS) ? fit : FN(DOT_VECS);
}

/* A function for each number of tokens, in which that is a constant. Each is compiled by itself,
 * because compilers keep the sums of a large function in memory. */
#define TOKENS(n)                                                                                  \
    TARGET static __attribute__((noinline)) void FN(few_##n)(const matmul_args *p, size_t begin,   \
                                                             size_t end) {                         \
        FN(few)(p, begin, end, n, FN(vecs)(n));                                                    \
    }
TOKENS(1)
TOKENS(2)
TOKENS(3)
TOKENS(4)
TOKENS(5)
TOKENS(6)
TOKENS(7)
TOKENS(8)
TOKENS(9)
TOKENS(10)
TOKENS(11)
TOKENS(12)
#undef TOKENS
static few_function *const FN(few_by_tokens)[FEW] = {
    FN(few_1), FN(few_2), FN(few_3), FN(few_4),  FN(few_5),  FN(few_6),
    FN(few_7), FN(few_8), FN(few_9), FN(few_10), FN(few_11), FN(few_12),
};

/* Multiplies `vecs` vecs of rows of a panel, from row `i` of the panel on, with `tokens` tokens. The
 * tiles of the first tokens widen the weights and keep them in p->workspace->panel; the others read
 * them there. Between two panels of the same rows the lanes are stored in acc, without adding them
 * together, so each sum keeps its order. */
TARGET INLINE void FN(tile)(const matmul_args *p, const panel *at, size_t i, float *acc,
                            const float *x, const size_t tokens, const size_t vecs,
                            const bool first) {
    VEC sum[FEW * FN(TILE_VECS)];
    float *kept = p->workspace->panel + i * LANES;
    size_t filled = (at->count + BLOCK - 1) / BLOCK * BLOCK;
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < vecs; v++)
        sum[t * vecs + v] =
            at->first ? FN(splat)(0) : FN(load)(acc + t * PANEL_ROWS * LANES + v * FN(VL));
    if (first) {
        FN(weights) from;
        FN(find_rows)(&from, &p->w, at->segment, at->r + i, at->end, vecs * FN(VR), 1);
        FN(multiply)
        (sum, &from, at->k, at->k + filled, x, kept, true, at->next, false, tokens, vecs);
    } else FN(multiply_kept)(sum, kept, x, filled, tokens, vecs);
    UNROLL
    for (size_t t = 0; t < tokens; t++) UNROLL
    for (size_t v = 0; v < vecs; v++)
        FN(store)(acc + t * PANEL_ROWS * LANES + v * FN(VL), sum[t * vecs + v]);
}

/* The tiles of the first FEW - TILE_TOKENS + 1 to FEW tokens, and the tile of the others. */
#define TILE(name, tokens, vecs, first)                                                            \
    TARGET static __attribute__((noinline)) void FN(name)(const matmul_args *p, const panel *at,   \
                                                          size_t i, float *acc, const float *x) {  \
        FN(tile)(p, at, i, acc, x, tokens, vecs, first);                                           \
    }
enum { FN(FIRST_VECS) = FN(REGISTERS) / (FEW + FN(VR)) > 1 ? 2 : 1 }; /* divides a panel's rows */
TILE(first_tile_7, 7, FN(FIRST_VECS), true)
TILE(first_tile_8, 8, FN(FIRST_VECS), true)
TILE(first_tile_9, 9, FN(FIRST_VECS), true)
TILE(first_tile_10, 10, FN(FIRST_VECS), true)
TILE(first_tile_11, 11, FN(FIRST_VECS), true)
TILE(first_tile_12, 12, FN(FIRST_VECS), true)
static tile_function *const FN(first_tiles)[TILE_TOKENS] = {
    FN(first_tile_7),  FN(first_tile_8),  FN(first_tile_9),
    FN(first_tile_10), FN(first_tile_11), FN(first_tile_12),
};

#if LLAMA_PASS != 3 /* the rest is not needed twice */
TILE(next_tile, TILE_TOKENS, FN(TILE_VECS), false)

/* Multiplies a panel with all n tokens. Each of `first_tiles` multiplies `first_rows` rows of it. */
static void FN(multiply_tiles)(const matmul_args *p, const panel *at,
                               tile_function *const *first_tiles, size_t first_rows) {
    size_t filled = (at->count + BLOCK - 1) / BLOCK * BLOCK;
    const float *x = p->x + (at->segment * p->w.cols + at->k) * p->n;
    for (size_t t = 0, tokens; t < p->n; t += tokens) {
        tokens = tile_tokens(p->n, t);
        tile_function *tile = t ? FN(next_tile) : first_tiles[(p->n - FEW - 1) % TILE_TOKENS];
        size_t rows = t ? FN(TILE_ROWS) : first_rows;
        for (size_t i = 0; i < PANEL_ROWS && at->r + i < at->end; i += rows) {
            float *acc = p->workspace->acc + (at->group_row * p->n + t * PANEL_ROWS + i) * LANES;
            tile(p, at, i, acc, x + t * filled);
        }
    }
}
static __attribute__((noinline)) void FN(multiply_panel)(const matmul_args *p, const panel *at) {
    FN(multiply_tiles)(p, at, FN(first_tiles), FN(FIRST_VECS) * FN(VR));
}

/* Adds the lanes of each sum of a panel and writes the sums to y, except those of repeated rows.
 * The sums are stored as [token][row of the panel]. */
TARGET static void FN(reduce_lanes)(const matmul_args *p, const panel *at) {
    const float *acc = p->workspace->acc + at->group_row * p->n * LANES;
    for (size_t t = 0; t < p->n; t++)
        for (size_t i = 0; i < PANEL_ROWS; i += FN(VR), acc += FN(VL)) {
            size_t r = at->r + i;
            float out[FN(VR)], *y = p->y + t * p->ldy + r;
            FN(sums)(FN(load)(acc), out);
            if (r < at->end)
                memcpy(y, out, (r + FN(VR) <= at->end ? FN(VR) : at->end - r) * sizeof *y);
        }
}

/* Computes the rows begin <= r < end of a matmul. */
TARGET static void FN(matmul)(const matmul_args *p, size_t begin, size_t end) {
    if (p->n <= FEW) FN(few_by_tokens)[p->n - 1](p, begin, end);
    else matmul_blocked(p, begin, end, PANEL_ROWS, FN(multiply_panel), FN(reduce_lanes));
}

/* ---- Kernels: the other operations ---- */

/* r = 1 / sqrt(x.x / n + eps); y = (x r) w */
TARGET static void FN(rmsnorm)(float *y, const float *x, const weight *w, float eps) {
    const unsigned char *row = (const unsigned char *)x; /* x.x is a matmul of one row */
    size_t n = w->cols, i = 0;
    float ss;
    FN(matmul)
    (&(matmul_args){{&row, 1, n, n * sizeof *x, F32}, x, &ss, 1, 1, PREFETCH_TILE, NULL}, 0, 1);
    float r = 1.0f / sqrtf(ss / (float)n + eps);
    for (; i + FN(VL) <= n; i += FN(VL)) {
        float f[FN(VL)];
        VEC v = FN(widen)(w->type, w->part[0], i);
        FN(store)(f, v);
        for (size_t k = 0; k < FN(VL); k++) y[i + k] = x[i + k] * r * f[k];
    }
    for (; i < n; i++) y[i] = x[i] * r * element(w->type, w->part[0], i);
}

/* (a, b) = (a cos - b sin, a sin + b cos) for each pair of a head */
TARGET static void FN(rope)(float *v, const float *cosine, const float *sine, size_t head_dim) {
    for (size_t j = 0; j < head_dim / 2; j++) {
        float a = v[2 * j], b = v[2 * j + 1], c = cosine[j], s = sine[j];
        v[2 * j] = fused(-b, s, a * c, FN(FUSED));
        v[2 * j + 1] = fused(b, c, a * s, FN(FUSED));
    }
}

/* x = softmax(x): e[i] = exp(x[i] - max), x[i] = e[i] / sum. The sum has four lanes; e[i] goes to
 * lane i mod 4. */
TARGET INLINE void FN(softmax)(float *x, size_t n) {
    float top = x[0], lane[LANES] = {0};
    for (size_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (size_t i = 0; i < n; i++) x[i] = exp_float(x[i] - top, FN(FUSED));
    for (size_t i = 0; i < n; i++) lane[i % LANES] += x[i];
    float sum = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

/* y[t][d] += sum_j p[t][j] v[j][d] over the positions begin <= j < end, ascending, for `rows`
 * tokens and `vecs` * VL elements d. If begin is 0, the sums begin at +0. ldy and ldp are strides
 * in floats. */
TARGET INLINE void FN(weighted_sum)(float *y, size_t ldy, const float *p, size_t ldp,
                                    const float *v, size_t head_dim, size_t begin, size_t end,
                                    const int rows, const int vecs) {
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

/* Computes weighted_sum for all elements of a head and the tokens from t on; rows is 1 or
 * TILE_TOKENS. With one row, there are registers for twice as many elements at a time, so each pass
 * reads longer runs of memory. */
TARGET INLINE void FN(weighted_sum_head)(const attention_args *a, size_t t, const float *p,
                                         size_t ldp, size_t begin, size_t end, const int rows) {
    enum { WIDE = FN(TILE_VECS) * FN(VL) };
    float *y = a->y + t * a->ld;
    size_t d = begin < end ? 0 : a->head_dim; /* if begin >= end, there is nothing to add */
    p += t * ldp;
    for (; rows == 1 && d + 2 * WIDE <= a->head_dim; d += 2 * WIDE) FN(weighted_sum)
    (y + d, a->ld, p, ldp, a->values + d, a->head_dim, begin, end, 1, 2 * FN(TILE_VECS));
    for (; d + WIDE <= a->head_dim; d += WIDE) FN(weighted_sum)
    (y + d, a->ld, p, ldp, a->values + d, a->head_dim, begin, end, rows, FN(TILE_VECS));
    for (; d + FN(VL) <= a->head_dim; d += FN(VL))
        FN(weighted_sum)(y + d, a->ld, p, ldp, a->values + d, a->head_dim, begin, end, rows, 1);
    if (d == a->head_dim) return;
    float rest[TILE_TOKENS][FN(VL)] = {{0}}; /* the last vec: lanes past head_dim are dropped */
    size_t bytes = (a->head_dim - d) * sizeof(float);
    for (int r = 0; r < rows; r++) memcpy(rest[r], y + (size_t)r * a->ld + d, bytes);
    FN(weighted_sum)(rest[0], FN(VL), p, ldp, a->values + d, a->head_dim, begin, end, rows, 1);
    for (int r = 0; r < rows; r++) memcpy(y + (size_t)r * a->ld + d, rest[r], bytes);
}

/* y = softmax(q K^T / sqrt(head_dim)) V for one head. The scores are a matmul whose weights are the
 * keys. The values are added in blocks of VALUE_BLOCK positions: all tokens use a block while it is
 * in the L1 cache. The mask is causal: row t, counted from 0, attends to the first a->n + t positions.
 * It is the limits of the loops; a score beyond them, computed for a later row, is not read. A tile adds
 * the positions of its first token for all its tokens together. The few other positions are added
 * token by token. */
TARGET static void FN(attend)(const attention_args *a) {
    enum { VALUE_BLOCK = 64, TILE = TILE_TOKENS };
    const unsigned char *keys = (const unsigned char *)a->keys;
    size_t positions = a->n + a->rows - 1, ld = padded(positions), end;
    float *p = a->workspace->scores, root = sqrtf((float)a->head_dim);
    pack(a->workspace->queries, a->q, a->ld, a->rows, a->head_dim);
    weight_rows k = {&keys, 1, a->head_dim, a->head_dim * sizeof(float), F32};
    matmul_args scores = {k, a->workspace->queries, p, ld, a->rows, PREFETCH_TILE, a->workspace};
    FN(matmul)(&scores, 0, positions);
    for (size_t t = 0; t < a->rows; t++) {
        for (size_t i = 0; i < a->n + t; i++) p[t * ld + i] /= root;
        if (a->scores)
            memcpy(a->scores + t * a->traced_positions, p + t * ld, (a->n + t) * sizeof *p);
        FN(softmax)(p + t * ld, a->n + t);
        if (a->probs)
            memcpy(a->probs + t * a->traced_positions, p + t * ld, (a->n + t) * sizeof *p);
    }
    for (size_t begin = 0; begin < positions; begin = end) {
        end = positions - begin < VALUE_BLOCK ? positions : begin + VALUE_BLOCK;
        for (size_t t = 0, tile; t < a->rows; t += tile) {
            size_t shared_end = a->n + t < end ? a->n + t : end; /* for all tokens of the tile */
            tile = a->rows - t < TILE ? 1 : TILE;
            if (tile == TILE) FN(weighted_sum_head)(a, t, p, ld, begin, shared_end, TILE);
            for (size_t r = 0; r < tile; r++) {
                size_t own_end = a->n + t + r < end ? a->n + t + r : end, from = begin;
                if (tile == TILE && shared_end > begin) from = shared_end;
                FN(weighted_sum_head)(a, t + r, p, ld, from, own_end, 1);
            }
        }
    }
}

/* a = a / (1 + exp(-a)) * b */
TARGET static void FN(swiglu)(float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) a[i] = a[i] / (1.0f + exp_float(-a[i], FN(FUSED))) * b[i];
}

/* The rest of the file uses the kernels through this struct. */
static const kernels FN(kernels) = {
    .name = LITERAL(ISA),
    .prefetch = PREFETCH_ROWS,
    .matmul = FN(matmul),
    .rmsnorm = FN(rmsnorm),
    .rope = FN(rope),
    .attend = FN(attend),
    .swiglu = FN(swiglu),
};
#endif

#undef VEC
#undef TARGET
#undef ISA
#endif /* LLAMA_PASS */

#ifndef LLAMA_PASS
#ifndef LLAMA_COMMON_ONLY

#if defined(__x86_64__)
/* ---- AMX: LLAMA_FAST, with other bits ---- */

/* AMX multiplies tiles of bfloat16 many times faster than other kernels multiply float32. So each
 * number is split into bfloat16 parts of 8 significant bits, exactly:
 *
 *   x                     = x0 + x1 + x2
 *   w, if it is float16   = w0 + w1
 *   w, if it is bfloat16  = w0
 *
 * The products w0 x0, w0 x1, w0 x2, w1 x0 and w1 x1 are summed; the missing w1 x2 is below 1e-7 of
 * w x. If w0 x2 and w1 x1 were missing too, logits would be wrong by 3e-4. The processor decides
 * the order of the sums, so the bits differ from those of the other kernels.
 *
 * One step multiplies 32 rows of w with 32 rows of x, over 32 columns. Each part of w and of x is
 * two tiles of 1 KB, one below the other. A tile of w is [16 rows][32 columns]. A tile of x has the
 * layout that the instruction needs: [16 pairs of columns][16 rows][2]. */
#define AMX __attribute__((target("avx512f,avx512bw,avx2,fma,f16c,amx-tile,amx-bf16")))
enum { SIDE = 16, TILE_BYTES = 1024, TILE_LD = 64, TILE_FLOATS = 256 };
enum { W_BYTES = 4 * TILE_BYTES, X_BYTES = 6 * TILE_BYTES }; /* of all parts of one step */

/* Splits 16 floats into their first `parts` parts, the highest bits first. The address of part i is
 * to + i * step. */
AMX INLINE void split_amx(__m512 x, unsigned char *to, size_t step, int parts) {
    for (int i = 0; i < parts; i++, to += step) {
        __m512i bits = _mm512_castps_si512(x), top = _mm512_set1_epi32((int)0xffff0000);
        __m256i part = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
        _mm256_storeu_si256((__m256i *)(void *)to, part);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(bits, top)));
    }
}

/* Packs `cols` columns of n rows of x, one panel, as tiles. The last tiles are filled up with rows
 * of zeros. */
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

/* Splits the TILED rows of a panel into parts, as tiles. Instead of rows from p->end on, the last
 * row is repeated. */
AMX INLINE void split_rows_amx(unsigned char *to, int type, const weight_rows *w, const panel *p) {
    for (size_t i = 0; i < TILED; i++) {
        size_t r = p->r + i < p->end ? p->r + i : p->end - 1;
        const unsigned char *row = w->part[p->segment] + r * w->stride + 2 * p->k;
        unsigned char *at = to + i * TILE_LD;
        for (size_t c = 0; c < p->count; c += TILED, at += W_BYTES) {
            if (type == BF16) memcpy(at, row + 2 * c, TILE_LD);
            for (size_t j = 0; j < TILE_LD && type == F16; j += TILE_LD / 2)
                split_amx(f16_avx512(row + 2 * c + j), at + j, 2 * TILE_BYTES, 2);
        }
    }
}

/* Multiplies tiles 4 and 5 (of w) with tiles 6 and 7 (of x) and adds to the sums in tiles 0 to
 * 3. */
AMX INLINE void products_amx(void) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* Adds the products of `steps` * 32 columns to the 32 x 32 sums in the four tiles at acc. */
AMX INLINE void block_amx(int type, float *acc, const unsigned char *w, const unsigned char *x,
                          size_t steps) {
    __asm__ volatile("" ::: "memory"); /* gcc does not know that tile loads read memory */
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

/* Returns the address of a panel's unfinished sums. Sets *tokens to p->n, rounded up to TILED. */
static float *panel_sums_amx(const matmul_args *p, const panel *at, size_t *tokens) {
    *tokens = (p->n + TILED - 1) / TILED * TILED;
    return p->workspace->acc + at->group_row * *tokens;
}

/* Writes a panel's sums to y from their tiles [row][token], except those of repeated rows. */
static void unpack_amx(const matmul_args *p, const panel *at) {
    size_t tokens;
    const float *acc = panel_sums_amx(p, at, &tokens);
    for (size_t i = 0; i < TILED * tokens; i++) {
        size_t tile = i / TILE_FLOATS, in = i % TILE_FLOATS;
        size_t row = at->r + tile % 4 / 2 * SIDE + in / SIDE;
        size_t t = tile / 4 * TILED + tile % 2 * SIDE + in % SIDE;
        if (row < at->end && t < p->n) p->y[t * p->ldy + row] = acc[i];
    }
}

/* Multiplies a panel with all tokens and prefetches the next panel. */
AMX INLINE void multiply_panel_amx(int type, const matmul_args *p, const panel *at) {
    const weight_rows *w = &p->w;
    size_t tokens, steps = at->count / TILED;
    float *acc = panel_sums_amx(p, at, &tokens);
    size_t groups = tokens / TILED, column = at->segment * w->cols + at->k;
    unsigned char *parts = (unsigned char *)p->workspace->panel;
    const unsigned char *x = (const unsigned char *)p->x + column * groups / TILED * X_BYTES;
    uintptr_t next = (uintptr_t)w->part[at->segment] + at->r * w->stride + 2 * at->k + at->next;
    if (at->first) memset(acc, 0, TILED * tokens * sizeof *acc);
    split_rows_amx(parts, type, w, at);
    for (size_t g = 0; g < groups; g++, acc += TILED * TILED, x += steps * X_BYTES) {
        for (size_t i = g * TILED / groups; i < (g + 1) * TILED / groups; i++)
            for (size_t c = 0; c < 2 * at->count; c += 64)
                __builtin_prefetch((const void *)(next + i * w->stride + c), 0, 2);
        block_amx(type, acc, parts, x, steps);
    }
}

/* Calls multiply_panel_amx with a constant type. */
AMX static void multiply_amx(const matmul_args *p, const panel *at) {
    if (p->w.type == F16) multiply_panel_amx(F16, p, at);
    else multiply_panel_amx(BF16, p, at);
}

/* Computes the rows begin <= r < end of a matmul, with AMX if is_tiled, else with AVX-512. The
 * tiles are configured, 16 rows of 64 bytes each, and released in each call. */
AMX static void matmul_amx(const matmul_args *p, size_t begin, size_t end) {
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
    __asm__ volatile("" ::"r"(&config) : "memory"); /* gcc thinks that only 8 bytes are read */
    _tile_loadconfig(&config);
    matmul_blocked(p, begin, end, TILED, multiply_amx, unpack_amx);
    _tile_release();
}

static const kernels kernels_amx = {"avx512 and amx", 0,           PREFETCH_NOTHING, matmul_amx,
                                    rmsnorm_avx512,   rope_avx512, attend_avx512,    swiglu_avx512,
                                    pack_amx};
#endif

/* ---- The choice of kernels ---- */

/* A binary may run on another machine than the one that compiled it. So each new session checks
 * what this machine has. An instruction set can be used if two conditions hold:
 *
 *   - cpuid reports that the processor has the instructions.
 *   - xgetbv reports that the system saves their registers when it switches threads: bits 1 and 2
 *     for 256-bit registers, 5 to 7 for AVX-512, 17 and 18 for the tiles of AMX.
 *
 * Compilers' own functions (__builtin_cpu_supports) do not check all of these. */

#if defined(__x86_64__)
/* What differs between processors with the same instructions is how fast they read memory. The
 * kernels as they are were measured on Zen 5; processors that are not named here have them too. One
 * token of the 7B shape, float16, one thread: Zen 5 79 ms without prefetching, 83 with the next tile
 * prefetched, 62 with the rows. */

/* Zen 3 and Intel's processors themselves read several streams faster than with prefetching. With
 * AVX2 this holds until the arithmetic of more tokens comes between the reads. The same token with
 * the next tile prefetched and without: Zen 3 145 and 120 ms; Emerald Rapids 141 and 112. */
static const kernels kernels_streams = {
    "avx2", 6, PREFETCH_TILE, matmul_avx2, rmsnorm_avx2, rope_avx2, attend_avx2, swiglu_avx2, NULL};

/* Intel's processors read faster with 256-bit registers if the weights come from memory, and
 * multiply faster with 512-bit registers. */
static void matmul_intel(const matmul_args *p, size_t begin, size_t end) {
    enum { NARROW = 3, CACHED = 1 << 18 };
    bool cached = (end - begin) * p->w.stride <= CACHED;
    if (p->n <= NARROW && !cached) few_by_tokens_avx512vl[p->n - 1](p, begin, end);
    else matmul_avx512(p, begin, end);
}
static const kernels kernels_intel = {
    "avx512",      0,   PREFETCH_NOTHING, matmul_intel, rmsnorm_avx512, rope_avx512, attend_avx512,
    swiglu_avx512, NULL};

/* The units of Zen 4 are 256 bits wide: up to FEW tokens are faster with narrower registers, wherever
 * the weights are. The weights of the first tiles come from memory too. */
static void multiply_panel_zen4(const matmul_args *p, const panel *at) {
    multiply_tiles_avx512(p, at, first_tiles_avx512vl, FIRST_VECS_avx512vl * VR_avx512vl);
}
static void matmul_zen4(const matmul_args *p, size_t begin, size_t end) {
    if (p->n <= FEW) few_by_tokens_avx512vl[p->n - 1](p, begin, end);
    else matmul_blocked(p, begin, end, PANEL_ROWS, multiply_panel_zen4, reduce_lanes_avx512);
}
static const kernels kernels_zen4 = {
    "avx512",      0,   PREFETCH_TILE, matmul_zen4, rmsnorm_avx512, rope_avx512, attend_avx512,
    swiglu_avx512, NULL};

/* Returns 2 if AVX-512F and VL can be used, 1 if AVX2, FMA and F16C can be used, otherwise 0. */
static int x86_level(void) {
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27, F16C = 1 << 29, AVX2 = 1 << 5 };
    const unsigned AVX512 = 1u << 16 | 1u << 31; /* F, VL */
    enum { YMM_STATE = 6, ZMM_STATE = 0xe6 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & FMA) || !(c & OSXSAVE) || !(c & F16C)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & YMM_STATE) != YMM_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2))
        return 0;
    return (b & AVX512) == AVX512 && (low & ZMM_STATE) == ZMM_STATE ? 2 : 1;
}

/* Returns whether the processor is of AMD's family 0x19: with AVX-512 a Zen 4, else a Zen 3. */
static bool is_zen3_or_4(void) {
    unsigned a = 0, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (a >> 8 & 15) + (a >> 20 & 255) == 0x19;
}
static bool is_intel(void) {
    enum { GENU = 0x756e6547 }; /* the first letters of GenuineIntel */
    unsigned a, b = 0, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == GENU;
}

/* Returns true if AMX with bfloat16 can be used. Linux must be asked for permission, because every
 * thread then has 8 KB more registers to save, and signal frames become larger. One request per
 * process is enough; more requests change nothing. */
static bool has_amx(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, TILE_STATE = 0x60000 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & TILE_STATE) == TILE_STATE && llamac_allow_amx();
}
#endif

/* Returns the kernels of this name, or the fastest if name is NULL. If `fast` is set, AVX-512
 * includes AMX if this machine has it. Returns NULL if this build or this machine has no such
 * kernels. */
static const kernels *find_kernels(const char *name, bool fast) {
#if defined(__x86_64__)
    int best = x86_level();
    const kernels *all[] = {&kernels_scalar, &kernels_avx2, &kernels_avx512};
    bool zen = is_zen3_or_4(), intel = is_intel();
    if (intel || (zen && best == 1)) all[1] = &kernels_streams;
    if (intel) all[2] = &kernels_intel;
    if (zen) all[2] = &kernels_zen4;
    if (fast && best == 2 && (!name || strcmp(name, "avx512") == 0) && has_amx())
        return &kernels_amx; /* tests/unit/amx.c tests these with AMX's instructions in plain C */
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
#undef INLINE /* a program that includes this file may use these names */
#undef FN
#undef LITERAL
#undef UNROLL
#undef AMX
#endif /* LLAMA_COMMON_ONLY */

#ifndef LLAMAC_COMMON
#define LLAMAC_COMMON

/* ============================================================================================== */
/* IV. Common ground: what tokenizer.c uses too                                                   */
/* ============================================================================================== */

/* Guarantee: a damaged file can make a parser fail, but cannot make it read outside the file's
 * bytes. Only the platform section makes system calls. Only llamac_fail writes error texts. This
 * part does not use the structs of the model, so tokenizer.c can compile it without the rest. */

/* ---- Cursor ---- */

/* Parsers read bytes only through a cursor. A read past the end returns zeros, or NULL, and sets
 * `bad`, which stays set. A parser can therefore read several fields and check `bad` once:
 *
 *     llamac_cursor c = llamac_cursor_on(data, size);
 *     uint64_t count = llamac_uint(&c, 8), length = llamac_uint(&c, 4);
 *     const unsigned char *name = llamac_take(&c, length);
 *     if (c.bad) return "is truncated";
 *
 * A number that sets the size of a buffer or the end of a loop must be checked before it is
 * used. */
typedef struct {
    const unsigned char *at, *end; /* the next byte, and the end of the bytes */
    bool bad;                      /* a read went past the end, or a parser found an error */
} llamac_cursor;

/* Returns a cursor at the first of n bytes; p may be NULL if n is 0. */
LLAMAC_INLINE llamac_cursor llamac_cursor_on(const void *p, size_t n) {
    const unsigned char *at = (const unsigned char *)p;
    llamac_cursor c = {at, n ? at + n : at, false};
    return c;
}

/* Returns the number of bytes from the cursor to the end. */
LLAMAC_INLINE size_t llamac_left(const llamac_cursor *c) { return (size_t)(c->end - c->at); }

/* Returns a pointer to the next n bytes and moves past them. If fewer than n bytes are left,
 * returns NULL, sets `bad` and moves to the end. */
LLAMAC_INLINE const unsigned char *llamac_take(llamac_cursor *c, uint64_t n) {
    if (c->bad || n > llamac_left(c)) {
        c->bad = true;
        c->at = c->end;
        return NULL;
    }
    const unsigned char *p = c->at;
    c->at += n;
    return p;
}

/* Reads a little-endian unsigned integer of n <= 8 bytes. If fewer are left, returns 0 and sets
 * `bad`. */
LLAMAC_INLINE uint64_t llamac_uint(llamac_cursor *c, int n) {
    const unsigned char *p = llamac_take(c, (uint64_t)n);
    uint64_t v = 0;
    for (int i = n - 1; p && i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* Returns whether the n bytes of text are equal to the C string `want`. */
LLAMAC_INLINE bool llamac_is(const char *text, size_t n, const char *want) {
    return strlen(want) == n && memcmp(text, want, n) == 0;
}

/* ---- UTF-8 ---- */

/* Decodes the character at the start of n > 0 bytes into *number and returns its length in bytes.
 * If the bytes are not valid UTF-8, sets *number to -1 and returns 1. Overlong forms, surrogates
 * and values above U+10FFFF are not valid. */
LLAMAC_INLINE size_t llamac_utf8_next(const char *text, size_t n, int32_t *number) {
    static const int32_t min[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = (const unsigned char *)text;
    size_t size = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0x80 ? 2 : 1;
    *number = -1;
    if (size > n || (s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4) return 1;
    int32_t code = size == 1 ? s[0] : s[0] & (0x7f >> size);
    for (size_t i = 1; i < size; i++) {
        if ((s[i] & 0xc0) != 0x80) return 1;
        code = code << 6 | (s[i] & 0x3f);
    }
    if (code < min[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 1;
    *number = code;
    return size;
}

/* Returns whether a terminal would act on the character instead of showing it: C0 and C1 controls,
 * DEL, characters that change the direction of writing, and -1 (an invalid byte). */
LLAMAC_INLINE bool llamac_is_control(int32_t c) {
    return c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
           (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* Returns whether c is Unicode white space or a separator 0x1c to 0x1f, which Python's str.isspace
 * also accepts. */
LLAMAC_INLINE bool llamac_is_space(int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= ' ') || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Returns the length of a text without its trailing white space. */
LLAMAC_INLINE size_t llamac_trimmed_length(const char *text, size_t n) {
    size_t trimmed = 0;
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c;
        size = llamac_utf8_next(text + i, n - i, &c);
        if (!llamac_is_space(c)) trimmed = i + size;
    }
    return trimmed;
}

/* ---- Memory and errors ---- */

/* Allocate and free memory if the host gives no allocator: see the section Platform. */
LLAMAC_INLINE void *llamac_default_alloc(void *user, size_t bytes, size_t align);
LLAMAC_INLINE void llamac_default_free(void *user, void *p, size_t bytes);

/* Copies a caller's options, whose first field is their size in bytes. They may be shorter or
 * longer than the `known` bytes of this version: absent fields become 0, unknown fields are
 * ignored. If `from` is NULL, all fields become 0. Returns false if the size was not set. */
LLAMAC_INLINE bool llamac_copy_options(void *to, size_t known, const void *from) {
    size_t size = known;
    memset(to, 0, known);
    if (!from) return true;
    memcpy(&size, from, sizeof size);
    if (size < sizeof size) return false;
    memcpy(to, from, size < known ? size : known);
    return true;
}

/* Allocates count * size zeroed bytes in the arena, aligned to 16 bytes. Returns NULL if memory
 * runs out or if the product overflows. */
LLAMAC_INLINE void *llamac_new(llamac_arena *a, uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 4) return NULL;
    size_t need = ((size_t)bytes + 15) / 16 * 16;
    llamac_block *b = a->last;
    if (!b || b->bytes - b->used < need) {
        size_t capacity = LLAMAC_ALIGNMENT + (need > LLAMAC_CHUNK / 4 ? need : LLAMAC_CHUNK);
        b = (llamac_block *)a->allocator.alloc(a->allocator.user, capacity, LLAMAC_ALIGNMENT);
        if (!b) return NULL;
        *b = (llamac_block){a->last, capacity, LLAMAC_ALIGNMENT};
        a->last = b;
    }
    void *p = (char *)b + b->used;
    b->used += need;
    return memset(p, 0, need);
}

/* Frees all allocations of the arena, which can then be used again. */
LLAMAC_INLINE void llamac_free_all(llamac_arena *a) {
    while (a->last) {
        llamac_block *b = a->last;
        a->last = b->next;
        a->allocator.free(a->allocator.user, b, b->bytes);
    }
}

/* Writes the status and the formatted text to err, which may be NULL, and returns the status. The
 * text is one line, truncated at the size of err->text. Control characters and invalid UTF-8 become
 * '?', because file names and tensor names are part of the text and must not control a terminal. */
__attribute__((format(LLAMAC_PRINTF, 3, 4))) LLAMAC_INLINE int
llamac_fail(llama_error *err, int status, const char *format, ...) {
    if (!err) return status;
    enum { BEGIN = 100, MAX = sizeof err->text };
    char text[8192];
    va_list args;
    va_start(args, format);
    err->status = status;
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t n_text = length < (int)sizeof text ? (size_t)length : sizeof text - 1;
    size_t left_out = n_text < MAX ? 0 : n_text + sizeof "..." - MAX; /* inside of a long path */
    memcpy(err->text, text, left_out ? BEGIN : n_text + 1);
    if (left_out) snprintf(err->text + BEGIN, MAX - BEGIN, "...%s", text + BEGIN + left_out);
    for (size_t i = 0, n = strlen(err->text), size; i < n; i += size) {
        int32_t c;
        size = llamac_utf8_next(err->text + i, n - i, &c);
        if (llamac_is_control(c)) memset(err->text + i, '?', size);
    }
    return status;
}

/* Copies the host's allocator to *to, because the host may reuse its struct after the call. Without
 * one, or if both its functions are NULL, copies the default allocator. If it has only one of the
 * functions, writes the reason to err and returns LLAMA_EINVAL. */
LLAMAC_INLINE int llamac_copy_allocator(llama_allocator *to, const llama_allocator *a,
                                        llama_error *err) {
    bool given = a && (a->alloc || a->free);
    *to = given ? *a : (llama_allocator){NULL, llamac_default_alloc, llamac_default_free};
    return to->alloc && to->free
               ? LLAMA_OK
               : llamac_fail(err, LLAMA_EINVAL, "the allocator has no function %s",
                             to->alloc ? "free" : "alloc");
}

/* Reports that memory ran out. `what` names what needed it, usually a file. */
LLAMAC_INLINE int llamac_out_of_memory(llama_error *err, const char *what) {
    return llamac_fail(err, LLAMA_ENOMEM, "%s: out of memory", what);
}

/* ---- Values of JSON and GGUF ---- */

/* The kinds of a value:
 *
 *     '0'        a number            '{'  '['   the start of an object or array
 *     '"'        a string            '}'  ']'   the end of an object or array (JSON only)
 *     't'  'f'   true or false       0          not a value
 *     'n'        null */
typedef struct {
    char kind;
    double number;       /* of kind '0' */
    const char *text;    /* of kind '"': [n] bytes; the escapes of JSON are not decoded */
    size_t n;            /* bytes of text, or items of a GGUF array */
    uint64_t type;       /* GGUF's type of the value or of an array's items; JSON: GGUF_NONE */
    llamac_cursor items; /* of a GGUF array: at the first item */
} llamac_value;

typedef struct {     /* a key and its value */
    const char *key; /* [length] */
    size_t length;
    llamac_value value;
} llamac_pair;

/* The types of GGUF that are not integers. A bool is one byte, 0 or 1. */
enum { GGUF_FLOAT = 6, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_DOUBLE = 12, GGUF_NONE = 255 };

/* ---- JSON ---- */

/* Parameter files, index files, safetensors headers and tokenizer.json are JSON (ECMA-404). The
 * parser does not recurse and does not allocate: strings are pointers into the document. It refuses
 * what ECMA-404 does not allow, such as a trailing comma or a comment. It does not check UTF-8. */

/* Skips white space. Returns true and takes the next character if it is `want`. */
LLAMAC_INLINE bool llamac_json_is(llamac_cursor *c, char want) {
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4)) c->at++;
    if (c->at == c->end || *c->at != (unsigned char)want) return false;
    c->at++;
    return true;
}

/* Reads a string. Returns false if it is not valid. Its escapes are checked but not decoded: the
 * keys that this library looks for have none. */
LLAMAC_INLINE bool llamac_json_string(llamac_cursor *c, const char **text, size_t *n) {
    if (!llamac_json_is(c, '"')) return false;
    *text = (const char *)c->at;
    for (; c->at < c->end && *c->at != '"'; c->at++) {
        bool escape = *c->at == '\\';
        if (*c->at < ' ' || (escape && (++c->at == c->end || !memchr("\"\\/bfnrtu", *c->at, 9))))
            return false;
        for (int i = escape && *c->at == 'u' ? 4 : 0; i; i--) /* hexadecimal digits */
            if (++c->at == c->end || !memchr("0123456789abcdefABCDEF", *c->at, 22)) return false;
    }
    *n = (size_t)((const char *)c->at - *text);
    return llamac_take(c, 1) != NULL;
}

/* Reads decimal digits, appends them to the number v, and adds their count to *n. Stops when *n is
 * 400; a document with such a long number is refused. strtod is not used, because it follows the
 * host's locale, which may expect a decimal comma. */
LLAMAC_INLINE double llamac_json_digits(llamac_cursor *c, double v, int *n) {
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9' && *n < 400; ++*n)
        v = v * 10 + (*c->at++ - '0');
    return v;
}

/* Reads a number. Returns false if it is not valid. The result is correctly rounded if the number
 * has at most 15 digits and, written as an integer times a power of ten, an exponent from -22 to
 * 22: then both factors are exact doubles. The numbers in params.json are of this kind. */
LLAMAC_INLINE bool llamac_json_number(llamac_cursor *c, double *out) {
    bool negative = llamac_json_is(c, '-'), negative_exponent = false;
    bool zero = c->at < c->end && *c->at == '0'; /* the number must then be 0, 0.x or 0e.. */
    int before_point = 0, digits = 0, exponent_digits = 0; /* digits: before and after the point */
    double v = llamac_json_digits(c, 0, &before_point), scale = 1, exponent = 0;
    if (zero && before_point > 1) return false; /* such as 08 */
    digits = before_point;
    if (before_point && c->at < c->end && *c->at == '.') {
        c->at++, v = llamac_json_digits(c, v, &digits);
        if (digits == before_point) return false; /* such as 8. */
    }
    if (before_point && c->at < c->end && (*c->at | 32) == 'e') {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) negative_exponent = *c->at++ == '-';
        exponent = llamac_json_digits(c, 0, &exponent_digits);
        if (!exponent_digits) return false;
        if (exponent > 1000) exponent = 1000; /* bounds the loop below */
    }
    exponent = (negative_exponent ? -exponent : exponent) + before_point - digits;
    for (double i = exponent < 0 ? -exponent : exponent; i > 0; i--) scale *= 10;
    v = exponent < 0 ? v / scale : v * scale;
    *out = negative ? -v : v;
    return before_point && digits < 400;
}

/* llamac_json_next reads a document value by value. A container is an object or an array. The level
 * of a value is the number of containers that it is in. For each level l from 1 to that of the
 * value, key[l] is the key of the value, or of the container around it, at level l. In an array the
 * key is "". For example,
 *
 *     {"dim": 4096, "rope": {"type": "default"}, "ends": [2, 3]}
 *
 * has these values:
 *
 *     kind        '{'   '0'    '{'     '"'     '}'     '['     '0'     '0'     ']'     '}'
 *     level       0     1      1       2       1       1       2       2       1       0
 *     key[1]            dim    rope    rope    rope    ends    ends    ends    ends
 *     key[2]                           type                    ""      ""
 *
 * A document with containers nested deeper than LLAMAC_JSON_DEPTH is refused. */
enum { LLAMAC_JSON_DEPTH = 32 };
typedef struct {
    llamac_cursor c;              /* at the next value; c.bad: the document is not valid JSON */
    int level, depth;             /* level of the value; containers open after the value */
    bool begun;                   /* the current container, or the document, has had a value */
    char ends[LLAMAC_JSON_DEPTH]; /* [depth] the character that ends each open container */
    struct {
        const char *text; /* [n] bytes, escapes not decoded */
        size_t n;
    } key[LLAMAC_JSON_DEPTH + 1]; /* by level */
    llamac_value value;
} llamac_json;

/* Returns a parser at the start of a document of n bytes. */
LLAMAC_INLINE llamac_json llamac_json_on(const void *p, size_t n) {
    llamac_json j = {0};
    j.c = llamac_cursor_on(p, n);
    j.value.type = GGUF_NONE;
    return j;
}

/* Reads a value that is not a container and returns its kind; 0 if it is not valid. */
LLAMAC_INLINE char llamac_json_plain(llamac_json *j) {
    static const char *const words[] = {"true", "false", "null"};
    llamac_cursor *c = &j->c;
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (llamac_left(c) < n || memcmp(c->at, words[i], n) != 0) continue;
        c->at += n;
        return *words[i];
    }
    if (c->at < c->end && *c->at == '"')
        return llamac_json_string(c, &j->value.text, &j->value.n) ? '"' : 0;
    return llamac_json_number(c, &j->value.number) ? '0' : 0;
}

/* Reads the next value into j and returns its kind. Returns 0 at the end of the document, or with
 * c.bad set if the document is not valid JSON. */
LLAMAC_INLINE char llamac_json_next(llamac_json *j) {
    llamac_cursor *c = &j->c;
    char end = j->depth ? j->ends[j->depth - 1] : 0;
    j->value.kind = 0;
    if (!end && j->begun) { /* only white space may follow the document's value */
        c->bad = llamac_json_is(c, 0) || c->at != c->end;
        return 0;
    }
    if (end && llamac_json_is(c, end)) {
        j->level = --j->depth;
        j->begun = true;
        return j->value.kind = end;
    }
    bool good = !end || !j->begun || llamac_json_is(c, ',');
    j->level = j->depth;
    j->key[j->level].text = "";
    j->key[j->level].n = 0;
    if (good && end == '}')
        good = llamac_json_string(c, &j->key[j->level].text, &j->key[j->level].n) &&
               llamac_json_is(c, ':');
    bool object = good && llamac_json_is(c, '{'), container = object || llamac_json_is(c, '[');
    if (good && container && j->depth < LLAMAC_JSON_DEPTH) {
        j->ends[j->depth++] = object ? '}' : ']';
        j->value.kind = object ? '{' : '[';
    } else if (good && !container) j->value.kind = llamac_json_plain(j);
    j->begun = !container;
    c->bad = !j->value.kind;
    return j->value.kind;
}

/* Returns whether the value at this level, or the container at this level around it, has this
 * key. */
LLAMAC_INLINE bool llamac_json_under(const llamac_json *j, int level, const char *key) {
    return j->level >= level && llamac_is(j->key[level].text, j->key[level].n, key);
}

/* ---- GGUF values ---- */

/* Reads a GGUF value that is not an array, and returns its kind. Returns 0 if the type is unknown
 * or an array, if a bool is not 0 or 1, or if the file is truncated. Integers above 2^53 are
 * rounded to a double. A string is its length in 8 bytes, then its text. */
LLAMAC_INLINE char llamac_gguf_value(llamac_cursor *c, uint64_t type, llamac_value *v) {
    /* uint8, int8, uint16, int16, uint32, int32, float, bool, length of a string, 0 for an array,
     * uint64, int64, double */
    static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    if (type >= sizeof bytes || !bytes[type]) return v->kind = 0;
    int n = bytes[type];
    *v = (llamac_value){.type = type, .kind = '0'};
    uint64_t bits = llamac_uint(c, n);
    if (type == GGUF_BOOL && bits > 1) return v->kind = 0;
    v->number = (double)bits;
    if (type == 1 || type == 3 || type == 5 || type == 11) { /* signed: extend the sign bit */
        if (n < 8 && bits >> (8 * n - 1)) bits |= UINT64_MAX << (8 * n);
        v->number = (double)(int64_t)bits;
    }
    if (type == GGUF_FLOAT) {
        uint32_t low = (uint32_t)bits;
        float f;
        memcpy(&f, &low, sizeof f);
        v->number = (double)f;
    }
    if (type == GGUF_DOUBLE) memcpy(&v->number, &bits, sizeof bits);
    if (type == GGUF_STRING) v->text = (const char *)llamac_take(c, v->n = bits);
    if (type == GGUF_STRING) v->kind = '"';
    if (type == GGUF_BOOL) v->kind = bits ? 't' : 'f';
    return v->kind = c->bad ? 0 : v->kind;
}

/* ---- Platform: what the library needs from the operating system and the processor ---- */

/* Only the sections named Platform make system calls or ask which system it is. The functions are
 * declared first. Their bodies follow: for POSIX, then what Linux, macOS and FreeBSD have beyond it, then
 * for Windows. Paths are UTF-8 on Windows. A function that can fail reports it in one of two ways, as
 * its comment says: it returns a status of llama.h and writes the reason to err, or it returns -1
 * and sets errno.
 *
 * Weights are mapped read-only and shared, so the mapped pages are the kernel's page cache. Mapping
 * copies nothing, and opening a model reads only the headers of its weight files. Processes that
 * open the same model share one copy of its weights in memory. Reading a page that is not in memory
 * waits for the disk. Small files (parameters, tokenizer, index) are read into memory, because
 * another process can truncate a mapped file. */

enum {
    LLAMAC_PATH_BYTES = 4096, /* limit of a path, including its final 0 */
    LLAMAC_NAME_BYTES = 256   /* and of the name of a file */
};

typedef struct {
    llamac_handle handle;
    uint64_t size;  /* in bytes */
    uint64_t id[2]; /* device and inode: the same for all names of one file */
    unsigned mode;  /* permission bits; Windows: 0 */
} llamac_file;

typedef struct { /* a new file that replaces `path` after all of it is written */
    llamac_handle handle;
    uint64_t left;                         /* bytes that RLIMIT_FSIZE still allows to write */
    unsigned mode;                         /* permission bits of the new file */
    char path[LLAMAC_PATH_BYTES];          /* the file to replace; if it exists, its real path */
    char temporary[LLAMAC_PATH_BYTES + 8]; /* the file that is written, in the same folder */
} llamac_replacement;

/* Opens a regular file for reading. Returns LLAMA_EFORMAT if it is empty, and LLAMA_EIO if it
 * cannot be opened or is not a regular file. */
LLAMAC_INLINE int llamac_open_file(llamac_file *, const char *path, llama_error *);
/* Returns whether opening, mapping or reading a file failed because the path does not exist. Reads
 * errno: call it directly after the function that returned the status. */
LLAMAC_INLINE bool llamac_is_not_found(int status);
/* Returns the number of bytes read, which is less than n only at the end of the file. Returns -1 on
 * failure. */
LLAMAC_INLINE ptrdiff_t llamac_read(const llamac_file *, void *to, size_t n);
LLAMAC_INLINE void llamac_close_file(llamac_file *);
/* Returns whether folder/name exists. */
LLAMAC_INLINE bool llamac_file_exists(const char *folder, const char *name);
/* Returns how many bytes of a path come before the name of its file: the folder and a slash. */
LLAMAC_INLINE size_t llamac_folder_bytes(const char *path);
/* Copies the names of a folder's entries, except hidden ones, sorted by bytes. Returns their number;
 * 0 if the folder cannot be read or has more than `max`. */
LLAMAC_INLINE size_t llamac_list_folder(const char *folder, char (*names)[LLAMAC_NAME_BYTES],
                                        size_t max);
/* Returns 1 for a folder, 0 for anything else, LLAMA_EIO if the path cannot be examined. */
LLAMAC_INLINE int llamac_is_folder(const char *path, llama_error *);

/* Creates a temporary file in the folder of `path`; if `path` is a symbolic link, in the folder of
 * the file to which it points (not on Windows). If is_new is false, `path` must exist. Returns 0, or
 * -1 with errno set. */
LLAMAC_INLINE int llamac_replace_begin(llamac_replacement *, const char *path, bool is_new,
                                       unsigned mode);
/* Appends n bytes to the temporary file: a llama_write_fn. Returns 0, or -1 with errno set. Fails
 * with EFBIG where the process's limit of a file's size (ulimit -f) would raise SIGXFSZ. */
LLAMAC_INLINE int llamac_replace_write(void *replacement, const void *p, size_t n);
/* If `keep` is true, flushes the temporary file to the disk, renames it to `path` and returns 0. If
 * that fails, or if `keep` is false, removes the temporary file and returns -1. Sets errno only if
 * something failed. */
LLAMAC_INLINE int llamac_replace_end(llamac_replacement *, bool keep);

/* Maps a complete file. Fails as llamac_open_file does, or with LLAMA_ENOMEM. */
LLAMAC_INLINE int llamac_map_file(llamac_mapping *, const char *path, llama_error *);
/* Does nothing if no file is mapped. */
LLAMAC_INLINE void llamac_unmap_file(llamac_mapping *);
/* Returns whether `path` is still the file that was mapped, with the same size. */
LLAMAC_INLINE bool llamac_is_mapped(const llamac_mapping *, const char *path);
/* Turns read-ahead off, for scattered reads. Returns true if the file is known to be cold: if none of
 * it is in memory, judged by one page in 16 MB. */
LLAMAC_INLINE bool llamac_advise_random(const llamac_mapping *);
/* Turns read-ahead on again. `cold` is what llamac_advise_random returned. */
LLAMAC_INLINE void llamac_advise_normal(const llamac_mapping *, bool cold);
/* Asks for large pages, for n mapped bytes and the rest of the pages that they are in. */
LLAMAC_INLINE void llamac_advise_large_pages(const unsigned char *data, size_t n);
/* For a mapping of which little is used from now on: takes the pages that opening touched out of the
 * process, and turns read-ahead and large pages off. */
LLAMAC_INLINE void llamac_advise_sparse(const llamac_mapping *);
/* Reads n mapped bytes from the disk into memory. */
LLAMAC_INLINE void llamac_page_in(const unsigned char *data, size_t n);
/* Locks a mapped file in memory. Returns 0, or -1 with errno set. */
LLAMAC_INLINE int llamac_lock(const void *, size_t n);
/* Replaces the pages of a mapping by zeros, from the page of `address` to the end; on Windows all of
 * them. Returns false on failure. Safe in a signal handler. */
LLAMAC_INLINE bool llamac_map_zeros(const llamac_mapping *, uintptr_t address, size_t page);

enum { LLAMAC_SECTOR = 4096 }; /* unbuffered reads: of addresses, offsets and sizes a multiple */
typedef struct {               /* a file that is read beside its mapping */
    llamac_handle buffered, unbuffered; /* -1: not open, or not possible in its file system */
} llamac_source;
/* Opens the file of a mapping for llamac_read_at. Returns LLAMA_EIO if `path` is another file now. */
LLAMAC_INLINE int llamac_open_source(llamac_source *, const llamac_mapping *, const char *path,
                                     llama_error *);
LLAMAC_INLINE void llamac_close_source(llamac_source *);
/* Reads n bytes from `offset` on. `to` has room for n rounded up to whole sectors, and this may write
 * all of it. Unbuffered: bypasses the page cache, if the file
 * system can. Buffered: drops the bytes from it afterwards.
 * Returns 0, or -1 with errno set; errno is 0 if the file ends before. */
LLAMAC_INLINE int llamac_read_at(const llamac_source *, void *to, uint64_t offset, size_t n,
                                 bool unbuffered);
/* Drops bytes of a file from the page cache, so that the next read comes from the disk. */
LLAMAC_INLINE void llamac_drop_cached(const llamac_source *, uint64_t offset, size_t n);
/* Reserves n bytes of zeros, which take memory when they are written, in large pages if the system
 * has them. Returns NULL on failure. */
LLAMAC_INLINE void *llamac_reserve_memory(size_t n);
/* Gives back the memory of n bytes from p on, or of all of them with their addresses. */
LLAMAC_INLINE void llamac_discard_memory(void *p, size_t n);
LLAMAC_INLINE void llamac_free_memory(void *p, size_t n);
/* Returns how many bytes this process can still use without swapping: what the machine has
 * available, or what its cgroups leave. 0: unknown. */
LLAMAC_INLINE uint64_t llamac_available_memory(void);

/* llamac_default_alloc and llamac_default_free, declared above, allocate memory if the host gives no
 * allocator. */

/* Returns the size of a page in bytes. */
LLAMAC_INLINE size_t llamac_page_size(void);
/* Asks for small pages for n bytes that are used sparsely. If the system uses large pages by
 * default, touching one byte takes 2 MB. Leaves blocks of up to 32 MB as they are, because malloc
 * may have put other data into their pages. */
LLAMAC_INLINE void llamac_advise_small_pages(void *p, size_t n, size_t page);
typedef struct { /* where memory that a thread reads from files is placed */
    bool changed;
    int mode;
    unsigned long nodes[16];
} llamac_placement;
/* On machines whose memory is in several nodes, one for each socket: places the pages that this
 * thread reads on all nodes in turn. Returns what was before, for llamac_place_as_before. */
LLAMAC_INLINE llamac_placement llamac_place_on_all_nodes(void);
LLAMAC_INLINE void llamac_place_as_before(const llamac_placement *);

/* Declared before part I, as parts II and III need them:
 *
 *   llamac_fp_enter, _leave   set the default floating-point mode, and restore the host's
 *   llamac_allow_amx          asks Linux for permission to use the AMX tiles in this process
 *   llamac_start_thread       starts a thread that takes no signals; its llamac_thread must stay
 *                             where it is until the end. Returns false on failure
 *   llamac_join_thread        waits for its end
 *   llamac_make_bell          makes a bell, where llamac_sleep sleeps until the condition is true
 *   llamac_ring               wakes all who sleep there, to look at the condition again; costs
 *                             nothing if nobody sleeps
 *   llamac_enter, _leave      between them, one thread at a time: a bell is a monitor too. Leaving
 *                             wakes all who wait there
 *   llamac_unlock             leaves, and wakes nobody
 *   llamac_wait, _notify      in between: lets others in until one of them notifies or leaves; wakes
 *                             all who wait
 *   llamac_wait_briefly       the same, for 50 ms at most
 *   llamac_this_thread        the calling thread; llamac_same_thread compares two
 *   llamac_pause              leaves the core to others for a moment, in a loop that waits
 *   llamac_nanoseconds        the time, of a clock that never goes back
 *   llamac_running_time       the nanoseconds for which this thread has had a core
 *   llamac_process            the id of this process
 *   llamac_cores              how many cores it may use: its CPU affinity and its quota; macOS: the
 *                             fast cores
 */

LLAMAC_INLINE bool llamac_is_not_found(int status) {
    return status == LLAMA_EIO && errno == ENOENT;
}

/* Compares two names by their bytes. For qsort. */
LLAMAC_INLINE int llamac_compare_names(const void *a, const void *b) { return strcmp(a, b); }

#if !defined(_WIN32)
/* ---- Platform: POSIX: files ---- */

/* O_NONBLOCK: if the path is a FIFO, opening it must not wait for a writer. */
LLAMAC_INLINE int llamac_open_file(llamac_file *f, const char *path, llama_error *err) {
    struct stat st;
    int status = LLAMA_OK, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *f = (llamac_file){.handle = -1};
    if (fd < 0) {
        int why = errno;
        llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(why));
        errno = why; /* for llamac_is_not_found */
        return LLAMA_EIO;
    }
    if (fstat(fd, &st) != 0)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    else {
        uint64_t size = st.st_size > 0 ? (uint64_t)st.st_size : 0;
        *f = (llamac_file){fd, size, {(uint64_t)st.st_dev, (uint64_t)st.st_ino}, st.st_mode & 0777};
        if (!S_ISREG(st.st_mode))
            status = llamac_fail(err, LLAMA_EIO, "%s: is not a regular file; give the file itself",
                                 path);
        else if (size == 0)
            status = llamac_fail(err, LLAMA_EFORMAT,
                                 "%s: is empty; download it again or give another file", path);
    }
    /* cppcheck-suppress resourceLeak; *f owns it */
    if (status == LLAMA_OK) return LLAMA_OK;
    close(fd);
    f->handle = -1;
    errno = 0; /* so llamac_is_not_found is false: the file exists */
    return status;
}

LLAMAC_INLINE void llamac_close_file(llamac_file *f) {
    if (f->handle >= 0) close(f->handle);
    f->handle = -1;
}

/* read may return fewer bytes than requested, and a signal may interrupt it. */
LLAMAC_INLINE ptrdiff_t llamac_read(const llamac_file *f, void *to, size_t n) {
    size_t done = 0;
    while (done < n) {
        ssize_t got = read(f->handle, (char *)to + done, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ptrdiff_t)done;
}

LLAMAC_INLINE bool llamac_file_exists(const char *folder, const char *name) {
    char path[LLAMAC_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && n < LLAMAC_PATH_BYTES && access(path, F_OK) == 0;
}

LLAMAC_INLINE int llamac_is_folder(const char *path, llama_error *err) {
    struct stat st;
    if (stat(path, &st) == 0) return S_ISDIR(st.st_mode);
    return llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(errno));
}

LLAMAC_INLINE size_t llamac_folder_bytes(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

LLAMAC_INLINE size_t llamac_list_folder(const char *folder, char (*names)[LLAMAC_NAME_BYTES],
                                        size_t max) {
    DIR *d = opendir(folder);
    size_t n = 0;
    /* cppcheck-suppress readdirCalled; each call has a stream of its own */
    for (const struct dirent *e; d && n <= max && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.' || strlen(e->d_name) >= LLAMAC_NAME_BYTES) continue;
        if (n < max) memcpy(names[n], e->d_name, strlen(e->d_name) + 1);
        n++;
    }
    if (d) closedir(d);
    if (n > max) return 0;
    qsort(names, n, sizeof *names, llamac_compare_names);
    return n;
}

/* ---- Platform: POSIX: replacing a file ---- */

/* Replaces a path that is a symbolic link to a file that does not exist yet by the path of that
 * file; realpath needs a file that exists. Returns 0, or -1 with errno set. */
LLAMAC_INLINE int llamac_follow_links(char path[LLAMAC_PATH_BYTES]) {
    enum { MAX_LINKS = 40 }; /* as Linux has; macOS has 32 */
    char target[LLAMAC_PATH_BYTES];
    for (int i = 0; i < MAX_LINKS; i++) {
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0) return errno == EINVAL || errno == ENOENT ? 0 : -1; /* not a link */
        size_t folder = n && target[0] != '/' ? llamac_folder_bytes(path) : 0;
        if (folder + (size_t)n >= LLAMAC_PATH_BYTES) return errno = ENAMETOOLONG, -1;
        memcpy(path + folder, target, (size_t)n);
        path[folder + (size_t)n] = 0;
    }
    return errno = ELOOP, -1;
}

/* The temporary name is `path` plus six hexadecimal digits, made from the process id. If a file has
 * that name, the next number is tried, up to 100 numbers. */
LLAMAC_INLINE int llamac_replace_begin(llamac_replacement *r, const char *path, bool is_new,
                                       unsigned mode) {
    struct rlimit limit;
    r->handle = -1;
    r->mode = mode;
    r->left = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
                  ? (uint64_t)limit.rlim_cur
                  : UINT64_MAX;
    snprintf(r->path, sizeof r->path, "%s", path);
    if (is_new ? llamac_follow_links(r->path) != 0 : !realpath(path, r->path)) return -1;
    errno = EEXIST;
    for (unsigned i = 0; i < 100 && r->handle < 0 && errno == EEXIST; i++) {
        snprintf(r->temporary, sizeof r->temporary, "%s.%06x", r->path,
                 ((unsigned)getpid() * 100 + i) & 0xffffff);
        r->handle = open(r->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    return r->handle < 0 ? -1 : 0;
}

LLAMAC_INLINE int llamac_replace_write(void *replacement, const void *p, size_t n) {
    llamac_replacement *r = (llamac_replacement *)replacement;
    if (n > r->left) return errno = EFBIG, -1;
    r->left -= n;
    for (ssize_t wrote; n; p = (const char *)p + wrote, n -= (size_t)wrote) {
        wrote = write(r->handle, p, n);
        if (wrote < 0 && errno != EINTR) return -1;
        if (wrote < 0) wrote = 0;
    }
    return 0;
}

/* fsync of macOS leaves the data in the disk's own memory, as its manual page says; F_FULLFSYNC, which
 * some file systems do not have, writes them (fcntl(2)). */
LLAMAC_INLINE int llamac_flush(int fd) {
#ifdef F_FULLFSYNC
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
#endif
    return fsync(fd);
}

LLAMAC_INLINE int llamac_replace_end(llamac_replacement *r, bool keep) {
    bool good = keep && fchmod(r->handle, (mode_t)r->mode) == 0 && llamac_flush(r->handle) == 0;
    int why = errno;
    if (close(r->handle) != 0 && good) good = false, why = errno;
    if (good && rename(r->temporary, r->path) != 0) good = false, why = errno;
    if (!good) unlink(r->temporary);
    errno = why;
    return good ? 0 : -1;
}

/* ---- Platform: POSIX: mapped files ---- */

LLAMAC_INLINE int llamac_map_file(llamac_mapping *m, const char *path, llama_error *err) {
    llamac_file f;
    int status = llamac_open_file(&f, path, err);
    m->data = NULL;
    if (status) return status;
    void *p = mmap(NULL, (size_t)f.size, PROT_READ, MAP_SHARED, f.handle, 0);
    if (p == MAP_FAILED)
        status = llamac_fail(err, errno == ENOMEM ? LLAMA_ENOMEM : LLAMA_EIO,
                             "%s: cannot be mapped: %s", path, strerror(errno));
    else *m = (llamac_mapping){(const unsigned char *)p, (size_t)f.size, {f.id[0], f.id[1]}};
    llamac_close_file(&f); /* the mapping stays valid */
    if (status) errno = 0; /* so llamac_is_not_found is false: the file exists */
    /* cppcheck-suppress memleak; *m owns the mapping */
    return status;
}

LLAMAC_INLINE void llamac_unmap_file(llamac_mapping *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    m->data = NULL;
}

LLAMAC_INLINE bool llamac_is_mapped(const llamac_mapping *m, const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && (uint64_t)st.st_dev == m->id[0] &&
           (uint64_t)st.st_ino == m->id[1] && (uint64_t)st.st_size == m->size;
}

/* mincore fills bytes, which are `unsigned char` on Linux and `char` on macOS. */
LLAMAC_INLINE bool llamac_advise_random(const llamac_mapping *m) {
    enum { STEP = 1 << 24, MAX_STEPS = 1 << 14 };
    unsigned char *data = (unsigned char *)(uintptr_t)m->data, resident = 0;
    size_t page = 1 << 16, step = m->size / MAX_STEPS / page * page;
    if (step < STEP) step = STEP;
    for (size_t i = 0; i < m->size && !(resident & 1); i += step)
        if (mincore(data + i, 1, (void *)&resident) != 0) resident = 1;
    madvise(data, m->size, MADV_RANDOM);
    return !(resident & 1);
}

/* Scattered reads of a cold file leave small pages in memory. The kernel does not read a large page
 * where a small page is, so the small pages are removed from memory first. */
LLAMAC_INLINE void llamac_advise_normal(const llamac_mapping *m, bool cold) {
    void *data = (void *)(uintptr_t)m->data;
    (void)cold;
    madvise(data, m->size, MADV_NORMAL);
#ifdef MADV_PAGEOUT
    if (cold) madvise(data, m->size, MADV_PAGEOUT);
#endif
}

LLAMAC_INLINE void llamac_advise_large_pages(const unsigned char *data, size_t n) {
    size_t extra = (uintptr_t)data % llamac_page_size(); /* madvise takes whole pages */
    (void)data, (void)n, (void)extra;
#ifdef MADV_HUGEPAGE
    madvise((void *)(uintptr_t)(data - extra), n + extra, MADV_HUGEPAGE);
#endif
}

LLAMAC_INLINE void llamac_advise_sparse(const llamac_mapping *m) {
    void *data = (void *)(uintptr_t)m->data;
    madvise(data, m->size, MADV_DONTNEED);
    madvise(data, m->size, MADV_RANDOM);
#ifdef MADV_NOHUGEPAGE
    madvise(data, m->size, MADV_NOHUGEPAGE);
#endif
}

/* MADV_POPULATE_READ maps all pages in one call. Linux before 5.14 does not have it; there each
 * page is touched, which costs one page fault per page, even if the page is in memory. */
LLAMAC_INLINE void llamac_page_in(const unsigned char *data, size_t n) {
    enum { PAGE = 4096 };
    size_t extra = (uintptr_t)data % llamac_page_size(); /* madvise takes whole pages */
    data -= extra, n += extra;
#ifdef MADV_POPULATE_READ
    if (madvise((void *)(uintptr_t)data, n, MADV_POPULATE_READ) == 0 || errno != EINVAL) return;
#endif
    for (size_t i = 0; i < n; i += PAGE) (void)((const volatile unsigned char *)data)[i];
}

LLAMAC_INLINE int llamac_lock(const void *p, size_t n) { return mlock(p, n); }

LLAMAC_INLINE bool llamac_map_zeros(const llamac_mapping *m, uintptr_t address, size_t page) {
    uintptr_t begin = (uintptr_t)m->data, end = begin + m->size;
    address -= (address - begin) % page;
    void *zeros = mmap((void *)address, end - address, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    /* cppcheck-suppress memleak; the zeros are part of m */
    return zeros != MAP_FAILED;
}

/* ---- Platform: POSIX: files that are read without the page cache ---- */

/* Linux has O_DIRECT, for aligned reads. macOS has F_NOCACHE, which turns data caching off for a
 * descriptor (fcntl(2)): any address and size will do, and what is in memory already is used. */

LLAMAC_INLINE int llamac_open_source(llamac_source *s, const llamac_mapping *m, const char *path,
                                     llama_error *err) {
    struct stat a, b;
    s->unbuffered = -1;
    s->buffered = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->buffered < 0)
        return llamac_fail(err, LLAMA_EIO, "%s: cannot be opened again: %s", path, strerror(errno));
#ifdef POSIX_FADV_RANDOM /* else the system reads ahead what is kept in memory already */
    posix_fadvise(s->buffered, 0, 0, POSIX_FADV_RANDOM);
#endif
#ifdef O_DIRECT
    s->unbuffered = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
#elif defined(F_NOCACHE)
    s->unbuffered = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->unbuffered >= 0) fcntl(s->unbuffered, F_NOCACHE, 1);
#endif
    int fd = s->unbuffered >= 0 ? s->unbuffered : s->buffered;
    bool same = fstat(s->buffered, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev &&
                a.st_ino == b.st_ino && (uint64_t)a.st_dev == m->id[0] &&
                (uint64_t)a.st_ino == m->id[1] && (uint64_t)a.st_size == m->size;
    if (same) return LLAMA_OK;
    llamac_close_source(s);
    return llamac_fail(err, LLAMA_EIO, "%s: changed while it was opened; try again later", path);
}

LLAMAC_INLINE void llamac_close_source(llamac_source *s) {
    if (s->buffered >= 0) close(s->buffered);
    if (s->unbuffered >= 0) close(s->unbuffered);
    s->buffered = s->unbuffered = -1;
}

LLAMAC_INLINE void llamac_drop_cached(const llamac_source *s, uint64_t offset, size_t n) {
#ifdef POSIX_FADV_DONTNEED /* pages of which a part is left out stay */
    n = (n + LLAMAC_SECTOR - 1) / LLAMAC_SECTOR * LLAMAC_SECTOR;
    posix_fadvise(s->buffered, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
#else
    (void)s, (void)offset, (void)n;
#endif
}

/* An unbuffered read may end early, inside a sector; the next one begins at that sector again. Some
 * file systems open a file for unbuffered reads and then refuse them, with EINVAL. */
LLAMAC_INLINE int llamac_read_at(const llamac_source *s, void *to, uint64_t offset, size_t n,
                                 bool unbuffered) {
    unbuffered &= s->unbuffered >= 0;
    for (size_t done = 0; done < n;) {
        size_t from = unbuffered ? done / LLAMAC_SECTOR * LLAMAC_SECTOR : done;
        size_t left = n - from;
        if (unbuffered) left = (left + LLAMAC_SECTOR - 1) / LLAMAC_SECTOR * LLAMAC_SECTOR;
        ssize_t got = pread(unbuffered ? s->unbuffered : s->buffered, (char *)to + from, left,
                            (off_t)(offset + from));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EINVAL && unbuffered) {
            unbuffered = false;
            continue;
        }
        if (got < 0) return -1;
        if (from + (size_t)got <= done) { /* the end of the file, or of what can be read so */
            if (!unbuffered) return errno = 0, -1;
            unbuffered = false;
            continue;
        }
        done = from + (size_t)got;
    }
    if (!unbuffered) llamac_drop_cached(s, offset, n);
    return 0;
}

/* ---- Platform: POSIX: memory and processes ---- */

/* aligned_alloc requires a size that is a multiple of the alignment. macOS has it since 10.15. */
LLAMAC_INLINE void *llamac_default_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

LLAMAC_INLINE void llamac_default_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    free(p);
}

LLAMAC_INLINE void *llamac_reserve_memory(size_t n) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(p, n, MADV_HUGEPAGE);
#endif
    return p;
}

/* Elsewhere MADV_DONTNEED keeps the pages, as madvise(2) of macOS and of FreeBSD say. So there they are
 * mapped again. */
LLAMAC_INLINE void llamac_discard_memory(void *p, size_t n) {
#if defined(__linux__)
    madvise(p, n, MADV_DONTNEED);
#else
    /* cppcheck-suppress leakReturnValNotUsed; it is the same address */
    mmap(p, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
}

LLAMAC_INLINE void llamac_free_memory(void *p, size_t n) {
    if (p) munmap(p, n);
}

LLAMAC_INLINE size_t llamac_page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

LLAMAC_INLINE void llamac_advise_small_pages(void *p, size_t n, size_t page) {
    enum { SHARED_MAX = 32 << 20 };
    (void)p, (void)n, (void)page;
#ifdef MADV_NOHUGEPAGE
    size_t before = (page - (uintptr_t)p % page) % page;
    if (n > SHARED_MAX) madvise((unsigned char *)p + before, n - before, MADV_NOHUGEPAGE);
#endif
}

LLAMAC_INLINE int llamac_process(void) { return (int)getpid(); }

/* ---- Platform: POSIX: threads ---- */

static uint64_t llamac_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

LLAMAC_INLINE uint64_t llamac_nanoseconds(void) { return llamac_clock(CLOCK_MONOTONIC); }
LLAMAC_INLINE uint64_t llamac_running_time(void) { return llamac_clock(CLOCK_THREAD_CPUTIME_ID); }

/* Signals are the host's business: a new thread takes none, but those of its own faults. */
LLAMAC_INLINE bool llamac_start_thread(llamac_thread *t, void *(*run)(void *), void *user) {
    sigset_t blocked, old;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGSEGV);
    if (pthread_sigmask(SIG_SETMASK, &blocked, &old) != 0) return false;
    bool started = pthread_create(t, NULL, run, user) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return started;
}

LLAMAC_INLINE void llamac_join_thread(llamac_thread t) { pthread_join(t, NULL); }

LLAMAC_INLINE void llamac_make_bell(llamac_bell *b) {
    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->rung, NULL);
    b->asleep = 0;
}

LLAMAC_INLINE void llamac_enter(llamac_bell *b) { pthread_mutex_lock(&b->mutex); }

LLAMAC_INLINE void llamac_wait(llamac_bell *b) { pthread_cond_wait(&b->rung, &b->mutex); }

LLAMAC_INLINE void llamac_wait_briefly(llamac_bell *b) {
    enum { BRIEFLY = 50000000, SECOND = 1000000000 }; /* nanoseconds */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += BRIEFLY;
    if (t.tv_nsec >= SECOND) t.tv_sec++, t.tv_nsec -= SECOND;
    pthread_cond_timedwait(&b->rung, &b->mutex, &t);
}

LLAMAC_INLINE void llamac_notify(llamac_bell *b) { pthread_cond_broadcast(&b->rung); }

LLAMAC_INLINE void llamac_unlock(llamac_bell *b) { pthread_mutex_unlock(&b->mutex); }

LLAMAC_INLINE llamac_thread llamac_this_thread(void) { return pthread_self(); }

LLAMAC_INLINE bool llamac_same_thread(llamac_thread a, llamac_thread b) {
    return pthread_equal(a, b) != 0;
}

#if defined(__linux__)
/* ---- Platform: Linux: cores, and memory that is free ---- */

/* Cgroups limit the share of the machine that a container gets. A cgroup is a folder under
 * /sys/fs/cgroup. Its files limit the CPU time of its processes, a quota of microseconds per period,
 * summed over all cores, and their memory. /proc/self/cgroup lists the cgroups of a process. All
 * folders above a cgroup limit the process too.
 *
 *     version   line of /proc/self/cgroup   file                     content
 *     2         0::/user.slice/a            cpu.max                  "150000 100000" or "max 100000"
 *                                           memory.max, .current     bytes, or "max"
 *     1         4:cpu,cpuacct:/docker/b     cpu.cfs_quota_us         "150000", or "-1" for no limit
 *                                           cpu.cfs_period_us        "100000"
 *               5:memory:/docker/b          memory.limit_in_bytes, .usage_in_bytes
 *
 * A quota of 150000 in a period of 100000 is 1.5 cores. It is rounded up: two threads use 1.5 cores
 * best. The memory in use includes cached files; the system drops these first, so they count as
 * free. memory.stat has them, as inactive_file and active_file. */

/* Reads up to capacity - 1 bytes of a kernel file and adds a final 0. On failure, text is "". */
LLAMAC_INLINE void llamac_read_small(const char *path, char *text, size_t capacity) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, capacity - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
}

/* Returns how many cores a cgroup may use, rounded up; 0 for no limit. Version 2 has the quota and
 * the period in one file, version 1 has two files. */
LLAMAC_INLINE int64_t llamac_cgroup_quota(const char *folder, bool v2) {
    char path[LLAMAC_PATH_BYTES + 32], text[64], *end = text;
    snprintf(path, sizeof path, "%s/%s", folder, v2 ? "cpu.max" : "cpu.cfs_quota_us");
    llamac_read_small(path, text, sizeof text);
    long quota = strtol(text, &end, 10), period; /* "max": 0; version 1 without limit: -1 */
    if (!v2) {
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
        llamac_read_small(path, end = text, sizeof text);
    }
    period = strtol(end, NULL, 10);
    return quota > 0 && period > 0 ? quota / period + (quota % period > 0) : 0;
}

/* Returns the number in a cgroup's file, after `key` if the file has several lines; 0 if there is
 * none. */
LLAMAC_INLINE uint64_t llamac_cgroup_number(const char *folder, const char *file, const char *key) {
    char path[LLAMAC_PATH_BYTES + 32], text[4096], *at = text;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    llamac_read_small(path, text, sizeof text);
    if (key && (at = strstr(text, key)) != NULL) at += strlen(key);
    return at && *at != '-' ? strtoull(at, NULL, 10) : 0; /* "max": 0 */
}

/* Returns how many bytes a cgroup may still use, at least 1; 0 for no limit. */
LLAMAC_INLINE int64_t llamac_cgroup_memory(const char *folder, bool v2) {
    uint64_t most = llamac_cgroup_number(folder, v2 ? "memory.max" : "memory.limit_in_bytes", NULL);
    uint64_t used =
        llamac_cgroup_number(folder, v2 ? "memory.current" : "memory.usage_in_bytes", NULL);
    uint64_t files = llamac_cgroup_number(folder, "memory.stat", "\nactive_file ") +
                     llamac_cgroup_number(folder, "memory.stat", "\ninactive_file ");
    if (most == 0 || most > INT64_MAX / 2) return 0; /* version 1 has a huge number for no limit */
    used -= files < used ? files : used;
    return used < most ? (int64_t)(most - used) : 1;
}

/* Returns the smallest limit of the cgroups in the file `proc` and of the folders above them, as the
 * function `limit` reads it from a folder; 0 for no limit. Each line of `proc` is
 * "number:controllers:/path". Version 2 lists no controllers. The folder is sys/path in version 2,
 * sys/cpu/path for the controller "cpu" in version 1. In a container, the path may be the host's and
 * not exist; the root folder then has the container's own limit. */
LLAMAC_INLINE int64_t llamac_cgroup_limit(const char *proc, const char *sys, const char *controller,
                                          int64_t (*limit)(const char *folder, bool v2)) {
    char lines[LLAMAC_PATH_BYTES], folder[LLAMAC_PATH_BYTES], *rest = lines, *line;
    size_t n_name = strlen(controller);
    int64_t min = 0, value;
    llamac_read_small(proc, lines, sizeof lines);
    while ((line = strsep(&rest, "\n")) != NULL) {
        const char *path = strchr(line, '/');
        bool v2 = strncmp(line, "0::", 3) == 0, v1 = false;
        for (const char *c = line; (c = strstr(c, controller)) != NULL && (!path || c < path); c++)
            v1 |= c > line && strchr(":,", c[-1]) && c[n_name] && strchr(":,", c[n_name]);
        if (!path || (!v1 && !v2)) continue;
        size_t root = strlen(sys) + (v2 ? 0 : 1 + n_name);
        int n = snprintf(folder, sizeof folder, "%s%s%s%s", sys, v2 ? "" : "/",
                         v2 ? "" : controller, path);
        if (n < 0 || n >= (int)sizeof folder) continue;
        for (char *slash = folder; slash; slash = strrchr(folder + root, '/')) {
            if (slash != folder) *slash = 0; /* go up one folder */
            if ((value = limit(folder, v2)) > 0 && (min == 0 || value < min)) min = value;
        }
    }
    return min;
}

LLAMAC_INLINE uint64_t llamac_available_memory(void) {
    char text[4096], *at;
    llamac_read_small("/proc/meminfo", text, sizeof text);
    at = strstr(text, "MemAvailable:");
    uint64_t bytes = at ? strtoull(at + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
    int64_t limit =
        llamac_cgroup_limit("/proc/self/cgroup", "/sys/fs/cgroup", "memory", llamac_cgroup_memory);
    return limit > 0 && (bytes == 0 || (uint64_t)limit < bytes) ? (uint64_t)limit : bytes;
}

LLAMAC_INLINE int llamac_cores(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int64_t quota =
        llamac_cgroup_limit("/proc/self/cgroup", "/sys/fs/cgroup", "cpu", llamac_cgroup_quota);
#ifdef CPU_COUNT /* only with _GNU_SOURCE, which is too late if the host has included a header */
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) cores = CPU_COUNT(&mask);
#endif
    if (quota > 0 && quota < cores) cores = (long)quota;
    return cores > 0 && cores < INT_MAX ? (int)cores : 1;
}

/* ---- Platform: Linux: nodes of memory, and AMX ---- */

/* Linux's own calls, for which libc has no functions. */
LLAMAC_INLINE llamac_placement llamac_place_on_all_nodes(void) {
    llamac_placement old = {.changed = false};
    enum { BITS = sizeof old.nodes * 8, INTERLEAVE = 3, ALLOWED = 4 };
    unsigned long all[sizeof old.nodes / sizeof *old.nodes] = {0};
    int nodes = 0;
    if (syscall(SYS_get_mempolicy, NULL, all, BITS, NULL, ALLOWED) != 0) return old;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) nodes += __builtin_popcountl(all[i]);
    old.changed = nodes > 1 &&
                  syscall(SYS_get_mempolicy, &old.mode, old.nodes, BITS, NULL, 0) == 0 &&
                  syscall(SYS_set_mempolicy, INTERLEAVE, all, BITS) == 0;
    return old;
}

LLAMAC_INLINE void llamac_place_as_before(const llamac_placement *old) {
    if (old->changed) syscall(SYS_set_mempolicy, old->mode, old->nodes, sizeof old->nodes * 8);
}

/* Linux grants AMX only on request, once per process, because it must then save 8 KB more of
 * registers for each thread that uses tiles. */
LLAMAC_INLINE bool llamac_allow_amx(void) {
#if defined(__x86_64__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

#elif defined(__APPLE__)
/* ---- Platform: macOS: cores, and memory that is free ---- */

/* The number of fast cores (perflevel0, since macOS 12), or of all: sysctl(3). Efficiency cores would
 * make a pass wait for them. The system places threads by their quality of service, which is the
 * host's business. */
LLAMAC_INLINE int llamac_cores(void) {
    static const char *const names[] = {"hw.perflevel0.logicalcpu", "hw.logicalcpu"};
    int cores = 0;
    for (int i = 0; i < 2 && cores < 1; i++) {
        size_t size = sizeof cores;
        if (sysctlbyname(names[i], &cores, &size, NULL, 0) != 0) cores = 0;
    }
    return cores > 0 ? cores : 1;
}

/* Free pages, cached files and pages that programs have marked as purgeable: host_statistics64. Pages
 * that were read ahead are free ones and cached ones. */
LLAMAC_INLINE uint64_t llamac_available_memory(void) {
    vm_statistics64_data_t v;
    mach_msg_type_number_t n = HOST_VM_INFO64_COUNT;
    mach_port_t host = mach_host_self();
    bool known = host_statistics64(host, HOST_VM_INFO64, (host_info64_t)&v, &n) == KERN_SUCCESS;
    mach_port_deallocate(mach_task_self(), host);
    if (!known) return 0;
    uint64_t pages = (uint64_t)v.free_count + v.external_page_count + v.purgeable_count;
    return (pages - v.speculative_count) * vm_kernel_page_size;
}
#elif defined(__FreeBSD__)
/* ---- Platform: FreeBSD: cores, and memory that is free ---- */

/* The process's own set of cores, which cpuset(1) and jails limit: cpuset_getaffinity(2). */
LLAMAC_INLINE int llamac_cores(void) {
    cpuset_t set;
    bool known = cpuset_getaffinity(CPU_LEVEL_WHICH, CPU_WHICH_PID, -1, sizeof set, &set) == 0;
    return known && CPU_COUNT(&set) > 0 ? (int)CPU_COUNT(&set) : 1;
}

/* Free pages, and those that were not used lately, most of them of files: sysctl(3). */
LLAMAC_INLINE uint64_t llamac_available_memory(void) {
    static const char *const names[] = {"vm.stats.vm.v_free_count", "vm.stats.vm.v_inactive_count"};
    uint64_t pages = 0;
    for (int i = 0; i < 2; i++) {
        unsigned n = 0;
        size_t size = sizeof n;
        if (sysctlbyname(names[i], &n, &size, NULL, 0) != 0) return 0;
        pages += n;
    }
    return pages * llamac_page_size();
}
#else
/* ---- Platform: other systems of POSIX ---- */

LLAMAC_INLINE int llamac_cores(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 && cores < INT_MAX ? (int)cores : 1;
}

LLAMAC_INLINE uint64_t llamac_available_memory(void) { return 0; }
#endif

#else
/* ---- Platform: Windows: errors, paths, files ---- */

/* Sets errno to what the last error of Windows is called in C, and returns -1. */
LLAMAC_INLINE int llamac_set_errno(void) {
    static const struct {
        DWORD error;
        int number;
    } known[] = {
        {ERROR_FILE_NOT_FOUND, ENOENT},    {ERROR_PATH_NOT_FOUND, ENOENT},
        {ERROR_INVALID_NAME, ENOENT},      {ERROR_BAD_PATHNAME, ENOENT},
        {ERROR_BAD_NETPATH, ENOENT},       {ERROR_BAD_NET_NAME, ENOENT},
        {ERROR_INVALID_DRIVE, ENOENT},     {ERROR_FILE_EXISTS, EEXIST},
        {ERROR_ALREADY_EXISTS, EEXIST},    {ERROR_ACCESS_DENIED, EACCES},
        {ERROR_SHARING_VIOLATION, EBUSY},  {ERROR_USER_MAPPED_FILE, EBUSY},
        {ERROR_LOCK_VIOLATION, EBUSY},     {ERROR_WRITE_PROTECT, EROFS},
        {ERROR_NOT_ENOUGH_MEMORY, ENOMEM}, {ERROR_OUTOFMEMORY, ENOMEM},
        {ERROR_COMMITMENT_LIMIT, ENOMEM},  {ERROR_WORKING_SET_QUOTA, ENOMEM},
        {ERROR_INVALID_PARAMETER, EINVAL}, {ERROR_DISK_FULL, ENOSPC},
        {ERROR_HANDLE_DISK_FULL, ENOSPC},  {ERROR_FILENAME_EXCED_RANGE, ENAMETOOLONG},
        {ERROR_FILE_TOO_LARGE, EFBIG},     {ERROR_PRIVILEGE_NOT_HELD, EPERM},
    };
    DWORD error = GetLastError();
    errno = EIO;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].error == error) errno = known[i].number;
    return -1;
}

/* Converts a path from UTF-8. Returns false, with errno set, if it is not valid or too long. Windows
 * takes 260 characters; more only of a full path that begins with \\?\, or on a network \\?\UNC\. */
LLAMAC_INLINE bool llamac_widen(const char *path, wchar_t wide[LLAMAC_PATH_BYTES]) {
    enum { ROOM = 8 }; /* for the longer beginning */
    wchar_t full[LLAMAC_PATH_BYTES];
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, LLAMAC_PATH_BYTES);
    if (n == 0) errno = GetLastError() == ERROR_INSUFFICIENT_BUFFER ? ENAMETOOLONG : ENOENT;
    if (n == 0) return false;
    if (wcsncmp(wide, L"\\\\?\\", 4) == 0) { /* in such a path "/" is not a separator */
        for (wchar_t *c = wide; *c; c++)
            if (*c == L'/') *c = L'\\';
        return true;
    }
    DWORD length = GetFullPathNameW(wide, LLAMAC_PATH_BYTES - ROOM, full, NULL);
    if (length < MAX_PATH) return true;
    if (length >= LLAMAC_PATH_BYTES - ROOM) return errno = ENAMETOOLONG, false;
    bool network = full[0] == L'\\';
    wcscpy(wide, network ? L"\\\\?\\UNC" : L"\\\\?\\");
    wcscat(wide, full + network);
    return true;
}

/* Opens an existing file or folder, which others may rename and remove meanwhile. Returns -1 with
 * errno set on failure. */
LLAMAC_INLINE llamac_handle llamac_open_path(const char *path, DWORD flags) {
    const DWORD shared = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    wchar_t wide[LLAMAC_PATH_BYTES];
    if (!llamac_widen(path, wide)) return -1;
    HANDLE h = CreateFileW(wide, GENERIC_READ, shared, NULL, OPEN_EXISTING,
                           FILE_FLAG_BACKUP_SEMANTICS | flags, NULL);
    return h == INVALID_HANDLE_VALUE ? llamac_set_errno() : (llamac_handle)h;
}

/* Sets the size and the id of an open file. Returns its attributes, or -1 with errno set. */
LLAMAC_INLINE int64_t llamac_examine(llamac_file *f) {
    BY_HANDLE_FILE_INFORMATION i;
    if (!GetFileInformationByHandle((HANDLE)f->handle, &i)) return llamac_set_errno();
    f->size = (uint64_t)i.nFileSizeHigh << 32 | i.nFileSizeLow;
    f->id[0] = i.dwVolumeSerialNumber;
    f->id[1] = (uint64_t)i.nFileIndexHigh << 32 | i.nFileIndexLow;
    return i.dwFileAttributes;
}

LLAMAC_INLINE int llamac_open_file(llamac_file *f, const char *path, llama_error *err) {
    *f = (llamac_file){.handle = llamac_open_path(path, 0)};
    if (f->handle == -1) {
        int why = errno;
        llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(why));
        errno = why; /* for llamac_is_not_found */
        return LLAMA_EIO;
    }
    bool disk = GetFileType((HANDLE)f->handle) == FILE_TYPE_DISK; /* not NUL, CON or a pipe */
    int64_t attributes = disk ? llamac_examine(f) : FILE_ATTRIBUTE_DIRECTORY;
    int status = LLAMA_OK;
    if (attributes < 0)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (attributes & FILE_ATTRIBUTE_DIRECTORY)
        status =
            llamac_fail(err, LLAMA_EIO, "%s: is not a regular file; give the file itself", path);
    else if (f->size == 0)
        status = llamac_fail(err, LLAMA_EFORMAT,
                             "%s: is empty; download it again or give another file", path);
    if (status == LLAMA_OK) return LLAMA_OK;
    llamac_close_file(f);
    errno = 0; /* so llamac_is_not_found is false: the file exists */
    return status;
}

LLAMAC_INLINE void llamac_close_file(llamac_file *f) {
    if (f->handle != -1) CloseHandle((HANDLE)f->handle);
    f->handle = -1;
}

enum { LLAMAC_TRANSFER = 1 << 30 }; /* bytes that one call reads or writes at most */

LLAMAC_INLINE ptrdiff_t llamac_read(const llamac_file *f, void *to, size_t n) {
    size_t done = 0;
    for (DWORD got = 1; done < n && got; done += got) {
        DWORD part = n - done < LLAMAC_TRANSFER ? (DWORD)(n - done) : LLAMAC_TRANSFER;
        if (!ReadFile((HANDLE)f->handle, (char *)to + done, part, &got, NULL))
            return llamac_set_errno();
    }
    return (ptrdiff_t)done;
}

LLAMAC_INLINE bool llamac_file_exists(const char *folder, const char *name) {
    char path[LLAMAC_PATH_BYTES];
    wchar_t wide[LLAMAC_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && n < LLAMAC_PATH_BYTES && llamac_widen(path, wide) &&
           GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES;
}

LLAMAC_INLINE int llamac_is_folder(const char *path, llama_error *err) {
    wchar_t wide[LLAMAC_PATH_BYTES];
    DWORD attributes = INVALID_FILE_ATTRIBUTES;
    if (llamac_widen(path, wide)) {
        attributes = GetFileAttributesW(wide);
        if (attributes == INVALID_FILE_ATTRIBUTES) llamac_set_errno();
    }
    if (attributes != INVALID_FILE_ATTRIBUTES) return (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    return llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(errno));
}

LLAMAC_INLINE size_t llamac_folder_bytes(const char *path) {
    size_t n = strlen(path);
    while (n && path[n - 1] != '/' && path[n - 1] != '\\') n--;
    return n;
}

LLAMAC_INLINE size_t llamac_list_folder(const char *folder, char (*names)[LLAMAC_NAME_BYTES],
                                        size_t max) {
    char path[LLAMAC_PATH_BYTES], name[LLAMAC_NAME_BYTES];
    wchar_t wide[LLAMAC_PATH_BYTES];
    WIN32_FIND_DATAW entry;
    size_t n = 0;
    int length = snprintf(path, sizeof path, "%s/*", folder);
    if (length < 0 || length >= LLAMAC_PATH_BYTES || !llamac_widen(path, wide)) return 0;
    HANDLE h = FindFirstFileW(wide, &entry);
    for (BOOL more = h != INVALID_HANDLE_VALUE; more && n <= max; more = FindNextFileW(h, &entry)) {
        if (!WideCharToMultiByte(CP_UTF8, WC_ERR_INVALID_CHARS, entry.cFileName, -1, name,
                                 sizeof name, NULL, NULL) ||
            name[0] == '.')
            continue;
        if (n < max) memcpy(names[n], name, strlen(name) + 1);
        n++;
    }
    if (h != INVALID_HANDLE_VALUE) FindClose(h);
    if (n > max) return 0;
    qsort(names, n, sizeof *names, llamac_compare_names);
    return n;
}

/* ---- Platform: Windows: replacing a file ---- */

/* The temporary name is that of POSIX. The new file gets the permissions that its folder passes on. */
LLAMAC_INLINE int llamac_replace_begin(llamac_replacement *r, const char *path, bool is_new,
                                       unsigned mode) {
    wchar_t wide[LLAMAC_PATH_BYTES];
    HANDLE h = INVALID_HANDLE_VALUE;
    DWORD error = ERROR_FILE_EXISTS;
    (void)is_new;
    r->mode = mode;
    r->left = UINT64_MAX;
    snprintf(r->path, sizeof r->path, "%s", path);
    for (unsigned i = 0; i < 100 && error == ERROR_FILE_EXISTS; i++) {
        snprintf(r->temporary, sizeof r->temporary, "%s.%06x", r->path,
                 ((unsigned)GetCurrentProcessId() * 100 + i) & 0xffffff);
        if (!llamac_widen(r->temporary, wide)) return -1;
        h = CreateFileW(wide, GENERIC_WRITE, 0, NULL, CREATE_NEW, FILE_ATTRIBUTE_NORMAL, NULL);
        error = h == INVALID_HANDLE_VALUE ? GetLastError() : 0;
    }
    r->handle = (llamac_handle)h;
    return error ? llamac_set_errno() : 0;
}

LLAMAC_INLINE int llamac_replace_write(void *replacement, const void *p, size_t n) {
    llamac_replacement *r = (llamac_replacement *)replacement;
    for (DWORD wrote; n; p = (const char *)p + wrote, n -= wrote)
        if (!WriteFile((HANDLE)r->handle, p, n < LLAMAC_TRANSFER ? (DWORD)n : LLAMAC_TRANSFER,
                       &wrote, NULL))
            return llamac_set_errno();
    return 0;
}

/* MoveFileEx renames within a folder, so `path` is the old file or the new one at any time. */
LLAMAC_INLINE int llamac_replace_end(llamac_replacement *r, bool keep) {
    wchar_t from[LLAMAC_PATH_BYTES], to[LLAMAC_PATH_BYTES];
    bool named = llamac_widen(r->temporary, from) && llamac_widen(r->path, to);
    bool good = keep && named;
    if (good && !FlushFileBuffers((HANDLE)r->handle)) good = false, llamac_set_errno();
    if (!CloseHandle((HANDLE)r->handle) && good) good = false, llamac_set_errno();
    if (good && !MoveFileExW(from, to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
        good = false, llamac_set_errno();
    if (!good && named) DeleteFileW(from);
    return good ? 0 : -1;
}

/* ---- Platform: Windows: mapped files ---- */

/* Windows lets nobody truncate or replace a file while it is mapped. A page that cannot be read, from
 * a network or a disk that is gone, raises the exception EXCEPTION_IN_PAGE_ERROR. */
LLAMAC_INLINE int llamac_map_file(llamac_mapping *m, const char *path, llama_error *err) {
    llamac_file f;
    int status = llamac_open_file(&f, path, err);
    m->data = NULL;
    if (status) return status;
    HANDLE section = CreateFileMappingW((HANDLE)f.handle, NULL, PAGE_READONLY, 0, 0, NULL);
    void *p = section ? MapViewOfFile(section, FILE_MAP_READ, 0, 0, (size_t)f.size) : NULL;
    if (p) *m = (llamac_mapping){(const unsigned char *)p, (size_t)f.size, {f.id[0], f.id[1]}};
    else {
        llamac_set_errno();
        status = llamac_fail(err, errno == ENOMEM ? LLAMA_ENOMEM : LLAMA_EIO,
                             "%s: cannot be mapped: %s", path, strerror(errno));
    }
    if (section) CloseHandle(section); /* the view stays valid */
    llamac_close_file(&f);
    if (status) errno = 0; /* so llamac_is_not_found is false: the file exists */
    return status;
}

/* What llamac_map_zeros has put in the place of a view is memory of its own. */
LLAMAC_INLINE void llamac_unmap_file(llamac_mapping *m) {
    void *data = (void *)(uintptr_t)m->data;
    if (data && !UnmapViewOfFile(data)) VirtualFree(data, 0, MEM_RELEASE);
    m->data = NULL;
}

LLAMAC_INLINE bool llamac_is_mapped(const llamac_mapping *m, const char *path) {
    llamac_file f = {.handle = llamac_open_path(path, 0)};
    bool same = f.handle != -1 && llamac_examine(&f) >= 0 && f.id[0] == m->id[0] &&
                f.id[1] == m->id[1] && f.size == m->size;
    llamac_close_file(&f);
    return same;
}

/* Windows takes no advice on how a mapping is read. */
LLAMAC_INLINE bool llamac_advise_random(const llamac_mapping *m) { return (void)m, false; }
LLAMAC_INLINE void llamac_advise_normal(const llamac_mapping *m, bool cold) { (void)m, (void)cold; }
LLAMAC_INLINE void llamac_advise_large_pages(const unsigned char *data, size_t n) {
    (void)data, (void)n;
}
LLAMAC_INLINE void llamac_advise_sparse(const llamac_mapping *m) { (void)m; }

/* PrefetchVirtualMemory reads large blocks, and may read less than all; so each page is touched. */
LLAMAC_INLINE void llamac_page_in(const unsigned char *data, size_t n) {
    enum { PAGE = 4096 };
    WIN32_MEMORY_RANGE_ENTRY range = {(void *)(uintptr_t)data, n};
    PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0);
    for (size_t i = 0; i < n; i += PAGE) (void)((const volatile unsigned char *)data)[i];
}

/* A process may lock about as much as its working set's minimum, which is raised first. */
LLAMAC_INLINE int llamac_lock(const void *p, size_t n) {
    HANDLE self = GetCurrentProcess();
    SIZE_T min, max, more = n + 2 * llamac_page_size(); /* it takes whole pages */
    if (!GetProcessWorkingSetSize(self, &min, &max) ||
        !SetProcessWorkingSetSize(self, min + more, max + more) ||
        !VirtualLock((void *)(uintptr_t)p, n))
        return llamac_set_errno();
    return 0;
}

/* A part of a view cannot be replaced. So the view becomes reserved addresses, of which each access
 * raises an exception. That and the first one end here: the page gets memory. */
LLAMAC_INLINE bool llamac_map_zeros(const llamac_mapping *m, uintptr_t address, size_t page) {
    void *data = (void *)(uintptr_t)m->data, *at = (void *)(address - address % page);
    if (VirtualAlloc(at, page, MEM_COMMIT, PAGE_READONLY)) return true;
    UnmapViewOfFile(data);
    VirtualAlloc(data, m->size, MEM_RESERVE, PAGE_READONLY); /* or another thread has done it */
    return VirtualAlloc(at, page, MEM_COMMIT, PAGE_READONLY) != NULL;
}

/* ---- Platform: Windows: files that are read without the page cache ---- */

/* Reads of several threads from one handle wait for each other, unless it is opened for overlapped
 * reads. */
LLAMAC_INLINE int llamac_open_source(llamac_source *s, const llamac_mapping *m, const char *path,
                                     llama_error *err) {
    llamac_file a, b;
    s->unbuffered = -1;
    s->buffered = llamac_open_path(path, FILE_FLAG_OVERLAPPED);
    if (s->buffered == -1)
        return llamac_fail(err, LLAMA_EIO, "%s: cannot be opened again: %s", path, strerror(errno));
    s->unbuffered = llamac_open_path(path, FILE_FLAG_OVERLAPPED | FILE_FLAG_NO_BUFFERING);
    a.handle = s->buffered, b.handle = s->unbuffered != -1 ? s->unbuffered : s->buffered;
    if (llamac_examine(&a) >= 0 && llamac_examine(&b) >= 0 && a.id[0] == b.id[0] &&
        a.id[1] == b.id[1] && a.id[0] == m->id[0] && a.id[1] == m->id[1] && a.size == m->size)
        return LLAMA_OK;
    llamac_close_source(s);
    return llamac_fail(err, LLAMA_EIO, "%s: changed while it was opened; try again later", path);
}

LLAMAC_INLINE void llamac_close_source(llamac_source *s) {
    if (s->buffered != -1) CloseHandle((HANDLE)s->buffered);
    if (s->unbuffered != -1) CloseHandle((HANDLE)s->unbuffered);
    s->buffered = s->unbuffered = -1;
}

LLAMAC_INLINE void llamac_drop_cached(const llamac_source *s, uint64_t offset, size_t n) {
    (void)s, (void)offset, (void)n; /* Windows has no call for it */
}

/* Reads up to n bytes at an offset. Returns their number, 0 at the end of the file, -1 with errno
 * set. The event is what this read waits for. */
LLAMAC_INLINE int64_t llamac_read_part(llamac_handle h, void *to, uint64_t offset, size_t n) {
    OVERLAPPED o = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
    DWORD got = 0, error = 0;
    o.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (!o.hEvent) return llamac_set_errno();
    if (!ReadFile((HANDLE)h, to, n < LLAMAC_TRANSFER ? (DWORD)n : LLAMAC_TRANSFER, NULL, &o))
        error = GetLastError();
    if (error == 0 || error == ERROR_IO_PENDING)
        error = GetOverlappedResult((HANDLE)h, &o, &got, TRUE) ? 0 : GetLastError();
    CloseHandle(o.hEvent);
    if (error == ERROR_HANDLE_EOF) return 0;
    if (error) return SetLastError(error), llamac_set_errno();
    return got;
}

/* As in POSIX: an unbuffered read may end early, inside a sector, or be refused. */
LLAMAC_INLINE int llamac_read_at(const llamac_source *s, void *to, uint64_t offset, size_t n,
                                 bool unbuffered) {
    unbuffered &= s->unbuffered != -1;
    for (size_t done = 0; done < n;) {
        size_t from = unbuffered ? done / LLAMAC_SECTOR * LLAMAC_SECTOR : done;
        size_t left = n - from;
        if (unbuffered) left = (left + LLAMAC_SECTOR - 1) / LLAMAC_SECTOR * LLAMAC_SECTOR;
        int64_t got = llamac_read_part(unbuffered ? s->unbuffered : s->buffered, (char *)to + from,
                                       offset + from, left);
        if (got < 0 && (errno != EINVAL || !unbuffered)) return -1;
        if (got < 0 || from + (size_t)got <= done) { /* refused, or the end */
            if (!unbuffered) return errno = 0, -1;
            unbuffered = false;
        } else done = from + (size_t)got;
    }
    return 0;
}

/* ---- Platform: Windows: memory and processes ---- */

LLAMAC_INLINE void *llamac_default_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    return _aligned_malloc(bytes, align);
}

LLAMAC_INLINE void llamac_default_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    _aligned_free(p);
}

LLAMAC_INLINE void *llamac_reserve_memory(size_t n) {
    return VirtualAlloc(NULL, n, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

/* MEM_RESET: the contents are not needed. VirtualUnlock of pages that are not locked takes them out of
 * the working set. */
LLAMAC_INLINE void llamac_discard_memory(void *p, size_t n) {
    VirtualAlloc(p, n, MEM_RESET, PAGE_READWRITE);
    VirtualUnlock(p, n);
}

LLAMAC_INLINE void llamac_free_memory(void *p, size_t n) {
    (void)n;
    if (p) VirtualFree(p, 0, MEM_RELEASE);
}

LLAMAC_INLINE uint64_t llamac_available_memory(void) {
    MEMORYSTATUSEX m = {.dwLength = sizeof m};
    return GlobalMemoryStatusEx(&m) ? m.ullAvailPhys : 0;
}

LLAMAC_INLINE size_t llamac_page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

/* Windows has large pages only for programs that ask for them. */
LLAMAC_INLINE void llamac_advise_small_pages(void *p, size_t n, size_t page) {
    (void)p, (void)n, (void)page;
}

LLAMAC_INLINE int llamac_process(void) { return (int)GetCurrentProcessId(); }

/* The affinity is that of the process's group, which has up to 64 cores. */
LLAMAC_INLINE int llamac_cores(void) {
    DWORD_PTR mask = 0, all;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mask, &all) || mask == 0) return 1;
    return __builtin_popcountll(mask);
}

/* ---- Platform: Windows: threads ---- */

LLAMAC_INLINE uint64_t llamac_nanoseconds(void) {
    enum { SECOND = 1000000000 };
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    uint64_t t = (uint64_t)ticks.QuadPart, f = (uint64_t)rate.QuadPart;
    return t / f * SECOND + t % f * SECOND / f;
}

/* Windows counts a thread's time in steps of 16 ms, too long to compare a pass with: so a thread is said
 * to have had a core all the time. */
LLAMAC_INLINE uint64_t llamac_running_time(void) { return llamac_nanoseconds(); }

LLAMAC_INLINE DWORD WINAPI llamac_run_thread(void *thread) {
    llamac_thread *t = (llamac_thread *)thread;
    t->run(t->user);
    return 0;
}

LLAMAC_INLINE bool llamac_start_thread(llamac_thread *t, void *(*run)(void *), void *user) {
    t->run = run, t->user = user;
    t->handle = CreateThread(NULL, 0, llamac_run_thread, t, 0, NULL);
    return t->handle != NULL;
}

LLAMAC_INLINE void llamac_join_thread(llamac_thread t) {
    WaitForSingleObject(t.handle, INFINITE);
    CloseHandle(t.handle);
}

LLAMAC_INLINE llamac_thread llamac_this_thread(void) {
    return (llamac_thread){.id = GetCurrentThreadId()};
}

LLAMAC_INLINE bool llamac_same_thread(llamac_thread a, llamac_thread b) { return a.id == b.id; }

LLAMAC_INLINE void llamac_make_bell(llamac_bell *b) {
    InitializeSRWLock(&b->mutex);
    InitializeConditionVariable(&b->rung);
    b->asleep = 0;
}

LLAMAC_INLINE void llamac_enter(llamac_bell *b) { AcquireSRWLockExclusive(&b->mutex); }

LLAMAC_INLINE void llamac_unlock(llamac_bell *b) { ReleaseSRWLockExclusive(&b->mutex); }

LLAMAC_INLINE void llamac_wait(llamac_bell *b) {
    SleepConditionVariableSRW(&b->rung, &b->mutex, INFINITE, 0);
}

LLAMAC_INLINE void llamac_wait_briefly(llamac_bell *b) {
    SleepConditionVariableSRW(&b->rung, &b->mutex, 50, 0);
}

LLAMAC_INLINE void llamac_notify(llamac_bell *b) { WakeAllConditionVariable(&b->rung); }
#endif

/* ---- Platform: what has one body for several systems ---- */

#if !defined(__linux__)
LLAMAC_INLINE llamac_placement llamac_place_on_all_nodes(void) {
    return (llamac_placement){.changed = false};
}
LLAMAC_INLINE void llamac_place_as_before(const llamac_placement *old) { (void)old; }
LLAMAC_INLINE bool llamac_allow_amx(void) { return false; }
#endif

/* A thread says that it sleeps before it looks at the condition a last time, and who makes the
 * condition true does that before looking whether anyone sleeps. So one of them sees the other. */
LLAMAC_INLINE void llamac_sleep(llamac_bell *b, bool (*until)(void *), void *user) {
    llamac_enter(b);
    b->asleep++;
    while (!until(user)) llamac_wait(b);
    b->asleep--;
    llamac_unlock(b);
}

LLAMAC_INLINE void llamac_leave(llamac_bell *b) {
    llamac_notify(b);
    llamac_unlock(b);
}

LLAMAC_INLINE void llamac_ring(llamac_bell *b) {
    if (!b->asleep) return;
    llamac_enter(b);
    llamac_leave(b);
}

/* ---- Platform: the processor ---- */

LLAMAC_INLINE void llamac_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

LLAMAC_INLINE uint64_t llamac_fp_enter(void) {
    uint64_t old = 0;
#if defined(__x86_64__)
    old = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80); /* round to nearest, denormals kept, exceptions masked */
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
#else
    old = (uint64_t)fegetround();
    fesetround(FE_TONEAREST); /* no more: RISC-V can neither flush denormals nor trap exceptions */
#endif
    return old;
}

LLAMAC_INLINE void llamac_fp_leave(uint64_t old) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((unsigned)old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#else
    fesetround((int)old);
#endif
}

/* ---- Files: paths, and files read into memory ---- */

/* Writes "folder/name" to out. Returns LLAMA_EINVAL if it does not fit. */
LLAMAC_INLINE int llamac_join(char out[LLAMAC_PATH_BYTES], const char *folder, const char *name,
                              llama_error *err) {
    int n = snprintf(out, LLAMAC_PATH_BYTES, "%s/%s", folder, name);
    if (n > 0 && n < LLAMAC_PATH_BYTES) return LLAMA_OK;
    return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", folder);
}

/* Returns LLAMA_EFORMAT if the n bytes of a file are a Git LFS pointer: a text that a clone without
 * Git LFS has in place of a large file. Else returns LLAMA_OK. */
LLAMAC_INLINE int llamac_refuse_pointer(const unsigned char *p, size_t n, const char *path,
                                        llama_error *err) {
    static const char begin[] = "version https://git-lfs.github.com/";
    if (!p || n < sizeof begin || memcmp(p, begin, sizeof begin - 1) != 0) return LLAMA_OK;
    return llamac_fail(err, LLAMA_EFORMAT,
                       "%s: is a Git LFS pointer, not the file itself; run 'git lfs pull', or "
                       "download the file",
                       path);
}

/* Reads a file of up to max_bytes into the arena and sets *c to its first byte. Returns
 * LLAMA_EFORMAT if the file is empty, larger or a Git LFS pointer, else LLAMA_EIO or LLAMA_ENOMEM on
 * failure. */
LLAMAC_INLINE int llamac_read_file(llamac_cursor *c, llamac_arena *arena, const char *path,
                                   uint64_t max_bytes, llama_error *err) {
    llamac_file f;
    int status = llamac_open_file(&f, path, err);
    if (status) return status;
    size_t n = f.size <= max_bytes ? (size_t)f.size : 0;
    void *to = n ? llamac_new(arena, n, 1) : NULL;
    if (!n)
        status =
            llamac_fail(err, LLAMA_EFORMAT,
                        "%s: is larger than any valid file of its kind; download it again", path);
    else if (!to) status = llamac_out_of_memory(err, path);
    else if (llamac_read(&f, to, n) != (ptrdiff_t)n)
        status = llamac_fail(err, LLAMA_EIO,
                             "%s: cannot be read to its end: it was truncated, or the disk failed",
                             path);
    else if ((status = llamac_refuse_pointer(to, n, path, err)) == LLAMA_OK)
        *c = llamac_cursor_on(to, n);
    llamac_close_file(&f);
    if (status) errno = 0; /* so llamac_is_not_found is false: the file exists */
    return status;
}

/* ---- Functions of tokenizer.c that llama.c calls ---- */

/* A vocabulary is read from a tokenizer.model, .json or .bin, or from the metadata of a GGUF file.
 * It keeps a copy of the data that it needs, in the arena. max_pieces is the model's number of
 * tokens; a vocabulary with more pieces is refused. `file` is the file name for error texts. */

/* Reads a vocabulary from the bytes of a tokenizer file, and detects its format. `own`: it lies
 * beside the model, so an error text may say that the model cannot be used. */
LLAMAC_SHARED int llamac_vocab_parse(llamac_vocab **, llamac_cursor bytes, size_t max_pieces,
                                     const char *file, bool own, llamac_arena *, llama_error *);

typedef struct { /* the values of a GGUF file's metadata that describe the vocabulary */
    llamac_value model, tokens, scores, types; /* tokens, scores, types: arrays, by token */
    llamac_value charsmap;                     /* the key precompiled_charsmap: an array of bytes */
    llamac_value pre, merges;                  /* of byte-level BPE: a text; an array of texts */
    double bos, eos, eot, eom;                 /* ids; -1: none. All three ends end a text */
    double space_in_front;                     /* 0 or 1: the key add_space_prefix */
    double squeezes_spaces;                    /* 0 or 1: the key remove_extra_whitespaces */
    double adds_bos, adds_eos;                 /* 0 or 1: the keys add_bos_token, add_eos_token */
    unsigned seen;                             /* bit i: key i of llamac_vocab_note was read */
    const char *wrong, *why;                   /* a key whose value is not valid, or NULL; why */
} llamac_gguf_vocab;
/* Stores the value of a pair if its key describes the vocabulary. Is called for every pair. */
LLAMAC_SHARED void llamac_vocab_note(llamac_gguf_vocab *, const llamac_pair *);
/* Sets the values that the file does not give. Is called after the last pair. */
LLAMAC_SHARED void llamac_vocab_defaults(llamac_gguf_vocab *);
/* Makes the vocabulary from the stored values. *out stays NULL if the file has no vocabulary. */
LLAMAC_SHARED int llamac_vocab_gather(llamac_vocab **out, llamac_gguf_vocab *, size_t max_pieces,
                                      const char *file, llamac_arena *, llama_error *);

/* Adds the tokens of added_tokens.json, special_tokens_map.json, tokenizer_config.json and
 * tokenizer.json; a file that does not exist is an empty cursor. rows is the model's number of
 * tokens. */
LLAMAC_SHARED int llamac_vocab_extend(llamac_vocab *, const llamac_cursor files[4], size_t rows,
                                      const char *const paths[4], llama_error *);

/* Return the id of <s> and of </s>; -1 if the vocabulary has no such token. */
LLAMAC_SHARED int32_t llamac_vocab_bos(const llamac_vocab *);
LLAMAC_SHARED int32_t llamac_vocab_eos(const llamac_vocab *);
/* Return whether a token ends a text; whether LLAMA_ADD_BOS adds BOS; whether the files ask for </s>
 * after each text, which is not done. */
LLAMAC_SHARED bool llamac_vocab_ends(const llamac_vocab *, int32_t token);
LLAMAC_SHARED bool llamac_vocab_adds_bos(const llamac_vocab *);
LLAMAC_SHARED bool llamac_vocab_adds_eos(const llamac_vocab *);
LLAMAC_SHARED int32_t llamac_vocab_size(const llamac_vocab *); /* returns the number of pieces */
LLAMAC_SHARED const char *llamac_vocab_kind(const llamac_vocab *);
/* Returns the most bytes of text that one token can cover; SIZE_MAX if there is no limit. */
LLAMAC_SHARED size_t llamac_vocab_widest(const llamac_vocab *);
/* Tokenizes n bytes of text. Returns the number of tokens, of which at most cap are written to out,
 * or a negative status. */
LLAMAC_SHARED ptrdiff_t llamac_encode(const llamac_vocab *, const llama_allocator *,
                                      const char *text, size_t n, unsigned flags, int32_t *out,
                                      size_t cap);
/* Returns where the first special token's text begins, and sets *id; n if the text has none. */
LLAMAC_SHARED size_t llamac_find_special(const llamac_vocab *, const char *text, size_t n,
                                         int32_t *id);
/* Returns the text of a piece as the vocabulary has it, and sets *n. Returns NULL for an invalid
 * token. */
LLAMAC_SHARED const char *llamac_piece(const llamac_vocab *, int32_t token, size_t *n);
/* Decodes the next token of a text and returns the number of bytes written to out. */
LLAMAC_SHARED size_t llamac_decode(const llamac_vocab *, llama_decoder *, int32_t token,
                                   char out[LLAMA_TEXT_MAX]);
#endif /* LLAMAC_COMMON */

#ifndef LLAMA_COMMON_ONLY

/* ============================================================================================== */
/* V. Reading files                                                                               */
/* ============================================================================================== */

/* Guarantee: a tensor on an archive's list has a name of at most MAX_NAME bytes, at most MAX_DIMS
 * dimensions, and a type. If the type is supported and tensor.wrong is NULL, all its elements are
 * inside the mapped file. They are not copied or converted. Parsers read bytes in memory, through
 * llamac_cursor only, and nothing recurses. A file is refused if it uses a feature that no
 * checkpoint uses, or if its offsets and sizes contradict each other. No code in a file is run. */

/* ---- Tensors of any format ---- */

enum { MAX_DIMS = 4, MAX_TENSORS = 65536 /* in one file */, MAX_NAME = 256 /* bytes of a name */ };

typedef struct tensor {
    struct tensor *next;
    const char *name; /* [length] in the mapped file */
    size_t length;
    const unsigned char *data; /* the first element, at any address; NULL if type is -1 */
    /* [dims] in elements; the last stride is 1, except in PyTorch files */
    uint64_t shape[MAX_DIMS], stride[MAX_DIMS];
    int dims;
    uint64_t begin, end; /* safetensors: the data_offsets, in bytes */
    size_t file;         /* index in llama.paths; set when the tensor is bound */
    int names;           /* META or HUGGING_FACE: whose name it has; set when it is bound */
    int type;            /* dtype; -1: a type that is not supported */
    char stored[16];     /* the name of its type in the file; not of a supported type in PyTorch */
    const char *wrong;   /* why it cannot be a weight, as for bad_tensor; NULL: it can */
} tensor;

typedef struct {           /* a file that is being read */
    const char *file;      /* its path */
    llamac_cursor bytes;   /* the complete file */
    llamac_arena *scratch; /* owns the list; freed when the model is open */
    llama_error *err;
    tensor *tensors; /* found so far, the last first */
} archive;

/* Reports that a file is damaged. `why` is a clause: "its header is truncated". Returns
 * LLAMA_EFORMAT. */
static int bad_archive(const archive *a, const char *why) {
    return llamac_fail(a->err, LLAMA_EFORMAT,
                       "%s: %s; the file is damaged or is not a checkpoint: download it again",
                       a->file, why);
}

/* Reports that a tensor is not valid. `why` is a predicate: "has elements that overlap". Returns
 * LLAMA_EFORMAT. */
static int bad_tensor(const archive *a, const tensor *t, const char *why) {
    return llamac_fail(
        a->err, LLAMA_EFORMAT,
        "%s: tensor '%.*s' %s; the file is damaged or is not LLaMA's: download it again", a->file,
        (int)(t->length < 80 ? t->length : 80), t->name, why);
}

/* Copies the struct of a tensor to the front of the list. Its name and elements stay in the mapped
 * file. Returns LLAMA_EFORMAT if the name is too long, LLAMA_ENOMEM if memory runs out. */
static int add_tensor(archive *a, tensor t) {
    if (t.length > MAX_NAME) return bad_tensor(a, &t, "has a name of more than 256 bytes");
    tensor *kept = llamac_new(a->scratch, 1, sizeof *kept);
    if (!kept) return llamac_out_of_memory(a->err, a->file);
    t.next = a->tensors;
    *kept = t;
    a->tensors = kept;
    return LLAMA_OK;
}

/* Adds a tensor whose elements are contiguous and row-major. They begin `offset` bytes into `data`.
 * Sets its strides, and *bytes to the size of its elements. Returns LLAMA_EFORMAT if it reaches past
 * the end of `data`. If its type is not supported, only the name and the shape are kept, and *bytes
 * is not set. */
static int add_dense(archive *a, tensor t, llamac_cursor data, uint64_t offset, uint64_t *bytes) {
    uint64_t n = 1;
    bool overflow = false;
    for (int d = t.dims; d-- > 0;) {
        t.stride[d] = n;
        overflow |= __builtin_mul_overflow(n, t.shape[d], &n);
    }
    if (t.type < 0) return add_tensor(a, t); /* bind_tensor refuses it if the model needs it */
    overflow |= __builtin_mul_overflow(n, dtype_bytes[t.type], bytes);
    llamac_take(&data, offset);
    t.data = overflow ? NULL : llamac_take(&data, *bytes);
    if (!t.data) return bad_tensor(a, &t, "reaches past the end of the file");
    if (n == 0) t.wrong = "is empty";
    return add_tensor(a, t);
}

/* ---- PyTorch: the zip file (APPNOTE.TXT 4.3) ---- */

/* The layout. A reader starts at the end of the file, because the last record leads to the others:
 *
 *   entry       a header of 30 bytes that begins with "PK\3\4", name, extra field, data. The entry
 *               ROOT/data.pkl holds the pickle; ROOT/data/0, ROOT/data/1, ... hold the storages
 *   ...
 *   directory   for each entry a header of 46 bytes that begins with "PK\1\2" and has the sizes and
 *               the offset of the entry, name, extra field, comment. Numbers that need more than 32
 *               bits are in the extra field
 *   zip64 end   "PK\6\6": number of entries, size and offset of the directory, in 64 bits
 *   locator     "PK\6\7": the offset of the zip64 end
 *   end         "PK\5\6": as zip64 end, in 16 and 32 bits; then a comment, usually empty
 *
 * The sizes come from the directory, because PyTorch writes 0 for them in the headers. Entries must
 * be stored without compression. */

typedef struct {      /* a storage, or another entry of a zip file */
    const char *name; /* its key; in zip_open first the complete name ROOT/data/KEY */
    size_t name_length;
    const unsigned char *data; /* its first byte, in the mapped file */
    uint64_t size;             /* in bytes */
    size_t index;              /* older form: position in the list of keys */
    int type;                  /* index in torch_types; -1: not known yet */
} entry;

typedef struct { /* a PyTorch file that is being read */
    archive *a;
    entry *entries; /* [n_entries] the storages, finally sorted by key */
    size_t n_entries;
    entry pickle; /* zip: the entry data.pkl; data is NULL until it is found */
} torch_file;

/* Returns the n-byte number at an offset, or 0 if it is not inside the file. */
static uint64_t number_at(llamac_cursor c, uint64_t offset, int n) {
    llamac_take(&c, offset);
    return llamac_uint(&c, n);
}

/* Finds the directory through the end record, or through the zip64 end if there is a locator. Sets
 * *directory to its bytes and *count to its number of entries. After the end record only a comment
 * of up to 65535 bytes may follow, whose length must match the length in the record. Returns
 * LLAMA_EFORMAT if a record is missing or wrong. */
static int zip_directory(torch_file *z, llamac_cursor *directory, uint64_t *count) {
    enum { END = 22, LOCATOR = 20, COMMENT_MAX = 65535 };
    llamac_cursor c = z->a->bytes;
    uint64_t size = llamac_left(&c), back = END;
    for (; back <= size && back <= END + COMMENT_MAX; back++)
        if (number_at(c, size - back, 4) == 0x06054b50 &&
            number_at(c, size - back + 20, 2) == back - END)
            break;
    if (back > size || back > END + COMMENT_MAX)
        return bad_archive(z->a, "it has no zip end record");
    uint64_t end = size - back, bytes = number_at(c, end + 12, 4), at = number_at(c, end + 16, 4);
    *count = number_at(c, end + 10, 2);
    if (end >= LOCATOR && number_at(c, end - LOCATOR, 4) == 0x07064b50) {
        end = number_at(c, end - LOCATOR + 8, 8);
        if (number_at(c, end, 4) != 0x06064b50)
            return bad_archive(z->a, "its zip64 end record is not where its locator says");
        *count = number_at(c, end + 32, 8);
        bytes = number_at(c, end + 40, 8);
        at = number_at(c, end + 48, 8);
    }
    llamac_take(&c, at);
    const unsigned char *p = llamac_take(&c, bytes);
    if (!p) return bad_archive(z->a, "its zip directory is outside the file");
    *directory = llamac_cursor_on(p, (size_t)bytes);
    return LLAMA_OK;
}

/* Reads the directory entry at *c into *e and advances *c to the next. Returns LLAMA_EFORMAT if a
 * check fails.
 *
 * Extra field 1 has the numbers that do not fit in 32 bits: size, compressed size, offset, in this
 * order. The data follow the local header, which repeats the name and has its own extra field.
 * After the data comes the next header or a data descriptor.
 *
 * Some checks are not needed to read a correct file: the local name, the fields of the local extra
 * field, what follows the data. They are made because one flipped bit in a length or an offset
 * would move the start of the weights, and no other check would notice. The lengths of names and the
 * numbers of fields are limited, so that opening reads little, whatever the lengths in the file. */
static int zip_entry(const torch_file *z, llamac_cursor *c, entry *e) {
    enum { HEADER = 46, LOCAL = 30, MAX_ENTRY_NAME = 1024, MAX_FIELDS = 16 };
    /* "PK" and 3 4, 1 2, 7 8 */
    static const uint32_t next_magic[] = {0x04034b50, 0x02014b50, 0x08074b50};
    llamac_cursor h = *c, data = z->a->bytes;
    llamac_take(c, HEADER);
    uint64_t name = number_at(h, 28, 2), extra = number_at(h, 30, 2);
    uint64_t compressed = number_at(h, 20, 4), size = number_at(h, 24, 4), at = number_at(h, 42, 4);
    e->name = (const char *)llamac_take(c, name);
    e->name_length = (size_t)name;
    const unsigned char *fields = llamac_take(c, extra);
    llamac_take(c, number_at(h, 32, 2)); /* the comment */
    if (c->bad || number_at(h, 0, 4) != 0x02014b50 || name > MAX_ENTRY_NAME)
        return bad_archive(z->a, "its zip directory is damaged");
    llamac_cursor x = llamac_cursor_on(fields, (size_t)extra);
    for (int i = 0; i < MAX_FIELDS && llamac_left(&x) >= 4; i++) {
        uint64_t id = llamac_uint(&x, 2), n = llamac_uint(&x, 2);
        const unsigned char *p = llamac_take(&x, n);
        if (!p || id != 1) continue;
        llamac_cursor wide = llamac_cursor_on(p, (size_t)n);
        if (size == UINT32_MAX) size = llamac_uint(&wide, 8);
        if (compressed == UINT32_MAX) compressed = llamac_uint(&wide, 8);
        if (at == UINT32_MAX) at = llamac_uint(&wide, 8);
        if (wide.bad) return bad_archive(z->a, "a zip64 field is truncated");
    }
    if ((number_at(h, 8, 2) & 1) || number_at(h, 10, 2) != 0 || compressed != size)
        return llamac_fail(z->a->err, LLAMA_EFORMAT,
                           "%s: a zip entry is compressed or encrypted, which PyTorch does not do; "
                           "get a file that torch.save(model.state_dict(), ...) wrote",
                           z->a->file);
    llamac_take(&data, at);
    llamac_cursor local = data;
    llamac_take(&data, LOCAL);
    const unsigned char *local_name = llamac_take(&data, number_at(local, 26, 2));
    if (number_at(local, 0, 4) != 0x04034b50 || number_at(local, 26, 2) != name || !local_name ||
        memcmp(local_name, e->name, e->name_length) != 0)
        return bad_archive(z->a, "a zip entry is not where the zip directory says");
    uint64_t local_extra = number_at(local, 28, 2); /* consists of fields: id, length, bytes */
    fields = llamac_take(&data, local_extra);
    x = llamac_cursor_on(fields, fields ? (size_t)local_extra : 0);
    for (int i = 0; i < MAX_FIELDS && llamac_left(&x); i++)
        llamac_uint(&x, 2), llamac_take(&x, llamac_uint(&x, 2));
    if (x.bad || llamac_left(&x))
        return bad_archive(z->a, "the extra field of a zip entry is damaged");
    e->data = llamac_take(&data, size);
    e->size = size;
    e->type = -1;
    if (!e->data) return bad_archive(z->a, "a zip entry reaches past the end of the file");
    for (int i = 0; i < 3; i++)
        if (number_at(data, 0, 4) == next_magic[i]) return LLAMA_OK;
    return bad_archive(z->a, "a zip entry does not end where the next one begins");
}

/* Compares two entries by key: the shorter key first. For qsort and bsearch. */
static int compare_keys(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->name_length != y->name_length) return x->name_length < y->name_length ? -1 : 1;
    return memcmp(x->name, y->name, x->name_length);
}

/* Returns the storage whose key has these n bytes, or NULL. */
static entry *find_storage(const torch_file *z, const char *key, size_t n) {
    entry want = {.name = key, .name_length = n};
    return bsearch(&want, z->entries, z->n_entries, sizeof want, compare_keys);
}

/* Reads the zip directory. Sets z->pickle to the entry ROOT/data.pkl, for any ROOT, and z->entries
 * to the entries ROOT/data/KEY, sorted by key. Returns LLAMA_EFORMAT if the zip file is not
 * valid. */
static int zip_open(torch_file *z) {
    enum { ENTRY_MIN = 46, SUFFIX = 9 };
    llamac_cursor directory = {0};
    uint64_t count = 0;
    int status = zip_directory(z, &directory, &count);
    if (status) return status;
    if (count > llamac_left(&directory) / ENTRY_MIN || count > MAX_TENSORS)
        return bad_archive(z->a, "its zip directory declares too many entries");
    z->entries = llamac_new(z->a->scratch, count, sizeof *z->entries);
    if (!z->entries) return llamac_out_of_memory(z->a->err, z->a->file);
    for (; z->n_entries < count; z->n_entries++) {
        entry *e = &z->entries[z->n_entries];
        if ((status = zip_entry(z, &directory, e))) return status;
        if (e->name_length > 10 && e->size == 3 && memcmp(e->data, "big", 3) == 0 &&
            memcmp(e->name + e->name_length - 10, "/byteorder", 10) == 0)
            return llamac_fail(z->a->err, LLAMA_EFORMAT,
                               "%s: its numbers are big-endian; save it on a little-endian machine",
                               z->a->file);
        if (e->name_length < SUFFIX) continue;
        if (memcmp(e->name + e->name_length - SUFFIX, "/data.pkl", SUFFIX) == 0) z->pickle = *e;
    }
    if (!z->pickle.data) return bad_archive(z->a, "it has no data.pkl");
    size_t root = z->pickle.name_length - SUFFIX, prefix = root + 6, kept = 0;
    for (size_t i = 0; i < count; i++) {
        entry e = z->entries[i];
        if (e.name_length < prefix || memcmp(e.name, z->pickle.name, root) != 0 ||
            memcmp(e.name + root, "/data/", 6) != 0)
            continue;
        e.name += prefix;
        e.name_length -= prefix;
        z->entries[kept++] = e;
    }
    z->n_entries = kept;
    qsort(z->entries, kept, sizeof *z->entries, compare_keys);
    return LLAMA_OK;
}

/* ---- PyTorch: the pickle ---- */

/* A checkpoint's dict of tensors is a program for a stack machine. Python's pickletools.py
 * documents the opcodes. This interpreter can build tensors and nothing else. It knows the opcodes
 * in step() and the functions and classes in push_global(), and refuses all others by name. A
 * "call" makes a record of a tensor; no code from the file or from Python runs. The program for
 * {"norm.weight": a tensor of 4096 float16 numbers} is, without details:
 *
 *   EMPTY_DICT                                  stack: {}
 *   MARK BINUNICODE "norm.weight"               {} ( "norm.weight"
 *   GLOBAL torch._utils _rebuild_tensor_v2      ... callable
 *   MARK
 *     MARK "storage" torch.HalfStorage "0" "cpu" 4096 TUPLE BINPERSID      ... storage "0"
 *     0 (4096,) (1,) False OrderedDict()        offset, shape, stride, two unused arguments
 *   TUPLE REDUCE                                {} ( "norm.weight" tensor
 *   SETITEMS STOP                               {"norm.weight": tensor}
 *
 * Between these, BINPUT stores the top of the stack in a numbered memo, and BINGET pushes it
 * again. */

/* clang-format off */
typedef enum {
    P_NONE,    /* None, True or False; its integer is 1 for True, else 0 */
    P_INT,
    P_TEXT,
    P_TUPLE,
    P_DICT,
    P_LIST,
    P_GLOBAL,  /* an allowed function or class */
    P_STORAGE,
    P_TENSOR,
    P_OTHER,   /* a float, or the result of a G_OTHER; it says nothing of the tensors */
    P_MARK     /* the start of the items of a tuple, list or dict */
} value_kind;
/* clang-format on */
/* G_OTHER: a class of which training checkpoints have values beside the tensors. G_STORAGE: to be
 * added to the index in torch_types. */
typedef enum { G_TENSOR, G_PARAMETER, G_ORDERED_DICT, G_OTHER, G_STORAGE } global;

/* The types of storages. The first are the dtypes; tensors of the others can only be skipped. */
static const struct {
    const char *storage, *name; /* PyTorch's class; the name in messages */
    size_t bytes;               /* of an element */
} torch_types[] = {
    {"FloatStorage", "F32", 4},  {"HalfStorage", "F16", 2},         {"BFloat16Storage", "BF16", 2},
    {"DoubleStorage", "F64", 8}, {"LongStorage", "I64", 8},         {"IntStorage", "I32", 4},
    {"ShortStorage", "I16", 2},  {"CharStorage", "I8", 1},          {"ByteStorage", "U8", 1},
    {"BoolStorage", "BOOL", 1},  {"ComplexFloatStorage", "C64", 8},
};

enum { MEMO_MAX = 1 << 18 };
enum { STACK_MAX = 4096 }; /* values; Python writes items in batches of 1000, which needs 2,010 */

typedef struct storage {        /* a storage, as a persistent id describes it */
    const struct storage *next; /* the storage described before this one */
    int type;                   /* index in torch_types */
    const char *key;            /* [key_length] in the mapped file, for example "0" */
    size_t key_length;
    uint64_t numel; /* number of elements */
} storage;

typedef struct {                                        /* the arguments of _rebuild_tensor_v2 */
    const storage *storage;                             /* the storage that holds the elements */
    uint64_t offset, shape[MAX_DIMS], stride[MAX_DIMS]; /* in elements */
    int dims;                                           /* number of dimensions */
} pickled_tensor;

typedef struct value {
    value_kind kind;
    uint32_t n; /* bytes of text, number of items */
    union {
        int64_t integer;  /* P_NONE, P_INT, P_GLOBAL (a `global`), P_DICT and P_LIST (its number) */
        const char *text; /* P_TEXT: [n] in the mapped file */
        const struct value *items;    /* P_TUPLE: [n] */
        const storage *storage;       /* P_STORAGE */
        const pickled_tensor *tensor; /* P_TENSOR */
    };
} value;

typedef struct named {  /* an item: dict[name] = tensor or dict, or a name in a list */
    struct named *next; /* the item added before this one */
    int64_t dict;       /* number of the dict or list */
    const char *name;   /* [length] in the mapped file */
    size_t length;
    const pickled_tensor *tensor; /* NULL: not a tensor */
    int64_t inner;                /* number of the dict that it is; -1: not a dict */
} named;

typedef struct {
    torch_file *z;          /* the file of this pickle */
    llamac_cursor c;        /* the program, at the next opcode */
    value stack[STACK_MAX]; /* [depth] */
    size_t depth;
    value *memo;                  /* [n_memo] values stored for BINGET */
    size_t n_memo, memo_capacity; /* values stored; values allocated */
    int64_t n_dicts;              /* number of dicts and lists made so far */
    uint64_t allocated;           /* bytes allocated so far */
    /* the result */
    int64_t dict;            /* number of the dict or list; the value if the result is an integer */
    named *names;            /* items of all dicts and lists, the last first */
    const storage *storages; /* of all persistent ids, the last first */
    int status;              /* LLAMA_OK, or the error that stopped the machine */
} pickle;

/* Stops the machine: sets p->status and the error text, unless an earlier error has done so.
 * Returns false. Each function below that returns bool returns false after an error, which ends the
 * run. */
static bool pickle_fail(pickle *p, const char *why) {
    if (p->status) return false;
    p->status = llamac_fail(p->z->a->err, LLAMA_EFORMAT,
                            "%s: in its pickle, %s; the file is damaged or has more than tensors: "
                            "download it again, or get a file that "
                            "torch.save(model.state_dict(), ...) wrote",
                            p->z->a->file, why);
    return false;
}

/* Returns zeroed memory for count items, or NULL with p->status set. The total is limited to 256 KB
 * plus 8 times the size of the file, because a one-byte opcode may ask for much memory. */
static void *pickle_new(pickle *p, uint64_t count, size_t size) {
    enum { TIMES = 8, AT_LEAST = 1 << 18 };
    p->allocated += (count * size + 15) / 16 * 16; /* count is at most the size of the file */
    if (p->allocated > AT_LEAST + TIMES * (uint64_t)llamac_left(&p->z->a->bytes))
        return pickle_fail(p, "it needs more memory than a file of this size can need"), NULL;
    void *memory = llamac_new(p->z->a->scratch, count, size);
    if (!memory) p->status = llamac_out_of_memory(p->z->a->err, p->z->a->file);
    return memory;
}

/* Pushes a value. The stack has a fixed size, so a program of a million marks is refused. Returns
 * false if the stack is full. */
static bool push(pickle *p, value v) {
    if (p->depth == STACK_MAX) return pickle_fail(p, "the stack needs more than 4096 values");
    p->stack[p->depth++] = v;
    return true;
}

/* Pushes a value that consists of its kind and an integer: see `value`. */
static bool push_int(pickle *p, value_kind kind, int64_t i) {
    return push(p, (value){kind, 0, {.integer = i}});
}

/* Pops the top value. Returns it, or a mark if the stack is empty. */
static value pop(pickle *p) {
    return p->depth ? p->stack[--p->depth] : (value){P_MARK, 0, {.integer = 0}};
}

/* Pops the n top values. Returns a pointer to the lowest, valid until the next push, or NULL if
 * there are fewer. */
static const value *pop_many(pickle *p, size_t n) {
    if (n > p->depth) return pickle_fail(p, "the stack is empty"), NULL;
    return &p->stack[p->depth -= n];
}

/* Pops the values above the top mark, then the mark. Sets *n to the number of values. Returns a
 * pointer as pop_many does, or NULL if there is no mark. */
static const value *pop_marked(pickle *p, size_t *n) {
    for (size_t i = p->depth; i-- > 0;)
        if (p->stack[i].kind == P_MARK) {
            *n = p->depth - i - 1;
            p->depth = i;
            return &p->stack[i + 1];
        }
    return pickle_fail(p, "a mark is missing"), NULL;
}

/* Pushes a tuple of the n values at `from`. Fails if `from` is NULL, which means that they could
 * not be popped. */
static bool push_tuple(pickle *p, const value *from, size_t n) {
    value *items = from ? pickle_new(p, n, sizeof *items) : NULL;
    if (!items) return false;
    if (n) memcpy(items, from, n * sizeof *items);
    return push(p, (value){P_TUPLE, (uint32_t)n, {.items = items}});
}

/* Returns item i of a tuple, or a mark if `tuple` is not a tuple or has no such item. */
static value item(value tuple, size_t i) {
    if (tuple.kind != P_TUPLE || i >= tuple.n) return (value){P_MARK, 0, {.integer = 0}};
    return tuple.items[i];
}

/* Pushes the next n bytes as a string. They stay in the mapped file. */
static bool push_string(pickle *p, uint64_t n) {
    const unsigned char *s = llamac_take(&p->c, n);
    if (!s || n > UINT32_MAX) return pickle_fail(p, "a string reaches past the end");
    return push(p, (value){P_TEXT, (uint32_t)n, {.text = (const char *)s}});
}

/* Pushes a little-endian two's complement integer of n bytes. Fails if n > 8. */
static bool push_long(pickle *p, uint64_t n) {
    if (n > 8) return pickle_fail(p, "a number has more than 8 bytes");
    uint64_t v = llamac_uint(&p->c, (int)n);
    if (n && n < 8 && v >> (8 * n - 1)) v |= UINT64_MAX << (8 * n);
    return push_int(p, P_INT, (int64_t)v);
}

/* Returns whether v is this string. */
static bool is_text(value v, const char *text) {
    return v.kind == P_TEXT && llamac_is(v.text, v.n, text);
}

/* Takes the rest of a line, at most 256 bytes, and its newline. GLOBAL has its two names in two
 * lines. Returns a mark if the program ends before the newline. */
static value take_line(pickle *p) {
    value v = {P_TEXT, 0, {.text = (const char *)p->c.at}};
    while (p->c.at < p->c.end && *p->c.at != '\n' && v.n < 256) p->c.at++, v.n++;
    if (!llamac_take(&p->c, 1)) v.kind = P_MARK;
    return v;
}

/* Pushes a function or class if it is in the table of those that a checkpoint may use, or is a type
 * of storages. */
static bool push_global(pickle *p, value module, value name) {
    static const struct {
        const char *module, *name;
        int global;
    } allowed[] = {
        {"torch._utils", "_rebuild_tensor_v2", G_TENSOR},
        {"torch._utils", "_rebuild_parameter", G_PARAMETER},
        {"collections", "OrderedDict", G_ORDERED_DICT},
        {"collections", "Counter", G_OTHER},
        {"argparse", "Namespace", G_OTHER},
        {"pathlib", "PosixPath", G_OTHER},
        {"torch", "Size", G_OTHER},
        {"torch", "device", G_OTHER},
        {"torch", "float32", G_OTHER},
        {"torch", "float16", G_OTHER},
        {"torch", "bfloat16", G_OTHER},
    };
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (is_text(module, allowed[i].module) && is_text(name, allowed[i].name))
            return push_int(p, P_GLOBAL, allowed[i].global);
    for (size_t i = 0; i < sizeof torch_types / sizeof *torch_types && is_text(module, "torch");
         i++)
        if (is_text(name, torch_types[i].storage))
            return push_int(p, P_GLOBAL, G_STORAGE + (int64_t)i);
    if (module.kind != P_TEXT || name.kind != P_TEXT)
        return pickle_fail(p, "a global has no module or no name");
    if (p->status == LLAMA_OK)
        p->status = llamac_fail(
            p->z->a->err, LLAMA_EFORMAT,
            "%s: in its pickle, it asks for '%.*s %.*s', which is not allowed: only tensors are "
            "read; get a file that torch.save(model.state_dict(), ...) wrote",
            p->z->a->file, (int)(module.n < 60 ? module.n : 60), module.text,
            (int)(name.n < 60 ? name.n : 60), name.text);
    return false;
}

/* Pushes the storage that a persistent id names: ('storage', type, key, location, numel). In the
 * older form the id has a sixth item, which is None unless the storage is a view of another; views
 * are refused. */
static bool push_storage(pickle *p, value id) {
    value type = item(id, 1), key = item(id, 2), numel = item(id, 4);
    if (!is_text(item(id, 0), "storage") || type.kind != P_GLOBAL || type.integer < G_STORAGE ||
        key.kind != P_TEXT || numel.kind != P_INT || numel.integer < 0 ||
        (id.n > 5 && item(id, 5).kind != P_NONE))
        return pickle_fail(p, "a persistent id does not name a storage");
    storage *s = pickle_new(p, 1, sizeof *s);
    if (!s) return false;
    *s = (storage){p->storages, (int)type.integer - G_STORAGE, key.text, key.n,
                   (uint64_t)numel.integer};
    p->storages = s;
    return push(p, (value){P_STORAGE, 0, {.storage = s}});
}

/* Pushes the result of _rebuild_tensor_v2(storage, offset, shape, stride, ...). Whether the
 * elements are inside the storage is checked later, by torch_tensor. */
static bool push_tensor(pickle *p, value args) {
    value from = item(args, 0), offset = item(args, 1), shape = item(args, 2),
          stride = item(args, 3);
    if (from.kind != P_STORAGE || offset.kind != P_INT || offset.integer < 0 ||
        shape.kind != P_TUPLE || stride.kind != P_TUPLE || shape.n != stride.n ||
        shape.n > MAX_DIMS)
        return pickle_fail(p, "a tensor is malformed");
    pickled_tensor *t = pickle_new(p, 1, sizeof *t);
    if (!t) return false;
    *t = (pickled_tensor){from.storage, (uint64_t)offset.integer, {0}, {0}, (int)shape.n};
    for (size_t i = 0; i < shape.n; i++) {
        value size = item(shape, i), step = item(stride, i);
        if (size.kind != P_INT || step.kind != P_INT || size.integer < 0 || step.integer < 0)
            return pickle_fail(p, "a tensor has a size or a stride that is not valid");
        t->shape[i] = (uint64_t)size.integer;
        t->stride[i] = (uint64_t)step.integer;
    }
    return push(p, (value){P_TENSOR, 0, {.tensor = t}});
}

/* Pops args and callable and pushes callable(*args), for the allowed functions and classes.
 * _rebuild_parameter(tensor, ...) gives the tensor itself. */
static bool reduce(pickle *p) {
    value args = pop(p), callable = pop(p), inner = item(args, 0);
    int64_t which = callable.kind == P_GLOBAL && args.kind == P_TUPLE ? callable.integer : -1;
    if (which == G_TENSOR) return push_tensor(p, args);
    if (which == G_ORDERED_DICT) return push_int(p, P_DICT, p->n_dicts++);
    if (which == G_OTHER) return push_int(p, P_OTHER, 0);
    if (which == G_PARAMETER && inner.kind == P_TENSOR) return push(p, inner);
    return pickle_fail(p, "it calls something that is not allowed, or with wrong arguments");
}

/* Adds an item to the dict or list on top of the stack: a tensor, a dict, or a name in a list. */
static bool add_name(pickle *p, value name, value v) {
    const pickled_tensor *t = v.kind == P_TENSOR ? v.tensor : NULL;
    p->allocated += t ? sizeof(tensor) : 0; /* add_tensor will allocate it */
    named *e = pickle_new(p, 1, sizeof *e);
    if (!e) return false;
    *e = (named){p->names, p->stack[p->depth - 1].integer,   name.text, name.n,
                 t,        v.kind == P_DICT ? v.integer : -1};
    p->names = e;
    return true;
}

/* Sets dict[key] = value for n values (key, value, key, value ...); the dict is on top of the
 * stack. Only tensors and dicts with a string as key are kept. The other items are PyTorch's
 * _metadata, what a training checkpoint has beside the tensors, or the older form's description of
 * the machine, whose little_endian must not be False. Fails if `from` is NULL. */
static bool set_items(pickle *p, const value *from, size_t n) {
    if (!from) return false;
    if (n % 2 || p->depth == 0 || p->stack[p->depth - 1].kind != P_DICT)
        return pickle_fail(p, "items are set in a value that is not a dict, or a value is missing");
    for (size_t i = 0; i < n; i += 2) {
        if (is_text(from[i], "little_endian") && from[i + 1].integer == 0)
            return pickle_fail(p, "little_endian is False");
        if (from[i].kind == P_TEXT &&
            (from[i + 1].kind == P_TENSOR || from[i + 1].kind == P_DICT) &&
            !add_name(p, from[i], from[i + 1]))
            return false;
    }
    return true;
}

/* Appends n values to the list on top of the stack. Only strings are kept: the keys of storages.
 * Fails if `from` is NULL. */
static bool append_items(pickle *p, const value *from, size_t n) {
    if (!from) return false;
    if (p->depth == 0 || p->stack[p->depth - 1].kind != P_LIST)
        return pickle_fail(p, "items are appended to a value that is not a list");
    for (size_t i = 0; i < n; i++)
        if (from[i].kind == P_TEXT && !add_name(p, from[i], from[i])) return false;
    return true;
}

/* Stores the top of the stack in the memo, without popping it. Python numbers the memo 0, 1, 2, ...
 * or from 1. A number that skips two or more is refused, so the memo cannot grow faster than the
 * program. */
static bool memoize(pickle *p, uint64_t index) {
    if (p->depth == 0 || index > p->n_memo + 1 || index >= MEMO_MAX)
        return pickle_fail(p, "the memo is used out of order");
    if (index + 1 > p->memo_capacity) {
        value *more = pickle_new(p, 2 * index + 64, sizeof *more);
        if (!more) return false;
        if (p->n_memo) memcpy(more, p->memo, p->n_memo * sizeof *more);
        p->memo = more;
        p->memo_capacity = 2 * index + 64;
    }
    p->memo[index] = p->stack[p->depth - 1];
    if (index >= p->n_memo) p->n_memo = index + 1;
    return true;
}

/* Pushes the value that the memo has under this number. */
static bool recall(pickle *p, uint64_t index) {
    if (index >= p->n_memo) return pickle_fail(p, "the memo has no such value");
    return push(p, p->memo[index]);
}

/* Executes one opcode. Returns false if the machine must stop: at STOP, or after an error, which
 * sets p->status. */
static bool step(pickle *p) {
    unsigned op = (unsigned)llamac_uint(&p->c, 1);
    if (p->c.bad) return pickle_fail(p, "the program is truncated");
    size_t n = 0;
    const value *from;
    value module, name;
    char why[64];
    switch (op) {
    case 0x80: /* PROTO */
        return llamac_uint(&p->c, 1) <= 5 || pickle_fail(p, "its protocol is newer than 5");
    case 0x95:
        return llamac_take(&p->c, 8) || pickle_fail(p, "the program is truncated"); /* FRAME */
    case '(': return push_int(p, P_MARK, 0);                                        /* MARK */
    case 'N': return push_int(p, P_NONE, 0);                                        /* NONE */
    case 0x88: return push_int(p, P_NONE, 1);                                       /* NEWTRUE */
    case 0x89: return push_int(p, P_NONE, 0);                                       /* NEWFALSE */
    case 'K': return push_int(p, P_INT, (int64_t)llamac_uint(&p->c, 1));            /* BININT1 */
    case 'M': return push_int(p, P_INT, (int64_t)llamac_uint(&p->c, 2));            /* BININT2 */
    case 'J': return push_long(p, 4);                                               /* BININT */
    case 0x8a: return push_long(p, llamac_uint(&p->c, 1));                          /* LONG1 */
    case 'G':
        return (llamac_take(&p->c, 8) || pickle_fail(p, "the program is truncated")) &&
               push_int(p, P_OTHER, 0);                                /* BINFLOAT */
    case 0x8c: return push_string(p, llamac_uint(&p->c, 1));           /* SHORT_BINUNICODE */
    case 'X': return push_string(p, llamac_uint(&p->c, 4));            /* BINUNICODE */
    case 0x8d: return push_string(p, llamac_uint(&p->c, 8));           /* BINUNICODE8 */
    case '}': return push_int(p, P_DICT, p->n_dicts++);                /* EMPTY_DICT */
    case ']': return push_int(p, P_LIST, p->n_dicts++);                /* EMPTY_LIST */
    case ')': return push_tuple(p, p->stack, 0);                       /* EMPTY_TUPLE */
    case 0x85: return push_tuple(p, pop_many(p, 1), 1);                /* TUPLE1 */
    case 0x86: return push_tuple(p, pop_many(p, 2), 2);                /* TUPLE2 */
    case 0x87: return push_tuple(p, pop_many(p, 3), 3);                /* TUPLE3 */
    case 't': from = pop_marked(p, &n); return push_tuple(p, from, n); /* TUPLE */
    case 'q': return memoize(p, llamac_uint(&p->c, 1));                /* BINPUT */
    case 'r': return memoize(p, llamac_uint(&p->c, 4));                /* LONG_BINPUT */
    case 0x94: return memoize(p, p->n_memo);                           /* MEMOIZE */
    case 'h': return recall(p, llamac_uint(&p->c, 1));                 /* BINGET */
    case 'j': return recall(p, llamac_uint(&p->c, 4));                 /* LONG_BINGET */
    case 'c':
        module = take_line(p), name = take_line(p);
        return push_global(p, module, name); /* GLOBAL */
    case 0x93:
        name = pop(p), module = pop(p);
        return push_global(p, module, name);  /* STACK_GLOBAL */
    case 'Q': return push_storage(p, pop(p)); /* BINPERSID */
    case 'R': return reduce(p);               /* REDUCE */
    case 0x81:                                /* NEWOBJ */
        if (p->depth > 1 && p->stack[p->depth - 2].kind == P_GLOBAL &&
            p->stack[p->depth - 2].integer == G_OTHER)
            return reduce(p);
        break;
    case 's': return set_items(p, pop_many(p, 2), 2);                    /* SETITEM */
    case 'u': from = pop_marked(p, &n); return set_items(p, from, n);    /* SETITEMS */
    case 'a': return append_items(p, pop_many(p, 1), 1);                 /* APPEND */
    case 'e': from = pop_marked(p, &n); return append_items(p, from, n); /* APPENDS */
    case 'b':
        return pop_many(p, 1) && (p->depth || pickle_fail(p, "the stack is empty")); /* BUILD */
    case '.': return false;                                                          /* STOP */
    }
    snprintf(why, sizeof why, "opcode 0x%02x is not used to build tensors", op);
    return pickle_fail(p, why);
}

/* Runs the program at *c and advances *c to its end. The result must be of kind `result`.
 * Afterwards p->dict is the number of the resulting dict or list, or the integer, and p->names has
 * the items of this and other dicts and lists. Returns p->status. */
static int pickle_run(pickle *p, llamac_cursor *c, value_kind result) {
    p->c = *c;
    p->depth = p->n_memo = 0;
    p->names = NULL;
    while (step(p)) {}
    value top = pop(p);
    if (p->status == LLAMA_OK && top.kind != result)
        pickle_fail(p, "the result is not a dict of tensors");
    p->dict = top.integer;
    *c = p->c;
    return p->status;
}

/* ---- PyTorch: the older form of a file ---- */

/* The layout, before PyTorch 1.6:
 *
 *   5 pickles   the magic number; the version of the form, 1001; a dict that describes the machine;
 *               the dict of tensors; a list of the keys of the storages
 *   storages    for each key, in the order of the list: the number of elements in 64 bits, then the
 *               elements
 *
 * There are no gaps, so the elements are often at odd addresses. */

/* The first pickle; its number is 0x1950a86a20f9469cfc6c. */
static const unsigned char legacy_magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                             0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};

/* Sets the type of each storage to the type that the pickle gives it. Returns false if the pickle
 * does not name some storage. PyTorch never writes such a file, because it writes the storages that
 * it finds in tensors. The check detects a damaged key: if one key turns into another, a storage is
 * left without a tensor. */
static bool set_storage_types(torch_file *z, const pickle *p) {
    for (const storage *s = p->storages; s; s = s->next) {
        entry *e = find_storage(z, s->key, s->key_length);
        if (e) e->type = s->type;
    }
    for (size_t i = 0; i < z->n_entries; i++)
        if (z->entries[i].type < 0) return false;
    return true;
}

/* Reads the storages at c into z->entries, sorted by key. p->names is the list of keys. Returns
 * LLAMA_EFORMAT if a storage is truncated or has no tensor, or if the file does not end after the
 * last storage; LLAMA_ENOMEM if memory runs out. */
static int legacy_storages(torch_file *z, const pickle *p, llamac_cursor c) {
    size_t n = 0;
    for (const named *e = p->names; e; e = e->next) n++;
    size_t *order = llamac_new(z->a->scratch, n, sizeof *order); /* [index]: see entry */
    z->entries = llamac_new(z->a->scratch, n, sizeof *z->entries);
    if (!order || !z->entries) return llamac_out_of_memory(z->a->err, z->a->file);
    z->n_entries = n;
    for (const named *e = p->names; e; e = e->next) { /* the last first */
        n--;
        z->entries[n] = (entry){e->name, e->length, NULL, 0, n, -1};
    }
    qsort(z->entries, z->n_entries, sizeof *z->entries, compare_keys);
    for (size_t i = 0; i < z->n_entries; i++) order[z->entries[i].index] = i;
    if (!set_storage_types(z, p)) return bad_archive(z->a, "it has a storage that no tensor uses");
    for (size_t i = 0; i < z->n_entries; i++) {
        entry *e = &z->entries[order[i]];
        uint64_t numel = llamac_uint(&c, 8);
        if (__builtin_mul_overflow(numel, torch_types[e->type].bytes, &e->size) ||
            !(e->data = llamac_take(&c, e->size)))
            return bad_archive(z->a, "a storage is truncated");
    }
    return llamac_left(&c) ? bad_archive(z->a, "there are bytes after its last storage") : LLAMA_OK;
}

/* Reads a file of the older form. Afterwards p->names and p->dict are those of the dict of tensors.
 * Returns LLAMA_EFORMAT or LLAMA_ENOMEM on failure. */
static int legacy_read(torch_file *z, pickle *p) {
    llamac_cursor c = z->a->bytes;
    llamac_take(&c, sizeof legacy_magic);
    int status = pickle_run(p, &c, P_INT);
    if (status == LLAMA_OK && p->dict != 1001)
        return bad_archive(z->a, "its version of the older form is not 1001");
    if (status == LLAMA_OK) status = pickle_run(p, &c, P_DICT);
    if (status == LLAMA_OK) status = pickle_run(p, &c, P_DICT);
    named *names = p->names;
    int64_t dict = p->dict;
    if (status == LLAMA_OK) status = pickle_run(p, &c, P_LIST);
    if (status == LLAMA_OK) status = legacy_storages(z, p, c);
    p->names = names;
    p->dict = dict;
    return status;
}

/* ---- PyTorch: the tensors, of either form ---- */

/* Returns whether two elements of a tensor may share an address. They do not if the stride of each
 * dimension exceeds the reach of all dimensions with smaller or equal strides. For a matrix with
 * rows of 8 elements, strides (8, 1) are valid because 8 > 7 * 1. So are (1, 8), the transposed
 * matrix, and (10, 1), which has gaps. PyTorch's expand() makes tensors that overlap, but no model
 * has them as weights. The caller has checked that the products do not overflow. */
static bool overlaps_itself(const pickled_tensor *v) {
    for (int d = 0; d < v->dims; d++) {
        uint64_t inner = 0;
        for (int i = 0; i < v->dims; i++)
            if (i != d && v->shape[i] > 1 && v->stride[i] <= v->stride[d])
                inner += (v->shape[i] - 1) * v->stride[i];
        if (v->shape[d] > 1 && v->stride[d] <= inner) return true;
    }
    return false;
}

/* Adds a tensor of the dict to the archive's list. Sets t.wrong if its storage is missing or has the
 * wrong size, if its elements are outside the storage or overlap, or if it has none: a model may
 * have such tensors that are not weights. */
static int torch_tensor(torch_file *z, const named *e) {
    const pickled_tensor *v = e->tensor;
    const storage *s = v->storage;
    tensor t = {.name = e->name, .length = e->length, .type = s->type, .dims = v->dims};
    const entry *stored = find_storage(z, s->key, s->key_length);
    uint64_t size = torch_types[s->type].bytes, bytes, reach, last = v->offset, elements = 1;
    bool overflow = false;
    for (int d = 0; d < v->dims; d++) {
        overflow |= __builtin_mul_overflow(v->shape[d] ? v->shape[d] - 1 : 0, v->stride[d], &reach);
        overflow |= __builtin_add_overflow(last, reach, &last);
        overflow |= __builtin_mul_overflow(elements, v->shape[d], &elements);
    }
    if (!stored || __builtin_mul_overflow(s->numel, size, &bytes) || bytes != stored->size)
        t.wrong = "has a storage that is missing or has the wrong size";
    else if (elements == 0) t.wrong = "is empty";
    else if (overflow || last >= s->numel || elements > s->numel)
        t.wrong = "reaches past the end of its storage";
    else if (overlaps_itself(v)) t.wrong = "has elements that overlap";
    else t.data = stored->data + v->offset * size;
    if (s->type >= DTYPES) {
        t.type = -1;
        snprintf(t.stored, sizeof t.stored, "%s", torch_types[s->type].name);
    }
    memcpy(t.shape, v->shape, sizeof t.shape);
    memcpy(t.stride, v->stride, sizeof t.stride);
    return add_tensor(z->a, t);
}

/* Returns the item of a dict that holds the model's tensors, or NULL if the dict itself holds them.
 * sizes has the number of items of each dict, tensors the number of its tensors. The item is the
 * dict with the first key of `keys`, else the dict with the most tensors, if they are those of a
 * layer or more. If another dict has half as many, sets p->status. */
static const named *inner_dict(pickle *p, const uint32_t *sizes, const uint32_t *tensors) {
    static const char *const keys[] = {"state_dict", "model_state_dict", "model",  "module",
                                       "weights",    "network",          "params", "net"};
    enum { KEYS = sizeof keys / sizeof *keys, LAYER = 9 /* tensors */ };
    const named *known = NULL, *most = NULL, *second = NULL;
    size_t best = KEYS;
    for (const named *e = p->names; e; e = e->next) {
        if (e->dict != p->dict || e->inner < 0 || !sizes[e->inner]) continue;
        for (size_t k = 0; k < best; k++)
            if (llamac_is(e->name, e->length, keys[k])) known = e, best = k;
        uint32_t n = tensors[e->inner];
        if (n < LAYER || (most && most->inner == e->inner)) continue; /* one dict, two names */
        if (!most || n > tensors[most->inner]) second = most, most = e;
        else if (!second || n > tensors[second->inner]) second = e;
    }
    if (known || tensors[p->dict] >= LAYER) return known;
    if (second && tensors[second->inner] >= tensors[most->inner] / 2)
        p->status =
            llamac_fail(p->z->a->err, LLAMA_EFORMAT,
                        "%s: holds several dicts of tensors, '%.*s' and '%.*s'; save the dict of "
                        "one model alone",
                        p->z->a->file, (int)(most->length < 60 ? most->length : 60), most->name,
                        (int)(second->length < 60 ? second->length : 60), second->name);
    return most;
}

/* If the dict is a training checkpoint, as {"model": {...}, "optimizer": {...}, ...}, sets p->dict
 * to the dict in it that has the model's tensors. Returns p->status. */
static int unwrap(pickle *p) {
    enum { MAX_LEVELS = 4 };
    uint32_t *sizes = pickle_new(p, (uint64_t)p->n_dicts, sizeof *sizes);
    uint32_t *tensors = sizes ? pickle_new(p, (uint64_t)p->n_dicts, sizeof *tensors) : NULL;
    if (!tensors) return p->status;
    for (const named *e = p->names; e; e = e->next)
        sizes[e->dict]++, tensors[e->dict] += !!e->tensor;
    for (int level = 0; level < MAX_LEVELS && p->status == LLAMA_OK; level++) {
        const named *e = inner_dict(p, sizes, tensors);
        if (!e) break;
        p->dict = e->inner;
    }
    return p->status;
}

/* Lists the tensors of a PyTorch file. A file is of the older form if it begins with legacy_magic,
 * else it must be a zip file. Returns LLAMA_EFORMAT or LLAMA_ENOMEM on failure. */
static int read_torch(archive *a) {
    torch_file z = {.a = a};
    pickle *p = llamac_new(a->scratch, 1, sizeof *p);
    if (!p) return llamac_out_of_memory(a->err, a->file);
    p->z = &z;
    int status;
    const unsigned char *magic = a->bytes.at;
    if (llamac_left(&a->bytes) > sizeof legacy_magic &&
        memcmp(magic, legacy_magic, sizeof legacy_magic) == 0)
        status = legacy_read(&z, p);
    else if ((status = zip_open(&z)) == LLAMA_OK) {
        llamac_cursor c = llamac_cursor_on(z.pickle.data, (size_t)z.pickle.size);
        status = pickle_run(p, &c, P_DICT);
        if (status == LLAMA_OK && !set_storage_types(&z, p))
            status = bad_archive(a, "it has a storage that no tensor uses");
    }
    if (status == LLAMA_OK) status = unwrap(p);
    for (const named *e = p->names; e && status == LLAMA_OK; e = e->next)
        if (e->dict == p->dict && e->tensor) status = torch_tensor(&z, e);
    return status;
}

/* ---- safetensors ---- */

/* The layout:
 *
 *   8 bytes     n, the length of the header
 *   n bytes     {"__metadata__": {...}, "model.norm.weight": {...}, ...}, padded with spaces
 *   the rest    the elements, at the offsets in the header; they are unaligned if n is odd
 *
 * The entry of a tensor in the header is
 *
 *     "name": {"dtype": "F16", "shape": [4096, 4096], "data_offsets": [0, 33554432]}
 *
 * Offsets are in bytes from the end of the header. */

typedef struct {         /* an entry of the header that is being read */
    tensor t;            /* the fields read so far */
    uint64_t offsets[2]; /* of the first byte; of the byte after the last */
    int n_offsets;       /* number of offsets read so far */
} safe_entry;

/* Stores one value of an entry in *e. Returns false if the value is not valid. If its dtype is not
 * supported, its name is kept and t.type stays -1: the model may not need this tensor. */
static bool safe_value(safe_entry *e, const llamac_json *j) {
    static const char *const names[DTYPES] = {"F32", "F16", "BF16"};
    uint64_t integer = j->value.kind == '0' && j->value.number >= 0 && j->value.number < 0x1p53
                           ? (uint64_t)j->value.number
                           : 0;
    bool is_count = j->level == 3 && j->value.kind == '0' && (double)integer == j->value.number;
    if (llamac_json_under(j, 2, "dtype") && j->value.kind == '"') {
        snprintf(e->t.stored, sizeof e->t.stored, "%.*s", (int)(j->value.n < 15 ? j->value.n : 15),
                 j->value.text);
        for (int i = 0; i < DTYPES; i++)
            if (strcmp(e->t.stored, names[i]) == 0) e->t.type = i;
        return true;
    }
    if (llamac_json_under(j, 2, "shape") && is_count && e->t.dims < MAX_DIMS) {
        e->t.shape[e->t.dims++] = integer;
        return true;
    }
    if (llamac_json_under(j, 2, "data_offsets") && is_count && e->n_offsets < 2) {
        e->offsets[e->n_offsets++] = integer;
        return true;
    }
    return j->value.kind == '[' || j->value.kind == ']';
}

/* Compares two tensors by begin, then by end. For qsort. */
static int compare_begins(const void *a, const void *b) {
    const tensor *x = *(const tensor *const *)a, *y = *(const tensor *const *)b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin)
                                : (x->end > y->end) - (x->end < y->end);
}

/* Checks that the n tensors fill the `size` bytes of elements without a gap or an overlap, in any
 * order. The format requires this, and the safetensors library refuses other files too. Returns
 * LLAMA_EFORMAT if they do not. */
static int safe_filled(archive *a, size_t n, uint64_t size) {
    const tensor **order = llamac_new(a->scratch, n, sizeof *order);
    uint64_t at = 0;
    size_t i = 0;
    if (!order) return llamac_out_of_memory(a->err, a->file);
    for (const tensor *t = a->tensors; t; t = t->next) order[i++] = t;
    qsort(order, n, sizeof *order, compare_begins);
    for (i = 0; i < n; at = order[i++]->end)
        if (order[i]->begin != at)
            return bad_tensor(a, order[i], "does not begin where the tensor before it ends");
    return at == size ? LLAMA_OK : bad_archive(a, "its tensors do not end at the end of the file");
}

/* Lists the tensors of a safetensors file. Ignores "__metadata__". Checks the fields of each entry
 * here and in safe_value, its bounds in add_dense, and gaps in safe_filled; weight_named checks the
 * names. Returns LLAMA_EFORMAT if the header is not valid, LLAMA_ENOMEM if memory runs out. */
static int read_safetensors(archive *a) {
    enum { MAX_HEADER = 100000000 }; /* bytes; the safetensors library has the same limit */
    llamac_cursor c = a->bytes;
    uint64_t length = llamac_uint(&c, 8), bytes = 0, n = 0;
    const unsigned char *header = llamac_take(&c, length);
    if (!header) return bad_archive(a, "its header is truncated");
    if (length > MAX_HEADER) return bad_archive(a, "its header has more than 100 MB");
    llamac_json j = llamac_json_on(header, (size_t)length);
    safe_entry e = {0};
    for (int status; llamac_json_next(&j);) {
        bool in_metadata = llamac_json_under(&j, 1, "__metadata__");
        if (j.level == 1 && j.value.kind == '{') e = (safe_entry){.t = {.type = -1}};
        else if (j.level == 1 && j.value.kind == '}' && !in_metadata) {
            e.t.name = j.key[1].text;
            e.t.length = j.key[1].n;
            if (e.n_offsets != 2 || e.offsets[0] > e.offsets[1] || !e.t.stored[0])
                return bad_tensor(a, &e.t, "has no valid entry in the header");
            if (n++ == MAX_TENSORS)
                return bad_archive(a, "its header declares more than 65536 tensors");
            e.t.begin = e.offsets[0];
            e.t.end = e.offsets[1];
            if ((status = add_dense(a, e.t, c, e.offsets[0], &bytes))) return status;
            if (e.t.type >= 0 && bytes && bytes != e.offsets[1] - e.offsets[0])
                return bad_tensor(a, &e.t,
                                  "has data_offsets that do not match its shape and dtype");
        } else if (j.level == 1 && j.value.kind != '}')
            return bad_archive(a, "its header is not a safetensors header");
        else if (j.level > 1 && !in_metadata && !safe_value(&e, &j))
            return bad_archive(a, "its header has an entry that does not describe a tensor");
    }
    if (j.c.bad || n == 0) return bad_archive(a, "its header is not JSON, or has no tensors");
    return safe_filled(a, (size_t)n, llamac_left(&c));
}

/* ---- GGUF ---- */

/* The layout:
 *
 *   header      "GGUF"; version (32 bits); number of tensors, number of pairs (64 bits each)
 *   pairs       for each: key; type of the value (32 bits); value
 *   tensors     for each: name; number of dimensions (32 bits); dimensions (64 bits each), the
 *               contiguous one first; type (32 bits); offset in the elements (64 bits)
 *   elements    from the next multiple of general.alignment on; the default is 32
 *
 * A string is its length (64 bits) and its bytes. An array is the type of its items (32 bits),
 * their number (64 bits) and the items. All numbers are little-endian. */

typedef struct {
    archive *a;
    llamac_cursor c;             /* after what has been read */
    uint64_t n_tensors, n_pairs; /* as the header states them */
    uint64_t alignment;          /* in bytes, a power of two */
    uint64_t n_strings;          /* items of arrays of strings so far */
    const char *bad_key;         /* a key whose value is not valid; NULL: none */
} gguf_file;

/* Starts to read a GGUF file: reads the header. Returns LLAMA_EFORMAT if it is not valid, or if the
 * version is not 2 or 3. */
static int gguf_open(gguf_file *g, archive *a) {
    *g = (gguf_file){.a = a, .c = a->bytes, .alignment = 32};
    uint64_t magic = llamac_uint(&g->c, 4), version = llamac_uint(&g->c, 4);
    g->n_tensors = llamac_uint(&g->c, 8);
    g->n_pairs = llamac_uint(&g->c, 8);
    if (g->c.bad || magic != 0x46554747)
        return bad_archive(a, "it is not GGUF, or it is truncated");
    if (version && (version & 0xffff) == 0)
        return llamac_fail(a->err, LLAMA_EFORMAT,
                           "%s: is big-endian GGUF; get the little-endian file, or convert the "
                           "model to GGUF on this machine",
                           a->file);
    if (version != 2 && version != 3)
        return llamac_fail(a->err, LLAMA_EFORMAT,
                           "%s: is GGUF version %llu, but only 2 and 3 are supported; convert the "
                           "model to GGUF again",
                           a->file, (unsigned long long)version);
    if (g->n_tensors > MAX_TENSORS || g->n_pairs > MAX_TENSORS)
        return bad_archive(a, "its header declares more than 65536 tensors or keys");
    return LLAMA_OK;
}

/* Keys of GGUF that do not describe the model. A value of another kind is refused. */
static const struct {
    const char *key;
    char kind; /* '1' an integer, '"' a text, 'a' a power of two up to 2^20: the alignment */
} gguf_typed[] = {
    {"general.alignment", 'a'},
    {"general.type", '"'},
    {"general.file_type", '1'},
    {"general.quantization_version", '1'},
    {"llama.tensor_data_layout", '"'},
    {"split.count", '1'},
    {"split.no", '1'},
    {"split.tensors.count", '1'},
};

/* Notes in g->bad_key a key of gguf_typed whose value is not valid. Sets g->alignment. */
static void gguf_check_type(gguf_file *g, const llamac_pair *p) {
    enum { MAX_ALIGNMENT = 1 << 20 };
    const llamac_value *v = &p->value;
    bool integer = v->kind == '0' && v->type != GGUF_FLOAT && v->type != GGUF_DOUBLE;
    bool in_range = integer && v->number >= 1 && v->number <= MAX_ALIGNMENT;
    uint64_t n = in_range ? (uint64_t)v->number : 0;
    for (size_t i = 0; i < sizeof gguf_typed / sizeof *gguf_typed; i++) {
        char kind = gguf_typed[i].kind;
        if (!llamac_is(p->key, p->length, gguf_typed[i].key)) continue;
        if (kind == 'a' && n && !(n & (n - 1))) g->alignment = n;
        else if (kind == 'a' || (kind == '"' ? v->kind != '"' : !integer))
            g->bad_key = gguf_typed[i].key;
    }
}

/* Reports why gguf_next returned false. Returns LLAMA_EFORMAT. */
static int bad_pair(const gguf_file *g) {
    if (!g->bad_key) return bad_archive(g->a, "its list of keys is damaged");
    bool alignment = g->bad_key == gguf_typed[0].key;
    return llamac_fail(g->a->err, LLAMA_EFORMAT,
                       "%s: its key '%s' has a value %s; convert the model to GGUF again",
                       g->a->file, g->bad_key,
                       alignment ? "that is not a power of two from 1 to 1048576"
                                 : "of another type than it must have");
}

/* Reads the next pair into *p. Returns false if it is malformed. For an array, p->value is at the
 * first item, and the items are skipped to find the next pair: all together if they have one size,
 * else one by one, up to MAX_STRINGS in a file. */
static bool gguf_next(gguf_file *g, llamac_pair *p) {
    enum { MAX_STRINGS = 1 << 22 };
    llamac_cursor *c = &g->c;
    llamac_value *v = &p->value, item;
    *p = (llamac_pair){0};
    p->length = (size_t)llamac_uint(c, 8);
    p->key = (const char *)llamac_take(c, p->length);
    uint64_t type = llamac_uint(c, 4);
    if (type == GGUF_ARRAY) {
        v->kind = '[';
        v->type = llamac_uint(c, 4);
        v->n = (size_t)llamac_uint(c, 8);
        v->items = *c;
        llamac_cursor after = *c;
        uint64_t bytes;
        if (v->n && v->type == GGUF_STRING) {
            if (v->n > MAX_STRINGS - g->n_strings) return false;
            g->n_strings += v->n;
            for (size_t i = 0; i < v->n; i++)
                if (!llamac_gguf_value(c, v->type, &item)) return false;
        } else if (v->n) {
            if (!llamac_gguf_value(&after, v->type, &item)) return false;
            if (__builtin_mul_overflow(v->n, llamac_left(c) - llamac_left(&after), &bytes) ||
                !llamac_take(c, bytes))
                return false;
        }
    } else llamac_gguf_value(c, type, v);
    if (!c->bad && v->kind) gguf_check_type(g, p);
    return !c->bad && v->kind && !g->bad_key;
}

/* Returns GGUF's name of a type, or "" if it is unknown. Only F32, F16 and BF16 are supported. The
 * other names are for error messages: from "Q4_K" a user sees that the file is quantised, and looks
 * for an F16 or BF16 file. */
static const char *gguf_type(uint64_t type) {
    static const char *const names[] = {
        "F32",     "F16",    "Q4_0",    "Q4_1",  "",       "",      "Q5_0",  "Q5_1",
        "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
        "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",  "",
        "",        "",       "TQ1_0",   "TQ2_0", "",       "",      "",      "MXFP4"};
    return type < sizeof names / sizeof *names ? names[type] : "";
}

/* Reads the entry of a tensor into *t and *offset. Reverses the dimensions, because the file has
 * the contiguous one first. Returns false if it is malformed. */
static bool gguf_entry(llamac_cursor *c, tensor *t, uint64_t *offset) {
    enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 30 };
    *t = (tensor){.type = -1};
    t->length = (size_t)llamac_uint(c, 8);
    t->name = (const char *)llamac_take(c, t->length);
    uint64_t dims = llamac_uint(c, 4);
    if (c->bad || dims > MAX_DIMS) return false;
    t->dims = (int)dims;
    for (int d = t->dims; d-- > 0;) t->shape[d] = llamac_uint(c, 8);
    uint64_t type = llamac_uint(c, 4);
    *offset = llamac_uint(c, 8);
    if (type == TYPE_F32) t->type = F32;
    if (type == TYPE_F16) t->type = F16;
    if (type == TYPE_BF16) t->type = BF16;
    if (*gguf_type(type)) snprintf(t->stored, sizeof t->stored, "%s", gguf_type(type));
    else snprintf(t->stored, sizeof t->stored, "type %u", (unsigned)type);
    return !c->bad;
}

/* Lists the tensors; the pairs must have been read. Offsets count from the first aligned byte after
 * the list of tensors. Each tensor must begin at the first aligned byte after the end of the tensor
 * before it, with zeros between them. All writers of GGUF do this. If the type of a tensor is not
 * supported, its size is unknown. The next tensor may then begin anywhere at or after the start of
 * that tensor.
 *
 * These checks detect damaged offsets and types, which would otherwise select wrong elements. Only
 * some zeros are read: the first of a gap, and only of the first gaps. The size of a large tensor in
 * real models is a multiple of the alignment, so there is no gap and none of its pages is read. */
static int gguf_tensors(gguf_file *g) {
    enum { GAPS = 64, ZEROS = 64 }; /* gaps that are checked; bytes of each */
    archive *a = g->a;
    int gaps = 0;
    llamac_cursor entries = g->c, data = a->bytes;
    uint64_t offset, bytes, i, end = 0; /* end: aligned end of the tensor before, if it is known, */
    bool known = true;                  /* else the offset of that tensor */
    tensor t;
    for (i = 0; i < g->n_tensors && gguf_entry(&entries, &t, &offset); i++) {}
    if (i < g->n_tensors) return bad_archive(a, "its list of tensors is damaged");
    uint64_t begin = (uint64_t)(entries.at - a->bytes.at) + g->alignment - 1;
    llamac_take(&data, begin / g->alignment * g->alignment);
    for (i = 0; i < g->n_tensors; i++) {
        gguf_entry(&g->c, &t, &offset);
        if (offset % g->alignment)
            return bad_tensor(a, &t, "has an offset that is not a multiple of general.alignment");
        if (known ? offset != end : offset < end)
            return bad_tensor(a, &t, "does not begin where the tensor before it ends");
        int status = add_dense(a, t, data, offset, &bytes);
        if (status) return status;
        known = t.type >= 0;
        end = offset + (known ? (bytes + g->alignment - 1) / g->alignment * g->alignment : 0);
        llamac_cursor padding = data;
        uint64_t gap = known ? end - offset - bytes : 0;
        llamac_take(&padding, offset + (known ? bytes : 0));
        if (gap && gaps++ < GAPS)
            for (uint64_t k = 0; k < gap && k < ZEROS && llamac_left(&padding); k++)
                if (llamac_uint(&padding, 1))
                    return bad_tensor(a, &t, "is not followed by zeros up to the next tensor");
    }
    if (known && llamac_left(&data) > end)
        return bad_archive(a, "there are bytes after its last tensor");
    return LLAMA_OK;
}

/* Lists the tensors of a GGUF file. Skips its pairs, which part VI reads. Returns LLAMA_EFORMAT if
 * the file is not valid, LLAMA_ENOMEM if memory runs out. */
static int read_gguf(archive *a) {
    gguf_file g;
    llamac_pair pair;
    int status = gguf_open(&g, a);
    for (uint64_t i = 0; i < g.n_pairs && status == LLAMA_OK; i++)
        if (!gguf_next(&g, &pair)) status = bad_pair(&g);
    return status ? status : gguf_tensors(&g);
}

/* ---- MD5 (RFC 1321) ---- */

/* checklist.chk has the MD5 sums of Meta's files, 32 hexadecimal digits each, as md5sum prints
 * them. They detect a damaged download. They do not detect a forged file, because the list can be
 * forged too.
 *
 * The state is four 32-bit words. Each block of 64 bytes updates it in 64 steps, in four rounds of
 * 16. The last block is padded with a 1 bit, zeros and the length in bits. All numbers are
 * little-endian. */

/* Updates the state with the n blocks at p. */
static void md5_blocks(uint32_t state[4], const unsigned char *p, size_t n) {
    static const unsigned char shifts[4][4] = {
        {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    static const uint32_t sines[64] = {
        /* floor(|sin(i + 1)| 2^32) */
        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613,
        0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193,
        0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d,
        0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed,
        0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122,
        0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa,
        0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244,
        0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
        0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb,
        0xeb86d391};
    for (; n--; p += 64) {
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        for (unsigned i = 0; i < 64; i++) {
            uint32_t f, word;
            unsigned k, round = i / 16, shift = shifts[round][i % 4];
            if (round == 0) f = (b & c) | (~b & d), k = i;
            else if (round == 1) f = (d & b) | (~d & c), k = (5 * i + 1) % 16;
            else if (round == 2) f = b ^ c ^ d, k = (3 * i + 5) % 16;
            else f = c ^ (b | ~d), k = 7 * i % 16;
            memcpy(&word, p + 4 * k, 4);
            f += a + sines[i] + word;
            a = d, d = c, c = b;
            b += f << shift | f >> (32 - shift);
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    }
}

/* Finishes a sum of `size` bytes. All complete blocks are in the state; `tail` has the remaining
 * size % 64 bytes. Writes 32 hexadecimal digits and a final 0 to out. */
static void md5_end(uint32_t state[4], const unsigned char *tail, uint64_t size, char out[33]) {
    unsigned char last[128] = {0}, sum[16];
    size_t rest = (size_t)(size % 64), blocks = rest < 56 ? 1 : 2;
    uint64_t bits = size * 8;
    memcpy(last, tail, rest);
    last[rest] = 0x80;
    memcpy(last + 64 * blocks - 8, &bits, 8);
    md5_blocks(state, last, blocks);
    memcpy(sum, state, 16);
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

/* Computes the sum of an open file. Reports progress in bytes. Returns LLAMA_EIO if the file cannot
 * be read, LLAMA_ECANCEL if the progress function cancels. */
static int md5_sum(const llamac_file *f, char out[33], llama_progress_fn progress, void *user) {
    unsigned char buffer[1 << 15];
    uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    uint64_t size = f->size;
    for (uint64_t done = 0, n = sizeof buffer; n == sizeof buffer; done += n) {
        if (size - done < n) n = size - done; /* the last part, which may be empty */
        if (llamac_read(f, buffer, (size_t)n) != (ptrdiff_t)n) return LLAMA_EIO;
        md5_blocks(state, buffer, (size_t)n / 64);
        if (progress && progress(user, "md5", done + n, size)) return LLAMA_ECANCEL;
        if (n < sizeof buffer) md5_end(state, buffer + n / 64 * 64, size, out);
    }
    return LLAMA_OK;
}

/* Checks that a file has the sum `want`, 32 digits. Returns LLAMA_EFORMAT if it has another sum. */
static int md5_file(const char *folder, const char *name, const char *want,
                    llama_progress_fn progress, void *user, llama_error *err) {
    char path[LLAMAC_PATH_BYTES], sum[33] = "";
    llamac_file f;
    int status = llamac_join(path, folder, name, err);
    if (status == LLAMA_OK) status = llamac_open_file(&f, path, err);
    if (status) return status;
    status = md5_sum(&f, sum, progress, user);
    llamac_close_file(&f);
    if (status == LLAMA_EIO) return llamac_fail(err, status, "%s: cannot be read to its end", path);
    if (status == LLAMA_OK && memcmp(sum, want, 32) != 0)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: its MD5 is %s, the list says %.32s; download it again", path, sum,
                           want);
    return status;
}

/* Checks all files of a list in the format of md5sum: lines of 32 digits, two characters (a space,
 * then a space or a star) and a name. Returns LLAMA_OK if there is no list. Returns LLAMA_EFORMAT
 * if a name has a slash, a backslash or a colon, which could lead out of the folder. */
static int md5_list(const char *folder, const char *list, llamac_arena *scratch,
                    llama_progress_fn progress, void *user, llama_error *err) {
    enum { NAME = 34, MAX_BYTES = 1 << 14 }; /* bytes; Meta's lists have at most 10 lines */
    char path[LLAMAC_PATH_BYTES], name[256];
    llamac_cursor c = {0};
    int status = llamac_join(path, folder, list, err);
    if (status == LLAMA_OK) status = llamac_read_file(&c, scratch, path, MAX_BYTES, err);
    if (status) return llamac_is_not_found(status) ? LLAMA_OK : status;
    while (llamac_left(&c) && status == LLAMA_OK) {
        const char *line = (const char *)c.at, *end = memchr(line, '\n', llamac_left(&c));
        size_t n = end ? (size_t)(end - line) : llamac_left(&c);
        snprintf(name, sizeof name, "%.*s", n > NAME ? (int)(n - NAME) : 0,
                 n > NAME ? line + NAME : "");
        if (n <= NAME || n - NAME >= sizeof name || strpbrk(name, "/\\:"))
            status =
                llamac_fail(err, LLAMA_EFORMAT,
                            "%s: is not a list of MD5 sums; download it again or remove it", path);
        else status = md5_file(folder, name, line, progress, user, err);
        llamac_take(&c, n + (end != NULL));
    }
    return status;
}

/* ============================================================================================== */
/* VI. Opening a model                                                                            */
/* ============================================================================================== */

/* Guarantee: every number read from a file is checked before it is used. Opening reads no weights,
 * and allocates at most 16 times the size of the files plus 1 MB. If it fails, everything is freed
 * and the error is one line: which file, what is wrong, why, what to do. */

/* ---- Formats ---- */

/* A format is a column in each of the tables below, and a function that reads it. Every function
 * gives the same result: weights that say where their elements are. Evaluation does not depend on
 * the format.
 *
 *   meta         params.json and consolidated.NN.pth; each weight is divided over all the files;
 *                or consolidated.safetensors
 *   huggingface  config.json and safetensors or PyTorch files; each weight is in one file; the rows
 *                of wq and wk are permuted (see pair_up)
 *   gguf         one file or several splits; also holds the parameters and the vocabulary
 *   llama2.c     one file: seven integers, then float32 weights in a fixed order, without names
 *
 * A model is opened by these functions, in this order:
 *
 *   apply_setting()  stores one parameter
 *   add_file()       maps one file of weights
 *   bind_file()      finds, by name, the weight that each tensor of a file belongs to
 *   bind_weight()    checks one weight and stores its place in the model */

/* The values of llama.format. Tensors have names in the formats before NAMED_FORMATS. */
enum { META, HUGGING_FACE, GGUF, NAMED_FORMATS, LLAMA2C = NAMED_FORMATS };
static const char *const format_names[] = {"meta", "huggingface", "gguf", "llama2.c"};

/* Returns what a file is, as its first bytes tell: "is safetensors"; NULL: they do not. Sets *advice
 * for a file that is no model in any format, else to NULL. */
static const char *kind_of_file(const unsigned char *data, size_t size, const char **advice) {
#define GGML   "is GGML, which came before GGUF", "get the model as GGUF"
#define PACKED "is compressed", "unpack it"
#define PAGE   "is a web page", "download the file itself"
    static const struct {
        const char *begin, *what, *advice;
    } kinds[] = {
        {"<!", PAGE},
        {"<h", PAGE},
        {"<H", PAGE},
        {"<?", PAGE},
        {"lmgg", GGML},
        {"fmgg", GGML},
        {"tjgg", GGML},
        {"\x1f\x8b", PACKED},
        {"BZh", PACKED},
        {"\xfd\x37zXZ", PACKED},
        {"7z\xbc\xaf", PACKED},
        {"\x28\xb5\x2f\xfd", PACKED},
        {"Rar!", PACKED},
        {"GGUF", "is GGUF", NULL},
        {"{", "is JSON", NULL},
        {"PK\3\4", "is PyTorch's", NULL},
        {"\x80\2\x8a\n", "is PyTorch's", NULL}, /* in its older form */
        {"lm.state", "is a saved state", "give the model"},
        {"algg", "is an adapter", "merge it into its model and give that"},
    };
#undef GGML
#undef PACKED
#undef PAGE
    enum { MAX_BLANKS = 64 }; /* in front of a web page */
    *advice = NULL;
    if (!data) return NULL;
    if (size > 8 && data[8] == '{' && !data[6] && !data[7]) return "is safetensors";
    if (size > 262 && memcmp(data + 257, "ustar", 5) == 0) {
        *advice = "unpack it";
        return "is an archive of files";
    }
    for (int i = 0; i < MAX_BLANKS && size && *data && strchr(" \t\r\n", *data); i++)
        data++, size--;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i].begin);
        if (size < n || memcmp(data, kinds[i].begin, n) != 0) continue;
        *advice = kinds[i].advice;
        return kinds[i].what;
    }
    return NULL;
}

/* ---- Parameters ---- */

/* The numbers that define a LLaMA; 0 if absent. VALUE_DIM to NO_WINDOW only tell other models
 * apart. */
enum { DIM, LAYERS, HEADS, KV_HEADS, VOCAB, HIDDEN, MULTIPLE_OF, FFN_MULTIPLIER, MAX_POSITIONS };
enum {
    NORM_EPS = MAX_POSITIONS + 1,
    ROPE_THETA,
    TIED,
    HEAD_DIM,
    VALUE_DIM,
    ROTARY,
    WINDOW,
    NO_WINDOW,
    ROPE_KIND, /* 1 + a scaling_kind */
    ROPE_FACTOR,
    ROPE_LOW,
    ROPE_HIGH,
    ROPE_ORIGINAL
};
enum { PARAMS = ROPE_ORIGINAL + 1 };
typedef double params[PARAMS];

/* The keys that are read, and the values that are valid. The keys of GGUF have the prefix "llama.".
 * The defaults are in params_apply(). */
static const struct {
    const char *key[NAMED_FORMATS]; /* "": the format has no such key */
    char kind; /* '1' an integer, '0' any number, 't' true or false, 'f' the same, but negated */
    double min, max;
} param_keys[PARAMS] = {
    /* clang-format off */
    [DIM] = {{"dim", "hidden_size", "embedding_length"}, '1', 2, MAX_WIDTH},
    [LAYERS] = {{"n_layers", "num_hidden_layers", "block_count"}, '1', 1, MAX_LAYERS},
    [HEADS] = {{"n_heads", "num_attention_heads", "attention.head_count"}, '1', 1, MAX_WIDTH},
    [KV_HEADS] = {{"n_kv_heads", "num_key_value_heads", "attention.head_count_kv"},
                  '1', 1, MAX_WIDTH},
    [VOCAB] = {{"vocab_size", "vocab_size", "vocab_size"}, '1', -1, MAX_VOCAB}, /* -1: unknown */
    [HIDDEN] = {{"hidden_dim", "intermediate_size", "feed_forward_length"}, '1', 1, MAX_WIDTH},
    [MULTIPLE_OF] = {{"multiple_of", "", ""}, '1', 1, MAX_WIDTH},        /* H is a multiple of it */
    [FFN_MULTIPLIER] = {{"ffn_dim_multiplier", "", ""}, '0', 1e-3, 1e3}, /* of H, Llama 2 */
    [MAX_POSITIONS] = {{"max_seq_len", "max_position_embeddings", "context_length"}, '1', 1, MAX_CONTEXT},
    [NORM_EPS] = {{"norm_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon"}, '0', 1e-30, 1},
    [ROPE_THETA] = {{"rope_theta", "rope_theta", "rope.freq_base"}, '0', 1, 1e30},
    [TIED] = {{"", "tie_word_embeddings", ""}, 't', 0, 1}, /* output is tok_embeddings */
    [HEAD_DIM] = {{"head_dim", "head_dim", "attention.key_length"}, '1', 1, MAX_WIDTH},
    [VALUE_DIM] = {{"", "", "attention.value_length"}, '1', 1, MAX_WIDTH},
    [ROTARY] = {{"", "", "rope.dimension_count"}, '1', 1, MAX_WIDTH},
    [WINDOW] = {{"sliding_window", "sliding_window", "attention.sliding_window"}, '1', 0, 0x1p53},
    [NO_WINDOW] = {{"", "use_sliding_window", ""}, 'f', 0, 1}, /* 1: the window is not used */
    [ROPE_KIND] = {{"use_scaled_rope", "rope_type", "rope.scaling.type"}, '0', 1, SCALINGS},
    [ROPE_FACTOR] = {{"rope_scaling_factor", "factor", "rope.scaling.factor"}, '0', 1, 1e6},
    [ROPE_LOW] = {{"", "low_freq_factor", ""}, '0', 1e-3, 1e3},
    [ROPE_HIGH] = {{"rope_high_freq_factor", "high_freq_factor", ""}, '0', 1e-3, 1e3},
    [ROPE_ORIGINAL] = {{"", "original_max_position_embeddings", ""}, '1', 1, 1e9},
    /* clang-format on */
};

/* Older names of the keys of param_keys. A file may have both. */
static const struct {
    unsigned char format, row;
    const char *key;
} older_keys[] = {
    {HUGGING_FACE, ROPE_KIND, "type"},
    {GGUF, ROPE_FACTOR, "rope.scale_linear"},
};

/* Settings that tell other models apart. If a file has such a key, its value must be the one in
 * this table. If several rows have the same key, any of their values is accepted. Kinds are those
 * of llamac_value. */
static const struct {
    unsigned char format;
    const char *key;
    char kind;        /* of the required value */
    const char *text; /* if kind is '"' */
    double number;    /* if kind is '0' */
} required_settings[] = {
    {META, "model_type", '"', "llama", 0}, /* in other exporters' files, as these: */
    {META, "partial_rotary_factor", '0', "", 1},
    {META, "num_experts", '0', "", 0},
    {META, "n_experts", '0', "", 0},
    {META, "attn_bias", 'f', "", 0},
    {META, "use_biases", 'f', "", 0},
    {META, "qk_norm", 'f', "", 0},
    {META, "use_qk_norm", 'f', "", 0},
    {HUGGING_FACE, "model_type", '"', "llama", 0}, /* not mistral, qwen2, ... */
    {HUGGING_FACE, "architectures", '"', "LlamaForCausalLM", 0},
    {HUGGING_FACE, "architectures", '"', "LLaMAForCausalLM", 0}, /* in early conversions */
    {HUGGING_FACE, "hidden_act", '"', "silu", 0},                /* for SwiGLU */
    {HUGGING_FACE, "attention_bias", 'f', "", 0},                /* InternLM */
    {HUGGING_FACE, "mlp_bias", 'f', "", 0},                      /* Granite */
    {HUGGING_FACE, "quantization_config", 'n', "", 0},           /* GPTQ, AWQ */
    {HUGGING_FACE, "partial_rotary_factor", '0', "", 1},         /* all of a head is rotated */
    {HUGGING_FACE, "layer_types", '"', "full_attention", 0},
    {HUGGING_FACE, "num_experts", '0', "", 0}, /* one expert is no mixture */
    {HUGGING_FACE, "num_experts", '0', "", 1},
    {HUGGING_FACE, "num_local_experts", '0', "", 0}, /* Mixtral */
    {HUGGING_FACE, "num_local_experts", '0', "", 1},
    {GGUF, "general.architecture", '"', "llama", 0},      /* not mistral, qwen2, ... */
    {GGUF, "llama.rope.scaling.attn_factor", '0', "", 1}, /* YaRN */
    {GGUF, "llama.expert_count", '0', "", 0},             /* Mixtral */
    {GGUF, "llama.expert_count", '0', "", 1},
    {GGUF, "llama.attention.causal", 't', "", 0},
    {GGUF, "llama.use_parallel_residual", 'f', "", 0},
    {GGUF, "llama.attention.clamp_kqv", '0', "", 0},
    {GGUF, "llama.attn_logit_softcapping", '0', "", 0}, /* Gemma 2 */
    {GGUF, "llama.final_logit_softcapping", '0', "", 0},
    {GGUF, "llama.logit_scale", '0', "", 1}, /* Granite */
    {GGUF, "llama.residual_scale", '0', "", 1},
    {GGUF, "llama.embedding_scale", '0', "", 1},
};

/* Reports what is wrong with the parameters of a model. Returns LLAMA_EFORMAT. */
static int bad_params(const char *file, const char *why, llama_error *err) {
    return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; use the file that came with the model", file,
                       why);
}

/* Reports parameters that are valid but that only other models have. Returns LLAMA_EFORMAT. */
static int unsupported(const char *file, const char *what, llama_error *err) {
    return llamac_fail(err, LLAMA_EFORMAT, "%s: %s: not supported; use a LLaMA 1, 2 or 3 model",
                       file, what);
}

/* Reports a setting that only other models have. Returns LLAMA_EFORMAT. */
static int not_llama(const char *file, const llamac_pair *s, llama_error *err) {
    bool text = s->value.kind == '"';
    return llamac_fail(err, LLAMA_EFORMAT,
                       "%s: '%.*s'%s%.*s is not a setting of LLaMA 1, 2 or 3: not supported; use a "
                       "LLaMA 1, 2 or 3 model",
                       file, (int)(s->length < 64 ? s->length : 64), s->key, text ? " " : "",
                       text ? (int)(s->value.n < 64 ? s->value.n : 64) : 0,
                       text ? s->value.text : "");
}

/* Returns the name of a GGUF value's type, and of the types that row i of param_keys allows. Integers
 * may have any width. */
static const char *gguf_type_of(const llamac_value *v) {
    static const char *const names[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                        "int32",  "float32", "bool",   "string", "array",
                                        "uint64", "int64",   "float64"};
    return v->kind == '[' ? "array" : v->type < 13 ? names[v->type] : "unknown";
}
static const char *gguf_type_wanted(size_t i) {
    return param_keys[i].kind == '1' ? "an integer" : "float32 or float64";
}

/* Checks a value against row i of param_keys and stores it in p. Returns LLAMA_EFORMAT if its kind
 * or its range is wrong. */
static int put_param(params p, size_t i, const char *key, const llamac_value *v, const char *file,
                     llama_error *err) {
    char want = param_keys[i].kind;
    double min = param_keys[i].min, max = param_keys[i].max;
    bool logical = want == 't' || want == 'f';
    double number = v->kind == '0' ? v->number : v->kind == want;
    if (i == MAX_POSITIONS && number > max && number < HUGE_VAL)
        number = max;                                                  /* a session has no more */
    bool is_integer = v->type != GGUF_FLOAT && v->type != GGUF_DOUBLE; /* GGUF's type of it */
    bool valid = logical ? v->kind == 't' || v->kind == 'f' : v->kind == '0';
    if (v->type != GGUF_NONE && (!valid || is_integer != (want == '1')))
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: its key '%s' has a value of type %s, but must have %s; convert the "
                           "model to GGUF again",
                           file, key, gguf_type_of(v), gguf_type_wanted(i));
    if (!valid && logical)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: '%s' must be true or false; use the file that came with the model",
                           file, key);
    if (valid && number > max)
        return llamac_fail(
            err, LLAMA_EFORMAT,
            "%s: '%s' is %.10g, but more than %.10g is not supported; use a LLaMA 1, "
            "2 or 3 model",
            file, key, number, max);
    if (!valid || !(number >= min) || (want == '1' && number != (double)(long)number))
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: '%s' must be a%s number from %.10g to %.10g; use the file that "
                           "came with the model",
                           file, key, want == '1' ? " whole" : "", min, max);
    if (p[i] != 0 && p[i] != number)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: '%s' is given twice, with different values; remove one of them",
                           file, key);
    p[i] = number;
    return LLAMA_OK;
}

/* Stores in p how a setting says that RoPE is scaled. Returns LLAMA_EFORMAT for all other ways: NTK,
 * YaRN, LongRoPE. */
static int put_scaling(params p, int format, const llamac_pair *s, const char *file,
                       llama_error *err) {
    static const struct {
        unsigned char format;
        scaling_kind kind;
        const char *name;
    } names[] = {{HUGGING_FACE, UNSCALED, "default"},
                 {HUGGING_FACE, LINEAR, "linear"},
                 {HUGGING_FACE, LLAMA3, "llama3"},
                 {GGUF, UNSCALED, "none"},
                 {GGUF, LINEAR, "linear"}};
    const llamac_value *v = &s->value;
    llamac_value kind = {.kind = '0', .number = 0, .type = GGUF_NONE};
    if (format == META && v->kind == 't') kind.number = 1 + LLAMA3;
    if (format == META && v->kind == 'f') kind.number = 1 + UNSCALED;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].format == format && v->kind == '"' && llamac_is(v->text, v->n, names[i].name))
            kind.number = 1 + names[i].kind;
    if (kind.number == 0) return not_llama(file, s, err);
    return put_param(p, ROPE_KIND, param_keys[ROPE_KIND].key[format], &kind, file, err);
}

/* Stores a setting in p if param_keys has its key. Ignores null and all other keys. Returns
 * LLAMA_EFORMAT if the value is not valid, is an array or an object, or belongs to another model. */
static int apply_setting(params p, int format, const llamac_pair *s, const char *file,
                         llama_error *err) {
    bool known = false, accepted = false;
    const llamac_value *v = &s->value;
    if (v->kind == 'n') return LLAMA_OK;
    for (size_t i = 0; i < sizeof required_settings / sizeof *required_settings; i++) {
        if (required_settings[i].format != format ||
            !llamac_is(s->key, s->length, required_settings[i].key))
            continue;
        known = true;
        accepted |= v->kind == required_settings[i].kind &&
                    (v->kind != '"' || llamac_is(v->text, v->n, required_settings[i].text)) &&
                    (v->kind != '0' || v->number == required_settings[i].number);
    }
    if (known && !accepted) return not_llama(file, s, err);
    const char *key = NULL;
    size_t row = 0;
    for (size_t i = 0; i < PARAMS; i++)
        if (llamac_is(s->key, s->length, param_keys[i].key[format]))
            row = i, key = param_keys[i].key[format];
    for (size_t i = 0; i < sizeof older_keys / sizeof *older_keys; i++)
        if (older_keys[i].format == format && llamac_is(s->key, s->length, older_keys[i].key))
            row = older_keys[i].row, key = older_keys[i].key;
    if (!key || !*key) return LLAMA_OK;
    return row == ROPE_KIND ? put_scaling(p, format, s, file, err)
                            : put_param(p, row, key, v, file, err);
}

/* Sets how RoPE is scaled. Hugging Face's files and GGUF give the constants that the kind needs; Meta's
 * code has them. GGUF may leave out the kind "linear". A factor of 0 is set later, from the tensors. */
static int scaling_apply(llama *m, const params p, const char *file, llama_error *err) {
    static const unsigned char needed[] = {ROPE_FACTOR, ROPE_LOW, ROPE_HIGH, ROPE_ORIGINAL};
    static const int n_needed[SCALINGS] = {[LINEAR] = 1, [LLAMA3] = 4};
    char what[160];
    rope_scaling *r = &m->scaling;
    if (p[ROPE_KIND] > 0) r->kind = (scaling_kind)(p[ROPE_KIND] - 1);
    else if (m->format == GGUF && p[ROPE_FACTOR] > 1) r->kind = LINEAR;
    if (r->kind == UNSCALED && p[ROPE_FACTOR] > 1) {
        snprintf(what, sizeof what, "'%s' scales RoPE by %g, but '%s' does not say how",
                 param_keys[ROPE_FACTOR].key[m->format], p[ROPE_FACTOR],
                 param_keys[ROPE_KIND].key[m->format]);
        return bad_params(file, what, err);
    }
    for (int i = 0; i < n_needed[r->kind] && m->format != META; i++)
        if (p[needed[i]] == 0) {
            snprintf(what, sizeof what, "RoPE is scaled (%s), but '%s' is missing",
                     scaling_names[r->kind], param_keys[needed[i]].key[m->format]);
            return bad_params(file, what, err);
        }
    r->factor = (float)p[ROPE_FACTOR];
    r->low = p[ROPE_LOW] > 0 ? (float)p[ROPE_LOW] : 1;
    r->high = p[ROPE_HIGH] > 0 ? (float)p[ROPE_HIGH] : 4;
    r->original = p[ROPE_ORIGINAL] > 0 ? (float)p[ROPE_ORIGINAL] : 8192;
    if (r->kind == LLAMA3 && !(r->high - r->low >= 1e-3f)) {
        snprintf(what, sizeof what, "'%s' is %g, but must be more than the low factor, %g",
                 param_keys[ROPE_HIGH].key[m->format], (double)r->high, (double)r->low);
        return bad_params(file, what, err);
    }
    return LLAMA_OK;
}

/* Fills in the defaults, checks the parameters and sets the shape of the model. V and H are set
 * later, from the tensors. */
static int params_apply(llama *m, params p, const char *file, llama_error *err) {
    static const unsigned char needed[] = {DIM, LAYERS, HEADS, NORM_EPS};
    char what[160];
    for (size_t i = 0; i < sizeof needed; i++)
        if (p[needed[i]] == 0) {
            snprintf(what, sizeof what, "'%s' is missing", param_keys[needed[i]].key[m->format]);
            return bad_params(file, what, err);
        }
    if (p[KV_HEADS] == 0) p[KV_HEADS] = p[HEADS];
    if (p[ROPE_THETA] == 0) p[ROPE_THETA] = 10000;
    if (p[MAX_POSITIONS] == 0) p[MAX_POSITIONS] = DEFAULT_CONTEXT;
    double width = p[HEAD_DIM] > 0 ? p[HEAD_DIM] : p[DIM] / p[HEADS];
    if (width != floor(width)) return unsupported(file, "n_heads must divide the width", err);
    for (int i = VALUE_DIM; i <= ROTARY; i++)
        if (p[i] > 0 && p[i] != width) {
            snprintf(what, sizeof what, "'%s' is %.10g, but the head width is %.10g",
                     param_keys[i].key[m->format], p[i], width);
            return unsupported(file, what, err);
        }
    if (p[WINDOW] > 0 && !(p[NO_WINDOW] > 0) && p[WINDOW] < p[MAX_POSITIONS]) {
        snprintf(what, sizeof what,
                 "'%s' is %.0f, a sliding window (Mistral's) shorter than the context of %.0f",
                 param_keys[WINDOW].key[m->format], p[WINDOW], p[MAX_POSITIONS]);
        return unsupported(file, what, err);
    }
    m->dim = (size_t)p[DIM];
    m->n_layers = (size_t)p[LAYERS];
    m->n_heads = (size_t)p[HEADS];
    m->n_kv_heads = (size_t)p[KV_HEADS];
    m->context = (size_t)p[MAX_POSITIONS];
    m->norm_eps = (float)p[NORM_EPS];
    m->rope_theta = (float)p[ROPE_THETA];
    if (m->n_heads % m->n_kv_heads) return unsupported(file, "n_kv_heads must divide n_heads", err);
    m->head_dim = (size_t)width;
    m->kv_dim = m->head_dim * m->n_kv_heads;
    m->q_dim = m->head_dim * m->n_heads;
    if (m->q_dim > MAX_WIDTH)
        return unsupported(file, "n_heads times the head width is more than 1048576", err);
    if (m->head_dim % 2)
        return unsupported(file, "the head width is odd, but RoPE rotates pairs", err);
    if (!(p[NO_WINDOW] > 0)) m->window = (size_t)p[WINDOW];
    return scaling_apply(m, p, file, err);
}

/* ---- Binding tensors to weights ---- */

/* The letters of shapes. NONE is the number of rows of a vector, 1. */
enum { NONE, DIM_D, DIM_H, DIM_V, DIM_K, DIM_Q, DIMS };

/* The numbers of weights: first those outside the layers, then those of each layer in this
 * order. */
enum { EMBEDDINGS, NORM, OUTPUT, OUTSIDE };
enum { ATTENTION_NORM = OUTSIDE, WQ, WK, WV, WO, FFN_NORM, W1, W2, W3, BINDINGS };
enum { INSIDE = BINDINGS - OUTSIDE };

static const char *const layer_prefix[NAMED_FORMATS] = {"layers.", "model.layers.", "blk."};
static const struct {
    const char *name[NAMED_FORMATS]; /* without "layers.N." and ".weight" */
    unsigned char rows, cols, split;
    size_t at; /* offset in llama, or in layer */
} binding[BINDINGS] = {
    /* clang-format off */
    [EMBEDDINGS] = {{"tok_embeddings", "model.embed_tokens", "token_embd"},
                    DIM_V, DIM_D, BY_COLUMNS, offsetof(llama, tok_embeddings)},
    [NORM] = {{"norm", "model.norm", "output_norm"}, NONE, DIM_D, WHOLE, offsetof(llama, norm)},
    [OUTPUT] = {{"output", "lm_head", "output"}, DIM_V, DIM_D, BY_ROWS, offsetof(llama, output)},
    [ATTENTION_NORM] = {{"attention_norm", "input_layernorm", "attn_norm"},
                    NONE, DIM_D, WHOLE, offsetof(layer, attention_norm)},
    [WQ] = {{"attention.wq", "self_attn.q_proj", "attn_q"},
                    DIM_Q, DIM_D, BY_ROWS, offsetof(layer, wq)},
    [WK] = {{"attention.wk", "self_attn.k_proj", "attn_k"},
                    DIM_K, DIM_D, BY_ROWS, offsetof(layer, wk)},
    [WV] = {{"attention.wv", "self_attn.v_proj", "attn_v"},
                    DIM_K, DIM_D, BY_ROWS, offsetof(layer, wv)},
    [WO] = {{"attention.wo", "self_attn.o_proj", "attn_output"},
                    DIM_D, DIM_Q, BY_COLUMNS, offsetof(layer, wo)},
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
/* Return the row of weight i in `binding` and, if it is in a layer, the number of that layer. */
static size_t row_of(size_t i) { return i < OUTSIDE ? i : OUTSIDE + (i - OUTSIDE) % INSIDE; }
static size_t layer_of(size_t i) { return (i - OUTSIDE) / INSIDE; }

/* Returns weight i of a model. Only bind_weight() writes to it. */
static const weight *nth_weight(const llama *m, size_t i) {
    const char *base = i < OUTSIDE ? (const char *)m : (const char *)&m->layers[layer_of(i)];
    return (const weight *)(const void *)(base + binding[row_of(i)].at);
}

typedef struct {               /* a model while it is opened */
    llama *m;                  /* the model to fill in */
    params p;                  /* as the files give them */
    const char *path;          /* the folder or file that the caller gave */
    const char *params_file;   /* the file with the parameters, for messages */
    size_t parts;              /* parts that a weight is divided into: the number of shards, or 1 */
    tensor **tensors;          /* [OUTSIDE + n_layers * INSIDE][parts]; NULL: not found */
    size_t sizes[DIMS];        /* the values of the letters of shapes */
    bool embeddings_by_rows;   /* shards divide the embeddings by rows, as in Llama 3 */
    const tensor *skipped;     /* a tensor outside the layers, of unknown use; NULL: none */
    bool prefix_known;         /* prefix is set */
    char prefix[MAX_NAME + 1]; /* in front of the plain names of weights, with its dot; "": none */
    uint64_t copied_bytes;     /* bytes copied by copy_weight() */
    llamac_arena scratch;      /* memory that is freed when opening ends */
    llama_error *err;          /* of the caller */
} binder;

/* Adds an end-of-text id to those of the model; -1 names none. An id without a row in the model does no
 * harm: it is never generated. */
static int add_end(binder *b, double id, const char *file) {
    llama *m = b->m;
    if (!(id >= -1 && id < INT32_MAX && id == (double)(int32_t)id))
        return bad_params(file, "its eos_token_id, an id of end-of-text, is not a token id",
                          b->err);
    for (size_t i = 0; i < m->n_ends; i++)
        if (m->ends[i] == (int32_t)id) return LLAMA_OK;
    if (id >= 0 && m->n_ends == MAX_ENDS)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: names more than %d ids of end-of-text; remove some", file,
                           (int)MAX_ENDS);
    if (id >= 0) m->ends[m->n_ends++] = (int32_t)id;
    return LLAMA_OK;
}

/* Copies the name of a tensor without the components that wrappers of PyTorch put into it, at any
 * place: "module.model.layers.0._orig_mod.mlp.up_proj.weight" becomes "layers.0.mlp.up_proj.weight".
 * A name with a zero byte becomes "". */
static void plain_name(const tensor *t, char out[MAX_NAME + 1]) {
    /* clang-format off */
    static const char *const wrappers[] = {
        "model", "module", "_module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module", "base_model", "language_model", "text_model",
        "pretrained_model", "state_dict", "decoder", "transformer", "llama", "llm", "network",
        "net"};
    /* clang-format on */
    size_t n = 0, end = 0, length = memchr(t->name, 0, t->length) ? 0 : t->length;
    bool first = true;
    for (size_t i = 0; i < length; i = end + 1) {
        bool wraps = false;
        for (end = i; end < length && t->name[end] != '.'; end++) {}
        for (size_t k = 0; k < sizeof wrappers / sizeof *wrappers; k++)
            wraps |= llamac_is(t->name + i, end - i, wrappers[k]);
        if (wraps) continue;
        if (!first) out[n++] = '.';
        first = false;
        memcpy(out + n, t->name + i, end - i);
        n += end - i;
    }
    out[n] = 0;
}

/* If a plain name is of a layer, sets *number and returns the rest of the name, else NULL. */
static const char *in_layer(const char *name, size_t *number) {
    enum { MAX_DIGITS = 5 };
    const char *at = strncmp(name, "layers.", 7) == 0 ? name + 7
                     : strncmp(name, "blk.", 4) == 0  ? name + 4
                                                      : NULL;
    int digits = 0;
    for (*number = 0; at && digits < MAX_DIGITS && *at >= '0' && *at <= '9'; digits++)
        *number = *number * 10 + (size_t)(*at++ - '0');
    return digits && *at == '.' ? at + 1 : NULL;
}

/* Returns the number of the weight that a plain name means, or SIZE_MAX. Sets *names to the format
 * whose name it is: Meta's and Hugging Face's names may be in the files of either. The number may be
 * of a layer that the model does not have. */
static size_t weight_named(const binder *b, const char *name, int *names) {
    static const char prefix[] = "model.", suffix[] = ".weight";
    enum { PREFIX = sizeof prefix - 1, SUFFIX = sizeof suffix - 1 };
    size_t l = 0;
    const char *rest = in_layer(name, &l);
    bool inside = rest != NULL, gguf = b->m->format == GGUF;
    if (!inside) rest = name;
    size_t n = strlen(rest);
    if (n <= SUFFIX || strcmp(rest + n - SUFFIX, suffix) != 0) return SIZE_MAX;
    for (*names = gguf ? GGUF : META; *names <= (gguf ? GGUF : HUGGING_FACE); ++*names)
        for (size_t r = inside ? OUTSIDE : 0; r < (inside ? BINDINGS : OUTSIDE); r++) {
            const char *want = binding[r].name[*names];
            if (strncmp(want, prefix, PREFIX) == 0) want += PREFIX;
            if (llamac_is(rest, n - SUFFIX, want)) return r + l * INSIDE;
        }
    return SIZE_MAX;
}

/* Returns the length of what precedes the name of a weight in a plain name, "policy." for example; 0
 * if nothing does, SIZE_MAX if it ends in no weight's name. */
static size_t prefix_length(const binder *b, const char *name) {
    enum { MAX_COMPONENTS = 8 };
    const char *at = name;
    int names;
    for (int i = 0; at && i < MAX_COMPONENTS; i++) {
        if (weight_named(b, at, &names) != SIZE_MAX) return (size_t)(at - name);
        at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL;
    }
    return SIZE_MAX;
}

/* Sets b->prefix to what precedes the names of all weights in a file, if it is the same. Tensors
 * that are no weights, as those of a value head, need not have it. */
static void find_prefix(binder *b, const archive *a) {
    char name[MAX_NAME + 1];
    size_t n = SIZE_MAX, length;
    for (const tensor *t = a->tensors; t; t = t->next) {
        plain_name(t, name);
        if ((length = prefix_length(b, name)) == SIZE_MAX) continue;
        b->prefix_known = true;
        if (n == SIZE_MAX) memcpy(b->prefix, name, n = length); /* the rest is 0 */
        if (n == length && memcmp(name, b->prefix, n) == 0) continue;
        memset(b->prefix, 0, sizeof b->prefix);
        return;
    }
}

/* Components of names of tensors that no model needs, whatever their type: RoPE's tables, which
 * rope_freqs() computes; masks, positions, caches; counters of training libraries. */
static const char *const unneeded[] = {
    "inv_freq",  "original_inv_freq", "freqs",         "freqs_cis",      "freqs_cos",
    "freqs_sin", "cos_cached",        "sin_cached",    "rotary_emb",     "attn_rot_embd",
    "mask",      "causal_mask",       "attn_mask",     "attention_mask", "masked_bias",
    "cache_k",   "cache_v",           "k_cache",       "v_cache",        "kv_cache",
    "version",   "position_ids",      "_float_tensor", "_extra_state",   "num_batches_tracked",
    "total_ops", "total_params"};

/* Tensors of other models: a part of the name, what such a tensor is, and what to do. */
static const struct {
    const char *part, *what, *advice;
} foreign[] = {
#define ADAPTER   "it belongs to an adapter", "merge the adapter into its model, and open that"
#define QUANTISED "its model is quantised", "get the model as F16, BF16 or F32"
#define OTHER     "use a LLaMA 1, 2 or 3 model"
    {"lora_", ADAPTER},
    {".base_layer.", ADAPTER},
    {"modules_to_save", ADAPTER},
    {"adapter_", ADAPTER},
    {"rope_f", "it scales RoPE, as LongRoPE does", OTHER},
    {"qweight", QUANTISED},
    {"qzeros", QUANTISED},
    {".scales", QUANTISED},
    {"g_idx", QUANTISED},
    {".SCB", QUANTISED},
    {"absmax", QUANTISED},
    {"quant_", QUANTISED},
    {"_scale", QUANTISED},
    {".biases", QUANTISED},
    {"q_weight", QUANTISED},
    {"codebooks", QUANTISED},
    {"weight_packed", QUANTISED},
    {"weight_zero_point", QUANTISED},
    {"weight_format", QUANTISED},
    {"expert", "it belongs to a mixture of experts", OTHER},
    {"_exps", "it belongs to a mixture of experts", OTHER},
    {"_moe", "it belongs to a mixture of experts", OTHER},
    {"gate_inp", "it belongs to a mixture of experts", OTHER},
    {"router", "it belongs to a mixture of experts", OTHER},
    {"mlp.gate.", "it belongs to a mixture of experts", OTHER},
    {"q_norm", "it normalises queries, as Qwen3 does", OTHER},
    {"k_norm", "it normalises keys, as Qwen3 does", OTHER},
    {"qkv", "it has several weights in one", OTHER},
    {"W_pack", "it has several weights in one", OTHER},
    {"gate_up_proj", "it has several weights in one", OTHER},
    {"embed_positions", "it is a table of positions, as OPT has", OTHER},
    {"position_embd", "it is a table of positions, as GPT-2 has", OTHER},
#undef ADAPTER
#undef QUANTISED
};

/* Reports a tensor of another model. `what` is a clause: "it is a bias". Returns LLAMA_EFORMAT. */
static int foreign_tensor(const archive *a, const tensor *t, const char *what, const char *advice) {
    return llamac_fail(a->err, LLAMA_EFORMAT, "%s: tensor '%.*s' is not part of a LLaMA: %s; %s",
                       a->file, (int)(t->length < 80 ? t->length : 80), t->name, what, advice);
}

/* Decides what becomes of a tensor whose plain name is of no weight. Returns LLAMA_OK to skip it:
 * if no model needs it or, except in GGUF, if it is outside the layers. */
static int skip_tensor(binder *b, const archive *a, const tensor *t, const char *name) {
    static const char bias[] = ".bias";
    char whole[MAX_NAME + sizeof ".weight"];
    size_t n = strlen(name), stem = n - (n < sizeof bias ? n : sizeof bias - 1);
    int names;
    bool inside = strncmp(name, "layers.", 7) == 0 || strncmp(name, "blk.", 4) == 0;
    bool is_bias = strcmp(name + stem, bias) == 0;
    for (const char *at = name; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL)
        for (size_t k = 0; k < sizeof unneeded / sizeof *unneeded; k++)
            if (llamac_is(at, strcspn(at, "."), unneeded[k])) return LLAMA_OK;
    snprintf(whole, sizeof whole, "%.*s.weight", (int)stem, name);
    bool of_weight = weight_named(b, whole, &names) != SIZE_MAX;
    if (is_bias && t->dims > 1 && !of_weight) return LLAMA_OK; /* a mask */
    if (is_bias && (inside || of_weight))
        return foreign_tensor(a, t, "it is a bias, as Qwen2 and InternLM have", OTHER);
    for (size_t k = 0; k < sizeof foreign / sizeof *foreign; k++)
        if (strstr(name, foreign[k].part))
            return foreign_tensor(a, t, foreign[k].what, foreign[k].advice);
    if (inside || b->m->format == GGUF)
        return foreign_tensor(a, t, "it belongs to another architecture", OTHER);
    if (!b->skipped || prefix_length(b, name) != SIZE_MAX) b->skipped = t;
    return LLAMA_OK;
}

/* Reports weights that have different prefixes. Returns LLAMA_EFORMAT. */
static int mixed_prefixes(const binder *b, const char *file, const tensor *t) {
    return llamac_fail(b->err, LLAMA_EFORMAT,
                       "%s: tensor '%.*s' has another prefix than the tensors before it; save the "
                       "tensors of one model alone",
                       file, (int)(t->length < 80 ? t->length : 80), t->name);
}

/* Copies GGUF's divisors of RoPE's frequencies, as Llama 3.1 has them. Returns LLAMA_EFORMAT if the
 * tensor is not a vector of head_dim/2 float32 numbers from 0.5 to 1e6, or is in the files twice. */
static int bind_divisors(binder *b, const archive *a, const tensor *t) {
    llama *m = b->m;
    size_t n = m->head_dim / 2;
    if (t->wrong) return bad_tensor(a, t, t->wrong);
    if (t->type != F32 || t->dims != 1 || t->shape[0] != n)
        return bad_tensor(a, t, "is not a float32 divisor for each pair of a head");
    if (m->divisors) return bad_tensor(a, t, "is in the files twice");
    m->divisors = llamac_new(&m->arena, n, sizeof *m->divisors);
    if (!m->divisors) return llamac_out_of_memory(b->err, b->path);
    for (size_t j = 0; j < n; j++) {
        float w = m->divisors[j] = element(F32, t->data, j);
        if (!(w >= 0.5f && w <= 1e6f))
            return bad_tensor(a, t, "has a divisor that is not from 0.5 to 1e6");
    }
    return LLAMA_OK;
}

/* Binds a tensor of file number f to its weight, as part k of it. A vector becomes a matrix of one
 * row. Returns LLAMA_EFORMAT for a tensor that LLaMA does not have, or that occurs twice. */
static int bind_tensor(binder *b, const archive *a, tensor *t, size_t f, size_t k) {
    char full[MAX_NAME + 1] = "", *name = full;
    size_t prefix = strlen(b->prefix);
    plain_name(t, full);
    if (strncmp(full, b->prefix, prefix) == 0) name += prefix;
    else if (weight_named(b, full, &t->names) != SIZE_MAX) return mixed_prefixes(b, a->file, t);
    size_t i = weight_named(b, name, &t->names);
    bool empty = false;
    for (int d = 0; d < t->dims; d++) empty |= t->shape[d] == 0;
    if (b->m->format == GGUF && strcmp(name, "rope_freqs.weight") == 0)
        return bind_divisors(b, a, t);
    if (i == SIZE_MAX && empty) return LLAMA_OK;
    if (i == SIZE_MAX) return skip_tensor(b, a, t, name);
    if (i >= OUTSIDE + b->m->n_layers * INSIDE)
        return foreign_tensor(a, t, "the parameters have fewer layers (n_layers)",
                              "use the parameters of this model");
    tensor **to = &b->tensors[i * b->parts + k];
    if (t->type < 0)
        return llamac_fail(
            a->err, LLAMA_EFORMAT,
            "%s: tensor '%.*s' is %s, not supported; get the model as F16, BF16 or F32", a->file,
            (int)(t->length < 80 ? t->length : 80), t->name, t->stored);
    if (t->wrong) return bad_tensor(a, t, t->wrong);
    if (*to)
        return llamac_fail(a->err, LLAMA_EFORMAT,
                           "%s: tensor '%.*s' gives a weight that '%.*s' before it gives too; save "
                           "the tensors of one model alone",
                           a->file, (int)(t->length < 80 ? t->length : 80), t->name,
                           (int)((*to)->length < 80 ? (*to)->length : 80), (*to)->name);
    if (t->dims < 1 || t->dims > 2) return bad_tensor(a, t, "is neither a vector nor a matrix");
    if (t->dims == 1) {
        t->shape[1] = t->shape[0];
        t->stride[1] = t->stride[0];
        t->shape[0] = 1;
        t->dims = 2;
    }
    t->file = f;
    *to = t;
    return LLAMA_OK;
}

#undef OTHER

/* Reports that file number f is of another kind than its name says, by which its format was chosen,
 * if that is so. */
static void refuse_kind(const binder *b, size_t f, int (*read_tensors)(archive *)) {
    const char *own = read_tensors == read_torch         ? "is PyTorch's"
                      : read_tensors == read_safetensors ? "is safetensors"
                                                         : "is GGUF";
    const char *advice, *what = kind_of_file(b->m->files[f].data, b->m->files[f].size, &advice);
    if (what && strcmp(what, own) != 0)
        llamac_fail(b->err, LLAMA_EFORMAT, "%s: %s; give it the name that such a file has",
                    b->m->paths[f], what);
}

/* Reads file number f with the function of its format, and binds its tensors. Each is part k of its
 * weight. */
static int bind_file(binder *b, size_t f, size_t k, int (*read_tensors)(archive *)) {
    llamac_mapping *file = &b->m->files[f];
    archive a = {.file = b->m->paths[f], .scratch = &b->scratch, .err = b->err};
    a.bytes = llamac_cursor_on(file->data, file->size);
    bool cold = llamac_advise_random(file);
    int status = read_tensors(&a);
    if (status == LLAMA_EFORMAT) refuse_kind(b, f, read_tensors);
    if (status == LLAMA_OK && !b->prefix_known) find_prefix(b, &a);
    for (tensor *t = a.tensors; t && status == LLAMA_OK; t = t->next)
        status = bind_tensor(b, &a, t, f, k);
    llamac_advise_normal(file, cold);
    return status;
}

/* Writes the name of weight i to out, for messages, as the files have it. Files of llama2.c have no
 * names, so they get those of Meta. Returns out. */
static const char *weight_name(const binder *b, size_t i, char out[96]) {
    int format = b->m->format < NAMED_FORMATS ? b->m->format : META;
    if (i < OUTSIDE) snprintf(out, 96, "%s.weight", binding[i].name[format]);
    else
        snprintf(out, 96, "%s%zu.%s.weight", layer_prefix[format], layer_of(i),
                 binding[row_of(i)].name[format]);
    return out;
}

/* Reports that weight i is missing in a file or folder. Returns LLAMA_EFORMAT. */
static int missing_weight(const binder *b, const char *file, size_t i) {
    const tensor *t = b->skipped;
    char name[96], other[MAX_NAME + 1] = "";
    size_t prefix = SIZE_MAX;
    int names;
    weight_name(b, i, name);
    if (t) plain_name(t, other), prefix = prefix_length(b, other);
    if (prefix != SIZE_MAX && weight_named(b, other + prefix, &names) == i)
        return mixed_prefixes(b, file, t);
    if (b->m->format == HUGGING_FACE && i < OUTSIDE && i != NORM &&
        (b->tensors[EMBEDDINGS * b->parts] || b->tensors[OUTPUT * b->parts]))
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s is missing, and %s does not say that output and embeddings are "
                           "one (tie_word_embeddings); get all files of the model",
                           file, name, b->params_file);
    if (t)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: %s is missing, but there is '%.*s', which LLaMA does not have; use a "
            "LLaMA 1, 2 or 3 model",
            file, name, (int)(t->length < 80 ? t->length : 80), t->name);
    return llamac_fail(b->err, LLAMA_EFORMAT, "%s: %s is missing; get all files of the model", file,
                       name);
}

/* Sets V and H from the shapes of tensors. Returns LLAMA_EFORMAT if they do not agree with the
 * parameters. If the parameters have multiple_of but no H, then H must be 2/3 of 4 D, times the
 * multiplier, rounded up to a multiple of multiple_of. */
static int sizes_from_tensors(binder *b) {
    llama *m = b->m;
    const double *p = b->p;
    const tensor *embeddings = b->tensors[EMBEDDINGS], *w1 = b->tensors[W1 * b->parts];
    if (!embeddings || !w1) return missing_weight(b, b->path, embeddings ? W1 : EMBEDDINGS);
    bool by_rows = b->embeddings_by_rows = b->parts > 1 && embeddings->shape[1] == m->dim;
    uint64_t vocab = embeddings->shape[0], rows = w1->shape[0];
    char name[96], shards[64] = "";
    if (m->format == META)
        snprintf(shards, sizeof shards, ", or all its shards: here are %zu", b->parts);
    if (vocab > MAX_VOCAB || rows > MAX_WIDTH)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s has more than %d rows; it is not a LLaMA model", b->path,
                           weight_name(b, rows > MAX_WIDTH ? W1 : EMBEDDINGS, name),
                           rows > MAX_WIDTH ? (int)MAX_WIDTH : (int)MAX_VOCAB);
    if (by_rows) vocab *= b->parts; /* at most MAX_VOCAB times 100 shards */
    m->vocab_size = (size_t)vocab;
    m->hidden = (size_t)rows * b->parts;
    if (m->hidden > MAX_WIDTH || vocab > MAX_VOCAB)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: w1 has %zu rows and the embeddings %zu, more than %d; it is not a LLaMA model",
            b->path, m->hidden, m->vocab_size, (int)MAX_WIDTH);
    uint64_t want = (uint64_t)(2 * 4 * p[DIM] / 3), unit = (uint64_t)p[MULTIPLE_OF];
    if (p[FFN_MULTIPLIER] > 0) want = (uint64_t)(p[FFN_MULTIPLIER] * (double)want);
    if (unit) want = (want + unit - 1) / unit * unit;
    if (p[HIDDEN] > 0) want = (uint64_t)p[HIDDEN];
    if (p[VOCAB] > 0 && (uint64_t)p[VOCAB] != vocab)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: has %zu embeddings, but vocab_size is %.0f in %s; use the "
                           "parameters of this model%s",
                           b->path, m->vocab_size, p[VOCAB], b->params_file, shards);
    if ((unit || p[HIDDEN] > 0) && m->hidden != want)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: w1 has %zu rows, but the hidden width is %llu by %s; use the "
                           "parameters of this model%s",
                           b->path, m->hidden, (unsigned long long)want, b->params_file, shards);
    size_t sizes[DIMS] = {1, m->dim, m->hidden, m->vocab_size, m->kv_dim, m->q_dim};
    memcpy(b->sizes, sizes, sizeof sizes);
    return LLAMA_OK;
}

/* Checks part k of weight i. Returns LLAMA_EFORMAT unless its tensor was found, is [rows][cols] and
 * has the type of part 0. */
static int check_tensor(const binder *b, size_t i, size_t k, size_t rows, size_t cols) {
    const tensor *t = b->tensors[i * b->parts + k], *first = b->tensors[i * b->parts];
    const char *file = b->parts > 1 ? b->m->paths[k] : t ? b->m->paths[t->file] : b->path;
    char name[96];
    if (!t) return missing_weight(b, file, i);
    weight_name(b, i, name);
    if (t->shape[0] != rows || t->shape[1] != cols)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s is [%llu][%llu], not the [%zu][%zu] of %s; the two are of "
                           "different models: download them again",
                           file, name, (unsigned long long)t->shape[0],
                           (unsigned long long)t->shape[1], rows, cols, b->params_file);
    if (t->type != first->type)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: %s is %s, but %s in the first shard; the shards are of different "
                           "models: download them again",
                           file, name, dtype_names[t->type], dtype_names[first->type]);
    return LLAMA_OK;
}

/* Copies the tensors of w into one row-major matrix in the arena. Returns NULL if there is no
 * memory. Needed only for tensors that cannot be used where they are: elements that are not
 * contiguous, or columns divided into parts that are not a multiple of BLOCK. */
static const unsigned char *copy_weight(llama *m, const weight *w, tensor *const *from) {
    size_t size = dtype_bytes[w->type];
    size_t part_rows = w->split == BY_ROWS ? w->rows / w->parts : w->rows;
    size_t part_cols = w->split == BY_COLUMNS ? w->cols / w->parts : w->cols;
    unsigned char *to = llamac_new(&m->arena, (uint64_t)w->rows * w->cols, size);
    for (size_t r = 0; to && r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c++) {
            const tensor *t = from[r / part_rows + c / part_cols];
            uint64_t i = (r % part_rows) * t->stride[0] + (c % part_cols) * t->stride[1];
            memcpy(to + (r * w->cols + c) * size, t->data + i * size, size);
        }
    return to;
}

/* Returns whether the output has the tensor of the embeddings, or another view of the same
 * elements. */
static bool output_is_tied(const binder *b) {
    const tensor *o = b->tensors[OUTPUT * b->parts], *e = b->tensors[EMBEDDINGS * b->parts];
    return o == e || (b->parts == 1 && o && o->data == e->data && o->type == e->type &&
                      memcmp(o->shape, e->shape, sizeof o->shape) == 0 &&
                      memcmp(o->stride, e->stride, sizeof o->stride) == 0);
}

/* Checks weight i against `binding` and stores it in the model: its shape, its type and the first
 * byte of each part. */
static int bind_weight(binder *b, size_t i) {
    llama *m = b->m;
    size_t row = row_of(i), parts = b->parts;
    weight *w = (weight *)(uintptr_t)nth_weight(m, i);
    tensor *const *from = &b->tensors[i * parts];
    *w = (weight){.rows = b->sizes[binding[row].rows],
                  .cols = b->sizes[binding[row].cols],
                  .split = binding[row].split,
                  .local = row == WQ || row == WK || row == WV || row == W1 || row == W3,
                  .unit = row == WQ                ? m->q_dim / m->n_kv_heads
                          : row == WK || row == WV ? m->head_dim
                                                   : 1,
                  .layer = i < OUTSIDE ? -1 : (short)layer_of(i),
                  .name = binding[row].name[META]};
    if (i == EMBEDDINGS && b->embeddings_by_rows) w->split = BY_ROWS;
    if (i == OUTPUT && output_is_tied(b)) {
        *w = m->tok_embeddings;
        w->name = binding[OUTPUT].name[META];
        m->token_bytes += (uint64_t)w->rows * w->cols * dtype_bytes[w->type];
        return LLAMA_OK;
    }
    /* NOLINTNEXTLINE: begin_binding has set parts to 1 or more */
    size_t rows = w->split == BY_ROWS ? w->rows / parts : w->rows;
    size_t cols = w->split == BY_COLUMNS ? w->cols / parts : w->cols; /* NOLINT: the same */
    if ((w->split == BY_ROWS && w->rows % parts) || (w->split == BY_COLUMNS && w->cols % parts))
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: %s [%zu][%zu] cannot be divided over %zu shards; a shard may be missing", b->path,
            w->name, w->rows, w->cols, parts);
    bool in_place = w->split != BY_COLUMNS || parts == 1 || cols % BLOCK == 0;
    for (size_t k = 0; k < parts; k++) {
        int status = check_tensor(b, i, k, rows, cols);
        if (status) return status;
        in_place &=
            (rows == 1 || from[k]->stride[0] == cols) && (cols == 1 || from[k]->stride[1] == 1);
    }
    w->type = (unsigned char)from[0]->type;
    w->sorted = (row == WQ || row == WK) && from[0]->names == HUGGING_FACE;
    w->parts = w->split == WHOLE ? 1 : parts;
    const unsigned char **part = llamac_new(&m->arena, w->parts, sizeof *part);
    if (!part) return llamac_out_of_memory(b->err, b->path);
    for (size_t k = 0; k < w->parts; k++) part[k] = from[k]->data; /* in the mapped file */
    uint64_t elements = (uint64_t)w->rows * w->cols, bytes = elements * dtype_bytes[w->type];
    if (!in_place) {
        /* The tensors of valid files do not overlap, so all copies are at most file_bytes. */
        b->copied_bytes += bytes;
        if (b->copied_bytes > m->file_bytes)
            return llamac_fail(b->err, LLAMA_EFORMAT,
                               "%s: its tensors overlap; it is not a checkpoint", b->path);
        if (!(part[0] = copy_weight(m, w, from))) return llamac_out_of_memory(b->err, b->path);
        w->parts = 1;
        w->split = WHOLE;
    }
    w->part = part;
    m->parameters += elements; /* tied weights count once */
    if (w->rows > 1 && i != EMBEDDINGS) m->token_bytes += bytes;
    m->type_name = i == 0 || m->type_name == dtype_names[w->type] ? dtype_names[w->type] : "mixed";
    return LLAMA_OK;
}

/* Allocates memory for the tensors and layers of this shape. Returns LLAMA_EFORMAT if the files are
 * too small for it, so that a small file cannot request a lot of memory. */
static int begin_binding(binder *b, size_t parts) {
    llama *m = b->m;
    if (parts == 0) return bad_params(b->path, "it has no files with weights", b->err);
    /* Minimum bytes of a tensor with its name, and of an element. Each weight has at least D
     * elements, but a tied output has no tensor. */
    enum { MIN_TENSOR = 16, MIN_ELEMENT = 2 };
    size_t n = (OUTSIDE + m->n_layers * INSIDE) * parts;
    if ((b->m->format != LLAMA2C && n * MIN_TENSOR > m->file_bytes) ||
        m->q_dim * MIN_ELEMENT > m->file_bytes ||
        (n / parts - 1) * m->dim * MIN_ELEMENT > m->file_bytes)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: its files have fewer weights than the shape in %s needs; a download "
            "was not complete, or %s is another model's",
            b->path, b->params_file, b->params_file);
    b->parts = parts;
    b->tensors = llamac_new(&b->scratch, n, sizeof *b->tensors);
    m->layers = llamac_new(&m->arena, m->n_layers, sizeof *m->layers);
    m->freqs = llamac_new(&m->arena, m->head_dim / 2, sizeof *m->freqs);
    if (!b->tensors || !m->layers || !m->freqs) return llamac_out_of_memory(b->err, b->path);
    return LLAMA_OK;
}

/* Binds every weight, after all files are read. If the output is tied, it uses the tensor of the
 * embeddings, which the files may have under the name of either. Files of Meta and of GGUF that have
 * only one of the two tie them. */
static int end_binding(binder *b) {
    tensor **embeddings = &b->tensors[EMBEDDINGS * b->parts],
           **output = &b->tensors[OUTPUT * b->parts];
    if (b->m->format == META || b->m->format == GGUF) {
        bool no_output = true, no_embeddings = b->parts == 1; /* shards divide them differently */
        for (size_t k = 0; k < b->parts; k++)
            no_output &= !output[k], no_embeddings &= !embeddings[k];
        b->p[TIED] =
            !b->skipped && (no_output || no_embeddings); /* else it may be a damaged name */
    }
    for (size_t k = 0; b->p[TIED] > 0 && k < b->parts; k++) {
        if (!embeddings[k]) embeddings[k] = output[k];
        output[k] = embeddings[k];
    }
    int status = sizes_from_tensors(b);
    for (size_t i = 0; i < OUTSIDE + b->m->n_layers * INSIDE && status == LLAMA_OK; i++)
        status = bind_weight(b, i);
    return status;
}

/* Maps folder/name, or name if folder is "", as the next file of weights. */
static int add_file(binder *b, const char *folder, const char *name) {
    llama *m = b->m;
    char path[LLAMAC_PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name);
    if (n < 0 || n >= (int)sizeof path)
        return llamac_fail(b->err, LLAMA_EINVAL, "%.300s: the path is too long", b->path);
    if (m->n_shards == MAX_FILES)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: has more than %d files of weights; give a model with fewer",
                           b->path, (int)MAX_FILES);
    char *kept = llamac_new(&m->arena, (uint64_t)n + 1, 1);
    if (!kept) return llamac_out_of_memory(b->err, b->path);
    m->paths[m->n_shards] = memcpy(kept, path, (size_t)n + 1);
    int status = llamac_map_file(&m->files[m->n_shards], path, b->err);
    if (status) return status;
    const llamac_mapping *f = &m->files[m->n_shards++];
    m->file_bytes += f->size;
    status = llamac_refuse_pointer(f->data, f->size, path, b->err);
    const char *advice, *what = kind_of_file(f->data, f->size, &advice);
    return status || !advice ? status
                             : llamac_fail(b->err, LLAMA_EFORMAT, "%s: %s; %s", path, what, advice);
}

/* ---- Files and folders that are not a model ---- */

/* Reports the folder or a file of an adapter. Returns LLAMA_EFORMAT. */
static int refuse_adapter(const binder *b) {
    return llamac_fail(b->err, LLAMA_EFORMAT,
                       "%s: is an adapter (LoRA), not a model; merge it into its model (peft's "
                       "merge_and_unload) and give the folder of the merged model",
                       b->path);
}

/* Returns the names of a folder's entries, sorted by bytes, and sets *n to their number: 0 if it
 * cannot be read or has too many. */
static char (*list_folder(binder *b, const char *folder, size_t *n))[LLAMAC_NAME_BYTES] {
    enum { MAX_ENTRIES = 4096 };
    char(*names)[LLAMAC_NAME_BYTES] = llamac_new(&b->scratch, MAX_ENTRIES, sizeof *names);
    *n = names ? llamac_list_folder(folder, names, MAX_ENTRIES) : 0;
    return names;
}

/* Returns whether a name ends in `end`. */
static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

/* Appends "/name" to a path. Returns false if it becomes too long. */
static bool append_name(char path[LLAMAC_PATH_BYTES], const char *name) {
    size_t n = strlen(path), n_name = strlen(name);
    if (n + n_name + 2 > LLAMAC_PATH_BYTES) return false;
    path[n] = '/';
    memcpy(path + n + 1, name, n_name + 1);
    return true;
}

/* Extends a path to the first folder of a model below it. Follows snapshots (Hugging Face's cache)
 * and folders that are the only one, up to 4 levels; the path then ends in the last of them. Returns
 * the number of models beside each other; 0: none. */
static int find_model_below(binder *b, char path[LLAMAC_PATH_BYTES]) {
    enum { LEVELS = 4 };
    for (int level = 0; level < LEVELS; level++) {
        const char *model = NULL, *next = NULL;
        int models = 0, folders = 0;
        size_t n, end = strlen(path);
        char(*names)[LLAMAC_NAME_BYTES] = list_folder(b, path, &n);
        for (size_t i = 0; i < n; i++, path[end] = 0) {
            if (!append_name(path, names[i]) || llamac_is_folder(path, NULL) != 1) continue;
            bool found =
                llamac_file_exists(path, "config.json") || llamac_file_exists(path, "params.json");
            if (found && !models++) model = names[i];
            if (!next || strcmp(names[i], "snapshots") == 0) next = names[i];
            folders++;
        }
        if (!next || (!models && folders > 1 && strcmp(next, "snapshots") != 0)) return 0;
        if (!append_name(path, model ? model : next) || models) return models;
    }
    return 0;
}

/* If a folder has files with this ending, which are models of their own, reports which to give.
 * Other files that end in .bin are tokenizers, PyTorch's, or saved states. Returns LLAMA_OK if there
 * are no such files. */
static int suggest_file(binder *b, const char *folder, const char *ending) {
    char path[LLAMAC_PATH_BYTES];
    size_t n, count = 0, first = 0;
    char(*names)[LLAMAC_NAME_BYTES] = list_folder(b, folder, &n);
    for (size_t i = 0; i < n; i++) {
        unsigned char begin[512];
        llamac_file f;
        if (!ends_in(names[i], ending) || strncmp(names[i], "tokenizer", 9) == 0) continue;
        if (llamac_join(path, folder, names[i], NULL) || llamac_open_file(&f, path, NULL)) continue;
        ptrdiff_t size = llamac_read(&f, begin, sizeof begin);
        const char *advice, *kind = kind_of_file(begin, size < 0 ? 0 : (size_t)size, &advice);
        llamac_close_file(&f);
        if ((!kind || strcmp(kind, "is GGUF") == 0) && !count++) first = i;
    }
    bool one = count == 1 || (count && strstr(names[first], "-00001-of-"));
    if (count == 0) return LLAMA_OK;
    return llamac_fail(b->err, LLAMA_EFORMAT, "%s: %s %s/%s", b->path,
                       one ? "is the folder of a model in a file; give the file:"
                           : "is a folder of several models in files; give one, such as",
                       folder, names[first]);
}

/* Reports a folder that has neither params.json nor config.json: says which path to give instead, if
 * that can be seen. Returns LLAMA_EFORMAT. */
static int refuse_folder(binder *b) {
    static const char *const weights[] = {
        "consolidated.00.pth", "consolidated.safetensors",     "model.safetensors",
        "pytorch_model.bin",   "model.safetensors.index.json", "pytorch_model.bin.index.json"};
    if (llamac_file_exists(b->path, "adapter_config.json")) return refuse_adapter(b);
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (llamac_file_exists(b->path, weights[i]))
            return llamac_fail(b->err, LLAMA_EFORMAT,
                               "%s: holds %s, but neither params.json nor config.json; put the one "
                               "that came with it beside it",
                               b->path, weights[i]);
    char below[LLAMAC_PATH_BYTES];
    snprintf(below, sizeof below, "%s", b->path);
    int models = find_model_below(b, below);
    if (models)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: holds neither params.json nor config.json; give the folder of %s "
                           "in it%s %s",
                           b->path, models == 1 ? "the model" : "a model",
                           models == 1 ? ":" : ", such as", below);
    if (suggest_file(b, below, ".gguf") || suggest_file(b, below, ".bin")) return LLAMA_EFORMAT;
    return llamac_fail(b->err, LLAMA_EFORMAT,
                       "%s: holds neither params.json nor config.json; give the folder that does, "
                       "or a .gguf or .bin file",
                       b->path);
}

/* The name of a file, without its folder. */
static const char *name_in(const char *path) { return path + llamac_folder_bytes(path); }

/* Removes the last name and the slash before it. Returns false, and changes nothing, if there is no
 * slash. */
static bool cut_name(char *path) {
    size_t n = llamac_folder_bytes(path);
    if (n) path[n - 1] = 0;
    return n > 0;
}

/* Reports a file that is neither GGUF nor llama2.c: what it is, and which path to give instead.
 * Returns LLAMA_EFORMAT. Version 0 of llama2.c has no magic number, so a file is recognised only by
 * numbers that match each other and its length. */
static int refuse_file(const binder *b) {
    const unsigned char *data = b->m->files[0].data;
    size_t size = b->m->files[0].size;
    const char *name = name_in(b->path);
    char folder[LLAMAC_PATH_BYTES];
    snprintf(folder, sizeof folder, "%.*s", name > b->path ? (int)(name - b->path) - 1 : 1,
             name > b->path ? b->path : ".");
    const char *advice, *what = kind_of_file(data, size, &advice);
    if (strncmp(name, "adapter_", 8) == 0) return refuse_adapter(b);
    if (strncmp(name, "tokenizer", 9) == 0)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: is a tokenizer; give the model's folder or its .gguf or .bin file",
                           b->path);
    if (what &&
        (llamac_file_exists(folder, "params.json") || llamac_file_exists(folder, "config.json")))
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: is one file of a model; give its folder instead: %s", b->path,
                           folder);
    if (what)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: is one file of a model; give a folder that holds all of them, with "
                           "params.json (Meta) or config.json (Hugging Face)",
                           b->path);
    return llamac_fail(b->err, LLAMA_EFORMAT,
                       "%s: is not GGUF, and its length does not match a llama2.c header; it is "
                       "damaged or not a model: give a model's folder, a .gguf or a .bin",
                       b->path);
}

/* ---- JSON files of parameters: params.json, config.json ---- */

/* Reads the JSON file `name` in the folder of the model, and writes its path to `path`. */
static int read_json(binder *b, const char *name, char path[LLAMAC_PATH_BYTES], llamac_json *j) {
    enum { MAX_BYTES = 1 << 26 }; /* an index of 65,536 tensors is smaller */
    llamac_cursor c = {0};
    int status = llamac_join(path, b->path, name, b->err);
    if (status == LLAMA_OK) status = llamac_read_file(&c, &b->scratch, path, MAX_BYTES, b->err);
    *j = llamac_json_on(c.at, llamac_left(&c));
    return status;
}

/* Reports a file that is not a JSON object. Returns LLAMA_EFORMAT. */
static int not_json(const char *path, const llamac_json *j, const unsigned char *begin,
                    llama_error *err) {
    const char *advice,
        *what = kind_of_file(begin, (size_t)(j->c.at - begin) + llamac_left(&j->c), &advice);
    if (advice) return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; %s", path, what, advice);
    return llamac_fail(
        err, LLAMA_EFORMAT,
        "%s: is not a JSON object, see byte %zu; use the file that came with the model", path,
        (size_t)(j->c.at - begin));
}

/* If a value of params.json, config.json or generation_config.json is an end-of-text id, or one of a
 * list of them, adds it to those of the model. */
static int note_end(binder *b, const llamac_json *j, const char *path) {
    const llamac_value *v = &j->value;
    bool list = j->level == 1 && (v->kind == '[' || v->kind == ']');
    if (j->level < 1 || v->kind == 'n' || list || !llamac_json_under(j, 1, "eos_token_id"))
        return LLAMA_OK;
    return add_end(b, v->kind == '0' && j->level <= 2 ? v->number : (double)NAN, path);
}

/* Reads what generation_config.json says of end-of-text. The file may be absent. */
static int read_generation_config(binder *b) {
    char path[LLAMAC_PATH_BYTES];
    llamac_json j;
    int status = read_json(b, "generation_config.json", path, &j);
    bool too_long = status == LLAMA_EINVAL; /* such a file cannot exist */
    if (status) return too_long || llamac_is_not_found(status) ? LLAMA_OK : status;
    const unsigned char *begin = j.c.at;
    bool object = llamac_json_next(&j) == '{';
    while (status == LLAMA_OK && object && llamac_json_next(&j)) status = note_end(b, &j, path);
    return status ? status : object && !j.c.bad ? LLAMA_OK : not_json(path, &j, begin, b->err);
}

/* Reads the parameters from a JSON object. Applies the keys of its first level, and in config.json
 * those in the containers of `nested`. A nested object or array in params.json means another
 * model. */
static int read_params(binder *b, const char *name) {
    static const char *const nested[] = {"rope_scaling", "rope_parameters", "architectures",
                                         "layer_types"};
    enum { OBJECTS = 2, NESTED = 4 }; /* the first OBJECTS of nested are objects, or null */
    char path[LLAMAC_PATH_BYTES], twice[64] = "";
    bool seen[OBJECTS] = {false};
    llamac_json j;
    int status = read_json(b, name, path, &j);
    if (status) return status;
    const unsigned char *begin = j.c.at;
    bool object = llamac_json_next(&j) == '{';
    while (status == LLAMA_OK && object && llamac_json_next(&j)) {
        bool begins = j.value.kind == '{' || j.value.kind == '[', applied = j.level == 1;
        bool other = b->m->format == META && begins && !llamac_json_under(&j, 1, "eos_token_id");
        for (int i = 0; i < NESTED && b->m->format == HUGGING_FACE; i++) {
            if (!llamac_json_under(&j, 1, nested[i])) continue;
            applied = !begins && (j.level == 2 || i >= OBJECTS);
            other |= j.level == 1 && !strchr(i < OBJECTS ? "{}n" : "[]\"n", j.value.kind);
            other |= j.level == 2 && begins;
            if (i >= OBJECTS || j.level != 1 || j.value.kind == '}') continue;
            if (seen[i])
                snprintf(twice, sizeof twice, "'%s' is given twice; remove one of them", nested[i]);
            seen[i] = true;
        }
        if (j.value.kind == '}' || j.value.kind == ']') continue;
        int key = j.key[j.level].n ? j.level : 1; /* in an array: the key of the array */
        llamac_pair s = {j.key[key].text, j.key[key].n, j.value};
        if (other) status = not_llama(path, &s, b->err);
        else if (*twice) status = llamac_fail(b->err, LLAMA_EFORMAT, "%s: %s", path, twice);
        else if (applied) status = apply_setting(b->p, b->m->format, &s, path, b->err);
        if (status == LLAMA_OK) status = note_end(b, &j, path);
    }
    if (status == LLAMA_OK && (!object || j.c.bad)) status = not_json(path, &j, begin, b->err);
    if (status == LLAMA_OK) status = params_apply(b->m, b->p, path, b->err);
    b->params_file = name;
    return status;
}

/* ---- Meta ---- */

/* Writes the name of shard k to out. Returns out. */
static const char *shard_name(int k, char out[32]) {
    snprintf(out, 32, "consolidated.%02d.pth", k);
    return out;
}

/* Reports a folder of Meta without consolidated.00.pth. Returns LLAMA_EFORMAT. */
static int refuse_no_shards(const binder *b) {
    return llamac_fail(b->err, LLAMA_EFORMAT,
                       llamac_file_exists(b->path, "model.safetensors")
                           ? "%s: holds model.safetensors, but not its config.json; download that"
                           : "%s: holds params.json, but not its weights, consolidated.00.pth or "
                             "consolidated.safetensors; download them into it",
                       b->path);
}

/* Opens a folder of Meta. The shards are consolidated.00.pth, 01, ... up to the first that does not
 * exist. Each weight is divided over all of them. Mistral's folders have consolidated.safetensors
 * instead. */
static int open_meta(binder *b) {
    enum { MAX_SHARDS = 100, MAX_HOLE = 8 };
    int (*read_tensors)(archive *) = read_torch;
    char name[32], missing[32];
    bool end = false;
    int status = read_generation_config(b);
    if (status == LLAMA_OK) status = read_params(b, "params.json");
    if (status) return status;
    for (int k = 0; k < MAX_SHARDS && status == LLAMA_OK; k++) {
        status = add_file(b, b->path, shard_name(k, name));
        end = llamac_is_not_found(status);
    }
    if (end && b->m->n_shards) {
        status = LLAMA_OK;
        for (int n = (int)b->m->n_shards, k = n + 1; k < n + MAX_HOLE; k++)
            if (llamac_file_exists(b->path, shard_name(k, name)))
                return llamac_fail(b->err, LLAMA_EFORMAT, "%s: holds %s, but not %s; download it",
                                   b->path, name, shard_name(n, missing));
    } else if (end) {
        if (!llamac_file_exists(b->path, "consolidated.safetensors")) return refuse_no_shards(b);
        read_tensors = read_safetensors;
        status = add_file(b, b->path, "consolidated.safetensors");
    }
    if (status == LLAMA_OK) status = begin_binding(b, b->m->n_shards);
    for (size_t k = 0; k < b->m->n_shards && status == LLAMA_OK; k++)
        status = bind_file(b, k, k, read_tensors);
    return status;
}

/* ---- Hugging Face: config.json, safetensors or PyTorch files, with or without an index ---- */

/* Maps a file that the index names, unless it is mapped already. The file must be in the folder of
 * the index. */
static int add_indexed(binder *b, const char *index, const char *name, size_t n) {
    char file_name[256];
    bool valid = n > 0 && n < sizeof file_name && name[0] != '.' && !memchr(name, '/', n) &&
                 !memchr(name, '\\', n) && !memchr(name, ':', n) && !memchr(name, 0, n);
    if (!valid)
        return bad_params(
            index, "has a file name that is empty, hidden, too long or outside its folder", b->err);
    snprintf(file_name, sizeof file_name, "%.*s", (int)n, name);
    for (size_t f = 0; f < b->m->n_shards; f++)
        if (strcmp(name_in(b->m->paths[f]), file_name) == 0) return LLAMA_OK;
    int status = add_file(b, b->path, file_name);
    if (llamac_is_not_found(status))
        status = llamac_fail(b->err, LLAMA_EFORMAT,
                             "%s: names %s, which does not exist; download it", index, file_name);
    errno = 0; /* the index itself was found */
    return status;
}

/* Maps the files that an index names:
 *
 *   {"metadata": ..., "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", ...}} */
static int read_index(binder *b, const char *name) {
    char path[LLAMAC_PATH_BYTES];
    llamac_json j;
    int status = read_json(b, name, path, &j);
    while (status == LLAMA_OK && llamac_json_next(&j))
        if (j.level == 2 && j.value.kind == '"' && llamac_json_under(&j, 1, "weight_map"))
            status = add_indexed(b, path, j.value.text, j.value.n);
    if (status == LLAMA_OK && (j.c.bad || !b->m->n_shards))
        status = bad_params(path, "is not a JSON index of weights", b->err);
    return status;
}

/* Reports a folder of Hugging Face without an index and without a file of all weights. Returns
 * LLAMA_EFORMAT. */
static int refuse_no_weights(binder *b) {
    size_t n;
    char(*names)[LLAMAC_NAME_BYTES] = list_folder(b, b->path, &n);
    if (llamac_file_exists(b->path, "adapter_config.json")) return refuse_adapter(b);
    for (size_t i = 0; i < n; i++) {
        bool safe = ends_in(names[i], ".safetensors");
        if (strstr(names[i], "-of-") && (safe || ends_in(names[i], ".bin")))
            return llamac_fail(
                b->err, LLAMA_EFORMAT,
                "%s: holds %s, but the index of its files, %s.index.json, is missing; "
                "download it",
                b->path, names[i], safe ? "model.safetensors" : "pytorch_model.bin");
    }
    if (suggest_file(b, b->path, ".gguf")) return LLAMA_EFORMAT;
    return llamac_fail(b->err, LLAMA_EFORMAT,
                       "%s: holds neither model.safetensors nor pytorch_model.bin, nor an index "
                       "of either; download the weights, or give a file of them that name",
                       b->path);
}

/* Opens a folder of Hugging Face: one file of weights, or those that an index names. Folders often
 * have the weights in both forms; safetensors are tried first. */
static int open_hugging_face(binder *b) {
    static const struct {
        const char *single, *index;
        int (*read_tensors)(archive *);
    } kinds[] = {
        {"model.safetensors", "model.safetensors.index.json", read_safetensors},
        {"pytorch_model.bin", "pytorch_model.bin.index.json", read_torch},
    };
    int k, status = read_generation_config(b); /* before config.json: its ids have precedence */
    if (status == LLAMA_OK) status = read_params(b, "config.json");
    if (status) return status;
    for (k = 0; k < 2; k++) {
        status = add_file(b, b->path, kinds[k].single);
        if (llamac_is_not_found(status)) status = read_index(b, kinds[k].index);
        if (!llamac_is_not_found(status)) break;
    }
    if (k == 2) return refuse_no_weights(b);
    if (status == LLAMA_OK) status = begin_binding(b, 1);
    for (size_t f = 0; f < b->m->n_shards && status == LLAMA_OK; f++)
        status = bind_file(b, f, 0, kinds[k].read_tensors);
    return status;
}

/* ---- GGUF: one file, or NAME-00001-of-0000N.gguf and the other splits ---- */

/* Reads the parameters from the first file, and notes in *v what it says of the vocabulary. Each
 * key is looked up twice: as it is, for required_settings, and without "llama.", for param_keys. */
static int gguf_params(binder *b, llamac_gguf_vocab *v, double *splits) {
    static const char prefix[] = "llama.";
    enum { PREFIX = sizeof prefix - 1 };
    archive a = {.file = b->path, .scratch = &b->scratch, .err = b->err};
    a.bytes = llamac_cursor_on(b->m->files[0].data, b->m->files[0].size);
    gguf_file g;
    llamac_pair p;
    double split = 0; /* from 0 on */
    bool has_name = false;
    int status = gguf_open(&g, &a);
    for (uint64_t i = 0; i < g.n_pairs && status == LLAMA_OK; i++) {
        if (!gguf_next(&g, &p)) return bad_pair(&g);
        if (llamac_is(p.key, p.length, "adapter.type")) return refuse_adapter(b);
        status = apply_setting(b->p, GGUF, &p, b->path, b->err);
        has_name |= llamac_is(p.key, p.length, "general.architecture");
        if (llamac_is(p.key, p.length, "split.no")) split = p.value.number;
        if (llamac_is(p.key, p.length, "split.count")) *splits = p.value.number;
        if (status == LLAMA_OK && p.length > PREFIX && memcmp(p.key, prefix, PREFIX) == 0) {
            llamac_pair s = {p.key + PREFIX, p.length - PREFIX, p.value};
            status = apply_setting(b->p, GGUF, &s, b->path, b->err);
        }
        llamac_vocab_note(v, &p);
    }
    llamac_vocab_defaults(v);
    const double ends[] = {v->eos, v->eot, v->eom};
    for (int i = 0; i < 3 && status == LLAMA_OK; i++) status = add_end(b, ends[i], b->path);
    if (status == LLAMA_OK && (split > 0 || (!has_name && strstr(name_in(b->path), "-of-"))))
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: is one file of a split model; give the first instead, -00001-of-...", b->path);
    if (status == LLAMA_OK && !has_name) return bad_archive(&a, "it has no general.architecture");
    if (status == LLAMA_OK && g.n_tensors == 0 && !strstr(name_in(b->path), "-of-"))
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: has no weights, only a vocabulary; give the model's .gguf file",
                           b->path);
    return status ? status : params_apply(b->m, b->p, b->path, b->err);
}

/* Maps the other files of a split model, if the name of the first file has the form of a split. */
static int add_splits(binder *b) {
    enum { SUFFIX = sizeof "-00001-of-00002.gguf" - 1, MAX_COUNT = 99999 };
    size_t n = strlen(b->path);
    char suffix[32] = "", name[LLAMAC_PATH_BYTES];
    int status = LLAMA_OK, count = 0;
    if (n > SUFFIX && n < sizeof name) count = (int)strtol(b->path + n - 10, NULL, 10);
    snprintf(suffix, sizeof suffix, "-00001-of-%05d.gguf", count);
    if (count < 1 || count > MAX_COUNT || strcmp(b->path + n - SUFFIX, suffix) != 0)
        return LLAMA_OK;
    for (int k = 2; k <= count && status == LLAMA_OK; k++) {
        snprintf(name, sizeof name, "%.*s-%05d-of-%05d.gguf", (int)(n - SUFFIX), b->path, k, count);
        status = add_file(b, "", name);
    }
    return status;
}

/* Opens a GGUF file. Reads its vocabulary if want_vocab: if the caller gave no other tokenizer. */
static int open_gguf(binder *b, bool want_vocab) {
    llamac_gguf_vocab v = {.eot = -1, .eom = -1}; /* llamac_vocab_defaults sets the others */
    b->params_file = "its header";
    double splits = 0; /* files of the model, as the first says */
    int status = gguf_params(b, &v, &splits);
    if (status == LLAMA_OK) status = add_splits(b);
    if (status == LLAMA_OK && splits > 1 && splits != (double)b->m->n_shards)
        return llamac_fail(b->err, LLAMA_EFORMAT,
                           "%s: is the first of %.0f files of a split model; name them "
                           "NAME-00001-of-%05.0f.gguf and so on, in one folder",
                           b->path, splits, splits);
    if (status == LLAMA_OK) status = begin_binding(b, 1);
    for (size_t f = 0; f < b->m->n_shards && status == LLAMA_OK; f++)
        status = bind_file(b, f, 0, read_gguf);
    if (status == LLAMA_OK) status = end_binding(b);
    if (status || !want_vocab) return status;
    return llamac_vocab_gather(&b->m->vocab, &v, b->m->vocab_size, b->path, &b->m->arena, b->err);
}

/* ---- llama2.c: a header of seven integers, then float32 weights in a fixed order ---- */

/* The order of the weights, by version. The matrices of one weight are together, layer after
 * layer. */
static const unsigned char llama2c_orders[2][BINDINGS] = {
    {EMBEDDINGS, ATTENTION_NORM, WQ, WK, WV, WO, FFN_NORM, W1, W2, W3, NORM, OUTPUT},
    {ATTENTION_NORM, FFN_NORM, NORM, EMBEDDINGS, WQ, WK, WV, WO, W1, W2, W3, OUTPUT},
};

/* Reads the header and moves *c to the first weight. Only version 1 begins with a magic number. Its
 * header has a byte that is not 0 if the embeddings are tied. In version 0, vocab_size is negative
 * if they are not tied. Sets *seq_len, which may be more positions than a session can have. */
static int llama2c_params(binder *b, llamac_cursor *c, int *version, uint64_t *seq_len) {
    enum { VERSION_1_HEADER = 256 };
    static const unsigned char header[] = {DIM,      HIDDEN, LAYERS,       HEADS,
                                           KV_HEADS, VOCAB,  MAX_POSITIONS};
    static const char *const names[] = {"dim",        "hidden_dim", "n_layers", "n_heads",
                                        "n_kv_heads", "vocab_size", "seq_len"};
    llamac_cursor old = *c;
    uint64_t v = 0;
    *version = llamac_uint(c, 4) == 0x616b3432; /* "ak42" */
    if (*version) v = llamac_uint(c, 4);
    else *c = old;
    if (v > 1)
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: has version %llu of llama2.c's format, which is quantised; export version 0 or 1",
            b->path, (unsigned long long)v);
    int status = LLAMA_OK;
    for (int i = 0; i < 7 && status == LLAMA_OK; i++) {
        double number = (double)(int32_t)llamac_uint(c, 4);
        if (header[i] == VOCAB) {
            b->p[TIED] = number > 0;
            number = number < 0 && !*version ? -number : number;
        }
        if (header[i] == MAX_POSITIONS && number > 0) *seq_len = (uint64_t)number;
        status = put_param(b->p, header[i], names[i],
                           &(llamac_value){.kind = '0', .number = number, .type = GGUF_NONE},
                           b->path, b->err);
    }
    if (*version) {
        b->p[TIED] = llamac_uint(c, 1) != 0;
        *c = old;
        llamac_take(c, VERSION_1_HEADER);
    }
    b->p[NORM_EPS] = 1e-5; /* a constant of llama2.c; the file does not have it */
    if (status == LLAMA_OK && b->p[VOCAB] < 1) return refuse_file(b);
    if (status == LLAMA_OK) status = params_apply(b->m, b->p, b->path, b->err);
    return status && !*version ? refuse_file(b) : status;
}

/* Takes the matrices of one weight, layer after layer. If the file is too short, c->bad is set. */
static int llama2c_weight(binder *b, llamac_cursor *c, unsigned row) {
    const llama *m = b->m;
    size_t sizes[DIMS] = {1,         m->dim,  (size_t)b->p[HIDDEN], (size_t)b->p[VOCAB],
                          m->kv_dim, m->q_dim};
    uint64_t rows = sizes[binding[row].rows], cols = sizes[binding[row].cols];
    for (size_t l = 0; l < (row < OUTSIDE ? 1 : m->n_layers); l++) {
        const unsigned char *data = llamac_take(c, rows * cols * sizeof(float)); /* at most 2^42 */
        tensor *t = data ? llamac_new(&b->scratch, 1, sizeof *t) : NULL;
        if (!t) return data ? llamac_out_of_memory(b->err, b->path) : LLAMA_OK;
        *t = (tensor){
            .data = data, .shape = {rows, cols}, .stride = {cols, 1}, .dims = 2, .type = F32};
        b->tensors[row + l * INSIDE] = t;
    }
    return LLAMA_OK;
}

/* Opens a llama2.c file. Each weight has the size that the header gives, and the last one must end
 * at the end of the file. */
static int open_llama2c(binder *b) {
    llama *m = b->m;
    llamac_cursor c = llamac_cursor_on(m->files[0].data, m->files[0].size);
    uint64_t seq_len = 0;
    int version = 0, status = llama2c_params(b, &c, &version, &seq_len);
    b->params_file = "its header";
    if (status == LLAMA_OK) status = begin_binding(b, 1);
    if (status) return status;
    for (int i = 0; i < BINDINGS && status == LLAMA_OK; i++) {
        unsigned row = llama2c_orders[version][i];
        if (row == OUTPUT && !version) /* after the tables of RoPE, which rope_freqs() computes */
            llamac_take(&c, seq_len * m->head_dim * sizeof(float));
        if (row != OUTPUT || b->p[TIED] == 0) status = llama2c_weight(b, &c, row);
    }
    if (status) return status;
    if (c.bad || llamac_left(&c)) return refuse_file(b);
    return end_binding(b);
}

/* ---- Any format ---- */

/* Detects the format and binds all weights. If a folder has the files of both Meta and Hugging
 * Face, it is opened as Meta. */
static int open_weights(binder *b, bool want_vocab) {
    llama *m = b->m;
    m->files = llamac_new(&m->arena, MAX_FILES, sizeof *m->files);
    m->paths = llamac_new(&m->arena, MAX_FILES, sizeof *m->paths);
    if (!m->files || !m->paths) return llamac_out_of_memory(b->err, b->path);
    int status = llamac_is_folder(b->path, b->err);
    if (status < 0) return status;
    if (status) {
        bool meta = llamac_file_exists(b->path, "params.json") &&
                    (llamac_file_exists(b->path, "consolidated.00.pth") ||
                     llamac_file_exists(b->path, "consolidated.safetensors"));
        bool hugging_face = llamac_file_exists(b->path, "config.json") && !meta;
        if (!hugging_face && !llamac_file_exists(b->path, "params.json")) return refuse_folder(b);
        m->format = hugging_face ? HUGGING_FACE : META;
        status = hugging_face ? open_hugging_face(b) : open_meta(b);
        return status ? status : end_binding(b);
    }
    status = add_file(b, "", b->path);
    if (status) return status;
    bool gguf = m->files[0].size >= 4 && memcmp(m->files[0].data, "GGUF", 4) == 0;
    m->format = gguf ? GGUF : LLAMA2C;
    return gguf ? open_gguf(b, want_vocab) : open_llama2c(b);
}

/* ---- The tokenizer ---- */

/* Adds the tokens that Hugging Face's files beside the tokenizer's file name. */
static int read_added_tokens(binder *b, const char *tokenizer) {
    static const char *const names[] = {"added_tokens.json", "special_tokens_map.json",
                                        "tokenizer_config.json", "tokenizer.json"};
    enum { MAX_BYTES = 1 << 26 };
    char folder[LLAMAC_PATH_BYTES], paths[4][LLAMAC_PATH_BYTES];
    llamac_cursor files[4] = {{0}, {0}, {0}, {0}};
    int n = strcmp(name_in(tokenizer), names[3]) == 0 ? 3 : 4; /* it is read already */
    bool any = false;
    if (strlen(tokenizer) >= sizeof folder) return LLAMA_OK; /* no system opens such a path */
    memcpy(folder, tokenizer, strlen(tokenizer) + 1);
    if (!cut_name(folder)) memcpy(folder, ".", 2);
    for (int i = 0; i < n; i++) {
        int status = llamac_join(paths[i], *folder ? folder : "/", names[i], b->err);
        if (status == LLAMA_OK)
            status = llamac_read_file(&files[i], &b->scratch, paths[i], MAX_BYTES, b->err);
        if (status && !llamac_is_not_found(status)) return status;
        any |= files[i].at != NULL;
    }
    const char *const all[4] = {paths[0], paths[1], paths[2], paths[3]};
    return any ? llamac_vocab_extend(b->m->vocab, files, b->m->vocab_size, all, b->err) : LLAMA_OK;
}

/* Reports what a file is that is not a tokenizer, if its first bytes or its name say so. Returns
 * LLAMA_EFORMAT. */
static int refuse_other_file(const binder *b, const char *path) {
    static const char settings[] = "holds settings", gpt2[] = "is a part of a GPT-2 vocabulary";
    static const struct {
        const char *name, *what;
    } names[] = {{"config.json", settings},
                 {"generation_config.json", settings},
                 {"params.json", settings},
                 {"tokenizer_config.json", settings},
                 {"special_tokens_map.json", settings},
                 {"added_tokens.json", "holds only added tokens"},
                 {"vocab.json", gpt2}};
    unsigned char first[512] = {0};
    const char *what = NULL, *kind, *advice;
    llamac_file f;
    if (llamac_open_file(&f, path, NULL)) return LLAMA_EFORMAT; /* which is reported already */
    ptrdiff_t n = llamac_read(&f, first, sizeof first);
    llamac_close_file(&f);
    kind = kind_of_file(first, n < 0 ? 0 : (size_t)n, &advice);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name_in(path), names[i].name) == 0) what = names[i].what;
    if (memcmp(first, "#version", 8) == 0) what = gpt2;
    if (kind && strcmp(kind, "is JSON") != 0) what = kind;
    if (!what) return LLAMA_EFORMAT;
    return llamac_fail(
        b->err, LLAMA_EFORMAT,
        "%s: %s, not a tokenizer; give the model's tokenizer.model or tokenizer.json", path, what);
}

/* Reads the tokenizer from the file that the caller gave, or else from the folder of the model. If
 * the folder has no tokenizer, the model opens without. */
static int open_tokenizer(binder *b, const char *given) {
    static const char *const names[][2] = {[META] = {"tokenizer.model", "../tokenizer.model"},
                                           [HUGGING_FACE] = {"tokenizer.model", "tokenizer.json"},
                                           [LLAMA2C] = {"tokenizer.bin", "tokenizer.model"}};
    enum { MAX_BYTES = 1 << 26 }; /* those of LLaMA have 0.5 MB, or 2 MB as JSON */
    char folder[LLAMAC_PATH_BYTES], found[LLAMAC_PATH_BYTES];
    llama *m = b->m;
    llamac_cursor c = {0};
    memcpy(folder, b->path, strlen(b->path) + 1);
    if (m->format == LLAMA2C && !cut_name(folder)) memcpy(folder, ".", 2); /* else a folder */
    for (int i = 0; i < (given ? 1 : 2) && !c.at; i++) {
        if (!given && !names[m->format][i]) break;
        const char *path = given ? given : found;
        int status = given ? LLAMA_OK : llamac_join(found, folder, names[m->format][i], b->err);
        if (status == LLAMA_OK) status = llamac_read_file(&c, &b->scratch, path, MAX_BYTES, b->err);
        if (status == LLAMA_EFORMAT) return refuse_other_file(b, path);
        if (status && (given || !llamac_is_not_found(status))) return status;
    }
    if (!c.at && m->format == HUGGING_FACE && llamac_file_exists(folder, "vocab.json") &&
        llamac_file_exists(folder, "merges.txt"))
        return llamac_fail(
            b->err, LLAMA_EFORMAT,
            "%s: its vocabulary is of GPT-2's kind (vocab.json, merges.txt), which is "
            "not supported; the model cannot be used, because a tokenizer of another "
            "model gives wrong text",
            folder);
    if (!c.at) return LLAMA_OK;
    int status = llamac_vocab_parse(&m->vocab, c, m->vocab_size, given ? given : found, !given,
                                    &m->arena, b->err);
    if (status == LLAMA_EFORMAT) return refuse_other_file(b, given ? given : found);
    if (status == LLAMA_OK && m->format == LLAMA2C) /* as its program run.c does */
        status = add_end(b, llamac_vocab_eos(m->vocab), b->path);
    if (status == LLAMA_OK && m->format == LLAMA2C)
        status = add_end(b, llamac_vocab_bos(m->vocab), b->path);
    return status ? status : read_added_tokens(b, given ? given : found);
}

/* ---- Files that change during opening ---- */

/* Returns LLAMA_EIO if a file was replaced or its size changed while the model was opened. A
 * download may be in progress, or one of several files may have been replaced. */
static int check_unchanged(const binder *b) {
    const llama *m = b->m;
    size_t f = 0;
    while (f < m->n_shards && llamac_is_mapped(&m->files[f], m->paths[f])) f++;
    if (f == m->n_shards && !m->lost) return LLAMA_OK;
    return llamac_fail(b->err, LLAMA_EIO, "%s: changed while it was opened; try again later",
                       m->paths[m->lost ? m->lost - 1 : (int)f]);
}

/* ---- RoPE's table ---- */

/* Returns the frequency f scaled, with the same roundings as in the float32 code of Meta and of
 * Hugging Face's library:
 *
 *   linear   f / factor
 *   llama3   f, if that is `high` or more turns within `original` positions; f / factor, if it is `low`
 *            or fewer turns; else a mixture of both */
static float scaled_frequency(const rope_scaling *r, float f) {
    const float turn = 6.28318530717958647692f;
    float wavelength = 1 / f * turn; /* positions of a turn */
    if (r->kind == LINEAR) return f / r->factor;
    if (r->kind != LLAMA3 || wavelength < r->original / r->high) return f;
    if (wavelength > r->original / r->low) return f / r->factor;
    float s = (1 / wavelength * r->original - r->low) / (r->high - r->low);
    return (1 - s) * f / r->factor + s * f;
}

/* Fills freqs with the angles, in radians, by which one position rotates each pair. For pair j this
 * is theta^(-2j/head_dim), with the same roundings as in the float32 code of Meta. */
static void rope_freqs(llama *m) {
    double log_theta = log_double((double)m->rope_theta);
    for (size_t j = 0; j < m->head_dim / 2; j++) {
        float e = (float)(2 * j) / (float)m->head_dim;
        float power = (float)exp_double((double)e * log_theta);
        m->freqs[j] = scaled_frequency(&m->scaling, 1.0f / power);
        if (m->divisors) m->freqs[j] /= m->divisors[j];
    }
}

/* Sets the constants of llama3 that the files do not give.
 *
 * Meta's code has the factor 8. The published configuration of Llama 3.2's 1B and 3B has 32; their
 * params.json is the same, so they are recognised by their tied output and their widths.
 *
 * GGUF has divisors of the frequencies in place of constants. If the divisors are those of `low` 1 and
 * `high` 4, which all published models have, they are replaced by the constants, so that the bits are
 * those of the other formats. The largest divisor is the factor; one between 1 and the factor gives
 * `original`. */
static void find_llama3(llama *m) {
    enum { MAX_ORIGINAL = 1 << 30 };
    rope_scaling r = {LLAMA3, 1, 1, 4, 0};
    float *divisors = m->divisors;
    bool tied = m->output.part == m->tok_embeddings.part;
    if (m->scaling.kind == LLAMA3 && m->scaling.factor == 0)
        m->scaling.factor = tied && (m->dim == 2048 || m->dim == 3072) ? 32 : 8;
    if (!divisors || m->scaling.kind != UNSCALED) return;
    m->divisors = NULL;
    rope_freqs(m); /* not scaled */
    m->divisors = divisors;
    m->scaling.kind = DIVISORS;
    for (size_t j = 0; j < m->head_dim / 2; j++)
        if (divisors[j] > r.factor) r.factor = divisors[j];
    for (size_t j = 0; j < m->head_dim / 2; j++) {
        double s =
            (1.0 / (double)divisors[j] - 1.0 / (double)r.factor) / (1 - 1.0 / (double)r.factor);
        if (s > 0.01 && s < 0.99) /* between the two: it tells `original` */
            r.original =
                (float)floor(2 * 3.14159265358979 * (1 + 3 * s) / (double)m->freqs[j] + 0.5);
    }
    bool same = r.original > 0 && r.original < MAX_ORIGINAL;
    for (size_t j = 0; j < m->head_dim / 2; j++) {
        float f = m->freqs[j];
        same &= fabsf(f / scaled_frequency(&r, f) / divisors[j] - 1) < 1e-5f;
    }
    if (same) m->scaling = r, m->divisors = NULL;
}

/* ---- Weights in memory ---- */

/* What is read, locked or counted: n bytes of a mapping. Returns false to stop. */
typedef bool extent_function(void *user, const unsigned char *p, size_t n);

/* Calls fn for everything in the files that the model's rank needs: the complete files; or, of several
 * machines, its rows of each matrix, in the order of nth_weight. The embeddings are left out then, as a
 * pass needs few of their rows. */
static void each_extent(const llama *m, extent_function *fn, void *user) {
    for (size_t f = 0; m->ranks == 1 && f < m->n_shards; f++)
        if (!fn(user, m->files[f].data, m->files[f].size)) return;
    for (size_t i = 0; m->ranks > 1 && i < OUTSIDE + m->n_layers * INSIDE; i++) {
        const weight *w = nth_weight(m, i);
        size_t height = part_rows(w), stride = across(w) * dtype_bytes[w->type];
        range own = rows_of(w, m->rank, m->ranks);
        for (size_t k = 0; k < w->parts && i != EMBEDDINGS && w->rows > 1; k++) {
            size_t top = w->split == BY_ROWS ? k * height : 0, end = top + height, begin = top;
            if (begin < own.begin) begin = own.begin;
            if (end > own.end) end = own.end;
            if (begin < end &&
                !fn(user, w->part[k] + (begin - top) * stride, (end - begin) * stride))
                return;
        }
    }
}

static bool count_extent(void *sum, const unsigned char *p, size_t n) {
    (void)p;
    *(uint64_t *)sum += n;
    return true;
}

/* Returns the bytes of all runs. */
static uint64_t extent_bytes(const llama *m) {
    uint64_t sum = 0;
    each_extent(m, count_extent, &sum);
    return sum;
}

/* A page that has rows of several ranks is not large, so that a rank's memory has no rows of others. */
static bool want_large_pages(void *none, const unsigned char *p, size_t n) {
    (void)none;
    llamac_advise_large_pages(p, n);
    return true;
}

static bool lock_extent(void *locked, const unsigned char *p, size_t n) {
    return *(bool *)locked = llamac_lock(p, n) == 0;
}

/* Locks what each_extent finds in memory. Returns LLAMA_ENOMEM if the system does not allow it. */
static int lock_weights(const llama *m, llama_error *err) {
    bool locked = true;
    each_extent(m, lock_extent, &locked);
    if (locked) return LLAMA_OK;
    return llamac_fail(err, LLAMA_ENOMEM,
                       "%llu bytes cannot be locked in memory: %s; raise ulimit -l",
                       (unsigned long long)extent_bytes(m), strerror(errno));
}

/* ---- Weights that do not fit in memory ---- */

/* A pass reads every matrix once, in a known order. If the matrices do not fit in memory, the best
 * that can be done is to keep a part of them, and to read the rest from the files in each pass. (The
 * system's page cache would keep nothing: it drops the pages that were not used for the longest
 * time, and these are the ones that are needed next.)
 *
 * Every matrix is divided into blocks of rows. A block is either kept in memory from its first read
 * on, or read in every pass into a slot of a ring. The output's blocks are kept first, because
 * scoring uses them several times in a pass; then those of the layers, in an order that spreads them
 * evenly over the pass, so that the disk is never idle. Reader threads read the blocks in the order of
 * forward(), as far ahead of the pass as the ring has slots: also those of the next pass. The pass
 * waits for the next block that it needs, and multiplies all that are there.
 *
 *   file                         memory of a block, kept or in a slot
 *   [....|segment of shard 0|..] [addresses of the segments][segment of shard 0][of shard 1]...
 *   [....|segment of shard 1|..]
 *
 * Kept weights are the only copies of weights. They are in memory of their own, not locked in the
 * mapping, because most systems let a process lock a few megabytes only, and because large pages are
 * likelier there. What is not a matrix (norms, the rows of tok_embeddings that are used) stays mapped,
 * and so is everything in a child of fork, which has no readers. */
enum {
    READERS = 4, /* threads; here one read 1.2 GB/s, two 1.5, four 1.85 with blocks of 8 MB */
    SLOTS = 16,
    MIN_BLOCK = 1 << 14, /* bytes of a block: a 2048th of the files, within these limits */
    MAX_BLOCK = 1 << 23,
    TRIALS = 8,         /* blocks that are read in each of two ways: unbuffered, and buffered */
    REPORTED = 50000000 /* nanoseconds between two reports of progress */
};

typedef struct row_block { /* some rows of a matrix */
    const weight *w;
    size_t first, rows;             /* of w */
    size_t offset, bytes;           /* in the memory of kept blocks; its size there */
    const unsigned char *const *at; /* [segments] their addresses; NULL: it is not in memory */
    bool queued;                    /* it is to be kept, and is being read */
} row_block;

typedef struct { /* a block that is read ahead */
    size_t block;
    enum { READING, READ, FAILED } state;
    int error; /* FAILED: errno, 0 for a file that ended; and the number of the file */
    size_t file;
} slot;

typedef struct weight_stream {
    const llama *model;
    row_block *blocks; /* [n_blocks] in the order of forward(), then those of output */
    size_t n_blocks;
    unsigned char *kept, *ring;            /* [reserved] bytes, [SLOTS][slot_bytes] */
    size_t reserved, keep, slot_bytes;     /* keep: the bytes of `kept` that may be used now */
    llamac_source *files;                  /* [n_shards] */
    llamac_thread readers[READERS], owner; /* owner: the thread whose pass it is */
    int n_readers, process;                /* process: that started the readers */
    llamac_bell monitor;                   /* what follows changes only inside of it */
    slot slots[SLOTS];                     /* a queue: */
    size_t head, used, queued;             /* its first; how many the pass uses; all */
    size_t next;                           /* the block that is read next */
    uint64_t sessions;                     /* bytes of all sessions */
    size_t trials;                         /* blocks that were read in one of the two ways */
    double byte_time[2]; /* nanoseconds per byte of one reader: buffered, unbuffered; 0: unknown */
    uint64_t bytes_read, waited; /* so far; nanoseconds for which passes waited */
    bool taken, halted, stop;    /* a pass is at work; nothing new is read; the readers end */
    bool lent;                   /* the pass waits for a function of the host, since: */
    uint64_t lent_time;
} weight_stream;

/* ---- Streaming: the blocks of a matrix ---- */

static size_t sectors(size_t n) { return (n + LLAMAC_SECTOR - 1) / LLAMAC_SECTOR * LLAMAC_SECTOR; }

/* Returns in how many segments a row of w is. */
static size_t segments(const weight *w) { return w->split == BY_ROWS ? 1 : w->parts; }

/* Returns the number of the file whose mapping has the address, or n_shards. */
static size_t file_of(const llama *m, const unsigned char *p) {
    size_t f = 0;
    while (f < m->n_shards && (uintptr_t)p - (uintptr_t)m->files[f].data >= m->files[f].size) f++;
    return f;
}

/* Segment k of a block is n bytes of a file from `begin` on. Returns the number of the file. */
static size_t find_segment(const llama *m, const row_block *b, size_t k, size_t *begin, size_t *n) {
    const weight *w = b->w;
    size_t stride = across(w) * dtype_bytes[w->type], height = part_rows(w);
    size_t part = w->split == BY_ROWS ? b->first / height : k, file = file_of(m, w->part[part]);
    *begin = (size_t)(w->part[part] - m->files[file].data) + b->first % height * stride;
    *n = b->rows * stride;
    return file;
}

/* Returns the bytes of a block in memory: the addresses of its segments, then each segment, with what
 * else is in its first and last sector. */
static size_t block_bytes(const llama *m, const row_block *b) {
    size_t bytes = sectors(segments(b->w) * sizeof *b->at), begin, n;
    for (size_t k = 0; k < segments(b->w); k++) {
        find_segment(m, b, k, &begin, &n);
        bytes += sectors(begin % LLAMAC_SECTOR + n);
    }
    return bytes;
}

/* Returns how many of these bytes are read from the files. */
static size_t file_bytes(const row_block *b) {
    return b->bytes - sectors(segments(b->w) * sizeof *b->at);
}

/* Divides w into blocks and writes them to b, if it is not NULL. Returns their number; 0 if w is a
 * copy, which is in memory anyway. */
static size_t divide_weight(const llama *m, const weight *w, row_block *b) {
    size_t height = part_rows(w), n = 0, stride = w->cols * dtype_bytes[w->type];
    range own = rows_of(w, m->rank, m->ranks);
    uint64_t most = m->file_bytes >> 11;
    if (most < MIN_BLOCK) most = MIN_BLOCK;
    if (most > MAX_BLOCK) most = MAX_BLOCK;
    size_t per_part = (height * stride + (size_t)most - 1) / (size_t)most;
    size_t rows = ((height + per_part - 1) / per_part + BLOCK - 1) / BLOCK * BLOCK;
    if (file_of(m, w->part[0]) == m->n_shards) return 0;
    for (size_t r = own.begin, count; r < own.end; r += count, n++) {
        count = height - r % height < rows ? height - r % height : rows; /* in one part */
        if (count > own.end - r) count = own.end - r;
        if (b) b[n] = (row_block){.w = w, .first = r, .rows = count};
    }
    return n;
}

/* Returns the block that has row r of w. */
static row_block *find_block(const weight *w, size_t r) {
    row_block *b = w->blocks;
    while (r >= b->first + b->rows) b++;
    return b;
}

/* Writes the blocks of all matrices to `blocks`, in the order in which a pass uses them; NULL: only
 * counts them. Returns their number. Sets *outputs to the number of those of output, which are the
 * last. */
static size_t divide_model(llama *m, row_block *blocks, size_t *outputs) {
    size_t n = 0, count = 0;
    for (size_t l = 0; l <= m->n_layers; l++) {
        layer *w = &m->layers[l < m->n_layers ? l : 0];
        weight *const inside[] = {&w->wq, &w->wk, &w->wv, &w->wo, &w->w1, &w->w3, &w->w2};
        weight *const last[] = {&m->output};
        weight *const *in_order = l < m->n_layers ? inside : last;
        for (size_t k = 0; k < (l < m->n_layers ? sizeof inside / sizeof *inside : 1); k++) {
            row_block *own = blocks ? blocks + n : NULL;
            n += count = divide_weight(m, in_order[k], own);
            if (own && count) in_order[k]->blocks = own;
        }
    }
    return *outputs = count, n;
}

/* Gives each block its place in the memory of kept blocks: first those of output, then block i of the
 * layers in the order of i's bits from the lowest to the highest. So any number of first places
 * belongs to blocks that are spread evenly over the pass. Returns the size of all. */
static size_t place_blocks(weight_stream *st, size_t outputs) {
    size_t offset = 0, inside = st->n_blocks - outputs, bits = 0;
    for (size_t i = 0; i < st->n_blocks; i++) {
        row_block *b = &st->blocks[i];
        b->bytes = block_bytes(st->model, b);
        if (b->bytes > st->slot_bytes) st->slot_bytes = b->bytes;
        if (i >= inside) b->offset = offset, offset += b->bytes;
    }
    while ((size_t)1 << bits < inside) bits++;
    for (size_t i = 0; i < (size_t)1 << bits; i++) {
        size_t reversed = 0;
        for (size_t k = 0; k < bits; k++) reversed |= (i >> k & 1) << (bits - 1 - k);
        if (reversed >= inside) continue;
        st->blocks[reversed].offset = offset;
        offset += st->blocks[reversed].bytes;
    }
    return offset;
}

/* ---- Streaming: the readers ---- */

/* Returns whether a block is kept, if the kept ones may take `keep` bytes. */
static bool is_kept(const row_block *b, size_t keep) { return b->offset + b->bytes <= keep; }

/* Returns where block b is to be read that is in slot q of the queue. */
static unsigned char *memory_of(const weight_stream *st, const row_block *b, const slot *q) {
    return is_kept(b, st->keep) ? st->kept + b->offset
                                : st->ring + (size_t)(q - st->slots) * st->slot_bytes;
}

/* Reads a block to `to`. Returns 0; or -1 with errno set, the number of the file in *file. */
static int read_block(const weight_stream *st, const row_block *b, unsigned char *to,
                      bool unbuffered, size_t *file) {
    const unsigned char **at = (const unsigned char **)(void *)to;
    size_t begin, n;
    to += sectors(segments(b->w) * sizeof *at);
    for (size_t k = 0; k < segments(b->w); k++, to += n) {
        *file = find_segment(st->model, b, k, &begin, &n);
        size_t extra = begin % LLAMAC_SECTOR;
        n += extra;
        if (llamac_read_at(&st->files[*file], to, begin - extra, n, unbuffered) != 0) return -1;
        at[k] = to + extra;
        n = sectors(n);
    }
    return 0;
}

/* Takes the next block to read into the queue, unless no block is to be read or the queue is full. Returns its
 * slot, or NULL. Blocks that are kept are read once. Inside the monitor. */
static slot *queue_block(weight_stream *st) {
    for (size_t i = 0; i < st->n_blocks && st->queued < SLOTS && !st->halted; i++) {
        size_t number = st->next;
        row_block *b = &st->blocks[number];
        st->next = (number + 1) % st->n_blocks;
        if (is_kept(b, st->keep) && (b->at || b->queued)) continue;
        slot *q = &st->slots[(st->head + st->queued++) % SLOTS];
        *q = (slot){.block = number, .state = READING};
        b->queued = is_kept(b, st->keep);
        return q;
    }
    return NULL;
}

/* Reads the block of a slot. The monitor is left while it is read. At the start both ways of reading
 * are tried, each on every other group of blocks, after what the page cache has of them is dropped;
 * then the faster one is used. */
static void fill_slot(weight_stream *st, slot *q) {
    const row_block *b = &st->blocks[q->block];
    unsigned char *to = memory_of(st, b, q);
    bool trial = st->trials < 2 * TRIALS;
    bool unbuffered =
        trial ? st->trials / (TRIALS / 2) % 2 == 0 : st->byte_time[true] <= st->byte_time[false];
    size_t begin, n;
    st->trials += trial;
    llamac_leave(&st->monitor);
    for (size_t k = 0; trial && k < segments(b->w); k++) {
        size_t file = find_segment(st->model, b, k, &begin, &n);
        llamac_drop_cached(&st->files[file], begin, n);
    }
    uint64_t start = llamac_nanoseconds();
    errno = 0;
    int status = read_block(st, b, to, unbuffered, &q->file), error = errno;
    double taken = (double)(llamac_nanoseconds() - start);
    llamac_enter(&st->monitor);
    q->state = status ? FAILED : READ, q->error = error;
    st->bytes_read += status ? 0 : file_bytes(b);
    double *mean = &st->byte_time[unbuffered], bytes = (double)file_bytes(b);
    if (status == 0) *mean += (taken / bytes - *mean) / (*mean > 0 ? TRIALS : 1);
}

/* What a reader does. */
static void *read_ahead(void *user) {
    weight_stream *st = user;
    llamac_fp_enter(); /* the default mode, not that of the thread that started this one */
    llamac_enter(&st->monitor);
    while (!st->stop) {
        slot *q = queue_block(st);
        if (!q) {
            llamac_wait(&st->monitor);
            continue;
        }
        fill_slot(st, q);
        llamac_notify(&st->monitor);
    }
    llamac_leave(&st->monitor);
    return NULL;
}

/* ---- Streaming: the pass ---- */

/* Drops all blocks of the queue, none of which is in use, and lets the readers go on with block
 * `number`. Inside the monitor. */
static void restart_reading(weight_stream *st, size_t number) {
    st->halted = true;
    for (; st->queued; st->queued--, st->head = (st->head + 1) % SLOTS) {
        slot *q = &st->slots[st->head];
        while (q->state == READING) llamac_wait(&st->monitor);
        st->blocks[q->block].queued = false;
    }
    st->halted = false;
    st->next = number;
}

/* Waits for a reader, 50 ms at most, and reports progress. Returns false if the call is to stop, or
 * goes on in a child of fork. Inside the monitor, but for the report. */
static bool await_reader(llama_session *s) {
    weight_stream *st = s->stream;
    llamac_wait_briefly(&st->monitor);
    if (llamac_nanoseconds() - s->report_time < REPORTED) return true;
    llamac_leave(&st->monitor);
    bool stop = report_progress(s);
    if (s->stream) llamac_enter(&st->monitor);
    return s->stream && !stop;
}

/* Makes block b usable, if it is in the queue after those that are in use. If `wait`, waits until it is
 * read; if the queue has other blocks, as the last pass ended early, they are dropped first. Returns
 * false if it is not there yet, or cannot be read: then s->stopped is set. Inside the monitor. */
static bool use_block(llama_session *s, row_block *b, bool wait) {
    weight_stream *st = s->stream;
    size_t number = (size_t)(b - st->blocks);
    bool again = false;
    for (;;) {
        slot *q = &st->slots[(st->head + st->used) % SLOTS];
        if (st->used < st->queued && q->block == number && q->state == READ) {
            b->at = (const unsigned char *const *)(void *)memory_of(st, b, q);
            b->queued = false;
            st->used++;
            return true;
        }
        if (!wait) return false;
        if (st->queued == 0) {
            restart_reading(st, number);
            q = st->n_readers ? NULL : queue_block(st);
            if (q) fill_slot(st, q);
            else if (llamac_notify(&st->monitor), !await_reader(s)) return false;
        } else if (q->block != number) restart_reading(st, number);
        else if (q->state == READING) {
            if (!await_reader(s)) return false;
        } else if (!again)
            again = true, restart_reading(st, number); /* it may have failed long ago */
        else {
            const char *path = st->model->paths[q->file];
            s->stopped = llamac_fail(&s->error, LLAMA_EIO, "%s: cannot be read: %s", path,
                                     q->error ? strerror(q->error) : "it was truncated");
            restart_reading(st, number);
            return false;
        }
    }
}

/* At most a quarter of the ring is used at once, so that the readers go on. */
static size_t await_rows(llama_session *s, const weight *w, size_t r) {
    uint64_t start = 0;
    if (s->stream && w->blocks && llamac_nanoseconds() - s->report_time > REPORTED)
        report_progress(s);
    weight_stream *st = s->stream; /* a child of fork, which the host's function made, has none */
    if (s->stopped) return 0;
    if (!st || !w->blocks) return w->rows - r;
    size_t rows = 0;
    bool inside = false;
    size_t end = rows_of(w, s->rank, s->ranks).end;
    for (row_block *b = find_block(w, r); r + rows < end; rows += b++->rows) {
        if (b->at) continue;
        if (st->used == SLOTS / 4) break;
        if (!inside) start = llamac_nanoseconds(), llamac_enter(&st->monitor);
        inside = true;
        if (!use_block(s, b, rows == 0)) break;
    }
    if (!s->stream) return s->stopped ? 0 : w->rows - r; /* now it is such a child */
    if (!inside) return rows;
    st->waited += llamac_nanoseconds() - start;
    llamac_leave(&st->monitor);
    return rows;
}

static size_t find_rows(const llama_session *s, const weight *w, size_t r, weight_rows *rows,
                        size_t *end) {
    size_t cols = across(w), height = part_rows(w), first = r / height * height;
    bool streamed = s->stream && w->blocks;
    const row_block *b = streamed ? find_block(w, r) : NULL;
    *rows = (weight_rows){.part = b                     ? b->at
                                  : w->split == BY_ROWS ? w->part + r / height
                                                        : w->part,
                          .parts = segments(w),
                          .cols = cols,
                          .stride = cols * dtype_bytes[w->type],
                          .type = w->type};
    *end = b ? b->first + b->rows : first + height;
    return b ? b->first : first;
}

static void release_rows(llama_session *s) {
    weight_stream *st = s->stream;
    if (!st || st->used == 0) return;
    llamac_enter(&st->monitor);
    for (; st->used; st->used--, st->queued--, st->head = (st->head + 1) % SLOTS) {
        row_block *b = &st->blocks[st->slots[st->head].block];
        if (!is_kept(b, st->keep)) b->at = NULL;
    }
    llamac_leave(&st->monitor);
}

/* Returns how many bytes of weights may be kept beside the sessions. Inside the monitor. */
static size_t keepable(const weight_stream *st) {
    enum { RESERVE_SHARE = 256 }; /* of the limit: for the vocabulary, vectors, stacks */
    uint64_t limit = st->model->memory_limit; /* of kept weights, ring and sessions together */
    uint64_t others = st->sessions + SLOTS * (uint64_t)st->slot_bytes + limit / RESERVE_SHARE;
    uint64_t left = others < limit ? limit - others : 0;
    return left < st->reserved ? (size_t)left : st->reserved;
}

/* Fits the kept blocks to what the sessions leave. Inside the monitor, before a pass. */
static void fit_kept(weight_stream *st) {
    size_t keep = keepable(st), page = st->model->page;
    size_t begin = (keep + page - 1) / page * page;
    if (keep == st->keep) return;
    restart_reading(st, 0);
    st->keep = keep;
    for (size_t i = 0; i < st->n_blocks; i++)
        if (!is_kept(&st->blocks[i], st->keep)) st->blocks[i].at = NULL;
    if (begin < st->reserved) llamac_discard_memory(st->kept + begin, st->reserved - begin);
}

/* Lets the readers read the first blocks of the next pass, unless a pass is at work. */
static void start_reading(weight_stream *st) {
    if (st->process != llamac_process()) return;
    llamac_enter(&st->monitor);
    if (!st->taken) {
        st->taken = true, st->owner = llamac_this_thread(); /* fit_kept may wait */
        fit_kept(st);
        st->taken = st->halted = false;
    }
    llamac_leave(&st->monitor);
}

/* Takes the model's stream for a call of session s. Passes of other sessions wait meanwhile, and report
 * progress; but while this session's pass is in a function of the host, calls that this function makes
 * use the stream too, and after a tenth of a second all others. Returns LLAMA_ECANCEL if the host
 * cancels. In a child of fork there is no stream. */
static int take_stream(llama_session *s) {
    enum { LONG = 100000000 }; /* nanoseconds */
    weight_stream *st = s->model->stream;
    s->stream = NULL;
    if (!st || st->process != llamac_process()) return LLAMA_OK;
    llamac_thread self = llamac_this_thread();
    llamac_enter(&st->monitor);
    while (st->taken && !(s->borrows = st->lent && llamac_same_thread(st->owner, self)) &&
           !(st->lent && llamac_nanoseconds() - st->lent_time > LONG)) {
        llamac_wait_briefly(&st->monitor);
        if (llamac_nanoseconds() - s->report_time < REPORTED) continue;
        llamac_leave(&st->monitor);
        if (report_progress(s)) return s->stopped;
        if (st->process != llamac_process()) return LLAMA_OK;
        llamac_enter(&st->monitor);
    }
    s->borrows &= st->taken;
    st->taken = true, st->lent = false, st->owner = self, s->stream = st;
    fit_kept(st);
    st->halted = false;
    llamac_leave(&st->monitor);
    return LLAMA_OK;
}

static void lend_stream(llama_session *s, bool lent) {
    weight_stream *st = s->stream;
    if (!lent && s->team > 1 && usable_threads(s) == 1) s->team = 1; /* maybe in a child of fork */
    if (!st) return;
    if (st->process != llamac_process()) { /* the host's function has made this child */
        s->stream = NULL;
        return;
    }
    llamac_thread self = llamac_this_thread();
    llamac_enter(&st->monitor);
    if (!lent) { /* if another session took it, it is taken again */
        while (st->taken && !llamac_same_thread(st->owner, self)) llamac_wait(&st->monitor);
        st->taken = true, st->owner = self;
    }
    st->lent = lent;
    st->lent_time = llamac_nanoseconds();
    llamac_leave(&st->monitor);
}

static void return_stream(llama_session *s) {
    weight_stream *st = s->stream;
    if (!st) return;
    release_rows(s);
    s->stream = NULL;
    llamac_enter(&st->monitor);
    st->taken = st->lent = s->borrows; /* if it was borrowed, the other pass has it again */
    st->lent_time = llamac_nanoseconds();
    llamac_leave(&st->monitor);
}

/* Counts the memory of a session that is made: its own, and that of its draft model, which stays in
 * memory. A session that is freed gives back what was counted. */
static void count_session(llama_session *s, bool made) {
    weight_stream *st = s->model->stream;
    const llama_session *d = s->guess.drafter;
    if (!st || st->process != llamac_process()) return;
    if (made) s->counted = s->bytes + (d && !d->model->stream ? d->model->token_bytes : 0);
    llamac_enter(&st->monitor);
    if (made) st->sessions += s->counted;
    else st->sessions -= s->counted;
    bool keeps = st->keep > 0;
    llamac_leave(&st->monitor);
    if (made && keeps) start_reading(st); /* what it needs is given back at once */
}

/* Fills in what llama_describe says about a stream. */
static void describe_stream(weight_stream *st, llama_info *info) {
    if (st->process != llamac_process()) return;
    llamac_enter(&st->monitor);
    size_t keep = keepable(st);
    for (size_t i = 0; i < st->n_blocks; i++) {
        const row_block *b = &st->blocks[i];
        *(is_kept(b, keep) ? &info->kept_bytes : &info->stream_bytes) += file_bytes(b);
    }
    info->read_bytes = st->bytes_read;
    info->read_wait = st->waited;
    double *times = st->byte_time, best = times[times[true] <= times[false]];
    if (best > 0) info->read_speed = (uint64_t)(1e9 * (st->n_readers ? st->n_readers : 1) / best);
    llamac_leave(&st->monitor);
}

/* ---- Streaming: start and end ---- */

/* Ends the readers and frees what is not in the model's arena. */
static void stop_streaming(llama *m) {
    weight_stream *st = m->stream;
    if (!st) return;
    if (st->process == llamac_process()) { /* else a child of fork */
        llamac_enter(&st->monitor);
        st->stop = true;
        llamac_leave(&st->monitor);
        for (int i = 0; i < st->n_readers; i++) llamac_join_thread(st->readers[i]);
    }
    for (size_t f = 0; f < m->n_shards; f++) llamac_close_source(&st->files[f]);
    llamac_free_memory(st->kept, st->reserved);
    llamac_free_memory(st->ring, SLOTS * st->slot_bytes);
    m->stream = NULL;
}

/* Starts to stream the weights of a model, with at most m->memory_limit bytes of memory for the weights that
 * are kept, the ring and the sessions. If threads cannot be started, passes read the blocks
 * themselves. Returns LLAMA_ENOMEM or LLAMA_EIO on failure. */
static int start_streaming(llama *m, llama_error *err) {
    size_t outputs, n = divide_model(m, NULL, &outputs);
    if (n == 0) return m->memory = LLAMA_MEMORY_MAP, LLAMA_OK; /* all are copies */
    weight_stream *st = llamac_new(&m->arena, 1, sizeof *st);
    row_block *blocks = llamac_new(&m->arena, n, sizeof *blocks);
    llamac_source *files = llamac_new(&m->arena, m->n_shards, sizeof *files);
    if (!st || !blocks || !files) return llamac_out_of_memory(err, m->paths[0]);
    *st = (weight_stream){.model = m, .blocks = blocks, .n_blocks = n};
    st->files = files;
    st->process = llamac_process();
    llamac_make_bell(&st->monitor);
    for (size_t f = 0; f < m->n_shards; f++) files[f] = (llamac_source){-1, -1};
    divide_model(m, blocks, &outputs);
    st->halted = true; /* opening reads no weights */
    size_t all = place_blocks(st, outputs);
    st->reserved = all < m->memory_limit ? all : (size_t)m->memory_limit;
    m->stream = st;
    st->kept = st->reserved ? llamac_reserve_memory(st->reserved) : NULL;
    st->ring = llamac_reserve_memory(SLOTS * st->slot_bytes);
    if (!st->ring || (!st->kept && st->reserved))
        return llamac_fail(err, LLAMA_ENOMEM,
                           "%zu MB for weights cannot be reserved; set a smaller memory limit, or "
                           "map the weights",
                           (st->reserved + SLOTS * st->slot_bytes) / 1000000);
    for (size_t f = 0; f < m->n_shards; f++) {
        int status = llamac_open_source(&files[f], &m->files[f], m->paths[f], err);
        if (status) return status;
    }
    for (size_t f = 0; f < m->n_shards; f++) /* of the mapping, only small vectors are used now */
        llamac_advise_sparse(&m->files[f]);
    while (st->n_readers < READERS &&
           llamac_start_thread(&st->readers[st->n_readers], read_ahead, st))
        st->n_readers++;
    return LLAMA_OK;
}

/* Decides how the weights of a model that is open are held in memory. AUTO streams them if they do
 * not fit, together with a session of the default options, in the memory that is available or that
 * the host allows. Of a long context, which few sessions use up, AUTO_CONTEXT positions count. */
static int hold_weights(llama *m, const llama_options *o, llama_error *err) {
    enum { AUTO_CONTEXT = 8192 };
    llama_session_options session = {.size = sizeof session};
    session.context = m->context < AUTO_CONTEXT ? (int)m->context : AUTO_CONTEXT;
    uint64_t available = llamac_available_memory();
    if (available) available -= available / 20; /* for others, and for what is not counted */
    uint64_t limit = o->memory_limit ? o->memory_limit : available;
    m->memory = o->memory, m->memory_limit = limit;
    if (m->memory == LLAMA_MEMORY_AUTO) {
        uint64_t own = m->ranks > 1 ? extent_bytes(m) : m->token_bytes;
        bool fits = limit == 0 || own + llama_session_bytes(m, &session) <= limit;
        m->memory = fits ? LLAMA_MEMORY_MAP : LLAMA_MEMORY_STREAM;
    }
    if (m->memory == LLAMA_MEMORY_STREAM) {
        int status = start_streaming(m, err);
        if (!status || o->memory != LLAMA_MEMORY_AUTO) return status;
        stop_streaming(m);
        m->memory = LLAMA_MEMORY_MAP; /* it works too */
    }
    each_extent(m, want_large_pages, NULL);
    return m->memory == LLAMA_MEMORY_LOCK ? lock_weights(m, err) : LLAMA_OK;
}

/* ---- Opening and closing ---- */

/* Checks the rank and the number of machines that a host gives. 0 of 0 is one machine. */
static int check_ranks(const llama *m, int rank, int ranks, llama_error *err) {
    if (ranks < 0 || rank < 0 || rank >= (ranks ? ranks : 1))
        return llamac_fail(err, LLAMA_EINVAL, "there is no rank %d of %d", rank, ranks);
    if ((size_t)ranks <= m->n_kv_heads) return LLAMA_OK;
    return llamac_fail(err, LLAMA_EINVAL,
                       "the model has %zu KV heads: it can be divided over %zu machines at most, "
                       "not over %d",
                       m->n_kv_heads, m->n_kv_heads, ranks);
}

/* Does the work of llama_open, which allocates m before and frees it if this fails. */
static int open_model(llama *m, const char *path, const llama_options *o, llama_error *err) {
    if (o->memory < LLAMA_MEMORY_AUTO || o->memory > LLAMA_MEMORY_STREAM)
        return llamac_fail(err, LLAMA_EINVAL, "memory mode %d does not exist", o->memory);
    if (o->rope_theta != 0 && !(o->rope_theta >= 1 && o->rope_theta <= 1e30f))
        return llamac_fail(err, LLAMA_EINVAL, "rope_theta %g is not 0, nor from 1 to 1e30",
                           (double)o->rope_theta);
    if (strlen(path) >= LLAMAC_PATH_BYTES)
        return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", path);
    binder b = {
        .m = m, .path = path, .scratch = {m->arena.allocator, NULL}, .err = err, .parts = 1};
    int status = open_weights(&b, !o->tokenizer);
    if (status == LLAMA_OK && (o->tokenizer || m->format != GGUF)) /* GGUF contains it */
        status = open_tokenizer(&b, o->tokenizer);
    if (status == LLAMA_OK || m->lost) status = check_unchanged(&b);
    llamac_free_all(&b.scratch); /* needed only while opening */
    if (status || (status = check_ranks(m, o->rank, o->ranks, err))) return status;
    m->rank = (size_t)o->rank;
    m->ranks = o->ranks ? (size_t)o->ranks : 1;
    find_llama3(m);
    if (o->rope_theta != 0) m->rope_theta = o->rope_theta;
    rope_freqs(m);
    return hold_weights(m, o, err);
}

/* Why llamac_copy_options refuses a struct. */
static const char no_size[] = "its size is not set: set it to sizeof of the struct";

LLAMAC_API int llama_open(llama **model, const char *path, const llama_options *options,
                          llama_error *err) {
    llama_options o;
    if (err) memset(err, 0, sizeof *err);
    if (model) *model = NULL;
    if (!model || !path)
        return llamac_fail(err, LLAMA_EINVAL, "llama_open: %s is NULL", model ? "path" : "model");
    if (!*path) return llamac_fail(err, LLAMA_EINVAL, "llama_open: the path is empty");
    if (!llamac_copy_options(&o, sizeof o, options))
        return llamac_fail(err, LLAMA_EINVAL, "llama_open: %s", no_size);
    llamac_arena arena = {.last = NULL};
    if (llamac_copy_allocator(&arena.allocator, o.allocator, err)) return LLAMA_EINVAL;
    llama *m = llamac_new(&arena, 1, sizeof *m);
    if (!m) return llamac_out_of_memory(err, path);
    m->arena = arena;
    m->page = llamac_page_size();
    *model = m; /* for llama_handle_sigbus, while the files are read */
    uint64_t mode = llamac_fp_enter();
    int status = open_model(m, path, &o, err);
    llamac_fp_leave(mode);
    if (status) *model = NULL;
    if (status) llama_close(m);
    else if (err) memset(err, 0, sizeof *err); /* drop errors of files that were not needed */
    return status;
}

/* Also frees a model that llama_open could not finish, so any part of m may be missing. */
LLAMAC_API void llama_close(llama *m) {
    if (!m) return;
    stop_streaming(m);
    for (size_t i = 0; i < m->n_shards; i++) llamac_unmap_file(&m->files[i]);
    llamac_arena arena = m->arena; /* m itself is in it */
    llamac_free_all(&arena);
}

/* ---- A mapped file that is truncated: SIGBUS ---- */

/* Reading a page that the file no longer has raises SIGBUS. The host passes the address to this
 * function. If the address is in a file of the model, this function marks the file as lost,
 * replaces it by zeros from that page to its end, and returns 1. The rest is replaced because it is
 * probably lost too. Returns 0 for any other address, or if mapping zeros failed. Nothing but
 * `lost` changes in an open model. */
LLAMAC_API int llama_handle_sigbus(const llama *m, const void *address) {
    for (size_t f = 0; m && m->files && f < m->n_shards; f++) {
        const llamac_mapping *file = &m->files[f];
        uintptr_t at = (uintptr_t)address, begin = (uintptr_t)file->data, end = begin + file->size;
        if (at < begin || at >= end) continue;
        __atomic_store_n((int *)(uintptr_t)&m->lost, (int)f + 1, __ATOMIC_RELAXED);
        return llamac_map_zeros(file, at, m->page);
    }
    return 0;
}

/* Returns LLAMA_EIO if llama_handle_sigbus has marked a file as lost. */
static int check_files(const llama *m, llama_error *err) {
    int lost = __atomic_load_n(&m->lost, __ATOMIC_RELAXED);
    if (!lost) return LLAMA_OK;
    return llamac_fail(err, LLAMA_EIO,
                       "%s: was truncated or can no longer be read; restore the file and open "
                       "the model again",
                       m->paths[lost - 1]);
}

/* ---- Checking ---- */

/* Returns what is wrong with n elements of a type, or NULL. If a number is not finite, *at is the
 * index of the first such element. A run of max_zeros bytes of zeros or more is an error too.
 * *zeros is the length of the current run in elements: if all n elements are zero, the call adds n,
 * otherwise it sets *zeros to 0. */
static const char *find_damage(int type, const unsigned char *data, size_t n, size_t max_zeros,
                               size_t *zeros, size_t *at) {
    /* An exponent of all ones is infinite or NaN. */
    static const uint32_t exponents[DTYPES] = {0x7f800000, 0x7c00, 0x7f80};
    uint32_t exponent = exponents[type], any = 0, bad = 0, bits = 0;
    size_t size = dtype_bytes[type];
    for (size_t k = 0; k < n; k++) {
        memcpy(&bits, data + k * size, size);
        any |= bits;
        bad |= (bits & exponent) == exponent;
    }
    *at = 0;
    *zeros = any ? 0 : *zeros + n;
    if (!bad)
        return *zeros * size < max_zeros ? NULL : "only zeros, as after an interrupted download,";
    for (; *at + 1 < n; ++*at) { /* the file may have changed since the first loop: stop at n */
        memcpy(&bits, data + *at * size, size);
        if ((bits & exponent) == exponent) break;
    }
    return "a number that is not finite";
}

/* A check of all weights. Opening takes milliseconds, as it checks only shapes and offsets. */
typedef struct {
    const llama *m;
    llama_progress_fn progress; /* NULL: none */
    void *user;
    llama_error *err;
    uint64_t done; /* bytes */
} checking;

/* Adds to the bytes that are checked and reports them. Returns false if the host cancels. */
static bool report(checking *c, const char *what, uint64_t bytes, uint64_t total) {
    c->done += bytes;
    return !c->progress || c->progress(c->user, what, c->done, total) == 0;
}

/* Checks n elements of w at data, in rows of cols elements. Returns LLAMA_EFORMAT if they are
 * damaged, LLAMA_ECANCEL if the host cancels. */
static int check_elements(checking *c, const weight *w, const unsigned char *data, size_t n,
                          size_t cols) {
    /* Bytes per call of find_damage(), and bytes of zeros that are damage: in a layer, and in
     * other weights, where the rows of tokens that were never trained may be zero. */
    enum { CHUNK = 1 << 14, LAYER_ZEROS = 1 << 16, OTHER_ZEROS = 1 << 20 };
    size_t size = dtype_bytes[w->type], zeros = 0, count, at;
    size_t max_zeros = w->layer < 0 ? OTHER_ZEROS : LAYER_ZEROS;
    if (n * size < max_zeros) max_zeros = n * size;
    for (size_t i = 0; i < n; i += count) {
        count = n - i < CHUNK / size ? n - i : CHUNK / size;
        const char *why = find_damage(w->type, data + i * size, count, max_zeros, &zeros, &at);
        char name[64];
        size_t first = zeros ? i + count - zeros : i + at, f = 0; /* f: the file that has them */
        while (f + 1 < c->m->n_shards &&
               (uintptr_t)data - (uintptr_t)c->m->files[f].data >= c->m->files[f].size)
            f++;
        full_name(name, w->layer, w->name);
        if (why)
            return llamac_fail(c->err, LLAMA_EFORMAT,
                               "%s: %s.weight has %s at row %zu, column %zu; download it again",
                               c->m->paths[f], name, why, first / cols, first % cols);
        if (!report(c, "weights", count * size, c->m->file_bytes)) return LLAMA_ECANCEL;
    }
    return LLAMA_OK;
}

/* Checks every weight once, then the MD5 sums of a folder of Meta. */
LLAMAC_API int llama_check(const llama *m, llama_progress_fn progress, void *user,
                           llama_error *err) {
    checking c = {m, progress, user, err, 0};
    if (err) memset(err, 0, sizeof *err);
    if (!m) return llamac_fail(err, LLAMA_EINVAL, "llama_check: a model must be given");
    int status = LLAMA_OK;
    for (size_t i = 0; i < OUTSIDE + m->n_layers * INSIDE && status == LLAMA_OK; i++) {
        const weight *w = nth_weight(m, i);
        bool tied = i == OUTPUT && w->part[0] == m->tok_embeddings.part[0]; /* already checked */
        for (size_t p = 0; p < (tied ? 0 : w->parts) && status == LLAMA_OK; p++)
            status = check_elements(&c, w, w->part[p], w->rows * w->cols / w->parts, across(w));
    }
    for (size_t f = 0; m->stream && f < m->n_shards; f++) llamac_advise_sparse(&m->files[f]);
    /* If a file was lost, its zeros are not damage. */
    if (status != LLAMA_ECANCEL && check_files(m, err)) return LLAMA_EIO;
    /* The files have headers and needless tensors too; they are not read. */
    if (status == LLAMA_OK && !report(&c, "weights", m->file_bytes - c.done, m->file_bytes))
        status = LLAMA_ECANCEL;
    if (status == LLAMA_OK && m->format == META) {
        char folder[LLAMAC_PATH_BYTES];
        llamac_arena scratch = {m->arena.allocator, NULL};
        snprintf(folder, sizeof folder, "%s", m->paths[0]);
        cut_name(folder);
        status = md5_list(folder, "checklist.chk", &scratch, progress, user, err);
        llamac_free_all(&scratch);
    }
    if (status == LLAMA_ECANCEL) return llamac_fail(err, status, "cancelled by the host");
    /* A missing checklist.chk is not an error. */
    if (status == LLAMA_OK && err) memset(err, 0, sizeof *err);
    return status;
}

/* ---- Prefetching ---- */

/* Reads the files from first to last byte, with one thread. The kernel then reads ahead, in large
 * pages, as fast as the disk can. Two threads, or asking for pages in advance, took up to twice as
 * long. The pages are placed on all nodes of memory: threads take rows as they come, so each node
 * has its share of every matrix. */
typedef struct {
    llama_progress_fn progress; /* NULL: none */
    void *user;
    uint64_t done, total; /* bytes */
    bool stopped;
} prefetching;

static bool read_extent(void *user, const unsigned char *p, size_t n) {
    enum { CHUNK = 4 << 20 };
    prefetching *f = user;
    for (size_t i = 0, k; i < n && !f->stopped; i += k) {
        k = n - i < CHUNK ? n - i : CHUNK;
        llamac_placement old = llamac_place_on_all_nodes(); /* not during the host's function */
        llamac_page_in(p + i, k);
        llamac_place_as_before(&old);
        f->done += k;
        f->stopped = f->progress && f->progress(f->user, "weights", f->done, f->total) != 0;
    }
    return !f->stopped;
}

LLAMAC_API int llama_prefetch(const llama *m, llama_progress_fn progress, void *user) {
    if (!m) return LLAMA_EINVAL;
    if (m->stream) return start_reading(m->stream), LLAMA_OK;
    prefetching f = {progress, user, 0, extent_bytes(m), false};
    each_extent(m, read_extent, &f);
    return f.stopped ? LLAMA_ECANCEL : LLAMA_OK;
}

/* ---- Describing a model ---- */

LLAMAC_API int32_t llama_eos(const llama *m) {
    for (size_t i = 0; m && i < m->n_ends; i++)
        if ((size_t)m->ends[i] < m->vocab_size) return m->ends[i];
    int32_t eos = m && m->vocab ? llamac_vocab_eos(m->vocab) : -1;
    for (size_t i = 0; m && eos < 0 && i < m->vocab_size; i++)
        if (llama_is_end(m, (int32_t)i)) eos = (int32_t)i;
    return eos;
}

LLAMAC_API int llama_is_end(const llama *m, int32_t token) {
    bool ends = m && m->vocab && llamac_vocab_ends(m->vocab, token);
    for (size_t i = 0; m && i < m->n_ends; i++) ends |= m->ends[i] == token;
    return ends;
}

/* Fills in as much of *info as the caller's size says. Fields of a newer llama.h become 0. */
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
        .pieces = m->vocab ? llamac_vocab_size(m->vocab) : 0,
        .add_bos = m->vocab && llamac_vocab_adds_bos(m->vocab),
        .add_eos = m->vocab && llamac_vocab_adds_eos(m->vocab),
        .memory = m->memory,
        .memory_limit = m->memory_limit,
        .rank_bytes = m->ranks > 1 ? extent_bytes(m) : m->token_bytes,
        .rope_scaling = m->divisors && m->scaling.kind == LINEAR ? "linear, divisors"
                                                                 : scaling_names[m->scaling.kind],
        .rope_factor = 1,
        .vocabulary = m->vocab ? llamac_vocab_kind(m->vocab) : "none",
    };
    if (m->scaling.kind == LINEAR || m->scaling.kind == LLAMA3) all.rope_factor = m->scaling.factor;
    if (m->scaling.kind == LLAMA3) {
        all.rope_low = m->scaling.low;
        all.rope_high = m->scaling.high;
        all.rope_original = (int)m->scaling.original;
    }
    if (m->stream) describe_stream(m->stream, &all);
    size_t known = all.size < sizeof all ? all.size : sizeof all;
    memset((char *)info + known, 0, all.size - known);
    memcpy(info, &all, known);
    return LLAMA_OK;
}

/* ============================================================================================== */
/* VII. Sessions                                                                                  */
/* ============================================================================================== */

/* Guarantee: after llama_session_new, of this part only llama_load, llama_load_file and llama_trace
 * allocate memory. A call that fails leaves every sequence as it was. */

/* Returns whether all n numbers are finite: whether no exponent is all ones. It compares integers,
 * because comparing a NaN may raise a floating-point trap that the host has enabled. */
static bool all_finite(const float *x, size_t n) {
    uint32_t bits, bad = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

/* ---- Memory layout ---- */

/* Buffers that share one allocation. They follow each other, and each begins on a cache line. If
 * base is NULL, buffers are only counted. So the same code gives the size of the allocation and the
 * address of each buffer. */
typedef struct {
    unsigned char *base; /* the allocation, or NULL */
    uint64_t used;       /* bytes reserved so far */
} layout;

/* Reserves count * size bytes. Returns their address, or NULL if base is NULL. If the sum exceeds
 * SIZE_MAX / 4, used becomes larger than that and stays so. */
static void *reserve(layout *c, uint64_t count, uint64_t size) {
    uint64_t bytes, begin = c->used, max = SIZE_MAX / 4;
    bool fits = !__builtin_mul_overflow(count, size, &bytes) && bytes <= max && begin <= max;
    c->used = fits ? (begin + bytes + LLAMAC_ALIGNMENT - 1) / LLAMAC_ALIGNMENT * LLAMAC_ALIGNMENT
                   : max + 1;
    return c->base ? c->base + begin : NULL;
}

/* ---- New and free ---- */

/* Ranks of one machine each have a copy of a pass's results, so their batch is smaller: the copies
 * share the processor's cache. Streamed weights are read once for a batch, so it is larger. */
enum { DEFAULT_BATCH = 256, RANKS_BATCH = 128, STREAMED_BATCH = 512, MAX_THREADS = 1024 };

/* Bytes between the buffers of two threads. Hardware prefetchers read beyond the data that a thread
 * reads, and would take cache lines that the next thread writes. On two cores without a common
 * cache, 32 rows took 324 ms without a gap, 208 ms with 4 KB, 176 ms with 16 KB. */
enum { THREAD_GAP = 16384 };

/* Lays out session s and its buffers from base on, and sets the pointers to the buffers. Returns
 * the size of everything in bytes. */
static uint64_t layout_session(llama_session *s, unsigned char *base) {
    const llama *m = s->model;
    uint64_t b = s->batch, threads = (uint64_t)s->threads, f = sizeof(float);
    layout c = {base, 0};
    reserve(&c, 1, sizeof *s);                                       /* the session itself */
    uint64_t rows = s->batch > s->n_logits ? s->batch : s->n_logits; /* most rows of one matmul */
    range heads = own_heads(s);
    uint64_t kv_dim = (heads.end - heads.begin) * m->head_dim; /* in the KV cache */
    uint64_t widest = m->hidden > m->dim ? m->hidden : m->dim; /* of the inputs of a matmul */
    if (widest < m->q_dim) widest = m->q_dim;
    s->x = reserve(&c, b * padded(m->dim), f);         /* [batch][D] */
    s->h = reserve(&c, b * padded(m->dim), f);         /* [batch][D] */
    s->block_out = reserve(&c, b * padded(m->dim), f); /* [batch][D] */
    s->q = reserve(&c, b * padded(m->q_dim), f);       /* [batch][Q] */
    s->mixed = m->q_dim == m->dim ? s->h : reserve(&c, b * padded(m->q_dim), f);
    s->k = reserve(&c, b * padded(m->kv_dim), f);    /* [batch][K] */
    s->v = reserve(&c, b * padded(m->kv_dim), f);    /* [batch][K] */
    s->gate = reserve(&c, b * padded(m->hidden), f); /* [batch][H] */
    s->up = reserve(&c, b * padded(m->hidden), f);   /* [batch][H] */
    s->packed = /* the larger form: three bfloat16 parts of an element, for AMX */
        reserve(&c, (rows + TILED - 1) * padded(widest), f / 2 * 3);
    if (s->ranks > 1) {
        uint64_t most = b * widest > m->vocab_size ? b * widest : m->vocab_size;
        if (most > MAX_EXCHANGED) most = MAX_EXCHANGED;
        if (most < RANK_NUMBERS * s->ranks) most = RANK_NUMBERS * s->ranks;
        s->gather_floats = (size_t)most; /* a row of every result at least: see gather */
        s->gather_buffer = reserve(&c, most, f);
        s->offsets = reserve(&c, s->ranks + 1, sizeof *s->offsets);
    }
    s->last = reserve(&c, s->n_logits * padded(m->dim), f);          /* [n_logits][D] */
    s->last_seq = reserve(&c, s->n_logits, sizeof *s->last_seq);     /* [n_logits] */
    s->logits = reserve(&c, s->n_logits * padded(m->vocab_size), f); /* [n_logits][V] */
    if (s->keep_logits) /* [n_sequences * context][V] */
        s->all_logits = reserve(&c, s->n_sequences * s->context, padded(m->vocab_size) * f);
    s->sequences = reserve(&c, s->n_sequences, sizeof *s->sequences); /* [n_sequences] */
    s->row_seq = reserve(&c, b, sizeof *s->row_seq);                  /* [batch] */
    s->row_pos = reserve(&c, b, sizeof *s->row_pos);                  /* [batch] */
    s->row_token = reserve(&c, b, sizeof *s->row_token);              /* [batch] */
    s->cos = reserve(&c, b * (m->head_dim / 2), f);                   /* [batch][head_dim/2] */
    s->sin = reserve(&c, b * (m->head_dim / 2), f);                   /* [batch][head_dim/2] */
    s->probs = reserve(&c, m->vocab_size, sizeof *s->probs);          /* [V], for sampling */
    s->ids = reserve(&c, m->vocab_size, sizeof *s->ids); /* [V], the heap of the sampler */
    s->seen = reserve(&c, m->vocab_size, 1);             /* [V], tokens already penalised */
    s->own_pool.helpers = reserve(&c, threads, sizeof *s->own_pool.helpers); /* [threads - 1] */
    s->workspaces = reserve(&c, threads, sizeof *s->workspaces);             /* [threads] */
    for (size_t i = 0; i < threads; i++) {
        workspace dummy = {0}, *own = base ? &s->workspaces[i] : &dummy;
        reserve(&c, THREAD_GAP, 1);
        own->panel = reserve(&c, TILED * PANEL_COLUMNS, f);
        own->acc = reserve(&c, GROUP * rows * PANEL_ROWS * LANES, f);
        own->queries = reserve(&c, ATTENDED * padded(m->head_dim), f);
        own->scores = reserve(&c, ATTENDED * padded(s->context), f);
    }
    reserve(&c, THREAD_GAP, 1);
    for (size_t i = 0; i < s->n_sequences; i++) {
        sequence dummy = {0}, *q = base ? &s->sequences[i] : &dummy;
        *q = (sequence){0};
        q->logits = reserve(&c, m->vocab_size, f);              /* [V] */
        q->tokens = reserve(&c, s->context, sizeof *q->tokens); /* [context] */
        if (s->guess.lookup) {
            q->newest = reserve(&c, (uint64_t)1 << s->guess.index_bits, sizeof *q->newest);
            q->before = reserve(&c, s->context, sizeof *q->before);
        }
        q->k = reserve(&c, (uint64_t)m->n_layers * s->context, kv_dim * f); /* the KV cache */
        q->v = reserve(&c, (uint64_t)m->n_layers * s->context, kv_dim * f);
        reserve(&c, BLOCK, f); /* kernels read whole vectors, also at the end of the last head */
    }
    return c.used;
}

static int compare_ranks(llama_session *, llama_error *);

/* Lays out session s and, after it, the session of its draft model, which is elsewhere until there
 * is memory. Returns the size of both in bytes. */
static uint64_t layout_with_drafter(llama_session *s, unsigned char *base) {
    uint64_t own = layout_session(s, base);
    if (!s->guess.drafter) return own;
    /* NOLINTNEXTLINE: aligned as every buffer is */
    if (base) s->guess.drafter = memcpy(base + own, s->guess.drafter, sizeof *s);
    return own + layout_session(s->guess.drafter, base ? base + own : NULL);
}

/* Sets up the session of a draft model, in *d, for session s, whose own fields are set. */
static int check_drafter(llama_session *s, const llama *draft, llama_session *d, llama_error *err) {
    if (draft->vocab_size != s->model->vocab_size)
        return llamac_fail(err, LLAMA_EINVAL,
                           "the draft model has a vocabulary of %zu tokens and the model one of "
                           "%zu: it cannot guess the model's tokens",
                           draft->vocab_size, s->model->vocab_size);
    if (draft->window && s->context > draft->window)
        return llamac_fail(
            err, LLAMA_EINVAL,
            "a context of %zu is longer than the draft model's sliding window of %zu", s->context,
            draft->window);
    if (draft->stream && draft->ranks > 1)
        return llamac_fail(
            err, LLAMA_EINVAL,
            "a draft model that is streamed must be opened without ranks: every rank "
            "computes all of its rows");
    if (s->kernels->pack) return LLAMA_OK; /* AMX: it would not be used */
    *d = (llama_session){.model = draft, .kernels = s->kernels, .context = s->context, .ranks = 1};
    d->n_sequences = s->n_sequences < MAX_CONCURRENT ? s->n_sequences : MAX_CONCURRENT;
    d->batch = s->batch < d->context * d->n_sequences ? s->batch : d->context * d->n_sequences;
    d->n_logits = d->n_sequences;
    d->threads = s->threads;
    d->progress = s->progress;
    d->progress_user = s->progress_user;
    s->guess.drafter = d;
    return LLAMA_OK;
}

/* Checks the options and sets the fields of s that they decide, and those of *d, the session of the
 * draft model. s has a model, but no buffers yet. */
static int check_session_options(llama_session *s, llama_session *d,
                                 const llama_session_options *given, llama_error *err) {
    llama_session_options o; /* fields that an older caller does not have are 0 */
    if (!llamac_copy_options(&o, sizeof o, given))
        return llamac_fail(err, LLAMA_EINVAL, "llama_session_new: %s", no_size);
    if (llamac_copy_allocator(&s->allocator, o.allocator, err)) return LLAMA_EINVAL;
    if (o.context < 0 || o.context > MAX_CONTEXT || o.sequences < 0 || o.sequences > MAX_CONTEXT ||
        o.batch < 0 || o.batch > MAX_CONTEXT || o.threads < 0 || o.threads > MAX_THREADS)
        return llamac_fail(err, LLAMA_EINVAL,
                           "context, sequences and batch must be 0 to %d, threads 0 to %d",
                           (int)MAX_CONTEXT, (int)MAX_THREADS);
    if (o.numerics != LLAMA_EXACT && o.numerics != LLAMA_FAST)
        return llamac_fail(err, LLAMA_EINVAL, "numerics %d does not exist", o.numerics);
    s->context = o.context ? (size_t)o.context : s->model->context;
    if (s->model->window && s->context > s->model->window)
        return llamac_fail(err, LLAMA_EINVAL,
                           "a context of %zu is longer than the model's sliding window of %zu, "
                           "beyond which it is not supported",
                           s->context, s->model->window);
    s->n_sequences = o.sequences ? (size_t)o.sequences : 1;
    int status = check_ranks(s->model, o.rank, o.ranks, err);
    if (status) return status;
    s->rank = o.ranks ? (size_t)o.rank : s->model->rank;
    s->ranks = o.ranks ? (size_t)o.ranks : s->model->ranks;
    s->gather = o.gather;
    s->gather_user = o.gather_user;
    s->batch = s->ranks > 1       ? RANKS_BATCH /* for all ranks, also if some of them stream */
               : s->model->stream ? STREAMED_BATCH
                                  : DEFAULT_BATCH;
    if (o.batch) s->batch = (size_t)o.batch;
    if (s->batch > s->context * s->n_sequences) s->batch = s->context * s->n_sequences;
    s->n_logits = s->n_sequences + MAX_GUESSES;
    s->threads = o.threads ? o.threads : llamac_cores();
    if (s->threads > MAX_THREADS) s->threads = MAX_THREADS;
    if (o.all_logits != 0 && o.all_logits != 1)
        return llamac_fail(err, LLAMA_EINVAL, "all_logits must be 0 or 1");
    s->keep_logits = o.all_logits;
    if (o.no_lookup != 0 && o.no_lookup != 1)
        return llamac_fail(err, LLAMA_EINVAL, "no_lookup must be 0 or 1");
    s->progress = o.progress;
    s->progress_user = o.user;
    s->kernels = find_kernels(o.kernels, o.numerics == LLAMA_FAST);
    if (!s->kernels)
        return llamac_fail(err, LLAMA_EINVAL,
                           "this CPU or this build has no kernels '%.32s'; its best are '%s'",
                           o.kernels, find_kernels(NULL, false)->name);
    guessing *g = &s->guess;
    g->lookup = !o.no_lookup && !s->kernels->pack; /* with AMX nothing is guessed */
    for (g->index_bits = 1; (size_t)1 << g->index_bits < s->context;) g->index_bits++;
    for (int i = 0; i < WAYS; i++) g->patience[i] = 1;
    return o.draft ? check_drafter(s, o.draft, d, err) : LLAMA_OK;
}

/* Computes the size as llama_session_new does, without an allocation. */
LLAMAC_API uint64_t llama_session_bytes(const llama *m, const llama_session_options *options) {
    llama_session s = {.model = m}, drafter;
    return !m || check_session_options(&s, &drafter, options, NULL) ? 0
                                                                    : layout_with_drafter(&s, NULL);
}

LLAMAC_API int llama_session_new(llama_session **session, const llama *m,
                                 const llama_session_options *options, llama_error *err) {
    llama_session s = {.model = m}, drafter;
    if (err) memset(err, 0, sizeof *err);
    if (session) *session = NULL;
    if (!session || !m)
        return llamac_fail(err, LLAMA_EINVAL, "llama_session_new: session and model must be given");
    int status = check_session_options(&s, &drafter, options, err);
    if (status) return status;
    if (s.ranks > 1 && !s.gather)
        return llamac_fail(err, LLAMA_EINVAL, "several machines need a gather function");
    if (m->stream && (s.rank != m->rank || s.ranks != m->ranks))
        return llamac_fail(err, LLAMA_EINVAL,
                           "a model that is streamed must be opened with its sessions' rank %zu "
                           "and ranks %zu",
                           s.rank, s.ranks);
    s.bytes = layout_with_drafter(&s, NULL);
    unsigned char *base = NULL;
    if (s.bytes <= SIZE_MAX / 4) /* NOLINTNEXTLINE: llamac_copy_allocator has set both functions */
        base = s.allocator.alloc(s.allocator.user, (size_t)s.bytes, LLAMAC_ALIGNMENT);
    if (!base)
        return llamac_fail(
            err, LLAMA_ENOMEM,
            "%llu MB for a session of %zu sequence%s with a context of %zu cannot be "
            "allocated; %s%suse a smaller context",
            (unsigned long long)(s.bytes / 1000000), s.n_sequences, s.n_sequences > 1 ? "s" : "",
            s.context, s.n_sequences > 1 ? "use fewer sequences, or " : "",
            s.keep_logits ? "do not keep all_logits, or " : "");
    llama_session *made = *session = (llama_session *)(void *)base;
    *made = s;
    layout_with_drafter(made, base);
    if (s.allocator.alloc == llamac_default_alloc)
        llamac_advise_small_pages(base, s.bytes, m->page);
    made->pool = &made->own_pool;
    start_helpers(made);
    count_session(made, true);
    llama_session *d = made->guess.drafter;
    if (d) d->pool = made->pool, d->threads = made->threads;
    for (int team = 0; team < 2; team++)
        snprintf(made->kernels_text[team], sizeof *made->kernels_text, "%s, %d thread%s",
                 made->kernels->name, team ? made->threads : 1,
                 team && made->threads > 1 ? "s" : "");
    if (made->ranks > 1 && (status = compare_ranks(made, err))) {
        llama_session_free(made);
        *session = NULL;
    }
    return status; /* buffers are not touched here: each call clears the padding that it uses */
}

static void end_trace(llama_session *);

LLAMAC_API void llama_session_free(llama_session *s) {
    if (!s) return;
    stop_helpers(s);
    count_session(s, false);
    end_trace(s);
    s->allocator.free(s->allocator.user, s, (size_t)s->bytes);
}

static float log_probability(const float *logits, size_t vocab, int32_t token);
static int32_t rank_of(const float *logits, size_t vocab, int32_t token);

/* ---- Evaluating ---- */

/* Stores the error text for llama_session_error, if s is not NULL. Returns status. */
static int llamac_failed(llama_session *s, int status, const char *text) {
    return llamac_fail(s ? &s->error : NULL, status, "%s", text);
}

/* Returns the sequence with number seq, or NULL. */
static sequence *sequence_of(const llama_session *s, int seq) {
    return s && seq >= 0 && (size_t)seq < s->n_sequences ? &s->sequences[seq] : NULL;
}

/* Begins a call: drops the error of the last call. */
static void clear_error(llama_session *s) {
    s->error.status = LLAMA_OK;
    s->error.text[0] = 0;
}

/* Begins a call, and returns LLAMA_OK. Returns LLAMA_EINVAL if there is no session, or if the
 * session works and waits for the function of the host that makes this call. */
static int begin(llama_session *s) {
    if (!s) return LLAMA_EINVAL;
    if (s->busy)
        return llamac_failed(
            s, LLAMA_EINVAL,
            "the session is evaluating: a function that it calls may not change it");
    clear_error(s);
    return LLAMA_OK;
}

/* Ends the work during which functions of the host may have been called, and returns its status. If
 * calls of these functions were refused, their errors are dropped. */
static int end_busy(llama_session *s, int status) {
    s->busy = false;
    if (status == LLAMA_OK) clear_error(s);
    return status;
}

/* Begins a call on sequence seq, and returns the sequence. If it does not exist, stores the error
 * and returns NULL; the call then fails with LLAMA_EINVAL. */
static sequence *begin_call(llama_session *s, int seq) {
    sequence *q = sequence_of(s, seq);
    if (begin(s)) return NULL;
    if (!q)
        llamac_fail(&s->error, LLAMA_EINVAL,
                    "there is no such sequence: %d; the session has %zu, numbered from 0", seq,
                    s->n_sequences);
    return q;
}

/* Puts what the stored error is about in front of its text: "request 3: ". Returns status. */
static int name_in_error(llama_session *s, const char *what, size_t i, int status) {
    llama_error e = s->error;
    return status ? llamac_fail(&s->error, status, "%s %zu: %s", what, i, e.text) : LLAMA_OK;
}

/* Checks that every one of n tokens is in the vocabulary. If one is not, stores the error and
 * returns LLAMA_EINVAL. */
static int check_tokens(llama_session *s, const int32_t *tokens, size_t n) {
    size_t vocab = s->model->vocab_size;
    if (n && !tokens) return llamac_failed(s, LLAMA_EINVAL, "tokens must be given");
    for (size_t t = 0; t < n; t++)
        if (tokens[t] < 0 || (size_t)tokens[t] >= vocab)
            return llamac_fail(&s->error, LLAMA_EINVAL,
                               "token %zu is %d, which is not in the vocabulary of %zu", t,
                               (int)tokens[t], vocab);
    return LLAMA_OK;
}

/* Checks that a span's tokens can follow `length` tokens of its sequence, which exists. If they
 * cannot, stores the error and returns its status. */
static int check_span(llama_session *s, const llama_span *span, size_t length) {
    if (span->tokens && span->n > s->context - length)
        return llamac_fail(
            &s->error, LLAMA_EFULL,
            "the context is full: sequence %d has %zu of %zu positions, and %zu more "
            "tokens do not fit",
            span->seq, length, s->context, span->n);
    return name_in_error(s, "sequence", (size_t)span->seq, check_tokens(s, span->tokens, span->n));
}

/* Fills row t of the batch that forward() runs next with token number i of a span: its sequence,
 * its position, its token, and the sines and cosines of its rotation. */
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

/* Zeroes the padding of n rows, because kernels read whole blocks. All other memory of a session is
 * written before it is read. */
static void clear_padding(float *x, size_t n, size_t width) {
    size_t ld = padded(width);
    for (size_t t = 0; t < n; t++) memset(x + t * ld + width, 0, (ld - width) * sizeof *x);
}

/* Computes the logits [n][V] from n rows of h [n][D], whose tokens are of the sequences seqs[n].
 * Returns LLAMA_ENUMERIC if they are not finite. A guess has NULL in seqs and is not checked here:
 * without guessing it might never be evaluated. */
static int output(llama_session *s, float *logits, const float *h, size_t n,
                  sequence *const *seqs) {
    const llama *m = s->model;
    matmul(s, logits, &m->output, h, n);
    if (s->stopped) return s->stopped;
    for (size_t t = 0; t < n; t++)
        if (seqs[t] && !all_finite(logits + t * padded(m->vocab_size), m->vocab_size))
            return llamac_fail(&s->error, LLAMA_ENUMERIC,
                               "sequence %d: the logits are not finite; the weights may be damaged",
                               (int)(seqs[t] - s->sequences));
    return LLAMA_OK;
}

/* Computes, for each token to score of n rows, its log-probability and its rank: how many tokens are
 * more likely. Returns their number in *scored, or the status of output. Both follow from the logits
 * of the previous token: for the first token of a span, the logits of its sequence. If there are
 * none, both are 0. `logits` has those of the n rows; if it is NULL, they are computed here, SCORED
 * rows at a time. The logits of the last row are kept in s->logits[0], for the next batch or for the
 * sequence. */
static int score_rows(llama_session *s, size_t n, const float *logits, float *logprob,
                      int32_t *rank, size_t *scored) {
    size_t vocab = s->model->vocab_size, ld = padded(vocab), width = padded(s->model->dim);
    const float *previous = s->logits;
    *scored = 0;
    for (size_t t = 0; t < n; t++) {
        const sequence *q = s->row_seq[t];
        int32_t token = s->row_token[t];
        /* NOLINTNEXTLINE: where tokens are scored, none is a guess, which has no sequence here */
        if (s->row_pos[t] == q->length) previous = q->length ? q->logits : NULL;
        if (s->row_pos[t] >= q->wanted) {
            logprob[*scored] = previous ? log_probability(previous, vocab, token) : 0;
            if (rank) rank[*scored] = previous ? rank_of(previous, vocab, token) : 0;
            ++*scored;
        }
        size_t next = n - t < SCORED ? n - t : SCORED; /* rows to compute, if they are not here */
        int status = logits || t % SCORED
                         ? LLAMA_OK
                         : output(s, s->logits, s->h + t * width, next, s->row_seq + t);
        if (status) return status;
        previous = logits ? logits + t * ld : s->logits + t % SCORED * ld;
        if (s->row_pos[t] + 1 != q->shared) continue;
        for (size_t i = 0; i < s->n_sequences; i++)
            if (s->sequences[i].leader == q)
                memcpy(s->sequences[i].logits, previous, vocab * sizeof *previous);
    }
    /* NOLINTNEXTLINE: a session has all its buffers */
    memmove(s->logits, previous, vocab * sizeof *previous);
    return LLAMA_OK;
}

/* Evaluates the tokens of all spans, in batches of nearly equal size: 1,000 tokens in batches of up to
 * 256 are four of 250. Rows follow the order of the
 * spans: the second span's first token comes directly after the first span's last token. A
 * batch can contain rows of several sequences. Leaves in s->logits a row for each token whose logits
 * are needed or, if the session keeps all logits, in s->all_logits a row for each token. Writes to
 * the KV cache only beyond the length of each sequence, where nothing is read until the length
 * changes. If logprob is not NULL, the tokens from `wanted` of their sequence on are scored. */
static int evaluate_spans(llama_session *s, const llama_span *spans, size_t total, float *logprob,
                          int32_t *rank) {
    /* i: tokens of *spans that are in a batch already; kept: rows of s->last */
    size_t rows, i = 0, kept = 0, ld = padded(s->model->dim), scored;
    int status;
    s->all_rows = s->trace || s->keep_logits;
    for (size_t done = 0; done < total; done += rows) {
        size_t batches = (total - done + s->batch - 1) / s->batch; /* that remain */
        rows = (total - done + batches - 1) / batches;
        for (size_t t = 0; t < rows; t++, i++) {
            /* A used-up span: go to the next. NOLINTNEXTLINE: the spans have `total` tokens */
            for (; i == spans->n; i = 0) spans++;
            set_row(s, t, spans, i);
        }
        float *const by_dim[] = {s->x, s->h, s->block_out}, *const by_q_dim[] = {s->q, s->mixed};
        for (int k = 0; k < 3; k++) clear_padding(by_dim[k], rows, s->model->dim);
        for (int k = 0; k < 2; k++) clear_padding(by_q_dim[k], rows, s->model->q_dim);
        clear_padding(s->gate, rows, s->model->hidden);
        if (s->ranks > 1) /* other ranks' heads, too */
            memset(s->q, 0, rows * padded(s->model->q_dim) * sizeof *s->q);
        s->done = s->model->n_layers * done;
        size_t wanted = paced_forward(s, rows);
        if (s->stopped) return s->stopped;
        for (size_t t = 0; t < wanted; t++) {
            if (s->row_pos[t] + 1 < s->row_seq[t]->given) continue;
            if (s->row_pos[t] >= s->row_seq[t]->given) s->row_seq[t] = NULL; /* see output */
            memcpy(s->last + kept * ld, s->h + t * ld, ld * sizeof(float));
            s->last_seq[kept++] = s->row_seq[t];
        }
        float *logits = s->keep_logits ? s->all_logits + done * padded(s->model->vocab_size) : NULL;
        if (logits && (status = output(s, logits, s->h, rows, s->row_seq))) return status;
        if (!logprob) continue;
        if ((status = score_rows(s, wanted, logits, logprob, rank, &scored))) return status;
        logprob += scored;
        if (rank) rank += scored;
    }
    /* If one span was scored, score_rows has left its logits in s->logits. */
    status = s->keep_logits || (logprob && kept == 1)
                 ? LLAMA_OK
                 : output(s, s->logits, s->last, kept, s->last_seq);
    s->done = s->total;
    return status == LLAMA_OK && stopped(s, 0, 0) ? s->stopped : status;
}

/* Does the work of llama_eval, llama_eval_batch, llama_score and llama_score_batch. Checks all
 * arguments, evaluates, and only then adds the tokens and logits to the sequences. So a call that
 * fails changes no sequence.
 *
 * If logprob is not NULL, the last tail[i] tokens of span i are scored; if `tail` is NULL, all are.
 *
 * Else the last tail[i] tokens of span i are guesses; if `tail` is NULL, there are none. Guesses
 * are evaluated, but not added: accept_guess adds one, with its logits. The logits of at most
 * s->n_logits tokens may be needed: of all guesses, and of the last other token of each span. */
static int evaluate(llama_session *s, const llama_span *spans, const size_t *tail, size_t n,
                    float *logprob, int32_t *rank, const char *what) {
    size_t total = 0, ld, k = 0, done = 0;
    if (begin(s)) return LLAMA_EINVAL;
    if (n && !spans) return llamac_failed(s, LLAMA_EINVAL, "spans must be given");
    ld = padded(s->model->vocab_size);
    s->what = what;
    s->calls++;
    for (size_t i = 0; i < n; i++) {
        int seq = spans[i].seq;
        sequence *q = begin_call(s, seq);
        if (!q) return LLAMA_EINVAL;
        if (q->call == s->calls)
            return llamac_fail(&s->error, LLAMA_EINVAL, "sequence %d is named twice", seq);
        int status = check_span(s, &spans[i], q->length);
        if (status) return status;
        size_t last = tail ? tail[i] : logprob ? spans[i].n : 0;
        if (logprob && last == spans[i].n && q->length && !q->have_logits)
            return llamac_fail(&s->error, LLAMA_EINVAL,
                               "sequence %d was rewound: evaluate a token before scoring", seq);
        q->call = s->calls;
        q->n_guesses = logprob ? 0 : last;
        q->given = q->length + spans[i].n - q->n_guesses;
        q->wanted = q->length + spans[i].n - last;
        total += spans[i].n;
    }
    if (total == 0) return LLAMA_OK;
    for (size_t i = 0; i < s->n_sequences && s->keep_logits; i++) s->sequences[i].rows = 0;
    s->stopped = LLAMA_OK;
    s->reported = 0;
    s->total = s->model->n_layers * total;
    s->busy = true;
    int status = take_stream(s);
    if (status == LLAMA_OK) {
        uint64_t mode = llamac_fp_enter();
        status = evaluate_spans(s, spans, total, logprob, rank);
        llamac_fp_leave(mode);
        return_stream(s);
    }
    status = end_busy(s, status);
    if (status == LLAMA_ECANCEL) llamac_failed(s, status, "cancelled by the host");
    if (check_files(s->model, &s->error)) status = LLAMA_EIO;
    for (size_t i = 0; i < n && status == LLAMA_OK; i++) {
        sequence *q = &s->sequences[spans[i].seq];
        size_t rows = spans[i].n, kept = 1 + q->n_guesses; /* with logits */
        if (rows == 0) continue;
        const float *logits = s->logits + k * ld;
        if (s->keep_logits) {
            q->row = done, q->row_position = q->length, q->rows = rows;
            logits = s->all_logits + (done + rows - kept) * ld;
        }
        done += rows, k += kept;
        memmove(q->tokens + q->length, spans[i].tokens, rows * sizeof *q->tokens);
        q->length = q->given;
        q->guess_logits = logits;
        memcpy(q->logits, logits, s->model->vocab_size * sizeof(float));
        q->guess_logits += ld;
        q->have_logits = true;
    }
    return status;
}

/* Adds the next evaluated guess to its sequence if it is `token`, with the logits after it. If it is
 * another token, or the guess's logits are not finite, drops all guesses that are left. In the second
 * case the token is evaluated again and that call fails, as it does without guesses. Returns whether
 * the guess was added. */
static bool accept_guess(const llama_session *s, sequence *q, int32_t token) {
    if (!q->n_guesses || q->tokens[q->length] != token ||
        !all_finite(q->guess_logits, s->model->vocab_size))
        return q->n_guesses = 0, false;
    memcpy(q->logits, q->guess_logits, s->model->vocab_size * sizeof(float));
    q->guess_logits += padded(s->model->vocab_size);
    q->length++;
    q->n_guesses--;
    return true;
}

/* Returns whether tokens that are evaluated together have the results of tokens evaluated singly.
 * Not with AMX, and not if the host traces what is computed. */
static bool can_guess(const llama_session *s) { return !s->trace && !s->kernels->pack; }

LLAMAC_API int llama_score_batch(llama_session *s, const llama_span *spans, size_t n,
                                 float *logprob, int32_t *rank) {
    return evaluate(s, spans, NULL, n, logprob, rank, "prompt");
}

LLAMAC_API int llama_eval_batch(llama_session *s, const llama_span *spans, size_t n) {
    return llama_score_batch(s, spans, n, NULL, NULL);
}

LLAMAC_API int llama_eval(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    return llama_eval_batch(s, &(llama_span){seq, tokens, n}, 1);
}

LLAMAC_API int llama_score(llama_session *s, int seq, const int32_t *tokens, size_t n,
                           float *logprob) {
    if (s && n && !logprob)
        return llamac_failed(s, LLAMA_EINVAL, "llama_score: logprob must be given");
    return llama_score_batch(s, &(llama_span){seq, tokens, n}, 1, logprob, NULL);
}

/* Evaluates the guesses MAX_GUESSES at a time, or singly if !can_guess(s), and draws from the logits of
 * each. The last row of s->logits, which an evaluation of so few does not use, keeps the logits of
 * before for the case that a later evaluation or draw fails. */
LLAMAC_API ptrdiff_t llama_verify(llama_session *s, int seq, const llama_sampler *sampler,
                                  const int32_t *draft, size_t n, int32_t *out) {
    int32_t token = llama_sample(s, seq, sampler);
    if (token < 0) return token;
    if (!out || (n && !draft))
        return llamac_failed(s, LLAMA_EINVAL, "llama_verify: draft and out must be given");
    sequence *q = sequence_of(s, seq);
    size_t vocab = s->model->vocab_size, length = q->length, fits = s->context - length, drawn = 0;
    for (size_t i = 0; i < n && i < fits; i++) /* a token that does not exist is never drawn */
        if (draft[i] < 0 || (size_t)draft[i] >= vocab) fits = i;
    if (n > fits) n = fits;
    float *saved = s->logits + (s->n_logits - 1) * padded(vocab);
    memcpy(saved, q->logits, vocab * sizeof *saved);
    q->n_guesses = 0;
    int status = LLAMA_OK;
    for (out[0] = token; drawn < n && token == draft[drawn]; out[++drawn] = token) {
        if (!accept_guess(s, q, token)) {
            size_t next = can_guess(s) ? MAX_GUESSES : 1;
            if (next > n - drawn) next = n - drawn;
            size_t guesses = next - 1; /* the first is right */
            llama_span span = {seq, draft + drawn, next};
            if ((status = evaluate(s, &span, &guesses, 1, NULL, NULL, "text"))) break;
        }
        if ((status = token = llama_sample(s, seq, sampler)) < 0) break;
    }
    q->n_guesses = 0;
    if (status >= 0) return (ptrdiff_t)drawn + 1;
    q->length = length;
    memcpy(q->logits, saved, vocab * sizeof *saved);
    return status;
}

/* ---- Logits, tracing, messages ---- */

LLAMAC_API const float *llama_logits(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q && q->have_logits ? q->logits : NULL;
}

LLAMAC_API const float *llama_logits_at(const llama_session *s, int seq, size_t position) {
    const sequence *q = sequence_of(s, seq);
    if (!q || position >= q->length || position < q->row_position ||
        position - q->row_position >= q->rows)
        return NULL;
    return s->all_logits + (q->row + position - q->row_position) * padded(s->model->vocab_size);
}

/* Returns the bytes of the memory in which a trace gets scores, or probabilities: for a whole batch at
 * the last positions of the context. */
static uint64_t trace_bytes(const llama_session *s) {
    layout c = {NULL, 0};
    reserve(&c, (uint64_t)s->model->n_heads * s->batch, s->context * sizeof(float));
    return c.used;
}

/* Stops the trace and frees its memory. */
static void end_trace(llama_session *s) {
    size_t bytes = (size_t)trace_bytes(s);
    if (s->traced_scores) s->allocator.free(s->allocator.user, s->traced_scores, 2 * bytes);
    s->trace = NULL, s->traced_scores = s->traced_probs = NULL;
}

/* trace() in part II calls fn. */
LLAMAC_API int llama_trace(llama_session *s, llama_trace_fn fn, void *user) {
    if (begin(s)) return LLAMA_EINVAL;
    uint64_t bytes = trace_bytes(s);
    if (!fn) return end_trace(s), LLAMA_OK;
    if (!s->traced_scores && bytes <= SIZE_MAX / 4)
        s->traced_scores =
            s->allocator.alloc(s->allocator.user, 2 * (size_t)bytes, LLAMAC_ALIGNMENT);
    if (!s->traced_scores)
        return llamac_fail(&s->error, LLAMA_ENOMEM,
                           "%llu MB for a trace of attention cannot be allocated; use a smaller "
                           "context or batch",
                           (unsigned long long)(bytes / 500000));
    s->traced_probs = s->traced_scores + bytes / sizeof(float);
    s->trace = fn;
    s->trace_user = user;
    return LLAMA_OK;
}

LLAMAC_API const char *llama_session_error(const llama_session *s) {
    return s ? s->error.text : "";
}
LLAMAC_API const char *llama_session_kernels(const llama_session *s) {
    return s ? s->kernels_text[usable_threads(s) > 1] : "";
}
LLAMAC_API int llama_session_context(const llama_session *s) { return s ? (int)s->context : 0; }

/* ---- Sequences ---- */

LLAMAC_API size_t llama_length(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q ? q->length : 0;
}

LLAMAC_API int llama_rewind(llama_session *s, int seq, size_t length) {
    sequence *q = begin_call(s, seq);
    if (!q) return LLAMA_EINVAL;
    if (length > q->length)
        return llamac_fail(&s->error, LLAMA_EINVAL,
                           "sequence %d has %zu tokens and cannot be rewound to %zu", seq,
                           q->length, length);
    q->have_logits = q->have_logits && length == q->length;
    q->length = length;
    if (q->indexed > length) q->indexed = length;
    return LLAMA_OK;
}

/* Copies a sequence. In the KV cache of `from`, the heads are from_context positions apart. Copies
 * only the positions that are filled, so no other memory is touched. */
static void copy_sequence(llama_session *s, sequence *to, const sequence *from,
                          size_t from_context) {
    size_t width = s->model->head_dim, bytes = from->length * width * sizeof(float);
    range own = own_heads(s);
    for (size_t i = 0; i < s->model->n_layers * (own.end - own.begin); i++) {
        memcpy(to->k + i * s->context * width, from->k + i * from_context * width, bytes);
        memcpy(to->v + i * s->context * width, from->v + i * from_context * width, bytes);
    }
    memcpy(to->tokens, from->tokens, from->length * sizeof *to->tokens);
    if (from->have_logits) memcpy(to->logits, from->logits, s->model->vocab_size * sizeof(float));
    to->length = from->length;
    to->have_logits = from->have_logits;
    to->rows = to->indexed = 0;
}

LLAMAC_API int llama_fork(llama_session *s, int dst, int src) {
    sequence *to = begin_call(s, dst);
    const sequence *from = to ? begin_call(s, src) : NULL;
    if (!from) return LLAMA_EINVAL;
    if (to != from) copy_sequence(s, to, from, s->context);
    return LLAMA_OK;
}

LLAMAC_API const int32_t *llama_tokens(const llama_session *s, int seq) {
    const sequence *q = sequence_of(s, seq);
    return q ? q->tokens : NULL;
}

/* ---- Streams with a checksum ---- */

/* Saved state passes through functions of the host: to or from a file, a socket, a compressor. The
 * bytes come in order, and their number is not known in advance. Data is used only after the
 * checksum that follows it has been verified. */

typedef struct {
    llama_write_fn writer; /* NULL when reading */
    llama_read_fn reader;  /* NULL when writing */
    void *user;
    uint64_t sum;               /* checksum of all bytes so far */
    bool failed;                /* a call of write or read failed; no call follows */
    const llama_session *owner; /* its progress function is called; NULL: none is */
    uint64_t done, total;       /* bytes: so far, of the state; total is 0 if it is not known yet */
    bool cancelled;             /* the progress function cancelled; failed is set too */
} stream;

/* Returns the checksum of n bytes that follow data with checksum `sum`. It detects damage, not
 * forgery. Each step can be inverted: multiplication by an odd factor, and xor with a right shift.
 * So two streams that differ in one 8-byte word always have different checksums. Streams with more
 * differences have equal ones with probability 2^-64. */
static uint64_t checksum(uint64_t sum, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        if (n - i >= 8) memcpy(&word, p + i, 8);
        else memcpy(&word, p + i, n - i);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 29;
    }
    return sum;
}

/* Writes n bytes from p, or reads n bytes to p. Saving and loading share this code and its order,
 * so that their formats cannot differ. */
static void transfer(stream *s, void *p, size_t n) {
    enum { CHUNK = 1 << 20 }; /* bytes between two calls of the progress function */
    llama_progress_fn progress = s->owner ? s->owner->progress : NULL;
    unsigned char *at = p;
    for (size_t k; n && !s->failed; n -= k, at += k) {
        k = n < CHUNK ? n : CHUNK;
        s->failed = (s->writer ? s->writer(s->user, at, k) : s->reader(s->user, at, k)) != 0;
        if (s->failed) break;
        s->sum = checksum(s->sum, at, k);
        s->done += k;
        if (progress && progress(s->owner->progress_user, "state", s->done, s->total))
            s->failed = s->cancelled = true;
    }
}

/* Reports a stream that failed: the host cancelled, or a function failed. */
static int stream_failed(llama_session *s, const stream *st) {
    if (st->cancelled) return llamac_failed(s, LLAMA_ECANCEL, "cancelled by the host");
    if (st->writer)
        return llamac_fail(&s->error, LLAMA_EIO,
                           "the state could not be written: %llu of %llu bytes were",
                           (unsigned long long)st->done, (unsigned long long)st->total);
    if (!st->total)
        return llamac_failed(s, LLAMA_EIO, "the state could not be read, or ends in its header");
    return llamac_fail(&s->error, LLAMA_EIO,
                       "the state could not be read, or ends, after %llu of %llu bytes",
                       (unsigned long long)st->done, (unsigned long long)st->total);
}

/* Writes or reads the checksum of all bytes so far. Returns false if the checksum that was read is
 * wrong. */
static bool transfer_checksum(stream *s) {
    uint64_t sum = s->sum, same = sum;
    transfer(s, &same, sizeof same);
    return same == sum;
}

/* ---- Saved state ---- */

/* A saved state consists of 64-bit integers and arrays of 32-bit numbers, in this order:
 *
 *   header     [STATE] integers, in the order of the enum below
 *   checksum   of the header
 *   tokens     [length]
 *   KV cache   keys [length][head_dim], then values, for every KV head of every layer
 *   logits     [vocab_size], if the sequence has them
 *   checksum   of everything before */
#define LLAMAC_STATE "lm.state"
enum {
    STATE_MAGIC,    /* LLAMAC_STATE, as the first 8 bytes */
    STATE_VERSION,  /* of this format and of the arithmetic */
    STATE_MODEL,    /* fingerprint() of the model */
    STATE_NUMERICS, /* LLAMA_EXACT or LLAMA_FAST */
    STATE_LENGTH,   /* number of tokens */
    STATE_LOGITS,   /* 1 if the logits follow, else 0 */
    STATE,
    STATE_HEADER = (STATE + 1) * 8 /* bytes of the header and its checksum */
};

/* Returns a number that tells models apart: a checksum of the shape, the constants, and samples of
 * every weight. The samples are the first elements of the first row and the last elements of the
 * last row. They are the same in every file format: Hugging Face's order of rows keeps these
 * two. */
static uint64_t fingerprint(const llama *m) {
    uint64_t shape[] = {m->dim, m->n_layers, m->n_heads, m->n_kv_heads, m->hidden, m->vocab_size};
    float constants[] = {m->norm_eps, m->rope_theta}, x[2 * BLOCK];
    uint64_t mode = llamac_fp_enter(),
             sum = checksum(checksum(0, shape, sizeof shape), constants, sizeof constants);
    if (m->scaling.kind != UNSCALED || m->q_dim != m->dim)
        sum = checksum(sum, m->freqs, m->head_dim / 2 * sizeof *m->freqs);
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

/* Fills in the header that this session writes for q, and expects when it reads. The version counts
 * changes of this format and of the arithmetic that computed the numbers. */
static void make_header(uint64_t h[STATE], const llama_session *s, const sequence *q) {
    memcpy(&h[STATE_MAGIC], LLAMAC_STATE, sizeof *h);
    h[STATE_VERSION] = 2;
    h[STATE_MODEL] = fingerprint(s->model);
    h[STATE_NUMERICS] = s->kernels->pack ? LLAMA_FAST : LLAMA_EXACT;
    h[STATE_LENGTH] = q->length;
    h[STATE_LOGITS] = q->have_logits;
}

/* ---- Several machines: one session ---- */

/* Checks that all ranks have the same session: the same model, options and version. Otherwise all fail
 * with LLAMA_EINVAL. */
static int compare_ranks(llama_session *s, llama_error *err) {
    const llama_session *d = s->guess.drafter;
    uint64_t ends = 0; /* the tokens that end a text */
    for (int32_t i = 0; (size_t)i < s->model->vocab_size; i++)
        if (llama_is_end(s->model, i)) ends = checksum(ends, &i, sizeof i);
    uint64_t facts[] = {fingerprint(s->model),
                        ends,
                        d ? fingerprint(d->model) : 0,
                        s->ranks,
                        s->context,
                        s->n_sequences,
                        s->batch,
                        s->keep_logits,
                        s->guess.lookup,
                        s->kernels->pack != NULL};
    uint64_t sum = checksum(checksum(0, LLAMA_VERSION_STRING, sizeof LLAMA_VERSION_STRING), facts,
                            sizeof facts);
    float *x = s->gather_buffer;
    for (size_t r = 0; r <= s->ranks; r++) s->offsets[r] = r * RANK_NUMBERS;
    for (size_t i = 0; i < RANK_NUMBERS; i++) /* 16 bits in each: exact */
        x[s->rank * RANK_NUMBERS + i] = (float)(sum >> 16 * i & 0xffff);
    s->busy = true;
    exchange(s, x);
    end_busy(s, s->stopped);
    for (size_t i = RANK_NUMBERS, r; i < s->ranks * RANK_NUMBERS && !s->stopped; i++)
        if ((r = i / RANK_NUMBERS, x[i] != x[i % RANK_NUMBERS]))
            s->stopped = llamac_fail(&s->error, LLAMA_EINVAL,
                                     "rank %zu has another model, other options or another version "
                                     "than rank 0",
                                     r);
    if (s->stopped && err) *err = s->error;
    return s->stopped;
}

/* Replaces *time, in nanoseconds, by the longest of all ranks, so that all decide the same; by -1 if that
 * of one is negative. Returns LLAMA_OK, or LLAMA_EIO if they cannot be exchanged. */
static int agree_on_time(llama_session *s, double *time) {
    float *x = s->gather_buffer, longest = 0;
    s->stopped = LLAMA_OK;
    if (s->ranks == 1) return LLAMA_OK;
    for (size_t r = 0; r <= s->ranks; r++) s->offsets[r] = r;
    x[s->rank] = (float)*time;
    s->busy = true;
    exchange(s, x);
    end_busy(s, s->stopped);
    for (size_t r = 0; r < s->ranks && longest >= 0; r++)
        if (x[r] < 0 || x[r] > longest) longest = x[r];
    *time = (double)longest;
    return s->stopped;
}

/* Returns how many bytes the saved state of q has. */
static uint64_t state_bytes(const llama *m, const sequence *q) {
    uint64_t token = sizeof *q->tokens + 2 * (uint64_t)m->n_layers * m->kv_dim * sizeof(float);
    uint64_t logits = q->have_logits ? m->vocab_size * sizeof *q->logits : 0;
    return STATE_HEADER + q->length * token + logits + sizeof(uint64_t);
}

/* Writes or reads the keys or values of a kv_head, of n floats. Rank `owner` has them; the others get
 * them to write them, and drop them after they have read them. A rank that fails goes on to exchange
 * parts, as the others wait for them. */
static void transfer_head(llama_session *s, stream *st, float *own, size_t owner, size_t n) {
    size_t most = s->ranks > 1 ? s->gather_floats : n;
    for (size_t i = 0, part; i < n; i += part) {
        part = n - i < most ? n - i : most;
        float *p = s->rank == owner ? own + i : s->gather_buffer;
        if (st->writer && s->ranks > 1) {
            for (size_t r = 0; r <= s->ranks; r++) s->offsets[r] = r > owner ? part : 0;
            exchange(s, p);
            if (s->stopped) st->failed = true;
        }
        transfer(st, p, part * sizeof *p);
    }
}

/* Writes or reads everything after the header and its checksum. q has its length and, in the KV
 * cache, heads that are `context` positions apart. Returns whether the checksum was right. */
static bool transfer_sequence(llama_session *s, stream *st, const sequence *q, size_t context) {
    size_t width = s->model->head_dim, floats = q->length * width, at = 0;
    st->owner = s;
    s->stopped = LLAMA_OK;
    transfer(st, q->tokens, q->length * sizeof *q->tokens);
    for (size_t l = 0; l < s->model->n_layers; l++)
        for (size_t head = 0, owner = 0; head < s->model->n_kv_heads; head++) {
            while (head >= part_of(s->model->n_kv_heads, owner, s->ranks).end) owner++;
            transfer_head(s, st, q->k + at, owner, floats);
            transfer_head(s, st, q->v + at, owner, floats);
            if (owner == s->rank) at += context * width;
        }
    if (q->have_logits) transfer(st, q->logits, s->model->vocab_size * sizeof(float));
    return transfer_checksum(st);
}

LLAMAC_API int llama_save(llama_session *s, int seq, llama_write_fn fn, void *user) {
    const sequence *q = begin_call(s, seq);
    if (!q) return LLAMA_EINVAL;
    if (!fn) return llamac_failed(s, LLAMA_EINVAL, "a write function must be given");
    stream st = {.writer = fn, .user = user, .total = state_bytes(s->model, q)};
    uint64_t header[STATE];
    make_header(header, s, q);
    if (check_files(s->model, &s->error)) return LLAMA_EIO;
    s->busy = true;
    transfer(&st, header, sizeof header);
    transfer_checksum(&st);
    transfer_sequence(s, &st, q, s->context);
    return end_busy(s, s->stopped ? s->stopped : st.failed ? stream_failed(s, &st) : LLAMA_OK);
}

/* Reads a header and sets the length and have_logits of q. Fails if the state is damaged, does not
 * belong in this session, or does not have `size` bytes; the status depends on the cause. A size of
 * 0 is not known. */
static int load_header(llama_session *s, stream *st, sequence *q, uint64_t size) {
    static const char *const mismatches[] = {
        "this is not a saved state", "the state is of another version",
        "the state is of another model",
        "the state and the session differ in numerics (LLAMA_FAST)"};
    uint64_t h[STATE] = {0}, want[STATE];
    make_header(want, s, q);
    if (check_files(s->model, &s->error)) return LLAMA_EIO;
    if (size && size < STATE_HEADER)
        return llamac_fail(&s->error, LLAMA_EFORMAT,
                           "this is not a saved state, or only the first %llu bytes of its header",
                           (unsigned long long)size);
    transfer(st, h, sizeof h);
    bool intact = transfer_checksum(st);
    if (st->failed) return stream_failed(s, st);
    if (h[STATE_MAGIC] == want[STATE_MAGIC] && (!intact || h[STATE_LOGITS] > 1))
        return llamac_failed(s, LLAMA_EFORMAT, "the state is damaged");
    for (int i = 0; i < STATE_LENGTH; i++)
        if (h[i] != want[i])
            return llamac_failed(s, i ? LLAMA_EMISMATCH : LLAMA_EFORMAT, mismatches[i]);
    if (h[STATE_LENGTH] > s->context)
        return llamac_fail(&s->error, LLAMA_EFULL,
                           "the state has %llu tokens, more than the context of %zu",
                           (unsigned long long)h[STATE_LENGTH], s->context);
    q->length = (size_t)h[STATE_LENGTH];
    q->have_logits = h[STATE_LOGITS];
    st->total = state_bytes(s->model, q);
    if (size && size < st->total)
        return llamac_fail(&s->error, LLAMA_EFORMAT, "the state ends after %llu of %llu bytes",
                           (unsigned long long)size, (unsigned long long)st->total);
    if (size > st->total)
        return llamac_fail(
            &s->error, LLAMA_EFORMAT,
            "the file is longer than the state in it: %llu of %llu bytes; it is damaged",
            (unsigned long long)size, (unsigned long long)st->total);
    return LLAMA_OK;
}

/* Reads everything after the header into q, which has its length and its memory. Checks the
 * checksum and the values that other code relies on. */
static int load_rest(llama_session *s, stream *st, const sequence *q, size_t context) {
    size_t vocab = s->model->vocab_size;
    bool valid = transfer_sequence(s, st, q, context);
    if (st->failed) return stream_failed(s, st);
    for (size_t i = 0; i < q->length; i++)
        valid = valid && q->tokens[i] >= 0 && (size_t)q->tokens[i] < vocab;
    if (q->have_logits) valid = valid && q->length && all_finite(q->logits, vocab);
    return valid ? LLAMA_OK : llamac_failed(s, LLAMA_EFORMAT, "the state is damaged");
}

/* Does the work of llama_load for a state of `size` bytes; a size of 0 is not known. If the sequence
 * is empty, the state is read directly into its memory. Otherwise the state is read into temporary
 * memory, and copied when all of it is valid. */
static int load(llama_session *s, int seq, llama_read_fn fn, void *user, uint64_t size) {
    sequence *q = begin_call(s, seq), loaded;
    if (!q) return LLAMA_EINVAL;
    if (!fn) return llamac_failed(s, LLAMA_EINVAL, "a read function must be given");
    stream st = {.reader = fn, .user = user};
    llamac_arena temporary = {s->allocator, NULL};
    range own = own_heads(s);
    size_t width = (own.end - own.begin) * s->model->head_dim, vocab = s->model->vocab_size;
    size_t context = s->context;
    loaded = *q;
    s->busy = true;
    int status = load_header(s, &st, &loaded, size);
    if (status == LLAMA_OK && q->length) {
        uint64_t floats = (uint64_t)s->model->n_layers * (context = loaded.length) * width;
        loaded.tokens = llamac_new(&temporary, context, sizeof *loaded.tokens);
        loaded.logits = llamac_new(&temporary, vocab, sizeof *loaded.logits);
        loaded.k = llamac_new(&temporary, floats, sizeof *loaded.k);
        loaded.v = llamac_new(&temporary, floats, sizeof *loaded.v);
        if (!loaded.tokens || !loaded.logits || !loaded.k || !loaded.v)
            status = llamac_failed(s, LLAMA_ENOMEM,
                                   "no memory to load the state while the sequence is kept");
    }
    if (status == LLAMA_OK) status = load_rest(s, &st, &loaded, context);
    if (status == LLAMA_OK && q->length) copy_sequence(s, q, &loaded, context);
    q->length = status == LLAMA_OK ? loaded.length : q->length;
    q->have_logits = status == LLAMA_OK ? loaded.have_logits : q->have_logits;
    q->rows = status == LLAMA_OK ? 0 : q->rows; /* all_logits has none of a loaded state */
    llamac_free_all(&temporary);
    return end_busy(s, status);
}

LLAMAC_API int llama_load(llama_session *s, int seq, llama_read_fn fn, void *user) {
    return load(s, seq, fn, user, 0);
}

/* ---- Files of saved states ---- */

/* Reads n bytes from a file: a llama_read_fn. */
static int read_all(void *file, void *p, size_t n) {
    return llamac_read(file, p, n) != (ptrdiff_t)n;
}

/* Checks that a state may be saved as `path`. An existing file must be a saved state or empty, so
 * that a wrong name destroys nothing else. Sets *is_new, and *mode to the permission bits of the
 * file: 0600 if it is new. */
static int check_replaceable(const char *path, bool *is_new, unsigned *mode, llama_error *err) {
    char magic[sizeof LLAMAC_STATE - 1] = "";
    llamac_file f;
    int status = llamac_open_file(&f, path, err);
    bool empty = status == LLAMA_EFORMAT;
    *is_new = llamac_is_not_found(status);
    *mode = *is_new ? 0600 : f.mode;
    if (status) return *is_new || empty ? LLAMA_OK : status;
    bool is_state = llamac_read(&f, magic, sizeof magic) == sizeof magic &&
                    memcmp(magic, LLAMAC_STATE, sizeof magic) == 0;
    llamac_close_file(&f);
    if (is_state) return LLAMA_OK;
    return llamac_fail(err, LLAMA_EINVAL, "%s: exists and is not a saved state; give another name",
                       path);
}

/* Ends a call on a file: gives its error to the session and to the host, and returns its status. */
static int report_error(llama_session *s, const llama_error *from, llama_error *err) {
    if (s) s->error = *from;
    if (err) *err = *from;
    return from->status;
}

LLAMAC_API int llama_save_file(llama_session *s, int seq, const char *path, llama_error *err) {
    llamac_replacement r;
    llama_error own = {.status = LLAMA_OK};
    unsigned mode;
    bool is_new;
    if (!s || !path || strlen(path) >= LLAMAC_PATH_BYTES) {
        llamac_fail(&own, LLAMA_EINVAL,
                    "a session and a file name must be given, and the name must not be too long");
        return report_error(s, &own, err);
    }
    if (!begin_call(s, seq)) return report_error(s, &s->error, err);
    int status = check_replaceable(path, &is_new, &mode, &own), why = 0;
    if (status) return report_error(s, &own, err);
    if (llamac_replace_begin(&r, path, is_new, mode) != 0) status = LLAMA_EIO, why = errno;
    else {
        errno = 0;
        status = llama_save(s, seq, llamac_replace_write, &r);
        why = status == LLAMA_EIO ? errno : 0;
        if (llamac_replace_end(&r, status == LLAMA_OK) != 0 && status == LLAMA_OK)
            status = LLAMA_EIO, why = errno;
    }
    own = (llama_error){.status = LLAMA_OK}; /* drop the error that a new file did not exist */
    if (status)
        llamac_fail(&own, status, "%s: cannot be written: %s", path,
                    why ? strerror(why) : llama_session_error(s));
    return report_error(s, &own, err);
}

LLAMAC_API int llama_load_file(llama_session *s, int seq, const char *path, llama_error *err) {
    llamac_file f;
    llama_error own = {.status = LLAMA_OK};
    if (!s || !path) {
        llamac_fail(&own, LLAMA_EINVAL, "a session and a file name must be given");
        return report_error(s, &own, err);
    }
    if (!begin_call(s, seq)) return report_error(s, &s->error, err);
    int status = llamac_open_file(&f, path, &own);
    if (status == LLAMA_EFORMAT)
        llamac_fail(&own, status, "%s: is empty; this is not a saved state", path);
    if (status) return report_error(s, &own, err);
    errno = 0; /* so llamac_is_not_found is false: the file exists */
    status = load(s, seq, read_all, &f, f.size);
    if (status) llamac_fail(&own, status, "%s: %s", path, llama_session_error(s));
    llamac_close_file(&f);
    return report_error(s, &own, err);
}

/* ============================================================================================== */
/* VIII. Sampling                                                                                 */
/* ============================================================================================== */

/* Guarantee: the same tokens, logits and sampler settings give the same token on every machine.
 * Sums are in double and in a fixed order: by ascending id, by descending probability, or
 * (keep_top) bucket by bucket. exp and log are exp_double and log_double, not the C library's.
 * The random numbers of a draw depend on the seed, the position and the token's id alone, so
 * drawing twice gives the same token. */

/* ---- Random numbers, softmax and ranks ---- */

/* Returns 64 random bits for a value of a counter-based generator, which has no state: splitmix64's
 * mixing of value number `counter` in the sequence of `key`. */
static uint64_t random_bits(uint64_t key, uint64_t counter) {
    uint64_t x = key + 0x9e3779b97f4a7c15 * (counter + 1);
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

/* Returns log sum_i exp(logits[i]). The highest logit is subtracted first, so that no exp
 * overflows. */
static double log_sum_exp(const float *logits, size_t n) {
    double top = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) top = (double)logits[i] > top ? (double)logits[i] : top;
    for (size_t i = 0; i < n; i++) sum += exp_double((double)logits[i] - top);
    return top + log_double(sum);
}

/* Returns the natural log of a token's probability under softmax(logits), without any filter. */
static float log_probability(const float *logits, size_t vocab, int32_t token) {
    return (float)((double)logits[token] - log_sum_exp(logits, vocab));
}

/* Returns how many tokens rank before this token: those with a higher logit, or with an equal logit
 * and a lower id. */
static int32_t rank_of(const float *logits, size_t vocab, int32_t token) {
    int32_t above = 0;
    for (size_t i = 0; i < vocab; i++)
        above += logits[i] > logits[token] || (i < (size_t)token && logits[i] == logits[token]);
    return above;
}

/* Replaces p by softmax(p / temperature). At least one p is not -infinity. */
static void softmax_double(double *p, size_t n, double temperature) {
    double top = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) top = p[i] > top ? p[i] : top;
    for (size_t i = 0; i < n; i++) sum += p[i] = exp_double((p[i] - top) / temperature);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
}

/* ---- A heap of token ids ---- */

/* A binary heap with the token that ranks first at its root, ids[0]. It yields tokens in order of
 * rank without sorting the rest. The children of node i are nodes 2 i + 1 and 2 i + 2. */

/* Returns whether token a ranks before token b: its value is higher, or equal and its id lower. */
static bool outranks(const double *p, int32_t a, int32_t b) {
    return p[a] > p[b] || (a < b && p[a] == p[b]);
}

/* Moves ids[i] down until ids[0..n) is a heap again; only ids[i] may be out of place. */
static void sift_down(int32_t *ids, size_t n, size_t i, const double *p) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && outranks(p, ids[child + 1], ids[child])) child++;
        if (!outranks(p, ids[child], ids[i])) return;
        int32_t other = ids[i];
        ids[i] = ids[child];
        ids[child] = other;
    }
}

/* Reorders n ids into a heap. */
static void heapify(int32_t *ids, size_t n, const double *p) {
    for (size_t i = n / 2; i-- > 0;) sift_down(ids, n, i, p);
}

/* Returns the id at the root of a heap of n, which ranks first, and moves it to ids[n-1]. The heap
 * keeps n-1 ids. */
static int32_t heap_pop(int32_t *ids, size_t n, const double *p) {
    int32_t top = ids[0];
    ids[0] = ids[n - 1];
    ids[n - 1] = top;
    sift_down(ids, n - 1, 0, p);
    return top;
}

/* ---- Filters ---- */

/* Returns the bucket of a probability. Bucket 0 holds the largest probability, 1. Each factor of 2
 * has 16 buckets. The last bucket holds every probability below 9/8 * 2^-32. */
enum { BUCKETS = 512 };
static size_t probability_bucket(double p) {
    uint64_t bits, one = 0x3ff0; /* the sign, exponent and first four fraction bits of 1.0 */
    memcpy(&bits, &p, sizeof bits);
    return one - (bits >> 48) < BUCKETS ? one - (bits >> 48) : BUCKETS - 1;
}

/* Keeps the tokens that rank first and sets the probability p[i] of all others to 0. A token is
 * kept if fewer than max_tokens tokens rank before it, and if the probabilities of these sum to at
 * most limit: so the token with which the sum exceeds limit is kept.
 * ids[n] is scratch. To avoid a sort, buckets are kept or dropped as a unit, by their count and
 * sum. Only the bucket in which max_tokens or limit is reached is ordered, by a heap. */
static void keep_top(double *p, int32_t *ids, size_t n, size_t max_tokens, double limit) {
    size_t count[BUCKETS] = {0}, kept = 0, end = 0, n_ids = 0;
    double sum[BUCKETS] = {0}, kept_sum = 0;
    for (size_t i = 0; i < n; i++)
        count[probability_bucket(p[i])]++, sum[probability_bucket(p[i])] += p[i];
    for (; end + 1 < BUCKETS && kept + count[end] <= max_tokens && kept_sum + sum[end] <= limit;
         end++)
        kept += count[end], kept_sum += sum[end];
    for (size_t i = 0; i < n; i++)
        if (probability_bucket(p[i]) == end) ids[n_ids++] = (int32_t)i;
        else if (probability_bucket(p[i]) > end) p[i] = 0;
    heapify(ids, n_ids, p);
    for (; n_ids && kept < max_tokens && kept_sum <= limit; kept++)
        kept_sum += p[heap_pop(ids, n_ids--, p)];
    for (size_t i = 0; i < n_ids; i++) p[ids[i]] = 0;
}

/* Writes the logits to p with the bias added and the repetition penalty applied (Keskar et al.
 * 2019, arXiv:1909.05858). The penalty applies once to each distinct token of the window. */
static void apply_penalties(llama_session *s, const sequence *q, const llama_sampler *o,
                            double *p) {
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

/* Computes the distribution that a sampler draws from and returns it, in s->probs. The sampler has
 * been checked, so at least one token is left. The steps:
 *
 *   1. add the bias and apply the repetition penalty
 *   2. at temperature 0, give the most likely token probability 1 and return
 *   3. divide by the temperature and apply softmax
 *   4. top_k: keep the k most likely tokens
 *   5. top_p: keep a token while the tokens before it have at most top_p of the probability left
 *   6. min_p: drop tokens whose probability is below min_p times that of the most likely token
 *   7. scale the probabilities to a sum of 1 */
static const double *distribute(llama_session *s, const sequence *q, const llama_sampler *o) {
    double *p = s->probs, best = 0, sum = 0;
    size_t n = s->model->vocab_size;
    apply_penalties(s, q, o, p);
    if (o->temperature == 0) { /* greedy: the highest logit; of equal logits, the lowest id */
        size_t top = 0;
        for (size_t i = 1; i < n; i++)
            if (p[i] > p[top]) top = i;
        memset(p, 0, n * sizeof *p);
        p[top] = 1;
        return p;
    }
    softmax_double(p, n, (double)o->temperature);
    if (o->top_k > 0) keep_top(p, s->ids, n, (size_t)o->top_k, HUGE_VAL);
    if (o->top_p > 0 && o->top_p < 1) { /* as Meta's example.py (Holtzman 2019, arXiv:1904.09751) */
        for (size_t i = 0; i < n; i++) sum += p[i];
        keep_top(p, s->ids, n, n, (double)o->top_p * sum);
    }
    sum = 0;
    for (size_t i = 0; i < n; i++) best = p[i] > best ? p[i] : best;
    for (size_t i = 0; i < n; i++) sum += p[i] = p[i] >= (double)o->min_p * best ? p[i] : 0;
    for (size_t i = 0; i < n; i++) p[i] /= sum;
    return p;
}

/* ---- Sampling ---- */

/* Checks that every setting of a sampler is in its range. If one is not, stores the error and
 * returns LLAMA_EINVAL. */
static int check_settings(llama_session *s, const llama_sampler *o) {
    const struct {
        const char *name;
        double value, min, max; /* a max of HUGE_VAL: any finite number */
    } settings[] = {
        {"temperature", (double)o->temperature, 0, HUGE_VAL},
        {"top_p", (double)o->top_p, 0, HUGE_VAL},
        {"min_p", (double)o->min_p, 0, 1},
        {"top_k", o->top_k, 0, HUGE_VAL},
        {"repeat_penalty", (double)o->repeat_penalty, 0, HUGE_VAL},
        {"repeat_last", o->repeat_last, -1, HUGE_VAL},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        double given = settings[i].value, min = settings[i].min, max = settings[i].max;
        if (given >= min && given <= max && given < HUGE_VAL) continue;
        return llamac_fail(&s->error, LLAMA_EINVAL, "the sampler's %s is %g; it must be %s %g%s",
                           settings[i].name, given, max < HUGE_VAL ? "from" : "finite and at least",
                           min, max < HUGE_VAL ? " to 1" : "");
    }
    size_t vocab = s->model->vocab_size, allowed = 0;
    for (size_t i = 0; o->bias && i < vocab; i++) {
        if (!(o->bias[i] < HUGE_VALF)) /* no rule says which of several such tokens to draw */
            return llamac_fail(&s->error, LLAMA_EINVAL,
                               "the bias of token %zu is %s; it must be a number or -infinity", i,
                               o->bias[i] == HUGE_VALF ? "infinite" : "NaN");
        allowed += o->bias[i] > -HUGE_VALF;
    }
    return !o->bias || allowed
               ? LLAMA_OK
               : llamac_failed(s, LLAMA_EINVAL, "the bias leaves no token: all are -infinity");
}

/* Checks a sampler and sets *o to a copy of its settings. If it is invalid, stores the error and
 * returns LLAMA_EINVAL. */
static int check_sampler(llama_session *s, const llama_sampler *given, llama_sampler *o) {
    if (!given) return llamac_failed(s, LLAMA_EINVAL, "the sampler is NULL");
    if (!llamac_copy_options(o, sizeof *o, given))
        return llamac_fail(&s->error, LLAMA_EINVAL, "the sampler: %s", no_size);
    uint64_t mode = llamac_fp_enter(); /* in the host's mode, comparing a NaN may trap */
    int status = check_settings(s, o);
    llamac_fp_leave(mode);
    return status;
}

/* Checks the arguments of a sampling function. Sets *q to the sequence and *o to a copy of the
 * settings. Returns LLAMA_EINVAL if the sequence has no logits or the sampler is invalid. */
static int check_sampling(llama_session *s, int seq, const llama_sampler *given, llama_sampler *o,
                          sequence **q) {
    *q = begin_call(s, seq);
    if (!*q) return LLAMA_EINVAL;
    if (!(*q)->have_logits)
        return llamac_fail(&s->error, LLAMA_EINVAL,
                           "sequence %d has no logits: evaluate a token first", seq);
    return check_sampler(s, given, o);
}

/* Draws a token from the probabilities p[n] by a race of exponential variates: token i arrives at
 * the time E / p[i], where E = -log u and u is uniform in (0, 1). The first to arrive is drawn: token
 * i with probability p[i]. Of equal times the lower id is first. (To add Gumbel noise to the logits
 * and take the highest is the same race, on a logarithmic clock.)
 *
 * u depends on (seed, position, id) alone. In two models that nearly agree, each token arrives at
 * nearly the same time, so both mostly draw the same token. */
static int32_t draw_token(const double *p, size_t n, uint64_t seed, size_t position) {
    uint64_t key = random_bits(random_bits(seed, 0), position);
    double first = HUGE_VAL;
    int32_t token = -1;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == 0) continue; /* filtered out */
        double u = ((double)(random_bits(key, i) >> 12) + 0.5) * 0x1p-52;
        if (1 - u >= first * p[i]) continue; /* too late, as -log u > 1 - u: this saves the log */
        double time = -log_double(u) / p[i];
        if (time < first) first = time, token = (int32_t)i;
    }
    return token;
}

LLAMAC_API int32_t llama_sample(llama_session *s, int seq, const llama_sampler *sampler) {
    llama_sampler o = {0};
    sequence *q;
    int status = check_sampling(s, seq, sampler, &o, &q);
    if (status) return status;
    uint64_t mode = llamac_fp_enter();
    int32_t token = draw_token(distribute(s, q, &o), s->model->vocab_size, o.seed, q->length);
    llamac_fp_leave(mode);
    return token;
}

LLAMAC_API int llama_probabilities(llama_session *s, int seq, const llama_sampler *sampler,
                                   float *probs) {
    llama_sampler o = {0};
    sequence *q;
    int status = check_sampling(s, seq, sampler, &o, &q);
    if (status) return status;
    if (!probs) return llamac_failed(s, LLAMA_EINVAL, "probs is NULL");
    uint64_t mode = llamac_fp_enter();
    const double *p = distribute(s, q, &o);
    for (size_t i = 0; i < s->model->vocab_size; i++) probs[i] = (float)p[i];
    llamac_fp_leave(mode);
    return LLAMA_OK;
}

/* Takes only the first k tokens from the heap, so the vocabulary is never sorted. */
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

/* ============================================================================================== */
/* IX. Text                                                                                       */
/* ============================================================================================== */

/* Guarantee: batching and guessing never change a result. Each generated text and each scored
 * continuation is bit-identical to running it alone, token by token. If the model has no tokenizer,
 * functions that need it fail or return nothing. */

/* ---- Tokenizing and detokenizing ---- */

LLAMAC_API size_t llama_utf8_next(const char *text, size_t n, int32_t *number) {
    int32_t unused;
    return llamac_utf8_next(text, n, number ? number : &unused);
}

LLAMAC_API int llama_is_control(int32_t c) { return llamac_is_control(c); }

LLAMAC_API ptrdiff_t llama_text_to_tokens(const llama *m, const char *text, size_t n,
                                          unsigned flags, int32_t *out, size_t cap) {
    const llamac_vocab *v = (m ? m->vocab : NULL);
    return v ? llamac_encode(v, &m->arena.allocator, text, n, flags, out, cap) : LLAMA_EINVAL;
}

LLAMAC_API size_t llama_min_tokens(const llama *m, size_t n) {
    return m && m->vocab ? n / llamac_vocab_widest(m->vocab) : 0;
}

LLAMAC_API size_t llama_find_special(const llama *m, const char *text, size_t n, int32_t *token) {
    int32_t id = -1;
    size_t at = m && m->vocab && text ? llamac_find_special(m->vocab, text, n, &id) : n;
    if (token) *token = id;
    return at;
}

LLAMAC_API const char *llama_token_text(const llama *m, int32_t token, size_t *n) {
    const llamac_vocab *v = (m ? m->vocab : NULL);
    if (n) *n = 0;
    return v ? llamac_piece(v, token, n) : NULL;
}

LLAMAC_API size_t llama_token_to_text(const llama *m, llama_decoder *u, int32_t token,
                                      char out[LLAMA_TEXT_MAX]) {
    const llamac_vocab *v = (m ? m->vocab : NULL);
    return v ? llamac_decode(v, u, token, out) : 0;
}

/* ---- Stop texts ---- */

/* Finds the first match of each stop text. A match is full, or partial: the text ends with the
 * beginning of the stop text. Returns the position of the earliest full match, or n. *keep is the
 * length of the longest partial match. */
LLAMAC_API size_t llama_find_stop(const char *text, size_t n, const char *const *stops,
                                  size_t n_stops, size_t *keep) {
    size_t at = n, held = 0;
    for (size_t s = 0; s < n_stops; s++)
        for (size_t i = 0, length = strlen(stops[s]); i < n; i++) {
            size_t left = n - i;
            if (memcmp(text + i, stops[s], left < length ? left : length) != 0) continue;
            if (left >= length && i < at) at = i;
            if (left < length && left > held) held = left;
            break;
        }
    if (keep) *keep = held;
    return at;
}

/* ---- Prefix reuse ---- */

/* Returns the length of the longest common prefix of a[n] and b[m]. */
static size_t common_prefix(const int32_t *a, size_t n, const int32_t *b, size_t m) {
    size_t k = 0;
    while (k < n && k < m && a[k] == b[k]) k++;
    return k;
}

/* Returns the length of the longest prefix of tokens[n] that a sequence holds in its KV cache. */
static size_t cached_prefix(const llama_session *s, int seq, const int32_t *tokens, size_t n) {
    return common_prefix(tokens, n, llama_tokens(s, seq), llama_length(s, seq));
}

/* Rewinds a sequence to the first `keep` of the n tokens it is to hold. If keep == n and the
 * sequence has no logits for them, it is rewound to n - 1, so that evaluating the last token yields
 * the logits. Returns the new length. */
static size_t rewind_to(llama_session *s, int seq, size_t keep, size_t n) {
    bool ready = llama_length(s, seq) == keep && llama_logits(s, seq);
    if (keep && keep == n && !ready) keep--;
    llama_rewind(s, seq, keep);
    return keep;
}

LLAMAC_API int llama_prefill(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    if (!begin_call(s, seq)) return LLAMA_EINVAL;
    int status = check_span(s, &(llama_span){seq, tokens, n}, 0);
    if (status) return status;
    size_t keep = rewind_to(s, seq, cached_prefix(s, seq, tokens, n), n);
    return llama_eval(s, seq, tokens + keep, n - keep);
}

/* ---- Guessing what follows ---- */

/* Reading the weights takes longer than computing with them, so a pass over the weights with several
 * tokens takes little longer than with one. llama_generate guesses what follows a text, and evaluates
 * the guesses together with the text's last token. Then the sampler draws as always, and continues
 * while the token drawn equals the guess. This is speculative decoding (Leviathan et al. 2023,
 * arXiv:2211.17192) without a rule for what to accept: the logits are the same to the bit, and a draw
 * depends on the seed and the position alone. A wrong guess costs time, nothing else.
 *
 * There are three ways to make a pass:
 *
 *   SINGLY      without guesses
 *   LOOKED_UP   guesses are what followed when the last tokens of the text occurred before, in the
 *               same text or in another sequence
 *   DRAFTED     the draft model draws the guesses: a smaller model with the same vocabulary
 *
 * The way and the number of guesses follow from how long passes take in this session, and from how
 * many guesses came true. So the number of passes may differ from run to run; no text does. */

/* A text, and what may follow it. */
typedef struct {
    size_t left;          /* tokens that may still be drawn; 0: there is no text in this sequence */
    size_t undrafted;     /* tokens of the text that the draft model has not evaluated */
    const int32_t *found; /* [n_found] tokens looked up */
    size_t n_found;
    int source;   /* in guessing.tried: the source of the tokens looked up */
    size_t n;     /* guesses in the next pass */
    bool drafted; /* they are the draft model's */
} proposal;

enum {
    MIN_MATCH = 3, /* tokens of a text that have to occur before: those of the index */
    MAX_MATCH = 32 /* a longer match counts as this long */
};
static const uint32_t UNINDEXED = UINT32_MAX;

/* Returns the hash of the three tokens that end at position p. A token has 20 bits. */
static size_t hash_tokens(const llama_session *s, const int32_t *tokens, size_t p) {
    uint64_t three = (uint64_t)tokens[p] << 40 | (uint64_t)tokens[p - 1] << 20;
    return ((three | (uint64_t)tokens[p - 2]) * 0x9e3779b97f4a7c15) >> (64 - s->guess.index_bits);
}

/* Adds the new tokens of a sequence to its index. Positions from which the sequence was rewound may
 * still be in chains, and a chain may continue in that of another hash, so look_up compares the
 * tokens. Chains always lead to lower positions, so they end. */
static void update_index(const llama_session *s, sequence *q) {
    size_t p = q->indexed;
    if (p == 0 && q->length) memset(q->newest, 0xff, sizeof *q->newest << s->guess.index_bits);
    for (; p < q->length; p++) {
        if (p + 1 < MIN_MATCH) continue;
        uint32_t *newest = &q->newest[hash_tokens(s, q->tokens, p)], older = *newest;
        while (older != UNINDEXED && older >= p) older = q->before[older];
        q->before[p] = older;
        *newest = (uint32_t)p;
    }
    q->indexed = p;
}

/* Finds where the last tokens of a text occurred before, and sets what followed there. The text is
 * that of sequence k and the token after it, which was drawn. Looks at the newest few places in each
 * of the n sequences, in its own first, and takes the longest match. */
static void look_up(const llama_session *s, int k, int n, proposal *g) {
    enum { PLACES = 16 };
    const sequence *own = &s->sequences[k];
    const int32_t *text = own->tokens;
    size_t last = own->length, longest = MIN_MATCH - 1; /* last: position of the last token */
    if (last < MIN_MATCH - 1) return;
    size_t hash = hash_tokens(s, text, last);
    for (int i = 0; i < n; i++) {
        const sequence *in = &s->sequences[(k + i) % n];
        size_t end = in == own ? last + 1 : in->length;
        uint32_t p = in->indexed ? in->newest[hash] : UNINDEXED;
        for (int place = 0; place < PLACES && p != UNINDEXED; place++, p = in->before[p]) {
            size_t match = 0;
            while (match < MAX_MATCH && match <= p && match <= last &&
                   in->tokens[p - match] == text[last - match])
                match++;
            if (match <= longest || p + 1 >= end) continue;
            longest = match;
            g->source = (match > 3) + (match > 7) + (match > 15);
            g->found = in->tokens + p + 1;
            g->n_found = in == own ? SIZE_MAX : end - (p + 1); /* its own may run on into guesses */
        }
    }
}

/* Counts whether a guess was the token drawn. Older guesses count less. */
static void count_guess(guessing *g, int source, bool right) {
    enum { RECENT = 64 };
    if (g->tried[source] >= RECENT) g->tried[source] /= 2, g->right[source] /= 2;
    g->tried[source]++;
    g->right[source] += right;
}

/* Returns the share of a source's guesses that come true: 1/2 before any were made. It never becomes
 * 0. For the draft model it is 3/4 at first, but a miss counts more, because a trial costs more. */
static double share_of(const guessing *g, int source) {
    double tried = source == DRAFT ? 1 : 2, right = source == DRAFT ? 0.75 : 1;
    return (right + g->right[source]) / (tried + g->tried[source]);
}

/* Returns how long a pass with `rows` rows takes: the lowest bound that follows from the passes that
 * were timed. It takes no longer than the next larger one, and no longer per row than a smaller one.
 * If all had fewer rows, a further row is said to take little, so that it is tried. */
static double predict_pass(const guessing *g, size_t rows) {
    double time = 0, extra = rows > g->max_rows ? (double)(rows - g->max_rows) : 0;
    if (extra > 0) rows = g->max_rows;
    for (size_t i = 1; i <= g->max_rows; i++) {
        double bound = g->pass_time[i] * (i < rows ? (double)rows / (double)i : 1);
        if (bound > 0 && (time <= 0 || bound < time)) time = bound;
        if (bound > 0 && i > rows) break;
    }
    return time * (1 + extra / (16 + (double)rows));
}

/* Returns how long the draft model takes for `rows` rows. */
static double predict_draft(const llama_session *s, size_t rows) {
    const llama_session *d = s->guess.drafter;
    if (d->guess.max_rows) return predict_pass(&d->guess, rows);
    return predict_pass(&s->guess, rows) * (double)d->model->token_bytes /
           (double)s->model->token_bytes *
           (double)s->ranks; /* of which each has a share of the model */
}

/* Notes how long a pass of s, or of its draft model's session, with `rows` rows took, in nanoseconds.
 * The first passes, which may read the files, do not count. The mean follows a faster pass more
 * quickly than a slower one, because interruptions only make passes slower. A pass counts at most
 * three times what was expected. */
static void note_pass(llama_session *s, llama_session *of, size_t rows, double time) {
    enum { COLD = 2 };
    guessing *g = &of->guess;
    if (rows == 0 || rows > MAX_TEXT_ROWS || g->timed++ < COLD) return;
    uint64_t mode = llamac_fp_enter();
    double *mean = &g->pass_time[rows];
    if (time < 1) time = 1;
    double expected = of == s ? predict_pass(g, rows) : predict_draft(s, rows);
    if (rows > g->max_rows) g->max_rows = rows;
    if (expected > 0 && time > 3 * expected) time = 3 * expected;
    *mean = *mean > 0 ? *mean + (time - *mean) * (time < *mean ? 0.75 : 0.25) : time;
    llamac_fp_leave(mode);
}

/* The guesses of a pass, and what is expected of it. */
typedef struct {
    unsigned char n[MAX_CONCURRENT]; /* guesses for the text of each sequence */
    double tokens, time; /* tokens drawn after it; ns that it takes, drafting included */
    double rate;         /* tokens per ns in the long run; 0: there is no such plan */
} plan;

/* Finds the guesses that give the most tokens per time in one way to make a pass: adds the most
 * likely guess again and again. A guess comes true if its source is right and the guesses of its text
 * before it came true. */
static plan plan_pass(const llama_session *s, const proposal *g, int sequences, int way) {
    double share[MAX_CONCURRENT], chance[MAX_CONCURRENT]; /* of the next guess to come true */
    size_t most[MAX_CONCURRENT], texts = 0, undrafted = 0, depth = 0;
    double left = 0;
    plan p = {.tokens = 0}, best = {.rate = 0};
    for (int k = 0; k < sequences; k++) {
        int source = way == DRAFTED ? DRAFT : g[k].source;
        most[k] = way == LOOKED_UP ? g[k].n_found : way == DRAFTED && g[k].left ? g[k].left - 1 : 0;
        share[k] = share_of(&s->guess, source);
        chance[k] = most[k] ? share[k] : 0;
        texts += g[k].left > 0;
        undrafted += g[k].undrafted;
        left += (double)g[k].left;
    }
    /* A pass of the draft model guesses a token of each text. The first one also evaluates what the
     * model has not seen yet; that is of use for all tokens that are left. */
    double step = way == DRAFTED ? predict_draft(s, texts) : 0;
    double once = way == DRAFTED ? predict_draft(s, undrafted) - step : 0;
    p.tokens = (double)texts;
    for (size_t n = 0; texts && n <= MAX_GUESSES; n++) {
        double usual = predict_pass(&s->guess, texts + n) + step * (double)depth;
        p.time = usual + once;
        p.rate = p.tokens / (usual + once * p.tokens / left);
        if ((n > 0 || way == SINGLY) && p.rate > best.rate) best = p;
        int k = 0;
        for (int i = 1; i < sequences; i++) k = chance[i] > chance[k] ? i : k;
        if (chance[k] < 0.01 || texts + n >= 2 * s->guess.max_rows) break;
        p.tokens += chance[k];
        chance[k] *= ++p.n[k] < most[k] ? share[k] : 0;
        if (p.n[k] > depth) depth++;
    }
    return best;
}

/* Chooses the guesses of the next pass: those of the way that gives the most tokens per time. Another
 * way is tried when that costs less than 1% of the time since it was used. Each trial doubles the
 * wait before the next one, up to a limit, until the way is the best. */
static void choose_guesses(llama_session *s, proposal *g, int sequences) {
    enum { RARELY = 200, MOST = 8 };
    guessing *learnt = &s->guess;
    plan plans[WAYS] = {{.rate = 0}};
    int best = SINGLY, ways = learnt->drafter ? WAYS : DRAFTED;
    for (int way = 0; way < ways; way++) {
        plans[way] = plan_pass(s, g, sequences, way);
        if (plans[way].rate > plans[best].rate) best = way;
    }
    int used = best;
    for (int way = 0; way < ways; way++) {
        double *patience = &learnt->patience[way];
        if (way == best) *patience = 1;
        if (way == best || used != best || plans[way].rate <= 0) continue;
        double lost = plans[way].time - plans[way].tokens / plans[best].rate;
        if (learnt->idle[way] < RARELY * *patience * (lost + plans[SINGLY].time / 16)) continue;
        used = way;
        if (*patience < MOST) *patience *= 2;
    }
    for (int way = 0; way < WAYS; way++) learnt->idle[way] += plans[used].time;
    learnt->idle[used] = 0;
    for (int k = 0; k < sequences; k++) g[k].n = plans[used].n[k], g[k].drafted = used == DRAFTED;
}

/* Lets the draft model draw the guesses, for all texts together, with each text's sampler, seed and
 * positions. First evaluates the tokens that its sequences do not have yet. If it fails, it is not
 * used again. Returns LLAMA_OK; LLAMA_ECANCEL if the host cancels; LLAMA_EIO of agree_on_time. */
static int draw_guesses(llama_session *s, llama_request *const *running, int sequences,
                        proposal *g) {
    llama_span spans[MAX_CONCURRENT];
    llama_session *d = s->guess.drafter;
    int status = LLAMA_OK;
    for (size_t depth = 0, n = 1; n && status == LLAMA_OK; depth++) {
        size_t rows = n = 0;
        for (int k = 0; k < sequences; k++) {
            if (g[k].n <= depth) continue;
            const int32_t *tokens = s->sequences[k].tokens;
            size_t known = s->sequences[k].length + 1 + depth, seen = known - 1;
            if (!depth) seen = rewind_to(d, k, cached_prefix(d, k, tokens, known), known);
            rows += known - seen;
            spans[n++] = (llama_span){k, tokens + seen, known - seen};
        }
        if (!n) break;
        uint64_t start = llamac_nanoseconds();
        s->busy = true;
        status = evaluate(d, spans, NULL, n, NULL, NULL, "text");
        end_busy(s, LLAMA_OK);
        double time = status ? -1 : (double)(llamac_nanoseconds() - start);
        if (agree_on_time(s, &time)) return s->stopped;
        if (time >= 0) note_pass(s, d, rows, time);
        else if (status == LLAMA_OK) status = LLAMA_EIO; /* another rank's draft model failed */
        for (size_t i = 0; i < n; i++) {
            int k = spans[i].seq;
            int32_t token = status ? -1 : llama_sample(d, k, &running[k]->sampler);
            if (token < 0) g[k].n = depth;
            else s->sequences[k].tokens[s->sequences[k].length + 1 + depth] = token;
            if (token >= 0 && llama_is_end(s->model, token)) g[k].n = depth + 1;
        }
    }
    if (status == LLAMA_ECANCEL) return llamac_failed(s, status, d->error.text);
    if (status) s->guess.drafter = NULL;
    return LLAMA_OK;
}

/* Makes the guesses of the next pass: sets g[sequences]. running[k] is the request of sequence k, or
 * NULL. In the memory of its sequence, the last token of a text, which was drawn, comes after the
 * tokens of the sequence, and the guesses come after it. A pass with a prompt has no guesses. Returns
 * LLAMA_OK, or LLAMA_ECANCEL if the host cancels. */
static int make_guesses(llama_session *s, llama_request *const *running, int sequences,
                        proposal *g) {
    const guessing *learnt = &s->guess;
    int status = LLAMA_OK;
    bool useful = can_guess(s) && learnt->max_rows > 0 && (learnt->lookup || learnt->drafter);
    memset(g, 0, (size_t)sequences * sizeof *g);
    for (int k = 0; k < sequences; k++) useful &= !running[k] || running[k]->generated;
    if (!useful) return LLAMA_OK;
    uint64_t mode = llamac_fp_enter();
    for (int k = 0; k < sequences && learnt->lookup; k++) update_index(s, &s->sequences[k]);
    for (int k = 0; k < sequences; k++) {
        sequence *q = &s->sequences[k];
        const llama_request *r = running[k];
        if (!r || r->max_tokens <= r->generated || q->length >= s->context) continue;
        q->tokens[q->length] = r->token;
        g[k].left = r->max_tokens - r->generated; /* the host may have changed max_tokens */
        if (g[k].left > s->context - q->length) g[k].left = s->context - q->length;
        if (learnt->lookup) look_up(s, k, sequences, &g[k]);
        if (g[k].n_found > g[k].left - 1) g[k].n_found = g[k].left - 1;
        if (learnt->drafter)
            g[k].undrafted =
                q->length + 1 - cached_prefix(learnt->drafter, k, q->tokens, q->length + 1);
    }
    choose_guesses(s, g, sequences);
    for (int k = 0; k < sequences; k++)
        for (size_t i = 0; i < g[k].n; i++)
            if (!g[k].drafted)
                s->sequences[k].tokens[s->sequences[k].length + 1 + i] = g[k].found[i];
    if (sequences && g[0].drafted) status = draw_guesses(s, running, sequences, g);
    llamac_fp_leave(mode);
    return status;
}

/* ---- Generating ---- */

enum { MIN_PREFIX = 8 }; /* tokens; a shorter prefix is not worth copying or waiting for */

/* Starts a request in a free sequence. running[k] is the request of sequence k; NULL: it is free.
 * The request takes the free sequence that loses the fewest cached tokens, so that the texts of
 * several users stay cached. If another sequence has a longer prefix of the prompt cached, that
 * prefix is copied.
 *
 * Returns false if the request has to wait: no sequence is free, or a prompt evaluated in the next
 * pass shares a prefix with it that is longer than the cached one by more than MIN_PREFIX tokens,
 * or that is all of its prompt. */
static bool start_request(llama_session *s, llama_request *t, llama_request **running,
                          int sequences) {
    size_t cached = 0, pending = 0, n = t->n_prompt; /* prefixes: cached now, after the next pass */
    size_t lost = SIZE_MAX, own = 0;                 /* tokens of `to`: lost, kept */
    int from = 0, to = -1;
    for (int k = 0; k < sequences; k++) {
        size_t match = cached_prefix(s, k, t->prompt, n), rest = llama_length(s, k) - match;
        if (match > cached) cached = match, from = k;
        if (!running[k] && (rest < lost || (rest == lost && match > own)))
            to = k, lost = rest, own = match;
        size_t shared = running[k] && running[k]->generated == 0
                            ? common_prefix(t->prompt, n, running[k]->prompt, running[k]->n_prompt)
                            : 0;
        if (shared > pending) pending = shared;
    }
    if (to < 0 || pending > cached + MIN_PREFIX || (pending == n && pending > cached)) return false;
    if (cached > own && (cached >= MIN_PREFIX || cached == n)) llama_fork(s, to, from);
    else cached = own;
    running[to] = t;
    t->seq = to;
    t->finish_reason = LLAMA_FINISH_NONE;
    t->generated = t->passes = t->drafted = t->accepted = 0;
    t->cached_tokens = rewind_to(s, to, cached, n);
    return true;
}

/* Passes n bytes of a request's text to the host's callback and returns its answer. Reports an
 * answer below 0, which is an error. */
static int deliver(llama_session *s, llama_request *t, llama_request_fn fn, void *user,
                   const char *text, size_t n) {
    s->busy = true;
    int answer = fn(user, t, text, n);
    end_busy(s, LLAMA_OK);
    return answer < 0 ? llamac_fail(&s->error, answer, "the callback returned %d", answer) : answer;
}

/* Samples the next token of a request whose sequence has logits and passes its text to fn. If the
 * request ends, sets finish_reason and calls fn once more, with the text that is still pending in
 * the decoder. Returns LLAMA_OK, or the negative code of llama_sample or fn. */
static int next_token(llama_session *s, llama_request *t, llama_request_fn fn, void *user) {
    const llama *m = s->model;
    char text[LLAMA_TEXT_MAX];
    int answer = 0; /* of fn: 0 continue, > 0 stop this text, < 0 an error */
    if (t->max_tokens == 0) t->finish_reason = LLAMA_FINISH_LENGTH;
    else if ((t->token = llama_sample(s, t->seq, &t->sampler)) < 0) return t->token;
    else if (llama_is_end(m, t->token)) t->finish_reason = LLAMA_FINISH_EOS;
    if (!t->finish_reason) {
        t->generated++;
        answer = deliver(s, t, fn, user, text, llama_token_to_text(m, &t->utf8, t->token, text));
        if (answer < 0) return answer;
        if (answer > 0) t->finish_reason = LLAMA_FINISH_STOP;
        else if (t->generated == t->max_tokens) t->finish_reason = LLAMA_FINISH_LENGTH;
        if (!t->finish_reason) return LLAMA_OK;
    }
    answer = deliver(s, t, fn, user, text,
                     answer > 0 ? 0 : llama_token_to_text(m, &t->utf8, LLAMA_FLUSH, text));
    return answer < 0 ? answer : LLAMA_OK;
}

/* Checks a request. If it is invalid, or does not fit in the context, stores the error and returns
 * its status. */
static int check_request(llama_session *s, const llama_request *t) {
    llama_sampler o;
    if (t->n_prompt && !t->prompt) return llamac_failed(s, LLAMA_EINVAL, "its prompt is NULL");
    if (!t->n_prompt && t->max_tokens)
        return llamac_failed(s, LLAMA_EINVAL, "its prompt is empty; give at least BOS");
    if (t->n_prompt > s->context || t->max_tokens > s->context - t->n_prompt + 1)
        return llamac_fail(&s->error, LLAMA_EFULL,
                           "its prompt of %zu tokens and max_tokens of %zu do not fit in the "
                           "context of %zu positions",
                           t->n_prompt, t->max_tokens, s->context);
    int status = check_tokens(s, t->prompt, t->n_prompt);
    return status || !t->max_tokens ? status : check_sampler(s, &t->sampler, &o);
}

/* Draws the next token of a request and, while its guesses are the tokens drawn, the one after it.
 * Counts the first token looked up, which costs nothing, and all guesses of the draft model. Returns
 * LLAMA_OK, or the negative code of llama_sample or fn. */
static int next_tokens(llama_session *s, sequence *q, llama_request *t, const proposal *g,
                       llama_request_fn fn, void *user) {
    int status;
    const int32_t *found = g->n_found ? g->found : NULL;
    t->passes += t->max_tokens > 0;
    t->drafted += q->n_guesses;
    while ((status = next_token(s, t, fn, user)) == LLAMA_OK && !t->finish_reason) {
        if (found) count_guess(&s->guess, g->source, *found == t->token);
        if (g->drafted && q->n_guesses)
            count_guess(&s->guess, DRAFT, q->tokens[q->length] == t->token);
        if (!accept_guess(s, q, t->token)) break;
        t->accepted++;
        found = NULL;
    }
    return status;
}

/* Each turn of the loop starts requests, evaluates one batch and draws the tokens of each running
 * request. */
LLAMAC_API int llama_generate(llama_session *s, llama_request *requests, size_t n,
                              llama_request_fn fn, void *user) {
    llama_request *running[MAX_CONCURRENT] = {NULL}; /* by sequence; NULL: the sequence is free */
    proposal proposals[MAX_CONCURRENT];              /* by sequence */
    llama_span spans[MAX_CONCURRENT];
    size_t guessed[MAX_CONCURRENT]; /* number of guesses in each span */
    int sequences = 0, status = LLAMA_OK;
    if (begin(s)) return LLAMA_EINVAL;
    if (!fn) return llamac_failed(s, LLAMA_EINVAL, "the callback is NULL");
    if (n && !requests) return llamac_failed(s, LLAMA_EINVAL, "the requests are NULL");
    for (size_t i = 0; i < n && status == LLAMA_OK; i++)
        status = name_in_error(s, "request", i, check_request(s, &requests[i]));
    if (status) return status;
    while (sequences < MAX_CONCURRENT && llama_tokens(s, sequences)) sequences++;
    for (size_t next = 0, n_spans = 1; n_spans && status == LLAMA_OK;) {
        while (next < n && start_request(s, &requests[next], running, sequences)) next++;
        if ((status = make_guesses(s, running, sequences, proposals))) break;
        /* The batch: the uncached tokens of each new prompt, the last token of each other text and
         * the guesses after it */
        size_t rows = n_spans = 0;
        bool prompts = false;
        for (int k = 0; k < sequences; k++) {
            const llama_request *t = running[k];
            const int32_t *end = s->sequences[k].tokens + s->sequences[k].length;
            if (!t) continue;
            prompts |= t->generated == 0;
            guessed[n_spans] = proposals[k].n;
            if (!t->generated)
                spans[n_spans] =
                    (llama_span){k, t->prompt + t->cached_tokens, t->n_prompt - t->cached_tokens};
            else if (proposals[k].n) spans[n_spans] = (llama_span){k, end, 1 + proposals[k].n};
            else spans[n_spans] = (llama_span){k, &t->token, 1};
            rows += spans[n_spans++].n;
        }
        uint64_t start = llamac_nanoseconds();
        status = evaluate(s, spans, guessed, n_spans, NULL, NULL, prompts ? "prompt" : "text");
        double time = (double)(llamac_nanoseconds() - start);
        if (status == LLAMA_OK && !prompts && (status = agree_on_time(s, &time)) == LLAMA_OK)
            note_pass(s, s, rows, time);
        for (int k = 0; k < sequences && status == LLAMA_OK; k++) {
            if (running[k])
                status = next_tokens(s, &s->sequences[k], running[k], &proposals[k], fn, user);
            if (running[k] && running[k]->finish_reason) running[k] = NULL;
        }
    }
    return status;
}

/* ---- Log-likelihood of continuations ---- */

/* A continuation is the field `ending` of llama_continuation. The first CONTEXTS sequences hold
 * contexts. Each further sequence holds a copy of a context, followed by one continuation. */
enum { CONTEXTS = 2 };

/* Tokenizes a context and its continuation into *tokens, [given + tokens], as Language Model
 * Evaluation Harness does:
 *
 *   alone   the tokens of <s> context, without trailing white space: `given` of them
 *   joint   the tokens of <s> context continuation, as one text
 *   result  alone, followed by joint without its first `given` tokens
 *
 * If joint has no more tokens than alone, the result is joint, and its last token is the
 * continuation's. Fails with LLAMA_EINVAL if a text is NULL or there are no tokens, with
 * LLAMA_ENOMEM, or as llama_text_to_tokens does; then writes the reason to err, if it is not
 * NULL. */
static int tokenize_continuation(const llama *m, llama_continuation *e, int32_t **tokens,
                                 llamac_arena *arena, llama_error *err) {
    size_t n = e->n_context + e->n_ending;
    static const char no_memory[] = "out of memory for the continuations";
    if ((!e->context && e->n_context) || (!e->ending && e->n_ending))
        return llamac_fail(err, LLAMA_EINVAL, "its %s is NULL",
                           !e->context && e->n_context ? "context" : "ending");
    if ((e->n_context | e->n_ending) > PTRDIFF_MAX / 64)
        return llamac_fail(err, LLAMA_ENOMEM, no_memory);
    char *text = llamac_new(arena, n, 1);
    if (!text) return llamac_fail(err, LLAMA_ENOMEM, no_memory);
    if (e->n_context) memcpy(text, e->context, e->n_context);
    if (e->n_ending) memcpy(text + e->n_context, e->ending, e->n_ending);
    size_t trimmed = llamac_trimmed_length(text, e->n_context);
    ptrdiff_t given = llama_text_to_tokens(m, text, trimmed, LLAMA_ADD_BOS, NULL, 0);
    ptrdiff_t joint = llama_text_to_tokens(m, text, n, LLAMA_ADD_BOS, NULL, 0);
    if (given <= 0 || joint <= 0) {
        int status = given < 0 ? (int)given : joint < 0 ? (int)joint : LLAMA_EINVAL;
        return llamac_fail(err, status, "it cannot be tokenized: %s",
                           !m->vocab    ? "the model has no tokenizer"
                           : joint == 0 ? "it is empty"
                           : given == 0 ? "its context is empty, and the model adds no BOS"
                                        : llama_strerror(status));
    }
    size_t larger = (size_t)(given < joint ? joint : given);
    if (!(*tokens = llamac_new(arena, larger, sizeof **tokens)))
        return llamac_fail(err, LLAMA_ENOMEM, no_memory);
    /* alone is shorter than joint, or not used; it replaces the beginning of joint */
    ptrdiff_t status = llama_text_to_tokens(m, text, n, LLAMA_ADD_BOS, *tokens, larger);
    if (given >= joint) given = joint - 1;
    else if (status >= 0)
        status = llama_text_to_tokens(m, text, trimmed, LLAMA_ADD_BOS, *tokens, (size_t)given);
    if (status < 0) return llamac_fail(err, (int)status, no_memory);
    e->given = (size_t)given;
    e->tokens = (size_t)(joint - given);
    return LLAMA_OK;
}

/* Returns the sequence, 0 or 1, that is to hold a context: the one with the longer cached prefix of
 * it. If sequence 0 holds a different context and sequence 1 is empty, returns 1. */
static int context_sequence(const llama_session *s, const int32_t *tokens, size_t n) {
    size_t first = cached_prefix(s, 0, tokens, n), second = cached_prefix(s, 1, tokens, n);
    return second > first || (first < MIN_PREFIX && llama_length(s, 1) == 0 && llama_length(s, 0));
}

/* A context of a group of continuations: which continuation has it first, and its tokens. */
typedef struct {
    size_t first, n;
    const int32_t *tokens;
    bool evaluated;
} shared_context;

/* Some continuations, which have room in the session together. */
typedef struct {
    llama_continuation *continuations;
    size_t n, n_contexts, left; /* left: contexts that are not evaluated */
    size_t scored;              /* tokens of all continuations */
    shared_context contexts[MAX_CONCURRENT];
    const shared_context *context_of[MAX_CONCURRENT]; /* [n] */
    const int32_t *tokens[MAX_CONCURRENT];            /* [n] of the context and the continuation */
} continuation_group;

/* Tokenizes the continuations of a group and finds the contexts that differ. Errors name a
 * continuation by its index; that of the first one is `index`. */
static int begin_group(llama_session *s, continuation_group *g, size_t index, llamac_arena *arena) {
    for (size_t k = 0; k < g->n; k++) {
        llama_continuation *e = &g->continuations[k];
        int32_t *tokens;
        clear_error(s);
        int status = tokenize_continuation(s->model, e, &tokens, arena, &s->error);
        if (status == LLAMA_OK && e->given + e->tokens > s->context)
            status = llamac_fail(&s->error, LLAMA_EFULL,
                                 "its context of %zu tokens and its ending of %zu do not fit in "
                                 "the session's context of %zu positions",
                                 e->given, e->tokens, s->context);
        if (status) return name_in_error(s, "continuation", index + k, status);
        size_t i = 0, bytes = e->given * sizeof *tokens;
        while (i < g->n_contexts &&
               (g->contexts[i].n != e->given || memcmp(g->contexts[i].tokens, tokens, bytes) != 0))
            i++;
        if (i == g->n_contexts)
            g->contexts[g->n_contexts++] = (shared_context){k, e->given, tokens, false};
        g->context_of[k] = &g->contexts[i];
        g->tokens[k] = tokens;
        g->scored += e->tokens;
    }
    g->left = g->n_contexts;
    return LLAMA_OK;
}

/* Returns the longest prefix of tokens[n] that a sequence holds, one of those for contexts or of the
 * group's contexts that are evaluated, and sets *from to that sequence. */
static size_t longest_prefix(const llama_session *s, const continuation_group *g,
                             const int32_t *tokens, size_t n, int *from) {
    size_t longest = cached_prefix(s, *from = 0, tokens, n), other;
    if ((other = cached_prefix(s, 1, tokens, n)) > longest) longest = other, *from = 1;
    for (const shared_context *c = g->contexts; c < g->contexts + g->n_contexts; c++) {
        if (!c->evaluated) continue;
        other = common_prefix(tokens, n, c->tokens, c->n);
        if (other > longest) longest = other, *from = CONTEXTS + (int)c->first;
    }
    return longest;
}

/* Makes a context's sequence hold the longest prefix of it that is cached. Returns false if the context
 * waits: it shares a longer prefix, such as examples in front of the question, with one that is not
 * evaluated yet. */
static bool begin_context(llama_session *s, const continuation_group *g, const shared_context *c) {
    int from, to = CONTEXTS + (int)c->first;
    size_t cached = longest_prefix(s, g, c->tokens, c->n, &from);
    for (const shared_context *before = g->contexts; before < c; before++)
        if (!before->evaluated &&
            common_prefix(c->tokens, c->n, before->tokens, before->n) > cached + MIN_PREFIX)
            return false;
    if (cached >= MIN_PREFIX || cached == c->n) llama_fork(s, to, from);
    else cached = 0;
    rewind_to(s, to, cached, c->n);
    return true;
}

/* Makes sequence `seq` begin with tokens[n], of which the sequence `leader` holds the first ones and
 * gets the others in the next call: store_kv and score_rows copy what comes of them. */
static void follow(llama_session *s, int seq, int leader, const int32_t *tokens, size_t n) {
    sequence *q = &s->sequences[seq], *l = &s->sequences[leader];
    copy_sequence(s, q, l, s->context);
    q->leader = NULL;
    if (l->length == n) return;
    memcpy(q->tokens, tokens, n * sizeof *tokens);
    q->length = n;
    q->have_logits = true;
    q->leader = l;
    l->shared = n;
}

/* Scores the continuations of all contexts that need not wait, in one pass over the weights. The first
 * continuation of a context comes after it in one span; the others follow its sequence. */
static int score_contexts(llama_session *s, continuation_group *g, llamac_arena *arena) {
    llama_span spans[MAX_CONCURRENT];
    shared_context *contexts[MAX_CONCURRENT]; /* of this pass */
    size_t n_contexts = 0, n_spans = 0, scored[MAX_CONCURRENT];
    float *logprob = llamac_new(arena, g->scored, sizeof *logprob);
    int32_t *rank = llamac_new(arena, g->scored, sizeof *rank);
    if (!logprob || !rank)
        return llamac_failed(s, LLAMA_ENOMEM, "out of memory for the continuations");
    for (shared_context *c = g->contexts; c < g->contexts + g->n_contexts; c++) {
        if (c->evaluated || !begin_context(s, g, c)) continue;
        contexts[n_contexts++] = c;
        int leader = CONTEXTS + (int)c->first;
        for (size_t k = c->first; k < g->n; k++) {
            if (g->context_of[k] != c) continue;
            int seq = CONTEXTS + (int)k;
            if (seq != leader) follow(s, seq, leader, c->tokens, c->n);
            size_t held = s->sequences[seq].length;
            scored[n_spans] = g->continuations[k].tokens;
            spans[n_spans++] =
                (llama_span){seq, g->tokens[k] + held, c->n - held + g->continuations[k].tokens};
        }
    }
    /* For the next group, the last contexts stay. */
    for (size_t i = n_contexts < CONTEXTS ? 0 : n_contexts - CONTEXTS; i < n_contexts; i++) {
        const shared_context *c = contexts[i];
        follow(s, context_sequence(s, c->tokens, c->n), CONTEXTS + (int)c->first, c->tokens, c->n);
    }
    int status = evaluate(s, spans, scored, n_spans, logprob, rank, "prompt");
    for (sequence *q = s->sequences; q < s->sequences + s->n_sequences; q++) {
        q->leader = NULL;
        q->shared = 0;
        if (status)
            q->length = q->indexed = 0, q->have_logits = false; /* it may not hold its text */
    }
    for (size_t i = 0; i < n_contexts; i++, g->left--) contexts[i]->evaluated = true;
    uint64_t mode = llamac_fp_enter();
    for (size_t i = 0; i < n_spans && status == LLAMA_OK; i++) {
        llama_continuation *e = &g->continuations[spans[i].seq - CONTEXTS];
        e->logprob = 0;
        e->greedy = 1;
        for (size_t t = 0; t < e->tokens; t++)
            e->logprob += (double)*logprob++, e->greedy &= *rank++ == 0;
    }
    llamac_fp_leave(mode);
    return status;
}

LLAMAC_API int llama_loglikelihood(llama_session *s, llama_continuation *e, size_t n) {
    int status = LLAMA_OK;
    if (begin(s)) return LLAMA_EINVAL;
    if (n && !e) return llamac_failed(s, LLAMA_EINVAL, "the continuations are NULL");
    if (s->n_sequences <= CONTEXTS)
        return llamac_fail(&s->error, LLAMA_EINVAL,
                           "scoring continuations needs a session of 3 sequences or more; this one "
                           "has %zu",
                           s->n_sequences);
    size_t capacity = s->n_sequences - CONTEXTS;
    if (capacity > MAX_CONCURRENT) capacity = MAX_CONCURRENT;
    for (size_t i = 0, group; i < n && status == LLAMA_OK; i += group) {
        llamac_arena arena = {s->model->arena.allocator, NULL};
        group = n - i < capacity ? n - i : capacity;
        continuation_group g = {.continuations = e + i, .n = group};
        status = begin_group(s, &g, i, &arena);
        while (g.left && status == LLAMA_OK) status = score_contexts(s, &g, &arena);
        llamac_free_all(&arena);
    }
    return status;
}

LLAMAC_API int llama_count_continuation(const llama *m, llama_continuation *e, size_t n) {
    int status = m && (!n || e) ? LLAMA_OK : LLAMA_EINVAL;
    for (size_t i = 0; i < n && status == LLAMA_OK; i++) {
        llamac_arena arena = {m->arena.allocator, NULL};
        int32_t *tokens;
        status = tokenize_continuation(m, &e[i], &tokens, &arena, NULL);
        llamac_free_all(&arena);
    }
    return status;
}

/* ============================================================================================== */
/* X. The library                                                                                 */
/* ============================================================================================== */

/* Guarantee: these functions need no model, allocate nothing and return constants. */

/* Only the llama_error of the failed call says which file and why. */
LLAMAC_API const char *llama_strerror(int status) {
    static const char *const texts[] = {
        [-LLAMA_OK] = "no error",
        [-LLAMA_EINVAL] = "invalid argument",
        [-LLAMA_EIO] = "reading or writing failed",
        [-LLAMA_EFORMAT] = "the file is damaged or of an unsupported format",
        [-LLAMA_ENOMEM] = "out of memory",
        [-LLAMA_EFULL] = "the context is full",
        [-LLAMA_ECANCEL] = "cancelled",
        [-LLAMA_EMISMATCH] = "the saved state is of another model, numerics or version",
        [-LLAMA_ENUMERIC] = "the logits are not finite",
    };
    return status <= LLAMA_OK && status >= LLAMA_ENUMERIC ? texts[-status] : "unknown error";
}

LLAMAC_API int llama_release(void) { return LLAMA_RELEASE; }

LLAMAC_API const char *llama_build(void) {
    return
#if defined(__clang__)
        "clang " __clang_version__
#else
        "gcc " __VERSION__
#endif
#if defined(__x86_64__)
        ", kernels scalar avx2 avx512 amx"
#elif defined(__aarch64__)
        ", kernels scalar neon"
#else
        ", kernels scalar"
#endif
#ifdef LLAMA_OPENMP
        ", OpenMP";
#else
        ", " LLAMAC_THREADS;
#endif
}

#if !defined(__clang__)
#pragma GCC pop_options
#endif
#endif /* LLAMA_COMMON_ONLY */
#endif /* LLAMA_PASS */
