/* tokenizer.c - text: SentencePiece BPE, exactly, as the tokenizer.model of LLaMA 1 and 2 has it
 * and what others made of it; and whole texts from prompts.
 *
 *   1. The vocabulary   pieces and a hash table over them, from tokenizer.model (a protobuf),
 *                       llama2.c's tokenizer.bin, Hugging Face's tokenizer.json or GGUF
 *   2. Encoding         text -> normalised UTF-8 -> merges by score -> ids, in O(n log n)
 *   3. Decoding         id -> bytes, streamed in whole characters
 *   4. Whole texts      prompts -> tokens -> texts, many in one pass; endings of contexts; files of
 *                       state: what needs no look inside a session
 *
 * BPE (Sennrich et al. 2016, arXiv:1508.07909; Kudo & Richardson 2018, arXiv:1808.06226):
 * start from characters; merge the adjacent pair whose join is the piece of the highest
 * score, the leftmost of equals; repeat. Spaces are written U+2581, a space is put in front
 * of a text, and characters that are no piece become their UTF-8 bytes.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for llama.h's mmap under -std=c11 */
#endif
#define LLAMA_PRIVATE
#include "llama.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE }; /* SentencePiece's types */
enum { MAX_PIECES = 1 << 20, MAX_PIECE = 1000, MAX_PROBES = 1000 };

typedef struct {
    const char *text;
    uint32_t n;
    float score;
    int type;
} vocab_piece;

struct llamac_vocab {
    llamac_arena *arena; /* of the model */
    vocab_piece *pieces; /* [size] */
    int32_t size, room, bos, eos, unk;
    int32_t byte_id[256]; /* -1: the vocabulary has no such byte piece */
    int32_t *slots;       /* [slot_mask + 1] ids by hash of text, -1: empty; NORMAL pieces alone */
    uint32_t slot_mask;
    bool space_in_front; /* add_dummy_prefix */
};

static const char SPACE[] = "\xe2\x96\x81";          /* U+2581, a space inside pieces */
static const char REPLACEMENT[] = "\xef\xbf\xbd";    /* U+FFFD, an invalid byte */
static const char out_of_memory[] = "out of memory"; /* as why a vocabulary is not to be had */
static const char UNK_TEXT[] = " \xe2\x81\x87 ";     /* what SentencePiece prints for <unk> */

/* ---- 1. The vocabulary ---- */

static uint32_t hash_text(const char *text, size_t n) {
    uint64_t h = n;
    for (; n >= 8; n -= 8, text += 8) {
        uint64_t part;
        memcpy(&part, text, 8);
        h = (h ^ part) * 0x9e3779b97f4a7c15;
        h ^= h >> 29;
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < n; i++) rest = rest << 8 | (unsigned char)text[i];
    h = (h ^ rest) * 0x9e3779b97f4a7c15;
    return (uint32_t)(h >> 32);
}

/* The id of a NORMAL piece, or -1. */
static int32_t vocab_find(const llamac_vocab *v, const char *text, size_t n) {
    for (uint32_t i = hash_text(text, n) & v->slot_mask;; i = (i + 1) & v->slot_mask) {
        int32_t id = v->slots[i];
        if (id < 0 || (v->pieces[id].n == n && memcmp(v->pieces[id].text, text, n) == 0)) return id;
    }
}

