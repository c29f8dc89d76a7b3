/* texts.c - whole texts: many in one pass have the bits each has alone, and share what they have in common.
 *
 *   texts MODEL      a folder with a tokenizer: tests/tiny
 */
#include "../tools/test.h"
#include <fenv.h>

enum { MOST = 24, PROMPTS = 7, VOCAB = 1024 };

static llama *model;

static llama_session *session(int sequences, int context) {
    llama_session *s = NULL;
    llama_error err;
    llama_session_options o = {.size = sizeof o, .context = context, .sequences = sequences, .threads = 1};
    check(llama_session_new(&s, model, &o, &err) == LLAMA_OK, "session: %s", err.text);
    return s;
}

static const char *const words[PROMPTS] = {
    "There was once a poor woodcutter who lived with his wife", /* 0, 1 and 2 begin alike, by more than is worth a wait */
    "There was once a poor woodcutter who lived alone",
    "There was once a poor woodcutter who lived with his wife and",
    "The king",
    "",
    "The king", /* the same again */
    "A wolf came out of the dark wood, and said to the little girl",
};
static int32_t prompts[PROMPTS][64];
static size_t lengths[PROMPTS];

static void make_prompts(void) {
    for (int i = 0; i < PROMPTS; i++) {
        ptrdiff_t n = llama_text_to_tokens(model, words[i], strlen(words[i]), LLAMA_ADD_BOS, prompts[i], 64);
        check(n > 0 && n < 64, "prompt %d: %td tokens", i, n);
        lengths[i] = (size_t)n;
    }
}

/* What a text came to: its tokens, its bytes, a sum over all logits that were drawn from. */
typedef struct {
    int32_t tokens[MOST];
    size_t n, bytes, calls, ends;
    char text[MOST * 64];
    uint64_t sum;
    int finish_reason;
} result;

static uint64_t sum_logits(uint64_t sum, const float *logits) {
    for (int i = 0; i < VOCAB; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, sizeof bits);
        sum = (sum ^ bits) * 0x100000001b3;
    }
    return sum;
}

static void keep(result *r, const char *text, size_t n) {
    if (n) memcpy(r->text + r->bytes, text, n);
    r->bytes += n;
}

/* Prompt i with that seed, by llama_eval and llama_sample, alone. */
static result alone(int i, uint64_t seed, size_t most) {
    result r = {.finish_reason = LLAMA_FINISH_LENGTH};
    char text[LLAMA_TEXT_MAX];
    llama_sampler sampler = {.size = sizeof sampler, .temperature = 0.8f, .top_p = 0.95f, .seed = seed, .repeat_penalty = 1.1f};
    llama_decoder utf8 = {.started = *words[i] != 0};
    llama_session *s = session(1, 128);
    int status = llama_eval(s, 0, prompts[i], lengths[i]);
    while (status == LLAMA_OK && r.n < most) {
        r.sum = sum_logits(r.sum, llama_logits(s, 0));
        int32_t token = llama_sample(s, 0, &sampler);
        if (llama_is_end(model, token)) {
            r.finish_reason = LLAMA_FINISH_EOS;
            break;
        }
        r.tokens[r.n++] = token;
        keep(&r, text, llama_token_to_text(model, &utf8, token, text));
        status = llama_eval(s, 0, &token, 1);
    }
    keep(&r, text, llama_token_to_text(model, &utf8, LLAMA_FLUSH, text));
    check(status == LLAMA_OK, "alone: %s", llama_session_error(s));
    llama_session_free(s);
    return r;
}

static llama_session *talked; /* the session that on_text looks into */
static llama_request *first;     /* the first of all texts */
static int said;              /* what on_text is to say, to text number */
static size_t whom, when;     /* whom, at its call number */

static int on_text(void *user, llama_request *t, const char *text, size_t n) {
    result *r = (result *)user + (t - first);
    r->calls++;
    if (t->finish_reason) r->finish_reason = t->finish_reason, r->ends++;
    else {
        r->sum = sum_logits(r->sum, llama_logits(talked, t->seq));
        r->tokens[r->n++] = t->token;
        check(r->n == t->generated, "a call for each token: %zu, %zu", r->n, t->generated);
    }
    keep(r, text, n);
    return (size_t)(t - first) == whom && r->calls == when ? said : 0;
}

