"""A long text cut into the samples of a language model."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codistill.lab.tasks.samples import Samples, Split


def windows(tokens: npt.NDArray[np.integer[Any]], *, positions: int) -> Split:
    """Cut a text into windows one after another; at each position the target is the token that follows.

    Each window has ``positions + 1`` tokens; its last one is the first of the next window, where it is read
    and no longer predicted. So every token but the first is predicted exactly once, save those at the end
    that do not fill a window. Inputs and targets share their memory.

    Args:
        tokens: The text, [tokens].
        positions: Predictions a window, >= 1.

    Returns:
        Inputs and targets, int64 [windows, positions].

    Raises:
        ValueError: If the text does not fill one window.

    Example:
        >>> split = windows(np.arange(8), positions=3)
        >>> split.inputs.tolist(), split.targets.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    count = count_windows(len(tokens), positions=positions)
    used = count * positions
    stream = torch.from_numpy(tokens[: used + 1].astype(np.int64))
    return Split(inputs=stream[:-1].view(count, positions), targets=stream[1:].view(count, positions))


def count_windows(tokens: int, *, positions: int) -> int:
    """Return how many windows a text of so many tokens fills.

    Raises:
        ValueError: If it does not fill one.
    """
    count = (tokens - 1) // positions
    if count < 1:
        raise ValueError(
            f"tokens must be more than the {positions} positions of a window, got {tokens}. Use more text."
        )
    return count


def spread(whole: Samples, *, count: int) -> Samples:
    """Return so many samples in even steps from the first on; all where there are no more than that."""
    if len(whole) <= count:
        return whole
    inputs, targets = whole.batch(torch.arange(count) * len(whole) // count)
    return Split(inputs=inputs, targets=targets)
