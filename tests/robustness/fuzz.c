/* fuzz.c - libFuzzer over everything that reads what others wrote, through the public API.
 *
 *   -DFUZZ=params      the input is a params.json beside a sound checkpoint
 *   -DFUZZ=pth         the input is a consolidated.00.pth beside a sound params.json
 *   -DFUZZ=config      the input is a config.json beside sound safetensors
 *   -DFUZZ=safetensors the input is a model.safetensors beside a sound config.json
 *   -DFUZZ=indexed     the input is a model.safetensors.index.json beside the three files it names
 *   -DFUZZ=gguf        the input is a GGUF file
 *   -DFUZZ=bin         the input is a llama2.c file
 *   -DFUZZ=tokenizer   the input is a tokenizer.model, .json or .bin beside a sound model
 *   -DFUZZ=companions  the input is the JSON files beside a tokenizer.model, each ended by the byte 0x1e
 *   -DFUZZ=checklist   the input is a checklist.chk in a sound folder of Meta's
 *   -DFUZZ=state       the input is what llama_save wrote, for llama_load
 *   -DFUZZ=text        the input is text for tests/tiny: run it where that folder is
 *   -DFUZZ=cli         the input is for the command line, for what its first byte says: so is this
 *   -DMAKE_SEEDS       no fuzzer: writes a first sound input of each kind into a folder
 *
 * Whatever the input, a call gives what llama.h promises or refuses; anything else aborts. Opening
 * may have 16 times the bytes of the files and 1 MB in memory, and leaves nothing behind. Files go
 * to a new folder in $TMPDIR, /dev/shm or /tmp. */
#include "../tools/checkpoint.h"
#include <dirent.h>
#include <unistd.h>

enum { params, pth, config, safetensors, indexed, gguf, bin, tokenizer, companions, checklist, state, text, cli };
#ifndef FUZZ
#define FUZZ params
#endif
#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define IS_CLI JOINED(IS_CLI_, FUZZ) /* these are for #if, where a name that is not defined is 0 */
#define IS_CLI_cli 1
#define MUTATES JOINED(MUTATES_, FUZZ)
#define MUTATES_pth 1
#define MUTATES_tokenizer 1
#define MUTATES_state 1

#if IS_CLI
/* The command line, all of it, but its streams are in memory, every file is its stdin, nothing is opened or written,
 * exit comes back, and calls of the library that would take long are checked instead (fuzz_...). */
#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
static struct {
    FILE *in, *out, *err;
    bool terminal;     /* stdin is one */
    const char *model; /* $LLAMA_MODEL */
    size_t taken;      /* bytes of memory */
    bool began;        /* a session */
    jmp_buf end;       /* where exit goes, with its */
    int code;
} world;
static _Noreturn void fuzz_exit(int code);
static void *fuzz_calloc(size_t n, size_t size);
static int fuzz_open(llama **m, const char *path, const llama_options *lo, llama_error *err);
static int fuzz_session_new(llama_session **s, const llama *m, const llama_session_options *so, llama_error *err);
static int fuzz_prompt(llama_session *s, int seq, const int32_t *tokens, size_t n);
static int fuzz_generate(llama_session *s, llama_request *t, size_t n, llama_request_fn fn, void *user);
static int fuzz_check(const llama *m, llama_progress_fn fn, void *user, llama_error *err);
static int fuzz_sigaction(int number, const struct sigaction *now, struct sigaction *was);
static int fuzz_thread(pthread_t *t, void *(*start)(void *));
static int fuzz_poll(struct pollfd *p, nfds_t n, int milliseconds);
static int fuzz_load_file(llama_session *s, int seq, const char *path, llama_error *err);
static int fuzz_save_file(llama_session *s, int seq, const char *path, llama_error *err);
static int fuzz_loglikelihood(llama_session *s, llama_continuation *e, size_t n);
#undef stdin
#undef stdout
#undef stderr
#undef putchar
#define stdin                      world.in
#define stdout                     world.out
#define stderr                     world.err
#define printf(...)                fprintf(world.out, __VA_ARGS__)
#define putchar(c)                 fputc(c, world.out)
#define puts(s)                    (fputs(s, world.out), fputc('\n', world.out))
#define exit                       fuzz_exit
#define calloc                     fuzz_calloc
#define getenv(name)               ((void)(name), world.model)
#define isatty(fd)                 ((fd) == STDIN_FILENO && world.terminal)
#define fileno(f)                  ((f) == stdin ? STDIN_FILENO : fileno(f)) /* stdin may be a buffer */
#define poll                       fuzz_poll
#define fstat(fd, st)              ((void)(st), -1)
#define fopen(path, mode)          (*(path) ? rewind(world.in), world.in : NULL)
#define fclose(f)                  ((void)(f), 0)
#define sigaction(number, now, was) fuzz_sigaction(number, now, was)
#define pthread_create(t, a, f, p) fuzz_thread(t, f)
#define llama_open                 fuzz_open
#define llama_session_new          fuzz_session_new
#define llama_load_file            fuzz_load_file
#define llama_save_file            fuzz_save_file
#define llama_loglikelihood        fuzz_loglikelihood
#define llama_prefill               fuzz_prompt
#define llama_generate             fuzz_generate
#define llama_check                fuzz_check
#define must                       cli_must /* this file has one */
#define main                       cli_main
#include "../../main.c"
#undef stdin
#undef stdout
#undef stderr
#undef printf
#undef putchar
#undef puts
#undef exit
#undef calloc
#undef getenv
#undef isatty
#undef fileno
#undef poll
#undef fstat
#undef fopen
#undef fclose
#undef sigaction
#undef pthread_create
#undef llama_open
#undef llama_session_new
#undef llama_load_file
#undef llama_save_file
#undef llama_loglikelihood
#undef llama_prefill
#undef llama_generate
#undef llama_check
#undef must
#undef main
#define stdin  stdin
#define stdout stdout
#define stderr stderr
#endif

/* As small as it can be and still have every tensor; the tokenizer's has room for 1024 pieces. */
static const model_spec spec = {
    .dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 8, .vocab = 12, .shards = 1};

static char folder[1024];
static size_t beside; /* bytes of the sound files in it */
static llama *tiny;
static llama_session *session; /* of it */
static buffer sound;           /* what it saves */

/* Unlike assert, this stays whatever the flags. */
static void must(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz: broken promise: %s\n", what);
    abort();
}

/* ---- Memory, counted ---- */

static struct {
    size_t alive, most; /* bytes now, and allowed; 0: any number */
} memory;

static void *counted_alloc(void *user, size_t bytes, size_t align) {
    void *p = NULL;
    (void)user;
    memory.alive += bytes;
    must(!memory.most || memory.alive <= memory.most, "memory within 16 times the files and 1 MB");
    return posix_memalign(&p, align, bytes) == 0 ? p : NULL; /* not rounded: one byte too many shows */
}

static void counted_free(void *user, void *p, size_t bytes) {
    (void)user;
    memory.alive -= bytes;
    free(p);
}

static const llama_allocator counted = {NULL, counted_alloc, counted_free};

/* Bytes of the folder's files but that one. */
static size_t bytes_beside(const char *but) {
    size_t sum = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[2048];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if ((!but || strcmp(e->d_name, but) != 0) && stat(path, &st) == 0 && S_ISREG(st.st_mode)) sum += (size_t)st.st_size;
    }
    if (d) closedir(d);
    return sum;
}

/* ---- What is checked ---- */

static bool valid_utf8(const unsigned char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned c = s[i], size = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || size > n - i) return false;
        for (size_t k = 1; k < size; k++)
            if ((s[i + k] & 0xc0) != 0x80) return false;
        unsigned second = size > 1 ? s[i + 1] : 0;
        if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second > 0x9f)) return false;
        if ((c == 0xf0 && second < 0x90) || (c == 0xf4 && second > 0x8f)) return false;
        i += size;
    }
    return true;
}

/* One push: whole characters, no more than was promised; appended to `all` where there is one. */
static void push(const llama *m, llama_decoder *u, int32_t token, buffer *all) {
    char *out = must_alloc(LLAMA_TEXT_MAX); /* on the heap, where one byte too many shows */
    size_t n = llama_token_to_text(m, u, token, out);
    must(n <= LLAMA_TEXT_MAX, "a push writes no more than LLAMA_TEXT_MAX");
    must(valid_utf8((unsigned char *)out, n), "a push gives whole characters");
    if (all) put(all, out, n);
    free(out);
}

