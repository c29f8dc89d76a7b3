/* threads.c - one model, several of the host's threads with several sessions each: all get the serial
 * answer, and none gets in another's way (built with ThreadSanitizer, that no byte is shared unguarded). A child
 * of fork() gets it too.
 *
 *   threads MODEL [--quick]
 */
#include "../tools/test.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 8, SESSIONS = 8, TOKENS = 16 };
static llama *model;
static llama_info info = {.size = sizeof info};
static int32_t want[SESSIONS][TOKENS]; /* what each session draws, computed alone */

/* A prompt of its own, then draws; sessions take turns, token by token. false: a call failed */
static bool draw(int32_t out[SESSIONS][TOKENS], int threads) {
    llama_session_options o = {.size = sizeof o, .context = 64, .threads = threads};
    llama_sampler sampler = {.size = sizeof sampler, .temperature = 1, .top_p = 0.9f};
    llama_session *s[SESSIONS] = {NULL};
    bool good = true;
    int sessions = test_quick ? 2 : SESSIONS;
    for (int k = 0; k < sessions; k++) {
        char prompt[32];
        int32_t tokens[32];
        int length = snprintf(prompt, sizeof prompt, "The king's son number %d", k);
        ptrdiff_t n = llama_text_to_tokens(model, prompt, (size_t)length, LLAMA_ADD_BOS, tokens, 32);
        good = good && !llama_session_new(&s[k], model, &o, NULL) && n > 0 && !llama_eval(s[k], 0, tokens, (size_t)n);
    }
    for (int i = 0; i < TOKENS && good; i++)
        for (int k = 0; k < sessions && good; k++) {
            sampler.seed = (uint64_t)k;
            out[k][i] = llama_sample(s[k], 0, &sampler);
            good = out[k][i] >= 0 && !llama_eval(s[k], 0, &out[k][i], 1);
        }
    for (int k = 0; k < sessions; k++) llama_session_free(s[k]);
    return good;
}

static void *in_thread(void *threads) {
    int32_t got[SESSIONS][TOKENS] = {{0}};
    bool good = draw(got, *(int *)threads);
    return good && memcmp(got, want, sizeof want) == 0 ? model : NULL;
}

static void all_at_once(int each) {
    pthread_t ids[THREADS];
    int same = 0;
    for (int i = 0; i < THREADS; i++) check(!pthread_create(&ids[i], NULL, in_thread, &each), "a thread");
    for (int i = 0; i < THREADS; i++) {
        void *good;
        pthread_join(ids[i], &good);
        same += good != NULL;
    }
    check(same == THREADS, "%d of %d threads, with %d workers each, get the serial answer", same, THREADS, each);
}

/* Sessions that had workers, used by a child that has none of them. */
static void test_child(void) {
    llama_session_options o = {.size = sizeof o, .context = 64, .threads = 2};
    llama_session *s = NULL;
    int32_t tokens[48], status = -1;
    for (int i = 0; i < 48; i++) tokens[i] = i + 3;
    check(!llama_session_new(&s, model, &o, NULL) && !llama_eval(s, 0, tokens, 47), "in the parent");
    check(strstr(llama_session_kernels(s), ", 2 threads"), "the parent's kernels: %s", llama_session_kernels(s));
    size_t bytes = (size_t)info.vocab * sizeof(float);
    float *parent = must_alloc(bytes);
    pid_t child = fork();
    if (child == 0) {
        llama_eval(s, 0, tokens + 47, 1);
        llama_rewind(s, 0, 0); /* and a prompt, which would be worth a team */
        llama_eval(s, 0, tokens, 48);
        memcpy(parent, llama_logits(s, 0), bytes);
        llama_rewind(s, 0, 47);
        llama_eval(s, 0, tokens + 47, 1);
        int other = memcmp(parent, llama_logits(s, 0), bytes) != 0 || !strstr(llama_session_kernels(s), ", 1 thread");
        llama_session *own = NULL; /* the child's, of the model that had workers */
        other |= llama_session_new(&own, model, &o, NULL) || llama_eval(own, 0, tokens, 48) || memcmp(parent, llama_logits(own, 0), bytes) != 0;
        _exit(other);
    }
    alarm(60); /* a child that waits for threads it does not have */
    check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child of fork()");
    alarm(0); /* the other cases may take longer */
    free(parent);
    llama_session_free(s);
}

