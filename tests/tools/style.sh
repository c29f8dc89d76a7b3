#!/bin/sh
# style.sh - what each file may hold and call, and how the source is formatted. At the top of the tree, after make.
#
#   style.sh [--case NAME]
passed=0 failed=0
work=build/work/style
[ "${1:-}" != ./llama ] || shift # the runner names what has to be built
only=${2:-}
sources="llama.h llama.c tokenizer.c main.c"
mkdir -p $work
[ -f build/main.o ] && [ -f build/llama.o ] && [ -f build/tokenizer.o ] || { echo "make comes first"; exit 1; }

# none WHAT LINES: the lines are findings, of which there should be none
none() {
    if [ -z "$2" ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAIL: $1: $(echo "$2" | wc -l) findings"
    echo "$2" | head -n 10 | sed 's/^/    /'
}

# What the rest of llama.c, main.c and tokenizer.c may call: functions of C that only compute; main.c also those of files
pure='__.*|mem(chr|cmp|cpy|move|set)|str(chr|cmp|cspn|error|len|ncat|ncmp|pbrk|rchr|spn|str|casecmp|to(d|l|ll|ull))|v?snprintf|to(low|upp)er|qsort|bsearch|sqrtf?|fmaf?|exp|floor|fmin'
streams="std(in|out|err)|f(close|eof|error|flush|printf|putc|puts|read|write)|getc|putc|putchar|puts|printf|clearerr|setvbuf"
streams="$streams|exit|calloc|free|time"

# Windows' and macOS's functions that belong into the platform sections, and others that a glance should find at once
calls='open|openat|read|pread|write|close|mmap|munmap|madvise|posix_madvise|mincore|mlock|munlock|stat|fstat|lstat|access|sysconf|syscall|getpid|rename'
calls="$calls|unlink|fsync|realpath|readlink|getrlimit|clock_gettime|fchmod|poll|fork|sched_[a-z_]+|pthread_[a-z_]+|opendir|readdir|getauxval"
calls="$calls|isatty|ioctl|tc[gs]etattr|tcgetpgrp|getpgrp|sigaction|sigfillset|raise|kill|setitimer|nanosleep|getentropy|getenv|sysctl(byname)?"
calls="$calls|aligned_alloc|sysinfo|mach_[a-z_]+|host_[a-z0-9_]+|fcntl|posix_[a-z_]+|_exit|_[a-z]+setmode|_w[a-z]+|[A-Z][a-z]+([A-Z][A-Za-z0-9]*)+"
files="fopen|fread|fwrite|fclose" # which main.c may call: stdout is one

# code FILE: the file without comments and strings, line by line
code() {
    awk '{ line = $0; out = ""
           while (line != "") {
               if (inside) { i = index(line, "*/"); if (!i) { line = ""; break } line = substr(line, i + 2); inside = 0; continue }
               if (match(line, /"([^"\\]|\\.)*"|\/\*|\/\//) == 0) { out = out line; break }
               out = out substr(line, 1, RSTART - 1)
               if (substr(line, RSTART, 2) == "//") break
               if (substr(line, RSTART, 2) == "/*") { inside = 1; line = substr(line, RSTART + 2) }
               else { out = out "\"\""; line = substr(line, RSTART + RLENGTH) }
           }
           print out }' "$1"
}

# Calls of these functions in stdin, as "LINE: text". Fields and names such as llama_open and u->open are other names.
system_calls() { grep -nE "(^|[^A-Za-z0-9_.>])($1) ?\("; }

# Headers that only some systems have, and questions which system it is
system_parts() {
    grep -nE '^ *#.*(_WIN32|_WIN64|__MINGW|__linux|__APPLE__|__unix|__FreeBSD|__GLIBC__|__ANDROID__|<(sys/|mach/|windows|unistd|fcntl|poll|pthread|sched|dirent|termios|io\.h))'
}

# named FILE ALLOWED: where FILE names, outside its platform sections, a function of libc that its object refers to and that
# is not allowed: called, as a pointer or by a macro, which the preprocessor has replaced
named() {
    others=$(nm -u build/"${1%.c}".o | awk '{ print $NF }' | grep -vxE "llamac?_.*|$2" | tr '\n' '|')
    ${CC:-cc} -std=c11 -E "$1" | awk -v file="\"$1\"" '
        FNR == NR { if (/^\/\* (----|====)/) platform = /Platform/; outside[FNR] = !platform; next }
        /^# [0-9]+ "/ { line = $2 - 1; here = $3 == file; next }
        { line++; if (here && outside[line]) print line ": " $0 }' "$1" - | sed -E 's/"([^"\\]|\\.)*"/""/g; s/__builtin_//g' |
        grep -E "(^|[^A-Za-z0-9_.>])(${others}dlsym)([^A-Za-z0-9_]|$)" | sort -u
}

