"""PyTorch's side of ops/pool.c. Images here are [N, H, W, C]."""
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
}
