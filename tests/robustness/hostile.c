/* hostile.c - damaged and malicious files: each is refused with a line that names it, or opens; none
 * crashes, hangs or runs anything. Made here, from a small sound checkpoint.
 *
 *   hostile MODEL WORKDIR
 */
#include "../tools/checkpoint.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = 4300 }; /* a path */

static char folder[1024];
static const char *tiny_folder; /* tests/tiny */
static const model_spec spec = {.dim = 16, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1};

static void in_folder(const char *name, const buffer *b) {
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    check(write_file(path, b), "%s: cannot be written", path);
}

/* No file may make us take much more memory than it has bytes itself. */
static size_t taken, most_taken;
static void *counting_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    taken += bytes;
    if (taken > most_taken) most_taken = taken;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void counting_free(void *user, void *p, size_t bytes) {
    (void)user;
    taken -= bytes;
    free(p);
}

static size_t bytes_here(void) {
    size_t sum = 0;
    for (int i = -2; i < 60; i++) {
        char path[2048], name[32];
        struct stat st;
        snprintf(name, sizeof name, i == -2 ? "params.json" : i == -1 ? "tokenizer.model" : "consolidated.%02d.pth", i);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) sum += (size_t)st.st_size;
    }
    return sum;
}

/* Open, and if that works evaluate and close: the status, and in err why. */
static int try_open(llama_error *err) {
    llama *m = NULL;
    llama_session *s = NULL;
    llama_session_options o = {.size = sizeof o, .context = 8, .threads = 1};
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    llama_allocator counting = {NULL, counting_alloc, counting_free};
    llama_options options = {.size = sizeof options, .allocator = &counting};
    most_taken = 0;
    int status = llama_open(&m, folder, &options, err);
    check(most_taken <= 16 * bytes_here() + (1 << 20), "%zu bytes of memory for files of %zu", most_taken, bytes_here());
    if (status == LLAMA_OK) {
        check(llama_session_new(&s, m, &o, NULL) == LLAMA_OK, "session");
        llama_eval(s, 0, (int32_t[]){1, 2, 3}, 3);
        llama_session_free(s);
    } else
        check(m == NULL && err->status == status && strstr(err->text, folder) && !strchr(err->text, '\n'), "no line that names the file: %s", err->text);
    llama_close(m);
    check(taken == 0, "%zu bytes are left", taken);
    clock_gettime(CLOCK_MONOTONIC, &b);
    check(b.tv_sec - a.tv_sec <= 1, "took over a second");
    return status;
}

static void refuse(const char *what, int want, const char *says) {
    llama_error err;
    int status = try_open(&err);
    check(status == want && strstr(err.text, says), "%s: %d, %s", what, status, err.text);
}

/* ---- params.json ---- */

static void params_case(const char *text, int want, const char *says) {
    buffer b = {0};
    put_text(&b, text);
    in_folder("params.json", &b);
    llama_error err = {0, ""};
    int status = try_open(&err);
    check(status == want && strstr(err.text, says), "params.json %s: %d, %s", text, status, err.text);
    free(b.at);
}

