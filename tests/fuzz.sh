#!/bin/sh
# fuzz.sh - fuzz every kind of file that is read, and text, with libFuzzer, for so many
# seconds each. What breaks something is left in build/fuzz/; so is what was learnt, for next time.
#
#   fuzz.sh [SECONDS [TARGETS]]      says SKIP where clang or its fuzzer is absent
seconds=${1:-60}
work=build/fuzz
checks=address,undefined
flags="-std=c11 -Wall -Wextra -g -O1 -fno-sanitize-recover=undefined -fsanitize=$checks"
targets="${2:-params pth config safetensors indexed gguf bin tokenizer text}"
command -v clang >/dev/null 2>&1 || { echo "SKIP: clang is not here"; exit 0; }
mkdir -p $work/sound
echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' >$work/probe.c
if ! clang -fsanitize=$checks,fuzzer -o $work/probe $work/probe.c >/dev/null 2>&1; then
    echo "SKIP: clang is here without its fuzzer (on Debian: libclang-rt-14-dev)"
    exit 0
fi

# The library once, each target a program
for source in llama tokenizer; do
    clang $flags -fsanitize=fuzzer-no-link -c -o $work/$source.o $source.c || exit 1
done
for target in $targets; do
    clang $flags -fsanitize=fuzzer -DFUZZ=$target -o $work/$target tests/fuzz.c \
        $work/llama.o $work/tokenizer.o -lm || exit 1
done

# Sound inputs to start from
clang $flags -DMAKE_SEEDS -o $work/seeds tests/fuzz.c llama.c tokenizer.c -lm &&
    $work/seeds $work/sound || exit 1
for target in $targets; do mkdir -p $work/$target.seeds; done
cp $work/sound/params.json $work/params.seeds/small
cp tests/tiny/params.json $work/params.seeds/tiny
cp $work/sound/consolidated.00.pth $work/pth.seeds/small
cp $work/sound/older.pth $work/pth.seeds/older
cp $work/sound/form0/config.json $work/config.seeds/small
printf '{"model_type": "llama", "rope_scaling": null, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "intermediate_size": 8, "rms_norm_eps": 1e-6, "sliding_window": 4096, "tie_word_embeddings": false}' >$work/config.seeds/newer
cp $work/sound/form0/model.safetensors $work/safetensors.seeds/small
cp $work/sound/form1/model.safetensors.index.json $work/indexed.seeds/small
cp $work/sound/form4/model.gguf $work/gguf.seeds/small
cp $work/sound/form6/model.bin $work/bin.seeds/version0
cp $work/sound/form7/model1.bin $work/bin.seeds/version1
cp $work/sound/tied/model.bin $work/bin.seeds/tied
cp $work/sound/tokenizer.model $work/tokenizer.seeds/small
cp tests/tiny/tokenizer.model $work/tokenizer.seeds/tiny
cp $work/sound/tokenizer.json $work/tokenizer.seeds/json
cp $work/sound/newer.json $work/tokenizer.seeds/newer
cp $work/sound/tokenizer.bin $work/tokenizer.seeds/bin
cp $work/sound/vocabulary.gguf $work/gguf.seeds/vocabulary
sed 's/^{"text": "\(.*\)", "ids": .*/\1/' tests/tiny/tokens.jsonl |
    awk -v to=$work/text.seeds/ '{ printf "%s", $0 >(to NR); close(to NR) }'

# Files are written for every input: to memory, where it can be
shm=/dev/shm
[ -w $shm ] || shm=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$shm/fuzz.XXXXXX") || exit 1
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' INT TERM

passed=0 failed=0
for target in $targets; do
    mkdir -p $work/$target.corpus
    $work/$target -max_total_time="$seconds" -rss_limit_mb=512 -timeout=5 -print_final_stats=1 \
        -artifact_prefix=$work/$target- $work/$target.corpus $work/$target.seeds \
        >$work/$target.log 2>&1
    code=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' $work/$target.log)
    if [ $code -eq 0 ]; then
        passed=$((passed + 1))
        echo "$target: $runs inputs, clean"
    else
        failed=$((failed + 1))
        echo "FAIL: $target after ${runs:-?} inputs; $work/$target.log says:"
        grep -aE 'broken promise|ERROR|runtime error|#[0-9].* in .*fuzz\.c|Test unit' $work/$target.log
    fi
done
echo "fuzz: $passed passed, $failed failed"
[ $failed -eq 0 ]