static llama_request text_of(int i, uint64_t seed, size_t most) {
    return (llama_request){.prompt = prompts[i],
                        .n_prompt = lengths[i],
                        .max_tokens = most,
                        .utf8.started = *words[i] != 0,
                        .sampler = {.size = sizeof(llama_sampler), .temperature = 0.8f, .top_p = 0.95f, .seed = seed, .repeat_penalty = 1.1f}};
}

static int generate(llama_session *s, llama_request *texts, size_t n, result *r) {
    talked = s;
    first = texts;
    return llama_generate(s, texts, n, on_text, r);
}

static bool same(const result *a, const result *b) {
    return a->n == b->n && memcmp(a->tokens, b->tokens, a->n * sizeof *a->tokens) == 0 && a->sum == b->sum && a->finish_reason == b->finish_reason &&
           a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
}

/* Each of fourteen texts, of unequal lengths, is what it is alone: with any number of sequences, in any order, and again in a
 * session that has made texts before. */
static void test_bits(void) {
    enum { TEXTS = 2 * PROMPTS };
    static result want[TEXTS];
    for (int i = 0; i < TEXTS; i++) want[i] = alone(i % PROMPTS, (uint64_t)(i / PROMPTS + 3), (size_t)(MOST - i));
    static const int counts[] = {1, 2, 3, 14, 70};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        llama_session *s = session(counts[c], 128);
        for (int turn = 0; turn < 3; turn++) { /* forward, again, backward */
            llama_request texts[TEXTS];
            static result got[TEXTS];
            memset(got, 0, sizeof got);
            for (int i = 0; i < TEXTS; i++) {
                int k = turn == 2 ? TEXTS - 1 - i : i;
                texts[i] = text_of(k % PROMPTS, (uint64_t)(k / PROMPTS + 3), (size_t)(MOST - k));
            }
            check(generate(s, texts, TEXTS, got) == LLAMA_OK, "%d sequences: %s", counts[c], llama_session_error(s));
            for (int i = 0; i < TEXTS; i++) {
                int k = turn == 2 ? TEXTS - 1 - i : i;
                check(same(&want[k], &got[i]) && got[i].ends == 1, "%d sequences, turn %d: text %d", counts[c], turn, k);
                check(texts[i].finish_reason == got[i].finish_reason && texts[i].generated == got[i].n, "what is told of text %d", k);
            }
        }
        llama_session_free(s);
    }
}

/* How many tokens the last llama_eval of the session's calls had: by its progress. */
static uint64_t evaluated;
static int count_tokens(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)what;
    if (done == 0) evaluated += total / 4; /* layers x tokens */
    return 0;
}

/* Samples of one prompt evaluate it once; prompts that begin alike, their beginning. */
static void test_shared(void) {
    llama_session *s = NULL;
    llama_session_options o = {.size = sizeof o, .context = 128, .sequences = 8, .threads = 1, .progress = count_tokens};
    check(llama_session_new(&s, model, &o, NULL) == LLAMA_OK, "session");
    llama_request texts[5];
    static result got[5];
    for (int i = 0; i < 5; i++) texts[i] = text_of(6, (uint64_t)i, 1);
    evaluated = 0;
    check(generate(s, texts, 5, got) == LLAMA_OK, "five samples");
    check(evaluated == lengths[6], "five samples evaluate the prompt once: %d tokens, not %zu", (int)evaluated, lengths[6]);
    for (int i = 1; i < 5; i++) check(texts[i].cached_tokens == lengths[6], "sample %d knows its prompt: %zu", i, texts[i].cached_tokens);
    memset(got, 0, sizeof got);
    for (int i = 0; i < 3; i++) texts[i] = text_of(i, 1, 1);
    size_t alike = 0;
    while (prompts[0][alike] == prompts[1][alike]) alike++;
    evaluated = 0;
    check(generate(s, texts, 3, got) == LLAMA_OK, "three prompts");
    check(texts[1].cached_tokens == alike && evaluated <= lengths[0] + (lengths[1] - alike) + (lengths[2] - alike), "the beginning once: %d tokens", (int)evaluated);
    evaluated = 0;
    memset(got, 0, sizeof got);
    texts[0] = text_of(2, 1, 1);
    check(generate(s, texts, 1, got) == LLAMA_OK && texts[0].cached_tokens >= lengths[2] - 1 && evaluated <= 1, "it still stands: %zu of %zu", texts[0].cached_tokens, lengths[2]);
    llama_session_free(s);
}

