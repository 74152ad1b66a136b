"""Expected values of tests/test_convnets.c: python tests/make_convnets_expected.py > tests/convnets_expected.h
Needs PyTorch and timm. Weights and images are functions of their positions. Gradients are compared where no activation has
a kink (ConvNeXt); tests/parity compares those of the others, on images away from kinks."""
import timm
import torch
from image_numbers import images, lines, values

torch.set_default_dtype(torch.float64)
CLASSES, BATCH, SEED = 5, 3, 1
CASES = [("convnext_atto", 64, 96), ("convnext_atto_ols", 32, 36), ("convnext_tiny_hnf", 32, 32), ("convnextv2_atto", 40, 64),
         ("resnet10t", 47, 33), ("resnet18", 40, 33), ("resnet26d", 33, 40), ("resnet50_gn", 33, 32), ("resnext50_32x4d", 40, 32),
         ("efficientnet_lite0", 40, 33), ("tf_efficientnet_lite0", 33, 40), ("mobilenetv3_small_050", 40, 64),
         ("mobilenetv3_large_075", 33, 48), ("tf_mobilenetv3_small_minimal_100", 41, 33)]


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


def main():
    rows = []
    print("/* Made by tests/make_convnets_expected.py. */")
    for name, h, w in CASES:
        net = timm.create_model(name, num_classes=CLASSES, drop_path_rate=0.0).double()
        fill(net, "resne" in name)
        x = images(BATCH, h, w, SEED)
        net.eval()
        outputs = net(x).flatten().tolist() + net.forward_head(net.forward_features(x), pre_logits=True)[-1, :8].tolist()
        print(f"static const double {name}_outputs[] = {{          /* logits, and features of the last image */")
        print(lines(outputs, 7) + "\n};")
        gradients = "NULL"
        if name.startswith("convnext"):
            net.train()
            torch.nn.functional.cross_entropy(net(x), torch.arange(BATCH)).backward()
            gradients = f"{name}_gradients"
            print(f"static const double {gradients}[] = {{        /* their lengths */")
            print(lines([p.grad.norm().item() for p in net.parameters()]) + "\n};")
        rows.append(f'    {{ "{name}", {h}, {w}, {name}_outputs, {gradients} }},')
    print("static const struct {\n    const char *name;\n    int64_t h, w;\n    const double *outputs, *gradients;\n} expected[] = {")
    print("\n".join(rows) + "\n};")


main()
