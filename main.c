/* main.c - the command line: complete prompts, talk, look at a model and its numbers.
 * It uses llama.h alone. stdout carries the result and nothing else; the rest goes to stderr.
 *
 *   1. Words         exit codes, messages, text for terminals and in JSON, memory
 *   2. Options       a table of verbs and one of options: reading, help, completion in shells
 *   3. Input         texts from arguments, files and pipes; the model; tokens
 *   4. Sessions      what verbs do with one; figures; saved state
 *   5. Completion    prompts -> tokens -> texts, many in one pass; stop texts
 *   6. Conversation
 *   7. Perplexity
 *   8. Other verbs   info, check, tokenize, trace, bench
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "llama.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
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

enum { EXIT_RUN = 1, EXIT_USAGE, EXIT_MODEL, EXIT_MEMORY, EXIT_TOO_LONG, EXIT_INTERRUPTED = 130 };

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) { interrupted = signal_number; }

/* Would the character act on a terminal, or turn the direction of writing? -1 is no character. */
static bool acts(int32_t c) {
    return c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
           (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* Text for a terminal: what would act on it is shown instead, ESC as ^[, others as <U+202E>, bytes
 * that are no text as <9B>. All in one line, or in lines. */
static void put_visible(FILE *f, const char *text, size_t n, bool lines) {
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c;
        size = llama_utf8_next(text + i, n - i, &c);
        if (!acts(c) || (lines && (c == '\n' || c == '\t'))) fwrite(text + i, 1, size, f);
        else if (c < 0) fprintf(f, "<%02X>", (unsigned)(unsigned char)text[i]);
        else if (c < 0x80) fprintf(f, "^%c", (int)c ^ 0x40);
        else fprintf(f, "<U+%04lX>", (unsigned long)c);
    }
}

static void put_json(const char *text, size_t n) {
    putchar('"');
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c;
        size = llama_utf8_next(text + i, n - i, &c);
        if (c == '"' || c == '\\') printf("\\%c", (int)c);
        else if (acts(c)) printf("\\u%04x", c < 0 ? 0xfffdU : (unsigned)c);
        else fwrite(text + i, 1, size, stdout);
    }
    putchar('"');
}

/* A line on stderr. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fputs("llama: ", stderr);
    put_visible(stderr, text, strlen(text), false); /* with what arguments hold */
    fputc('\n', stderr);
}

static _Noreturn void leave(int code);
#define note(...)      (o.quiet ? (void)0 : say(__VA_ARGS__))
#define die(code, ...) (say(__VA_ARGS__), leave(code))

/* The end, if a call of the library failed; Ctrl-C needs no text. */
static void check(int status, const char *text) {
    static const int codes[] = {0, EXIT_USAGE, EXIT_MODEL, EXIT_MODEL, EXIT_MEMORY, EXIT_TOO_LONG};
    if (status == LLAMA_ECANCEL) leave(EXIT_INTERRUPTED);
    if (status) die(status > LLAMA_ECANCEL ? codes[-status] : EXIT_RUN, "%s", text);
}

/* Have stdout written. A closed pipe is no news, and Ctrl-C while waiting for it is Ctrl-C. */
static void flush(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return;
    if (errno == EINTR && interrupted) leave(EXIT_INTERRUPTED);
    if (errno == EPIPE) leave(EXIT_RUN);
    die(EXIT_RUN, "stdout cannot be written: %s", strerror(errno));
}

