/* api.c - the library through llama.h: exactness on our tiny model, every function, every refusal.
 *
 *   api MODEL        a folder with golden.json, truth_f32le.bin and tokens.jsonl: tests/tiny
 */
#include "../tools/checkpoint.h"
#include <fenv.h>
#include <locale.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const char *folder;
static llama *model;

static llama_session *session(const llama *m, llama_session_options o) {
    llama_session *s = NULL;
    llama_error err;
    o.size = sizeof o;
    check(llama_session_new(&s, m, &o, &err) == LLAMA_OK, "session: %s", err.text);
    return s;
}

static void test_golden(void) {
    gate g = gate_golden(model, folder, "tiny");
    printf("tiny: max abs %.2e, rms %.2e, KL %.2e of the float64 truth\n", g.max_abs, g.rms, g.kl);
}

static void test_describe(void) {
    llama_info i = {.size = sizeof i};
    check(llama_describe(model, &i) == LLAMA_OK && i.dim == 192 && i.layers == 4 && i.heads == 6 && i.kv_heads == 6 &&
              i.head_dim == 32 && i.hidden == 512 && i.vocab == 1024 && i.context == 2048 && i.shards == 1 &&
              i.bos == 1 && i.eos == 2 && strcmp(i.dtype, "float16") == 0 && strcmp(i.format, "meta") == 0 &&
              i.norm_eps == 1e-6f && i.rope_theta == 10000 && i.parameters == 2164416 &&
              i.kv_bytes_per_token == 4 * 2 * 192 * 4 && i.file_bytes == 4340728,
          "llama_describe: %llu parameters", (unsigned long long)i.parameters);
    llama_info small;
    memset(&small, 0x55, sizeof small);
    small.size = offsetof(llama_info, layers);
    check(llama_describe(model, &small) == LLAMA_OK && small.dim == 192 && small.layers == 0x55555555, "an older llama_info is not overrun");
    small.size = 0;
    check(llama_describe(model, &small) == LLAMA_EINVAL && llama_describe(NULL, &i) == LLAMA_EINVAL, "llama_describe refuses");
    check(llama_eos(model) == 2 && llama_eos(NULL) == -1, "llama_eos");
}

/* A host built with a newer llama.h: unknown options are ignored, unknown fields of llama_info are 0. */
static void test_newer_host(void) {
    struct {
        llama_session_options known;
        unsigned char more[64];
    } o = {.known = {.size = sizeof o, .context = 16}};
    struct {
        llama_info known;
        unsigned char more[64];
    } i;
    llama_session *s = NULL;
    memset(o.more, 0xff, sizeof o.more), memset(&i, 0xff, sizeof i);
    check(llama_session_new(&s, model, &o.known, NULL) == LLAMA_OK && llama_session_context(s) == 16, "unknown options are ignored");
    i.known.size = sizeof i;
    check(llama_describe(model, &i.known) == LLAMA_OK && i.known.dim == 192 && i.known.size == sizeof i, "a larger llama_info");
    for (size_t k = 0; k < sizeof i.more; k++) check(i.more[k] == 0, "byte %zu of what is unknown is 0", k);
    check(llama_session_context(NULL) == 0, "no session, no context");
    llama_session_free(s);
    s = session(model, (llama_session_options){.context = 0});
    check(llama_session_context(s) == 2048, "the model's context");
    llama_session_free(s);
}

/* ---- Text ---- */

static void test_vectors(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/tokens.jsonl", folder);
    char *lines = read_file(path, NULL);
    int n = 0;
    for (char *line = lines ? strtok(lines, "\n") : NULL; line; line = strtok(NULL, "\n"), n++) {
        size_t n_text = 0, n_ids, n_decoded = 0, n_out = 0;
        char *text = json_text(line, "text", &n_text), *decoded = json_text(line, "decoded", &n_decoded);
        if (!text) {
            text = json_text(line, "bytes_hex", &n_text);
            for (size_t i = 0; i < n_text / 2; i++) sscanf(text + 2 * i, "%2hhx", (unsigned char *)text + i);
            n_text /= 2;
        }
        int32_t *ids = json_ids(line, "ids", &n_ids), ours[1024];
        ptrdiff_t count = llama_text_to_tokens(model, text, n_text, 0, ours, 1024);
        check(count == (ptrdiff_t)n_ids && memcmp(ours, ids, n_ids * sizeof *ids) == 0, "line %d is encoded otherwise", n);
        char *out = must_alloc((n_ids + 1) * LLAMA_TEXT_MAX);
        llama_decoder u = {.n = 0};
        for (size_t i = 0; i < n_ids; i++) n_out += llama_token_to_text(model, &u, ids[i], out + n_out);
        n_out += llama_token_to_text(model, &u, LLAMA_FLUSH, out + n_out);
        check(n_out == n_decoded && memcmp(out, decoded, n_out) == 0, "line %d is decoded otherwise", n);
        free(text), free(decoded), free(ids), free(out);
    }
    check(n > 60, "%s: %d vectors", path, n);
    free(lines);
}

static void test_text(void) {
    int32_t t[8] = {-5, -5, -5};
    size_t n;
    char out[LLAMA_TEXT_MAX];
    check(llama_text_to_tokens(model, "", 0, 0, t, 8) == 0, "no text, no tokens");
    check(llama_text_to_tokens(model, NULL, 0, LLAMA_ADD_BOS, t, 8) == 1 && t[0] == 1, "BOS alone");
    ptrdiff_t want = llama_text_to_tokens(model, "the king", 8, LLAMA_ADD_BOS, NULL, 0);
    check(want > 2 && llama_text_to_tokens(model, "the king", 8, LLAMA_ADD_BOS, t, 2) == want && t[0] == 1 && t[2] == -5,
          "the count needed is told, and cap kept");
    check(llama_text_to_tokens(NULL, "a", 1, 0, t, 8) == LLAMA_EINVAL && llama_text_to_tokens(model, NULL, 1, 0, t, 8) == LLAMA_EINVAL &&
              llama_text_to_tokens(model, "a", 1, 4, t, 8) == LLAMA_EINVAL, "llama_text_to_tokens refuses");
    for (int k = 0; k < 3; k++) { /* letters, spaces, bytes that are no UTF-8 */
        char many[4000];
        memset(many, "e \377"[k], sizeof many);
        size_t least = llama_min_tokens(model, sizeof many);
        check(least >= sizeof many / 1000 && (ptrdiff_t)least <= llama_text_to_tokens(model, many, sizeof many, 0, NULL, 0), "at least %zu tokens", least);
    }
    check(llama_min_tokens(model, 0) == 0 && llama_min_tokens(NULL, 5) == 0 && llama_min_tokens(model, SIZE_MAX) > SIZE_MAX / 1001, "llama_min_tokens");
    const char *piece = llama_token_text(model, 13, &n);
    check(piece && n == 6 && memcmp(piece, "<0x0A>", 6) == 0, "the piece of a byte is its name");
    check(!llama_token_text(model, -1, &n) && n == 0 && !llama_token_text(model, 1024, NULL), "no such token");
    llama_decoder u = {.n = 0};
    check(llama_token_to_text(model, &u, 3 + 0xf0, out) == 0 && llama_token_to_text(model, &u, 3 + 0x9f, out) == 0 &&
              llama_token_to_text(model, &u, 3 + 0xa6, out) == 0 && llama_token_to_text(model, &u, 3 + 0x99, out) == 4 &&
              memcmp(out, "\xf0\x9f\xa6\x99", 4) == 0, "a character comes when it is whole");
    check(llama_token_to_text(model, &u, 3 + 0xe4, out) == 0 && llama_token_to_text(model, &u, 3 + 'A', out) == 4 &&
              memcmp(out, "\xef\xbf\xbd" "A", 4) == 0, "a byte that begins nothing becomes U+FFFD as soon as that is known");
    piece = llama_token_text(model, 700, &n);
    check(llama_token_to_text(model, &u, 3 + 0xe4, out) == 0 && llama_token_to_text(model, &u, 3 + 0xb8, out) == 0 &&
              llama_token_to_text(model, &u, 700, out) >= 7 && memcmp(out, "\xef\xbf\xbd\xef\xbf\xbd", 6) == 0,
          "bytes cut short by a piece (%.*s) become U+FFFD before it", (int)n, piece);
    check(llama_token_to_text(model, &u, 3 + 0xe4, out) == 0 && llama_token_to_text(model, &u, LLAMA_FLUSH, out) == 3 && u.n == 0, "and at the end");
    check(llama_token_to_text(model, &u, 5000, out) == 0 && llama_token_to_text(model, &u, -7, out) == 0, "no such token gives nothing");
    u.n = 9;
    check(llama_token_to_text(model, &u, 3 + 0xe4, out) == 0, "a damaged state is not followed");
}

/* ---- Evaluating ---- */

static const int32_t some[] = {1, 563, 956, 332, 643, 261, 523, 427, 309, 261, 632, 390};
enum { SOME = sizeof some / sizeof *some };

static void test_eval_refusals(void) {
    llama_session *s = session(model, (llama_session_options){.context = 16, .sequences = 2});
    float before[1024];
    check(llama_logits(s, 0) == NULL && llama_length(s, 0) == 0, "nothing is there yet");
    check(llama_sample(s, 0, &(llama_sampler){.size = sizeof(llama_sampler)}) == LLAMA_EINVAL && *llama_session_error(s), "no logits, no token");
    check(llama_eval(s, 0, some, 0) == LLAMA_OK && llama_logits(s, 0) == NULL, "n = 0 does nothing");
    check(llama_eval(s, 0, some, SOME) == LLAMA_OK && llama_length(s, 0) == SOME, "eval");
    memcpy(before, llama_logits(s, 0), sizeof before);
    check(llama_eval(s, 0, (int32_t[]){5, 1024}, 2) == LLAMA_EINVAL && llama_eval(s, 0, (int32_t[]){-1}, 1) == LLAMA_EINVAL, "no such token");
    check(llama_eval(s, 2, some, 1) == LLAMA_EINVAL && llama_eval(s, -1, some, 1) == LLAMA_EINVAL, "no such sequence");
    check(llama_eval(s, 0, NULL, 1) == LLAMA_EINVAL && llama_eval(NULL, 0, some, 1) == LLAMA_EINVAL, "NULL");
    check(llama_eval(s, 0, some, 5) == LLAMA_EFULL && strstr(llama_session_error(s), "full"), "full");
    check(llama_eval(s, 0, some, (size_t)LLAMA_EINVAL) == LLAMA_EFULL && llama_eval(s, 1, some, SIZE_MAX / 4) == LLAMA_EFULL,
          "an error taken for a number of tokens: none of them is looked at");
    check(llama_length(s, 0) == SOME && memcmp(before, llama_logits(s, 0), sizeof before) == 0, "a refusal changes nothing");
    check(llama_eval(s, 1, some, SOME) == LLAMA_OK && memcmp(before, llama_logits(s, 1), sizeof before) == 0, "sequences are alike and apart");
    check(llama_rewind(s, 0, 17) == LLAMA_EINVAL && llama_rewind(s, 0, SOME) == LLAMA_OK && llama_logits(s, 0), "rewind to here");
    check(llama_rewind(s, 0, 4) == LLAMA_OK && !llama_logits(s, 0) && llama_length(s, 0) == 4, "rewind");
    check(llama_eval(s, 0, some + 4, SOME - 4) == LLAMA_OK && memcmp(before, llama_logits(s, 0), sizeof before) == 0, "and on again, the same");
    llama_session_free(s);
    llama_session_free(NULL);
}

