"""PyTorch's side of ops/embedding.c, dot_bias.c, gather.c, concat.c and dropout.c."""
import torch
import torch.nn.functional as F

def dot_bias(users, items, user_bias, item_bias, ids):
    u, i = ids[:, 0], ids[:, 1]
    return (users[u] * items[i]).sum(1) + user_bias[u, 0] + item_bias[i, 0]

REFERENCE = {
    "embedding": [lambda w, ids: F.embedding(ids, w)] * 2,
    "one_hot": [lambda ids: F.one_hot(ids, 5).double()] * 2,
    "dot_bias": [dot_bias, lambda u, i, ids: (u[ids[:, 0]] * i[ids[:, 1]]).sum(1),
                 lambda *x: torch.sigmoid(dot_bias(*x)) * 6 - 0.5],
    "gather": [lambda x, index: torch.gather(x, 1, index), lambda x, index: torch.gather(x, 0, index)],
    "argsort": [lambda x: torch.argsort(x, -1), lambda x: torch.topk(x, 3).indices],
    "concat": [lambda a, b: torch.cat([a, b, a], 1), lambda a, b: torch.cat([a, b], 0),
               lambda a, b: torch.stack([a, b], -1)],
    "pad": [lambda x: F.pad(x, (0, 0, 1, 2), value=0.5), lambda x: F.pad(x, (2, 0), value=-1.0)],
    "dropout": [lambda x: x * 1, lambda x: x * 0],
}
