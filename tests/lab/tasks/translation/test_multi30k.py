from pathlib import Path

import pytest
import torch

from codistill.lab.tasks.translation.multi30k import Multi30k


def test_german_is_translated_to_english(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    assert (len(task.train), len(task.validation), len(task.test())) == (24, 6, 6)
    (source, _), target = task.train.batch(torch.tensor([0]))
    assert task.vocabulary.decode(source[0].tolist()) == "Ein Hund rennt im Park."
    assert task.vocabulary.decode(target[0].tolist()) == "A dog runs in the park."
    assert task.classes == len(task.vocabulary)
    assert task.metric == "nll"


def test_the_vocabulary_is_of_the_training_pairs_alone(small_multi30k: Path) -> None:
    task = Multi30k(small_multi30k)
    (source, _), _ = task.train.batch(torch.tensor([0]))
    # The girl only sings in the other parts.
    (unseen, _), _ = task.test().batch(torch.tensor([0]))
    assert "M\u00e4dchen" in task.vocabulary.decode(unseen[0].tolist())
    assert unseen.shape[1] > source.shape[1]


@pytest.mark.data
def test_the_real_captions_are_as_many_as_documented(data_root: Path, cache: Path) -> None:
    assert len(Multi30k.read(data_root, "train")[0]) == 29000
    task = Multi30k(data_root)
    test = task.test()
    assert (len(task.train), len(task.validation), len(test)) == (28999, 1014, 1000)
    assert task.classes == Multi30k.most_classes
    # None of these is cut, so references are those of the files.
    for part, pairs in (("validation", task.validation), ("test", test)):
        sources, targets = Multi30k.read(data_root, part)
        rows = torch.arange(len(pairs))
        (source, _), target = pairs.batch(rows)
        assert [task.vocabulary.decode(row) for row in source.tolist()] == sources
        assert [task.vocabulary.decode(row) for row in target.tolist()] == targets
