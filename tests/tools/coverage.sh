#!/bin/sh
# coverage.sh - which lines and branches of the library the tests reach, by gcov. At the top of the tree:
#
#   coverage.sh          builds and runs the tests of `make check` in build/coverage/, prints the percentages,
#                        leaves uncovered.txt and untaken.txt there; fails below 95 % of lines or 90 % of branches
#   coverage.sh report   counts again what an earlier run left
#
# How it counts. A source line is compiled more than once: into each program that includes llama.c, and the kernels
# once an instruction set. It is covered if any of these ran. A branch is an outcome of a decision, as gcov numbers
# those of a line; it is taken if it was in any instance of the line. Instances that were compiled to another number
# of branches are of another shape and counted apart, as they have nothing to compare. Calls are no branches. Code
# for other processors is not compiled, so not counted; nothing else is left out.
least_lines=95 least_branches=90
work=build/coverage
cc=${CC:-gcc}
gcov=${GCOV:-gcov}
command -v "$cc" >/dev/null 2>&1 && command -v "$gcov" >/dev/null 2>&1 || { echo "SKIP: no $cc or no $gcov"; exit 0; }
export LC_ALL=C

# Functions that are always inlined would have their branches counted once a caller, so ours are not inlined here.
# Threads may lose counts to each other, as counters are not atomic: whether a line ran is all that is asked.
flags="-std=c11 -g -Og --coverage -Dalways_inline=unused"

# What `make test` runs in C and shell; of bits, guesses and stream less: so compiled, they take longer than all else together.
# What these alone reach, as copy_weight() of divided weights, counts as missed. So does what the command alone reaches of the
# library: its own is compiled as ever.
commands() {
    awk '/^[a-z]/ && ($3 ~ /^build\/tests\// || $1 == "cli") && $1 !~ /^(math_optimized|network|soak)$/ { $1 = $2 = ""; print }' tests/tools/suites |
        sed -e 's/^ *//' -e 's/ \$quick/ --quick/' -e 's/bits --self tests.tiny/bits tests\/tiny tests\/tiny\/golden.json/; /guesses/s/$/ --case -costs/; /stream/s/$/ --case -bits/' \
            -e "s| \./llama | build/llama |g; s|build/|$work/|g"
}

failed=0
if [ "${1:-}" != report ]; then
    rm -rf $work
    mkdir -p $work/tests $work/work build/work
    for source in llama tokenizer main; do $cc $flags -c -o $work/$source.o $source.c || exit 1; done
    for test in $(commands | sed -n "s|^$work/tests/\([a-z0-9_]*\).*|\1|p"); do
        source=$(ls tests/unit/"$test".c tests/robustness/"$test".c 2>/dev/null)
        $cc $flags -c -o $work/$test.o "$source" || exit 1
        library="$work/llama.o $work/tokenizer.o"
        if grep -q '^#include "../../llama.c"' "$source"; then library=; fi
        wrapped=
        if [ $test = stream ]; then wrapped=-Wl,--wrap=pread,--wrap=open,--wrap=pthread_create; fi
        $cc $flags -pthread $wrapped -o $work/tests/$test $work/$test.o $library -lm || exit 1
    done
    for source in llama tokenizer; do $cc -std=c11 -O2 -c -o $work/plain_$source.o $source.c || exit 1; done
    $cc --coverage -pthread -o $work/llama $work/main.o $work/plain_llama.o $work/plain_tokenizer.o -lm || exit 1
    commands >$work/commands
    while read -r line; do
        echo "$line" >>$work/tests.log
        $line >>$work/tests.log 2>&1 </dev/null || { failed=$((failed + 1)); echo "FAILED: $line"; }
    done <$work/commands
fi

