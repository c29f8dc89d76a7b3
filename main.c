/* main.c - the command line: complete a prompt, look at a model, at its tokens, at its numbers.
 *
 *   1. Words         usage, messages, exit codes
 *   2. Options       one table, read once
 *   3. Input         the prompt from an argument, a file or a pipe
 *   4. Completion    prompt -> tokens -> text, streamed; stop strings; Ctrl-C; the prompt cache
 *   5. Other verbs   info, check, tokenize, trace, bench
 *
 * It uses llama.h alone. stdout carries the model's text and nothing else; the rest goes to
 * stderr.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "llama.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- 1. Words ---- */

enum {
    EXIT_RUN = 1,
    EXIT_USAGE = 2,
    EXIT_MODEL = 3,
    EXIT_MEMORY = 4,
    EXIT_TOO_LONG = 5,
    EXIT_INTERRUPTED = 130
};

static const char help[] =
    "usage: llama MODEL [PROMPT] [options]     complete a prompt\n"
    "       llama info MODEL [-c N]            shape, size and memory; reads no weights\n"
    "       llama check MODEL                  reads every weight: finite, no holes, MD5 sums\n"
    "       llama tokenize MODEL [TEXT...]     text to token ids; --decode: ids to text\n"
    "       llama trace MODEL PROMPT [NAME...] what each matrix makes of the prompt: \"output\", "
    "\"layers.3\"\n"
    "       llama bench MODEL                  how fast: a prompt of 128 tokens, 32 generated\n"
    "\n"
    "MODEL is a folder as Meta ships it (params.json, consolidated.NN.pth) or as Hugging Face has "
    "it\n"
    "(config.json, *.safetensors), a .gguf file (F32, F16, BF16), or llama2.c's .bin, as they "
    "are;\n"
    "the tokenizer is inside or beside it. Without MODEL, $LLAMA_MODEL is used. Without a prompt,\n"
    "stdin is read: a pipe is the prompt. One newline at its end is dropped.\n"
    "\n"
    "  -m MODEL            the model, when the only argument is to be the prompt\n"
    "  -p TEXT, -f FILE    the prompt; -e: with \\n \\t \\\\ and \\xNN in it\n"
    "  -n N                tokens to generate (256; -1: until the context is full)\n"
    "  -c N                positions of the context (the model's)\n"
    "  -s N                seed (random); the same command and seed give the same bytes\n"
    "  --temp T            temperature (0.8; 0: always the most likely token)\n"
    "  --top-p P           nucleus sampling (0.95; 1: off)\n"
    "  --top-k K, --min-p P, --repeat-penalty R, --repeat-last-n N     (0, 0, 1, 64: off)\n"
    "  -r, --stop TEXT     end before this text; may be given several times\n"
    "  --no-bos, --ignore-eos, --echo     no <s> in front; go on after </s>; print the prompt too\n"
    "  -t N, -b N          threads (all cores); tokens evaluated together (256)\n"
    "  --tokenizer FILE    tokenizer.model, .json or .bin, where it is elsewhere\n"
    "  --prompt-cache FILE what was evaluated is kept there, and used where a prompt begins alike\n"
    "  --memory MODE       map (default) or lock: keep the weights in memory\n"
    "  --kernels NAME      scalar, avx2, avx512 or neon (the best there is); the bits are the "
    "same\n"
    "  --fast              prompts on AMX, where there is; other bits, as near to the truth\n"
    "  --stats, -q         figures on stderr; no notes on stderr\n"
    "  --count, --decode, --bos           tokenize: only how many; ids to text; <s> in front\n"
    "  -h, --help, --version\n"
    "\n"
    "example: llama LLaMA/7B \"I believe the meaning of life is\" -n 64 --temp 0.8\n"
    "exit: 0 done, 1 failed, 2 usage, 3 model file, 4 memory, 5 prompt too long, 130 interrupted\n";

