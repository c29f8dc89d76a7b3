#!/bin/sh
# cli.sh - the command's contract: what goes to stdout, what to stderr, and with which exit code.
#
#   cli.sh LLAMA MODEL FORMATS [--quick] [--case NAME]     MODEL: our tiny model with its tokenizer; FORMATS: the program
#                                     build/tests/formats, which writes one model in every format
llama=$1 model=$2 formats=$3
shift 3
quick= only=
while [ $# -gt 0 ]; do
    case $1 in --quick) quick=1 ;; --case) only=$2; shift ;; esac
    shift
done
work=build/work/cli
forms=build/work/cli/forms/cli
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

one="There was once" two="The king" three="A wolf came out of the wood and said"
items=tests/tiny/items.tsv

# What several cases compare with
$llama $model "$prompt" $greedy >$work/text
$llama $model "$prompt" -s 7 -n 60 >$work/seven
$llama tokenize $model "$one" >$work/ids
for p in "$one" "$two" "$three"; do $llama $model "$p" -n 20 -s 4 >>$work/alone && echo >>$work/alone; done
tr '\n' ' ' <tests/tiny/README.md | head -c 1500 >$work/prose
head -c 500 README.md >$work/readme
: >$work/void
$formats tests/tiny $work/forms --case vocabularies >$work/log || no "the models in every format: $(tail -n 3 $work/log)"

# The text alone on stdout, the same for every way to give the prompt
case_text() {
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
    run 0 "complete --file" $llama complete $model --file $work/prompt --temperature 0 -n 24 --threads 1 --quiet
    same "complete --file" $work/out $work/text
    echo "$prompt" | $llama $model $greedy >$work/out 2>$work/err
    same "a pipe is the prompt" $work/out $work/text
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
}

# What stdin is while a prompt is given: its text comes first, and a pipe that gives nothing is not waited for
case_stdin() {
    printf 'There was once\nThe king\n' >$work/document
    $llama $model -p "$(printf 'There was once\nThe king\nSummary:')" $greedy >$work/want
    cat $work/document | $llama $model "Summary:" $greedy >$work/out 2>$work/err
    same "a pipe and an argument" $work/out $work/want
    empty "a pipe and an argument: no note" $work/err
    cat $work/document | $llama $model -p "Summary:" $greedy >$work/out
    same "a pipe and -p" $work/out $work/want
    echo "Summary:" >$work/question
    cat $work/document | $llama $model -f $work/question $greedy >$work/out
    same "a pipe and -f" $work/out $work/want
    $llama $model "Summary:" $greedy <$work/document >$work/out
    same "a file as stdin" $work/out $work/want
    (sleep 0.2; cat $work/document) | $llama $model "Summary:" $greedy >$work/out
    same "a pipe that takes its time" $work/out $work/want
    cat $work/document | LLAMA_MODEL=$model $llama "Summary:" $greedy >$work/out
    same "a pipe, an argument and LLAMA_MODEL" $work/out $work/want
    cat $work/document | $llama $model -p "Summary:" -p "Summary:" $greedy >$work/out
    (cat $work/want; echo; cat $work/want; echo) >$work/twice
    same "a pipe before each of two prompts" $work/out $work/twice
    cat $work/document | $llama $model -f - $greedy >$work/want
    cat $work/document | $llama $model -f /dev/stdin $greedy >$work/out
    same "-f - and -f /dev/stdin: once" $work/out $work/want
    cat $work/document | $llama trace $model "Summary:" output >$work/out
    $llama trace $model -p "$(printf 'There was once\nThe king\nSummary:')" output </dev/null >$work/want
    same "trace: a pipe and an argument" $work/out $work/want
    printf 'There was ' | $llama tokenize $model once >$work/out
    same "tokenize: a pipe and an argument" $work/out $work/ids
    cut -d' ' -f1 $work/ids | $llama tokenize $model --decode $(cut -d' ' -f2- $work/ids) >$work/out
    if [ "$(cat $work/out)" = "There was once" ]; then ok; else no "tokenize --decode: a pipe and ids: $(cat $work/out)"; fi
    cut -d' ' -f1 $work/ids | tr -d '\n' | $llama tokenize $model --decode -f - $(cut -d' ' -f2- $work/ids) >$work/out
    if [ "$(cat $work/out)" = "There was once" ]; then ok; else no "tokenize --decode: -f - and ids: $(cat $work/out)"; fi
    for empty in /dev/null $work/void; do
        $llama $model "$prompt" $greedy <$empty >$work/out 2>$work/err
        same "$empty and a prompt" $work/out $work/text
        empty "$empty and a prompt: no note" $work/err
    done
    mkfifo $work/silent
    exec 3<>$work/silent
    timeout 5 $llama $model "$prompt" $greedy <$work/silent >$work/out 2>$work/err
    same "a pipe that gives nothing is not waited for" $work/out $work/text
    one_line "a pipe that gives nothing"
    holds "a note says so" grep -q "not read; with -f - it is waited for" $work/err
    printf 'a\\nb' | $llama tokenize $model -e '\x63' --count >$work/out
    printf 'a\\nbc' | $llama tokenize $model --count >$work/ids
    same "-e leaves the document as it is" $work/out $work/ids
    printf 'There was once\na king\n\nx\\n\n' >$work/lines
    $llama tokenize $model --lines -f $work/lines >$work/ids
    while IFS= read -r line; do $llama tokenize $model "$line" </dev/null; done <$work/lines >$work/out
    same "tokenize --lines: a line for each text" $work/ids $work/out
    tr '\n' '\0' <$work/lines | $llama tokenize $model -0 --count --bos >$work/out
    holds "tokenize -0 --count" [ "$(tr '\n' ' ' <$work/out)" = "$(awk '{ printf "%d ", NF + 1 }' $work/ids)" ]
    $llama tokenize $model --decode --lines <$work/ids >$work/out
    same "tokenize --decode --lines: as they were" $work/out $work/lines
    tr '\n' '\0' <$work/ids | $llama tokenize $model --decode -0 | tr '\0' '\n' >$work/out
    same "tokenize --decode -0: each ends with NUL" $work/out $work/lines
    printf '' | $llama tokenize $model --lines >$work/out
    empty "tokenize: no lines" $work/out
    (sleep 0.8; printf 'The king') | $llama $model "and" -n 0 --json --echo -f - >$work/out
    holds "-f - beside a prompt waits" grep -q '"text": "The kingand"' $work/out
    run 0 "a value in the same word" $llama $model "There was once" -n2 --temp 0
    holds "a value in the same word" [ "$(cat $work/out)" = " a king" ]
    run 0 "the name of a file" $llama $model README.md -n 0
    holds "a note" grep -q "README.md is a file; its name is the text" $work/err
    refuse 3 "no model" "the model is the first argument" $llama "Once upon a time"
    refuse 2 "a text that begins with -" "goes after --" $llama $model "- a list"
    timeout 5 $llama $model "$prompt" $greedy -q <$work/silent >$work/out 2>$work/err
    empty "a pipe that gives nothing, -q" $work/err
    for command in info check bench; do
        echo text | timeout 10 $llama $command $model >$work/out 2>$work/err
        holds "$command does not read stdin" test -s $work/out
    done
    exec 3<&-
}

# The same command and seed give the same bytes; kernels, threads and batch change nothing
case_seeds() {
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
}

# Stop texts: the text up to them, never a part of one, in whatever pieces it comes
case_stop() {
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
}

# Characters of several bytes come whole: byte pieces are made likely by a prompt of nothing else
case_utf8() {
    $llama $model "éüñ你好🙂 éüñ你好🙂 éüñ你好🙂" -s 3 --temp 2 --top-p 1 -n 200 >$work/out
    holds "valid UTF-8" iconv -f UTF-8 -t UTF-8 $work/out
}

# Refusals: one line, nothing on stdout, the right code
case_refusals() {
    refuse 2 "no model" "no model" $llama
    refuse 2 "no such option" "no such option" $llama $model x --frobnicate
    refuse 2 "a value is missing" "needs a value" $llama $model x -n
    refuse 2 "-n" "whole number" $llama $model x -n many
    refuse 2 "-n -5" "whole number" $llama $model x -n -5
    refuse 2 "-t 0.8 explains itself" "temp" $llama $model x -t 0.8
    refuse 2 "--temp" "number" $llama $model x --temp -1
    refuse 2 "--top-p" "number" $llama $model x --top-p 1.5
    refuse 2 "--temp nan" "number" $llama $model x --temp nan
    refuse 2 "-s" "whole number" $llama $model x -s -1
    refuse 2 "-s" "2^64" $llama $model x -s 18446744073709551616
    refuse 2 "an empty stop" "empty" $llama $model x -r ""
    refuse 2 "an escape that is nothing to stop at" "NUL" $llama $model x -e -r '\x00'
    refuse 2 "an escape inside a character" "inside a character" $llama $model x -e -r '\x80'
    refuse 2 "half a character to stop at" "inside a character" $llama $model x -r "$(printf '\251')"
    refuse 2 "an argument of two lines" "1^J2" $llama $model x -n "$(printf '1\n2')"
    refuse 2 "info of a text" "no text" $llama info $model x
    refuse 2 "tokenize of two texts" "more than one" $llama tokenize $model x -p y
    refuse 5 "--echo does not come before a refusal" "context" $llama $model "$prompt" -c 4 --echo
    refuse 2 "two prompts" "more than one" $llama $model x y
    refuse 2 "two prompts" "more than one" $llama $model x -p y
    refuse 2 "no prompt file" "cannot be opened" $llama $model -f $work/none
    refuse 2 "a folder for a prompt" "cannot be read" $llama $model -f $work
    refuse 2 "--kernels of another name" "'mmx' is not scalar, avx2, avx512 or neon" $llama $model x --kernels mmx
    case $(uname -m) in aarch64 | arm64) other=avx2 ;; *) other=neon ;; esac
    refuse 2 "--kernels of another CPU" "has no $other; available: scalar" $llama info $model --kernels $other
    for name in $(sed -n 's/.*; available: //p' $work/err | tr -d ,); do
        run 0 "--kernels $name, which is said to be available" $llama $model x -n 1 --kernels "$name"
    done
    refuse 2 "ppl of two files" "ppl takes one FILE" $llama ppl $model a b
    refuse 2 "ppl of a file and -f" "ppl takes one FILE" $llama ppl $model a -f b
    refuse 2 "score of two files" "score takes one FILE" $llama score $model -f a -f b
    refuse 2 "--memory" "map, lock or stream" $llama $model x --memory disk
    for size in "" 0 -1 8 1024 1X 1.5GG G 0x10 inf; do
        refuse 2 "--memory-limit $size" "not a size" $llama $model x --memory-limit "$size"
    done
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
    refuse 3 "score without a tokenizer" "tokenizer" $llama score $work/bare -f tests/tiny/items.tsv
    refuse 3 "trace without a tokenizer" "tokenizer" $llama trace $work/bare "$prompt"
    run 0 "info without a tokenizer" $llama info $work/bare
    holds "info says so" grep -q "tokenizer *none" $work/out
    cp $model/tokenizer.model $work
    run 0 "the tokenizer in the parent folder" $llama $work/bare "$prompt" $greedy
    same "the tokenizer in the parent folder" $work/out $work/text
}

# The context filling up ends it well, with a note; -q is quiet
case_full() {
    run 0 "a full context" $llama $model "$prompt" --temp 0 -c 16 -n 100 --ignore-eos
    holds "says so" grep -q "context of 16 positions is full" $work/err
    holds "with its text" test -s $work/out
    run 0 "-q" $llama $model "$prompt" --temp 0 -c 16 -n 100 --ignore-eos -q
    empty "-q" $work/err
}

