"""PyTorch's side of ops/swin.c."""
import torch
import torch.nn.functional as F

def relative_position_bias(table, w=3):
    at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
    difference = at[:, :, None] - at[:, None, :] + w - 1
    return table[difference[0] * (2 * w - 1) + difference[1]].permute(2, 0, 1)

def cosine_qkv(qkv, scale):
    q, k, v = qkv.unbind(2)
    return torch.stack([F.normalize(q, dim=-1) * scale.view(-1, 1), F.normalize(k, dim=-1), v], 2)

REFERENCE = {"relative_position_bias": [relative_position_bias], "cosine_qkv": [cosine_qkv] * 2}
