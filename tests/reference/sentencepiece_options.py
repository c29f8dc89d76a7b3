"""SentencePiece's training options: each model gives the ids and texts of SentencePiece's own library, or is refused by name.

    sentencepiece_options.py LIBRARY [--seed N] [--texts N] [--case NAME]

The options are those of spm_train that change how a model encodes or decodes. vectors.py, whose models are part of
the tests, has the others.
"""
import argparse
import ctypes
import os
import random
import sys

import sentencepiece

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tiny"))
import vectors

IDENTITY = dict(normalization_rule_name="identity")
BYTES = dict(byte_fallback=True)
PLAIN = dict(remove_extra_whitespaces=False, **IDENTITY)
NESTED = ["a", "aa", "aaa", "aaaa", "ab", "abc", "<", "<|", "<|x", "<|x|>", " x ", "  ", "\u2581\u2581", "the king", "\u0301", "\uff21", "\u3000"]
DIGITS = ["In 1999 and 2024 there were 12 or 345 of 6789.", "7 8 9 10 11 12 2024 1999 345 345 12"] * 20


def models():
    """Each model's options, how many pieces, and the word of the refusal or None."""
    tales, ids = vectors.tales(), dict(unk_id=5, bos_id=1, eos_id=0, pad_id=2)
    mixed = tales + DIGITS + ["\u3042\u3044\u3046 \uff21\uff22\uff23 \u00e9t\u00e9 e\u0301te\u0301 \u0130I\u00df\u03a3 \U0001d400"] * 20
    return {
        "unigram": (tales, 400, dict(model_type="unigram"), "unigram"),
        "unigram_bytes": (tales, 600, dict(model_type="unigram", **BYTES), "unigram"),
        "char": (tales, 400, dict(model_type="char"), "characters"),
        "word": (tales, 400, dict(model_type="word"), "words"),
        "suffix": (tales, 400, dict(treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix"),
        "llama": (mixed, 700, dict(split_digits=True, allow_whitespace_only_pieces=True, **PLAIN, **BYTES), None),
        "llama_nfkc": (mixed, 700, dict(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=False, **BYTES), None),
        "no_split_by_number": (mixed, 600, dict(split_by_number=False, **BYTES), None),
        "split_digits": (mixed, 600, dict(split_digits=True), None),
        "no_split_by_script": (mixed, 600, dict(split_by_unicode_script=False, **PLAIN), None),
        "whole_lines": (mixed, 600, dict(split_by_whitespace=False, **PLAIN, **BYTES), None),
        "whole_lines_squeezed": (mixed, 600, dict(split_by_whitespace=False, max_sentencepiece_length=64), None),
        "spaces_only": (mixed, 600, dict(allow_whitespace_only_pieces=True, add_dummy_prefix=False, **PLAIN), None),
        "permuted": (mixed, 600, dict(**ids, **IDENTITY, **BYTES), None),
        "permuted_high": (mixed, 600, dict(unk_id=3, bos_id=0, eos_id=2, pad_id=1, **PLAIN), None),
        "no_bos_no_eos": (mixed, 600, dict(bos_id=-1, eos_id=-1, **BYTES), None),
        "names": (mixed, 600, dict(unk_piece="[UNK]", bos_piece="[CLS]", eos_piece="[SEP]", pad_piece="[PAD]", pad_id=3, unk_surface="", **BYTES), None),
        "unk_is_text": (mixed, 400, dict(unk_piece="\u2047", unk_surface="\u2047"), None),
        "nested": (mixed, 600, dict(user_defined_symbols=NESTED, **PLAIN, **BYTES), None),
        "nested_squeezed": (mixed, 600, dict(user_defined_symbols=NESTED, **BYTES), None),
        "nested_cf": (mixed, 600, dict(user_defined_symbols=NESTED, normalization_rule_name="nfkc_cf"), None),
        "nested_no_prefix": (mixed, 600, dict(user_defined_symbols=NESTED, add_dummy_prefix=False), None),
        "user_bos": (mixed, 600, dict(user_defined_symbols=["<s>", "</s>"], **PLAIN), None),
        "control": (mixed, 600, dict(control_symbols=["<c>", "a b", "the", "<0x41>"], **PLAIN), None),
        "control_bytes": (mixed, 700, dict(control_symbols=["<c>", "<pad>"], pad_id=7, **BYTES), None),
        "user_bytes": (mixed, 700, dict(user_defined_symbols=["\n", "\t", "\x01", "\u2028", "\u00e9"], **PLAIN, **BYTES), None),
        "limited": (tales, 8000, dict(hard_vocab_limit=False, **BYTES), None),
        "tiny_vocabulary": (["ab ab ba"], 9, dict(character_coverage=1.0), None),
        "required": (tales, 500, dict(required_chars="kqz", character_coverage=0.98, **PLAIN, **BYTES), None),
        "self_test": (tales, 400, dict(self_test_sample_size=10, **PLAIN), None),
    }


def random_text(draw):
    if draw.random() < 0.5:
        return vectors.random_text(draw)
    parts = NESTED + vectors.PARTS + ["\u0301", "\u0308", "\u200d", "\uff76", "\uff9e", "\x7f", "\x1b", "\r", "\u0000", "1999", "12", "345", "\u0663", " ", " ", "\u2581", "king", "[CLS]", "\u2047"]
    text = bytearray("".join(draw.choice(parts) for _ in range(draw.choice([1, 2, 4, 9, 30]))).encode())
    if draw.random() < 0.15:
        text = bytearray(draw.randrange(256) for _ in range(draw.choice([1, 2, 3, 8, 20])))
    return bytes(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--case")
    options = parser.parse_args()
    passed = failed = 0
    folder = "build/work/sentencepiece_options"
    for name, (corpus, size, settings, refused) in models().items():
        if options.case not in (None, name):
            continue
        print("-- " + name)
        draw = random.Random(options.seed)
        data = vectors.train(corpus, size, **settings)
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        vectors.model_folder(model.get_piece_size(), folder)
        with open(folder + "/tokenizer.model", "wb") as f:
            f.write(data)
        try:
            ours, why = vectors.Ours(options.library, folder), ""
        except AssertionError as error:
            ours, why = None, str(error)
        right = ours is None and refused in why and "not supported" in why if refused else ours is not None
        passed, failed = passed + right, failed + (not right)
        if ours:
            bos = (ctypes.c_int32 * 1)(-1)  # of an empty text with LLAMA_ADD_BOS
            ours.c.llama_text_to_tokens(ours.model, b"", ctypes.c_size_t(0), 1, bos, ctypes.c_size_t(1))
            own, theirs = (bos[0], ours.c.llama_eos(ours.model)), (model.bos_id(), model.eos_id())
            passed, failed = passed + (own == theirs), failed + (own != theirs)
            if own != theirs:
                print("FAIL: %s: <s> and </s> are %s, not %s" % (name, own, theirs))
        if not right:
            print("FAIL: %s: %s" % (name, why.strip("\0") or "opens"))
        for _ in range(options.texts if ours and right else 0):
            text = random_text(draw)
            want = model.encode(text, out_type=int)
            ids = vectors.random_ids(draw, model, want)
            got, back = ours.encode(text), ours.decode(ids)
            wanted_back = model.decode(ids).encode() if ids else b""
            same = got == want and back == wanted_back
            passed, failed = passed + same, failed + (not same)
            if got != want:
                print("FAIL: %s: %r is %s, not %s" % (name, text[:80], got[:20], want[:20]))
            elif not same:
                print("FAIL: %s: %s is %r, not %r" % (name, ids[:20], back[:80], wanted_back[:80]))
    print("sentencepiece_options: %d passed, %d failed" % (passed, failed))
    sys.exit(failed != 0)


main()
