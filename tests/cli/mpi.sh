#!/bin/sh
# mpi.sh - llama-mpi: the stdout of any number of ranks is that of the command, and a rank that differs, fails or dies ends
# them all. With OpenMPI and MPICH, as far as they are here.
#
#   mpi.sh LLAMA MODEL MACHINES [--quick] [--case NAME]     MACHINES: the program build/tests/machines, which writes models
#
# KILLS=100 MPI="openmpi mpich": how many ranks are killed with each; which of them
llama=$1 model=$2 machines=$3
shift 3
quick= only=
while [ $# -gt 0 ]; do
    case $1 in --quick) quick=1 ;; --case) only=$2; shift ;; esac
    shift
done
work=$PWD/build/work/mpi
kills=${KILLS:-${quick:+2}}
kills=${kills:-20}
passed=0 failed=0
rm -rf "$work"
mkdir -p "$work/other"
unset LLAMA_MODEL
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }
same() { if cmp -s "$2" "$3"; then ok; else no "$1: $(cmp "$2" "$3" 2>&1 | head -n 1); $(head -c 200 "$work/err")"; fi; }
holds() { name=$1; shift; if "$@" >/dev/null 2>&1; then ok; else no "$name"; fi; }

# ---- Programs ----

installed=
for mpi in ${MPI:-openmpi mpich}; do
    if command -v mpicc.$mpi >/dev/null 2>&1 && command -v mpirun.$mpi >/dev/null 2>&1; then installed="$installed $mpi"
    else echo "SKIP: $mpi (no mpicc.$mpi or mpirun.$mpi)"; fi
done
[ -n "$installed" ] || exit 0

flags="-std=c11 -pthread -Wall -Wextra -Wpedantic -Werror -O0 -DLLAMA_MPI"
for mpi in $installed; do
    mpicc.$mpi $flags -o "$work/llama-$mpi" main.c build/llama.o build/tokenizer.o -lm >"$work/log" 2>&1 || no "mpicc.$mpi: $(head -n 5 "$work/log")"
done

# What each rank runs: it notes its process, and rank $ODD may run another program in another folder, with one more option
cat >"$work/rank" <<'END'
#!/bin/sh
rank=${OMPI_COMM_WORLD_RANK:-$PMI_RANK}
[ -z "$PIDS" ] || echo $$ >"$PIDS.$rank"
if [ "$rank" = "${ODD:-none}" ]; then
    [ -z "$ODD_FOLDER" ] || cd "$ODD_FOLDER" || exit
    exec ${ODD_PROGRAM:-$PROGRAM} "$@" $ODD_OPTION
fi
exec $PROGRAM "$@"
END
chmod +x "$work/rank"

# ranks N arguments...: llama-mpi as N ranks of one thread; its exit code, stdout in $work/out, stderr in $work/err
ranks() {
    n=$1
    shift
    start=$(date +%s)
    PROGRAM=$work/llama-$mpi timeout -k 5 120 mpirun.$mpi -np "$n" "$work/rank" "$@" >"$work/out" 2>"$work/err"
    code=$?
    took=$(($(date +%s) - start))
    return $code
}

prompt="There was once a poor woodcutter"
printf 'There was once\nThe king\nA wolf came out of the wood and said\n' >"$work/lines"
head -n 6 tests/tiny/items.tsv >"$work/items"
head -c 700 tests/tiny/README.md >"$work/prose"
# Times, and passes, which depend on times
no_times() { sed -E 's/, "(first_token_seconds|seconds|passes|drafted|accepted|tokens_per_pass)": [0-9.]+//g' "$1"; }

# compare N arguments...: the command's stdout and that of N ranks
compare() {
    n=$1
    shift
    key=$(printf '%s' "$*" | cksum | tr ' ' -)
    [ -e "$work/want.$key" ] || { $llama "$@" </dev/null >"$work/plain" 2>/dev/null; no_times "$work/plain" >"$work/want.$key"; }
    case $1 in check | tokenize) ;; *) set -- "$@" -t 1 ;; esac
    ranks "$n" "$@" </dev/null
    no_times "$work/out" >"$work/got"
    same "$mpi, $n ranks: $*" "$work/got" "$work/want.$key"
    holds "$mpi: something is printed: $*" test -s "$work/want.$key"
}

# ---- Cases ----

case_built() { # make mpi works, and without it nothing of MPI is in the command
    holds "make mpi" ${MAKE:-make} -s mpi MPICC="mpicc.${installed##* }"
    holds "llama-mpi needs MPI" sh -c 'nm -u llama-mpi | grep -q MPI_Init'
    holds "llama needs none" sh -c '! nm ./llama build/llama.o build/tokenizer.o build/main.o | grep -qi mpi_'
    holds "llama needs libc and libm alone" sh -c '! readelf -d ./llama | grep NEEDED | grep -qvE "lib(c|m|pthread)\.so"'
    rm -f llama-mpi
}

