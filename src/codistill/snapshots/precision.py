"""The codecs: in which dtype each stores a tensor, and the arithmetic of those that round."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS: Final = 256
FEWEST_ROUNDED_ELEMENTS: Final = 1024
# The dtype in the file by codec and published dtype; a dtype that is not listed is stored as it is.
# BF16 is rounded to nearest even, float64 by way of float32; what is above its 3.39e38 becomes infinite.
STORED: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "exact": {},
        "bfloat16": {"F64": "BF16", "F32": "BF16"},
        "int8": {"F64": "I8", "F32": "I8", "F16": "I8", "BF16": "I8"},
    }
)
CODECS: Final = tuple(STORED)
# A little below float32's largest number / 127, which times 127 would round to infinity.
_LARGEST_SCALE: Final = torch.finfo(torch.float32).max / 127 * (1 - 2**-23)
# From 32768 elements on torch spreads most operations over its threads. This may run on a background thread,
# which would take those of the training away from it.
_SLICE_ELEMENTS: Final = 64 * BLOCK_ELEMENTS


def check_codec(codec: str, argument: str = "codec") -> str:
    """Return `codec` if there is such a one.

    Raises:
        ValueError: If there is none; the message lists those that exist.
    """
    if codec not in CODECS:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, CODECS))}, got {codec!a:.80}.")
    return codec


def check_readable(codec: str) -> None:
    """Refuse the codec of a snapshot that this version cannot read.

    Raises:
        ValueError: If it is unknown here.
    """
    try:
        check_codec(codec)
    except ValueError as e:
        raise ValueError(f"{e} Upgrade codistill here.") from None


def stored_dtype(codec: str, dtype: str, elements: int) -> str:
    """Return the dtype in the file of a tensor that is published with a codec.

    Args:
        codec: One of `CODECS`.
        dtype: Its own dtype, in safetensors' words.
        elements: Its size. Small tensors stay as they are: they cost nothing, and predictions depend more on
            them (BatchNorm's statistics) than on all others.

    Example:
        >>> stored_dtype("bfloat16", "F32", 1024), stored_dtype("bfloat16", "F32", 1023)
        ('BF16', 'F32')
    """
    return dtype if elements < FEWEST_ROUNDED_ELEMENTS else STORED[codec].get(dtype, dtype)


def count_blocks(elements: int) -> int:
    """Return how many scales a quantised part of so many elements has."""
    return -(-elements // BLOCK_ELEMENTS)


def quantise(values: Tensor, *, out: Tensor, scales: Tensor) -> None:
    """Round floating values to 8 bits, every 256 of them with a scale of their own.

    ``value = out * scale`` with ``scale = absmax / 127``, computed in float32. The scale of a block that
    holds NaN, infinity or a float64 beyond float32 is NaN, so that whoever reads it sees that.

    Args:
        values: [elements], contiguous, of a floating dtype.
        out: [elements], int8; written, -127 to 127.
        scales: [blocks], float32; written.
    """
    for piece in _slices(values.numel()):
        rows = _rows(values[piece].float())
        absmax = rows.abs().amax(1)
        is_finite = absmax.isfinite()
        scale = torch.where(is_finite, (absmax / 127).clamp_(max=_LARGEST_SCALE), torch.nan)
        # Divided by infinity, a block with scale 0 gives 0.
        quotient = rows / torch.where(scale > 0, scale, torch.inf)[:, None]
        if not is_finite.all():
            quotient[~is_finite] = 0
        # Not with Tensor.round, which wakes threads for 2048 elements already.
        np.rint(quotient.numpy(), out=quotient.numpy())
        # Below float32's normal numbers a scale is so coarse that the quotient can exceed 127.
        out[piece].copy_(quotient.clamp_(-127, 127).view(-1)[: piece.stop - piece.start])
        first = piece.start // BLOCK_ELEMENTS
        scales[first : first + len(scale)].copy_(scale)


def dequantise(quantised: Tensor, scales: Tensor, *, out: Tensor) -> None:
    """Turn what `quantise` made back into floating values.

    Args:
        quantised: [elements], int8, contiguous.
        scales: [blocks], float32.
        out: [elements], of a floating dtype; written. The product is rounded to float32 first.
    """
    for piece in _slices(quantised.numel()):
        elements = piece.stop - piece.start
        first = piece.start // BLOCK_ELEMENTS
        scale = scales[first : first + count_blocks(elements)]
        out[piece].copy_((_rows(quantised[piece].float()) * scale[:, None]).view(-1)[:elements])


def convert(values: Tensor, *, out: Tensor) -> None:
    """Copy values into another dtype, each rounded to nearest.

    Args:
        values: [elements], contiguous.
        out: [elements], contiguous; written.
    """
    for piece in _slices(values.numel()):
        out[piece].copy_(values[piece])


def _slices(elements: int) -> Iterator[slice]:
    for start in range(0, elements, _SLICE_ELEMENTS):
        yield slice(start, min(start + _SLICE_ELEMENTS, elements))


def _rows(values: Tensor) -> Tensor:
    """Return blocks as rows, the last one filled up with zeros."""
    missing = -len(values) % BLOCK_ELEMENTS
    filled = torch.nn.functional.pad(values, (0, missing)) if missing else values
    return filled.view(-1, BLOCK_ELEMENTS)
