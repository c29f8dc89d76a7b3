/* formats.c - the same model in every format: the same bits, the same ids; and each format's files damaged.
 *
 *   formats TINY WORKDIR       TINY: tests/tiny, for its tokenizer
 */
#include "../tools/checkpoint.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char work[1024];
static const char *tiny_folder; /* tests/tiny */
static const char *const form_names[FORMS] = {"safetensors", "safetensors in three files", "PyTorch", "PyTorch in two files",
                                              "GGUF", "GGUF in two files", "llama2.c version 0", "llama2.c version 1"};
static const int32_t some[] = {1, 5, 9, 2, 7, 7, 3, 11, 4, 8, 6, 10, 1};
enum { SOME = sizeof some / sizeof *some };

static const char *in_work(const char *name) {
    static char path[4][2048];
    static int turn;
    snprintf(path[++turn % 4], sizeof *path, "%s/%s", work, name);
    return path[turn % 4];
}

/* The logits after each of some tokens, [SOME][vocab], to be freed; NULL: it does not open. */
static float *all_logits(const char *path, llama_info *info, int batch, int threads) {
    llama *m = NULL;
    llama_session *s = NULL;
    llama_error err;
    llama_session_options o = {.size = sizeof o, .batch = batch, .threads = threads, .allocator = &dirty};
    if (!check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "%s: %s", path, err.text)) return NULL;
    *info = (llama_info){.size = sizeof *info};
    llama_describe(m, info);
    check(llama_check(m, NULL, NULL, &err) == LLAMA_OK, "%s: check: %s", path, err.text);
    check(llama_session_new(&s, m, &o, &err) == LLAMA_OK, "%s", err.text);
    float *out = must_alloc(SOME * (size_t)info->vocab * sizeof *out);
    for (int i = 0; i < SOME; i++) {
        check(llama_eval(s, 0, some + i, 1) == LLAMA_OK, "%s: eval", path);
        memcpy(out + (size_t)i * (size_t)info->vocab, llama_logits(s, 0), (size_t)info->vocab * sizeof *out);
        llama_rewind(s, 0, 0); /* and once more, all at once */
        check(llama_eval(s, 0, some, (size_t)i + 1) == LLAMA_OK, "%s: eval", path);
        check(memcmp(out + (size_t)i * (size_t)info->vocab, llama_logits(s, 0), (size_t)info->vocab * sizeof *out) == 0, "%s: together and alone", path);
    }
    llama_session_free(s);
    llama_close(m);
    return out;
}

/* A file of more than 4 GB, mapped and streamed: a tensor that is not needed comes first, and is a hole of 5 GB. */
static void test_large(void) {
    enum { VOCAB = 40 };
    static const char offsets[] = "\"data_offsets\":[";
    const uint64_t hole = (uint64_t)5 << 30;
    const model_spec m = {.dim = 48, .layers = 2, .heads = 6, .kv_heads = 2, .hidden = 130, .vocab = VOCAB, .shards = 1};
    float want[VOCAB];
    size_t size = 0;
    char folder[2048], path[2100];
    snprintf(folder, sizeof folder, "%s", model_write_as(&m, SAFETENSORS, in_work("large")));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    char *bytes = read_file(path, &size);
    for (int large = 0; large < 3 && bytes; large++) { /* small, mapped, streamed */
        llama_options o = {.size = sizeof o, .memory = large == 2 ? LLAMA_MEMORY_STREAM : LLAMA_MEMORY_MAP};
        llama_session_options so = {.size = sizeof so, .context = 16};
        llama *model = NULL;
        llama_session *s = NULL;
        llama_error err = {.text = ""};
        bool good = check(llama_open(&model, folder, &o, &err) == LLAMA_OK && llama_session_new(&s, model, &so, &err) == LLAMA_OK, "large %d: %s", large, err.text) &&
                    check(llama_eval(s, 0, some, 7) == LLAMA_OK, "large %d: %s", large, llama_session_error(s));
        if (good && large == 0) memcpy(want, llama_logits(s, 0), sizeof want);
        check(good && memcmp(want, llama_logits(s, 0), sizeof want) == 0, "large %d: other bits", large);
        llama_session_free(s);
        llama_close(model);
        if (large || !good) continue;
        uint64_t header;
        buffer b = {0};
        memcpy(&header, bytes, 8);
        put_int(&b, 0, 8);
        put_text(&b, "{\"model.rotary_emb.inv_freq\":{\"dtype\":\"F32\",\"shape\":[1342177280],\"data_offsets\":[0,5368709120]},");
        for (char *at = bytes + 9, *to; at < bytes + 8 + header; at = to) { /* every offset is 5 GB larger */
            char number[64];
            to = memmem(at, (size_t)(bytes + 8 + header - at), offsets, strlen(offsets));
            size_t n = (size_t)((to ? to + strlen(offsets) : bytes + 8 + header) - at);
            put(&b, at, n);
            if (!to) break;
            uint64_t begin = strtoull(at + n, &to, 10);
            uint64_t end = strtoull(to + 1, &to, 10);
            snprintf(number, sizeof number, "%llu,%llu", (unsigned long long)(begin + hole), (unsigned long long)(end + hole));
            put_text(&b, number);
        }
        memcpy(b.at, &(uint64_t){b.n - 8}, 8);
        check(write_file(path, &b), "%s", path);
        int fd = open(path, O_RDWR);
        ssize_t n = (ssize_t)(size - 8 - header);
        good = truncate(path, (off_t)(b.n + hole)) == 0 && pwrite(fd, bytes + 8 + header, (size_t)n, (off_t)(b.n + hole)) == n;
        if (fd >= 0) close(fd);
        free(b.at);
        if (!good) printf("SKIP: no file of 5 GB can be made: %s\n", strerror(errno));
        if (!good) break;
    }
    unlink(path);
    free(bytes);
}

/* The same sixteen bits taken for bfloat16, in the formats that say so: the same logits by all kernels. */
static void test_bfloat16(void) {
    static const char *const kernels[] = {"scalar", "avx2", "avx512", "neon"};
    const model_spec m = {.dim = 48, .layers = 1, .heads = 3, .kv_heads = 1, .hidden = 40, .vocab = 20, .shards = 1};
    float want[20];
    for (int gguf = 0; gguf < 2; gguf++) {
        char path[2048], file[2100];
        size_t n = 0;
        snprintf(path, sizeof path, "%s", model_write_as(&m, gguf ? GGUF_FILE : SAFETENSORS, in_work("bfloat16")));
        snprintf(file, sizeof file, gguf ? "%s" : "%s/model.safetensors", path);
        char *bytes = read_file(file, &n);
        buffer b = {0};
        size_t type = SIZE_MAX; /* GGUF: where the next one's is: after name, number of dimensions, these */
        for (size_t i = 0; bytes && i < n; i++) {
            bool safe = !gguf && i + 5 < n && memcmp(bytes + i, "\"F16\"", 5) == 0;
            if (gguf && i > 7 && memcmp(bytes + i - 7, ".weight", 7) == 0) type = i + 4 + 8 * (size_t)bytes[i];
            put(&b, safe ? "\"BF16\"" : i == type && bytes[i] == 1 ? "\36" : bytes + i, safe ? 6 : 1);
            i += safe ? 4 : 0;
        }
        if (!gguf) memcpy(b.at, &(uint64_t){*(uint64_t *)(void *)bytes + b.n - n}, 8);
        check(write_file(file, &b), "%s", file);
        llama *model = NULL;
        llama_error err;
        llama_info info = {.size = sizeof info};
        if (!check(llama_open(&model, path, NULL, &err) == LLAMA_OK, "bfloat16: %s", err.text)) return;
        check(llama_describe(model, &info) == LLAMA_OK && strcmp(info.dtype, gguf ? "mixed" : "bfloat16") == 0, "the norms of GGUF are float32");
        bool first = true;
        for (int k = 0; k < 4; k++) {
            llama_session_options o = {.size = sizeof o, .context = 16, .kernels = kernels[k]};
            llama_session *s = NULL;
            if (llama_session_new(&s, model, &o, NULL)) continue; /* not on this processor */
            check(llama_eval(s, 0, some, 7) == LLAMA_OK, "%s", llama_session_error(s));
            if (first) memcpy(want, llama_logits(s, 0), sizeof want);
            check(want[3] != 0 && memcmp(want, llama_logits(s, 0), sizeof want) == 0, "bfloat16, %s, %s: other bits", gguf ? "GGUF" : "safetensors", kernels[k]);
            first = false;
            llama_session_free(s);
        }
        llama_close(model);
        free(b.at), free(bytes);
    }
}

/* Every format against Meta's folder, in bits. */
static void test_same_bits(void) {
    static const model_spec specs[] = {
        {.dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1},
        {.dim = 90, .layers = 3, .heads = 5, .kv_heads = 5, .hidden = 77, .vocab = 33, .shards = 1},
        {.dim = 48, .layers = 1, .heads = 6, .kv_heads = 2, .hidden = 130, .vocab = 40, .shards = 1, .tied = true},
    };
    static const char *const formats[] = {"huggingface", "huggingface", "huggingface", "huggingface", "gguf", "gguf", "llama2.c", "llama2.c"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        llama_info info, want_info;
        char name[64];
        snprintf(name, sizeof name, "meta-%zu", i);
        model_write(&specs[i], in_work(name));
        float *want = all_logits(in_work(name), &want_info, 0, 1);
        for (int form = 0; form < FORMS && want; form++) {
            snprintf(name, sizeof name, "form-%zu-%d", i, form);
            const char *path = model_write_as(&specs[i], (model_form)form, in_work(name));
            float *got = all_logits(path, &info, form % 2 ? 5 : 0, 1 + form % 2);
            if (!got) continue;
            check(memcmp(want, got, SOME * (size_t)info.vocab * sizeof *got) == 0, "%s of shape %zu: other bits than Meta's", form_names[form], i);
            check(strcmp(info.format, formats[form]) == 0, "%s is called %s", form_names[form], info.format);
            check(info.context == 512 && info.hidden == want_info.hidden && info.kv_heads == want_info.kv_heads, "%s: info", form_names[form]);
            uint64_t twice = specs[i].tied ? (uint64_t)specs[i].vocab * (uint64_t)specs[i].dim : 0;
            check(info.parameters == want_info.parameters - twice, "%s: %llu parameters", form_names[form], (unsigned long long)info.parameters);
            free(got);
        }
        free(want);
    }
}

/* The newer shapes: heads of another width, scaled RoPE, embeddings divided by rows, a tied output that Meta's files
 * leave out. All forms that can hold a shape give the same bits, and other bits than without its scaling. */
static void test_newer_shapes(void) {
    static const struct {
        model_spec spec;
        const char *scaling; /* as llama_describe calls it */
        float factor;
    } shapes[] = {
        {{.dim = 16, .layers = 2, .heads = 2, .kv_heads = 2, .hidden = 32, .vocab = 24, .shards = 2, .head_dim = 12, .by_rows = true, .scaling = 2}, "llama3", 8},
        {{.dim = 72, .layers = 1, .heads = 6, .kv_heads = 2, .hidden = 36, .vocab = 40, .shards = 1, .tied = true, .scaling = 2}, "llama3", 8},
        {{.dim = 32, .layers = 1, .heads = 4, .kv_heads = 2, .hidden = 64, .vocab = 36, .shards = 2, .tied = true, .absent = true, .by_rows = true}, "none", 1},
        {{.dim = 50, .layers = 2, .heads = 3, .kv_heads = 1, .hidden = 40, .vocab = 20, .shards = 1, .head_dim = 34}, "none", 1},
        {{.dim = 16, .layers = 2, .heads = 8, .kv_heads = 2, .hidden = 16, .vocab = 24, .shards = 1, .head_dim = 256}, "none", 1},
        {{.dim = 90, .layers = 2, .heads = 3, .kv_heads = 3, .hidden = 40, .vocab = 20, .shards = 1, .head_dim = 10}, "none", 1},
        {{.dim = 16, .layers = 1, .heads = 4, .kv_heads = 4, .hidden = 24, .vocab = 24, .shards = 1, .head_dim = 2, .scaling = 1}, "linear", 4},
        {{.dim = 80, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 24, .vocab = 24, .shards = 1, .head_dim = 6, .scaling = 1}, "linear", 4},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        model_spec m = shapes[i].spec, plain = m;
        llama_info info;
        float *want = NULL;
        for (int form = -1; form < (m.head_dim || m.scaling ? BIN_0 : FORMS); form++) {
            char name[64];
            snprintf(name, sizeof name, "newer-%zu-%d", i, form);
            if (form < 0 && m.scaling == 1) continue; /* Meta's files do not have it */
            if (form < 0) model_write(&m, in_work(name));
            const char *path = form < 0 ? in_work(name) : model_write_as(&m, (model_form)form, in_work(name));
            float *got = all_logits(path, &info, form % 2 ? 5 : 0, 1 + (form & 1));
            if (!got) continue;
            check(!want || memcmp(want, got, SOME * (size_t)info.vocab * sizeof *got) == 0, "newer shape %zu, %s: other bits", i, form < 0 ? "Meta" : form_names[form]);
            check(info.head_dim == model_head(&m), "newer shape %zu: heads of %d", i, info.head_dim);
            check(strcmp(info.rope_scaling, shapes[i].scaling) == 0 && info.rope_factor == shapes[i].factor, "newer shape %zu, form %d: scaling %s by %g", i, form, info.rope_scaling, (double)info.rope_factor);
            if (want) free(got);
            else want = got;
        }
        plain.scaling = 0;
        float *unscaled = all_logits(model_write_as(&plain, SAFETENSORS, in_work("newer-plain")), &info, 0, 1);
        if (want && unscaled && m.scaling) check(memcmp(want, unscaled, SOME * (size_t)info.vocab * sizeof *want) != 0, "newer shape %zu: the scaling changes nothing", i);
        free(unscaled), free(want);
    }
}

/* ---- Vocabularies ---- */

typedef struct {
    const char *text;
    size_t n;
    float score;
    int type;
} test_piece;

/* The pieces of a tokenizer.model, read here once more. */
static int read_pieces(const char *file, test_piece *out, int most) {
    size_t n = 0;
    static char *kept; /* the file: texts point into it */
    free(kept);
    kept = read_file(file, &n);
    const unsigned char *p = (const unsigned char *)kept, *end = p + n;
    int count = 0;
    while (p && p < end && *p == 0x0a && count < most) { /* field 1: a piece, all under 128 bytes */
        const unsigned char *stop = p + 2 + p[1];
        test_piece *e = &out[count++];
        *e = (test_piece){.type = 1};
        for (p += 2; p < stop;) {
            int field = *p >> 3;
            if (field == 1) e->text = (const char *)p + 2, e->n = p[1], p += 2 + p[1];
            else if (field == 2) memcpy(&e->score, p + 1, 4), p += 5;
            else e->type = p[1], p += 2;
        }
    }
    return count;
}

static const test_piece *pieces;
static int by_score(const void *a, const void *b) {
    const test_piece *x = &pieces[*(const int *)a], *y = &pieces[*(const int *)b];
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score) : *(const int *)a - *(const int *)b;
}

static int find_piece(const test_piece *p, int n, const char *text, size_t length) {
    for (int i = 0; i < n; i++)
        if (p[i].type == 1 && p[i].n == length && memcmp(p[i].text, text, length) == 0) return i;
    return -1;
}

static void json_quoted(buffer *b, const char *text, size_t n, bool ascii) {
    put_text(b, "\"");
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"' || text[i] == '\\') put_text(b, "\\");
        if (ascii && n - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0) put_text(b, "\\u2581"), i += 2;
        else put(b, text + i, 1);
    }
    put_text(b, "\"");
}

/* tokenizer.json as LLaMA's conversions have it, of the older or the newer kind. */
static buffer make_tokenizer_json(const test_piece *p, int n, bool newer) {
    buffer b = {0};
    int *order = must_alloc((size_t)n * sizeof *order);
    put_text(&b, "{\"version\": \"1.0\", \"truncation\": null, \"added_tokens\": [");
    for (int i = 0; i < 3; i++) {
        char text[160];
        snprintf(text, sizeof text, "%s{\"id\": %d, \"content\": \"%.*s\", \"special\": true, \"lstrip\": false}", i ? ", " : "", i, (int)p[i].n, p[i].text);
        put_text(&b, text);
    }
    put_text(&b, newer ? "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": \"first\", \"split\": false}"
                       : "], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}, "
                         "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]}, \"pre_tokenizer\": null");
    put_text(&b, ", \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {");
    for (int i = 0; i < n; i++) {
        char text[32];
        order[i] = i;
        put_text(&b, i ? ", " : "");
        json_quoted(&b, p[i].text, p[i].n, i % 2);
        snprintf(text, sizeof text, ": %d", i);
        put_text(&b, text);
    }
    put_text(&b, "}, \"merges\": [");
    pieces = p;
    qsort(order, (size_t)n, sizeof *order, by_score);
    for (int k = 0, first = 1; k < n; k++) {
        const test_piece *e = &p[order[k]];
        for (size_t cut = 1; e->type == 1 && cut < e->n; cut++) {
            if (find_piece(p, n, e->text, cut) < 0 || find_piece(p, n, e->text + cut, e->n - cut) < 0) continue;
            put_text(&b, first ? "" : ", ");
            first = 0;
            if (newer) {
                put_text(&b, "[");
                json_quoted(&b, e->text, cut, false);
                put_text(&b, ", ");
                json_quoted(&b, e->text + cut, e->n - cut, true);
                put_text(&b, "]");
            } else {
                char *pair = must_alloc(e->n + 2);
                snprintf(pair, e->n + 2, "%.*s %.*s", (int)cut, e->text, (int)(e->n - cut), e->text + cut);
                json_quoted(&b, pair, e->n + 1, false);
                free(pair);
            }
        }
    }
    put_text(&b, "]}}");
    free(order);
    return b;
}

static buffer make_tokenizer_bin(const test_piece *p, int n) {
    buffer b = {0};
    put_int(&b, 10, 4); /* the longest: its first byte is that of a protobuf's first piece */
    for (int i = 0; i < n; i++) {
        buffer text = {0};
        for (size_t k = 0; k < p[i].n; k++)
            if (p[i].n - k >= 3 && memcmp(p[i].text + k, "\xe2\x96\x81", 3) == 0) put_text(&text, " "), k += 2;
            else put(&text, p[i].text + k, 1);
        put(&b, &p[i].score, 4);
        put_int(&b, text.n + (i == 1 || i == 2 ? 2 : 0), 4);
        if (i == 1 || i == 2) put_text(&b, "\n"); /* as llama2.c writes <s> */
        put(&b, text.at, text.n);
        if (i == 1 || i == 2) put_text(&b, "\n");
        free(text.at);
    }
    return b;
}

