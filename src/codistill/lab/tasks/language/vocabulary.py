"""What the parts of a text are numbered by: words, characters or pieces of words."""

import itertools
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from codistill.extras import require

Tokens = npt.NDArray[np.int32]
"""A text as numbers, [tokens]."""

UNKNOWN = "<unk>"
"""Every word that is not in a vocabulary; number 0 in each."""
LINE_END = "<eos>"
"""The word after the last one of every line."""
UNKNOWN_CHARACTER = "\ufffd"
"""Every character that is not in a vocabulary; number 0 in each."""

_LINES = 1024
"""Lines that are cut into pieces at a time."""


class Vocabulary(ABC):
    """Numbers tokens from 0; made from training text only, and the same whenever made from the same text."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of different tokens."""

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """Return a text as numbers, int32 [tokens]."""

    @abstractmethod
    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        """Return the text of some tokens."""

    @abstractmethod
    def to_json(self) -> str:
        """Return what `from_json` makes the same vocabulary of."""

    @classmethod
    @abstractmethod
    def from_json(cls, document: str) -> Self:
        """Return the vocabulary that `to_json` wrote down."""

    def to_array(self) -> npt.NDArray[np.uint8]:
        """Return it as an array for the cache: the bytes of `to_json`."""
        return np.frombuffer(self.to_json().encode(), dtype=np.uint8)

    @classmethod
    def from_array(cls, document: npt.NDArray[np.uint8]) -> Self:
        """Return the vocabulary that `to_array` made an array of."""
        return cls.from_json(document.tobytes().decode())


@final
class WordVocabulary(Vocabulary):
    r"""The most frequent words; all others are `UNKNOWN`, and every line ends with the word `LINE_END`.

    Args:
        words: All different, `UNKNOWN` first.

    Example:
        >>> vocabulary = WordVocabulary.of("the cat and the dog\n", size=3)
        >>> vocabulary.decode(vocabulary.encode("the dog\n"))
        'the <unk> <eos>'
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._numbers = _Numbers(zip(self._words, itertools.count()))

    @classmethod
    def of(cls, text: str, *, size: int) -> "WordVocabulary":
        """Return the vocabulary of a training text.

        Args:
            text: Words between white space, in lines.
            size: Most words it may have, `UNKNOWN` and `LINE_END` among them.
        """
        counts = Counter(_words(text))
        del counts[UNKNOWN]
        # Among equally frequent words the alphabet decides, not their order in the text.
        by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([UNKNOWN, *by_frequency[: size - 1]])

    @override
    def __len__(self) -> int:
        return len(self._words)

    @override
    def encode(self, text: str) -> Tokens:
        words = _words(text)
        return np.fromiter(map(self._numbers.__getitem__, words), dtype=np.int32, count=len(words))

    @override
    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        return " ".join(self._words[token] for token in tokens)

    @override
    def to_json(self) -> str:
        return json.dumps(self._words)

    @classmethod
    @override
    def from_json(cls, document: str) -> Self:
        return cls(json.loads(document))


@final
class CharacterVocabulary(Vocabulary):
    """The characters of a text; all others are `UNKNOWN_CHARACTER`.

    Args:
        characters: All different, rising.

    Example:
        >>> vocabulary = CharacterVocabulary.of("banana")
        >>> vocabulary.encode("nab").tolist()
        [3, 1, 2]
    """

    def __init__(self, characters: str) -> None:
        self._characters = characters
        self._points = _points(characters)

    @classmethod
    def of(cls, text: str) -> "CharacterVocabulary":
        """Return the vocabulary of a training text."""
        return cls("".join(sorted(set(text))))

    @override
    def __len__(self) -> int:
        return 1 + len(self._characters)

    @override
    def encode(self, text: str) -> Tokens:
        points = _points(text)
        above = np.searchsorted(self._points, points, side="right")
        is_known = np.concatenate([[-1], self._points])[above] == points
        return np.where(is_known, above, 0).astype(np.int32)

    @override
    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        characters = UNKNOWN_CHARACTER + self._characters
        return "".join(characters[token] for token in tokens)

    @override
    def to_json(self) -> str:
        return json.dumps(self._characters)

    @classmethod
    @override
    def from_json(cls, document: str) -> Self:
        return cls(json.loads(document))


@final
class BytePairVocabulary(Vocabulary):
    """Pieces of words: the 256 bytes, and the most frequent pairs merged (Sennrich et al. 2016).

    Any text can be written with them, and `decode` gives every character of it back.

    Args:
        document: As `to_json` returns it: the JSON of the package ``tokenizers``, which is needed as soon as
            text is encoded or decoded.
    """

    def __init__(self, document: str) -> None:
        self._document = document

    @classmethod
    def of(cls, text: Iterable[str], *, size: int) -> "BytePairVocabulary":
        """Return the vocabulary of a training text.

        Args:
            text: Line by line, with what ends the lines.
            size: Most pieces it may have, the 256 bytes among them; a small text has no more to merge.

        Raises:
            ExtraMissingError: If tokenizers is not installed.
        """
        tokenizers = require("tokenizers", "lab")
        bytes_of = tokenizers.pre_tokenizers.ByteLevel
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = bytes_of(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=sorted(bytes_of.alphabet()), show_progress=False
        )
        tokenizer.train_from_iterator(text, trainer)
        return cls(tokenizer.to_str())

    @override
    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @override
    def encode(self, text: str) -> Tokens:
        return np.concatenate([np.empty(0, np.int32), *self.encode_lines(text.splitlines(keepends=True))])

    def encode_lines(self, lines: Iterable[str]) -> Iterator[Tokens]:
        """Return a text, given line by line, as numbers; as much at a time as suits memory.

        Raises:
            ExtraMissingError: If tokenizers is not installed.
        """
        lines = iter(lines)
        while some := list(itertools.islice(lines, _LINES)):
            pieces = [line.ids for line in self._tokenizer.encode_batch_fast(some)]
            count = sum(map(len, pieces))
            yield np.fromiter(itertools.chain.from_iterable(pieces), dtype=np.int32, count=count)

    @override
    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False))

    @override
    def to_json(self) -> str:
        return self._document

    @classmethod
    @override
    def from_json(cls, document: str) -> Self:
        return cls(document)

    @cached_property
    def _tokenizer(self) -> Any:
        return require("tokenizers", "lab").Tokenizer.from_str(self._document)


class _Numbers(dict[str, int]):
    def __missing__(self, word: str) -> int:
        return 0


def _words(text: str) -> list[str]:
    return text.replace("\n", f" {LINE_END} ").split()


def _points(text: str) -> npt.NDArray[np.int64]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
