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
 *  10. Line editor             a line of the chat, typed at a terminal
 *  11. Platform                a list of functions before section 1, their bodies at the end
 *  12. Several machines        llama-mpi: what its processes share, and how they end
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
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <wchar.h>

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
    bool estimated;    /* n_tokens is a lower bound, and tokens are not set */
    size_t line;       /* its line in the file, from 1; 0: it is not a line */
    const char *error; /* why it was rejected; NULL: it was not */
} input;

typedef struct {   /* what a generated text has so far */
    size_t number; /* of its input */
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
    const char *default_model;     /* $LLAMA_MODEL; NULL: not set, or empty */
    llama_options model;           /* for llama_open */
    llama_session_options session; /* for llama_session_new; a context of 0: the model's */
    llama_sampler sampler;         /* for llama_generate */
    const char *draft_path;        /* NULL: no draft model */
    const char *memory_mode, *cache_path, *in_prefix, *in_suffix, *npy_folder, *shell;
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
    bool fast, no_lookup, seeded, escapes, no_bos, ignore_eos, echo, stats, quiet, count, decode,
        bos, ids, special, help, version, lines, null, json, interactive;
    int ranks; /* of info: machines among which to divide the model; 0: not given */
} options;

/* The state of this run. */
static struct run {
    block *blocks; /* a list of all allocations */
    input *inputs; /* [n_inputs], in input_memory */
    size_t n_inputs;
    bytes input_memory;
    bytes document; /* the text of stdin that comes before each prompt */
    int exit_code;  /* of the first input that was rejected; 0: none was */
    bool utf8_noted;
    llama *model, *draft;
    llama_info info, draft_info; /* if there is no draft model, all 0 */
    size_t context;              /* positions of a sequence */
    llama_session *session;
    llama_request *requests; /* [n_requests]: the texts to generate */
    output *outputs;         /* [n_requests]: what each has so far */
    size_t n_requests;
    size_t n_printed;   /* the first n_printed requests are complete and printed */
    size_t n_passed;    /* of the first n_passed inputs those are printed that were rejected */
    bool special_noted; /* a note said that a text has the text of a special token */
    char message[1024]; /* the last one that say() printed */
    struct {
        bool terminal;     /* stderr is a terminal */
        bool enabled;      /* and not a dumb one, and not -q */
        const char *what;  /* the work */
        double start_time; /* when the work began; 0: it has not */
        double print_time; /* when the bar was last drawn; 0: there is none on the screen */
    } progress;
    struct {                                            /* for --stats */
        double start_time, open_time, first_token_time; /* when: process, model, first token */
        double prompt_seconds, generation_seconds;      /* durations up to and after first tokens */
        size_t evaluated, cached;      /* prompt tokens that were evaluated; that a cache held */
        size_t generated, after_first; /* all tokens generated; all but each text's first */
        size_t passes, later_passes;   /* of all texts; without the one that ends each prompt */
        size_t drafted, accepted;      /* guesses of tokens; those that came true */
        size_t scored;                 /* tokens whose log-probability score or ppl computed */
    } stats;
    struct {           /* for -i */
        bytes prompt;  /* the text before the chat */
        bytes turns;   /* turn [turns.n / sizeof(turn)] */
        bytes sign;    /* "> " and the last line of --in-prefix */
        FILE *screen;  /* the terminal, for what is neither a reply nor a message; NULL: none */
        bool terminal; /* stdin is a terminal */
        bool editing;  /* lines are typed in the line editor */
    } chat;
} run;

static volatile sig_atomic_t interrupted; /* the signal that asks to end; 0: none did */

/* What Ctrl-C ends, which depends on what would be lost. */
static volatile sig_atomic_t interrupt_mode;
enum {
    INTERRUPT_EXITS,  /* the process, at once */
    INTERRUPT_PRINTS, /* the process, after 0.1 s in which the text so far is printed */
    INTERRUPT_SAVING, /* the process, when a file that is half written has been removed */
    INTERRUPT_REPLY   /* a chat: only what it is doing */
};

/* Several machines (section 12): each process, a rank, runs this program, and all make the same calls
 * of the library. So what depends on a machine, its files or its terminal is rank 0's, or is decided
 * by all together. The command `llama` is one rank: there these functions do nothing. */
static struct {
    int rank, ranks, local; /* this process; all processes; those on this machine */
    int cores, bound;       /* of this machine; those that this process may use */
    llama_gather_fn gather; /* NULL: this is not llama-mpi */
    uint64_t done;          /* what on_progress was given last */
    bool interrupted;       /* all ranks know that Ctrl-C ends their work */
    bool saves;             /* rank 0 writes a state: the others' answers do not count */
    bool waiting;           /* the others wait until it begins */
} machines = {.ranks = 1, .local = 1};

static _Noreturn void leave(int code); /* exit, on all ranks */
static void share(void *p, size_t n);  /* give rank 0's n bytes to all ranks */
static void share_bytes(bytes *b);     /* the same with an array */
static int shared(int value);          /* return rank 0's value */
static double most(double value);      /* return the largest value of all ranks */
static int cancelled(const char *what, uint64_t done);

/* ---- Platform: what the command needs from the operating system ---- */

/* Only the sections named Platform make system calls or ask which system it is. Section 11 has the
 * bodies, for POSIX and for Windows. Texts are UTF-8 on all systems. */
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#define NOGDI
#include <fcntl.h>
#include <io.h>
#include <windows.h>
#include <shellapi.h>                                                 /* needs windows.h */
__declspec(dllimport) BOOLEAN NTAPI SystemFunction036(void *, ULONG); /* called RtlGenRandom */
#define HOME_FOLDER "USERPROFILE"
#define PRINTF      __MINGW_PRINTF_FORMAT /* the rules of printf that gcc checks */
#else
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#define HOME_FOLDER "HOME"
#define PRINTF      printf
#endif

static struct terminal {
#if defined(_WIN32)
    DWORD saved[3];      /* the modes of stdin, stdout and stderr before */
    bool is[3];          /* which of them are consoles */
    bool draws;          /* control sequences work */
    UINT code_page;      /* of output, before */
    HANDLE keys, typed;  /* the console; the pipe of begin_typing */
    char queue[16];      /* the bytes of a key */
    size_t at, n_queued; /* of the next byte in the queue; of its end */
    wchar_t half;        /* a surrogate whose other half is still to come; 0: none */
#else
    struct termios saved;          /* the terminal's mode before the chat */
    volatile sig_atomic_t wanted;  /* the chat goes on, so the terminal should have its mode */
    volatile sig_atomic_t taken;   /* the terminal has the chat's mode */
    volatile sig_atomic_t signals; /* what take_terminal was given last */
#endif
    volatile sig_atomic_t resized, resumed; /* the line has to be drawn again */
} terminal;

/* Make the standard streams binary and, on Windows, its console speak UTF-8. Returns the arguments. */
static char **begin_process(int *argc, char **argv);
/* Return a variable of the environment, or NULL. The text stays valid. */
static const char *environment(const char *name);
static double now(void); /* seconds, of a clock that is never set */
static void pause_for(int milliseconds);
static bool random_bytes(void *to, size_t n); /* false: the system has none */
static bool start_thread(void (*work)(void)); /* which nobody waits for */

/* Return what a path is. Links are followed. */
enum { NO_FILE, FOLDER, OTHER_FILE, REGULAR_FILE, EMPTY_FILE };
static int file_kind(const char *path);
/* Open a file for reading; NULL with errno set on failure. */
static FILE *open_file(const char *path);
/* Open a file for writing, which is made or emptied; NULL with errno set on failure. */
static FILE *create_file(const char *path);
/* Make a folder, unless it is there. Returns false with errno set on failure. */
static bool make_directory(const char *path);
/* Return whether a file can be replaced by a new one: whether its folder is writable. If the file is a
 * link, that of its target. False with errno set. */
static bool can_replace(const char *name);

/* Return whether a file's name is another name of stdin, such as /dev/stdin. */
static bool is_stdin(const char *path);
/* Return whether stdin is a file, a pipe or a socket. */
static bool stdin_has_document(void);
/* Wait for stdin to have bytes, or its end. Returns 0 if it has none in time, -1 after a signal. */
static int wait_for_input(int milliseconds);
/* Let stdin be read as what is typed at a terminal; call it before the first read. */
static void begin_typing(void);

/* Return whether the last write to stdout failed because nobody reads the pipe any more. */
static bool reader_is_gone(void);

static bool is_terminal(FILE *);
static bool is_dumb(void); /* the terminal understands no control sequences */
static void screen_size(FILE *, size_t *rows, size_t *columns);
static int character_width(int32_t c); /* in columns */
/* For the line editor: take the terminal for the chat, in which keys come as they are pressed and
 * nothing is echoed. Returns false if the terminal cannot do that. */
static bool start_editor(void);
/* Give the chat's mode to the terminal. If `signals` is set, Ctrl-C, Ctrl-Z and Ctrl-\ send signals;
 * else they come as bytes, as all other keys do. */
static void take_terminal(bool signals);
/* Give the terminal the mode that it had, for good. Safe in a signal handler. */
static void restore_terminal(void);
static void send_sequence(const char *sequence); /* to the terminal */
static int read_key(int milliseconds);           /* a byte or a KEY_ of section 10 */
static bool key_waits(void);                     /* to be read */
static void send_key_signal(int key);            /* that Ctrl-Z or Ctrl-\ would send */

/* Let on_signal handle Ctrl-C and what else asks the process to end. */
static void catch_signals(void);
/* End the process as a signal asks. Safe in a signal handler. */
static void exit_by_signal(int signal_number);
/* The same 0.1 s later, if the process has not ended by then. */
static void exit_soon(void);
/* Let llama_handle_sigbus know if a file of weights was truncated while mapped. */
static void catch_lost_files(void);

static void on_signal(int n); /* section 1 */

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

/* Write the first character of a text to `out`, so that a terminal cannot act on it: ESC as ^[,
 * other control characters as <U+202E>, a byte that is not UTF-8 as <9B>. Returns the character's
 * length in the text. */
static size_t make_visible(const char *text, size_t n, char out[16]) {
    int32_t c;
    size_t size = llama_utf8_next(text, n, &c);
    if (!llama_is_control(c)) memcpy(out, text, size), out[size] = 0;
    else if (c < 0) snprintf(out, 16, "<%02X>", (unsigned)(unsigned char)*text);
    else if (c < 0x80) snprintf(out, 16, "^%c", (int)c ^ 0x40);
    else snprintf(out, 16, "<U+%04lX>", (unsigned long)c);
    return size;
}

/* Print text so that a terminal cannot act on it. With `lines`, newlines and tabs are printed as
 * they are. */
static void put_visible(FILE *f, const char *text, size_t n, bool lines) {
    for (size_t i = 0, size = 1; i < n; i += size, size = 1) {
        char out[16] = {text[i]};
        if (!lines || (text[i] != '\n' && text[i] != '\t'))
            size = make_visible(text + i, n - i, out);
        fputs(out, f);
    }
}

/* Print text on stdout as a JSON string. A byte that is not UTF-8 becomes <0xNN>, its value, if
 * `names_bytes` is set, else U+FFFD. */
static void put_json_bytes(const char *text, size_t n, bool names_bytes) {
    putchar('"');
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c;
        size = llama_utf8_next(text + i, n - i, &c);
        if (c == '"' || c == '\\') printf("\\%c", (int)c);
        else if (c < 0 && names_bytes) printf("<0x%02X>", (unsigned)(unsigned char)text[i]);
        else if (llama_is_control(c)) printf("\\u%04x", c < 0 ? 0xfffdU : (unsigned)c);
        else fwrite(text + i, 1, size, stdout);
    }
    putchar('"');
}

static void put_json(const char *text, size_t n) { put_json_bytes(text, n, false); }

/* Print `text`, which ends with a name, and a number as JSON: null if it is not finite. */
static void put_number(const char *text, double v) {
    if (isfinite(v)) printf("%s\": %.9g", text, v);
    else printf("%s\": null", text);
}

/* Erase the progress bar, if one is on the screen. */
static void clear_progress(void) {
    if (run.progress.print_time > 0) fputs("\r\033[K", stderr);
    run.progress.print_time = 0;
}

/* Handle a signal that asks to end. A second one ends the process at once, except in a chat. Only saving is ended with care by SIGTERM and SIGHUP. */
static void on_signal(int n) {
    int mode = n == SIGINT || interrupt_mode == INTERRUPT_SAVING ? interrupt_mode : INTERRUPT_EXITS;
    bool again = interrupted && mode != INTERRUPT_REPLY;
    if (again || mode == INTERRUPT_EXITS) exit_by_signal(n);
    interrupted = n;
    if (mode == INTERRUPT_PRINTS) exit_soon();
}

/* Print one line on stderr. */
__attribute__((format(PRINTF, 1, 2))) static void say(const char *format, ...) {
    char *text = run.message;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof run.message, format, args);
    va_end(args);
    clear_progress();
    fputs("llama: ", stderr);
    put_visible(stderr, text, strlen(text), false); /* arguments may hold control characters */
    fputc('\n', stderr);
}

#define note(...)      (options.quiet ? (void)0 : say(__VA_ARGS__)) /* a remark, not an error */
#define die(code, ...) (say(__VA_ARGS__), leave(code))
#define refuse(...)    die(EXIT_USAGE, __VA_ARGS__)

/* Exit after Ctrl-C, on a new line of the terminal. */
static void exit_interrupted(void) {
    if (run.progress.terminal) fputs(run.progress.print_time > 0 ? "\r\033[K" : "\n", stderr);
    leave(EXIT_INTERRUPTED);
}

/* If a library call failed, print its error text and exit with the code of its status. Ctrl-C
 * exits without a text. */
static void exit_on_error(int status, const char *text) {
    int code = EXIT_RUN;
    if (status == LLAMA_OK) return;
    for (int i = 0; i < EXIT_CODES; i++)
        if (exit_codes[i].statuses[0] == status || exit_codes[i].statuses[1] == status)
            code = exit_codes[i].code;
    if (code == EXIT_INTERRUPTED) exit_interrupted();
    die(code, "%s", text);
}

/* Flush stdout; exit if that fails. A closed pipe is not reported. Ctrl-C while a full pipe blocks
 * counts as Ctrl-C. */
static void flush_stdout(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return;
    if (errno == EINTR && interrupted) leave(EXIT_INTERRUPTED);
    if (reader_is_gone()) leave(EXIT_RUN);
    die(EXIT_RUN, "stdout cannot be written: %s", strerror(errno));
}

/* Write generated text to stdout: unchanged, or made visible if stdout is a terminal. */
static void write_text(const char *text, size_t n) {
    if (is_terminal(stdout)) put_visible(stdout, text, n, true);
    else fwrite(text, 1, n, stdout);
    flush_stdout();
}

/* ---- 2. Memory ---- */

struct block {
    block *next;
    long double data[]; /* aligned for any type, as C11's max_align_t is */
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
    if (!b->text || b->capacity <= b->n + n) {
        char *larger = allocate(b->capacity = 2 * (b->n + n) + 64);
        if (b->text) memcpy(larger, b->text, b->n);
        b->text = larger;
    }
    if (n) memcpy(b->text + b->n, text, n);
    b->text[b->n += n] = 0;
}

/* Return the text up to the next of some separators, which becomes a NUL; *rest becomes what comes
 * after it, or NULL. Returns NULL if *rest is NULL. */
static char *next_field(char **rest, const char *separators) {
    char *field = *rest, *end = field ? field + strcspn(field, separators) : NULL;
    if (field) *rest = *end ? end + 1 : NULL;
    if (end) *end = 0;
    return field;
}

/* Remove the bytes from position n on. */
static void cut(bytes *b, size_t n) { append(b, "", 0), b->text[b->n = n] = 0; }

/* ---- 3. Command line ---- */

/* Printed by `help complete` and by /help. */
#define CHAT_COMMANDS                                                                              \
    "  /undo         remove the last line and its reply\n"                                         \
    "  /retry        reply to the last line again, with the next seed\n"                           \
    "  /reset        remove everything after the prompt\n"                                         \
    "  /save FILE    save the chat in FILE\n"                                                      \
    "  /load FILE    replace the chat by the one saved in FILE (~/ is your home)\n"                \
    "  /stats        print speed, memory, kernels, seed and positions\n"                           \
    "  /help         print these commands\n"                                                       \
    "  /exit         end the chat\n"                                                               \
    "  //TEXT        send /TEXT to the model\n"

static const char complete_help[] =
    "Prints the text that the model generates after the prompt. With -i: a chat.\n"
    "\n"
    "The prompt is the argument PROMPT, the TEXT of -p or the content of -f FILE.\n"
    "Without any of these, it is read from stdin, if stdin is not a terminal. With\n"
    "-f - a terminal is read too, until Ctrl-D. If a file or stdin ends with a\n"
    "newline, that newline is removed. The text ends before a --stop text or a\n"
    "--stop-id token, at a token that ends texts (</s>), after -n tokens or when the\n"
    "context is full. A note on stderr reports a full context.\n"
    "\n"
    "If a prompt is given and stdin is a pipe or a file, the text of stdin comes\n"
    "first, unchanged, and the prompt after it: cat doc | llama MODEL \"Summary:\".\n"
    "Each of several prompts gets that text. A pipe that gives nothing within half a\n"
    "second is not read, and a note says so; -f - waits. In a shell's loop that reads\n"
    "a file, give </dev/null.\n"
    "\n"
    "Several prompts: repeat -p and -f, or give --lines or -0: they split the content\n"
    "of -f or stdin into prompts. --lines is refused if nothing is split: the prompt\n"
    "is an argument, or there is only -p. With -k each prompt gets several texts. Up\n"
    "to 64 texts are generated in each pass over the weights.\n"
    "Batching never changes the output: each text is bit-identical to running its\n"
    "prompt alone with the same seed. (With --fast its bits may differ.) Texts are\n"
    "printed in input order. Each is followed by a newline, or with -0 by a NUL.\n"
    "A prompt that does not fit in the context gets an error on stderr and an empty\n"
    "text; the others are run, and the exit code is 5. (Messages count prompts from\n"
    "1, the results of --json from 0.)\n"
    "\n"
    "With --json each text is printed as a JSON object, on a line of its own:\n"
    "  prompt               the index of the prompt, from 0\n"
    "  sample               the index of the text among the prompt's texts, from 0\n"
    "  line                 with --lines: the number of the prompt's line, from 1\n"
    "  error                why the prompt was not run; no other key follows\n"
    "  text                 the generated text\n"
    "  tokens               the ids of the generated tokens\n"
    "  finish               why it ended: eos, stop, length, context, interrupted\n"
    "  seed                 the seed that generates the same text again\n"
    "  prompt_tokens        the number of tokens in the prompt\n"
    "  first_token_seconds  from opening the model to the first token\n"
    "  seconds              from opening the model to the end of the text\n"
    "  passes               passes over the weights after which tokens were drawn\n"
    "  drafted, accepted    tokens guessed and evaluated; guesses that were right\n"
    "  tokens_per_pass      (passes + accepted) / passes; these four may vary\n"
    "  logprobs             with --logprobs: a list with an object for each token\n"
    "An object of logprobs has token (an id), text, logprob (its natural logarithm of\n"
    "p) and top: K objects of the most likely tokens, with token, text and logprob.\n"
    "Bytes of a token that are not a whole character are written as <0xE2>.\n"
    "\n"
    "complete guesses the next tokens: those that followed the same tokens before, or\n"
    "those that the model of --draft draws. It evaluates guesses together with the\n"
    "last token of the text, if that is faster. No guess changes a byte of a text.\n"
    "With --fast on a processor with AMX nothing is guessed.\n"
    "\n"
    "--repeat-penalty R divides the positive logits of tokens that occurred among the\n"
    "last --repeat-last-n tokens by R, and multiplies negative logits by R.\n"
    "\n"
    "Special tokens: text is data, so \"<s>\" in a prompt is ordinary tokens, and a\n"
    "note says so. With --special the texts of control and added tokens (<s>, </s>,\n"
    "<|im_end|>, ...) are those tokens, also in chat lines; a prompt that begins with\n"
    "<s> gets no second one. In a chat, the token that ended a reply stays in it.\n"
    "With --ids, a prompt is token ids between white space, with nothing put before.\n"
    "If a prompt ends inside a character, the generated text begins with it.\n"
    "\n";

static const char chat_help[] =
    "Chat: -i reads lines from stdin. Each line is appended to the text so far, and\n"
    "so is the model's reply to it. --in-prefix goes before the line and --in-suffix\n"
    "after it. Without --in-prefix the line starts on a new line. If a line ends with\n"
    "a backslash, the next line is part of it. A reply ends like any generated text,\n"
    "or with Ctrl-C. Ctrl-D ends the chat. If the context is full, a message says so\n"
    "and the line is not added. At a terminal, the arrow keys, Home, End and Ctrl-A,\n"
    "-E, -U, -K, -W edit the line, and the newlines of pasted text do not end it.\n"
    "(TERM=dumb turns this off.) A line that starts with / is a chat command:\n" CHAT_COMMANDS "\n"
    "No error in a line or a chat command ends the chat: a message says what is\n"
    "wrong, and the next line is read. If stdin is not a terminal, the exit code is\n"
    "that of the first error: 5 if a line does not fit, 1 if a file cannot be loaded\n"
    "or saved, 2 for any other.\n"
    "\n"
    "--prompt-cache loads the KV cache from FILE before the run and saves it there\n"
    "after the run. Tokens at the start of a prompt that FILE holds are not evaluated\n"
    "again. The output stays bit-identical. If FILE does not exist, is empty or holds\n"
    "another model's state, a new state is written. If its state is longer than the\n"
    "context, it is neither used nor changed. Any other file is an error, and so is\n"
    "a folder that cannot be written. After Ctrl-C, FILE stays as it was.\n";

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
    "that the label names.\n"
    "\n"
    "An item that does not fit in the context gets an error on stderr with its number\n"
    "and its line, both from 1, and a row `error` with its number from 0 and the\n"
    "reason. The others are scored, and the exit code is 5. If a line is not a valid\n"
    "item, the input is refused before anything is scored, with exit code 2.\n"
    "\n"
    "With --json each item is a JSON object, on a line of its own:\n"
    "  item           the index of the item, from 0\n"
    "  line           the number of its line in the input, from 1\n"
    "  error          why the item was not scored; no other key follows\n"
    "  label          the index of the right continuation; null if unknown\n"
    "  continuations  a list with an object for each: logprob, tokens, bytes, greedy,\n"
    "                 answer_logprob (its logprob after \"Answer:\")\n"
    "  pick           an object: sum, token, byte, answer, each an index\n"
    "The last line is an object accuracy: an object for each rule, with accuracy,\n"
    "standard_error, right and labelled (two numbers of items). -q prints that alone.\n";

