#!/bin/sh
# style.sh - the limits the source keeps: lengths of functions and lines, comments, globals, macros.
passed=0 failed=0
limit() { # NAME VALUE LOW HIGH
    if awk -v v="$2" -v l="$3" -v h="$4" 'BEGIN { exit !(v >= l && v <= h) }'; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $1 is $2, not from $3 to $4"
    fi
}

# Lines of each function, from its head to its closing brace in the first column
functions() {
    awk '/^[A-Za-z_].*[({,]$/ && !/^(typedef|struct|enum|static const .*\{$|union)/ { if (!on) { head = FNR; on = 1 } }
         /^\}$/ { if (on) print FNR - head + 1; on = 0 }
         /^\};?$|^\} / { on = 0 }' "$@" | sort -n
}
lengths=$(functions llama.c tokenizer.c main.c)
count=$(echo "$lengths" | wc -l)
limit "the number of functions found" "$count" 150 1000
limit "the median length of a function" "$(echo "$lengths" | sed -n "$(((count + 1) / 2))p")" 1 15
limit "the 90th percentile of lengths" "$(echo "$lengths" | sed -n "$((count * 9 / 10))p")" 1 45
limit "the longest function" "$(echo "$lengths" | tail -1)" 1 100

# Comment lines for each line of code
ratio() {
    awk '{ line = $0; sub(/^[ \t]+/, "", line) }
         line == "" { next }
         inside { comment++; if (line ~ /\*\//) inside = 0; next }
         line ~ /^\/\*/ { comment++; if (line !~ /\*\//) inside = 1; next }
         { code++; if (line ~ /\/\*.*\*\/[ \\]*$/) comment++; if (line ~ /\/\*/ && line !~ /\*\//) { comment++; inside = 1 } }
         END { printf "%.3f", comment / code }' "$1"
}
limit "comments to code in llama.c" "$(ratio llama.c)" 0.25 0.40
limit "comments to code in llama.h" "$(ratio llama.h)" 0.40 3

limit "lines over 100 columns" "$(cat llama.h llama.c tokenizer.c main.c | awk 'length($0) > 100' | wc -l)" 0 0
limit "lines of llama.c" "$(wc -l <llama.c)" 1 3000
limit "lines of main.c" "$(wc -l <main.c)" 1 1200
limit "function-like macros in llama.c" "$(grep -cE '^#define [A-Za-z_]+\(' llama.c)" 0 8
limit "tabs and trailing spaces" "$(grep -cE '	| $' llama.h llama.c tokenizer.c main.c | awk -F: '{ n += $2 } END { print n }')" 0 0
limit "writable globals" "$(grep -nE '^(static )?(int|char|float|double|size_t|bool|uint[0-9]+_t|void|struct [a-z_]+|[a-z_]+) \**[a-z_]+(\[.*\])?( =.*)?;' llama.c tokenizer.c | wc -l)" 0 0
limit "things at the top" "$(git ls-files 2>/dev/null | cut -d/ -f1 | sort -u | grep -cvxE 'llama\.h|llama\.c|main\.c|tokenizer\.c|Makefile|tests|README\.md|LICENSE|\..*')" 0 0
if command -v clang-format >/dev/null 2>&1; then
    limit "files clang-format would change" "$(for f in llama.h llama.c tokenizer.c main.c; do clang-format "$f" | cmp -s - "$f" || echo "$f"; done | wc -l)" 0 0
fi
echo "style: $passed passed, $failed failed"
[ $failed -eq 0 ]
