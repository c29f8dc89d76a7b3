#!/bin/sh
# test_cli.sh - the command's contract: what goes to stdout, what to stderr, and with which exit code.
#
#   test_cli.sh LLAMA MODEL FORMS     MODEL: our tiny model with its tokenizer; FORMS: the folder in which test_formats
#                                     left one model in every format
llama=$1 model=$2 forms=$3
work=build/cli
passed=0 failed=0
rm -rf $work
mkdir -p $work
unset LLAMA_MODEL

ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "FAIL: $1"; }

# run EXPECTED_CODE NAME command...: stdout in $work/out, stderr in $work/err
run() {
    want=$1 name=$2
    shift 2
    "$@" >$work/out 2>$work/err </dev/null
    code=$?
    if [ $code -eq "$want" ]; then ok; else no "$name: exit $code, not $want: $(head -c 200 $work/err)"; fi
}
holds() { name=$1; shift; if "$@" >/dev/null 2>&1; then ok; else no "$name"; fi; }
same() { if cmp -s "$2" "$3"; then ok; else no "$1"; fi; }
empty() { if [ ! -s "$2" ]; then ok; else no "$1: $(head -c 200 "$2")"; fi; }
one_line() { if [ "$(wc -l <$work/err)" -eq 1 ]; then ok; else no "$1: not one line: $(cat $work/err)"; fi; }
refuse() { # CODE NAME WORDS command...: that code, one line with these words, nothing on stdout
    want=$1 name=$2 words=$3
    shift 3
    run "$want" "$name" "$@"
    empty "$name: stdout" $work/out
    one_line "$name"
    holds "$name: says $words ($(cat $work/err))" grep -q -- "$words" $work/err
}

prompt="There was once a poor woodcutter"
greedy="--temp 0 -n 24"

# The text alone on stdout, the same for every way to give the prompt
run 0 "a completion" $llama $model "$prompt" $greedy
cp $work/out $work/text
holds "text comes" test -s $work/text
empty "nothing on stderr off a terminal" $work/err
run 0 "-m -p" $llama -m $model -p "$prompt" $greedy
same "-m -p" $work/out $work/text
run 0 "--name=value" $llama --model=$model --prompt="$prompt" --temp=0 --n-predict=24
same "--name=value" $work/out $work/text
printf '%s\n' "$prompt" >$work/prompt
run 0 "-f" $llama $model -f $work/prompt $greedy
same "-f" $work/out $work/text
echo "$prompt" | $llama $model $greedy >$work/out 2>$work/err
same "a pipe is the prompt" $work/out $work/text
echo "other" | $llama $model "$prompt" $greedy >$work/out
same "stdin is not read when there is a prompt" $work/out $work/text
LLAMA_MODEL=$model run 0 "LLAMA_MODEL" $llama "$prompt" $greedy
LLAMA_MODEL=$model $llama "$prompt" $greedy >$work/out
same "LLAMA_MODEL" $work/out $work/text
LLAMA_MODEL=/nowhere $llama $model "$prompt" $greedy >$work/out
same "a model given goes before LLAMA_MODEL" $work/out $work/text
run 0 "--fast" $llama $model "$prompt" $greedy --fast --stats
same "--fast: with fewer than 32 tokens, or without AMX, the same text" $work/out $work/text
holds "--fast: says what runs" grep -q "^kernels *[a-z]" $work/err
run 0 "--tokenizer" $llama $model "$prompt" $greedy --tokenizer $model/tokenizer.model
same "--tokenizer" $work/out $work/text
run 0 "-e" $llama $model 'There\x20was once\ta poor' -e $greedy
cp $work/out $work/escaped
run 0 "a tab" $llama $model "There was once	a poor" $greedy
same "-e" $work/out $work/escaped
run 0 "--echo" $llama $model "$prompt" $greedy --echo
printf '%s' "$prompt" | cat - $work/text >$work/want
same "--echo" $work/out $work/want
run 0 "-n 0" $llama $model "$prompt" -n 0
empty "-n 0" $work/out
run 0 "--" $llama $model $greedy -- "$prompt"
same "--" $work/out $work/text

