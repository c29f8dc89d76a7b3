/* llama.h - run LLaMA models on a CPU, straight from the files Meta shipped.
 *
 *     #include <stdio.h>
 *     #include "llama.h"
 *
 *     int main(void) {
 *         llama *model;
 *         llama_session *s;
 *         llama_error err;
 *         llama_decoder utf8 = {.started = 1};
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
 *             fwrite(text, 1, llama_token_to_text(model, &utf8, t[0], text), stdout);
 *         }
 *         fwrite(text, 1, llama_token_to_text(model, &utf8, LLAMA_FLUSH, text), stdout);
 *         llama_session_free(s);
 *         llama_close(model);
 *     }
 *
 * Build it with: cc -O2 app.c llama.c tokenizer.c -lm (add -fopenmp for threads); or make
 * one file of it that says #define LLAMA_STATIC, #include "llama.c" and #include
 * "tokenizer.c". These are files with many names of their own, so have them in one that does
 * little else; under -std=c11 before any other #include.
 *
 * Contract. No global mutable state. Nothing here prints, exits, aborts, asserts, raises a
 * signal, installs a handler or changes the locale; every call that computes saves the
 * floating-point mode, sets the default and restores it. A `llama` is immutable and may be
 * shared by any number of threads and sessions. A `llama_session` belongs to one thread at
 * a time. A session allocates nothing after llama_session_new returns (llama_load may, see
 * there); text functions allocate and free through the model's allocator, which must be
 * thread-safe. Option, info and sampler structs start with their size and may grow at the end
 * (the sampler within llama_request, then, with a new major release); a zero field means its default.
 * Functions returning int give LLAMA_OK or a negative code; on any failure the session is as if the
 * call had not been made, but where it says otherwise below.
 *
 * Threads are OpenMP's, whose runtime aborts the process if it cannot make one; threads = 1 never
 * enters a parallel region. They do not survive a fork: where this model was evaluated with threads
 * before, a child's sessions run with one.
 *
 * One answer. The same weights, tokens and seed give the same bits whatever the number of
 * threads, the batch, the division of a prompt into calls, the shards and the instruction
 * set (the order of every sum is defined in llama.c).
 *
 * LLAMA_FAST is the exception, where a session asks for it: prompts of 32 tokens and more go to
 * AMX, float16 and bfloat16 weights in parts of bfloat16: other bits, as near to the truth.
 * float32 weights and machines without AMX keep to the one answer; llama_session_kernels tells
 * which it is.
 *
 * Files are hostile: whatever their bytes, a call gives what it promises here or an error. They
 * are also mapped, so that one which is cut short while it is in use raises SIGBUS; a host that
 * hands that to llama_handle_sigbus gets an LLAMA_EIO and lives on. One that is rewritten in place gives
 * the numbers of what is read at the time, and does no other harm. A file that is replaced by
 * another of its name (mv, rename) is another file: a model that is open keeps the old one.
 *
 * Not there yet in this release, refused with LLAMA_EINVAL and a text that says so:
 * LLAMA_MEMORY_STREAM.
 */
#ifndef LLAMAC_H
#define LLAMAC_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define LLAMA_RELEASE 100 /* major * 10000 + minor * 100 + patch */

/* The whole library private to one file that includes llama.c and tokenizer.c */
#ifdef LLAMA_STATIC
#define LLAMAC_API static __attribute__((unused))
#else
#define LLAMAC_API
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
enum {
    LLAMA_FINISH_NONE = 0,
    LLAMA_FINISH_EOS,
    LLAMA_FINISH_STOP,
    LLAMA_FINISH_LENGTH
};                                        /* why a text ended */
enum { LLAMA_EXACT = 0, LLAMA_FAST = 1 }; /* numerics: one answer everywhere | AMX where there is */

#define LLAMA_TEXT_MAX 1024 /* bytes one push can complete; longer pieces are refused at open */
#define LLAMA_FLUSH    INT32_MIN /* to llama_token_to_text, in place of a token: the text ends here */

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
    const char *tokenizer; /* a tokenizer.model, .json or .bin; NULL: the one inside (GGUF), beside
                            * the model or, for Meta's, in its parent folder. Absent: the model
                            * opens, text functions fail. Malformed: EFORMAT */
    int memory;            /* LLAMA_MEMORY_... */
    uint64_t memory_limit; /* bytes of weights to keep in memory when streaming; 0: what is free */
    llama_progress_fn progress; /* not called yet: opening reads no weights */
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
    const char *format; /* "meta", "huggingface", "gguf" or "llama2.c" */
    const char *dtype;  /* "float32", "float16", "bfloat16" or "mixed" */
    int dim, layers, heads, kv_heads, head_dim, hidden, vocab, context, shards;
    int32_t bos, eos; /* -1: none */
    float norm_eps, rope_theta;
    uint64_t parameters, file_bytes, kv_bytes_per_token;
    uint64_t token_bytes; /* of weights: what generating one token reads */
} llama_info;

/* In this order: bias, repetition penalty (each distinct id of the window once, prompt
 * included), temperature, softmax, top_k, top_p, min_p; renormalised after each. Equal
 * logits: the lower id first. Negative, infinite or NaN fields: LLAMA_EINVAL. With nothing but its
 * size set, a sampler is greedy. */
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
} llama_token_logprob;
typedef struct
{ /* zero at the start of a text; started = 1 to continue one (a leading space stays) */
    unsigned char pending[4];
    unsigned char n, started;
} llama_decoder;
/* A text for llama_generate to make. Zero what is not given; `seq` and below are results. */
typedef struct {
    const int32_t *prompt; /* [n_prompt], with BOS where it is wanted */
    size_t n_prompt;
    llama_sampler sampler;
    size_t
        max_tokens; /* tokens to generate; with the prompt they may be one more than the context */
    llama_decoder
        utf8;          /* started = 1: the prompt has text, the first token's leading space stays */
    int seq;           /* the sequence it has */
    int finish_reason; /* LLAMA_FINISH_NONE while it is under way */
    size_t cached_tokens; /* tokens of the prompt that stood in the session before */
    size_t generated;
    int32_t token; /* the last one drawn */
} llama_request;
/* An ending for llama_loglikelihood. */
typedef struct {
    const char *context, *ending; /* texts */
    size_t n_context, n_ending;   /* of so many bytes */
    size_t given, tokens;         /* results: tokens of the context and of the ending; */
    double logprob;               /* the sum over the latter; */
    int greedy;                   /* 1 if each of these was the most likely */
} llama_continuation;
/* With each token drawn: the text it completes, whole characters (n may be 0); the sequence still
 * has the logits it was drawn from. Then once more when the text ends, with `finish` set. Returns 0
 * to go on; more than 0: this text ends here; a negative code ends llama_generate. */
typedef int (*llama_request_fn)(void *user, llama_request *, const char *text, size_t n);
typedef int (*llama_write_fn)(void *user, const void *p, size_t n); /* 0 on success */
typedef int (*llama_read_fn)(void *user, void *p, size_t n);        /* 0 on success */
/* x is [rows][cols], rows are tokens; name as Meta's modules: "layers.3.attention.wq" */
typedef void (*llama_trace_fn)(void *user, const char *name, const float *x, size_t rows,
                               size_t cols);

/* ---- Essential ---- */

/* path: a folder as Meta ships it (params.json, consolidated.NN.pth) or as Hugging Face has it
 * (config.json, *.safetensors or pytorch_model*.bin), a GGUF file (of split ones the first), or
 * llama2.c's .bin; of F32, F16 or BF16. Weights are mapped, not read. EINVAL, EIO, EFORMAT,
 * ENOMEM; *model is NULL on failure. */
LLAMAC_API int llama_open(llama **model, const char *path, const llama_options *, llama_error *);
LLAMAC_API void
llama_close(llama *); /* NULL is fine for every model and session; after its sessions are freed */
/* EINVAL, ENOMEM; *session is NULL on failure. The model must outlive the session. */
LLAMAC_API int llama_session_new(llama_session **session, const llama *,
                                 const llama_session_options *, llama_error *);
LLAMAC_API void llama_session_free(llama_session *);
/* Append n tokens to a sequence and compute its logits; n = 0 does nothing. EINVAL, EFULL,
 * ECANCEL, ENUMERIC, EIO. */
LLAMAC_API int llama_eval(llama_session *, int seq, const int32_t *tokens, size_t n);
/* Draw the next token from the sequence's logits; a negative value is an error (EINVAL). */
LLAMAC_API int32_t llama_sample(llama_session *, int seq, const llama_sampler *);
LLAMAC_API int32_t llama_eos(const llama *); /* -1: none */

/* ---- Text ---- */

/* Returns how many tokens the n bytes make and writes at most cap of them; EINVAL without a
 * tokenizer, ENOMEM. Text is data: "<s>" in it is four ordinary tokens, never BOS. */
LLAMAC_API ptrdiff_t llama_text_to_tokens(const llama *, const char *text, size_t n, unsigned flags,
                                          int32_t *out, size_t cap);
/* The piece as it stands in the vocabulary, *n bytes, not terminated; NULL: no such token. */
LLAMAC_API const char *llama_token_text(const llama *, int32_t token, size_t *n);
/* The bytes of text that `token` completes: whole characters only; each invalid byte
 * becomes one U+FFFD; control tokens give nothing. Returns how many bytes stand in out. */
LLAMAC_API size_t llama_token_to_text(const llama *, llama_decoder *, int32_t token,
                                      char out[LLAMA_TEXT_MAX]);

/* The UTF-8 character at the start of n > 0 bytes, in *number; -1: there is none. Returns its
 * bytes, or 1. */
LLAMAC_API size_t llama_utf8_next(const char *text, size_t n, int32_t *number);
/* 1: on a terminal that character (-1: a byte that is none) would act and not be shown: control
 * characters, and those that turn the direction of writing and make a text look like another. */
LLAMAC_API int llama_is_control(int32_t c);
/* Where the first of the stop texts begins, or n; and in *keep how many of the last bytes may turn
 * out to be the beginning of one, so that a stream had better hold them back. */
LLAMAC_API size_t llama_find_stop(const char *text, size_t n, const char *const *stops,
                                  size_t n_stops, size_t *keep);

/* ---- Looking ---- */

LLAMAC_API int llama_describe(const llama *, llama_info *); /* EINVAL: size is not set */
/* [vocab] after the last token, valid until the sequence changes; NULL if not there. */
LLAMAC_API const float *llama_logits(const llama_session *, int seq);
/* probs[vocab]: what llama_sample draws from. EINVAL. */
LLAMAC_API int llama_probabilities(llama_session *, int seq, const llama_sampler *, float *probs);
/* The k best of the unfiltered softmax with natural-log probabilities; returns how many, or
 * EINVAL. */
LLAMAC_API int llama_top_logprobs(const llama_session *, int seq, llama_token_logprob *out, int k);
/* Append like llama_eval; logprob[i] is that of tokens[i] given all before it (0 at position 0).
 * EINVAL too where the sequence has tokens and, after a rewind, no logits. */
LLAMAC_API int llama_score(llama_session *, int seq, const int32_t *tokens, size_t n,
                           float *logprob);
/* Call fn with every named intermediate of later evals, in the order of computation: each once a
 * batch (see `batch`), but "output" where logits are computed, once a call or, when tokens are
 * scored, every few of them. NULL stops. */
LLAMAC_API int llama_trace(llama_session *, llama_trace_fn fn, void *user);
LLAMAC_API const char *
llama_session_error(const llama_session *); /* why the last call on it failed, or "" */
LLAMAC_API const char *llama_session_kernels(const llama_session *); /* "avx512, 2 threads" */
/* What llama_session_new would allocate, in bytes; 0 if the options are invalid. */
LLAMAC_API uint64_t llama_session_bytes(const llama *, const llama_session_options *);

/* ---- Sequences ---- */

/* llama_eval of several sequences in one pass over the weights; the bits are those of each
 * alone. On failure none of them has changed. A sequence twice: EINVAL. */
LLAMAC_API int llama_eval_batch(llama_session *, const llama_span *, size_t n);
/* llama_score of several sequences in one pass, for the tokens of all spans one after the other.
 * rank[i], unless NULL: how many tokens were more likely than that one, of equal ones those with
 * lower ids; 0: llama_sample draws it at temperature 0. logprob NULL: llama_eval_batch. */
LLAMAC_API int llama_score_batch(llama_session *, const llama_span *, size_t n, float *logprob,
                                 int32_t *rank);
LLAMAC_API size_t llama_length(const llama_session *,
                               int seq); /* tokens so far; 0 if no such seq */
/* Forget the tokens from `length` on; the logits stay only if length is the present one. EINVAL. */
LLAMAC_API int llama_rewind(llama_session *, int seq, size_t length);
/* dst becomes a copy of src: tokens, KV, logits. EINVAL. */
LLAMAC_API int llama_fork(llama_session *, int dst, int src);
/* The tokens so far, [llama_length]; valid until the sequence changes. NULL: no such sequence. */
LLAMAC_API const int32_t *llama_tokens(const llama_session *, int seq);
/* Write a sequence through fn: kv_bytes_per_token bytes a token, a little more, and the logits if
 * it has them. Loaded into any session of a model with the same weights, from whatever files, it
 * goes on with the same bits. EINVAL, EIO (fn said so). */
