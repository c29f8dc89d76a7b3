/* guesses.c - the draw, and what it makes possible: guessed tokens that are checked together change no byte.
 *
 *   guesses MODEL WORKDIR [--cases N]     MODEL: a folder with a tokenizer, tests/tiny. N: random cases of verify
 */
#include "../tools/checkpoint.h"
#include <fenv.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char work[1024];
static const char *folder;
static llama *tiny;

static const char *in_work(const char *name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", work, name);
    return path;
}

/* ---- The clock ---- */

/* The library's clock: this function comes before libc's. While it is faked, a look at it takes a microsecond, and a pass
 * takes what take_time says: what is guessed then follows from the test alone, however busy the machine is. */
static atomic_bool clock_faked;
static atomic_uint_least64_t fake_time; /* ns */
int clock_gettime(clockid_t which, struct timespec *t) {
    if (!clock_faked) return (int)syscall(SYS_clock_gettime, which, t);
    uint64_t now = atomic_fetch_add(&fake_time, 1000) + 1000;
    *t = (struct timespec){.tv_sec = (time_t)(now / 1000000000), .tv_nsec = (long)(now % 1000000000)};
    return 0;
}

/* How long passes take, in ms, and what they came to. */
enum { SLOWER = 100, NOTED = 64 };
typedef struct {
    double one, more;         /* a pass of the model with one row; each row more */
    double draft;             /* a pass of a draft model, which has fewer layers than LAYERS */
    bool random;              /* passes of the model take 1 to 5 times as long, by their rows */
    size_t slow, slow_draft;  /* number of the pass that takes SLOWER times as long, from 1 on; 0: none */
    size_t passes, drafts;    /* result: passes of texts of the model, of a draft model */
    double time;              /* result: of both */
    size_t guessed[NOTED], n; /* result: the numbers of the first passes with more than one row */
} pass_cost;
static const pass_cost EQUAL = {.one = 1, .draft = 0.05}, BY_TOKENS = {.one = 1, .more = 1, .draft = 0.05}, AT_RANDOM = {.one = 1, .draft = 0.05, .random = true};

/* Let the time of a pass go by, at its end; cancel at a call. A progress function; *user: a pass_cost. */
enum { LAYERS = 7 };
static size_t progress_calls, cancel_at;
static int take_time(void *user, const char *what, uint64_t done, uint64_t total) {
    static int calls;
    pass_cost *c = user;
    calls = done == 0 ? 0 : calls + 1;
    if (done == total && strcmp(what, "text") == 0) {
        size_t rows = (size_t)total / LAYERS;
        bool draft = calls < LAYERS;
        double time = draft ? c->draft : (c->one + c->more * (double)(rows - 1)) * (c->random ? (double)(1 + rows * 7 % 5) : 1);
        if (draft ? ++c->drafts == c->slow_draft : ++c->passes == c->slow) time *= SLOWER;
        if (!draft && rows > 1 && c->n < NOTED) c->guessed[c->n++] = c->passes;
        c->time += time;
        fake_time += (uint64_t)(time * 1e6);
    }
    return ++progress_calls == cancel_at;
}

/* ---- Random numbers, sessions, models ---- */

/* Return one of the next random numbers: splitmix64. */
static uint64_t random_state;
static uint64_t next_random(void) {
    uint64_t x = random_state += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}
static size_t below(size_t n) { return (size_t)(next_random() % n); }
static float between(float a, float b) { return a + (b - a) * (float)(next_random() >> 40) * 0x1p-24f; }

static llama_session *session(const llama *m, llama_session_options o) {
    llama_session *s = NULL;
    llama_error err;
    o.size = sizeof o;
    o.allocator = &dirty;
    if (!o.threads) o.threads = 1;
    if (!check(llama_session_new(&s, m, &o, &err) == LLAMA_OK, "session: %s", err.text)) exit(tests_done("guesses"));
    return s;
}

static llama *open_model(const char *path, const llama_options *o) {
    llama *m = NULL;
    llama_error err;
    if (!check(llama_open(&m, path, o, &err) == LLAMA_OK, "%s: %s", path, err.text)) exit(tests_done("guesses"));
    return m;
}

/* ---- The draw ---- */

/* A model whose logits are all 0: the sampler's bias is the distribution, at every position. */
enum { EVEN = 16 };
static llama *even_model(void) {
    static const model_spec spec = {.dim = 16, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 16, .vocab = EVEN, .shards = 1, .zero_output = true};
    model_write(&spec, in_work("even"));
    return open_model(in_work("even"), NULL);
}

/* Whether the counts are those of n draws from p[kinds]. */
static void fits(const double *p, const size_t *counts, size_t kinds, size_t n, const char *what) {
    double x = 0;
    size_t degrees = 0;
    for (size_t i = 0; i < kinds; i++) {
        double want = p[i] * (double)n, off = (double)counts[i] - want;
        if (p[i] == 0) check(counts[i] == 0, "%s: %zu of probability 0 is drawn", what, i);
        else x += off * off / want, degrees++;
    }
    double chance = chi_square_p(x, (double)degrees - 1);
    check(chance > 1e-4, "%s: chi-square %.1f of %zu", what, x, degrees - 1);
    printf("%s: chi-square %.1f of %zu, p %.4f\n", what, x, degrees - 1, chance);
}

/* A million draws: 500 positions with 2,000 seeds each. */
enum { POSITIONS = 500, SEEDS = 2000 };
static unsigned char drawn[POSITIONS][SEEDS];

static void draw_all(llama_session *s, llama_sampler o, size_t positions, uint64_t step) {
    llama_rewind(s, 0, 0);
    for (size_t t = 0; t < positions; t++) {
        check(llama_eval(s, 0, &(int32_t){(int32_t)(t % EVEN)}, 1) == LLAMA_OK, "eval: %s", llama_session_error(s));
        for (size_t k = 0; k < SEEDS; k++) {
            o.seed = (uint64_t)k * step;
            int32_t token = llama_sample(s, 0, &o);
            if (token < 0 || token >= EVEN) {
                check(false, "token %d: %s", (int)token, llama_session_error(s));
                exit(tests_done("guesses"));
            }
            drawn[t][k] = (unsigned char)token;
        }
    }
}

/* Whether the draws that are so many positions and seeds apart know nothing of each other: chi-square of the table of
 * pairs, against the products of its rows' and columns' sums. */
static void independent(size_t kinds, size_t positions, size_t dt, int dk) {
    static size_t counts[EVEN][EVEN];
    size_t rows[EVEN] = {0}, columns[EVEN] = {0}, n = 0;
    memset(counts, 0, sizeof counts);
    for (size_t t = 0; t + dt < positions; t++)
        for (int k = dk < 0 ? -dk : 0; k < SEEDS && k + dk < SEEDS; k++, n++) {
            int a = drawn[t][k], b = drawn[t + dt][k + dk];
            counts[a][b]++, rows[a]++, columns[b]++;
        }
    double x = 0, degrees = (double)((kinds - 1) * (kinds - 1));
    for (size_t a = 0; a < kinds; a++)
        for (size_t b = 0; b < kinds; b++) {
            double want = (double)rows[a] * (double)columns[b] / (double)n, off = (double)counts[a][b] - want;
            x += off * off / want;
        }
    check(chi_square_p(x, degrees) > 1e-4, "pairs %zu positions, %d seeds apart: chi-square %.1f of %.0f", dt, dk, x, degrees);
}

static void test_draw(void) {
    llama *m = even_model();
    llama_session *s = session(m, (llama_session_options){.context = POSITIONS});
    static const struct {
        const char *name;
        int kinds;        /* tokens that are not forbidden */
        float steep, top; /* logits: -steep * id, and `top` more for token 0 */
        size_t positions; /* with SEEDS draws each */
        uint64_t step;    /* from one seed to the next */
        const char *sum;  /* SHA-256 of all draws, which are the same on every machine */
    } shapes[] = {{"eight tokens", 8, 0.45f, 0, POSITIONS, 1, "66ec9739f208f2e05096c2ca9f0415965eed9c1fd73cffb2c82a9f0ab294dc3c"},
                  {"even", EVEN, 0, 0, 50, 0x9e3779b97f4a7c15, "13be9f38503cae2a3ddd1eecfd70bcb64bf4f7711149ac0fae904923a71f5a1e"},
                  {"one of 99%", EVEN, 0.05f, 6.9f, 50, (uint64_t)1 << 40, "951a99a9d432a4f57f7464c7318760e1ffc1c515f65f96ca98fdbfabbb30abdd"},
                  {"two tokens", 2, 3, 0, 25, (uint64_t)1 << 32 | 1, "1914d6c273b4b77146aa3b69e9741c202e38284cd7754e2a7409df694340ce58"}};
    static const struct {
        size_t dt;
        int dk;
    } apart[] = {{1, 0}, {0, 1}, {1, 1}, {1, -1}, {2, 0}, {0, 2}, {2, -1}, {1, -2}, {0, 256}, {8, 0}, {8, -8}};
    sha256 all;
    char hex[65];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        float bias[EVEN];
        double p[EVEN], sum = 0;
        size_t counts[EVEN] = {0}, positions = shapes[i].positions, kinds = (size_t)shapes[i].kinds;
        for (int id = 0; id < EVEN; id++) {
            bias[id] = id < shapes[i].kinds ? -shapes[i].steep * (float)id + (id ? 0 : shapes[i].top) : -INFINITY;
            sum += p[id] = exp((double)bias[id]);
        }
        for (int id = 0; id < EVEN; id++) p[id] /= sum;
        draw_all(s, (llama_sampler){.size = sizeof(llama_sampler), .temperature = 1, .bias = bias}, positions, shapes[i].step);
        for (size_t t = 0; t < positions; t++)
            for (size_t k = 0; k < SEEDS; k++) counts[drawn[t][k]]++;
        fits(p, counts, EVEN, positions * SEEDS, shapes[i].name);
        sha256_begin(&all), sha256_add(&all, drawn, positions * SEEDS), sha256_end(&all, hex);
        check(strcmp(hex, shapes[i].sum) == 0, "%s: other draws, %s", shapes[i].name, hex);
        if (shapes[i].top == 0)
            for (size_t k = 0; k < sizeof apart / sizeof *apart; k++) independent(kinds, positions, apart[k].dt, apart[k].dk);
    }
    llama_session_free(s);
    llama_close(m);
}

/* A draw depends on the seed and the position alone: the history, the session and earlier draws do not matter. */
static void test_alone(void) {
    enum { LAST = 40, TRIES = 25 };
    llama *m = even_model();
    llama_session *a = session(m, (llama_session_options){.context = LAST});
    llama_session *b = session(m, (llama_session_options){.context = 3 * LAST, .sequences = 3, .threads = 2, .batch = 7, .all_logits = 1});
    float bias[EVEN], p[EVEN];
    int32_t want[LAST + 1][TRIES], first[LAST], others[2 * LAST];
    size_t changed = 0;
    random_state = 1;
    for (int i = 0; i < EVEN; i++) bias[i] = between(-2, 2);
    for (int i = 0; i < LAST; i++) first[i] = (int32_t)below(EVEN);
    for (int i = 0; i < 2 * LAST; i++) others[i] = (int32_t)below(EVEN);
    llama_sampler o = {.size = sizeof o, .temperature = 1, .bias = bias}, odd = {.size = sizeof odd, .temperature = 2, .top_k = 3, .seed = 99};
    static const uint64_t seeds[5] = {0, 1, UINT64_MAX, (uint64_t)1 << 63, 0x9e3779b97f4a7c15};
    for (size_t n = 1; n <= LAST; n++) {
        check(llama_eval(a, 0, first + n - 1, 1) == LLAMA_OK, "eval");
        for (size_t k = 0; k < TRIES; k++) {
            o.seed = k < 5 ? seeds[k] : k;
            want[n][k] = llama_sample(a, 0, &o);
            changed += k > 0 && want[n][k] != want[n][k - 1];
        }
    }
    check(changed > LAST * TRIES / 2, "another seed, another draw: %zu", changed);
    for (size_t n = LAST; n > 0; n--) { /* backward, in one pass with others, of other tokens */
        llama_span spans[2] = {{0, first, n % 5}, {2, others + n, n}};
        llama_rewind(b, 0, 0), llama_rewind(b, 2, 0);
        check(llama_eval_batch(b, spans, 2) == LLAMA_OK && llama_fork(b, 1, 2) == LLAMA_OK, "eval: %s", llama_session_error(b));
        for (size_t k = TRIES; k-- > 0;) {
            o.seed = k < 5 ? seeds[k] : k;
            if (k % 3 == 0) llama_sample(b, 2, &odd), llama_probabilities(b, 1, &o, p);
            int32_t here = llama_sample(b, 2, &o), copy = llama_sample(b, 1, &o);
            check(here == want[n][k] && copy == here, "position %zu, seed %zu: %d and %d, not %d", n, k, (int)here, (int)copy, (int)want[n][k]);
        }
    }
    llama_session_free(a), llama_session_free(b);
    llama_close(m);
}

