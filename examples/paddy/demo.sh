#!/bin/sh
# The second half of `make demo`: leaves are painted, looked at and learned from, with the commands as a user would type them.
set -e
p=build/paddy
say() { printf '\n$ %s\n' "$*"; "$@"; }

say $p paint build/leaves --n 400 --diseases 4 --varieties 3
say $p show build/leaves --out build/leaves.png
say $p train build/leaves --size 64 --batch 16 --epochs 8 --save build/paddy.safetensors
say $p predict build/paddy.safetensors build/leaves/train_images/blast/100003.jpg
say $p report build/paddy.safetensors build/leaves --out build/report.html
printf '\nThe leaves are drawn in build/leaves.png; what was learned and mistaken stands in build/report.html.\n'
