/* main.c - the command line: complete prompts, talk, score endings, look at a model.
 * It uses llama.h alone. stdout carries the result and nothing else; the rest goes to stderr.
 *
 *   1. Terminal and messages   exit codes, messages, text for terminals and in JSON
 *   2. Memory
 *   3. Command line            a table of verbs and one of options: reading, help, completion
 *   4. Input                   texts from arguments, files and pipes; tokens
 *   5. Model and session       opening, progress, what verbs do with a session; figures; saved state
 *   6. Complete                prompts -> tokens -> texts, many in one pass; stop texts
 *   7. Chat
 *   8. Score, ppl              endings of contexts; perplexity
 *   9. Info, check, tokenize, trace, bench
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "llama.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- 1. Terminal and messages ---- */

enum { EXIT_RUN = 1, EXIT_USAGE, EXIT_MODEL, EXIT_MEMORY, EXIT_TOO_LONG, EXIT_INTERRUPTED = 130 };

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) { interrupted = signal_number; }

/* Text for a terminal: what would act on it is shown instead, ESC as ^[, others as <U+202E>, bytes
 * that are no text as <9B>. All in one line, or in lines. */
static void put_visible(FILE *f, const char *text, size_t n, bool lines) {
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c;
        size = llama_utf8_next(text + i, n - i, &c);
        if (!llama_is_control(c) || (lines && (c == '\n' || c == '\t')))
            fwrite(text + i, 1, size, f);
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
        else if (llama_is_control(c)) printf("\\u%04x", c < 0 ? 0xfffdU : (unsigned)c);
        else fwrite(text + i, 1, size, stdout);
    }
    putchar('"');
}

static struct { /* on a terminal's stderr, after a moment: how far it is, how long it takes */
    bool wanted;
    double began, shown; /* shown: when, last; 0: never */
} bar;

static void clear_bar(void) {
    if (bar.shown > 0) fputs("\r\033[K", stderr);
    bar.shown = 0;
}

/* A line on stderr. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clear_bar();
    fputs("llama: ", stderr);
    put_visible(stderr, text, strlen(text), false); /* with what arguments hold */
    fputc('\n', stderr);
}

#define note(...)      (o.quiet ? (void)0 : say(__VA_ARGS__))
#define die(code, ...) (say(__VA_ARGS__), exit(code))
#define refuse(...)    die(EXIT_USAGE, __VA_ARGS__)

/* The end, if a call of the library failed; Ctrl-C needs no text. */
static void check(int status, const char *text) {
    static const int codes[] = {0, EXIT_USAGE, EXIT_MODEL, EXIT_MODEL, EXIT_MEMORY, EXIT_TOO_LONG};
    if (status == LLAMA_ECANCEL) clear_bar(), exit(EXIT_INTERRUPTED);
    if (status) die(status > LLAMA_ECANCEL ? codes[-status] : EXIT_RUN, "%s", text);
}