# What is run, but perhaps not meant: one note each
case_notes() {
    bad=$(printf 'x\377y')
    run 0 "bytes that are not UTF-8" $llama $model -p "$bad" -p "$bad" -n 1
    one_line "bytes that are not UTF-8: one note"
    holds "which byte ($(cat $work/err))" grep -q "byte 2 of prompt 1 is not UTF-8" $work/err
    printf 'There was\n\nx\377y\n' | $llama $model --lines -n 1 >$work/out 2>$work/err
    holds "--lines: the prompt and its line ($(cat $work/err))" grep -q "byte 2 of prompt 3 (line 3) is not UTF-8" $work/err
    printf '0\ta\tb\n\n0\ta\t\377b\tc\n' | $llama score $model >$work/out 2>$work/err
    one_line "score: bytes that are not UTF-8"
    holds "score: the item and its line ($(cat $work/err))" grep -q "byte 5 of item 2 (line 3) is not UTF-8" $work/err
    printf 'x\377y' | $llama tokenize $model >$work/out 2>$work/err
    one_line "tokenize: bytes that are not UTF-8"
    printf 'The king\377 was' >$work/bytes
    run 0 "ppl: bytes that are not UTF-8" $llama ppl $model $work/bytes
    one_line "ppl: bytes that are not UTF-8"
    run 0 "-q" $llama $model -p "$bad" -n 1 -q
    empty "-q: no note" $work/err
    run 0 "a context beyond the trained one" $llama $forms/hf There -n 1 -c 1024
    one_line "a context beyond the trained one: one note"
    holds "which ($(cat $work/err))" grep -q "trained for 512 positions" $work/err
    run 0 "a context within the trained one" $llama $forms/hf There -n 1 -c 512
    empty "a context within the trained one" $work/err
    run 0 "Meta's files, as Llama 2" $llama $model There -n 1 -c 4096
    empty "Meta's files, as Llama 2" $work/err
    run 0 "Meta's files, beyond Llama 2" $llama info $model -c 5000
    holds "Meta's files, beyond Llama 2: a note" grep -q "LLaMA was trained for 2048 positions, Llama 2 was trained for 4096 positions" $work/err
    rm -rf $work/scaled
    cp -r $model $work/scaled
    sed 's/{/{"use_scaled_rope": true, /' $model/params.json >$work/scaled/params.json
    run 0 "Meta's files, as Llama 3.1" $llama info $work/scaled -c 131072
    empty "Meta's files, as Llama 3.1" $work/err
    holds "info: its family" grep -q "^family      Llama 3.1, 3.2 or 3.3$" $work/out
    holds "info: its scaling" grep -q "^scaling     llama3, factor 8 from 4 to 1 turns in 8192 positions$" $work/out
    run 0 "Meta's files, beyond Llama 3.1" $llama info $work/scaled -c 200000 --json
    holds "Meta's files, beyond Llama 3.1: a note" grep -q "the model was trained for 131072 positions" $work/err
    holds "info --json: its scaling" grep -q '"rope_scaling": "llama3", "rope_factor": 8, "rope_low": 1, "rope_high": 4, "rope_original": 8192' $work/out
    small=tests/tiny/vocabularies/squeezed.model # of 400 pieces, where the model has 1,024 rows
    run 0 "a smaller vocabulary" $llama $model -p There -p once -n 1 --tokenizer $small
    one_line "a smaller vocabulary: one note"
    holds "how much smaller ($(cat $work/err))" grep -q "the tokenizer has 400 pieces, the model 1024 tokens" $work/err
    run 0 "a smaller vocabulary, -q" $llama $model There -n 1 --tokenizer $small -q
    empty "a smaller vocabulary, -q: no note" $work/err
    printf 'IQ== 0\nIg== 1\nIw== 2\n' >$work/tiktoken
    refuse 3 "Llama 3's vocabulary" "cannot be used" $llama $model x --tokenizer $work/tiktoken
}

# Pipes, full disks, closed files, Ctrl-C
case_pipes() {
    if [ -e /dev/full ]; then
        $llama $model "$prompt" $greedy >/dev/full 2>$work/err
        code=$?
        if [ $code -eq 1 ]; then ok; else no "/dev/full: exit $code"; fi
        one_line "/dev/full"
        $llama tokenize $model "$prompt" >/dev/full 2>$work/err
        if [ $? -eq 1 ]; then ok; else no "tokenize to /dev/full"; fi
    fi
    # More than the 1,024 bytes of a file that clang's OpenMP makes at the start
    (ulimit -f 4; $llama $model "$prompt" -n 2000 --ignore-eos -q >$work/out 2>$work/limited)
    code=$?
    cp $work/limited $work/err
    if [ $code -eq 1 ]; then ok; else no "a limit of the file's size: exit $code"; fi
    holds "a limit of the file's size" grep -q "^llama: stdout cannot be written: File too large" $work/err
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
    i=0 # the steps of this prompt take seconds each
    while [ $i -lt 25 ]; do cat $work/prose; i=$((i + 1)); done >$work/steps
    if command -v python3 >/dev/null 2>&1; then
        holds "SIGINT within a step of seconds ends it in less than 0.2 s, in one of eight tries" python3 -c "
import signal, subprocess, sys, time
for i in range(8):
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130
    if time.monotonic() - start < 0.2: sys.exit(0)
sys.exit(1)" $llama $model -f $work/steps -n 1 -c 40000 -b 65536 -t 1 --kernels scalar
    fi
    long=$($llama $model "$prompt" --kernels scalar -t 1 -n 1 -q)
    if [ -n "$long" ]; then ok; else no "one token"; fi
}

