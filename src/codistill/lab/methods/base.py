"""What a method adds to a plain training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from codistill.errors import RecipeError
from codistill.lab.peer_names import MOST_PEERS, peer_names
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.samples import Inputs

Build = Callable[[str | None, int | None], nn.Module]
"""Returns a new model of some name and width, None for the task's own, on the device of this process."""

Arrangement = Literal["apart", "one_world", "one_process"]
"""Whether each model is a job of its own, all are ranks of one job, or all are in one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe becomes under its method."""

    peers: tuple[str, ...]
    """Names of the models, each a job of its own."""
    ranks: int
    """Processes of every job."""
    batch_size: int
    """Samples an update of every process."""
    parts: tuple[str, ...]
    """Names of the parts that the training data are divided into; peer x trains on part x."""
    arrangement: Arrangement = "apart"
    """How the models are spread over jobs."""
    has_earlier_phase: bool = False
    """Whether models of an earlier phase taught these, which are then seeded apart from them."""

    @property
    def jobs(self) -> tuple[tuple[str, ...], ...]:
        """The peers that each job trains."""
        return tuple((peer,) for peer in self.peers) if self.arrangement == "apart" else (self.peers,)

    @property
    def processes(self) -> int:
        """Processes of every job."""
        return self.ranks * (len(self.peers) if self.arrangement == "one_world" else 1)

    @property
    def shape(self) -> tuple[tuple[str, ...], int, Arrangement]:
        """What recipes must have in common to be trained in turn by the same processes."""
        return self.peers, self.ranks, self.arrangement

    def number_of(self, peer: str) -> int:
        """Return the number of a peer, from which its seed is made; below `MOST_PEERS`."""
        number = self.peers.index(peer)
        return MOST_PEERS - 1 - number if self.has_earlier_phase else number

    def places_of(self, job: Sequence[str], process: int) -> tuple[tuple[str, ...], int]:
        """Return which peers a process of a job trains, and which rank of theirs it is."""
        if self.arrangement == "one_world":
            number, rank = divmod(process, self.ranks)
            return (job[number],), rank
        return tuple(job), process


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which process of which job this is."""

    peer: str
    """Name of the peer that this process trains."""
    others: tuple[str, ...] = ()
    """Further peers that this very process trains."""
    rank: int = 0
    """Rank of the process within the peer."""
    exchange: str | Path
    """Store that the peers of the run share: a folder, or the URL of one elsewhere."""
    earlier: str | Path | None = None
    """Store with the models of an earlier phase, where there was one."""
    mesh: DeviceMesh | None = None
    """Peers x ranks, with dimensions of these names, where all peers are in one world."""
    comes_back: bool = False
    """Whether the peer has begun this run before, in a job that was cut off before its first checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a method has cost and met since the start of the run, earlier lives included."""

    stall_s: float = 0.0
    """Seconds spent in the exchange with other peers."""
    bytes_published: int = 0
    """Bytes of weights written for other peers."""
    bytes_fetched: int = 0
    """Bytes of weights read from other peers."""
    bytes_all_reduced: int = 0
    """Bytes this rank sent to average gradients."""
    teacher_share: float | None = None
    """Share of the updates that had a teacher; None for a model that is to have none."""
    teacher_samples: int = 0
    """Samples that went through teachers, once for each teacher."""
    publishes_skipped: int = 0
    """Intervals at which nothing was published because the store was busy."""
    weight_factor: float = 1.0
    """What the weight of the distillation loss has been lowered to because it diverged; 1 if it has not."""
    quarantined: tuple[str, ...] = ()
    """Teachers that are in quarantine now."""
    quarantined_updates: int = 0
    """Updates after which a teacher was in quarantine."""
    first_quarantine: int | None = None
    """The first of these updates; None if there was none."""
    advice: tuple[str, ...] = ()
    """What was said of settings that do not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What the teachers of a student made of its last batch, by peer; empty where it had none."""

    losses: Mapping[str, float] = field(default_factory=dict)
    """Unweighted distillation loss of each alone."""
    agreements: Mapping[str, float] = field(default_factory=dict)
    """Share of the positions at which each found the same class likeliest as the student."""
    ages: Mapping[str, int] = field(default_factory=dict)
    """The student's own updates since it first saw the snapshot of each; 0 where predictions are swapped."""


