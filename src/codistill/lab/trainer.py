"""Train the peers of one process: the plain loop that a user would write, with a method's lines in it."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codistill.errors import RunExistsError
from codistill.lab import checkpoint, methods, peak_memory, results
from codistill.lab.batches import Batches
from codistill.lab.checkpoint import CHECKPOINT
from codistill.lab.evaluation import Scores, score
from codistill.lab.kept_scores import KeptScores
from codistill.lab.methods.base import Place
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation, PeerResult
from codistill.lab.running_losses import RunningLosses
from codistill.lab.student import Student
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.samples import Samples

OnEvaluation = Callable[[str, Evaluation], None]
"""Called on rank 0 with a peer's name and each new row of its metrics."""


class Trainer:
    """One process of one run: a rank of one peer, or the only rank of several.

    Deterministic given recipe, peer, and numbers of ranks and threads; on the CPU and in lockstep a run that
    was interrupted and goes on from its checkpoint ends with the same bits as one that was not.

    Args:
        recipe: What to train.
        task: Its task, loaded.
        place: Which peers and rank this is.
        folder: Where rank 0 leaves metrics, checkpoints and the result of the peer; made if need be. If it
            holds a checkpoint, training goes on from there. Further peers have folders beside it.
        device: Where models live.
        on_evaluation: Hears of every evaluation.

    **Ranks**: all ranks of the peer build one and call `train`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        task: Task,
        place: Place,
        folder: Path,
        device: torch.device,
        on_evaluation: OnEvaluation | None = None,
    ) -> None:
        self._recipe, self._task, self._place, self._folder = recipe, task, place, folder
        self._device, self._on_evaluation = device, on_evaluation
        self._method = methods.method(recipe.method)(recipe, place)
        self._plan = self._method.plan(recipe)
        peak_memory.forget(device)
        self._batches = Batches(recipe, task=task, place=place, plan=self._plan, device=device)
        prior = task.class_frequencies().to(device) if recipe.smoothing_prior == "unigram" else None
        self._students = [
            Student(
                recipe,
                task=task,
                peer=peer,
                plan=self._plan,
                folder=folder.with_name(peer) if place.others else folder,
                device=device,
                prior=prior,
            )
            for peer in (place.peer, *place.others)
        ]
        for student in self._students:
            student.wrap(self._method, epoch_steps=self._batches.epoch_steps)
        self._step = 0
        self._seconds = 0.0
        # Of the last evaluation, one a student; on rank 0 only.
        self._validation: list[Scores] = []

    def train(self, *, read_test: bool) -> PeerResult | None:
        """Train to the end; rank 0 writes down what came of it, the others nothing.

        Args:
            read_test: Whether to read the test set, at the very end. Searches do not.

        Returns:
            The result of the first of this process's peers, on its rank 0; None on the others.
        """
        for student in self._students:
            student.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        recipe = self._recipe
        for student in self._students:
            student.wrapped.train()
        while self._step < recipe.updates:
            began = time.perf_counter()
            self._update()
            self._seconds += time.perf_counter() - began
            is_last = self._step == recipe.updates
            if self._step % recipe.evaluate_every == 0 or is_last:
                self._evaluate()
            if recipe.checkpoint_every and self._step % recipe.checkpoint_every == 0 and not is_last:
                self._save_checkpoint()
        self._method.close()
        # The last update was followed by an evaluation.
        return self._finish(read_test=read_test)

    def _update(self) -> None:
        inputs, targets = self._batches.draw()
        with self._precision():
            passes = [student.forward(inputs, targets) for student in self._students]
            terms = self._method.losses([one.logits for one in passes], inputs, mask=passes[0].mask)
        for student, one, term in zip(self._students, passes, terms, strict=True):
            student.update(one.task_loss if term is None else one.task_loss + term, step=self._step)
        task_losses = [one.task_loss.detach() for one in passes]
        mean = task_losses[0] if len(task_losses) == 1 else torch.stack(task_losses).mean()
        taught = self._method.step(task_loss=mean, samples=self._samples_after(1))
        for number, (student, task_loss) in enumerate(zip(self._students, task_losses, strict=True)):
            student.losses.add(task_loss, taught[number] if taught is not None and taught.dim() else taught)
        self._step += 1

    def _precision(self) -> AbstractContextManager[Any]:
        is_mixed = self._recipe.precision == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_mixed)

    def _samples_after(self, steps: int) -> int:
        """Return how many samples a peer, all its ranks, trains on in that many steps."""
        return steps * self._plan.batch_size * self._plan.ranks

    def _evaluate(self) -> None:
        self._validation = []
        for student in self._students:
            train_loss = self._method.mean_over_ranks(student.losses.mean_task_loss())
            distillation_loss = self._mean_distillation_loss(student)
            with self._method.evaluated(student.model):
                if self._place.rank == 0:
                    scores = self._score(student, self._task.validation)
                    self._validation.append(scores)
                    row = self._row(student, scores, float(train_loss), distillation_loss)
                    results.append_evaluation(student.folder / results.METRICS, row)
                    if self._on_evaluation is not None:
                        self._on_evaluation(student.peer, row)
            student.losses = RunningLosses(self._device)

    def _row(
        self, student: Student, scores: Scores, train_loss: float, distillation_loss: float | None
    ) -> Evaluation:
        step, costs, lessons = self._step - 1, self._method.costs(), self._method.lessons()
        return Evaluation(
            step=self._step,
            samples=self._samples_after(self._step),
            train_loss=train_loss,
            distillation_loss=distillation_loss,
            validation_accuracy=scores.accuracy,
            validation_nll=scores.nll,
            distance=student.distance(),
            learning_rate=student.learning_rate(step),
            weight_decay=student.weight_decay(step),
            teacher_share=costs.teacher_share,
            quarantined=costs.quarantined,
            teacher_losses=lessons.losses,
            agreements=lessons.agreements,
            teacher_ages={peer: float(age) for peer, age in lessons.ages.items()},
            seconds=self._seconds,
            stall_s=costs.stall_s,
            bytes_published=costs.bytes_published,
            bytes_fetched=costs.bytes_fetched,
            bytes_all_reduced=costs.bytes_all_reduced,
        )

    def _mean_distillation_loss(self, student: Student) -> float | None:
        own = student.losses.mean_distillation_loss()
        known = torch.tensor([own or 0.0, float(own is not None)], device=self._device)
        total, share = self._method.mean_over_ranks(known).tolist()
        return total / share if share else None

    def _score(self, student: Student, samples: Samples) -> Scores:
        return score(student.model, samples, task=self._task, device=self._device)

    def _finish(self, *, read_test: bool) -> PeerResult | None:
        finished = []
        # Once, for all peers of this process.
        test = self._task.test() if read_test and self._place.rank == 0 else None
        for number, student in enumerate(self._students):
            with self._method.evaluated(student.model):
                if self._place.rank == 0:
                    finished.append(self._finish_student(student, self._validation[number], test))
        return finished[0] if finished else None

    def _finish_student(self, student: Student, validation: Scores, test: Samples | None) -> PeerResult:
        scores = None if test is None else self._score(student, test)
        result = PeerResult(
            arm=self._recipe.label,
            peer=student.peer,
            seed=self._recipe.seed,
            updates=self._step,
            samples=self._samples_after(self._step),
            parameters=sum(p.numel() for p in student.model.parameters()),
            validation_accuracy=validation.accuracy,
            validation_nll=validation.nll,
            validation_calibration_error=validation.calibration_error(),
            test_accuracy=None if scores is None else scores.accuracy,
            test_nll=None if scores is None else scores.nll,
            test_calibration_error=None if scores is None else scores.calibration_error(),
            further={} if test is None else self._further_scores(student, test),
            distance=student.distance(),
            seconds=self._seconds,
            peak_memory_bytes=peak_memory.peak_bytes(self._device),
            **asdict(self._method.costs()),
        )
        if scores is not None:
            KeptScores.of(scores).save(student.folder)
        # Last, as its presence says that this peer has finished.
        results.save_result(student.folder / results.RESULT, result)
        return result

    def _further_scores(self, student: Student, samples: Samples) -> dict[str, float]:
        student.model.eval()
        with torch.no_grad():
            found = dict(self._task.further_scores(student.model, samples, device=self._device))
        student.model.train()
        return found

    def _save_checkpoint(self) -> None:
        random_state = checkpoint.gather_random_state(
            self._batches.generator, ranks=self._plan.ranks, group=self._method.group
        )
        losses = [self._gather(student.losses.state_dict()) for student in self._students]
        students = [student.state_dict() for student in self._students]
        if self._method.ranks_differ:
            checkpoint.save_rank(self._folder, self._place.rank, students, step=self._step)
            # All of them are there before the file that asks for them.
            self._method.mean_over_ranks(torch.zeros(1))
        if self._place.rank != 0:
            return
        state: dict[str, Any] = {
            "step": self._step,
            "seconds": self._seconds,
            "losses": losses,
            "students": students,
            "method": self._method.state_dict(),
            "sampler": self._batches.state_dict(),
            "random": random_state,
        }
        checkpoint.save(self._folder / CHECKPOINT, state)
        checkpoint.drop_ranks(self._folder, but_of_step=self._step)

    def _gather(self, state: dict[str, Any]) -> dict[str, Any]:
        return {
            name: self._method.gather_over_ranks(value) if isinstance(value, Tensor) else value
            for name, value in state.items()
        }

    def _resume(self) -> None:
        path, rank = self._folder / CHECKPOINT, self._place.rank
        if not path.exists():
            for student in self._students:
                # There are some if a life was cut off before its first checkpoint.
                if rank == 0 and (student.folder / results.METRICS).exists():
                    self._drop_rows_after(0, student.folder / results.METRICS)
            return
        state = checkpoint.load(path)
        if "students" not in state:
            raise RunExistsError(
                f"{path} must be of this version of codistill, and it is of an older one. "
                "Pass --overwrite to start again."
            )
        self._step, self._seconds = state["step"], state["seconds"]
        own: Sequence[Any] = state["students"]
        if self._method.ranks_differ:
            own = checkpoint.load_rank(self._folder, rank, step=self._step)
        for student, kept, losses in zip(self._students, own, state["losses"], strict=True):
            student.load_state_dict(kept)
            student.losses.load_state_dict(
                {name: value[rank] if isinstance(value, Tensor) else value for name, value in losses.items()}
            )
            if rank == 0:
                self._drop_rows_after(self._step, student.folder / results.METRICS)
        self._method.load_state_dict(state["method"])
        self._batches.load_state_dict(state["sampler"])
        checkpoint.set_random_state(self._batches.generator, state["random"][rank])

    def _drop_rows_after(self, step: int, path: Path) -> None:
        rows = results.load_evaluations(path) if path.exists() else []
        results.save_evaluations(path, [row for row in rows if row.step <= step])