LLAMAC_API int llama_save(llama_session *, int seq, llama_write_fn fn, void *user);
/* The sequence becomes what was saved, or, on any failure, stays as it was: nothing is believed
 * before its checksum. EFORMAT: it is damaged, or no state; EMISMATCH: of another model, as its
 * shape, its constants and samples of each weight tell, of other numerics or another version;
 * EFULL: longer than the context; EIO: fn could not read so much. An empty sequence is read into
 * where it lies; for another one room for both is allocated, and freed: ENOMEM. */
LLAMAC_API int llama_load(llama_session *, int seq, llama_read_fn fn, void *user);
/* The same with a file. Saved, it takes the place of an older one whole, once it is on the disk: a
 * crash leaves one or the other. What is there and no saved state is left alone: EINVAL, or EIO if
 * it is no regular file. Loaded from one that goes on behind the state: EFORMAT, and the
 * sequence is empty; from one that is not there: EIO, and errno is ENOENT. */
LLAMAC_API int llama_save_file(llama_session *, int seq, const char *path, llama_error *);
LLAMAC_API int llama_load_file(llama_session *, int seq, const char *path, llama_error *);

/* ---- Whole texts ---- */

/* Let a sequence hold these tokens and their logits; of what it holds, the beginning that is the
 * same stays and is not evaluated again. Errors as llama_eval; that beginning is then left. */
LLAMAC_API int llama_prefill(llama_session *, int seq, const int32_t *tokens, size_t n);
/* Make n texts, each with the bits it has alone, as many in one pass over the weights as the
 * session has sequences, 64 at most. What stands in a sequence already (of an earlier call, of a
 * llama_load) and begins like a prompt is used, and prompts that begin alike share that. Errors as
 * llama_eval_batch and llama_sample, or fn's; the sequences keep what they have. */
LLAMAC_API int llama_generate(const llama *, llama_session *, llama_request *, size_t n,
                              llama_request_fn fn, void *user);
/* log p(ending | context) of n endings, as Language Model Evaluation Harness has it: the two are
 * tokenized as one text with <s> in front, but for the last white space (Unicode's) of the context,
 * which goes to the ending; its tokens are those behind as many as the context has alone (of
 * none, the last), and the model sees the context's own tokens and then these. Endings run together
 * in one pass over the weights, each with the bits it has alone; a context is evaluated once for
 * those in a row that have it, and one other besides. The session needs three sequences or more;
 * NULL: only the tokens are counted. What the sequences held is lost, also where it fails. Errors
 * as llama_text_to_tokens and llama_eval_batch. */
LLAMAC_API int llama_loglikelihood(const llama *, llama_session *, llama_continuation *, size_t n);

/* ---- Library ---- */

/* Read every weight: all must be finite numbers, and no long run of them zero, as where a download
 * was interrupted; then, in a folder of Meta's that has checklist.chk, compare the files with
 * their MD5 sums. Progress in bytes, of "weights", then "md5". EFORMAT, EIO, ECANCEL. */
LLAMAC_API int llama_check(const llama *, llama_progress_fn, void *user, llama_error *);
/* Page the weights in, from the first byte of the files to the last; safe beside eval. ECANCEL. */
LLAMAC_API int llama_prefetch(const llama *, llama_progress_fn, void *user);
/* For a host's handler of SIGBUS, which passes on si_addr: safe in a signal handler, as it calls
 * nothing but mmap. Is the address in one of the model's files, then that was cut short, or its
 * disk cannot read it: from here on the rest of the file is zeros, the evaluation under way and
 * every later one end in LLAMA_EIO with the file's name, and 1 is returned. 0: it is somebody
 * else's. llama_open sets *model before it looks into files, so that this works there too, and
 * back to NULL if it fails.
 *
 *     static llama *model; // given to llama_open as it is
 *     static void on_bus(int signal_number, siginfo_t *info, void *context) {
 *         if (!llama_handle_sigbus(model, info->si_addr)) signal(SIGBUS, SIG_DFL);
 *     } */
LLAMAC_API int llama_handle_sigbus(const llama *, const void *address);
LLAMAC_API const char *llama_strerror(int status);
LLAMAC_API int llama_release(void);       /* the LLAMA_RELEASE it was compiled as */
LLAMAC_API const char *llama_build(void); /* compiler, kernels compiled in, OpenMP or not */

#ifdef __cplusplus
}
#endif

#endif /* LLAMAC_H */

/* ==== The ground under llama.c and tokenizer.c; not for programs ============================= */

/* How hostile bytes are read, memory and errors are had, files are mapped: small functions
 * that know nothing of models. In this order:
 *
 *   bytes    a cursor; JSON; GGUF's pairs of keys and values
 *   memory   the allocator, the arena; errors and their texts
 *   files    mapping, reading; cores and quotas; the floating-point mode
 *   names    what llama.c and tokenizer.c have of each other
 *   numbers  exp, log, sine, cosine; probabilities; elements as stored   from here on for llama.c
 *   tensors  readers of PyTorch's files (zip, pickle), safetensors, GGUF; MD5
 *   state    a stream with a checksum; the layout of memory; what the processor has
 */
#if defined(LLAMA_PRIVATE) && !defined(LLAMAC_PRIVATE_H)
#define LLAMAC_PRIVATE_H
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
#if defined(__GLIBC__) && !defined(__USE_MISC)
#error "under -std=c11, include llama.c before any other header, or compile with -D_GNU_SOURCE"
#endif

#ifdef LLAMA_STATIC
#define LLAMAC_SHARED static __attribute__((unused))
#else
#define LLAMAC_SHARED __attribute__((visibility("hidden")))
#endif
#define LLAMAC_INLINE static inline __attribute__((unused))

/* A cursor is the only way a parser reads: past the end it yields zeros and stays `bad`. So a
 * parser reads what it needs and asks once, behind it, whether all of that was there:
 *
 *     llamac_cursor c = llamac_cursor_on(data, size);
 *     uint64_t count = llamac_uint(&c, 8), length = llamac_uint(&c, 4);
 *     const unsigned char *name = llamac_take(&c, length);
 *     if (c.bad) return "is cut short";
 *
 * Only what becomes the size of a buffer or the end of a loop must be checked before its use. */
typedef struct {
    const unsigned char *at, *end;
    bool bad;
} llamac_cursor;

/* On n bytes; p may be NULL if n is 0. */
LLAMAC_INLINE llamac_cursor llamac_cursor_on(const void *p, size_t n) {
    const unsigned char *at = (const unsigned char *)p;
    llamac_cursor c = {at, n ? at + n : at, false};
    return c;
}
LLAMAC_INLINE size_t llamac_left(const llamac_cursor *c) { return (size_t)(c->end - c->at); }

/* The next n bytes, or NULL. */
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

/* A little-endian unsigned integer of n <= 8 bytes. */
LLAMAC_INLINE uint64_t llamac_uint(llamac_cursor *c, int n) {
    const unsigned char *p = llamac_take(c, (uint64_t)n);
    uint64_t v = 0;
    for (int i = n - 1; p && i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* JSON (ECMA-404); nothing recurses, nothing is allocated: strings stay in the document. The files
 * beside the weights are JSON, and so are safetensors' headers and tokenizer.json. What is not
 * JSON by the letter (a comma too many, a comment) is refused. */

/* Skip space, then take this character if it is next. */
LLAMAC_INLINE bool llamac_json_is(llamac_cursor *c, char want) {
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4)) c->at++;
    if (c->at == c->end || *c->at != (unsigned char)want) return false;
    c->at++;
    return true;
}

/* A string, its escapes left as they stand: the keys we look for have none. */
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

/* Decimal digits onto v, counted into *n; more than 400 are no number. (The library's strtod would
 * follow the host's locale, which may want a comma.) */
LLAMAC_INLINE double llamac_json_digits(llamac_cursor *c, double v, int *n) {
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9' && *n < 400; ++*n)
        v = v * 10 + (*c->at++ - '0');
    return v;
}

/* A number, exact to a double for up to 15 digits and exponents within 22, as params.json has. */
LLAMAC_INLINE bool llamac_json_number(llamac_cursor *c, double *out) {
    bool minus = llamac_json_is(c, '-'), down = false; /* the sign, and the exponent's */
    bool zero = c->at < c->end && *c->at == '0';       /* which only a 0 begins with */
    int whole = 0, all = 0, digits = 0; /* digits before the point, in all, of the exponent */
    double v = llamac_json_digits(c, 0, &whole), scale = 1, exponent = 0; /* v scale^+-1 */
    if (zero && whole > 1) return false;                                  /* 08 */
    all = whole;
    if (whole && c->at < c->end && *c->at == '.') {
        c->at++, v = llamac_json_digits(c, v, &all);
        if (all == whole) return false; /* 8. */
    }
    if (whole && c->at < c->end && (*c->at | 32) == 'e') {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) down = *c->at++ == '-';
        exponent = llamac_json_digits(c, 0, &digits);
        if (!digits) return false;
        if (exponent > 1000) exponent = 1000; /* 0 or infinite in any case */
    }
    exponent = (down ? -exponent : exponent) + whole - all;
    for (double i = exponent < 0 ? -exponent : exponent; i > 0; i--) scale *= 10;
    v = exponent < 0 ? v / scale : v * scale;
    *out = minus ? -v : v;
    return whole && all < 400;
}

/* A document is walked value by value. A value has a level, how many objects and arrays it is in,
 * and a key at each: key[1] is that in the outermost object; in an array it is "". The values of
 *
 *     {"dim": 4096, "rope": {"type": "default"}, "ends": [2, 3]}
 *
 * come as '{' at level 0; '0' at level 1, key[1] "dim"; '{' at level 1, key[1] "rope"; '"' at level
 * 2, key[1] "rope" and key[2] "type"; '}' at level 1; '[' at level 1, key[1] "ends"; '0' and '0' at
 * level 2, key[2] ""; ']' at level 1; '}' at level 0. */
enum { LLAMAC_JSON_DEPTH = 32 };
typedef struct {
    llamac_cursor c;               /* c.bad: it is not JSON */
    int level, depth;              /* of the value; containers open behind it */
    bool begun;                    /* a value stands before, in the same container */
    char close[LLAMAC_JSON_DEPTH]; /* what ends each container that is open */
    struct {
        const char *text; /* escapes as they stand */
        size_t n;
    } key[LLAMAC_JSON_DEPTH + 1];
    char kind;        /* as llamac_json_next returns it */
    double number;    /* '0' */
    const char *text; /* '"': [n], escapes as they stand */
    size_t n;
} llamac_json;

/* Before the first value. */
LLAMAC_INLINE llamac_json llamac_json_on(const void *p, size_t n) {
    llamac_json j = {0};
    j.c = llamac_cursor_on(p, n);
    return j;
}

/* The kind of a value that is no container; 0: it is none. */
LLAMAC_INLINE char llamac_json_plain(llamac_json *j) {
    static const char *const words[] = {"true", "false", "null"};
    llamac_cursor *c = &j->c;
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (llamac_left(c) < n || memcmp(c->at, words[i], n) != 0) continue;
        c->at += n;
        return *words[i];
    }
    if (c->at < c->end && *c->at == '"') return llamac_json_string(c, &j->text, &j->n) ? '"' : 0;
    return llamac_json_number(c, &j->number) ? '0' : 0;
}

/* The next value's kind: '0' a number, '"' a string, 't', 'f' or 'n' the words, '{' or '[' the
 * beginning of a container, whose values follow, '}' or ']' its end. 0: that was all, or c.bad. */
LLAMAC_INLINE char llamac_json_next(llamac_json *j) {
    llamac_cursor *c = &j->c;
    char close = j->depth ? j->close[j->depth - 1] : 0;
    j->kind = 0;
    if (!close && j->begun) { /* nothing but space may follow the document */
        c->bad = llamac_json_is(c, 0) || c->at != c->end;
        return 0;
    }
    if (close && llamac_json_is(c, close)) {
        j->level = --j->depth;
        j->begun = true;
        return j->kind = close;
    }
    bool good = !close || !j->begun || llamac_json_is(c, ',');
    j->level = j->depth;
    j->key[j->level].text = "";
    j->key[j->level].n = 0;
    if (good && close == '}')
        good = llamac_json_string(c, &j->key[j->level].text, &j->key[j->level].n) &&
               llamac_json_is(c, ':');
    bool object = good && llamac_json_is(c, '{'), container = object || llamac_json_is(c, '[');
    if (good && container && j->depth < LLAMAC_JSON_DEPTH) {
        j->close[j->depth++] = object ? '}' : ']';
        j->kind = object ? '{' : '[';
    } else if (good && !container) j->kind = llamac_json_plain(j);
    j->begun = !container;
    c->bad = !j->kind;
    return j->kind;
}

/* Is the value at this level, or in the container that is, under that key? */
LLAMAC_INLINE bool llamac_json_under(const llamac_json *j, int level, const char *key) {
    return j->level >= level && j->key[level].n == strlen(key) &&
           memcmp(j->key[level].text, key, j->key[level].n) == 0;
}