/* Text to tokens and back; where it is the tokenizer of LLaMA, valid text comes back as it was. */
static void there_and_back(const llama *m, const char *s, size_t n, bool exactly) {
    static const char space[] = "\xe2\x96\x81"; /* U+2581 means a space, and comes back as one */
    ptrdiff_t count = llama_text_to_tokens(m, s, n, LLAMA_ADD_BOS, NULL, 0);
    must(count >= 0, "text is made tokens");
    int32_t *tokens = must_alloc((size_t)count * sizeof *tokens);
    memset(tokens, -1, (size_t)count * sizeof *tokens);
    ptrdiff_t half = llama_text_to_tokens(m, s, n, LLAMA_ADD_BOS, tokens, (size_t)count / 2);
    must(half == count, "the count does not depend on the room");
    for (ptrdiff_t i = count / 2; i < count; i++) must(tokens[i] == -1, "no more than the room");
    ptrdiff_t again = llama_text_to_tokens(m, s, n, LLAMA_ADD_BOS, tokens, (size_t)count);
    must(again == count, "the same count twice");
    llama_decoder u = {.n = 0};
    buffer all = {0};
    for (ptrdiff_t i = 0; i < count; i++) {
        must(llama_token_text(m, tokens[i], NULL) != NULL, "every token has a text");
        push(m, &u, tokens[i], &all);
    }
    push(m, &u, LLAMA_FLUSH, &all);
    if (exactly && valid_utf8((const unsigned char *)s, n) && !(n && memmem(s, n, space, 3)))
        must(all.n == n && (n == 0 || memcmp(all.at, s, n) == 0), "text comes back as it was");
    free(tokens), free(all.at);
}

