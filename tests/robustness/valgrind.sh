#!/bin/sh
# valgrind.sh - the tests of the library under valgrind: no stray access, nothing unset is decided on, nothing is left.
# Kernels for AVX-512, which valgrind does not know, are left out: it shows programs a processor without it. Threads
# are ThreadSanitizer's.
#
#   valgrind.sh [TESTS]      all, or some of them: "api state"
command -v valgrind >/dev/null 2>&1 || { echo "SKIP: valgrind is not here"; exit 0; }
work=build/valgrind
mkdir -p $work
failed=0
tests=${1:-api texts guesses hostile formats state damage bits stream machines}
for test in $tests; do
    wraps=
    [ "$test" = stream ] && wraps=-Wl,--wrap=pread,--wrap=open,--wrap=pthread_create
    ${CC:-gcc} -std=c11 -g -O2 -pthread $wraps -o $work/$test "$(ls tests/unit/$test.c tests/robustness/$test.c 2>/dev/null)" llama.c tokenizer.c -lm || exit 1
done
run() { # NAME ARGUMENTS
    name=$1
    shift
    case " $tests " in *" $name "*) ;; *) return ;; esac
    if valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,possible \
        $work/"$name" "$@" >$work/"$name".log 2>&1; then
        echo "ok $name: $(tail -n 1 $work/"$name".log)"
    else
        failed=$((failed + 1))
        echo "FAILED $name:"
        grep -E '^==|FAIL' $work/"$name".log | head -n 20
    fi
}
run api tests/tiny
run texts tests/tiny
run guesses tests/tiny $work/work.guesses --quick --case verify
run hostile tests/tiny $work/work.hostile
run formats tests/tiny $work/work.formats
run state $work/work.state still # valgrind does not tell a handler of SIGBUS the address
run damage $work/work.damage
run bits tests/tiny tests/tiny/golden.json
run stream tests/tiny $work/work.stream --quick --case failing_reads,in_turn,no_memory
run machines $work/work.machines --quick --case gather_fails
[ $failed -eq 0 ]
