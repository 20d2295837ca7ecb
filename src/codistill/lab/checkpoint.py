"""The checkpoint that a run is resumed from: one file a peer, replaced as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CHECKPOINT = "checkpoint.pt"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that the file is the old one or the new one, never a part.

    Args:
        path: The file.
        state: Tensors, numbers, strings, lists and dicts.
    """
    partial = path.with_name(f".{path.name}.partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Return what `save` wrote; tensors on the CPU.

    Raises:
        OSError: If the file cannot be read.
    """
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def gather_random_state(generator: torch.Generator, *, ranks: int) -> Tensor:
    """Return the state of torch's CPU generator and of ``generator``, on every rank.

    **Ranks**: all.

    Args:
        generator: The second one.
        ranks: World size; 1 needs no process group.

    Returns:
        uint8 [ranks, 2, bytes].
    """
    own = torch.stack([torch.get_rng_state(), generator.get_state()])
    if ranks == 1:
        return own[None]
    gathered = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(gathered, own)
    return torch.stack(gathered)


def set_random_state(generator: torch.Generator, state: Tensor) -> None:
    """Put both generators where they were.

    Args:
        generator: The second one.
        state: This rank's row of `gather_random_state`.
    """
    torch.set_rng_state(state[0].clone())
    generator.set_state(state[1].clone())