static const char ppl_help[] =
    "Prints the perplexity of a text.\n"
    "\n"
    "Perplexity is exp of the mean of -log p(token | the tokens before it in its\n"
    "window). A window has --ctx tokens. Windows begin --stride tokens apart. Each\n"
    "token is scored once, in the first window that contains it, unless it is the\n"
    "first token of that window. The text begins with <s>, unless --no-bos is given\n"
    "or the model's files say otherwise.\n"
    "\n"
    "Output:\n"
    "  perplexity  the perplexity +- its standard error\n"
    "  nll         the mean of -log p, in nats and in bits; the bits for each byte\n"
    "              of the text, if every token but <s> was scored\n"
    "  tokens      how many of all tokens were scored; the length of the windows and\n"
    "              the distance between their starts\n"
    "With --json these are one JSON object with the keys perplexity, standard_error,\n"
    "nll (nats a token), bits_per_token, bits_per_byte (null if a token was not\n"
    "scored), scored, tokens, context (of a window) and stride.\n";

static const char tokenize_help[] =
    "Prints the token ids of a text, separated by spaces, on one line. With --lines\n"
    "or -0 there may be many texts: each has its own line.\n"
    "\n"
    "The arguments are joined by single spaces. Without a text, stdin is read, if\n"
    "stdin is not a terminal. With -f - a terminal is read too, until Ctrl-D. A\n"
    "newline at the end of a file or of stdin is part of the text. With --decode the\n"
    "input is token ids, separated by white space, and their text is printed. With\n"
    "--special, the texts of special tokens are those tokens, also with --decode.\n"
    "If a text is given and stdin is a pipe or a file, the text of stdin comes first.\n";

static const char info_help[] =
    "Prints the model's format, shape, constants, number of parameters, size and\n"
    "tokenizer. Also prints the memory needed for the context of -c, and the kernels\n"
    "that would run. If the model does not fit in memory, prints how much of it is\n"
    "kept, how much every pass reads from the files and how long that takes; for\n"
    "this it reads some weights, at most two seconds long. Else it reads none. Give\n"
    "the -c that you will use: a short context leaves more memory to weights.\n"
    "\n"
    "With --ranks N, or under mpirun, also prints what each of N machines needs that\n"
    "divide the model's rows (llama-mpi): weights, KV cache, memory of a session; and\n"
    "how often and how many bytes they exchange for each token.\n"
    "\n"
    "With --json these are an object. Its keys are model, format, dtype, shards,\n"
    "dim, layers, heads, kv_heads, head_dim, hidden, vocab, norm_eps, rope_theta,\n"
    "family, rope_scaling (none, linear, llama3, divisors), rope_factor, rope_low,\n"
    "rope_high, rope_original (0 if not of llama3), vocabulary (its kind),\n"
    "parameters, file_bytes, tokenizer (true or false), bos, eos (null: none), ends\n"
    "(all tokens that end a text), add_bos (whether <s> is put before a text),\n"
    "trained_context, context, kv_bytes_per_token, memory_needed, memory (bytes),\n"
    "weights (map, lock or stream), kept_bytes, pass_bytes (read in every pass) and\n"
    "read_bytes_per_second, all 0 if weights are not streamed, and kernels. With\n"
    "--ranks also ranks (an object for each: weight_bytes, kv_bytes, session_bytes,\n"
    "the KV cache included), gathers_per_token and, sent by a rank,\n"
    "sent_bytes_per_token.\n";

static const char check_help[] =
    "Reads every weight. Reports the first of these faults, and exits with code 3:\n"
    "  - a number that is not finite\n"
    "  - zeros that an interrupted download left: 80 KiB in a row in a weight of a\n"
    "    layer, 1,040 KiB in another weight, or all of a smaller weight\n"
    "  - a file with another MD5 sum than Meta's checklist.chk has for it\n"
    "Shapes and sizes are verified whenever a model is opened. Not noticed, unless\n"
    "checklist.chk has the file's sum: numbers that were changed to other finite\n"
    "numbers. The CRC-32 sums in .pth and .bin files are not compared.\n";

static const char trace_help[] =
    "Evaluates the prompt and prints one line for each output of the model's modules.\n"
    "\n"
    "Modules are named as in Meta's code. A NAME selects that module and everything\n"
    "inside it: layers.3 selects layer 3. Without a NAME all are printed.\n"
    "Each line has the name, the shape, the mean, the root mean square (rms), the\n"
    "CRC-32 of the float32 bytes and the first numbers, up to four. Shapes are\n"
    "[tokens, columns], or [heads, tokens, positions] of the scores and probabilities\n"
    "of attention. A position after the token has the score -inf, which is not\n"
    "counted in the mean and the rms.\n"
    "\n"
    "Besides the modules' outputs there are, in each layer:\n"
    "  attention.xq, attention.xk          queries and keys, after RoPE\n"
    "  attention.scores, attention.probs   before and after the softmax\n"
    "  attention.output                    the mixed values, before wo\n"
    "  h                                   the residual stream after attention\n"
    "  feed_forward.silu                   silu(w1 x)\n"
    "  feed_forward.gated                  silu(w1 x) * w3 x\n"
    "  (the layer's own name)              the residual stream after the layer\n"
    "\n"
    "With --json each line is an object with the keys name, shape, mean, rms, crc32\n"
    "and first. Numbers that are not finite are null.\n";

static const char bench_help[] =
    "Measures the speed of this model on this machine. Each run evaluates a prompt of\n"
    "128 tokens at once, then 32 tokens one after the other as in generation, without\n"
    "guesses. Prints the highest speeds of five runs.\n"
    "\n"
    "With --json these are one JSON object with the keys prompt_tokens,\n"
    "generated_tokens, prompt_tokens_per_second, generated_tokens_per_second,\n"
    "weight_bytes_per_second and kernels.\n";

static const char help_help[] =
    "Prints the first screen. With COMMAND, prints everything about that command.\n"
    "`llama help all` prints everything about all commands, and the exit codes.\n"
    "\n"
    "To complete commands, options and their values with the Tab key, add a line to\n"
    "your shell's startup file:\n"
    "  ~/.bashrc                    eval \"$(llama --completion bash)\"\n"
    "  ~/.zshrc, after compinit     eval \"$(llama --completion zsh)\"\n"
    "  ~/.config/fish/config.fish   llama --completion fish | source\n";

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

/* The options. The help of an option is one line that makes sense alone: people find it with grep.
 * RANGE and AT give offset, min and max. */
#define RANGE(field, min, max) offsetof(struct options, field), min, max
#define AT(field)              RANGE(field, 0, 0)
enum {
    NO_LIMIT = 1 << 30,
    MAX_CONTEXT = 1 << 20, /* positions */
    MAX_LOGPROBS = 100,
    MAX_TOGETHER = 64 /* texts in one pass over the weights: see llama_generate */
};

static const struct {
    int commands; /* the set of commands that have the option */
    const char *names;
    enum {
        FLAG,
        STRING,
        INTEGER,
        REAL,
        BYTES,
        SEED,
        STOP_TEXT,
        STOP_ID,
        PROMPT_TEXT,
        PROMPT_FILE
    } kind;
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
    {COMPLETE | TOKENIZE, "--lines", FLAG, AT(lines),
     "each line of a file or of stdin is a prompt"},
    {COMPLETE | TOKENIZE, "-0, --null", FLAG, AT(null),
     "prompts read and texts printed end with NUL"},
    {COMPLETE, "-k, --samples N", INTEGER, RANGE(samples, 1, NO_LIMIT),
     "N texts per prompt, seeds S, S + 1, ... (default 1)"},
    {COMPLETE | SCORE | PPL | INFO | TRACE | BENCH, "--json", FLAG, AT(json),
     "print each result as a JSON object on its own line"},
    {COMPLETE, "--logprobs K", INTEGER, RANGE(logprobs, 1, MAX_LOGPROBS),
     "with --json: log-probabilities of the K best tokens"},
    {COMPLETE, "-i, --interactive", FLAG, AT(interactive), "chat: reply to each line of stdin"},
    {COMPLETE, "--in-prefix TEXT", STRING, AT(in_prefix),
     "with -i: text before each line (default: a newline)"},
    {COMPLETE, "--in-suffix TEXT", STRING, AT(in_suffix),
     "with -i: text after each line (default: a newline)"},
    {COMPLETE, "-r, --stop TEXT", STOP_TEXT, AT(stops),
     "end the output before TEXT; may be given repeatedly"},
    {COMPLETE, "--stop-id N", STOP_ID, AT(stop_ids),
     "end the output before token N; may be repeated"},
    {COMPLETE | COMMON, "-n, --n-predict N", INTEGER, RANGE(max_tokens, -1, NO_LIMIT),
     "generate up to N tokens (default 256; -1: no limit)"},
    {COMPLETE | SCORE | PPL | INFO | TRACE | COMMON, "-c, --ctx, --ctx-size N", INTEGER,
     RANGE(session.context, 1, MAX_CONTEXT), "context length in tokens (default: the model's)"},
    {PPL, "--stride N", INTEGER, RANGE(stride, 1, NO_LIMIT),
     "tokens from one window to the next (default: --ctx)"},
    {COMPLETE | PPL | TRACE, "--ids", FLAG, AT(ids),
     "the text is token ids, as `llama tokenize` prints"},
    {COMPLETE | PPL | TOKENIZE | TRACE, "--special", FLAG, AT(special),
     "read <s>, </s> and added tokens in texts as tokens"},
    {COMPLETE | COMMON, "-s, --seed N", SEED, AT(sampler.seed),
     "sampling seed: same seed, same text (default random)"},
    {COMPLETE | COMMON, "--temp, --temperature T", REAL, RANGE(sampler.temperature, 0, 1e6),
     "sampling temperature (default 0.8; 0: greedy)"},
    {COMPLETE | COMMON, "--top-p P", REAL, RANGE(sampler.top_p, 0, 1),
     "nucleus sampling with mass P (default 0.95; 1: off)"},
    {COMPLETE, "--top-k K", INTEGER, RANGE(sampler.top_k, 0, NO_LIMIT),
     "keep only the K most likely tokens (default 0: off)"},
    {COMPLETE, "--min-p P", REAL, RANGE(sampler.min_p, 0, 1),
     "drop tokens less likely than P x the best (0: off)"},
    {COMPLETE, "--repeat-penalty R", REAL, RANGE(sampler.repeat_penalty, 0, 1e6),
     "penalize tokens that occurred (default 1: off)"},
    {COMPLETE, "--repeat-last-n N", INTEGER, RANGE(sampler.repeat_last, -1, NO_LIMIT),
     "penalize the last N tokens (default 64; -1: all)"},
    {COMPLETE | PPL | TRACE, "--no-bos", FLAG, AT(no_bos),
     "do not put the start token <s> before the text"},
    {COMPLETE, "--ignore-eos", FLAG, AT(ignore_eos),
     "never generate </s> or another token that ends texts"},
    {COMPLETE, "--echo", FLAG, AT(echo), "print the prompt before the generated text"},
    {COMPLETE, "--prompt-cache FILE", STRING, AT(cache_path),
     "keep the KV cache in FILE for later runs to reuse"},
    {TRACE, "--npy DIR", STRING, AT(npy_folder),
     "write each array to DIR/NAME.npy, for numpy.load"},
    {TOKENIZE, "--count", FLAG, AT(count), "print only the number of tokens"},
    {TOKENIZE, "--decode", FLAG, AT(decode), "turn token ids into text"},
    {TOKENIZE, "--bos", FLAG, AT(bos), "put the start token <s> before the other tokens"},
    {MODEL, "--tokenizer FILE", STRING, AT(model.tokenizer),
     "tokenizer.model, .json or .bin (default: model's)"},
    {EVALUATE | COMMON, "-t, --threads N", INTEGER, RANGE(session.threads, 1, 1024),
     "number of threads (default: all cores available)"},
    {EVALUATE, "-b, --batch-size N", INTEGER, RANGE(session.batch, 1, 1 << 20),
     "tokens in a pass (default 256; 512 if streamed)"},
    {MODEL, "--rope-theta X", REAL, RANGE(model.rope_theta, 1, 1e30),
     "base of RoPE (default: what the model's files say)"},
    {MODEL, "--memory MODE", STRING, AT(memory_mode),
     "weights: auto (default), map, lock or stream"},
    {MODEL, "--memory-limit SIZE", BYTES, AT(model.memory_limit),
     "for weights and KV cache (default: what is free)"},
    {EVALUATE, "--kernels NAME", STRING, AT(session.kernels),
     "scalar, avx2, avx512 or neon (default: the fastest)"},
    {EVALUATE, "--fast", FLAG, AT(fast), "use AMX for prompts: the last bits of results differ"},
    {INFO, "--ranks N", INTEGER, RANGE(ranks, 1, MAX_CONTEXT),
     "also print what each of N machines needs (llama-mpi)"},
    {COMPLETE, "--draft MODEL", STRING, AT(draft_path),
     "a smaller model of the same vocabulary, for guesses"},
    {COMPLETE, "--no-lookup", FLAG, AT(no_lookup),
     "do not guess tokens from the text (same output)"},
    {COMPLETE | SCORE | PPL | COMMON, "--stats", FLAG, AT(stats),
     "print speed, memory, kernels and seed on stderr"},
    {MODEL, "-q, --quiet", FLAG, AT(quiet), "no notes, no bar; score prints accuracy only"},
    {MODEL | HELP, "-h, --help", FLAG, AT(help), "print the help of the command"},
    {HELP, "--version", FLAG, AT(version), "print version, compiler and kernels"},
    {HELP, "--completion SHELL", STRING, AT(shell),
     "print a completion script for bash, zsh or fish"},
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };
_Static_assert(OPTIONS <= 64, "options.given has a bit for each");

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
    refuse("%s: no such option; %s%.*s%s%s", text, length ? "did you mean " : "", (int)length,
           nearest, length ? "? " : "",
           strchr(text, ' ') ? "a text that begins with - goes after --"
                             : "llama help all lists them");
}

/* Parse the value of row i into its INTEGER or REAL. Exits with an error if it is out of range. */
static void set_number(size_t i, const char *value) {
    void *at = (char *)&options + option_table[i].offset;
    bool whole = option_table[i].kind == INTEGER;
    double min = option_table[i].min, max = option_table[i].max;
    char *end;
    double v = strtod(value, &end);
    if (*end || end == value || !(v >= min && v <= max) || (whole && v != floor(v)))
        refuse("%s: '%s' is not a %snumber from %.10g to %.10g%s", option_table[i].names, value,
               whole ? "whole " : "", min, max,
               at == &options.session.threads ? "; -t is threads, the temperature is --temp" : "");
    if (whole) *(int *)at = (int)v;
    else *(float *)at = (float)(v > 0 && v < 1e-30 ? 1e-30 : v); /* not 0, which may mean off */
}

/* Parse a size of memory: a number with a unit, 800M, 1.5G, 16GB or 16GiB. Units are powers of 1024.
 * Exits with an error if it is not valid. */