# The prompt cache: the same text with it, less to evaluate; what is not one is left alone
case_cache() {
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
    holds "a state longer than the context: a note" grep -q "more than the context of 20; it is not used" $work/err
    same "and it is left as it is" $work/blank $work/kept
    run 0 "another model's state" $llama $forms/meta "There" -n 2 --prompt-cache $work/blank
    holds "another model's state: a note" grep -q "another model; it will be replaced" $work/err
    run 0 "-q: no note" $llama $model "$prompt" --temp 0 -n 2 -q --prompt-cache $work/blank
    empty "-q: no note" $work/err
    echo notes >$work/notes
    refuse 2 "a file that is no state" "not a saved state; remove it" $llama $model "$prompt" --prompt-cache $work/readme
    refuse 2 "a file that is no state" "not a saved state, or only the first 6 bytes" $llama $model "$prompt" --prompt-cache $work/notes
    if [ "$(cat $work/notes)" = notes ]; then ok; else no "a file that is no state is left as it is"; fi
    cat $work/kept $work/notes >$work/more
    refuse 2 "something after a state" "longer than the state in it" $llama $model "$prompt" --prompt-cache $work/more
    head -c 2000 $work/kept >$work/less
    refuse 2 "a state cut short" "the state ends after 2000 of" $llama $model "$prompt" --prompt-cache $work/less
    refuse 2 "a folder for a cache" "regular file" $llama $model "$prompt" --prompt-cache $work
    mkfifo $work/fifo
    refuse 2 "a FIFO for a cache" "regular file" timeout 5 $llama $model "$prompt" --prompt-cache $work/fifo
    refuse 2 "with --fast" "not with --fast" $llama $model "$prompt" --fast --prompt-cache $cache
    ln -s none/cache $work/astray # what cannot be written is refused before the model is opened
    ln -s loop $work/loop
    refuse 2 "a folder that is not there" "^llama: $work/none/cache: cannot be written: No such" $llama /no/model "$prompt" --prompt-cache $work/none/cache
    refuse 2 "a file as a folder" "cannot be written: Not a directory" $llama /no/model "$prompt" --prompt-cache README.md/cache
    refuse 2 "a link into no folder" "$work/astray: cannot be written: No such" $llama /no/model "$prompt" --prompt-cache $work/astray
    refuse 2 "a link to itself" "Too many levels" $llama $model "$prompt" --prompt-cache $work/loop
    refuse 2 "no name" "cannot be written: No such" $llama /no/model "$prompt" --prompt-cache ""
    if ls $work/*.?????? 2>/dev/null | grep -q "cache\."; then no "temporary files stay"; else ok; fi
}

# Several prompts together: in order, each with the text it has alone, whatever separates them
case_batch() {
    run 0 "-p -p -p" $llama $model -p "$one" -p "$two" -p "$three" -n 20 -s 4
    same "-p -p -p" $work/out $work/alone
    printf '%s\n' "$one" "$two" "$three" >$work/lines
    run 0 "--lines" $llama $model --lines -f $work/lines -n 20 -s 4
    same "--lines" $work/out $work/alone
    $llama $model --lines -n 20 -s 4 <$work/lines >$work/out
    same "--lines of a pipe" $work/out $work/alone
    printf '%s\0' "$one" "$two" "$three" >$work/nuls
    run 0 "-0" $llama $model -0 -f $work/nuls -n 20 -s 4
    tr '\n' '\0' <$work/alone >$work/want
    holds "-0: as many NULs" [ "$(tr -dc '\0' <$work/out | wc -c)" -eq 3 ]
    tr '\0' '\n' <$work/out >$work/got
    same "-0" $work/got $work/alone
    run 0 "--null" $llama $model --null -f $work/nuls -n 20 -s 4 -b 2 -t 1
    tr '\0' '\n' <$work/out >$work/got
    same "--null, in other passes" $work/got $work/alone
    printf '%s' "$one" >$work/f1
    run 0 "-f -p -f" $llama $model -f $work/f1 -p "$two" -f $work/f1 -n 20 -s 4
    $llama $model -p "$one" -p "$two" -p "$one" -n 20 -s 4 >$work/want
    same "-f -p -f: in their order" $work/out $work/want
    printf 'There\\x20was once\n' | $llama $model --lines -e -n 20 -s 4 >$work/out
    head -n 1 $work/alone | cmp -s - $work/out && ok || no "--lines -e"
    printf 'There was once\n\nThe king' | $llama $model --lines -n 3 -s 4 >$work/out
    holds "--lines: an empty line is a prompt, the last needs no newline" [ "$(wc -l <$work/out)" -eq 3 ]
    for what in "P:" "-p P:" "P: -f -"; do
        printf 'x\ny\n' | $llama $model $what --lines -n 3 >$work/out 2>$work/err
        code=$?
        if [ $code -eq 2 ] && [ ! -s $work/out ] && grep -q "^llama: --lines: no prompt is read from -f or stdin" $work/err; then ok; else no "--lines splits nothing, $what: $code, $(cat $work/err)"; fi
    done
    run 0 "--lines, -p and -f" $llama $model --lines -p "$one" -f $work/lines -n 20 -s 4
    holds "--lines, -p and -f: four prompts" [ "$(wc -l <$work/out)" -eq 4 ]
    run 0 "--lines of nothing" $llama $model --lines -f $work/void
    empty "--lines of nothing" $work/out
    for i in $(seq 40); do echo "Number $i of them"; done >$work/forty # more than run together
    run 0 "forty" $llama $model --lines -f $work/forty -n 9 --temp 0
    for i in 1 17 33 40; do
        $llama $model "Number $i of them" -n 9 --temp 0 >$work/want
        if [ "$(sed -n ${i}p $work/out)" = "$(cat $work/want)" ]; then ok; else no "number $i of forty: $(sed -n ${i}p $work/out)"; fi
    done
    for seed in 4 5 6; do $llama $model "$one" -n 20 -s $seed >>$work/samples && echo >>$work/samples; done
    run 0 "-k 3" $llama $model "$one" -n 20 -s 4 -k 3 --stats
    same "-k 3: the seeds from -s on" $work/out $work/samples
    holds "-k 3: the prompt is evaluated once" grep -q "^prompt *$(($($llama tokenize $model --count "$one") + 1)) tokens" $work/err
    run 0 "--samples" $llama $model "$one" --n-predict 20 --seed 4 --samples 3
    same "--samples" $work/out $work/samples
}

# One input that cannot be run gets an error, in its place; the others are run
case_rejected() {
    long="$prompt $prompt"
    for p in "$one" "$two"; do $llama $model "$p" -c 16 -n 3 -s 4 >>$work/short && echo >>$work/short; done
    { sed -n 1p $work/short; echo; sed -n 2p $work/short; } >$work/want
    run 5 "-p -p -p, one too long" $llama $model -p "$one" -p "$long" -p "$two" -c 16 -n 3 -s 4
    same "the others are run, an empty text in its place" $work/out $work/want
    one_line "one too long"
    holds "its number ($(cat $work/err))" grep -q "^llama: prompt 2: [0-9]* tokens do not fit in a context of 16; see -c" $work/err
    printf '%s\n' "$one" "$long" "$two" >$work/lines
    run 5 "--lines, one too long" $llama $model --lines -f $work/lines -c 16 -n 3 -s 4
    same "--lines: the others are run" $work/out $work/want
    holds "--lines: its line ($(cat $work/err))" grep -q "^llama: prompt 2 (line 2): [0-9]* tokens" $work/err
    printf '%s\0' "$one" "$long" "$two" >$work/nuls
    run 5 "-0, one too long" $llama $model -0 -f $work/nuls -c 16 -n 3 -s 4
    tr '\0' '\n' <$work/out >$work/got
    same "-0: the others are run" $work/got $work/want
    run 5 "--json, one too long" $llama $model --lines -f $work/lines -c 16 -n 3 -s 4 -k 2 --json
    holds "--json: an object in its place ($(cat $work/out))" [ "$(sed -n 3,4p $work/out | grep -c '^{"prompt": 1, "sample": [01], "line": 2, "error": "[0-9]* tokens do not fit in a context of 16; see -c"}$')" -eq 2 ]
    holds "--json: the others" [ "$(grep -c '"text"' $work/out)" -eq 4 ]
    run 5 "--json, one prompt" $llama $model "$long" -c 16 --json
    holds "--json, one prompt: an object" grep -q '^{"prompt": 0, "sample": 0, "error": ' $work/out
    printf '%s\n' "$long" "$long" >$work/lines
    run 5 "all too long" $llama $model --lines -f $work/lines -c 16
    holds "all too long: an error each" [ "$(wc -l <$work/err) $(wc -l <$work/out)" = "2 2" ]
    printf '%s\n\n%s\n' "$one" "$two" | $llama $model --lines --no-bos -n 3 -s 4 >$work/out 2>$work/err
    if [ $? -eq 2 ] && [ "$(wc -l <$work/out)" -eq 3 ] && grep -q "^llama: prompt 2 (line 2): the prompt is empty" $work/err; then ok; else no "an empty line and --no-bos: $(cat $work/err)"; fi
    head -n 2 $items >$work/items
    $llama score $model -f $work/items >$work/want
    { head -n 1 $work/items; echo; printf '0\t%s\ta\tb\n' "$(head -c 9000 tests/tiny/README.md | tr '\n\t' '  ')"; tail -n 1 $work/items; } >$work/mixed
    run 5 "score, one too long" $llama score $model -f $work/mixed -c 300
    holds "score: its number and line ($(cat $work/err))" grep -q "^llama: item 2 (line 3): .*tokens do not fit in a context of 300" $work/err
    holds "score: a row says so" grep -q "^error	1	.*tokens do not fit" $work/out
    grep -v ^error $work/out | sed 's/^\([a-z]*	\)2	/\11	/' >$work/got
    same "score: the others are scored" $work/got $work/want
    run 5 "score --json, one too long" $llama score $model -f $work/mixed -c 300 --json
    holds "score --json: an object says so" grep -q '^{"item": 1, "line": 3, "error": ".*tokens do not fit' $work/out
    holds "score --json: the others" [ "$(grep -c '"pick"' $work/out)" -eq 2 ]
    head -c 3000000 /dev/zero | tr '\0' 'a' >$work/huge # refused by its length, before it is tokenized
    refuse 5 "a prompt of 3 MB" "at least [0-9]* tokens do not fit" timeout 1 $llama $model -f $work/huge
}

# --json: an object a line, that python reads; text, tokens, finish, seed, and the probabilities
case_json() {
    cat >$work/objects.py <<'END'
import json, math, sys
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
alone = open(sys.argv[2], encoding="utf-8").read().split("\n")
assert not any("line" in r or "error" in r for r in rows), rows
assert [r["prompt"] for r in rows] == [0, 0, 1, 1, 2, 2] and [r["sample"] for r in rows] == [0, 1] * 3, rows
for r in rows:
    assert r["seed"] == 4 + r["sample"] and r["finish"] == "length" and len(r["tokens"]) == 20 and r["prompt_tokens"] > 1, r
    assert 0 <= r["first_token_seconds"] <= r["seconds"] < 100
    assert len(r["logprobs"]) == 20
    for token, p in zip(r["tokens"], r["logprobs"]):
        assert p["token"] == token and len(p["top"]) == 3
        assert all(a["logprob"] >= b["logprob"] for a, b in zip(p["top"], p["top"][1:])) and p["logprob"] <= p["top"][0]["logprob"] + 1e-5 <= 1e-5
        assert sum(math.exp(t["logprob"]) for t in p["top"]) <= 1.00001
        assert all(isinstance(t["text"], str) and t["text"] for t in [p] + p["top"]), p
        assert all(abs(t["logprob"] - p["logprob"]) < 1e-5 for t in p["top"] if t["token"] == token)
    assert "".join(p["text"] for p in r["logprobs"]) == r["text"], r
assert [r["text"] for r in rows if r["sample"] == 0] == alone[:3], rows
END
    run 0 "--json" $llama $model -p "$one" -p "$two" -p "$three" -n 20 -s 4 -k 2 --json --logprobs 3
    if command -v python3 >/dev/null 2>&1; then
        holds "--json: $(head -c 300 $work/out)" python3 $work/objects.py $work/out $work/alone
    else
        echo "SKIP: what --json writes (no python3)"
    fi
    holds "--json: six lines" [ "$(wc -l <$work/out)" -eq 6 ]
    run 0 "--logprobs of bytes" $llama $model "$one" -n 40 --json --logprobs 1 --temp 1e6 -s 5
    holds "--logprobs: the text of a byte is its piece" grep -q '"text": "<0x[0-9A-F][0-9A-F]>"' $work/out
    run 0 "--logprobs of </s>" $llama $model "they lived happily ever after." -n 30 --json --logprobs 100 --temp 0
    holds "--logprobs: the text of </s>" grep -q '{"token": 2, "text": "</s>", "logprob"' $work/out
    run 0 "--json: finishes" $llama $model -p "$one" --stop "," --json --temp 0 -n 60
    holds "stop" grep -q '"finish": "stop"' $work/out
    run 0 "--json: a full context" $llama $model -p "$one" -c 12 --json -n -1 --ignore-eos -q
    holds "context" grep -q '"finish": "context"' $work/out
    run 0 "--json: no tokens" $llama $model -p "a\"b\\c" -n 0 --json --echo
    holds "--json: escapes ($(cat $work/out))" grep -qF '"text": "a\"b\\c", "tokens": [], "finish": "length"' $work/out
    bad=$(printf 'x\033\302\233\377\tz')
    run 0 "--json: what is no text" $llama $model -p "$bad" -n 0 --json --echo
    holds "--json: control characters ($(cat $work/out))" grep -qF '"text": "x\u001b\u009b\ufffd\u0009z"' $work/out
    refuse 2 "--logprobs alone" "only with --json" $llama $model x --logprobs 2
    refuse 2 "-i and --json" "one text" $llama $model -i --json
    refuse 2 "-i and -k" "one text" $llama $model -i -k 2
}

# A conversation through pipes; tests/cli/terminal.py has the rest. The cache serves it too
case_talk() {
    printf 'The king\n/sing\n//x\n' | $llama $model --interactive --temp 0 -n 12 --in-prefix 'A: ' --in-suffix '\nB:' --escape >$work/out 2>$work/err
    holds "-i: a reply a line" [ "$(wc -l <$work/out)" -ge 2 ]
    one_line "-i: no such command"
    holds "-i: says which there are" grep -q "/reset, /save FILE, /load FILE, /stats, /exit" $work/err
    cp $work/out $work/talk
    for n in 1 2; do
        printf 'The king\n/sing\n//x\n' | $llama $model -i --temp 0 -n 12 --in-prefix 'A: ' --in-suffix '\nB:' -e --prompt-cache $work/talked >$work/out 2>/dev/null
        same "-i --prompt-cache, $n: the same replies" $work/out $work/talk
        holds "-i --prompt-cache: a file" test -s $work/talked
    done
    printf 'one\ntwo\nthree\nfour\nfive\nsix\n' | $llama $model -i --temp 0 -n 12 -c 40 >$work/out 2>$work/err
    if [ $? -eq 5 ]; then ok; else no "-i: a full context is an error of a pipe's conversation"; fi
    holds "-i: says so" grep -q "context of 40 positions is full" $work/err
    printf '%s\n' "$one" "$two" | $llama $model -i --temp 0 -n 2 -c 50 >$work/want 2>/dev/null
    printf '%s\n' "$one" "$(seq 60 | tr '\n' ' ')" "$two" | $llama $model -i --temp 0 -n 2 -c 50 >$work/out 2>$work/err
    code=$?
    if [ $code -eq 5 ]; then ok; else no "-i: a line that does not fit: exit $code"; fi
    same "-i: a line that does not fit is not added, and the chat goes on" $work/out $work/want
    one_line "-i: a line that does not fit"
    printf 'one\n/exit\n' | $llama $model -i --temp 0 -n 2 >$work/want
    for pair in "1 /load $work/nowhere" "1 /save $work/no/where" "1 /load $work/readme" "2 /sing" "2 /load" "2 /undo" "2 /retry"; do # one rule for all
        printf '%s\none\n/sing\n' "${pair#* }" | $llama $model -i --temp 0 -n 2 >$work/out 2>$work/err
        code=$?
        if [ $code -eq ${pair%% *} ]; then ok; else no "-i: ${pair#* }: exit $code"; fi
        same "-i: ${pair#* }: the chat goes on" $work/out $work/want
    done
    $llama help complete >$work/help
    holds "help complete: the rule" grep -q "^No error in a line or a chat command ends the chat" $work/help
    printf 'one\n/save %s\n/exit\nnot sent\n' "$work/full" | $llama $model -i --temp 0 -n -1 --ignore-eos -c 40 >$work/out 2>$work/err
    if [ $? -eq 0 ]; then ok; else no "-i: /save of a full context: $(cat $work/err)"; fi
    holds "-i: what of it is not saved is said: $(cat $work/err)" grep -q "full: the context is full; the last [0-9]* of [0-9]* tokens are not saved" $work/err
    holds "-i: but the rest is" test -s $work/full
    refuse 2 "-i --echo" "not with -i" $llama $model -i --echo
    refuse 2 "--in-prefix without -i" "only with -i" $llama $model x --in-prefix a
    printf '/load %s\n' "$work/readme" | $llama $model -i >$work/out 2>$work/err
    holds "/load of no state" grep -q "not a saved state" $work/err
    printf '/load %s\n' "$work/nowhere" | $llama $model -i >$work/out 2>$work/err
    holds "/load of nothing" grep -q "No such file" $work/err
    empty "/load of nothing says nothing else" $work/out
    printf '/save %s\n' "$work/no/where" | $llama $model -i >$work/out 2>$work/err
    holds "/save to nowhere" grep -q "cannot be written" $work/err
    (ulimit -v 2000000 && $llama $model x -c 1048576 -t 1 -n 1 >$work/out 2>$work/err)
    if [ $? -eq 4 ]; then ok; else no "no memory for the context: $(cat $work/err)"; fi
    for what in "complete $model x" "score $model -f $items" "ppl $model README.md" "trace $model x"; do
        (ulimit -v 2000000 && $llama $what -c 1048576 -t 1 >$work/out 2>$work/err)
        code=$?
        if [ $code -eq 4 ] && grep -q "use a smaller context: see -c$" $work/err; then ok; else no "no memory: ${what%% *}: $code, $(cat $work/err)"; fi
    done
    (ulimit -v 2000000 && $llama $model x -c 1048576 -b 4096 -t 1 >$work/out 2>$work/err)
    holds "no memory, and a large -b" grep -q "see -c and -b$" $work/err

    if command -v python3 >/dev/null 2>&1; then # lines that come together, from a pipe that stays open, are all answered
        cat >$work/open.py <<'END'
import os, subprocess, sys
talk = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
os.write(talk.stdin.fileno(), b"one\n/reset\ntwo\n/reset\nthree\n")
for line in range(3):
    while os.read(talk.stdout.fileno(), 1) not in (b"\n", b""):
        pass
talk.stdin.close()
sys.exit(talk.wait())
END
        holds "-i: lines that come together" timeout 20 python3 $work/open.py $llama $model -i --temp 0 -n 3
        $llama $model -i -n 1 <$work >$work/out 2>$work/err
        if [ $? -eq 2 ]; then ok; else no "-i: of a folder"; fi
        holds "-i: stdin cannot be read" grep -q "stdin cannot be read" $work/err
    fi
}

# score: as numpy has it (tests/reference/score.py --write); the same bits and lines however it comes about; what is no item
case_score() {
    run 0 "score" $llama score $model -f $items
    cp $work/out $work/scores
    awk 'BEGIN { FS = "\t" }
         FNR == NR { want[FNR] = $0; n = FNR; next }
         { same = NF == split(want[FNR], w, "\t")
           for (i = 1; i <= NF; i++)
               same = same && ($1 == "ending" && (i == 4 || i == 8) ? ($i - w[i]) ^ 2 <= 1e-6 : $i "" == w[i] "")
           if (!same) { print $0 ", not " want[FNR]; bad = 1 } }
         END { exit bad || FNR != n }' tests/tiny/items.expected $work/scores >$work/differ
    holds "score: numpy's figures ($(head -n 1 $work/differ))" [ $? -eq 0 -a ! -s $work/differ ]
    run 0 "score --stats" $llama score $model -f $items --stats
    same "score --stats: the same result" $work/out $work/scores
    scored=$(awk '$1 == "ending" { n += $5 } END { print n }' $work/scores) # and about as many after the answer's context
    holds "score --stats: 2 x $scored tokens ($(grep ^scored $work/err))" sh -c "awk '\$1 == \"scored\" { found = \$2 > 1.9 * $scored && \$2 < 2.1 * $scored } END { exit !found }' $work/err"
    run 0 "score of other bits of work" $llama score $model -f $items -t 1 -b 3 --kernels scalar -c 300
    same "score: the same bits" $work/out $work/scores
    $llama score $model <$items >$work/out 2>$work/err
    same "score of a pipe" $work/out $work/scores
    awk '{ printf "%s\r\n\r\n", $0 }' $items | $llama score $model >$work/out 2>$work/err
    same "score: lines that end in CR LF, empty ones between" $work/out $work/scores
    run 0 "score -q" $llama score $model -q -f $items
    grep '^accuracy' $work/scores >$work/accuracy
    same "score -q: the accuracies alone" $work/out $work/accuracy
    head -n 1 $items | sed 's/^[0-9]*/-/' | $llama score $model >$work/out 2>$work/err
    holds "score: without a label there is no accuracy" sh -c "grep -q '^pick	0	-	' $work/out && ! grep -q '^accuracy' $work/out"
    n=0
    for item in 'x\ty\tz' '2\ty\tz\tz' '-1\ty\tz' '0x\ty\tz' '0\ty' '0' '\t' '99999999999999999999\ty\tz'; do
        printf -- "$item\n" >$work/item
        refuse 2 "score of no item, $n" "item 1 (line 1): \(a line must be a label\|label [0-9]*, but\)" $llama score $model -f $work/item
        n=$((n + 1))
    done
    for item in '0\ty\t' '0\ty\tz\t\tz' '0\ty\tz\\c'; do
        printf "0\ta\tb\n$item\n" >$work/item
        refuse 2 "score of an empty ending, $n" "item 2 (line 2): a continuation is empty" $llama score $model -f $work/item
        n=$((n + 1))
    done
    printf '0\ta\tb\0c\n' >$work/item
    refuse 2 "score of a NUL" "have a NUL in them" $llama score $model -f $work/item
    printf '\n\n' >$work/item
    refuse 2 "score of nothing" "no items" $llama score $model -f $work/item
    printf '0\ta b\tc\td\r\n\r\n\n7\ty\tz\n' >$work/item
    refuse 2 "score: lines are counted however they end" "item 2 (line 4)" $llama score $model -f $work/item
    run 0 "score --json" $llama score $model -f $items --json
    cp $work/out $work/objects
    run 0 "score --json -q" $llama score $model -f $items --json -q
    holds "score --json -q: the accuracies alone" sh -c "tail -n 1 $work/objects | cmp - $work/out"
    if command -v python3 >/dev/null 2>&1; then
        cat >$work/score.py <<'END'
import json, sys
rows, objects = [[line.rstrip("\n").split("\t") for line in open(sys.argv[1])], [json.loads(line) for line in open(sys.argv[2])]]
made = []
for o in objects[:-1]:
    for k, c in enumerate(o["continuations"]):
        made.append(["ending", o["item"], k, c["logprob"], c["tokens"], c["bytes"], int(c["greedy"]), c["answer_logprob"]])
    made.append(["pick", o["item"], "-" if o["label"] is None else o["label"]] + [o["pick"][r] for r in ("sum", "token", "byte", "answer")])
for rule, a in objects[-1]["accuracy"].items():
    made.append(["accuracy", rule, a["accuracy"], a["standard_error"], a["right"], a["labelled"]])
assert len(made) == len(rows), (len(made), len(rows))
for m, r in zip(made, rows):
    assert len(m) == len(r) and all(str(x) == y or abs(float(x) - float(y)) < 1e-4 for x, y in zip(m, r)), (m, r)
assert [o["line"] for o in objects[:-1]] == list(range(1, len(objects)))
END
        holds "score --json: what the rows say" python3 $work/score.py $work/scores $work/objects
    fi
}

