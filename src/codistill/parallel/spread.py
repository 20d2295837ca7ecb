"""Over how many ranks torch has spread a model or a tensor."""

from itertools import chain

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
    # Not by its class: DTensor takes half a second to import, and who divides nothing does not need it.
    mesh = getattr(tensor, "device_mesh", None)
    return 1 if mesh is None else int(mesh.size())