/* Bytes of the character that begins n > 0 bytes, and its number; -1: they are not UTF-8. */
static size_t character(const char *text, size_t n, long *number) {
    static const long least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned first = (unsigned char)*text;
    size_t size = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    long code = size < 2 ? (long)first : (long)(first & (0x7f >> size));
    for (size_t i = 1; i < size; i++) {
        if (i == n || (text[i] & 0xc0) != 0x80) size = 0;
        else code = code << 6 | (text[i] & 0x3f);
    }
    if (code < least[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) size = 0;
    *number = size ? code : -1;
    return size ? size : 1;
}

/* Text for a terminal: characters that would act on it, or turn the direction of writing, are shown
 * instead, ESC as ^[, others as <U+202E>, bytes that are no text as <9B>. All in one line, or in
 * lines. */
static void put_visible(FILE *f, const char *text, size_t n, bool lines) {
    for (size_t i = 0, size; i < n; i += size) {
        long c;
        size = character(text + i, n - i, &c);
        bool turns = c == 0x61c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
                     (c >= 0x2066 && c <= 0x2069);
        if (c < 0) fprintf(f, "<%02X>", (unsigned)(unsigned char)text[i]);
        else if (c == 0x7f || (c < ' ' && !(lines && (c == '\n' || c == '\t'))))
            fprintf(f, "^%c", (int)c ^ 0x40);
        else if (turns || (c >= 0x80 && c < 0xa0)) fprintf(f, "<U+%04lX>", (unsigned long)c);
        else fwrite(text + i, 1, size, f);
    }
}

/* One line on stderr, then the code to exit with. */
__attribute__((format(printf, 2, 3))) static int complain(int code, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fputs("llama: ", stderr);
    put_visible(stderr, text, strlen(text), false); /* with what arguments hold */
    fputc('\n', stderr);
    return code;
}

static int exit_code(int status) {
    switch (status) {
    case LLAMA_OK: return 0;
    case LLAMA_EIO:
    case LLAMA_EFORMAT: return EXIT_MODEL;
    case LLAMA_ENOMEM: return EXIT_MEMORY;
    case LLAMA_EFULL: return EXIT_TOO_LONG;
    case LLAMA_ECANCEL: return EXIT_INTERRUPTED;
    case LLAMA_EINVAL: return EXIT_USAGE;
    default: return EXIT_RUN;
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- 2. Options ---- */

typedef struct {
    const char *verb; /* NULL: complete */
    const char *model, *prompt, *file, *tokenizer, *kernels, *memory, *cache;
    const char **words; /* [n_words] the arguments that are no options */
    const char **stops; /* [n_stops] */
    size_t n_words, n_stops;
    int n, context, threads, batch, top_k, repeat_last;
    double temperature, top_p, min_p, repeat_penalty;
    uint64_t seed;
    bool fast, seeded, escapes, no_bos, ignore_eos, echo, stats, quiet, count, decode, bos, help,
        version;
} options;

typedef enum { FLAG, TEXT, WHOLE, REAL, SEED, STOP } option_kind;

static const struct {
    const char *name, *also;
    option_kind kind;
    size_t at;
    double least, most;
} option_table[] = {
    {"-m", "--model", TEXT, offsetof(options, model), 0, 0},
    {"-p", "--prompt", TEXT, offsetof(options, prompt), 0, 0},
    {"-f", "--file", TEXT, offsetof(options, file), 0, 0},
    {"-n", "--n-predict", WHOLE, offsetof(options, n), -1, 1 << 30},
    {"-c", "--ctx-size", WHOLE, offsetof(options, context), 1, 1 << 20},
    {"-t", "--threads", WHOLE, offsetof(options, threads), 1, 1024},
    {"-b", "--batch-size", WHOLE, offsetof(options, batch), 1, 1 << 20},
    {"-s", "--seed", SEED, offsetof(options, seed), 0, 0},
    {"-r", "--stop", STOP, 0, 0, 0},
    {"-e", "--escape", FLAG, offsetof(options, escapes), 0, 0},
    {"-q", "--quiet", FLAG, offsetof(options, quiet), 0, 0},
    {"-h", "--help", FLAG, offsetof(options, help), 0, 0},
    {"--version", "", FLAG, offsetof(options, version), 0, 0},
    {"--temp", "--temperature", REAL, offsetof(options, temperature), 0, 1e6},
    {"--top-p", "", REAL, offsetof(options, top_p), 0, 1},
    {"--top-k", "", WHOLE, offsetof(options, top_k), 0, 1 << 30},
    {"--min-p", "", REAL, offsetof(options, min_p), 0, 1},
    {"--repeat-penalty", "", REAL, offsetof(options, repeat_penalty), 0, 1e6},
    {"--repeat-last-n", "", WHOLE, offsetof(options, repeat_last), -1, 1 << 30},
    {"--no-bos", "", FLAG, offsetof(options, no_bos), 0, 0},
    {"--ignore-eos", "", FLAG, offsetof(options, ignore_eos), 0, 0},
    {"--echo", "", FLAG, offsetof(options, echo), 0, 0},
    {"--stats", "", FLAG, offsetof(options, stats), 0, 0},
    {"--fast", "", FLAG, offsetof(options, fast), 0, 0},
    {"--kernels", "", TEXT, offsetof(options, kernels), 0, 0},
    {"--memory", "", TEXT, offsetof(options, memory), 0, 0},
    {"--prompt-cache", "", TEXT, offsetof(options, cache), 0, 0},
    {"--tokenizer", "", TEXT, offsetof(options, tokenizer), 0, 0},
    {"--count", "", FLAG, offsetof(options, count), 0, 0},
    {"--decode", "", FLAG, offsetof(options, decode), 0, 0},
    {"--bos", "", FLAG, offsetof(options, bos), 0, 0},
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };

/* Put the value of option i where it belongs. */
static int set_option(options *o, size_t i, const char *value) {
    void *at = (char *)o + option_table[i].at;
    const char *name = option_table[i].name;
    double least = option_table[i].least, most = option_table[i].most;
    char *end = NULL;
    switch (option_table[i].kind) {
    case FLAG: *(bool *)at = true; return 0;
    case TEXT: *(const char **)at = value; return 0;
    case STOP:
        if (!*value) return complain(EXIT_USAGE, "%s: the stop text is empty", name);
        if ((*value & 0xc0) == 0x80)
            return complain(EXIT_USAGE, "%s: the stop text begins inside a character", name);
        o->stops[o->n_stops++] = value;
        return 0;
    case SEED:
        errno = 0;
        *(uint64_t *)at = strtoull(value, &end, 10);
        o->seeded = true;
        if (errno || *end || end == value || *value < '0' || *value > '9')
            return complain(EXIT_USAGE, "%s: '%s' is not a whole number from 0 to 2^64-1", name,
                            value);
        return 0;
    default: break;
    }
    bool whole = option_table[i].kind == WHOLE;
    double v = strtod(value, &end);
    if (*end || end == value || !(v >= least && v <= most) || (whole && v != (double)(long)v))
        return complain(EXIT_USAGE, "%s: '%s' is not a %snumber from %g to %g%s", name, value,
                        whole ? "whole " : "", least, most,
                        strcmp(name, "-t") ? "" : "; -t is threads, the temperature is --temp");
    if (whole) *(int *)at = (int)v;
    else *(double *)at = v;
    return 0;
}

/* Which option `text` names, as "--name" or "--name=value" (then *value is set); OPTIONS: none. */
static size_t find_option(const char *text, const char **value) {
    for (size_t i = 0; i < OPTIONS; i++)
        for (int k = 0; k < 2; k++) {
            const char *name = k ? option_table[i].also : option_table[i].name;
            size_t n = strlen(name);
            if (!n || strncmp(text, name, n) != 0) continue;
            if (text[n] == 0) return i;
            if (text[n] == '=' && text[1] == '-') {
                *value = text + n + 1;
                return i;
            }
        }
    return OPTIONS;
}

/* The command line. The verb is the first word; a lone "--" ends the options. */
static int read_options(options *o, int argc, char **argv) {
    static const char *const verbs[] = {"info", "check", "tokenize", "trace", "bench"};
    bool over = false;
    for (int a = 1; a < argc; a++) {
        const char *value = NULL, *text = argv[a];
        if (over || text[0] != '-' || !text[1]) {
            for (size_t v = 0;
                 v < sizeof verbs / sizeof *verbs && o->n_words == 0 && !o->verb && !over; v++)
                if (strcmp(text, verbs[v]) == 0) o->verb = text;
            if (o->verb != text) o->words[o->n_words++] = text;
            continue;
        }
        if (strcmp(text, "--") == 0) {
            over = true;
            continue;
        }
        bool number =
            o->verb && text[1] >= '0' && text[1] <= '9'; /* a negative id: decode says why not */
        size_t i = number ? OPTIONS : find_option(text, &value);
        if (i == OPTIONS)
            return complain(EXIT_USAGE, "%s: there is no such option; llama -h lists them", text);
        bool flag = option_table[i].kind == FLAG;
        if (flag && value) return complain(EXIT_USAGE, "%s: takes no value", text);
        if (!flag && !value && a + 1 == argc)
            return complain(EXIT_USAGE, "%s: wants a value", text);
        if (!flag && !value) value = argv[++a];
        int code = set_option(o, i, value);
        if (code) return code;
    }
    return 0;
}

/* Take the model from the words, unless -m or $LLAMA_MODEL give it. */
static int settle_model(options *o) {
    const char *standing = getenv("LLAMA_MODEL");
    struct stat st;
    if (standing && !*standing) standing = NULL;
    if (o->model) return 0;
    const char *word = o->n_words ? o->words[0] : "", *end = strrchr(word, '.');
    bool there = stat(word, &st) == 0,
         file = end && (!strcmp(end, ".gguf") || !strcmp(end, ".bin"));
    bool model = there && (S_ISDIR(st.st_mode) || file);
    if (o->n_words && (model || !standing)) { /* with a standing model, other words are a prompt */
        o->model = o->words[0];
        o->words++;
        o->n_words--;
    } else o->model = standing;
    if (!o->model)
        return complain(
            EXIT_USAGE,
            "no model: give its folder or file, or set LLAMA_MODEL; llama -h says more");
    return 0;
}

/* ---- 3. Input ---- */

typedef struct {
    char *text;
    size_t n;
} bytes;

/* All of a file; "-" is stdin. */
static int read_all(const char *path, bytes *out) {
    bool from_stdin = strcmp(path, "-") == 0;
    FILE *f = from_stdin ? stdin : fopen(path, "rb");
    size_t room = 0, got = 1;
    struct stat st;
    out->text = NULL;
    out->n = 0;
    if (!f) return complain(EXIT_USAGE, "%s: cannot be opened: %s", path, strerror(errno));
    int why = fstat(fileno(f), &st) == 0 && S_ISDIR(st.st_mode) ? EISDIR : 0;
    for (; got && !why; out->n += got) {
        char *more = out->n < room ? out->text : realloc(out->text, room = 2 * room + (1 << 16));
        if (more) out->text = more;
        errno = 0;
        got = more ? fread(more + out->n, 1, room - out->n, f) : 0;
        if (!more || ferror(f)) why = !more ? ENOMEM : errno ? errno : EIO;
    }
    if (!from_stdin) fclose(f);
    if (why == ENOMEM) return complain(EXIT_MEMORY, "%s: does not fit in memory", path);
    return why ? complain(EXIT_USAGE, "%s: cannot be read: %s", from_stdin ? "stdin" : path,
                          strerror(why))
               : 0;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* \n \t \r \\ \" \' \xNN, in place; others stay as they are */
static void unescape(bytes *b) {
    static const char from[] = "ntr\\\"'", to[] = "\n\t\r\\\"'";
    size_t k = 0;
    for (size_t i = 0; i < b->n; i++) {
        bool escape = b->text[i] == '\\' && i + 1 < b->n;
        const char *which = escape && b->text[i + 1] ? strchr(from, b->text[i + 1]) : NULL;
        bool hex = escape && b->text[i + 1] == 'x' && i + 3 < b->n &&
                   hex_digit(b->text[i + 2]) >= 0 && hex_digit(b->text[i + 3]) >= 0;
        if (hex) {
            b->text[k++] = (char)(hex_digit(b->text[i + 2]) * 16 + hex_digit(b->text[i + 3]));
            i += 3;
        } else if (which) {
            b->text[k++] = to[which - from];
            i++;
        } else b->text[k++] = b->text[i];
    }
    b->n = k;
}

/* The words joined by spaces. */
static int join_words(const options *o, bytes *out) {
    size_t n = 1;
    for (size_t i = 0; i < o->n_words; i++) n += strlen(o->words[i]) + 1;
    out->text = malloc(n);
    out->n = 0;
    if (!out->text) return complain(EXIT_MEMORY, "the text does not fit in memory");
    for (size_t i = 0; i < o->n_words; i++) {
        if (i) out->text[out->n++] = ' ';
        memcpy(out->text + out->n, o->words[i], strlen(o->words[i]));
        out->n += strlen(o->words[i]);
    }
    return 0;
}

/* The text to work on, from -p, -f, the arguments or stdin, and only one of them. Of a
 * prompt's file the last newline is dropped. */
static int read_text(options *o, bytes *text, bool is_prompt) {
    if ((o->prompt != NULL) + (o->file != NULL) + (o->n_words > 0) > 1 ||
        (is_prompt && o->n_words > 1))
        return complain(EXIT_USAGE,
                        "more than one text: put it in quotes, and give -p, -f or an argument");
    if (o->prompt) {
        o->words[0] = o->prompt;
        o->n_words = 1;
    }
    int code = 0;
    if (o->n_words) code = join_words(o, text);
    else {
        if (!o->file && isatty(STDIN_FILENO))
            return complain(EXIT_USAGE,
                            "no text: give it in quotes, with -f FILE or through a pipe");
        code = read_all(o->file ? o->file : "-", text);
        if (code == 0 && is_prompt && text->n && text->text[text->n - 1] == '\n') text->n--;
    }
    if (code == 0 && o->escapes) unescape(text);
    return code;
}

static const char no_tokenizer[] =
    "the model has no tokenizer inside or beside it: give tokenizer.model with --tokenizer FILE";

/* Tokens of a text in memory the caller frees. */
static int tokenize(const llama *m, const bytes *text, unsigned flags, int32_t **tokens,
                    size_t *n) {
    ptrdiff_t want = llama_text_to_tokens(m, text->text, text->n, flags, NULL, 0);
    *tokens = want < 0 ? NULL : malloc(((size_t)want + 1) * sizeof **tokens);
    if (want == LLAMA_EINVAL) return complain(EXIT_MODEL, "%s", no_tokenizer);
    if (!*tokens) return complain(EXIT_MEMORY, "the text does not fit in memory");
    ptrdiff_t made = llama_text_to_tokens(m, text->text, text->n, flags, *tokens, (size_t)want);
    if (made != want) return complain(EXIT_MEMORY, "the text does not fit in memory");
    *n = (size_t)made;
    return 0;
}

/* ---- 4. Completion ---- */

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

/* Text on its way to stdout: what may be the beginning of a stop text waits. */
typedef struct {
    const options *o;
    char *held;
    size_t n, room;
    bool stopped;
} output;

/* Why stdout takes no more: a closed pipe is no news, and Ctrl-C while waiting for it is Ctrl-C. */
static int write_failed(void) {
    if (errno == EINTR && interrupted) return EXIT_INTERRUPTED;
    if (errno == EPIPE) return EXIT_RUN;
    return complain(EXIT_RUN, "stdout cannot be written: %s", strerror(errno));
}

static int write_out(const char *text, size_t n) {
    if (isatty(STDOUT_FILENO)) put_visible(stdout, text, n, true);
    else fwrite(text, 1, n, stdout);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : write_failed();
}

/* How many of the last bytes held could begin a stop text; and where one stands whole, or n. */
static size_t find_stop(const output *w, size_t *keep) {
    size_t at = w->n;
    *keep = 0;
    for (size_t s = 0; s < w->o->n_stops; s++) {
        const char *stop = w->o->stops[s];
        size_t length = strlen(stop);
        for (size_t i = 0; i < w->n; i++) {
            size_t left = w->n - i;
            if (memcmp(w->held + i, stop, left < length ? left : length) != 0) continue;
            if (left >= length && i < at) at = i;
            if (left < length && left > *keep) *keep = left;
            break;
        }
    }
    return at;
}

/* Pass on n more bytes; at the end, all that waits. */
static int emit(output *w, const char *text, size_t n, bool end) {
    if (w->n + n > w->room) {
        size_t room = 2 * (w->n + n);
        char *more = realloc(w->held, room);
        if (!more) return complain(EXIT_MEMORY, "out of memory");
        w->held = more;
        w->room = room;
    }
    if (n) memcpy(w->held + w->n, text, n);
    w->n += n;
    size_t keep, at = find_stop(w, &keep);
    w->stopped = at < w->n;
    size_t ready = w->stopped ? at : end ? w->n : w->n - keep;
    int code = ready ? write_out(w->held, ready) : 0;
    w->n = w->stopped ? 0 : w->n - ready;
    /* NOLINTNEXTLINE: where n is not 0, something is held */
    if (w->n && ready) memmove(w->held, w->held + ready, w->n);
    return code;
}

typedef struct { /* one completion under way */
    const options *o;
    llama *model;
    llama_info info;
    llama_session *session;
    bytes text; /* the prompt, and its tokens */
    int32_t *prompt;
    size_t n_prompt, known, generated, context; /* known: of the prompt, from the cache */
    double opened, began, first, ended;         /* seconds: open, session, prompt done, all done */
    bool cached;                                /* the cache has all of the prompt */
    bool wanted, shown;                         /* progress, on a terminal's stderr */
    pthread_t warmer;                           /* reads the weights in, if it */
    bool warming;                               /* was started, until */
    atomic_bool warmed;                         /* nobody waits for them */
} completion;

/* A line on a terminal's stderr while a prompt takes longer than a moment. */
static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    completion *c = user;
    if (c->wanted && now() - c->began > 0.5) {
        c->shown = true;
        fprintf(stderr, "\r%s %3.0f%%", what, 100.0 * (double)done / (double)total);
    }
    return interrupted;
}

static int on_warmed(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)what, (void)done, (void)total;
    return ((completion *)user)->warmed || interrupted;
}

static void *warm(void *user) {
    llama_warm(((completion *)user)->model, on_warmed, user);
    return NULL;
}

/* Beside the first evaluation a thread of its own reads the file from the front, as fast as the
 * disk goes. Not if memory cannot hold the file: it would push out what is needed. */
static void start_warming(completion *c) {
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    c->warming =
        (double)c->info.file_bytes < 0.9 * memory && pthread_create(&c->warmer, NULL, warm, c) == 0;
}

static void end_warming(completion *c) {
    c->warmed = true; /* as far as anybody needs it */
    if (c->warming) pthread_join(c->warmer, NULL);
}

/* Of n tokens, the weights that each meets in matrix products, added up: the last layer has keys
 * and values of all, the rest of it and the output only of the last token. */
static double weights_met(const llama_info *i, double n) {
    double dim = i->dim, kv = 2 * dim * i->kv_heads * i->head_dim;
    double layer = 2 * dim * dim + kv + 3 * dim * i->hidden;
    return (i->layers - 1) * layer * n + kv * n + (layer - kv) + dim * i->vocab;
}

static void print_stats(const completion *c, uint64_t memory) {
    const llama_info *info = &c->info;
    double prompt = c->first - c->began, rest = c->ended - c->first;
    double each = c->generated > 1 ? rest / (double)(c->generated - 1) : 0;
    double weights = weights_met(info, 1) * (double)info->file_bytes / (double)info->parameters;
    size_t evaluated = c->n_prompt - c->known;
    fprintf(stderr, "\nprompt      %zu tokens in %.3f s, %.1f tokens/s\n", evaluated, prompt,
            prompt > 0 ? (double)evaluated / prompt : 0);
    if (c->o->cache) fprintf(stderr, "cache       %zu tokens of the prompt\n", c->known);
    fprintf(stderr, "generation  %zu tokens in %.3f s", c->generated, rest);
    if (each > 0)
        fprintf(stderr, ", %.2f tokens/s, %.1f GB/s of weights", 1 / each, weights / each / 1e9);
    fprintf(stderr, "\nopening     %.1f ms\nmemory      %.1f MB of session for %zu positions\n",
            c->opened * 1e3, (double)memory / 1e6, c->context);
    fprintf(stderr, "kernels     %s\nseed        %llu\n", llama_session_kernels(c->session),
            (unsigned long long)c->o->seed);
}

/* ---- The prompt cache: a session as llama_save writes it ---- */

static int read_state(void *file, void *p, size_t n) { return fread(p, 1, n, file) != n; }
static int write_state(void *file, const void *p, size_t n) { return fwrite(p, 1, n, file) != n; }

/* The cache's file, if it is there and has something in it. */
static int open_cache(const char *path, FILE **f) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */
    if (fd < 0 && errno == ENOENT) return 0;
    if (fd < 0) return complain(EXIT_USAGE, "%s: cannot be opened: %s", path, strerror(errno));
    bool known = fstat(fd, &st) == 0, regular = known && S_ISREG(st.st_mode);
    if (regular && st.st_size > 0 && !(*f = fdopen(fd, "rb"))) known = false;
    int why = errno;
    if (!*f) close(fd);
    if (!known) return complain(EXIT_USAGE, "%s: cannot be read: %s", path, strerror(why));
    return regular ? 0 : complain(EXIT_USAGE, "%s: is not a regular file", path);
}

/* What the cache has of the prompt need not be evaluated again. What is no state, or damaged, is
 * left to the user to remove; a state of another model, or too long, is evaluated anew. */
static int use_cache(completion *c) {
    const char *path = c->o->cache;
    FILE *f = NULL;
    int code = path ? open_cache(path, &f) : 0;
    if (!f) return code;
    int status = llama_load(c->session, 0, read_state, f);
    bool longer = status == LLAMA_OK && fgetc(f) != EOF;
    fclose(f);
    if (longer || status == LLAMA_EFORMAT || status == LLAMA_EIO)
        return complain(EXIT_USAGE, "%s: %s; remove it, or give another name", path,
                        longer ? "has more in it than a state" : llama_session_error(c->session));
    if (status && status != LLAMA_EMISMATCH && status != LLAMA_EFULL)
        return complain(exit_code(status), "%s: %s", path, llama_session_error(c->session));
    if (status && !c->o->quiet)
        complain(0, "%s: %s; it is made anew", path, llama_session_error(c->session));
    const int32_t *tokens = llama_tokens(c->session, 0);
    size_t length = llama_length(c->session, 0);
    while (c->known < length && c->known < c->n_prompt && tokens[c->known] == c->prompt[c->known])
        c->known++;
    c->cached = c->known == c->n_prompt;
    if (c->cached && !(length == c->known && llama_logits(c->session, 0))) c->known--;
    llama_rewind(c->session, 0, c->known); /* the last token is evaluated for its logits */
    return 0;
}

/* Write all that was evaluated: to a new file, which then takes the old one's place at once. */
static void write_cache(completion *c) {
    const char *path = c->o->cache;
    size_t room = strlen(path) + sizeof ".XXXXXX";
    char *name = malloc(room);
    if (name) snprintf(name, room, "%s.XXXXXX", path);
    int fd = name ? mkostemp(name, O_CLOEXEC) : -1;
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    bool good = f && llama_save(c->session, 0, write_state, f) == LLAMA_OK && fflush(f) == 0 &&
                fsync(fd) == 0;
    int why = errno;
    if (f && fclose(f) != 0 && good) good = false, why = errno;
    if (!f && fd >= 0) close(fd);
    if (good && rename(name, path) != 0) good = false, why = errno;
    if (!good && fd >= 0) unlink(name);
    if (!good && !c->o->quiet) complain(0, "%s: cannot be written: %s", path, strerror(why));
    free(name);
}

/* ---- From the prompt to the end ---- */

/* Evaluate the prompt, then draw, print and evaluate token after token. */
static int generate(completion *c, const llama_sampler *sampler, output *out) {
    const options *o = c->o;
    llama_utf8 utf8 = {.started = c->text.n > 0};
    char text[LLAMA_TEXT_MAX];
    int status = llama_eval(c->session, 0, c->prompt + c->known, c->n_prompt - c->known), code = 0;
    if (c->shown) fputs("\r\033[K", stderr);
    c->wanted = false;
    c->first = now();
    for (int i = 0; status == LLAMA_OK && code == 0 && i != o->n && !interrupted; i++) {
        int32_t token = llama_sample(c->session, 0, sampler);
        if (token < 0) status = token;
        if (token < 0 || (token == llama_eos(c->model) && !o->ignore_eos)) break;
        c->generated++;
        code = emit(out, text, llama_utf8_push(c->model, &utf8, token, text), false);
        if (out->stopped || i + 1 == o->n) break;
        status = llama_eval(c->session, 0, &token, 1);
    }
    c->ended = now();
    if (code == 0 && !out->stopped)
        code = emit(out, text, llama_utf8_push(c->model, &utf8, LLAMA_FLUSH, text), true);
    if (code) return code;
    if (interrupted) return EXIT_INTERRUPTED;
    if (status == LLAMA_EFULL) {
        if (!o->quiet)
            complain(0, "the context of %zu positions is full; -c makes it larger", c->context);
        return 0;
    }
    return status ? complain(exit_code(status), "%s", llama_session_error(c->session)) : 0;
}

static llama_sampler sampler_of(const options *o) {
    return (llama_sampler){
        .size = sizeof(llama_sampler),
        .temperature = (float)o->temperature,
        .top_p = (float)(o->top_p > 0 && o->top_p < 1e-30 ? 1e-30 : o->top_p), /* not off */
        .min_p = (float)o->min_p,
        .top_k = o->top_k,
        .repeat_penalty = (float)o->repeat_penalty,
        .repeat_last = o->repeat_last,
        .seed = o->seed,
    };
}

/* With an open model and the prompt's tokens: a session, and the text. */
static int complete_tokens(completion *c) {
    const options *o = c->o;
    llama_error err;
    c->info.size = sizeof c->info;
    llama_describe(c->model, &c->info);
    c->context = (size_t)(o->context ? o->context : c->info.context);
    if (c->n_prompt > c->context)
        return complain(
            EXIT_TOO_LONG,
            "the prompt has %zu tokens, the context %zu positions; make it larger with -c",
            c->n_prompt, c->context);
    c->wanted = !o->quiet && isatty(STDERR_FILENO);
    llama_session_options so = {.size = sizeof so,
                                .context = (int)c->context,
                                .batch = o->batch,
                                .threads = o->threads,
                                .numerics = o->fast ? LLAMA_FAST : LLAMA_EXACT,
                                .kernels = o->kernels,
                                .progress = on_progress,
                                .user = c};
    c->began = now();
    int status = llama_session_new(&c->session, c->model, &so, &err);
    if (status) return complain(exit_code(status), "%s", err.text);
    llama_sampler sampler = sampler_of(o);
    float *bias = NULL;
    if (o->ignore_eos && c->info.eos >= 0) {
        bias = calloc((size_t)c->info.vocab, sizeof *bias);
        if (!bias) {
            llama_session_free(c->session);
            return complain(EXIT_MEMORY, "out of memory");
        }
        bias[c->info.eos] = -1e30f;
        sampler.bias = bias;
    }
    output out = {.o = o};
    start_warming(c);
    int code = use_cache(c);
    if (code == 0 && o->echo) code = write_out(c->text.text, c->text.n);
    if (code == 0) code = generate(c, &sampler, &out);
    if (o->cache && !c->cached && (code == 0 || code == EXIT_INTERRUPTED)) write_cache(c);
    end_warming(c);
    if (o->stats) print_stats(c, llama_session_bytes(c->model, &so));
    if (code != EXIT_RUN && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO)) fputc('\n', stderr);
    free(out.held);
    free(bias);
    llama_session_free(c->session);
    return code;
}