# ppl: the same for a text and its ids; windows; what it says of itself
case_ppl() {
    run 0 "ppl" $llama ppl $model $work/prose
    cp $work/out $work/ppl
    run 0 "ppl --stats" $llama ppl $model $work/prose --stats
    same "ppl --stats: the same result" $work/out $work/ppl
    holds "ppl --stats ($(cat $work/err))" grep -q "^scored  *$(awk '$1 == "tokens" { print $2 }' $work/ppl) tokens in" $work/err
    holds "ppl: figures" grep -qE '^perplexity  [0-9.]+ \+- [0-9.]+$' $work/out
    holds "ppl: three lines, and no definition" [ "$(wc -l <$work/out)" -eq 3 ]
    holds "help ppl: the definition" sh -c "$llama help ppl | grep -q '^Perplexity is exp of the mean of -log p'"
    run 0 "ppl --json" $llama ppl $model $work/prose --json
    if command -v python3 >/dev/null 2>&1; then
        holds "ppl --json: what the lines say ($(cat $work/out))" python3 -c "
import json, re
o, text = json.load(open('$work/out')), open('$work/ppl').read()
want = [float(x) for x in re.findall(r'[0-9.]+', text.replace(',', ' '))]
got = [o[k] for k in ('perplexity', 'standard_error', 'nll', 'bits_per_token', 'bits_per_byte', 'scored', 'tokens', 'context', 'stride')]
assert len(want) == len(got) and all(abs(a - b) < max(0.06, b / 50) for a, b in zip(got, want)), (got, want)"
    fi
    run 0 "ppl --json in windows" $llama ppl $model $work/prose --json --ctx 100
    holds "ppl --json: null where a token was not scored" grep -q '"bits_per_byte": null, ' $work/out
    $llama tokenize $model --bos <$work/prose >$work/prose.ids
    run 0 "ppl --ids" $llama ppl $model $work/prose.ids --ids
    holds "ppl --ids: the same" [ "$(head -n 1 $work/out)" = "$(head -n 1 $work/ppl)" ]
    run 0 "ppl of other bits of work" $llama ppl $model -f $work/prose -t 1 --batch-size 7 --kernels scalar
    same "ppl: the same bits" $work/out $work/ppl
    run 0 "ppl in windows" $llama ppl $model $work/prose --ctx 100 --stride 50
    n=$(wc -w <$work/prose.ids)
    holds "ppl: each token once ($(sed -n 3p $work/out))" grep -q "^tokens      $((n - 1)) of $n, in windows of 100, 50 apart" $work/out
    run 0 "ppl in windows side by side" $llama ppl $model $work/prose --ctx-size 100
    holds "ppl: but the first of each window" grep -q "^tokens      $((n - (n + 99) / 100)) of $n, in windows of 100, 100 apart" $work/out
    run 0 "ppl --no-bos" $llama ppl $model $work/prose --no-bos
    holds "ppl --no-bos: a token less" grep -q "^tokens      $((n - 2)) of $((n - 1))" $work/out
    refuse 2 "ppl of nothing" "1 token, and perplexity needs 2" $llama ppl $model $work/void
    refuse 2 "ppl of nothing, without <s>" "0 tokens, and perplexity needs 2" $llama ppl $model $work/void --no-bos
    refuse 2 "ppl: a stride too long" "more than the window" $llama ppl $model $work/prose --ctx 10 --stride 11
    refuse 2 "ppl of ids that are none" "not a token id" $llama ppl $model $work/prose --ids
    refuse 2 "ppl of a file that is not there" "cannot be opened" $llama ppl $model $work/none
}

# A model cut short under way, and what is no model: an error, soon
case_cut() {
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
    holds "cut short: says what ($(cat $work/err))" grep -q "consolidated.00.pth: was truncated" $work/err
    mkfifo $work/model.gguf
    for what in $work/model.gguf /dev/zero /dev/null; do
        refuse 3 "$what for a model" "regular file" timeout 5 $llama $what "$prompt"
    done
}

# On a terminal, what would act on it is shown; through a pipe it passes as it is
case_terminals() {
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
        bad2=$(printf 'a\355\240\200\340\200\212\364\220\200\200b') # a surrogate, an overlong newline, after the last
        script -qec "$llama $model x -n '$bad2'" /dev/null </dev/null >$work/out 2>&1
        holds "what is no UTF-8 is shown by its bytes" grep -qF "a<ED><A0><80><E0><80><8A><F4><90><80><80>b" $work/out
        script -qec "$llama $model x -n '$bad'" /dev/null </dev/null >$work/out 2>&1
        holds "shown in a complaint" grep -qF "a^[[31m^H<U+009B>m<U+202E>b<9B>^Ic é" $work/out
    else
        echo "SKIP: terminals (no script)"
    fi
}

