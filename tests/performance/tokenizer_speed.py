#!/usr/bin/python3
"""Encode long_mixed.txt with our tokenizer and with the SentencePiece library in turn; fail if ours is slower.

    tokenizer_speed.py OURS DATA MODEL      OURS: build/tokenizer_speed; DATA: the conformance data
"""
import statistics, subprocess, sys, time
import sentencepiece

ours, data, model = sys.argv[1:]
tokenizer, path = f'{data}/tok/llama_tokenizer.model', f'{data}/tok/long_mixed.txt'
library = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
text = open(path, 'rb').read().decode()
mine, theirs = [], []
for _ in range(7):
    count, seconds = subprocess.run([ours, model, tokenizer, path], capture_output=True, check=True).stdout.split()
    mine.append(float(seconds))
    start = time.perf_counter()
    ids = library.encode(text)
    theirs.append(time.perf_counter() - start)
    assert int(count) == len(ids) == 80206, (count, len(ids))
ratio = statistics.median(mine) / statistics.median(theirs)
print(f'tokenizer speed: {ratio:.2f} of the time SentencePiece takes (medians of 7, {min(mine) * 1e3:.1f} ms and {min(theirs) * 1e3:.1f} ms at best)')
sys.exit(ratio > 1)
