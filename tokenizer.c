/* tokenizer.c - converts text to tokens and back, exactly as SentencePiece does with a BPE model such
 * as the tokenizer.model of LLaMA 1 and 2, and as tiktoken and Hugging Face's library do with a
 * byte-level BPE vocabulary such as Llama 3's.
 *
 *   1. Vocabulary             pieces, and a hash table that finds the id of a text; for byte-level
 *                             BPE, classes of characters
 *   2. Reading vocabularies   SentencePiece's tokenizer.model, llama2.c's tokenizer.bin, Llama 3's
 *                             tokenizer.model, GGUF, Hugging Face's tokenizer.json; special and
 *                             added tokens; detecting the format of a file
 *   3. Encoding               SentencePiece: text -> normalised UTF-8 -> merges by score -> ids;
 *                             byte-level BPE: text -> words -> merges by rank -> ids; both in
 *                             O(n log n); special tokens in a text
 *   4. Decoding               id -> bytes, streamed in complete characters
 *
 * BPE (Sennrich et al. 2016, arXiv:1508.07909; Kudo & Richardson 2018, arXiv:1808.06226): start
 * from characters. Merge the adjacent pair whose concatenation is the piece with the highest score;
 * of equal scores, the leftmost pair. Repeat until no adjacent pair forms a piece. Spaces are
 * written as U+2581, a space is added in front of the text, and a character that is not a piece
 * becomes its UTF-8 bytes. A file may also have other settings: see llamac_vocab. Byte-level BPE
 * starts from bytes instead, and merges within words only.
 *
 * Functions that read a vocabulary return NULL on success. If they fail, they return a predicate
 * whose subject is the file, such as "has no <unk>". If it begins with '!', the file is valid but
 * not supported.
 */
#ifndef LLAMAC_COMMON /* defined if the program includes llama.c before this file */
#define LLAMA_COMMON_ONLY
#include "llama.c"
#undef LLAMA_COMMON_ONLY
#endif

/* ---- 1. Vocabulary ---- */

/* SentencePiece's types of pieces. Apart from BOS, encoding produces no CONTROL pieces, and UNUSED
 * pieces only if they are a single character (emit). Where the text has a USER_DEFINED piece, that
 * becomes its token whatever the scores say. */
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE_PIECE };
enum {
    MAX_PIECES = 1 << 20, /* in a vocabulary */
    MAX_PIECE = 1000,     /* bytes; with pending bytes a piece decodes to <= LLAMA_TEXT_MAX */
    MAX_PROBES = 1000,    /* slots tried for a piece; a file that needs more is malicious */
    MAX_ADDED = 65536,    /* tokens in files beside the vocabulary */
    MAX_KEY = 256,        /* bytes of a text that the character map replaces */
    CACHE_WORDS = 4096    /* of encode_word; a power of 2. Shorter texts need no cache */
};

typedef struct {
    const char *text; /* [n] UTF-8, spaces as U+2581 */
    uint32_t n;       /* bytes */
    float score;      /* the pair with the highest score is merged first */
    int type;
    bool added;          /* the files add it, or name it special */
    bool lstrip, rstrip; /* special: white space before it, after it, belongs to it */
    bool ends;           /* the files name it an end of text */
    int32_t id;          /* of a piece without a row in the model */
} vocab_piece;

typedef struct { /* the text of a piece that is looked for in a text */
    const char *text;
    uint32_t n; /* bytes */
    int32_t id; /* index in pieces */
} piece_text;

typedef struct {
    piece_text *at; /* [n] in the order of their bytes; no two are equal */
    int32_t n;
} piece_texts;

typedef struct {         /* a merge of byte-level BPE, in a hash table */
    int32_t left, right; /* ids of two pieces; left and rank are -1: the slot is empty */
    int32_t rank;        /* place in the list of merges; -1: it forms a special token */
} piece_pair;

struct llamac_vocab {
    llamac_arena *arena;         /* of the model */
    bool byte_level;             /* byte-level BPE; false: as SentencePiece */
    vocab_piece *pieces;         /* [size], by id */
    size_t capacity;             /* of `pieces` */
    int32_t size, bos, eos, unk; /* number of pieces; ids, -1: none */
    int32_t byte_id[256];        /* id of each byte's piece; -1: none */
    int32_t *slots; /* [slot_mask + 1] hash table of the pieces that merges form: ids; -1: empty */
    uint32_t slot_mask; /* a power of 2, less 1 */
    piece_texts user;   /* the USER_DEFINED pieces */
    size_t longest;     /* bytes of the longest piece */
    /* Settings of SentencePiece */
    const uint32_t *trie;   /* [n_trie] precompiled_charsmap: see read_charsmap; NULL: no map */
    size_t n_trie;          /* 4-byte units */
    const char *mapped;     /* the texts that the map writes, each with a final 0 */
    const char *unk_text;   /* unk_surface: <unk> is decoded to it */
    size_t n_unk_text;      /* bytes */
    bool space_in_front;    /* add_dummy_prefix */
    bool squeezes_spaces;   /* remove_extra_whitespaces */
    bool keeps_plain_space; /* escape_whitespaces is false */
    bool splits_unused;     /* has UNUSED pieces, which are merged and then split again */
    /* Settings of tokenizer.json */
    bool splits_words; /* no piece is formed across the beginning of a word, a space */
    bool one_in_front; /* a text that begins with a space gets no other in front */
    bool repeats_unk;  /* each unknown character becomes an <unk>, not a series of them */
    int strips; /* decoding removes the first space of a text: 1 or 0; -1: if encoding adds one or
                 * squeezes spaces */
    /* Byte-level BPE */
    const unsigned char *classes; /* [N_CLASSIFIED / 4] of characters, 2 bits each */
    int splitting;     /* SPLIT_GPT2, SPLIT_DIGITS or SPLIT_LLAMA3: how a text becomes words */
    bool whole_words;  /* ignore_merges: a word that is a piece becomes that piece */
    bool lists_pairs;  /* the file lists the pairs of pieces that are merged */
    piece_pair *pairs; /* [pair_mask + 1] those pairs; NULL: any two pieces whose concatenation is a
                         * piece are merged, the piece with the highest score first */
    uint64_t pair_mask; /* a power of 2, less 1 */
    int32_t *merged;    /* [n_merges] id of the piece that each merge forms, by rank */
    size_t n_merges, merge_capacity;
    /* Special tokens */
    piece_texts specials;
    vocab_piece *rowless; /* [n_rowless] added tokens without a row in the model: see piece_of */
    size_t n_rowless, rowless_capacity, n_added;
    bool first_only;   /* only the beginning of a text gets the space in front, not the text after a
                        * special token */
    bool first_stated; /* the file says so itself: tokenizer.json */
    bool adds_bos;     /* add_bos_token: LLAMA_ADD_BOS has an effect */
    bool adds_eos;     /* add_eos_token: the file asks for </s> after a text; not done */
    bool no_bos;       /* bos_token is null in a file, */
    bool names_bos;    /* or a text */
};

static const char SPACE[] = "\xe2\x96\x81";          /* U+2581, a space inside pieces */
static const char REPLACEMENT[] = "\xef\xbf\xbd";    /* U+FFFD, an invalid byte */
static const char out_of_memory[] = "out of memory"; /* reasons that are compared by address */
static const char not_tokenizer[] = "is not a tokenizer";
static const char UNK_TEXT[] = " \xe2\x81\x87 "; /* what SentencePiece prints for <unk> */
static const char two_ids[] = "gives two ids to one text";
static const char two_texts[] = "gives two texts to one id";
static const char mistyped[] = "has a setting of another type than it must have";

/* Returns a hash of the text, 8 bytes at a time, by multiplication and shift. */
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

/* Returns whether two texts are equal. */
static bool same_text(const void *a, size_t n_a, const void *b, size_t n_b) {
    return n_a == n_b && memcmp(a, b, n_a) == 0;
}

/* Returns the slot of the hash table that has the piece with this text, or else the empty slot for it.
 * Returns NULL after MAX_PROBES. */
static int32_t *find_slot(const llamac_vocab *v, const char *text, size_t n) {
    uint32_t i = hash_text(text, n) & v->slot_mask;
    for (int tries = 0; tries <= MAX_PROBES; tries++, i = (i + 1) & v->slot_mask) {
        const vocab_piece *p = v->slots[i] < 0 ? NULL : &v->pieces[v->slots[i]];
        if (!p || same_text(p->text, p->n, text, n)) return &v->slots[i];
    }
    return NULL;
}

/* Returns the id of the piece in the hash table with this text, or -1. */
static int32_t slot_find(const llamac_vocab *v, const char *text, size_t n) {
    const int32_t *slot = find_slot(v, text, n);
    return slot ? *slot : -1;
}

/* Returns the id of the piece with this text that ordinary text can have, or -1. A piece that became
 * an added token is taken out of ordinary text. */
static int32_t vocab_find(const llamac_vocab *v, const char *text, size_t n) {
    int32_t id = slot_find(v, text, n);
    const vocab_piece *p = id < 0 ? NULL : &v->pieces[id];
    bool special = p && (p->type == CONTROL || p->type == UNUSED);
    return special && (p->added || v->lists_pairs) ? -1 : id;
}

/* Returns where the search for a pair begins in the hash table. */
static uint64_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15;
    return (h ^ h >> 32) * 0xd6e8feb86659fd93 >> 24;
}

/* Returns the slot of the hash table that has the merge of two pieces, or else the empty slot for it.
 * Returns NULL after MAX_PROBES. */
static piece_pair *find_pair(const llamac_vocab *v, int32_t left, int32_t right) {
    uint64_t i = hash_pair(left, right) & v->pair_mask;
    for (int tries = 0; tries <= MAX_PROBES; tries++, i = (i + 1) & v->pair_mask) {
        piece_pair *p = &v->pairs[i];
        if (p->left < 0 || (p->left == left && p->right == right)) return p;
    }
    return NULL;
}

/* Returns the byte that a text like "<0x41>" names, here 0x41, or -1. Digits are upper-case. */
static int byte_of(const char *text, size_t n) {
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    return high && low ? (int)(16 * (high - digits) + (low - digits)) : -1;
}

/* Returns the length of the UTF-8 character at the start of text[n], n > 0. Returns 0 if there is no
 * valid character. */
static size_t utf8_length(const void *text, size_t n) {
    int32_t number;
    size_t length = llamac_utf8_next(text, n, &number);
    return number < 0 ? 0 : length;
}

static bool is_utf8(const char *text, size_t n) {
    for (size_t i = 0, length; i < n; i += length)
        if (!(length = utf8_length(text + i, n - i))) return false;
    return true;
}

/* Returns the most bytes to which bytes are decoded: an invalid byte becomes U+FFFD, 3 bytes. */
static size_t decoded_length(const char *text, size_t n) {
    size_t sum = 0;
    for (size_t i = 0, length; i < n; i += length ? length : 1)
        sum += (length = utf8_length(text + i, n - i)) ? length : 3;
    return sum;
}

/* Returns an empty vocabulary of the arena, or NULL if memory is short or capacity too large. */
static llamac_vocab *vocab_new(llamac_arena *arena, size_t capacity) {
    uint64_t slots = 8;
    if (capacity > MAX_PIECES) return NULL;
    while (slots < 2 * (uint64_t)capacity) slots *= 2;
    llamac_vocab *v = llamac_new(arena, 1, sizeof *v);
    if (!v) return NULL;
    v->pieces = llamac_new(arena, (uint64_t)capacity, sizeof *v->pieces);
    v->slots = llamac_new(arena, slots, sizeof *v->slots);
    if (!v->pieces || !v->slots) return NULL;
    v->arena = arena;
    v->capacity = capacity;
    v->bos = v->eos = v->unk = -1;
    v->adds_bos = true;
    v->strips = -1;
    v->unk_text = UNK_TEXT;
    v->n_unk_text = sizeof UNK_TEXT - 1;
    v->slot_mask = (uint32_t)slots - 1;
    memset(v->byte_id, -1, sizeof v->byte_id);
    memset(v->slots, -1, slots * sizeof *v->slots);
    return v;
}

/* Adds a piece; its id is the number of pieces added before it. Every reader adds pieces through
 * this function. The text is copied first and the copy is checked. */
static const char *vocab_add(llamac_vocab *v, const char *from, size_t n, float score, int type) {
    if ((size_t)v->size == v->capacity) return "has more pieces than it declares";
    if (n > MAX_PIECE || (n == 0 && type != CONTROL))
        return "has a piece that is empty or over 1000 bytes";
    if (type < NORMAL || type > BYTE_PIECE || score != score)
        return "has a piece of unknown type, or with a score that is not a number";
    char *text = llamac_new(v->arena, n, 1);
    if (!text) return out_of_memory;
    if (n) memcpy(text, from, n);
    if (v->byte_level && decoded_length(text, n) > MAX_PIECE)
        return "has a piece that is decoded to over 1000 bytes";
    if (!v->byte_level && !is_utf8(text, n)) return "has a piece that is not UTF-8";
    int32_t id = v->size++;
    v->pieces[id] = (vocab_piece){.text = text, .n = (uint32_t)n, .score = score, .type = type};
    int byte = type == BYTE_PIECE ? byte_of(text, n) : -1;
    if (type == BYTE_PIECE && byte < 0) return "has a byte piece that is not <0xNN>";
    if (type == UNKNOWN && v->unk >= 0) return "has two unknown pieces, and may have only <unk>";
    if (type == BYTE_PIECE && v->byte_id[byte] >= 0) return two_ids;
    if (type == BYTE_PIECE) v->byte_id[byte] = id;
    if (type == UNKNOWN) v->unk = id;
    bool merges = type == NORMAL || type == USER_DEFINED || (type == UNUSED && v->splits_unused);
    if (!merges && !(n && v->lists_pairs)) return NULL;
    int32_t *slot = find_slot(v, text, n);
    if (!slot) return "has pieces made to collide in a hash table";
    if (*slot >= 0) return two_ids;
    if (v->byte_level && n == 1 && type == NORMAL) v->byte_id[(unsigned char)*text] = id;
    *slot = id;
    return NULL;
}

/* Returns the piece with this index: those without a row come after the others. */
static vocab_piece *piece_of(const llamac_vocab *v, size_t i) {
    return i < (size_t)v->size ? &v->pieces[i] : &v->rowless[i - (size_t)v->size];
}

/* Returns whether a piece is a special token: see llamac_vocab_extend. */
static bool is_special(const vocab_piece *p) {
    return p->n && (p->type == CONTROL || p->type == UNKNOWN || p->added);
}

static bool is_user_defined(const vocab_piece *p) { return p->type == USER_DEFINED; }

/* Compares two texts by their bytes, then by id; a text comes after its beginnings. For qsort. */
static int compare_texts(const void *left, const void *right) {
    const piece_text *a = left, *b = right;
    int order = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return order          ? order
           : a->n != b->n ? (a->n > b->n) - (a->n < b->n)
                          : (a->id > b->id) - (a->id < b->id);
}

/* Makes the list of the pieces that are `wanted`. Fails if a text has two ids. Ids without a row in
 * the model are not used, so of these the first is kept. */
static const char *list_texts(llamac_vocab *v, piece_texts *list,
                              bool (*wanted)(const vocab_piece *)) {
    size_t n = 0, size = (size_t)v->size + v->n_rowless;
    for (size_t i = 0; i < size; i++) n += wanted(piece_of(v, i));
    *list = (piece_texts){0};
    if (n == 0) return NULL;
    if (!(list->at = llamac_new(v->arena, n, sizeof *list->at))) return out_of_memory;
    for (size_t i = n = 0; i < size; i++) {
        const vocab_piece *p = piece_of(v, i);
        if (!wanted(p)) continue;
        int32_t other = p->added ? slot_find(v, p->text, p->n) : -1;
        if (other >= 0 && (size_t)other != i) return two_ids;
        list->at[n] = (piece_text){.text = p->text, .id = (int32_t)i, .n = p->n};
        n++;
    }
    qsort(list->at, n, sizeof *list->at, compare_texts);
    for (size_t i = 0; i < n; i++) {
        piece_text t = list->at[i], *last = list->n ? &list->at[list->n - 1] : NULL;
        if (!last || !same_text(last->text, last->n, t.text, t.n)) list->at[list->n++] = t;
        else if (last->id < v->size) return two_ids;
    }
    return NULL;
}

/* Compares pieces without a row by id. For qsort. */
static int compare_rowless(const void *left, const void *right) {
    const vocab_piece *a = left, *b = right;
    return (a->id > b->id) - (a->id < b->id);
}

/* Checks the pieces of a byte-level vocabulary: every byte must be the piece of ordinary text, and
 * longer pieces are of no use if the file lists no merges. Takes the merges that form a special token
 * out of the table. */
static const char *list_pairs(llamac_vocab *v) {
    for (int32_t i = 0; i < v->size && v->lists_pairs && v->n_merges == 0; i++)
        if (v->pieces[i].type == NORMAL && v->pieces[i].n > 1) return "has pieces and no merges";
    for (int i = 0; i < 256; i++) {
        if (v->byte_id[i] < 0) return "lacks the piece of some byte";
        int type = v->pieces[v->byte_id[i]].type;
        if (type == CONTROL || type == UNUSED) return "has an added token that is a byte";
    }
    for (uint64_t i = 0; v->pairs && i <= v->pair_mask; i++) {
        piece_pair *p = &v->pairs[i];
        int type = p->rank < 0 ? NORMAL : v->pieces[v->merged[p->rank]].type;
        if (type == CONTROL || type == UNUSED) p->rank = -1;
    }
    return NULL;
}