static uint64_t parse_size(const char *names, const char *value) {
    static const char units[] = "KMGT";
    size_t digits = strspn(value, "0123456789.");
    const char *unit = value[digits] ? strchr(units, toupper((unsigned char)value[digits])) : NULL;
    const char *rest = unit ? value + digits + 1 : "?";
    double size = strtod(value, NULL);
    for (; unit && unit >= units; unit--) size *= 1024;
    if ((*rest && strcasecmp(rest, "B") != 0 && strcasecmp(rest, "iB") != 0) || !digits ||
        !(size >= 1 && size < 1e18))
        refuse("%s: '%s' is not a size such as 800M or 16G (K, M, G: powers of 1024)", names,
               value);
    return (uint64_t)size;
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
        long long id = strtoll(value, &end, 10);
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
    case BYTES: *(uint64_t *)at = parse_size(option_table[i].names, value); break;
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

/* Return what may be meant by the name of a command that does not exist: a command that begins like
 * it, one of other programs' names, or the most similar command. Capitals count as small letters.
 * NULL: nothing. */
static const char *similar_command(const char *text) {
    static const char *const other_names[][2] = {{"chat", "complete -i"},
                                                 {"run", "complete"},
                                                 {"generate", "complete"},
                                                 {"perplexity", "ppl"},
                                                 {"verify", "check"},
                                                 {"encode", "tokenize"},
                                                 {"eval", "score"},
                                                 {"version", "--version"},
                                                 {"decode", "tokenize --decode"},
                                                 {"completion", "--completion"}};
    const char *nearest = NULL;
    size_t n = strlen(text), min = n < 4 ? 2 : 3, d;
    bytes lower = {.n = 0};
    append(&lower, text, n);
    for (size_t i = 0; i < n; i++) lower.text[i] = (char)tolower((unsigned char)text[i]);
    text = lower.text;
    for (size_t i = 0; i < sizeof other_names / sizeof *other_names; i++)
        if (strcmp(text, other_names[i][0]) == 0) return other_names[i][1];
    for (const command *c = commands; c < commands + COMMANDS; c++) {
        size_t k = strlen(c->name), common = n < k ? n : k;
        if (common > 1 && strncmp(text, c->name, common) == 0) return c->name;
        if (n <= 2 * k && (d = edit_distance(text, n, c->name, k)) < min)
            min = d, nearest = c->name;
    }
    return nearest;
}

/* Exit with an error if the first argument looks like a mistyped command: it is no file, and
 * nothing else names the model. */
static void check_first_argument(void) {
    const char *first = options.n_arguments ? options.arguments[0] : "";
    if (!options.command_implied || !*first || options.model_path || options.default_model) return;
    if (strpbrk(first, "./\\") || file_kind(first) != NO_FILE || !similar_command(first)) return;
    refuse("%s: neither a command nor a model; did you mean %s? llama -h lists the commands", first,
           similar_command(first));
}

/* Exit with an error if an option was given that the command does not have. */
static void check_options(void) {
    for (size_t i = 0; i < OPTIONS; i++)
        if ((options.given >> i & 1) && !(option_table[i].commands & options.command->bit))
            refuse("%s: not an option of %s; see llama help %s", option_table[i].names,
                   options.command->name, options.command->name);
    if (options.ids && options.special) refuse("--special: not with --ids: ids are not text");
}

/* Parse the command line into `options`. The first argument may be a command; "--" ends the
 * options. */
static void read_options(int argc, char **argv) {
    size_t max = (size_t)argc + 1;
    bool ended = false;
    options = (struct options){.max_tokens = 256, .samples = 1, .in_prefix = "", .in_suffix = "\n"};
    options.model.size = sizeof options.model, options.session.size = sizeof options.session;
    options.default_model = environment("LLAMA_MODEL");
    bytes model = {.n = 0}; /* rank 0's, as mpirun may leave it out elsewhere */
    if (options.default_model) append(&model, options.default_model, strlen(options.default_model));
    share_bytes(&model);
    options.default_model = model.n ? model.text : NULL;
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
            bool joined = text[1] != '-' && text[2] >= '0' && text[2] <= '9'; /* -n20 */
            size_t i = find_option(text, joined  ? 2
                                         : value ? (size_t)(value - text)
                                                 : strlen(text));
            if (joined) value = text + 1;
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
    if (options.help || options.version || options.shell) return;
    check_first_argument();
    check_options();
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
    printf("usage: llama %s %s\n\n%s%s\n", c->name, c->arguments, c->description,
           c->bit == COMPLETE ? chat_help : ""); /* C99's longest text has 4095 bytes */
    print_options(c->bit);
    printf("\nexample: %s\n", c->examples);
}

static void print_first_screen(void) {
    puts("usage: llama MODEL [PROMPT] [options]");
    for (const command *c = commands; c < commands + COMMANDS; c++)
        printf("  llama %-8s %-23s%s\n", c->name, c->arguments, c->summary);
    puts("\nMODEL is a folder in Meta's or Hugging Face's layout, a .gguf file or llama2.c's\n"
         ".bin file. Without MODEL, $LLAMA_MODEL is used. A pipe's text precedes PROMPT.\n");
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
    if (asked && options.n_arguments > 1)
        refuse("help takes one COMMAND; llama help all explains all of them");
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
    if (*name && !(one = find_command(name))) {
        const char *similar = similar_command(name);
        if (similar && *similar == '-') { /* an option of help */
            print_command(options.command);
            return;
        }
        refuse("%s: no such command; %s%s%sllama -h lists them", name,
               similar ? "did you mean " : "", similar ? similar : "", similar ? "? " : "");
    }
    if (one) print_command(one);
    else print_first_screen();
}

/* The values of options that have a fixed set of them. */
static const char *const option_values[][2] = {{"--kernels", "scalar avx2 avx512 neon"},
                                               {"--memory", "auto map lock stream"},
                                               {"--completion", "bash zsh fish"}};
enum { OPTION_VALUES = sizeof option_values / sizeof *option_values };

/* Return the fixed values of option row i, or NULL. */
static const char *values_of(size_t i) {
    size_t n = 0;
    for (int k = 0; k < OPTION_VALUES; k++, n = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            if (n == strlen(option_values[k][0]) && strncmp(name, option_values[k][0], n) == 0)
                return option_values[k][1];
    return NULL;
}

/* What a shell completes after an option. */
enum { NO_VALUE, FIXED_VALUE, FILE_NAME, FREE_VALUE };

/* Return what a shell completes after option row i. Nothing completes a free value, which is a
 * number or a text. */
static int value_kind(size_t i) {
    const char *names = option_table[i].names;
    if (option_table[i].kind == FLAG) return NO_VALUE;
    if (values_of(i)) return FIXED_VALUE;
    return strstr(names, " FILE") || strstr(names, " MODEL") ? FILE_NAME : FREE_VALUE;
}

/* Print the names of the options in the set `commands_of`, each after a space. If `kind` is not
 * negative, only those with this kind of value are printed. */
static void print_names(int commands_of, int kind) {
    for (size_t i = 0, n = 0; i < OPTIONS; i++, n = 0)
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            if ((option_table[i].commands & commands_of) && (kind < 0 || value_kind(i) == kind))
                printf(" %.*s", (int)n, name);
}

/* Print text inside single quotes of a shell; a colon or bracket of zsh's specifications and
 * fish's quotes get a backslash. */
static void print_quoted(const char *text, const char *special) {
    for (; *text; text++) {
        if (*text == '\'') fputs("'\\'", stdout);
        else if (strchr(special, *text)) putchar('\\');
        putchar(*text);
    }
}

/* bash and zsh alike: of the words typed so far, the first that is no option is the command, or a
 * model. What follows is a case for each command. */
static void print_command_search(const char *words) {
    printf("    for word in %s; do\n"
           "        case $word in -*) continue ;; ",
           words);
    for (const command *c = commands; c < commands + COMMANDS; c++)
        printf("%s%s", c == commands ? "" : "|", c->name);
    printf(") command=$word ;; esac\n"
           "        break\n"
           "    done\n"
           "    case $command in\n");
}

/* Print the names of the commands as the value of a variable of bash; `begin` is its beginning. */
static void print_command_names(const char *begin) {
    printf("%s", begin);
    for (const command *c = commands; c < commands + COMMANDS; c++) printf(" %s", c->name);
    putchar('\'');
}

/* bash: a function completes values after an option that has them, options after a -, and commands
 * or files as the first word. Other file names are what bash completes if it finds nothing. */
static void print_bash(void) {
    printf("_llama() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} word words= "
           "names=\n"
           "    COMPREPLY=()\n"
           "    if [ \"$cur\" = = ]; then cur=; fi\n"
           "    if [ \"$prev\" = = ]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
           "    case $prev in\n");
    for (int k = 0; k < OPTION_VALUES; k++)
        printf("    %s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n",
               option_values[k][0], option_values[k][1]);
    printf("    esac\n"
           "    case ' ");
    print_names(~0, FILE_NAME);
    printf(" ' in *\" $prev \"*) return ;; esac\n"
           "    case ' ");
    print_names(~0, FREE_VALUE);
    printf(" ' in *\" $prev \"*) compopt +o bashdefault +o default 2>/dev/null; return ;; esac\n"
           "    local command=complete\n");
    print_command_search("\"${COMP_WORDS[@]:1:COMP_CWORD-1}\"");
    for (const command *c = commands; c < commands + COMMANDS; c++) {
        printf("    %s) words='", c->name);
        print_names(c->bit, -1);
        printf("'");
        if (c->bit == HELP) print_command_names(" names='all");
        printf(" ;;\n");
    }
    printf("    esac\n"
           "    local IFS=$' \\n'\n"
           "    if [ \"$COMP_CWORD\" = 1 ]; then words+=' --version --completion'; fi\n"
           "    case $COMP_CWORD:$cur in\n"
           "    *:-*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n"
           "    1:*)");
    print_command_names(" names='");
    printf("\n"
           "        COMPREPLY=($(compgen -W \"$names\" -- \"$cur\")); IFS=$'\\n'\n"
           "        compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- \"$cur\")) ;;\n"
           "    *) COMPREPLY=($(compgen -W \"$names\" -- \"$cur\")) ;;\n"
           "    esac\n"
           "}\n"
           "complete -o bashdefault -o default -F _llama llama\n");
}

/* Print option row i as a specification of zsh's _arguments. An option that may be repeated has a
 * star; any other excludes its names. */
static void print_zsh_option(size_t i, int command_bit) {
    const char *names = option_table[i].names;
    int kind = (int)option_table[i].kind, value = value_kind(i);
    bool source = kind == PROMPT_TEXT || kind == PROMPT_FILE;
    bool repeats = kind == STOP_TEXT || kind == STOP_ID || (source && command_bit == COMPLETE);
    size_t n = 0, k = 0;
    for (const char *name = names; (name = next_name(name, &n));) {
        printf(repeats ? " '*" : " '(");
        for (const char *other = names; !repeats && (other = next_name(other, &k));)
            printf("%s%.*s", other == names ? "" : " ", (int)k, other);
        k = 0;
        printf("%s%.*s%s[", repeats ? "" : ")", (int)n, name,
               value == NO_VALUE ? ""
               : n > 2           ? "="
                                 : "+");
        print_quoted(option_table[i].help, "[]:\\");
        putchar(']');
        if (value == FIXED_VALUE) printf(":value:(%s)", values_of(i));
        if (value == FILE_NAME) printf(":file:_files");
        if (value == FREE_VALUE) printf(":value: ");
        putchar('\'');
    }
}

/* zsh: _arguments gets the options of the command, each with its help. */
static void print_zsh(void) {
    printf("#compdef llama\n"
           "_llama_first() {\n"
           "    local -a commands=(");
    for (const command *c = commands; c < commands + COMMANDS; c++) {
        printf("\n        '%s:", c->name);
        print_quoted(c->summary, ":\\");
        putchar('\'');
    }
    printf(")\n"
           "    _describe command commands\n"
           "    _files\n"
           "}\n"
           "_llama() {\n"
           "    local command=complete word\n");
    print_command_search("${words[2,CURRENT-1]}");
    for (const command *c = commands; c < commands + COMMANDS; c++) {
        printf("    %s) _arguments -s", c->name);
        for (size_t i = 0; i < OPTIONS; i++)
            if (option_table[i].commands & (c->bit == COMPLETE ? COMPLETE | HELP : c->bit))
                print_zsh_option(i, c->bit);
        printf(" '1:command or model:_llama_first' '*:%s' ;;\n",
               c->bit == HELP ? "command:_llama_first" : "file:_files");
    }
    printf("    esac\n"
           "}\n"
           "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -D -i; }\n"
           "compdef _llama llama\n");
}

/* fish: one line for each command and each option, with the commands under which it holds. */
static void print_fish(void) {
    printf("set -l llama_commands");
    for (const command *c = commands; c < commands + COMMANDS; c++) printf(" %s", c->name);
    putchar('\n');
    for (const command *c = commands; c < commands + COMMANDS; c++) {
        printf(
            "complete -c llama -n \"not __fish_seen_subcommand_from $llama_commands\" -a %s -d '",
            c->name);
        print_quoted(c->summary, "");
        printf("'\n");
    }
    for (size_t i = 0, n = 0; i < OPTIONS; i++, n = 0) {
        bool implied = option_table[i].commands & (COMPLETE | HELP); /* also without a command */
        printf("complete -c llama -n \"%s__fish_seen_subcommand_from", implied ? "not " : "");
        for (const command *c = commands; c < commands + COMMANDS; c++)
            if (implied != ((option_table[i].commands & c->bit) != 0)) printf(" %s", c->name);
        printf("\"");
        for (const char *name = option_table[i].names; (name = next_name(name, &n));)
            printf(n > 2 ? " -l %.*s" : " -s %.*s", (int)n - (n > 2 ? 2 : 1),
                   name + (n > 2 ? 2 : 1));
        if (values_of(i)) printf(" -x -a '%s'", values_of(i));
        else if (value_kind(i) == FILE_NAME) printf(" -r");
        else if (value_kind(i) == FREE_VALUE) printf(" -x");
        printf(" -d '");
        print_quoted(option_table[i].help, "\\");
        printf("'\n");
    }
    printf("complete -c llama -n \"__fish_seen_subcommand_from help\" -f -a \"all "
           "$llama_commands\"\n");
}

/* Print what a shell evaluates to complete commands, options, their values and file names. */
static void print_completion(void) {
    if (strcmp(options.shell, "bash") == 0) print_bash();
    else if (strcmp(options.shell, "zsh") == 0) print_zsh();
    else if (strcmp(options.shell, "fish") == 0) print_fish();
    else refuse("--completion: '%s' is not bash, zsh or fish", options.shell);
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

/* Add one text to the inputs, after the document that stdin has; with -e, unescape it. */
static void add_input(const char *text, size_t n) {
    append(&run.input_memory, &(input){.n_tokens = 0}, sizeof *run.inputs);
    run.inputs = (void *)run.input_memory.text;
    bytes *b = &run.inputs[run.n_inputs++].text;
    append(b, run.document.text, run.document.n);
    append(b, text, n);
    size_t begin = run.document.n; /* the document stays as it is */
    if (options.escapes) b->text[b->n = begin + unescape(b->text + begin, b->n - begin, NULL)] = 0;
}

/* Return the content of a file, or of stdin if `path` is "-". Exits with an error if it cannot be
 * read. */
static bytes read_all(const char *path) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *f = machines.rank ? NULL : is_stdin ? stdin : open_file(path);
    int unopened = f ? 0 : errno, error = 0;
    char part[1 << 14];
    bytes all = {.n = 0};
    if ((unopened = shared(unopened))) refuse("%s: cannot be opened: %s", path, strerror(unopened));
    if (is_stdin) begin_typing();
    append(&all, "", 0);
    for (size_t got = 1; f && got && !feof(f); append(&all, part, got)) /* Ctrl-D ends it once */
        got = fread(part, 1, sizeof part, f);
    if (f && ferror(f)) error = errno ? errno : EIO;
    if (f && !is_stdin) fclose(f);
    if ((error = shared(error)))
        refuse("%s: cannot be read: %s", is_stdin ? "stdin" : path, strerror(error));
    share_bytes(&all);
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
    for (size_t at = 0, n, cr, line = 0; many ? at < all.n : at == 0; at += n + 1) {
        const char *end = many ? memchr(all.text + at, options.null ? 0 : '\n', all.n - at) : NULL;
        n = end ? (size_t)(end - all.text) - at : all.n - at;
        cr = (newline || (end && !options.null)) && n && all.text[at + n - 1] == '\r';
        add_input(all.text + at, n - cr);
        if (options.lines && !options.null) run.inputs[run.n_inputs - 1].line = ++line;
    }
}

/* Return whether a command whose prompt is given also has a document: the text of stdin, if stdin is
 * a file, a pipe or a socket. It may also be a pipe that nobody writes to, so it must begin soon. */
static bool has_document(void) {
    enum { PATIENCE = 500 }; /* milliseconds */
    for (size_t i = 0; i < options.n_sources; i++)
        if (options.sources[i].is_file && is_stdin(options.sources[i].text)) return false;
    if (machines.rank || !stdin_has_document()) return false;
    if (wait_for_input(PATIENCE) > 0) return true;
    note("stdin is an open pipe without a text: it is not read; with -f - it is waited for");
    return false;
}

/* Exit with an error if there are more texts than the command takes, or if no text has the lines
 * for --lines. */
static void check_sources(size_t n_words) {
    int kind = (int)options.command->input;
    bool has_file = !options.n_sources; /* without -p and -f, stdin is the file */
    const char *hint = "";
    for (size_t i = 0; i < options.n_sources; i++) has_file |= options.sources[i].is_file;
    if (n_words > 1 && kind != WORDS && file_kind(options.model_path) == NO_FILE)
        refuse("%s: neither a command nor a model; llama -h lists the commands",
               options.model_path);
    if (n_words && options.model_path == options.default_model)
        hint = " ($LLAMA_MODEL is set, and the first argument is not a model)";
    if (kind == NO_INPUT && n_words)
        refuse("%s: takes a model and no text%s", options.command->name, hint);
    bool too_many = (options.n_sources && n_words) || (n_words > 1 && kind != WORDS) ||
                    (options.n_sources > 1 && kind != PROMPTS);
    if (kind == ONE_FILE && too_many) refuse("%s takes one FILE%s", options.command->name, hint);
    if (kind != NO_INPUT && too_many)
        refuse("more than one text%s: give one quoted argument, -p or -f; a document before it: "
               "<FILE",
               hint);
    if (options.lines && (n_words || !has_file))
        refuse("--lines: no prompt is read from -f or stdin; leave out %s%s",
               n_words ? "the prompt argument" : "-p", hint);
}

/* Fill the inputs from -p and -f, from the arguments or from stdin: exactly one of the three. If
 * prompts are given and stdin has a text too, that comes before each of them. */
static void read_inputs(void) {
    int kind = (int)options.command->input;
    bool names_only = kind == PROMPT_AND_NAMES && options.n_sources;
    size_t n_words = names_only ? 0 : options.n_arguments;
    bytes joined = {.n = 0};
    if (kind == PROMPT_AND_NAMES && n_words) n_words = 1;
    bool waits = n_words && (kind == PROMPTS || kind == WORDS) && options.n_sources == 1 &&
                 options.sources->is_file && shared(is_stdin(options.sources->text));
    if (waits) options.n_sources = 0; /* -f - beside an argument is the document */
    check_sources(n_words);
    if (kind == NO_INPUT) return;
    bool may_have = (n_words || options.n_sources) && kind != ONE_FILE && !options.interactive;
    if (waits || (may_have && shared(has_document()))) run.document = read_all("-");
    if ((options.decode || options.ids) && run.document.n) append(&run.document, " ", 1);
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
    if (n_words == 1 && kind != ONE_FILE && file_kind(joined.text) == REGULAR_FILE)
        note("%s is a file; its name is the text, -f reads the file", joined.text);
    if (n_words || options.n_sources || options.interactive) return;
    if (shared(is_terminal(stdin)))
        refuse("no text: give %s, -f FILE or a pipe; -f - reads what is typed",
               kind == ONE_FILE ? "a FILE" : "a quoted argument");
    add_file("-");
}

/* ---- Special tokens and ids: --special, --ids, --stop-id ---- */

/* Say once that the text of a special token is not that token. */
static void note_special(const bytes *b) {
    int32_t token;
    size_t n;
    for (size_t at = 0; at < b->n && !run.special_noted && !options.quiet; at++) {
        at += llama_find_special(run.model, b->text + at, b->n - at, &token);
        const char *text =
            llama_token_text(run.model, token, &n); /* NULL: none, or without a row */
        if (!text) continue;
        note("%.*s is read as text, not as the token %d%s", (int)n, text, (int)token,
             options.command->bit == SCORE ? "" : "; --special changes that");
        run.special_noted = true;
    }
}

/* Parse the text of an input as token ids between white space. Returns NULL, or why it is not. */
static const char *parse_ids(input *in) {
    static char why[80];
    char *at = in->text.text, *end = at + in->text.n;
    in->tokens = allocate((in->text.n / 2 + 1) * sizeof *in->tokens);
    for (char *next; (at += strspn(at, " \t\r\n")) < end; at = next) {
        long long id = strtoll(at, &next, 10);
        if (next == at || !strchr(" \t\r\n", *next) || id < 0 || id >= run.info.vocab) {
            snprintf(why, sizeof why, "'%.20s' is not a token id from 0 to %d", at,
                     run.info.vocab - 1);
            return why;
        }
        in->tokens[in->n_tokens++] = (int32_t)id;
    }
    return NULL;
}

/* Append the text of n tokens; with --special also that of special tokens. If they end inside a
 * character, its first bytes become U+FFFD if the text `ends` there, else they are left out. */
static void append_tokens(bytes *b, const int32_t *tokens, size_t n, bool ends) {
    char text[LLAMA_TEXT_MAX];
    llama_decoder utf8 = {.special = options.special};
    for (size_t i = 0; i < n + ends; i++)
        append(b, text,
               llama_token_to_text(run.model, &utf8, i < n ? tokens[i] : LLAMA_FLUSH, text));
}

/* Return whether pieces are bytes, which may end inside a character. */
static bool is_byte_level(void) { return strcmp(run.info.vocabulary, "byte-level") == 0; }

/* Append the text of n tokens so that its tokens are these again: a byte that is not UTF-8 stays as
 * it is. Tokens without text are left out. */
static void append_pieces(bytes *b, const int32_t *tokens, size_t n) {
    char text[LLAMA_TEXT_MAX];
    if (!is_byte_level()) append_tokens(b, tokens, n, true);
    for (size_t i = 0; i < n && is_byte_level(); i++) {
        llama_decoder own = {.special = options.special};
        size_t length, shown = llama_token_to_text(run.model, &own, tokens[i], text);
        const char *piece = llama_token_text(run.model, tokens[i], &length);
        if (shown + own.n > 0) append(b, piece, length);
    }
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

/* ---- Tokens of an input ---- */

/* Exit with an error if the model has no tokenizer. */
static void want_tokenizer(void) {
    if (!llama_token_text(run.model, 0, NULL))
        die(EXIT_MODEL,
            "the model has no tokenizer in or beside it: give its own with --tokenizer (another "
            "model's gives wrong text)");
}

/* Write the name of an input, such as "prompt 2 (line 3)". A number or a line of 0 is left out. */
static const char *name_place(char out[80], const char *what, size_t number, size_t line) {
    int n = snprintf(out, 80, number ? "%s %zu" : "%s", what, number);
    if (line) snprintf(out + n, 80 - (size_t)n, " (line %zu)", line);
    return out;
}

/* Note, once, a byte that is not UTF-8. The other arguments are those of name_place. */
static void note_invalid_byte(const char *text, size_t n_text, const char *what, size_t number,
                              size_t line) {
    char place[80];
    if (is_byte_level()) return; /* it has tokens for such bytes */
    for (size_t i = 0, size; i < n_text && !run.utf8_noted; i += size) {
        int32_t c;
        size = llama_utf8_next(text + i, n_text - i, &c);
        if (c >= 0) continue;
        note("byte %zu of %s is not UTF-8; the model sees such bytes as U+FFFD", i + 1,
             name_place(place, what, number, line));
        run.utf8_noted = true;
    }
}

/* Compute the tokens of a text; flags are those of llama_text_to_tokens. The tokens of a prompt
 * whose length alone shows that it does not fit in the context are only estimated: n_tokens.
 * Returns NULL, or why the text has no tokens. */
static const char *tokenize(input *in, unsigned flags) {
    const bytes *b = &in->text;
    want_tokenizer();
    in->n_tokens = options.special ? 0 : llama_min_tokens(run.model, b->n);
    /* A chat that fills its context has one token more: the last one drawn is not evaluated */
    in->estimated = (options.command->bit & (COMPLETE | TRACE)) && in->n_tokens > run.context + 1;
    if (in->estimated) return NULL;
    if (run.n_inputs > 1 || in->line)
        note_invalid_byte(b->text, b->n, "prompt", (size_t)(in - run.inputs) + 1, in->line);
    else note_invalid_byte(b->text, b->n, "the text", 0, 0);
    if (in->capacity < b->n + 2) /* more only where bytes are not UTF-8 */
        in->tokens = allocate((in->capacity = 2 * (b->n + 2)) * sizeof *in->tokens);
    ptrdiff_t n = llama_text_to_tokens(run.model, b->text, b->n, flags, in->tokens, in->capacity);
    if (n > (ptrdiff_t)in->capacity) {
        in->tokens = allocate((in->capacity = 2 * (size_t)n) * sizeof *in->tokens);
        n = llama_text_to_tokens(run.model, b->text, b->n, flags, in->tokens, in->capacity);
    }
    if (n == LLAMA_EINVAL)
        return "an added token in it has no row in the model; give it as text, without --special";
    if (n < 0) die(EXIT_MEMORY, "the text does not fit in memory");
    in->n_tokens = (size_t)n;
    return NULL;
}

/* Compute the tokens of an input: with --ids it is a list of them; else a text, which gets <s> in
 * front unless --no-bos is given or the model's files say otherwise. Returns NULL, or why it has
 * none. */
static const char *read_tokens(input *in) {
    if (options.ids && options.command->bit == COMPLETE && !options.json) want_tokenizer();
    if (options.ids) return parse_ids(in);
    if (!options.special) note_special(&in->text);
    return tokenize(in,
                    (options.no_bos ? 0 : LLAMA_ADD_BOS) | (options.special ? LLAMA_SPECIAL : 0));
}

/* Exit with an error if an input has no tokens; `why` is what a function above returned. */
static void want_tokens(const char *why) {
    if (why) refuse("%s", why);
}

/* Print why an input is rejected, and keep it in *error. `what` and its number, from 1, name the
 * input. The other inputs are run; then the process exits with the code of the first error. */
__attribute__((format(PRINTF, 6, 7))) static void reject(const char **error, int code,
                                                         const char *what, size_t number,
                                                         size_t line, const char *format, ...) {
    char text[256], place[80];
    bytes copy = {.n = 0};
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say("%s: %s", name_place(place, what, number, line), text);
    append(&copy, text, strlen(text));
    *error = copy.text;
    if (run.exit_code == 0) run.exit_code = code;
}

/* Return the text of a token that begins or ends texts, such as <s>, for a message, or `what` if the
 * vocabulary has no such token. */
static const char *name_token(int32_t token, const char *what) {
    static char name[80];
    size_t n = 0;
    const char *text = llama_token_text(run.model, token, &n);
    snprintf(name, sizeof name, "%.*s", text ? (int)n : 79, text ? text : what);
    return name;
}

/* Compute the tokens of a prompt. Rejects it if that fails, if it is empty, or does not fit in the
 * context; returns whether it is fine. */
static bool tokenize_prompt(input *in) {
    size_t number = (size_t)(in - run.inputs) + 1;
    const char *why = read_tokens(in);
    char empty[160];
    snprintf(empty, sizeof empty, "the prompt is empty, and no %s is put before it",
             name_token(run.info.bos, "start token"));
    if (!why && in->n_tokens == 0 && !options.interactive)
        why = options.ids ? "the prompt has no ids" : empty;
    if (why) reject(&in->error, EXIT_USAGE, "prompt", number, in->line, "%s", why);
    else if (in->n_tokens > run.context)
        reject(&in->error, EXIT_TOO_LONG, "prompt", number, in->line,
               "%s%zu tokens do not fit in a context of %zu; see -c",
               in->estimated ? "at least " : "", in->n_tokens, run.context);
    else if (options.ids) { /* for --echo and --json */ in->text = (bytes){.n = 0};
        append_tokens(&in->text, in->tokens, in->n_tokens, false);
    }
    return !in->error;
}

/* ---- 5. Model and session ---- */

/* Set the model's path to -m, the first argument or $LLAMA_MODEL. If $LLAMA_MODEL is set, the first
 * argument is the model only if it is a folder or an existing .gguf or .bin file. Otherwise it is a
 * text. Exits with an error if there is no model. */
static void find_model(void) {
    if (options.model_path) return;
    options.model_path = options.default_model;
    if (options.n_arguments) {
        const char *end = strrchr(options.arguments[0], '.');
        bool file = end && (!strcmp(end, ".gguf") || !strcmp(end, ".bin"));
        int found = file_kind(options.arguments[0]);
        if (!options.model_path || shared(found == FOLDER || (found != NO_FILE && file)))
            options.model_path = *options.arguments++, options.n_arguments--;
    }
    if (!options.model_path) refuse("no model: give its folder or file, or set $LLAMA_MODEL");
}

/* Exit with an error if the kernels of --kernels do not exist, or cannot be used here. */
static void check_kernels(const char *given) {
    bytes names = {.n = 0}, usable = {.n = 0};
    bool known = false;
    append(&names, option_values[0][1], strlen(option_values[0][1]));
    for (char *rest = names.text, *name; (name = next_field(&rest, " "));) {
        llama_session_options try = {.size = sizeof try, .context = 1, .kernels = name};
        bool same = strcmp(name, given) == 0, can = llama_session_bytes(run.model, &try) > 0;
        if (same && can) return;
        known |= same;
        if (can && usable.n) append(&usable, ", ", 2);
        if (can) append(&usable, name, strlen(name));
    }
    if (!known) refuse("--kernels: '%s' is not scalar, avx2, avx512 or neon", given);
    refuse("--kernels: this CPU or this build has no %s; available: %s", given, usable.text);
}

static const char *const memory_modes[] = {"auto", "map", "lock", "stream"}; /* LLAMA_MEMORY_... */

/* Return the most positions for which a model of this shape was trained: Llama 2's, 3's or 3.1's. */
static int longest_training(void) {
    return run.info.rope_original ? 131072 : run.info.vocab >= 128000 ? 8192 : 4096;
}

/* Open the model and describe it in run.info. Exits with an error if that fails. */
static void open_model(void) {
    const char *mode = options.memory_mode;
    int *memory = &options.model.memory;
    llama_error err;
    while (mode && *memory < 4 && strcmp(mode, memory_modes[*memory]) != 0) ++*memory;
    if (*memory == 4) refuse("--memory: '%s' is not auto, map, lock or stream", mode);
    bool once =
        options.command->bit & (CHECK | TOKENIZE); /* weights are read once, or not at all */
    if (once && *memory != LLAMA_MEMORY_LOCK) *memory = LLAMA_MEMORY_MAP;
    if (options.model.memory_limit &&
        (*memory == LLAMA_MEMORY_MAP || *memory == LLAMA_MEMORY_LOCK) && !once)
        refuse("--memory-limit: it has no effect with --memory %s", mode);
    catch_lost_files();
    if (machines.ranks > 1 && (options.command->bit & EVALUATE))
        options.model.rank = machines.rank, options.model.ranks = machines.ranks;
    int status = llama_open(&run.model, options.model_path, &options.model, &err);
    if (status == LLAMA_EIO && file_kind(options.model_path) == NO_FILE)
        strncat(err.text, "; the model is the first argument, -m or $LLAMA_MODEL",
                sizeof err.text - strlen(err.text) - 1);
    exit_on_error(status, err.text);
    run.info.size = sizeof run.info;
    llama_describe(run.model, &run.info);
    bool limits = *memory == LLAMA_MEMORY_AUTO || *memory == LLAMA_MEMORY_STREAM;
    if (machines.local > 1 && limits && !options.model.memory_limit && run.info.memory_limit) {
        options.model.memory_limit = run.info.memory_limit / (uint64_t)machines.local;
        llama_close(run.model); /* each rank of this machine has its share of the memory */
        exit_on_error(llama_open(&run.model, options.model_path, &options.model, &err), err.text);
        llama_describe(run.model, &run.info);
    }
    if (options.session.kernels) check_kernels(options.session.kernels);
    run.context = (size_t)(options.session.context ? options.session.context : run.info.context);
    int trained = run.info.context;
    bool meta = strcmp(run.info.format, "meta") == 0; /* whose files do not say it */
    if (meta && trained < longest_training()) trained = longest_training();
    /* Files pad the vocabulary to a multiple of a power of two; a few tokens may have no piece. */
    int missing = run.info.vocab - run.info.pieces, padding = run.info.vocab & -run.info.vocab;
    padding = padding > 128 ? 128 : padding < 8 ? 8 : padding;
    if (run.info.pieces && missing >= padding)
        note("the tokenizer has %d pieces, the model %d tokens; if it is another model's, all text "
             "is wrong",
             (int)run.info.pieces, run.info.vocab);
    if (run.info.add_eos)
        note("the model's files ask for %s after each text (add_eos_token); it is not appended, "
             "because the model must continue the text",
             name_token(run.info.eos, "an end token"));
    if (options.model.rope_theta != 0)
        note("--rope-theta %g is used, whatever the model's files say",
             (double)options.model.rope_theta);
    if (options.session.context > trained)
        note("-c %d: %s trained for %d positions; beyond them the text gets worse",
             options.session.context,
             meta && trained == 4096 ? "LLaMA was trained for 2048 positions, Llama 2 was"
                                     : "the model was",
             trained);
}

/* Return the bytes of the weights of the model and the draft model; of several machines, the bytes
 * of the rows that this one computes. */
static double weight_bytes(void) {
    uint64_t own = machines.ranks > 1 ? run.info.rank_bytes : run.info.file_bytes;
    return (double)own + (double)run.draft_info.file_bytes;
}

/* Return the part of the KV cache that rank `rank` of `ranks` has: that of its heads. */
static double cache_share(int rank, int ranks) {
    int64_t heads = run.info.kv_heads;
    int64_t begin = heads * rank / ranks, end = heads * (rank + 1) / ranks;
    return (double)(end - begin) / (double)heads;
}

/* Return whether weights are read from the files in every pass. */
static bool streamed(void) { return run.info.memory == LLAMA_MEMORY_STREAM; }

/* Return the bytes of KV cache of a sequence, in both models. */
static double cache_bytes(void) {
    double own = (double)run.info.kv_bytes_per_token * cache_share(machines.rank, machines.ranks);
    return (double)run.context * (own + (double)run.draft_info.kv_bytes_per_token);
}

/* Draw a progress bar, if the work has taken more than half a second. It has the time left as soon
 * as that can be estimated. `what` is the kind of work, done and total are in any unit. The line
 * fits in the terminal. */
static void show_progress(const char *what, double done, double total) {
    double part = total > 0 ? done / total : 1, time = now();
    if (run.progress.start_time == 0 || strcmp(what, run.progress.what) != 0)
        run.progress.start_time = time, run.progress.what = what;
    double elapsed = time - run.progress.start_time;
    if (!run.progress.enabled || elapsed < 0.5) return;
    if (time - run.progress.print_time < 0.1 && done < total) return;
    run.progress.print_time = time;
    size_t rows, columns;
    screen_size(stderr, &rows, &columns);
    int width = (columns < 69 ? (int)columns : 69) - 29; /* what the text around the bar needs */
    fprintf(stderr, "\r%-8s%3.0f%%", what, 100 * part);
    if (width > 0)
        fprintf(stderr, " [%-*.*s]", width, (int)(width * part),
                "########################################");
    if (part >= 0.05 || (part > 0 && elapsed >= 3))
        fprintf(stderr, " %.0f s left", fmin(elapsed * (1 - part) / part, 999999));
    fputs("\033[K", stderr);
}

/* The progress callback of sessions and of llama_check: draw the bar. A prompt's progress is shown
 * only if it is the only one: with several texts, print_outputs shows how many are complete. While a
 * text is generated there is a bar only if its passes take more than 2 s, as weights are streamed.
 * Returns nonzero after Ctrl-C, which cancels the call. */
static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    bool alone = options.command->bit == COMPLETE && options.session.sequences == 1;
    bool prompt = alone && total > (uint64_t)run.info.layers; /* more than one token */
    bool text = strcmp(what, "text") == 0;
    (void)user;
    if (text && done == 0) run.progress.start_time = 0; /* a pass begins */
    bool shown = true;
    if (strcmp(what, "prompt") == 0) shown = prompt;
    if (text) shown = run.progress.start_time == 0 || now() - run.progress.start_time > 2;
    if (shown) show_progress(text ? "pass" : what, (double)done, (double)total);
    return cancelled(what, done);
}

/* Return how many bytes the weights and the session may take: as much as there is, if that is not
 * known. */
static double memory_limit(void) {
    return run.info.memory_limit ? (double)run.info.memory_limit : HUGE_VAL;
}

/* Open the model of --draft, if it is given. Exits with an error if that fails. */
static void open_draft(void) {
    bool lock = options.model.memory == LLAMA_MEMORY_LOCK; /* else mapped: it is never streamed */
    llama_options o = {.size = sizeof o, .memory = lock ? LLAMA_MEMORY_LOCK : LLAMA_MEMORY_MAP};
    llama_error err;
    if (!options.draft_path) return;
    exit_on_error(llama_open(&run.draft, options.draft_path, &o, &err), err.text);
    run.draft_info.size = sizeof run.draft_info;
    llama_describe(run.draft, &run.draft_info);
    if (options.model.memory == LLAMA_MEMORY_AUTO && !streamed() &&
        weight_bytes() + cache_bytes() > memory_limit()) {
        llama_close(run.model); /* both do not fit: the draft model stays in memory */
        options.model.memory = LLAMA_MEMORY_STREAM;
        exit_on_error(llama_open(&run.model, options.model_path, &options.model, &err), err.text);
        llama_describe(run.model, &run.info);
    }
}

/* Return how many of n sequences fit in half of the memory that the weights leave free; at least
 * `min`. If the weights are streamed, sequences are worth more than kept weights, because all of them
 * share each pass: they may take nine tenths of the memory. */
static size_t fit_sequences(size_t n, size_t min) {
    double available =
        streamed() ? 0.9 * (double)run.info.kept_bytes : (memory_limit() - weight_bytes()) / 2;
    while (n > min && (double)n * cache_bytes() > available) n--;
    return (size_t)-most(-(double)n); /* the fewest of all ranks */
}

/* Return the options that make the memory of a session smaller. */
static const char *memory_options(void) {
    bool large_batch = options.session.batch > 256 && options.command->bit != TRACE;
    return options.command->bit == BENCH ? "-b" : large_batch ? "-c and -b" : "-c";
}

/* Without -c, a text has the positions of the model's context, but of a long context only as many as
 * fit in 9/10 of the memory that the weights leave free; at least SURE, for which LLAMA_MEMORY_AUTO leaves
 * room (AUTO_CONTEXT of llama.c). */
static void fit_context(void) {
    enum { SURE = 8192, UNIT = 1024 };
    bool fixed = options.session.context || options.ranks;
    if (fixed || !(options.command->bit & (COMPLETE | INFO)) || run.context <= SURE) return;
    double room = streamed() ? 0 : 0.9 * (memory_limit() - weight_bytes());
    double fits = room / cache_bytes() * (double)run.context;
    if (fits < (double)run.context)
        run.context = fits > SURE ? (size_t)fits / UNIT * UNIT : (size_t)SURE;
    run.context = (size_t)-most(-(double)run.context); /* the least of all ranks */
}

/* What the thread does that reads the weights ahead. */
static void prefetch(void) {
    llama_prefetch(run.model, NULL, NULL);
    llama_prefetch(run.draft, NULL, NULL); /* does nothing if run.draft is NULL */
}

/* Make the session, with n sequences. With `read_ahead`, a thread reads the weights at the disk's
 * speed during the first evaluations, unless they do not fit in memory: then it would evict the
 * weights in use. */
static void new_session(size_t n, bool read_ahead) {
    llama_error err;
    llama_session_options *so = &options.session;
    so->context = (int)run.context, so->sequences = (int)n, so->progress = on_progress;
    so->numerics = options.fast ? LLAMA_FAST : LLAMA_EXACT;
    so->no_lookup = options.no_lookup;
    so->draft = run.draft;
    int status = llama_session_new(&run.session, run.model, so, &err);
    if (status == LLAMA_ENOMEM) die(EXIT_MEMORY, "%s: see %s", err.text, memory_options());
    exit_on_error(status, err.text);
    llama_describe(run.model, &run.info);
    if (streamed() && run.info.kept_bytes == 0)
        note("the context of %zu positions takes %.1f GB, so no weights are kept in memory; see -c",
             run.context, cache_bytes() * (double)n / 1e9);
    else if (run.info.stream_bytes && options.command->bit != INFO)
        note("the model does not fit in the memory: every pass reads %.3g GB of it; see llama info",
             (double)run.info.stream_bytes / 1e9);
    read_ahead = read_ahead && (streamed() || weight_bytes() < memory_limit());
    if (read_ahead) start_thread(prefetch); /* if that fails, nothing is read ahead */
}

/* Exit with the session's error if a call on it failed. */
static void must(int status) { exit_on_error(status, llama_session_error(run.session)); }

/* Return n per second. */
static double rate(size_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

/* Return how many tokens were drawn in a pass over the weights: one, and the guesses that came
 * true. */
static double tokens_per_pass(size_t passes, size_t accepted) {
    return passes ? (double)(passes + accepted) / (double)passes : 0;
}

/* For --stats and /stats: print the speed of a completion on stderr. */
static void print_speed(void) {
    double prompt = run.stats.prompt_seconds, generation = run.stats.generation_seconds;
    double speed = rate(run.stats.after_first, generation);
    fprintf(stderr, "\nprompt      %zu tokens in %.3f s, %.1f tokens/s\n", run.stats.evaluated,
            prompt, rate(run.stats.evaluated, prompt));
    if (run.stats.cached || options.cache_path)
        fprintf(stderr, "cache       %zu tokens\n", run.stats.cached);
    fprintf(stderr, "generation  %zu tokens in %.3f s, %.2f tokens/s", run.stats.generated,
            generation, speed);
    if (options.session.sequences == 1)
        fprintf(stderr, ", %.1f GB/s of weights",
                rate(run.stats.later_passes, generation) * (double)run.info.token_bytes / 1e9);
    fprintf(stderr, "\npasses      %zu, %.2f tokens each; %zu of %zu guesses came true",
            run.stats.passes, tokens_per_pass(run.stats.passes, run.stats.accepted),
            run.stats.accepted, run.stats.drafted);
    fprintf(stderr, "\nfirst token %.1f ms after the start\n",
            (run.stats.first_token_time - run.stats.start_time) * 1e3);
}

/* For --stats and /stats: print speed, memory, kernels and seed on stderr. */
static void print_stats(void) {
    double seconds = now() - run.stats.open_time; /* of score and ppl */
    bool draws = options.command->bit == COMPLETE;
    if (draws) print_speed();
    else
        fprintf(stderr, "\nscored      %zu tokens in %.3f s, %.1f tokens/s\n", run.stats.scored,
                seconds, rate(run.stats.scored, seconds));
    fprintf(stderr, "opening     %.1f ms\n", (run.stats.open_time - run.stats.start_time) * 1e3);
    fprintf(stderr, "memory      %.1f MB for %d x %zu positions, %.1f MB of weights\n",
            cache_bytes() * options.session.sequences / 1e6, options.session.sequences, run.context,
            weight_bytes() / 1e6);
    llama_describe(run.model, &run.info);
    if (streamed())
        fprintf(stderr,
                "streaming   %.3g GB kept, %.3g GB read in a pass; in all %.3g GB were read, and "
                "waited "
                "for %.1f s\n",
                (double)run.info.kept_bytes / 1e9, (double)run.info.stream_bytes / 1e9,
                (double)run.info.read_bytes / 1e9, (double)run.info.read_wait / 1e9);
    fprintf(stderr, "kernels     %s\n", llama_session_kernels(run.session));
    if (draws) fprintf(stderr, "seed        %" PRIu64 "\n", options.sampler.seed);
}

/* A llama_read_fn and a llama_write_fn of several ranks: rank 0 has the file. */
static int read_shared(void *file, void *p, size_t n) {
    bool failed = machines.rank == 0 && fread(p, 1, n, file) != n;
    if (shared(failed)) return 1;
    share(p, n);
    return 0;
}
static int drop(void *user, const void *p, size_t n) { return (void)user, (void)p, (void)n, 0; }

/* Do llama_load_file for sequence 0. Of several ranks, rank 0 reads the file. *missing: there is no
 * such file, or it is empty. */
static int load_file(const char *path, llama_error *err, bool *missing) {
    int status, error = 0;
    if (machines.ranks == 1) {
        status = llama_load_file(run.session, 0, path, err);
        *missing = (status == LLAMA_EIO && errno == ENOENT) ||
                   (status == LLAMA_EFORMAT && file_kind(path) == EMPTY_FILE);
        return status;
    }
    FILE *file = machines.rank ? NULL : open_file(path);
    if (!file) error = errno;
    *missing = shared(file ? file_kind(path) == EMPTY_FILE : error == ENOENT);
    *err = (llama_error){.status = LLAMA_EIO};
    if ((error = shared(error))) {
        snprintf(err->text, sizeof err->text, "%.300s: cannot be opened: %s", path,
                 strerror(error));
        return LLAMA_EIO;
    }
    status = llama_load(run.session, 0, read_shared, file);
    snprintf(err->text, sizeof err->text, "%.300s: %.180s", path, llama_session_error(run.session));
    if (status == LLAMA_ENOMEM) die(EXIT_MEMORY, "%s", err->text); /* the others read on */
    int more = file && status == LLAMA_OK && getc(file) != EOF;
    if (file) fclose(file);
    if (!shared(more)) return status;
    llama_rewind(run.session, 0, 0);
    snprintf(err->text, sizeof err->text,
             "%.300s: the file is longer than the state in it; it is damaged", path);
    return LLAMA_EFORMAT;
}

/* Do llama_save_file for sequence 0. Of several ranks, rank 0 writes the file; the others give it
 * their heads, as soon as it has begun: see cancelled(). */
static int save_file(const char *path, llama_error *err) {
    int status = LLAMA_OK, begun = false;
    machines.saves = machines.ranks > 1;
    if (machines.rank == 0) {
        machines.waiting = machines.saves;
        status = llama_save_file(run.session, 0, path, err);
        if (machines.waiting) shared(false);
    } else if (shared(begun)) llama_save(run.session, 0, drop, NULL);
    machines.saves = machines.waiting = false;
    share(err, sizeof *err);
    return shared(status);
}

/* Load a saved state into sequence 0. Returns whether that worked; if not, prints why. */
static bool load_state(const char *path) {
    llama_error err;
    bool missing;
    if (load_file(path, &err, &missing) == LLAMA_OK) return true;
    return say("%s", err.text), false;
}

/* Exit with an error if the --prompt-cache cannot be written after the run. */
static void check_cache(void) {
    errno = ENOENT; /* of an empty name */
    int error = !*options.cache_path || !can_replace(options.cache_path) ? errno : 0;
    if ((error = shared(error)))
        refuse("%s: cannot be written: %s", options.cache_path, strerror(error));
}

/* Load the --prompt-cache into sequence 0. After the run the file is written again.
 *   no such file, or an empty one     nothing is loaded
 *   the state of another model        the same, and a note says so
 *   a state longer than the context   the same, but the file is not written
 *   anything else                     exits with an error: the user has to remove the file */
static void load_cache(void) {
    llama_error err;
    bool missing;
    int status = load_file(options.cache_path, &err, &missing);
    if (status == LLAMA_OK || missing) return;
    if (status == LLAMA_EMISMATCH) note("%s; it will be replaced", err.text);
    else if (status == LLAMA_EFULL) {
        note("%s; it is not used", err.text);
        options.cache_path = NULL;
    } else
        die(status == LLAMA_ENOMEM ? EXIT_MEMORY : EXIT_USAGE, "%s%s", err.text,
            status == LLAMA_EFORMAT ? "; remove it, or give another name" : "");
}

/* Save sequence 0. Returns whether that worked; if not, prints why. */
static bool save_state(const char *path) {
    llama_error err;
    int mode = interrupt_mode;
    interrupt_mode = INTERRUPT_SAVING;
    run.progress.start_time = 0;
    int status = save_file(path, &err);
    interrupt_mode = mode;
    clear_progress();
    if (status == LLAMA_ECANCEL) say("%s: interrupted; it is not written", path);
    else if (status) say("%s", err.text);
    if (interrupted && interrupted != SIGINT) exit_by_signal(interrupted);
    return status == LLAMA_OK;
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

/* Print the beginning of an object about a token: its id, its text and its log-probability. A byte
 * of a character that is not whole is written as <0xE2>: such is SentencePiece's piece for it, and
 * the bytes of a byte-level piece are written like it. */
static void print_token(const llama_token_logprob *t) {
    char text[LLAMA_TEXT_MAX];
    llama_decoder decoder = {.started = 1, .special = 1};
    size_t n = llama_token_to_text(run.model, &decoder, t->token, text);
    bool whole = n && !is_byte_level();
    const char *piece = whole ? NULL : llama_token_text(run.model, t->token, &n);
    printf("{\"token\": %d, \"text\": ", (int)t->token);
    put_json_bytes(piece ? piece : text, n, true);
    printf(", \"logprob\": %.6f", (double)t->logprob);
}

/* Print the member "logprobs" of a text's object: n rows of [width]. */
static void print_logprobs(const llama_token_logprob *row, size_t n, size_t width) {
    printf(", \"logprobs\": [");
    for (size_t i = 0; i < n; i++, row += width) {
        fputs(i ? ", " : "", stdout);
        print_token(row);
        printf(", \"top\": [");
        for (size_t k = 1; k < width; k++) {
            fputs(k > 1 ? ", " : "", stdout);
            print_token(row + k);
            putchar('}');
        }
        printf("]}");
    }
    putchar(']');
}

/* Return whether one text is generated, which then is all of stdout. */
static bool alone(void) {
    bool one = run.n_inputs == 1 && options.samples == 1;
    return one && !options.lines && !options.null && !options.interactive;
}

/* For --json: print the beginning of an object about a text of inputs[number]. */
static void print_place(size_t number, size_t sample) {
    printf("{\"prompt\": %zu, \"sample\": %zu, ", number, sample);
    if (run.inputs[number].line) printf("\"line\": %zu, ", run.inputs[number].line);
}

/* Of the inputs before `number`, print those that were rejected: in the place of each text an empty
 * one, with --json an object that says why. */
static void print_rejected(size_t number) {
    for (; run.n_passed < number; run.n_passed++) {
        const char *error = run.inputs[run.n_passed].error;
        for (int sample = 0; error && sample < options.samples; sample++) {
            if (!options.json && alone()) continue;
            if (!options.json) putchar(options.null ? 0 : '\n');
            else {
                print_place(run.n_passed, (size_t)sample);
                printf("\"error\": ");
                put_json(error, strlen(error));
                puts("}");
            }
        }
    }
}

/* For --json: print a complete text as an object. */
static void print_object(const llama_request *t, const output *out) {
    static const char *const reasons[] = {"", "eos", "stop", "length", "interrupted"};
    const llama_token_logprob *rows = (const void *)out->logprobs.text;
    size_t width = 1 + (size_t)options.logprobs, samples = (size_t)options.samples;
    double opened = run.stats.open_time;
    print_place(out->number, (size_t)(t - run.requests) % samples);
    printf("\"text\": ");
    put_json(out->text.text, out->text.n);
    printf(", \"tokens\": [");
    for (size_t i = 0; i < t->generated; i++)
        printf("%s%d", i ? ", " : "", (int)rows[i * width].token);
    printf("], \"finish\": \"%s\", \"seed\": %" PRIu64 ", \"prompt_tokens\": %zu",
           context_full(t) ? "context" : reasons[t->finish_reason], t->sampler.seed, t->n_prompt);
    printf(", \"first_token_seconds\": %.6f, \"seconds\": %.6f",
           out->first_token_time > 0 ? out->first_token_time - opened : 0, out->end_time - opened);
    printf(", \"passes\": %zu, \"drafted\": %zu, \"accepted\": %zu, \"tokens_per_pass\": %.3f",
           t->passes, t->drafted, t->accepted, tokens_per_pass(t->passes, t->accepted));
    if (options.logprobs) print_logprobs(rows, t->generated, width);
    puts("}");
}

/* Print what is new of one text: the bytes that are ready, or with --json its object. */
static void print_output(const llama_request *t, output *out) {
    size_t n = out->ready - out->printed;
    if (n || t->finish_reason) clear_progress();
    if (n && !options.json) write_text(out->text.text + out->printed, n);
    out->printed = out->ready;
    if (!t->finish_reason) return;
    if (options.json) print_object(t, out);
    else if (!alone()) putchar(options.null ? 0 : '\n');
    else if (is_terminal(stdout) && run.progress.terminal && !interrupted) fputc('\n', stderr);
    if (context_full(t))
        note("the context of %zu positions is full; see %s", run.context,
             options.interactive ? "/reset" : "-c");
}

/* Print what is new on stdout, in input order: a text is printed only when all texts before it are
 * complete. */
static void print_outputs(void) {
    for (; run.n_printed < run.n_requests; run.n_printed++) {
        print_rejected(run.outputs[run.n_printed].number);
        print_output(&run.requests[run.n_printed], &run.outputs[run.n_printed]);
        if (!run.requests[run.n_printed].finish_reason) break;
    }
    if (run.n_printed == run.n_requests) print_rejected(run.n_inputs);
    flush_stdout();
    if (run.n_requests > 1 && !is_terminal(stdout))
        show_progress("texts", (double)run.n_printed, (double)run.n_requests);
}

/* The callback of llama_generate: append the text that a token completed, up to a stop text, and
 * print what is ready. Returns 1 if a stop text or --stop-id was found, LLAMA_ECANCEL after Ctrl-C,
 * else 0. */
static int on_text(void *user, llama_request *t, const char *text, size_t n) {
    output *out = &((output *)user)[t - run.requests];
    if (out->first_token_time == 0) out->first_token_time = now();
    if (t->finish_reason) out->end_time = now();
    if (!t->finish_reason && options.json) record_token(out, t);
    bool stop_id = !t->finish_reason && is_stop_id(t->token);
    size_t own = stop_id ? own_length(t->token) : 0, n_piece;
    const char *piece = stop_id ? llama_token_text(run.model, t->token, &n_piece) : NULL;
    if (piece && n_piece == 6 && memcmp(piece, "<0x", 3) == 0) own = n; /* no part of a character */
    append(&out->text, text, own < n ? n - own : 0);
    const char *pending = out->text.text + out->ready;
    size_t n_pending = out->text.n - out->ready, keep;
    size_t at = llama_find_stop(pending, n_pending, options.stops, options.n_stops, &keep);
    bool stopped = at < n_pending || stop_id;
    out->text.n = out->ready + at;
    out->ready = out->text.n - (stopped || t->finish_reason ? 0 : keep);
    keep_end_token(out, t);
    print_outputs();
    bool ends = machines.ranks > 1 ? machines.interrupted : interrupted;
    return ends ? LLAMA_ECANCEL : stopped;
}

/* Return the decoder of what follows a prompt. If the prompt ends inside a character, it holds the
 * first bytes of it; not in a chat, whose text has them. After a special token a space may be one
 * that encoding put in front. */
static llama_decoder decoder_after(const input *in) {
    char text[LLAMA_TEXT_MAX];
    llama_decoder utf8 = {.special = options.special};
    for (size_t i = 0; i < in->n_tokens; i++)
        llama_token_to_text(run.model, &utf8, in->tokens[i], text);
    if (options.interactive) utf8.n = 0;
    utf8.special = 0;
    return utf8;
}

/* Make a request for each sample of each input that was not rejected. */
static void make_requests(void) {
    size_t samples = (size_t)options.samples, n = run.n_inputs * samples, i = 0;
    if (options.ignore_eos && !options.sampler.bias) {
        float *bias = allocate((size_t)run.info.vocab * sizeof *bias);
        for (int32_t id = 0; id < run.info.vocab; id++)
            if (llama_is_end(run.model, id)) bias[id] = -INFINITY;
        options.sampler.bias = bias;
    }
    if (!run.requests) { /* a chat uses them again for each reply */
        run.requests = allocate(n * sizeof *run.requests);
        run.outputs = allocate(n * sizeof *run.outputs);
    }
    run.n_printed = run.n_passed = 0;
    for (size_t k = 0; k < n; k++) {
        const input *in = &run.inputs[k / samples];
        if (in->error) continue;
        size_t max = run.context - in->n_tokens + 1;
        if (options.max_tokens >= 0 && (size_t)options.max_tokens < max)
            max = (size_t)options.max_tokens;
        run.requests[i] = (llama_request){.prompt = in->tokens,
                                          .n_prompt = in->n_tokens,
                                          .sampler = options.sampler,
                                          .max_tokens = max,
                                          .utf8 = decoder_after(in)};
        run.requests[i].sampler.seed += k % samples;
        output *out = &run.outputs[i];
        out->text.n = out->printed = out->logprobs.n = 0, out->first_token_time = 0;
        out->number = k / samples;
        size_t pending = options.ids ? 0 : run.requests[i].utf8.n;
        if (options.echo && !options.interactive)
            append(&out->text, in->text.text, in->text.n - pending);
        out->ready = out->text.n;
        i++;
    }
    run.n_requests = i;
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
        run.stats.passes += t->passes;
        run.stats.later_passes += t->passes - (t->passes > 0);
        run.stats.drafted += t->drafted;
        run.stats.accepted += t->accepted;
    }
}

/* Generate and print the texts of all inputs. After Ctrl-C prints what the current text has and
 * returns false. */
static bool generate(void) {
    make_requests();
    run.progress.start_time = 0;
    double start = now();
    int status = llama_generate(run.session, run.requests, run.n_requests, on_text, run.outputs);
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
    if (options.interactive && options.echo) refuse("--echo: not with -i, which shows the chat");
    if (!options.interactive && (*options.in_prefix || strcmp(options.in_suffix, "\n") != 0))
        refuse("--in-prefix, --in-suffix: only with -i");
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
    size_t longest = 1, n = 0;
    check_complete_options();
    if (options.interactive && run.n_inputs == 0) add_input("", 0);
    for (input *in = run.inputs; in < run.inputs + run.n_inputs; in++) {
        if (!tokenize_prompt(in)) continue;
        if (in->n_tokens > longest) longest = in->n_tokens;
        n += (size_t)options.samples;
    }
    if (n == 0) {
        print_rejected(run.n_inputs);
        return;
    }
    bool streams = most(streamed()) > 0; /* on any rank */
    bool once = n > 1 || (streams && !options.interactive && !options.cache_path);
    if (once && !options.session.context && options.max_tokens >= 0) { /* no longer than needed */
        size_t needed = longest + (size_t)options.max_tokens;
        if (needed < run.context) run.context = needed;
    }
    new_session(fit_sequences(n < MAX_TOGETHER ? n : MAX_TOGETHER, 1), true);
    if (options.cache_path) load_cache();
    interrupt_mode = options.interactive ? INTERRUPT_REPLY : INTERRUPT_PRINTS;
    bool done = options.interactive ? chat() : generate();
    interrupt_mode = INTERRUPT_EXITS;
    bool save = done && options.cache_path && run.stats.evaluated > 1; /* the cache held less */
    if (save && !(options.interactive ? save_chat : save_state)(options.cache_path))
        leave(interrupted ? EXIT_INTERRUPTED : EXIT_RUN);
    if (!done && options.stats) print_stats();
    if (!done) exit_interrupted();
}

/* ---- 7. Chat ---- */

/* The text of the chat so far is inputs[0]. It is tokenized again for each reply, and the session
 * evaluates only the tokens that are new. */

typedef struct { /* a line and the reply to it, as positions in the text */
    size_t begin, reply;
} turn;

static int edit_line(bytes *line, const char *sign); /* section 10 */
static const char MORE_SIGN[] = "| ";                /* before a further row of the user's text */

/* Keep the exit code of a chat's first error, if stdin is not a terminal. The chat goes on. */
static void keep_exit_code(int code) {
    if (run.exit_code == 0 && !is_terminal(stdin)) run.exit_code = code;
}

#define chat_error(code, ...) (say(__VA_ARGS__), keep_exit_code(code))

/* Tell the user at a terminal that a chat command is done, and how long the chat is. */
static void acknowledge(const char *what, const char *path) {
    if (!is_terminal(stdin)) return;
    read_tokens(run.inputs);
    note("%s%s; the chat has %zu of %zu positions", what, path, run.inputs->n_tokens, run.context);
}

/* Read a line of stdin without its newline, and the lines after it while they end with a backslash.
 * Returns 1, 0 at the end of stdin, or -1 if there is no line: after Ctrl-C, or if a line was too
 * long. Ctrl-C is checked ten times a second, because one just before a read would not end it. */
static int read_line(bytes *line, const char *sign) {
    enum { LINE_MAX_BYTES = 4095 }; /* a terminal drops what is longer (termios(3)) */
    bool more = false, too_long = false;
    int ch = EOF;
    cut(line, 0);
    do {
        size_t begin = line->n;
        if (more) line->text[line->n - 1] = '\n', sign = MORE_SIGN;
        if (run.chat.screen) put_visible(run.chat.screen, sign, strlen(sign), false);
        if (run.chat.screen) fflush(run.chat.screen);
        while (!interrupted && wait_for_input(100) == 0) {}
        while (!interrupted && (ch = getc(stdin)) != EOF && ch != '\n')
            append(line, &(char){(char)ch}, 1);
        if (interrupted) {
            clearerr(stdin);
            if (run.chat.screen) fputc('\n', run.chat.screen);
            return -1;
        }
        if (ferror(stdin)) refuse("stdin cannot be read: %s", strerror(errno));
        too_long |= is_terminal(stdin) && line->n - begin >= LINE_MAX_BYTES;
        if (ch == '\n' && line->n > begin && line->text[line->n - 1] == '\r')
            cut(line, line->n - 1);
        more = ch == '\n' && line->n > begin && line->text[line->n - 1] == '\\';
    } while (more);
    if (!too_long) return ch == '\n' || line->n;
    say("the line is longer than %d bytes, so its end may be lost: it was not added",
        LINE_MAX_BYTES - 1);
    return -1;
}

/* Read what the user says next, as read_line does. On a terminal, show the prefix before it and the
 * suffix after it. */
static int read_turn(bytes *line) {
    bytes *sign = &run.chat.sign;
    const char *prefix = options.in_prefix, *suffix = options.in_suffix, *last;
    FILE *screen = run.chat.screen;
    prefix += *prefix == '\n', suffix += *suffix == '\n'; /* on the screen a new line has begun */
    last = strrchr(prefix, '\n') ? strrchr(prefix, '\n') + 1 : prefix;
    if (screen) put_visible(screen, prefix, (size_t)(last - prefix), true);
    cut(sign, 0), append(sign, "> ", 2), append(sign, last, strlen(last));
    int got = 0;
    if (machines.rank == 0)
        got = run.chat.editing ? edit_line(line, sign->text) : read_line(line, sign->text);
    got = shared(got);
    share_bytes(line);
    bool is_command = line->n && line->text[0] == '/' && line->text[1] != '/';
    if (screen && got > 0 && !is_command) put_visible(screen, suffix, strlen(suffix), true);
    if (screen) fflush(screen);
    return got;
}

/* Evaluate the text before the chat. Ctrl-C leaves the rest of it to the first reply. */
static void evaluate_prompt(void) {
    const input *in = run.inputs;
    const int32_t *known = llama_tokens(run.session, 0);
    size_t n_known = llama_length(run.session, 0), cached = 0;
    double start = now();
    while (cached < n_known && cached < in->n_tokens && known[cached] == in->tokens[cached])
        cached++;
    int status = llama_prefill(run.session, 0, in->tokens, in->n_tokens);
    clear_progress();
    run.stats.prompt_seconds += now() - start;
    if (status != LLAMA_ECANCEL) must(status), run.stats.evaluated += in->n_tokens - cached;
    else if (run.chat.terminal)
        say("interrupted; the rest of the prompt will be evaluated with the first line");
    else leave(EXIT_INTERRUPTED);
    interrupted = 0, machines.interrupted = false;
}

/* Save the chat, as far as it fits in the context. Returns whether that worked; if not, prints
 * why. */
static bool save_chat(const char *path) {
    read_tokens(run.inputs);
    size_t n = run.inputs->n_tokens, fits = n < run.context ? n : run.context;
    run.progress.start_time = 0;
    int status = llama_prefill(run.session, 0, run.inputs->tokens, fits);
    if (status == LLAMA_ECANCEL) return say("%s: interrupted; it is not written", path), false;
    must(status);
    clear_progress();
    if (fits < n)
        note("%s: the context is full; the last %zu of %zu tokens are not saved", path, n - fits,
             n);
    return save_state(path);
}

/* Generate, print and append the reply to the last turn. */
static void reply(void) {
    bytes *chat_text = &run.inputs->text;
    size_t begin = chat_text->n;
    read_tokens(run.inputs);
    generate();
    append(chat_text, run.outputs->text.text, run.outputs->text.n);
    const char *why = options.special ? read_tokens(run.inputs) : NULL; /* it may spell one */
    if (why) chat_error(EXIT_USAGE, "the reply was not added: %s", why), cut(chat_text, begin);
}

/* Take the last turn back, or with `again` only its reply, and reply with the next seed. */
static void take_back(bool again) {
    bytes *turns = &run.chat.turns;
    if (turns->n == 0) {
        chat_error(EXIT_USAGE, "there is no line to %s since the beginning, /reset or /load",
                   again ? "reply to" : "remove");
        return;
    }
    const turn *last = (const turn *)(void *)(turns->text + turns->n) - 1;
    cut(&run.inputs->text, again ? last->reply : last->begin);
    if (again) {
        options.sampler.seed++;
        if (is_terminal(stdin)) note("seed %" PRIu64, options.sampler.seed);
        reply();
    } else {
        cut(turns, turns->n - sizeof *last);
        acknowledge("removed the last line and its reply", "");
    }
}

/* Return the path of a file, with $HOME in the place of a ~ at its beginning, as shells do it. */
static const char *in_home(const char *path) {
    const char *home = environment(HOME_FOLDER);
    bytes b = {.n = 0};
    if (*path != '~' || !strchr("/", path[1]) || !home) return path;
    append(&b, home, strlen(home));
    append(&b, path + 1, strlen(path + 1));
    return b.text;
}

/* Run a chat command: a line that begins with a slash. Returns false if the chat ends. */
static bool run_chat_command(const char *line) {
    bytes *chat_text = &run.inputs->text;
    size_t n = strcspn(line, " ");
    const char *file = in_home(line + n + strspn(line + n, " "));
    bool ok = true, loads = n == 5 && strncmp(line, "/load", n) == 0,
         saves = n == 5 && strncmp(line, "/save", n) == 0;
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return false;
    if (strcmp(line, "/help") == 0) fputs(CHAT_COMMANDS, stderr);
    else if (strcmp(line, "/stats") == 0) {
        print_stats();
        read_tokens(run.inputs);
        fprintf(stderr, "positions   %zu of %zu\n", run.inputs->n_tokens, run.context);
    } else if (strcmp(line, "/undo") == 0) take_back(false);
    else if (strcmp(line, "/retry") == 0) take_back(true);
    else if (strcmp(line, "/reset") == 0) {
        cut(chat_text, 0), append(chat_text, run.chat.prompt.text, run.chat.prompt.n);
        cut(&run.chat.turns, 0);
        acknowledge("removed everything after the prompt", "");
    } else if ((loads || saves) && !*file)
        chat_error(EXIT_USAGE, "%s: give the name of a file", line);
    else if (loads) {
        ok = load_state(file);
        if (ok) {
            cut(chat_text, 0), cut(&run.chat.turns, 0);
            append_pieces(chat_text, llama_tokens(run.session, 0), llama_length(run.session, 0));
            const char *why = options.special ? read_tokens(run.inputs) : NULL;
            if (why) say("%s: %s", file, why), cut(chat_text, 0), ok = false;
            else acknowledge("loaded ", file);
        }
    } else if (saves) {
        ok = save_chat(file);
        if (ok) acknowledge("saved in ", file);
    } else
        chat_error(EXIT_USAGE,
                   "'%s': no such chat command; use /help, /undo, /retry, /reset, /save FILE, "
                   "/load FILE, /stats, /exit",
                   line);
    if (!ok) keep_exit_code(EXIT_RUN);
    return true;
}

/* Append the user's line to the chat, then generate, print and append the reply. If the line does
 * not fit in the context, it is not appended, and a message says why. */
static void add_turn(const char *line, size_t n) {
    bytes *chat_text = &run.inputs->text;
    turn t = {.begin = chat_text->n};
    if (!*options.in_prefix && t.begin && chat_text->text[t.begin - 1] != '\n')
        append(chat_text, "\n", 1);
    append(chat_text, options.in_prefix, strlen(options.in_prefix));
    append(chat_text, line, n);
    append(chat_text, options.in_suffix, strlen(options.in_suffix));
    const char *why = read_tokens(run.inputs);
    if (why || run.inputs->n_tokens > run.context) {
        cut(chat_text, t.begin);
        if (why) chat_error(EXIT_USAGE, "the line was not added: %s", why);
        else
            chat_error(EXIT_TOO_LONG,
                       "the context of %zu positions is full: the line was not added; see /undo "
                       "and /reset",
                       run.context);
    } else {
        t.reply = chat_text->n;
        append(&run.chat.turns, &t, sizeof t);
        reply();
    }
}

/* Read lines from stdin until its end or /exit, and reply to each. Returns true. */
static bool chat(void) {
    const bytes *prompt = &run.inputs->text;
    bool typed = shared(is_terminal(stdin)), going_on = true;
    bytes line = {.n = 0};
    setvbuf(stdin, NULL, _IONBF, 0); /* poll does not see lines that stdio has buffered */
    append(&run.chat.prompt, prompt->text, prompt->n);
    run.chat.terminal = typed;
    if (typed && is_terminal(stderr)) run.chat.screen = stderr;
    else if (typed && is_terminal(stdout)) run.chat.screen = stdout;
    if (typed && is_terminal(stdout) && !is_dumb()) run.chat.editing = start_editor();
    if (!run.chat.editing) begin_typing();
    if (run.chat.screen) {
        note("chat: /help helps, Ctrl-D ends");
        put_visible(run.chat.screen, prompt->text, prompt->n, true);
        if (prompt->n && prompt->text[prompt->n - 1] != '\n') fputc('\n', run.chat.screen);
    }
    if (prompt->n) evaluate_prompt();
    for (int got; going_on; interrupted = 0, machines.interrupted = false) {
        if ((got = read_turn(&line)) == 0) break;
        size_t slash = line.text[0] == '/';
        while (slash && strchr(" \t", line.text[line.n - 1])) cut(&line, line.n - 1);
        if (got > 0 && slash && line.text[1] != '/') going_on = run_chat_command(line.text);
        else if (got > 0) add_turn(line.text + slash, line.n - slash);
        if (!typed && most(interrupted) > 0) leave(EXIT_INTERRUPTED);
    }
    restore_terminal();
    if (run.chat.screen) fputc('\n', run.chat.screen);
    return true;
}

/* ---- 8. Score, ppl ---- */

typedef struct {
    long label;            /* the number of the right continuation; -1: unknown */
    size_t n;              /* continuations */
    llama_continuation *c; /* [2 n]: first after the item's context, then after "Answer:" */
    size_t line;           /* of the input, from 1 */
    const char *error;     /* why it was rejected; NULL: it was not */
} item;

/* The rules by which a continuation is picked. GREEDY only judges the right continuation. */
enum { SUM, PER_TOKEN, PER_BYTE, ANSWER, PICKS, GREEDY = PICKS, RULES };
static const char *const rules[] = {"sum", "token", "byte", "answer", "greedy"};

/* Parse a line, which is modified: label, context and continuations between tabs. Counts their
 * tokens. Exits with an error if the line is not a valid item. `number` is the item's, from 1. An
 * item whose length alone shows that it does not fit in the context is rejected. */
static void read_item(item *it, char *line, size_t number) {
    char *label = next_field(&line, "\t"), *context_text = next_field(&line, "\t"), *end = label,
         *text;
    bool known = *label && strcmp(label, "-") != 0;
    for (const char *c = line; c && ++it->n && (c = strchr(c, '\t')); c++) {}
    it->label = known ? strtol(label, &end, 10) : -1;
    if (it->n && known && end != label && !*end && it->label >= 0 && (size_t)it->label >= it->n)
        refuse("item %zu (line %zu): label %ld, but the last continuation is %zu", number, it->line,
               it->label, it->n - 1);
    if (!it->n || (known && (*end || it->label < 0 || (size_t)it->label >= it->n)))
        refuse(
            "item %zu (line %zu): a line must be a label (the number of a continuation, or -), a "
            "context and continuations, between tabs",
            number, it->line);
    it->c = allocate(2 * it->n * sizeof *it->c);
    size_t length = unescape(context_text, strlen(context_text), NULL);
    for (llama_continuation *c = it->c; (text = next_field(&line, "\t")); c++) {
        size_t mark = 0, n = unescape(text, strlen(text), &mark);
        bytes own = {.n = 0}; /* the context and what precedes \c */
        if (mark) append(&own, context_text, length), append(&own, text, mark);
        if (mark == n) refuse("item %zu (line %zu): a continuation is empty", number, it->line);
        size_t least = llama_min_tokens(run.model, length + n);
        if (least > run.context && !it->error)
            reject(&it->error, EXIT_TOO_LONG, "item", number, it->line,
                   "at least %zu tokens do not fit in a context of %zu; see -c", least,
                   run.context);
        *c = (llama_continuation){.context = mark ? own.text : context_text,
                                  .n_context = length + mark,
                                  .ending = text + mark,
                                  .n_ending = n - mark};
        c[it->n] = *c;
        c[it->n].context = "Answer:", c[it->n].n_context = strlen("Answer:");
    }
    int status = it->error ? LLAMA_OK : llama_count_continuation(run.model, it->c, 2 * it->n);
    if (status == LLAMA_EINVAL)
        reject(&it->error, EXIT_USAGE, "item", number, it->line,
               "the context is empty, and the model adds no %s before it",
               name_token(run.info.bos, "start token"));
    else exit_on_error(status, "the items do not fit in memory");
}

/* Print an item as a JSON object: its scores, and best[], the continuations that the rules pick. */
static void print_item_object(const item *it, size_t number, const size_t best[PICKS]) {
    printf("{\"item\": %zu, \"line\": %zu, ", number, it->line);
    if (it->error) {
        printf("\"error\": ");
        put_json(it->error, strlen(it->error));
        puts("}");
        return;
    }
    printf(it->label < 0 ? "\"label\": null" : "\"label\": %ld", it->label);
    for (size_t k = 0; k < it->n; k++) {
        const llama_continuation *c = &it->c[k];
        put_number(k ? ", {\"logprob" : ", \"continuations\": [{\"logprob", c->logprob);
        printf(", \"tokens\": %zu, \"bytes\": %zu, \"greedy\": %s", c->tokens, c->n_ending,
               c->greedy ? "true" : "false");
        put_number(", \"answer_logprob", c[it->n].logprob);
        putchar('}');
    }
    printf("]");
    for (int rule = 0; rule < PICKS; rule++)
        printf("%s\"%s\": %zu", rule ? ", " : ", \"pick\": {", rules[rule], best[rule]);
    puts("}}");
}

/* Print the rows of an item, and count in right[] the rules that picked the right continuation. */
static void print_item(const item *it, size_t number, size_t right[RULES]) {
    size_t best[PICKS] = {0};
    double max[PICKS] = {0};
    bool rows = !options.quiet && !options.json;
    for (size_t k = 0; k < it->n && !it->error; k++) {
        const llama_continuation *c = &it->c[k], *after_answer = c + it->n;
        double score[PICKS];
        score[SUM] = c->logprob;
        score[PER_TOKEN] = c->logprob / (double)c->tokens;
        score[PER_BYTE] = c->logprob / (double)c->n_ending;
        score[ANSWER] = c->logprob - after_answer->logprob;
        for (int rule = 0; rule < PICKS; rule++)
            if (k == 0 || score[rule] > max[rule]) max[rule] = score[rule], best[rule] = k;
        if (rows)
            printf("ending\t%zu\t%zu\t%.6f\t%zu\t%zu\t%d\t%.6f\n", number, k, c->logprob, c->tokens,
                   c->n_ending, c->greedy, after_answer->logprob);
    }
    if (options.json && !options.quiet) print_item_object(it, number, best);
    if (it->error) {
        if (rows) printf("error\t%zu\t%s\n", number, it->error);
        return;
    }
    if (rows) printf(it->label < 0 ? "pick\t%zu\t-" : "pick\t%zu\t%ld", number, it->label);
    for (int rule = 0; rule < PICKS; rule++) {
        if (rows) printf("\t%zu%s", best[rule], rule + 1 == PICKS ? "\n" : "");
        right[rule] += (long)best[rule] == it->label;
    }
    right[GREEDY] += it->label >= 0 && it->c[it->label].greedy;
    flush_stdout();
}

/* Read the items of the input; returns their number in *n. Stores the largest number of
 * continuations of an item and the largest number of tokens of a context with a continuation. */
static item *read_items(size_t *n, size_t *max_continuations, size_t *longest) {
    char *at = run.inputs->text.text, *line;
    size_t number = 1; /* of the line */
    char end;          /* what ends it */
    bytes memory = {.n = 0};
    for (; at; number += end == '\n' || (at && *at != '\n')) {
        end = at[strcspn(at, "\r\n")];
        line = next_field(&at, "\r\n");
        if (!*line) continue;
        append(&memory, &(item){.line = number}, sizeof(item));
        item *it = (item *)(void *)memory.text + *n;
        size_t length = 0;
        note_invalid_byte(line, strlen(line), "item", ++*n, number);
        read_item(it, line, *n);
        if (it->n > *max_continuations) *max_continuations = it->n;
        for (size_t k = 0; k < 2 * it->n; k++)
            if (it->c[k].given + it->c[k].tokens > length)
                length = it->c[k].given + it->c[k].tokens;
        if (length > run.context)
            reject(&it->error, EXIT_TOO_LONG, "item", *n, number,
                   "%zu tokens do not fit in a context of %zu; see -c", length, run.context);
        else if (length > *longest) *longest = length;
    }
    if (*n == 0) refuse("there are no items: the input is empty");
    return (void *)memory.text;
}

/* Score the first of n items, and as many of the next ones as have room in the same passes over the
 * weights, for `together` continuations. Returns their number. `all` is memory for their continuations. */
static size_t score_group(const item *items, size_t n, size_t together, bytes *all) {
    size_t group = 0, total = 0;
    cut(all, 0);
    for (; group < n; group++) {
        const item *it = &items[group];
        size_t own = it->error ? 0 : 2 * it->n;
        if (group && total + own > together) break;
        append(all, it->c, own * sizeof *it->c);
        total += own;
    }
    llama_continuation *c = (void *)all->text;
    must(llama_loglikelihood(run.session, c, total));
    for (size_t i = 0; i < group; i++) {
        size_t own = items[i].error ? 0 : 2 * items[i].n;
        memcpy(items[i].c, c, own * sizeof *c);
        c += own;
    }
    return group;
}

/* Score the continuations of all items, and print the accuracy of each rule. */
static void run_score(void) {
    size_t n = 0, max_continuations = 1, longest = 1, labelled = 0, right[RULES] = {0};
    if (memchr(run.inputs->text.text, 0, run.inputs->text.n))
        refuse("the items have a NUL in them");
    want_tokenizer();
    note_special(&run.inputs->text);
    const item *items = read_items(&n, &max_continuations, &longest);
    if (!options.session.context) run.context = longest;
    size_t together = n * 2 * max_continuations;
    if (together > MAX_TOGETHER) together = MAX_TOGETHER;
    together = fit_sequences(2 + together, 3) - 2; /* llama_loglikelihood keeps 2 contexts */
    new_session(2 + together, true);
    bytes all = {.n = 0};
    for (size_t i = 0, group; i < n; i += group) {
        group = score_group(items + i, n - i, together, &all);
        clear_progress();
        for (size_t k = i; k < i + group; k++) {
            for (size_t c = 0; c < 2 * items[k].n && !items[k].error; c++)
                run.stats.scored += items[k].c[c].tokens;
            print_item(&items[k], k, right);
            labelled += items[k].label >= 0 && !items[k].error;
        }
        flush_stdout();
        show_progress("score", (double)(i + group), (double)n);
    }
    clear_progress();
    for (int rule = 0; rule < RULES && labelled; rule++) {
        double p = (double)right[rule] / (double)labelled;
        double error = labelled > 1 ? sqrt(p * (1 - p) / (double)(labelled - 1)) : 0;
        if (options.json) {
            printf("%s\"%s\": {", rule ? ", " : "{\"accuracy\": {", rules[rule]);
            put_number("\"accuracy", p);
            put_number(", \"standard_error", error);
            printf(", \"right\": %zu, \"labelled\": %zu}%s", right[rule], labelled,
                   rule + 1 == RULES ? "}}\n" : "");
            continue;
        }
        printf("accuracy\t%s\t%.4f\t%.4f\t%zu\t%zu\n", rules[rule], p, error, right[rule],
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
    want_tokens(read_tokens(run.inputs));
    const int32_t *tokens = run.inputs->tokens;
    size_t n = run.inputs->n_tokens;
    if (n < 2)
        refuse("the text is too short: %zu token%s, and perplexity needs 2", n, n == 1 ? "" : "s");
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
    run.stats.scored = scored;
    double mean = sum / (double)scored, variance = squares / (double)scored - mean * mean;
    double per_byte = (double)NAN; /* if every token of the text was scored */
    if (!options.ids && tokens[0] == run.info.bos && scored + 1 == n)
        per_byte = sum / log(2) / (double)run.inputs->text.n;
    if (options.json) {
        put_number("{\"perplexity", exp(mean));
        put_number(", \"standard_error", exp(mean) * sqrt(variance / (double)scored));
        put_number(", \"nll", mean);
        put_number(", \"bits_per_token", mean / log(2));
        put_number(", \"bits_per_byte", per_byte);
        printf(", \"scored\": %zu, \"tokens\": %zu, \"context\": %zu, \"stride\": %zu}\n", scored,
               n, width, stride);
        return;
    }
    printf("perplexity  %.6g +- %.2g\n", exp(mean), exp(mean) * sqrt(variance / (double)scored));
    printf("nll         %.9g nats a token, %.6g bits", mean, mean / log(2));
    if (!isnan(per_byte)) printf(", %.6g bits a byte", per_byte);
    printf("\ntokens      %zu of %zu, in windows of %zu, %zu apart\n", scored, n, width, stride);
}

/* ---- 9. Info, check, tokenize, trace, bench ---- */

/* Print the ids that end a text, llama_eos first. */
static void print_ends(const char *separator) {
    if (run.info.eos >= 0) printf("%d", (int)run.info.eos);
    for (int32_t id = 0; id < run.info.vocab; id++)
        if (id != run.info.eos && llama_is_end(run.model, id)) printf("%s%d", separator, (int)id);
}

typedef struct { /* what a rank needs: bytes */
    double weights, cache, session;
} rank_needs;

/* Return what rank `rank` of options.ranks needs. Exits if the model cannot be divided so. */
static rank_needs needs_of(int rank) {
    llama_options o = options.model;
    llama_session_options so = options.session;
    llama_info info = {.size = sizeof info};
    llama_error err;
    llama *model;
    o.memory = LLAMA_MEMORY_MAP, o.memory_limit = 0;
    o.rank = so.rank = rank, o.ranks = so.ranks = options.ranks;
    exit_on_error(llama_open(&model, options.model_path, &o, &err), err.text);
    llama_describe(model, &info);
    double session = (double)llama_session_bytes(model, &so);
    llama_close(model);
    double cache = (double)info.kv_bytes_per_token * (double)run.context;
    return (rank_needs){(double)info.rank_bytes, cache * cache_share(rank, options.ranks), session};
}

/* Return how often the ranks exchange pieces of a result for a token: four times in a layer, and for
 * the logits. */
static int token_gathers(void) { return 4 * run.info.layers + 1; }

/* Return how many bytes a rank sends for a token, if each gives its own piece to every other through
 * its neighbour: the pieces of all ranks but one. */
static double token_sends(void) {
    const llama_info *i = &run.info;
    double heads = (double)i->heads * i->head_dim; /* the output of attention */
    double floats = (double)i->layers * (heads + 2.0 * i->dim + i->hidden) + i->vocab;
    return 4 * floats * (options.ranks - 1) / options.ranks;
}

/* Print what --ranks asks for; as members of an object. */
static void print_ranks_object(void) {
    for (int rank = 0; rank < options.ranks; rank++) {
        rank_needs n = needs_of(rank);
        printf("%s{\"weight_bytes\": %.0f, \"kv_bytes\": %.0f, \"session_bytes\": %.0f}",
               rank ? ", " : ", \"ranks\": [", n.weights, n.cache, n.session);
    }
    printf("], \"gathers_per_token\": %d, \"sent_bytes_per_token\": %.0f", token_gathers(),
           token_sends());
}

/* Print the same as lines. */
static void print_ranks(void) {
    for (int rank = 0; rank < options.ranks; rank++) {
        rank_needs n = needs_of(rank);
        printf("rank %-6d %.1f MB of weights, %.1f MB for a session, %.1f MB of it KV cache\n",
               rank, n.weights / 1e6, n.session / 1e6, n.cache / 1e6);
    }
    printf("a token     %d gathers; each rank sends and receives %.3g MB\n", token_gathers(),
           token_sends() / 1e6);
}

/* Return the models to which this one belongs, as far as its shape tells. */
static const char *family(void) {
    const llama_info *i = &run.info;
    if (i->rope_original || strcmp(i->rope_scaling, "divisors") == 0)
        return "Llama 3.1, 3.2 or 3.3";
    if (i->vocab >= 128000) return "Llama 3";
    return i->pieces && strcmp(i->vocabulary, "sentencepiece") != 0 ? "a model of Llama's shape"
                                                                    : "LLaMA 1 or 2";
}

/* For --json: print what `info` says. */
static void print_info_object(double needed) {
    const llama_info *i = &run.info;
    printf("{\"model\": ");
    put_json(options.model_path, strlen(options.model_path));
    printf(", \"format\": \"%s\", \"dtype\": \"%s\", \"shards\": %d", i->format, i->dtype,
           i->shards);
    printf(", \"dim\": %d, \"layers\": %d, \"heads\": %d, \"kv_heads\": %d, \"head_dim\": %d, "
           "\"hidden\": %d, \"vocab\": %d",
           i->dim, i->layers, i->heads, i->kv_heads, i->head_dim, i->hidden, i->vocab);
    put_number(", \"norm_eps", (double)i->norm_eps);
    put_number(", \"rope_theta", (double)i->rope_theta);
    printf(", \"family\": \"%s\", \"rope_scaling\": \"%s\"", family(), i->rope_scaling);
    put_number(", \"rope_factor", (double)i->rope_factor);
    put_number(", \"rope_low", (double)i->rope_low);
    put_number(", \"rope_high", (double)i->rope_high);
    printf(", \"rope_original\": %d, \"vocabulary\": \"%s\"", i->rope_original, i->vocabulary);
    printf(", \"parameters\": %" PRIu64 ", \"file_bytes\": %" PRIu64, i->parameters, i->file_bytes);
    printf(", \"tokenizer\": %s", llama_token_text(run.model, 0, NULL) ? "true" : "false");
    put_number(", \"bos", i->bos < 0 ? (double)NAN : i->bos);
    put_number(", \"eos", i->eos < 0 ? (double)NAN : i->eos);
    printf(", \"ends\": [");
    print_ends(", ");
    printf("], \"add_bos\": %s", i->add_bos ? "true" : "false");
    printf(", \"trained_context\": %d, \"context\": %zu, \"kv_bytes_per_token\": %" PRIu64,
           i->context, run.context, i->kv_bytes_per_token);
    printf(", \"memory_needed\": %.0f, \"memory\": ", needed);
    if (i->memory_limit) printf("%" PRIu64, i->memory_limit);
    else printf("null");
    printf(", \"weights\": \"%s\", \"kept_bytes\": %" PRIu64 ", \"pass_bytes\": %" PRIu64
           ", \"read_bytes_per_second\": %" PRIu64,
           memory_modes[i->memory], i->kept_bytes, i->stream_bytes, i->read_speed);
    if (options.ranks) print_ranks_object();
    printf(", \"kernels\": \"%s\"}\n", llama_session_kernels(run.session));
}

/* If weights are streamed, find out how fast: the library begins to read the first weights, and its
 * speed is known when it has read some. */
static void measure_reading(void) {
    double start = now();
    uint64_t before;
    if (!streamed()) return;
    llama_prefetch(run.model, NULL, NULL);
    do {
        before = run.info.read_bytes;
        pause_for(50);
        llama_describe(run.model, &run.info);
    } while ((run.info.read_bytes == 0 || run.info.read_bytes > before) && now() - start < 2);
}

/* If weights are streamed, print what a pass reads and how long that takes. */
static void print_streaming(void) {
    double bytes_read = (double)run.info.stream_bytes, speed = (double)run.info.read_speed;
    if (!streamed()) return;
    printf("streaming   %.3g GB of weights are kept in memory, %.3g GB are read in every pass\n",
           (double)run.info.kept_bytes / 1e9, bytes_read / 1e9);
    if (speed > 0)
        printf(
            "pass        at least %.2g s, as the disk reads %.2f GB/s now, for one token or for\n"
            "            several: --lines, -k, score and --draft share passes; the first pass\n"
            "            reads all weights\n",
            bytes_read / speed, speed / 1e9);
}

static void run_info(void) {
    const llama_info *i = &run.info;
    llama_session_options *so = &options.session;
    llama_error err;
    so->context = (int)run.context, so->sequences = 1;
    if (machines.ranks > 1 && !options.ranks) options.ranks = machines.ranks;
    int status = llama_session_new(&run.session, run.model, so, &err);
    if (status == LLAMA_ENOMEM) { /* a small session tells the kernels */
        llama_error why = err;
        so->context = 1;
        status = llama_session_new(&run.session, run.model, so, &err);
        so->context = (int)run.context;
        if (status == LLAMA_OK) note("%s: see %s", why.text, memory_options());
    }
    exit_on_error(status, err.text);
    double session = (double)llama_session_bytes(run.model, &options.session);
    double needed = weight_bytes() + session, memory = memory_limit();
    measure_reading();
    if (options.json) {
        print_info_object(needed);
        return;
    }
    printf("model       %s\n", options.model_path);
    printf("format      %s, %s, %d shard%s\n", i->format, i->dtype, i->shards,
           i->shards > 1 ? "s" : "");
    printf("shape       dim %d, layers %d, heads %d, kv_heads %d, head_dim %d, hidden %d, "
           "vocab %d\n",
           i->dim, i->layers, i->heads, i->kv_heads, i->head_dim, i->hidden, i->vocab);
    printf("family      %s\n", family());
    printf("constants   norm_eps %g, rope_theta %g\n", (double)i->norm_eps, (double)i->rope_theta);
    printf("scaling     %s", i->rope_scaling);
    if (i->rope_factor > 1) printf(", factor %g", (double)i->rope_factor);
    if (i->rope_original)
        printf(" from %g to %g turns in %d positions", (double)i->rope_high, (double)i->rope_low,
               i->rope_original);
    putchar('\n');
    printf("parameters  %" PRIu64 "\n", i->parameters);
    printf("bytes       %" PRIu64 "\n", i->file_bytes);
    printf("tokenizer   %s%s", i->vocabulary, i->pieces ? ", " : "");
    if (i->bos >= 0) printf("bos %d%s, ", (int)i->bos, i->add_bos ? "" : " (not added)");
    else if (i->pieces) printf("no bos, ");
    if (i->eos >= 0) printf("%seos ", i->pieces ? "" : ", ");
    else if (i->pieces) printf("no eos");
    print_ends(" ");
    putchar('\n');
    printf("context     %zu positions, KV cache %" PRIu64 " bytes (%" PRIu64 " a position)\n",
           run.context, i->kv_bytes_per_token * run.context, i->kv_bytes_per_token);
    printf("memory      %.1f GB needed", needed / 1e9);
    if (i->memory_limit) printf(", of %.1f GB available", memory / 1e9);
    printf("%s\n", session > memory ? ": the context does not fit; see -c"
                   : needed > memory && !streamed()
                       ? ": weights will be read from disk again and again"
                       : "");
    print_streaming();
    if (options.ranks) print_ranks();
    printf("kernels     %s\n", llama_session_kernels(run.session));
}

static void run_check(void) {
    llama_error err;
    int status = llama_check(run.model, on_progress, NULL, &err);
    clear_progress();
    exit_on_error(status, err.text);
    most(0); /* wait for the other ranks, each of which reads its own files */
    printf("%s: sound, %" PRIu64 " parameters in %d file%s\n", options.model_path,
           run.info.parameters, run.info.shards, run.info.shards > 1 ? "s" : "");
}

/* Print the text of an input that is token ids. It ends with a newline if it is one of several, and
 * with NUL by -0; alone, with a newline if a terminal would be left in the middle of a line. */
static void print_decoded(input *in, bool many) {
    bytes text = {.n = 0};
    want_tokens(parse_ids(in));
    append_tokens(&text, in->tokens, in->n_tokens, true);
    write_text(text.text, text.n);
    if (many) putchar(options.null ? 0 : '\n');
    else if (is_terminal(stdout) && text.n && text.text[text.n - 1] != '\n') putchar('\n');
}

/* Print the tokens of an input, or their number. */
static void print_tokens(input *in) {
    want_tokens(
        tokenize(in, (options.bos ? LLAMA_ADD_BOS : 0) | (options.special ? LLAMA_SPECIAL : 0)));
    if (options.bos && !run.info.add_bos) { /* the model's files say not to, the user to */
        memmove(in->tokens + 1, in->tokens, in->n_tokens++ * sizeof *in->tokens);
        in->tokens[0] = run.info.bos;
    }
    if (options.count) printf("%zu", in->n_tokens);
    for (size_t i = 0; i < in->n_tokens && !options.count; i++)
        printf("%s%d", i ? " " : "", (int)in->tokens[i]);
    putchar('\n');
}

/* Print the ids of each text, their number (--count), or the text of ids (--decode). */
static void run_tokenize(void) {
    want_tokenizer();
    if (options.decode && (options.count || options.bos))
        refuse("--decode: not with --count or --bos");
    if (options.bos && run.info.bos < 0) refuse("--bos: the tokenizer has no start token");
    for (input *in = run.inputs; in < run.inputs + run.n_inputs; in++)
        if (options.decode) print_decoded(in, options.lines || options.null);
        else print_tokens(in);
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

/* Return whether x of this name is [heads][tokens][positions], not [tokens][columns]. */
static bool of_heads(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && (strcmp(dot, ".scores") == 0 || strcmp(dot, ".probs") == 0);
}

/* Write x to DIR/NAME.npy: a magic number, the version 1.0, the length of a header, the header, which is
 * Python's text of a dict and ends at a multiple of 64 bytes, and the numbers. */
static void write_npy(const char *name, const float *x, const size_t shape[3], size_t dims) {
    enum { START = 10, UNIT = 64 };
    char header[3 * UNIT], path[4096];
    int n = snprintf(header + START, sizeof header - START - UNIT,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (size_t i = 0; i < dims; i++)
        n += snprintf(header + START + n, UNIT / 2, "%zu%s", shape[i], i + 1 < dims ? ", " : ")}");
    while ((START + n + 1) % UNIT) header[START + n++] = ' ';
    header[START + n++] = '\n';
    memcpy(header, "\x93NUMPY\1\0", 8);
    header[8] = (char)n, header[9] = 0;
    if (snprintf(path, sizeof path, "%s/%s.npy", options.npy_folder, name) >= (int)sizeof path)
        refuse("--npy: the path is too long");
    FILE *f = create_file(path);
    size_t count = shape[0] * shape[1] * (dims > 2 ? shape[2] : 1);
    bool written = f && fwrite(header, 1, START + (size_t)n, f) == START + (size_t)n &&
                   fwrite(x, sizeof *x, count, f) == count;
    if ((f && fclose(f) != 0) || !written)
        die(EXIT_RUN, "%s: cannot be written: %s", path, strerror(errno));
}

/* The callback of llama_trace: print a line about x [rows][cols], the result of the name `name`, and
 * write it to a file (--npy), if the arguments select it. Argument w sets found[w] if it selects
 * anything. */
static void print_rows(void *found, const char *name, const float *x, size_t rows, size_t cols) {
    bool selected = options.n_arguments == 0;
    double sum = 0, squares = 0, count = 0;
    for (size_t w = 0; w < options.n_arguments; w++) {
        size_t n = strlen(options.arguments[w]);
        if (strncmp(name, options.arguments[w], n) == 0 && strchr(".", name[n]))
            selected = ((bool *)found)[w] = true;
    }
    if (!selected) return;
    size_t heads = of_heads(name) ? (size_t)run.info.heads : 0, dims = heads ? 3 : 2;
    size_t shape[3] = {heads ? heads : rows, heads ? rows / heads : cols, cols};
    for (size_t i = 0; i < rows * cols; i++)
        if (isfinite(x[i])) sum += (double)x[i], squares += (double)x[i] * (double)x[i], count++;
    double mean = sum / count, rms = sqrt(squares / count);
    unsigned crc = (unsigned)crc32(x, rows * cols * sizeof *x);
    if (options.npy_folder && machines.rank == 0) write_npy(name, x, shape, dims);
    if (options.json) printf("{\"name\": \"%s\", \"shape\": [", name);
    else printf("%-30s [", name);
    for (size_t i = 0; i < dims; i++) printf("%zu%s", shape[i], i + 1 < dims ? ", " : "]");
    if (options.json) {
        put_number(", \"mean", mean);
        put_number(", \"rms", rms);
        printf(", \"crc32\": \"%08x\", \"first\": [", crc);
    } else printf("  mean %.6g  rms %.6g  crc32 %08x  first", mean, rms, crc);
    for (size_t i = 0; i < cols && i < 4; i++)
        if (!options.json) printf(" %.7g", (double)x[i]);
        else if (isfinite(x[i])) printf("%s%.9g", i ? ", " : "", (double)x[i]);
        else printf("%snull", i ? ", " : "");
    printf(options.json ? "]}\n" : "\n");
}

/* Evaluate the prompt in one batch, and print what print_rows selects. */
static void run_trace(void) {
    bool *found = allocate(options.n_arguments * sizeof *found);
    if (!tokenize_prompt(run.inputs)) return;
    bool makes = options.npy_folder && machines.rank == 0;
    int error = makes && !make_directory(options.npy_folder) ? errno : 0;
    if ((error = shared(error)))
        refuse("--npy: %s cannot be made: %s", options.npy_folder, strerror(error));
    options.session.batch = (int)run.inputs->n_tokens;
    if (!options.session.context) run.context = run.inputs->n_tokens; /* no longer than needed */
    new_session(1, false);
    must(llama_trace(run.session, print_rows, found));
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
    if (options.json) {
        printf("{\"prompt_tokens\": %d, \"generated_tokens\": %d", PROMPT, GENERATED);
        put_number(", \"prompt_tokens_per_second", PROMPT / prompt);
        put_number(", \"generated_tokens_per_second", GENERATED / generation);
        put_number(", \"weight_bytes_per_second",
                   GENERATED / generation * (double)run.info.token_bytes);
        printf(", \"kernels\": \"%s\"}\n", llama_session_kernels(run.session));
        return;
    }
    printf("prompt      %d tokens, %.2f tokens/s\n", PROMPT, PROMPT / prompt);
    printf("generation  %d tokens, %.2f tokens/s, %.1f GB/s of weights\n", GENERATED,
           GENERATED / generation, GENERATED / generation * (double)run.info.token_bytes / 1e9);
    printf("kernels     %s\n", llama_session_kernels(run.session));
}

/* ---- 10. Line editor ---- */

/* edit_line reads a line of the chat. It is used if stdin and stdout are a terminal and TERM is not
 * "dumb". The terminal is taken for the whole chat: keys come as they are pressed, nothing is
 * echoed, and pasted text comes between marks. Every way out of the process gives it back as it
 * was, except SIGKILL.
 *
 * On the screen the line has rows: after a sign come its characters, and a new row begins after the
 * last column and after a newline. draw_line() prints these rows again after each key. */

enum {
    HISTORY = 256,        /* lines that are remembered */
    KEY_MILLISECONDS = 50 /* within which the bytes of one key come */
};

#define CONTROL(letter) ((letter)&0x1f)

/* Keys that are not bytes. */
enum {
    KEY_DELETE = 0x100,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_PASTE, /* pasted text follows */
    KEY_UNKNOWN,
    KEY_NONE = -1,       /* nothing came in time */
    KEY_END = -2,        /* stdin has ended */
    KEY_INTERRUPTED = -3 /* SIGINT came */
};

static struct {
    bytes *line; /* the line so far */
    const char *sign;
    size_t cursor;     /* a position in the line */
    size_t first, row; /* as drawn: the first row that is printed, the cursor's row below it */
    bytes drawn;       /* as drawn: the text before the cursor */
    bytes draft;       /* the line before an older one was recalled */
    bytes pasted, out;
    bytes history[HISTORY]; /* line i is history[i % HISTORY] */
    size_t n_history;
} editor;

/* ---- The rows on the screen ---- */

/* Return the length of the first character of a text, with the combining characters that follow it.
 * *width is its width in columns; -1: it is a control character (see make_visible). */
static size_t next_character(const char *text, size_t n, int *width) {
    int32_t c;
    size_t size = llama_utf8_next(text, n, &c), more;
    *width = llama_is_control(c) ? -1 : character_width(c);
    for (; *width >= 0 && size < n; size += more) {
        more = llama_utf8_next(text + size, n - size, &c);
        if (llama_is_control(c) || character_width(c) != 0) break;
    }
    return size;
}

typedef struct {                 /* puts characters into rows */
    size_t columns, row, column; /* of the screen; of the next character */
    size_t first, last;          /* the rows to print */
    bytes *out;                  /* gets what is printed; NULL: nothing is printed */
} layout;

static void next_row(layout *l, const char *jump) {
    l->row++, l->column = 0;
    if (l->out && l->row > l->first && l->row <= l->last) append(l->out, jump, strlen(jump));
}

/* Put a character of n bytes. If it fills the row, the space in " \r" makes every terminal begin
 * the next row at once. */
static void put_cell(layout *l, const char *text, size_t n, size_t width) {
    if (l->column && l->column + width > l->columns) { /* one column is left of this row */
        if (l->out && l->row >= l->first && l->row <= l->last) append(l->out, " ", 1);
        next_row(l, " \r");
    }
    if (l->out && l->row >= l->first && l->row <= l->last) append(l->out, text, n);
    l->column += width;
    if (l->column >= l->columns) next_row(l, " \r");
}

/* Put n bytes of text. Tabs end at every eighth column. */
static void place_text(layout *l, const char *text, size_t n) {
    for (size_t i = 0, size; i < n; i += size) {
        int width;
        size = next_character(text + i, n - i, &width);
        if (text[i] == '\n') next_row(l, "\r\n"), put_cell(l, MORE_SIGN, 2, 2);
        else if (width >= 0) put_cell(l, text + i, size, (size_t)width);
        else {
            char shown[16] = "        "; /* a tab */
            if (text[i] == '\t') shown[8 - l->column % 8] = 0;
            else make_visible(text + i, n - i, shown);
            for (const char *c = shown; *c; c++) put_cell(l, c, 1, 1);
        }
    }
}

/* Append the sequence that moves the cursor by n rows or columns. */
static void move(bytes *out, size_t n, char direction) {
    char sequence[32];
    if (n == 0) return;
    append(out, sequence, (size_t)snprintf(sequence, sizeof sequence, "\033[%zu%c", n, direction));
}

/* Draw the line and place the cursor. If the screen has too few rows, only those around the cursor
 * are printed; with `whole` all are, and the cursor ends after the line. */
static void draw_line(bool whole) {
    const bytes *line = editor.line;
    bytes *out = &editor.out;
    size_t rows, columns;
    screen_size(stdin, &rows, &columns);
    layout l = {.columns = columns, .last = SIZE_MAX};
    layout printed = l;
    place_text(&l, editor.sign, strlen(editor.sign));
    place_text(&l, line->text, editor.cursor);
    size_t row = l.row, column = l.column; /* of the cursor */
    place_text(&l, line->text + editor.cursor, line->n - editor.cursor);
    size_t up = terminal.resumed ? 0 : editor.row;
    if (terminal.resized && !terminal.resumed) { /* the terminal has wrapped the rows again */
        layout wrapped = {.columns = l.columns};
        place_text(&wrapped, editor.sign, strlen(editor.sign));
        place_text(&wrapped, editor.drawn.text, editor.drawn.n);
        up = editor.first ? rows : wrapped.row;
    }
    terminal.resized = terminal.resumed = false;
    if (!whole && l.row >= rows) {
        printed.first = row > rows / 2 ? row - rows / 2 : 0;
        if (printed.first > l.row + 1 - rows) printed.first = l.row + 1 - rows;
        printed.last = printed.first + rows - 1;
    }
    cut(out, 0), move(out, up, 'A'), append(out, "\r\033[J", 4);
    printed.out = out;
    place_text(&printed, editor.sign, strlen(editor.sign));
    place_text(&printed, line->text, line->n);
    if (!whole) {
        move(out, (printed.row < printed.last ? printed.row : printed.last) - row, 'A');
        append(out, "\r", 1), move(out, column, 'C');
    }
    editor.first = printed.first, editor.row = row - printed.first;
    cut(&editor.drawn, 0), append(&editor.drawn, line->text, editor.cursor);
    fwrite(out->text, 1, out->n, run.chat.screen);
    fflush(run.chat.screen);
}

/* ---- Keys ---- */

/* Return the next byte, or KEY_NONE if it does not come in so many milliseconds (-1: no limit). */
static int read_byte(int milliseconds) {
    while (!interrupted) {
        if (terminal.resized || terminal.resumed) draw_line(false);
        int byte = read_key(milliseconds < 0 ? 100 : milliseconds);
        if (byte == KEY_INTERRUPTED) continue; /* by Ctrl-C, or because the size changed */
        if (byte != KEY_NONE || milliseconds >= 0) return byte;
    }
    return KEY_INTERRUPTED;
}

/* Read the rest of a key that began with ESC. Keys that have a control character are returned as
 * this character. */
static int read_sequence(void) {
    static const struct {
        const char *sequence;
        int key;
    } keys[] = {{"[A", CONTROL('P')},     {"OA", CONTROL('P')},      {"[B", CONTROL('N')},
                {"OB", CONTROL('N')},     {"[C", CONTROL('F')},      {"OC", CONTROL('F')},
                {"[D", CONTROL('B')},     {"OD", CONTROL('B')},      {"[H", CONTROL('A')},
                {"OH", CONTROL('A')},     {"[1~", CONTROL('A')},     {"[7~", CONTROL('A')},
                {"[F", CONTROL('E')},     {"OF", CONTROL('E')},      {"[4~", CONTROL('E')},
                {"[8~", CONTROL('E')},    {"[3~", KEY_DELETE},       {"[1;5D", KEY_WORD_LEFT},
                {"[1;3D", KEY_WORD_LEFT}, {"b", KEY_WORD_LEFT},      {"[1;5C", KEY_WORD_RIGHT},
                {"f", KEY_WORD_RIGHT},    {"[1;3C", KEY_WORD_RIGHT}, {"[200~", KEY_PASTE},
                {"\177", CONTROL('W')}};
    char text[16] = "";
    for (size_t n = 0; n < 64;) {
        int byte = read_byte(KEY_MILLISECONDS);
        if (byte < 0) break;
        if (n + 1 < sizeof text) text[n] = (char)byte;
        n++;
        if (n == 1 && (byte == '[' || byte == 'O')) continue;
        if (n == 1 || byte < ' ' || byte >= '@') break; /* the last byte of the key */
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].sequence, text) == 0) return keys[i].key;
    return KEY_UNKNOWN;
}

/* ---- The line ---- */

static void insert(const char *text, size_t n) {
    char *at = (append(editor.line, text, n), editor.line->text + editor.cursor);
    memmove(at + n, at, editor.line->n - n - editor.cursor);
    memcpy(at, text, n);
    editor.cursor += n;
}

/* Remove the bytes from `begin` to `end`, and place the cursor there. */
static void erase(size_t begin, size_t end) {
    bytes *line = editor.line;
    memmove(line->text + begin, line->text + end, line->n - end);
    cut(line, line->n - (end - begin));
    editor.cursor = begin;
}

/* Insert pasted text. It ends with a mark, or if nothing comes for a second. */
static void paste(void) {
    static const char mark[] = "\033[201~";
    enum { MARK = sizeof mark - 1 };
    bytes *p = &editor.pasted;
    cut(p, 0);
    for (int byte, last = 0; (byte = read_byte(1000)) >= 0; last = byte) {
        if (byte == '\n' && last == '\r') continue; /* CR and CR LF are newlines */
        append(p, byte == '\r' ? "\n" : &(char){(char)byte}, 1);
        if (p->n < MARK || memcmp(p->text + p->n - MARK, mark, MARK) != 0) continue;
        cut(p, p->n - MARK);
        break;
    }
    insert(p->text, p->n);
}

/* Return the position of the character before or after the cursor. */
static size_t left(void) {
    size_t at = 0, size;
    int width;
    const bytes *line = editor.line;
    while (at < line->n &&
           at + (size = next_character(line->text + at, line->n - at, &width)) < editor.cursor)
        at += size;
    return at;
}
static size_t right(void) {
    int width;
    size_t at = editor.cursor, n = editor.line->n;
    return at < n ? at + next_character(editor.line->text + at, n - at, &width) : n;
}

/* Return the beginning of the word before the cursor, or the end of the word after it. */
static size_t word_left(void) {
    size_t at = editor.cursor;
    const char *text = editor.line->text;
    while (at && strchr(" \t\n", text[at - 1])) at--;
    while (at && !strchr(" \t\n", text[at - 1])) at--;
    return at;
}
static size_t word_right(void) {
    size_t at = editor.cursor, n = editor.line->n;
    const char *text = editor.line->text;
    while (at < n && strchr(" \t\n", text[at])) at++;
    while (at < n && !strchr(" \t\n", text[at])) at++;
    return at;
}

static void copy(bytes *to, const bytes *from) { cut(to, 0), append(to, from->text, from->n); }

/* Replace the line, which is line `from` of the history, by line `to`. The line after the last is
 * the draft. Returns the number of the line that is shown then. */
static size_t recall(size_t from, size_t to) {
    size_t n = editor.n_history;
    if (to > n || n - to > HISTORY) return from;
    if (from == n) copy(&editor.draft, editor.line);
    copy(editor.line, to == n ? &editor.draft : &editor.history[to % HISTORY]);
    editor.cursor = editor.line->n;
    return to;
}

/* Add the line to the history, unless it is empty or there already as the last one. */
static void remember(void) {
    const bytes *line = editor.line;
    const bytes *last = editor.n_history ? &editor.history[(editor.n_history - 1) % HISTORY] : line;
    if (!line->n ||
        (last != line && last->n == line->n && memcmp(last->text, line->text, line->n) == 0))
        return;
    copy(&editor.history[editor.n_history++ % HISTORY], line);
}

/* Do what a key says. Returns 1 if it ends the line, 0 if it ends the chat, -1 if it drops the
 * line, and 2 if the line goes on. *entry is the number of the line in the history. */
static int press(int key, size_t *entry) {
    bytes *line = editor.line;
    size_t cursor = editor.cursor;
    switch (key) {
    case '\r':
    case '\n':
        if (!line->n || line->text[line->n - 1] != '\\') return 1;
        line->text[line->n - 1] = '\n', editor.cursor = line->n;
        break;
    case KEY_END: return line->n > 0;
    case CONTROL('C'):
    case KEY_INTERRUPTED: return -1;
    case CONTROL('D'):
        if (!line->n) return 0;
        erase(cursor, right());
        break;
    case KEY_DELETE: erase(cursor, right()); break;
    case CONTROL('H'):
    case 0x7f: erase(left(), cursor); break;
    case CONTROL('W'): erase(word_left(), cursor); break;
    case CONTROL('U'): erase(0, cursor); break;
    case CONTROL('K'): erase(cursor, line->n); break;
    case CONTROL('A'): editor.cursor = 0; break;
    case CONTROL('E'): editor.cursor = line->n; break;
    case CONTROL('B'): editor.cursor = left(); break;
    case CONTROL('F'): editor.cursor = right(); break;
    case KEY_WORD_LEFT: editor.cursor = word_left(); break;
    case KEY_WORD_RIGHT: editor.cursor = word_right(); break;
    case CONTROL('P'): *entry = recall(*entry, *entry - 1); break;
    case CONTROL('N'): *entry = recall(*entry, *entry + 1); break;
    case CONTROL('L'): /* clear the screen */
        send_sequence("\033[H\033[2J");
        terminal.resumed = true;
        break;
    case CONTROL('Z'):
    case CONTROL('\\'): send_key_signal(key); break;
    case KEY_PASTE: paste(); break;
    default:
        if (key == '\t' || (key >= ' ' && key < 0x100)) insert(&(char){(char)key}, 1);
    }
    return 2;
}

/* Read a line from the terminal, as read_line does. */
static int edit_line(bytes *line, const char *sign) {
    size_t entry = editor.n_history;
    int result = 2;
    cut(line, 0), cut(&editor.drawn, 0);
    editor.line = line, editor.sign = sign;
    editor.cursor = editor.first = editor.row = 0;
    terminal.resized = terminal.resumed = false;
    take_terminal(false);
    while (result == 2) {
        if (!key_waits()) draw_line(false);
        int key = read_byte(-1);
        result = press(key == CONTROL('[') ? read_sequence() : key, &entry);
    }
    draw_line(true);
    take_terminal(true);
    if (result > 0) remember();
    if (result) fprintf(run.chat.screen, "%s\r\n", result < 0 ? "^C" : "");
    return result;
}

/* ---- 11. Platform: POSIX ---- */

#if !defined(_WIN32)
static char **begin_process(int *argc, char **argv) { return (void)argc, argv; }

static const char *environment(const char *name) { return getenv(name); }

/* macOS has CLOCK_MONOTONIC since 10.12 (clock_gettime(3)). */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(int milliseconds) {
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L}, NULL);
}

/* macOS declares getentropy in sys/random.h (getentropy(2)). */
static bool random_bytes(void *to, size_t n) { return getentropy(to, n) == 0; }

static void (*thread_work)(void); /* one thread is started */
static void *run_thread(void *user) {
    thread_work();
    return user;
}

static bool start_thread(void (*work)(void)) {
    pthread_t thread;
    thread_work = work;
    return pthread_create(&thread, NULL, run_thread, NULL) == 0 && pthread_detach(thread) == 0;
}

/* ---- Platform: POSIX: files ---- */

static int file_kind(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) return NO_FILE;
    if (S_ISDIR(st.st_mode)) return FOLDER;
    return !S_ISREG(st.st_mode) ? OTHER_FILE : st.st_size ? REGULAR_FILE : EMPTY_FILE;
}

static FILE *open_file(const char *path) { return fopen(path, "rb"); }
static FILE *create_file(const char *path) { return fopen(path, "wb"); }
static bool make_directory(const char *path) {
    return mkdir(path, 0777) == 0 || (errno == EEXIST && file_kind(path) == FOLDER);
}

/* Remove the last name of a path: "folder/name" becomes "folder/". */
static void cut_name(bytes *path) {
    while (path->n && path->text[path->n - 1] != '/') cut(path, path->n - 1);
}

static bool can_replace(const char *name) {
    char target[4096];
    bytes path = {.n = 0};
    append(&path, name, strlen(name));
    for (ssize_t n, i = 0; i < 40 && (n = readlink(path.text, target, sizeof target)) > 0; i++) {
        cut_name(&path);
        if (*target == '/') cut(&path, 0);
        append(&path, target, (size_t)n);
    }
    cut_name(&path), append(&path, ".", 1);
    return access(path.text, W_OK | X_OK) == 0;
}

static bool is_stdin(const char *path) {
    struct stat a, b;
    if (strcmp(path, "-") == 0) return true;
    return stat(path, &a) == 0 && fstat(STDIN_FILENO, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static bool stdin_has_document(void) {
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 &&
           (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

static int wait_for_input(int milliseconds) {
    return poll(&(struct pollfd){STDIN_FILENO, POLLIN, 0}, 1, milliseconds);
}

static bool reader_is_gone(void) { return errno == EPIPE; }

static void begin_typing(void) {} /* the terminal's driver edits lines */

/* ---- Platform: POSIX: the terminal ---- */

/* mpirun may put a terminal of its own in the place of stdout. It must not change what is printed. */
static bool is_terminal(FILE *f) { return isatty(fileno(f)) && !(f == stdout && machines.gather); }

static bool is_dumb(void) {
    const char *term = getenv("TERM");
    return term && strcmp(term, "dumb") == 0;
}

static void screen_size(FILE *f, size_t *rows, size_t *columns) {
    struct winsize size = {.ws_col = 0};
    if (ioctl(fileno(f), TIOCGWINSZ, &size) != 0) size.ws_col = size.ws_row = 0;
    *rows = size.ws_row ? size.ws_row : 24;
    *columns = size.ws_col ? size.ws_col : 80;
}

static int character_width(int32_t c) { return wcwidth((wchar_t)c) < 0 ? 1 : wcwidth((wchar_t)c); }

/* write: it is called in signal handlers. */
static void send_sequence(const char *sequence) {
    if (write(fileno(run.chat.screen), sequence, strlen(sequence)) < 0) return;
}

/* Return whether the terminal belongs to another group of processes now. */
static bool in_background(void) {
    pid_t group = tcgetpgrp(STDIN_FILENO);
    return group >= 0 && group != getpgrp();
}

/* If the process is in the background, the terminal stays as it is. */
static void take_terminal(bool signals) {
    struct termios mode = terminal.saved;
    terminal.signals = signals;
    if (in_background()) return;
    mode.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON | ISTRIP);
    mode.c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN);
    if (!signals) mode.c_lflag &= ~(tcflag_t)ISIG;
    mode.c_cc[VMIN] = 1, mode.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &mode);
    if (!terminal.taken) send_sequence("\033[?2004h"); /* marks around pasted text */
    terminal.taken = true;
}

/* Give the terminal its mode from before the chat. Safe in a signal handler. */
static void release_terminal(void) {
    bool taken = terminal.taken;
    terminal.taken = false;
    if (!taken || in_background()) return;
    send_sequence("\033[?2004l");
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
}

static void restore_terminal(void) { terminal.wanted = false, release_terminal(); }

/* Handle a signal that ends the process. */
static void on_fatal(int signal_number) { restore_terminal(), raise(signal_number); }

static void on_resize(int signal_number) { terminal.resized = signal_number; }

/* Handle SIGCONT: take the terminal again, whatever stopped the process. */
static void on_continue(int signal_number) {
    int error = errno;
    terminal.taken = false;
    if (terminal.wanted) take_terminal(terminal.signals);
    terminal.resumed = signal_number;
    errno = error;
}

/* Handle SIGTSTP: stop, with the terminal as it was. */
static void on_stop(int signal_number) {
    struct sigaction action = {.sa_handler = on_stop,
                               .sa_flags = (int)(SA_RESETHAND | SA_NODEFER | SA_RESTART)};
    int error = errno;
    release_terminal();
    raise(signal_number); /* its handler was reset, so this stops the process, until
                                SIGCONT: on_continue */
    sigaction(SIGTSTP, &action, NULL);
    if (!terminal.taken) on_continue(signal_number); /* an orphaned group is not stopped */
    errno = error;
}

/* Handles the signals that concern the terminal. Those that are handled or ignored already stay so. */
static bool start_editor(void) {
    static const int fatal[] = {SIGHUP,  SIGQUIT, SIGILL,  SIGTRAP, SIGABRT, SIGFPE, SIGSEGV,
                                SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
    struct sigaction action = {.sa_handler = on_fatal}, present;
    if (tcgetattr(STDIN_FILENO, &terminal.saved) != 0) return false;
    if (!setlocale(LC_CTYPE, "C.UTF-8")) setlocale(LC_CTYPE, "en_US.UTF-8"); /* for wcwidth */
    action.sa_flags = (int)(SA_RESETHAND | SA_NODEFER);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        if (sigaction(fatal[i], NULL, &present) == 0 && present.sa_handler == SIG_DFL)
            sigaction(fatal[i], &action, NULL);
    action.sa_flags |= (int)SA_RESTART, action.sa_handler = on_stop;
    if (sigaction(SIGTSTP, NULL, &present) == 0 && present.sa_handler == SIG_DFL)
        sigaction(SIGTSTP, &action, NULL);
    action.sa_flags = (int)SA_RESTART, action.sa_handler = on_continue;
    sigaction(SIGCONT, &action, NULL);
    action.sa_handler = on_resize;
    sigaction(SIGWINCH, &action, NULL);
    terminal.wanted = true;
    atexit(restore_terminal);
    take_terminal(true);
    return true;
}

static int read_key(int milliseconds) {
    unsigned char byte;
    int ready = wait_for_input(milliseconds);
    if (ready == 0) return KEY_NONE;
    ssize_t got = ready > 0 ? read(STDIN_FILENO, &byte, 1) : -1;
    if (got == 1) return byte;
    return got < 0 && (errno == EINTR || errno == EAGAIN) ? KEY_INTERRUPTED : KEY_END;
}

static bool key_waits(void) { return wait_for_input(0) > 0; }

static void send_key_signal(int key) {
    if (key == CONTROL('Z')) kill(0, SIGTSTP);
    else raise(SIGQUIT);
}

/* ---- Platform: POSIX: signals ---- */

/* SIGALRM comes after exit_soon. */
static void exit_by_signal(int signal_number) {
    const char *end = run.progress.print_time > 0 ? "\r\033[K" : "\n";
    if (signal_number == SIGALRM) signal_number = interrupted;
    restore_terminal();
    if (run.progress.terminal && write(STDERR_FILENO, end, strlen(end)) < 0) _exit(EXIT_RUN);
    if (signal_number == SIGINT) _exit(EXIT_INTERRUPTED);
    signal(signal_number, SIG_DFL);
    raise(signal_number); /* in its handler it is delivered when that returns */
}

static void exit_soon(void) {
    static const struct itimerval soon = {.it_value = {.tv_usec = 100000}};
    setitimer(ITIMER_REAL, &soon, NULL);
}

/* Hangups that are ignored, as under nohup, stay ignored. Writing more than ulimit -f allows fails
 * with an error. */
static void catch_signals(void) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM};
    struct sigaction action = {.sa_handler = on_signal}, old;
    for (int i = 0; i < 4; i++)
        if (signals[i] != SIGHUP || sigaction(SIGHUP, NULL, &old) != 0 || old.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

/* Handle SIGBUS: a file of weights was truncated while mapped. The evaluation then fails. */
static void on_sigbus(int signal_number, siginfo_t *fault, void *state) {
    (void)state;
    if (!llama_handle_sigbus(run.model, fault->si_addr) &&
        !llama_handle_sigbus(run.draft, fault->si_addr))
        restore_terminal(), signal(signal_number, SIG_DFL);
}

static void catch_lost_files(void) {
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
}

#else
/* ---- Platform: Windows ---- */

/* Return a text in UTF-8, or in UTF-16. A half of a pair of surrogates becomes U+FFFD. */
static char *narrow(const wchar_t *wide) {
    int n = WideCharToMultiByte(CP_UTF8, 0, wide, -1, NULL, 0, NULL, NULL);
    char *text = allocate((size_t)n + 1);
    WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, n, NULL, NULL);
    return text;
}
static wchar_t *widen(const char *text) {
    int n = MultiByteToWideChar(CP_UTF8, 0, text, -1, NULL, 0);
    wchar_t *wide = allocate(((size_t)n + 1) * sizeof *wide);
    MultiByteToWideChar(CP_UTF8, 0, text, -1, wide, n);
    return wide;
}

/* Return a path in UTF-16. Windows takes 248 characters of a folder's; more only of a full path that
 * begins with \\?\, or on a network \\?\UNC\. llamac_widen in llama.c applies the same rule to files; it
 * is not part of llama.h. */
static wchar_t *wide_path(const char *path) {
    wchar_t *wide = widen(path);
    bool is_full = wcsncmp(wide, L"\\\\?\\", 4) == 0;
    for (wchar_t *c = wide; is_full && *c; c++)
        if (*c == L'/') *c = L'\\'; /* which is no separator there */
    size_t n = is_full ? 0 : GetFullPathNameW(wide, 0, NULL, NULL);
    if (n < 248) return wide;
    wchar_t *full = allocate((n + 8) * sizeof *full), *at = full + 8;
    GetFullPathNameW(wide, (DWORD)n, at, NULL);
    bool network = at[0] == L'\\';
    const wchar_t *begin = network ? L"\\\\?\\UNC" : L"\\\\?\\";
    at += network;
    at -= wcslen(begin);
    return memcpy(at, begin, wcslen(begin) * sizeof *at);
}

static HANDLE handle_of(FILE *f) { return (HANDLE)_get_osfhandle(_fileno(f)); }

/* A console belongs to several processes, so restore_terminal gives it back as it was. Its lines are
 * printed when they are complete: else the bytes of a character come one by one. */
static char **begin_process(int *argc, char **argv) {
    FILE *const files[] = {stdin, stdout, stderr};
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), argc);
    for (int i = 0; i < 3; i++) {
        _setmode(_fileno(files[i]), _O_BINARY);
        if (!GetConsoleMode(handle_of(files[i]), &terminal.saved[i])) continue;
        terminal.is[i] = true;
        terminal.draws |=
            i > 0 && SetConsoleMode(handle_of(files[i]),
                                    terminal.saved[i] | ENABLE_VIRTUAL_TERMINAL_PROCESSING);
    }
    terminal.code_page = GetConsoleOutputCP();
    if (terminal.is[1] || terminal.is[2]) SetConsoleOutputCP(CP_UTF8);
    if (terminal.is[1]) setvbuf(stdout, NULL, _IOFBF, 1 << 14);
    atexit(restore_terminal);
    if (!wide) return argv;
    argv = allocate(((size_t)*argc + 1) * sizeof *argv);
    for (int i = 0; i < *argc; i++) argv[i] = narrow(wide[i]);
    LocalFree(wide);
    return argv;
}

static const char *environment(const char *name) {
    const wchar_t *wide = _wgetenv(widen(name));
    return wide ? narrow(wide) : NULL;
}

static double now(void) {
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    return (double)ticks.QuadPart / (double)rate.QuadPart;
}

static void pause_for(int milliseconds) { Sleep((DWORD)milliseconds); }

static bool random_bytes(void *to, size_t n) { return SystemFunction036(to, (ULONG)n); }

static DWORD WINAPI run_thread(void *work) {
    void (*run_work)(void);
    memcpy(&run_work, work, sizeof run_work);
    run_work();
    return 0;
}

static bool start_thread(void (*work)(void)) {
    void *copy = memcpy(allocate(sizeof work), &work, sizeof work);
    HANDLE thread = CreateThread(NULL, 0, run_thread, copy, 0, NULL);
    return thread && CloseHandle(thread);
}

/* ---- Platform: Windows: files ---- */

static int file_kind(const char *path) {
    WIN32_FILE_ATTRIBUTE_DATA a;
    if (!GetFileAttributesExW(wide_path(path), GetFileExInfoStandard, &a)) return NO_FILE;
    if (a.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) return FOLDER;
    return a.nFileSizeHigh || a.nFileSizeLow ? REGULAR_FILE : EMPTY_FILE;
}

static FILE *open_file(const char *path) { return _wfopen(wide_path(path), L"rb"); }
static FILE *create_file(const char *path) { return _wfopen(wide_path(path), L"wb"); }
static bool make_directory(const char *path) {
    return _wmkdir(wide_path(path)) == 0 || (errno == EEXIST && file_kind(path) == FOLDER);
}

/* The folder is opened for adding a file. */
static bool can_replace(const char *name) {
    bytes path = {.n = 0};
    append(&path, name, strlen(name));
    while (path.n && !strchr("/\\", path.text[path.n - 1])) cut(&path, path.n - 1);
    if (!path.n) append(&path, ".", 1);
    HANDLE h = CreateFileW(wide_path(path.text), FILE_ADD_FILE,
                           FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                           OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, NULL);
    errno = GetLastError() == ERROR_ACCESS_DENIED ? EACCES : ENOENT;
    if (h == INVALID_HANDLE_VALUE) return false;
    CloseHandle(h);
    return file_kind(path.text) == FOLDER || (errno = ENOTDIR, false);
}

static bool is_stdin(const char *path) { return strcmp(path, "-") == 0; }

static bool stdin_has_document(void) {
    DWORD type = GetFileType(handle_of(stdin));
    return type == FILE_TYPE_DISK || type == FILE_TYPE_PIPE;
}

/* The bytes of a file are always there. What is typed comes through a pipe: see begin_typing. */
static int wait_for_input(int milliseconds) {
    enum { STEP = 10 };
    HANDLE h = handle_of(stdin);
    for (DWORD n = 0; GetFileType(h) == FILE_TYPE_PIPE; milliseconds -= STEP) {
        if (!PeekNamedPipe(h, NULL, 0, NULL, &n, NULL) || n) break;
        if (milliseconds <= 0) return 0;
        Sleep(STEP);
    }
    return 1;
}

/* Nothing else makes a write to a pipe fail. */
static bool reader_is_gone(void) { return GetFileType(handle_of(stdout)) == FILE_TYPE_PIPE; }

/* The thread that reads lines of the console in UTF-16 and writes them in UTF-8 to a pipe. ReadFile
 * knows UTF-8 only in new versions of Windows. Ctrl-Z at the beginning of a line is the end. */
static void copy_lines(void) {
    wchar_t wide[1024];
    char text[3 * 1024];
    for (DWORD n, wrote; ReadConsoleW(terminal.keys, wide, 1024, &n, NULL);) {
        if (n && wide[0] == CONTROL('Z')) break;
        int size = WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, text, sizeof text, NULL, NULL);
        if (!WriteFile(terminal.typed, text, (DWORD)size, &wrote, NULL)) break;
    }
    CloseHandle(terminal.typed);
}

