"""What `make bench` measures of the vision engine: build/model beside PyTorch and timm, row by row in one run.

    python tests/bench/vision.py [--quick] [pattern ...]      (the rows whose key matches one of the patterns)

Each row runs ours and theirs in turn, twice, and keeps the better of each: machines are noisy in one direction only. Both
use the threads of THREADS (default 2), PyTorch in channels_last with oneDNN. Where PyTorch or timm is missing ours stands
alone. Adds its rows to build/bench.tsv."""
import fnmatch
import os
import pathlib
import subprocess
import sys
import time

THREADS = int(os.environ.get("THREADS", "2"))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
try:
    import timm
    import torch

    torch.set_num_threads(THREADS)
except ImportError:
    torch = None

root = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(root / "build" / "model")

# name, size, batch, what it has to reach beside the peer: training, inference
MODELS = [
    ("convnext_tiny", 224, 4, ">= 2x, >= 10 img/s at 500 GFLOP/s", ">= 2x, >= 35 img/s at 500 GFLOP/s"),
    ("convnext_atto", 128, 16, ">= 3x, >= 200 img/s", ""),
    ("vit_small_patch16_224", 224, 4, ">= 1.5x", ">= 1.5x"),
    ("resnet18", 224, 4, ">= 1.5x", ">= 1.5x"),
    ("resnet50", 224, 4, ">= 1.5x", ">= 1.5x"),
    ("swin_tiny_patch4_window7_224", 224, 4, ">= 1.5x", ">= 1.5x"),
    ("efficientnet_lite0", 224, 4, ">= 1.5x", ">= 1.5x"),
]
BF16 = ["convnext_tiny", "vit_small_patch16_224"]
MEMORY = [("convnext_tiny", 224, 16), ("vit_small_patch16_224", 224, 16)]


