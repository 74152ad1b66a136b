"""PyTorch's side of ops/attention.c, ops/window.c and ops/mlp.c."""
import torch
import torch.nn.functional as F


def attention(q, k, v, bias=None, mask=None, scale=None, logit_scale=None):
    """q [N, L, heads, D], k, v [N, S, heads, D]"""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if logit_scale is not None:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        x = q @ k.transpose(-2, -1) * logit_scale.reshape(-1, 1, 1)
    else:
        x = q @ k.transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)
    if bias is not None:
        x = x + bias
    if mask is not None:
        x = x + (mask.repeat(x.shape[0] // mask.shape[0], 1, 1, 1) if mask.dim() == 4 else mask)
    return (x.softmax(-1) @ v).transpose(1, 2)


def packed(qkv, *args, **kwargs):
    return attention(*qkv.unbind(2), *args, **kwargs)


def partition(x, size, shift=0):
    """(timm's window_partition)"""
    n, h, w = x.shape[:3]
    x = torch.roll(x, (-shift, -shift), (1, 2)).reshape(n, h // size, size, w // size, size, *x.shape[3:])
    return x.transpose(2, 3).reshape(-1, size * size, *x.shape[5:])


def reverse(x, size, shift, h, w):
    x = x.reshape(-1, h // size, w // size, size, size, *x.shape[2:]).transpose(2, 3)
    return torch.roll(x.reshape(-1, h, w, *x.shape[5:]), (shift, shift), (1, 2))


def windows(qkv, size, shift, *args, **kwargs):
    return reverse(packed(partition(qkv, size, shift), *args, **kwargs), size, shift, *qkv.shape[1:3])


def mlp(x, w1, b1, w2, b2, activation=F.gelu):
    return F.linear(activation(F.linear(x, w1, b1)), w2, b2)


def kept_second(branch):
    """drop_path of 0.25 with the key that drops the first of two samples"""
    return branch * torch.tensor([0, 1 / 0.75], dtype=branch.dtype).reshape(2, 1, 1)


REFERENCE = {
    "mlp_residual": [
        lambda x, w1, b1, w2, b2, r, s: r + s * mlp(x, w1, b1, w2, b2),
        lambda x, w1, w2, r: r + mlp(x, w1, None, w2, None, F.silu),
        lambda x, w1, b1, w2, b2, r, s: r + kept_second(s * mlp(x, w1, b1, w2, b2)),
    ],
    "mlp": [mlp, lambda *x: mlp(*x, F.relu), lambda x, w1, w2: mlp(x, w1, None, w2, None, F.silu), mlp],
    "attention": [
        attention, lambda q, k, v: F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2),
        lambda q, k, v, bias: attention(q, k, v, bias, scale=0.7), attention, attention,
        lambda q, k, v, bias, s: attention(q, k, v, bias, logit_scale=s), lambda q, k, v: 0 * attention(q, k, v), attention,
    ],
    "attention_qkv": [
        lambda x: packed(x, scale=0.6), packed, lambda x, bias, s: packed(x, bias, logit_scale=s),
        lambda x, bias: windows(x, 2, 0, bias), lambda x, bias, mask: windows(x, 2, 1, bias, mask),
        lambda x, mask, s: windows(x, 3, 2, None, mask, logit_scale=s),
    ],
    "window_partition": [lambda x: partition(x, 3), lambda x: partition(x, 2, 1)],
    "window_reverse": [lambda x: reverse(x, 3, 0, 6, 3), lambda x: reverse(x, 2, 1, 4, 6)],
    "roll": [lambda x: torch.roll(x, 2, 1), lambda x: torch.roll(x, -6, -1)],
}
