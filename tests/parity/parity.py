"""Compares the image models with timm's: names and shapes, logits, features, gradients, training.

    make parity                             makes an environment with torch, timm and safetensors, and runs this
    python tests/parity/parity.py [--models 'resnet* vit_tiny*'] [--only shapes|forward|grad|train]

timm computes in double. Weights are random, with statistics of norms and layer scales that are no identities. An error is
the largest difference relative to the largest value. One table; exits with 1 where a limit is exceeded."""
import argparse
import copy
import fnmatch
import pathlib
import subprocess
import sys
import tempfile
import zlib

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

root = pathlib.Path(__file__).resolve().parents[2]
BATCH, STEPS, RATE, DECAY = 3, 20, 1e-3, 0.05
LIMITS = {"shapes": 0, "forward": 1e-4, "grad": 1e-3, "train": 1e-3}

# Sides of the images: of fixed models their own; of the others small and, where they may be, not square.
FORWARD = {
    "convnext_atto": (96, 64), "convnext_femto": (64, 100), "convnext_pico_ols": (64, 64), "convnext_nano": (64, 64),
    "convnext_nano_ols": (64, 64), "convnext_tiny": (96, 128), "convnext_tiny_hnf": (64, 64), "convnext_small": (64, 64),
    "convnext_base": (64, 64), "convnext_large": (64, 64), "convnextv2_atto": (96, 64), "convnextv2_tiny": (64, 96),
    "convnextv2_base": (64, 64), "vit_tiny_patch16_224": None, "vit_small_patch16_224": None, "vit_small_patch32_224": None,
    "vit_base_patch16_224": None, "vit_base_patch32_224": None, "deit_tiny_patch16_224": None, "deit_small_patch16_224": None,
    "swin_tiny_patch4_window7_224": None, "swin_small_patch4_window7_224": None, "swinv2_tiny_window8_256": None,
    "swinv2_tiny_window16_256": None, "resnet10t": (75, 61), "resnet14t": (64, 64), "resnet18": (65, 97),
    "resnet18d": (65, 97), "resnet26d": (64, 96), "resnet34": (96, 96), "resnet50": (97, 65), "resnet50d": (97, 65),
    "resnet50_gn": (64, 64), "resnet101": (64, 64), "resnext50_32x4d": (64, 64), "wide_resnet50_2": (64, 64),
    "efficientnet_lite0": (96, 65), "efficientnet_lite1": (64, 64), "efficientnet_lite2": (64, 96),
    "efficientnet_lite3": (64, 64), "efficientnet_lite4": (64, 64), "tf_efficientnet_lite0": (97, 64),
    "tf_efficientnet_lite2": (64, 65), "mobilenetv3_small_050": (96, 65), "mobilenetv3_small_100": (64, 64),
    "mobilenetv3_large_100": (97, 64), "tf_mobilenetv3_small_100": (65, 96), "tf_mobilenetv3_large_minimal_100": (64, 64),
}
GRAD = ["convnext_atto", "convnext_tiny", "convnextv2_atto", "vit_tiny_patch16_224", "vit_small_patch32_224",
        "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "resnet10t", "resnet18",
        "resnet26d", "resnet50", "resnet50_gn", "efficientnet_lite0", "tf_efficientnet_lite0", "mobilenetv3_small_100",
        "mobilenetv3_large_100"]
SMALL = (48, 33)        # so few activations that none lies on a kink
TRAIN = ["convnext_atto", "vit_tiny_patch16_224", "resnet18"]


def run(*command):
    done = subprocess.run([str(a) for a in command], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def random_weights(name, net):
    """Signals neither vanish nor explode, no norm and no layer scale is an identity. Norms of residual networks shift their
    result away from the kink of ReLU, where rounding alone decides about the gradient."""
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    normal = lambda t, std: torch.randn(t.shape, generator=random, dtype=torch.double) * std
    uniform = lambda t: torch.rand(t.shape, generator=random, dtype=torch.double) + 0.5
    for key, t in net.state_dict().items():
        if not t.is_floating_point():
            continue
        if key.endswith("running_var"):
            value = uniform(t)
        elif key.endswith("gamma") or key.endswith("logit_scale"):
            value = uniform(t) * (0.2 if key.endswith("gamma") else 2)
        elif t.ndim == 1 and key.endswith("weight"):
            value = uniform(t)
        elif key.endswith("bias") and "resne" in name and not key.startswith("fc."):
            value = normal(t, 1).sign() * 2.5 * net.state_dict()[key.replace("bias", "weight")]
        elif t.ndim == 1 or t.ndim == 3:
            value = normal(t, 0.2)
        else:
            value = normal(t, (t.shape[0] / t.numel()) ** 0.5)
        t.copy_(value.float())
    return net


def images(name, size, steps=0, seed=0):
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 1 + seed)
    lead = (steps, BATCH) if steps else (BATCH,)
    x = torch.randn(*lead, size[0], size[1], 3, generator=random)
    return x, torch.randint(1000, lead, generator=random)


def error(ours, theirs, least=1e-30):
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp_min(least)).item()


KINKS = {"relu": (0,), "relu6": (0, 6), "hardswish": (-3, 3), "hardsigmoid": (-3, 3)}


def distance_from_kinks(net, x):
    """The smallest of all activations, relative to the largest value before it."""
    nearest = []

    def look(module, inputs):
        z = inputs[0].detach()
        for kink in KINKS[type(module).__name__.lower()]:
            nearest.append(((z - kink).abs().min() / z.abs().max()).item())

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if type(m).__name__.lower() in KINKS]
    with torch.no_grad():
        net(x)
    for h in hooks:
        h.remove()
    return min(nearest, default=1)