# The same command and seed give the same bytes; kernels, threads and batch change nothing
run 0 "a seed" $llama $model "$prompt" -s 7 -n 60
cp $work/out $work/seven
for way in "-t 1" "-t 2" "-b 1" "-b 3" "--kernels scalar" "--memory map" "-q" "--stats"; do
    run 0 "$way" $llama $model "$prompt" -s 7 -n 60 $way
    same "$way changes the text" $work/out $work/seven
done
holds "--stats tells the seed" grep -q "seed *7" $work/err
run 0 "another seed" $llama $model "$prompt" -s 8 -n 60
if cmp -s $work/out $work/seven; then no "another seed, the same text"; else ok; fi
run 0 "a random seed" $llama $model "$prompt" -n 60 --stats
seed=$(sed -n 's/^seed *//p' $work/err)
cp $work/out $work/random
run 0 "the random seed again" $llama $model "$prompt" -n 60 -s "$seed"
same "the seed --stats shows gives the text again" $work/out $work/random
for way in "--top-k 1" "--top-p 0.000001" "--min-p 1"; do
    run 0 "$way" $llama $model "$prompt" -n 24 $way
    same "$way is greedy" $work/out $work/text
done
run 0 "--repeat-penalty" $llama $model "$prompt" $greedy --repeat-penalty 1.5 --repeat-last-n -1
if cmp -s $work/out $work/text; then no "--repeat-penalty does nothing"; else ok; fi
run 0 "--no-bos" $llama $model "$prompt" $greedy --no-bos
if cmp -s $work/out $work/text; then no "--no-bos does nothing"; else ok; fi

# Stop texts: the text up to them, never a part of one, in whatever pieces it comes
whole=$($llama $model "$prompt" --temp 0 -n 60)
for stop in "," "th" "autiful" " th" "ing" "."; do
    case $whole in *"$stop"*) want=${whole%%"$stop"*} ;; *) want=$whole ;; esac
    got=$($llama $model "$prompt" --temp 0 -n 60 -r "$stop")
    if [ "$got" = "$want" ]; then ok; else no "--stop '$stop': '$got', not '$want'"; fi
done
got=$($llama $model "$prompt" --temp 0 -n 60 --stop "zzzz" --stop "$(printf '%s' "$whole" | cut -c 30-34)")
if [ "$got" = "$(printf '%s' "$whole" | cut -c -29)" ]; then ok; else no "two stop texts: '$got'"; fi
for from in 5 14 22 33 47; do # over several tokens
    stop=$(printf '%s' "$whole" | cut -c $from-$((from + 11)))
    got=$($llama $model "$prompt" --temp 0 -n 60 -r "$stop"; echo .)
    if [ "$got" = "$(printf '%s' "$whole" | cut -c -$((from - 1)))." ]; then ok; else no "--stop '$stop': '$got'"; fi
done
tail=$(printf '%s' "$whole" | tail -c 3)
run 0 "a stop text half there at the end" $llama $model "$prompt" --temp 0 -n 60 -r "${tail}zzz"
if [ "$(cat $work/out)" = "$whole" ]; then ok; else no "what only began like a stop text is not printed"; fi

# Characters of several bytes come whole: byte pieces are made likely by a prompt of nothing else
$llama $model "éüñ你好🙂 éüñ你好🙂 éüñ你好🙂" -s 3 --temp 2 --top-p 1 -n 200 >$work/out
holds "valid UTF-8" iconv -f UTF-8 -t UTF-8 $work/out