static void write_out(const char *text, size_t n) {
    if (isatty(STDOUT_FILENO)) put_visible(stdout, text, n, true);
    else fwrite(text, 1, n, stdout);
    flush();
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All memory is taken here, zeroed, and given back at the end. */
typedef struct block {
    struct block *next;
    max_align_t data[];
} block;
static block *blocks;

static void *take(size_t bytes) {
    block *b = bytes < PTRDIFF_MAX ? calloc(1, sizeof *b + bytes) : NULL;
    if (!b) die(EXIT_MEMORY, "out of memory");
    b->next = blocks;
    blocks = b;
    return b->data;
}

typedef struct { /* what grows; a 0 stands behind it */
    char *text;
    size_t n, room;
} bytes;

static void append(bytes *b, const void *text, size_t n) {
    if (b->room <= b->n + n) {
        char *more = take(b->room = 2 * (b->n + n) + 64);
        if (b->n) memcpy(more, b->text, b->n);
        b->text = more;
    }
    if (n) memcpy(b->text + b->n, text, n);
    b->text[b->n += n] = 0;
}

static struct { /* on a terminal's stderr: how far it is, and how long it takes */
    bool wanted;
    double began, shown; /* shown: when, last; 0: never */
} bar;

static void show_bar(const char *what, double done, double total) {
    double part = total > 0 ? done / total : 1, time = now();
    if (!bar.wanted || (time - bar.shown < 0.1 && done < total)) return;
    if (bar.began == 0) bar.began = time;
    bar.shown = time;
    fprintf(stderr, "\r%-8s%3.0f%% [%-40.*s]", what, 100 * part, (int)(40 * part),
            "########################################");
    if (part > 0) fprintf(stderr, " %.0f s left \b", (time - bar.began) * (1 - part) / part);
}

static void clear_bar(void) {
    if (bar.shown > 0) fputs("\r\033[K", stderr);
    bar.shown = 0;
}

/* ---- 2. Options ---- */

static void run_complete(void), run_ppl(void), run_tokenize(void), run_info(void), run_check(void),
    run_trace(void), run_bench(void);

typedef struct {
    char letter, input; /* for the table of options; p: prompts, n: one, and names, w: words that */
    const char *name, *arguments, *summary, *more, *example; /* are one text, f: a file */
    void (*run)(void);
} verb;

static const verb verbs[] = {
    {'c', 'p', "complete", "MODEL [PROMPT]", "go on with a prompt; -i: a conversation",
     "The prompt is an argument, -p, -f, or stdin; one newline at its end is dropped.\n"
     "Several (-p, -f, --lines, -0, -k) run together, each with the text it has alone,\n"
     "and come in their order, each ended by a newline, with -0 by a NUL.\n\n"
     "-i: each line goes behind all text so far, between --in-prefix and --in-suffix,\n"
     "and the model replies up to a --stop text, </s> or -n tokens. Ctrl-C stops a\n"
     "reply, Ctrl-D ends. /reset goes back to the prompt; /save FILE, /load FILE,\n"
     "/stats, /exit; //x says /x. Nothing is dropped: a full context is told. rlwrap\n"
     "gives a history of lines.\n",
     "llama LLaMA/7B \"I believe the meaning of life is\" -n 64\n"
     "         llama LLaMA/7B --lines -f questions.txt --json --temp 0 -n 32\n"
     "         llama LLaMA/7B -i -e --in-prefix \"Q: \" --in-suffix \"\\nA:\" --stop Q:",
     run_complete},
    {'l', 'f', "ppl", "MODEL FILE", "the perplexity of a text",
     "exp of the mean of -log p(token | those before it in its window). Windows have\n"
     "--ctx tokens and begin --stride apart; a token counts once, in the first window\n"
     "that has it, if one stands before it there. <s> begins the text.\n",
     "llama ppl LLaMA/7B wiki.test.raw --ctx 2048 --stride 512", run_ppl},
    {'k', 'w', "tokenize", "MODEL [TEXT...]", "text to token ids; --decode: ids to text",
     "Arguments are joined by spaces; without any, stdin is read.\n",
     "llama tokenize LLaMA/7B Hello world", run_tokenize},
    {'i', 0, "info", "MODEL", "shape, size and memory; reads no weights", "",
     "llama info LLaMA/65B -c 512", run_info},
    {'m', 0, "check", "MODEL", "reads all weights: finite, no holes, MD5", "",
     "llama check LLaMA/7B", run_check},
    {'t', 'n', "trace", "MODEL PROMPT [NAME...]", "what each matrix makes of the prompt",
     "A line for each of Meta's modules, or those named: rows (tokens) and columns,\n"
     "mean, root mean square, CRC-32 of the float32 bytes, the first numbers.\n",
     "llama trace LLaMA/7B \"Once upon\" layers.3 output", run_trace},
    {'b', 0, "bench", "MODEL", "its speed: a prompt of 128, 32 generated", "",
     "llama bench LLaMA/7B -t 1", run_bench},
    {'h', 'w', "help", "[VERB]", "all of a verb; help all: of every verb", "", "llama help ppl",
     NULL},
};
enum { VERBS = sizeof verbs / sizeof *verbs };

typedef struct {
    const char *text;
    bool is_file; /* the text is in it */
} source;

typedef struct {
    const verb *verb;
    const char *model, *tokenizer, *kernels, *memory, *cache, *prefix, *suffix, *shell;
    const char **words, **stops; /* the arguments that are no options; the --stop texts */
    source *sources;             /* -p and -f */
    size_t n_words, n_stops, n_sources;
    uint64_t given, seed; /* given: a bit for each option that is there */
    int n, context, threads, batch, top_k, repeat_last, samples, tops, stride;
    double temperature, top_p, min_p, repeat_penalty;
    bool fast, seeded, escapes, no_bos, ignore_eos, echo, stats, quiet, count, decode, bos, ids,
        help, version, lines, nul, json, talk;
} options;
static options o; /* the command line */

#define AT(field) offsetof(options, field)
enum { MANY = 1 << 30, TOPS = 100, SLOTS = 32 }; /* most --logprobs; prompts that run together */

static const struct {
    const char *verbs, *names; /* verbs: letters of those that have it; o: used often */
    enum { FLAG, TEXT, WHOLE, REAL, SEED, STOP, PROMPT, FROM } kind;
    size_t at;
    double least, most;
    const char *help;
} option_table[] = {
    {"cliktmb", "-m, --model MODEL", TEXT, AT(model), 0, 0, "where one argument is the prompt"},
    {"ckt", "-p, --prompt TEXT", PROMPT, 0, 0, 0, "the prompt"},
    {"clkt", "-f, --file FILE", FROM, 0, 0, 0, "the file it is in; -: stdin"},
    {"ckt", "-e, --escape", FLAG, AT(escapes), 0, 0,
     "\\n \\t \\\\ \\xNN in texts are read as in C"},
    {"c", "--lines", FLAG, AT(lines), 0, 0, "each line of a file or stdin is a prompt"},
    {"c", "-0, --null", FLAG, AT(nul), 0, 0, "there prompts end with NUL; texts do too"},
    {"c", "-k, --samples N", WHOLE, AT(samples), 1, MANY, "texts a prompt (1), seeds from -s on"},
    {"c", "--json", FLAG, AT(json), 0, 0, "an object a text: tokens, finish, seed, times..."},
    {"c", "--logprobs K", WHOLE, AT(tops), 1, TOPS, "in it, of each token and the K best"},
    {"c", "-i, --interactive", FLAG, AT(talk), 0, 0, "a conversation"},
    {"c", "--in-prefix TEXT", TEXT, AT(prefix), 0, 0, "goes before each line"},
    {"c", "--in-suffix TEXT", TEXT, AT(suffix), 0, 0, "and after it (a newline)"},
    {"c", "-r, --stop TEXT", STOP, 0, 0, 0, "end before this text; there may be several"},
    {"co", "-n, --n-predict N", WHOLE, AT(n), -1, MANY, "tokens to generate (256; -1: no end)"},
    {"clito", "-c, --ctx, --ctx-size N", WHOLE, AT(context), 1, 1 << 20,
     "positions of the context (the model's)"},
    {"l", "--stride N", WHOLE, AT(stride), 1, MANY, "tokens from window to window (--ctx)"},
    {"l", "--ids", FLAG, AT(ids), 0, 0, "the file has token ids, as tokenize prints them"},
    {"co", "-s, --seed N", SEED, AT(seed), 0, 0, "seed (random): the same, the same bytes"},
    {"co", "--temp, --temperature T", REAL, AT(temperature), 0, 1e6,
     "temperature (0.8; 0: greedy)"},
    {"co", "--top-p P", REAL, AT(top_p), 0, 1, "nucleus sampling (0.95; 1: off)"},
    {"c", "--top-k K", WHOLE, AT(top_k), 0, MANY, "only the K most likely (0: off)"},
    {"c", "--min-p P", REAL, AT(min_p), 0, 1, "at least P times the best's probability (0: off)"},
    {"c", "--repeat-penalty R", REAL, AT(repeat_penalty), 0, 1e6, "for what was there (1: off)"},
    {"c", "--repeat-last-n N", WHOLE, AT(repeat_last), -1, MANY, "in so many tokens (64; -1: all)"},
    {"clt", "--no-bos", FLAG, AT(no_bos), 0, 0, "no <s> in front"},
    {"c", "--ignore-eos", FLAG, AT(ignore_eos), 0, 0, "go on after </s>"},
    {"c", "--echo", FLAG, AT(echo), 0, 0, "the prompt too"},
    {"c", "--prompt-cache FILE", TEXT, AT(cache), 0, 0, "keep what is evaluated for later"},
    {"k", "--count", FLAG, AT(count), 0, 0, "only how many"},
    {"k", "--decode", FLAG, AT(decode), 0, 0, "ids to text"},
    {"k", "--bos", FLAG, AT(bos), 0, 0, "<s> in front"},
    {"cliktmb", "--tokenizer FILE", TEXT, AT(tokenizer), 0, 0, "tokenizer.model, .json or .bin"},
    {"clitbo", "-t, --threads N", WHOLE, AT(threads), 1, 1024, "threads (the cores there are)"},
    {"clitb", "-b, --batch-size N", WHOLE, AT(batch), 1, 1 << 20, "tokens in one pass (256)"},
    {"cliktmb", "--memory MODE", TEXT, AT(memory), 0, 0, "map, or lock: keep weights in memory"},
    {"clitb", "--kernels NAME", TEXT, AT(kernels), 0, 0, "scalar, avx2, avx512 or neon (the best)"},
    {"clitb", "--fast", FLAG, AT(fast), 0, 0, "prompts on AMX: other bits, as near to the truth"},
    {"co", "--stats", FLAG, AT(stats), 0, 0, "figures on stderr: speed, memory, kernels, seed"},
    {"cliktmb", "-q, --quiet", FLAG, AT(quiet), 0, 0, "no notes on stderr"},
    {"cliktmbh", "-h, --help", FLAG, AT(help), 0, 0, "of the verb"},
    {"h", "--version", FLAG, AT(version), 0, 0, "and the compiler, and its kernels"},
    {"h", "--completion SHELL", TEXT, AT(shell), 0, 0, "for bash, zsh or fish to evaluate"},
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };

/* The next of an option's names, at most of *n letters; NULL: there is none. */
static const char *next_name(const char *name, size_t *n) {
    name += *n + strspn(name + *n, ", ");
    *n = strcspn(name, ", ");
    return *name == '-' ? name : NULL;
}

/* Which option has the name of n letters; OPTIONS: none. */
static size_t find_option(const char *text, size_t n) {
    for (size_t i = 0, k = 0; i < OPTIONS; i++, k = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &k));)
            if (k == n && memcmp(text, name, n) == 0) return i;
    return OPTIONS;
}

