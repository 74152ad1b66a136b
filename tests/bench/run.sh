#!/bin/sh
# make bench: ours, then the peers where PYTHON (default python3) has them, joined into build/bench.tsv and printed.
python=${PYTHON:-python3}
OMP_NUM_THREADS=2 build/release/tests/bench/bench build/bench.csv | tee build/bench.ours | sed 's/^/  /' >&2 || exit 1
if "$python" -c 'import torch' 2>/dev/null; then
    POLARS_MAX_THREADS=1 "$python" tests/bench/peer.py build/bench.csv | tee build/bench.peer | sed 's/^/  peer: /' >&2
else
    echo "no PyTorch in $python: no ratios (PYTHON=path/to/python make bench)" >&2
    : >build/bench.peer
fi
awk -F '\t' '
function row(work, key, peer_key, better_low, target, share,   o, p, r) {
    o = ours[key]; p = peer[peer_key]
    r = o && p ? (better_low ? p / o : o / p) : 0
    printf "%s\t%s\t%s\t%s\t%s\t%s\n", work, o ? o " " unit[key] : "-", p ? p " " unit[key] : "-", r ? sprintf("%.1f", r) : "-", target, share
}
FILENAME ~ /ours$/ && NF == 3 {ours[$1] = $2; unit[$1] = $3}
FILENAME ~ /peer$/ && NF == 3 {peer[$1] = $2}
END {
    print "work\tours\tpeer\tratio\ttarget\tshare of ceiling"
    row("bias model step, batch 64, AdamW (rows)", "step_bias", "step_bias", 1, ">= 10x", "")
    row("  beside PyTorch'"'"'s fused AdamW", "step_bias", "step_bias_fused", 1, "", "")
    row("  dense gradients", "step_bias_dense", "step_bias", 1, "", "")
    row("nn model step, batch 64, AdamW (rows)", "step_nn", "step_nn", 1, ">= 8x", "")
    row("  beside PyTorch'"'"'s fused AdamW", "step_nn", "step_nn_fused", 1, "", "")
    row("  dense gradients", "step_nn_dense", "step_nn", 1, "", "")
    row("10 M ratings, batch 8,192, lazy AdamW", "ratings_lazy", "ratings_lazy", 0, ">= 20 M/s, >= 10x", "")
    row("10 M ratings, batch 8,192, SGD", "ratings_sgd", "ratings_sgd", 0, "toward 80 M/s", "")
    row("matmul 1024^3", "matmul_1024", "matmul_1024", 0, ">= 95 % of oneDNN", ours["matmul_1024_onednn"] ? sprintf("%.0f %% of oneDNN", 100 * ours["matmul_1024"] / ours["matmul_1024_onednn"]) : "")
    row("add of one element, with tape", "add_overhead", "add_overhead", 1, "<= 150 ns", "")
    row("CSV beside pandas", "csv", "csv_pandas", 0, ">= 300 MB/s, ahead", "")
    row("CSV beside polars", "csv", "csv_polars", 0, "ahead", "")
    row("start to first batch, ML-100K", "first_batch", "first_batch", 1, "<= 60 ms", "")
}' build/bench.ours build/bench.peer >build/bench.tsv
column -t -s "$(printf '\t')" build/bench.tsv 2>/dev/null || cat build/bench.tsv
"$python" tests/bench/vision.py || echo "no $python: the image models are measured by tests/bench/vision.py"
"$python" tests/bench/transform.py || echo "no $python: transforms alone: build/release/tests/bench/bench_transform"
"$python" tests/bench/loader.py || echo "no $python: photographs alone: build/release/tests/bench/bench_loader FOLDER"
tests/bench/ranks.sh
