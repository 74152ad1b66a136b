"""PyTorch's side of ops/pool.c, interpolate.c, grid_sample.c and mixing.c. Images here are [N, H, W, C]."""
import torch
import torch.nn.functional as F


def images(f):
    return lambda x, *rest: f(x.permute(0, 3, 1, 2), *rest).permute(0, 2, 3, 1)


def same_pad(x, kernel, stride, value):         # timm.layers.pad_same
    pad = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(size // -stride) - 1) * stride + kernel - size, 0)
        pad += [total // 2, total - total // 2]
    return F.pad(x, pad, value=value)


def resize(h, w, mode="bilinear", **options):
    return images(lambda x: F.interpolate(x, (h, w), mode=mode, **options))


def resample_positions(x, prefix, h, w):        # timm.layers.resample_abs_pos_embed
    side = int((x.shape[1] - prefix) ** 0.5)
    grid = x[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (h, w), mode="bicubic", antialias=True)
    return torch.cat([x[:, :prefix], grid.permute(0, 2, 3, 1).reshape(1, h * w, -1)], 1)


def sample(**options):
    return lambda x, grid: F.grid_sample(x.permute(0, 3, 1, 2), grid, **options).permute(0, 2, 3, 1)


def mixup(x, share, order):
    share = share.reshape(-1, *[1] * (x.dim() - 1))
    return share * x + (1 - share) * x[order]


def cutmix(x, order):
    inside = torch.zeros(x.shape[:3], dtype=torch.bool)
    for n, (top, left, bottom, right) in enumerate([(0, 1, 3, 4), (2, 0, 4, 5), (1, 1, 1, 3)]):
        inside[n, top:bottom, left:right] = True
    return torch.where(inside[..., None], x[order], x)


REFERENCE = {
    "max_pool2d": [
        images(lambda x: F.max_pool2d(x, 3, 2, 1)),
        images(lambda x: F.max_pool2d(x, 2)),
        images(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
        images(lambda x: F.max_pool2d(same_pad(x, 3, 2, -torch.inf), 3, 2)),
        images(lambda x: F.adaptive_max_pool2d(x, (3, 2))),
        lambda x: torch.cat([x.amax((1, 2)), x.mean((1, 2))], 1),
    ],
    "avg_pool2d": [
        images(lambda x: F.avg_pool2d(x, 3, 2, 1)),
        images(lambda x: F.avg_pool2d(x, 2)),
        images(lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
        images(lambda x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)),
        images(lambda x: F.avg_pool2d(same_pad(x, 3, 1, 0), 3, 1)),
        images(lambda x: F.adaptive_avg_pool2d(x, (3, 2))),
        images(lambda x: F.adaptive_avg_pool2d(x, 1)),
    ],
    "interpolate": [
        resize(7, 3, "nearest"),
        resize(8, 3),
        resize(8, 1, align_corners=True),
        resize(3, 7, antialias=True),
        resize(7, 3, "bicubic"),
        resize(3, 7, "bicubic", align_corners=True),
        resize(3, 8, "bicubic", antialias=True),
        lambda x: resample_positions(x, 1, 2, 5),
    ],
    "grid_sample": [
        sample(padding_mode="reflection", align_corners=False),
        sample(padding_mode="reflection", align_corners=True),
        sample(padding_mode="zeros", align_corners=False),
        sample(padding_mode="zeros", align_corners=True),
        sample(padding_mode="border", align_corners=False),
        sample(padding_mode="border", align_corners=True),
        sample(mode="nearest", padding_mode="zeros", align_corners=False),
        sample(mode="nearest", padding_mode="reflection", align_corners=True),
    ],
    "mixup": [mixup] * 2,
    "cutmix": [cutmix],
}