/* ---- GGUF: pairs of keys and values, a list of tensors, their elements ---- */

/*   "GGUF"      version (32 bits), how many tensors, how many pairs (64 bits each)
 *   pairs       a key; the type of the value (32 bits); the value
 *   tensors     a name, how many dimensions (32 bits), these, its type (32 bits), its offset
 *   elements    from the next multiple of general.alignment on, which is 32 if no pair says more
 *
 * A string is its length in 64 bits and its bytes; an array the type of its items, how many in 64
 * bits, the items. All numbers are little-endian. */

typedef struct {     /* a pair */
    const char *key; /* [length] */
    size_t length;
    char kind;           /* as llamac_json's: '0', '"', 't', 'f'; '[' an array */
    double number;       /* '0' */
    const char *text;    /* '"', [n] */
    uint64_t n;          /* bytes of a string, items of an array */
    uint64_t type;       /* of GGUF's, of the value or the items */
    llamac_cursor items; /* begins at the first */
} llamac_pair;

/* Types that are no whole numbers. A bool is a byte, 0 or 1 and nothing else. */
enum { GGUF_FLOAT = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_DOUBLE = 12 };

/* A value of one of GGUF's plain types: its kind as in JSON; 0: no such type, or cut short. */
LLAMAC_INLINE char llamac_gguf_value(llamac_cursor *c, uint64_t type, llamac_pair *v) {
    static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    if (type >= sizeof bytes || !bytes[type]) return 0;
    int n = bytes[type];
    uint64_t bits = llamac_uint(c, n);
    if (type == GGUF_BOOL && bits > 1) return 0;
    v->type = type;
    v->number = (double)bits;
    if (type == 1 || type == 3 || type == 5 || type == 11) { /* signed */
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
    return c->bad ? 0 : type == GGUF_STRING ? '"' : type == GGUF_BOOL ? (bits ? 't' : 'f') : '0';
}

/* ---- Memory, and errors ---- */

/* The allocator of a host that gives none. C11 wants a multiple of the alignment. */
LLAMAC_INLINE void *llamac_default_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

LLAMAC_INLINE void llamac_default_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    free(p);
}

/* A copy, so that the host may throw its own away. */
LLAMAC_INLINE llama_allocator llamac_allocator_or_default(const llama_allocator *a) {
    static const llama_allocator standard = {NULL, llamac_default_alloc, llamac_default_free};
    return a && a->alloc && a->free ? *a : standard;
}

/* Copy a caller's struct, which may be older (shorter) or newer than ours; absent fields are 0. */
LLAMAC_INLINE bool llamac_take_struct(void *to, size_t known, const void *from) {
    size_t size = known;
    memset(to, 0, known);
    if (!from) return true;
    memcpy(&size, from, sizeof size);
    if (size < sizeof size) return false; /* a size that was never set */
    memcpy(to, from, size < known ? size : known);
    return true;
}

/* An arena owns what one object allocated and frees it all at once. Small pieces are cut from
 * chunks, large ones have a block of their own. Failing half-way through a file leaves nothing
 * to be undone piece by piece: opening has one arena for what the model keeps and one, freed in
 * any case, for what only the reading needs. */
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
LLAMAC_INLINE void *llamac_new(llamac_arena *a, uint64_t count, uint64_t size) {
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

/* All of it, large and small. */
LLAMAC_INLINE void llamac_free_all(llamac_arena *a) {
    while (a->last) {
        llamac_block *b = a->last;
        a->last = b->next;
        a->allocator.free(a->allocator.user, b, b->bytes);
    }
}

/* Fill err, which may be NULL, with the formatted text and return status: the one place where
 * an error gets its text. One line, cut at the size of the struct. */
__attribute__((format(printf, 3, 4))) LLAMAC_INLINE int llamac_fail(llama_error *err, int status,
                                                                    const char *format, ...) {
    if (!err) return status;
    va_list args;
    va_start(args, format);
    err->status = status;
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    for (size_t i = 0, n = strlen(err->text), size; i < n; i += size) {
        int32_t c;
        size = llama_utf8_next(err->text + i, n - i, &c);
        if (llama_is_control(c)) memset(err->text + i, '?', size); /* a name may not act */
    }
    return status;
}

/* ---- Files, and what every refusal of one says ---- */

/* Weights are mapped read-only and shared: their pages are the kernel's page cache itself. Nothing
 * is copied, opening costs no more than looking at the headers, and several processes with one
 * model have its weights in memory once. Reading a page that is not there yet waits for the disk.
 * What is small (parameters, the tokenizer, an index) is read into memory, where nobody can cut it
 * short any more. */

typedef struct {
    const unsigned char *data; /* the first byte; NULL: not mapped */
    size_t size;               /* in bytes */
    dev_t device;              /* with inode: which file it is */
    ino_t inode;
} llamac_mapping;

/* `what` was to be made or read: a file, mostly. */
LLAMAC_INLINE int llamac_out_of_memory(llama_error *err, const char *what) {
    return llamac_fail(err, LLAMA_ENOMEM, "%s: out of memory", what);
}

enum { LLAMAC_PATH_BYTES = 4096 };
#define LLAMAC_STATE "lm.state" /* what a saved state begins with */

/* out = folder/name */
LLAMAC_INLINE int llamac_join(char out[LLAMAC_PATH_BYTES], const char *folder, const char *name,
                              llama_error *err) {
    int n = snprintf(out, LLAMAC_PATH_BYTES, "%s/%s", folder, name);
    if (n > 0 && n < LLAMAC_PATH_BYTES) return LLAMA_OK; /* n: what it would take */
    return llamac_fail(err, LLAMA_EINVAL, "%.300s: the path is too long", folder);
}

/* Is there such a file in the folder? */
LLAMAC_INLINE bool llamac_holds(const char *folder, const char *name) {
    char path[LLAMAC_PATH_BYTES];
    return llamac_join(path, folder, name, NULL) == LLAMA_OK && access(path, F_OK) == 0;
}

/* After llamac_map_file: there is no such file, as opposed to one that is no good. */
LLAMAC_INLINE bool llamac_is_absent(int status) { return status == LLAMA_EIO && errno == ENOENT; }

/* Open a regular file that is not empty: its descriptor, or a negative status. O_NONBLOCK: a FIFO
 * must not make us wait. */
LLAMAC_INLINE int llamac_open_file(const char *path, struct stat *st, llama_error *err) {
    int status, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int why = errno;
        llamac_fail(err, LLAMA_EIO, "%s: cannot be opened: %s", path, strerror(why));
        errno = why; /* for llamac_is_absent */
        return LLAMA_EIO;
    }
    if (fstat(fd, st) != 0)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    else if (!S_ISREG(st->st_mode))
        status =
            llamac_fail(err, LLAMA_EIO, "%s: is not a regular file; give the file itself", path);
    else if (st->st_size <= 0)
        status = llamac_fail(err, LLAMA_EFORMAT, "%s: is empty; get it again", path);
    else return fd;
    close(fd);
    errno = 0; /* not ENOENT: there is a file */
    return status;
}

/* Map a file, read-only. */
LLAMAC_INLINE int llamac_map_file(llamac_mapping *f, const char *path, llama_error *err) {
    struct stat st;
    int status = LLAMA_OK, fd = llamac_open_file(path, &st, err);
    f->data = NULL;
    if (fd < 0) return fd;
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        status = llamac_fail(err, errno == ENOMEM ? LLAMA_ENOMEM : LLAMA_EIO,
                             "%s: cannot be mapped: %s", path, strerror(errno));
    else *f = (llamac_mapping){p, (size_t)st.st_size, st.st_dev, st.st_ino};
    close(fd); /* the mapping outlives it */
    if (status) errno = 0;
    /* cppcheck-suppress memleak; it stands in *f */
    return status;
}

/* Read n bytes, or as many as there are: how many; negative: it failed. read may give fewer than it
 * is asked for, and a signal may interrupt it. */
