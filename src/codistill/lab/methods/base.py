"""What a method adds to a plain training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from codistill.errors import RecipeError
from codistill.lab import recipe as recipes
from codistill.lab.recipe import Recipe

Build = Callable[[int | None], nn.Module]
"""Returns a new model of some width, None for the task's own, on the device of this process."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which process of which job this is."""

    peer: str
    """Name of the peer that the job trains."""
    rank: int = 0
    """Rank of the process within the job."""
    exchange: str | Path
    """Store that the peers of the run share: a folder, or the URL of one elsewhere."""


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


class Method(ABC):
    """One way to train: met by the trainer at fixed points of an otherwise plain loop.

    The trainer builds the model, calls `wrap` once, then for every update `loss` and `step` in turn, and
    `close` at the end. A method is built anew for every run.

    Several ranks of a model average their gradients with `DistributedDataParallel`, and need the default
    process group, which the program of the rank makes.

    **Ranks**: every rank of a job has one and calls it alike.

    Attributes:
        uses_store: Whether the peers of a run meet in a store.
    """

    uses_store: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, place: Place) -> None:
        self._recipe = recipe
        self._place = place
        self._plan = self.plan(recipe)
        self._bytes_a_step = 0
        self._steps = 0

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
            peers=recipes.peer_names(models),
            ranks=ranks,
            batch_size=recipe.batch_size // shares,
            parts=recipes.peer_names(parts),
        )

    @classmethod
    @abstractmethod
    def _jobs(cls, recipe: Recipe) -> tuple[int, int]:
        """Return how many models the recipe trains, and how many ranks each model has."""

    def wrap(self, model: nn.Module, build: Build | None = None) -> nn.Module:  # noqa: ARG002 - for subclasses
        """Return the module to call in the training loop; the model itself if it has one rank.

        Args:
            model: The model of this peer.
            build: Makes the model of another peer; None if all are like ``model``.
        """
        ranks = self._plan.ranks
        if ranks == 1:
            return model
        gradient_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        # A ring all-reduce sends every byte twice, less the share that each rank keeps; gloo's is one.
        self._bytes_a_step = 2 * (ranks - 1) * gradient_bytes // ranks
        return DistributedDataParallel(model)

    def loss(self, logits: Tensor, inputs: Tensor) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """Return what is added to the task loss, or None for nothing.

        Args:
            logits: [batch, classes], with gradient.
            inputs: What the model was called with.
        """
        return None

    def step(self, *, task_loss: Tensor, samples: int) -> Tensor | None:  # noqa: ARG002 - for subclasses
        """Hear of an optimizer step.

        Args:
            task_loss: Of this rank, detached.
            samples: Of the whole peer, at this step.

        Returns:
            The unweighted distillation loss of the step, detached; None if there was none.
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
        dist.all_reduce(total)
        return total / self._plan.ranks

    def gather_over_ranks(self, value: Tensor) -> Tensor:
        """Return a number of every rank of the peer, [ranks].

        **Ranks**: all.
        """
        if self._plan.ranks == 1:
            return value[None]
        gathered = [torch.empty_like(value) for _ in range(self._plan.ranks)]
        dist.all_gather(gathered, value)
        return torch.stack(gathered)

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
