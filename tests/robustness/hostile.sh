#!/bin/sh
# hostile.sh - the malformed inputs of the conformance data, through build/sanitized/llama, which ASan and UBSan watch:
# each is refused with exit code 3 and one line, or opens where it may; in a second, and nothing in it runs.
#
#   hostile.sh DATA         DATA: the folder of the conformance data, unpacked
data=$1
work=build/sanitized
sound=$data/ckpt/tinyA/meta-f16-mp1
passed=0 failed=0
mkdir -p $work
if ! echo 'int main(void) { return 0; }' | ${CC:-cc} -fsanitize=address,undefined -xc -o $work/empty - >$work/make.log 2>&1; then
    echo "SKIP: malformed inputs under ASan ($(head -n 1 $work/make.log))"
    exit 0
fi
if ! ${MAKE:-make} -s build/sanitized/llama >$work/make.log 2>&1; then
    echo "FAIL: build/sanitized/llama cannot be built: $(head -n 1 $work/make.log)"
    exit 1
fi

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }

rm -f /tmp/oracle_pwned # which is what the evil pickle would make
sed -n 's/.*"path": "\(.*\)",/\1/p; s/.*"expect": "\(.*\)".*/\1/p' "$data/hostile/index.json" |
    while read -r path && read -r expect; do echo "$path $expect"; done >$work/cases
while read -r path expect; do
    [ $path != hf-rope-scaling ] || expect=open # its linear scaling is one that is computed: `formats` checks how
    case $path in
    tok-*) set -- "$sound" --tokenizer "$data/hostile/$path" ;;
    *) set -- "$data/hostile/$path" ;;
    esac
    begin=$(date +%s%N)
    timeout 10 $work/llama "$@" "Once upon a time" -n 4 -t 1 </dev/null >$work/out 2>$work/err
    code=$?
    ms=$((($(date +%s%N) - begin) / 1000000))
    [ $ms -lt 1000 ] && ok || no "$path: took $ms ms"
    if [ $code -eq 3 ] && [ "$(wc -l <$work/err)" -eq 1 ] && [ ! -s $work/out ]; then
        ok
    elif [ $code -ne 0 ] || [ "$expect" = refuse ]; then
        no "$path ($expect): exit $code, $(head -n 3 $work/err)"
    else
        ok
    fi
done <$work/cases
[ ! -e /tmp/oracle_pwned ] && ok || no "a pickle was run"
[ $passed -gt 150 ] || no "only $passed checks: where are the cases?"
echo "malformed inputs: $passed passed, $failed failed"
[ $failed -eq 0 ]
