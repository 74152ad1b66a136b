"""Writes tests/fixtures/transforms.safetensors: what Pillow and fastai make of a small picture with fixed parameters.

    python tests/make_transform_fixtures.py

Needs fastai, torch, Pillow, numpy and safetensors; `make test` needs none of them. test_transform.c makes the same picture.
Of each kind of case the parameters `KIND.how` [cases, .] and the results [height, width, 3] one after the other, `KIND.out`."""
import pathlib
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
from fastai.vision import augment as fa
from fastai.vision.all import PILImage, TensorImage
from PIL import Image
from safetensors.torch import save_file

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
PADS = ["reflection", "zeros", "border"]


def picture(w, h):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    v = x * (5 + c) + y * (9 - 2 * c) + x * y * (c + 1) // 8 + (x // 5 + y // 7) % 2 * 60
    return (v % 256).astype(np.uint8)


# ---- items -----------------------------------------------------------------------------------------------------------

METHODS = ["crop", "squish", "pad"]


def item(w, h, method, pad, size, width, train_pcts=None):
    t = fa.Resize((size, width or size), method=METHODS[method], pad_mode=PADS[pad])
    t.before_call(None, split_idx=1)
    if train_pcts:
        t.pcts = train_pcts
    return np.array(t.encodes(PILImage.create(Image.fromarray(picture(w, h)))))


def resized_crop(w, h, size):
    t = fa.RandomResizedCrop(size)
    image = PILImage.create(Image.fromarray(picture(w, h)))
    t.before_call(image, split_idx=1)
    return np.array(t.encodes(image))


ITEMS = [(w, h, method, pad, size, width) for w, h in [(40, 28), (17, 31)] for method in range(3)
         for pad in (range(3) if method == 2 else [0]) for size, width in [(11, 0), (8, 12)]]
ITEMS += [(9, 6, 1, 0, 20, 25), (1, 5, 2, 0, 8, 0), (31, 3, 2, 0, 6, 0), (40, 28, 0, 0, 30, 0)]

# ---- augmentation ----------------------------------------------------------------------------------------------------

NEUTRAL = dict(dihedral=0, degrees=0, zoom=1, zoom_x=.5, zoom_y=.5, warp_x=0, warp_y=0, brightness=.5, contrast=1,
               saturation=1, hue=0, left=0, top=0, part_width=0, part_height=0)


def warped(x, d, size, pad):
    def fixed(make, **how):
        return lambda t: make(t, p=1., **how)
    affine = fa.AffineCoordTfm(
        [fixed(fa.dihedral_mat, draw=d["dihedral"]), fixed(fa.rotate_mat, draw=d["degrees"]),
         fixed(fa.zoom_mat, draw=d["zoom"], draw_x=d["zoom_x"], draw_y=d["zoom_y"])],
        [fa._WarpCoord(p=1., draw_x=d["warp_x"], draw_y=d["warp_y"])] if d["warp_x"] or d["warp_y"] else None,
        size=size, pad_mode=pad, align_corners=True)
    affine.before_call(x, split_idx=0)
    return affine.encodes(x)


def augmented(w, h, pad, size, width, **given):
    d = NEUTRAL | {"part_width": w, "part_height": h}
    d |= {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in given.items()}
    x = TensorImage(torch.from_numpy(picture(w, h)).permute(2, 0, 1)[None].float() / 255)
    out = (size, width or size) if size else None
    if d["part_width"] != w or d["part_height"] != h:
        x = x[..., d["top"]:d["top"] + d["part_height"], d["left"]:d["left"] + d["part_width"]]
    x = warped(x, d, out, PADS[pad])
    light = [fa._BrightnessLogit(p=1., draw=d["brightness"]), fa._ContrastLogit(p=1., draw=d["contrast"]),
             fa._SaturationLogit(p=1., draw=d["saturation"])]
    if (d["brightness"], d["contrast"], d["saturation"]) != (.5, 1, 1):
        t = fa.LightingTfm(light)
        t.before_call(x, split_idx=0)
        x = t.encodes(x)
    if d["hue"]:
        x = x.hue(draw=d["hue"], p=1.)
    x = (torch.tensor(np.array(x[0])).permute(1, 2, 0) - MEAN) / STD
    return [w, h, pad, size, width, *d.values()], x


AUGMENTED = [
    dict(size=0, width=0, w=8, h=6),
    dict(size=6, width=8),
    dict(size=6, width=8, dihedral=1), *[dict(size=7, width=6, w=17, h=12, dihedral=k) for k in range(2, 8)],
    *[dict(size=6, width=8, degrees=float(a), pad=p) for p, a in enumerate([8, -33, 100])],
    dict(size=6, width=8, zoom=1.3, zoom_x=.1, zoom_y=.8), dict(size=6, width=8, zoom=.6, pad=1),
    *[dict(size=6, width=8, warp_x=.2, warp_y=-.15, pad=p) for p in range(3)],
    dict(size=6, width=8, brightness=.6), dict(size=6, width=8, contrast=1.25), dict(size=6, width=8, saturation=1.7),
    dict(size=6, width=8, hue=.9), dict(size=6, width=8, hue=1.11, saturation=.5, brightness=.4, contrast=.8),
    dict(size=7, dihedral=5, degrees=-9., zoom=1.08, zoom_x=.3, zoom_y=.9, warp_x=-.1, warp_y=.18, brightness=.45,
         contrast=1.1),
    dict(size=6, w=50, h=40), dict(size=6, w=50, h=40, degrees=20., zoom=1.1),
    dict(size=9, w=30, h=20, left=7, top=2, part_width=16, part_height=16),
    dict(size=8, width=11, w=30, h=20, left=5, top=0, part_width=20, part_height=20),
    dict(size=1, width=3, w=5, h=4), dict(size=5, w=1, h=6, degrees=5.), dict(size=1, width=260, w=6, h=6, zoom=1.2, zoom_x=.0),
]

# ---- the file --------------------------------------------------------------------------------------------------------


def main():
    crops = [(40, 28, 16), (13, 40, 10)]
    warps = [augmented(**({"w": 16, "h": 12, "pad": 0, "width": 0} | case)) for case in AUGMENTED]
    kinds = {"item": (ITEMS, [torch.from_numpy(item(*case)) for case in ITEMS]),
             "crop": (crops, [torch.from_numpy(resized_crop(*case)) for case in crops]),
             "augment": ([how for how, _ in warps], [out.float() for _, out in warps])}
    tensors = {}
    for kind, (how, out) in kinds.items():
        tensors[kind + ".how"] = torch.tensor(how, dtype=torch.float32)
        tensors[kind + ".out"] = torch.cat([x.flatten() for x in out])
    path = pathlib.Path(__file__).parent / "fixtures" / "transforms.safetensors"
    save_file(tensors, path)
    print(path, path.stat().st_size, "bytes,", sum(len(how) for how, _ in kinds.values()), "cases")


main()