/* Set a sampler's fields at random; about half of the filters are on. The bias is random too, [n]. */
static llama_sampler any_sampler(float *bias, size_t n) {
    llama_sampler o = {.size = sizeof o, .temperature = below(5) ? between(0.2f, 2) : 0, .seed = below(3) ? below(100) : next_random()};
    if (below(2)) o.top_k = (int)below(below(2) ? n + 3 : 6);
    if (below(2)) o.top_p = between(0, 1.2f);
    if (below(2)) o.min_p = between(0, below(2) ? 0.2f : 1);
    if (below(2)) o.repeat_penalty = between(0.6f, 3), o.repeat_last = (int)below(8) - 1;
    if (below(2)) {
        for (size_t i = 0; i < n; i++) bias[i] = below(4) ? between(-1, 1) : below(3) ? -INFINITY : 3;
        bias[below(n)] = 1; /* a token is left */
        o.bias = bias;
    }
    return o;
}

/* No filter lets a token through that it drops; greedy takes the most likely token. */
static void test_filters(void) {
    enum { TOKENS = 1024, SAMPLERS = 400, TRIES = 10 };
    llama_session *s = session(tiny, (llama_session_options){.context = 64});
    static float bias[TOKENS], p[TOKENS];
    size_t dropped = 0, greedy = 0;
    random_state = 2;
    for (size_t i = 0; i < SAMPLERS; i++) {
        if (i % 50 == 0) llama_rewind(s, 0, 0);
        check(llama_eval(s, 0, &(int32_t){(int32_t)below(TOKENS)}, 1) == LLAMA_OK, "eval");
        llama_sampler o = any_sampler(bias, TOKENS);
        check(llama_probabilities(s, 0, &o, p) == LLAMA_OK, "sampler %zu: %s", i, llama_session_error(s));
        for (size_t k = 0; k < TOKENS; k++) dropped += p[k] == 0;
        greedy += o.temperature == 0;
        for (size_t k = 0; k < TRIES; k++, o.seed += 0x10001) {
            int32_t token = llama_sample(s, 0, &o);
            check(token >= 0 && token < TOKENS && p[token] > 0, "sampler %zu: token %d of probability 0", i, (int)token);
            if (o.temperature == 0) check(p[token] == 1, "sampler %zu: greedy", i);
        }
    }
    check(dropped > SAMPLERS * TOKENS / 2 && greedy > SAMPLERS / 10, "the filters drop tokens: %zu; greedy: %zu", dropped, greedy);
    llama_session_free(s);
}

/* Tokens race, and a token that is dropped does not change who else wins: whatever the logit of a token was that is not
 * kept, and if a token that did not win is dropped, the draw is the same. */
static void test_dropped(void) {
    llama *m = even_model();
    llama_session *s = session(m, (llama_session_options){.context = 16});
    size_t second_differs = 0, tries = 0;
    random_state = 3;
    for (size_t i = 0; i < 300; i++) {
        float bias[EVEN], other[EVEN];
        int rank[EVEN];
        if (i % 16 == 0) llama_rewind(s, 0, 0);
        check(llama_eval(s, 0, &(int32_t){3}, 1) == LLAMA_OK, "eval");
        llama_sampler o = {.size = sizeof o, .temperature = between(0.5f, 1.5f), .bias = bias, .seed = next_random()};
        for (int k = 0; k < EVEN; k++) bias[k] = between(-1.5f, 1.5f);
        for (int k = 0; k < EVEN; k++) { /* how many tokens have a higher logit */
            rank[k] = 0;
            for (int l = 0; l < EVEN; l++) rank[k] += bias[l] > bias[k] || (bias[l] == bias[k] && l < k);
        }
        int32_t whole = llama_sample(s, 0, &o);
        o.top_k = 1 + (int)below(EVEN - 1);
        int32_t token = llama_sample(s, 0, &o);
        if (rank[whole] < o.top_k) check(token == whole, "top_k %d: %d, not %d, which is kept", o.top_k, (int)token, (int)whole);
        o.bias = other;
        for (int k = 0; k < EVEN; k++) other[k] = rank[k] < o.top_k ? bias[k] : below(2) ? -INFINITY : between(-9, -1.5f);
        check(llama_sample(s, 0, &o) == token, "top_k %d: a token that is dropped changes the draw", o.top_k);
        o.top_k = 0;
        for (int k = 0; k < EVEN; k++) other[k] = rank[k] < 5 || k == token ? bias[k] : -INFINITY;
        int32_t few = llama_sample(s, 0, &o);
        if (rank[whole] < 5 || whole == token) check(few == whole, "%d, not %d, of those that the bias leaves", (int)few, (int)whole);
        memcpy(other, bias, sizeof bias);
        other[whole] = -INFINITY;
        int32_t second = llama_sample(s, 0, &o);
        second_differs += second != (whole + 1) % EVEN, tries++;
        check(second != whole, "a token that the bias forbids");
        other[whole] = bias[whole] + 0.5f;
        check(llama_sample(s, 0, &o) == whole, "the winner still wins if it is more likely");
        for (int k = 0; k < EVEN; k++) other[k] = k == whole || k == second || below(2) ? bias[k] : -INFINITY;
        check(llama_sample(s, 0, &o) == whole, "the winner among fewer");
        other[whole] = -INFINITY;
        check(llama_sample(s, 0, &o) == second, "the second among fewer");
    }
    check(second_differs > tries / 2, "the second is any token: %zu of %zu", second_differs, tries);
    llama_session_free(s);
    llama_close(m);
}

/* ---- Two models that nearly agree ---- */

static uint64_t number_at(const buffer *b, size_t at, int bytes) {
    uint64_t v = 0;
    for (int i = bytes; i-- > 0;) v = v << 8 | b->at[at + (size_t)i];
    return v;
}

/* Copy a folder of Meta's layout, one shard of float16, with up to `noise` units in the last place added to each weight
 * or taken from it: 10 are about 1% at most. share: of so many weights one; 1: all. */
static void copy_noisy(const char *from, const char *to, unsigned noise, size_t share) {
    static const char *const names[] = {"params.json", "tokenizer.model", "consolidated.00.pth"};
    make_folder(to);
    for (int i = 0; i < 3; i++) {
        char path[4096];
        buffer b = {0};
        snprintf(path, sizeof path, "%s/%s", from, names[i]);
        b.at = (unsigned char *)read_file(path, &b.n);
        if (!check(b.at != NULL, "%s cannot be read", path)) exit(tests_done("guesses"));
        size_t entries = 0, at = 0;
        for (size_t end = b.n - 22; i == 2 && end > 0 && entries == 0; end--) /* the end of the zip's directory */
            if (memcmp(b.at + end, "PK\5\6", 4) == 0) entries = (size_t)number_at(&b, end + 10, 2), at = (size_t)number_at(&b, end + 16, 4);
        for (; entries > 0; entries--) {
            size_t n = (size_t)number_at(&b, at + 24, 4), name = (size_t)number_at(&b, at + 28, 2), local = (size_t)number_at(&b, at + 42, 4);
            size_t data = local + 30 + (size_t)(number_at(&b, local + 26, 2) + number_at(&b, local + 28, 2));
            bool weights = memmem(b.at + at + 46, name, "/data/", 6) != NULL;
            for (size_t k = 0; weights && k + 1 < n; k += 2) {
                unsigned h = (unsigned)number_at(&b, data + k, 2), size = h & 0x7fff;
                if (below(share) || size <= noise || size + noise >= 0x7c00) continue;
                h = (h & 0x8000) | (size - noise + (unsigned)below(2 * noise + 1));
                b.at[data + k] = (unsigned char)h, b.at[data + k + 1] = (unsigned char)(h >> 8);
            }
            at += 46 + name + (size_t)(number_at(&b, at + 30, 2) + number_at(&b, at + 32, 2));
        }
        put_file(&b, to, names[i]);
        free(b.at);
    }
}

/* Two models that nearly agree draw the same token nearly as often as any two draws can: that is in 1 - (total
 * variation) of the cases. Of a race it is known how often: token i wins both with the probability
 * 1 / sum_j max(p_j / p_i, q_j / q_i). */
static void test_nearly(void) {
    enum { TOKENS = 1024, TRIES = 12 };
    static const unsigned noises[] = {60, 300};
    static float p[TOKENS], q[TOKENS];
    size_t length = test_quick ? 40 : 200;
    for (size_t i = 0; i < sizeof noises / sizeof *noises; i++) {
        double optimum = 0, expected = 0, variance = 0;
        size_t same = 0, draws = 0;
        random_state = 4;
        copy_noisy(folder, in_work("noisy"), noises[i], 1);
        llama *noisy = open_model(in_work("noisy"), NULL);
        llama_session *a = session(tiny, (llama_session_options){.context = 256}), *b = session(noisy, (llama_session_options){.context = 256});
        int32_t token = 1;
        for (size_t t = 0; t < length; t++) {
            llama_sampler o = {.size = sizeof o, .temperature = t % 2 ? 1 : 0.8f, .seed = 1000 * t, .top_p = t % 4 < 2 ? 0.95f : 0};
            check(llama_eval(a, 0, &token, 1) == LLAMA_OK && llama_eval(b, 0, &token, 1) == LLAMA_OK, "eval");
            check(llama_probabilities(a, 0, &o, p) == LLAMA_OK && llama_probabilities(b, 0, &o, q) == LLAMA_OK, "probabilities");
            double alike = 0, both = 0;
            for (size_t k = 0; k < TOKENS; k++) alike += (double)(p[k] < q[k] ? p[k] : q[k]);
            for (size_t k = 0; k < TOKENS; k++) {
                double sum = 0;
                for (size_t l = 0; p[k] > 0 && q[k] > 0 && l < TOKENS; l++) {
                    double left = (double)p[l] / (double)p[k], right = (double)q[l] / (double)q[k];
                    sum += left > right ? left : right;
                }
                both += sum > 0 ? 1 / sum : 0;
            }
            for (size_t k = 0; k < TRIES; k++, o.seed++) {
                token = llama_sample(a, 0, &o);
                same += token == llama_sample(b, 0, &o), draws++;
            }
            optimum += alike * TRIES, expected += both * TRIES, variance += both * (1 - both) * TRIES;
        }
        double n = (double)draws, off = ((double)same - expected) / sqrt(variance);
        check((double)same >= 0.9 * optimum, "noise of %u: %.3f of the draws agree, of %.3f", noises[i], (double)same / n, optimum / n);
        check(fabs(off) < 4, "noise of %u: %.3f of the draws agree, not %.3f of a race", noises[i], (double)same / n, expected / n);
        check(optimum / n > 0.5 && optimum / n < 0.99, "noise of %u: the models nearly agree: %.3f", noises[i], optimum / n);
        printf("noise of %u: 1 - (total variation) %.3f, a race %.3f, drawn alike %.3f: %.3f of the optimum\n", noises[i], optimum / n, expected / n,
               (double)same / n, (double)same / optimum);
        llama_session_free(a), llama_session_free(b);
        llama_close(noisy);
    }
}

/* ---- Models of any shape ---- */

typedef enum { F32, F16, BF16 } number_type;