/* Put the value of option i where it belongs. */
static void set_option(size_t i, const char *value) {
    void *at = (char *)&o + option_table[i].at;
    int kind = (int)option_table[i].kind;
    double least = option_table[i].least, most = option_table[i].most, v = 0;
    char *end = NULL;
    o.given |= (uint64_t)1 << i;
    if (kind == FLAG) *(bool *)at = true;
    else if (kind == TEXT) *(const char **)at = value;
    else if (kind == PROMPT || kind == FROM)
        o.sources[o.n_sources++] = (source){value, kind == FROM};
    else if (kind == STOP) o.stops[o.n_stops++] = value;
    else if (kind == SEED) {
        errno = 0;
        *(uint64_t *)at = strtoull(value, &end, 10);
        if (errno || *end || *value < '0' || *value > '9')
            die(EXIT_USAGE, "-s: '%s' is not a whole number from 0 to 2^64-1", value);
        o.seeded = true;
    } else {
        v = strtod(value, &end);
        if (*end || end == value || !(v >= least && v <= most) ||
            (kind == WHOLE && v != (double)(long)v))
            die(EXIT_USAGE, "%s: '%s' is not a %snumber from %g to %g%s", option_table[i].names,
                value, kind == WHOLE ? "whole " : "", least, most,
                at == &o.threads ? "; -t is threads, the temperature is --temp" : "");
        if (kind == WHOLE) *(int *)at = (int)v;
        else *(double *)at = v;
    }
}

/* How many letters to put in, take out or change to make one of the other (Levenshtein). */
static size_t distance(const char *a, const char *b, size_t n) {
    size_t row[32], above;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; *a; i++, a++)
        for (size_t j = 0, corner = 0; j <= n; j++, corner = above) {
            above = row[j];
            row[j] = j ? corner + (*a != b[j - 1]) : i;
            if (j && row[j] > row[j - 1] + 1) row[j] = row[j - 1] + 1;
            if (row[j] > above + 1) row[j] = above + 1;
        }
    return row[n];
}

