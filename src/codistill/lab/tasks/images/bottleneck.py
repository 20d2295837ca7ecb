"""Residual networks of bottleneck blocks for ImageNet: ResNet-50 and deeper, and ResNeXt."""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from codistill.errors import RecipeError


class BottleneckNet(nn.Module):
    """A convolution, pooling, four stages of bottleneck blocks, average pooling, a linear layer.

    He et al. (2016, table 1) with the stride in the 3 x 3 convolution rather than in the 1 x 1 before it
    (Goyal et al. 2017, section 5.1, do the same); Xie et al. (2017) where the 3 x 3 convolution is in groups.
    Shortcuts are 1 x 1 convolutions where the shape changes. Initial weights are those of Goyal et al.,
    section 5.1: of convolutions normal with variance 2 / outputs of a unit (He et al. 2015), of the last
    normalisation of a block 0, so that it starts as its shortcut, of the linear layer normal with deviation
    0.01.

    Args:
        classes: How many scores an image gets.
        blocks: Blocks in each of the four stages, each at least 1.
        groups: Of the 3 x 3 convolutions.
        inner: Channels of the 3 x 3 convolutions as a multiple of ``width`` in the first stage, doubled in
            each further one.
        width: Channels of the first convolution; the first stage returns four times as many.

    Raises:
        RecipeError: If the channels cannot be split into the groups.
    """

    def __init__(
        self,
        classes: int,
        *,
        blocks: tuple[int, int, int, int],
        groups: int = 1,
        inner: int = 1,
        width: int = 64,
    ) -> None:
        step = groups // math.gcd(groups, inner)
        if width % step:
            raise RecipeError(
                f"width must be a multiple of {step}, as there are {groups} groups, got {width}. Take 64."
            )
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        stages, before = [], width
        for stage, count in enumerate(blocks):
            for position in range(count):
                stride = 2 if position == 0 and stage > 0 else 1
                scale = width * 2**stage
                stages.append(_Block(before, inner * scale, 4 * scale, groups=groups, stride=stride))
                before = 4 * scale
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)
        self._draw_weights()

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [batch, classes] of images [batch, 3, height, width]."""
        features = F.relu(self.stem_norm(self.stem(images)))
        features = self.blocks(F.max_pool2d(features, 3, stride=2, padding=1))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Block):
                nn.init.zeros_(module.last_norm.weight)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)


class _Block(nn.Module):
    def __init__(self, before: int, inner: int, after: int, *, groups: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, inner, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(inner)
        self.middle = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.middle_norm = nn.BatchNorm2d(inner)
        self.last = nn.Conv2d(inner, after, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    @override
    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(features)))
        inner = F.relu(self.middle_norm(self.middle(inner)))
        return F.relu(self.last_norm(self.last(inner)) + self.shortcut(features))


BOTTLENECK_NETS: dict[str, Callable[..., BottleneckNet]] = {
    "resnet50": partial(BottleneckNet, blocks=(3, 4, 6, 3)),
    "resnet101": partial(BottleneckNet, blocks=(3, 4, 23, 3)),
    "resnet152": partial(BottleneckNet, blocks=(3, 8, 36, 3)),
    "resnext50_32x4d": partial(BottleneckNet, blocks=(3, 4, 6, 3), groups=32, inner=2),
    "resnext101_32x8d": partial(BottleneckNet, blocks=(3, 4, 23, 3), groups=32, inner=4),
    "resnext152_32x4d": partial(BottleneckNet, blocks=(3, 8, 36, 3), groups=32, inner=2),
}
"""Name -> what makes it, given ``classes`` and, if it is not to be 64, ``width``.

Parameters for 1,000 classes, in this order: 25,557,032, 44,549,160, 60,192,808, 25,028,904, 88,791,336 and
59,951,400.
"""