/* Makes both lists, and finds the longest piece. Fails if a text has two ids or an id two texts. Is
 * called again when added tokens have changed the pieces. */
static const char *list_pieces(llamac_vocab *v) {
    if (v->n_rowless) qsort(v->rowless, v->n_rowless, sizeof *v->rowless, compare_rowless);
    for (size_t i = 1; i < v->n_rowless; i++) {
        const vocab_piece *a = &v->rowless[i - 1], *b = &v->rowless[i];
        if (a->id == b->id && !same_text(a->text, a->n, b->text, b->n)) return two_texts;
    }
    v->longest = 1;
    for (int32_t i = 0; i < v->size; i++)
        if (v->pieces[i].n > v->longest) v->longest = v->pieces[i].n;
    const char *why = v->byte_level ? list_pairs(v) : NULL;
    if (!why) why = list_texts(v, &v->user, is_user_defined);
    return why ? why : list_texts(v, &v->specials, is_special);
}

/* Returns byte number d of a text, -1 after its end. */
static int text_byte(const piece_text *t, size_t d) {
    return d < t->n ? (unsigned char)t->text[d] : -1;
}

/* Returns the first of at[from .. to) whose byte number d is at least `byte`. All of them begin with
 * the same d bytes. Looks at the first, then from the last on in steps that double: in texts that
 * begin with one another, the answer is near an end. */
static int32_t first_text(const piece_text *at, int32_t from, int32_t to, size_t d, int byte) {
    int32_t step = 1;
    if (from == to || text_byte(&at[from], d) >= byte) return from;
    for (; step < to - from && text_byte(&at[to - step], d) >= byte; step *= 2) to -= step;
    if (step < to - from) from = to - step + 1;
    while (from < to) {
        int32_t middle = from + (to - from) / 2;
        if (text_byte(&at[middle], d) < byte) from = middle + 1;
        else to = middle;
    }
    return from;
}

/* Returns the longest text of the list at the start of text[n]; NULL if no text matches. */
static const piece_text *match_text(const piece_texts *list, const char *text, size_t n) {
    int32_t from = 0, to = list->n;
    const piece_text *longest = NULL;
    for (size_t d = 0; d < n && from < to; d++) {
        int byte = (unsigned char)text[d];
        from = first_text(list->at, from, to, d, byte);
        to = first_text(list->at, from, to, d, byte + 1);
        if (from < to && list->at[from].n == d + 1) longest = &list->at[from];
    }
    return longest;
}

/* Makes the checks that need all pieces, and sets bos, eos and space_in_front. A negative bos or
 * eos means none. They may be ordinary pieces if `any_type`: in GGUF, whose files repeat what
 * config.json says. Byte pieces must be all 256 or none. */
static const char *finish_vocab(llamac_vocab *v, double bos, double eos, bool any_type,
                                bool space_in_front) {
    int bytes = 0;
    double ids[] = {bos, eos};
    for (int i = 0; i < 256; i++) bytes += v->byte_id[i] >= 0;
    if (!v->byte_level && v->unk < 0) return "has no <unk>";
    if (!v->byte_level && bytes % 256) return "has some byte pieces and lacks others";
    for (int i = 0; i < 2; i++) {
        if (ids[i] < 0) continue;
        bool known = ids[i] < v->size && ids[i] == (int32_t)ids[i];
        if (i == 1 && any_type && !known) ids[i] = -1; /* it is never generated */
        if (i == 1 && any_type) continue;
        if (!known) return "names a bos or eos id that is not in its vocabulary";
        int type = v->pieces[(int32_t)ids[i]].type;
        if (type != CONTROL && type != UNUSED && type != USER_DEFINED &&
            !(any_type && type == NORMAL))
            return type == NORMAL ? "names a bos or eos id whose piece is ordinary text"
                                  : "names a bos or eos id that is <unk> or a byte";
        if (type == USER_DEFINED) ids[i] = -1; /* as in SentencePiece: text that looks like it */
    }
    v->bos = ids[0] < 0 ? -1 : (int32_t)ids[0];
    v->eos = ids[1] < 0 ? -1 : (int32_t)ids[1];
    v->space_in_front = space_in_front;
    return list_pieces(v);
}

LLAMAC_SHARED int32_t llamac_vocab_bos(const llamac_vocab *v) { return v->bos; }
LLAMAC_SHARED int32_t llamac_vocab_eos(const llamac_vocab *v) { return v->eos; }
LLAMAC_SHARED bool llamac_vocab_ends(const llamac_vocab *v, int32_t token) {
    return token >= 0 && token < v->size && (token == v->eos || v->pieces[token].ends);
}
LLAMAC_SHARED bool llamac_vocab_adds_bos(const llamac_vocab *v) {
    return v->bos >= 0 && v->adds_bos;
}
LLAMAC_SHARED bool llamac_vocab_adds_eos(const llamac_vocab *v) { return v->adds_eos; }

LLAMAC_SHARED int32_t llamac_vocab_size(const llamac_vocab *v) { return v->size; }
LLAMAC_SHARED const char *llamac_vocab_kind(const llamac_vocab *v) {
    return v->byte_level ? "byte-level" : "sentencepiece";
}

/* Returns the length of the longest piece: a space or an invalid byte of a text is 3 bytes of a
 * piece, so no piece covers more text than its own length. Without byte pieces a single <unk> may
 * cover any number of characters. Squeezing spaces and the character map remove text. */
LLAMAC_SHARED size_t llamac_vocab_widest(const llamac_vocab *v) {
    return v->byte_id[0] < 0 || v->squeezes_spaces || v->trie ? SIZE_MAX : v->longest;
}

/* Returns the text of a piece as the vocabulary has it, and sets *n. Returns NULL for an invalid
 * token. */
LLAMAC_SHARED const char *llamac_piece(const llamac_vocab *v, int32_t token, size_t *n) {
    if (token < 0 || token >= v->size) return NULL;
    if (n) *n = v->pieces[token].n;
    return v->pieces[token].n ? v->pieces[token].text : "";
}

/* ---- 1. Vocabulary: byte-level BPE ---- */

/* The vocabularies of GPT-2, Llama 3 and SmolLM2 start from the 256 bytes and split a text into words
 * before they merge (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"). No
 * space is added, and every byte has a token, also bytes that are not UTF-8. Decoding to text
 * (llama_token_to_text) writes U+FFFD for these.
 *
 * Words are split by the classes of characters of Unicode 16.0, which both tiktoken and Hugging Face's
 * library use: letters (category L), numbers (N), white space (White_Space), and others. Marks (M) are
 * others. tests/tools/unicode_classes.py prints the table and describes its form. */
enum { OTHER, LETTER, NUMBER, WHITE_SPACE, NO_CHARACTER };
enum { N_CLASSIFIED = 0x40000 }; /* characters above are others */

static const char unicode_runs[] =
    "|cq_jpahpazc^ja^^b__^c^z`^za^pwadt_x_fj^^^nn_f^``d^^h^^b^^^t`^rh^ro_lxr_^xb`^hnczfraddvcrcv`q_"
    "d`^rj^^z_`j`q_c`^|_^^xavanir_^x_q_obn_`d^fx`d^n_^b^z`najr_f|`^hn`pcpexdb^p`^jp_dq_^|_dl```x`^j"
    "^^bdb^|_^v_`^bdq_a`i`^lhd``x`^j^`^`^`zad^^jq_`b|_n_^b^x`^j^`^fb^p`^z_`dq_n_^r_l```x`^j^`^fb^xa"
    "`^bdq_^^ir_^^hbb^db`^^^`b`bbbt_x`^v`w_p`l^b^z`^|_b^pab`^``dq_lk^^dl^b^z`^p_^fb^za`^`dq_^`n`n_^"
    "b^nc`^|_^fb^kcds`^hfp`b|`^n_^^`jzaq_n`|c^`t_jn_q_zb`^^^f^|`^^^p_^`n_^`f^^n_q_`d|a^zau`t_l^tbra"
    "frlrct`^q_hhddb^b`jbdv_t_^^q_hxb^^f^`rc^vw`^d`j^^^d`nc^d`nb^d`j^^^d`z_^ne^d`rfx_u`b|_|_xh`hbt{"
    "b`n`^pafrgbcmjp`v_r`x_p`x_v_^bz_tdrb^d^bq_hq_x`q_hnijf`pb^^fxfp_zazbq_ya`fr_tcdpahs_vbz`n_vdrc"
    "q_hq_v_^vizcn`lbq_ncxav_`q_ucpatbtaq_bbq_ub`r_frc`bncd^h^`b^f|u_|exp``h`xb`h`l^^^^^^^za`vd^j^^"
    "bb^jbd`hdv_fb^jrl__`if^q_hv_vj^d^`p_^^bfh^^^^^^d^r_`dffd^^sdagxxcuexgy`x|byat{fvz_hdb`n__`xb^^"
    "f^`|dj^|_z`n_j^j^j^j^j^j^j^j|g^vxa`_nao_jf`cadxhhb^pi^dfrc^xibep_|a|c|_|aq_xam^{_|aq_zb{_|u`|u"
    "qa|evo{hrfxc`vo`b|_q_at`zc|_za`xfq_zbn_`zj`rf``^^^lv`|_^b^d^z`v_ip_tdx_pdtaq_|`hb^^`^q_uap_z`n"
    "avajzcta^q_hf^p_q_g^ncz`b^ldq_hz`b^bpd^^b``f`^^^|`b`r_jbt_h`h`hn_j^j^rc^x_hrlv_q_htruct_z`dndt"
    "npbx{``pkxbjt_ff^^p_^v_^f^^^`^`^tknbr{`p`|e`xd|bt_tlf^zn_r`q_jpahpar_nibh`h`h`brbt_^pa^r`^`^z_"
    "`x_pbrmt_wct_oen`at|_vabnd|_sad|aen_t`_m_fxbp_xa`tbdl^gpcxq_`q_htbdtbd|bltdt_r_^z_^j^`^r_^z_^j"
    "^`btdt_zt`n_x`p_l|`h^pc^n_vfh`^^tc^`b^`z``m{``k{alo_|cr`^`fgy`idpaxf|ddaa}_`yc_z_d^b^vap_o_z`v"
    "aa^vac|al^tahg|_xdp_x``ms`fmq`z`k|gngzdrdv_rdjiubt_q_hq_uan_z`py_{a^pch`|_brevaq__lx`r_erap`xc"
    "v`kt`z`t_vdpaya^``^v_vc|anajq_n_tbz_q_d^`^lrbb^t_|cx_dr_q__^^du`r_p`^nar``zej^^^d^z_^p_jzcn`q_"
    "r_l```x`^j^`^fb^p`^t_fxap_^^`^^xb^^na^^^tcvdp`dfq_fbxa|ct``^^lq_xr_zcncdtb|ct`^r_q_xbrcv_^jq_h"
    "u`tarav`u_djnu_tctl|es`t_l`^`l^`^|`z_^^^x_q_xfl`zb|_^^^ta^p_|bj^v`^r_xcr`^p`ngzv_nbz_q_hn_^vbn"
    "`^z_wafxa|kj^`^xbv`^n_q_hh^`^|ax_^jq_xt`r`z_^^v_^pbtaq_xh^z_w`rcpqexj{kn`tv_twr_njz_|sfn`hnarq"
    "}_fzvbnusaxap`q_xvknubjza^q_hzg^q_hxap`|c|_dt_q_^k^v`fr`|savcbq_xv_|e{`nkrgf^pfv_|e`^^ta||}`lx"
    "xgncp_zzsbd^j^`^rr`z_^vab`^x_dltoatnp_rkfv_bn_jp_xxn`q_xviu`t_u`tkoazn_vh^zf^``^```d^t_^^^j^nf"
    "^d`l^j^ta^d^f^^bj^tx``na^na^za^na^za^na^za^na^za^na^l`qd|}kzahhvn`xepp_vcp_j`q_d^nv`xap`tcdq_x"
    "xatadq_xx_xa`^q_vzaj^d^`^z_^vv_`o_|ctfj^dq_zpdse^c^etgwc^{_pv_d^ra^`^^`^^p_^d^^^^h^d^^^^^^b^`^"
    "^`^^^^^^^^^^`^^`d^j^d^d^^^p_^n`fb^f^n`tvbw_rzs_q_xnf|y{r_|apun`hxy_`pn{`x_ntxaz_x{bprq_xqbpzir"
    "wt`f|yn`";

/* Returns the classes of all characters: the class of c is in bits 2 (c % 4) and up of classes[c / 4].
 * Returns NULL if memory is short. */
static const unsigned char *make_classes(llamac_arena *arena) {
    static const unsigned char following[3][2] = {
        [OTHER] = {LETTER, NUMBER}, [LETTER] = {OTHER, NUMBER}, [NUMBER] = {OTHER, LETTER}};
    unsigned char *classes = llamac_new(arena, N_CLASSIFIED / 4, 1);
    uint32_t at = 0, number = 0;
    int class = NUMBER, shift = 0; /* the first run is of others */
    for (const char *c = unicode_runs; classes && *c; c++) {
        int digit = *c - '^';
        number |= (uint32_t)(digit & 15) << shift;
        shift += 4;
        if (digit > 15) continue;
        class = following[class][number & 1];
        for (uint32_t end = at + number / 2 + 1; at < end && at < N_CLASSIFIED; at++)
            classes[at / 4] |= (unsigned char)(class << at % 4 * 2);
        number = 0;
        shift = 0;
    }
    for (int32_t c = 0; classes && c <= 0x3000; c++) /* the other spaces are separators */
        if (llamac_is_space(c) && !(c >= 0x1c && c < ' '))
            classes[c / 4] |= (unsigned char)(WHITE_SPACE << c % 4 * 2);
    return classes;
}

/* How a text becomes words. The files give regular expressions, in which the first alternative that
 * matches is taken. \s+(?!\S) is white space except its last character, unless the text ends after it.
 * SPLIT_DIGITS: each \p{N} alone, and SPLIT_GPT2's words in the texts between them. */
enum { SPLIT_GPT2 = 1, SPLIT_DIGITS, SPLIT_LLAMA3 };
static const struct {
    const char *pattern;
    int splitting;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     SPLIT_GPT2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
     "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     SPLIT_LLAMA3}};

/* Returns an empty vocabulary of byte-level BPE; NULL if memory is short or capacity too large. */
static llamac_vocab *bytes_new(llamac_arena *arena, size_t capacity, int splitting) {
    llamac_vocab *v = vocab_new(arena, capacity);
    if (!v || !(v->classes = make_classes(arena))) return NULL;
    v->byte_level = true;
    v->splitting = splitting;
    return v;
}

/* ---- 2. Reading vocabularies: the character map ---- */

/* A precompiled_charsmap is the number of bytes of a trie, in 4 bytes; the trie; and the texts that
 * replace its keys, each with a final 0. It is what SentencePiece makes of its rules nmt_nfkc, nfkc
 * and their kin, which replace characters, or series of characters, by their plain forms.
 *
 * The trie is a double array (Aoe 1989, doi:10.1109/32.31365) as darts-clone stores it. Each node
 * is a unit of 32 bits:
 *
 *   31       1: a leaf; its other bits are the position of a text
 *   30..10   the offset of the node's children, or a 256th of it if bit 9 is 1
 *   8        1: a key ends here; its leaf is the child for the byte 0
 *   7..0     the byte that leads to this node
 *
 * The child of node i for byte b is node (i ^ offset ^ b). It exists if its bits 31 and 7..0 are b. */

static size_t trie_offset(uint32_t unit) { return (size_t)(unit >> 10) << (unit & 512 ? 8 : 0); }

/* Copies a map and checks its texts and leaves. An empty map is none. The offsets of the trie are
 * checked when they are followed. */
static const char *read_charsmap(llamac_vocab *v, llamac_cursor c) {
    static const char damaged[] = "has a precompiled_charsmap that is damaged";
    if (llamac_left(&c) == 0) return NULL;
    uint64_t n = llamac_uint(&c, 4);
    const unsigned char *trie = llamac_take(&c, n), *texts = c.at;
    size_t n_texts = llamac_left(&c), length = 0;
    if (!trie || n == 0 || n % 4 || n_texts == 0 || texts[n_texts - 1] != 0 ||
        !is_utf8((const char *)texts, n_texts))
        return damaged;
    for (size_t i = 0; i < n_texts; i++) /* so that a text grows by a known factor at most */
        if ((length = texts[i] ? length + 1 : 0) > MAX_PIECE) return damaged;
    uint32_t *units = llamac_new(v->arena, n, 1);
    char *mapped = llamac_new(v->arena, n_texts, 1);
    if (!units || !mapped) return out_of_memory;
    memcpy(units, trie, (size_t)n);
    memcpy(mapped, texts, n_texts);
    for (size_t i = 0; i < n / 4; i++) {
        uint32_t at = units[i] & INT32_MAX;
        if (units[i] >> 31 && (at >= n_texts || (mapped[at] & 0xc0) == 0x80)) return damaged;
    }
    v->trie = units;
    v->n_trie = (size_t)n / 4;
    v->mapped = mapped;
    return NULL;
}

/* Returns the text that the character map writes for the longest of its keys at the start of
 * text[n], and sets *length to the key's length. Returns NULL if no key is there. */
static const char *match_charsmap(const llamac_vocab *v, const char *text, size_t n,
                                  size_t *length) {
    const char *found = NULL;
    size_t at = trie_offset(v->trie[0]);
    for (size_t d = 0; d < n && d < MAX_KEY; d++) {
        unsigned char byte = (unsigned char)text[d];
        at ^= byte;
        if (at >= v->n_trie || (v->trie[at] & 0x800000ff) != byte) break;
        bool ends = v->trie[at] & 256;
        at ^= trie_offset(v->trie[at]);
        if (!ends) continue;
        if (at >= v->n_trie || !(v->trie[at] >> 31)) break; /* not a leaf: the map is damaged */
        found = v->mapped + (v->trie[at] & INT32_MAX);
        *length = d + 1;
    }
    return found;
}

/* ---- 2. Reading vocabularies: SentencePiece's tokenizer.model ---- */

/* The file is a protobuf message (encoding.html of protobuf's documentation), a series of fields. A
 * field has a number and a wire type: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
 * The names of messages and fields are those of sentencepiece_model.proto. */
typedef struct {
    unsigned number, wire;
    uint64_t value;        /* of wire types 0, 1 and 5 */
    llamac_cursor content; /* of wire type 2 */
} proto_field;

/* Returns an integer in groups of 7 bits, the lowest first. Sets c->bad if it exceeds 10 bytes. */
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

/* Reads the next field. Returns false at the end of the message, or if the field is malformed; then
 * c->bad is set. */
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

enum { EXTENSIONS = 200 }; /* the first field number that is an extension, which is ignored */

/* Adds a SentencePiece {1 piece, 2 score, 3 type}. */
static const char *parse_piece(llamac_vocab *v, llamac_cursor c) {
    static const unsigned char wires[] = {0, 2, 5, 0}; /* wire types by field number */
    proto_field f;
    const unsigned char *text = NULL;
    size_t n = 0;
    float score = 0;
    int type = NORMAL;
    while (proto_next(&c, &f)) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.wire == 2) text = f.content.at, n = llamac_left(&f.content);
        if (f.number == 2 && f.wire == 5) memcpy(&score, &bits, 4);
        if (f.number == 3 && f.wire == 0) type = f.value <= BYTE_PIECE ? (int)f.value : 0;
        if (f.number >= EXTENSIONS) continue;
        if (f.number > 3 || f.wire != wires[f.number])
            return "has a piece with other fields than a text, a score and a type";
    }
    if (c.bad) return "has a piece that is truncated";
    v->splits_unused |= type == UNUSED;
    return vocab_add(v, (const char *)text, n, score, type);
}