/* Have stdout written. A closed pipe is no news, and Ctrl-C while waiting for it is Ctrl-C. */
static void flush(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return;
    if (errno == EINTR && interrupted) exit(EXIT_INTERRUPTED);
    if (errno == EPIPE) exit(EXIT_RUN);
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

/* ---- 2. Memory ---- */

/* All memory is taken here, zeroed, and given back by the end of the process. */
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

/* ---- 3. Command line ---- */

static void run_complete(void), run_score(void), run_ppl(void), run_tokenize(void), run_info(void),
    run_check(void), run_trace(void), run_bench(void);

typedef struct {
    char letter, input; /* in option_table; p: prompts, n: one and names, w: words, f: a file */
    const char *name, *arguments, *summary, *more, *example;
    void (*run)(void);
} verb;

static const verb verbs[] = {
    {'c', 'p', "complete", "MODEL [PROMPT]", "go on with a prompt; -i: a conversation",
     "\nThe prompt is an argument, -p, -f, or stdin; a newline at its end is dropped.\n"
     "Several (-p, -f, --lines, -0, -k) run together, each with the text it has alone,\n"
     "and come in their order, each ended by a newline, with -0 by a NUL.\n\n"
     "-i: each line goes behind all text so far, between --in-prefix (none: on a line\n"
     "of its own) and --in-suffix; a reply ends at a --stop text, </s>, -n tokens or\n"
     "Ctrl-C, Ctrl-D ends all. /reset goes back to the prompt; /save FILE, /load FILE,\n"
     "/stats, /exit; //x says /x. A full context is told. rlwrap keeps the lines.\n",
     "llama LLaMA/7B \"I believe the meaning of life is\" -n 64\n"
     "         llama LLaMA/7B --lines -f questions.txt --json --temp 0 -n 32\n"
     "         llama LLaMA/7B -i -e --in-prefix \"Q: \" --in-suffix \"\\nA:\" --stop Q:",
     run_complete},
    {'s', 'f', "score", "MODEL [-f FILE]", "multiple choice: picks, accuracy",
     "\nLines of fields between tabs: the number of the right ending (from 0; or -), a\n"
     "context, endings; \\t \\n \\\\ \\xNN are read as in C, and what is before \\c in an\n"
     "ending goes to its context. White space that ends a context goes to the ending.\n"
     "Its tokens are those of <s> context ending behind as many as <s> context has.\n\n"
     "Out come \"ending\", item, ending, its log-probability, tokens, bytes, 1 if it is\n"
     "greedy decoding's, its log-probability after \"Answer:\"; \"pick\", item, label, the\n"
     "best by sum, sum / tokens, sum / bytes, sum less that after \"Answer:\"; last,\n"
     "(-q: alone) \"accuracy\" by each, of greedy decoding, its error, right, of all.\n",
     "llama score LLaMA/7B -f piqa.tsv -q", run_score},
    {'l', 'f', "ppl", "MODEL FILE", "the perplexity of a text",
     "\nexp of the mean of -log p(token | those before it in its window). Windows have\n"
     "--ctx tokens and begin --stride apart; a token counts once, in the first window\n"
     "that has it, if one stands before it there. <s> begins the text.\n",
     "llama ppl LLaMA/7B wiki.test.raw --ctx 2048 --stride 512", run_ppl},
    {'k', 'w', "tokenize", "MODEL [TEXT...]", "text to token ids; --decode: ids to text",
     "\nArguments are joined by spaces; without any, stdin is read, to its last byte.\n",
     "llama tokenize LLaMA/7B Hello world", run_tokenize},
    {'i', 0, "info", "MODEL", "shape, size, memory", "", "llama info LLaMA/65B -c 512", run_info},
    {'m', 0, "check", "MODEL", "its weights: finite, no holes, MD5", "", "llama check LLaMA/7B",
     run_check},
    {'t', 'n', "trace", "MODEL PROMPT [NAME...]", "what each matrix makes of the prompt",
     "\nA line for each of Meta's modules, or those named: rows (tokens) and columns,\n"
     "mean, root mean square, CRC-32 of the float32 bytes, the first numbers.\n",
     "llama trace LLaMA/7B \"Once upon\" layers.3 output", run_trace},
    {'b', 0, "bench", "MODEL", "its speed: 128 read, 32 generated", "", "llama bench LLaMA/7B -t 1",
     run_bench},
    {'h', 'w', "help", "[VERB]", "all of a verb; all: of every one", "", "llama help ppl", NULL},
};
enum { VERBS = sizeof verbs / sizeof *verbs };

typedef struct {
    const verb *verb;
    llama_options open;        /* for llama_open */
    llama_session_options run; /* for llama_session_new */
    llama_sampler draw;        /* for llama_generate */
    const char *model, *memory, *cache, *prefix, *suffix, *shell;
    const char **words, **stops; /* the arguments that are no options; the --stop texts */
    struct {
        const char *text;
        bool is_file; /* the text is in it */
    } * sources;      /* -p and -f */
    size_t n_words, n_stops, n_sources;
    uint64_t given; /* a bit for each option that is there */
    int n, samples, tops, stride;
    bool fast, seeded, escapes, no_bos, ignore_eos, echo, stats, quiet, count, decode, bos, ids,
        help, version, lines, nul, json, talk, implied; /* implied: no verb is given */
} options;
static options o; /* the command line */

#define IN(field, least, most) offsetof(options, field), least, most
#define AT(field)              IN(field, 0, 0)
enum { MANY = 1 << 30, TOPS = 100, SLOTS = 32 }; /* most --logprobs; prompts that run together */

static const struct {
    const char *verbs, *names; /* verbs: letters of those that have it; o: used often */
    enum { FLAG, TEXT, WHOLE, REAL, SEED, STOP, PROMPT, FROM } kind;
    size_t at;
    double least, most;
    const char *help;
} option_table[] = {
    {"csliktmb", "-m, --model MODEL", TEXT, AT(model), "where one argument is the prompt"},
    {"ckt", "-p, --prompt TEXT", PROMPT, AT(sources), "the prompt"},
    {"cslkt", "-f, --file FILE", FROM, AT(sources), "the file it is in; -: stdin"},
    {"ckt", "-e, --escape", FLAG, AT(escapes), "\\n \\t \\\\ \\xNN in texts are read as in C"},
    {"c", "--lines", FLAG, AT(lines), "each line of a file or stdin is a prompt"},
    {"c", "-0, --null", FLAG, AT(nul), "there prompts end with NUL; texts do too"},
    {"c", "-k, --samples N", WHOLE, IN(samples, 1, MANY), "texts a prompt (1), seeds from -s on"},
    {"c", "--json", FLAG, AT(json), "an object a text: tokens, finish, seed, times..."},
    {"c", "--logprobs K", WHOLE, IN(tops, 1, TOPS), "in it, of each token and the K best"},
    {"c", "-i, --interactive", FLAG, AT(talk), "a conversation"},
    {"c", "--in-prefix TEXT", TEXT, AT(prefix), "goes before each line"},
    {"c", "--in-suffix TEXT", TEXT, AT(suffix), "and after it (a newline)"},
    {"c", "-r, --stop TEXT", STOP, AT(stops), "end before this text; there may be several"},
    {"co", "-n, --n-predict N", WHOLE, IN(n, -1, MANY), "tokens to generate (256; -1: no end)"},
    {"cslito", "-c, --ctx, --ctx-size N", WHOLE, IN(run.context, 1, 1 << 20),
     "positions (the model's)"},
    {"l", "--stride N", WHOLE, IN(stride, 1, MANY), "tokens from window to window (--ctx)"},
    {"l", "--ids", FLAG, AT(ids), "the file has token ids, as tokenize prints them"},
    {"co", "-s, --seed N", SEED, AT(draw.seed), "seed (random): the same, the same bytes"},
    {"co", "--temp, --temperature T", REAL, IN(draw.temperature, 0, 1e6), "(0.8; 0: greedy)"},
    {"co", "--top-p P", REAL, IN(draw.top_p, 0, 1), "nucleus sampling (0.95; 1: off)"},
    {"c", "--top-k K", WHOLE, IN(draw.top_k, 0, MANY), "only the K most likely (0: off)"},
    {"c", "--min-p P", REAL, IN(draw.min_p, 0, 1), "at least P times the best's (0: off)"},
    {"c", "--repeat-penalty R", REAL, IN(draw.repeat_penalty, 0, 1e6), "of what is there (1: off)"},
    {"c", "--repeat-last-n N", WHOLE, IN(draw.repeat_last, -1, MANY), "of so many (64; -1: all)"},
    {"clt", "--no-bos", FLAG, AT(no_bos), "no <s> in front"},
    {"c", "--ignore-eos", FLAG, AT(ignore_eos), "go on after </s>"},
    {"c", "--echo", FLAG, AT(echo), "the prompt too"},
    {"c", "--prompt-cache FILE", TEXT, AT(cache), "keep what is evaluated for later"},
    {"k", "--count", FLAG, AT(count), "only how many"},
    {"k", "--decode", FLAG, AT(decode), "ids to text"},
    {"k", "--bos", FLAG, AT(bos), "<s> in front"},
    {"csliktmb", "--tokenizer FILE", TEXT, AT(open.tokenizer), "tokenizer.model, .json or .bin"},
    {"cslitbo", "-t, --threads N", WHOLE, IN(run.threads, 1, 1024), "(the cores there are)"},
    {"cslitb", "-b, --batch-size N", WHOLE, IN(run.batch, 1, 1 << 20), "tokens in one pass (256)"},
    {"csliktmb", "--memory MODE", TEXT, AT(memory), "map, or lock: keep weights in memory"},
    {"cslitb", "--kernels NAME", TEXT, AT(run.kernels), "scalar, avx2, avx512 or neon (the best)"},
    {"cslitb", "--fast", FLAG, AT(fast), "prompts on AMX: other bits, as near to the truth"},
    {"co", "--stats", FLAG, AT(stats), "figures on stderr: speed, memory, kernels, seed"},
    {"csliktmb", "-q, --quiet", FLAG, AT(quiet), "no notes on stderr"},
    {"csliktmbh", "-h, --help", FLAG, AT(help), "of the verb"},
    {"h", "--version", FLAG, AT(version), "and the compiler, and its kernels"},
    {"h", "--completion SHELL", TEXT, AT(shell), "for bash, zsh or fish to evaluate"},
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };

/* The next of an option's names, at most of *n letters; NULL: there is none. */
static const char *next_name(const char *name, size_t *n) {
    name += *n + strspn(name + *n, ", ");
    *n = strcspn(name, ", ");
    return *name == '-' ? name : NULL;
}

/* How many letters to put in, take out or change to make one of the other (Levenshtein). */
static size_t distance(const char *a, size_t m, const char *b, size_t n) {
    size_t row[32], above;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; i <= m; i++, a++)
        for (size_t j = 0, corner = 0; j <= n; j++, corner = above) {
            above = row[j];
            row[j] = j ? corner + (*a != b[j - 1]) : i;
            if (j && row[j] > row[j - 1] + 1) row[j] = row[j - 1] + 1;
            if (row[j] > above + 1) row[j] = above + 1;
        }
    return row[n];
}