static void no_such_option(const char *text) {
    size_t least = strlen(text) / 2, n = 0, length = 0, d;
    const char *nearest = "";
    for (size_t i = 0; i < OPTIONS; i++, n = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            if ((d = distance(text, name, n)) < least) least = d, nearest = name, length = n;
    die(EXIT_USAGE, "%s: there is no such option; %s%.*s%sllama -h lists them", text,
        length ? "did you mean " : "", (int)length, nearest, length ? "? " : "");
}

static const verb *find_verb(const char *name) {
    for (const verb *v = verbs; v < verbs + VERBS; v++)
        if (strcmp(v->name, name) == 0) return v;
    return NULL;
}

/* The command line. The verb is the first word; a lone "--" ends the options. */
static void read_options(int argc, char **argv) {
    size_t room = (size_t)argc + 1;
    bool over = false;
    o = (options){.n = 256, .samples = 1, .top_p = 0.95, .prefix = "", .suffix = "\n"};
    o.temperature = 0.8, o.repeat_penalty = 1;
    o.words = take(2 * room * sizeof *o.words);
    o.stops = o.words + room;
    o.sources = take(room * sizeof *o.sources);
    for (int a = 1; a < argc; a++) {
        const char *text = argv[a], *value = strncmp(text, "--", 2) ? NULL : strchr(text, '=');
        size_t i = find_option(text, value ? (size_t)(value - text) : strlen(text));
        if (over || text[0] != '-' || !text[1]) {
            bool first = o.n_words == 0 && !o.verb && !over;
            if (!first || !(o.verb = find_verb(text))) o.words[o.n_words++] = text;
        } else if (strcmp(text, "--") == 0) over = true;
        else if (i == OPTIONS) no_such_option(text);
        else if (option_table[i].kind == FLAG && value) die(EXIT_USAGE, "%s: takes no value", text);
        else if (option_table[i].kind == FLAG || value) set_option(i, value ? value + 1 : NULL);
        else if (a + 1 == argc) die(EXIT_USAGE, "%s: wants a value", text);
        else set_option(i, argv[++a]);
    }
    if (!o.verb) o.verb = verbs;
    for (size_t i = 0; i < OPTIONS && !o.help && !o.version && !o.shell; i++)
        if ((o.given >> i & 1) && !strchr(option_table[i].verbs, o.verb->letter))
            die(EXIT_USAGE, "%s: see llama help %s", option_table[i].names, o.verb->name);
}

static void print_options(char letter) {
    for (size_t i = 0; i < OPTIONS; i++)
        if (strchr(option_table[i].verbs, letter))
            printf("  %-25s %s\n", option_table[i].names, option_table[i].help);
}

static void print_verb(const verb *v) {
    printf("usage: llama %s %s\n\n%s\n%s%s\n", v->name, v->arguments, v->summary,
           *v->more ? "\n" : "", v->more);
    print_options(v->letter);
    printf("\nexample: %s\n", v->example);
}

/* Of a verb all there is to say, of every one, or the first screen. */
static void print_help(void) {
    const char *word = o.n_words && !o.verb->run ? o.words[0] : "";
    bool all = strcmp(word, "all") == 0, one = *word || (o.verb->run && o.verb != verbs);
    const verb *v = *word ? find_verb(word) : o.verb;
    if (!v && !all) die(EXIT_USAGE, "%s: there is no such verb; llama -h lists them", word);
    if (one && !all) {
        print_verb(v);
        return;
    }
    puts("usage: llama MODEL [PROMPT] [options]");
    for (v = verbs; v < verbs + VERBS; v++)
        printf("  llama %-8s %-23s%s\n", v->name, v->arguments, v->summary);
    puts("\nMODEL: a folder as Meta or Hugging Face has it, a .gguf file, llama2.c's .bin,\n"
         "as they are; if there is none, $LLAMA_MODEL. Without a prompt, stdin is it.\n");
    print_options('o');
    puts("\nexample: llama LLaMA/7B \"I believe the meaning of life is\" -n 64\n"
         "exit: 0 done, 1 failed, 2 usage, 3 model file, 4 memory, 5 prompt too long,\n"
         "      130 interrupted");
    for (v = verbs; all && v < verbs + VERBS; v++) putchar('\n'), print_verb(v);
}

/* What a shell evaluates to complete verbs, options and names of files. */
static void print_completion(void) {
    bool bash = !strcmp(o.shell, "bash"), zsh = !strcmp(o.shell, "zsh");
    if (!bash && !zsh && strcmp(o.shell, "fish") != 0)
        die(EXIT_USAGE, "--completion: '%s' is not bash, zsh or fish", o.shell);
    fputs(bash  ? "complete -o bashdefault -o default -W '"
          : zsh ? "compctl -f -k '("
                : "complete -c llama -a '",
          stdout);
    for (const verb *v = verbs; v < verbs + VERBS; v++) printf("%s ", v->name);
    for (size_t i = 0, n = 0; i < OPTIONS; i++, n = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            printf("%.*s ", (int)n, name);
    puts(bash ? "' llama" : zsh ? ")' llama" : "'");
}

/* ---- 3. Input ---- */

typedef struct { /* a text and its tokens */
    bytes text;
    int32_t *tokens; /* [n_tokens] of [room] */
    size_t n_tokens, room;
} input;

static input *inputs; /* [n_inputs] what there is to work on */
static size_t n_inputs, input_room;
static llama *model;
static llama_info info;
static size_t context; /* positions */

/* \n \t \r \\ \" \' \xNN, in place; others stay as they are. Returns the new length. */
static size_t unescape(char *text, size_t n) {
    static const char from[] = "ntr\\\"'", to[] = "\n\t\r\\\"'";
    size_t k = 0;
    for (size_t i = 0; i < n; i++, k++) {
        char next = text[i] == '\\' && i + 1 < n ? text[i + 1] : 0, hex[3] = {0};
        const char *which = next ? strchr(from, next) : NULL;
        if (next == 'x' && i + 3 < n) memcpy(hex, text + i + 2, 2);
        if (isxdigit((unsigned char)hex[0]) && isxdigit((unsigned char)hex[1]))
            text[k] = (char)strtol(hex, NULL, 16), i += 3;
        else if (which) text[k] = to[which - from], i++;
        else text[k] = text[i];
    }
    return k;
}

static const char *unescaped(const char *text) {
    bytes b = {.n = 0};
    append(&b, text, strlen(text));
    b.text[unescape(b.text, b.n)] = 0;
    return b.text;
}

/* One more text, read as the options say. */
static void add_input(const char *text, size_t n) {
    if (n_inputs == input_room) {
        input *more = take((input_room = 2 * n_inputs + 16) * sizeof *more);
        if (n_inputs) memcpy(more, inputs, n_inputs * sizeof *more);
        inputs = more;
    }
    bytes *b = &inputs[n_inputs++].text;
    append(b, text, n);
    if (o.escapes) b->text[b->n = unescape(b->text, n)] = 0;
}

/* A file, or stdin ("-"), is one text, a prompt without its last newline; or each of its lines is
 * one; or what stands before each NUL. */
static void add_file(const char *path) {
    bool std = strcmp(path, "-") == 0, many = o.lines || o.nul;
    FILE *f = std ? stdin : fopen(path, "rb");
    char part[1 << 14];
    bytes all = {.n = 0};
    if (!f) die(EXIT_USAGE, "%s: cannot be opened: %s", path, strerror(errno));
    append(&all, "", 0);
    for (size_t got = 1; got; append(&all, part, got)) got = fread(part, 1, sizeof part, f);
    int why = !ferror(f) ? 0 : errno ? errno : EIO;
    if (!std) fclose(f);
    if (why) die(EXIT_USAGE, "%s: cannot be read: %s", std ? "stdin" : path, strerror(why));
    if (!many && strchr("pn", o.verb->input) && all.n && all.text[all.n - 1] == '\n') all.n--;
    for (size_t at = 0, n; many ? at < all.n : at == 0; at += n + 1) {
        const char *end = many ? memchr(all.text + at, o.nul ? 0 : '\n', all.n - at) : NULL;
        n = end ? (size_t)(end - all.text) - at : all.n - at;
        add_input(all.text + at, n);
    }
}

/* The texts to work on: from -p, -f, the arguments or stdin, and only one of these. */
static void read_inputs(void) {
    char kind = o.verb->input;
    size_t words = kind == 'n' ? o.n_words && !o.n_sources : o.n_words;
    bytes joined = {.n = 0};
    if (!kind && words) die(EXIT_USAGE, "%s: takes a model and no text", o.verb->name);
    if (!kind) return;
    if ((o.n_sources && words) || (words > 1 && kind != 'w') || (o.n_sources > 1 && kind != 'p'))
        die(EXIT_USAGE, "more than one text: put it in quotes, and give -p, -f or an argument");
    for (const source *s = o.sources; s < o.sources + o.n_sources; s++)
        if (s->is_file) add_file(s->text);
        else add_input(s->text, strlen(s->text));
    for (size_t i = 0; i < words; i++) {
        if (i) append(&joined, " ", 1);
        append(&joined, o.words[i], strlen(o.words[i]));
    }
    if (words && kind == 'f') add_file(joined.text);
    else if (words) add_input(joined.text, joined.n);
    if (words || o.n_sources || o.talk) return;
    if (isatty(STDIN_FILENO))
        die(EXIT_USAGE, "no text: give it in quotes, with -f FILE or through a pipe");
    add_file("-");
}

/* Take the model from the words, unless -m or $LLAMA_MODEL give it: then they are a prompt. */
static void settle_model(void) {
    const char *standing = getenv("LLAMA_MODEL"), *end = o.n_words ? strrchr(*o.words, '.') : NULL;
    struct stat st;
    if (o.model) return;
    if (standing && *standing) o.model = standing;
    bool file = end && (!strcmp(end, ".gguf") || !strcmp(end, ".bin"));
    bool there = o.n_words && stat(o.words[0], &st) == 0 && (S_ISDIR(st.st_mode) || file);
    if (o.n_words && (there || !o.model)) o.model = *o.words++, o.n_words--;
    if (!o.model)
        die(EXIT_USAGE, "no model: give its folder or file, or set LLAMA_MODEL; see llama -h");
}

/* A file of weights was cut short: then evaluation says so. */
static void on_lost_page(int signal_number, siginfo_t *lost, void *state) {
    (void)state;
    if (!llama_fault(model, lost->si_addr)) signal(signal_number, SIG_DFL);
}

static void open_model(void) {
    static const char *const modes[] = {"auto", "map", "lock", "stream"}; /* LLAMA_MEMORY_... */
    struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    llama_options lo = {.size = sizeof lo, .tokenizer = o.tokenizer};
    llama_error err;
    while (o.memory && lo.memory < 4 && strcmp(o.memory, modes[lo.memory]) != 0) lo.memory++;
    if (lo.memory == 4) die(EXIT_USAGE, "--memory: '%s' is not auto, map or lock", o.memory);
    sigaction(SIGBUS, &action, NULL);
    check(llama_open(&model, o.model, &lo, &err), err.text);
    info.size = sizeof info;
    llama_describe(model, &info);
    context = (size_t)(o.context ? o.context : info.context);
}

static void want_tokenizer(void) {
    if (!llama_token_text(model, 0, NULL))
        die(EXIT_MODEL, "the model has no tokenizer in or beside it: give one with --tokenizer");
}

static void tokenize(input *in, unsigned flags) {
    const bytes *b = &in->text;
    want_tokenizer();
    ptrdiff_t n = llama_text_to_tokens(model, b->text, b->n, flags, in->tokens, in->room);
    if (n > (ptrdiff_t)in->room) {
        in->tokens = take((in->room = 2 * (size_t)n) * sizeof *in->tokens);
        n = llama_text_to_tokens(model, b->text, b->n, flags, in->tokens, in->room);
    }
    if (n < 0) die(EXIT_MEMORY, "the text does not fit in memory");
    in->n_tokens = (size_t)n;
}

/* Tokens with <s> in front, but for --no-bos; they must fit in the context. */
static void tokenize_prompt(input *in) {
    tokenize(in, o.no_bos ? 0 : LLAMA_ADD_BOS);
    if (in->n_tokens == 0)
        die(EXIT_USAGE, "the prompt is empty and --no-bos leaves nothing to start from");
    if (in->n_tokens > context)
        die(EXIT_TOO_LONG, "%zu tokens do not fit in the context of %zu positions; see -c",
            in->n_tokens, context);
}

/* Ids between white space instead, each below the vocabulary's size. */
static void read_ids(input *in) {
    char *at = in->text.text, *end = at + in->text.n;
    in->tokens = take((in->text.n / 2 + 1) * sizeof *in->tokens);
    for (char *next; (at += strspn(at, " \t\r\n")) < end; at = next) {
        long id = strtol(at, &next, 10);
        if (next == at || !strchr(" \t\r\n", *next) || id < 0 || id >= info.vocab)
            die(EXIT_USAGE, "'%.20s' is not a token id from 0 to %d", at, info.vocab - 1);
        in->tokens[in->n_tokens++] = (int32_t)id;
    }
}

static void append_tokens(bytes *b, const int32_t *tokens, size_t n) {
    char text[LLAMA_TEXT_MAX];
    llama_utf8 utf8 = {.n = 0};
    for (size_t i = 0; i <= n; i++)
        append(b, text, llama_utf8_push(model, &utf8, i < n ? tokens[i] : LLAMA_FLUSH, text));
}

/* ---- 4. Sessions ---- */

static llama_session *session;
static size_t sequences;         /* it has */
static pthread_t warmer;         /* reads the weights in, if it */
static bool warming;             /* was started, until */
static atomic_bool warmed;       /* nobody waits for them */
static struct {                  /* for --stats */
    double began, opened, first; /* when: it, the model was open, the first token was there */
    double seconds[2];           /* that prompts took to their first tokens, and the rest */
    size_t evaluated, known, generated, later; /* tokens; later: all drawn but the first ones */
} figures;

/* A line on a terminal's stderr while one prompt, or a check, takes longer than a moment. */
static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user;
    if (bar.began == 0) bar.began = now();
    if (sequences <= 1 && now() - bar.began > 0.5) show_bar(what, (double)done, (double)total);
    return interrupted;
}

static int on_warmed(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)what, (void)done, (void)total;
    return warmed || interrupted;
}
static void *warm(void *user) { return llama_warm(model, on_warmed, NULL), user; }

