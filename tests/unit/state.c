/* state.c - saved sessions: they go on with the same bits, and whatever is not one is refused and changes
 * nothing; and files that change while they are in use.
 *
 *   state WORKDIR [still]     still: no file is cut short while it is mapped
 */
#include "../tools/checkpoint.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char work[1024];
static const model_spec spec = {.dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1};
static const int32_t some[] = {1, 5, 9, 2, 7, 7, 3, 11, 4, 8, 6, 10};

static const char *in_work(const char *name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", work, name);
    return path;
}

static llama *model_at(const char *path, const llama_options *o) {
    llama *m = NULL;
    llama_error err;
    if (!check(llama_open(&m, path, o, &err) == LLAMA_OK, "%s: %s", path, err.text)) exit(1);
    return m;
}

static llama_session *session(const llama *m, llama_session_options o) {
    llama_session *s = NULL;
    o.size = sizeof o;
    if (!check(llama_session_new(&s, m, &o, NULL) == LLAMA_OK, "a session")) exit(1);
    return s;
}

/* ---- A state in memory ---- */

static tape saved(llama_session *s, int seq) {
    tape t = {.stop = SIZE_MAX};
    check(llama_save(s, seq, on_write, &t) == LLAMA_OK, "save: %s", llama_session_error(s));
    return t;
}

static int load(llama_session *s, int seq, tape *t) {
    t->at = 0;
    return llama_load(s, seq, on_read, t);
}

/* Everything there is to see of a sequence. */
typedef struct {
    size_t length;
    int32_t tokens[64];
    bool has;
    float logits[24];
} picture;

static picture look(const llama_session *s, int seq) {
    picture p;
    memset(&p, 0, sizeof p);
    p.length = llama_length(s, seq);
    memcpy(p.tokens, llama_tokens(s, seq), p.length * sizeof *p.tokens);
    p.has = llama_logits(s, seq) != NULL;
    if (p.has) memcpy(p.logits, llama_logits(s, seq), sizeof p.logits);
    return p;
}

static bool same(const picture *a, const picture *b) { return memcmp(a, b, sizeof *a) == 0; }

/* The logits after some more tokens. */
static picture after(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    check(llama_eval(s, seq, tokens, n) == LLAMA_OK, "eval: %s", llama_session_error(s));
    return look(s, seq);
}

/* ---- What is saved goes on as if nothing had been ---- */

static llama *model; /* the one that most cases are about */

static void test_round_trip(void) {
    const llama *m = model;
    llama_session *a = session(m, (llama_session_options){.context = 20, .sequences = 2});
    llama_session *b = session(m, (llama_session_options){.context = 33, .sequences = 3, .threads = 1, .kernels = "scalar"});
    llama_eval(a, 1, some, 7);
    picture then = look(a, 1);
    tape t = saved(a, 1);
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    size_t want = 7 * (info.kv_bytes_per_token + 4) + 24 * 4;
    check(t.b.n > want && t.b.n < want + 128, "%zu bytes for 7 tokens, expected about %zu", t.b.n, want);
    check(load(b, 2, &t) == LLAMA_OK && t.at == t.b.n, "into an empty sequence: %s", llama_session_error(b));
    picture now = look(b, 2);
    check(same(&then, &now), "tokens and logits come back");
    llama_eval(b, 0, some + 3, 5); /* and into one that is not empty, longer or shorter */
    check(load(b, 0, &t) == LLAMA_OK && (now = look(b, 0), same(&then, &now)), "over 5 tokens");
    llama_eval(b, 1, some, 12);
    check(load(b, 1, &t) == LLAMA_OK && (now = look(b, 1), same(&then, &now)), "over 12 tokens");
    picture on = after(a, 1, some + 7, 5);
    for (int seq = 0; seq < 3; seq++) {
        now = after(b, seq, some + 7, 5);
        check(same(&on, &now), "sequence %d goes on with the same bits", seq);
    }
    llama_rewind(a, 1, 4); /* without logits */
    tape u = saved(a, 1), nothing = saved(a, 0);
    check(load(b, 0, &u) == LLAMA_OK && llama_length(b, 0) == 4 && !llama_logits(b, 0), "without logits");
    now = after(b, 0, some + 4, 3);
    check(same(&then, &now), "and on, the same");
    check(load(b, 0, &nothing) == LLAMA_OK && llama_length(b, 0) == 0 && !llama_logits(b, 0), "an empty sequence can be saved too");
    free(t.b.at), free(u.b.at), free(nothing.b.at);
    llama_session_free(a), llama_session_free(b);
}

/* ---- Files of state ---- */