/* Text with special tokens to tokens, and back to text that has the same tokens. */
static void special_there(const llama *m, const char *s, size_t n) {
    int32_t first = -2, some[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
    size_t at = llama_find_special(m, s, n, &first);
    must(at <= n && (at == n) == (first == -1), "the first special token is in the text");
    ptrdiff_t count = llama_text_to_tokens(m, s, n, LLAMA_SPECIAL, some, 4);
    must(count >= 0 || count == LLAMA_EINVAL, "text is made tokens, or has one without a row");
    for (ptrdiff_t i = 4; i < 8; i++) must(some[i] == -1, "no more than the room");
    llama_decoder u = {.special = 1};
    for (ptrdiff_t i = 0; i < count && i < 4; i++) push(m, &u, some[i], NULL);
}

static void try_tokenizer(const llama *m, const char *input, size_t n) {
    static const char *const texts[] = {"", " ", "once upon a time", "<s>the</s> <unk> a <s",
                                        "a\xff\xc3\xa9\xf0\x9f\x99\x82 th"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        there_and_back(m, texts[i], strlen(texts[i]), false);
        special_there(m, texts[i], strlen(texts[i]));
    }
    special_there(m, input, n < 1000 ? n : 1000);
    there_and_back(m, input, n < 1000 ? n : 1000, false);
    llama_decoder u = {.n = 0};
    llama_info info = {.size = sizeof info};
    must(llama_describe(m, &info) == LLAMA_OK, "a model is described");
    for (int32_t t = -1; t <= info.vocab; t++) push(m, &u, t, NULL);
    must(info.eos < 0 || llama_is_end(m, info.eos), "the end of a text ends it");
    push(m, &u, LLAMA_FLUSH, NULL);
}

/* What opens can be evaluated; its logits are finite, or it says that they are not. */
static void try_eval(const llama *m) {
    llama_session_options o = {.size = sizeof o, .context = 8, .threads = 1};
    llama_session *s = NULL;
    llama_info info = {.size = sizeof info};
    must(llama_describe(m, &info) == LLAMA_OK, "a model is described");
    if (llama_session_new(&s, m, &o, NULL) == LLAMA_OK) {
        int status = llama_eval(s, 0, (int32_t[]){1, 2, 3}, 3);
        const float *logits = llama_logits(s, 0);
        must((status == LLAMA_OK) == (logits != NULL), "logits when eval says so");
        for (int i = 0; logits && i < info.vocab; i++) must(isfinite(logits[i]), "finite logits");
    }
    llama_session_free(s);
}

static void write_input(const char *name, const uint8_t *data, size_t n) {
    static const char *const names[] = {"generation_config.json", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"};
    char path[2048];
    buffer b = {0};
    for (int i = 0; FUZZ == companions && name == NULL && i < 4; i++) { /* a file that the input does not reach is absent */
        const uint8_t *end = n ? memchr(data, 0x1e, n) : NULL;
        size_t length = end ? (size_t)(end - data) : n;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
        if (n) write_input(names[i], data, length);
        data += end ? length + 1 : length, n -= end ? length + 1 : length;
    }
    if (!name) return;
    put(&b, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(write_file(path, &b), "the input can be written");
    free(b.at);
}

/* Nothing in it acts on a terminal, or turns the direction of writing. */
static bool harmless(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char *c = (const unsigned char *)s + i;
        if ((*c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f) return false;
        if (n - i > 1 && ((*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) || (*c == 0xd8 && c[1] == 0x9c))) return false;
        if (n - i < 3 || *c != 0xe2) continue;
        if (c[1] == 0x80 && (c[2] == 0x8e || c[2] == 0x8f || (c[2] >= 0xaa && c[2] <= 0xae))) return false;
        if (c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9) return false;
    }
    return true;
}

static void must_agree(int status, const llama_error *err) {
    must(status == err->status, "the status and the error's are one");
    must((status == LLAMA_OK) == (*err->text == 0) && !strchr(err->text, '\n'), "one line of error");
    must(harmless(err->text, strlen(err->text)), "an error acts on no terminal");
}

/* Open the folder, or the file if it is a model alone, with the input as file `name`. */
static void try_folder(const char *name, const uint8_t *data, size_t n) {
    char path[2048];
    llama *m = NULL;
    llama_error err;
    llama_options o = {.size = sizeof o, .allocator = &counted};
    bool alone = FUZZ == gguf || FUZZ == bin;
    write_input(name, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name ? name : "");
    memory.most = 16 * (n + (alone ? 0 : beside)) + (1 << 20);
    if (n % 8 == 7) { /* an eighth of the inputs is streamed, with nothing kept, a part or all */
        o.memory = LLAMA_MEMORY_STREAM;
        o.memory_limit = 1 + (uint64_t)data[n / 2] * n / 64;
    }
    int status = llama_open(&m, alone ? path : folder, &o, &err);
    memory.most = 0;
    must((status == LLAMA_OK) == (m != NULL), "a model or an error");
    must_agree(status, &err);
    if (m && (FUZZ == tokenizer || FUZZ == companions || (FUZZ == gguf && llama_token_text(m, 0, NULL))))
        try_tokenizer(m, (const char *)data, n);
    if (m && FUZZ != tokenizer && FUZZ != companions) {
        try_eval(m);
        status = llama_check(m, NULL, NULL, &err);
        must_agree(status, &err);
        must(status == LLAMA_OK || status == LLAMA_EFORMAT, "sound, or what is wrong");
    }
    llama_close(m);
    must(memory.alive == 0, "a model that is closed or refused leaves nothing behind");
}

static void try_checklist(const uint8_t *data, size_t n) {
    llama_error err;
    write_input("checklist.chk", data, n);
    int status = llama_check(tiny, NULL, NULL, &err);
    must_agree(status, &err);
    must(status == LLAMA_OK || status == LLAMA_EFORMAT || status == LLAMA_EIO, "sound, or what is wrong");
}

/* ---- Saved state ---- */

typedef struct {
    const uint8_t *at;
    size_t n;
} unread;

static int next_bytes(void *user, void *p, size_t n) {
    unread *u = user;
    if (n > u->n) return 1;
    if (n) memcpy(p, u->at, n);
    u->at += n;
    u->n -= n;
    return 0;
}

static int same_bytes(void *user, const void *p, size_t n) {
    unread *u = user;
    must(n <= u->n && memcmp(u->at, p, n) == 0, "a state that is loaded and saved is the same");
    u->at += n;
    u->n -= n;
    return 0;
}

static int keep_bytes(void *user, const void *p, size_t n) {
    put(user, p, n);
    return 0;
}

/* Sequence 2 has {1, 2}, and 3 the same with 3 behind it: what 0 must have if it refuses the input. */
static void make_sequences(void) {
    llama_session_options o = {.size = sizeof o, .context = 8, .sequences = 6, .threads = 1, .allocator = &counted};
    must(llama_session_new(&session, tiny, &o, NULL) == LLAMA_OK, "a session");
    must(llama_eval(session, 2, (int32_t[]){1, 2}, 2) == LLAMA_OK, "two tokens");
    must(llama_eval(session, 3, (int32_t[]){1, 2, 3}, 3) == LLAMA_OK, "three tokens");
    must(llama_save(session, 2, keep_bytes, &sound) == LLAMA_OK, "a state");
}

static bool same_sequences(int a, int b) {
    const float *x = llama_logits(session, a), *y = llama_logits(session, b);
    size_t n = llama_length(session, a);
    return n == llama_length(session, b) && memcmp(llama_tokens(session, a), llama_tokens(session, b), n * sizeof(int32_t)) == 0 &&
           !x == !y && (!x || memcmp(x, y, (size_t)spec.vocab * sizeof *x) == 0);
}

/* Guesses of the next tokens, which are the input's last bytes, give the tokens and logits of single steps. */
static void try_guesses(int seq, const llama_sampler *sampler, const uint8_t *data, size_t n) {
    enum { COPY = 4, STEPS = 5, MOST = 10 };
    int32_t draft[MOST] = {0}, out[MOST + 1];
    size_t guesses = n % (MOST + 1);
    if (!llama_logits(session, seq)) return;
    must(llama_fork(session, COPY, seq) == LLAMA_OK && llama_fork(session, STEPS, seq) == LLAMA_OK, "two copies");
    for (size_t i = 0; i < guesses; i++) draft[i] = (int8_t)data[n - 1 - i];
    if (data[n / 2] % 4) draft[0] = llama_sample(session, COPY, sampler);
    ptrdiff_t drawn = llama_verify(session, COPY, sampler, draft, guesses, out);
    must(drawn >= 1 ? (size_t)drawn <= guesses + 1 : drawn == LLAMA_ENUMERIC && same_sequences(COPY, seq), "tokens, or a code that changes nothing");
    for (ptrdiff_t i = 0; i < drawn; i++) {
        must(llama_sample(session, STEPS, sampler) == out[i], "the token that is drawn singly");
        must(i + 1 == drawn || llama_eval(session, STEPS, &out[i], 1) == LLAMA_OK, "a step");
    }
    must(drawn < 0 || same_sequences(COPY, STEPS), "the sequence that single steps make");
}

/* What was loaded into a sequence is what the input says, and can be used. */
static void try_loaded(int seq, const uint8_t *data, size_t n) {
    llama_sampler sampler = {.size = sizeof sampler, .repeat_penalty = 1.1f, .repeat_last = -1};
    size_t length = llama_length(session, seq);
    must(length <= 8, "no more than the context");
    for (size_t i = 0; i < length; i++)
        must(llama_tokens(session, seq)[i] >= 0 && llama_tokens(session, seq)[i] < spec.vocab, "tokens of the vocabulary");
    must(llama_save(session, seq, same_bytes, &(unread){data, n}) == LLAMA_OK, "what was loaded can be saved");
    must(!llama_logits(session, seq) || llama_sample(session, seq, &sampler) < spec.vocab, "a token, or a code");
    try_guesses(seq, &sampler, data, n);
    int status = llama_eval(session, seq, (int32_t[]){3}, 1);
    must(length == 8 ? status == LLAMA_EFULL : status == LLAMA_OK || status == LLAMA_ENUMERIC, "it goes on");
}

/* Into a sequence with tokens, then into an empty one. */
static void try_state(const uint8_t *data, size_t n) {
    size_t alive = memory.alive;
    must(llama_fork(session, 0, 2) == LLAMA_OK && llama_rewind(session, 1, 0) == LLAMA_OK, "sequences to load into");
    int status = llama_load(session, 0, next_bytes, &(unread){data, n});
    must(status == LLAMA_OK || status == LLAMA_EFORMAT || status == LLAMA_EMISMATCH || status == LLAMA_EFULL || status == LLAMA_EIO,
         "loaded, or why not");
    must(llama_load(session, 1, next_bytes, &(unread){data, n}) == status, "the same into an empty sequence");
    must(memory.alive == alive, "loading leaves nothing behind");
    if (status == LLAMA_OK) {
        must(same_sequences(0, 1), "the same in both");
        try_loaded(0, data, n);
    } else {
        must(same_sequences(0, 2) && llama_length(session, 1) == 0 && !llama_logits(session, 1), "what they had");
        must(llama_eval(session, 0, (int32_t[]){3}, 1) == LLAMA_OK && same_sequences(0, 3), "it goes on");
        must(llama_eval(session, 1, (int32_t[]){1, 2}, 2) == LLAMA_OK && same_sequences(1, 2), "it goes on from nothing");
    }
}

/* ---- The command line ---- */

#if IS_CLI
enum { ROOM = 1 << 20, POSITIONS = 64, VOCAB = 1024 }; /* bytes it may take; of a conversation; of tests/tiny */

static _Noreturn void fuzz_exit(int code) {
    world.code = code;
    longjmp(world.end, 1);
}

static void *fuzz_calloc(size_t n, size_t size) {
    if (size && n > ROOM / size) n = ROOM, size = 1;
    world.taken += n * size;
    return world.taken < ROOM ? calloc(n, size) : NULL;
}

static int fuzz_sigaction(int number, const struct sigaction *now, struct sigaction *was) {
    (void)number, (void)now, (void)was;
    return 0;
}

static int fuzz_thread(pthread_t *t, void *(*start)(void *)) { return t && start ? EAGAIN : 0; }

static int fuzz_poll(struct pollfd *p, nfds_t n, int milliseconds) {
    (void)p, (void)milliseconds;
    return (int)n;
}

static int fuzz_load_file(llama_session *s, int seq, const char *path, llama_error *err) {
    must(s == run.session && seq == 0 && path, "the first sequence, and a file");
    snprintf(err->text, sizeof err->text, "%s: is no state", path);
    return err->status = strlen(path) % 2 ? LLAMA_EMISMATCH : LLAMA_EFORMAT;
}

static int fuzz_save_file(llama_session *s, int seq, const char *path, llama_error *err) {
    must(s == run.session && seq == 0 && path, "the first sequence, and a file");
    snprintf(err->text, sizeof err->text, "%s: cannot be written", path);
    return err->status = LLAMA_EIO;
}

/* Endings are tokenized, and worth what their tokens are many. */
static int fuzz_loglikelihood(llama_session *s, llama_continuation *e, size_t n) {
    must(s == run.session && n && n % 2 == 0, "endings twice");
    for (size_t i = 0; i < n; i++) {
        must(e[i].n_ending && e[i].tokens && e[i].given + e[i].tokens <= run.context, "an ending that fits in the context");
        e[i].logprob = -(double)e[i].tokens;
        e[i].greedy = e[i].tokens % 2;
    }
    return LLAMA_OK;
}

/* What was read are texts, each with a 0 behind it; none has what divides them. */
static void must_be_inputs(void) {
    char divides = options.null ? 0 : '\n';
    size_t n = options.command->input == PROMPT_AND_NAMES ? 0 : options.n_arguments, sum = n ? n - 1 : 0, all = 0;
    bool files = n && options.command->input == ONE_FILE, given = n > 0;
    must(run.n_inputs * sizeof *run.inputs == run.input_memory.n, "as many texts as there is memory for");
    for (size_t i = 0; i < n; i++) sum += strlen(options.arguments[i]);
    for (size_t i = 0; i < options.n_sources; i++) {
        if (options.sources[i].is_file) files = true;
        else sum += strlen(options.sources[i].text), given = true;
    }
    for (size_t i = 0; i < run.n_inputs; i++) {
        const bytes *b = &run.inputs[i].text;
        must(b->n < b->capacity && b->text[b->n] == 0, "a 0 stands behind a text");
        if ((options.lines || options.null) && !given && !options.escapes) must(!memchr(b->text, divides, b->n), "a line is one");
        all += b->n;
    }
    all -= run.n_inputs * run.document.n; /* it comes before each text */
    if (n + options.n_sources && options.command->input && !files)
        must(options.escapes ? all <= sum && 4 * all >= sum : all == sum, "texts are what the arguments are");
}

/* All is read. Numbers that were given are within their limits. */
static int fuzz_open(llama **m, const char *path, const llama_options *lo, llama_error *err) {
    for (size_t i = 0; i < OPTIONS; i++) {
        int kind = (int)option_table[i].kind;
        const void *at = (const char *)&options + option_table[i].offset;
        if (!(options.given >> i & 1)) continue;
        must((option_table[i].commands & options.command->bit) != 0, "an option is one of the verb's");
        if (kind != INTEGER && kind != REAL) continue;
        double v = kind == INTEGER ? *(const int *)at : (double)*(const float *)at;
        must(v >= option_table[i].min && v <= option_table[i].max, "a number within its limits");
    }
    must(path && path == options.model_path && lo == &options.model, "a model is named");
    must(lo->memory >= LLAMA_MEMORY_AUTO && lo->memory <= LLAMA_MEMORY_STREAM, "a mode of memory");
    must_be_inputs();
    if (options.interactive && (!options.session.context || options.session.context > POSITIONS)) options.session.context = POSITIONS; /* it is tokenized line by line */
    *err->text = 0;
    *m = tiny;
    return LLAMA_OK;
}

static void must_be_tokens(const int32_t *tokens, size_t n) {
    must(n > 0 && n <= run.context, "a prompt that fits in the context");
    for (size_t i = 0; i < n; i++) must(tokens[i] >= 0 && tokens[i] < run.info.vocab, "tokens of the vocabulary");
}

static int fuzz_session_new(llama_session **s, const llama *m, const llama_session_options *so, llama_error *err) {
    must(m == tiny && *s == run.session && err, "a session of the model");
    must(so->context >= 1 && so->context <= 1 << 20 && so->sequences >= 1 && so->sequences <= MAX_TOGETHER + 2, "a session's size");
    must(so->threads >= 0 && so->threads <= 1024 && so->batch >= 0, "a session's threads and batch");
    if (!(options.command->bit & (COMPLETE | INFO | SCORE))) fuzz_exit(0); /* what others go on with is numbers */
    world.began = true;
    return LLAMA_OK;
}

static int fuzz_prompt(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    must(s == run.session && seq == 0, "the first sequence");
    must_be_tokens(tokens, n);
    return LLAMA_OK;
}

/* Each text gets a token; the library takes its sampler. */
static int fuzz_generate(llama_session *s, llama_request *t, size_t n, llama_request_fn fn, void *user) {
    float probs[VOCAB];
    must(s == run.session, "the session");
    for (size_t i = 0; i < options.n_stops; i++) must(*options.stops[i] && (*options.stops[i] & 0xc0) != 0x80, "a stop text is characters");
    for (size_t i = 0; i < n; i++, t++) {
        must_be_tokens(t->prompt, t->n_prompt);
        must(t->n_prompt + t->max_tokens <= run.context + 1, "no more than the context, and one");
        if (i == 0) must(llama_probabilities(run.session, 0, &t->sampler, probs) == LLAMA_OK, "options make a sampler");
        for (int k = 0; k < VOCAB && i == 0; k++) must(probs[k] >= 0 && probs[k] <= 1.0001f, "probabilities");
        t->token = (int32_t)i % VOCAB;
        t->generated = t->max_tokens > 0;
        int said = t->max_tokens ? fn(user, t, "there is ", 9) : 0;
        must(said == 0 || said == 1, "a text goes on, or ends");
        t->finish_reason = said ? LLAMA_FINISH_STOP : t->max_tokens < 2 ? LLAMA_FINISH_LENGTH : LLAMA_FINISH_EOS;
        must(fn(user, t, "a\xc3\xa9\"\33", said ? 0 : 5) >= 0, "a text ends");
    }
    return LLAMA_OK;
}

static int fuzz_check(const llama *m, llama_progress_fn fn, void *user, llama_error *err) {
    must(m == tiny && fn && !user && err, "the model is looked at");
    fuzz_exit(0);
}

/* ---- What comes out ---- */

/* Just behind the JSON string at s, as the command line writes it, its text in *all; NULL: it is none. */
static const char *json_string(const char *s, buffer *all) {
    if (*s++ != '"') return NULL;
    for (; *s != '"'; s++) {
        unsigned code, digits = 0;
        char utf8[4];
        if ((unsigned char)*s < ' ') return NULL; /* the 0 at the end, too */
        if (*s != '\\' || *++s == '"' || *s == '\\') put(all, s, 1);
        else {
            if (*s != 'u') return NULL;
            while (digits < 4 && isxdigit((unsigned char)s[1 + digits])) digits++;
            if (digits < 4 || sscanf(s + 1, "%4x", &code) != 1 || (code >= 0xd800 && code < 0xe000)) return NULL;
            put(all, utf8, utf8_put(code, utf8));
            s += 4;
        }
    }
    return s + 1;
}

/* Just behind the JSON value at s; NULL: it is none. */
static const char *json_value(const char *s) {
    buffer text = {0};
    char *end, open = *s;
    if (open == '"') s = json_string(s, &text);
    else if (open != '{' && open != '[') {
        bool number = open == '-' ? s[1] >= '0' && s[1] <= '9' : open >= '0' && open <= '9';
        size_t word = strncmp(s, "true", 4) == 0 || strncmp(s, "null", 4) == 0 ? 4 : strncmp(s, "false", 5) == 0 ? 5 : 0;
        s = word ? s + word : number && isfinite(strtod(s, &end)) ? end : NULL;
    } else if (*++s == open + 2) s++;
    else {
        for (;; s += 2) {
            if (open == '{' && ((s = json_string(s, &text)) == NULL || strncmp(s, ": ", 2) != 0)) s = NULL;
            else s = json_value(open == '{' ? s + 2 : s);
            if (!s || strncmp(s, ", ", 2) != 0) break;
        }
        s = s && *s == open + 2 ? s + 1 : NULL;
    }
    free(text.at);
    return s;
}

static size_t lines_in(const char *s, size_t n) {
    size_t lines = 0;
    for (size_t i = 0; i < n; i++) lines += s[i] == '\n';
    return lines;
}

/* Printable, as wide as a terminal may be. */
static void must_be_help(const char *s, size_t n) {
    must(n && s[n - 1] == '\n', "help is lines");
    for (size_t i = 0, width = 0; i < n; i++) {
        width = s[i] == '\n' ? 0 : width + 1;
        must((s[i] >= ' ' && s[i] <= '~') || s[i] == '\n', "help is printable");
        must(width <= 100, "help in 100 columns");
    }
}

/* Lines of endings, picks and accuracies, or of these alone. */
static void must_be_scores(const char *out, size_t n) {
    static const char *const kinds[] = {"accuracy\t", "ending\t", "pick\t", "error\t"};
    for (const char *line = out; line < out + n; line = strchr(line, '\n') + 1) {
        int kind = 0;
        while (kind < 4 && strncmp(line, kinds[kind], strlen(kinds[kind])) != 0) kind++;
        must(kind < (options.quiet ? 1 : 4), "a line of a score");
    }
    must((n == 0 || out[n - 1] == '\n') && harmless(out, n) && !strstr(out, "nan"), "lines of numbers");
}

/* What main left with, and what it wrote. */
static void must_be_outcome(const char *out, size_t n, size_t n_err) {
    int code = world.code;
    int command = options.command ? options.command->bit : 0;
    bool unsaved = code == EXIT_RUN && (options.cache_path || options.interactive); /* the state, where there is no disk */
    must(code == 0 || code == EXIT_USAGE || code == EXIT_TOO_LONG || code == EXIT_MEMORY || unsaved, "done, or refused");
    must((code == EXIT_MEMORY) == (world.taken >= ROOM), "no memory when there is none");
    must(code != EXIT_USAGE || n == 0 || run.exit_code, "nothing is done of what is refused, but of other prompts");
    must(code == 0 || n_err > 0, "a refusal says why");
    must(code != EXIT_TOO_LONG || !world.began || !world.terminal || !options.interactive, "a conversation that is full goes on");
    if (code) return;
    if (options.version) must(lines_in(out, n) == 1, "one line of version");
    else if (options.shell) must(lines_in(out, n) > 9, "a script");
    else if (options.help || command == HELP) must_be_help(out, n);
    else if (command == TOKENIZE && options.decode) must(valid_utf8((const unsigned char *)out, n), "decoded are whole characters");
    else if (command == TOKENIZE) must(lines_in(out, n) == run.n_inputs && strspn(out, "0123456789 \n") == n, "ids, a line for each text");
    else if (command == INFO) must(lines_in(out, n) >= (options.json ? 1 : 10), "what a model is");
    else if (command == SCORE && !options.json) must_be_scores(out, n);
    else if (!(command & (COMPLETE | SCORE))) must(n == 0, "nothing yet");
    if (!(command & (COMPLETE | SCORE | INFO)) || !options.json || options.help || options.version || options.shell) return;
    for (const char *line = out; line < out + n;)
        must(*line == '{' && (line = json_value(line)) != NULL && *line++ == '\n', "an object, and a newline");
    must(harmless(out, n), "objects act on no terminal");
}

/* ---- What is tried, each until it leaves ---- */

/* A text whose memory ends where it does, or so many zeros behind it. */
static char *copied(const char *s, size_t n, size_t zeros) {
    char *copy = allocate(n + zeros);
    if (n) memcpy(copy, s, n);
    return copy;
}

/* Each of the parts that a 0 divides the n bytes into, [*count], behind a first one. */
static char **divide(const char *s, size_t n, int *count) {
    char **at = allocate((n + 3) * sizeof *at);
    for (*count = 1; n; ++*count) {
        size_t length = strnlen(s, n), whole = length < n ? length + 1 : n;
        at[*count] = copied(s, length, 1);
        s += whole;
        n -= whole;
    }
    at[0] = copied("llama", 5, 1);
    return at;
}

/* All bytes written as \xNN are read as they were. */
static void try_unescape(const char *s, size_t n) {
    char *copy = copied(s, n, 0), *written = allocate(4 * n + 1);
    size_t k = unescape(copy, n, NULL), mark = 0;
    must(k <= n && 4 * k >= n, "unescaped text is no longer, nor shorter than a quarter");
    must((n && memchr(s, '\\', n)) || (k == n && memcmp(copy, s, n) == 0), "without a backslash nothing changes");
    for (size_t i = 0; i < n; i++) snprintf(written + 4 * i, 5, i % 2 ? "\\x%02x" : "\\x%02X", (unsigned char)s[i]);
    written = copied(written, 4 * n, 0);
    must(unescape(written, 4 * n, NULL) == n && (n == 0 || memcmp(written, s, n) == 0), "what is escaped comes back");
    copy = copied(s, n, 0);
    k = unescape(copy, n, &mark);
    must(k <= n && mark <= k, "a mark stands within the text");
}

static void try_main(const char *s, size_t n) {
    int argc;
    char **argv = divide(s, n, &argc);
    cli_main(argc, argv);
}

/* Where text that comes in pieces of that size must end: a stop text ends it in the piece that completes it. */
static size_t end_of(const char *s, size_t n, size_t piece) {
    size_t first = SIZE_MAX, at = n;
    for (size_t i = 0; i < options.n_stops; i++) {
        size_t length = strlen(options.stops[i]);
        const char *p = memmem(s, n, options.stops[i], length);
        if (!p) continue;
        size_t last = ((size_t)(p - s) + length - 1) / piece;
        if (last < first || (last == first && (size_t)(p - s) < at)) at = (size_t)(p - s);
        if (last < first) first = last;
    }
    return at;
}

static struct {
    const char *text; /* all of it */
    size_t end;       /* where it must */
} stopped;

/* How long the pieces are, stop texts up to an empty one, the text. */
static void try_stops(const char *s, size_t n) {
    size_t piece = n ? 1 + (unsigned char)*s % 16 : 1, stop = find_option("--stop", 6);
    options.stops = allocate((n + 1) * sizeof *options.stops);
    options.samples = 1;
    add_input("", 0);
    run.requests = allocate(sizeof *run.requests);
    run.outputs = allocate(sizeof *run.outputs);
    run.n_requests = 1;
    must(stop < OPTIONS, "there is --stop");
    for (s += n > 0, n -= n > 0; n && *s;) {
        size_t size = strnlen(s, n), whole = size + (size < n);
        if ((*s & 0xc0) != 0x80) set_option(stop, copied(s, size, 1));
        s += whole, n -= whole;
    }
    s += n > 0, n -= n > 0;
    stopped.text = s;
    stopped.end = end_of(s, n, piece);
    for (size_t k = 0; k < n && !run.requests->finish_reason; k += piece) {
        int said = on_text(run.outputs, run.requests, s + k, n - k < piece ? n - k : piece);
        must(said == 0 || said == 1, "a text goes on, or ends");
        if (said) run.requests->finish_reason = LLAMA_FINISH_STOP;
    }
    if (!run.requests->finish_reason) run.requests->finish_reason = LLAMA_FINISH_EOS;
    must(on_text(run.outputs, run.requests, "", 0) == 0, "a text ends");
}

/* As many tokens as there are numbers, and the same of their ids written. */
static void try_ids(const char *s, size_t n) {
    size_t words = 0;
    bytes text = {.n = 0}, written = {.n = 0};
    options.escapes = world.terminal;
    add_input(s, n);
    want_tokens(parse_ids(run.inputs));
    const input *in = run.inputs;
    for (size_t i = 0; i < in->text.n; i++)
        words += isdigit((unsigned char)in->text.text[i]) && (i == 0 || !isdigit((unsigned char)in->text.text[i - 1]));
    must(in->n_tokens == words, "each number is an id");
    append(&written, "", 0);
    for (size_t i = 0; i < in->n_tokens; i++) {
        char id[16];
        must(in->tokens[i] >= 0 && in->tokens[i] < run.info.vocab, "tokens of the vocabulary");
        append(&written, id, (size_t)snprintf(id, sizeof id, "\n%d", (int)in->tokens[i]));
    }
    options.escapes = false;
    add_input(written.text, written.n);
    want_tokens(parse_ids(&run.inputs[1]));
    must(run.inputs[1].n_tokens == words && memcmp(run.inputs[0].tokens, run.inputs[1].tokens, words * sizeof(int32_t)) == 0, "the same ids");
    append_tokens(&text, run.inputs->tokens, words, true);
    must(valid_utf8((unsigned char *)text.text, text.n), "decoded are whole characters");
}

static void try_visible(const char *s, size_t n) { put_visible(world.out, s, n, !world.terminal); }
static void try_json(const char *s, size_t n) { put_json(s, n); }

/* Two words: letters from one to the other are as many as back. */
static void try_distance(const char *s, size_t n) {
    enum { LONGEST = 31 };
    int count;
    char **word = divide(s, n, &count), *a = count > 1 ? word[1] : "", *b = count > 2 ? word[2] : "";
    size_t x = strlen(a), y = strlen(b);
    if (y > LONGEST) b[y = LONGEST] = 0;
    size_t d = edit_distance(a, x, b, y);
    must(d <= (x > y ? x : y) && d >= (x > y ? x - y : y - x), "a distance within the lengths");
    must((d == 0) == (strcmp(a, b) == 0), "no distance is the same word");
    must(x > LONGEST || edit_distance(b, y, a, x) == d, "as far back");
    must(find_option(a, x) < OPTIONS, "an option, or there is none");
}

/* Characters as they stand in text; of one that is cut off there is none. */
static void try_characters(const char *s, size_t n) {
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c, again;
        char utf8[4];
        size = llama_utf8_next(s + i, n - i, &c);
        must(size >= 1 && size <= 4 && size <= n - i, "a character within the text");
        if (c >= 0) must(valid_utf8((const unsigned char *)s + i, size) && utf8_put((unsigned)c, utf8) == size &&
                         memcmp(utf8, s + i, size) == 0, "a character is its bytes");
        else must(size == 1, "what is no character is a byte");
        for (size_t k = 1; k <= 4 && k <= n - i && c < 0; k++)
            must(!valid_utf8((const unsigned char *)s + i, k), "a character is not passed over");
        for (size_t k = 1; k < size; k++)
            must(llama_utf8_next(s + i, k, &again) == 1 && again == -1, "half a character is none");
    }
}

static void must_be_shown(int which, const char *s, size_t n, const char *out, size_t shown) {
    bool text = valid_utf8((const unsigned char *)s, n);
    buffer all = {0};
    if (which == 2) must(shown == stopped.end && (shown == 0 || memcmp(out, stopped.text, shown) == 0), "all up to the stop text");
    if (which == 4) {
        bool plain = harmless(s, n) && (!world.terminal || !n || (!memchr(s, '\n', n) && !memchr(s, '\t', n)));
        must(harmless(out, shown) && valid_utf8((const unsigned char *)out, shown), "what is shown acts on no terminal");
        must(!world.terminal || (!strchr(out, '\n') && !strchr(out, '\t')), "what is shown is one line");
        if (plain && text) must(shown == n && memcmp(out, s, n) == 0, "what is harmless is shown as it is");
    }
    if (which == 5) {
        const char *end = json_string(out, &all);
        must(end == out + shown && valid_utf8((const unsigned char *)out, shown), "a JSON string");
        must(harmless(out, shown), "a JSON string acts on no terminal");
        if (text) must(all.n == n && (n == 0 || memcmp(all.at, s, n) == 0), "a JSON string reads as the text");
    }
    free(all.at);
}

/* The first byte is what is tried, and, times their number, 1: stdin is a terminal, 2: LLAMA_MODEL is set. */
static void try_cli(const char *s, size_t n) {
    static void (*const tries[])(const char *, size_t) = {try_unescape, try_main, try_stops, try_ids,
                                                          try_visible, try_json, try_distance};
    enum { TRIES = sizeof tries / sizeof *tries };
    char *written[2] = {NULL, NULL};
    size_t length[2];
    if (n == 0) return;
    int first = (unsigned char)(*s++ - '0'), which = first % TRIES;
    n--;
    world.terminal = first / TRIES & 1;
    world.model = first / TRIES & 2 ? "tests/tiny" : NULL;
    world.taken = world.began = 0;
    world.in = fmemopen((void *)s, n, "r");
    world.out = open_memstream(&written[0], &length[0]);
    world.err = open_memstream(&written[1], &length[1]);
    must(world.in && world.out && world.err, "memory for what is said");
    options = (struct options){.command = commands, .samples = 1};
    run = (struct run){.model = tiny, .session = session, .context = POSITIONS, .info.size = sizeof run.info};
    must(llama_describe(tiny, &run.info) == LLAMA_OK, "a model is described");
    if (setjmp(world.end) == 0) {
        tries[which](s, n);
        fuzz_exit(0);
    }
    fclose(world.in), fclose(world.out), fclose(world.err);
    for (block *next; run.blocks; run.blocks = next) { /* as the end of a process does */
        next = run.blocks->next;
        free(run.blocks);
    }
    if (which == 1) must_be_outcome(written[0], length[0], length[1]);
    else if (which == 3 || which == 6) must(world.code == EXIT_USAGE || world.code == 0, "done, or refused");
    else must(world.code == 0, "done");
    must(which == 2 || which == 4 || which == 5 || which == 1 || length[0] == 0, "nothing is shown");
    must_be_shown(which, s, n, written[0], length[0]);
    must(harmless(written[1], length[1]), "an error acts on no terminal");
    if (which != 1 || (!options.interactive && !options.stats))
        must(lines_in(written[1], length[1]) <= (which == 1 ? 2 + run.n_inputs + run.n_requests : 1) &&
                 (!length[1] || written[1][length[1] - 1] == '\n'),
             "one line of error, or one for each prompt; a completion may have notes: its cache is replaced, the context of a text is "
             "full, the cache cannot be written");
    free(written[0]), free(written[1]);
    try_characters(s, n);
}
#else
static void try_cli(const char *s, size_t n) { (void)s, (void)n; }
#endif

/* ---- What libFuzzer calls ---- */

static const char *const input_names[] = {"params.json", "consolidated.00.pth", "config.json", "model.safetensors",
                                          "model.safetensors.index.json", "model.gguf", "model.bin", "tokenizer.model",
                                          NULL, "checklist.chk", ""};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void initialize_tiny(void) {
    llama_session_options o = {.size = sizeof o, .context = 8, .threads = 1};
    must(llama_open(&tiny, "tests/tiny", NULL, NULL) == LLAMA_OK, "tests/tiny is here");
    must(llama_session_new(&session, tiny, &o, NULL) == LLAMA_OK, "a session");
    must(llama_eval(session, 0, (int32_t[]){1, 2, 3}, 3) == LLAMA_OK, "three tokens");
}

static void copy_tokenizer(void) {
    size_t n = 0;
    char *bytes = read_file("tests/tiny/tokenizer.model", &n);
    must(bytes != NULL, "tests/tiny is here");
    write_input("tokenizer.model", (const uint8_t *)bytes, n);
    free(bytes);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *tmp = getenv("TMPDIR");
    if (FUZZ == text || FUZZ == cli) return initialize_tiny(), 0;
    if (!tmp) tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%.900s/fuzz-XXXXXX", tmp);
    must(mkdtemp(folder) != NULL, "a folder can be made");
    model_spec m = spec;
    if (FUZZ == tokenizer || FUZZ == companions) m.vocab = 1024;
    if (FUZZ == config || FUZZ == safetensors || FUZZ == companions) model_write_as(&m, SAFETENSORS, folder);
    else if (FUZZ == indexed) model_write_as(&m, SAFETENSORS_SPLIT, folder);
    else model_write(&m, folder);
    if (FUZZ == companions) copy_tokenizer();
    beside = bytes_beside(input_names[FUZZ < state ? FUZZ : state]);
    if (FUZZ == checklist || FUZZ == state) must(llama_open(&tiny, folder, NULL, NULL) == LLAMA_OK, "a sound model");
    if (FUZZ == state) make_sequences();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    switch (FUZZ) {
    case checklist: try_checklist(data, n); break;
    case state: try_state(data, n); break;
    case text: there_and_back(tiny, (const char *)data, n, true); break;
    case cli: try_cli((const char *)data, n); break;
    default: try_folder(input_names[FUZZ < state ? FUZZ : state], data, n);
    }
    return 0;
}

/* ---- Mutations that leave what is around them sound ---- */

#if MUTATES
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed);

/* Append these n bytes, mutated to any number of them up to room. */
static void put_mutated(buffer *b, const uint8_t *p, size_t n, size_t room) {
    uint8_t *copy = must_alloc(room);
    if (n) memcpy(copy, p, n);
    put(b, copy, LLVMFuzzerMutate(copy, n, room));
    free(copy);
}

static size_t number(const uint8_t *p, int bytes) {
    size_t v = 0;
    while (bytes--) v = v << 8 | p[bytes];
    return v;
}

/* A sound zip of the entries whose headers can be found, with data.pkl mutated; without bytes: there are none. */
static buffer mutate_zip(const uint8_t *p, size_t n, size_t room) {
    zip z = {0};
    for (size_t at = 0, next; n - at > 30 && memcmp(p + at, "PK\3\4", 4) == 0 && z.file.n <= room; at = next) {
        char name[256];
        size_t length = number(p + at + 26, 2), begin = at + 30 + length + number(p + at + 28, 2);
        if (begin > n) break;
        const uint8_t *end = memmem(p + begin, n - begin, "PK\3\4", 4);
        if (!end) end = memmem(p + begin, n - begin, "PK\1\2", 4);
        next = end ? (size_t)(end - p) : n;
        snprintf(name, sizeof name, "%.*s", (int)length, (const char *)p + at + 30);
        buffer data = {0};
        bool pickled = strlen(name) >= 8 && strcmp(name + strlen(name) - 8, "data.pkl") == 0;
        if (pickled) put_mutated(&data, p + begin, next - begin, next - begin + room - n + 1);
        else put(&data, p + begin, next - begin);
        zip_add(&z, name, data.at, data.n);
        free(data.at);
    }
    return z.entries ? zip_end(&z) : (buffer){0};
}

/* Protobuf's integer: seven bits a byte, the lowest first. */
static bool varint(const uint8_t *p, size_t n, size_t *at, uint64_t *v) {
    *v = 0;
    for (int i = 0; i < 64 && *at < n; i += 7) {
        *v |= (uint64_t)(p[*at] & 127) << i;
        if (p[(*at)++] < 128) return true;
    }
    return false;
}

static unsigned draw(unsigned *seed) { return (*seed = *seed * 1103515245 + 12345) >> 16; }

/* A message with one of its fields that have a length mutated, or one of such a field's own; false: there is none. */
static bool mutate_message(buffer *out, const uint8_t *p, size_t n, size_t room, unsigned *seed, int levels) {
    enum { LONGER = 5 }; /* bytes of a length, at most */
    size_t at = 0, found = 0, before = 0, begin = 0, size = 0;
    for (uint64_t tag, v; at < n;) {
        if (!varint(p, n, &at, &tag)) return false;
        size_t here = at, fixed = (tag & 7) == 1 ? 8 : 4;
        if ((tag & 7) == 0 || (tag & 7) == 2) {
            if (!varint(p, n, &at, &v)) return false;
            fixed = (tag & 7) == 2 ? v : 0;
        } else if ((tag & 7) != 1 && (tag & 7) != 5) return false;
        if (fixed > n - at) return false;
        if ((tag & 7) == 2 && draw(seed) % ++found == 0) before = here, begin = at, size = fixed;
        at += fixed;
    }
    if (!found || room < n + LONGER) return false;
    buffer inner = {0};
    size_t most = size + room - n - LONGER;
    if (!levels || draw(seed) % 2 || !mutate_message(&inner, p + begin, size, most, seed, levels - 1))
        put_mutated(&inner, p + begin, size, most ? most : 1);
    put(out, p, before);
    size_t left = inner.n;
    for (; left > 127; left >>= 7) put_int(out, (left & 127) | 128, 1);
    put_int(out, left, 1);
    put(out, inner.at, inner.n);
    put(out, p + begin + size, n - begin - size);
    free(inner.at);
    return true;
}

static uint64_t add_up(uint64_t sum, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        sum = (sum ^ number(p + i, n - i < 8 ? (int)(n - i) : 8)) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 29;
    }
    return sum;
}