static llama *opened;

/* A file of weights was cut short: then evaluation says so. */
static void on_lost_page(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    if (!llama_fault(opened, info->si_addr)) signal(signal_number, SIG_DFL);
}

static int open_model(const options *o, llama **m) {
    struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    llama_options lo = {.size = sizeof lo, .tokenizer = o->tokenizer};
    llama_error err;
    static const char *const modes[] = {"auto", "map", "lock", "stream"}; /* LLAMA_MEMORY_... */
    while (o->memory && lo.memory < 4 && strcmp(o->memory, modes[lo.memory]) != 0) lo.memory++;
    if (lo.memory == 4)
        return complain(EXIT_USAGE, "--memory: '%s' is not auto, map or lock", o->memory);
    sigaction(SIGBUS, &action, NULL);
    int status = llama_open(&opened, o->model, &lo, &err);
    *m = opened;
    return status ? complain(exit_code(status), "%s", err.text) : 0;
}

static void close_model(llama *m) {
    opened = NULL; /* nothing is left that could be lost */
    llama_close(m);
}

static uint64_t random_seed(void) {
    uint64_t seed = (uint64_t)time(NULL) * 1000003 + (uint64_t)getpid();
    FILE *f = fopen("/dev/urandom", "rb");
    if (f) {
        uint64_t drawn;
        if (fread(&drawn, sizeof drawn, 1, f) == 1) seed = drawn;
        fclose(f);
    }
    return seed;
}

