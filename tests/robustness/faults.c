/* faults.c - each call to the system and to the allocator fails: that one alone, then it and all behind it.
 *
 *   faults TINY FORMS WORKDIR      TINY: tests/tiny; FORMS: the folder in which formats left one model in every
 *                                  format (those that are not there are left out)
 *
 * One program of llama.c, tokenizer.c, this file, and this file with -DCOMMAND: main.c, whose main is called cli_main.
 * Linked with --wrap of the calls below, and best with -fsanitize=address,undefined, whose leak check is asked after each
 * scenario. The command ends with exit: here it comes back from there. A scenario runs without faults first: so many
 * calls it has, its sites, and this comes out. Then for each site, once and from then on:
 *
 *   - it fails with a code and one line of text, or nothing is different; advice alone (madvise) changes nothing
 *   - the same call again, without a fault, works, and what comes out in the end is what came out at first
 *   - no memory, mapping, descriptor or temporary file is left
 *
 * Reads and writes that move few bytes, or are interrupted first, change nothing. glibc and GNU ld alone: standard streams
 * are replaced by streams of our own, whose reads and writes are sites too. Time does not pass for the test's own thread; for
 * another it goes on by 0.1 ms whenever it looks, so that a wait without sleep ends. */
#ifdef COMMAND
#define main cli_main
#include "../../main.c"

/* What the end of a process does: what the command still holds is given back, and all that is static in main.c is as it
 * was when it began. What it no longer holds, and did not give back, is a leak. */
void cli_reset(void);
void cli_reset(void) {
    llama_session_free(run.session);
    llama_close(run.model);
    llama_close(run.draft);
    for (block *next; run.blocks; run.blocks = next) {
        next = run.blocks->next;
        free(run.blocks);
    }
    options = (struct options){.command = NULL};
    run = (struct run){.blocks = NULL};
    interrupted = 0;
}
#else
#include "../tools/checkpoint.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

int cli_main(int argc, char **argv);
void cli_reset(void);

/* ---- Sites ---- */

typedef enum {
    ALLOC, ALIGNED_ALLOC, MALLOC, CALLOC, REALLOC, OPEN, CLOSE, FSTAT, STAT, ACCESS, MMAP, MUNMAP, MADVISE, MINCORE, MLOCK,
    READ, PREAD, WRITE, REALPATH, READLINK, LIMIT, FCHMOD, FSYNC, RENAME, UNLINK, FOPEN, FCLOSE, STREAM_READ, STDOUT, THREAD, AFFINITY, POLL, ENTROPY,
    HOST, KINDS
} site_kind;
static const struct {
    const char *name;
    int why[2]; /* errno, once and from then on */
    bool advice;  /* nothing comes of it */
    bool unknown; /* nobody calls it now */
} kinds[KINDS] = {
    [ALLOC] = {"the host's allocator", {ENOMEM, ENOMEM}, false, false},
    [ALIGNED_ALLOC] = {"aligned_alloc", {ENOMEM, ENOMEM}, false, false},
    [MALLOC] = {"malloc", {ENOMEM, ENOMEM}, false, true},
    [CALLOC] = {"calloc", {ENOMEM, ENOMEM}, false, false},
    [REALLOC] = {"realloc", {ENOMEM, ENOMEM}, false, true},
    [OPEN] = {"open", {EMFILE, EACCES}, false, false},
    [CLOSE] = {"close", {EIO, EINTR}, false, false},
    [FSTAT] = {"fstat", {EIO, EOVERFLOW}, false, false},
    [STAT] = {"stat", {EACCES, EIO}, false, false},
    [ACCESS] = {"access", {EACCES, EIO}, false, false},
    [MMAP] = {"mmap", {ENOMEM, EACCES}, false, false},
    [MUNMAP] = {"munmap", {ENOMEM, EINVAL}, true, false},
    [MADVISE] = {"madvise", {EINVAL, ENOMEM}, true, false},
    [MINCORE] = {"mincore", {EAGAIN, ENOMEM}, true, false},
    [MLOCK] = {"mlock", {EAGAIN, ENOMEM}, false, false},
    [READ] = {"read", {EIO, EIO}, false, false},
    [PREAD] = {"pread", {EIO, EIO}, false, false},
    [WRITE] = {"write", {EIO, ENOSPC}, false, true},
    [REALPATH] = {"realpath", {EACCES, ELOOP}, false, false},
    [READLINK] = {"readlink", {EACCES, ELOOP}, false, false},
    [LIMIT] = {"getrlimit", {EINVAL, EPERM}, true, false},
    [FCHMOD] = {"fchmod", {EPERM, EIO}, false, false},
    [FSYNC] = {"fsync", {EIO, ENOSPC}, false, false},
    [RENAME] = {"rename", {EACCES, EIO}, false, false},
    [UNLINK] = {"unlink", {EACCES, EIO}, false, false},
    [FOPEN] = {"fopen", {EMFILE, ENOMEM}, false, false},
    [FCLOSE] = {"fclose", {EIO, ENOSPC}, false, false},
    [STREAM_READ] = {"a stream's read", {EIO, EIO}, false, false},
    [STDOUT] = {"stdout's write", {EIO, ENOSPC}, false, false},
    [THREAD] = {"pthread_create", {EAGAIN, EAGAIN}, true, false},
    [AFFINITY] = {"sched_getaffinity", {EINVAL, EPERM}, true, false},
    [POLL] = {"poll", {EINTR, ENOMEM}, true, false},
    [ENTROPY] = {"getentropy", {EIO, ENOSYS}, true, false},
    [HOST] = {"the host's callback", {EIO, EIO}, false, false},
};

static struct {
    bool armed;          /* the scenario runs, not the test around it */
    long calls;          /* so far */
    long at;             /* the one that fails; 0: none */
    bool onwards;        /* and all behind it */
    long failed[KINDS];  /* so many did */
    long counts[KINDS];  /* calls of each, so far */
    size_t most;         /* bytes one read or write moves; 0: all */
    bool interrupted;    /* each read and write is, before it works */
    bool turn;           /* for that */
    bool cold;           /* mincore's answer */
    bool no_readers;     /* weights are streamed without threads: calls come in one order */
    long blocks, maps;   /* alive */
    size_t bytes;        /* alive, of the host's allocator */
    const char *doing;   /* for the last words */
} fault;

/* Is this call one that fails? */
static bool fails(site_kind kind) {
    if (!fault.armed) return false;
    fault.calls++;
    fault.counts[kind]++;
    if (!fault.at || fault.calls < fault.at || (fault.calls > fault.at && !fault.onwards)) return false;
    fault.failed[kind]++;
    errno = kinds[kind].why[fault.onwards];
    return true;
}

/* How many of n bytes to move; 0: none, interrupted */
static size_t moved(size_t n) {
    fault.turn = fault.armed && fault.interrupted && !fault.turn;
    errno = EINTR;
    return fault.turn ? 0 : fault.armed && fault.most && n > fault.most ? fault.most : n;
}