LLAMAC_INLINE ptrdiff_t llamac_read(int fd, void *to, size_t n) {
    size_t done = 0;
    while (done < n) {
        ssize_t got = read(fd, (char *)to + done, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ptrdiff_t)done;
}

/* Read all of a file of at most `most` bytes into an arena; *c is then on it. */
LLAMAC_INLINE int llamac_read_file(llamac_cursor *c, llamac_arena *arena, const char *path,
                                   uint64_t most, llama_error *err) {
    struct stat st;
    int status = LLAMA_OK, fd = llamac_open_file(path, &st, err);
    if (fd < 0) return fd;
    size_t n = (uint64_t)st.st_size <= most ? (size_t)st.st_size : 0;
    void *to = n ? llamac_new(arena, n, 1) : NULL;
    if (!n)
        status = llamac_fail(err, LLAMA_EFORMAT, "%s: is too large for what it should be", path);
    else if (!to) status = llamac_out_of_memory(err, path);
    else if (llamac_read(fd, to, n) != (ptrdiff_t)n)
        status = llamac_fail(err, LLAMA_EIO, "%s: cannot be read to its end", path);
    else *c = llamac_cursor_on(to, n);
    close(fd);
    if (status) errno = 0;
    return status;
}

/* A mapping that was never made, or was undone, is fine. After this its bytes are gone, and what
 * pointed to them points to nothing. */
LLAMAC_INLINE void llamac_unmap_file(llamac_mapping *f) {
    if (f->data) munmap((void *)(uintptr_t)f->data, f->size);
    f->data = NULL;
}

/* Before reading a file here and there: a page at a time, nothing ahead. True: none of it was in
 * memory, as far as some of its pages tell. */
LLAMAC_INLINE bool llamac_browse(const llamac_mapping *f) {
    enum { APART = 1 << 24 };
    unsigned char *data = (unsigned char *)(uintptr_t)f->data, there = 0;
    for (size_t i = 0; i < f->size && !(there & 1); i += APART)
        if (mincore(data + i, 1, &there) != 0) there = 1;
    madvise(data, f->size, MADV_RANDOM);
    return !(there & 1);
}

/* After that: large pages, where the file system has them. The small ones that a cold file was
 * browsed by go, or the kernel would not read large ones around them. */
LLAMAC_INLINE void llamac_browsed(const llamac_mapping *f, bool cold) {
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

/* n bytes of memory that are used here and there, in small pages where the system would give large
 * ones unasked: one byte would take 2 MB. Less than malloc maps alone is left as it is. */
LLAMAC_INLINE void llamac_used_sparsely(void *p, size_t n, size_t page) {
    enum { ALONE = 32 << 20 };
    (void)p, (void)page;
#ifdef MADV_NOHUGEPAGE
    size_t before = (page - (uintptr_t)p % page) % page;
    if (n > ALONE) madvise((unsigned char *)p + before, n - before, MADV_NOHUGEPAGE);
#endif
}

/* Have n bytes of a mapping read in and mapped, in the kernel by one call: touching the pages one
 * by one costs a fault for each, even where it is in memory. That is done where the kernel (Linux
 * before 5.14) cannot be asked. */
LLAMAC_INLINE void llamac_page_in(const unsigned char *data, size_t n) {
    enum { PAGE = 4096 };
#ifdef MADV_POPULATE_READ
    if (madvise((void *)(uintptr_t)data, n, MADV_POPULATE_READ) == 0 || errno != EINVAL) return;
#endif
    for (size_t i = 0; i < n; i += PAGE) (void)((const volatile unsigned char *)data)[i];
}

/* ---- Cores ---- */

/* A container is given a share of the machine by cgroups, folders under /sys/fs/cgroup whose files
 * say how much time their processes may use: so many microseconds of all cores in each period of
 * so many. /proc/self/cgroup tells which folders a process is in, and every folder above one
 * limits it too:
 *
 *     version 2   0::/user.slice/a          cpu.max             "150000 100000" or "max 100000"
 *     version 1   4:cpu,cpuacct:/docker/b   cpu.cfs_quota_us    "150000", or "-1" for no limit
 *                                           cpu.cfs_period_us   "100000"
 *
 * 150000 of 100000 are one and a half cores; two threads serve that best. */

/* A file the kernel makes, or as much as fits, terminated; "" if it cannot be read. */
LLAMAC_INLINE void llamac_read_small(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
}

/* The cores' worth of time a cgroup may use, rounded up; 0: no limit. Version 2 has "quota
 * period" in one file, version 1 a file for each. */
LLAMAC_INLINE long llamac_cgroup_quota(const char *folder, bool v2) {
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
LLAMAC_INLINE long llamac_cgroup_cores(const char *proc, const char *sys) {
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

/* ---- The floating-point mode ---- */

/* A host may flush denormals or round otherwise, and the bits must
 * not follow. llamac_fp_enter sets the default mode and returns the one there was;
 * llamac_fp_leave puts it back. */
LLAMAC_INLINE uint64_t llamac_fp_enter(void) {
    uint64_t old = 0;
#if defined(__x86_64__)
    old = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1f80); /* round to nearest, denormals kept, exceptions masked */
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
#endif
    return old;
}

/* On other machines there is nothing to save, and the host is trusted. */
LLAMAC_INLINE void llamac_fp_leave(uint64_t old) {
    (void)old;
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((unsigned)old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#endif
}

/* ---- What llama.c and tokenizer.c have of each other ---- */

/* tokenizer.c knows a model by its vocabulary, which comes from the bytes of a tokenizer.model,
 * .json or .bin, or from inside GGUF, has at most so many pieces, and keeps a copy of what it
 * needs. */
typedef struct llamac_vocab llamac_vocab;
LLAMAC_SHARED int llamac_vocab_parse(llamac_vocab **, llamac_cursor bytes, size_t most,
                                     const char *file, llamac_arena *, llama_error *);
/* What the pairs of a GGUF file say of the vocabulary: noted as they come, then gathered; *out
 * stays NULL where there is none. */
typedef struct {
    llamac_pair model, tokens, scores, types;
    double bos, eos, space_in_front; /* the last: add_space_prefix */
} llamac_gguf_vocab;
LLAMAC_SHARED void llamac_vocab_note(llamac_gguf_vocab *, const llamac_pair *);
LLAMAC_SHARED int llamac_vocab_gather(llamac_vocab **out, llamac_gguf_vocab *, size_t most,
                                      const char *file, llamac_arena *, llama_error *);
LLAMAC_SHARED const llamac_vocab *llamac_vocab_of(const llama *); /* NULL: it has none */
LLAMAC_SHARED const llama_allocator *llamac_allocator_of(const llama *);
LLAMAC_SHARED int llamac_failed(llama_session *, int status, const char *text);
LLAMAC_SHARED int32_t llamac_vocab_bos(const llamac_vocab *);
LLAMAC_SHARED int32_t llamac_vocab_eos(const llamac_vocab *);
LLAMAC_SHARED ptrdiff_t llamac_encode(const llamac_vocab *, const llama_allocator *,
                                      const char *text, size_t n, unsigned flags, int32_t *out,
                                      size_t cap);
LLAMAC_SHARED const char *llamac_piece(const llamac_vocab *, int32_t token, size_t *n);
LLAMAC_SHARED size_t llamac_decode(const llamac_vocab *, llama_decoder *, int32_t token,
                                   char out[LLAMA_TEXT_MAX]);

#endif /* LLAMA_PRIVATE */

/* ==== The part of the ground that llama.c alone stands on ==================================== */

/* Numbers, then the readers of files that hold tensors. None of it knows a model. */
#if defined(LLAMA_CORE) && !defined(LLAMAC_CORE_H)
#define LLAMAC_CORE_H

/* A status in words, for who has no llama_error at hand: what kind of failure it was. Which file
 * and why, only the llama_error of the call can tell. */
static const char *status_text(int status) {
    static const char *const texts[] = {
        [-LLAMA_OK] = "no error",
        [-LLAMA_EINVAL] = "invalid argument",
        [-LLAMA_EIO] = "reading or writing failed",
        [-LLAMA_EFORMAT] = "the file is not what it should be",
        [-LLAMA_ENOMEM] = "out of memory",
        [-LLAMA_EFULL] = "the context is full",
        [-LLAMA_ECANCEL] = "cancelled",
        [-LLAMA_EMISMATCH] = "the saved state belongs to another model",
        [-LLAMA_ENUMERIC] = "the logits are not finite",
    };
    return status <= LLAMA_OK && status >= LLAMA_ENUMERIC ? texts[-status] : "unknown error";
}

/* Do these n bytes say `want`? */
static bool is(const char *want, const char *text, size_t n) {
    return strlen(want) == n && memcmp(want, text, n) == 0;
}

/* ---- exp, log, sine, cosine: our own, so that they are the same everywhere ---- */

/* To about 1 ulp of double, from + - * / alone: for tables and the sampler. The forward pass has
 * exp_float, below. */

/* x = n ln 2 + r with |r| <= ln 2 / 2; exp x = 2^n exp r, exp r by Taylor's series to r^13, whose
 * next term is below 2^-57. ln 2 is taken in two parts: the first has so few bits that n times it
 * is exact, so r loses nothing where x and n ln 2 nearly cancel. */
static double exp_double(double x) {
    /* clang-format off */
    static const double inverse_factorial[] = {
        1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
        1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    /* clang-format on */
    if (!(x > -700)) return x != x ? x : 0;
    if (x > 700) return HUGE_VAL;
    double n = (double)(long)(x * 0x1.71547652b82fep+0 + (x < 0 ? -0.5 : 0.5)); /* x / ln 2 */
    double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33; /* ln 2 in two parts */
    double sum = inverse_factorial[13];
    for (int i = 12; i >= 0; i--) sum = sum * r + inverse_factorial[i];
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52; /* 2^n: the exponent field alone */
    double power;
    memcpy(&power, &bits, 8);
    return sum * power;
}

/* x > 0 and normal: x = m 2^e with m from sqrt(1/2) to sqrt 2, and log m = 2 atanh(z) with z =
 * (m-1)/(m+1), |z| < 0.172: the series z + z^3/3 + z^5/5 + ... to z^21 is enough. */
static double log_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 0x1.6a09e667f3bcdp+0) m *= 0.5, e++; /* sqrt 2: so that m is near 1 on either side */
    double z = (m - 1) / (m + 1), z2 = z * z, sum = 0;
    for (int k = 21; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
    return e * 0x1.a39ef35793c76p-33 + 2 * z * sum + e * 0x1.62e42fee00000p-1;
}

/* 0 <= x < 2^21: reduced by multiples of pi/2 to |r| <= pi/4, then Taylor's series to r^21. pi/2 is
 * taken in three parts, of which n times the first two is exact; the quadrant n mod 4 says which
 * of the two is sine and which sign they have. */
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
    switch ((long)n & 3) { /* the quadrant */
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s;
    }
}

/* exp to about 1 ulp by range reduction and a minimax polynomial; the same steps in each
 * instruction set. Below -87.3 it is +0, above 88.3 infinity. */
static inline __attribute__((always_inline)) float exp_float(float x) {
    float shifted =
        __builtin_fmaf(x, 0x1.715476p+0f, 0x1.8p23f); /* x / ln 2, rounded, in the low bits */
    float n = shifted - 0x1.8p23f;                    /* how many times ln 2 */
    float r = __builtin_fmaf(n, -0x1.62e4p-1f, x);    /* ln 2 in two parts: |r| <= ln 2 / 2 */
    r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 0x1.6a2434p-10f; /* (exp(r) - 1 - r) / r^2, off by 4e-9 at most */
    p = __builtin_fmaf(p, r, 0x1.1239e2p-7f);
    p = __builtin_fmaf(p, r, 0x1.5558f2p-5f);
    p = __builtin_fmaf(p, r, 0x1.555492p-3f);
    p = __builtin_fmaf(p, r, 0x1.fffffcp-2f);
    p = __builtin_fmaf(p, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23; /* 2^n */
    memcpy(&power, &bits, 4);
    float y = p * power;
    return x > 88.3f ? HUGE_VALF : x < -87.3f ? 0.0f : y;
}

/* Uniform in [0,1): a counter-based generator (splitmix64's mixing) keyed by seed and position. */
static double uniform(uint64_t seed, uint64_t position) {
    uint64_t x = seed;
    for (int i = 0; i < 2; i++) {
        x += 0x9e3779b97f4a7c15 * (i ? position + 1 : 1); /* first the seed, then the position */
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        x ^= x >> 31;
    }
    return (double)(x >> 11) * 0x1p-53; /* 53 bits: all a double has */
}

/* log sum_i exp(logits[i]), the highest taken out first so that nothing overflows */
static double log_sum_exp(const float *logits, size_t n) {
    double top = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) top = (double)logits[i] > top ? (double)logits[i] : top;
    for (size_t i = 0; i < n; i++) sum += exp_double((double)logits[i] - top);
    return top + log_double(sum);
}

/* The natural log of the probability the plain softmax of these logits gives a token. */
static float log_probability(const float *logits, size_t vocab, int32_t token) {
    return (float)((double)logits[token] - log_sum_exp(logits, vocab));
}

/* How many tokens are before it: of a higher logit, or of an equal one and with a lower id. */
static int32_t rank_of(const float *logits, size_t vocab, int32_t token) {
    int32_t above = 0;
    for (size_t i = 0; i < vocab; i++)
        above += logits[i] > logits[token] || (i < (size_t)token && logits[i] == logits[token]);
    return above;
}

/* p = softmax(p / temperature); false: all are -inf, or one is no number */
static bool soften(double *p, size_t n, double temperature) {
    double top = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) top = p[i] > top ? p[i] : top;
    for (size_t i = 0; i < n; i++) sum += p[i] = exp_double((p[i] - top) / temperature);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
    return sum > 0;
}

/* ---- A heap of ids, the foremost on top ---- */

/* It gives the foremost in order without sorting the rest. Node i has its children at 2 i + 1 and
 * 2 i + 2. */

/* Before which token another comes: the higher value, then the lower id. */
static bool before(const double *p, int32_t a, int32_t b) {
    return p[a] > p[b] || (a < b && p[a] == p[b]);
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

/* n ids as a heap. */
static void heapify(int32_t *ids, size_t n, const double *p) {
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

/* Probabilities by size, sixteen sizes an octave: 0 is 1 alone, the last all below 2^-31. */
enum { SIZES = 512 };
static size_t size_of(double p) {
    uint64_t bits, one = 0x3ff0; /* sign, exponent and four bits of the fraction of 1.0 */
    memcpy(&bits, &p, sizeof bits);
    return one - (bits >> 48) < SIZES ? one - (bits >> 48) : SIZES - 1;
}

/* Of probabilities keep the foremost: `most` of them at most, and each while the sum of those
 * before it is <= limit. The others become 0. All are added up by size; only those of the size
 * at which it ends are put in order. */
static void keep_foremost(double *p, int32_t *ids, size_t n, size_t most, double limit) {
    size_t count[SIZES] = {0}, kept = 0, end = 0, same = 0;
    double sum[SIZES] = {0}, before_it = 0;
    for (size_t i = 0; i < n; i++) count[size_of(p[i])]++, sum[size_of(p[i])] += p[i];
    for (; end + 1 < SIZES && kept + count[end] <= most && before_it + sum[end] <= limit; end++)
        kept += count[end], before_it += sum[end];
    for (size_t i = 0; i < n; i++)
        if (size_of(p[i]) == end) ids[same++] = (int32_t)i;
        else if (size_of(p[i]) > end) p[i] = 0;
    heapify(ids, same, p);
    for (; same && kept < most && before_it <= limit; kept++)
        before_it += p[heap_pop(ids, same--, p)];
    for (size_t i = 0; i < same; i++) p[ids[i]] = 0;
}

/* ---- Elements as they are stored ---- */

/*              sign   exponent   fraction   a value is (-1)^sign 2^(exponent - bias) 1.fraction
 *   float32    1      8          23         bias 127
 *   float16    1      5          10         bias 15: from 6e-8 to 65504
 *   bfloat16   1      8          7          bias 127: the upper half of a float32
 *
 * An exponent of zeros alone is 2^(1 - bias) 0.fraction, one of ones infinite or no number. Every
 * float16 and bfloat16 is a float32 too, so widening loses nothing. */

typedef enum { F32, F16, BF16, DTYPES } dtype;
static const size_t dtype_bytes[DTYPES] = {4, 2, 2};

/* IEEE half to float: the exponent is rebiased by a multiplication, exact for subnormals too. */
static inline float half_to_float(uint16_t h) {
    uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
    float f;
    memcpy(&f, &bits, 4);
    f *= 0x1p112f; /* 2^(127 - 15), the difference of the two biases */
    memcpy(&bits, &f, 4);
    if ((h & 0x7c00) == 0x7c00) bits |= 0x7f800000; /* inf, nan */
    bits |= (uint32_t)(h & 0x8000) << 16;
    memcpy(&f, &bits, 4);
    return f;
}

/* Element i of a stored row as float32, exactly, at any address. */
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

/* What is wrong with n elements of a type; *at: the first of which it is so. Zeros add up over
 * calls in *zeros. */
static const char *find_damage(int type, const unsigned char *data, size_t n, size_t longest,
                               size_t *zeros, size_t *at) {
    static const uint32_t exponents[DTYPES] = {0x7f800000, 0x7c00,
                                               0x7f80}; /* all ones: no number */
    uint32_t exponent = exponents[type], any = 0, bad = 0, bits = 0;
    size_t size = dtype_bytes[type];
    for (size_t k = 0; k < n; k++) {
        memcpy(&bits, data + k * size, size);
        any |= bits;
        bad |= (bits & exponent) == exponent;
    }
    *at = 0;
    *zeros = any ? 0 : *zeros + n;
    if (!bad) return *zeros * size < longest ? NULL : "only zeros, as where a download broke off,";
    for (; *at + 1 < n; ++*at) { /* the file may be another by now: not beyond n */
        memcpy(&bits, data + *at * size, size);
        if ((bits & exponent) == exponent) break;
    }
    return "a number that is not finite";
}

/* No exponent is all ones. By integers: no trap of the host's sees a number that is none. */
static bool all_finite(const float *x, size_t n) {
    uint32_t bits, bad = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

/* ---- Tensors of any format ---- */

enum { MAX_DIMS = 4, MAX_TENSORS = 65536 /* in one file */, MAX_NAME = 256 /* bytes of one's */ };

typedef struct tensor {
    struct tensor *next;
    const char *name; /* in the file, [length] */
    size_t length;
    const unsigned char *data;                  /* the first element, at any address */
    uint64_t shape[MAX_DIMS], stride[MAX_DIMS]; /* [dims] in elements; the last the fastest */
    int dims;
    uint64_t begin, end; /* where it lies among the elements; of safetensors alone */
    int type;            /* dtype; -1: another one, then data is NULL and */
    char stored[16];     /* this is what the file calls it */
} tensor;

typedef struct { /* a file while it is read */
    const char *file;
    llamac_cursor bytes;   /* all of them */
    llamac_arena *scratch; /* freed when the model is open */
    llama_error *err;
    tensor *tensors; /* found so far, the last one first */
} archive;

/* A refusal names the file, what is wrong, and what can be done about it. Every refusal of an
 * archive ends alike, as what the user can do is the same. */
static int bad_archive(const archive *a, const char *why) {
    return llamac_fail(a->err, LLAMA_EFORMAT,
                       "%s: %s; it is damaged or not a checkpoint: download it again", a->file,
                       why);
}

/* The same of one tensor. */
static int bad_tensor(const archive *a, const tensor *t, const char *why) {
    return llamac_fail(a->err, LLAMA_EFORMAT,
                       "%s: tensor '%.*s' %s; it is damaged or not LLaMA's: download it again",
                       a->file, (int)(t->length < 80 ? t->length : 80), t->name, why);
}

/* Put a tensor on the list. The caller's struct is copied, its name and elements stay where they
 * are in the file. */
static int add_tensor(archive *a, tensor t) {
    if (t.length > MAX_NAME) return bad_tensor(a, &t, "has a name longer than any");
    tensor *kept = llamac_new(a->scratch, 1, sizeof *kept);
    if (!kept) return llamac_out_of_memory(a->err, a->file);
    t.next = a->tensors;
    *kept = t;
    a->tensors = kept;
    return LLAMA_OK;
}

/* A tensor whose elements lie side by side from offset on among `data`: its strides, and how many
 * bytes it takes, which must be there. */
static int add_dense(archive *a, tensor t, llamac_cursor data, uint64_t offset, uint64_t *bytes) {
    uint64_t n = 1;
    bool over = false;
    for (int d = t.dims; d-- > 0;) {
        t.stride[d] = n;
        over |= __builtin_mul_overflow(n, t.shape[d], &n);
    }
    if (t.type < 0) return add_tensor(a, t); /* kept, to be refused by name */
    over |= __builtin_mul_overflow(n, dtype_bytes[t.type], bytes);
    llamac_take(&data, offset);
    t.data = over ? NULL : llamac_take(&data, *bytes);
    if (!t.data || n == 0) return bad_tensor(a, &t, "is empty or reaches past the end of the file");
    return add_tensor(a, t);
}

/* ---- PyTorch's zip: stored entries, found through the central directory (APPNOTE.TXT 4.3) ---- */

/* Read from its end:
 *
 *   entry       "PK\3\4", a header of 30 bytes, name, extra field, the bytes themselves: of
 *               ROOT/data.pkl, the pickle, and of ROOT/data/0, ROOT/data/1, ..., the storages
 *   ...
 *   directory   for each entry "PK\1\2", 46 bytes: its sizes, its name, where it begins; what
 *               needs more than 32 bits stands in an extra field
 *   zip64 end   "PK\6\6": how many entries, where the directory begins, in 64 bits
 *   locator     "PK\6\7": where the zip64 end is
 *   end         "PK\5\6": the same in 16 and 32 bits; the last thing in the file
 *
 * The headers before the bytes are no help: PyTorch leaves sizes of 0 there. */

typedef struct {      /* the bytes of a storage */
    const char *name; /* its key; of a zip's entries at first the whole ROOT/data/KEY */
    size_t name_length;
    const unsigned char *data; /* the first byte, in the mapped file */
    uint64_t size;             /* in bytes */
    size_t turn;               /* in the older form, how many come before it in the file */
    int type;                  /* dtype, -1 until a tensor tells it */
} entry;

typedef struct { /* a file of PyTorch's while it is read */
    archive *a;
    entry *entries; /* [n_entries] in the end sorted by key */
    size_t n_entries;
    entry pickle; /* of a zip: data NULL until found */
} torch_file;

/* The n-byte number at an offset; 0 outside. */
static uint64_t number_at(llamac_cursor c, uint64_t offset, int n) {
    llamac_take(&c, offset);
    return llamac_uint(&c, n);
}

/* The directory, through the end record and, where there is one, its zip64 form. The end
 * record is the last thing in the file but for a comment, whose length must fit. */
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
            return bad_archive(z->a, "its zip64 end record is lost");
        *count = number_at(c, end + 32, 8);
        bytes = number_at(c, end + 40, 8);
        at = number_at(c, end + 48, 8);
    }
    llamac_take(&c, at);
    const unsigned char *p = llamac_take(&c, bytes);
    if (!p) return bad_archive(z->a, "its zip directory lies outside the file");
    *directory = llamac_cursor_on(p, (size_t)bytes);
    return LLAMA_OK;
}

/* One directory entry, at *c, which moves to the next. Its extra field 1 has, in order, the
 * numbers that did not fit in 32 bits. The data follow the local header, which has the same name
 * and an extra field of its own; behind them comes the next header, or a descriptor.
 *
 * All of that is looked at, though it could be done without: a bit that was turned in one of these
 * lengths or offsets would have the weights begin elsewhere, and no other check would tell. */
static int zip_one(const torch_file *z, llamac_cursor *c, entry *e) {
    enum { HEADER = 46, LOCAL = 30 };
    static const uint32_t behind[] = {0x04034b50, 0x02014b50, 0x08074b50}; /* PK and 34, 12, 78 */
    llamac_cursor h = *c, data = z->a->bytes;
    llamac_take(c, HEADER);
    uint64_t name = number_at(h, 28, 2), extra = number_at(h, 30, 2);
    uint64_t packed = number_at(h, 20, 4), size = number_at(h, 24, 4), at = number_at(h, 42, 4);
    e->name = (const char *)llamac_take(c, name);
    e->name_length = (size_t)name;
    const unsigned char *fields = llamac_take(c, extra);
    llamac_take(c, number_at(h, 32, 2)); /* the comment */
    if (c->bad || number_at(h, 0, 4) != 0x02014b50)
        return bad_archive(z->a, "its zip directory is damaged");
    llamac_cursor x = llamac_cursor_on(fields, (size_t)extra);
    while (llamac_left(&x) >= 4) {
        uint64_t id = llamac_uint(&x, 2), n = llamac_uint(&x, 2);
        const unsigned char *p = llamac_take(&x, n);
        if (!p || id != 1) continue;
        llamac_cursor wide = llamac_cursor_on(p, (size_t)n);
        if (size == UINT32_MAX) size = llamac_uint(&wide, 8);
        if (packed == UINT32_MAX) packed = llamac_uint(&wide, 8);
        if (at == UINT32_MAX) at = llamac_uint(&wide, 8);
        if (wide.bad) return bad_archive(z->a, "a zip64 field is cut short");
    }
    if ((number_at(h, 8, 2) & 1) || number_at(h, 10, 2) != 0 || packed != size)
        return bad_archive(z->a, "an entry is compressed or encrypted, as no checkpoint's is");
    llamac_take(&data, at);
    llamac_cursor local = data;
    llamac_take(&data, LOCAL);
    const unsigned char *again = llamac_take(&data, number_at(local, 26, 2));
    if (number_at(local, 0, 4) != 0x04034b50 || number_at(local, 26, 2) != name || !again ||
        memcmp(again, e->name, e->name_length) != 0)
        return bad_archive(z->a, "an entry is not where it should be");
    uint64_t own = number_at(local, 28, 2); /* made of fields: id, length, bytes */
    fields = llamac_take(&data, own);
    x = llamac_cursor_on(fields, fields ? (size_t)own : 0);
    while (llamac_left(&x)) llamac_uint(&x, 2), llamac_take(&x, llamac_uint(&x, 2));
    if (x.bad) return bad_archive(z->a, "a header's extra field is damaged");
    e->data = llamac_take(&data, size);
    e->size = size;
    e->type = -1;
    if (!e->data) return bad_archive(z->a, "an entry reaches past the end");
    for (int i = 0; i < 3; i++)
        if (number_at(data, 0, 4) == behind[i]) return LLAMA_OK;
    return bad_archive(z->a, "an entry does not end where the next begins");
}

/* Storages are looked up by key. */
static int compare_keys(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->name_length != y->name_length) return x->name_length < y->name_length ? -1 : 1;
    return memcmp(x->name, y->name, x->name_length);
}

/* The storage of that key; NULL: there is none. */
static entry *find_storage(const torch_file *z, const char *key, size_t n) {
    entry want = {.name = key, .name_length = n};
    return bsearch(&want, z->entries, z->n_entries, sizeof want, compare_keys);
}

/* The pickle is the entry named ROOT/data.pkl, whatever the root, the storages those named
 * ROOT/data/KEY. */
static int zip_open(torch_file *z) {
    enum { ENTRY_MIN = 46, SUFFIX = 9 };
    llamac_cursor directory = {0};
    uint64_t count = 0;
    int status = zip_directory(z, &directory, &count);
    if (status) return status;
    if (count > llamac_left(&directory) / ENTRY_MIN || count > MAX_TENSORS)
        return bad_archive(z->a, "its zip directory has more entries than bytes for them");
    z->entries = llamac_new(z->a->scratch, count, sizeof *z->entries);
    if (!z->entries) return llamac_out_of_memory(z->a->err, z->a->file);
    for (; z->n_entries < count; z->n_entries++) {
        entry *e = &z->entries[z->n_entries];
        if ((status = zip_one(z, &directory, e))) return status;
        if (e->name_length < SUFFIX) continue;
        if (memcmp(e->name + e->name_length - SUFFIX, "/data.pkl", SUFFIX) == 0) z->pickle = *e;
    }
    if (!z->pickle.data) return bad_archive(z->a, "it holds no data.pkl");
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

/* ---- The pickle: a stack machine that can build tensors, and nothing else ---- */

/* A checkpoint's dict of tensors is a program for a stack machine (Python's pickletools.py
 * names the opcodes). Ours knows the opcodes and globals listed below and refuses all
 * others by name; a "call" makes a record of a tensor, and no code but this runs. To say
 * {"norm.weight": a tensor of 4096 halves} the program goes, in essence:
 *
 *   EMPTY_DICT                                  stack: {}
 *   MARK BINUNICODE "norm.weight"               {} ( "norm.weight"
 *   GLOBAL torch._utils _rebuild_tensor_v2      ... callable
 *   MARK
 *     MARK "storage" torch.HalfStorage "0" "cpu" 4096 TUPLE BINPERSID      ... storage "0"
 *     0 (4096,) (1,) False OrderedDict()        its offset, shape, stride, two things unused
 *   TUPLE REDUCE                                {} ( "norm.weight" tensor
 *   SETITEMS STOP                               {"norm.weight": tensor}
 *
 * with BINPUT between, which numbers the top of the stack for a BINGET to use again. */

/* clang-format off */
typedef enum {
    P_NONE,   /* None, True and False: nothing asks which */
    P_INT,
    P_TEXT,
    P_TUPLE,
    P_DICT,
    P_LIST,
    P_GLOBAL, /* a function or class that was named */
    P_STORE,  /* a storage */
    P_TENSOR,
    P_MARK    /* where the items of a tuple or list begin */
} value_kind;
/* clang-format on */
typedef enum { G_TENSOR, G_PARAMETER, G_ORDERED_DICT, G_STORAGE /* + dtype */ } global;

enum { MEMO_MAX = 1 << 18 };
enum { STACK_MAX = 4096 }; /* Python batches items by 1000: 2,010 is all it stacks */

typedef struct storage {
    const struct storage *next; /* the one named before */
    int type;                   /* dtype */
    const char *key;            /* "0", in the mapped file */
    size_t key_length;          /* in bytes */
    uint64_t numel;             /* how many elements it should have */
} storage;

typedef struct {                                        /* what _rebuild_tensor_v2 is given */
    const storage *storage;                             /* whose elements it shows */
    uint64_t offset, shape[MAX_DIMS], stride[MAX_DIMS]; /* in elements */
    int dims;                                           /* how many of shape and stride */
} view_of;

typedef struct value {
    value_kind kind;
    uint32_t n; /* bytes of a string, items of a tuple */
    union {
        int64_t integer;           /* P_INT; P_GLOBAL, P_DICT, P_LIST: which */
        const char *text;          /* P_TEXT: in the mapped file */
        const struct value *items; /* P_TUPLE */
        const storage *storage;    /* P_STORE */
        const view_of *tensor;     /* P_TENSOR */
    };
} value;

typedef struct named {     /* dict[name] = tensor; or a list's item, a name without a tensor */
    struct named *next;    /* the one named before */
    int64_t dict;          /* its number, or the list's */
    const char *name;      /* in the mapped file */
    size_t length;         /* in bytes */
    const view_of *tensor; /* NULL in a list */
} named;

typedef struct {
    torch_file *z;            /* whose pickle it is */
    llamac_cursor c;          /* the program, from the next opcode on */
    value stack[STACK_MAX];   /* [depth] in use */
    size_t depth;             /* values on the stack */
    value *memo;              /* [n_memo] that the program numbered, to use again */
    size_t n_memo, room_memo; /* numbered; allocated */
    int64_t n_dicts;          /* dicts and lists made so far: their numbers */
    uint64_t made;            /* bytes of memory */
    /* what it was all for */
    int64_t dict;            /* which dict or list the result is */
    named *names;            /* the last one first */
    const storage *storages; /* all that were named, the last one first */
    int status;              /* LLAMA_OK, or why the machine stopped */
} pickle;

/* These return false, for the machine to stop with p->status. */
static bool pickle_fail(pickle *p, const char *why) {
    if (p->status) return false; /* the first reason is the one to tell */
    p->status =
        llamac_fail(p->z->a->err, LLAMA_EFORMAT,
                    "%s: in its pickle %s; it is not a LLaMA checkpoint", p->z->a->file, why);
    return false;
}

/* Zeroed memory, or NULL with p->status set. An opcode of one byte may ask for many, so what a
 * program gets in all is bound to the file's size. */
static void *pickle_new(pickle *p, uint64_t count, size_t size) {
    enum { TIMES = 8, AT_LEAST = 1 << 18 };
    p->made += count * size; /* of count there are no more than the file has bytes */
    if (p->made > AT_LEAST + TIMES * (uint64_t)llamac_left(&p->z->a->bytes))
        return pickle_fail(p, "more is made than such a file can hold"), NULL;
    void *made = llamac_new(p->z->a->scratch, count, size);
    if (!made) p->status = llamac_out_of_memory(p->z->a->err, p->z->a->file);
    return made;
}

/* The stack has a fixed size, so a program of a million marks is refused and not followed. */
static bool push(pickle *p, value v) {
    if (p->depth == STACK_MAX) return pickle_fail(p, "the stack outgrows any checkpoint's");
    p->stack[p->depth++] = v;
    return true;
}

/* What is told by a number alone: see `value`. */
static bool push_int(pickle *p, value_kind kind, int64_t i) {
    return push(p, (value){kind, 0, {.integer = i}});
}

/* The topmost value, taken off; a mark if there is none. */
static value pop(pickle *p) {
    return p->depth ? p->stack[--p->depth] : (value){P_MARK, 0, {.integer = 0}};
}

/* Take the n topmost values off: they stay readable at the pointer until the next push. */
static const value *pop_many(pickle *p, size_t n) {
    if (n > p->depth) return pickle_fail(p, "the stack is empty"), NULL;
    return &p->stack[p->depth -= n];
}

/* The same for those above the topmost mark; the mark goes too. */
static const value *pop_marked(pickle *p, size_t *n) {
    for (size_t i = p->depth; i-- > 0;)
        if (p->stack[i].kind == P_MARK) {
            *n = p->depth - i - 1;
            p->depth = i;
            return &p->stack[i + 1];
        }
    return pickle_fail(p, "a mark is missing"), NULL;
}

/* A tuple of n values that stand at `from` (NULL: they could not be taken). */
static bool push_tuple(pickle *p, const value *from, size_t n) {
    value *items = from ? pickle_new(p, n, sizeof *items) : NULL;
    if (!items) return false;
    if (n) memcpy(items, from, n * sizeof *items);
    return push(p, (value){P_TUPLE, (uint32_t)n, {.items = items}});
}

/* Item i of a tuple; a mark if it is not a tuple or has no such item. */
static value item(value tuple, size_t i) {
    if (tuple.kind != P_TUPLE || i >= tuple.n) return (value){P_MARK, 0, {.integer = 0}};
    return tuple.items[i];
}

/* Strings stay in the file: a value points to the n bytes that come next. */
static bool push_string(pickle *p, uint64_t n) {
    const unsigned char *s = llamac_take(&p->c, n);
    if (!s || n > UINT32_MAX) return pickle_fail(p, "a string reaches past the end");
    return push(p, (value){P_TEXT, (uint32_t)n, {.text = (const char *)s}});
}

/* A little-endian two's complement number of n <= 8 bytes. */
static bool push_long(pickle *p, uint64_t n) {
    if (n > 8) return pickle_fail(p, "a number is too large");
    uint64_t v = llamac_uint(&p->c, (int)n);
    if (n && n < 8 && v >> (8 * n - 1)) v |= UINT64_MAX << (8 * n);
    return push_int(p, P_INT, (int64_t)v);
}

/* Is it this string? */
static bool is_text(value v, const char *text) {
    return v.kind == P_TEXT && v.n == strlen(text) && memcmp(v.text, text, v.n) == 0;
}

/* The rest of a line, as GLOBAL writes its two names. */
static value line(pickle *p) {
    value v = {P_TEXT, 0, {.text = (const char *)p->c.at}};
    while (p->c.at < p->c.end && *p->c.at != '\n' && v.n < 256) p->c.at++, v.n++;
    if (!llamac_take(&p->c, 1)) v.kind = P_MARK;
    return v;
}

/* The globals a checkpoint may name. */
static bool push_global(pickle *p, value module, value name) {
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
        if (is_text(module, allowed[i].module) && is_text(name, allowed[i].name))
            return push_int(p, P_GLOBAL, allowed[i].global);
    if (module.kind != P_TEXT || name.kind != P_TEXT) return pickle_fail(p, "a global has no name");
    char why[192];
    snprintf(why, sizeof why, "'%.*s %.*s' is asked for, which is not run",
             (int)(module.n < 60 ? module.n : 60), module.text, (int)(name.n < 60 ? name.n : 60),
             name.text);
    return pickle_fail(p, why);
}

/* A persistent id names a storage: ('storage', type, key, location, numel), in the older form
 * with None behind it, for a storage that is no view of another. */
static bool push_storage(pickle *p, value id) {
    value type = item(id, 1), key = item(id, 2), numel = item(id, 4);
    if (!is_text(item(id, 0), "storage") || type.kind != P_GLOBAL || type.integer < G_STORAGE ||
        key.kind != P_TEXT || numel.kind != P_INT || numel.integer < 0 ||
        (id.n > 5 && item(id, 5).kind != P_NONE))
        return pickle_fail(p, "a persistent id is not of a float storage");
    storage *s = pickle_new(p, 1, sizeof *s);
    if (!s) return false;
    *s = (storage){p->storages, (int)type.integer - G_STORAGE, key.text, key.n,
                   (uint64_t)numel.integer};
    p->storages = s;
    return push(p, (value){P_STORE, 0, {.storage = s}});
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, ...). How far it reaches,
 * torch_tensor checks. */
static bool push_tensor(pickle *p, value args) {
    value from = item(args, 0), offset = item(args, 1), shape = item(args, 2),
          stride = item(args, 3);
    if (from.kind != P_STORE || offset.kind != P_INT || offset.integer < 0 ||
        shape.kind != P_TUPLE || stride.kind != P_TUPLE || shape.n != stride.n ||
        shape.n > MAX_DIMS)
        return pickle_fail(p, "a tensor is malformed");
    view_of *t = pickle_new(p, 1, sizeof *t);
    if (!t) return false;
    *t = (view_of){from.storage, (uint64_t)offset.integer, {0}, {0}, (int)shape.n};
    for (size_t i = 0; i < shape.n; i++) {
        value size = item(shape, i), step = item(stride, i);
        if (size.kind != P_INT || step.kind != P_INT || size.integer < 1 || step.integer < 0)
            return pickle_fail(p, "a tensor has a size or stride that is none");
        t->shape[i] = (uint64_t)size.integer;
        t->stride[i] = (uint64_t)step.integer;
    }
    return push(p, (value){P_TENSOR, 0, {.tensor = t}});
}

/* callable(*args), for the three callables there are. _rebuild_parameter only wraps a tensor. */
static bool reduce(pickle *p) {
    value args = pop(p), callable = pop(p), inner = item(args, 0);
    int64_t which = callable.kind == P_GLOBAL && args.kind == P_TUPLE ? callable.integer : -1;
    if (which == G_TENSOR) return push_tensor(p, args);
    if (which == G_ORDERED_DICT) return push_int(p, P_DICT, p->n_dicts++);
    if (which == G_PARAMETER && inner.kind == P_TENSOR) return push(p, inner);
    return pickle_fail(p, "something is called that cannot be");
}

/* Note a name in the dict or list on top. */
static bool add_name(pickle *p, value name, const view_of *t) {
    named *e = pickle_new(p, 1, sizeof *e);
    if (!e) return false;
    *e = (named){p->names, p->stack[p->depth - 1].integer, name.text, name.n, t};
    p->names = e;
    return true;
}

/* dict[key] = value for n values (key, value, ...); the dict is on top. Only named tensors
 * are kept: the rest is PyTorch's _metadata, or the older form's note on its machine. */
static bool set_items(pickle *p, const value *from, size_t n) {
    if (!from) return false;
    if (n % 2 || p->depth == 0 || p->stack[p->depth - 1].kind != P_DICT)
        return pickle_fail(p, "items are set on what is not a dict");
    for (size_t i = 0; i < n; i += 2) {
        if (is_text(from[i], "little_endian") && from[i + 1].integer == 0)
            return pickle_fail(p, "little_endian is False");
        if (from[i].kind == P_TEXT && from[i + 1].kind == P_TENSOR &&
            !add_name(p, from[i], from[i + 1].tensor))
            return false;
    }
    return true;
}

/* list.extend(n values); the list is on top. Of interest are strings: keys of storages. */
static bool append_items(pickle *p, const value *from, size_t n) {
    if (!from) return false;
    if (p->depth == 0 || p->stack[p->depth - 1].kind != P_LIST)
        return pickle_fail(p, "items are appended to what is not a list");
    for (size_t i = 0; i < n; i++)
        if (from[i].kind == P_TEXT && !add_name(p, from[i], NULL)) return false;
    return true;
}

/* Python numbers the memo 0, 1, 2, ... (or from 1): no attacker's index is followed further. */
static bool memoize(pickle *p, uint64_t index) {
    if (p->depth == 0 || index > p->n_memo + 1 || index >= MEMO_MAX)
        return pickle_fail(p, "the memo is used out of order");
    if (index + 1 > p->room_memo) {
        value *more = pickle_new(p, 2 * index + 64, sizeof *more);
        if (!more) return false;
        if (p->n_memo) memcpy(more, p->memo, p->n_memo * sizeof *more);
        p->memo = more;
        p->room_memo = 2 * index + 64;
    }
    p->memo[index] = p->stack[p->depth - 1];
    if (index >= p->n_memo) p->n_memo = index + 1;
    return true;
}

/* BINGET: the value that was given this number. */
static bool recall(pickle *p, uint64_t index) {
    if (index >= p->n_memo) return pickle_fail(p, "the memo has no such value");
    return push(p, p->memo[index]);
}

/* One opcode; false ends the run, at STOP or with a failure in status. */
static bool step(pickle *p) {
    unsigned op = (unsigned)llamac_uint(&p->c, 1);
    if (p->c.bad) return pickle_fail(p, "the end is missing");
    size_t n = 0;
    const value *from;
    value module, name;
    char why[64];
    switch (op) {
    case 0x80: return llamac_uint(&p->c, 1) <= 5 || pickle_fail(p, "the protocol is over 5");
    case 0x95: return llamac_take(&p->c, 8) || pickle_fail(p, "the end is missing"); /* FRAME */
    case '(': return push_int(p, P_MARK, 0);                                         /* MARK */
    case 'N': return push_int(p, P_NONE, 0);                                         /* NONE */
    case 0x88: return push_int(p, P_NONE, 1); /* NEWTRUE, NEWFALSE: nothing asks which */
    case 0x89: return push_int(p, P_NONE, 0);
    case 'K': return push_int(p, P_INT, (int64_t)llamac_uint(&p->c, 1)); /* BININT1 */
    case 'M': return push_int(p, P_INT, (int64_t)llamac_uint(&p->c, 2)); /* BININT2 */
    case 'J': return push_long(p, 4);                                    /* BININT */
    case 0x8a: return push_long(p, llamac_uint(&p->c, 1));               /* LONG1 */
    case 0x8c: return push_string(p, llamac_uint(&p->c, 1));             /* SHORT_BINUNICODE */
    case 'X': return push_string(p, llamac_uint(&p->c, 4));              /* BINUNICODE */
    case 0x8d: return push_string(p, llamac_uint(&p->c, 8));             /* BINUNICODE8 */
    case '}': return push_int(p, P_DICT, p->n_dicts++);                  /* EMPTY_DICT */
    case ']': return push_int(p, P_LIST, p->n_dicts++);                  /* EMPTY_LIST */
    case ')': return push_tuple(p, p->stack, 0);                         /* EMPTY_TUPLE */
    case 0x85: return push_tuple(p, pop_many(p, 1), 1);                  /* TUPLE1, 2, 3 */
    case 0x86: return push_tuple(p, pop_many(p, 2), 2);                  /* TUPLE2 */
    case 0x87: return push_tuple(p, pop_many(p, 3), 3);                  /* TUPLE3 */
    case 't': from = pop_marked(p, &n); return push_tuple(p, from, n);   /* TUPLE */
    case 'q': return memoize(p, llamac_uint(&p->c, 1)); /* BINPUT, LONG_BINPUT, MEMOIZE */
    case 'r': return memoize(p, llamac_uint(&p->c, 4)); /* LONG_BINPUT */
    case 0x94: return memoize(p, p->n_memo);            /* MEMOIZE */
    case 'h': return recall(p, llamac_uint(&p->c, 1));  /* BINGET, LONG_BINGET */
    case 'j': return recall(p, llamac_uint(&p->c, 4));  /* LONG_BINGET */
    case 'c': module = line(p), name = line(p); return push_global(p, module, name); /* GLOBAL */
    case 0x93:
        name = pop(p), module = pop(p);
        return push_global(p, module, name);                             /* STACK_GLOBAL */
    case 'Q': return push_storage(p, pop(p));                            /* BINPERSID */
    case 'R': return reduce(p);                                          /* REDUCE */
    case 's': return set_items(p, pop_many(p, 2), 2);                    /* SETITEM */
    case 'u': from = pop_marked(p, &n); return set_items(p, from, n);    /* SETITEMS */
    case 'a': return append_items(p, pop_many(p, 1), 1);                 /* APPEND */
    case 'e': from = pop_marked(p, &n); return append_items(p, from, n); /* APPENDS */
    case 'b':
        return pop_many(p, 1) && (p->depth || pickle_fail(p, "the stack is empty")); /* BUILD */
    case '.': return false;                                                          /* STOP */
    }
    snprintf(why, sizeof why, "opcode 0x%02x is not one that builds tensors", op);
    return pickle_fail(p, why);
}

/* Run the program at c, which moves to its end. The result must be of this kind; of p->names
 * those count that are p->dict's. */
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

/* ---- PyTorch's older form: five pickles, then the storages one after the other ---- */

/* A number as magic; the number of the form, 1001; a dict about the machine; the dict of tensors;
 * a list of the storages' keys. Then for each key an int64, how many elements, and the elements,
 * packed without a gap and so, often, at odd addresses. */

/* The first pickle: the number 0x1950a86a20f9469cfc6c. */
static const unsigned char legacy_magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                             0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};

/* Have the tensors tell the types of the storages. False: there is a storage that no tensor has. A
 * file has no such, as PyTorch writes the storages that it met while it wrote the tensors; so a key
 * that was damaged into another one's leaves a storage alone, and is found out. */
static bool tell_types(torch_file *z, const pickle *p) {
    for (const storage *s = p->storages; s; s = s->next) {
        entry *e = find_storage(z, s->key, s->key_length);
        if (e) e->type = s->type;
    }
    for (size_t i = 0; i < z->n_entries; i++)
        if (z->entries[i].type < 0) return false;
    return true;
}

/* The storages, in the order of the list of keys: a count of elements (int64), then the
 * elements, at any address. Their types are known from the tensors. */
static int legacy_storages(torch_file *z, const pickle *p, llamac_cursor c) {
    size_t n = 0;
    for (const named *e = p->names; e; e = e->next) n++;
    size_t *order = llamac_new(z->a->scratch, n, sizeof *order); /* [turn] of the sorted entries */
    z->entries = llamac_new(z->a->scratch, n, sizeof *z->entries);
    if (!order || !z->entries) return llamac_out_of_memory(z->a->err, z->a->file);
    z->n_entries = n;
    for (const named *e = p->names; e; e = e->next) { /* the last one first */
        n--;
        z->entries[n] = (entry){e->name, e->length, NULL, 0, n, -1};
    }
    qsort(z->entries, z->n_entries, sizeof *z->entries, compare_keys);
    for (size_t i = 0; i < z->n_entries; i++) order[z->entries[i].turn] = i;
    if (!tell_types(z, p)) return bad_archive(z->a, "it has a storage of no tensor");
    for (size_t i = 0; i < z->n_entries; i++) {
        entry *e = &z->entries[order[i]];
        uint64_t numel = llamac_uint(&c, 8);
        if (__builtin_mul_overflow(numel, dtype_bytes[e->type], &e->size) ||
            !(e->data = llamac_take(&c, e->size)))
            return bad_archive(z->a, "a storage is cut short");
    }
    return llamac_left(&c) ? bad_archive(z->a, "bytes are left behind its storages") : LLAMA_OK;
}

/* After the magic: the protocol's number, a dict about the machine, the dict of tensors,
 * the list of keys. The tensors' dict is the result. */
static int legacy_read(torch_file *z, pickle *p) {
    llamac_cursor c = z->a->bytes;
    llamac_take(&c, sizeof legacy_magic);
    int status = pickle_run(p, &c, P_INT);
    if (status == LLAMA_OK && p->dict != 1001)
        return bad_archive(z->a, "the number of its form is not 1001");
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
/* ---- A file of PyTorch's, of either form ---- */

/* Do two of its elements lie in one place? Each dimension must step over all of those with smaller
 * steps: of a matrix with rows of 8 in memory, stride (8, 1), over the 7 steps of a row; that is so
 * too if it was transposed, (1, 8), or has gaps, (10, 1). PyTorch can make others, by expand(),
 * which no model has as weights. What it reaches is known not to overflow. */
static bool overlaps_itself(const view_of *v) {
    for (int d = 0; d < v->dims; d++) {
        uint64_t inner = 0;
        for (int i = 0; i < v->dims; i++)
            if (i != d && v->shape[i] > 1 && v->stride[i] <= v->stride[d])
                inner += (v->shape[i] - 1) * v->stride[i];
        if (v->shape[d] > 1 && v->stride[d] <= inner) return true;
    }
    return false;
}

/* One of the tensors that were named: its bytes, if its storage has all of them. */
static int torch_tensor(torch_file *z, const named *e) {
    const view_of *v = e->tensor;
    const storage *s = v->storage;
    tensor t = {.name = e->name, .length = e->length, .type = s->type, .dims = v->dims};
    const entry *stored = find_storage(z, s->key, s->key_length);
    uint64_t size = dtype_bytes[s->type], bytes, reach, last = v->offset, elements = 1;
    bool over = false;
    if (!stored || __builtin_mul_overflow(s->numel, size, &bytes) || bytes != stored->size)
        return bad_tensor(z->a, &t, "has a storage that is absent or cut short");
    for (int d = 0; d < v->dims; d++) {
        over |= __builtin_mul_overflow(v->shape[d] - 1, v->stride[d], &reach);
        over |= __builtin_add_overflow(last, reach, &last);
        over |= __builtin_mul_overflow(elements, v->shape[d], &elements);
    }
    if (over || last >= s->numel || elements > s->numel)
        return bad_tensor(z->a, &t, "reaches past its storage");
    if (overlaps_itself(v)) return bad_tensor(z->a, &t, "has elements that overlap");
    t.data = stored->data + v->offset * size;
    memcpy(t.shape, v->shape, sizeof t.shape);
    memcpy(t.stride, v->stride, sizeof t.stride);
    return add_tensor(z->a, t);
}

/* The dict of tensors, whichever the form. */
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
        if (status == LLAMA_OK && !tell_types(&z, p))
            status = bad_archive(a, "it has a storage of no tensor");
    }
    for (const named *e = p->names; e && status == LLAMA_OK; e = e->next)
        if (e->dict == p->dict) status = torch_tensor(&z, e);
    return status;
}

/* ---- safetensors: the length of a JSON header, the header, the elements ---- */

/*   8 bytes     n, the length of the header
 *   n bytes     {"__metadata__": {...}, "model.norm.weight": {...}, ...}, padded with spaces
 *   the rest    elements, wherever the header says; at odd addresses too if n is odd */

/* A tensor's entry is
 *     "name": {"dtype": "F16", "shape": [4096, 4096], "data_offsets": [0, 33554432]}
 * with the offsets counted from the end of the header. */
typedef struct {
    tensor t;            /* as far as it was read */
    uint64_t offsets[2]; /* of the first byte and of the one behind the last */
    int n_offsets;       /* of them read */
} safe_entry;

/* One value inside an entry; false: it is not what it should be. A type we do not know is kept by
 * name, for it may be of a tensor that nobody needs. */
static bool safe_value(safe_entry *e, const llamac_json *j) {
    static const char *const names[DTYPES] = {"F32", "F16", "BF16"};
    uint64_t whole =
        j->kind == '0' && j->number >= 0 && j->number < 0x1p53 ? (uint64_t)j->number : 0;
    bool counts = j->level == 3 && j->kind == '0' && (double)whole == j->number;
    if (llamac_json_under(j, 2, "dtype") && j->kind == '"') {
        snprintf(e->t.stored, sizeof e->t.stored, "%.*s", (int)(j->n < 15 ? j->n : 15), j->text);
        for (int i = 0; i < DTYPES; i++)
            if (strcmp(e->t.stored, names[i]) == 0) e->t.type = i;
        return true;
    }
    if (llamac_json_under(j, 2, "shape") && counts && e->t.dims < MAX_DIMS) {
        e->t.shape[e->t.dims++] = whole;
        return true;
    }
    if (llamac_json_under(j, 2, "data_offsets") && counts && e->n_offsets < 2) {
        e->offsets[e->n_offsets++] = whole;
        return true;
    }
    return j->kind == '[' || j->kind == ']';
}

/* By where they begin, of equal ones by where they end. */
static int compare_begins(const void *a, const void *b) {
    const tensor *x = *(const tensor *const *)a, *y = *(const tensor *const *)b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin)
                                : (x->end > y->end) - (x->end < y->end);
}

