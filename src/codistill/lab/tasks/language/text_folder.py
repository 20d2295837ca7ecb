"""Any text, at the scale of Anil et al. (2018): ``<data root>/text_folder/{train,valid,test}/*.txt``.

Files are UTF-8, ``*.txt`` or ``*.txt.gz``, read in order of their names and joined as they are. As in the
paper there are 24,006 pieces of words; they are learned from the first 128 Mi characters of the training
files. The paper's text is Common Crawl, 20 TB, which is not redistributed: extract text from its WET files.

Every part is cut once into a file of two bytes a token in the cache folder, and read from there as windows
are asked for: neither text nor tokens have to fit in memory. The file is made anew when a text file changes
in name, size, first or last megabyte. Windows are longer than the paper's 32 positions since the state is
not carried from one to the next.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import final

from torch import nn
from typing_extensions import override

from codistill.errors import DataMissingError
from codistill.extras import check_installed
from codistill.lab.tasks import cache
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.cache import Array, cached_arrays, digest_of
from codistill.lab.tasks.language.lab_text import count_heads
from codistill.lab.tasks.language.lstm import LSTMLanguageModel
from codistill.lab.tasks.language.text_file import read_lines
from codistill.lab.tasks.language.token_file import TokenFile, write_tokens
from codistill.lab.tasks.language.transformer import TransformerLanguageModel
from codistill.lab.tasks.language.vocabulary import BytePairVocabulary
from codistill.lab.tasks.language.windows import spread
from codistill.lab.tasks.samples import Samples

PIECES = 24_006
"""Size of the vocabulary."""
SAMPLE_CHARACTERS = 1 << 27
"""How much of the training text the vocabulary is learned from."""
POSITIONS = 128
"""Predictions a window."""
VALIDATION_WINDOWS = 1024
TEST_WINDOWS = 4096
HEAD_WIDTH = 64
"""Units of each attention head."""


@final
class TextFolder(Task):
    """The user's own text, in windows of 128 pieces of words.

    Its models are an LSTM of two layers of 1,024 units (41,399,750 parameters), the size of Anil et al., and
    a transformer of 15 layers of 768 units (124,854,528 parameters), which is GPT-2's smallest with three
    layers more for the smaller vocabulary. Validation and test are scored on up to 1,024 and 4,096 windows
    in even steps through their part.

    Attributes:
        vocabulary: What the tokens are.
    """

    models = ("lstm_2x1024", "transformer_124m")
    metric = "nll"
    classes = PIECES

    vocabulary: BytePairVocabulary

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        check_installed("tokenizers", "lab")
        folder = Path(data_root) / "text_folder"
        vocabulary = _vocabulary(folder)
        for part in ("train", "valid", "test"):
            _windows(folder, part, vocabulary)

    @override
    def __init__(self, data_root: Path) -> None:
        self._folder = Path(data_root) / "text_folder"
        self.vocabulary = _vocabulary(self._folder)
        self.train = _windows(self._folder, "train", self.vocabulary)
        self.validation = spread(_windows(self._folder, "valid", self.vocabulary), count=VALIDATION_WINDOWS)

    @override
    def test(self) -> Samples:
        return spread(_windows(self._folder, "test", self.vocabulary), count=TEST_WINDOWS)

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        if choose_model(self, name) == "lstm_2x1024":
            return LSTMLanguageModel(PIECES, width=1024 if width is None else width, layers=2)
        width = 768 if width is None else width
        heads = count_heads(width, head_width=HEAD_WIDTH)
        return TransformerLanguageModel(PIECES, width=width, layers=15, heads=heads, positions=POSITIONS)


def _vocabulary(folder: Path) -> BytePairVocabulary:
    files = _files(folder, "train")

    def make() -> dict[str, Array]:
        lines = _first(_lines(files), characters=SAMPLE_CHARACTERS)
        return {"vocabulary": BytePairVocabulary.of(lines, size=PIECES).to_array()}

    arrays = cached_arrays(f"text_folder-vocabulary-{PIECES}-{SAMPLE_CHARACTERS}-{digest_of(*files)}", make)
    return BytePairVocabulary.from_array(arrays["vocabulary"])


def _windows(folder: Path, part: str, vocabulary: BytePairVocabulary) -> TokenFile:
    files = _files(folder, part)
    # The numbers mean something under this vocabulary only.
    pieces = hashlib.sha256(vocabulary.to_json().encode()).hexdigest()[:16]
    path = cache.cache_folder() / f"text_folder-{part}-{pieces}-{digest_of(*files)}.tokens"
    write_tokens(path, vocabulary.encode_lines(_lines(files)))
    return TokenFile(path, positions=POSITIONS)


def _files(folder: Path, part: str) -> list[Path]:
    files = sorted([*(folder / part).glob("*.txt"), *(folder / part).glob("*.txt.gz")])
    if not files:
        raise DataMissingError(
            f"The data set 'text_folder' is not there: looked for *.txt and *.txt.gz in {folder / part}, "
            "which are files of your own, such as text extracted from https://commoncrawl.org; pass "
            "--data-root, or set CODISTILL_DATA, to the folder that holds the data sets' folders."
        )
    return files


def _lines(files: Iterable[Path]) -> Iterator[str]:
    return itertools.chain.from_iterable(map(read_lines, files))


def _first(lines: Iterable[str], *, characters: int) -> Iterator[str]:
    """Return lines up to and with the one that makes so many characters full."""
    seen = 0
    for line in lines:
        yield line
        seen += len(line)
        if seen >= characters:
            return
