"""Sentences with their translations, as samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from codistill.lab.tasks.samples import IGNORED, Samples
from codistill.lab.tasks.translation.sentences import Sentences
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, PAD, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs(Samples):
    """Sentence pairs; a batch is as long as its longest sentences.

    Inputs are (source int64 [batch, S], decoder input int64 [batch, T]), filled with `PAD`; targets are
    int64 [batch, T], filled with `IGNORED`. Sources and targets end with `EOS`; the decoder input is `BOS`
    and the target without its last token, so that the model is called as ``model(source, decoder_input)``
    and position t predicts token t of the target.
    """

    sources: Sentences
    """Tokens, `EOS` at the end of each."""
    targets: Sentences
    """As many, in the same order and form."""

    @override
    def __len__(self) -> int:
        return len(self.sources)

    @override
    def batch(self, rows: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        targets = self.targets.padded(rows, fill=IGNORED)
        decoder_input = torch.full_like(targets, BOS)
        # Not EOS: where nothing is to be predicted after a token, it is not fed.
        decoder_input[:, 1:] = targets[:, :-1].where(targets[:, 1:] != IGNORED, PAD)
        return (self.sources.padded(rows, fill=PAD), decoder_input), targets

    @override
    def to(self, device: torch.device) -> "Pairs":
        return Pairs(sources=self.sources.to(device), targets=self.targets.to(device))

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the pairs as they are cached."""
        return {
            "source_tokens": self.sources.tokens.numpy(),
            "source_starts": self.sources.starts.numpy(),
            "target_tokens": self.targets.tokens.numpy(),
            "target_starts": self.targets.starts.numpy(),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> "Pairs":
        """Return the pairs that `arrays` was called on."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return cls(
            sources=Sentences(tokens=tensors["source_tokens"], starts=tensors["source_starts"]),
            targets=Sentences(tokens=tensors["target_tokens"], starts=tensors["target_starts"]),
        )


def encode_pairs(
    vocabulary: Vocabulary, sources: Sequence[str], targets: Sequence[str], *, longest: int, is_training: bool
) -> Pairs:
    """Return sentence pairs as tokens.

    Args:
        vocabulary: Of both languages.
        sources: Sentences to translate.
        targets: Their translations, in the same order.
        longest: Most tokens of a sentence, `EOS` included.
        is_training: Leave out pairs of which a sentence is empty or longer; otherwise longer sentences are
            cut, so that every pair counts in a score.
    """
    kept_sources, kept_targets = [], []
    for source, target in zip(vocabulary.encode(sources), vocabulary.encode(targets), strict=True):
        if is_training and not all(0 < len(sentence) < longest for sentence in (source, target)):
            continue
        kept_sources.append(_ended(source[: longest - 1]))
        kept_targets.append(_ended(target[: longest - 1]))
    return Pairs(sources=Sentences.of(kept_sources), targets=Sentences.of(kept_targets))


def _ended(sentence: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.append(sentence, np.int32(EOS))