/* ---- The calls (ld --wrap): those of the library, the command and, not armed, the test's ---- */

void *__real_aligned_alloc(size_t, size_t), *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void __real_free(void *);
int __real_open(const char *, int, ...), __real_close(int), __real_fstat(int, struct stat *), __real_stat(const char *, struct stat *);
int __real_access(const char *, int), __real_munmap(void *, size_t), __real_madvise(void *, size_t, int), __real_fsync(int);
int __real_rename(const char *, const char *), __real_unlink(const char *), __real_fileno(FILE *), __real_fchmod(int, mode_t);
char *__real_realpath(const char *, char *);
ssize_t __real_readlink(const char *, char *, size_t);
int __real_getrlimit(__rlimit_resource_t, struct rlimit *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *), __real_pthread_detach(pthread_t);
int __real_sched_getaffinity(pid_t, size_t, cpu_set_t *), __real_isatty(int);
void *__real_mmap(void *, size_t, int, int, int, off_t);
ssize_t __real_pread(int, void *, size_t, off_t);
ssize_t __real_read(int, void *, size_t), __real_write(int, const void *, size_t);
FILE *__real_fopen(const char *, const char *);
int __real_poll(struct pollfd *, nfds_t, int), __real_getentropy(void *, size_t), __real_clock_gettime(clockid_t, struct timespec *);
_Noreturn void __real_exit(int);

static void *counted(void *p) {
    fault.blocks += p != NULL;
    return p;
}
void *__wrap_aligned_alloc(size_t align, size_t n) { return fails(ALIGNED_ALLOC) ? NULL : counted(__real_aligned_alloc(align, n)); }
void *__wrap_malloc(size_t n) { return fails(MALLOC) ? NULL : counted(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) { return fails(CALLOC) ? NULL : counted(__real_calloc(n, size)); }
void *__wrap_realloc(void *p, size_t n) {
    if (fails(REALLOC)) return NULL;
    void *q = __real_realloc(p, n);
    return p ? q : counted(q);
}
void __wrap_free(void *p) {
    fault.blocks -= p != NULL;
    __real_free(p);
}

int __wrap_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return fails(OPEN) ? -1 : __real_open(path, flags, mode);
}
/* Linux closes and unmaps even where it says that it failed */
int __wrap_close(int fd) {
    int status = __real_close(fd);
    return fails(CLOSE) ? -1 : status;
}
int __wrap_fstat(int fd, struct stat *st) { return fails(FSTAT) ? -1 : __real_fstat(fd, st); }
int __wrap_stat(const char *path, struct stat *st) { return fails(STAT) ? -1 : __real_stat(path, st); }
int __wrap_access(const char *path, int mode) { return fails(ACCESS) ? -1 : __real_access(path, mode); }
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t at) {
    if (fails(MMAP)) return MAP_FAILED;
    void *q = __real_mmap(p, n, prot, flags, fd, at);
    fault.maps += q != MAP_FAILED;
    return q;
}
int __wrap_munmap(void *p, size_t n) {
    int status = __real_munmap(p, n);
    fault.maps -= status == 0;
    return fails(MUNMAP) ? -1 : status;
}
int __wrap_madvise(void *p, size_t n, int advice) { return fails(MADVISE) ? -1 : __real_madvise(p, n, advice); }
int __wrap_mincore(void *p, size_t n, unsigned char *there) {
    (void)p;
    if (fails(MINCORE)) return -1;
    memset(there, !fault.cold, (n + 4095) / 4096);
    return 0;
}
int __wrap_mlock(const void *p, size_t n) {
    (void)p, (void)n; /* where ulimit -l is low, too */
    return fails(MLOCK) ? -1 : 0;
}
ssize_t __wrap_read(int fd, void *p, size_t n) {
    if (fails(READ) || (n && !moved(n))) return -1;
    return __real_read(fd, p, fault.armed && fault.most && n > fault.most ? fault.most : n);
}
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at) {
    if (fails(PREAD) || (n && !moved(n))) return -1;
    return __real_pread(fd, p, fault.armed && fault.most && n > fault.most ? fault.most : n, at);
}
ssize_t __wrap_write(int fd, const void *p, size_t n) {
    if (fails(WRITE) || (n && !moved(n))) return -1;
    return __real_write(fd, p, fault.armed && fault.most && n > fault.most ? fault.most : n);
}
int __wrap_fchmod(int fd, mode_t mode) { return fails(FCHMOD) ? -1 : __real_fchmod(fd, mode); }
char *__wrap_realpath(const char *path, char *real) { return fails(REALPATH) ? NULL : __real_realpath(path, real); }
ssize_t __wrap_readlink(const char *path, char *to, size_t n) { return fails(READLINK) ? -1 : __real_readlink(path, to, n); }
int __wrap_getrlimit(__rlimit_resource_t which, struct rlimit *limit) { return fails(LIMIT) ? -1 : __real_getrlimit(which, limit); }
int __wrap_fsync(int fd) { return fails(FSYNC) ? -1 : __real_fsync(fd); }
int __wrap_rename(const char *from, const char *to) { return fails(RENAME) ? -1 : __real_rename(from, to); }
int __wrap_unlink(const char *path) { return fails(UNLINK) ? -1 : __real_unlink(path); }
int __wrap_sched_getaffinity(pid_t pid, size_t n, cpu_set_t *set) { return fails(AFFINITY) ? -1 : __real_sched_getaffinity(pid, n, set); }
int __wrap_isatty(int fd) { return fault.armed ? 0 : __real_isatty(fd); }
int __wrap_poll(struct pollfd *fds, nfds_t n, int ms) { return !fault.armed ? __real_poll(fds, n, ms) : fails(POLL) ? -1 : 1; }
int __wrap_getentropy(void *p, size_t n) { return fails(ENTROPY) ? -1 : __real_getentropy(p, n); }
static pthread_t first_thread; /* the test's own */
int __wrap_clock_gettime(clockid_t which, struct timespec *t) {
    if (!fault.armed) return __real_clock_gettime(which, t);
    static _Thread_local long looks;
    *t = (struct timespec){.tv_sec = 1000, .tv_nsec = pthread_equal(pthread_self(), first_thread) ? 0 : looks++ % 10000 * 100000};
    return 0;
}

/* The command's end */
static struct {
    jmp_buf back;
    int code;
} end;
_Noreturn void __wrap_exit(int code) {
    if (!fault.armed) __real_exit(code);
    fault.armed = false;
    end.code = code;
    longjmp(end.back, 1);
}

/* A session's helper makes no calls. The command's thread, which has no argument, does: it does its work at once, so
 * that calls come in one order. */
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *user) {
    if (fault.armed && fault.no_readers) return EAGAIN;
    if (fails(THREAD)) return errno;
    if (!fault.armed || user) return __real_pthread_create(id, attributes, run, user);
    run(user);
    return 0;
}
int __wrap_pthread_detach(pthread_t id) { return fault.armed ? 0 : __real_pthread_detach(id); }