# A file without its platform sections. Each begins at a banner with the word Platform and ends at the next banner.
# Line numbers stay.
outside_platform() {
    awk '/^\/\* (----|====)/ { platform = /Platform/ } { print platform ? "" : $0 }' "$1" >$work/outside.c
    code $work/outside.c
}

case_header() { # a declaration ends in ";", a body begins with "{" after the ")" of a function's head
    none "function bodies in llama.h" "$(code llama.h | grep -nE '\) *\{')"
}
case_tokenizer() { # nothing of ours is needed by the tokenizer's object
    none "names of ours that tokenizer.o refers to" "$(nm -u build/tokenizer.o | awk '{ print $NF }' | grep -E '^llama')"
}
case_system() {
    none "system calls in llama.c outside its sections Platform" "$(outside_platform llama.c | system_calls "$calls|$files")"
    none "system calls in main.c outside its sections Platform" "$(outside_platform main.c | system_calls "$calls")"
    none "system calls in tokenizer.c" "$(code tokenizer.c | system_calls "$calls|$files")"
    none "functions of the system named in llama.c outside its sections Platform" "$(named llama.c "$pure")"
    none "functions of the system named in main.c outside its sections Platform" "$(named main.c "$pure|$streams")"
    none "functions of the system named in tokenizer.c" "$(named tokenizer.c "$pure")"
    none "system calls by the processor's own instruction" "$(grep -nE 'asm.*"(syscall|sysenter|svc|ecall|int )' $sources)"
    for file in llama.c main.c tokenizer.c llama.h; do
        none "parts of $file that are a system's, outside its sections Platform" "$(outside_platform $file | system_parts)"
    done
    for file in llama.c:2 main.c:3 tokenizer.c:0; do # headers, then the rest; main.c: the list, bodies, MPI
        places=$(grep -E '^/\* (----|====)' ${file%:*} | awk '/Platform/ { n += !before } { before = /Platform/ } END { print n + 0 }')
        none "${file%:*} with sections Platform in more places" "$([ "$places" -le ${file#*:} ] || echo "$places")"
    done
    none "llama.c without a list of the platform's functions" "$(grep -qx '/\* ---- Platform: what the library needs from the operating system and the processor ---- \*/' llama.c || echo none)"
    none "main.c without a list of the platform's functions" "$(grep -qx '/\* ---- Platform: what the command needs from the operating system ---- \*/' main.c || echo none)"
}
case_globals() {
    none "writable globals" "$(grep -nE '^(static )?(int|char|float|double|size_t|bool|uint[0-9]+_t|void|struct [a-z_]+|[a-z_]+) \**[a-z_]+(\[.*\])?( =.*)?;' llama.c tokenizer.c)"
}
case_names() { # no public name is one of llama.cpp's
    { nm -g --defined-only build/llama.o build/tokenizer.o | awk 'NF == 3 { print $3 }'
      code llama.h | grep -oE '\bllama_[a-z0-9_]+'; } | sort -u >$work/names
    grep -v '^#' tests/tools/llama_cpp_names.txt | sort -u >$work/theirs
    none "public names that are llama.cpp's" "$(comm -12 $work/names $work/theirs)"
}
case_macros() {
    count=$(outside_platform llama.c | grep -cE '^#define [A-Za-z_]+\(')
    none "more than 8 function-like macros in llama.c" "$([ "$count" -le 8 ] || echo "$count")"
}
case_top() { # the files at the top of the tree
    none "things at the top" "$(git ls-files 2>/dev/null | cut -d/ -f1 | sort -u | grep -vxE 'llama\.h|llama\.c|main\.c|tokenizer\.c|Makefile|tests|README\.md|LICENSE|\..*')"
}
case_format() {
    none "tabs and trailing spaces" "$(grep -nE '	| $' $sources)"
    if ! command -v clang-format >/dev/null 2>&1; then echo "SKIP: clang-format is not here"; return; fi
    none "files that clang-format would change" "$(for f in $sources; do clang-format "$f" | cmp -s - "$f" || echo "$f"; done)"
}

case_unicode() { # the table of letters and numbers, against Python's
    if ! command -v python3 >/dev/null 2>&1; then echo "SKIP: python3 is not here"; return; fi
    none "code points of another class in tokenizer.c's table" "$(python3 tests/tools/unicode_classes.py --check || echo failed)"
}

for name in header tokenizer system globals names macros top format unicode; do
    [ -z "$only" ] || [ "$only" = $name ] || continue
    echo "-- $name"
    case_$name
done
echo "--"
echo "style: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