def for_one_model(recipe: Recipe) -> Recipe:
    """Return a recipe without what only several models can have; the one model gets all of their ranks."""
    return replace(
        recipe,
        ranks=recipe.peers * recipe.ranks_per_peer if recipe.ranks_per_peer else recipe.ranks,
        ranks_per_peer=None,
        regime="all_data",
        parts=None,
        topology="all",
        edges=(),
        peer_models=(),
        peer_widths=(),
        peer_learning_rates=(),
    )


class Method(ABC):
    """One way to train: met by the trainer at fixed points of an otherwise plain loop.

    The trainer builds the model, calls `wrap` once, then for every update `loss` and `step` in turn, and
    `close` at the end. A method is built anew for every run.

    Several ranks of a model average their gradients with `DistributedDataParallel`, and need the default
    process group, which the program of the rank makes.

    **Ranks**: every rank of a job has one and calls it alike.

    Attributes:
        uses_store: Whether the peers of a run meet in a store.
        keeps_store: Whether that store is needed when the run is over.
        ranks_differ: Whether the ranks of a model differ between averagings, so that each saves its own.
        counts_earlier: Whether what an earlier phase cost counts as this method's.
        is_ensemble: Whether what is judged is the mean of all models' probabilities.
        has_interval: Whether it exchanges or averages every ``interval_steps`` updates.
    """

    uses_store: ClassVar[bool] = False
    keeps_store: ClassVar[bool] = False
    ranks_differ: ClassVar[bool] = False
    counts_earlier: ClassVar[bool] = False
    is_ensemble: ClassVar[bool] = False
    has_interval: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, place: Place) -> None:
        self._recipe = recipe
        self._place = place
        self._plan = self.plan(recipe)
        self._bytes_a_step = 0
        self._steps = 0

    @classmethod
    def adapt(cls, recipe: Recipe) -> Recipe:
        """Return a recipe for some method as it would be under this one; its ``method`` is set already.

        For comparisons: what this method fixes or needs is changed, all else stays.
        """
        return recipe

    @classmethod
    def earlier(cls, recipe: Recipe) -> Recipe | None:  # noqa: ARG003 - for subclasses
        """Return what has to be trained before, as an arm of its own; None for nothing."""
        return None

    @classmethod
    def data_fraction(cls, recipe: Recipe) -> float:
        """Return the share of the training data that is used."""
        return recipe.data_fraction

    @classmethod
    def plan(cls, recipe: Recipe) -> Plan:
        """Return which jobs a recipe becomes.

        Raises:
            RecipeError: If the method cannot train it.
        """
        models, ranks = cls._jobs(recipe)
        if recipe.ranks_per_peer not in (None, ranks):
            raise RecipeError(
                f"ranks_per_peer must be {ranks} under method {recipe.method!r}, got "
                f"{recipe.ranks_per_peer}. Leave it out of recipe {recipe.name!r}."
            )
        shares = models * ranks
        if recipe.batch_size % shares:
            raise RecipeError(
                f"batch_size must be a multiple of the {shares} processes that share it, got "
                f"{recipe.batch_size}. Change it, or the peers or ranks, in recipe {recipe.name!r}."
            )
        parts = recipe.parts or models
        if parts < models:
            raise RecipeError(
                f"parts must be >= {models}, one for each peer, got {parts}. "
                f"Change it in recipe {recipe.name!r}."
            )
        return Plan(
            peers=peer_names(models),
            ranks=ranks,
            batch_size=recipe.batch_size // shares,
            parts=peer_names(parts),
            arrangement=cls._arrangement(),
            has_earlier_phase=cls.earlier(recipe) is not None,
        )

    @classmethod
    def _arrangement(cls) -> Arrangement:
        return "apart"

    @classmethod
    @abstractmethod
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        """Return how many models the recipe trains, and how many ranks each model has."""

    def wrap(
        self,
        model: nn.Module,
        build: Build | None = None,  # noqa: ARG002 - for subclasses
        *,
        epoch_steps: int = 1,  # noqa: ARG002
    ) -> nn.Module:
        """Return the module to call in the training loop; the model itself if it has one rank.

        Args:
            model: The model of this peer.
            build: Makes the model of another peer; None if all are like ``model``.
            epoch_steps: Updates in which the peer goes through its data once.
        """
        ranks = self._plan.ranks
        if ranks == 1:
            return model
        gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        # A ring all-reduce sends every byte twice, less the share that each rank keeps; gloo's is one.
        self._bytes_a_step = 2 * (ranks - 1) * gradient_bytes // ranks
        return DistributedDataParallel(model, process_group=self.group)

    def wrap_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,  # noqa: ARG002 - for subclasses
    ) -> torch.optim.Optimizer:
        """Return the optimizer to step with.

        Args:
            optimizer: That of the model.
            model: The model, not wrapped.
        """
        return optimizer

    def loss(
        self,
        logits: Tensor,  # noqa: ARG002 - for subclasses
        inputs: Inputs,  # noqa: ARG002
        *,
        mask: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor | None:
        """Return what is added to the task loss, or None for nothing.

        Args:
            logits: [batch, ..., classes], with gradient.
            inputs: What the model was called with.
            mask: Boolean, where a position counts; None for everywhere.
        """
        return None

    def losses(
        self, logits: Sequence[Tensor], inputs: Inputs, *, mask: Tensor | None = None
    ) -> Sequence[Tensor | None]:
        """Return what is added to the task loss of each model that this process trains, on one batch.

        Args:
            logits: As for `loss`, one a model.
            inputs: As for `loss`.
            mask: As for `loss`.
        """
        (own,) = logits
        return [self.loss(own, inputs, mask=mask)]

    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """Hear of an optimizer step.

        Args:
            task_loss: Of this rank, detached.
            samples: Of the whole peer, at this step.

        Returns:
            The unweighted distillation loss of the step, detached, 0-d, or [models] where this process trains
            several; None if there was none.
        """
        self._steps += 1
        return None

    def mean_over_ranks(self, values: Tensor) -> Tensor:
        """Return the mean of one or more numbers over the ranks of the peer.

        **Ranks**: all.
        """
        if self._plan.ranks == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self.group)
        return total / self._plan.ranks

    def gather_over_ranks(self, value: Tensor) -> Tensor:
        """Return a number of every rank of the peer, [ranks].

        **Ranks**: all.
        """
        if self._plan.ranks == 1:
            return value[None]
        gathered = [torch.empty_like(value) for _ in range(self._plan.ranks)]
        dist.all_gather(gathered, value, group=self.group)
        return torch.stack(gathered)

    @contextmanager
    def evaluated(self, model: nn.Module) -> Iterator[None]:  # noqa: ARG002 - for subclasses
        """Let ``model`` be what is to be evaluated meanwhile.

        **Ranks**: all.
        """
        yield

    def lessons(self) -> Lessons:
        """Return what the teachers made of the last batch."""
        return Lessons()

    def costs(self) -> Costs:
        """Return what the method has cost so far."""
        return Costs(bytes_all_reduced=self._steps * self._bytes_a_step)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; numbers, strings, lists, dicts and tensors only."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an earlier life, after `wrap` and before the first `loss`."""
        # Checkpoints of one rank that were written before steps were counted lack them.
        self._steps = int(state.get("steps", 0))

    def close(self) -> None:  # noqa: B027 - nothing to close is a fine answer
        """End the run."""

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The ranks of this peer; None for the whole world."""
        return None if self._place.mesh is None else self._place.mesh["ranks"].get_group()