/* Put right what would have llama_load refuse the rest unread: whose state it is, and the two sums. */
static void mend_state(uint8_t *p, size_t n) {
    enum { OWNER = 32, HEADER = 48 };
    if (n < HEADER + 8) return;
    memcpy(p, sound.at, OWNER);
    uint64_t sum = add_up(0, p, HEADER), length = number(p + OWNER, 8);
    memcpy(p + HEADER, &sum, 8);
    sum = add_up(sum, p + HEADER, 8);
    size_t cache = length * (size_t)(spec.dim / spec.heads * spec.kv_heads) * sizeof(float);
    size_t sizes[] = {length * sizeof(int32_t), cache, cache, p[OWNER + 8] ? (size_t)spec.vocab * sizeof(float) : 0}, at = HEADER + 8;
    for (int i = 0; i < 4 && length <= 8; i++) {
        if (sizes[i] > n - at) return;
        sum = add_up(sum, p + at, sizes[i]);
        at += sizes[i];
    }
    if (n - at >= 8) memcpy(p + at, &sum, 8);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t room, unsigned seed) {
    buffer b = {0};
    bool plain = draw(&seed) % 2;
    if (FUZZ == pth && !plain) b = mutate_zip(data, n, room);
    if (FUZZ == tokenizer && !plain) mutate_message(&b, data, n, room, &seed, 1);
    if (b.n && b.n <= room) memcpy(data, b.at, n = b.n);
    else n = LLVMFuzzerMutate(data, n, room);
    free(b.at);
    if (FUZZ == state && draw(&seed) % 8) mend_state(data, n);
    return n;
}
#endif