# trace: every name once, the same checksums whatever computes them; those asked for alone
case_trace() {
    run 0 "trace" $llama trace $model "$prompt"
    cp $work/out $work/trace
    holds "trace: all of 4 layers" [ "$(wc -l <$work/trace)" -eq 75 ]
    holds "trace: a line" grep -qE '^layers\.3\.feed_forward\.w1 +\[[0-9]+, 512\]  mean [-0-9.e]+  rms [0-9.]+  crc32 [0-9a-f]{8}  first( [-0-9.e]+){4}$' $work/trace
    run 0 "trace, otherwise" $llama trace $model "$prompt" -t 1 --kernels scalar
    same "trace: the same bits" $work/out $work/trace
    run 0 "trace --npy" $llama trace $model "$prompt" layers.2.h output --npy $work/npy --json
    holds "trace --npy: two files" [ "$(ls $work/npy)" = "layers.2.h.npy
output.npy" ]
    holds "trace --npy: a header and the numbers" [ "$(head -c 128 $work/npy/output.npy | tail -c 118 | tr -d ' ')" = "{'descr':'<f4','fortran_order':False,'shape':(1,1024)}" ]
    holds "trace --npy: their bytes" [ "$(wc -c <$work/npy/output.npy)" -eq $((128 + 4096)) ]
    holds "trace --json: objects" [ "$(grep -cE '^\{"name": "[a-z0-9.]+", "shape": \[[0-9, ]+\], "mean": [-0-9.e]+, "rms": [0-9.e-]+, "crc32": "[0-9a-f]{8}", "first": \[[-0-9., e]+\]\}$' $work/out)" -eq 2 ]
    run 2 "trace --npy: no folder can be made" $llama trace $model "$prompt" --npy $work/none/none
    run 2 "trace --npy: a file" $llama trace $model "$prompt" --npy $work/trace
    mkdir -p $work/npy/full/output.npy
    run 1 "trace --npy: a file cannot be written" $llama trace $model "$prompt" output --npy $work/npy/full
    run 0 "trace of names" $llama trace $model "$prompt" output layers.2
    holds "trace of names: a layer and the output" [ "$(wc -l <$work/out)" -eq 19 ]
    holds "trace of names: they are those of all" [ "$(grep -cFxf $work/out $work/trace)" -eq 19 ]
    run 0 "trace -p" $llama trace $model -p "$prompt" norm
    holds "trace -p: one line" [ "$(grep -cFxf $work/out $work/trace)" -eq 1 ]
    echo "$prompt" | $llama trace $model >$work/out
    same "trace of a pipe" $work/out $work/trace
    run 2 "trace of no such name" $llama trace $model "$prompt" layers.2 layer
    one_line "trace of no such name"
    refuse 2 "trace without a prompt" "prompt is empty" $llama trace $model --no-bos -p ""
    refuse 5 "trace of too much" "a context of 3" $llama trace $model "$prompt" -c 3
}

# bench: three lines, and no text
case_bench() {
    run 0 "bench" $llama bench $model -t 1
    holds "bench: figures" grep -qE '^prompt +128 tokens, [0-9.]+ tokens/s$' $work/out
    holds "bench: figures" grep -qE '^generation +32 tokens, [0-9.]+ tokens/s, [0-9.]+ GB/s of weights$' $work/out
    holds "bench: kernels" grep -qE '^kernels +[a-z0-9]+, 1 thread$' $work/out
    run 0 "bench --json" $llama bench $model -t 1 --json
    holds "bench --json ($(cat $work/out))" grep -qE '^\{"prompt_tokens": 128, "generated_tokens": 32, "prompt_tokens_per_second": [0-9.]+, "generated_tokens_per_second": [0-9.]+, "weight_bytes_per_second": [0-9.e+]+, "kernels": "[a-z0-9]+, 1 thread"\}$' $work/out
    refuse 2 "bench of a text" "no text" $llama bench $model x
    refuse 3 "bench of nothing" "cannot be opened" $llama bench $work/nothing
}

# info, tokenize, help
case_info() {
    run 0 "info" $llama info $model -c 128
    holds "info: shape" grep -q "dim 192, layers 4, heads 6, kv_heads 6, head_dim 32, hidden 512, vocab 1024" $work/out
    holds "info: KV cache" grep -q "128 positions, KV cache 786432 bytes" $work/out
    holds "info: kernels" grep -q "^kernels  *[a-z0-9 ]*, [0-9]* thread" $work/out
    holds "info: dtype" grep -q "meta, float16, 1 shard$" $work/out
    holds "info: family, scaling" grep -q "^family      LLaMA 1 or 2$" $work/out
    holds "info: no scaling" grep -q "^scaling     none$" $work/out
    run 0 "info of ranks" $llama info $model -c 128 --ranks 4
    holds "info of ranks: each" [ "$(grep -cE '^rank [0-3] +[0-9.]+ MB of weights' $work/out)" -eq 4 ]
    holds "info of ranks: a token" grep -qE '^a token +17 gathers' $work/out
    run 2 "info of ranks: more than heads" $llama info $model --ranks 7
    run 0 "info --json" $llama info $model -c 128 --json
    if command -v python3 >/dev/null 2>&1; then
        holds "info --json ($(cat $work/out))" python3 -c "
import json
o = json.load(open('$work/out'))
want = {'format': 'meta', 'dtype': 'float16', 'shards': 1, 'dim': 192, 'layers': 4, 'heads': 6, 'kv_heads': 6, 'head_dim': 32,
        'hidden': 512, 'vocab': 1024, 'context': 128, 'kv_bytes_per_token': 6144, 'tokenizer': True, 'bos': 1, 'eos': 2}
assert all(o[k] == v for k, v in want.items()) and o['memory'] > o['memory_needed'] > 786432 and o['kernels'], o"
    fi
    run 0 "tokenize" $llama tokenize $model "There was once"
    printf '%s' "There was once" | $llama tokenize $model >$work/ids
    same "tokenize from stdin" $work/out $work/ids
    if [ "$(wc -l <$work/ids)" -eq 1 ]; then ok; else no "one line of ids"; fi
    run 0 "tokenize -p" $llama tokenize $model -p "There was once"
    same "tokenize -p" $work/out $work/ids
    echo hi >$work/hello
    LLAMA_MODEL=$model $llama $work/hello $greedy >$work/out 2>$work/err
    if [ $? -eq 0 ] && [ -s $work/out ]; then ok; else no "a file's name is a prompt where LLAMA_MODEL is set: $(cat $work/err)"; fi
    LLAMA_MODEL=$model $llama tokenize There was once >$work/out
    same "tokenize with LLAMA_MODEL" $work/out $work/ids
}

# Every format alike: the same text and ids, info, check
case_formats() {
    for form in $forms/meta $forms/hf $forms/model.gguf $forms/bin/model.bin; do
        run 0 "$form: ppl" $llama ppl $form $work/prose --ctx 64
        [ $form = $forms/meta ] && cp $work/out $work/perplexed
        same "$form: the perplexity of the others" $work/out $work/perplexed
        run 0 "$form: a batch" $llama $form -p "There" -p "The king" -k 2 -n 6 -s 1
        [ $form = $forms/meta ] && cp $work/out $work/batch
        same "$form: the batch of the others" $work/out $work/batch
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
        run 0 "$form: score" $llama score $form -f $items
        [ $form = $forms/meta ] && cp $work/out $work/scored
        same "$form: the scores of the others" $work/out $work/scored
        run 0 "$form: trace" $llama trace $form "There" layers.0.attention.wq
        [ $form = $forms/meta ] && cp $work/out $work/traced
        same "$form: the queries of the others" $work/out $work/traced
    done
    run 0 "info: huggingface" $llama info $forms/hf
    holds "info: huggingface, shards, context" grep -q "huggingface, float16, 3 shards$" $work/out
    holds "info: its context" grep -q "^context *512 positions" $work/out
    mkdir $work/listed
    cp $model/params.json $model/consolidated.00.pth $work/listed
    if command -v md5sum >/dev/null 2>&1; then
        (cd $work/listed && md5sum params.json consolidated.00.pth >checklist.chk)
        run 0 "check with checklist.chk" $llama check $work/listed
        sed 's/^./x/' $work/listed/checklist.chk >$work/sums
        cp $work/sums $work/listed/checklist.chk
        refuse 3 "check of another sum" "MD5" $llama check $work/listed
    fi
    cp $model/consolidated.00.pth $work/listed
    rm -f $work/listed/checklist.chk
    dd if=/dev/zero of=$work/listed/consolidated.00.pth bs=1024 count=80 seek=1200 conv=notrunc 2>/dev/null
    $llama help check >$work/help
    holds "help check: how many zeros, and what is not noticed" sh -c "grep -q '80 KiB' $work/help && grep -q 'CRC-32 sums .* are not compared' $work/help"
    $llama help score >$work/help
    holds "help score: what an invalid line does" grep -q "the input is refused before anything is scored" $work/help
    refuse 3 "check of 80 KiB of zeros" "feed_forward.*only zeros, as after an interrupted download" $llama check $work/listed
    refuse 2 "check of a text" "no text" $llama check $model x
    refuse 3 "check of nothing" "cannot be opened" $llama check $work/nothing
    cp -r $forms/bin $work/bent
    head -c 40000 /dev/zero | dd of=$work/bent/model.bin bs=1 seek=28 conv=notrunc 2>/dev/null
    dd if=$work/bent/model.bin bs=40000 count=2 2>/dev/null | tr '\0' '\377' >$work/bent/ones
    cp $work/bent/model.bin $work/bent/model2.bin
    dd if=$work/bent/ones of=$work/bent/model2.bin bs=1 seek=28 count=64 conv=notrunc 2>/dev/null
    refuse 3 "check of weights that are no numbers" "tok_embeddings.weight has a number that is not finite at row 0, column 0" $llama check $work/bent/model2.bin
    refuse 3 "a checkpoint's own file" "give its folder instead" $llama $forms/meta/consolidated.00.pth x
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
}

# Help: a first screen, all of each verb, what shells complete, the manual page; and each option it names is tried here
case_help() {
    run 0 "-h" $llama -h
    cp $work/out $work/help
    holds "-h fits a screen" sh -c "[ \$(wc -l <$work/out) -le 24 ] && [ -z \"\$(awk 'length > 80' $work/out)\" ]"
    run 0 "help" $llama help
    same "help: the first screen" $work/out $work/help
    run 0 "--help after a model" $llama $model --help
    same "--help after a model: the first screen" $work/out $work/help
    verbs="complete score ppl tokenize info check trace bench help"
    for verb in $verbs; do
        holds "-h has $verb" grep -q "^  llama $verb " $work/help
        run 0 "help $verb" $llama help $verb
        holds "help $verb: usage, an example" sh -c "grep -q '^usage: llama $verb' $work/out && grep -q '^example: llama ' $work/out"
        cp $work/out $work/one
        [ $verb = complete ] || [ $verb = help ] || { run 0 "$verb -h" $llama $verb -h && same "$verb -h" $work/out $work/one; }
        holds "$verb is tried here" grep -q "\$llama $verb" "$0"
    done
    run 0 "help all" $llama help all
    cp $work/out $work/all
    holds "help all: 80 columns" [ -z "$(awk 'length > 80' $work/all)" ]
    sed -n 's/^  \(-[^ ].\{23\}\).*/\1/p' $work/all | grep -oE -- '--?[a-z0-9][a-z0-9-]*' | sort -u >$work/names
    holds "help all: there are options" [ "$(wc -l <$work/names)" -ge 50 ]
    tr "\"'=" '   ' <"$0" >$work/self
    for name in $(cat $work/names); do # each as a word of its own
        holds "$name is tried here" grep -qE -- "(^|[ (])$name([ );]|\$)" $work/self
    done
    sed -n 's/^exit: //p' $work/help | grep -oE '\b[0-9]+ ' | while read -r code; do
        grep -qE "(run|refuse) $code |code -eq $code " "$0" || echo $code
    done >$work/untried
    empty "each exit code is tried here" $work/untried
    holds "help all: an option's help is one line, found by grep" [ -z "$(grep -E '^ {28}[a-z(]' $work/all)" ]
    run 0 "help help" $llama help help
    cp $work/out $work/one
    for option in completion version; do # what other programs have as a command
        run 0 "help $option" $llama help $option
        same "help $option: the help of help" $work/out $work/one
        refuse 2 "$option" "did you mean --$option?" $llama $option bash
    done
    for verb in $verbs; do # no empty line in a sentence, and none unfinished
        $llama help $verb | awk '!NF && last ~ /[a-z]$/ && last !~ /^ / && last !~ /^usage/ { print last } NF { last = $0 } !NF { last = "" }' >$work/broken
        empty "help $verb: a paragraph ends with its sentence" $work/broken
    done
    for verb in complete tokenize; do
        holds "help $verb: a terminal is not read" sh -c "$llama help $verb | tr '\n' ' ' | grep -q 'if stdin is not a terminal. With -f - a'"
    done
    refuse 2 "help of two commands" "one COMMAND" $llama help ppl score
    refuse 2 "help of no verb" "no such command" $llama help sing
    refuse 2 "help of a mistyped verb" "did you mean score?" $llama help scroe
    for pair in SCORE:score Pppl:ppl CHAT:"complete -i" scroe:score inof:info pppl:ppl tokenise:tokenize benchmark:bench chekc:check chat:"complete -i" perplexity:ppl comp:complete; do
        refuse 2 "the nearest verb of ${pair%%:*}" "did you mean ${pair#*:}?" $llama ${pair%%:*} $model x
    done
    refuse 2 "the nearest verb, before its options" "did you mean score?" $llama scor $model -f $items --stride 5
    refuse 3 "nothing is near" "frobnicate" $llama frobnicate x
    refuse 2 "nothing is near, before a model and a text" "^llama: serve: neither a command nor a model" $llama serve $model x
    mkdir -p $work/here/scor
    (top=$PWD; cd $work/here && $top/$llama scor x >../out 2>../err)
    if [ $? -eq 3 ]; then ok; else no "a folder named like a verb is a model: $(cat $work/err)"; fi
    refuse 2 "the nearest option" "did you mean --temp?" $llama $model x --tepm 0
    refuse 2 "the nearest option" "did you mean --repeat-penalty?" $llama $model x --repeat-penality 2
    refuse 2 "nothing is near" "no such option; llama help all" $llama $model x --frobnicate
    refuse 2 "an option of another verb" "see llama help info" $llama info $model --temp 1
    for shell in bash zsh fish; do
        run 0 "--completion $shell" $llama --completion $shell
        holds "--completion $shell: its words" sh -c "for w in $verbs \$(sed 's/^-*//' $work/names); do grep -qE -- \"[-' (|]\$w['/ )|:;=+[]\" $work/out || exit 1; done"
        if command -v $shell >/dev/null 2>&1; then
            holds "--completion $shell: $shell takes it" $shell -c "$(cat $work/out)"
        fi
    done
    refuse 2 "--completion of another" "not bash, zsh or fish" $llama --completion tcsh
    holds "the manual page is made" sh -c "sh tests/tools/manpage.sh $llama >$work/llama.1"
    tr -d '\\' <$work/llama.1 >$work/page
    for name in $(cat $work/names) $verbs; do
        holds "the manual page has $name" grep -qE -- "(^|[ ,])$name([ ,]|\$)" $work/page
    done
    if command -v groff >/dev/null 2>&1; then
        groff -man -Tutf8 -ww -z $work/llama.1 >$work/out 2>&1
        empty "groff has nothing to say of the manual page" $work/out
    else
        echo "SKIP: the manual page's form (no groff)"
    fi
}

# What shells offer after Tab: the verb's own options, and values, with their help in fish and zsh
case_completion() {
    if command -v bash >/dev/null 2>&1; then
        $llama --completion bash >$work/complete
        offers() { # WORDS, of which the last is completed
            bash -c '. '$work/complete'; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _llama; printf "%s\n" "${COMPREPLY[@]}"' bash "$@" >$work/out
        }
        offers llama sc
        holds "bash: a verb" [ "$(cat $work/out)" = score ]
        offers llama score $model --
        holds "bash: score's options ($(cat $work/out))" sh -c "grep -qx -- --json $work/out && ! grep -qx -- --temp $work/out"
        offers llama $model --
        holds "bash: complete's options" sh -c "grep -qx -- --temp $work/out && ! grep -qx -- --stride $work/out"
        offers llama $model --kernels ""
        holds "bash: the kernels" [ "$(tr '\n' ' ' <$work/out)" = "scalar avx2 avx512 neon " ]
        offers llama info --kernels = av
        holds "bash: after =" [ "$(tr '\n' ' ' <$work/out)" = "avx2 avx512 " ]
        offers llama bench $model --memory l
        holds "bash: a memory mode" [ "$(cat $work/out)" = lock ]
        offers llama $model -f ""
        holds "bash: a file's name is left to bash" [ "$(cat $work/out)" = "" ]
        offers llama tests/tin
        holds "bash: a model's name ($(cat $work/out))" [ "$(cat $work/out)" = "tests/tiny" ]
        offers llama info ""
        holds "bash: no option before a -" [ "$(cat $work/out)" = "" ]
        offers llama help pp
        holds "bash: help of a verb" [ "$(cat $work/out)" = ppl ]
        offers llama --completion f
        holds "bash: a shell" [ "$(cat $work/out)" = fish ]
    else
        echo "SKIP: completion in bash (no bash)"
    fi
    if command -v fish >/dev/null 2>&1; then
        $llama --completion fish >$work/complete
        offers() { HOME=$PWD/$work fish -c "source $work/complete; complete -C '$1'" >$work/out 2>&1; }
        offers "llama sc"
        holds "fish: a verb with its help ($(cat $work/out))" grep -qx "score	answer multiple-choice items: accuracy" $work/out
        offers "llama score m --"
        holds "fish: score's options ($(head -n 3 $work/out))" sh -c "grep -q '^--json	print each result' $work/out && ! grep -q '^--temp' $work/out"
        offers "llama m --"
        holds "fish: complete's options" sh -c "grep -q '^--temp	' $work/out && ! grep -q '^--stride' $work/out"
        offers "llama m --kernels "
        holds "fish: the kernels ($(cat $work/out))" sh -c "grep -q '^avx512' $work/out && grep -q '^neon' $work/out"
    else
        echo "SKIP: completion in fish (no fish)"
    fi
    cat >$work/shell.py <<'END'
# Types lines into a shell at a terminal, each with two tabs, and prints what the shell shows, each on a line
import fcntl, os, pty, re, select, struct, sys, termios
command, setup, *lines = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm", HOME=os.getcwd())
    os.execvp(command.split()[0], command.split())
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 160, 0, 0))
def read(words, silence):
    seen = b""
    while words not in seen and select.select([fd], [], [], silence)[0]:
        seen += os.read(fd, 65536)
    return seen
