"""The teachers that somebody else runs, as one student knows them."""

from collections.abc import Mapping, Sequence
from typing import Final, final

import torch

from codistill.exchange.base import PeerPrediction, Predictions, TeacherInfo
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.quarantine import Quarantine, is_worse
from codistill.exchange.checkpoint.roster import Order, Roster, Sighted
from codistill.exchange.notices import Notices
from codistill.exchange.served.answer import Answer, ServedVersion
from codistill.exchange.usable import without_nan
from codistill.losses.sparse import SparseTarget
from codistill.losses.targets import DenseTarget, Target

_INTERVALS_UNTIL_STALE: Final = 20


@final
class ServedTeachers:
    """Knows whose predictions came last, of which versions, and how much each counts.

    Attributes:
        step: The student's step, by which versions grow old.
    """

    def __init__(
        self,
        notices: Notices,
        *,
        url: str,
        peer: str | None,
        peers: Sequence[str] | None,
        max_age_steps: int | None,
    ) -> None:
        """Begin without teachers.

        Args:
            notices: Where it is said what is wrong with one.
            url: Where the server is.
            peer: The student's own name, if it has one.
            peers: Whom to learn from; None for all.
            max_age_steps: The age up to which a version counts fully; None is 20 of its peer's intervals.
        """
        self.step = 0
        self._notices = notices
        self._url = url
        self._peer = peer
        self._peers = peers
        self._max_age_steps = max_age_steps
        self._quarantine = Quarantine()
        self._roster = Roster()
        self._versions: dict[str, ServedVersion] = {}
        self._new: list[str] = []
        self._task_loss: float | None = None

    @property
    def seen(self) -> Mapping[str, Sighted]:
        """The newest version that was seen of every peer."""
        return self._roster.peers

    def remember(self, seen: Mapping[str, Sighted]) -> None:
        """Take over what an earlier life has seen."""
        self._roster = Roster(seen)

    @property
    def silent(self) -> dict[str, Order]:
        """Versions that count nothing now, and need not be asked for."""
        return {peer: version.order for peer, version in self._versions.items() if self._share(peer) == 0.0}

    def take_new(self) -> list[str]:
        """Return whose versions have become others since the last time, and still are there."""
        new = [peer for peer in self._new if peer in self._versions]
        self._new.clear()
        return new

    def judge(self, task_loss: float | None, *, is_away: bool) -> None:
        """Put teachers apart whose task loss has been too high for too long.

        Args:
            task_loss: The student's.
            is_away: Whether the server does not answer now.
        """
        self._task_loss = task_loss
        for peer, reason in self._quarantine.judge(self.describe(is_away=is_away), task_loss).items():
            self._say_quarantined(peer, reason)

    def describe(self, *, is_away: bool) -> dict[str, TeacherInfo]:
        """Return the teachers as seen from the student's step.

        Args:
            is_away: Whether the server does not answer now, so that none counts.
        """
        return {
            peer: TeacherInfo(
                peer=peer,
                incarnation=version.incarnation,
                sequence=version.sequence,
                step=version.step,
                samples=version.samples,
                age_steps=self._roster.age_steps(peer, step=self.step),
                task_loss=version.task_loss,
                metadata={},
                share=0.0 if is_away else self._share(peer),
                is_quarantined=peer in self._quarantine.peers,
                is_finished=version.finished,
            )
            for peer, version in sorted(self._versions.items())
        }

    def take(self, answer: Answer, targets: Sequence[Target], device: torch.device) -> Predictions:
        """Make an answer what the student knows of its teachers; return what it is taught.

        Args:
            answer: What the server said.
            targets: The predictions in it, decoded.
            device: Where predictions are to be.
        """
        told = {prediction.version.peer for prediction in answer.predictions}
        # Who was left out because it counts nothing is still there, as far as the student knows.
        self._versions = {
            peer: version
            for peer, version in self._versions.items()
            if peer in told or self._share(peer) == 0.0
        }
        predictions = []
        for prediction, target in zip(answer.predictions, targets, strict=True):
            version = prediction.version
            if not self._is_welcome(version):
                continue
            target, usable = without_nan(target)
            if not prediction.is_usable or usable == 0.0:
                reason = f"its logits at step {version.step} are not finite numbers"
                if self._quarantine.put(version.peer, reason):
                    self._say_quarantined(version.peer, reason)
            predictions.append(
                PeerPrediction(
                    peer=version.peer,
                    target=_on(device, target),
                    step=version.step,
                    samples=version.samples,
                    sequence=version.order,
                    share=self._share(version.peer),
                )
            )
        return Predictions(tuple(predictions))

    def without_other_shapes(
        self, answer: Answer, targets: list[Target], shape: torch.Size
    ) -> tuple[Answer, list[Target]]:
        """Leave out peers that have become another model; in a first answer the loss refuses them."""
        pairs = []
        for prediction, target in zip(answer.predictions, targets, strict=True):
            subject = ("shape", prediction.version.peer)
            if prediction.shape == shape:
                self._notices.has_passed(subject)
                pairs.append((prediction, target))
                continue
            self._notices.say(
                subject,
                f"Peer {prediction.version.peer!r} is not learnt from at step {self.step}: its logits have "
                f"shape {list(prediction.shape)}, the student's {list(shape)}.",
            )
        return Answer(predictions=tuple(one for one, _ in pairs)), [target for _, target in pairs]

    def _is_welcome(self, version: ServedVersion) -> bool:
        """Take note of a version; return False if the student is not to learn from it."""
        peer = version.peer
        if peer == self._peer or (self._peers is not None and peer not in self._peers):
            return False
        if not self._roster.see(peer, version.order, step=self.step):
            self._notices.say(
                ("older", peer),
                f"The server at {self._url} has gone back to an older snapshot of peer {peer!r} than it "
                "has shown before: it is not learnt from until there is a newer one.",
            )
            self._versions.pop(peer, None)
            return False
        self._notices.has_passed(("older", peer))
        known = self._versions.get(peer)
        self._versions[peer] = version
        if known is None or known.order != version.order:
            self._new.append(peer)
            is_better = peer in self._quarantine.peers and not is_worse(version.task_loss, self._task_loss)
            if is_better and self._quarantine.let_out(peer):
                self._notices.has_passed(("quarantine", peer))
        return True

    def _share(self, peer: str) -> float:
        """Return how much a teacher counts at this step, between 0 and 1."""
        if peer in self._quarantine.peers:
            return 0.0
        version = self._versions[peer]
        fading = Fading(
            max_age_steps=self._max_age_steps or _INTERVALS_UNTIL_STALE * version.interval_steps,
            when_stale="fade",
        )
        age_steps = self._roster.age_steps(peer, step=self.step)
        share = fading.share(age_steps, is_finished=version.finished)
        if share < 1.0:
            self._notices.say(
                ("fading", peer, version.order),
                f"Peer {peer!r} has published nothing new for {age_steps} steps of this student: its share "
                "falls to 0.",
            )
        return share

    def _say_quarantined(self, peer: str, reason: str) -> None:
        self._notices.say(
            ("quarantine", peer),
            f"Peer {peer!r} is not learnt from any more: {reason}. It will be again once it has published a "
            "better snapshot.",
        )


def _on(device: torch.device, target: Target) -> Target:
    """Return a target on a device."""
    if isinstance(target, DenseTarget):
        return DenseTarget(target.logits.to(device))
    return SparseTarget(
        classes=target.classes.to(device),
        weights=target.weights.to(device),
        entropy=target.entropy.to(device),
        temperature=target.temperature,
        class_count=target.class_count,
    )