/* ---- Seeds ---- */

#ifdef MAKE_SEEDS
/* A vocabulary of twelve pieces, in each form there is. */
enum { PIECES = 12 };
static const char *const texts[PIECES] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a",          "e",
                                          "h",     "t",   "th",   "the",          "\xc3\xa9", "\xe2\x96\x81the"};
static const int types[PIECES] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* SentencePiece {1 text, 2 score, 3 type}, then the specs. */
/* A byte-level vocabulary: each byte, with GPT-2's letter for it, and two merges. */
static buffer small_bytes(void) {
    buffer b = {0};
    char piece[64];
    put_text(&b, "{\"added_tokens\": [{\"id\": 258, \"content\": \"<s>\", \"special\": true}], \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": ["
                 "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"
                 "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": \"Isolated\"}, "
                 "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                 "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Sequence\": {\"id\": \"A\"}}], "
                 "\"special_tokens\": {\"<s>\": {\"ids\": [258]}}}, \"model\": {\"type\": \"BPE\", \"ignore_merges\": true, \"vocab\": {");
    for (int i = 0, others = 0; i < 256; i++) {
        bool self = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        snprintf(piece, sizeof piece, "\"\\u%04x\": %d, ", self ? i : 256 + others, i);
        others += !self;
        put_text(&b, piece);
    }
    put_text(&b, "\"th\": 256, \"the\": 257}, \"merges\": [\"t h\", [\"th\", \"e\"]]}}");
    return b;
}

/* Llama 3's form of tokenizer.model: 768 pieces, as 256 special tokens follow. */
static buffer small_tiktoken(void) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    buffer b = {0};
    char line[64];
    for (unsigned i = 0; i < 768; i++) {
        unsigned bits = i < 256 ? i << 16 : ('a' + i / 32) << 16 | ('a' + i % 32) << 8;
        snprintf(line, sizeof line, "%c%c%c= %u\n", digits[bits >> 18], digits[bits >> 12 & 63], i < 256 ? '=' : digits[bits >> 6 & 63], i);
        put_text(&b, line);
    }
    return b;
}