/* Six pairs for GGUF. */
static buffer make_gguf_vocab(const test_piece *p, int n, int eos) {
    buffer b = {0};
    gguf_text(&b, "tokenizer.ggml.model");
    put_int(&b, 8, 4);
    gguf_text(&b, "llama");
    gguf_text(&b, "tokenizer.ggml.tokens");
    put_int(&b, 9, 4), put_int(&b, 8, 4), put_int(&b, (uint64_t)n, 8);
    for (int i = 0; i < n; i++) {
        put_int(&b, p[i].n, 8);
        put(&b, p[i].text, p[i].n);
    }
    gguf_text(&b, "tokenizer.ggml.scores");
    put_int(&b, 9, 4), put_int(&b, 6, 4), put_int(&b, (uint64_t)n, 8);
    for (int i = 0; i < n; i++) put(&b, &p[i].score, 4);
    gguf_text(&b, "tokenizer.ggml.token_type");
    put_int(&b, 9, 4), put_int(&b, 5, 4), put_int(&b, (uint64_t)n, 8);
    for (int i = 0; i < n; i++) put_int(&b, (uint64_t)p[i].type, 4);
    gguf_u32(&b, "tokenizer.ggml.bos_token_id", 1);
    gguf_u32(&b, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    return b;
}

/* The same ids and the same text back as with tokenizer.model. */
static void same_ids(const llama *want, const llama *got, const char *what, bool one_in_front) {
    static const char *const texts[] = {"", " ", "Once upon a time there was a poor woodcutter.", "  two  and\n\ttabs", "caf\xc3\xa9 \xf0\x9f\x99\x82 \xff",
                                        "<s></s><unk><0x0A>", "\"quoted\" \\back\\", "                                   spaces", "theThe the,the"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t a[256], b[256];
        const char *less = texts[i] + (one_in_front && texts[i][0] == ' '); /* Metaspace adds none to one that is there */
        if (less > texts[i] && !*less) continue;
        ptrdiff_t n = llama_text_to_tokens(want, less, strlen(less), LLAMA_ADD_BOS, a, 256);
        ptrdiff_t k = llama_text_to_tokens(got, texts[i], strlen(texts[i]), LLAMA_ADD_BOS, b, 256);
        check(n == k && n > 0 && memcmp(a, b, (size_t)n * sizeof *a) == 0, "%s: \"%s\" is %td tokens, not %td", what, texts[i], k, n);
        llama_decoder u = {.n = 0}, v = {.n = 0};
        for (ptrdiff_t t = 0; t < n; t++) {
            char x[LLAMA_TEXT_MAX], y[LLAMA_TEXT_MAX];
            size_t l = llama_token_to_text(want, &u, a[t], x);
            check(llama_token_to_text(got, &v, a[t], y) == l && memcmp(x, y, l) == 0, "%s: id %d is other text", what, (int)a[t]);
        }
    }
    check(llama_eos(want) == llama_eos(got), "%s: eos %d", what, (int)llama_eos(got));
}

static void open_with(llama **m, const char *path, const char *tokenizer, const char *what) {
    llama_error err;
    llama_options o = {.size = sizeof o, .tokenizer = tokenizer};
    check(llama_open(m, path, &o, &err) == LLAMA_OK, "%s: %s", what, err.text);
}

static void test_vocabularies(void) {
    const char *tiny = tiny_folder;
    enum { MOST = 2048 };
    static test_piece p[MOST];
    char model_file[2048];
    snprintf(model_file, sizeof model_file, "%s/tokenizer.model", tiny);
    int n = read_pieces(model_file, p, MOST);
    check(n > 300, "%d pieces in %s", n, model_file);
    model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = n, .shards = 1};
    llama *want = NULL, *got = NULL;
    llama_error err;
    char folder[2048];
    snprintf(folder, sizeof folder, "%s", in_work("vocabulary"));
    model_write_as(&spec, SAFETENSORS, folder);
    open_with(&want, folder, model_file, "tokenizer.model");
    if (!want) return;
    buffer files[] = {make_tokenizer_json(p, n, false), make_tokenizer_json(p, n, true), make_tokenizer_bin(p, n)};
    static const char *const names[] = {"tokenizer.json", "tokenizer.json of the newer kind", "tokenizer.bin"};
    for (int i = 0; i < 3; i++) {
        put_file(&files[i], folder, i < 2 ? "tokenizer.json" : "vocab.bin");
        open_with(&got, folder, i < 2 ? NULL : in_work("vocabulary/vocab.bin"), names[i]);
        if (got) same_ids(want, got, names[i], i == 1);
        llama_close(got);
        got = NULL;
    }
    buffer vocab = make_gguf_vocab(p, n, 2), gguf = model_gguf(&spec, 0, 1, &vocab, 6);
    put_file(&gguf, work, "vocabulary.gguf");
    open_with(&got, in_work("vocabulary.gguf"), NULL, "GGUF's vocabulary");
    if (got) same_ids(want, got, "GGUF's vocabulary", false);
    llama_close(got);
    got = NULL;

    /* added tokens: shown, and never made from text */
    int word = n - 1; /* the last piece that begins with a space */
    while (word > 0 && !(p[word].n > 5 && memcmp(p[word].text, "\xe2\x96\x81", 3) == 0)) word--;
    p[word].type = 4;
    buffer with_added = make_gguf_vocab(p, n, word), added_gguf = model_gguf(&spec, 0, 1, &with_added, 6);
    put_file(&added_gguf, work, "added.gguf");
    open_with(&got, in_work("added.gguf"), NULL, "GGUF with an added token");
    for (int k = 0; got && k < 2; k++) { /* with tokenizer.model the same text is that piece */
        int32_t t[16];
        size_t length = 0;
        ptrdiff_t count = llama_text_to_tokens(k ? want : got, p[word].text + 3, p[word].n - 3, 0, t, 16);
        check(k ? count == 1 && t[0] == word : count > 1, "\"%.*s\" is %td tokens", (int)p[word].n, p[word].text, count);
        const char *text = llama_token_text(got, word, &length);
        check(length == p[word].n && memcmp(text, p[word].text, length) == 0 && llama_eos(got) == word, "the added token's text");
    }
    llama_close(got);
    got = NULL;
    p[word].type = 1;
    free(with_added.at), free(added_gguf.at);

    /* escapes, a pair that is one character among them */
    static const char escaped[] =
        "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}, "
        "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}]}, "
        "\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"merges\": [\"t y\", \"p e\", \"ty pe\"     ], \"vocab\": {"
        "\"<unk>\": 0, \"\\ud83d\\uDE42\": 1, \"\\\"\": 2, \"\\\\\": 3, \"\\/\": 4, \"\\u00e9\": 5, \"\\n\": 6, \"\\u0041\": 7, "
        "\"t\": 8, \"y\": 9, \"p\": 10, \"e\": 11, \"ty\": 12, \"pe\": 13, \"type\": 14}}}";
    static const char *const wanted[] = {"<unk>", "\xf0\x9f\x99\x82", "\"", "\\", "/", "\xc3\xa9", "\n", "A", "t", "y", "p", "e", "ty", "pe", "type"};
    buffer few = {0};
    put_text(&few, escaped);
    put_file(&few, work, "escaped.json");
    open_with(&got, folder, in_work("escaped.json"), "escapes");
    for (int i = 0; got && i < 15; i++) {
        size_t length = 0;
        const char *text = llama_token_text(got, i, &length);
        check(length == strlen(wanted[i]) && memcmp(text, wanted[i], length) == 0, "escape %d is %.*s", i, (int)length, text);
    }
    llama_close(got);
    got = NULL;
    static const struct {
        const char *what, *to;
    } bent_merges[] = {{"a piece that no merge makes", "\"t y\", \"p e\""}, {"one piece's merges apart", "\"t y\",\"p e\",\"t y\",\"ty pe\""}};
    for (int i = 0; i < 2; i++) {
        char *at = strstr((char *)few.at, "\"t y\"");
        memset(at, ' ', strlen("\"t y\", \"p e\", \"ty pe\""));
        memcpy(at, bent_merges[i].to, strlen(bent_merges[i].to));
        put_file(&few, work, "escaped.json");
        llama_options o = {.size = sizeof o, .tokenizer = in_work("escaped.json")};
        check(llama_open(&got, folder, &o, &err) == LLAMA_EFORMAT && strstr(err.text, "merges that no SentencePiece scores"), "%s: %s", bent_merges[i].what, err.text);
    }
    static const char *const halves[] = {"\\ud83d\\u0041", "\\ud83d      ", "\\uDE42\\uDE42", "\\ud83d\\uDEG2"};
    for (int i = 0; i < 4; i++) {
        llama_options o = {.size = sizeof o, .tokenizer = in_work("escaped.json")};
        memcpy(strstr((char *)few.at, "\": 1") - 12, halves[i], 12);
        put_file(&few, work, "escaped.json");
        check(llama_open(&got, folder, &o, &err) == LLAMA_EFORMAT && strstr(err.text, i == 3 ? "is not JSON" : i == 2 ? "UTF-8" : "half a surrogate pair"), "half a pair %d: %s", i, err.text);
    }
    free(few.at);

    /* one model in four formats, each with a tokenizer, for the command's tests */
    size_t n_model = 0;
    buffer model = {0};
    char *bytes = read_file(model_file, &n_model);
    put(&model, bytes, n_model);
    make_folder(in_work("cli"));
    model_write(&spec, in_work("cli/meta"));
    put_file(&model, work, "cli/meta/tokenizer.model");
    model_write_as(&spec, SAFETENSORS_SPLIT, in_work("cli/hf"));
    put_file(&files[0], work, "cli/hf/tokenizer.json");
    put_file(&gguf, work, "cli/model.gguf");
    model_write_as(&spec, BIN_0, in_work("cli/bin"));
    put_file(&files[2], work, "cli/bin/tokenizer.bin");
    free(bytes), free(model.at);

    /* refused by name */
    const struct {
        const char *what, *from, *to, *says;
    } cases[] = {
        {"no bytes", "\"byte_fallback\": true", "\"byte_fallback\": false", "byte_fallback"},
        {"a regular expression", "{\"String\": \" \"}", "{\"Regex\": \" {2,}\"}", "(normalizer), which is not supported; the model cannot be used"},
        {"a byte-level vocabulary", "\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}", "changes a text before it is tokenized (normalizer)"},
        {"another decoder", "\"pre_tokenizer\": null", "\"pre_tokenizer\": null, \"decoder\": {\"type\": \"WordPiece\"}", "(decoder)"},
        {"a decoder that strips more", "\"pre_tokenizer\": null", "\"decoder\": {\"type\": \"Strip\", \"content\": \" \", \"start\": 2, \"stop\": 0}", "(decoder)"},
        {"dropout", "\"dropout\": null", "\"dropout\": 0.1", "dropout"},
        {"a flag that is a text", "\"byte_fallback\": true", "\"byte_fallback\": \"true\"", "byte_fallback, fuse_unk or ignore_merges"},
        {"a mark that is a number", "\"dropout\": null", "\"end_of_word_suffix\": 1", "another type"},
        {"a split that is a number", "\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"split\": 0}", "another type"},
        {"whole words", "\"dropout\": null", "\"ignore_merges\": true", "ignore_merges"},
        {"marked words", "\"dropout\": null", "\"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix"},
        {"another <unk>", "\"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": true", "\"unk_token\": \"?\"", "unk_token"},
        {"spaces are kept", "\"normalizer\"", "\"none\"", "spaces as U+2581"},
        {"not BPE", "\"type\": \"BPE\"", "\"type\": \"BPX\"", "not BPE"},
        {"a normalizer of its own", "\"type\": \"Prepend\"", "\"type\": \"Xrepend\"", "treats text"},
        {"no space in front", "\"prepend\": ", "\"pre_end\": ", "space in front"},
        {"an id that is not there", ": 500", ": 501", "two pieces"},
        {"merges that are none", "\"merges\": [", "\"merges\": [\"q q\",", "merges"},
        {"JSON cut short", "]}}", "]}", "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buffer b = {0};
        put_int(&files[0], 0, 1);
        files[0].n--;
        char *at = strstr((char *)files[0].at, cases[i].from);
        if (!check(at != NULL, "%s: nothing to replace", cases[i].what)) continue;
        size_t before = (size_t)(at - (char *)files[0].at);
        put(&b, files[0].at, before);
        put_text(&b, cases[i].to);
        put(&b, at + strlen(cases[i].from), files[0].n - before - strlen(cases[i].from));
        put_file(&b, folder, "tokenizer.json");
        check(llama_open(&got, folder, NULL, &err) == LLAMA_EFORMAT && strstr(err.text, cases[i].says), "%s: %s", cases[i].what, err.text);
        free(b.at);
    }
    llama_close(want);
    for (int i = 0; i < 3; i++) free(files[i].at);
    free(vocab.at), free(gguf.at);
}

/* ---- SentencePiece's options ---- */

static uint64_t proto_varint(const unsigned char **p) {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        v |= (uint64_t)(**p & 127) << shift;
        if (*(*p)++ < 128) return v;
    }
}

/* The field with this number of a sound message of integers, texts and floats: its bytes, or *n is its number. NULL: none. */
static const unsigned char *proto_field(const unsigned char *p, size_t size, unsigned number, uint64_t *n) {
    for (const unsigned char *end = p + size; p < end;) {
        uint64_t key = proto_varint(&p), length = (key & 7) == 5 ? 4 : proto_varint(&p);
        *n = length;
        if (key >> 3 == number) return p;
        if ((key & 7) != 0) p += length;
    }
    return NULL;
}

static void gguf_flag(buffer *b, const char *key, bool value) {
    gguf_text(b, key);
    put_int(b, 7, 4), put_int(b, value, 1);
}

/* The same settings as keys of GGUF: a whole file. */
static buffer gguf_of(const char *bytes, size_t size, const model_spec *spec, const test_piece *p, int n) {
    uint64_t length, value;
    const unsigned char *settings = proto_field((const unsigned char *)bytes, size, 3, &length), *map;
    buffer b = make_gguf_vocab(p, n, 2);
    gguf_flag(&b, "tokenizer.ggml.add_space_prefix", !proto_field(settings, length, 3, &value) || value);
    gguf_flag(&b, "tokenizer.ggml.remove_extra_whitespaces", !proto_field(settings, length, 4, &value) || value);
    map = proto_field(settings, length, 2, &value);
    gguf_text(&b, "tokenizer.ggml.precompiled_charsmap");
    put_int(&b, 9, 4), put_int(&b, 0, 4), put_int(&b, map ? value : 0, 8);
    if (map) put(&b, map, value);
    buffer file = model_gguf(spec, 0, 1, &b, 9);
    free(b.at);
    return file;
}

static char *hex(const char *line, const char *key, size_t *n) {
    char *text = json_text(line, key, n);
    for (size_t i = 0; text && i < *n / 2; i++) sscanf(text + 2 * i, "%2hhx", (unsigned char *)text + i);
    *n /= 2;
    return text;
}

/* Checks the lines of vectors.jsonl that are about this model; returns how many. */
static int check_vectors(const llama *m, const char *lines, const char *name, const char *what) {
    char quoted[64];
    int count = 0;
    snprintf(quoted, sizeof quoted, "{\"model\": \"%s\",", name);
    for (const char *at = lines; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        if (strncmp(at, quoted, strlen(quoted)) != 0) continue;
        size_t length = strcspn(at, "\n"), n_text, n_ids, n_decode, n_decoded, n_out = 0;
        char *line = must_alloc(length + 1);
        memcpy(line, at, length), line[length] = 0;
        char *text = hex(line, "bytes_hex", &n_text), *decoded = hex(line, "decoded_hex", &n_decoded);
        int32_t *ids = json_ids(line, "ids", &n_ids), *decode = json_ids(line, "decode", &n_decode), ours[1024];
        ptrdiff_t n = llama_text_to_tokens(m, text, n_text, 0, ours, 1024);
        check(n == (ptrdiff_t)n_ids && memcmp(ours, ids, n_ids * sizeof *ids) == 0, "%s, %s: vector %d is encoded otherwise", name, what, count);
        if (!decode) decode = ids, n_decode = n_ids, ids = NULL;
        char *out = must_alloc((n_decode + 1) * LLAMA_TEXT_MAX);
        llama_decoder u = {.n = 0};
        for (size_t i = 0; i <= n_decode; i++) n_out += llama_token_to_text(m, &u, i < n_decode ? decode[i] : LLAMA_FLUSH, out + n_out);
        check(n_out == n_decoded && memcmp(out, decoded, n_out) == 0, "%s, %s: vector %d is decoded otherwise", name, what, count);
        free(line), free(text), free(decoded), free(ids), free(decode), free(out);
        count++;
    }
    enum { LONG = 400 }; /* a character of 3 bytes that nfkc makes 18 characters */
    char grows[3 * LONG];
    for (int i = 0; i < LONG; i++) memcpy(grows + 3 * i, "\xef\xb7\xba", 3);
    llama_continuation e = {.context = grows, .n_context = sizeof grows, .ending = grows, .n_ending = 3};
    ptrdiff_t given = llama_text_to_tokens(m, grows, sizeof grows, LLAMA_ADD_BOS, NULL, 0);
    int status = llama_count_continuation(m, &e, 1);
    check(status == LLAMA_OK && e.tokens > 0 && (ptrdiff_t)e.given == given - (given > 1 && e.tokens == 1 && e.given + 1 == (size_t)given),
          "%s, %s: a continuation of a text that grows: %d, %zu + %zu of %td tokens", name, what, status, e.given, e.tokens, given);
    return count;
}

/* A copy with every `from` replaced by `to`, which must be there. */
static buffer replaced(const buffer *b, const char *from, const char *to) {
    buffer out = {0};
    const char *at = (const char *)b->at, *end = at + b->n, *next;
    check(memmem(at, b->n, from, strlen(from)) != NULL, "nothing to replace: %s", from);
    for (; (next = memmem(at, (size_t)(end - at), from, strlen(from))); at = next + strlen(from)) {
        put(&out, at, (size_t)(next - at));
        put_text(&out, to);
    }
    put(&out, at, (size_t)(end - at));
    return out;
}

/* The ways in which tokenizer.json says that no space is added in front, and that unknown characters become <unk>. */
static void test_no_prefix_json(const test_piece *p, int n, const char *folder, const char *lines) {
    static const char prepend[] = "{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}, ", first[] = "\"prepend_scheme\": \"first\", \"split\": false";
    const struct {
        const char *what, *from, *to;
        bool newer;
    } ways[] = {{"no Prepend", prepend, "", false},
                {"prepend_scheme", first, "\"prepend_scheme\": \"never\", \"split\": false", true},
                {"words are split", first, "\"prepend_scheme\": \"never\"", true}, /* no piece of this model has a space inside */
                {"add_prefix_space", first, "\"add_prefix_space\": false", true}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        llama *m = NULL;
        buffer json = make_tokenizer_json(p, n, ways[i].newer), bare = replaced(&json, "\"byte_fallback\": true", "\"byte_fallback\": false"),
               file = replaced(&bare, ways[i].from, ways[i].to);
        for (int repeats = 0; repeats < 2; repeats++) {
            buffer fused = repeats ? replaced(&file, "\"fuse_unk\": true", "\"fuse_unk\": false") : file;
            int32_t ids[8];
            put_file(&fused, folder, "tokenizer.json");
            open_with(&m, folder, NULL, ways[i].what);
            if (m && !repeats) check_vectors(m, lines, "no_prefix", ways[i].what);
            ptrdiff_t count = llama_text_to_tokens(m, "\xe2\x98\x83\xe2\x98\x83", 6, 0, ids, 8);
            check(count == 1 + repeats, "%s: two unknown characters are %td tokens", ways[i].what, count);
            llama_close(m);
            m = NULL;
            if (repeats) free(fused.at);
        }
        free(json.at), free(bare.at), free(file.at);
    }
}

/* With Metaspace's split, no piece is formed across the beginning of a word. */
static void test_split_words(const char *folder) {
#define S "\xe2\x96\x81"
    static const char *const ways[] = {"", ", \"split\": true", ", \"split\": false"};
    static const int32_t wanted[] = {5, 4, 4, 5};
    for (int i = 0; i < 3; i++) {
        buffer b = {0};
        llama *m = NULL;
        int32_t ids[16];
        put_text(&b, "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\"}, {\"id\": 1, \"content\": \"<s>\"}, {\"id\": 2, \"content\": \"</s>\"}], "
                     "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"" S "\", \"prepend_scheme\": \"never\"");
        put_text(&b, ways[i]);
        put_text(&b, "}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"vocab\": {\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"a\": 3, \"" S "\": 4, \"" S "a\": 5, "
                     "\"" S S "\": 6}, \"merges\": [\"" S " " S "\", \"" S " a\"]}}");
        put_file(&b, folder, "tokenizer.json");
        open_with(&m, folder, NULL, "words that are split");
        ptrdiff_t n = llama_text_to_tokens(m, " a   a", 6, 0, ids, 16);
        check(i < 2 ? n == 4 && memcmp(ids, wanted, sizeof wanted) == 0 : n == 3 && ids[0] == 5 && ids[1] == 6 && ids[2] == 5, "split %d: %td tokens", i, n);
        llama_close(m);
        free(b.at);
    }
#undef S
}

/* tokenizer.json and the files beside it: what Hugging Face's tokenizers do with a setting is done, or it is refused by
 * name. The vocabulary is small enough for each file to be written whole. */