/* Reads a TrainerSpec {3 model_type, 24 treat_whitespace_as_suffix, 44 unk_surface, 46 bos_piece, 47
 * eos_piece}. Sets special to the last two, if they are given. */
static const char *parse_trainer(llamac_vocab *v, llamac_cursor c, llamac_cursor special[2]) {
    static const char *const not_bpe[] = {[1] = "!is a unigram model, not a BPE model",
                                          [3] = "!is a model of words, not a BPE model",
                                          [4] = "!is a model of characters, not a BPE model"};
    enum { BPE = 2 };
    proto_field f;
    uint64_t model_type = 1;
    bool suffix = false;
    while (proto_next(&c, &f)) {
        if (f.number == 44 && f.wire == 2) {
            size_t n = llamac_left(&f.content);
            char *text = llamac_new(v->arena, n, 1);
            if (!text) return out_of_memory;
            if (n) memcpy(text, f.content.at, n);
            if (n > MAX_PIECE || !is_utf8(text, n))
                return "has an unk_surface that is not UTF-8 or over 1000 bytes";
            v->unk_text = text, v->n_unk_text = n;
        }
        bool number = f.number == 3 || f.number == 24, text = f.number >= 44 && f.number <= 47;
        if ((number && f.wire != 0) || (text && f.wire != 2)) return mistyped;
        if (f.number == 46 && llamac_left(&f.content)) special[0] = f.content;
        if (f.number == 47 && llamac_left(&f.content)) special[1] = f.content;
        if (f.number == 3) model_type = f.value;
        if (f.number == 24) suffix = f.value != 0;
    }
    if (c.bad) return "has a trainer_spec that is truncated";
    if (model_type != BPE)
        return model_type < 5 && not_bpe[model_type] ? not_bpe[model_type] : "!is not a BPE model";
    return suffix ? "!has spaces after words (treat_whitespace_as_suffix)" : NULL;
}

/* Reads a NormalizerSpec {2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5
 * escape_whitespaces}. The defaults of 3, 4 and 5 are true. */
static const char *parse_normalizer(llamac_vocab *v, llamac_cursor c) {
    proto_field f;
    llamac_cursor map = {0};
    v->space_in_front = v->squeezes_spaces = true;
    while (proto_next(&c, &f)) {
        if (f.number >= 2 && f.number <= 5 && f.wire != (f.number == 2 ? 2 : 0)) return mistyped;
        if (f.number == 2) map = f.content;
        if (f.number == 3) v->space_in_front = f.value != 0;
        if (f.number == 4) v->squeezes_spaces = f.value != 0;
        if (f.number == 5) v->keeps_plain_space = f.value == 0;
    }
    return c.bad ? "has a normalizer_spec that is truncated" : read_charsmap(v, map);
}

/* Checks that a denormalizer_spec, a NormalizerSpec used for decoding, has no charsmap. */
static const char *parse_denormalizer(llamac_cursor c) {
    proto_field f;
    while (proto_next(&c, &f))
        if (f.number == 2 && (f.wire != 2 || llamac_left(&f.content)))
            return "!changes the text it decodes (denormalizer_spec)";
    return c.bad ? "has a denormalizer_spec that is truncated" : NULL;
}

/* Returns the number of pieces. Returns 0 if the bytes are not a protobuf message, have no pieces,
 * or have MAX_PIECES or more. */
static size_t proto_count(llamac_cursor c) {
    proto_field f;
    size_t pieces = 0;
    for (; proto_next(&c, &f) && pieces < MAX_PIECES; pieces += f.number == 1 && f.wire == 2) {}
    return c.bad || pieces == MAX_PIECES ? 0 : pieces;
}

/* Reads a ModelProto {1 pieces, 2 trainer_spec, 3 normalizer_spec, 4 self_test_data, 5
 * denormalizer_spec}. */
static const char *parse_proto(llamac_vocab *v, llamac_cursor c) {
    proto_field f;
    const char *why = NULL;
    bool trainer = false, normalizer = false;
    llamac_cursor special[2] = {llamac_cursor_on("<s>", 3), llamac_cursor_on("</s>", 4)};
    double id[2] = {-1, -1};
    while (!why && proto_next(&c, &f)) {
        if (f.number >= EXTENSIONS) continue;
        if (f.wire != 2 || f.number > 5) return "has fields that no SentencePiece model has";
        if (f.number == 5) why = parse_denormalizer(f.content);
        if (f.number == 1) why = parse_piece(v, f.content);
        if (f.number == 2) why = parse_trainer(v, f.content, special), trainer = true;
        if (f.number == 3) why = parse_normalizer(v, f.content), normalizer = true;
    }
    if (why) return why;
    if (!trainer || !normalizer) return "lacks its trainer_spec or normalizer_spec";
    /* <s> and </s> are found by their texts, as the library does it, not by fields 41 and 42. */
    for (int32_t t = v->size - 1; t >= 0; t--)
        for (int i = 0; i < 2 && v->pieces[t].type == CONTROL; i++)
            if (same_text(v->pieces[t].text, v->pieces[t].n, special[i].at,
                          llamac_left(&special[i])))
                id[i] = t;
    return finish_vocab(v, id[0], id[1], false, v->space_in_front);
}

/* ---- 2. Reading vocabularies: llama2.c's tokenizer.bin ---- */

/* The file is the length of the longest piece, then the score, length and text of each piece. It
 * has no magic number and no types. Spaces are plain spaces, not U+2581. */

/* Reads the next piece. Returns false if it is truncated. */
static bool bin_next(llamac_cursor *c, float *score, llamac_cursor *text) {
    uint32_t bits = (uint32_t)llamac_uint(c, 4);
    uint64_t n = llamac_uint(c, 4);
    memcpy(score, &bits, 4);
    const unsigned char *p = llamac_take(c, n);
    *text = llamac_cursor_on(p, p ? (size_t)n : 0);
    return p != NULL;
}

/* Returns the number of pieces. Returns 0 if the bytes do not divide into pieces exactly. */
static size_t bin_count(llamac_cursor c) {
    size_t pieces = 0;
    float score;
    llamac_cursor text;
    llamac_uint(&c, 4);
    while (llamac_left(&c) && pieces < MAX_PIECES && bin_next(&c, &score, &text)) pieces++;
    return c.bad || llamac_left(&c) ? 0 : pieces;
}

/* Reads all pieces. A piece gets its type from its id, as in LLaMA's vocabulary: 0 <unk>, 1 <s>, 2
 * </s>, 3 to 258 bytes. An id of 3 to 258 is a byte piece only if its text is 6 bytes long, like
 * "<0x41>", as other vocabularies may have no byte pieces. */
static const char *parse_bin(llamac_vocab *v, llamac_cursor c) {
    enum { BOS = 1, EOS = 2, BYTES = 3, BYTES_END = 259 };
    const char *why = NULL;
    float score;
    llamac_cursor text;
    llamac_uint(&c, 4);
    for (int32_t id = 0; !why && llamac_left(&c) && bin_next(&c, &score, &text); id++) {
        char piece[MAX_PIECE + 3];
        size_t n = llamac_left(&text), to = 0;
        for (size_t i = 0; i < n && to <= MAX_PIECE; i++) /* vocab_add refuses longer pieces */
            if (text.at[i] == ' ') memcpy(piece + to, SPACE, 3), to += 3;
            else piece[to++] = (char)text.at[i];
        int type = id == 0                                   ? UNKNOWN
                   : id == BOS || id == EOS                  ? CONTROL
                   : id >= BYTES && id < BYTES_END && n == 6 ? BYTE_PIECE
                                                             : NORMAL;
        bool lines = type == CONTROL && to > 2 && piece[0] == '\n' && piece[to - 1] == '\n';
        why = vocab_add(v, piece + lines, to - 2 * lines, score, type); /* "\n<s>\n" is <s> */
    }
    return why ? why : finish_vocab(v, BOS, EOS, false, true);
}

/* ---- 2. Reading vocabularies: Llama 3's tokenizer.model ---- */

/* The form is tiktoken's: a line is a piece in base64, a space, and its rank, which is its id. Any two
 * pieces whose concatenation is a piece are merged, the lowest rank first. 256 special tokens follow,
 * which the file does not list. Their names are those of Llama 3.1; fine-tunes and other versions
 * rename some in files beside it. */

enum { LLAMA3_SPECIALS = 256 };

/* Writes the name of special token i, and returns its length. Sets *ends if it ends a text. */
static size_t special_name(int i, char name[64], bool *ends) {
    static const struct {
        int i;
        const char *name;
    } named[] = {{0, "begin_of_text"},   {1, "end_of_text"},   {4, "finetune_right_pad_id"},
                 {6, "start_header_id"}, {7, "end_header_id"}, {8, "eom_id"},
                 {9, "eot_id"},          {10, "python_tag"}};
    int reserved = i; /* its number: how many before it have no name of their own */
    *ends = i == 1 || i == 8 || i == 9;
    for (size_t k = 0; k < sizeof named / sizeof *named; k++) {
        if (named[k].i == i) return (size_t)snprintf(name, 64, "<|%s|>", named[k].name);
        reserved -= named[k].i < i;
    }
    return (size_t)snprintf(name, 64, "<|reserved_special_token_%d|>", reserved);
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }

/* Reads base64 up to the next space into out, and returns the number of bytes. Returns 0 if it is not
 * valid, of nothing, or over `capacity` bytes. */
static size_t read_base64(llamac_cursor *c, char *out, size_t capacity) {
    static const char values[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    size_t digits = 0, pads = 0, n = 0;
    for (; c->at < c->end && *c->at != ' '; c->at++) {
        const char *digit = memchr(values, *c->at, 64);
        if (*c->at == '=' && pads < 2) pads++;
        else if (!digit || pads || n == capacity) return 0;
        else {
            bits = bits << 6 | (uint32_t)(digit - values);
            if (++digits % 4 != 1) out[n++] = (char)(bits >> (4 - digits % 4) % 4 * 2);
        }
    }
    uint32_t rest = digits % 4 == 2 ? bits & 15 : digits % 4 == 3 ? bits & 3 : 0; /* must be 0 */
    return (digits + pads) % 4 || digits % 4 == 1 || rest ? 0 : n;
}

/* Reads a line of the file, and the empty lines after it. Returns the number of bytes of the piece, or
 * 0 if the line is not valid; it must end in `rank`. */
static size_t tiktoken_line(llamac_cursor *c, char *piece, size_t capacity, size_t rank) {
    char want[32];
    size_t n = read_base64(c, piece, capacity), length;
    length = (size_t)snprintf(want, sizeof want, " %zu", rank);
    const unsigned char *got = llamac_take(c, length), *end = c->at;
    while (c->at < c->end && is_newline((char)*c->at)) c->at++;
    bool ends = c->at == c->end || c->at > end;
    return got && memcmp(got, want, length) == 0 && ends ? n : 0;
}

/* Returns whether the first line of a file is valid. */
static bool is_tiktoken(llamac_cursor c) {
    char piece[MAX_PIECE];
    return tiktoken_line(&c, piece, sizeof piece, 0) > 0;
}

static const char *parse_tiktoken(llamac_vocab **out, llamac_cursor c, size_t max_pieces,
                                  llamac_arena *arena) {
    size_t pieces = 0;
    for (const unsigned char *at = c.at; at < c.end; at++) /* lines that are not empty */
        pieces += !is_newline((char)*at) && (at + 1 == c.end || is_newline((char)at[1]));
    if (pieces >= MAX_PIECES || pieces + LLAMA3_SPECIALS != max_pieces)
        return "!is a tiktoken vocabulary without Llama 3's number of pieces, 256 fewer than the "
               "model's tokens";
    llamac_vocab *v = *out = bytes_new(arena, max_pieces, SPLIT_LLAMA3);
    const char *why = v ? NULL : out_of_memory;
    char text[MAX_PIECE];
    for (size_t rank = 0; rank < pieces && !why; rank++) {
        size_t n = tiktoken_line(&c, text, sizeof text, rank);
        why = n ? vocab_add(v, text, n, -(float)rank, NORMAL)
                : "has a line that is not base64, a space and the line's number";
    }
    for (int i = 0; i < LLAMA3_SPECIALS && !why; i++) {
        bool ends;
        size_t n = special_name(i, text, &ends);
        why = vocab_add(v, text, n, 0, CONTROL);
        if (!why) v->pieces[v->size - 1].ends = ends;
    }
    if (why) return why;
    v->whole_words = true;
    return finish_vocab(v, (double)pieces, (double)pieces + 1, false, false);
}

/* ---- 2. Reading vocabularies: pieces and merges of byte-level BPE ---- */

/* tokenizer.json and GGUF write a byte as a character: the bytes 33 to 126, 161 to 172 and 174 to 255
 * as the characters of these numbers, the other 68 bytes, in their order, as U+0100 to U+0143. */

/* Returns the byte that a character represents, or -1. */
static int byte_of_letter(int32_t c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return c;
    if (c < 0x100 || c > 0x143) return -1;
    c -= 0x100;
    return c < 33 ? c : c < 67 ? c - 33 + 127 : 173;
}

/* Writes the bytes that text[n] represents to out and returns their number. Returns -1 if a character
 * represents no byte, or if there are more than `capacity` bytes. */
static ptrdiff_t read_letters(const char *text, size_t n, char *out, size_t capacity) {
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += llamac_utf8_next(text + i, n - i, &c);
        int byte = byte_of_letter(c);
        if (byte < 0 || count == capacity) return -1;
        out[count++] = (char)byte;
    }
    return (ptrdiff_t)count;
}

/* Adds a piece. Ordinary pieces are written in letters, others as they are. */
static const char *add_piece(llamac_vocab *v, const char *text, size_t n, int type) {
    char bytes[MAX_PIECE];
    if (type != NORMAL) return vocab_add(v, text, n, 0, type);
    ptrdiff_t count = read_letters(text, n, bytes, sizeof bytes);
    return count < 0 ? "has a piece that is not written in GPT-2's letters for bytes, or over 1000 "
                       "bytes"
                     : vocab_add(v, bytes, (size_t)count, 0, NORMAL);
}

/* Makes room for `count` merges. */
static const char *begin_merges(llamac_vocab *v, uint64_t count) {
    enum { MAX_MERGES = 1 << 24 }; /* a rank must be exact as a float */
    uint64_t slots = 8;
    if (count >= MAX_MERGES) return "has too many merges";
    while (slots < count + count / 2) slots *= 2;
    v->pairs = llamac_new(v->arena, slots, sizeof *v->pairs);
    v->merged = llamac_new(v->arena, count, sizeof *v->merged);
    if (!v->pairs || !v->merged) return out_of_memory;
    memset(v->pairs, -1, slots * sizeof *v->pairs);
    v->pair_mask = slots - 1;
    v->merge_capacity = (size_t)count;
    return NULL;
}

/* Adds the merge of two pieces, which are written in letters. Its rank is the number of merges added
 * before it. */