static int run_completion(options *o) {
    completion c = {.o = o};
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    if (o->cache && o->fast)
        return complain(EXIT_USAGE, "--prompt-cache: not with --fast, where it would change bits");
    int code = read_text(o, &c.text, true);
    sigaction(SIGINT, &action, NULL); /* a second Ctrl-C ends it at once */
    if (code == 0) {
        double began = now();
        code = open_model(o, &c.model);
        c.opened = now() - began;
    }
    if (code == 0)
        code = tokenize(c.model, &c.text, o->no_bos ? 0 : LLAMA_ADD_BOS, &c.prompt, &c.n_prompt);
    if (code == 0 && c.n_prompt == 0)
        code =
            complain(EXIT_USAGE, "the prompt is empty and --no-bos leaves nothing to start from");
    if (!o->seeded) o->seed = random_seed();
    if (code == 0) code = complete_tokens(&c);
    free(c.text.text);
    free(c.prompt);
    close_model(c.model);
    return code;
}

/* ---- 5. Other verbs ---- */

/* A session of one sequence whose evaluations nobody waits for. */
static int new_session(llama_session **s, const llama *m, const options *o, int context,
                       int batch) {
    llama_error err;
    llama_session_options so = {.size = sizeof so,
                                .context = context,
                                .batch = batch,
                                .threads = o->threads,
                                .numerics = o->fast ? LLAMA_FAST : LLAMA_EXACT,
                                .kernels = o->kernels};
    int status = llama_session_new(s, m, &so, &err);
    return status ? complain(exit_code(status), "%s", err.text) : 0;
}