/* "<0x41>" -> 0x41; -1: not such a text */
static int byte_of(const vocab_piece *p) {
    int value = 0;
    if (p->n != 6 || memcmp(p->text, "<0x", 3) != 0 || p->text[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        char c = p->text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static bool is_named(const vocab_piece *p, const char *name) {
    return p->n == strlen(name) && memcmp(p->text, name, p->n) == 0;
}

/* Overlong forms, surrogates and values over U+10FFFF are no characters. */
LLAMAC_API size_t llama_utf8_next(const char *text, size_t n, int32_t *number) {
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = (const unsigned char *)text;
    size_t want = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0x80 ? 2 : 1;
    *number = -1;
    if (want > n || (s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4) return 1;
    int32_t code = want == 1 ? s[0] : s[0] & (0x7f >> want);
    for (size_t i = 1; i < want; i++) {
        if ((s[i] & 0xc0) != 0x80) return 1;
        code = code << 6 | (s[i] & 0x3f);
    }
    if (code < least[want] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 1;
    *number = code;
    return want;
}

LLAMAC_API int llama_is_control(int32_t c) {
    return c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
           (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* Bytes of the UTF-8 character at s, of which n > 0 are there; 0: not one. */
static size_t utf8_length(const unsigned char *s, size_t n) {
    int32_t number;
    size_t length = llama_utf8_next((const char *)s, n, &number);
    return number < 0 ? 0 : length;
}

static bool is_utf8(const char *text, size_t n) {
    for (size_t i = 0, length; i < n; i += length)
        if (!(length = utf8_length((const unsigned char *)text + i, n - i))) return false;
    return true;
}

static llamac_vocab *vocab_new(llamac_arena *arena, size_t room) {
    uint64_t slots = 8;
    if (room > MAX_PIECES) return NULL;
    while (slots < 2 * (uint64_t)room) slots *= 2;
    llamac_vocab *v = llamac_new(arena, 1, sizeof *v);
    if (!v) return NULL;
    v->pieces = llamac_new(arena, (uint64_t)room, sizeof *v->pieces);
    v->slots = llamac_new(arena, slots, sizeof *v->slots);
    if (!v->pieces || !v->slots) return NULL;
    v->arena = arena;
    v->room = (int32_t)room;
    v->bos = v->eos = v->unk = -1;
    v->slot_mask = (uint32_t)slots - 1;
    memset(v->byte_id, -1, sizeof v->byte_id);
    memset(v->slots, -1, slots * sizeof *v->slots);
    return v;
}

/* The one way into a vocabulary. The text is copied, and checked as it stands there. */
static const char *vocab_add(llamac_vocab *v, const char *from, size_t n, float score, int type) {
    if (v->size == v->room) return "has more pieces than it said";
    if (n > MAX_PIECE || (n == 0 && type != CONTROL))
        return "has a piece that is empty or over 1000 bytes";
    if (type < NORMAL || type > BYTE || score != score)
        return "has a piece of unknown type or no score";
    if (type == USER_DEFINED)
        return "has user-defined pieces, which LLaMA's has not and are not supported";
    char *text = llamac_new(v->arena, n, 1);
    if (!text) return out_of_memory;
    if (n) memcpy(text, from, n);
    if (!is_utf8(text, n)) return "has a piece that is not UTF-8";
    int32_t id = v->size++;
    v->pieces[id] = (vocab_piece){text, (uint32_t)n, score, type};
    int byte = type == BYTE ? byte_of(&v->pieces[id]) : -1;
    if (type == BYTE && byte < 0) return "has a byte piece that is not <0xNN>";
    if (type == BYTE) v->byte_id[byte] = id;
    if (type == UNKNOWN) v->unk = id;
    if (type != NORMAL || vocab_find(v, text, n) >= 0) return NULL;
    uint32_t i = hash_text(text, n) & v->slot_mask;
    for (int tries = 0; v->slots[i] >= 0; tries++, i = (i + 1) & v->slot_mask)
        if (tries == MAX_PROBES) return "has pieces made to collide in a hash table";
    v->slots[i] = id;
    return NULL;
}

/* With all pieces in: what goes for the whole. bos and eos may be -1. NULL, or what is wrong. */
static const char *vocab_settle(llamac_vocab *v, double bos, double eos, bool space_in_front) {
    int bytes = 0;
    const double ids[] = {bos, eos};
    for (int i = 0; i < 256; i++) bytes += v->byte_id[i] >= 0;
    if (v->unk < 0) return "has no <unk>";
    if (bytes % 256) return "has some byte pieces and lacks others";
    for (int i = 0; i < 2; i++) {
        if (ids[i] < 0) continue;
        if (!(ids[i] < v->size)) return "names a bos or eos that is not there";
        int type = v->pieces[(int32_t)ids[i]].type;
        if (ids[i] != (int32_t)ids[i] || (type != CONTROL && type != UNUSED))
            return "names a bos or eos that is text"; /* GGUF's added tokens are UNUSED */
    }
    v->bos = bos < 0 ? -1 : (int32_t)bos;
    v->eos = eos < 0 ? -1 : (int32_t)eos;
    v->space_in_front = space_in_front;
    return NULL;
}

/* Protobuf (encoding.html of its documentation): a message is a run of fields, each a
 * number and a wire type; varint 0, 8 bytes 1, length-delimited 2, 4 bytes 5. */
typedef struct {
    unsigned number, wire;
    uint64_t value;        /* wire 0, 1 and 5 */
    llamac_cursor content; /* wire 2 */
} proto_field;

static uint64_t proto_varint(llamac_cursor *c) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        uint64_t byte = llamac_uint(c, 1);
        v |= (byte & 127) << shift;
        if (byte < 128) return v;
    }
    c->bad = true;
    return 0;
}

/* The next field; false at the end or when the bytes make no sense (then c->bad). */
static bool proto_next(llamac_cursor *c, proto_field *f) {
    if (c->bad || llamac_left(c) == 0) return false;
    uint64_t key = proto_varint(c);
    f->number = (unsigned)(key >> 3);
    f->wire = key & 7;
    f->value = 0;
    f->content = llamac_cursor_on(c->at, 0);
    if (f->wire == 0) f->value = proto_varint(c);
    else if (f->wire == 1 || f->wire == 5) f->value = llamac_uint(c, f->wire == 1 ? 8 : 4);
    else if (f->wire == 2) {
        uint64_t n = proto_varint(c);
        const unsigned char *p = llamac_take(c, n);
        if (p) f->content = llamac_cursor_on(p, (size_t)n);
    } else c->bad = true;
    if (f->number == 0) c->bad = true;
    return !c->bad;
}

enum { EXTENSIONS = 200 }; /* numbers of fields from there on are for others */

/* SentencePiece {1 piece, 2 score, 3 type} */
static const char *parse_piece(llamac_vocab *v, llamac_cursor c) {
    static const unsigned char wires[] = {0, 2, 5, 0};
    proto_field f;
    const unsigned char *text = NULL;
    size_t n = 0;
    float score = 0;
    int type = NORMAL;
    while (proto_next(&c, &f)) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.wire == 2) text = f.content.at, n = llamac_left(&f.content);
        if (f.number == 2 && f.wire == 5) memcpy(&score, &bits, 4);
        if (f.number == 3 && f.wire == 0) type = f.value <= BYTE ? (int)f.value : 0;
        if (f.number >= EXTENSIONS) continue;
        if (f.number > 3 || f.wire != wires[f.number])
            return "has a piece of more than a text, a score and a type";
    }
    if (c.bad) return "has a piece that is cut short";
    return vocab_add(v, (const char *)text, n, score, type);
}

/* TrainerSpec: 3 model_type, 41 bos_id, 42 eos_id; each id may be -1 */
static const char *parse_trainer(llamac_vocab *v, llamac_cursor c) {
    enum { BPE = 2 };
    proto_field f;
    uint64_t model_type = 1;
    v->bos = 1;
    v->eos = 2;
    while (proto_next(&c, &f)) {
        if (f.wire != 0) continue;
        if (f.number == 3) model_type = f.value;
        if (f.number == 41) v->bos = (int32_t)f.value;
        if (f.number == 42) v->eos = (int32_t)f.value;
    }
    if (c.bad) return "has a trainer_spec that is cut short";
    return model_type == BPE ? NULL : "is not a BPE model, as LLaMA's is";
}

/* NormalizerSpec: 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5
 * escape_whitespaces */
static const char *parse_normalizer(llamac_vocab *v, llamac_cursor c) {
    proto_field f;
    bool trims = true, escapes = true, maps = false;
    v->space_in_front = true;
    while (proto_next(&c, &f)) {
        if (f.number == 2 && f.wire == 2) maps = llamac_left(&f.content) > 0;
        if (f.number == 3 && f.wire == 0) v->space_in_front = f.value != 0;
        if (f.number == 4 && f.wire == 0) trims = f.value != 0;
        if (f.number == 5 && f.wire == 0) escapes = f.value != 0;
    }
    if (c.bad) return "has a normalizer_spec that is cut short";
    return trims || maps || !escapes
               ? "normalises text, which LLaMA's does not and is not supported"
               : NULL;
}

/* DenormalizerSpec, for the way back: as the above */
static const char *parse_denormalizer(llamac_cursor c) {
    proto_field f;
    while (proto_next(&c, &f))
        if (f.number == 2 && (f.wire != 2 || llamac_left(&f.content)))
            return "changes the text it shows, which LLaMA's does not and is not supported";
    return c.bad ? "has a denormalizer_spec that is cut short" : NULL;
}

/* How many pieces a tokenizer.model has; 0: it is none. */
static size_t proto_count(llamac_cursor c) {
    proto_field f;
    size_t pieces = 0;
    for (; proto_next(&c, &f) && pieces < MAX_PIECES; pieces += f.number == 1 && f.wire == 2) {}
    return c.bad || pieces == MAX_PIECES ? 0 : pieces;
}

static const char *parse_proto(llamac_vocab *v, llamac_cursor c) {
    proto_field f;
    const char *why = NULL;
    bool trainer = false, normalizer = false;
    while (!why && proto_next(&c, &f)) {
        if (f.number >= EXTENSIONS) continue;
        if (f.wire != 2 || f.number > 5) return "has parts that no SentencePiece model has";
        if (f.number == 5) why = parse_denormalizer(f.content);
        if (f.number == 1) why = parse_piece(v, f.content);
        if (f.number == 2) why = parse_trainer(v, f.content), trainer = true;
        if (f.number == 3) why = parse_normalizer(v, f.content), normalizer = true;
    }
    if (why) return why;
    if (!trainer || !normalizer) return "lacks its trainer_spec or normalizer_spec";
    return vocab_settle(v, v->bos, v->eos, v->space_in_front);
}

/* llama2.c's tokenizer.bin: the longest piece's length, then score, length and text of each piece.
 * Spaces in them stand for themselves, types are not told. */

static bool bin_next(llamac_cursor *c, float *score, llamac_cursor *text) {
    uint32_t bits = (uint32_t)llamac_uint(c, 4);
    uint64_t n = llamac_uint(c, 4);
    memcpy(score, &bits, 4);
    const unsigned char *p = llamac_take(c, n);
    *text = llamac_cursor_on(p, p ? (size_t)n : 0);
    return p != NULL;
}

/* How many pieces it has; 0: it is none. */
static size_t bin_count(llamac_cursor c) {
    size_t pieces = 0;
    float score;
    llamac_cursor text;
    llamac_uint(&c, 4);
    while (llamac_left(&c) && pieces < MAX_PIECES && bin_next(&c, &score, &text)) pieces++;
    return c.bad || llamac_left(&c) ? 0 : pieces;
}

static const char *parse_bin(llamac_vocab *v, llamac_cursor c) {
    enum { BOS = 1, EOS = 2, BYTES = 3, BYTES_END = 259 };
    const char *why = NULL;
    float score;
    llamac_cursor text;
    llamac_uint(&c, 4);
    for (int32_t id = 0; !why && llamac_left(&c) && bin_next(&c, &score, &text); id++) {
        char piece[MAX_PIECE + 3];
        size_t n = llamac_left(&text), to = 0;
        for (size_t i = 0; i < n && to <= MAX_PIECE; i++) /* longer ones are refused */
            if (text.at[i] == ' ') memcpy(piece + to, SPACE, 3), to += 3;
            else piece[to++] = (char)text.at[i];
        int type = id == 0                                   ? UNKNOWN
                   : id == BOS || id == EOS                  ? CONTROL
                   : id >= BYTES && id < BYTES_END && n == 6 ? BYTE
                                                             : NORMAL;
        why = vocab_add(v, piece, to, score, type);
    }
    return why ? why : vocab_settle(v, BOS, EOS, true);
}

/* Hugging Face's tokenizer.json, where it says what LLaMA's tokenizer.model says: BPE with bytes to
 * fall back on, a space in front. It has merges in the place of scores. */

static const float UNSCORED = -3e38f;    /* a piece whose merge was not seen yet */
static const float SPACES_SCORE = -1e9f; /* what tokenizer.model gives runs of spaces */

typedef struct {
    llamac_arena scratch;
    struct {
        const char *text; /* NULL: no such id */
        size_t n;
        int type;
    } * pieces;  /* [room] by id */
    size_t room; /* ids that may be */
    size_t size; /* the highest id and one */
    bool bpe, byte_fallback, space_in_front;
    /* the added token being read */
    const char *content;
    size_t n_content;
    double id;
} json_vocab;

/* A JSON string with its escapes resolved, in UTF-8; NULL: it is none and *why says so, or there is
 * no memory for it. */
static char *json_unescape(llamac_arena *arena, const char *text, size_t n, size_t *length,
                           const char **why) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char *out = llamac_new(arena, n + 1, 1);
    size_t k = 0;
    *why = out ? "has a text that is none" : out_of_memory;
    for (size_t i = 0; out && i < n; i++) {
        if (text[i] != '\\') {
            out[k++] = text[i];
            continue;
        }
        const char *plain = strchr(from, text[++i]);
        if (plain) {
            out[k++] = to[plain - from];
            continue;
        }
        uint32_t code = 0, high = 0;
        for (int turn = 0; turn < 2 && (turn == 0 || high); turn++) { /* a pair makes one */
            if (turn && (n - i < 7 || text[++i] != '\\' || text[++i] != 'u')) return NULL;
            if (text[i] != 'u' || n - i < 5) return NULL;
            code = 0;
            for (int d = 0; d < 4; d++) {
                char c = text[++i];
                int digit = c >= '0' && c <= '9'                 ? c - '0'
                            : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                 : -1;
                if (digit < 0) return NULL;
                code = code * 16 + (uint32_t)digit;
            }
            if (turn && (code < 0xdc00 || code > 0xdfff)) return NULL;
            if (turn) code = 0x10000 + ((high - 0xd800) << 10) + (code - 0xdc00);
            high = !turn && code >= 0xd800 && code < 0xdc00 ? code : 0;
        }
        if (code >= 0x80) { /* at most as long as its escape */
            int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
            static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
            out[k++] = (char)(first[more] | code >> (6 * more));
            while (more--) out[k++] = (char)(0x80 | (code >> (6 * more) & 0x3f));
        } else out[k++] = (char)code;
    }
    *length = k;
    return out;
}

/* A piece of that id and type, which the vocabulary and the added tokens may both have. */
static const char *json_piece(json_vocab *k, double id, const char *text, size_t n, int type) {
    if (!(id >= 0 && id < (double)k->room && id == (double)(size_t)id))
        return "has more pieces than the model, or ids that are none";
    size_t i = (size_t)id, length = 0;
    const char *why, *plain = json_unescape(&k->scratch, text, n, &length, &why);
    if (!plain) return why;
    if (k->pieces[i].text &&
        (k->pieces[i].n != length || memcmp(k->pieces[i].text, plain, length) != 0))
        return "has two pieces of one id";
    if (!k->pieces[i].text || type == CONTROL) k->pieces[i].type = type; /* in whichever order */
    k->pieces[i].text = plain;
    k->pieces[i].n = length;
    if (i + 1 > k->size) k->size = i + 1;
    return NULL;
}

/* One value outside the merges: a piece, or what says how text is treated. */
static const char *json_setting(json_vocab *k, const llamac_json *j) {
    static const char other[] = "treats text otherwise than LLaMA's SentencePiece does";
    const struct {
        const char *part, *key, *text;
    } wants[] = {{"model", "type", "BPE"},
                 {"normalizer", "type", "Sequence|Prepend|Replace"},
                 {"normalizer", "prepend", SPACE},
                 {"normalizer", "String", " "},
                 {"normalizer", "content", SPACE},
                 {"pre_tokenizer", "type", "Metaspace"},
                 {"pre_tokenizer", "replacement", SPACE},
                 {"pre_tokenizer", "prepend_scheme", "first|always"}};
    size_t n = 0;
    const char *why, *says = "";
    if (strchr("[]{}n", j->kind)) return NULL;
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        if (!llamac_json_under(j, 1, wants[i].part) ||
            !llamac_json_under(j, j->level, wants[i].key) ||
            (i == 0 && j->level != 2)) /* pieces may be called so too */
            continue;
        bool right = false;
        if (j->kind == '"' && !(says = json_unescape(&k->scratch, j->text, j->n, &n, &why)))
            return why;
        for (const char *one = wants[i].text; one;
             one = strchr(one, '|') ? strchr(one, '|') + 1 : NULL)
            right |= strcspn(one, "|") == n && memcmp(one, says, n) == 0;
        if (!right) return i == 0 ? "is not BPE, as LLaMA's is" : other;
        k->bpe |= i == 0;
        k->space_in_front |= wants[i].key[0] == 'p'; /* prepend, prepend_scheme */
    }
    if (llamac_json_under(j, 1, "model") && llamac_json_under(j, 2, "byte_fallback"))
        k->byte_fallback = j->kind == 't';
    if (j->level == 3 && llamac_json_under(j, 1, "model") && llamac_json_under(j, 2, "vocab"))
        return j->kind == '0' ? json_piece(k, j->number, j->key[3].text, j->key[3].n, NORMAL)
                              : other;
    if (j->level != 3 || !llamac_json_under(j, 1, "added_tokens")) return NULL;
    if (llamac_json_under(j, 3, "id")) k->id = j->number;
    if (llamac_json_under(j, 3, "content")) k->content = j->text, k->n_content = j->n;
    return NULL;
}

/* All but the merges. */
static const char *json_pieces(json_vocab *k, llamac_json j) {
    const char *why = NULL;
    while (!why && llamac_json_next(&j)) {
        if (j.level == 2 && llamac_json_under(&j, 1, "added_tokens") && j.kind == '{')
            k->content = NULL, k->id = -1;
        else if (j.level == 2 && llamac_json_under(&j, 1, "added_tokens") && j.kind == '}')
            why = k->content ? json_piece(k, k->id, k->content, k->n_content, CONTROL)
                             : "has an added token without content";
        else if (!llamac_json_under(&j, 2, "merges")) why = json_setting(k, &j);
    }
    if (why) return why;
    if (j.c.bad) return "is not JSON";
    if (!k->bpe || !k->byte_fallback || !k->space_in_front)
        return "is not a BPE vocabulary with byte_fallback and a space in front, as LLaMA's is";
    return NULL;
}

/* The next merge, "left right" or ["left", "right"], joined in memory of ours: its length; 0: there
 * is none, or it is malformed and *why says so. */
static size_t json_merge(json_vocab *k, llamac_json *j, char **joined, const char **why) {
    char *left = NULL;
    size_t n_left = 0, n = 0;
    while (llamac_json_next(j)) {
        static const char none[] = "has a merge that is none";
        const char *wrong;
        if (j->level < 3 || !llamac_json_under(j, 1, "model") ||
            !llamac_json_under(j, 2, "merges") ||
            (j->level == 3 && strchr("[]", j->kind) && !left)) /* around a pair */
            continue;
        if (j->kind != '"' || j->level > 4) return *why = none, 0;
        char *text = json_unescape(&k->scratch, j->text, j->n, &n, &wrong);
        char *space = text && j->level == 3 ? memchr(text, ' ', n) : NULL;
        if (!text || (j->level == 3 && !space)) {
            *why = text ? none : wrong;
            return 0;
        }
        if (space) { /* the two parts move together */
            memmove(space, space + 1, n - (size_t)(space + 1 - text));
            *joined = text;
            return n - 1;
        }
        if (!left) left = text, n_left = n; /* the first of a pair */
        else {
            *joined = llamac_new(&k->scratch, n_left + n + 1, 1);
            if (!*joined) return *why = out_of_memory, 0;
            memcpy(*joined, left, n_left);
            memcpy(*joined + n_left, text, n);
            return n_left + n;
        }
    }
    return 0;
}

/* The earlier a merge, the higher its piece's score. All merges of a piece must be neighbours, as
 * scores make them. Pieces of spaces alone, where they come last, have one score together. */
static const char *json_scores(json_vocab *k, llamac_vocab *v, llamac_json j) {
    static const char other[] = "has merges that are not SentencePiece's";
    int32_t previous = -1, id;
    float rank = 0, others = 0, spaces = 0; /* so far; the last of others; the first of spaces */
    bool apart = false;                     /* a piece of spaces was met in two places */
    const char *why = NULL;
    char *text;
    for (size_t n; (n = json_merge(k, &j, &text, &why)); previous = id) {
        id = n <= MAX_PIECE ? vocab_find(v, text, n) : -1;
        if (id < 0) return other;
        bool space = n % 3 == 0;
        for (size_t i = 0; i < n && space; i++) space = text[i] == SPACE[i % 3];
        if (id == previous) continue;
        if (v->pieces[id].score != UNSCORED && !space) return other;
        apart |= v->pieces[id].score != UNSCORED;
        v->pieces[id].score = -++rank;
        if (!space) others = rank;
        else if (spaces == 0) spaces = rank;
    }
    if (!why && apart && spaces < others) why = other;
    for (int32_t i = 0; i < v->size && !why; i++) {
        vocab_piece *p = &v->pieces[i];
        bool one = utf8_length((const unsigned char *)p->text, p->n) == p->n;
        if (p->type == NORMAL && p->score == UNSCORED && !one) why = other; /* no merge makes it */
        if (spaces > others && p->score <= -spaces && p->score != UNSCORED) p->score = SPACES_SCORE;
    }
    return why;
}

static const char *parse_json(llamac_vocab **out, llamac_cursor c, size_t most,
                              llamac_arena *arena) {
    json_vocab k = {.scratch = {arena->allocator, NULL}, .room = most};
    const llamac_json j = llamac_json_on(c.at, llamac_left(&c));
    llamac_vocab *v = NULL;
    int32_t bos = -1, eos = -1;
    k.pieces = llamac_new(&k.scratch, most, sizeof *k.pieces);
    const char *why = k.pieces ? json_pieces(&k, j) : out_of_memory;
    if (!why && !(v = vocab_new(arena, k.size))) why = out_of_memory;
    for (size_t id = 0; id < k.size && !why; id++) {
        const char *text = k.pieces[id].text;
        vocab_piece p = {text, (uint32_t)k.pieces[id].n, 0, BYTE};
        if (!text) why = "lacks the piece of some id";
        else {
            int type = byte_of(&p) >= 0        ? BYTE
                       : is_named(&p, "<unk>") ? UNKNOWN
                                               : k.pieces[id].type;
            if (is_named(&p, "<s>")) bos = (int32_t)id;
            if (is_named(&p, "</s>")) eos = (int32_t)id;
            why = vocab_add(v, text, k.pieces[id].n, UNSCORED, type);
        }
    }
    if (!why) why = json_scores(&k, v, j);
    if (!why) why = vocab_settle(v, bos, eos, true);
    llamac_free_all(&k.scratch);
    *out = v;
    return why;
}

/* ---- GGUF has texts, scores and types in three arrays ---- */

LLAMAC_SHARED void llamac_vocab_note(llamac_gguf_vocab *v, const llamac_pair *p) {
    static const char prefix[] = "tokenizer.ggml.";
    enum { PREFIX = sizeof prefix - 1 };
    const struct {
        const char *key;
        llamac_pair *pair;
        double *number;
    } keys[] = {
        {"model", &v->model, NULL},
        {"tokens", &v->tokens, NULL},
        {"scores", &v->scores, NULL},
        {"token_type", &v->types, NULL},
        {"bos_token_id", NULL, &v->bos},
        {"eos_token_id", NULL, &v->eos},
        {"add_space_prefix", NULL, &v->space_in_front},
    };
    if (p->length < PREFIX || memcmp(p->key, prefix, PREFIX) != 0) return;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (p->length - PREFIX != strlen(keys[i].key) ||
            memcmp(p->key + PREFIX, keys[i].key, strlen(keys[i].key)) != 0)
            continue;
        if (keys[i].pair) *keys[i].pair = *p;
        else if (keys[i].number && p->kind != '"' && p->kind != '[')
            *keys[i].number = p->kind == '0' ? p->number : p->kind == 't';
    }
}

