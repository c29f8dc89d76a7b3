/* llama.h - run LLaMA models on a CPU, straight from the files Meta shipped.
 *
 *     #include <stdio.h>
 *     #include "llama.h"
 *
 *     int main(void) {
 *         llama *model;
 *         llama_session *s;
 *         llama_error err;
 *         llama_decoder decoder = {.started = 1};
 *         llama_sampler sampler = {.size = sizeof sampler, .temperature = 0.8f, .top_p = 0.95f};
 *         if (llama_open(&model, "LLaMA/7B", NULL, &err) ||
 *             llama_session_new(&s, model, NULL, &err))
 *             return fprintf(stderr, "%s\n", err.text), 1;
 *         int32_t t[256];
 *         char text[LLAMA_TEXT_MAX];
 *         const char *prompt = "I believe the meaning of life is";
 *         ptrdiff_t n = llama_text_to_tokens(model, prompt, 32, LLAMA_ADD_BOS, t, 256);
 *         if (n < 0 || n > 256)
 *             return fprintf(stderr, "there is no tokenizer, or the prompt is too long\n"), 1;
 *         for (int i = 0; i < 100; i++, n = 1) {
 *             if (llama_eval(s, 0, t, (size_t)n))
 *                 return fprintf(stderr, "%s\n", llama_session_error(s)), 1;
 *             t[0] = llama_sample(s, 0, &sampler);
 *             if (t[0] < 0 || llama_is_end(model, t[0])) break;
 *             fwrite(text, 1, llama_token_to_text(model, &decoder, t[0], text), stdout);
 *         }
 *         fwrite(text, 1, llama_token_to_text(model, &decoder, LLAMA_FLUSH, text), stdout);
 *         llama_session_free(s);
 *         llama_close(model);
 *     }
 *
 * Build it with: cc -O2 -pthread app.c llama.c tokenizer.c -lm.
 *
 * The library can also be part of one source file: #define LLAMA_STATIC, then #include "llama.c"
 * and "tokenizer.c". They define many private names, so keep that file for them alone. Under
 * -std=c11 include them before any other header.
 *
 * Terms. A session has one or more sequences. A sequence is a list of tokens with its KV cache and
 * the logits after its last token. A position is a token's index in its sequence. The context is
 * the largest number of positions that a sequence can have. Kernels are the inner loops for one
 * instruction set. The host is your program.
 *
 * Contract
 *
 * - The library keeps no global state. It never prints, exits, aborts or raises a signal, and it
 *   leaves the host's signal handlers and locale alone. A call that computes saves the host's
 *   floating-point mode, sets the default mode and restores the host's at its end; on processors
 *   other than x86-64 and ARM these are the rounding alone.
 * - A `llama` (a model) never changes after llama_open, except by llama_handle_sigbus, and in what
 *   llama_describe says of streaming. Threads and sessions may share it.
 * - A `llama_session` belongs to one thread at a time.
 * - llama_session_new allocates everything a session needs. Later calls allocate nothing, except
 *   llama_load, llama_load_file, llama_trace and llama_loglikelihood. Functions on text allocate
 *   and free through the model's allocator, which must be thread-safe.
 * - Functions that return int return LLAMA_OK (0) or a negative code. Each function below lists the
 *   codes it may return, without their prefix: EINVAL is LLAMA_EINVAL.
 * - A failed call leaves the session as it was before the call, unless the function says otherwise.
 * - A session calls functions of the host: of the types llama_progress_fn, llama_trace_fn,
 *   llama_gather_fn, llama_request_fn, llama_read_fn and llama_write_fn. Inside them, functions that
 *   take a const session may be called for that session. All others change nothing and return
 *   EINVAL: "the session is evaluating". llama_session_free is forbidden there. The host's functions
 *   must return: no longjmp and no exception may leave them.
 * - Structs of options, information and samplers begin with `size`: set it to sizeof the struct.
 *   New fields are added at the end; a field that is 0 has its default. An older library accepts a
 *   larger `size`: it ignores options that it does not know, and sets unknown fields of llama_info
 *   to 0. If you depend on a new option, compare llama_release(). The sampler inside a
 *   llama_request can grow only in a major release.
 * - llama_close, llama_session_free and every llama_error * accept NULL.
 * - 128 KB of stack are enough for every function.
 *
 * Threads. A session has threads of its own, besides the one that calls it: llama_session_new
 * starts them, llama_session_free ends them. They take no signals, and between calls they sleep. If
 * the system gives fewer threads, the session works with those. A child of fork has none of its
 * parent's threads: there a session of the parent works with one, and new sessions have their own.
 * A session measures whether its threads help, and uses one while they do not: because the model is
 * small, or because other programs need the cores. With -DLLAMA_OPENMP -fopenmp, OpenMP's threads
 * take their place: if one cannot be created, OpenMP aborts the process, and a thread of the host
 * that has evaluated with them and then forks evaluates with one thread in the child.
 *
 * One answer. The same weights, tokens and seed give the same bits, whatever the number of threads,
 * the batch, the division of a prompt into calls, the shards, the file format and the instruction
 * set. llama.c, part III, defines the order of every sum.
 *
 * LLAMA_FAST is the exception, and only for sessions that ask for it. Their batches of 32 tokens
 * and more use AMX tiles for float16 and bfloat16 weights. Those results differ in their last bits;
 * the rounding error is as small. For float32 weights, and on machines without AMX, the bits stay
 * the same. llama_session_kernels says whether a session uses AMX.
 *
 * Files are hostile input. Whatever their bytes, a call does what this header says or returns an
 * error. Weights are mapped, so a file that is truncated while it is mapped raises SIGBUS; see
 * llama_handle_sigbus. A file that is rewritten in place changes the numbers and does no other
 * harm. A file that is replaced by renaming another one over it does not affect an open model.
 */
