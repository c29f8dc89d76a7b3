#!/bin/sh
# killed.sh - kill -9 while a prompt cache is written leaves the old file or the new one, whole.
#
#   killed.sh LLAMA MODEL [TIMES]     1,000 times
#
# The prompt is long, and all but its end in the cache: little is evaluated, much is written. When to kill follows what the
# last kill met, so that most fall between the beginning of the write and its end; every tenth finds no file there.
llama=$1 model=$2 times=${3:-1000}
work=build/killed
file=$work/cache/state
failed=0 before=0 within=0 after=0 left=0 absent=0
rm -rf $work
mkdir -p $work/cache
unset LLAMA_MODEL

no() { failed=$((failed + 1)); echo "FAIL: $1"; }
now() { echo $(($(date +%s%N) / 1000)); }
seed=1
random() { # below $1, in $drawn
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    drawn=$((seed / 64 % $1))
}

long=$(for i in $(seq 60); do printf 'The king had %d sons, and the youngest of them went out into the wood. ' "$i"; done)
ask() { $llama "$model" "$long Then" -n 12 --temp 0 -c 2048 "$@"; } # the same question of every file

ask >$work/want 2>$work/err || { echo "FAIL: $(cat $work/err)"; exit 1; }
if ! ask --prompt-cache $work/probe >$work/out 2>$work/err; then
    echo "SKIP: --prompt-cache: $(cat $work/err)"
    exit 0
fi
known=$($llama tokenize "$model" "$long" --count)

# how long it takes with a file there and without one, in microseconds
run() { # N MICROSECONDS: killed then, 0: never
    if [ "$2" -eq 0 ]; then set -- "$1"; else set -- "$1" timeout --foreground -s KILL "$(printf '%d.%06d' $(($2 / 1000000)) $(($2 % 1000000)))"; fi
    number=$1
    shift
    "$@" $llama "$model" "$long And number $number" -n 0 -c 2048 --prompt-cache $file >$work/out 2>$work/err
}
start=$(now); run 0 0; cold=$(($(now) - start))
start=$(now); run 1 0; warm=$(($(now) - start))
[ -s $file ] || no "no cache is written: $(cat $work/err)"
bytes=$(wc -c <$file)

at_warm=$warm at_cold=$cold
for i in $(seq "$times"); do
    if [ $((i % 10)) -eq 0 ]; then rm -f $file; fi
    if [ -e $file ]; then there=1 at=$at_warm; cp $file $work/old; else there=0 at=$at_cold; fi
    random $((at / 5 + 1))
    run "$((i + 1))" $((at - at / 10 + drawn + 1))
    code=$?
    case $code in 0 | 124 | 137) ;; *) no "kill $i: exit $code, $(cat $work/err)" ;; esac # 124: as it ended
    [ -s $work/err ] && no "kill $i: $(cat $work/err)"
    temporary=$(find $work/cache -type f ! -name state | wc -l)
    left=$((left + temporary))
    find $work/cache -type f ! -name state -exec rm -f {} +
    # where it fell: before the file was begun, within it, after it took the old one's place
    if [ $code -eq 0 ] || { [ $there -eq 1 ] && ! cmp -s $file $work/old; } || { [ $there -eq 0 ] && [ -e $file ]; }; then
        after=$((after + 1)) at=$((at - at / 16))
    elif [ "$temporary" -gt 0 ]; then
        within=$((within + 1))
    else
        before=$((before + 1)) at=$((at + at / 16))
    fi
    if [ $there -eq 1 ]; then at_warm=$at; else at_cold=$at; fi
    if [ ! -e $file ]; then
        absent=$((absent + 1))
        [ $there -eq 0 ] || no "kill $i: the old file is gone"
        continue
    fi
    cp $file $work/probe
    ask --prompt-cache $work/probe --stats >$work/out 2>$work/err || no "kill $i: the file is refused: $(cat $work/err)"
    cmp -s $work/out $work/want || no "kill $i: other text than without a cache"
    grep -q '^llama:' $work/err && no "kill $i: $(grep '^llama:' $work/err)"
    used=$(sed -n 's/^cache *\([0-9]*\) tokens.*/\1/p' $work/err)
    [ "${used:-0}" -ge "$known" ] || no "kill $i: the file has ${used:-none} of $known tokens"
done
rm -rf $work
echo "killed: $times times while $bytes bytes were written: $before before the write, $within within it, $after after it;" \
    "$left temporary files were left, $absent times no file; $failed failed"
[ $failed -eq 0 ]
