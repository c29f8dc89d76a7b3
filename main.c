/* main.c - the command `llama`: complete prompts, chat, score texts, inspect a model.
 *
 * It uses llama.h alone. The result goes to stdout and everything else to stderr.
 *
 * How a run goes: argv -> options -> inputs (texts) -> model -> tokens -> session -> results
 * -> stdout. `main`, the last function, calls these steps in this order. What they produce is
 * kept in two structs: `options` (what the user asked for) and `run` (everything else).
 *
 *   1. Terminal and messages   exit codes, errors, text for terminals and for JSON
 *   2. Memory                  allocations, freed when the process ends; growing byte arrays
 *   3. Command line            help, the tables of commands and options, parsing, completion
 *   4. Input                   texts from arguments, files and stdin; their tokens
 *   5. Model and session       opening, progress, statistics, saved state
 *   6. Complete                one or many prompts -> generated texts
 *   7. Chat                    complete -i
 *   8. Score, ppl              log-probabilities of continuations; perplexity
 *   9. Info, check, tokenize, trace, bench
 *
 * Sections 6 to 9 hold one function run_NAME for each command NAME.
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

/* ---- State ---- */

typedef struct command command; /* score, ppl, ...: section 3 */
typedef struct block block;     /* an allocation: section 2 */

typedef struct { /* a growing byte array, always followed by a NUL; zero is empty */
    char *text;
    size_t n, capacity; /* bytes used and allocated */
} bytes;

typedef struct { /* a text to work on */
    bytes text;
    int32_t *tokens; /* [n_tokens], allocated for [capacity] */
    size_t n_tokens, capacity;
} input;

typedef struct { /* what a generated text has so far */
    bytes text;
    bytes logprobs;          /* with --json: llama_token_logprob [tokens][1 + options.logprobs] */
    size_t ready;            /* bytes of text that cannot become part of a stop text */
    size_t printed;          /* bytes of text that are on stdout */
    double first_token_time; /* when the first token was generated (see now()); 0: not yet */
    double end_time;         /* when the text was complete */
} output;

/* What the user asked for: the command line, parsed. */
static struct options {
    const command *command;
    bool command_implied;          /* no command was given: it is complete */
    const char *model_path;        /* NULL: not given */
    llama_options model;           /* for llama_open */
    llama_session_options session; /* for llama_session_new; a context of 0: the model's */
    llama_sampler sampler;         /* for llama_generate */
    const char *memory_mode, *cache_path, *in_prefix, *in_suffix, *shell;
    const char **arguments; /* [n_arguments]: what is neither an option nor the command */
    const char **stops;     /* [n_stops]: the --stop texts */
    int32_t *stop_ids;      /* [n_stop_ids]: the --stop-id tokens */
    struct {
        const char *text; /* the text itself, or its file's name */
        bool is_file;
    } * sources; /* [n_sources]: -p and -f, in their order */
    size_t n_arguments, n_stops, n_stop_ids, n_sources;
    uint64_t given; /* bit i: row i of the option table was given */
    int max_tokens; /* -1: no limit */
    int samples;    /* texts per prompt */
    int logprobs;   /* most likely tokens to print at each position; 0: no log-probabilities */
    int stride;     /* tokens between the starts of windows; 0: --ctx */
    bool fast, seeded, escapes, no_bos, ignore_eos, echo, stats, quiet, count, decode, bos, ids,
        special, help, version, lines, null, json, interactive;
} options;

/* The state of this run. */
static struct run {
    block *blocks; /* a list of all allocations */
    input *inputs; /* [n_inputs], in input_memory */
    size_t n_inputs;
    bytes input_memory;
    llama *model;
    llama_info info;
    size_t context; /* positions of a sequence */
    llama_session *session;
    llama_request *requests; /* [n_requests]: the texts to generate */
    output *outputs;         /* [n_requests]: what each has so far */
    size_t n_requests;
    size_t n_printed;   /* the first n_printed requests are complete and printed */
    bool special_noted; /* a note said that a prompt has the text of a special token */
    struct {
        bool enabled;      /* stderr is a terminal, and not -q */
        double start_time; /* when the work began; 0: it has not */
        double print_time; /* when the bar was last drawn; 0: there is none on the screen */
    } progress;
    struct {                                            /* for --stats */
        double start_time, open_time, first_token_time; /* when: process, model, first token */
        double prompt_seconds, generation_seconds;      /* durations up to and after first tokens */
        size_t evaluated, cached;      /* prompt tokens that were evaluated; that a cache held */
        size_t generated, after_first; /* all tokens generated; all but each text's first */
    } stats;
} run;

static volatile sig_atomic_t interrupted; /* SIGINT was received */
static void on_interrupt(int signal_number) { interrupted = signal_number; }

/* ---- 1. Terminal and messages ---- */

enum { EXIT_RUN = 1, EXIT_USAGE, EXIT_MODEL, EXIT_MEMORY, EXIT_TOO_LONG, EXIT_INTERRUPTED = 130 };

static const struct {
    int code;
    const char *name, *meaning; /* for the first screen and for `help all` */
    int statuses[2];            /* the LLAMA_E... that end in this code; 0: none */
} exit_codes[] = {
    {EXIT_SUCCESS, "done", "everything was done", {0}},
    {EXIT_RUN, "failed", "any other failure, such as stdout that cannot be written", {0}},
    {EXIT_USAGE, "usage", "an option, an argument or an input is not valid", {LLAMA_EINVAL}},
    {EXIT_MODEL, "model", "the model cannot be read or is not valid", {LLAMA_EIO, LLAMA_EFORMAT}},
    {EXIT_MEMORY, "memory", "there is not enough memory", {LLAMA_ENOMEM}},
    {EXIT_TOO_LONG, "too long", "a text does not fit in the context", {LLAMA_EFULL}},
    {EXIT_INTERRUPTED, "interrupted", "Ctrl-C ended the command", {LLAMA_ECANCEL}},
};
enum { EXIT_CODES = sizeof exit_codes / sizeof *exit_codes };

/* Print text so that a terminal cannot act on it: ESC as ^[, other control characters as <U+202E>,
 * bytes that are not UTF-8 as <9B>. With `lines`, newlines and tabs are printed as they are. */
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

/* Print text on stdout as a JSON string; a byte that is not UTF-8 becomes U+FFFD. */
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

/* Erase the progress bar, if one is on the screen. */
static void clear_progress(void) {
    if (run.progress.print_time > 0) fputs("\r\033[K", stderr);
    run.progress.print_time = 0;
}

/* Print one line on stderr. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    clear_progress();
    fputs("llama: ", stderr);
    put_visible(stderr, text, strlen(text), false); /* arguments may hold control characters */
    fputc('\n', stderr);
}

#define note(...)      (options.quiet ? (void)0 : say(__VA_ARGS__)) /* a remark, not an error */
#define die(code, ...) (say(__VA_ARGS__), exit(code))
#define refuse(...)    die(EXIT_USAGE, __VA_ARGS__)

/* If a library call failed, print its error text and exit with the code of its status. Ctrl-C
 * exits without a text. */
static void exit_on_error(int status, const char *text) {
    int code = EXIT_RUN;
    if (status == LLAMA_OK) return;
    for (int i = 0; i < EXIT_CODES; i++)
        if (exit_codes[i].statuses[0] == status || exit_codes[i].statuses[1] == status)
            code = exit_codes[i].code;
    if (code == EXIT_INTERRUPTED) clear_progress(), exit(code);
    die(code, "%s", text);
}

/* Flush stdout; exit if that fails. A closed pipe is not reported. Ctrl-C while a full pipe blocks
 * counts as Ctrl-C. */
static void flush_stdout(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return;
    if (errno == EINTR && interrupted) exit(EXIT_INTERRUPTED);
    if (errno == EPIPE) exit(EXIT_RUN);
    die(EXIT_RUN, "stdout cannot be written: %s", strerror(errno));
}

/* Write generated text to stdout: unchanged, or made visible if stdout is a terminal. */
static void write_text(const char *text, size_t n) {
    if (isatty(STDOUT_FILENO)) put_visible(stdout, text, n, true);
    else fwrite(text, 1, n, stdout);
    flush_stdout();
}

/* Return the time in seconds, of a clock that is never set. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- 2. Memory ---- */

struct block {
    block *next;
    max_align_t data[];
};

/* Return zeroed memory, freed when the process ends. Exits if memory runs out. */
static void *allocate(size_t size) {
    block *b = size < PTRDIFF_MAX ? calloc(1, sizeof *b + size) : NULL;
    if (!b) die(EXIT_MEMORY, "out of memory");
    b->next = run.blocks;
    run.blocks = b;
    return b->data;
}

/* Append n bytes. The old array stays allocated when a larger one replaces it. */
static void append(bytes *b, const void *text, size_t n) {
    if (b->capacity <= b->n + n) {
        char *larger = allocate(b->capacity = 2 * (b->n + n) + 64);
        if (b->n) memcpy(larger, b->text, b->n);
        b->text = larger;
    }
    if (n) memcpy(b->text + b->n, text, n);
    b->text[b->n += n] = 0;
}

/* ---- 3. Command line ---- */

