"""From stored bytes to what a network reads."""

import torch
from torch import Tensor


class Normalisation:
    """Scale the pixels of each colour so that over the training data they have mean 0 and deviation 1.

    The result lies in memory pixel by pixel (PyTorch's channels-last format), whatever the images do: that is
    what convolutions take best, on the CPU by a factor of about two.

    Args:
        mean: Of red, green and blue over the training data, in [0, 1].
        standard_deviation: Theirs, in the same unit.
    """

    def __init__(
        self, mean: tuple[float, float, float], standard_deviation: tuple[float, float, float]
    ) -> None:
        deviation = torch.tensor(standard_deviation).view(3, 1, 1)
        self._scale = 1 / (255 * deviation)
        self._shift = -torch.tensor(mean).view(3, 1, 1) / deviation

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 for pixels from 0 to 255 of any type, [batch, 3, height, width]."""
        pixels = images.contiguous(memory_format=torch.channels_last).to(torch.float32, copy=True)
        # By constants of an image's size: three colours taking turns is many times slower.
        return pixels.mul_(self._like(images, self._scale)).add_(self._like(images, self._shift))

    def _like(self, images: Tensor, constant: Tensor) -> Tensor:
        whole = constant.to(images.device).expand(1, *images.shape[1:])
        return whole.contiguous(memory_format=torch.channels_last)
