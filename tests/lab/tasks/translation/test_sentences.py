import numpy as np
import torch

from codistill.lab.tasks.translation.sentences import Sentences


def _sentences() -> Sentences:
    return Sentences.of(np.array(row, dtype=np.int32) for row in ([5, 6, 2], [2], [7, 8, 9, 9, 2], [4, 2]))


def test_sentences_lie_one_after_another() -> None:
    sentences = _sentences()
    assert len(sentences) == 4
    assert sentences.tokens.tolist() == [5, 6, 2, 2, 7, 8, 9, 9, 2, 4, 2]
    assert sentences.tokens.dtype == torch.int32
    assert sentences.starts.tolist() == [0, 3, 4, 9, 11]


def test_rows_are_filled_up_to_the_longest_of_them() -> None:
    sentences = _sentences()
    assert sentences.padded(torch.tensor([3, 0]), fill=0).tolist() == [[4, 2, 0], [5, 6, 2]]
    assert sentences.padded(torch.tensor([1]), fill=0).tolist() == [[2]]
    padded = sentences.padded(torch.tensor([1, 2, 1]), fill=-100)
    assert padded.tolist() == [[2] + [-100] * 4, [7, 8, 9, 9, 2], [2] + [-100] * 4]
    assert padded.dtype == torch.int64


def test_no_sentences_are_sentences_too() -> None:
    assert len(Sentences.of([])) == 0
