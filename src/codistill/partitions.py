"""Which samples are whose: parts that every machine draws alike from a seed."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Indices: TypeAlias = npt.NDArray[np.int64]
Labels: TypeAlias = Sequence[int] | npt.NDArray[Any] | Tensor

# Where in the tree of random streams below one seed each kind of draw has its branch.
PARTITION, ORDER, COMMON_ORDER, SHARES = 0, 1, 2, 3


def permute(size: int, *, seed: int, branch: Sequence[int]) -> Indices:
    """Return the numbers below ``size`` in a random order: the same on every platform, in every version.

    Args:
        size: How many, >= 0.
        seed: >= 0.
        branch: Which of the seed's random streams.
    """
    # Sorted random keys. NumPy promises the same raw bits of PCG64 and SeedSequence on every platform and in
    # every version; of Generator.permutation, as of torch.randperm, neither library does.
    return np.argsort(_bits(seed, branch).random_raw(size), kind="stable").astype(np.int64)


def deal_evenly(size: int, *, peers: int, seed: int) -> list[Indices]:
    """Return each peer's samples in rising order: equally many to within one.

    Args:
        size: Number of samples.
        peers: Number of peers, >= 1.
        seed: >= 0.
    """
    parts = np.array_split(permute(size, seed=seed, branch=(PARTITION,)), peers)
    return [np.sort(part) for part in parts]


def deal_by_class(classes: Indices, *, peers: int, alpha: float, seed: int) -> list[Indices]:
    """Return each peer's samples in rising order: of every class a share drawn from a Dirichlet distribution.

    A peer that would get nothing is given one sample of the peer that then has most, so that a part is empty
    only if there are fewer samples than peers.

    Args:
        classes: Class of each sample, [samples], numbered from 0 without gaps.
        peers: Number of peers, >= 1.
        alpha: Parameter of the symmetric distribution over peers, finite and > 0; the larger, the more even.
        seed: >= 0.
    """
    counts = np.bincount(classes)
    shares = _draw_shares(len(counts), peers=peers, alpha=alpha, seed=seed)
    ends = np.rint(np.cumsum(shares, axis=1) * counts[:, None])
    order = permute(len(classes), seed=seed, branch=(PARTITION,))
    by_class = order[np.argsort(classes[order], kind="stable")]
    place_in_class = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    owners = np.zeros(len(classes), dtype=np.int64)
    # A loop, as an array [samples, peers] may not fit into memory. The last peer takes what is left.
    for peer in range(peers - 1):
        owners[by_class] += place_in_class >= ends[classes[by_class], peer]
    sizes = np.bincount(owners, minlength=peers)
    for taker in np.flatnonzero(sizes == 0):
        giver = np.argmax(sizes)
        if sizes[giver] > 1:
            owners[order[owners[order] == giver][0]] = taker
            sizes[giver], sizes[taker] = sizes[giver] - 1, 1
    return [np.flatnonzero(owners == peer) for peer in range(peers)]


def number_classes(labels: Labels | None, *, size: int) -> Indices:
    """Return the class of each sample, numbered from 0 without gaps in the order of the labels.

    Args:
        labels: One int or bool a sample.
        size: Number of samples.

    Raises:
        TypeError: If the labels are not ints.
        ValueError: If there are none, or not one a sample.
    """
    if labels is None:
        raise ValueError("labels must be given with regime 'dirichlet', got None. Pass one class a sample.")
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (size,):
        raise ValueError(
            f"labels must be one class a sample, [{size}], got {list(array.shape)}. "
            "They are of the whole data set."
        )
    if array.dtype.kind not in "biu":
        raise TypeError(f"labels must be ints, got {array.dtype}. Number the classes.")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def check_alpha(alpha: object) -> float:
    """Return ``alpha`` if a Dirichlet distribution may have it.

    Raises:
        TypeError: If it is no number.
        ValueError: If there is none, or it is not > 0 and finite.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | None):
        raise TypeError(f"alpha must be a number, got {alpha!r}. 0.1 makes very uneven peers.")
    if alpha is None or not 0 < alpha < math.inf:
        raise ValueError(
            f"alpha must be > 0 and finite with regime 'dirichlet', got {alpha}. 0.1 makes very uneven peers."
        )
    return float(alpha)


def _draw_shares(classes: int, *, peers: int, alpha: float, seed: int) -> npt.NDArray[np.float64]:
    """Return which share of each class each peer is to have, [classes, peers]; rows sum to 1."""
    # RandomState, as NumPy has frozen what it draws; what Generator.dirichlet draws may change.
    random = np.random.RandomState(_bits(seed, (SHARES,)))
    # Gamma(alpha) is Gamma(alpha + 1) * U**(1 / alpha): in logarithms and relative to each row's largest U,
    # as with a small alpha all of a row would be 0.
    log_u = np.log1p(-random.random_sample((classes, peers)))
    with np.errstate(over="ignore"):
        log_powers = (log_u - log_u.max(axis=1, keepdims=True)) / alpha
    logs = np.log(random.standard_gamma(alpha + 1.0, (classes, peers))) + log_powers
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _bits(seed: int, branch: Sequence[int]) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(branch)))
