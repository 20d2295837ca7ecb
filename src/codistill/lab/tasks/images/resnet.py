"""Residual networks for 32 x 32 images, of basic blocks (He et al. 2016, section 4.2)."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class ResNet(nn.Module):
    """A convolution, three stages of ``n`` basic blocks each, average pooling, a linear layer: 6 n + 2 deep.

    The stages have 16, 32 and 64 channels. The shortcut is a 1 x 1 convolution where the shape changes
    (option B; the paper's own for these networks is option A, zeros for the new channels, which has no
    parameters), so that ResNet-20 has 272,474 parameters instead of the published 0.27 million. Weights are
    drawn as PyTorch does by default.

    Args:
        classes: How many scores an image gets.
        depth: Of layers with weights, 6 n + 2: 8, 20, 32, 44, 56, 110.
        width: Channels of the first stage; the others change in proportion.

    Raises:
        ValueError: If there is no ResNet of that depth.

    Example:
        >>> sum(p.numel() for p in ResNet(10, depth=8).parameters())
        78042
    """

    def __init__(self, classes: int, *, depth: int, width: int = 16) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6 n + 2 with n >= 1, got {depth}. Take 8, 20, 32 or 110.")
        super().__init__()
        self.stem = _convolution(3, width)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks, before = [], width
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for position in range((depth - 2) // 6):
                blocks.append(_Block(before, after, stride=stride if position == 0 else 1))
                before = after
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return class scores [batch, classes] of images [batch, 3, height, width]."""
        features = self.stages(F.relu(self.stem_norm(self.stem(images))))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores


class _Block(nn.Module):
    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, stride=stride)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = _convolution(after, after)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    @override
    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(features)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(features))


def _convolution(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