static void begin_typing(void) {
    HANDLE from;
    if (!terminal.is[0] || terminal.typed) return;
    terminal.keys = GetStdHandle(STD_INPUT_HANDLE);
    if (!CreatePipe(&from, &terminal.typed, NULL, 0)) return;
    int fd = _open_osfhandle((intptr_t)from, _O_RDONLY | _O_BINARY);
    if (fd >= 0 && _dup2(fd, _fileno(stdin)) == 0) start_thread(copy_lines);
}

/* ---- Platform: Windows: the console ---- */

static bool is_terminal(FILE *f) { return terminal.is[f == stdin ? 0 : f == stdout ? 1 : 2]; }

static bool is_dumb(void) { return !terminal.draws; }

static void screen_size(FILE *f, size_t *rows, size_t *columns) {
    CONSOLE_SCREEN_BUFFER_INFO i;
    bool known = GetConsoleScreenBufferInfo(handle_of(f == stdin ? stdout : f), &i);
    *rows = known ? (size_t)(i.srWindow.Bottom - i.srWindow.Top + 1) : 24;
    *columns = known ? (size_t)(i.srWindow.Right - i.srWindow.Left + 1) : 80;
}

/* Some ranges of Unicode's East Asian Width, and of combining characters. */
static int character_width(int32_t c) {
    static const struct {
        int32_t first, last;
        int width;
    } ranges[] = {
        {0x300, 0x36f, 0},     {0x483, 0x489, 0},     {0x591, 0x5bd, 0},    {0x64b, 0x65f, 0},
        {0x1100, 0x115f, 2},   {0x200b, 0x200f, 0},   {0x20d0, 0x20ff, 0},  {0x2e80, 0x303e, 2},
        {0x3041, 0xa4cf, 2},   {0xac00, 0xd7a3, 2},   {0xf900, 0xfaff, 2},  {0xfe00, 0xfe0f, 0},
        {0xfe20, 0xfe2f, 0},   {0xfe30, 0xfe6f, 2},   {0xff00, 0xff60, 2},  {0xffe0, 0xffe6, 2},
        {0x1f300, 0x1f64f, 2}, {0x1f900, 0x1f9ff, 2}, {0x20000, 0x3fffd, 2}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i].first && c <= ranges[i].last) return ranges[i].width;
    return 1;
}

