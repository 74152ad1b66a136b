"""PyTorch's side of ops/shape.c, reduce.c and sum.c."""
import torch

def reduction(f):
    return [lambda x: f(x, tuple(range(x.dim())), False), lambda x: f(x, (-1,), False), lambda x: f(x, (0,), True),
            lambda x: f(x, (0, -1), False), lambda x: f(x, (1, 2), False)]

REFERENCE = {
    "reshape": [lambda x: x.reshape(2, -1)],
    "permute": [lambda x: x.permute(2, 0, 1), lambda x: x.transpose(0, -1)],
    "expand": [lambda x: x.expand(2, 3, 4)] * 2,
    "slice": [lambda x: x[:, 1:-1], lambda x: x[0:2] * x[1:3]],
    "select": [lambda x: x[:, -2]],
    "sum": reduction(torch.sum),
    "mean": reduction(torch.mean),
    "max": reduction(torch.amax),
    "min": reduction(torch.amin),
    "var": reduction(lambda x, axes, keep: torch.var(x, axes, correction=0, keepdim=keep)),
    "logsumexp": reduction(torch.logsumexp),
    "argmax": [lambda x: torch.argmax(x, -1), lambda x: torch.argmax(x, 0)],
}