static const char complete_help[] =
    "Prints the text that the model generates after the prompt. With -i: a chat.\n"
    "\n"
    "The prompt is the argument PROMPT, the TEXT of -p or the content of -f FILE.\n"
    "Without any of these, it is read from stdin. If a file or stdin ends with a\n"
    "newline, that newline is removed. The text ends before a --stop text, at the\n"
    "end token </s>, after -n tokens or when the context is full. A note on stderr\n"
    "reports a full context.\n"
    "\n"
    "Several prompts: repeat -p and -f, or give --lines or -0. With -k each prompt\n"
    "gets several texts. Up to 32 texts are generated in each pass over the weights.\n"
    "Batching never changes the output: each text is bit-identical to running its\n"
    "prompt alone with the same seed. (With --fast its bits may differ.) Texts are\n"
    "printed in input order. Each is followed by a newline, or with -0 by a NUL.\n"
    "\n"
    "With --json each text is printed as a JSON object, on a line of its own:\n"
    "  prompt, sample    the number of the prompt; the number of the text among the\n"
    "                    texts of that prompt; both from 0\n"
    "  text, tokens      the generated text; the ids of its tokens\n"
    "  finish            why it ended: eos, stop, length, context, interrupted\n"
    "  seed              the seed that generates the same text again\n"
    "  prompt_tokens     the number of tokens in the prompt\n"
    "  first_token_seconds, seconds\n"
    "                    the time from opening the model to the first token and to\n"
    "                    the end of the text\n"
    "  logprobs          with --logprobs: for each token its id, its log-probability\n"
    "                    and the most likely tokens (top), most likely first\n"
    "\n"
    "Special tokens: text is data, so the prompt \"<s>\" is three or more ordinary\n"
    "tokens, and a note says so. With --special, the texts of control and added\n"
    "tokens (<s>, </s>, <unk>, <|im_end|>, ...) in prompts and chat lines are those\n"
    "tokens. A prompt that begins with <s> gets no second <s>. With -i, the end token\n"
    "or --stop-id that ended a reply stays in the chat, unprinted. With --ids, a\n"
    "prompt is token ids between white space, with nothing put before them.\n"
    "\n"
    "Chat: -i reads lines from stdin. Each line is appended to the text so far, and\n"
    "so is the model's reply to it. --in-prefix goes before the line and --in-suffix\n"
    "after it. Without --in-prefix the line starts on a new line. A reply ends like\n"
    "any generated text, or with Ctrl-C. Ctrl-D ends the chat. If the context is\n"
    "full, a message says so and the line is not added. For line editing, run the\n"
    "chat under rlwrap. A line that starts with / is a chat command:\n"
    "  /reset        remove everything after the prompt\n"
    "  /save FILE    save the chat in FILE\n"
    "  /load FILE    replace the chat by the one saved in FILE\n"
    "  /stats        print speed, memory, kernels and seed\n"
    "  /exit         end the chat\n"
    "  //TEXT        send /TEXT to the model\n"
    "\n"
    "--prompt-cache loads the KV cache from FILE before the run and saves it there\n"
    "after the run. Tokens at the start of a prompt that FILE holds are not evaluated\n"
    "again. The output stays bit-identical. If FILE does not exist, is empty or holds\n"
    "another model's state, a new state is written. If its state is longer than the\n"
    "context, it is neither used nor changed. Any other file is an error.\n";

static const char score_help[] =
    "Scores multiple-choice items. Prints the log-probability of every continuation\n"
    "of a context, the best continuation of each item, and the accuracy at the end.\n"
    "\n"
    "Input: each line is an item. Tabs separate its fields:\n"
    "  label            the number of the right continuation, from 0; - if unknown\n"
    "  context          the text before the continuations\n"
    "  continuation...  one field for each continuation\n"
    "In contexts and continuations \\n \\t \\r \\\\ \\\" \\' \\xNN mean what they mean in C.\n"
    "If a continuation contains \\c, the text before \\c is appended to its context.\n"
    "\n"
    "White space at the end of a context is moved to the start of the continuation.\n"
    "The continuation's tokens are found by tokenizing \"<s> context continuation\" and\n"
    "dropping the first N, where N is the number of tokens of \"<s> context\".\n"
    "\n"
    "Output: rows of fields separated by tabs. Items and continuations are numbered\n"
    "from 0.\n"
    "  ending    item, continuation, its log-probability, its tokens, its bytes,\n"
    "            1 if greedy decoding generates it (else 0),\n"
    "            its log-probability after \"Answer:\" instead of the context\n"
    "  pick      item, label, and the best continuation by each of four rules: sum,\n"
    "            token, byte, answer\n"
    "  accuracy  rule, accuracy, its standard error, items that the rule got right,\n"
    "            items with a label\n"
    "An ending row is printed for each continuation and a pick row for each item.\n"
    "An accuracy row is printed for each rule. -q prints the accuracy rows only.\n"
    "The rules choose the continuation that has the highest\n"
    "  sum       log-probability\n"
    "  token     log-probability divided by tokens\n"
    "  byte      log-probability divided by bytes\n"
    "  answer    log-probability minus its log-probability after \"Answer:\"\n"
    "A fifth rule, greedy, is right if greedy decoding generates the continuation\n"
    "that the label names.\n";

/* Printed by `help ppl` and after ppl's results. */
#define PPL_DEFINITION                                                                             \
    "exp of the mean of -log p(token | the tokens before it in its window). A window\n"            \
    "has --ctx tokens. Windows begin --stride tokens apart. Each token is scored\n"                \
    "once, in the first window that contains it, unless it is the first token of that\n"           \
    "window. The text begins with <s>, unless --no-bos is given.\n"

static const char ppl_help[] =
    "Prints the perplexity of a text. It is\n"
    "\n" PPL_DEFINITION "\n"
    "Output:\n"
    "  perplexity  the perplexity +- its standard error\n"
    "  nll         the mean of -log p, in nats and in bits; the bits for each byte\n"
    "              of the text, if every token but <s> was scored\n"
    "  tokens      how many of all tokens were scored; the length of the windows and\n"
    "              the distance between their starts\n";

static const char tokenize_help[] =
    "Prints the token ids of a text, separated by spaces, on one line.\n"
    "\n"
    "The arguments are joined by single spaces. Without a text, stdin is read. A\n"
    "newline at the end of a file or of stdin is part of the text. With --decode the\n"
    "input is token ids, separated by white space, and their text is printed. With\n"
    "--special, the texts of special tokens are those tokens, both ways.\n";

static const char info_help[] =
    "Prints the model's format, shape, constants, number of parameters, size and\n"
    "tokenizer. Also prints the memory needed for the context of -c, and the kernels\n"
    "that would run. The weights are not read.\n";

static const char check_help[] =
    "Reads every weight. Reports the first number that is not finite, or the first\n"
    "block of zeros that an interrupted download left. If the model has Meta's\n"
    "checklist.chk, the MD5 sums in it are checked too. A fault exits with code 3.\n";

static const char trace_help[] =
    "Evaluates the prompt and prints one line for each output of the model's modules.\n"
    "\n"
    "Modules are named as in Meta's code. A NAME selects that module and everything\n"
    "inside it: layers.3 selects layer 3. Without a NAME all modules are printed.\n"
    "Each line has the name, the shape [tokens, columns], the mean, the root mean\n"
    "square (rms), the CRC-32 of the float32 bytes and the first numbers, up to four.\n";

static const char bench_help[] =
    "Measures the speed of this model on this machine. Each run evaluates a prompt of\n"
    "128 tokens at once, then 32 tokens one after the other as in generation. Prints\n"
    "the highest speeds of five runs.\n";

static const char help_help[] =
    "Prints the first screen. With COMMAND, prints everything about that command.\n"
    "`llama help all` prints everything about all commands, and the exit codes.\n"
    "\n"
    "To complete commands and options in bash, run: eval \"$(llama --completion bash)\"\n";

static void run_complete(void), run_score(void), run_ppl(void), run_tokenize(void), run_info(void),
    run_check(void), run_trace(void), run_bench(void);

/* A set of commands is a sum of these. */
enum {
    COMPLETE = 1,
    SCORE = 2,
    PPL = 4,
    TOKENIZE = 8,
    INFO = 16,
    CHECK = 32,
    TRACE = 64,
    BENCH = 128,
    HELP = 256,
    EVALUATE = COMPLETE | SCORE | PPL | INFO | TRACE | BENCH, /* those that make a session */
    MODEL = EVALUATE | TOKENIZE | CHECK,                      /* those that open a model */
    COMMON = 512 /* of an option: it is on the first screen */
};

struct command {
    int bit;
    enum {
        NO_INPUT,
        PROMPTS,          /* any number of -p and -f, or one argument, or stdin */
        PROMPT_AND_NAMES, /* the first argument is the prompt, unless -p or -f is given */
        WORDS,            /* the arguments, joined by spaces, are one text */
        ONE_FILE          /* the argument is a file's name */
    } input;
    const char *name, *arguments, *summary, *description, *examples;
    void (*execute)(void);
};