/* ---- Streams whose reads, writes and closing are sites ---- */

enum { STREAMS = 8, CAPTURED = 1 << 20 };
typedef struct {
    FILE *f; /* NULL: free */
    int fd;  /* -1: text, below */
    bool out; /* stdout */
    char *text;
    size_t n, room;
} stream;
static stream streams[STREAMS];

static ssize_t stream_read(void *user, char *p, size_t n) {
    stream *s = user;
    if (fails(STREAM_READ)) return -1;
    if (fault.armed && fault.most && n > fault.most) n = fault.most;
    if (s->fd >= 0) return __real_read(s->fd, p, n);
    if (n > s->room - s->n) n = s->room - s->n;
    memcpy(p, s->text + s->n, n);
    s->n += n;
    return (ssize_t)n;
}
static ssize_t stream_write(void *user, const char *p, size_t n) { /* 0: it failed */
    stream *s = user;
    if (s->out && (fails(STDOUT) || (!fault.armed && fault.failed[STDOUT]))) return 0;
    if (n > s->room - s->n) n = s->room - s->n;
    memcpy(s->text + s->n, p, n);
    s->n += n;
    return (ssize_t)n;
}
static int stream_seek(void *user, off64_t *at, int from) {
    stream *s = user;
    off_t to = s->fd < 0 ? -1 : lseek(s->fd, (off_t)*at, from);
    *at = to;
    return to < 0 ? -1 : 0;
}
static int stream_close(void *user) {
    stream *s = user;
    int status = s->fd >= 0 ? __real_close(s->fd) : 0;
    s->f = NULL;
    return fails(FCLOSE) ? -1 : status;
}

static FILE *make_stream(int fd, const char *mode, char *text, size_t room) {
    static const cookie_io_functions_t calls = {stream_read, stream_write, stream_seek, stream_close};
    int i = 0;
    while (i < STREAMS && streams[i].f) i++;
    if (i == STREAMS) return NULL;
    streams[i] = (stream){.fd = fd, .text = text, .room = room};
    return streams[i].f = fopencookie(&streams[i], mode, calls);
}
static stream *stream_of(const FILE *f) {
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].f == f) return &streams[i];
    return NULL;
}

FILE *__wrap_fopen(const char *path, const char *mode) {
    if (!fault.armed) return __real_fopen(path, mode);
    if (fails(FOPEN)) return NULL;
    int fd = __real_open(path, O_RDONLY, 0);
    return fd < 0 ? NULL : make_stream(fd, mode, NULL, 0);
}
int __wrap_fileno(FILE *f) {
    stream *s = stream_of(f);
    return !s ? __real_fileno(f) : s->fd >= 0 ? s->fd : s->out ? 1 : 0;
}

/* ---- The host's allocator: counts, and wants the size back that it was asked for ---- */

static void *host_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    if (fails(ALLOC)) return NULL;
    char *p = __real_aligned_alloc(align, (bytes + 2 * align - 1) / align * align);
    if (!p) return NULL;
    memcpy(p, &bytes, sizeof bytes);
    memcpy(p + align - sizeof align, &align, sizeof align);
    fault.bytes += bytes;
    return p + align;
}
static void host_free(void *user, void *p, size_t bytes) {
    (void)user;
    size_t align, had;
    if (!p) return;
    memcpy(&align, (char *)p - sizeof align, sizeof align);
    memcpy(&had, (char *)p - align, sizeof had);
    if (had != bytes) check(false, "%s: a block of %zu bytes is given back as %zu", fault.doing, had, bytes);
    fault.bytes -= had;
    __real_free((char *)p - align);
}
static const llama_allocator host_allocator = {NULL, host_alloc, host_free};

/* ---- What comes out ---- */

typedef struct {
    int code;                /* 0, or a negative status, or the command's */
    char *text, *errors;     /* what came out, and on stderr; [CAPTURED] */
    size_t n, n_errors;
} outcome;
static outcome want, got;
static char work[1024];

static const char *in_work(const char *name) {
    static char path[4][2048];
    static int turn;
    snprintf(path[++turn % 4], sizeof *path, "%s/%s", work, name);
    return path[turn % 4];
}

static void record(outcome *o, const void *p, size_t n) {
    if (n > CAPTURED - o->n) n = CAPTURED - o->n;
    memcpy(o->text + o->n, p, n);
    o->n += n;
}
static bool equal(const outcome *a, const outcome *b) { return a->n == b->n && memcmp(a->text, b->text, a->n) == 0; }

/* Does a text tell of an error of the system that was none of the faults? */
static bool is_mistaken(const char *text, size_t n) {
    bool made[256] = {false};
    for (int k = 0; k < KINDS; k++)
        if (fault.failed[k]) made[kinds[k].why[fault.onwards]] = true;
    for (int e = 0; e < 134; e++) {
        const char *name = strerror(e);
        if (!made[e] && memmem(text, n, name, strlen(name))) return true;
    }
    return false;
}

static bool is_line(const char *text, size_t n) { return n > 1 && memchr(text, '\n', n) == NULL && !is_mistaken(text, n); }