/* Users who take turns, more sequences than users: the text of each stays in the KV cache. */
static void test_turns(void) {
    enum { USERS = 3, TURNS = 3 };
    llama_session *s = session(USERS + 1, 128);
    int32_t history[USERS][128];
    size_t n[USERS];
    for (int u = 0; u < USERS; u++) memcpy(history[u], prompts[u], (n[u] = lengths[u]) * sizeof *history[u]);
    for (int turn = 0; turn < TURNS; turn++)
        for (int u = 0; u < USERS; u++) {
            static result got[1];
            memset(got, 0, sizeof got);
            llama_request t = text_of(u, 1, 3);
            size_t before = n[u] - (turn ? 2 : 0); /* the last token was drawn, not evaluated; the next is the user's */
            t.prompt = history[u], t.n_prompt = n[u];
            check(generate(s, &t, 1, got) == LLAMA_OK && (turn == 0 || t.cached_tokens >= before), "user %d, turn %d: %zu of %zu cached", u, turn, t.cached_tokens, n[u]);
            memcpy(history[u], llama_tokens(s, t.seq), llama_length(s, t.seq) * sizeof *history[u]);
            n[u] = llama_length(s, t.seq);
            history[u][n[u]++] = t.token, history[u][n[u]++] = prompts[u][1];
        }
    llama_session_free(s);
}

