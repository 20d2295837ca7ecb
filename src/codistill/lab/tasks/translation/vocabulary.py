"""Pieces of words that two languages share, by byte pair encoding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codistill.extras import require

PAD, BOS, EOS = 0, 1, 2
"""Tokens that fill up a batch, begin a decoder's input, and end a sentence."""
FIRST_PIECE = 3
"""Number of the first token that stands for text."""

_CHUNK = 1 << 16
"""Sentences encoded at a time: the encoder's own answer takes far more memory than the tokens."""


class Vocabulary:
    """A joint vocabulary: the same pieces for source and target.

    Text is cut by byte pair encoding (Sennrich et al. 2016) over bytes, so that any text can be encoded and
    comes back as it was. `PAD`, `BOS` and `EOS` are not known to the encoding: a sentence that has
    ``<eos>`` in it is text like any other.

    Args:
        stored: What `train` returned.

    Raises:
        ExtraMissingError: If tokenizers is not installed.
    """

    def __init__(self, stored: npt.NDArray[np.uint8]) -> None:
        self._tokenizer: Any = require("tokenizers", "lab").Tokenizer.from_str(stored.tobytes().decode())

    @staticmethod
    def train(texts: Iterable[str], *, classes: int) -> npt.NDArray[np.uint8]:
        """Return a vocabulary learned from texts, in the form that it is stored in.

        Args:
            texts: Of both languages, of the training data only.
            classes: Largest number of tokens, at least 259: 256 bytes and three that are no text.

        Raises:
            ValueError: If there are too few classes.
            ExtraMissingError: If tokenizers is not installed.
        """
        if classes < FIRST_PIECE + 256:
            raise ValueError(
                f"classes must be >= {FIRST_PIECE + 256}, got {classes}. Every byte needs a piece of its own."
            )
        tokenizers = require("tokenizers", "lab")
        byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = byte_level
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=classes - FIRST_PIECE, initial_alphabet=byte_level.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return np.frombuffer(tokenizer.to_str().encode(), dtype=np.uint8)

    def __len__(self) -> int:
        """Return the number of tokens, those that are no text included."""
        return FIRST_PIECE + int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Yield the tokens of one text after another, int32 [tokens], without `BOS` and `EOS`."""
        for start in range(0, len(texts), _CHUNK):
            for encoding in self._tokenizer.encode_batch(texts[start : start + _CHUNK]):
                yield np.array(encoding.ids, dtype=np.int32) + np.int32(FIRST_PIECE)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; those that are no text are left out."""
        pieces = [token - FIRST_PIECE for token in tokens if token >= FIRST_PIECE]
        text: str = self._tokenizer.decode(pieces)
        return text
