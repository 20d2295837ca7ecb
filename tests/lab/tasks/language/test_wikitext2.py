from pathlib import Path

import numpy as np
import pytest
import torch

from codistill.errors import DataMissingError
from codistill.lab.tasks.language import wikitext2
from codistill.lab.tasks.language.wikitext2 import WikiText2


def test_the_vocabulary_is_that_of_the_training_part(small_wikitext2: Path) -> None:
    task = WikiText2(small_wikitext2)
    # Ten words, <eos> and <unk>; "zebra" is in the validation part only.
    assert task.classes == 12
    valid = WikiText2.arrays(small_wikitext2)["valid"]
    assert task.vocabulary.decode(valid[:3]) == "<unk> <eos> <eos>"
    assert 0 not in valid[1:]
    assert not bool((task.train.targets == 0).any())


def test_only_the_most_frequent_words_are_kept(
    small_wikitext2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert WikiText2(small_wikitext2).classes == 12
    monkeypatch.setattr(wikitext2, "WORDS", 5)
    # The cache of before is of another size, and must not be used.
    task = WikiText2(small_wikitext2)
    assert task.classes == 5
    frequencies = task.class_frequencies()
    assert float(frequencies.sum()) == pytest.approx(1.0)
    assert int(frequencies.argmax()) == 0


def test_prepared_text_is_not_read_again(small_wikitext2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WikiText2.prepare(small_wikitext2)
    before = WikiText2(small_wikitext2)
    monkeypatch.setattr(wikitext2, "read_text", lambda path: pytest.fail("read again"))
    task = WikiText2(small_wikitext2)
    assert torch.equal(task.train.inputs, before.train.inputs)
    assert task.vocabulary.to_json() == before.vocabulary.to_json()
    assert len(task.test()) == 20 * 9 // 32


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_missing_part_is_named(small_wikitext2: Path, part: str) -> None:
    path = small_wikitext2 / "wikitext2" / f"{part}.txt.gz"
    path.unlink()
    with pytest.raises(
        DataMissingError, match=f"looked for {path}, which comes from https://.*pytorch/examples"
    ):
        WikiText2.prepare(small_wikitext2)


@pytest.mark.data
def test_the_real_articles_have_the_documented_number_of_words(data_root: Path, cache: Path) -> None:
    task = WikiText2(data_root)
    arrays = WikiText2.arrays(data_root)
    assert {part: len(arrays[part]) for part in ("train", "valid", "test")} == {
        "train": 2_088_628,
        "valid": 217_646,
        "test": 245_569,
    }
    # One <eos> for each line.
    line_end = int(task.vocabulary.encode("\n")[0])
    assert int(np.count_nonzero(arrays["train"] == line_end)) == 36_718
    assert task.classes == 10_000
    assert len(task.train) == (2_088_628 - 1) // 32
    assert len(task.validation) * 32 == 20_000
    assert len(task.test()) * 32 == 60_000
