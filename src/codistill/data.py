"""Which peer sees which samples, in which order."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Literal, TypeAlias, final, get_args

import numpy as np
from torch.utils.data import Sampler
from typing_extensions import override

from codistill.arguments import check_int
from codistill.caller import warn_caller
from codistill.partitions import (
    COMMON_ORDER,
    ORDER,
    Indices,
    Labels,
    check_alpha,
    deal_by_class,
    deal_evenly,
    number_classes,
    permute,
)

Regime: TypeAlias = Literal["all_data", "disjoint", "same_batches", "dirichlet"]

_COUNTED = "Samples, ranks and epochs are counted."


@final
class PartitionedSampler(Sampler[int]):
    """Draws a peer's samples: all of them, in its own order or in everybody's, or a part nobody else has.

    - ``"all_data"``: each peer goes through everything in an order of its own.
    - ``"same_batches"``: all peers go through everything in one order, which prediction exchange needs. It
      depends on neither names nor number of peers. Augmentations are the caller's: seed them alike.
    - ``"disjoint"``: one seeded permutation, the same for all peers, is cut into equal parts, to within one
      sample (Anil et al. 2018, section 3.3).
    - ``"dirichlet"``: the samples of each class are shared out by a draw of its own from a symmetric
      Dirichlet distribution over the peers, as is done in federated learning. With a small ``alpha`` nearly
      every class goes to a single peer, with a large one equally to all. Parts may be very uneven but never
      empty: a peer that would get nothing is given one sample of the peer that has most.

    Each epoch comes in a new order. Every process computes the same parts and orders from the seed and the
    names, whatever order ``peers`` comes in.

    Iterating goes from the current position to the end of the epoch and leaves the sampler at the start
    of the next one; an iteration that is abandoned is continued by the next. The position counts samples
    of the whole peer, so that a job may resume with another number of ranks.

    **Ranks**: each rank of the peer has its own sampler, with its ``rank``. They share nothing and have
    equal lengths: what does not divide by ``world_size`` is left out at the end of the epoch. They take
    turns, so that the whole batches of an epoch, all ranks together, are the same with every
    ``world_size`` that divides them. ``drop_last=True`` in the loader leaves no others.

    **Blocks**: no.

    **On failure**: ``load_state_dict`` changes nothing if it raises.

    Args:
        dataset_or_size: Number of samples, or something with that length.
        peer: Name of this peer.
        peers: Names of all peers, this one included.
        regime: ``"all_data"``, ``"same_batches"``, ``"disjoint"`` or ``"dirichlet"``.
        seed: Of the partition and all orders, >= 0; the same for all peers.
        rank: Of this process within the peer.
        world_size: Number of the peer's ranks.
        labels: Class of every sample, for ``"dirichlet"``: [samples], ints, of which only the order matters.
        alpha: Evenness, for ``"dirichlet"``, > 0; 0.1 is common for very uneven peers, 1 for mildly so.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of range, ``peer`` is not one of ``peers``, names repeat, or an epoch
            would be empty; if with ``"dirichlet"`` there is not one label a sample, or no ``alpha``.

    Warns:
        CodistillWarning: If ``labels`` or ``alpha`` is given in another regime, where it has no effect.

    Example:
        >>> a, b = (PartitionedSampler(7, peer=p, peers=["a", "b"], regime="disjoint") for p in "ab")
        >>> sorted([*a, *b])
        [0, 1, 2, 3, 4, 5, 6]
    """

    def __init__(
        self,
        dataset_or_size: Sized | int,
        *,
        peer: str,
        peers: Sequence[str],
        regime: Regime = "all_data",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        labels: Labels | None = None,
        alpha: float | None = None,
    ) -> None:
        size = len(dataset_or_size) if isinstance(dataset_or_size, Sized) else dataset_or_size
        self._size = check_int("dataset_or_size", size, minimum=1, hint=_COUNTED)
        self._peers = _checked_peers(peer, peers)
        self._peer = peer
        if regime not in get_args(Regime):
            choices = ", ".join(map(repr, get_args(Regime)))
            raise ValueError(f"regime must be one of {choices}, got {regime!r}. 'all_data' is the default.")
        self._regime = regime
        self._seed = check_int("seed", seed, minimum=0, hint=_COUNTED)
        self._world_size = check_int("world_size", world_size, minimum=1, hint=_COUNTED)
        self._rank = check_int("rank", rank, minimum=0, hint=_COUNTED)
        if rank >= world_size:
            raise ValueError(f"rank must be < world_size, {world_size}, got {rank}. Ranks count from 0.")
        self._identity: dict[str, Any] = {
            "size": self._size,
            "peer": peer,
            "peers": self._peers,
            "regime": regime,
            "seed": self._seed,
        }
        self._indices, drawn_from = self._own_part(labels, alpha)
        self._identity |= drawn_from
        self._indices.flags.writeable = False
        if len(self._indices) < world_size:
            raise ValueError(
                f"dataset_or_size must give every rank a sample, got {len(self._indices)} for the "
                f"{world_size} ranks of peer {peer!r}. Use fewer peers or ranks"
                + (", or a larger alpha." if regime == "dirichlet" else ".")
            )
        self._epoch = 0
        self._position = 0
        # (samples, epoch, position): a place from which the samples since epoch 0 are counted.
        self._anchor = (0, 0, 0)

    @property
    def indices(self) -> Indices:
        """The peer's samples in rising order, of all ranks together; read-only."""
        return self._indices

    @override
    def __iter__(self) -> Iterator[int]:
        epoch, start = self._epoch, self._position
        end = self._end_of_epoch(start)
        order = self._order(epoch)[start + self._rank : end : self._world_size]
        for count, index in enumerate(order, start=1):
            # Moved on before the sample is handed out, so that a state saved after it does not repeat it.
            self._go_to(epoch, start + count * self._world_size)
            yield int(index)

    def __len__(self) -> int:
        """Return the samples a rank sees in a whole epoch, also where the current one is partly done."""
        return len(self._indices) // self._world_size

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; stay where it is if that is the current one.

        Trainers call this before every epoch, also in the middle of one they resume. In ``samples``, epochs
        that are skipped count as gone through.

        Args:
            epoch: From 0.

        Raises:
            TypeError: If it is not an int.
            ValueError: If it is negative.
        """
        if check_int("epoch", epoch, minimum=0, hint=_COUNTED) != self._epoch:
            self._epoch, self._position = epoch, 0
            self._anchor = (epoch * len(self) * self._world_size, epoch, 0)

    def state_dict(self, *, samples: int | None = None) -> dict[str, Any]:
        """Return where this sampler is, and what it must be of to go on from there.

        Args:
            samples: How many samples this peer, all its ranks, has trained on since the start of epoch 0.
                A loader with workers draws ahead of training: the sampler's own position, used by default,
                would then skip what was drawn and not trained on. Count an epoch that is over as
                ``len(sampler) * world_size``, also where a loader with ``drop_last=True`` left some out.

        Returns:
            Numbers, strings and a list of strings, fit for JSON; the same on all ranks that are equally far.

        Raises:
            TypeError: If ``samples`` is not an int.
            ValueError: If ``samples`` lies before where the sampler was loaded or set to, or the ranks
                would not be equally far.
        """
        if samples is None:
            epoch, position = self._epoch, self._position
            samples = self._count(epoch, position)
        else:
            epoch, position = self._locate(check_int("samples", samples, minimum=0, hint=_COUNTED))
        return self._identity | {
            "peers": list(self._peers),
            "epoch": epoch,
            "position": position,
            "samples": samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another sampler of the same peer and data was; its ``world_size`` may differ.

        Args:
            state: What ``state_dict`` returned.

        Raises:
            TypeError: If a number in it is not an int.
            ValueError: If a field is missing or negative, or it is of another data set size, peer, list of
                peers, regime, seed, labels or ``alpha``.
        """
        # The regime before what only some regimes have: a state of another regime is then called that.
        for name in (*self._identity, "epoch", "position", "samples"):
            if name not in state:
                raise ValueError(f"state must have the field {name!r}, got {sorted(state)}. Save it anew.")
            own = self._identity.get(name)
            if own is not None and state[name] != own:
                raise ValueError(
                    f"state must be of this sampler's {name}, {own!r}, got {state[name]!r}. "
                    "In another order of samples the position has no meaning."
                )
        epoch, position, samples = (
            check_int(f"state[{name!r}]", state[name], minimum=0, hint=_COUNTED)
            for name in ("epoch", "position", "samples")
        )
        if position > len(self._indices):
            raise ValueError(
                f"state['position'] must be <= {len(self._indices)}, got {position}. The state is damaged."
            )
        self._go_to(epoch, position)
        self._anchor = (samples, self._epoch, self._position)

    def _own_part(self, labels: Labels | None, alpha: float | None) -> tuple[Indices, dict[str, Any]]:
        """Return the peer's samples, and what else than sizes, names and seed they depend on."""
        count, own = len(self._peers), self._peers.index(self._peer)
        if self._regime == "dirichlet":
            classes, evenness = number_classes(labels, size=self._size), check_alpha(alpha)
            digest = hashlib.sha256(classes.astype("<i8").tobytes()).hexdigest()
            parts = deal_by_class(classes, peers=count, alpha=evenness, seed=self._seed)
            return parts[own], {"labels": digest, "alpha": evenness}
        for name, value in (("labels", labels), ("alpha", alpha)):
            if value is not None:
                message = f"{name} has no effect with regime {self._regime!r}. Leave it out."
                warn_caller(message)
        if self._regime == "disjoint":
            return deal_evenly(self._size, peers=count, seed=self._seed)[own], {}
        return np.arange(self._size, dtype=np.int64), {}

    def _order(self, epoch: int) -> Indices:
        branch = [COMMON_ORDER] if self._regime == "same_batches" else [ORDER, self._peers.index(self._peer)]
        return self._indices[permute(len(self._indices), seed=self._seed, branch=[*branch, epoch])]

    def _end_of_epoch(self, start: int) -> int:
        left = len(self._indices) - start
        return start + left // self._world_size * self._world_size

    def _go_to(self, epoch: int, position: int) -> None:
        # The end of an epoch is the start of the next: whoever resumes there must not get an empty epoch.
        is_over = len(self._indices) - position < self._world_size
        self._epoch, self._position = (epoch + 1, 0) if is_over else (epoch, position)

    def _count(self, epoch: int, position: int) -> int:
        samples, from_epoch, from_position = self._anchor
        if epoch == from_epoch:
            return samples + position - from_position
        whole_epochs = (epoch - from_epoch - 1) * len(self) * self._world_size
        return samples + self._end_of_epoch(from_position) - from_position + whole_epochs + position

    def _locate(self, samples: int) -> tuple[int, int]:
        from_samples, epoch, position = self._anchor
        since = samples - from_samples
        if since < 0 or since % self._world_size:
            raise ValueError(
                f"samples must be {from_samples} plus a multiple of world_size, {self._world_size}, got "
                f"{samples}. Count the samples of all ranks since the start of epoch 0."
            )
        left = self._end_of_epoch(position) - position
        if since < left:
            return epoch, position + since
        epochs, position = divmod(since - left, len(self) * self._world_size)
        return epoch + 1 + epochs, position


def _checked_peers(peer: str, peers: Sequence[str]) -> list[str]:
    if isinstance(peers, str) or not all(isinstance(name, str) for name in peers):
        raise TypeError(f"peers must be a list of names, got {peers!r}. Names are strings.")
    if len(set(peers)) != len(peers):
        raise ValueError(f"peers must be different names, got {list(peers)!r}. Two jobs may not share one.")
    if peer not in peers:
        raise ValueError(f"peer must be one of peers, {sorted(peers)!r}, got {peer!r}. Add it to peers.")
    return sorted(peers)
