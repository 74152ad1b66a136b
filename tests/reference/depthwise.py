"""PyTorch's side of ops/conv_depthwise.c."""
import torch.nn.functional as F

def conv(x, w, b=None, stride=1, pad=0, dilation=1, extra=(0, 0, 0, 0)):
    x = F.pad(x.permute(0, 3, 1, 2), extra)
    return F.conv2d(x, w, b, stride, pad, dilation, groups=w.shape[0]).permute(0, 2, 3, 1)

REFERENCE = {
    "conv_depthwise": [lambda x, w, b: conv(x, w, b, pad=1), lambda x, w, b: conv(x, w, b, pad=3),
                       lambda x, w, b: conv(x, w, b, stride=2, pad=2),
                       lambda x, w, b: F.gelu(conv(x, w, b, stride=2, extra=(0, 1, 0, 1))),
                       lambda x, w: conv(x, w, None, stride=(1, 2), dilation=(2, 3), extra=(1, 0, 2, 2)),
                       lambda x, w, b: F.relu(conv(x, w, b, stride=(3, 1), extra=(4, 4, 0, 2)))],
}
