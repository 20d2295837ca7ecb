"""Wide residual networks for 32 x 32 images (Zagoruyko & Komodakis 2016, table 1, without dropout)."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

STEM = 16
"""Channels of the first convolution, however wide the rest is."""


class WideResNet(nn.Module):
    """A convolution, three stages of ``n`` blocks each, average pooling, a linear layer: 6 n + 4 deep.

    Blocks normalise and rectify before they convolve; the shortcut is a 1 x 1 convolution of the rectified
    features where the shape changes. WRN-28-10 is 28 deep and 160 wide and has 36,479,194 parameters for ten
    classes (published: 36.5 million), WRN-16-2 is 16 deep and 32 wide and has 691,674 (0.7 million). Weights
    of convolutions are normal with variance 2 / inputs of a unit (He et al. 2015).

    Args:
        classes: How many scores an image gets.
        depth: Of layers with weights, 6 n + 4: 10, 16, 22, 28, 40.
        width: Channels of the first stage, 16 times the paper's k; the second has twice and the third four
            times as many.

    Raises:
        ValueError: If there is no wide ResNet of that depth.
    """

    def __init__(self, classes: int, *, depth: int, width: int) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6 n + 4 with n >= 1, got {depth}. Take 10, 16, 28 or 40.")
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        blocks, before = [], STEM
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for position in range((depth - 4) // 6):
                blocks.append(_Block(before, after, stride=stride if position == 0 else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [batch, classes] of images [batch, 3, height, width]."""
        features = F.relu(self.norm(self.blocks(self.stem(images))))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores


class _Block(nn.Module):
    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(before)
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    @override
    def forward(self, features: Tensor) -> Tensor:
        rectified = F.relu(self.first_norm(features))
        inner: Tensor = self.second(F.relu(self.second_norm(self.first(rectified))))
        return inner + (features if self.shortcut is None else self.shortcut(rectified))
