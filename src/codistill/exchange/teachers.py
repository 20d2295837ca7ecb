"""Teachers: frozen local stand-ins for peers."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codistill.errors import SnapshotMismatchError
from codistill.exchange.base import PeerPrediction, TeacherInfo
from codistill.losses.targets import DenseTarget
from codistill.parallel.weights import copy_into, named_tensors, unwrap
from codistill.snapshots.fingerprint import describe_difference
from codistill.snapshots.info import SnapshotInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOptions:
    """How teachers are made."""

    build: Callable[[SnapshotInfo], nn.Module] | None = None
    """Returns an untrained module for the peer of a snapshot, once a peer; None copies the student."""
    max_teachers: int = 4
    """The most teachers to hold; each costs one copy of the weights and one forward a batch."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.build is not None and not callable(self.build):
            raise TypeError(
                f"build must be a function from SnapshotInfo to a module, got {type(self.build).__name__}. "
                "Pass build=lambda info: MyModel(...)."
            )
        if self.max_teachers < 1:
            raise ValueError(
                f"max_teachers must be >= 1, got {self.max_teachers}. "
                "To train without peers, leave out the Codistiller."
            )


class Teacher:
    """One peer's model as this peer last saw it: frozen, in eval mode, outside the user's module.

    It runs under ``no_grad`` in the caller's autocast; not under ``inference_mode``, whose tensors may
    not be saved for a backward pass.

    **On failure**: a snapshot that does not fit is refused before anything is copied, and the teacher
    stays what it was.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module.requires_grad_(False).eval()
        self._info: SnapshotInfo | None = None
        self._first_seen_step = 0

    @property
    def info(self) -> SnapshotInfo | None:
        """The snapshot whose weights it holds, None before the first."""
        return self._info

    @property
    def first_seen_step(self) -> int:
        """The student's step at which it first saw the snapshot."""
        return self._first_seen_step

    def check_fits(self, info: SnapshotInfo, *, key: str) -> None:
        """Raise ``SnapshotMismatchError`` unless names and shapes of the snapshot are the module's."""
        own = {name: tuple(tensor.shape) for name, tensor in named_tensors(self._module).items()}
        difference = describe_difference(info.tensors, own)
        if difference is not None:
            raise SnapshotMismatchError(
                f"Snapshot of peer {info.peer!r} at step {info.step} does not fit this model: {difference}. "
                "Pass TeacherOptions(build=...) to codistill different architectures.",
                peer=info.peer,
                step=info.step,
                key=key,
            )

    def load(self, tensors: Mapping[str, Tensor], info: SnapshotInfo, *, first_seen_step: int) -> None:
        """Copy a snapshot that fits into the module's own memory."""
        copy_into(self._module, tensors)
        self._info = info
        self._first_seen_step = first_seen_step

    def predict(self, inputs: Any, outputs_to_logits: Callable[[Any], Tensor] | None) -> PeerPrediction:
        """Return this peer's prediction on a batch; only after ``load``."""
        assert self._info is not None
        with torch.no_grad():
            outputs = _call(self._module, inputs)
            logits = outputs if outputs_to_logits is None else outputs_to_logits(outputs)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"The model's output must be a tensor of logits, got {type(logits).__name__}. "
                "Pass Codistiller(outputs_to_logits=...), such as lambda outputs: outputs.logits."
            )
        return PeerPrediction(
            peer=self._info.peer,
            target=DenseTarget(logits.detach()),
            step=self._info.step,
            samples=self._info.samples,
            sequence=(self._info.incarnation, self._info.sequence),
        )

    def describe(self, step: int) -> TeacherInfo:
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
        )


def make_teacher(student: nn.Module, info: SnapshotInfo, options: TeacherOptions) -> Teacher:
    """Return a teacher for the peer of ``info``, without weights yet.

    Args:
        student: The student, perhaps wrapped; it is copied unless ``options.build`` is given.
        info: The snapshot that it is made for.
        options: How to make it.

    Raises:
        TypeError: If the student cannot be copied, or ``build`` returns no module.
    """
    if options.build is None:
        try:
            return Teacher(copy.deepcopy(unwrap(student)))
        except RuntimeError as error:  # torch's refusal to copy tensors that are part of a graph
            raise TypeError(
                f"The model must allow copy.deepcopy to serve as a teacher, got: {error}. "
                "Pass TeacherOptions(build=...) that makes a fresh one."
            ) from error
    # A model's initialisation draws random numbers; the student's stream must not notice.
    with torch.random.fork_rng(devices=[]):
        module = options.build(info)
    if not isinstance(module, nn.Module):
        raise TypeError(f"build must return a torch.nn.Module, got {type(module).__name__}.")
    if module is student or module is unwrap(student):
        raise TypeError("build must return a module of its own, got the student itself. Return a new model.")
    return Teacher(module)


def _call(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return module(inputs)
    if isinstance(inputs, tuple):
        return module(*inputs)
    if isinstance(inputs, Mapping):
        return module(**inputs)
    raise TypeError(
        f"inputs must be a tensor, a tuple or a mapping, got {type(inputs).__name__}. "
        "Pass what the model is called with: x for model(x), (x, y) for model(x, y), a dict for model(**x)."
    )
