/* guesses.c - the draw, and what it makes possible: guessed tokens that are checked together change no byte.
 *
 *   guesses MODEL WORKDIR [--cases N]     MODEL: a folder with a tokenizer, tests/tiny. N: random cases of verify
 */
#include "../tools/checkpoint.h"

static char work[1024];
static const char *folder;
static llama *tiny;

static const char *in_work(const char *name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", work, name);
    return path;
}

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
    } shapes[] = {{"eight tokens", 8, 0.45f, 0, POSITIONS, 1},
                  {"even", EVEN, 0, 0, 100, 0x9e3779b97f4a7c15},
                  {"one of 99%", EVEN, 0.05f, 6.9f, 100, (uint64_t)1 << 40},
                  {"two tokens", 2, 3, 0, 50, (uint64_t)1 << 32 | 1}};
    static const struct {
        size_t dt;
        int dk;
    } apart[] = {{1, 0}, {0, 1}, {1, 1}, {1, -1}, {2, 0}, {0, 2}, {2, -1}, {1, -2}, {0, 256}, {8, 0}, {8, -8}};
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

static const test_case cases[] = {CASE(draw), CASE(alone), CASE(filters), CASE(dropped), CASE(nearly)};

int main(int argc, char **argv) {
    argc = tests_begin(argc, argv);
    snprintf(work, sizeof work, "%s", argc > 2 ? argv[2] : "build/work/guesses");
    make_folder(work);
    folder = argc > 1 ? argv[1] : "tests/tiny";
    tiny = open_model(folder, NULL);
    RUN(cases);
    llama_close(tiny);
    return tests_done("guesses");
}
