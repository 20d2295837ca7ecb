import gzip
import random
from pathlib import Path

import pytest

WORDS = ("the", "cat", "dog", "and", "saw", "ran", "home", "caf\u00e9", "again", "slowly")


def lines(count: int, *, seed: int) -> str:
    """Return lines of eight words, each from ten different ones."""
    chosen = random.Random(seed)
    return "".join(" ".join(chosen.choices(WORDS, k=8)) + "\n" for _ in range(count))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("codistill.lab.tasks.cache.cache_folder", lambda: folder)
    return folder


@pytest.fixture
def small_wikitext2(tmp_path: Path, cache: Path) -> Path:
    """A data root with a WikiText-2 of 60, 20 and 20 lines; validation has the word "zebra", too."""
    write(tmp_path / "wikitext2" / "train.txt.gz", lines(60, seed=0))
    write(tmp_path / "wikitext2" / "valid.txt.gz", "zebra \n \n" + lines(20, seed=1))
    write(tmp_path / "wikitext2" / "test.txt.gz", lines(20, seed=2))
    return tmp_path


@pytest.fixture
def small_shakespeare(tmp_path: Path, cache: Path) -> Path:
    """A data root with plays of 4,000 characters; "Z" is in their last twentieth only."""
    text = (lines(200, seed=0))[:3990] + "Z" * 10
    write(tmp_path / "tinyshakespeare" / "input.txt", text)
    return tmp_path


@pytest.fixture
def small_novels(tmp_path: Path, cache: Path) -> Path:
    """A data root with three books to train on, and one each to validate and to test."""
    books = [f"# Book {number}\n\n" + lines(30, seed=number) for number in range(3)]
    rows = ["split\tauthor\ttitle\tyear\tbyte_offset\tbyte_length\twords"]
    start = 0
    for number, book in enumerate(books):
        rows.append(f'train\tA. "Nobody\tBook {number}\t1800\t{start}\t{len(book.encode())}\t240')
        start += len(book.encode()) + 1
    folder = tmp_path / "novels"
    write(folder / "index.tsv", "\n".join([*rows, "valid\tA\tB\t1800\t0\t9\t9"]) + "\n")
    write(folder / "train.txt.gz", "\n".join(books))
    write(folder / "valid.txt.gz", lines(40, seed=4))
    write(folder / "test.txt.gz", lines(40, seed=5))
    return tmp_path


@pytest.fixture
def small_text_folder(tmp_path: Path, cache: Path) -> Path:
    """A data root with two files to train on, one of them compressed, and one each to score on."""
    folder = tmp_path / "text_folder"
    write(folder / "train" / "b.txt.gz", "# second\r\n" + lines(80, seed=1))
    write(folder / "train" / "a.txt", "# first\n" + lines(80, seed=0))
    write(folder / "valid" / "a.txt", lines(120, seed=2))
    write(folder / "test" / "a.txt", lines(100, seed=3))
    return tmp_path