/* Several sequences: that the bits are those of each alone, bits.c shows. */
static void test_sequences(void) {
    llama_session *s = session(model, (llama_session_options){.context = 16, .sequences = 4, .batch = 5});
    llama_span spans[] = {{2, some, 7}, {0, some, 0}, {1, some + 2, 1}, {3, some, 9}};
    float before[1024];
    check(llama_eval_batch(s, spans, 4) == LLAMA_OK && llama_length(s, 2) == 7 && llama_length(s, 0) == 0 && llama_length(s, 1) == 1 && llama_length(s, 3) == 9,
          "spans of 7, 0, 1 and 9 tokens");
    check(!llama_logits(s, 0) && llama_logits(s, 1) && memcmp(llama_logits(s, 2), llama_logits(s, 3), 4096) != 0, "each has its own logits");
    memcpy(before, llama_logits(s, 2), sizeof before);
    llama_span twice[] = {{2, some, 1}, {1, some, 1}, {2, some, 1}}, absent[] = {{2, some, 1}, {4, some, 1}}, full[] = {{2, some, 1}, {3, some, 8}},
               token[] = {{2, some, 1}, {1, (int32_t[]){1024}, 1}}, missing[] = {{2, some, 1}, {1, NULL, 1}};
    check(llama_eval_batch(s, twice, 3) == LLAMA_EINVAL && strstr(llama_session_error(s), "twice"), "a sequence twice");
    check(llama_eval_batch(s, absent, 2) == LLAMA_EINVAL && llama_eval_batch(s, token, 2) == LLAMA_EINVAL && llama_eval_batch(s, missing, 2) == LLAMA_EINVAL &&
              llama_eval_batch(s, full, 2) == LLAMA_EFULL && llama_eval_batch(s, NULL, 1) == LLAMA_EINVAL && llama_eval_batch(NULL, spans, 1) == LLAMA_EINVAL,
          "refusals");
    check(llama_length(s, 2) == 7 && memcmp(before, llama_logits(s, 2), sizeof before) == 0, "and the first span of a refused call has not happened");
    check(llama_eval_batch(s, NULL, 0) == LLAMA_OK, "no spans, nothing to do");
    check(llama_fork(s, 0, 2) == LLAMA_OK && llama_length(s, 0) == 7 && memcmp(before, llama_logits(s, 0), sizeof before) == 0, "fork");
    llama_sampler o = {.size = sizeof o, .temperature = 1, .repeat_penalty = 3, .repeat_last = -1, .seed = 3};
    float p[1024], q[1024];
    check(!llama_probabilities(s, 0, &o, p) && !llama_probabilities(s, 2, &o, q) && memcmp(p, q, sizeof p) == 0, "the tokens are copied too: the same penalty");
    check(llama_eval(s, 0, some, 1) == LLAMA_OK && llama_eval(s, 2, some + 3, 1) == LLAMA_OK && llama_length(s, 2) == 8 &&
              memcmp(llama_logits(s, 0), llama_logits(s, 2), 4096) != 0, "and then each goes its way");
    llama_rewind(s, 1, 0);
    check(llama_fork(s, 0, 1) == LLAMA_OK && llama_length(s, 0) == 0 && !llama_logits(s, 0), "a fork of nothing is nothing");
    check(llama_fork(s, 3, 3) == LLAMA_OK && llama_length(s, 3) == 9 && llama_fork(s, 4, 0) == LLAMA_EINVAL && llama_fork(s, 0, -1) == LLAMA_EINVAL &&
              llama_fork(NULL, 0, 0) == LLAMA_EINVAL, "fork of itself, and refusals");
    llama_session_free(s);
}

/* Each failing call says its own cause, which the next call that works drops. */
static int to_nowhere(void *user, const void *p, size_t n);
static int from_nowhere(void *user, void *p, size_t n) {
    (void)user;
    memset(p, 0, n);
    return 0;
}
static int say_nothing(void *user, llama_request *t, const char *text, size_t n) {
    (void)user, (void)t, (void)text, (void)n;
    return 0;
}

static void test_errors(void) {
    static float bias[1024];
    llama_session *s = session(model, (llama_session_options){.context = 16, .sequences = 3});
    llama_sampler o = {.size = sizeof o}, odd = {.size = sizeof odd, .min_p = 2}, biased = {.size = sizeof biased, .bias = bias};
    llama_request request = {.prompt = some, .n_prompt = 3, .max_tokens = 1, .sampler = o};
    llama_continuation e = {.context = "a", .n_context = 1, .ending = NULL, .n_ending = 1};
    float out[1024];
    size_t bytes = 0;
    llama_error err;
    check(llama_eval(s, 0, some, 7) == LLAMA_OK && llama_eval(s, 1, some, 3) == LLAMA_OK && llama_rewind(s, 1, 2) == LLAMA_OK, "sequences");
    bias[77] = NAN;
    enum { CALLS = 29 };
    for (int i = 0; i < CALLS; i++) {
        int status = LLAMA_OK, want = LLAMA_EINVAL;
        const char *words = "";
        switch (i) {
        case 0: status = llama_eval(s, 3, some, 1), words = "no such sequence: 3"; break;
        case 1: status = llama_eval(s, -1, some, 1), words = "no such sequence: -1"; break;
        case 2: status = llama_eval(s, 0, some, 10), want = LLAMA_EFULL, words = "sequence 0 has 7 of 16"; break;
        case 3: status = llama_eval_batch(s, (llama_span[]){{1, some, 1}, {0, some, 10}}, 2), want = LLAMA_EFULL, words = "sequence 0"; break;
        case 4: status = llama_eval_batch(s, (llama_span[]){{1, some, 1}, {1, some, 1}}, 2), words = "sequence 1 is named twice"; break;
        case 5: status = llama_eval_batch(s, (llama_span[]){{1, some, 1}, {2, (int32_t[]){1, 1024}, 2}}, 2), words = "sequence 2: token 1 is 1024"; break;
        case 6: status = llama_eval(s, 2, NULL, 1), words = "sequence 2: tokens"; break;
        case 7: status = llama_eval_batch(s, NULL, 1), words = "spans"; break;
        case 8: status = llama_score(s, 1, some, 1, out), words = "sequence 1 was rewound"; break;
        case 9: status = llama_score(s, 0, some, 1, NULL), words = "logprob"; break;
        case 10: status = llama_rewind(s, 0, 8), words = "sequence 0 has 7 tokens"; break;
        case 11: status = llama_rewind(s, 9, 0), words = "no such sequence: 9"; break;
        case 12: status = llama_fork(s, 0, 4), words = "no such sequence: 4"; break;
        case 13: status = llama_fork(s, 5, 0), words = "no such sequence: 5"; break;
        case 14: status = llama_sample(s, 1, &o), words = "sequence 1 has no logits"; break;
        case 15: status = llama_sample(s, 7, &o), words = "no such sequence: 7"; break;
        case 16: status = llama_sample(s, 0, &odd), words = "min_p"; break;
        case 17: status = llama_sample(s, 0, NULL), words = "sampler is NULL"; break;
        case 18: status = llama_sample(s, 0, &biased), words = "the bias of token 77 is NaN"; break;
        case 19: status = llama_probabilities(s, 0, &o, NULL), words = "probs"; break;
        case 20: status = llama_probabilities(s, 8, &o, out), words = "no such sequence: 8"; break;
        case 21: status = llama_prefill(s, 6, some, 1), words = "no such sequence: 6"; break;
        case 22: status = llama_save(s, 3, to_nowhere, &bytes), words = "no such sequence: 3"; break;
        case 23: status = llama_save(s, 0, NULL, NULL), words = "write function"; break;
        case 24: status = llama_load(s, 2, from_nowhere, NULL), want = LLAMA_EFORMAT, words = "not a saved state"; break;
        case 25: status = llama_load_file(s, 2, "/no/such/file", &err), want = LLAMA_EIO, words = "/no/such/file"; break;
        case 26: status = llama_save_file(s, 0, "/no/such/folder/file", NULL), want = LLAMA_EIO, words = "/no/such/folder/file"; break;
        case 27: status = llama_loglikelihood(s, &e, 1), words = "is NULL"; break;
        default: status = llama_generate(s, &request, 1, NULL, NULL), words = "callback"; break;
        }
        check(status == want && strstr(llama_session_error(s), words), "call %d: %d, '%s' has no '%s'", i, status, llama_session_error(s), words);
        switch (i % 8) { /* each kind of call that works */
        case 0: status = llama_eval(s, 0, some, 0); break;
        case 1: status = llama_sample(s, 0, &o) < 0; break;
        case 2: status = llama_rewind(s, 0, 7); break;
        case 3: status = llama_fork(s, 0, 0); break;
        case 4: status = llama_probabilities(s, 0, &o, out); break;
        case 5: status = llama_save(s, 0, to_nowhere, &bytes); break;
        case 6: status = llama_trace(s, NULL, NULL); break;
        default: status = llama_generate(s, NULL, 0, say_nothing, NULL); break;
        }
        check(status == LLAMA_OK && !*llama_session_error(s), "after call %d, one that works: %d, '%s'", i, status, llama_session_error(s));
    }
    llama_session_free(s);
}

/* ---- A refused call changes nothing ---- */

typedef struct {
    size_t length;
    int32_t tokens[16];
    bool has;
    float logits[1024], next[1024];
} picture;

/* All there is to see of a sequence, and the logits after one more token, found in sequence 3. */
static void look(llama_session *s, int seq, picture *p) {
    memset(p, 0, sizeof *p);
    p->length = llama_length(s, seq);
    memcpy(p->tokens, llama_tokens(s, seq), p->length * sizeof *p->tokens);
    p->has = llama_logits(s, seq) != NULL;
    if (p->has) memcpy(p->logits, llama_logits(s, seq), sizeof p->logits);
    check(!llama_fork(s, 3, seq) && !llama_eval(s, 3, &some[9], 1), "one more token");
    memcpy(p->next, llama_logits(s, 3), sizeof p->next);
    llama_rewind(s, 3, 0);
}

/* Reads the bytes of a state, and fails where they end. */
typedef struct {
    const char *at;
    size_t n;
} reader;
static int read_some(void *user, void *p, size_t n) {
    reader *r = user;
    if (n > r->n) return 1;
    memcpy(p, r->at, n);
    r->at += n, r->n -= n;
    return 0;
}

#define STATE_FILE(name) "build/api-state-" name

