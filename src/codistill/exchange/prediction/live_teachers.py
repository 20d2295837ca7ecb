"""Other peers' students as teachers: who they are, and whether what they say are numbers."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from codistill.exchange.base import TeacherInfo
from codistill.exchange.notices import Notices
from codistill.exchange.prediction.agreement import SwapHeader


@final
class LiveTeachers:
    """Describes the peers whose predictions came with the last swap.

    **Blocks**: ``look`` waits for the device; nothing else does.
    """

    def __init__(self, notices: Notices) -> None:
        """Begin without teachers.

        Args:
            notices: Where it is said that one's logits are no numbers.
        """
        self._notices = notices
        self._headers: dict[str, SwapHeader] = {}
        self._swaps = 0
        self._shares: dict[str, float] = {}
        self._unread: dict[str, Tensor] = {}

    def meet(self, headers: Mapping[str, SwapHeader], *, swaps: int) -> None:
        """Take note of a swap.

        Args:
            headers: What each of the others said of its prediction.
            swaps: How many there have been.
        """
        self._headers = dict(headers)
        self._swaps = swaps

    def note(self, peer: str, share: float | Tensor) -> None:
        """Take note of how much a prediction counts: 1, or 0 if it is no numbers; a tensor is not read."""
        if isinstance(share, Tensor):
            least = self._unread.get(peer, share)
            self._unread[peer] = torch.minimum(least, share)
            return
        self._shares[peer] = share
        if share > 0.0:
            self._notices.has_passed(("quarantine", peer))
        else:
            self._notices.say(
                ("quarantine", peer),
                f"Peer {peer!r} is not learnt from at step {self._headers[peer].step}: its logits are not "
                "finite numbers. It will be again once they are.",
            )

    def look(self) -> None:
        """Read what has not been read."""
        unread, self._unread = self._unread, {}
        for peer, share in unread.items():
            self.note(peer, float(share))

    def describe(self) -> dict[str, TeacherInfo]:
        """Return the teachers, by peer."""
        return {
            peer: TeacherInfo(
                peer=peer,
                incarnation=0,
                sequence=self._swaps,
                step=header.step,
                samples=header.samples,
                age_steps=0,
                task_loss=None,
                metadata={},
                share=self._shares.get(peer, 1.0),
                is_quarantined=self._shares.get(peer, 1.0) == 0.0,
            )
            for peer, header in sorted(self._headers.items())
        }
