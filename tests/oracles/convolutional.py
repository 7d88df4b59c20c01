"""The published convolutional networks as their authors define them, for tests."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles.vision_transformers import gelu, layer_norm, linear

Weights = Mapping[str, Tensor]


def convnext_v2(w: Weights, pixels: Tensor) -> Tensor:
    """Return the (B, D) mean over positions of ConvNeXt V2's last feature map."""

    def norm(name: str, x: Tensor) -> Tensor:  # over channels
        return layer_norm(w, name, x.permute(0, 2, 3, 1), 1e-6).permute(0, 3, 1, 2)

    x = F.conv2d(pixels, w["stem.0.weight"], w["stem.0.bias"], stride=4)
    x = norm("stem.1", x)
    for stage in range(4):
        at = f"stages.{stage}."
        if stage:
            x = norm(f"{at}downsample.0", x)
            x = F.conv2d(x, w[f"{at}downsample.1.weight"], w[f"{at}downsample.1.bias"], stride=2)
        block = 0
        while (name := f"{at}blocks.{block}.") + "norm.weight" in w:
            weight, bias = w[f"{name}conv_dw.weight"], w[f"{name}conv_dw.bias"]
            y = F.conv2d(x, weight, bias, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
            y = gelu(linear(w, f"{name}mlp.fc1", layer_norm(w, f"{name}norm", y, 1e-6)))
            length = y.square().sum(dim=(1, 2), keepdim=True).sqrt()  # of each channel over space
            share = length / (length.mean(dim=3, keepdim=True) + 1e-6)
            y = y + w[f"{name}mlp.grn.bias"] + w[f"{name}mlp.grn.weight"] * y * share
            x = x + linear(w, f"{name}mlp.fc2", y).permute(0, 3, 1, 2)
            block += 1
    return x.mean(dim=(2, 3))


def tensorflow_resize(images: Tensor, side: int) -> Tensor:
    """Resize (B, 3, H, W) as TensorFlow 1: pixel k of the result is at k H / side, no antialias."""

    def along(x: Tensor, dim: int) -> Tensor:
        at = torch.arange(side, dtype=torch.float32) * (x.shape[dim] / side)
        low = at.floor().long()
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        share = (at - low).view([-1 if k == dim else 1 for k in range(4)])
        return x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share

    return along(along(images, 2), 3)


def inception(w: Weights, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return FID's (B, 2048) features of images in 0 ... 255, and the map `mixed_6/conv`."""

    def conv(name: str, x: Tensor, stride: int = 1, same: bool = True) -> Tensor:
        kernel = w[f"{name}.conv.weight"]
        padding = (kernel.shape[2] // 2, kernel.shape[3] // 2) if same and stride == 1 else 0
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        bn = [w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *bn, eps=1e-3).relu()

    def chain(at: str, names: str, x: Tensor) -> Tensor:
        for name in names.split():
            x = conv(f"{at}.{name}", x)
        return x

    def average(x: Tensor) -> Tensor:  # cells beyond the border do not count
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    x = (tensorflow_resize(levels, 299) - 128) / 128
    x = conv("Conv2d_2a_3x3", conv("Conv2d_1a_3x3", x, stride=2), same=False)
    x = F.max_pool2d(conv("Conv2d_2b_3x3", x), 3, 2)
    x = F.max_pool2d(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x), same=False), 3, 2)
    for at in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        triple = chain(at, "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", x)
        five, pool = chain(at, "branch5x5_1 branch5x5_2", x), conv(f"{at}.branch_pool", average(x))
        x = torch.cat([conv(f"{at}.branch1x1", x), five, triple, pool], 1)
    double = conv(
        "Mixed_6a.branch3x3dbl_3", chain("Mixed_6a", "branch3x3dbl_1 branch3x3dbl_2", x), 2
    )
    x = torch.cat([conv("Mixed_6a.branch3x3", x, 2), double, F.max_pool2d(x, 3, 2)], 1)
    early = x
    for at in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        early = conv("Mixed_6d.branch1x1", x) if at == "Mixed_6d" else early
        seven = chain(at, "branch7x7_1 branch7x7_2 branch7x7_3", x)
        double = chain(at, " ".join(f"branch7x7dbl_{k}" for k in range(1, 6)), x)
        pool = conv(f"{at}.branch_pool", average(x))
        x = torch.cat([conv(f"{at}.branch1x1", x), seven, double, pool], 1)
    three = conv("Mixed_7a.branch3x3_2", conv("Mixed_7a.branch3x3_1", x), 2)
    seven = chain("Mixed_7a", "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3", x)
    x = torch.cat([three, conv("Mixed_7a.branch7x7x3_4", seven, 2), F.max_pool2d(x, 3, 2)], 1)
    for at in ("Mixed_7b", "Mixed_7c"):  # the latter takes the largest value instead of the mean
        pool = average(x) if at == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
        three = conv(f"{at}.branch3x3_1", x)
        double = chain(at, "branch3x3dbl_1 branch3x3dbl_2", x)
        parts = [conv(f"{at}.branch1x1", x)]
        parts += [conv(f"{at}.branch3x3_2{side}", three) for side in "ab"]
        parts += [conv(f"{at}.branch3x3dbl_3{side}", double) for side in "ab"]
        x = torch.cat([*parts, conv(f"{at}.branch_pool", pool)], 1)
    return x.mean(dim=(2, 3)), early


def lpips(trunk: Weights, lins: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return the (B,) LPIPS of images in -1 ... 1: VGG-16's five levels, weighted by channel."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    x, y = (a - shift) / scale, (b - shift) / scale
    layers, total = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)), torch.zeros(len(a))
    for level, convolutions in enumerate((2, 2, 3, 3, 3)):
        if level:
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        for layer in [next(layers) for _ in range(convolutions)]:
            own = trunk[f"features.{layer}.weight"], trunk[f"features.{layer}.bias"]
            x, y = (F.conv2d(z, *own, padding=1).relu() for z in (x, y))
        unit = [z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y)]
        total = total + ((unit[0] - unit[1]).square() * lins[level]).sum(1).mean((1, 2))
    return total