/* A model of random weights in a folder of Hugging Face's layout. steep: the deviation of its logits. other: another
 * number, other weights. noise: part of each weight that depends on `other` alone: 0 none, 1 all. hole: the embedding of
 * the last token is NaN, so to evaluate it gives LLAMA_ENUMERIC. follow: after token t of so many in a row mostly comes the
 * next of them, after the last the first. idle: of the last so many layers wo and w2 are 0, so they change nothing. */
typedef struct {
    model_spec of;
    number_type type;
    float steep, noise;
    unsigned other;
    bool hole;
    size_t follow;
    int idle;
} made_spec;

/* Return a number from -1 to 1 that depends on all of these. */
static float weight_at(uint64_t which, uint64_t tensor, uint64_t i) {
    random_state = (which << 56) ^ (tensor << 40) ^ i;
    return between(-1, 1);
}

static void put_number(buffer *b, float x, number_type type) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t exponent = bits >> 23 & 255, half = (bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 0x3ff);
    if (type == F32) put_int(b, bits, 4);
    else put_int(b, type == BF16 ? bits >> 16 : exponent == 255 ? 0x7e00 : exponent > 112 ? half : 0, 2); /* cut off */
}

static llama *make_model(const made_spec *m, const char *name, const llama_options *o) {
    static const char *const types[] = {"F32", "F16", "BF16"};
    char path[2048];
    buffer header = {0}, data = {0};
    model_weight w;
    uint64_t kept = random_state;
    snprintf(path, sizeof path, "%s", in_work(name));
    make_folder(path);
    model_config(&m->of, path);
    put_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; model_nth(&m->of, false, i, &w); i++) {
        char text[256];
        size_t begin = data.n, n = (size_t)w.cols * (size_t)(w.rows ? w.rows : 1);
        float scale = (i == 0 ? 1.0f : (i == 2 ? m->steep : 1) / sqrtf((float)w.cols)) * sqrtf(3);
        bool follows = m->follow && i == 2;
        if (m->follow && i > 2 && ((i - 3) % 9 == 3 || (i - 3) % 9 == 5)) scale *= 0.3f; /* wo and w2 */
        if (i >= 3 + 9 * (m->of.layers - m->idle) && ((i - 3) % 9 == 3 || (i - 3) % 9 == 5)) scale = 0;
        for (size_t k = 0; k < n; k++) {
            size_t row = k / (size_t)w.cols, first = follows ? row / m->follow * m->follow : 0, before = follows && row == first ? first + m->follow - 1 : row - 1;
            size_t at = follows ? k + before * (size_t)w.cols - row * (size_t)w.cols : k; /* the embedding of the token before */
            float x = (1 - m->noise) * weight_at(1, follows ? 0 : (uint64_t)i, at) + m->noise * weight_at(2 + m->other, (uint64_t)i, k);
            bool hole = m->hole && i == 0 && row == (size_t)w.rows - 1;
            put_number(&data, hole ? NAN : w.rows ? x * scale : 1 + 0.1f * x, m->type);
        }
        snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%d%s", w.name, types[m->type], w.rows ? w.rows : w.cols, w.rows ? "," : "");
        put_text(&header, text);
        if (w.rows) snprintf(text, sizeof text, "%d", w.cols), put_text(&header, text);
        snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", begin, data.n);
        put_text(&header, text);
    }
    buffer file = safetensors_file(&header, &data);
    put_file(&file, path, "model.safetensors");
    free(file.at);
    random_state = kept;
    return open_model(path, o);
}

/* ---- Guesses that are checked together ---- */

enum { LONGEST = 100, VOCAB = 301 }; /* the largest context, the largest vocabulary */

/* What comes after a sequence, one token at a time: token[i] is drawn from logits[i]; logits[i + 1] are those after it,
 * unless to evaluate it failed, or the context was full: then token[i] is the last. */
typedef struct {
    size_t n; /* tokens drawn */
    bool failed;
    int32_t token[LONGEST + 1];
    float logits[LONGEST + 1][VOCAB];
} future;
static future ahead;

/* Draw what comes after sequence 0, in its copy, sequence 1. */
static void look_ahead(llama_session *s, const llama_sampler *o, size_t vocab) {
    size_t context = (size_t)llama_session_context(s);
    ahead.n = 0, ahead.failed = false;
    check(llama_fork(s, 1, 0) == LLAMA_OK, "fork");
    memcpy(ahead.logits[0], llama_logits(s, 1), vocab * sizeof(float));
    while (true) {
        int32_t token = ahead.token[ahead.n] = llama_sample(s, 1, o);
        if (!check(token >= 0, "sample: %s", llama_session_error(s))) exit(tests_done("guesses"));
        ahead.n++;
        if (llama_length(s, 1) == context) return;
        int status = llama_eval(s, 1, &token, 1);
        if ((ahead.failed = status == LLAMA_ENUMERIC)) return;
        if (!check(status == LLAMA_OK, "eval: %s", llama_session_error(s))) exit(tests_done("guesses"));
        memcpy(ahead.logits[ahead.n], llama_logits(s, 1), vocab * sizeof(float));
    }
}

/* A draft, [n]: of no tokens, right, wrong at one place, too long, with an invalid token, with the token that cannot be
 * evaluated, the last tokens of the sequence itself, useless. */
enum { NONE, RIGHT, WRONG, TOO_LONG, INVALID, HOLE, OWN, USELESS, DRAFTS };
static int32_t draft[3 * LONGEST];
static size_t make_draft(int kind, size_t place, size_t vocab, const llama_session *s, int seq) {
    static const int32_t invalid[] = {-1, INT32_MIN, INT32_MAX, 0};
    size_t n = kind == NONE ? 0 : kind == TOO_LONG ? ahead.n + 1 + below(2 * LONGEST - ahead.n) : below(4) ? ahead.n : below(ahead.n + 1);
    for (size_t i = 0; i < n; i++) draft[i] = i < ahead.n && kind != USELESS ? ahead.token[i] : (int32_t)below(vocab - 1);
    if (kind == OWN) {
        n = 1 + below(llama_length(s, seq));
        memcpy(draft, llama_tokens(s, seq) + llama_length(s, seq) - n, n * sizeof *draft);
    }
    if (place >= n) return n;
    if (kind == WRONG) draft[place] = (int32_t)(((size_t)draft[place] + 1 + below(vocab - 1)) % vocab);
    if (kind == HOLE) draft[place] = (int32_t)vocab - 1;
    if (kind == INVALID) draft[place] = (draft[place] = invalid[below(4)]) ? draft[place] : (int32_t)vocab;
    return n;
}

static size_t verified, accepted, failures;

/* Check sequence `seq`, which is as `look_ahead` found it, against the draft. */
static void check_verify(llama_session *s, int seq, const llama_sampler *o, const int32_t *given, size_t n, size_t vocab, const char *what) {
    static int32_t out[3 * LONGEST + 2];
    size_t length = llama_length(s, seq), context = (size_t)llama_session_context(s), k = 0;
    while (k < n && k < ahead.n && length + k < context && draft[k] == ahead.token[k]) k++;
    bool fails = ahead.failed && k == ahead.n; /* the token that cannot be evaluated was drawn and guessed */
    out[n + 1] = 0x55555555;
    verified++;
    ptrdiff_t got = llama_verify(s, seq, o, n ? given : NULL, n, out);
    check(out[n + 1] == 0x55555555, "%s: more than %zu tokens are written", what, n + 1);
    if (fails) {
        failures++;
        check(got == LLAMA_ENUMERIC, "%s: %td, not LLAMA_ENUMERIC", what, got);
        k = 0;
    } else {
        accepted += k;
        if (!check(got == (ptrdiff_t)k + 1, "%s: %td tokens, not %zu, of a draft of %zu: %s", what, got, k + 1, n, llama_session_error(s))) return;
        check(memcmp(out, ahead.token, (k + 1) * sizeof *out) == 0, "%s: other tokens", what);
    }
    check(llama_length(s, seq) == length + k, "%s: length %zu, not %zu", what, llama_length(s, seq), length + k);
    check(memcmp(llama_tokens(s, seq) + length, ahead.token, k * sizeof *out) == 0, "%s: other tokens in the sequence", what);
    const float *logits = llama_logits(s, seq);
    check(logits && memcmp(logits, ahead.logits[k], vocab * sizeof(float)) == 0, "%s: after %zu of %zu tokens, other logits", what, k, n);
    check(llama_sample(s, seq, o) == ahead.token[k], "%s: the last token is drawn again", what);
    for (size_t i = 0; !fails && i < k; i++) { /* those of the last pass, if the session keeps them */
        logits = llama_logits_at(s, seq, length + i);
        check(!logits || memcmp(logits, ahead.logits[i + 1], vocab * sizeof(float)) == 0, "%s: other logits at place %zu of %zu", what, i, k);
    }
    for (size_t i = length + k; !fails && k && i <= length + n && i <= context; i++)
        check(!llama_logits_at(s, seq, i), "%s: logits at position %zu, which was removed", what, i);
    if (k + 1 >= ahead.n) return;
    check(llama_eval(s, seq, ahead.token + k, 1) == LLAMA_OK, "%s: eval: %s", what, llama_session_error(s));
    check(memcmp(llama_logits(s, seq), ahead.logits[k + 1], vocab * sizeof(float)) == 0, "%s: other logits one token later", what);
}

/* Keep the most rows of a pass. */
static void on_trace(void *user, const char *name, const float *x, size_t rows, size_t cols) {
    (void)x, (void)cols;
    if (strstr(name, ".scores") || strstr(name, ".probs")) return; /* a row for each head, too */
    if (rows > *(size_t *)user) *(size_t *)user = rows;
}

static const char *const kernels[] = {NULL, "scalar", "avx2", "avx512", "neon"};

/* Return a session with such options, or, if this processor has not its kernels, with the best kernels. */
static llama_session *session_with(const llama *m, llama_session_options o) {
    llama_session *s = NULL;
    o.size = sizeof o;
    o.allocator = &dirty;
    return llama_session_new(&s, m, &o, NULL) == LLAMA_OK ? s : (o.kernels = NULL, session(m, o));
}

static const made_spec verify_specs[] = {
    {.of = {.dim = 32, .layers = 2, .heads = 4, .kv_heads = 2, .hidden = 48, .vocab = 40}, .steep = 2, .hole = true},
    {.of = {.dim = 20, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 33, .vocab = 131}, .steep = 1, .hole = true},
    {.of = {.dim = 48, .layers = 3, .heads = 3, .kv_heads = 1, .hidden = 64, .vocab = VOCAB}, .steep = 4, .hole = true}};
enum { SHAPES = sizeof verify_specs / sizeof *verify_specs };

static size_t verify_cases;

