"""Writes tests/fixtures/fine_tune.safetensors: what fastai's Learner.fine_tune does in every step.

    python tests/make_fine_tune_fixtures.py

Needs fastai, torch and safetensors; `make test` needs none of them. A model of three parameter groups with both kinds of norm
layers: `start.NAME` and `end.NAME` its weights and buffers before and afterwards, `x` and `y` the samples in order, and of each
optimizer step, as it is taken, `lr` [steps, groups], `mom` [steps, groups], `trained` [steps, parameters] (1: the parameter has a
gradient), and `first` [parts] the steps with which an optimizer's state was empty."""
import pathlib
import warnings

warnings.filterwarnings("ignore")
import torch
from fastai.basics import Callback, DataLoaders, Learner, nn, params
from fastai.callback.schedule import *  # noqa: F401, F403: patches Learner
from safetensors.torch import save_file

SAMPLES, BATCH, IN, WIDTH, OUT = 29, 8, 5, 7, 2


class Recorder(Callback):
    def __init__(self):
        self.lr, self.mom, self.trained, self.empty = [], [], [], []

    def before_step(self):
        self.lr.append([h["lr"] for h in self.opt.hypers])
        self.mom.append([h["mom"] for h in self.opt.hypers])
        self.trained.append([float(p.requires_grad and p.grad is not None) for p in self.model.parameters()])
        self.empty.append(all("step" not in state for state in self.opt.state.values()))


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Sequential(nn.Linear(IN, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()),
                         nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()), nn.Linear(WIDTH, OUT))


def tensors(net, prefix):
    return {prefix + name: t.detach().clone() for name, t in net.state_dict().items()}


def main():
    net = model()
    x, y = torch.randn(SAMPLES, IN), torch.randn(SAMPLES, OUT)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), BATCH)
    recorder, out = Recorder(), tensors(net, "start.") | {"x": x, "y": y}
    learner = Learner(DataLoaders(batches, batches), net, nn.MSELoss(), cbs=recorder,
                      splitter=lambda m: [params(m[0]), params(m[1]), params(m[2])])
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs=3, base_lr=2e-3, freeze_epochs=1)
    out |= tensors(net, "end.")
    out |= {k: torch.tensor(getattr(recorder, k), dtype=torch.float32) for k in ("lr", "mom", "trained")}
    out["first"] = torch.tensor([i for i, empty in enumerate(recorder.empty) if empty])
    folder = pathlib.Path(__file__).parent / "fixtures"
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "fine_tune.safetensors")


if __name__ == "__main__":
    main()
