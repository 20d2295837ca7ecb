import numpy as np
import pytest
import torch

from codistill.lab.tasks.samples import IGNORED
from codistill.lab.tasks.translation.pairs import Pairs, encode_pairs
from codistill.lab.tasks.translation.sentences import Sentences
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, PAD, Vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(Vocabulary.train([], classes=259))


def _pairs() -> Pairs:
    sources = [[11, 12, EOS], [13, EOS]]
    targets = [[21, EOS], [22, 23, 24, EOS]]
    return Pairs(
        sources=Sentences.of(np.array(row, dtype=np.int32) for row in sources),
        targets=Sentences.of(np.array(row, dtype=np.int32) for row in targets),
    )


def test_the_decoder_is_fed_the_target_one_token_late() -> None:
    (source, decoder_input), targets = _pairs().batch(torch.tensor([0, 1]))
    assert source.tolist() == [[11, 12, EOS], [13, EOS, PAD]]
    assert decoder_input.tolist() == [[BOS, 21, PAD, PAD], [BOS, 22, 23, 24]]
    assert targets.tolist() == [[21, EOS, IGNORED, IGNORED], [22, 23, 24, EOS]]
    assert {part.dtype for part in (source, decoder_input, targets)} == {torch.int64}


def test_a_batch_is_no_longer_than_its_own_sentences() -> None:
    (source, decoder_input), targets = _pairs().batch(torch.tensor([0]))
    assert (source.shape, decoder_input.shape, targets.shape) == ((1, 3), (1, 2), (1, 2))


def test_pairs_come_back_from_the_arrays_that_are_cached() -> None:
    pairs = Pairs.of_arrays(_pairs().arrays())
    assert len(pairs) == 2
    rows = torch.tensor([1, 0])
    (source, _), targets = pairs.to(torch.device("cpu")).batch(rows)
    (expected_source, _), expected_targets = _pairs().batch(rows)
    assert torch.equal(source, expected_source)
    assert torch.equal(targets, expected_targets)


def test_training_leaves_out_pairs_with_a_long_or_an_empty_sentence(vocabulary: Vocabulary) -> None:
    sources, targets = ["abc", "abcd", "a", "", "b"], ["xyz", "x", "wxyz", "y", ""]
    pairs = encode_pairs(vocabulary, sources, targets, longest=4, is_training=True)
    (source, _), target = pairs.batch(torch.arange(len(pairs)))
    assert [vocabulary.decode(row) for row in source.tolist()] == ["abc"]
    assert [vocabulary.decode(row) for row in target.tolist()] == ["xyz"]
    assert source.shape == target.shape == (1, 4)


def test_other_parts_keep_every_pair_and_cut_long_sentences(vocabulary: Vocabulary) -> None:
    sources, targets = ["abc", "abcd", ""], ["xyz", "x", "vwxyz"]
    pairs = encode_pairs(vocabulary, sources, targets, longest=4, is_training=False)
    (source, _), target = pairs.batch(torch.arange(len(pairs)))
    assert [vocabulary.decode(row) for row in source.tolist()] == ["abc", "abc", ""]
    assert [vocabulary.decode(row) for row in target.tolist()] == ["xyz", "x", "vwx"]
    assert all(EOS in row for row in source.tolist() + target.tolist())
