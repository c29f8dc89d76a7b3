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
} model_spec;

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

/* One tensor of one shard: pickle entry and storage. split: 0 whole, 1 by rows, 2 by columns */
static inline void model_tensor(parts *p, const model_spec *m, int shard, int number, const char *name, int rows,
                                int cols, int split) {
    int height = split == 1 ? rows / m->shards : rows, width = split == 2 ? cols / m->shards : cols;
    int top = split == 1 ? shard * height : 0, left = split == 2 ? shard * width : 0;
    buffer data = {0};
    for (int r = 0; r < (rows ? height : 1); r++) {
        for (int c = 0; c < width; c++) {
            bool zero = number == 2 && m->zero_output;
            put_int(&data, zero ? 0 : rows ? model_element(number, top + r, left + c) : 0x3c00, 2);
        }
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
    int kv = m->dim / m->heads * m->kv_heads, number = 3;
    int rows[] = {m->dim, kv, kv, m->dim, m->hidden, m->dim, m->hidden, 0, 0};
    int cols[] = {m->dim, m->dim, m->dim, m->dim, m->dim, m->hidden, m->dim, m->dim, m->dim};
    static const int split[] = {1, 1, 1, 2, 1, 2, 1, 0, 0};
    parts p = {0};
    put_text(&p.pickle, "\x80\x02}(");
    model_tensor(&p, m, shard, 0, "tok_embeddings.weight", m->vocab, m->dim, 2);
    model_tensor(&p, m, shard, 1, "norm.weight", 0, m->dim, 0);
    model_tensor(&p, m, shard, 2, "output.weight", m->vocab, m->dim, 1);
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
    snprintf(text, sizeof text, "{\"dim\": %d, \"n_layers\": %d, \"n_heads\": %d, \"n_kv_heads\": %d, \"norm_eps\": 1e-05, \"vocab_size\": -1}",
             m->dim, m->layers, m->heads, m->kv_heads);
    put_text(&b, text);
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
#endif
