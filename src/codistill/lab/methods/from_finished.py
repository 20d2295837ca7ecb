"""What methods of two phases share: a student beside models that have finished before it begins."""

from typing import ClassVar

from typing_extensions import override

from codistill.exchange.base import Exchange
from codistill.exchange.checkpoint import CheckpointExchange, Membership
from codistill.lab.methods.base import Build
from codistill.lab.methods.codistillation import Codistillation, teacher_options
from codistill.lab.peer_names import peer_names
from codistill.lab.recipe import Recipe
from codistill.topologies import Directed

_STUDENT = "student"


class FromFinished(Codistillation):
    """Train one model beside frozen copies of the models of an earlier phase, whose snapshots never age.

    To the library the student is one more peer of their store, under a name of its own.
    """

    has_interval: ClassVar[bool] = False

    @classmethod
    @override
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        return 1, recipe.ranks_per_peer or 1

    @override
    def _exchange(self, build: Build | None) -> Exchange:
        recipe, earlier = self._recipe, self.earlier(self._recipe)
        assert earlier is not None
        assert self._place.earlier is not None
        teachers = peer_names(earlier.peers)
        return CheckpointExchange(
            self._place.earlier,
            peer=_STUDENT,
            peers=[_STUDENT, *teachers],
            interval_steps=recipe.updates,
            topology=Directed((teacher, _STUDENT) for teacher in teachers),
            teachers=teacher_options(build, len(teachers)),
            # A run that was killed before its first checkpoint begins again under its name.
            membership=Membership(start_with_peers=len(teachers), rejoin=True),
        )

    @property
    @override
    def _is_student(self) -> bool:
        return True
