"""Writes tests/fixtures/*.pth, checkpoints as PyTorch writes them, for tests/test_pth.c.

    python tests/make_pth.py

Needs torch; `make test` does not, the files are part of the repository."""
import os
import pathlib

import torch

to = pathlib.Path(__file__).parent / "fixtures"


def save(name, value, **options):
    torch.save(value, to / f"{name}.pth", **options)


def dtypes():
    n = torch.arange(6)
    grid = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "f32": n / 4, "f64": n.double() / 3, "f16": torch.tensor([1, -2.5, 65504, 2.0 ** -24, 0.333251953125, float("inf")]).half(),
        "bf16": (n / 2).bfloat16(), "i64": n * 2 ** 40, "i32": -n.int(), "i16": n.short() - 3, "i8": n.char() - 3,
        "u8": (n * 50).byte(), "bool": n > 2, "scalar": torch.tensor(2.5), "none": torch.zeros(0, 7),
        "permuted": grid.permute(2, 0, 1), "part": grid[1, :, 1:3], "parameter": torch.nn.Parameter(grid[0]),
        7: torch.ones(1), "note": "not a tensor", "rate": 0.5,
    }


def nested():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    for k, p in enumerate(net.parameters()):
        torch.nn.init.constant_(p, k + 1)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    own = {f"module.{k}": v for k, v in net.state_dict().items()}
    average = {f"module.{k}": v * 2 for k, v in net.state_dict().items()}
    return {"model": own, "model_ema": average, "optimizer": optimizer.state_dict(), "epoch": 3, "best": (0.5, None, True, [1, 2])}


class Hostile:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


save("dtypes", dtypes())
save("nested", nested())
save("state", torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict())
save("legacy", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
save("system", {"a": torch.ones(2), "b": Hostile()})
