"""Train one peer: the plain loop that a user would write, with a method's two lines in it."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codistill import metrics, schedules
from codistill.data import PartitionedSampler
from codistill.lab import checkpoint, methods, results
from codistill.lab.checkpoint import CHECKPOINT
from codistill.lab.evaluation import Scores, score
from codistill.lab.methods.base import Place
from codistill.lab.recipe import MOST_PEERS, Recipe
from codistill.lab.results import Evaluation, PeerResult
from codistill.lab.running_losses import RunningLosses
from codistill.lab.tasks.base import Split, Task


class Trainer:
    """One rank of one peer of one run.

    Deterministic given recipe, peer, and numbers of ranks and threads; on the CPU and in lockstep a run that
    was interrupted and goes on from its checkpoint ends with the same bits as one that was not.

    Args:
        recipe: What to train.
        task: Its task, loaded.
        place: Which peer and rank this is.
        folder: Where rank 0 leaves metrics, checkpoints and the result; made if need be. If it holds a
            checkpoint, training goes on from there.
        device: Where the model lives.

    **Ranks**: all ranks of the peer build one and call `train`.
    """

    def __init__(
        self, recipe: Recipe, *, task: Task, place: Place, folder: Path, device: torch.device
    ) -> None:
        self._recipe, self._task, self._place, self._folder = recipe, task, place, folder
        self._device = device
        self._method = methods.method(recipe.method)(recipe, place)
        self._plan = self._method.plan(recipe)
        self._train = Split(inputs=task.train.inputs.to(device), targets=task.train.targets.to(device))
        seed = recipe.seed * MOST_PEERS + self._plan.peers.index(place.peer)
        torch.manual_seed(seed)
        self._model = self._build(recipe.width_of(place.peer))
        self._initial = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        self._wrapped = self._method.wrap(self._model, self._build)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(),
            lr=recipe.learning_rate_of(place.peer),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self._learning_rate = _at_drops(
            recipe, recipe.learning_rate_of(place.peer), recipe.learning_rate_factor
        )
        self._weight_decay = _at_drops(recipe, recipe.weight_decay, recipe.weight_decay_factor)
        self._sampler = PartitionedSampler(
            len(task.train.targets),
            peer=place.peer,
            peers=self._plan.parts,
            regime=recipe.regime,
            seed=recipe.seed,
            rank=place.rank,
            world_size=self._plan.ranks,
        )
        # Ranks of a peer start from the same weights but augment apart.
        self._generator = torch.Generator().manual_seed(seed * MOST_PEERS + place.rank)
        self._step = 0
        self._seconds = 0.0
        self._losses = RunningLosses(self._device)
        # Of the last evaluation; on rank 0 only.
        self._validation: Scores | None = None

    def train(self, *, read_test: bool) -> PeerResult | None:
        """Train to the end; rank 0 writes down what came of it and returns it, the others return None.

        Args:
            read_test: Whether to read the test set, at the very end. Searches do not.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        recipe = self._recipe
        batches = self._batches()
        self._wrapped.train()
        while self._step < recipe.updates:
            began = time.perf_counter()
            self._update(next(batches))
            self._seconds += time.perf_counter() - began
            is_last = self._step == recipe.updates
            if self._step % recipe.evaluate_every == 0 or is_last:
                self._evaluate()
            if recipe.checkpoint_every and self._step % recipe.checkpoint_every == 0 and not is_last:
                self._save_checkpoint()
        self._method.close()
        # The last update was followed by an evaluation.
        return None if self._validation is None else self._finish(self._validation, read_test=read_test)

    def _build(self, width: int | None) -> nn.Module:
        return self._task.model(width).to(self._device)

    def _batches(self) -> Iterator[Tensor]:
        samples = itertools.chain.from_iterable(itertools.repeat(self._sampler))
        while True:
            yield torch.tensor(list(itertools.islice(samples, self._plan.batch_size)))

    def _update(self, rows: Tensor) -> None:
        rows = rows.to(self._device)
        inputs = self._task.training_inputs(self._train.inputs[rows], self._generator)
        logits = self._wrapped(inputs)
        task_loss = F.cross_entropy(
            logits, self._train.targets[rows], label_smoothing=self._recipe.label_smoothing
        )
        distillation = self._method.loss(logits, inputs)
        loss = task_loss if distillation is None else task_loss + distillation
        schedules.apply(
            self._optimizer, step=self._step, lr=self._learning_rate, weight_decay=self._weight_decay
        )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self._optimizer.step()
        self._optimizer.zero_grad()
        task_loss = task_loss.detach()
        self._losses.add(task_loss, self._method.step(task_loss=task_loss, samples=self._samples_after(1)))
        self._step += 1

    def _samples_after(self, steps: int) -> int:
        """Return how many samples the peer, all ranks, trains on in that many steps."""
        return steps * self._plan.batch_size * self._plan.ranks

    def _evaluate(self) -> None:
        train_loss = self._method.mean_over_ranks(self._losses.mean_task_loss())
        distillation_loss = self._mean_distillation_loss()
        if self._place.rank == 0:
            scores = self._validation = self._scores(self._task.validation)
            step, costs = self._step - 1, self._method.costs()
            row = Evaluation(
                step=self._step,
                samples=self._samples_after(self._step),
                train_loss=float(train_loss),
                distillation_loss=distillation_loss,
                validation_accuracy=scores.accuracy,
                validation_nll=scores.nll,
                distance=self._distance(),
                learning_rate=self._learning_rate(step),
                weight_decay=self._weight_decay(step),
                teacher_share=costs.teacher_share,
                quarantined=costs.quarantined,
            )
            results.append_evaluation(self._folder / results.METRICS, row)
        self._losses = RunningLosses(self._device)

    def _mean_distillation_loss(self) -> float | None:
        own = self._losses.mean_distillation_loss()
        known = torch.tensor([own or 0.0, float(own is not None)], device=self._device)
        total, share = self._method.mean_over_ranks(known).tolist()
        return total / share if share else None

    def _scores(self, split: Split) -> Scores:
        return score(self._model, split, task=self._task, device=self._device)

    def _distance(self) -> float:
        return metrics.distance_from_initialisation(dict(self._model.named_parameters()), self._initial)

    def _finish(self, validation: Scores, *, read_test: bool) -> PeerResult:
        split = self._task.test() if read_test else None
        test = None if split is None else self._scores(split)
        result = PeerResult(
            arm=self._recipe.label,
            peer=self._place.peer,
            seed=self._recipe.seed,
            updates=self._step,
            samples=self._samples_after(self._step),
            parameters=sum(p.numel() for p in self._model.parameters()),
            validation_accuracy=validation.accuracy,
            validation_nll=validation.nll,
            test_accuracy=None if test is None else test.accuracy,
            test_nll=None if test is None else test.nll,
            distance=self._distance(),
            seconds=self._seconds,
            **asdict(self._method.costs()),
        )
        if split is not None and test is not None:
            np.save(self._folder / results.TEST_SCORES, test.log_probabilities.numpy(), allow_pickle=False)
            np.save(self._folder / results.TEST_TARGETS, split.targets.numpy(), allow_pickle=False)
        # Last, as its presence says that this peer has finished.
        results.save_result(self._folder / results.RESULT, result)
        return result

    def _save_checkpoint(self) -> None:
        random_state = checkpoint.gather_random_state(self._generator, ranks=self._plan.ranks)
        losses = {
            name: self._method.gather_over_ranks(value) if isinstance(value, Tensor) else value
            for name, value in self._losses.state_dict().items()
        }
        if self._place.rank != 0:
            return
        state: dict[str, Any] = {
            "step": self._step,
            "seconds": self._seconds,
            "losses": losses,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "method": self._method.state_dict(),
            "sampler": self._sampler.state_dict(),
            "random": random_state,
        }
        checkpoint.save(self._folder / CHECKPOINT, state)

    def _resume(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return
        state = checkpoint.load(path)
        self._step, self._seconds = state["step"], state["seconds"]
        self._losses.load_state_dict(
            {
                # Checkpoints that were written before each rank's was kept have that of rank 0.
                name: value.expand(self._plan.ranks)[self._place.rank] if isinstance(value, Tensor) else value
                for name, value in state["losses"].items()
            }
        )
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._method.load_state_dict(state["method"])
        self._sampler.load_state_dict(state["sampler"])
        checkpoint.set_random_state(self._generator, state["random"][self._place.rank])
        if self._place.rank == 0:
            self._drop_rows_after(self._step)

    def _drop_rows_after(self, step: int) -> None:
        path = self._folder / results.METRICS
        rows = results.load_evaluations(path) if path.exists() else []
        results.save_evaluations(path, [row for row in rows if row.step <= step])


def _at_drops(recipe: Recipe, initial: float, factor: float) -> schedules.AtDrops:
    drops = {
        round(fraction * recipe.updates): initial * factor**number
        for number, fraction in enumerate(recipe.learning_rate_drops, start=1)
    }
    return schedules.AtDrops(initial, drops)