#ifndef LLAMAC_H
#define LLAMAC_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ---- */

#define LLAMA_VERSION_STRING "0.1.0"
#define LLAMA_RELEASE        100 /* the same as a number: major * 10000 + minor * 100 + patch */

/* With LLAMA_STATIC, every function is private to the file that includes llama.c. */
#ifdef LLAMA_STATIC
#define LLAMAC_API static __attribute__((unused))
#else
#define LLAMAC_API
#endif

/* ---- Codes and limits ---- */

enum {
    LLAMA_OK = 0,
    LLAMA_EINVAL = -1,    /* an argument is invalid, or there are no logits yet */
    LLAMA_EIO = -2,       /* reading or writing failed, or a file changed while in use */
    LLAMA_EFORMAT = -3,   /* a file does not have the format that it should have */
    LLAMA_ENOMEM = -4,    /* the allocator returned NULL */
    LLAMA_EFULL = -5,     /* the tokens do not fit in the context */
    LLAMA_ECANCEL = -6,   /* the progress function asked to stop */
    LLAMA_EMISMATCH = -7, /* a saved state of another model, version or kind of arithmetic */
    LLAMA_ENUMERIC = -8   /* a logit is infinite or NaN */
};

#define LLAMA_TEXT_MAX 1024 /* bytes: the most text that one token completes */

/* ---- Errors, progress, memory ---- */

/* Filled in by the functions that take one; owned by the caller. */
typedef struct {
    int status;     /* the code that the function returned */
    char text[508]; /* one line: which file, what is wrong, why, what to do; "" on success */
} llama_error;

/* Reports progress on the calling thread: of "prompt" at least once a layer, before it is computed.
 * In the last report of work that succeeds, done is total. Return 0 to continue, any other value to
 * cancel. While weights are streamed, a number may be reported again, about every 50 ms. `what` names
 * the work and its unit: "prompt" counts layers x tokens, and so does "text", a
 * pass of llama_generate in which no prompt is evaluated, or of llama_verify, or of the draft model,
 * which counts its own layers; "weights", "md5" and "state" (saving and loading) count bytes. */