static void test_json_settings(void) {
#define S           "\xe2\x96\x81"
#define PREPEND     "{\"type\": \"Prepend\", \"prepend\": \"" S "\"}"
#define REPLACE     "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" S "\"}"
#define NORMALIZER  "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [" PREPEND ", " REPLACE "]}"
#define DECODES     "{\"type\": \"Replace\", \"pattern\": {\"String\": \"" S "\"}, \"content\": \" \"}"
#define BYTE_FALLBACK "{\"type\": \"ByteFallback\"}"
#define FUSE        "{\"type\": \"Fuse\"}"
#define STRIP       "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"
#define DECODER     "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [" DECODES ", " BYTE_FALLBACK ", " FUSE ", " STRIP "]}"
#define A           "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"
#define BOS         "{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}"
#define POST        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" BOS ", " A "], \"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [1], \"tokens\": [\"<s>\"]}}}"
#define VOCAB       "\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"a\": 3, \"" S "\": 4, \"" S "a\": 5, \"aa\": 6, \"" S "aa\": 7"
#define MERGES      "\"" S " a\", \"a a\", \"" S "a a\", \"" S " aa\""
    static const char sound[] = "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\", \"special\": true}, {\"id\": 1, \"content\": \"<s>\", \"special\": true}, "
                                "{\"id\": 2, \"content\": \"</s>\", \"special\": true}], " NORMALIZER ", \"pre_tokenizer\": null, " POST ", " DECODER ", "
                                "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": false, \"vocab\": {" VOCAB "}, \"merges\": [" MERGES "]}}";
    static const struct {
        const char *what, *from, *to;
        const char *says, *back; /* why it is refused; NULL: it opens, and the ids 5 3 4 are decoded to `back` */
    } cases[] = {
        {"sound", "", "", NULL, "aa "},
        {"two spaces in front", PREPEND, PREPEND ", " PREPEND, "several spaces", ""},
        {"a space in front and no other", ", " REPLACE, "", "spaces as U+2581", ""},
        {"a Prepend without its type", "\"type\": \"Prepend\", ", "", "without its type", ""},
        {"a Replace without its type", "\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}", "\"pattern\": {\"String\": \" \"}", "without its type", ""},
        {"a Replace by nothing", ", \"content\": \"" S "\"", "", "without its type", ""},
        {"another version", "\"1.0\"", "\"2.0\"", "version", ""},
        {"no decoder", DECODER, "\"decoder\": null", "has no decoder", ""},
        {"a decoder that keeps the space", ", " STRIP, "", NULL, " aa "},
        {"a decoder without bytes", BYTE_FALLBACK ", ", "", NULL, "aa "},
        {"a decoder that strips each token", FUSE ", " STRIP, STRIP ", " FUSE, "(decoder)", ""},
        {"a decoder that strips U+2581", DECODES ", " BYTE_FALLBACK ", " FUSE ", " STRIP, BYTE_FALLBACK ", " FUSE ", " STRIP ", " DECODES, "(decoder)", ""},
        {"a decoder that does nothing", "[" DECODES ", " BYTE_FALLBACK ", " FUSE ", " STRIP "]", "[]", "(decoder)", ""},
        {"a decoder of the first token", "{\"type\": \"Sequence\", \"decoders\": [" DECODES ", " BYTE_FALLBACK ", " FUSE ", " STRIP "]}", "{\"type\": \"Metaspace\", \"replacement\": \"" S "\"}", "(decoder)", ""},
        {"no space in front, but stripped", PREPEND ", ", "", NULL, "aa "},
        {"a text twice", "], \"pair\"", ", " A "], \"pair\"", "other texts into a text", ""},
        {"the second text", "\"id\": \"A\"", "\"id\": \"B\"", "other texts into a text", ""},
        {"no text", ", " A, "", "leaves the text out", ""},
        {"another id for <s>", "\"ids\": [1]", "\"ids\": [2]", "other ids around a text", ""},
        {"two tokens for <s>", "\"ids\": [1]", "\"ids\": [1, 1]", "several tokens around a text", ""},
        {"two normalizers", "\"pre_tokenizer\": null", "\"normalizer\": null", "twice", ""},
        {"two lists of merges", "\"dropout\": null", "\"merges\": []", "twice", ""},
        {"a prefix and none", "\"pre_tokenizer\": null", "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"first\", \"add_prefix_space\": false}", "contradicts", ""},
        {"another unk_token", "\"unk_token\": \"<unk>\", \"fuse_unk\": true, \"byte_fallback\": false", "\"unk_token\": \"a\", \"byte_fallback\": true", "unk_token", ""},
        {"some merges of a piece", ", \"" S " aa\"", "", "(only some pairs are merged to its piece '" S "aa'), which is not supported; the model cannot be used", ""},
        {"a merge twice, another missing", ", \"" S " aa\"", ", \"" S "a a\"", "only some pairs", ""},
        {"a piece without a merge", MERGES, "\"" S " a\", \"a a\"", "added_tokens does not list, and no merge forms, its piece '" S "aa'", ""},
        {"a merge to no piece", MERGES, "\"a " S "\"", "a merge forms a text that is not a piece, 'a" S "'", ""},
        {"one text with two ids", "\"aa\": 6", "\"aa\": 6, \"a\": 8", "two ids to one text", ""},
        {"one text with two ids, escaped", "\"aa\": 6", "\"aa\": 6, \"\\u0061\": 8", "two ids to one text", ""},
        {"an added token with the id of another text", "{\"id\": 2, \"content\": \"</s>\"", "{\"id\": 2, \"content\": \"</t>\"", "two pieces of one id", ""},
        {"an added token with two ids", "{\"id\": 2,", "{\"id\": 8, \"content\": \"</s>\"}, {\"id\": 2,", "two ids to one text", ""},
        {"a piece that is added with another id", "{\"id\": 2,", "{\"id\": 8, \"content\": \"aa\"}, {\"id\": 2,", "two ids to one text", ""},
        {"two texts of an id without a row", "{\"id\": 2,", "{\"id\": 20, \"content\": \"x\"}, {\"id\": 20, \"content\": \"y\"}, {\"id\": 2,", "two texts to one id", ""},
    };
    const model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 9, .shards = 1};
    char folder[2048];
    snprintf(folder, sizeof folder, "%s", in_work("settings"));
    model_write_as(&spec, SAFETENSORS, folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama *m = NULL;
        llama_error err;
        buffer b = {0}, bent = {0};
        put_text(&b, sound);
        if (*cases[i].from) bent = replaced(&b, cases[i].from, cases[i].to);
        put_file(*cases[i].from ? &bent : &b, folder, "tokenizer.json");
        free(b.at), free(bent.at);
        int status = llama_open(&m, folder, NULL, &err);
        if (cases[i].says) {
            check(status == LLAMA_EFORMAT && strstr(err.text, cases[i].says), "%s: %d, %s", cases[i].what, status, err.text);
            llama_close(m);
            continue;
        }
        static const int32_t ids[] = {5, 3, 4};
        char back[64] = "", out[LLAMA_TEXT_MAX];
        llama_decoder u = {.n = 0};
        for (int k = 0; m && k < 3; k++) strncat(back, out, llama_token_to_text(m, &u, ids[k], out));
        check(status == LLAMA_OK && strcmp(back, cases[i].back) == 0, "%s: %d, \"%s\", not \"%s\"", cases[i].what, status, back, cases[i].back);
        llama_close(m);
    }
    /* the files beside it */
    static const struct {
        const char *what, *file, *text, *says;
    } beside[] = {
        {"another token", "added_tokens.json", "{\"<x>\": 8}", NULL},
        {"a token that is there", "added_tokens.json", "{\"</s>\": 2}", NULL},
        {"two texts of one id", "added_tokens.json", "{\"<x>\": 8, \"<y>\": 8}", "two texts to one id"},
        {"another text for </s>", "added_tokens.json", "{\"<x>\": 2}", "two texts to one id"},
        {"two texts of one id without a row", "added_tokens.json", "{\"<x>\": 20, \"<y>\": 20}", "two texts to one id"},
        {"two ids of one text", "added_tokens.json", "{\"<x>\": 8, \"<\\u0078>\": 20}", "two ids to one text"},
        {"another id for </s>", "added_tokens.json", "{\"</s>\": 8}", "two ids to one text"},
        {"another id for a piece", "added_tokens.json", "{\"aa\": 8}", "two ids to one text"},
        {"two texts of one id", "tokenizer_config.json", "{\"added_tokens_decoder\": {\"8\": {\"content\": \"<x>\"}, \"8\": {\"content\": \"<y>\"}}}", "two texts to one id"},
        {"another id for a piece", "tokenizer_config.json", "{\"added_tokens_decoder\": {\"8\": {\"content\": \"aa\"}}}", "two ids to one text"},
        {"a token that is there", "tokenizer_config.json", "{\"added_tokens_decoder\": {\"2\": {\"content\": \"</s>\", \"special\": true}}}", NULL},
    };
    buffer b = {0};
    put_text(&b, sound);
    put_file(&b, folder, "tokenizer.json");
    free(b.at);
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        llama *m = NULL;
        llama_error err;
        buffer file = {0};
        char path[2200];
        put_text(&file, beside[i].text);
        put_file(&file, folder, beside[i].file);
        free(file.at);
        int status = llama_open(&m, folder, NULL, &err);
        snprintf(path, sizeof path, "%s/%s", folder, beside[i].file);
        if (beside[i].says) check(status == LLAMA_EFORMAT && strstr(err.text, beside[i].says) && strstr(err.text, path), "%s: %d, %s", beside[i].what, status, err.text);
        else check(status == LLAMA_OK, "%s: %s", beside[i].what, err.text);
        llama_close(m);
        unlink(path);
    }
}

/* Renames a key that is there, so that it is not there twice. */
static void rename_key(buffer *b, const char *key) {
    unsigned char *at = memmem(b->at, b->n, key, strlen(key));
    if (at) *at = 'X';
}

/* What a GGUF file may not say: a known key of another type, a map that is damaged, a vocabulary of another kind. */
static void test_gguf_keys(void) {
    static const struct {
        const char *key, *value, *says; /* value: GGUF's type in 4 bytes, and the value */
        size_t n;
    } cases[] = {{"precompiled_charsmap", "\7\0\0\0\1", "precompiled_charsmap that is not an array of bytes", 5},
                 {"precompiled_charsmap", "\x09\0\0\0\5\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0", "precompiled_charsmap that is not an array of bytes", 20},
                 {"precompiled_charsmap", "\x09\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\1", "precompiled_charsmap that is damaged", 17},
                 {"remove_extra_whitespaces", "\x08\0\0\0\1\0\0\0\0\0\0\0x", "tokenizer.ggml.remove_extra_whitespaces is of another type", 13},
                 {"add_space_prefix", "\x09\0\0\0\7\0\0\0\1\0\0\0\0\0\0\0\1", "tokenizer.ggml.add_space_prefix is of another type", 17},
                 {"model", "\x08\0\0\0\4\0\0\0\0\0\0\0bert", "of kind 'bert', and only 'llama' (SentencePiece's BPE) and 'gpt2' (byte-level BPE) are supported; the model cannot be used", 16},
                 {"model", "\x08\0\0\0\4\0\0\0\0\0\0\0gpt2", "has the tokenizer.ggml.pre '', not llama-bpe, smollm or gpt-2, which is not supported; the model cannot be used", 16}};
    static const test_piece p[] = {{"<unk>", 5, 0, 2}, {"<s>", 3, 0, 3}, {"</s>", 4, 0, 3}};
    const model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 3, .shards = 1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char key[64];
        llama *m = NULL;
        llama_error err;
        buffer b = make_gguf_vocab(p, 3, 2);
        snprintf(key, sizeof key, "tokenizer.ggml.%s", cases[i].key);
        rename_key(&b, key);
        gguf_text(&b, key);
        put(&b, cases[i].value, cases[i].n);
        buffer file = model_gguf(&spec, 0, 1, &b, 7);
        put_file(&file, work, "sentencepiece.gguf");
        check(llama_open(&m, in_work("sentencepiece.gguf"), NULL, &err) == LLAMA_EFORMAT && strstr(err.text, cases[i].says), "%s: %s", cases[i].key, err.text);
        llama_close(m);
        free(b.at), free(file.at);
    }
    for (int i = 0; i < 2; i++) { /* a score that no float32 is, a type that is half a number */
        llama *m = NULL;
        llama_error err;
        buffer b = make_gguf_vocab(p, 3, 2), doubled = {0};
        unsigned char *at = memmem(b.at, b.n, i ? "token_type" : "scores", i ? 10 : 6);
        at += i ? 10 : 6; /* array, its type, its length in 8 bytes, 12 bytes */
        put(&doubled, b.at, (size_t)(at + 4 - b.at));
        put_int(&doubled, i ? 6 : 12, 4), put_int(&doubled, 3, 8);
        for (int k = 0; k < 3; k++) {
            const double score = 0.1;
            const float type = 2.5f + (float)(k > 0);
            if (i) put(&doubled, &type, 4);
            else put(&doubled, &score, 8);
        }
        put(&doubled, at + 28, (size_t)(b.at + b.n - at) - 28);
        buffer file = model_gguf(&spec, 0, 1, &doubled, 6);
        put_file(&file, work, "sentencepiece.gguf");
        check(llama_open(&m, in_work("sentencepiece.gguf"), NULL, &err) == LLAMA_EFORMAT && strstr(err.text, i ? "types that are not whole" : "not float32 numbers"), "%s: %s", i ? "half types" : "scores of 8 bytes", err.text);
        llama_close(m);
        free(b.at), free(doubled.at), free(file.at);
    }
    static const struct {
        const char *text;
        int type;
    } twice[] = {{"a", 1}, {"a", 4}, {"</s>", 3}, {"</s>", 4}, {"<unk>", 2}};
    for (size_t i = 0; i < sizeof twice / sizeof *twice; i++) {
        const test_piece five[] = {p[0], p[1], p[2], {"a", 1, 0, 1}, {twice[i].text, strlen(twice[i].text), 0, twice[i].type}};
        const model_spec wider = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 5, .shards = 1};
        llama *m = NULL;
        llama_error err;
        buffer b = make_gguf_vocab(five, 5, 2), file = model_gguf(&wider, 0, 1, &b, 6);
        put_file(&file, work, "sentencepiece.gguf");
        check(llama_open(&m, in_work("sentencepiece.gguf"), NULL, &err) == LLAMA_EFORMAT && strstr(err.text, i == 4 ? "two unknown pieces" : "two ids to one text"), "%s twice: %s", twice[i].text, err.text);
        llama_close(m);
        free(b.at), free(file.at);
    }
}

static void test_sentencepiece(void) {
    static const struct {
        const char *name;
        bool gguf; /* GGUF can say it */
    } models[] = {{"squeezed", true}, {"mapped", true}, {"mapped_only", true}, {"no_prefix", true},
                  {"user", false}, {"user_mapped", false}, {"plain_space", false}, {"unused", false}, {"frozen", false}};
    enum { MOST = 512 };
    static test_piece p[MOST];
    char path[2048], folder[2048];
    model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .shards = 1};
    snprintf(path, sizeof path, "%s/vocabularies/vectors.jsonl", tiny_folder);
    char *lines = read_file(path, NULL);
    if (!check(lines != NULL, "%s", path)) return;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        llama *m = NULL;
        size_t size = 0;
        snprintf(path, sizeof path, "%s/vocabularies/%s.model", tiny_folder, models[i].name);
        char *bytes = read_file(path, &size);
        spec.vocab = read_pieces(path, p, MOST);
        snprintf(folder, sizeof folder, "%s", in_work("sentencepiece"));
        model_write_as(&spec, SAFETENSORS, folder);
        open_with(&m, folder, path, models[i].name);
        llama_info info = {.size = sizeof info};
        if (m) check(check_vectors(m, lines, models[i].name, "tokenizer.model") > 20, "%s: too few vectors", models[i].name);
        check(!m || (llama_describe(m, &info) == LLAMA_OK && info.pieces == spec.vocab), "%s: %d pieces", models[i].name, (int)info.pieces);
        llama_close(m);
        m = NULL;
        if (models[i].gguf) {
            buffer b = gguf_of(bytes, size, &spec, p, spec.vocab);
            put_file(&b, work, "sentencepiece.gguf");
            open_with(&m, in_work("sentencepiece.gguf"), NULL, models[i].name);
            if (m) check_vectors(m, lines, models[i].name, "GGUF");
            llama_close(m);
            m = NULL;
            free(b.at);
        }
        if (strcmp(models[i].name, "no_prefix") == 0) test_no_prefix_json(p, spec.vocab, folder, lines);
        free(bytes);
    }
    test_split_words(folder);
    test_json_settings();
    test_gguf_keys();
    free(lines);
}

/* ---- Names and wrappings of tensors ---- */

/* How an exporter writes the small model. */
typedef struct {
    const char *what;
    const char *prefix; /* in front of every name; of Hugging Face's, without "model." if it begins with '!' */
    const char *inside; /* after "layers.N." */
    const char *outer;  /* PyTorch: the key of the dict of tensors in a training checkpoint; NULL: no checkpoint */
    bool meta;          /* Meta's names and its order of rows */
    bool legacy;        /* PyTorch: the older form */
} exporter;

static const model_spec exported = {.dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1};

/* Tensors that no model needs: not one of them is float16. */
static const struct {
    const char *name, *dtype, *storage;
    int size, rank; /* bytes of an element; dimensions of 1 in front of the last, which is 8 */
} needless[] = {
    {"model.layers.0.self_attn.rotary_emb.inv_freq", "F64", "Double", 8, 0},
    {"model.rotary_emb.inv_freq", "F32", "Float", 4, 0},
    {"layers.1.attention.inner_attention.rope.freqs", "BF16", "BFloat16", 2, 0},
    {"model.causal_mask", "BOOL", "Bool", 1, 3},
    {"layers.0.attention.mask", "F32", "Float", 4, 3},
    {"model.layers.1.self_attn.bias", "U8", "Byte", 1, 3},
    {"model.layers.1.self_attn.masked_bias", "I16", "Short", 2, 0},
    {"model.position_ids", "I64", "Long", 8, 1},
    {"freqs_cis", "C64", "ComplexFloat", 8, 1},
    {"v_head.summary.weight", "I32", "Int", 4, 0},
};
enum { NEEDLESS = sizeof needless / sizeof *needless };

/* The name of weight w, number i, as the exporter has it. */
static void exported_name(const exporter *e, int i, model_weight *w, char out[256]) {
    static const char *const outside[] = {"tok_embeddings.weight", "norm.weight", "output.weight"};
    static const char *const names[] = {"attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1",
                                        "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"};
    char name[128];
    snprintf(name, sizeof name, "%s", i < 3 ? outside[i] : w->name);
    if (e->meta && i >= 3) snprintf(name, sizeof name, "layers.%d.%s.weight", (i - 3) / 9, names[(i - 3) % 9]);
    if (e->meta) w->sorted = false;
    else snprintf(name, sizeof name, "%s", w->name + (e->prefix[0] == '!' && memcmp(w->name, "model.", 6) == 0 ? 6 : 0));
    char *at = strstr(name, "layers.");
    int cut = at ? (int)(at - name) + 9 : 0; /* one digit */
    snprintf(out, 256, "%s%.*s%s%s", e->prefix + (e->prefix[0] == '!'), cut, name, cut ? e->inside : "", name + cut);
}

static buffer export_safetensors(const exporter *e, bool more, bool tied, int without) {
    buffer header = {0}, data = {0};
    model_spec m = exported;
    model_weight w;
    char name[256], text[512];
    m.tied = tied;
    put_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; model_nth(&m, false, i, &w); i++) {
        size_t begin = data.n;
        if (i == without) continue;
        exported_name(e, i, &w, name);
        put_weight(&data, &m, &w, false);
        char rows[32] = "";
        if (w.rows) snprintf(rows, sizeof rows, "%d,", w.rows);
        snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"F16\",\"shape\":[%s%d],\"data_offsets\":[%zu,%zu]}", name, rows, w.cols, begin, data.n);
        put_text(&header, text);
    }
    for (int i = 0; i < NEEDLESS && more; i++) {
        size_t begin = data.n;
        for (int k = 0; k < 8 * needless[i].size; k++) put_int(&data, 0xff, 1);
        snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%.*s8],\"data_offsets\":[%zu,%zu]}", needless[i].name, needless[i].dtype,
                 2 * needless[i].rank, "1,1,1,", begin, data.n);
        put_text(&header, text);
    }
    snprintf(text, sizeof text, ",\"of nothing\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[%zu,%zu]}", data.n, data.n);
    if (more) put_text(&header, text);
    return safetensors_file(&header, &data);
}

/* A storage of PyTorch, in the file and in the list of keys. */
static void put_storage(parts *p, bool legacy, const char *key, const buffer *data, size_t numel) {
    char path[96];
    snprintf(path, sizeof path, "archive/data/%s", key);
    if (legacy) pickle_text(&p->keys, key), put_int(&p->storages, numel, 8), put(&p->storages, data->at, data->n);
    else zip_add(&p->z, path, data->at, data->n);
}