# Each thing that the command does, by our tiny model, which has 6 KV heads
case_commands() {
    for n in 1 2 3 6; do
        case $quick:$n in :* | 1:2)
            compare $n $model "$prompt" --temp 0 -n 40
            compare $n $model "$prompt" -s 7 -n 40
            compare $n $model --lines -f "$work/lines" -k 2 -s 4 -n 12 --json --logprobs 3 ;;
        esac
        case $quick:$n in :* | 1:3)
            compare $n $model --lines -f "$work/lines" --temp 0 -n 12 --draft $model
            compare $n score $model -f "$work/items"
            compare $n ppl $model "$work/prose" --ctx 64 --stride 32
            compare $n trace $model "Once upon a time"
            compare $n $model "$prompt" -s 7 -n 20 --memory stream --memory-limit 1M
            compare $n tokenize $model "Once upon a time"
            compare $n check $model ;;
        esac
    done
    ranks 2 bench $model --json </dev/null
    holds "$mpi: bench" grep -q '"generated_tokens_per_second": [1-9]' "$work/out"
    ranks 3 info $model -t 1 </dev/null
    grep -E '^(rank|a token) ' "$work/out" >"$work/got"
    $llama info $model -t 1 --ranks 3 | grep -E '^(rank|a token) ' >"$work/want"
    same "$mpi: info says what each of 3 ranks needs" "$work/got" "$work/want"
    holds "$mpi: of each" test "$(wc -l <"$work/got")" -eq 4
}

# Formats, types and shards, by models with 8 KV heads of two heads each
case_models() {
    $machines "$work/models" --case models >"$work/log" 2>&1 || no "the models: $(tail -n 3 "$work/log")"
    for form in meta1 meta4 hf bf16 gguf/model.gguf bin/model.bin; do
        for n in 1 2 3 8; do
            case $quick:$form:$n in 1:meta4:8 | 1:meta1:1 | 1:*:2) ;; 1:*) continue ;; esac
            compare $n "$work/models/$form" --tokenizer $model/tokenizer.model "Once upon a time" -s 3 -n 12 --json --logprobs 5
        done
    done
    compare 2 "$work/models/meta4" --tokenizer $model/tokenizer.model "Once upon a time" --temp 0 -n 12
}

# What rank 0 alone reads and writes. Rank 1 runs in a folder with nothing but the model
case_rank_0() {
    ln -sfn "$PWD/tests" "$work/other/tests"
    for odd in "" 1; do # the same when all are in one folder
        [ -z "$quick" ] || [ -n "$odd" ] || continue
        rm -f cache.state
        $llama $model "$prompt" -s 3 -n 20 --prompt-cache "$work/want.state" >"$work/want"
        (cd "$work" && ln -sfn ../../../tests tests && cp lines some.lines)
        here=$PWD
        cd "$work" || exit
        export ODD=$odd ODD_FOLDER=$work/other
        rm -f cache.state
        for i in 1 2; do
            ranks 3 $model "$prompt" -s 3 -n 20 -t 1 --prompt-cache cache.state </dev/null
            same "$mpi: text with a prompt cache, run $i" out want
            same "$mpi: the prompt cache of one process, run $i" cache.state want.state
        done
        holds "$mpi: no other rank writes" test ! -e other/cache.state
        ranks 2 $model --lines -f some.lines --temp 0 -n 8 -t 1 </dev/null
        "$here/$llama" $model --lines -f some.lines --temp 0 -n 8 >want.lines
        same "$mpi: -f that rank 0 alone has" out want.lines
        ranks 2 $model --lines --temp 0 -n 8 -t 1 <some.lines
        same "$mpi: stdin" out want.lines
        printf 'There was once\n/save chat.state\nThe king\n/undo\n/retry\n/load chat.state\n/save nowhere/x\n/load nothing\nThe wolf\n/nonsense\n' >talk
        rm -f chat.state
        ranks 3 $model -i -e --temp 0 -n 9 -t 1 <talk
        code_of_ranks=$code
        cp out got.talk
        "$here/$llama" $model -i -e --temp 0 -n 9 <talk >want.talk 2>want.err
        code=$?
        same "$mpi: a chat" got.talk want.talk
        holds "$mpi: its exit code is $code ($code_of_ranks)" test $code_of_ranks -eq $code
        grep '^llama:' err >got.err
        same "$mpi: its messages, once each" got.err want.err
        unset ODD ODD_FOLDER
        cd "$here" || exit
    done
    ranks 2 $model "$prompt" -n 40 --json </dev/null # a drawn seed
    seed=$(grep -o '"seed": [0-9]*' "$work/out" | tr -dc 0-9)
    no_times "$work/out" >"$work/got"
    $llama $model "$prompt" -n 40 --json -s "$seed" >"$work/plain"
    no_times "$work/plain" >"$work/want"
    same "$mpi: all draw with rank 0's seed" "$work/got" "$work/want"
    printf 'bytes: \001\002\r\n\033[1m' >"$work/odd" # nothing on the way changes a byte
    $llama $model -f "$work/odd" --echo -n 0 >"$work/want"
    ranks 2 $model -f "$work/odd" --echo -n 0 </dev/null
    same "$mpi: control characters" "$work/out" "$work/want"
}

