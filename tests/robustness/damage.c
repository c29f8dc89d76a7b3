/* damage.c - one small file of each format, cut at every byte of its headers and with every bit of them turned:
 * each such file is refused, or gives what the sound one gives. Then malformed files made one by one, each with the
 * code and a word of the text it is refused with.
 *
 *   damage WORKDIR
 */
#include "../tools/checkpoint.h"
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

static char work[1024];

/* ---- A sound file, and what of it is swept ---- */

typedef struct {
    const char *name;
    char path[1200], file[1200]; /* what is opened; what is damaged */
    bool tokenizer, text;        /* it is one; it has a vocabulary */
    buffer sound, output;        /* its bytes, and what comes of them */
    bool *header;                /* [sound.n]: this byte is no weight */
    const char **why;            /* [sound.n]: a bit turned here may make another honest file, because; NULL: it may not */
} victim;

/* The file at WORKDIR/folder/file is the victim; opened is the folder, or the file itself. */
static victim victim_of(const char *name, const char *folder, const char *file, bool itself) {
    victim v = {.name = name};
    snprintf(v.file, sizeof v.file, "%s/%s/%s", work, folder, file);
    snprintf(v.path, sizeof v.path, itself ? "%s/%s/%s" : "%s/%s", work, folder, file);
    char *bytes = read_file(v.file, &v.sound.n);
    if (!check(bytes != NULL, "%s cannot be read", v.file)) exit(1);
    v.sound.at = (unsigned char *)bytes;
    v.header = calloc(v.sound.n, sizeof *v.header);
    v.why = calloc(v.sound.n, sizeof *v.why);
    if (!v.header || !v.why) exit(1);
    return v;
}

static void mark_header(victim *v, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) v->header[i] = true;
}

/* Bits may be turned, for this reason, of the n bytes that are `skip` behind where the first `text` from `from` on begins.
 * Returns what comes behind them. */
static size_t except(victim *v, size_t from, const char *text, size_t length, size_t skip, size_t n, const char *why) {
    size_t at = from;
    while (at + length <= v->sound.n && memcmp(v->sound.at + at, text, length) != 0) at++;
    if (!check(at + length <= v->sound.n && at + skip + n <= v->sound.n, "%s: nothing to except: %s", v->name, why)) return from;
    for (size_t i = 0; i < n; i++) v->why[at + skip + i] = why;
    return at + skip + n;
}
#define EXCEPT(from, literal, skip, n, why) except(&v, from, literal, sizeof(literal) - 1, skip, n, why)

/* ---- Memory that is used again, which saves half the time ---- */

static struct {
    _Alignas(64) unsigned char at[1 << 22];
    size_t used, held;
} pool;

static void *pool_alloc(void *user, size_t bytes, size_t align) {
    (void)user, (void)align; /* all want 64 */
    size_t n = (bytes + 63) / 64 * 64;
    if (n > sizeof pool.at - pool.used) return NULL;
    pool.held++;
    return pool.at + (pool.used += n) - n;
}

static void pool_free(void *user, void *p, size_t bytes) {
    (void)user, (void)p, (void)bytes;
    if (--pool.held == 0) pool.used = 0;
}

static const llama_allocator pooled = {NULL, pool_alloc, pool_free};

/* ---- What comes of a file: logits, and how its tokenizer cuts and shows text ---- */

/* Logits behind all tokens of the vocabulary, one after the other; ids of some texts; each token's text; eos. */
static void put_output(buffer *b, const llama *m, bool logits, bool text) {
    static const char *const texts[] = {"ab c abcc", " a  b", "\xc3\xa9 <s>\xff"};
    llama_info info = {.size = sizeof info};
    llama_session_options o = {.size = sizeof o, .context = 16, .batch = 16, .threads = 1, .allocator = &pooled};
    llama_session *s = NULL;
    int32_t all[16], ids[64];
    llama_describe(m, &info);
    put_int(b, (uint64_t)info.vocab, 4);
    for (int i = 0; i < 16; i++) all[i] = i;
    if (logits && info.vocab <= 16 && llama_session_new(&s, m, &o, NULL) == LLAMA_OK) {
        int status = llama_eval(s, 0, all, (size_t)info.vocab);
        put_int(b, (uint64_t)status, 4);
        if (status == LLAMA_OK) put(b, llama_logits(s, 0), (size_t)info.vocab * sizeof(float));
        llama_session_free(s);
    }
    for (int i = 0; text && i < 3; i++) {
        ptrdiff_t n = llama_text_to_tokens(m, texts[i], strlen(texts[i]), LLAMA_ADD_BOS, ids, 64);
        put_int(b, (uint64_t)n, 4);
        for (ptrdiff_t k = 0; k < n && n <= 64; k++) put_int(b, (uint64_t)ids[k], 4);
    }
    for (int32_t t = 0; text && t < info.vocab; t++) { /* twice: in front its space goes, then it stays */
        char out[LLAMA_TEXT_MAX];
        llama_decoder u = {.n = 0};
        for (int i = 0; i < 2; i++) put(b, out, llama_token_to_text(m, &u, t, out));
        put(b, out, llama_token_to_text(m, &u, LLAMA_FLUSH, out));
        put_text(b, "|");
    }
    put_int(b, (uint64_t)llama_eos(m), 4);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef enum { REFUSED, SAME, OTHER, WRONG } verdict; /* OTHER: it opens and gives something else */

static verdict judge(const victim *v, buffer *got, char text[600]) {
    llama *m = NULL;
    llama_error err = {0, ""};
    llama_options o = {.size = sizeof o, .tokenizer = v->tokenizer ? v->file : NULL, .allocator = &pooled};
    double begin = seconds();
    int status = llama_open(&m, v->path, &o, &err);
    got->n = 0;
    if (status == LLAMA_OK) put_output(got, m, !v->tokenizer, v->text);
    bool line = err.status == status && strstr(err.text, work) && !strchr(err.text, '\n');
    bool refused = (status == LLAMA_EFORMAT || status == LLAMA_EIO) && !m && line, slow = seconds() - begin > 1;
    snprintf(text, 600, "status %d%s, %s", status, slow ? ", after more than a second" : "", err.text);
    llama_close(m);
    if (slow || (status != LLAMA_OK && !refused)) return WRONG;
    if (refused) return REFUSED;
    return got->n == v->output.n && memcmp(got->at, v->output.at, got->n) == 0 ? SAME : OTHER;
}

/* ---- The sweep ---- */

enum { REASONS = 32, SHOWN = 6 };
static struct {
    const char *why;
    size_t n; /* bits that made another file */
} reasons[REASONS]; /* of all victims */

static void count_reason(const char *why) {
    int i = 0;
    while (i < REASONS - 1 && reasons[i].why && reasons[i].why != why) i++;
    reasons[i].why = why;
    reasons[i].n++;
}

typedef struct {
    size_t verdicts[4], excepted, findings;
} tally;

/* Count one damaged file; a finding is told. */
static void count(const victim *v, tally *t, buffer *got, const char *how, size_t at, const char *why) {
    char text[600];
    verdict is = judge(v, got, text);
    t->verdicts[is]++;
    if (is == OTHER && why) {
        t->excepted++;
        count_reason(why);
    } else if (is >= OTHER && t->findings++ < SHOWN)
        check(false, "%s, %s byte %zu of %zu: %s", v->name, how, at, v->sound.n, is == OTHER ? "opens and gives something else" : text);
}

/* Every bit of the headers, one at a time, in place. */
static void turn_bits(const victim *v, tally *t, buffer *got, int fd) {
    char how[32];
    for (size_t i = 0; i < v->sound.n; i++)
        for (int bit = 0; bit < 8 && v->header[i] && test_sampled(i, 7); bit++) {
            unsigned char byte = v->sound.at[i] ^ (unsigned char)(1 << bit);
            snprintf(how, sizeof how, "with bit %d turned of", bit);
            if (pwrite(fd, &byte, 1, (off_t)i) == 1) count(v, t, got, how, i, v->why[i]);
            if (pwrite(fd, v->sound.at + i, 1, (off_t)i) != 1) exit(1);
        }
}

/* Every length that ends in a header, and some that end in weights, from the longest to nothing. */
static void cut(const victim *v, tally *t, buffer *got, int fd) {
    for (size_t n = v->sound.n; n-- > 0;)
        if ((v->header[n] || n % 37 == 0) && test_sampled(n, 7) && ftruncate(fd, (off_t)n) == 0) count(v, t, got, "cut at", n, NULL);
}

static void sweep(victim *v) {
    tally t = {0};
    buffer got = {0};
    char text[600];
    double begin = seconds();
    size_t headers = 0;
    int fd = open(v->file, O_RDWR | O_CLOEXEC);
    judge(v, &v->output, text);
    check(fd >= 0 && v->output.n > 40 && judge(v, &got, text) == SAME, "%s, sound: %s", v->name, text);
    for (size_t i = 0; i < v->sound.n; i++) headers += v->header[i];
    turn_bits(v, &t, &got, fd);
    cut(v, &t, &got, fd);
    check(t.findings == 0, "%s: %zu findings", v->name, t.findings);
    printf("%s: %zu bytes of header: %zu refused, %zu equal, %zu honest others, %.1f s\n", v->name, headers, t.verdicts[REFUSED],
           t.verdicts[SAME], t.excepted, seconds() - begin);
    check(pwrite(fd, v->sound.at, v->sound.n, 0) == (ssize_t)v->sound.n, "%s: put back", v->file);
    close(fd);
    free(v->sound.at), free(v->output.at), free(v->header), free(v->why), free(got.at);
}

/* ---- The victims ---- */

static const model_spec tiny = {.dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 12, .vocab = 12, .shards = 1};

static const char *in_work(const char *name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", work, name);
    return path;
}

static const char EPSILON[] = "the epsilon of the norms: any number is some model's";
static const char AROUND[] = "the tokens around a text: any piece may be one";
static const char THETA[] = "RoPE's base: any number is some model's";
static const char THETA_KEY[] = "a key that need not be there: RoPE's base would be 10000";

/* All that is not an element of a storage: the entries up to the directory, whose names end in a digit then. */
static void mark_zip(victim *v) {
    size_t i = 0, next;
    for (; memcmp(v->sound.at + i, "PK\3\4", 4) == 0; i = next) {
        const unsigned char *p = v->sound.at + i;
        size_t name = p[26], data = i + 30 + name + p[28] + 256u * p[29];
        for (next = data; memcmp(v->sound.at + next, "PK\3\4", 4) != 0 && memcmp(v->sound.at + next, "PK\1\2", 4) != 0;) next++;
        mark_header(v, i, p[29 + name] >= '0' && p[29 + name] <= '9' ? data : next);
    }
    mark_header(v, i, v->sound.n);
}

/* The older form: its pickles, and how many elements each storage has. */
static void mark_legacy(victim *v) {
    size_t at = v->sound.n;
    while (memcmp(v->sound.at + at - 4, "\x80\x02](", 4) != 0) at--;
    while (v->sound.at[at] == 'X') at += 5 + v->sound.at[at + 1];
    mark_header(v, 0, at += 2);
    for (uint64_t n; at < v->sound.n; at += 8 + 2 * n) {
        memcpy(&n, v->sound.at + at, 8);
        mark_header(v, at, at + 8);
    }
}

/* {"dim": 8, ..., "norm_eps": 1e-05, "vocab_size": -1, "rope_theta": 500.0} */
static void params_with_theta(const char *folder, const char *file, const char *key) {
    char path[1200];
    size_t n = 0;
    buffer b = {0};
    snprintf(path, sizeof path, "%s/%s/%s", work, folder, file);
    char *sound = read_file(path, &n);
    put(&b, sound, n - 1);
    put_text(&b, ", \"");
    put_text(&b, key);
    put_text(&b, "\": 500.0}");
    check(write_file(path, &b), "%s", path);
    free(sound), free(b.at);
}

static void sweep_meta(void) {
    model_spec m = tiny;
    model_write(&m, in_work("zip"));
    params_with_theta("zip", "params.json", "rope_theta");
    victim v = victim_of("params.json", "zip", "params.json", false);
    mark_header(&v, 0, v.sound.n);
    EXCEPT(0, "\"norm_eps\": ", 12, 5, EPSILON);
    EXCEPT(0, "\"rope_theta\": ", 14, 5, THETA);
    EXCEPT(0, "\"rope_theta\"", 0, 12, THETA_KEY);
    sweep(&v);
    v = victim_of("consolidated.00.pth, zip", "zip", "consolidated.00.pth", false);
    mark_zip(&v);
    sweep(&v);
    m.legacy = true;
    model_write(&m, in_work("legacy"));
    v = victim_of("consolidated.00.pth, the older form", "legacy", "consolidated.00.pth", false);
    mark_legacy(&v);
    sweep(&v);
}

static void sweep_hugging_face(void) {
    model_write_as(&tiny, SAFETENSORS, in_work("safetensors"));
    params_with_theta("safetensors", "config.json", "rope_theta");
    victim v = victim_of("config.json", "safetensors", "config.json", false);
    mark_header(&v, 0, v.sound.n);
    EXCEPT(0, "\"rms_norm_eps\": ", 16, 5, EPSILON);
    EXCEPT(0, "\"rope_theta\": ", 14, 5, THETA);
    EXCEPT(0, "\"rope_theta\"", 0, 12, THETA_KEY);
    sweep(&v);
    v = victim_of("model.safetensors", "safetensors", "model.safetensors", false);
    uint64_t n;
    memcpy(&n, v.sound.at, 8);
    mark_header(&v, 0, 8 + (size_t)n);
    sweep(&v);
    model_write_as(&tiny, SAFETENSORS_SPLIT, in_work("index"));
    v = victim_of("model.safetensors.index.json", "index", "model.safetensors.index.json", false);
    mark_header(&v, 0, v.sound.n);
    sweep(&v);
    v = victim_of("the second of three safetensors", "index", "model-2.safetensors", false);
    memcpy(&n, v.sound.at, 8);
    mark_header(&v, 0, 8 + (size_t)n);
    sweep(&v);
    model_write_as(&tiny, TORCH, in_work("torch"));
    v = victim_of("pytorch_model.bin", "torch", "pytorch_model.bin", false);
    mark_zip(&v);
    sweep(&v);
}

/* ---- Vocabularies ---- */

typedef struct {
    const char *text;
    float score;
    int type;
} test_piece;

static const test_piece pieces[] = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}, {"ab", -0.5f, 1}, {"\xe2\x96\x81" "ab", -1, 1}, {"abc", -2, 1},
                                    {"cc", -3, 1}, {"\xe2\x96\x81", -4, 1}, {"a", -5, 1}, {"b", -6, 1}, {"c", -7, 1}, {"\xc3\xa9", -8, 1}};