/* What the host says: this text ends here; or all does. */
static void test_said(void) {
    llama_session *s = session(2, 128);
    llama_request texts[3];
    static result got[3];
    result want = alone(0, 3, MOST);
    for (int turn = 0; turn < 2; turn++) {
        memset(got, 0, sizeof got);
        for (int i = 0; i < 3; i++) texts[i] = text_of(i ? 3 : 0, 3, MOST);
        said = turn ? -77 : 1, whom = 0, when = 4;
        int status = generate(s, texts, 3, got);
        check(status == (turn ? -77 : LLAMA_OK), "the code is passed on: %d", status);
        check(got[0].n == 4 && memcmp(got[0].tokens, want.tokens, 4 * sizeof(int32_t)) == 0, "four tokens, %zu", got[0].n);
        check(texts[0].finish_reason == (turn ? LLAMA_FINISH_NONE : LLAMA_FINISH_STOP) && got[0].ends == !turn, "told: %d", texts[0].finish_reason);
        if (!turn) check(got[1].n == MOST && got[2].n == MOST && got[2].finish_reason == LLAMA_FINISH_LENGTH, "the others go on");
    }
    said = 0;
    memset(got, 0, sizeof got);
    texts[0] = text_of(0, 3, 0);
    check(generate(s, texts, 1, got) == LLAMA_OK && got[0].n == 0 && got[0].calls == 1 && texts[0].finish_reason == LLAMA_FINISH_LENGTH, "no token wanted");
    check(llama_length(s, texts[0].seq) == lengths[0] && llama_logits(s, texts[0].seq), "its prompt is evaluated");
    static float bias[VOCAB];
    bias[2] = 1e30f;
    memset(got, 0, sizeof got);
    texts[0] = text_of(0, 3, 5), texts[0].sampler.bias = bias;
    check(generate(s, texts, 1, got) == LLAMA_OK && got[0].n == 0 && texts[0].finish_reason == LLAMA_FINISH_EOS, "</s> ends it");
    bias[2] = 0, bias[3 + 0xe2] = 1e30f; /* the first of three bytes */
    for (int turn = 0; turn < 2; turn++) {
        memset(got, 0, sizeof got);
        texts[0] = text_of(0, 3, 1), texts[0].sampler.bias = bias;
        said = turn, whom = 0, when = 1;
        int status = generate(s, texts, 1, got);
        check(status == LLAMA_OK && got[0].calls == 2 && got[0].bytes == (turn ? 0 : 3), "half a character at the end is shown, behind a stop it is not: %zu bytes", got[0].bytes);
    }
    said = 0;
    texts[0] = text_of(0, 3, 5), texts[0].sampler.temperature = -1;
    check(generate(s, texts, 1, got) == LLAMA_EINVAL && strstr(llama_session_error(s), "sampler"), "a bad sampler: %s", llama_session_error(s));
    texts[0] = text_of(0, 3, 5); /* what was told of an earlier text is not taken for this one's */
    for (int turn = 0; turn < 3; turn++) {
        memset(got, 0, sizeof got);
        if (turn == 2) texts[0].generated = 9;
        texts[0].utf8 = (llama_decoder){.started = 1};
        check(generate(s, texts, 1, got) == LLAMA_OK && got[0].n == 5 && got[0].ends == 1 && memcmp(got[0].tokens, want.tokens, 5 * sizeof(int32_t)) == 0,
              "again, %d: %zu tokens, %zu ends", turn, got[0].n, got[0].ends);
    }
    llama_fork(s, 0, 7); /* an older error */
    check(llama_generate(s, NULL, 1, on_text, got) == LLAMA_EINVAL && strstr(llama_session_error(s), "the requests are NULL"), "says why: %s", llama_session_error(s));
    check(llama_generate(NULL, texts, 1, on_text, got) == LLAMA_EINVAL && llama_generate(s, texts, 1, NULL, got) == LLAMA_EINVAL, "refused");
    check(strstr(llama_session_error(s), "the callback is NULL") != NULL, "says why: %s", llama_session_error(s));
    texts[0] = text_of(0, 3, 5), texts[0].prompt = NULL; /* where a sequence has tokens to compare it with */
    check(llama_length(s, 0) > 0 && generate(s, texts, 1, got) == LLAMA_EINVAL && strstr(llama_session_error(s), "request 0"), "a prompt that is not given");
    check(llama_generate(s, NULL, 0, on_text, got) == LLAMA_OK && !*llama_session_error(s), "no texts, and no error is left");
    texts[0] = text_of(0, 3, 5), texts[1] = text_of(0, 3, 5), texts[1].n_prompt = 0; /* no token to draw from */
    memset(got, 0, sizeof got);
    check(generate(s, texts, 2, got) == LLAMA_EINVAL && strstr(llama_session_error(s), "request 1") && got[0].calls == 0, "an empty prompt: %s", llama_session_error(s));
    said = -77, whom = 0, when = 2;
    memset(got, 0, sizeof got);
    check(generate(s, texts, 1, got) == -77 && strstr(llama_session_error(s), "callback returned -77") && texts[0].generated == 2 && texts[0].finish_reason == LLAMA_FINISH_NONE,
          "the callback's code: %s", llama_session_error(s));
    said = 0;
    llama_session_free(s);
    s = session(1, 20);
    size_t room = 20 - lengths[3] + 1;
    memset(got, 0, sizeof got);
    texts[0] = text_of(3, 3, room);
    check(generate(s, texts, 1, got) == LLAMA_OK && got[0].n == room && llama_length(s, 0) == 20, "the context may be filled: %zu", got[0].n);
    texts[0] = text_of(3, 3, room + 1);
    memset(got, 0, sizeof got);
    check(generate(s, texts, 1, got) == LLAMA_EFULL && got[0].calls == 0 && llama_length(s, 0) == 20 && strstr(llama_session_error(s), "request 0: "), "and not more: %s",
          llama_session_error(s));
    llama_session_free(s);
}

