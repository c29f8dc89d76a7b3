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
