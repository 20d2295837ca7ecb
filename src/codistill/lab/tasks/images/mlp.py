"""A small multi-layer perceptron."""

import itertools

from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of the given widths with ReLU between them.

    Example:
        >>> sum(p.numel() for p in mlp(64, 128, 128, 10).parameters())
        26122
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
