#!/bin/sh
# run.sh - build and run test suites, side by side. At the top of the tree:
#
#   sh tests/run.sh                  the suites of make test, with their longest loops sampled
#   sh tests/run.sh check            every suite, in full
#   sh tests/run.sh SUITE [CASE]     one suite in full, or one of its cases: sh tests/run.sh api rewind
#   sh tests/run.sh list [check]     the names
#
# The suites are listed in tests/tools/suites. A suite prints "-- CASE" before a case, "FAIL: why" for each failed check,
# "SKIP: why" for what cannot be tested here, and ends with "NAME: N passed, N failed". A suite that ends otherwise,
# with a signal or after its time, has failed. The last line adds up the checks of all: "N passed, N failed".
list=tests/tools/suites
work=build/test
mode=test
limit=${TEST_SECONDS:-900} # that a suite may take
export LC_ALL=C

names() { # WITHOUT="build style": not these
    awk -v all="$1" -v without=" ${WITHOUT:-} " '/^[a-z]/ && (all == "check" || $2 == "test") && !index(without, " " $1 " ") { print $1 }' $list
}
command_of() { awk -v name="$1" '$1 == name { $1 = $2 = ""; sub(/^ +/, ""); print }' $list; }
tenths() { echo $(($(date +%s%N) / 100000000)); }

# Run a suite, print its line and what failed, and leave its counts in $work/NAME.count
run_suite() { # NAME [CASE]
    eval "command=\"$(command_of "$1")\""
    command=${command% } # where $quick is empty
    start=$(tenths)
    timeout -k 5 "$limit" $command ${2:+--case "$2"} >$work/"$1".log 2>&1 </dev/null
    code=$?
    took=$(($(tenths) - start))
    awk -v name="$1" -v code=$code -v took=$took -v limit="$limit" -v command="$command" -v count=$work/"$1".count -v log_file=$work/"$1".log '
        /^--/ { test = $2; has_cases = 1 }
        /^FAIL/ { failures++; if (failures <= 8) shown = shown "\n    " substr($0, 1, 300); alone[test] = 1 }
        /^SKIP/ { sub(/^SKIP:? */, ""); if (!($0 in skips)) skipped = skipped (skipped == "" ? "" : "; ") $0; skips[$0]; only_skip = 1; next }
        /[0-9] passed, [0-9]+ failed$/ { passed = $(NF - 3); failed = $(NF - 1); counted = NR }
        NF { only_skip = 0; last = $0 }
        END {
            why = ""
            if (code == 124 || code == 137) why = "took longer than " limit " s"
            else if (code > 128) why = "was ended by signal " code - 128
            else if (!counted && !only_skip) why = "ended without a count, with exit code " code ": " last
            else if (code != 0 && failed + 0 == 0) why = "ended with exit code " code
            if (why != "") { failed++; alone[test] = 1; shown = shown "\n    " name (test == "" ? "" : ", in " test) ": it " why }
            printf "%d %d\n", passed, failed >count
            if (failed) {
                printf "FAILED %-14s %6d of %d checks  %5.1f s, log: %s%s\n", name, failed, passed + failed, took / 10, log_file, shown
                for (test in alone) print "    run it alone: " command (test == "" ? "" : " --case " test)
            } else if (only_skip) printf "SKIP   %-14s %s\n", name, skipped
            else printf "ok     %-14s %6d checks %6.1f s%s\n", name, passed, took / 10, skipped == "" ? "" : "  SKIP: " skipped
        }' $work/"$1".log
}

case ${1:-test} in
list) names "${2:-test}"; exit ;;
--one) mode=$2; [ "$mode" = test ] && quick=--quick || quick=; run_suite "$3" ${4:+"$4"}; exit ;;
test | check) mode=${1:-test}; suites=$(names "$mode") ;;
*) mode=check; suites=$1; [ -n "$(command_of "$1")" ] || { echo "no such suite: $1; there are" $(names check); exit 2; } ;;
esac

# Build what they need, on every core unless make's caller has said how
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
case ${MAKEFLAGS:-} in *jobserver*) jobs= ;; *) jobs=-j$cores ;; esac
programs=$(for suite in $suites; do command_of "$suite"; done | tr ' ' '\n' | sed -n 's|^\./llama$|llama|p; \|^build/work|d; \|^build/|p' | sort -u)
mkdir -p $work build/work
rm -f $work/*.count
if ! ${MAKE:-make} --no-print-directory -s -k $jobs llama $programs >$work/build.log 2>&1; then
    grep -E 'error|\*\*\*' $work/build.log | head -n 10
    echo "FAILED the build, log: $work/build.log"
    echo "0 passed, 1 failed"
    exit 1
fi
unset MAKEFLAGS MFLAGS MAKELEVEL

echo "$suites" | xargs -P "$cores" -I{} sh "$0" --one $mode {} ${2:+"$2"}
total=$(for suite in $suites; do cat $work/"$suite".count 2>/dev/null || echo 0 1; done | awk '{ p += $1; f += $2 } END { print p " passed, " f " failed" }')
echo "$total"
case $total in *" 0 failed") ;; *) exit 1 ;; esac
