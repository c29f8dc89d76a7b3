/* llama.h - run LLaMA models on a CPU, straight from the files Meta shipped.
 *
 *     #include <stdio.h>
 *     #include "llama.h"
 *
 *     int main(void) {
 *         llama *model;
 *         llama_session *s;
 *         llama_error err;
 *         llama_utf8 utf8 = {.started = 1};
 *         llama_sampler sampler = {.size = sizeof sampler, .temperature = 0.8f, .top_p = 0.95f};
 *         if (llama_open(&model, "LLaMA/7B", NULL, &err) ||
 *             llama_session_new(&s, model, NULL, &err))
 *             return fprintf(stderr, "%s\n", err.text), 1;
 *         int32_t t[256];
 *         char text[LLAMA_TEXT_MAX];
 *         const char *prompt = "I believe the meaning of life is";
 *         ptrdiff_t n = llama_text_to_tokens(model, prompt, 32, LLAMA_ADD_BOS, t, 256);
 *         for (int i = 0; i < 100 && n > 0 && n <= 256; i++, n = 1) {
 *             if (llama_eval(s, 0, t, (size_t)n)) break;
 *             t[0] = llama_sample(s, 0, &sampler);
 *             if (t[0] < 0 || t[0] == llama_eos(model)) break;
 *             fwrite(text, 1, llama_utf8_push(model, &utf8, t[0], text), stdout);
 *         }
 *         fwrite(text, 1, llama_utf8_push(model, &utf8, LLAMA_FLUSH, text), stdout);
 *         llama_session_free(s);
 *         llama_close(model);
 *     }
 *
 * Build it with: cc -O2 app.c llama.c tokenizer.c -lm (add -fopenmp for threads); or make
 * one file of it that says #define LLAMA_STATIC, #include "llama.c" and #include
 * "tokenizer.c".
 *
 * Contract. No global mutable state. Nothing here prints, exits, aborts, asserts, raises a
 * signal, installs a handler or changes the locale; every call that computes saves the
 * floating-point mode, sets the default and restores it. A `llama` is immutable and may be
 * shared by any number of threads and sessions. A `llama_session` belongs to one thread at
 * a time. A session allocates nothing after llama_session_new returns; text functions
 * allocate and free through the model's allocator, which must be thread-safe. Option, info
 * and sampler structs start with their size and may grow at the end; a zero field means its
 * default. Functions returning int give LLAMA_OK or a negative code; on any failure the
 * session is as if the call had not been made.
 *
 * Threads are used only when asked for: threads > 1 uses OpenMP, whose runtime aborts the
 * process if it cannot make a thread; threads = 1 never enters a parallel region.
 *
 * One answer. The same weights, tokens and seed give the same bits whatever the number of
 * threads, the batch, the division of a prompt into calls, the shards and the instruction
 * set (the order of every sum is defined in llama.c).
 *
 * Not there yet in this release, refused with LLAMA_EINVAL and a text that says so:
 * llama_save, llama_load, LLAMA_MEMORY_STREAM and LLAMA_FAST.
 */
#ifndef LLAMA_H
#define LLAMA_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define LLAMA_RELEASE 100 /* major * 10000 + minor * 100 + patch */

/* The whole library private to one file that includes llama.c and tokenizer.c */
#ifdef LLAMA_STATIC
#define LLAMA_API static __attribute__((unused))
#else
#define LLAMA_API
#endif

typedef struct llama llama;                 /* the weights and the tokenizer of one model */
typedef struct llama_session llama_session; /* KV cache, scratch and positions of one user */

/* ---- Codes and limits ---- */