static double physical_memory(void) {
    return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

/* With `reads`, a thread reads the weights from the front beside the first evaluations, as fast as
 * the disk goes; not if memory cannot hold them: that would push out what is needed. */
static void new_session(size_t n, size_t batch, bool reads) {
    llama_error err;
    sequences = n;
    llama_session_options so = {.size = sizeof so,
                                .context = (int)context,
                                .sequences = (int)n,
                                .batch = (int)batch,
                                .threads = o.threads,
                                .numerics = o.fast ? LLAMA_FAST : LLAMA_EXACT,
                                .kernels = o.kernels,
                                .progress = on_progress};
    check(llama_session_new(&session, model, &so, &err), err.text);
    reads = reads && (double)info.file_bytes < 0.9 * physical_memory();
    warming = reads && pthread_create(&warmer, NULL, warm, NULL) == 0;
}

/* What every verb leaves behind. */
static _Noreturn void leave(int code) {
    warmed = true; /* as far as anybody needs it */
    if (warming) pthread_join(warmer, NULL);
    llama *was = model;
    llama_session_free(session);
    model = NULL; /* nothing is left that could be lost */
    llama_close(was);
    for (block *next; blocks; blocks = next) next = blocks->next, free(blocks);
    exit(code);
}

/* What a call on the session returned: when it failed, the end. */
static void expect(int status) { check(status, llama_session_error(session)); }

/* Of n tokens, the weights that each meets in matrix products, added up: the last layer has keys
 * and values of all, the rest of it and the output only of the last token. */
static double weights_met(double n) {
    double dim = info.dim, kv = 2 * dim * info.kv_heads * info.head_dim;
    double layer = 2 * dim * dim + kv + 3 * dim * info.hidden;
    return (info.layers - 1) * layer * n + kv * n + (layer - kv) + dim * info.vocab;
}
/* The bytes of weights that one token is multiplied with. */
static double token_bytes(void) {
    return weights_met(1) * (double)info.file_bytes / (double)info.parameters;
}

static void print_stats(void) {
    const double *t = figures.seconds;
    double kv = (double)info.kv_bytes_per_token * (double)(context * sequences);
    double rate = t[1] > 0 ? (double)figures.later / t[1] : 0;
    fprintf(stderr, "\nprompt      %zu tokens in %.3f s, %.1f tokens/s\n", figures.evaluated, t[0],
            t[0] > 0 ? (double)figures.evaluated / t[0] : 0);
    if (figures.known || o.cache)
        fprintf(stderr, "cache       %zu tokens of the prompt\n", figures.known);
    fprintf(stderr, "generation  %zu tokens in %.3f s, %.2f tokens/s", figures.generated, t[1],
            rate);
    if (sequences == 1) fprintf(stderr, ", %.1f GB/s of weights", rate * token_bytes() / 1e9);
    fprintf(stderr, "\nfirst token %.1f ms after the start\nopening     %.1f ms\n",
            (figures.first - figures.began) * 1e3, (figures.opened - figures.began) * 1e3);
    fprintf(stderr, "memory      %.1f MB for %zu x %zu positions, %.1f MB of weights\n", kv / 1e6,
            sequences, context, (double)info.file_bytes / 1e6);
    fprintf(stderr, "kernels     %s\nseed        %" PRIu64 "\n", llama_session_kernels(session),
            o.seed);
}

/* ---- Saved state: the first sequence, as llama_save writes it ---- */

static int read_state(void *file, void *p, size_t n) { return fread(p, 1, n, file) != n; }
static int write_state(void *file, const void *p, size_t n) { return fwrite(p, 1, n, file) != n; }

/* What is no state, or damaged, is left to the user to remove; a cache of another model, or too
 * long, is not used, with a note, and one that is empty or not there, without. */
static bool load_state(const char *path, bool cache) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */
    if (fd < 0 && errno == ENOENT && cache) return false;
    bool regular = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    FILE *f = regular ? fdopen(fd, "rb") : NULL;
    const char *why = fd < 0 || regular ? strerror(errno) : "is not a regular file";
    if (!f && fd >= 0) close(fd);
    if (f && cache && st.st_size == 0) return fclose(f), false;
    int status = f ? llama_load(session, 0, read_state, f) : LLAMA_EFORMAT;
    if (f && status) why = llama_session_error(session);
    if (!status && fgetc(f) != EOF) status = LLAMA_EFORMAT, why = "has more in it than a state";
    if (f) fclose(f);
    bool foreign = cache && (status == LLAMA_EMISMATCH || status == LLAMA_EFULL);
    if (foreign) note("%s: %s; it is made anew", path, why);
    else if (status && !cache) note("%s: %s", path, why);
    else if (status && !foreign)
        die(status == LLAMA_ENOMEM ? EXIT_MEMORY : EXIT_USAGE,
            "%s: %s; remove it, or give another name", path, why);
    return status == LLAMA_OK;
}

