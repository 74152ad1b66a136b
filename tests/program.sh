# Sourced by the tests of programs: commands and what they say. The caller's name stands in front of each complaint.
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
export LSAN_OPTIONS="suppressions=$(pwd)/tests/leaks:print_suppressions=0"
bad=0 count=0

fails() { echo "${0##*/}: $1"; bad=1; }
# ends STATUS TEXT COMMAND...: with this status and TEXT in what it prints
ends() {
    status=$1 want=$2; shift 2; count=$((count + 1))
    got=$("$@" 2>&1)
    [ $? = "$status" ] || fails "not status $status of: $*
$got"
    case $got in *"$want"*) ;; *) fails "no '$want' in the output of: $*
$got" ;; esac
}
says() { ends 0 "$@"; }
# refuses TEXT COMMAND...: one clear error, status 2
refuses() {
    ends 2 "$@"
    [ "$(printf '%s\n' "$got" | wc -l)" -le 8 ] || fails "a long error of: $*"
}
# alike A B LIMIT: two logs, all numbers but the seconds within LIMIT of one another
alike() {
    paste -d, "$1" "$2" | awk -F, -v limit="$3" 'NR > 1 { for (i = 1; i < NF / 2; i++) {
        d = $i - $(i + NF / 2); if (d < 0) d = -d; if (d > limit * ($i > 1 ? $i : 1)) wrong = 1 } rows++ } END { exit wrong || rows < 1 }' ||
        fails "$1 and $2 are different curves:
$(cat "$1" "$2")"
}
# done_with: the closing line and the status
done_with() {
    [ $bad = 0 ] && echo "${0##*/}: $count commands as expected"
    exit $bad
}