static void test_files(void) {
    const llama *m = model;
    llama_session *s = session(m, (llama_session_options){.context = 20, .sequences = 2});
    llama_error err;
    char path[2048], folder[2048], longest[8192];
    snprintf(path, sizeof path, "%s", in_work("file"));
    snprintf(folder, sizeof folder, "%s", in_work("states"));
    memset(longest, 'a', sizeof longest - 1), longest[sizeof longest - 1] = 0;
    unlink(path);
    llama_eval(s, 0, some, 7);
    picture then = look(s, 0), now;
    tape t = saved(s, 0);
    errno = 0;
    check(llama_load_file(s, 1, path, &err) == LLAMA_EIO && errno == ENOENT && strstr(err.text, path), "none is there: %s", err.text);
    check(llama_save_file(s, 0, path, &err) == LLAMA_OK && !*err.text, "saved: %s", err.text);
    size_t n = 0;
    char *bytes = read_file(path, &n), *now_text = NULL;
    check(n == t.b.n && memcmp(bytes, t.b.at, n) == 0, "the bytes that llama_save writes");
    check(llama_load_file(s, 1, path, &err) == LLAMA_OK && (now = look(s, 1), same(&then, &now)), "and back: %s", err.text);
    llama_eval(s, 0, some, 2);
    check(llama_save_file(s, 0, path, NULL) == LLAMA_OK && llama_load_file(s, 1, path, NULL) == LLAMA_OK && llama_length(s, 1) == 9, "over an older one");
    then = look(s, 1);
    char cut[64];
    snprintf(cut, sizeof cut, "the state ends after %zu of %zu bytes", n - 1, n);
    const char *const said[] = {cut, "damaged", "is empty; this is not a saved state", "only the first 55 bytes of its header"};
    for (int what = 0; what < 4; what++) { /* cut short; a bit of the last token's; nothing at all; less than the header */
        buffer b = {0};
        put(&b, bytes, what == 3 ? 55 : what == 2 ? 0 : n - (what == 0));
        if (what == 1) b.at[n / 2] ^= 1;
        put_file(&b, work, "file");
        errno = ENOENT;
        int status = llama_load_file(s, 1, path, &err);
        check(errno != ENOENT && status == LLAMA_EFORMAT && strstr(err.text, path) && strstr(err.text, said[what]), "%d: %d, %s", what, status, err.text);
        check((now = look(s, 1), same(&then, &now)), "%d: the sequence is as it was", what);
        free(b.at);
    }
    buffer b = {0};
    put(&b, bytes, n), put(&b, "x", 1);
    put_file(&b, work, "file");
    check(llama_load_file(s, 1, path, &err) == LLAMA_EFORMAT && strstr(err.text, "longer than the state in it") && (now = look(s, 1), same(&then, &now)), "goes on after the state: %s", err.text);
    make_folder(folder);
    check(llama_load_file(s, 1, folder, &err) == LLAMA_EIO && strstr(err.text, "regular"), "a folder: %s", err.text);
    check(llama_save_file(s, 0, folder, &err) == LLAMA_EIO && strstr(err.text, folder), "over a folder: %s", err.text);
    char link[2100], target[2100];
    snprintf(target, sizeof target, "%.2000s", in_work("target")), snprintf(link, sizeof link, "%.2000s", in_work("link"));
    unlink(link), unlink(target);
    struct stat st = {.st_size = 0};
    check(stat(in_work("file"), &st) == 0 && st.st_size == (off_t)n + 1, "the size of the file");
#if !defined(_WIN32) /* which has no such permissions, links or FIFOs */
    check(llama_save_file(s, 0, target, &err) == LLAMA_OK && stat(target, &st) == 0 && (st.st_mode & 0777) == 0600, "a new file is its owner's: %s", err.text);
    check(chmod(target, 0644) == 0 && symlink("target", link) == 0 && llama_save_file(s, 0, link, &err) == LLAMA_OK, "through a link: %s", err.text);
    check(lstat(link, &st) == 0 && S_ISLNK(st.st_mode) && stat(target, &st) == 0 && (st.st_mode & 0777) == 0644, "the link stays, and the mode");
#endif
    buffer notes = {0};
    put(&notes, "dear diary", 10);
    put_file(&notes, work, "notes");
    check(llama_save_file(s, 0, in_work("notes"), &err) == LLAMA_EINVAL && strstr(err.text, "not a saved state"), "over something else: %s", err.text);
    check((now_text = read_file(in_work("notes"), &n), n == 10 && memcmp(now_text, "dear diary", 10) == 0), "which stays");
#if !defined(_WIN32)
    mkfifo(in_work("fifo"), 0600);
    check(llama_save_file(s, 0, in_work("fifo"), &err) == LLAMA_EIO && strstr(err.text, "regular"), "over a FIFO: %s", err.text);
#endif
    free(now_text), free(notes.at);
    check(llama_save_file(NULL, 0, in_work("none"), &err) == LLAMA_EINVAL && *err.text && !exists(in_work("none")), "no session: %s", err.text);
    check(llama_save_file(s, 0, "/no/such/folder/file", &err) == LLAMA_EIO && strstr(err.text, "No such file"), "nowhere: %s", err.text);
    check(llama_save_file(s, 0, longest, &err) == LLAMA_EINVAL && llama_save_file(s, 0, NULL, &err) == LLAMA_EINVAL && llama_load_file(s, 0, NULL, &err) == LLAMA_EINVAL, "no name");
    check(llama_save_file(s, 2, path, &err) == LLAMA_EINVAL && strstr(err.text, "no such sequence") && llama_load_file(s, 2, path, &err) == LLAMA_EINVAL, "no sequence: %s", err.text);
    free(b.at), free(bytes), free(t.b.at);
    llama_session_free(s);
}