/* Write all that was evaluated: to a new file, which then takes the old one's place at once. */
static void save_state(const char *path) {
    bytes name = {.n = 0};
    append(&name, path, strlen(path));
    append(&name, ".XXXXXX", 7);
    int fd = mkostemp(name.text, O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    bool good =
        f && llama_save(session, 0, write_state, f) == LLAMA_OK && fflush(f) == 0 && fsync(fd) == 0;
    int why = errno;
    if (f && fclose(f) != 0 && good) good = false, why = errno;
    if (!f && fd >= 0) close(fd);
    if (good && rename(name.text, path) != 0) good = false, why = errno;
    if (!good && fd >= 0) unlink(name.text);
    if (!good) note("%s: cannot be written: %s", path, strerror(why));
}

/* ---- 5. Completion ---- */

enum { INTERRUPTED = LLAMA_LENGTH + 1 }; /* one more finish */

typedef struct {         /* what of a text there is so far */
    bytes out;           /* its text */
    bytes picks;         /* for --json its tokens, llama_choice [generated][1 + tops] */
    size_t ready, shown; /* bytes of out that begin no stop text; that stdout has */
    double first;        /* when its first token was there */
} lane;

static llama_text *texts;    /* [n_texts] */
static lane *lanes;          /* [n_texts] */
static size_t n_texts, head; /* head: so many are shown whole */

/* For --json: the token and its log-probability, then the best there were. */
static void note_token(lane *l, const llama_text *t) {
    llama_choice best[1 + TOPS];
    const float *logits = llama_logits(session, t->seq);
    if (llama_top(session, t->seq, best + 1, o.tops ? o.tops : 1) < 1) return;
    best[0] = (llama_choice){t->token, best[1].logprob + logits[t->token] - logits[best[1].token]};
    append(&l->picks, best, (size_t)(1 + o.tops) * sizeof *best);
}

static void put_object(const llama_text *t, const lane *l) {
    static const char *const words[] = {"", "eos", "stop", "length", "interrupted"};
    const llama_choice *p = (const void *)l->picks.text;
    size_t width = 1 + (size_t)o.tops, i = (size_t)(t - texts);
    bool full = t->finish == LLAMA_LENGTH && (int64_t)t->most != o.n;
    printf("{\"prompt\": %zu, \"sample\": %zu, \"text\": ", i / (size_t)o.samples,
           i % (size_t)o.samples);
    put_json(l->out.text, l->out.n);
    printf(", \"tokens\": [");
    for (i = 0; i < t->generated; i++) printf("%s%d", i ? ", " : "", (int)p[i * width].token);
    printf("], \"finish\": \"%s\", \"seed\": %" PRIu64 ", \"prompt_tokens\": %zu",
           full ? "context" : words[t->finish], t->sampler.seed, t->n_prompt);
    printf(", \"first_token_seconds\": %.6f, \"seconds\": %.6f",
           l->first > 0 ? l->first - figures.opened : 0, now() - figures.opened);
    for (i = 0; i < t->generated && o.tops; i++, p += width) {
        printf("%s{\"token\": %d, \"logprob\": %.6f, \"top\": [", i ? ", " : ", \"logprobs\": [",
               (int)p->token, (double)p->logprob);
        for (size_t k = 1; k < width; k++)
            printf("%s{\"token\": %d, \"logprob\": %.6f}", k > 1 ? ", " : "", (int)p[k].token,
                   (double)p[k].logprob);
        printf("]}%s", i + 1 == t->generated ? "]" : "");
    }
    puts("}");
}

/* On stdout, in order: what of each text is ready, or, when it is done, its object. */
static void show_texts(void) {
    for (; head < n_texts; head++) {
        llama_text *t = &texts[head];
        lane *l = &lanes[head];
        bool alone = n_texts == 1 && !o.lines && !o.nul && !o.talk;
        if (l->ready > l->shown || t->finish) clear_bar();
        if (!o.json && l->ready > l->shown) write_out(l->out.text + l->shown, l->ready - l->shown);
        l->shown = l->ready;
        if (!t->finish) break;
        if (o.json) put_object(t, l);
        else if (!alone) putchar(o.nul ? 0 : '\n');
        if (t->finish == LLAMA_LENGTH && (int64_t)t->most != o.n)
            note("the context of %zu positions is full; see %s", context, o.talk ? "/reset" : "-c");
    }
    flush();
    if (n_texts > 1 && !isatty(STDOUT_FILENO)) show_bar("texts", (double)head, (double)n_texts);
}

/* Text that a token completed goes to the others, up to a stop text. */
static int on_text(void *user, llama_text *t, const char *text, size_t n) {
    lane *l = &((lane *)user)[t - texts];
    if (l->first == 0) l->first = now();
    if (!t->finish && o.json) note_token(l, t);
    append(&l->out, text, n);
    size_t keep, left = l->out.n - l->ready;
    size_t at = llama_find_stop(l->out.text + l->ready, left, o.stops, o.n_stops, &keep);
    l->out.n = l->ready + at;
    l->ready = l->out.n - (at < left || t->finish ? 0 : keep);
    show_texts();
    return interrupted ? LLAMA_ECANCEL : at < left;
}

/* The texts of all inputs; false: Ctrl-C. */
static bool make_texts(void) {
    size_t samples = (size_t)o.samples;
    float *bias = o.ignore_eos ? take((size_t)info.vocab * sizeof *bias) : NULL;
    if (bias && info.eos >= 0) bias[info.eos] = -1e30f;
    texts = take((n_texts = n_inputs * samples) * sizeof *texts);
    lanes = take(n_texts * sizeof *lanes);
    head = 0, bar.began = 0;
    for (size_t i = 0; i < n_texts; i++) {
        const input *in = &inputs[i / samples];
        size_t room = context - in->n_tokens + 1;
        texts[i] = (llama_text){
            .prompt = in->tokens, .n_prompt = in->n_tokens, .utf8.started = in->text.n > 0};
        texts[i].most = o.n < 0 || (size_t)o.n > room ? room : (size_t)o.n;
        texts[i].sampler = (llama_sampler){
            .size = sizeof(llama_sampler),
            .temperature = (float)o.temperature,
            .top_p = (float)(o.top_p > 0 && o.top_p < 1e-30 ? 1e-30 : o.top_p), /* not off */
            .min_p = (float)o.min_p,
            .top_k = o.top_k,
            .repeat_penalty = (float)o.repeat_penalty,
            .repeat_last = o.repeat_last,
            .seed = o.seed + i % samples,
            .bias = bias,
        };
        if (o.echo && !o.talk) append(&lanes[i].out, in->text.text, in->text.n);
        lanes[i].ready = lanes[i].out.n;
    }
    double began = now();
    int status = llama_generate(model, session, texts, n_texts, on_text, lanes);
    double end = now(), first = lanes->first > 0 ? lanes->first : end;
    figures.seconds[0] += first - began, figures.seconds[1] += end - first;
    if (figures.generated == 0) figures.first = first;
    for (const llama_text *t = texts; t < texts + n_texts; t++) {
        figures.known += t->known, figures.evaluated += t->n_prompt - t->known;
        figures.generated += t->generated, figures.later += t->generated - (t->generated > 0);
    }
    clear_bar();
    if (status && head < n_texts) { /* cut short: what there is */
        char text[LLAMA_TEXT_MAX];
        texts[head].finish = INTERRUPTED;
        on_text(lanes, &texts[head], text,
                llama_utf8_push(model, &texts[head].utf8, LLAMA_FLUSH, text));
    }
    if (status != LLAMA_ECANCEL) expect(status);
    return !status;
}

/* Each prompt. Of many texts the context is as long as they need, and as many are under way as half
 * of the free memory holds. */
static void complete_all(void) {
    size_t n = n_inputs * (size_t)o.samples, longest = 1, slots = n < SLOTS ? n : SLOTS;
    for (input *in = inputs; in < inputs + n_inputs; in++) {
        tokenize_prompt(in);
        if (in->n_tokens > longest) longest = in->n_tokens;
    }
    if (n == 0) return;
    if (n > 1 && !o.context && o.n >= 0 && longest + (size_t)o.n < context)
        context = longest + (size_t)o.n;
    double room = (physical_memory() - (double)info.file_bytes) / 2;
    while (slots > 1 && (double)(slots * context * info.kv_bytes_per_token) > room) slots--;
    new_session(slots, (size_t)o.batch, true);
    if (o.cache) load_state(o.cache, true);
    bool done = make_texts();
    if (o.cache && figures.evaluated > 1) save_state(o.cache);
    if (n == 1 && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO)) fputc('\n', stderr);
    if (!done) leave(EXIT_INTERRUPTED);
}