enum { PIECES = sizeof pieces / sizeof *pieces };

static const char LETTERS[] = "the letters of a piece: another vocabulary's";
static const char SCORE[] = "a piece's score: another vocabulary's";
static const char SPACE_IN_FRONT[] = "whether a space goes in front: either is some vocabulary's";
static const char SQUEEZES[] = "whether spaces are squeezed or escaped: either is some vocabulary's";
static const char FUSES[] = "whether unknown characters are one <unk>: either is some vocabulary's";
static const char SPECIAL_KEY[] = "whether an added token is special: either is some vocabulary's";
static const char TYPE[] = "a piece's type: another vocabulary's";

static void proto_bytes(buffer *b, int field, const void *p, size_t n) { /* fields under 16, lengths under 128 */
    put_int(b, (uint64_t)field << 3 | 2, 1);
    put_int(b, n, 1);
    put(b, p, n);
}

static void proto_number(buffer *b, int field, uint64_t v) { /* under 128 */
    if (field < 16) put_int(b, (uint64_t)field << 3, 1);
    else put_int(b, ((uint64_t)field << 3 & 127) | 128, 1), put_int(b, (uint64_t)field >> 4, 1);
    put_int(b, v, 1);
}

static void proto_piece(buffer *b, const char *text, float score, int type) {
    buffer piece = {0};
    proto_bytes(&piece, 1, text, strlen(text));
    put_int(&piece, 2 << 3 | 5, 1), put(&piece, &score, 4);
    if (type != 1) proto_number(&piece, 3, (uint64_t)type); /* as SentencePiece leaves it away */
    proto_bytes(b, 1, piece.at, piece.n);
    free(piece.at);
}

/* trainer_spec and normalizer_spec, as LLaMA's */
static void proto_specs(buffer *b) {
    buffer s = {0};
    proto_bytes(&s, 2, "llama", 5); /* model_prefix */
    proto_number(&s, 3, 2);
    proto_number(&s, 4, PIECES);
    proto_number(&s, 35, 0); /* byte_fallback, with no bytes here */
    proto_number(&s, 40, 0), proto_number(&s, 41, 1), proto_number(&s, 42, 2);
    proto_bytes(b, 2, s.at, s.n);
    s.n = 0;
    proto_bytes(&s, 1, "identity", 8);
    proto_bytes(&s, 2, "", 0);
    proto_number(&s, 3, 1), proto_number(&s, 4, 0), proto_number(&s, 5, 1);
    proto_bytes(b, 3, s.at, s.n);
    free(s.at);
}

static buffer tokenizer_model(void) {
    buffer b = {0};
    for (int i = 0; i < PIECES; i++) proto_piece(&b, pieces[i].text, pieces[i].score, pieces[i].type);
    proto_specs(&b);
    return b;
}

static buffer tokenizer_bin(void) {
    buffer b = {0};
    put_int(&b, 7, 4);
    for (int i = 0; i < PIECES; i++) {
        bool spaced = strncmp(pieces[i].text, "\xe2\x96\x81", 3) == 0;
        char text[16];
        snprintf(text, sizeof text, i == 1 ? "\n<s>\n" : i == 2 ? "\n</s>\n" : spaced ? " %s" : "%s", pieces[i].text + (spaced ? 3 : 0));
        put(&b, &pieces[i].score, 4);
        put_int(&b, strlen(text), 4);
        put_text(&b, text);
    }
    return b;
}

