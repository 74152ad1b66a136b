#!/bin/sh
# The program of rice leaves as its users meet it, on painted leaves: each command, and bad input, which must end in status 2
# with one clear error. $1: the program.
p=${1:-build/paddy}
. tests/program.sh
data="--size 32 --resize 40,squish --batch 8"
few="$data --precision f32"

# ---- leaves ---------------------------------------------------------------------------------------------------------
says 'paddy help COMMAND' "$p" help
says '40 leaves of 2 diseases and 2 varieties' "$p" paint "$dir/leaves" --n 40 --size 48 --diseases 2 --varieties 2
[ "$(head -1 "$dir/leaves/train.csv")" = image_id,label,variety,age ] || fails 'the table is not as Kaggle'"'"'s'
says '40 files: 40 ok, 0 bad' "$p" check "$dir/leaves"
says 'drawn in' "$p" show "$dir/leaves" --out "$dir/show.png" $data
says 'drawn in' "$p" show "$dir/leaves" --augmented --out "$dir/show.png" $data
says 'convnext_tiny' "$p" sizes convnext_tiny --size 64 --batch 8 --accumulate 1,2
says 'resnet10t' "$p" sizes resnet10t --size 32 --batch 8 --measure
# plan and measured agree to a hundredth, in all three columns
"$p" sizes resnet10t --size 64 --batch 16 --measure | tr -d / | awk '/resnet10t/ { for (i = 3; i < NF; i += 2) {
    d = $i - $(i + 1); if (d * d > (0.01 * $i + 1) ^ 2) exit 1 } }' || fails 'planned and measured memory differ'

# ---- learning and using ---------------------------------------------------------------------------------------------
says 'saved in' "$p" train "$dir/leaves" $few --epochs 2 --save "$dir/a.safetensors" --log "$dir/a.csv" --tta
says 'epoch,train_loss,valid_loss,disease_error,variety_error,disease_loss,variety_loss,seconds' cat "$dir/a.csv"
says 'saved in' "$p" train "$dir/leaves" $few --epochs 2 --workers 3 --save "$dir/b.safetensors" --log "$dir/b.csv"
[ "$(cut -d, -f1-7 "$dir/a.csv")" = "$(cut -d, -f1-7 "$dir/b.csv")" ] || fails 'workers change the numbers'
says 'saved in' "$p" train "$dir/leaves/train_images" $few --epochs 1 --save "$dir/one.safetensors"
says 'valley' "$p" lr-find "$dir/leaves" $few --out "$dir/lr.png"
leaf=$(ls "$dir"/leaves/train_images/bacterial_leaf_blight/*.jpg | head -1)
says 'disease bacterial' "$p" predict "$dir/a.safetensors" "$leaf"
says '40 photographs' "$p" predict "$dir/a.safetensors" "$dir/b.safetensors" "$dir/leaves" --csv "$dir/out.csv" --tta
[ "$(head -1 "$dir/out.csv")" = image_id,label,label_prob,variety,variety_prob ] || fails 'other columns in the table of predictions'
[ "$(wc -l <"$dir/out.csv")" = 41 ] || fails 'not a row for each picture'
cp "$leaf" "$dir/a,b.jpg"
says '1 photographs' "$p" predict "$dir/a.safetensors" "$dir/a,b.jpg" --csv "$dir/comma.csv"
[ "$(tail -1 "$dir/comma.csv" | cut -c1-10)" = '"a,b.jpg",' ] || fails 'a name with a comma is not quoted'
says 'disease_error' "$p" train "$dir/leaves" $few --epochs 1 --weights "$dir/a.safetensors"
says 'saved in' "$p" train "$dir/leaves" $few --epochs 1 --freeze-epochs 2 --lr 0.1 --weights "$dir/a.safetensors" --save "$dir/f.safetensors"
says 'disease bacterial' "$p" predict "$dir/f.safetensors" "$leaf"
says 'in parts of up to' "$p" train "$dir/leaves" $few --epochs 2 --batch 32 --memory 140M
ends 1 '1 of 2 files could not be read' "$p" predict "$dir/a.safetensors" "$leaf" "$dir/none.jpg" --csv "$dir/gap.csv"
[ "$(tail -1 "$dir/gap.csv")" = none.jpg,,,, ] || fails 'a file that cannot be read has no row'

# ---- what they get wrong ----------------------------------------------------------------------------------------------
{ echo image_id,label; sed -n '5,12p' "$dir/leaves/train.csv" | cut -d, -f1,2; } >"$dir/valid.csv"
for s in 1 2; do
    says 'saved in' "$p" train "$dir/leaves" $few --epochs 2 --seed $s --valid-table "$dir/valid.csv" --save "$dir/v$s.safetensors"
done
says 'together' "$p" report "$dir/v1.safetensors" "$dir/v2.safetensors" "$dir/leaves" --out "$dir/report.html"
says '8 photographs that were not learned from' cat "$dir/report.html"
[ "$(grep -c '<figure>' "$dir/report.html")" = 8 ] || fails 'not a picture for each of the largest losses'
says 'disease_error' "$p" report "$dir/a.safetensors" "$dir/leaves" --tta --batch 64 --out "$dir/report.html"
refuses 'held out different pictures' "$p" report "$dir/a.safetensors" "$dir/v1.safetensors" "$dir/leaves" --out "$dir/r.html"
{ cat "$dir/valid.csv"; echo absent.jpg,blast; } >"$dir/more_valid.csv"
refuses 'names no item' "$p" report "$dir/a.safetensors" "$dir/leaves" --valid-table "$dir/more_valid.csv" --out "$dir/r.html"

says 'epoch 1' env PADDY="$p" examples/paddy/two_targets.sh "$dir/leaves" $few --epochs 2

# ---- odd but right ----------------------------------------------------------------------------------------------------
sed 's/$/\r/' "$dir/leaves/train.csv" >"$dir/crlf.csv"
says 'disease_error' "$p" train "$dir/leaves" --table "$dir/crlf.csv" $few --epochs 1
odd="$dir/$(printf 'a \377\n"b')"
cp -r "$dir/leaves" "$odd"
says 'disease_error' "$p" train "$odd" $few --epochs 1
says 'ok, 0 bad' "$p" check "$odd"
mkdir "$dir/leaves/train_images/blast_unseen"
says 'disease_error' "$p" train "$dir/leaves/train_images" $few --epochs 1
# a file that goes away in the midst of an epoch is left out and named
cp -r "$dir/leaves" "$dir/going"
gone=$(ls "$dir"/going/train_images/*/*.jpg | head -1)
(sleep 1; rm "$gone") &
says 'disease_error' "$p" train "$dir/going" $few --epochs 3 --lr 1e-4
wait

