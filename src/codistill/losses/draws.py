"""A few classes that stand for a whole distribution: the largest as they are, the others by lot.

Sparse Logit Sampling (arXiv:2503.16870): what only keeps the largest is biased. Here what is left over is
drawn from, in proportion to probability, and each draw carries an equal part of the left-over mass.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from codistill.losses.logits import precision

# Classes are looked at in blocks of so many, so that only the few blocks that matter are sorted or summed
# up class by class: both are much slower than a maximum or a sum.
_BLOCK = 64
# Logits in float32 at a time: what fits into a CPU's cache; on an accelerator, what keeps it busy.
_ELEMENTS = 2**18
_ELEMENTS_OF_AN_ACCELERATOR = 2**25


class Draws(NamedTuple):
    """Classes and weights of some positions, and how uncertain each is."""

    classes: Tensor
    """int64, [positions, exact + sampled], the largest first."""
    weights: Tensor
    """The precision of the computation, same shape."""
    entropy: Tensor
    """[positions], in nats."""


def draw_classes(logits: Tensor, uniforms: Tensor, *, exact: int, temperature: float) -> Draws:
    """Return the largest classes of each position and some drawn from the others, with replacement.

    The same numbers in ``uniforms`` give the same draws. A class at -inf has no weight. NaN anywhere in a
    position gives NaN in all its weights and its entropy. A position without any class has no weight.

    Args:
        logits: [positions, classes], floating point.
        uniforms: [positions, sampled, 2], float64, in [0, 1).
        exact: How many of the largest to take as they are; with ``sampled``, below the number of classes.
        temperature: Softmax divisor, > 0.

    Returns:
        float32, or float64 for float64 logits.
    """
    positions, sampled = logits.shape[0], uniforms.shape[1]
    dtype = precision(logits)
    classes = logits.new_empty((positions, exact + sampled), dtype=torch.int64)
    weights = logits.new_empty((positions, exact + sampled), dtype=dtype)
    entropy = logits.new_empty(positions, dtype=dtype)
    elements = _ELEMENTS if logits.device.type == "cpu" else _ELEMENTS_OF_AN_ACCELERATOR
    step = max(1, elements // logits.shape[1])
    for start in range(0, positions, step):
        part = slice(start, start + step)
        blocks = _blocks(logits[part], dtype, temperature)
        classes[part], weights[part], entropy[part] = _draw(
            blocks, uniforms[part], exact=exact, last_class=logits.shape[1] - 1
        )
    return Draws(classes, weights, entropy)


def _blocks(logits: Tensor, dtype: torch.dtype, temperature: float) -> Tensor:
    """Return [positions, blocks, classes of a block], the last block filled up with -inf."""
    positions, classes = logits.shape
    width = min(_BLOCK, classes)
    padded = logits.new_full((positions, -(-classes // width) * width), -math.inf, dtype=dtype)
    padded[:, :classes] = logits
    return padded.view(positions, -1, width).div_(temperature)


def _draw(scaled: Tensor, uniforms: Tensor, *, exact: int, last_class: int) -> Draws:
    peaks = scaled.amax(-1)
    peak = peaks.amax(-1)[:, None, None]
    nothing = torch.isneginf(peak)
    shifted = scaled - peak.masked_fill(nothing, 0.0)
    mass = shifted.exp()
    # Where the mass is 0 the logit may be -inf, and 0 * -inf is NaN.
    moment = shifted.clamp_(min=torch.finfo(scaled.dtype).min).mul_(mass).sum((-1, -2))
    top = _largest(scaled, peaks, exact)
    flat = mass.flatten(1)
    top_mass = flat.gather(1, top)
    # The rest is summed by itself: 1 minus the largest would leave nothing but rounding where they are sure.
    flat.scatter_(1, top, 0.0)
    # What lies beyond the last class has no mass; only now may it take the name of one that has.
    top.clamp_(max=last_class)
    up_to_block = mass.sum(-1).double().cumsum(-1)
    rest = up_to_block[:, -1:]
    block = _invert(up_to_block, uniforms[..., 0] * rest)
    chosen = mass.gather(1, block[..., None].expand(-1, -1, mass.shape[2])).double().cumsum(-1)
    within = _invert(chosen, uniforms[..., 1:] * chosen[..., -1:]).squeeze(-1)
    drawn = (block * mass.shape[2] + within).clamp_(max=last_class)
    rest = rest.to(mass.dtype)
    total = rest + top_mass.sum(-1, keepdim=True)
    total = total.masked_fill(nothing[:, 0], 1.0)
    share = (rest / uniforms.shape[1]).expand(-1, uniforms.shape[1])
    entropy = total.log() - moment[:, None] / total
    return Draws(torch.cat((top, drawn), -1), torch.cat((top_mass, share), -1) / total, entropy.squeeze(-1))


def _largest(scaled: Tensor, peaks: Tensor, exact: int) -> Tensor:
    """Return the classes of the ``exact`` largest, which lie in the blocks of the largest peaks."""
    width = scaled.shape[2]
    blocks = peaks.topk(min(exact, peaks.shape[1]), -1).indices
    candidates = scaled.gather(1, blocks[..., None].expand(-1, -1, width)).flatten(1)
    found = candidates.topk(exact, -1).indices
    return blocks.gather(1, found // width) * width + found % width


def _invert(cumulative: Tensor, values: Tensor) -> Tensor:
    """Return where each value falls; never where nothing is added, nor beyond the end."""
    found = torch.searchsorted(cumulative, values.contiguous(), right=True)
    return found.clamp_(max=cumulative.shape[-1] - 1)
