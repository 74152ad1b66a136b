#!/bin/sh
# make gpu-check: everything that a GPU is needed for, in one call: builds with nvcc, runs the tests,
# compute-sanitizer's four tools where it is installed, the measurements; the last thing printed is one table.
# Without a GPU it says so, after having compiled and linked everything that can be. Status 1: something failed.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-release}
bench=build/$build/tests/gpu_bench
fits=build/$build/tests/gpu_fits
tests=build/$build/tests/test_cuda
others=$(ls tests/test_cuda_*.c | sed "s|^\(.*\)\.c$|build/$build/\1|")
table=build/gpu.tsv
failed=0
mkdir -p build
: >"$table"

# step NAME LIMIT COMMAND...: one line of the table.
step()
{
    name=$1 limit=$2
    shift 2
    echo "== $name"
    begin=$(date +%s)
    timeout "$limit" "$@"
    status=$?
    seconds=$(($(date +%s) - begin))
    case $status in
    0) result=passed ;;
    124) result="over $limit s" failed=1 ;;
    *) result="failed ($status)" failed=1 ;;
    esac
    printf '%s\t%s\t%s s\n' "$name" "$result" "$seconds" >>"$table"
    return $status
}

print_table()
{
    echo
    awk -F '\t' '{ printf "%-52s %14s %s\n", $1, $2, $3 }' "$table"
    exit $failed
}

if [ "$build" != emu ] && ! command -v "${NVCC:-nvcc}" >/dev/null; then
    echo "gpu-check: nothing to do: there is no nvcc (CUDA toolkit), so this build has no GPU part." \
         "make test runs the kernels on the CPU."
    exit 0
fi
programs="build/paddy build/movielens"
[ "$build" = release ] || programs="build/$build/paddy build/$build/movielens"
step "build, nvcc" 240 make -s -j"$(nproc)" BUILD="$build" "$tests" $others "$bench" "$fits" $programs || print_table
if ! why=$("$bench" --probe); then
    echo "gpu-check: no GPU here; everything was compiled and linked, nothing was run on one: $why"
    print_table
fi
step "kernels against the CPU" 60 "$tests"
for t in $others; do step "${t##*/test_cuda_} against the CPU" 90 "$t"; done
step "both programs, their curves beside the CPU's" 120 tests/device.sh $programs
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck initcheck synccheck; do
        step "compute-sanitizer $tool" 45 "$sanitizer" --tool "$tool" --error-exitcode 9 "$tests"
    done
else
    printf 'compute-sanitizer\tnot installed\t\n' >>"$table"
fi
small=$([ "$build" = emu ] && echo --small)
step "measurements" 60 sh -c "$bench $small >build/gpu_bench.tsv"
cat build/gpu_bench.tsv >>"$table"
step "measurements of training" 60 sh -c "$fits $small >build/gpu_fits.tsv"
# PyTorch at its best beside it, where it is installed (PYTHON=path); --autotune takes minutes more.
python=${PYTHON:-python3}
: >build/gpu_peer.tsv
if "$python" -c 'import torch, timm' 2>/dev/null; then
    step "the same in PyTorch" 180 sh -c "$python tests/gpu_peer.py $small >build/gpu_peer.tsv"
else
    printf 'PyTorch and timm\tnot installed\t\n' >>"$table"
fi
# Times of a step: the less the better.
awk -F '\t' 'NR == FNR { peer[$1] = $2; next }
    { ratio = "" }
    $1 in peer { ratio = sprintf("%s PyTorch %s: %.2fx", $3, peer[$1], $3 ~ /step|MB/ ? peer[$1] / $2 : $2 / peer[$1]) }
    { printf "%s\t%s\t%s\n", $1, $2, ratio ? ratio : $3 }' build/gpu_peer.tsv build/gpu_fits.tsv >>"$table"
print_table
