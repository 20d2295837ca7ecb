"""The same rank of every peer: those that swap what they predict."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from codistill.errors import ExchangeTimeout

# What a user passes; nothing outside this folder needs to know where torch keeps it.
PeersGroup: TypeAlias = ProcessGroup | DeviceMesh

# torch copies what it gathers once more, from all peers; in pieces that copy stays small.
_PIECE_BYTES = 2**28


@final
class Counterparts:
    """One rank of each peer, numbered as in their group of torch.distributed.

    Short words go over a backend for the CPU, so that nobody waits for a device to read them: the group's
    own if it has one, else a gloo group of the same ranks. Tensors go over the group's backend for their
    device, or over the CPU if it has none.

    **Ranks**: the same rank of all peers, each method with an underlined *collective* in the same order.
    **Blocks**: a collective waits for the other peers, up to the timeout that the group was made with.
    Tensors on an accelerator are waited for by its stream only.
    **On failure**: where a peer is gone or late, on the CPU ``ExchangeTimeout``; with NCCL its watchdog
    ends the process.
    """

    def __init__(self, group: PeersGroup) -> None:
        """Look at a group; nothing is sent yet.

        Args:
            group: One rank of each peer, this one among them, or a 1-D mesh of them.

        Raises:
            TypeError: If it is neither a process group nor a mesh.
            ValueError: If the mesh has more dimensions, this process is not in the group, or there are
                fewer than two peers.
        """
        self._group = _process_group(group)
        if self._group.size() < 2:
            raise ValueError(
                f"group must hold at least two peers, got {self._group.size()}. "
                "Pass a group with one rank of each peer; one model alone has nobody to learn from."
            )
        # torch has no public way to ask which devices a group serves.
        self._devices = {device.type for device in self._group._device_types}
        self._words: ProcessGroup | None = None

    @property
    def number(self) -> int:
        """This peer's number, from 0."""
        return self._group.rank()

    @property
    def size(self) -> int:
        """How many peers there are."""
        return self._group.size()

    def connect(self) -> None:
        """Make sure that there is a way for words; *collective*, once, before the methods below."""
        if self._words is None:
            self._words = self._group if self._serves(torch.device("cpu")) else self._new_words_group()

    def gather_words(self, words: Sequence[int], *, step: int) -> list[list[int]]:
        """Return every peer's numbers, by peer; *collective*.

        Args:
            words: As many from every peer, each of 64 bits.
            step: The optimizer step, for the error.
        """
        own = torch.tensor(list(words), dtype=torch.int64, device="cpu")
        return [row.tolist() for row in self._gather(own, self._words, step)]

    def gather_bytes(self, content: bytes, *, step: int) -> list[bytes]:
        """Return every peer's bytes, by peer; *collective*.

        Args:
            content: Not necessarily as many from every peer.
            step: The optimizer step, for the error.
        """
        sizes = [size for (size,) in self.gather_words([len(content)], step=step)]
        own = torch.zeros(max(sizes), dtype=torch.uint8, device="cpu")
        if content:
            own[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        rows = self._gather(own, self._words, step)
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]

    def gather(self, piece: Tensor, *, step: int) -> list[Tensor]:
        """Return every peer's tensor, by peer, on the same device; *collective*.

        Args:
            piece: Flat, uint8, of one size in all peers.
            step: The optimizer step, for the error.
        """
        if self._serves(piece.device):
            return self._gather(piece, self._group, step)
        return [row.to(piece.device) for row in self._gather(piece.cpu(), self._words, step)]

    def _serves(self, device: torch.device) -> bool:
        return device.type in self._devices

    def _gather(self, own: Tensor, group: ProcessGroup | None, step: int) -> list[Tensor]:
        assert group is not None, "connect() comes first"
        rows = [torch.empty_like(own) for _ in range(self.size)]
        at_once = max(1, _PIECE_BYTES // own.itemsize)
        with self._naming_who_is_missing(step):
            for pieces in zip(*(torch.split(row, at_once) for row in (own, *rows)), strict=True):
                if len(pieces[0]):
                    dist.all_gather(list(pieces[1:]), pieces[0], group=group)
        return rows

    @contextmanager
    def _naming_who_is_missing(self, step: int) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            others = [str(number) for number in range(self.size) if number != self.number]
            names = ", ".join(map(repr, others))
            who = f"Peer {names}" if len(others) == 1 else f"One of the peers {names}"
            raise ExchangeTimeout(
                f"{who} did not take part in the swap of predictions at step {step}: it has ended, is not "
                f"reachable, or came later than the timeout that the group was made with. See its log. "
                f"torch says: {error}",
                peer=others[0] if len(others) == 1 else None,
                step=step,
            ) from error

    def _new_words_group(self) -> ProcessGroup:
        # Other ranks of the same world need not take part.
        members = dist.get_process_group_ranks(self._group)
        group: ProcessGroup = dist.new_group(members, backend="gloo", use_local_synchronization=True)
        return group


def _process_group(group: object) -> ProcessGroup:
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(
                f"group must be a 1-D mesh over peers, got one of {group.ndim} dimensions. "
                'Pass the dimension of the peers, such as mesh["peers"].'
            )
        group = group.get_group()
    if isinstance(group, int) and group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "group must hold this process, got a group of other ranks. "
            "Give each rank the group of its counterparts in the other peers."
        )
    if not isinstance(group, ProcessGroup):
        raise TypeError(
            "group must be a torch.distributed ProcessGroup or a 1-D DeviceMesh, got "
            f"{type(group).__name__}. Pass a group with one rank of each peer."
        )
    return group
