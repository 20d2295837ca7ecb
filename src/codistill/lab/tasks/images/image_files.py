"""Images in one folder a class, read as they are asked for."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from codistill.errors import DataMissingError
from codistill.extras import require
from codistill.lab.tasks.samples import Samples

ENDINGS = (".jpeg", ".jpg", ".png")
"""Of the names of images, in capitals or not; other files are passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles(Samples):
    """Images in files, decoded whenever they are asked for, by as many threads as there are cores.

    The shorter side is brought to a given length and the centre square kept.
    """

    folder: Path
    """Holds the folders of the classes."""
    classes: tuple[str, ...]
    """Names of these folders, in the order of the class numbers."""
    names: npt.NDArray[np.bytes_]
    """Name of each image in its class, encoded for the file system: a million strings would take 100 MB."""
    targets: Tensor
    """int64 [samples], class numbers."""
    side: int
    """Height and width that images are brought to, in pixels."""

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...], *, side: int) -> "ImageFiles":
        """List the images of some classes, sorted by class and name.

        Raises:
            FileNotFoundError: If a class has no folder.
        """
        names = [_image_names(folder / name) for name in classes]
        targets = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(of) for of in names]))
        encoded = np.array([os.fsencode(name) for of in names for name in of], dtype=np.bytes_)
        return cls(folder=folder, classes=classes, names=encoded, targets=targets, side=side)

    @override
    def __len__(self) -> int:
        return len(self.targets)

    @override
    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return uint8 [batch, 3, side, side] and int64 [batch].

        Raises:
            DataMissingError: If a file is not there any more.
            ValueError: If a file cannot be decoded.
            ExtraMissingError: If Pillow is not installed.
        """
        image = require("PIL.Image", "lab")
        targets = self.targets[rows]
        paths = [
            self.folder / self.classes[target] / os.fsdecode(self.names[row])
            for row, target in zip(rows.tolist(), targets.tolist(), strict=True)
        ]
        # Pillow decodes and scales without holding Python's lock.
        with ThreadPoolExecutor(max_workers=min(len(paths), _cores())) as pool:
            squares = list(pool.map(lambda path: _square(image, path, self.side), paths))
        # [batch, height, width, colour] -> [batch, colour, height, width], only seen so.
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2), targets


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(ENDINGS))


def _square(image: Any, path: Path, side: int) -> npt.NDArray[np.uint8]:
    try:
        with image.open(path) as opened:
            # A JPEG file is decoded at an eighth, a quarter or half of its size where that is still enough.
            opened.draft("RGB", (side, side))
            width, height = opened.size
            edge = min(width, height)
            left, top = (width - edge) / 2, (height - edge) / 2
            square = opened.convert("RGB").resize(
                (side, side), image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge)
            )
            return np.asarray(square, dtype=np.uint8)
    except FileNotFoundError as e:
        raise DataMissingError(
            f"An image is not there any more: looked for {path}, which was listed when the data were loaded."
        ) from e
    # Pillow raises SyntaxError for some broken files.
    except (OSError, SyntaxError, ValueError) as e:
        raise ValueError(f"{path} must be an image, and it cannot be read: {e}. Fetch it again.") from e


def _cores() -> int:
    # Those that the process may use; not every system can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
