"""Teachers: frozen local stand-ins for peers."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codistill.errors import SnapshotMismatchError
from codistill.exchange.base import PeerPrediction, TeacherInfo, check_inputs
from codistill.exchange.teacher_options import TeacherOptions
from codistill.exchange.usable import without_nan
from codistill.losses.targets import DenseTarget
from codistill.parallel.weights import (
    copy_into,
    is_sharded,
    materialise,
    named_fragments,
    named_tensors,
    unwrap,
)
from codistill.snapshots.fingerprint import describe_difference
from codistill.snapshots.info import SnapshotInfo


class Teacher:
    """One peer's model as this peer last saw it: frozen, in eval mode, outside the user's module.

    It runs under ``no_grad`` in the caller's autocast; not under ``inference_mode``, whose tensors may
    not be saved for a backward pass.

    **On failure**: a snapshot that does not fit is refused before anything is copied, and the teacher
    stays what it was.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        is_built: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Freeze a module of the teacher's own.

        Args:
            module: The module.
            is_built: Whether it is the user's ``build`` that made it.
            dtype: What to convert it to; None keeps it.
            device: Where to move it; None leaves it.

        Raises:
            ValueError: If ranks divide the module among them, and it is to be converted or moved.
        """
        self._is_divided = is_sharded(module)
        if dtype is not None or device is not None:
            if self._is_divided:
                raise ValueError(
                    "dtype and device must be None for a teacher that ranks divide among them, got "
                    f"{dtype} and {device}. Let build return it so."
                )
            module = module.to(device=device, dtype=dtype)
        self._dtype, self._device = dtype, device
        self._module = module.requires_grad_(False).eval()
        self._is_built = is_built
        self._info: SnapshotInfo | None = None
        self._first_seen_step = 0

    @property
    def module(self) -> nn.Module:
        """The module that predicts."""
        return self._module

    @property
    def is_divided(self) -> bool:
        """Whether the ranks of the peer divide the module among them."""
        return self._is_divided

    @property
    def first_seen_step(self) -> int:
        """The student's step at which it first saw the snapshot."""
        return self._first_seen_step

    def fits(self, info: SnapshotInfo) -> bool:
        """Return whether names and shapes of the snapshot are the module's."""
        return describe_difference(info.tensors, shapes_of(self._module)) is None

    def check_fits(self, info: SnapshotInfo, *, key: str) -> None:
        """Raise ``SnapshotMismatchError`` unless names and shapes of the snapshot are the module's."""
        check_fits(info, shapes_of(self._module), key=key, is_built=self._is_built)

    def load(
        self,
        tensors: Mapping[str, Tensor],
        info: SnapshotInfo,
        *,
        first_seen_step: int,
        are_fragments: bool = False,
    ) -> None:
        """Copy a snapshot that fits into the module's own memory.

        Args:
            tensors: Its tensors by name, whole or this rank's fragments.
            info: What it is.
            first_seen_step: The student's step at which it first saw it.
            are_fragments: Whether they are this rank's fragments.
        """
        copy_into(self._module, tensors, are_fragments=are_fragments)
        self._info = info
        self._first_seen_step = first_seen_step

    def predict(
        self,
        inputs: Any,
        outputs_to_logits: Callable[[Any], Tensor] | None,
        *,
        share: float = 1.0,
        device: torch.device | None = None,
    ) -> PeerPrediction:
        """Return this peer's prediction on a batch; only after ``load``.

        Logits that are not numbers (NaN, or infinite but for -inf, which masks a class) come back as zeros
        that count nothing: ``share`` is then 0. That is found out without waiting for the device.

        Args:
            inputs: What the student was called with.
            outputs_to_logits: Turns what the module returns into logits.
            share: How much the prediction counts otherwise.
            device: Where the prediction is to be; None for where it is made.
        """
        assert self._info is not None
        check_inputs(inputs)
        if self._dtype is not None or self._device is not None:
            inputs = _move(inputs, dtype=self._dtype, device=self._device)
        with torch.no_grad():
            outputs = _call(self._module, inputs)
            logits = outputs if outputs_to_logits is None else outputs_to_logits(outputs)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"The model's output must be a tensor of logits, got {type(logits).__name__}. "
                "Pass Codistiller(outputs_to_logits=...), such as lambda outputs: outputs.logits."
            )
        # A target before it moves: that is where it is checked to be logits.
        logits = DenseTarget(logits.detach()).logits
        target, usable = without_nan(DenseTarget(logits if device is None else logits.to(device)))
        return PeerPrediction(
            peer=self._info.peer,
            target=target,
            share=share * usable,
            step=self._info.step,
            samples=self._info.samples,
            sequence=(self._info.incarnation, self._info.sequence),
        )

    @property
    def is_finished(self) -> bool:
        """Whether it holds its peer's last snapshot."""
        return self._info is not None and self._info.finished

    def describe(self, step: int, *, share: float = 1.0, is_quarantined: bool = False) -> TeacherInfo:
        """Return whose weights it holds, as seen from the student's ``step``."""
        assert self._info is not None
        return TeacherInfo(
            peer=self._info.peer,
            incarnation=self._info.incarnation,
            sequence=self._info.sequence,
            step=self._info.step,
            samples=self._info.samples,
            age_steps=step - self._first_seen_step,
            task_loss=self._info.task_loss,
            metadata=self._info.metadata,
            share=share,
            is_quarantined=is_quarantined,
            is_finished=self.is_finished,
        )


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return shapes by canonical name, as a snapshot of the module would have them."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()}