static int descriptors(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* Files in a folder but one, removed. */
static int leftovers(const char *folder, const char *but) {
    DIR *d = opendir(folder);
    struct dirent *e;
    int n = 0;
    while (d && (e = readdir(d)) != NULL) {
        char path[4096];
        if (e->d_name[0] == '.' && strspn(e->d_name, ".") == strlen(e->d_name)) continue;
        if (but && strcmp(e->d_name, but) == 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        n += unlink(path) == 0;
    }
    if (d) closedir(d);
    return n;
}

/* ---- Scenarios ---- */

enum { MOST_WORDS = 28 };
typedef struct {
    const char *name;
    const char *path, *tokenizer;   /* of the library's */
    bool own, cold;                 /* the host's allocator; files that are not in memory */
    int memory, threads;            /* LLAMA_MEMORY_... */
    uint64_t limit;                 /* of memory */
    const char *words[MOST_WORDS];  /* of the command's */
    const char *input;              /* stdin */
    int cache;                      /* the prompt cache before: */
    int notes;                      /* lines it may say on stderr and go on */
} scenario;
enum { NO_CACHE, ABSENT, THERE, OTHER, FOREIGN, DAMAGED, CACHES };

static const char *now(const scenario *s) {
    static char text[512];
    int first = -1;
    for (int k = KINDS; k-- > 0;)
        if (fault.failed[k]) first = k;
    snprintf(text, sizeof text, "%s, call %ld%s%s%s%s", s->name, fault.at, fault.onwards ? " and on" : "", first < 0 ? "" : ", ",
             first < 0 ? "" : kinds[first].name, fault.most ? ", few bytes" : fault.interrupted ? ", interrupted" : "");
    return fault.doing = text;
}

static void begin(const scenario *s, long at, bool onwards) {
    fault.armed = false;
    fault.calls = 0;
    fault.at = at;
    fault.onwards = onwards;
    fault.turn = false;
    memset(fault.counts, 0, sizeof fault.counts);
    fault.cold = s->cold;
    fault.no_readers = s->memory == LLAMA_MEMORY_STREAM;
    memset(fault.failed, 0, sizeof fault.failed);
    now(s);
    alarm(120);
}

static long failures(bool advice_too) {
    long n = 0;
    for (int k = 0; k < KINDS; k++) n += advice_too || !kinds[k].advice ? fault.failed[k] : 0;
    return n;
}

/* The library: these one after the other. One that fails is called again, without a fault. */
typedef struct {
    const scenario *scenario;
    llama *m;
    llama_session *s;
    llama_error err;
    int32_t tokens[64];
    ptrdiff_t n;
    unsigned char *saved; /* [CAPTURED] */
    size_t n_saved, read;
    bool saves; /* this release does */
    llama_request texts[3];
    outcome made[3]; /* what came of them */
} tour;

static int tour_open(tour *t) {
    llama_options o = {.size = sizeof o, .tokenizer = t->scenario->tokenizer, .memory = t->scenario->memory, .memory_limit = t->scenario->limit};
    if (t->scenario->own) o.allocator = &host_allocator;
    int status = llama_open(&t->m, t->scenario->path, &o, &t->err);
    if (status) check(!t->m && t->err.status == status, "%s: llama_open's error", now(t->scenario));
    return status;
}
static int tour_session(tour *t) {
    llama_session_options o = {.size = sizeof o, .context = 48, .sequences = 3, .batch = 8, .threads = t->scenario->threads, .draft = t->m};
    if (t->scenario->own) o.allocator = &host_allocator;
    int status = llama_session_new(&t->s, t->m, &o, &t->err);
    if (status) check(!t->s && t->err.status == status, "%s: llama_session_new's error", now(t->scenario));
    return status;
}
static int tour_text(tour *t) {
    static const char text[] = "There was once a poor woodcutter, caf\xc3\xa9";
    t->n = llama_text_to_tokens(t->m, text, sizeof text - 1, LLAMA_ADD_BOS, t->tokens, 64);
    if (t->n < 0) snprintf(t->err.text, sizeof t->err.text, "%s", llama_strerror((int)t->n));
    else record(&got, t->tokens, (size_t)t->n * sizeof *t->tokens);
    return t->n < 0 ? (int)t->n : LLAMA_OK;
}
/* The prompt, then four tokens more, drawn, and one that is guessed; nothing of it is a site, unless weights are streamed */
static int tour_eval(tour *t) {
    llama_sampler sampler = {.size = sizeof sampler, .temperature = 1, .top_p = 0.9f, .seed = 3};
    llama_info info = {.size = sizeof info};
    long calls = fault.calls;
    llama_rewind(t->s, 0, 0);
    int status = llama_eval(t->s, 0, t->tokens, (size_t)t->n);
    for (int i = 0; i < 4 && status == LLAMA_OK; i++) {
        int32_t token = llama_sample(t->s, 0, &sampler);
        record(&got, &token, sizeof token);
        status = token < 0 ? token : llama_eval(t->s, 0, &token, 1);
    }
    snprintf(t->err.text, sizeof t->err.text, "%s", status ? llama_session_error(t->s) : "");
    int32_t draft[3] = {llama_sample(t->s, 0, &sampler), 5, 5}, out[4];
    ptrdiff_t drawn = status ? status : llama_verify(t->s, 0, &sampler, draft, 3, out);
    if (drawn > 0) record(&got, out, (size_t)drawn * sizeof *out);
    else status = (int)drawn;
    if (drawn < 0 && !*t->err.text) snprintf(t->err.text, sizeof t->err.text, "%s", llama_session_error(t->s));
    if (!fault.no_readers) check(status == LLAMA_OK && fault.calls == calls, "%s: llama_eval made %ld calls", now(t->scenario), fault.calls - calls);
    llama_describe(t->m, &info);
    if (status == LLAMA_OK) record(&got, llama_logits(t->s, 0), (size_t)info.vocab * sizeof(float));
    return status;
}
static int tour_check(tour *t) { return llama_check(t->m, NULL, NULL, &t->err); }
static int tour_warm(tour *t) { return llama_prefetch(t->m, NULL, NULL); }

static int host_write(void *user, const void *p, size_t n) {
    tour *t = user;
    if (fails(HOST) || n > CAPTURED - t->n_saved) return -1;
    memcpy(t->saved + t->n_saved, p, n);
    t->n_saved += n;
    return 0;
}
static int host_read(void *user, void *p, size_t n) {
    tour *t = user;
    if (fails(HOST) || n > t->n_saved - t->read) return -1;
    memcpy(p, t->saved + t->read, n);
    t->read += n;
    return 0;
}
static int tour_save(tour *t) {
    t->n_saved = 0;
    int status = llama_save(t->s, 0, host_write, t);
    t->saves = status == LLAMA_OK || !strstr(llama_session_error(t->s), "later release");
    if (status == LLAMA_OK) record(&got, t->saved, t->n_saved);
    snprintf(t->err.text, sizeof t->err.text, "%s", llama_session_error(t->s));
    return t->saves ? status : LLAMA_OK;
}
/* Into the other sequence; both go on alike. */
static int tour_load(tour *t) {
    llama_info info = {.size = sizeof info};
    int32_t token = 5;
    t->read = 0;
    int status = t->saves ? llama_load(t->s, 1, host_read, t) : LLAMA_OK;
    if (status) check(llama_length(t->s, 1) == 0, "%s: llama_load failed and left %zu tokens", now(t->scenario), llama_length(t->s, 1));
    snprintf(t->err.text, sizeof t->err.text, "%s", llama_session_error(t->s));
    if (status || !t->saves) return status;
    llama_describe(t->m, &info);
    for (int q = 0; q < 2 && status == LLAMA_OK; q++) status = llama_eval(t->s, q, &token, 1);
    if (status == LLAMA_OK)
        check(memcmp(llama_logits(t->s, 0), llama_logits(t->s, 1), (size_t)info.vocab * sizeof(float)) == 0, "%s: loaded, other logits",
              now(t->scenario));
    return status;
}

/* A sequence is made the prompt again; three texts. Nothing of it is a site but the host's callback. */
static int host_text(void *user, llama_request *text, const char *s, size_t n) {
    tour *t = user;
    if (fails(HOST)) return LLAMA_EIO;
    record(&t->made[text - t->texts], s, n);
    return 0;
}
static int tour_texts(tour *t) {
    static char room[3][CAPTURED];
    llama_info info = {.size = sizeof info};
    long calls = fault.calls - fault.counts[HOST];
    int status = llama_prefill(t->s, 0, t->tokens, (size_t)t->n);
    llama_describe(t->m, &info);
    if (check(status == LLAMA_OK, "%s: llama_prefill: %d", now(t->scenario), status))
        record(&got, llama_logits(t->s, 0), (size_t)info.vocab * sizeof(float));
    for (int i = 0; i < 3; i++) {
        t->texts[i] = (llama_request){.prompt = t->tokens, .n_prompt = (size_t)(t->n - i), .max_tokens = 5};
        t->texts[i].sampler = (llama_sampler){.size = sizeof(llama_sampler), .temperature = 1, .seed = (uint64_t)i};
        t->made[i] = (outcome){.text = room[i]};
    }
    status = llama_generate(t->s, t->texts, 3, host_text, t);
    check(fault.calls - fault.counts[HOST] == calls, "%s: llama_generate made calls", now(t->scenario));
    for (int i = 0; i < 3 && status == LLAMA_OK; i++) record(&got, room[i], t->made[i].n);
    snprintf(t->err.text, sizeof t->err.text, "the host said no");
    return status;
}

/* To a file and back. A file is whole, or there is none, and no other is left. */
static int tour_files(tour *t) {
    char path[2048];
    snprintf(path, sizeof path, "%s", in_work("tour/state"));
    make_folder(in_work("tour"));
    unlink(path);
    int status = llama_save_file(t->s, 0, path, &t->err);
    leftovers(in_work("tour"), status ? NULL : "state");
    if (status == LLAMA_OK) llama_rewind(t->s, 1, 0);
    if (status == LLAMA_OK && (status = llama_load_file(t->s, 1, path, &t->err)))
        check(llama_length(t->s, 1) == 0, "%s: llama_load_file failed and left %zu tokens", now(t->scenario), llama_length(t->s, 1));
    if (status == LLAMA_OK) record(&got, llama_tokens(t->s, 1), llama_length(t->s, 1) * sizeof(int32_t));
    return status;
}

/* Three endings, of two contexts */
static int tour_endings(tour *t) {
    llama_continuation e[] = {{"There was", " a king", 9, 7, 0, 0, 0, 0}, {"There was ", "once", 10, 4, 0, 0, 0, 0}, {"A", "b", 1, 1, 0, 0, 0, 0}};
    int status = llama_loglikelihood(t->s, e, 3);
    for (int i = 0; i < 3 && status == LLAMA_OK; i++) record(&got, &e[i].logprob, sizeof e[i].logprob);
    snprintf(t->err.text, sizeof t->err.text, "%s", llama_strerror(status));
    return status;
}

static bool saves_seen;

static void run_library(const scenario *s, long at, bool onwards) {
    static int (*const steps[])(tour *) = {tour_open, tour_session, tour_text, tour_eval, tour_check, tour_warm, tour_save, tour_load,
                                         tour_texts, tour_files, tour_endings};
    static int (*const streamed[])(tour *) = {tour_open, tour_session, tour_text, tour_eval, tour_endings};
    bool short_one = s->memory == LLAMA_MEMORY_STREAM; /* of steps that can be done again */
    int (*const *list)(tour *) = short_one ? streamed : steps;
    size_t n_steps = short_one ? sizeof streamed / sizeof *streamed : sizeof steps / sizeof *steps;
    static unsigned char saved[CAPTURED];
    tour t = {.scenario = s, .saved = saved};
    begin(s, at, onwards);
    got.n = got.n_errors = 0;
    got.code = 0;
    for (size_t i = 0; i < n_steps && got.code == 0; i++) {
        long before = failures(true), real = failures(false);
        size_t recorded = got.n;
        fault.armed = true;
        int status = list[i](&t);
        fault.armed = false;
        if (status == LLAMA_OK) continue;
        check(status < 0 && failures(true) > before, "%s: step %zu is %d, %s", now(s), i, status, t.err.text);
        check(failures(false) > real, "%s: step %zu needs advice: %s", now(s), i, t.err.text);
        check(is_line(t.err.text, strlen(t.err.text)), "%s: step %zu is %d, text '%s'", now(s), i, status, t.err.text);
        fault.at = 0; /* again */
        got.n = recorded;
        status = list[i](&t);
        fault.at = at;
        if (!check(status == LLAMA_OK, "%s: step %zu again: %d, %s", now(s), i, status, t.err.text)) got.code = status;
    }
    saves_seen |= t.saves;
    fault.armed = true;
    llama_session_free(t.s);
    llama_close(t.m);
    fault.armed = false;
}

/* The prompt cache */
static char *cache_bytes[2]; /* as it was before the scenario, and as it is left without faults */
static size_t cache_n[2];

static void lay_cache(void) {
    buffer b = {0};
    unlink(in_work("cache/state"));
    if (!cache_bytes[0]) return;
    put(&b, cache_bytes[0], cache_n[0]);
    put_file(&b, in_work("cache"), "state");
    free(b.at);
}
static bool cache_is(int which) {
    size_t n = 0;
    char *now_there = read_file(in_work("cache/state"), &n);
    bool same = !now_there || !cache_bytes[which] ? now_there == cache_bytes[which]
                                                  : n == cache_n[which] && memcmp(now_there, cache_bytes[which], n) == 0;
    free(now_there);
    return same;
}

/* Comes back from exit, which main never does without. */
static int code_of(int n, char **words) {
    end.code = -1;
    if (setjmp(end.back) == 0) cli_main(n, words);
    return end.code;
}

/* The command, with streams of our own. */
static void run_command(const scenario *s, long at, bool onwards) {
    static char input[8192];
    FILE *standard[3] = {stdin, stdout, stderr};
    char *words[MOST_WORDS + 1] = {NULL}; /* argv may be written to */
    int n = 0, left_open = 0; /* files; but where memory is at its end, none */
    fflush(stdout);
    begin(s, at, onwards);
    for (; s->words[n]; n++) words[n] = strdup(s->words[n]);
    snprintf(input, sizeof input, "%s", s->input ? s->input : "");
    stdin = make_stream(-1, "r", input, strlen(input));
    stdout = make_stream(-1, "w", got.text, CAPTURED);
    stderr = make_stream(-1, "w", got.errors, CAPTURED);
    setvbuf(stderr, NULL, _IONBF, 0);
    stream *out = stream_of(stdout), *errors = stream_of(stderr);
    out->out = true;
    fault.armed = true;
    got.code = code_of(n, words);
    fault.armed = false;
    for (int i = 0; i < STREAMS; i++) /* as exit does */
        if (streams[i].f && streams[i].fd >= 0) fclose(streams[i].f), left_open++;
    fclose(stdin), fclose(stdout), fclose(stderr);
    got.n = out->n;
    got.n_errors = errors->n;
    stdin = standard[0], stdout = standard[1], stderr = standard[2];
    while (n) __real_free(words[--n]);
    cli_reset();
    check(left_open == 0 || got.code == 4, "%s: exit %d, and %d files are open", now(s), got.code, left_open);
}

static long seen[KINDS]; /* calls of each, faults or none */

static void run(const scenario *s, long at, bool onwards) {
    int open_before = descriptors();
    long blocks = fault.blocks, maps = fault.maps;
    if (s->path) run_library(s, at, onwards);
    else run_command(s, at, onwards);
    for (int k = 0; k < KINDS; k++) seen[k] += fault.counts[k];
    check(descriptors() == open_before, "%s: %d descriptors are open, not %d", now(s), descriptors(), open_before);
    check(fault.blocks == blocks && fault.bytes == 0, "%s: %ld blocks, %zu bytes are kept", now(s), fault.blocks - blocks, fault.bytes);
    check(fault.maps == maps, "%s: %ld mappings are kept", now(s), fault.maps - maps);
    for (int i = 0; i < STREAMS; i++)
        if (!check(!streams[i].f, "%s: a stream is not closed", now(s))) streams[i].f = NULL;
}

/* So much of its stderr is shown. */
static int said(void) { return (int)(got.n_errors < 300 ? got.n_errors : 300); }

/* Did the command say at most so many lines on stderr, and one at least, but for those it says without a fault? With
 * `all`, these are all there. */
static bool in_lines(int most, bool all) {
    const char *at = got.errors, *to = at + got.n_errors, *next;
    size_t least = got.n_errors < want.n_errors ? got.n_errors : want.n_errors, front = 0, back = 0;
    while (front < least && at[front] == want.errors[front]) front++;
    while (front && at[front - 1] != '\n') front--;
    while (back < least - front && to[-1 - (ptrdiff_t)back] == want.errors[want.n_errors - 1 - back]) back++;
    while (back && front + back < got.n_errors && to[-1 - (ptrdiff_t)back] != '\n') back--;
    if (all && front + back != want.n_errors) return false;
    at += front, to -= back;
    if (at == to) return false;
    for (; most > 0 && at < to; most--, at = next + 1)
        if ((next = memchr(at, '\n', (size_t)(to - at))) == NULL || !is_line(at, (size_t)(next - at))) return false;
    return at == to;
}

/* Is the text the beginning of what it is without a fault? Or all but what stdout refused? */
static bool is_part(void) {
    size_t front = 0, back = 0;
    while (front < got.n && front < want.n && got.text[front] == want.text[front]) front++;
    while (back < got.n && back < want.n && got.text[got.n - 1 - back] == want.text[want.n - 1 - back]) back++;
    return got.n <= want.n && front + (fault.failed[STDOUT] == 1 && !fault.onwards ? back : 0) >= got.n;
}

/* After a run of the command with a fault: a code and a line, or all as without. */
static void judge_command(const scenario *s) {
    bool cache = s->cache != NO_CACHE;
    bool info = strcmp(s->name, "llama info") == 0; /* says so where the context does not fit */
    int most = cache + s->notes + 1;
    if (got.code == want.code) {
        bool quiet = got.n_errors == want.n_errors && memcmp(got.errors, want.errors, got.n_errors) == 0;
        check(equal(&got, &want), "%s: other text, and exit %d", now(s), got.code);
        check(quiet || ((cache || info) && in_lines(most, got.code == 0)), "%s: exit %d, stderr '%.*s'", now(s), got.code, said(), got.errors);
    } else {
        check(failures(false) > 0, "%s: exit %d for advice: %.*s", now(s), got.code, said(), got.errors);
        check(got.code > 0 && got.code < 6, "%s: exit %d", now(s), got.code);
        check(in_lines(most, false), "%s: exit %d, stderr '%.*s'", now(s), got.code, said(), got.errors);
        check(is_part(), "%s: exit %d, other text", now(s), got.code);
    }
    if (!cache) return;
    check(cache_is(0) || cache_is(1), "%s: the cache is neither the old nor the new", now(s));
    int left = leftovers(in_work("cache"), "state");
    check(left == 0 || fault.failed[UNLINK], "%s: %d temporary files are left", now(s), left);
}

/* Site `at` of a scenario fails, then the same without. */
static void one_site(const scenario *s, long at, bool onwards) {
    if (s->cache != NO_CACHE) lay_cache();
    run(s, at, onwards);
    if (s->path) {
        check(got.code || equal(&got, &want), "%s: other results", now(s));
        return;
    }
    judge_command(s);
    char before[600];
    snprintf(before, sizeof before, "%s", now(s));
    run(s, 0, false);
    check(got.code == want.code && equal(&got, &want), "after %s: exit %d, %.*s", before, got.code, said(), got.errors);
}

/* Few bytes at a time, or none at first: nothing is different. */
static int in_pieces(const scenario *s) {
    for (size_t most = 0; most <= 7; most++) {
        if (s->cache != NO_CACHE) lay_cache();
        fault.most = most;
        fault.interrupted = most == 0;
        run(s, 0, false);
        check(got.code == want.code && equal(&got, &want) && got.n_errors == want.n_errors, "%s: %zu bytes at a time: exit %d, %.*s",
              now(s), most, got.code, said(), got.errors);
        if (s->cache != NO_CACHE) check(cache_is(1), "%s: %zu bytes at a time: another cache", now(s), most);
    }
    fault.most = 0;
    fault.interrupted = false;
    return 8;
}

static long sites, runs, sites_of[KINDS];

static void keep(outcome *to, const outcome *from) {
    to->code = from->code;
    memcpy(to->text, from->text, to->n = from->n);
    memcpy(to->errors, from->errors, to->n_errors = from->n_errors);
}

static void all_sites(const scenario *s) {
    int failed = tests_failed;
    if (s->cache != NO_CACHE) lay_cache();
    run(s, 0, false);
    long n = fault.calls;
    for (int k = 0; k < KINDS; k++) sites_of[k] += fault.counts[k];
    keep(&want, &got);
    bool sound = (got.code == 0) == (s->cache != DAMAGED) && n > 0;
    if (!check(sound, "%s, without a fault: %d, %.*s", s->name, got.code, said(), got.errors)) return;
    if (s->cache != NO_CACHE) {
        free(cache_bytes[1]);
        cache_bytes[1] = read_file(in_work("cache/state"), &cache_n[1]);
        check(cache_bytes[1] != NULL, "%s: no cache was written", s->name);
    }
    for (long at = 1; at <= n; at++)
        for (int onwards = 0; onwards < 2; onwards++) one_site(s, at, onwards);
    sites += n;
    runs += 1 + 2 * n + in_pieces(s);
#ifdef __SANITIZE_ADDRESS__
    check(!__lsan_do_recoverable_leak_check(), "%s: leaks", s->name);
#endif
    printf("%-42s %4ld sites%s\n", s->name, n, tests_failed > failed ? ", FAILED" : "");
    fflush(stdout);
}

/* ---- What there is to run ---- */

static void last_words(void) {
    static const char text[] = "it was: ";
    if (!fault.doing) return;
    fault.armed = false; /* these words come out */
    if (write(2, text, sizeof text - 1) < 0 || write(2, fault.doing, strlen(fault.doing)) < 0 || write(2, "\n", 1) < 0) return;
}
static void too_long(int signal_number) {
    (void)signal_number;
    last_words();
    _exit(1);
}

/* The sums of Meta's files, where there is md5sum */
static void list_sums(const char *folder) {
    char command[3000];
    snprintf(command, sizeof command, "cd '%s' && md5sum consolidated.*.pth params.json >checklist.chk", folder);
    if (system(command) != 0) printf("SKIP: MD5 sums (no md5sum)\n");
}

static void library(const char *tiny, const char *forms) {
    static const char *const names[FORMS] = {"safetensors", "safetensors, three files", "PyTorch", "PyTorch, two files",
                                             "GGUF", "GGUF, two files", "llama2.c version 0", "llama2.c version 1"};
    const model_spec meta[] = {
        {.dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 1024, .shards = 1},
        {.dim = 64, .layers = 1, .heads = 4, .kv_heads = 2, .hidden = 96, .vocab = 1024, .shards = 2},
        {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 2, .hidden = 32, .vocab = 1024, .shards = 2, .gap = 3},
        {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 2, .hidden = 32, .vocab = 1024, .shards = 1, .legacy = true},
    };
    static const char *const meta_names[] = {"Meta", "Meta, two shards", "Meta, two shards to be copied", "Meta, older torch"};
    static const char *const others[] = {"meta", "hf", "model.gguf", "bin/model.bin"};
    char tokenizer[2048], path[2048], name[96];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.model", tiny);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s", in_work(meta_names[i]));
        snprintf(name, sizeof name, "%s", meta_names[i]);
        model_write(&meta[i], path);
        list_sums(path);
        for (int own = 0; own < 2; own++) {
            if (own) snprintf(name, sizeof name, "%s, the host's allocator", meta_names[i]);
            all_sites(&(scenario){.name = name, .path = path, .tokenizer = tokenizer, .own = own, .cold = i == 1});
        }
    }
    for (int form = 0; form < FORMS; form++) {
        snprintf(path, sizeof path, "%.2000s", model_write_as(&meta[0], (model_form)form, in_work(names[form])));
        all_sites(&(scenario){.name = names[form], .path = path, .tokenizer = tokenizer, .own = true, .cold = form % 2});
    }
    for (int kept = 0; kept < 2; kept++) {
        snprintf(path, sizeof path, "%s", in_work(meta_names[1]));
        all_sites(&(scenario){.name = kept ? "streamed, all kept" : "streamed, nothing kept", .path = path, .tokenizer = tokenizer, .own = kept,
                              .memory = LLAMA_MEMORY_STREAM, .limit = kept ? (uint64_t)1 << 30 : 1, .threads = 1});
    }
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", forms, others[i]);
        snprintf(name, sizeof name, "with its tokenizer, %s", others[i]);
        if (exists(path)) all_sites(&(scenario){.name = name, .path = path, .own = true});
        else printf("SKIP: %s\n", path);
    }
    snprintf(path, sizeof path, "%s", in_work(meta_names[0]));
    all_sites(&(scenario){.name = "Meta, locked", .path = path, .tokenizer = tokenizer, .own = true, .memory = LLAMA_MEMORY_LOCK, .threads = 1});
}

