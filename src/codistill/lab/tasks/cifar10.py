"""CIFAR-10 from ``<data root>/cifar10/{train,test}.npz``: JPEG files one after another.

Each file holds ``jpeg`` (uint8, all images), ``offsets`` (int64 [N + 1]; image i is the bytes from
``offsets[i]`` up to ``offsets[i + 1]``) and ``labels`` (uint8 [N]). Images are decoded once and kept as raw
pixels in the user's cache folder. The last tenth of the training file, 5,000 images, is the validation set:
the file is balanced in runs of ten. Training batches are cropped at random after padding by 4 pixels and
flipped left to right half of the time (Sodhani et al. and He et al. do the same); pixels are normalised
by the mean and standard deviation of the training set.
"""

from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from codistill.extras import check_installed
from codistill.lab.tasks.base import Split, Task
from codistill.lab.tasks.jpegs import load_images
from codistill.lab.tasks.resnet import ResNet8

MEAN = (0.4913, 0.4821, 0.4465)
STANDARD_DEVIATION = (0.2452, 0.2428, 0.2606)
PADDING = 4


class Cifar10(Task):
    """Photographs of 32 x 32 in ten classes, and a ResNet-8."""

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        # Also where the images have been decoded before: the cache may be gone when a job needs it.
        check_installed("PIL", "lab")
        for part in ("train", "test"):
            load_images(Path(data_root) / "cifar10" / f"{part}.npz")

    @override
    def __init__(self, data_root: Path) -> None:
        self._folder = Path(data_root) / "cifar10"
        self.classes = 10
        self._mean = torch.tensor(MEAN).view(3, 1, 1)
        self._standard_deviation = torch.tensor(STANDARD_DEVIATION).view(3, 1, 1)
        whole = self._load("train")
        count = len(whole.targets) * 9 // 10
        self.train = Split(inputs=whole.inputs[:count], targets=whole.targets[:count])
        self.validation = Split(inputs=whole.inputs[count:], targets=whole.targets[count:])

    @override
    def test(self) -> Split:
        return self._load("test")

    @override
    def model(self, width: int | None = None) -> nn.Module:
        return ResNet8(self.classes) if width is None else ResNet8(self.classes, width=width)

    @override
    def training_inputs(self, inputs: Tensor, generator: Generator) -> Tensor:
        return self.inputs(crop_and_flip(inputs, generator))

    @override
    def inputs(self, inputs: Tensor) -> Tensor:
        mean, standard_deviation = self._mean.to(inputs.device), self._standard_deviation.to(inputs.device)
        return (inputs.float() / 255 - mean) / standard_deviation

    def _load(self, part: str) -> Split:
        pixels, labels = load_images(self._folder / f"{part}.npz")
        # [N, height, width, colour] -> [N, colour, height, width]
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return Split(inputs=images, targets=torch.from_numpy(labels))


def crop_and_flip(images: Tensor, generator: Generator) -> Tensor:
    """Shift every image by up to 4 pixels each way, edges filled with 0, and flip half of them.

    Args:
        images: uint8 [batch, 3, height, width].
        generator: Source of the shifts and flips, on the CPU.

    Returns:
        The same shape and type.
    """
    batch, _, height, width = images.shape
    drawn = torch.rand(3, batch, generator=generator).to(images.device)
    top = (drawn[0] * (2 * PADDING + 1)).long()
    left = (drawn[1] * (2 * PADDING + 1)).long()
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = torch.where(drawn[2, :, None] < 0.5, columns.flip(1), columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    padded = F.pad(images, (PADDING,) * 4)
    picture = torch.arange(batch, device=images.device)[:, None, None]
    # Indices around a slice put the slice last: [batch, height, width, colour].
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
