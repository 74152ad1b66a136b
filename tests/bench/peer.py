"""The same works in PyTorch, pandas and polars: lines of key, value, unit. Two threads, best of several rounds."""
import sys
import time

import torch
import torch.nn as nn

torch.set_num_threads(2)
torch.manual_seed(0)


def report(key, value, unit):
    print(f"{key}\t{value:.4g}\t{unit}", flush=True)


class DotBias(nn.Module):
    def __init__(self, users, items, width, sparse=False):
        super().__init__()
        sizes = [(users, width), (items, width), (users, 1), (items, 1)]
        self.tables = nn.ModuleList([nn.Embedding(n, k, sparse=sparse) for n, k in sizes])
        for t in self.tables:
            nn.init.normal_(t.weight, 0, 0.01)

    def forward(self, ids):
        u, i = ids[:, 0], ids[:, 1]
        t = self.tables
        s = (t[0](u) * t[1](i)).sum(1) + t[2](u).squeeze(1) + t[3](i).squeeze(1)
        return torch.sigmoid(s) * 5.5


class EmbeddingNN(nn.Module):
    def __init__(self, users, items, a, b):
        super().__init__()
        self.u, self.i = nn.Embedding(users, a), nn.Embedding(items, b)
        layers, width = [], a + b
        for size in (100, 50):
            layers += [nn.Linear(width, size, bias=False), nn.ReLU(), nn.BatchNorm1d(size)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, ids):
        x = torch.cat([self.u(ids[:, 0]), self.i(ids[:, 1])], 1)
        return torch.sigmoid(self.layers(x).squeeze(1)) * 5.5


def per_step(net, opt, batches, rounds, steps):
    best, k = 1e9, 0
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            x, y = batches[k % len(batches)]
            k += 1
            loss = nn.functional.mse_loss(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        best = min(best, time.perf_counter() - start)
    return best / steps


def batches(users, items, size, n):
    return [(torch.stack([torch.randint(1, users, (size,)), torch.randint(1, items, (size,))], 1),
             torch.randint(1, 6, (size,)).float()) for _ in range(n)]


def main():
    print(f"# torch {torch.__version__}")
    x, y = torch.randn(1, requires_grad=True), torch.randn(1)
    best = 1e9
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(5000):
            x + y
        best = min(best, time.perf_counter() - start)
    report("add_overhead", best / 5000 * 1e9, "ns")
    small = batches(944, 1683, 64, 200)
    for fused in (False, True):
        kw = {"lr": 5e-3, "betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": 0.1, "fused": fused}
        suffix = "_fused" if fused else ""
        net = DotBias(944, 1683, 50)
        report("step_bias" + suffix, per_step(net, torch.optim.AdamW(net.parameters(), **kw), small, 8, 150) * 1e6, "us")
        net = EmbeddingNN(944, 1683, 74, 103)
        report("step_nn" + suffix, per_step(net, torch.optim.AdamW(net.parameters(), **kw), small, 8, 100) * 1e6, "us")
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = 1e9
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    report("matmul_1024", 2e-9 * 1024**3 / best, "GFLOP/s")
    large = batches(69879, 10678, 8192, 20)
    net = DotBias(69879, 10678, 48, sparse=True)
    report("ratings_lazy", 8192 / per_step(net, torch.optim.SparseAdam(list(net.parameters()), lr=5e-3), large, 3, 10) / 1e6,
           "M ratings/s")
    report("ratings_sgd", 8192 / per_step(net, torch.optim.SGD(net.parameters(), lr=1e-2), large, 3, 10) / 1e6, "M ratings/s")
    readers(sys.argv[1] if len(sys.argv) > 1 else "build/bench.csv")


def readers(path):
    import os
    size = os.path.getsize(path) / 1e6

    def best_of(f):
        best = 1e9
        for _ in range(3):
            start = time.perf_counter()
            f()
            best = min(best, time.perf_counter() - start)
        return size / best
    try:
        import pandas
        report("csv_pandas", best_of(lambda: pandas.read_csv(path)), "MB/s a core")
    except ImportError:
        pass
    try:
        import polars
        if polars.thread_pool_size() == 1:
            report("csv_polars", best_of(lambda: polars.read_csv(path)), "MB/s a core")
    except ImportError:
        pass


main()
