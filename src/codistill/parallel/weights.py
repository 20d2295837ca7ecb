"""State in and out of a module, whatever it is wrapped in, under the names it has unwrapped."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from codistill.fragments import Box, Fragment

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# What torch's wrappers add to the names inside a model.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module from inside torch's wrappers.

    They are ``DistributedDataParallel``, ``torch.compile`` and ``AveragedModel``; ``fully_shard`` wraps
    nothing.
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
    else than the peer does. Those of a module that ``fully_shard`` has divided are ``DTensor``s, and the
    module is resharded by this.

    Returns:
        Name to tensor, in the order of ``state_dict``. Tensors share memory with the model, so an
        in-place copy into them changes it; tied tensors appear under each of their names.
    """
    state: dict[str, Tensor] = unwrap(model).state_dict()
    return {_canonical(name): tensor for name, tensor in state.items()}


def is_sharded(model: nn.Module) -> bool:
    """Return whether ranks divide the model among them, as ``fully_shard`` lets them."""
    # Not by its parameters: after a forward they may be whole until the next backward.
    return any(map(_is_divided, named_tensors(model).values()))


def named_fragments(model: nn.Module) -> dict[str, Fragment]:
    """Return what this rank holds of parameters and persistent buffers, under their canonical names.

    Returns:
        Name to fragment, in the order of ``state_dict``; they share memory with the model. What is not
        divided is whole on every rank.

    Raises:
        TypeError: If a tensor is divided in another way than into intervals of a dimension.
    """
    return {name: _fragment(name, tensor) for name, tensor in named_tensors(model).items()}


def fragments_to_publish(model: nn.Module, *, rank: int) -> dict[str, Fragment]:
    """Return what this rank writes of a snapshot, so that all ranks together write everything once.

    What several ranks hold alike is written by the first of them; what is not divided by rank 0.

    Args:
        model: The module, perhaps wrapped.
        rank: This process's place in the peer.

    Raises:
        TypeError: If a tensor is divided in another way than into intervals of a dimension.
    """
    tensors = named_tensors(model)
    # All of them, so that what is refused is refused on every rank.
    fragments = {name: _fragment(name, tensor) for name, tensor in tensors.items()}
    return {name: fragments[name] for name, tensor in tensors.items() if _is_written_by(tensor, rank)}


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], *, are_fragments: bool = False) -> None:
    """Copy ``tensors`` into the model's own memory, converting dtype and device.

    Args:
        model: The module to change, of which every name must be in ``tensors``.
        tensors: Name to tensor, of the same shapes as the model's, or as its fragments on this rank.
        are_fragments: Whether they are this rank's fragments.
    """
    with torch.no_grad():
        for name, own in named_fragments(model).items():
            values = tensors[name]
            if not (are_fragments or own.is_whole):
                values = values[own.box.within(Box.whole(own.shape))]
            # From pinned memory the copy goes on while the host goes on; torch keeps that memory meanwhile.
            own.values.copy_(values, non_blocking=values.is_pinned())


def materialise(module: nn.Module, device: torch.device) -> nn.Module:
    """Give a module that was built on the meta device memory, without values yet.

    Args:
        module: The module; if nothing of it is on the meta device it stays as it is.
        device: Where to.

    Raises:
        ValueError: If a buffer that is in no ``state_dict`` is on the meta device: nobody would fill it.
    """
    stored = named_tensors(module)
    if not any(tensor.is_meta for tensor in stored.values()):
        return module
    buffers = unwrap(module).named_buffers()
    others = {name: buffer for name, buffer in buffers if _canonical(name) not in stored}
    lost = [name for name, buffer in others.items() if buffer.is_meta]
    if lost:
        raise ValueError(
            f"buffers that are not persistent must be made with their values, got {', '.join(lost[:3])} on "
            "the meta device. Build these on a device."
        )
    module.to_empty(device=device)
    # No snapshot brings these back, and to_empty has taken their values too.
    for name, values in others.items():
        unwrap(module).get_buffer(name).copy_(values)
    return module


def _canonical(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    # It takes half a second to import, and who divides no model does not need it.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _fragment(name: str, tensor: Tensor) -> Fragment:
    if not _is_divided(tensor):
        return Fragment.whole(tensor)
    from torch.distributed.tensor import Replicate, Shard

    if not all(type(placement) in (Shard, Replicate) for placement in tensor.placements):
        raise TypeError(
            f"{name!r} must be divided by torch's Shard or Replicate placements, got {tensor.placements}. "
            "Divide the model with fully_shard."
        )
    # What torch's own distributed checkpoint asks a DTensor.
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    box = Box(tuple(chunk.offsets), tuple(chunk.sizes))
    return Fragment(tensor.to_local(), box, tuple(tensor.shape))


def _is_written_by(tensor: Tensor, rank: int) -> bool:
    if not _is_divided(tensor):
        return rank == 0
    place = tensor.device_mesh.get_coordinate()
    if place is None:
        return False
    is_first = all(
        index == 0 or not placement.is_replicate()
        for index, placement in zip(place, tensor.placements, strict=True)
    )
    # A tensor may have fewer rows than there are ranks, and one without elements is still one.
    return is_first and (tensor.to_local().numel() > 0 or (tensor.numel() == 0 and not any(place)))
