/* conformance.c - every checkpoint of the conformance data, of every format, against the float64 goldens, the
 * tokenizer against SentencePiece's ids, the sampler against exact distributions.
 *
 *   build/conformance FOLDER [BIG]         FOLDER: conformance.tar.xz unpacked; BIG: big-zip64 unpacked
 *   build/conformance --family FOLDER      FOLDER: family/models.tar.xz unpacked
 */
#include "../tools/checkpoint.h"
#include <dirent.h>
#include <time.h>

static char root[2048];

static const char *in_root(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *in_root(const char *format, ...) {
    static char path[8][4096];
    static int turn;
    char *out = path[turn++ % 8];
    va_list args;
    va_start(args, format);
    int n = snprintf(out, 4096, "%s/", root);
    vsnprintf(out + n, 4096 - (size_t)n, format, args);
    va_end(args);
    return out;
}

/* ---- Checkpoints ---- */

typedef struct {
    char name[64];
    gate worst;
    int checkpoints;
} kind;
static kind kinds[64];
static int n_kinds;

static void note(const char *name, const gate *g) {
    int i = 0;
    while (i < n_kinds && strcmp(kinds[i].name, name) != 0) i++;
    if (i == n_kinds && n_kinds < 64) snprintf(kinds[n_kinds++].name, sizeof kinds->name, "%s", name);
    gate *w = &kinds[i].worst;
    kinds[i].checkpoints++;
    if (g->max_abs > w->max_abs) w->max_abs = g->max_abs;
    if (g->rms > w->rms) w->rms = g->rms;
    if (g->kl > w->kl) w->kl = g->kl;
    if (fabs(g->nll_difference) > w->nll_difference) w->nll_difference = fabs(g->nll_difference);
}

/* Some positions of a long context, evaluated in runs from one to the next: against Meta's RoPE table. Returns the
 * logits at these positions, to be freed, and sets *n_logits. */
static float *long_context(const llama *m, const char *name, const char *golden, size_t *n_logits) {
    size_t n_tokens = 0, n = 0, n_truth = 0;
    char *json = read_file(in_root("golden/%s/golden.json", golden), NULL);
    char *truth = read_file(in_root("golden/%s/truth_rope32_f32le.bin", golden), &n_truth);
    int32_t *tokens = json_ids(json, "tokens", &n_tokens), *positions = json_ids(json, "positions", &n);
    llama_session *s = NULL;
    llama_session_options o = {.size = sizeof o, .context = (int)n_tokens};
    *n_logits = 0;
    if (!check(json && truth && n, "%s: the golden cannot be read", golden) ||
        !check(!llama_session_new(&s, m, &o, NULL), "%s: no session", name))
        return NULL;
    gate g = {0};
    size_t done = 0, vocab = n_truth / n / 4;
    float *logits = must_alloc(n_truth);
    for (size_t i = 0; i < n; i++) {
        size_t to = (size_t)positions[i] + 1;
        check(llama_eval(s, 0, tokens + done, to - done) == LLAMA_OK, "%s: eval", name);
        gate_position(&g, llama_logits(s, 0), (const float *)(void *)truth + i * vocab, vocab);
        memcpy(logits + i * vocab, llama_logits(s, 0), vocab * sizeof *logits);
        done = to;
    }
    check(g.max_abs <= 3e-4, "%s, %s: max abs %.3g", name, golden, g.max_abs);
    printf("%-28s max abs %.2e  rms %.2e  KL %.2e over %d positions up to %zu, %s\n", golden, g.max_abs, g.rms, g.kl,
           g.positions, done, name);
    llama_session_free(s);
    free(json), free(truth), free(tokens), free(positions);
    *n_logits = n * vocab;
    return logits;
}

/* The logits of a golden's tokens, evaluated in one call. */
static float *short_context(const llama *m, const char *name, const char *golden, size_t *n_logits) {
    size_t n = 0, vocab;
    char *json = read_file(in_root("golden/%s/golden.json", golden), NULL);
    int32_t *tokens = json_ids(json, "tokens", &n);
    llama_session *s = NULL;
    llama_session_options o = {.size = sizeof o, .context = (int)n, .all_logits = 1};
    llama_info info = {.size = sizeof info};
    llama_describe(m, &info);
    vocab = (size_t)info.vocab;
    float *logits = must_alloc((n + 1) * vocab * sizeof *logits);
    if (check(!llama_session_new(&s, m, &o, NULL) && !llama_eval(s, 0, tokens, n), "%s: eval", name))
        for (size_t i = 0; i < n; i++)
            memcpy(logits + i * vocab, llama_logits_at(s, 0, i), vocab * sizeof *logits);
    llama_session_free(s);
    free(json), free(tokens);
    *n_logits = n * vocab;
    return logits;
}

/* Checks that every form of a checkpoint gives the same bits, for its golden and for the long one, if there is one. */
static void same_bits(const llama *m, const char *shape, const char *dtype, const char *name) {
    static struct {
        char golden[64];
        float *logits;
        size_t n;
    } first[32];
    static const char *const lengths[] = {"", "-long160", "-long1024"};
    for (int k = 0; k < 3; k++) {
        char golden[64];
        size_t n = 0;
        int i = 0;
        snprintf(golden, sizeof golden, "%.20s-%.10s%s", shape, dtype, lengths[k]);
        if (!exists(in_root("golden/%s", golden))) continue;
        float *logits = k ? long_context(m, name, golden, &n) : short_context(m, name, golden, &n);
        while (first[i].logits && strcmp(first[i].golden, golden) != 0) i++;
        check(!first[i].logits || (first[i].n == n && memcmp(first[i].logits, logits, n * sizeof *logits) == 0),
              "%s: other bits than the first form of %s", name, golden);
        if (first[i].logits) free(logits);
        else memcpy(first[i].golden, golden, sizeof golden), first[i].logits = logits, first[i].n = n;
    }
}

static bool is_family; /* the checkpoints are of family/, where all forms of a shape and type give the same bits */

/* "meta-f16-mp2-13Blike", "hf-f16-unaligned", "gguf/tinyA-f16-align64.gguf", "tinyA-f16vals.bin": the dtype says
 * which golden; a name without one is a float32 .bin. */
static void one_checkpoint(const char *shape, const char *variant) {
    static const char *const dtypes[] = {"bf16", "mixed", "f32", "f16"};
    char dtype[16] = "f32", name[200], kind_name[64];
    const char *format = strncmp(variant, "hf-", 3) == 0       ? "hf"
                         : strncmp(variant, "gguf/", 5) == 0   ? "gguf"
                         : strncmp(variant, "meta-", 5) == 0   ? "meta"
                                                               : "llama2.c";
    const char *at = strchr(variant, '-'), *extra = NULL;
    for (int i = 0; at && i < 4 && !extra; i++)
        if (strncmp(at + 1, dtypes[i], strlen(dtypes[i])) == 0) {
            snprintf(dtype, sizeof dtype, "%s", dtypes[i]);
            extra = at + 1 + strlen(dtypes[i]);
        }
    int shards = 0;
    sscanf(extra ? extra : "", "-mp%d", &shards);
    const char *rest = extra && shards ? strchr(extra + 1, '-') : extra;
    snprintf(name, sizeof name, "%.60s/%.130s", shape, variant);
    llama *m = NULL;
    llama_error err;
    llama_info info = {.size = sizeof info};
    if (!check(llama_open(&m, in_root("ckpt/%s", name), NULL, &err) == LLAMA_OK, "%s: %s", name, err.text)) return;
    llama_describe(m, &info);
    check(strncmp(info.format, format, strlen(format)) == 0 || (strcmp(format, "hf") == 0 && info.format[0] == 'h'),
          "%s: is called %s", name, info.format);
    gate g = gate_golden(m, in_root("golden/%s-%s", shape, strcmp(dtype, "mixed") == 0 ? "f16" : dtype), name);
    snprintf(kind_name, sizeof kind_name, "%s %s %.36s", format, dtype, rest ? rest + (*rest == '-') : "");
    note(kind_name, &g);
    snprintf(kind_name, sizeof kind_name, "shape %s", shape);
    note(kind_name, &g);
    snprintf(kind_name, sizeof kind_name, "MP %d", shards);
    if (shards) note(kind_name, &g);
    if (is_family) same_bits(m, shape, dtype, name);
    llama_close(m);
}

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

/* Everything in ckpt/SHAPE and ckpt/SHAPE/gguf but what is no checkpoint. */
static void all_checkpoints(const char *shape) {
    char names[80][128];
    int n = 0;
    for (int inside = 0; inside < 2; inside++) {
        DIR *d = opendir(in_root(inside ? "ckpt/%s/gguf" : "ckpt/%s", shape));
        if (!check(d != NULL, "ckpt/%s is missing", shape)) return;
        for (struct dirent *e; (e = readdir(d)) && n < 80;)
            if (e->d_name[0] != '.' && strcmp(e->d_name, "gguf") != 0)
                snprintf(names[n++], sizeof *names, "%s%.120s", inside ? "gguf/" : "", e->d_name);
        closedir(d);
    }
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) one_checkpoint(shape, names[i]);
}

