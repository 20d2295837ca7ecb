"""The ranks of a peer, and the few words they need to say to one another."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Self, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

# Ranks meet again within a few steps, but in lockstep rank 0 may wait long for other peers. A rank that has
# died is noticed at once: its connections break.
_TIMEOUT = datetime.timedelta(days=1)
# What a user passes; nothing outside this folder needs to know where torch keeps it.
PeerGroup: TypeAlias = ProcessGroup

# Far below what a 32-bit count of bytes in a backend can hold.
_PIECE_BYTES = 2**30
_POLL_S = 0.01
_SECOND_WORD_S = 5.0


@final
class PeerRanks:
    """The ranks of one peer: one process, or a group of torch.distributed.

    What they say goes over two small gloo groups of their own, so that it neither waits for nor disturbs
    the gradients of ``DistributedDataParallel``, whatever backend these use. With one rank nothing is
    sent.

    **Ranks**: all of the peer, each method with an underlined *collective* in the same order.
    **Blocks**: a collective waits for the other ranks.
    **On failure**: a rank that died makes the others raise what torch raises.
    """

    def __init__(self, group: PeerGroup | None = None) -> None:
        """Look at a group; nothing is sent yet.

        Args:
            group: The ranks of this peer; None for all of the world, or for this one process if there is
                none.

        Raises:
            TypeError: If it is no process group.
            ValueError: If this process is not in it.
        """
        if group is not None and not isinstance(group, ProcessGroup):
            raise TypeError(
                f"group must be a torch.distributed ProcessGroup, got {type(group).__name__}. "
                "Pass the group of this peer's ranks, or leave it out for the whole world."
            )
        self._members: list[int] = [0]
        self._rank = 0
        if dist.is_available() and dist.is_initialized():
            self._rank = dist.get_rank(group)
            if self._rank < 0:
                raise ValueError(
                    "group must hold this process, got a group of other ranks. "
                    "Give each rank the group of its own peer."
                )
            self._members = dist.get_process_group_ranks(group or dist.group.WORLD)
        self._words: ProcessGroup | None = None
        self._weights: ProcessGroup | None = None

    @classmethod
    def alone(cls) -> Self:
        """Return this process as a peer of one rank, whatever world it is in."""
        ranks = cls()
        ranks._members, ranks._rank = [0], 0
        return ranks

    @property
    def rank(self) -> int:
        """This process's place in the peer, from 0; rank 0 speaks with the store."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks the peer has."""
        return len(self._members)

    def connect(self) -> None:
        """Make the groups; *collective*, once, before the methods below."""
        if self.size > 1 and self._words is None:
            self._words, self._weights = self._new_group(), self._new_group()

    def close(self) -> None:
        """Let the groups go; on each rank when it likes."""
        # They end with the user's own. torch names such a group after its ranks and how many groups there
        # are, and would give the next one the name, and with it the addresses, of one that was destroyed
        # (torch 2.13).
        self._words = self._weights = None

    def maximum(self, numbers: Sequence[int]) -> list[int]:
        """Return the greatest of all ranks' numbers, place by place; *collective*.

        Args:
            numbers: As many on every rank.
        """
        if self.size == 1:
            return list(numbers)
        words = torch.tensor(list(numbers), dtype=torch.int64)
        dist.all_reduce(words, op=dist.ReduceOp.MAX, group=self._words)
        return [int(word) for word in words]

    def broadcast(self, content: bytes | None, *, source: int = 0) -> bytes:
        """Return one rank's bytes on all; *collective*.

        Args:
            content: The bytes on rank ``source``; of no meaning elsewhere.
            source: Whose.
        """
        if self.size == 1:
            assert content is not None
            return content
        sender = self._members[source]
        is_sender = self._rank == source
        size = torch.tensor([len(content) if is_sender and content is not None else 0])
        dist.broadcast(size, src=sender, group=self._words)
        words = torch.empty(int(size), dtype=torch.uint8)
        if is_sender and content:
            words.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        if len(words):
            dist.broadcast(words, src=sender, group=self._words)
        return words.numpy().tobytes()

    def gather(self, content: bytes) -> list[bytes] | None:
        """Return every rank's bytes, in order, on rank 0 and None on the others; *collective*.

        Args:
            content: This rank's; any number.
        """
        if self.size == 1:
            return [content]
        sizes = self.maximum([len(content) if rank == self._rank else 0 for rank in range(self.size)])
        # All send as much as the longest: gloo gathers equal sizes only.
        own = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        if content:
            own[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        received = [torch.empty_like(own) for _ in sizes] if self._rank == 0 else None
        dist.gather(own, received, dst=self._members[0], group=self._words)
        if received is None:
            return None
        return [words[:size].numpy().tobytes() for words, size in zip(received, sizes, strict=True)]

    def have_all_come(self, timeout_s: float) -> bool:
        """Return whether all ranks call this within the timeout; *collective*, for the end.

        After a False nothing more may be said on these groups.

        Args:
            timeout_s: How long to wait for the others, in seconds. Who comes later than another one waits
                finds that out within five seconds.
        """
        if self.size == 1:
            return True
        # Who comes too late still gets the word of those that have left. The second word they do not say.
        return self._is_heard(timeout_s) and self._is_heard(_SECOND_WORD_S)

    def _is_heard(self, timeout_s: float) -> bool:
        """Return whether all ranks say something within the timeout; *collective*."""
        work = dist.all_reduce(torch.zeros(1), group=self._words, async_op=True)
        deadline_s = time.monotonic() + timeout_s
        while not work.is_completed():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        try:
            work.wait()
        except RuntimeError:
            # One of them has died.
            return False
        return True

    def start_broadcast(self, buffers: Sequence[Tensor]) -> Callable[[], bool]:
        """Begin to copy rank 0's buffers into everybody's, and return at once; *collective*.

        The copying goes on in torch's own threads.

        Args:
            buffers: Flat uint8 tensors on the CPU, of the same sizes on every rank; not to be changed
                meanwhile.

        Returns:
            Tells whether it is done on this rank; raises what hindered it.
        """
        if self.size == 1:
            return lambda: True
        works = [
            dist.broadcast(piece, src=self._members[0], group=self._weights, async_op=True)
            for buffer in buffers
            for piece in torch.split(buffer, _PIECE_BYTES)
            if len(piece)
        ]

        def is_done() -> bool:
            if not all(work.is_completed() for work in works):
                return False
            for work in works:
                work.wait()
            return True

        return is_done

    def broadcast_into(self, buffers: Sequence[Tensor]) -> None:
        """Copy rank 0's buffers into everybody's; *collective*."""
        if self.size == 1:
            return
        for buffer in buffers:
            for piece in torch.split(buffer, _PIECE_BYTES):
                if len(piece):
                    dist.broadcast(piece, src=self._members[0], group=self._weights)

    def _new_group(self) -> ProcessGroup:
        # Other peers of the same world need not take part.
        group: ProcessGroup = dist.new_group(
            self._members, backend="gloo", timeout=_TIMEOUT, use_local_synchronization=True
        )
        return group