/* llama_verify and one token at a time: the same tokens, lengths and logits to the bit. */
static void test_verify(void) {
    size_t n_traced = 0, wanted = verify_cases ? verify_cases : test_quick ? 400 : 2000;
    static float bias[VOCAB];
    static float before[VOCAB];
    llama *models[SHAPES * 3];
    for (int i = 0; i < SHAPES * 3; i++) {
        made_spec spec = verify_specs[i / 3];
        char name[32];
        spec.type = (number_type)(i % 3);
        snprintf(name, sizeof name, "made-%d", i);
        models[i] = make_model(&spec, name, NULL);
    }
    random_state = 5;
    verified = accepted = failures = 0;
    for (size_t round = 0; verified < wanted; round++) {
        size_t which = round % (SHAPES * 3), vocab = (size_t)verify_specs[which / 3].of.vocab, traced = 0;
        int context = below(3) ? 6 + (int)below(35) : 41 + (int)below(LONGEST - 40);
        llama_session *one = session(models[which], (llama_session_options){.context = context, .sequences = 2});
        llama_session_options o = {.context = context, .sequences = 3 + (int)below(3), .threads = 1 + (int)(round % 3), .batch = (int)below(50), .all_logits = (int)below(2),
                                   .kernels = kernels[round % 5]};
        llama_session *s = session_with(models[which], o);
        int32_t prompt[LONGEST], other = (int32_t)below(vocab - 1);
        check(llama_eval(s, 2, &other, 1) == LLAMA_OK, "eval");
        memcpy(before, llama_logits(s, 2), vocab * sizeof(float));
        for (int turn = 0; turn < 4; turn++) {
            size_t n = 1 + below(below(2) ? 6 : (size_t)context);
            for (size_t i = 0; i < n; i++) prompt[i] = (int32_t)below(vocab - 1);
            llama_rewind(one, 0, 0), llama_rewind(s, 0, 0), llama_trace(s, NULL, NULL);
            check(llama_eval(one, 0, prompt, n) == LLAMA_OK && llama_eval(s, 0, prompt, n) == LLAMA_OK, "eval");
            llama_sampler sampler = any_sampler(bias, vocab);
            if (sampler.bias && below(2)) bias[vocab - 1] = -INFINITY;
            look_ahead(one, &sampler, vocab);
            for (int kind = 0; kind < DRAFTS; kind++) {
                size_t places = kind == WRONG && turn == 0 ? ahead.n : 1; /* wrong at each place, once in four */
                for (size_t i = 0; i < places; i++) {
                    char what[128];
                    size_t place = places > 1 ? i : below(2) ? below(ahead.n) : below(4), length = make_draft(kind, place, vocab, s, 0);
                    snprintf(what, sizeof what, "round %zu, model %zu, turn %d, draft %d, place %zu", round, which, turn, kind, place);
                    check(llama_fork(s, 1, 0) == LLAMA_OK && llama_trace(s, round % 7 == 3 ? on_trace : NULL, &traced) == LLAMA_OK, "fork");
                    check_verify(s, kind == USELESS ? 0 : 1, &sampler, kind == OWN ? llama_tokens(s, 1) + llama_length(s, 1) - length : draft, length, vocab, what);
                }
            }
        }
        check(llama_length(s, 2) == 1 && memcmp(llama_logits(s, 2), before, vocab * sizeof(float)) == 0, "the other sequence is left alone");
        check(llama_eval(s, 2, &other, 1) == LLAMA_OK && llama_rewind(one, 0, 0) == LLAMA_OK && llama_eval(one, 0, (int32_t[]){other, other}, 2) == LLAMA_OK &&
                  memcmp(llama_logits(s, 2), llama_logits(one, 0), vocab * sizeof(float)) == 0,
              "and so is its KV cache");
        check(traced == (round % 7 == 3), "under llama_trace, %zu tokens in a pass", traced);
        n_traced += traced > 0;
        llama_session_free(one), llama_session_free(s);
    }
    for (int i = 0; i < SHAPES * 3; i++) llama_close(models[i]);
    check(accepted > verified && failures > 0 && n_traced > 0, "%zu cases: %zu guesses came true, %zu failed, %zu sessions traced", verified, accepted, failures, n_traced);
    printf("%zu cases, %zu guesses came true, %zu cases failed as they should\n", verified, accepted, failures);
}

/* Cancel at a call of the progress function. */
static int cancel(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)user, (void)what, (void)done, (void)total;
    return ++progress_calls == cancel_at;
}

/* A call that fails leaves the sequence as it was, wherever it fails. */
static void test_verify_fails(void) {
    made_spec spec = verify_specs[0];
    llama *m = make_model(&spec, "made", NULL);
    size_t vocab = (size_t)spec.of.vocab, canceled = 0;
    llama_sampler o = {.size = sizeof o, .temperature = 0.7f, .top_k = 5, .repeat_penalty = 1.2f}, bad = {.size = sizeof bad, .temperature = -1};
    llama_session *one = session(m, (llama_session_options){.context = LONGEST, .sequences = 2});
    int32_t prompt[] = {3, 1, 4, 1, 5}, out[LONGEST + 2];
    for (o.seed = 0, ahead.n = 0; ahead.n < 80; o.seed++) { /* a text of many tokens that does not fail */
        llama_rewind(one, 0, 0);
        check(llama_eval(one, 0, prompt, 5) == LLAMA_OK, "eval");
        look_ahead(one, &o, vocab);
        if (ahead.n >= 80) break;
        if (!check(o.seed < 1000, "no long text")) return;
    }
    for (int keeps = 0; keeps < 2; keeps++) {
        llama_session *s = session(m, (llama_session_options){.context = LONGEST, .sequences = 2, .batch = 16, .all_logits = keeps, .progress = cancel});
        cancel_at = 0;
        check(llama_eval(s, 0, prompt, 5) == LLAMA_OK, "eval");
        for (size_t at = 1;; at++) {
            memcpy(draft, ahead.token, 80 * sizeof *draft);
            check(llama_fork(s, 1, 0) == LLAMA_OK, "fork");
            progress_calls = 0, cancel_at = at;
            ptrdiff_t got = llama_verify(s, 1, &o, draft, 80, out);
            bool done = progress_calls < at;
            cancel_at = 0;
            if (done) {
                check(got == 81, "not canceled: %td", got);
                break;
            }
            canceled++;
            check(got == LLAMA_ECANCEL && llama_length(s, 1) == 5 && memcmp(llama_tokens(s, 1), prompt, sizeof prompt) == 0, "canceled at %zu: %td, length %zu", at, got, llama_length(s, 1));
            check(llama_logits(s, 1) && memcmp(llama_logits(s, 1), ahead.logits[0], vocab * sizeof(float)) == 0, "canceled at %zu: other logits", at);
            check_verify(s, 1, &o, draft, 80, vocab, "after that"); /* and it can be done again */
        }
        const float *logits = llama_logits(s, 0);
        struct {
            llama_session *s;
            int seq;
            const llama_sampler *o;
            const int32_t *draft;
            size_t n;
            int32_t *out;
            const char *why;
        } refused[] = {{NULL, 0, &o, draft, 2, out, ""},        {s, 2, &o, draft, 2, out, "no such sequence"}, {s, -1, &o, draft, 2, out, "no such sequence"},
                       {s, 0, NULL, draft, 2, out, "sampler"},  {s, 0, &bad, draft, 2, out, "temperature"},    {s, 0, &o, NULL, 2, out, "must be given"},
                       {s, 0, &o, draft, 2, NULL, "must be given"}, {s, 0, &o, NULL, 0, NULL, "must be given"},             {s, 1, &o, draft, 2, out, "no logits"}};
        llama_rewind(s, 1, 3);
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
            ptrdiff_t got = llama_verify(refused[i].s, refused[i].seq, refused[i].o, refused[i].draft, refused[i].n, refused[i].out);
            check(got == LLAMA_EINVAL && (i == 0 || strstr(llama_session_error(s), refused[i].why)), "refused, %zu: %td, %s", i, got, llama_session_error(s));
            check(llama_length(s, 0) == 5 && llama_logits(s, 0) == logits && memcmp(logits, ahead.logits[0], vocab * sizeof(float)) == 0 && llama_length(s, 1) == 3 && !llama_logits(s, 1),
                  "refused, %zu: something has changed", i);
        }
        check(llama_verify(s, 0, &o, draft, 1, out) > 0 && !*llama_session_error(s), "no error is left");
        llama_session_free(s);
    }
    check(canceled > 8, "canceled at %zu places", canceled);
    llama_session_free(one);
    llama_close(m);
}

/* ---- Whole texts ---- */

enum { MOST = 48, TEXTS = 8, PIECES = 1024 }; /* tokens of a text, texts at once, the vocabulary */

/* A text to make, and what it came to, [n] tokens. */
typedef struct {
    int32_t prompt[2 * MOST];
    size_t n_prompt, max_tokens;
    llama_sampler sampler;
    float bias[PIECES];
    const char *stop;
    int32_t tokens[MOST];
    size_t n, bytes, ends;
    char text[MOST * 64];
    uint64_t sum; /* of all logits that were drawn from */
    int finish_reason;
} story;

static void put_story(story *t, const float *logits, const char *text, size_t n) {
    for (size_t i = 0; logits && i < PIECES; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, 4);
        t->sum = (t->sum ^ bits) * 0x100000001b3;
    }
    if (n) memcpy(t->text + t->bytes, text, n);
    t->bytes += n;
}

static bool is_stopped(const story *t) { return t->stop && llama_find_stop(t->text, t->bytes, &t->stop, 1, NULL) < t->bytes; }

/* Make a text in sequence 0 of a session by llama_eval and llama_sample, token by token. */
static void write_plainly(llama_session *s, const llama *m, story *t) {
    llama_decoder utf8 = {.started = 1};
    char text[LLAMA_TEXT_MAX];
    t->n = t->bytes = t->sum = 0, t->ends = 1, t->finish_reason = LLAMA_FINISH_LENGTH;
    llama_rewind(s, 0, 0);
    int status = llama_eval(s, 0, t->prompt, t->n_prompt);
    while (t->n < t->max_tokens && status == LLAMA_OK) {
        int32_t token = llama_sample(s, 0, &t->sampler);
        if (llama_is_end(m, token)) {
            t->finish_reason = LLAMA_FINISH_EOS;
            break;
        }
        t->tokens[t->n++] = token;
        put_story(t, llama_logits(s, 0), text, llama_token_to_text(m, &utf8, token, text));
        if (is_stopped(t)) {
            t->finish_reason = LLAMA_FINISH_STOP;
            return;
        }
        if (t->n < t->max_tokens) status = llama_eval(s, 0, &token, 1);
    }
    check(status == LLAMA_OK, "plainly: %s", llama_session_error(s));
    put_story(t, NULL, text, llama_token_to_text(m, &utf8, LLAMA_FLUSH, text));
}

/* The session and the requests of llama_generate, for the callback. */
static llama_session *writer;
static llama_request requests[TEXTS];
static size_t tokens_told, fail_after; /* tokens so far; after so many the callback fails */
static struct {
    const story *last; /* of this sequence */
    size_t length;
} left[TEXTS + 2];

static int on_story(void *user, llama_request *r, const char *text, size_t n) {
    story *t = (story *)user + (r - requests);
    size_t length = t->n_prompt + r->generated - (r->generated > 0);
    const float *logits = llama_logits(writer, r->seq), *kept;
    if (r->finish_reason == LLAMA_FINISH_EOS) length = t->n_prompt + r->generated; /* the end follows the last token */
    check(logits && llama_length(writer, r->seq) == length, "the sequence has %zu tokens, not %zu", llama_length(writer, r->seq), length);
    check(memcmp(llama_tokens(writer, r->seq), t->prompt, t->n_prompt * sizeof(int32_t)) == 0 &&
              memcmp(llama_tokens(writer, r->seq) + t->n_prompt, t->tokens, (length - t->n_prompt) * sizeof(int32_t)) == 0,
          "the sequence has other tokens");
    kept = llama_logits_at(writer, r->seq, length - 1);
    check(!kept || memcmp(kept, logits, PIECES * sizeof(float)) == 0, "logits at position %zu", length - 1);
    check(!llama_logits_at(writer, r->seq, length), "logits at position %zu, which does not exist", length);
    put_story(t, r->finish_reason ? NULL : logits, text, n);
    if (r->finish_reason) {
        t->finish_reason = r->finish_reason, t->ends++;
        left[r->seq].last = t, left[r->seq].length = length;
        return 0;
    }
    t->tokens[t->n++] = r->token;
    check(t->n == r->generated, "%zu tokens reported of %zu", t->n, r->generated);
    return ++tokens_told == fail_after ? -77 : is_stopped(t);
}

static int write_all(llama_session *s, story *t, size_t n) {
    for (size_t i = 0; i < n; i++) {
        t[i].n = t[i].bytes = t[i].sum = t[i].ends = 0, t[i].finish_reason = 0;
        requests[i] = (llama_request){.prompt = t[i].prompt, .n_prompt = t[i].n_prompt, .sampler = t[i].sampler, .max_tokens = t[i].max_tokens, .utf8.started = 1};
    }
    writer = s, tokens_told = 0;
    memset(left, 0, sizeof left);
    int status = llama_generate(s, requests, n, on_story, t);
    for (int k = 0; k < TEXTS + 2 && status == LLAMA_OK; k++) { /* no guess is left after the last token */
        if (!left[k].last) continue;
        check(llama_length(s, k) == left[k].length && llama_logits(s, k), "after its text, sequence %d has %zu tokens, not %zu", k, llama_length(s, k), left[k].length);
        check(memcmp(llama_tokens(s, k), left[k].last->prompt, left[k].last->n_prompt * sizeof(int32_t)) == 0, "after its text, sequence %d has another prompt", k);
    }
    return status;
}