static int run_info(const options *o) {
    llama *m = NULL;
    if (o->n_words || o->prompt || o->file)
        return complain(EXIT_USAGE, "info: takes a model and no text");
    int code = open_model(o, &m);
    if (code) return code;
    llama_info i = {.size = sizeof i};
    llama_describe(m, &i);
    int context = o->context ? o->context : i.context;
    uint64_t kv = i.kv_bytes_per_token * (uint64_t)context;
    uint64_t have = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    llama_session_options so = {
        .size = sizeof so, .context = context, .batch = o->batch, .threads = o->threads};
    uint64_t need = i.file_bytes + llama_session_bytes(m, &so);
    printf("model       %s\n", o->model);
    printf("format      %s, %s, %d shard%s\n", i.format, i.dtype, i.shards,
           i.shards > 1 ? "s" : "");
    printf(
        "shape       dim %d, layers %d, heads %d, kv_heads %d, head_dim %d, hidden %d, vocab %d\n",
        i.dim, i.layers, i.heads, i.kv_heads, i.head_dim, i.hidden, i.vocab);
    printf("constants   norm_eps %g, rope_theta %g\n", (double)i.norm_eps, (double)i.rope_theta);
    printf("parameters  %llu\n", (unsigned long long)i.parameters);
    printf("bytes       %llu\n", (unsigned long long)i.file_bytes);
    if (i.bos >= 0 || i.eos >= 0) printf("tokenizer   bos %d, eos %d\n", (int)i.bos, (int)i.eos);
    else printf("tokenizer   none\n");
    printf("context     %d positions, KV cache %llu bytes (%llu a position)\n", context,
           (unsigned long long)kv, (unsigned long long)i.kv_bytes_per_token);
    printf("memory      %.1f GB needed, %.1f GB in this machine: %s\n", (double)need / 1e9,
           (double)have / 1e9,
           need <= have ? "fits" : "does not fit; weights will be read from disk again and again");
    llama_session *s = NULL; /* small, to see what would run */
    code = new_session(&s, m, o, 1, 1);
    if (code == 0) printf("kernels     %s\n", llama_session_kernels(s));
    llama_session_free(s);
    close_model(m);
    return code;
}

