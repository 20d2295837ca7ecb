"""A peer under Lightning's trainer: ``pip install 'codistill[lightning]'``."""

import functools
import inspect
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Final, NoReturn, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.caller import warn_caller
from codistill.codistiller import Codistiller
from codistill.exchange.base import Exchange
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.extras import check_installed
from codistill.step_report import StepReport
from codistill.tally import RunningMean

check_installed("lightning", "lightning")

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402  # after the check
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy  # noqa: E402
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher  # noqa: E402  # of no public name
from lightning.pytorch.utilities import rank_zero_info  # noqa: E402
from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: E402

# What the model is not called with, where a batch is a mapping.
_LABELS: Final = frozenset({"label", "labels", "target", "targets"})
_RETURN: Final = 'Return {"loss": loss, "logits": logits} from it.'


@final
class CodistillationCallback(Callback):
    """Makes the training of a Lightning trainer a peer.

    A callback cannot alter the loss once ``training_step`` has returned it, so this one stands around
    ``training_step``, while batches are trained on and at no other time. That method returns a mapping of
    "loss", the task loss, and "logits", and, where not all positions count, "mask", as ``Codistiller.loss``
    takes it. What it logs itself stays the task loss. Validation, its sanity check, testing and predicting
    are as they were and ask no teacher.

    The peer takes a step with every step of the optimizer, however many batches are accumulated for it.
    ``codistill/weight``, ``.../distillation_loss`` (of rank 0, unweighted), ``.../agreement``,
    ``.../teacher_share``, ``.../stall_s`` and, for each teacher, ``.../age_steps/PEER`` go to the trainer's
    loggers, when the trainer writes to them, and at the end of each epoch. The trainer's own checkpoints hold
    what a resumed run needs.

    Under ``fast_dev_run`` what ``training_step`` returns is checked, but nobody is asked and nothing is
    published, unless peers swap predictions.

    **Ranks**: all of the trainer's are this peer. One device, DDP and ``ModelParallelStrategy``.
    **Blocks**: where the ``Codistiller`` does: in the first ``training_step``, in lockstep at each interval,
    and at the end of fitting until the last snapshot is written.
    **On failure**: whatever ends the fitting early, ``training_step`` is the module's own again, and the last
    snapshot that was published goes on serving. SIGTERM ends a wait for other peers, too, which Lightning
    would not notice before the end of the batch.

    Example:
        >>> import tempfile
        >>> from codistill import CheckpointExchange
        >>> exchange = CheckpointExchange(tempfile.mkdtemp(), peer="a")
        >>> trainer = Trainer(
        ...     callbacks=[CodistillationCallback(exchange, model="net")],
        ...     accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        ...     enable_progress_bar=False, enable_model_summary=False,
        ... )
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        model: str | None = "net",
        inputs: Callable[[Any], Any] | None = None,
        **codistiller_options: Any,
    ) -> None:
        """Choose the exchange; it is joined when training begins.

        Args:
            exchange: How the peer learns what the others would predict; for one fit.
            model: The attribute of the ``LightningModule`` that is the student, such as "net" or "task.net";
                None is the module itself, whose ``training_step`` calls ``self(x)``.
            inputs: From a batch, as ``training_step`` gets it, to what the student was called with: a tensor
                for ``m(x)``, a tuple for ``m(*x)``, a mapping for ``m(**x)``. None takes the first of a
                list or tuple, a mapping without its labels ("label", "labels", "target", "targets"), and
                anything else as it is.
            codistiller_options: ``weight``, ``distillation_loss``, ``burn_in_steps`` and whatever else
                ``Codistiller`` takes; but no ``group``, which is the trainer's world.

        Raises:
            TypeError, ValueError: If an argument is not as described.
        """
        if not isinstance(exchange, Exchange):
            raise TypeError(
                f"exchange must be an Exchange, got {type(exchange).__name__}. "
                "Pass CheckpointExchange(store, peer=...)."
            )
        if model is not None and (
            not isinstance(model, str)
            or not all(part.isidentifier() or part.isdigit() for part in model.split("."))
        ):
            raise ValueError(
                f"model must be the name of an attribute of the LightningModule, got {model!r}. "
                'Pass model="net" if its training_step calls self.net, None if it calls self(x).'
            )
        if inputs is not None and not callable(inputs):
            raise TypeError(
                f"inputs must be a function, got {type(inputs).__name__}. Pass lambda batch: batch[0]."
            )
        _check_options(codistiller_options)
        self._exchange = exchange
        self._model = model
        self._inputs = inputs or _default_inputs
        self._options = codistiller_options
        self._codistiller: Codistiller | None = None
        self._saved: dict[str, Any] | None = None
        self._report: StepReport | None = None
        self._task_losses = RunningMean()
        self._steps_done = 0
        self._loads_state = True
        self._is_rehearsal = False
        self._undo = ExitStack()

    @property
    def report(self) -> StepReport | None:
        """What the last step of the optimizer had of its teachers; None before the first."""
        return self._report

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # To validate with a checkpoint is not to resume from it.
        self._loads_state = stage == "fit"
        if stage != "fit":
            return
        if self._codistiller is not None:
            raise RuntimeError(
                "CodistillationCallback must serve one fit, got a second. Make a new exchange and a new "
                "callback; pass ckpt_path to go on where the first ended."
            )
        _check_strategy(trainer)
        if self._exchange.is_collective and trainer.world_size > 1:
            raise ValueError(
                "exchange must not swap predictions among ranks of one trainer, as Lightning averages their "
                f"gradients, got {type(self._exchange).__name__} and a world of {trainer.world_size}. Give "
                "each peer a trainer of one device, and the exchange a process group of these processes; or "
                "use CheckpointExchange."
            )
        if not pl_module.automatic_optimization:
            raise ValueError(
                "automatic_optimization must be True, got False: under manual optimization, and so with "
                "several optimizers, training_step itself runs the backward pass. Call a Codistiller in it."
            )
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            raise ValueError(
                "training_step must take a batch, got dataloader_iter, from which only it can read. "
                "Call a Codistiller in it."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: ranks, parameters and checkpoint are in place, and tuners have had their trial runs.
        student = _find(pl_module, self._model)
        codistiller = Codistiller(student, self._exchange, **self._options)
        if self._saved is not None:
            codistiller.load_state_dict(self._saved)
        elif trainer.global_step > 0 and trainer.is_global_zero:
            warn_caller(
                f"The training goes on from step {trainer.global_step}, but no checkpoint has brought the "
                "state of CodistillationCallback: this peer starts at step 0 of its run. Resume from a "
                "checkpoint that was saved with it, or go on if there is none.",
            )
        self._codistiller = codistiller
        self._steps_done = trainer.global_step
        is_trial = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # a function sets it
        self._is_rehearsal = is_trial and not self._exchange.is_collective
        if self._is_rehearsal:
            rank_zero_info("codistill: under fast_dev_run no peer is asked, and nothing is published.")
        self._wrap(trainer, pl_module, student)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._codistiller is None or trainer.global_step == self._steps_done:
            return
        self._steps_done = trainer.global_step
        task_loss, self._task_losses = self._task_losses.tensor(), RunningMean()
        with _ended_by_sigterm(trainer, waits=self._exchange.is_lockstep):
            report = self._codistiller.step(task_loss=task_loss, optimizer=trainer.optimizers[0])
        self._report = report
        # As Lightning's own callbacks ask; to log at every step costs more than a small model's step.
        is_logged = trainer._logger_connector.should_update_logs or trainer.is_last_batch
        if is_logged and not trainer.barebones:
            pl_module.log_dict(_measures(report), on_step=True, on_epoch=False, rank_zero_only=True)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(publish=True)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # The model may be what went wrong: the others keep what they have.
        self._end(publish=False)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # A tuner ends its run without an exception and without an end of training.
        if stage == "fit":
            self._end(publish=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._codistiller is not None:
            return self._codistiller.state_dict()
        return {} if self._saved is None else self._saved

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._loads_state:
            self._saved = dict(state_dict)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "CodistillationCallback cannot be pickled or copied, which strategies that spawn processes do "
            '("ddp_spawn"): its exchange belongs to one process. Pass strategy="ddp", which starts the '
            "script again for each rank."
        )

    def _wrap(self, trainer: Trainer, pl_module: LightningModule, student: nn.Module) -> None:
        original = pl_module.training_step
        # torch.compile leaves a training_step on the module itself.
        own = vars(pl_module).get("training_step")
        # Other exchanges bring logits from elsewhere; here copies of the student make them.
        is_watched = (
            isinstance(self._exchange, CheckpointExchange)
            and own is None
            and not _is_compiled(student)
            and _gives_logits(self._options)
        )

        @functools.wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_watched
            with _outputs_of(student if is_watched else None) as outputs:
                output = original(*args, **kwargs)
            # None makes Lightning skip the batch. A validation_step may call this too.
            if output is None or not trainer.training:
                return output
            if is_watched:
                self._check_student(outputs, _loss_and_logits(output)[1])
                is_watched = False
            with _ended_by_sigterm(trainer, waits=self._report is None):
                return self._with_term(output, args[0])

        def unwrap() -> None:
            if own is None:
                del pl_module.training_step
            else:
                pl_module.training_step = own  # type: ignore[method-assign]

        pl_module.training_step = training_step  # type: ignore[method-assign]
        self._undo.callback(unwrap)

    def _check_student(self, outputs: list[Any], logits: Tensor) -> None:
        """Refuse another module than the one that the logits come from, before any teacher is waited for."""
        if (
            len(outputs) == 1
            and isinstance(outputs[0], Tensor)
            and outputs[0].shape[-1:] != logits.shape[-1:]
        ):
            raise ValueError(
                f"model must name the module that the logits come from, got {self._model!r}, whose output is "
                f"{list(outputs[0].shape)} where the logits are {list(logits.shape)}. Name another; or, if "
                "logits are made of that output, pass outputs_to_logits=..., which makes them of a teacher's."
            )

    def _with_term(self, output: Any, batch: Any) -> dict[str, Any]:
        """Return what ``training_step`` returned, with the distillation loss in its loss."""
        task_loss, logits = _loss_and_logits(output)
        assert self._codistiller is not None
        # Without gradient nothing begins, and what is passed is checked.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_rehearsal):
            term = self._codistiller.loss(logits, self._inputs(batch), mask=output.get("mask"))
        self._task_losses.add(task_loss)
        return {**output, "loss": task_loss + term}

    def _end(self, *, publish: bool) -> None:
        self._undo.close()
        if self._codistiller is not None:
            self._codistiller.close(publish=publish)


@contextmanager
def _ended_by_sigterm(trainer: Trainer, *, waits: bool) -> Iterator[None]:
    """Let SIGTERM end what may wait for other peers: Lightning only notes it, and looks between batches.

    Args:
        trainer: Who has noted it.
        waits: Whether there may be a wait; if not, all is left to Lightning.
    """
    noting = signal.getsignal(signal.SIGTERM)
    if not waits or not callable(noting) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        # With several ranks it would broadcast, and hang, as the others are in another collective: that is
        # how they hear of the exception.
        if trainer.world_size == 1:
            noting(number, frame)
        raise SIGTERMException

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, noting)


@contextmanager
def _outputs_of(student: nn.Module | None) -> Iterator[list[Any]]:
    """Yield what a module returns for the length of a block; nothing for None."""
    outputs: list[Any] = []
    with ExitStack() as stack:
        if student is not None:
            handle = student.register_forward_hook(lambda _, __, output: outputs.append(output))
            stack.callback(handle.remove)
        yield outputs


def _is_compiled(module: nn.Module) -> bool:
    """Return whether a hook would be compiled into it, and stay there."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _gives_logits(options: Mapping[str, Any]) -> bool:
    """Return whether the student's output is to be logits as it is, classes last."""
    class_dim = getattr(options.get("distillation_loss"), "class_dim", -1)
    return options.get("outputs_to_logits") is None and class_dim == -1