/* A child whose parent had workers, with a model that the child opened itself; then in a thread of the child. */
static const char *path;
static void test_child_opens(void) {
    llama_session_options o = {.size = sizeof o, .context = 64, .threads = 2};
    llama_session *s = NULL;
    int32_t tokens[48], status = -1;
    for (int i = 0; i < 48; i++) tokens[i] = i + 3;
    check(!llama_session_new(&s, model, &o, NULL) && !llama_eval(s, 0, tokens, 48), "in the parent");
    pid_t child = fork();
    if (child == 0) {
        llama *own = NULL;
        llama_session *t = NULL;
        alarm(30); /* a child that waits for threads it does not have ends here */
        int other = llama_open(&own, path, NULL, NULL) || llama_session_new(&t, own, &o, NULL) || llama_eval(t, 0, tokens, 48) ||
                    memcmp(llama_logits(s, 0), llama_logits(t, 0), (size_t)info.vocab * sizeof(float)) != 0;
        pthread_t id;
        void *good = NULL;
        int threads = 2;
        other |= pthread_create(&id, NULL, in_thread, &threads) || pthread_join(id, &good) || !good;
        _exit(other);
    }
    bool ended = waitpid(child, &status, 0) == child;
    check(ended && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child of fork() with a model of its own: %x", (unsigned)status);
    llama_session_free(s);
}

/* 48 tokens with a session of `threads` threads give the logits of the serial session. */
static float *serial; /* [vocab] */
static int32_t line[48];
static bool same(llama_session *s) {
    return s && !llama_rewind(s, 0, 0) && !llama_eval(s, 0, line, 48) &&
           memcmp(llama_logits(s, 0), serial, (size_t)info.vocab * sizeof(float)) == 0;
}
static llama_session *session_of(int threads, llama_progress_fn progress, void *user) {
    llama_session_options o = {.size = sizeof o, .context = 64, .threads = threads, .progress = progress, .user = user};
    llama_session *s = NULL;
    return llama_session_new(&s, model, &o, NULL) ? NULL : s;
}
static void compute_serial(void) {
    for (int i = 0; i < 48; i++) line[i] = i + 3;
    llama_session *s = session_of(1, NULL, NULL);
    serial = must_alloc((size_t)info.vocab * sizeof(float));
    if (s && !llama_eval(s, 0, line, 48)) memcpy(serial, llama_logits(s, 0), (size_t)info.vocab * sizeof(float));
    llama_session_free(s);
}

/* More threads than cores, several sessions, one after the other: each answer is the serial one. */
static void test_more_than_cores(void) {
    llama_session *s[SESSIONS];
    int good = 0;
    for (int i = 0; i < SESSIONS; i++) s[i] = session_of(8, NULL, NULL);
    for (int i = 0; i < SESSIONS; i++) good += same(s[i]);
    for (int i = 0; i < SESSIONS; i++) llama_session_free(s[i]);
    check(good == SESSIONS, "%d of %d sessions of 8 threads", good, SESSIONS);
}

static void test_many_sessions(void) {
    int good = 0;
    for (int i = 0; i < 1000; i++) {
        llama_session *s = session_of(1 + i % 5, NULL, NULL);
        good += i % 50 ? s != NULL : same(s);
        llama_session_free(s);
    }
    check(good == 1000, "%d of 1000 sessions", good);
}

#if defined(LLAMA_OPENMP) || defined(__SANITIZE_THREAD__)
#define OWN_THREADS 0 /* OpenMP cannot do what follows, and the tool cannot follow it */
#else
#define OWN_THREADS 1
#endif

#if OWN_THREADS
/* The system gives `given` threads, then no more. */
static int given = -1; /* -1: as many as are asked for */
#if defined(_WIN32)
static HANDLE WINAPI limited(SECURITY_ATTRIBUTES *a, SIZE_T stack, LPTHREAD_START_ROUTINE run, void *user, DWORD flags, DWORD *id) {
    HANDLE (WINAPI *real)(SECURITY_ATTRIBUTES *, SIZE_T, LPTHREAD_START_ROUTINE, void *, DWORD, DWORD *);
    *(FARPROC *)&real = GetProcAddress(GetModuleHandleA("kernel32"), "CreateThread");
    if (given == 0) return NULL;
    if (given > 0) given--;
    return real(a, stack, run, user, flags, id);
}
HANDLE (WINAPI *__imp_CreateThread)(SECURITY_ATTRIBUTES *, SIZE_T, LPTHREAD_START_ROUTINE, void *, DWORD, DWORD *) = limited;
#else
int pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *user) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (given == 0) return 11; /* EAGAIN */
    if (given > 0) given--;
    return real(id, attributes, run, user);
}
#endif
static void test_no_threads(void) {
    for (int k = 0; k < 6; k++) {
        given = k;
        llama_session *s = session_of(6, NULL, NULL);
        given = -1;
        const char *text = s ? llama_session_kernels(s) : "";
        char want[32];
        snprintf(want, sizeof want, ", %d thread%s", k + 1, k ? "s" : "");
        check(same(s) && strstr(text, want), "%d threads of the system: %s", k, text);
        llama_session_free(s);
    }
}
#endif

