"""PyTorch's side of ops/conv2d.c and ops/conv_transpose.c: images are channels last here, channels first there."""
import torch.nn.functional as F


def first(x):
    return x.permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1)


def conv(activation=lambda y: y, **options):
    return lambda x, w, b=None: last(activation(F.conv2d(first(x), w, b, **options)))


def turned(**options):
    return lambda x, w, b=None: last(F.conv_transpose2d(first(x), w, b, **options))


REFERENCE = {
    "conv_transpose2d": [turned(stride=2), turned(stride=2, padding=1, output_padding=1), turned(padding=1),
                         turned(groups=2, dilation=2, stride=3, output_padding=2)],
    "conv2d": [conv(padding=1), conv(F.gelu, stride=2, padding=1), conv(F.hardswish, groups=2, dilation=2, padding=(3, 2)),
               lambda x, w: last(F.conv2d(F.pad(first(x), (1, 2, 1, 1)), w, stride=2)), conv(), conv(F.relu, stride=2),
               conv(stride=(3, 2)), conv(F.silu, padding=(2, 0), dilation=(2, 1))],
}