static void test_params(void) {
    static const char good[] = "\"n_layers\": 2, \"n_heads\": 2, \"n_kv_heads\": 1, \"norm_eps\": 1e-5";
    char text[512];
#define PARAMS(format, want, says) (snprintf(text, sizeof text, format, good), params_case(text, want, says))
    PARAMS("{\"dim\": 16, %s}", LLAMA_OK, "");
    PARAMS("\t{\"dim\":16.0,\"vocab_size\":24,\"name\":\"a \\\" b\",\"flag\":true,\"x\":null, %s } \n", LLAMA_OK, "");
    PARAMS("{\"dim\": 16, \"ffn_dim_multiplier\": null, \"multiple_of\": 32, \"dim\": 16, %s}", LLAMA_EFORMAT, "hidden width is 64");
    PARAMS("{\"dim\": 16, \"multiple_of\": 32, \"ffn_dim_multiplier\": 0.75, %s}", LLAMA_OK, "");
    PARAMS("{\"dim\": 16, \"multiple_of\": 32, \"ffn_dim_multiplier\": 1.3, %s}", LLAMA_EFORMAT, "hidden width is 64");
    PARAMS("{\"dim\": 0, %s}", LLAMA_EFORMAT, "'dim'");
    PARAMS("{\"dim\": -16, %s}", LLAMA_EFORMAT, "'dim'");
    PARAMS("{\"dim\": 1e300, %s}", LLAMA_EFORMAT, "'dim'");
    PARAMS("{\"dim\": 16.5, %s}", LLAMA_EFORMAT, "'dim'");
    PARAMS("{\"dim\": \"16\", %s}", LLAMA_EFORMAT, "'dim'");
    PARAMS("{\"dim\": 18, %s}", LLAMA_EFORMAT, "RoPE");
    PARAMS("{\"dim\": 32, %s}", LLAMA_EFORMAT, "[24][16]");
    PARAMS("{\"dim\": 16, \"vocab_size\": 25, %s}", LLAMA_EFORMAT, "vocab_size is 25");
    PARAMS("{\"dim\": 16, \"rope_theta\": 0, %s}", LLAMA_EFORMAT, "rope_theta");
    PARAMS("{\"dim\": 16, \"use_scaled_rope\": true, %s}", LLAMA_OK, "");
    PARAMS("{\"dim\": 16, \"use_scaled_rope\": \"yes\", %s}", LLAMA_EFORMAT, "'use_scaled_rope' yes is not a setting");
    PARAMS("{\"dim\": 16, \"use_scaled_rope\": true, \"rope_scaling_factor\": 0, %s}", LLAMA_EFORMAT, "'rope_scaling_factor' must be");
    PARAMS("{\"dim\": 16, \"head_dim\": 7, %s}", LLAMA_EFORMAT, "head width is odd");
    PARAMS("{\"dim\": 16, \"head_dim\": 524288, %s}", LLAMA_EFORMAT, "fewer weights than the shape");
    PARAMS("{\"dim\": 16, \"head_dim\": 12, %s}", LLAMA_EFORMAT, "[24][16]");
    PARAMS("{\"dim\": 16, \"moe\": {\"experts\": 8}, %s}", LLAMA_EFORMAT, "'moe'");
    PARAMS("{\"dim\": 16, %s", LLAMA_EFORMAT, "JSON object, see byte 74;");
    PARAMS("{\"dim\": 16, %s} x", LLAMA_EFORMAT, "JSON object, see byte 76;");
    PARAMS("{\"dim\": 16, %s,}", LLAMA_EFORMAT, "JSON");
    PARAMS("[{\"dim\": 16, %s}]", LLAMA_EFORMAT, "JSON");
    PARAMS("{\"dim\": 1e, %s}", LLAMA_EFORMAT, "JSON object, see byte 10;");
    PARAMS("{\"dim\": truly, %s}", LLAMA_EFORMAT, "JSON");
    params_case("{}", LLAMA_EFORMAT, "is missing; use the file");
    params_case("{\"dim", LLAMA_EFORMAT, "JSON");
    params_case("{\"dim\"", LLAMA_EFORMAT, "JSON");
    params_case("{\"dim\": 16, \"n_layers\": 2, \"n_heads\": 3, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "n_heads must divide the width");
    params_case("{\"dim\": 16, \"n_layers\": 1, \"n_heads\": 2, \"n_kv_heads\": 1, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "n_layers");
    params_case("{\"dim\": 16, \"n_layers\": 3, \"n_heads\": 2, \"n_kv_heads\": 1, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "layers.2.");
    params_case("{\"dim\": 1048576, \"n_layers\": 1, \"n_heads\": 1, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "fewer weights than the shape");
    params_case("{\"dim\": 16, \"n_layers\": 1024, \"n_heads\": 2, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "fewer weights than the shape");
    params_case("{\"dim\": 16, \"n_layers\": 100000, \"n_heads\": 2, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "'n_layers'");
    params_case("{\"dim\": 16, \"n_layers\": 2, \"n_heads\": 2, \"n_kv_heads\": 1, \"norm_eps\": 1e-9999}", LLAMA_EFORMAT, "norm_eps");
    buffer deep = {0};
    for (int i = 0; i < 100000; i++) put_text(&deep, "[");
    in_folder("params.json", &deep);
    refuse("100,000 brackets", LLAMA_EFORMAT, "JSON");
    deep.n = 0;
    in_folder("params.json", &deep);
    refuse("an empty params.json", LLAMA_EFORMAT, "empty");
    free(deep.at);
    model_params(&spec, folder);
}

/* ---- The archive and its pickle ---- */

/* A checkpoint of this pickle and 64 bytes of storage "0". */
static void pickle_case(const char *what, const buffer *pickle, const char *says) {
    zip z = {0};
    unsigned char storage[64] = {0};
    zip_add(&z, "a/data.pkl", pickle->at, pickle->n);
    zip_add(&z, "a/data/0", storage, sizeof storage);
    static const unsigned char more[1024]; /* a file this small would be refused for its size */
    zip_add(&z, "a/more", more, sizeof more);
    buffer file = zip_end(&z);
    in_folder("consolidated.00.pth", &file);
    refuse(what, LLAMA_EFORMAT, says);
    free(file.at);
}

static void bytes_case(const char *what, const char *bytes, size_t n, const char *says) {
    buffer b = {0};
    put(&b, bytes, n);
    pickle_case(what, &b, says);
    free(b.at);
}
#define BYTES(what, literal, says) bytes_case(what, literal, sizeof(literal) - 1, says)

static void tensor_case(const char *what, const char *key, int64_t numel, int64_t offset, int64_t rows, int64_t cols, int64_t stride, const char *says) {
    buffer b = {0};
    put_text(&b, "\x80\x02}(");
    pickle_tensor(&b, "tok_embeddings.weight", key, numel, offset, rows, cols, stride, false);
    put_text(&b, "u.");
    pickle_case(what, &b, says);
    free(b.at);
}

static void test_pickles(void) {
    BYTES("os.system", "\x80\x02" "cos\nsystem\n(X\x04\x00\x00\x00" "truetR.", "it asks for 'os system'");
    BYTES("eval", "\x80\x02" "c__builtin__\neval\n.", "'__builtin__ eval'");
    BYTES("a global of protocol 4", "\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os system'");
    BYTES("a global with control characters", "\x80\x02" "c\x1b[31m\nx\n.", "'?[31m x'");
    BYTES("a global that turns the direction of writing", "\x80\x02" "c\xe2\x80\xae\xc2\x9b\xd8\x9c\xe2\x81\xa6\xe2\x80\x8f\x7f|\xc3\xa9\xe2\x80\x93\nx\n.", "'??????????????|\xc3\xa9\xe2\x80\x93 x'");
    BYTES("a global without its lines", "\x80\x02" "cos", "global");
    BYTES("STACK_GLOBAL of numbers", "\x80\x04K\x01K\x02\x93.", "global has no module or no name");
    BYTES("INST", "\x80\x02(ios\nsystem\n.", "opcode 0x69");
    BYTES("OBJ", "\x80\x02(o.", "opcode 0x6f");
    BYTES("NEWOBJ", "\x80\x02)\x81.", "opcode 0x81");
    BYTES("POP", "\x80\x02" "0.", "opcode 0x30");
    BYTES("protocol 9", "\x80\x09}.", "protocol");
    BYTES("REDUCE of nothing", "\x80\x02R.", "it calls something");
    BYTES("a dict is called", "\x80\x02})R.", "it calls something");
    BYTES("_rebuild_parameter of nothing", "\x80\x02" "ctorch._utils\n_rebuild_parameter\n)R.", "it calls something");
    BYTES("no STOP", "\x80\x02}", "program is truncated");
    BYTES("nothing", "", "program is truncated");
    BYTES("STOP alone", ".", "not a dict");
    BYTES("a number", "\x80\x02K\x01.", "not a dict");
    BYTES("an empty dict", "\x80\x02}.", "no tensor");
    BYTES("SETITEMS without a mark", "\x80\x02}u.", "mark");
    BYTES("SETITEMS of an odd number", "\x80\x02}(K\x01u.", "not a dict");
    BYTES("SETITEM on a number", "\x80\x02K\x01K\x02K\x03s.", "not a dict");
    BYTES("SETITEM on nothing", "\x80\x02K\x02s.", "stack is empty");
    BYTES("TUPLE3 of one", "\x80\x02K\x01\x87.", "stack is empty");
    BYTES("BUILD of nothing", "\x80\x02}b.", "stack is empty");
    BYTES("PUT of nothing", "\x80\x02q\x00.", "memo");
    BYTES("GET of nothing", "\x80\x02h\x05.", "memo");
    BYTES("LONG_BINPUT far away", "\x80\x02}r\xff\xff\xff\xff.", "memo");
    BYTES("a string of 4 GiB", "\x80\x02X\xff\xff\xff\xff" "abc.", "string");
    BYTES("a string of 2^63", "\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "string");
    BYTES("LONG1 of 255 bytes", "\x80\x02\x8a\xff.", "more than 8 bytes");
    BYTES("a persistent id of a number", "\x80\x02K\x01Q.", "persistent id");
    BYTES("a dict in itself", "\x80\x02}q\x00X\x01\x00\x00\x00" "ah\x00s.", "no tensor");
    buffer marks = {0};
    for (int i = 0; i < 1000000; i++) put_text(&marks, "(");
    pickle_case("a million marks", &marks, "stack");
    marks.n = 0;
    for (int i = 0; i < 300000; i++) put_text(&marks, "))\x86");
    pickle_case("tuples in tuples without end", &marks, "stack");
    marks.n = 0;
    put_text(&marks, "\x80\x04}");
    for (int i = 0; i < 200000; i++) put_text(&marks, "\x94"); /* a byte that asks for 24, doubled again and again */
    pickle_case("a memo of the same again and again", &marks, "more memory than a file");
    marks.n = 0;
    put_text(&marks, "\x80\x04)");
    for (int i = 0; i < 200000; i++) put_text(&marks, "\x85");
    pickle_case("tuples of one in tuples of one", &marks, "more memory than a file");
    /* One tensor under one name 200,000 times: 4 bytes each ask for a name and a tensor. A text of a megabyte, which
     * is the key of nothing, makes the file large enough for the names alone. */
    static char text[1 << 20];
    marks.n = 0;
    put_text(&marks, "\x80\x02}X");
    put_int(&marks, sizeof text, 4);
    put(&marks, memset(text, 'x', sizeof text), sizeof text);
    put_text(&marks, "NsX");
    put_int(&marks, 1, 4);
    put_text(&marks, "xq\x01Ns(");
    pickle_tensor(&marks, "t", "0", 16, 0, 2, 8, 8, false);
    put_text(&marks, "q\x02u");
    for (int i = 0; i < 100; i++) {
        put_text(&marks, "(");
        for (int k = 0; k < 2000; k++) put_text(&marks, "h\x01h\x02");
        put_text(&marks, "u");
    }
    put_text(&marks, ".");
    pickle_case("a tensor again and again", &marks, "more memory than a file");
    free(marks.at);
    tensor_case("a storage that is not there", "7", 32, 0, 1, 32, 32, "storage");
    tensor_case("a storage longer than its record", "0", 33, 0, 1, 32, 32, "storage");
    tensor_case("a storage of 2^63", "0", INT64_MAX, 0, 1, 32, 32, "storage");
    tensor_case("a storage of less than nothing", "0", -1, 0, 1, 32, 32, "persistent id");
    tensor_case("an offset past the end", "0", 32, 32, 1, 1, 1, "reaches past");
    tensor_case("a negative offset", "0", 32, -1, 1, 1, 1, "malformed");
    tensor_case("a size that overflows", "0", 32, 0, INT64_MAX, INT64_MAX, 1, "reaches past");
    tensor_case("a stride that overflows", "0", 32, 0, 3, 3, INT64_MAX, "reaches past");
    tensor_case("rows one upon the other", "0", 32, 0, 1000, 32, 0, "reaches past");
    tensor_case("a size of nothing", "0", 32, 0, 24, -16, 16, "a size or a stride that is not valid");
    buffer long_name = {0};
    char name[300] = "";
    put_text(&long_name, "\x80\x02}(");
    pickle_tensor(&long_name, memset(name, 'x', 257), "0", 32, 0, 1, 32, 32, false);
    put_text(&long_name, "u.");
    pickle_case("a name of 257 bytes", &long_name, "a name of more than 256 bytes");
    free(long_name.at);
    tensor_case("another shape", "0", 32, 0, 2, 16, 16, "w1.weight is missing");
}

/* A small file whose tensors all view one storage, in a way that makes a copy of each: the copies would be
 * many times the file. */
static void overlap(int stride, const char *says) {
    enum { WIDTH = 64, LAYERS = 12 };
    static const char *const names[] = {"attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1",
                                        "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"};
    static unsigned char storage[2 * WIDTH * (WIDTH + 1)];
    const model_spec wide = {.dim = WIDTH, .layers = LAYERS, .heads = 2, .kv_heads = 2, .hidden = WIDTH, .vocab = WIDTH, .shards = 1};
    zip z = {0};
    buffer pickle = {0};
    put_text(&pickle, "\x80\x02}(");
    for (int i = 0; i < 3 + 9 * LAYERS; i++) {
        static const char *const outside[] = {"tok_embeddings.weight", "output.weight", "norm.weight"};
        char name[64];
        bool vector = i < 3 ? i == 2 : (i - 3) % 9 > 6;
        snprintf(name, sizeof name, "layers.%d.%s.weight", (i - 3) / 9, names[i < 3 ? 0 : (i - 3) % 9]);
        pickle_tensor(&pickle, i < 3 ? outside[i] : name, "0", sizeof storage / 2, 0, vector ? 0 : WIDTH, WIDTH, stride, false);
    }
    put_text(&pickle, "u.");
    zip_add(&z, "a/data.pkl", pickle.at, pickle.n);
    zip_add(&z, "a/data/0", storage, sizeof storage);
    buffer file = zip_end(&z);
    in_folder("consolidated.00.pth", &file);
    model_params(&wide, folder);
    refuse("tensors one upon the other", LLAMA_EFORMAT, says);
    model_params(&spec, folder);
    free(pickle.at), free(file.at);
}

static void test_overlap(void) {
    overlap(63, "has elements that overlap");
    overlap(65, "its tensors overlap");
}

/* Output and embeddings are views of one storage with gaps: it is copied once, so the copy is smaller than the file. */
static void test_tied(void) {
    enum { WIDTH = 16, WORDS = 8192 };
    static const char *const names[] = {"layers.0.attention.wq", "layers.0.attention.wk", "layers.0.attention.wv", "layers.0.attention.wo", "layers.0.feed_forward.w1",
                                        "layers.0.feed_forward.w2", "layers.0.feed_forward.w3", "layers.0.attention_norm", "layers.0.ffn_norm", "norm"};
    static unsigned char words[2 * WORDS * (WIDTH + 1)], storage[2 * WIDTH * WIDTH];
    const model_spec m = {.dim = WIDTH, .layers = 1, .heads = 2, .kv_heads = 2, .hidden = WIDTH, .vocab = WORDS, .shards = 1};
    zip z = {0};
    buffer pickle = {0};
    llama_error err;
    put_text(&pickle, "\x80\x02}(");
    for (int i = 0; i < 2; i++) pickle_tensor(&pickle, i ? "output.weight" : "tok_embeddings.weight", "0", sizeof words / 2, 0, WORDS, WIDTH, WIDTH + 1, false);
    for (int i = 0; i < 10; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.weight", names[i]);
        pickle_tensor(&pickle, name, "1", sizeof storage / 2, 0, i < 7 ? WIDTH : 0, WIDTH, WIDTH, false);
    }
    put_text(&pickle, "u.");
    zip_add(&z, "a/data.pkl", pickle.at, pickle.n);
    zip_add(&z, "a/data/0", words, sizeof words);
    zip_add(&z, "a/data/1", storage, sizeof storage);
    buffer file = zip_end(&z);
    in_folder("consolidated.00.pth", &file);
    model_params(&m, folder);
    check(try_open(&err) == LLAMA_OK, "a tied output with gaps: %s", err.text);
    model_write(&spec, folder);
    free(pickle.at), free(file.at);
}

/* Two shards that are not of one model: of other types, or too many, or too wide together. */
static void test_shards(void) {
    model_spec two = spec;
    two.shards = 2;
    two.legacy = true; /* a form without lengths of its text */
    model_write(&two, folder);
    buffer second = model_shard(&two, 1), bent = {0};
    for (size_t i = 0; i < second.n; i++) {
        bool half = i + 11 < second.n && memcmp(second.at + i, "HalfStorage", 11) == 0;
        put(&bent, half ? "BFloat16Storage" : (char *)second.at + i, half ? 15 : 1);
        i += half ? 10 : 0;
    }
    in_folder("consolidated.01.pth", &bent);
    refuse("shards of two types", LLAMA_EFORMAT, "is bfloat16, but float16 in the first shard");
    in_folder("consolidated.01.pth", &second);
    in_folder("consolidated.02.pth", &second);
    refuse("one shard too many", LLAMA_EFORMAT, "cannot be divided over 3 shards");
    free(second.at), free(bent.at);
    const model_spec wide = {.dim = 2, .layers = 1, .heads = 1, .kv_heads = 1, .hidden = (1 << 20) + 2, .vocab = 4, .shards = 2};
    char path[2048];
    snprintf(path, sizeof path, "%s/consolidated.02.pth", folder);
    unlink(path);
    model_write(&wide, folder);
    refuse("a w1 that is too wide", LLAMA_EFORMAT, "w1 has 1048578 rows");
    snprintf(path, sizeof path, "%s/consolidated.01.pth", folder);
    unlink(path);
    model_write(&spec, folder);
}

/* Sixty shards of next to nothing, of a model of which each would have a part of every weight. */
static void test_many_shards(void) {
    char path[2048], name[32];
    buffer b = {0};
    for (int i = 0; i < 900; i++) put_text(&b, "x");
    for (int i = 0; i < 60; i++) {
        snprintf(name, sizeof name, "consolidated.%02d.pth", i);
        in_folder(name, &b);
    }
    free(b.at);
    params_case("{\"dim\": 2, \"n_layers\": 1024, \"n_heads\": 1, \"norm_eps\": 1e-5}", LLAMA_EFORMAT, "fewer weights than the shape");
    for (int i = 0; i < 60; i++) {
        snprintf(path, sizeof path, "%s/consolidated.%02d.pth", folder, i);
        unlink(path);
    }
    model_write(&spec, folder);
}

/* Paths that are as long as can be: the folder's, those of files in it. */
static void long_path(size_t length, bool file, const char *says) {
    static char path[LONGEST + 8];
    llama *m = NULL;
    llama_error err;
    size_t n = (size_t)snprintf(path, sizeof path, "%s", folder);
    const char *name = file ? "/model.bin" : "";
    while (n + strlen(name) < length) path[n] = n + 1 + strlen(name) < length && path[n - 1] != '/' ? '/' : path[n - 1] == '/' ? '.' : '/', n++;
    snprintf(path + n, sizeof path - n, "%s", name);
    int status = llama_open(&m, path, NULL, &err);
    check(status == (says ? LLAMA_EINVAL : LLAMA_OK) && (!says || strstr(err.text, says)), "a path of %zu: %d, %.100s...%s", strlen(path), status, err.text,
          strlen(err.text) > 60 ? err.text + strlen(err.text) - 60 : "");
    llama_close(m);
}

static void test_paths(void) {
    model_write_as(&spec, BIN_0, folder);
    long_path(200, false, NULL);
    long_path(4074, false, NULL);
    long_path(4080, false, "the path is too long"); /* for consolidated.00.pth, not for params.json */
    long_path(4096, false, "the path is too long");
    long_path(4200, false, "the path is too long");
    long_path(4085, true, NULL);
    long_path(4092, true, "the path is too long"); /* for tokenizer.model beside it */
}

/* A split model of 1,001 files, all of them there. */
static void test_many_files(void) {
    char first[2048], path[2048];
    llama *m = NULL;
    llama_error err;
    snprintf(path, sizeof path, "%s/many", folder);
    make_folder(path);
    buffer b = model_gguf(&spec, 0, 1, NULL, 0);
    snprintf(first, sizeof first, "%s/many/x-00001-of-01001.gguf", folder);
    check(write_file(first, &b), "%s", first);
    for (int i = 2; i <= 1001; i++) {
        snprintf(path, sizeof path, "%s/many/x-%05d-of-01001.gguf", folder, i);
        unlink(path);
        check(link(first, path) == 0, "%s", path);
    }
    check(llama_open(&m, first, NULL, &err) == LLAMA_EFORMAT && strstr(err.text, "more than 1000 files"), "1,001 files: %s", err.text);
    for (int i = 1; i <= 1001; i++) {
        snprintf(path, sizeof path, "%s/many/x-%05d-of-01001.gguf", folder, i);
        unlink(path);
    }
    free(b.at);
}

/* A parameter file that is no parameter file: 64 MB and more, with a hole. */
static void test_large_json(void) {
    char path[2048];
    snprintf(path, sizeof path, "%s/params.json", folder);
    check(truncate(path, (64 << 20) + 1) == 0, "truncate");
    refuse("a params.json of 64 MB", LLAMA_EFORMAT, "larger than any valid file");
    model_params(&spec, folder);
}

/* ---- A sound file, damaged everywhere ---- */

/* Truncated at each length near its ends and at many between; a bit turned of each byte from `first` up to
 * `last`, where the headers are. */
static void damage(const char *what, const buffer *sound, size_t first, size_t last) {
    buffer b = {0};
    size_t refused = 0, opened = 0;
    llama_error err;
    in_folder("consolidated.00.pth", sound);
    check(try_open(&err) == LLAMA_OK, "%s, sound: %s", what, err.text);
    for (size_t n = 0; n < sound->n; n += n < 300 || n + 4000 > sound->n ? 1 : 97) {
        if (!test_sampled(n, 11)) continue;
        b.n = 0;
        put(&b, sound->at, n);
        in_folder("consolidated.00.pth", &b);
        check(try_open(&err) == LLAMA_EFORMAT, "%s, cut at %zu of %zu, opens", what, n, sound->n);
        refused++;
    }
    for (size_t i = first; i < last; i++) {
        if (!test_sampled(i, 7)) continue;
        b.n = 0;
        put(&b, sound->at, sound->n);
        b.at[i] ^= (unsigned char)(1 << (i * 5 + i / 8) % 8);
        in_folder("consolidated.00.pth", &b);
        int status = try_open(&err);
        check(status == LLAMA_OK || status == LLAMA_EFORMAT, "%s, byte %zu: %d, %s", what, i, status, err.text);
        refused += status != LLAMA_OK;
        opened += status == LLAMA_OK;
    }
    printf("damaged, %s: %zu refused, %zu opened\n", what, refused, opened);
    in_folder("consolidated.00.pth", sound);
    free(b.at);
}

static void test_damage(void) {
    buffer zip_form = model_shard(&spec, 0);
    size_t header = 0;
    for (size_t i = zip_form.n; i-- > 4 && memcmp(zip_form.at + i, "archive/data.pkl", 16) != 0;) header = i;
    damage("zip", &zip_form, header > 5000 ? header - 5000 : 0, zip_form.n); /* the pickle, then the directory */
    free(zip_form.at);
    model_spec older = spec;
    older.legacy = true;
    buffer form = model_shard(&older, 0);
    for (header = 0; header + 8 < form.n && memcmp(form.at + header, "\x80\x02](", 4) != 0;) header++;
    damage("older form", &form, 0, header + 400); /* all pickles */
    free(form.at);
}

/* The older form, as its pickles may be bent: the rest of the file is sound. */
static void test_legacy(void) {
    static const struct {
        const char *what, *from, *to; /* replaced in the file, of one length */
        size_t n;
        const char *says;
    } cases[] = {
        {"another protocol", "M\xe9\x03.", "M\xe8\x03.", 4, "not 1001"},
        {"a big-endian machine", "little_endian\x88", "little_endian\x89", 14, "little_endian"},
        {"a view of a storage", "NtQ", ")tQ", 3, "persistent id"},
        {"keys in no list", "\x80\x02](", "\x80\x02}(", 4, "not a list"},
        {"a key that no tensor has", "\x80\x02](X\x04\x00\x00\x00" "9000", "\x80\x02](X\x04\x00\x00\x00" "900x", 13, "no tensor"},
        {"a key twice", "\x80\x02](X\x04\x00\x00\x00" "9000", "\x80\x02](X\x04\x00\x00\x00" "8999", 13, "no tensor"},
        {"a storage of 2^62 elements", "e.\x80\x01\x00\x00\x00\x00\x00\x00", "e.\x80\x01\x00\x00\x00\x00\x00\x40", 10, "storage is truncated"},
        {"a storage of one element less", "e.\x80\x01", "e.\x7f\x01", 4, "storage is truncated"},
    };
    model_spec older = spec;
    older.legacy = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buffer form = model_shard(&older, 0);
        size_t at = 0;
        while (at + cases[i].n < form.n && memcmp(form.at + at, cases[i].from, cases[i].n) != 0) at++;
        check(at + cases[i].n < form.n, "%s: nothing to replace", cases[i].what);
        memcpy(form.at + at, cases[i].to, cases[i].n);
        in_folder("consolidated.00.pth", &form);
        refuse(cases[i].what, LLAMA_EFORMAT, cases[i].says);
        free(form.at);
    }
}

/* ---- Gaps: opening reads next to nothing of a file, whatever its header says ---- */

/* Open a file with a hole; the pages that it touched. */
static long pages_read(const char *path, int want, const char *says) {
    struct rusage before, after;
    llama *m = NULL;
    llama_error err;
    getrusage(RUSAGE_SELF, &before);
    int status = llama_open(&m, path, NULL, &err);
    getrusage(RUSAGE_SELF, &after);
    check(status == want && strstr(err.text, says), "%s: %d, %s", path, status, err.text);
    llama_close(m);
    long faults = after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt, resident = 0;
    struct stat st;
    int fd = open(path, O_RDONLY);
    check(fd >= 0 && fstat(fd, &st) == 0, "%s", path);
    size_t size = (size_t)st.st_size;
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *in_memory = must_alloc(size / 4096 + 1);
    check(p != MAP_FAILED && mincore(p, size, in_memory) == 0, "%s: mincore", path);
    for (size_t i = 0; i < (size + 4095) / 4096; i++) resident += in_memory[i] & 1;
    munmap(p, size);
    free(in_memory);
    close(fd);
    return faults > resident ? faults : resident;
}

static void test_gaps(void) {
    const model_spec many = {.dim = 16, .layers = 100, .heads = 2, .kv_heads = 1, .hidden = 32, .vocab = 24, .shards = 1};
    enum { ALIGNMENT = 1 << 20 };
    static char name[60001];
    char path[2048];
    snprintf(path, sizeof path, "%s/gaps.gguf", folder);

    /* GGUF: each tensor in a megabyte of its own, which is a hole but for the first of them */
    model_spec none = many;
    none.layers = 0;
    buffer b = model_gguf(&none, 0, 1, NULL, 0);
    model_weight w;
    size_t at = 0;
    uint64_t n = 0;
    while (memcmp(b.at + at, "token_embd", 10) != 0) at++;
    b.n = at - 8;
    for (at = 0; memcmp(b.at + at, "general.alignment", 17) != 0;) at++;
    memcpy(b.at + at + 21, &(uint32_t){ALIGNMENT}, 4);
    for (at = 0; memcmp(b.at + at, "block_count", 11) != 0;) at++;
    b.at[at + 15] = (unsigned char)many.layers;
    for (; model_nth(&many, true, (int)n, &w); n++) {
        gguf_text(&b, w.name);
        put_int(&b, w.rows ? 2 : 1, 4);
        put_int(&b, (uint64_t)w.cols, 8);
        if (w.rows) put_int(&b, (uint64_t)w.rows, 8);
        put_int(&b, w.rows ? 1 : 0, 4);
        put_int(&b, n * ALIGNMENT, 8);
    }
    memcpy(b.at + 8, &n, 8);
    in_folder("gaps.gguf", &b);
    check(truncate(path, (off_t)((n + 1) * ALIGNMENT)) == 0, "truncate");
    long pages = pages_read(path, LLAMA_OK, "");
    check(pages < 2000, "gaps in GGUF: %ld pages", pages);
    printf("gaps in GGUF: %ld pages\n", pages);

    /* A file of nothing but zeros, as an interrupted download leaves it */
    unlink(path);
    b.n = 0;
    put_int(&b, 0, 8);
    in_folder("gaps.gguf", &b);
    check(truncate(path, (off_t)1 << 30) == 0, "truncate");
    pages = pages_read(path, LLAMA_EFORMAT, "does not match a llama2.c header");
    check(pages < 2000, "a file of zeros: %ld pages", pages);

    /* GGUF: an array of 2^26 numbers, and of 2^26 texts of nothing */
    for (int text = 0; text < 2; text++) {
        b.n = 0;
        put_text(&b, "GGUF");
        put_int(&b, 3, 4), put_int(&b, 0, 8), put_int(&b, 2, 8);
        gguf_text(&b, "x");
        put_int(&b, 9, 4), put_int(&b, text ? 8 : 0, 4), put_int(&b, 1 << 26, 8);
        in_folder("gaps.gguf", &b);
        check(truncate(path, (off_t)b.n + ((off_t)1 << (text ? 29 : 26)) + 100) == 0, "truncate");
        pages = pages_read(path, LLAMA_EFORMAT, text ? "its list of keys is damaged" : "general.architecture");
        check(pages < 2000, "an array in GGUF: %ld pages", pages);
    }
    unlink(path);

    /* Zip: 500 entries with one header, whose extra field has 65,532 bytes of nothing; names of 60,000 bytes */
    for (int names = 0; names < 2; names++) {
        zip z = {0};
        buffer directory = {0};
        static const unsigned char zeros[65532 + 64];
        memset(name, 'x', names ? 60000 : 5);
        name[names ? 60000 : 5] = 0;
        zip_add(&z, name, zeros, 64);
        buffer one = {0};
        put(&one, z.file.at, 28);
        put_int(&one, names ? 4 : 65532, 2);
        put_text(&one, name);
        put(&one, zeros, names ? 4 + 64 : 65532 + 64);
        for (int i = 0; i < 500; i++) put(&directory, z.directory.at, z.directory.n);
        free(z.file.at), free(z.directory.at);
        z = (zip){one, directory, 500};
        buffer file = zip_end(&z);
        in_folder("consolidated.00.pth", &file);
        refuse("an entry again and again", LLAMA_EFORMAT, names ? "zip directory is damaged" : "extra field of a zip entry is damaged");
        free(file.at);
    }

    /* Zip: as PyTorch writes it, but big-endian */
    zip z = {0};
    zip_add(&z, "archive/byteorder", "big", 3);
    zip_add(&z, "archive/data.pkl", "\x80\2}.", 4);
    zip_add(&z, "archive/more", name, 1024); /* a file this small would be refused for its size */
    buffer big = zip_end(&z);
    in_folder("consolidated.00.pth", &big);
    free(big.at);
    refuse("big-endian numbers", LLAMA_EFORMAT, "big-endian");
    model_write(&spec, folder);
    free(b.at);
}

/* What is not a regular file is refused at once. */
static void test_not_files(void) {
    char path[2048], fifo[2048];
    snprintf(path, sizeof path, "%s/consolidated.00.pth", folder);
    snprintf(fifo, sizeof fifo, "%s/params.json", folder);
    llama_error err;
    unlink(path);
    check(mkdir(path, 0777) == 0 && try_open(&err) == LLAMA_EIO, "a folder for a shard: %s", err.text);
    rmdir(path);
    check(try_open(&err) == LLAMA_EFORMAT && strstr(err.text, "but not its weights"), "no shard: %s", err.text);
    unlink(fifo);
#if !defined(_WIN32)
    check(mkfifo(fifo, 0666) == 0 && try_open(&err) == LLAMA_EIO && strstr(err.text, "regular"), "a FIFO: %s", err.text);
#endif
    unlink(fifo);
}

/* ---- tokenizer.model ---- */

/* The file cut at every byte and with every byte damaged, or at a sample of them: every step-th of those in the middle. */
static void damage_tokenizer(const char *name, size_t step) {
    const char *model = tiny_folder;
    char path[2048];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", model, name);
    char *sound = read_file(path, &n);
    if (!check(sound != NULL, "%s", path)) return;
    snprintf(path, sizeof path, "%s/tokenizer.model", folder);
    llama_options o = {.size = sizeof o, .tokenizer = path};
    size_t refused = 0, opened = 0;
    for (size_t i = 0; i < 2 * n; i += i < 200 || (i > n - 300 && i < n + 200) || i + 300 > 2 * n ? 1 : step) {
        static const char text[] = "once  upon the kin\xef\xac\x81g, \xe2\x80\xa6 e\xcc\x81 \xef\xbc\xa1\xff";
        buffer b = {0};
        put(&b, sound, i < n ? i : n); /* first cut, then with a byte damaged */
        if (i >= n) b.at[i - n] ^= (unsigned char)(1 << i % 8);
        in_folder("tokenizer.model", &b);
        free(b.at);
        llama *m = NULL;
        llama_error err;
        int status = llama_open(&m, model, &o, &err), ids[64];
        check(status == LLAMA_OK || (status == LLAMA_EFORMAT && strstr(err.text, path)), "%s %zu: %s", name, i, err.text);
        if (m) llama_text_to_tokens(m, text, sizeof text - 1, 0, ids, 64);
        for (int32_t t = 0; m && t < 1024; t += 7) {
            char out[LLAMA_TEXT_MAX];
            llama_decoder u = {.n = 0};
            llama_token_to_text(m, &u, t, out);
        }
        refused += status != LLAMA_OK;
        opened += status == LLAMA_OK;
        llama_close(m);
    }
    printf("damaged %s: %zu refused, %zu opened\n", name, refused, opened);
    unlink(path);
    free(sound);
}

static void test_tokenizers(void) {
    damage_tokenizer("tokenizer.model", test_quick ? 97 : 23);
    damage_tokenizer("vocabularies/user_mapped.model", test_quick ? 97 : 1);
    damage_tokenizer("vocabularies/unused.model", test_quick ? 197 : 7);
}

/* ---- tokenizers made here: what is sound in form and wrong in content ---- */

static void proto_bytes(buffer *b, int field, const void *p, size_t n) {
    put_int(b, (uint64_t)field << 3 | 2, 1);
    put_int(b, n, 1); /* all under 128 */
    put(b, p, n);
}

static void proto_number(buffer *b, int field, int v) {
    put_int(b, ((uint64_t)field << 3 & 127) | (field > 15 ? 128 : 0), 1);
    if (field > 15) put_int(b, (uint64_t)field >> 4, 1);
    put_int(b, (uint64_t)v, 1);
}

static void proto_piece(buffer *b, const char *text, int type) {
    buffer piece = {0};
    proto_bytes(&piece, 1, text, strlen(text));
    proto_number(&piece, 3, type);
    proto_bytes(b, 1, piece.at, piece.n);
    free(piece.at);
}

typedef struct {
    const char *name, *text; /* a fifth piece, of this type; NULL: none */
    int type, unk, model, dummy, trims, eos;
    const char *says; /* NULL: it opens */
} vocab_case;

static void test_made_tokenizers(void) {
    static const vocab_case cases[] = {
        {"sound", NULL, 1, 2, 2, 1, 0, 2, NULL},
        {"a piece that is not UTF-8", "a\xff", 1, 2, 2, 1, 0, 2, "UTF-8"},
        {"no <unk>", NULL, 1, 1, 2, 1, 0, 2, "<unk>"},
        {"one byte piece of 256", "<0x41>", 6, 2, 2, 1, 0, 2, "byte pieces"},
        {"a byte piece that is none", "<0xzz>", 6, 2, 2, 1, 0, 2, "<0xNN>"},
        {"a piece twice", "\xe2\x96\x81", 1, 2, 2, 1, 0, 2, "two ids to one text"},
        {"<s> twice", "<s>", 3, 2, 2, 1, 0, 2, "two ids to one text"},
        {"two unknown pieces", "?", 2, 2, 2, 1, 0, 2, "two unknown pieces"},
        {"<s> as text", "<s>", 1, 2, 2, 1, 0, 2, NULL},
        {"an empty piece", "", 1, 2, 2, 1, 0, 2, "empty"},
        {"a type that is none", "x", 9, 2, 2, 1, 0, 2, "type"},
        {"user-defined pieces", "x", 4, 2, 2, 1, 0, 2, NULL},
        {"a unigram model", NULL, 1, 2, 1, 1, 0, 2, "unigram model, not a BPE model, which is not supported; the model cannot be used"},
        {"a model of words", NULL, 1, 2, 3, 1, 0, 2, "words"},
        {"a model of characters", NULL, 1, 2, 4, 1, 0, 2, "characters"},
        {"white space is trimmed", NULL, 1, 2, 2, 1, 1, 2, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const vocab_case *c = &cases[i];
        buffer b = {0}, spec = {0};
        proto_piece(&b, "<unk>", c->unk);
        proto_piece(&b, "<s>", 3);
        proto_piece(&b, "</s>", 3);
        proto_piece(&b, "\xe2\x96\x81", 1);
        if (c->text) proto_piece(&b, c->text, c->type);
        proto_number(&spec, 3, c->model);
        proto_number(&spec, 42, c->eos);
        proto_bytes(&b, 2, spec.at, spec.n);
        spec.n = 0;
        proto_number(&spec, 3, c->dummy);
        proto_number(&spec, 4, c->trims);
        proto_bytes(&b, 3, spec.at, spec.n);
        in_folder("tokenizer.model", &b);
        llama_error err;
        int status = try_open(&err);
        check(c->says ? status == LLAMA_EFORMAT && strstr(err.text, c->says) : status == LLAMA_OK,
              "tokenizer, %s: %d, %s", c->name, status, err.text);
        free(b.at), free(spec.at);
    }
    buffer many = {0};
    for (int i = 0; i < 24; i++) proto_piece(&many, (char[]){(char)('a' + i), 0}, 1);
    in_folder("tokenizer.model", &many);
    refuse("pieces without their specs", LLAMA_EFORMAT, "trainer_spec");
    proto_piece(&many, "z", 1);
    in_folder("tokenizer.model", &many);
    refuse("more pieces than the model has", LLAMA_EFORMAT, "25 pieces, but the model has 24");
    many.n = 0;
    put_text(&many, "IQ== 0\nIg== 1\nIw== 2\n");
    in_folder("tokenizer.model", &many);
    refuse("a tiktoken vocabulary", LLAMA_EFORMAT, "tiktoken");
    free(many.at);
    /* Runs of spaces, which LLaMA's vocabulary has: merges of them are ranked by nothing but their place */
#define S "\xe2\x96\x81"
    static const char spaces[] = "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\"}, {\"id\": 1, \"content\": \"<s>\"}, {\"id\": 2, \"content\": \"</s>\"}], "
                                 "\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" S "\"}, "
                                 "\"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"byte_fallback\": true, \"vocab\": "
                                 "{\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2, \"a\": 3, \"" S "\": 4, \"aa\": 5, \"" S S "\": 6, \"" S S S "\": 7, \"" S S S S "\": 8}, "
                                 "\"merges\": [\"a a\", \"" S " " S "\", \"" S " " S S "\", \"" S S " " S "\", \"" S S " " S S "\", \"" S " " S S S "\", \"" S S S " " S "\"]}}";
#undef S
    buffer json = {0};
    put_text(&json, spaces);
    in_folder("tokenizer.model", &json);
    llama_error err;
    check(try_open(&err) == LLAMA_OK, "merges of spaces: %s", err.text);
    free(json.at);
    char path[2048];
    snprintf(path, sizeof path, "%s/tokenizer.model", folder);
    unlink(path);
}

/* ---- Character maps ---- */

/* A tokenizer.model with these bytes as precompiled_charsmap, or in another field of the spec with this number. */
static buffer with_spec(int message, int field, const void *bytes, size_t n) {
    buffer b = {0}, spec = {0};
    proto_piece(&b, "<unk>", 2);
    proto_piece(&b, "<s>", 3);
    proto_piece(&b, "</s>", 3);
    proto_piece(&b, "\xe2\x96\x81", 1);
    proto_number(&spec, 3, 2);
    proto_bytes(&b, 2, spec.at, spec.n);
    spec.n = 0;
    proto_number(&spec, 3, 1);
    proto_bytes(&b, 3, spec.at, spec.n);
    spec.n = 0;
    if (message == 2) proto_number(&spec, 3, 2); /* once more, with the field */
    put_int(&spec, (((uint64_t)field << 3 | 2) & 127) | (field > 15 ? 128 : 0), 1);
    if (field > 15) put_int(&spec, (uint64_t)field >> 4, 1);
    size_t left = n;
    for (; left > 127; left >>= 7) put_int(&spec, (left & 127) | 128, 1);
    put_int(&spec, left, 1);
    put(&spec, bytes, n);
    put_int(&b, (uint64_t)message << 3 | 2, 1);
    for (left = spec.n; left > 127; left >>= 7) put_int(&b, (left & 127) | 128, 1);
    put_int(&b, left, 1);
    put(&b, spec.at, spec.n);
    free(spec.at);
    return b;
}

static void test_charsmaps(void) {
#define MAP(name, text, says) {name, text, sizeof text - 1, says}
    static const char damaged[] = "precompiled_charsmap that is damaged";
    const struct {
        const char *name, *bytes;
        size_t n;
        const char *says; /* NULL: it opens */
    } maps[] = {
        MAP("empty", "", NULL),
        MAP("no size", "\4\0\0", damaged),
        MAP("no trie", "\0\0\0\0\0", damaged),
        MAP("a trie that is larger than the map", "\x08\0\0\0abcdef", damaged),
        MAP("a trie of 4 GB", "\xfc\xff\xff\xff\0\0\0\0\0", damaged),
        MAP("half a node", "\6\0\0\0abcdef\0", damaged),
        MAP("no texts", "\4\0\0\0\0\0\0\0", damaged),
        MAP("a text without its end", "\4\0\0\0\0\0\0\0x", damaged),
        MAP("a text that is not UTF-8", "\4\0\0\0\0\0\0\0\xff\0", damaged),
        MAP("a leaf beyond the texts", "\4\0\0\0\2\0\0\x80x\0", damaged),
        MAP("a leaf far beyond the texts", "\4\0\0\0\xff\xff\xff\xff\0", damaged),
        MAP("a leaf inside a character", "\4\0\0\0\1\0\0\x80\xc3\xa9\0", damaged),
        MAP("a node that does nothing", "\4\0\0\0\0\0\0\0\0", NULL),
        MAP("a root with children beyond the trie", "\4\0\0\0\0\xfe\xff\x7f\0", NULL),
        MAP("a root that is a leaf", "\4\0\0\0\0\0\0\x80\0", NULL),
    };
#undef MAP
    llama_error err;
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        buffer b = with_spec(3, 2, maps[i].bytes, maps[i].n);
        in_folder("tokenizer.model", &b);
        int status = try_open(&err);
        check(maps[i].says ? status == LLAMA_EFORMAT && strstr(err.text, maps[i].says) : status == LLAMA_OK, "map, %s: %d, %s", maps[i].name, status, err.text);
        free(b.at);
    }
    /* Texts of 1,000 bytes, and longer */
    for (size_t length = 1000; length <= 1001; length++) {
        buffer map = {0};
        put_int(&map, 4, 4), put_int(&map, 0, 4);
        for (size_t k = 0; k < length; k++) put_text(&map, "x");
        put_int(&map, 0, 1);
        buffer b = with_spec(3, 2, map.at, map.n);
        in_folder("tokenizer.model", &b);
        int status = try_open(&err);
        check(length > 1000 ? status == LLAMA_EFORMAT && strstr(err.text, damaged) : status == LLAMA_OK, "a text of %zu bytes: %d", length, status);
        free(map.at), free(b.at);
    }
    /* Nodes that lead to each other for ever: without keys, with keys, with a leaf that is not one, with a leaf beyond the trie */
    for (int way = 0; way < 4; way++) {
        buffer map = {0};
        char path[2048], *text = must_alloc(1 << 18);
        put_int(&map, 4 * 512, 4);
        for (uint32_t k = 0; k < 512; k++) {
            uint32_t node = k & 255, key = way ? 256 : 0;
            if (k == 'a') node |= (way == 3 ? 0x3fff : 256u | 'a') << 10 | key; /* leaf 256, and on to 256 + 'a' */
            if (k == 256 + 'a') node |= (uint32_t)'a' << 10 | key;             /* leaf 256, and on to itself */
            if (k == 256 && way == 1) node = 1u << 31;
            put_int(&map, node, 4);
        }
        put(&map, "xyz", 4);
        buffer b = with_spec(3, 2, map.at, map.n);
        in_folder("tokenizer.model", &b);
        llama *m = NULL;
        snprintf(path, sizeof path, "%s/tokenizer.model", folder);
        check(llama_open(&m, folder, NULL, &err) == LLAMA_OK, "a map that leads nowhere: %s", err.text);
        memset(text, 'a', 1 << 18);
        clock_t start = clock();
        ptrdiff_t n = llama_text_to_tokens(m, text, 1 << 18, 0, NULL, 0);
        double took = (double)(clock() - start) / CLOCKS_PER_SEC;
        check(n == 2 && took < 30, "a map that leads to itself, %d: %td tokens in %.1f s", way, n, took);
        check(llama_min_tokens(m, 1 << 20) == 0, "a map can remove any text");
        llama_close(m);
        free(map.at), free(b.at), free(text);
    }
    const struct {
        const char *name;
        int message, field;
        const char *bytes, *says;
    } others[] = {{"a denormalizer", 5, 2, "x", "denormalizer_spec), which is not supported; the model cannot be used"},
                  {"an <unk> that is not UTF-8", 2, 44, "\xff", "unk_surface"},
                  {"an <unk> of its own", 2, 44, "?", NULL},
                  {"a flag that is a text", 3, 4, "1", "another type"},
                  {"a kind that is a text", 2, 3, "2", "another type"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        buffer b = with_spec(others[i].message, others[i].field, others[i].bytes, 1);
        in_folder("tokenizer.model", &b);
        int status = try_open(&err);
        check(others[i].says ? status == LLAMA_EFORMAT && strstr(err.text, others[i].says) : status == LLAMA_OK, "%s: %d, %s", others[i].name, status, err.text);
        free(b.at);
    }
    buffer suffix = with_spec(2, 44, "?", 1);
    put(&suffix, "\x12\x05\x18\x02\xc0\x01\x01", 7); /* trainer_spec {3: 2, 24: 1} */
    in_folder("tokenizer.model", &suffix);
    refuse("spaces after words", LLAMA_EFORMAT, "treat_whitespace_as_suffix");
    free(suffix.at);
    char path[2048];
    snprintf(path, sizeof path, "%s/tokenizer.model", folder);
    unlink(path);
}

/* ---- Time: a text costs what its length says, whatever the vocabulary ---- */

/* A tokenizer.model of <unk>, <s>, </s>, U+2581 and n UNUSED pieces "x0", "x1", ... */
static buffer with_unused(int n) {
    buffer b = {0}, spec_message = {0};
    char text[16];
    proto_piece(&b, "<unk>", 2);
    proto_piece(&b, "<s>", 3);
    proto_piece(&b, "</s>", 3);
    proto_piece(&b, "\xe2\x96\x81", 1);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "x%d", i);
        proto_piece(&b, text, 5);
    }
    proto_number(&spec_message, 3, 2);
    proto_bytes(&b, 2, spec_message.at, spec_message.n);
    spec_message.n = 0;
    proto_number(&spec_message, 4, 0);
    proto_bytes(&b, 3, spec_message.at, spec_message.n);
    free(spec_message.at);
    return b;
}

/* Special texts that begin with each other, or differ only at their ends, are found in time; so are many special tokens
 * with a vocabulary whose UNUSED pieces need memory of their own. */
static void test_time(void) {
    enum { TEXTS = 1000, BYTES = 1 << 14, MANY = 100000, PIECES = 300000 };
    char *text = must_alloc(6 * MANY + BYTES), path[2048];
    llama_error err;
    buffer b = with_unused(0);
    in_folder("tokenizer.model", &b);
    free(b.at);
    for (int kind = 0; kind < 2; kind++) { /* a, aa, aaa, ... in "aab"; ab, aab, ... in "aaa" */
        llama *m = NULL;
        buffer list = {0};
        char as[TEXTS + 1];
        memset(as, 'a', TEXTS);
        for (int i = 1; i <= TEXTS - kind; i++) {
            char item[TEXTS + 64];
            snprintf(item, sizeof item, "%s\"%.*s%s\": %d", i == 1 ? "{" : ", ", i, as, kind ? "b" : "", 100 + i);
            put_text(&list, item);
        }
        put_text(&list, "}");
        in_folder("added_tokens.json", &list);
        free(list.at);
        if (!check(llama_open(&m, folder, NULL, &err) == LLAMA_OK, "nested texts: %s", err.text)) continue;
        for (size_t i = 0; i < BYTES; i++) text[i] = !kind && i % 3 == 2 ? 'b' : 'a';
        size_t found = 0;
        clock_t start = clock();
        for (size_t at = 0; at < BYTES;) {
            int32_t token;
            at += llama_find_special(m, text + at, BYTES - at, &token);
            found += token >= 0;
            at += token < 0 ? 0 : 2;
        }
        double took = (double)(clock() - start) / CLOCKS_PER_SEC;
        printf("%d special texts, kind %d: %.0f ns a byte\n", TEXTS, kind, took * 1e9 / BYTES);
        check(found == (kind ? 0 : BYTES / 3 + (BYTES % 3 > 0)), "nested texts: %zu found", found);
        check(took < 5, "nested texts, kind %d: took %.1f s", kind, took);
        llama_close(m);
    }
    snprintf(path, sizeof path, "%s/added_tokens.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/time", folder);
    model_spec large = spec;
    large.vocab = PIECES + 4;
    large.layers = 1;
    model_write_as(&large, SAFETENSORS, path);
    buffer unused = with_unused(PIECES);
    put_file(&unused, path, "tokenizer.model");
    free(unused.at);
    llama *m = NULL;
    int32_t *ids = must_alloc(5 * MANY * sizeof *ids);
    if (check(llama_open(&m, path, NULL, &err) == LLAMA_OK, "many special tokens: %s", err.text)) {
        for (size_t i = 0; i < MANY; i++) memcpy(text + 5 * i, "</s>x", 5);
        clock_t start = clock();
        ptrdiff_t n = llama_text_to_tokens(m, text, 5 * MANY, LLAMA_SPECIAL, ids, 5 * MANY);
        double took = (double)(clock() - start) / CLOCKS_PER_SEC;
        printf("%d special tokens, %d UNUSED pieces: %.0f ns a token\n", MANY, PIECES, took * 1e9 / MANY);
        check(n == 3 * MANY, "many special tokens: %td", n); /* </s>, U+2581, <unk> */
        check(took < 1, "many special tokens: took %.1f s", took);
    }
    llama_close(m);
    free(ids), free(text);
    snprintf(path, sizeof path, "%s/tokenizer.model", folder);
    unlink(path);
}

static const test_case cases[] = {
    CASE(params), CASE(pickles), CASE(overlap), CASE(tied), CASE(legacy), CASE(shards), CASE(many_shards), CASE(paths),
    CASE(many_files), CASE(large_json), CASE(gaps), CASE(damage), CASE(tokenizers), CASE(made_tokenizers), CASE(charsmaps), CASE(time), CASE(not_files)};

int main(int argc, char **argv) {
    if ((argc = tests_begin(argc, argv)) < 3) return 2;
    tiny_folder = argv[1];
    snprintf(folder, sizeof folder, "%.1000s", argv[2]);
    make_folder("build");
    model_write(&spec, folder);
    RUN(cases);
    return tests_done("hostile");
}
