"""Tatoeba from ``<data root>/tatoeba_deu_eng/deu-eng.zip``: everyday sentences, German to English.

``deu.txt`` in it has an English sentence, a tab and a German one a line, sorted by length. The same sentence
occurs in several pairs, so a split by line would test on what was trained on. Here 1,000 English sentences
validate and 1,000 others test, drawn once with a fixed seed, each with the first of its translations and no
German sentence twice; all other pairs with any of these sentences, English or German, are left out.
"""

import zipfile
from pathlib import Path

import numpy as np
from typing_extensions import override

from codistill.lab.tasks.translation.task import Translation

SEED = 20
"""Of the split."""
HELD_SENTENCES = 1000
"""English sentences of validation, and of test."""


class Tatoeba(Translation):
    """Short German sentences, their English translations, and a small transformer."""

    name = "tatoeba_deu_eng"
    origin = "manythings.org/anki (deu-eng.zip, of Tatoeba's sentence pairs)"
    languages = ("de", "en")
    models = ("small",)
    most_classes = 4000
    longest = 64

    @classmethod
    @override
    def files(cls, data_root: Path, part: str) -> tuple[Path, ...]:
        return (Path(data_root) / cls.name / "deu-eng.zip",)

    @classmethod
    @override
    def read(cls, data_root: Path, part: str) -> tuple[list[str], list[str]]:
        (path,) = cls.files(data_root, part)
        pairs = split(_read(path), held_sentences=HELD_SENTENCES)[part]
        return [german for german, _ in pairs], [english for _, english in pairs]


def split(pairs: list[tuple[str, str]], *, held_sentences: int) -> dict[str, list[tuple[str, str]]]:
    """Split pairs (source, target) so that no sentence is in two parts.

    Args:
        pairs: All pairs; a sentence may be in several.
        held_sentences: Targets in ``"validation"``, and in ``"test"``, each once.

    Returns:
        The pairs of ``"train"``, in the order that they came in, ``"validation"`` and ``"test"``.

    Raises:
        ValueError: If there are too few different sentences.
    """
    first: dict[str, str] = {}
    for source, target in pairs:
        first.setdefault(target, source)
    targets = list(first)
    # The old generator: NumPy has promised that its numbers will never change.
    order = np.random.RandomState(SEED).permutation(len(targets))
    held: dict[str, str] = {}
    for target in (targets[i] for i in order):
        if len(held) == 2 * held_sentences:
            break
        held.setdefault(first[target], target)
    if len(held) < 2 * held_sentences:
        raise ValueError(
            f"pairs must have at least {2 * held_sentences} different sentences of each language, "
            f"got {len(held)}. Use the whole data set."
        )
    held_pairs, held_targets = list(held.items()), set(held.values())
    return {
        "train": [
            (source, target) for source, target in pairs if source not in held and target not in held_targets
        ],
        "validation": held_pairs[:held_sentences],
        "test": held_pairs[held_sentences:],
    }


def _read(path: Path) -> list[tuple[str, str]]:
    with zipfile.ZipFile(path) as members:
        lines = members.read("deu.txt").decode().split("\n")
    # Later releases of the file have a third column, of the authors.
    columns = (line.split("\t") for line in lines if line)
    return [(german.strip(), english.strip()) for english, german, *_ in columns]