/* Links to a file that does not exist yet: the file comes to be where they point, and the links stay. */
static void test_links(void) {
    static const struct {
        const char *target;
        int status;
        const char *made; /* the file that is there afterwards */
    } links[] = {{"new", LLAMA_OK, "links/new"}, {"../new", LLAMA_OK, "new"}, {"deeper/new", LLAMA_OK, "links/deeper/new"}, {"chain", LLAMA_OK, "links/end"},
                 {"", LLAMA_OK, "absolute"}, {"nowhere/new", LLAMA_EIO, NULL}, {"loop", LLAMA_EIO, NULL}};
    llama_session *s = session(model, (llama_session_options){.context = 20});
    char command[8192], link[2100], target[8192], made[2100];
    struct stat st;
    llama_error err;
    llama_eval(s, 0, some, 7);
    snprintf(link, sizeof link, "%.2000s", in_work("links/link"));
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(command, sizeof command, "cd '%s' && rm -rf links new absolute && mkdir -p links/deeper && ln -s end links/chain && ln -s loop links/loop", work);
        check(system(command) == 0, "a folder");
        snprintf(target, sizeof target, "%s", links[i].target);
        if (!*target && !realpath(work, target)) return;
        if (!*links[i].target) strcat(target, "/absolute");
        check(symlink(target, link) == 0, "a link to %s", target);
        int status = llama_save_file(s, 0, link, &err);
        check(status == links[i].status && (status == LLAMA_OK) == !*err.text, "a link to %s: %d, %s", target, status, err.text);
        check(lstat(link, &st) == 0 && S_ISLNK(st.st_mode), "the link to %s stays", target);
        if (links[i].made) {
            snprintf(made, sizeof made, "%.2000s", in_work(links[i].made));
            check(lstat(made, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0600, "%s is made", made);
            check(llama_load_file(s, 0, link, &err) == LLAMA_OK, "and read through the link: %s", err.text);
        }
        snprintf(command, sizeof command, "cd '%s' && [ -z \"$(find links -name '*.[0-9a-f]*'; ls new.* absolute.* 2>/dev/null)\" ]", work);
        check(system(command) == 0, "a link to %s: no temporary file is left", target);
    }
    llama_session_free(s);
}

/* A limit of a file's size (ulimit -f): an error, no SIGXFSZ, no file left, at every size of the limit. */
static void test_size_limit(void) {
    llama_session *s = session(model, (llama_session_options){.context = 20});
    char path[2048], command[4096], *bytes = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "%s", in_work("limited"));
    snprintf(command, sizeof command, "ls %s* >/dev/null 2>&1", path);
    llama_eval(s, 0, some, 7);
    tape t = saved(s, 0);
    unlink(path);
    for (size_t less = 0; less <= t.b.n; less += 40) {
        size_t limit = t.b.n - less;
        struct rlimit before, limits;
        llama_error err;
        unlink(path);
        getrlimit(RLIMIT_FSIZE, &before);
        limits = before, limits.rlim_cur = limit;
        setrlimit(RLIMIT_FSIZE, &limits);
        int got = llama_save_file(s, 0, path, &err);
        setrlimit(RLIMIT_FSIZE, &before);
        if (less) check(got == LLAMA_EIO && strstr(err.text, "File too large"), "a limit of %zu of %zu bytes: %d %s", limit, t.b.n, got, err.text);
        else check(got == LLAMA_OK, "a limit of just its size: %d %s", got, err.text);
        if (less) check(system(command) != 0, "a limit of %zu bytes leaves no file", limit);
        else check((bytes = read_file(path, &n)) && n == t.b.n && memcmp(bytes, t.b.at, n) == 0, "what fits is saved");
    }
    free(bytes), free(t.b.at);
    llama_session_free(s);
}

/* The same weights from other files are the same model; others are not. */
static void test_fingerprint(void) {
    const llama *m = model;
    llama_session *s = session(m, (llama_session_options){.context = 16});
    picture want = after(s, 0, some, 9);
    tape t = saved(s, 0);
    llama_session_free(s);
    for (int form = -1; form < FORMS; form++) { /* first in two shards */
        model_spec two = spec;
        char path[2048];
        two.shards = 2;
        if (form < 0) model_write(&two, strcpy(path, in_work("shards")));
        else snprintf(path, sizeof path, "%.2000s", model_write_as(&spec, (model_form)form, in_work("form")));
        llama *other = model_at(path, NULL);
        s = session(other, (llama_session_options){.context = 16});
        check(load(s, 0, &t) == LLAMA_OK, "form %d: %s", form, llama_session_error(s));
        picture got = look(s, 0);
        check(same(&want, &got), "form %d: the same", form);
        llama_session_free(s), llama_close(other);
    }
    model_spec others[] = {spec, spec, spec, spec, spec, spec};
    others[0].vocab = 25, others[1].hidden = 48, others[2].layers = 1, others[3].heads = 4, others[4].kv_heads = 2, others[5].scaling = 2;
    for (int i = 0; i < 6; i++) {
        llama *other = model_at((model_write(&others[i], in_work("other")), in_work("other")), NULL);
        s = session(other, (llama_session_options){.context = 16});
        check(load(s, 0, &t) == LLAMA_EMISMATCH && strstr(llama_session_error(s), "model") && llama_length(s, 0) == 0, "another shape, %d: %s", i, llama_session_error(s));
        llama_session_free(s), llama_close(other);
    }
    free(t.b.at);
}

