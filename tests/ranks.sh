#!/bin/sh
# Several processes that learn as one, started by mpirun: the same curves for any number of them, one voice, and what happens
# when one of them dies. $1: paddy, $2: movielens, $3: paddy on emulated GPUs.
p=${1:-build/paddy} m=${2:-build/movielens} g=${3:-build/emu/paddy}
. tests/program.sh
if ! command -v mpirun >/dev/null; then
    echo 'ranks.sh: SKIP: there is no mpirun (apt-get install openmpi-bin libopenmpi-dev)'
    exit 0
fi
if ! ldd "$p" | grep -q libmpi; then
    refuses 'its build has no MPI' env OMPI_COMM_WORLD_SIZE=2 "$p" check tests
    echo 'ranks.sh: SKIP: this build has no MPI (libopenmpi-dev)'
    done_with
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
ranks() { n=$1; shift; timeout 120 mpirun --oversubscribe -n "$n" "$@"; }

# rank_of R FILE: the process that is rank R of the run that saves FILE
rank_of() {
    pgrep -f "paddy train .*$dir/$2" | while read -r pid; do
        tr '\0' '\n' <"/proc/$pid/environ" | grep -q "^OMPI_COMM_WORLD_RANK=$1\$" && echo "$pid"
    done
}
if [ -x build/release/tests/test_ranks ]; then
    for n in 2 3; do ends 0 'PASSED' ranks $n build/release/tests/test_ranks; done
fi

# ---- the same curve ---------------------------------------------------------------------------------------------------
"$p" paint "$dir/leaves" --n 70 --size 40 --diseases 2 --varieties 2 >"$dir/out"
few="$dir/leaves --size 32 --resize 40,squish --batch 16 --precision f32 --threads 1 --epochs 2 --lr 1e-3"
for arch in convnext_atto resnet10t; do
    for n in 1 2 4; do
        says 'disease_error' ranks $n "$p" train $few --arch $arch --log "$dir/$arch.$n.csv" --save "$dir/$arch.$n.safetensors" --workers 1
        alike "$dir/$arch.1.csv" "$dir/$arch.$n.csv" 1e-4
    done
done
# in parts, for want of memory; of two kinds of batches: 16 + 8
large="$dir/leaves --size 96 --resize 96,squish --batch 16 --precision f32 --threads 1 --epochs 1 --lr 1e-3"
says 'disease_error' "$p" train $large --arch convnext_atto --log "$dir/whole1.csv"
says 'are computed in parts' ranks 2 "$p" train $large --arch convnext_atto --memory 84M --log "$dir/parts2.csv"
[ "$(printf '%s\n' "$got" | grep -c 'are computed in parts')" = 1 ] || fails "not one line about parts: $got"
alike "$dir/whole1.csv" "$dir/parts2.csv" 1e-4
# more ranks than samples in the last batch of 56 = 3 x 16 + 8, and in every batch
says 'disease_error' ranks 3 "$p" train $few --arch convnext_atto --batch 2 --epochs 1 --log "$dir/tiny3.csv"
says 'disease_error' "$p" train $few --arch convnext_atto --batch 2 --epochs 1 --log "$dir/tiny1.csv"
cat "$dir/tiny1.csv" >>"$dir/tiny1.csv.2"; tail -1 "$dir/tiny1.csv" >>"$dir/tiny1.csv.2"
cat "$dir/tiny3.csv" >>"$dir/tiny3.csv.2"; tail -1 "$dir/tiny3.csv" >>"$dir/tiny3.csv.2"
alike "$dir/tiny1.csv.2" "$dir/tiny3.csv.2" 1e-4
for n in 1 2; do
    says 'disease_error' ranks $n "$p" train $few --arch convnext_atto --batch 8 --accumulate 2 --log "$dir/parts.$n.csv"
done
alike "$dir/parts.1.csv" "$dir/parts.2.csv" 1e-4
awk 'BEGIN { print "user,item,rating"; for (i = 0; i < 4000; i++) print i * 7919 % 97 "," i * 104729 % 211 "," 1 + (i * 31 % 97 + i * 17 % 211) % 5 }' \
    >"$dir/films.csv"
for n in 1 2; do
    says 'rmse' ranks $n "$m" train "$dir/films.csv" --epochs 2 --model bias --log "$dir/films.$n.csv" --threads 1
done
alike "$dir/films.1.csv" "$dir/films.2.csv" 1e-4

# ---- on a GPU each: sums by NCCL, and through the host where it is absent or GPUs are shared -----------------------------
if [ -x "$g" ] && [ -x build/emu/tests/test_cuda_ranks ]; then
    export AG_EMULATE_GPUS=4
    for n in 2 3; do ends 0 'PASSED' ranks $n build/emu/tests/test_cuda_ranks; done
    ends 0 'go through the host: rank 1 has no NCCL that fits' env AG_EMULATE_NO_NCCL=1 \
        timeout 120 mpirun --oversubscribe -n 2 build/emu/tests/test_cuda_ranks
    "$g" paint "$dir/few" --n 24 --size 40 --diseases 2 --varieties 2 >"$dir/out"
    on="$dir/few --size 32 --resize 36,squish --batch 8 --epochs 1 --workers 0 --lr 1e-3 --precision f32 --threads 1 --device cuda"
    for arch in convnext_atto resnet10t; do
        for n in 1 2 4; do
            says 'disease_error' ranks $n "$g" train $on --arch $arch --log "$dir/gpu.$arch.$n.csv"
            case $got in *'through the host'*) fails "NCCL is not used: $got" ;; esac
            alike "$dir/gpu.$arch.1.csv" "$dir/gpu.$arch.$n.csv" 1e-4
        done
    done
    AG_EMULATE_GPUS=1
    says 'go through the host: ranks 0 and 1 share a GPU' ranks 2 "$g" train $on --arch resnet10t --log "$dir/gpu.shared.csv"
    alike "$dir/gpu.resnet10t.1.csv" "$dir/gpu.shared.csv" 1e-4
    unset AG_EMULATE_GPUS
