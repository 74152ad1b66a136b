"""Writes tests/fixtures/<op>.safetensors: PyTorch's outputs and gradients for every check row of every op.

    python tests/make_fixtures.py build/release/tests/test_ops [op ...]

Needs torch, numpy and safetensors; `make test` needs none of them, the files are part of the repository. The rows come
from `test_ops --list`; tests/reference/*.py say what each is in PyTorch: REFERENCE = {"op": [function, ...]}, one
function per row. Computed in double, stored in single precision."""
import importlib.util
import pathlib
import re
import subprocess
import sys
import zlib

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent


def references():
    table = {}
    for path in sorted((here / "reference").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        table.update(module.REFERENCE)
    return table


def make_inputs(spec, seed):
    random = torch.Generator().manual_seed(seed)
    inputs = []
    for name, dims, kind in re.findall(r"(\w+)\[([\d,]*)\](?::(\S+))?", spec):
        shape = [int(d) for d in dims.split(",") if d]
        if kind.startswith("i64<"):
            x = torch.randint(int(kind[4:]), shape, generator=random)
        elif kind == "u8":
            x = torch.randint(2, shape, generator=random).to(torch.uint8)
        elif kind in ("pos", "01", "cpos", "u01"):
            x = torch.rand(shape, generator=random) + (0.5 if kind.endswith("pos") else 0)
        else:
            x = torch.randn(shape, generator=random) * (3 if kind == "far" else 1)
        inputs.append((x, kind in ("", "pos", "01", "far")))
    return inputs


def case(function, spec, k, seed, tensors):
    made = make_inputs(spec, seed)
    leaves = [x.double().requires_grad_() if trained else x.double() if x.is_floating_point() else x for x, trained in made]
    out = function(*leaves)
    for i, (x, _) in enumerate(made):
        tensors[f"{k}.in.{i}"] = x.contiguous()
    tensors[f"{k}.out"] = (out.detach().float() if out.is_floating_point() else out).contiguous()
    if out.requires_grad:
        w = torch.rand(out.shape, generator=torch.Generator().manual_seed(seed + 1))
        out.backward(w.double())
        tensors[f"{k}.w"] = w.contiguous()
        for i, (x, trained) in enumerate(made):
            if trained:
                g = leaves[i].grad
                tensors[f"{k}.grad.{i}"] = (torch.zeros_like(x) if g is None else g.float()).contiguous()


def main():
    rows = subprocess.run([sys.argv[1], "--list"], capture_output=True, text=True, check=True).stdout.splitlines()
    table, files = references(), {}
    for op, k, spec in (row.split("\t") for row in rows):
        if len(sys.argv) > 2 and op not in sys.argv[2:]:
            continue
        if op not in table or int(k) >= len(table[op]):
            print(f"no reference for {op} case {k}: {spec}")
            continue
        case(table[op][int(k)], spec, k, zlib.crc32(f"{op} {k}".encode()), files.setdefault(op, {}))
    for op, tensors in files.items():
        save_file(tensors, here / "fixtures" / f"{op}.safetensors")


main()