typedef struct {
    bool wanted;  /* on a terminal's stderr */
    double shown; /* when, last */
} bar;

static int on_check(void *user, const char *what, uint64_t done, uint64_t total) {
    enum { WIDTH = 40 };
    bar *b = user;
    int full = (int)(done * WIDTH / (total ? total : 1));
    if (!b->wanted || (now() - b->shown < 0.1 && done < total)) return interrupted;
    b->shown = now();
    fprintf(stderr, "\r%-8s%3d%% [", what, full * 100 / WIDTH);
    for (int i = 0; i < WIDTH; i++) fputc(i < full ? '#' : '.', stderr);
    fputc(']', stderr);
    return interrupted;
}

static int run_check(const options *o) {
    llama *m = NULL;
    llama_error err;
    llama_info info = {.size = sizeof info};
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    if (o->n_words || o->prompt || o->file)
        return complain(EXIT_USAGE, "check: takes a model and no text");
    int code = open_model(o, &m);
    if (code) return code;
    sigaction(SIGINT, &action, NULL);
    llama_describe(m, &info);
    bar b = {.wanted = !o->quiet && isatty(STDERR_FILENO)};
    int status = llama_check(m, on_check, &b, &err);
    if (b.shown > 0) fputs("\r\033[K", stderr);
    if (status) code = complain(exit_code(status), "%s", err.text);
    else
        printf("%s: sound, %llu parameters in %d file%s\n", o->model,
               (unsigned long long)info.parameters, info.shards, info.shards > 1 ? "s" : "");
    close_model(m);
    return code;
}

