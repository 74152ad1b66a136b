"""Numbers that are functions of their positions, here and in tests/image_numbers.h; lists of them as C."""
import numpy
import torch


def values(n, seed):
    """n numbers from -1 to 1."""
    x = (numpy.arange(n, dtype=numpy.uint64) * 4099 + seed) & 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    x ^= x >> 16
    return torch.from_numpy(x.astype(numpy.float64) / 2**31 - 1)


def images(n, h, w, seed):
    """As N, C, H, W."""
    return (2 * values(n * h * w * 3, seed)).reshape(n, h, w, 3).permute(0, 3, 1, 2)


def lines(v, digits=5, width=118):
    text, line = [], "   "
    for x in v:
        item = f" {x:.{digits}g},"
        if len(line) + len(item) > width:
            text.append(line)
            line = "   "
        line += item
    return "\n".join(text + [line])