static buffer small_tokenizer(void) {
    buffer b = {0};
    for (int i = 0; i < PIECES; i++) {
        float score = (float)-i;
        size_t n = strlen(texts[i]);
        put_text(&b, "\x0a");
        put_int(&b, n + 9, 1);
        put_text(&b, "\x0a");
        put_int(&b, n, 1);
        put_text(&b, texts[i]);
        put_text(&b, "\x15");
        put(&b, &score, 4);
        put_text(&b, "\x18");
        put_int(&b, (uint64_t)types[i], 1);
    }
    put_text(&b, "\x12\x02\x18\x02");       /* trainer_spec: BPE */
    put(&b, "\x1a\x04\x20\x00\x18\x01", 6); /* normalizer_spec: changes nothing, space in front */
    return b;
}

static buffer small_bin(void) {
    buffer b = {0};
    put_int(&b, 6, 4);
    for (int i = 0; i < PIECES; i++) {
        float score = (float)-i;
        put(&b, &score, 4);
        put_int(&b, strlen(texts[i]), 4);
        put_text(&b, texts[i]);
    }
    return b;
}

static buffer small_json(const char *treatment, const char *merges) {
    buffer b = {0};
    put_text(&b, "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\"}, {\"id\": 1, \"content\": \"<s>\"}, {\"id\": 2, \"content\": \"</s>\"}], ");
    put_text(&b, treatment);
    put_text(&b, ", \"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"vocab\": {");
    for (int i = 0; i < PIECES; i++) {
        char entry[64];
        snprintf(entry, sizeof entry, "%s\"%s\": %d", i ? ", " : "", texts[i], i);
        put_text(&b, entry);
    }
    put_text(&b, "}, \"merges\": [");
    put_text(&b, merges);
    put_text(&b, "]}}");
    return b;
}

