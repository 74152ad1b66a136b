#!/bin/sh
# make check: the rules of the house that a machine can read. $1: the library.
bad=0
complain() { echo "check: $1"; bad=1; }

# Includes point one way: core <- ops <- nn <- data <- optim <- models <- examples.
rank() { case $1 in core) echo 0;; ops) echo 1;; nn) echo 2;; data) echo 3;; optim) echo 4;; models) echo 5;; *) echo 9;; esac; }
for d in core ops nn data optim models; do
    for f in $d/*.c $d/*.h; do
        for i in $(sed -n 's/^#include "\([a-z]*\)\/.*/\1/p' "$f"); do
            [ "$(rank "$i")" -le "$(rank $d)" ] && continue
            complain "$f includes $i/, which lies above it"
        done
    done
done

# Every exported symbol begins with ag_.
nm -g --defined-only "$1" | awk 'NF == 3 && $3 !~ /^(_|_Z[0-9]+)?ag_/ {print "check: the library exports " $3; bad = 1} END {exit bad}' || bad=1

# Memory comes from one place, files are opened in one.
grep -nE '(^|[^_a-z])(malloc|calloc|realloc|strdup|posix_memalign)\(' core/*.c ops/*.c nn/*.c data/*.c optim/*.c models/*.c examples/*/*.c |
    grep -v '^core/memory.c' && complain "allocation outside core/memory.c"
grep -nE '(^|[^_a-z])(fopen|open|creat|rename)\(' core/*.c ops/*.c nn/*.c data/*.c optim/*.c models/*.c examples/*/*.c |
    grep -v '^core/io.c' && complain "files opened outside core/io.c"

# Sizes: files under 500 lines, lines of at most 130 columns, no tabs, no trailing blanks.
for f in $(git ls-files '*.c' '*.h' '*.cu' '*.cpp' '*.def'); do
    [ "$(wc -l <"$f")" -lt 500 ] || complain "$f has 500 lines or more"
    awk -v f="$f" 'BEGIN {bad = 0} length($0) > 130 {print "check: " f ":" NR ": " length($0) " columns"; bad = 1}
        /\t/ {print "check: " f ":" NR ": a tab"; bad = 1} / $/ {print "check: " f ":" NR ": a trailing blank"; bad = 1}
        END {exit bad}' "$f" || bad=1
done
# Functions under 80 lines: from a line "{" in the first column to "}".
for f in $(git ls-files '*.c'); do
    awk -v f="$f" '/^\{/ {start = NR} /^\}/ {if (start && NR - start > 80) {print "check: " f ":" start ": a function of " NR - start " lines"; bad = 1} start = 0} END {exit bad}' "$f" || bad=1
done
# Two structs of one name in two files of C++ are one to the linker.
twice=$(grep -ohE '^(template <[^>]*> )?struct [a-z_0-9]+' cuda/*.cu | sed 's/.*struct //' | sort | uniq -d)
[ -z "$twice" ] || complain "structs of cuda/*.cu have one name: $twice"
git grep -nE 'TODO|FIXME' -- '*.c' '*.h' '*.md' '*.py' && complain "unfinished work"
git grep -n -- '-Ofast' -- Makefile | grep -v grep && complain "-Ofast"

# The front door opens for C++ as well.
printf '#include "agrad.h"\nint main() { return ag_threads() > 0 ? 0 : 1; }\n' >build/front.cpp
c++ -std=c++20 -Wall -Wextra -Wpedantic -Werror -I. -c build/front.cpp -o build/front.o || complain "agrad.h is not C++20"
rm -f build/front.cpp build/front.o

[ $bad = 0 ] && echo "check: all in order"
exit $bad
