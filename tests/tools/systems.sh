#!/bin/sh
# systems.sh - builds for other systems and processors, and what of the suites can be run here. At the top of the tree.
#
#   systems.sh windows [MORE]   by MinGW-w64, run under wine: suites, the command, files
#   systems.sh static [MORE]    glibc's and musl's archives, without a shared library
#   systems.sh riscv64 [MORE]   run under qemu-user; so is: systems.sh aarch64
#   systems.sh macos            both architectures, compiled and linked by zig: ZIG=program
#   systems.sh freebsd          x86-64, compiled and linked by clang and lld: FREEBSD=folder, where a release's base.txz is unpacked
#   systems.sh packages         the same bytes from two folders; the tarball; BSD's make; make install
#
# MORE: `every` runs all suites that can run there, as short as in `make test`; `full` the same in full, which takes hours under qemu.
# The logits' SHA-256 is compared with that of this machine's build/tests/bits; aarch64's, by ../reference/one_answer.sh.
system=$1 more=$2
work=build/systems/$system
data=build/conformance-data/conformance family=$PWD/../shared/family # each optional
passed=0 failed=0
case $more in "" | every | full) ;; *) echo "neither every nor full: $more"; exit 2 ;; esac
[ "$more" = full ] && quick= || quick=--quick
[ "$more" ] && short= || short=yes # a few suites, a few cases
strict="-std=c11 -Wall -Wextra -Wpedantic -Werror"
rm -rf "$work"
mkdir -p "$work"

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }
same() { if cmp -s "$2" "$3"; then ok; else no "$1: $(cmp "$2" "$3" 2>&1)"; fi; }
have() { command -v "$1" >/dev/null 2>&1; }
end() { echo "$system: $passed passed, $failed failed"; [ $failed -eq 0 ]; exit; }
skip() { echo "SKIP: $1"; [ $((passed + failed)) -eq 0 ] && exit 77; end; }
quietly() { # NAME command...: succeeds, and says nothing
    name=$1
    shift
    if "$@" >$work/log 2>&1 && [ ! -s $work/log ]; then ok; else no "$name: $(head -n 3 $work/log)"; return 1; fi
}

