#!/bin/sh
# Does it help to learn the variety beside the disease? Two models of the same photographs, seed and split, side by side.
# two_targets.sh [DIR] [options of train ...]
set -e
p=${PADDY:-build/paddy}
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
"$p" train "$@" --log "$out/both.csv" >"$out/text" 2>&1 || { cat "$out/text"; exit 2; }
"$p" train "$@" --targets label --log "$out/one.csv" >"$out/text" 2>&1 || { cat "$out/text"; exit 2; }
# columns by name: with one target the table is shorter
paste -d, "$out/both.csv" "$out/one.csv" | awk -F, '
    NR == 1 { for (i = NF; i > 0; i--) { if ($i == "disease_error") { if (!one) one = i; else both = i } }
              printf "disease_error   %-22s%s\n", "disease and variety", "disease alone"; next }
    { printf "epoch %-10d%-22s%s\n", $1, $both, $one }'
