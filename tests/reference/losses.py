"""PyTorch's side of ops/losses.c, cross_entropy.c, softmax.c."""
import torch
import torch.nn.functional as F

def pointwise(f):
    return [f, lambda x, t: f(x, t, reduction="sum"), lambda x, t: f(x, t, reduction="none")]

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
}
