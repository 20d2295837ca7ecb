import itertools
import math

import pytest
import torch
from torch import Tensor

from codistill.lab.tasks.translation.beam_search import beam_search
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, PAD

CLASSES = 6
WORDS = (3, 4, 5)


class Table:
    """A model that looks scores up by source and beginning: nothing about them is regular."""

    def __init__(self, *, seed: int, longest: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._scores = 2 * torch.randn(8, CLASSES**longest, CLASSES, generator=generator)
        self.encoded = 0
        self.rows: list[int] = []

    def encode(self, source: Tensor) -> Tensor:
        self.encoded += 1
        return source[:, 0]

    def next_scores(self, memory: Tensor, source: Tensor, prefix: Tensor) -> Tensor:
        assert torch.equal(memory, source[:, 0])
        assert bool((prefix[:, 0] == BOS).all())
        self.rows.append(len(prefix))
        powers = CLASSES ** torch.arange(prefix.shape[1])
        return self._scores[memory, (prefix * powers).sum(dim=1)]

    def log_likelihood(self, source: int, sentence: tuple[int, ...]) -> float:
        total = 0.0
        for i in range(len(sentence)):
            prefix = torch.tensor([[BOS, *sentence[:i]]])
            scores = self.next_scores(torch.tensor([source]), torch.tensor([[source]]), prefix)
            total += float(scores[0].log_softmax(dim=0)[sentence[i]])
        return total


def _best(table: Table, source: int, *, longest: int, alpha: float) -> list[int]:
    sentences = [
        (*words, EOS) for length in range(longest) for words in itertools.product(WORDS, repeat=length)
    ]
    scores = {
        sentence: table.log_likelihood(source, sentence) / ((5 + len(sentence)) / 6) ** alpha
        for sentence in sentences
    }
    return list(max(scores, key=scores.__getitem__)[:-1])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_that_holds_everything_finds_the_best_of_all_sentences(seed: int, alpha: float) -> None:
    table = Table(seed=seed, longest=4)
    source = torch.arange(8)[:, None]
    found = beam_search(table, source, longest=4, beam=64, alpha=alpha)
    assert found == [_best(table, row, longest=4, alpha=alpha) for row in range(8)]
    assert len(set(map(len, found))) > 1


def test_a_beam_of_one_is_greedy() -> None:
    table = Table(seed=2, longest=5)
    expected = []
    for row in range(8):
        words: list[int] = []
        while len(words) < 4:
            prefix = torch.tensor([[BOS, *words]])
            scores = table.next_scores(torch.tensor([row]), torch.tensor([[row]]), prefix)[0]
            token = EOS + int(scores[EOS:].argmax())
            if token == EOS:
                break
            words.append(token)
        expected.append(words)
    assert beam_search(table, torch.arange(8)[:, None], longest=5, beam=1) == expected
    assert {0, 4} < set(map(len, expected))


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_sentences_do_not_depend_on_those_beside_them(beam: int) -> None:
    table = Table(seed=3, longest=5)
    together = beam_search(table, torch.arange(8)[:, None], longest=5, beam=beam)
    alone = [beam_search(table, torch.tensor([[row]]), longest=5, beam=beam)[0] for row in range(8)]
    assert together == alone


def test_the_source_is_encoded_once_and_finished_sentences_cost_nothing() -> None:
    table = Table(seed=4, longest=5)
    beam_search(table, torch.arange(8)[:, None], longest=5, beam=2)
    assert table.encoded == 1
    assert table.rows[0] == 16
    assert table.rows == sorted(table.rows, reverse=True)
    assert table.rows[-1] < 16


class Constant:
    """A model that always gives the same scores."""

    def __init__(self, scores: list[float]) -> None:
        self._scores = torch.tensor(scores)

    def encode(self, source: Tensor) -> Tensor:
        return source

    def next_scores(self, memory: Tensor, source: Tensor, prefix: Tensor) -> Tensor:
        return self._scores.expand(len(prefix), -1)


def test_padding_and_beginnings_are_never_chosen() -> None:
    scores = [0.0] * 4
    scores[PAD] = scores[BOS] = 9.0
    scores[3] = 1.0
    assert beam_search(Constant(scores), torch.zeros(1, 1), longest=4, beam=1) == [[3, 3, 3]]
    assert beam_search(Constant(scores), torch.zeros(2, 1), longest=1) == [[], []]


def test_length_pays_the_more_the_larger_alpha_is() -> None:
    # One word more costs log 2; the end is worth the same after each.
    model = Constant([-math.inf, -math.inf, 0.0, 0.0])
    assert beam_search(model, torch.zeros(1, 1), longest=6, alpha=0.0) == [[]]
    assert beam_search(model, torch.zeros(1, 1), longest=6, beam=8, alpha=9.0) == [[3] * 5]


def test_translations_that_ended_do_not_stop_the_search_for_a_likelier_one() -> None:
    class Sure:
        """Nearly certain of four words; whatever begins otherwise ends at once."""

        def encode(self, source: Tensor) -> Tensor:
            return source

        def next_scores(self, memory: Tensor, source: Tensor, prefix: Tensor) -> Tensor:
            scores = torch.zeros(len(prefix), CLASSES)
            is_right = (prefix[:, 1:] == 3).all(dim=1) & torch.tensor(prefix.shape[1] <= 4)
            scores[range(len(prefix)), torch.where(is_right, 3, EOS)] = 20.0
            return scores

    assert beam_search(Sure(), torch.zeros(1, 1), longest=8, beam=2) == [[3, 3, 3, 3]]


def test_a_model_whose_scores_are_no_numbers_translates_to_nothing() -> None:
    assert beam_search(Constant([math.nan] * 5), torch.zeros(2, 1), longest=4) == [[], []]


def test_arguments_out_of_range_are_refused() -> None:
    model, source = Constant([0.0] * 4), torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"longest must be >= 1, got 0\."):
        beam_search(model, source, longest=0)
    with pytest.raises(ValueError, match=r"beam must be >= 1, got 0\."):
        beam_search(model, source, longest=3, beam=0)
    with pytest.raises(ValueError, match=r"alpha must be >= 0, got -1\.0\."):
        beam_search(model, source, longest=3, alpha=-1.0)
