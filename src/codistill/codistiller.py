"""The object users hold: one more term in the loss, one more call a step."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from codistill.arguments import check_int, check_seconds
from codistill.caller import warn_caller
from codistill.checkup import Checkup
from codistill.exchange.base import (
    DistillationSettings,
    Exchange,
    Predictions,
    Progress,
    TeacherInfo,
    check_inputs,
)
from codistill.losses.divergences import (
    Divergence,
    DivergenceFunction,
    as_divergence,
)
from codistill.losses.targets import Combine, DenseTarget, distillation_term, validate_combine
from codistill.parallel.group import PeerGroup, PeerRanks
from codistill.parallel.spread import is_distributed_tensor, tensor_spread
from codistill.schedules import BurnIn, Schedule, as_schedule
from codistill.snapshots.document import Fields
from codistill.step_report import StepReport
from codistill.tally import Tally

_STATE_VERSION = 1
_LOSSES_WITHOUT_A_STEP = 1000


@final
class Codistiller:
    """Makes a training job a peer: its loss pulls the model towards what the others would predict.

    ``loss_i(k) = L(y, f_i(x)) + weight(k) * mean over teachers j of D(f_j'(x), f_i(x))``
    (Sodhani et al. 2020, Algorithm 1; Anil et al. 2018, Algorithm 1). A teacher f_j' is a frozen,
    perhaps stale copy of peer j, outside the model: it is in no ``parameters()`` and no ``state_dict()``.
    Where peers swap predictions it is peer j itself, as it has just been.

    If the term diverges (see ``DivergenceGuard``), its weight is halved until it does not; in lockstep that
    is only said, so that the run stays Algorithm 1.

    **Ranks**: all ranks of the peer make one and call it alike, as they do their optimizer.
    **Blocks**: where the exchange does: at the first ``loss``, and in lockstep at each interval's ``step``.
    **On failure**: see the exchange; an error leaves the model and its teachers as they were.

    Example:
        >>> import tempfile
        >>> from codistill.exchange.checkpoint import CheckpointExchange
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> codistiller = Codistiller(model, CheckpointExchange(tempfile.mkdtemp(), peer="a"))
        >>> inputs, targets = torch.randn(8, 4), torch.randint(3, (8,))
        >>> logits = model(inputs)
        >>> task_loss = nn.functional.cross_entropy(logits, targets)
        >>> (task_loss + codistiller.loss(logits, inputs)).backward()
        >>> optimizer.step()
        >>> report = codistiller.step(task_loss=task_loss.detach())
        >>> report.step, report.samples, dict(report.teachers)
        (1, 8, {})
    """

    def __init__(
        self,
        model: nn.Module,
        exchange: Exchange,
        *,
        distillation_loss: str | DivergenceFunction | Divergence = "kl",
        weight: float | Schedule = 1.0,
        burn_in_steps: int = 0,
        combine: Combine = "losses",
        outputs_to_logits: Callable[[Any], Tensor] | None = None,
        group: PeerGroup | None = None,
    ) -> None:
        """Join a model to an exchange.

        Args:
            model: The student; plain, compiled, or wrapped in ``DistributedDataParallel``.
            exchange: How it learns what the others would predict; of no other ``Codistiller``.
            distillation_loss: D: a name, a ``Divergence``, or a function (student logits, teacher
                logits) -> one value a position.
            weight: What D is multiplied by: a number >= 0, or a function of the step.
            burn_in_steps: First steps in which the weight is 0 (Anil et al. 2018).
            combine: How several teachers become one term: "losses" (mean of losses), "probabilities"
                (mean distribution) or "logits" (mean logits).
            outputs_to_logits: Turns what the model returns into logits; for teachers only.
            group: The ranks of this peer; None for the whole world of torch.distributed, or for this one
                process where there is none. With an exchange of predictions None is this one process: its
                peers are in one world, and one of several ranks passes the group of them.

        Raises:
            TypeError, ValueError: If an argument is not as described.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
        if not isinstance(exchange, Exchange):
            raise TypeError(
                f"exchange must be an Exchange, got {type(exchange).__name__}. "
                "Pass CheckpointExchange(store, peer=...)."
            )
        if outputs_to_logits is not None and not callable(outputs_to_logits):
            raise TypeError(f"outputs_to_logits must be a function, got {type(outputs_to_logits).__name__}.")
        check_int("burn_in_steps", burn_in_steps, minimum=0, hint="It counts optimizer steps.")
        self._divergence = as_divergence(distillation_loss)
        validate_combine(self._divergence, combine)
        self._combine: Combine = combine
        schedule = as_schedule(_checked_weight(weight))
        self._weight = BurnIn(schedule, burn_in_steps)
        self._burn_in_steps = burn_in_steps
        self._exchange = exchange
        # Where peers swap predictions, they are in one world: the whole of it is no single peer.
        is_alone = exchange.is_collective and group is None
        self._ranks = PeerRanks.alone() if is_alone else PeerRanks(group)
        settings = DistillationSettings(
            divergence=self._divergence, combine=combine, weight=schedule, burn_in_steps=burn_in_steps
        )
        exchange.bind(model, outputs_to_logits, self._ranks, settings)
        self._tally = Tally()
        self._checkup = Checkup(exchange, self._divergence, self._ranks)
        self._last_weight: float | None = None
        self._stall_s = 0.0
        self._has_begun = False
        self._has_warned = False
        self._has_checked_loss = False
        self._is_closed = False

    @property
    def teachers(self) -> Mapping[str, TeacherInfo]:
        """The teachers in use, by peer: whose weights they hold, and how old."""
        return self._exchange.teachers

    def loss(
        self,
        logits: Tensor,
        inputs: Any,
        *,
        mask: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """Return the weighted distillation loss of a batch, to be added to the task loss.

        Gradients reach ``logits`` only. Before the end of burn-in and while there is no teacher it is an
        exact 0, without a teacher's forward.

        **Ranks**: all ranks of the peer, each with its part of the batch. Where peers swap predictions, all
        peers, and each call after burn-in is a swap, also where the weight is 0.
        **Blocks**: the first call waits for what the exchange waits for at the start; a swap for all peers.
        **On failure**: nothing has changed; the call may be repeated, but for a swap, which all peers would
        have to repeat.

        Args:
            logits: The student's, [batch, ..., classes], or one logit a position.
            inputs: What the student was called with: a tensor for ``m(x)``, a tuple for ``m(*x)``, a
                mapping for ``m(**x)``; or what ``predict`` returned for it. Labels do not belong here.
            mask: Which positions count, bool, [batch, ...] without the classes; None for all.
            denominator: What the sum over positions is divided by, > 0; by default the number of
                positions that count in this call.

        Returns:
            0-d tensor.

        Raises:
            TypeError, ValueError: If an argument is not as described, or a teacher's logits have
                another shape.
            RuntimeError: If it has been closed; or if peers swap predictions and gradients are off.
            CodistillError: What hinders the run from starting, at the first call; a swap that failed.
        """
        self._check_loss(logits, inputs, mask, denominator)
        is_training = torch.is_grad_enabled()
        if is_training:
            self._begin()
        weight = self._weight_now()
        predictions = Predictions(())
        if isinstance(inputs, Predictions):
            predictions = inputs
        elif self._asks_teachers(weight):
            predictions = self._ask_teachers(inputs, logits)
        term = self._term(logits, predictions, mask, denominator) if weight > 0.0 else None
        if is_training:
            self._checkup.see_batch(logits, predictions, mask, step=self._tally.step)
            self._tally.count_loss(
                logits,
                predictions,
                term,
                is_shared=isinstance(inputs, Predictions),
                ranks=self._ranks.size,
            )
            self._notice_missing_steps()
        return logits.new_zeros(()) if term is None else term * weight

    def _term(
        self,
        logits: Tensor,
        predictions: Predictions,
        mask: Tensor | None,
        denominator: float | Tensor | None,
    ) -> Tensor | None:
        """Return the unweighted distillation loss, None without a teacher."""
        for prediction in predictions.peers:
            shape = prediction.target.logits_shape(self._divergence.class_dim)
            if shape != logits.shape:
                raise ValueError(
                    f"logits must have the shape of the teachers', got {list(logits.shape)} here and "
                    f"{list(shape)} from peer {prediction.peer!r} at step "
                    f"{prediction.step}. Pass the model that the logits come from, the same inputs that it "
                    "saw, and outputs_to_logits if it returns more than logits."
                )
        if not predictions.peers:
            return None
        return distillation_term(
            self._divergence,
            logits,
            [prediction.target for prediction in predictions.peers],
            combine=self._combine,
            mask=mask,
            denominator=denominator,
            shares=[prediction.share for prediction in predictions.peers],
        )

    def _check_loss(
        self, logits: Tensor, inputs: Any, mask: Tensor | None, denominator: float | Tensor | None
    ) -> None:
        """Refuse wrong arguments in the first call, not in the first one that has a teacher."""
        self._check_open()
        if not isinstance(logits, Tensor):
            raise TypeError(f"logits must be a tensor, got {type(logits).__name__}. Pass the model's logits.")
        if not isinstance(inputs, Predictions):
            check_inputs(inputs)
            self._check_may_swap("loss", logits)
        if self._has_checked_loss:
            return
        if is_distributed_tensor(logits):
            raise TypeError(
                f"logits must be an ordinary tensor, got a DTensor over {tensor_spread(logits)} ranks. Pass "
                "logits.full_tensor(), or logits.to_local() of whole positions with inputs to match; "
                "the same for teachers that have a forward here: outputs_to_logits."
            )
        own = DenseTarget(logits.detach())
        with torch.no_grad():
            distillation_term(
                self._divergence,
                logits,
                [own],
                combine=self._combine,
                mask=mask,
                denominator=denominator,
            )
        self._exchange.check_logits(logits)
        self._has_checked_loss = True

    def predict(self, inputs: Any, *, logits: Tensor | None = None) -> Predictions:
        """Run the teachers on a batch, early or for several heads; pass the result to ``loss``.

        Nothing runs before the end of burn-in. Where peers swap predictions this is the swap, which all make.

        Args:
            inputs: As for ``loss``.
            logits: The student's logits, for exchanges that send them to the others.

        Returns:
            One prediction a teacher; none before the end of burn-in.

        Raises:
            TypeError: If ``inputs`` is not as described, or a model does not return logits.
            CodistillError: What hinders the run from starting, at the first call; a swap that failed.
            RuntimeError: If it has been closed; or if peers swap predictions and gradients are off.
        """
        self._check_open()
        self._check_may_swap("predict", logits)
        if torch.is_grad_enabled():
            self._begin()
        if not self._asks_teachers(self._weight_now()):
            return Predictions(())
        return self._ask_teachers(inputs, logits)

    def step(
        self,
        *,
        task_loss: Tensor | float | None = None,
        samples: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> StepReport:
        """Tell that the optimizer has made a step; publish and fetch if it is time to.

        Call it once for each optimizer step, after it, not for each micro-batch.

        **Ranks**: all ranks of the peer.
        **Blocks**: as the exchange does: for no store, unless in lockstep.
        **On failure**: see the exchange; what raises does so on all ranks, at the same step.

        Args:
            task_loss: This step's task loss, detached; published as a mean for the others to see, that of
                rank 0 if there are several.
            samples: Samples of this step, over all ranks of the peer; by default what ``loss`` saw,
                the first dimension of its logits, times the number of ranks.
            optimizer: Whose learning rate and weight decay are looked at for advice; left as it is.

        Returns:
            What this step had, and what the exchange has cost so far.

        Raises:
            TypeError, ValueError: If an argument is not as described.
            CodistillError: In lockstep, if a peer is missing or its snapshot cannot be used; always, if
                another job has taken over this peer's name.
            RuntimeError: If it has been closed.
        """
        self._check_open()
        tally = self._tally
        weight = self._last_weight = self._weight_now()
        tally.count_step(
            task_loss=task_loss,
            samples=samples,
            has_teacher=self._has_teacher(),
            ranks=self._ranks.size,
        )
        with self._stalling():
            advice = self._checkup.see_step(
                tally.step,
                weight=weight,
                distillation_loss=tally.distillation_losses.tensor(),
                task_loss=task_loss,
                optimizer=optimizer,
                has_begun=self._has_begun,
            )
        publishes = self._exchange.counters.publishes
        if self._has_begun:
            # Losses are read where they are told to others: that waits for the device.
            is_publishing = (
                not self._exchange.is_collective and tally.step % self._exchange.interval_steps == 0
            )
            with self._stalling():
                self._exchange.step(self._progress(with_losses=is_publishing))
        report = self._report(weight, published=self._exchange.counters.publishes > publishes, advice=advice)
        tally.begin_next_step()
        return report

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs beside the model's and the optimizer's state.

        It holds dicts, lists, strings and numbers, no tensor: the teachers' weights are in the store.
        """
        return {
            "version": _STATE_VERSION,
            **self._tally.state_dict(),
            **self._checkup.state_dict(),
            "exchange": self._exchange.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; before the first ``loss``.

        **On failure**: nothing has changed.

        Raises:
            ValueError: If it is of a newer version of codistill, of another peer, or incomplete.
            RuntimeError: If training has begun.
        """
        fields = Fields(dict(state), "state")
        version = fields.integer("version")
        if version != _STATE_VERSION:
            raise ValueError(
                f"state must be of version {_STATE_VERSION}, got {version}. "
                "Load what Codistiller.state_dict returned, with the codistill that saved it or a newer one."
            )
        tally = Tally.from_fields(fields)
        checkup = self._checkup.resumed(fields)
        fields.fields("exchange")
        self._exchange.load_state_dict(state["exchange"])
        self._tally, self._checkup = tally, checkup

    def close(self, *, publish: bool = True, timeout_s: float = 60.0) -> None:
        """End: leave a last snapshot for the others, marked as finished. A second call does nothing.

        **Ranks**: all ranks of the peer, each when it likes; where they divide a model among them all
        together, with the same ``publish``.
        **Blocks**: while the snapshot is written, up to the timeout; in lockstep until it is.
        **On failure**: out of lockstep a store that fails is warned of, and the last snapshot published
        goes on serving; in lockstep, where others wait, it is raised.

        Args:
            publish: False leaves no snapshot; the last one published goes on serving.
            timeout_s: How long the store may take, > 0, in seconds.

        Raises:
            TypeError, ValueError: If the timeout is not a number > 0.
            StoreError: In lockstep, if the store fails.
        """
        check_seconds("timeout_s", timeout_s, hint="To leave no snapshot, pass publish=False.")
        self._is_closed = True
        progress = self._progress(with_losses=True)
        with self._stalling():
            self._exchange.close(progress, publish=publish and self._has_begun, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after an error without a last snapshot, which might hold what caused it."""
        self.close(publish=error_type is None)

    def _begin(self) -> None:
        if not self._has_begun:
            with self._stalling():
                self._exchange.begin(self._progress(with_losses=False))
            self._has_begun = True

    def _asks_teachers(self, weight: float) -> bool:
        """Return whether teachers predict at this step: in a swap all peers must, whatever their weights."""
        if self._exchange.is_collective:
            return self._has_begun and self._tally.step >= self._burn_in_steps
        return self._has_begun and weight > 0.0

    def _ask_teachers(self, inputs: Any, logits: Tensor | None) -> Predictions:
        if not self._exchange.is_collective:
            return self._exchange.predict(inputs, logits)
        # Here no teacher has a forward: all the time goes by in the exchange.
        with self._stalling():
            return self._exchange.predict(inputs, logits)

    def _check_may_swap(self, method: str, logits: Tensor | None) -> None:
        """Refuse what would leave the other peers waiting, during burn-in already."""
        if not self._exchange.is_collective:
            return
        if logits is None:
            raise ValueError(
                f"logits must be given to {method}() where peers swap predictions, got None: they are what "
                f"the others learn from. Call {method}(inputs, logits=model(inputs))."
            )
        if not torch.is_grad_enabled():
            raise RuntimeError(
                f"{method}() must not be called under torch.no_grad() where peers swap predictions: it would "
                "wait for all of them. In validation leave it out."
            )

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("The Codistiller has been closed. Make a new one to train on.")

    def _notice_missing_steps(self) -> None:
        limit = max(_LOSSES_WITHOUT_A_STEP, 2 * self._exchange.interval_steps)
        if self._tally.losses_of_step == limit and not self._has_warned:
            self._has_warned = True
            warn_caller(
                f"loss() was called {limit} times without step(): nothing is published or fetched. "
                "Call codistiller.step() after each optimizer.step().",
            )

    def _progress(self, *, with_losses: bool) -> Progress:
        progress = self._tally.progress(
            with_losses=with_losses,
            weight=self._last_weight,
            agreement=self._checkup.agreement,
            stall_s=self._stall_s,
            advice=self._checkup.advice,
        )
        if self._has_teacher() and self._last_weight != 0.0:
            return progress
        # What there was last is of teachers that are gone, or of a weight that has ended.
        return replace(progress, distillation_loss=None, agreement={})

    def _has_teacher(self) -> bool:
        return any(teacher.share > 0.0 for teacher in self._exchange.teachers.values())

    def _weight_now(self) -> float:
        weight = self._weight(self._tally.step) * self._checkup.factor
        if not (weight >= 0.0 and math.isfinite(weight)):
            raise ValueError(
                f"weight must be finite and >= 0, got {weight} at step {self._tally.step}. "
                "Correct the schedule."
            )
        return weight

    def _report(self, weight: float, *, published: bool, advice: tuple[str, ...]) -> StepReport:
        counters, teachers = self._exchange.counters, self._exchange.teachers
        return StepReport(
            step=self._tally.step,
            samples=self._tally.samples,
            weight=weight,
            distillation_loss=self._tally.distillation_losses.tensor(),
            weight_factor=self._checkup.factor,
            teachers={peer: info.age_steps for peer, info in teachers.items()},
            shares={peer: info.share for peer, info in teachers.items()},
            quarantined=tuple(peer for peer, info in teachers.items() if info.is_quarantined),
            agreement=self._checkup.mean_agreement,
            advice=advice,
            published=published,
            publishes_skipped=counters.publishes_skipped,
            fetched=tuple(counters.fetched),
            teacher_share=self._tally.teacher_share,
            teacher_samples=self._tally.teacher_samples,
            bytes_published=counters.bytes_published,
            bytes_fetched=counters.bytes_fetched,
            stall_s=self._stall_s,
        )

    @contextmanager
    def _stalling(self) -> Iterator[None]:
        begin_s = time.perf_counter()
        try:
            yield
        finally:
            self._stall_s += time.perf_counter() - begin_s


def _checked_weight(weight: float | Schedule) -> float | Schedule:
    if callable(weight):
        return weight
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise TypeError(f"weight must be a number or a function of the step, got {weight!r}. Try 1.0.")
    if not (weight >= 0.0 and math.isfinite(weight)):
        raise ValueError(f"weight must be finite and >= 0, got {weight}. 1.0 is usual.")
    return weight