def check_fits(
    info: SnapshotInfo, shapes: Mapping[str, tuple[int, ...]], *, key: str, is_built: bool = False
) -> None:
    """Refuse a snapshot that a module of such shapes cannot hold.

    Args:
        info: The snapshot.
        shapes: The module's, by name.
        key: Where its manifest is, for the error.
        is_built: Whether the user's ``build`` made the module.

    Raises:
        SnapshotMismatchError: If a name or shape differs.
    """
    difference = describe_difference(info.tensors, shapes)
    if difference is not None:
        cure = (
            "Let build return the architecture that info.metadata or info.tensors tell of."
            if is_built
            else "Pass TeacherOptions(build=...) to codistill different architectures."
        )
        raise SnapshotMismatchError(
            f"Snapshot of peer {info.peer!r} at step {info.step} does not fit this model: {difference}. "
            f"{cure}",
            peer=info.peer,
            step=info.step,
            key=key,
        )


def make_teacher(
    student: nn.Module, info: SnapshotInfo, options: TeacherOptions, *, others: Iterable[Teacher] = ()
) -> Teacher:
    """Return a teacher for the peer of ``info``, without weights yet.

    A copy of the student does not call the hooks that were registered on the student's forward: what
    they record is the student's.

    Args:
        student: The student, perhaps wrapped; it is copied unless ``options.build`` is given.
        info: The snapshot that it is made for.
        options: How to make it.
        others: The teachers there are, whose weights it must not share.

    Raises:
        TypeError: If the student cannot be copied, or ``build`` returns no module of its own.
        SnapshotMismatchError: If ``build`` raises.
    """
    if options.build is None:
        copied = _copy_without_forward_hooks(unwrap(student))
        return Teacher(copied, dtype=options.dtype, device=options.device)
    devices = {tensor.device.index for tensor in named_tensors(student).values() if tensor.is_cuda}
    # A model's initialisation draws random numbers; the student's stream must not notice.
    with torch.random.fork_rng(devices=sorted(devices)):
        try:
            module = options.build(info)
        except Exception as error:
            raise SnapshotMismatchError(
                f"build made no module for peer {info.peer!r} at step {info.step}: "
                f"{type(error).__name__}: {error}",
                peer=info.peer,
                step=info.step,
            ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"build must return a torch.nn.Module, got {type(module).__name__}.")
    taken = _memory(student).union(*(_memory(other.module) for other in others))
    if _memory(module) & taken:
        raise TypeError(
            f"build must return a module of its own for peer {info.peer!r}, got one that shares weights with "
            "the student or with another teacher. Return a new model."
        )
    device = next(tensor.device for tensor in named_tensors(student).values())
    materialise(module, torch.device(options.device or device))
    return Teacher(module, is_built=True, dtype=options.dtype, device=options.device)


def check_can_be_copied(student: nn.Module) -> None:
    """Refuse a student of which no teacher can be made by copying it.

    Raises:
        TypeError: If it cannot be copied.
    """
    if is_sharded(student):
        raise TypeError(
            "A model that ranks divide among them (fully_shard) cannot be copied to serve as a teacher, as "
            "torch refuses copy.deepcopy of it. Pass TeacherOptions(build=...) that returns a new one, "
            "divided alike."
        )
    _copy_without_forward_hooks(unwrap(student))


def _copy_without_forward_hooks(student: nn.Module) -> nn.Module:
    try:
        module = copy.deepcopy(student)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise TypeError(
            f"The model must allow copy.deepcopy to serve as a teacher, got: {error}. "
            "Pass TeacherOptions(build=...) that makes a fresh one."
        ) from error
    # torch has no public way to take off hooks whose handles are elsewhere. Those that run before a forward
    # stay: older parametrisations, such as weight norm, compute the weights in them.
    for part in module.modules():
        part._forward_hooks.clear()
    return module


def _memory(module: nn.Module) -> set[int]:
    """Return where the weights lie, to tell whether two modules share some."""
    fragments = named_fragments(module).values()
    return {one.values.data_ptr() for one in fragments if one.values.numel() > 0 and not one.values.is_meta}


def _move(inputs: Any, *, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """Return inputs, however nested, on a device, floating ones in a dtype."""
    if isinstance(inputs, Tensor):
        return inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else None)
    if isinstance(inputs, Mapping):
        return {name: _move(value, dtype=dtype, device=device) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        moved = [_move(value, dtype=dtype, device=device) for value in inputs]
        # A named tuple takes its values one by one.
        return type(inputs)(*moved) if hasattr(inputs, "_fields") else type(inputs)(moved)
    return inputs


def _call(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return module(inputs)
    if isinstance(inputs, tuple):
        return module(*inputs)
    return module(**inputs)