/* ---- 6. Conversation ---- */

/* Its text is inputs[0]; it grows, and is tokenized anew for each reply. */

/* A line of stdin without its newline. 1: there is one; 0: the end; -1: Ctrl-C, which is looked for
 * ten times a second: one that comes just before a read would not end it. */
static int read_line(bytes *line) {
    int ch;
    line->n = 0, append(line, "", 0);
    while (!interrupted && poll(&(struct pollfd){STDIN_FILENO, POLLIN, 0}, 1, 100) == 0) {}
    if (interrupted) return -1;
    while ((ch = getc(stdin)) != EOF && ch != '\n') append(line, &(char){(char)ch}, 1);
    if (ch == EOF && interrupted) return clearerr(stdin), -1;
    if (ferror(stdin)) die(EXIT_USAGE, "stdin cannot be read: %s", strerror(errno));
    return ch == '\n' || line->n;
}

static void keep_conversation(const char *path) {
    tokenize(inputs, o.no_bos ? 0 : LLAMA_ADD_BOS);
    size_t n = inputs->n_tokens, most = n < context ? n : context; /* the last one may not fit */
    expect(llama_prompt(session, 0, inputs->tokens, most));
    if (most < n)
        note("%s: without the last %zu of %zu tokens, as the context is full", path, n - most, n);
    save_state(path);
}

/* A line that begins with a slash. False: the conversation ends. */
static bool obey(const char *line, const bytes *first) {
    bytes *said = &inputs->text;
    if (strcmp(line, "/stats") == 0) print_stats();
    else if (strcmp(line, "/reset") == 0) said->n = 0, append(said, first->text, first->n);
    else if (strncmp(line, "/load ", 6) == 0) {
        bool there = load_state(line + 6, false); /* its text is that of its tokens */
        if (there)
            said->n = 0, append_tokens(said, llama_tokens(session, 0), llama_length(session, 0));
    } else if (strncmp(line, "/save ", 6) == 0) keep_conversation(line + 6);
    else if (strcmp(line, "/exit") != 0)
        say("'%s': there are /reset, /save FILE, /load FILE, /stats, /exit", line);
    return strcmp(line, "/exit") != 0;
}

/* The line becomes part of the text, and so does what the model replies. */
static void reply(const char *line, size_t n) {
    bytes *said = &inputs->text;
    size_t before = said->n;
    append(said, o.prefix, strlen(o.prefix));
    append(said, line, n);
    append(said, o.suffix, strlen(o.suffix));
    tokenize(inputs, o.no_bos ? 0 : LLAMA_ADD_BOS);
    if (inputs->n_tokens > context) {
        said->n = before;
        say("the context of %zu positions is full: the line is not taken; see /reset", context);
        if (!isatty(STDIN_FILENO)) leave(EXIT_TOO_LONG);
    } else {
        make_texts();
        append(said, lanes->out.text, lanes->out.n);
    }
}

static void converse(void) {
    enum { LINE = 4095 }; /* bytes: a terminal keeps no more of a line (termios(3)) */
    bool terminal = isatty(STDIN_FILENO), sign = terminal && isatty(STDERR_FILENO), on = true;
    bytes line = {.n = 0}, first = {.n = 0};
    setvbuf(stdin, NULL, _IONBF, 0); /* poll sees no line that stdio holds */
    if (n_inputs == 0) add_input("", 0);
    tokenize_prompt(inputs);
    append(&first, inputs->text.text, inputs->text.n);
    new_session(1, (size_t)o.batch, true);
    if (o.cache) load_state(o.cache, true);
    for (int got; on; interrupted = 0) {
        if (sign) fputs("> ", stderr);
        if ((got = read_line(&line)) == 0) break;
        size_t slash = line.text[0] == '/';
        if (got < 0) fputc('\n', stderr);
        else if (terminal && line.n >= LINE)
            say("a line longer than %d bytes may have lost its end: it is not taken", LINE - 1);
        else if (slash && line.text[1] != '/') on = obey(line.text, &first);
        else reply(line.text + slash, line.n - slash);
        if (interrupted && !terminal) leave(EXIT_INTERRUPTED);
    }
    if (sign) fputc('\n', stderr);
    if (o.cache) keep_conversation(o.cache);
}

static void run_complete(void) {
    if (o.cache && o.fast)
        die(EXIT_USAGE, "--prompt-cache: not with --fast, where it would change bits");
    if (o.tops > info.vocab) o.tops = info.vocab;
    if (o.tops && !o.json) die(EXIT_USAGE, "--logprobs: only with --json");
    if (o.talk && (o.json || o.lines || o.nul || o.samples > 1 || n_inputs > 1))
        die(EXIT_USAGE, "-i: a conversation is one text, without --json, --lines, -0 or -k");
    for (const char **stop = o.stops; stop < o.stops + o.n_stops; stop++) {
        if (o.escapes) *stop = unescaped(*stop);
        if (!**stop || (**stop & 0xc0) == 0x80)
            die(EXIT_USAGE, "--stop: the text is empty, or begins inside a character");
    }
    if (o.escapes) o.prefix = unescaped(o.prefix), o.suffix = unescaped(o.suffix);
    if (o.talk) converse();
    else complete_all();
}

/* ---- 7. Perplexity ---- */

/* Windows of so many tokens, `stride` apart: log-probabilities of those that none had before. */
static void run_ppl(void) {
    size_t width = context, stride = o.stride ? (size_t)o.stride : width, counted = 0;
    double sum = 0, squares = 0;
    if (stride > width)
        die(EXIT_USAGE, "--stride: %zu is more than the window, %zu", stride, width);
    if (o.ids) read_ids(inputs);
    else tokenize(inputs, o.no_bos ? 0 : LLAMA_ADD_BOS);
    const int32_t *tokens = inputs->tokens;
    size_t n = inputs->n_tokens;
    if (n < 2) die(EXIT_USAGE, "the text has %zu tokens: two are the least", n);
    new_session(1, (size_t)o.batch, true);
    float *logprobs = take(width * sizeof *logprobs);
    for (size_t begin = 0, had = 0, end; had < n; begin += stride, had = end) {
        end = n - begin < width ? n : begin + width;
        llama_rewind(session, 0, 0);
        expect(llama_eval(session, 0, tokens + begin, had - begin));
        expect(llama_score(session, 0, tokens + had, end - had, logprobs));
        for (size_t i = had == begin; had + i < end; i++, counted++)
            sum -= (double)logprobs[i], squares += (double)logprobs[i] * (double)logprobs[i];
        show_bar("ppl", (double)end, (double)n);
    }
    clear_bar();
    double mean = sum / (double)counted, spread = squares / (double)counted - mean * mean;
    printf("perplexity  %.6g +- %.2g\n", exp(mean), exp(mean) * sqrt(spread / (double)counted));
    printf("nll         %.9g nats a token, %.6g bits", mean, mean / log(2));
    if (!o.ids) printf(", %.6g bits a byte", sum / log(2) / (double)inputs->text.n);
    printf("\ntokens      %zu of %zu, in windows of %zu, %zu apart\n", counted, n, width, stride);
    puts("definition  exp of the mean of -log p(token | those before it in its window); a token "
         "counts\n"
         "            once, in the first window that has it, if one stands before it there");
}