/* Which option has the name of n letters; if none has, the end, with the nearest one. */
static size_t find_option(const char *text, size_t n) {
    const char *nearest = "";
    size_t least = n / 2, length = 0, off;
    for (size_t i = 0, k = 0; i < OPTIONS; i++, k = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &k));) {
            if (n > 2 * k || (off = distance(text, n, name, k)) >= least) continue;
            if (off == 0) return i;
            least = off, nearest = name, length = k;
        }
    refuse("%s: there is no such option; %s%.*s%sllama -h lists them", text,
           length ? "did you mean " : "", (int)length, nearest, length ? "? " : "");
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
        o.sources[o.n_sources].text = value, o.sources[o.n_sources++].is_file = kind == FROM;
    else if (kind == STOP) o.stops[o.n_stops++] = value;
    else if (kind == SEED) {
        errno = 0;
        *(uint64_t *)at = strtoull(value, &end, 10);
        if (errno || *end || *value < '0' || *value > '9')
            refuse("-s: '%s' is not a whole number from 0 to 2^64-1", value);
        o.seeded = true;
    } else {
        v = strtod(value, &end);
        if (*end || end == value || !(v >= least && v <= most) ||
            (kind == WHOLE && v != (double)(long)v))
            refuse("%s: '%s' is not a %snumber from %.10g to %.10g%s", option_table[i].names, value,
                   kind == WHOLE ? "whole " : "", least, most,
                   at == &o.run.threads ? "; -t is threads, the temperature is --temp" : "");
        if (kind == WHOLE) *(int *)at = (int)v;
        else *(float *)at = (float)(v > 0 && v < 1e-30 ? 1e-30 : v); /* 0 may be off */
    }
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
    o = (options){.n = 256, .samples = 1, .prefix = "", .suffix = "\n"};
    o.open.size = sizeof o.open, o.run.size = sizeof o.run;
    o.draw = (llama_sampler){sizeof o.draw, 0.8f, 0.95f, .repeat_last = 64};
    o.words = take(2 * room * sizeof *o.words);
    o.stops = o.words + room;
    o.sources = take(room * sizeof *o.sources);
    for (int a = 1; a < argc; a++) {
        const char *text = argv[a], *value = strncmp(text, "--", 2) ? NULL : strchr(text, '=');
        if (over || text[0] != '-' || !text[1]) {
            bool first = o.n_words == 0 && !o.verb && !over;
            if (!first || !(o.verb = find_verb(text))) o.words[o.n_words++] = text;
        } else if (strcmp(text, "--") == 0) over = true;
        else {
            size_t i = find_option(text, value ? (size_t)(value - text) : strlen(text));
            bool flag = option_table[i].kind == FLAG;
            if (flag && value) refuse("%s: takes no value", text);
            if (!flag && !value && a + 1 == argc) refuse("%s: wants a value", text);
            set_option(i, flag ? NULL : value ? value + 1 : argv[++a]);
        }
    }
    if (o.draw.top_p == 0) o.draw.top_p = 1e-30f; /* the best alone; to the library, 0 is off */
    if (o.draw.repeat_last == 0) o.draw.repeat_penalty = 1;
    if (!o.verb) o.verb = verbs, o.implied = true;
    for (size_t i = 0; i < OPTIONS && !o.help && !o.version && !o.shell; i++)
        if ((o.given >> i & 1) && !strchr(option_table[i].verbs, o.verb->letter))
            refuse("%s: %s does not have it; see llama help %s", option_table[i].names,
                   o.verb->name, o.verb->name);
}

static void print_options(char letter) {
    for (size_t i = 0; i < OPTIONS; i++)
        if (strchr(option_table[i].verbs, letter))
            printf("  %-25s %s\n", option_table[i].names, option_table[i].help);
}

static void print_verb(const verb *v) {
    printf("usage: llama %s %s\n\n%s\n%s\n", v->name, v->arguments, v->summary, v->more);
    print_options(v->letter);
    printf("\nexample: %s\n", v->example);
}

/* Of a verb all there is to say, of every one, or the first screen. */
static void print_help(void) {
    const char *word = o.n_words && !o.verb->run ? o.words[0] : "";
    const verb *one = *word ? find_verb(word) : o.verb->run && !o.implied ? o.verb : NULL;
    bool all = strcmp(word, "all") == 0;
    if (*word && !one && !all) refuse("%s: no such verb; llama -h lists them", word);
    if (!one) {
        puts("usage: llama MODEL [PROMPT] [options]");
        for (const verb *v = verbs; v < verbs + VERBS; v++)
            printf("  llama %-8s %-23s%s\n", v->name, v->arguments, v->summary);
        puts("\nMODEL: a folder as Meta or Hugging Face has it, a .gguf file, llama2.c's .bin,\n"
             "as they are; if there is none, $LLAMA_MODEL. Without a prompt, stdin is it.\n");
        print_options('o');
        puts("\nexample: llama LLaMA/7B \"I believe the meaning of life is\" -n 64\n"
             "exit: 0 done, 1 failed, 2 usage, 3 model, 4 memory, 5 too long, 130 interrupted");
    }
    for (const verb *v = verbs; v < verbs + VERBS; v++)
        if (all || v == one) fputs(all ? "\n" : "", stdout), print_verb(v);
}

