"""All teachers of one student, and the snapshots they hold."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from torch import Tensor, nn

from codistill.exchange.base import PeerPrediction, Predictions, TeacherInfo
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.saved_state import SavedTeacher
from codistill.exchange.checkpoint.sighting import Arrival
from codistill.exchange.teachers import Teacher, TeacherOptions, check_fits, make_teacher, shapes_of
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.manifest import Manifest, ManifestReference


@final
class Classroom:
    """Holds a teacher for each peer that is learnt from, and knows how much each counts.

    **Ranks**: each rank has its own, with the same teachers in it.
    **On failure**: ``take`` raises having changed nothing, and the last good teacher stays.

    Attributes:
        step: The student's step, by which snapshots grow old.
        quarantined: Whose predictions count nothing until there is a better snapshot.
    """

    def __init__(self, student: nn.Module, options: TeacherOptions, fading: Fading) -> None:
        """Begin without teachers.

        Args:
            student: The student, perhaps wrapped.
            options: How teachers are made.
            fading: How they grow old.
        """
        self.step = 0
        self.quarantined: frozenset[str] = frozenset()
        self._student = student
        self._options = options
        self._fading = fading
        self._shapes = shapes_of(student)
        self._teachers: dict[str, Teacher] = {}
        self._manifests: dict[str, ManifestReference] = {}
        self._is_nan: dict[str, Tensor | bool] = {}

    def check_fits(self, manifest: Manifest) -> None:
        """Refuse a snapshot that no teacher here can hold, before it is downloaded; on any thread.

        Where ``build`` makes the teachers, ``take`` finds out.

        Raises:
            SnapshotMismatchError: If names or shapes differ.
        """
        if self._options.build is None:
            check_fits(SnapshotInfo.from_manifest(manifest), self._shapes, key=manifest.key)

    def take(self, arrival: Arrival) -> None:
        """Make a snapshot what its peer's teacher holds, by copying it into the teacher's own memory.

        Raises:
            SnapshotMismatchError: If it does not fit what ``build`` made.
        """
        info = SnapshotInfo.from_manifest(arrival.manifest)
        peer = info.peer
        teacher = self._teachers.get(peer)
        if teacher is None or (self._options.build is not None and not teacher.fits(info)):
            others = [other for name, other in self._teachers.items() if name != peer]
            teacher = make_teacher(self._student, info, self._options, others=others)
        teacher.check_fits(info, key=arrival.reference.key)
        teacher.load(arrival.tensors, info, first_seen_step=arrival.first_seen_step)
        self._teachers[peer] = teacher
        self._manifests[peer] = arrival.reference
        self._is_nan.pop(peer, None)

    def keep_only(self, peers: Iterable[str]) -> None:
        """Let the teachers of all other peers go."""
        for peer in self._teachers.keys() - set(peers):
            del self._teachers[peer], self._manifests[peer]
            self._is_nan.pop(peer, None)

    @property
    def peers(self) -> list[str]:
        """Whose teachers there are, sorted."""
        return sorted(self._teachers)

    def share(self, peer: str) -> float:
        """Return how much a teacher counts at this step, between 0 and 1."""
        if peer in self.quarantined:
            return 0.0
        teacher = self._teachers[peer]
        return self._fading.share(self.step - teacher.first_seen_step, is_finished=teacher.is_finished)

    def predict(self, inputs: Any, outputs_to_logits: Callable[[Any], Tensor] | None) -> Predictions:
        """Return what every teacher that counts predicts on a batch."""
        predictions = []
        for peer in self.peers:
            share = self.share(peer)
            if share > 0.0:
                prediction = self._teachers[peer].predict(inputs, outputs_to_logits, share=share)
                self._note_nan(prediction)
                predictions.append(prediction)
        return Predictions(tuple(predictions))

    def who_was_nan(self) -> list[bool]:
        """Return for every teacher whether a prediction was no number since the last time.

        **Blocks**: for the device.
        """
        flags = [bool(self._is_nan.get(peer, False)) for peer in self.peers]
        self._is_nan.clear()
        return flags

    def describe(self) -> dict[str, TeacherInfo]:
        """Return the teachers as seen from the student's step."""
        return {
            peer: self._teachers[peer].describe(
                self.step, share=self.share(peer), is_quarantined=peer in self.quarantined
            )
            for peer in self.peers
        }

    @property
    def orders(self) -> Mapping[str, Order]:
        """(incarnation, sequence) of what every teacher holds."""
        return {peer: reference.order for peer, reference in self._manifests.items()}

    def save(self) -> dict[str, SavedTeacher]:
        """Return the teachers' identity."""
        return {
            peer: SavedTeacher(
                manifest=self._manifests[peer], first_seen_step=self._teachers[peer].first_seen_step
            )
            for peer in self.peers
        }

    def _note_nan(self, prediction: PeerPrediction) -> None:
        if isinstance(prediction.share, Tensor):
            bad: Tensor | bool = prediction.share == 0.0
        else:
            bad = prediction.share == 0.0
        known = self._is_nan.get(prediction.peer, False)
        self._is_nan[prediction.peer] = bad | known if isinstance(bad, Tensor) else known or bad
