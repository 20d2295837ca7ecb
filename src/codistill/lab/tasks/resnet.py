"""ResNet-8: the residual network of He et al. (2016, section 4.2) for 32 x 32 images, with n = 1."""

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class ResNet8(nn.Module):
    """A convolution, three stages of one basic block (16, 32, 64 channels), average pooling, a linear layer.

    78,042 parameters for ten classes. The shortcut is a 1 x 1 convolution where the shape changes (option B).
    Another ``width`` than 16 changes the channels in proportion.
    """

    def __init__(self, classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.stem = _convolution(3, width)
        self.stem_norm = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            _Block(width, width, stride=1),
            _Block(width, 2 * width, stride=2),
            _Block(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, classes)

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
