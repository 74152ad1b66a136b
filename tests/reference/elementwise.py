"""PyTorch's side of ops/elementwise.c and ops/cast.c."""
import torch
import torch.nn.functional as F

def same(f, n):
    return [f] * n

REFERENCE = {name: same(f, 3) for name, f in {
    "neg": torch.neg, "abs": torch.abs, "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
    "square": torch.square, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "relu6": F.relu6, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "add_scalar": lambda x: x + 1.7, "scale": lambda x: x * 1.7, "pow": lambda x: x ** 1.7,
    "clamp": lambda x: torch.clamp(x, -0.4, 0.9),
    "sigmoid_range": lambda x: torch.sigmoid(x) * (0.9 + 0.4) - 0.4,
}.items()}
REFERENCE |= {name: same(f, 5) for name, f in {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
    "minimum": torch.minimum,
}.items()}
REFERENCE |= {name: same(lambda a, b, f=f: f(a, b).to(torch.uint8), 2) for name, f in {
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
}.items()}
REFERENCE |= {
    "where": same(lambda m, a, b: torch.where(m.bool(), a, b), 2),
    "cast": [lambda x: 3 * x],
    "cast_int": [lambda x: (3 * x).long(), lambda x: x.to(torch.bfloat16).double()],
    "contiguous": [lambda x: x.t()],
}