static bool is_pair(const llamac_pair *p, const char *text) {
    return p->kind == '"' && p->n == strlen(text) && memcmp(p->text, text, strlen(text)) == 0;
}

/* Added tokens, which are user-defined there, are shown and never made from text. */
LLAMAC_SHARED int llamac_vocab_gather(llamac_vocab **out, llamac_gguf_vocab *g, size_t most,
                                      const char *file, llamac_arena *arena, llama_error *err) {
    const char *why = NULL;
    bool none = is_pair(&g->model, "none") || is_pair(&g->model, "no_vocab");
    if (none || (!g->model.kind && !g->tokens.kind && !g->scores.kind && !g->types.kind))
        return LLAMA_OK;
    if (!is_pair(&g->model, "llama"))
        return llamac_fail(
            err, LLAMA_EFORMAT,
            "%s: its vocabulary is of kind '%.*s', not 'llama' (SentencePiece); give "
            "tokenizer.model as the tokenizer",
            file, g->model.kind == '"' && g->model.n < 64 ? (int)g->model.n : 0,
            g->model.text ? g->model.text : "");
    if (g->tokens.kind != '[' || g->tokens.n > most || g->scores.kind != '[' ||
        g->types.kind != '[' || g->scores.n != g->tokens.n || g->types.n != g->tokens.n)
        return llamac_fail(err, LLAMA_EFORMAT, "%s: its vocabulary is not whole; make it anew",
                           file);
    llamac_vocab *v = vocab_new(arena, (size_t)g->tokens.n);
    if (!v) return llamac_out_of_memory(err, file);
    for (uint64_t i = 0; i < g->tokens.n && !why; i++) {
        llamac_pair text, score, type;
        if (llamac_gguf_value(&g->tokens.items, g->tokens.type, &text) != '"' ||
            llamac_gguf_value(&g->scores.items, g->scores.type, &score) != '0' ||
            llamac_gguf_value(&g->types.items, g->types.type, &type) != '0' ||
            !(type.number >= 0 && type.number <= BYTE))
            why = "has a vocabulary of other types than texts and numbers";
        else
            why = vocab_add(v, text.text, (size_t)text.n, (float)score.number,
                            type.number == USER_DEFINED ? UNUSED : (int)type.number);
    }
    if (!why) why = vocab_settle(v, g->bos, g->eos, g->space_in_front != 0);
    if (why == out_of_memory) return llamac_out_of_memory(err, file);
    if (why) return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; make it anew", file, why);
    *out = v;
    return LLAMA_OK;
}