# ---- what cannot be --------------------------------------------------------------------------------------------------
refuses 'no folder' "$p" train "$dir/none"
mkdir "$dir/empty"
refuses 'no pictures below' "$p" train "$dir/empty"
refuses 'no pictures below' "$p" predict "$dir/a.safetensors" "$dir/empty"
mkdir -p "$dir/single/a"
cp "$leaf" "$dir/single/a"
refuses 'empty' "$p" train "$dir/single" $few
head -1 "$dir/leaves/train.csv" >"$dir/alone.csv"
for f in "$dir"/leaves/train_images/*/*.jpg; do echo "$(basename "$f"),blast,$(basename "$f" .jpg),50"; done >>"$dir/alone.csv"
refuses 'variety' "$p" train "$dir/leaves" --table "$dir/alone.csv" $few
mkdir -p "$dir/odd/a b
c/"
cp "$leaf" "$dir/odd/a b
c/1.jpg"
refuses 'one' "$p" train "$dir/odd" $few
{ cat "$dir/leaves/train.csv"; echo 'absent.jpg,blast,ADT45,50'; } >"$dir/more.csv"
refuses '1 of the 41 rows' "$p" train "$dir/leaves" --table "$dir/more.csv" $few
{ cat "$dir/leaves/train.csv"; tail -1 "$dir/leaves/train.csv"; } >"$dir/twice.csv"
refuses 'more than one row' "$p" train "$dir/leaves" --table "$dir/twice.csv" $few
head -20 "$dir/leaves/train.csv" >"$dir/some.csv"
says '21 of 40 pictures' "$p" train "$dir/leaves" --table "$dir/some.csv" $few --epochs 1
refuses 'variety' "$p" train "$dir/leaves" --targets label,varity $few
refuses 'the nearest are resnet10t' "$p" train "$dir/leaves" --arch resnet10 $few
refuses '--resize takes' "$p" train "$dir/leaves" --resize 40
refuses 'sides of images' "$p" train "$dir/leaves" --arch vit_tiny_patch16_224 $few --size 40
refuses 'it is a folder' "$p" train "$dir/leaves" --save "$dir/leaves" $few
refuses 'cannot write' "$p" lr-find "$dir/leaves" --out "$dir/none/lr.png" $few
refuses 'cannot write' "$p" predict "$dir/a.safetensors" "$leaf" --csv "$dir/none/out.csv"
refuses 'cannot write' "$p" train "$dir/leaves" --save "$dir/none/a.safetensors" $few
[ -e "$dir/none" ] && fails 'something was written'
refuses 'is no model' "$p" predict tests/fixtures/add.safetensors "$leaf"
refuses 'other classes' "$p" predict "$dir/a.safetensors" "$dir/one.safetensors" "$leaf"
for f in "$dir"/leaves/train_images/*/*[05].jpg; do head -c 300 "$f" >"$dir/part" && cp "$dir/part" "$f"; done
ends 2 'pictures are bad' "$p" train "$dir/leaves" $few
ends 1 '8 bad' "$p" check "$dir/leaves"
done_with
