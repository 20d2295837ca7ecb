"""All teachers of one student, and the snapshots they hold."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from codistill.exchange.base import Predictions, TeacherInfo
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.saved_state import SavedTeacher
from codistill.exchange.teachers import Teacher, TeacherOptions, make_teacher
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.manifest import Manifest, ManifestReference


class Classroom:
    """Holds a teacher for each peer that is learnt from.

    **On failure**: ``take`` raises having changed nothing, and the last good teacher stays.
    """

    def __init__(
        self,
        student: nn.Module,
        options: TeacherOptions,
        fetcher: Fetcher,
        *,
        when_taken: Callable[[Manifest], None],
    ) -> None:
        """Begin without teachers.

        Args:
            student: The student, perhaps wrapped.
            options: How teachers are made.
            fetcher: Reads their weights.
            when_taken: Called with every snapshot that a teacher has been given.
        """
        self._student = student
        self._options = options
        self._fetcher = fetcher
        self._when_taken = when_taken
        self._teachers: dict[str, Teacher] = {}
        self._manifests: dict[str, ManifestReference] = {}

    def take(self, manifest: Manifest, reference: ManifestReference, *, first_seen_step: int) -> None:
        """Read a snapshot whole, then make it what its peer's teacher holds.

        **Blocks**: while the store is read.

        Args:
            manifest: The snapshot.
            reference: Where its manifest is.
            first_seen_step: The student's step when it first saw it.

        Raises:
            SnapshotError: If it does not fit or is damaged.
            StoreError: If the store cannot be read.
        """
        info = SnapshotInfo.from_manifest(manifest)
        teacher = self._teachers.get(manifest.peer)
        if teacher is None or (self._options.build is not None and not teacher.fits(info)):
            others = [other for peer, other in self._teachers.items() if peer != manifest.peer]
            teacher = make_teacher(self._student, info, self._options, others=others)
        teacher.check_fits(info, key=reference.key)
        teacher.load(self._fetcher.tensors(manifest), info, first_seen_step=first_seen_step)
        self._teachers[manifest.peer] = teacher
        self._manifests[manifest.peer] = reference
        self._when_taken(manifest)

    def keep_only(self, peers: Iterable[str]) -> None:
        """Let the teachers of all other peers go."""
        for peer in self._teachers.keys() - set(peers):
            del self._teachers[peer], self._manifests[peer]

    def predict(self, inputs: Any, outputs_to_logits: Callable[[Any], Tensor] | None) -> Predictions:
        """Return what every teacher predicts on a batch."""
        return Predictions(
            tuple(self._teachers[peer].predict(inputs, outputs_to_logits) for peer in sorted(self._teachers))
        )

    def describe(self, step: int) -> dict[str, TeacherInfo]:
        """Return the teachers as seen from the student's ``step``."""
        return {peer: self._teachers[peer].describe(step) for peer in sorted(self._teachers)}

    @property
    def orders(self) -> dict[str, tuple[int, int]]:
        """(incarnation, sequence) of what every teacher holds."""
        return {peer: reference.order for peer, reference in self._manifests.items()}

    def save(self) -> dict[str, SavedTeacher]:
        """Return the teachers' identity."""
        return {
            peer: SavedTeacher(
                manifest=self._manifests[peer], first_seen_step=self._teachers[peer].first_seen_step
            )
            for peer in sorted(self._teachers)
        }
