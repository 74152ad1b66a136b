"""Expected values of tests/test_transformers.c: python tests/make_transformers_expected.py > tests/transformers_expected.h
Needs PyTorch and timm. Weights, images and classes are functions of their position (image_numbers)."""
import timm
import torch
from image_numbers import lines, values

torch.set_default_dtype(torch.float64)
CLASSES, BATCH = 5, 2
CASES = [("vit_tiny_patch16_224", 48), ("deit_tiny_distilled_patch16_224", 32), ("deit3_small_patch16_224", 32),
         ("swin_tiny_patch4_window7_224", 224), ("swinv2_tiny_window8_256", 64)]


def fill(net):
    for k, (name, p) in enumerate(net.named_parameters()):
        v = values(p.numel(), k).reshape(p.shape)
        if "norm" in name and name.endswith("weight"):
            v = 1 + 0.3 * v
        elif "logit_scale" in name:
            v = 2.3 + 0.5 * v
        elif "table" in name or "gamma" in name or "cpb_mlp" in name or "pos_embed" in name:
            v = 0.5 * v
        elif p.dim() > 1 and "token" not in name:
            v = v * (3 / p[0].numel()) ** 0.5
        else:
            v = 0.2 * v
        p.data.copy_(v)


rows = []
print("/* Made by tests/make_transformers_expected.py. */")
for name, size in CASES:
    net = timm.create_model(name, num_classes=CLASSES, img_size=size, drop_path_rate=0.0).double()
    fill(net)
    x = (2 * values(BATCH * size * size * 3, 9999)).reshape(BATCH, size, size, 3).permute(0, 3, 1, 2)
    net.train()
    logits = net(x)
    torch.nn.functional.cross_entropy(logits, torch.arange(BATCH)).backward()
    features = net.forward_head(net.forward_features(x), pre_logits=True)
    short = name.split("_patch")[0].split("_window")[0]
    print(f"static const double {short}_gradients[] = {{        /* their lengths */")
    print(lines([p.grad.norm().item() for p in net.parameters()]) + "\n};")
    print(f"static const double {short}_outputs[] = {{          /* logits, and features of the last image */")
    print(lines(logits.flatten().tolist() + features[-1, :8].tolist(), 7) + "\n};")
    rows.append(f'    {{ "{name}", {size}, {short}_outputs, {short}_gradients }},')
print("static const struct { const char *name; int64_t size; const double *outputs, *gradients; } expected[] = {")
print("\n".join(rows) + "\n};")
