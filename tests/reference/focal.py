"""PyTorch's side of ops/focal.c."""
import torch
import torch.nn.functional as F

def focal(x, t, weight=None, gamma=2.0):
    p = torch.softmax(x, 1).gather(1, t[:, None])[:, 0]
    return (1 - p) ** gamma * F.cross_entropy(x, t, weight=weight, reduction="none")

REFERENCE = {
    "focal_loss": [lambda x, t: focal(x, t).mean(), lambda x, t, w: focal(x, t, w, 0.5), lambda x, t: focal(x, t, gamma=3).sum()],
}