static const command commands[] = {
    {COMPLETE, PROMPTS, "complete", "MODEL [PROMPT]", "complete a prompt; with -i: chat",
     complete_help,
     "llama LLaMA/7B \"I believe the meaning of life is\" -n 64\n"
     "         llama LLaMA/7B --lines -f questions.txt --json --temp 0 -n 32\n"
     "         llama LLaMA/7B -i -e --in-prefix \"Q: \" --in-suffix \"\\nA:\" --stop Q:",
     run_complete},
    {SCORE, ONE_FILE, "score", "MODEL [-f FILE]", "answer multiple-choice items: accuracy",
     score_help, "llama score LLaMA/7B -f piqa.tsv -q", run_score},
    {PPL, ONE_FILE, "ppl", "MODEL FILE", "measure the perplexity of a text", ppl_help,
     "llama ppl LLaMA/7B wiki.test.raw --ctx 2048 --stride 512", run_ppl},
    {TOKENIZE, WORDS, "tokenize", "MODEL [TEXT...]", "turn text into token ids, or back",
     tokenize_help, "llama tokenize LLaMA/7B Hello world", run_tokenize},
    {INFO, NO_INPUT, "info", "MODEL", "print shape, size and memory needed", info_help,
     "llama info LLaMA/65B -c 512", run_info},
    {CHECK, NO_INPUT, "check", "MODEL", "verify weights: finite, complete, MD5", check_help,
     "llama check LLaMA/7B", run_check},
    {TRACE, PROMPT_AND_NAMES, "trace", "MODEL PROMPT [NAME...]", "print what each module computes",
     trace_help, "llama trace LLaMA/7B \"Once upon\" layers.3 output", run_trace},
    {BENCH, NO_INPUT, "bench", "MODEL", "measure the speed of this machine", bench_help,
     "llama bench LLaMA/7B -t 1", run_bench},
    {HELP, WORDS, "help", "[COMMAND]", "explain a command; help all: everything", help_help,
     "llama help ppl", NULL},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

/* The options. The first line of an option's help has to make sense alone: people find it with
 * grep. IN and AT give offset, min and max. */
#define IN(field, min, max) offsetof(struct options, field), min, max
#define AT(field)           IN(field, 0, 0)
enum {
    NO_LIMIT = 1 << 30,
    MAX_CONTEXT = 1 << 20, /* positions */
    MAX_LOGPROBS = 100,
    MAX_TOGETHER = 32 /* texts in one pass over the weights */
};

static const struct {
    int commands; /* the set of commands that have the option */
    const char *names;
    enum { FLAG, STRING, INTEGER, REAL, SEED, STOP_TEXT, STOP_ID, PROMPT_TEXT, PROMPT_FILE } kind;
    size_t offset;   /* of its value in `options` */
    double min, max; /* of an INTEGER or a REAL */
    const char *help;
} option_table[] = {
    {MODEL, "-m, --model MODEL", STRING, AT(model_path),
     "the model, instead of the first argument"},
    {COMPLETE | TOKENIZE | TRACE, "-p, --prompt TEXT", PROMPT_TEXT, AT(sources),
     "the prompt or text, instead of an argument"},
    {COMPLETE | SCORE | PPL | TOKENIZE | TRACE, "-f, --file FILE", PROMPT_FILE, AT(sources),
     "read the prompt, text or items from FILE; -: stdin"},
    {COMPLETE | TOKENIZE | TRACE, "-e, --escape", FLAG, AT(escapes),
     "read \\n \\t \\r \\\\ \\\" \\' \\xNN in texts as C escapes"},
    {COMPLETE, "--lines", FLAG, AT(lines), "each line of a file or of stdin is a prompt"},
    {COMPLETE, "-0, --null", FLAG, AT(null),
     "prompts in files and stdin end with NUL;\nso do the texts that are printed"},
    {COMPLETE, "-k, --samples N", INTEGER, IN(samples, 1, NO_LIMIT),
     "generate N texts per prompt (default 1); the first\nuses the seed of -s, the next that seed "
     "+ 1, ..."},
    {COMPLETE, "--json", FLAG, AT(json), "print each text as a JSON object on its own line"},
    {COMPLETE, "--logprobs K", INTEGER, IN(logprobs, 1, MAX_LOGPROBS),
     "with --json: print the log-probability of each token\n"
     "and of the K most likely tokens (1 to 100)"},
    {COMPLETE, "-i, --interactive", FLAG, AT(interactive), "chat: reply to each line of stdin"},
    {COMPLETE, "--in-prefix TEXT", STRING, AT(in_prefix),
     "with -i: text before each line (default: a newline,\nunless the text so far ends with one)"},
    {COMPLETE, "--in-suffix TEXT", STRING, AT(in_suffix),
     "with -i: text after each line (default: a newline)"},
    {COMPLETE, "-r, --stop TEXT", STOP_TEXT, AT(stops),
     "end the output before TEXT; may be given repeatedly"},
    {COMPLETE, "--stop-id N", STOP_ID, AT(stop_ids),
     "end the output before the token N; may be given\nrepeatedly"},
    {COMPLETE | COMMON, "-n, --n-predict N", INTEGER, IN(max_tokens, -1, NO_LIMIT),
     "generate up to N tokens (default 256; -1: no limit)"},
    {COMPLETE | SCORE | PPL | INFO | TRACE | COMMON, "-c, --ctx, --ctx-size N", INTEGER,
     IN(session.context, 1, MAX_CONTEXT), "context length in tokens (default: the model's)"},
    {PPL, "--stride N", INTEGER, IN(stride, 1, NO_LIMIT),
     "tokens from one window's start to the next\n(default: --ctx, so windows do not overlap)"},
    {COMPLETE | PPL | TRACE, "--ids", FLAG, AT(ids),
     "the text is token ids, as `llama tokenize` prints"},
    {COMPLETE | PPL | TOKENIZE | TRACE, "--special", FLAG, AT(special),
     "read <s>, </s> and added tokens in the text as those\ntokens (default: text is data)"},
    {COMPLETE | COMMON, "-s, --seed N", SEED, AT(sampler.seed),
     "sampling seed: same seed, same text (default random)"},
    {COMPLETE | COMMON, "--temp, --temperature T", REAL, IN(sampler.temperature, 0, 1e6),
     "sampling temperature (default 0.8; 0: greedy)"},
    {COMPLETE | COMMON, "--top-p P", REAL, IN(sampler.top_p, 0, 1),
     "nucleus sampling with mass P (default 0.95; 1: off)"},
    {COMPLETE, "--top-k K", INTEGER, IN(sampler.top_k, 0, NO_LIMIT),
     "keep only the K most likely tokens (default 0: off)"},
    {COMPLETE, "--min-p P", REAL, IN(sampler.min_p, 0, 1),
     "drop tokens less likely than P times the most likely\ntoken (default 0: off)"},
    {COMPLETE, "--repeat-penalty R", REAL, IN(sampler.repeat_penalty, 0, 1e6),
     "penalize tokens that occurred: divide their positive\nlogits by R, multiply negative ones "
     "by R\n(default 1: off)"},
    {COMPLETE, "--repeat-last-n N", INTEGER, IN(sampler.repeat_last, -1, NO_LIMIT),
     "penalize the last N tokens (default 64; -1: all)"},
    {COMPLETE | PPL | TRACE, "--no-bos", FLAG, AT(no_bos),
     "do not put the start token <s> before the text"},
    {COMPLETE, "--ignore-eos", FLAG, AT(ignore_eos), "never generate the end token </s>"},
    {COMPLETE, "--echo", FLAG, AT(echo), "print the prompt before the generated text"},
    {COMPLETE, "--prompt-cache FILE", STRING, AT(cache_path),
     "keep the KV cache in FILE for later runs to reuse"},
    {TOKENIZE, "--count", FLAG, AT(count), "print only the number of tokens"},
    {TOKENIZE, "--decode", FLAG, AT(decode), "turn token ids into text"},
    {TOKENIZE, "--bos", FLAG, AT(bos), "put the start token <s> before the other tokens"},
    {MODEL, "--tokenizer FILE", STRING, AT(model.tokenizer),
     "the tokenizer: a tokenizer.model, .json or .bin\n(default: the one in or beside the model)"},
    {EVALUATE | COMMON, "-t, --threads N", INTEGER, IN(session.threads, 1, 1024),
     "number of threads (default: all cores available)"},
    {EVALUATE, "-b, --batch-size N", INTEGER, IN(session.batch, 1, 1 << 20),
     "tokens in one pass over the weights (default 256)"},
    {MODEL, "--memory MODE", STRING, AT(memory_mode),
     "map the weights (default), or lock them in memory:\nMODE is auto, map or lock"},
    {EVALUATE, "--kernels NAME", STRING, AT(session.kernels),
     "scalar, avx2, avx512 or neon (default: the fastest)"},
    {EVALUATE, "--fast", FLAG, AT(fast),
     "use AMX for prompts, if the CPU has it: as accurate,\nbut the last bits of the results "
     "differ"},
    {COMPLETE | COMMON, "--stats", FLAG, AT(stats),
     "print speed, memory, kernels and seed on stderr"},
    {MODEL, "-q, --quiet", FLAG, AT(quiet), "no notes, no bar; `score` prints accuracy only"},
    {MODEL | HELP, "-h, --help", FLAG, AT(help), "print the help of the command"},
    {HELP, "--version", FLAG, AT(version), "print version, compiler and kernels"},
    {HELP, "--completion SHELL", STRING, AT(shell),
     "print a completion script for bash, zsh or fish"},
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };

/* Find the name after the one at `name` that has *n letters (0: the first), and set *n to its
 * letters. Returns NULL if there are no more. */
static const char *next_name(const char *name, size_t *n) {
    name += *n + strspn(name + *n, ", ");
    *n = strcspn(name, ", ");
    return *name == '-' ? name : NULL;
}

/* Return how many letters have to be inserted, deleted or replaced to turn a [m] into b [n]
 * (Levenshtein). b has at most 31 letters. */
static size_t edit_distance(const char *a, size_t m, const char *b, size_t n) {
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

/* Return the row of the option that has this name of n letters. If there is none, exits with an
 * error that suggests the most similar name. */
static size_t find_option(const char *text, size_t n) {
    const char *nearest = "";
    size_t min = n / 2, length = 0, d;
    for (size_t i = 0, k = 0; i < OPTIONS; i++, k = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &k));) {
            if (n > 2 * k || (d = edit_distance(text, n, name, k)) >= min) continue;
            if (d == 0) return i;
            min = d, nearest = name, length = k;
        }
    refuse("%s: no such option; %s%.*s%sllama help all lists them", text,
           length ? "did you mean " : "", (int)length, nearest, length ? "? " : "");
}

/* Parse the value of row i into its INTEGER or REAL. Exits with an error if it is out of range. */
static void set_number(size_t i, const char *value) {
    void *at = (char *)&options + option_table[i].offset;
    bool whole = option_table[i].kind == INTEGER;
    double min = option_table[i].min, max = option_table[i].max;
    char *end;
    double v = strtod(value, &end);
    if (*end || end == value || !(v >= min && v <= max) || (whole && v != (double)(long)v))
        refuse("%s: '%s' is not a %snumber from %.10g to %.10g%s", option_table[i].names, value,
               whole ? "whole " : "", min, max,
               at == &options.session.threads ? "; -t is threads, the temperature is --temp" : "");
    if (whole) *(int *)at = (int)v;
    else *(float *)at = (float)(v > 0 && v < 1e-30 ? 1e-30 : v); /* not 0, which may mean off */
}

/* Store the value of row i where the table says. */
static void set_option(size_t i, const char *value) {
    void *at = (char *)&options + option_table[i].offset;
    char *end;
    options.given |= (uint64_t)1 << i;
    switch (option_table[i].kind) {
    case FLAG: *(bool *)at = true; break;
    case STRING: *(const char **)at = value; break;
    case PROMPT_TEXT:
    case PROMPT_FILE:
        options.sources[options.n_sources].text = value;
        options.sources[options.n_sources++].is_file = option_table[i].kind == PROMPT_FILE;
        break;
    case STOP_TEXT: options.stops[options.n_stops++] = value; break;
    case STOP_ID: {
        long id = strtol(value, &end, 10);
        if (*end || *value < '0' || *value > '9' || id > INT32_MAX)
            refuse("--stop-id: '%s' is not a token id", value);
        options.stop_ids[options.n_stop_ids++] = (int32_t)id;
        break;
    }
    case SEED:
        errno = 0;
        options.sampler.seed = strtoull(value, &end, 10);
        if (errno || *end || *value < '0' || *value > '9')
            refuse("-s: '%s' is not a whole number from 0 to 2^64-1", value);
        options.seeded = true;
        break;
    case INTEGER:
    case REAL: set_number(i, value); break;
    }
}

