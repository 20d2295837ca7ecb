"""Where the training batches of a peer come from."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from codistill.data import PartitionedSampler
from codistill.lab import methods
from codistill.lab.methods.base import Place, Plan
from codistill.lab.peer_names import MOST_PEERS
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.samples import Inputs, Samples, Subset, to_device

_FRACTION_SEED = 0
"""Of which samples are used where a recipe asks for a part of them: the same in all arms and seeds."""


class Batches:
    """The batches of one rank of a peer, augmented, in an endless row.

    Args:
        recipe: Regime, seed, fraction of the data.
        task: Its task, loaded.
        place: Which peer and rank.
        plan: What the recipe becomes under its method.
        device: Where batches go.
    """

    def __init__(self, recipe: Recipe, *, task: Task, place: Place, plan: Plan, device: torch.device) -> None:
        self._task, self._device, self._size = task, device, plan.batch_size
        fraction = methods.method(recipe.method).data_fraction(recipe)
        self._train = _fraction(task.train, fraction).to(device)
        self.sampler = PartitionedSampler(
            len(self._train),
            peer=place.peer,
            peers=plan.parts,
            regime=recipe.regime,
            seed=recipe.seed,
            rank=place.rank,
            world_size=plan.ranks,
        )
        # Ranks of a peer start from the same weights but augment apart; peers augment alike where they are to
        # see the same batches.
        number = 0 if recipe.regime == "same_batches" else plan.number_of(place.peer)
        seed = recipe.seed * MOST_PEERS + number
        self.generator = Generator().manual_seed(seed * MOST_PEERS + place.rank)
        self._rows = self._endless_rows()

    @property
    def epoch_steps(self) -> int:
        """Updates in which the ranks of the peer go through its data once, at least 1."""
        return max(1, len(self.sampler) // self._size)

    def draw(self) -> tuple[Inputs, Tensor]:
        """Return the inputs of the next batch, ready for the model, and its targets."""
        # Their numbers stay on the CPU: samples that are read from files lie nowhere else.
        inputs, targets = self._train.batch(next(self._rows))
        return (
            to_device(self._task.training_inputs(inputs, self.generator), self._device),
            targets.to(self._device),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the order of samples; the generator's state is kept apart, for every rank."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where the batches were whose state that is."""
        self.sampler.load_state_dict(state)

    def _endless_rows(self) -> Iterator[Tensor]:
        samples = itertools.chain.from_iterable(itertools.repeat(self.sampler))
        while True:
            yield torch.tensor(list(itertools.islice(samples, self._size)))


def _fraction(samples: Samples, fraction: float) -> Samples:
    if fraction == 1.0:
        return samples
    generator = Generator().manual_seed(_FRACTION_SEED)
    count = max(1, round(fraction * len(samples)))
    return Subset(whole=samples, rows=torch.randperm(len(samples), generator=generator)[:count].sort().values)