/* A tensor of 8 elements, with dimensions of 1 or, if expanded, of 8 in front, whose stride is 0. */
static void put_needless(parts *p, bool legacy, const char *name, const char *key, const char *storage, int size, int rank, bool expanded) {
    buffer data = {0};
    char text[128];
    for (int k = 0; k < 8 * size; k++) put_int(&data, 0xff, 1);
    pickle_text(&p->pickle, name);
    put_text(&p->pickle, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(&p->pickle, "storage");
    snprintf(text, sizeof text, "ctorch\n%sStorage\n", storage);
    put_text(&p->pickle, text);
    pickle_text(&p->pickle, key);
    pickle_text(&p->pickle, "cpu");
    pickle_int(&p->pickle, 8);
    put_text(&p->pickle, legacy ? "NtQ" : "tQ");
    pickle_int(&p->pickle, 0);
    put_text(&p->pickle, "(");
    for (int k = 0; k < rank; k++) pickle_int(&p->pickle, expanded ? 8 : 1);
    pickle_int(&p->pickle, 8);
    put_text(&p->pickle, "t(");
    for (int k = 0; k < rank; k++) pickle_int(&p->pickle, expanded ? 0 : 8);
    pickle_int(&p->pickle, 1);
    put_text(&p->pickle, "t\x89" "ccollections\nOrderedDict\n)RtR");
    put_storage(p, legacy, key, &data, 8);
    free(data.at);
}

static buffer export_torch(const exporter *e, bool more, bool tied, int without) {
    static const char pi[] = "G\x40\x09\x21\xfb\x54\x44\x2d\x18"; /* a float */
    parts p = {0};
    model_spec m = exported;
    model_weight w;
    char name[256], key[32];
    m.tied = tied;
    put_text(&p.pickle, "\x80\x02}(");
    if (e->outer) {
        pickle_text(&p.pickle, "best_val_loss");
        put(&p.pickle, pi, 9);
        pickle_text(&p.pickle, "optimizer");
        put_text(&p.pickle, "}(");
        pickle_text(&p.pickle, "state");
        put_text(&p.pickle, "}K\1}(");
        put_needless(&p, e->legacy, "exp_avg", "avg", "Float", 4, 0, false);
        put_text(&p.pickle, "us");
        pickle_text(&p.pickle, "param_groups");
        put_text(&p.pickle, "]}(");
        pickle_text(&p.pickle, "betas");
        put(&p.pickle, pi, 9), put(&p.pickle, pi, 9);
        put_text(&p.pickle, "\x86");
        pickle_text(&p.pickle, "params");
        put_text(&p.pickle, "](K\1K\2euau");
        pickle_text(&p.pickle, "config");
        put_text(&p.pickle, "}");
        pickle_text(&p.pickle, "name");
        pickle_text(&p.pickle, "small");
        put_text(&p.pickle, "s");
        pickle_text(&p.pickle, "args");
        put_text(&p.pickle, "cargparse\nNamespace\n)\x81}");
        pickle_text(&p.pickle, "device");
        put_text(&p.pickle, "ctorch\ndevice\n");
        pickle_text(&p.pickle, "cuda");
        put_text(&p.pickle, "\x85Rsb");
        put_needless(&p, e->legacy, "rng_state", "rng", "Byte", 1, 0, false);
        pickle_text(&p.pickle, "scaler");
        put_text(&p.pickle, "N");
        for (int i = 0; i < 36 && e->outer[0] == '+'; i++) { /* two dicts, nearly as large as the model's */
            snprintf(name, sizeof name, "t%d", i);
            if (i % 18 == 0) pickle_text(&p.pickle, i ? "teacher" : "student"), put_text(&p.pickle, "}(");
            put_needless(&p, e->legacy, name, name, "Half", 2, 0, false);
            if (i % 18 == 17) put_text(&p.pickle, "u");
        }
        for (char outer[64], *at = strcpy(outer, e->outer), *dot; at; at = dot ? dot + 1 : NULL) {
            if ((dot = strchr(at, '.'))) *dot = 0;
            pickle_text(&p.pickle, at);
            put_text(&p.pickle, dot ? "}(" : "ccollections\nOrderedDict\n)R(");
        }
    }
    for (int i = 0; model_nth(&m, false, i, &w); i++) {
        buffer data = {0};
        if (i == without) continue;
        exported_name(e, i, &w, name);
        put_weight(&data, &m, &w, false);
        snprintf(key, sizeof key, "%d", i);
        pickle_tensor(&p.pickle, name, key, (int64_t)data.n / 2, 0, w.rows, w.cols, w.cols, e->legacy);
        put_storage(&p, e->legacy, key, &data, data.n / 2);
        free(data.at);
    }
    for (int i = 0; i < NEEDLESS && more; i++) {
        snprintf(key, sizeof key, "needless%d", i);
        put_needless(&p, e->legacy, needless[i].name, key, needless[i].storage, needless[i].size, needless[i].rank, i % 2);
    }
    put_text(&p.pickle, "u");
    for (const char *at = e->outer; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL) put_text(&p.pickle, "u");
    put_text(&p.pickle, ".");
    if (!e->legacy) zip_add(&p.z, "archive/data.pkl", p.pickle.at, p.pickle.n);
    buffer file = e->legacy ? legacy_end(&p) : zip_end(&p.z);
    free(p.pickle.at);
    return file;
}

/* The file in a folder of Hugging Face or Meta. */
static void put_exported(const char *folder, bool meta_folder, bool torch, bool tied, const buffer *b) {
    model_spec m = exported;
    char command[2200];
    m.tied = tied;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    check(system(command) == 0, "%s", command);
    make_folder(folder);
    if (meta_folder) model_params(&m, folder);
    else model_config(&m, folder);
    put_file(b, folder, meta_folder ? (torch ? "consolidated.00.pth" : "consolidated.safetensors") : torch ? "pytorch_model.bin" : "model.safetensors");
}

/* The same weights under all names and wrappings: the same bits. */
static void test_names(void) {
    static const exporter exporters[] = {
        {"as it is", "", "", NULL, false, false},
        {"DataParallel", "module.", "", NULL, false, false},
        {"compiled", "_orig_mod.", "", NULL, false, false},
        {"compiled in DataParallel", "module._orig_mod.", "", NULL, false, false},
        {"peft", "base_model.model.", "", NULL, false, false},
        {"Lightning", "model.", "", "state_dict", false, false},
        {"Lightning with DeepSpeed", "_forward_module.model.", "", "state_dict", false, false},
        {"DeepSpeed", "", "", "module", false, false},
        {"FSDP", "_fsdp_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module.", NULL, false, false},
        {"layers compiled one by one", "", "_orig_mod.", "model", false, false},
        {"the model without its head's class", "!", "", NULL, false, false},
        {"Meta's names", "", "", NULL, true, false},
        {"llama2.c's ckpt.pt", "_orig_mod.", "", "model", true, false},
        {"Meta's names in a module", "module.", "", "model_state_dict", true, false},
        {"two dicts", "module.", "", "model.state_dict", true, false},
        {"a policy", "policy.model.", "", NULL, true, false},
        {"the only dict, of any name", "", "", "ema", true, false},
        {"the only dict in a dict", "", "", "model.averaged", true, false},
        {"with a value head", "pretrained_model.", "", NULL, false, false},
        {"the older form", "module.", "", "state_dict", true, true},
        {"an unknown prefix", "teacher.", "", NULL, false, false}, /* even numbers: nothing lacks the prefix */
        {"an unknown dict", "", "", "ema", false, false},
        {"a prefix of several components", "student.text_backbone.", "", "ema", false, false},
        {"a known and an unknown dict", "", "", "model.language_text", true, false},
        {"a prefix before the names without model", "!actor.", "", NULL, false, false},
        {"an unknown dict, the older form", "", "", "ema", true, true},
        {"a prefix of Meta's names", "teacher.", "", NULL, true, false},
    };
    llama_info info;
    model_write(&exported, in_work("exported"));
    float *want = all_logits(in_work("exported"), &info, 0, 1);
    for (size_t i = 0; i < sizeof exporters / sizeof *exporters && want; i++)
        for (int k = 0; k < 4; k++) { /* safetensors or PyTorch, in Hugging Face's or Meta's folder */
            const exporter *e = &exporters[i];
            bool torch = k % 2, meta_folder = k / 2;
            if (!torch && (e->outer || e->legacy)) continue;
            buffer b = torch ? export_torch(e, i % 2, false, -1) : export_safetensors(e, i % 2, false, -1);
            put_exported(in_work("exported"), meta_folder, torch, false, &b);
            float *got = all_logits(in_work("exported"), &info, 0, 1);
            check(got && memcmp(want, got, SOME * (size_t)info.vocab * sizeof *got) == 0, "%s, %s in %s folder: other bits", e->what,
                  torch ? "PyTorch" : "safetensors", meta_folder ? "Meta's" : "Hugging Face's");
            free(got), free(b.at);
        }
    free(want);
    /* a prefix that not all tensors have, and two dicts of tensors: refused by name */
    static const exporter two[] = {{"", "teacher.", "", NULL, false, false}, {"", "", "", "+", false, false}};
    static const char *const says[] = {"has another prefix than the tensors before it; save the tensors of one model alone", "holds several dicts of tensors, '"};
    for (int i = 0; i < 2; i++) {
        llama *m = NULL;
        llama_error err;
        buffer b = i ? export_torch(&two[i], false, false, -1) : export_safetensors(&two[i], true, false, -1);
        char *norm = memmem(b.at, b.n, "teacher.model.norm", 18);
        if (norm) memcpy(norm, "student", 7);
        put_exported(in_work("exported"), false, i, false, &b);
        check(llama_open(&m, in_work("exported"), NULL, &err) == LLAMA_EFORMAT && strstr(err.text, says[i]), "%s: %s", says[i], err.text);
        llama_close(m);
        free(b.at);
    }
}

/* Output and embeddings are one, and stored under either name or both. */
static void test_tied(void) {
    static const exporter plain = {"tied", "", "", NULL, false, false};
    model_spec m = exported;
    llama_info info;
    llama_error err;
    llama *model = NULL;
    m.tied = true;
    float *want = all_logits(model_write_as(&m, GGUF_FILE, in_work("tied")), &info, 0, 1);
    uint64_t parameters = info.parameters;
    for (int k = 0; k < 6 && want; k++) { /* without output, without embeddings, with both */
        bool torch = k % 2;
        int without = k / 2 == 0 ? 2 : k / 2 == 1 ? 0 : -1;
        buffer b = torch ? export_torch(&plain, false, true, without) : export_safetensors(&plain, false, true, without);
        put_exported(in_work("tied"), false, torch, true, &b);
        float *got = all_logits(in_work("tied"), &info, 0, 1);
        check(got && memcmp(want, got, SOME * (size_t)info.vocab * sizeof *got) == 0, "tied, without %d: other bits", without);
        check(info.parameters == parameters, "tied, without %d: %llu parameters", without, (unsigned long long)info.parameters);
        put_exported(in_work("tied"), true, torch, true, &b); /* Meta's folder: by the tensors */
        float *meta = all_logits(in_work("tied"), &info, 0, 1);
        check(meta && memcmp(want, meta, SOME * (size_t)info.vocab * sizeof *meta) == 0, "Meta, tied, without %d: other bits", without);
        check(without < 0 || info.parameters == parameters, "Meta, tied, without %d: %llu parameters", without, (unsigned long long)info.parameters);
        free(meta);
        put_exported(in_work("tied"), false, torch, false, &b); /* and config.json does not say it */
        int status = llama_open(&model, in_work("tied"), NULL, &err);
        if (without < 0) check(status == LLAMA_OK, "untied, both: %s", err.text);
        else check(status == LLAMA_EFORMAT && strstr(err.text, without ? "lm_head.weight is missing" : "model.embed_tokens.weight is missing") && strstr(err.text, "tie_word_embeddings"),
                   "untied, without %d: %s", without, err.text);
        llama_close(model);
        model = NULL;
        free(got), free(b.at);
    }
    /* GGUF: output.weight is 4 bytes shorter than token_embd.weight, so 4 zeros more go in front of the elements */
    buffer b = model_gguf(&m, 0, 1, NULL, 0), file = {0};
    size_t elements = b.n, at = 0;
    model_weight w;
    for (int i = 0; model_nth(&m, true, i, &w); i++)
        if (i != 2) elements -= ((size_t)(w.rows ? 2 * w.rows : 4) * (size_t)w.cols + 63) / 64 * 64;
    while (memcmp(b.at + at, "token_embd.weight", 17) != 0) at++;
    put(&file, b.at, at - 8);
    gguf_text(&file, "output.weight");
    put(&file, b.at + at + 17, elements - at - 17);
    put_int(&file, 0, 4);
    put(&file, b.at + elements, b.n - elements);
    put_file(&file, in_work("tied"), "output.gguf");
    float *got = all_logits(in_work("tied/output.gguf"), &info, 0, 1);
    check(got && want && memcmp(want, got, SOME * (size_t)info.vocab * sizeof *got) == 0, "GGUF with output.weight alone");
    free(got), free(want), free(b.at), free(file.at);
}

/* Tensors of other models: each is called what it is, and none "damaged". */
static void test_foreign(void) {
    static const struct {
        const char *name, *says;
    } cases[] = {
        {"model.layers.0.self_attn.q_proj.bias", "it is a bias"},
        {"layers.1.attention.wq.bias", "it is a bias"},
        {"module.lm_head.bias", "it is a bias"},
        {"model.norm.bias", "it is a bias"},
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "an adapter; merge"},
        {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", "an adapter; merge"},
        {"base_model.model.lm_head.modules_to_save.default.weight", "an adapter; merge"},
        {"adapter_query.weight", "an adapter; merge"},
        {"model.layers.0.self_attn.q_proj.qweight", "quantised; get the model as F16"},
        {"model.layers.0.self_attn.q_proj.qzeros", "quantised"},
        {"model.layers.0.self_attn.q_proj.scales", "quantised"},
        {"model.layers.0.self_attn.q_proj.g_idx", "quantised"},
        {"model.layers.0.self_attn.q_proj.SCB", "quantised"},
        {"model.layers.0.self_attn.q_proj.weight.absmax", "quantised"},
        {"model.layers.0.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4", "quantised"},
        {"model.layers.0.mlp.up_proj.weight_scale", "quantised"},
        {"model.layers.0.mlp.up_proj.weight_scale_inv", "quantised"},
        {"model.layers.0.mlp.up_proj.input_scale", "quantised"},
        {"model.layers.0.mlp.up_proj.weight_packed", "quantised"},
        {"model.layers.0.block_sparse_moe.gate.weight", "mixture of experts"},
        {"model.layers.0.mlp.experts.0.up_proj.weight", "mixture of experts"},
        {"model.layers.0.mlp.gate.weight", "mixture of experts"},
        {"model.layers.0.self_attn.q_norm.weight", "normalises queries"},
        {"model.layers.0.self_attn.k_norm.weight", "normalises keys"},
        {"model.layers.0.self_attn.qkv_proj.weight", "several weights in one"},
        {"model.layers.0.self_attn.W_pack.weight", "several weights in one"},
        {"model.layers.0.mlp.gate_up_proj.weight", "several weights in one"},
        {"transformer.h.0.attn.qkv.weight", "several weights in one"},
        {"model.layers.0.pre_feedforward_layernorm.weight", "another architecture"},
        {"model.layers.0.attention.gate", "another architecture"},
        {"model.layers.2.mlp.up_proj.weight", "fewer layers (n_layers)"},
        {"model.embed_positions.weight", "table of positions"},
        {"rope_freqs.weight", "scales RoPE"},
    };
    static const exporter plain = {"plain", "", "", NULL, false, false};
    llama *m = NULL;
    llama_error err;
    char text[512];
    for (size_t k = 0; k < sizeof cases / sizeof *cases + 4; k++) { /* the first four are biases: then with two dimensions */
        size_t i = k % (sizeof cases / sizeof *cases);
        buffer sound = export_safetensors(&plain, false, false, -1), b = {0};
        uint64_t header;
        memcpy(&header, sound.at, 8);
        size_t data = sound.n - 8 - header;
        snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"F16\",\"shape\":[%s4],\"data_offsets\":[%zu,%zu]}}", cases[i].name, k == i ? "" : "1,", data, data + 8);
        put_int(&b, header - 1 + strlen(text), 8);
        put(&b, sound.at + 8, header - 1);
        put_text(&b, text);
        put(&b, sound.at + 8 + header, data);
        put_int(&b, 0, 8);
        put_exported(in_work("foreign"), false, false, false, &b);
        int status = llama_open(&m, in_work("foreign"), NULL, &err);
        check(status == LLAMA_EFORMAT && strstr(err.text, cases[i].says) && strstr(err.text, cases[i].name) && strstr(err.text, "not part of a LLaMA") && strchr(err.text, ';') && !strstr(err.text, "download"),
              "%s: %d, %s", cases[i].name, status, err.text);
        llama_close(m);
        m = NULL;
        free(sound.at), free(b.at);
    }
    static const struct {
        const char *name, *says;
    } gguf[] = {
        {"rope_factors_long.weight", "scales RoPE"}, {"blk.0.attn_q.bias", "it is a bias"}, {"blk.0.attn_q.weight.lora_a", "adapter"}, {"blk.0.ffn_gate_exps.weight", "experts"},
        {"blk.0.ffn_gate_inp.weight", "experts"}, {"blk.0.attn_k_norm.weight", "normalises keys"}, {"blk.0.attn_qkv.weight", "several weights"}, {"position_embd.weight", "positions"},
        {"blk.0.post_ffw_norm.weight", "another architecture"}, {"token_types.weight", "another architecture"}, {"blk.0.attn_rot_embd.weight", NULL},
    };
    for (size_t i = 0; i < sizeof gguf / sizeof *gguf; i++) { /* as the second file of two */
        model_write_as(&exported, GGUF_FILE, in_work("foreign"));
        buffer first = model_gguf(&exported, 0, 1, NULL, 0), b = {0};
        put_file(&first, in_work("foreign"), "x-00001-of-00002.gguf");
        put_text(&b, "GGUF");
        put_int(&b, 3, 4), put_int(&b, 1, 8), put_int(&b, 0, 8);
        gguf_text(&b, gguf[i].name);
        put_int(&b, 1, 4), put_int(&b, 8, 8), put_int(&b, 0, 4), put_int(&b, 0, 8);
        while (b.n % 32) put_int(&b, 0, 1);
        for (int k = 0; k < 8; k++) put_int(&b, 0x3f800000, 4);
        put_file(&b, in_work("foreign"), "x-00002-of-00002.gguf");
        int status = llama_open(&m, in_work("foreign/x-00001-of-00002.gguf"), NULL, &err);
        if (!gguf[i].says) check(status == LLAMA_OK, "GGUF, %s: %s", gguf[i].name, err.text);
        else check(status == LLAMA_EFORMAT && strstr(err.text, gguf[i].says) && strstr(err.text, gguf[i].name) && !strstr(err.text, "download"), "GGUF, %s: %d, %s", gguf[i].name, status, err.text);
        llama_close(m);
        m = NULL;
        free(first.at), free(b.at);
    }
}

/* ---- Paths that are not those of a model: which to give instead ---- */

static void wrong_path(const char *path, const char *says) {
    llama *m = NULL;
    llama_error err;
    int status = llama_open(&m, path, NULL, &err);
    check(status == LLAMA_EFORMAT && strstr(err.text, says) && strchr(err.text, ';') && !strchr(err.text, '\n') && !strstr(err.text, "download it again"), "%s: %d, %s", path, status, err.text);
    llama_close(m);
}

/* GGUF's divisors of RoPE's frequencies, as the second file of two. The model has heads of 8. */
static void test_divisors(void) {
    static const struct {
        const char *what, *says;
        uint32_t bits; /* of the last divisor; the others are 1, 2, 4 */
        int type, n;   /* 0 float32, 1 float16; number of divisors */
        int dims, times;
    } cases[] = {
        {"divisors", NULL, 0x41000000, 0, 4, 1, 1},
        {"divisors below 1", NULL, 0x3f000000, 0, 4, 1, 1},
        {"divisors and a linear scaling", NULL, 0x41000000, 0, 4, 1, 1},
        {"three divisors", "is not a float32 divisor for each pair of a head", 0x41000000, 0, 3, 1, 1},
        {"eight divisors", "is not a float32 divisor", 0x41000000, 0, 8, 1, 1},
        {"float16 divisors", "is not a float32 divisor", 0x41000000, 1, 4, 1, 1},
        {"a matrix of divisors", "is not a float32 divisor", 0x41000000, 0, 4, 2, 1},
        {"divisors of another type", "is not a float32 divisor", 0x41000000, 24, 4, 1, 1},
        {"divisors twice", "is in the files twice", 0x41000000, 0, 4, 1, 2},
        {"a divisor of 0", "has a divisor that is not from 0.5 to 1e6", 0, 0, 4, 1, 1},
        {"a divisor below 0", "has a divisor that is not from", 0xc0000000, 0, 4, 1, 1},
        {"a divisor of NaN", "has a divisor that is not from", 0x7fc00000, 0, 4, 1, 1},
        {"an infinite divisor", "has a divisor that is not from", 0x7f800000, 0, 4, 1, 1},
        {"a tiny divisor", "has a divisor that is not from", 1, 0, 4, 1, 1},
    };
    static const model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama *m = NULL;
        llama_error err;
        llama_info info = {.size = sizeof info};
        make_folder(in_work("divisors"));
        const bool linear = strstr(cases[i].what, "linear"); /* both are applied, as in llama.cpp, and both are named */
        buffer keys = {0};
        if (linear) gguf_f32(&keys, "llama.rope.scaling.factor", 4);
        buffer first = model_gguf(&spec, 0, 1, &keys, linear);
        put_file(&first, in_work("divisors"), cases[i].times == 2 ? "x-00001-of-00003.gguf" : "x-00001-of-00002.gguf");
        for (int k = 0; k < cases[i].times; k++) {
            buffer b = {0};
            put_text(&b, "GGUF");
            put_int(&b, 3, 4), put_int(&b, 1, 8), put_int(&b, 0, 8);
            gguf_text(&b, "rope_freqs.weight");
            put_int(&b, (uint64_t)cases[i].dims, 4);
            if (cases[i].dims == 2) put_int(&b, 1, 8); /* [n][1], fastest first */
            put_int(&b, (uint64_t)cases[i].n, 8);
            put_int(&b, (uint64_t)cases[i].type, 4), put_int(&b, 0, 8);
            while (b.n % 32) put_int(&b, 0, 1);
            size_t width = cases[i].type == 0 ? 4 : cases[i].type == 1 ? 2 : 1;
            for (int j = 0; j < cases[i].n; j++) put_int(&b, j + 1 == cases[i].n ? cases[i].bits : 0x3f800000 + (uint64_t)j * 0x800000, (int)width);
            put_file(&b, in_work("divisors"), cases[i].times == 1 ? "x-00002-of-00002.gguf" : k ? "x-00003-of-00003.gguf" : "x-00002-of-00003.gguf");
            free(b.at);
        }
        int status = llama_open(&m, in_work(cases[i].times == 2 ? "divisors/x-00001-of-00003.gguf" : "divisors/x-00001-of-00002.gguf"), NULL, &err);
        if (cases[i].says) check(status == LLAMA_EFORMAT && strstr(err.text, cases[i].says) && strstr(err.text, "rope_freqs.weight"), "%s: %d, %s", cases[i].what, status, err.text);
        else check(status == LLAMA_OK && !llama_describe(m, &info) && strcmp(info.rope_scaling, linear ? "linear, divisors" : "divisors") == 0 && info.rope_factor == (linear ? 4 : 1) && info.rope_original == 0, "%s: %s", cases[i].what, err.text);
        llama_close(m);
        free(first.at), free(keys.at);
    }
}

