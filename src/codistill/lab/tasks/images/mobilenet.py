"""MobileNet (Howard et al. 2017), the first one, for 32 x 32 images."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

BLOCKS = (
    (2, 1),
    (4, 2),
    (4, 1),
    (8, 2),
    (8, 1),
    (16, 2),
    *((16, 1),) * 5,
    (32, 2),
    (32, 1),
)
"""Of each block: channels as a multiple of the stem's, and stride (table 1 of the paper; the last stride is 2
there, which its own sizes contradict)."""


class MobileNet(nn.Module):
    """A convolution, 13 blocks of a depthwise and a pointwise convolution, average pooling, a linear layer.

    Deep Mutual Learning (Zhang et al. 2018) trains one of 3.3 million parameters on CIFAR-100 and does not
    say how it fits the net to 32 x 32 images. This is the paper's net for 224 x 224 with width multiplier 1,
    which has 3,309,476 for 100 classes, but the first convolution has stride 1 instead of 2: the blocks see
    32 x 32 down to 2 x 2. Weights are drawn as PyTorch does by default.

    Args:
        classes: How many scores an image gets.
        width: Channels of the first convolution, 32 times the paper's width multiplier; the others change in
            proportion.
    """

    def __init__(self, classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks, before = [], width
        for multiple, stride in BLOCKS:
            blocks.append(_Block(before, multiple * width, stride=stride))
            before = multiple * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [batch, classes] of images [batch, 3, height, width]."""
        features = self.blocks(F.relu(self.stem_norm(self.stem(images))))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores


class _Block(nn.Module):
    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(before, before, 3, stride=stride, padding=1, groups=before, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(before)
        self.pointwise = nn.Conv2d(before, after, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(after)

    @override
    def forward(self, features: Tensor) -> Tensor:
        features = F.relu(self.depthwise_norm(self.depthwise(features)))
        return F.relu(self.pointwise_norm(self.pointwise(features)))
