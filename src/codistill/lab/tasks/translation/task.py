"""What tasks of translation share: tokens, models, and BLEU."""

import gzip
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.errors import DataMissingError, RecipeError
from codistill.extras import check_installed, require
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.cache import cached_arrays, digest_of
from codistill.lab.tasks.samples import IGNORED, Samples
from codistill.lab.tasks.translation.beam_search import Translator, beam_search
from codistill.lab.tasks.translation.pairs import Pairs, encode_pairs
from codistill.lab.tasks.translation.transformer import Transformer
from codistill.lab.tasks.translation.vocabulary import PAD, Vocabulary

FORMAT = 1
"""Of what is cached; rises when the same files become other arrays."""

BLEU_SENTENCES = 500
"""Most sentences that BLEU is taken of: the first ones."""
BEAM, ALPHA = 4, 0.6
"""Beginnings that the search follows up, and its length penalty (Vaswani et al. 2017, section 6.1)."""
_SENTENCES_AT_A_TIME = 50

_MODELS: Mapping[str, Mapping[str, Any]] = {
    "small": {"width": 128, "layers": 2, "heads": 4, "dropout": 0.1, "feed_forward": 2},
    "base": {"width": 512, "layers": 6, "heads": 8, "dropout": 0.1, "feed_forward": 4},
    "transformer_big": {"width": 1024, "layers": 6, "heads": 16, "dropout": 0.3, "feed_forward": 4},
}
"""Arguments of `Transformer` (Vaswani et al. 2017, table 3); the feed-forward width in widths."""


