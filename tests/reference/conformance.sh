#!/bin/sh
# conformance.sh - the goldens: unpack them under build/ where they are, and run everything against them.
#
#   conformance.sh ARCHIVE.tar.xz FAMILY     says SKIP where there is no such file; FAMILY: the folder of the newer shapes
archive=$1 family=$2

# The newer shapes of Llama: every form of a checkpoint gives the same bits, and passes the gate
if [ -f "$family/models.tar.xz" ]; then
    set -e
    if [ ! -d build/family-data/golden ]; then
        mkdir -p build/family-data
        tar -xJf "$family/models.tar.xz" -C build/family-data
    fi
    build/tests/math --scaled "$family/rope_freqs_scaled.json" --case scaled_freqs
    build/tests/conformance --family build/family-data
else
    echo "SKIP: $family/models.tar.xz is not here"
fi

if [ ! -f "$archive" ]; then
    echo "SKIP: $archive is not here"
    exit 0
fi
set -e
if [ ! -f build/conformance-data/conformance/README.md ]; then
    mkdir -p build/conformance-data
    tar -xJf "$archive" -C build/conformance-data
fi
data=build/conformance-data/conformance
if [ -f $data/big-zip64.tar.gz ] && [ ! -d build/big-zip64 ]; then
    mkdir build/big-zip64
    tar -xSzf $data/big-zip64.tar.gz -C build/big-zip64
fi
build/tests/math $data/rope_freqs.json
build/tests/conformance $data build/big-zip64
for shape in tinyH tinyE tinyC; do
    build/tests/bits --all $data/ckpt/$shape/meta-f16-mp1 $data/golden/$shape-f16/golden.json
done
build/tests/bits --all $data/ckpt/tinyH/meta-f16-mp2 $data/golden/tinyH-f16/golden.json

build/tests/bits --all $data/ckpt/tinyC/hf-f16-unaligned $data/golden/tinyC-f16/golden.json

# One answer from every form of the same weights: all shards, the older form, odd strides, all formats
for shape in tinyA tinyB tinyC tinyE tinyH; do
    forms=0
    for folder in $data/ckpt/$shape/meta-f16-* $data/ckpt/$shape/hf-f16* $data/ckpt/$shape/gguf/*-f16* \
        $data/ckpt/$shape/*-f16vals.bin; do
        [ -e "$folder" ] || continue # not every shape has every form
        answer=$(build/tests/bits $folder $data/golden/$shape-f16/golden.json | tail -n 1)
        [ $forms -gt 0 ] || first=$answer
        if [ ${#answer} -ne 64 ] || [ "$answer" != "$first" ]; then
            echo "FAIL: $folder: $answer, not $first"
            exit 1
        fi
        forms=$((forms + 1))
    done
    echo "$shape: $first from $forms forms"
done

# The perplexity of the goldens' tokens, within 1e-5 of their mean negative log-likelihood
worst=0 compared=0
for golden in $data/golden/*/golden.json; do
    shape=$(basename "$(dirname "$golden")")
    want=$(tr -d '\n' <"$golden" | sed -n 's/.*"nll_mean": *\([0-9.]*\).*/\1/p')
    [ -n "$want" ] || continue # the long contexts have none
    tr -d '\n' <"$golden" | sed 's/.*"tokens": *\[\([^]]*\)\].*/\1/; s/,/ /g' >build/golden.ids
    for model in $data/ckpt/${shape%-*}/meta-${shape#*-}-mp1 $data/ckpt/${shape%-*}/hf-${shape#*-}; do
        [ -d $model ] || continue
        nll=$(./llama ppl $model --ids build/golden.ids | sed -n 's/^nll *\([0-9.]*\) .*/\1/p')
        worst=$(awk -v a="${nll:-9}" -v b="$want" -v w="$worst" 'BEGIN { d = a / b - 1; d = d < 0 ? -d : d; print (d > w ? d : w) }')
        compared=$((compared + 1))
    done
done
if [ $compared -lt 15 ] || awk -v w="$worst" 'BEGIN { exit !(w > 1e-5) }'; then
    echo "FAIL: the perplexities of $compared checkpoints are off by $worst"
    exit 1
fi
echo "perplexity: $compared checkpoints within $worst of the goldens"

# LLAMA_FAST, its tiles in plain C, within 2e-4 of every golden
pairs=
for golden in $data/golden/tiny[A-H]-*16; do
    shape=$(basename "$golden")
    pairs="$pairs $data/ckpt/${shape%-*}/hf-${shape#*-} $golden"
done
build/tests/amx $pairs

# One text from every format of a trained model
first=
for model in meta-f16-mp1 hf-f16 hf-f32 gguf/stories260K-f16.gguf gguf/stories260K-f32.gguf stories260K.bin; do
    text=$(./llama $data/ckpt/stories260K/$model "Once upon a time" --tokenizer $data/tok/tok512.model -n 100 --temp 0)
    first=${first:-$text}
    if [ ${#text} -lt 100 ] || [ "$text" != "$first" ]; then
        echo "FAIL: stories260K/$model goes on: $text"
        exit 1
    fi
done
echo "stories260K: the same 100 tokens from 6 files"

sh tests/robustness/hostile.sh $data

# tokenizer.json as LLaMA's conversions have it
sh tests/tools/python.sh sentencepiece tests/reference/tokenizer_json.py ./llama $data build/blank-32000

# Every intermediate against numpy's
for shape in tinyA tinyB tinyC tinyE; do
    sh tests/tools/python.sh numpy tests/reference/trace.py build/libllamac.so.0 ./llama $data/ckpt/$shape/meta-f16-mp1
done

# Log-probabilities of endings against numpy's, on what samples of published sets there are beside the goldens
for items in ../shared/eval/*.jsonl; do
    [ ! -f $items ] || sh tests/tools/python.sh "numpy, sentencepiece" tests/reference/score.py ./llama $data/ckpt/stories260K/meta-f16-mp1 $items 25 \
        --tokenizer $data/tok/tok512.model
done

# Our tokenizer and the SentencePiece library on the same text, in turn, best of 5 each
sh tests/tools/python.sh sentencepiece tests/performance/tokenizer_speed.py build/tests/tokenizer_speed $data build/blank-32000
