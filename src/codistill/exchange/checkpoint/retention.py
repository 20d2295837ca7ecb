"""Which snapshots somebody still reads."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, final

from codistill.exchange.checkpoint.lives import read_status
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.waiting import Clock
from codistill.stores.base import Store

STILL_S: Final = 600.0


@dataclass(slots=True)
class _Reader:
    beat: tuple[int, int]
    moved_s: float


@final
class Retention:
    """Spares the snapshots that other peers say they are reading, as long as they live.

    A reader whose heartbeat has stood still for 600 s, by this peer's own clock, is spared no more.

    **Ranks**: rank 0, any one thread at a time.
    **Blocks**: while the store is read, a small document a peer.
    **On failure**: raises ``StoreError``; then nothing should be deleted.
    """

    def __init__(self, store: Store, *, peer: str, others: Callable[[], Iterable[str]], clock: Clock) -> None:
        """Look at one run.

        Args:
            store: Where statuses are.
            peer: Whose snapshots.
            others: Returns the names of all other peers.
            clock: Measures for how long a heartbeat stands still.
        """
        self._store = store
        self._peer = peer
        self._others = others
        self._clock = clock
        self._readers: dict[str, _Reader] = {}

    def spared(self) -> set[Order]:
        """Return (incarnation, sequence) of this peer's snapshots that are being read.

        Raises:
            StoreError: If the store cannot be read.
        """
        now_s = self._clock.monotonic()
        spared = set()
        for name in self._others():
            status = read_status(self._store, name)
            if status is None or status.state != "running" or self._peer not in status.reading:
                self._readers.pop(name, None)
                continue
            beat = (status.incarnation, status.heartbeat)
            reader = self._readers.setdefault(name, _Reader(beat, now_s))
            if reader.beat != beat:
                reader.beat, reader.moved_s = beat, now_s
            if now_s - reader.moved_s < STILL_S:
                spared.add(status.reading[self._peer])
        return spared