enum {
    LLAMA_OK = 0,
    LLAMA_EINVAL = -1,  /* an argument: a token >= vocab, no such sequence, logits not there yet */
    LLAMA_EIO = -2,     /* reading or writing failed, or a file changed underneath */
    LLAMA_EFORMAT = -3, /* the file is not what it should be */
    LLAMA_ENOMEM = -4,  /* the allocator returned NULL */
    LLAMA_EFULL = -5,   /* the context is full */
    LLAMA_ECANCEL = -6, /* the progress callback said stop */
    LLAMA_EMISMATCH = -7, /* saved state of another model, numerics or arithmetic version */
    LLAMA_ENUMERIC = -8   /* the logits are not finite */
};
enum { LLAMA_ADD_BOS = 1 }; /* flags of llama_text_to_tokens */
enum { /* how weights are held; AUTO is MAP today, and LOCK is MAP plus mlock */
       LLAMA_MEMORY_AUTO,
       LLAMA_MEMORY_MAP,
       LLAMA_MEMORY_LOCK,
       LLAMA_MEMORY_STREAM
};
enum { LLAMA_EXACT = 0, LLAMA_FAST = 1 }; /* numerics: one answer everywhere | AMX where there is */

#define LLAMA_TEXT_MAX 1024 /* bytes one push can complete; longer pieces are refused at open */
#define LLAMA_FLUSH    INT32_MIN /* to llama_utf8_push, in place of a token: the text ends here */

/* ---- Structs; each that starts with `size` wants sizeof itself there ---- */

typedef struct {
    int status;
    char text[508]; /* which file, what, why and what to do, in one line; "" on success */
} llama_error;      /* caller-owned; every llama_error * may be NULL */

/* Called on the calling thread, at least once a layer; non-zero cancels. done and total
 * count in units of `what`: "prompt" in layers x tokens. */