os.write(fd, setup.encode() + b"; echo REA''DY\n")
read(b"READY", 20)
read(b"\xff", 0.7)
for line in lines:
    os.write(fd, line.encode() + b"\t\t")
    shown = read(b"\xff", 0.7).decode(errors="replace")
    print("== " + line + " == " + re.sub(r"\s+", " ", re.sub("\033\\[[0-9;?]*[A-Za-z]|[\7\10]", "", shown)))
    os.write(fd, b"\x15")
os.kill(pid, 9)
END
    values="-f -m --prompt-cache -p -n --stop-id"
    names() { # SHELL: $work/out has what it shows for `llama m OPTION READM`
        for option in -f -m --prompt-cache; do
            holds "$1: a file name after $option" grep -q -- "^== llama m $option READM == .*README.md" $work/out
        done
        for option in -p -n --stop-id; do
            holds "$1: no file name after $option" sh -c "grep -q -- '^== llama m $option READM ==' $work/out && ! grep -q -- '^== llama m $option READM == .*README.md' $work/out"
        done
    }
    typed() { # SHELL COMMAND SETUP line...: also lines that end in READM
        shell_name=$1 shell_command=$2 setup=$3
        shift 3
        for option in $values; do set -- "$@" "llama m $option READM"; done
        python3 $work/shell.py "$shell_command" "$setup" "$@" >$work/out 2>&1
        names $shell_name
    }
    if command -v fish >/dev/null 2>&1; then
        $llama --completion fish >$work/complete
        for option in $values; do
            printf '== llama m %s READM == ' "$option"
            HOME=$PWD/$work fish -c "source $work/complete; complete -C 'llama m $option READM'" 2>&1 | tr '\n' ' '
            echo
        done >$work/out
        names fish
    fi
    if command -v bash >/dev/null 2>&1 && command -v python3 >/dev/null 2>&1; then
        $llama --completion bash >$work/complete
        typed bash "bash --norc -i" "PS1='$ '; . $work/complete"
    fi
    if command -v zsh >/dev/null 2>&1 && command -v python3 >/dev/null 2>&1; then
        $llama --completion zsh >$work/complete
        typed zsh "zsh -f -i" "autoload -Uz compinit; compinit -D -i; source $work/complete" "llama score m --" "llama m --kernels " "llama " \
            "llama m --stop-id 3 --stop-i" "llama m --stop x --stop" "llama m -p x --promp" "llama m -f x --fil" "llama m --seed 3 --see" "llama ppl m --file x --fil"
        holds "zsh: score's options with their help" grep -qE -- "--json +-- print each result" $work/out
        holds "zsh: the kernels" grep -q "avx512 " $work/out
        holds "zsh: verbs with their help" grep -qE "score +-- answer multiple-choice" $work/out
        holds "zsh: not another verb's" sh -c "! grep -q -- '--temp -- ' $work/out"
        for line in "--stop-id 3 --stop-id" "--stop x --stop" "-p x --prompt" "-f x --file"; do
            holds "zsh: again, $line" grep -q -- "^== .* == .*llama m $line" $work/out
        done
        holds "zsh: not again, --seed" sh -c "! grep -q -- '^== .* == .*--seed 3 --seed' $work/out"
        holds "zsh: not again, ppl --file" sh -c "! grep -q -- '^== .* == .*--file x --file' $work/out"
    else
        echo "SKIP: completion in zsh (no zsh or python3)"
    fi
}

# What surprised people
case_surprises() {
    crlf() { printf "$1" | sed 's/$/\r/'; } # lines as Windows ends them
    printf 'The king\nA wolf\n' >$work/lf
    crlf 'The king\nA wolf\n' >$work/crlf
    $llama $model --lines -f $work/lf -n 6 --temp 0 >$work/want
    run 0 "--lines as Windows ends them" $llama $model --lines -f $work/crlf -n 6 --temp 0
    same "--lines as Windows ends them" $work/out $work/want
    crlf "$prompt\n" >$work/crlf
    run 0 "a file as Windows ends it" $llama $model -f $work/crlf $greedy
    same "a file as Windows ends it" $work/out $work/text
    printf 'The king\n/stats\n' | $llama $model -i -n 6 --temp 0 >$work/want 2>/dev/null
    crlf 'The king\n/stats\n' | $llama $model -i -n 6 --temp 0 >$work/out 2>$work/err
    same "-i: lines as Windows ends them" $work/out $work/want
    holds "-i: and commands" grep -q "^seed " $work/err
    printf 'The king\r\0' | $llama $model -0 -n 6 --temp 0 >$work/out
    $llama $model -p "$(printf 'The king\r')" -n 6 --temp 0 | tr '\n' '\0' >$work/want
    printf '\0' >>$work/want
    same "-0 takes a text as it is" $work/out $work/want
    refuse 2 "ppl of a window of one" "predicts nothing" $llama ppl $model $work/prose --ctx 1
    $llama ppl $model $work/prose >$work/all
    holds "ppl: bits a byte of all of the text" grep -q "bits a byte" $work/all
    run 0 "ppl of a part" $llama ppl $model $work/prose --ctx 16
    holds "ppl: and not of a part" sh -c "! grep -q 'a byte' $work/out"
    for zero in "--top-p 0" "--top-p 0.0"; do
        run 0 "$zero" $llama $model "$prompt" -n 24 -s 5 $zero
        same "$zero keeps the best alone" $work/out $work/text
    done
    run 0 "--repeat-last-n 0" $llama $model "$prompt" $greedy --repeat-penalty 2 --repeat-last-n 0
    same "--repeat-last-n 0 penalises nothing" $work/out $work/text
    LLAMA_MODEL=$model refuse 2 "a wrong name and LLAMA_MODEL" 'LLAMA_MODEL is set' $llama no/such "$prompt"
    LLAMA_MODEL=$model refuse 2 "a wrong name and LLAMA_MODEL" 'LLAMA_MODEL is set' $llama info no/such
    refuse 2 "--decode --count" "not with" $llama tokenize $model --decode --count 5
    refuse 2 "a NUL in an option" "NUL" $llama $model x -e -i --in-prefix 'A\x00'
    refuse 2 "a range is named in figures" "from 1 to 1048576" $llama $model x -c 0
    refuse 2 "whose option it is not" "not an option of score" $llama score $model --echo
    run 0 "complete -h" $llama complete -h
    $llama help complete >$work/want
    same "complete -h is of complete" $work/out $work/want
    printf 'hi\n' | $llama $model -i --no-bos -n 2 >$work/out 2>$work/err
    holds "-i --no-bos: $(cat $work/err)" test -s $work/out
}

