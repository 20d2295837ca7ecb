"""Where questions are answered, one batch after another."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, final

import torch
from torch import Tensor

from codistill.exchange.base import PeerPrediction
from codistill.exchange.served.answer import Answer, ServedPrediction, ServedVersion
from codistill.exchange.served.question import Question
from codistill.exchange.teachers import Teacher
from codistill.losses.targets import DenseTarget
from codistill.server import batch
from codistill.server.answering import Answering
from codistill.server.integer_range import check_integers, count_embeddings, guard_embeddings
from codistill.server.limits import Limits
from codistill.server.refusal import Refusal
from codistill.server.standby import Standby

_logger = logging.getLogger("codistill.server")

# How many ways to call the models are remembered; one more is never merged.
_MOST_KINDS: Final = 256
_LONGEST_REASON: Final = 500


@final
class Desk:
    """One thread that runs all models: it takes what waits, changes teachers, answers, and begins anew.

    Questions that wait at the same time and have one layout are merged into one forward a teacher, up to
    the limits; nothing waits for others to come. The first merged forward of each kind of question is
    compared with forwards of the questions apart: where a model does not treat its first dimension as that
    of independent samples, its questions are answered apart from then on.

    Teachers change between two batches only, so that all of an answer is of one moment.

    **Ranks**: none; any thread may ask and bring.
    **On failure**: a question that a model cannot answer is refused, and those merged with it are answered
    apart. A snapshot that cannot be copied into its teacher takes the teacher away until the next one. An
    error of an accelerator, after which no process can use it, breaks the desk.
    """

    def __init__(self, *, limits: Limits, answering: Answering) -> None:
        """Begin without teachers; ``start`` begins to answer.

        Args:
            limits: How much may wait, and be merged.
            answering: How models are called.
        """
        self._limits = limits
        self._answering = answering
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, _Asked] = OrderedDict()
        self._count = 0
        self._standbys: dict[str, Standby] = {}
        self._is_ending = False
        self._error: BaseException | None = None
        # Of the thread alone, but for reading.
        self._served: Mapping[str, _Served] = {}
        self._may_merge: dict[tuple[str, Hashable], bool] = {}
        self._forwards = 0
        self._thread = threading.Thread(target=self._run, name="codistill-desk", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """End after the batch that is under way; what waits is refused. Return whether it has ended."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_broken(self) -> bool:
        """Whether it has ended by an error that is not a question's."""
        return self._error is not None

    @property
    def versions(self) -> tuple[ServedVersion, ...]:
        """What is served, in sorted order of peers."""
        return tuple(served.version for _, served in sorted(self._served.items()))

    @property
    def waiting(self) -> int:
        """How many questions wait, without those under way."""
        return len(self._waiting)

    @property
    def forwards(self) -> int:
        """How many times a model has been run."""
        return self._forwards

    def ask(self, question: Question) -> "Future[Answer]":
        """Return what will hold the answer, or the ``Refusal``; to be cancelled if nobody waits for it.

        Raises:
            Refusal: If too much waits already, or the desk has been closed.
        """
        with self._changed:
            if self._is_ending or self._error is not None:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server is closing.")
            if len(self._waiting) >= self._limits.max_pending:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many questions wait.")
            asked = _Asked(question, batch.layout_of(question) if self._answering.is_merging else None)
            self._count += 1
            number = self._count
            self._waiting[number] = asked
            self._changed.notify_all()
        # Its student has gone, and the room it took is given to others: its tensors must not stay.
        asked.future.add_done_callback(lambda _: self._forget(number))
        return asked.future

    def bring(self, standby: Standby) -> None:
        """Have a snapshot served from the next batch on."""
        with self._changed:
            self._standbys[standby.info.peer] = standby
            self._changed.notify_all()

    def _forget(self, number: int) -> None:
        with self._changed:
            self._waiting.pop(number, None)

    def _run(self) -> None:
        try:
            while self._serve_once():
                pass
        except BaseException as error:
            _logger.exception("The thread that runs the models has ended.")
            self._error = error
        with self._changed:
            self._is_ending = True
            left = list(self._waiting.values())
            self._waiting.clear()
        for asked in left:
            if asked.future.set_running_or_notify_cancel():
                asked.future.set_exception(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server is closing."))

    def _serve_once(self) -> bool:
        """Wait for something to do, and do it; return False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._standbys or self._is_ending)
            if self._is_ending:
                return False
            standbys, self._standbys = self._standbys, {}
            taken = self._take_batch()
        for standby in standbys.values():
            self._swap(standby)
        taken = [asked for asked in taken if asked.future.set_running_or_notify_cancel()]
        if taken:
            try:
                self._answer(taken)
            except BaseException:
                for asked in taken:
                    if not asked.future.done():
                        asked.future.set_exception(
                            Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the server has failed.")
                        )
                raise
        return True

    def _take_batch(self) -> "list[_Asked]":
        """Take the question that has waited longest, and those that can be merged with it."""
        if not self._waiting:
            return []
        _, first = self._waiting.popitem(last=False)
        taken = [first]
        if first.layout is None:
            return taken
        rows, integers = first.question.rows, first.question.whole_numbers
        for number, asked in list(self._waiting.items()):
            if asked.layout != first.layout:
                continue
            rows += asked.question.rows
            integers += asked.question.whole_numbers
            if rows > self._limits.max_batch or integers > self._limits.max_integers:
                break
            taken.append(self._waiting.pop(number))
        return taken

    def _swap(self, standby: Standby) -> None:
        peer, teacher = standby.info.peer, standby.teacher
        rest = {name: served for name, served in self._served.items() if name != peer}
        try:
            if standby.tensors is not None:
                teacher.load(standby.tensors, standby.info, first_seen_step=0)
        except Exception:
            # It may hold a part of the new weights.
            _logger.exception("Peer %r is not served: its snapshot could not be taken.", peer)
            self._served = rest
            return
        known = self._served.get(peer)
        if known is None or known.teacher is not teacher:
            guard_embeddings(teacher.module)
            self._may_merge = {key: may for key, may in self._may_merge.items() if key[0] != peer}
        below = self._answering.integers_below
        self._served = rest | {
            peer: _Served(
                teacher,
                ServedVersion.of(standby.info),
                count_embeddings(teacher.module) if below is None else below,
            )
        }

    def _answer(self, taken: "Sequence[_Asked]") -> None:
        with torch.no_grad():
            for _, served in sorted(self._served.items()):
                order = served.version.order
                asking = [
                    asked
                    for asked in taken
                    if asked.refusal is None and asked.question.wants(served.version.peer, order)
                ]
                self._let_predict(served, asking)
        for asked in taken:
            if asked.refusal is None:
                asked.future.set_result(Answer(predictions=tuple(asked.predictions)))
            else:
                asked.future.set_exception(asked.refusal)

    def _let_predict(self, served: "_Served", asking: "Sequence[_Asked]") -> None:
        """Add one peer's prediction to each of some questions, or its refusal."""
        within = []
        for asked in asking:
            try:
                check_integers(asked.question, below=served.integers_below, peer=served.version.peer)
            except Refusal as refusal:
                asked.refusal = refusal
            else:
                within.append(asked)
        merged = self._predict_merged(served, within) if len(within) > 1 else None
        for index, asked in enumerate(within):
            try:
                made = merged[index] if merged is not None else self._predict(served, asked.question.inputs)
                asked.predictions.append(_encode(made, served.version, asked.question))
            except torch.AcceleratorError:
                # Such as an index that only the device found wrong: nothing in this process can use it again.
                raise
            except Exception as error:  # noqa: BLE001 - a model may raise anything
                asked.refusal = _refusal(error, served.version.peer)

    def _predict(self, served: "_Served", inputs: Any) -> "_Made":
        self._forwards += 1
        prediction: PeerPrediction = served.teacher.predict(inputs, self._answering.outputs_to_logits)
        assert isinstance(prediction.target, DenseTarget)
        return _Made(prediction.target.logits, float(prediction.share) > 0.0)

    def _predict_merged(self, served: "_Served", asking: "Sequence[_Asked]") -> "list[_Made] | None":
        """Return all predictions from one forward; None if they must be made apart."""
        questions = [asked.question for asked in asking]
        key = (served.version.peer, batch.kind_of(questions[0]))
        may_merge = self._may_merge.get(key, len(self._may_merge) < _MOST_KINDS)
        if not may_merge:
            return None
        try:
            merged = self._predict(served, batch.merge(questions))
        except Exception:  # noqa: BLE001 - found out below, question by question
            parts, is_usable = None, True
        else:
            parts, is_usable = batch.split(merged.logits, questions), merged.is_usable
        if not is_usable:
            # One student's numbers must not cost the others their predictions.
            return None
        if parts is not None and key in self._may_merge:
            return [_Made(part, True) for part in parts]
        try:
            apart = [self._predict(served, question.inputs) for question in questions]
        except Exception:  # noqa: BLE001 - it is a question that was wrong, which says nothing of merging
            return None
        may_merge = parts is not None and batch.are_alike(parts, [made.logits for made in apart])
        self._may_merge[key] = may_merge
        if not may_merge:
            _logger.warning(
                "Questions to peer %r are answered apart: merged ones would be answered differently, as its "
                "model does not treat the first dimension as that of independent samples.",
                served.version.peer,
            )
        return apart


@dataclass(frozen=True, slots=True)
class _Served:
    """A teacher and what it holds."""

    teacher: Teacher
    version: ServedVersion
    integers_below: int | None


@dataclass(frozen=True, slots=True)
class _Made:
    """Logits of one question."""

    logits: Tensor
    is_usable: bool


@dataclass(slots=True, eq=False)
class _Asked:
    """A question that waits or is being answered."""

    question: Question
    layout: Hashable | None
    future: "Future[Answer]" = field(default_factory=Future)
    predictions: list[ServedPrediction] = field(default_factory=list)
    refusal: Refusal | None = None


def _encode(made: _Made, version: ServedVersion, question: Question) -> ServedPrediction:
    generator = torch.Generator(made.logits.device).manual_seed(question.seed)
    tensors = question.codec.encode(
        made.logits,
        temperature=question.temperature,
        class_dim=question.class_dim,
        generator=generator,
    )
    return ServedPrediction(
        version=version,
        is_usable=made.is_usable,
        shape=made.logits.shape,
        tensors={name: tensor.cpu() for name, tensor in tensors.items()},
    )


def _refusal(error: Exception, peer: str) -> Refusal:
    if isinstance(error, torch.OutOfMemoryError):
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"the model of peer {peer!r} ran out of memory.")
    reason = f"{type(error).__name__}: {error}"
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}..."
    return Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"the model of peer {peer!r} cannot answer this: {reason}"
    )
