/* checkpoint.h - write small checkpoints in Meta's layout, sound or damaged on purpose.
 *
 * An element depends on its tensor, row and column alone, so the same model comes out however many
 * shards it is divided into. */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H
#include "test.h"
#include <errno.h>

typedef struct {
    unsigned char *at;
    size_t n, room;
} buffer;

static inline void put(buffer *b, const void *p, size_t n) {
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n);
        b->at = realloc(b->at, b->room);
        if (!b->at) exit(1);
    }
    if (n) memcpy(b->at + b->n, p, n);
    b->n += n;
}
static inline void put_int(buffer *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) put(b, &(unsigned char){(unsigned char)(v >> (8 * i))}, 1);
}
static inline void put_text(buffer *b, const char *s) { put(b, s, strlen(s)); }

/* A state in memory, for llama_save and llama_load. */

typedef struct {
    buffer b;
    size_t at, stop; /* read so far; bytes after which the host fails */
} tape;

static inline int on_write(void *user, const void *p, size_t n) {
    tape *t = user;
    if (t->b.n + n > t->stop) return 1;
    put(&t->b, p, n);
    return 0;
}

static inline int on_read(void *user, void *p, size_t n) {
    tape *t = user;
    if (t->at + n > t->b.n) return 1;
    memcpy(p, t->b.at + t->at, n);
    t->at += n;
    return 0;
}

static inline bool write_file(const char *path, const buffer *b) {
    remove(path); /* a file system may flush one that is overwritten */
    FILE *f = fopen(path, "wb");
    bool good = f && (b->n == 0 || fwrite(b->at, 1, b->n, f) == b->n);
    return (f ? fclose(f) == 0 : false) && good;
}

/* ---- Zip, stored, as PyTorch writes it ---- */

typedef struct {
    buffer file, directory;
    unsigned entries;
} zip;

static inline void zip_add(zip *z, const char *name, const void *data, size_t n) {
    size_t at = z->file.n, length = strlen(name), pad = 64 - (at + 30 + length + 4) % 64;
    static const unsigned char zeros[64];
    put_text(&z->file, "PK\3\4");
    put(&z->file, zeros, 2);
    put_int(&z->file, 0x0808, 2);
    put(&z->file, zeros, 18);
    put_int(&z->file, length, 2);
    put_int(&z->file, 4 + pad, 2);
    put_text(&z->file, name);
    put_text(&z->file, "FB");
    put_int(&z->file, pad, 2);
    put(&z->file, zeros, pad);
    put(&z->file, data, n);
    put_text(&z->directory, "PK\1\2");
    put(&z->directory, zeros, 4);
    put_int(&z->directory, 0x0808, 2);
    put(&z->directory, zeros, 10);
    put_int(&z->directory, n, 4);
    put_int(&z->directory, n, 4);
    put_int(&z->directory, length, 2);
    put(&z->directory, zeros, 12);
    put_int(&z->directory, at, 4);
    put_text(&z->directory, name);
    z->entries++;
}

/* The finished file, to be freed. */
static inline buffer zip_end(zip *z) {
    static const unsigned char zeros[8];
    size_t at = z->file.n;
    put(&z->file, z->directory.at, z->directory.n);
    size_t end64 = z->file.n;
    put_text(&z->file, "PK\6\6");
    put_int(&z->file, 44, 8);
    put_int(&z->file, 0x2d031e, 4);
    put(&z->file, zeros, 8);
    put_int(&z->file, z->entries, 8);
    put_int(&z->file, z->entries, 8);
    put_int(&z->file, z->directory.n, 8);
    put_int(&z->file, at, 8);
    put_text(&z->file, "PK\6\7");
    put_int(&z->file, 0, 4);
    put_int(&z->file, end64, 8);
    put_int(&z->file, 1, 4);
    put_text(&z->file, "PK\5\6");
    put(&z->file, zeros, 4);
    put_int(&z->file, z->entries, 2);
    put_int(&z->file, z->entries, 2);
    put_int(&z->file, z->directory.n, 4);
    put_int(&z->file, at, 4);
    put(&z->file, zeros, 2);
    free(z->directory.at);
    return z->file;
}

/* ---- Pickle, protocol 2 ---- */

