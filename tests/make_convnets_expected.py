"""Expected values of tests/test_convnets.c: python tests/make_convnets_expected.py > tests/convnets_expected.h
Needs PyTorch and timm. Weights, images and classes are functions of their positions; of many images those are taken on which
no activation lies so near a kink that rounding decides about its gradient."""
import sys

import timm
import torch
from image_numbers import images, lines, values

torch.set_default_dtype(torch.float64)
CLASSES, BATCH, SEEDS = 5, 3, 60
CASES = [("convnext_atto", 64, 96), ("convnext_atto_ols", 32, 36), ("convnext_tiny_hnf", 32, 32), ("convnextv2_atto", 40, 64),
         ("resnet10t", 47, 33), ("resnet18", 40, 33), ("resnet26d", 33, 40), ("resnet50_gn", 33, 32), ("resnext50_32x4d", 40, 32),
         ("efficientnet_lite0", 40, 33), ("tf_efficientnet_lite0", 33, 40), ("mobilenetv3_small_050", 40, 64),
         ("mobilenetv3_large_075", 33, 48), ("tf_mobilenetv3_small_minimal_100", 41, 33)]
KINKS = {"relu": (0,), "relu6": (0, 6), "hardswish": (-3, 3), "hardsigmoid": (-3, 3)}


def fill(net, residual):
    """In a residual network norms shift their results away from the kink of ReLU."""
    weight = None
    for k, (name, t) in enumerate(list(net.named_parameters()) + list(net.named_buffers())):
        v = values(t.numel(), k).reshape(t.shape)
        if not t.is_floating_point():
            continue
        if name.endswith("running_var") or t.dim() == 1 and name.endswith("weight"):
            v = weight = 1 + 0.3 * v
        elif name.endswith("gamma"):
            v = 0.3 + 0.2 * v
        elif residual and name.endswith("bias") and name != "fc.bias":
            v = torch.where(v < 0, -2.5, 2.5) * weight
        elif t.dim() > 1:
            v = v * (3 / t[0].numel()) ** 0.5
        else:
            v = 0.3 * v
        t.data.copy_(v)


def distance_from_kinks(net, x):
    nearest = []

    def look(module, inputs):
        for kink in KINKS[type(module).__name__.lower()]:
            nearest.append(((inputs[0] - kink).abs().min() / inputs[0].abs().max()).item())

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if type(m).__name__.lower() in KINKS]
    with torch.no_grad():
        net(x)
    for h in hooks:
        h.remove()
    return min(nearest, default=1)


def main():
    rows = []
    print("/* Made by tests/make_convnets_expected.py. */")
    for name, h, w in CASES:
        net = timm.create_model(name, num_classes=CLASSES, drop_path_rate=0.0).double().train()
        residual = "resne" in name
        fill(net, residual)
        far = {seed: distance_from_kinks(net, images(BATCH, h, w, seed)) for seed in range(1, SEEDS if "conv" not in name else 2)}
        seed = max(far, key=far.get)
        print(name, far[seed], file=sys.stderr)
        fill(net, residual)
        x = images(BATCH, h, w, seed)
        net.eval()
        outputs = net(x).flatten().tolist() + net.forward_head(net.forward_features(x), pre_logits=True)[-1, :8].tolist()
        net.train()
        torch.nn.functional.cross_entropy(net(x), torch.arange(BATCH)).backward()
        print(f"static const double {name}_gradients[] = {{        /* their lengths */")
        print(lines([p.grad.norm().item() for p in net.parameters()]) + "\n};")
        print(f"static const double {name}_outputs[] = {{          /* logits, and features of the last image */")
        print(lines(outputs, 7) + "\n};")
        rows.append(f'    {{ "{name}", {h}, {w}, {seed}, {name}_outputs, {name}_gradients }},')
    print("static const struct {\n    const char *name;\n    int64_t h, w, seed;\n    const double *outputs, *gradients;\n} expected[] = {")
    print("\n".join(rows) + "\n};")


main()