/* Choose the prompt, the sampler and the end of a text. Some prompts repeat themselves, some begin as others do. */
static void make_story(story *t, size_t context) {
    static const char *const stops[] = {"e", "th", "ing", "\n", "."};
    memset(t, 0, sizeof *t);
    t->n_prompt = 1 + below(context < MOST ? context : MOST);
    size_t period = below(2) ? 1 + below(7) : t->n_prompt;
    int32_t lowest = below(3) ? 504 : 0; /* 0: </s> is in the prompt, so it is guessed */
    for (size_t i = 0; i < t->n_prompt; i++)
        t->prompt[i] = i >= period ? t->prompt[i - period] : period < 8 ? lowest + (int32_t)below(4) : 3 + (int32_t)below(PIECES - 3);
    size_t room = context - t->n_prompt + 1;
    t->max_tokens = room < MOST && below(2) ? room : below(room < MOST ? room + 1 : MOST + 1);
    t->sampler = any_sampler(t->bias, PIECES);
    if (below(3)) t->sampler.temperature *= 0.5f, t->sampler.repeat_penalty = 0; /* texts that repeat themselves */
    if (below(4) == 0 && t->sampler.bias) t->bias[2] = between(2, 12);           /* </s> */
    if (below(3) == 0) t->stop = stops[below(5)];
}

static bool same_story(const story *a, const story *b) {
    return a->n == b->n && memcmp(a->tokens, b->tokens, a->n * sizeof *a->tokens) == 0 && a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0 &&
           a->sum == b->sum && a->finish_reason == b->finish_reason && a->ends == b->ends;
}

/* Draft models for the model of a spec: none; one that is always right, as it is the model without its idle layers; one
 * that is less often right; one that knows nothing; one that fails sometimes: at the last token. */
enum { NO_DRAFT, RIGHT_DRAFT, HALF_RIGHT, USELESS_DRAFT, FAILING, DRAFT_MODELS };
static void make_drafts(made_spec spec, llama *drafts[DRAFT_MODELS]) {
    spec.of.layers -= spec.idle, spec.idle = 0;
    drafts[RIGHT_DRAFT] = make_model(&spec, "right", NULL);
    spec.noise = 0.2f, spec.of.layers--;
    drafts[HALF_RIGHT] = make_model(&spec, "half-right", NULL);
    spec.hole = true;
    drafts[FAILING] = make_model(&spec, "failing", NULL);
    spec = (made_spec){.of = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 24, .vocab = spec.of.vocab}, .steep = 1};
    drafts[USELESS_DRAFT] = make_model(&spec, "useless", NULL);
}

/* What came of guessing: in all; with a draft model and without lookup; where nothing should be guessed. */
static struct {
    size_t tokens, passes, drafted, accepted, finished[4], by_draft[DRAFT_MODELS], by_draft_accepted[DRAFT_MODELS], unasked;
} tally;

/* Make n texts several times, and each time as they are token by token. Sometimes the callback fails or the host cancels:
 * then the tokens so far are the same. */
static void check_stories(llama_session *s, const llama_session_options *o, const story *want, size_t n, bool traced, int which_draft, const char *what) {
    static story got[TEXTS];
    int turns = 1 + (int)below(2);
    for (int turn = turns; turn >= 0; turn--) {
        bool fails = turn == 1;
        cancel_at = fails && below(2) ? 1 + below(60) : 0, fail_after = fails && !cancel_at ? 1 + below(20) : 0, progress_calls = 0;
        for (size_t i = 0; i < n; i++) {
            got[i] = want[i];
            if (got[i].sampler.bias) got[i].sampler.bias = got[i].bias;
        }
        int status = write_all(s, got, n);
        int expected = cancel_at && progress_calls >= cancel_at ? LLAMA_ECANCEL : fail_after && tokens_told >= fail_after ? -77 : LLAMA_OK;
        check(status == expected, "%s, turn %d: %d, not %d: %s", what, turn, status, expected, llama_session_error(s));
        for (size_t i = 0; i < n; i++) {
            const llama_request *r = &requests[i];
            if (status == LLAMA_OK) {
                check(same_story(&want[i], &got[i]), "%s, turn %d, text %zu of %zu: %zu tokens, not %zu", what, turn, i, n, got[i].n, want[i].n);
                check(r->accepted <= r->drafted && r->passes + r->accepted == got[i].n + (got[i].finish_reason == LLAMA_FINISH_EOS), "%zu passes, %zu guesses came true of %zu, %zu tokens", r->passes,
                      r->accepted, r->drafted, got[i].n);
                tally.finished[got[i].finish_reason]++;
            } else
                check(got[i].n <= want[i].n && memcmp(got[i].tokens, want[i].tokens, got[i].n * sizeof(int32_t)) == 0, "%s, an error: other tokens", what);
            tally.tokens += got[i].n, tally.passes += r->passes, tally.drafted += r->drafted, tally.accepted += r->accepted;
            if (traced || (o->no_lookup && !o->draft)) tally.unasked += r->drafted;
            else if (o->no_lookup) tally.by_draft[which_draft] += r->drafted, tally.by_draft_accepted[which_draft] += r->accepted;
        }
    }
}

/* Texts are the same byte for byte, whatever is guessed: with lookup and without, with a draft model that is right, half
 * right and useless, with one sequence and several, on any number of threads and any kernels, however long passes take. */
static void test_generate(void) {
    static story want[TEXTS];
    char tokenizer[2048];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.model", folder);
    llama_options options = {.size = sizeof options, .tokenizer = tokenizer};
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 2, .hidden = 48, .vocab = PIECES}, .steep = 2.5f, .follow = 8, .idle = LAYERS - 2};
    llama *m = make_model(&spec, "target", &options), *drafts[DRAFT_MODELS] = {NULL};
    make_drafts(spec, drafts);
    memset(&tally, 0, sizeof tally);
    random_state = 6;
    for (size_t round = 0; round < (test_quick ? 10 : 60); round++) {
        int which = (int)(round % DRAFT_MODELS);
        static const pass_cost *const costs[] = {&EQUAL, &BY_TOKENS, &AT_RANDOM, NULL}; /* NULL: as it is */
        const pass_cost *chosen = round / 5 % 3 ? &EQUAL : costs[round % 4];
        pass_cost cost = chosen ? *chosen : EQUAL;
        clock_faked = chosen != NULL;
        int context = below(3) ? 2 * MOST : 12 + (int)below(MOST);
        bool traced = round % 9 == 4;
        size_t rows = 0;
        llama_session *plain = session(m, (llama_session_options){.context = context});
        llama_session_options o = {.context = context, .sequences = 1 + (int)below(below(2) ? 3 : TEXTS + 2), .threads = 1 + (int)(round % 3), .batch = below(3) ? 0 : 1 + (int)below(9),
                                   .all_logits = below(4) == 0, .kernels = kernels[below(5)], .progress = take_time, .user = &cost, .no_lookup = round / 5 % 2 == 0, .draft = drafts[which]};
        llama_session *s = session_with(m, o);
        check(llama_trace(s, traced ? on_trace : NULL, &rows) == LLAMA_OK, "trace");
        for (int batch = 0; batch < 4; batch++) {
            char what[64];
            size_t n = 1 + below(TEXTS);
            for (size_t i = 0; i < n; i++) {
                make_story(&want[i], (size_t)context);
                if (i && below(3) == 0) want[i] = want[i - 1], want[i].sampler.seed++; /* another text of this prompt */
                if (want[i].sampler.bias) want[i].sampler.bias = want[i].bias;
                write_plainly(plain, m, &want[i]);
            }
            snprintf(what, sizeof what, "round %zu, batch %d", round, batch);
            check_stories(s, &o, want, n, traced, which, what);
        }
        llama_session_free(s), llama_session_free(plain);
    }
    clock_faked = false;
    llama_close(m);
    for (int i = 0; i < DRAFT_MODELS; i++) llama_close(drafts[i]);
    printf("%zu tokens in %zu passes of their texts, %zu guesses, %zu came true;", tally.tokens, tally.passes, tally.drafted, tally.accepted);
    for (int i = RIGHT_DRAFT; i < DRAFT_MODELS; i++) printf(" %zu of %zu", tally.by_draft_accepted[i], tally.by_draft[i]);
    printf(" by draft models alone\n");
    check(tally.unasked == 0, "without lookup and a draft model, or under llama_trace, %zu guesses", tally.unasked);
    check(tally.accepted > 50 && tally.drafted > tally.accepted, "%zu guesses, %zu came true", tally.drafted, tally.accepted);
    check(tally.finished[LLAMA_FINISH_EOS] > 5 && tally.finished[LLAMA_FINISH_STOP] > 5 && tally.finished[LLAMA_FINISH_LENGTH] > 5, "each end is met");
}

/* ---- A walk over everything that changes a sequence ---- */

enum { SEQUENCES = 4, ROOM = 40, TOKENS = 64, SLOTS = 3, CYCLE = 8 };

/* What a sequence should hold: tokens[n], and whether there are logits after them. */
typedef struct {
    int32_t tokens[ROOM];
    size_t n;
    bool ready;
} line;

/* The walker's session, what its sequences should hold, and a session that evaluates everything from the beginning. */
typedef struct {
    llama_session *s, *fresh;
    line lines[SEQUENCES];
    llama_request requests[SEQUENCES + 2];
    int32_t prompts[SEQUENCES + 2][ROOM], texts[SEQUENCES + 2][ROOM];
    size_t step, checked, drafted, accepted;
} walker;

static int32_t follower(int32_t token) { return token / CYCLE * CYCLE + (token + 1) % CYCLE; }

/* Evaluate tokens[n] from the beginning, all at once, and return the logits. */
static const float *fresh_logits(llama_session *fresh, const int32_t *tokens, size_t n) {
    llama_rewind(fresh, 0, 0);
    check(llama_eval(fresh, 0, tokens, n) == LLAMA_OK, "fresh: %s", llama_session_error(fresh));
    return llama_logits(fresh, 0);
}

/* Whether a sequence is what it should be, to the bit. */
static void check_line(walker *w, int seq, const char *what) {
    const line *l = &w->lines[seq];
    const float *logits = llama_logits(w->s, seq);
    if (!check(llama_length(w->s, seq) == l->n && memcmp(llama_tokens(w->s, seq), l->tokens, l->n * sizeof(int32_t)) == 0, "step %zu, %s: sequence %d has %zu tokens, not these %zu",
               w->step, what, seq, llama_length(w->s, seq), l->n) ||
        !check((logits != NULL) == l->ready, "step %zu, %s: sequence %d has logits: %d, not %d", w->step, what, seq, logits != NULL, l->ready) || !l->ready)
        return;
    w->checked++;
    check(memcmp(logits, fresh_logits(w->fresh, l->tokens, l->n), TOKENS * sizeof(float)) == 0, "step %zu, %s: sequence %d has other logits", w->step, what, seq);
}

static void append(line *l, const int32_t *tokens, size_t n) {
    memcpy(l->tokens + l->n, tokens, n * sizeof *tokens);
    l->n += n;
    l->ready = l->ready || n > 0;
}

static size_t some_tokens(int32_t *tokens, const line *after, size_t most) {
    size_t n = below(most + 1);
    int32_t token = after && after->n ? after->tokens[after->n - 1] : (int32_t)below(TOKENS);
    for (size_t i = 0; i < n; i++) tokens[i] = token = below(10) ? follower(token) : (int32_t)below(TOKENS);
    return n;
}

static int on_walk(void *user, llama_request *r, const char *text, size_t n) {
    walker *w = user;
    size_t i = (size_t)(r - w->requests);
    line *l = &w->lines[r->seq];
    (void)text;
    check(n == 0, "there is no tokenizer");
    if (!r->finish_reason) {
        w->texts[i][r->generated - 1] = r->token;
        return 0;
    }
    l->n = 0, l->ready = false;
    append(l, r->prompt, r->n_prompt);
    if (r->generated) append(l, w->texts[i], r->generated - 1);
    return 0;
}

