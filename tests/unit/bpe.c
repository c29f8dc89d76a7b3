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

/* Writes a file of the family to path. Returns false if it cannot be read. */
static bool copy_family(const char *name, const char *path) {
    char *bytes = family_file(name, path);
    if (!bytes) return false;
    buffer copy = {(unsigned char *)bytes, strlen(bytes), 0}; /* no file has a 0 */
    bool written = write_file(path, &copy);
    free(bytes);
    return written;
}

static void test_vectors(void) {
    /* Llama 3's tokenizer.model is tested beside its tokenizer.json, whose special tokens have Llama 3.0's names */
    static const struct {
        const char *kind, *file, *beside;
        int rows;
    } vocabularies[] = {{"smol", "smol_tokenizer.json", NULL, 2048},           {"smol", "smol_tokenizer_pairs.json", NULL, 2048},
                        {"mini3", "mini3_tokenizer.model", NULL, 1024},        {"mini3", "mini3_tokenizer.json", NULL, 1024},
                        {"llama3", "llama3_tokenizer.model", "llama3_tokenizer.json", 128256}, {"llama3", "llama3_tokenizer.json", NULL, 128256}};
    static const struct {
        const char *name;
        void (*fn)(const llama *m, const char *line);
    } kinds[] = {{"vectors", vector}, {"unicode16", vector}, {"special", special}, {"decode", decoded}, {"stream", streamed}};
    char path[4096], beside[4096];
    llama *mini3 = NULL;
    snprintf(path, sizeof path, "%s/tok", family);
    if (!exists(path)) {
        printf("SKIP: %s is not here\n", path);
        return;
    }
    make_folder(in_work("family"));
    snprintf(beside, sizeof beside, "%s/family/tokenizer.json", work);
    for (size_t i = 0; i < sizeof vocabularies / sizeof *vocabularies; i++) {
        const char *file = vocabularies[i].file;
        snprintf(path, sizeof path, "%s/family/%s", work, strstr(file, ".model") ? "tokenizer.model" : "tokenizer.json");
        if (!copy_family(file, path) || (vocabularies[i].beside && !copy_family(vocabularies[i].beside, beside))) {
            printf("SKIP: %s cannot be read: xz is not here\n", file);
            continue;
        }
        model_of(vocabularies[i].rows);
        double start = now();
        llama *m = open_with(vocabularies[i].rows, path);
        unlink(path); /* Llama 3's is not kept */
        unlink(beside);
        if (!m) continue;
        printf("%s: opened in %.0f ms;", file, (now() - start) * 1e3);
        start = now();
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            char name[64];
            snprintf(name, sizeof name, "%s_%s.jsonl", kinds[k].name, vocabularies[i].kind);
            printf(" %d %s,", each_line(name, kinds[k].fn, m), kinds[k].name);
        }
        printf(" in %.0f ms\n", (now() - start) * 1e3);
        if (i == 2) mini3 = m;
        for (int id = 0; i == 3 && mini3 && id < 1024; id++) { /* the special tokens have the same names in both forms */
            size_t n = 0, length = 0;
            const char *a = llama_token_text(mini3, id, &n), *b = llama_token_text(m, id, &length);
            check(n == length && memcmp(a, b, n) == 0, "mini3: token %d is %.*s and %.*s", id, (int)n, a, (int)length, b);
        }
        if (i == 3) llama_close(mini3);
        if (i != 2) llama_close(m);
    }
}

/* ---- A small vocabulary of our own, in every form ---- */

/* All 256 bytes, in an order of their own; then every pair of 25 bytes; then some longer pieces. Words that are split at
 * another place become other tokens nearly always. */
static const char pair_bytes[] = " ab'sSl12!\n\r\t\xc3\xa9\xc2\xbd\xa0\xd9\xa3\xc5\xbf<>\x1c";
enum { N_PAIRED = sizeof pair_bytes - 1, MOST = 1400, SPECIALS = 256 };
typedef struct {
    char text[64];
    size_t n;
} test_piece;
static test_piece pieces[MOST];
static int n_pieces;

static void add_piece(const char *text, size_t n) {
    memcpy(pieces[n_pieces].text, text, n);
    pieces[n_pieces++].n = n;
}

static void make_pieces(void) {
    static const char *const longer[] = {"aba", "abab", " ab", "'ss", "\xc3\xa9\xc3", " \n\n", "!!!", "abab aba", "lSlSl"}; /* the last is formed by no merge */
    n_pieces = 0;
    for (int i = 0; i < 256; i++) add_piece(&(char){(char)(i * 7 + 3)}, 1);
    for (int i = 0; i < N_PAIRED * N_PAIRED; i++) {
        int k = (int)((unsigned)i * 241u % (N_PAIRED * N_PAIRED)); /* mixed: ranks are in no order of the bytes */
        add_piece((char[]){pair_bytes[k / N_PAIRED], pair_bytes[k % N_PAIRED]}, 2);
    }
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++) add_piece(longer[i], strlen(longer[i]));
}

static int rank_of(const char *text, size_t n) {
    for (int i = 0; i < n_pieces; i++)
        if (pieces[i].n == n && memcmp(pieces[i].text, text, n) == 0) return i;
    return -1;
}

/* The tokens of a word, by trying all pairs after each merge. Appends to ids; returns how many there are then. */
static size_t naive_word(const char *word, size_t n, bool whole, int32_t *ids, size_t count) {
    size_t ends[256], k = n;
    int rank = whole ? rank_of(word, n) : -1;
    if (rank >= 0) return ids[count] = rank, count + 1;
    for (size_t i = 0; i < n; i++) ends[i] = i + 1;
    for (;;) {
        size_t at = SIZE_MAX;
        int best = -1;
        for (size_t i = 0; i + 1 < k; i++) {
            size_t from = i ? ends[i - 1] : 0;
            int r = rank_of(word + from, ends[i + 1] - from);
            if (r >= 0 && (best < 0 || r < best)) best = r, at = i;
        }
        if (best < 0) break;
        memmove(ends + at, ends + at + 1, (--k - at) * sizeof *ends);
    }
    for (size_t i = 0, from = 0; i < k; from = ends[i++]) ids[count++] = rank_of(word + from, ends[i] - from);
    return count;
}

/* Appends a piece in GPT-2's letters; as JSON's \u escapes if `escapes`. */
static void put_letters(buffer *b, const char *text, size_t n, bool escapes, bool json) {
    for (size_t i = 0; i < n; i++) {
        unsigned c = (unsigned char)text[i], code = c, others = 0;
        char out[16];
        for (unsigned k = 0; k <= c; k++) {
            bool self = (k >= 33 && k <= 126) || (k >= 161 && k <= 172) || k >= 174;
            others += !self;
            if (k == c && !self) code = 255 + others;
        }
        if (json && (code == '"' || code == '\\')) put_text(b, "\\");
        if (escapes && code > 126) snprintf(out, sizeof out, "\\u%04x", code), put_text(b, out);
        else put(b, out, utf8_put(code, out));
    }
}

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static buffer make_tiktoken(void) {
    buffer b = {0};
    char rank[32];
    for (int i = 0; i < n_pieces; i++) {
        const unsigned char *s = (const unsigned char *)pieces[i].text;
        for (size_t k = 0; k < pieces[i].n; k += 3) {
            size_t left = pieces[i].n - k;
            unsigned bits = (unsigned)s[k] << 16 | (left > 1 ? (unsigned)s[k + 1] << 8 : 0) | (left > 2 ? s[k + 2] : 0);
            for (size_t d = 0; d < 4; d++) put(&b, d <= left ? base64 + (bits >> (18 - 6 * d) & 63) : "=", 1);
        }
        snprintf(rank, sizeof rank, " %d\n", i);
        put_text(&b, rank);
    }
    return b;
}

