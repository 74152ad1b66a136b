#!/bin/sh
# The program of image models as its users meet it: each command once, and bad input, which must end in status 2 with one
# clear error. $1: the program.
m=${1:-build/model}
. tests/program.sh
f=tests/fixtures

# ---- looking -------------------------------------------------------------------------------------------------------
says 'model help COMMAND' "$m" help
says '--weights       safetensors, or a PyTorch checkpoint; needed' "$m" help forward
says 'resnet18 ' "$m" list 'resnet1*'
says 'convnext_atto	3695520	224' "$m" list --tsv
says '11,689,512 parameters' "$m" summary resnet18
says 'the peak is in ' "$m" plan resnet18 --train --batch 8
says 'layer1.0.conv1 ' "$m" plan resnet18 --layers
ends 1 '--accumulate' "$m" plan resnet18 --train --batch 32 --limit 600M
ends 1 'not even with one image' "$m" plan resnet18 --limit 1M
says 'img_per_s	' "$m" bench resnet10t --size 64 --batch 2 --train --steps 1 --tsv
says 'images per second' "$m" bench vit_tiny_patch16_224 --size 64 --batch 1 --infer --precision bf16 --steps 1

# ---- files ---------------------------------------------------------------------------------------------------------
says "7 tensors of 'model_ema' (beside it: model, optimizer, epoch, best)" "$m" convert $f/nested.pth "$dir/n.safetensors"
says '7 tensors compared, 0 differ' "$m" diff $f/nested.pth "$dir/n.safetensors"
ends 1 '5 only in B' "$m" diff $f/state.pth $f/nested.pth
ends 1 'relatively' "$m" diff $f/state.pth $f/nested.pth
says '16 tensors' "$m" convert $f/dtypes.pth "$dir/d.safetensors"
refuses "tensor 'f16' are NaN or infinite" "$m" convert $f/dtypes.pth "$dir/e.safetensors" --finite
[ -e "$dir/e.safetensors" ] && fails "a file was written in spite of an error"
refuses 'the pickle wants to call' "$m" convert $f/system.pth "$dir/e.safetensors"
says '1 tensors, 2 numbers' "$m" convert $f/legacy.pth "$dir/e.safetensors"
refuses 'no such file' "$m" convert "$dir/none" "$dir/e.safetensors"
head -c 300 "$dir/n.safetensors" >"$dir/cut"
refuses 'truncated' "$m" diff "$dir/cut" "$dir/n.safetensors"

# ---- bad input -----------------------------------------------------------------------------------------------------
ends 2 'COMMAND' "$m"
refuses "did you mean 'bench'" "$m" bnech resnet18
refuses "did you mean '--batch'" "$m" bench resnet18 --bathc 3
refuses 'bench takes no --weights' "$m" bench resnet18 --weights w
refuses 'the nearest are resnet18' "$m" bench resnet81
refuses 'no model matches' "$m" list 'zebra*'
refuses 'plan needs NAME' "$m" plan
refuses 'one argument too many' "$m" plan resnet18 resnet34
refuses 'forward needs --weights' "$m" forward resnet18 --input x --output y
refuses 'a whole number from 1 to 1048576' "$m" bench resnet18 --batch 0
refuses 'one of: f32 bf16' "$m" bench resnet18 --precision f16
refuses 'not both' "$m" bench resnet18 --train --infer
refuses 'K, M, G or T' "$m" plan resnet18 --limit 8X
refuses 'multiple' "$m" plan vit_tiny_patch16_224 --size 100
refuses "has no tensor 'x'" "$m" forward resnet18 --weights "$dir/n.safetensors" --input "$dir/n.safetensors" --output "$dir/y"
done_with