/* All n tensors must fill the `size` bytes of elements, without a hole or an overlap, in whatever
 * order the header names them: so the format has it, and the library that defines it refuses what
 * is otherwise. */
static int safe_filled(archive *a, size_t n, uint64_t size) {
    const tensor **order = llamac_new(a->scratch, n, sizeof *order);
    uint64_t at = 0;
    size_t i = 0;
    if (!order) return llamac_out_of_memory(a->err, a->file);
    for (const tensor *t = a->tensors; t; t = t->next) order[i++] = t;
    qsort(order, n, sizeof *order, compare_begins);
    for (i = 0; i < n; at = order[i++]->end)
        if (order[i]->begin != at)
            return bad_tensor(a, order[i], "is not where the one before it ends");
    return at == size ? LLAMA_OK : bad_archive(a, "bytes are left behind its tensors");
}

/* Entry by entry; what "__metadata__" says is of no use to us. */
static int read_safetensors(archive *a) {
    llamac_cursor c = a->bytes;
    uint64_t length = llamac_uint(&c, 8), bytes = 0, n = 0;
    const unsigned char *header = llamac_take(&c, length);
    if (!header) return bad_archive(a, "its header is cut short");
    llamac_json j = llamac_json_on(header, (size_t)length);
    safe_entry e = {0};
    for (int status; llamac_json_next(&j);) {
        bool noted = llamac_json_under(&j, 1, "__metadata__");
        if (j.level == 1 && j.kind == '{') e = (safe_entry){.t = {.type = -1}};
        else if (j.level == 1 && j.kind == '}' && !noted) {
            e.t.name = j.key[1].text;
            e.t.length = j.key[1].n;
            if (e.n_offsets != 2 || e.offsets[0] > e.offsets[1] || !e.t.stored[0] ||
                n++ == MAX_TENSORS)
                return bad_tensor(a, &e.t, "has no sound entry in the header");
            e.t.begin = e.offsets[0];
            e.t.end = e.offsets[1];
            if ((status = add_dense(a, e.t, c, e.offsets[0], &bytes))) return status;
            if (e.t.type >= 0 && bytes != e.offsets[1] - e.offsets[0])
                return bad_tensor(a, &e.t, "is not as long as its shape");
        } else if (j.level == 1 && j.kind != '}')
            return bad_archive(a, "its header is not of safetensors");
        else if (j.level > 1 && !noted && !safe_value(&e, &j))
            return bad_archive(a, "its header has an entry that is no tensor's");
    }
    if (j.c.bad || n == 0) return bad_archive(a, "its header is not JSON with tensors");
    return safe_filled(a, (size_t)n, llamac_left(&c));
}