# Refusals: one line, nothing on stdout, the right code
refuse 2 "no model" "no model" $llama
refuse 2 "no such option" "no such option" $llama $model x --frobnicate
refuse 2 "a value is missing" "wants a value" $llama $model x -n
refuse 2 "-n" "whole number" $llama $model x -n many
refuse 2 "-n -5" "whole number" $llama $model x -n -5
refuse 2 "-t 0.8 explains itself" "temp" $llama $model x -t 0.8
refuse 2 "--temp" "number" $llama $model x --temp -1
refuse 2 "--top-p" "number" $llama $model x --top-p 1.5
refuse 2 "--temp nan" "number" $llama $model x --temp nan
refuse 2 "-s" "whole number" $llama $model x -s -1
refuse 2 "-s" "2^64" $llama $model x -s 18446744073709551616
refuse 2 "an empty stop" "empty" $llama $model x -r ""
refuse 2 "half a character to stop at" "inside a character" $llama $model x -r "$(printf '\251')"
refuse 2 "an argument of two lines" "1^J2" $llama $model x -n "$(printf '1\n2')"
refuse 2 "info of a text" "no text" $llama info $model x
refuse 2 "tokenize of two texts" "more than one" $llama tokenize $model x -p y
refuse 5 "--echo does not come before a refusal" "context" $llama $model "$prompt" -c 4 --echo
refuse 2 "two prompts" "more than one" $llama $model x y
refuse 2 "two prompts" "more than one" $llama $model x -p y
refuse 2 "no prompt file" "cannot be opened" $llama $model -f $work/none
refuse 2 "a folder for a prompt" "cannot be read" $llama $model -f $work
refuse 2 "--kernels" "kernels" $llama $model x --kernels mmx
refuse 2 "--memory" "map or lock" $llama $model x --memory disk
refuse 2 "--memory stream" "later" $llama $model x --memory stream
$llama $model x --memory lock -n 1 >$work/out 2>$work/err # where ulimit -l lets it
code=$?
if [ $code -eq 0 ] || { [ $code -eq 4 ] && grep -q ulimit $work/err; }; then ok; else no "--memory lock: $code"; fi
refuse 2 "nothing to start from" "empty" $llama $model "" --no-bos
refuse 2 "a flag with a value" "takes no value" $llama $model x --echo=1
refuse 3 "no such model" "/no/such" $llama /no/such x
refuse 3 "not a folder" "folder" $llama README.md x
refuse 3 "an empty folder" "params.json" $llama $work x
refuse 3 "no such tokenizer" "$work/none" $llama $model x --tokenizer $work/none
refuse 3 "a bad tokenizer" "SentencePiece" $llama $model x --tokenizer README.md
refuse 5 "the prompt is too long" "context" $llama $model "$prompt" -c 4
mkdir $work/bare
cp $model/params.json $work/bare
head -c 1000000 $model/consolidated.00.pth >$work/bare/consolidated.00.pth
refuse 3 "a shard cut short" "consolidated.00.pth" $llama $work/bare x
cp $model/consolidated.00.pth $work/bare
refuse 3 "no tokenizer" "tokenizer" $llama $work/bare x
refuse 3 "no tokenizer to decode with" "tokenizer" $llama tokenize $work/bare --decode 5
refuse 3 "trace without a tokenizer" "tokenizer" $llama trace $work/bare "$prompt"
run 0 "info without a tokenizer" $llama info $work/bare
holds "info says so" grep -q "tokenizer *none" $work/out
cp $model/tokenizer.model $work
run 0 "the tokenizer in the parent folder" $llama $work/bare "$prompt" $greedy
same "the tokenizer in the parent folder" $work/out $work/text

# The context filling up ends it well, with a note; -q is quiet
run 0 "a full context" $llama $model "$prompt" --temp 0 -c 16 -n 100 --ignore-eos
holds "says so" grep -q "context of 16 positions is full" $work/err
holds "with its text" test -s $work/out
run 0 "-q" $llama $model "$prompt" --temp 0 -c 16 -n 100 --ignore-eos -q
empty "-q" $work/err

