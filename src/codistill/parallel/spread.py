"""Over how many ranks torch has spread a model or a tensor."""

from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def model_spread(model: nn.Module) -> int:
    """Return how many ranks a model is spread over, 1 if it is not.

    Seen are ``DistributedDataParallel``, under ``torch.compile`` too, and parameters that ranks divide among
    them, as ``fully_shard`` lets them.

    Args:
        model: Perhaps wrapped.
    """
    copies = (
        module.process_group.size()
        for module in model.modules()
        if isinstance(module, DistributedDataParallel)
    )
    return max(chain(copies, map(tensor_spread, model.parameters())), default=1)


def tensor_spread(tensor: Tensor) -> int:
    """Return how many ranks hold a tensor together, 1 if it is an ordinary one.

    Args:
        tensor: Perhaps a ``DTensor``.
    """
    mesh = _mesh(tensor)
    return 1 if mesh is None else int(mesh.size())


def is_distributed_tensor(tensor: Tensor) -> bool:
    """Return whether it is a ``DTensor``, if only over one rank.

    Args:
        tensor: Any.
    """
    return _mesh(tensor) is not None


def _mesh(tensor: Tensor) -> Any:
    # Not by its class: DTensor takes half a second to import, and who divides nothing does not need it.
    return getattr(tensor, "device_mesh", None)
