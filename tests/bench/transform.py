"""What `make bench` measures of the transforms, on one core: ours, torchvision's on tensors, Pillow's.

    python tests/bench/transform.py

Both in turn, twice, the better of each. Where PyTorch, torchvision or Pillow is missing ours stands alone. Adds its rows to
build/bench.tsv."""
import os
import pathlib
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"
try:
    import numpy as np
    import torch
    import torchvision.transforms.v2.functional as F
    from PIL import Image

    torch.set_num_threads(1)
except ImportError:
    torch = None

root = pathlib.Path(__file__).resolve().parents[2]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def ours():
    out = subprocess.run([root / "build/release/tests/bench/bench_transform"], capture_output=True, text=True, check=True)
    return {key: float(value) for key, value, _ in (line.split("\t") for line in out.stdout.splitlines())}


def best(f, n=80):
    took = []
    for _ in range(n):
        start = time.perf_counter()
        f()
        took.append(time.perf_counter() - start)
    return 1e6 * min(took)


def theirs():
    if not torch:
        return {}
    photo = torch.randint(0, 256, (3, 640, 480), dtype=torch.uint8)
    item = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8)
    pillow = Image.fromarray(photo.permute(1, 2, 0).numpy())
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    theta = torch.tensor([[[0.9, 0.1, 0.05], [-0.1, 0.9, 0.05]]])

    def torchvision(light):
        x = F.affine(F.horizontal_flip(item), angle=7.0, translate=[3, 4], scale=1.05, shear=[0.0, 0.0],
                     interpolation=F.InterpolationMode.BILINEAR)
        x = F.resize(x, [224, 224])
        if light:
            x = F.adjust_contrast(F.adjust_brightness(x, 1.1), 1.1)
        return F.normalize(F.to_dtype(x, torch.float32, scale=True), MEAN, STD)

    def fastai():       # one affine map, lighting among the logits: what ours does, in PyTorch's ops
        grid = torch.nn.functional.affine_grid(theta, (1, 3, 224, 224), align_corners=True)
        x = torch.nn.functional.grid_sample(item[None].float() / 255, grid, padding_mode="reflection", align_corners=True)
        return (torch.sigmoid((torch.logit(x, 1e-7) + 0.1) * 1.1) - mean) / std

    return {"resize": best(lambda: F.resize(photo, [224, 224], antialias=True)),
            "pillow": best(lambda: pillow.resize((224, 224), Image.BILINEAR)),
            "light": best(lambda: torchvision(True)), "dark": best(lambda: torchvision(False)), "fastai": best(fastai)}


ROWS = [("resize 480 x 640 to 224 x 224, beside torchvision", "resize_photo", "resize", "<= 1000 us"),
        ("  beside Pillow", "resize_photo", "pillow", "ahead"),
        ("256 to 224: flip, rotation, zoom, normalised, beside torchvision", "augment_dark", "dark", "<= 300 us"),
        ("  and brightness, contrast", "augment_flat", "light", "<= 300 us"),
        ("  beside fastai's steps in PyTorch", "augment_flat", "fastai", "ahead"),
        ("  and perspective", "augment_all", "none", "<= 300 us"),
        ("256 to 96, averaged first", "augment_small", "none", "")]


def main():
    runs = [(ours(), theirs()) for _ in range(2)]
    own, peer = ({k: min(run[side][k] for run in runs) for k in runs[0][side]} for side in (0, 1))
    with open(root / "build" / "bench.tsv", "a") as file:
        for work, key, other, target in ROWS:
            there = f"{peer[other]:.4g} us\t{peer[other] / own[key]:.1f}" if other in peer else "-\t-"
            row = f"{work}\t{own[key]:.4g} us\t{there}\t{target}\t"
            print(row)
            file.write(row + "\n")


main()
