#!/bin/sh
# How much faster several processes learn than one: painted leaves, one thread each, the second epoch's seconds.
command -v mpirun >/dev/null || { echo "no mpirun: several ranks were not measured"; exit 0; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
build/paddy paint "$dir/leaves" --n 260 --size 96 --diseases 4 --varieties 3 >"$dir/out"
for n in 1 2 4; do
    [ "$n" -le "$(nproc)" ] || continue
    mpirun -n $n --bind-to core build/paddy train "$dir/leaves" --size 96 --resize 96,squish --batch 64 --epochs 2 --threads 1 \
        --workers 0 --precision f32 --device cpu --log "$dir/$n.csv" >"$dir/out" 2>&1 || { cat "$dir/out"; exit 1; }
    awk -F, -v n=$n 'NR == 3 { print n, $NF }' "$dir/$n.csv"
done | awk '{ if ($1 == 1) one = $2; printf "%d ranks of one thread: %.2f s an epoch, %.2f times as fast as one, %.0f %% of %d\n", $1, $2, one / $2,
              100 * one / $2 / $1, $1 }'