/* What a shell evaluates to complete verbs, options and names of files. */
static void print_completion(void) {
    static const char *const shells[][3] = {
        {"bash", "complete -o bashdefault -o default -W '", "' llama"},
        {"zsh", "compctl -f -k '(", ")' llama"},
        {"fish", "complete -c llama -a '", "'"}};
    int k = 0;
    while (k < 3 && strcmp(o.shell, shells[k][0]) != 0) k++;
    if (k == 3) refuse("--completion: '%s' is not bash, zsh or fish", o.shell);
    fputs(shells[k][1], stdout);
    for (const verb *v = verbs; v < verbs + VERBS; v++) printf("%s ", v->name);
    for (size_t i = 0, n = 0; i < OPTIONS; i++, n = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            printf("%.*s ", (int)n, name);
    puts(shells[k][2]);
}

/* ---- 4. Input ---- */

typedef struct { /* a text and its tokens */
    bytes text;
    int32_t *tokens; /* [n_tokens] of [room] */
    size_t n_tokens, room;
} input;

static bytes input_memory;
static input *inputs; /* [n_inputs] in it: what there is to work on */
static size_t n_inputs;
static size_t context; /* positions */
static llama *model;
static llama_info info;

/* \n \t \r \\ \" \' \xNN, in place; others stay as they are, but \c, if there is a `mark`, goes and
 * leaves its place there. Returns the new length. */
static size_t unescape(char *text, size_t n, size_t *mark) {
    static const char from[] = "ntr\\\"'", to[] = "\n\t\r\\\"'";
    size_t k = 0;
    for (size_t i = 0; i < n; i++, k++) {
        char next = text[i] == '\\' && i + 1 < n ? text[i + 1] : 0, hex[3] = {0};
        const char *which = next ? strchr(from, next) : NULL;
        if (next == 'x' && i + 3 < n) memcpy(hex, text + i + 2, 2);
        if (isxdigit((unsigned char)hex[0]) && isxdigit((unsigned char)hex[1]))
            text[k] = (char)strtol(hex, NULL, 16), i += 3;
        else if (which) text[k] = to[which - from], i++;
        else if (next == 'c' && mark) *mark = k--, i++;
        else text[k] = text[i];
    }
    return k;
}

static const char *unescaped(const char *text) {
    bytes b = {.n = 0};
    append(&b, text, strlen(text));
    b.text[b.n = unescape(b.text, b.n, NULL)] = 0;
    if (strlen(b.text) < b.n) refuse("'%s': a NUL can only be in a prompt", text);
    return b.text;
}

/* One more text, read as the options say. */
static void add_input(const char *text, size_t n) {
    append(&input_memory, &(input){.n_tokens = 0}, sizeof *inputs);
    inputs = (void *)input_memory.text;
    bytes *b = &inputs[n_inputs++].text;
    append(b, text, n);
    if (o.escapes) b->text[b->n = unescape(b->text, n, NULL)] = 0;
}

/* A file, or stdin ("-"), is one text, a prompt without its last newline; or each of its lines is
 * one; or what stands before each NUL. */
static void add_file(const char *path) {
    bool std = strcmp(path, "-") == 0, many = o.lines || o.nul;
    FILE *f = std ? stdin : fopen(path, "rb");
    char part[1 << 14];
    bytes all = {.n = 0};
    if (!f) refuse("%s: cannot be opened: %s", path, strerror(errno));
    append(&all, "", 0);
    for (size_t got = 1; got; append(&all, part, got)) got = fread(part, 1, sizeof part, f);
    int why = !ferror(f) ? 0 : errno ? errno : EIO;
    if (!std) fclose(f);
    if (why) refuse("%s: cannot be read: %s", std ? "stdin" : path, strerror(why));
    bool newline = !many && strchr("pn", o.verb->input) && all.n && all.text[all.n - 1] == '\n';
    if (newline) all.n--;
    for (size_t at = 0, n, cr; many ? at < all.n : at == 0; at += n + 1) {
        const char *end = many ? memchr(all.text + at, o.nul ? 0 : '\n', all.n - at) : NULL;
        n = end ? (size_t)(end - all.text) - at : all.n - at;
        cr = (newline || (end && !o.nul)) && n && all.text[at + n - 1] == '\r';
        add_input(all.text + at, n - cr);
    }
}

/* The texts to work on: from -p, -f, the arguments or stdin, and only one of these. */
static void read_inputs(void) {
    char kind = o.verb->input;
    size_t words = kind == 'n' ? o.n_words && !o.n_sources : o.n_words;
    bytes joined = {.n = 0};
    const char *is = words && o.model == getenv("LLAMA_MODEL") ? " ($LLAMA_MODEL is set)" : "";
    if (!kind && words) refuse("%s: takes a model and no text%s", o.verb->name, is);
    if (!kind) return;
    if ((o.n_sources && words) || (words > 1 && kind != 'w') || (o.n_sources > 1 && kind != 'p'))
        refuse("more than one text%s: quote it, and give -p, -f or an argument", is);
    for (size_t i = 0; i < o.n_sources; i++)
        if (o.sources[i].is_file) add_file(o.sources[i].text);
        else add_input(o.sources[i].text, strlen(o.sources[i].text));
    for (size_t i = 0; i < words; i++) {
        if (i) append(&joined, " ", 1);
        append(&joined, o.words[i], strlen(o.words[i]));
    }
    if (kind == 'n') o.words += words, o.n_words -= words; /* the rest are names */
    if (words && kind == 'f') add_file(joined.text);
    else if (words) add_input(joined.text, joined.n);
    if (words || o.n_sources || o.talk) return;
    if (isatty(STDIN_FILENO)) refuse("no text: quote it, or give -f FILE or a pipe");
    add_file("-");
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
    if (in->n_tokens == 0 && !o.talk)
        refuse("the prompt is empty and --no-bos leaves nothing to start from");
    if (in->n_tokens > context)
        die(EXIT_TOO_LONG, "prompt %td: %zu tokens do not fit in a context of %zu; see -c",
            in - inputs, in->n_tokens, context);
}

/* Ids between white space instead, each below the vocabulary's size. */
static void read_ids(input *in) {
    char *at = in->text.text, *end = at + in->text.n;
    in->tokens = take((in->text.n / 2 + 1) * sizeof *in->tokens);
    for (char *next; (at += strspn(at, " \t\r\n")) < end; at = next) {
        long id = strtol(at, &next, 10);
        if (next == at || !strchr(" \t\r\n", *next) || id < 0 || id >= info.vocab)
            refuse("'%.20s' is not a token id from 0 to %d", at, info.vocab - 1);
        in->tokens[in->n_tokens++] = (int32_t)id;
    }
}

static void append_tokens(bytes *b, const int32_t *tokens, size_t n) {
    char text[LLAMA_TEXT_MAX];
    llama_decoder utf8 = {.n = 0};
    for (size_t i = 0; i <= n; i++)
        append(b, text, llama_token_to_text(model, &utf8, i < n ? tokens[i] : LLAMA_FLUSH, text));
}

/* ---- 5. Model and session ---- */

static void show_bar(const char *what, double done, double total) {
    double part = total > 0 ? done / total : 1, time = now();
    if (bar.began == 0) bar.began = time;
    if (!bar.wanted || time - bar.began < 0.5 || (time - bar.shown < 0.1 && done < total)) return;
    bar.shown = time;
    fprintf(stderr, "\r%-8s%3.0f%% [%-40.*s]", what, 100 * part, (int)(40 * part),
            "########################################");
    if (part > 0) fprintf(stderr, " %.0f s left \b", (time - bar.began) * (1 - part) / part);
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
    if (!o.model) refuse("no model: give its folder or file, or set $LLAMA_MODEL");
}

/* A file of weights was cut short: then evaluation says so. */
static void on_lost_page(int signal_number, siginfo_t *lost, void *state) {
    (void)state;
    if (!llama_handle_sigbus(model, lost->si_addr)) signal(signal_number, SIG_DFL);
}

static void open_model(void) {
    static const char *const modes[] = {"auto", "map", "lock", "stream"}; /* LLAMA_MEMORY_... */
    struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    int *memory = &o.open.memory;
    llama_error err;
    while (o.memory && *memory < 4 && strcmp(o.memory, modes[*memory]) != 0) ++*memory;
    if (*memory == 4) refuse("--memory: '%s' is not auto, map or lock", o.memory);
    sigaction(SIGBUS, &action, NULL);
    check(llama_open(&model, o.model, &o.open, &err), err.text);
    info.size = sizeof info;
    llama_describe(model, &info);
    context = (size_t)(o.run.context ? o.run.context : info.context);
}

static llama_session *session;
static struct {                  /* for --stats */
    double began, opened, first; /* when: it, the model was open, the first token was there */
    double seconds[2];           /* that prompts took to their first tokens, and the rest */
    size_t evaluated, known, generated, later; /* tokens; later: all drawn but the first ones */
} figures;

/* A bar for a prompt that is alone (what follows comes token by token), and for what is read. */
static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    bool prompt = o.verb == verbs && o.run.sequences == 1 && total > (uint64_t)info.layers;
    (void)user;
    if (prompt || *what != 'p') show_bar(what, (double)done, (double)total);
    return interrupted;
}

static void *warm(void *user) { return llama_prefetch(model, NULL, NULL), user; }
static double ram(void) { return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE); }

/* Of n sequences, as many as half of the free memory holds, but not less than so many. */
static size_t fitting(size_t n, size_t least) {
    double room = (ram() - (double)info.file_bytes) / 2;
    while (n > least && (double)(n * context * info.kv_bytes_per_token) > room) n--;
    return n;
}

/* With `reads`, a thread reads the weights from the front beside the first evaluations, as fast as
 * the disk goes; not if memory cannot hold them: that would push out what is needed. */
