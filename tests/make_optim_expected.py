"""Expected values of tests/test_optim.c: python tests/make_optim_expected.py > tests/optim_expected.h
Needs PyTorch and fastai. 40 parameters (a 5 x 7 weight and a bias of 5), 20 steps, gradients of cos and w."""
import math
import torch
from fastai.optimizer import SGD, RMSProp, Adam, RAdam, Lamb

torch.set_default_dtype(torch.float64)


def start():
    w = torch.tensor([[math.sin(1 + i * 7 + j) for j in range(7)] for i in range(5)], requires_grad=True)
    b = torch.tensor([math.sin(0.5 + i) for i in range(5)], requires_grad=True)
    return w, b


def run(make, schedule=None):
    params = start()
    opt = make(list(params))
    for t in range(20):
        for p in params:
            g = torch.tensor([math.cos(0.7 * t + 0.3 * i) for i in range(p.numel())]).reshape(p.shape)
            p.grad = (g + 0.1 * p.detach()).clone()
        if schedule:
            schedule(opt, t)
        opt.step()
    return torch.cat([p.detach().reshape(-1) for p in params])


def clipped(make):
    params = start()
    opt = make(list(params))
    for t in range(20):
        for p in params:
            g = torch.tensor([math.cos(0.7 * t + 0.3 * i) for i in range(p.numel())]).reshape(p.shape)
            p.grad = (g + 0.1 * p.detach()).clone()
        torch.nn.utils.clip_grad_norm_(params, 0.5)
        opt.step()
    return torch.cat([p.detach().reshape(-1) for p in params])


def warm(opt, t):
    opt.set_hyper('lr', 0.01 * (t + 1) / 20)
    opt.set_hyper('mom', 0.95 - 0.005 * t)


O = torch.optim
cases = {
    'sgd': run(lambda p: O.SGD(p, lr=0.05)),
    'sgd_l2': run(lambda p: O.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1)),
    'nesterov': run(lambda p: O.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    'sgd_decoupled': run(lambda p: SGD(p, lr=0.05, mom=0.9, wd=0.1)),
    'adam': run(lambda p: O.Adam(p, lr=0.01, weight_decay=0.1)),
    'adamw': run(lambda p: O.AdamW(p, lr=0.01, weight_decay=0.1)),
    'adam_fastai': run(lambda p: Adam(p, lr=0.01), warm),
    'rmsprop': run(lambda p: O.RMSprop(p, lr=0.01)),
    'rmsprop_momentum': run(lambda p: O.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1)),
    'rmsprop_fastai': run(lambda p: RMSProp(p, lr=0.01, mom=0.9, wd=0.1)),
    'radam': run(lambda p: O.RAdam(p, lr=0.01, weight_decay=0.1)),
    'radam_fastai': run(lambda p: RAdam(p, lr=0.01, wd=0.1)),
    'lamb': run(lambda p: Lamb(p, lr=0.01, wd=0.1)),
    'clipped': clipped(lambda p: O.SGD(p, lr=0.05, momentum=0.9)),
}
print('/* Written by tests/make_optim_expected.py with PyTorch %s; do not edit. */' % torch.__version__.split('+')[0])
for name, values in cases.items():
    print('static const double %s_expected[40] = {' % name)
    v = ['%.9g' % x for x in values.tolist()]
    for i in range(0, 40, 8):
        print('    ' + ', '.join(v[i:i + 8]) + ',')
    print('};')