def ours(name, size, batch, mode, precision="f32"):
    """key -> value of one run of build/model bench."""
    command = [MODEL, "bench", name, "--batch", str(batch), "--size", str(size), f"--{mode}", "--threads", str(THREADS),
               "--precision", precision, "--tsv"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    return {row[0]: float(row[1]) for row in (line.split("\t") for line in run.stdout.splitlines()) if len(row) > 1}


def step_of(name, size, batch, mode, precision):
    """A function that does one training step, or one inference, in PyTorch."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=1000).to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,))
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    if mode == "infer":
        net.eval()

        def infer():
            with torch.inference_mode(), cast:
                net(x)

        return infer
    net.train()
    opt = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)

    def train():
        with cast:
            loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()

    return train


def theirs(name, size, batch, mode, precision="f32", seconds=4):
    """Images per second, the best step."""
    step = step_of(name, size, batch, mode, precision)
    for _ in range(2):
        step()
    best, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return batch / best


def peak_resident():
    """Bytes; of this program alone: getrusage's figure begins with that of the process that started it."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_of_theirs(name, size, batch):
    """Bytes of resident memory that three training steps add, measured in a process of its own."""
    before = peak_resident()
    step = step_of(name, size, batch, "train", "f32")
    for _ in range(3):
        step()
    print(peak_resident() - before)


def ceiling():
    """GFLOP/s of the largest matrix product, f32, in PyTorch (oneDNN)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 1e9
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def compare(key, run_ours, run_theirs, target, rounds, unit="img/s"):
    a, b, row = 0.0, 0.0, {}
    for _ in range(rounds):
        row = run_ours()
        a = max(a, row["img_per_s"])
        if torch:
            b = max(b, run_theirs())
    share = row.get("gflops", 0)
    return [key, f"{a:.1f} {unit}", f"{b:.1f} {unit}" if b else "-", f"{a / b:.2f}" if b else "-", target, share * a / row["img_per_s"]], a


DEPTHWISE = {"forward": ">= 250", "dgrad": ">= 250", "wgrad": ">= 150"}


def kernels(wanted):
    """Convolutions and products of these models beside oneDNN called directly on the same layout, as the benches print them."""
    for bench in ("bench_depthwise", "bench_kernels"):
        if not wanted(bench):
            continue
        out = subprocess.run([str(root / "build/release/tests/bench" / bench)], capture_output=True, text=True, check=True).stdout
        speed = {row[0]: float(row[1]) for row in (line.split("\t") for line in out.splitlines()) if len(row) == 3}
        for key, peer in speed.items():
            if not key.endswith("_onednn"):
                continue
            key = key[: -len("_onednn")]
            goal = ">= 90 % of oneDNN"
            if key.startswith("depthwise_7x7_96x56") or key.startswith("depthwise_7x7_384x14"):
                goal = DEPTHWISE[key.split("_")[-2]] + " GFLOP/s"
            yield [key, f"{speed[key]:.0f} GFLOP/s", f"{peer:.0f} GFLOP/s", f"{speed[key] / peer:.2f}", goal, 0]


def rows(patterns, rounds):
    wanted = lambda key: not patterns or any(fnmatch.fnmatch(key, p) for p in patterns)
    f32 = {}
    for name, size, batch, train, infer in MODELS:
        for mode, target in (("train", train), ("infer", infer)):
            key = f"{name} {size} x{batch} {mode}"
            if wanted(key):
                row, f32[name, mode] = compare(key, lambda: ours(name, size, batch, mode),
                                               lambda: theirs(name, size, batch, mode), target, rounds)
                yield row
    for name, size, batch, *_ in MODELS:
        key = f"{name} {size} x{batch} train bf16"
        if name in BF16 and wanted(key):
            row, speed = compare(key, lambda: ours(name, size, batch, "train", "bf16"),
                                 lambda: theirs(name, size, batch, "train", "bf16"), ">= 1.5x", rounds)
            yield row
            if (name, "train") in f32:
                ratio = speed / f32[name, "train"]
                yield [key + " beside our f32", row[1], f"{f32[name, 'train']:.1f} img/s", f"{ratio:.2f}", ">= 1.5x", 0]
    for name, size, batch in MEMORY:
        key = f"{name} {size} x{batch} peak memory"
        if not wanted(key):
            continue
        row = ours(name, size, batch, "train")
        mb = row["peak_resident"] / 1e6
        peer = 0
        if torch:
            me = [sys.executable, __file__, "--peak", name, str(size), str(batch)]
            peer = float(subprocess.run(me, capture_output=True, text=True, check=True).stdout) / 1e6
        yield [key, f"{mb:.0f} MB", f"{peer:.0f} MB" if peer else "-", f"{mb / peer:.2f}" if peer else "-", "<= 0.80", 0]
        plan = row["peak_planned"]
        yield [key + ", tensors beside the plan", f"{row['peak_tensors'] / 1e6:.0f} MB", f"{plan / 1e6:.0f} MB",
               f"{plan / row['peak_tensors']:.3f}", "0.95 to 1.05", 0]
    yield from kernels(wanted)
    key = "convnext_tiny 224 start to first step"
    if wanted(key):
        yield [key, f"{min(ours('convnext_tiny', 224, 4, 'train')['first_step_s'] for _ in range(3)):.2f} s", "-", "-", "<= 1 s", 0]


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    if "--peak" in sys.argv:
        return peak_of_theirs(args[0], int(args[1]), int(args[2]))
    top = ceiling() if torch else 0
    lines = ["work\tours\tpeer\tratio\ttarget\tshare of ceiling"]
    for row in rows(args, 1 if "--quick" in sys.argv else 2):
        share = f"{row[5]:.0f} GFLOP/s" + (f", {100 * row[5] / top:.0f} % of {top:.0f}" if top else "") if row[5] else ""
        lines.append("\t".join([*row[:5], share]))
        print(lines[-1], file=sys.stderr, flush=True)
    with open(root / "build" / "bench.tsv", "a") as table:
        table.write("\n".join(lines[1:]) + "\n")


main()