/* ---- Whichever it is ---- */

/* Llama 3's: lines of a piece in base64 and its rank. */
static bool is_tiktoken(llamac_cursor c) {
    size_t n = 0;
    while (c.at < c.end && n++ < 64 &&
           (*c.at == '=' || *c.at == '+' || *c.at == '/' || (*c.at >= '0' && *c.at <= '9') ||
            ((*c.at | 32) >= 'a' && (*c.at | 32) <= 'z')))
        c.at++;
    return n > 1 && llamac_uint(&c, 2) == (' ' | '0' << 8) && llamac_uint(&c, 1) == '\n';
}

LLAMAC_SHARED int llamac_vocab_parse(llamac_vocab **out, llamac_cursor bytes, size_t most,
                                     const char *file, llamac_arena *arena, llama_error *err) {
    static const char advice[] = "use the tokenizer.model Meta ships";
    llamac_cursor c = bytes;
    size_t pieces = proto_count(bytes), plain = pieces ? 0 : bin_count(bytes);
    bool json = !pieces && !plain && llamac_json_is(&c, '{');
    const char *why = NULL;
    if (!pieces && !plain && !json)
        return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; %s", file,
                           is_tiktoken(bytes)
                               ? "is a tiktoken vocabulary (Llama 3's), which is not supported"
                               : "is not a SentencePiece model, or cut short",
                           advice);
    if (pieces + plain > most || (plain && plain < most))
        return llamac_fail(err, LLAMA_EFORMAT, "%s: has %zu pieces, the model %zu; it is another's",
                           file, pieces + plain, most);
    llamac_vocab *v = json ? NULL : vocab_new(arena, pieces + plain);
    if (json) why = parse_json(&v, bytes, most, arena);
    else if (!v) why = out_of_memory;
    else why = pieces ? parse_proto(v, bytes) : parse_bin(v, bytes);
    if (why == out_of_memory) return llamac_out_of_memory(err, file);
    if (why) return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; %s", file, why, advice);
    *out = v;
    return LLAMA_OK;
}
LLAMAC_SHARED int32_t llamac_vocab_bos(const llamac_vocab *v) { return v->bos; }
LLAMAC_SHARED int32_t llamac_vocab_eos(const llamac_vocab *v) { return v->eos; }