/* Calls fn for each merge: every division of a piece into two pieces, by the rank of the piece. Returns how many. */
static int each_merge(buffer *b, void (*fn)(buffer *b, const test_piece *p, size_t cut, int number)) {
    int count = 0;
    for (int i = 0; i < n_pieces; i++)
        for (size_t cut = 1; cut < pieces[i].n; cut++)
            if (rank_of(pieces[i].text, cut) >= 0 && rank_of(pieces[i].text + cut, pieces[i].n - cut) >= 0) {
                if (b) fn(b, &pieces[i], cut, count);
                count++;
            }
    return count;
}

static void merge_of_strings(buffer *b, const test_piece *p, size_t cut, int number) {
    put_text(b, number ? ", \"" : "\"");
    put_letters(b, p->text, cut, false, true);
    put_text(b, " ");
    put_letters(b, p->text + cut, p->n - cut, false, true);
    put_text(b, "\"");
}

static void merge_of_pairs(buffer *b, const test_piece *p, size_t cut, int number) {
    put_text(b, number ? ",[\"" : "[\"");
    put_letters(b, p->text, cut, true, true);
    put_text(b, "\",\"");
    put_letters(b, p->text + cut, p->n - cut, true, true);
    put_text(b, "\"]");
}

static void merge_of_gguf(buffer *b, const test_piece *p, size_t cut, int number) {
    buffer text = {0};
    (void)number;
    put_letters(&text, p->text, cut, false, false);
    put_text(&text, " ");
    put_letters(&text, p->text + cut, p->n - cut, false, false);
    put_int(b, text.n, 8);
    put(b, text.at, text.n);
    free(text.at);
}

#define BYTES_TAIL "\"add_prefix_space\": false, \"trim_offsets\": true"
#define LLAMA3_WORDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
enum { GPT2, DIGITS, LLAMA3, KINDS };
static const char *const splitters[KINDS] = {
    "{\"type\": \"ByteLevel\", " BYTES_TAIL "}",
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": \"ByteLevel\", " BYTES_TAIL ", \"use_regex\": true}]}",
    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" LLAMA3_WORDS "\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
    "{\"type\": \"ByteLevel\", " BYTES_TAIL ", \"use_regex\": false}]}"};
static const char template[] = "{\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\", \"add_prefix_space\": true}, {\"type\": \"TemplateProcessing\", "
                               "\"single\": [{\"SpecialToken\": {\"id\": \"<|begin_of_text|>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
                               "\"pair\": [{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], "
                               "\"special_tokens\": {\"<|begin_of_text|>\": {\"id\": \"<|begin_of_text|>\", \"ids\": [%d], \"tokens\": [\"<|begin_of_text|>\"]}}}]}";

static buffer make_json(int kind, bool pairs) {
    buffer b = {0};
    char text[1024];
    put_text(&b, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof text, "%s{\"id\": %d, \"content\": \"<|%s_of_text|>\", \"single_word\": false, \"lstrip\": false, \"special\": true}", i ? ", " : "",
                 n_pieces + i, i ? "end" : "begin");
        put_text(&b, text);
    }
    put_text(&b, "], \"normalizer\": null, \"pre_tokenizer\": ");
    put_text(&b, splitters[kind]);
    put_text(&b, ", \"post_processor\": ");
    snprintf(text, sizeof text, template, n_pieces);
    put_text(&b, kind == LLAMA3 ? text : "null");
    put_text(&b, ", \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, ");
    put_text(&b, kind == LLAMA3 ? "\"ignore_merges\": true, \"vocab\": {" : "\"ignore_merges\": false, \"vocab\": {");
    for (int i = 0; i < n_pieces; i++) {
        put_text(&b, i ? ", \"" : "\"");
        put_letters(&b, pieces[i].text, pieces[i].n, pairs, true);
        snprintf(text, sizeof text, "\": %d", i);
        put_text(&b, text);
    }
    put_text(&b, "}, \"merges\": [");
    each_merge(&b, pairs ? merge_of_pairs : merge_of_strings);
    put_text(&b, "]}}");
    return b;
}

/* A GGUF model with the vocabulary; `pre` NULL: without that key. */
static buffer make_gguf(const char *pre, int rows) {
    buffer b = {0};
    model_spec spec = {.dim = 16, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = rows, .shards = 1};
    gguf_text(&b, "tokenizer.ggml.model"), put_int(&b, 8, 4), gguf_text(&b, "gpt2");
    gguf_text(&b, pre ? "tokenizer.ggml.pre" : "tokenizer.ggml.pro"), put_int(&b, 8, 4), gguf_text(&b, pre ? pre : "");
    gguf_text(&b, "tokenizer.ggml.tokens"), put_int(&b, 9, 4), put_int(&b, 8, 4), put_int(&b, (uint64_t)n_pieces + 2, 8);
    for (int i = 0; i < n_pieces; i++) {
        buffer text = {0};
        put_letters(&text, pieces[i].text, pieces[i].n, false, false);
        put_int(&b, text.n, 8), put(&b, text.at, text.n);
        free(text.at);
    }
    gguf_text(&b, "<|begin_of_text|>"), gguf_text(&b, "<|end_of_text|>");
    gguf_text(&b, "tokenizer.ggml.token_type"), put_int(&b, 9, 4), put_int(&b, 5, 4), put_int(&b, (uint64_t)n_pieces + 2, 8);
    for (int i = 0; i < n_pieces + 2; i++) put_int(&b, i < n_pieces ? 1 : 3, 4);
    gguf_text(&b, "tokenizer.ggml.merges"), put_int(&b, 9, 4), put_int(&b, 8, 4), put_int(&b, (uint64_t)each_merge(NULL, NULL), 8);
    each_merge(&b, merge_of_gguf);
    gguf_u32(&b, "tokenizer.ggml.bos_token_id", (uint32_t)n_pieces);
    buffer file = model_gguf(&spec, 0, 1, &b, 6);
    free(b.at);
    return file;
}

static int rows_of(void) { return n_pieces + SPECIALS; }

/* The words of a text, with a bar between them; which kinds split it so. */
static const struct {
    const char *words;
    int kinds; /* bits: 1 GPT2, 2 DIGITS, 4 LLAMA3 */
} splits[] = {
    {"", 7}, {"a", 7}, {"ab| ab", 7}, {"ab| | ab", 7}, {"ab|  | ab", 7}, {"ab|   ", 7}, {" ab", 7}, {"  | ab", 7},
    {"ab|'s| ab", 7}, {"ab|'|S| ab", 3}, {"ab|'S| ab", 4}, {"'s|s", 7}, {"'ll|l", 7}, {"'|ls", 3}, {"'ls", 4}, {" '|s", 7}, {"!'|s", 7}, {"'", 7}, {"''|s", 7},
    {"'LL|l", 4}, {"'|LLl", 3}, {"a|'re|'ve|'m|'d|'t", 7}, {"a|'RE|'vE|'M|'d|'T", 4}, {"'\xc5\xbf|s", 4}, {"'|\xc5\xbfs", 3}, {"'\xc5\xbfs", 0}, {"'r", 4}, {"'|r", 3},
    {"12", 1}, {"1|2", 2}, {"12", 4}, {"121|2", 4}, {"1212", 1}, {"121|212|1", 4}, {"\xc2\xbd" "1|2", 0}, {"\xc2\xbd" "12|1", 4}, {"\xc2\xbd|1|2|1", 2}, {"\xd9\xa3" "1", 5}, {"a|1|a", 7},
    {" 12", 1}, {" |1|2", 2}, {" |12", 4}, {" | 12", 1}, {"  |1|2", 2}, {"  |12", 0}, {" | |12", 4}, {"a|  |1", 2}, {"a| | 1", 1}, {"a| | |1", 4}, {"a|\n\n|1", 2}, {"a|\n|\n|1", 1}, {"a|\n\n|1", 4},
    {"!!", 7}, {" !!", 7}, {"!!|\n", 3}, {"!!\n", 4}, {"!\r\n\n| ", 4}, {"!|\r\n|\n", 0}, {"!| |\n", 0}, {"!| \n", 7}, {" !\n| a", 4}, {"a|!|b", 3}, {"a|!b", 4}, {"a| !|b", 7}, {"!|\xc3\xa9", 3}, {"!\xc3\xa9", 4},
    {"a|\n|b", 7}, {"a|\n\n|b", 4}, {"a|\n|\n|b", 3}, {"a| \n|b", 4}, {"a| |\n|b", 3}, {"a|  \n \n|  | b", 4}, {"a|  \n \n |  b", 0}, {"a|  \n \n  | b", 3}, {"\r|a", 7}, {"\n| a", 7}, {"\n |  a", 0},
    {"\t|a", 3}, {"\ta", 4}, {"\t\t|a", 0}, {"\t|\t|a", 3}, {"\t|\ta", 4}, {" |\ta", 4}, {" |\t|a", 3}, {"\xc2\xa0" "a", 4}, {"\xc2\xa0|a", 3}, {"\xc2\xa0| a", 7}, {" \xc2\xa0| a", 7}, {"a|\xc2\xa0", 7},
    {"lSlSl", 7}, {"'S|S", 4}, {"'S|Sa", 4}, {"'S|a", 4}, {"'\xc5\xbf|S", 4}, {"'\xc5\xbf|a", 4}, {"'\xc5\xbf|l", 4}, {"!\x1c!", 7}, {" \x1c|1", 7},
    {"\xff", 7}, {"\xff|a", 3}, {"\xff" "a", 4}, {"a|\xc3|1", 7}, {"a|\xe2\x80|1", 7}, {" \xff\xfe|\n", 3}, {"\xed\xa0\x80|1", 7},
    {"a|\xcc\x81|b", 3}, {"a|\xcc\x81" "b", 4}, {"\xf0\x9f\x99\x82", 7}, {"a|\xf0\x9f\x99\x82|\n", 3}, {"a|\xef\xbb\xbf|1", 7}, {"a|\xe2\x80\x8b|1", 7}, {"a|\xe3\x80\x80", 7}, {"a|\xc2\x85\n", 7}, {"a|\x1c|1", 7},
    {"\xf0\x9e\xb4\xbb|1", 7}, {"\xf0\x90\x84\xa0|a", 0}, {"\xe4\xb8\xad\xe6\x96\x87", 7}, {"\xe2\x85\xa7|a", 7},
};

