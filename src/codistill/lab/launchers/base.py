"""What starts the jobs of a run, wherever that is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

from codistill.errors import RecipeError
from codistill.lab.job import Job
from codistill.lab.recipe import Recipe


class Launcher(ABC):
    """Starts the jobs of a run and waits for them.

    Jobs that run elsewhere read the file that each was written to, and write where it says: the results
    folder and the data must be at the same paths there. A job that is taken off its machine comes back and
    goes on from its own checkpoint, or, before there is one, starts again under its name.

    Attributes:
        name: What users call it.
        is_here: Whether jobs run on this very machine, so that what they need must be here.
    """

    name: ClassVar[str]
    is_here: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Sequence[str]) -> Self:
        """Return a launcher with what a user says of its jobs.

        Raises:
            RecipeError: If there is no such setting, or it cannot have that value.
        """

    def check(self, recipe: Recipe) -> None:  # noqa: B027 - nothing to check is a fine answer
        """Check that a recipe can be trained so, before anything is made or started.

        Raises:
            RecipeError: If it cannot.
            ExtraMissingError: If a package is not installed.
        """

    def check_system(self) -> None:  # noqa: B027 - as above
        """Check that jobs can be started from this machine.

        Raises:
            RecipeError: If they cannot.
        """

    def is_running(self, job: Job) -> bool:  # noqa: ARG002 - for subclasses
        """Return whether an earlier call has started a job that still runs, or waits to.

        Such a job is not written anew, and `run` follows it in place of starting another.
        """
        return False

    @abstractmethod
    def run(
        self, jobs: Sequence[Job], *, ranks: int, on_poll: Callable[[], None], cores: int | None = None
    ) -> None:
        """Run jobs side by side until all have finished; if one fails, end the others.

        Args:
            jobs: One a peer, written to their files, all for the same device.
            ranks: Processes of every job.
            on_poll: Called again and again; what it raises ends the waiting.
            cores: Cores to divide among the jobs; all that are seen if not given.

        Raises:
            JobError: If a job fails; the message says what hindered it, or ends with its traceback.

        **Blocks**: until all have finished.

        **On failure**: what a job has written stays.
        """


def check_checkpoints(recipe: Recipe, *, on: str) -> None:
    """Check that a recipe writes checkpoints, from which a job that was taken off its machine goes on.

    Raises:
        RecipeError: If it does not.
    """
    if recipe.checkpoint_every is None:
        raise RecipeError(
            f"checkpoint_every must be given on {on}, which may take a job off its machine, got none. "
            f"Pass --checkpoint-every, of the {recipe.updates} updates of recipe {recipe.name!r}."
        )