/* llama_prefill: the logits of the tokens, whatever stood there. */
static void test_prompt(void) {
    llama_session *s = NULL, *plain = session(1, 128);
    llama_session_options o = {.size = sizeof o, .context = 128, .sequences = 2, .threads = 1, .progress = count_tokens};
    check(llama_session_new(&s, model, &o, NULL) == LLAMA_OK, "session");
    static const int order[] = {0, 2, 1, 0, 0, 4, 6, 3, 5};
    int before = -1;
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        int i = order[k];
        size_t alike = 0;
        while (before >= 0 && alike < lengths[i] && alike < lengths[before] && prompts[i][alike] == prompts[before][alike]) alike++;
        bool there = before >= 0 && alike == lengths[i] && alike == lengths[before];
        evaluated = 0;
        check(llama_prefill(s, 1, prompts[i], lengths[i]) == LLAMA_OK, "prompt %d: %s", i, llama_session_error(s));
        llama_rewind(plain, 0, 0);
        check(llama_eval(plain, 0, prompts[i], lengths[i]) == LLAMA_OK, "plain");
        check(sum_logits(0, llama_logits(s, 1)) == sum_logits(0, llama_logits(plain, 0)), "prompt %d after %d: the same logits", i, before);
        size_t want = there ? 0 : lengths[i] - (alike == lengths[i] ? alike - 1 : alike);
        check(evaluated == want, "prompt %d after %d: %d tokens evaluated, not %zu", i, before, (int)evaluated, want);
        before = i;
    }
    check(llama_length(s, 0) == 0, "the other sequence is left alone");
    int32_t bad[] = {1, VOCAB};
    check(llama_prefill(s, 1, bad, 2) == LLAMA_EINVAL && llama_length(s, 1) == lengths[5], "a bad token: nothing has changed");
    check(llama_prefill(s, 2, bad, 1) == LLAMA_EINVAL && llama_prefill(NULL, 0, bad, 1) == LLAMA_EINVAL && llama_prefill(s, 0, NULL, 1) == LLAMA_EINVAL, "refused");
    check(llama_prefill(s, 1, NULL, 0) == LLAMA_OK && llama_length(s, 1) == 0, "no tokens");
    llama_session_free(s), llama_session_free(plain);
}

/* ---- Endings ---- */

/* By the rule, in the slowest way: the context's own tokens, then what the whole has behind as many. */
static llama_continuation plainly(const char *context, const char *ending) {
    static int32_t own[256], all[256];
    llama_continuation e = {context, ending, strlen(context), strlen(ending), 0, 0, 0, 1};
    char whole[512];
    size_t bare = e.n_context;
    float logprob;
    llama_token_logprob best;
    snprintf(whole, sizeof whole, "%s%s", context, ending);
    if (bare && strchr(" \t\x1c", context[bare - 1])) bare = strcspn(context, "\t\xc2"); /* of those below: these begin it, or */
    while (bare && context[bare - 1] == ' ') bare--;
    ptrdiff_t given = llama_text_to_tokens(model, context, bare, LLAMA_ADD_BOS, own, 256);
    ptrdiff_t n = llama_text_to_tokens(model, whole, strlen(whole), LLAMA_ADD_BOS, all, 256);
    if (given >= n) given = n - 1, memcpy(own, all, sizeof own);
    llama_session *s = session(1, 256);
    llama_eval(s, 0, own, (size_t)given);
    for (ptrdiff_t i = given; i < n; i++) {
        e.greedy = e.greedy && (i == 0 || (llama_top_logprobs(s, 0, &best, 1) == 1 && best.token == all[i]));
        llama_score(s, 0, &all[i], 1, &logprob);
        e.logprob += (double)logprob;
    }
    e.given = (size_t)given, e.tokens = (size_t)(n - given);
    llama_session_free(s);
    return e;
}