/* ---- GGUF's tensors (its pairs are read further up) ---- */

typedef struct {
    archive *a;                  /* whose bytes it has */
    llamac_cursor c;             /* behind what was read */
    uint64_t n_tensors, n_pairs; /* by the header */
    uint64_t alignment;          /* in bytes, a power of two */
} gguf_file;

/* The header. */
static int gguf_open(gguf_file *g, archive *a) {
    *g = (gguf_file){.a = a, .c = a->bytes, .alignment = 32};
    uint64_t magic = llamac_uint(&g->c, 4), version = llamac_uint(&g->c, 4);
    g->n_tensors = llamac_uint(&g->c, 8);
    g->n_pairs = llamac_uint(&g->c, 8);
    if (g->c.bad || magic != 0x46554747) return bad_archive(a, "is not GGUF, or is cut short");
    if (version != 2 && version != 3)
        return llamac_fail(a->err, LLAMA_EFORMAT,
                           "%s: is GGUF of version %llu, not 2 or 3; make it anew", a->file,
                           (unsigned long long)version);
    if (g->n_tensors > MAX_TENSORS || g->n_pairs > MAX_TENSORS)
        return bad_archive(a, "its header counts more than there can be");
    return LLAMA_OK;
}

/* The next pair; false: it is malformed. Arrays are gone over, for the next one to be found. The
 * one key that is followed here is that of the alignment, which the tensors need: 32 bytes unless
 * it says otherwise, and a power of two. */