static bool start_editor(void) {
    if (!terminal.is[0] || !terminal.draws || terminal.typed) return false;
    terminal.keys = handle_of(stdin);
    take_terminal(true);
    return true;
}

static void take_terminal(bool signals) {
    DWORD mode = terminal.saved[0] & ~(DWORD)(ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT);
    if (!signals) mode &= ~(DWORD)ENABLE_PROCESSED_INPUT;
    SetConsoleMode(terminal.keys, mode | ENABLE_WINDOW_INPUT);
}

static void restore_terminal(void) {
    static const DWORD streams[] = {STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE};
    for (int i = 0; i < 3; i++)
        if (terminal.is[i]) SetConsoleMode(GetStdHandle(streams[i]), terminal.saved[i]);
    if (terminal.code_page) SetConsoleOutputCP(terminal.code_page);
}

static void send_sequence(const char *sequence) { fputs(sequence, run.chat.screen); }

/* Put the bytes of a key into the queue: of arrows and the like what read_sequence and press know, of
 * others their character, whose surrogates come one by one. */
static void queue_key(const KEY_EVENT_RECORD *k) {
    static const struct {
        WORD key;
        const char *plain, *with_control;
    } keys[] = {{VK_LEFT, "\002", "\033[1;5D"},   {VK_RIGHT, "\006", "\033[1;5C"},
                {VK_UP, "\020", "\020"},          {VK_DOWN, "\016", "\016"},
                {VK_HOME, "\001", "\001"},        {VK_END, "\005", "\005"},
                {VK_DELETE, "\033[3~", "\033[3~"}};
    bool control = k->dwControlKeyState & (LEFT_CTRL_PRESSED | RIGHT_CTRL_PRESSED);
    wchar_t c = k->uChar.UnicodeChar, pair[2] = {terminal.half, c};
    terminal.n_queued = terminal.at = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i].key == k->wVirtualKeyCode)
            terminal.n_queued = (size_t)snprintf(terminal.queue, sizeof terminal.queue, "%s",
                                                 control ? keys[i].with_control : keys[i].plain);
    if (terminal.n_queued || !c) return;
    terminal.half = 0;
    if (IS_HIGH_SURROGATE(c)) terminal.half = c;
    else
        terminal.n_queued =
            (size_t)WideCharToMultiByte(CP_UTF8, 0, pair + !pair[0], 1 + !!pair[0], terminal.queue,
                                        sizeof terminal.queue, NULL, NULL);
}