static inline void pickle_text(buffer *p, const char *s) {
    put_text(p, "X");
    put_int(p, strlen(s), 4);
    put_text(p, s);
}
static inline void pickle_int(buffer *p, int64_t v) {
    put_text(p, "\x8a\x08"); /* LONG1 of 8 bytes */
    put_int(p, (uint64_t)v, 8);
}

/* name: _rebuild_tensor_v2(storage key, offset, (rows, cols), strides, False, OrderedDict()) */
static inline void pickle_tensor(buffer *p, const char *name, const char *key, int64_t numel, int64_t offset,
                                 int64_t rows, int64_t cols, int64_t stride, bool legacy) {
    pickle_text(p, name);
    put_text(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(p, "storage");
    put_text(p, "ctorch\nHalfStorage\n");
    pickle_text(p, key);
    pickle_text(p, "cpu");
    pickle_int(p, numel);
    put_text(p, legacy ? "NtQ" : "tQ"); /* the older form says that it is no view */
    pickle_int(p, offset);
    if (rows) {
        pickle_int(p, rows);
        pickle_int(p, cols);
        put_text(p, "\x86");
        pickle_int(p, stride);
        pickle_int(p, 1);
        put_text(p, "\x86");
    } else {
        pickle_int(p, cols);
        put_text(p, "\x85");
        pickle_int(p, 1);
        put_text(p, "\x85");
    }
    put_text(p, "\x89" "ccollections\nOrderedDict\n)RtR");
}

/* ---- A whole model ---- */

typedef struct {
    int dim, layers, heads, kv_heads, hidden, vocab, shards;
    bool zero_output; /* all logits 0, for tests that bring their own as a bias */
    bool legacy;      /* the older, non-zip torch file */
    int gap;          /* elements between one row and the next: not contiguous */
    bool tied;        /* output is tok_embeddings */
    int head_dim;     /* 0: dim / heads */
    bool by_rows;     /* shards divide the embeddings by rows, as in Llama 3 */
    bool absent;      /* Meta's files have no output.weight */
    int context;      /* positions, as config.json says; 0: 512 */
    int scaling;      /* of RoPE: 0 none, 1 linear by 4 (not in Meta's files), 2 llama3 with Meta's constants */
} model_spec;

static inline int model_head(const model_spec *m) { return m->head_dim ? m->head_dim : m->dim / m->heads; }

/* One shard under construction. */
typedef struct {
    zip z;
    buffer pickle, keys, storages; /* the last two of the older form */
} parts;

static inline uint16_t model_element(int tensor, int r, int c) {
    uint64_t x = (uint64_t)tensor << 48 ^ (uint64_t)r << 24 ^ (uint64_t)c;
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
    x ^= x >> 32;
    return (uint16_t)((x & 0x83ff) | (8 + x % 3) << 10); /* 2^-7 to 2^-4, of either sign */
}

/* Element (r, c) of a tensor as a half; norms, which have no rows, are near 1. */
static inline uint16_t model_half(const model_spec *m, int tensor, int rows, int r, int c) {
    if (!rows) return (uint16_t)(0x3c00 | (model_element(tensor, 0, c) & 0xff));
    return tensor == 2 && m->zero_output ? 0 : model_element(tensor == 2 && m->tied ? 0 : tensor, r, c);
}

/* One tensor of one shard: pickle entry and storage. split: 0 whole, 1 by rows, 2 by columns */
static inline void model_tensor(parts *p, const model_spec *m, int shard, int number, const char *name, int rows,
                                int cols, int split) {
    int height = split == 1 ? rows / m->shards : rows, width = split == 2 ? cols / m->shards : cols;
    int top = split == 1 ? shard * height : 0, left = split == 2 ? shard * width : 0;
    buffer data = {0};
    for (int r = 0; r < (rows ? height : 1); r++) {
        for (int c = 0; c < width; c++) put_int(&data, model_half(m, number, rows, top + r, left + c), 2);
        for (int c = 0; rows && c < m->gap; c++) put_int(&data, 0x7e00, 2); /* NaN */
    }
    char key[96];
    snprintf(key, sizeof key, "%d", m->legacy ? 9000 - number : number); /* in the older form not in order */
    pickle_tensor(&p->pickle, name, key, (int64_t)data.n / 2, 0, rows ? height : 0, width, width + m->gap, m->legacy);
    if (m->legacy) {
        pickle_text(&p->keys, key);
        put_int(&p->storages, data.n / 2, 8);
        put(&p->storages, data.at, data.n);
    } else {
        snprintf(key, sizeof key, "archive/data/%d", number);
        zip_add(&p->z, key, data.at, data.n);
    }
    free(data.at);
}

/* The older form: magic, its number, about the machine, the tensors, the keys; then the storages. */
static inline buffer legacy_end(parts *p) {
    buffer file = {0};
    put(&file, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.", 21);
    put_text(&file, "\x80\x02}(");
    pickle_text(&file, "protocol_version");
    put_text(&file, "M\xe9\x03");
    pickle_text(&file, "little_endian");
    put_text(&file, "\x88u.");
    put(&file, p->pickle.at, p->pickle.n);
    put_text(&file, "\x80\x02](");
    put(&file, p->keys.at, p->keys.n);
    put_text(&file, "e.");
    put(&file, p->storages.at, p->storages.n);
    free(p->keys.at), free(p->storages.at);
    return file;
}

/* One shard's file, to be freed. */
static inline buffer model_shard(const model_spec *m, int shard) {
    static const char *const names[] = {"attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1",
                                        "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"};
    int kv = model_head(m) * m->kv_heads, q = model_head(m) * m->heads, number = 3;
    int rows[] = {q, kv, kv, m->dim, m->hidden, m->dim, m->hidden, 0, 0};
    int cols[] = {m->dim, m->dim, m->dim, q, m->dim, m->hidden, m->dim, m->dim, m->dim};
    static const int split[] = {1, 1, 1, 2, 1, 2, 1, 0, 0};
    parts p = {0};
    put_text(&p.pickle, "\x80\x02}(");
    model_tensor(&p, m, shard, 0, "tok_embeddings.weight", m->vocab, m->dim, m->by_rows ? 1 : 2);
    model_tensor(&p, m, shard, 1, "norm.weight", 0, m->dim, 0);
    if (!m->absent) model_tensor(&p, m, shard, 2, "output.weight", m->vocab, m->dim, 1);
    for (int l = 0; l < m->layers; l++)
        for (int i = 0; i < 9; i++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%d.%s.weight", l, names[i]);
            model_tensor(&p, m, shard, number++, name, rows[i], cols[i], split[i]);
        }
    put_text(&p.pickle, "u.");
    if (!m->legacy) {
        zip_add(&p.z, "archive/data.pkl", p.pickle.at, p.pickle.n);
        zip_add(&p.z, "archive/version", "3\n", 2);
    }
    buffer file = m->legacy ? legacy_end(&p) : zip_end(&p.z);
    free(p.pickle.at);
    return file;
}

static inline void make_folder(const char *path) { check(mkdir(path, 0777) == 0 || errno == EEXIST, "%s: mkdir", path); }

static inline void model_params(const model_spec *m, const char *folder) {
    char path[4096], text[256];
    buffer b = {0};
    snprintf(text, sizeof text, "{\"dim\": %d, \"n_layers\": %d, \"n_heads\": %d, \"n_kv_heads\": %d, \"norm_eps\": 1e-05, \"vocab_size\": -1%s",
             m->dim, m->layers, m->heads, m->kv_heads, m->scaling ? ", \"use_scaled_rope\": true" : "");
    put_text(&b, text);
    if (m->head_dim) snprintf(text, sizeof text, ", \"head_dim\": %d", m->head_dim), put_text(&b, text);
    put_text(&b, "}");
    snprintf(path, sizeof path, "%s/params.json", folder);
    check(write_file(path, &b), "%s: cannot be written", path);
    free(b.at);
}

/* folder/params.json and its shards */
static inline void model_write(const model_spec *m, const char *folder) {
    make_folder(folder);
    model_params(m, folder);
    for (int k = 0; k < m->shards; k++) {
        char path[4096];
        buffer file = model_shard(m, k);
        snprintf(path, sizeof path, "%s/consolidated.%02d.pth", folder, k);
        check(write_file(path, &file), "%s: cannot be written", path);
        free(file.at);
    }
}

/* ---- The same model in other formats ---- */

/* SAFETENSORS and TORCH make Hugging Face's folder, the others one file in it. SPLIT: over several files. */
typedef enum { SAFETENSORS, SAFETENSORS_SPLIT, TORCH, TORCH_SPLIT, GGUF_FILE, GGUF_SPLIT, BIN_0, BIN_1, FORMS } model_form;

typedef struct {
    char name[96]; /* in the format */
    int number, rows, cols;
    bool sorted; /* rows of each head: the even ones, then the odd */
} model_weight;

/* Weight i of the model, in the order tok_embeddings, norm, output, then nine a layer; false: that was all. */
static inline bool model_nth(const model_spec *m, bool gguf, int i, model_weight *w) {
    static const char *const hf[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                                     "mlp.down_proj", "mlp.up_proj", "input_layernorm", "post_attention_layernorm"};
    static const char *const gg[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up", "attn_norm", "ffn_norm"};
    static const char *const outside[2][3] = {{"model.embed_tokens", "model.norm", "lm_head"}, {"token_embd", "output_norm", "output"}};
    int kv = model_head(m) * m->kv_heads, q = model_head(m) * m->heads, k = (i - 3) % 9;
    int rows[] = {q, kv, kv, m->dim, m->hidden, m->dim, m->hidden, 0, 0};
    if (i >= 3 + 9 * m->layers) return false;
    *w = (model_weight){.number = i, .rows = i < 3 ? (i == 1 ? 0 : m->vocab) : rows[k], .cols = i >= 3 && k == 5 ? m->hidden : i >= 3 && k == 3 ? q : m->dim};
    w->sorted = !gguf && i >= 3 && k < 2;
    if (i < 3) snprintf(w->name, sizeof w->name, "%s.weight", outside[gguf][i]);
    else snprintf(w->name, sizeof w->name, gguf ? "blk.%d.%s.weight" : "model.layers.%d.%s.weight", (i - 3) / 9, (gguf ? gg : hf)[k]);
    return true;
}

/* Its elements as they are stored: halves, or float32. */
static inline void put_weight(buffer *b, const model_spec *m, const model_weight *w, bool wide) {
    int head = model_head(m);
    for (int r = 0; r < (w->rows ? w->rows : 1); r++) {
        int in = r % head, from = !w->sorted ? r : r - in + (in < head / 2 ? 2 * in : 2 * (in - head / 2) + 1);
        for (int c = 0; c < w->cols; c++) {
            uint16_t h = model_half(m, w->number, w->rows, from, c);
            if (!wide) put_int(b, h, 2);
            else { /* normal halves and zero */
                uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
                put_int(b, sign | (rest ? (rest << 13) + ((uint32_t)(127 - 15) << 23) : 0), 4);
            }
        }
    }
}

static inline void put_file(const buffer *b, const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    check(write_file(path, b), "%s: cannot be written", path);
}

static inline void model_config(const model_spec *m, const char *folder) {
    static const char *const scalings[] = {"", ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}",
        (", \"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
        " \"original_max_position_embeddings\": 8192, \"rope_theta\": 10000.0}")};
    char text[640];
    buffer b = {0};
    snprintf(text, sizeof text, "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": %d,"
             " \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"intermediate_size\": %d,"
             " \"vocab_size\": %d, \"rms_norm_eps\": 1e-05, \"max_position_embeddings\": %d, \"tie_word_embeddings\": %s",
             m->dim, m->layers, m->heads, m->kv_heads, m->hidden, m->vocab, m->context ? m->context : 512, m->tied ? "true" : "false");
    put_text(&b, text);
    if (m->head_dim) snprintf(text, sizeof text, ", \"head_dim\": %d", m->head_dim), put_text(&b, text);
    put_text(&b, scalings[m->scaling]);
    put_text(&b, "}");
    put_file(&b, folder, "config.json");
    free(b.at);
}

/* A file of a header that lacks its closing brace, and data; both are freed. */
static inline buffer safetensors_file(buffer *header, buffer *data) {
    buffer file = {0};
    put_text(header, "}");
    put_int(&file, header->n, 8);
    put(&file, header->at, header->n);
    put(&file, data->at, data->n);
    free(header->at), free(data->at);
    return file;
}

/* File number f of n: those weights whose number is f mod n. */
static inline buffer model_safetensors(const model_spec *m, int f, int n) {
    buffer header = {0}, data = {0};
    model_weight w;
    put_text(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = f; model_nth(m, false, i, &w); i += n) {
        char text[256];
        size_t begin = data.n;
        if (i == 2 && m->tied) continue;
        put_weight(&data, m, &w, false);
        snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"F16\",\"shape\":[%d%s", w.name, w.rows ? w.rows : w.cols, w.rows ? "," : "");
        put_text(&header, text);
        if (w.rows) snprintf(text, sizeof text, "%d", w.cols), put_text(&header, text);
        snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", begin, data.n);
        put_text(&header, text);
    }
    return safetensors_file(&header, &data);
}

static inline buffer model_torch(const model_spec *m, int f, int n) {
    parts p = {0};
    model_weight w;
    put_text(&p.pickle, "\x80\x02}(");
    for (int i = f; model_nth(m, false, i, &w); i += n) {
        buffer data = {0};
        char key[96];
        if (i == 2 && m->tied) continue;
        put_weight(&data, m, &w, false);
        snprintf(key, sizeof key, "%d", i);
        pickle_tensor(&p.pickle, w.name, key, (int64_t)data.n / 2, 0, w.rows, w.cols, w.cols, false);
        snprintf(key, sizeof key, "archive/data/%d", i);
        zip_add(&p.z, key, data.at, data.n);
        free(data.at);
    }
    put_text(&p.pickle, "u.");
    zip_add(&p.z, "archive/data.pkl", p.pickle.at, p.pickle.n);
    free(p.pickle.at);
    return zip_end(&p.z);
}

static inline void gguf_text(buffer *b, const char *s) {
    put_int(b, strlen(s), 8);
    put_text(b, s);
}
static inline void gguf_f32(buffer *b, const char *key, float v) {
    gguf_text(b, key);
    put_int(b, 6, 4);
    put(b, &v, 4);
}
static inline void gguf_u32(buffer *b, const char *key, uint32_t v) {
    gguf_text(b, key);
    put_int(b, 4, 4);
    put_int(b, v, 4);
}

/* The divisors of llama3's frequencies, as a converter computes them. */
static inline void put_divisors(buffer *b, const model_spec *m) {
    for (int j = 0; j < model_head(m) / 2; j++) {
        double turns = 8192 * pow(10000, -2.0 * j / model_head(m)) / 6.283185307179586, s = fmin(fmax((turns - 1) / 3, 0), 1);
        float w = (float)(1 / ((1 - s) / 8 + s));
        put(b, &w, 4);
    }
}

/* The first file has the parameters, and behind them `n_more` pairs from `more`. */
static inline buffer model_gguf(const model_spec *m, int f, int n, const buffer *more, int n_more) {
    buffer b = {0}, data = {0};
    model_weight w;
    const float eps = 1e-5f;
    int tensors = f == 0 && m->scaling == 2;
    for (int i = f; model_nth(m, true, i, &w); i += n) tensors += !(i == 2 && m->tied);
    put_text(&b, "GGUF");
    put_int(&b, 3, 4);
    put_int(&b, (uint64_t)tensors, 8);
    put_int(&b, f ? 1 : 9 + (uint64_t)n_more + 3 * (m->head_dim > 0) + 2 * (m->scaling == 1), 8);
    gguf_u32(&b, "general.alignment", 64);
    if (f == 0) {
        gguf_text(&b, "general.architecture");
        put_int(&b, 8, 4);
        gguf_text(&b, "llama");
        gguf_u32(&b, "llama.embedding_length", (uint32_t)m->dim);
        gguf_u32(&b, "llama.block_count", (uint32_t)m->layers);
        gguf_u32(&b, "llama.feed_forward_length", (uint32_t)m->hidden);
        gguf_u32(&b, "llama.attention.head_count", (uint32_t)m->heads);
        gguf_u32(&b, "llama.attention.head_count_kv", (uint32_t)m->kv_heads);
        gguf_u32(&b, "llama.context_length", 512);
        gguf_f32(&b, "llama.attention.layer_norm_rms_epsilon", eps);
        if (m->head_dim) gguf_u32(&b, "llama.attention.key_length", (uint32_t)m->head_dim);
        if (m->head_dim) gguf_u32(&b, "llama.attention.value_length", (uint32_t)m->head_dim);
        if (m->head_dim) gguf_u32(&b, "llama.rope.dimension_count", (uint32_t)m->head_dim);
        if (m->scaling == 1) gguf_f32(&b, "llama.rope.scaling.factor", 4);
        if (m->scaling == 1) gguf_text(&b, "llama.rope.scaling.type"), put_int(&b, 8, 4), gguf_text(&b, "linear");
        if (n_more) put(&b, more->at, more->n);
    }
    for (int i = f; model_nth(m, true, i, &w); i += n) {
        if (i == 2 && m->tied) continue;
        gguf_text(&b, w.name);
        put_int(&b, w.rows ? 2 : 1, 4);
        put_int(&b, (uint64_t)w.cols, 8);
        if (w.rows) put_int(&b, (uint64_t)w.rows, 8);
        put_int(&b, w.rows ? 1 : 0, 4); /* norms are float32 there */
        put_int(&b, data.n, 8);
        put_weight(&data, m, &w, !w.rows);
        while (data.n % 64) put_int(&data, 0, 1);
    }
    if (f == 0 && m->scaling == 2) {
        gguf_text(&b, "rope_freqs.weight");
        put_int(&b, 1, 4), put_int(&b, (uint64_t)model_head(m) / 2, 8), put_int(&b, 0, 4), put_int(&b, data.n, 8);
        put_divisors(&data, m);
    }
    while (b.n % 64) put_int(&b, 0, 1);
    put(&b, data.at, data.n);
    free(data.at);
    return b;
}

static inline buffer model_bin(const model_spec *m, int version) {
    /* kinds of weights: -1 tok_embeddings, -2 norm, -3 output, else one of the nine, layer by layer */
    static const int orders[2][12] = {{-1, 7, 0, 1, 2, 3, 8, 4, 5, 6, -2, -3}, {7, 8, -2, -1, 0, 1, 2, 3, 4, 5, 6, -3}};
    int header[] = {m->dim, m->hidden, m->layers, m->heads, m->kv_heads, version || m->tied ? m->vocab : -m->vocab, 512};
    buffer b = {0};
    model_weight w;
    if (version) put_int(&b, 0x616b3432, 4), put_int(&b, 1, 4);
    for (int i = 0; i < 7; i++) put_int(&b, (uint32_t)header[i], 4);
    if (version) put_int(&b, m->tied, 1);
    while (version && b.n < 256) put_int(&b, 0, 1);
    for (int i = 0; i < 12; i++) {
        int kind = orders[version][i];
        if (kind == -3 && !version) /* RoPE's tables, here something else */
            for (int k = 0; k < 512 * (m->dim / m->heads); k++) put_int(&b, 0x7fc00000, 4);
        if (kind == -3 && m->tied) continue;
        for (int l = 0; l < (kind < 0 ? 1 : m->layers); l++) {
            model_nth(m, true, kind < 0 ? -1 - kind : 3 + 9 * l + kind, &w);
            put_weight(&b, m, &w, true);
        }
    }
    return b;
}

/* Write the model in that form; returns the path to open, until the next call. */
static inline const char *model_write_as(const model_spec *m, model_form form, const char *folder) {
    static char path[4096];
    static const char *const names[FORMS][3] = {
        {"model.safetensors"}, {"model-1.safetensors", "model-2.safetensors", "model-3.safetensors"},
        {"pytorch_model.bin"}, {"pytorch_model-1.bin", "pytorch_model-2.bin"},
        {"model.gguf"}, {"model-00001-of-00002.gguf", "model-00002-of-00002.gguf"}, {"model.bin"}, {"model1.bin"}};
    int n = 1;
    while (n < 3 && names[form][n]) n++;
    make_folder(folder);
    buffer index = {0};
    put_text(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\"x\": \"");
    for (int f = 0; f < n; f++) {
        buffer b = form <= SAFETENSORS_SPLIT ? model_safetensors(m, f, n)
                   : form <= TORCH_SPLIT     ? model_torch(m, f, n)
                   : form <= GGUF_SPLIT      ? model_gguf(m, f, n, NULL, 0)
                                             : model_bin(m, form == BIN_1);
        put_file(&b, folder, names[form][f]);
        put_text(&index, f ? "\", \"y\": \"" : "");
        put_text(&index, names[form][f]);
        free(b.at);
    }
    put_text(&index, "\"}}");
    if (form <= TORCH_SPLIT) model_config(m, folder);
    if (form == SAFETENSORS_SPLIT) put_file(&index, folder, "model.safetensors.index.json");
    if (form == TORCH_SPLIT) put_file(&index, folder, "pytorch_model.bin.index.json");
    free(index.at);
    if (form <= TORCH_SPLIT) snprintf(path, sizeof path, "%s", folder);
    else snprintf(path, sizeof path, "%s/%s", folder, names[form][0]);
    return path;
}
#endif
