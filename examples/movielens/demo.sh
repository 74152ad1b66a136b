#!/bin/sh
# What `make demo` shows: from ratings to recommendations, with the commands as a user would type them.
set -e
m=build/movielens
f=build/movielens.safetensors
say() { printf '\n$ %s\n' "$*"; "$@"; }

say $m train --save $f
# The film liked most serves as an example, so that this runs on made-up ratings as well.
film=$($m biases $f --top 1 | sed -n '2s/^ *1  \(.*[^ ]\)  *[0-9.-]*$/\1/p')
say $m recommend $f --user 196
say $m similar $f "$film"
say $m biases $f --top 5
say $m predict $f --user 196 --item "$film"
say $m recommend $f --new "$film=5" --top 5
say $m lr-find --out build/lr.png
say $m map $f --out build/map.png
printf '\nThe model is in %s, the pictures are build/map.png and build/lr.png.\n' $f