static void new_session(size_t n, bool reads) {
    llama_error err;
    pthread_t warmer;
    o.run.context = (int)context, o.run.sequences = (int)n, o.run.progress = on_progress;
    o.run.numerics = o.fast ? LLAMA_FAST : LLAMA_EXACT;
    check(llama_session_new(&session, model, &o.run, &err), err.text);
    reads = reads && (double)info.file_bytes < 0.9 * ram();
    if (reads && pthread_create(&warmer, NULL, warm, NULL) == 0) pthread_detach(warmer);
}

/* What a call on the session returned: when it failed, the end. */
static void expect(int status) { check(status, llama_session_error(session)); }

static void print_stats(void) {
    const double *t = figures.seconds;
    double kv = (double)info.kv_bytes_per_token * (double)context * o.run.sequences;
    double rate = t[1] > 0 ? (double)figures.later / t[1] : 0;
    fprintf(stderr, "\nprompt      %zu tokens in %.3f s, %.1f tokens/s\n", figures.evaluated, t[0],
            t[0] > 0 ? (double)figures.evaluated / t[0] : 0);
    if (figures.known || o.cache) fprintf(stderr, "cache       %zu tokens\n", figures.known);
    fprintf(stderr, "generation  %zu tokens in %.3f s, %.2f tokens/s", figures.generated, t[1],
            rate);
    if (o.run.sequences == 1)
        fprintf(stderr, ", %.1f GB/s of weights", rate * (double)info.token_bytes / 1e9);
    fprintf(stderr, "\nfirst token %.1f ms after the start\nopening     %.1f ms\n",
            (figures.first - figures.began) * 1e3, (figures.opened - figures.began) * 1e3);
    fprintf(stderr, "memory      %.1f MB for %d x %zu positions, %.1f MB of weights\n", kv / 1e6,
            o.run.sequences, context, (double)info.file_bytes / 1e6);
    fprintf(stderr, "kernels     %s\nseed        %" PRIu64 "\n", llama_session_kernels(session),
            o.draw.seed);
}

/* A cache that is no state, or damaged, is left to the user to remove; one of another model is not
 * used, with a note, one that is too long is left alone, one that is empty or not there is made. */
static bool load(const char *path, bool cache) {
    struct stat st;
    llama_error err;
    int status = llama_load_file(session, 0, path, &err);
    bool empty = status == LLAMA_EFORMAT && stat(path, &st) == 0 && st.st_size == 0;
    if (cache && (empty || (status == LLAMA_EIO && errno == ENOENT))) return false;
    if (status && cache && status != LLAMA_EMISMATCH && status != LLAMA_EFULL)
        die(status == LLAMA_ENOMEM ? EXIT_MEMORY : EXIT_USAGE,
            "%s; remove it, or give another name", err.text);
    if (status == LLAMA_EFULL && cache) o.cache = NULL;
    if (status && cache) note("%s; it is %s", err.text, o.cache ? "made anew" : "not used");
    if (status && !cache) say("%s", err.text);
    return status == LLAMA_OK;
}

static bool save(const char *path) {
    llama_error err;
    if (llama_save_file(session, 0, path, &err) == LLAMA_OK) return true;
    return say("%s", err.text), false;
}

/* ---- 6. Complete ---- */

static bool converse(void), keep_talk(const char *path);

enum { INTERRUPTED = LLAMA_FINISH_LENGTH + 1 }; /* one more finish */

typedef struct {         /* what of a text there is so far */
    bytes out;           /* its text */
    bytes picks;         /* for --json its tokens, llama_token_logprob [generated][1 + tops] */
    size_t ready, shown; /* bytes of out that begin no stop text; that stdout has */
    double first, ended; /* when its first token was there; when it was done */
} lane;

static llama_request *texts; /* [n_texts] */
static lane *lanes;          /* [n_texts] */
static size_t n_texts, head; /* head: so many are shown whole */

/* For --json: the token and its log-probability, then the best there were. */
static void note_token(lane *l, const llama_request *t) {
    llama_token_logprob best[1 + TOPS];
    const float *logits = llama_logits(session, t->seq);
    best[0] = (llama_token_logprob){.token = t->token};
    if (o.tops && llama_top_logprobs(session, t->seq, best + 1, o.tops) > 0)
        best[0].logprob = best[1].logprob + (logits[t->token] - logits[best[1].token]);
    append(&l->picks, best, (size_t)(1 + o.tops) * sizeof *best);
}

static void put_object(const llama_request *t, const lane *l) {
    static const char *const words[] = {"", "eos", "stop", "length", "interrupted"};
    const llama_token_logprob *p = (const void *)l->picks.text;
    size_t width = 1 + (size_t)o.tops, i = (size_t)(t - texts), k = (size_t)o.samples;
    bool full = t->finish_reason == LLAMA_FINISH_LENGTH && (int64_t)t->max_tokens != o.n;
    printf("{\"prompt\": %zu, \"sample\": %zu, \"text\": ", i / k, i % k);
    put_json(l->out.text, l->out.n);
    printf(", \"tokens\": [");
    for (i = 0; i < t->generated; i++) printf("%s%d", i ? ", " : "", (int)p[i * width].token);
    printf("], \"finish\": \"%s\", \"seed\": %" PRIu64 ", \"prompt_tokens\": %zu",
           full ? "context" : words[t->finish_reason], t->sampler.seed, t->n_prompt);
    printf(", \"first_token_seconds\": %.6f, \"seconds\": %.6f",
           l->first > 0 ? l->first - figures.opened : 0, l->ended - figures.opened);
    if (o.tops) printf(", \"logprobs\": [");
    for (i = 0; i < t->generated && o.tops; i++, p += width) {
        printf("%s{\"token\": %d, \"logprob\": %.6f, \"top\": [", i ? ", " : "", (int)p->token,
               (double)p->logprob);
        for (k = 1; k < width; k++)
            printf("%s{\"token\": %d, \"logprob\": %.6f}", k > 1 ? ", " : "", (int)p[k].token,
                   (double)p[k].logprob);
        printf("]}");
    }
    puts(o.tops ? "]}" : "}");
}

/* On stdout, in order: what of each text is ready, or, when it is done, its object. */
static void show_texts(void) {
    for (; head < n_texts; head++) {
        llama_request *t = &texts[head];
        lane *l = &lanes[head];
        bool alone = n_texts == 1 && !o.lines && !o.nul && !o.talk;
        if (l->ready > l->shown || t->finish_reason) clear_bar();
        if (!o.json && l->ready > l->shown) write_out(l->out.text + l->shown, l->ready - l->shown);
        l->shown = l->ready;
        if (!t->finish_reason) break;
        if (o.json) put_object(t, l);
        else if (!alone) putchar(o.nul ? 0 : '\n');
        else if (isatty(STDOUT_FILENO) && isatty(STDERR_FILENO)) fputc('\n', stderr);
        if (t->finish_reason == LLAMA_FINISH_LENGTH && (int64_t)t->max_tokens != o.n)
            note("the context of %zu positions is full; see %s", context, o.talk ? "/reset" : "-c");
    }
    flush();
    if (n_texts > 1 && !isatty(STDOUT_FILENO)) show_bar("texts", (double)head, (double)n_texts);
}

