from pathlib import Path

import pytest
import torch

from codistill.lab.tasks.translation.pairs import Pairs
from codistill.lab.tasks.translation.tatoeba import Tatoeba, split


def _texts(task: Tatoeba, pairs: Pairs) -> tuple[list[str], list[str]]:
    (source, _), target = pairs.batch(torch.arange(len(pairs)))
    return (
        [task.vocabulary.decode(row) for row in source.tolist()],
        [task.vocabulary.decode(row) for row in target.tolist()],
    )


def _assert_apart(parts: list[tuple[list[str], list[str]]]) -> None:
    for language in (0, 1):
        sentences = [set(part[language]) for part in parts]
        assert len(set().union(*sentences)) == sum(map(len, sentences))
    for german, english in parts[1:]:
        assert len(set(german)) == len(german)
        assert len(set(english)) == len(english)


def test_no_sentence_is_in_two_parts(small_tatoeba: Path) -> None:
    task = Tatoeba(small_tatoeba)
    parts = [_texts(task, pairs) for pairs in (task.train, task.validation, task.test())]
    _assert_apart(parts)
    assert [len(german) for german, _ in parts[1:]] == [4, 4]
    # 48 pairs; those that share a sentence with the eight are in no part.
    assert 30 <= len(parts[0][0]) < 40
    assert any("Hund" in sentence for sentence in parts[0][0])
    assert any("dog" in sentence for sentence in parts[0][1])


def test_the_split_is_the_same_each_time_and_mixed() -> None:
    pairs = [(f"de {i}", f"en {i}") for i in range(40)]
    first, second = split(pairs, held_sentences=5), split(pairs, held_sentences=5)
    assert first == second
    assert {part: len(first[part]) for part in first} == {"train": 30, "validation": 5, "test": 5}
    assert first["train"] == [pair for pair in pairs if pair in first["train"]]
    held = first["validation"] + first["test"]
    assert sorted(held) != sorted(pairs[:10])
    assert sorted(held) != sorted(pairs[-10:])


def test_of_several_translations_the_first_is_the_reference() -> None:
    pairs = [(f"de {i} {k}", f"en {i}") for i in range(10) for k in "ab"]
    parts = split(pairs, held_sentences=2)
    assert all(german.endswith("a") for german, _ in parts["validation"] + parts["test"])
    assert len(parts["train"]) == 12


def test_too_few_sentences_are_refused() -> None:
    pairs = [("de", f"en {i}") for i in range(40)]
    with pytest.raises(ValueError, match=r"at least 4 different sentences of each language, got 1\."):
        split(pairs, held_sentences=2)


@pytest.mark.data
def test_no_real_sentence_is_in_two_parts(data_root: Path) -> None:
    parts = [Tatoeba.read(data_root, part) for part in ("train", "validation", "test")]
    _assert_apart(parts)
    assert [len(english) for _, english in parts[1:]] == [1000, 1000]
    german, english = parts[0]
    assert len(german) == len(english) > 160_000