typedef int (*llama_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

typedef struct {
    void *user;
    void *(*alloc)(void *user, size_t bytes, size_t align); /* NULL on failure */
    void (*free)(void *user, void *p, size_t bytes);
} llama_allocator;

typedef struct {
    size_t size;
    const char
        *tokenizer; /* a file; NULL: tokenizer.model beside the model or in its parent folder.
                            * Absent: the model opens, text functions fail. Malformed: EFORMAT */
    int memory;     /* LLAMA_MEMORY_... */
    uint64_t memory_limit; /* bytes of weights to keep in memory when streaming; 0: what is free */
    llama_progress_fn progress;
    void *user;
    const llama_allocator *allocator; /* copied; NULL: aligned_alloc and free */
} llama_options;

typedef struct {
    size_t size;
    int context;   /* positions of a sequence; 0: the model's (2048 for Meta's folders) */
    int sequences; /* 0: 1. Memory is sequences * context * kv_bytes_per_token, touched as used */
    int batch;     /* tokens evaluated together, 0: 256; never changes a result */
    int threads;   /* 0: the cores this process may use (affinity, cgroup quota) */
    int numerics;  /* LLAMA_EXACT or LLAMA_FAST */
    const char *kernels; /* NULL: the best this CPU has; or "scalar", "avx2", "avx512", "neon" */
    llama_progress_fn progress;
    void *user;
    const llama_allocator *allocator; /* copied; NULL: aligned_alloc and free */
} llama_session_options;

typedef struct {
    size_t size;
    const char *format; /* "meta" */
    const char *dtype;  /* "float32", "float16", "bfloat16" or "mixed" */
    int dim, layers, heads, kv_heads, head_dim, hidden, vocab, context, shards;
    int32_t bos, eos; /* -1: none */
    float norm_eps, rope_theta;
    uint64_t parameters, file_bytes, kv_bytes_per_token;
} llama_info;

/* In this order: bias, repetition penalty (each distinct id of the window once, prompt
 * included), temperature, softmax, top_k, top_p, min_p; renormalised after each. Equal
 * logits: the lower id first. Negative or NaN fields: LLAMA_EINVAL. A zeroed sampler is
 * greedy. */
typedef struct {
    size_t size;
    float temperature;    /* 0: the most likely token */
    float top_p;          /* keep tokens while the probability before them is <= top_p (the rule of
                           * Meta's example.py); 0 or >= 1: off */
    float min_p;          /* keep tokens with at least min_p times the best's probability; 0: off */
    int top_k;            /* keep the k most likely; 0: off */
    float repeat_penalty; /* divides positive logits, multiplies negative ones; 0 or 1: off */
    int repeat_last;      /* window in tokens; 0: 64; -1: the whole sequence */
    uint64_t seed;     /* the draw depends on (seed, position) alone: sampling twice is the same */
    const float *bias; /* [vocab] added to the logits, or NULL */
} llama_sampler;

typedef struct {
    int seq;
    const int32_t *tokens;
    size_t n;
} llama_span;
typedef struct {
    int32_t token;
    float logprob;
} llama_choice;
typedef struct
{ /* zero at the start of a text; started = 1 to continue one (a leading space stays) */
    unsigned char pending[4];
    unsigned char n, started;
} llama_utf8;
typedef int (*llama_write_fn)(void *user, const void *p, size_t n); /* 0 on success */
typedef int (*llama_read_fn)(void *user, void *p, size_t n);        /* 0 on success */
/* x is [rows][cols], rows are tokens; name as Meta's modules: "layers.3.attention.wq" */
typedef void (*llama_trace_fn)(void *user, const char *name, const float *x, size_t rows,
                               size_t cols);

/* ---- Essential ---- */

/* path: a folder as Meta ships it (params.json, consolidated.NN.pth). Weights are mapped,
 * not read. EINVAL, EIO, EFORMAT, ENOMEM; *model is NULL on failure. */
LLAMA_API int llama_open(llama **model, const char *path, const llama_options *, llama_error *);
LLAMA_API void
llama_close(llama *); /* NULL is fine, here and below; after its sessions are freed */
/* EINVAL, ENOMEM; *session is NULL on failure. The model must outlive the session. */
LLAMA_API int llama_session_new(llama_session **session, const llama *,
                                const llama_session_options *, llama_error *);
LLAMA_API void llama_session_free(llama_session *);
/* Append n tokens to a sequence and compute its logits; n = 0 does nothing. EINVAL, EFULL,
 * ECANCEL, ENUMERIC. */
LLAMA_API int llama_eval(llama_session *, int seq, const int32_t *tokens, size_t n);
/* Draw the next token from the sequence's logits; a negative value is an error (EINVAL). */
LLAMA_API int32_t llama_sample(llama_session *, int seq, const llama_sampler *);
LLAMA_API int32_t llama_eos(const llama *); /* -1: none */

/* ---- Text ---- */

/* Returns how many tokens the n bytes make and writes at most cap of them; EINVAL without a
 * tokenizer, ENOMEM. Text is data: "<s>" in it is four ordinary tokens, never BOS. */
LLAMA_API ptrdiff_t llama_text_to_tokens(const llama *, const char *text, size_t n, unsigned flags,
                                         int32_t *out, size_t cap);
/* The piece as it stands in the vocabulary, *n bytes, not terminated; NULL: no such token. */
LLAMA_API const char *llama_token_text(const llama *, int32_t token, size_t *n);
/* The bytes of text that `token` completes: whole characters only; each invalid byte
 * becomes one U+FFFD; control tokens give nothing. Returns how many bytes stand in out. */
LLAMA_API size_t llama_utf8_push(const llama *, llama_utf8 *, int32_t token,
                                 char out[LLAMA_TEXT_MAX]);

/* ---- Looking ---- */

LLAMA_API int llama_describe(const llama *, llama_info *); /* EINVAL: size is not set */
/* [vocab] after the last token, valid until the sequence changes; NULL if not there. */
LLAMA_API const float *llama_logits(const llama_session *, int seq);
/* probs[vocab]: what llama_sample draws from. EINVAL. */
LLAMA_API int llama_distribution(llama_session *, int seq, const llama_sampler *, float *probs);
/* The k best of the unfiltered softmax with natural-log probabilities; returns how many, or
 * EINVAL. */
LLAMA_API int llama_top(const llama_session *, int seq, llama_choice *out, int k);
/* Append like llama_eval; logprob[i] is that of tokens[i] given all before it (0 at position 0). */
LLAMA_API int llama_score(llama_session *, int seq, const int32_t *tokens, size_t n,
                          float *logprob);
/* Call fn with every named intermediate of later evals, in the order of computation; a
 * name once a batch (see `batch`); "output" has the rows that are wanted only. NULL stops. */
LLAMA_API int llama_trace(llama_session *, llama_trace_fn fn, void *user);
LLAMA_API const char *
llama_session_error(const llama_session *); /* text of the last failure, or "" */
LLAMA_API const char *llama_session_kernels(const llama_session *); /* "avx512, 2 threads" */
/* What llama_session_new would allocate, in bytes; 0 if the options are invalid. */
LLAMA_API uint64_t llama_session_bytes(const llama *, const llama_session_options *);

/* ---- Sequences ---- */

/* llama_eval of several sequences in one pass over the weights; the bits are those of each
 * alone. On failure none of them has changed. A sequence twice: EINVAL. */
LLAMA_API int llama_eval_batch(llama_session *, const llama_span *, size_t n);
LLAMA_API size_t llama_length(const llama_session *, int seq); /* tokens so far; 0 if no such seq */
/* Forget the tokens from `length` on; the logits stay only if length is the present one. EINVAL. */
LLAMA_API int llama_rewind(llama_session *, int seq, size_t length);
/* dst becomes a copy of src: tokens, KV, logits. EINVAL. */
LLAMA_API int llama_fork(llama_session *, int dst, int src);
LLAMA_API int llama_save(llama_session *, int seq, llama_write_fn, void *user);
LLAMA_API int llama_load(llama_session *, int seq, llama_read_fn, void *user);

/* ---- Library ---- */

/* Page the weights in, from the first byte of the files to the last; safe beside eval. ECANCEL. */
LLAMA_API int llama_warm(const llama *, llama_progress_fn, void *user);
LLAMA_API const char *llama_strerror(int status);
LLAMA_API int llama_release(void);       /* the LLAMA_RELEASE it was compiled as */
LLAMA_API const char *llama_build(void); /* compiler, kernels compiled in, OpenMP or not */

#ifdef __cplusplus
}
#endif