static buffer small_gguf(void) {
    static const char *const keys[] = {"tokens", "scores", "token_type"};
    buffer more = {0};
    gguf_text(&more, "tokenizer.ggml.model");
    put_int(&more, 8, 4);
    gguf_text(&more, "llama");
    for (int k = 0; k < 3; k++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s", keys[k]);
        gguf_text(&more, key);
        put_int(&more, 9, 4), put_int(&more, k == 0 ? 8 : k == 1 ? 6 : 5, 4), put_int(&more, PIECES, 8);
        for (int i = 0; i < PIECES; i++) {
            float score = (float)-i;
            if (k == 0) gguf_text(&more, texts[i]);
            else if (k == 1) put(&more, &score, 4);
            else put_int(&more, (uint64_t)types[i], 4);
        }
    }
    buffer b = model_gguf(&spec, 0, 1, &more, 4);
    free(more.at);
    return b;
}

/* Three tokens in the first sequence, in the second five; then nothing. */
static void save_states(void) {
    llama_session_options o = {.size = sizeof o, .context = 8, .sequences = 3, .threads = 1};
    must(llama_open(&tiny, folder, NULL, NULL) == LLAMA_OK, "the folder can be opened");
    must(llama_session_new(&session, tiny, &o, NULL) == LLAMA_OK, "a session");
    must(llama_eval(session, 0, (int32_t[]){1, 2, 3}, 3) == LLAMA_OK, "three tokens");
    must(llama_eval(session, 1, (int32_t[]){4, 5, 6, 7, 8}, 5) == LLAMA_OK, "five tokens");
    must(llama_rewind(session, 1, 4) == LLAMA_OK, "the logits go");
    for (int seq = 0; seq < 3; seq++) {
        char name[16];
        buffer b = {0};
        snprintf(name, sizeof name, "state%d", seq);
        if (llama_save(session, seq, keep_bytes, &b) == LLAMA_OK) put_file(&b, folder, name);
        free(b.at);
    }
    llama_session_free(session);
    llama_close(tiny);
}

