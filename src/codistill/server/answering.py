"""How a server calls the models it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from codistill.arguments import check_int, check_type


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How questions become predictions.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    outputs_to_logits: Callable[[Any], Tensor] | None = None
    """Turns what a model returns into logits; None if it returns them."""
    integers_below: int | None = None
    """Whole numbers in a question must be at least 0 and below this. None is the length of the longest
    ``nn.Embedding`` or ``nn.EmbeddingBag`` of the model; one that has none takes no whole numbers. Each
    embedding checks its own length besides."""
    is_merging: bool = True
    """Whether questions that wait at the same time are answered by one forward."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.outputs_to_logits is not None and not callable(self.outputs_to_logits):
            raise TypeError(
                f"outputs_to_logits must be a function, got {type(self.outputs_to_logits).__name__}."
            )
        if self.integers_below is not None:
            check_int("integers_below", self.integers_below, minimum=1, hint="256 allows bytes.")
        check_type("is_merging", self.is_merging, bool)