#endif /* LLAMA_H */

/* ==== The ground under llama.c and tokenizer.c; not for programs ============================= */

/* How hostile bytes are read, memory and errors are had, files are mapped: small functions
 * that know nothing of models. */
#if defined(LLAMA_PRIVATE) && !defined(LLAMA_PRIVATE_H)
#define LLAMA_PRIVATE_H
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef LLAMA_STATIC
#define LLAMA_SHARED static __attribute__((unused))
#else
#define LLAMA_SHARED __attribute__((visibility("hidden")))
#endif
#define LLAMA_INLINE static inline __attribute__((unused))

/* A cursor is the only way a parser reads: past the end it yields zeros and stays `bad`. */
typedef struct {
    const unsigned char *at, *end;
    bool bad;
} llamac_cursor;

LLAMA_INLINE llamac_cursor llamac_cursor_on(const void *p, size_t n) {
    const unsigned char *at = (const unsigned char *)p;
    llamac_cursor c = {at, n ? at + n : at, false};
    return c;
}
LLAMA_INLINE size_t llamac_left(const llamac_cursor *c) { return (size_t)(c->end - c->at); }

/* The next n bytes, or NULL. */
LLAMA_INLINE const unsigned char *llamac_take(llamac_cursor *c, uint64_t n) {
    if (c->bad || n > llamac_left(c)) {
        c->bad = true;
        c->at = c->end;
        return NULL;
    }
    const unsigned char *p = c->at;
    c->at += n;
    return p;
}

/* A little-endian unsigned integer of n <= 8 bytes. */
LLAMA_INLINE uint64_t llamac_uint(llamac_cursor *c, int n) {
    const unsigned char *p = llamac_take(c, (uint64_t)n);
    uint64_t v = 0;
    for (int i = n - 1; p && i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* JSON (ECMA-404), as far as the small files beside the weights use it; nothing recurses. */

/* Skip space, then take this character if it is next. */
LLAMA_INLINE bool llamac_json_is(llamac_cursor *c, char want) {
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4)) c->at++;
    if (c->at == c->end || *c->at != (unsigned char)want) return false;
    c->at++;
    return true;
}

/* A string, its escapes left as they stand: the keys we look for have none. */
LLAMA_INLINE bool llamac_json_string(llamac_cursor *c, const char **text, size_t *n) {
    if (!llamac_json_is(c, '"')) return false;
    *text = (const char *)c->at;
    for (; c->at < c->end && *c->at != '"'; c->at++)
        if (*c->at < ' ' || (*c->at == '\\' && ++c->at == c->end)) return false;
    *n = (size_t)((const char *)c->at - *text);
    return llamac_take(c, 1) != NULL;
}

