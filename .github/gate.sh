#!/usr/bin/env bash
# The Action's second step (action.yml): calls `homoexport gate`, and ends with 0 (kept), 1 (slower, bigger or worse),
# 3 (cannot be called), or what else the command ended with.
#     gate.sh HOMOEXPORT
set -euo pipefail
homoexport=$1
result=$RUNNER_TEMP/homoexport-gate.json summary=$RUNNER_TEMP/homoexport-gate.md
rm -f "$summary"

flags=()
given() { # FLAG VALUE: an empty input is none
    test -z "$2" || flags+=("$1" "$2")
}
given --device "$DEVICE"
given --threads "$THREADS"
given --batch-size "$BATCH_SIZE"
given --length "$LENGTH"
given --text "$TEXT"
given --min-seconds "$MIN_SECONDS"
given --fail-if-slower "$SLOWER"
given --fail-if-bigger "$BIGGER"
given --fail-if-worse "$WORSE"
given --task "$TASK"
given --data "$DATA"
given --text-column "$TEXT_COLUMN"
given --pair-column "$PAIR_COLUMN"
given --label-column "$LABEL_COLUMN"
given --metric "$METRIC"

code=0
"$homoexport" gate "${flags[@]}" --summary "$summary" --json -- "$BASELINE" "$PACKAGE" >"$result" || code=$?
test "$code" = 0 || test "$code" = 3 || exit "$code"
test ! -e "$summary" || tee -a "$GITHUB_STEP_SUMMARY" <"$summary"
verdict=$(sed -n 's/^  "verdict": "\([a-z]*\)",$/\1/p' "$result")
{
    echo "verdict=$verdict"
    echo "result=$result"
} >>"$GITHUB_OUTPUT"
case $verdict in
    kept) ;;
    worse)
        echo "::error title=homoexport::$PACKAGE is slower, bigger or worse than $BASELINE: see the job's summary"
        exit 1
        ;;
    *)
        echo "::warning title=homoexport::$PACKAGE against $BASELINE cannot be called: see the job's summary"
        test "$UNDECIDED" = pass || exit 3
        ;;
esac
