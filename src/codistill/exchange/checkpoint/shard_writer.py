"""What one rank writes of a model that ranks divide among them."""

from typing import Self, final

from torch import nn

from codistill.parallel.group import PeerRanks
from codistill.parallel.weights import fragments_to_publish
from codistill.snapshots.keys import shard_key
from codistill.snapshots.staging import Staging
from codistill.stores.base import Store


@final
class ShardWriter:
    """Copies this rank's fragments aside and writes them as its shard of a snapshot.

    **Ranks**: all of the peer; some may have nothing to write.
    **Blocks**: ``stage`` for one copy; ``write``, on any thread, until the store has taken the shard.
    **On failure**: raises; without manifest and pointer what was written is no snapshot.
    """

    def __init__(
        self,
        store: Store,
        source: nn.Module,
        *,
        peer: str,
        incarnation: int,
        codec: str,
        rank: int,
        writers: tuple[int, ...],
    ) -> None:
        """Take memory for one shard.

        Args:
            store: Where to.
            source: The module whose weights are published.
            peer: The peer's name.
            incarnation: Which life of the peer.
            codec: How weights are encoded.
            rank: This process's place in the peer.
            writers: The ranks that have something to write.
        """
        self._store = store
        self._source = source
        self._peer = peer
        self._incarnation = incarnation
        self._rank = rank
        self.count = len(writers)
        self._staging = None
        if rank in writers:
            fragments = fragments_to_publish(source, rank=rank)
            index = writers.index(rank) + 1
            self._staging = Staging(fragments, codec=codec, index=index, count=self.count)

    @classmethod
    def open(
        cls,
        store: Store,
        source: nn.Module,
        *,
        peer: str,
        incarnation: int,
        codec: str,
        ranks: PeerRanks,
    ) -> Self:
        """Find out which ranks write; *collective*. Arguments as those of the constructor."""
        has_any = bool(fragments_to_publish(source, rank=ranks.rank))
        are_writers = ranks.maximum([has_any and rank == ranks.rank for rank in range(ranks.size)])
        return cls(
            store,
            source,
            peer=peer,
            incarnation=incarnation,
            codec=codec,
            rank=ranks.rank,
            writers=tuple(rank for rank, is_writer in enumerate(are_writers) if is_writer),
        )

    @property
    def size_bytes(self) -> int:
        """Size of this rank's shard; 0 if it has none."""
        return 0 if self._staging is None else self._staging.size_bytes

    def stage(self) -> None:
        """Copy the fragments as they are now."""
        # On every rank: reading the state of a divided module reshards it.
        fragments = fragments_to_publish(self._source, rank=self._rank)
        if self._staging is not None:
            self._staging.fill(fragments)

    def write(self, sequence: int) -> bytes:
        """Write what was staged last.

        Args:
            sequence: Of which snapshot.

        Returns:
            A ``WrittenShard`` as JSON, for rank 0; empty if there was nothing to write.
        """
        if self._staging is None:
            return b""
        written, content = self._staging.encode_shard()
        self._store.write(shard_key(self._peer, self._incarnation, sequence, written.shard.name), content)
        return written.to_json()