/* A long context of a checkpoint of the older shapes */
static void long_golden(const char *shape, const char *golden) {
    llama *m = NULL;
    size_t n;
    if (check(!llama_open(&m, in_root("ckpt/%s/meta-f16-mp1", shape), NULL, NULL), "%s: does not open", shape))
        free(long_context(m, shape, golden, &n));
    llama_close(m);
}

/* A 4.4 GB archive with zip64 sizes and offsets, sparse on disk. */
static void big_zip64(const char *folder) {
    llama *m = NULL;
    llama_error err;
    char path[4096] = "";
    DIR *d = folder ? opendir(folder) : NULL;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    if (d) closedir(d);
    if (d && strstr(path, ".pth")) snprintf(path, sizeof path, "%s", folder);
    if (!path[0]) {
        printf("SKIP: big-zip64 (not unpacked)\n");
        return;
    }
    if (!check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "big-zip64: %s", err.text)) return;
    gate g = gate_golden(m, in_root("golden/tinyA-f16"), "big-zip64");
    note("f16 big-zip64", &g);
    llama_close(m);
}

/* ---- Tokenizer ---- */

static char *decode(const llama *m, const int32_t *ids, size_t n, size_t *bytes) {
    char *out = must_alloc((n + 1) * LLAMA_TEXT_MAX);
    llama_decoder u = {.n = 0};
    *bytes = 0;
    for (size_t i = 0; i < n; i++) *bytes += llama_token_to_text(m, &u, ids[i], out + *bytes);
    *bytes += llama_token_to_text(m, &u, LLAMA_FLUSH, out + *bytes);
    return out;
}