static void walk_generate(walker *w, float *bias) {
    size_t n = 1 + below(SEQUENCES + 2);
    bool reported[SEQUENCES] = {false};
    for (size_t i = 0; i < n; i++) {
        const line *l = &w->lines[below(SEQUENCES)];
        llama_request *r = &w->requests[i];
        line prompt = {.n = below(l->n + 1)};
        memcpy(prompt.tokens, l->tokens, prompt.n * sizeof(int32_t));
        prompt.n += some_tokens(prompt.tokens + prompt.n, &prompt, ROOM - prompt.n < 6 ? ROOM - prompt.n : 6);
        if (!prompt.n) prompt.tokens[prompt.n++] = (int32_t)below(TOKENS);
        memcpy(w->prompts[i], prompt.tokens, sizeof prompt.tokens);
        *r = (llama_request){.prompt = w->prompts[i], .n_prompt = prompt.n, .max_tokens = below(ROOM - prompt.n + 2), .sampler = any_sampler(bias, TOKENS)};
        if (r->sampler.bias) r->sampler.bias = NULL; /* one for all would be the last request's */
    }
    progress_calls = 0, cancel_at = below(4) ? 0 : 1 + below(30);
    int status = llama_generate(w->s, w->requests, n, on_walk, w);
    bool canceled = cancel_at && progress_calls >= cancel_at;
    cancel_at = 0;
    check(status == (canceled ? LLAMA_ECANCEL : LLAMA_OK), "step %zu, generate: %d, %s", w->step, status, llama_session_error(w->s));
    for (size_t i = 0; i < n; i++) {
        const llama_request *r = &w->requests[i];
        if (!canceled) reported[r->seq] = true;
        w->drafted += r->drafted, w->accepted += r->accepted;
        for (size_t k = 0; k < r->generated; k++) { /* token by token */
            if (k == 0) fresh_logits(w->fresh, r->prompt, r->n_prompt);
            int32_t token = llama_sample(w->fresh, 0, &r->sampler);
            if (!check(token == w->texts[i][k], "step %zu, generate: token %zu is %d, not %d", w->step, k, (int)w->texts[i][k], (int)token)) break;
            if (k + 1 < r->generated) check(llama_eval(w->fresh, 0, &token, 1) == LLAMA_OK, "eval");
        }
    }
    for (int k = 0; k < SEQUENCES; k++) {
        line *l = &w->lines[k];
        if (canceled) { /* each keeps what it holds */
            l->n = llama_length(w->s, k), l->ready = llama_logits(w->s, k) != NULL;
            if (check(l->n <= ROOM, "length %zu", l->n)) memcpy(l->tokens, llama_tokens(w->s, k), l->n * sizeof(int32_t));
        }
        if (canceled || reported[k]) check_line(w, k, canceled ? "generate, canceled" : "generate");
    }
}

static void walk_verify(walker *w, int seq, float *bias) {
    line *l = &w->lines[seq];
    llama_sampler o = any_sampler(bias, TOKENS);
    int32_t guesses[2 * ROOM], out[2 * ROOM + 1];
    size_t n = some_tokens(guesses, l, ROOM), drawn = 0;
    progress_calls = 0, cancel_at = below(4) ? 0 : 1 + below(5);
    ptrdiff_t got = llama_verify(w->s, seq, &o, guesses, n, out);
    bool canceled = cancel_at && progress_calls >= cancel_at;
    cancel_at = 0;
    if (!l->ready || canceled) {
        check(got == (canceled ? LLAMA_ECANCEL : LLAMA_EINVAL), "step %zu, verify: %td", w->step, got);
        return;
    }
    fresh_logits(w->fresh, l->tokens, l->n);
    for (bool more = true; more; drawn++) {
        int32_t token = llama_sample(w->fresh, 0, &o);
        check((ptrdiff_t)drawn < got && out[drawn] == token, "step %zu, verify: token %zu of %td", w->step, drawn, got);
        more = drawn < n && token == guesses[drawn] && llama_length(w->fresh, 0) < ROOM;
        if (more) check(llama_eval(w->fresh, 0, &token, 1) == LLAMA_OK, "eval");
    }
    check(got == (ptrdiff_t)drawn, "step %zu, verify: %td tokens, not %zu", w->step, got, drawn);
    append(l, guesses, drawn - 1);
}

static int put_state(void *user, const void *p, size_t n) {
    put(user, p, n);
    return 0;
}
static int get_state(void *user, void *p, size_t n) {
    buffer *b = user; /* `room` is how much has been read */
    if (b->room + n > b->n) return 1;
    memcpy(p, b->at + b->room, n);
    b->room += n;
    return 0;
}

/* One step of a walker. The slots of saved states are those of all walkers. */
static void walk(walker *w, buffer *slots, line *saved) {
    static float bias[TOKENS], logprob[ROOM];
    static const char *const names[] = {"eval", "eval_batch", "rewind", "fork", "save", "load", "generate", "prefill", "score", "verify", "verify", "generate"};
    size_t what = below(sizeof names / sizeof *names), slot = below(SLOTS);
    int seq = (int)below(SEQUENCES), other = (int)below(SEQUENCES), status = LLAMA_OK;
    line *l = &w->lines[seq];
    int32_t tokens[SEQUENCES][ROOM];
    size_t n = some_tokens(tokens[0], l, 5);
    buffer tape;
    switch (what) {
    case 0:
        status = llama_eval(w->s, seq, tokens[0], n);
        if (l->n + n > ROOM) check(status == LLAMA_EFULL, "step %zu: full", w->step), status = LLAMA_OK;
        else append(l, tokens[0], n);
        break;
    case 1: {
        llama_span spans[SEQUENCES];
        size_t n_spans = 0;
        for (int k = SEQUENCES - 1; k >= 0; k--) {
            n = some_tokens(tokens[k], &w->lines[k], 4);
            if (below(3) == 0 || w->lines[k].n + n > ROOM) continue;
            spans[n_spans++] = (llama_span){k, tokens[k], n};
            append(&w->lines[k], tokens[k], n);
        }
        status = llama_eval_batch(w->s, spans, n_spans);
        break;
    }
    case 2:
        n = below(3) ? l->n - below(l->n < 6 ? l->n + 1 : 6) : below(l->n + 1);
        l->ready = l->ready && n == l->n;
        status = llama_rewind(w->s, seq, l->n = n);
        break;
    case 3:
        status = llama_fork(w->s, other, seq);
        w->lines[other] = *l;
        break;
    case 4:
        slots[slot].n = slots[slot].room = 0, free(slots[slot].at), slots[slot].at = NULL;
        status = llama_save(w->s, seq, put_state, &slots[slot]);
        saved[slot] = *l;
        break;
    case 5:
        tape = slots[slot], tape.room = 0;
        if (!tape.n) return;
        status = llama_load(w->s, seq, get_state, &tape);
        *l = saved[slot];
        break;
    case 7:
        n = below(3) ? below(l->n + 1) : 0;
        memcpy(tokens[0], l->tokens, n * sizeof **tokens);
        n += some_tokens(tokens[0] + n, NULL, ROOM - n < 4 ? ROOM - n : 4);
        status = llama_prefill(w->s, seq, tokens[0], n);
        l->n = 0, l->ready = false;
        append(l, tokens[0], n);
        break;
    case 8:
        if (l->n + n > ROOM || (l->n && !l->ready)) return;
        status = llama_score(w->s, seq, tokens[0], n, logprob);
        append(l, tokens[0], n);
        break;
    case 6:
    case 11: walk_generate(w, bias); return;
    default: walk_verify(w, seq, bias); break;
    }
    check(status == LLAMA_OK, "step %zu, %s: %d, %s", w->step, names[what], status, llama_session_error(w->s));
    check_line(w, seq, names[what]);
    if (what == 1 || what == 3)
        for (int k = 0; k < SEQUENCES; k++) check_line(w, k, names[what]);
}

/* Whatever the calls before were, a sequence has the tokens that it should have, and the logits of a fresh evaluation. */
static void test_walk(void) {
    enum { WALKERS = 4 };
    static walker walkers[WALKERS];
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 4, .hidden = 48, .vocab = TOKENS}, .type = BF16, .steep = 2, .follow = CYCLE, .idle = LAYERS - 2};
    llama *m = make_model(&spec, "walked", NULL), *drafts[DRAFT_MODELS] = {NULL};
    make_drafts(spec, drafts);
    buffer slots[SLOTS] = {{0}};
    line saved[SLOTS];
    pass_cost cost = EQUAL;
    size_t steps = test_quick ? 1000 : 8000;
    int failed = tests_failed; /* before */
    random_state = 7;
    clock_faked = true;
    for (int i = 0; i < WALKERS; i++) {
        llama_session_options o = {.context = ROOM, .sequences = SEQUENCES, .threads = 1 + i % 2, .batch = i == 1 ? 5 : 0, .all_logits = i == 2, .progress = take_time, .user = &cost, .no_lookup = i == 1, .draft = drafts[i == 0 ? NO_DRAFT : i == 1 ? RIGHT_DRAFT : i == 2 ? HALF_RIGHT : FAILING]};
        walkers[i] = (walker){.s = session(m, o), .fresh = session(m, (llama_session_options){.context = ROOM})};
    }
    for (size_t step = 0; step < steps && tests_failed < failed + 20; step++) {
        walker *w = &walkers[below(WALKERS)];
        w->step = step;
        walk(w, slots, saved);
    }
    for (int i = 0; i < WALKERS; i++) {
        for (int k = 0; k < SEQUENCES; k++) check_line(&walkers[i], k, "the end");
        printf("walker %d: %zu of %zu guesses came true\n", i, walkers[i].accepted, walkers[i].drafted);
        check(walkers[i].checked > steps / 5, "walker %d: %zu sequences checked", i, walkers[i].checked);
        check(walkers[i].accepted > 20 && walkers[i].drafted >= walkers[i].accepted, "walker %d: %zu of %zu guesses came true", i, walkers[i].accepted, walkers[i].drafted);
        if (i == 1) check(walkers[i].accepted == walkers[i].drafted, "of a right draft alone, %zu of %zu guesses came true", walkers[i].accepted, walkers[i].drafted);
        llama_session_free(walkers[i].s), llama_session_free(walkers[i].fresh);
    }
    clock_faked = false;
    for (int i = 0; i < SLOTS; i++) free(slots[i].at);
    for (int i = 0; i < DRAFT_MODELS; i++) llama_close(drafts[i]);
    llama_close(m);
}

/* ---- What is guessed ---- */

static int say_nothing(void *user, llama_request *r, const char *text, size_t n) {
    (void)user, (void)r, (void)text, (void)n;
    return 0;
}

/* Generate after a prompt, where only one token can be drawn, or any if `forced` is below 0: the most likely. */
static llama_request guess_after(llama_session *s, const int32_t *prompt, size_t n, int32_t forced, size_t max_tokens) {
    static float bias[TOKENS];
    for (int i = 0; i < TOKENS; i++) bias[i] = i == forced ? 0 : -INFINITY;
    llama_request r = {.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens, .sampler = {.size = sizeof(llama_sampler), .bias = forced < 0 ? NULL : bias}};
    check(llama_generate(s, &r, 1, say_nothing, NULL) == LLAMA_OK && r.generated == max_tokens, "generate: %s", llama_session_error(s));
    return r;
}

/* The same, up to five times until there was a guess: now and then no guess is tried. */
static llama_request guess_once_after(llama_session *s, const int32_t *prompt, size_t n, int32_t forced, size_t max_tokens) {
    llama_request r = {.drafted = 0};
    for (int i = 0; i < 5 && r.drafted == 0; i++) {
        llama_rewind(s, 0, 0);
        r = guess_after(s, prompt, n, forced, max_tokens);
        check(r.seq == 0, "sequence %d, not 0", r.seq);
    }
    return r;
}

