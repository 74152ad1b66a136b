"""PyTorch's side of ops/matmul.c."""
import torch
import torch.nn.functional as F

REFERENCE = {
    "matmul": [torch.matmul, torch.matmul, lambda a, b: a.t() @ b.t(), torch.matmul, torch.matmul, torch.matmul],
    "linear": [F.linear, lambda x, w: F.linear(x, w), F.linear, lambda x, w, b: F.gelu(F.linear(x, w, b)),
               lambda x, w, b: F.relu(F.linear(x, w, b)), lambda x, w, b: F.gelu(F.linear(x, w, b))],
}