# Pipes, full disks, closed files, Ctrl-C
if [ -e /dev/full ]; then
    $llama $model "$prompt" $greedy >/dev/full 2>$work/err
    code=$?
    if [ $code -eq 1 ]; then ok; else no "/dev/full: exit $code"; fi
    one_line "/dev/full"
    $llama tokenize $model "$prompt" >/dev/full 2>$work/err
    if [ $? -eq 1 ]; then ok; else no "tokenize to /dev/full"; fi
fi
$llama $model "$prompt" -n 2000 --ignore-eos -q 2>$work/err | head -c 10 >/dev/null
empty "a closed pipe is quiet" $work/err
timeout 10 $llama $model $greedy <&- >$work/out 2>$work/err
code=$?
if [ $code -eq 2 ]; then ok; else no "closed stdin: exit $code"; fi
timeout 10 $llama $model $greedy </dev/null >$work/out 2>$work/err
code=$?
if [ $code -eq 0 ] && [ -s $work/out ]; then ok; else no "an empty stdin is an empty prompt: exit $code"; fi
timeout 10 $llama $model "$prompt" $greedy <&- >$work/out 2>$work/err
same "closed stdin with a prompt" $work/out $work/text
rm -f $work/out
$llama $model "$prompt" --kernels scalar -t 1 -n -1 --ignore-eos >$work/out 2>$work/err &
pid=$!
tries=0
while [ ! -s $work/out ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
kill -INT $pid
wait $pid
code=$?
if [ $code -eq 130 ] && [ -s $work/out ]; then ok; else no "SIGINT: exit $code"; fi
long=$($llama $model "$prompt" --kernels scalar -t 1 -n 1 -q)
if [ -n "$long" ]; then ok; else no "one token"; fi

# The prompt cache: the same text with it, less to evaluate; what is not one is left alone
cache=$work/cache
for n in 1 2; do
    run 0 "--prompt-cache, $n" $llama $model "$prompt" $greedy --prompt-cache $cache --stats
    same "--prompt-cache, $n: the same text" $work/out $work/text
    holds "--prompt-cache: a file" test -s $cache
    [ $n = 1 ] && holds "nothing known at first" grep -q "^cache *0 tokens" $work/err
done
holds "all but the last token known then" grep -q "^prompt *1 tokens in" $work/err
cp $cache $work/kept
run 0 "another end" $llama $model "$prompt and his wife" $greedy
cp $work/out $work/longer
run 0 "--prompt-cache, another end" $llama $model "$prompt and his wife" $greedy --prompt-cache $cache --stats
same "--prompt-cache, another end: the same text" $work/out $work/longer
holds "the common tokens are known" grep -qE "^cache *[1-9][0-9]* tokens" $work/err
if cmp -s $cache $work/kept; then no "a longer prompt is kept"; else ok; fi
run 0 "--prompt-cache, a seed" $llama $model "$prompt" -s 7 -n 60 --prompt-cache $work/kept
same "--prompt-cache, a seed: the same text" $work/out $work/seven
: >$work/blank
run 0 "an empty file is an empty cache" $llama $model "$prompt" $greedy --prompt-cache $work/blank
same "an empty file: the same text" $work/out $work/text
same "and is filled, byte for byte" $work/blank $work/kept
run 0 "a smaller context" $llama $model "$prompt" --temp 0 -n 2 -c 20 --prompt-cache $work/blank
holds "a state longer than the context: a note" grep -q "longer than the context; it is made anew" $work/err
run 0 "another model's state" $llama $forms/meta "There" -n 2 --prompt-cache $work/blank
holds "another model's state: a note" grep -q "another model's; it is made anew" $work/err
run 0 "-q: no note" $llama $model "$prompt" --temp 0 -n 2 -q --prompt-cache $work/blank
empty "-q: no note" $work/err
echo notes >$work/notes
head -c 500 README.md >$work/readme
refuse 2 "a file that is no state" "not a saved state; remove it" $llama $model "$prompt" --prompt-cache $work/readme
refuse 2 "a file that is no state" "could not be read, or is cut short" $llama $model "$prompt" --prompt-cache $work/notes
if [ "$(cat $work/notes)" = notes ]; then ok; else no "a file that is no state is left as it is"; fi
cat $work/kept $work/notes >$work/more
refuse 2 "something behind a state" "more in it" $llama $model "$prompt" --prompt-cache $work/more
head -c 2000 $work/kept >$work/less
refuse 2 "a state cut short" "cut short" $llama $model "$prompt" --prompt-cache $work/less
refuse 2 "a folder for a cache" "regular file" $llama $model "$prompt" --prompt-cache $work
mkfifo $work/fifo
refuse 2 "a FIFO for a cache" "regular file" timeout 5 $llama $model "$prompt" --prompt-cache $work/fifo
refuse 2 "with --fast" "not with --fast" $llama $model "$prompt" --fast --prompt-cache $cache
run 0 "a folder that is not there" $llama $model "$prompt" $greedy --prompt-cache $work/none/cache
same "a cache that cannot be written: the same text" $work/out $work/text
holds "and a note" grep -q "$work/none/cache: cannot be written: No such" $work/err
if ls $work/*.?????? 2>/dev/null | grep -q "cache\."; then no "temporary files stay"; else ok; fi

# A model cut short under way, and what is no model: an error, soon
cp -r $model $work/cut
rm $work/out
$llama $work/cut "$prompt" --kernels scalar -t 1 -n -1 --ignore-eos >$work/out 2>$work/err &
pid=$!
tries=0
while [ ! -s $work/out ] && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
head -c 5000 $model/consolidated.00.pth >$work/cut/consolidated.00.pth
wait $pid
code=$?
if [ $code -eq 3 ] && [ -s $work/out ]; then ok; else no "cut short under way: exit $code"; fi
one_line "cut short under way"
holds "cut short: says what ($(cat $work/err))" grep -q "consolidated.00.pth: was cut short" $work/err
mkfifo $work/model.gguf
for what in $work/model.gguf /dev/zero /dev/null; do
    refuse 3 "$what for a model" "regular file" timeout 5 $llama $what "$prompt"
done

# On a terminal, what would act on it is shown; through a pipe it passes as it is
if command -v script >/dev/null 2>&1; then
    # ESC, backspace, C1 (CSI), a turn of direction, a byte that is no text; then what may pass
    bad=$(printf 'a\033[31m\010\302\233m\342\200\256b\233\tc é')
    cat >$work/terminal.sh <<END
$llama $model "$bad" -n 0 --echo -q
END
    script -qec "sh $work/terminal.sh" /dev/null </dev/null >$work/out 2>&1
    holds "shown on a terminal: $(od -c $work/out | head -3)" grep -qF "a^[[31m^H<U+009B>m<U+202E>b<9B>	c é" $work/out
    sh $work/terminal.sh >$work/out
    if [ "$(cat $work/out)" = "$bad" ]; then ok; else no "through a pipe it passes"; fi
    bad2=$(printf 'a\355\240\200\340\200\212\364\220\200\200b') # a surrogate, an overlong newline, behind the last
    script -qec "$llama $model x -n '$bad2'" /dev/null </dev/null >$work/out 2>&1
    holds "what is no UTF-8 is shown by its bytes" grep -qF "a<ED><A0><80><E0><80><8A><F4><90><80><80>b" $work/out
    script -qec "$llama $model x -n '$bad'" /dev/null </dev/null >$work/out 2>&1
    holds "shown in a complaint" grep -qF "a^[[31m^H<U+009B>m<U+202E>b<9B>^Ic é" $work/out
else
    echo "SKIP: terminals (no script)"
fi

# trace: every name once, the same checksums whatever computes them; those asked for alone
run 0 "trace" $llama trace $model "$prompt"
cp $work/out $work/trace
holds "trace: all of 4 layers" [ "$(wc -l <$work/trace)" -eq 39 ]
holds "trace: a line" grep -qE '^layers\.3\.feed_forward\.w1 +\[[0-9]+, 512\]  mean [-0-9.e]+  rms [0-9.]+  crc32 [0-9a-f]{8}  first( [-0-9.e]+){4}$' $work/trace
run 0 "trace, otherwise" $llama trace $model "$prompt" -t 1 --kernels scalar
same "trace: the same bits" $work/out $work/trace
run 0 "trace of names" $llama trace $model "$prompt" output layers.2
holds "trace of names: a layer and the output" [ "$(wc -l <$work/out)" -eq 10 ]
holds "trace of names: they are those of all" [ "$(grep -cFxf $work/out $work/trace)" -eq 10 ]
run 0 "trace -p" $llama trace $model -p "$prompt" norm
holds "trace -p: one line" [ "$(grep -cFxf $work/out $work/trace)" -eq 1 ]
echo "$prompt" | $llama trace $model >$work/out
same "trace of a pipe" $work/out $work/trace
run 2 "trace of no such name" $llama trace $model "$prompt" layers.2 layer
one_line "trace of no such name"
refuse 2 "trace without a prompt" "prompt is empty" $llama trace $model --no-bos -p ""
refuse 5 "trace of too much" "positions" $llama trace $model "$prompt" -c 3

# bench: three lines, and no text
run 0 "bench" $llama bench $model -t 1
holds "bench: figures" grep -qE '^prompt +128 tokens, [0-9.]+ tokens/s, [0-9.]+ GFLOP/s' $work/out
holds "bench: figures" grep -qE '^generation +32 tokens, [0-9.]+ tokens/s, [0-9.]+ GB/s of weights$' $work/out
holds "bench: kernels" grep -qE '^kernels +[a-z0-9]+, 1 thread$' $work/out
refuse 2 "bench of a text" "no text" $llama bench $model x
refuse 3 "bench of nothing" "cannot be opened" $llama bench $work/nothing

# info, tokenize, help
run 0 "info" $llama info $model -c 128
holds "info: shape" grep -q "dim 192, layers 4, heads 6, kv_heads 6, head_dim 32, hidden 512, vocab 1024" $work/out
holds "info: KV cache" grep -q "128 positions, KV cache 786432 bytes" $work/out
holds "info: kernels" grep -q "^kernels  *[a-z0-9 ]*, [0-9]* thread" $work/out
holds "info: dtype" grep -q "meta, float16, 1 shard$" $work/out
run 0 "tokenize" $llama tokenize $model "There was once"
printf '%s' "There was once" | $llama tokenize $model >$work/ids
same "tokenize from stdin" $work/out $work/ids
if [ "$(wc -l <$work/ids)" -eq 1 ]; then ok; else no "one line of ids"; fi
run 0 "tokenize -p" $llama tokenize $model -p "There was once"
same "tokenize -p" $work/out $work/ids
echo hi >$work/hello
LLAMA_MODEL=$model $llama $work/hello $greedy >$work/out 2>$work/err
if [ $? -eq 0 ] && [ -s $work/out ]; then ok; else no "a file's name is a prompt where LLAMA_MODEL stands: $(cat $work/err)"; fi
LLAMA_MODEL=$model $llama tokenize There was once >$work/out
same "tokenize with LLAMA_MODEL" $work/out $work/ids

# Every format alike: the same text and ids, info, check
for form in $forms/meta $forms/hf $forms/model.gguf $forms/bin/model.bin; do
    run 0 "$form: completes" $llama $form "There was once" $greedy
    [ $form = $forms/meta ] && cp $work/out $work/first
    same "$form: the text of the others" $work/out $work/first
    holds "$form: text comes" test -s $work/out
    LLAMA_MODEL=$model $llama $form "There was once" $greedy >$work/out
    same "$form: goes before LLAMA_MODEL" $work/out $work/first
    run 0 "$form: tokenize" $llama tokenize $form "There was once"
    same "$form: the ids of the others" $work/out $work/ids
    run 0 "$form: info" $llama info $form
    holds "$form: info's shape" grep -q "dim 16, layers 1, heads 2, kv_heads 1, head_dim 8, hidden 32, vocab 1024" $work/out
    holds "$form: info's tokenizer" grep -q "bos 1, eos 2" $work/out
    run 0 "$form: check" $llama check $form
    holds "$form: check says so" grep -q "^$form: sound, [0-9]* parameters in [13] file" $work/out
    empty "$form: no bar off a terminal" $work/err
    run 0 "$form: trace" $llama trace $form "There" layers.0.attention.wq
    [ $form = $forms/meta ] && cp $work/out $work/traced
    same "$form: the queries of the others" $work/out $work/traced
done
run 0 "info: huggingface" $llama info $forms/hf
holds "info: huggingface, shards, context" grep -q "huggingface, float16, 3 shards$" $work/out
holds "info: its context" grep -q "^context *512 positions" $work/out
refuse 2 "check of a text" "no text" $llama check $model x
refuse 3 "check of nothing" "cannot be opened" $llama check $work/nothing
cp -r $forms/bin $work/bent
head -c 40000 /dev/zero | dd of=$work/bent/model.bin bs=1 seek=28 conv=notrunc 2>/dev/null
dd if=$work/bent/model.bin bs=40000 count=2 2>/dev/null | tr '\0' '\377' >$work/bent/ones
cp $work/bent/model.bin $work/bent/model2.bin
dd if=$work/bent/ones of=$work/bent/model2.bin bs=1 seek=28 count=64 conv=notrunc 2>/dev/null
refuse 3 "check of weights that are no numbers" "tok_embeddings.weight has a number that is not finite at row 0, column 0" $llama check $work/bent/model2.bin
refuse 3 "a checkpoint's own file" "give a model's folder" $llama $forms/meta/consolidated.00.pth x
mkfifo $work/pipe
exec 3<>$work/pipe
timeout 1 head -c 65536 /dev/zero >&3 # full: the next write waits
$llama $model "$prompt" -n -1 >&3 2>$work/err &
pid=$!
sleep 0.5
kill -INT $pid
wait $pid
code=$?
exec 3<&-
if [ $code -eq 130 ] && [ ! -s $work/err ]; then ok; else no "SIGINT while stdout waits: exit $code, $(cat $work/err)"; fi
run 0 "tokenize --count" $llama tokenize $model --count There was once
if [ "$(cat $work/out)" -eq "$(wc -w <$work/ids)" ]; then ok; else no "tokenize --count"; fi
$llama tokenize $model --decode <$work/ids >$work/out
if [ "$(cat $work/out)" = "There was once" ]; then ok; else no "tokenize --decode: $(cat $work/out)"; fi
run 0 "tokenize --decode of arguments" $llama tokenize $model --decode $(cat $work/ids)
if [ "$(cat $work/out)" = "There was once" ]; then ok; else no "tokenize --decode of arguments"; fi
refuse 2 "an id that is none" "not a token id" $llama tokenize $model --decode 99999
refuse 2 "an id that is none" "not a token id" $llama tokenize $model --decode -- -3
run 0 "--bos" $llama tokenize $model --bos "There was once"
if [ "$(cat $work/out)" = "1 $(cat $work/ids)" ]; then ok; else no "--bos"; fi
refuse 3 "tokenize without a model" "/no/such" $llama tokenize /no/such x
run 0 "-h" $llama -h
holds "-h names every option" sh -c "for o in -m -p -f -n -c -t -b -s -r --stop --temp --top-p --top-k --min-p --repeat-penalty \
    --repeat-last-n -e --prompt-cache --no-bos --ignore-eos --echo --stats -q --kernels --memory --tokenizer -h --version --decode --count; do
    grep -q -- \"\$o\" $work/out || exit 1; done"
holds "-h fits a screen" sh -c "[ \$(wc -l <$work/out) -le 40 ]"
run 0 "--version" $llama --version
holds "--version" grep -q "^llama.c 0.1.0" $work/out

echo "cli: $passed passed, $failed failed"
[ $failed -eq 0 ]