/* Text that a token completed goes to the others, up to a stop text. */
static int on_text(void *user, llama_request *t, const char *text, size_t n) {
    lane *l = &((lane *)user)[t - texts];
    if (l->first == 0) l->first = now();
    if (t->finish_reason) l->ended = now();
    if (!t->finish_reason && o.json) note_token(l, t);
    append(&l->out, text, n);
    size_t keep, left = l->out.n - l->ready;
    size_t at = llama_find_stop(l->out.text + l->ready, left, o.stops, o.n_stops, &keep);
    l->out.n = l->ready + at;
    l->ready = l->out.n - (at < left || t->finish_reason ? 0 : keep);
    show_texts();
    return interrupted ? LLAMA_ECANCEL : at < left;
}

/* The texts of all inputs; false: Ctrl-C. */
static bool make_texts(void) {
    size_t samples = (size_t)o.samples;
    float *bias = o.ignore_eos ? take((size_t)info.vocab * sizeof *bias) : NULL;
    if (bias && info.eos >= 0) bias[info.eos] = -1e30f;
    o.draw.bias = bias;
    texts = take((n_texts = n_inputs * samples) * sizeof *texts);
    lanes = take(n_texts * sizeof *lanes);
    head = 0, bar.began = 0;
    for (size_t i = 0; i < n_texts; i++) {
        const input *in = &inputs[i / samples];
        size_t room = context - in->n_tokens + 1;
        texts[i] = (llama_request){
            .prompt = in->tokens, .n_prompt = in->n_tokens, .utf8.started = in->text.n > 0};
        texts[i].max_tokens = o.n < 0 || (size_t)o.n > room ? room : (size_t)o.n;
        texts[i].sampler = o.draw;
        texts[i].sampler.seed += i % samples;
        if (o.echo && !o.talk) append(&lanes[i].out, in->text.text, in->text.n);
        lanes[i].ready = lanes[i].out.n;
    }
    double began = now();
    int status = llama_generate(model, session, texts, n_texts, on_text, lanes);
    double end = now(), first = lanes->first > 0 ? lanes->first : end;
    figures.seconds[0] += first - began, figures.seconds[1] += end - first;
    if (figures.generated == 0) figures.first = first;
    for (const llama_request *t = texts; t < texts + n_texts; t++) {
        figures.known += t->cached_tokens, figures.evaluated += t->n_prompt - t->cached_tokens;
        figures.generated += t->generated, figures.later += t->generated - (t->generated > 0);
    }
    clear_bar();
    if (status && head < n_texts) { /* cut short: what there is */
        char text[LLAMA_TEXT_MAX];
        texts[head].finish_reason = INTERRUPTED;
        on_text(lanes, &texts[head], text,
                llama_token_to_text(model, &texts[head].utf8, LLAMA_FLUSH, text));
    }
    if (status != LLAMA_ECANCEL) expect(status);
    return !status;
}

/* Of many texts the context is as long as they need, and as many are under way as half of the free
 * memory holds. */
static void run_complete(void) {
    size_t longest = 1;
    if (o.cache && o.fast) refuse("--prompt-cache: not with --fast: bits would change");
    if (o.tops > info.vocab) o.tops = info.vocab;
    if (o.tops && !o.json) refuse("--logprobs: only with --json");
    if (o.talk && (o.json || o.lines || o.nul || o.samples > 1 || n_inputs > 1))
        refuse("-i: a conversation is one text, without --json, --lines, -0 or -k");
    for (const char **stop = o.stops; stop < o.stops + o.n_stops; stop++) {
        if (o.escapes) *stop = unescaped(*stop);
        if (!**stop || (**stop & 0xc0) == 0x80)
            refuse("--stop: the text is empty, or begins inside a character");
    }
    if (o.escapes) o.prefix = unescaped(o.prefix), o.suffix = unescaped(o.suffix);
    if (o.talk && n_inputs == 0) add_input("", 0);
    for (input *in = inputs; in < inputs + n_inputs; in++) {
        tokenize_prompt(in);
        if (in->n_tokens > longest) longest = in->n_tokens;
    }
    size_t n = n_inputs * (size_t)o.samples;
    if (n == 0) return;
    if (n > 1 && !o.run.context && o.n >= 0 && longest + (size_t)o.n < context)
        context = longest + (size_t)o.n;
    new_session(fitting(n < SLOTS ? n : SLOTS, 1), true);
    if (o.cache) load(o.cache, true);
    bool done = o.talk ? converse() : make_texts();
    if (o.cache && figures.evaluated > 1 && !(o.talk ? keep_talk : save)(o.cache)) exit(EXIT_RUN);
    if (!done && o.stats) print_stats();
    if (!done) exit(EXIT_INTERRUPTED);
}

/* ---- 7. Chat: its text is inputs[0], which grows, tokenized anew for each reply ---- */

/* A line of stdin without its newline. 1: there is one; 0: the end; -1: Ctrl-C, which is looked for
 * ten times a second: one that comes just before a read would not end it. */
static int read_line(bytes *line) {
    int ch;
    line->n = 0, append(line, "", 0);
    while (!interrupted && poll(&(struct pollfd){STDIN_FILENO, POLLIN, 0}, 1, 100) == 0) {}
    if (interrupted) return -1;
    while ((ch = getc(stdin)) != EOF && ch != '\n') append(line, &(char){(char)ch}, 1);
    if (ch == EOF && interrupted) return clearerr(stdin), -1;
    if (ferror(stdin)) refuse("stdin cannot be read: %s", strerror(errno));
    if (ch == '\n' && line->n && line->text[line->n - 1] == '\r') line->text[--line->n] = 0;
    return ch == '\n' || line->n;
}

static bool keep_talk(const char *path) {
    tokenize(inputs, o.no_bos ? 0 : LLAMA_ADD_BOS);
    size_t n = inputs->n_tokens, most = n < context ? n : context; /* the last one may not fit */
    int status = llama_prefill(session, 0, inputs->tokens, most);
    if (status == LLAMA_ECANCEL) return say("%s: is not written", path), false;
    expect(status);
    clear_bar();
    if (most < n)
        note("%s: without the last %zu of %zu tokens, as the context is full", path, n - most, n);
    return save(path);
}

/* A line that begins with a slash. False: the conversation ends. */
static bool obey(const char *line, const bytes *first) {
    bytes *said = &inputs->text;
    bool good = true;
    if (strcmp(line, "/stats") == 0) print_stats();
    else if (strcmp(line, "/reset") == 0) said->n = 0, append(said, first->text, first->n);
    else if (strncmp(line, "/load ", 6) == 0) {
        if ((good = load(line + 6, false))) /* its text is that of its tokens */
            said->n = 0, append_tokens(said, llama_tokens(session, 0), llama_length(session, 0));
    } else if (strncmp(line, "/save ", 6) == 0) good = keep_talk(line + 6);
    else if (strcmp(line, "/exit") != 0)
        say("'%s': there are /reset, /save FILE, /load FILE, /stats, /exit", line);
    if (!good && !isatty(STDIN_FILENO)) exit(interrupted ? EXIT_INTERRUPTED : EXIT_RUN);
    return strcmp(line, "/exit") != 0;
}

/* The line becomes part of the text, on a line of its own if no prefix says where, and so does what
 * the model replies. */