/* Ids in text, any white space between them, to text on stdout. */
static int decode(const llama *m, char *text, size_t n) {
    llama_utf8 utf8 = {.n = 0};
    llama_info info = {.size = sizeof info};
    char out[LLAMA_TEXT_MAX], *at = text, *end;
    llama_describe(m, &info);
    if (!llama_token_text(m, 0, NULL)) return complain(EXIT_MODEL, "%s", no_tokenizer);
    int code = 0;
    while (code == 0 && (at += strspn(at, " \t\r\n")) < text + n) {
        long id = strtol(at, &end, 10);
        if (end == at || !strchr(" \t\r\n", *end) || id < 0 || id >= info.vocab)
            return complain(EXIT_USAGE, "'%.20s' is not a token id from 0 to %d", at,
                            info.vocab - 1);
        at = end;
        size_t k = llama_utf8_push(m, &utf8, (int32_t)id, out);
        code = k ? write_out(out, k) : 0;
    }
    size_t k = llama_utf8_push(m, &utf8, LLAMA_FLUSH, out);
    return code ? code : write_out(out, k);
}

static int run_tokenize(options *o) {
    llama *m = NULL;
    bytes text = {NULL, 0};
    int32_t *ids = NULL;
    size_t n = 0;
    int code = read_text(o, &text, false);
    if (code == 0) code = open_model(o, &m);
    if (code == 0 && o->decode) {
        char *ended = realloc(text.text, text.n + 1);
        if (!ended) code = complain(EXIT_MEMORY, "the text does not fit in memory");
        else {
            text.text = ended;
            text.text[text.n] = 0;
            code = decode(m, text.text, text.n);
        }
    } else if (code == 0 &&
               (code = tokenize(m, &text, o->bos ? LLAMA_ADD_BOS : 0, &ids, &n)) == 0) {
        for (size_t i = 0; i < n && !o->count; i++) printf("%s%d", i ? " " : "", (int)ids[i]);
        if (o->count) printf("%zu", n);
        putchar('\n');
        if (fflush(stdout) != 0) code = write_failed();
    }
    free(ids);
    free(text.text);
    close_model(m);
    return code;
}

typedef struct {
    const char **names; /* [n] those to show; none: all */
    bool *found;        /* [n] */
    size_t n;
} shown;

/* As zlib has it (RFC 1952), for Python: zlib.crc32(x.astype("<f4").tobytes()) */
static uint32_t crc32(const void *p, size_t n) {
    uint32_t table[256], crc = UINT32_MAX;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
    }
    for (const unsigned char *c = p; n--; c++) crc = crc >> 8 ^ table[(crc ^ *c) & 255];
    return ~crc;
}

/* One intermediate, x [rows][cols], a row a token: "layers.3" shows all of that layer. */
static void show(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    shown *s = user;
    bool wanted = s->n == 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t k = strlen(s->names[i]);
        if (strncmp(name, s->names[i], k) == 0 && (name[k] == 0 || name[k] == '.'))
            wanted = s->found[i] = true;
    }
    if (!wanted) return;
    double sum = 0, squares = 0, count = (double)rows * (double)cols;
    for (size_t i = 0; i < rows * cols; i++)
        sum += (double)x[i], squares += (double)x[i] * (double)x[i];
    printf("%-30s [%zu, %zu]  mean %.6g  rms %.6g  crc32 %08x  first", name, rows, cols,
           sum / count, sqrt(squares / count), (unsigned)crc32(x, rows * cols * sizeof *x));
    for (size_t i = 0; i < cols && i < 4; i++) printf(" %.7g", (double)x[i]);
    putchar('\n');
}