static const char *add_merge(llamac_vocab *v, const char *left, size_t n_left, const char *right,
                             size_t n_right) {
    static const char unknown[] = "has a merge of texts that are not pieces, or that form none";
    char bytes[2 * MAX_PIECE];
    ptrdiff_t a = read_letters(left, n_left, bytes, MAX_PIECE), b = -1;
    if (a > 0) b = read_letters(right, n_right, bytes + a, MAX_PIECE);
    if (b <= 0) return unknown;
    size_t n = (size_t)a, m = (size_t)b;
    int32_t ids[] = {slot_find(v, bytes, n), slot_find(v, bytes + n, m),
                     slot_find(v, bytes, n + m)};
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0) return unknown;
    if (v->n_merges == v->merge_capacity) return "has more merges than it declares";
    piece_pair *pair = find_pair(v, ids[0], ids[1]);
    if (!pair) return "has merges made to collide in a hash table";
    if (pair->left >= 0) return "has the same merge twice";
    *pair = (piece_pair){ids[0], ids[1], (int32_t)v->n_merges};
    v->merged[v->n_merges++] = ids[2];
    return NULL;
}

/* ---- 2. Reading vocabularies: GGUF ---- */

/* GGUF has the texts and types of the pieces, and their scores or the merges, in three arrays, and the
 * rest in single values. The types are those of SentencePiece. */

/* Bits of llamac_gguf_vocab.seen: keys that have a default, by their places in llamac_vocab_note */
enum { GIVEN_BOS = 1, GIVEN_EOS = 2, GIVEN_ADDS_BOS = 4, GIVEN_SPACE = 8 };

/* Notes the value of a key of GGUF's metadata if the key is about the vocabulary. */
LLAMAC_SHARED void llamac_vocab_note(llamac_gguf_vocab *g, const llamac_pair *p) {
    const llamac_value *v = &p->value;
    static const char prefix[] = "tokenizer.ggml.";
    enum { PREFIX = sizeof prefix - 1 };
    double ignored = 0;
    const struct {
        const char *key;
        llamac_value *value;
        double *id, *flag;
    } keys[] = {
        {"bos_token_id", NULL, &g->bos, NULL}, /* the first four as GIVEN_... says */
        {"eos_token_id", NULL, &g->eos, NULL},
        {"add_bos_token", NULL, NULL, &g->adds_bos},
        {"add_space_prefix", NULL, NULL, &g->space_in_front},
        {"model", &g->model, NULL, NULL},
        {"pre", &g->pre, NULL, NULL},
        {"merges", &g->merges, NULL, NULL},
        {"tokens", &g->tokens, NULL, NULL},
        {"scores", &g->scores, NULL, NULL},
        {"token_type", &g->types, NULL, NULL},
        {"precompiled_charsmap", &g->charsmap, NULL, NULL},
        {"eot_token_id", NULL, &g->eot, NULL},
        {"eom_token_id", NULL, &g->eom, NULL},
        {"unknown_token_id", NULL, &ignored, NULL},
        {"padding_token_id", NULL, &ignored, NULL},
        {"add_eos_token", NULL, NULL, &g->adds_eos},
        {"remove_extra_whitespaces", NULL, NULL, &g->squeezes_spaces},
    };
    if (p->length < PREFIX || memcmp(p->key, prefix, PREFIX) != 0) return;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!llamac_is(p->key + PREFIX, p->length - PREFIX, keys[i].key)) continue;
        bool logical = v->kind == 't' || v->kind == 'f', again = g->seen >> i & 1;
        bool integer = v->kind == '0' && v->type != GGUF_FLOAT && v->type != GGUF_DOUBLE;
        double number = logical ? v->kind == 't' : v->number;
        g->seen |= 1u << i;
        if (keys[i].value && again) g->wrong = keys[i].key, g->why = "is given twice";
        else if (keys[i].value) *keys[i].value = *v;
        else if (keys[i].flag ? !logical && !(integer && (v->number == 0 || v->number == 1))
                              : !integer)
            g->wrong = keys[i].key, g->why = "is of another type than it must have";
        else {
            double *to = keys[i].id ? keys[i].id : keys[i].flag;
            if (keys[i].id && number == UINT32_MAX) number = -1; /* writers without a sign */
            if (again && *to != number && to != &ignored)
                g->wrong = keys[i].key, g->why = "is given twice, with different values";
            *to = number;
        }
    }
}

/* Returns whether the value of tokenizer.ggml.model is this name. */
static bool is_model(const llamac_gguf_vocab *g, const char *name) {
    return g->model.kind == '"' && llamac_is(g->model.text, (size_t)g->model.n, name);
}

/* Returns how the value of tokenizer.ggml.pre says that a text becomes words; 0 if it is not
 * supported. */
static int splitting_of(const llamac_gguf_vocab *g) {
    static const struct {
        const char *name;
        int splitting;
    } names[] = {{"llama-bpe", SPLIT_LLAMA3}, {"llama3", SPLIT_LLAMA3}, {"llama-v3", SPLIT_LLAMA3},
                 {"smollm", SPLIT_DIGITS},    {"gpt-2", SPLIT_GPT2},    {"gpt2", SPLIT_GPT2}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (g->pre.kind == '"' && llamac_is(g->pre.text, g->pre.n, names[i].name))
            return names[i].splitting;
    return 0;
}

LLAMAC_SHARED void llamac_vocab_defaults(llamac_gguf_vocab *g) {
    bool bytes = is_model(g, "gpt2");
    if (!(g->seen & GIVEN_BOS)) g->bos = bytes ? -1 : 1;
    if (!(g->seen & GIVEN_EOS)) g->eos = bytes ? -1 : 2;
    if (!(g->seen & GIVEN_ADDS_BOS)) g->adds_bos = !bytes || splitting_of(g) == SPLIT_LLAMA3;
    if (!(g->seen & GIVEN_SPACE)) g->space_in_front = !bytes;
}

/* Reports why a vocabulary cannot be read. `repair` is what to do if the file is damaged; `own`: the
 * vocabulary is certainly the model's. Returns LLAMA_EFORMAT or LLAMA_ENOMEM. */
static int refuse_vocab(const char *why, const char *repair, bool own, const char *file,
                        llama_error *err) {
    if (why == out_of_memory) return llamac_out_of_memory(err, file);
    if (why == not_tokenizer) repair = "give the model's tokenizer.model or tokenizer.json";
    if (*why == '!')
        return llamac_fail(
            err, LLAMA_EFORMAT,
            "%s: %s, which is not supported; %sthe model cannot be used, because a "
            "tokenizer of another model gives wrong text",
            file, why + 1,
            own ? "" : "give the model's tokenizer.model or tokenizer.json; if this is it, ");
    return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; %s", file, why, repair);
}

/* Adds the pieces. Added tokens have the type USER_DEFINED in GGUF and become UNUSED: they can be
 * decoded, and only LLAMA_SPECIAL makes them. */
static const char *gather_pieces(llamac_vocab *v, llamac_gguf_vocab *g) {
    const char *why = NULL;
    for (uint64_t i = 0; i < g->tokens.n && !why; i++) {
        llamac_value text, type, score = {.kind = '0'};
        bool good = llamac_gguf_value(&g->tokens.items, g->tokens.type, &text) == '"' &&
                    llamac_gguf_value(&g->types.items, g->types.type, &type) == '0';
        int t = good && type.number >= 0 && type.number <= BYTE_PIECE ? (int)type.number : -1;
        good = good && t >= 0 && type.number == t;
        if (v->byte_level) good = good && t != 0 && t != UNKNOWN && t != BYTE_PIECE;
        else
            good = good && llamac_gguf_value(&g->scores.items, g->scores.type, &score) == '0' &&
                   (score.number != score.number || score.number == (double)(float)score.number);
        if (!good)
            return v->byte_level
                       ? "has tokens that are not strings, or types that byte-level BPE does not "
                         "have"
                       : "has tokens that are not strings, types that are not whole numbers, or "
                         "scores that are not float32 numbers";
        bool added = t == USER_DEFINED;
        if (added) t = UNUSED;
        why = v->byte_level ? add_piece(v, text.text, text.n, t)
                            : vocab_add(v, text.text, text.n, (float)score.number, t);
        if (!why) v->pieces[i].added = added;
    }
    return why;
}

/* Adds the merges of byte-level BPE, each a string of two pieces with a space between them. */
static const char *gather_merges(llamac_vocab *v, llamac_gguf_vocab *g) {
    const char *why = begin_merges(v, g->merges.n);
    for (uint64_t i = 0; i < g->merges.n && !why; i++) {
        llamac_value merge;
        if (llamac_gguf_value(&g->merges.items, g->merges.type, &merge) != '"')
            return "has merges that are not strings";
        const char *space = merge.n ? memchr(merge.text, ' ', merge.n) : NULL;
        size_t cut = space ? (size_t)(space - merge.text) : 0;
        why = space ? add_merge(v, merge.text, cut, space + 1, merge.n - cut - 1)
                    : "has a merge that is not two pieces";
    }
    return why;
}

/* Makes the vocabulary from the values that llamac_vocab_note noted. *out stays NULL if the file
 * has no vocabulary. Llama 3's has ignore_merges, which GGUF does not say. Fails with LLAMA_EFORMAT
 * or LLAMA_ENOMEM. */
LLAMAC_SHARED int llamac_vocab_gather(llamac_vocab **out, llamac_gguf_vocab *g, size_t max_pieces,
                                      const char *file, llamac_arena *arena, llama_error *err) {
    static const char repair[] = "convert the model to GGUF again";
    const bool none = is_model(g, "none") || is_model(g, "no_vocab"), bytes = is_model(g, "gpt2");
    const int splitting = bytes ? splitting_of(g) : 0;
    const char *why = NULL;
    char other_pre[200];
    llamac_vocab *v = NULL;
    if (none || (!g->model.kind && !g->tokens.kind && !g->scores.kind && !g->types.kind))
        return LLAMA_OK;
    if (!bytes && !is_model(g, "llama"))
        return llamac_fail(
            err, LLAMA_EFORMAT,
            "%s: its vocabulary is of kind '%.*s', and only 'llama' (SentencePiece's BPE) and "
            "'gpt2' (byte-level BPE) are supported; the model cannot be used, because a tokenizer "
            "of another model gives wrong text",
            file, g->model.kind == '"' && g->model.n < 64 ? (int)g->model.n : 0,
            g->model.text ? g->model.text : "");
    if (g->wrong)
        return llamac_fail(err, LLAMA_EFORMAT, "%s: its key tokenizer.ggml.%s %s; %s", file,
                           g->wrong, g->why, repair);
    bool pieces = g->tokens.kind == '[' && g->tokens.n <= max_pieces && g->types.kind == '[' &&
                  g->types.n == g->tokens.n;
    if (bytes && !splitting) {
        bool shown = g->pre.kind == '"' && g->pre.n < 64;
        snprintf(other_pre, sizeof other_pre,
                 "!has the tokenizer.ggml.pre '%.*s', not llama-bpe, smollm or gpt-2",
                 shown ? (int)g->pre.n : 0, shown ? g->pre.text : "");
        why = other_pre;
    } else if (bytes && (!pieces || g->merges.kind != '['))
        why = "has tokens, token_type or merges that are missing, differ in number or are more "
              "than the model's tokens";
    else if (bytes && (g->space_in_front != 0 || g->charsmap.kind))
        why = "!changes a text before it is tokenized (add_space_prefix, precompiled_charsmap)";
    else if (!bytes && (!pieces || g->scores.kind != '[' || g->scores.n != g->tokens.n))
        why = "its tokens, scores or token_type are missing, differ in number or are more than the "
              "model's tokens";
    else v = bytes ? bytes_new(arena, g->tokens.n, splitting) : vocab_new(arena, g->tokens.n);
    if (!why && !v) why = out_of_memory;
    if (why) return refuse_vocab(why, repair, true, file, err);
    v->lists_pairs = bytes;
    v->whole_words = splitting == SPLIT_LLAMA3;
    v->squeezes_spaces = !bytes && g->squeezes_spaces != 0;
    v->adds_bos = g->adds_bos != 0;
    v->adds_eos = g->adds_eos != 0;
    why = gather_pieces(v, g);
    if (!why && bytes) why = gather_merges(v, g);
    if (!why && g->charsmap.kind) {
        bool is_bytes = g->charsmap.kind == '[' && g->charsmap.type < 2; /* uint8, int8 */
        const unsigned char *map = is_bytes ? llamac_take(&g->charsmap.items, g->charsmap.n) : NULL;
        why = map ? read_charsmap(v, llamac_cursor_on(map, g->charsmap.n))
                  : "has a precompiled_charsmap that is not an array of bytes";
    }
    if (!why) why = finish_vocab(v, g->bos, g->eos, true, g->space_in_front != 0);
    if (why) return refuse_vocab(why, repair, true, file, err);
    *out = v;
    return LLAMA_OK;
}

/* ---- 2. Reading vocabularies: strings in JSON ---- */

/* Returns the number that 4 hexadecimal digits write. */
static uint32_t hex_number(const char *digits) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)digits[i];
        v = v * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return v;
}

/* Returns a JSON string's text in UTF-8, with its escapes resolved, and sets *length. The syntax of
 * the escapes was checked by the JSON reader. Returns NULL and sets *why if a high
 * surrogate is not followed by a low one, or if memory is short. */
static char *json_unescape(llamac_arena *arena, const char *text, size_t n, size_t *length,
                           const char **why) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char *out = llamac_new(arena, n + 1, 1);
    size_t k = 0;
    *why = out ? "has a string with half a surrogate pair" : out_of_memory;
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
        uint32_t code = hex_number(text + i + 1), low = 0;
        i += 4;
        if (code >= 0xd800 && code < 0xdc00) { /* a high surrogate */
            if (n - i > 6 && text[i + 1] == '\\' && text[i + 2] == 'u')
                low = hex_number(text + i + 3);
            if (low < 0xdc00 || low > 0xdfff) return NULL;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            i += 6;
        }
        if (code >= 0x80) { /* UTF-8 is never longer than the escape, so `out` is large enough */
            int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
            static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
            out[k++] = (char)(first[more] | code >> (6 * more));
            while (more--) out[k++] = (char)(0x80 | (code >> (6 * more) & 0x3f));
        } else out[k++] = (char)code;
    }
    *length = k;
    return out;
}

/* ---- 2. Reading vocabularies: special and added tokens ---- */

/* Special tokens are the control tokens, <unk>, and the tokens that a fine-tune added. Encoding
 * makes them only with LLAMA_SPECIAL: see llamac_encode. Hugging Face writes added tokens in
 *
 *     added_tokens.json         {"<|im_end|>": 32000}
 *     tokenizer_config.json     "added_tokens_decoder": {"32000": {"content": "<|im_end|>", ...}}
 *     tokenizer.json            "added_tokens": [{"id": 32000, "content": "<|im_end|>", ...}]
 *
 * and names special ones in tokenizer_config.json and special_tokens_map.json, as the values of
 * keys that end in _token and the items of additional_special_tokens. A special added token becomes
 * CONTROL, so it has no text when it is decoded; others become UNUSED.
 *
 * The fields of an added token: lstrip and rstrip are honoured, single_word is refused. `normalized`
 * has no effect, as in Hugging Face's LlamaTokenizer: texts are matched before normalisation. */

typedef struct {
    const char *content; /* [n], escapes not resolved; NULL: not read */
    size_t n;
    double id; /* -1: not read */
    bool special, lstrip, rstrip, single_word;
} added_token;

/* The files, and how a value in them is part of an added token. */
enum { ADDED_TOKENS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, TOKENIZER_JSON };

/* Stores the value of a field of an added token. Returns why it is not valid. */
static const char *read_field(added_token *a, const llamac_json *j) {
    char kind = j->value.kind;
    const struct {
        const char *key;
        bool *yes;
    } flags[] = {{"special", &a->special},
                 {"lstrip", &a->lstrip},
                 {"rstrip", &a->rstrip},
                 {"single_word", &a->single_word}};
    for (int i = 0; i < 4; i++) {
        if (!llamac_json_under(j, j->level, flags[i].key) || kind == 'n') continue;
        if (kind != 't' && kind != 'f')
            return "has an added token whose special, lstrip, rstrip or single_word is not true or "
                   "false";
        *flags[i].yes = kind == 't';
    }
    bool content = llamac_json_under(j, j->level, "content");
    if (kind == '0' && llamac_json_under(j, j->level, "id")) a->id = j->value.number;
    if (content && kind != '"') return "has an added token whose content is not a string";
    if (content) a->content = j->value.text, a->n = j->value.n;
    return NULL;
}

/* Returns the piece of an added token with this id. If it does not exist yet, the pieces grow by empty
 * ones up to it; without a row in the model it becomes the last of v->rowless. Returns NULL if memory
 * is short. */
static vocab_piece *piece_for_id(llamac_vocab *v, int32_t id, size_t rows) {
    bool row = (size_t)id < rows;
    size_t size = row ? (size_t)v->size : v->n_rowless, needed = row ? (size_t)id + 1 : size + 1;
    vocab_piece **pieces = row ? &v->pieces : &v->rowless;
    size_t *capacity = row ? &v->capacity : &v->rowless_capacity;
    if (needed > *capacity) {
        vocab_piece *larger = llamac_new(v->arena, needed + needed / 2, sizeof *larger);
        if (!larger) return NULL;
        if (size) memcpy(larger, *pieces, size * sizeof *larger);
        *pieces = larger;
        *capacity = needed + needed / 2;
    }
    for (; size < needed; size++) (*pieces)[size] = (vocab_piece){.type = CONTROL, .id = id};
    if (row) v->size = (int32_t)size;
    else v->n_rowless = size;
    return &(*pieces)[needed - 1];
}

