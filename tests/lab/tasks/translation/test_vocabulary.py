import sys

import numpy as np
import pytest

from codistill.errors import ExtraMissingError
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, FIRST_PIECE, PAD, Vocabulary

TEXTS = ["Ein Hund rennt im Park.", "Ein Hund schl\u00e4ft.", "A dog runs in the park.", "A dog sleeps."] * 3


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(Vocabulary.train(TEXTS, classes=300))


@pytest.mark.parametrize(
    "text",
    [
        "Ein Hund rennt.",
        "",
        " leading, and  two spaces ",
        "Gr\u00fc\u00dfe \u2603 \U0001f600 \u4f60\u597d",
        "a tab\tand a separator\u2028 inside",
        "<eos> <pad> <s>",
    ],
)
def test_any_text_comes_back_as_it_was(vocabulary: Vocabulary, text: str) -> None:
    (tokens,) = vocabulary.encode([text])
    assert vocabulary.decode(tokens.tolist()) == text
    assert tokens.dtype == np.int32
    assert not set(tokens.tolist()) & {PAD, BOS, EOS}
    assert all(FIRST_PIECE <= token < len(vocabulary) for token in tokens.tolist())


def test_frequent_words_become_one_piece(vocabulary: Vocabulary) -> None:
    words, strange = vocabulary.encode(["A dog", "qxzjw"])
    assert len(words) == 2
    assert len(strange) == 5


def test_tokens_that_are_no_text_are_left_out(vocabulary: Vocabulary) -> None:
    (tokens,) = vocabulary.encode(["A dog"])
    assert vocabulary.decode([BOS, *tokens.tolist(), EOS, PAD, -100]) == "A dog"


def test_the_vocabulary_is_no_larger_than_asked_for_and_the_same_each_time(vocabulary: Vocabulary) -> None:
    assert len(vocabulary) == 300
    first, second = (Vocabulary.train(TEXTS, classes=280) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(Vocabulary(first)) == 280


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"classes must be >= 259, got 258\."):
        Vocabulary.train(TEXTS, classes=258)
    assert len(Vocabulary(Vocabulary.train([], classes=259))) == 259


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExtraMissingError, match=r"tokenizers must be installed .* 'codistill\[lab\]'"):
        Vocabulary.train(TEXTS, classes=300)
