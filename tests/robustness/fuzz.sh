#!/bin/sh
# fuzz.sh - fuzz everything that reads what others wrote, with libFuzzer, for so many seconds each,
# from the corpus kept in tests/robustness/corpus/ and the sound inputs that fuzz.c makes. What breaks something
# is left in build/fuzz/; so is what was learnt, for next time.
#
#   fuzz.sh [SECONDS [TARGETS]]      says SKIP where clang or its fuzzer is absent
#   fuzz.sh keep [TARGETS]           makes tests/robustness/corpus/ of what was learnt, nothing twice
#
# tests/robustness/corpus/regressions/TARGET-* are inputs that broke something once; they come first.
seconds=${1:-60}
work=build/fuzz
corpus=tests/robustness/corpus
checks=address,undefined
# Not inlined, the kernels compile eight times as fast; clang then says that it left loops as they are
flags="-std=c11 -Wall -Wextra -Wno-pass-failed -g1 -O1 -Dalways_inline=unused -fno-sanitize-recover=undefined -fsanitize=$checks"
all="params pth config safetensors indexed gguf bin tokenizer companions checklist state text cli"
targets=${2:-$all}
command -v clang >/dev/null 2>&1 || { echo "SKIP: clang is not here"; exit 0; }
mkdir -p $work/sound
echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' >$work/probe.c
if ! clang -fsanitize=$checks,fuzzer -o $work/probe $work/probe.c >/dev/null 2>&1; then
    echo "SKIP: clang is here without its fuzzer (on Debian: libclang-rt-14-dev)"
    exit 0
fi

# The library twice, as the command line is not to learn the library's ways; each target a program
for source in llama tokenizer; do
    clang $flags -fsanitize=fuzzer-no-link -c -o $work/$source.o $source.c || exit 1
    clang $flags -c -o $work/$source.plain.o $source.c || exit 1
done
for target in $targets; do
    [ $target = cli ] && how=.plain || how=
    clang $flags -fsanitize=fuzzer -DFUZZ=$target -o $work/$target tests/robustness/fuzz.c \
        $work/llama$how.o $work/tokenizer$how.o -lm -lpthread || exit 1
done

# Inputs to start from: the kept ones, and sound ones
for target in $all; do
    rm -rf $work/$target.seeds
    mkdir -p $work/$target.seeds $work/$target.corpus
    [ ! -f $corpus/$target.tar.xz ] || tar -xJf $corpus/$target.tar.xz -C $work/$target.seeds || exit 1
done
clang $flags -DMAKE_SEEDS -o $work/seeds tests/robustness/fuzz.c $work/llama.plain.o $work/tokenizer.plain.o -lm &&
    $work/seeds $work/sound || exit 1
cp $work/sound/params.json $work/params.seeds/small
cp tests/tiny/params.json $work/params.seeds/tiny
cp $work/sound/consolidated.00.pth $work/pth.seeds/small
cp $work/sound/older.pth $work/pth.seeds/older
cp $work/sound/form0/config.json $work/config.seeds/small
printf '{"model_type": "llama", "rope_scaling": null, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "intermediate_size": 8, "rms_norm_eps": 1e-6, "sliding_window": 4096, "tie_word_embeddings": false}' >$work/config.seeds/newer
for scaled in scaled1 scaled2; do
    cp $work/sound/$scaled/config.json $work/config.seeds/$scaled
    cp $work/sound/$scaled/model.gguf $work/gguf.seeds/$scaled
done
cp $work/sound/scaled2/params.json $work/params.seeds/scaled
cp $work/sound/form0/model.safetensors $work/safetensors.seeds/small
cp $work/sound/form1/model.safetensors.index.json $work/indexed.seeds/small
cp $work/sound/form4/model.gguf $work/gguf.seeds/small
cp $work/sound/vocabulary.gguf $work/gguf.seeds/vocabulary
cp $work/sound/form6/model.bin $work/bin.seeds/version0
cp $work/sound/form7/model1.bin $work/bin.seeds/version1
cp $work/sound/tied/model.bin $work/bin.seeds/tied
cp $work/sound/tokenizer.model $work/tokenizer.seeds/small
cp $work/sound/bytes.json $work/tokenizer.seeds/bytes
cp $work/sound/tiktoken.model $work/tokenizer.seeds/tiktoken
cp tests/tiny/tokenizer.model $work/tokenizer.seeds/tiny
cp tests/tiny/vocabularies/*.model $work/tokenizer.seeds
cp $work/sound/tokenizer.json $work/tokenizer.seeds/json
cp $work/sound/newer.json $work/tokenizer.seeds/newer
cp $work/sound/tokenizer.bin $work/tokenizer.seeds/bin
printf '{"eos_token_id": [2, 1000]}\036{"<|im_end|>": 1000}\036{"eos_token": "<|im_end|>", "additional_special_tokens": ["the"]}\036'\
'{"add_bos_token": false, "legacy": false, "added_tokens_decoder": {"1001": {"content": "<|x|>", "lstrip": true, "special": true}}}' >$work/companions.seeds/small
(cd $work/sound && md5sum consolidated.00.pth params.json) >$work/checklist.seeds/small
(cd $work/sound && md5sum -b params.json) >$work/checklist.seeds/binary
cp $work/sound/state? $work/state.seeds || exit 1
cp $work/sound/cli* $work/cli.seeds || exit 1
sed 's/^{"text": "\(.*\)", "ids": .*/\1/' tests/tiny/tokens.jsonl |
    awk -v to=$work/text.seeds/ '{ printf "%s", $0 >(to NR); close(to NR) }'

# Files are written for every input: to memory, where it can be
shm=/dev/shm
[ -w $shm ] || shm=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$shm/fuzz.XXXXXX") || exit 1
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' INT TERM
limits="-timeout=1 -rss_limit_mb=512"
export ASAN_OPTIONS=quarantine_size_mb=64 # of what was freed: the rest of the limit is for the target

if [ "$seconds" = keep ]; then
    for target in $targets; do
        mkdir "$TMPDIR/$target" &&
            $work/$target $limits -merge=1 "$TMPDIR/$target" $work/$target.corpus $work/$target.seeds >$work/$target.log 2>&1 &&
            tar -C "$TMPDIR/$target" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -cf - \
                $(ls "$TMPDIR/$target") | xz -9e >$corpus/$target.tar.xz || exit 1
        echo "$target: $(ls "$TMPDIR/$target" | wc -l) inputs, $(wc -c <$corpus/$target.tar.xz) bytes"
    done
    exit 0
fi

passed=0 failed=0
fuzz() { # TARGET ARGUMENTS
    target=$1
    shift
    $work/$target $limits -print_final_stats=1 -artifact_prefix=$work/$target- "$@" >$work/$target.log 2>&1
    code=$?
    if [ $code -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $target; $work/$target.log says:"
        grep -aE 'broken promise|ERROR|runtime error|#[0-9].* in .*fuzz\.c|Test unit' $work/$target.log
    fi
    return $code
}
for target in $targets; do
    known=$(ls $corpus/regressions/$target-* 2>/dev/null)
    [ -z "$known" ] || fuzz $target $known
    room=0 # as long as the longest of the first inputs, or 4096
    [ $target != pth ] || room=8192
    fuzz $target -max_total_time="$seconds" -max_len=$room $work/$target.corpus $work/$target.seeds &&
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' $work/$target.log) inputs, clean"
done
echo "fuzz: $passed passed, $failed failed"
[ $failed -eq 0 ]