/* With an open model: evaluate the prompt, all of it at once, and show what it goes through. */
static int trace(const options *o, const llama *m, const int32_t *prompt, size_t n, shown *s) {
    llama_session *session = NULL;
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    int context = o->context ? o->context : info.context;
    if (n > (size_t)context)
        return complain(EXIT_TOO_LONG, "the prompt has %zu tokens, the context %d positions", n,
                        context);
    int status, code = new_session(&session, m, o, context, (int)n);
    if (code) return code;
    llama_trace(session, show, s);
    status = llama_eval(session, 0, prompt, n);
    code = status ? complain(exit_code(status), "%s", llama_session_error(session)) : 0;
    for (size_t i = 0; i < s->n && code == 0; i++)
        if (!s->found[i])
            code =
                complain(EXIT_USAGE, "there is no '%s'; without names, all are shown", s->names[i]);
    llama_session_free(session);
    return code;
}

static int run_trace(options *o) {
    llama *m = NULL;
    bytes text = {NULL, 0};
    int32_t *prompt = NULL;
    size_t first = o->prompt || o->file || o->n_words == 0 ? 0 : 1; /* word that is a name */
    shown s = {.names = o->words + first, .n = o->n_words - first};
    size_t n = 0;
    o->n_words = first;
    s.found = calloc(s.n + 1, sizeof *s.found);
    if (!s.found) return complain(EXIT_MEMORY, "out of memory");
    options alone = *o; /* read_text puts -p where the names are */
    const char *word[1] = {o->words[0]};
    alone.words = word;
    int code = read_text(&alone, &text, true);
    if (code == 0) code = open_model(o, &m);
    if (code == 0) code = tokenize(m, &text, o->no_bos ? 0 : LLAMA_ADD_BOS, &prompt, &n);
    if (code == 0)
        code = n ? trace(o, m, prompt, n, &s) : complain(EXIT_USAGE, "the prompt is empty");
    free(s.found);
    free(prompt);
    free(text.text);
    close_model(m);
    return code;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The short form of tests/bench.c: medians of five, prompt and generation in turn. */
static int bench(const options *o, const llama *m) {
    enum { PROMPT = 128, GENERATED = 32, TIMES = 5 };
    llama_session *s = NULL;
    llama_info info = {.size = sizeof info};
    int32_t tokens[PROMPT + GENERATED];
    double seconds[2][TIMES];
    llama_describe(m, &info);
    for (int i = 0; i < PROMPT + GENERATED; i++) tokens[i] = (i * 7919 + 1) % info.vocab;
    int status = LLAMA_OK, code = new_session(&s, m, o, PROMPT + GENERATED, o->batch);
    if (code) return code;
    for (int r = -1; r < TIMES && status == LLAMA_OK; r++) { /* the first round is not counted */
        double began = now();
        llama_rewind(s, 0, 0);
        status = llama_eval(s, 0, tokens, PROMPT);
        double between = now();
        for (int i = 0; i < GENERATED && status == LLAMA_OK; i++)
            status = llama_eval(s, 0, tokens + PROMPT + i, 1);
        if (r < 0) continue;
        seconds[0][r] = between - began;
        seconds[1][r] = now() - between;
    }
    if (status == LLAMA_OK) {
        double size = (double)info.file_bytes / (double)info.parameters;
        for (int k = 0; k < 2; k++) qsort(seconds[k], TIMES, sizeof(double), by_size);
        double prompt = PROMPT / seconds[0][TIMES / 2], each = GENERATED / seconds[1][TIMES / 2];
        printf("prompt      %d tokens, %.2f tokens/s, %.1f GFLOP/s of matrix products\n", PROMPT,
               prompt, prompt * 2 * weights_met(&info, PROMPT) / PROMPT / 1e9);
        printf("generation  %d tokens, %.2f tokens/s, %.1f GB/s of weights\n", GENERATED, each,
               each * weights_met(&info, 1) * size / 1e9);
        printf("kernels     %s\n", llama_session_kernels(s));
    }
    code = status ? complain(exit_code(status), "%s", llama_session_error(s)) : 0;
    llama_session_free(s);
    return code;
}

static int run_bench(const options *o) {
    llama *m = NULL;
    if (o->n_words || o->prompt || o->file)
        return complain(EXIT_USAGE, "bench: takes a model and no text");
    int code = open_model(o, &m);
    if (code == 0) code = bench(o, m);
    close_model(m);
    return code;
}

int main(int argc, char **argv) {
    options o = {.n = 256, .temperature = 0.8, .top_p = 0.95, .repeat_penalty = 1};
    const char **room = calloc(2 * ((size_t)argc + 1), sizeof *room);
    if (!room) return complain(EXIT_MEMORY, "out of memory");
    o.words = room;
    o.stops = room + argc + 1;
    int code = read_options(&o, argc, argv);
    if (code == 0 && o.help) fputs(help, stdout);
    else if (code == 0 && o.version)
        printf("llama.c %d.%d.%d (%s)\n", llama_release() / 10000, llama_release() / 100 % 100,
               llama_release() % 100, llama_build());
    else {
        if (code == 0) code = settle_model(&o);
        if (code == 0 && o.verb && strcmp(o.verb, "info") == 0) code = run_info(&o);
        else if (code == 0)
            code = !o.verb                        ? run_completion(&o)
                   : strcmp(o.verb, "trace") == 0 ? run_trace(&o)
                   : strcmp(o.verb, "bench") == 0 ? run_bench(&o)
                   : strcmp(o.verb, "check") == 0 ? run_check(&o)
                                                  : run_tokenize(&o);
    }
    if (code == 0 && (fflush(stdout) != 0 || ferror(stdout))) code = write_failed();
    free(room);
    return code;
}
