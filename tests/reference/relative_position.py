"""PyTorch's side of ops/relative_position.c."""
import torch

def relative_position_bias(table, w=3):
    at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
    difference = at[:, :, None] - at[:, None, :] + w - 1
    return table[difference[0] * (2 * w - 1) + difference[1]].permute(2, 0, 1)

REFERENCE = {"relative_position_bias": [relative_position_bias]}
