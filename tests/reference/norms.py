"""PyTorch's side of the norms and of residual branches. Images are [N, H, W, C]: the channels go to axis 1 and back."""
import torch
import torch.nn.functional as F

def running(x):
    mean, var = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
    F.batch_norm(x, mean, var, training=True, momentum=0.3)
    return torch.stack([mean, var])

def batch_norm(activation=lambda y: y):
    def f(x, w, b, residual=0):
        y = F.batch_norm(x.reshape(-1, x.shape[-1]), torch.zeros_like(b), torch.ones_like(b), w, b, training=True)
        return activation(y.reshape(x.shape) + residual)
    return f

def layer_norm(x, w, b):
    return F.layer_norm(x, w.shape, w, b)

def group_norm(groups, eps=1e-5):
    return lambda x, w=None, b=None: F.group_norm(x.movedim(-1, 1), groups, w, b, eps).movedim(1, -1)

def grn(x, w, b):
    pixels = tuple(range(1, x.dim() - 1))
    length = x.norm(p=2, dim=pixels, keepdim=True)
    return x + b + w * x * (length / (length.mean(dim=-1, keepdim=True) + 1e-6))

def residual(keep):
    return lambda x, branch, scale=1: x + branch * scale * torch.tensor(keep, dtype=x.dtype).reshape(-1, 1, 1)

REFERENCE = {
    "layer_norm": [layer_norm, lambda x: F.layer_norm(x, (5,), eps=1e-3), layer_norm],
    "group_norm": [group_norm(2), group_norm(3, 1e-3), group_norm(2)],
    "grn": [grn, grn],
    "residual": [residual([1]), residual([1]), residual([0, 1 / 0.75]), residual([1])],
    "batch_norm": [batch_norm(), batch_norm(F.hardswish), lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), running,
                   batch_norm(F.relu), batch_norm(),
                   lambda x, w, b, m, v, residual: F.relu6(F.batch_norm(x, m, v, w, b) + residual)],
}