static bool gguf_next(gguf_file *g, llamac_pair *p) {
    llamac_pair item;
    llamac_cursor *c = &g->c;
    *p = (llamac_pair){0};
    p->length = (size_t)llamac_uint(c, 8);
    p->key = (const char *)llamac_take(c, p->length);
    uint64_t type = llamac_uint(c, 4);
    p->kind = type == GGUF_ARRAY ? '[' : llamac_gguf_value(c, type, p);
    if (type == GGUF_ARRAY) {
        p->type = llamac_uint(c, 4);
        p->n = llamac_uint(c, 8);
        p->items = *c;
        for (uint64_t i = 0; i < p->n; i++) /* each takes a byte at least */
            if (!llamac_gguf_value(c, p->type, &item)) return false;
    }
    if (p->length == 17 && p->key && memcmp(p->key, "general.alignment", 17) == 0)
        g->alignment =
            p->kind == '0' && p->number >= 1 && p->number <= 1 << 20 ? (uint64_t)p->number : 0;
    return !c->bad && p->kind && g->alignment && !(g->alignment & (g->alignment - 1));
}

/* What GGUF calls the types we do not compute with: whole numbers, and the blocks of few bits a
 * weight that quantised files have. A refusal that says "Q4_K" tells which file to look for. */
static const char *gguf_type(uint64_t type) {
    static const char *const names[] = {
        "F32",     "F16",    "Q4_0",    "Q4_1",  "",       "",      "Q5_0",  "Q5_1",
        "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
        "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16"};
    return type < sizeof names / sizeof *names ? names[type] : "";
}