static int read_key(int milliseconds) {
    INPUT_RECORD r;
    DWORD n;
    while (terminal.at == terminal.n_queued) {
        if (WaitForSingleObject(terminal.keys, (DWORD)milliseconds) != WAIT_OBJECT_0)
            return KEY_NONE;
        if (!ReadConsoleInputW(terminal.keys, &r, 1, &n)) return KEY_END;
        if (r.EventType == WINDOW_BUFFER_SIZE_EVENT) terminal.resized = true;
        if (terminal.resized) return KEY_INTERRUPTED;
        if (r.EventType == KEY_EVENT && r.Event.KeyEvent.bKeyDown) queue_key(&r.Event.KeyEvent);
    }
    return (unsigned char)terminal.queue[terminal.at++];
}

static bool key_waits(void) {
    DWORD n = 0;
    return terminal.at < terminal.n_queued ||
           (GetNumberOfConsoleInputEvents(terminal.keys, &n) && n > 1); /* 1: a key that goes up */
}

static void send_key_signal(int key) { (void)key; } /* Windows has neither of these signals */

/* ---- Platform: Windows: Ctrl-C ---- */

static void exit_by_signal(int signal_number) {
    restore_terminal();
    TerminateProcess(GetCurrentProcess(), signal_number == SIGINT ? EXIT_INTERRUPTED : EXIT_RUN);
}