class Translation(Task):
    """Sentences to translate, a joint vocabulary, and transformers.

    The vocabulary is learned from the training pairs alone. Training pairs with an empty sentence or one of
    more than `longest` tokens are left out; those of validation and test are cut at that length. Text is
    tokenised once and kept in the user's cache folder.
    """

    metric = "nll"
    name: ClassVar[str]
    """Of the folder under the data root."""
    origin: ClassVar[str]
    """Where the data come from, for the error if they are missing."""
    languages: ClassVar[tuple[str, str]]
    """Of source and target."""
    most_classes: ClassVar[int]
    """Largest size of the vocabulary, padding and the like included."""
    longest: ClassVar[int]
    """Most tokens of a sentence, its end included."""

    @classmethod
    @abstractmethod
    def files(cls, data_root: Path, part: str) -> tuple[Path, ...]:
        """Return the files that a part is read from.

        Args:
            data_root: As for `prepare`.
            part: ``"train"``, ``"validation"`` or ``"test"``.
        """

    @classmethod
    def read(cls, data_root: Path, part: str) -> tuple[list[str], list[str]]:
        """Return the sentences of a part, sources and translations in the same order.

        Args:
            data_root: As for `prepare`.
            part: As for `files`.

        Raises:
            ValueError: If there are not as many translations as sources.
        """
        source, target = cls.files(data_root, part)
        return read_pairs(source, target)

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        check_installed("tokenizers", "lab")
        check_installed("sacrebleu", "lab")
        vocabulary = cls._vocabulary(data_root)
        for part in ("train", "validation", "test"):
            cls._load(data_root, part, vocabulary)

    @override
    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self.vocabulary = self._vocabulary(data_root)
        self.classes = len(self.vocabulary)
        self.train = self._load(data_root, "train", self.vocabulary)
        self.validation = self._load(data_root, "validation", self.vocabulary)

    @override
    def test(self) -> Pairs:
        return self._load(self._data_root, "test", self.vocabulary)

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        options = dict(_MODELS[choose_model(self, name)])
        if width is not None:
            if width < 1 or width % options["heads"] or width % 2:
                raise RecipeError(
                    f"width must be even and a multiple of {options['heads']}, the number of heads, "
                    f"got {width}. None is the model's own, {options['width']}."
                )
            options["width"] = width
        options["feed_forward"] *= options["width"]
        return Transformer(self.classes, **options, pad=PAD)

    @override
    def loss(
        self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, prior: Tensor | None = None
    ) -> Tensor:
        # About half of a batch is padding; left out first, it costs neither the time nor the memory.
        counts = (targets.flatten() != IGNORED).nonzero().squeeze(1)
        logits, targets = logits.flatten(0, 1).index_select(0, counts), targets.flatten()[counts]
        return super().loss(logits, targets, smoothing=smoothing, prior=prior)

    @override
    def further_scores(
        self, model: nn.Module, samples: Samples, *, device: torch.device
    ) -> Mapping[str, float]:
        """Return ``bleu``, in per cent: sacreBLEU's corpus score of the first 500 sentences.

        Searched with a beam of 4 and a length penalty of 0.6, at most 20 tokens longer than the source;
        compared as text, joined and cased as in the data's files.
        """
        sacrebleu = require("sacrebleu", "lab")
        rows = torch.arange(min(len(samples), BLEU_SENTENCES))
        inputs, _ = samples.batch(rows)
        lengths = (inputs[0] != PAD).sum(dim=1).cpu()
        translations: list[str] = []
        references: list[str] = []
        # Sentences of like length together: little padding, and they end at about the same time.
        for chunk in torch.split(rows[lengths.argsort(stable=True)], _SENTENCES_AT_A_TIME):
            inputs, targets = samples.batch(chunk)
            source = inputs[0].to(device)
            found = beam_search(
                cast("Translator", model), source, longest=source.shape[1] + 20, beam=BEAM, alpha=ALPHA
            )
            translations += map(self.vocabulary.decode, found)
            references += map(self.vocabulary.decode, targets.tolist())
        return {"bleu": float(sacrebleu.corpus_bleu(translations, [references]).score)}

    @classmethod
    def _vocabulary(cls, data_root: Path) -> Vocabulary:
        def make() -> dict[str, Any]:
            sources, targets = cls.read(data_root, "train")
            return {"vocabulary": Vocabulary.train([*sources, *targets], classes=cls.most_classes)}

        key = f"{cls.name}-vocabulary-{cls._made_of(data_root, 'train')}"
        return Vocabulary(cached_arrays(key, make)["vocabulary"])

    @classmethod
    def _load(cls, data_root: Path, part: str, vocabulary: Vocabulary) -> Pairs:
        def make() -> dict[str, Any]:
            sources, targets = cls.read(data_root, part)
            pairs = encode_pairs(
                vocabulary, sources, targets, longest=cls.longest, is_training=part == "train"
            )
            return pairs.arrays()

        return Pairs.of_arrays(cached_arrays(f"{cls.name}-{part}-{cls._made_of(data_root, part)}", make))

    @classmethod
    def _made_of(cls, data_root: Path, part: str) -> str:
        """Return what decides the arrays of a part: the vocabulary and its own text."""
        files = list(dict.fromkeys([*cls.files(data_root, "train"), *cls.files(data_root, part)]))
        for file in files:
            if not file.is_file():
                raise DataMissingError(
                    f"The data set {cls.name!r} is not there: looked for {file}, which comes from "
                    f"{cls.origin}; pass --data-root, or set CODISTILL_DATA, to the folder that holds the "
                    "data sets' folders."
                )
        return f"{FORMAT}-{cls.most_classes}-{cls.longest}-{digest_of(*files)}"


def parallel_files(folder: Path, part: str, *, languages: tuple[str, str]) -> tuple[Path, ...]:
    """Return ``<folder>/{train,valid,test}.<language>`` of both languages, for a part as `files` names it."""
    stem = {"validation": "valid"}.get(part, part)
    return tuple(folder / f"{stem}.{language}" for language in languages)


def read_pairs(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Return the lines of two text files, UTF-8, compressed by gzip if their names end in ``.gz``.

    Raises:
        ValueError: If one has more lines than the other.
    """
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            f"{target} must have a line for each of the {len(sources)} lines of {source.name}, "
            f"got {len(targets)}. Line i of one is the translation of line i of the other."
        )
    return sources, targets


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    # Not splitlines, which also cuts at characters that occur inside a sentence.
    lines = data.decode().split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.strip() for line in lines]