# One stream of annotated sources, an object at a time: of several at once, gcov 12 leaves out the branches of the
# last function of a file. -r: not the system's headers
for counts in $work/*.gcda; do
    $gcov -b -c -t -r -o $work "$counts" 2>$work/gcov.err || { cat $work/gcov.err >&2; exit 1; }
done >$work/gcov.txt || exit 1
# Lines of llama.c for a processor with AVX-512, if this one has none: from its vector functions to those of NEON, and AMX's
skip=$(grep -qw avx512f /proc/cpuinfo || awk '/^#elif LLAMA_PASS == 3/ { on = 1 } /^#elif LLAMA_PASS == 4/ { on = 0 }
    /^\/\* ---- / { on = /AMX/ } on { printf "%d ", NR }' llama.c)
[ -z "$skip" ] || echo "SKIP: code for AVX-512 and AMX is not counted: this processor cannot run it"
awk -v work=$work -v skip="$skip" -v least_lines=$least_lines -v least_branches=$least_branches '
    function flush(  i, key) { # the branches of the line before, now that their number is known
        for (i = 1; i <= n; i++) {
            key = file SUBSEP line SUBSEP n SUBSEP i
            if (!(key in branch)) branches[file]++
            else if (branch[key] == 0 && taken[i]) taken_of[file]++
            if (!(key in branch) && taken[i]) taken_of[file]++
            branch[key] += taken[i]
        }
        n = 0
    }
    BEGIN { split(skip, list, " "); for (i in list) skipped[list[i]] }
    function percent(part, whole) { return whole ? 100 * part / whole : 100 }
    function tell(name, l, lw, b, bw) {
        printf "%-32s lines %6.2f %% (%d of %d)   branches %6.2f %% (%d of %d)\n", name, percent(l, lw), l, lw, percent(b, bw), b, bw
    }
    / +-: +0:Source:/ {
        flush()
        sub(/^.*:Source:/, "")
        sub(/^.*\.\.\//, "") # tests/../llama.c
        file = $0
        ours = file ~ /^(llama\.c|llama\.h|tokenizer\.c|main\.c)$/
        next
    }
    !ours { next }
    left_out && !/^ *[0-9#=-]+\*?: *[0-9]+:/ { next }
    /^branch / { taken[++n] = $3 == "taken" ? $4 + 0 : 0; next }
    /^ *[0-9#=-]+\*?: *[0-9]+:/ {
        flush()
        split($0, field, ":")
        count = field[1]
        line = field[2] + 0
        gsub(/[ *]/, "", count)
        left_out = file == "llama.c" && line in skipped
        if (line == 0 || count == "-" || left_out) next
        text = $0
        sub(/^[^:]*:[^:]*:/, "", text)
        source[file, line] = text
        if (line > last[file]) last[file] = line
        if (!((file, line) in ran)) lines[file]++
        if (!ran[file, line] && count + 0 > 0) lines_of[file]++
        ran[file, line] += count + 0
        next
    }
    END {
        flush()
        split("llama.c tokenizer.c llama.h main.c", names, " ")
        printf "" >(work "/uncovered.txt")
        printf "" >(work "/untaken.txt")
        for (f = 1; f in names; f++) {
            file = names[f]
            for (i = 1; i <= last[file]; i++)
                if ((file, i) in ran && !ran[file, i]) printf "%s:%d: %s\n", file, i, source[file, i] >(work "/uncovered.txt")
        }
        for (key in branch) {
            split(key, k, SUBSEP)
            if (branch[key]) continue
            missed[k[1], k[2]] = missed[k[1], k[2]] " " k[4]
            of[k[1], k[2]] = k[3]
        }
        for (f = 1; f in names; f++) {
            file = names[f]
            for (i = 1; i <= last[file]; i++)
                if ((file, i) in missed) printf "%s:%d:%s of %d%s: %s\n", file, i, missed[file, i], of[file, i], ran[file, i] ? "" : " (never ran)", source[file, i] >(work "/untaken.txt")
        }
        l = lines_of["llama.c"] + lines_of["tokenizer.c"]
        lw = lines["llama.c"] + lines["tokenizer.c"]
        b = taken_of["llama.c"] + taken_of["tokenizer.c"]
        bw = branches["llama.c"] + branches["tokenizer.c"]
        tell("llama.c + tokenizer.c", l, lw, b, bw)
        for (f = 1; f in names; f++)
            tell("  " names[f] (f > 2 ? " (for information)" : ""), lines_of[names[f]], lines[names[f]], taken_of[names[f]], branches[names[f]])
        print "what no test reaches: " work "/uncovered.txt, untaken.txt"
        if (lw == 0 || bw == 0) { print "FAIL: gcov told nothing"; exit 1 }
        if (percent(l, lw) < least_lines) { print "FAIL: lines under " least_lines " %"; exit 1 }
        if (percent(b, bw) < least_branches) { print "FAIL: branches under " least_branches " %"; exit 1 }
    }' $work/gcov.txt || exit 1
[ $failed -eq 0 ] || { echo "what failed says why in $work/tests.log"; exit 1; }