static void reply(const char *line, size_t n) {
    bytes *said = &inputs->text;
    size_t before = said->n;
    if (!*o.prefix && before && said->text[before - 1] != '\n') append(said, "\n", 1);
    append(said, o.prefix, strlen(o.prefix));
    append(said, line, n);
    append(said, o.suffix, strlen(o.suffix));
    tokenize(inputs, o.no_bos ? 0 : LLAMA_ADD_BOS);
    if (inputs->n_tokens > context) {
        said->n = before;
        say("the context of %zu positions is full: the line is not taken; see /reset", context);
        if (!isatty(STDIN_FILENO)) exit(EXIT_TOO_LONG);
    } else {
        make_texts();
        append(said, lanes->out.text, lanes->out.n);
    }
}

static bool converse(void) {
    enum { LINE = 4095 }; /* bytes: a terminal keeps no more of a line (termios(3)) */
    bool terminal = isatty(STDIN_FILENO), sign = terminal && isatty(STDERR_FILENO), on = true;
    bytes line = {.n = 0}, first = {.n = 0};
    setvbuf(stdin, NULL, _IONBF, 0); /* poll sees no line that stdio holds */
    append(&first, inputs->text.text, inputs->text.n);
    for (int got; on; interrupted = 0) {
        if (sign) fputs("> ", stderr);
        if ((got = read_line(&line)) == 0) break;
        size_t slash = line.text[0] == '/';
        if (got < 0) fputc('\n', stderr);
        else if (terminal && line.n >= LINE)
            say("a line longer than %d bytes may have lost its end: it is not taken", LINE - 1);
        else if (slash && line.text[1] != '/') on = obey(line.text, &first);
        else reply(line.text + slash, line.n - slash);
        if (interrupted && !terminal) exit(EXIT_INTERRUPTED);
    }
    if (sign) fputc('\n', stderr);
    return true;
}

/* ---- 8. Score, ppl ---- */

typedef struct {
    long label;            /* the right ending; -1: not known */
    size_t n;              /* endings: */
    llama_continuation *e; /* [2n] behind their contexts, then behind "Answer:" */
} item;
enum { GREEDY = 4, RULES }; /* before it: by sum, tokens, bytes, "Answer:" */

/* A line, where it stands: a label, a context, endings. */
static void read_item(item *it, char *line, size_t number) {
    char *label = strsep(&line, "\t"), *context_text = strsep(&line, "\t"), *end = label, *text;
    bool known = *label && strcmp(label, "-") != 0;
    for (const char *c = line; c && ++it->n && (c = strchr(c, '\t')); c++) {}
    it->label = known ? strtol(label, &end, 10) : -1;
    if (!it->n || (known && (*end || it->label < 0 || (size_t)it->label >= it->n)))
        refuse("item %zu: not the number of an ending, a context and endings", number);
    it->e = take(2 * it->n * sizeof *it->e);
    size_t length = unescape(context_text, strlen(context_text), NULL);
    for (llama_continuation *e = it->e; (text = strsep(&line, "\t")); e++) {
        size_t mark = 0, n = unescape(text, strlen(text), &mark);
        bytes own = {.n = 0}; /* context */
        if (mark) append(&own, context_text, length), append(&own, text, mark);
        if (mark == n) refuse("item %zu: an ending is empty", number);
        *e = (llama_continuation){
            mark ? own.text : context_text, text + mark, length + mark, n - mark, 0, 0, 0, 0};
        e[it->n] = *e;
        e[it->n].context = "Answer:", e[it->n].n_context = strlen("Answer:");
    }
    check(llama_loglikelihood(model, NULL, it->e, 2 * it->n), "the items do not fit in memory");
}

/* What each ending has, and which is the best by each rule. */
static void print_item(const item *it, size_t number, size_t right[RULES]) {
    size_t best[GREEDY] = {0};
    double top[GREEDY] = {0};
    for (size_t k = 0; k < it->n; k++) {
        const llama_continuation *e = &it->e[k], *after = e + it->n;
        double sum = e->logprob, length = (double)e->n_ending;
        double by[] = {sum, sum / (double)e->tokens, sum / length, sum - after->logprob};
        for (int rule = 0; rule < GREEDY; rule++)
            if (k == 0 || by[rule] > top[rule]) top[rule] = by[rule], best[rule] = k;
        if (!o.quiet)
            printf("ending\t%zu\t%zu\t%.6f\t%zu\t%zu\t%d\t%.6f\n", number, k, sum, e->tokens,
                   e->n_ending, e->greedy, after->logprob);
    }
    if (!o.quiet) printf(it->label < 0 ? "pick\t%zu\t-" : "pick\t%zu\t%ld", number, it->label);
    for (int rule = 0; rule < GREEDY; rule++) {
        if (!o.quiet) printf("\t%zu%s", best[rule], rule + 1 == GREEDY ? "\n" : "");
        right[rule] += (long)best[rule] == it->label;
    }
    right[GREEDY] += it->label >= 0 && it->e[it->label].greedy;
    flush();
}

static void run_score(void) {
    static const char *const rules[] = {"sum", "token", "byte", "answer", "greedy"};
    char *at = inputs->text.text, *line;
    bytes memory = {.n = 0};
    size_t n = 0, most = 1, longest = 1, known = 0, right[RULES] = {0};
    if (memchr(at, 0, inputs->text.n)) refuse("the items have a NUL in them");
    want_tokenizer();
    while ((line = strsep(&at, "\r\n"))) {
        if (!*line) continue;
        append(&memory, &(item){.n = 0}, sizeof(item));
        item *it = (item *)(void *)memory.text + n;
        read_item(it, line, n++);
        known += it->label >= 0;
        if (it->n > most) most = it->n;
        for (size_t k = 0, length; k < 2 * it->n; k++)
            if ((length = it->e[k].given + it->e[k].tokens) > longest) longest = length;
        if (longest > context)
            die(EXIT_TOO_LONG, "item %zu: %zu tokens do not fit in a context of %zu; see -c", n - 1,
                longest, context);
    }
    const item *items = (const void *)memory.text;
    if (n == 0) refuse("there are no items");
    if (!o.run.context) context = longest;
    new_session(fitting(2 * most < SLOTS ? 2 + 2 * most : 2 + SLOTS, 3), true);
    for (size_t i = 0; i < n; i++) {
        expect(llama_loglikelihood(model, session, items[i].e, 2 * items[i].n));
        clear_bar();
        print_item(&items[i], i, right);
        show_bar("score", (double)(i + 1), (double)n);
    }
    clear_bar();
    for (int rule = 0; rule < RULES && known; rule++) {
        double p = (double)right[rule] / (double)known;
        printf("accuracy\t%s\t%.4f\t%.4f\t%zu\t%zu\n", rules[rule], p,
               known > 1 ? sqrt(p * (1 - p) / (double)(known - 1)) : 0, right[rule], known);
    }
}