/* Texts whose words are known, by every kind and in every form; other divisions must give other tokens where there are such. */
static void test_words(void) {
    make_pieces();
    for (int kind = 0; kind < KINDS; kind++) {
        buffer json = make_json(kind, false);
        put_file(&json, work, "words.json");
        llama *m = open_with(rows_of(), in_work("words.json"));
        free(json.at);
        for (size_t i = 0; m && i < sizeof splits / sizeof *splits; i++) {
            char text[256];
            int32_t want[256];
            size_t n = 0, count = 0;
            for (const char *word = splits[i].words, *end; word; word = *end ? end + 1 : NULL) {
                end = strchr(word, '|') ? strchr(word, '|') : word + strlen(word);
                if (end > word) count = naive_word(word, (size_t)(end - word), kind == LLAMA3, want, count);
                memcpy(text + n, word, (size_t)(end - word));
                n += (size_t)(end - word);
            }
            if (splits[i].kinds & 1 << kind) check(same_tokens(m, text, n, 0, want, count), "kind %d: %s", kind, splits[i].words);
        }
        llama_close(m);
    }
}

/* Random texts have the same tokens in every form, and come back. */
static void test_forms(void) {
    enum { TEXTS = 2000 };
    make_pieces();
    buffer forms[] = {make_json(LLAMA3, false), make_json(LLAMA3, true), make_tiktoken(), make_gguf("llama-bpe", n_pieces + 2), make_gguf("llama3", n_pieces + 2)};
    enum { FORMS_HERE = sizeof forms / sizeof *forms };
    static const char *const names[] = {"forms.json", "pairs.json", "forms.model", "forms.gguf", "llama3.gguf"};
    llama *m[FORMS_HERE] = {0};
    llama_error err;
    for (int i = 0; i < FORMS_HERE; i++) {
        put_file(&forms[i], work, names[i]);
        free(forms[i].at);
        if (i < 3) m[i] = open_with(rows_of(), in_work(names[i]));
        else check(llama_open(&m[i], in_work(names[i]), NULL, &err) == LLAMA_OK, "%s: %s", names[i], err.text);
        if (!m[i]) return;
        llama_info info = {.size = sizeof info};
        llama_describe(m[i], &info);
        check(info.bos == n_pieces && info.add_bos && llama_eos(m[i]) == (i == 2 ? n_pieces + 1 : -1), "%s: bos %d, eos %d", names[i], (int)info.bos, (int)llama_eos(m[i]));
    }
    uint64_t seed = 1;
    for (int t = 0; t < TEXTS; t++) {
        char text[128];
        int32_t want[130], got[130];
        size_t n = 0;
        for (seed = seed * 6364136223846793005u + 1442695040888963407u, n = seed >> 40 & 63; n > 0 && (seed >> 33) % 97 == 0; n--) {}
        for (size_t k = 0; k < n; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[k] = (seed >> 60) ? pair_bytes[(seed >> 33) % N_PAIRED] : (char)(seed >> 33);
        }
        if (t % 8 == 0) memcpy(text, "lSlSl ", 6), n = n < 6 ? 6 : n;
        ptrdiff_t count = llama_text_to_tokens(m[0], text, n, LLAMA_ADD_BOS, want, 130);
        for (int i = 1; i < FORMS_HERE; i++) {
            ptrdiff_t k = llama_text_to_tokens(m[i], text, n, LLAMA_ADD_BOS, got, 130);
            check(k == count && count > 0 && memcmp(got, want, (size_t)count * sizeof *got) == 0, "%s: text %d", names[i], t);
        }
        size_t bytes = 0; /* pieces give the text back to the byte, UTF-8 or not */
        bool same = true;
        for (ptrdiff_t i = 1; i < count; i++) {
            size_t length = 0;
            const char *piece = llama_token_text(m[0], want[i], &length);
            same &= bytes + length <= n && memcmp(text + bytes, piece, length) == 0;
            bytes += length;
        }
        check(same && bytes == n, "text %d comes back", t);
        check(llama_text_to_tokens(m[0], text, n, 0, got, (size_t)count / 2) == count - 1, "text %d: the count does not depend on the room", t);
    }
    for (int i = 0; i < FORMS_HERE; i++) llama_close(m[i]);
}

/* A long text, whose words are cached, has the tokens of its lines. */
static void test_cache(void) {
    make_pieces();
    buffer json = make_json(DIGITS, false), text = {0};
    put_file(&json, work, "cache.json");
    llama *m = open_with(rows_of(), in_work("cache.json"));
    int32_t *want = must_alloc(400000 * sizeof *want), *got = must_alloc(400000 * sizeof *got);
    size_t count = 0;
    for (int i = 0; m && i < 10000; i++) {
        char word[32];
        int length = snprintf(word, sizeof word, "a%c%c%c%c%c", "sabl"[i % 4], "blaS"[i / 4 % 4], "SSab"[i / 16 % 4], "lab "[i / 64 % 4], "bSl!"[i / 256 % 4]);
        ptrdiff_t k = llama_text_to_tokens(m, word, (size_t)length, 0, want + count, 64);
        put(&text, word, (size_t)length);
        put_text(&text, "1");
        count += (size_t)k;
        want[count++] = rank_of("1", 1);
    }
    check(m && same_tokens(m, (char *)text.at, text.n, 0, want, count), "words that come again");
    for (size_t room = 0; m && room < 3000; room += 997) { /* the cache reads only what was written */
        memset(got, 0xff, 4000 * sizeof *got);
        check(llama_text_to_tokens(m, (char *)text.at, text.n, 0, got, room) == (ptrdiff_t)count, "the count with room for %zu", room);
        check(memcmp(got, want, room * sizeof *got) == 0 && got[room] == -1, "tokens with room for %zu", room);
    }
    llama_close(m);
    free(json.at), free(text.at), free(want), free(got);
}

/* ---- Special tokens ---- */