static void test_endings(void) {
    static const char *const texts[][2] = {
        {"There was once a king", " who had a daughter"}, {"There was once a king", " of"}, {"There was once a king", "s and queens"},
        {"There was once a king ", "who had a daughter"}, {"There was once a king\t\n \t", " who"}, {"", "There was"}, {"", ""}, {"A", ""},
        {"A wolf ", ""}, {"Once upon a ti", "me"}, {"Once upon a ti", "me there was"}, {"Answer:", " caf\xc3\xa9"}, {"There was once a king", " xylophone \xff\xfe"},
        {"There was once a king", " who had a daughter"}, {"The", "re"}, {"Once upon a", " time"}, {"Once upon a time\xc2\xa0\xe3\x80\x80\x1c", "was"}, {"A\xe2\x80\x8b\xa0", "b"},
    };
    enum { TEXTS = sizeof texts / sizeof *texts };
    llama_continuation want[TEXTS], e[TEXTS];
    int greedy = 0, joined = 0;
    for (int i = 0; i < TEXTS; i++) {
        want[i] = plainly(texts[i][0], texts[i][1]);
        greedy += want[i].greedy && want[i].given, joined += want[i].tokens == 1 && texts[i][0][0];
    }
    check(greedy > 0 && joined > 1, "there are endings as greedy decoding writes them, and such that fall into the context");
    for (int sequences = 3; sequences < 80; sequences = sequences * 2 + 1) {
        llama_session *s = session(sequences, 64);
        for (int again = 0; again < 2; again++) {
            for (int i = 0; i < TEXTS; i++)
                e[i] = (llama_continuation){texts[i][0], texts[i][1], strlen(texts[i][0]), strlen(texts[i][1]), 99, 99, 99, 99};
            bool counted = again && sequences == 3;
            check((counted ? llama_count_continuation(model, e, TEXTS) : llama_loglikelihood(s, e, TEXTS)) == LLAMA_OK, "endings: %s", llama_session_error(s));
            for (int i = 0; i < TEXTS; i++) {
                check(e[i].given == want[i].given && e[i].tokens == want[i].tokens, "'%s|%s': %zu and %zu tokens, not %zu and %zu", texts[i][0],
                      texts[i][1], e[i].given, e[i].tokens, want[i].given, want[i].tokens);
                if (counted) check(e[i].logprob == 99 && e[i].greedy == 99, "they are only counted");
                else
                    check(e[i].logprob == want[i].logprob && e[i].greedy == want[i].greedy, "'%s|%s' of %d: %.9g, %d, not %.9g, %d", texts[i][0],
                          texts[i][1], sequences, e[i].logprob, e[i].greedy, want[i].logprob, want[i].greedy);
            }
        }
        llama_session_free(s);
    }
    llama_session *two = session(2, 64), *small = session(3, 5);
    check(llama_count_continuation(NULL, e, 1) == LLAMA_EINVAL && llama_count_continuation(model, NULL, 1) == LLAMA_EINVAL && llama_count_continuation(model, NULL, 0) == LLAMA_OK &&
              llama_loglikelihood(NULL, e, 1) == LLAMA_EINVAL && llama_loglikelihood(two, NULL, 1) == LLAMA_EINVAL && llama_loglikelihood(two, e, 1) == LLAMA_EINVAL, "refused");
    check(strstr(llama_session_error(two), "3 sequences") != NULL, "says why: %s", llama_session_error(two));
    llama_continuation bad = {.context = NULL, .n_context = 3, .ending = "x", .n_ending = 1}, bad_too = {.context = "x", .n_context = 1, .n_ending = 1};
    check(llama_count_continuation(model, &bad, 1) == LLAMA_EINVAL && llama_count_continuation(model, &bad_too, 1) == LLAMA_EINVAL, "texts that are not there");
    check(llama_loglikelihood(small, &bad, 1) == LLAMA_EINVAL && strstr(llama_session_error(small), "is NULL"), "says which: %s", llama_session_error(small));
    llama_session *more = session(8, 64);
    llama_continuation down[TEXTS]; /* the host's rounding is not the sums' */
    for (int i = 0; i < TEXTS; i++) down[i] = want[i];
    fesetround(FE_UPWARD);
    check(llama_loglikelihood(more, down, TEXTS) == LLAMA_OK && fegetround() == FE_UPWARD, "a host that rounds upward");
    fesetround(FE_TONEAREST);
    for (int i = 0; i < TEXTS; i++) check(down[i].logprob == want[i].logprob, "rounding upward, %d: %.17g, not %.17g", i, down[i].logprob, want[i].logprob);
    llama_session_free(more);
    check(llama_loglikelihood(small, e, 1) == LLAMA_EFULL && *llama_session_error(small), "more than the context");
    check(llama_loglikelihood(small, NULL, 0) == LLAMA_OK && !*llama_session_error(small), "none, and no error is left");
    llama_session_free(two), llama_session_free(small);
}

/* A context is evaluated once for the endings that have it, and another beside it is kept. */
static void test_contexts(void) {
    llama_session *s = NULL;
    llama_session_options o = {.size = sizeof o, .context = 64, .sequences = 6, .threads = 1, .progress = count_tokens};
    check(llama_session_new(&s, model, &o, NULL) == LLAMA_OK, "session");
    for (int k = 0; k < 3; k++) {
        char context[64];
        snprintf(context, sizeof context, "%s was once a king", k == 0 ? "There" : k == 1 ? "Here" : "Where");
        llama_continuation e[6];
        for (int i = 0; i < 6; i++) {
            e[i] = (llama_continuation){.context = i % 2 ? "Answer:" : context, .ending = " in Spain", .n_ending = 9};
            e[i].n_context = strlen(e[i].context);
        }
        evaluated = 0;
        check(llama_loglikelihood(s, e, 6) == LLAMA_OK, "endings: %s", llama_session_error(s));
        size_t want = e[0].given + (k == 0 ? e[1].given : 0) + 3 * (e[0].tokens + e[1].tokens);
        check(evaluated == want, "%d: %d tokens evaluated, not %zu", k, (int)evaluated, want);
    }
    llama_session_free(s);
}

