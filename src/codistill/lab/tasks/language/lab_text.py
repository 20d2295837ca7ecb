"""What the small language tasks share: parts, models and where they are kept."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import nn
from typing_extensions import override

from codistill.errors import RecipeError
from codistill.lab.tasks.base import Task, choose_model
from codistill.lab.tasks.cache import Array
from codistill.lab.tasks.language.lstm import LSTMLanguageModel
from codistill.lab.tasks.language.transformer import TransformerLanguageModel
from codistill.lab.tasks.language.vocabulary import Vocabulary
from codistill.lab.tasks.language.windows import spread, windows
from codistill.lab.tasks.samples import Samples

VALIDATION_POSITIONS = 20_000
"""Most positions that validation is scored on."""
TEST_POSITIONS = 60_000
"""Most positions that the test is scored on."""

WIDTHS = {"lstm": 128, "transformer": 64}
"""Units of each model, if not asked for others; the LSTM has one layer, the transformer two."""
HEAD_WIDTH = 32
"""Units of each attention head."""


class LabText(Task):
    """Predicting the next token of a text that fits in memory, in windows of a fixed length.

    Validation and test are scored on windows in even steps through their part, so many that they have at most
    20,000 and 60,000 positions; the same for every recipe.

    Attributes:
        vocabulary: What the tokens are.
    """

    models = ("lstm", "transformer")
    metric = "nll"

    positions: ClassVar[int]
    """Predictions a window."""
    kind: ClassVar[type[Vocabulary]]
    """What the vocabulary is made of."""

    vocabulary: Vocabulary

    @classmethod
    @abstractmethod
    def arrays(cls, data_root: Path) -> dict[str, Array]:
        """Return the tokens of "train", "valid" and "test" and the "vocabulary", made once and then cached.

        Raises:
            DataMissingError: If the data are not under ``data_root``.
        """

    @classmethod
    @override
    def prepare(cls, data_root: Path) -> None:
        cls.arrays(Path(data_root))

    @override
    def __init__(self, data_root: Path) -> None:
        arrays = self.arrays(Path(data_root))
        self.vocabulary = self.kind.from_array(arrays["vocabulary"])
        self.classes = len(self.vocabulary)
        self.train = windows(arrays["train"], positions=self.positions)
        self.validation = self._scored(arrays["valid"], positions=VALIDATION_POSITIONS)
        self._test = arrays["test"]

    @override
    def test(self) -> Samples:
        return self._scored(self._test, positions=TEST_POSITIONS)

    @override
    def model(self, name: str | None = None, *, width: int | None = None) -> nn.Module:
        name = choose_model(self, name)
        width = WIDTHS[name] if width is None else width
        if name == "lstm":
            return LSTMLanguageModel(self.classes, width=width, layers=1)
        return TransformerLanguageModel(
            self.classes,
            width=width,
            layers=2,
            heads=count_heads(width, head_width=HEAD_WIDTH),
            positions=self.positions,
        )

    def _scored(self, tokens: Array, *, positions: int) -> Samples:
        return spread(windows(tokens, positions=self.positions), count=positions // self.positions)


def count_heads(width: int, *, head_width: int) -> int:
    """Return how many attention heads a transformer of that width has.

    Raises:
        RecipeError: If they do not fill it.
    """
    if width % head_width:
        raise RecipeError(
            f"width must be a multiple of {head_width} for a transformer, got {width}. Choose another width."
        )
    return width // head_width


def tokens_of(vocabulary: Vocabulary, **texts: str) -> dict[str, Array]:
    """Return texts as numbers, and the vocabulary, for `cached_arrays`."""
    arrays: dict[str, Array] = {part: vocabulary.encode(text) for part, text in texts.items()}
    return {**arrays, "vocabulary": vocabulary.to_array()}