/* As they are, 0 bytes and all. The first byte: which, and 7 more for a terminal, 14 more with a standing model. */
static void write_cli_seeds(void) {
    int n = 0;
    char name[16];
#define SEED(s) (snprintf(name, sizeof name, "cli%d", n++), put_file(&(buffer){(unsigned char *)s, sizeof s - 1, 0}, folder, name))
    SEED("0a\\nb\\x41\\xe2\\x96\\x81\\\"\\q\\");
    SEED("1tests/tiny\0once\0-n\0" "64\0--temp\0.8\0--top-p=0.9\0-s\0" "1\0-r\0end\0-e");
    SEED("1-m\0tests/tiny\0-p\0\\x61 b\0-e\0--top-k\0" "40\0--min-p\0.05\0--repeat-penalty\0" "1.3\0--repeat-last-n=-1");
    SEED("1complete\0tests/tiny\0-f\0x\0--lines\0-k\0" "3\0--json\0--logprobs\0" "2\0--echo\0--ignore-eos\0-p\0\na prompt\n");
    SEED("1tests/tiny\0-p\0\"a\33\\\0--json\0--echo\0-n\0" "0");
    SEED("1tests/tiny\0a\0-t\0" "1024\0-b\0" "1048576\0-c\0" "1048576\0--logprobs\0" "100\0--json\0--temp\0" "1e6\0--top-p\0" "1\0-n\0" "1073741824");
    SEED("1tests/tiny\0a\0-t\0" "1025");
    SEED("1tests/tiny\0\0--no-bos");
    SEED("1tests/tiny\0a\0--fast\0--prompt-cache\0x");
    SEED("1tests/tiny\0-f\0-\0-0\0-p\0a\0-p\0b\0--no-bos\0-c\0" "32\0--ctx-size=24\0-q");
    SEED("1tests/tiny\0-i\0--in-prefix\0Q: \0--in-suffix\0\\nA:\0-e\0-c\0" "40\0--prompt-cache\0x\0--kernels\0\nThe king\n/save x\n/load x\n//x\n/reset\n/sing\n/exit\n");
    SEED("8tests/tiny\0-i\0--stats\0-r\0\\x41\0-e\0--kernels\0\nThere was\nonce\n/stats\n/save a\n");
    SEED("1tokenize\0tests/tiny\0--decode\0-1\0--\0-p");
    SEED("1tokenize\0tests/tiny\0" "12\\t3\0-e\0--decode\0");
    SEED("?tokenize\0once\0upon\0--bos\0--count\0--memory=lock");
    SEED("1ppl\0tests/tiny\0x\0--ids\0--stride\0" "16\0-t\0" "2\0-b\0" "8\0--fast\0--kernels\0scalar");
    SEED("1ppl\0tests/tiny\0-f\0x\0-c\0" "16\0--stride=16");
    SEED("1trace\0tests/tiny\0once\0layers.0\0output\0--tokenizer\0x");
    SEED("1info\0tests/tiny\0-c\0" "512");
    SEED("1check\0-m\0tests/tiny\0--memory\0map");
    SEED("Fbench\0-t\0" "1\0-b=1");
    SEED("1help\0all");
    SEED("1help\0tokenize");
    SEED("1help\0nothing");
    SEED("1-h");
    SEED("1ppl\0--help\0--threads\0" "4");
    SEED("1--version");
    SEED("1--completion\0bash");
    SEED("1--completion=fish\0--temperature\0" "0\0--predict");
    SEED("2\1the end\0nd of\0\0it is the en, the end of it");
    SEED("2\6aab\0aaab\0\xc3\xa9\0\0aaaaaaab\xc3\xa9");
    SEED("31 2 300\n 511\t3");
    SEED("31023 0");
    SEED("31024");
    SEED(":1\\n22\\x20 300\\t");
    SEED("4a\33[31m\x9b\xe2\x80\xae\xc2\x9b\xd8\x9c\xf0\x9f\x99\x82\t\n");
    SEED(";\xc3\xa9\xed\xa0\x80\xe2\x81\xa6\x7f a\tb");
    SEED("5a\"b\\c\n\33\xc2\x9b\xe2\x80\xae\xf0\x9f\x99\x82\xff\x7f\xc3");
    /* All that acts on a terminal, and what is beside it */
#define ACTS "\x1f\x20\x7e\x7f\xc2\x80\xc2\x9f\xc2\xa0\xd8\x9b\xd8\x9c\xd8\x9d\xe2\x80\x8d\xe2\x80\x8e\xe2\x80\x8f\xe2\x80\x90" \
             "\xe2\x80\xa9\xe2\x80\xaa\xe2\x80\xae\xe2\x80\xaf\xe2\x81\xa5\xe2\x81\xa6\xe2\x81\xa9\xe2\x81\xaa"
    SEED("4" ACTS);
    SEED("5" ACTS);
#undef ACTS
    /* The first and last characters of each length, and what is beside them */
    SEED("4\x7f\xc1\xbf\xc2\x80\xdf\xbf\xe0\x9f\xbf\xe0\xa0\x80\xed\x9f\xbf\xed\xa0\x80\xed\xbf\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x8f\xbf\xbf\xf0\x90\x80\x80"
         "\xf4\x8f\xbf\xbf\xf4\x90\x80\x80\xf5\x80\x80\x80");
    SEED("6--temprature\0--temperature");
    SEED("6--repeat-penalty");
#undef SEED
}

int main(int argc, char **argv) {
    char path[4096];
    if (argc < 2) return 2;
    model_write(&spec, argv[1]);
    snprintf(folder, sizeof folder, "%s", argv[1]);
    save_states();
    write_cli_seeds();
    model_spec older = spec;
    older.legacy = true;
    buffer form = model_shard(&older, 0);
    snprintf(path, sizeof path, "%s/older.pth", argv[1]);
    check(write_file(path, &form), "%s: cannot be written", path);
    free(form.at);
    static const char older_kind[] = "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}, "
                                     "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xe2\x96\x81\"}]}";
    static const char newer_kind[] = "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": \"first\"}";
    buffer seeds[] = {small_tokenizer(), small_bin(), small_gguf(),
                      small_json(older_kind, "\"t h\", \"th e\", \"\xe2\x96\x81 the\""),
                      small_json(newer_kind, "[\"t\", \"h\"], [\"th\", \"e\"], [\"\\u2581\", \"the\"]"), small_bytes(), small_tiktoken()};
    static const char *const seed_names[] = {"tokenizer.model", "tokenizer.bin", "vocabulary.gguf", "tokenizer.json", "newer.json", "bytes.json", "tiktoken.model"};
    for (int i = 0; i < 7; i++) {
        put_file(&seeds[i], argv[1], seed_names[i]);
        free(seeds[i].at);
    }
    for (int form = 0; form < FORMS; form++) {
        snprintf(path, sizeof path, "%s/form%d", argv[1], form);
        model_write_as(&spec, (model_form)form, path);
    }
    model_spec tied = spec;
    tied.tied = true;
    snprintf(path, sizeof path, "%s/tied", argv[1]);
    model_write_as(&tied, BIN_0, path);
    for (int scaling = 1; scaling < 3; scaling++) {
        model_spec scaled = spec;
        scaled.scaling = scaling, scaled.head_dim = 12;
        snprintf(path, sizeof path, "%s/scaled%d", argv[1], scaling);
        model_write_as(&scaled, SAFETENSORS, path);
        model_write_as(&scaled, GGUF_FILE, path);
        if (scaling == 2) model_params(&scaled, path);
    }
    return tests_failed != 0;
}
#endif