# suite NAME ARGUMENTS...: $run $work/NAME has no failed check
suite() {
    name=$1
    shift
    $run $work/"$name$exe" "$@" >$work/"$name".log 2>&1 </dev/null
    code=$?
    counts=$(grep -a "^$name: [0-9]* passed, [0-9]* failed" $work/"$name".log | tail -n 1)
    if [ $code -eq 0 ] && [ -n "$counts" ]; then ok; else no "$name: exit $code: $(grep -a -m 3 '^FAIL' $work/"$name".log) $counts"; fi
    echo "$system, $counts"
    grep -a '^SKIP' $work/"$name".log | sort -u
}
# one_sha: bits, as it was compiled, says the SHA-256 that build/tests/bits says, of each of the models that are here
one_sha() {
    for model in tests/tiny tinyH/meta-f16-mp2 tinyB/meta-bf16-mp1 tinyE/meta-f32-mp1; do
        weights=${model#*/meta-} golden=$data/golden/${model%%/*}-${weights%%-*}/golden.json
        if [ $model = tests/tiny ]; then golden=$model/golden.json; else model=$data/ckpt/$model; fi
        [ -f "$golden" ] && [ -d $model ] || continue
        want=$(build/tests/bits $model "$golden" 2>&1 </dev/null | tail -n 1)
        got=$($run $work/bits$exe $model "$golden" 2>/dev/null </dev/null | tail -n 1 | tr -d '\r')
        echo "$system, $model: $got"
        if [ ${#got} -eq 64 ] && [ "$got" = "$want" ]; then ok; else no "$model: not $want"; fi
    done
}
source_of() { for f in tests/unit/"$1".c tests/robustness/"$1".c; do [ ! -f $f ] || echo $f; done; }
# The vectors of byte-level BPE, where they are here. Not every system has xz, so they are unpacked.
unpack_vectors() {
    mkdir -p $work/family
    [ -d "$family/tok" ] && have xz && mkdir -p $work/family/tok || return
    for file in "$family"/tok/*; do
        case $file in
        *.xz) xz -dc "$file" >$work/family/tok/"$(basename "$file" .xz)" ;;
        *) cp "$file" $work/family/tok/ ;;
        esac
    done
}
# suites NAMES: each with its arguments, in a folder of in_there
suites() {
    for name in $1; do
        case $name in
        math)
            suite math $quick
            [ ! "$more" ] || [ ! -f "$here/$data/rope_freqs.json" ] || suite math "$here/$data/rope_freqs.json" --case freqs
            [ ! "$more" ] || [ ! -f "$family/rope_freqs_scaled.json" ] || suite math --scaled "$family/rope_freqs_scaled.json" --case scaled_freqs
            ;;
        amx) suite amx $quick ;;
        state | damage) suite "$name" build/"$name" $quick ;;
        machines) suite machines build/machines $quick ${emulator:+--case -touched} ;;
        bpe)
            [ ! "$more" ] || unpack_vectors
            suite bpe build/bpe $work/family $quick ${short:+--case words,forms,special} ${emulator:+${more:+--case -time}}
            ;;
        bits) suite bits --self tests/tiny $quick ;;
        api | texts) suite "$name" tests/tiny $quick ;;
        threads) suite threads tests/tiny $quick ${emulator:+--case -child,child_opens,fork_in_call} ;;
        guesses) suite guesses tests/tiny build/guesses $quick ${short:+--case draw,verify,generate} ;;
        stream) suite stream tests/tiny build/stream $quick ${short:+--case failing_reads,odd_reads,no_threads,cancel} ${emulator:+--case -fork} ;;
        formats) suite formats tests/tiny build/formats $quick ${emulator:+--case -memory} ;;
        *) suite "$name" tests/tiny build/"$name" $quick ;;
        esac
    done
}
# in_there command...: in a folder with the tests, where suites may write to build/
in_there() {
    mkdir -p $work/there/build
    ln -sfn "$PWD/tests" $work/there/tests
    here=$PWD before=$work
    cd $work/there && work=$here/$work || exit
    "$@"
    cd "$here" && work=$before || exit
}
# compile SUITES, with $cc and $flags; those that include llama.c are not linked with it, and one looks for functions of a
# shared libc
compile() {
    for f in llama tokenizer main; do [ -f $work/$f.o ] || $cc $strict -O2 -c -o $work/$f.o $f.c & done
    wait
    $cc $link -o $work/llama$exe $work/llama.o $work/tokenizer.o $work/main.o -lm || no "the command is not compiled"
    for name in $1; do
        objects="$work/llama.o $work/tokenizer.o" define= how=$link
        case $name$exe in
        math* | amx*) objects= ;;
        guesses*) define=-DTEST_CLOCK ;;
        stream.exe) define=-DTEST_DISK ;;
        stream) how="$link -Wl,--wrap=pread,--wrap=open,--wrap=pthread_create" ;;
        threads) how= ;;
        esac
        $cc $flags $define -O1 $how -o $work/"$name$exe" "$(source_of "$name")" $objects $libraries -lm 2>$work/log ||
            no "$name is not compiled: $(grep -m 2 error $work/log)"
    done
}

windows() {
    export LC_ALL=C.UTF-8 # wine takes arguments and names of files as the locale says
    cc=x86_64-w64-mingw32-gcc exe=.exe run="timeout ${more:+3}600 wine" link=-static libraries=-lpthread
    have $cc && have wine || skip "no $cc or no wine"
    export WINEDEBUG=-all WINEPREFIX="$PWD/build/systems/prefix"
    mkdir -p "$WINEPREFIX"
    ! have wineserver || wineserver -p60 # it stays for a minute: a program starts in a quarter of the time
    mkdir -p $work/include/sys
    for header in sys/mman.h sys/resource.h sys/wait.h sys/syscall.h dlfcn.h; do : >$work/include/$header; done
    flags="-std=gnu11 -I$work/include -include tests/tools/windows.h -D_FILE_OFFSET_BITS=64 -w"
    rest="bpe stream${more:+ damage hostile}"
    echo "SKIP: machines (Windows has no fork and no socket pairs)"
    compile "bits math api texts threads state formats guesses amx $rest"
    $cc -O1 -static -o $work/launch.exe tests/cli/launch.c || no "launch.c is not compiled"
    wine $work/llama.exe --version >$work/version 2>&1 || skip "wine does not run a program: $(head -n 1 $work/version)"
    others=$($cc -static -o $work/x.exe $work/llama.o $work/tokenizer.o $work/main.o -lm && x86_64-w64-mingw32-objdump -p $work/x.exe |
        awk '/DLL Name/ { print $3 }' | grep -viE '^(kernel32|msvcrt|advapi32|shell32)\.dll$')
    if [ -z "$others" ]; then ok; else no "it needs DLLs that not every Windows has: $others"; fi
    one_sha
    in_there suites "math api texts threads state amx bits formats guesses $rest"
    windows_command
    for test in text seeds rejected batch json_times; do
        sh tests/cli/cli.sh "wine $work/llama.exe" tests/tiny build/tests/formats --case $test >$work/cli.log 2>&1
        if [ $? -eq 0 ]; then ok; else no "the command, case $test: $(grep -m 3 FAIL $work/cli.log)"; fi
    done
}

at() { echo "$(date +%T) $*"; } # wine waits for minutes at times: the log says where

# The command on Windows against the one here
windows_command() {
    at commands
    there="timeout -k 1 60 wine $work/llama.exe"
    printf 'The king\r\nand \303\274 \360\237\231\202\n\n' >$work/document
    printf 'The king\nGr\303\266\303\237e \360\237\231\202\n' >$work/lines
    for llama in ./llama "$there"; do
        side=here
        [ "$llama" = ./llama ] || side=there
        $llama tests/tiny --echo --temp 0 -n 24 <$work/document >$work/pipe.$side 2>&1 # in and out, with CR and LF
        $llama tests/tiny "Gr\303\266\303\237e: \346\250\241\345\236\213 *" --echo --temp 0 -n 8 >$work/utf8.$side 2>&1
        $llama tokenize tests/tiny "$(cat $work/document)" >$work/ids.$side 2>&1
        $llama tests/tiny "There was once" --temp 0 -n 40 --memory stream --memory-limit 24M >$work/stream.$side 2>&1
        $llama tests/tiny "There was" --lines -f $work/document >$work/refused.$side 2>&1
        $llama tests/tiny --lines -k 2 --memory stream --temp 0 -n 8 <$work/lines >$work/lines.$side 2>&1
        $llama trace tests/tiny "$(cat $work/lines)" --npy $work/arrays.$side >$work/trace.$side 2>&1
        cat $work/arrays.$side/*.npy >$work/npy.$side # bytes that a text file would change
        $llama $work/there/build/bpe/forms.gguf --echo --temp 1 -s 3 -n 60 <$work/lines >$work/bytes.$side 2>&1
        $llama tokenize $work/there/build/bpe/forms.gguf "$(cat $work/lines)" >$work/byte_ids.$side 2>&1
        $llama help all >$work/help.$side
    done
    for what in pipe utf8 ids stream refused lines trace npy bytes byte_ids help; do
        LC_ALL=C sed -i 's/wine client error:[0-9]*: $//' $work/$what.there # wine's own words, at times, as a program ends
        same "$what" $work/$what.here $work/$what.there
    done
    folder="$work/Mod\303\250le \346\250\241\345\236\213" # a path in UTF-8
    folder=$(printf "$folder")
    mkdir -p "$folder"
    cp tests/tiny/* "$folder/" 2>/dev/null
    $there "$folder" "The king" --temp 0 -n 8 --prompt-cache "$folder/state" >$work/path 2>&1
    ./llama tests/tiny "The king" --temp 0 -n 8 >$work/path.here
    same "a path in UTF-8" $work/path $work/path.here
    ./llama tests/tiny "The king" --temp 0 -n 8 --prompt-cache "$folder/state" --stats >$work/out 2>$work/err # the state it wrote
    if grep -q '^cache *[1-9]' $work/err; then ok; else no "its saved state is not used here: $(cat $work/err)"; fi
    $there "$(printf '%s' "$folder" | tr / '\\')\\" "The king" --temp 0 -n 8 >$work/path 2>&1
    same "a path with backslashes" $work/path $work/path.here

    # Paths of more than 260 characters, to \ and from \\?\ too; -f, --npy and --prompt-cache take them as well
    long=$folder/$(printf '%080d/%080d/%080d/%080d' 1 2 3 4)
    mkdir -p "$long"
    cp tests/tiny/* "$long/" 2>/dev/null
    printf 'The king' >"$long/prompt"
    $there "$long" -f "$long/prompt" --temp 0 -n 8 --prompt-cache "$long/state" >$work/path 2>&1
    same "a long path" $work/path $work/path.here
    if [ -s "$long/state" ]; then ok; else no "no state at a long path"; fi
    $there "\\\\?\\Z:$(cd "$long" && pwd | tr / '\\')" "The king" --temp 0 -n 8 >$work/path 2>&1
    same "a path with \\\\?\\" $work/path $work/path.here
    $there trace "$long" "The king" output --npy "$long/arrays" >$work/path 2>&1
    if [ -s "$long/arrays/output.npy" ]; then ok; else no "no array at a long path: $(cat $work/path)"; fi

    # Files that are damaged or no models: the same words and exit code. A text, an empty file, cuts, changed bytes
    file="$folder/consolidated.00.pth"
    size=$(wc -c <tests/tiny/consolidated.00.pth)
    for damage in text empty none 1 100 4000 $((size / 2)) $((size - 1)) flip:30 flip:200 flip:$((size - 30)) flip:$((size - 900)); do
        cp tests/tiny/consolidated.00.pth "$file"
        case $damage in
        text) echo "<html>not found</html>" >"$file" ;;
        empty) : >"$file" ;;
        none) rm -f "$file" ;;
        flip:*) printf '\377\377' | dd of="$file" bs=1 seek=${damage#flip:} conv=notrunc 2>/dev/null ;;
        *) truncate -s "$damage" "$file" ;;
        esac
        ./llama "$folder" x -n 1 >$work/here 2>&1 </dev/null; echo "exit $?" >>$work/here
        $there "$folder" x -n 1 >$work/there.txt 2>&1 </dev/null; echo "exit $?" >>$work/there.txt
        same "damaged: $damage" $work/here $work/there.txt
    done

    # Truncated while it is mapped, by a program that is not of Windows
    cp tests/tiny/consolidated.00.pth "$file"
    (sleep 1; truncate -s 40000 "$file") &
    $there "$folder" "There was" -c 2048 -n 2000 -k 20 --ignore-eos -s 1 >$work/out 2>$work/err </dev/null
    code=$?
    wait
    if [ $code -eq 3 ] && grep -q "was truncated" $work/err; then ok; else no "truncated: exit $code, $(cat $work/err)"; fi

    # Ctrl-C, which wine makes of SIGINT: the text so far, exit code 130
    timeout --preserve-status -s INT 1 wine $work/llama.exe tests/tiny "There was" -n 2000 -c 2048 --ignore-eos -s 1 >$work/out 2>$work/err </dev/null
    code=$?
    ./llama tests/tiny "There was" -n 2000 -c 2048 --ignore-eos -s 1 >$work/whole
    if [ $code -eq 130 ] && [ -s $work/out ] && head -c "$(wc -c <$work/out)" $work/whole | cmp -s - $work/out; then ok; else no "Ctrl-C: exit $code"; fi

    at killed
    # Killed while a prompt cache is replaced, it leaves the old one or the new one
    long=$(for i in $(seq 60); do printf 'The king had %d sons. ' "$i"; done)
    $there tests/tiny "$long" -n 1 -c 2048 --prompt-cache $work/cache >/dev/null 2>&1
    for i in 1 2 3 4 5 6 7 8; do
        timeout -s KILL "0.$((15 + 5 * i))" wine $work/llama.exe tests/tiny "$long number $i" -n 0 -c 2048 --prompt-cache $work/cache >/dev/null 2>&1 </dev/null
        if ./llama tests/tiny "$long" -n 1 -c 2048 --prompt-cache $work/cache >/dev/null 2>$work/err && [ ! -s $work/err ]; then ok; else no "killed $i: $(cat $work/err)"; fi
    done

    at an empty pipe
    # A pipe of Windows that gives nothing is not waited for
    $run $work/launch.exe 20000 $work/llama.exe tests/tiny "The king" --temp 0 -n 8 >$work/out 2>$work/err </dev/null
    same "beside an empty pipe" $work/out $work/path.here
    if grep -q "open pipe without a text" $work/err; then ok; else no "beside an empty pipe: $(cat $work/err)"; fi
    timeout -k 1 10 wine $work/llama.exe tests/tiny "The king" --temp 0 -n 2000 -c 2048 2>$work/err | head -c 10 >/dev/null # wine itself may hang then
    if [ ! -s $work/err ]; then ok; else no "nobody reads: $(cat $work/err)"; fi
    at the end
}

static() {
    for cc in gcc musl-gcc; do
        have $cc || { echo "SKIP: $cc is not here"; continue; }
        mkdir -p $work/$cc
        cp llama.h llama.c tokenizer.c main.c Makefile $work/$cc/
        if make -s -C $work/$cc static CC=$cc CFLAGS=-O2 >$work/log 2>&1 && ! grep -qi warning $work/log; then ok; else no "$cc: $(head -n 3 $work/log)"; continue; fi
        if readelf -ld $work/$cc/llama | grep -qE 'INTERP|NEEDED'; then no "$cc: it needs a shared library"; else ok; fi
        $work/$cc/llama tests/tiny "The old king" -n 60 -s 5 >$work/a
        ./llama tests/tiny "The old king" -n 60 -s 5 >$work/b
        same "$cc: its text" $work/a $work/b
    done
    have musl-gcc || skip "no musl-gcc"
    cp $work/musl-gcc/build/*.o $work/
    cc=musl-gcc exe= run= link=-static flags="-std=gnu11 -w" libraries=
    rest="threads bpe${more:+ stream machines formats guesses hostile damage}"
    compile "bits math api texts state $rest"
    one_sha
    in_there suites "math api texts state bits $rest"
}

# emulated PROCESSOR SUITES: glibc, under qemu-user. Its tables of mapped pages count as memory of the process, 77 MB for a file of
# 13 GB, and it refuses to map 27 GB. So formats' case memory and machines' case touched are left out, and bpe's case time, which has
# limits of seconds. qemu aborts a child of a process with threads ("cpu_exec: assertion failed"): so are the cases with such forks.
emulated() {
    cc=$1-linux-gnu-gcc exe= run="qemu-$1 -L /usr/$1-linux-gnu" link=-static flags="-std=gnu11 -w" libraries= emulator=qemu
    have $cc && have qemu-"$1" || skip "no $cc or no qemu-$1"
    [ ! "$more" ] || echo "SKIP: formats memory, machines touched, bpe time (they would measure the emulator); forks of threads and stream (it aborts)"
    compile "$2"
    case $2 in bits*) one_sha ;; esac
    if [ "$short" ]; then
        for name in $2; do
            case $name in
            bits) ;;
            api)
                cases=float_mode # the mode is each processor's own; the rest takes a minute with the plain kernels
                [ "$1" = riscv64 ] || cases=$cases,errors,golden,sequences,all_logits,score_batch,sampler
                in_there suite api tests/tiny $quick --case $cases
                ;;
            *) in_there suites "$name" ;;
            esac
        done
    else in_there suites "$2"; fi
}

app_c() { # a program of another author
    printf '#include <stdio.h>\n#include "llama.h"\nint main(void) { llama *m; llama_error e; return llama_open(&m, "x", NULL, &e) == LLAMA_OK ? 0 : puts(e.text); }\n' >$work/app.c
}

macos() {
    zig=${ZIG:-zig}
    have "$zig" || skip "no zig"
    app_c
    for target in aarch64-macos x86_64-macos; do
        quietly "$target: the command" "$zig" cc -target $target $strict -O0 -o $work/llama.$target llama.c main.c tokenizer.c
        quietly "$target: an app with two C files" "$zig" cc -target $target $strict -I. -O0 -o $work/app.$target $work/app.c llama.c tokenizer.c
        if od -An -tx4 -N4 $work/llama.$target | grep -q feedfacf; then ok; else no "$target: it is no program of macOS"; fi
    done
}

freebsd() {
    clang=${CLANG:-clang}
    have "$clang" && have ld.lld || skip "no clang or no lld"
    [ -f "${FREEBSD:-}/usr/include/osreldate.h" ] || skip "no headers and libraries of FreeBSD (FREEBSD=folder)"
    app_c
    for app in main.c $work/app.c; do
        program=$work/$(basename $app .c)
        quietly "$app" "$clang" --target=x86_64-unknown-freebsd13 --sysroot="$FREEBSD" -fuse-ld=lld $strict -pthread -I. -O1 -o $program $app llama.c tokenizer.c -lm
        if [ "$(od -An -tu1 -j7 -N1 $program | tr -d ' ')" = 9 ]; then ok; else no "$app: it is no program of FreeBSD"; fi
    done
}

packages() {
    for folder in one "another folder"; do # the same commit, compiled and packed in two folders
        mkdir -p "$work/$folder"
        cp llama.h llama.c tokenizer.c main.c Makefile "$work/$folder/"
        make -s -C "$work/$folder" CFLAGS="-O1 -g1" >$work/log 2>&1 || no "$folder: $(head -n 3 $work/log)"
    done
    same "./llama from two folders" $work/one/llama "$work/another folder/llama"
    if [ "$(tail -n 1 $work/log | cut -c 1-15)" = "built ./llama f" ]; then ok; else no "make does not say what it builds: $(tail -n 1 $work/log)"; fi
    if git rev-parse HEAD >/dev/null 2>&1; then
        for epoch in "" 1700000000; do
            for clone in a b; do
                rm -rf $work/$clone
                git clone -q . $work/$clone
                SOURCE_DATE_EPOCH=$epoch make -s -C $work/$clone dist >$work/log 2>&1 || no "make dist: $(head -n 3 $work/log)"
                [ $clone = b ] || sleep 1.1 # a time that is in the file would differ
            done
            same "the tarball, SOURCE_DATE_EPOCH=$epoch" $work/a/build/llama.c-*.tar.gz $work/b/build/llama.c-*.tar.gz
        done
        if tar -tvzf $work/a/build/llama.c-*.tar.gz 2>/dev/null | grep -q '2023-11-14.*/llama.c$'; then ok; else no "the time of SOURCE_DATE_EPOCH"; fi
    else
        echo "SKIP: the tarball (this is no clone)"
    fi
    # install of BSD and macOS takes -d, -m and one file a call: so does ours
    mkdir -p $work/bin
    printf '#!/bin/sh\ncase "$*" in -d\\ * | "-m "[0-9]*) ;; *) echo "install: $*" >&2; exit 64 ;; esac\n[ "$1" = -d ] || [ $# -eq 4 ] || exit 64\nexec /usr/bin/install "$@"\n' >$work/bin/install
    chmod +x $work/bin/install
    make -s llama >$work/log 2>&1 # which says what it builds
    quietly "make install with another install" env PATH="$PWD/$work/bin:$PATH" make -s install DESTDIR="$PWD/$work/place"
}

exe= emulator=
case $system in
windows) windows ;;
static) static ;;
aarch64) emulated aarch64 "${more:+bits }api guesses${more:+ math texts bpe threads state stream machines formats}" ;;
riscv64) emulated riscv64 "bits math api${more:+ texts guesses bpe threads state stream machines formats}" ;;
macos) macos ;;
freebsd) freebsd ;;
packages) packages ;;
*) echo "no such system: $system"; exit 2 ;;
esac
end