/* Windows of so many tokens, `stride` apart: log-probabilities of those that none had before. */
static void run_ppl(void) {
    size_t width = context, stride = o.stride ? (size_t)o.stride : width, counted = 0;
    double sum = 0, squares = 0;
    if (width < 2) refuse("--ctx: a window of %zu token predicts nothing", width);
    if (stride > width) refuse("--stride: %zu is more than the window's %zu", stride, width);
    if (o.ids) read_ids(inputs);
    else tokenize(inputs, o.no_bos ? 0 : LLAMA_ADD_BOS);
    size_t n = inputs->n_tokens;
    if (n < 2) refuse("the text has %zu tokens: two are the least", n);
    new_session(1, true);
    float *logprobs = take(width * sizeof *logprobs);
    for (size_t begin = 0, had = 0, end; had < n; begin += stride, had = end) {
        end = n - begin < width ? n : begin + width;
        llama_rewind(session, 0, 0);
        expect(llama_eval(session, 0, inputs->tokens + begin, had - begin));
        expect(llama_score(session, 0, inputs->tokens + had, end - had, logprobs));
        for (size_t i = had == begin; had + i < end; i++, counted++)
            sum -= (double)logprobs[i], squares += (double)logprobs[i] * (double)logprobs[i];
        show_bar("ppl", (double)end, (double)n);
    }
    clear_bar();
    double mean = sum / (double)counted, spread = squares / (double)counted - mean * mean;
    printf("perplexity  %.6g +- %.2g\n", exp(mean), exp(mean) * sqrt(spread / (double)counted));
    printf("nll         %.9g nats a token, %.6g bits", mean, mean / log(2));
    if (!o.ids && !o.no_bos && counted + 1 == n) /* of the whole text */
        printf(", %.6g bits a byte", sum / log(2) / (double)inputs->text.n);
    printf("\ntokens      %zu of %zu, in windows of %zu, %zu apart\n", counted, n, width, stride);
    printf("%s", o.verb->more);
}

/* ---- 9. Info, check, tokenize, trace, bench ---- */

static void run_info(void) {
    new_session(1, false);
    double need = (double)(info.file_bytes + llama_session_bytes(model, &o.run));
    printf("model       %s\nformat      %s, %s, %d shard%s\n", o.model, info.format, info.dtype,
           info.shards, info.shards > 1 ? "s" : "");
    printf(
        "shape       dim %d, layers %d, heads %d, kv_heads %d, head_dim %d, hidden %d, vocab %d\n",
        info.dim, info.layers, info.heads, info.kv_heads, info.head_dim, info.hidden, info.vocab);
    double eps = (double)info.norm_eps, theta = (double)info.rope_theta;
    printf("constants   norm_eps %g, rope_theta %g\n", eps, theta);
    printf("parameters  %" PRIu64 "\nbytes       %" PRIu64 "\n", info.parameters, info.file_bytes);
    printf("tokenizer   %s", llama_token_text(model, 0, NULL) ? "" : "none, ");
    printf("bos %d, eos %d\n", (int)info.bos, (int)info.eos);
    printf("context     %zu positions, KV cache %" PRIu64 " bytes (%" PRIu64 " a position)\n",
           context, info.kv_bytes_per_token * context, info.kv_bytes_per_token);
    printf("memory      %.1f GB needed, of %.1f GB%s\n", need / 1e9, ram() / 1e9,
           need > ram() ? ": weights will be read from disk again and again" : "");
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
    if (o.decode && (o.count || o.bos)) refuse("--decode: not with --count or --bos");
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

/* As zlib has it (RFC 1952), for Python: zlib.crc32(x.astype("<f4").tobytes()) */
static uint32_t crc32(const void *p, size_t n) {
    uint32_t crc = UINT32_MAX;
    for (const unsigned char *c = p; n--; c++) {
        crc ^= *c;
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* One intermediate, x [rows][cols], a row a token: the word "layers.3" shows all of that layer, and
 * is then noted in found[words]; without words, all is shown. */
static void show_rows(void *found, const char *name, const float *x, size_t rows, size_t cols) {
    bool wanted = o.n_words == 0;
    double sum = 0, squares = 0, count = (double)rows * (double)cols;
    size_t i = 0;
    for (size_t w = 0, k; w < o.n_words; w++)
        if (strncmp(name, o.words[w], k = strlen(o.words[w])) == 0 && strchr(".", name[k]))
            wanted = ((bool *)found)[w] = true;
    if (!wanted) return;
    for (double v; i < rows * cols; i++) v = (double)x[i], sum += v, squares += v * v;
    printf("%-30s [%zu, %zu]  mean %.6g  rms %.6g  crc32 %08x  first", name, rows, cols,
           sum / count, sqrt(squares / count), (unsigned)crc32(x, rows * cols * sizeof *x));
    for (i = 0; i < cols && i < 4; i++) printf(" %.7g", (double)x[i]);
    putchar('\n');
}

/* Evaluate the prompt, all of it at once, and show what it goes through. */
static void run_trace(void) {
    bool *found = take(o.n_words * sizeof *found);
    tokenize_prompt(inputs);
    o.run.batch = (int)inputs->n_tokens;
    new_session(1, false);
    llama_trace(session, show_rows, found);
    expect(llama_prefill(session, 0, inputs->tokens, inputs->n_tokens));
    for (size_t i = 0; i < o.n_words; i++)
        if (!found[i]) refuse("there is no '%s'; without names, all are shown", o.words[i]);
}

/* The short form of tests/bench.c: the best of five, prompt and generation in turn. */
static void run_bench(void) {
    enum { GIVEN = 128, GENERATED = 32, TIMES = 5 };
    int32_t tokens[GIVEN + GENERATED];
    double best[2] = {HUGE_VAL, HUGE_VAL};
    for (int t = 0; t < GIVEN + GENERATED; t++) tokens[t] = (t * 7919 + 1) % info.vocab;
    context = GIVEN + GENERATED;
    new_session(1, false);
    for (int r = 0; r < TIMES; r++) {
        double began = now();
        llama_rewind(session, 0, 0);
        expect(llama_eval(session, 0, tokens, GIVEN));
        double between = now();
        for (int t = 0; t < GENERATED; t++) expect(llama_eval(session, 0, tokens + GIVEN + t, 1));
        best[0] = fmin(best[0], between - began), best[1] = fmin(best[1], now() - between);
    }
    printf("prompt      %d tokens, %.2f tokens/s\n", GIVEN, GIVEN / best[0]);
    printf("generation  %d tokens, %.2f tokens/s, %.1f GB/s of weights\n", GENERATED,
           GENERATED / best[1], GENERATED / best[1] * (double)info.token_bytes / 1e9);
    printf("kernels     %s\n", llama_session_kernels(session));
}

int main(int argc, char **argv) {
    int v = llama_release();
    figures.began = figures.first = now();
    read_options(argc, argv);
    bar.wanted = !o.quiet && isatty(STDERR_FILENO);
    struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = o.talk ? 0 : (int)SA_RESETHAND};
    if (o.version)
        printf("llama.c %d.%d.%d (%s)\n", v / 10000, v / 100 % 100, v % 100, llama_build());
    else if (o.shell) print_completion();
    else if (o.help || !o.verb->run) print_help();
    else {
        settle_model();
        read_inputs();
        sigaction(SIGINT, &sa, NULL); /* a second Ctrl-C ends it, but in a conversation */
        if (!o.seeded && getentropy(&o.draw.seed, 6) != 0) /* 48 bits: JSON may mean a double */
            o.draw.seed = (uint64_t)time(NULL);
        open_model();
        figures.opened = now();
        o.verb->run();
        if (o.stats) print_stats();
    }
    flush();
    exit(0);
}