# refused CODE WORDS N arguments...: ends soon with that code, and one line of ours says these words. If that
# takes long they run once more: OpenMPI has taken 14 s for 7 ranks while other tests ran.
refused() {
    want=$1 words=$2
    shift 2
    ranks "$@" </dev/null
    [ $code -ne "$want" ] || [ $took -le 10 ] || ranks "$@" </dev/null
    if [ $code -eq "$want" ]; then ok; else no "$mpi: exit $code, not $want: $*: $(head -c 200 "$work/err")"; fi
    holds "$mpi: says '$words' ($(grep '^llama' "$work/err"))" grep -q "^llama: $words" "$work/err"
    holds "$mpi: says it once ($(grep '^llama' "$work/err"))" test "$(grep -c '^llama: ' "$work/err")" -eq 1
    holds "$mpi: in $took s: $*" test $took -le 10
    holds "$mpi: nothing on stdout" test ! -s "$work/out"
}

# Ranks that differ, and errors of all and of one
case_refused() {
    refused 2 "the model has 6 KV heads" 7 $model "$prompt" -n 5
    refused 2 "-x: no such option" 3 $model -x
    refused 5 "prompt 1" 2 $model "$prompt" -c 2
    refused 2 "nothing.txt: cannot be opened" 2 $model -f nothing.txt
    export ODD=1 ODD_OPTION=-e
    refused 2 "rank 1 has another command line than rank 0" 3 $model "$prompt" -n 5
    unset ODD_OPTION
    sed 's/define LLAMA_VERSION_STRING .*/define LLAMA_VERSION_STRING "9.9.9"/' llama.h >"$work/llama.h"
    cp main.c "$work/main.c"
    mpicc.$mpi $flags -o "$work/other-$mpi" "$work/main.c" build/llama.o build/tokenizer.o -lm >"$work/log" 2>&1 || no "mpicc.$mpi: $(head -n 5 "$work/log")"
    export ODD_PROGRAM=$work/other-$mpi
    refused 2 "rank 1 has another version than rank 0" 2 $model "$prompt" -n 5
    unset ODD_PROGRAM
    mkdir -p "$work/here" "$work/there" "$work/nowhere"
    cp -r $model "$work/here/model"
    $machines "$work/models" --case models >"$work/log" 2>&1 || no "the models: $(tail -n 3 "$work/log")"
    cp -r "$work/models/hf" "$work/here/weights"
    cp -r "$work/models/bf16" "$work/there/weights" # the same shape
    mkdir -p "$work/words"
    cp -r $model "$work/words/model"
    sed 's/king/kung/' $model/tokenizer.model >"$work/words/model/tokenizer.model"
    here=$PWD
    cd "$work/here" || exit
    ODD_FOLDER=$work/words refused 2 "rank 1 has another tokenizer than rank 0" 2 model "$prompt" -n 5
    ODD_FOLDER=$work/nowhere refused 3 "rank 1: model: " 3 model "$prompt" -n 5
    ODD_FOLDER=$work/there refused 2 "rank 1 has another model" 2 weights --ids "1 2 3" -n 5 --json
    cd "$here" || exit
    unset ODD ODD_FOLDER
}

long="$model ABC -n 100000 --ignore-eos -s 1 -t 1 -c 100000 -q --no-lookup" # minutes of work

lives() { [ -e /proc/"$1" ] && ! grep -q '^State:.*Z' /proc/"$1"/status 2>/dev/null; }