static void test_wrong_paths(void) {
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 13476939516\n";
    static const struct {
        const char *name, *bytes;
        size_t n;
        const char *says;
    } files[] = {
#define BYTES(name, literal, says) {name, literal, sizeof literal - 1, says}
        BYTES("model.gguf", pointer, "Git LFS pointer"),
        BYTES("page.bin", "<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        BYTES("ggml-model-f16.bin", "tjgg\3\0\0\0\0\x7d\0\0\0\x10\0\0\0\1\0\0\x20\0\0\0\x20\0\0\0", "GGML"),
        BYTES("model.tar.gz", "\x1f\x8b\x08\0\0\0\0\0\0\3 abcdefghijklmnopqrstuvwxyz", "unpack"),
        BYTES("tokenizer.model", "\n\x0e\n\5<unk>\x15\0\0\0\0\x18\2 abcdefghijklmnopqrstuvwxyz", "is a tokenizer; give the model"),
        BYTES("tokenizer.json", "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null}", "is a tokenizer; give the model"),
        BYTES("adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16}", "merge it into its model"),
        BYTES("lonely.json", "{\"hidden_size\": 4096, \"num_hidden_layers\": 32}", "give a folder that holds all of them"),
        BYTES("big.gguf", "GGUF\0\0\0\3\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2 and more", "big-endian"),
    };
    char path[2200], folder[2048], says[2400];
    snprintf(path, sizeof path, "rm -rf '%s'", in_work("wrong"));
    check(system(path) == 0, "%s", path);
    make_folder(in_work("wrong"));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        buffer b = {0};
        put(&b, files[i].bytes, files[i].n);
        put_file(&b, in_work("wrong"), files[i].name);
        snprintf(path, sizeof path, "%.1000s/wrong/%s", work, files[i].name);
        wrong_path(path, files[i].says);
        if (strstr(files[i].name, "adapter")) { /* its folder */
            snprintf(folder, sizeof folder, "%s", in_work("wrong"));
            wrong_path(folder, "merge it into its model");
            unlink(path);
        }
        free(b.at);
    }
    snprintf(says, sizeof says, "several models in files; give one, such as %s/big.gguf", in_work("wrong"));
    wrong_path(in_work("wrong"), says);

    /* a file of a sound folder, of each form */
    static const char *const names[] = {"model.safetensors", "config.json", "pytorch_model.bin", "consolidated.00.pth", "params.json"};
    for (int i = 0; i < 5; i++)
        for (int legacy = 0; legacy <= (i == 3); legacy++) {
            model_spec m = exported;
            m.legacy = legacy;
            snprintf(folder, sizeof folder, "%s", in_work("wrong/sound"));
            snprintf(says, sizeof says, "rm -rf '%s'", folder);
            check(system(says) == 0, "%s", says);
            if (i < 3) model_write_as(&m, i < 2 ? SAFETENSORS : TORCH, folder);
            else model_write(&m, folder);
            snprintf(path, sizeof path, "%s/%s", folder, names[i]);
            snprintf(says, sizeof says, "give its folder instead: %.100s", folder);
            wrong_path(path, says);
            /* and the folder without its parameters, or with a pointer for its weights */
            snprintf(says, sizeof says, "%s/%s", folder, i < 3 ? "config.json" : "params.json");
            if (i == 1 || i == 4) continue;
            buffer lfs = {0};
            put_text(&lfs, pointer);
            put_file(&lfs, folder, names[i]);
            wrong_path(folder, "Git LFS pointer");
            unlink(says);
            wrong_path(folder, "but neither params.json nor config.json");
            free(lfs.at);
        }
    const char *one = model_write_as(&exported, SAFETENSORS, in_work("wrong/hf"));
    buffer lfs = {0}, config = {0};
    put_text(&lfs, pointer);
    put_file(&lfs, one, "tokenizer.model");
    wrong_path(one, "Git LFS pointer");
    put_file(&lfs, one, "config.json");
    wrong_path(one, "Git LFS pointer");
    model_config(&exported, one); /* an adapter saved beside its model's config.json */
    put_text(&config, "{}");
    put_file(&config, one, "adapter_config.json");
    snprintf(path, sizeof path, "%s/model.safetensors", one);
    unlink(path);
    wrong_path(one, "merge it into its model");

    /* what a folder holds that is no model itself: a file of a model, a folder of one, folders in it */
    static const struct {
        const char *made, *given, *says; /* folders to make, and what the hint leads to; NULL: the file is a GGUF */
    } inside[] = {
        {"wrong/only", NULL, "give the file: %s/wrong/only/model.gguf"},
        {"wrong/one/7B", "wrong/one", "give the folder of the model in it: %s/wrong/one/7B"},
        {"wrong/deep/snapshots/abc", "wrong/deep", "give the folder of the model in it: %s/wrong/deep/snapshots/abc"},
        {"wrong/deep/snapshots/abc", "wrong/deep/snapshots", "give the folder of the model in it: %s/wrong/deep/snapshots/abc"},
        {"wrong/deep/snapshots/def", "wrong/deep", "give the folder of a model in it, such as %s/wrong/deep/snapshots/abc"},
        {"wrong/levels/a/b/c", "wrong/levels", "give the folder of the model in it: %s/wrong/levels/a/b/c"},
        {"wrong/hub/models--a--b/snapshots/abc", "wrong/hub", "give the folder of the model in it: %s/wrong/hub/models--a--b/snapshots/abc"},
    };
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        snprintf(says, sizeof says, "mkdir -p '%s'", in_work(inside[i].made));
        if (strstr(inside[i].made, "snapshots/")) snprintf(says + strlen(says), 900, " '%s/../../blobs' '%s/../../refs'", in_work(inside[i].made), in_work(inside[i].made));
        check(system(says) == 0, "%s", says);
        snprintf(says, sizeof says, "%s", in_work(inside[i].made)); /* in_work has one buffer */
        if (inside[i].given) model_write_as(&exported, SAFETENSORS, says);
        else model_write_as(&exported, GGUF_FILE, says);
        snprintf(says, sizeof says, inside[i].says, work);
        wrong_path(in_work(inside[i].given ? inside[i].given : inside[i].made), says);
    }
    snprintf(folder, sizeof folder, "%s", in_work("wrong/bin"));
    make_folder(folder);
    model_write_as(&exported, BIN_0, folder);
    wrong_path(folder, "give the file: ");
    snprintf(folder, sizeof folder, "%s", model_write_as(&exported, SAFETENSORS_SPLIT, in_work("wrong/parts")));
    snprintf(says, sizeof says, "cd '%s' && rm *.index.json && mv model-1.safetensors model-00001-of-00003.safetensors", folder);
    check(system(says) == 0, "%s", says);
    wrong_path(folder, "model.safetensors.index.json, is missing; download it");
    snprintf(folder, sizeof folder, "%s", in_work("wrong/params"));
    model_write(&exported, folder);
    snprintf(path, sizeof path, "%s/consolidated.00.pth", folder);
    unlink(path);
    wrong_path(folder, "but not its weights, consolidated.00.pth or consolidated.safetensors; download them");

    /* a file in a folder under the name of another kind, or of none */
    static const struct {
        const char *name, *bytes;
        size_t n;
        const char *says;
    } kinds[] = {
        BYTES("model.safetensors", "<html>\n<body>Sign in</body></html> and more", "is a web page; download the file itself"),
        BYTES("model.safetensors", "\r\n<!DOCTYPE html>..............................", "is a web page; download the file itself"),
        BYTES("model.safetensors", "\x1f\x8b..............................", "is compressed; unpack it"),
        BYTES("config.json", "<html>\n<body>Sign in</body></html> and more", "is a web page; download the file itself"),
        BYTES("generation_config.json", "<html>\n<body>Sign in</body></html> and more", "is a web page; download the file itself"),
        BYTES("tokenizer.model", "<html>\n<body>Sign in</body></html> and more", "is a web page, not a tokenizer; give"),
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        buffer b = {0};
        snprintf(says, sizeof says, "rm -rf '%s'", in_work("wrong/kinds"));
        check(system(says) == 0, "%s", says);
        snprintf(folder, sizeof folder, "%s", model_write_as(&exported, SAFETENSORS, in_work("wrong/kinds")));
        put(&b, kinds[i].bytes, kinds[i].n);
        put_file(&b, folder, kinds[i].name);
        wrong_path(folder, kinds[i].says);
        free(b.at);
    }
    static const struct {
        int format;
        const char *from, *to, *says;
    } renamed[] = {{SAFETENSORS, "model.safetensors", "pytorch_model.bin", "is safetensors; give it the name"},
                   {TORCH, "pytorch_model.bin", "model.safetensors", "is PyTorch's; give it the name"},
                   {GGUF_FILE, "model.gguf", "model.safetensors", "is GGUF; give it the name"},
                   {GGUF_FILE, "model.gguf", "pytorch_model.bin", "is GGUF; give it the name"}};
    for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++) {
        snprintf(folder, sizeof folder, "%s", in_work("wrong/kinds"));
        snprintf(says, sizeof says, "rm -rf '%s'", folder);
        check(system(says) == 0, "%s", says);
        make_folder(folder);
        model_write_as(&exported, renamed[i].format, folder);
        snprintf(says, sizeof says, "cd '%s' && mv %s %s && cp -n ../hf/config.json .", folder, renamed[i].from, renamed[i].to);
        check(system(says) == 0, "%s", says);
        wrong_path(folder, renamed[i].says);
    }

    /* a hole in the shards of Meta, and folders with many files */
    snprintf(folder, sizeof folder, "%s", in_work("wrong/hole"));
    model_write(&exported, folder);
    snprintf(says, sizeof says, "cd '%s' && cp consolidated.00.pth consolidated.02.pth", folder);
    check(system(says) == 0, "%s", says);
    wrong_path(folder, "holds consolidated.02.pth, but not consolidated.01.pth; download it");
    snprintf(says, sizeof says, "mkdir -p '%s'", in_work("wrong/many"));
    check(system(says) == 0, "%s", says);
    for (int k = 1; k <= 100; k++) {
        snprintf(says, sizeof says, "model-%d-of-100.safetensors", k);
        buffer b = {0};
        put_text(&b, "x\n"), put_file(&b, in_work("wrong/many"), says), free(b.at);
    }
    snprintf(says, sizeof says, "cd '%s' && cp ../hf/config.json .", in_work("wrong/many"));
    check(system(says) == 0, "%s", says);
    wrong_path(in_work("wrong/many"), "model.safetensors.index.json, is missing; download it");
    snprintf(says, sizeof says, "mkdir -p '%s'", in_work("wrong/ggufs"));
    check(system(says) == 0, "%s", says);
    for (int k = 1; k <= 80; k++) {
        snprintf(says, sizeof says, "%02d.gguf", k);
        buffer b = {0};
        put_text(&b, "GGUF\n"), put_file(&b, in_work("wrong/ggufs"), says), free(b.at);
    }
    wrong_path(in_work("wrong/ggufs"), "several models in files; give one, such as");

    /* files that are given as a tokenizer, and a vocabulary of GPT-2 */
    static const struct {
        const char *name, *bytes;
        size_t n;
        const char *says;
    } tokenizers[] = {
        BYTES("config.json", "{\"hidden_size\": 4096}", "holds settings, not a tokenizer; give the model's"),
        BYTES("params.json", "{\"dim\": 4096}", "holds settings, not a tokenizer; give the model's"),
        BYTES("tokenizer_config.json", "{\"add_bos_token\": true}", "holds settings, not a tokenizer; give the model's"),
        BYTES("special_tokens_map.json", "{\"bos_token\": \"<s>\"}", "holds settings, not a tokenizer; give the model's"),
        BYTES("vocab.json", "{\"a\": 0}", "a part of a GPT-2 vocabulary, not a tokenizer; give"),
        BYTES("merges.txt", "#version: 0.2\na b\n", "a part of a GPT-2 vocabulary, not a tokenizer; give"),
        BYTES("renamed.json", "{\"a\": {}, \"b\": 0}", "is not a tokenizer; give"),
        BYTES("x.gguf", "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\1", "is GGUF, not a tokenizer"),
        BYTES("x.pth", "PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\1", "is PyTorch's, not a tokenizer"),
        BYTES("x.safetensors", "\2\0\0\0\0\0\0\0{}       and more", "is safetensors, not a tokenizer"),
        BYTES("noise", "abcdefghijklmnop", "is truncated; give the model's"),
        BYTES("page", "\n <!DOCTYPE html><html>", "is a web page, not a tokenizer; give the model's"),
        BYTES("packed.json", "\x1f\x8b\b\0\0\0\0\0", "is compressed, not a tokenizer"),
        BYTES("renamed.txt", "#version: 0.2\na b\n", "a part of a GPT-2 vocabulary, not a tokenizer; give"),
        BYTES("other.json", "{\"model\": {\"type\": \"Unigram\"}}", "if this is it, the model cannot be used"),
    };
    make_folder(in_work("wrong/tokenizers"));
    snprintf(folder, sizeof folder, "%s", model_write_as(&exported, SAFETENSORS, in_work("wrong/gpt2")));
    for (size_t i = 0; i < sizeof tokenizers / sizeof *tokenizers; i++) {
        llama *m = NULL;
        llama_error err;
        buffer b = {0};
        put(&b, tokenizers[i].bytes, tokenizers[i].n);
        put_file(&b, in_work("wrong/tokenizers"), tokenizers[i].name);
        snprintf(path, sizeof path, "%.1000s/wrong/tokenizers/%s", work, tokenizers[i].name);
        int status = llama_open(&m, folder, &(llama_options){.size = sizeof(llama_options), .tokenizer = path}, &err);
        check(status == LLAMA_EFORMAT && strstr(err.text, tokenizers[i].says) && strstr(err.text, path), "--tokenizer %s: %d, %s", path, status, err.text);
        llama_close(m);
        free(b.at);
    }
    buffer gpt2 = {0};
    put_text(&gpt2, "{}");
    put_file(&gpt2, folder, "vocab.json");
    put_file(&gpt2, folder, "merges.txt");
    wrong_path(folder, "GPT-2's kind (vocab.json, merges.txt), which is not supported; the model cannot be used, because");
    free(gpt2.at);

    /* GGUF that is not a model */
    buffer more = {0}, b = {0};
    gguf_text(&more, "adapter.type");
    put_int(&more, 8, 4);
    gguf_text(&more, "lora");
    b = model_gguf(&exported, 0, 1, &more, 1);
    put_file(&b, in_work("wrong"), "lora.gguf");
    wrong_path(in_work("wrong/lora.gguf"), "merge it into its model");
    free(b.at);
    b = model_gguf(&exported, 0, 1, NULL, 0);
    memset(b.at + 8, 0, 8);
    put_file(&b, in_work("wrong"), "vocabulary.gguf");
    wrong_path(in_work("wrong/vocabulary.gguf"), "only a vocabulary");
    model_write_as(&exported, GGUF_SPLIT, in_work("wrong"));
    wrong_path(in_work("wrong/model-00002-of-00002.gguf"), "give the first instead");
    free(b.at), free(more.at), free(lfs.at), free(config.at);
}

/* ---- Special tokens ---- */

/* The ids of a text with LLAMA_SPECIAL; -1 ends the wanted ones. */
static void special_ids(const llama *m, const char *what, const char *text, unsigned flags, const int32_t *want) {
    int32_t got[64];
    ptrdiff_t n = llama_text_to_tokens(m, text, strlen(text), flags, got, 64), k = 0;
    while (want[k] != -1 && k < n && got[k] == want[k]) k++;
    check(k == n && want[k] == -1, "%s: \"%s\" is %td tokens, other than wanted at %td", what, text, n, k);
}

/* Appends the ids of a stretch of text, tokenized as a text of its own. */
static int stretch(const llama *m, const char *text, int32_t *out, int n) {
    return n + (int)llama_text_to_tokens(m, text, strlen(text), 0, out + n, (size_t)(64 - n));
}

/* In every format: <s>, </s>, <unk> and two added tokens, which stay data without LLAMA_SPECIAL. */
static void test_special(void) {
    static test_piece p[2048];
    char file[2048], folder[2048];
    snprintf(file, sizeof file, "%s/tokenizer.model", tiny_folder);
    int n = read_pieces(file, p, 2046);
    model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = n + 2, .shards = 1};
    snprintf(folder, sizeof folder, "%s", in_work("special"));
    model_write_as(&spec, SAFETENSORS, folder);
    size_t n_model = 0;
    char *bytes = read_file(file, &n_model), added[128];
    buffer model = {0}, list = {0};
    put(&model, bytes, n_model);
    put_file(&model, folder, "tokenizer.model");
    snprintf(added, sizeof added, "{\"<|im_end|>\": %d, \"<|im_start|>\": %d}", n + 1, n);
    put_text(&list, added);
    put_file(&list, folder, "added_tokens.json");
    buffer json = make_tokenizer_json(p, n, false), with = {0};
    char *at = strstr((char *)json.at, "\"added_tokens\": [") + strlen("\"added_tokens\": [");
    put(&with, json.at, (size_t)(at - (char *)json.at));
    snprintf(added, sizeof added, "{\"id\": %d, \"content\": \"<|im_start|>\"}, {\"id\": %d, \"content\": \"<|im_end|>\"}, ", n, n + 1);
    put_text(&with, added);
    put(&with, at, json.n - (size_t)(at - (char *)json.at));
    make_folder(in_work("special_json"));
    model_write_as(&spec, SAFETENSORS, in_work("special_json"));
    put_file(&with, work, "special_json/tokenizer.json");
    p[n] = (test_piece){"<|im_start|>", 12, 0, 4};
    p[n + 1] = (test_piece){"<|im_end|>", 10, 0, 4};
    buffer vocab = make_gguf_vocab(p, n + 2, 2), gguf = model_gguf(&spec, 0, 1, &vocab, 6);
    put_file(&gguf, work, "special.gguf");
    make_folder(in_work("special_both")); /* tokenizer.model, and a tokenizer.json that alone has the added tokens */
    model_write_as(&spec, SAFETENSORS, in_work("special_both"));
    put_file(&model, work, "special_both/tokenizer.model");
    put_file(&with, work, "special_both/tokenizer.json");
    static const char *const forms[] = {"special", "special_json", "special_both", "special.gguf"};
    for (int i = 0; i < 4; i++) {
        llama *m = NULL;
        open_with(&m, in_work(forms[i]), NULL, forms[i]);
        if (!m) continue;
        int32_t want[64] = {1, n}, token = -2;
        int k = stretch(m, "user\nhi", want, 2);
        want[k++] = n + 1, want[k++] = 2, want[k++] = 0;
        k = stretch(m, " two", want, k);
        want[k] = -1;
        static const char text[] = "<|im_start|>user\nhi<|im_end|></s><unk> two";
        special_ids(m, forms[i], text, LLAMA_ADD_BOS | LLAMA_SPECIAL, want);
        char again[128] = "<s>", out[LLAMA_TEXT_MAX], back[256] = "", plain[256] = "";
        strcat(again, text);
        special_ids(m, forms[i], again, LLAMA_ADD_BOS | LLAMA_SPECIAL, want); /* not a second BOS */
        llama_decoder special = {.special = 1}, none = {.n = 0};
        for (int t = 0; t < k; t++) {
            size_t length = llama_token_to_text(m, &special, want[t], out);
            strncat(back, out, length);
            length = llama_token_to_text(m, &none, want[t], out);
            strncat(plain, out, length);
        }
        check(strcmp(back, again) == 0, "%s: back comes \"%s\"", forms[i], back);
        check(!strstr(plain, "</s>") && strstr(plain, "<|im_end|>"), "%s: \"%s\"", forms[i], plain);
        int32_t data[64];
        ptrdiff_t count = llama_text_to_tokens(m, again, strlen(again), 0, data, 64);
        for (ptrdiff_t t = 0; t < count; t++) check(data[t] != 1 && data[t] != 2 && data[t] < n, "%s: text is data", forms[i]);
        check(llama_find_special(m, "a<|im_end|>", 11, &token) == 1 && token == n + 1, "%s: found %d", forms[i], (int)token);
        check(llama_find_special(m, "a<|im_en", 8, &token) == 8 && token == -1, "%s: found %d", forms[i], (int)token);
        llama_close(m);
    }

    /* tokenizer_config.json: what it says, or why it is refused */
    const struct {
        const char *what, *config, *text, *between, *says; /* between: "x", or the text tokenized after </s> */
    } cases[] = {
        {"legacy", "{\"legacy\": true}", "x</s>x", "space", NULL},
        {"not legacy", "{\"legacy\": false}", "x</s>x", "none", NULL},
        {"strips", "{\"added_tokens_decoder\": {\"2\": {\"content\": \"</s>\", \"lstrip\": true, \"rstrip\": true, \"special\": true}}}", "x \n</s>\t x", "space", NULL},
        {"strips, by name", "{\"eos_token\": {\"content\": \"</s>\", \"lstrip\": true, \"rstrip\": true}}", "x </s> x", "space", NULL},
        {"single words", "{\"added_tokens_decoder\": {\"2\": {\"content\": \"</s>\", \"single_word\": true}}}", "", "", ": has an added token with single_word"},
        {"a text as id", "{\"added_tokens_decoder\": {\"2x\": {\"content\": \"</s>\"}}}", "", "", "valid id"},
        {"a byte's id", "{\"added_tokens_decoder\": {\"9\": {\"content\": \"</s>\"}}}", "", "", "of a byte"},
        {"no content", "{\"added_tokens_decoder\": {\"9\": {\"special\": true}}}", "", "", "without content"},
        {"no JSON", "{\"legacy\": }", "", "", "is not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama *m = NULL;
        llama_error err;
        buffer b = {0};
        put_text(&b, cases[i].config);
        put_file(&b, folder, "tokenizer_config.json");
        free(b.at);
        int status = llama_open(&m, folder, NULL, &err);
        if (cases[i].says) check(status == LLAMA_EFORMAT && strstr(err.text, cases[i].says) && strchr(err.text, ';'), "%s: %d, %s", cases[i].what, status, err.text);
        else if (check(status == LLAMA_OK, "%s: %s", cases[i].what, err.text)) {
            int32_t want[64];
            int k = stretch(m, "x", want, 0);
            want[k++] = 2;
            if (cases[i].between[0] == 's') k = stretch(m, "x", want, k);
            else want[k++] = find_piece(p, n, "x", 1);
            want[k] = -1;
            special_ids(m, cases[i].what, cases[i].text, LLAMA_SPECIAL, want);
        }
        llama_close(m);
    }
    unlink(in_work("special/tokenizer_config.json"));

    /* a token without a row: text until it is asked for */
    list.n = 0;
    put_text(&list, "{\"<pad>\": 99999, \"<|im_start|>\": ");
    snprintf(added, sizeof added, "%d, \"<|im_end|>\": %d}", n, n + 1);
    put_text(&list, added);
    put_file(&list, in_work("special_json"), "added_tokens.json");
    llama *m = NULL;
    int32_t t[16];
    open_with(&m, in_work("special_json"), NULL, "a token without a row");
    check(m && llama_text_to_tokens(m, "a<pad>", 6, LLAMA_SPECIAL, t, 16) == LLAMA_EINVAL, "<pad> has no row");
    check(m && llama_text_to_tokens(m, "a<pad>", 6, 0, t, 16) > 1 && !llama_token_text(m, n + 2, NULL), "<pad> is text");
    check(m && llama_text_to_tokens(m, "a", 1, 4, t, 16) == LLAMA_EINVAL, "an unknown flag");
    llama_close(m);
    put_file(&list, folder, "added_tokens.json");
    free(bytes), free(model.at), free(list.at), free(json.at), free(with.at), free(vocab.at), free(gguf.at);
}