/* Adds a token, or makes an existing piece special. rows is the number of the model's tokens. */
static const char *add_token(llamac_vocab *v, const added_token *a, size_t rows) {
    const char *why;
    size_t n;
    if (!a->content) return "has an added token without content";
    if (!(a->id >= 0 && a->id < INT32_MAX && a->id == (double)(int32_t)a->id))
        return "has an added token without a valid id";
    if (a->single_word) return "!has an added token with single_word";
    const char *text = json_unescape(v->arena, a->content, a->n, &n, &why);
    if (!text) return why;
    if (n == 0 || n > MAX_PIECE || !is_utf8(text, n))
        return "has an added token that is empty, not UTF-8 or over 1000 bytes";
    if (v->n_added++ == MAX_ADDED) return "has more than 65536 added tokens";
    vocab_piece *p = piece_for_id(v, (int32_t)a->id, rows);
    if (!p) return out_of_memory;
    bool same = same_text(p->text, p->n, text, n);
    if (!same && (p->type == UNKNOWN || p->type == BYTE_PIECE))
        return "gives the id of <unk> or of a byte to another token";
    if (p->type == BYTE_PIECE) return "has an added token that is a byte";
    if (!same && p->added) return two_texts;
    if (!same) p->text = text, p->n = (uint32_t)n;
    bool keeps = same && (p->type == USER_DEFINED || (p->type == NORMAL && !a->special));
    if (p->type != UNKNOWN && !keeps)
        p->type = a->special || (same && p->type == CONTROL) ? CONTROL : UNUSED;
    p->added = true;
    p->lstrip = a->lstrip;
    p->rstrip = a->rstrip;
    return NULL;
}

/* Makes the token that a _token key or additional_special_tokens names special. A name that is no
 * token says nothing, unless it is to begin or to end texts. */
static const char *name_special(llamac_vocab *v, const added_token *a, const llamac_json *j) {
    bool ends = llamac_json_under(j, 1, "eos_token"), begins = llamac_json_under(j, 1, "bos_token");
    size_t n;
    const char *why, *text;
    if (!a->content)
        return begins ? "has a bos_token that is an object without content"
               : ends ? "has an eos_token that is an object without content"
                      : "has a special token that is an object without content";
    if (a->single_word) return "!has a special token with single_word";
    if (!(text = json_unescape(v->arena, a->content, a->n, &n, &why))) return why;
    const piece_text *found = match_text(&v->specials, text, n);
    int32_t id = found && found->n == n ? found->id : n ? slot_find(v, text, n) : -1;
    if (id < 0)
        return n && ends     ? "has an eos_token that is no token of the model"
               : n && begins ? "has a bos_token that is no token of the model"
                             : NULL;
    vocab_piece *p = piece_of(v, (size_t)id);
    if (p->type == UNUSED && p->added) p->type = CONTROL; /* else ordinary text keeps its token */
    p->added = true;
    p->lstrip |= a->lstrip;
    p->rstrip |= a->rstrip;
    if (ends) p->ends = true;
    if (begins && id < v->size) v->bos = id;
    return NULL;
}

/* Reads a setting of tokenizer_config.json or special_tokens_map.json, which may be null. Returns why
 * it is not valid. */
static const char *config_setting(llamac_vocab *v, const llamac_json *j) {
    bool legacy = !v->first_only;
    const struct {
        const char *key, *why;
        bool *yes;
    } settings[] = {
        {"add_bos_token", "has an add_bos_token that is not true or false", &v->adds_bos},
        {"add_eos_token", "has an add_eos_token that is not true or false", &v->adds_eos},
        {"add_prefix_space", "has an add_prefix_space that is not true or false",
         &v->space_in_front},
        {"legacy", "has a legacy that is not true or false", &legacy},
        {"bos_token", "has a bos_token that is not a string or an object", NULL},
        {"eos_token", "has an eos_token that is not a string or an object", NULL},
    };
    char kind = j->value.kind;
    v->no_bos |= kind == 'n' && llamac_json_under(j, 1, "bos_token");
    v->names_bos |= kind == '"' && llamac_json_under(j, 1, "bos_token");
    for (int i = 0; i < 6; i++) {
        if (!llamac_json_under(j, 1, settings[i].key) || kind == 'n') continue;
        if (!strchr(settings[i].yes ? "tf" : "\"{}", kind)) return settings[i].why;
        if (settings[i].yes) *settings[i].yes = kind == 't';
    }
    if (v->space_in_front && v->byte_level)
        return "has add_prefix_space true, which byte-level vocabularies do not support";
    if (!v->first_stated) v->first_only = !legacy;
    return NULL;
}

/* Reads one of the files. First all files are read for the tokens that they add; then, if `adds` is
 * false, for the names of special tokens. */
static const char *read_added(llamac_vocab *v, llamac_cursor bytes, size_t rows, int file,
                              bool adds) {
    llamac_json j = llamac_json_on(bytes.at, llamac_left(&bytes));
    added_token a = {.id = -1};
    const char *why = NULL;
    bool config = file == TOKENIZER_CONFIG || file == SPECIAL_TOKENS_MAP;
    bool no_bos = false, adds_bos = false;
    while (!why && llamac_json_next(&j)) {
        char kind = j.value.kind;
        bool decoder = file == TOKENIZER_CONFIG && llamac_json_under(&j, 1, "added_tokens_decoder");
        bool list = file == TOKENIZER_JSON && llamac_json_under(&j, 1, "added_tokens");
        bool extra = llamac_json_under(&j, 1, "extra_special_tokens"); /* the newer name */
        bool names = extra || llamac_json_under(&j, 1, "additional_special_tokens");
        bool name = j.level > 0 && j.key[1].n > 6 &&
                    memcmp(j.key[1].text + j.key[1].n - 6, "_token", 6) == 0;
        int level = decoder || list || names ? 2 : 1; /* of the objects that are tokens */
        no_bos |= kind == 'n' && llamac_json_under(&j, 1, "bos_token");
        adds_bos |= kind == 't' && llamac_json_under(&j, 1, "add_bos_token");
        if (j.level == 0 && kind != '{' && kind != '}') return "is not a JSON object";
        if (decoder && j.level <= 2 && !strchr("{}n", kind))
            return "has an added_tokens_decoder that is not an object of objects";
        if (names && file != TOKENIZER_JSON &&
            !((j.level == 1 && strchr(extra ? "[]{}n" : "[]n", kind)) ||
              (j.level == 2 && strchr("\"{}n", kind)) || j.level > 2))
            return extra ? "has extra_special_tokens that are not a list or an object of strings"
                         : "has additional_special_tokens that are not a list of strings";
        if (j.level == level && kind == '{') a = (added_token){.id = -1};
        if (j.level == level + 1 && (why = read_field(&a, &j))) break;
        if (config && j.level == 1 && (why = config_setting(v, &j))) break;
        if (adds && file == ADDED_TOKENS && j.level == 1) {
            a = (added_token){.content = j.key[1].text, .n = j.key[1].n, .id = -1};
            if (kind == '0') a.id = j.value.number;
            why = add_token(v, &a, rows);
        } else if (adds && (decoder || list) && j.level == 2 && kind == '}') {
            llamac_cursor id = llamac_cursor_on(j.key[2].text, j.key[2].n);
            if (decoder && (!llamac_json_number(&id, &a.id) || llamac_left(&id))) a.id = -1;
            why = add_token(v, &a, rows);
        } else if (!adds && file != ADDED_TOKENS && (name || names) && j.level == level) {
            if (kind == '"') a = (added_token){.content = j.value.text, .n = j.value.n, .id = -1};
            if (kind == '"' || kind == '}') why = name_special(v, &a, &j);
        }
    }
    if (!why && no_bos && adds_bos)
        why = "has add_bos_token true and bos_token null, which contradict each other";
    return why ? why : j.c.bad ? "is not JSON" : NULL;
}

/* Reads the added tokens from Hugging Face's files beside the tokenizer: by number added_tokens.json,
 * special_tokens_map.json, tokenizer_config.json, tokenizer.json; an empty cursor: there is no such
 * file. tokenizer.json is read first, so that the others have precedence. `paths` are for error
 * texts. Fails with LLAMA_EFORMAT or LLAMA_ENOMEM. */
LLAMAC_SHARED int llamac_vocab_extend(llamac_vocab *v, const llamac_cursor files[4], size_t rows,
                                      const char *const paths[4], llama_error *err) {
    for (int pass = 0; pass < 2; pass++) {
        const char *why = NULL, *path = "";
        for (int k = 0; k < 4 && !why; k++) {
            int file = (k + TOKENIZER_JSON) % 4;
            if (pass == 1 && file == TOKENIZER_JSON) continue; /* it names no special tokens */
            path = paths[file];
            if (files[file].at) why = read_added(v, files[file], rows, file, pass == 0);
            if (files[file].at && !why) why = list_pieces(v);
        }
        if (why == out_of_memory) return llamac_out_of_memory(err, path);
        if (why)
            return llamac_fail(err, LLAMA_EFORMAT, "%s: %s; correct the file or remove it", path,
                               why + (*why == '!'));
    }
    if (v->no_bos && !v->names_bos) v->adds_bos = false;
    return LLAMA_OK;
}

/* ---- 2. Reading vocabularies: Hugging Face's tokenizer.json ---- */

/* Two kinds of tokenizers are accepted: SentencePiece's, whose names here begin with spm_, and
 * byte-level BPE, with bytes_. Both have an ordered list of merges. */

typedef struct {      /* a token around a text */
    const char *text; /* [n], escapes not resolved; NULL: none */
    size_t n;
    double id;
} json_around;

typedef struct {
    llamac_arena scratch;
    struct {
        const char *text; /* NULL: no piece with this id was read */
        size_t n;         /* bytes */
        int type;
    } * pieces;      /* [capacity], by id */
    size_t capacity; /* tokens of the model; ids must be lower */
    size_t size;     /* the highest id read, plus 1 */
    /* Settings found. Metaspace writes spaces as U+2581 and adds one in front, unless `never` is
     * set. It also splits the text before each of them, unless `whole` is set. */
    bool bpe, byte_fallback, fuses_unk, named_unk, metaspace, never, whole, first_only;
    bool ignores_merges;
    bool no_prefix, scheme; /* add_prefix_space is false; there is a prepend_scheme */
    int prepend_types, prepends, replace_types, patterns, contents; /* of the normalizer: numbers */
    bool has_template, sequence, adds_bos, adds_eos; /* of the post_processor's template */
    double template_ids[2];                          /* of <s> and </s> in it; -1: not read */
    int32_t ids[2];   /* of the pieces <s> and </s>; -1: no such piece */
    char decoders[8]; /* the first letters of the decoder's types, in their order */
    unsigned parts;   /* bit i: part i of json_part() was read */
    size_t n_merges;
    /* Byte-level BPE: settings of the pre_tokenizer. Its types are noted by their first letters */
    char splitters[8];
    int pattern; /* SPLIT_..., 0: no pattern was read */
    bool isolated, individual_digits, no_regex, states_space;
    json_around around[2];  /* the tokens before and after a text, as post_processor says */
    json_around listed[16]; /* [n_listed] tokens whose ids are given there */
    size_t n_listed;
    added_token added; /* the added token that is being read */
} json_vocab;

/* Notes a piece. The vocabulary and the added tokens may both have it; then the texts must be the
 * same, and the type of the added token is kept in whichever order they come. */
static const char *json_piece(json_vocab *k, double id, const char *text, size_t n, int type) {
    if (!(id >= 0 && id < (double)k->capacity && id == (double)(size_t)id))
        return "has more pieces than the model has tokens, or an id that is not valid";
    size_t i = (size_t)id, length = 0;
    const char *why, *plain = json_unescape(&k->scratch, text, n, &length, &why);
    if (!plain) return why;
    if (k->pieces[i].text && !same_text(k->pieces[i].text, k->pieces[i].n, plain, length))
        return "has two pieces of one id";
    if (!k->pieces[i].text || type != NORMAL) k->pieces[i].type = type;
    k->pieces[i].text = plain;
    k->pieces[i].n = length;
    if (i + 1 > k->size) k->size = i + 1;
    return NULL;
}