static llama *with_tokenizer(const char *folder, const char *tokenizer) {
    llama *m = NULL;
    llama_error err;
    llama_options o = {.size = sizeof o, .tokenizer = tokenizer};
    check(llama_open(&m, folder, &o, &err) == LLAMA_OK, "%s: %s", tokenizer, err.text);
    return m;
}

/* Lines of {"text" or "bytes_hex", "ids", "decoded"}. */
static void vectors(const llama *m, const char *file) {
    char *lines = read_file(in_root("tok/%s", file), NULL);
    int n = 0, right = 0, decoded_right = 0;
    for (char *line = lines ? strtok(lines, "\n") : NULL; line; line = strtok(NULL, "\n"), n++) {
        size_t n_text = 0, n_ids, n_decoded = 0, n_out;
        char *text = json_text(line, "text", &n_text), *decoded = json_text(line, "decoded", &n_decoded);
        if (!text) {
            char *hex = json_text(line, "bytes_hex", &n_text);
            text = must_alloc(n_text);
            for (size_t i = 0; i < n_text / 2; i++) sscanf(hex + 2 * i, "%2hhx", (unsigned char *)text + i);
            n_text /= 2;
            free(hex);
        }
        int32_t *ids = json_ids(line, "ids", &n_ids), *ours = must_alloc((n_ids + 64) * sizeof *ours);
        ptrdiff_t count = llama_text_to_tokens(m, text, n_text, 0, ours, n_ids + 64);
        right += count == (ptrdiff_t)n_ids && memcmp(ours, ids, n_ids * sizeof *ids) == 0;
        char *out = decode(m, ids, n_ids, &n_out);
        decoded_right += n_out == n_decoded && memcmp(out, decoded, n_out) == 0;
        free(text), free(decoded), free(ids), free(ours), free(out);
    }
    check(n > 0 && right == n, "%s: %d of %d encoded as SentencePiece does", file, right, n);
    check(n > 0 && decoded_right == n, "%s: %d of %d decoded as SentencePiece does", file, decoded_right, n);
    printf("%-28s %d of %d encoded, %d decoded\n", file, right, n, decoded_right);
    free(lines);
}