# A turn begins on a line of its own, as it is shown
case_turns() {
    printf 'The king said\nThe queen said\n' | $llama $model -i -n 8 --temp 0 >$work/out
    first=$($llama $model -e 'The king said\n' -n 8 --temp 0)
    second=$($llama $model -e "The king said\n$first\nThe queen said\n" -n 8 --temp 0)
    printf '%s\n' "$first" "$second" >$work/want
    same "-i: the second turn" $work/out $work/want
}

# Nothing is lost by a slip, nor silently
case_slips() {
    mkdir -p $work/home
    printf 'hi\n/save ~/talk\n/load ~/talk\nho\n' | HOME=$PWD/$work/home $llama $model -i -n 3 --temp 0 >$work/out 2>$work/err
    code=$?
    if [ $code -eq 0 ] && [ -s $work/home/talk ] && [ "$(wc -l <$work/out)" -ge 2 ]; then ok; else no "/save and /load of ~/talk: $code, $(cat $work/err)"; fi
    printf 'hi\n/save ~/blanks \t \n/load ~/blanks  \n/undo \n/exit \nho\n' | HOME=$PWD/$work/home $llama $model -i -n 3 --temp 0 >$work/out 2>$work/err
    holds "/save and /load: no blanks after the name ($(ls $work/home; cat $work/err))" test -s $work/home/blanks
    holds "/load with a blank, /undo and /exit with one ($(cat $work/err))" sh -c "[ \$(wc -l <$work/out) -eq 1 ] && ! grep -q 'no such' $work/err"
    echo "dear diary" >$work/diary
    printf 'hi\n/save %s\nhi\n' $work/diary | $llama $model -i -n 3 -q >$work/out 2>$work/err
    code=$?
    if [ $code -eq 1 ] && grep -q "not a saved state" $work/err && [ "$(cat $work/diary)" = "dear diary" ]; then ok; else no "/save over a file: $code, $(cat $work/err)"; fi
    for what in "/save $work/no/where" "/load $work/no/where"; do
        printf 'hi\n%s\nhi\n' "$what" | $llama $model -i -n 3 -q >$work/out 2>$work/err
        code=$?
        if [ $code -eq 1 ] && [ "$(wc -l <$work/err)" -eq 1 ]; then ok; else no "$what through a pipe: $code, $(cat $work/err)"; fi
    done
    rm -f $work/real $work/link
    run 0 "a cache" $llama $model "$prompt" $greedy --prompt-cache $work/real
    chmod 644 $work/real
    ln -s real $work/link
    run 0 "a cache that is a link" $llama $model "$prompt and his wife" $greedy --prompt-cache $work/link
    holds "the link stays" test -L $work/link
    holds "and so does the mode" sh -c "ls -l $work/real | grep -q ^-rw-r--r--"
    cp $work/real $work/want
    $llama $model -i --prompt-cache $work/real </dev/null 2>/dev/null
    same "a conversation in which nothing is said leaves the cache" $work/real $work/want
}

# JSON: when a text was done, what a double holds, a list that is empty
case_json_times() {
    if command -v python3 >/dev/null 2>&1; then
        run 0 "--json" $llama $model -p x -p "$one" -n 200 --ignore-eos --stop king --json --logprobs 2 --temp 0
        holds "--json: times and probabilities ($(head -c 200 $work/out))" python3 -c "
import json
for row in map(json.loads, open('$work/out')):
    assert all(t['logprob'] == p['logprob'] for p in row['logprobs'] for t in p['top'] if t['token'] == p['token'])
"
        run 0 "--json, a text that is short" $llama $model -p "$three" -p "$one" -n 300 --ignore-eos --stop king --json --temp 0 --kernels scalar -t 1
        holds "--json: a text is done when it is done" python3 -c "
import json
a, b = map(json.loads, open('$work/out'))
assert len(a['tokens']) > 9 * len(b['tokens']) and a['seconds'] > 2 * b['seconds'], (a['seconds'], b['seconds'])
"
        run 0 "--json, no tokens" $llama $model -p x -n 0 --json --logprobs 2
        holds "--json: the list is there" python3 -c "import json; assert json.load(open('$work/out'))['logprobs'] == []"
        for i in 1 2 3 4 5 6 7 8; do $llama $model x -n 0 --json; done >$work/out
        holds "--json: a drawn seed is a double's" python3 -c "
import json
seeds = [json.loads(line)['seed'] for line in open('$work/out')]
assert len(set(seeds)) == 8 and all(s == int(float(s)) < 2 ** 53 for s in seeds) and max(seeds) > 2 ** 40, seeds
"
    fi
}

