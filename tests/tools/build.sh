#!/bin/sh
# build.sh - every way to build it: the header's own example in C99, the header in C++, OpenMP, one
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
    quietly "$cc: strict C11" $cc -std=c11 $strict -c -o $work/strict.o llama.c
    quietly "$cc: strict C11" $cc -std=c11 $strict -c -o $work/strict.o tokenizer.c
    quietly "$cc: strict C11" $cc -std=c11 $strict -c -o $work/strict.o main.c
    for file in llama tokenizer main; do quietly "$cc: $file.c as C99" $cc -std=c99 -Wall -Wextra -c -o $work/c99.o $file.c; done
    printf '#define LLAMA_STATIC\n#include "llama.c"\n#include "tokenizer.c"\n' | cat - $work/example.c >$work/single.c
    quietly "$cc: one file" $cc -std=c11 $strict -I. -o $work/single_$cc $work/single.c -lm
    if story single_$cc && cmp -s $work/story $work/story_$cc; then ok; else no "$cc: one file tells another story"; fi
    printf '#include <stdio.h>\n' | cat - $work/single.c >$work/late.c
    quietly "$cc: one file, other headers first" $cc -Wall -Wextra -Werror -I. -o $work/late_$cc $work/late.c -lm
    if story late_$cc && cmp -s $work/story $work/story_$cc; then ok; else no "$cc: another story with other headers first"; fi
    if $cc -std=c11 -I. -c -o $work/late.o $work/late.c >$work/log 2>&1; then no "$cc: features that are missing"; fi
    if grep -q "error.*before any other header" $work/log; then ok; else no "$cc: why not: $(head -3 $work/log)"; fi
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
# Beside llama.cpp's header, which is guarded by LLAMA_H, and after which no macro of ours is left
printf '#define LLAMA_H\n#define LLAMA_SHARED\n#define LLAMA_API x\n#include "llama.h"\nint (*close)(llama *) = 0; int n = LLAMA_EFULL;\n' >$work/guard.c
quietly "the header after llama.cpp's" ${CC:-cc} -std=c11 $strict -I. -c -o $work/guard.o $work/guard.c
printf '#include "llama.c"\n#include "tokenizer.c"\n#if defined(INLINE) || defined(FN) || defined(TEXT) || defined(UNROLL) || defined(AMX) || defined(TARGET) || defined(ISA) || defined(VEC)\n#error "a macro is left"\n#endif\n' >$work/left.c
quietly "macros after llama.c" ${CC:-cc} -fsyntax-only -I. $work/left.c
plain="$work/plain_llama.o $work/plain_tokenizer.o"
for file in llama tokenizer; do quietly "$file.c without flags" ${CC:-cc} -c -o $work/plain_$file.o $file.c; done
quietly "without flags" ${CC:-cc} -o $work/plain $plain main.c -lm
if printf 'int main(void) { return 0; }\n' | ${CC:-cc} -fopenmp -xc -o $work/omp - >/dev/null 2>&1; then
    quietly "OPENMP=1" ${CC:-cc} -std=c11 $strict -fopenmp -DLLAMA_OPENMP -o $work/openmp llama.c tokenizer.c main.c -lm
else
    echo "SKIP: OPENMP=1 (the compiler has none)"
    cp $work/plain $work/openmp
fi
ar rcs $work/plain.a $plain
quietly "an archive and -lm alone" ${CC:-cc} -I. -o $work/lm $work/example.c $work/plain.a -lm
./llama tests/tiny "The king" -n 40 -s 1 >$work/a
for program in plain openmp; do
    $work/$program tests/tiny "The king" -n 40 -s 1 >$work/b
    if cmp -s $work/a $work/b; then ok; else no "$program tells another story"; fi
    if $work/$program tests/tiny x -n 1 -t 4 --stats 2>&1 | grep -q "^kernels .*, 4 threads$"; then ok; else no "$program: no threads"; fi
done
if ${CC:-cc} -ffast-math -c -o $work/fast.o llama.c >$work/log 2>&1; then no "-ffast-math is let pass"; else ok; fi

