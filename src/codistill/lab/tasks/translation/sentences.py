"""Sentences of different lengths, one after another in one tensor."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """Sentences as tokens, without padding: 4.5 million pairs take about 1 GB instead of tens."""

    tokens: Tensor
    """int32 [tokens], all sentences one after another."""
    starts: Tensor
    """int64 [sentences + 1]; sentence i is the tokens from ``starts[i]`` up to ``starts[i + 1]``."""

    @classmethod
    def of(cls, sentences: Iterable[npt.NDArray[np.int32]]) -> "Sentences":
        """Return sentences, int32 [tokens] each, kept together."""
        rows = [np.zeros(0, dtype=np.int32), *sentences]
        lengths = np.fromiter(map(len, rows), dtype=np.int64)
        return cls(tokens=torch.from_numpy(np.concatenate(rows)), starts=torch.from_numpy(lengths.cumsum()))

    def __len__(self) -> int:
        """Return the number of sentences."""
        return len(self.starts) - 1

    def padded(self, rows: Tensor, *, fill: int) -> Tensor:
        """Return some sentences, filled up to the longest of them.

        Args:
            rows: Their numbers, int64 [batch], at least one.
            fill: What stands after the end of shorter ones.

        Returns:
            int64 [batch, longest].
        """
        rows = rows.to(self.starts.device)
        starts, ends = self.starts[rows, None], self.starts[rows + 1, None]
        places = starts + torch.arange(int((ends - starts).max()), device=starts.device)
        tokens = self.tokens[places.clamp(max=len(self.tokens) - 1)].long()
        return tokens.where(places < ends, fill)

    def to(self, device: torch.device) -> "Sentences":
        """Return the same sentences on a device."""
        return Sentences(tokens=self.tokens.to(device), starts=self.starts.to(device))
