"""The checkpoint that a run is resumed from: one file a peer, replaced as a whole."""

from collections.abc import Mapping, Sequence
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


def save_rank(folder: Path, rank: int, students: Sequence[Mapping[str, Any]], *, step: int) -> None:
    """Write what one rank needs of its own, under a name that says of which step.

    Args:
        folder: That of the peer.
        rank: Of the process.
        students: What `Student.state_dict` returned, one a student.
        step: Updates made.
    """
    save(_rank_path(folder, rank, step), {"students": list(students)})


def load_rank(folder: Path, rank: int, *, step: int) -> list[Any]:
    """Return what `save_rank` wrote.

    Raises:
        OSError: If the file cannot be read.
    """
    students: list[Any] = load(_rank_path(folder, rank, step))["students"]
    return students


def drop_ranks(folder: Path, *, but_of_step: int) -> None:
    """Delete what ranks wrote of their own at other steps."""
    for path in folder.glob("checkpoint-*-rank-*.pt"):
        if not path.name.startswith(f"checkpoint-{but_of_step}-"):
            path.unlink()


def _rank_path(folder: Path, rank: int, step: int) -> Path:
    return folder / f"checkpoint-{step}-rank-{rank}.pt"


def gather_random_state(
    generator: torch.Generator, *, ranks: int, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Return the state of torch's CPU generator and of ``generator``, on every rank.

    **Ranks**: all.

    Args:
        generator: The second one.
        ranks: Of the peer; 1 needs no process group.
        group: The ranks; None for the whole world.

    Returns:
        uint8 [ranks, 2, bytes].
    """
    own = torch.stack([torch.get_rng_state(), generator.get_state()])
    if ranks == 1:
        return own[None]
    gathered = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(gathered, own, group=group)
    return torch.stack(gathered)


def set_random_state(generator: torch.Generator, state: Tensor) -> None:
    """Put both generators where they were.

    Args:
        generator: The second one.
        state: This rank's row of `gather_random_state`.
    """
    torch.set_rng_state(state[0].clone())
    generator.set_state(state[1].clone())