/* ---- 8. Other verbs ---- */

static void run_info(void) {
    new_session(1, (size_t)o.batch, false);
    llama_session_options so = {.size = sizeof so, .context = (int)context};
    double need = (double)(info.file_bytes + llama_session_bytes(model, &so));
    printf("model       %s\nformat      %s, %s, %d shard%s\n", o.model, info.format, info.dtype,
           info.shards, info.shards > 1 ? "s" : "");
    printf(
        "shape       dim %d, layers %d, heads %d, kv_heads %d, head_dim %d, hidden %d, vocab %d\n",
        info.dim, info.layers, info.heads, info.kv_heads, info.head_dim, info.hidden, info.vocab);
    printf("constants   norm_eps %g, rope_theta %g\n", (double)info.norm_eps,
           (double)info.rope_theta);
    printf("parameters  %" PRIu64 "\nbytes       %" PRIu64 "\n", info.parameters, info.file_bytes);
    if (info.bos >= 0 || info.eos >= 0)
        printf("tokenizer   bos %d, eos %d\n", (int)info.bos, (int)info.eos);
    else puts("tokenizer   none");
    printf("context     %zu positions, KV cache %" PRIu64 " bytes (%" PRIu64 " a position)\n",
           context, info.kv_bytes_per_token * context, info.kv_bytes_per_token);
    printf("memory      %.1f GB needed, %.1f GB in this machine: %s\n", need / 1e9,
           physical_memory() / 1e9,
           need <= physical_memory()
               ? "fits"
               : "does not fit; weights will be read from disk again and again");
    printf("kernels     %s\n", llama_session_kernels(session));
}

static void run_check(void) {
    llama_error err;
    int status = llama_check(model, on_progress, NULL, &err);
    clear_bar();
    check(status, err.text);
    printf("%s: sound, %" PRIu64 " parameters in %d file%s\n", o.model, info.parameters,
           info.shards, info.shards > 1 ? "s" : "");
}

/* Text to ids, or ids to text. */
static void run_tokenize(void) {
    want_tokenizer();
    if (o.decode) read_ids(inputs);
    else tokenize(inputs, o.bos ? LLAMA_ADD_BOS : 0);
    size_t n = inputs->n_tokens;
    bytes text = {.n = 0};
    if (o.decode) append_tokens(&text, inputs->tokens, n), write_out(text.text, text.n);
    for (size_t i = 0; i < n && !o.count && !o.decode; i++)
        printf("%s%d", i ? " " : "", (int)inputs->tokens[i]);
    if (o.count) printf("%zu", n);
    if (!o.decode) putchar('\n');
}

typedef struct {
    const char **names; /* [n] those to show; none: all */
    bool *found;        /* [n] */
    size_t n;
} shown;

/* As zlib has it (RFC 1952), for Python: zlib.crc32(x.astype("<f4").tobytes()) */
static uint32_t crc32(const void *p, size_t n) {
    uint32_t crc = UINT32_MAX;
    for (const unsigned char *c = p; n--; c++) {
        crc ^= *c;
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* One intermediate, x [rows][cols], a row a token: "layers.3" shows all of that layer. */
static void show_rows(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    shown *s = user;
    bool wanted = s->n == 0;
    double sum = 0, squares = 0, count = (double)rows * (double)cols;
    for (size_t i = 0; i < s->n; i++) {
        size_t k = strlen(s->names[i]);
        if (strncmp(name, s->names[i], k) == 0 && (name[k] == 0 || name[k] == '.'))
            wanted = s->found[i] = true;
    }
    if (!wanted) return;
    for (size_t i = 0; i < rows * cols; i++)
        sum += (double)x[i], squares += (double)x[i] * (double)x[i];
    printf("%-30s [%zu, %zu]  mean %.6g  rms %.6g  crc32 %08x  first", name, rows, cols,
           sum / count, sqrt(squares / count), (unsigned)crc32(x, rows * cols * sizeof *x));
    for (size_t i = 0; i < cols && i < 4; i++) printf(" %.7g", (double)x[i]);
    putchar('\n');
}

/* Evaluate the prompt, all of it at once, and show what it goes through. */
static void run_trace(void) {
    size_t first = o.n_sources == 0 && o.n_words; /* word that is a name */
    shown s = {.names = o.words + first, .n = o.n_words - first};
    s.found = take(s.n * sizeof *s.found);
    tokenize_prompt(inputs);
    new_session(1, inputs->n_tokens, false);
    llama_trace(session, show_rows, &s);
    expect(llama_prompt(session, 0, inputs->tokens, inputs->n_tokens));
    for (size_t i = 0; i < s.n; i++)
        if (!s.found[i])
            die(EXIT_USAGE, "there is no '%s'; without names, all are shown", s.names[i]);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The short form of tests/bench.c: medians of five, prompt and generation in turn. */
static void run_bench(void) {
    enum { GIVEN = 128, GENERATED = 32, TIMES = 5, MEDIAN = TIMES / 2 };
    int32_t tokens[GIVEN + GENERATED];
    double seconds[2][TIMES];
    for (int t = 0; t < GIVEN + GENERATED; t++) tokens[t] = (t * 7919 + 1) % info.vocab;
    context = GIVEN + GENERATED;
    new_session(1, (size_t)o.batch, false);
    for (int r = -1; r < TIMES; r++) { /* the first is not counted */
        double began = now(), between = 0;
        llama_rewind(session, 0, 0);
        for (int t = 0; t < GIVEN + GENERATED; t += t ? 1 : GIVEN) {
            expect(llama_eval(session, 0, tokens + t, t ? 1 : GIVEN));
            if (t == 0) between = now();
        }
        if (r >= 0) seconds[0][r] = between - began, seconds[1][r] = now() - between;
    }
    for (int k = 0; k < 2; k++) qsort(seconds[k], TIMES, sizeof(double), by_size);
    double prompt = GIVEN / seconds[0][MEDIAN], each = GENERATED / seconds[1][MEDIAN];
    printf("prompt      %d tokens, %.2f tokens/s, %.1f GFLOP/s of matrix products\n", GIVEN, prompt,
           prompt * 2 * weights_met(GIVEN) / GIVEN / 1e9);
    printf("generation  %d tokens, %.2f tokens/s, %.1f GB/s of weights\n", GENERATED, each,
           each * token_bytes() / 1e9);
    printf("kernels     %s\n", llama_session_kernels(session));
}

int main(int argc, char **argv) {
    figures.began = figures.first = now();
    read_options(argc, argv);
    bar.wanted = !o.quiet && isatty(STDERR_FILENO);
    struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = o.talk ? 0 : (int)SA_RESETHAND};
    bool works = !o.version && !o.shell && !o.help && o.verb->run;
    if (o.version)
        printf("llama.c %d.%d.%d (%s)\n", llama_release() / 10000, llama_release() / 100 % 100,
               llama_release() % 100, llama_build());
    else if (o.shell) print_completion();
    else if (!works) print_help();
    if (works) {
        settle_model();
        read_inputs();
        sigaction(SIGINT, &sa, NULL); /* a second Ctrl-C ends it, but in a conversation */
        if (!o.seeded && getentropy(&o.seed, sizeof o.seed) != 0) o.seed = (uint64_t)time(NULL);
        open_model();
        figures.opened = now();
        o.verb->run();
        if (o.stats) print_stats();
    }
    flush();
    leave(0);
}
