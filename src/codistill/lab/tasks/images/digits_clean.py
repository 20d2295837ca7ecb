"""scikit-learn's bundled digits with their true labels: the parts of ``digits``, no label replaced."""

from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from codistill.lab.tasks.images.digits import SEED, Digits


@final
class DigitsClean(Digits):
    """Digits with true labels, and the same perceptron 64-128-128-10."""

    @override
    def __init__(self, data_root: Path) -> None:
        super().__init__(data_root)
        # The permutation is the first thing that Digits draws.
        order = np.random.RandomState(SEED).permutation(len(self._labels))
        train, validation, _ = np.split(
            order, np.cumsum([len(self.train.targets), len(self.validation.targets)])
        )
        self.train = self._split(train, self._labels[train])
        self.validation = self._split(validation, self._labels[validation])