/* Decimal digits onto v, counted into *n; more than 400 are no number. */
LLAMA_INLINE double llamac_json_digits(llamac_cursor *c, double v, int *n) {
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9' && *n < 400; ++*n)
        v = v * 10 + (*c->at++ - '0');
    return v;
}

/* A number, exact to a double for up to 15 digits and exponents within 22, as params.json has. */
LLAMA_INLINE bool llamac_json_number(llamac_cursor *c, double *out) {
    bool minus = llamac_json_is(c, '-'), down = false; /* the sign, and the exponent's */
    int whole = 0, all = 0, digits = 0; /* digits before the point, in all, of the exponent */
    double v = llamac_json_digits(c, 0, &whole), scale = 1, exponent = 0; /* v scale^+-1 */
    all = whole;
    if (whole && c->at < c->end && *c->at == '.') c->at++, v = llamac_json_digits(c, v, &all);
    if (whole && c->at < c->end && (*c->at | 32) == 'e') {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) down = *c->at++ == '-';
        exponent = llamac_json_digits(c, 0, &digits);
        if (!digits || exponent > 1000) return false;
    }
    exponent = (down ? -exponent : exponent) + whole - all;
    for (double i = exponent < 0 ? -exponent : exponent; i > 0; i--) scale *= 10;
    v = exponent < 0 ? v / scale : v * scale;
    *out = minus ? -v : v;
    return whole && all < 400;
}

/* A value: 0 if malformed, else its kind: '0' a number, '"' a string, 't', 'f' or 'n' the
 * words, '{' an object or array, which is not taken. */
LLAMA_INLINE char llamac_json_value(llamac_cursor *c, double *number) {
    static const char *const words[] = {"true", "false", "null"};
    const char *text;
    size_t n;
    if (llamac_json_is(c, '{') || llamac_json_is(c, '[')) return '{';
    if (c->at < c->end && *c->at == '"') return llamac_json_string(c, &text, &n) ? '"' : 0;
    for (int i = 0; i < 3; i++) {
        n = strlen(words[i]);
        if (llamac_left(c) < n || memcmp(c->at, words[i], n) != 0) continue;
        c->at += n;
        return *words[i];
    }
    return llamac_json_number(c, number) ? '0' : 0;
}

/* The allocator of a host that gives none. C11 wants a multiple of the alignment. */
LLAMA_INLINE void *llamac_default_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

LLAMA_INLINE void llamac_default_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    free(p);
}

/* A copy, so that the host may throw its own away. */
LLAMA_INLINE llama_allocator llamac_allocator_or_default(const llama_allocator *a) {
    static const llama_allocator standard = {NULL, llamac_default_alloc, llamac_default_free};
    return a ? *a : standard;
}

/* An arena owns what one object allocated and frees it all at once. Small pieces are cut from
 * chunks, large ones have a block of their own. */
enum { LLAMAC_ALIGNMENT = 64, LLAMAC_CHUNK = 1 << 16 };
typedef struct llamac_block {
    struct llamac_block *next;
    size_t bytes, used; /* this header included */
} llamac_block;
typedef struct {
    llama_allocator allocator;
    llamac_block *last;
} llamac_arena;

/* count * size bytes, zeroed, or NULL (also when the product overflows). */
LLAMA_INLINE void *llamac_new(llamac_arena *a, uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 4) return NULL;
    size_t need = ((size_t)bytes + 15) / 16 * 16;
    llamac_block *b = a->last;
    if (!b || b->bytes - b->used < need) {
        size_t room = LLAMAC_ALIGNMENT + (need > LLAMAC_CHUNK / 4 ? need : LLAMAC_CHUNK);
        b = (llamac_block *)a->allocator.alloc(a->allocator.user, room, LLAMAC_ALIGNMENT);
        if (!b) return NULL;
        *b = (llamac_block){a->last, room, LLAMAC_ALIGNMENT};
        a->last = b;
    }
    void *p = (char *)b + b->used;
    b->used += need;
    return memset(p, 0, need);
}

