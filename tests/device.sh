#!/bin/sh
# Both programs on the GPU and on the CPU: the same curves. $1: paddy, $2: movielens, whose kernels run on a GPU, or on the CPU
# (make BUILD=emu).
p=${1:-build/emu/paddy} m=${2:-build/emu/movielens}
. tests/program.sh

says 'leaves' "$p" paint "$dir/leaves" --n 24 --size 40 --diseases 2 --varieties 2
few="$dir/leaves --size 32 --resize 36,squish --batch 4 --epochs 1 --workers 0 --lr 1e-3"
for arch in resnet10t convnext_atto vit_tiny_patch16_224; do
    for d in cpu cuda; do
        says 'saved in' "$p" train $few --arch $arch --precision f32 --device $d --save "$dir/$arch.$d.safetensors" --log "$dir/$arch.$d.csv"
    done
    alike "$dir/$arch.cpu.csv" "$dir/$arch.cuda.csv" 1e-4
done
for d in cpu cuda; do
    says 'saved in' "$p" train $few --arch convnext_atto --precision bf16 --device $d --save "$dir/bf16.$d.safetensors" --log "$dir/bf16.$d.csv"
done
alike "$dir/bf16.cpu.csv" "$dir/bf16.cuda.csv" 2e-2
says 'disease' "$p" predict "$dir/resnet10t.cuda.safetensors" "$dir/leaves" --device cuda --batch 4
says 'disease_error' "$p" report "$dir/resnet10t.cpu.safetensors" "$dir/leaves" --device cuda --out "$dir/report.html"

awk 'BEGIN { print "user,item,rating"; for (i = 0; i < 600; i++) print i * 7919 % 31 "," i * 104729 % 53 "," 1 + (i * 31 % 97) % 5 }' \
    >"$dir/films.csv"
for model in dot bias nn; do
    for d in cpu cuda; do
        says 'rmse' "$m" train "$dir/films.csv" --epochs 2 --model $model --batch 60 --device $d --log "$dir/$model.$d.csv"
    done
    alike "$dir/$model.cpu.csv" "$dir/$model.cuda.csv" 1e-4
done
done_with