# Machines, compilers and languages it is not for: 32 bits, big-endian, tcc, C++, C89; each gets the reason as its first message
mkdir -p $work/gnu
touch $work/gnu/stubs-x32.h
refused() { # WORDS flags...
    words=$1
    shift
    if ${CC:-cc} -fsyntax-only -I$work "$@" llama.c >$work/log 2>&1; then no "$* compiles"; fi
    if grep -q "error.*$words" $work/log; then ok; else no "$*: $(head -3 $work/log)"; fi
}
refused_first() { # the same, and the first error says so
    refused "$@"
    if grep -m 1 error $work/log | grep -q "$1"; then ok; else no "$*, at first: $(grep -m 1 error $work/log)"; fi
}
refused_first "little-endian" -std=c11 -U__BYTE_ORDER__ -D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__ -U__FLT_EVAL_METHOD__ -D__FLT_EVAL_METHOD__=1
refused_first "compile it with -std=c11" -std=c89
if command -v g++ >/dev/null 2>&1; then refused_first "compile it as C11" -x c++; fi
if command -v tcc >/dev/null 2>&1; then
    if tcc -c -o $work/tcc.o llama.c >$work/log 2>&1; then no "tcc compiles llama.c"; fi
    if head -n 1 $work/log | grep -q "needs gcc or clang"; then ok; else no "tcc says: $(head -3 $work/log)"; fi
    for file in $work/example.c main.c; do # which need llama.h alone
        if tcc -I. -c -o $work/tcc.o $file >$work/log 2>&1; then ok; else no "tcc: $file: $(head -3 $work/log)"; fi
    done
else
    echo "SKIP: tcc is not here"
fi
if command -v bmake >/dev/null 2>&1; then
    if bmake -n >$work/log 2>&1; then no "bmake makes something"; fi
    if head -n 1 $work/log | grep -q "needs GNU make"; then ok; else no "bmake says: $(head -3 $work/log)"; fi
else
    echo "SKIP: bmake is not here"
fi
if ! ${CC:-cc} --version | grep -q clang; then # which does not tell of these
    refused "fast-math" -fassociative-math -fno-signed-zeros -fno-trapping-math
    refused "fast-math" -freciprocal-math
    refused "single-precision-constant" -fsingle-precision-constant
fi
if [ "$(uname -m)" = x86_64 ]; then refused "64-bit machine" -m32; fi

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
declared=$(grep -c '^LLAMAC_API' llama.h)
defined=$(nm -g --defined-only build/llama.o build/tokenizer.o | grep -c ' T llama_')
if [ "$declared" -eq "$defined" ]; then ok; else no "$declared functions are declared, $defined defined"; fi

# ---- Installed ----