/* Return the command of this name, or NULL if no command has it. */
static const command *find_command(const char *name) {
    for (const command *c = commands; c < commands + COMMANDS; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

/* Exit with an error if an option was given that the command does not have. */
static void check_options(void) {
    for (size_t i = 0; i < OPTIONS; i++)
        if ((options.given >> i & 1) && !(option_table[i].commands & options.command->bit))
            refuse("%s: not an option of %s; see llama help %s", option_table[i].names,
                   options.command->name, options.command->name);
}

/* Parse the command line into `options`. The first argument may be a command; "--" ends the
 * options. */
static void read_options(int argc, char **argv) {
    size_t max = (size_t)argc + 1;
    bool ended = false;
    options = (struct options){.max_tokens = 256, .samples = 1, .in_prefix = "", .in_suffix = "\n"};
    options.model.size = sizeof options.model, options.session.size = sizeof options.session;
    options.sampler = (llama_sampler){sizeof options.sampler, 0.8f, 0.95f, .repeat_last = 64};
    options.arguments = allocate(2 * max * sizeof *options.arguments);
    options.stops = options.arguments + max;
    options.sources = allocate(max * sizeof *options.sources);
    options.stop_ids = allocate(max * sizeof *options.stop_ids);
    for (int a = 1; a < argc; a++) {
        const char *text = argv[a], *value = strncmp(text, "--", 2) ? NULL : strchr(text, '=');
        if (ended || text[0] != '-' || !text[1]) {
            bool first = options.n_arguments == 0 && !options.command && !ended;
            if (!first || !(options.command = find_command(text)))
                options.arguments[options.n_arguments++] = text;
        } else if (strcmp(text, "--") == 0) ended = true;
        else {
            size_t i = find_option(text, value ? (size_t)(value - text) : strlen(text));
            bool flag = option_table[i].kind == FLAG;
            if (flag && value) refuse("%s: takes no value", text);
            if (!flag && !value && a + 1 == argc) refuse("%s: needs a value", text);
            set_option(i, flag ? NULL : value ? value + 1 : argv[++a]);
        }
    }
    if (options.sampler.top_p == 0)
        options.sampler.top_p = 1e-30f; /* greedy; the library's 0: off */
    if (options.sampler.repeat_last == 0) options.sampler.repeat_penalty = 1;
    if (!options.command) options.command = commands, options.command_implied = true;
    if (!options.help && !options.version && !options.shell) check_options();
}

/* Print the names and the help of the options that these commands have, or of the COMMON ones. */
static void print_options(int bit) {
    for (size_t i = 0; i < OPTIONS; i++) {
        if (!(option_table[i].commands & bit)) continue;
        printf("  %-25s ", option_table[i].names);
        for (const char *c = option_table[i].help; *c; c++)
            if (*c == '\n') printf("\n%28s", "");
            else putchar(*c);
        putchar('\n');
    }
}

static void print_command(const command *c) {
    printf("usage: llama %s %s\n\n%s\n", c->name, c->arguments, c->description);
    print_options(c->bit);
    printf("\nexample: %s\n", c->examples);
}

static void print_first_screen(void) {
    puts("usage: llama MODEL [PROMPT] [options]");
    for (const command *c = commands; c < commands + COMMANDS; c++)
        printf("  llama %-8s %-23s%s\n", c->name, c->arguments, c->summary);
    puts("\nMODEL is a folder in Meta's or Hugging Face's layout, a .gguf file or llama2.c's\n"
         ".bin file. Without MODEL, $LLAMA_MODEL is used. Without PROMPT, a pipe is read.\n");
    print_options(COMMON);
    puts("\nexample: llama LLaMA/7B \"I believe the meaning of life is\" -n 64");
    for (int i = 0; i < EXIT_CODES; i++)
        printf("%s%d %s", i ? ", " : "exit: ", exit_codes[i].code, exit_codes[i].name);
    putchar('\n');
}

/* Print the help of one command, of all commands, or the first screen. */
static void print_help(void) {
    bool asked = options.command->bit == HELP; /* not by -h */
    const char *name = asked && options.n_arguments ? options.arguments[0] : "";
    const command *one = asked || options.command_implied ? NULL : options.command;
    if (strcmp(name, "all") == 0) {
        print_first_screen();
        for (const command *c = commands; c < commands + COMMANDS; c++)
            putchar('\n'), print_command(c);
        puts("\nexit codes:");
        for (int i = 0; i < EXIT_CODES; i++)
            printf("  %3d  %s: %s\n", exit_codes[i].code, exit_codes[i].name,
                   exit_codes[i].meaning);
        return;
    }
    if (*name && !(one = find_command(name)))
        refuse("%s: no such command; llama -h lists them", name);
    if (one) print_command(one);
    else print_first_screen();
}

/* Print what a shell evaluates to complete commands, options and file names. */
static void print_completion(void) {
    static const struct {
        const char *shell, *before, *after; /* of the words */
    } scripts[] = {{"bash", "complete -o bashdefault -o default -W '", "' llama"},
                   {"zsh", "compctl -f -k '(", ")' llama"},
                   {"fish", "complete -c llama -a '", "'"}};
    int k = 0;
    while (k < 3 && strcmp(options.shell, scripts[k].shell) != 0) k++;
    if (k == 3) refuse("--completion: '%s' is not bash, zsh or fish", options.shell);
    fputs(scripts[k].before, stdout);
    for (const command *c = commands; c < commands + COMMANDS; c++) printf("%s ", c->name);
    for (size_t i = 0, n = 0; i < OPTIONS; i++, n = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            printf("%.*s ", (int)n, name);
    puts(scripts[k].after);
}

/* ---- 4. Input ---- */

/* Replace \n \t \r \\ \" \' \xNN in place by what they mean in C. Other text stays as it is. If
 * `mark` is given, \c is removed and its position is stored in *mark. Returns the new length. */
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

/* Return an unescaped copy of an option's text. Exits with an error if it has a NUL. */
static const char *unescaped(const char *text) {
    bytes b = {.n = 0};
    append(&b, text, strlen(text));
    b.text[b.n = unescape(b.text, b.n, NULL)] = 0;
    if (strlen(b.text) < b.n) refuse("'%s': a NUL is allowed in prompts only", text);
    return b.text;
}

/* Add one text to the inputs; with -e, unescape it. */
static void add_input(const char *text, size_t n) {
    append(&run.input_memory, &(input){.n_tokens = 0}, sizeof *run.inputs);
    run.inputs = (void *)run.input_memory.text;
    bytes *b = &run.inputs[run.n_inputs++].text;
    append(b, text, n);
    if (options.escapes) b->text[b->n = unescape(b->text, n, NULL)] = 0;
}

/* Return the content of a file, or of stdin if `path` is "-". Exits with an error if it cannot be
 * read. */
static bytes read_all(const char *path) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    char part[1 << 14];
    bytes all = {.n = 0};
    if (!f) refuse("%s: cannot be opened: %s", path, strerror(errno));
    append(&all, "", 0);
    for (size_t got = 1; got; append(&all, part, got)) got = fread(part, 1, sizeof part, f);
    int error = !ferror(f) ? 0 : errno ? errno : EIO;
    if (!is_stdin) fclose(f);
    if (error) refuse("%s: cannot be read: %s", is_stdin ? "stdin" : path, strerror(error));
    return all;
}

/* Add the texts of a file to the inputs: with --lines its lines, with -0 its NUL-terminated texts,
 * else its whole content. A prompt loses its last newline. */
static void add_file(const char *path) {
    int kind = (int)options.command->input;
    bool many = options.lines || options.null;
    bytes all = read_all(path);
    bool prompt = !many && (kind == PROMPTS || kind == PROMPT_AND_NAMES);
    bool newline = prompt && all.n && all.text[all.n - 1] == '\n';
    if (newline) all.n--;
    for (size_t at = 0, n, cr; many ? at < all.n : at == 0; at += n + 1) {
        const char *end = many ? memchr(all.text + at, options.null ? 0 : '\n', all.n - at) : NULL;
        n = end ? (size_t)(end - all.text) - at : all.n - at;
        cr = (newline || (end && !options.null)) && n && all.text[at + n - 1] == '\r';
        add_input(all.text + at, n - cr);
    }
}

/* Exit with an error if there are more texts than the command takes. */
static void check_sources(size_t n_words) {
    int kind = (int)options.command->input;
    const char *hint = "";
    if (n_words && options.model_path == getenv("LLAMA_MODEL"))
        hint = " ($LLAMA_MODEL is set, and the first argument is not a model)";
    if (kind == NO_INPUT && n_words)
        refuse("%s: takes a model and no text%s", options.command->name, hint);
    if (kind != NO_INPUT && ((options.n_sources && n_words) || (n_words > 1 && kind != WORDS) ||
                             (options.n_sources > 1 && kind != PROMPTS)))
        refuse("more than one text%s: give one quoted argument, -p or -f", hint);
}

/* Fill the inputs from -p and -f, from the arguments or from stdin: exactly one of the three. */
static void read_inputs(void) {
    int kind = (int)options.command->input;
    bool names_only = kind == PROMPT_AND_NAMES && options.n_sources;
    size_t n_words = names_only ? 0 : options.n_arguments;
    bytes joined = {.n = 0};
    if (kind == PROMPT_AND_NAMES && n_words) n_words = 1;
    check_sources(n_words);
    if (kind == NO_INPUT) return;
    for (size_t i = 0; i < options.n_sources; i++)
        if (options.sources[i].is_file) add_file(options.sources[i].text);
        else add_input(options.sources[i].text, strlen(options.sources[i].text));
    for (size_t i = 0; i < n_words; i++) {
        if (i) append(&joined, " ", 1);
        append(&joined, options.arguments[i], strlen(options.arguments[i]));
    }
    if (kind == PROMPT_AND_NAMES) /* the remaining arguments are names */
        options.arguments += n_words, options.n_arguments -= n_words;
    if (n_words && kind == ONE_FILE) add_file(joined.text);
    else if (n_words) add_input(joined.text, joined.n);
    if (n_words || options.n_sources || options.interactive) return;
    if (isatty(STDIN_FILENO)) refuse("no text: give a quoted argument, -f FILE or a pipe");
    add_file("-");
}

/* Exit with an error if the model has no tokenizer. */
static void want_tokenizer(void) {
    if (!llama_token_text(run.model, 0, NULL))
        die(EXIT_MODEL, "the model has no tokenizer in or beside it: give one with --tokenizer");
}

/* Compute the tokens of an input; flags are those of llama_text_to_tokens. */
static void tokenize(input *in, unsigned flags) {
    const bytes *b = &in->text;
    want_tokenizer();
    ptrdiff_t n = llama_text_to_tokens(run.model, b->text, b->n, flags, in->tokens, in->capacity);
    if (n > (ptrdiff_t)in->capacity) {
        in->tokens = allocate((in->capacity = 2 * (size_t)n) * sizeof *in->tokens);
        n = llama_text_to_tokens(run.model, b->text, b->n, flags, in->tokens, in->capacity);
    }
    if (n == LLAMA_EINVAL)
        refuse("the text has an added token for which the model has no row; give it as text, "
               "without --special");
    if (n < 0) die(EXIT_MEMORY, "the text does not fit in memory");
    in->n_tokens = (size_t)n;
}

/* Say once that the text of a special token in a prompt is not that token. */
static void note_special(const bytes *b) {
    int32_t token;
    size_t n;
    if (run.special_noted || llama_find_special(run.model, b->text, b->n, &token) == b->n) return;
    const char *text = llama_token_text(run.model, token, &n);
    note("%.*s in the prompt is read as text; with --special it is the token %d", text ? (int)n : 0,
         text ? text : "", (int)token);
    run.special_noted = true;
}

/* Compute the tokens of an input, with <s> first unless --no-bos is given. */
static void tokenize_with_bos(input *in) {
    tokenize(in, (options.no_bos ? 0 : LLAMA_ADD_BOS) | (options.special ? LLAMA_SPECIAL : 0));
    if (!options.special && options.command->bit != PPL) note_special(&in->text);
}

/* Parse an input as token ids between white space. Exits with an error if one is not valid. */
static void read_ids(input *in) {
    char *at = in->text.text, *end = at + in->text.n;
    in->tokens = allocate((in->text.n / 2 + 1) * sizeof *in->tokens);
    for (char *next; (at += strspn(at, " \t\r\n")) < end; at = next) {
        long id = strtol(at, &next, 10);
        if (next == at || !strchr(" \t\r\n", *next) || id < 0 || id >= run.info.vocab)
            refuse("'%.20s' is not a token id from 0 to %d", at, run.info.vocab - 1);
        in->tokens[in->n_tokens++] = (int32_t)id;
    }
}

/* Append the text of n tokens; with --special also that of special tokens. */
static void append_tokens(bytes *b, const int32_t *tokens, size_t n) {
    char text[LLAMA_TEXT_MAX];
    llama_decoder utf8 = {.special = options.special};
    for (size_t i = 0; i <= n; i++)
        append(b, text,
               llama_token_to_text(run.model, &utf8, i < n ? tokens[i] : LLAMA_FLUSH, text));
}

/* Compute the tokens of a prompt, as tokenize_with_bos does, or with --ids read them. Exits with an
 * error if it is empty or does not fit in the context. */
static void tokenize_prompt(input *in) {
    if (options.ids && options.special) refuse("--special: not with --ids, which are no text");
    if (options.ids) {
        read_ids(in);
        in->text = (bytes){.n = 0};
        append_tokens(&in->text, in->tokens, in->n_tokens);
    } else tokenize_with_bos(in);
    if (in->n_tokens == 0 && !options.interactive)
        refuse(options.ids ? "the prompt has no ids"
                           : "the prompt is empty and --no-bos leaves nothing to start from");
    if (in->n_tokens > run.context)
        die(EXIT_TOO_LONG, "prompt %td: %zu tokens do not fit in a context of %zu; see -c",
            in - run.inputs, in->n_tokens, run.context);
}

/* ---- 5. Model and session ---- */

/* Set the model's path to -m, the first argument or $LLAMA_MODEL. If $LLAMA_MODEL is set, the first
 * argument is the model only if it is a folder or an existing .gguf or .bin file. Otherwise it is a
 * text. Exits with an error if there is no model. */
static void find_model(void) {
    const char *fallback = getenv("LLAMA_MODEL");
    struct stat st;
    if (options.model_path) return;
    if (fallback && *fallback) options.model_path = fallback;
    if (options.n_arguments) {
        const char *end = strrchr(options.arguments[0], '.');
        bool file = end && (!strcmp(end, ".gguf") || !strcmp(end, ".bin"));
        bool exists = stat(options.arguments[0], &st) == 0;
        if (!options.model_path || (exists && (S_ISDIR(st.st_mode) || file)))
            options.model_path = *options.arguments++, options.n_arguments--;
    }
    if (!options.model_path) refuse("no model: give its folder or file, or set $LLAMA_MODEL");
}

/* Handle SIGBUS: a file of weights was truncated while mapped. The evaluation then fails. */
static void on_sigbus(int signal_number, siginfo_t *fault, void *state) {
    (void)state;
    if (!llama_handle_sigbus(run.model, fault->si_addr)) signal(signal_number, SIG_DFL);
}

/* Open the model and describe it in run.info. Exits with an error if that fails. */
static void open_model(void) {
    static const char *const modes[] = {"auto", "map", "lock", "stream"}; /* LLAMA_MEMORY_... */
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    const char *mode = options.memory_mode;
    int *memory = &options.model.memory;
    llama_error err;
    while (mode && *memory < 4 && strcmp(mode, modes[*memory]) != 0) ++*memory;
    if (*memory == 4) refuse("--memory: '%s' is not auto, map or lock", mode);
    sigaction(SIGBUS, &action, NULL);
    exit_on_error(llama_open(&run.model, options.model_path, &options.model, &err), err.text);
    run.info.size = sizeof run.info;
    llama_describe(run.model, &run.info);
    run.context = (size_t)(options.session.context ? options.session.context : run.info.context);
}

/* Draw a progress bar with the time left, if the work has taken more than half a second. `what` is
 * the kind of work, done and total are in any unit. */
static void show_progress(const char *what, double done, double total) {
    double part = total > 0 ? done / total : 1, time = now();
    if (run.progress.start_time == 0) run.progress.start_time = time;
    double elapsed = time - run.progress.start_time;
    if (!run.progress.enabled || elapsed < 0.5) return;
    if (time - run.progress.print_time < 0.1 && done < total) return;
    run.progress.print_time = time;
    fprintf(stderr, "\r%-8s%3.0f%% [%-40.*s]", what, 100 * part, (int)(40 * part),
            "########################################");
    if (part > 0) fprintf(stderr, " %.0f s left \b", elapsed * (1 - part) / part);
}

/* The progress callback of sessions and of llama_check: draw the bar. A prompt's progress is shown
 * only if it is the only one: with several texts, print_outputs shows how many are complete.
 * Returns nonzero after Ctrl-C, which cancels the call. */
static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    bool alone = options.command->bit == COMPLETE && options.session.sequences == 1;
    bool prompt = alone && total > (uint64_t)run.info.layers; /* more than one token */
    (void)user;
    if (prompt || *what != 'p') show_progress(what, (double)done, (double)total);
    return interrupted;
}

/* Return this machine's memory in bytes. */
static double physical_memory(void) {
    return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

/* Return how many of n sequences fit in half of the memory that the weights leave free; at least
 * `min`. */
static size_t fit_sequences(size_t n, size_t min) {
    double available = (physical_memory() - (double)run.info.file_bytes) / 2;
    double bytes_each = (double)(run.context * run.info.kv_bytes_per_token);
    while (n > min && (double)n * bytes_each > available) n--;
    return n;
}

/* The thread that reads the weights ahead. */
static void *prefetch(void *user) { return llama_prefetch(run.model, NULL, NULL), user; }

/* Make the session, with n sequences. With `read_ahead`, a thread reads the weights at the disk's
 * speed during the first evaluations, unless they do not fit in memory: then it would evict the
 * weights in use. */
static void new_session(size_t n, bool read_ahead) {
    llama_error err;
    pthread_t thread;
    llama_session_options *so = &options.session;
    so->context = (int)run.context, so->sequences = (int)n, so->progress = on_progress;
    so->numerics = options.fast ? LLAMA_FAST : LLAMA_EXACT;
    exit_on_error(llama_session_new(&run.session, run.model, so, &err), err.text);
    read_ahead = read_ahead && (double)run.info.file_bytes < 0.9 * physical_memory();
    if (read_ahead && pthread_create(&thread, NULL, prefetch, NULL) == 0) pthread_detach(thread);
}

/* Exit with the session's error if a call on it failed. */
static void must(int status) { exit_on_error(status, llama_session_error(run.session)); }

/* Return n per second. */
static double rate(size_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

/* For --stats and /stats: print speed, memory, kernels and seed on stderr. */
static void print_stats(void) {
    double prompt = run.stats.prompt_seconds, generation = run.stats.generation_seconds;
    double speed = rate(run.stats.after_first, generation);
    double cache_bytes =
        (double)run.info.kv_bytes_per_token * (double)run.context * options.session.sequences;
    fprintf(stderr, "\nprompt      %zu tokens in %.3f s, %.1f tokens/s\n", run.stats.evaluated,
            prompt, rate(run.stats.evaluated, prompt));
    if (run.stats.cached || options.cache_path)
        fprintf(stderr, "cache       %zu tokens\n", run.stats.cached);
    fprintf(stderr, "generation  %zu tokens in %.3f s, %.2f tokens/s", run.stats.generated,
            generation, speed);
    if (options.session.sequences == 1)
        fprintf(stderr, ", %.1f GB/s of weights", speed * (double)run.info.token_bytes / 1e9);
    fprintf(stderr, "\nfirst token %.1f ms after the start\nopening     %.1f ms\n",
            (run.stats.first_token_time - run.stats.start_time) * 1e3,
            (run.stats.open_time - run.stats.start_time) * 1e3);
    fprintf(stderr, "memory      %.1f MB for %d x %zu positions, %.1f MB of weights\n",
            cache_bytes / 1e6, options.session.sequences, run.context,
            (double)run.info.file_bytes / 1e6);
    fprintf(stderr, "kernels     %s\nseed        %" PRIu64 "\n", llama_session_kernels(run.session),
            options.sampler.seed);
}

/* Load a saved state into sequence 0. Returns whether that worked; if not, prints why. */
static bool load_state(const char *path) {
    llama_error err;
    if (llama_load_file(run.session, 0, path, &err) == LLAMA_OK) return true;
    return say("%s", err.text), false;
}

/* Load the --prompt-cache into sequence 0. After the run the file is written again.
 *   no such file, or an empty one     nothing is loaded
 *   the state of another model        the same, and a note says so
 *   a state longer than the context   the same, but the file is not written
 *   anything else                     exits with an error: the user has to remove the file */
static void load_cache(void) {
    const char *path = options.cache_path;
    struct stat st;
    llama_error err;
    int status = llama_load_file(run.session, 0, path, &err);
    if (status == LLAMA_OK || (status == LLAMA_EIO && errno == ENOENT)) return;
    if (status == LLAMA_EFORMAT && stat(path, &st) == 0 && st.st_size == 0) return;
    if (status == LLAMA_EMISMATCH) note("%s; it will be replaced", err.text);
    else if (status == LLAMA_EFULL) {
        note("%s; it is not used", err.text);
        options.cache_path = NULL;
    } else
        die(status == LLAMA_ENOMEM ? EXIT_MEMORY : EXIT_USAGE,
            "%s; remove it, or give another name", err.text);
}

/* Save sequence 0. Returns whether that worked; if not, prints why. */
static bool save_state(const char *path) {
    llama_error err;
    if (llama_save_file(run.session, 0, path, &err) == LLAMA_OK) return true;
    return say("%s", err.text), false;
}

/* ---- 6. Complete ---- */

enum { FINISH_INTERRUPTED = LLAMA_FINISH_LENGTH + 1 }; /* one more finish_reason: Ctrl-C */

static bool chat(void), save_chat(const char *path); /* section 7 */

/* Return whether a text of maximal length ended before -n tokens because the context was full. */
static bool context_full(const llama_request *t) {
    return t->finish_reason == LLAMA_FINISH_LENGTH && (int64_t)t->max_tokens != options.max_tokens;
}

/* For --json: record the token that was drawn and its log-probability, then the most likely
 * tokens and theirs. */
static void record_token(output *out, const llama_request *t) {
    llama_token_logprob row[1 + MAX_LOGPROBS] = {{.token = t->token}}, *top = row + 1;
    const float *logits = llama_logits(run.session, t->seq);
    int k = options.logprobs;
    if (k && llama_top_logprobs(run.session, t->seq, top, k) > 0)
        row[0].logprob = top->logprob + (logits[t->token] - logits[top->token]);
    append(&out->logprobs, row, (size_t)(1 + k) * sizeof *row);
}

/* Print the member "logprobs" of a text's object: n rows of [width]. */
static void print_logprobs(const llama_token_logprob *row, size_t n, size_t width) {
    printf(", \"logprobs\": [");
    for (size_t i = 0; i < n; i++, row += width) {
        printf("%s{\"token\": %d, \"logprob\": %.6f, \"top\": [", i ? ", " : "", (int)row->token,
               (double)row->logprob);
        for (size_t k = 1; k < width; k++)
            printf("%s{\"token\": %d, \"logprob\": %.6f}", k > 1 ? ", " : "", (int)row[k].token,
                   (double)row[k].logprob);
        printf("]}");
    }
    putchar(']');
}

/* For --json: print a complete text as an object. */
static void print_object(const llama_request *t, const output *out) {
    static const char *const reasons[] = {"", "eos", "stop", "length", "interrupted"};
    const llama_token_logprob *rows = (const void *)out->logprobs.text;
    size_t width = 1 + (size_t)options.logprobs, samples = (size_t)options.samples;
    size_t number = (size_t)(t - run.requests);
    double opened = run.stats.open_time;
    printf("{\"prompt\": %zu, \"sample\": %zu, \"text\": ", number / samples, number % samples);
    put_json(out->text.text, out->text.n);
    printf(", \"tokens\": [");
    for (size_t i = 0; i < t->generated; i++)
        printf("%s%d", i ? ", " : "", (int)rows[i * width].token);
    printf("], \"finish\": \"%s\", \"seed\": %" PRIu64 ", \"prompt_tokens\": %zu",
           context_full(t) ? "context" : reasons[t->finish_reason], t->sampler.seed, t->n_prompt);
    printf(", \"first_token_seconds\": %.6f, \"seconds\": %.6f",
           out->first_token_time > 0 ? out->first_token_time - opened : 0, out->end_time - opened);
    if (options.logprobs) print_logprobs(rows, t->generated, width);
    puts("}");
}

/* Print what is new of one text: the bytes that are ready, or with --json its object. */
static void print_output(const llama_request *t, output *out) {
    bool alone = run.n_requests == 1 && !options.lines && !options.null && !options.interactive;
    size_t n = out->ready - out->printed;
    if (n || t->finish_reason) clear_progress();
    if (n && !options.json) write_text(out->text.text + out->printed, n);
    out->printed = out->ready;
    if (!t->finish_reason) return;
    if (options.json) print_object(t, out);
    else if (!alone) putchar(options.null ? 0 : '\n');
    else if (isatty(STDOUT_FILENO) && isatty(STDERR_FILENO)) fputc('\n', stderr);
    if (context_full(t))
        note("the context of %zu positions is full; see %s", run.context,
             options.interactive ? "/reset" : "-c");
}

/* Print what is new on stdout, in input order: a text is printed only when all texts before it are
 * complete. */
static void print_outputs(void) {
    for (; run.n_printed < run.n_requests; run.n_printed++) {
        print_output(&run.requests[run.n_printed], &run.outputs[run.n_printed]);
        if (!run.requests[run.n_printed].finish_reason) break;
    }
    flush_stdout();
    if (run.n_requests > 1 && !isatty(STDOUT_FILENO))
        show_progress("texts", (double)run.n_printed, (double)run.n_requests);
}

/* Return whether a token is one of the --stop-id tokens. */
static bool is_stop_id(int32_t token) {
    for (size_t i = 0; i < options.n_stop_ids; i++)
        if (options.stop_ids[i] == token) return true;
    return false;
}

/* Return how many bytes a token's own text has, after other text. */
static size_t own_length(int32_t token) {
    char text[LLAMA_TEXT_MAX];
    return llama_token_to_text(run.model, &(llama_decoder){.started = 1}, token, text);
}

/* With -i --special, append the special token that ended a reply to its text, after what is
 * printed: the chat goes on after it. */
static void keep_end_token(output *out, const llama_request *t) {
    char text[LLAMA_TEXT_MAX];
    int32_t token = t->token, found = -1;
    bool ended = t->finish_reason == LLAMA_FINISH_EOS ||
                 (t->finish_reason == LLAMA_FINISH_STOP && is_stop_id(token));
    if (!options.interactive || !options.special || !ended) return;
    size_t n =
        llama_token_to_text(run.model, &(llama_decoder){.started = 1, .special = 1}, token, text);
    if (llama_find_special(run.model, text, n, &found) == 0 && found == token)
        append(&out->text, text, n);
}

/* The callback of llama_generate: append the text that a token completed, up to a stop text, and
 * print what is ready. Returns 1 if a stop text or --stop-id was found, LLAMA_ECANCEL after Ctrl-C, else 0. */
static int on_text(void *user, llama_request *t, const char *text, size_t n) {
    output *out = &((output *)user)[t - run.requests];
    if (out->first_token_time == 0) out->first_token_time = now();
    if (t->finish_reason) out->end_time = now();
    if (!t->finish_reason && options.json) record_token(out, t);
    bool stop_id = !t->finish_reason && is_stop_id(t->token);
    size_t own = stop_id ? own_length(t->token) : 0;
    append(&out->text, text, own < n ? n - own : 0);
    const char *pending = out->text.text + out->ready;
    size_t n_pending = out->text.n - out->ready, keep;
    size_t at = llama_find_stop(pending, n_pending, options.stops, options.n_stops, &keep);
    bool stopped = at < n_pending || stop_id;
    out->text.n = out->ready + at;
    out->ready = out->text.n - (stopped || t->finish_reason ? 0 : keep);
    keep_end_token(out, t);
    print_outputs();
    return interrupted ? LLAMA_ECANCEL : stopped;
}

/* Make a request for each sample of each input. */
static void make_requests(void) {
    size_t samples = (size_t)options.samples, n = run.n_inputs * samples;
    float *bias = options.ignore_eos ? allocate((size_t)run.info.vocab * sizeof *bias) : NULL;
    if (bias && run.info.eos >= 0) bias[run.info.eos] = -1e30f;
    options.sampler.bias = bias;
    run.requests = allocate(n * sizeof *run.requests);
    run.outputs = allocate(n * sizeof *run.outputs);
    run.n_requests = n, run.n_printed = 0;
    for (size_t i = 0; i < n; i++) {
        const input *in = &run.inputs[i / samples];
        size_t max = run.context - in->n_tokens + 1;
        if (options.max_tokens >= 0 && (size_t)options.max_tokens < max)
            max = (size_t)options.max_tokens;
        run.requests[i] = (llama_request){.prompt = in->tokens,
                                          .n_prompt = in->n_tokens,
                                          .sampler = options.sampler,
                                          .max_tokens = max,
                                          .utf8.started = in->text.n > 0};
        if (options.special && in->n_tokens) { /* a space in front may follow a special token */
            char text[LLAMA_TEXT_MAX];
            llama_decoder last = {.special = 1};
            llama_token_to_text(run.model, &last, in->tokens[in->n_tokens - 1], text);
            run.requests[i].utf8.started = last.started;
        }
        run.requests[i].sampler.seed += i % samples;
        if (options.echo && !options.interactive)
            append(&run.outputs[i].text, in->text.text, in->text.n);
        run.outputs[i].ready = run.outputs[i].text.n;
    }
}

/* Add to the statistics what llama_generate did from `start` on. */
static void count_requests(double start) {
    double end = now(),
           first = run.outputs->first_token_time > 0 ? run.outputs->first_token_time : end;
    run.stats.prompt_seconds += first - start, run.stats.generation_seconds += end - first;
    if (run.stats.generated == 0) run.stats.first_token_time = first;
    for (const llama_request *t = run.requests; t < run.requests + run.n_requests; t++) {
        run.stats.cached += t->cached_tokens;
        run.stats.evaluated += t->n_prompt - t->cached_tokens;
        run.stats.generated += t->generated;
        run.stats.after_first += t->generated - (t->generated > 0);
    }
}

/* Generate and print the texts of all inputs. After Ctrl-C prints what the current text has and
 * returns false. */
static bool generate(void) {
    make_requests();
    run.progress.start_time = 0;
    double start = now();
    int status =
        llama_generate(run.model, run.session, run.requests, run.n_requests, on_text, run.outputs);
    count_requests(start);
    clear_progress();
    if (status && run.n_printed < run.n_requests) {
        llama_request *current = &run.requests[run.n_printed];
        char text[LLAMA_TEXT_MAX];
        size_t n = llama_token_to_text(run.model, &current->utf8, LLAMA_FLUSH, text);
        current->finish_reason = FINISH_INTERRUPTED;
        on_text(run.outputs, current, text, n);
    }
    if (status != LLAMA_ECANCEL) must(status);
    return !status;
}

/* Exit with an error if the options do not go together; unescape their texts with -e. */
static void check_complete_options(void) {
    bool many = options.lines || options.null || options.samples > 1 || run.n_inputs > 1;
    if (options.cache_path && options.fast)
        refuse("--prompt-cache: not with --fast, whose bits differ");
    if (options.logprobs && !options.json) refuse("--logprobs: only with --json");
    if (options.logprobs > run.info.vocab) options.logprobs = run.info.vocab;
    if (options.interactive && (options.json || many))
        refuse("-i: a chat is one text, without --json, --lines, -0, -k or several prompts");
    if (options.interactive && options.ids)
        refuse("-i: a chat is text, without --ids; --special reads special tokens in it");
    for (size_t i = 0; i < options.n_stop_ids; i++)
        if (options.stop_ids[i] >= run.info.vocab)
            refuse("--stop-id: %d is not a token id from 0 to %d", (int)options.stop_ids[i],
                   run.info.vocab - 1);
    for (const char **stop = options.stops; stop < options.stops + options.n_stops; stop++) {
        if (options.escapes) *stop = unescaped(*stop);
        if (!**stop || (**stop & 0xc0) == 0x80)
            refuse("--stop: the text is empty, or begins inside a character");
    }
    if (options.escapes) options.in_prefix = unescaped(options.in_prefix);
    if (options.escapes) options.in_suffix = unescaped(options.in_suffix);
}

/* Generate a text for each sample of each prompt, or chat. */
static void run_complete(void) {
    size_t longest = 1;
    check_complete_options();
    if (options.interactive && run.n_inputs == 0) add_input("", 0);
    for (input *in = run.inputs; in < run.inputs + run.n_inputs; in++) {
        tokenize_prompt(in);
        if (in->n_tokens > longest) longest = in->n_tokens;
    }
    size_t n = run.n_inputs * (size_t)options.samples;
    if (n == 0) return;
    if (n > 1 && !options.session.context && options.max_tokens >= 0) { /* no longer than needed */
        size_t needed = longest + (size_t)options.max_tokens;
        if (needed < run.context) run.context = needed;
    }
    new_session(fit_sequences(n < MAX_TOGETHER ? n : MAX_TOGETHER, 1), true);
    if (options.cache_path) load_cache();
    bool done = options.interactive ? chat() : generate();
    bool save = options.cache_path && run.stats.evaluated > 1; /* the cache held less */
    if (save && !(options.interactive ? save_chat : save_state)(options.cache_path)) exit(EXIT_RUN);
    if (!done && options.stats) print_stats();
    if (!done) exit(EXIT_INTERRUPTED);
}

/* ---- 7. Chat ---- */

/* The text of the chat so far is inputs[0]. It is tokenized again for each reply, and the session
 * evaluates only the tokens that are new. */

/* Read a line of stdin without its newline. Returns 1, 0 at the end of stdin, or -1 after Ctrl-C.
 * Ctrl-C is checked ten times a second, because one just before a read would not end that read. */
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

/* Save the chat, as far as it fits in the context. Returns whether that worked; if not, prints
 * why. */
static bool save_chat(const char *path) {
    tokenize_with_bos(run.inputs);
    size_t n = run.inputs->n_tokens, fits = n < run.context ? n : run.context;
    int status = llama_prefill(run.session, 0, run.inputs->tokens, fits);
    if (status == LLAMA_ECANCEL) return say("%s: interrupted; it is not written", path), false;
    must(status);
    clear_progress();
    if (fits < n)
        note("%s: the context is full; the last %zu of %zu tokens are not saved", path, n - fits,
             n);
    return save_state(path);
}

/* Run a chat command: a line that begins with a slash. `prompt` is the text before the chat.
 * Returns false if the chat ends. If the command fails and stdin is not a terminal, exits. */
static bool run_chat_command(const char *line, const bytes *prompt) {
    bytes *chat_text = &run.inputs->text;
    bool ok = true;
    if (strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/stats") == 0) print_stats();
    else if (strcmp(line, "/reset") == 0)
        chat_text->n = 0, append(chat_text, prompt->text, prompt->n);
    else if (strncmp(line, "/load ", 6) == 0) {
        ok = load_state(line + 6);
        if (ok) {
            chat_text->n = 0;
            append_tokens(chat_text, llama_tokens(run.session, 0), llama_length(run.session, 0));
        }
    } else if (strncmp(line, "/save ", 6) == 0) ok = save_chat(line + 6);
    else say("'%s': no such chat command; use /reset, /save FILE, /load FILE, /stats, /exit", line);
    if (!ok && !isatty(STDIN_FILENO)) exit(interrupted ? EXIT_INTERRUPTED : EXIT_RUN);
    return true;
}

/* Append the user's line to the chat, then generate, print and append the reply. If the line does
 * not fit in the context, it is not appended: prints why, and exits if stdin is not a terminal. */
static void add_turn(const char *line, size_t n) {
    bytes *chat_text = &run.inputs->text;
    size_t before = chat_text->n;
    if (!*options.in_prefix && before && chat_text->text[before - 1] != '\n')
        append(chat_text, "\n", 1);
    append(chat_text, options.in_prefix, strlen(options.in_prefix));
    append(chat_text, line, n);
    append(chat_text, options.in_suffix, strlen(options.in_suffix));
    tokenize_with_bos(run.inputs);
    if (run.inputs->n_tokens > run.context) {
        chat_text->n = before;
        say("the context of %zu positions is full: the line was not added; see /reset",
            run.context);
        if (!isatty(STDIN_FILENO)) exit(EXIT_TOO_LONG);
    } else {
        generate();
        append(chat_text, run.outputs->text.text, run.outputs->text.n);
    }
}

/* Read lines from stdin until its end or /exit, and reply to each. Returns true. */
static bool chat(void) {
    enum { LINE_MAX_BYTES = 4095 }; /* a terminal drops what is longer (termios(3)) */
    bool terminal = isatty(STDIN_FILENO), prompt_sign = terminal && isatty(STDERR_FILENO);
    bool going_on = true;
    bytes line = {.n = 0}, prompt = {.n = 0};
    setvbuf(stdin, NULL, _IONBF, 0); /* poll does not see lines that stdio has buffered */
    append(&prompt, run.inputs->text.text, run.inputs->text.n);
    for (int got; going_on; interrupted = 0) {
        if (prompt_sign) fputs("> ", stderr);
        if ((got = read_line(&line)) == 0) break;
        size_t slash = line.text[0] == '/';
        if (got < 0) fputc('\n', stderr);
        else if (terminal && line.n >= LINE_MAX_BYTES)
            say("the line is longer than %d bytes, so its end may be lost: it was not added",
                LINE_MAX_BYTES - 1);
        else if (slash && line.text[1] != '/') going_on = run_chat_command(line.text, &prompt);
        else add_turn(line.text + slash, line.n - slash);
        if (interrupted && !terminal) exit(EXIT_INTERRUPTED);
    }
    if (prompt_sign) fputc('\n', stderr);
    return true;
}

/* ---- 8. Score, ppl ---- */

typedef struct {
    long label;            /* the number of the right continuation; -1: unknown */
    size_t n;              /* continuations */
    llama_continuation *c; /* [2 n]: first after the item's context, then after "Answer:" */
} item;

/* The rules by which a continuation is picked. GREEDY only judges the right continuation. */
enum { SUM, TOKEN, BYTE, ANSWER, PICKS, GREEDY = PICKS, RULES };

/* Parse a line, which is modified: label, context and continuations between tabs. Counts their
 * tokens. Exits with an error if the line is not a valid item. */
static void read_item(item *it, char *line, size_t number) {
    char *label = strsep(&line, "\t"), *context_text = strsep(&line, "\t"), *end = label, *text;
    bool known = *label && strcmp(label, "-") != 0;
    for (const char *c = line; c && ++it->n && (c = strchr(c, '\t')); c++) {}
    it->label = known ? strtol(label, &end, 10) : -1;
    if (!it->n || (known && (*end || it->label < 0 || (size_t)it->label >= it->n)))
        refuse("item %zu: a line must be a label (the number of a continuation, or -), a context "
               "and continuations, between tabs",
               number);
    it->c = allocate(2 * it->n * sizeof *it->c);
    size_t length = unescape(context_text, strlen(context_text), NULL);
    for (llama_continuation *c = it->c; (text = strsep(&line, "\t")); c++) {
        size_t mark = 0, n = unescape(text, strlen(text), &mark);
        bytes own = {.n = 0}; /* the context and what precedes \c */
        if (mark) append(&own, context_text, length), append(&own, text, mark);
        if (mark == n) refuse("item %zu: a continuation is empty", number);
        *c = (llama_continuation){.context = mark ? own.text : context_text,
                                  .n_context = length + mark,
                                  .ending = text + mark,
                                  .n_ending = n - mark};
        c[it->n] = *c;
        c[it->n].context = "Answer:", c[it->n].n_context = strlen("Answer:");
    }
    exit_on_error(llama_loglikelihood(run.model, NULL, it->c, 2 * it->n),
                  "the items do not fit in memory");
}

/* Print the rows of an item, and count in right[] the rules that picked the right continuation. */
static void print_item(const item *it, size_t number, size_t right[RULES]) {
    size_t best[PICKS] = {0};
    double max[PICKS] = {0};
    for (size_t k = 0; k < it->n; k++) {
        const llama_continuation *c = &it->c[k], *after_answer = c + it->n;
        double score[PICKS];
        score[SUM] = c->logprob;
        score[TOKEN] = c->logprob / (double)c->tokens;
        score[BYTE] = c->logprob / (double)c->n_ending;
        score[ANSWER] = c->logprob - after_answer->logprob;
        for (int rule = 0; rule < PICKS; rule++)
            if (k == 0 || score[rule] > max[rule]) max[rule] = score[rule], best[rule] = k;
        if (!options.quiet)
            printf("ending\t%zu\t%zu\t%.6f\t%zu\t%zu\t%d\t%.6f\n", number, k, c->logprob, c->tokens,
                   c->n_ending, c->greedy, after_answer->logprob);
    }
    if (!options.quiet)
        printf(it->label < 0 ? "pick\t%zu\t-" : "pick\t%zu\t%ld", number, it->label);
    for (int rule = 0; rule < PICKS; rule++) {
        if (!options.quiet) printf("\t%zu%s", best[rule], rule + 1 == PICKS ? "\n" : "");
        right[rule] += (long)best[rule] == it->label;
    }
    right[GREEDY] += it->label >= 0 && it->c[it->label].greedy;
    flush_stdout();
}

/* Read the items of the input; returns them in *n. Stores the largest number of continuations of an
 * item and the largest number of tokens of a context with a continuation. */
static item *read_items(size_t *n, size_t *max_continuations, size_t *longest) {
    char *at = run.inputs->text.text, *line;
    bytes memory = {.n = 0};
    while ((line = strsep(&at, "\r\n"))) {
        if (!*line) continue;
        append(&memory, &(item){.n = 0}, sizeof(item));
        item *it = (item *)(void *)memory.text + *n;
        read_item(it, line, *n);
        if (it->n > *max_continuations) *max_continuations = it->n;
        for (size_t k = 0; k < 2 * it->n; k++) {
            size_t length = it->c[k].given + it->c[k].tokens;
            if (length > *longest) *longest = length;
        }
        if (*longest > run.context)
            die(EXIT_TOO_LONG, "item %zu: %zu tokens do not fit in a context of %zu; see -c", *n,
                *longest, run.context);
        ++*n;
    }
    if (*n == 0) refuse("there are no items: the input is empty");
    return (void *)memory.text;
}

/* Score the continuations of all items, and print the accuracy of each rule. */
static void run_score(void) {
    static const char *const rules[] = {"sum", "token", "byte", "answer", "greedy"};
    size_t n = 0, max_continuations = 1, longest = 1, labelled = 0, right[RULES] = {0};
    if (memchr(run.inputs->text.text, 0, run.inputs->text.n))
        refuse("the items have a NUL in them");
    want_tokenizer();
    const item *items = read_items(&n, &max_continuations, &longest);
    if (!options.session.context) run.context = longest;
    size_t together = 2 * max_continuations < MAX_TOGETHER ? 2 * max_continuations : MAX_TOGETHER;
    new_session(fit_sequences(2 + together, 3), true); /* llama_loglikelihood keeps 2 contexts */
    for (size_t i = 0; i < n; i++) {
        must(llama_loglikelihood(run.model, run.session, items[i].c, 2 * items[i].n));
        clear_progress();
        print_item(&items[i], i, right);
        labelled += items[i].label >= 0;
        show_progress("score", (double)(i + 1), (double)n);
    }
    clear_progress();
    for (int rule = 0; rule < RULES && labelled; rule++) {
        double p = (double)right[rule] / (double)labelled;
        printf("accuracy\t%s\t%.4f\t%.4f\t%zu\t%zu\n", rules[rule], p,
               labelled > 1 ? sqrt(p * (1 - p) / (double)(labelled - 1)) : 0, right[rule],
               labelled);
    }
}

/* Perplexity: slide a window over the tokens and score those that no earlier window contained. */
static void run_ppl(void) {
    size_t width = run.context, stride = options.stride ? (size_t)options.stride : width;
    size_t scored = 0;
    double sum = 0, squares = 0; /* of the negative log-probabilities */
    if (width < 2) refuse("--ctx: a window of %zu token predicts nothing; give 2 or more", width);
    if (stride > width)
        refuse("--stride: %zu is more than the window's %zu tokens (--ctx)", stride, width);
    if (options.ids && options.special) refuse("--special: not with --ids, which are no text");
    if (options.ids) read_ids(run.inputs);
    else tokenize_with_bos(run.inputs);
    const int32_t *tokens = run.inputs->tokens;
    size_t n = run.inputs->n_tokens;
    if (n < 2) refuse("the text is too short: %zu tokens, and perplexity needs 2", n);
    new_session(1, true);
    float *logprobs = allocate(width * sizeof *logprobs);
    for (size_t begin = 0, done = 0, end; done < n; begin += stride, done = end) {
        end = n - begin < width ? n : begin + width;
        llama_rewind(run.session, 0, 0);
        must(llama_eval(run.session, 0, tokens + begin, done - begin));
        must(llama_score(run.session, 0, tokens + done, end - done, logprobs));
        for (size_t i = done == begin; done + i < end; i++, scored++)
            sum -= (double)logprobs[i], squares += (double)logprobs[i] * (double)logprobs[i];
        show_progress("ppl", (double)end, (double)n);
    }
    clear_progress();
    double mean = sum / (double)scored, variance = squares / (double)scored - mean * mean;
    printf("perplexity  %.6g +- %.2g\n", exp(mean), exp(mean) * sqrt(variance / (double)scored));
    printf("nll         %.9g nats a token, %.6g bits", mean, mean / log(2));
    if (!options.ids && !options.no_bos && scored + 1 == n) /* every token of the text */
        printf(", %.6g bits a byte", sum / log(2) / (double)run.inputs->text.n);
    printf("\ntokens      %zu of %zu, in windows of %zu, %zu apart\n", scored, n, width, stride);
    printf("\n" PPL_DEFINITION);
}

/* ---- 9. Info, check, tokenize, trace, bench ---- */

static void run_info(void) {
    const llama_info *i = &run.info;
    new_session(1, false);
    double needed = (double)(i->file_bytes + llama_session_bytes(run.model, &options.session));
    double memory = physical_memory();
    printf("model       %s\n", options.model_path);
    printf("format      %s, %s, %d shard%s\n", i->format, i->dtype, i->shards,
           i->shards > 1 ? "s" : "");
    printf("shape       dim %d, layers %d, heads %d, kv_heads %d, head_dim %d, hidden %d, "
           "vocab %d\n",
           i->dim, i->layers, i->heads, i->kv_heads, i->head_dim, i->hidden, i->vocab);
    printf("constants   norm_eps %g, rope_theta %g\n", (double)i->norm_eps, (double)i->rope_theta);
    printf("parameters  %" PRIu64 "\n", i->parameters);
    printf("bytes       %" PRIu64 "\n", i->file_bytes);
    printf("tokenizer   %s", llama_token_text(run.model, 0, NULL) ? "" : "none, ");
    printf("bos %d, eos %d\n", (int)i->bos, (int)i->eos);
    printf("context     %zu positions, KV cache %" PRIu64 " bytes (%" PRIu64 " a position)\n",
           run.context, i->kv_bytes_per_token * run.context, i->kv_bytes_per_token);
    printf("memory      %.1f GB needed, of %.1f GB%s\n", needed / 1e9, memory / 1e9,
           needed > memory ? ": weights will be read from disk again and again" : "");
    printf("kernels     %s\n", llama_session_kernels(run.session));
}

static void run_check(void) {
    llama_error err;
    int status = llama_check(run.model, on_progress, NULL, &err);
    clear_progress();
    exit_on_error(status, err.text);
    printf("%s: sound, %" PRIu64 " parameters in %d file%s\n", options.model_path,
           run.info.parameters, run.info.shards, run.info.shards > 1 ? "s" : "");
}

/* Print the ids of a text, their number (--count), or the text of ids (--decode). */
static void run_tokenize(void) {
    input *in = run.inputs;
    want_tokenizer();
    if (options.decode && (options.count || options.bos))
        refuse("--decode: not with --count or --bos");
    if (options.decode) {
        bytes text = {.n = 0};
        read_ids(in);
        append_tokens(&text, in->tokens, in->n_tokens);
        write_text(text.text, text.n);
        return;
    }
    tokenize(in, (options.bos ? LLAMA_ADD_BOS : 0) | (options.special ? LLAMA_SPECIAL : 0));
    if (options.count) printf("%zu", in->n_tokens);
    for (size_t i = 0; i < in->n_tokens && !options.count; i++)
        printf("%s%d", i ? " " : "", (int)in->tokens[i]);
    putchar('\n');
}

/* Return the CRC-32 of n bytes as zlib computes it (RFC 1952). In Python it is
 * zlib.crc32(x.astype("<f4").tobytes()). */
static uint32_t crc32(const void *p, size_t n) {
    uint32_t crc = UINT32_MAX;
    for (const unsigned char *c = p; n--; c++) {
        crc ^= *c;
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* The callback of llama_trace: print a line about x [rows][cols], the output of the module `name`,
 * if the arguments select it. Argument w sets found[w] if it selects anything. */
static void print_rows(void *found, const char *name, const float *x, size_t rows, size_t cols) {
    bool selected = options.n_arguments == 0;
    double sum = 0, squares = 0, count = (double)rows * (double)cols;
    for (size_t w = 0; w < options.n_arguments; w++) {
        size_t n = strlen(options.arguments[w]);
        if (strncmp(name, options.arguments[w], n) == 0 && strchr(".", name[n]))
            selected = ((bool *)found)[w] = true;
    }
    if (!selected) return;
    for (size_t i = 0; i < rows * cols; i++)
        sum += (double)x[i], squares += (double)x[i] * (double)x[i];
    printf("%-30s [%zu, %zu]  mean %.6g  rms %.6g  crc32 %08x  first", name, rows, cols,
           sum / count, sqrt(squares / count), (unsigned)crc32(x, rows * cols * sizeof *x));
    for (size_t i = 0; i < cols && i < 4; i++) printf(" %.7g", (double)x[i]);
    putchar('\n');
}

/* Evaluate the prompt in one batch, and print what print_rows selects. */
static void run_trace(void) {
    bool *found = allocate(options.n_arguments * sizeof *found);
    tokenize_prompt(run.inputs);
    options.session.batch = (int)run.inputs->n_tokens;
    new_session(1, false);
    llama_trace(run.session, print_rows, found);
    must(llama_prefill(run.session, 0, run.inputs->tokens, run.inputs->n_tokens));
    for (size_t i = 0; i < options.n_arguments; i++)
        if (!found[i])
            refuse("'%s' is not the name of a module; trace without names prints all of them",
                   options.arguments[i]);
}

/* Print the best speed of five runs, each a prompt and then a generation. */
static void run_bench(void) {
    enum { PROMPT = 128, GENERATED = 32, RUNS = 5 };
    int32_t tokens[PROMPT + GENERATED];
    double prompt = HUGE_VAL, generation = HUGE_VAL; /* the shortest times */
    for (int t = 0; t < PROMPT + GENERATED; t++) tokens[t] = (t * 7919 + 1) % run.info.vocab;
    run.context = PROMPT + GENERATED;
    new_session(1, false);
    for (int r = 0; r < RUNS; r++) {
        double start = now();
        llama_rewind(run.session, 0, 0);
        must(llama_eval(run.session, 0, tokens, PROMPT));
        double middle = now();
        for (int t = 0; t < GENERATED; t++)
            must(llama_eval(run.session, 0, tokens + PROMPT + t, 1));
        prompt = fmin(prompt, middle - start), generation = fmin(generation, now() - middle);
    }
    printf("prompt      %d tokens, %.2f tokens/s\n", PROMPT, PROMPT / prompt);
    printf("generation  %d tokens, %.2f tokens/s, %.1f GB/s of weights\n", GENERATED,
           GENERATED / generation, GENERATED / generation * (double)run.info.token_bytes / 1e9);
    printf("kernels     %s\n", llama_session_kernels(run.session));
}

/* ---- main ---- */

/* Open the model and run the command on the inputs. */
static void run_command(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    if (!options.interactive) action.sa_flags = (int)SA_RESETHAND; /* a second Ctrl-C kills */
    find_model();
    read_inputs();
    sigaction(SIGINT, &action, NULL);
    if (!options.seeded && getentropy(&options.sampler.seed, 6) != 0) /* 48 bits: exact in JSON */
        options.sampler.seed = (uint64_t)time(NULL);
    open_model();
    run.stats.open_time = now();
    options.command->execute();
    if (options.stats) print_stats();
}

int main(int argc, char **argv) {
    int v = llama_release();
    run.stats.start_time = run.stats.first_token_time = now();
    read_options(argc, argv);
    run.progress.enabled = !options.quiet && isatty(STDERR_FILENO);
    if (options.version)
        printf("llama.c %d.%d.%d (%s)\n", v / 10000, v / 100 % 100, v % 100, llama_build());
    else if (options.shell) print_completion();
    else if (options.help || options.command->bit == HELP) print_help();
    else run_command();
    flush_stdout();
    exit(0);
}