# A rank that is killed at any moment ends all. OpenMPI 4.1's own mpirun hangs now and then if that happens within
# MPI_Init, also with a program that does nothing else: such kills are counted and are not ours to fail.
case_killed() {
    seed=$$ longest=0 early=0
    for i in $(seq "$kills"); do
        seed=$(((seed * 1103515245 + 12345) % 2147483648))
        n=$((2 + seed / 65536 % 2)) victim=$((seed / 262144 % n)) delay=$((seed / 1048576 % 1500))
        rm -f "$work"/pid.*
        start=$(date +%s%N)
        PIDS=$work/pid PROGRAM=$work/llama-$mpi timeout -k 1 20 mpirun.$mpi -np $n "$work/rank" $long </dev/null >"$work/out" 2>"$work/err" &
        while [ ! -s "$work/pid.$victim" ] && [ $((($(date +%s%N) - start) / 1000000000)) -lt 30 ]; do sleep 0.02; done
        sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
        kill -9 "$(cat "$work/pid.$victim")" 2>/dev/null || no "$mpi, kill $i: rank $victim of $n had ended before"
        start=$(date +%s%N)
        wait $!
        code=$?
        took=$((($(date +%s%N) - start) / 1000000))
        if [ $took -ge 10000 ] && [ $mpi = openmpi ] && [ $delay -lt 300 ]; then early=$((early + 1)); continue; fi
        [ $took -gt $longest ] && longest=$took
        [ -s "$work/err" ] || grep -q 'BAD TERMINATION' "$work/out" || code=none # MPICH's mpirun says so on stdout
        if [ $code != none ] && [ $code -ne 0 ] && [ $code -ne 124 ] && [ $took -lt 10000 ]; then ok
        else no "$mpi, kill $i, rank $victim of $n after $delay ms: exit $code after $took ms"; fi
        for p in "$work"/pid.*; do lives "$(cat "$p")" && sleep 2 && lives "$(cat "$p")" && no "$mpi, kill $i: a rank lives on"; done
    done
    echo "$mpi: $kills kills, the others had ended after at most $longest ms; $early times mpirun itself hung in MPI_Init"
    holds "$mpi: mpirun hangs in MPI_Init $early of $kills times" test $((early * 10)) -le $((kills + 9))
}

# interrupt WHAT [--json SECONDS]: send SIGINT to a rank or to mpirun when some text has come, and wait for the end. With --json,
# which prints nothing before the end, so many seconds after the ranks have started: MPI_Init can take long on a busy machine
interrupt() {
    rm -f "$work"/pid.*
    PIDS=$work/pid PROGRAM=$work/llama-$mpi timeout -k 5 60 mpirun.$mpi -np 2 "$work/rank" $long $2 </dev/null >"$work/out" 2>"$work/err" &
    job=$!
    for i in $(seq 600); do [ ! -s "$work/pid.0" ] || [ ! -s "$work/pid.1" ] || break; sleep 0.05; done
    steps=400
    [ -z "$2" ] || steps=$((20 * $3))
    for i in $(seq $steps); do [ "$(wc -c <"$work/out")" -lt 300 ] || break; sleep 0.05; done
    if [ "$1" = mpirun ]; then pid=$(pgrep -P $job | head -n 1); else pid=$(cat "$work/pid.$1"); fi
    kill -INT "$pid"
    start=$(date +%s)
    wait $job
    code=$?
    took=$(($(date +%s) - start))
}
together() { grep -q '"finish": "interrupted"' "$work/out"; }

# Ctrl-C, as a signal to a rank or to mpirun, ends all, after a beginning of the text was printed. A rank that gets it
# ends with the others, if they come within 0.1 s, which a busy machine may not allow.
case_interrupted() {
    $llama $model ABC -n 300 --ignore-eos -s 1 -c 100000 -q >"$work/whole"
    head -c 200 "$work/whole" >"$work/begin"
    for victim in 0 1 mpirun; do
        [ -z "$quick" ] || [ $victim = 1 ] || continue
        interrupt $victim
        if [ $victim = mpirun ]; then sed -i 's/\[mpiexec@.*//' "$work/out" # MPICH says there what it does, and exits with 0 or 130
        else
            holds "$mpi: rank $victim interrupted: exit $code, not 130" test $code -eq 130
        fi
        holds "$mpi: $victim interrupted: after $took s" test $took -le 10
        [ $mpi != openmpi ] || holds "$mpi: $victim interrupted: exit $code" test $code -ne 0
        head -c 200 "$work/out" >"$work/got"
        same "$mpi: $victim interrupted: the text" "$work/got" "$work/begin"
    done
    for seconds in 2 4 8 16; do
        interrupt 1 --json $seconds
        if together; then break; fi
    done
    holds "$mpi: rank 1 interrupted: rank 0 prints the text so far: $(head -c 300 "$work/out")" together
}

for suite_case in built commands models rank_0 refused killed interrupted; do
    [ -z "$only" ] || [ "$only" = $suite_case ] || continue
    echo "-- $suite_case"
    if [ $suite_case = built ]; then case_built; continue; fi
    for mpi in $installed; do case_$suite_case; done
done
echo "--"
echo "mpi: $passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
