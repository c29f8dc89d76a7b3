"""tokenizer.json made of a tokenizer.model, in the two ways conversions of LLaMA have done it, gives the same ids.

    tokenizer_json.py LLAMA DATA BLANK      DATA: the conformance data; BLANK: a model of 32,000 embeddings
"""
import json
import os
import subprocess
import sys

import sentencepiece

SPACE = "\u2581"


def merges(model, newer):
    """All pairs of pieces that make a piece, best score first; of equal scores by id, or longest first."""
    count = model.get_piece_size()
    normal = [i for i in range(count) if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))]
    ids = {model.id_to_piece(i): i for i in normal}
    found = []
    for piece, i in ids.items():
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in ids and piece[k:] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(model.get_score(i), *pair) for pair in pairs]
    if newer:
        found.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    else:
        found.sort(key=lambda m: m[0], reverse=True)
    return [list(m[1:]) if newer else m[1] + " " + m[2] for m in found]


def document(model, newer):
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    prepend = {"type": "Prepend", "prepend": SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": model.id_to_piece(i), "special": True} for i in range(3)],
        "normalizer": None if newer else {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": metaspace if newer else None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {model.id_to_piece(i): i for i in range(model.get_piece_size())},
            "merges": merges(model, newer),
        },
    }


def main():
    llama, data, blank = sys.argv[1:]
    text = os.path.join(data, "tok", "long_mixed.txt")
    small = os.path.join(data, "ckpt", "tinyA", "meta-f16-mp1")
    failed = 0
    for name, folder in [("llama_tokenizer", blank), ("tok512", small), ("tok512o", small)]:
        file = os.path.join(data, "tok", name + ".model")
        model = sentencepiece.SentencePieceProcessor(model_file=file)
        for newer in (False, True):
            path = os.path.join("build", "tokenizer.json")
            with open(path, "w", encoding="utf-8") as out:
                json.dump(document(model, newer), out, ensure_ascii=not newer)
            command = [llama, "tokenize", folder, "-f", text, "--tokenizer"]
            want, got = (subprocess.run(command + [f], capture_output=True).stdout.split() for f in (file, path))
            same = len(want) > 10000 and want == got
            failed += not same
            print(f"tokenizer.json of {name}, {'newer' if newer else 'older'} kind: "
                  f"{len(got)} ids, {'the same' if same else 'NOT THE SAME'} as {len(want)}")
    sys.exit(failed != 0)


main()