LLAMA_INLINE void llamac_free_all(llamac_arena *a) {
    while (a->last) {
        llamac_block *b = a->last;
        a->last = b->next;
        a->allocator.free(a->allocator.user, b, b->bytes);
    }
}

/* Fill err, which may be NULL, with the formatted text and return status: the one place where
 * an error gets its text. One line, cut at the size of the struct. */
__attribute__((format(printf, 3, 4))) LLAMA_INLINE int llamac_fail(llama_error *err, int status,
                                                                   const char *format, ...) {
    if (!err) return status;
    va_list args;
    va_start(args, format);
    err->status = status;
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    for (char *c = err->text; *c; c++) /* a file's own names must not act on a terminal */
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
    return status;
}

/* ---- Files, and what every refusal of one says ---- */

typedef struct {
    const unsigned char *data; /* the first byte; NULL: not mapped */
    size_t size;               /* in bytes */
} llamac_mapping;

LLAMA_INLINE int llamac_out_of_memory(llama_error *err, const char *what) {
    return llamac_fail(err, LLAMA_ENOMEM, "%s: out of memory", what);
}

enum { LLAMAC_PATH_BYTES = 4096 };

/* out = folder/name */
LLAMA_INLINE int llamac_join(char out[LLAMAC_PATH_BYTES], const char *folder, const char *name,
                             llama_error *err) {
    int n = snprintf(out, LLAMAC_PATH_BYTES, "%s/%s", folder, name);
    if (n > 0 && n < LLAMAC_PATH_BYTES) return LLAMA_OK; /* n: what it would take */
    return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", folder);
}

/* After llamac_map_file: there is no such file, as opposed to one that is no good. */
LLAMA_INLINE bool llamac_is_absent(int status) { return status == LLAMA_EIO && errno == ENOENT; }

/* Map a regular file read-only. O_NONBLOCK: a FIFO must not make us wait. */
LLAMA_INLINE int llamac_map_file(llamac_mapping *f, const char *path, llama_error *err) {
    struct stat st;
    int status = LLAMA_OK, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int why = errno;
        llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(why));
        errno = why; /* for llamac_is_absent */
        return LLAMA_EIO;
    }
    f->data = NULL;
    if (fstat(fd, &st) != 0)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status =
            llamac_fail(err, LLAMA_EIO, "%s: is not a regular file; give the file itself", path);
    else if (st.st_size <= 0)
        status = llamac_fail(err, LLAMA_EFORMAT, "%s: is empty; download it again", path);
    if (status == LLAMA_OK) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            status = llamac_fail(err, errno == ENOMEM ? LLAMA_ENOMEM : LLAMA_EIO,
                                 "%s: cannot be mapped: %s", path, strerror(errno));
        else *f = (llamac_mapping){p, (size_t)st.st_size}; /* outlives the descriptor */
    }
    close(fd);
    if (status) errno = 0; /* not ENOENT: there is a file */
    return status;
}

LLAMA_INLINE void llamac_unmap_file(llamac_mapping *f) {
    if (f->data) munmap((void *)(uintptr_t)f->data, f->size);
    f->data = NULL;
}

/* Before reading a file here and there: a page at a time, nothing ahead. True: none of it was in
 * memory, as far as some of its pages tell. */
LLAMA_INLINE bool llamac_browse(const llamac_mapping *f) {
    enum { APART = 1 << 24 };
    unsigned char *data = (unsigned char *)(uintptr_t)f->data, there = 0;
    for (size_t i = 0; i < f->size && !(there & 1); i += APART)
        if (mincore(data + i, 1, &there) != 0) there = 1;
    madvise(data, f->size, MADV_RANDOM);
    return !(there & 1);
}

/* After that: large pages, where the file system has them. The small ones that a cold file was
 * browsed by go, or the kernel would not read large ones around them. */
LLAMA_INLINE void llamac_browsed(const llamac_mapping *f, bool cold) {
    void *data = (void *)(uintptr_t)f->data;
    (void)cold;
    madvise(data, f->size, MADV_NORMAL);
#ifdef MADV_HUGEPAGE
    madvise(data, f->size, MADV_HUGEPAGE);
#endif
#ifdef MADV_PAGEOUT
    if (cold) madvise(data, f->size, MADV_PAGEOUT);
#endif
}

