"""A number by which peers notice that they look at different batches."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

# What adds up as whole numbers, by bytes an element.
_WHOLE: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Elements at a time, so that their copy as whole numbers of 8 bytes stays small.
_PIECE: Final = 2**20
# Odd constants with bits as if by lot, of 64 bits with a sign.
_STRIDE: Final = 0x1E3779B97F4A7C15
_MIXERS: Final = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def checksum(batch: Any) -> int:
    """Return a number of 63 bits that tells two batches apart, their order of samples too.

    Tensors are added up where they lie, each element times a factor of its place; then the sums are read,
    one a tensor. Two different batches have one number with a probability of next to nothing.

    **Blocks**: for the device of each tensor.

    Args:
        batch: Tensors, numbers and strings, in tuples, lists and mappings nested at will. Of other objects
            only the type is looked at.

    Example:
        >>> a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [1.0, 2.0]])
        >>> checksum({"x": a}) == checksum({"x": a.clone()}), checksum(a) == checksum(b)
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for word in _words(batch):
        digest.update(f"{word};".encode())
    return int.from_bytes(digest.digest(), "big") >> 1


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {list(value.shape)}"
        if value.layout == torch.strided and value.numel() > 0 and not value.is_quantized:
            yield str(int(_sum(value.detach())))
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}"
        for key in sorted(value, key=str):
            yield f"key {key}"
            yield from _words(value[key])
    elif isinstance(value, tuple | list):
        yield f"sequence {len(value)}"
        for item in value:
            yield from _words(item)
    elif value is None or isinstance(value, bool | int | float | str):
        yield repr(value)
    else:
        yield type(value).__name__


def _sum(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    whole = tensor.resolve_neg().contiguous().view(_WHOLE[tensor.dtype.itemsize]).reshape(-1)
    factors = _factors(min(len(whole), _PIECE), whole.device)
    total = torch.zeros((), dtype=torch.int64, device=whole.device)
    # Overflow wraps, on every device alike.
    for piece in torch.split(whole, _PIECE):
        values = piece.to(torch.int64)
        # Round numbers in float64 differ in their upper bits only, of which a product would keep few.
        values = values ^ (values >> 32)
        total = total * _STRIDE + (values * factors[: len(values)]).sum()
    return total


def _factors(count: int, device: torch.device) -> Tensor:
    # As if by lot: with a regular series, rows that are permutations of one another, such as one-hot ones,
    # would have one sum in many orders.
    factors = torch.arange(1, count + 1, device=device) * _STRIDE
    for mixer in _MIXERS:
        factors = (factors ^ (factors >> 30)) * mixer
    return factors ^ (factors >> 31)