/* ---- One fact, every format ---- */

/* What a file says, and what becomes of it: the tokens that end a text, whether <s> is added, or why it is refused. The
 * files are those of test_special: 1 <s>, 2 </s>, 1024 <|im_start|>, 1025 <|im_end|>. */
typedef struct {
    const char *what, *file, *member; /* of the file's object */
    const char *ends;                 /* the first is llama_eos; NULL: not looked at */
    bool no_bos, add_eos;
    const char *says; /* NULL: it opens */
} fact;

/* Checks a model against a fact. The last token is one that ends no text. */
static void hold_fact(const fact *f, const char *path, int32_t last) {
    llama *m = NULL;
    llama_error err;
    int status = llama_open(&m, path, NULL, &err);
    if (f->says) {
        check(status == LLAMA_EFORMAT && strstr(err.text, f->says) && strchr(err.text, ';'), "%s, %s: %d, %s", path, f->what, status, err.text);
        llama_close(m);
        return;
    }
    if (!check(status == LLAMA_OK, "%s, %s: %s", path, f->what, err.text)) return;
    llama_info info = {.size = sizeof info};
    int32_t t[8];
    char *at = NULL;
    llama_describe(m, &info);
    if (f->ends) check(llama_eos(m) == strtol(f->ends, &at, 10) && info.eos == llama_eos(m), "%s, %s: eos %d", path, f->what, (int)llama_eos(m));
    for (int32_t id = 0; f->ends && id <= last; id++) {
        bool want = false;
        for (const char *c = f->ends; *c; c = at) want |= strtol(c, &at, 10) == id;
        check(llama_is_end(m, id) == want, "%s, %s: %d ends a text: %d", path, f->what, (int)id, llama_is_end(m, id));
    }
    check(llama_is_end(m, -1) == 0 && llama_is_end(m, INT32_MAX) == 0 && llama_is_end(NULL, 2) == 0, "%s: no token", path);
    check(info.add_bos == !f->no_bos && info.add_eos == f->add_eos, "%s, %s: add_bos %d, add_eos %d", path, f->what, info.add_bos, info.add_eos);
    ptrdiff_t with = llama_text_to_tokens(m, "a", 1, LLAMA_ADD_BOS, t, 8), without = llama_text_to_tokens(m, "a", 1, 0, t, 8);
    check(with == without + !f->no_bos, "%s, %s: %td and %td tokens", path, f->what, with, without);
    llama_close(m);
}

/* Puts a member into the object of a file, or makes the file; returns its bytes before, none: it was not there. */
static buffer put_member(const char *file, const char *member) {
    buffer before = {0}, b = {0};
    size_t n = 0;
    char *text = read_file(file, &n);
    put_text(&b, "{");
    put_text(&b, member);
    if (text) put_text(&b, ", "), put_text(&b, strchr(text, '{') + 1), put(&before, text, n);
    else put_text(&b, "}");
    check(write_file(file, &b), "%s", file);
    free(b.at), free(text);
    return before;
}

/* Holds a folder to each fact, and puts its files back. */
static void hold_facts(const fact *facts, size_t n, const char *folder, int32_t last) {
    for (size_t i = 0; i < n; i++) {
        char file[2200];
        snprintf(file, sizeof file, "%s/%s", folder, facts[i].file);
        buffer before = put_member(file, facts[i].member);
        hold_fact(&facts[i], folder, last);
        if (before.at) check(write_file(file, &before), "%s", file);
        else unlink(file);
        free(before.at);
    }
}
#define HOLD(facts, folder, last) hold_facts(facts, sizeof(facts) / sizeof *(facts), folder, last)

static void test_facts(void) {
    static const fact json[] = {
        {"nothing", "generation_config.json", "\"x\": 1", "2", 0, 0, NULL},
        {"an end", "generation_config.json", "\"eos_token_id\": 1025", "1025 2", 0, 0, NULL},
        {"a list of ends", "generation_config.json", "\"eos_token_id\": [1025, 1024]", "1025 1024 2", 0, 0, NULL},
        {"a list of none", "generation_config.json", "\"eos_token_id\": []", "2", 0, 0, NULL},
        {"no end", "generation_config.json", "\"eos_token_id\": null", "2", 0, 0, NULL},
        {"another end", "config.json", "\"eos_token_id\": 1025", "1025 2", 0, 0, NULL},
        {"a list", "config.json", "\"eos_token_id\": [1024, 2, 7]", "1024 2 7", 0, 0, NULL},
        {"none", "config.json", "\"eos_token_id\": -1", "2", 0, 0, NULL},
        {"null", "config.json", "\"eos_token_id\": null", "2", 0, 0, NULL},
        {"one without a row", "config.json", "\"eos_token_id\": [99999]", "2", 0, 0, NULL},
        {"an end as text", "config.json", "\"eos_token_id\": \"</s>\"", NULL, 0, 0, "end-of-text"},
        {"an end as an object", "config.json", "\"eos_token_id\": {\"id\": 2}", NULL, 0, 0, "end-of-text"},
        {"a fraction", "config.json", "\"eos_token_id\": 2.5", NULL, 0, 0, "end-of-text"},
        {"a large number", "config.json", "\"eos_token_id\": 4294967298", NULL, 0, 0, "end-of-text"},
        {"a negative number", "generation_config.json", "\"eos_token_id\": [2, -2]", NULL, 0, 0, "end-of-text"},
        {"a text in a list", "generation_config.json", "\"eos_token_id\": [\"2\"]", NULL, 0, 0, "end-of-text"},
        {"a list in a list", "generation_config.json", "\"eos_token_id\": [[2]]", NULL, 0, 0, "end-of-text"},
        {"no JSON", "generation_config.json", "\"eos_token_id\": ", NULL, 0, 0, "JSON"},
        {"the name of the end", "tokenizer_config.json", "\"eos_token\": \"<|im_end|>\"", "2 1025", 0, 0, NULL},
        {"an object with the name", "tokenizer_config.json", "\"eos_token\": {\"content\": \"<|im_end|>\", \"lstrip\": false}", "2 1025", 0, 0, NULL},
        {"a name of no token", "tokenizer_config.json", "\"eos_token\": \"<|none|>\"", NULL, 0, 0, "eos_token that is no token"},
        {"a begin of no token", "special_tokens_map.json", "\"bos_token\": {\"content\": \"<|none|>\"}", NULL, 0, 0, "bos_token that is no token"},
        {"a name without text", "tokenizer_config.json", "\"eos_token\": \"\", \"pad_token\": \"<|none|>\"", "2", 0, 0, NULL},
        {"the name of the end", "special_tokens_map.json", "\"eos_token\": \"<|im_end|>\"", "2 1025", 0, 0, NULL},
        {"<s> is not added", "tokenizer_config.json", "\"add_bos_token\": false", "2", 1, 0, NULL},
        {"<s> is added", "tokenizer_config.json", "\"add_bos_token\": true", "2", 0, 0, NULL},
        {"nothing of <s>", "tokenizer_config.json", "\"add_bos_token\": null", "2", 0, 0, NULL},
        {"</s> after a text", "tokenizer_config.json", "\"add_eos_token\": true", "2", 0, 1, NULL},
        {"a flag as a number", "tokenizer_config.json", "\"add_bos_token\": 0", NULL, 0, 0, "add_bos_token that is not true or false"},
        {"a flag as text", "tokenizer_config.json", "\"add_bos_token\": \"false\"", NULL, 0, 0, "add_bos_token that is not true or false"},
        {"a flag as a list", "tokenizer_config.json", "\"add_eos_token\": []", NULL, 0, 0, "add_eos_token that is not true or false"},
        {"a space as a number", "tokenizer_config.json", "\"add_prefix_space\": 1", NULL, 0, 0, "add_prefix_space that is not true or false"},
        {"a name as a number", "tokenizer_config.json", "\"eos_token\": 5", NULL, 0, 0, "eos_token that is not a string"},
        {"a name as a list", "special_tokens_map.json", "\"bos_token\": [\"<s>\"]", NULL, 0, 0, "bos_token that is not a string"},
        {"legacy as a number", "tokenizer_config.json", "\"legacy\": 7", NULL, 0, 0, "legacy that is not true or false"},
        {"a token's flag as text", "tokenizer_config.json", "\"added_tokens_decoder\": {\"1025\": {\"content\": \"<|im_end|>\", \"lstrip\": \"false\"}}", NULL, 0, 0, "lstrip"},
        {"one token of two names", "tokenizer_config.json", "\"pad_token\": \"\xe2\x96\x81the\", \"eos_token\": \"\xe2\x96\x81the\"", "2 262", 0, 0, NULL},
        {"one token of two names", "tokenizer_config.json", "\"eos_token\": \"\xe2\x96\x81the\", \"pad_token\": \"\xe2\x96\x81the\"", "2 262", 0, 0, NULL},
        {"a newer list of names", "tokenizer_config.json", "\"extra_special_tokens\": [\"\xe2\x96\x81the\"], \"eos_token\": \"\xe2\x96\x81the\"", "2 262", 0, 0, NULL},
        {"a window", "config.json", "\"sliding_window\": 256", NULL, 0, 0, "'sliding_window' is 256, a sliding window (Mistral's) shorter than the context of 512: not supported; use a LLaMA 1, 2 or 3 model"},
        {"a window that is not used", "config.json", "\"sliding_window\": 256, \"use_sliding_window\": false", "2", 0, 0, NULL},
        {"a window that is used", "config.json", "\"sliding_window\": 256, \"use_sliding_window\": true", NULL, 0, 0, "sliding window"},
        {"layers with a window", "config.json", "\"layer_types\": [\"full_attention\", \"sliding_attention\"]", NULL, 0, 0, "'layer_types' sliding_attention"},
        {"layers without a window", "config.json", "\"layer_types\": [\"full_attention\"]", "2", 0, 0, NULL},
        {"experts", "config.json", "\"num_experts\": 8", NULL, 0, 0, "'num_experts'"},
        {"local experts", "config.json", "\"num_local_experts\": 8", NULL, 0, 0, "'num_local_experts'"},
        {"no experts", "config.json", "\"num_experts\": 0, \"num_local_experts\": 1", "2", 0, 0, NULL},
        {"an architecture as text", "config.json", "\"architectures\": \"LlamaForCausalLM\"", "2", 0, 0, NULL},
        {"another architecture as text", "config.json", "\"architectures\": \"GPT2LMHeadModel\"", NULL, 0, 0, "'architectures' GPT2LMHeadModel"},
        {"special tokens as text", "special_tokens_map.json", "\"additional_special_tokens\": \"x\"", NULL, 0, 0, "additional_special_tokens that are not a list"},
        {"special tokens as numbers", "special_tokens_map.json", "\"additional_special_tokens\": [1]", NULL, 0, 0, "additional_special_tokens that are not a list"},
        {"special tokens as numbers", "tokenizer_config.json", "\"extra_special_tokens\": [1]", NULL, 0, 0, "extra_special_tokens that are not a list"},
        {"special tokens by name", "tokenizer_config.json", "\"extra_special_tokens\": {\"x\": \"<|im_end|>\"}", "2", 0, 0, NULL},
        {"special tokens as objects", "special_tokens_map.json", "\"additional_special_tokens\": [{\"content\": \"<|im_end|>\"}, \"</s>\"]", "2", 0, 0, NULL},
        {"a name as an empty object", "tokenizer_config.json", "\"bos_token\": {}", NULL, 0, 0, "bos_token that is an object without content"},
        {"no name", "tokenizer_config.json", "\"bos_token\": null", "2", 1, 0, NULL},
        {"no name, not added", "tokenizer_config.json", "\"bos_token\": null, \"add_bos_token\": false", "2", 1, 0, NULL},
        {"no name, and added", "tokenizer_config.json", "\"bos_token\": null, \"add_bos_token\": true", NULL, 0, 0, "add_bos_token true and bos_token null"},
        {"a scaling as text", "config.json", "\"rope_scaling\": \"linear\"", NULL, 0, 0, "rope_scaling"},
        {"a scaling as a list", "config.json", "\"rope_scaling\": [2.0]", NULL, 0, 0, "rope_scaling"},
        {"a scaling a layer", "config.json", "\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1e6}}", NULL, 0, 0, "full_attention"},
        {"a base as a list", "config.json", "\"rope_theta\": [10000.0]", NULL, 0, 0, "rope_theta"},
        {"a base as an object", "config.json", "\"rope_theta\": {\"value\": 10000.0}", NULL, 0, 0, "rope_theta"},
        {"a base as text", "config.json", "\"rope_theta\": \"10000\"", NULL, 0, 0, "rope_theta"},
        {"a width as a list", "config.json", "\"head_dim\": [8]", NULL, 0, 0, "head_dim"},
        {"a base of two values", "config.json", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5000.0}, \"rope_theta\": 1e4", NULL, 0, 0, "twice"},
        {"added tokens as text", "tokenizer_config.json", "\"added_tokens_decoder\": \"x\"", NULL, 0, 0, "added_tokens_decoder"},
        {"an added token as text", "tokenizer_config.json", "\"added_tokens_decoder\": {\"1024\": \"<x>\"}", NULL, 0, 0, "added_tokens_decoder"},
        {"an architecture as an object", "config.json", "\"architectures\": {}", NULL, 0, 0, "architectures"},
    };
    char file[2200], path[2048];
    snprintf(path, sizeof path, "%s", in_work("special"));
    HOLD(json, path, 1025);

    /* tokenizer.json: what its template puts around a text */