fi

# ---- a checkpoint goes on with any number -----------------------------------------------------------------------------
long="$dir/leaves --size 32 --resize 40,squish --batch 16 --precision f32 --threads 1 --epochs 12 --lr 1e-3 --arch convnext_atto"
ranks 2 "$p" train $long --save "$dir/half.safetensors" --log "$dir/half.csv" >"$dir/out" 2>&1 &
waited=0
until [ -s "$dir/half.safetensors" ] || [ $waited -gt 300 ]; do sleep 0.1; waited=$((waited + 1)); done
kill -INT $(rank_of 1 half.safetensors)
wait
grep -q 'go on with' "$dir/out" || fails "an interrupted run of two does not say how to go on:
$(cat "$dir/out")"
says 'saved in' "$p" train $long --save "$dir/whole.safetensors" --log "$dir/whole.csv"
says 'saved in' ranks 3 "$p" train $long --save "$dir/half.safetensors" --log "$dir/half.csv" --resume "$dir/half.safetensors"
alike "$dir/whole.csv" "$dir/half.csv" 1e-4

# Ctrl-C in mpirun, which asks the ranks to end and kills them a second later
mpirun --oversubscribe -n 2 "$p" train $long --save "$dir/stopped.safetensors" >"$dir/out" 2>&1 &
mpirun=$! waited=0
until [ -s "$dir/stopped.safetensors" ] || [ $waited -gt 300 ]; do sleep 0.1; waited=$((waited + 1)); done
kill -INT $mpirun
wait
grep -q 'interrupted after step' "$dir/out" || fails "ranks do not save when mpirun is interrupted:
$(cat "$dir/out")"
says 'disease' "$p" predict "$dir/stopped.safetensors" "$(ls "$dir"/leaves/train_images/*/*.jpg | head -1)"

# ---- two hosts: network namespaces with a cable between them -----------------------------------------------------------
h1=ag1-$$ h2=ag2-$$
if ip netns add $h1 2>/dev/null && ip netns add $h2 2>/dev/null; then
    trap 'ip netns del $h1; ip netns del $h2; chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
    ip -n $h1 link add v1 type veth peer name v2 netns $h2
    for h in 1 2; do
        eval "ns=\$h$h"
        ip -n "$ns" addr add 10.77.0.$h/24 dev v$h && ip -n "$ns" link set v$h up && ip -n "$ns" link set lo up
    done
    printf '#!/bin/sh\nhost=$1; shift\n[ "$host" = 10.77.0.1 ] && ns=%s || ns=%s\nexec ip netns exec $ns sh -c "$*"\n' $h1 $h2 >"$dir/agent"
    chmod +x "$dir/agent"
    says 'disease_error' timeout 120 ip netns exec $h1 mpirun --mca plm_rsh_agent "$dir/agent" --mca btl tcp,self \
        --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 -host 10.77.0.1:1,10.77.0.2:1 -n 2 \
        -x OMPI_ALLOW_RUN_AS_ROOT -x OMPI_ALLOW_RUN_AS_ROOT_CONFIRM \
        "$(realpath "$p")" train $few --arch convnext_atto --log "$dir/hosts.csv"
    alike "$dir/convnext_atto.1.csv" "$dir/hosts.csv" 1e-4
else
    echo 'ranks.sh: SKIP: two hosts; no network namespace can be made here (root and iproute2)'
fi

# ---- one voice, and the end of all ------------------------------------------------------------------------------------
ranks 2 "$p" train "$dir/none" >"$dir/out" 2>&1 && fails 'a folder that is not there is no error'
[ "$(grep -c 'there is no folder' "$dir/out")" = 1 ] || fails "not one error of two ranks:
$(cat "$dir/out")"
# dies: one of the ranks that run is killed once they have saved
dies() {
    waited=0
    until [ -s "$dir/killed.safetensors" ] || [ $waited -gt 600 ]; do sleep 0.1; waited=$((waited + 1)); done
    start=$(date +%s)
    kill -9 $(rank_of 1 killed.safetensors)
    wait
    [ $(($(date +%s) - start)) -le 10 ] || fails 'the others go on for more than 10 s when one dies'
    grep -q 'rank 1' "$dir/out" || fails "nobody says which rank died:
$(cat "$dir/out")"
}
if [ -x "$g" ]; then
    AG_EMULATE_GPUS=3 ranks 3 "$g" train $long --device cuda --save "$dir/killed.safetensors" >"$dir/out" 2>&1 &
    dies
fi
rm -f "$dir/killed.safetensors"
ranks 3 "$p" train $long --save "$dir/killed.safetensors" >"$dir/out" 2>&1 &
dies
says 'disease' "$p" predict "$dir/killed.safetensors" "$(ls "$dir"/leaves/train_images/*/*.jpg | head -1)"
done_with
