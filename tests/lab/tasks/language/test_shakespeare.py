from pathlib import Path

import numpy as np
import pytest

from codistill.errors import DataMissingError
from codistill.lab.tasks.language.shakespeare import Shakespeare


def test_parts_follow_one_another(small_shakespeare: Path) -> None:
    text = (small_shakespeare / "tinyshakespeare" / "input.txt").read_text()
    arrays = Shakespeare.arrays(small_shakespeare)
    assert [len(arrays[part]) for part in ("train", "valid", "test")] == [3600, 200, 200]
    task = Shakespeare(small_shakespeare)
    assert task.vocabulary.decode(arrays["train"]) == text[:3600]
    assert task.vocabulary.decode(arrays["valid"]) == text[3600:3800]
    assert task.train.inputs.shape == (56, 64)


def test_characters_of_the_test_part_only_are_unknown(small_shakespeare: Path) -> None:
    arrays = Shakespeare.arrays(small_shakespeare)
    assert arrays["test"][-10:].tolist() == [0] * 10
    assert 0 not in np.concatenate([arrays["train"], arrays["valid"]])


def test_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        DataMissingError, match=r"looked for .*input\.txt, which comes from https://.*char-rnn"
    ):
        Shakespeare.prepare(tmp_path)


@pytest.mark.data
def test_the_real_plays_have_the_documented_characters(data_root: Path, cache: Path) -> None:
    task = Shakespeare(data_root)
    arrays = Shakespeare.arrays(data_root)
    assert sum(len(arrays[part]) for part in ("train", "valid", "test")) == 1_115_394
    assert task.classes == 65 + 1
    assert task.vocabulary.decode(task.train.inputs[0].numpy()).startswith("First Citizen:\n")
    assert len(task.validation) * 64 == 19_968
    assert len(task.test()) * 64 == 55_744