/* Windows calls this in a thread of its own. When it returns from the closing of the console, the
 * process ends; so it first waits for a file that is half written. */
static BOOL WINAPI on_console_event(DWORD event) {
    bool closing = event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT;
    on_signal(closing ? SIGTERM : SIGINT);
    if (closing) Sleep(4000);
    return TRUE;
}

static void exit_soon(void) {
    Sleep(100);
    exit_by_signal(interrupted);
}

static void catch_signals(void) { SetConsoleCtrlHandler(on_console_event, TRUE); }

/* Handle a page of the weights that cannot be read. The evaluation then fails. What follows a first
 * such page in its file raises an access violation: see llama_handle_sigbus. */
static LONG WINAPI on_fault(EXCEPTION_POINTERS *fault) {
    const EXCEPTION_RECORD *r = fault->ExceptionRecord;
    const void *address = (const void *)r->ExceptionInformation[1];
    bool known =
        (r->ExceptionCode == EXCEPTION_IN_PAGE_ERROR ||
         r->ExceptionCode == EXCEPTION_ACCESS_VIOLATION) &&
        (llama_handle_sigbus(run.model, address) || llama_handle_sigbus(run.draft, address));
    return known ? EXCEPTION_CONTINUE_EXECUTION : EXCEPTION_CONTINUE_SEARCH;
}

