#!/bin/sh
# analyze.sh - what compilers and analysers find by reading the source: nothing, or it fails. At the top of the tree.
# One line a tool; what it said is in build/analyze/. A tool that is absent is told as SKIP.
work=build/analyze
sources="llama.c tokenizer.c main.c"
failed=0
mkdir -p $work
rm -f $work/*

# tool NAME COMMAND command...: COMMAND for each source, which must succeed and say nothing
tool() {
    name=$1
    command -v "$2" >/dev/null 2>&1 || { echo "SKIP: $name ($2 is not here)"; return; }
    shift
    log=$work/$(echo "$name" | tr ' ' _).log
    status=0
    for source in $sources; do "$@" "$source" >>"$log" 2>&1 || status=1; done
    found=$(grep -cE '(warning|error|style|performance|portability): ' "$log")
    if [ $status -eq 0 ] && [ "$found" -eq 0 ]; then echo "ok $name"; return; fi
    failed=$((failed + 1))
    echo "FAILED $name: $found findings, in $log:"
    grep -E '(warning|error|style|performance|portability): ' "$log" | sort -u | head -n 40 | sed 's/^/    /'
}

# Conversions that may lose something, and what else is legal and seldom meant
strict="-std=c11 -O2 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wstrict-prototypes
    -Wmissing-prototypes -Wdouble-promotion -Wundef -Wvla -Werror"
by_gcc() { gcc $strict -S -o $work/"$1".s "$1"; }
by_clang() { clang $strict -O3 -Rpass=loop-unroll -c -o $work/object.o "$1"; } # its remarks are no findings
have() { command -v "$1" >/dev/null 2>&1 || { echo "SKIP: $2 ($1 is not here)" && false; }; }
if have gcc "gcc -Wconversion"; then tool "gcc -Wconversion" by_gcc; fi
if have clang "clang -Wconversion"; then tool "clang -Wconversion" by_clang; fi

# A loop after UNROLL that clang only unrolls in part keeps the sums of a tile in memory: a third of the speed
not_unrolled() {
    [ "$1" = llama.c ] || return 0
    awk -F: -v source="$1" '
        BEGIN { while ((getline line <source) > 0) { n++; if (line ~ /UNROLL *\\?$/) loop[n + 1] } }
        $1 !~ source "$" || !/remark:/ { next } # ./llama.c where it includes itself
        /completely/ { whole++ }
        $2 in loop && !/completely/ { print source ":" $2 ": warning: not unrolled" }
        END { if (whole < 100) print source ": warning: clang does not say what it unrolls" }' $work/clang_-Wconversion.log
}
if have clang "clang unrolls"; then tool "clang unrolls" not_unrolled; fi

# gcc -O2 unrolls no loop without UNROLL. One that prefetches the 16 rows of a tile takes as long as the rest
rolled_prefetch() {
    [ "$1" = llama.c ] && [ "$(uname -m)" = x86_64 ] || return 0
    awk '/^few_1_avx512:/ { on = 1 } on && /prefetcht1/ { n++ } on && /\.size/ { exit }
        END { if (n < 16) print "llama.c: warning: few_1_avx512 has " n + 0 " prefetches, not one for each row" }' $work/llama.c.s
}
if have gcc "gcc -O2 unrolls"; then tool "gcc -O2 unrolls" rolled_prefetch; fi

# Not inlined: of a loop in a loop it follows one turn, and takes what the other turns fill for unset
tool "gcc -fanalyzer" gcc -std=c11 -O1 -fanalyzer -Dalways_inline=unused -Werror -c -o $work/object.o

# stderr counts what was found in others' headers
clang_tidy() {
    clang-tidy --quiet "$1" -- -std=c11 2>$work/tidy.err || { cat $work/tidy.err; return 1; }
}
if have clang-tidy clang-tidy; then tool clang-tidy clang_tidy; fi

# It has no headers of the system, so it is told of a machine that llama.c does not refuse
tool "cppcheck" cppcheck -q --std=c11 --platform=unix64 --library=posix,gnu -D__GNUC__=12 -D__x86_64__ -D__SIZEOF_POINTER__=8 -DSIZE_MAX=18446744073709551615U \
    --enable=warning,performance,portability --inline-suppr --suppress=missingIncludeSystem --error-exitcode=1

[ $failed -eq 0 ]