static buffer replaced(const buffer *b, const char *from, const char *to) {
    buffer out = {0};
    const char *at = strstr((const char *)b->at, from);
    if (!check(at != NULL, "%s is there", from)) return out;
    put(&out, b->at, (size_t)(at - (const char *)b->at));
    put_text(&out, to);
    put_text(&out, at + strlen(from));
    return out;
}

static void test_special(void) {
    make_pieces();
    buffer json = make_json(LLAMA3, false), named;
    put(&json, "", 1);
    const int a = n_pieces + 2;
    char added[1024];
    /* tokens that overlap, one with white space around it, one that is not special, and "12!", which merges would form */
    snprintf(added, sizeof added, "\"added_tokens\": [{\"id\": %d, \"content\": \"<a>\", \"special\": true}, {\"id\": %d, \"content\": \"<a><b>\", \"special\": true}, "
             "{\"id\": %d, \"content\": \"a>S\", \"special\": true}, {\"id\": %d, \"content\": \"\xc3\xa9 s\", \"special\": false, \"rstrip\": true}, {\"id\": %d, \"content\": \"ab\", \"special\": true}, ",
             a, a + 1, a + 2, a + 3, rank_of("ab", 2));
    named = replaced(&json, "\"added_tokens\": [", added);
    put_file(&(buffer){named.at, named.n, 0}, work, "special.json");
    llama *m = open_with(rows_of(), in_work("special.json"));
    if (!m) return;
    const struct {
        const char *text;
        int32_t ids[8];
        size_t n;
    } cases[] = {{"<a>", {a}, 1}, {"<a><b>", {a + 1}, 1}, {"<a><a><b><", {a, a + 1, rank_of("<", 1)}, 3}, {"aa>S", {rank_of("a", 1), a + 2}, 2}, {"<<a>", {rank_of("<", 1), a}, 2},
                 {"1\xc3\xa9 s \n2", {rank_of("1", 1), a + 3, rank_of("2", 1)}, 3}, {"ab", {rank_of("ab", 2)}, 1}, {"<|begin_of_text|>1", {n_pieces, rank_of("1", 1)}, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(same_tokens(m, cases[i].text, strlen(cases[i].text), LLAMA_SPECIAL, cases[i].ids, cases[i].n), "special tokens of %s", cases[i].text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { /* as data no text becomes one of them */
        int32_t ids[64];
        ptrdiff_t n = llama_text_to_tokens(m, cases[i].text, strlen(cases[i].text), 0, ids, 64);
        for (ptrdiff_t k = 0; k < n; k++) check(ids[k] < n_pieces && ids[k] != rank_of("ab", 2), "%s as data has token %d", cases[i].text, (int)ids[k]);
    }
    const int32_t halves[] = {rank_of("\xc3", 1), n_pieces, rank_of("\xa9", 1)}; /* a character around a token without text */
    for (int special = 0; special < 2; special++) {
        buffer text = text_of(m, halves, 3, special);
        check(special ? is_text(&text, "\xef\xbf\xbd<|begin_of_text|>\xef\xbf\xbd", 23) : is_text(&text, "\xc3\xa9", 2), "a character around a special token: %.*s", (int)text.n, (char *)text.at);
        free(text.at);
    }
    const int32_t bytes[] = {rank_of("\xf0", 1), rank_of("\x9f", 1), rank_of("\x99", 1), rank_of("a", 1), rank_of("\xe0", 1), rank_of("\x80", 1)};
    buffer text = text_of(m, bytes, 6, false); /* the longest beginning of a character is one U+FFFD */
    check(is_text(&text, "\xef\xbf\xbd" "a\xef\xbf\xbd\xef\xbf\xbd", 10), "beginnings of characters: %.*s", (int)text.n, (char *)text.at);
    free(text.at);
    text = text_of(m, bytes, 3, false); /* also at the end */
    check(is_text(&text, "\xef\xbf\xbd", 3), "a beginning at the end: %.*s", (int)text.n, (char *)text.at);
    free(text.at);
    llama_close(m);
    free(json.at), free(named.at);

    /* A control piece of GGUF is not made from data, neither as a word nor by merges */
    static const char *const controls[] = {"lSlSl", "ab"};
    for (int i = 0; i < 2; i++) {
        const int id = rank_of(controls[i], strlen(controls[i]));
        const size_t types = sizeof "tokenizer.ggml.token_type" - 1 + 16;
        int32_t ids[16];
        llama_error err;
        buffer gguf = make_gguf("llama-bpe", n_pieces + 2);
        unsigned char *at = memmem(gguf.at, gguf.n, "tokenizer.ggml.token_type", types - 16);
        at[types + 4 * (size_t)id] = 3;
        put_file(&gguf, work, "special.gguf");
        m = NULL;
        check(llama_open(&m, in_work("special.gguf"), NULL, &err) == LLAMA_OK, "a control piece: %s", err.text);
        ptrdiff_t n = llama_text_to_tokens(m, controls[i], strlen(controls[i]), 0, ids, 16);
        check(n > 1, "%s as data is %td tokens", controls[i], n);
        n = llama_text_to_tokens(m, controls[i], strlen(controls[i]), LLAMA_SPECIAL, ids, 16);
        check(n == 1 && ids[0] == id, "%s as a special token is %td tokens", controls[i], n);
        llama_close(m);
        free(gguf.at);
    }

    /* Llama 3.1's names, which tokenizer.model does not have; a file beside it may change them */
    buffer tiktoken = make_tiktoken();
    put_file(&tiktoken, work, "special.model");
    m = open_with(rows_of(), in_work("special.model"));
    static const char *const names[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>",
                                        "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_3|>"};
    for (int i = 0; m && i < SPECIALS; i++) {
        char name[64];
        size_t n = 0;
        const char *got = llama_token_text(m, n_pieces + i, &n);
        if (i < 12) snprintf(name, sizeof name, "%s", names[i]);
        else snprintf(name, sizeof name, "<|reserved_special_token_%d|>", i - 8);
        check(strlen(name) == n && memcmp(got, name, n) == 0, "special token %d is %.*s", i, (int)n, got);
        check(llama_is_end(m, n_pieces + i) == (i == 1 || i == 8 || i == 9), "special token %d ends a text", i);
    }
    llama_close(m);
    free(tiktoken.at);
}

/* ---- What is published beside the weights ---- */

/* Copies a text in which ids 128000 and up, Llama 3's special tokens, become those of our pieces. */
static buffer our_ids(const char *text) {
    buffer b = {0};
    for (char number[16]; *text; text++)
        if (strncmp(text, "1280", 4) == 0) {
            snprintf(number, sizeof number, "%d", n_pieces + atoi(text) - 128000);
            put_text(&b, number), text += 5;
        } else put(&b, text, 1);
    return b;
}

#define TOKEN(id, text) "\"" id "\": {\"content\": \"" text "\", \"lstrip\": false, \"normalized\": false, \"rstrip\": false, \"single_word\": false, \"special\": true}"
#define OBJECT(text) "{\"__type\": \"AddedToken\", \"content\": \"" text "\", \"lstrip\": false, \"normalized\": true, \"rstrip\": false, \"single_word\": false}"
#define LLAMA3_CONFIG(factor) "\"attention_bias\": false, \"bos_token_id\": 128000, \"eos_token_id\": [128001, 128008, 128009], \"initializer_range\": 0.02, \"mlp_bias\": false, " \
    "\"pretraining_tp\": 1, \"rope_scaling\": {\"factor\": " factor ", \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, " \
    "\"rope_theta\": 500000.0, \"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.42.3\", \"use_cache\": true, "
#define LLAMA3_GENERATION "{\"bos_token_id\": 128000, \"do_sample\": true, \"eos_token_id\": [128001, 128008, 128009], \"temperature\": 0.6, \"top_p\": 0.9, \"transformers_version\": \"4.42.3\"}"
#define LLAMA3_TOKENIZER "{\"added_tokens_decoder\": {" TOKEN("128000", "<|begin_of_text|>") ", " TOKEN("128009", "<|eot_id|>") "}, \"bos_token\": \"<|begin_of_text|>\", \"chat_template\": \"{{- bos_token }}\", " \
    "\"clean_up_tokenization_spaces\": true, \"eos_token\": \"<|eot_id|>\", \"model_input_names\": [\"input_ids\", \"attention_mask\"], \"model_max_length\": 131072, \"tokenizer_class\": \"PreTrainedTokenizerFast\"}"
#define LLAMA3_CHAT "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
#define LLAMA2_CONFIG "\"_name_or_path\": \"x\", \"bos_token_id\": 1, \"eos_token_id\": 2, \"initializer_range\": 0.02, \"pretraining_tp\": 1, \"rope_scaling\": null, \"torch_dtype\": \"float16\", \"use_cache\": true, "
#define LLAMA2_GENERATION "{\"bos_token_id\": 1, \"do_sample\": true, \"eos_token_id\": 2, \"pad_token_id\": 0, \"temperature\": 0.6, \"max_length\": 4096, \"top_p\": 0.9}"
#define LLAMA2_TOKENIZER "\"clean_up_tokenization_spaces\": false, \"model_max_length\": 1000000000000000019884624838656, \"pad_token\": null, \"padding_side\": \"right\", \"sp_model_kwargs\": {}, " \
    "\"chat_template\": \"{% if messages[0]['role'] == 'system' %}\", \"add_bos_token\": true, \"add_eos_token\": false, "

/* The texts of config.json (beside the shape), generation_config.json and tokenizer_config.json as they are published. */
static void test_published(void) {
    enum { TIKTOKEN, SMOL, SENTENCEPIECE };
    static const struct {
        const char *name, *config, *generation, *tokenizer;
        int kind;
        float theta, factor;
        int ends[3];     /* 0: no more. Here and in `special`, of byte-level vocabularies, from n_pieces on */
        const char *chat;
        int special[6];  /* the special tokens of the chat, after which comes -1 */
    } models[] = {
        {"Llama 3.1 8B Instruct", LLAMA3_CONFIG("8.0"), LLAMA3_GENERATION, LLAMA3_TOKENIZER, TIKTOKEN, 5e5f, 8, {1, 8, 9}, LLAMA3_CHAT, {0, 6, 7, 9, 6, 7}},
        {"Llama 3.2 1B Instruct", LLAMA3_CONFIG("32.0") "\"head_dim\": 4, ", LLAMA3_GENERATION, LLAMA3_TOKENIZER, TIKTOKEN, 5e5f, 32, {1, 8, 9}, LLAMA3_CHAT, {0, 6, 7, 9, 6, 7}},
        {"SmolLM2 135M Instruct", "\"attention_bias\": false, \"attention_dropout\": 0.0, \"bos_token_id\": 128000, \"eos_token_id\": 128001, \"is_llama_config\": true, \"pad_token_id\": 128001, "
         "\"rope_interleaved\": false, \"rope_scaling\": null, \"rope_theta\": 100000, \"transformers.js_config\": {\"kv_cache_dtype\": {\"q4f16\": \"float16\"}}, ",
         "{\"_from_model_config\": true, \"bos_token_id\": 128000, \"eos_token_id\": 128001, \"pad_token_id\": 128001}",
         "{\"add_prefix_space\": false, \"added_tokens_decoder\": {" TOKEN("128000", "<|im_start|>") ", " TOKEN("128001", "<|im_end|>") "}, \"additional_special_tokens\": [\"<|im_start|>\", \"<|im_end|>\"], "
         "\"bos_token\": \"<|im_start|>\", \"eos_token\": \"<|im_end|>\", \"pad_token\": \"<|im_end|>\", \"tokenizer_class\": \"GPT2Tokenizer\", \"vocab_size\": 49152}",
         SMOL, 1e5f, 1, {1}, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", {0, 1, 0, -1}},
        {"TinyLlama chat", LLAMA2_CONFIG "\"rope_theta\": 10000.0, \"attention_bias\": false, ", "{\"bos_token_id\": 1, \"eos_token_id\": 2, \"max_length\": 2048, \"pad_token_id\": 0}",
         "{" LLAMA2_TOKENIZER "\"added_tokens_decoder\": {" TOKEN("0", "<unk>") ", " TOKEN("1", "<s>") ", " TOKEN("2", "</s>") "}, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"legacy\": false, \"unk_token\": \"<unk>\"}",
         SENTENCEPIECE, 1e4f, 1, {2}, "<|user|>\na</s>\n<|assistant|>\n", {1, 2, -1}},
        {"Code Llama", LLAMA2_CONFIG "\"rope_theta\": 1000000, ", "{\"_from_model_config\": true, \"bos_token_id\": 1, \"eos_token_id\": 2}",
         "{" LLAMA2_TOKENIZER "\"bos_token\": " OBJECT("<s>") ", \"eos_token\": " OBJECT("</s>") ", \"eot_token\": \"\xe2\x96\x81<EOT>\", \"fill_token\": \"<FILL_ME>\", \"legacy\": null, \"middle_token\": \"\xe2\x96\x81<MID>\", \"unk_token\": " OBJECT("<unk>") "}",
         SENTENCEPIECE, 1e6f, 1, {2}, "def a():", {1, -1}},
        {"Llama 2 chat", LLAMA2_CONFIG, LLAMA2_GENERATION, "{" LLAMA2_TOKENIZER "\"bos_token\": " OBJECT("<s>") ", \"eos_token\": " OBJECT("</s>") ", \"legacy\": false, \"unk_token\": " OBJECT("<unk>") "}",
         SENTENCEPIECE, 1e4f, 1, {2}, "<s>[INST] a [/INST] b </s><s>[INST] ", {1, 2, 1, -1}},
    };
    make_pieces();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const bool bytes = models[i].kind != SENTENCEPIECE;
        const int first = bytes ? n_pieces : 0, rows = models[i].kind == TIKTOKEN ? rows_of() : models[i].kind == SMOL ? n_pieces + 2 : 1024;
        const char *folder = in_work(models[i].name);
        model_spec spec = {.dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 8, .vocab = (size_t)rows, .shards = 1};
        model_write_as(&spec, SAFETENSORS, folder);
        char path[2048];
        snprintf(path, sizeof path, "%.2000s/config.json", folder);
        char *shape = read_file(path, NULL);
        buffer all = {0}, smol = make_json(DIGITS, false), renamed = {0};
        put_text(&all, "{"), put_text(&all, models[i].config), put_text(&all, shape + 1), put(&all, "", 1);
        put(&smol, "", 1);
        renamed = replaced(&smol, "<|begin_of_text|>", "<|im_start|>"), put(&renamed, "", 1);
        buffer tokens = models[i].kind == TIKTOKEN ? make_tiktoken() : replaced(&renamed, "<|end_of_text|>", "<|im_end|>");
        size_t n = 0;
        if (!bytes) tokens.at = (unsigned char *)read_file("tests/tiny/tokenizer.model", &n), tokens.n = n;
        buffer files[] = {our_ids((const char *)all.at), our_ids(models[i].generation), our_ids(models[i].tokenizer)};
        put_file(&files[0], folder, "config.json"), put_file(&files[1], folder, "generation_config.json"), put_file(&files[2], folder, "tokenizer_config.json");
        put_file(&tokens, folder, models[i].kind == SMOL ? "tokenizer.json" : "tokenizer.model");
        llama *m = NULL;
        llama_error err;
        llama_info info = {.size = sizeof info};
        check(llama_open(&m, folder, NULL, &err) == LLAMA_OK, "%s: %s", models[i].name, err.text);
        if (m) llama_describe(m, &info);
        check(m && info.rope_theta == models[i].theta && info.rope_factor == models[i].factor, "%s: theta %g, factor %g", models[i].name, (double)info.rope_theta, (double)info.rope_factor);
        for (int id = 0; id < rows; id++) {
            bool ends = false;
            for (int k = 0; k < 3; k++) ends |= models[i].ends[k] && id == first + models[i].ends[k];
            if (llama_is_end(m, id) != ends) check(false, "%s: token %d ends a text, or does not", models[i].name, id);
        }
        int32_t ids[256];
        int k = 0;
        ptrdiff_t count = m ? llama_text_to_tokens(m, models[i].chat, strlen(models[i].chat), LLAMA_ADD_BOS | LLAMA_SPECIAL, ids, 256) : 0;
        for (ptrdiff_t t = 0; t < count; t++)
            if (bytes ? ids[t] >= first : ids[t] <= 2) check(k < 6 && ids[t] == first + models[i].special[k], "%s: special token %d of its chat is %d", models[i].name, k, (int)ids[t]), k++;
        check(k == 6 || models[i].special[k] == -1, "%s: its chat has %d special tokens", models[i].name, k);
        llama_close(m);
        for (int f = 0; f < 3; f++) free(files[f].at);
        free(shape), free(all.at), free(smol.at), free(renamed.at), free(tokens.at);
    }
}

/* ---- Hostile files ---- */

static void refused(const char *name, const buffer *file, int rows, const char *says) {
    llama *m = NULL;
    llama_error err = {0};
    llama_options o = {.size = sizeof o, .tokenizer = in_work("hostile"), .allocator = &dirty};
    put_file(file, work, "hostile");
    int status = llama_open(&m, model_of(rows), &o, &err);
    check(says ? status == LLAMA_EFORMAT && strstr(err.text, says) : status == LLAMA_OK, "%s: %d, %s", name, status, err.text);
    llama_close(m);
}

static void test_hostile(void) {
    make_pieces();
    static const struct {
        const char *name, *from, *to, *says; /* says NULL: it opens */
    } bends[] = {
        {"sound", "null", "null", NULL},
        {"a merge that names itself", "\"merges\": [", "\"merges\": [\"ab \", ", "merge of texts that are not pieces"},
        {"a merge of a piece and nothing", "\"merges\": [", "\"merges\": [[\"ab\", \"\"], ", "merge of texts that are not pieces"},
        {"a merge of nothing and a piece", "\"merges\": [", "\"merges\": [[\"\", \"ab\"], ", "merge of texts that are not pieces"},
        {"a merge that forms no piece", "\"merges\": [", "\"merges\": [\"ab SS\", ", "merge of texts that are not pieces"},
        {"a merge of no pieces", "\"merges\": [", "\"merges\": [\"ab abz\", ", "merge of texts that are not pieces"},
        {"a merge of three", "\"merges\": [", "\"merges\": [\"a b a\", ", "merge of texts that are not pieces"},
        {"a merge that is a number", "\"merges\": [", "\"merges\": [7, ", "merge that is not two pieces"},
        {"a merge of one text", "\"merges\": [", "\"merges\": [\"ab\", ", "merge that is not two pieces"},
        {"a merge twice", "\"merges\": [", "\"merges\": [\"a b\", ", "same merge twice"},
        {"a merge with a space that is no letter", "\"merges\": [", "\"merges\": [[\"a\", \" \"], ", "merge of texts that are not pieces"},
        {"half a surrogate pair in a merge", "\"merges\": [", "\"merges\": [\"\\ud83d a\", ", "surrogate"},
        {"a piece that is not in letters", "\"vocab\": {", "\"vocab\": {\"\xc3\xa9 \": 2000, ", "id that is not valid"},
        {"a space in a piece", "\"vocab\": {\"", "\"vocab\": {\"  x\": 0, \"", "two pieces of one id"},
        {"a byte that is missing", "\"Z\":", "\"ZSSS\":", "lacks the piece of some byte"},
        {"an added token that is a byte", "\"added_tokens\": [", "\"added_tokens\": [{\"id\": 0, \"content\": \"\\u0103\", \"special\": true}, ", "lacks the piece of some byte"},
        {"a normalizer", "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", "(normalizer), which is not supported"},
        {"a space in front", "\"add_prefix_space\": false", "\"add_prefix_space\": true", "add_prefix_space"},
        {"no word of a space in front", "\"add_prefix_space\": false, ", "", "whether a space goes in front of a text (add_prefix_space of its pre_tokenizer)"},
        {"an added token that is a word", "\"single_word\": false", "\"single_word\": true", "single_word, which is not supported; give the model's tokenizer.model or tokenizer.json; if this is it, the model cannot be used"},
        {"another expression", "(?i:'s|", "(?i:'x|", "(pre_tokenizer), which is not supported"},
        {"an expression that is a text", "\"Regex\": \"", "\"String\": \"", "(pre_tokenizer)"},
        {"an expression that is a number", "{\"Regex\": ", "{\"Regex\": 7, \"x\": ", "another type"},
        {"parts that are removed", "\"Isolated\"", "\"Removed\"", "(pre_tokenizer)"},
        {"parts without behaviour", "\"behavior\"", "\"behaving\"", "(pre_tokenizer)"},
        {"parts that do not match", "\"invert\": false", "\"invert\": true", "(pre_tokenizer)"},
        {"a flag that is a text", "\"invert\": false", "\"invert\": \"false\"", "another type"},
        {"words are split twice", "\"use_regex\": false", "\"use_regex\": true", "(pre_tokenizer)"},
        {"another pre_tokenizer", "\"type\": \"Split\"", "\"type\": \"Punctuation\"", "(pre_tokenizer)"},
        {"two splits", "\"pretokenizers\": [", "\"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, ", "(pre_tokenizer)"},
        {"many splits", "\"pretokenizers\": [", "\"pretokenizers\": [{\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, {\"type\": \"Digits\"}, ", "(pre_tokenizer)"},
        {"another decoder", "\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"WordPiece\"", "(decoder)"},
        {"no decoder", "\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"typo\": \"ByteLevel\"", "(decoder)"},
        {"another processor", "\"type\": \"TemplateProcessing\"", "\"type\": \"BertProcessing\"", "(post_processor)"},
        {"two tokens in front", "\"single\": [", "\"single\": [{\"SpecialToken\": {\"id\": \"<|end_of_text|>\"}}, ", "several tokens around"},
        {"a text in a text", "\"single\": [", "\"single\": [{\"Sequence\": {\"id\": \"B\"}}, ", "other texts into a text"},
        {"no text", "{\"Sequence\": {\"id\": \"A\"", "{\"Sequins\": {\"id\": \"A\"", "leaves the text out"},
        {"a token that is not there", "{\"SpecialToken\": {\"id\": \"<|begin_of_text|>\"", "{\"SpecialToken\": {\"id\": \"<|begin|>\"", "other tokens around"},
        {"another id of it", "\"ids\": [", "\"ids\": [1", "other tokens around"},
        {"several ids of it", "\"ids\": [", "\"ids\": [1, 2, ", "several tokens around"},
        {"ids of others", "\"special_tokens\": {", "\"special_tokens\": {\"<|x|>\": {\"ids\": [1]}, \"<|y|>\": {\"ids\": [2]}, \"<|z|>\": {\"ids\": [3]}, ", NULL},
        {"no merges", "\"merges\": [", "\"mergers\": [", "has pieces and no merges"},
        {"an empty list of merges", "\"merges\": [", "\"merges\": [], \"mergers\": [", "has pieces and no merges"},
        {"merges that are a text", "\"merges\": [", "\"merges\": \"a b\", \"mergers\": [", "has pieces and no merges"},
        {"merges that are null", "\"merges\": [", "\"merges\": null, \"mergers\": [", "has pieces and no merges"},
        {"not BPE", "\"type\": \"BPE\"", "\"type\": \"Unigram\"", "not BPE"},
        {"dropout", "\"dropout\": null", "\"dropout\": 0.5", "dropout"},
        {"no vocabulary", "\"vocab\"", "\"vocal\"", "lacks the piece of some id"},
        {"no model", "\"model\"", "\"modal\"", "is not a tokenizer"},
        {"cut short", "]}}", "]}", "not JSON"},
    };
    buffer json = make_json(LLAMA3, false), file;
    put(&json, "", 1);
    for (size_t i = 0; i < sizeof bends / sizeof *bends; i++) {
        file = replaced(&json, bends[i].from, bends[i].to);
        refused(bends[i].name, &file, rows_of(), bends[i].says);
        free(file.at);
    }
    refused("more pieces than the model", &(buffer){json.at, json.n - 1, 0}, n_pieces - 1, "more pieces than the model has tokens");
    free(json.at);
    json = make_json(DIGITS, true);
    put(&json, "", 1);
    file = replaced(&json, "\"individual_digits\": true", "\"individual_digits\": false");
    refused("digits together", &file, rows_of(), "(pre_tokenizer)");
    free(json.at), free(file.at);

    static const struct {
        const char *name, *from, *to, *says;
    } lines[] = {
        {"a sound one", "", "", NULL},
        {"ranks out of order", " 1\n", " 2\n", "not base64, a space and the line's number"},
        {"a rank that is no number", " 1\n", " 1a\n", "line's number"},
        {"a rank with a zero in front", " 1\n", " 01\n", "line's number"},
        {"a rank of 2^64", " 1\n", " 18446744073709551617\n", "line's number"},
        {"a line without a rank", " 1\n", "\n", "line's number"},
        {"a sign that base64 has not", "Cg== 1\n", "C-== 1\n", "line's number"},
        {"padding in front", "Cg== 1\n", "=Cg= 1\n", "line's number"},
        {"padding of three", "Cg== 1\n", "C=== 1\n", "line's number"},
        {"no padding", "Cg== 1\n", "Cg 1\n", "line's number"},
        {"padding of six", "Cg== 1\n", "Cg====== 1\n", "line's number"},
        {"bits after the bytes", "Cg== 1\n", "Ch== 1\n", "line's number"},
        {"an empty piece", "Cg== 1\n", " 1\n", "line's number"},
        {"a piece twice", "Cg== 1\n", "Aw== 1\n", "two ids to one text"},
        {"a byte that is missing", "Cg== 1\n", "AAAA 1\n", "lacks the piece of some byte"},
        {"the end of a line of Windows", " 1\n", " 1\r\n", NULL},
        {"an empty line", " 1\n", " 1\n\n", NULL},
        {"a space at the end of a line", " 1\n", " 1 \n", "line's number"},
        {"two ranks", " 1\n", " 1 1\n", "line's number"},
        {"a special token's name", "Cg== 1\n", "PHxlb3RfaWR8Pg== 1\n", "lacks the piece of some byte"},
        {"a first line that is malformed", "Aw== 0\n", "Aw==  0\n", "is not a SentencePiece model"},
    };
    buffer tiktoken = make_tiktoken();
    put(&tiktoken, "", 1);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        file = replaced(&tiktoken, lines[i].from, lines[i].to);
        refused(lines[i].name, &file, rows_of(), lines[i].says);
        free(file.at);
    }
    tiktoken.n--; /* the 0 */
    file = (buffer){0};
    for (size_t i = 0; i < tiktoken.n; i++) put(&file, tiktoken.at[i] == '\n' ? "\r\n" : (char *)tiktoken.at + i, tiktoken.at[i] == '\n' ? 2 : 1);
    refused("Windows' lines", &file, rows_of(), NULL);
    put_text(&file, "\r\n\n");
    refused("empty lines at the end", &file, rows_of(), NULL);
    free(file.at);
    tiktoken.n--;
    refused("no newline at the end", &tiktoken, rows_of(), NULL);
    refused("another number of special tokens", &tiktoken, rows_of() + 1, "256 fewer than the model's tokens");
    tiktoken.n -= 4;
    refused("cut in its last line", &tiktoken, rows_of(), "line's number");
    free(tiktoken.at);

    const struct {
        const char *name, *from;
        const void *to;
        size_t skip, n;
        const char *says;
    } keys[] = {
        {"merges without one", "tokenizer.ggml.merges", "X", 0, 1, "missing, differ in number"},
        {"types without one", "tokenizer.ggml.token_type", "X", 0, 1, "missing, differ in number"},
        {"a piece of type unknown", "tokenizer.ggml.token_type", "\2", sizeof "tokenizer.ggml.token_type" - 1 + 16, 1, "types that byte-level BPE does not have"},
        {"a byte piece", "tokenizer.ggml.token_type", "\6", sizeof "tokenizer.ggml.token_type" - 1 + 16, 1, "types that byte-level BPE does not have"},
        {"a byte that is a control piece", "tokenizer.ggml.token_type", "\3", sizeof "tokenizer.ggml.token_type" - 1 + 16, 1, "lacks the piece of some byte"},
        {"merges that are numbers", "tokenizer.ggml.merges", "\0", sizeof "tokenizer.ggml.merges" - 1 + 4, 1, ""},
        {"10^7 merges", "tokenizer.ggml.merges", "\x80\x96\x98\0", sizeof "tokenizer.ggml.merges" - 1 + 8, 4, "list of keys is damaged"},
        {"2^62 merges", "tokenizer.ggml.merges", "\0\0\0\0\0\0\0\x40", sizeof "tokenizer.ggml.merges" - 1 + 8, 8, "list of keys is damaged"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        buffer gguf = make_gguf("smollm", n_pieces + 2);
        unsigned char *at = memmem(gguf.at, gguf.n, keys[i].from, strlen(keys[i].from));
        memcpy(at + keys[i].skip, keys[i].to, keys[i].n);
        put_file(&gguf, work, "hostile.gguf");
        llama *m = NULL;
        llama_error err = {0};
        check(llama_open(&m, in_work("hostile.gguf"), NULL, &err) == LLAMA_EFORMAT && strstr(err.text, keys[i].says), "GGUF, %s: %s", keys[i].name, err.text);
        free(gguf.at);
    }
    static const char *const pres[] = {"smollm", "gpt-2", "llama-v3", "default", "qwen2", NULL};
    for (int i = 0; i < 6; i++) {
        buffer gguf = make_gguf(pres[i], n_pieces + 2);
        put_file(&gguf, work, "hostile.gguf");
        llama *m = NULL;
        llama_error err = {0};
        llama_info info = {.size = sizeof info};
        int status = llama_open(&m, in_work("hostile.gguf"), NULL, &err);
        check(i < 3 ? status == LLAMA_OK : status == LLAMA_EFORMAT && strstr(err.text, "has the tokenizer.ggml.pre '"), "pre is %s: %s", pres[i], err.text);
        if (m) llama_describe(m, &info);
        check(info.add_bos == (i == 2), "pre is %s: BOS", pres[i]); /* if the file does not say */
        check(!m || (!llama_is_end(m, 2) && llama_eos(m) == -1), "pre is %s: an end that the file does not name", pres[i]);
        llama_close(m);
        free(gguf.at);
    }
}

/* Merges that a hash table would have in one place. The hash is that of tokenizer.c. */
static void test_collisions(void) {
    enum { LONGEST = 900, MERGES = 1350, SLOTS = 2048, WINDOW = 8 };
    buffer b = {0};
    char as[LONGEST + 1], text[64];
    memset(as, 'a', LONGEST);
    put_text(&b, "{\"pre_tokenizer\": ");
    put_text(&b, splitters[GPT2]);
    put_text(&b, ", \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (int i = 0; i < 255 + LONGEST; i++) { /* ids 0 ..: a, aa, aaa, ..., then the other bytes */
        put_text(&b, i ? ", \"" : "\"");
        if (i < LONGEST) put(&b, as, (size_t)i + 1);
        else put_letters(&b, &(char){(char)(i - LONGEST + (i - LONGEST >= 'a'))}, 1, true, true);
        snprintf(text, sizeof text, "\": %d", i);
        put_text(&b, text);
    }
    put_text(&b, "}, \"merges\": [");
    int count = 0;
    for (int i = 0; i < LONGEST; i++)
        for (int k = 0; i + k + 2 <= LONGEST && count < MERGES; k++) {
            uint64_t h = ((uint64_t)i << 32 | (uint64_t)k) * 0x9e3779b97f4a7c15;
            if (((h ^ h >> 32) * 0xd6e8feb86659fd93 >> 24) % SLOTS >= WINDOW) continue;
            put_text(&b, count++ ? ", \"" : "\"");
            put(&b, as, (size_t)i + 1), put_text(&b, " "), put(&b, as, (size_t)k + 1);
            put_text(&b, "\"");
        }
    put_text(&b, "]}}");
    check(count == MERGES, "%d merges in one place", count);
    refused("merges in one place", &b, 255 + LONGEST, "made to collide");
    free(b.at);
}

/* All texts of a and b up to so many letters are pieces, and every division of them is a merge: as strings and as pairs, in turn.
 * 4.1 million, as many as fit into a file of 64 MB or nearly, take 7 s and 330 MB on a slow core. */
static void test_many_merges(void) {
    const int longest = test_quick ? 11 : 15;
    buffer b = {0};
    int rows = 256;
    size_t merges = 0;
    char text[64], letters[32] = "";
    put_text(&b, "{\"pre_tokenizer\": ");
    put_text(&b, splitters[GPT2]);
    put_text(&b, ", \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (int i = 0; i < 256; i++) {
        put_text(&b, i ? ", \"" : "\"");
        put_letters(&b, &(char){(char)i}, 1, true, true);
        snprintf(text, sizeof text, "\": %d", i);
        put_text(&b, text);
    }
    for (int part = 0; part < 2; part++) { /* the pieces, then the merges */
        for (int n = 2; n <= longest; n++)
            for (int i = 0; i < 1 << n; i++) {
                for (int k = 0; k < n; k++) letters[k] = i >> k & 1 ? 'a' : 'b';
                if (part == 0) snprintf(text, sizeof text, ",\"%.*s\":%d", n, letters, rows++), put_text(&b, text);
                for (int cut = 1; part == 1 && cut < n; cut++, merges++) {
                    const char *between = merges % 2 ? " " : "\",\"";
                    snprintf(text, sizeof text, "%s%s\"%.*s%s%.*s\"%s", merges ? "," : "", merges % 2 ? "" : "[", cut, letters, between, n - cut, letters + cut, merges % 2 ? "" : "]");
                    put_text(&b, text);
                }
            }
        put_text(&b, part == 0 ? "}, \"merges\": [" : "]}}");
    }
    put_file(&b, work, "many");
    double start = now();
    llama *m = open_with(rows, in_work("many"));
    printf("%zu merges in %zu bytes: opened in %.0f ms\n", merges, b.n, (now() - start) * 1e3);
    check(now() - start < 20, "%zu merges: took %.1f s", merges, now() - start);
    int32_t ids[64];
    ptrdiff_t count = m ? llama_text_to_tokens(m, "abbabaabbaababba abbaaabb", 25, 0, ids, 64) : 0;
    buffer back = text_of(m, ids, count > 0 && count <= 64 ? (size_t)count : 0, false);
    check(m && count > 0 && count < 10 && is_text(&back, "abbabaabbaababba abbaaabb", 25), "%zu merges: %td tokens", merges, count);
    llama_close(m);
    free(b.at), free(back.at);
    /* more than any file of its kind may have */
    char path[2048];
    snprintf(path, sizeof path, "%s", in_work("many"));
    check(truncate(path, (1 << 26) + 1) == 0, "a file of 64 MB and a byte");
    llama_error err = {0};
    llama_options o = {.size = sizeof o, .tokenizer = path};
    m = NULL;
    start = now();
    check(llama_open(&m, model_of(rows), &o, &err) == LLAMA_EFORMAT && strstr(err.text, "larger than any valid file"), "a file of 64 MB and a byte: %s", err.text);
    check(now() - start < 5, "a file of 64 MB and a byte: took %.1f s", now() - start);
    unlink(path);
}

/* ---- Time ---- */

static void timed(const llama *m, const char *name, const char *unit, size_t n, ptrdiff_t want) {
    size_t length = strlen(unit);
    char *text = must_alloc(n);
    for (size_t i = 0; i < n; i++) text[i] = unit[i % length];
    int32_t *ids = must_alloc(n * sizeof *ids);
    double start = now();
    ptrdiff_t count = llama_text_to_tokens(m, text, n, 0, ids, n);
    double took = now() - start;
    printf("%s: %zu bytes, %td tokens, %.0f ns a byte\n", name, n, count, took * 1e9 / (double)n);
    check(want < 0 || count == want, "%s: %td tokens, not %td", name, count, want);
    check(took < 5, "%s: took %.1f s", name, took);
    free(text), free(ids);
}

/* Vocabularies made to be slow: texts of one word, pieces whose merges follow from each other from end to end. */
static void test_time(void) {
    const size_t n = test_quick ? 1 << 17 : 1 << 20;
    static const struct {
        const char *name, *text;
    } units[] = {{"a", "a"}, {"ab", "ab"}, {"aab", "aab"}, {"abb", "abb"}, {"spaces", " "}, {"newlines", "\n"}, {"spaces and newlines", " \n"}, {"digits", "1"},
                 {"marks", "!"}, {"contractions", "'s"}, {"apostrophes", "'"}, {"e acute", "\xc3\xa9"}, {"invalid bytes", "\xff"}, {"words", "a "}, {"spaces and digits", "  1"}};
    for (int kind = 0; kind < 2; kind++) {
        n_pieces = 0;
        for (int i = 0; i < 256; i++) add_piece(&(char){(char)i}, 1);
        for (size_t i = 2; i < 64; i++) { /* a, aa, aaa, ... or ab, aab, aaab, ... in an order that merges the longest last */
            char text[64];
            memset(text, 'a', i);
            if (kind) text[i - 1] = 'b';
            add_piece(text, i);
        }
        buffer forms[] = {make_tiktoken(), make_json(DIGITS, false)};
        for (int f = 0; f < 2; f++) {
            put_file(&forms[f], work, "time");
            llama *m = open_with(rows_of(), in_work("time"));
            for (size_t u = 0; m && u < sizeof units / sizeof *units; u++) timed(m, units[u].name, units[u].text, n, -1);
            if (m && kind == 0) timed(m, "10,000 letters", "a", 10000, -1);
            llama_close(m);
            free(forms[f].at);
        }
    }
    /* powers of two: every merge makes two of the next */
    n_pieces = 0;
    for (int i = 0; i < 256; i++) add_piece(&(char){(char)i}, 1);
    char as[64];
    memset(as, 'a', sizeof as);
    for (size_t i = 2; i <= 64; i *= 2) add_piece(as, i);
    buffer file = make_json(GPT2, true);
    put_file(&file, work, "time");
    llama *m = open_with(rows_of(), in_work("time"));
    if (m) timed(m, "powers of two", "a", n, (ptrdiff_t)n / 64);
    llama_close(m);
    free(file.at);

    /* 10^7 merges */
    buffer json = make_json(GPT2, false), many = {0};
    put(&json, "", 1);
    char *at = strstr((char *)json.at, "\"merges\": [") + strlen("\"merges\": [");
    put(&many, json.at, (size_t)(at - (char *)json.at));
    for (int i = test_quick ? 100000 : 10000000; i > 0; i--) put_text(&many, "\"a a\",");
    put_text(&many, at);
    double start = now();
    refused("10^7 merges", &many, rows_of(), "same merge twice");
    check(now() - start < 20, "10^7 merges: took %.1f s", now() - start);
    free(json.at), free(many.at);
}

int main(int argc, char **argv) {
    static const test_case cases[] = {CASE(vectors), CASE(words), CASE(forms), CASE(cache), CASE(special), CASE(published), CASE(hostile), CASE(collisions), CASE(many_merges), CASE(time)};
    argc = tests_begin(argc, argv);
    if (argc < 2) return printf("bpe WORKDIR [FAMILY]\n"), 2;
    snprintf(work, sizeof work, "%s", argv[1]);
    family = argc > 2 ? argv[2] : "../shared/family";
    make_folder(work);
    RUN(cases);
    return tests_done("bpe");
}