# Guesses of what follows change no byte
guesses_like() { # NAME options...: run again with each of $ways, and compare but for times and counts
    these=$1 # run has a name of its own
    shift
    run 0 "$these" "$@" --no-lookup
    sed -E 's/"(first_token_seconds|seconds|passes|drafted|accepted|tokens_per_pass)": [0-9.]*//g' $work/out >$work/want
    for way in $ways; do
        run 0 "$these $way" "$@" ${way#with}
        sed -E 's/"(first_token_seconds|seconds|passes|drafted|accepted|tokens_per_pass)": [0-9.]*//g' $work/out >$work/got
        same "$these: $way changes the output" $work/got $work/want
    done
}
case_guesses() {
    mkdir -p $work/half $work/other # a draft model that is right half of the time; that of $forms is never right
    cp $model/consolidated.00.pth $model/tokenizer.model $work/half
    sed 's/1e-06/0.03/' $model/params.json >$work/half/params.json
    ways="with --draft=$model --draft=$work/half --draft=$forms/meta"
    again="$one $one $one $one" chat="$work/guess_chat"
    printf '%s\n' "$one" "$two" "$again" "$one" >$work/guess_lines
    guesses_like "guesses, greedy" $llama $model "$again" --temp 0 -n 150 --ignore-eos
    guesses_like "guesses, sampled" $llama $model "$again" -s 3 -n 150 --temp 0.4
    guesses_like "guesses, filters" $llama $model "$again" -s 4 -n 100 --top-k 5 --min-p 0.1 --top-p 0.8
    guesses_like "guesses, penalties" $llama $model "$again" -s 5 -n 100 --repeat-penalty 1.2 --repeat-last-n 9
    guesses_like "guesses, stops" $llama $model "$again" --temp 0 -n 150 --stop "in the" --stop-id 7
    guesses_like "guesses, full context" $llama $model "$again" --temp 0 -n -1 -c 70 --ignore-eos -q
    guesses_like "guesses, -k 4 --json" $llama $model "$again" -s 6 -n 60 --temp 0.5 -k 4 --json --logprobs 2
    guesses_like "guesses, --json --logprobs" $llama $model "$again" --temp 0 -s 2 -n 120 --ignore-eos --json --logprobs 5
    guesses_like "guesses, several prompts, --json --logprobs" $llama $model -p "$again" -p "$one" -p "$again" -s 9 -n 90 --temp 0.4 --json --logprobs 3
    guesses_like "guesses, --lines" $llama $model --lines -f $work/guess_lines -s 7 -n 60 --temp 0.3
    printf '%s\n' "$one" "$one" "$two" "/retry" "$one" >$chat
    $llama $model -i -s 8 -n 40 --temp 0.3 --no-lookup <$chat >$work/want 2>$work/err
    $llama $model -i -s 8 -n 40 --temp 0.3 <$chat >$work/got 2>$work/err
    same "guesses, -i" $work/got $work/want
    $llama $model -i -s 8 -n 40 --temp 0.3 --draft $work/half <$chat >$work/got 2>$work/err
    same "guesses, -i --draft" $work/got $work/want
    rm -f $work/guess_cache*
    run 0 "guesses, a cache" $llama $model "$again" --temp 0 -n 40 --prompt-cache $work/guess_cache1 --no-lookup
    run 0 "guesses, a cache" $llama $model "$again" --temp 0 -n 40 --prompt-cache $work/guess_cache2
    same "guesses: the same cache" $work/guess_cache1 $work/guess_cache2
    run 0 "--no-lookup --stats" $llama $model "$again" --temp 0 -n 150 --ignore-eos --no-lookup --stats
    holds "--no-lookup: a token a pass ($(grep ^passes $work/err))" grep -q "^passes *150, 1.00 tokens each; 0 of 0 guesses came true$" $work/err
    run 0 "--stats" $llama $model "$again" --temp 0 -n 400 --ignore-eos --stats
    holds "guesses come true ($(grep ^passes $work/err))" grep -q "^passes *[0-9]*, [0-9.]* tokens each; [1-9][0-9]* of [1-9][0-9]* guesses came true$" $work/err
    run 0 "--json" $llama $model "$again" --temp 0 -n 9 --json --no-lookup
    holds "--json counts ($(cat $work/out))" grep -q '"passes": 9, "drafted": 0, "accepted": 0, "tokens_per_pass": 1.000}$' $work/out
    refuse 3 "no draft model" "/nowhere: cannot be opened" $llama $model x -n 1 --draft /nowhere
    { printf '\010\0\0\0\010\0\0\0\001\0\0\0\001\0\0\0\001\0\0\0\020\0\0\0\020\0\0\0'; head -c 2912 /dev/zero; } >$work/other/model.bin
    refuse 2 "another vocabulary" "the draft model has a vocabulary of 16 tokens and the model one of 1024" $llama $model x -n 1 --draft $work/other/model.bin
    run 0 "a draft model's memory" $llama $model x -n 1 --stats
    grep ^memory $work/err >$work/want
    run 0 "a draft model's memory" $llama $model x -n 1 --stats --draft $model
    holds "--stats: the memory of both models ($(cat $work/want), $(grep ^memory $work/err))" sh -c "grep ^memory $work/err | cat $work/want - | awk '{ p = q; q = \$2; w = v; v = \$(NF - 3) } END { exit !(q > 1.99 * p && q < 2.01 * p && v > 1.9 * w) }'"
    refuse 2 "bench --no-lookup" "not an option of bench" $llama bench $model --no-lookup
}

# Special tokens, ids as a prompt, a stop by id
case_special() {
    ids="1 $(cat $work/ids)"
    run 0 "tokenize --special" $llama tokenize $model --special "<s>$one</s>"
    holds "<s> and </s> are tokens" [ "$(cat $work/out)" = "$ids 2" ]
    tr '\n' ' ' <$work/out >$work/special
    run 0 "tokenize --decode --special" $llama tokenize $model --decode --special -f $work/special
    holds "and come back" [ "$(cat $work/out)" = "<s>$one</s>" ]
    run 0 "a prompt of ids" $llama $model --ids -p "$ids" $greedy
    cp $work/out $work/by_ids
    run 0 "the same prompt" $llama $model "$one" $greedy
    same "--ids" $work/out $work/by_ids
    run 0 "<s> with --special is not doubled" $llama $model --special "<s>$one" $greedy
    same "--special" $work/out $work/by_ids
    run 0 "<s> without --special" $llama $model "<s>$one</s>" -n 1
    one_line "one note"
    holds "the note names --special" grep -q "<s>.*--special" $work/err
    printf '<s>a\n</s>b\n' | $llama $model --lines -n 1 >/dev/null 2>$work/err
    one_line "one note for all prompts"
    run 0 "-q" $llama $model -q "<s>$one" -n 1
    empty "no note" $work/err
    echo "<s>$one</s>" >$work/marked
    run 0 "ppl: <s> without --special" $llama ppl $model $work/marked
    one_line "ppl: one note"
    holds "ppl: the note names --special" grep -q "<s> is read as text, not as the token 1; --special" $work/err
    run 0 "ppl --special" $llama ppl $model $work/marked --special
    empty "ppl --special: no note" $work/err
    printf '0\ta</s>\tb\n-\t<s>\tb\n' >$work/marked
    run 0 "score: </s>" $llama score $model -f $work/marked
    one_line "score: one note"
    holds "score: the note, without an option that score has not" grep -q "</s> is read as text, not as the token 2$" $work/err
    printf '%s\n%s\n' "$ids" "1" | $llama $model --lines --ids --json -n 1 >$work/out
    holds "--lines --ids" [ "$(grep -c '"prompt_tokens": [41],' $work/out)" -eq 2 ]
    run 0 "--stop-id" $llama $model "$one" --temp 0 -n 12 --json
    stop=$(sed 's/.*"tokens": \[[0-9]*, \([0-9]*\).*/\1/' $work/out)
    first=$(sed 's/.*"tokens": \[\([0-9]*\).*/\1/' $work/out)
    run 0 "--stop-id" $llama $model "$one" --temp 0 -n 12 --stop-id 7 --stop-id "$stop"
    cp $work/out $work/stopped
    run 0 "--stop-id" $llama $model "$one" --temp 0 -n 1
    same "$stop ends after $first and is not printed" $work/out $work/stopped
    refuse 2 "an id of no row" "not a token id" $llama $model --ids "1 99999"
    refuse 2 "no ids" "no ids" $llama $model --ids " "
    refuse 2 "text for ids" "not a token id" $llama $model --ids "one"
    refuse 2 "--stop-id of no row" "not a token id" $llama $model x --stop-id 99999
    refuse 2 "--stop-id of no number" "not a token id" $llama $model x --stop-id -1
    run 0 "a document of ids" sh -c "printf '261 632' | $llama $model --ids '261 632' -n 0 --json"
    holds "a document of ids" grep -q '"prompt_tokens": 4' $work/out
    refuse 2 "--ids --special" "not with --ids" $llama $model --ids --special 1
    refuse 2 "-i --ids" "special" $llama $model -i --ids -p 1
}

# A byte-level vocabulary, with which a text may end inside a character. Of our model's tokens, 261, 632 and 390, which it
# draws after "$one" (the last is 659), become the bytes of a euro sign, and 342 an e with an acute accent
case_bytes() {
    awk 'function digit(n) { return substr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", n + 1, 1) }
        function one(a) { return digit(int(a / 4)) digit(a % 4 * 16) "==" }
        function two(a, b) { return digit(int(a / 4)) digit(a % 4 * 16 + int(b / 16)) digit(b % 16 * 4) "=" }
        BEGIN {
            of[659] = 97; of[261] = 226; of[632] = 130; of[390] = 172
            for (i in of) taken[of[i]]
            for (i = 0; i < 768; i++) {
                while (byte in taken) byte++
                if (i in of) print one(of[i]), i
                else if (i == 342) print two(195, 169), i
                else if (byte < 256) print one(byte++), i
                else { print two(pair < 256 ? 32 : 226, pair % 256), i; pair++ }
            }
        }' >$work/bytes.model
    euro=$(printf '\342\202\254') given="1 $(cat $work/ids)"
    by_bytes="$llama $model --tokenizer $work/bytes.model --temp 0"
    run 0 "a character of three tokens" $by_bytes --ids "$given" -n 3
    holds "a character of three tokens" [ "$(cat $work/out)" = "$euro" ]
    $by_bytes --ids "$given" -n 6 --echo >$work/whole
    for n in 1 2 3 4 5; do
        ids="$given $(echo 261 632 390 342 780 | cut -d ' ' -f 1-$n)"
        run 0 "a prompt of ids that ends after $n of them" $by_bytes --ids "$ids" -n $((6 - n)) --echo
        same "and its text goes on" $work/out $work/whole
    done
    run 0 "a prompt that ends inside a character" $by_bytes --ids "$given 261 632" -n 1 --json
    holds "is completed" grep -q "\"text\": \"$euro\"" $work/out
    printf '%s\342\202' "$one" | $by_bytes -n 4 --echo >$work/out
    holds "--echo prints whole characters" iconv -f UTF-8 -t UTF-8 $work/out
    run 0 "--logprobs" $by_bytes --ids "$given" -n 40 --json --logprobs 100
    holds "bytes of a character" grep -q '"text": "<0xE2>".*"text": "<0x82>".*"text": "<0xAC>"' $work/out
    holds "all of them" grep -q '"text": "<0xE2><0x[89A-F][0-9A-F]>"' $work/out
    holds "a character and half of another" grep -q '"text": " <0x[89A-F][0-9A-F]>"' $work/out
    holds "a whole character" grep -q "\"token\": 342, \"text\": \"$(printf '\303\251')\"" $work/out
    holds "a special token" grep -q '"text": "<|reserved_special_token_[0-9]*|>"' $work/out
    holds "UTF-8" iconv -f UTF-8 -t UTF-8 $work/out
    sed 's/.*"logprobs"://' $work/out >$work/tokens
    holds "no replacement" sh -c "! grep -q '$(printf '\\357\\277\\275')\\|ufffd' $work/tokens"
    printf 'x\342\202 \377y\n/save %s\n/load %s\n/save %s\n' $work/first.chat $work/first.chat $work/second.chat | $by_bytes -i -n 5 >$work/out
    same "a chat of invalid bytes is loaded as it was saved" $work/first.chat $work/second.chat
    printf '/load %s\n/save %s\n' $work/first.chat $work/third.chat | $by_bytes -i >$work/out
    same "also by another process" $work/first.chat $work/third.chat
    printf '<|eot_id|>\342\202\n/save %s\n/load %s\n/save %s\n' $work/first.chat $work/first.chat $work/second.chat | $by_bytes -i --special -n 5 >$work/out
    same "a chat with special tokens" $work/first.chat $work/second.chat
    run 0 "bytes that are not UTF-8" $by_bytes "$(printf 'x\377y')" -n 1
    empty "have tokens: no note" $work/err
    mkdir -p $work/bytewise
    cp $work/bytes.model $work/bytewise/tokenizer.model
    echo '{"add_bos_token": false, "add_eos_token": true}' >$work/bytewise/tokenizer_config.json
    run 2 "an empty prompt" $llama $model --tokenizer $work/bytewise/tokenizer.model ""
    holds "messages name its own tokens ($(cat $work/err))" grep -q "no <|begin_of_text|> is put before it" $work/err
    holds "also the end" grep -q "ask for <|end_of_text|> after each text" $work/err
    printf '0\t\ta\tb\n' | $llama score $model --tokenizer $work/bytewise/tokenizer.model -q >$work/out 2>$work/err
    holds "also in score" grep -q "adds no <|begin_of_text|> before it" $work/err
}

# What a model's files say beside its weights, and what overrides them
case_facts() {
    rm -rf $work/facts
    cp -r $model $work/facts
    printf 'There was once a man who went into the wood' >$work/long.txt
    printf '0\t\t the\t a\n' >$work/bare.tsv
    run 0 "info" $llama info $work/facts
    holds "</s> ends a text" grep -q "^tokenizer   sentencepiece, bos 1, eos 2$" $work/out
    printf '{"add_eos_token": true, "eos_token": "\342\226\201the"}' >$work/facts/tokenizer_config.json
    run 0 "info" $llama info $work/facts
    the=$($llama tokenize $model the | tr -d '\n')
    holds "and a token that is named" grep -q "^tokenizer   sentencepiece, bos 1, eos 2 $the$" $work/out
    one_line "a note of add_eos_token"
    holds "a note of add_eos_token" grep -q add_eos_token $work/err
    run 0 "info -q" $llama info $work/facts -q --json
    empty "no note" $work/err
    holds "the ends as JSON" grep -q "\"eos\": 2, \"ends\": \[2, $the\], \"add_bos\": true" $work/out
    run 0 "a text ends at it" $llama $work/facts -q "There was once a man who went into" --temp 0 -n 9 --json
    holds "a text ends at it" grep -q '"finish": "eos"' $work/out
    run 0 "--ignore-eos" $llama $work/facts -q "There was once a man who went into" --temp 0 -n 9 --json --ignore-eos
    holds "--ignore-eos" sh -c "! grep -q '[[ ]$the[],]' $work/out"
    printf '{"pad_token": "\342\226\201the"}' >$work/facts/tokenizer_config.json
    run 0 "a name does not take its text away" $llama tokenize $work/facts the
    holds "a name does not take its text away" [ "$(cat $work/out)" = "$the" ]
    printf '{"add_bos_token": false}' >$work/facts/tokenizer_config.json
    run 0 "info" $llama info $work/facts
    holds "<s> is not added" grep -q "^tokenizer   sentencepiece, bos 1 (not added), eos 2$" $work/out
    refuse 2 "an empty prompt without <s>" "is empty" $llama $work/facts ""
    $llama $work/facts "$prompt" $greedy >$work/out
    $llama $model "$prompt" $greedy --no-bos >$work/first
    same "as with --no-bos" $work/out $work/first
    run 0 "tokenize --bos" $llama tokenize $work/facts --bos the
    holds "--bos adds <s> all the same" [ "$(cat $work/out)" = "1 $the" ]
    run 0 "ppl" $llama ppl $work/facts -f $work/long.txt --json
    holds "the first token is not scored" grep -q '"bits_per_byte": null' $work/out
    run 2 "an item without a context" $llama score $work/facts -f $work/bare.tsv
    holds "an item without a context" grep -q "adds no <s>" $work/err
    printf '{"add_bos_token": "no"}' >$work/facts/tokenizer_config.json
    refuse 3 "a setting of another type" "add_bos_token that is not true or false" $llama $work/facts "$prompt"
    run 0 "--rope-theta" $llama info $model --rope-theta 5000
    holds "--rope-theta" grep -q "rope_theta 5000" $work/out
    one_line "a note of --rope-theta"
    $llama $model "$prompt" $greedy --rope-theta 10000 -q >$work/out
    $llama $model "$prompt" $greedy >$work/first
    same "the base that the file has" $work/out $work/first
    refuse 2 "--rope-theta 0" "rope-theta" $llama $model x --rope-theta 0
    rm -rf $work/far
    cp -r $model $work/far
    sed 's/{/{"max_seq_len": 1048576, /' $model/params.json >$work/far/params.json
    run 0 "a long context, without -c" $llama info $work/far --memory-limit 1G
    holds "has as many positions as fit: $(grep ^context $work/out)" grep -q "^context     [1-9][0-9]\{4,5\} positions" $work/out
    holds "and fits: $(grep ^memory $work/out)" grep -q "^memory .*available$" $work/out
    run 0 "in a small memory" $llama info $work/far --memory-limit 30M
    holds "it has 8,192: $(grep ^context $work/out)" grep -q "^context     8192 positions" $work/out
    run 0 "with -c" $llama info $work/far --memory-limit 1G -c 1048576
    holds "it has those" grep -q "^context     1048576 positions" $work/out
    run 0 "a text" sh -c "ulimit -v 1500000 && exec $llama $work/far '$prompt' $greedy --memory-limit 1G -t 1"
    same "is the same" $work/out $work/text
    (ulimit -v 1000000 && OMP_NUM_THREADS=1 $llama info $model -c 1048576 -t 1 >$work/out 2>$work/err)
    holds "info where the context does not fit" grep -q "^context     1048576 positions" $work/out
    holds "and what to give" grep -q -- "-c" $work/err
}

case_version() {
    run 0 "--version" $llama --version
    holds "--version" grep -q "^llama.c 0.1.0" $work/out
}

# ---- All cases, or some ----

cases="text stdin seeds stop utf8 refusals full pipes cache batch rejected notes json talk score ppl cut terminals trace bench info formats help completion surprises turns slips json_times guesses special bytes facts version"
slow="batch guesses pipes stdin rejected completion formats help json_times ppl score surprises" # left to make check
matched=0
for name in $cases; do
    [ -z "$only" ] || [ "$only" = "$name" ] || continue
    matched=1
    case " $slow " in *" $name "*) [ -z "$quick" ] || continue ;; esac
    echo "-- $name"
    case_"$name"
done
echo "--"
[ $matched -eq 1 ] || no "there is no case $only"
echo "cli: $passed passed, $failed failed"
[ $failed -eq 0 ]
