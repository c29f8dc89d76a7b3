#!/bin/sh
# examples.sh - the examples compile without a warning, run, and print what the command prints.
#
#   examples.sh LIBRARY [--case NAME]     LIBRARY: build/libllamac.so.0, with ./llama and the objects beside it
library=$1 only=${3:-}
work=build/work/examples
passed=0 failed=0
rm -rf $work
mkdir -p $work/LLaMA
ln -s "$PWD/tests/tiny" $work/LLaMA/7B

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }

compile() { # NAME STANDARD
    if ${CC:-cc} -std="$2" -Wall -Wextra -Wpedantic -Werror -I. -o "$work/$1" "tests/examples/$1.c" "$library" -Wl,-rpath,"$PWD/build" \
        >$work/log 2>&1; then ok; else no "$1.c: $(head -n 5 $work/log)"; fi
}

# The program on the first screen of llama.h is the example, letter by letter, and tells a story
case_first() {
    awk '/^ \*     #include <stdio.h>/ { on = 1 }
         on { end = /^ \*     }$/; sub(/^ \*     /, ""); sub(/^ \*$/, ""); print; if (end) exit }' llama.h >$work/first.c
    if cmp -s $work/first.c tests/examples/first.c; then ok; else no "tests/examples/first.c is not the program in llama.h"; fi
    compile first c99
    (cd $work && ./first) >$work/out 2>&1
    if [ "$(wc -c <$work/out)" -gt 100 ]; then ok; else no "first.c prints: $(head -c 200 $work/out)"; fi
}

# Several prompts: the text that the command prints for each
case_generate() {
    compile generate c11
    $work/generate tests/tiny "There was once" "The king" >$work/out 2>&1
    ./llama tests/tiny -p "There was once" -p "The king" -n 24 --temp 0 >$work/want
    if cmp -s $work/out $work/want; then ok; else no "generate.c prints: $(cat $work/out)"; fi
}

# Two processes over sockets: the text of one
case_machines() {
    compile machines gnu11
    $work/machines tests/tiny "There was once" >$work/out 2>$work/err
    ./llama tests/tiny "There was once" -n 64 --temp 0 >$work/want
    echo >>$work/want
    if cmp -s $work/out $work/want; then ok; else no "machines.c prints: $(cat $work/out $work/err)"; fi
}

# Python's ctypes
case_python() {
    if ! command -v python3 >/dev/null 2>&1; then echo "SKIP: complete.py (no python3)"; return; fi
    python3 tests/examples/complete.py "$PWD/$library" tests/tiny "There was once" >$work/out 2>&1
    ./llama tests/tiny "There was once" -n 24 --temp 0 >$work/want
    if [ "$(cat $work/out)" = "$(cat $work/want)" ]; then ok; else no "complete.py prints: $(cat $work/out)"; fi
}

for name in first generate machines python; do
    [ -z "$only" ] || [ "$only" = $name ] || continue
    echo "-- $name"
    case_$name
done
echo "--"
echo "examples: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