#if OWN_THREADS && defined(SYS_set_mempolicy)
/* A machine with two nodes of memory, as far as system calls tell: while pages are read they are placed on both, and
 * while the host's function runs, as they were. */
static long placement = 1, placed;
long syscall(long number, ...) {
    va_list args;
    long a[5];
    va_start(args, number);
    for (int i = 0; i < 5; i++) a[i] = va_arg(args, long);
    va_end(args);
    unsigned long *nodes = (unsigned long *)a[1];
    if (number == SYS_get_mempolicy && a[4]) nodes[0] = 3;
    else if (number == SYS_get_mempolicy) *(int *)a[0] = (int)placement, nodes[0] = 2;
    else if (number == SYS_set_mempolicy) placed += a[0] == 3 && nodes[0] == 3, placement = a[0];
    else return -1;
    return 0;
}
static int as_before(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)what, (void)done, (void)total;
    *(int *)user += placement == 1;
    return 0;
}
static void test_nodes(void) {
    int calls = 0;
    check(llama_prefetch(model, as_before, &calls) == LLAMA_OK && calls > 0 && placed == calls && placement == 1, "%d calls, %ld placed, then %ld", calls, placed, placement);
}
#endif

#if OWN_THREADS
/* A child that is made inside a call: it evaluates with another session, one of its own, and frees
 * both, and the call's session too. */
typedef struct {
    llama_session *other, *self;
    pid_t child;
} forking;
static int fork_once(void *user, const char *stage, uint64_t done, uint64_t total) {
    forking *f = user;
    (void)stage, (void)done, (void)total;
    if (f->child) return 0;
    if ((f->child = fork()) == 0) {
        alarm(30);
        llama_session *own = session_of(2, NULL, NULL);
        int bad = !same(f->other) || !same(own) || !strstr(llama_session_kernels(own), "2 threads");
        llama_session_free(own);
        llama_session_free(f->other);
        _exit(bad);
    }
    return 0;
}
static void test_fork_in_call(void) {
    forking f = {.other = session_of(2, NULL, NULL)};
    int status = -1;
    f.self = session_of(2, fork_once, &f);
    check(same(f.other) && same(f.self), "in the parent");
    bool ended = waitpid(f.child, &status, 0) == f.child;
    check(ended && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child made in a call: %x", (unsigned)status);
    check(same(f.other), "the parent afterwards");
    llama_session_free(f.self);
    llama_session_free(f.other);
}
#endif

static void test_one_worker(void) { all_at_once(1); }
static void test_two_workers(void) { all_at_once(2); }

static const test_case cases[] = {CASE(one_worker), CASE(two_workers), CASE(child), CASE(child_opens), CASE(more_than_cores), CASE(many_sessions),
#if OWN_THREADS
                                  CASE(fork_in_call), CASE(no_threads),
#endif
#if OWN_THREADS && defined(SYS_set_mempolicy)
                                  CASE(nodes),
#endif
};

int main(int argc, char **argv) {
    if (tests_begin(argc, argv) < 2 || llama_open(&model, argv[1], NULL, NULL) || llama_describe(model, &info)) return 2;
    path = argv[1];
    check(draw(want, 1), "alone");
    int different = 0;
    for (int k = 1; k < SESSIONS; k++) different += memcmp(want[k], want[0], sizeof want[0]) != 0;
    check(different == SESSIONS - 1, "each session its own text");
    compute_serial();
    RUN(cases);
    free(serial);
    llama_close(model);
    return tests_done("threads");
}
