import random
import sys

import numpy as np
import pytest

from codistill.errors import ExtraMissingError
from codistill.lab.tasks.language.vocabulary import (
    BytePairVocabulary,
    CharacterVocabulary,
    Vocabulary,
    WordVocabulary,
)

TEXT = "the cat saw the dog\n\nthe dog ran , and the cat <unk> again\n"
HARD_TEXT = (
    "  Two  spaces,\ttabs\r\nand \u201cquotes\u201d \u2014 "
    "na\u00efve \U0001f600\x85\u2028caf\u00e9 \n\n\n x1234\n"
)


def pieces(size: int = 300) -> BytePairVocabulary:
    return BytePairVocabulary.of((TEXT * 3).splitlines(keepends=True), size=size)


def test_the_most_frequent_words_are_kept_and_the_alphabet_decides_between_equals() -> None:
    vocabulary = WordVocabulary.of(TEXT, size=6)
    assert len(vocabulary) == 6
    assert vocabulary.decode(np.arange(6)) == "<unk> the <eos> cat dog ,"
    assert len(WordVocabulary.of(TEXT, size=100)) == 10


def test_a_line_ends_with_a_word_of_its_own_even_if_it_is_blank() -> None:
    vocabulary = WordVocabulary.of(TEXT, size=100)
    assert vocabulary.decode(vocabulary.encode(TEXT)) == (
        "the cat saw the dog <eos> <eos> the dog ran , and the cat <unk> again <eos>"
    )


def test_words_that_were_not_in_training_are_unknown() -> None:
    vocabulary = WordVocabulary.of(TEXT, size=100)
    tokens = vocabulary.encode("the zebra")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [1, 0]


def test_characters_are_numbered_in_order_and_unseen_ones_are_unknown() -> None:
    vocabulary = CharacterVocabulary.of("banana\n")
    tokens = vocabulary.encode("nab\nz\u20ac\x00")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [4, 2, 3, 1, 0, 0, 0]
    assert len(vocabulary) == 5
    assert vocabulary.decode(tokens) == "nab\n\ufffd\ufffd\ufffd"
    everything = CharacterVocabulary.of(HARD_TEXT)
    assert everything.decode(everything.encode(HARD_TEXT)) == HARD_TEXT


@pytest.mark.parametrize("text", [TEXT, HARD_TEXT, "", "\n", " ", "no end"])
def test_pieces_give_back_any_text(text: str) -> None:
    vocabulary = pieces()
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int32
    assert vocabulary.decode(tokens) == text


def test_random_characters_come_back_from_pieces() -> None:
    chosen = random.Random(0)
    points = [point for point in range(0x3000) if not 0xD800 <= point < 0xE000]
    text = "".join(map(chr, chosen.choices(points, k=5000)))
    assert pieces().decode(pieces().encode(text)) == text


def test_frequent_words_become_one_piece() -> None:
    vocabulary = pieces()
    assert len(vocabulary) <= 300
    assert len(vocabulary.encode(" the")) == 1
    assert len(BytePairVocabulary.of(["ab\n"], size=1000)) < 270


def test_pieces_are_the_same_whenever_they_are_learned() -> None:
    chosen = random.Random(1)
    text = ["".join(chosen.choices("abcde ", k=60)) + "\n" for _ in range(500)]
    one, other = (BytePairVocabulary.of(iter(text), size=400) for _ in range(2))
    assert one.to_json() == other.to_json()


def test_many_lines_are_encoded_as_one_by_one() -> None:
    lines = [f"the cat {number} saw\n" for number in range(2500)]
    vocabulary = pieces()
    parts = list(vocabulary.encode_lines(iter(lines)))
    assert len(parts) == 3
    whole = np.concatenate(parts)
    assert np.array_equal(whole, vocabulary.encode("".join(lines)))
    assert np.array_equal(whole, np.concatenate([vocabulary.encode(line) for line in lines]))


@pytest.mark.parametrize(
    "vocabulary", [WordVocabulary.of(TEXT, size=7), CharacterVocabulary.of(HARD_TEXT), pieces()]
)
def test_a_vocabulary_survives_the_cache(vocabulary: Vocabulary) -> None:
    array = vocabulary.to_array()
    assert array.dtype == np.uint8
    read = type(vocabulary).from_array(array)
    assert len(read) == len(vocabulary)
    assert read.encode(TEXT).tolist() == vocabulary.encode(TEXT).tolist()
    assert read.to_json() == vocabulary.to_json()


def test_pieces_need_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExtraMissingError, match=r"tokenizers must be installed .* 'codistill\[lab\]'"):
        BytePairVocabulary.of(["text\n"], size=300)