static void long_text(const llama *m) {
    size_t n, n_ids;
    char *text = read_file(in_root("tok/long_mixed.txt"), &n);
    char *json = read_file(in_root("tok/long_mixed.ids.json"), NULL);
    int32_t *ids = json_ids(json, "ids", &n_ids), *ours = must_alloc((n + 1) * sizeof *ours);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    ptrdiff_t count = text ? llama_text_to_tokens(m, text, n, 0, ours, n + 1) : -1;
    clock_gettime(CLOCK_MONOTONIC, &b);
    check(count == 80206 && n_ids == 80206 && memcmp(ours, ids, n_ids * sizeof *ids) == 0, "long_mixed.txt: %td ids",
          count);
    printf("%-28s %td ids in %.1f ms\n", "long_mixed.txt", count,
           1e3 * (double)(b.tv_sec - a.tv_sec) + 1e-6 * (double)(b.tv_nsec - a.tv_nsec));
    free(text), free(json), free(ids), free(ours);
}

/* Each prefix of ids, flushed, decodes to the given text; and no push ever gives half a character. */
static void streaming(const llama *m) {
    char *json = read_file(in_root("tok/stream_decode.json"), NULL);
    const char *at = json;
    int cases = 0, right = 0, wanted = 0;
    while (at && (at = strstr(at, "\"label\""))) {
        size_t n_ids;
        int32_t *ids = json_ids(at, "ids", &n_ids);
        const char *prefix = strchr(json_find(at, "prefix_decodes"), '[');
        for (size_t i = 0; i < n_ids; i++) {
            char key[4096] = "{\"x\":";
            const char *quote = strchr(prefix + 1, '"'), *end = quote + 1;
            while (*end != '"') end += *end == '\\' ? 2 : 1;
            snprintf(key + 5, sizeof key - 5, "%.*s}", (int)(end - quote + 1), quote);
            size_t n, n_out;
            char *want = json_text(key, "x", &n), *out = decode(m, ids, i + 1, &n_out);
            right += n == n_out && memcmp(want, out, n) == 0;
            wanted++;
            prefix = end;
            free(want), free(out);
        }
        free(ids);
        cases++;
        at++;
    }
    check(wanted > 0 && right == wanted, "stream_decode.json: %d of %d prefixes", right, wanted);
    printf("%-28s %d of %d prefixes of %d texts\n", "stream_decode.json", right, wanted, cases);
    free(json);
}

/* A model of that vocabulary whose logits are all 0, made here. */
static const char *blank_model(int vocab) {
    static char folder[64];
    model_spec spec = {.dim = 16, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 16, .vocab = vocab, .shards = 1, .zero_output = true};
    snprintf(folder, sizeof folder, "build/blank-%d", vocab);
    model_write(&spec, folder);
    return folder;
}

static void tokenizers(void) {
    llama *m = with_tokenizer(blank_model(32000), in_root("tok/llama_tokenizer.model"));
    if (m) {
        vectors(m, "tok_public.jsonl");
        long_text(m);
        streaming(m);
    }
    llama_close(m);
    static const char *const small[] = {"tok512", "tok512o"};
    for (int i = 0; i < 2; i++) {
        m = with_tokenizer(in_root("ckpt/tinyA/meta-f16-mp1"), in_root("tok/%s.model", small[i]));
        char file[64];
        snprintf(file, sizeof file, "%s_vectors.jsonl", small[i]);
        if (m) vectors(m, file);
        llama_close(m);
    }
}

/* ---- Sampler ---- */

/* Distances of our distribution from the exact one: all of it in a file, or ids and probs in the case. */
static double distance(const char *at, const float *p, size_t vocab) {
    size_t n_name = 0, n = 0, n_ids = 0, n_probs = 0;
    double worst = 0;
    const char *next = strstr(at + 1, "\"vector\"");
    const char *file_key = strstr(at, "\"probs_f32_raw\"");
    if (file_key && (!next || file_key < next)) {
        char *name = json_text(at, "probs_f32_raw", &n_name);
        char *raw = read_file(in_root("sampling/%s", name), &n);
        for (size_t i = 0; i < vocab; i++) worst = fmax(worst, n == 4 * vocab ? fabs((double)p[i] - ((float *)(void *)raw)[i]) : 1);
        free(name), free(raw);
        return worst;
    }
    int32_t *ids = json_ids(at, "ids", &n_ids);
    double *probs = json_numbers(at, "probs", &n_probs), sum = 0;
    for (size_t i = 0; i < n_probs && n_probs == n_ids; i++) {
        worst = fmax(worst, fabs(probs[i] - p[ids[i]]));
        sum += p[ids[i]];
    }
    free(ids), free(probs);
    return n_probs && n_probs == n_ids ? fmax(worst, fabs(sum - 1)) : 1; /* and nothing elsewhere */
}

