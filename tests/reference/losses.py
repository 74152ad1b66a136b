"""PyTorch's side of ops/losses.c, cross_entropy.c, softmax.c and norm.c."""
import torch
import torch.nn.functional as F

def pointwise(f):
    return [f, lambda x, t: f(x, t, reduction="sum"), lambda x, t: f(x, t, reduction="none")]

def running(x):
    mean, var = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
    F.batch_norm(x, mean, var, training=True, momentum=0.3)
    return torch.stack([mean, var])

def batch_norm(x, w, b):
    y = F.batch_norm(x.reshape(-1, 5), torch.zeros(5, dtype=x.dtype), torch.ones(5, dtype=x.dtype), w, b, training=True)
    return y.reshape(x.shape)

REFERENCE = {
    "mse_loss": pointwise(F.mse_loss),
    "l1_loss": pointwise(F.l1_loss),
    "huber_loss": [F.huber_loss, lambda x, t: F.huber_loss(x, t, reduction="sum", delta=0.6),
                   lambda x, t: F.huber_loss(x, t, reduction="none")],
    "bce_with_logits": pointwise(F.binary_cross_entropy_with_logits)
    + [lambda x, t, w: F.binary_cross_entropy_with_logits(x, t, pos_weight=w)],
    "softmax": [lambda x: torch.softmax(x, -1), lambda x: torch.softmax(x, 0)],
    "log_softmax": [lambda x: torch.log_softmax(x, -1), lambda x: torch.log_softmax(x, 1)],
    "cross_entropy": [F.cross_entropy, lambda x, t: F.cross_entropy(x, t, reduction="none"),
                      lambda x, t, w: F.cross_entropy(x, t, weight=w, label_smoothing=0.1),
                      lambda x, t: F.cross_entropy(x, torch.softmax(t, 1), label_smoothing=0.2),
                      lambda x, t, w: F.cross_entropy(x, t, weight=w, reduction="sum")],
    "nll_loss": [lambda x, t, w: F.nll_loss(x, t, weight=w), lambda x, t: F.nll_loss(x, t, reduction="sum")],
    "layer_norm": [lambda x, w, b: F.layer_norm(x, (7,), w, b), lambda x: F.layer_norm(x, (5,), eps=1e-3)],
    "batch_norm": [batch_norm, batch_norm, lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), running],
}
