"""Trains small SentencePiece models with its ordinary options, and writes what its library says of texts.

    vectors.py             writes tests/tiny/vocabularies: NAME.model, and vectors.jsonl for the suite formats
    vectors.py LIBRARY [--seed N] [--texts N] [--case NAME]
                           trains larger ones, too, with SentencePiece's own rules, and compares our shared
                           library with SentencePiece on random texts and ids

The letters of the corpus are those of our tales, so that other characters are unknown to the models.
"""
import argparse
import ctypes
import io
import json
import os
import random
import struct
import sys

import sentencepiece

HERE = os.path.dirname(os.path.abspath(__file__))
NORMAL, USER_DEFINED, UNUSED = 1, 4, 5

# ---- Protobuf: enough to change a model ----


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def read_varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def fields(data):
    """The fields of a message: (number, wire type, value)."""
    at, out = 0, []
    while at < len(data):
        key, at = read_varint(data, at)
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            value, at = read_varint(data, at)
        else:
            if size is None:
                size, at = read_varint(data, at)
            value = data[at : at + size]
            at += size
        out.append((key >> 3, key & 7, value))
    return out


def message(parts):
    out = b""
    for number, wire, value in parts:
        out += varint(number << 3 | wire)
        out += varint(value) if wire == 0 else (varint(len(value)) if wire == 2 else b"") + value
    return out


def change(data, path, value):
    """The message with the field at this path of numbers set; None removes it."""
    number, rest = path[0], path[1:]
    parts = fields(data)
    if rest:
        return message([(n, w, change(v, rest, value) if n == number else v) for n, w, v in parts])
    parts = [p for p in parts if p[0] != number]
    if value is not None:
        parts.append((number, 0 if isinstance(value, int) else 2, value))
    return message(parts)


def retype(data, share, kind, seed):
    """The model with a share of its normal pieces of another type."""
    draw, out = random.Random(seed), []
    for number, wire, value in fields(data):
        kinds = [v for n, _, v in fields(value) if n == 3] if number == 1 else [0]
        if kinds in ([], [NORMAL]) and draw.random() < share:
            value = change(value, [3], kind)
        out.append((number, wire, value))
    return message(out)


# ---- Models ----


def tales():
    with open(os.path.join(HERE, "tokens.jsonl"), encoding="utf-8") as f:
        texts = [json.loads(line).get("text", "") for line in f]
    lines = [t for text in texts for t in text.split("\n") if t.isascii() and t.isprintable() and t.strip()]
    return sorted(set(lines)) * 2


def train(corpus, size, **options):
    out = io.BytesIO()
    settings = dict(model_type="bpe", vocab_size=size, hard_vocab_limit=False, minloglevel=2, num_threads=1)
    settings.update(options)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=out, **settings)
    return change(out.getvalue(), [3, 6], None)  # without the path of the rules


# A small part of nmt_nfkc, and texts that grow, vanish, begin and end with spaces
RULES = ["a0\t20", "3000\t20", "9\t20", "a\t20", "200b\t", "1\t", "fb01\t66 69", "2460\t31", "65 301\te9", "301\t", "2026\t2e 2e 2e",
         "a8\t20 308", "fdfa\t635 644 649 20 627 644 644 647 20 639 644 64a 647 20 648 633 644 645", "ff76 ff9e\t30ac", "2122\t54 4d",
         "1100 1161\tac00", "1100 1161 11a8\tac01", "2003\t20 20", "bd\t31 2044 32"] + ["%x\t%x" % (0xff21 + i, 0x41 + i) for i in range(26)]
SYMBOLS = ["<|im_start|>", "<|im_end|>", "th", "the", "\u2581king", "a b", "  ", "\u00e9", "\u2603\u2603"]


