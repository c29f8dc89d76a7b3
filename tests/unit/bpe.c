/* bpe.c - byte-level BPE: the vectors of the project's shared data, and vectors, hostile files and times of our own.
 *
 *   bpe WORKDIR [FAMILY]      FAMILY: the data, ../shared/family
 */
#include "../tools/checkpoint.h"
#include <time.h>
#include <unistd.h>

static char work[1024];
static const char *family;

static const char *in_work(const char *name) {
    static char path[4][2048];
    static int turn;
    snprintf(path[++turn % 4], sizeof *path, "%s/%s", work, name);
    return path[turn % 4];
}

/* A folder with a model that has `rows` tokens. */
static const char *model_of(int rows) {
    char name[64];
    model_spec spec = {.dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 8, .vocab = rows, .shards = 1};
    snprintf(name, sizeof name, "rows-%d", rows);
    const char *folder = in_work(name);
    if (!exists(folder)) model_write_as(&spec, SAFETENSORS, folder);
    return folder;
}

static llama *open_with(int rows, const char *tokenizer) {
    llama *m = NULL;
    llama_error err;
    llama_options o = {.size = sizeof o, .tokenizer = tokenizer};
    check(llama_open(&m, model_of(rows), &o, &err) == LLAMA_OK, "%s: %s", tokenizer, err.text);
    return m;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- The shared vectors ---- */

/* A file of the family, decompressed if it is compressed; NULL: it is not there. The caller frees. */
static char *family_file(const char *name, const char *to) {
    char path[4096], command[9000];
    snprintf(path, sizeof path, "%s/tok/%s.xz", family, name);
    if (!exists(path)) {
        snprintf(path, sizeof path, "%s/tok/%s", family, name);
        return read_file(path, NULL);
    }
    snprintf(command, sizeof command, "xz -dc '%s' >'%s' 2>/dev/null", path, to);
    return system(command) == 0 ? read_file(to, NULL) : NULL;
}

/* Calls fn for each line of a file of vectors. */
static int each_line(const char *name, void (*fn)(const llama *m, const char *line), const llama *m) {
    char *lines = family_file(name, "");
    int count = 0;
    for (char *line = lines, *end; line && (end = strchr(line, '\n')); line = end + 1, count++) {
        *end = 0;
        fn(m, line);
    }
    free(lines);
    return count;
}

static bool same_tokens(const llama *m, const char *text, size_t n, unsigned flags, const int32_t *want, size_t count) {
    int32_t *got = must_alloc((n + 2) * sizeof *got);
    ptrdiff_t k = llama_text_to_tokens(m, text, n, flags, got, n + 2);
    bool same = k >= 0 && (size_t)k == count && memcmp(got, want, count * sizeof *got) == 0;
    if (!same && k >= 0) {
        size_t i = 0;
        while (i < count && i < (size_t)k && got[i] == want[i]) i++;
        printf("    %td tokens, not %zu; the first other one is %zu\n", k, count, i);
    }
    free(got);
    return same;
}

/* The text of tokens, with or without that of special tokens; the caller frees. */
static buffer text_of(const llama *m, const int32_t *ids, size_t n, bool special) {
    llama_decoder d = {.special = special};
    buffer all = {0};
    char out[LLAMA_TEXT_MAX];
    for (size_t i = 0; i < n; i++) put(&all, out, llama_token_to_text(m, &d, ids[i], out));
    put(&all, out, llama_token_to_text(m, &d, LLAMA_FLUSH, out));
    return all;
}

static bool is_text(const buffer *b, const char *text, size_t n) { return b->n == n && (n == 0 || memcmp(b->at, text, n) == 0); }

static void vector(const llama *m, const char *line) {
    size_t n = 0, count = 0;
    char *text = json_text(line, "text", &n);
    int32_t *ids = json_ids(line, "ids", &count);
    check(same_tokens(m, text, n, 0, ids, count), "tokens of %.200s", line);
    buffer back = text_of(m, ids, count, true);
    check(is_text(&back, text, n), "text of %.200s", line);
    free(text), free(ids), free(back.at);
}

static void special(const llama *m, const char *line) {
    size_t n = 0, counts[3];
    static const char *const keys[] = {"ids_data", "ids_special", "ids_hf_add_special_tokens"};
    char *text = json_text(line, "text", &n);
    for (int i = 0; i < 3; i++) {
        int32_t *ids = json_ids(line, keys[i], &counts[i]), *from = ids;
        /* Hugging Face adds BOS also before a BOS in the text */
        if (i == 2 && counts[2] > 1 && counts[2] > counts[1] && ids[0] == ids[1]) from++, counts[2]--;
        check(same_tokens(m, text, n, i == 0 ? 0 : i == 1 ? LLAMA_SPECIAL : LLAMA_SPECIAL | LLAMA_ADD_BOS, from, counts[i]), "%s of %.200s", keys[i], line);
        buffer back = text_of(m, ids, counts[i], true);
        if (i < 2) check(is_text(&back, text, n), "text of %s of %.200s", keys[i], line);
        free(back.at), free(ids);
    }
    free(text);
}

static void decoded(const llama *m, const char *line) {
    size_t n = 0, count = 0;
    int32_t *ids = json_ids(line, "ids", &count);
    for (int skip = 0; skip < 2; skip++) {
        char *want = json_text(line, skip ? "text_lossy_skip_special" : "text_lossy", &n);
        buffer got = text_of(m, ids, count, !skip);
        check(is_text(&got, want, n), "%s of %.200s", skip ? "without special tokens, text" : "text", line);
        free(want), free(got.at);
    }
    free(ids);
}

static void streamed(const llama *m, const char *line) {
    size_t n = 0, count = 0;
    char *text = json_text(line, "text", &n), out[LLAMA_TEXT_MAX];
    const char *whole = json_find(line, "whole_after"), *hex = json_find(line, "pieces_hex");
    int32_t *ids = json_ids(line, "ids", &count);
    llama_decoder d = {.special = 1};
    buffer all = {0};
    size_t bytes = 0;
    bool right = true;
    check(same_tokens(m, text, n, 0, ids, count), "tokens of %.200s", line);
    for (size_t i = 0; i < count; i++) {
        size_t length = 0;
        const char *piece = llama_token_text(m, ids[i], &length);
        hex = strchr(hex, '"') + 1;
        for (size_t k = 0; k < length; k++) {
            unsigned byte = 0;
            right &= sscanf(hex + 2 * k, "%2x", &byte) == 1 && byte == (unsigned char)piece[k];
        }
        hex += 2 * length;
        right &= *hex++ == '"';
        bytes += length;
        put(&all, out, llama_token_to_text(m, &d, ids[i], out));
        whole = strpbrk(whole, "tf");
        right &= (all.n == bytes) == (*whole == 't') && (all.n == 0 || memcmp(all.at, text, all.n) == 0);
        whole += *whole == 't' ? 4 : 5;
    }
    put(&all, out, llama_token_to_text(m, &d, LLAMA_FLUSH, out));
    check(right && is_text(&all, text, n), "stream of %.200s", line);
    free(text), free(ids), free(all.at);
}

static void test_vectors(void) {
    static const struct {
        const char *file, *kind; /* of vectors */
        int rows;
    } vocabularies[] = {{"smol_tokenizer.json", "smol", 2048}, {"smol_tokenizer_pairs.json", "smol", 2048}, {"mini3_tokenizer.model", "mini3", 1024},
                        {"mini3_tokenizer.json", "mini3", 1024}, {"llama3_tokenizer.model", "llama3", 128256}, {"llama3_tokenizer.json", "llama3", 128256}};
    static const struct {
        const char *name;
        void (*fn)(const llama *m, const char *line);
    } kinds[] = {{"vectors", vector}, {"unicode16", vector}, {"special", special}, {"decode", decoded}, {"stream", streamed}};
    char path[4096];
    snprintf(path, sizeof path, "%s/tok", family);
    if (!exists(path)) {
        printf("SKIP: %s is not here\n", path);
        return;
    }
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++) {
        const char *file = vocabularies[i].file;
        snprintf(path, sizeof path, "%s/%s", work, file);
        char *bytes = family_file(file, path);
        if (!bytes) {
            printf("SKIP: %s cannot be read: xz is not here\n", file);
            continue;
        }
        buffer copy = {(unsigned char *)bytes, strlen(bytes), 0};
        write_file(path, &copy);
        free(bytes);
        double start = now();
        llama *m = open_with(vocabularies[i].rows, path);
        if (!m) continue;
        printf("%s: opened in %.0f ms;", file, (now() - start) * 1e3);
        start = now();
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            char name[64];
            snprintf(name, sizeof name, "%s_%s.jsonl", kinds[k].name, vocabularies[i].kind);
            printf(" %d %s", each_line(name, kinds[k].fn, m), kinds[k].name);
        }
        printf(" in %.0f ms\n", (now() - start) * 1e3);
        llama_close(m);
        unlink(path); /* Llama 3's may not be copied on */
    }
}

int main(int argc, char **argv) {
    static const test_case cases[] = {CASE(vectors)};
    argc = tests_begin(argc, argv);
    if (argc < 2) return printf("bpe WORKDIR [FAMILY]\n"), 2;
    snprintf(work, sizeof work, "%s", argv[1]);
    family = argc > 2 ? argv[2] : "../shared/family";
    make_folder(work);
    RUN(cases);
    return tests_done("bpe");
}