typedef int (*llama_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

/* Memory functions of the host. Set both: one alone gives EINVAL. If both are NULL, the library's
 * own are used. bytes is above 0 and need not be a multiple of align, a power of two; the memory may
 * hold anything. p is never NULL. */
typedef struct {
    void *user;                                             /* first argument of both functions */
    void *(*alloc)(void *user, size_t bytes, size_t align); /* returns NULL on failure */
    void (*free)(void *user, void *p, size_t bytes);
} llama_allocator;

/* Returns a short text for a code, such as "out of memory". */
LLAMAC_API const char *llama_strerror(int status);

/* Returns the LLAMA_RELEASE with which the library was compiled. */
LLAMAC_API int llama_release(void);

/* Returns the compiler, the kernels in this build, and whose threads it uses. */
LLAMAC_API const char *llama_build(void);

/* ---- Simple: open, evaluate, sample ---- */

typedef struct llama llama;                 /* a model: weights and tokenizer */
typedef struct llama_session llama_session; /* KV cache, buffers and positions of one user */

/* How weights are held in memory. Never changes a result.
 *
 *     MAP      mapped: the system reads pages on demand, and keeps them while there is room
 *     LOCK     mapped, and locked in memory (mlock)
 *     STREAM   as many weights as the memory limit allows are kept in memory, the rest is read from
 *              the files in every pass, ahead of its use
 *     AUTO     STREAM, if the weights and a session with the default options (but at most 8,192
 *              positions) do not fit in the memory limit; else, or if streaming cannot be set up, MAP.
 *              If you plan larger sessions, choose STREAM
 *
 * While weights are streamed, the sessions of the model evaluate one at a time, and each reads the
 * weights for itself: one session with several sequences is faster than several sessions. A call waits
 * until the call of another thread has ended, or until a function of the host which that one has
 * called has taken a tenth of a second. It reports progress while it waits. A file that cannot be read
 * gives EIO, and the next call tries again. The model has four threads and up to two descriptors for
 * each file until llama_close. The kept weights do not come from the allocator. In a child of fork the
 * weights are mapped. */
enum { LLAMA_MEMORY_AUTO, LLAMA_MEMORY_MAP, LLAMA_MEMORY_LOCK, LLAMA_MEMORY_STREAM };

typedef struct {
    size_t size;                      /* sizeof(llama_options) */
    const char *tokenizer;            /* path of a tokenizer.model, .json or .bin; NULL: GGUF's own
                                 * vocabulary, or a file beside the model or, for Meta's folders,
                                 * in the parent folder. If there is none, the model opens and
                                 * functions on text fail */
    int memory;                       /* LLAMA_MEMORY_... */
    uint64_t memory_limit;            /* for STREAM and AUTO: bytes for kept weights, what is read
                                 * ahead (up to 140 MB) and all sessions of the model with their draft
                                 * models. Each session counts in full (llama_session_bytes). Not a
                                 * cap for sessions: if they take all of it, no weights are kept. The
                                 * embeddings stay mapped: the system can drop their pages. 0:
                                 * 95% of the memory that is available when the model is opened */
    llama_progress_fn progress;       /* reserved: opening does not read the weights */
    void *user;                       /* first argument of progress */
    const llama_allocator *allocator; /* copied; NULL: aligned_alloc and free */
    float rope_theta;                 /* base of RoPE, 1 to 1e30; 0: what the files say, or 10000 */
    int rank, ranks; /* of several machines (llama_session_options): AUTO, LOCK, STREAM and
                      * llama_prefetch concern the rows of this rank only. ranks 0: one machine */
} llama_options;

/* Opens a model, without reading its weights, and sets *model. `options` may be NULL. The path is
 *
 *     Meta's folder             params.json, consolidated.NN.pth
 *     Hugging Face's folder     config.json, *.safetensors or pytorch_model*.bin
 *     a GGUF file               of a split model the first file
 *     llama2.c's .bin file      versions 0 and 1
 *
 * with float32, float16 or bfloat16 weights. Sets *model to NULL on failure.
 * Errors: EINVAL, EIO, EFORMAT, ENOMEM. */
LLAMAC_API int llama_open(llama **model, const char *path, const llama_options *options,
                          llama_error *);

/* Frees a model. Free its sessions first. */
LLAMAC_API void llama_close(llama *);

/* Completes x on every rank: x[offsets[r]] to x[offsets[r + 1]] (not included) is the piece of rank r;
 * this rank's own piece is there, and the host fills in the others. A piece may be empty. With MPI it is
 * one call of MPI_Allgatherv, whose counts are int: offsets are 2^24 at most, but for a trace of
 * attention, which has heads * rows * positions floats. offsets has ranks + 1 elements. It is called in
 * the thread that made the call. Returns 0, or another number if that fails: then the call that was at work fails
 * with EIO, as it does if a file cannot be read. */
typedef int (*llama_gather_fn)(void *user, float *x, const size_t *offsets, int rank, int ranks);

/* Which arithmetic a session uses. */
enum {
    LLAMA_EXACT = 0, /* the same bits on every machine */
    LLAMA_FAST = 1   /* AMX tiles, where the processor has them */
};

/* context, sequences and batch may be 2^20 at most, threads 1024. */
typedef struct {
    size_t size; /* sizeof(llama_session_options) */
    int context; /* positions in each sequence; 0: the model's (2048 for Meta's folders). That may be
                    * more than memory has room for: Llama 3.1 has 131072, 34 GB for the 8B */
    int sequences; /* number of sequences; 0: 1. The KV cache has sequences * context *
                          * kv_bytes_per_token bytes; the system provides them as they are used */
    int batch;     /* tokens evaluated together; 0: 256; 512 for STREAM; 128 for several ranks, of
                    * which those that stream want 512. Never changes a result */
    int threads;   /* 0: the cores this process may use (affinity, cgroup quota) */
    int numerics;  /* LLAMA_EXACT or LLAMA_FAST */
    const char *kernels; /* "scalar", "avx2", "avx512" or "neon"; NULL: the best of this CPU */
    llama_progress_fn progress;       /* called while evaluating, saving, loading; NULL: none */
    void *user;                       /* first argument of progress */
    const llama_allocator *allocator; /* copied; NULL: aligned_alloc and free */
    int all_logits; /* 1: keep the logits of every token of a call, for llama_logits_at. Adds room
                     * for sequences * context * vocab floats; pages are used as they are filled */
    int no_lookup;  /* 1: llama_generate does not guess what follows a text from what came before.
                     * Never changes a result */
    /* A smaller model that guesses tokens for llama_generate; NULL: none. It must outlive the
     * session. EINVAL if its vocabulary has another size, or if `context` is longer than its sliding
     * window. Tokens are compared by id: a vocabulary of other tokens makes the guesses useless, but
     * changes no result. The session has a KV cache for it too: see llama_session_bytes. If it fails
     * (its logits are not finite, or its file was truncated), llama_generate continues without it,
     * no error is reported, and this session does not use it again. Its passes can be cancelled. It
     * is not used with LLAMA_FAST on AMX */
    const llama *draft;
    /* Several machines, or several processes of one: each has this session, with the same options, and
     * makes the same calls with the same arguments in the same order; its host's functions give the
     * same answers. Rank r of `ranks` computes its share of the rows of every matrix, and has its share
     * of the KV cache; `gather` completes the results. Each rank has all logits, so each draws the same
     * tokens, with the bits of one machine. 1 to kv_heads ranks (llama_info), else EINVAL.
     * llama_session_new compares version, model and options of all ranks, and gives EINVAL on each if
     * they differ. A model that is streamed is opened with the same rank and ranks. A draft model
     * computes all of its rows on every rank: one that is streamed is opened without ranks. A state
     * that any number of ranks has saved can be loaded by any other number; each rank's write function
     * gets all of it. If a call fails on one rank only, the others wait in gather: the host's
     * transport has to end them */
    llama_gather_fn gather;
    void *gather_user; /* first argument of gather */
    int rank, ranks;   /* 0 and 0: the model's (llama_options) */
} llama_session_options;

/* Creates a session and sets *session. `options` may be NULL. The model must outlive the session.
 * Sets *session to NULL on failure. Errors: EINVAL, ENOMEM; EIO if gather failed. */
LLAMAC_API int llama_session_new(llama_session **session, const llama *,
                                 const llama_session_options *options, llama_error *);
LLAMAC_API void llama_session_free(llama_session *);

/* Appends n tokens to a sequence and computes the logits after the last token. n = 0 does nothing.
 * Errors: EINVAL, EFULL, ECANCEL, ENUMERIC, EIO. */
LLAMAC_API int llama_eval(llama_session *, int seq, const int32_t *tokens, size_t n);

/* How to draw a token. The steps, in this order:
 *
 *     1. add the bias
 *     2. apply the repetition penalty, once to each distinct token of the window
 *     3. divide by the temperature and take the softmax
 *     4. filter by top_k, then top_p, then min_p; each sees probabilities with a sum of 1
 *     5. draw: the token whose E / probability is the smallest, where E is an exponential variate
 *        that depends on the seed, the position and the token's id alone
 *
 * Of tokens with equal logits the lower id is first. If only `size` is set, sampling is greedy.
 * EINVAL for a setting outside of its range:
 *
 *     setting          range        off                 other values
 *     temperature      0 or more                        0: greedy, without top_k, top_p, min_p
 *     top_p            0 or more    0, 1 and more
 *     min_p            0 to 1       0                   1: only tokens as likely as the most likely
 *     top_k            0 or more    0, vocab and more
 *     repeat_penalty   0 or more    0, 1                below 1: makes repetition more likely
 *     repeat_last      -1 or more                       0: 64; -1: the complete sequence
 *
 * Infinity and NaN are outside of every range. A bias may be any finite number, or -INFINITY:
 * then the token is never drawn. A bias of +INFINITY or NaN, or -INFINITY for every token, gives
 * EINVAL at every temperature. To force a token, give all others -INFINITY. */
typedef struct {
    size_t size;          /* sizeof(llama_sampler) */
    float temperature;    /* 0: always the most likely token (greedy) */
    float top_p;          /* keep a token if the tokens more likely than it have a total probability
                           * of at most top_p, as Meta's example.py does; 0 or >= 1: off */
    float min_p;          /* keep a token if its probability is at least min_p times that of the
                           * most likely token; 0: off */
    int top_k;            /* keep the k most likely tokens; 0: off */
    float repeat_penalty; /* divides positive logits, multiplies negative ones; 0 or 1: off */
    int repeat_last;      /* window of the penalty in tokens; 0: 64; -1: the complete sequence */
    uint64_t seed;        /* a draw depends on (seed, position) only: sampling twice gives the same
                           * token */
    const float *bias;    /* [vocab] added to the logits; -INFINITY forbids a token; NULL: none */
} llama_sampler;

/* Returns a token drawn from the sequence's logits, or a negative code (EINVAL). Does not append
 * it to the sequence: pass it to llama_eval. */
LLAMAC_API int32_t llama_sample(llama_session *, int seq, const llama_sampler *);

/* Draws the next tokens of a sequence, and is faster than llama_sample and llama_eval if the guesses
 * in draft[n] are right. Draws a token from the sequence's logits, and continues as long as each
 * token drawn equals its guess. Writes the tokens to out[n + 1] and returns their number, 1 to n + 1.
 *
 * Up to 32 guesses are evaluated in one pass over the weights. Tokens and logits have the bits that
 * llama_sample and llama_eval give token by token. All tokens drawn except the last are added to the
 * sequence. The last is not evaluated: pass it to llama_eval, as after llama_sample.
 *
 *     n is 0                               the call is llama_sample
 *     the first token is not draft[0]      nothing is evaluated
 *     guesses do not fit in the context    those that do not fit are ignored
 *     a guess is not in the vocabulary     it and all later guesses are ignored
 *
 * With LLAMA_FAST on AMX, and under llama_trace, guesses are evaluated one after the other. Errors:
 * EINVAL (also if out is NULL, or draft is NULL and n is not 0), ECANCEL, ENUMERIC, EIO. After an
 * error the sequence is as it was, and out may have been written. */
LLAMAC_API ptrdiff_t llama_verify(llama_session *, int seq, const llama_sampler *,
                                  const int32_t *draft, size_t n, int32_t *out);

/* Returns 1 if a token ends a text, else 0. A model may have several: all that are named in
 * generation_config.json, config.json, tokenizer_config.json, special_tokens_map.json and GGUF's
 * keys, and its tokenizer's eos. llama2.c files also end at <s>, as its program run.c does. */
LLAMAC_API int llama_is_end(const llama *, int32_t token);

/* Returns the one to append to a text: the first that generation_config.json, config.json or GGUF's
 * keys name, else the tokenizer's; -1 if the model has none. */
LLAMAC_API int32_t llama_eos(const llama *);

/* Returns one line that says why the last call on this session failed; "" if it succeeded.
 * Functions that take a const session do not change it. */
LLAMAC_API const char *llama_session_error(const llama_session *);

/* Returns the number of positions that each sequence can have; 0 if the session is NULL. */
LLAMAC_API int llama_session_context(const llama_session *);

/* Returns the kernels and threads with which this thread would evaluate the session, such as
 * "avx512, 2 threads". */
LLAMAC_API const char *llama_session_kernels(const llama_session *);

/* Returns how many bytes llama_session_new would allocate, for the draft model's KV cache and buffers
 * too; 0 if the options are invalid. The weights of neither model are included. */
LLAMAC_API uint64_t llama_session_bytes(const llama *, const llama_session_options *options);

/* ---- Text ---- */

/* Flags of llama_text_to_tokens. */
enum {
    LLAMA_ADD_BOS = 1, /* begin with the BOS token, if the files of the model do not forbid it */
    LLAMA_SPECIAL = 2  /* read the texts of special tokens as those tokens */
};

/* Tokenizes n bytes of text. Returns the number of tokens, and writes at most `capacity` of them.
 * Without LLAMA_SPECIAL text is data: "<s>" becomes ordinary tokens, never BOS. Use LLAMA_SPECIAL
 * only for texts that you trust. Fails with ENOMEM, and with EINVAL if
 *
 *     - the model is NULL or has no tokenizer
 *     - text is NULL and n is not 0, or out is NULL and capacity is not 0
 *     - n is above PTRDIFF_MAX / 64
 *     - flags has an unknown bit
 *     - with LLAMA_SPECIAL, the text has an added token for which the model has no row.
 *       llama_find_special finds such a token: its id is llama_info.vocab or more
 *
 * Bytes that are not UTF-8 become the tokens of U+FFFD; a byte-level vocabulary, such as Llama 3's,
 * has tokens for them.
 *
 * Special tokens are the control tokens such as <s> and </s>, <unk>, and added tokens: those of
 * GGUF's type user-defined, those of tokenizer.json, and those of added_tokens.json,
 * tokenizer_config.json and special_tokens_map.json in the folder of the tokenizer's file. With
 * LLAMA_SPECIAL,
 *
 *     - the leftmost match counts, and of several matches there the longest
 *     - each stretch of text between special tokens is tokenized as a text of its own, with the space
 *       in front that the vocabulary says, as Meta's code does. If tokenizer_config.json says
 *       "legacy": false, or tokenizer.json "prepend_scheme": "first", only the beginning of the
 *       text gets that space
 *     - white space beside a token is kept, unless the token's lstrip or rstrip is true
 *     - a text that begins with BOS gets no second BOS from LLAMA_ADD_BOS. */
LLAMAC_API ptrdiff_t llama_text_to_tokens(const llama *, const char *text, size_t n, unsigned flags,
                                          int32_t *out, size_t capacity);

/* Returns where in n bytes of text the first text of a special token begins, or n if it has none.
 * Sets *token, which may be NULL, to that token, or to -1. The model may have no row for it: then it
 * is llama_info.vocab or more. */
LLAMAC_API size_t llama_find_special(const llama *, const char *text, size_t n, int32_t *token);

/* Returns a lower bound on the number of tokens of any n bytes of text, without LLAMA_SPECIAL. It is
 * 0 for a short text, and for every text if there is no tokenizer, or one that can turn any number
 * of bytes into one token. A text that
 * cannot fit in a context can be refused before it is tokenized. */
LLAMAC_API size_t llama_min_tokens(const llama *, size_t n);

/* Returns the token's piece as the vocabulary has it, *n bytes without a final 0; NULL if there is
 * no such token. A piece of a byte-level vocabulary is bytes, which may end inside a character. */
LLAMAC_API const char *llama_token_text(const llama *, int32_t token, size_t *n);

/* The state of detokenizing one text: tokens to text. Start with all fields 0. Set started = 1 if
 * text comes before the first token: then a space at its beginning is kept. Set special = 1 to get
 * the texts of special tokens too: text that LLAMA_SPECIAL turns into these tokens again. */
typedef struct {
    unsigned char pending[4]; /* the first bytes of a character that is not complete yet */
    unsigned char n, started; /* bytes in pending; 1 after the first token with text */
    unsigned char special;    /* 1: special tokens have their texts */
} llama_decoder;

#define LLAMA_FLUSH INT32_MIN /* as a token for llama_token_to_text: the text ends here */

/* Detokenizes one token: writes the text that it completes to `out` and returns the number of
 * bytes. Writes complete UTF-8 characters only. Each invalid byte becomes U+FFFD; with a byte-level
 * vocabulary, so does the longest beginning of a character that is not completed. Control tokens, and
 * added tokens that the files name special, have no text, unless the decoder's `special` is set. A
 * token that does not exist changes nothing and has no text. */
LLAMAC_API size_t llama_token_to_text(const llama *, llama_decoder *, int32_t token,
                                      char out[LLAMA_TEXT_MAX]);

/* Decodes the UTF-8 character at the start of n > 0 bytes into *number and returns its length in
 * bytes. If the first byte is not the start of a valid character, *number is -1 and the length
 * is 1. number may be NULL, text may not. */
LLAMAC_API size_t llama_utf8_next(const char *text, size_t n, int32_t *number);

/* Returns 1 if a terminal would act on the character instead of showing it: control characters,
 * and characters that change the direction of writing. -1 (an invalid byte) counts too. */
LLAMAC_API int llama_is_control(int32_t character);

/* Searches n bytes of text for the stop texts. Returns where the first match begins, or n if there
 * is no match. Then *keep is the number of bytes at the end of the text that may be the beginning
 * of a stop text: a program that prints as it goes should hold them back. keep may be NULL, text if
 * n is 0, and stops if n_stops is 0. No stop text may be NULL. An empty stop text matches at 0. */
LLAMAC_API size_t llama_find_stop(const char *text, size_t n, const char *const *stops,
                                  size_t n_stops, size_t *keep);

/* ---- Sequences ---- */

/* A session has `sequences` sequences, numbered from 0, each with its own tokens, KV cache and
 * logits. */

typedef struct { /* tokens to append to a sequence */
    int seq;
    const int32_t *tokens; /* [n] */
    size_t n;
} llama_span;

/* Does llama_eval for several sequences in one pass over the weights. Batching never changes the
 * bits. If the call fails, no sequence has changed, and llama_session_error names the sequence that
 * is full or invalid. EINVAL if a sequence is named twice; else as llama_eval. */
LLAMAC_API int llama_eval_batch(llama_session *, const llama_span *, size_t n);

/* Returns the number of tokens in a sequence; 0 if there is no such sequence. */
LLAMAC_API size_t llama_length(const llama_session *, int seq);

/* Returns the tokens of a sequence, [llama_length]. They stay valid until the sequence changes.
 * NULL if there is no such sequence. */
LLAMAC_API const int32_t *llama_tokens(const llama_session *, int seq);

/* Removes the tokens from position `length` on. If a token was removed, the sequence has
 * no logits until the next llama_eval. Errors: EINVAL. */
LLAMAC_API int llama_rewind(llama_session *, int seq, size_t length);

/* Makes sequence dst a copy of sequence src: tokens, KV cache and logits. Errors: EINVAL. */
LLAMAC_API int llama_fork(llama_session *, int dst, int src);

/* ---- Logits and scores ---- */

typedef struct {
    int32_t token;
    float logprob; /* natural logarithm of the probability */
} llama_token_logprob;

/* Returns the logits after the last token, [vocab]. They stay valid until the sequence changes.
 * NULL if there are none. */
LLAMAC_API const float *llama_logits(const llama_session *, int seq);

/* Returns the logits after the token at a position, [vocab], if the last call that evaluated tokens
 * evaluated that token. They have the bits that llama_logits has after evaluating up to there. Such
 * calls are llama_eval, llama_eval_batch, llama_score, llama_score_batch, and each pass of
 * llama_verify, llama_prefill, llama_generate and llama_loglikelihood.
 *
 * The pointer stays valid until the next such call; a call that fails while it computes ends it
 * too. Returns NULL for all other positions, for a sequence that llama_fork or llama_load has
 * replaced since, and if the session's option all_logits is 0. */
LLAMAC_API const float *llama_logits_at(const llama_session *, int seq, size_t position);

/* Writes the probabilities from which llama_sample would draw to probs[vocab]. Errors: EINVAL. */
LLAMAC_API int llama_probabilities(llama_session *, int seq, const llama_sampler *, float *probs);

/* Writes the k most likely tokens to `out`, most likely first. Uses the plain softmax, without a
 * sampler. Returns how many it wrote: k, or vocab if k is larger. Errors: EINVAL (k below 0, no
 * logits), without a text in llama_session_error, as the session is const. */
LLAMAC_API int llama_top_logprobs(const llama_session *, int seq, llama_token_logprob *out, int k);

/* Does llama_eval and writes the log-probability of each token, given all tokens before it, to
 * logprob[n]. The token at position 0 gets 0. EINVAL also if the sequence was rewound and has no
 * logits; else as llama_eval. */
LLAMAC_API int llama_score(llama_session *, int seq, const int32_t *tokens, size_t n,
                           float *logprob);

/* Does llama_score for several sequences in one pass over the weights. logprob and rank have an
 * entry for each token of all spans, in order. rank, if it is not NULL, gets the number of tokens
 * that rank above the token: those with a higher logit, or with an equal logit and a lower id. So
 * rank 0 is the greedy choice. If logprob is NULL, the call is llama_eval_batch. */
LLAMAC_API int llama_score_batch(llama_session *, const llama_span *, size_t n, float *logprob,
                                 int32_t *rank);

/* Receives one intermediate result: x is [rows][cols], a row per token. `name` is the name of Meta's
 * module, such as "layers.3.attention.wq", and x is its output; or it is one of these:
 *
 *     layers.3.attention.xq, .xk    queries and keys after RoPE
 *     layers.3.attention.scores     q . k / sqrt(head_dim): x is [heads * rows][positions], a row per
 *                                   head and token, the tokens of a head together; -INFINITY at
 *                                   positions after the token
 *     layers.3.attention.probs      softmax of the scores, of the same shape
 *     layers.3.attention.output     the values mixed by probs, before wo
 *     layers.3.h                    the residual stream after attention
 *     layers.3.feed_forward.silu    silu(w1 x)
 *     layers.3.feed_forward.gated   silu(w1 x) * w3 x
 *     layers.3                      the residual stream after the layer */
typedef void (*llama_trace_fn)(void *user, const char *name, const float *x, size_t rows,
                               size_t cols);

/* Calls fn with every intermediate result of later evaluations, in the order of computation. Each
 * comes once per batch of tokens; "output" comes when logits are computed, with a row for each of
 * them. A trace changes no bit of any result. Of several machines, all trace or none: fn may differ,
 * but is NULL on all or on none. Scores and probabilities need memory: 2 * heads * batch *
 * context floats, allocated here, used as they are filled, and freed by fn = NULL, which stops the
 * trace, or with the session. It is part neither of llama_session_bytes nor of memory_limit. Errors:
 * EINVAL, ENOMEM. */
LLAMAC_API int llama_trace(llama_session *, llama_trace_fn fn, void *user);

/* ---- Whole texts ---- */

/* Makes the sequence hold these tokens and their logits. Evaluates only what follows the prefix
 * that the sequence holds already. Errors as llama_eval. After EINVAL and EFULL the sequence is as
 * it was; after other errors it holds that prefix. */
LLAMAC_API int llama_prefill(llama_session *, int seq, const int32_t *tokens, size_t n);

/* Why a text ended. */
enum {
    LLAMA_FINISH_NONE = 0, /* it has not ended, or llama_generate failed before its end */
    LLAMA_FINISH_EOS,      /* the model drew a token that ends a text: llama_is_end */
    LLAMA_FINISH_STOP,     /* the callback returned a positive value */
    LLAMA_FINISH_LENGTH    /* max_tokens tokens were generated */
};

/* A text to generate. Set `prompt` to `utf8` as needed and all later fields to 0. */
typedef struct {
    const int32_t *prompt; /* [n_prompt] tokens, BOS included if it is wanted */
    size_t n_prompt;
    llama_sampler sampler;
    size_t max_tokens;  /* to generate; n_prompt + max_tokens may be the context + 1 at most, and
                           * n_prompt the context */
    llama_decoder utf8; /* set started = 1 if the prompt has text, to keep a leading space; or give
                           * the decoder of the prompt, which completes a character at its end */
    int seq;            /* result: the sequence that was used */
    int finish_reason;  /* result: LLAMA_FINISH_... */
    size_t cached_tokens; /* result: tokens of the prompt that were not evaluated again */
    size_t generated;     /* result: tokens generated so far */
    int32_t token;        /* result: the last token drawn */
    /* results that may differ from run to run */
    size_t passes;   /* passes over the model's weights after which tokens were drawn */
    size_t drafted;  /* guesses evaluated in these passes, from the text and the draft model */
    size_t accepted; /* guesses equal to the token drawn */
} llama_request;

/* Receives each token of a text: n bytes of text that the token completes (n may be 0). The
 * sequence still has the logits from which the token was drawn: functions that take a const session
 * may be called, others must not. When the text ends, the function is
 * called once more, with finish_reason set and the rest of the text. Return
 *
 *     0                  to continue
 *     a positive value   to end this text: finish_reason is LLAMA_FINISH_STOP, and n is 0 in the
 *                        call that follows. After that call the value has no meaning
 *     a negative code    to end llama_generate with that code. Texts that have not ended keep
 *                        LLAMA_FINISH_NONE, as they do when the progress function cancels or the
 *                        call fails; `generated` says how many tokens they have
 *
 * A function that ends a text at a stop text. The host's `all` has all text so far, n_all bytes, of
 * which `shown` are printed:
 *
 *     memcpy(all + n_all, text, n), n_all += n;
 *     size_t keep, at = llama_find_stop(all + shown, n_all - shown, stops, n_stops, &keep);
 *     int found = at < n_all - shown;
 *     shown += fwrite(all + shown, 1, found || request->finish_reason ? at : at - keep, stdout);
 *     if (found) n_all = shown; // drops the stop text and what follows it
 *     return found; */
typedef int (*llama_request_fn)(void *user, llama_request *, const char *text, size_t n);

/* Generates n texts. Each pass over the weights evaluates as many texts as the session has
 * sequences, up to 64. Batching never changes a text: its bits are those of generating it alone.
 *
 * llama_generate also guesses tokens: from what followed the same tokens before, in this text or in
 * another sequence, or with the draft model. Guesses are evaluated together with the last token of a
 * text, as llama_verify does, if that is faster in this session. They never change a text. But how
 * many are made depends on measured times. So these may differ from run to run:
 *
 *     the order in which fn is called for different requests
 *     seq and cached_tokens, if there are more requests than sequences
 *     passes, drafted and accepted
 *     the number of calls of the progress function
 *
 * The calls for one request are always the same. With no_lookup and without a draft model nothing is
 * guessed; nor under llama_trace, nor with LLAMA_FAST on a processor that has AMX.
 *
 * Prompts with a common prefix share it. A prefix that a sequence already holds, from an earlier
 * call or from llama_load, is not evaluated again. A text takes the free sequence that loses the
 * fewest tokens by that, and what the host put there is lost: a session of as many sequences as
 * users keeps the text of each.
 *
 * fn must be given. Checks all requests before it changes or evaluates anything: EINVAL if a token
 * or a sampler is invalid, or a prompt is empty and max_tokens is not 0; EFULL if a request does not
 * fit in the context. llama_session_error names the request, counted from 0. Later errors are
 * ECANCEL, ENUMERIC, EIO and fn's own; the sequences then keep what they hold. */
LLAMAC_API int llama_generate(llama_session *, llama_request *, size_t n, llama_request_fn fn,
                              void *user);

/* A continuation to score after a context. */
typedef struct {
    const char *context, *ending; /* texts: the context and its continuation */
    size_t n_context, n_ending;   /* their lengths in bytes */
    size_t given, tokens;         /* results: tokens of the context, tokens of the continuation */
    double logprob; /* result: log-probability of the continuation given the context */
    int greedy;     /* result: 1 if each token of the continuation was the most likely one */
} llama_continuation;

/* Computes log p(continuation | context) of n continuations, by the rules of the Language Model
 * Evaluation Harness:
 *
 *     1. White space (Unicode's) at the end of the context is moved to the continuation.
 *     2. `<s> context` and `<s> context continuation` are tokenized. Let N be the number of tokens
 *        of the first.
 *     3. The continuation's tokens are the second list without its first N tokens.
 *     4. The model sees the tokens of the first list, then the continuation's tokens.
 *     5. If rule 3 leaves no token, the continuation's token is the last of the second list, and the
 *        model sees the second list: `given` counts its other tokens.
 *
 * Contexts and continuations run together in one pass over the weights; that does not change their
 * bits. A context is evaluated once for all continuations in a row that have it.
 *
 * The session needs at least 3 sequences; up to 64 continuations run together. What the sequences
 * hold is lost, also on failure. Errors as llama_text_to_tokens and llama_eval_batch;
 * llama_session_error names the continuation, counted from 0. */
LLAMAC_API int llama_loglikelihood(llama_session *, llama_continuation *, size_t n);

/* Tokenizes n continuations as llama_loglikelihood does, and sets only `given` and `tokens`:
 * llama_loglikelihood needs a context of given + tokens positions. Errors as llama_text_to_tokens;
 * EINVAL also if a text of n > 0 bytes is NULL, or if a context is empty and the model adds no BOS. */
LLAMAC_API int llama_count_continuation(const llama *, llama_continuation *, size_t n);

/* ---- Saved state ---- */

typedef int (*llama_write_fn)(void *user, const void *p, size_t n); /* returns 0 on success */
typedef int (*llama_read_fn)(void *user, void *p, size_t n);        /* returns 0 on success */

/* Writes a sequence through fn, in
 *
 *     64 + llama_length * (kv_bytes_per_token + 4) + (llama_logits ? 4 * vocab : 0)
 *
 * bytes. Any session on the same weights can load it, from files of any format,
 * and continues with the same bits. EINVAL; EIO if fn failed; ECANCEL. */
LLAMAC_API int llama_save(llama_session *, int seq, llama_write_fn fn, void *user);

/* Replaces a sequence by a saved one. Checks the checksum before it uses any number of the state.
 * On failure the sequence is as it was:
 *
 *     EFORMAT     the bytes are damaged, or are not a saved state
 *     EMISMATCH   the state is of another model, another version or another kind of arithmetic
 *     EFULL       the state is longer than the context
 *     EIO         fn failed: it could not read, or the state ends early
 *     ECANCEL     the session's progress function cancelled
 *     ENOMEM      a sequence that is not empty needs memory for both states
 *
 * Models are compared by their shape, their constants and samples of each weight. */
LLAMAC_API int llama_load(llama_session *, int seq, llama_read_fn fn, void *user);

/* Saves a sequence to a file. The new file replaces an older state only when it is complete and on
 * the disk, so a crash leaves one or the other. A symbolic link stays, and its target is replaced
 * or created. A file that would be larger than the process's limit (ulimit -f) gives EIO and raises
 * no SIGXFSZ. A file that is neither empty nor a saved state is never replaced: EINVAL, or
 * EIO if it is not a regular file. ECANCEL if the session's progress function says so. */
LLAMAC_API int llama_save_file(llama_session *, int seq, const char *path, llama_error *);

/* Loads a sequence from a file. Errors as llama_load. If the file does not exist: EIO, and errno is
 * ENOENT. If it is empty, ends before the end of the state or is longer than it: EFORMAT. */
LLAMAC_API int llama_load_file(llama_session *, int seq, const char *path, llama_error *);

/* ---- The model and its files ---- */

typedef struct {
    size_t size;        /* sizeof(llama_info) */
    const char *format; /* "meta", "huggingface", "gguf" or "llama2.c" */
    const char *dtype;  /* "float32", "float16", "bfloat16" or "mixed" */
    int dim, layers, heads, kv_heads, head_dim, hidden, vocab;
    int context;      /* positions for which the model was trained */
    int shards;       /* files with weights */
    int32_t bos, eos; /* tokens; -1: none. More may end a text: see llama_is_end */
    float norm_eps, rope_theta;
    uint64_t parameters;         /* weights in all matrices and vectors */
    uint64_t file_bytes;         /* bytes of all files with weights */
    uint64_t kv_bytes_per_token; /* bytes of KV cache for a position */
    uint64_t token_bytes;        /* bytes of weights that generating a token reads */
    int32_t
        pieces;  /* of the tokenizer; 0: none. Files may pad `vocab` to a multiple of 64 or so: if
                     * it is larger still, the tokenizer may be another model's */
    int add_bos; /* 1: LLAMA_ADD_BOS adds BOS; 0: no BOS, or the files say not to */
    int add_eos; /* 1: the files ask for </s> after each text. It is not appended, because the
                     * model must continue the text */
    int memory;  /* LLAMA_MEMORY_MAP, _LOCK or _STREAM: how the weights are held in memory */
    /* If weights are streamed; else, and in a child of fork, 0: */
    uint64_t kept_bytes; /* weights that stay in memory once they are read, with today's sessions */
    uint64_t stream_bytes; /* weights that each pass reads */
    uint64_t read_bytes;   /* bytes read from the files so far */
    uint64_t read_wait;    /* nanoseconds for which evaluations waited for them */
    uint64_t read_speed;   /* about how many bytes per second were read lately; 0: none were read */
    uint64_t memory_limit; /* bytes for weights and sessions: of llama_options, or 95% of what was
                            * available when the model was opened (of a cgroup, too); 0: not known */
    uint64_t rank_bytes;   /* of the rows that one token is multiplied with on this rank */
    /* How the angles of RoPE are scaled: "none", "linear", "llama3", "divisors", which are those of a
     * GGUF file that no known constants give, or "linear, divisors": by both. rope_factor is 1 for "none"
     * and "divisors". The other three are of "llama3", else 0. */
    const char *rope_scaling;
    float rope_factor, rope_low, rope_high; /* factor, low_freq_factor, high_freq_factor */
    int rope_original;                      /* original_max_position_embeddings */
    const char *vocabulary;                 /* its kind: "sentencepiece", "byte-level" or "none" */
} llama_info;

/* Fills in *info, whose size must be set. Errors: EINVAL. */
LLAMAC_API int llama_describe(const llama *, llama_info *info);

/* Reads every weight and checks that it is finite, and that no long run of weights is zero, as an
 * interrupted download leaves it. Then, if Meta's folder has a checklist.chk, compares the MD5 of
 * each file. Errors: EINVAL, EFORMAT, EIO, ECANCEL. */
LLAMAC_API int llama_check(const llama *, llama_progress_fn, void *user, llama_error *);

/* Reads the files of the model into memory, from the first byte to the last. May run beside
 * evaluations. Finds no damage: llama_check does. If weights are streamed, only begins to read the
 * first ones, and returns at once. Errors: EINVAL, ECANCEL. */
LLAMAC_API int llama_prefetch(const llama *, llama_progress_fn, void *user);

/* For a host's handler of SIGBUS, with the address from si_addr. Safe in a signal handler.
 *
 * If the address lies in one of the model's files, that file was truncated or cannot be read. The
 * rest of its mapping is replaced by zeros, the current and all later evaluations return LLAMA_EIO,
 * and the function returns 1. Otherwise it returns 0.
 *
 *     static llama *model; // the pointer that is passed to llama_open
 *     static void on_bus(int signal_number, siginfo_t *info, void *context) {
 *         if (!llama_handle_sigbus(model, info->si_addr)) signal(SIGBUS, SIG_DFL);
 *     }
 *
 * On Windows, call it from a handler of AddVectoredExceptionHandler for EXCEPTION_IN_PAGE_ERROR and
 * EXCEPTION_ACCESS_VIOLATION, with ExceptionInformation[1], and continue the execution if it returns
 * 1. All of the file's mapping is replaced there, so that other threads raise the second of these.
 *
 * llama_open sets *model before it reads the files, so the handler also works while it runs. A host
 * with several models calls the function for each, the draft model of a session included. */
LLAMAC_API int llama_handle_sigbus(const llama *, const void *address);

#ifdef __cplusplus
}
#endif

#endif /* LLAMAC_H */