static void command(const char *tiny) {
    char file[2048], model[2048];
    static const char nul[] = "There\nwas\0A king\0";
    const struct {
        const char *name, *text;
        size_t n; /* 0: its length */
    } files[] = {{"prompt", "There was once\n", 0}, {"lines", "There was\nA king\n\n", 0}, {"nul", nul, sizeof nul - 1},
                 {"text", "There was once a poor woodcutter, who had a wife and seven sons.\n", 0}, {"ids", "1 5\n6 300 7\t9 8\n", 0},
                 {"items", "1\tThere was\t a king\t a king\\n\n", 0}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        buffer b = {0};
        put(&b, files[i].text, files[i].n ? files[i].n : strlen(files[i].text));
        put_file(&b, work, files[i].name);
        free(b.at);
    }
    char lines[2048], nuls[2048], text[2048], ids[2048], items[2048];
    snprintf(file, sizeof file, "%s", in_work("prompt"));
    snprintf(lines, sizeof lines, "%s", in_work("lines"));
    snprintf(nuls, sizeof nuls, "%s", in_work("nul"));
    snprintf(text, sizeof text, "%s", in_work("text"));
    snprintf(ids, sizeof ids, "%s", in_work("ids"));
    snprintf(items, sizeof items, "%s", in_work("items"));
    snprintf(model, sizeof model, "%s", in_work("Meta")); /* the library's first */
    char tokenizer[2048];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.model", tiny);
    const scenario all[] = {
        {.name = "llama", .words = {"llama", tiny, "There was", "-n", "8", "--temp", "0", "-c", "32", "-t", "1"}},
        {.name = "llama -f", .words = {"llama", "-m", model, "-f", file, "--tokenizer", tokenizer, "-n", "8", "--temp", "0", "--echo", "-t", "1"}},
        {.name = "llama of stdin, --stop", .input = "There\\x20was\n",
         .words = {"llama", model, "--tokenizer", tokenizer, "-n", "8", "--temp", "0", "--ignore-eos", "-e", "-r", "zzz", "-s", "3", "-t", "1"}},
        {.name = "llama --draft", .words = {"llama", model, "--tokenizer", tokenizer, "There was", "-n", "8", "--temp", "0", "-t", "1", "--draft", model}},
        {.name = "llama info", .words = {"llama", "info", model, "--tokenizer", tokenizer, "-t", "1", "--memory-limit", "1G"}}, /* what is available changes */
        {.name = "llama check", .words = {"llama", "check", model, "--tokenizer", tokenizer}},
        {.name = "llama tokenize", .words = {"llama", "tokenize", model, "--tokenizer", tokenizer, "There", "was", "once"}},
        {.name = "llama tokenize --lines -f", .words = {"llama", "tokenize", model, "--tokenizer", tokenizer, "--lines", "-f", lines}},
        {.name = "llama tokenize --decode", .input = "5 6\n300", .words = {"llama", "tokenize", model, "--tokenizer", tokenizer, "--decode"}},
        {.name = "llama trace", .words = {"llama", "trace", model, "--tokenizer", tokenizer, "There was"}},
        {.name = "llama trace of names", .words = {"llama", "trace", model, "--tokenizer", tokenizer, "There was", "output"}},
        {.name = "llama -p -p -k", .words = {"llama", "-m", model, "--tokenizer", tokenizer, "-p", "There was", "-p", "A king", "-k", "2", "-n", "3",
                                             "-s", "3", "-t", "1"}},
        {.name = "llama --lines -f, --stop", .words = {"llama", model, "--tokenizer", tokenizer, "--lines", "-f", lines, "-n", "3", "-s", "3", "-b", "2",
                                                       "--stop", "a", "--ignore-eos", "-t", "1"}},
        {.name = "llama -0 of a file", .words = {"llama", model, "--tokenizer", tokenizer, "-0", "-f", nuls, "-n", "3", "--temp", "0", "--echo", "-t", "1"}},
        {.name = "llama --lines of stdin", .input = "There\n\nwas",
         .words = {"llama", model, "--tokenizer", tokenizer, "--lines", "-n", "2", "--temp", "0", "-t", "1"}},
        {.name = "llama --json --logprobs, --stats",
         .words = {"llama", model, "--tokenizer", tokenizer, "-p", "There was", "-p", "A king", "--json", "--logprobs", "2", "-n", "3", "-s", "3",
                   "--stats", "-t", "1"}},
        {.name = "llama ppl", .words = {"llama", "ppl", model, text, "--tokenizer", tokenizer, "-c", "16", "--stride", "5", "-t", "1"}},
        {.name = "llama ppl --ids", .words = {"llama", "ppl", model, "--ids", "-f", ids, "-t", "1"}},
        {.name = "llama ppl of stdin", .input = "There was once", .words = {"llama", "ppl", model, "-", "--tokenizer", tokenizer, "-t", "1"}},
        {.name = "llama score", .input = "0\tThere\\twas\t a king\tOnce\\c a\n-\tA\tb\n",
         .words = {"llama", "score", model, "--tokenizer", tokenizer, "-t", "1"}},
        {.name = "llama score -f -q", .words = {"llama", "score", model, "-f", items, "--tokenizer", tokenizer, "-q", "-t", "1"}},
        {.name = "llama -h", .words = {"llama", "-h"}},
        {.name = "llama help all", .words = {"llama", "help", "all"}},
        {.name = "llama help ppl", .words = {"llama", "help", "ppl"}},
        {.name = "llama --completion bash", .words = {"llama", "--completion", "bash"}},
        {.name = "llama --version", .words = {"llama", "--version"}},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) all_sites(&all[i]);
}