def _check_options(options: Mapping[str, Any]) -> None:
    if "group" in options:
        raise TypeError("group must be left out: the ranks of this peer are the trainer's world.")
    known = set(inspect.signature(Codistiller).parameters) - {"model", "exchange", "group"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"codistiller_options must be of {', '.join(sorted(known))}, got {', '.join(unknown)}. "
            "Correct the name."
        )


def _check_strategy(trainer: Trainer) -> None:
    strategy = trainer.strategy
    name = type(strategy).__name__
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        raise ValueError(
            "strategy must leave parameters as torch has them or divide them with fully_shard, got "
            f"{name}. Pass ModelParallelStrategy(), and call fully_shard in configure_model."
        )
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            f"strategy must start each rank as a process of its own, got {name} which copies this one "
            '("ddp_spawn", "ddp_notebook"): an exchange belongs to one process. Pass strategy="ddp".'
        )


def _find(pl_module: LightningModule, name: str | None) -> nn.Module:
    """Return the student by its dotted name; the module itself for None."""
    if name is None:
        if "forward" in vars(pl_module):
            # Of a copy it would be this module's, with the student's weights in it.
            raise ValueError(
                f"model must name a part of a {type(pl_module).__name__} that was compiled as a whole, got "
                "None. Leave torch.compile out, or compile the parts that forward uses."
            )
        return pl_module
    found: nn.Module = pl_module
    for part in name.split("."):
        inner = getattr(found, part, None)
        if not isinstance(inner, nn.Module):
            where = type(found).__name__
            children = ", ".join(child for child, _ in found.named_children()) or "none"
            got = "no attribute" if inner is None else f"a {type(inner).__name__}"
            raise ValueError(
                f"model must name a module of the LightningModule, got {name!r}, but {part!r} of {where} is "
                f"{got}. Modules there: {children}. Name the one that training_step calls; if it calls "
                "self(x), pass model=None."
            )
        found = inner
    return found


def _default_inputs(batch: Any) -> Any:
    if isinstance(batch, tuple | list) and batch:
        return batch[0]
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name not in _LABELS}
    return batch


def _loss_and_logits(output: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(output, Mapping):
        raise TypeError(
            "training_step must return a mapping of 'loss' and 'logits', got a "
            f"{type(output).__name__}. {_RETURN}"
        )
    for name in ("loss", "logits"):
        if not isinstance(output.get(name), Tensor):
            kinds = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in output.items())
            raise ValueError(f"training_step must return {name!r}, a tensor, got {kinds}. {_RETURN}")
    return output["loss"], output["logits"]


def _measures(report: StepReport) -> dict[str, float | Tensor]:
    """Return what is logged of a step; what there is none of is left out."""
    measures: dict[str, float | Tensor | None] = {
        "weight": report.weight,
        "distillation_loss": report.distillation_loss,
        "agreement": report.agreement,
        "teacher_share": report.teacher_share,
        "stall_s": report.stall_s,
        **{f"age_steps/{peer}": float(age) for peer, age in report.teachers.items()},
    }
    return {f"codistill/{name}": value for name, value in measures.items() if value is not None}
