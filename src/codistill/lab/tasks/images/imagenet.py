"""ImageNet (ILSVRC 2012) from ``<data root>/imagenet/{train,val}/<class>/*.JPEG``, in a thousand classes.

Any other set in the same form will do: the classes are the folders of ``train``, sorted. A fiftieth of the
training images, 25,623 of 1,281,167, drawn once and for all, is the validation set; the test set is ``val``
with its 50,000. Nothing is cached: images are decoded whenever they are asked for, some 4 ms each on one
core, so that a score on the validation set takes one core about two minutes before the model has computed
anything.

Training follows Goyal et al. (2017, section 5.1): a crop of 8% to 100% of the area and an aspect ratio
between 3/4 and 4/3, scaled to 224 x 224, flipped half of the time. The deviation: they crop from the whole
photograph, here the shorter side is first brought to 256 and the centre square kept. So what lies outside
that square is never trained on, and a small crop is sharper there than here. Evaluation is theirs: the
shorter side brought to 256, the centre 224 x 224. Pixels are normalised by the usual mean and standard
deviation. Their weight decay spares the coefficients of normalisations; that is up to the recipe.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from codistill.errors import DataMissingError
from codistill.extras import check_installed
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.images.bottleneck import BOTTLENECK_NETS
from codistill.lab.tasks.images.image_files import ImageFiles
from codistill.lab.tasks.images.normalisation import Normalisation
from codistill.lab.tasks.samples import Inputs, Subset

SEED = 20
"""Of the split into training and validation."""
STORED_SIDE = 256
"""Pixels of the squares that images are brought to when they are read."""
SIDE = 224
"""Pixels of the squares that models see."""
MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
AREAS = (0.08, 1.0)
"""Least and largest share of a square that a crop takes."""
ASPECTS = (3 / 4, 4 / 3)
"""Least and largest width of a crop, divided by its height."""
ATTEMPTS = 10
"""How many crops are drawn for an image; the first that fits is taken."""


class ImageNet(Task):
    """Photographs in a thousand classes; ResNets of 50 layers and more, and ResNeXts.

    A model's ``width`` is the number of channels of its first convolution.
    """

    models = tuple(BOTTLENECK_NETS)

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        check_installed("PIL", "lab")
        folder = Path(data_root) / "imagenet"
        for part in ("train", "val"):
            _list(folder, part).batch(torch.tensor([0]))

    @override
    def __init__(self, data_root: Path) -> None:
        self._folder = Path(data_root) / "imagenet"
        self._normalise = Normalisation(MEAN, STANDARD_DEVIATION)
        whole = _list(self._folder, "train")
        self.classes = len(whole.classes)
        # The old generator: NumPy has promised that its numbers will never change.
        order = torch.from_numpy(np.random.RandomState(SEED).permutation(len(whole)))
        count = max(1, len(whole) // 50)
        self.validation = Subset(whole=whole, rows=order[:count].sort().values)
        self.train = Subset(whole=whole, rows=order[count:].sort().values)
        self._train_targets = whole.targets[self.train.rows]

    @override
    def test(self) -> ImageFiles:
        return _list(self._folder, "val")

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        make = BOTTLENECK_NETS[choose_model(self, name)]
        return make(self.classes) if width is None else make(self.classes, width=width)

    @override
    def training_inputs(self, inputs: Inputs, generator: Generator) -> Tensor:
        assert isinstance(inputs, Tensor)
        return self._normalise(crop_scale_and_flip(inputs, generator))

    @override
    def inputs(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)
        edge = (STORED_SIDE - SIDE) // 2
        return self._normalise(inputs[:, :, edge : edge + SIDE, edge : edge + SIDE])

    @override
    def class_frequencies(self) -> Tensor:
        # Known without decoding a million images.
        counts = torch.bincount(self._train_targets, minlength=self.classes).double()
        return (counts / counts.sum()).float()


def crop_scale_and_flip(images: Tensor, generator: Generator) -> Tensor:
    """Cut a rectangle from every image, scale it to what models see, and flip half of them.

    Args:
        images: uint8 [batch, 3, side, side].
        generator: Source of the rectangles and flips, on the CPU.

    Returns:
        float32 [batch, 3, 224, 224], from 0 to 255.
    """
    batch = len(images)
    drawn = torch.rand(2, ATTEMPTS, batch, generator=generator)
    least, largest = AREAS
    area = least + (largest - least) * drawn[0]
    # Uniform in the logarithm, so that a width to height ratio and its inverse are equally likely.
    low, high = torch.tensor(ASPECTS).log()
    aspect = (low + (high - low) * drawn[1]).exp()
    # As shares of the side, [attempts, batch].
    widths, heights = (area * aspect).sqrt(), (area / aspect).sqrt()
    first = ((widths <= 1) & (heights <= 1)).int().argmax(dim=0, keepdim=True)
    width = widths.gather(0, first)[0].clamp(max=1)
    height = heights.gather(0, first)[0].clamp(max=1)
    left, top, flip = torch.rand(3, batch, generator=generator)
    # Each pixel (x, y) of the result is taken at matrix @ (x, y, 1); coordinates go from -1 to 1.
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = torch.where(flip < 0.5, -width, width)
    matrix[:, 1, 1] = height
    matrix[:, 0, 2] = (2 * left - 1) * (1 - width)
    matrix[:, 1, 2] = (2 * top - 1) * (1 - height)
    matrix = matrix.to(images.device)
    grid = F.affine_grid(matrix, [batch, 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _list(folder: Path, part: str) -> ImageFiles:
    """Return the images of ``train`` or ``val``; both need the same classes, and images in each."""
    classes, expected = _class_names(folder / part), _class_names(folder / "train")
    different = sorted(set(classes) ^ set(expected))
    if different:
        raise ValueError(
            f"{folder / part} must hold the same folders of classes as train beside it, and {len(different)} "
            f"differ, such as {different[0]!r}. Unpack the images of each class into a folder of its name."
        )
    files = ImageFiles.of(folder / part, classes, side=STORED_SIDE)
    counts = torch.bincount(files.targets, minlength=len(classes))
    if not bool(counts.all()):
        empty = classes[int(counts.argmin())]
        raise DataMissingError(
            f"The images of class {empty!r} are not there: looked for *.JPEG in {folder / part / empty}, "
            "which come from ILSVRC 2012 at image-net.org."
        )
    return files


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        raise DataMissingError(
            f"The data set 'imagenet' is not there: looked for one folder a class in {folder}, which come "
            "from ILSVRC 2012 at image-net.org; pass --data-root, or set CODISTILL_DATA, to the folder that "
            "holds imagenet."
        )
    return tuple(names)
