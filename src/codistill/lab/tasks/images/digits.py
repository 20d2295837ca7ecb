"""scikit-learn's bundled digits, a fifth of the labels replaced at random.

1,797 scans of 8 x 8. The split is one seeded permutation, not stratified: 718 to train on (40%), 180 to
validate (10%), 899 to test (50%). A fifth of the training and of the validation labels, 143 and 36, is
replaced by a class drawn uniformly from all ten (so about 2% of all labels are "replaced" by themselves);
test labels stay as they are. Split and replaced labels are the same for every arm, peer and seed.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from codistill.extras import check_installed, require
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.cache import Array, cached_arrays
from codistill.lab.tasks.images.mlp import mlp
from codistill.lab.tasks.samples import Split

SEED = 20
"""Of the split and of the replaced labels."""
WIDTH = 128
"""Units of each hidden layer."""


class Digits(Task):
    """Digits with noisy labels, and a perceptron 64-128-128-10."""

    models = ("mlp",)

    train: Split
    validation: Split

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        check_installed("sklearn", "lab")

    @override
    def __init__(self, data_root: Path) -> None:
        scans = cached_arrays(f"digits-{version('scikit-learn')}", _read_scans)
        # The old generator: NumPy has promised that its numbers will never change.
        random = np.random.RandomState(SEED)
        pixels, labels = scans["pixels"], scans["labels"]
        order = random.permutation(len(labels))
        train, validation, self._test = np.split(order, [len(order) * 4 // 10, len(order) * 5 // 10])
        self.classes = 10
        self._pixels, self._labels = pixels, labels
        self.train = self._split(train, _replace_fifth(labels[train], random))
        self.validation = self._split(validation, _replace_fifth(labels[validation], random))

    @override
    def test(self) -> Split:
        return self._split(self._test, self._labels[self._test])

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        choose_model(self, name)
        width = WIDTH if width is None else width
        return mlp(64, width, width, self.classes)

    def _split(self, rows: "np.ndarray", labels: "np.ndarray") -> Split:
        return Split(inputs=torch.from_numpy(self._pixels[rows]), targets=torch.from_numpy(labels))


def _read_scans() -> dict[str, Array]:
    # Importing scikit-learn takes longer than a short run.
    bunch = require("sklearn.datasets", "lab").load_digits()
    return {"pixels": (bunch.data / 16).astype(np.float32), "labels": bunch.target.astype(np.int64)}


def _replace_fifth(labels: "np.ndarray", random: np.random.RandomState) -> "np.ndarray":
    chosen = random.choice(len(labels), size=len(labels) // 5, replace=False)
    noisy = labels.copy()
    noisy[chosen] = random.randint(0, 10, size=len(chosen))
    return noisy
