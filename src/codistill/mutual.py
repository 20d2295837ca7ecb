"""Mutual learning: all peers in one process, on one batch."""

from collections.abc import Sequence

from torch import Tensor

from codistill.losses.divergences import Divergence, DivergenceFunction, as_divergence
from codistill.losses.targets import Combine, DenseTarget, distillation_term


def mutual_losses(
    list_of_logits: Sequence[Tensor],
    *,
    distillation_loss: str | DivergenceFunction | Divergence = "kl",
    combine: Combine = "losses",
    mask: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> list[Tensor]:
    """Return for each peer the loss of disagreeing with all the others.

    Deep Mutual Learning (Zhang et al. 2018). Every peer is student and teacher with one forward, in
    whatever mode it runs: n forwards for n models, nobody in eval mode. Gradients of the i-th loss reach
    the i-th peer only, so the losses may be summed into one backward or taken apart. Not multiplied by a
    weight.

    Args:
        list_of_logits: One tensor a peer, of the same shape, [batch, ..., classes]; at least two.
        distillation_loss: A name, a function of student and teacher logits, or a ``Divergence``.
        combine: How a peer's n - 1 teachers are combined, as in ``distillation_term``.
        mask: Boolean, True where a position counts, [batch, ...].
        denominator: What to divide each sum by, > 0; by default the positions that count.

    Returns:
        One 0-d tensor a peer, in the same order.

    Raises:
        TypeError: If ``list_of_logits`` is one tensor, or an argument has the wrong type.
        ValueError: If there are fewer than two peers, or shapes or settings do not fit.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]])
        >>> mutual_losses([a, b], distillation_loss="logit_mse")
        [tensor(2.), tensor(2.)]
    """
    given: object = list_of_logits
    if isinstance(given, Tensor):
        raise TypeError(
            f"list_of_logits must be a list with one tensor a peer, got one of shape {list(given.shape)}. "
            "Use list(stacked) if its first dimension is the peers."
        )
    if len(list_of_logits) < 2:
        raise ValueError(
            f"list_of_logits must hold at least two peers' logits, got {len(list_of_logits)}. "
            "One model alone has nobody to learn from."
        )
    shapes = [list(logits.shape) for logits in list_of_logits]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"list_of_logits must hold tensors of one shape, got {shapes}. Give all models the same batch."
        )
    divergence = as_divergence(distillation_loss)
    targets = [DenseTarget(logits) for logits in list_of_logits]
    return [
        distillation_term(
            divergence,
            student_logits,
            targets[:index] + targets[index + 1 :],
            combine=combine,
            mask=mask,
            denominator=denominator,
        )
        for index, student_logits in enumerate(list_of_logits)
    ]