def small_models():
    rules = os.path.join(HERE, "rules.tmp")
    with open(rules, "w", encoding="ascii") as f:
        f.write("".join(rule + "\n" for rule in RULES))
    corpus, identity = tales(), dict(normalization_rule_name="identity")
    models = {
        "squeezed": train(corpus, 400, byte_fallback=True, **identity),  # as OpenLLaMA v1
        "mapped": train(corpus, 160, normalization_rule_tsv=rules),
        "mapped_only": train(corpus, 160, normalization_rule_tsv=rules, remove_extra_whitespaces=False),
        "no_prefix": train(corpus, 160, add_dummy_prefix=False, remove_extra_whitespaces=False, **identity),
        "user": train(corpus, 400, byte_fallback=True, remove_extra_whitespaces=False, user_defined_symbols=SYMBOLS, **identity),
        "user_mapped": train(corpus, 160, normalization_rule_tsv=rules, user_defined_symbols=SYMBOLS),
    }
    os.remove(rules)
    models["plain_space"] = change(change(models["mapped"], [3, 5], 0), [2, 44], b"[?]")
    models["unused"] = retype(models["squeezed"], 0.4, UNUSED, 3)
    models["frozen"] = retype(models["squeezed"], 0.1, USER_DEFINED, 4)
    return models


def large_models():
    corpus, identity, byte = tales(), dict(normalization_rule_name="identity"), dict(byte_fallback=True)
    models = {}
    for rule in ["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"]:
        for prefix in [True, False]:
            for squeeze in [True, False]:
                options = dict(normalization_rule_name=rule, add_dummy_prefix=prefix, remove_extra_whitespaces=squeeze)
                models["%s %d%d" % (rule, prefix, squeeze)] = train(corpus, 500, **options, **(byte if prefix else {}))
    models["spaces"] = train(corpus, 500, allow_whitespace_only_pieces=True, split_by_whitespace=False, user_defined_symbols=SYMBOLS)
    models["controls"] = train(corpus, 500, control_symbols=["<pad>", "<c>"], pad_id=3, bos_id=-1, unk_surface="\u2581u ", **identity)
    models["frozen"] = retype(models["nmt_nfkc 11"], 0.2, USER_DEFINED, 4)
    models["unused"] = retype(models["nmt_nfkc 10"], 0.5, UNUSED, 3)
    models["both"] = retype(retype(models["nfkc 01"], 0.1, USER_DEFINED, 4), 0.4, UNUSED, 3)
    trie = [0] * 2048  # with an offset in units of 256, as only maps of over 8 MB have them
    trie[0], trie[1121], trie[1120] = 4 << 10 | 512, 1 << 10 | 256 | 97, 1 << 31
    models["offset"] = change(models["nmt_nfkc 11"], [3, 2], struct.pack("<2049I", 8192, *trie) + b"xy  \0")
    return models


# ---- Texts ----

PARTS = [" ", "  ", "   ", "a", "b", "th", "the", "the king ", "king", "\t", "\n", "\u2581", "\u2581\u2581", "\u00e9", "e\u0301", "\ufb01", "\u2460", "\uff21",
         "\u3000", "\u00a0", "\u200b", "\u00ad", "\x01", "\x00", "\x7f", "\uac00", "\u1100", "\u1161", "\u11a8", "\ufdfa", "\uff76\uff9e", "\uff9e", "\u65e5", "\u2603", "\u2603\u2603",
         "\U0001f642", "<|im_start|>", "<|im_end|>", "1", "a b", "<s>", "</s>", "<unk>", "<0x41>", "\ufeff", "\u2028", "\ufffd", "\u0130", "\u00df", "\u03a3", "\u00bd", "\u2122",
         "\u2003", "\u00a8", "\u2026", "<pad>", "<c>"]


