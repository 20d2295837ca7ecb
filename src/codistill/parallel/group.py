"""The ranks of a peer."""

import torch.distributed as dist


def check_single_rank() -> None:
    """Refuse a world of more than one rank.

    Each rank of such a world would publish under the same name and read teachers of its own.

    Raises:
        RuntimeError: If the default process group has more than one rank.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(
            f"A peer must be a single process in this version, got a world of {dist.get_world_size()} ranks. "
            "Start each peer as a job of its own, with one rank."
        )
