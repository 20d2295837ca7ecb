"""State in and out of a module, whatever it is wrapped in, under the names it has unwrapped."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

# What torch's wrappers add to the names inside a model.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module from inside torch's wrappers.

    They are ``DistributedDataParallel``, ``torch.compile`` and ``AveragedModel``.
    """
    while True:
        if isinstance(model, DistributedDataParallel | AveragedModel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers under their canonical names.

    Buffers belong to the weights: without BatchNorm's statistics a teacher would predict something
    else than the peer does.

    Returns:
        Name to tensor, in the order of ``state_dict``. Tensors share memory with the model, so an
        in-place copy into them changes it; tied tensors appear under each of their names.
    """
    state: dict[str, Tensor] = unwrap(model).state_dict()
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): tensor
        for name, tensor in state.items()
    }


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the model's own memory, converting dtype and device.

    Args:
        model: The module to change, of which every name must be in ``tensors``.
        tensors: Name to tensor, of the same shapes as the model's.
    """
    with torch.no_grad():
        for name, own in named_tensors(model).items():
            # From pinned memory the copy goes on while the host goes on; torch keeps that memory meanwhile.
            own.copy_(tensors[name], non_blocking=tensors[name].is_pinned())