/* What follows is looked up: where the last three tokens or more stood before, of the longest such places the newest, in the
 * text itself and in the other texts; tokens that were removed are not found. */
static void test_lookup(void) {
    enum { LONG = 150 };
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 4, .hidden = 48, .vocab = TOKENS}, .type = F32, .steep = 12, .follow = CYCLE};
    llama *m = make_model(&spec, "looked", NULL);
    pass_cost cost = EQUAL;
    llama_session *s = session(m, (llama_session_options){.context = LONG, .sequences = 3, .progress = take_time, .user = &cost});
    int32_t cycle[CYCLE + 1] = {0};
    clock_faked = true;
    for (int i = 1; i <= CYCLE; i++) cycle[i] = follower(cycle[i - 1]);
    llama_request r = guess_after(s, cycle, 2, -1, LONG - 2); /* a text that repeats itself soon */
    for (size_t i = 2; i < LONG - 1; i++) check(llama_tokens(s, r.seq)[i] == cycle[i % CYCLE], "token %zu is the next of the cycle", i);
    check(r.passes <= LONG / 4 && r.accepted == r.generated - r.passes, "%zu passes, %zu of %zu guesses came true", r.passes, r.accepted, r.drafted);
    llama_rewind(s, 1, 0), llama_rewind(s, 2, 0);
    static const struct {
        const char *name;
        int32_t prompt[20];
        size_t n;
        size_t drafted, accepted;
    } own[] = {
        {"the newest", {9, 1, 2, 3, 7, 8, 9, 5, 1, 2, 3, 3, 9, 8, 7, 1, 2}, 17, 1, 1},
        {"not the older", {9, 1, 2, 3, 3, 8, 9, 5, 1, 2, 3, 7, 9, 8, 7, 1, 2}, 17, 1, 0},
        {"the longest", {9, 1, 2, 3, 3, 8, 7, 5, 1, 2, 3, 7, 9, 8, 9, 1, 2}, 17, 1, 1},
        {"not the shorter", {9, 1, 2, 3, 7, 8, 7, 5, 1, 2, 3, 3, 9, 8, 9, 1, 2}, 17, 1, 0},
        {"at the beginning", {1, 2, 3, 3, 8, 7, 5, 1, 2}, 9, 1, 1},
        {"two tokens are too few", {9, 2, 3, 3, 8, 7, 5, 1, 2}, 9, 0, 0},
        {"no token before", {8, 1, 2}, 3, 0, 0},
        {"one token, and the draw", {2}, 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) { /* the draw is 3, always */
        r = guess_once_after(s, own[i].prompt, own[i].n, 3, 3);
        check(r.drafted == own[i].drafted && r.accepted == own[i].accepted, "%s: %zu guesses, %zu came true", own[i].name, r.drafted, r.accepted);
    }
    static const int32_t other[] = {30, 31, 32, 1, 2, 3, 3, 40, 41, 42, 43, 1, 2, 3}, text[] = {20, 1, 2};
    llama_rewind(s, 0, 0);
    for (int turn = 0; turn < 5; turn++) {
        static const size_t keep[] = {14, 7, 6, 14, 0};
        size_t want = turn < 2 || turn == 3;
        llama_rewind(s, 1, 0);
        check(llama_eval(s, 1, other, 14) == LLAMA_OK, "eval");
        r = guess_once_after(s, text, 3, 3, 2 + want);
        check(turn > 0 || (r.drafted == 1 && r.accepted == 1), "turn %d: in the other text: %zu guesses, %zu came true", turn, r.drafted, r.accepted);
        llama_rewind(s, 1, keep[turn]); /* the other text's 3 after 1, 2, 3 is at position 6 */
        if (turn == 3) check(llama_rewind(s, 1, 2) == LLAMA_OK && llama_eval(s, 1, (int32_t[]){1, 2, 3, 3}, 4) == LLAMA_OK, "eval"); /* put there again */
        r = guess_once_after(s, text, 3, 3, 3);
        check(r.drafted == want && r.accepted == want, "turn %d: in the other text, rewound: %zu guesses, %zu came true", turn, r.drafted, r.accepted);
    }
    static const int32_t new_text[] = {50, 51, 52, 53, 1, 2, 3, 3};
    buffer state = {0};
    check(llama_eval(s, 2, new_text, 8) == LLAMA_OK && llama_save(s, 2, put_state, &state) == LLAMA_OK, "save");
    for (int turn = 0; turn < 2; turn++) { /* in a text that has replaced another */
        llama_rewind(s, 1, 0), state.room = 0;
        check(llama_eval(s, 1, other, 3) == LLAMA_OK && llama_eval(s, 1, other + 7, 4) == LLAMA_OK && llama_eval(s, 1, other, 3) == LLAMA_OK, "eval");
        r = guess_once_after(s, text, 3, 3, 2);
        check((turn ? llama_load(s, 1, get_state, &state) : llama_fork(s, 1, 2)) == LLAMA_OK && llama_rewind(s, 2, 0) == LLAMA_OK, "another text");
        r = guess_once_after(s, text, 3, 3, 3);
        check(r.drafted == 1 && r.accepted == 1, "after llama_%s: %zu guesses, %zu came true", turn ? "load" : "fork", r.drafted, r.accepted);
    }
    clock_faked = false;
    free(state.at);
    llama_session_free(s);
    llama_close(m);
}

/* What is allocated, and whether it is freed as it was. */
typedef struct {
    uint64_t live, calls;
} counts;
static void *count_alloc(void *user, size_t bytes, size_t align) {
    counts *c = user;
    c->live += bytes, c->calls++;
    return dirty_alloc(NULL, bytes, align);
}
static void count_free(void *user, void *p, size_t bytes) {
    counts *c = user;
    c->live -= bytes;
    free(p);
}

/* Generate with a draft model in a new session. Returns the passes, guesses and guesses that came true of all texts but
 * the first, greedy and sampled; or, of a draft model that fails, of the text after it has failed. */
static llama_request generate_with(const llama *m, const llama *draft, llama_session_options o, bool fails) {
    enum { TURNS = 7 };
    static float bias[TOKENS];
    counts *c = o.allocator->user;
    llama_session *s = NULL;
    llama_request sum = {.passes = 0};
    o.draft = draft;
    *c = (counts){0, 0};
    if (!check(llama_session_new(&s, m, &o, NULL) == LLAMA_OK, "a session with a draft model")) return sum;
    uint64_t calls = c->calls;
    check(c->live == llama_session_bytes(m, &o), "%zu bytes, not %zu", (size_t)c->live, (size_t)llama_session_bytes(m, &o));
    bias[TOKENS - 1] = -INFINITY;
    for (int turn = 0; turn < TURNS; turn++) {
        int32_t prompt[2] = {turn, turn == TURNS - 2 ? TOKENS - 1 : 9}; /* the last token is the one that FAILING cannot evaluate */
        llama_request r = {.prompt = prompt, .n_prompt = 2, .max_tokens = (size_t)o.context - 2, .sampler = {.size = sizeof(llama_sampler), .temperature = (float)(turn % 3) / 2, .seed = 5, .bias = bias}};
        if (turn == 3) /* the draft model's sequences follow */
            check(!llama_rewind(s, 0, 20) && !llama_fork(s, 1, 0) && !llama_eval(s, 1, prompt, 2), "%s", llama_session_error(s));
        check(llama_generate(s, &r, 1, say_nothing, NULL) == LLAMA_OK && r.generated == r.max_tokens, "%s", llama_session_error(s));
        if (turn > 0 && !fails) sum.passes += r.passes, sum.drafted += r.drafted, sum.accepted += r.accepted, sum.generated += r.generated;
        if (turn == TURNS - 1 && fails) sum = r;
    }
    check(c->calls == calls, "%zu allocations later", (size_t)(c->calls - calls));
    llama_session_free(s);
    check(c->live == 0, "%zu bytes are left", (size_t)c->live);
    return sum;
}

/* A copy of a model of make_model, whose file of settings also says this. */
static llama *make_copy(const char *of, const char *name, const char *setting) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    char from[2048], path[4096];
    snprintf(from, sizeof from, "%s", in_work(of));
    make_folder(in_work(name));
    for (int i = 0; i < 2; i++) {
        buffer b = {0};
        size_t n = 0;
        snprintf(path, sizeof path, "%s/%s", from, files[i]);
        char *bytes = read_file(path, &n);
        if (!check(bytes != NULL, "%s cannot be read", path)) exit(tests_done("guesses"));
        if (i == 0) put_text(&b, "{"), put_text(&b, setting);
        put(&b, bytes + (i == 0), n - (i == 0));
        put_file(&b, in_work(name), files[i]);
        free(bytes), free(b.at);
    }
    return open_model(in_work(name), NULL);
}

/* A draft model: refused with another vocabulary, or if the context is longer than its sliding window; its memory is counted; nothing is allocated later; a right one saves
 * passes, greedy and sampled; one that fails is not used any more. */
static void test_draft(void) {
    enum { LONG = 100 };
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 4, .hidden = 48, .vocab = TOKENS}, .type = F16, .steep = 2, .follow = CYCLE, .idle = LAYERS - 2}, wider = spec;
    llama *m = make_model(&spec, "drafted", NULL), *drafts[DRAFT_MODELS] = {NULL};
    make_drafts(spec, drafts);
    wider.of.vocab = TOKENS + 1;
    llama *wide = make_model(&wider, "wider", NULL);
    pass_cost cost = EQUAL;
    counts c = {0, 0};
    const llama_allocator counting = {&c, count_alloc, count_free};
    llama_session_options o = {.size = sizeof o, .context = LONG, .sequences = 2, .threads = 1, .no_lookup = 1, .progress = take_time, .user = &cost, .allocator = &counting};
    uint64_t without = llama_session_bytes(m, &o);
    llama_session *s = NULL;
    llama_error err;
    llama_request r;
    o.draft = wide;
    check(llama_session_new(&s, m, &o, &err) == LLAMA_EINVAL && !s && strstr(err.text, "vocabulary of 65") && c.calls == 0, "another vocabulary: %s", err.text);
    check(llama_session_bytes(m, &o) == 0, "and its memory");
    llama *windowed = make_copy("useless", "windowed", "\"sliding_window\": 600, "); /* the model's own context is 512 */
    o.draft = windowed;
    for (o.context = 599; o.context < 602; o.context++) {
        int status = llama_session_new(&s, m, &o, &err);
        if (o.context <= 600) check(status == LLAMA_OK && s, "a context of %d, in the draft model's window: %s", o.context, err.text);
        else check(status == LLAMA_EINVAL && !s && strcmp(err.text, "a context of 601 is longer than the draft model's sliding window of 600") == 0 && llama_session_bytes(m, &o) == 0, "longer than the window: %d, %s", status, err.text);
        llama_session_free(s);
    }
    o.context = LONG, c = (counts){0, 0};
    llama_close(windowed);
    o.draft = drafts[USELESS_DRAFT];
    check(llama_session_bytes(m, &o) > without + 2 * LONG * 64, "a draft model needs memory: %zu bytes, without it %zu", (size_t)llama_session_bytes(m, &o), (size_t)without);
    clock_faked = true;
    r = generate_with(m, NULL, o, false);
    check(r.passes == r.generated && r.drafted == 0, "without a draft model: %zu passes, %zu guesses", r.passes, r.drafted);
    r = generate_with(m, drafts[RIGHT_DRAFT], o, false);
    check(r.passes < r.generated / 3 && r.accepted == r.drafted, "a right draft: %zu passes for %zu tokens, %zu of %zu guesses came true", r.passes, r.generated, r.accepted, r.drafted);
    r = generate_with(m, drafts[HALF_RIGHT], o, false);
    check(r.passes < r.generated && r.accepted < r.drafted, "a half right draft: %zu passes for %zu tokens, %zu of %zu guesses came true", r.passes, r.generated, r.accepted, r.drafted);
    r = generate_with(m, drafts[FAILING], o, true);
    check(r.drafted == 0, "a draft that fails: %zu guesses", r.drafted);
    o.sequences = 70; /* more than take part in a pass */
    r = generate_with(m, m, o, false);
    check(r.accepted == r.drafted, "the model as its own draft: %zu of %zu guesses came true", r.accepted, r.drafted);
    clock_faked = false;
    llama_close(m), llama_close(wide);
    for (int i = 0; i < DRAFT_MODELS; i++) llama_close(drafts[i]);
}

