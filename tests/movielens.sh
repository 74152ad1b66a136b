#!/bin/sh
# The recommender as its users meet it: figures that must come out exactly, a whole session on made-up ratings, and bad
# input, each of which must end in status 2 with one clear error and leave files as they were. $1: the program.
m=${1:-build/movielens}
. tests/program.sh
ratings() { printf "$1" >"$dir/r.csv"; }

# ---- the spreadsheet -----------------------------------------------------------------------------------------------
sheet=${AGRAD_DATA:-../shared/data}/spreadsheet
if [ -d "$sheet" ]; then
    says 'rmse 2.8060620616' "$m" spreadsheet "$sheet"
    says 'rmse 2.0180038033' "$m" spreadsheet "$sheet" --bias
    refuses "take a smaller rate" "$m" spreadsheet "$sheet" --steps 100 --rate 1000
else
    echo "SKIP: the spreadsheet's figures, $sheet is absent"
fi

# ---- a session on made-up ratings ----------------------------------------------------------------------------------
cd_data="env AGRAD_DATA=$dir/none"
here=$(pwd)
case $m in /*) ;; *) m=$here/$m ;; esac
cd "$dir" || exit 1
f=$dir/model.safetensors
says 'made up, of the size of MovieLens 100K' $cd_data "$m" train --epochs 2 --save "$f" --log "$dir/log.csv"
[ "$(head -1 log.csv)" = epoch,train_loss,valid_loss,rmse,seconds ] || fails "log.csv begins with $(head -1 log.csv)"
[ "$(wc -l <log.csv)" = 3 ] || fails "log.csv has $(wc -l <log.csv) lines"
title=$($m biases "$f" --top 1 | sed -n '2s/^ *1  \(.*[^ ]\)  *[0-9.-]*$/\1/p')
says 'of the films not rated yet' "$m" recommend "$f" --user 196
says 'cosine of the factors' "$m" similar "$f" "$title"
says 'user 7,' "$m" predict "$f" --user 7 --item "$title"
says 'for someone who gave' "$m" recommend "$f" --new "$title=5" --top 3
says 'valley' $cd_data "$m" lr-find
# Three epochs at once; and one, Ctrl-C in the second, and the rest: the same bits.
for kind in dot bias nn; do
    rm -f b.safetensors
    says '' $cd_data "$m" train --model $kind --epochs 3 --threads 1 --save "$dir/a.safetensors"
    $cd_data "$m" train --model $kind --epochs 3 --threads 1 --save "$dir/b.safetensors" >/dev/null &
    pid=$!
    while [ ! -e b.safetensors ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    kill -INT $pid 2>/dev/null; wait $pid
    status=$?
    if [ $status = 130 ]; then
        says '' $cd_data "$m" train --model $kind --epochs 3 --threads 1 --save "$dir/b.safetensors" --resume "$dir/b.safetensors"
    elif [ $status != 0 ]; then fails "status $status after Ctrl-C"
    fi
    cmp -s a.safetensors b.safetensors || fails "resuming $kind gives other bits"
done

# ---- other files of ratings: latest-small (CRLF, half stars, quoted titles), 1M (::), a CSV of one's own -----------
mkdir small million
awk 'BEGIN {printf "userId,movieId,rating,timestamp\r\n"
    for (u = 1; u <= 30; u++) for (m = 1; m <= 20; m++) if ((u * 7 + m * 3) % 5) printf "%d,%d,%.1f,96498%d\r\n", u, m * 10, (u + m) % 10 / 2 + 0.5, u}' >small/ratings.csv
awk 'BEGIN {printf "movieId,title,genres\r\n"
    for (m = 1; m <= 20; m++) printf "%d,\"Film, \"\"The %d\"\" (19%d)\",Drama|War\r\n", m * 10, m, 70 + m}' >small/movies.csv
awk 'BEGIN {for (u = 1; u <= 30; u++) for (m = 1; m <= 20; m++) if ((u + m) % 4) printf "%d::%d::%d::978300760\n", u, m, (u + m) % 5 + 1}' >million/ratings.dat
awk 'BEGIN {for (m = 1; m <= 20; m++) printf "%d::L\351on %d (1994)::Crime\n", m, m}' >million/movies.dat
says "saved in" "$m" train small --epochs 2 --batch 32 --save "$dir/s.safetensors"
says 'Film, "The 3" (1973)' "$m" predict "$dir/s.safetensors" --user 5 --item 'Film, "The 3" (1973)'
says "saved in" "$m" train small --by id --epochs 2 --batch 32 --save "$dir/s.safetensors"
says 'Film, "The 3" (1973): ' "$m" predict "$dir/s.safetensors" --user 5 --item 30
says 'Film, "The 3" (1973): ' "$m" predict "$dir/s.safetensors" --user 5 --item 'film, "the 3" (1973)'
mv small away
says 'Film, "The ' "$m" recommend "$dir/s.safetensors" --user 5
says '20 films drawn' "$m" map "$dir/s.safetensors" --out "$dir/map.png"
mv away small
says "saved in" "$m" train million --optim lazy --epochs 2 --batch 32 --save "$dir/s.safetensors"
says "Léon 7 (1994)" "$m" similar "$dir/s.safetensors" "Léon 7 (1994)"
awk 'BEGIN {print "film,stars,user"; for (u = 1; u <= 20; u++) for (m = 1; m <= 9; m++) printf "film %d,%d,%s\n", m, (u * m) % 5 + 1, u % 2 ? "anna" u : "bert" u}' >own.csv
says "saved in" "$m" train own.csv --epochs 1 --batch 16 --optim sgd --accumulate 2 --save "$dir/s.safetensors"
says "user anna3, film 4:" "$m" predict "$dir/s.safetensors" --user anna3 --item "film 4"
head -5 own.csv >held.csv
says "saved in" "$m" train own.csv --valid-file held.csv --epochs 1 --batch 16 --model nn --layers 8 --save "$dir/s.safetensors"

# ---- options ---------------------------------------------------------------------------------------------------------
refuses "unknown command 'trian'; did you mean 'train'?" "$m" trian
refuses "unknown option '--epoch'; did you mean '--epochs'?" "$m" train --epoch 3
refuses "--epochs takes a whole number from 1 to 100000, got '0'" "$m" train --epochs 0
refuses "--epochs takes a whole number from 1 to 100000, got '3x'" "$m" train --epochs 3x
refuses "--lr takes a number from" "$m" train --lr nan
refuses "--lr takes a number from" "$m" train --lr -1
refuses "--model takes one of: dot bias nn; got 'knn'" "$m" train --model knn
refuses "--range takes lo,hi with lo below hi" "$m" train --range 5,1
refuses "--valid takes a number from" "$m" train --valid 1
refuses "--save needs a value" "$m" train --save
refuses "one argument too many" "$m" similar "$f" Star Wars

# ---- files of ratings ------------------------------------------------------------------------------------------------
refuses "no such file" "$m" train "$dir/absent.csv"
mkdir "$dir/empty"
refuses "no ratings in the folder" "$m" train "$dir/empty"
: >"$dir/r.csv";                                            refuses "r.csv" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n';                               refuses "r.csv" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n1,2\n';                   refuses "r.csv:3" "$m" train "$dir/r.csv"
ratings 'user,item,stars_given\n1,2,3\n';                   refuses "no column for the rating" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n1,3,four\n';              refuses "four" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n1,3,nan\n2,3,4\n';        refuses "nan" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n1,3,inf\n2,3,4\n';        refuses "inf" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n1,3,\n2,3,4\n';           refuses "row 2 has no rating" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n-4,3,1\n2,3,4\n';         refuses "row 2 has the negative user id -4" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n99999999999999999999,3,1\n2,3,4\n'; refuses "r.csv" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n1,\0003,4\n';             refuses "NUL" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n';                        refuses "" "$m" train "$dir/r.csv"
ratings 'user,item,rating\n1,2,3\n2,3,4\n2,4,4\n5,3,4\n6,3,4\n'; refuses "longer than the data" "$m" train "$dir/r.csv"
head -c 10000000 /dev/zero | tr '\0' 7 >"$dir/long.csv";    refuses "long.csv" "$m" train "$dir/long.csv"
refuses "no such file" $cd_data "$m" train --valid-file "$dir/absent.csv"

# ---- model files --------------------------------------------------------------------------------------------------------
refuses "no user '99999'" "$m" recommend "$f" --user 99999
refuses "the nearest is '" "$m" similar "$f" "${title}x"
refuses "lies outside of the model's range" "$m" recommend "$f" --new "$title=99"
refuses "twice" "$m" recommend "$f" --new "$title=5,$title=1"
refuses "got nothing" "$m" recommend "$f" --new ""
refuses "its folder does not exist" $cd_data "$m" train --save "$dir/absent/m.safetensors"
refuses "it is a folder" $cd_data "$m" train --save "$dir"
refuses "no film" "$m" predict "$f" --user 1 --item "Nothing of the Kind"
refuses "is no rating of" "$m" recommend "$f" --new "$title=good"
refuses "no such file" "$m" recommend "$dir/absent.safetensors" --user 1
refuses "not a safetensors file" "$m" recommend "$dir/log.csv" --user 1
# damaged metadata: other bytes of the same length
damaged() { want=$1; LC_ALL=C sed "s/$2/$3/" "$f" >"$dir/bad.safetensors"; refuses "$want" "$m" recommend "$dir/bad.safetensors" --user 1; }
damaged "names a model 'bibs'" '"model":"bias"' '"model":"bibs"'
damaged "damaged: 0 factors" '"factors":"50"' '"factors":"00"'
damaged "the range is 'nan,5'" '"range":"0,5.5"' '"range":"nan,5"'
damaged "films, 0 counts" '"counts":"[0-9]' '"counts":"x'
head -c 1000 "$f" >"$dir/cut.safetensors";                  refuses "truncated" "$m" recommend "$dir/cut.safetensors" --user 1
head -c 100000 "$f" >"$dir/cut.safetensors";                refuses "truncated" "$m" recommend "$dir/cut.safetensors" --user 1
says '' $cd_data "$m" train --epochs 1 --model dot --save "$dir/dot.safetensors"
refuses "has no biases" "$m" biases "$dir/dot.safetensors"
says "for someone who gave" "$m" recommend "$dir/dot.safetensors" --new "$title=5"
refuses "is missing in the file" $cd_data "$m" train --model bias --resume "$dir/dot.safetensors"
refuses "in the module" $cd_data "$m" train --model dot --factors 20 --resume "$dir/dot.safetensors"
refuses "go on with the same arguments" $cd_data "$m" train --model dot --epochs 3 --resume "$dir/dot.safetensors"
refuses "the loss became" $cd_data "$m" train --model dot --range none --optim sgd --lr 900 --save "$dir/dot.safetensors"
says 'for user 1' "$m" recommend "$dir/dot.safetensors" --user 1

# ---- a full disk --------------------------------------------------------------------------------------------------------
cp "$f" "$dir/before.safetensors"
(ulimit -f 100; trap '' XFSZ; $cd_data "$m" train --epochs 1 --save "$f" >/dev/null 2>"$dir/full.txt"; echo $? >"$dir/status")
[ "$(cat status)" = 2 ] || fails "status $(cat status) where there is no room for the model"
grep -q 'cannot write .*the old file' full.txt || fails "where there is no room it says: $(cat full.txt)"
cmp -s "$f" before.safetensors || fails "the old model file did not survive a full disk"
ls | grep -q 'tmp-' && fails "a temporary file stays behind"

done_with