static buffer tokenizer_json(void) {
    buffer b = {0};
    char text[96];
    put_text(&b, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (int i = 0; i < 3; i++) {
        snprintf(text, sizeof text, "%s{\"id\": %d, \"content\": \"%s\", \"special\": true}", i ? ", " : "", i, pieces[i].text);
        put_text(&b, text);
    }
    put_text(&b, "], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}, "
                 "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xe2\x96\x81\"}]}, \"pre_tokenizer\": null, "
                 "\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {");
    for (int i = 0; i < PIECES; i++) {
        snprintf(text, sizeof text, "%s\"%s\": %d", i ? ", " : "", pieces[i].text, i);
        put_text(&b, text);
    }
    put_text(&b, "}, \"merges\": [\"a b\", \"\xe2\x96\x81 ab\", \"ab c\", \"c c\"]}}");
    return b;
}

/* Pairs for GGUF; *n: how many. */
static buffer gguf_pairs(int *n) {
    buffer b = {0};
    const float theta = 500;
    gguf_text(&b, "llama.rope.freq_base");
    put_int(&b, 6, 4), put(&b, &theta, 4);
    gguf_u32(&b, "llama.rope.dimension_count", 4);
    gguf_text(&b, "tokenizer.ggml.model");
    put_int(&b, 8, 4);
    gguf_text(&b, "llama");
    gguf_text(&b, "tokenizer.ggml.tokens");
    put_int(&b, 9, 4), put_int(&b, 8, 4), put_int(&b, PIECES, 8);
    for (int i = 0; i < PIECES; i++) gguf_text(&b, pieces[i].text);
    gguf_text(&b, "tokenizer.ggml.scores");
    put_int(&b, 9, 4), put_int(&b, 6, 4), put_int(&b, PIECES, 8);
    for (int i = 0; i < PIECES; i++) put(&b, &pieces[i].score, 4);
    gguf_text(&b, "tokenizer.ggml.token_type");
    put_int(&b, 9, 4), put_int(&b, 5, 4), put_int(&b, PIECES, 8);
    for (int i = 0; i < PIECES; i++) put_int(&b, (uint64_t)pieces[i].type, 4);
    gguf_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    gguf_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    gguf_text(&b, "tokenizer.ggml.add_space_prefix");
    put_int(&b, 7, 4), put_int(&b, 1, 1);
    *n = 9;
    return b;
}

/* All but the elements, which are the file's end: those of every n-th tensor. */
static void mark_gguf(victim *v, int n) {
    model_weight w;
    size_t data = 0;
    for (int i = 0; model_nth(&tiny, true, i, &w); i += n) data += ((w.rows ? 2 * (size_t)w.rows : 4) * (size_t)w.cols + 63) / 64 * 64;
    mark_header(v, 0, v->sound.n - data);
}

static void sweep_gguf(void) {
    int n = 0;
    buffer pairs = gguf_pairs(&n), b = model_gguf(&tiny, 0, 1, &pairs, n);
    put_file(&b, work, "model.gguf");
    victim v = victim_of("GGUF", ".", "model.gguf", true);
    v.text = true;
    mark_gguf(&v, 1);
    EXCEPT(0, "rms_epsilon\6\0\0\0", 15, 4, EPSILON);
    EXCEPT(0, "llama.rope.freq_base\6\0\0\0", 24, 4, THETA);
    EXCEPT(0, "llama.rope.freq_base", 0, 20, THETA_KEY);
    size_t at = EXCEPT(0, "tokenizer.ggml.tokens", 37, 0, "");
    for (int i = 0; i < PIECES; i++) at = EXCEPT(at, "", 8, strlen(pieces[i].text), LETTERS);
    EXCEPT(0, "tokenizer.ggml.scores", 37, 4 * PIECES, SCORE);
    EXCEPT(0, "tokenizer.ggml.token_type", 41, 4 * PIECES, TYPE);
    EXCEPT(0, "tokenizer.ggml.bos_token_id\4\0\0\0", 31, 4, AROUND);
    EXCEPT(0, "tokenizer.ggml.eos_token_id\4\0\0\0", 31, 4, AROUND);
    EXCEPT(0, "tokenizer.ggml.add_space_prefix", 35, 1, SPACE_IN_FRONT);
    sweep(&v);
    free(pairs.at), free(b.at);
    model_write_as(&tiny, GGUF_SPLIT, in_work("split"));
    v = victim_of("GGUF, the first of two", "split", "model-00001-of-00002.gguf", true);
    mark_gguf(&v, 2);
    EXCEPT(0, "rms_epsilon\6\0\0\0", 15, 4, EPSILON);
    sweep(&v);
}

static void sweep_llama2c(void) {
    for (int version = 0; version < 2; version++) {
        model_write_as(&tiny, version ? BIN_1 : BIN_0, in_work("bin"));
        victim v = victim_of(version ? "llama2.c, version 1" : "llama2.c, version 0", "bin", version ? "model1.bin" : "model.bin", true);
        mark_header(&v, 0, version ? 256 : 28);
        sweep(&v);
    }
}

static void sweep_tokenizers(void) {
    static const char *const names[] = {"tokenizer.model", "tokenizer.bin", "tokenizer.json"};
    buffer files[] = {tokenizer_model(), tokenizer_bin(), tokenizer_json()};
    model_write_as(&tiny, BIN_1, in_work("bin"));
    for (int k = 0; k < 3; k++) {
        put_file(&files[k], work, names[k]);
        victim v = victim_of(names[k], ".", names[k], true);
        size_t at = k == 1 ? 4 : 0;
        v.text = v.tokenizer = true;
        snprintf(v.path, sizeof v.path, "%s/bin/model1.bin", work);
        mark_header(&v, 0, v.sound.n);
        if (k == 2) at = EXCEPT(0, "\"vocab\": {", 10, 0, "");
        for (int i = 0; i < PIECES; i++) {
            size_t length = strlen(pieces[i].text);
            if (k == 1) {
                at = EXCEPT(at, "", 0, 4, SCORE);
                at = EXCEPT(at, "", 4, v.sound.at[at], LETTERS);
            } else at = except(&v, at, pieces[i].text, length, 0, length, LETTERS);
            if (k == 0) at = EXCEPT(at, "\x15", 1, 4, SCORE);
            if (k == 0 && pieces[i].type != 1) at = EXCEPT(at, "\x18", 1, 1, TYPE);
        }
        if (k == 0) EXCEPT(0, "identity\x12\0\x18", 11, 1, SPACE_IN_FRONT);
        if (k == 0) EXCEPT(0, "identity\x12\0\x18", 12, 4, SQUEEZES);
        if (k == 2) EXCEPT(0, "\"fuse_unk\"", 1, 8, FUSES);
        for (size_t token = 0, from = 0; k == 2 && token < 3; token++) /* <unk>, which is it without, <s>, </s> */
            from = EXCEPT(from, "\"special\"", 1, token ? 7 : 0, SPECIAL_KEY);
        sweep(&v);
        free(files[k].at);
    }
}

/* ---- Malformed on purpose, one by one ---- */

typedef struct {
    const char *path, *file; /* in WORKDIR: what is opened, what is bent */
    bool tokenizer;
} base;

static const base ZIP = {"zip", "zip/consolidated.00.pth", false}, OLDER = {"legacy", "legacy/consolidated.00.pth", false},
                  PARAMS_JSON = {"zip", "zip/params.json", false}, CONFIG = {"safetensors", "safetensors/config.json", false},
                  SAFE = {"safetensors", "safetensors/model.safetensors", false}, INDEX = {"index", "index/model.safetensors.index.json", false},
                  WHOLE_GGUF = {"model.gguf", "model.gguf", false}, SECOND_GGUF = {"split/model-00001-of-00002.gguf", "split/model-00002-of-00002.gguf", false},
                  BIN0 = {"bin/model.bin", "bin/model.bin", false}, BIN1 = {"bin/model1.bin", "bin/model1.bin", false},
                  MODEL = {"bin/model1.bin", "tokenizer.model", true}, BIN = {"bin/model1.bin", "tokenizer.bin", true},
                  JSON = {"bin/model1.bin", "tokenizer.json", true};

static int directed; /* files so far */

static buffer sound_file(const base *f) {
    buffer b = {0};
    size_t n = 0;
    char *sound = read_file(in_work(f->file), &n);
    if (!check(sound != NULL, "%s", f->file)) exit(1);
    put(&b, sound, n);
    free(sound);
    return b;
}

/* With b in the place of the file: refused with that code and word, by a line that names a file and says what to do. */
static void refuse(const base *f, const char *what, const buffer *b, int code, const char *says) {
    buffer sound = sound_file(f);
    char path[2048], file[2048];
    llama_options o = {.size = sizeof o, .tokenizer = f->tokenizer ? file : NULL, .allocator = &pooled};
    llama *m = NULL;
    llama_error err = {0, ""};
    snprintf(path, sizeof path, "%s", in_work(f->path));
    snprintf(file, sizeof file, "%s", in_work(f->file));
    check(write_file(file, b), "%s", file);
    double begin = seconds();
    int status = llama_open(&m, path, &o, &err);
    check(status == code && err.status == code && !m && seconds() - begin < 1, "%s: %d, %s", what, status, err.text);
    check(strstr(err.text, says) && strstr(err.text, work) && strchr(err.text, ';') && !strchr(err.text, '\n'), "%s says: %s", what, err.text);
    llama_close(m);
    check(write_file(file, &sound), "%s", file);
    free(sound.at);
    directed++;
}

/* The first `from` replaced. A safetensors header says how long it is. */
static void bend(const base *f, const char *what, const void *from, size_t n_from, const void *to, size_t n_to, const char *says) {
    buffer sound = sound_file(f), b = {0};
    size_t at = 0;
    while (at + n_from <= sound.n && memcmp(sound.at + at, from, n_from) != 0) at++;
    if (!check(at + n_from <= sound.n, "%s: nothing to replace", what)) return;
    put(&b, sound.at, at);
    put(&b, to, n_to);
    put(&b, sound.at + at + n_from, sound.n - at - n_from);
    if (f == &SAFE && at >= 8) {
        uint64_t n;
        memcpy(&n, b.at, 8);
        n += n_to - n_from;
        memcpy(b.at, &n, 8);
    }
    refuse(f, what, &b, LLAMA_EFORMAT, says);
    free(sound.at), free(b.at);
}
#define BEND(f, what, from, to, says) bend(&f, what, from, sizeof(from) - 1, to, sizeof(to) - 1, says)

/* n bytes put `skip` behind the nth (from 0) `mark`, or behind the last if there are fewer. */
static void poke(const base *f, const char *what, const char *mark, size_t length, int nth, size_t skip, uint64_t v, int n, const char *says) {
    buffer b = sound_file(f);
    size_t at = 0;
    for (size_t i = 0; i + length <= b.n && nth >= 0; i++)
        if (memcmp(b.at + i, mark, length) == 0) at = i, nth--;
    for (int i = 0; i < n && at + skip + (size_t)i < b.n; i++) b.at[at + skip + (size_t)i] = (unsigned char)(v >> 8 * i);
    refuse(f, what, &b, LLAMA_EFORMAT, says);
    free(b.at);
}
#define POKE(f, what, mark, nth, skip, v, n, says) poke(&f, what, mark, sizeof(mark) - 1, nth, skip, v, n, says)

static void add(const base *f, const char *what, const void *p, size_t n, const char *says) {
    buffer b = sound_file(f);
    put(&b, p, n);
    refuse(f, what, &b, LLAMA_EFORMAT, says);
    free(b.at);
}
static void make(const base *f, const char *what, const void *p, size_t n, const char *says) {
    buffer b = {0};
    put(&b, p, n);
    refuse(f, what, &b, LLAMA_EFORMAT, says);
    free(b.at);
}
#define ADD(f, what, literal, says) add(&f, what, literal, sizeof(literal) - 1, says)
#define MAKE(f, what, literal, says) make(&f, what, literal, sizeof(literal) - 1, says)

/* ---- Zip ---- */

/* The first entry's sizes and offset moved to an extra field: these bytes. It opens if code is LLAMA_OK. */
static void extra_case(const char *what, const void *extra, size_t n, const char *says) {
    buffer sound = sound_file(&ZIP), b = {0};
    size_t d = 0, e = 0;
    while (memcmp(sound.at + d, "PK\1\2", 4) != 0) d++;
    while (memcmp(sound.at + e, "PK\6\6", 4) != 0) e++;
    size_t behind = d + 46 + sound.at[d + 28];
    put(&b, sound.at, behind);
    put(&b, extra, n);
    put(&b, sound.at + behind, sound.n - behind);
    memset(b.at + d + 20, 0xff, 8), memset(b.at + d + 42, 0xff, 4);
    b.at[d + 30] = (unsigned char)n;
    e += n;
    uint64_t bytes = e - d;
    memcpy(b.at + e + 40, &bytes, 8); /* the zip64 end, then its locator */
    bytes = e;
    memcpy(b.at + e + 56 + 8, &bytes, 8);
    if (says) refuse(&ZIP, what, &b, LLAMA_EFORMAT, says);
    else {
        llama *m = NULL;
        llama_error err;
        check(write_file(in_work(ZIP.file), &b) && llama_open(&m, in_work(ZIP.path), NULL, &err) == LLAMA_OK, "%s: %s", what, err.text);
        llama_close(m);
        check(write_file(in_work(ZIP.file), &sound), "put back");
    }
    free(sound.at), free(b.at);
}
#define EXTRA(what, literal, says) extra_case(what, literal, sizeof(literal) - 1, says)

static void directed_zip(void) {
    static char empty[512 + 22];
    memcpy(empty + 512, "PK\5\6", 4);
    POKE(ZIP, "a comment that is not there", "PK\5\6", 0, 20, 1, 2, "no zip end record");
    ADD(ZIP, "three bytes behind the end", "abc", "no zip end record");
    make(&ZIP, "an end record of 21 bytes", empty, sizeof empty - 1, "no zip end record");
    make(&ZIP, "an archive of nothing", empty, sizeof empty, "no data.pkl");
    MAKE(ZIP, "an end record and no more", "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "fewer weights");
    POKE(ZIP, "the zip64 end is another record", "PK\6\6", 0, 3, 7, 1, "zip64 end record is not where");
    POKE(ZIP, "a locator that points behind the file", "PK\6\7", 0, 8, 1 << 20, 8, "zip64 end record is not where");
    POKE(ZIP, "a locator that points to 2^64 - 1", "PK\6\7", 0, 8, UINT64_MAX, 8, "zip64 end record is not where");
    POKE(ZIP, "a directory at 2^63", "PK\6\6", 0, 48, 1ull << 63, 8, "zip directory is outside");
    POKE(ZIP, "a directory of 2^64 - 1 bytes", "PK\6\6", 0, 40, UINT64_MAX, 8, "zip directory is outside");
    POKE(ZIP, "2^63 entries", "PK\6\6", 0, 32, 1ull << 63, 8, "declares too many entries");
    POKE(ZIP, "one entry more", "PK\6\6", 0, 32, 15, 8, "directory is damaged");
    POKE(ZIP, "two entries fewer", "PK\6\6", 0, 32, 12, 8, "no data.pkl");
    POKE(ZIP, "three bytes of directory", "PK\6\6", 0, 40, 3, 8, "declares too many entries");
    POKE(ZIP, "a directory that begins late", "PK\6\6", 0, 48, 2000, 2, "directory is damaged");
    POKE(ZIP, "an entry that is no entry", "PK\1\2", 3, 2, 5, 1, "directory is damaged");
    POKE(ZIP, "deflated", "PK\1\2", 0, 10, 8, 2, "compressed");
    POKE(ZIP, "encrypted", "PK\1\2", 0, 8, 0x0809, 2, "encrypted");
    POKE(ZIP, "packed to another size", "PK\1\2", 0, 20, 100, 4, "compressed");
    POKE(ZIP, "an entry of 2 GiB", "PK\1\2", 0, 20, 0x7fffffff7fffffff, 8, "past the end");
    POKE(ZIP, "an entry of 4 GiB, without zip64", "PK\1\2", 0, 20, UINT64_MAX, 8, "past the end");
    POKE(ZIP, "an entry of one byte less", "PK\1\2", 0, 20, 0x000000bf000000bf, 8, "does not end");
    POKE(ZIP, "an entry far away", "PK\1\2", 0, 42, 0x7fffffff, 4, "not where");
    POKE(ZIP, "an entry where another is", "PK\1\2", 2, 42, 0, 4, "not where");
    POKE(ZIP, "a name of 65535 bytes", "PK\1\2", 0, 28, 65535, 2, "directory is damaged");
    POKE(ZIP, "an extra field of 65535 bytes", "PK\1\2", 0, 30, 65535, 2, "directory is damaged");
    POKE(ZIP, "a comment of 65535 bytes", "PK\1\2", 0, 32, 65535, 2, "directory is damaged");
    POKE(ZIP, "a header that is none", "PK\3\4", 0, 2, 5, 1, "not where");
    POKE(ZIP, "a header of another name", "PK\3\4", 0, 30, 'A', 1, "not where");
    POKE(ZIP, "a header with a longer name", "PK\3\4", 0, 26, 15, 2, "not where");
    POKE(ZIP, "a header with 64 bytes more of extra field", "PK\3\4", 0, 28, 20 + 64, 2, "extra field");
    POKE(ZIP, "a header with an extra field of 65535 bytes", "PK\3\4", 0, 28, 65535, 2, "past the end");
    POKE(ZIP, "an extra field that is longer inside", "FB", 0, 2, 17, 2, "extra field");
    POKE(ZIP, "a storage under another root", "archive/data/1PK", 0, 0, 'x', 1, "not where");
    POKE(ZIP, "a storage of another's key", "HalfStorage\nX\1\0\0\0" "1", 0, 17, '3', 1, "no tensor");
    EXTRA("zip64 as it should be", "\1\0\x18\0\xc0\0\0\0\0\0\0\0\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", NULL);
    EXTRA("zip64 behind another field", "\x7f\0\2\0ab\1\0\x18\0\xc0\0\0\0\0\0\0\0\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", NULL);
    EXTRA("zip64 without the offset", "\1\0\x10\0\xc0\0\0\0\0\0\0\0\xc0\0\0\0\0\0\0\0", "zip64 field is truncated");
    EXTRA("zip64 with half a size", "\1\0\4\0\xc0\0\0\0", "zip64 field is truncated");
    EXTRA("zip64 of 2^63 bytes", "\1\0\x18\0\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\0", "past the end");
    EXTRA("zip64 at 2^64 - 1", "\1\0\x18\0\xc0\0\0\0\0\0\0\0\xc0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", "not where");
    EXTRA("zip64 packed", "\1\0\x18\0\xc0\0\0\0\0\0\0\0\xbf\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "compressed");
    EXTRA("a field longer than all of them", "\1\0\xff\0\xc0\0\0\0", "not where");
}

/* ---- Pickles ---- */

static void pickle_case(const char *what, const char *bytes, size_t n, const char *says) {
    zip z = {0};
    zip_add(&z, "a/data.pkl", bytes, n);
    zip_add(&z, "a/data/0", "0123456789abcdef", 16);
    buffer file = zip_end(&z);
    refuse(&ZIP, what, &file, LLAMA_EFORMAT, says);
    free(file.at);
}
#define PICKLE(what, literal, says) pickle_case(what, literal, sizeof(literal) - 1, says)

/* A storage of 8 halves, and a tensor of it: its offset, shape and stride. */
#define STORAGE "(X\7\0\0\0storagectorch\nHalfStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\x08tQ"
#define TENSOR(name, arguments) "\x80\2}X" name "ctorch._utils\n_rebuild_tensor_v2\n(" STORAGE arguments "\x89)tRs."
#define NORM "\x0b\0\0\0norm.weight"

static void directed_pickle(void) {
    static char global[600] = "\x80\2c";
    PICKLE("a protocol without its number", "\x80", "program is truncated");
    PICKLE("a frame cut short", "\x80\4\x95\0\0", "program is truncated");
    PICKLE("a number cut short", "\x80\2J\1", "program is truncated");
    PICKLE("a string longer than the file", "\x80\4\x8c\xff" "abc", "string");
    PICKLE("LONG1 of 9 bytes", "\x80\2\x8a\x09" "123456789.", "more than 8 bytes");
    PICKLE("MEMOIZE of nothing", "\x80\4\x94.", "memo");
    PICKLE("PUT with a gap", "\x80\2}q\5.", "out of order");
    PICKLE("LONG_BINGET of nothing", "\x80\2j\0\0\0\x80.", "no such value");
    PICKLE("TUPLE without a mark", "\x80\2K\1t.", "mark");
    PICKLE("TUPLE1 of nothing", "\x80\2\x85.", "stack is empty");
    PICKLE("TUPLE2 of one", "\x80\2K\1\x86.", "stack is empty");
    PICKLE("APPEND to a dict", "\x80\2}K\1a.", "not a list");
    PICKLE("APPENDS to nothing", "\x80\2(K\1e.", "not a list");
    PICKLE("APPENDS without a mark", "\x80\2]e.", "mark");
    PICKLE("SETITEMS on a list", "\x80\2](K\1K\2u.", "not a dict");
    PICKLE("a mark for a dict", "\x80\2(.", "not a dict");
    PICKLE("a list", "\x80\2].", "not a dict");
    PICKLE("True", "\x80\2\x88.", "not a dict");
    PICKLE("a text", "\x80\2X\1\0\0\0" "a.", "not a dict");
    PICKLE("a storage", "\x80\2" STORAGE ".", "not a dict");
    PICKLE("one global's name", "\x80\4\x8c\2os\x93.", "global has no module or no name");
    PICKLE("QInt8Storage", "\x80\2" "ctorch\nQInt8Storage\n.", "'torch QInt8Storage'");
    PICKLE("a storage of another module", "\x80\2" "ctorch.x\nHalfStorage\n.", "'torch.x HalfStorage'");
    PICKLE("NEWOBJ of a dict", "\x80\2" "ccollections\nOrderedDict\n)\x81.", "opcode 0x81");
    PICKLE("NEWOBJ without arguments", "\x80\2" "cargparse\nNamespace\nK\1\x81.", "it calls something");
    PICKLE("a Namespace for a dict", "\x80\2" "cargparse\nNamespace\n)\x81.", "not a dict");
    PICKLE("a tensor of integers for a weight", "\x80\2}X" NORM "ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nLongStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\2tQK\0K\2\x85K\1\x85\x89)tRs.", "is I64, not supported");
    PICKLE("checkpoints in checkpoints without end", "\x80\2}q\1X\5\0\0\0modelh\1s.", "no tensor");
    PICKLE("another function of torch._utils", "\x80\2" "ctorch._utils\n_rebuild_sparse_tensor\n.", "_rebuild_sparse_tensor'");
    PICKLE("a global of torch that is code", "\x80\2" "ctorch.hub\nload\n.", "'torch.hub load'");
    PICKLE("a function in disguise", "\x80\2" "ctorch\n_utils._rebuild_tensor_v2\n.", "which is not allowed");
    memset(global + 3, 'g', 500);
    memcpy(global + 503, "\nname\n.", 7);
    pickle_case("a module's name of 500 bytes", global, 510, "which is not allowed");
    PICKLE("EXT1", "\x80\2\x82\1.", "opcode 0x82");
    PICKLE("NEWOBJ_EX", "\x80\4)}\x92.", "opcode 0x92");
    PICKLE("GET of protocol 0", "\x80\2g0\n.", "opcode 0x67");
    PICKLE("BINBYTES", "\x80\3B\1\0\0\0a.", "opcode 0x42");
    PICKLE("FLOAT", "\x80\2G\0\0\0\0\0\0\0\0.", "not a dict");
    PICKLE("half a FLOAT", "\x80\2G\0\0\0.", "program is truncated");
    PICKLE("PERSID of protocol 0", "\x80\2Pstorage\n.", "opcode 0x50");
    PICKLE("OrderedDict of a number", "\x80\2" "ccollections\nOrderedDict\nK\1R.", "it calls something");
    PICKLE("a storage is called", "\x80\2" "ctorch\nHalfStorage\n)R.", "it calls something");
    PICKLE("_rebuild_parameter of a number", "\x80\2" "ctorch._utils\n_rebuild_parameter\nK\1\x85R.", "it calls something");
    PICKLE("a persistent id of four", "\x80\2(X\7\0\0\0storagectorch\nHalfStorage\nX\1\0\0\0" "0X\3\0\0\0cputQ.", "persistent id");
    PICKLE("a persistent id of no storage", "\x80\2(X\7\0\0\0STORAGEctorch\nHalfStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\x08tQ.", "persistent id");
    PICKLE("a storage of dicts", "\x80\2(X\7\0\0\0storageccollections\nOrderedDict\nX\1\0\0\0" "0X\3\0\0\0cpuK\x08tQ.", "persistent id");
    PICKLE("a storage whose key is a number", "\x80\2(X\7\0\0\0storagectorch\nHalfStorage\nK\0X\3\0\0\0cpuK\x08tQ.", "persistent id");
    PICKLE("a storage whose length is a text", "\x80\2(X\7\0\0\0storagectorch\nHalfStorage\nX\1\0\0\0" "0X\3\0\0\0cpuX\1\0\0\0" "8tQ.", "persistent id");
    PICKLE("a tensor of nothing", "\x80\2" "ctorch._utils\n_rebuild_tensor_v2\n)R.", "malformed");
    PICKLE("a tensor of a number", "\x80\2" "ctorch._utils\n_rebuild_tensor_v2\n(K\1K\0)))tR.", "malformed");
    PICKLE("an offset that is a text", TENSOR(NORM, "X\1\0\0\0" "0K\x08\x85K\1\x85"), "malformed");
    PICKLE("a shape that is a number", TENSOR(NORM, "K\0K\x08K\1\x85"), "malformed");
    PICKLE("a shape without a stride", TENSOR(NORM, "K\0K\x08\x85)"), "malformed");
    PICKLE("five dimensions", TENSOR(NORM, "K\0(K\1K\1K\1K\1K\x08t(K\1K\1K\1K\1K\1t"), "malformed");
    PICKLE("a size of 0", TENSOR(NORM, "K\0K\0\x85K\1\x85"), "is empty");
    PICKLE("a size of -1", TENSOR(NORM, "K\0J\xff\xff\xff\xff\x85K\1\x85"), "a size or a stride that is not valid");
    PICKLE("a size that is a text", TENSOR(NORM, "K\0X\1\0\0\0" "8\x85K\1\x85"), "a size or a stride that is not valid");
    PICKLE("a stride of -1", TENSOR(NORM, "K\0K\x08\x85J\xff\xff\xff\xff\x85"), "a size or a stride that is not valid");
    PICKLE("a stride of 0", TENSOR(NORM, "K\0K\x08\x85K\0\x85"), "overlap");
    PICKLE("a stride of 2", TENSOR(NORM, "K\0K\x08\x85K\2\x85"), "past the end of its storage");
    PICKLE("rows that overlap by one", TENSOR(NORM, "K\0K\2K\3\x86K\2K\1\x86"), "overlap");
    PICKLE("columns that are the rows", TENSOR(NORM, "K\0K\2K\2\x86K\1K\1\x86"), "overlap");
    PICKLE("an offset of 1", TENSOR(NORM, "K\1K\x08\x85K\1\x85"), "past the end of its storage");
    PICKLE("three dimensions", TENSOR(NORM, "K\0K\2K\2K\2\x87K\4K\2K\1\x87"), "neither a vector nor a matrix");
    PICKLE("no dimension", TENSOR(NORM, "K\0))"), "neither a vector nor a matrix");
    PICKLE("a layer that is not there", TENSOR("\x1e\0\0\0layers.1.attention_norm.weight", "K\0K\x08\x85K\1\x85"), "not part of a LLaMA");
    PICKLE("a layer of 20 digits", TENSOR("\x22\0\0\0layers.00000000000000000000.weight", "K\0K\x08\x85K\1\x85"), "not part of a LLaMA");
    PICKLE("a layer of letters", TENSOR("\x18\0\0\0layers.x.ffn_norm.weight", "K\0K\x08\x85K\1\x85"), "not part of a LLaMA");
    PICKLE("a layer's bias", TENSOR("\x1a\0\0\0layers.0.attention.wq.bias", "K\0K\x08\x85K\1\x85"), "not part of a LLaMA");
    PICKLE("only one weight", TENSOR(NORM, "K\0K\x08\x85K\1\x85"), "tok_embeddings.weight is missing");
}

static void directed_older(void) {
    BEND(OLDER, "its form is a text", "M\xe9\3.", "X\1\0\0\0" "a.", "not a dict");
    BEND(OLDER, "its form is 1", "M\xe9\3.", "K\1.", "not 1001");
    BEND(OLDER, "its machine is a list", "\x80\2}(X\x10\0\0\0protocol", "\x80\2](X\x10\0\0\0protocol", "not a dict");
    BEND(OLDER, "no keys", "\x80\2](X", "\x80\2].X", "after its last storage");
    BEND(OLDER, "a key of 4 GiB", "\x80\2](X\4\0\0\0", "\x80\2](X\xff\xff\xff\xff", "string");
    BEND(OLDER, "keys that are numbers", "\x80\2](X\4\0\0\0" "9000", "\x80\2](J\0\0\0\0K\0\x85", "after its last storage");
    ADD(OLDER, "a byte behind it", "\0", "after its last storage");
    BEND(OLDER, "a storage of nothing", "e.\x60\0\0\0\0\0\0\0", "e.\0\0\0\0\0\0\0\0", "storage is truncated");
    BEND(OLDER, "a storage of -1", "e.\x60\0\0\0\0\0\0\0", "e.\xff\xff\xff\xff\xff\xff\xff\xff", "storage is truncated");
}

/* ---- JSON ---- */

/* {"dim": 8, ...} with another value for dim, or something in front of it. */
static void directed_json(void) {
    static const struct {
        const char *what, *dim;
    } cases[] = {
        {"a fraction without digits", "8."}, {"a fraction alone", ".8e1"}, {"a zero in front", "08"}, {"a plus", "+8"}, {"hexadecimal", "8x0"},
        {"an exponent without digits", "8e+"}, {"a minus alone", "-"}, {"a minus and a space", "- 8"}, {"NaN", "NaN"}, {"Infinity", "-Infinity"},
        {"TRUE", "TRUE"}, {"nothing", ""}, {"single quotes", "'8'"}, {"a comment", "8 /* heads */"}, {"an escape that is none", "\"\\x38\""}, {"a line in a text", "\"8\n\""}, {"a key without quotes", "8, heads: 2"}, {"a key alone", "8, \"heads\""},
        {"a number for a key", "8, 7: 8"}, {"two colons", ": 8"}, {"a list for a key", "8, []: 1"}, {"a bracket that was not opened", "8]"},
    };
    char text[700], digits[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "\"dim\": %s,", cases[i].dim);
        bend(&PARAMS_JSON, cases[i].what, "\"dim\": 8,", 9, text, strlen(text), "JSON object");
    }
    memset(digits, '1', 500), digits[500] = 0;
    snprintf(text, sizeof text, "\"dim\": %s,", digits);
    bend(&PARAMS_JSON, "a number of 500 digits", "\"dim\": 8,", 9, text, strlen(text), "JSON object");
    snprintf(text, sizeof text, "\"dim\": 8.%s,", digits);
    bend(&PARAMS_JSON, "a fraction of 500 digits", "\"dim\": 8,", 9, text, strlen(text), "JSON object");
    snprintf(text, sizeof text, "{\"%s\": {\"a\": 1}, ", digits);
    bend(&PARAMS_JSON, "an object under a key of 500 bytes", "{", 1, text, strlen(text), "not a setting of LLaMA");
    BEND(PARAMS_JSON, "a byte order mark", "{", "\xef\xbb\xbf{", "see byte 0;");
    BEND(PARAMS_JSON, "UTF-16", "{\"", "{\0\"\0", "JSON object");
    ADD(PARAMS_JSON, "a 0 behind it", "\0", "JSON object");
    ADD(PARAMS_JSON, "twice", "{}", "JSON object");
    MAKE(PARAMS_JSON, "a text", "\"params\"", "JSON object");
    MAKE(PARAMS_JSON, "spaces", "  \n", "JSON object");
    MAKE(PARAMS_JSON, "null", "null", "JSON object");
    BEND(PARAMS_JSON, "a key with an escape", "\"dim\"", "\"d\\u0069m\"", "is missing; use the file");
    BEND(PARAMS_JSON, "no norm_eps", "norm_eps", "normieps", "is missing; use the file");
    BEND(PARAMS_JSON, "a text that does not end", "500.0}", "\"500.0}", "JSON object");
    BEND(PARAMS_JSON, "an infinite number", "\"dim\": 8,", "\"dim\": 1e999,", "'dim'");
    BEND(PARAMS_JSON, "a dim of 2^53 + 1", "\"dim\": 8,", "\"dim\": 9007199254740993,", "'dim'");
    BEND(PARAMS_JSON, "half a layer", "\"n_layers\": 1", "\"n_layers\": 1.5", "'n_layers'");
    BEND(PARAMS_JSON, "more heads than dim", "\"n_heads\": 2", "\"n_heads\": 16", "n_heads must divide the width");
    BEND(PARAMS_JSON, "no key-value heads", "\"n_kv_heads\": 1", "\"n_kv_heads\": 0", "'n_kv_heads'");
    BEND(PARAMS_JSON, "more key-value heads than heads", "\"n_kv_heads\": 1", "\"n_kv_heads\": 4", "n_kv_heads must divide n_heads");
    BEND(PARAMS_JSON, "a vocabulary of -2", "\"vocab_size\": -1", "\"vocab_size\": -2", "'vocab_size'");
    BEND(PARAMS_JSON, "a norm_eps of 2", "1e-05", "2", "'norm_eps'");
    BEND(PARAMS_JSON, "a norm_eps below 0", "1e-05", "-1e-05", "'norm_eps'");
    BEND(PARAMS_JSON, "a rope_theta below 1", "500.0", "0.5", "'rope_theta'");
    BEND(PARAMS_JSON, "a multiple_of of 0", "{", "{\"multiple_of\": 0, ", "'multiple_of'");
    BEND(PARAMS_JSON, "an ffn_dim_multiplier below 0", "{", "{\"ffn_dim_multiplier\": -1.3, ", "'ffn_dim_multiplier'");
    BEND(PARAMS_JSON, "use_scaled_rope as a number", "{", "{\"use_scaled_rope\": 1, ", "use_scaled_rope");
    BEND(PARAMS_JSON, "a factor without use_scaled_rope", "{", "{\"rope_scaling_factor\": 16, ", "'rope_scaling_factor' scales RoPE by 16");
    BEND(PARAMS_JSON, "a high below Meta's low", "{", "{\"use_scaled_rope\": true, \"rope_high_freq_factor\": 0.5, ", "'rope_high_freq_factor' is 0.5, but must be more than the low factor, 1");
    BEND(PARAMS_JSON, "a list", "{", "{\"layers\": [0], ", "not a setting of LLaMA");
    BEND(CONFIG, "no heads' width", "{", "{\"head_dim\": 0, ", "'head_dim'");
    BEND(CONFIG, "a head of 5", "{", "{\"head_dim\": 5, ", "head width is odd");
    BEND(CONFIG, "heads of 2^20", "{", "{\"head_dim\": 1048576, ", "n_heads times the head width is more");
    BEND(CONFIG, "heads of 2^18", "{", "{\"head_dim\": 262144, ", "fewer weights than the shape");
    BEND(CONFIG, "heads of 2^60", "{", "{\"head_dim\": 1152921504606846976, ", "'head_dim' is");
    BEND(CONFIG, "heads of another width than the files'", "{", "{\"head_dim\": 6, ", "not the [12][8] of config.json");
#define SCALED(what, members, says) BEND(CONFIG, what, "{", "{\"rope_scaling\": {" members "}, ", says)
#define LLAMA3(factor, low, high, original) "\"rope_type\": \"llama3\", \"factor\": " factor ", \"low_freq_factor\": " low \
    ", \"high_freq_factor\": " high ", \"original_max_position_embeddings\": " original
    SCALED("dynamic NTK", "\"type\": \"dynamic\", \"factor\": 2.0", "'type' dynamic is not a setting");
    SCALED("YaRN", "\"rope_type\": \"yarn\", \"factor\": 4.0", "'rope_type' yarn is not a setting");
    SCALED("LongRoPE", "\"rope_type\": \"longrope\", \"long_factor\": [1.0]", "'rope_type' longrope is not a setting");
    SCALED("a type that is true", "\"rope_type\": true", "'rope_type' is not a setting");
    SCALED("two types", "\"rope_type\": \"llama3\", \"type\": \"linear\", \"factor\": 8.0", "is given twice, with different values");
    SCALED("a factor alone", "\"factor\": 8.0", "'factor' scales RoPE by 8, but 'rope_type' does not say how");
    SCALED("a factor of none", "\"rope_type\": \"default\", \"factor\": 8.0", "does not say how");
    SCALED("linear without a factor", "\"type\": \"linear\"", "RoPE is scaled (linear), but 'factor' is missing");
    SCALED("a factor of 0", "\"type\": \"linear\", \"factor\": 0", "'factor' must be");
    SCALED("a factor below 0", "\"type\": \"linear\", \"factor\": -4.0", "'factor' must be");
    SCALED("a factor of NaN", "\"type\": \"linear\", \"factor\": NaN", "JSON");
    SCALED("an infinite factor", "\"type\": \"linear\", \"factor\": 1e999", "'factor' is inf");
    SCALED("a factor that is a text", "\"type\": \"linear\", \"factor\": \"4\"", "'factor' must be");
    SCALED("llama3 without its constants", "\"rope_type\": \"llama3\", \"factor\": 8.0", "RoPE is scaled (llama3), but 'low_freq_factor' is missing");
    SCALED("low and high equal", LLAMA3("8.0", "4.0", "4.0", "8192"), "but must be more than the low factor");
    SCALED("low above high", LLAMA3("8.0", "4.0", "1.0", "8192"), "but must be more than the low factor");
    SCALED("low and high nearly equal", LLAMA3("8.0", "4.0", "4.00001", "8192"), "but must be more than the low factor");
    SCALED("a low of 0", LLAMA3("8.0", "0", "4.0", "8192"), "'low_freq_factor' must be");
    SCALED("a high of 1e9", LLAMA3("8.0", "1.0", "1e9", "8192"), "'high_freq_factor' is");
    SCALED("no positions before", LLAMA3("8.0", "1.0", "4.0", "0"), "'original_max_position_embeddings' must be");
    SCALED("half a position before", LLAMA3("8.0", "1.0", "4.0", "8192.5"), "'original_max_position_embeddings' must be");
    BEND(CONFIG, "positions before twice", "{", "{\"original_max_position_embeddings\": 4096, \"rope_scaling\": {" LLAMA3("8.0", "1.0", "4.0", "8192") "}, ", "twice");
    SCALED("two scalings", "\"type\": \"linear\", \"factor\": 4.0}, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0", "'rope_scaling' is given twice; remove one of them");
    BEND(CONFIG, "a scaling and null", "{", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}, \"rope_scaling\": null, ", "'rope_scaling' is given twice");
    BEND(CONFIG, "no parameters and some", "{", "{\"rope_parameters\": null, \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4.0}, ", "'rope_parameters' is given twice");
#undef SCALED
#undef LLAMA3
    BEND(CONFIG, "a rope_theta as a text", "500.0", "\"500\"", "'rope_theta'");
    BEND(CONFIG, "no positions", "\"max_position_embeddings\": 512", "\"max_position_embeddings\": 0", "max_position_embeddings");
    BEND(CONFIG, "a window of -1", "{", "{\"sliding_window\": -1, ", "sliding_window");
    BEND(CONFIG, "half a head turned", "{", "{\"partial_rotary_factor\": 0.5, ", "partial_rotary_factor");
    BEND(CONFIG, "key-value heads that do not divide", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 5", "n_kv_heads must divide n_heads");
    BEND(CONFIG, "two architectures", "[\"LlamaForCausalLM\"]", "[\"LlamaForCausalLM\", \"MistralForCausalLM\"]", "Mistral");
    BEND(CONFIG, "a model of another type", "\"llama\"", "\"llama4_text\"", "llama4_text");
    BEND(CONFIG, "biases as a text", "{", "{\"mlp_bias\": \"no\", ", "mlp_bias");
}

/* A header of their own in front of 512 zeros. */
static void padded(const char *what, const char *header, size_t n, const char *says) {
    static const char zeros[512];
    buffer b = {0};
    put_int(&b, n, 8);
    put(&b, header, n);
    put(&b, zeros, sizeof zeros);
    refuse(&SAFE, what, &b, LLAMA_EFORMAT, says);
    free(b.at);
}
#define PADDED(what, literal, says) padded(what, literal, sizeof(literal) - 1, says)

static void directed_safetensors(void) {
    POKE(SAFE, "a header of 0 bytes", "", 0, 0, 0, 8, "not JSON");
    POKE(SAFE, "a header of 1 byte", "", 0, 0, 1, 8, "not JSON");
    POKE(SAFE, "a header of 2^63 bytes", "", 0, 0, 1ull << 63, 8, "header is truncated");
    POKE(SAFE, "a header of all the file and one", "", 0, 0, 2679, 8, "header is truncated");
    MAKE(SAFE, "seven bytes", "\2\0\0\0\0\0\0", "fewer weights");
    PADDED("no tensors", "{}", "not JSON, or has no tensors");
    PADDED("metadata alone", "{\"__metadata__\":{}}", "not JSON, or has no tensors");
    PADDED("a list", "[]", "not JSON, or has no tensors");
    PADDED("a tensor that is a number", "{\"a\":5}", "not a safetensors header");
    PADDED("a tensor of nothing", "{\"a\":{}}", "no valid entry");
    ADD(SAFE, "two bytes behind the tensors", "\0\0", "do not end at the end");
    BEND(SAFE, "a 0 behind the header", "]}}", "]}}\0", "not JSON");
    BEND(SAFE, "two tensors in one place", "[192,208]", "[0,16]", "where the tensor before it ends");
    BEND(SAFE, "a hole", "\"data_offsets\":[0,192]", "\"data_offsets\":[1,193]", "where the tensor before it ends");
    BEND(SAFE, "three offsets", "[0,192]", "[0,192,192]", "does not describe a tensor");
    BEND(SAFE, "offsets in halves", "[0,192]", "[0,192.5]", "does not describe a tensor");
    BEND(SAFE, "offsets as texts", "[0,192]", "[\"0\",\"192\"]", "does not describe a tensor");
    BEND(SAFE, "an offset of 2^64", "[0,192]", "[0,18446744073709551616]", "does not describe a tensor");
    BEND(SAFE, "an offset below 0", "[0,192]", "[-1,191]", "does not describe a tensor");
    BEND(SAFE, "offsets that are a number", "\"data_offsets\":[0,192]", "\"data_offsets\":0", "does not describe a tensor");
    BEND(SAFE, "a shape in a shape", "[12,8]", "[[12],8]", "does not describe a tensor");
    BEND(SAFE, "a shape as texts", "[12,8]", "[\"12\",8]", "does not describe a tensor");
    BEND(SAFE, "a shape that overflows", "[12,8]", "[4294967296,4294967296,8]", "past the end");
    BEND(SAFE, "three dimensions", "[12,8]", "[3,4,8]", "neither a vector nor a matrix");
    BEND(SAFE, "no shape", "[12,8]", "[]", "shape");
    BEND(SAFE, "a dtype that is a number", "\"dtype\":\"F16\"", "\"dtype\":16", "does not describe a tensor");
    BEND(SAFE, "no dtype", "\"dtype\":\"F16\",", "", "no valid entry");
    BEND(SAFE, "an empty dtype", "\"dtype\":\"F16\"", "\"dtype\":\"\"", "no valid entry");
    BEND(SAFE, "a dtype of 40 letters", "\"F16\"", "\"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF\"", "FFFFFFFFFFFFFFF, not supported");
    BEND(SAFE, "8 bits", "\"F16\"", "\"F8_E4M3\"", "F8_E4M3");
    BEND(SAFE, "another type of the same size", "\"F16\"", "\"F32\"", "shape");
    BEND(SAFE, "another key", "\"dtype\"", "\"dtyp\"", "does not describe a tensor");
    BEND(SAFE, "33 levels", "{\"format\":\"pt\"}", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "not a safetensors header");
    BEND(SAFE, "a name with an escape", "model.norm", "model.n\\u006frm", "model.norm.weight is missing");
    MAKE(INDEX, "no index at all", "{}", "not a JSON index of weights");
    MAKE(INDEX, "an index that is a list", "[\"model-1.safetensors\"]", "not a JSON index of weights");
    MAKE(INDEX, "an index of numbers", "{\"weight_map\": {\"a\": 1}}", "not a JSON index of weights");
    MAKE(INDEX, "an index that is text", "{\"weight_map\": \"model-1.safetensors\"}", "not a JSON index of weights");
    MAKE(INDEX, "an index one level further", "{\"a\": {\"weight_map\": {\"b\": \"model-1.safetensors\"}}}", "not a JSON index of weights");
    MAKE(INDEX, "an empty index", "", "is empty");
    MAKE(INDEX, "an empty name", "{\"weight_map\": {\"a\": \"\"}}", "empty, hidden, too long or outside its folder");
    MAKE(INDEX, "the folder above", "{\"weight_map\": {\"a\": \"..\"}}", "empty, hidden, too long or outside its folder");
    MAKE(INDEX, "a name with a backslash", "{\"weight_map\": {\"a\": \"b\\\\c\"}}", "empty, hidden, too long or outside its folder");
    MAKE(INDEX, "a name with a 0", "{\"weight_map\": {\"a\": \"b\\u0000\"}}", "empty, hidden, too long or outside its folder");
    MAKE(INDEX, "a file of another kind", "{\"weight_map\": {\"a\": \"config.json\"}}", "is JSON; give it the name");
}

/* ---- GGUF ---- */

/* The sound file with one pair more, or with another value of one. */
static void pair_case(const char *what, const char *key, uint64_t type, const void *value, size_t bytes, const char *says) {
    int n = 0;
    buffer pairs = gguf_pairs(&n);
    gguf_text(&pairs, key);
    put_int(&pairs, type, 4);
    put(&pairs, value, bytes);
    buffer b = model_gguf(&tiny, 0, 1, &pairs, n + 1);
    unsigned char *first = memmem(b.at, b.n, key, strlen(key)), *again = first + 1;
    if (memmem(again, (size_t)(b.at + b.n - again), key, strlen(key))) *first = 'X'; /* not twice */
    refuse(&WHOLE_GGUF, what, &b, LLAMA_EFORMAT, says);
    free(pairs.at), free(b.at);
}
#define PAIR(what, key, type, value, says) pair_case(what, key, type, value, sizeof(value) - 1, says)

static void directed_gguf(void) {
    POKE(WHOLE_GGUF, "big-endian", "GGUF", 0, 4, 0x03000000, 4, "big-endian");
    POKE(WHOLE_GGUF, "another magic", "GGUF", 0, 3, 'f', 1, "is not GGUF");
    MAKE(WHOLE_GGUF, "the magic alone", "GGUF", "not GGUF, or it is truncated");
    POKE(WHOLE_GGUF, "2^63 tensors", "GGUF", 0, 8, 1ull << 63, 8, "declares more than");
    POKE(WHOLE_GGUF, "65,537 tensors", "GGUF", 0, 8, 65537, 8, "declares more than");
    POKE(WHOLE_GGUF, "2^63 pairs", "GGUF", 0, 16, 1ull << 63, 8, "declares more than");
    POKE(WHOLE_GGUF, "a pair more", "GGUF", 0, 16, 19, 8, "tensors is damaged");
    POKE(WHOLE_GGUF, "a pair fewer", "GGUF", 0, 16, 17, 8, "tensors is damaged");
    POKE(WHOLE_GGUF, "a tensor more", "GGUF", 0, 8, 13, 8, "where the tensor before it ends");
    POKE(WHOLE_GGUF, "a tensor fewer", "GGUF", 0, 8, 11, 8, "not followed by zeros");
    POKE(WHOLE_GGUF, "a key of 2^63 bytes", "general.alignment", 0, -8ull, 1ull << 63, 8, "keys is damaged");
    POKE(WHOLE_GGUF, "an array of 2^63", "tokenizer.ggml.scores", 0, 29, 1ull << 63, 8, "keys is damaged");
    POKE(WHOLE_GGUF, "an array of arrays", "tokenizer.ggml.scores", 0, 25, 9, 4, "keys is damaged");
    POKE(WHOLE_GGUF, "an array of a type there is not", "tokenizer.ggml.scores", 0, 25, 13, 4, "keys is damaged");
    POKE(WHOLE_GGUF, "a text of 2^62 bytes in an array", "tokenizer.ggml.tokens", 0, 37, 1ull << 62, 8, "keys is damaged");
    POKE(WHOLE_GGUF, "a flag of 2", "add_space_prefix", 0, 20, 2, 1, "keys is damaged");
    PAIR("a type of 2^31", "a", 1ull << 31, "\0\0\0\0", "keys is damaged");
    PAIR("an alignment of 2^21", "general.alignment", 4, "\0\0\x20\0", "'general.alignment' has a value");
    PAIR("an alignment that is a text", "general.alignment", 8, "\2\0\0\0\0\0\0\0" "64", "'general.alignment' has a value");
    PAIR("an alignment below 0", "general.alignment", 5, "\xe0\xff\xff\xff", "'general.alignment' has a value");
    PAIR("another alignment than its offsets'", "general.alignment", 4, "\0\1\0\0", "not followed by zeros");
    PAIR("an architecture that is a number", "general.architecture", 4, "\1\0\0\0", "general.architecture");
    PAIR("layers as a text", "llama.block_count", 8, "\1\0\0\0\0\0\0\0" "1", "'block_count'");
    PAIR("layers as a float", "llama.block_count", 6, "\0\0\x80\x3f", "'block_count'");
    PAIR("layers as a flag", "llama.block_count", 7, "\1", "'block_count'");
    PAIR("no layers", "llama.block_count", 4, "\0\0\0\0", "'block_count'");
    PAIR("2^32 - 1 layers", "llama.block_count", 4, "\xff\xff\xff\xff", "'block_count'");
    PAIR("-1 heads", "llama.attention.head_count", 5, "\xff\xff\xff\xff", "head_count'");
    PAIR("2^63 as a width", "llama.embedding_length", 10, "\0\0\0\0\0\0\0\x80", "'embedding_length'");
    PAIR("three heads", "llama.attention.head_count", 4, "\3\0\0\0", "n_heads must divide the width");
    PAIR("eight heads", "llama.attention.head_count", 4, "\x08\0\0\0", "'rope.dimension_count' is 4, but the head width is 1");
    PAIR("an epsilon that is no number", "llama.attention.layer_norm_rms_epsilon", 6, "\0\0\xc0\x7f", "epsilon'");
    PAIR("an epsilon below 0", "llama.attention.layer_norm_rms_epsilon", 12, "\0\0\0\0\0\0\xf0\xbf", "epsilon'");
    PAIR("an epsilon as a whole number", "llama.attention.layer_norm_rms_epsilon", 4, "\1\0\0\0", "epsilon'");
    PAIR("RoPE's base infinite", "llama.rope.freq_base", 6, "\0\0\x80\x7f", "freq_base'");
    PAIR("RoPE's base as a whole number", "llama.rope.freq_base", 4, "\0\0\xfa\x43", "freq_base'");
    PAIR("half a head turned", "llama.rope.dimension_count", 4, "\2\0\0\0", "but the head width is 4");
    PAIR("keys of another width", "llama.attention.key_length", 4, "\x08\0\0\0", "but the head width is 8");
    PAIR("a short window", "llama.attention.sliding_window", 4, "\xff\0\0\0", "window");
    PAIR("values of another width", "llama.attention.value_length", 4, "\x08\0\0\0", "'attention.value_length' is 8, but the head width is 4");
    PAIR("RoPE scaled by kind alone", "llama.rope.scaling.type", 8, "\6\0\0\0\0\0\0\0linear", "'rope.scaling.factor' is missing");
    PAIR("RoPE scaled by YaRN", "llama.rope.scaling.type", 8, "\4\0\0\0\0\0\0\0yarn", "'rope.scaling.type' yarn is not a setting");
    PAIR("RoPE scaled by LongRoPE", "llama.rope.scaling.type", 8, "\x08\0\0\0\0\0\0\0longrope", "longrope is not a setting");
    PAIR("RoPE scaled by llama3, which GGUF has as divisors", "llama.rope.scaling.type", 8, "\6\0\0\0\0\0\0\0llama3", "llama3 is not a setting");
    PAIR("a scaling that is a flag", "llama.rope.scaling.type", 7, "\1", "rope.scaling.type");
    PAIR("a factor of 0", "llama.rope.scaling.factor", 6, "\0\0\0\0", "'rope.scaling.factor' must be");
    PAIR("a factor below 0", "llama.rope.scaling.factor", 6, "\0\0\x80\xc0", "'rope.scaling.factor' must be");
    PAIR("a factor that is no number", "llama.rope.scaling.factor", 6, "\0\0\xc0\x7f", "'rope.scaling.factor' must be");
    PAIR("an infinite factor", "llama.rope.scaling.factor", 6, "\0\0\x80\x7f", "'rope.scaling.factor' is inf");
    PAIR("a factor as a whole number", "llama.rope.scaling.factor", 4, "\4\0\0\0", "type uint32");
    PAIR("half a factor, by the older name", "llama.rope.scale_linear", 6, "\0\0\0\x3f", "'rope.scale_linear' must be");
    PAIR("another vocabulary's size", "llama.vocab_size", 4, "\x0d\0\0\0", "12 embeddings, but vocab_size is 13");
    PAIR("another hidden width", "llama.feed_forward_length", 4, "\x0d\0\0\0", "hidden width is 13");
    POKE(WHOLE_GGUF, "five dimensions", "token_embd.weight", 0, 17, 5, 4, "tensors is damaged");
    POKE(WHOLE_GGUF, "a tensor of nothing", "token_embd.weight", 0, 29, 0, 8, "where the tensor before it ends");
    POKE(WHOLE_GGUF, "a name of 2^63 bytes", "token_embd.weight", 0, -8ull, 1ull << 63, 8, "tensors is damaged");
    POKE(WHOLE_GGUF, "a first tensor further on", "token_embd.weight", 0, 41, 64, 8, "where the tensor before it ends");
    POKE(WHOLE_GGUF, "an offset of 2^63", "token_embd.weight", 0, 41, 1ull << 63, 8, "where the tensor before it ends");
    POKE(WHOLE_GGUF, "two tensors in one place", "blk.0.attn_v.weight", 0, 43, 0x240, 8, "where the tensor before it ends");
    POKE(WHOLE_GGUF, "another type", "blk.0.attn_q.weight", 0, 39, 0, 4, "where the tensor before it ends");
    POKE(WHOLE_GGUF, "a norm as float16", "output_norm.weight", 0, 30, 1, 4, "not followed by zeros");
    POKE(WHOLE_GGUF, "a layer that is not there", "blk.0.attn_q", 0, 4, '1', 1, "not part of a LLaMA");
    POKE(WHOLE_GGUF, "a tensor that no LLaMA has", "output.weight", 0, 0, 'O', 1, "not part of a LLaMA");
    ADD(WHOLE_GGUF, "a byte behind the tensors", "\0", "after its last tensor");
    POKE(SECOND_GGUF, "a second file of version 9", "GGUF", 0, 4, 9, 4, "version 9");
    POKE(SECOND_GGUF, "a second file that is none", "GGUF", 0, 0, 'g', 1, "is not GGUF");
    POKE(SECOND_GGUF, "a second file without its last tensor", "GGUF", 0, 8, 5, 8, "after its last tensor");
    BEND(SECOND_GGUF, "a tensor in both files", "blk.0.attn_v", "blk.0.attn_k", "gives a weight that");
}

static void directed_gguf_vocabulary(void) {
    PAIR("another kind of vocabulary", "tokenizer.ggml.model", 8, "\4\0\0\0\0\0\0\0bert", "'bert'");
    PAIR("byte-level BPE without its words", "tokenizer.ggml.model", 8, "\4\0\0\0\0\0\0\0gpt2", "has the tokenizer.ggml.pre ''");
    PAIR("a vocabulary's kind that is a number", "tokenizer.ggml.model", 4, "\1\0\0\0", "kind ''");
    BEND(WHOLE_GGUF, "a vocabulary of no kind", "tokenizer.ggml.model", "tokenizer.ggml.mode1", "kind ''");
    BEND(WHOLE_GGUF, "a vocabulary without types", "tokenizer.ggml.token_type", "tokenizer.ggml.token_typo", "missing, differ in number");
    BEND(WHOLE_GGUF, "a vocabulary without scores", "tokenizer.ggml.scores", "tokenizer.ggml.stores", "missing, differ in number");
    PAIR("one text", "tokenizer.ggml.tokens", 9, "\x08\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0a", "missing, differ in number");
    PAIR("texts that are a text", "tokenizer.ggml.tokens", 8, "\1\0\0\0\0\0\0\0a", "missing, differ in number");
    PAIR("texts that are numbers", "tokenizer.ggml.tokens", 9, "\0\0\0\0\x0c\0\0\0\0\0\0\0abcdefghijkl", "tokens that are not strings");
    PAIR("scores that are flags", "tokenizer.ggml.scores", 9, "\7\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "tokens that are not strings");
    PAIR("a type of 7", "tokenizer.ggml.token_type", 9, "\0\0\0\0\x0c\0\0\0\0\0\0\0\2\3\3\1\1\1\1\1\1\1\1\7", "tokens that are not strings");
    PAIR("a type of -1", "tokenizer.ggml.token_type", 9, "\1\0\0\0\x0c\0\0\0\0\0\0\0\2\3\3\1\1\1\1\1\1\1\1\xff", "tokens that are not strings");
    PAIR("a type of 0", "tokenizer.ggml.token_type", 9, "\1\0\0\0\x0c\0\0\0\0\0\0\0\2\3\3\1\1\1\1\1\1\1\1\0", "unknown type");
    PAIR("a byte piece that is a letter", "tokenizer.ggml.token_type", 9, "\1\0\0\0\x0c\0\0\0\0\0\0\0\2\3\3\1\1\1\1\1\1\1\1\6", "not <0xNN>");
    PAIR("no <unk>", "tokenizer.ggml.token_type", 9, "\1\0\0\0\x0c\0\0\0\0\0\0\0\3\3\3\1\1\1\1\1\1\1\1\1", "no <unk>");
    POKE(WHOLE_GGUF, "a score that is no number", "tokenizer.ggml.scores", 0, 37, 0x7fc00000, 4, "a score that is not a number");
    POKE(WHOLE_GGUF, "a piece that is not UTF-8", "\xe2\x96\x81" "ab", 0, 1, 'x', 1, "UTF-8");
    PAIR("a bos that is not there", "tokenizer.ggml.bos_token_id", 4, "\x0c\0\0\0", "id that is not in its vocabulary");
    PAIR("a bos that is <unk>", "tokenizer.ggml.bos_token_id", 4, "\0\0\0\0", "id that is <unk> or a byte");
    PAIR("an eos of one and a half", "tokenizer.ggml.eos_token_id", 6, "\0\0\xc0\x3f", "eos_token_id is of another type");
    PAIR("an eos that is no number", "tokenizer.ggml.eos_token_id", 6, "\0\0\xc0\x7f", "eos_token_id is of another type");
}

static void directed_llama2c(void) {
    MAKE(BIN0, "27 bytes", "\x08\0\0\0\x0c\0\0\0\1\0\0\0\2\0\0\0\1\0\0\0\xf4\xff\xff\xff\0\2\0", "does not match a llama2.c header");
    MAKE(BIN0, "zeros", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "does not match a llama2.c header");
    MAKE(BIN0, "a text", "Once upon a time there was a poor woodcutter.", "does not match a llama2.c header");
    MAKE(BIN0, "one byte", "G", "does not match a llama2.c header");
    ADD(BIN0, "four bytes behind it", "\0\0\0\0", "does not match a llama2.c header");
    POKE(BIN0, "a dim of 2^31 - 1", "", 0, 0, 0x7fffffff, 4, "does not match a llama2.c header");
    POKE(BIN0, "a dim below 0", "", 0, 0, 0xfffffff8, 4, "does not match a llama2.c header");
    POKE(BIN0, "no positions", "", 0, 24, 0, 4, "does not match a llama2.c header");
    POKE(BIN0, "-1 positions", "", 0, 24, 0xffffffff, 4, "does not match a llama2.c header");
    POKE(BIN0, "2^31 - 1 positions", "", 0, 24, 0x7fffffff, 4, "does not match a llama2.c header");
    POKE(BIN0, "a vocabulary of -2^31", "", 0, 20, 0x80000000, 4, "does not match a llama2.c header");
    POKE(BIN0, "heads of one", "", 0, 12, 8, 4, "does not match a llama2.c header");
    MAKE(BIN1, "a magic alone", "24ka", "must be");
    MAKE(BIN1, "a header cut short", "24ka\1\0\0\0\x08\0\0\0\x0c\0\0\0\1\0\0\0\2\0\0\0\1\0\0\0\x0c\0\0\0\0\2\0\0\0", "fewer weights");
    ADD(BIN1, "a byte behind it", "\0", "does not match a llama2.c header");
    POKE(BIN1, "version 2^32 - 1", "", 0, 4, 0xffffffff, 4, "version 4294967295");
    POKE(BIN1, "a dim of 2^30", "", 0, 8, 1 << 30, 4, "'dim'");
    POKE(BIN1, "no hidden width", "", 0, 12, 0, 4, "'hidden_dim'");
    POKE(BIN1, "heads of one", "", 0, 20, 8, 4, "head width is odd");
    POKE(BIN1, "three key-value heads", "", 0, 24, 3, 4, "n_kv_heads must divide n_heads");
    POKE(BIN1, "no positions", "", 0, 32, 0, 4, "'seq_len'");
}

/* ---- Tokenizers ---- */

/* The sound tokenizer.model with something in front. */
static void proto_case(const char *what, const char *bytes, size_t n, const char *says) {
    buffer sound = sound_file(&MODEL), b = {0};
    put(&b, bytes, n);
    put(&b, sound.at, sound.n);
    refuse(&MODEL, what, &b, LLAMA_EFORMAT, says);
    free(sound.at), free(b.at);
}
#define PROTO(what, literal, says) proto_case(what, literal, sizeof(literal) - 1, says)

static void directed_tokenizer_model(void) {
    static char longest[1100] = "\x0a\xf1\7\x0a\xe9\7"; /* a piece of 1001 bytes */
    buffer b = {0};
    PROTO("field 0", "\2\0", "not a SentencePiece");
    PROTO("wire type 3", "\x0b\0", "not a SentencePiece");
    PROTO("wire type 7", "\x0f\0", "not a SentencePiece");
    PROTO("a number of 11 bytes", "\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", "not a SentencePiece");
    PROTO("a part of 2^63 bytes", "\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\1", "not a SentencePiece");
    PROTO("a part that SentencePiece has not", "\x32\2ab", "fields that no SentencePiece");
    PROTO("a number for a part", "\x20\5", "fields that no SentencePiece");
    PROTO("a text shown otherwise", "\x2a\5\x12\3abc", "changes the text");
    BEND(MODEL, "a piece longer than its part", "\x0a\x0e\x0a\5<unk>", "\x0a\x0e\x0a\x7f<unk>", "piece that is truncated");
    BEND(MODEL, "a score of another wire type", "<unk>\x15", "<unk>\x11", "piece that is truncated");
    BEND(MODEL, "a fourth field", "<unk>\x15\0\0\0\0\x18", "<unk>\x15\0\0\0\0\x20", "other fields than a text");
    BEND(MODEL, "a score that is no number", "<unk>\x15\0\0\0\0", "<unk>\x15\0\0\xc0\x7f", "a score that is not a number");
    BEND(MODEL, "a type of 127", "<unk>\x15\0\0\0\0\x18\2", "<unk>\x15\0\0\0\0\x18\x7f", "unknown type");
    BEND(MODEL, "a surrogate", "\xe2\x96\x81" "ab", "\xed\xa0\x80" "ab", "UTF-8");
    BEND(MODEL, "an overlong slash", "\x0a\2ab", "\x0a\2\xc0\xaf", "UTF-8");
    BEND(MODEL, "a character over U+10FFFF", "\xe2\x96\x81" "ab", "\xf4\x90\x80\x80" "b", "UTF-8");
    BEND(MODEL, "half a character", "\x0a\2ab", "\x0a\2a\xe2", "UTF-8");
    BEND(MODEL, "a byte piece in small letters", "</s>\x15\0\0\0\0\x18\3", "<0xa\x15\0\0\0\0\x18\6", "not <0xNN>");
    BEND(MODEL, "a trainer_spec cut short", "llama\x18\2", "llama\x1a\x7f", "trainer_spec that is truncated");
    BEND(MODEL, "a vocabulary of words", "llama\x18\2", "llama\x18\3", "not a BPE");
    BEND(MODEL, "no kind of model", "llama\x18\2", "llama\x30\2", "not a BPE");
    BEND(MODEL, "a normalizer_spec cut short", "\x0a\x08identity", "\x0a\x7fidentity", "a normalizer_spec that is truncated");
    BEND(MODEL, "a flag that is a float", "\x18\1\x20\0\x28\1", "\x25\0\0\0\0\0", "another type");
    BEND(MODEL, "characters mapped", "\x0a\x08identity\x12\0", "\x0a\4iden\x12\4tity", "precompiled_charsmap that is damaged");
    ADD(MODEL, "a denormalizer_spec cut short", "\x2a\2\x12\x7f", "denormalizer_spec that is truncated");
    ADD(MODEL, "a denormalizer that maps", "\x2a\3\x12\1x", "changes the text it decodes");
    memset(longest + 6, 'a', 1001);
    longest[6 + 1001] = 0x15;
    put(&b, longest, 6 + 1001 + 5);
    proto_specs(&b);
    refuse(&MODEL, "a piece of 1001 bytes", &b, LLAMA_EFORMAT, "over 1000 bytes");
    free(b.at);
}

static void directed_tokenizer_bin(void) {
    MAKE(BIN, "nothing", "", "is empty");
    MAKE(BIN, "three bytes", "\7\0\0", "not a SentencePiece");
    MAKE(BIN, "no pieces", "\7\0\0\0", "not a SentencePiece");
    ADD(BIN, "a byte behind it", "\0", "not a SentencePiece");
    ADD(BIN, "a piece more", "\0\0\0\0\1\0\0\0z", "13 pieces, but the model has 12");
    BEND(BIN, "a piece fewer", "\0\0\0\xc1\2\0\0\0\xc3\xa9", "", "11 pieces, but the model has 12");
    POKE(BIN, "a length of -1", "", 0, 8, 0xffffffff, 4, "not a SentencePiece");
    POKE(BIN, "a length of 2^31", "", 0, 8, 0x80000000, 4, "not a SentencePiece");
    POKE(BIN, "a score that is no number", "", 0, 4, 0x7fc00000, 4, "a score that is not a number");
    BEND(BIN, "a piece that is not UTF-8", "\xc3\xa9", "\xc3z", "UTF-8");
    BEND(BIN, "an empty piece", "\0\0\xe0\xc0\1\0\0\0c", "\0\0\xe0\xc0\0\0\0\0", "empty");
    BEND(BIN, "a piece where bytes are", "\2\0\0\0\xc3\xa9", "\6\0\0\0abcdef", "not <0xNN>");
    BEND(BIN, "one byte of 256", "\2\0\0\0\xc3\xa9", "\6\0\0\0<0x41>", "byte pieces");
}

static void directed_tokenizer_json(void) {
    BEND(JSON, "an id below 0", "\"c\": 10", "\"c\": -1", "an id that is not valid");
    BEND(JSON, "half an id", "\"c\": 10", "\"c\": 9.5", "an id that is not valid");
    BEND(JSON, "an id of 1e300", "\"c\": 10", "\"c\": 1e300", "an id that is not valid");
    BEND(JSON, "an id more than the model has", "\"c\": 10", "\"c\": 12", "more pieces than the model");
    BEND(JSON, "an id left out", "\"c\": 10", "\"c\": 10, \"c\": 10, \"\": 11", "two pieces of one id");
    BEND(JSON, "a gap", "\"c\": 10, ", "", "lacks the piece");
    BEND(JSON, "an id that is a text", "\"c\": 10", "\"c\": \"10\"", "id is not a number");
    BEND(JSON, "a piece with a control character", "\"c\": 10", "\"\n\": 10", "not JSON");
    BEND(JSON, "an escape that is none", "\"c\": 10", "\"\\q\": 10", "not JSON");
    BEND(JSON, "half an escape", "\"c\": 10", "\"\\u00\": 10", "not JSON");
    BEND(JSON, "a piece that is not UTF-8", "\"c\": 10", "\"\xff\": 10", "UTF-8");
    BEND(JSON, "half a pair", "\"c\": 10", "\"\\ud83d\": 10", "half a surrogate pair");
    BEND(JSON, "no <unk>", "<unk>\", \"special", "<unk>\", \"x\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]], \"special", "not JSON");
    BEND(JSON, "an added token without its text", "\"content\": \"<s>\"", "\"context\": \"<s>\"", "without content");
    BEND(JSON, "an added token without its id", "{\"id\": 1, ", "{\"is\": 1, ", "an id that is not valid");
    BEND(JSON, "an added token of another text", "\"content\": \"<s>\"", "\"content\": \"<S>\"", "two pieces of one id");
    BEND(JSON, "no kind of model", "\"type\": \"BPE\", ", "", "not a BPE");
    BEND(JSON, "a model of words", "\"BPE\"", "\"WordPiece\"", "not BPE");
    BEND(JSON, "half an escape in a setting", "\"BPE\"", "\"\\u00\"", "not JSON");
    BEND(JSON, "half a pair in a setting", "\"BPE\"", "\"\\ud83d\"", "half a surrogate pair");
    BEND(JSON, "bytes that are a text", "\"byte_fallback\": true", "\"byte_fallback\": \"true\"", "byte_fallback");
    BEND(JSON, "no vocabulary", "\"vocab\"", "\"vocal\"", "merges");
    BEND(JSON, "another sign for a space", "\"prepend\": \"\xe2\x96\x81\"", "\"prepend\": \"_\"", "treats text");
    BEND(JSON, "a regular expression", "{\"String\": \" \"}", "{\"String\": \"a\"}", "treats text");
    BEND(JSON, "a Replace of nothing", "{\"String\": \" \"}", "{}", "a Replace without the space");
    BEND(JSON, "cut into bytes", "\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}", "(normalizer)");
    BEND(JSON, "a space that is another sign", "\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\"}", "treats text");
    BEND(JSON, "a merge of one part", "\"a b\"", "\"ab\"", "merge that is not two pieces");
    BEND(JSON, "an empty merge", "\"a b\"", "\"\"", "merge that is not two pieces");
    BEND(JSON, "a merge of nothing", "\"a b\"", "\" \"", "merges");
    BEND(JSON, "a merge of three parts", "\"a b\"", "\"a b c\"", "no SentencePiece scores can express");
    BEND(JSON, "a merge that makes no piece", "\"c c\"", "\"c a\"", "no SentencePiece scores can express");
    BEND(JSON, "a merge that is missing", ", \"c c\"", "", "no SentencePiece scores can express");
    BEND(JSON, "a pair of three", "\"a b\"", "[\"a\", \"b\", \"c\"]", "merge");
    BEND(JSON, "a pair of one", "\"c c\"", "[\"cc\"]", "merge");
    BEND(JSON, "a merge that is a number", "\"c c\"", "7", "merge");
    BEND(JSON, "merges that are an object", "[\"a b\", \"\xe2\x96\x81 ab\", \"ab c\", \"c c\"]", "{\"a\": \"b\"}", "merge");
    BEND(JSON, "half a pair in a merge", "\"c c\"", "\"c \\udc00\\ud800\"", "half a surrogate pair");
    BEND(JSON, "cut short", "]}}", "]", "not JSON");
    ADD(JSON, "more behind it", "{}", "not JSON");
    MAKE(JSON, "a list", "[{\"model\": {}}]", "not a SentencePiece");
    MAKE(JSON, "an empty object", "{}", "is not a tokenizer");
}

static const test_case sweeps[] = {
    {"sweep_meta", sweep_meta}, {"sweep_hugging_face", sweep_hugging_face}, {"sweep_gguf", sweep_gguf},
    {"sweep_llama2c", sweep_llama2c}, {"sweep_tokenizers", sweep_tokenizers}};

static const test_case directed_cases[] = {
    {"zip", directed_zip}, {"pickle", directed_pickle}, {"older", directed_older}, {"json", directed_json},
    {"safetensors", directed_safetensors}, {"gguf", directed_gguf}, {"gguf_vocabulary", directed_gguf_vocabulary},
    {"llama2c", directed_llama2c}, {"tokenizer_model", directed_tokenizer_model},
    {"tokenizer_bin", directed_tokenizer_bin}, {"tokenizer_json", directed_tokenizer_json}};

int main(int argc, char **argv) {
    if (tests_begin(argc, argv) < 2) return 2;
    snprintf(work, sizeof work, "%.1000s", argv[1]);
    make_folder(work);
    RUN(sweeps);
    size_t n = 0;
    for (int i = 0; i < REASONS && reasons[i].why; n += reasons[i++].n) printf("%5zu bits: %s\n", reasons[i].n, reasons[i].why);
    printf("%zu bits make another honest file\n", n);
    RUN(directed_cases);
    printf("%d malformed files made one by one\n", directed);
    return tests_done("damage");
}