class Case:
    """A model with random weights (for training: timm's initial ones) and images, in timm and in files."""

    def __init__(self, name, folder, steps=0, size=None):
        self.name, self.folder = name, pathlib.Path(folder)
        torch.manual_seed(1)
        net = timm.create_model(name, num_classes=1000, drop_path_rate=0.0)
        self.net = net if steps else random_weights(name, net)      # training begins where timm begins
        side = timm.models.get_pretrained_cfg(name).input_size[1]
        self.size = size or FORWARD.get(name) or (side, side)
        self.use(*images(name, self.size, steps))
        save_file(self.net.state_dict(), self.folder / "w")

    def use(self, x, t):
        self.x, self.t, self.nchw = x, t, x.movedim(-1, -3)
        save_file({"x": x}, self.folder / "x")
        save_file({"t": t}, self.folder / "t")

    def avoid_kinks(self, tries=12, enough=5e-7):
        """Images on which no rounding error changes the side of a kink."""
        found = {}
        state = copy.deepcopy(self.net.state_dict())
        for seed in range(tries):
            x, t = images(self.name, self.size, seed=seed)
            found[distance_from_kinks(self.net, x.movedim(-1, -3).double())] = x, t
            if max(found) > enough:
                break
        self.net.load_state_dict(state)
        self.use(*found[max(found)])

    def model(self, command, out, *more):
        run("build/model", command, self.name, "--weights", self.folder / "w", "--input", self.folder / "x", *more, "--output",
            self.folder / out)
        return load_file(self.folder / out)


def known_models():
    """What the library says of each of its models, in words."""
    models = {}
    for line in run("build/release/tests/parity/parity").splitlines():
        words = line.split()
        current = models.setdefault(words[1], []) if words[0] == "model" else current
        current.append(words)
    return models


def shapes(name):
    ours = known[name]
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=1000)
    cfg, state = net.default_cfg, net.state_dict()
    tensors = [(k, t) for k, t in list(net.named_parameters()) + list(net.named_buffers()) if k in state]
    theirs = [[k, *map(str, t.shape)] for k, t in tensors]
    first, head = (v if isinstance(v, str) else v[0] for v in (cfg["first_conv"], cfg["classifier"]))
    facts = [cfg["input_size"][1], int(bool(cfg.get("fixed_input_size"))), first, head]
    same_norm = [float(v) for v in ours[0][6:]] == [float(f"{v:.9g}") for p in zip(cfg["mean"], cfg["std"]) for v in p]
    return [len([1 for a, b in zip(ours[1:], theirs) if a != b]) + abs(len(ours) - 1 - len(theirs)),
            0 if same_norm and ours[0][1:6] == [name, *map(str, facts)] else 1]


def forward(name):
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        case = Case(name, folder)
        net = case.net.double().eval()
        features = net.forward_head(net.forward_features(case.nchw.double()), pre_logits=True)
        logits = net(case.nchw.double())
        ours = case.model("forward", "y")
        return [error(ours["logits"], logits), error(ours["features"], features)]


def grad(name):
    with tempfile.TemporaryDirectory() as folder:
        case = Case(name, folder, size=SMALL if "efficientnet" in name else None)
        net = case.net.double().train()
        case.avoid_kinks()
        F.cross_entropy(net(case.nchw.double()), case.t).backward()
        ours = case.model("grad", "g", "--target", case.folder / "t")
        theirs = {k: p.grad for k, p in net.named_parameters()}
        if set(ours) != set(theirs):
            raise RuntimeError(f"parameters differ: {sorted(set(ours) ^ set(theirs))[:4]}")
        # A shift that the next norm takes out again has the gradient 0; what is left of it by rounding has no relative error.
        top = max(g.abs().max() for g in theirs.values())
        errors = {k: error(ours[k], g, 1e-3 * top if g.abs().max() < 1e-9 * top else 1e-30) for k, g in theirs.items()}
        worst = max(errors, key=errors.get)
        return [errors[worst], worst]


def train(name):
    with tempfile.TemporaryDirectory() as folder:
        case = Case(name, folder, STEPS)
        net = case.net.train()
        opt = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
        theirs = []
        for x, t in zip(case.nchw, case.t):
            loss = F.cross_entropy(net(x), t)
            opt.zero_grad()
            loss.backward()
            opt.step()
            theirs.append(loss.item())
        files = [case.folder / f for f in "wxt"]
        ours = [float(v) for v in run("build/release/tests/parity/parity", "train", name, *files, STEPS, RATE, DECAY).split()]
        return [max(abs(a / b - 1) for a, b in zip(ours, theirs)), f"{theirs[0]:.4f} to {theirs[-1]:.4f}"]


known = known_models()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="*")
    parser.add_argument("--only")
    options = parser.parse_args()
    cases = [("shapes", n) for n in known] + [("forward", n) for n in FORWARD] + [("grad", n) for n in GRAD]
    cases += [("train", n) for n in TRAIN]
    failed, done = 0, 0
    print(f"timm {timm.__version__}, torch {torch.__version__}")
    for check, name in cases:
        if not any(fnmatch.fnmatch(name, p) for p in options.models.split()) or options.only not in (None, check):
            continue
        try:
            result = globals()[check](name)
            good = all(not isinstance(v, float | int) or v <= LIMITS[check] for v in result)
        except RuntimeError as e:
            result, good = [str(e)], False
        failed, done = failed + (not good), done + 1
        shown = "  ".join(f"{v:.1e}" if isinstance(v, float) else str(v) for v in result)
        print(f"{check:8} {name:34} {'ok    ' if good else 'FAILED'}  {shown}", flush=True)
    print(f"{done - failed} of {done} as timm's")
    sys.exit(failed > 0 or not done)


main()