/* ---- Whether guesses pay ---- */

/* Generate a text of LONG tokens; `cost` says what passes take, and what they came to. Guesses from the text itself come
 * true always or, with `any`, once in three times: then one of three tokens is drawn at random. */
enum { LONG_TEXT = 1500 };
static llama_request long_text(llama_session *s, pass_cost *cost, bool any) {
    static float bias[TOKENS];
    static const int32_t prompt[] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2};
    llama_request r = {.prompt = prompt, .n_prompt = sizeof prompt / sizeof *prompt, .max_tokens = LONG_TEXT, .sampler = {.size = sizeof(llama_sampler), .temperature = any ? 1e6f : 0, .bias = bias}};
    for (int i = 0; i < TOKENS; i++) bias[i] = !any || i < 3 ? 0 : -INFINITY;
    cost->passes = cost->drafts = cost->n = 0, cost->time = 0;
    check(llama_generate(s, &r, 1, say_nothing, NULL) == LLAMA_OK && r.generated == LONG_TEXT, "generate: %s", llama_session_error(s));
    return r;
}

/* What is guessed follows what passes take and how many guesses come true. What does not pay costs at most 1% of the time,
 * and what is lost until that is learnt. */
static void test_costs(void) {
    enum { LEARNING = 12, MAX_GUESSED = 32 }; /* ms; a pass with one row takes 1 ms. Guesses of a pass */
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 4, .hidden = 48, .vocab = TOKENS}, .type = F32, .steep = 12, .follow = CYCLE, .idle = LAYERS - 2};
    llama *m = make_model(&spec, "timed", NULL), *drafts[DRAFT_MODELS] = {NULL};
    const double most = 1.01 * LONG_TEXT + LEARNING;
    pass_cost cost = {.one = 1, .more = 0.02};
    llama_session_options o = {.context = LONG_TEXT + 20, .threads = 1, .progress = take_time, .user = &cost};
    make_drafts(spec, drafts);
    clock_faked = true;
    llama_session *s = session(m, o);
    llama_request r = long_text(s, &cost, false);
    size_t passes = r.passes;
    double time = cost.time;
    check(passes < LONG_TEXT / 10 && r.accepted == r.drafted, "guesses pay: %zu passes", passes);
    cost.more = 0.6;
    for (int again = 0; again < 2; again++) {
        r = long_text(s, &cost, true);
        check(r.passes > 0.95 * LONG_TEXT && cost.time < (again ? most : 1.1 * LONG_TEXT), "guesses do not pay any more: %zu passes, %.0f ms", r.passes, cost.time);
    }
    cost.more = 0.02;
    r = long_text(s, &cost, false);
    check(r.passes < LONG_TEXT / 2, "guesses pay again: %zu passes", r.passes);
    llama_session_free(s);
    for (cost.more = 0.1; cost.more < 1.05; cost.more += test_quick ? 0.45 : 0.1) {
        s = session(m, o);
        r = long_text(s, &cost, true);
        check(cost.time < (cost.more < 0.15 ? 0.9 * LONG_TEXT : most), "one guess in three comes true, and a row takes %.1f: %.0f ms", cost.more, cost.time);
        size_t late = 0;
        for (size_t i = 0; i < cost.n; i++) late += cost.guessed[i] > cost.passes / 2;
        if (cost.more > 0.55) check(cost.n > 3 && late < 3, "guesses do not pay, and are tried less and less: %zu times, %zu of them in the second half", cost.n, late);
        llama_session_free(s);
    }
    cost.more = 0.02;
    for (cost.slow = 1; cost.slow < 60; cost.slow += test_quick ? 20 : 2) { /* one interruption, also of the first pass of its size */
        s = session(m, o);
        r = long_text(s, &cost, false);
        check(cost.time < time + 2.5 * SLOWER && r.passes < passes + 120, "after an interruption of pass %zu: %zu passes, not %zu, in %.0f ms, not %.0f", cost.slow, r.passes, passes, cost.time, time);
        llama_session_free(s);
    }
    cost.slow = 0;
    o.no_lookup = 1, o.draft = drafts[RIGHT_DRAFT];
    for (cost.draft = 0.02; cost.draft < 0.6; cost.draft *= test_quick ? 25 : 3) {
        double best = LONG_TEXT * (cost.draft + 0.02) + LONG_TEXT / MAX_GUESSED; /* if every pass has as many guesses as can be */
        static const size_t slow[] = {0, 3, 1, 2, 4, 5, 9, 20};
        for (size_t i = 0; i < (test_quick ? 2 : sizeof slow / sizeof *slow); i++) {
            cost.slow_draft = slow[i];
            s = session(m, o);
            r = long_text(s, &cost, false);
            check(cost.time < 1.2 * best + 50 + (cost.slow_draft ? 2 * SLOWER * cost.draft : 0) && r.accepted == r.drafted,
                  "a right draft model that takes %.2f, interruption %zu: %zu passes, %.0f ms, not %.0f", cost.draft, cost.slow_draft, r.passes, cost.time, best);
            llama_session_free(s);
        }
    }
    cost.slow_draft = 0;
    o.draft = drafts[USELESS_DRAFT];
    for (cost.draft = 0.02; cost.draft < 2; cost.draft *= test_quick ? 9 : 3) {
        s = session(m, o);
        r = long_text(s, &cost, false);
        check(cost.time < most && cost.drafts > 0, "a useless draft model that takes %.2f: %zu passes of it, %.0f ms", cost.draft, cost.drafts, cost.time);
        r = long_text(s, &cost, true); /* now each of its guesses comes true */
        if (cost.draft < 0.1) check(cost.time < LONG_TEXT / 2, "and then a useful one: %.0f ms", cost.time);
        llama_session_free(s);
    }
    clock_faked = false;
    llama_close(m);
    for (int i = 0; i < DRAFT_MODELS; i++) llama_close(drafts[i]);
}

/* ---- Requests that the host changes ---- */

enum { MORE_TOKENS, FEWER_TOKENS, NO_MORE_TOKENS, CHANGES };
static struct {
    int kind;
    llama_request r[2];
    int32_t tokens[2][256];
} changed;

/* The limit of a text becomes larger than the context, smaller than what there is, or, as the other text sees it, just that. */
static int on_change(void *user, llama_request *r, const char *text, size_t n) {
    (void)user, (void)text, (void)n;
    llama_request *other = &changed.r[r == changed.r];
    if (!r->finish_reason) changed.tokens[r - changed.r][r->generated - 1] = r->token;
    if (changed.kind == MORE_TOKENS && r->generated == 1) r->max_tokens = 100000;
    if (changed.kind == FEWER_TOKENS && r->generated == 20) r->max_tokens = 2;
    if (changed.kind == NO_MORE_TOKENS && other->generated) other->max_tokens = other->generated;
    return 0;
}

/* A host that changes limits that were checked gets an error when the context is full, with guesses no sooner than without. */
static void test_changed(void) {
    enum { ROOM_OF_ALL = 100, PROMPT = 11 };
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 4, .hidden = 48, .vocab = TOKENS}, .type = F32, .steep = 12, .follow = CYCLE, .idle = LAYERS - 2};
    llama *m = make_model(&spec, "changed", NULL), *drafts[DRAFT_MODELS] = {NULL};
    static const int32_t prompt[PROMPT] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2};
    make_drafts(spec, drafts);
    clock_faked = true;
    for (changed.kind = 0; changed.kind < CHANGES; changed.kind++)
        for (int guesses = 0; guesses < 3; guesses++) {
            pass_cost cost = EQUAL;
            llama_session *s = session(m, (llama_session_options){.context = ROOM_OF_ALL, .sequences = 2, .progress = take_time, .user = &cost, .no_lookup = guesses != 1, .draft = guesses == 2 ? drafts[RIGHT_DRAFT] : NULL});
            for (int i = 0; i < 2; i++) changed.r[i] = (llama_request){.prompt = prompt, .n_prompt = PROMPT, .max_tokens = 60, .sampler = {.size = sizeof(llama_sampler)}};
            int status = llama_generate(s, changed.r, 2, on_change, NULL);
            size_t most = changed.r[0].generated > changed.r[1].generated ? changed.r[0].generated : changed.r[1].generated;
            check(status == LLAMA_EFULL && most == ROOM_OF_ALL - PROMPT + 1, "change %d, guesses %d: %d after %zu tokens: %s", changed.kind, guesses, status, most, llama_session_error(s));
            check((changed.r[0].drafted > 0) == (guesses > 0 && changed.kind != NO_MORE_TOKENS), "change %d, guesses %d: %zu guesses", changed.kind, guesses, changed.r[0].drafted);
            for (int i = 0; i < 2; i++)
                for (size_t k = 0; k < changed.r[i].generated; k++) check(changed.tokens[i][k] == (int32_t)((k + PROMPT) % CYCLE), "change %d, guesses %d, text %d: token %zu is %d", changed.kind, guesses, i, k, (int)changed.tokens[i][k]);
            llama_session_free(s);
        }
    clock_faked = false;
    llama_close(m);
    for (int i = 0; i < DRAFT_MODELS; i++) llama_close(drafts[i]);
}

/* A host that has every floating-point exception raise a signal, inexact results too, gets none, and its mode back. */
static void test_float_mode(void) {
    made_spec spec = {.of = {.dim = 32, .layers = LAYERS, .heads = 4, .kv_heads = 4, .hidden = 48, .vocab = TOKENS}, .type = F16, .steep = 2, .follow = CYCLE, .idle = LAYERS - 2};
    llama *m = make_model(&spec, "drafted", NULL), *drafts[DRAFT_MODELS] = {NULL};
    make_drafts(spec, drafts);
    llama_session *s = session(m, (llama_session_options){.context = 64, .draft = drafts[RIGHT_DRAFT]});
    int32_t prompt[] = {1, 2}, out[5];
    static const int32_t guesses[] = {4, 5, 6, 7};
    llama_request r = {.prompt = prompt, .n_prompt = 2, .max_tokens = 62, .sampler = {.size = sizeof(llama_sampler), .temperature = 0.5f}};
    feenableexcept(FE_ALL_EXCEPT);
    fesetround(FE_UPWARD);
    int before = fegetexcept(); /* as it took it: valgrind has none */
    int status = llama_generate(s, &r, 1, say_nothing, NULL);
    if (status == LLAMA_OK) status = llama_generate(s, &r, 1, say_nothing, NULL);
    ptrdiff_t verified_tokens = llama_verify(s, 0, &r.sampler, guesses, 4, out);
    int traps = fegetexcept(), rounding = fegetround();
    fedisableexcept(FE_ALL_EXCEPT);
    fesetround(FE_TONEAREST);
    check(status == LLAMA_OK && verified_tokens > 0 && traps == before && rounding == FE_UPWARD, "the host's mode: %d, %td, %x, %x", status, verified_tokens, (unsigned)traps, (unsigned)rounding);
    llama_session_free(s);
    llama_close(m);
    for (int i = 0; i < DRAFT_MODELS; i++) llama_close(drafts[i]);
}

static const test_case cases[] = {CASE(draw), CASE(alone), CASE(filters), CASE(dropped), CASE(nearly), CASE(verify), CASE(verify_fails), CASE(generate), CASE(walk), CASE(lookup), CASE(draft), CASE(costs), CASE(changed), CASE(float_mode)};

int main(int argc, char **argv) {
    argc = tests_begin(argc, argv);
    if (argc > 4 && strcmp(argv[3], "--cases") == 0) verify_cases = strtoul(argv[4], NULL, 10);
    snprintf(work, sizeof work, "%s", argc > 2 ? argv[2] : "build/work/guesses");
    make_folder(work);
    folder = argc > 1 ? argv[1] : "tests/tiny";
    tiny = open_model(folder, NULL);
    RUN(cases);
    llama_close(tiny);
    return tests_done("guesses");
}
