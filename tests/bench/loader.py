"""What `make bench` measures of photographs on their way from files into batches: ours beside PyTorch's DataLoader.

    python tests/bench/loader.py

The photographs below $AGRAD_DATA/paddy (or data/paddy, ../shared/data/paddy), squished to 256 and augmented to 224, by two
workers, nothing kept; and one decoded and resized to 224 on one core. Both in turn, twice, the better of each. Where PyTorch,
torchvision or Pillow is missing ours stands alone. Adds its rows to build/bench.tsv."""
import os
import pathlib
import subprocess
import time

try:
    import torch
    import torchvision.transforms.v2 as T
    from PIL import Image
    from torchvision.io import decode_jpeg, read_file
except ImportError:
    torch = None

root = pathlib.Path(__file__).resolve().parents[2]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photographs():
    for folder in (os.environ.get("AGRAD_DATA"), root / "data", root.parent / "shared" / "data"):
        if folder and (pathlib.Path(folder) / "paddy").is_dir():
            return pathlib.Path(folder) / "paddy"


def ours(folder):
    out = subprocess.run([root / "build/release/tests/bench/bench_loader", folder], capture_output=True, text=True, check=True)
    return {key: float(value) for key, value, _ in (line.split("\t") for line in out.stdout.splitlines())}


def augmented():
    """fastai's aug_transforms in torchvision's terms, and what follows."""
    return [T.RandomHorizontalFlip(), T.RandomApply([T.RandomAffine(10, scale=(1, 1.1))], 0.75), T.RandomPerspective(0.2, 0.75),
            T.RandomApply([T.ColorJitter(0.2, 0.2)], 0.75), T.Resize((224, 224)), T.ToImage(), T.ToDtype(torch.float32, scale=True),
            T.Normalize(MEAN, STD)]


class Pillow:
    def __init__(self, paths):
        self.paths, self.transform = paths, T.Compose([T.Resize((256, 256)), *augmented()])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


class Tensors(Pillow):
    def __getitem__(self, i):
        return self.transform(decode_jpeg(read_file(str(self.paths[i]))))


def one_thread(_):
    torch.set_num_threads(1)


def rate(dataset):
    """The first epoch starts the workers."""
    loader = torch.utils.data.DataLoader(dataset, 32, num_workers=2, persistent_workers=True, worker_init_fn=one_thread)
    best = 0
    for _ in range(2):
        start = time.perf_counter()
        seen = sum(len(batch) for batch in loader)
        best = max(best, seen / (time.perf_counter() - start))
    return best


def draft(path):
    image = Image.open(path)
    image.draft("RGB", (224, 224))
    image.resize((224, 224), Image.BILINEAR)


def theirs(paths):
    if not torch:
        return {}
    took = []
    for _ in range(450):
        start = time.perf_counter()
        draft(paths[0])
        took.append(time.perf_counter() - start)
    return {"draft": 1e6 * min(took), "pillow": rate(Pillow(paths)), "tensors": rate(Tensors(paths))}


ROWS = [("photographs by two workers, 256 squished, augmented to 224, beside Pillow", "loader", "pillow", "images/s", ">= 2x"),
        ("  beside torchvision on tensors", "loader", "tensors", "images/s", ">= 2x"),
        ("one photograph decoded, resized to 224, beside Pillow's draft", "decode_resize", "draft", "us", ">= 1.5x")]


def main():
    folder = photographs()
    if not folder:
        return print("no photographs: $AGRAD_DATA/paddy would have them")
    paths = sorted(folder.rglob("*.jpg"), key=lambda p: bytes(p.relative_to(folder)))
    runs = [(ours(folder), theirs(paths)) for _ in range(2)]
    with open(root / "build" / "bench.tsv", "a") as file:
        for work, key, other, unit, target in ROWS:
            better = max if unit == "images/s" else min
            own = better(run[0][key] for run in runs)
            peer = better(run[1].get(other, 0) for run in runs)
            ratio = (own / peer if unit == "images/s" else peer / own) if peer else 0
            there = f"{peer:.4g} {unit}\t{ratio:.2f}" if peer else "-\t-"
            row = f"{work}\t{own:.4g} {unit}\t{there}\t{target}\t"
            print(row)
            file.write(row + "\n")


main()
