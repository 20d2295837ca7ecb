import csv
import sys
from pathlib import Path

import pytest

from codistill.errors import DataMissingError, ExtraMissingError
from codistill.lab.tasks.language import novels
from codistill.lab.tasks.language.novels import Novels, chosen_books
from codistill.lab.tasks.language.text_file import read_text
from codistill.lab.tasks.language.vocabulary import BytePairVocabulary


def test_every_second_book_is_trained_on(small_novels: Path) -> None:
    task = Novels(small_novels)
    arrays = Novels.arrays(small_novels)
    text = task.vocabulary.decode(arrays["train"])
    assert text.startswith("# Book 0\n\n")
    assert "\n\n# Book 2\n\n" in text
    assert "# Book 1" not in text
    valid = read_text(small_novels / "novels" / "valid.txt.gz")
    assert task.vocabulary.decode(arrays["valid"]) == valid
    assert task.classes == len(task.vocabulary) <= novels.PIECES


def test_pieces_are_learned_from_the_beginning_of_the_training_books(
    small_novels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned_from = []
    learn = BytePairVocabulary.of

    def of(text, *, size):
        learned_from.extend(text)
        return learn(learned_from, size=size)

    monkeypatch.setattr(BytePairVocabulary, "of", of)
    monkeypatch.setattr(novels, "SAMPLE_BYTES", 50)
    Novels.prepare(small_novels)
    folder = small_novels / "novels"
    first, second = chosen_books(folder / "index.tsv", folder / "train.txt.gz")
    expected = [book[:50].decode(errors="ignore") for book in (first, second)]
    assert "".join(learned_from) == "".join(expected)


def test_prepared_text_is_not_read_again(small_novels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Novels.prepare(small_novels)
    monkeypatch.setattr(novels, "read_text", lambda path: pytest.fail("read again"))
    assert len(Novels(small_novels).test()) >= 1


@pytest.mark.parametrize("name", ["index.tsv", "train.txt.gz", "valid.txt.gz", "test.txt.gz"])
def test_a_missing_file_is_named(small_novels: Path, name: str) -> None:
    path = small_novels / "novels" / name
    path.unlink()
    with pytest.raises(DataMissingError, match=f"looked for {path}, which comes from https://"):
        Novels.prepare(small_novels)


def test_tokenizers_is_asked_for_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExtraMissingError, match=r"tokenizers must be installed .* 'codistill\[lab\]'"):
        Novels.prepare(tmp_path)


@pytest.mark.data
def test_the_real_books_are_cut_where_they_begin(data_root: Path) -> None:
    folder = data_root / "novels"
    books = chosen_books(folder / "index.tsv", folder / "train.txt.gz")
    assert len(books) == 21
    assert sum(map(len, books)) == 18_735_926
    # Whole characters, words and paragraphs: no book begins or ends within one.
    assert all(book.decode().strip() for book in books)
    with (folder / "index.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    train = [row for row in rows if row["split"] == "train"]
    assert [len(book.decode().split()) for book in books] == [int(row["words"]) for row in train[::2]]
    authors = {row["author"] for row in train[::2]}
    assert {row["author"] for row in rows if row["split"] != "train"} <= authors


@pytest.mark.data
def test_pieces_of_real_books_give_them_back(data_root: Path) -> None:
    valid = read_text(data_root / "novels" / "valid.txt.gz")[:200_000]
    vocabulary = BytePairVocabulary.of(valid[:100_000].splitlines(keepends=True), size=1000)
    tokens = vocabulary.encode(valid)
    assert vocabulary.decode(tokens) == valid
    assert len(vocabulary) == 1000
    assert len(tokens) < len(valid) / 2.5