/* Whether the command has the option */
static bool has_cache(void) {
    const scenario help = {.name = "llama help", .words = {"llama", "help", "complete"}};
    run(&help, 0, false);
    return memmem(got.text, got.n, "--prompt-cache", 14) != NULL;
}

static void prompt_cache(const char *tiny) {
    static const struct {
        const char *name, *prompt;
    } cases[CACHES] = {{0}, {"a cache that is absent", "There was once a poor woodcutter, who had a wife"},
                       {"a cache that is there", "There was once a poor woodcutter, who had a wife"},
                       {"a cache of another prompt", "There was a king"}, {"a cache of another model", "There was a king"},
                       {"a damaged cache", "There was a king"}};
    char file[2048], tokenizer[2048], model[2048], other[2048];
    make_folder(in_work("cache"));
    leftovers(in_work("cache"), NULL);
    snprintf(file, sizeof file, "%s", in_work("cache/state"));
    snprintf(model, sizeof model, "%s", in_work("Meta, two shards")); /* the library's */
    snprintf(other, sizeof other, "%s", in_work("Meta, older torch"));
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.model", tiny);
    for (int cache = ABSENT; cache < CACHES; cache++) {
        const scenario s = {.name = cases[cache].name, .cache = cache,
                            .words = {"llama", cache < FOREIGN ? model : other, cases[cache].prompt, "-n", "4", "--temp", "0", "-c", "64", "-t", "1",
                                      "--tokenizer", tokenizer, "--prompt-cache", file}};
        free(cache_bytes[0]);
        cache_bytes[0] = cache == ABSENT ? NULL : read_file(file, &cache_n[0]); /* as the one before left it */
        if (cache == DAMAGED && cache_bytes[0]) cache_bytes[0][cache_n[0] / 2] ^= 1;
        all_sites(&s);
    }
}