# Somewhere, then used from there through pkg-config, in C and C++, shared and static
place=$PWD/$work/place
tree() { (cd "$place" && find . ! -type d | LC_ALL=C sort | tr '\n' ' '); }
quietly "make install" make -s install DESTDIR="$place" PREFIX=/opt
want="./opt/bin/llama ./opt/include/llamac/llama.h ./opt/lib/libllamac.a ./opt/lib/libllamac.so ./opt/lib/libllamac.so.0 ./opt/lib/pkgconfig/llamac.pc ./opt/share/man/man1/llama.1 "
if [ "$(tree)" = "$want" ]; then ok; else no "make install: $(tree)"; fi
if cmp -s llama.h "$place/opt/include/llamac/llama.h"; then ok; else no "the installed header is not llama.h"; fi
if (cd $work && "$place/opt/bin/llama" info LLaMA/7B) | grep -q 2164416; then ok; else no "the installed command"; fi
if command -v pkg-config >/dev/null 2>&1; then
    sed 's/"llama.h"/<llamac\/llama.h>/' $work/example.c >$work/installed.c
    pc() { PKG_CONFIG_PATH="$place/opt/lib/pkgconfig" pkg-config --define-variable=prefix="$place/opt" "$@" llamac; }
    quietly "pkg-config: C" ${CC:-cc} -std=c11 $strict $(pc --cflags) -o $work/by_shared $work/example.c $(pc --libs)
    quietly "pkg-config: C, static" ${CC:-cc} -std=c11 $strict $(pc --cflags) -o $work/by_static $work/installed.c \
        "$place/opt/lib/libllamac.a" $(pc --libs --static | sed 's/-lllamac//')
    for program in by_shared by_static; do
        if LD_LIBRARY_PATH="$place/opt/lib" story $program && cmp -s $work/story $work/story_cc; then ok; else no "$program: $(head -c 200 $work/story)"; fi
    done
    if [ "$(PKG_CONFIG_PATH="$place/opt/lib/pkgconfig" pkg-config --variable=prefix llamac)" = /opt ]; then ok; else no "llamac.pc has no prefix"; fi
    printf '#include <math.h>\nint main(int n, char **a) { (void)a; return (int)sqrt(n - 1); }\n' >$work/nothing.c
    if ${CC:-cc} -static -pthread -o $work/nothing $work/nothing.c -lm >/dev/null 2>&1; then
        if ${CC:-cc} -static -std=c11 $strict $(pc --cflags) -o $work/all_static $work/example.c $(pc --libs --static) >$work/log 2>&1; then ok; else no "all static: $(head -3 $work/log)"; fi
        if story all_static && cmp -s $work/story $work/story_cc; then ok; else no "all static: $(head -c 200 $work/story)"; fi
    else
        echo "SKIP: a program without shared libraries (they are not here as archives)"
    fi
    quietly "make install with LIBDIR" make -s install DESTDIR="$place.lib" PREFIX=/opt LIBDIR=/opt/lib64 INCLUDEDIR=/usr/include
    if grep -q '^libdir=${prefix}/lib64$' "$place.lib/opt/lib64/pkgconfig/llamac.pc" &&
        grep -q '^includedir=/usr/include$' "$place.lib/opt/lib64/pkgconfig/llamac.pc"; then ok; else no "llamac.pc with LIBDIR and INCLUDEDIR"; fi
    if [ "$(pc --modversion)" = "$(./llama --version | awk '{ print $2 }')" ]; then ok; else no "llamac.pc says $(pc --modversion)"; fi
    if command -v g++ >/dev/null 2>&1; then
        quietly "pkg-config: C++" g++ -std=c++11 $strict $(pc --cflags) -o $work/by_cxx $work/cxx.cpp $(pc --libs)
        if LD_LIBRARY_PATH="$place/opt/lib" $work/by_cxx; then ok; else no "the program in C++"; fi
    fi
else
    echo "SKIP: programs by pkg-config (it is not here)"
fi
exported=$(nm -D --defined-only "$place/opt/lib/libllamac.so" | grep -c ' T llama_')
others=$(nm -D --defined-only "$place/opt/lib/libllamac.so" | awk '{ print $3 }' | grep -v '^llama_')
if [ "$exported" -eq "$declared" ] && [ -z "$others" ]; then ok; else no "libllamac.so exports $exported of $declared, and" $others; fi
quietly "make uninstall" make -s uninstall DESTDIR="$place" PREFIX=/opt
if [ -z "$(tree)" ]; then ok; else no "make uninstall leaves $(tree)"; fi

# In one program with llama.cpp: stubs of the names it exports that are nearest to ours
names="llama_batch_init llama_batch_get_one llama_decode llama_detokenize llama_encode llama_free llama_free_model
    llama_get_logits llama_init_from_model llama_load_model_from_file llama_log_set llama_model_free llama_model_load_from_file
    llama_n_ctx llama_n_vocab llama_new_context_with_model llama_perf_print llama_print_system_info llama_sampler_init
    llama_sampler_sample llama_state_load_file llama_state_save_file llama_synchronize llama_time_us llama_token_bos
    llama_token_eos llama_token_get_text llama_token_to_piece llama_tokenize llama_vocab_bos llama_vocab_eos"
for name in $names; do echo "int $name(void); int $name(void) { return 1; }"; done >$work/peer.c
quietly "beside llama.cpp's names" ${CC:-cc} -std=c11 $strict -I. -o $work/beside $work/example.c $work/peer.c $plain -lm
if story beside && cmp -s $work/story $work/story_cc; then ok; else no "beside llama.cpp: $(head -c 200 $work/story)"; fi

echo "build: $passed passed, $failed failed"
[ $failed -eq 0 ]