static void sampler(void) {
    char *json = read_file(in_root("sampling/sampling.json"), NULL), vector[64] = "";
    llama *m = NULL;
    llama_session *s = NULL;
    float *logits = NULL, *p = must_alloc(32000 * sizeof *p);
    int cases = 0, right = 0;
    double worst = 0;
    for (const char *at = json ? strstr(json, "\"vector\"") : NULL; at; at = strstr(at + 1, "\"vector\"")) {
        size_t n, n_history, vocab = (size_t)json_double(at, "n_vocab"), n_bytes = 0;
        char *name = json_text(at, "vector", &n);
        if (strcmp(name, vector) != 0) {
            snprintf(vector, sizeof vector, "%.63s", name);
            llama_session_free(s);
            llama_close(m);
            free(logits);
            logits = (float *)(void *)read_file(in_root("sampling/%s.logits.f32", name), &n_bytes);
            check(n_bytes == 4 * vocab && !llama_open(&m, blank_model((int)vocab), NULL, NULL) && !llama_session_new(&s, m, NULL, NULL), "%s", name);
        }
        double top_p = json_double(at, "top_p");
        int32_t *history = json_ids(at, "hist", &n_history), first = 0;
        llama_rewind(s, 0, 0);
        llama_eval(s, 0, n_history ? history : &first, n_history ? n_history : 1);
        llama_sampler o = {.size = sizeof o, .temperature = (float)json_double(at, "temp"), .top_k = (int)json_double(at, "top_k"),
                           .top_p = top_p == 0 ? 1e-30f : (float)top_p, .min_p = (float)json_double(at, "min_p"),
                           .repeat_last = -1, .bias = logits};
        if (n_history) o.repeat_penalty = (float)json_double(at, "rep"); /* a session with logits has a history */
        int status = llama_probabilities(s, 0, &o, p);
        double d = status ? 1 : distance(at, p, vocab);
        cases++;
        if (check(d <= 1e-5, "sampling case %d of %s: off by %.2e", cases, name, d)) right++;
        worst = fmax(worst, d);
        free(name), free(history);
    }
    check(cases == 216, "sampling.json: %d cases", cases);
    printf("%-28s %d of %d distributions, worst %.1e\n", "sampling.json", right, cases, worst);
    llama_session_free(s);
    llama_close(m);
    free(logits), free(p), free(json);
}

int main(int argc, char **argv) {
    static const char *const shapes[] = {"tinyA", "tinyB", "tinyC", "tinyE", "tinyH", "stories260K"};
    static const char *const family[] = {"l3meta", "l32meta", "l3tied", "smol", "linear"};
    is_family = argc > 2 && strcmp(argv[1], "--family") == 0;
    if (argc < 2 || !exists(argv[1 + is_family])) {
        printf("SKIP: conformance data are not here\n0 passed, 0 failed\n");
        return 0;
    }
    snprintf(root, sizeof root, "%.2000s", argv[1 + is_family]);
    for (size_t i = 0; !is_family && i < sizeof shapes / sizeof *shapes; i++) all_checkpoints(shapes[i]);
    for (size_t i = 0; is_family && i < sizeof family / sizeof *family; i++) all_checkpoints(family[i]);
    if (!is_family) big_zip64(argc > 2 ? argv[2] : NULL);
    for (int i = 0; i < n_kinds; i++)
        printf("%-28s max abs %.2e  rms %.2e  KL %.2e  NLL %.1e  worst of %d\n", kinds[i].name, kinds[i].worst.max_abs,
               kinds[i].worst.rms, kinds[i].worst.kl, kinds[i].worst.nll_difference, kinds[i].checkpoints);
    if (is_family) return tests_done("conformance, family");
    long_golden("tinyA", "tinyA-f16-long2048");
    long_golden("stories260K", "stories260K-f16-long256");
    tokenizers();
    sampler();
    return tests_done("conformance");
}