/* A host that takes subnormal numbers for zero has the same fingerprint: the calls have a mode of their own. */
static void test_mode(void) {
#if defined(__x86_64__)
    enum { FTZ_DAZ = 0x8040 };
    char path[2048], file[2100];
    uint64_t header;
    snprintf(path, sizeof path, "%.2000s", model_write_as(&spec, SAFETENSORS, in_work("mode")));
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    size_t n = 0;
    char *bytes = read_file(file, &n);
    memcpy(&header, bytes, 8);
    buffer b = {0};
    put(&b, bytes, n);
    memcpy(b.at + 8 + header, "\1\0", 2); /* the least half there is, first of a matrix */
    check(write_file(file, &b), "%s", file);
    llama *m = model_at(path, NULL);
    llama_session *s = session(m, (llama_session_options){.context = 8});
    llama_eval(s, 0, some, 3);
    unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | FTZ_DAZ);
    unsigned host = __builtin_ia32_stmxcsr(); /* as it took it: valgrind leaves the bits off */
    tape t = saved(s, 0);
    check(__builtin_ia32_stmxcsr() == host, "the host's mode stays");
    __builtin_ia32_ldmxcsr(mode);
    check(load(s, 0, &t) == LLAMA_OK, "saved by a host with another mode: %s", llama_session_error(s));
    llama_session_free(s), llama_close(m);
    free(t.b.at), free(b.at), free(bytes);
#endif
}

/* Each weight alone, otherwise: the first and the last row of every one count. */
static void test_each_weight(void) {
    const llama *m = model;
    llama_session *s = session(m, (llama_session_options){.context = 16});
    llama_eval(s, 0, some, 3);
    tape t = saved(s, 0);
    llama_session_free(s);
    size_t n = 0, tried = 0;
    snprintf(work + strlen(work), 8, "/bin");
    char *path = strdup(model_write_as(&spec, BIN_1, work)), *bytes = read_file(path, &n);
    work[strlen(work) - 4] = 0;
    /* version 1: norms of both layers, the last norm, embeddings, then wq wk wv wo w1 w2 w3 of both, output */
    static const size_t shapes[][2] = {{1, 16}, {1, 16}, {1, 16}, {1, 16}, {1, 16}, {24, 16}, {16, 16}, {16, 16}, {8, 16}, {8, 16}, {8, 16}, {8, 16},
                                       {16, 16}, {16, 16}, {32, 16}, {32, 16}, {16, 32}, {16, 32}, {32, 16}, {32, 16}, {24, 16}};
    size_t at = 256;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; at += shapes[i][0] * shapes[i][1] * 4, i++)
        for (int last = 0; last < 2; last++, tried++) {
            buffer b = {0};
            put(&b, bytes, n);
            b.at[at + (last ? shapes[i][0] * shapes[i][1] * 4 - 3 : 1)] ^= 0x10;
            check(write_file(path, &b), "%s", path);
            llama *other = model_at(path, NULL);
            s = session(other, (llama_session_options){.context = 16});
            check(load(s, 0, &t) == LLAMA_EMISMATCH, "matrix %zu, its %s element, is another", i, last ? "last" : "first");
            llama_session_free(s), llama_close(other);
            free(b.at);
        }
    check(at == n && tried == 42, "all of the file was gone over: %zu of %zu", at, n);
    free(t.b.at), free(bytes), free(path);
}

/* ---- What is none is refused, and nothing has happened ---- */

static void refused(llama_session *s, tape *t, int want, const char *what, size_t i) {
    picture before[2] = {look(s, 0), look(s, 1)};
    for (int seq = 0; seq < 2; seq++) { /* an empty one and one of five tokens */
        int status = load(s, seq, t);
        picture now = look(s, seq);
        bool right = want ? status == want : status == LLAMA_EFORMAT || status == LLAMA_EIO;
        if (!right || !same(&before[seq], &now) || !*llama_session_error(s))
            check(false, "%s %zu, sequence %d: %d, %s%s", what, i, seq, status, llama_session_error(s), same(&before[seq], &now) ? "" : "; it has changed");
        else tests_passed++;
    }
}

static void test_damage(void) {
    const llama *m = model;
    llama_session *s = session(m, (llama_session_options){.context = 12, .sequences = 2, .threads = 1});
    picture five = after(s, 1, some + 2, 5);
    llama_eval(s, 0, some, 3);
    tape t = saved(s, 0);
    llama_rewind(s, 0, 0);
    for (size_t bit = 0; bit < 8 * t.b.n; bit++) {
        t.b.at[bit / 8] ^= (unsigned char)(1 << bit % 8);
        refused(s, &t, LLAMA_EFORMAT, "bit", bit);
        t.b.at[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    size_t n = t.b.n;
    for (t.b.n = 0; t.b.n < n; t.b.n++) refused(s, &t, LLAMA_EIO, "cut at", t.b.n);
    check(load(s, 0, &t) == LLAMA_OK, "sound, it loads: %s", llama_session_error(s));
    llama_rewind(s, 1, 3);
    picture now = after(s, 1, some + 5, 2);
    check(same(&five, &now), "and the other goes on as if nothing had been");
    free(t.b.at);
    llama_session_free(s);
}

/* The sum that states have, to make false ones whose sums are right. */
static uint64_t sum_of(uint64_t sum, const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, p + i, n - i < 8 ? n - i : 8);
        sum = (sum ^ word) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 29;
    }
    return sum;
}

/* Put right sums into a state of so many tokens: after the header, and at the end. Its parts are summed one
 * by one. */
static void mend(tape *t, size_t length, bool logits) {
    enum { HEADER = 48, ROW = 8 * 4, LAYERS = 2 };
    uint64_t sum = sum_of(0, t->b.at, HEADER);
    memcpy(t->b.at + HEADER, &sum, 8);
    size_t parts[3 + 2 * LAYERS] = {8, length * 4}, at = HEADER, n = 2;
    for (int i = 0; i < 2 * LAYERS; i++) parts[n++] = length * ROW;
    if (logits) parts[n++] = 24 * 4;
    for (size_t i = 0; i < n; at += parts[i++]) sum = sum_of(sum, t->b.at + at, parts[i]);
    memcpy(t->b.at + at, &sum, 8);
    check(at + 8 == t->b.n, "the state is as long as it should be");
}

