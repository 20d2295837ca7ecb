"""All teachers of one student, and the snapshots they hold."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from codistill.exchange.base import PeerPrediction, Predictions, TeacherInfo
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.checkpoint.saved_state import SavedTeacher
from codistill.exchange.checkpoint.sighting import Arrival, Discovery
from codistill.exchange.teacher_options import TeacherOptions
from codistill.exchange.teachers import Teacher, check_fits, make_teacher, shapes_of
from codistill.fragments import Box
from codistill.parallel.weights import is_sharded, named_fragments, named_tensors
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
        other_classes: By peer, how many classes it tells apart, where that is not what the student does.
        is_student_divided: Whether ranks divide the student among them.
    """

    def __init__(
        self, student: nn.Module, options: TeacherOptions, fading: Fading, *, class_dim: int | None = None
    ) -> None:
        """Begin without teachers.

        Args:
            student: The student, perhaps wrapped.
            options: How teachers are made.
            fading: How they grow old.
            class_dim: Where the classes are in logits, to leave out who has other ones; None leaves nobody
                out.
        """
        self.step = 0
        self.quarantined: frozenset[str] = frozenset()
        self.other_classes: dict[str, int] = {}
        # A copy of the student has its classes: then the caller's logits are wrong.
        self._class_dim = None if options.build is None else class_dim
        self._student = student
        self._options = options
        self._fading = fading
        self._shapes = shapes_of(student)
        self._device = next(
            (tensor.device for tensor in named_tensors(student).values()), torch.device("cpu")
        )
        self._teachers: dict[str, Teacher] = {}
        self._manifests: dict[str, ManifestReference] = {}
        self._is_nan: dict[str, Tensor | bool] = {}
        self._prepared: dict[str, Teacher] = {}
        self.is_student_divided = is_sharded(student)

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
        teacher = self._teacher_for(info, key=arrival.reference.key)
        teacher.load(
            arrival.tensors,
            info,
            first_seen_step=arrival.first_seen_step,
            are_fragments=arrival.is_part,
        )
        self._teachers[peer] = teacher
        self._prepared.pop(peer, None)
        self._manifests[peer] = arrival.reference
        self._is_nan.pop(peer, None)
        self.other_classes.pop(peer, None)

    def prepare(self, found: Arrival | Discovery) -> dict[str, Box]:
        """Return what this rank needs of a snapshot, by name; a teacher that is missing is made.

        **Ranks**: all of the peer, as ``build`` may call collectives.

        Raises:
            SnapshotMismatchError: If it does not fit the teacher.
        """
        info = SnapshotInfo.from_manifest(found.manifest)
        teacher = self._teacher_for(info, key=found.reference.key)
        self._prepared[info.peer] = teacher
        return {name: fragment.box for name, fragment in named_fragments(teacher.module).items()}

    @property
    def divided(self) -> frozenset[str]:
        """Whose teachers the ranks divide among them."""
        return frozenset(peer for peer, teacher in self._teachers.items() if teacher.is_divided)

    def keep_only(self, peers: Iterable[str]) -> None:
        """Let the teachers of all other peers go."""
        for peer in self._teachers.keys() - set(peers):
            del self._teachers[peer], self._manifests[peer]
            self._is_nan.pop(peer, None)
            self.other_classes.pop(peer, None)
        for peer in self._prepared.keys() - set(peers):
            del self._prepared[peer]

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

    def predict(
        self,
        inputs: Any,
        outputs_to_logits: Callable[[Any], Tensor] | None,
        *,
        logits: Tensor | None = None,
    ) -> Predictions:
        """Return what every teacher that counts predicts on a batch; nothing at steps that are left out.

        Args:
            inputs: What the student was called with.
            outputs_to_logits: Turns what a module returns into logits.
            logits: The student's, on whose device the predictions are to be; None for that of its weights.
        """
        if self.step % self._options.every != 0:
            return Predictions(())
        device = self._device if logits is None else logits.device
        predictions = []
        for peer in self.peers:
            share = self.share(peer)
            if share > 0.0:
                prediction = self._teachers[peer].predict(
                    inputs, outputs_to_logits, share=share, device=device
                )
                self._note_nan(prediction)
                if not self._has_other_classes(prediction, logits):
                    predictions.append(prediction)
        return Predictions(tuple(predictions))

    def who_was_nan(self) -> list[bool]:
        """Return for every teacher whether a prediction was no number, or of no use, since the last time.

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

    @property
    def ages(self) -> Mapping[str, int]:
        """The student's own steps since it first saw what every teacher holds."""
        return {peer: self.step - teacher.first_seen_step for peer, teacher in self._teachers.items()}

    def save(self) -> dict[str, SavedTeacher]:
        """Return the teachers' identity."""
        return {
            peer: SavedTeacher(
                manifest=self._manifests[peer], first_seen_step=self._teachers[peer].first_seen_step
            )
            for peer in self.peers
        }

    def _teacher_for(self, info: SnapshotInfo, *, key: str) -> Teacher:
        teacher = self._prepared.get(info.peer) or self._teachers.get(info.peer)
        if teacher is None or (self._options.build is not None and not teacher.fits(info)):
            teachers = {**self._teachers, **self._prepared}
            others = [other for name, other in teachers.items() if name != info.peer]
            teacher = make_teacher(self._student, info, self._options, others=others)
        teacher.check_fits(info, key=key)
        return teacher

    def _has_other_classes(self, prediction: PeerPrediction, logits: Tensor | None) -> bool:
        """Return whether a peer tells other classes apart than the student; then it is noted."""
        if self._class_dim is None or logits is None:
            return False
        own, other = list(logits.shape), list(prediction.target.logits_shape(self._class_dim))
        if len(own) != len(other):
            return False
        own_count, count = own.pop(self._class_dim), other.pop(self._class_dim)
        # Whatever else differs is a mistake of the caller's, which the loss names.
        if own_count == count or own != other:
            return False
        self.other_classes[prediction.peer] = count
        self._is_nan[prediction.peer] = True
        return True

    def _note_nan(self, prediction: PeerPrediction) -> None:
        if isinstance(prediction.share, Tensor):
            bad: Tensor | bool = prediction.share == 0.0
        else:
            bad = prediction.share == 0.0
        known = self._is_nan.get(prediction.peer, False)
        self._is_nan[prediction.peer] = bad | known if isinstance(bad, Tensor) else known or bad
