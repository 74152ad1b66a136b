"""The works of tests/gpu_fits.c in PyTorch, at its best: lines of work, value, unit, for tests/gpu_check.sh.
With --small: tiny sizes on the CPU, to see that the script works."""
import sys
import time

import timm
import torch
import torch.nn as nn

SMALL = "--small" in sys.argv
DEVICE = "cpu" if SMALL else "cuda"
torch.manual_seed(0)
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.benchmark = True


def report(work, value, unit):
    print(f"{work}\t{value:.4g}\t{unit}", flush=True)


def sync():
    if not SMALL:
        torch.cuda.synchronize()


def seconds(step, warm, steps):
    """Of one step: the best of three rounds, or of those that 20 s allow."""
    for _ in range(warm):
        step()
    best, until = 1e9, time.perf_counter() + 20
    for _ in range(3):
        sync()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        sync()
        best = min(best, (time.perf_counter() - start) / steps)
        if time.perf_counter() > until:
            break
    return best


def image_row(model, name, batch, side, mode):
    net = timm.create_model(model, num_classes=10).to(DEVICE, memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=0.01, fused=not SMALL)
    x = torch.randn(batch, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last)
    y = torch.arange(batch, device=DEVICE) % 10

    def loss_of(x, y):
        with torch.autocast(DEVICE, torch.bfloat16):
            return nn.functional.cross_entropy(net(x), y)

    fn = torch.compile(loss_of, mode=mode) if mode else loss_of

    def step():
        loss = fn(x, y)
        loss.backward()
        opt.step()
        opt.zero_grad()

    if not SMALL:
        torch.cuda.reset_peak_memory_stats()
    s = seconds(step, 1 if SMALL else 5, 1 if SMALL else 20)
    work = f"{name} {side}, batch {batch}" + ("" if mode else ", op by op")
    report(work, batch / s, "images/s")
    if not SMALL and batch >= 128 and mode:
        report(work + ", peak memory", torch.cuda.max_memory_allocated() / 1e6, "MB")


class DotBias(nn.Module):
    def __init__(self, users, items, width):
        super().__init__()
        sizes = [(users, width), (items, width), (users, 1), (items, 1)]
        self.tables = nn.ModuleList([nn.Embedding(n, k) for n, k in sizes])

    def forward(self, ids):
        u, i, t = ids[:, 0], ids[:, 1], self.tables
        s = (t[0](u) * t[1](i)).sum(1) + t[2](u).squeeze(1) + t[3](i).squeeze(1)
        return torch.sigmoid(s) * 5.5


def ratings_row(name, users, items, width, batch, compiled):
    net = DotBias(users, items, width).to(DEVICE)
    opt = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01, fused=not SMALL)
    ids = torch.stack([torch.randint(users, (batch,)), torch.randint(items, (batch,))], 1).to(DEVICE)
    y = torch.full((batch,), 3.0, device=DEVICE)

    def loss_of(ids, y):
        return nn.functional.mse_loss(net(ids), y)

    fn = torch.compile(loss_of, mode="reduce-overhead") if compiled else loss_of

    def step():
        fn(ids, y).backward()
        opt.step()
        opt.zero_grad()

    s = seconds(step, 2 if SMALL else 10, 2 if SMALL else 100)
    tail = "" if compiled else ", op by op"
    report(name + tail, 1e6 * s, "us/step")
    report(name + tail + ", rate", 1e-6 * batch / s, "M ratings/s")


if SMALL:
    ratings_row("bias model, batch 16, AdamW", 30, 20, 5, 16, False)
    image_row("convnext_atto", "convnext_atto", 1, 32, None)
    sys.exit()
for compiled in (True, False):
    ratings_row("bias model, ML-100K sizes, batch 64, AdamW", 944, 1683, 50, 64, compiled)
    ratings_row("bias model, ML-25M sizes, batch 65536, lazy AdamW", 162542, 59048, 50, 65536, compiled)
best = "max-autotune" if "--autotune" in sys.argv else "reduce-overhead"
for side, batch in ((128, 8), (128, 16)):
    for mode in (None, best):
        image_row("convnext_atto", "convnext_atto", batch, side, mode)
for model in ("convnext_tiny", "vit_small_patch16_224", "resnet50"):
    image_row(model, model, 256, 224, best)