/* ---- 2. Encoding ---- */

/* One symbol: a run of the normalised text, linked to its neighbours. Merged into the one
 * on its left it has n = 0. */
typedef struct {
    size_t begin, n;
    size_t left, right; /* NOWHERE at the ends */
} symbol;

/* A pair that may be merged; out of date when the two no longer add up to n bytes. */
typedef struct {
    float score;
    size_t left, right, n;
} candidate;

static const size_t NOWHERE = SIZE_MAX;

typedef struct {
    const llamac_vocab *v;
    const llama_allocator *allocator;
    char *text; /* normalised */
    size_t n_text, room_text;
    symbol *symbols;
    size_t n_symbols, room_symbols;
    candidate *heap;
    size_t n_heap, room_heap;
} encoder;

/* Spaces and invalid bytes are the only characters that change: each becomes three bytes. */
static void normalise(encoder *e, const unsigned char *text, size_t n) {
    size_t to = 0;
    if (e->v->space_in_front) memcpy(e->text, SPACE, to = 3);
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length(text + i, n - i);
        const char *from = length == 0      ? REPLACEMENT
                           : text[i] == ' ' ? SPACE
                                            : (const char *)text + i;
        size_t bytes = length == 0 || text[i] == ' ' ? 3 : length;
        memcpy(e->text + to, from, bytes);
        to += bytes;
        i += length ? length : 1;
    }
    e->n_text = to;
}

