"""A run in epochs of one model, as papers give it."""

from dataclasses import dataclass

IMAGENET_SAMPLES = 1_255_544
"""Of the 1,281,167 training images: a fiftieth is held out for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """How long one model trains, and when its learning rate changes.

    Raises:
        ValueError: If the drops do not rise strictly between 0 and the last epoch.
    """

    batch_size: int
    """Samples an update of the model, over all its ranks."""
    epochs: float
    """How often it goes through its data."""
    warmup: float = 0.0
    """First epochs, in which the learning rate rises."""
    drops: tuple[float, ...] = ()
    """After which epochs the learning rate drops."""

    def __post_init__(self) -> None:
        if list(self.drops) != sorted({drop for drop in self.drops if 0 < drop < self.epochs}):
            raise ValueError(
                f"drops must rise strictly between 0 and {self.epochs:g} epochs, got {self.drops}. "
                "Leave out those that come too late."
            )

    def updates(self, samples: int) -> int:
        """Return the updates of the whole run.

        Args:
            samples: Of the training data.
        """
        return int(self.epochs * samples / self.batch_size)


def equal_ranks(one_model: Epochs, *, peers: int) -> Epochs:
    """Return how each of several models trains that share the ranks of one (Sodhani et al., section 3.1).

    Each has an nth of the batch, and so makes the same updates in an nth of the epochs: all milestones are
    divided by n.

    Args:
        one_model: How one model trains on all ranks.
        peers: Models that share them; the batch must be a multiple.

    Raises:
        ValueError: If the batch cannot be divided.

    Example:
        >>> equal_ranks(Epochs(batch_size=512, epochs=90, warmup=5, drops=(30, 60, 80)), peers=2)
        Epochs(batch_size=256, epochs=45.0, warmup=2.5, drops=(15.0, 30.0, 40.0))
    """
    if peers < 1 or one_model.batch_size % peers:
        raise ValueError(
            f"peers must divide the batch of {one_model.batch_size}, got {peers}. Change one of the two."
        )
    return Epochs(
        batch_size=one_model.batch_size // peers,
        epochs=one_model.epochs / peers,
        warmup=one_model.warmup / peers,
        drops=tuple(drop / peers for drop in one_model.drops),
    )