/* Lines and what they do. A line that cannot be done is told, and the next is read: the file that /load reads is one
 * that /save wrote, of the same text, so that nothing is different whatever fails. */
static void conversation(const char *tiny) {
    char tokenizer[2048], model[2048], file[1200], input[4096];
    snprintf(model, sizeof model, "%s", in_work("Meta, two shards")); /* the library's */
    snprintf(file, sizeof file, "%.1100s", in_work("cache/state"));
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.model", tiny);
    snprintf(input, sizeof input, "There\n//x\n/save %s\n/load %s\nonce\n/stats\n/reset\n\nA\n/exit\nno", file, file);
    const scenario s = {.name = "llama -i", .cache = THERE, .notes = 1, .input = input,
                        .words = {"llama", model, "-i", "--tokenizer", tokenizer, "-n", "3", "-c", "48", "-s", "3", "-t", "1"}};
    const scenario kept = {.name = "llama -i, a prompt, --prompt-cache", .cache = ABSENT, .input = "was\n\nking",
                           .words = {"llama", "-i", "-m", model, "--tokenizer", tokenizer, "There", "-e", "--in-prefix", "U: ", "--in-suffix", "\\nBob:",
                                     "--stop", "U:", "-n", "3", "--temp", "0", "-c", "64", "-t", "1", "--prompt-cache", file}};
    scenario again = kept;
    again.name = "llama -i, --prompt-cache again";
    again.cache = THERE;
    for (int i = 0; i < 3; i++) {
        if (i < 2) unlink(file);
        if (i == 0) run(&s, 0, false);
        free(cache_bytes[0]);
        cache_bytes[0] = exists(file) ? read_file(file, &cache_n[0]) : NULL;
        all_sites(i == 0 ? &s : i == 1 ? &kept : &again);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    first_thread = pthread_self();
    outcome *both[] = {&want, &got};
    for (int i = 0; i < 2; i++) both[i]->text = must_alloc(CAPTURED), both[i]->errors = must_alloc(CAPTURED);
    snprintf(work, sizeof work, "%.1000s", argv[3]);
    unsetenv("LLAMA_MODEL");
    make_folder(work);
    signal(SIGALRM, too_long);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_set_death_callback(last_words);
#else
    printf("SKIP: leaks of what is not counted (built without -fsanitize=address)\n");
#endif
    library(argv[1], argv[2]);
    command(argv[1]);
    if (has_cache()) prompt_cache(argv[1]), conversation(argv[1]);
    else printf("SKIP: --prompt-cache (this release has none)\n");
    if (!saves_seen) printf("SKIP: llama_save, llama_load (this release has none)\n");
    for (int k = 0; k < KINDS; k++) printf("%s%s %ld", k ? ", " : "of these: ", kinds[k].name, sites_of[k]);
    printf("\n");
    for (int k = 0; k < KINDS; k++) check(seen[k] > 0 || kinds[k].unknown, "no call of %s was seen: is it wrapped?", kinds[k].name);
    for (int i = 0; i < 2; i++) free(both[i]->text), free(both[i]->errors), free(cache_bytes[i]);
    printf("faults: %ld sites, %ld runs, %d failed\n", sites, runs, tests_failed);
    return tests_failed != 0;
}
#endif