static bool outranks(const candidate *a, const candidate *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

/* Put the pair (left, right) into the heap if its join is a piece. */
static void propose(encoder *e, size_t left, size_t right) {
    if (left == NOWHERE || right == NOWHERE) return;
    size_t n = e->symbols[left].n + e->symbols[right].n;
    int32_t id = n <= MAX_PIECE ? vocab_find(e->v, e->text + e->symbols[left].begin, n) : -1;
    if (id < 0) return;
    candidate c = {e->v->pieces[id].score, left, right, n};
    size_t i = e->n_heap++;
    for (; i && outranks(&c, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = c;
}

static candidate take_best(encoder *e) {
    candidate best = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < e->n_heap; i = child) {
        if (child + 1 < e->n_heap && outranks(&e->heap[child + 1], &e->heap[child])) child++;
        if (!outranks(&e->heap[child], &last)) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return best;
}

/* Characters into symbols, then merge until no pair makes a piece. */
static void merge(encoder *e) {
    for (size_t i = 0; i < e->n_text;) {
        size_t n = utf8_length((const unsigned char *)e->text + i, e->n_text - i),
               k = e->n_symbols++;
        e->symbols[k] = (symbol){i, n, k ? k - 1 : NOWHERE, k + 1};
        i += n;
    }
    e->symbols[e->n_symbols - 1].right = NOWHERE;
    for (size_t k = 1; k < e->n_symbols; k++) propose(e, k - 1, k);
    while (e->n_heap) {
        candidate c = take_best(e);
        symbol *left = &e->symbols[c.left], *right = &e->symbols[c.right];
        if (!left->n || !right->n || left->n + right->n != c.n) continue;
        left->n = c.n;
        right->n = 0;
        left->right = right->right;
        if (right->right != NOWHERE) e->symbols[right->right].left = c.left;
        propose(e, left->left, c.left);
        propose(e, c.left, left->right);
    }
}

/* Symbols that are no piece fall back to their bytes, or to <unk>, once for a run of them. */
static size_t emit(const encoder *e, int32_t *out, size_t cap, size_t count) {
    const llamac_vocab *v = e->v;
    bool unknown = false;
    for (size_t k = 0; k != NOWHERE; k = e->symbols[k].right) {
        const char *text = e->text + e->symbols[k].begin;
        size_t n = e->symbols[k].n;
        int32_t id = vocab_find(v, text, n);
        bool bytes = id < 0 && v->byte_id[(unsigned char)text[0]] >= 0;
        if (id >= 0 || (!bytes && !unknown)) {
            if (count < cap) out[count] = id >= 0 ? id : v->unk;
            count++;
        }
        for (size_t i = 0; bytes && i < n; i++, count++)
            if (count < cap) out[count] = v->byte_id[(unsigned char)text[i]];
        unknown = id < 0 && !bytes;
    }
    return count;
}

static void *allocate(encoder *e, size_t count, size_t size) {
    return count > SIZE_MAX / 2 / size ? NULL
                                       : e->allocator->alloc(e->allocator->user, count * size, 64);
}

static void encoder_free(encoder *e) {
    const llama_allocator *a = e->allocator;
    if (e->text) a->free(a->user, e->text, e->room_text);
    if (e->symbols) a->free(a->user, e->symbols, e->room_symbols * sizeof *e->symbols);
    if (e->heap) a->free(a->user, e->heap, e->room_heap * sizeof *e->heap);
}

LLAMAC_SHARED ptrdiff_t llamac_encode(const llamac_vocab *v, const llama_allocator *allocator,
                                      const char *text, size_t n, unsigned flags, int32_t *out,
                                      size_t cap) {
    if ((n && !text) || (cap && !out) || n > PTRDIFF_MAX / 64 || (flags & ~(unsigned)LLAMA_ADD_BOS))
        return LLAMA_EINVAL;
    size_t count = 0;
    if ((flags & LLAMA_ADD_BOS) && v->bos >= 0) {
        if (cap) out[0] = v->bos;
        count = 1;
    }
    if (n == 0) return (ptrdiff_t)count;
    encoder e = {.v = v, .allocator = allocator};
    e.room_text = 3 * n + 3;
    e.text = allocate(&e, e.room_text, 1);
    if (e.text) {
        normalise(&e, (const unsigned char *)text, n);
        e.room_symbols = e.n_text;
        e.room_heap = 2 * e.n_text; /* a merge takes one pair out and puts two in */
        e.symbols = allocate(&e, e.room_symbols, sizeof *e.symbols);
        e.heap = allocate(&e, e.room_heap, sizeof *e.heap);
    }
    bool enough = e.text && e.symbols && e.heap;
    if (enough) {
        merge(&e);
        count = emit(&e, out, cap, count);
    }
    encoder_free(&e);
    return enough ? (ptrdiff_t)count : LLAMA_ENOMEM;
}

/* ---- 3. Decoding ---- */

LLAMAC_SHARED const char *llamac_piece(const llamac_vocab *v, int32_t token, size_t *n) {
    if (token < 0 || token >= v->size) return NULL;
    if (n) *n = v->pieces[token].n;
    return v->pieces[token].n ? v->pieces[token].text : "";
}

/* Give out the pending bytes that are decided: whole characters, and a U+FFFD for each byte
 * that cannot begin one. With `all`, nothing more will come and every byte is decided. */
static size_t settle_pending(llama_decoder *u, bool all, char *out) {
    size_t to = 0;
    while (u->n) {
        size_t length = utf8_length(u->pending, u->n), used = length ? length : 1;
        if (!length &&
            !all) { /* might the bytes to come complete it? try the least and the greatest */
            unsigned char low[4] = {0x80, 0x80, 0x80, 0x80}, high[4] = {0xbf, 0xbf, 0xbf, 0xbf};
            memcpy(low, u->pending, u->n);
            memcpy(high, u->pending, u->n);
            if (u->n < 4 && (utf8_length(low, 4) > u->n || utf8_length(high, 4) > u->n)) break;
        }
        memcpy(out + to, length ? (const char *)u->pending : REPLACEMENT, length ? length : 3);
        to += length ? length : 3;
        u->n = (unsigned char)(u->n - used);
        memmove(u->pending, u->pending + used, u->n);
    }
    return to;
}

LLAMAC_SHARED size_t llamac_decode(const llamac_vocab *v, llama_decoder *u, int32_t token,
                                   char out[LLAMA_TEXT_MAX]) {
    if (!u || !out || u->n >= sizeof u->pending) return 0;
    if (token == LLAMA_FLUSH) return settle_pending(u, true, out);
    if (token < 0 || token >= v->size) return 0;
    const vocab_piece *p = &v->pieces[token];
    if (p->type == BYTE) {
        u->started = 1;
        u->pending[u->n++] = (unsigned char)byte_of(p);
        return settle_pending(u, false, out);
    }
    size_t to = settle_pending(u, true, out);
    if (p->type == CONTROL) return to;
    const char *text = p->type == UNKNOWN ? UNK_TEXT : p->text;
    size_t n = p->type == UNKNOWN ? sizeof UNK_TEXT - 1 : p->n;
    for (size_t i = 0; i < n;) {
        bool space = n - i >= 3 && memcmp(text + i, SPACE, 3) == 0;
        if (!space) out[to++] = text[i];
        if (space && (u->started || i > 0 || !v->space_in_front)) out[to++] = ' ';
        i += space ? 3 : 1;
    }
    u->started = 1;
    return to;
}

LLAMAC_API ptrdiff_t llama_text_to_tokens(const llama *m, const char *text, size_t n,
                                          unsigned flags, int32_t *out, size_t cap) {
    const llamac_vocab *v = llamac_vocab_of(m);
    return v ? llamac_encode(v, llamac_allocator_of(m), text, n, flags, out, cap) : LLAMA_EINVAL;
}

LLAMAC_API const char *llama_token_text(const llama *m, int32_t token, size_t *n) {
    const llamac_vocab *v = llamac_vocab_of(m);
    if (n) *n = 0;
    return v ? llamac_piece(v, token, n) : NULL;
}

LLAMAC_API size_t llama_token_to_text(const llama *m, llama_decoder *u, int32_t token,
                                      char out[LLAMA_TEXT_MAX]) {
    const llamac_vocab *v = llamac_vocab_of(m);
    return v ? llamac_decode(v, u, token, out) : 0;
}

/* ---- 4. Whole texts ---- */

LLAMAC_API size_t llama_find_stop(const char *text, size_t n, const char *const *stops,
                                  size_t n_stops, size_t *keep) {
    size_t at = n, held = 0;
    for (size_t s = 0; s < n_stops; s++)
        for (size_t i = 0, length = strlen(stops[s]); i < n; i++) {
            size_t left = n - i;
            if (memcmp(text + i, stops[s], left < length ? left : length) != 0) continue;
            if (left >= length && i < at) at = i;
            if (left < length && left > held) held = left;
            break;
        }
    if (keep) *keep = held;
    return at;
}

static size_t common(const int32_t *a, size_t n, const int32_t *b, size_t m) {
    size_t k = 0;
    while (k < n && k < m && a[k] == b[k]) k++;
    return k;
}

/* How many of the tokens stand in a sequence already. */
static size_t standing(const llama_session *s, int seq, const int32_t *tokens, size_t n) {
    return common(tokens, n, llama_tokens(s, seq), llama_length(s, seq));
}

/* Shorten a sequence to the first `keep` of n tokens, or, if those are all and their logits are not
 * there, to one less. Returns how many stay. */
static size_t cut_back(llama_session *s, int seq, size_t keep, size_t n) {
    bool ready = llama_length(s, seq) == keep && llama_logits(s, seq);
    if (keep && keep == n && !ready) keep--;
    llama_rewind(s, seq, keep);
    return keep;
}

LLAMAC_API int llama_prefill(llama_session *s, int seq, const int32_t *tokens, size_t n) {
    if (!llama_tokens(s, seq) || (n && !tokens)) return llama_eval(s, seq, tokens, n); /* why not */
    size_t keep = cut_back(s, seq, standing(s, seq, tokens, n), n);
    return llama_eval(s, seq, tokens + keep, n - keep);
}

enum { AT_ONCE = 64 }; /* sequences in one pass, at most */
enum { WORTH = 8 };    /* so many tokens in common, and a text waits for them, or they are copied */

/* Give a text a free sequence, and all of its prompt that stands in any. False: there is none, or
 * one that begins now will have more of it in a moment. */
static bool admit(llama_session *s, llama_request *t, llama_request **in, int sequences) {
    size_t most = 0, coming = 0, n = t->n_prompt;
    int from = -1, to = -1;
    for (int k = 0; k < sequences; k++) {
        size_t there = standing(s, k, t->prompt, n);
        if (from < 0 || there > most) most = there, from = k;
        if (!in[k] && to < 0) to = k;
        size_t soon = in[k] && in[k]->generated == 0
                          ? common(t->prompt, n, in[k]->prompt, in[k]->n_prompt)
                          : 0;
        if (soon > coming) coming = soon;
    }
    if (to < 0 || coming > most + WORTH || (coming == n && coming > most)) return false;
    if (!in[from]) to = from;
    else if (most >= WORTH || most == n) llama_fork(s, to, from);
    else most = standing(s, to, t->prompt, n);
    in[to] = t;
    t->seq = to;
    t->finish_reason = LLAMA_FINISH_NONE;
    t->generated = 0;
    t->cached_tokens = cut_back(s, to, most, n);
    return true;
}

/* The next token of a text whose sequence has logits; after the last one, its finish. */
static int draw(const llama *m, llama_session *s, llama_request *t, llama_request_fn fn,
                void *user) {
    char text[LLAMA_TEXT_MAX];
    int said = 0;
    if (t->max_tokens == 0) t->finish_reason = LLAMA_FINISH_LENGTH;
    else if ((t->token = llama_sample(s, t->seq, &t->sampler)) < 0) return t->token;
    else if (t->token == llama_eos(m)) t->finish_reason = LLAMA_FINISH_EOS;
    if (!t->finish_reason) {
        t->generated++;
        said = fn(user, t, text, llama_token_to_text(m, &t->utf8, t->token, text));
        if (said < 0) return said;
        if (said > 0) t->finish_reason = LLAMA_FINISH_STOP;
        else if (t->generated == t->max_tokens) t->finish_reason = LLAMA_FINISH_LENGTH;
        if (!t->finish_reason) return LLAMA_OK;
    }
    said = fn(user, t, text, said > 0 ? 0 : llama_token_to_text(m, &t->utf8, LLAMA_FLUSH, text));
    return said < 0 ? said : LLAMA_OK;
}

LLAMAC_API int llama_generate(const llama *m, llama_session *s, llama_request *texts, size_t n,
                              llama_request_fn fn, void *user) {
    llama_request *in[AT_ONCE] = {NULL}; /* the text of each sequence */
    llama_span spans[AT_ONCE];
    int sequences = 0, status = LLAMA_OK;
    bool given = m && s && fn && (!n || texts);
    for (size_t i = 0; i < n && given; i++) given = !texts[i].n_prompt || texts[i].prompt;
    if (!given) return llamac_failed(s, LLAMA_EINVAL, "texts and their prompts must be given");
    while (sequences < AT_ONCE && llama_tokens(s, sequences)) sequences++;
    for (size_t next = 0, going = 1; going && status == LLAMA_OK;) {
        while (next < n && admit(s, &texts[next], in, sequences)) next++;
        /* The prompts of texts that begin, the last tokens of the others */
        going = 0;
        for (int k = 0; k < sequences; k++) {
            llama_request *t = in[k];
            if (t && t->generated) spans[going++] = (llama_span){k, &t->token, 1};
            else if (t)
                spans[going++] =
                    (llama_span){k, t->prompt + t->cached_tokens, t->n_prompt - t->cached_tokens};
        }
        status = llama_eval_batch(s, spans, going);
        for (int k = 0; k < sequences && status == LLAMA_OK; k++) {
            if (in[k]) status = draw(m, s, in[k], fn, user);
            if (in[k] && in[k]->finish_reason) in[k] = NULL;
        }
    }
    return status;
}

/* ---- What an ending is worth behind its context ---- */

enum { CONTEXTS = 2 }; /* sequences that hold contexts; each other one holds an ending behind one */

/* Unicode's white space, and the separators that Python's str.isspace has besides */
static bool is_space(int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= ' ') || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Without the white space at the end of a context, which belongs to the ending */
static size_t bare_length(const char *text, size_t n) {
    size_t bare = 0;
    for (size_t i = 0, size; i < n; i += size) {
        int32_t c;
        size = llama_utf8_next(text + i, n - i, &c);
        if (!is_space(c)) bare = i + size;
    }
    return bare;
}

/* The tokens of context and ending as one text, [given + tokens]: but those of the context are the
 * ones it has alone, and the last one is the ending's even where the joint fell into it. */
static int tokenize_ending(const llama *m, llama_continuation *e, int32_t **tokens,
                           llamac_arena *arena) {
    size_t n = e->n_context + e->n_ending;
    size_t room = 3 * (n + 1) + 1, bare; /* a space may be 3 tokens */
    if ((!e->context && e->n_context) || (!e->ending && e->n_ending)) return LLAMA_EINVAL;
    if ((e->n_context | e->n_ending) > PTRDIFF_MAX / 64) return LLAMA_ENOMEM;
    char *text = llamac_new(arena, n, 1);
    int32_t *own = llamac_new(arena, room, sizeof *own);
    *tokens = llamac_new(arena, room, sizeof **tokens);
    if (!text || !own || !*tokens) return LLAMA_ENOMEM;
    if (e->n_context) memcpy(text, e->context, e->n_context);
    if (e->n_ending) memcpy(text + e->n_context, e->ending, e->n_ending);
    bare = bare_length(text, e->n_context);
    ptrdiff_t given = llama_text_to_tokens(m, text, bare, LLAMA_ADD_BOS, own, room);
    ptrdiff_t all = llama_text_to_tokens(m, text, n, LLAMA_ADD_BOS, *tokens, room);
    if (given < 0 || all <= 0) return given < 0 ? (int)given : all < 0 ? (int)all : LLAMA_EINVAL;
    if (given >= all) given = all - 1;
    else memcpy(*tokens, own, (size_t)given * sizeof *own);
    e->given = (size_t)given;
    e->tokens = (size_t)(all - given);
    return LLAMA_OK;
}

/* The sequence that has the context, or had better get it. */
static int context_sequence(const llama_session *s, const int32_t *tokens, size_t n) {
    size_t first = standing(s, 0, tokens, n), second = standing(s, 1, tokens, n);
    return second > first || (first < WORTH && llama_length(s, 1) == 0 && llama_length(s, 0));
}

/* Endings that fit into the sequences there are, in one pass behind those of their contexts. */
static int score_endings(const llama *m, llama_session *s, llama_continuation *e, size_t n,
                         llamac_arena *arena) {
    llama_span spans[AT_ONCE];
    size_t total = 0;
    int status = LLAMA_OK;
    for (size_t k = 0; k < n && status == LLAMA_OK; k++) {
        int32_t *tokens;
        if ((status = tokenize_ending(m, &e[k], &tokens, arena)) || !s) continue;
        int from = context_sequence(s, tokens, e[k].given), to = CONTEXTS + (int)k;
        status = llama_prefill(s, from, tokens, e[k].given);
        if (status == LLAMA_OK) status = llama_fork(s, to, from);
        spans[k] = (llama_span){to, tokens + e[k].given, e[k].tokens};
        total += e[k].tokens;
    }
    if (status || !s) return status;
    float *logprob = llamac_new(arena, total, sizeof *logprob);
    int32_t *rank = llamac_new(arena, total, sizeof *rank);
    if (!logprob || !rank) return LLAMA_ENOMEM;
    status = llama_score_batch(s, spans, n, logprob, rank);
    uint64_t mode = llamac_fp_enter();
    for (size_t k = 0; k < n && status == LLAMA_OK; k++) {
        e[k].logprob = 0;
        e[k].greedy = 1;
        for (size_t t = 0; t < e[k].tokens; t++, logprob++)
            e[k].logprob += (double)*logprob, e[k].greedy &= *rank++ == 0;
    }
    llamac_fp_leave(mode);
    return status;
}

LLAMAC_API int llama_loglikelihood(const llama *m, llama_session *s, llama_continuation *e,
                                   size_t n) {
    int sequences = 0, status = LLAMA_OK;
    if (!m || (n && !e)) return llamac_failed(s, LLAMA_EINVAL, "endings must be given");
    while (sequences < AT_ONCE + CONTEXTS && llama_tokens(s, sequences)) sequences++;
    if (s && sequences <= CONTEXTS)
        return llamac_failed(s, LLAMA_EINVAL, "endings need a session of 3 sequences or more");
    size_t room = s ? (size_t)(sequences - CONTEXTS) : 1;
    for (size_t i = 0, group; i < n && status == LLAMA_OK; i += group) {
        llamac_arena arena = {*llamac_allocator_of(m), NULL};
        group = n - i < room ? n - i : room;
        status = score_endings(m, s, e + i, group, &arena);
        llamac_free_all(&arena);
    }
    if (status == LLAMA_ENOMEM) llamac_failed(s, status, "there is no memory for the endings");
    return status;
}

/* ---- Files of saved state ---- */

static int write_all(void *fd, const void *p, size_t n) {
    for (ssize_t wrote; n; p = (const char *)p + wrote, n -= (size_t)wrote) {
        wrote = write(*(int *)fd, p, n);
        if (wrote < 0 && errno != EINTR) return -1;
        if (wrote < 0) wrote = 0;
    }
    return 0;
}
static int read_all(void *fd, void *p, size_t n) {
    return llamac_read(*(int *)fd, p, n) != (ptrdiff_t)n;
}

/* Where a state goes that is saved as `path`: where links lead to, and with the mode of what is
 * there. That must be a state, or empty: nothing else is lost by a slip. */
static int place_of_state(char real[LLAMAC_PATH_BYTES], const char *path, mode_t *mode,
                          llama_error *err) {
    struct stat st = {.st_mode = 0600};
    char magic[sizeof LLAMAC_STATE - 1] = "";
    int fd = llamac_open_file(path, &st, err);
    bool is_new = llamac_is_absent(fd), empty = fd == LLAMA_EFORMAT; /* of length 0 */
    if (fd >= 0) {
        bool is_state = llamac_read(fd, magic, sizeof magic) == sizeof magic &&
                        memcmp(magic, LLAMAC_STATE, sizeof magic) == 0;
        close(fd);
        if (!is_state)
            return llamac_fail(err, LLAMA_EINVAL,
                               "%s: is there, and no saved state; give another name", path);
    } else if (!is_new && !empty) return fd;
    *mode = st.st_mode & 0777;
    if (is_new) snprintf(real, LLAMAC_PATH_BYTES, "%s", path);
    else if (!realpath(path, real)) /* gone since it was opened; tests/faults.c sees it */
        return llamac_fail(err, LLAMA_EIO, "%s: cannot be written: %s", path, strerror(errno));
    return LLAMA_OK;
}

/* A new file beside another: its name, and its descriptor or -1. */
static int open_beside(const char *path, char name[LLAMAC_PATH_BYTES + 8]) {
    int fd = -1;
    errno = EEXIST;
    for (unsigned i = 0; i < 100 && fd < 0 && errno == EEXIST; i++) {
        snprintf(name, LLAMAC_PATH_BYTES + 8, "%s.%06x", path,
                 ((unsigned)getpid() * 100 + i) & 0xffffff);
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    return fd;
}

LLAMAC_API int llama_save_file(llama_session *s, int seq, const char *path, llama_error *err) {
    char real[LLAMAC_PATH_BYTES], name[LLAMAC_PATH_BYTES + 8];
    mode_t mode = 0;
    if (err) memset(err, 0, sizeof *err);
    if (!s || !path || strlen(path) >= sizeof real)
        return llamac_fail(err, LLAMA_EINVAL,
                           "a session must be given, and a file's name, not too long");
    int status = place_of_state(real, path, &mode, err), fd, why;
    if (status) return status;
    fd = open_beside(real, name);
    errno = fd < 0 ? errno : 0;
    status = fd < 0 ? LLAMA_EIO : llama_save(s, seq, write_all, &fd);
    if (status == LLAMA_OK && (fchmod(fd, mode) != 0 || fsync(fd) != 0)) status = LLAMA_EIO;
    why = errno;
    if (fd >= 0 && close(fd) != 0 && status == LLAMA_OK) status = LLAMA_EIO, why = errno;
    if (status == LLAMA_OK && rename(name, real) != 0) status = LLAMA_EIO, why = errno;
    if (fd >= 0 && status) unlink(name);
    if (err) memset(err, 0, sizeof *err); /* no file that was there is no error */
    if (status == LLAMA_OK) return status;
    return llamac_fail(err, status, "%s: cannot be written: %s", path,
                       why ? strerror(why) : llama_session_error(s));
}

LLAMAC_API int llama_load_file(llama_session *s, int seq, const char *path, llama_error *err) {
    struct stat st;
    char more;
    if (err) memset(err, 0, sizeof *err);
    if (!s || !path)
        return llamac_fail(err, LLAMA_EINVAL, "a session and a file's name must be given");
    int fd = llamac_open_file(path, &st, err);
    if (fd < 0) return fd;
    errno = 0; /* not ENOENT: there is a file */
    int status = llama_load(s, seq, read_all, &fd);
    if (status) llamac_fail(err, status, "%s: %s", path, llama_session_error(s));
    else if (llamac_read(fd, &more, 1) > 0) {
        llama_rewind(s, seq, 0);
        status = llamac_failed(s, LLAMA_EFORMAT, "the file has more in it than a state");
        llamac_fail(err, status, "%s: has more in it than a state", path);
    }
    close(fd);
    return status;
}