/* Contexts that begin alike, in groups and batches of every size: each score as alone. After a call that was
 * cancelled at any moment, too. */
static int cancel_at, calls;
static int cancel_later(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)what, (void)done, (void)total;
    return calls++ == cancel_at;
}
static void test_groups(void) {
    static const char *const begins[] = {"", "There was once a poor woodcutter who lived with his wife. ", "There was once a king"};
    static const char *const contexts[] = {"The king", "A wolf came", "There was once a king who had a daughter"}, *const endings[] = {" and", " had a daughter", ", who was old", "s"};
    enum { N = 36 };
    char text[N][128];
    llama_continuation want[N], e[N], fresh[N];
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "%s%s", begins[i % 3], contexts[i / 3 % 3]);
        want[i] = plainly(text[i], endings[(i * 7 + i / 9) % 4]);
        fresh[i] = (llama_continuation){want[i].context, want[i].ending, want[i].n_context, want[i].n_ending, 0, 0, 0, 0};
    }
    static const struct { int sequences, batch, all_logits; } cases[] = {{3, 2, 0}, {5, 16, 1}, {20, 7, 0}, {38, 256, 0}, {66, 64, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        llama_session *s = NULL;
        llama_session_options o = {.size = sizeof o, .context = 64, .sequences = cases[c].sequences, .threads = 1 + (int)c % 2, .batch = cases[c].batch,
                                   .all_logits = cases[c].all_logits, .progress = cancel_later};
        check(llama_session_new(&s, model, &o, NULL) == LLAMA_OK, "session");
        int all = 0; /* calls of the progress function, when none cancels */
        for (int round = 0; round < 6; round++) {
            cancel_at = round % 2 ? all * round / 6 : -1;
            calls = 0;
            memcpy(e, fresh, sizeof e);
            int status = llama_loglikelihood(s, e, N);
            if (round == 0) all = calls;
            check(status == (cancel_at < 0 || calls <= cancel_at ? LLAMA_OK : LLAMA_ECANCEL), "case %zu, round %d: %d", c, round, status);
            for (int i = 0; i < N && status == LLAMA_OK; i++)
                check(e[i].logprob == want[i].logprob && e[i].greedy == want[i].greedy && e[i].given == want[i].given && e[i].tokens == want[i].tokens,
                      "case %zu, round %d, %d: %.9g, not %.9g", c, round, i, e[i].logprob, want[i].logprob);
        }
        llama_session_free(s);
    }
}

