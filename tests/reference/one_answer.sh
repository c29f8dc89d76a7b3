#!/bin/sh
# one_answer.sh - one SHA-256 of a model's logits from every compiler, level, flag and machine. What `make` itself would
# build, with either compiler and with OpenMP, is held to tests/tiny's SHA-256 by `make test`.
#
#   one_answer.sh ARCHIVE.tar.xz     without it tests/tiny is the only model; absent tools: SKIP
archive=$1
work=build/answers
data=build/conformance-data/conformance
passed=0 failed=0
rm -rf $work
mkdir -p $work

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }

if [ -f "$archive" ] && [ ! -f $data/README.md ]; then
    mkdir -p build/conformance-data
    tar -xJf "$archive" -C build/conformance-data || exit 1
fi

# Model, golden, and whose answer it has to give: shards change nothing
models="tests/tiny tests/tiny/golden.json tiny"
if [ -f $data/README.md ]; then
    for folder in tinyH/meta-f16-mp1 tinyH/meta-f16-mp2 tinyH/meta-f16-mp4 tinyH/meta-f16-mp8 tinyH/meta-f16-mp1-legacy \
        tinyE/meta-f16-mp1 tinyC/meta-f16-mp1 tinyA/meta-f16-mp1 tinyA/meta-f16-mp1-noncontig tinyA/meta-f16-mp8 \
        tinyA/meta-f16-mp2-legacy tinyB/meta-bf16-mp1 tinyE/meta-f32-mp1 tinyE/meta-f32-mp1-flatall-legacy; do
        shape=${folder%/*} dtype=${folder#*meta-}
        weights=$shape-${dtype%%-*}
        models="$models
$data/ckpt/$folder $data/golden/$weights/golden.json $weights"
    done
else
    echo "SKIP: the models of the conformance data (they are not here)"
fi

# answers BUILD [RUNNER]: each model's, compared with that of the first build; emulated, of one model of each type
answers() {
    build=$1
    while read -r folder golden name; do
        case $folder in
        tests/tiny | */tinyH/meta-f16-mp2 | */tinyB/* | */tinyE/meta-f32-mp1) ;;
        *) [ $# -eq 1 ] || continue ;;
        esac
        answer=$($2 $work/"$build" "$folder" "$golden" 2>&1 </dev/null | tail -n 1)
        echo "$build, $folder: $answer"
        [ -f $work/$name.answer ] || echo "$answer" >$work/$name.answer
        if [ ${#answer} -ne 64 ] || [ "$answer" != "$(cat $work/$name.answer)" ]; then
            no "$build, $folder: not $(cat $work/$name.answer)"
        else
            ok
        fi
    done <<END
$models
END
}

# compile NAME COMPILER FLAGS...: bits as $work/NAME
compile() {
    name=$1
    shift
    "$@" -std=c11 -o $work/"$name" tests/unit/bits.c llama.c tokenizer.c -lm && return
    no "$name cannot be compiled"
    return 1
}

# every_way BUILD [RUNNER]: all thread counts, batches and kernels of one build, or a sample of them where they are
# emulated, give the first answer
every_way() {
    if $2 $work/"$1" ${2:+--quick} --all tests/tiny tests/tiny/golden.json >$work/ways 2>&1 </dev/null &&
        grep -q "$(cat $work/tiny.answer)" $work/ways; then
        ok
    else
        no "$1, one of its ways: $(head -n 3 $work/ways)"
    fi
    sed -n "s/^/$1, /; /ways\$/p" $work/ways
}

for flags in "gcc -O1" "gcc -O3 -march=native" "clang -O1" "clang -O3 -march=native"; do
    compiler=${flags%% *}
    command -v "$compiler" >/dev/null 2>&1 || { echo "SKIP: $flags (no $compiler)"; continue; }
    build=$(echo "$flags" | tr -d ' ')
    compile "$build" $flags || continue
    answers "$build"
    every_way "$build"
done

arm=aarch64-linux-gnu-gcc qemu=qemu-aarch64
if [ "$(uname -m)" = aarch64 ]; then
    echo "SKIP: $arm under $qemu (this machine is one itself)"
elif command -v $arm >/dev/null 2>&1 && command -v $qemu >/dev/null 2>&1; then
    compile aarch64 $arm -O2 -static && answers aarch64 $qemu && every_way aarch64 $qemu
else
    echo "SKIP: aarch64 (no $arm or no $qemu)"
fi
echo "one answer: $passed passed, $failed failed"
[ $failed -eq 0 ]