static void test_forged(void) {
    const llama *m = model;
    static const struct {
        const char *what;
        size_t at; /* which byte is made what */
        unsigned char v;
        int want;
    } cases[] = {
        {"another magic", 0, 'x', LLAMA_EFORMAT},
        {"another version", 8, 1, LLAMA_EMISMATCH},
        {"another model", 16, 0, LLAMA_EMISMATCH},
        {"of fast numerics", 24, 1, LLAMA_EMISMATCH},
        {"of 13 tokens", 32, 13, LLAMA_EFULL},
        {"of 2^63 tokens", 39, 0x80, LLAMA_EFULL},
        {"logits that are neither there nor not", 40, 2, LLAMA_EFORMAT},
        {"a token that is not in the vocabulary", 56, 24, LLAMA_EFORMAT},
        {"a token below zero", 59, 0x80, LLAMA_EFORMAT},
        {"a logit that is no number", 56 + 12 + 3 * 4 * 32 + 3, 0x7f, LLAMA_EFORMAT},
    };
    llama_session *s = session(m, (llama_session_options){.context = 12, .sequences = 2, .threads = 1});
    llama_eval(s, 1, some + 2, 5);
    llama_eval(s, 0, some, 3);
    tape t = saved(s, 0);
    llama_rewind(s, 0, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tape f = {.stop = 0};
        put(&f.b, t.b.at, t.b.n);
        f.b.at[cases[i].at] = cases[i].at == 16 ? f.b.at[16] ^ 1 : cases[i].v;
        if (cases[i].v == 0x7f) f.b.at[cases[i].at - 1] |= 0x80;
        mend(&f, 3, true);
        refused(s, &f, cases[i].want, cases[i].what, i);
        free(f.b.at);
    }
    tape f = {.stop = 0}; /* logits of no token */
    put(&f.b, t.b.at, 56);
    f.b.at[32] = 0;
    put(&f.b, t.b.at + 56 + 12 + 3 * 4 * 32, 24 * 4 + 8);
    mend(&f, 0, true);
    refused(s, &f, LLAMA_EFORMAT, "logits of no token", 0);
    mend(&t, 3, true);
    check(load(s, 0, &t) == LLAMA_OK, "the sums made here are those of the library");
    free(f.b.at), free(t.b.at);
    llama_session_free(s);
}

static void test_failures(void) {
    const llama *m = model;
    llama_session *s = session(m, (llama_session_options){.context = 12});
    llama_eval(s, 0, some, 3);
    tape t = saved(s, 0);
    for (size_t stop = 0; stop < t.b.n; stop++) {
        tape cut = {.stop = stop};
        if (llama_save(s, 0, on_write, &cut) != LLAMA_EIO || !strstr(llama_session_error(s), "written"))
            check(false, "a disk full after %zu bytes: %s", stop, llama_session_error(s));
        free(cut.b.at);
    }
    check(llama_save(s, 0, NULL, NULL) == LLAMA_EINVAL && llama_save(s, 1, on_write, &t) == LLAMA_EINVAL && llama_save(NULL, 0, on_write, &t) == LLAMA_EINVAL &&
              llama_load(s, 0, NULL, NULL) == LLAMA_EINVAL && llama_load(s, -1, on_read, &t) == LLAMA_EINVAL && llama_load(NULL, 0, on_read, &t) == LLAMA_EINVAL &&
              !llama_tokens(s, 1) && !llama_tokens(NULL, 0), "what cannot be is refused");
    check(llama_length(s, 0) == 3 && llama_tokens(s, 0)[2] == some[2], "the tokens can be seen");
    free(t.b.at);
    llama_session_free(s);
}

/* The room for a state beside a sequence, refused piece by piece. */
static long granted; /* allocations still allowed */
static long alive;
static void *miser_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    if (granted-- <= 0) return NULL;
    alive++;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void miser_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    alive--;
    free(p);
}

static void test_no_memory(void) {
    const llama *m = model;
    llama_allocator miser = {NULL, miser_alloc, miser_free};
    granted = 1;
    llama_session *s = session(m, (llama_session_options){.context = 2000, .allocator = &miser});
    int32_t many[1500];
    for (int i = 0; i < 1500; i++) many[i] = i % 24;
    check(llama_eval(s, 0, many, 1500) == LLAMA_OK, "1,500 tokens");
    tape t = saved(s, 0);
    granted = 0;
    check(load(s, 0, &t) == LLAMA_ENOMEM && llama_length(s, 0) == 1500 && llama_logits(s, 0), "no memory: %s", llama_session_error(s));
    granted = 1;
    check(load(s, 0, &t) == LLAMA_ENOMEM && llama_length(s, 0) == 1500 && alive == 1, "not enough memory");
    granted = 100;
    check(load(s, 0, &t) == LLAMA_OK && alive == 1, "enough, and all of it given back");
    granted = 0;
    llama_rewind(s, 0, 0);
    check(load(s, 0, &t) == LLAMA_OK && llama_length(s, 0) == 1500, "an empty sequence needs none");
    llama_session_free(s);
    check(alive == 0, "nothing is left");
    free(t.b.at);
}