def random_text(draw):
    n, kind = draw.choice([0, 1, 2, 3, 5, 8, 20, 60]), draw.random()
    if kind < 0.2:
        numbers = [draw.choice([draw.randrange(1, 0x250), draw.randrange(0x250, 0x3400), draw.randrange(0xAC00, 0xD7A4), draw.randrange(0xF900, 0x10000),
                                draw.randrange(0x1D400, 0x1F800)]) for _ in range(n)]
        return "".join(map(chr, numbers)).encode()
    text = bytearray("".join(draw.choice(PARTS) for _ in range(n)).encode())
    for _ in range(1 + n // 4 if text and kind > 0.85 else 0):  # not UTF-8
        text[draw.randrange(len(text))] = draw.randrange(256)
    return bytes(text)


def random_ids(draw, model, ids):
    n = model.get_piece_size()
    if draw.random() < 0.5:
        return ids
    space = model.piece_to_id("\u2581")
    return [space if draw.random() < 0.3 else draw.randrange(n) for _ in range(draw.choice([1, 2, 5]))]


def write_vectors():
    folder = os.path.join(HERE, "vocabularies")
    os.makedirs(folder, exist_ok=True)
    out = open(os.path.join(folder, "vectors.jsonl"), "w", encoding="ascii")
    draw = random.Random(1)
    for name, data in small_models().items():
        with open(os.path.join(folder, name + ".model"), "wb") as f:
            f.write(data)
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        texts = [b"", b" ", b"   ", b"  the  king  said ", "\u3000\uff21\ufb01 e\u0301\u2026 ".encode()] + [t for t in (random_text(draw) for _ in range(120)) if 0 < len(t) < 60][:30]
        for text in texts:
            ids = model.encode(text, out_type=int)
            line = {"model": name, "bytes_hex": text.hex(), "ids": ids, "decoded_hex": model.decode(ids).encode().hex() if ids else ""}
            out.write(json.dumps(line) + "\n")
        for _ in range(5):
            ids = random_ids(draw, model, [])
            if ids:
                line = {"model": name, "decode": ids, "ids": [], "bytes_hex": "", "decoded_hex": model.decode(ids).encode().hex()}
                out.write(json.dumps(line) + "\n")
    out.close()


# ---- Comparing the library ----


def model_folder(vocab, folder):
    """A model of zeros with this many tokens."""
    width, hidden, layer = 16, 32, "model.layers.0."
    shapes = {"model.embed_tokens": [vocab, width], "lm_head": [vocab, width], "model.norm": [width],
              layer + "input_layernorm": [width], layer + "post_attention_layernorm": [width]}
    shapes.update({layer + "self_attn.%s_proj" % x: [width, width] for x in "qkvo"})
    shapes.update({layer + "mlp.%s_proj" % x: [width, hidden] if x == "down" else [hidden, width] for x in ("gate", "up", "down")})
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + bytes(at))
    config = dict(model_type="llama", hidden_size=width, intermediate_size=hidden, num_attention_heads=2, num_hidden_layers=1,
                  rms_norm_eps=1e-5, vocab_size=vocab, max_position_embeddings=64)
    with open(os.path.join(folder, "config.json"), "w", encoding="ascii") as f:
        json.dump(config, f)


class Ours:
    def __init__(self, library, folder):
        self.c = ctypes.CDLL(os.path.abspath(library))
        self.model, error = ctypes.c_void_p(), ctypes.create_string_buffer(8192)
        status = self.c.llama_open(ctypes.byref(self.model), folder.encode(), None, error)
        assert status == 0, error.raw.decode(errors="replace")
        self.c.llama_text_to_tokens.restype = ctypes.c_ssize_t
        self.c.llama_token_to_text.restype = ctypes.c_size_t

    def encode(self, text):
        room = 40 * len(text) + 64
        ids = (ctypes.c_int32 * room)()
        n = self.c.llama_text_to_tokens(self.model, text, ctypes.c_size_t(len(text)), 0, ids, ctypes.c_size_t(room))
        assert 0 <= n <= room, n
        return ids[:n]

    def decode(self, ids):
        state, out, text = (ctypes.c_ubyte * 64)(), ctypes.create_string_buffer(8192), b""
        for token in list(ids) + [-(2**31)]:
            n = self.c.llama_token_to_text(self.model, state, ctypes.c_int32(token), out)
            text += out.raw[:n]
        return text


def compare(library, seed, count, case):
    passed = failed = 0
    folder = "build/work/sentencepiece"
    draw = random.Random(seed)
    for name, data in {**small_models(), **large_models()}.items():
        if case not in (None, name.replace(" ", "_")):
            continue
        print("-- " + name.replace(" ", "_"))
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        model_folder(model.get_piece_size(), folder)
        with open(folder + "/tokenizer.model", "wb") as f:
            f.write(data)
        ours = Ours(library, folder)
        for _ in range(count):
            text = random_text(draw)
            want = model.encode(text, out_type=int)
            ids = random_ids(draw, model, want)
            same = ours.encode(text) == want and ours.decode(ids) == (model.decode(ids).encode() if ids else b"")
            passed, failed = passed + same, failed + (not same)
            if not same:
                print("FAIL: %s: %r, or the ids %s" % (name, text[:80], ids[:20]))
    print("sentencepiece: %d passed, %d failed" % (passed, failed))
    return failed > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("library", nargs="?")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--case")
    options = parser.parse_args()
    if options.library:
        sys.exit(compare(options.library, options.seed, options.texts, options.case))
    write_vectors()