static void catch_lost_files(void) {
    static bool caught;
    if (!caught) caught = AddVectoredExceptionHandler(1, on_fault) != NULL;
}
#endif

/* ---- 12. Several machines ---- */

static int shared(int value) { return share(&value, sizeof value), value; }

static void share_bytes(bytes *b) {
    size_t n = b->n;
    if (machines.ranks == 1) return;
    share(&n, sizeof n);
    if (machines.rank) *b = (bytes){.text = allocate(n + 1), .n = n, .capacity = n + 1};
    share(b->text, n);
}

/* Return whether Ctrl-C ends the work that on_progress reports. All ranks must return the same at the
 * same point, so they ask each other: when a pass begins and in each layer of a prompt, but not when
 * a number is reported again. If Ctrl-C ends the process at once, they do not ask. */
static int cancelled(const char *what, uint64_t done) {
    bool again = done == machines.done, text = strcmp(what, "text") == 0;
    bool asks = interrupt_mode == INTERRUPT_PRINTS || interrupt_mode == INTERRUPT_REPLY;
    machines.done = done;
    if (machines.waiting) machines.waiting = false, shared(true); /* save_file has begun */
    if (machines.ranks == 1 || machines.saves) return interrupted;
    if (asks && !again && (!text || done == 0)) machines.interrupted = most(interrupted) > 0;
    return machines.interrupted;
}

/* Exit with an error if the bytes are not the same on all ranks. */
static void compare(const char *what, const bytes *b) {
    uint32_t own = crc32(b->text, b->n), first = own;
    share(&first, sizeof first);
    int differs = (int)most(own == first ? 0 : machines.rank);
    if (differs) refuse("rank %d has another %s than rank 0", differs, what);
}

/* Compare version and command line. */
static void compare_commands(int argc, char **argv) {
    bytes line = {.n = 0};
    if (machines.ranks == 1) return;
    append(&line, LLAMA_VERSION_STRING, sizeof LLAMA_VERSION_STRING);
    compare("version", &line);
    for (int a = 1; a < argc; a++) append(&line, argv[a], strlen(argv[a]) + 1);
    compare("command line", &line);
}

/* Set the session's options of several machines, and compare the tokenizers. */
static void join_ranks(void) {
    llama_session_options *so = &options.session;
    bytes pieces = {.n = 0};
    if (machines.ranks == 1) return;
    for (int32_t id = 0; id < run.info.vocab; id++) {
        size_t n = 0;
        const char *piece = llama_token_text(run.model, id, &n);
        char end = (char)llama_is_end(run.model, id);
        append(&pieces, piece, n), append(&pieces, &end, 1);
    }
    append(&pieces, &run.info.bos, sizeof run.info.bos);
    append(&pieces, &run.info.add_bos, sizeof run.info.add_bos);
    compare("tokenizer", &pieces);
    so->gather = machines.gather;
    so->gather_user = allocate(2 * (size_t)machines.ranks * sizeof(int));
    so->rank = machines.rank, so->ranks = machines.ranks;
    if (!so->batch && most(streamed()) > 0) so->batch = 512; /* the default of those that stream */
    int part = machines.cores / machines.local;              /* of this machine's cores */
    if (so->threads) return;
    if (machines.bound < part)
        note("mpirun has bound rank 0 to %d of %d cores: see its --bind-to and --map-by",
             machines.bound, machines.cores);
    else if (machines.local > 1) so->threads = part > 1 ? part : 1;
}

#ifndef LLAMA_MPI
static void start_ranks(void) {}
static _Noreturn void leave(int code) { exit(code); }
static void share(void *p, size_t n) { (void)p, (void)n; }
static double most(double value) { return value; }
#else
/* ---- Platform: MPI ---- */

#include <mpi.h>
#include <sched.h>

static MPI_Comm ends, here; /* of the ranks that are about to exit; of those on this machine */
static MPI_Request request; /* what all ranks do together: one thing at a time */
static FILE *errors;        /* stderr, for what this rank alone knows */

/* Wait for the other ranks, up to so many seconds. Returns whether they came. A long wait leaves the
 * core to others. */
static bool wait_for_ranks(double seconds) {
    int done = 0;
    for (double start = now(), time = 0; !done && time < seconds; time = now() - start) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (!done && time < 0.05) sched_yield();
        else if (!done) pause_for(1);
    }
    return done;
}

static void share(void *p, size_t n) {
    for (size_t k; n; n -= k, p = (char *)p + k) {
        k = n < 1 << 30 ? n : 1 << 30;
        MPI_Ibcast(p, (int)k, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
        wait_for_ranks(HUGE_VAL);
    }
}

static double most(double value) {
    MPI_Iallreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD, &request);
    return wait_for_ranks(HUGE_VAL), value;
}

/* A llama_gather_fn. user: room for 2 * ranks numbers. */
static int gather(void *user, float *x, const size_t *offsets, int rank, int ranks) {
    int *counts = user, *begins = counts + ranks;
    for (int r = 0; r < ranks; r++)
        begins[r] = (int)offsets[r], counts[r] = (int)(offsets[r + 1] - offsets[r]);
    MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, counts, begins, MPI_FLOAT,
                    MPI_COMM_WORLD, &request);
    return (void)rank, !wait_for_ranks(HUGE_VAL);
}

/* If the other ranks do not exit too, this rank has failed alone: it says why, and ends all. */
static _Noreturn void leave(int code) {
    fflush(stdout);
    if (code && (MPI_Ibarrier(ends, &request), !wait_for_ranks(2))) {
        if (machines.rank)
            fprintf(errors, "llama: rank %d: ", machines.rank),
                put_visible(errors, run.message, strlen(run.message), false), fputs("\n", errors);
        fflush(errors);
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    MPI_Finalize();
    exit(machines.rank ? EXIT_SUCCESS : code); /* rank 0's code becomes that of mpirun */
}

/* Start MPI. All ranks but rank 0 are silent. */
static void start_ranks(void) {
    cpu_set_t own;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &(int){0});
    MPI_Comm_rank(MPI_COMM_WORLD, &machines.rank), MPI_Comm_size(MPI_COMM_WORLD, &machines.ranks);
    MPI_Comm_dup(MPI_COMM_WORLD, &ends);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &machines.local);
    machines.gather = gather;
    machines.cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    machines.bound = sched_getaffinity(0, sizeof own, &own) == 0 ? CPU_COUNT(&own) : machines.cores;
    errors = machines.rank ? fdopen(dup(STDERR_FILENO), "w") : stderr;
    if (machines.rank && !(freopen("/dev/null", "w", stdout) && freopen("/dev/null", "w", stderr)))
        MPI_Abort(MPI_COMM_WORLD, EXIT_RUN);
}
#endif

/* ---- main ---- */

/* Open the model and run the command on the inputs. */
static void run_command(void) {
    find_model();
    if (options.cache_path) check_cache();
    read_inputs();
    if (!options.seeded && !random_bytes(&options.sampler.seed, 6)) /* 48 bits: exact in JSON */
        options.sampler.seed = (uint64_t)time(NULL);
    share(&options.sampler.seed, sizeof options.sampler.seed);
    open_model();
    open_draft();
    fit_context();
    join_ranks();
    run.stats.open_time = now();
    options.command->execute();
    if (options.stats) print_stats();
}

int main(int argc, char **argv) {
    int v = llama_release();
    argv = begin_process(&argc, argv);
    run.stats.start_time = run.stats.first_token_time = now();
    start_ranks();
    run.progress.terminal = is_terminal(stderr);
    interrupt_mode = INTERRUPT_EXITS;
    catch_signals();
    compare_commands(argc, argv);
    read_options(argc, argv);
    run.progress.enabled = !options.quiet && run.progress.terminal && !is_dumb();
    if (options.version)
        printf("llama.c %d.%d.%d (%s)\n", v / 10000, v / 100 % 100, v % 100, llama_build());
    else if (options.shell) print_completion();
    else if (options.help || options.command->bit == HELP) print_help();
    else run_command();
    flush_stdout();
    leave(shared(run.exit_code));
}