/* ---- Files that change ---- */

static llama *faulty;
static volatile sig_atomic_t faults;
static void on_bus(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    faults++;
    if (!llama_handle_sigbus(faulty, info->si_addr)) _exit(99);
}

/* The model again in a folder of its own, open as `faulty`; the path of its weights. */
static const char *fresh(const char *name) {
    static char path[4096];
    const model_spec large = {.dim = 64, .layers = 3, .heads = 2, .kv_heads = 2, .hidden = 128, .vocab = 64, .shards = 1};
    model_write(&large, in_work(name));
    snprintf(path, sizeof path, "%s/consolidated.00.pth", in_work(name));
    faulty = model_at(in_work(name), NULL);
    return path;
}

/* Cut short under an open model: an error with the file's name, in every call that reads weights, and a
 * living process; the sequence is as it was. */
static void test_cut(size_t length, int threads) {
    const char *path = fresh("cut");
    llama_session *s = session(faulty, (llama_session_options){.context = 16, .threads = threads});
    tape t = {.stop = SIZE_MAX};
    llama_error err;
    check(llama_eval(s, 0, some, 4) == LLAMA_OK, "before");
    tape sound = saved(s, 0);
    float before[64];
    memcpy(before, llama_logits(s, 0), sizeof before);
    faults = 0;
    check(truncate(path, (off_t)length) == 0, "truncate");
    check(llama_eval(s, 0, some, 4) == LLAMA_EIO && strstr(llama_session_error(s), path) && faults > 0, "cut at %zu: %s", length, llama_session_error(s));
    check(llama_length(s, 0) == 4 && memcmp(before, llama_logits(s, 0), sizeof before) == 0, "the sequence is as it was");
    check(llama_eval(s, 0, some, 1) == LLAMA_EIO && llama_score(s, 0, some, 1, before) == LLAMA_EIO, "and so it stays");
    check(llama_save(s, 0, on_write, &t) == LLAMA_EIO && strstr(llama_session_error(s), path) && load(s, 0, &sound) == LLAMA_EIO &&
              strstr(llama_session_error(s), path), "no state of weights that are not known: %s", llama_session_error(s));
    check(llama_check(faulty, NULL, NULL, &err) == LLAMA_EIO && strstr(err.text, path), "check: %s", err.text);
    check(llama_eval(s, 0, NULL, 0) == LLAMA_OK, "nothing to do is done");
    check(llama_prefetch(faulty, NULL, NULL) == LLAMA_OK, "warming asks for what is there");
    llama_session_free(s), llama_close(faulty);
    fresh("cut"); /* the whole file again: nothing remembers */
    s = session(faulty, (llama_session_options){.context = 16});
    check(llama_eval(s, 0, some, 4) == LLAMA_OK, "opened anew, it works");
    llama_session_free(s), llama_close(faulty);
    free(t.b.at), free(sound.b.at);
}

/* Changed while it is opened: at its k-th allocation. */
static struct {
    int countdown, kind; /* 0: cut to nothing, 1: cut to a half, 2: a byte more, 3: replaced, 4: a page cannot be read */
    const char *path;
} change;
static void lose_a_page(void) {
    char line[4096];
    unsigned long begin;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, "/opening/") && sscanf(line, "%lx", &begin) == 1) check(llama_handle_sigbus(faulty, (void *)(begin + 5000)) == 1, "a page of the file");
    if (maps) fclose(maps);
}
static void *changing_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    if (change.countdown-- == 0) {
        size_t n = 0;
        buffer b = {0};
        char *old = read_file(change.path, &n);
        put(&b, old, n);
        put_int(&b, 0, 1);
        if (change.kind < 2) check(truncate(change.path, change.kind ? (off_t)(n / 2) : 0) == 0, "truncate");
        if (change.kind == 2) check(truncate(change.path, (off_t)n + 1) == 0, "truncate");
        b.n = n;
        if (change.kind == 3) check(unlink(change.path) == 0 && write_file(change.path, &b), "replace");
        if (change.kind == 4) lose_a_page();
        free(old), free(b.at);
    }
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void changing_free(void *user, void *p, size_t bytes) {
    (void)user, (void)bytes;
    free(p);
}

static void test_opening(void) {
    llama_allocator changing = {NULL, changing_alloc, changing_free};
    llama_options o = {.size = sizeof o, .allocator = &changing};
    int said = 0, lost = 0;
    for (int k = 1; k < 40; k++)
        for (change.kind = 0; change.kind < 5; change.kind++) {
            char *path = strdup(fresh("opening"));
            llama_close(faulty);
            faulty = NULL;
            change.path = path;
            change.countdown = k;
            llama_error err;
            int status = llama_open(&faulty, in_work("opening"), &o, &err);
            bool late = change.countdown >= 0, missed = status == LLAMA_OK && !late; /* before it was mapped */
            check((late && status == LLAMA_OK) || status == LLAMA_EIO || status == LLAMA_EFORMAT || (missed && change.kind >= 3), "changed at allocation %d, kind %d: %d, %s", k,
                  change.kind, status, err.text);
            check(status == LLAMA_OK || (!faulty && strstr(err.text, path)), "it names the file: %s", err.text);
            lost += change.kind == 4 && status == LLAMA_EIO;
            said += status == LLAMA_EIO && strstr(err.text, "changed while it was opened");
            llama_close(faulty);
            faulty = NULL;
            free(path);
        }
    check(said >= 8 && lost >= 2, "%d changes were noticed, %d lost pages", said, lost);
}