#define SPECIAL_TOKEN(text) "{\"SpecialToken\": {\"id\": \"" text "\", \"type_id\": 0}}"
#define TEMPLATE(parts)     "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [" parts "], \"pair\": [{\"SpecialToken\": {\"id\": \"<x>\"}}], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\"}}}"
#define A_TEXT              "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}"
    static const fact templates[] = {
        {"<s> before", "tokenizer.json", TEMPLATE(SPECIAL_TOKEN("<s>") ", " A_TEXT), "2", 0, 0, NULL},
        {"the text alone", "tokenizer.json", TEMPLATE(A_TEXT), "2", 1, 0, NULL},
        {"</s> after", "tokenizer.json", TEMPLATE(SPECIAL_TOKEN("<s>") ", " A_TEXT ", " SPECIAL_TOKEN("</s>")), "2", 0, 1, NULL},
        {"another token before", "tokenizer.json", TEMPLATE(SPECIAL_TOKEN("<|im_start|>") ", " A_TEXT), NULL, 0, 0, "post_processor"},
        {"<s> twice", "tokenizer.json", TEMPLATE(SPECIAL_TOKEN("<s>") ", " SPECIAL_TOKEN("<s>") ", " A_TEXT), NULL, 0, 0, "post_processor"},
        {"another kind", "tokenizer.json", "\"post_processor\": {\"type\": \"ByteLevel\"}", NULL, 0, 0, "post_processor"},
        {"none", "tokenizer.json", "\"post_processor\": null", "2", 0, 0, NULL},
        {"said elsewhere", "tokenizer_config.json", "\"add_bos_token\": false", "2", 1, 0, NULL},
    };
    snprintf(path, sizeof path, "%s", in_work("special_json"));
    HOLD(templates, path, 1023);

    /* GGUF: keys of a number, of a flag, of an array */
    static test_piece p[2048];
    snprintf(file, sizeof file, "%s/tokenizer.model", tiny_folder);
    int n = read_pieces(file, p, 2046);
    model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = n + 2, .shards = 1};
    p[n] = (test_piece){"<|im_start|>", 12, 0, 3};
    p[n + 1] = (test_piece){"<|im_end|>", 10, 0, 3};
    static const struct {
        fact f;        /* member: the key */
        int type;      /* of the value: 4 uint32, 7 bool, 6 float, 8 text, 9 an array of one uint32 */
        uint32_t value;
    } keys[] = {
        {{"eot", "", "tokenizer.ggml.eot_token_id", "2 1025", 0, 0, NULL}, 4, 1025},
        {{"eom", "", "tokenizer.ggml.eom_token_id", "2 1024", 0, 0, NULL}, 4, 1024},
        {{"eot, an array", "", "tokenizer.ggml.eot_token_id", NULL, 0, 0, "eot_token_id"}, 9, 2},
        {{"eot, a flag", "", "tokenizer.ggml.eot_token_id", NULL, 0, 0, "eot_token_id"}, 7, 1},
        {{"<s> is not added", "", "tokenizer.ggml.add_bos_token", "2", 1, 0, NULL}, 7, 0},
        {{"<s> is added", "", "tokenizer.ggml.add_bos_token", "2", 0, 0, NULL}, 7, 1},
        {{"</s> is added", "", "tokenizer.ggml.add_eos_token", "2", 0, 1, NULL}, 7, 1},
        {{"a flag as text", "", "tokenizer.ggml.add_bos_token", NULL, 0, 0, "add_bos_token"}, 8, 0},
        {{"a flag as an array", "", "tokenizer.ggml.add_bos_token", NULL, 0, 0, "add_bos_token"}, 9, 0},
        {{"a window", "", "llama.attention.sliding_window", NULL, 0, 0, "'attention.sliding_window' is 256, a sliding window"}, 4, 256},
        {{"the base, an array", "", "llama.rope.freq_base", NULL, 0, 0, "rope.freq_base"}, 9, 4},
        {{"the base, a uint32", "", "llama.rope.freq_base", NULL, 0, 0, "its key 'rope.freq_base' has a value of type uint32, but must have float32 or float64"}, 4, 10000},
        {{"the base, a flag", "", "llama.rope.freq_base", NULL, 0, 0, "'rope.freq_base' has a value of type bool"}, 7, 1},
        {{"the base, a text", "", "llama.rope.freq_base", NULL, 0, 0, "'rope.freq_base' has a value of type string"}, 8, 0},
        {{"the context, a float32", "", "llama.context_length", NULL, 0, 0, "'context_length' has a value of type float32, but must have an integer"}, 6, 0x43000000},
        {{"the context, an int32", "", "llama.context_length", "2", 0, 0, NULL}, 5, 512},
        {{"the context twice", "", "llama.context_length", NULL, 0, 0, "'context_length' is given twice, with different values"}, 4, 64},
        {{"eos twice", "", "tokenizer.ggml.eos_token_id", NULL, 0, 0, "eos_token_id is given twice, with different values"}, 4, 262},
        {{"bos, none without a sign", "", "tokenizer.ggml.bos_token_id", "2", 1, 0, NULL}, 4, UINT32_MAX},
        {{"bos, ordinary text", "", "tokenizer.ggml.bos_token_id", "2", 0, 0, NULL}, 4, 262},
        {{"unknown, an array", "", "tokenizer.ggml.unknown_token_id", NULL, 0, 0, "unknown_token_id is of another type"}, 9, 0},
        {{"padding, a text", "", "tokenizer.ggml.padding_token_id", NULL, 0, 0, "padding_token_id is of another type"}, 8, 0},
        {{"padding", "", "tokenizer.ggml.padding_token_id", "2", 0, 0, NULL}, 4, 0},
        {{"a split's count, a text", "", "split.count", NULL, 0, 0, "'split.count' has a value of another type"}, 8, 0},
        {{"a split's number, a float32", "", "split.no", NULL, 0, 0, "'split.no' has a value of another type"}, 6, 0},
        {{"the second file of two", "", "split.no", NULL, 0, 0, "give the first instead"}, 4, 1},
        {{"the first file of three", "", "split.count", NULL, 0, 0, "is the first of 3 files of a split model; name them NAME-00001-of-00003.gguf"}, 4, 3},
        {{"the only file", "", "split.count", "2", 0, 0, NULL}, 4, 1},
        {{"no experts", "", "llama.expert_count", "2", 0, 0, NULL}, 4, 0},
        {{"experts", "", "llama.expert_count", NULL, 0, 0, "expert_count"}, 4, 8},
        {{"not causal", "", "llama.attention.causal", NULL, 0, 0, "attention.causal"}, 7, 0},
        {{"causal", "", "llama.attention.causal", "2", 0, 0, NULL}, 7, 1},
        {{"softcapping", "", "llama.attn_logit_softcapping", NULL, 0, 0, "softcapping"}, 6, 0x42480000},
        {{"the type of file, a number", "", "general.type", NULL, 0, 0, "'general.type' has a value of another type"}, 4, 1},
        {{"the file's type, an array", "", "general.file_type", NULL, 0, 0, "'general.file_type' has a value of another type"}, 9, 1},
        {{"the base, scaled", "", "llama.rope.scaling.attn_factor", NULL, 0, 0, "'llama.rope.scaling.attn_factor'"}, 6, 0x40000000},
        {{"the base, not scaled", "", "llama.rope.scaling.attn_factor", "2", 0, 0, NULL}, 6, 0x3f800000},
        {{"a base beyond the limit", "", "llama.rope.freq_base", NULL, 0, 0, "'rope.freq_base' is"}, 6, 0x7f000000},
        {{"<s>, a float32", "", "tokenizer.ggml.bos_token_id", NULL, 0, 0, "bos_token_id is of another type"}, 6, 0x3fc00000},
        {{"eot, an exact float32", "", "tokenizer.ggml.eot_token_id", NULL, 0, 0, "eot_token_id is of another type"}, 6, 0x40000000},
        {{"an alignment, a float32", "", "general.alignment", NULL, 0, 0, "'general.alignment' has a value that is not a power of two"}, 6, 0x42000000},
        {{"an alignment, an array", "", "general.alignment", NULL, 0, 0, "'general.alignment' has a value that is not a power of two"}, 9, 32},
        {{"an alignment, a text", "", "general.alignment", NULL, 0, 0, "'general.alignment' has a value that is not a power of two"}, 8, 0},
        {{"an alignment of 2^24", "", "general.alignment", NULL, 0, 0, "'general.alignment' has a value that is not a power of two"}, 4, 1 << 24},
        {{"the scaling, an array", "", "llama.rope.scaling.type", NULL, 0, 0, "rope.scaling.type"}, 9, 1},
        {{"KV heads, an array", "", "llama.attention.head_count_kv", NULL, 0, 0, "head_count_kv"}, 9, 1},
        {{"values of another width", "", "llama.attention.value_length", NULL, 0, 0, "'attention.value_length' is 16, but the head width is 8: not supported; use"}, 4, 16},
        {{"experts, an array", "", "llama.expert_count", NULL, 0, 0, "expert_count"}, 9, 1},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        buffer vocab = make_gguf_vocab(p, n + 2, 2);
        if (!strstr(keys[i].f.what, "twice")) rename_key(&vocab, keys[i].f.member);
        gguf_text(&vocab, keys[i].f.member);
        put_int(&vocab, (uint64_t)keys[i].type, 4);
        if (keys[i].type == 9) put_int(&vocab, 4, 4), put_int(&vocab, 1, 8);
        if (keys[i].type == 8) put_int(&vocab, 0, 8);
        else put_int(&vocab, keys[i].value, keys[i].type == 7 ? 1 : 4);
        buffer gguf = model_gguf(&spec, 0, 1, &vocab, 7);
        put_file(&gguf, work, "fact.gguf");
        hold_fact(&keys[i].f, in_work("fact.gguf"), 1025);
        free(vocab.at), free(gguf.at);
    }

    /* params.json */
    static const fact meta[] = {
        {"a window", "params.json", "\"sliding_window\": 256", NULL, 0, 0, "'sliding_window' is 256, a sliding window"},
        {"a long window", "params.json", "\"sliding_window\": 4096", "2", 0, 0, NULL},
        {"a window shorter than the context", "params.json", "\"sliding_window\": 4096, \"max_seq_len\": 8192", NULL, 0, 0, "sliding window"},
        {"a context as text", "params.json", "\"max_seq_len\": \"512\"", NULL, 0, 0, "'max_seq_len' must be"},
        {"experts", "params.json", "\"num_experts\": 8", NULL, 0, 0, "num_experts"},
        {"biases", "params.json", "\"attn_bias\": true", NULL, 0, 0, "attn_bias"},
        {"another model", "params.json", "\"model_type\": \"mamba\"", NULL, 0, 0, "'model_type' mamba"},
        {"an end", "params.json", "\"eos_token_id\": 7", "7 2", 0, 0, NULL},
        {"ends", "params.json", "\"eos_token_id\": [7, 8]", "7 8 2", 0, 0, NULL},
        {"an end beside it", "generation_config.json", "\"eos_token_id\": [7, 2]", "7 2", 0, 0, NULL},
        {"no window", "params.json", "\"sliding_window\": null", "2", 0, 0, NULL},
        {"heads of another width", "params.json", "\"head_dim\": 64", NULL, 0, 0, "layers.0.attention.wq.weight is [16][16], not the [128][16] of params.json"},
        {"the same width", "params.json", "\"head_dim\": 8", "2", 0, 0, NULL},
        {"another hidden width", "params.json", "\"hidden_dim\": 48", NULL, 0, 0, "hidden"},
        {"a base as a list", "params.json", "\"rope_theta\": [1e4]", NULL, 0, 0, "rope_theta"},
        {"a base as text", "params.json", "\"rope_theta\": \"1e4\"", NULL, 0, 0, "rope_theta"},
        {"a scale", "params.json", "\"use_scaled_rope\": true", "2", 0, 0, NULL},
        {"no scale", "params.json", "\"use_scaled_rope\": false, \"rope_scaling_factor\": null", "2", 0, 0, NULL},
        {"a scale and its factor", "params.json", "\"use_scaled_rope\": true, \"rope_scaling_factor\": 16, \"rope_high_freq_factor\": 1.5", "2", 0, 0, NULL},
        {"<s> is not added", "tokenizer_config.json", "\"add_bos_token\": false", "2", 1, 0, NULL},
    };
    model_spec one = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = n, .shards = 1};
    size_t n_model = 0;
    snprintf(file, sizeof file, "%s/tokenizer.model", tiny_folder);
    char *bytes = read_file(file, &n_model);
    buffer model = {0};
    snprintf(path, sizeof path, "%s", in_work("facts"));
    make_folder(path);
    model_write(&one, path);
    put(&model, bytes, n_model), put_file(&model, path, "tokenizer.model");
    free(model.at), free(bytes);
    HOLD(meta, path, 1023);

    /* llama2.c: also <s>, as in run.c; no base of RoPE, so the caller may give it */
    llama *m = NULL;
    llama_error err;
    snprintf(path, sizeof path, "%s", model_write_as(&one, BIN_0, in_work("facts")));
    hold_fact(&(fact){"llama2.c", "", "", "2 1", 0, 0, NULL}, path, 1023);
    static const struct { float given, got; } bases[] = {{0, 10000}, {1e6f, 1e6f}, {1, 1}, {0.5f, 0}, {-1, 0}, {INFINITY, 0}, {NAN, 0}};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        llama_info info = {.size = sizeof info};
        int status = llama_open(&m, path, &(llama_options){.size = sizeof(llama_options), .rope_theta = bases[i].given}, &err);
        if (bases[i].got == 0) check(status == LLAMA_EINVAL && strstr(err.text, "rope_theta"), "a base of %g: %d", (double)bases[i].given, status);
        else check(status == LLAMA_OK && !llama_describe(m, &info) && info.rope_theta == bases[i].got, "a base of %g: %s", (double)bases[i].given, err.text);
        llama_close(m);
    }
    /* ... and it is the base that is used: the same bits as if the file said so */
    snprintf(path, sizeof path, "%s/params.json", in_work("facts"));
    buffer before = put_member(path, "\"rope_theta\": 5000");
    llama_info info;
    float *want = all_logits(in_work("facts"), &info, 0, 1);
    check(write_file(path, &before), "%s", path);
    if (check(llama_open(&m, in_work("facts"), &(llama_options){.size = sizeof(llama_options), .rope_theta = 5000}, &err) == LLAMA_OK, "%s", err.text)) {
        llama_session *s = NULL;
        check(llama_session_new(&s, m, NULL, NULL) == LLAMA_OK && llama_eval(s, 0, some, SOME) == LLAMA_OK && want && memcmp(llama_logits(s, 0), want + (SOME - 1) * n, (size_t)n * sizeof *want) == 0, "the base that the caller gives: other bits");
        llama_session_free(s);
    }
    llama_close(m);
    free(want), free(before.at);
}

/* ---- Refusals ---- */

static const model_spec small = {.dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1};

/* Replace `from` by `to` in a file, try to open `path`, put the file back. */
static void bent(const char *what, const char *path, const char *file, const void *from, size_t n_from, const void *to, size_t n_to, const char *says) {
    size_t n = 0, at = 0;
    char *sound = read_file(file, &n);
    llama *m = NULL;
    llama_error err;
    while (sound && at + n_from <= n && memcmp(sound + at, from, n_from) != 0) at++;
    if (!check(sound && at + n_from <= n, "%s: nothing to replace", what)) return;
    buffer b = {0};
    put(&b, sound, at);
    put(&b, to, n_to);
    put(&b, sound + at + n_from, n - at - n_from);
    check(write_file(file, &b), "%s", file);
    int status = llama_open(&m, path, NULL, &err);
    if (!says) check(status == LLAMA_OK, "%s: %s", what, err.text);
    else check((status == LLAMA_EFORMAT || status == LLAMA_EIO) && strstr(err.text, says) && strchr(err.text, ';') && !strchr(err.text, '\n'), "%s: %d, %s", what, status, err.text);
    llama_close(m);
    b.n = 0;
    put(&b, sound, n);
    check(write_file(file, &b), "%s", file);
    free(b.at), free(sound);
}
#define BENT(what, from, to, says) bent(what, path, file, from, sizeof(from) - 1, to, sizeof(to) - 1, says)