static void test_stop(void) {
    static const struct {
        const char *text, *stops[3];
        size_t at, keep;
    } cases[] = {
        {"", {"ab"}, 0, 0},         {"xab", {"ab"}, 1, 0},         {"xa", {"ab"}, 2, 1},          {"xabab", {"ab"}, 1, 0},   {"aab", {"aab", "ab"}, 0, 0},
        {"xab", {"b", "ab"}, 1, 0}, {"aaa", {"aaaab"}, 3, 3},      {"abcabd", {"abcabe"}, 6, 0}, {"xabcab", {"abcx"}, 6, 2}, {"aXab", {"abc", "b"}, 3, 2},
        {"abc", {"zz"}, 3, 0},      {"a\nb", {"\n", "b"}, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0, keep = 99, at;
        while (n < 3 && cases[i].stops[n]) n++;
        check(llama_find_stop(cases[i].text, strlen(cases[i].text), cases[i].stops, n, NULL) == cases[i].at, "stop %zu, nothing to keep", i);
        at = llama_find_stop(cases[i].text, strlen(cases[i].text), cases[i].stops, n, &keep);
        check(at == cases[i].at && keep == cases[i].keep, "stop in '%s': at %zu, keep %zu", cases[i].text, at, keep);
    }
}

/* The function in llama.h that ends a text at a stop text. */
static char all[4096];
static size_t n_all, shown;
static const char *stops[] = {"@@", NULL};
static int stop_at(void *user, llama_request *request, const char *text, size_t n) {
    (void)user;
    memcpy(all + n_all, text, n), n_all += n;
    size_t keep, at = llama_find_stop(all + shown, n_all - shown, stops, 2, &keep);
    int found = at < n_all - shown;
    shown += found || request->finish_reason ? at : at - keep; /* all of it up to there is shown */
    if (found) n_all = shown;
    return found;
}

static void test_stop_texts(void) {
    llama_session *s = session(1, 128);
    result whole = alone(0, 3, MOST);
    for (size_t begin = 0; begin + 5 <= whole.bytes; begin++)
        for (size_t n = 1; n < 5; n++) { /* each piece of the text as a stop text */
            char stop[8] = "";
            size_t at = 0;
            memcpy(stop, whole.text + begin, n), stops[1] = stop;
            while (memcmp(whole.text + at, stop, n) != 0) at++;
            n_all = shown = 0;
            llama_request r = text_of(0, 3, MOST);
            int status = llama_generate(s, &r, 1, stop_at, NULL);
            check(status == LLAMA_OK && r.finish_reason == LLAMA_FINISH_STOP && shown == at && memcmp(all, whole.text, at) == 0, "stop at '%s': %zu bytes, not %zu", stop, shown, at);
            if (begin % 5) break;
        }
    check(llama_find_stop(NULL, 0, NULL, 0, NULL) == 0 && llama_find_stop("ab", 2, NULL, 0, NULL) == 2 && llama_find_stop("ab", 2, (const char *[]){""}, 1, NULL) == 0,
          "nothing to find, nothing to find it in, an empty stop text");
    llama_session_free(s);
}

static void test_utf8(void) {
    check(llama_utf8_next("\xc3\xa9", 2, NULL) == 2 && llama_utf8_next("\xc3", 1, NULL) == 1, "the length alone");
    static const struct {
        const char *text;
        size_t n, length;
        int32_t number;
    } cases[] = {
        {"a", 1, 1, 'a'},
        {"\0", 1, 1, 0},
        {"\x7f", 1, 1, 0x7f},
        {"\xc3\xa9", 2, 2, 0xe9},
        {"\xc3\xa9", 1, 1, -1},
        {"\xe2\x82\xac!", 4, 3, 0x20ac},
        {"\xf0\x9f\x99\x82", 4, 4, 0x1f642},
        {"\xf0\x9f\x99\x82", 3, 1, -1},
        {"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff},
        {"\xf4\x90\x80\x80", 4, 1, -1},
        {"\xed\xa0\x80", 3, 1, -1},
        {"\xc0\x80", 2, 1, -1},
        {"\xe0\x80\x80", 3, 1, -1},
        {"\x80", 1, 1, -1},
        {"\xff", 1, 1, -1},
        {"\xc3(", 2, 1, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t number = 99;
        size_t length = llama_utf8_next(cases[i].text, cases[i].n, &number);
        check(length == cases[i].length && number == cases[i].number, "character %zu: %zu bytes, %d", i, length, (int)number);
    }
    static const int32_t act[] = {-1, 0, '\n', 27, 31, 127, 0x80, 0x9b, 0x9f, 0x61c, 0x200e, 0x200f, 0x202a, 0x202e, 0x2066, 0x2069};
    static const int32_t show[] = {' ', '~', 0xa0, 0xe9, 0x61b, 0x200d, 0x2010, 0x2029, 0x202f, 0x2065, 0x206a, 0x1f642};
    for (size_t i = 0; i < sizeof act / sizeof *act; i++) check(llama_is_control(act[i]) == 1, "%x acts", (unsigned)act[i]);
    for (size_t i = 0; i < sizeof show / sizeof *show; i++) check(llama_is_control(show[i]) == 0, "%x is shown", (unsigned)show[i]);
}

static const test_case cases[] = {
    CASE(bits), CASE(shared), CASE(turns), CASE(said), CASE(prompt), CASE(endings), CASE(contexts), CASE(groups), CASE(stop), CASE(stop_texts), CASE(utf8)};

int main(int argc, char **argv) {
    llama_error err;
    argc = tests_begin(argc, argv);
    if (!check(llama_open(&model, argc > 1 ? argv[1] : "tests/tiny", NULL, &err) == LLAMA_OK, "%s", err.text)) return tests_done("texts");
    make_prompts();
    RUN(cases);
    llama_close(model);
    return tests_done("texts");
}