/* Cut short while it is checked, which reads all of it. */
static int cut_on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)what, (void)total;
    if (done > 8192) check(truncate(user, 4096) == 0, "truncate");
    return 0;
}

static void test_changes(void) {
    llama_error err;
    char *path = strdup(fresh("check"));
    check(llama_check(faulty, cut_on_progress, path, &err) == LLAMA_EIO, "cut while it is checked: %s", err.text);
    llama_close(faulty);
    free(path);
    path = strdup(fresh("rewritten")); /* in place: other numbers, the same length */
    llama_session *s = session(faulty, (llama_session_options){.context = 16});
    size_t n = 0;
    char *bytes = read_file(path, &n);
    for (int round = 0; round < 20; round++) {
        int fd = open(path, O_WRONLY);
        for (size_t i = 0; i < n; i++) bytes[i] = (char)(bytes[i] * 5 + round);
        check(write(fd, bytes, n) == (ssize_t)n, "write");
        close(fd);
        llama_rewind(s, 0, 0);
        int status = llama_eval(s, 0, some, 4);
        check(status == LLAMA_OK || status == LLAMA_ENUMERIC, "rewritten in place: %d", status);
    }
    llama_session_free(s), llama_close(faulty);
    free(path), free(bytes);
    path = strdup(fresh("replaced")); /* by rename: the model keeps the old file */
    s = session(faulty, (llama_session_options){.context = 16});
    llama_eval(s, 0, some, 4);
    float before[64];
    memcpy(before, llama_logits(s, 0), sizeof before);
    buffer other = {0};
    put_text(&other, "something else");
    check(write_file(in_work("other-file"), &other) && rename(in_work("other-file"), path) == 0, "rename");
    llama_rewind(s, 0, 0);
    check(llama_eval(s, 0, some, 4) == LLAMA_OK && memcmp(before, llama_logits(s, 0), sizeof before) == 0, "replaced: the same");
    llama_session_free(s), llama_close(faulty);
    free(other.at), free(path);
}

/* A weight that is no number, whichever: the evaluation says so, and nothing has happened. */
static void test_not_numbers(void) {
    size_t n = 0, at = 256, said = 0;
    char *path = strdup(model_write_as(&spec, BIN_1, in_work("numbers"))), *bytes = read_file(path, &n);
    const float values[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; at + 4 <= n; at += 4 * 61, i++) { /* all through the file */
        buffer b = {0};
        put(&b, bytes, n);
        memcpy(b.at + at, &values[i % 3], 4);
        check(write_file(path, &b), "%s", path);
        llama *m = model_at(path, NULL);
        llama_session *s = session(m, (llama_session_options){.context = 8, .sequences = 2});
        llama_sampler o = {.size = sizeof o};
        float logprobs[5];
        int scored = llama_score(s, 0, some, 5, logprobs);
        check(scored == LLAMA_OK || (scored == LLAMA_ENUMERIC && llama_length(s, 0) == 0), "scored at byte %zu: %d", at, scored);
        llama_rewind(s, 0, 0);
        int status = llama_eval(s, 0, some, 5);
        check(status != LLAMA_ENUMERIC || strstr(llama_session_error(s), "sequence 0: the logits"), "%s", llama_session_error(s));
        int other = llama_eval_batch(s, (llama_span[]){{0, NULL, 0}, {1, some, 5}}, 2);
        check(other == status && (!other || strstr(llama_session_error(s), "sequence 1: the logits")), "%d, %s", other, llama_session_error(s));
        check(status == LLAMA_OK || scored == status, "at byte %zu: %d, but scored %d", at, status, scored);
        bool finite = status == LLAMA_OK; /* an embedding that no token here has, or softmax left it out */
        for (int k = 0; finite && k < 24; k++) finite = isfinite(llama_logits(s, 0)[k]);
        check(finite || (status == LLAMA_ENUMERIC && llama_length(s, 0) == 0 && llama_sample(s, 0, &o) < 0 && strstr(llama_session_error(s), "logits")),
              "%f at byte %zu: %d, %s", (double)values[i % 3], at, status, llama_session_error(s));
        said += status == LLAMA_ENUMERIC;
        llama_session_free(s), llama_close(m);
        free(b.at);
    }
    check(said > 60, "only %zu of them were noticed", said);
    free(path), free(bytes);
}

static void test_addresses(void) {
    fresh("addresses");
    int mine = 0;
    check(!llama_handle_sigbus(faulty, &mine) && !llama_handle_sigbus(faulty, NULL) && !llama_handle_sigbus(NULL, &mine), "addresses that are not the model's");
    llama_session *s = session(faulty, (llama_session_options){.context = 16});
    check(llama_eval(s, 0, some, 4) == LLAMA_OK, "and it goes on");
    llama_session_free(s), llama_close(faulty);
    faulty = NULL;
}

#if defined(_WIN32)
/* A page that cannot be read, which no program can arrange: what the host's handler does about it. The model becomes
 * zeros, also where other threads read it, and what was closed leaves no addresses. */