static void test_config(void) {
    char path[2048], file[2100];
    snprintf(path, sizeof path, "%s", model_write_as(&small, SAFETENSORS, in_work("bent")));
    snprintf(file, sizeof file, "%s/config.json", path);
    BENT("another architecture", "\"LlamaForCausalLM\"", "\"QwenForCausalLM\"", "architectures");
    BENT("another model", "\"model_type\": \"llama\"", "\"model_type\": \"mistral\"", "mistral");
    BENT("GELU", "\"silu\"", "\"gelu\"", "hidden_act");
    BENT("RoPE scaled", "{", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}, ", NULL);
    BENT("RoPE scaled, by both names", "{", "{\"rope_scaling\": {\"type\": \"linear\", \"rope_type\": \"linear\", \"factor\": 2}, ", NULL);
    BENT("RoPE scaled, newer", "{", "{\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 1e4}, ", "llama3");
    BENT("RoPE scaled without a type", "{", "{\"rope_scaling\": {\"factor\": 8.0}, ", "factor");
    BENT("RoPE not scaled", "{", "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}, \"rope_scaling\": null, ", NULL);
    BENT("biases", "{", "{\"attention_bias\": true, ", "attention_bias");
    BENT("no biases", "{", "{\"attention_bias\": false, \"mlp_bias\": false, \"pretraining_tp\": 1, \"eos_token_id\": [2, 3], \"x\": {\"y\": [{}]}, ", NULL);
    BENT("quantised", "{", "{\"quantization_config\": {\"bits\": 4}, ", "quantization_config");
    BENT("a short window", "{", "{\"sliding_window\": 256, ", "window");
    BENT("a long window", "{", "{\"sliding_window\": 512, ", NULL);
    BENT("heads of another width", "{", "{\"head_dim\": 16, ", "q_proj.weight is [16][16], not the [32][16] of config.json");
    BENT("a context beyond the limit", "\"max_position_embeddings\": 512", "\"max_position_embeddings\": 100000000", NULL);
    BENT("more layers than the limit", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 99999", "is not supported; use a LLaMA 1, 2 or 3 model");
    BENT("another hidden width", "\"intermediate_size\": 32", "\"intermediate_size\": 48", "hidden");
    BENT("another vocabulary", "\"vocab_size\": 24", "\"vocab_size\": 25", "24 embeddings, but vocab_size is 25 in config.json; use the parameters of this model");
    BENT("no layers", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", "num_hidden_layers");
    BENT("more layers", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2.");
    BENT("fewer layers", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "model.layers.1.");
    BENT("a number for a flag", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 0", "'tie_word_embeddings' must be true or false");
    BENT("no epsilon", "rms_norm_eps", "rms_norm_epz", "'rms_norm_eps' is missing");
    BENT("JSON cut short", "}", "", "JSON");
    BENT("a comma missing", "\"silu\",", "\"silu\" ", "JSON");
    BENT("a comma twice", "\"silu\",", "\"silu\",,", "JSON");
    BENT("a comma in front", "{", "{,", "JSON");
    BENT("a comma at the end", "}", ",}", "JSON");
    BENT("a list ended as an object", "[\"LlamaForCausalLM\"]", "[\"LlamaForCausalLM\"}", "JSON");
    BENT("more after it", "}", "} {}", "JSON");
    BENT("a key without a colon", "\"hidden_act\":", "\"hidden_act\" ", "JSON");
    BENT("33 lists in one another", "{", "{\"x\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]], ", "JSON");
    BENT("31 lists in one another", "{", "{\"x\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]], ", NULL);
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    BENT("a tensor with a bias", "layers.0.self_attn.v_proj.weight", "layers.0.self_attn.v_proj.biases", "v_proj.biases");
    BENT("no embeddings", "model.embed_tokens", "model.embed_t0kens", "model.embed_tokens.weight");
    BENT("frequencies that scale RoPE", "model.norm.weight", "rope_freqs.weight", "rope_freqs");
    BENT("another dtype", "\"F16\"", "\"I16\"", "I16");
    BENT("a tensor twice", "model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.q_proj", "gives a weight that");
    BENT("another shape", "\"shape\":[24,16]", "\"shape\":[16,24]", "16");
    BENT("one element more", "\"shape\":[24,16]", "\"shape\":[24,17]", "shape");
    BENT("a shape of zeros", "\"shape\":[24,16]", "\"shape\":[0, 16]", "empty");
    BENT("a negative shape", "\"shape\":[24,16]", "\"shape\":[-2,16]", "does not describe a tensor");
    BENT("five dimensions", "\"shape\":[24,16]", "\"shape\":[1,1,1,24,16]", "does not describe a tensor");
    BENT("offsets back to front", "\"data_offsets\":[0,768]", "\"data_offsets\":[768,0]", "valid entry");
    BENT("one offset", "\"data_offsets\":[0,768]", "\"data_offsets\":[768  ]", "valid entry");
    BENT("an offset far away", "\"data_offsets\":[0,768]", "\"data_offsets\":[9e9,9e10]", "past the end");
    BENT("metadata of any kind", "{\"format\":\"pt\"}", "{\"format\":[[1],{\"dtype\":7}]}", "JSON"); /* the header's length is off now */
    BENT("metadata that is no object", "{\"format\":\"pt\"}", "[\"format\",  \"pt\"]", "safetensors");
    unlink(file);
    llama_error err;
    llama *m = NULL;
    check(llama_open(&m, path, NULL, &err) == LLAMA_EFORMAT && strstr(err.text, "neither"), "no weights: %s", err.text);
}

static void test_index(void) {
    char path[2048], file[2100];
    snprintf(path, sizeof path, "%s", model_write_as(&small, SAFETENSORS_SPLIT, in_work("index")));
    snprintf(file, sizeof file, "%s/model.safetensors.index.json", path);
    BENT("a file elsewhere", "model-2.safetensors", "../model-2.safetensors", "empty, hidden, too long or outside its folder");
    BENT("a file at the root", "model-2.safetensors", "/etc/passwd", "empty, hidden, too long or outside its folder");
    BENT("a hidden file", "model-2.safetensors", ".hidden", "empty, hidden, too long or outside its folder");
    BENT("a file that is not there", "model-2.safetensors", "model-9.safetensors", "model-9.safetensors");
    BENT("a file left out", "model-2.safetensors", "model-1.safetensors", "missing");
    BENT("no files", "weight_map", "weight_mop", "index");
    BENT("JSON cut short", "}}", "}", "index");
    BENT("a name that is long", "model-2.safetensors", "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"
         "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"
         "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm", "empty, hidden, too long or outside its folder");
}

static void test_gguf(void) {
    char path[2048], file[2100];
    snprintf(path, sizeof path, "%s", model_write_as(&small, GGUF_FILE, in_work("gguf")));
    snprintf(file, sizeof file, "%s", path);
    BENT("version 1", "GGUF\3", "GGUF\1", "version 1");
    BENT("another architecture", "\x05\0\0\0\0\0\0\0llama", "\x05\0\0\0\0\0\0\0qwen2", "qwen2");
    BENT("no architecture", "general.architecture", "general.architecturX", "architecture");
    BENT("an alignment of 48", "general.alignment\x04\0\0\0\x40", "general.alignment\x04\0\0\0\x30", "'general.alignment'");
    BENT("an alignment of 0", "general.alignment\x04\0\0\0\x40", "general.alignment\x04\0\0\0\x00", "'general.alignment'");
    BENT("experts", "\x14\0\0\0\0\0\0\0llama.context_length\x04\0\0\0\0", "\x12\0\0\0\0\0\0\0llama.expert_count\x04\0\0\0\0", "expert_count");
    BENT("a type of value there is not", "llama.context_length\x04", "llama.context_length\x0d", "keys");
    BENT("a number as text", "llama.context_length\x04\0\0\0\0\2\0\0", "llama.context_length\x08\0\0\0\0\0\0\0", "keys");
    BENT("Q8_0", "blk.0.attn_q.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\1", "blk.0.attn_q.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x08", "Q8_0");
    BENT("a type there is not", "blk.0.attn_q.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\1", "blk.0.attn_q.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x63", "type 99");
    BENT("turned round", "blk.0.ffn_down.weight\2\0\0\0\x20\0\0\0\0\0\0\0\x10", "blk.0.ffn_down.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x20", "[32][16]");
    BENT("an odd address", "output_norm.weight\1\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\3", "output_norm.weight\1\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\4\3", "not a multiple of general.alignment");
    BENT("a tensor twice", "blk.0.attn_k.weight", "blk.0.attn_q.weight", "gives a weight that");
    BENT("2^61 rows", "token_embd.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\0", "token_embd.weight\2\0\0\0\x10\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\x20", "past the end");
    snprintf(path, sizeof path, "%s", model_write_as(&small, GGUF_SPLIT, in_work("split")));
    snprintf(file, sizeof file, "%s", path);
    char second[2200];
    snprintf(second, sizeof second, "%s/model-00002-of-00002.gguf", in_work("split"));
    llama *m = NULL;
    llama_error err;
    check(llama_open(&m, second, NULL, &err) == LLAMA_EFORMAT && strstr(err.text, "00001"), "the second of two: %s", err.text);
    unlink(second);
    check(llama_open(&m, path, NULL, &err) == LLAMA_EIO && strstr(err.text, "00002"), "without the second: %s", err.text);
}

static void test_bin(void) {
    for (int version = 0; version < 2; version++) {
        char path[2048], file[2100];
        snprintf(path, sizeof path, "%s", model_write_as(&small, version ? BIN_1 : BIN_0, in_work("bin")));
        snprintf(file, sizeof file, "%s", path);
        BENT("a wider model", "\x10\0\0\0\x20\0\0\0\2\0\0\0", "\x12\0\0\0\x20\0\0\0\2\0\0\0", version ? "head width is odd" : "does not match a llama2.c header");
        BENT("more layers", "\x10\0\0\0\x20\0\0\0\2\0\0\0", "\x10\0\0\0\x20\0\0\0\3\0\0\0", "does not match a llama2.c header");
        BENT("no heads", "\2\0\0\0\2\0\0\0\1\0\0\0", "\2\0\0\0\0\0\0\0\1\0\0\0", version ? "'n_heads'" : "does not match a llama2.c header");
        BENT("2^31 layers", "\2\0\0\0\2\0\0\0\1\0\0\0", "\2\0\0\x80\2\0\0\0\1\0\0\0", version ? "'n_layers'" : "does not match a llama2.c header");
        if (version) BENT("no vocabulary", "\x18\0\0\0\0\2\0\0", "\0\0\0\0\0\2\0\0", "does not match a llama2.c header");
        else BENT("no vocabulary", "\xe8\xff\xff\xff\0\2\0\0", "\0\0\0\0\0\2\0\0", "does not match a llama2.c header");
        if (version) BENT("a vocabulary of -1", "\x18\0\0\0\0\2\0\0", "\xff\xff\xff\xff\0\2\0\0", "does not match a llama2.c header");
        if (version) BENT("a context of 2^20 and more", "\x18\0\0\0\0\2\0\0", "\x18\0\0\0\0\2\x10\0", NULL);
        else BENT("a context of 2^20 and more", "\xe8\xff\xff\xff\0\2\0\0", "\xe8\xff\xff\xff\0\2\x10\0", "does not match a llama2.c header");
        if (version) BENT("version 2", "24ka\1", "24ka\2", "version 2");
        if (version) BENT("tied or not", "\x18\0\0\0\0\2\0\0\0", "\x18\0\0\0\0\2\0\0\1", "does not match a llama2.c header");
    }
}

/* As long as its header says, with no embeddings at all. */
static void test_no_words(void) {
    model_spec one = small;
    one.vocab = 1;
    one.tied = true;
    buffer b = model_bin(&one, 1), cut = {0};
    size_t row = 16 * sizeof(float), at = 256 + 5 * row; /* after the norms */
    put(&cut, b.at, at);
    put(&cut, b.at + at + row, b.n - at - row);
    memcpy(cut.at + 28, &(int){0}, 4);
    put_file(&cut, work, "words.bin");
    llama *m = NULL;
    llama_error err;
    check(llama_open(&m, in_work("words.bin"), NULL, &err) == LLAMA_EFORMAT && strstr(err.text, "does not match a llama2.c header"), "no words: %s", err.text);
    put_file(&b, work, "words.bin");
    check(llama_open(&m, in_work("words.bin"), NULL, &err) == LLAMA_OK, "one word: %s", err.text);
    llama_close(m);
    free(b.at), free(cut.at);
}

/* Each form cut at many lengths, and with a bit turned in each byte of its first `header`. */
static void test_damage(void) {
    for (int form = 0; form < FORMS; form++) {
        char path[2048], file[2100];
        static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "config.json", "pytorch_model.bin.index.json"};
        snprintf(path, sizeof path, "%s", model_write_as(&small, (model_form)form, in_work("damaged")));
        snprintf(file, sizeof file, form < GGUF_FILE ? "%s/%s" : "%s", path, form < GGUF_FILE ? names[form] : "");
        size_t n = 0, refused = 0, opened = 0;
        char *sound = read_file(file, &n);
        for (size_t i = 0; sound && i < 2 * n && i < n + 4000; i += i < n && i > 200 && i + 300 < n ? 41 : 1) {
            if (!test_sampled(i, 7)) continue;
            buffer b = {0};
            llama *m = NULL;
            llama_session *s = NULL;
            llama_session_options o = {.size = sizeof o, .context = 8, .threads = 1};
            llama_error err;
            put(&b, sound, i < n ? i : n);
            if (i >= n) b.at[i - n] ^= (unsigned char)(1 << (i * 5 + i / 8) % 8);
            check(write_file(file, &b), "%s", file);
            int status = llama_open(&m, path, NULL, &err);
            if (i < n) check(status != LLAMA_OK, "%s, cut at %zu of %zu, opens", form_names[form], i, n);
            check(status == LLAMA_OK || (err.text[0] && strstr(err.text, in_work("damaged")) && !strchr(err.text, '\n')), "%s %zu: %d %s", form_names[form], i, status, err.text);
            refused += status != LLAMA_OK;
            opened += status == LLAMA_OK;
            if (m && llama_session_new(&s, m, &o, NULL) == LLAMA_OK) llama_eval(s, 0, some, 3);
            if (m) llama_check(m, NULL, NULL, NULL);
            llama_session_free(s);
            llama_close(m);
            free(b.at);
        }
        printf("damaged, %s: %zu refused, %zu opened\n", form_names[form], refused, opened);
        unlink(file);
        free(sound);
        char command[2200];
        snprintf(command, sizeof command, "rm -rf '%s'", in_work("damaged"));
        check(system(command) == 0, "%s", command);
    }
}

/* ---- llama_check ---- */

static int stop_at(void *user, const char *what, uint64_t done, uint64_t total) {
    (void)what;
    check(done <= total, "progress beyond its end");
    return --*(int *)user < 0;
}

/* Open, check; the text of what is wrong. */
static void checked(const char *what, const char *path, int want, const char *says) {
    llama *m = NULL;
    llama_error err;
    if (!check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "%s: %s", what, err.text)) return;
    int status = llama_check(m, NULL, NULL, &err);
    check(status == want && strstr(err.text, says) && (want == LLAMA_OK) == (err.text[0] == 0), "%s: %d, %s", what, status, err.text);
    llama_close(m);
}

/* Put n bytes of value v at an offset of a file. */
static void poke(const char *file, long at, unsigned char v, size_t n) {
    FILE *f = fopen(file, "r+b");
    if (!check(f && fseek(f, at, SEEK_SET) == 0, "%s", file)) return;
    while (n--) fputc(v, f);
    fclose(f);
}

static void test_check(void) {
    const model_spec wide = {.dim = 256, .layers = 1, .heads = 2, .kv_heads = 2, .hidden = 512, .vocab = 24, .shards = 1};
    char path[2048], file[2100], text[2100];
    snprintf(path, sizeof path, "%s", model_write_as(&wide, BIN_1, in_work("check")));
    snprintf(file, sizeof file, "%s", path);
    checked("sound", path, LLAMA_OK, "");
    long norm = 256 + 2 * 256 * 4 + 4 * 17, wq = 256 + (3 * 256 + 24 * 256) * 4, w1 = wq + 4 * 256 * 256 * 4;
    poke(file, norm + 2, 0xc0, 1), poke(file, norm + 3, 0x7f, 1);
    checked("a norm that is not a number", path, LLAMA_EFORMAT, "norm.weight has a number that is not finite at row 0, column 17");
    model_write_as(&wide, BIN_1, in_work("check"));
    poke(file, norm + 4 * (255 - 17) + 2, 0xc0, 1), poke(file, norm + 4 * (255 - 17) + 3, 0x7f, 1);
    checked("the last of a norm", path, LLAMA_EFORMAT, "norm.weight has a number that is not finite at row 0, column 255");
    model_write_as(&wide, BIN_1, in_work("check"));
    poke(file, wq + (3 * 256 + 5) * 4 + 2, 0x80, 1), poke(file, wq + (3 * 256 + 5) * 4 + 3, 0xff, 1);
    checked("an infinite weight", path, LLAMA_EFORMAT, "layers.0.attention.wq.weight has a number that is not finite at row 3, column");
    for (int bf16 = 0; bf16 < 2; bf16++) { /* the same bits, under either name */
        char folder[2048];
        size_t n = 0;
        snprintf(folder, sizeof folder, "%.2000s", model_write_as(&wide, SAFETENSORS, in_work("check16")));
        snprintf(text, sizeof text, "%s/model.safetensors", folder);
        char *bytes = read_file(text, &n);
        buffer b = {0};
        for (size_t i = 0; bytes && i < n; i++) {
            bool type = bf16 && i + 5 < n && memcmp(bytes + i, "\"F16\",", 6) == 0;
            put(&b, type ? "\"BF16\"" : bytes + i, type ? 6 : 1);
            if (type) i += 4;
        }
        size_t header = b.n - (n - 8 - *(uint64_t *)(void *)bytes) - 8;
        memcpy(b.at, &(uint64_t){header}, 8);
        check(write_file(text, &b), "%s", text);
        checked(bf16 ? "sound bfloat16" : "sound float16", folder, LLAMA_OK, "");
        poke(text, (long)(8 + header) + (2 * 256 + 9) * 2 + 1, bf16 ? 0x7f : 0x7c, 1);
        poke(text, (long)(8 + header) + (2 * 256 + 9) * 2, bf16 ? 0x80 : 0x00, 1);
        checked(bf16 ? "an infinite bfloat16" : "an infinite float16", folder, LLAMA_EFORMAT, "tok_embeddings.weight has a number that is not finite at row 2, column 9");
        free(b.at), free(bytes);
    }
    model_write_as(&wide, BIN_1, in_work("check"));
    poke(file, w1 + 100 * 256 * 4, 0, 100 * 1024);
    checked("a hole", path, LLAMA_EFORMAT, "layers.0.feed_forward.w1.weight has only zeros");
    model_write_as(&wide, BIN_1, in_work("check"));
    poke(file, 256, 0, 256 * 4);
    checked("a norm of zeros", path, LLAMA_EFORMAT, "layers.0.attention_norm.weight has only zeros");
    model_write_as(&wide, BIN_1, in_work("check"));
    poke(file, w1 + 100 * 256 * 4, 0, 3 * 256 * 4);
    checked("three rows of zeros", path, LLAMA_OK, "");

    /* Meta's list of sums, as md5sum makes it */
    snprintf(path, sizeof path, "%s", in_work("sums"));
    const model_spec two = {.dim = 64, .layers = 1, .heads = 2, .kv_heads = 2, .hidden = 64, .vocab = 24, .shards = 2};
    model_write(&two, path);
    snprintf(text, sizeof text, "%s/checklist.chk", path);
    unlink(text);
    checked("no list", path, LLAMA_OK, "");
    char command[3000];
    for (int n = 1; n < 130; n++) { /* of every length to a block, the last of which is filled up */
        buffer b = {0};
        char name[32];
        snprintf(name, sizeof name, "length%d", n);
        for (int i = 0; i < n; i++) put_int(&b, (uint64_t)(i * n), 1);
        put_file(&b, path, name);
        free(b.at);
    }
    snprintf(command, sizeof command, "cd '%s' && md5sum consolidated.*.pth params.json length* > checklist.chk", path);
    if (system(command) != 0) {
        printf("SKIP: MD5 sums (no md5sum)\n");
        return;
    }
    checked("a list that agrees", path, LLAMA_OK, "");
    int calls = 1000, few = 1;
    llama *m = NULL;
    llama_error err;
    open_with(&m, path, NULL, "sums");
    check(llama_check(m, stop_at, &calls, &err) == LLAMA_OK && calls < 990, "progress: %d left, %s", calls, err.text);
    check(llama_check(m, stop_at, &few, &err) == LLAMA_ECANCEL && err.text[0], "stopped: %s", err.text);
    calls -= 1000 - 2; /* in the last file's sum */
    few = -calls;
    check(llama_check(m, stop_at, &few, &err) == LLAMA_ECANCEL, "stopped late: %s", err.text);
    check(llama_check(NULL, NULL, NULL, &err) == LLAMA_EINVAL && err.text[0], "no model");
    llama_close(m);
    size_t n = 0;
    char *sums = read_file(text, &n);
    buffer b = {0};
    put(&b, sums, n);
    b.at[0] = b.at[0] == 'f' ? 'e' : 'f';
    put_file(&b, path, "checklist.chk");
    checked("another sum", path, LLAMA_EFORMAT, "consolidated.00.pth: its MD5 is");
    b.n = 0;
    put_text(&b, "0123\n");
    put_file(&b, path, "checklist.chk");
    checked("no list of sums", path, LLAMA_EFORMAT, "not a list");
    b.n = 0;
    put_text(&b, "d41d8cd98f00b204e9800998ecf8427e  ../x\n");
    put_file(&b, path, "checklist.chk");
    checked("a file elsewhere", path, LLAMA_EFORMAT, "not a list");
    b.n = 0;
    put_text(&b, "d41d8cd98f00b204e9800998ecf8427e  absent\n");
    put_file(&b, path, "checklist.chk");
    checked("a file that is not there", path, LLAMA_EIO, "absent");
    unlink(text);
    free(b.at), free(sums);
}

/* ---- Memory ---- */

typedef struct {
    long calls, fails_at, held; /* fails_at: the call that gets nothing */
} miser;
static void *miser_alloc(void *user, size_t bytes, size_t align) {
    miser *m = user;
    if (m->calls++ == m->fails_at) return NULL;
    m->held++;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void miser_free(void *user, void *p, size_t bytes) {
    (void)bytes;
    ((miser *)user)->held--;
    free(p);
}

/* Each allocation of opening a model failed once: ENOMEM, and nothing is kept. */
static void test_no_memory(void) {
    static const char *const paths[] = {"cli/meta", "cli/hf", "cli/model.gguf", "cli/bin/model.bin", "form-1-2"};
    for (int i = 0; i < 5; i++) {
        long n = 0;
        int status = LLAMA_ENOMEM;
        for (; status == LLAMA_ENOMEM && n < 1000; n++) {
            miser purse = {0, n, 0};
            llama_allocator a = {&purse, miser_alloc, miser_free};
            llama_options o = {.size = sizeof o, .allocator = &a};
            llama *m = NULL;
            llama_error err;
            status = llama_open(&m, in_work(paths[i]), &o, &err);
            check(status == LLAMA_OK || (status == LLAMA_ENOMEM && strstr(err.text, "memory") && !m), "%s, allocation %ld: %d, %s", paths[i], n, status, err.text);
            llama_close(m);
            check(purse.held == 0, "%s, allocation %ld: %ld blocks are kept", paths[i], n, purse.held);
        }
        check(n > 2, "%s: %ld allocations", paths[i], n - 1);
        printf("%s: %ld allocations, each failed once\n", paths[i], n - 1);
    }
}

static long anonymous_kb(void) {
    char *status = NULL, *at;
    FILE *f = fopen("/proc/self/status", "r");
    size_t room = 0;
    long kb = -1;
    while (f && getline(&status, &room, f) > 0)
        if ((at = strstr(status, "RssAnon:"))) kb = strtol(at + 8, NULL, 10);
    if (f) fclose(f);
    free(status);
    return kb;
}

/* The headers of a 7B model; its weights are a hole in the file. No page of them is read or copied. */
static void test_memory(void) {
    const model_spec b7 = {.dim = 4096, .layers = 32, .heads = 32, .kv_heads = 32, .hidden = 11008, .vocab = 32000, .shards = 1};
    model_weight w;
    for (int form = 0; form < 3; form++) { /* safetensors, GGUF, llama2.c */
        char path[2048], file[2100], text[256];
        buffer b = {0}, list = {0};
        uint64_t bytes = 0;
        int n = 0;
        make_folder(in_work("large"));
        snprintf(path, sizeof path, "%s", in_work("large"));
        snprintf(file, sizeof file, "%s/%s", path, form == 0 ? "model.safetensors" : form == 1 ? "large.gguf" : "large.bin");
        for (; model_nth(&b7, form > 0, n, &w); n++) {
            uint64_t count = (uint64_t)(w.rows ? w.rows : 1) * (uint64_t)w.cols, size = form == 2 || (form == 1 && !w.rows) ? 4 : 2;
            if (form == 0) {
                snprintf(text, sizeof text, "%s\"%s\":{\"dtype\":\"F16\",\"shape\":[%d%s", n ? "," : "{", w.name, w.rows ? w.rows : w.cols, w.rows ? ",": "]");
                put_text(&list, text);
                if (w.rows) snprintf(text, sizeof text, "%d]", w.cols), put_text(&list, text);
                snprintf(text, sizeof text, ",\"data_offsets\":[%llu,%llu]}", (unsigned long long)bytes, (unsigned long long)(bytes + count * size));
                put_text(&list, text);
            } else if (form == 1) {
                gguf_text(&list, w.name);
                put_int(&list, w.rows ? 2 : 1, 4);
                put_int(&list, (uint64_t)w.cols, 8);
                if (w.rows) put_int(&list, (uint64_t)w.rows, 8);
                put_int(&list, w.rows ? 1 : 0, 4);
                put_int(&list, bytes, 8);
            }
            bytes += count * size;
        }
        if (form == 0) {
            put_text(&list, "}");
            put_int(&b, list.n, 8);
            put(&b, list.at, list.n);
            model_config(&b7, path);
        } else if (form == 1) {
            model_spec none = b7;
            none.layers = 0; /* its header, then the right numbers */
            none.vocab = 1;
            buffer head = model_gguf(&none, 0, 1, NULL, 0);
            size_t at = 0;
            while (memcmp(head.at + at, "token_embd", 10) != 0) at++;
            put(&b, head.at, at - 8);
            memcpy(b.at + 8, &(uint64_t){(uint64_t)n}, 8);
            for (at = 0; memcmp(b.at + at, "block_count", 11) != 0;) at++;
            b.at[at + 15] = 32;
            put(&b, list.at, list.n);
            while (b.n % 64) put_int(&b, 0, 1);
            free(head.at);
        } else {
            int header[] = {4096, 11008, 32, 32, 32, -32000, 2048};
            for (int i = 0; i < 7; i++) put_int(&b, (uint32_t)header[i], 4);
            bytes += 2048 * 128 * 4;
        }
        check(write_file(file, &b) && truncate(file, (off_t)(b.n + bytes)) == 0, "%s: a file of %llu bytes with a hole", file, (unsigned long long)bytes);
        llama *m = NULL;
        llama_error err;
        long before = anonymous_kb();
        if (form == 0) open_with(&m, path, NULL, "large");
        else open_with(&m, file, NULL, "large");
        llama_info info = {.size = sizeof info};
        if (m) llama_describe(m, &info);
        long after = anonymous_kb();
        check(info.parameters == 6738415616 && info.format, "large, form %d: %llu parameters", form, (unsigned long long)info.parameters);
        check(before < 0 || after - before < 20000, "large, form %d: %ld KB", form, after - before);
        if (before >= 0 && m) printf("7B as %s: %ld KB of memory\n", info.format, after - before);
        if (m) check(llama_check(m, NULL, NULL, &err) == LLAMA_EFORMAT && strstr(err.text, "only zeros"), "a hole of a whole model: %s", err.text);
        llama_close(m);
        unlink(file);
        free(b.at), free(list.at);
    }
}

/* The smallest LLaMA there can be is a model. */
static void test_least(void) {
    static const model_spec least = {.dim = 2, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = 1, .vocab = 1, .shards = 1, .tied = true};
    llama *m = NULL;
    llama_error err;
    size_t n = 0;
    char *bytes = read_file(model_write_as(&least, BIN_0, in_work("least")), &n);
    buffer b = {0};
    put(&b, bytes, n - 511 * 2 * sizeof(float)); /* tables of RoPE for one position, not for 512 */
    memcpy(b.at + 24, "\1\0", 2);
    put_file(&b, work, "least.bin");
    check(llama_open(&m, in_work("least.bin"), NULL, &err) == LLAMA_OK, "%zu bytes: %s", b.n, err.text);
    llama_close(m);
    free(b.at), free(bytes);
}

/* A vocabulary that puts no space in front of a text takes none away. */
static void test_no_space_in_front(void) {
    const char *folder = tiny_folder;
    static const char setting[] = "identity\x12\x00\x18"; /* then add_dummy_prefix */
    char path[2048];
    size_t n = 0, at = 0;
    snprintf(path, sizeof path, "%.2000s/tokenizer.model", folder);
    char *bytes = read_file(path, &n);
    while (at + sizeof setting < n && memcmp(bytes + at, setting, sizeof setting - 1) != 0) at++;
    check(bytes[at + sizeof setting - 1] == 1, "%s puts a space in front", path);
    bytes[at + sizeof setting - 1] = 0;
    buffer b = {0};
    put(&b, bytes, n);
    put_file(&b, work, "plain.model");
    llama *m = NULL;
    llama_error err;
    llama_options o = {.size = sizeof o, .tokenizer = in_work("plain.model")};
    check(llama_open(&m, folder, &o, &err) == LLAMA_OK, "%s", err.text);
    static const char *const texts[] = {"the king", " the king", "  two", " ", "x"};
    for (int i = 0; i < 5; i++) {
        int32_t t[16];
        char out[LLAMA_TEXT_MAX], all[256] = "";
        size_t have = 0;
        llama_decoder u = {.n = 0};
        ptrdiff_t count = llama_text_to_tokens(m, texts[i], strlen(texts[i]), LLAMA_ADD_BOS, t, 16);
        for (ptrdiff_t k = 0; k <= count; k++) {
            size_t got = llama_token_to_text(m, &u, k < count ? t[k] : LLAMA_FLUSH, out);
            memcpy(all + have, out, got);
            have += got;
        }
        check(count > 1 && strcmp(all, texts[i]) == 0, "'%s' comes back as '%s'", texts[i], all);
    }
    llama_close(m);
    free(b.at), free(bytes);
}

static const test_case cases[] = {
    CASE(memory), CASE(same_bits), CASE(newer_shapes), CASE(bfloat16), CASE(large), CASE(vocabularies), CASE(special), CASE(facts), CASE(sentencepiece), CASE(config), CASE(index), CASE(gguf),
    CASE(bin), CASE(names), CASE(tied), CASE(foreign), CASE(divisors), CASE(wrong_paths), CASE(least), CASE(no_space_in_front), CASE(no_words), CASE(damage), CASE(check), CASE(no_memory)};

int main(int argc, char **argv) {
    if ((argc = tests_begin(argc, argv)) < 3) return 2;
    tiny_folder = argv[1];
    snprintf(work, sizeof work, "%.1000s", argv[2]);
    make_folder(work);
    RUN(cases); /* memory is the first, while nothing was freed to be used again */
    return tests_done("formats");
}
