"""Which whole numbers a model may be called with: an index that does not exist can end a process on a GPU."""

from http import HTTPStatus
from typing import Any

from torch import Tensor, nn

from codistill.exchange.served.question import Question, is_whole
from codistill.server.refusal import Refusal


def count_embeddings(module: nn.Module) -> int | None:
    """Return the length of a model's largest embedding, None if it has no ``nn.Embedding(Bag)``.

    Example:
        >>> count_embeddings(nn.Sequential(nn.Embedding(50, 2), nn.Linear(2, 3)))
        50
    """
    lengths = [
        part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)
    ]
    return max(lengths, default=None)


def guard_embeddings(module: nn.Module) -> None:
    """Make every embedding refuse indices and bags that there are not, before its device sees them.

    A model may have embeddings of several lengths, and what reaches which is known to itself alone.
    """
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.register_forward_pre_hook(_check_indices, with_kwargs=True)


def check_integers(question: Question, *, below: int | None, peer: str) -> None:
    """Refuse whole numbers out of range, before the model sees them.

    Args:
        question: What is asked.
        below: They must be at least 0 and below this; None if the range is not known.
        peer: Whose model it is, for the reason.

    Raises:
        Refusal: If one is out of range, or there are some and the range is not known.
    """
    for name, tensor in question.tensors.items():
        if not is_whole(tensor) or tensor.numel() == 0:
            continue
        if below is None:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"input {name!r} must hold no whole numbers, got {tensor.dtype}: the model of peer {peer!r} "
                "has no embedding that tells their range. Serve with --integers-below N to allow them.",
            )
        least, most = (int(bound) for bound in tensor.aminmax())
        if least < 0 or most >= below:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"input {name!r} must hold whole numbers from 0 to {below - 1} for peer {peer!r}, got "
                f"{least} to {most}. If others are right, serve with --integers-below N.",
            )


def _check_indices(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    indices = args[0] if args else kwargs.get("input")
    if not isinstance(indices, Tensor) or indices.numel() == 0:
        return
    assert isinstance(part, nn.Embedding | nn.EmbeddingBag)
    least, most = (int(bound) for bound in indices.aminmax())
    if least < 0 or most >= part.num_embeddings:
        raise IndexError(f"indices must be from 0 to {part.num_embeddings - 1}, got {least} to {most}")
    offsets = args[1] if len(args) > 1 else kwargs.get("offsets")
    # Bags that end before they begin make torch read, or answer with, memory that is not theirs (torch 2.13).
    if isinstance(part, nn.EmbeddingBag) and isinstance(offsets, Tensor) and offsets.numel() > 0:
        ends = offsets.cpu().long()
        if int(ends[0]) != 0 or bool((ends.diff() < 0).any()) or int(ends[-1]) > indices.numel():
            raise IndexError(f"offsets must rise from 0 to at most {indices.numel()}, the number of indices")