/* One tensor's entry; its dimensions stand there the fastest first. */
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

/* After the pairs: the tensors. Offsets count from the first aligned byte behind their entries.
 * Each is the next aligned one behind the tensor before, with zeros between, as all writers do it;
 * of types that we do not know the length is unknown too.
 *
 * Only so is a damaged offset or type told from a sound one: there are other elements wherever it
 * points. The zeros are looked at where there are any, at the ends of small tensors; the large ones
 * of real models are whole multiples of the alignment, and none of their pages is read for this. */
static int gguf_tensors(gguf_file *g) {
    archive *a = g->a;
    llamac_cursor ends = g->c, data = a->bytes;
    uint64_t offset, bytes, i, end = 0; /* end: of the tensor before, as far as it is known */
    bool known = true;
    tensor t;
    for (i = 0; i < g->n_tensors && gguf_entry(&ends, &t, &offset); i++) {}
    if (i < g->n_tensors) return bad_archive(a, "its list of tensors is damaged");
    uint64_t begin = (uint64_t)(ends.at - a->bytes.at) + g->alignment - 1;
    llamac_take(&data, begin / g->alignment * g->alignment);
    for (i = 0; i < g->n_tensors; i++) {
        gguf_entry(&g->c, &t, &offset);
        if (offset % g->alignment) return bad_tensor(a, &t, "is not aligned as the file says");
        if (known ? offset != end : offset < end)
            return bad_tensor(a, &t, "is not where the one before it ends");
        int status = add_dense(a, t, data, offset, &bytes);
        if (status) return status;
        known = t.type >= 0;
        end = offset + (known ? (bytes + g->alignment - 1) / g->alignment * g->alignment : 0);
        llamac_cursor padding = data;
        llamac_take(&padding, known ? offset + bytes : offset);
        for (uint64_t k = offset + (known ? bytes : 0); k < end && llamac_left(&padding); k++)
            if (llamac_uint(&padding, 1)) return bad_tensor(a, &t, "is not followed by zeros");
    }
    if (known && llamac_left(&data) > end)
        return bad_archive(a, "bytes are left behind its tensors");
    return LLAMA_OK;
}

/* ---- MD5 (RFC 1321), for checklist.chk: no secret, only a sum ---- */

/* The sums in checklist.chk are those of md5sum, 32 hexadecimal digits for a file. They tell a
 * damaged download, not a forged one. Four words are stirred by each block of 64 bytes in 64
 * steps of four kinds; the last block is filled up with one bit, zeros and the length in bits.
 * Little-endian, as everything here. */

/* Take in n blocks of 64 bytes. */
static void md5_blocks(uint32_t state[4], const unsigned char *p, size_t n) {
    static const unsigned char turns[4][4] = {
        {7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    static const uint32_t sines[64] = {
        /* |sin(i + 1)| 2^32 */
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
            unsigned k, round = i / 16, turn = turns[round][i % 4];
            if (round == 0) f = (b & c) | (~b & d), k = i;
            else if (round == 1) f = (d & b) | (~d & c), k = (5 * i + 1) % 16;
            else if (round == 2) f = b ^ c ^ d, k = (3 * i + 5) % 16;
            else f = c ^ (b | ~d), k = 7 * i % 16;
            memcpy(&word, p + 4 * k, 4);
            f += a + sines[i] + word;
            a = d, d = c, c = b;
            b += f << turn | f >> (32 - turn);
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    }
}

/* With all whole blocks taken in: the last bytes of `size`, then the sum as md5sum writes it. */
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

/* The sum of an open file of `size` bytes, read through a buffer of whole blocks; progress in bytes
 * of the file. */
static int md5_sum(int fd, uint64_t size, char out[33], llama_progress_fn progress, void *user) {
    unsigned char piece[1 << 15];
    uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    for (uint64_t done = 0, n = sizeof piece; n == sizeof piece; done += n) {
        if (size - done < n) n = size - done; /* the last, perhaps none */
        if (llamac_read(fd, piece, (size_t)n) != (ptrdiff_t)n) return LLAMA_EIO;
        md5_blocks(state, piece, (size_t)n / 64);
        if (progress && progress(user, "md5", done + n, size)) return LLAMA_ECANCEL;
        if (n < sizeof piece) md5_end(state, piece + n / 64 * 64, size, out);
    }
    return LLAMA_OK;
}

/* One file against its sum. */
static int md5_file(const char *folder, const char *name, const char *want,
                    llama_progress_fn progress, void *user, llama_error *err) {
    char path[LLAMAC_PATH_BYTES], sum[33] = "";
    struct stat st;
    int status = llamac_join(path, folder, name, err);
    if (status) return status;
    int fd = llamac_open_file(path, &st, err);
    if (fd < 0) return fd;
    status = md5_sum(fd, (uint64_t)st.st_size, sum, progress, user);
    close(fd);
    if (status == LLAMA_EIO) return llamac_fail(err, status, "%s: cannot be read to its end", path);
    if (status == LLAMA_OK && memcmp(sum, want, 32) != 0)
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: its MD5 is %s, the list says %.32s; download it again", path, sum,
                           want);
    return status;
}

/* All files of a list, if it is there: lines of 32 digits, two characters (a space and a space or
 * a star, as md5sum writes them) and a name. A name with a slash would lead out of the folder and
 * is refused. */
static int md5_list(const char *folder, const char *list, llamac_arena *scratch,
                    llama_progress_fn progress, void *user, llama_error *err) {
    enum { NAME = 34, LARGEST = 1 << 14 }; /* Meta's have ten lines or fewer */
    char path[LLAMAC_PATH_BYTES], name[256];
    llamac_cursor c = {0};
    int status = llamac_join(path, folder, list, err);
    if (status == LLAMA_OK) status = llamac_read_file(&c, scratch, path, LARGEST, err);
    if (status) return llamac_is_absent(status) ? LLAMA_OK : status;
    while (llamac_left(&c) && status == LLAMA_OK) {
        const char *line = (const char *)c.at, *end = memchr(line, '\n', llamac_left(&c));
        size_t n = end ? (size_t)(end - line) : llamac_left(&c);
        snprintf(name, sizeof name, "%.*s", n > NAME ? (int)(n - NAME) : 0,
                 n > NAME ? line + NAME : "");
        if (n <= NAME || n - NAME >= sizeof name || strchr(name, '/'))
            status =
                llamac_fail(err, LLAMA_EFORMAT,
                            "%s: is not a list of MD5 sums; download it again or remove it", path);
        else status = md5_file(folder, name, line, progress, user, err);
        llamac_take(&c, n + (end != NULL));
    }
    return status;
}

/* ---- A stream, one way or the other, with a sum ---- */

/* Saved state goes through functions of the host, to a file, a socket, a compressor: wherever. We
 * see bytes that come in order, and do not know how many there are until they fail to come. So
 * what is read is not believed before the sum behind it has been read too. */

typedef struct {
    llama_write_fn write; /* one of the two */
    llama_read_fn read;
    void *user;
    uint64_t sum; /* of all that went through */
    bool failed;  /* the host could not: nothing went any further */
} stream;

/* A sum of n bytes on top of another. Each step can be undone (an odd factor has an inverse, a
 * shift to the right is undone from the left), so of two streams that differ in one word the sums
 * always differ; of others they are equal once in 2^64. Against damage, not against forgery. */
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

/* n bytes from p, or to p: what is written and what is read pass the same code in the same order,
 * so the two cannot differ. */
static void pass(stream *s, void *p, size_t n) {
    if (s->failed || n == 0) return;
    s->failed = (s->write ? s->write(s->user, p, n) : s->read(s->user, p, n)) != 0;
    if (!s->failed) s->sum = checksum(s->sum, p, n);
}

/* The sum itself, at the end; on reading it tells whether all was as it had been written. */
static bool pass_sum(stream *s) {
    uint64_t sum = s->sum, same = sum;
    pass(s, &same, sizeof same);
    return same == sum;
}

/* ---- The layout of memory ---- */

/* Buffers cut from one allocation, one behind the other, each beginning on a cache line. Laid out
 * from base NULL, they are only counted: the same code tells how much is needed and where what
 * lies. */
typedef struct {
    unsigned char *base;
    uint64_t used;
} carver;

/* The next count * size bytes; used stays at its end of scale once it does not fit. */
static void *carve(carver *c, uint64_t count, uint64_t size) {
    uint64_t bytes, begin = c->used, most = SIZE_MAX / 4;
    bool fits = !__builtin_mul_overflow(count, size, &bytes) && bytes <= most && begin <= most;
    c->used = fits ? (begin + bytes + LLAMAC_ALIGNMENT - 1) / LLAMAC_ALIGNMENT * LLAMAC_ALIGNMENT
                   : most + 1;
    return c->base ? c->base + begin : NULL;
}

/* ---- What this machine has ---- */

/* A binary made on one machine runs on others, so what there is is asked when a session is made.
 * Two must agree: the processor, by cpuid, that it has the instructions; and the system, by xgetbv,
 * that it saves their registers when it gives the core to another thread (bits 1 and 2 the 256-bit
 * ones, 5 to 7 those of AVX-512, 17 and 18 the tiles of AMX). Compilers' own ways to ask
 * (__builtin_cpu_supports) do not know all of these. */

/* What llama_build returns, put together by the preprocessor: the compiler, the kernels that are
 * compiled in, threads or none. */
static const char build_text[] =
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
#ifdef _OPENMP
    ", OpenMP";
#else
    ", no OpenMP";
#endif

/* The cores this process may use: those of its affinity mask, or fewer by its quota. */
static int default_threads(int most) {
#ifdef _OPENMP
    long cores = omp_get_num_procs(),
         quota = llamac_cgroup_cores("/proc/self/cgroup", "/sys/fs/cgroup");
#ifdef CPU_COUNT
    cpu_set_t mask; /* the runtime may have counted when it started */
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) cores = CPU_COUNT(&mask);
#endif
    if (quota > 0 && quota < cores) cores = quota;
    return cores < most ? (int)cores : most;
#else
    (void)most;
    return 1;
#endif
}

#if defined(__x86_64__)
/* 0: plain x86-64; 1: AVX2, FMA and F16C; 2: AVX-512F too. The processor must have the
 * instructions and the system must save the registers. */
static int x86_level(void) {
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27, F16C = 1 << 29, AVX2 = 1 << 5, AVX512F = 1 << 16 };
    enum { YMM_STATE = 6, ZMM_STATE = 0xe6 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & FMA) || !(c & OSXSAVE) || !(c & F16C)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & YMM_STATE) != YMM_STATE || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & AVX2))
        return 0;
    return (b & AVX512F) && (low & ZMM_STATE) == ZMM_STATE ? 2 : 1;
}

/* The processor has tiles of bfloat16, and Linux lets this process use them: it must be asked, as
 * the 8 KB of tiles that every thread then has to save make signals' frames larger. Asking once
 * is enough; asking again changes nothing. */
static bool has_amx(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, TILE_STATE = 0x60000 };
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & TILE_STATE) != TILE_STATE) return false;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}
#endif

#endif /* LLAMA_CORE */
