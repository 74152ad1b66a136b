"""Writes tests/fixtures/training_*.safetensors: 100 steps of each recommender's model in PyTorch, from given weights on
given batches with fastai's Adam under one cycle: what tests/test_models.c repeats.

    python tests/make_training.py"""
import math
import pathlib

import torch
import torch.nn as nn
from safetensors.torch import save_file

USERS, ITEMS, FACTORS, BATCH, STEPS, DECAY = 60, 80, 12, 16, 100, 0.1
here = pathlib.Path(__file__).parent / "fixtures"


class Dot(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.u_weight, self.i_weight = nn.Embedding(USERS, FACTORS), nn.Embedding(ITEMS, FACTORS)
        if bias:
            self.u_bias, self.i_bias = nn.Embedding(USERS, 1), nn.Embedding(ITEMS, 1)
        self.bias = bias

    def forward(self, ids):
        u, i = ids[:, 0], ids[:, 1]
        s = (self.u_weight(u) * self.i_weight(i)).sum(1)
        if self.bias:
            s = s + self.u_bias(u)[:, 0] + self.i_bias(i)[:, 0]
        return torch.sigmoid(s) * 5.5 if self.bias else s


class EmbeddingNN(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [min(600, round(1.6 * n**0.56)) for n in (USERS, ITEMS)]
        self.embeds = nn.ModuleList([nn.Embedding(n, w) for n, w in zip((USERS, ITEMS), widths)])
        sizes = [sum(widths), 20, 10]
        blocks = [nn.Sequential(nn.Linear(a, b, bias=False), nn.ReLU(), nn.BatchNorm1d(b)) for a, b in zip(sizes, sizes[1:])]
        self.layers = nn.Sequential(*blocks, nn.Sequential(nn.Linear(sizes[-1], 1)))

    def forward(self, ids):
        x = torch.cat([e(ids[:, k]) for k, e in enumerate(self.embeds)], 1)
        return torch.sigmoid(self.layers(x)[:, 0]) * 5.5


def cosine(start, end, p):
    return start + (1 + math.cos(math.pi * (1 - p))) * (end - start) / 2


def one_cycle(p, start, middle, end):
    return cosine(start, middle, p / 0.25) if p < 0.25 else cosine(middle, end, (p - 0.25) / 0.75)


def main():
    for seed, (name, net) in enumerate({"dot": Dot(False), "bias": Dot(True), "nn": EmbeddingNN()}.items()):
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, 0, 0.3)
        out = {f"model.{k}": v.clone() for k, v in net.state_dict().items()}
        ids = torch.stack([torch.randint(USERS, (STEPS, BATCH)), torch.randint(ITEMS, (STEPS, BATCH))], 2)
        ratings = torch.randint(1, 6, (STEPS, BATCH)).float()
        kept = [p for n, p in net.named_parameters() if n.endswith("bias") or n.split(".")[2:3] == ["2"]]
        decayed = [p for p in net.parameters() if all(p is not k for k in kept)]
        groups = [{"params": decayed, "weight_decay": DECAY}] + ([{"params": kept, "weight_decay": 0}] if kept else [])
        opt = torch.optim.AdamW(groups, lr=1, betas=(0.9, 0.99), eps=1e-5)
        losses = []
        for k in range(STEPS):
            for g in opt.param_groups:
                g["lr"] = one_cycle(k / STEPS, 2e-2 / 25, 2e-2, 2e-2 / 1e5)
                g["betas"] = (one_cycle(k / STEPS, 0.95, 0.85, 0.95), 0.99)
            loss = nn.functional.mse_loss(net(ids[k]), ratings[k])
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        out |= {"ids": ids.contiguous(), "ratings": ratings, "losses": torch.tensor(losses)}
        save_file(out, here / f"training_{name}.safetensors")


main()