/* Refused call number i; what it has to return and to say. false: there is no such call. */
static bool refused_call(llama_session *s, size_t i, int *status, int *want, const char **words) {
    static float out[1024], bias[1024] = {[7] = NAN};
    static int32_t odd[] = {1, 563, 5, 1024}, long_one[40], rank[4], drawn[4];
    const llama_sampler good = {.size = sizeof good, .temperature = 1};
    llama_sampler o = good;
    llama_request r[2] = {{.prompt = some + 2, .n_prompt = 3, .max_tokens = 2, .sampler = good}, {.prompt = some + 3, .n_prompt = 3, .max_tokens = 2, .sampler = good}};
    llama_continuation e = {.context = "a", .n_context = 1, .ending = "b", .n_ending = 1};
    llama_error err;
    size_t n = 0;
    *want = LLAMA_EINVAL;
#define CALL(call, text) if (n++ == i) return *status = (call), *words = (text), true
#define FULL(call, text) if (n++ == i) return *want = LLAMA_EFULL, *status = (call), *words = (text), true
#define FAIL_AS(code, call, text) if (n++ == i) return *want = (code), *status = (call), *words = (text), true
    CALL(llama_eval(s, 9, some, 1), "no such sequence: 9");
    CALL(llama_eval(s, -1, some, 1), "no such sequence: -1");
    CALL(llama_eval(s, 0, NULL, 1), "sequence 0: tokens");
    CALL(llama_eval(s, 0, odd, 4), "token 3 is 1024");
    CALL(llama_eval(s, 0, (int32_t[]){-1}, 1), "token 0 is -1");
    FULL(llama_eval(s, 0, some, 10), "sequence 0 has 7 of 16");
    FULL(llama_eval(s, 0, some, SIZE_MAX), "sequence 0 has 7 of 16");
    CALL(llama_eval_batch(s, NULL, 2), "spans");
    CALL(llama_eval_batch(s, (llama_span[]){{0, some, 1}, {1, odd, 4}}, 2), "sequence 1: token 3");
    CALL(llama_eval_batch(s, (llama_span[]){{0, some, 1}, {1, NULL, 4}}, 2), "sequence 1: tokens");
    CALL(llama_eval_batch(s, (llama_span[]){{0, some, 1}, {9, some, 1}}, 2), "no such sequence: 9");
    CALL(llama_eval_batch(s, (llama_span[]){{0, some, 1}, {1, some, 1}, {0, some, 1}}, 3), "sequence 0 is named twice");
    FULL(llama_eval_batch(s, (llama_span[]){{0, some, 1}, {1, long_one, 15}}, 2), "sequence 1 has 2 of 16");
    CALL(llama_score(s, 0, some, 1, NULL), "logprob");
    CALL(llama_score(s, 1, some, 1, out), "sequence 1 was rewound");
    CALL(llama_score(s, 0, odd, 4, out), "token 3");
    CALL(llama_score_batch(s, (llama_span[]){{0, some, 1}, {1, some, 1}}, 2, out, rank), "sequence 1 was rewound");
    FULL(llama_score_batch(s, (llama_span[]){{2, some, 1}, {0, some, 10}}, 2, out, rank), "sequence 0 has 7 of 16");
    CALL(llama_rewind(s, 0, 8), "cannot be rewound to 8");
    CALL(llama_rewind(s, 4, 0), "no such sequence: 4");
    CALL(llama_fork(s, 0, 4), "no such sequence: 4");
    CALL(llama_fork(s, 4, 0), "no such sequence: 4");
    CALL(llama_prefill(s, 4, some, 1), "no such sequence: 4");
    CALL(llama_prefill(s, 0, NULL, 1), "sequence 0: tokens");
    CALL(llama_prefill(s, 0, odd, 4), "token 3 is 1024");
    FULL(llama_prefill(s, 0, long_one, 17), "17 more tokens do not fit");
    FULL(llama_prefill(s, 1, long_one, SIZE_MAX), "do not fit");
    CALL(llama_sample(s, 4, &o), "no such sequence: 4");
    CALL(llama_sample(s, 1, &o), "sequence 1 has no logits");
    CALL(llama_sample(s, 0, NULL), "the sampler is NULL");
    CALL((o.bias = bias, llama_sample(s, 0, &o)), "the bias of token 7 is NaN");
    CALL((o.temperature = -1.5f, llama_sample(s, 0, &o)), "temperature is -1.5;");
    CALL((o.temperature = INFINITY, llama_sample(s, 0, &o)), "temperature is inf;");
    CALL((o.top_p = -0.25f, llama_sample(s, 0, &o)), "top_p is -0.25;");
    CALL((o.top_p = INFINITY, llama_sample(s, 0, &o)), "top_p is inf;");
    CALL((o.min_p = 1.5f, llama_sample(s, 0, &o)), "min_p is 1.5; it must be from 0 to 1");
    CALL((o.top_k = -3, llama_sample(s, 0, &o)), "top_k is -3;");
    CALL((o.repeat_penalty = -2, llama_sample(s, 0, &o)), "repeat_penalty is -2;");
    CALL((o.repeat_last = -2, llama_sample(s, 0, &o)), "repeat_last is -2; it must be finite and at least -1");
    CALL((o.top_k = -3, llama_probabilities(s, 0, &o, out)), "top_k is -3;");
    CALL((int)llama_verify(s, 4, &o, some, 2, drawn), "no such sequence: 4");
    CALL((int)llama_verify(s, 1, &o, some, 2, drawn), "sequence 1 has no logits");
    CALL((int)llama_verify(s, 0, NULL, some, 2, drawn), "the sampler is NULL");
    CALL((int)llama_verify(s, 0, &o, NULL, 2, drawn), "draft and out must be given");
    CALL((int)llama_verify(s, 0, &o, some, 2, NULL), "draft and out must be given");
    CALL((o.min_p = 1.5f, (int)llama_verify(s, 0, &o, some, 2, drawn)), "min_p is 1.5;");
    CALL(llama_probabilities(s, 0, &o, NULL), "probs");
    CALL(llama_save(s, 4, to_nowhere, &n), "no such sequence: 4");
    CALL(llama_save(s, 0, NULL, NULL), "write function");
    CALL(llama_save_file(s, 4, STATE_FILE("none"), &err), "no such sequence: 4");
    CALL(llama_save_file(s, 0, NULL, &err), "file name");
    CALL(llama_load(s, 4, from_nowhere, NULL), "no such sequence: 4");
    CALL(llama_load(s, 0, NULL, NULL), "read function");
    FAIL_AS(LLAMA_EFORMAT, llama_load(s, 0, from_nowhere, NULL), "not a saved state");
    FAIL_AS(LLAMA_EIO, llama_load(s, 0, read_some, &((reader){NULL, 0})), "ends in its header");
    CALL(llama_load_file(s, 4, STATE_FILE("whole"), &err), "no such sequence: 4");
    CALL(llama_load_file(s, 0, NULL, &err), "file name");
    FAIL_AS(LLAMA_EIO, llama_load_file(s, 0, STATE_FILE("none"), &err), "cannot be opened");
    for (int seq = 0; seq < 3; seq++) {
        FAIL_AS(LLAMA_EFORMAT, llama_load_file(s, seq, STATE_FILE("empty"), &err), "is empty; this is not a saved state");
        FAIL_AS(LLAMA_EFORMAT, llama_load_file(s, seq, STATE_FILE("short"), &err), "the state ends after 500 of ");
        FAIL_AS(LLAMA_EFORMAT, llama_load_file(s, seq, STATE_FILE("longer"), &err), "is longer than the state in it");
        FAIL_AS(LLAMA_EFULL, llama_load_file(s, seq, STATE_FILE("long"), &err), "more than the context of 16");
    }
    CALL(llama_generate(s, r, 2, NULL, NULL), "the callback is NULL");
    CALL(llama_generate(s, NULL, 2, say_nothing, NULL), "the requests are NULL");
    CALL((r[1].prompt = NULL, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: its prompt is NULL");
    CALL((r[1].n_prompt = 0, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: its prompt is empty");
    CALL((r[1].prompt = odd, r[1].n_prompt = 4, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: token 3 is 1024");
    CALL((r[1].sampler.size = 0, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: the sampler");
    CALL((r[1].sampler.top_p = NAN, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: the sampler's top_p is");
    CALL((r[1].sampler.bias = bias, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: the bias of token 7 is NaN");
    FULL((r[1].max_tokens = 15, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: its prompt of 3 tokens and max_tokens of 15 do not fit in the context of 16");
    FULL((r[1].max_tokens = SIZE_MAX, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: its prompt of 3");
    FULL((r[1].prompt = long_one, r[1].n_prompt = 17, r[1].max_tokens = 0, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: its prompt of 17 tokens");
    FULL((r[1].n_prompt = SIZE_MAX, llama_generate(s, r, 2, say_nothing, NULL)), "request 1: ");
    CALL(llama_loglikelihood(s, NULL, 1), "the continuations are NULL");
    CALL((e.context = NULL, llama_loglikelihood(s, &e, 1)), "continuation 0: its context is NULL");
    return false;
}

static void test_unchanged(void) {
    llama_session *s = session(model, (llama_session_options){.context = 16, .sequences = 4, .threads = 1}), *large = session(model, (llama_session_options){.context = 32});
    static picture before[3], now;
    int32_t many[20];
    size_t n = 0, calls = 0;
    for (int i = 0; i < 20; i++) many[i] = i + 5;
    check(!llama_eval(s, 0, some, 7) && !llama_eval(s, 1, some + 1, 3) && !llama_rewind(s, 1, 2), "sequences");
    remove(STATE_FILE("whole")), remove(STATE_FILE("long")), remove(STATE_FILE("none"));
    check(!llama_eval(large, 0, many, 3) && !llama_save_file(large, 0, STATE_FILE("whole"), NULL) && !llama_eval(large, 0, many + 3, 17) &&
              !llama_save_file(large, 0, STATE_FILE("long"), NULL), "states");
    char *bytes = read_file(STATE_FILE("whole"), &n);
    buffer b = {.n = 0};
    if (!check(bytes && n == 64 + 3 * (4 * 2 * 192 * 4 + 4) + 4 * 1024, "a state of %zu bytes", n)) return;
    write_file(STATE_FILE("empty"), &b), put(&b, bytes, 500), write_file(STATE_FILE("short"), &b);
    put(&b, bytes + 500, n - 500), put(&b, "x", 1), write_file(STATE_FILE("longer"), &b);
    for (int k = 0; k < 3; k++) look(s, k, &before[k]);
    int status, want;
    const char *words;
    for (; refused_call(s, calls, &status, &want, &words); calls++) {
        check(status == want && strstr(llama_session_error(s), words), "call %zu: %d, '%s' has no '%s'", calls, status, llama_session_error(s), words);
        for (int k = 0; k < 3; k++) {
            look(s, k, &now);
            check(memcmp(&now, &before[k], sizeof now) == 0, "call %zu (%s) has changed sequence %d: %zu tokens", calls, words, k, now.length);
            if (memcmp(&now, &before[k], sizeof now) == 0) continue;
            llama_rewind(s, k, 0); /* for the next call */
            if (k < 2) check(!llama_eval(s, k, some + k, k ? 3 : 7) && (k == 0 || !llama_rewind(s, 1, 2)), "made again");
        }
    }
    check(calls > 70, "%zu refused calls", calls);
    check(!llama_load_file(s, 0, STATE_FILE("whole"), NULL) && llama_length(s, 0) == 3, "the whole state loads");
    free(bytes), free(b.at);
    llama_session_free(s), llama_session_free(large);
}

/* Errors of llama_loglikelihood name the continuation. */
static void test_continuation_errors(void) {
    llama_session *s = session(model, (llama_session_options){.context = 16, .sequences = 3}), *two = session(model, (llama_session_options){.context = 16, .sequences = 2});
    llama_continuation good = {.context = "The king", .n_context = 8, .ending = " said", .n_ending = 5}, e[5] = {good, good, good, good, good};
    check(llama_loglikelihood(s, e, 5) == LLAMA_OK, "five: %s", llama_session_error(s));
    e[3].ending = NULL;
    check(llama_loglikelihood(s, e, 5) == LLAMA_EINVAL && strstr(llama_session_error(s), "continuation 3: its ending is NULL"), "a NULL: %s", llama_session_error(s));
    e[3] = good, e[3].ending = " said that he would go to the little house in the dark wood", e[3].n_ending = strlen(e[3].ending);
    char words[128];
    check(llama_count_continuation(model, &e[3], 1) == LLAMA_OK && e[3].given + e[3].tokens > 16, "too long");
    snprintf(words, sizeof words, "continuation 3: its context of %zu tokens and its ending of %zu do not fit in the session's context of 16", e[3].given, e[3].tokens);
    check(llama_loglikelihood(s, e, 5) == LLAMA_EFULL && strstr(llama_session_error(s), words), "too long: %s", llama_session_error(s));
    check(llama_loglikelihood(two, e, 1) == LLAMA_EINVAL && strstr(llama_session_error(two), "this one has 2"), "two sequences: %s", llama_session_error(two));
    llama_session_free(s), llama_session_free(two);
}

/* ---- Calls from inside a function of the host ---- */

static llama_session *busy_session;
static int busy_calls;

static void call_inside(const char *where) {
    llama_session *s = busy_session;
    static float out[1024];
    int32_t drawn[2];
    const llama_sampler o = {.size = sizeof o};
    llama_request r = {.prompt = some, .n_prompt = 3, .max_tokens = 1, .sampler = o};
    llama_continuation e = {.context = "a", .n_context = 1, .ending = "b", .n_ending = 1};
    llama_error err;
    size_t n = 0;
    const llama_span span = {0, some, 1};
    if (busy_calls++ > 40) return; /* often enough */
    for (int i = 0; i < 17; i++) {
        int status = LLAMA_OK;
        switch (i) {
        case 0: status = llama_eval(s, 0, some, 1); break;
        case 1: status = llama_eval_batch(s, &span, 1); break;
        case 2: status = llama_score(s, 0, some, 1, out); break;
        case 3: status = llama_score_batch(s, &span, 1, out, NULL); break;
        case 4: status = llama_rewind(s, 0, 0); break;
        case 5: status = llama_fork(s, 1, 0); break;
        case 6: status = llama_prefill(s, 0, some, 1); break;
        case 7: status = llama_sample(s, 0, &o); break;
        case 8: status = llama_probabilities(s, 0, &o, out); break;
        case 9: status = llama_trace(s, NULL, NULL); break;
        case 10: status = llama_generate(s, &r, 1, say_nothing, NULL); break;
        case 11: status = llama_loglikelihood(s, &e, 1); break;
        case 12: status = llama_save(s, 0, to_nowhere, &n); break;
        case 13: status = llama_load(s, 0, from_nowhere, NULL); break;
        case 14: status = llama_save_file(s, 0, STATE_FILE("busy"), &err); break;
        case 15: status = (int)llama_verify(s, 0, &o, some, 1, drawn); break;
        default: status = llama_load_file(s, 0, STATE_FILE("whole"), &err); break;
        }
        check(status == LLAMA_EINVAL && strstr(llama_session_error(s), "the session is evaluating"), "%s, call %d: %d, '%s'", where, i, status, llama_session_error(s));
    }
    check(llama_session_context(s) == 16 && *llama_session_kernels(s), "what reads is fine");
}

static int busy_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)done, (void)total;
    call_inside(what);
    return 0;
}
static void busy_trace(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    (void)user, (void)x, (void)rows, (void)cols;
    call_inside(name);
}
static int busy_request(void *user, llama_request *r, const char *text, size_t n) {
    (void)user, (void)text, (void)n;
    llama_token_logprob top[2];
    call_inside("a request");
    if (!r->finish_reason) check(llama_logits(busy_session, r->seq) && llama_top_logprobs(busy_session, r->seq, top, 2) == 2 && top[0].token == r->token, "the logits are there");
    return 0;
}
typedef struct {
    buffer b;
    size_t at;
} busy_tape;
static int busy_write(void *user, const void *p, size_t n) {
    call_inside("write");
    put(&((busy_tape *)user)->b, p, n);
    return 0;
}
static int busy_read(void *user, void *p, size_t n) {
    busy_tape *t = user;
    call_inside("read");
    if (n > t->b.n - t->at) return 1;
    memcpy(p, t->b.at + t->at, n);
    t->at += n;
    return 0;
}

static void test_inside(void) {
    llama_session *plain = session(model, (llama_session_options){.context = 16, .sequences = 3});
    busy_session = session(model, (llama_session_options){.context = 16, .sequences = 3, .progress = busy_progress});
    llama_session *s = busy_session;
    llama_request r[2] = {{.prompt = some, .n_prompt = 3, .max_tokens = 4, .sampler = {.size = sizeof(llama_sampler)}}}, same = r[0];
    busy_tape t = {.at = 0};
    check(llama_eval(plain, 0, some, 5) == LLAMA_OK, "plain");
    for (int i = 0; i < 5; i++) {
        int status = LLAMA_OK;
        busy_calls = 0;
        if (i == 0) status = llama_eval(s, 0, some, 5);
        if (i == 1) status = llama_trace(s, busy_trace, NULL) || llama_rewind(s, 0, 1) || llama_eval(s, 0, some + 1, 4);
        if (i == 2) status = llama_trace(s, NULL, NULL) || llama_save(s, 0, busy_write, &t);
        if (i == 3) status = llama_load(s, 1, busy_read, &t);
        if (i == 4) busy_calls = -1000, status = llama_generate(s, r, 1, busy_request, NULL);
        check(status == LLAMA_OK && !*llama_session_error(s) && busy_calls, "kind %d: %d, '%s'", i, status, llama_session_error(s));
        if (i < 4) check(llama_length(s, i == 3) == 5 && memcmp(llama_logits(s, i == 3), llama_logits(plain, 0), 4096) == 0, "kind %d: nothing was changed from inside", i);
    }
    check(llama_generate(plain, &same, 1, say_nothing, NULL) == LLAMA_OK && same.token == r[0].token && r[0].generated == 4, "the same text");
    check(!exists(STATE_FILE("busy")), "no file");
    free(t.b.at);
    llama_session_free(s), llama_session_free(plain);
}

/* A session with all_logits has the logits of every token of the last call, and no others. */
static void test_all_logits(void) {
    llama_session_options o = {.size = sizeof o, .context = 16, .sequences = 3, .batch = 5}, more = o;
    more.all_logits = 1;
    llama_session *one = session(model, (llama_session_options){.context = 16}), *plain = session(model, o), *s = session(model, more);
    static float want[3][SOME][1024];
    float scores[SOME], same[SOME];
    uint64_t rows = (llama_session_bytes(model, &more) - llama_session_bytes(model, &o)) / (4 * 1024);
    check(rows >= 3 * 16 && rows < 3 * 16 + 4, "room for %d rows, not %d", 3 * 16, (int)rows);
    for (int k = 0; k < 3; k++) { /* tokens k to the last, one by one */
        llama_rewind(one, 0, 0);
        for (int i = k; i < SOME; i++) {
            llama_eval(one, 0, &some[i], 1);
            memcpy(want[k][i - k], llama_logits(one, 0), sizeof want[k][0]);
        }
    }
    llama_span spans[] = {{2, some + 2, SOME - 2}, {0, some, 4}, {1, some + 1, 0}};
    check(llama_eval_batch(s, spans, 3) == LLAMA_OK && llama_eval_batch(plain, spans, 3) == LLAMA_OK, "two sequences");
    for (size_t i = 0; i < SOME - 2; i++)
        check(llama_logits_at(s, 2, i) && memcmp(llama_logits_at(s, 2, i), want[2][i], 4096) == 0, "sequence 2, position %zu", i);
    for (size_t i = 0; i < 4; i++) check(llama_logits_at(s, 0, i) && memcmp(llama_logits_at(s, 0, i), want[0][i], 4096) == 0, "sequence 0, position %zu", i);
    check(memcmp(llama_logits(s, 0), want[0][3], 4096) == 0 && memcmp(llama_logits(s, 2), want[2][SOME - 3], 4096) == 0, "llama_logits are the last");
    check(!llama_logits_at(s, 2, SOME - 2) && !llama_logits_at(s, 0, 4) && !llama_logits_at(s, 1, 0) && !llama_logits_at(s, 3, 0) && !llama_logits_at(s, -1, 0) &&
              !llama_logits_at(NULL, 0, 0) && !llama_logits_at(s, 0, SIZE_MAX) && !llama_logits_at(plain, 0, 0), "no others");
    check(llama_eval(s, 0, some, 13) == LLAMA_EFULL && llama_eval(s, 0, some, 0) == LLAMA_OK && llama_logits_at(s, 2, 3), "a refused or empty call keeps them");
    check(llama_score(s, 0, some + 4, SOME - 4, scores + 4) == LLAMA_OK && llama_score(plain, 0, some + 4, SOME - 4, same + 4) == LLAMA_OK &&
              memcmp(scores + 4, same + 4, (SOME - 4) * sizeof *scores) == 0, "scores are those of a session without");
    check(!llama_logits_at(s, 2, 0) && !llama_logits_at(s, 0, 3), "those of the call before are gone");
    for (size_t i = 4; i < SOME; i++) check(llama_logits_at(s, 0, i) && memcmp(llama_logits_at(s, 0, i), want[0][i], 4096) == 0, "scored, position %zu", i);
    check(llama_rewind(s, 0, 9) == LLAMA_OK && llama_logits_at(s, 0, 8) && !llama_logits_at(s, 0, 9), "rewound: what is left");
    check(llama_fork(s, 0, 2) == LLAMA_OK && !llama_logits_at(s, 0, 8), "another sequence copied over it");
    check(llama_prefill(s, 1, some, 6) == LLAMA_OK && memcmp(llama_logits_at(s, 1, 5), want[0][5], 4096) == 0, "prefill");
    check(llama_prefill(s, 1, some, 9) == LLAMA_OK && !llama_logits_at(s, 1, 5) && memcmp(llama_logits_at(s, 1, 8), want[0][8], 4096) == 0, "what prefill evaluated");
    float ranked[SOME];
    int32_t rank[SOME];
    llama_rewind(s, 1, 0);
    check(llama_score_batch(s, (llama_span[]){{1, some, 5}, {2, some, 3}}, 2, ranked, rank) == LLAMA_OK && memcmp(llama_logits_at(s, 1, 2), want[0][2], 4096) == 0 &&
              memcmp(llama_logits(s, 1), want[0][4], 4096) == 0 && llama_logits_at(s, 2, SOME) != NULL, "two sequences scored");
    llama_session_free(one), llama_session_free(plain), llama_session_free(s);
}

/* Over several blocks of positions, with tokens of a tile that see different numbers of them. */
static void test_long(void) {
    enum { N = 203 };
    int32_t t[N];
    for (int i = 0; i < N; i++) t[i] = (i * 37 + 1) % 1024;
    llama_session *a = session(model, (llama_session_options){.context = 256}), *b = session(model, (llama_session_options){.context = 256, .batch = 61});
    llama_session *c = session(model, (llama_session_options){.context = 256, .kernels = "scalar"});
    check(!llama_eval(a, 0, t, N) && !llama_eval(b, 0, t, N) && !llama_eval(c, 0, t, N), "a long prompt");
    check(memcmp(llama_logits(a, 0), llama_logits(b, 0), 4096) == 0, "in batches of 61: the same bits");
    check(memcmp(llama_logits(a, 0), llama_logits(c, 0), 4096) == 0, "by the plain kernels: the same bits");
    llama_rewind(b, 0, 0);
    for (int i = 0; i < N; i++) llama_eval(b, 0, &t[i], 1);
    check(memcmp(llama_logits(a, 0), llama_logits(b, 0), 4096) == 0, "token by token: the same bits");
    llama_session_free(a), llama_session_free(b), llama_session_free(c);
}

/* What belongs to the process is as it was: signals, locale, umask, the folder, rounding. */
typedef struct {
    struct sigaction signals[32];
    sigset_t mask;
    mode_t umask;
    char locale[64], folder[4096];
    int rounding;
} process;

static process process_now(void) {
    process p;
    memset(&p, 0, sizeof p);
    for (int i = 1; i < 32; i++) sigaction(i, NULL, &p.signals[i]);
    sigprocmask(SIG_BLOCK, NULL, &p.mask);
    umask(p.umask = umask(0));
    snprintf(p.locale, sizeof p.locale, "%s", setlocale(LC_ALL, NULL));
    check(getcwd(p.folder, sizeof p.folder) != NULL, "a folder");
    p.rounding = fegetround();
    return p;
}

static int to_nowhere(void *user, const void *p, size_t n) {
    (void)p;
    *(size_t *)user += n;
    return 0;
}

static void test_process(void) {
    const char *path = folder;
    size_t bytes = 0;
    umask(027);
    fesetround(FE_UPWARD);
    process before = process_now();
    llama *m = NULL;
    llama_error err;
    check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "%s", err.text);
    llama_session *s = session(m, (llama_session_options){.context = 32, .threads = 2});
    llama_sampler o = {.size = sizeof o, .temperature = 1};
    check(!llama_eval(s, 0, some, 5) && llama_sample(s, 0, &o) >= 0 && !llama_save(s, 0, to_nowhere, &bytes) && bytes > 0 && !llama_check(m, NULL, NULL, NULL) &&
              !llama_prefetch(m, NULL, NULL), "everything once");
    llama_session_free(s);
    llama_close(m);
    process after = process_now();
    fesetround(FE_TONEAREST);
    umask(022);
    for (int i = 0; i < 32; i++)
        check(before.signals[i].sa_handler == after.signals[i].sa_handler && before.signals[i].sa_flags == after.signals[i].sa_flags, "signal %d is as it was", i);
    check(memcmp(&before.mask, &after.mask, sizeof before.mask) == 0 && before.umask == after.umask && strcmp(before.locale, after.locale) == 0 &&
              strcmp(before.folder, after.folder) == 0 && before.rounding == after.rounding, "the mask of signals, umask, locale, folder and rounding are as they were");
}

/* Weights that cannot be kept in memory: of a user who may lock none. */
static void test_lock(void) {
    const char *path = folder;
    struct rlimit before, none;
    llama_options o = {.size = sizeof o, .memory = LLAMA_MEMORY_LOCK};
    llama *m = NULL;
    llama_error err;
    bool root = geteuid() == 0;
    getrlimit(RLIMIT_MEMLOCK, &before);
    none = before, none.rlim_cur = 0;
    setrlimit(RLIMIT_MEMLOCK, &none);
    if (root && seteuid(65534) != 0) return; /* root may lock what it likes */
    bool locks = mlock(&before, 1) == 0; /* as under sanitizers, which make mlock do nothing */
    int status = llama_open(&m, path, &o, &err);
    if (root) check(seteuid(0) == 0, "root again");
    setrlimit(RLIMIT_MEMLOCK, &before);
    bool hidden = status == LLAMA_EIO; /* the folder is root's alone */
    check(hidden || locks || (status == LLAMA_ENOMEM && !m && strstr(err.text, "ulimit -l")), "locked: %d, %s", status, err.text);
    llama_close(m);
}

/* An error keeps its reason, however long the path is; what is left out is in the middle of the path. */
static void test_long_paths(void) {
    char path[3000];
    llama *m = NULL;
    llama_error err;
    llama_session *s = session(model, (llama_session_options){.context = 8});
    for (size_t n = 380; n < sizeof path; n += n < 600 ? 1 : 997) {
        memset(path, 'd', n);
        for (size_t i = 100; i < n; i += 100) path[i] = '/';
        memcpy(path, "begin", 5), memcpy(path + n - 3, "end", 4);
        check(llama_open(&m, path, NULL, &err) == LLAMA_EIO && strncmp(err.text, "begin", 5) == 0 && strstr(err.text, "end: cannot be opened: No such file"),
              "%zu bytes: %s", n, err.text);
        check(llama_load_file(s, 0, path, &err) == LLAMA_EIO && strstr(err.text, "end: cannot be opened: No such file"), "%zu bytes: %s", n, err.text);
        check((strlen(err.text) == n + strlen(": cannot be opened: No such file or directory")) == !strstr(err.text, "..."), "%zu bytes: %s", n, err.text);
    }
    check(llama_open(&m, "", NULL, &err) == LLAMA_EINVAL && strstr(err.text, "the path is empty"), "%s", err.text);
    check(llama_open(&m, NULL, NULL, &err) == LLAMA_EINVAL && strstr(err.text, "path is NULL"), "%s", err.text);
    llama_session_free(s);
}

static void test_options(void) {
    llama_session *s = (void *)1;
    llama_error err;
    llama_session_options bad[] = {{.context = -1}, {.context = (1 << 20) + 1}, {.sequences = -1}, {.batch = -1}, {.threads = -1},
                                   {.numerics = -1}, {.numerics = 7}, {.kernels = "mmx"}, {.all_logits = 2}, {.no_lookup = 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bad[i].size = sizeof bad[i];
        check(llama_session_new(&s, model, &bad[i], &err) == LLAMA_EINVAL && s == NULL && *err.text && llama_session_bytes(model, &bad[i]) == 0,
              "bad session options %zu", i);
    }
    llama_session_options none = {.size = 3}, huge = {.size = sizeof huge, .context = 1 << 20, .sequences = 1 << 20};
    check(llama_session_new(&s, model, &none, &err) == LLAMA_EINVAL, "options without a size");
    check(llama_session_new(&s, model, &huge, &err) == LLAMA_ENOMEM && s == NULL, "more than there is: %s", err.text);
    check(strstr(err.text, "1048576 sequences") && strstr(err.text, "fewer sequences") && !strstr(err.text, "all_logits"), "what to make smaller: %s", err.text);
    huge.all_logits = 1;
    check(llama_session_new(&s, model, &huge, &err) == LLAMA_ENOMEM && strstr(err.text, "all_logits"), "what to make smaller: %s", err.text);
    check(llama_session_new(&s, NULL, NULL, NULL) == LLAMA_EINVAL && llama_session_new(NULL, model, NULL, NULL) == LLAMA_EINVAL, "NULL");
    llama *m = (void *)1;
    llama_options stream = {.size = sizeof stream, .memory = LLAMA_MEMORY_STREAM}, odd = {.size = sizeof odd, .memory = 9};
    llama_options unset = {.size = 0};
    check(llama_open(&m, folder, &unset, &err) == LLAMA_EINVAL && m == NULL, "options without a size leave no model");
    m = (void *)1;
    check(llama_open(&m, folder, &stream, &err) == LLAMA_OK && m, "streamed: %s", err.text);
    llama_close(m);
    check(llama_open(&m, folder, &odd, &err) == LLAMA_EINVAL && llama_open(NULL, folder, NULL, &err) == LLAMA_EINVAL &&
              llama_open(&m, NULL, NULL, NULL) == LLAMA_EINVAL, "bad open options");
    check(llama_open(&m, "/no/such/folder", NULL, &err) == LLAMA_EIO && err.status == LLAMA_EIO && strstr(err.text, "/no/such/folder"), "no such folder");
    check(llama_open(&m, __FILE__, NULL, &err) == LLAMA_EFORMAT && strstr(err.text, "folder"), "a file: %s", err.text);
    llama_close(NULL);
    for (int i = -9; i < 2; i++) check(*llama_strerror(i), "llama_strerror");
    check(llama_release() == LLAMA_RELEASE && strstr(llama_build(), "kernels scalar"), "the build is told");
    s = session(model, (llama_session_options){.threads = 1, .kernels = "scalar"});
    check(strcmp(llama_session_kernels(s), "scalar, 1 thread") == 0, "kernels are told");
    llama_session_free(s);
}

/* ---- A draft model ---- */

typedef struct {
    int32_t tokens[64];
    size_t n;
} made_text;
static int keep_token(void *user, llama_request *r, const char *text, size_t n) {
    made_text *made = user;
    (void)text, (void)n;
    if (!r->finish_reason && made->n < 64) made->tokens[made->n++] = r->token;
    return 0;
}

static long progress_calls, cancel_at;
static int cancel_later(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)done, (void)total;
    if (strcmp(what, "prompt") != 0 && strcmp(what, "text") != 0) check(false, "progress of %s", what);
    return ++progress_calls == cancel_at;
}

/* A host that changes a request while it is at work. *user: which change. */
static int change_request(void *user, llama_request *r, const char *text, size_t n) {
    (void)text, (void)n;
    int change = *(int *)user;
    if (change == 0 && r->generated == 1) r->max_tokens = 100000;
    if (change == 1 && r->generated == 5) r->max_tokens = 2;
    if (change == 2 && r->generated == 5) r->seq = 1000000;
    if (change == 3 && r->generated == 5) r->seq = 1;
    return 0;
}
static void test_changed_request(void) {
    for (int change = 0; change < 4; change++) {
        size_t generated = 0;
        int status = 0;
        for (int guesses = 0; guesses < 3; guesses++) {
            llama_session *s = session(model, (llama_session_options){.context = 64, .sequences = 2, .threads = 1, .no_lookup = guesses == 0, .draft = guesses == 2 ? model : NULL});
            llama_request r = {.prompt = some, .n_prompt = 5, .max_tokens = 30, .sampler = {.size = sizeof r.sampler, .temperature = 0}};
            int got = llama_generate(s, &r, 1, change_request, &change);
            if (guesses == 0) status = got, generated = r.generated;
            check(got == status && r.generated == generated, "change %d, guesses %d: %d, not %d; %zu tokens, not %zu: %s", change, guesses, got, status, r.generated, generated, llama_session_error(s));
            r = (llama_request){.prompt = some, .n_prompt = 5, .max_tokens = 30, .sampler = {.size = sizeof r.sampler, .temperature = 0}};
            made_text text = {.n = 0};
            check(llama_generate(s, &r, 1, keep_token, &text) == LLAMA_OK && r.generated == 30, "after change %d: %s", change, llama_session_error(s));
            llama_session_free(s);
        }
    }
}

/* Makes each layer take half a millisecond more. */
static int slow_layer(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)what, (void)done, (void)total;
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    return 0;
}
/* What a draft model may be, what it takes, and that no failure of it changes a text: it is not finite, or the host cancels. */
static void test_draft(void) {
    model_spec spec = {.dim = 16, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 16, .vocab = 1024, .shards = 1};
    const char *path = model_write_as(&spec, BIN_1, "build/api-draft");
    llama *good = NULL, *bad = NULL, *other = NULL;
    llama_session *s = NULL;
    llama_error err;
    size_t n = 0;
    check(!llama_open(&good, path, NULL, &err), "%s", err.text);
    char *bytes = read_file(path, &n);
    buffer b = {0};
    put(&b, bytes, n);
    memcpy(b.at + 256, &(float){NAN}, sizeof(float)); /* a norm of the first layer */
    check(write_file("build/api-draft.bad", &b) && !llama_open(&bad, "build/api-draft.bad", NULL, &err), "%s", err.text);
    spec.vocab = 40;
    check(!llama_open(&other, model_write_as(&spec, BIN_1, "build/api-draft-other"), NULL, &err), "%s", err.text);
    llama_session_options o = {.size = sizeof o, .context = 64, .sequences = 2, .threads = 1, .draft = other};
    check(llama_session_new(&s, model, &o, &err) == LLAMA_EINVAL && !s && strstr(err.text, "vocabulary of 40 tokens and the model one of 1024") &&
              !llama_session_bytes(model, &o), "another vocabulary: %s", err.text);
    o.draft = NULL;
    uint64_t alone = llama_session_bytes(model, &o);
    o.draft = good;
    uint64_t both = llama_session_bytes(model, &o);
    check(both > alone && both < 2 * alone, "%llu bytes, %llu with a draft model", (unsigned long long)alone, (unsigned long long)both);
    made_text want = {.n = 0};
    llama_request r = {.prompt = some, .n_prompt = 5, .max_tokens = 30, .sampler = {.size = sizeof r.sampler, .temperature = 0.9f, .seed = 5}};
    s = session(model, (llama_session_options){.context = 64, .threads = 1, .no_lookup = 1});
    check(llama_generate(s, &r, 1, keep_token, &want) == LLAMA_OK && r.drafted == 0, "alone: %s", llama_session_error(s));
    llama_session_free(s);
    for (int i = 0; i < 3; i++) {
        made_text got = {.n = 0};
        s = session(model, (llama_session_options){.context = 64, .threads = 1, .no_lookup = 1, .draft = i == 0 ? bad : i == 1 ? good : model});
        check(llama_generate(s, &r, 1, keep_token, &got) == LLAMA_OK && got.n == want.n && memcmp(got.tokens, want.tokens, got.n * sizeof *got.tokens) == 0,
              "draft model %d: %s", i, llama_session_error(s));
        check(i ? r.drafted >= r.accepted : r.drafted == 0, "draft model %d: %zu guesses", i, r.drafted);
        if (i == 1) check(r.drafted > 0, "a model so small is always tried");
        llama_session_free(s);
    }
    /* A text that the draft model has evaluated to its end already. The draft model is always right, and much faster. */
    float bias[1024];
    for (int i = 0; i < 1024; i++) bias[i] = i == 300 ? 0 : -INFINITY;
    llama_request forced = {.prompt = some, .n_prompt = 5, .max_tokens = 59, .sampler = {.size = sizeof forced.sampler, .bias = bias}};
    s = session(model, (llama_session_options){.context = 64, .threads = 1, .no_lookup = 1, .draft = good, .progress = slow_layer});
    for (int again = 0; again < 3; again++) {
        made_text got = {.n = 0};
        int status = llama_generate(s, &forced, 1, keep_token, &got);
        check(status == LLAMA_OK && forced.passes < 40, "text %d: %d: %zu passes, %zu guesses", again, status, forced.passes, forced.drafted);
    }
    llama_session_free(s);
    for (cancel_at = 1;; cancel_at += test_quick ? 7 : 1) { /* also while the draft model is at work */
        made_text got = {.n = 0};
        progress_calls = 0;
        s = session(model, (llama_session_options){.context = 64, .threads = 1, .no_lookup = 1, .draft = good, .progress = cancel_later});
        int status = llama_generate(s, &r, 1, keep_token, &got);
        if (status == LLAMA_OK && progress_calls < cancel_at) {
            llama_session_free(s);
            break;
        }
        check(status == LLAMA_ECANCEL && strstr(llama_session_error(s), "cancelled") && got.n < want.n && memcmp(got.tokens, want.tokens, got.n * sizeof *got.tokens) == 0,
              "cancelled at call %ld: %d, %zu tokens", cancel_at, status, got.n);
        got.n = 0;
        check(llama_generate(s, &r, 1, keep_token, &got) == LLAMA_OK && got.n == want.n && memcmp(got.tokens, want.tokens, got.n * sizeof *got.tokens) == 0, "again after call %ld", cancel_at);
        llama_session_free(s);
    }
    llama_close(good), llama_close(bad), llama_close(other);
    free(b.at), free(bytes);
}

static void test_score(void) {
    llama_session *s = session(model, (llama_session_options){.context = 64, .batch = 5}), *one = session(model, (llama_session_options){.context = 64});
    float scores[SOME], worst = 0;
    check(llama_score(s, 0, some, SOME, scores) == LLAMA_OK && scores[0] == 0, "score");
    for (int i = 0; i + 1 < SOME; i++) {
        llama_eval(one, 0, &some[i], 1);
        worst = fmaxf(worst, fabsf(scores[i + 1] + (float)nll_of(llama_logits(one, 0), 1024, some[i + 1])));
    }
    check(worst < 1e-6f, "score is off by %g", (double)worst);
    llama_eval(one, 0, &some[SOME - 1], 1);
    check(memcmp(llama_logits(s, 0), llama_logits(one, 0), 4096) == 0, "score leaves eval's logits");
    float more;
    llama_token_logprob top[3];
    check(llama_top_logprobs(s, 0, top, 3) == 3 && top[0].logprob >= top[1].logprob && top[1].logprob >= top[2].logprob, "top");
    int32_t best = top[0].token;
    check(llama_score(s, 0, &best, 1, &more) == LLAMA_OK && more == top[0].logprob, "score and top agree");
    check(llama_top_logprobs(s, 0, top, -1) == LLAMA_EINVAL && llama_top_logprobs(s, 3, top, 1) == LLAMA_EINVAL && llama_score(s, 0, &best, 1, NULL) == LLAMA_EINVAL, "refusals");
    llama_rewind(s, 0, 3);
    check(llama_score(s, 0, &best, 1, &more) == LLAMA_EINVAL, "no logits to score from after a rewind");
    llama_session_free(s);
    llama_session_free(one);
}

/* Spans of several sequences, one of them empty before, in passes of any size: each as llama_score has it alone. */
static void test_score_batch(void) {
    static const int32_t more[] = {300, 5, 261, 700, 9, 42, 261, 261, 13, 88, 523, 4};
    static const struct {
        int seq;
        size_t before, n; /* tokens of `some` that it has; of `more` that come */
    } parts[] = {{2, 4, 7}, {0, 0, 12}, {3, 12, 1}, {1, 1, 0}, {4, 9, 10}};
    enum { PARTS = sizeof parts / sizeof *parts, TOTAL = 7 + 12 + 1 + 10 };
    static const int batches[] = {1, 3, 8, 9, 64};
    for (int b = 0; b < 5; b++) {
        llama_session *s = session(model, (llama_session_options){.context = 64, .sequences = 5, .batch = batches[b]});
        llama_session *one = session(model, (llama_session_options){.context = 64});
        llama_span spans[PARTS];
        float got[TOTAL + 1] = {0}, want[TOTAL], *at = want;
        int32_t rank[TOTAL + 1], above[TOTAL] = {0}, *r = above;
        got[TOTAL] = 99, rank[TOTAL] = 99;
        for (int k = 0; k < PARTS; k++) {
            llama_eval(s, parts[k].seq, some, parts[k].before);
            spans[k] = (llama_span){parts[k].seq, more, parts[k].n};
        }
        check(llama_score_batch(s, spans, PARTS, got, rank) == LLAMA_OK, "a batch: %s", llama_session_error(s));
        for (int k = 0; k < PARTS; k++) {
            llama_rewind(one, 0, 0);
            llama_eval(one, 0, some, parts[k].before);
            for (size_t t = 0; t < parts[k].n; t++, r++) {
                const float *logits = llama_logits(one, 0);
                for (int i = 0; i < 1024 && logits; i++) *r += logits[i] > logits[more[t]] || (logits[i] == logits[more[t]] && i < more[t]);
                check(llama_score(one, 0, &more[t], 1, at++) == LLAMA_OK, "alone");
            }
            if (parts[k].n)
                check(memcmp(llama_logits(s, parts[k].seq), llama_logits(one, 0), 4096) == 0, "sequence %d: its last logits", parts[k].seq);
            check(llama_length(s, parts[k].seq) == parts[k].before + parts[k].n, "sequence %d: its length", parts[k].seq);
        }
        check(memcmp(got, want, sizeof want) == 0 && got[TOTAL] == 99, "%d at once: the same bits as alone", batches[b]);
        check(memcmp(rank, above, sizeof above) == 0 && rank[TOTAL] == 99, "%d at once: ranks", batches[b]);
        llama_rewind(s, 4, 9);
        check(llama_score_batch(s, spans, PARTS, got, NULL) == LLAMA_EINVAL && llama_length(s, 2) == 11, "one has no logits: none is changed");
        check(llama_score_batch(s, (llama_span[]){{2, more, 1}, {2, more, 1}}, 2, got, NULL) == LLAMA_EINVAL, "a sequence twice");
        check(llama_score_batch(s, NULL, 1, got, NULL) == LLAMA_EINVAL && llama_score_batch(NULL, spans, 1, got, NULL) == LLAMA_EINVAL, "NULL");
        check(llama_score_batch(s, spans, 1, NULL, NULL) == LLAMA_OK && llama_length(s, 2) == 18, "without logprob: llama_eval_batch");
        llama_session_free(s), llama_session_free(one);
    }
}

typedef struct {
    int calls, stop_at;
    uint64_t last, total;
} watch;
static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    watch *w = user;
    check(strcmp(what, "prompt") == 0 || strcmp(what, "weights") == 0, "progress: %s", what);
    w->last = done;
    w->total = total;
    return ++w->calls == w->stop_at;
}

static void test_progress(void) {
    watch w = {0};
    llama_session *s = session(model, (llama_session_options){.context = 64, .batch = 4, .progress = on_progress, .user = &w});
    check(llama_eval(s, 0, some, SOME) == LLAMA_OK && w.calls >= 3 * 4, "at least once a layer");
    check(w.last == 4 * SOME && w.total == w.last, "and at the end: %d of %d", (int)w.last, (int)w.total);
    float before[1024];
    memcpy(before, llama_logits(s, 0), sizeof before);
    w.stop_at = w.calls + 6;
    check(llama_eval(s, 0, some, SOME) == LLAMA_ECANCEL && llama_length(s, 0) == SOME && memcmp(before, llama_logits(s, 0), 4096) == 0, "cancelled: as if not called");
    llama_session *two = session(model, (llama_session_options){.context = 64, .sequences = 2, .batch = 4, .progress = on_progress, .user = &w});
    w.stop_at = w.calls + 9; /* in the third batch, when the first sequence is through */
    check(llama_eval_batch(two, (llama_span[]){{0, some, 3}, {1, some, 9}}, 2) == LLAMA_ECANCEL && llama_length(two, 0) == 0 && !llama_logits(two, 0),
          "cancelled: none of the sequences has its tokens");
    llama_session_free(two);
    check(llama_prefetch(model, on_progress, &w) == LLAMA_OK && w.last == w.total, "warm");
    check(llama_check(model, on_progress, &w, NULL) == LLAMA_OK && w.last == w.total, "checked: %d of %d", (int)w.last, (int)w.total);
    w.stop_at = w.calls + 1;
    check(llama_prefetch(model, on_progress, &w) == LLAMA_ECANCEL && llama_prefetch(NULL, NULL, NULL) == LLAMA_EINVAL, "warm is cancelled");
    llama_session_free(s);
}

typedef struct {
    int calls;
    char names[128][64];
    float last[1024], embedding[192];
} traced;
static void on_trace(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    traced *t = user;
    if (t->calls < 128) snprintf(t->names[t->calls++], 64, "%s %zux%zu", name, rows, cols);
    if (strcmp(name, "output") == 0) memcpy(t->last, x, 4096);
    if (strcmp(name, "tok_embeddings") == 0) memcpy(t->embedding, x + 192 * (rows - 1), 768);
}

/* What a row may not attend to: rows of two sequences, at positions 1 to 3 and 0 to 1. */
static void on_masked(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    static const size_t last[] = {1, 2, 3, 0, 1};
    bool probs = strstr(name, ".probs"), scores = strstr(name, ".scores");
    size_t *wrong = user;
    if (!probs && !scores) return;
    *wrong += rows != 6 * 5 || cols != 4;
    for (size_t i = 0; i < rows * cols; i++) {
        bool masked = i % cols > last[i / cols % 5];
        if (probs) *wrong += masked ? x[i] != 0 : !(x[i] > 0);
        else *wrong += masked ? x[i] != -INFINITY : !isfinite(x[i]);
    }
}

static void *never(void *user, size_t bytes, size_t align) { return *(int *)user ? NULL : aligned_alloc(align, (bytes + align - 1) / align * align); }

static void test_trace_of_attention(void) {
    size_t wrong = 0;
    int full = 0;
    const llama_allocator failing = {&full, never, plain_free};
    llama_session *s = session(model, (llama_session_options){.context = 64, .sequences = 2, .threads = 2, .allocator = &failing});
    llama_eval(s, 0, some, 1);
    full = 1;
    check(llama_trace(s, on_masked, &wrong) == LLAMA_ENOMEM && strstr(llama_session_error(s), "trace"), "no memory: %s", llama_session_error(s));
    full = 0;
    check(llama_trace(s, on_masked, &wrong) == LLAMA_OK && llama_trace(s, on_masked, &wrong) == LLAMA_OK, "twice: %s", llama_session_error(s));
    check(llama_eval_batch(s, (llama_span[]){{0, some + 1, 3}, {1, some, 2}}, 2) == LLAMA_OK && wrong == 0, "%zu elements of scores or probabilities are wrong", wrong);
    llama_session_free(s);
}

static void test_trace(void) {
    static traced t, again;
    llama_session *s = session(model, (llama_session_options){.context = 64});
    check(llama_trace(s, on_trace, &t) == LLAMA_OK && llama_eval(s, 0, some, 3) == LLAMA_OK, "trace");
    static const char *const layer[] = {"attention_norm 3x192", "attention.wq 3x192", "attention.wk 3x192", "attention.wv 3x192", "attention.xq 3x192", "attention.xk 3x192", "attention.scores 18x3", "attention.probs 18x3", "attention.output 3x192", "attention.wo 3x192", "h 3x192", "ffn_norm 3x192", "feed_forward.w1 3x512", "feed_forward.w3 3x512", "feed_forward.silu 3x512", "feed_forward.gated 3x512", "feed_forward.w2 3x192"};
    enum { EACH = sizeof layer / sizeof *layer + 1 };
    check(t.calls == 3 + 4 * EACH && strcmp(t.names[0], "tok_embeddings 3x192") == 0 && strcmp(t.names[t.calls - 1], "output 1x1024") == 0, "%d intermediates", t.calls);
    for (int i = 0; i < 4 * EACH; i++) {
        char want[64];
        snprintf(want, sizeof want, i % EACH == EACH - 1 ? "layers.%d 3x192%s" : "layers.%d.%s", i / EACH, i % EACH == EACH - 1 ? "" : layer[i % EACH]);
        check(strcmp(t.names[1 + i], want) == 0, "%s, not %s", t.names[1 + i], want);
    }
    check(memcmp(t.last, llama_logits(s, 0), 4096) == 0, "the last one is the logits");
    llama_rewind(s, 0, 2);
    llama_trace(s, on_trace, &again);
    llama_eval(s, 0, some + 2, 1);
    check(memcmp(t.embedding, again.embedding, 768) == 0 && memcmp(t.last, llama_logits(s, 0), 4096) == 0, "tracing changes no bit");
    llama_trace(s, NULL, NULL);
    again.calls = 0;
    check(llama_eval(s, 0, some, 1) == LLAMA_OK && again.calls == 0 && llama_trace(NULL, NULL, NULL) == LLAMA_EINVAL, "NULL stops it");
    llama_session_free(s);
}

/* A host that rounds upward gets the same bits, and its mode back. */
static void test_float_mode(void) {
    llama_session *a = session(model, (llama_session_options){.context = 64}), *b = session(model, (llama_session_options){.context = 64});
    llama_eval(a, 0, some, SOME);
    fesetround(FE_UPWARD);
    int status = llama_eval(b, 0, some, SOME), mode = fegetround();
    fesetround(FE_TONEAREST);
    check(status == LLAMA_OK && mode == FE_UPWARD, "the rounding mode is put back");
    check(memcmp(llama_logits(a, 0), llama_logits(b, 0), 4096) == 0, "the host's rounding changes no bit");
    /* one that has its exceptions raise signals gets none of them */
    llama_sampler none = {.size = sizeof none, .top_p = NAN};
    feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
    int before = fegetexcept(); /* as it took it: valgrind has none */
    status = llama_sample(b, 0, &none);
    int traps = fegetexcept();
    fedisableexcept(FE_ALL_EXCEPT);
    check(status == LLAMA_EINVAL && traps == before, "a sampler that is no number: %d, %x", status, (unsigned)traps);
    llama_session_free(a);
    llama_session_free(b);
}

/* ---- Sampling ---- */

static void draws(llama_session *s, llama_sampler o, int vocab, const char *name, uint64_t step) {
    const int n = test_quick ? 100000 : 1000000;
    float p[64];
    int counts[64] = {0}, kinds = -1;
    check(llama_probabilities(s, 0, &o, p) == LLAMA_OK, "distribution");
    for (int i = 0; i < n; i++) {
        o.seed = (uint64_t)i * step;
        int32_t token = llama_sample(s, 0, &o);
        if (token < 0 || token >= vocab) {
            check(false, "%s: token %d", name, (int)token);
            return;
        }
        counts[token]++;
    }
    double x = 0;
    for (int i = 0; i < vocab; i++) {
        if (p[i] == 0) check(counts[i] == 0, "%s: a token of probability 0 is drawn", name);
        if (p[i] == 0) continue;
        kinds++;
        x += (counts[i] - n * (double)p[i]) * (counts[i] - n * (double)p[i]) / (n * (double)p[i]);
    }
    check(chi_square_p(x, kinds) > 1e-4, "%s: chi-square %.1f of %d", name, x, kinds);
    printf("%s: chi-square %.1f of %d, p %.3f\n", name, x, kinds, chi_square_p(x, kinds));
}

/* What top_k and top_p keep, from even to steep, against their definitions written plainly. */
static void kept(llama_session *s, float steep, int top_k, float top_p) {
    float bias[40], p[40];
    double e[40], sum = 0, all = 0, before = 0;
    int order[40];
    for (int i = 0; i < 40; i++) bias[i] = -steep * (float)((i * 29) % 40) / 40;
    for (int i = 0; i < 40; i++) sum += e[i] = exp((double)bias[i]);
    for (int i = 0; i < 40; i++) order[steep > 0 ? (i * 29) % 40 : i] = i; /* the foremost first */
    int n = top_k ? top_k : 40, keep = 0;
    for (int i = 0; i < n; i++) all += e[order[i]] / sum;
    while (keep < n && before / all <= (double)top_p) before += e[order[keep++]] / sum;
    llama_sampler o = {.size = sizeof o, .temperature = 1, .top_k = top_k, .top_p = top_p, .bias = bias};
    bool same = !llama_probabilities(s, 0, &o, p);
    for (int i = 0; i < 40; i++) same = same && fabs((double)p[order[i]] - (i < keep ? e[order[i]] / sum / before : 0)) < 1e-6;
    check(same, "steep %g, top_k %d, top_p %g", (double)steep, top_k, (double)top_p);
}

static void test_sampler(void) {
    model_spec spec = {.dim = 16, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 16, .vocab = 40, .shards = 1, .zero_output = true};
    model_write(&spec, "build/sampler");
    llama *m = NULL;
    check(!llama_open(&m, "build/sampler", NULL, NULL), "open");
    llama_session *s = session(m, (llama_session_options){.context = 64, .threads = 1});
    int32_t history[] = {3, 5, 3};
    float bias[40], p[40];
    for (int i = 0; i < 40; i++) bias[i] = (float)((i * 29) % 40) / 10; /* 0 to 3.9, each once */
    llama_eval(s, 0, history, 3);
    llama_sampler o = {.size = sizeof o, .bias = bias};
    check(llama_sample(s, 0, &o) == 11, "greedy: the highest");
    for (int i = 0; i < 4 * 4 * 7; i++) {
        static const float steep[] = {0, 0.3f, 4, 30}, top_p[] = {0.01f, 0.31f, 0.52f, 0.77f, 0.93f, 0.981f, 0.9997f};
        kept(s, steep[i % 4], i / 4 % 4 * 11, top_p[i / 16]);
    }
    float flat[40] = {0};
    o.bias = flat;
    check(llama_sample(s, 0, &o) == 0, "greedy: the lower id of equals");
    flat[0] = -1;
    check(llama_sample(s, 0, &o) == 1, "and of the others");
    o.temperature = 1;
    o.top_k = 3;
    check(!llama_probabilities(s, 0, &o, p) && p[1] == 1.0f / 3 && p[3] == 1.0f / 3 && p[4] == 0, "top_k takes the lower ids of equals");
    o = (llama_sampler){.size = sizeof o, .temperature = 1, .repeat_penalty = 2, .bias = (flat[3] = 1, flat[5] = -1, flat)};
    check(!llama_probabilities(s, 0, &o, p) && fabs(log((double)p[3] / p[1]) - 0.5) < 1e-6 && fabs(log((double)p[5] / p[1]) + 2) < 1e-6, "each id is penalised once");
    o.repeat_last = 1;
    check(!llama_probabilities(s, 0, &o, p) && fabs(log((double)p[3] / p[1]) - 0.5) < 1e-6 && fabs(log((double)p[5] / p[1]) + 1) < 1e-6, "only in the window");
    llama_sampler bad[] = {{.temperature = -1}, {.top_p = NAN}, {.min_p = -1}, {.top_k = -1}, {.repeat_penalty = -1}, {.repeat_last = -2}, {.temperature = INFINITY}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bad[i].size = sizeof bad[i];
        check(llama_sample(s, 0, &bad[i]) == LLAMA_EINVAL && llama_probabilities(s, 0, &bad[i], p) == LLAMA_EINVAL, "bad sampler %zu", i);
    }
    check(llama_sample(s, 0, &(llama_sampler){.temperature = 1}) == LLAMA_EINVAL && strstr(llama_session_error(s), "size is not set") && llama_sample(s, 0, NULL) == LLAMA_EINVAL,
          "a sampler without its size, or none");
    float none[40];
    for (int i = 0; i < 40; i++) none[i] = i % 2 ? -INFINITY : NAN;
    for (int i = 0; i < 4; i++) { /* with NaN among them or all -inf, drawn or greedy */
        if (i == 2) none[0] = 1;
        if (i == 3)
            for (int k = 0; k < 40; k++) none[k] = -INFINITY;
        o = (llama_sampler){.size = sizeof o, .temperature = (float)(i % 2), .top_p = 0.5f, .bias = none};
        check(llama_sample(s, 0, &o) == LLAMA_EINVAL && llama_probabilities(s, 0, &o, p) == LLAMA_EINVAL, "a bias that leaves no token, %d", i);
        o.temperature = 0;
        check(llama_sample(s, 0, &o) == LLAMA_EINVAL, "a bias that leaves no token, greedy, %d", i);
    }
    for (int i = 0; i < 6; i++) { /* one rule at every temperature: +infinity is refused, -infinity forbids */
        float one[40] = {0};
        for (int k = 0; k < 40; k++) one[k] = i % 3 == 0 || (i % 3 == 1 && k == 7) ? INFINITY : i % 3 == 2 && k != 7 ? -INFINITY : 0;
        o = (llama_sampler){.size = sizeof o, .temperature = i < 3 ? 0 : 2, .repeat_penalty = 1.5f, .bias = one};
        int32_t token = llama_sample(s, 0, &o);
        if (i % 3 == 2) check(token == 7 && !llama_probabilities(s, 0, &o, p) && p[7] == 1 && p[6] == 0, "all but one are forbidden, %d: %d", i, (int)token);
        else
            check(token == LLAMA_EINVAL && llama_probabilities(s, 0, &o, p) == LLAMA_EINVAL && strstr(llama_session_error(s), "is infinite"), "bias of +infinity, %d: %d, %s", i,
                  (int)token, llama_session_error(s));
    }
    draws(s, (llama_sampler){.size = sizeof o, .temperature = 1, .bias = bias}, 40, "temperature 1", 1);
    draws(s, (llama_sampler){.size = sizeof o, .temperature = 0.8f, .top_p = 0.95f, .bias = bias}, 40, "top_p 0.95", (uint64_t)1 << 32);
    draws(s, (llama_sampler){.size = sizeof o, .temperature = 1.5f, .top_k = 12, .min_p = 0.05f, .bias = bias}, 40, "top_k, min_p", 0x9e3779b97f4a7c15);
    o = (llama_sampler){.size = sizeof o, .temperature = 1, .bias = bias, .seed = 7};
    int32_t first = llama_sample(s, 0, &o), changed = 0;
    check(llama_sample(s, 0, &o) == first, "sampling is pure");
    for (int i = 0; i < 20; i++) {
        llama_eval(s, 0, history, 1);
        changed += llama_sample(s, 0, &o) != first;
    }
    check(changed > 10, "another position, another draw");
    llama_session_free(s);
    llama_close(m);
}

/* ---- Memory ---- */

typedef struct {
    long live, calls, fail_at;
    uint64_t bytes;
} counter;
static void *counting_alloc(void *user, size_t bytes, size_t align) {
    counter *c = user;
    if (++c->calls == c->fail_at) return NULL;
    c->live++;
    c->bytes += bytes;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void counting_free(void *user, void *p, size_t bytes) {
    counter *c = user;
    c->live--;
    c->bytes -= bytes;
    free(p);
}

static void test_memory(void) {
    counter c = {0}, sc = {0};
    llama_allocator a = {&c, counting_alloc, counting_free}, sa = {&sc, counting_alloc, counting_free};
    llama_options o = {.size = sizeof o, .allocator = &a};
    llama_session_options so = {.size = sizeof so, .context = 64, .allocator = &sa};
    llama *m = NULL;
    llama_session *s = NULL;
    llama_error err;
    for (int i = 0; i < 2; i++) { /* only one of the functions */
        llama_allocator half = {&c, i ? counting_alloc : NULL, i ? NULL : counting_free};
        llama_options bad = {.size = sizeof bad, .allocator = &half};
        llama_session_options bad_session = {.size = sizeof bad_session, .allocator = &half};
        check(llama_open(&m, folder, &bad, &err) == LLAMA_EINVAL && !m && strstr(err.text, i ? "function free" : "function alloc"), "half an allocator: %s", err.text);
        check(llama_session_new(&s, model, &bad_session, &err) == LLAMA_EINVAL && !s && strstr(err.text, i ? "function free" : "function alloc"), "half an allocator: %s", err.text);
        llama_close(m), llama_session_free(s);
    }
    for (long site = 1;; site++) { /* fail each allocation of opening once */
        c = (counter){.fail_at = site};
        int status = llama_open(&m, folder, &o, &err);
        if (status == LLAMA_OK) break;
        check(status == LLAMA_ENOMEM && m == NULL && c.live == 0 && *err.text, "allocation %ld failed: %s", site, err.text);
    }
    printf("llama_open: %ld allocations, each failed once\n", c.calls);
    sc.fail_at = 1;
    check(llama_session_new(&s, m, &so, &err) == LLAMA_ENOMEM && s == NULL && sc.live == 0, "no memory for a session: %s", err.text);
    check(llama_session_new(&s, m, &so, &err) == LLAMA_OK && sc.live == 1, "a session is one allocation");
    uint64_t bytes = llama_session_bytes(m, &so);
    check(sc.bytes == bytes, "llama_session_bytes says %llu, it is %llu", (unsigned long long)bytes, (unsigned long long)sc.bytes);
    long calls = sc.calls;
    check(!llama_eval(s, 0, some, SOME) && llama_sample(s, 0, &(llama_sampler){.size = sizeof(llama_sampler), .temperature = 1}) >= 0 && sc.calls == calls, "eval and sample allocate nothing");
    for (long site = 1; site < 4; site++) {
        int32_t t[16];
        long live = c.live;
        c.calls = 0;
        c.fail_at = site;
        check(llama_text_to_tokens(m, "the king", 8, 0, t, 16) == LLAMA_ENOMEM && c.live == live, "text: allocation %ld", site);
    }
    llama_session_free(s);
    llama_close(m);
    check(c.live == 0 && sc.live == 0 && c.bytes == 0 && sc.bytes == 0, "all memory is given back");
}

/* An allocator that gives fresh pages, so that those that were touched can be counted. */
static void *page_alloc(void *user, size_t bytes, size_t align) {
    (void)align;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_NOHUGEPAGE);
    *(void **)user = p;
    return p;
}
static void page_free(void *user, void *p, size_t bytes) {
    (void)user;
    munmap(p, bytes);
}
static size_t touched(void *p, size_t bytes) { /* in bytes */
    enum { PAGES = 1 << 16, PAGE = 4096 };
    static unsigned char there[PAGES];
    size_t n = 0, pages = (bytes + PAGE - 1) / PAGE;
    for (size_t at = 0; at < pages; at += PAGES) {
        size_t now = pages - at < PAGES ? pages - at : PAGES;
        if (mincore((char *)p + at * PAGE, now * PAGE, there) != 0) return SIZE_MAX;
        for (size_t i = 0; i < now; i++) n += there[i] & 1;
    }
    return n * PAGE;
}

/* Memory is touched as it is used, whatever the context, the batch and the number of sequences. */
static void test_touched(void) {
    void *memory = NULL;
    llama_allocator a = {&memory, page_alloc, page_free};
    static const struct {
        int context, batch, sequences, all_logits;
    } sizes[] = {{1 << 20, 1 << 20, 1, 0}, {1 << 20, 256, 1, 0}, {1 << 16, 1 << 16, 8, 0}, {1 << 14, 1 << 14, 2, 1}, {64, 1 << 20, 1 << 10, 0}};
    if (sysconf(_SC_PAGESIZE) != 4096) { puts("SKIP: touched memory is counted in pages of 4096 bytes"); return; }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        llama_session_options o = {.size = sizeof o, .context = sizes[i].context, .batch = sizes[i].batch, .sequences = sizes[i].sequences,
                                   .all_logits = sizes[i].all_logits, .threads = 1, .allocator = &a};
        llama_session *s = NULL;
        llama_error err;
        if (llama_session_new(&s, model, &o, &err)) { printf("SKIP: %s\n", err.text); continue; }
        size_t bytes = (size_t)llama_session_bytes(model, &o), before = touched(memory, bytes);
        check(before < 1 << 20, "size %zu: a new session has touched %zu KB of %zu MB", i, before >> 10, bytes >> 20);
        check(llama_eval(s, 0, some, 4) == LLAMA_OK && llama_sample(s, 0, &(llama_sampler){.size = sizeof(llama_sampler)}) >= 0, "four tokens");
        check(touched(memory, bytes) < 4 << 20, "size %zu: four tokens have touched %zu KB of %zu MB", i, touched(memory, bytes) >> 10, bytes >> 20);
        llama_session_free(s);
    }
}

/* Whether the mapping that p is in has this flag in /proc/self/smaps; -1: nothing is said of it. */
static int mapping_has(const void *p, const char *flag) {
    FILE *f = fopen("/proc/self/smaps", "r");
    int has = -1;
    bool inside = false;
    for (char line[4096]; f && fgets(line, sizeof line, f);) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2) inside = (uintptr_t)p >= begin && (uintptr_t)p < end;
        if (inside && strncmp(line, "VmFlags:", 8) == 0) has = strstr(line, flag) != NULL;
    }
    if (f) fclose(f);
    return has;
}

/* A large page for each head would be all of the cache: its memory is touched as used. */
static void test_small_pages(void) {
    llama_session_options o = {.size = sizeof o, .context = 1 << 16, .threads = 1};
    llama_session *s = NULL;
    check(llama_session_bytes(model, &o) > 64 << 20, "a session of more than 64 MB");
    if (!check(llama_session_new(&s, model, &o, NULL) == LLAMA_OK, "a large session")) return;
    void *page = mmap(NULL, 1 << 16, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* to see whether advice is taken and told */
    if (page == MAP_FAILED || madvise(page, 1 << 16, MADV_NOHUGEPAGE) || mapping_has(page, " nh") != 1)
        puts("SKIP: the kernel does not say which memory is to have no large pages");
    else check(mapping_has(llama_tokens(s, 0), " nh") == 1, "the KV cache has no large pages");
    if (page != MAP_FAILED) munmap(page, 1 << 16);
    llama_session_free(s);
}

static const test_case cases[] = {
    CASE(golden), CASE(describe), CASE(newer_host), CASE(vectors), CASE(text), CASE(eval_refusals), CASE(errors), CASE(sequences), CASE(unchanged), CASE(continuation_errors), CASE(inside), CASE(all_logits), CASE(long),
    CASE(process), CASE(lock), CASE(long_paths), CASE(options), CASE(draft), CASE(changed_request), CASE(score), CASE(score_batch), CASE(progress), CASE(trace), CASE(trace_of_attention),
    CASE(float_mode), CASE(sampler), CASE(memory), CASE(touched), CASE(small_pages)};

int main(int argc, char **argv) {
    llama_error err;
    argc = tests_begin(argc, argv);
    folder = argc > 1 ? argv[1] : "tests/tiny";
    make_folder("build");
    if (!check(llama_open(&model, folder, NULL, &err) == LLAMA_OK, "%s", err.text)) return tests_done("api");
    check(*err.text == 0 && err.status == 0, "no error, no text");
    RUN(cases);
    llama_close(model);
    return tests_done("api");
}