/* Reads a setting of the model that is in no table of json_want. */
static const char *json_setting(json_vocab *k, const llamac_json *j) {
    const llamac_value *v = &j->value;
    const struct {
        const char *key;
        bool *yes;
    } flags[] = {{"byte_fallback", &k->byte_fallback},
                 {"fuse_unk", &k->fuses_unk},
                 {"ignore_merges", &k->ignores_merges}};
    static const char *const marks[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    bool text = v->kind == '"';
    for (int i = 0; i < 3; i++) {
        if (!llamac_json_under(j, 2, flags[i].key)) continue;
        if (v->kind != 't' && v->kind != 'f')
            return "has a byte_fallback, fuse_unk or ignore_merges that is not true or false";
        *flags[i].yes = v->kind == 't';
    }
    for (int i = 0; i < 2; i++)
        if (llamac_json_under(j, 2, marks[i]) && (!text || v->n))
            return text ? "!marks the parts of words (continuing_subword_prefix or "
                          "end_of_word_suffix)"
                        : mistyped;
    if (llamac_json_under(j, 2, "unk_token") && !text) return mistyped;
    if (llamac_json_under(j, 2, "unk_token")) k->named_unk = llamac_is(v->text, v->n, "<unk>");
    if (!llamac_json_under(j, 2, "dropout")) return NULL;
    if (v->kind != '0') return mistyped;
    return v->number != 0 ? "!leaves out merges at random (dropout)" : NULL;
}

typedef struct { /* a setting that must have one of the values in `text`, separated by '|' */
    const char *part, *key, *text, *why; /* why: the reason for refusing other values */
} json_want;

/* Finds the setting of the table that a value is, and sets *value[*n] to its text. Returns its index,
 * or the number of settings if the value belongs to no setting. Sets *why if the value is not
 * accepted. The first setting is the type of the model. */
static size_t json_wanted(json_vocab *k, const llamac_json *j, const json_want *wants, size_t count,
                          const char **value, size_t *n, const char **why) {
    size_t i = 0;
    *value = "";
    *n = 0;
    *why = NULL;
    for (; i < count; i++)
        if (llamac_json_under(j, 1, wants[i].part) &&
            llamac_json_under(j, j->level, wants[i].key) &&
            (i > 0 || j->level == 2)) /* deeper, "type" may be a piece of the vocabulary */
            break;
    if (i == count) return i;
    bool accepted = false;
    if (j->value.kind == '"' &&
        !(*value = json_unescape(&k->scratch, j->value.text, j->value.n, n, why)))
        return i;
    *why = NULL;
    for (const char *want = wants[i].text; want;
         want = strchr(want, '|') ? strchr(want, '|') + 1 : NULL)
        accepted |= strcspn(want, "|") == *n && memcmp(want, *value, *n) == 0;
    if (!accepted) *why = wants[i].why;
    return i;
}

/* Notes the first letter of the type of a decoder or pre_tokenizer. Returns false if there are too
 * many. */
static bool json_note(char types[8], const char *type, size_t n) {
    size_t length = strlen(types);
    if (llamac_is(type, n, "Sequence")) return true;
    if (length == 7) return false;
    types[length] = *type;
    return true;
}

/* Reads a setting of the model, a piece, or a field of an added token. */
static const char *json_entry(json_vocab *k, const llamac_json *j) {
    if (llamac_json_under(j, 1, "model") && j->level == 2) return json_setting(k, j);
    if (j->level == 3 && llamac_json_under(j, 1, "model") && llamac_json_under(j, 2, "vocab"))
        return j->value.kind == '0'
                   ? json_piece(k, j->value.number, j->key[3].text, j->key[3].n, NORMAL)
                   : "has a piece whose id is not a number";
    return j->level == 3 && llamac_json_under(j, 1, "added_tokens") ? read_field(&k->added, j)
                                                                    : NULL;
}

/* Checks that a part of the file is not there twice: each part means the whole of it. */
static const char *json_part(json_vocab *k, const llamac_json *j) {
    static const char *const names[] = {"decoder",       "model",          "normalizer",
                                        "pre_tokenizer", "post_processor", "added_tokens",
                                        "vocab",         "merges"};
    enum { INSIDE_MODEL = 6, PARTS = 8 };
    for (int i = 0; i < PARTS; i++) {
        int level = i < INSIDE_MODEL ? 1 : 2;
        if (j->level != level || !llamac_json_under(j, level, names[i]) ||
            (i >= INSIDE_MODEL && !llamac_json_under(j, 1, "model")) || strchr("]}", j->value.kind))
            continue;
        if (k->parts & 1u << i)
            return "has its decoder, model, normalizer, pre_tokenizer, post_processor, "
                   "added_tokens, vocab or merges twice";
        k->parts |= 1u << i;
    }
    return NULL;
}

/* Reads everything except the merges, and counts these. `value` reads a value. */
static const char *json_pieces(json_vocab *k, llamac_json j,
                               const char *(*value)(json_vocab *k, const llamac_json *j)) {
    const char *why = NULL;
    while (!why && llamac_json_next(&j)) {
        if ((why = json_part(k, &j))) break;
        if (j.level == 2 && llamac_json_under(&j, 1, "added_tokens") && j.value.kind == '{')
            k->added = (added_token){.id = -1};
        else if (j.level == 2 && llamac_json_under(&j, 1, "added_tokens") && j.value.kind == '}') {
            if (!k->added.content) why = "has an added token without content";
            else if (k->added.id < (double)k->capacity) /* add_token takes those without a row */
                why = json_piece(k, k->added.id, k->added.content, k->added.n,
                                 k->added.special ? CONTROL : UNUSED);
        } else if (!llamac_json_under(&j, 2, "merges")) why = value(k, &j);
        else k->n_merges += j.level == 3 && j.value.kind != ']';
    }
    return why ? why : j.c.bad ? "is not JSON" : NULL;
}

/* Reads the next merge, "left right" or ["left", "right"]. Sets *joined to the concatenation, in
 * scratch memory, and *cut to the length of the left piece. Returns the length of both; 0 after the
 * last merge, or with *why set if the merge is malformed or memory is short. */
static size_t json_merge(json_vocab *k, llamac_json *j, char **joined, size_t *cut,
                         const char **why) {
    char *left = NULL;
    size_t n_left = 0, n = 0;
    while (llamac_json_next(j)) {
        static const char malformed[] = "has a merge that is not two pieces";
        const char *wrong;
        if (j->level < 3 || !llamac_json_under(j, 1, "model") ||
            !llamac_json_under(j, 2, "merges") ||
            (j->level == 3 && strchr("[]", j->value.kind) && !left)) /* the brackets of a pair */
            continue;
        if (j->value.kind != '"' || j->level > 4) return *why = malformed, 0;
        char *text = json_unescape(&k->scratch, j->value.text, j->value.n, &n, &wrong);
        char *space = text && j->level == 3 ? memchr(text, ' ', n) : NULL;
        if (!text || (j->level == 3 && !space)) {
            *why = text ? malformed : wrong;
            return 0;
        }
        if (space) { /* concatenate by removing the space */
            *cut = (size_t)(space - text);
            memmove(space, space + 1, n - (size_t)(space + 1 - text));
            *joined = text;
            return n - 1;
        }
        if (!left) left = text, *cut = n_left = n; /* the first element of a pair */
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

/* ---- 2. Reading vocabularies: tokenizer.json of SentencePiece's kind ---- */

/* BPE, with spaces written as U+2581. The scores that tokenizer.model has are derived from the order
 * of the merges. */

static const float UNSCORED = -3e38f;    /* a piece that no merge read so far forms */
static const float SPACES_SCORE = -1e9f; /* the score of runs of spaces in tokenizer.model */

/* Reads a value of the post_processor, whose template tells which tokens go around a text: <s>
 * SEQUENCE, or SEQUENCE </s>, or only SEQUENCE; and which ids they have. */
static const char *spm_template(json_vocab *k, const llamac_json *j) {
    if (j->level == 5 && llamac_json_under(j, 2, "special_tokens") &&
        llamac_json_under(j, 4, "ids")) {
        bool eos = llamac_json_under(j, 3, "</s>");
        if (!eos && !llamac_json_under(j, 3, "<s>")) return NULL;
        if (j->value.kind != '0' || k->template_ids[eos] >= 0)
            return "!puts several tokens around a text instead of <s> or </s> (post_processor)";
        k->template_ids[eos] = j->value.number;
    }
    if (j->level != 5 || !llamac_json_under(j, 2, "single") || !llamac_json_under(j, 5, "id"))
        return NULL;
    if (llamac_json_under(j, 4, "Sequence")) {
        if (k->sequence || !llamac_is(j->value.text, j->value.n, "A"))
            return "!puts other texts into a text (post_processor)";
        k->sequence = true;
    }
    if (!llamac_json_under(j, 4, "SpecialToken")) return NULL;
    bool text = j->value.kind == '"';
    bool bos = text && llamac_is(j->value.text, j->value.n, "<s>"),
         eos = text && llamac_is(j->value.text, j->value.n, "</s>");
    if (!(k->sequence ? eos && !k->adds_eos : bos && !k->adds_bos))
        return "!puts other tokens around a text than <s> and </s> (post_processor)";
    if (k->sequence) k->adds_eos = true;
    else k->adds_bos = true;
    return NULL;
}

/* Reads a value outside the merges: a piece, a field of an added token, or a setting. */
static const char *spm_value(json_vocab *k, const llamac_json *j) {
    static const char normalizer[] = "!treats text differently from SentencePiece (normalizer)",
                      splitter[] = "!treats text differently from SentencePiece, GPT-2 and Llama 3 "
                                   "(pre_tokenizer)",
                      decoder[] = "!treats text differently from SentencePiece (decoder)";
    static const json_want wants[] = {
        {"model", "type", "BPE", "!is not BPE"},
        {"version", "version", "1.0", "!is of another version than 1.0"},
        {"normalizer", "type", "Sequence|Prepend|Replace", normalizer},
        {"normalizer", "prepend", SPACE, normalizer},
        {"normalizer", "String", " ", normalizer},
        {"normalizer", "Regex", " ", normalizer},
        {"normalizer", "content", SPACE, normalizer},
        {"pre_tokenizer", "type", "Metaspace", splitter},
        {"pre_tokenizer", "replacement", SPACE, splitter},
        {"pre_tokenizer", "prepend_scheme", "first|always|never", splitter},
        {"decoder", "type", "Sequence|Replace|ByteFallback|Fuse|Strip", decoder},
        {"decoder", "String", SPACE, decoder},
        {"decoder", "content", " ", decoder},
        {"post_processor", "type", "TemplateProcessing",
         "!changes the tokens of a text (post_processor)"}};
    size_t n;
    const char *why, *value;
    bool begins = j->value.kind == '[' || j->value.kind == '{';
    if (j->level == 1 && llamac_json_under(j, 1, "decoder") && !strchr("{}", j->value.kind))
        return "!has no decoder, so its texts keep U+2581 for each space";
    if (strchr("]}n", j->value.kind)) return NULL;
    if (begins)
        return llamac_json_under(j, 1, "model") && j->level == 2 ? json_setting(k, j) : NULL;
    enum { WANTS = sizeof wants / sizeof *wants };
    size_t i = json_wanted(k, j, wants, WANTS, &value, &n, &why);
    if (why) return why;
    if (i < WANTS) {
        k->bpe |= i == 0;
        bool type = strcmp(wants[i].key, "type") == 0;
        if (wants[i].why == normalizer) {
            k->prepend_types += type && llamac_is(value, n, "Prepend");
            k->replace_types += type && llamac_is(value, n, "Replace");
            k->prepends += strcmp(wants[i].key, "prepend") == 0;
            k->patterns += llamac_is(value, n, " ");
            k->contents += strcmp(wants[i].key, "content") == 0;
        }
        k->metaspace |= wants[i].why == splitter;
        k->scheme |= strcmp(wants[i].key, "prepend_scheme") == 0;
        k->never |= llamac_is(value, n, "never");
        k->first_only |= llamac_is(value, n, "first");
        k->has_template |= strcmp(wants[i].part, "post_processor") == 0;
        if (wants[i].why == decoder && type && !json_note(k->decoders, value, n)) return decoder;
    }
    if (llamac_json_under(j, 1, "decoder") && j->value.kind == '0' &&
        j->value.number != llamac_json_under(j, j->level, "start")) /* Strip: start 1, stop 0 */
        return decoder;
    bool split = llamac_json_under(j, 2, "split"),
         flag = split || llamac_json_under(j, 2, "add_prefix_space");
    if (llamac_json_under(j, 1, "pre_tokenizer") && flag) {
        if (!strchr("tf", j->value.kind)) return mistyped;
        k->whole |= split && j->value.kind == 'f';
        k->no_prefix |= !split && j->value.kind == 'f';
    }
    if (llamac_json_under(j, 1, "post_processor")) return spm_template(k, j);
    return json_entry(k, j);
}

/* Checks the settings together. Returns why they do not describe SentencePiece's BPE. */
static const char *spm_check(const json_vocab *k) {
    static const char *const decoders[] = {"RBFS", "RBF", "RFS", "RF"};
    bool decodes = !(k->parts & 1); /* without the key decoder: as SentencePiece */
    if (!(k->parts & 2)) return not_tokenizer;
    if (!k->bpe) return "!is not a BPE vocabulary";
    if (k->ignores_merges) return "!finds whole words before it merges (ignore_merges)";
    if (k->prepend_types > k->prepends)
        return "has a Prepend without its space in front of the text";
    if (k->replace_types > k->patterns) return "has a Replace without the space that it replaces";
    if (k->prepends != k->prepend_types || k->patterns != k->replace_types ||
        k->contents != k->replace_types)
        return "has a normalizer without its type, or with another type's text";
    if (k->prepends > 1) return "!puts several spaces in front of a text (normalizer)";
    if (!k->patterns && !k->metaspace)
        return "!does not write spaces as U+2581, as SentencePiece does";
    if (k->no_prefix && k->scheme && !k->never)
        return "has an add_prefix_space that contradicts its prepend_scheme";
    if (k->has_template && !k->sequence) return "!leaves the text out (post_processor)";
    for (int i = 0; i < 4; i++)
        decodes |= (i < 2 || !k->byte_fallback) && strcmp(k->decoders, decoders[i]) == 0;
    if (!decodes) return "!decodes text differently from SentencePiece (decoder)";
    if (!k->byte_fallback && !k->named_unk) return "!has another unk_token than <unk>, or none";
    return NULL;
}

/* Returns the reason for refusing the merges: what is wrong with this piece. */
static const char *no_scores(const llamac_vocab *v, const char *what, const char *piece, size_t n) {
    enum { SHOWN = 48, BYTES = 400 };
    char *text = llamac_new(v->arena, BYTES, 1);
    if (!text) return out_of_memory;
    snprintf(text, BYTES,
             "!is not made from a SentencePiece model: it has merges that no SentencePiece scores "
             "can express (%s '%.*s')",
             what, (int)(n < SHOWN ? n : SHOWN), piece);
    return text;
}

/* Returns a hash of the division of a piece into two pieces, the left one `cut` bytes long, or 0 if
 * the two are not pieces that merges form. Equal sums mean equal sets of divisions. */
static uint64_t cut_number(const llamac_vocab *v, const char *text, size_t n, size_t cut) {
    if (vocab_find(v, text, cut) < 0 || vocab_find(v, text + cut, n - cut) < 0) return 0;
    uint64_t h = cut * 0x9e3779b97f4a7c15;
    return (h ^ h >> 29) * 0x9e3779b97f4a7c15;
}

/* Sets the scores from the order of the merges: the earlier a merge, the higher the score of the
 * piece it forms.
 *
 * SentencePiece merges any two pieces whose concatenation is a piece, so the list must have every
 * such pair. Several merges may form the same piece. They must be adjacent in the list, as the merges
 * of a piece all have its score. The exception is runs of spaces, which all have the same score in
 * tokenizer.model, so their merges may alternate. If the merges of all runs of spaces come last,
 * these pieces get SPACES_SCORE. If they do not come last, they must be adjacent too. */
static const char *spm_scores(json_vocab *k, llamac_vocab *v, llamac_json j) {
    static const char apart_why[] = "other merges are between those of its piece";
    int32_t previous = -1, id;
    /* rank: pieces scored so far, the score is -rank; last_other, first_spaces: the ranks of the
     * last piece that is not a run of spaces and of the first that is */
    float rank = 0, last_other = 0, first_spaces = 0;
    int32_t apart = -1; /* a run of spaces whose merges are not adjacent */
    const char *why = NULL;
    char *text;
    size_t n, cut = 0;
    uint64_t *cuts = llamac_new(&k->scratch, (uint64_t)v->size, sizeof *cuts); /* sums, by piece */
    if (!cuts) return out_of_memory;
    for (; (n = json_merge(k, &j, &text, &cut, &why)); previous = id) {
        id = n <= MAX_PIECE ? vocab_find(v, text, n) : -1;
        if (id < 0) return no_scores(v, "a merge forms a text that is not a piece,", text, n);
        bool space = n % 3 == 0;
        for (size_t i = 0; i < n && space; i++) space = text[i] == SPACE[i % 3];
        cuts[id] += cut_number(v, text, n, cut);
        if (id == previous) continue;
        if (v->pieces[id].score != UNSCORED && !space) return no_scores(v, apart_why, text, n);
        if (v->pieces[id].score != UNSCORED) apart = id;
        v->pieces[id].score = -++rank;
        if (!space) last_other = rank;
        else if (first_spaces == 0) first_spaces = rank;
    }
    if (!why && apart >= 0 && first_spaces < last_other)
        why = no_scores(v, apart_why, v->pieces[apart].text, v->pieces[apart].n);
    for (int32_t i = 0; i < v->size && !why; i++) {
        vocab_piece *p = &v->pieces[i];
        bool character = utf8_length(p->text, p->n) == p->n;
        if (p->type == NORMAL && p->score == UNSCORED && !character)
            why = no_scores(v, "added_tokens does not list, and no merge forms, its piece", p->text,
                            p->n);
        for (cut = 1; p->type == NORMAL && cut < p->n; cut++)
            cuts[i] -= cut_number(v, p->text, p->n, cut);
        if (!why && cuts[i])
            why = no_scores(v, "only some pairs are merged to its piece", p->text, p->n);
        if (first_spaces > last_other && p->score <= -first_spaces && p->score != UNSCORED)
            p->score = SPACES_SCORE;
    }
    return why;
}

/* Adds a piece. The tokens of the post_processor are found by their texts. */
static const char *spm_add(json_vocab *k, llamac_vocab *v, const char *text, size_t n, int type) {
    if (byte_of(text, n) >= 0) type = BYTE_PIECE;
    else if (llamac_is(text, n, "<unk>")) type = UNKNOWN;
    if (type == BYTE_PIECE && !k->byte_fallback)
        return "has byte pieces, but its byte_fallback is not true";
    if (llamac_is(text, n, "<s>")) k->ids[0] = v->size;
    if (llamac_is(text, n, "</s>")) k->ids[1] = v->size;
    return vocab_add(v, text, n, UNSCORED, type);
}

/* Sets the scores, and takes over the settings. */
static const char *spm_finish(json_vocab *k, llamac_vocab *v, llamac_json j) {
    bool prefixes = k->metaspace && !k->never && !k->no_prefix;
    const char *why = spm_scores(k, v, j);
    if (!why) why = finish_vocab(v, k->ids[0], k->ids[1], false, k->prepends || prefixes);
    if (!why && v->byte_id[0] < 0 && !k->named_unk)
        why = "!has another unk_token than <unk>, or none";
    for (int i = 0; i < 2 && !why; i++)
        if ((i ? k->adds_eos : k->adds_bos) &&
            (k->ids[i] < 0 || (k->template_ids[i] >= 0 && k->template_ids[i] != k->ids[i])))
            why = "!puts other ids around a text than its vocabulary has for <s> and </s> "
                  "(post_processor)";
    v->splits_words = k->metaspace && !k->whole;
    v->repeats_unk = !k->fuses_unk;
    v->one_in_front = k->metaspace && !k->prepends;
    v->first_only = k->first_only && !k->prepends;
    v->first_stated = true;
    if (k->decoders[0]) v->strips = strchr(k->decoders, 'S') != NULL;
    if (k->has_template) v->adds_bos = k->adds_bos, v->adds_eos = k->adds_eos;
    return why;
}

/* ---- 2. Reading vocabularies: tokenizer.json of byte-level BPE ---- */

static const char other_words[] =
    "!splits text into other words than GPT-2, SmolLM2 and Llama 3 do (pre_tokenizer)";
static const char other_decoder[] = "!treats text differently from GPT-2 (decoder)";

/* Reads a value of the post_processor, whose template tells which tokens go around a text. It may be
 * one of several processors; ByteLevel, which is another, changes no token. */
static const char *bytes_template(json_vocab *k, const llamac_json *j) {
    static const char several[] = "!puts several tokens around a text (post_processor)";
    const llamac_value *v = &j->value;
    int below = llamac_json_under(j, 2, "processors") ? 2 : 0; /* levels */
    if (j->level != 5 + below) return NULL;
    if (llamac_json_under(j, 2 + below, "special_tokens") &&
        llamac_json_under(j, 4 + below, "ids")) {
        json_around id = {j->key[3 + below].text, j->key[3 + below].n, v->number};
        for (size_t i = 0; i < k->n_listed; i++)
            if (same_text(id.text, id.n, k->listed[i].text, k->listed[i].n)) return several;
        if (v->kind != '0' || k->n_listed == sizeof k->listed / sizeof *k->listed) return several;
        k->listed[k->n_listed++] = id;
    }
    if (!llamac_json_under(j, 2 + below, "single") || !llamac_json_under(j, 5 + below, "id"))
        return NULL;
    if (v->kind != '"') return mistyped;
    if (llamac_json_under(j, 4 + below, "Sequence")) {
        if (k->sequence || !llamac_is(v->text, v->n, "A"))
            return "!puts other texts into a text (post_processor)";
        k->sequence = true;
    } else if (llamac_json_under(j, 4 + below, "SpecialToken")) {
        if (k->around[k->sequence].text) return several;
        k->around[k->sequence] = (json_around){v->text, v->n, -1};
    }
    return NULL;
}

/* Reads a value outside the merges, as spm_value does for SentencePiece. */
static const char *bytes_value(json_vocab *k, const llamac_json *j) {
    static const json_want wants[] = {
        {"model", "type", "BPE", "!is not BPE"},
        {"version", "version", "1.0", "!is of another version than 1.0"},
        {"pre_tokenizer", "type", "Sequence|Split|Digits|ByteLevel", other_words},
        {"pre_tokenizer", "behavior", "Isolated", other_words},
        {"decoder", "type", "Sequence|ByteLevel", other_decoder},
        {"post_processor", "type", "Sequence|TemplateProcessing|ByteLevel",
         "!changes the tokens of a text (post_processor)"}};
    enum { WANTS = sizeof wants / sizeof *wants, PRE_TYPE = 2, DECODER = 4, PROCESSOR = 5 };
    static const char *const flags[] = {"individual_digits", "use_regex", "add_prefix_space",
                                        "invert"};
    size_t n;
    const char *why, *value;
    char kind = j->value.kind;
    if (llamac_json_under(j, 1, "normalizer") && kind != 'n')
        return "!changes a text before it is tokenized (normalizer)";
    if (strchr("]}n", kind)) return NULL;
    if (kind == '[' || kind == '{')
        return llamac_json_under(j, 1, "model") && j->level == 2 ? json_setting(k, j) : NULL;
    size_t i = json_wanted(k, j, wants, WANTS, &value, &n, &why);
    if (why) return why;
    k->bpe |= i == 0;
    k->isolated |= i == PRE_TYPE + 1;
    k->has_template |= i == PROCESSOR && llamac_is(value, n, "TemplateProcessing");
    if (i == PRE_TYPE && !json_note(k->splitters, value, n)) return other_words;
    if (i == DECODER && !json_note(k->decoders, value, n)) return other_decoder;
    if (llamac_json_under(j, 1, "post_processor")) return bytes_template(k, j);
    if (!llamac_json_under(j, 1, "pre_tokenizer")) return json_entry(k, j);
    for (int f = 0; f < 4; f++)
        if (llamac_json_under(j, j->level, flags[f])) {
            if (kind != 't' && kind != 'f') return mistyped;
            if (f == 0) k->individual_digits = kind == 't';
            if (f == 1) k->no_regex = kind == 'f';
            if (f == 2) k->states_space = true;
            if (f == 2 && kind == 't')
                return "!puts a space in front of a text (add_prefix_space of its pre_tokenizer)";
            if (f == 3 && kind == 't') return other_words;
        }
    if (llamac_json_under(j, j->level, "String")) return other_words;
    if (!llamac_json_under(j, j->level, "Regex")) return NULL;
    value = kind == '"' ? json_unescape(&k->scratch, j->value.text, j->value.n, &n, &why) : NULL;
    if (!value) return kind == '"' ? why : mistyped;
    k->pattern = 0;
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++)
        if (llamac_is(value, n, patterns[p].pattern)) k->pattern = patterns[p].splitting;
    return k->pattern ? NULL : other_words;
}

/* Checks the settings together. Returns why they are not supported; else sets *splitting. */
static const char *bytes_check(const json_vocab *k, int *splitting) {
    bool regex = !k->no_regex;
    *splitting = 0;
    if (!(k->parts & 2)) return not_tokenizer;
    if (!k->bpe) return "!is not a BPE vocabulary";
    if (k->has_template && !k->sequence) return "!leaves the text out (post_processor)";
    if (strcmp(k->decoders, "B") != 0) return other_decoder;
    if (!k->states_space)
        return "does not say whether a space goes in front of a text (add_prefix_space of its "
               "pre_tokenizer)";
    if (strcmp(k->splitters, "B") == 0 && regex) *splitting = SPLIT_GPT2;
    if (strcmp(k->splitters, "DB") == 0 && regex && k->individual_digits) *splitting = SPLIT_DIGITS;
    if (strcmp(k->splitters, "SB") == 0 && !regex && k->isolated) *splitting = k->pattern;
    return *splitting ? NULL : other_words;
}

/* Sets *id to the id of a token around a text; to -1 if no token is there. */
static const char *bytes_around(json_vocab *k, const json_around *around, double *id) {
    const char *why;
    size_t n, id_found = 0;
    *id = -1;
    if (!around->text) return NULL;
    const char *text = json_unescape(&k->scratch, around->text, around->n, &n, &why);
    if (!text) return why;
    while (id_found < k->size &&
           !(k->pieces[id_found].type != NORMAL && k->pieces[id_found].text &&
             same_text(k->pieces[id_found].text, k->pieces[id_found].n, text, n)))
        id_found++;
    *id = (double)id_found;
    for (size_t i = 0; i < k->n_listed; i++) {
        const json_around *l = &k->listed[i];
        if (same_text(l->text, l->n, around->text, around->n) && l->id != *id)
            *id = (double)k->size;
    }
    return *id < (double)k->size
               ? NULL
               : "!puts other tokens around a text than its vocabulary has (post_processor)";
}

/* Adds the merges, finds the tokens around a text, and takes over the settings. */
static const char *bytes_finish(json_vocab *k, llamac_vocab *v, llamac_json j) {
    double around[2];
    char *joined;
    v->whole_words = k->ignores_merges;
    const char *why = begin_merges(v, k->n_merges);
    for (size_t n, cut; !why && (n = json_merge(k, &j, &joined, &cut, &why));)
        why = add_merge(v, joined, cut, joined + cut, n - cut);
    for (int i = 0; i < 2 && !why; i++) why = bytes_around(k, &k->around[i], &around[i]);
    if (why) return why;
    v->adds_bos = around[0] >= 0;
    v->adds_eos = around[1] >= 0;
    return finish_vocab(v, around[0], -1, false, false);
}

/* ---- 2. Reading vocabularies: tokenizer.json of both kinds ---- */

/* Returns whether the vocabulary is of byte-level BPE: its pre_tokenizer, or a part of it, is
 * ByteLevel. */
static bool json_is_bytes(llamac_json j) {
    while (llamac_json_next(&j)) {
        if (!llamac_json_under(&j, 1, "pre_tokenizer")) continue;
        if (j.level == 1 && j.value.kind != '{') return false;
        if (j.value.kind == '"' && llamac_json_under(&j, j.level, "type") &&
            llamac_is(j.value.text, j.value.n, "ByteLevel"))
            return true;
    }
    return false;
}

/* Reads the file in three passes: the pieces by id, the merges, the added tokens. Allocates *out, as
 * only the first pass tells the number of pieces. */
static const char *parse_json(llamac_vocab **out, llamac_cursor c, size_t max_pieces,
                              llamac_arena *arena) {
    json_vocab k = {.scratch = {arena->allocator, NULL},
                    .capacity = max_pieces,
                    .template_ids = {-1, -1},
                    .ids = {-1, -1}};
    const llamac_json j = llamac_json_on(c.at, llamac_left(&c));
    const bool bytes = json_is_bytes(j);
    int splitting = 0;
    llamac_vocab *v = NULL;
    k.pieces = llamac_new(&k.scratch, max_pieces, sizeof *k.pieces);
    const char *why =
        k.pieces ? json_pieces(&k, j, bytes ? bytes_value : spm_value) : out_of_memory;
    if (!why) why = bytes ? bytes_check(&k, &splitting) : spm_check(&k);
    if (!why) v = bytes ? bytes_new(arena, k.size, splitting) : vocab_new(arena, k.size);
    if (!why && !v) why = out_of_memory;
    if (v) v->lists_pairs = bytes;
    for (size_t id = 0; id < k.size && !why; id++) {
        const char *text = k.pieces[id].text;
        size_t n = k.pieces[id].n;
        int type = k.pieces[id].type;
        if (!text) why = "lacks the piece of some id";
        else why = bytes ? add_piece(v, text, n, type) : spm_add(&k, v, text, n, type);
    }
    if (!why) why = bytes ? bytes_finish(&k, v, j) : spm_finish(&k, v, j);
    if (!why) why = read_added(v, c, max_pieces, TOKENIZER_JSON, true);
    if (!why) why = list_pieces(v);
    llamac_free_all(&k.scratch);
    *out = v;
    return why;
}

/* ---- 2. Reading vocabularies: detecting the format of a file ---- */

/* Reads a tokenizer.model, tokenizer.bin or tokenizer.json. The name does not matter: the format is
 * the first whose syntax the bytes have. A tokenizer.bin must have exactly as many pieces as the
 * model has tokens, max_pieces; the others may have fewer. Fails with LLAMA_EFORMAT or
 * LLAMA_ENOMEM. */
LLAMAC_SHARED int llamac_vocab_parse(llamac_vocab **out, llamac_cursor bytes, size_t max_pieces,
                                     const char *file, bool own, llamac_arena *arena,
                                     llama_error *err) {
    const char *repair = own ? "download the tokenizer of this model again"
                             : "give the model's tokenizer.model or tokenizer.json";
    llamac_cursor c = bytes;
    size_t pieces = proto_count(bytes), plain = pieces ? 0 : bin_count(bytes);
    bool json = !pieces && !plain && llamac_json_is(&c, '{');
    bool tiktoken = !pieces && !plain && !json && is_tiktoken(bytes);
    const char *why = NULL;
    if (!pieces && !plain && !json && !tiktoken)
        return refuse_vocab("is not a SentencePiece model, or is truncated", repair, own, file,
                            err);
    if (pieces + plain > max_pieces || (plain && plain < max_pieces))
        return llamac_fail(err, LLAMA_EFORMAT,
                           "%s: has %zu pieces, but the model has %zu tokens; use the tokenizer of "
                           "this model",
                           file, pieces + plain, max_pieces);
    llamac_vocab *v = json || tiktoken ? NULL : vocab_new(arena, pieces + plain);
    if (json) why = parse_json(&v, bytes, max_pieces, arena);
    else if (tiktoken) why = parse_tiktoken(&v, bytes, max_pieces, arena);
    else if (!v) why = out_of_memory;
    else why = pieces ? parse_proto(v, bytes) : parse_bin(v, bytes);
    if (why) return refuse_vocab(why, repair, own, file, err);
    *out = v;
    return LLAMA_OK;
}

/* ---- 3. Encoding ---- */

/* A symbol is a range of the normalised text, linked to its neighbours. If it is merged into its
 * left neighbour, its n becomes 0. */
typedef struct {
    size_t begin;       /* bytes */
    size_t left, right; /* indices of the neighbours; NOWHERE: none */
    uint16_t n;         /* bytes, at most MAX_PIECE */
    bool frozen;        /* a USER_DEFINED piece: never merged */
    int32_t id;         /* of its piece, if the vocabulary has `pairs` */
} symbol;

/* A pair of adjacent symbols that together are a piece. It is out of date if a symbol has since
 * been merged: then the two no longer add up to n bytes. */
typedef struct {
    size_t left, right; /* indices of the symbols */
    float score;        /* of the piece, or of the merge: the negative of its rank */
    uint16_t n;         /* bytes of both */
} candidate;

static const size_t NOWHERE = SIZE_MAX;

typedef struct { /* a word of the text whose tokens are written already: see encode_word */
    const char *text;
    size_t n;            /* bytes; 0: no word */
    size_t first, count; /* its tokens: their place in the output, and how many */
} cached_word;

typedef struct {
    const llamac_vocab *v;
    const llama_allocator *allocator;
    int32_t *out;                       /* [cap] tokens */
    size_t cap, count;                  /* tokens found; those that `out` has no room for, too */
    const char *text;                   /* [n_text] normalised, or a word of byte-level BPE */
    size_t n_text;                      /* bytes */
    symbol *symbols;                    /* [n_symbols] in the order of the text */
    size_t n_symbols, symbols_capacity; /* symbols */
    candidate *heap;                    /* [n_heap] the candidate to merge first at heap[0] */
    size_t n_heap, heap_capacity;       /* candidates */
    uint16_t *splits;   /* [v->size] bytes of the left symbol of the pair last found for an UNUSED
                         * piece; 0: none. NULL: no UNUSED pieces. Cleared for the first stretch
                         * only: emit() reads what the merges of the same stretch wrote */
    cached_word *cache; /* [CACHE_WORDS] of byte-level BPE; NULL: none */
} encoder;

static void put_token(encoder *e, int32_t id) {
    if (e->count < e->cap) e->out[e->count] = id;
    e->count++;
}

/* Returns memory for count elements, or NULL if memory is short or the product is too large. */
static void *allocate(encoder *e, size_t count, size_t size) {
    return count > SIZE_MAX / 2 / size ? NULL
                                       : e->allocator->alloc(e->allocator->user, count * size, 64);
}

static void free_symbols(encoder *e) {
    const llama_allocator *a = e->allocator;
    if (e->symbols) a->free(a->user, e->symbols, e->symbols_capacity * sizeof *e->symbols);
    if (e->heap) a->free(a->user, e->heap, e->heap_capacity * sizeof *e->heap);
    e->symbols = NULL;
    e->heap = NULL;
    e->symbols_capacity = e->heap_capacity = 0;
}

/* Makes room for n symbols and their candidates: at most n - 1 pairs at first, and each merge removes
 * a pair and adds at most two. Returns false if memory is short. */
static bool make_room(encoder *e, size_t n) {
    size_t larger = e->symbols_capacity + e->symbols_capacity / 2;
    if (n <= e->symbols_capacity) return true;
    if (larger < 256) larger = 256;
    free_symbols(e);
    e->symbols_capacity = n > larger ? n : larger;
    e->heap_capacity = 2 * e->symbols_capacity;
    e->symbols = allocate(e, e->symbols_capacity, sizeof *e->symbols);
    e->heap = allocate(e, e->heap_capacity, sizeof *e->heap);
    return e->symbols && e->heap;
}

/* Finds what normalisation writes for the start of text[n], n > 0, before it treats spaces: a
 * USER_DEFINED piece as it is, else a text of the character map, else a character as it is, else
 * U+FFFD for an invalid byte. Sets *n_out to its length, and *used to the bytes of text that it
 * replaces. */
static const char *normalise_next(const llamac_vocab *v, const char *text, size_t n, size_t *n_out,
                                  size_t *used) {
    const char *mapped;
    const piece_text *user = match_text(&v->user, text, n);
    if (user) return *n_out = *used = user->n, text;
    if (v->trie && (mapped = match_charsmap(v, text, n, used))) {
        *n_out = strlen(mapped);
        return mapped;
    }
    if ((*n_out = *used = utf8_length(text, n))) return text;
    *n_out = sizeof REPLACEMENT - 1;
    *used = 1;
    return REPLACEMENT;
}

/* Writes the normalised text to out, and returns its length. If out is NULL, only returns a length
 * that is enough. Spaces are written as U+2581. A space is added in front if the vocabulary says so
 * and `in_front` is set. If it squeezes spaces, then spaces at the beginning, at the end, and after a
 * space are left out. */
static size_t normalise(const llamac_vocab *v, const char *text, size_t n, bool in_front,
                        char *out) {
    const char *space = v->keeps_plain_space ? " " : SPACE;
    size_t n_space = strlen(space), to = 0;
    bool squeeze = v->squeezes_spaces; /* the next spaces are left out */
    bool has_one =
        v->one_in_front && n && (text[0] == ' ' || (n >= 3 && memcmp(text, SPACE, 3) == 0));
    if (v->space_in_front && in_front && !has_one) to = n_space;
    if (out) memcpy(out, space, to);
    for (size_t i = 0, k, used; i < n; i += used) {
        const char *from = normalise_next(v, text + i, n - i, &k, &used);
        size_t j = 0;
        while (squeeze && j < k && from[j] == ' ') j++;
        if (j < k) squeeze = v->squeezes_spaces && from[k - 1] == ' ';
        for (; j < k; j++) {
            bool is_space = from[j] == ' ';
            if (out && is_space) memcpy(out + to, space, n_space);
            else if (out) out[to] = from[j];
            to += is_space ? n_space : 1;
        }
    }
    while (v->squeezes_spaces && out && to >= n_space &&
           memcmp(out + to - n_space, space, n_space) == 0)
        to -= n_space;
    return to;
}

/* Returns whether a is merged before b: its score is higher, or equal and a is to the left. */
static bool merges_first(const candidate *a, const candidate *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

/* Adds the pair (left, right) to the heap if its concatenation is a piece, or if the vocabulary lists
 * the pair. */
static void propose(encoder *e, size_t left, size_t right) {
    if (left == NOWHERE || right == NOWHERE) return;
    const symbol *a = &e->symbols[left], *b = &e->symbols[right];
    if (a->frozen || b->frozen) return;
    if (e->v->splits_words && b->n >= 3 && memcmp(e->text + b->begin, SPACE, 3) == 0) return;
    size_t n = (size_t)a->n + b->n;
    candidate c = {left, right, 0, (uint16_t)n};
    if (e->v->pairs) {
        const piece_pair *pair = find_pair(e->v, a->id, b->id);
        if (!pair || pair->rank < 0) return;
        c.score = -(float)pair->rank;
    } else {
        int32_t id = n <= MAX_PIECE ? vocab_find(e->v, e->text + a->begin, n) : -1;
        if (id < 0) return;
        if (e->splits && e->v->pieces[id].type == UNUSED) e->splits[id] = a->n;
        c.score = e->v->pieces[id].score;
    }
    size_t i = e->n_heap++;
    for (; i && merges_first(&c, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = c;
}

/* Removes the candidate to merge first from the heap and returns it. */
static candidate take_best(encoder *e) {
    candidate best = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < e->n_heap; i = child) {
        if (child + 1 < e->n_heap && merges_first(&e->heap[child + 1], &e->heap[child])) child++;
        if (!merges_first(&e->heap[child], &last)) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = last;
    return best;
}

/* Merges the symbols, of which there is at least one, until no adjacent pair can be merged. */
static void merge_symbols(encoder *e) {
    e->symbols[e->n_symbols - 1].right = NOWHERE;
    for (size_t k = 1; k < e->n_symbols; k++) propose(e, k - 1, k);
    while (e->n_heap) {
        candidate c = take_best(e);
        symbol *left = &e->symbols[c.left], *right = &e->symbols[c.right];
        if (!left->n || !right->n || left->n + right->n != c.n) continue; /* out of date */
        left->n = c.n;
        right->n = 0;
        left->right = right->right;
        if (e->v->pairs) left->id = e->v->merged[(size_t)-c.score];
        if (right->right != NOWHERE) e->symbols[right->right].left = c.left;
        propose(e, left->left, c.left);
        propose(e, c.left, left->right);
    }
}

/* Makes a symbol of each USER_DEFINED piece and of each character, and merges them. The normalised
 * text is never empty here. */
static void merge_characters(encoder *e) {
    for (size_t i = 0, n, k = 0; i < e->n_text; i += n, k++) {
        const piece_text *user = match_text(&e->v->user, e->text + i, e->n_text - i);
        n = user ? user->n : utf8_length(e->text + i, e->n_text - i);
        e->symbols[k] = (symbol){i, k ? k - 1 : NOWHERE, k + 1, (uint16_t)n, user != NULL, -1};
        e->n_symbols = k + 1;
    }
    merge_symbols(e);
}

/* Adds the ids of the symbols. A symbol that is not a piece becomes its bytes. If the vocabulary has
 * no byte pieces, a series of such symbols becomes a single <unk>. An UNUSED piece that was merged is
 * split again where e->splits says, and so are its parts, the left one first. */
static void emit(encoder *e) {
    const llamac_vocab *v = e->v;
    bool unknown = false;
    size_t ends[MAX_PIECE + 1]; /* of the parts to do, the next last; each is shorter */
    for (size_t k = 0; k != NOWHERE; k = e->symbols[k].right) {
        size_t at = e->symbols[k].begin, depth = 1;
        ends[0] = e->symbols[k].begin + e->symbols[k].n;
        while (depth) {
            const char *text = e->text + at;
            size_t n = ends[depth - 1] - at;
            int32_t id = vocab_find(v, text, n);
            if (id >= 0 && e->splits && v->pieces[id].type == UNUSED && e->splits[id]) {
                ends[depth++] = at + e->splits[id];
                continue;
            }
            bool bytes = id < 0 && v->byte_id[(unsigned char)text[0]] >= 0;
            if (id >= 0) put_token(e, id);
            else if (!bytes && (!unknown || v->repeats_unk)) put_token(e, v->unk);
            for (size_t i = 0; bytes && i < n; i++)
                put_token(e, v->byte_id[(unsigned char)text[i]]);
            unknown = id < 0 && !bytes;
            at += n;
            depth--;
        }
    }
}

/* Tokenizes text without special tokens. `space`: the text gets a space in front if the vocabulary
 * says so. An empty text has no tokens. Fails with LLAMA_ENOMEM. */
static int encode_text(encoder *e, const char *text, size_t n, bool space) {
    const llamac_vocab *v = e->v;
    if (n == 0) return LLAMA_OK;
    size_t capacity = v->trie ? normalise(v, text, n, space, NULL) + 1 : 3 * n + 3;
    char *normalised = allocate(e, capacity, 1);
    if (!normalised) return LLAMA_ENOMEM;
    e->text = normalised;
    e->n_text = normalise(v, text, n, space, normalised);
    bool enough = make_room(e, e->n_text);
    if (enough && e->n_text) {
        merge_characters(e);
        emit(e);
    }
    e->allocator->free(e->allocator->user, normalised, capacity);
    return enough ? LLAMA_OK : LLAMA_ENOMEM;
}

/* ---- 3. Encoding: byte-level BPE ---- */

/* Returns the class of the character at the start of text[n] and sets *length to its length in bytes.
 * A byte that is not UTF-8 is of the class OTHER. If n is 0, returns NO_CHARACTER. */
static int class_of(const llamac_vocab *v, const char *text, size_t n, size_t *length) {
    *length = n > 0;
    if (n == 0) return NO_CHARACTER;
    int32_t c = (unsigned char)*text;
    if (c >= 0x80) *length = llamac_utf8_next(text, n, &c);
    if (c < 0 || c >= N_CLASSIFIED) return OTHER;
    return v->classes[c / 4] >> c % 4 * 2 & 3;
}

/* Returns the length of the contraction, such as 'll, at the start of text[n], which begins with an
 * apostrophe, or 0. `folds`: the letters may be upper-case, and U+017F is an s. */
static size_t contraction(const char *text, size_t n, bool folds) {
    char c[2] = {0, 0};
    for (size_t i = 0; i < 2 && i + 1 < n; i++)
        c[i] = (char)(folds && text[i + 1] >= 'A' && text[i + 1] <= 'Z' ? text[i + 1] | 32
                                                                        : text[i + 1]);
    if (c[0] && strchr("stmd", c[0])) return 2;
    if (folds && n >= 3 && memcmp(text + 1, "\xc5\xbf", 2) == 0) return 3;
    bool two = (c[0] == 'r' && c[1] == 'e') || (c[0] == 'v' && c[1] == 'e') ||
               (c[0] == 'l' && c[1] == 'l');
    return two ? 3 : 0;
}

/* Returns the end of the run of characters of a class that begins at text[at]. */
static size_t end_of_run(const llamac_vocab *v, const char *text, size_t n, size_t at, int class) {
    for (size_t length; class_of(v, text + at, n - at, &length) == class;) at += length;
    return at;
}

/* Returns the length of the word at the start of text[n], n > 0: see `patterns`. */
static size_t next_word(const llamac_vocab *v, const char *text, size_t n) {
    const bool llama3 = v->splitting == SPLIT_LLAMA3;
    bool space = *text == ' ';
    size_t first, second, at;
    int a = class_of(v, text, n, &first), b = class_of(v, text + first, n - first, &second);
    if (*text == '\'' && (at = contraction(text, n, llama3))) return at;
    if (a == LETTER) return end_of_run(v, text, n, first, LETTER);
    if (a == NUMBER && llama3) {
        if (b == NUMBER && class_of(v, text + first + second, n - first - second, &at) == NUMBER)
            return first + second + at;
        return b == NUMBER ? first + second : first;
    }
    if (a == NUMBER) return v->splitting == SPLIT_DIGITS ? first : end_of_run(v, text, n, first, a);
    if (b == LETTER && (llama3 ? !is_newline(*text) : space))
        return end_of_run(v, text, n, first, LETTER);
    if (b == NUMBER && space && v->splitting == SPLIT_GPT2)
        return end_of_run(v, text, n, first, NUMBER);
    if (a == OTHER || (b == OTHER && space)) {
        at = end_of_run(v, text, n, first, OTHER);
        while (llama3 && at < n && is_newline(text[at])) at++;
        return at;
    }
    size_t last = 0, newline = 0; /* where the last character begins; where the last newline ends */
    int class = a;
    for (at = 0; class == WHITE_SPACE; class = class_of(v, text + at, n - at, &first)) {
        if (is_newline(text[at])) newline = at + 1;
        last = at;
        at += first;
    }
    if (llama3 && newline) return newline;
    bool ends = at == n || (class == NUMBER && v->splitting == SPLIT_DIGITS);
    return ends || last == 0 ? at : last;
}

/* Makes a symbol of each byte of the word, and merges them. */
static void merge_bytes(encoder *e, const char *word, size_t n) {
    e->text = word;
    e->n_symbols = n;
    for (size_t k = 0; k < n; k++)
        e->symbols[k] = (symbol){
            k, k ? k - 1 : NOWHERE, k + 1, 1, false, e->v->byte_id[(unsigned char)word[k]]};
    merge_symbols(e);
}

/* Adds the tokens of a word. Returns false if memory is short. Words come again and again in a text:
 * the cache, a table without lists, finds the tokens of a word where they were written before. If
 * that was beyond cap, they are not needed. */
static bool encode_word(encoder *e, const char *word, size_t n) {
    const llamac_vocab *v = e->v;
    int32_t whole = -1;
    if (n == 1) whole = v->byte_id[(unsigned char)*word];
    else if (v->whole_words && n <= v->longest) whole = vocab_find(v, word, n);
    if (whole >= 0) {
        put_token(e, whole);
        return true;
    }
    cached_word *c = e->cache ? &e->cache[hash_text(word, n) % CACHE_WORDS] : NULL;
    if (c && same_text(c->text, c->n, word, n)) {
        for (size_t i = 0; i < c->count && e->count + i < e->cap; i++)
            e->out[e->count + i] = e->out[c->first + i];
        e->count += c->count;
        return true;
    }
    if (!make_room(e, n)) return false;
    merge_bytes(e, word, n);
    size_t first = e->count;
    for (size_t k = 0; k != NOWHERE; k = e->symbols[k].right) {
        const symbol *s = &e->symbols[k];
        put_token(e, v->pairs ? s->id : vocab_find(v, word + s->begin, s->n));
    }
    if (c) *c = (cached_word){word, n, first, e->count - first};
    return true;
}

/* Does what encode_text does, word by word. No space is added. */
static int encode_bytes(encoder *e, const char *text, size_t n) {
    bool enough = true;
    for (size_t at = 0, length; at < n && enough; at += length) {
        length = next_word(e->v, text + at, n - at);
        enough = encode_word(e, text + at, length);
    }
    return enough ? LLAMA_OK : LLAMA_ENOMEM;
}

/* ---- 3. Encoding: special tokens in a text ---- */

/* Returns where the first special token's text begins in text[n] and sets *id; n if there is
 * none. */
LLAMAC_SHARED size_t llamac_find_special(const llamac_vocab *v, const char *text, size_t n,
                                         int32_t *id) {
    const piece_text *found = NULL;
    size_t at = 0;
    for (; at < n; at++)
        if ((found = match_text(&v->specials, text + at, n - at))) break;
    *id = found ? found->id : -1;
    return at;
}

/* Returns the number of bytes of white space at the start of text[n]. */
static size_t leading_space(const char *text, size_t n) {
    size_t at = 0;
    for (size_t size; at < n; at += size) {
        int32_t c;
        size = llamac_utf8_next(text + at, n - at, &c);
        if (!llamac_is_space(c)) break;
    }
    return at;
}

/* Tokenizes text without special tokens by the vocabulary's kind of BPE: see encode_text. */
static int encode_stretch(encoder *e, const char *text, size_t n, bool space) {
    return e->v->byte_level ? encode_bytes(e, text, n) : encode_text(e, text, n, space);
}

/* Does encode_stretch for a text whose special tokens are read: the leftmost first, and of those the
 * longest. The stretches of text between them are tokenized one by one. Each gets the space in
 * front, as with SentencePiece's own library in Meta's code, in GGUF, and in Hugging Face's
 * LlamaTokenizer with legacy = true; with first_only, only the one at the beginning of the text
 * does. Fails also with LLAMA_EINVAL if the model has no row for a token. */
static int encode_special(encoder *e, const char *text, size_t n) {
    const llamac_vocab *v = e->v;
    for (size_t at = 0; at < n;) {
        int32_t id;
        size_t length = llamac_find_special(v, text + at, n - at, &id), kept = length;
        const vocab_piece *p = id < 0 ? NULL : piece_of(v, (size_t)id);
        if (p && p->lstrip) kept = llamac_trimmed_length(text + at, length);
        int status = encode_stretch(e, text + at, kept, at == 0 || !v->first_only);
        if (status || !p) return status;
        if (id >= v->size) return LLAMA_EINVAL;
        put_token(e, id);
        at += length + p->n;
        if (p->rstrip) at += leading_space(text + at, n - at);
    }
    return LLAMA_OK;
}

/* Tokenizes text. Returns the number of tokens and writes at most cap of them. An empty text has no
 * tokens except BOS. Fails with LLAMA_EINVAL or LLAMA_ENOMEM. */
LLAMAC_SHARED ptrdiff_t llamac_encode(const llamac_vocab *v, const llama_allocator *allocator,
                                      const char *text, size_t n, unsigned flags, int32_t *out,
                                      size_t cap) {
    bool special = flags & LLAMA_SPECIAL;
    if ((n && !text) || (cap && !out) || n > PTRDIFF_MAX / 64 ||
        (flags & ~(unsigned)(LLAMA_ADD_BOS | LLAMA_SPECIAL)))
        return LLAMA_EINVAL;
    encoder e = {.v = v, .allocator = allocator, .out = out, .cap = cap};
    size_t bytes = v->splits_unused                    ? (size_t)v->size * sizeof *e.splits
                   : v->byte_level && n >= CACHE_WORDS ? CACHE_WORDS * sizeof *e.cache
                                                       : 0;
    void *table = bytes ? allocate(&e, bytes, 1) : NULL;
    if (bytes && !table) return LLAMA_ENOMEM;
    if (bytes) memset(table, 0, bytes);
    if (v->byte_level) e.cache = table;
    else e.splits = table;
    const piece_text *first = special ? match_text(&v->specials, text, n) : NULL;
    if ((flags & LLAMA_ADD_BOS) && llamac_vocab_adds_bos(v) && (!first || first->id != v->bos))
        put_token(&e, v->bos);
    int status = special ? encode_special(&e, text, n) : encode_stretch(&e, text, n, true);
    free_symbols(&e);
    if (bytes) allocator->free(allocator->user, table, bytes);
    return status ? status : (ptrdiff_t)e.count;
}

/* ---- 4. Decoding ---- */

/* Returns whether further bytes can complete the n bytes, 1 to 4, to a character: tries the lowest
 * and the highest. */
static bool is_beginning(const unsigned char *s, size_t n) {
    unsigned char low[4] = {0x80, 0x80, 0x80, 0x80}, high[4] = {0xbf, 0xbf, 0xbf, 0xbf};
    memcpy(low, s, n);
    memcpy(high, s, n);
    return n < 4 && (utf8_length(low, 4) > n || utf8_length(high, 4) > n);
}

/* Writes the pending bytes to out, removes them and returns the number of bytes written. Complete
 * characters are copied; a byte that cannot begin a character becomes U+FFFD. Bytes that further
 * bytes may complete stay pending, unless `all` says that no further bytes will come. If `parts` is
 * set, the longest beginning of a character becomes one U+FFFD, as in Unicode's recommendation. */
static size_t flush_pending(llama_decoder *u, bool all, bool parts, char *out) {
    size_t to = 0;
    while (u->n) {
        size_t length = utf8_length(u->pending, u->n), used = length ? length : 1;
        if (!length && !all && is_beginning(u->pending, u->n)) break;
        for (size_t k = 2; !length && parts && k <= u->n && is_beginning(u->pending, k); k++)
            used = k;
        memcpy(out + to, length ? (const char *)u->pending : REPLACEMENT, length ? length : 3);
        to += length ? length : 3;
        u->n = (unsigned char)(u->n - used);
        memmove(u->pending, u->pending + used, u->n);
    }
    return to;
}

/* Decodes a token as SentencePiece does. Returns the number of bytes written to out. The bytes of
 * BYTE_PIECE pieces stay pending until they form a character. Any other token first writes
 * what is pending. Control pieces have no text, <unk> is unk_text. The first piece of
 * a text loses its leading space if encoding adds a space in front of the text. If encoding squeezes
 * spaces, each piece loses it until the text has begun. */
static size_t decode_piece(const llamac_vocab *v, llama_decoder *u, int32_t token,
                           char out[LLAMA_TEXT_MAX]) {
    const vocab_piece *p = &v->pieces[token];
    if (p->type == BYTE_PIECE) {
        u->started = 1;
        u->pending[u->n++] = (unsigned char)byte_of(p->text, p->n);
        return flush_pending(u, false, false, out);
    }
    size_t to = flush_pending(u, true, false, out);
    if (u->special && is_special(p)) { /* encoding puts a space in front of the text after it */
        memcpy(out + to, p->text, p->n);
        u->started = v->first_only;
        return to + p->n;
    }
    if (p->type == CONTROL) return to;
    bool unknown = p->type == UNKNOWN;
    const char *text = unknown ? v->unk_text : p->text;
    size_t n = unknown ? v->n_unk_text : p->n;
    bool strips = v->strips < 0 ? v->space_in_front || v->squeezes_spaces : v->strips;
    bool started = u->started || to || unknown || !strips;
    for (size_t i = 0; i < n;) {
        bool space = !unknown && n - i >= 3 && memcmp(text + i, SPACE, 3) == 0;
        if (!space) out[to++] = text[i];
        if (space && (started || i > 0)) out[to++] = ' ';
        i += space ? 3 : 1;
    }
    if (to || (!v->squeezes_spaces && !unknown)) u->started = 1;
    return to;
}

/* Decodes a token: a piece is bytes, and its last bytes stay pending until they form a character.
 * Special tokens without text are left out, so a character may begin before them and end after
 * them. */
static size_t decode_bytes(const llamac_vocab *v, llama_decoder *u, int32_t token,
                           char out[LLAMA_TEXT_MAX]) {
    const vocab_piece *p = &v->pieces[token];
    size_t to = 0;
    if (p->type == CONTROL && !u->special) return 0;
    for (size_t i = 0; i < p->n; i++) {
        u->pending[u->n++] = (unsigned char)p->text[i];
        to += flush_pending(u, false, true, out + to);
    }
    if (p->n) u->started = 1;
    return to;
}

/* Decodes the next token of a text and returns the number of bytes written to out. LLAMA_FLUSH
 * writes what is pending. A token that does not exist changes nothing. */
LLAMAC_SHARED size_t llamac_decode(const llamac_vocab *v, llama_decoder *u, int32_t token,
                                   char out[LLAMA_TEXT_MAX]) {
    if (!u || !out || u->n >= sizeof u->pending) return 0;
    if (token == LLAMA_FLUSH) return flush_pending(u, true, v->byte_level, out);
    if (token < 0 || token >= v->size) return 0;
    return v->byte_level ? decode_bytes(v, u, token, out) : decode_piece(v, u, token, out);
}