/* Have n bytes of a mapping read in and mapped; a page's first byte is touched where the kernel
 * (Linux before 5.14) cannot be asked. */
LLAMA_INLINE void llamac_page_in(const unsigned char *data, size_t n) {
    enum { PAGE = 4096 };
#ifdef MADV_POPULATE_READ
    if (madvise((void *)(uintptr_t)data, n, MADV_POPULATE_READ) == 0 || errno != EINVAL) return;
#endif
    for (size_t i = 0; i < n; i += PAGE) (void)((const volatile unsigned char *)data)[i];
}

/* ---- Cores ---- */

/* A file the kernel makes, or as much as fits, terminated; "" if it cannot be read. */
LLAMA_INLINE void llamac_read_small(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
}

/* The cores' worth of time a cgroup may use, rounded up; 0: no limit. Version 2 has "quota
 * period" in one file, version 1 a file for each. */
LLAMA_INLINE long llamac_cgroup_quota(const char *folder, bool v2) {
    char path[LLAMAC_PATH_BYTES + 32], text[64], *end = text;
    snprintf(path, sizeof path, "%s/%s", folder, v2 ? "cpu.max" : "cpu.cfs_quota_us");
    llamac_read_small(path, text, sizeof text);
    long quota = strtol(text, &end, 10), period; /* "max" is 0, version 1's -1 no limit */
    if (!v2) {
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
        llamac_read_small(path, end = text, sizeof text);
    }
    period = strtol(end, NULL, 10);
    return quota > 0 && period > 0 ? quota / period + (quota % period > 0) : 0;
}

/* The least quota of the cgroups this process is in, up to their roots; 0: no limit. Each
 * line of `proc` is "number:controllers:/path"; version 2 has no controllers. */
LLAMA_INLINE long llamac_cgroup_cores(const char *proc, const char *sys) {
    char lines[LLAMAC_PATH_BYTES], folder[LLAMAC_PATH_BYTES], *rest = lines, *line;
    long least = 0, cores;
    llamac_read_small(proc, lines, sizeof lines);
    while ((line = strsep(&rest, "\n")) != NULL) {
        const char *path = strchr(line, '/');
        bool v2 = strncmp(line, "0::", 3) == 0;
        bool v1 = strstr(line, ":cpu:") || strstr(line, ":cpu,") || strstr(line, ",cpu:");
        if (!path || (!v1 && !v2)) continue;
        size_t root = strlen(sys) + (v2 ? 0 : 4);
        int n = snprintf(folder, sizeof folder, "%s%s%s", sys, v2 ? "" : "/cpu", path);
        if (n < 0 || n >= (int)sizeof folder) continue;
        for (char *slash = folder; slash; slash = strrchr(folder + root, '/')) {
            if (slash != folder)
                *slash = 0; /* the parent; in a container a path may be the host's */
            if ((cores = llamac_cgroup_quota(folder, v2)) > 0 && (least == 0 || cores < least))
                least = cores;
        }
    }
    return least;
}

/* tokenizer.c: a vocabulary of at most so many pieces, from a tokenizer.model that stays in
 * memory. It knows no model; llama_text_to_tokens, llama_token_text and llama_utf8_push are
 * these with a model in front. */
typedef struct llamac_vocab llamac_vocab;
LLAMA_SHARED int llamac_vocab_parse(llamac_vocab **, llamac_cursor bytes, size_t most,
                                    const char *file, llamac_arena *, llama_error *);
LLAMA_SHARED int32_t llamac_vocab_bos(const llamac_vocab *);
LLAMA_SHARED int32_t llamac_vocab_eos(const llamac_vocab *);
LLAMA_SHARED ptrdiff_t llamac_encode(const llamac_vocab *, const llama_allocator *,
                                     const char *text, size_t n, unsigned flags, int32_t *out,
                                     size_t cap);
LLAMA_SHARED const char *llamac_piece(const llamac_vocab *, int32_t token, size_t *n);
LLAMA_SHARED size_t llamac_decode(const llamac_vocab *, llama_utf8 *, int32_t token,
                                  char out[LLAMA_TEXT_MAX]);

#endif /* LLAMA_PRIVATE */
