"""A Trainer that is a peer."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import get_last_checkpoint
from typing_extensions import override

from codistill.codistiller import Codistiller
from codistill.exchange.base import Exchange
from codistill.integrations.transformers import checkpoint_file
from codistill.integrations.transformers.log_values import LogValues
from codistill.integrations.transformers.loss_scale import divisor_of_sum, is_divided_by_count
from codistill.integrations.transformers.model_call import ModelCall, logits_of
from codistill.integrations.transformers.refusals import check_settings
from codistill.losses.divergences import Divergence, DivergenceFunction
from codistill.losses.targets import Combine
from codistill.parallel.group import PeerGroup
from codistill.schedules import Schedule
from codistill.step_report import StepReport

_IGNORED = -100  # the label that every loss of Transformers leaves out

# To a type checker the mixin is the Trainer that it will be mixed into.
if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class CodistillationMixin(_Base):
    """Makes a ``Trainer``, or a class of yours that is one, a peer: put it before that class.

    The distillation loss is added in ``compute_loss``, as no callback can alter a loss: whatever your own
    ``compute_loss`` returns is the task loss, and what it calls the model with, less the labels, is what
    the teachers are called with. It is scaled as the Trainer scales its own loss: where that is a sum over
    tokens divided by ``num_items_in_batch``, so is this, and else both are means over the micro-batches.
    Evaluation and prediction ask no teacher.

    **Ranks**: all ranks that the Trainer has are one peer; each makes one, alike.
    **Blocks**: as ``Codistiller`` does, at the first training loss.
    **On failure**: an exception that leaves ``train`` closes the codistiller without a last snapshot; what
    was published goes on serving.

    Attributes:
        codistiller: Made at the start of ``train``, when the model is where it will be trained; None before.
        report: What the last optimizer step had of its teachers; None before.

    Example:
        >>> class MyTrainer(CodistillationMixin, Trainer):
        ...     pass
    """

    codistiller: Codistiller | None
    report: StepReport | None

    def __init__(
        self,
        *args: Any,
        exchange: Exchange,
        distillation_loss: str | DivergenceFunction | Divergence = "kl",
        weight: float | Schedule = 1.0,
        burn_in_steps: int = 0,
        combine: Combine = "losses",
        outputs_to_logits: Callable[[Any], Tensor] = logits_of,
        group: PeerGroup | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the Trainer, and keep what its codistiller will be made of.

        Args:
            *args: The Trainer's own.
            exchange: How this peer learns what the others would predict.
            distillation_loss: As ``Codistiller``'s.
            weight: As ``Codistiller``'s.
            burn_in_steps: As ``Codistiller``'s.
            combine: As ``Codistiller``'s.
            outputs_to_logits: Turns what the model returns into logits, of the student and of its teachers;
                by default ``outputs.logits``.
            group: As ``Codistiller``'s; None for all ranks of the Trainer.
            **kwargs: The Trainer's own.

        Raises:
            TypeError: If ``exchange`` is none.
            ValueError: If a setting of the Trainer does not go with codistillation.
        """
        if not isinstance(exchange, Exchange):
            raise TypeError(
                f"exchange must be an Exchange, got {type(exchange).__name__}. "
                "Pass CheckpointExchange(store, peer=...)."
            )
        super().__init__(*args, **kwargs)
        check_settings(self, exchange)
        self._exchange = exchange
        self._outputs_to_logits = outputs_to_logits
        self._codistiller_options: dict[str, Any] = {
            "distillation_loss": distillation_loss,
            "weight": weight,
            "burn_in_steps": burn_in_steps,
            "combine": combine,
            "outputs_to_logits": outputs_to_logits,
            "group": group,
        }
        self.codistiller = None
        self.report = None
        self._resumed_from: Path | None = None
        self._task_loss: Tensor | None = None
        self._divides_by_count: bool | None = None
        self._log_values = LogValues()
        self.add_callback(_Moments(self))

    @override
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train as the Trainer does, then leave a last snapshot for the other peers.

        Args:
            resume_from_checkpoint: As the Trainer's. The codistiller goes on too, from ``codistiller.json``
                in that folder.
            trial: None: a search trains many models under one peer's name.
            ignore_keys_for_eval: As the Trainer's.

        Raises:
            RuntimeError: If it is called a second time.
            ValueError: If there is a trial, an option of the codistiller is not as described, or the
                checkpoint's state cannot be used.
            CodistillError: As ``Codistiller`` raises.
        """
        if trial is not None:
            raise ValueError(
                "trial must be None for codistillation, got one: the peers of a run cannot be searched for "
                "one by one. Search with a plain Trainer."
            )
        if self.codistiller is not None:
            raise RuntimeError(
                "train() must be called once for each exchange, got a second call: its peer has finished. "
                "Make a new exchange and a new Trainer, and resume from a checkpoint."
            )
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(str(self.args.output_dir))  # type: ignore[no-untyped-call]
        self._resumed_from = Path(folder) if folder else None
        is_done = False
        try:
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            is_done = True
        finally:
            self._close(publish=is_done)
        return output

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the task loss, and in training the weighted distillation loss added to it.

        Args:
            model: The student, with all that it is wrapped in.
            inputs: The batch.
            return_outputs: Whether to return the outputs too.
            num_items_in_batch: How many labels count in all micro-batches of this step; None if that is not
                known.

        Raises:
            TypeError, ValueError: If there are no logits, or they do not fit the labels.
        """
        if self.codistiller is None or not (torch.is_grad_enabled() and model.training):
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        # As it is now: a compute_loss may take labels out of it.
        batch = dict(inputs)
        with ModelCall.watching(model) as call:
            result: Any = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        call.check()
        loss = result[0] if return_outputs else result
        loss = loss + self._distillation_loss(call, batch, loss, num_items_in_batch)
        return (loss, *result[1:]) if return_outputs else loss

    def distillation_mask(self, batch: dict[str, Any], logits: Tensor) -> Tensor | None:
        """Return which positions the distillation loss compares: those whose label counts.

        For a causal language model these are the labels one further on, as in its own loss. Override it where
        your labels mean something else.

        Args:
            batch: What ``compute_loss`` was given.
            logits: The student's, [batch, ..., classes].

        Returns:
            Bool, [batch, ...]; None if the labels are not one class a position: then all positions count.
        """
        targets = self._targets(batch, logits)
        return None if targets is None else targets != _IGNORED

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; what is logged of training gets the values of codistillation too."""
        if "loss" in logs:
            logs = {**logs, **self._log_values.take()}
        super().log(logs, start_time)

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; in a checkpoint the codistiller's state too."""
        super().save_model(output_dir, _internal_call)
        is_checkpoint = _internal_call and output_dir is not None
        if is_checkpoint and self.codistiller is not None and self.is_world_process_zero():
            checkpoint_file.save(self.codistiller, Path(str(output_dir)))

    def _begin(self) -> None:
        assert isinstance(self.model, nn.Module)
        self.codistiller = Codistiller(self.model, self._exchange, **self._codistiller_options)
        if self._resumed_from is not None:
            checkpoint_file.load(self.codistiller, self._resumed_from)

    def _close(self, *, publish: bool) -> None:
        if self.codistiller is not None:
            self.codistiller.close(publish=publish)

    def _step(self) -> None:
        assert self.codistiller is not None
        task_loss, self._task_loss = self._task_loss, None
        self.report = self.codistiller.step(task_loss=task_loss, optimizer=self.optimizer)
        if task_loss is not None:
            self._log_values.add(task_loss, self.report)

    def _distillation_loss(
        self, call: ModelCall, batch: dict[str, Any], loss: Tensor, num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        """Return the term that goes with a micro-batch's task loss, scaled as that is; count both."""
        assert self.codistiller is not None
        assert isinstance(self.model, nn.Module)
        logits = self._outputs_to_logits(call.outputs)
        mask = self.distillation_mask(batch, logits)
        micro_batches: int = self.current_gradient_accumulation_steps
        denominator, factor = None, 1.0
        if self._is_scaled(num_items_in_batch):
            # The Trainer takes it for one over all micro-batches, and divides nothing.
            factor = 1.0 / micro_batches
            if num_items_in_batch is not None:
                mean = self._factor_of_means(call)
                divisor = divisor_of_sum(num_items_in_batch, devices=max(self.args.n_gpu, 1), mean=mean)
                if self._counts_labels(loss, self._targets(batch, logits), logits, divisor, mean):
                    # Terms of micro-batches, of which the step's is the mean.
                    denominator = None if mask is None else divisor / micro_batches
                else:
                    factor = mean
        self._count_task_loss(loss.detach().mean() / (factor * micro_batches))
        inputs = call.teacher_inputs(self.model, self.label_names)
        return self.codistiller.loss(logits, inputs, mask=mask, denominator=denominator) * factor

    def _count_task_loss(self, part: Tensor) -> None:
        self._task_loss = part if self._task_loss is None else self._task_loss + part

    def _targets(self, batch: dict[str, Any], logits: Tensor) -> Tensor | None:
        """Return the labels of the positions of the logits; None if they are not one class a position."""
        shifted = batch.get("shift_labels")
        labels = batch.get("labels") if shifted is None else shifted
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != logits.shape[:-1]:
            return None
        if shifted is None and self._shifts_labels():
            labels = nn.functional.pad(labels, (0, 1), value=_IGNORED)[..., 1:]
        return labels.to(logits.device)

    def _counts_labels(
        self, loss: Tensor, targets: Tensor | None, logits: Tensor, divisor: Tensor, mean: float
    ) -> bool:
        """Return whether the task loss is a sum divided by num_items_in_batch; looked at until it shows."""
        is_told = getattr(self, "loss_is_scaled_for_ga", None) is not None
        if is_told or self.label_smoother is not None or self.compute_loss_func is not None:
            return True
        if targets is None:
            # No loss of Transformers for other labels divides by their number.
            return False
        is_for_all_ranks = self.args.average_tokens_across_devices and self.accelerator.num_processes > 1
        is_for_more = self.current_gradient_accumulation_steps > 1 or mean > 1.0 or is_for_all_ranks
        if self._divides_by_count is None and is_for_more:
            self._divides_by_count = is_divided_by_count(loss, logits, targets, divided=divisor, mean=mean)
        return self._divides_by_count is not False

    def _is_scaled(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Return whether the Trainer takes the loss for one over all micro-batches: see its training_step."""
        is_scaled: bool | None = getattr(self, "loss_is_scaled_for_ga", None)
        if is_scaled is not None:
            return is_scaled
        takes_count = bool(self.model_accepts_loss_kwargs) and num_items_in_batch is not None
        return takes_count or self.compute_loss_func is not None

    def _factor_of_means(self, call: ModelCall) -> float:
        """Return what the Trainer multiplies a loss by to average over ranks: see its compute_loss."""
        # It tells the count to a model that takes it; where nobody did, a compute_loss of the user's own has
        # called the model, and what that returns is multiplied by nothing.
        if self.model_accepts_loss_kwargs and "num_items_in_batch" not in call.keywords:
            return 1.0
        if not (
            self.args.average_tokens_across_devices
            and (self.model_accepts_loss_kwargs or self.compute_loss_func)
        ):
            return 1.0
        return float(self.accelerator.num_processes if self.args.n_gpu <= 1 else self.args.n_gpu)

    def _shifts_labels(self) -> bool:
        """Return whether the model's own loss compares position i with label i + 1."""
        # GPT2LMHeadModel and some others have no loss_type, and shift too.
        kinds = {kind.__name__ for kind in type(self.model).__mro__}
        is_causal = not kinds.isdisjoint(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
        loss = LOSS_MAPPING.get(str(getattr(self.model, "loss_type", None)))
        config = getattr(self.model, "config", None)
        is_encoder_decoder = getattr(config, "is_encoder_decoder", False)
        return (is_causal or loss is ForCausalLMLoss) and not is_encoder_decoder


@final
class CodistillationTrainer(CodistillationMixin, Trainer):
    """The ``Trainer`` of Transformers, as a peer.

    It takes all that a Trainer takes, and ``exchange``, ``weight`` and the other options of
    ``CodistillationMixin``.

    **Ranks**, **Blocks**, **On failure**: as ``CodistillationMixin``.
    """


@final
class _Moments(TrainerCallback):
    """Tells a peer when its training begins, and that its optimizer has made a step."""

    def __init__(self, peer: CodistillationMixin) -> None:
        self._peer = peer

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._peer._begin()

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._peer._step()
