#!/bin/sh
# test_build.sh - every way to build it: the header's own example in C99, the header in C++, no OpenMP, one
# file, no flags, what the objects refer to.
work=build/builds
passed=0 failed=0
rm -rf $work
mkdir -p $work/LLaMA
ln -s ../../../tests/tiny $work/LLaMA/7B

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }
strict="-Wall -Wextra -Wpedantic -Werror"

# quietly NAME command...: succeeds, and says nothing
quietly() {
    name=$1
    shift
    if "$@" >$work/log 2>&1 && [ ! -s $work/log ]; then ok; else no "$name: $(head -5 $work/log)"; fi
}

# The program on the first screen of llama.h: from its #include to its closing brace
awk '/^ \*     #include <stdio.h>/ { on = 1 }
     on { end = /^ \*     }$/; sub(/^ \*     /, ""); sub(/^ \*$/, ""); print; if (end) exit }' llama.h >$work/example.c
story() { (cd $work && "./$1") >$work/story 2>&1 && [ "$(wc -c <$work/story)" -gt 100 ]; }
for cc in cc clang; do
    command -v $cc >/dev/null 2>&1 || { echo "SKIP: $cc is not here"; continue; }
    quietly "$cc, with no flags" $cc -I. -o $work/plain_$cc $work/example.c llama.c tokenizer.c -lm
    if story plain_$cc; then ok; else no "the example of $cc says: $(head -c 200 $work/story)"; fi
    cp $work/story $work/story_$cc
    quietly "$cc: the example is C99" $cc -std=c99 $strict -I. -c -o $work/example.o $work/example.c
    quietly "$cc: strict C11" $cc -std=c11 $strict -O1 -c -o $work/strict.o llama.c
    quietly "$cc: strict C11" $cc -std=c11 $strict -O1 -c -o $work/strict.o tokenizer.c
    quietly "$cc: strict C11" $cc -std=c11 $strict -O1 -c -o $work/strict.o main.c
    printf '#define LLAMA_STATIC\n#include "llama.c"\n#include "tokenizer.c"\n' | cat - $work/example.c >$work/single.c
    quietly "$cc: one file" $cc -std=c11 $strict -O1 -I. -o $work/single_$cc $work/single.c -lm
    if story single_$cc && cmp -s $work/story $work/story_$cc; then ok; else no "$cc: one file tells another story"; fi
done
sed -n '/^```c$/,/^```$/p' README.md | grep -v '^```' >$work/readme.c
quietly "the README's program" ${CC:-cc} -std=c11 $strict -I. -o $work/readme $work/readme.c llama.c tokenizer.c -lm
(cd $work && ./readme) >$work/log 2>&1
if [ "$(wc -l <$work/log)" -eq 3 ]; then ok; else no "the README's program says: $(head -3 $work/log)"; fi
for cxx in g++ clang++; do
    command -v $cxx >/dev/null 2>&1 || { echo "SKIP: $cxx is not here"; continue; }
    printf '#include "llama.h"\nint main() { llama_close(nullptr); return llama_release() != LLAMA_RELEASE; }\n' >$work/cxx.cpp
    quietly "$cxx: the header" $cxx -std=c++11 $strict -I. -c -o $work/cxx.o $work/cxx.cpp
done
quietly "OPENMP=0" ${CC:-cc} -std=c11 $strict -O2 -o $work/serial llama.c tokenizer.c main.c -lm
./llama tests/tiny "The king" -n 40 -s 1 >$work/a
$work/serial tests/tiny "The king" -n 40 -s 1 >$work/b
if cmp -s $work/a $work/b; then ok; else no "OPENMP=0 tells another story"; fi
if ${CC:-cc} -ffast-math -c -o $work/fast.o llama.c >$work/log 2>&1; then no "-ffast-math is let pass"; else ok; fi

# What the objects may refer to and hold: nothing that prints or exits, no writable data, no other names
for object in llama tokenizer; do
    bad=$(nm -u build/$object.o | awk '{ print $NF }' | grep -E \
        '^(exit|_exit|_Exit|quick_exit|abort|atexit|__assert.*|v?f?printf|puts|putchar|fputs|fputc|putc|fwrite|perror|signal|sigaction|raise|kill|setlocale|getenv|setenv|strtod|strtof|atof|rand|srand|time|localtime|strtok|sprintf|strcpy|strcat|gets|stdout|stderr|stdin|exp|expf|log|logf|pow|powf|sin|sinf|cos|cosf|sincosf?|tanhf?)(@.*)?$')
    if [ -z "$bad" ]; then ok; else no "$object.o refers to" $bad; fi
    bytes=$(size -A build/$object.o | awk '$1 ~ /^\.(data|bss)$/ { n += $2 } END { print n + 0 }')
    if [ "$bytes" -eq 0 ]; then ok; else no "$object.o holds $bytes bytes of writable data"; fi
    names=$(nm -g --defined-only build/$object.o | awk '{ print $3 }' | grep -vE '^llamac?_')
    if [ -z "$names" ]; then ok; else no "$object.o defines" $names; fi
done
declared=$(grep -c '^LLAMA_API' llama.h)
defined=$(nm -g --defined-only build/llama.o build/tokenizer.o | grep -c ' T llama_')
if [ "$declared" -eq "$defined" ]; then ok; else no "$declared functions are declared, $defined defined"; fi

echo "build: $passed passed, $failed failed"
[ $failed -eq 0 ]