static void test_lost_page(void) {
    for (int threads = 1; threads < 4; threads++) {
        const char *path = fresh("lost");
        MEMORY_BASIC_INFORMATION i;
        char *begin = NULL;
        struct stat st;
        check(stat(path, &st) == 0, "%s", path);
        for (char *at = NULL; VirtualQuery(at, &i, sizeof i) && !begin; at = (char *)i.BaseAddress + i.RegionSize)
            if (i.Type == MEM_MAPPED && i.State == MEM_COMMIT && i.RegionSize == ((size_t)st.st_size + 4095) / 4096 * 4096 && memcmp(i.BaseAddress, "PK\3\4", 4) == 0)
                begin = i.BaseAddress;
        llama_session *s = session(faulty, (llama_session_options){.context = 16, .threads = threads});
        check(begin && llama_eval(s, 0, some, 4) == LLAMA_OK, "the mapping of %s", path);
        check(llama_handle_sigbus(faulty, begin + st.st_size / 2) == 1, "a page of the file");
        faults = 0;
        check(llama_eval(s, 0, some, 4) == LLAMA_EIO && strstr(llama_session_error(s), path) && llama_length(s, 0) == 4, "lost: %s", llama_session_error(s));
        check(llama_prefetch(faulty, NULL, NULL) == LLAMA_OK && faults > 1 && begin[1] == 0, "%d more pages were asked for", faults);
        llama_session_free(s), llama_close(faulty), faulty = NULL;
        check(VirtualQuery(begin, &i, sizeof i) && i.State == MEM_FREE, "the addresses are free");
        char *again = VirtualAlloc(begin, (size_t)st.st_size, MEM_RESERVE, PAGE_READONLY);
        check(again == begin && VirtualFree(again, 0, MEM_RELEASE), "and can be used");
    }
}
#endif

/* What SIGBUS is to a host without a handler, it stays: ours never takes what is not ours. */
static void test_others_fault(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        fresh("others");
        char path[2048];
        snprintf(path, sizeof path, "%s", in_work("their-file"));
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
        char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        _exit(fd < 0 || p == MAP_FAILED ? 1 : *(volatile char *)p); /* after the end of the file */
    }
    int status = 0;
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 99, "a fault in another's file is left to the host: %x", (unsigned)status);
}

/* The host cancels while a state is written or read: nothing has changed, and no file is left. */
typedef struct {
    int calls, limit;
    uint64_t done, total;
} patience;
static int lose_patience(void *user, const char *what, uint64_t done, uint64_t total) {
    patience *p = user;
    if (strcmp(what, "state") != 0) return 0;
    check(done > p->done && done <= total && (p->total == 0 || p->total == total), "progress: %llu of %llu", (unsigned long long)done, (unsigned long long)total);
    p->done = done, p->total = total;
    return ++p->calls == p->limit;
}

static void test_cancel(void) {
    patience p = {.limit = -1};
    llama_error err;
    llama_session *s = session(model, (llama_session_options){.context = 20, .sequences = 2, .progress = lose_patience, .user = &p});
    char command[4096], path[2048];
    snprintf(path, sizeof path, "%s", in_work("cancelled"));
    llama_eval(s, 0, some, 7);
    check(llama_save_file(s, 0, path, &err) == LLAMA_OK && p.calls > 2 && p.done == p.total, "saved with %d reports", p.calls);
    int calls = p.calls;
    p = (patience){.limit = -1};
    tape t = saved(s, 0);
    llama_eval(s, 0, some, 2);
    llama_eval(s, 1, some, 3);
    picture then = look(s, 1), now;
    for (int limit = 1; limit <= calls; limit++) {
        p = (patience){.limit = limit};
        check(llama_load_file(s, 1, path, &err) == LLAMA_ECANCEL && (now = look(s, 1), same(&then, &now)), "loading cancelled at %d: %s", limit, err.text);
        p = (patience){.limit = limit};
        check(llama_save_file(s, 0, path, &err) == LLAMA_ECANCEL && strstr(err.text, path), "saving cancelled at %d: %s", limit, err.text);
        size_t n = 0;
        char *bytes = read_file(path, &n);
        check(n == t.b.n && memcmp(bytes, t.b.at, n) == 0, "the old file is as it was");
        free(bytes);
    }
    snprintf(command, sizeof command, "ls %s.* >/dev/null 2>&1", path);
    check(system(command) != 0, "no temporary file is left");
    llama_session_free(s);
    free(t.b.at);
}

static void test_cut_empty(void) { test_cut(0, 1); }
static void test_cut_empty_threads(void) { test_cut(0, 2); }
static void test_cut_part(void) { test_cut(40000, 1); }

static const test_case still_cases[] = {
    CASE(round_trip), CASE(files), CASE(links), CASE(size_limit), CASE(fingerprint), CASE(mode), CASE(each_weight), CASE(damage), CASE(forged), CASE(failures), CASE(no_memory), CASE(not_numbers), CASE(cancel)};

/* These cut files short while they are mapped. */
static const test_case cases[] = {CASE(cut_empty), CASE(cut_empty_threads), CASE(cut_part), CASE(opening), CASE(changes), CASE(addresses), CASE(others_fault),
#if defined(_WIN32)
    CASE(lost_page)
#endif
};

int main(int argc, char **argv) {
    if ((argc = tests_begin(argc, argv)) < 2) return 2;
    snprintf(work, sizeof work, "%.1000s", argv[1]);
    make_folder("build");
    make_folder(work);
    model_write(&spec, in_work("model"));
    model = model_at(in_work("model"), NULL);
    RUN(still_cases);
    if (argc > 2) return llama_close(model), tests_done("state");
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    RUN(cases);
    llama_close(model);
    return tests_done("state");
}
