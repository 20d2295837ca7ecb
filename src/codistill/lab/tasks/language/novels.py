"""English novels, 1722 to 1914, from ``<data root>/novels/{train,valid,test}.txt.gz``, in pieces of words.

Of the 42 books of the training part every second one in order of ``index.tsv`` is used, the first among them:
21 books by 21 authors, 19 MB, so that they are read and cut in seconds. All authors of the validation and
test books are among them. The 4,096 pieces are learned from the first 100,000 bytes of each of these books.
"""

import csv
import gzip
from pathlib import Path
from typing import final

from typing_extensions import override

from codistill.extras import check_installed
from codistill.lab.tasks.cache import Array, cached_arrays, digest_of
from codistill.lab.tasks.language.lab_text import LabText, tokens_of
from codistill.lab.tasks.language.text_file import check_files, read_text
from codistill.lab.tasks.language.vocabulary import BytePairVocabulary

SOURCE = "https://github.com/mlschmitt/classic-books-markdown (books joined into parts, with an index.tsv)"
PIECES = 4096
"""Size of the vocabulary."""
SAMPLE_BYTES = 100_000
"""How much of each book the vocabulary is learned from."""


@final
class Novels(LabText):
    """Novels, in windows of 64 pieces of words."""

    positions = 64
    kind = BytePairVocabulary

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        # Also where the text has been cut before: the cache may be gone when a job needs it.
        check_installed("tokenizers", "lab")
        super().prepare(data_root)

    @classmethod
    @override
    def arrays(cls, data_root: Path) -> dict[str, Array]:
        folder = data_root / "novels"
        paths = [folder / name for name in ("index.tsv", "train.txt.gz", "valid.txt.gz", "test.txt.gz")]
        check_files(*paths, source=SOURCE)
        index, train, valid, test = paths

        def make() -> dict[str, Array]:
            books = chosen_books(index, train)
            lines = (line for book in books for line in _text(book[:SAMPLE_BYTES]).splitlines(keepends=True))
            vocabulary = BytePairVocabulary.of(lines, size=PIECES)
            text = "\n".join(map(_text, books))
            return tokens_of(vocabulary, train=text, valid=read_text(valid), test=read_text(test))

        return cached_arrays(f"novels-{PIECES}-{SAMPLE_BYTES}-{digest_of(*paths)}", make)


def chosen_books(index: Path, train: Path) -> list[bytes]:
    """Return every second book of the training part, the first among them.

    Args:
        index: Tab-separated, with ``split``, ``byte_offset`` and ``byte_length`` in the uncompressed part.
        train: The training part, compressed.
    """
    with gzip.open(train, "rb") as file:
        whole = file.read()
    with index.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    chosen = [row for row in rows if row["split"] == "train"][::2]
    starts = [int(row["byte_offset"]) for row in chosen]
    return [whole[start : start + int(row["byte_length"])] for start, row in zip(starts, chosen, strict=True)]


def _text(part: bytes) -> str:
    # The sample of a book may end within a character.
    return part.decode("utf-8", errors="ignore")
