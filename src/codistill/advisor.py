"""When the distillation loss does not help a training, and what to change."""

import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, final

from codistill.exchange.base import TeacherInfo
from codistill.snapshots.document import Fields, as_string

LOOKS: Final = 10
"""Looks in a row, one every 20 steps, over which something must be so before anything is said of it."""
AGREEMENT: Final = 0.99
OLD_INTERVALS: Final = 10
SNAPSHOTS: Final = 3
WEAKER: Final = 1.5
WORSE_BY: Final = 0.1
LOWERED_TO: Final = 0.2
_MOST_SAID: Final = 1000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What there is to see of a training at one step."""

    step: int
    """Optimizer steps done."""
    task_loss: float | None
    """Of this step; None if it is not told."""
    weighted_term: float | None
    """The distillation loss as it was added to it; None if there was none, or if it is not 0 where the
    models agree."""
    agreement: Mapping[str, float]
    """By teacher, at which share of the positions it and the student choose the same class, of several, at
    this step; empty if that was not measured."""
    teachers: Mapping[str, TeacherInfo]
    """The teachers in use."""
    interval_steps: int | None
    """Steps between two publishes; None where predictions are exchanged, which have no age."""
    learning_rate: float | None = None
    """The largest of the optimizer's; None if it is not known."""
    weight_decay: float | None = None
    """The largest of the optimizer's; None if it is not known."""


@final
@dataclass(slots=True)
class _Weakness:
    """How often in a row a teacher's new snapshot was much worse than the student."""

    order: tuple[int, int]
    snapshots: int = 0


@final
@dataclass(slots=True)
class _Recent:
    """The last looks at one number."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=LOOKS))

    def add(self, value: float | None) -> None:
        if value is not None:
            self.values.append(value)

    @property
    def median(self) -> float | None:
        """The median of ten looks; None while there are fewer."""
        return statistics.median(self.values) if len(self.values) == LOOKS else None


@final
class Advisor:
    """Says in one sentence, once, that the distillation loss is not helping, with the setting to change.

    What was said and holds no longer is not among its advice any more, and is not said a second time.

    The rules look at medians over ten looks, 200 steps, and are about settings, not about accidents: what
    dies, breaks or diverges is dealt with elsewhere.

    1. Student and teachers choose the same class at 99% of the positions, and the task loss, if it is told,
       has halved since the start: there is little left to say.
    2. The weighted distillation loss is above the task loss, which has not halved yet since the start.
    3. A teacher is ten intervals old, has been for ten looks, and still counts.
    4. Three snapshots in a row of a teacher were over 1.5 times worse than the student, and by 0.1.
    5. The learning rate was lowered to a fifth and the weight decay was not: codistillation regularises, too
       (Sodhani et al. 2020, section 3.2).

    **Ranks**: each may have one; the caller says what one of them finds.
    **Blocks**: no.
    **On failure**: nothing here fails.
    """

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._holds: dict[str, str] = {}
        self._agreement, self._task_loss, self._term = _Recent(), _Recent(), _Recent()
        self._first_task_loss: float | None = None
        self._weaknesses: dict[str, _Weakness] = {}
        self._looks_at_old: dict[str, int] = {}
        self._highest_rate = 0.0
        self._first_decay: float | None = None
        self._looks_at_same_decay = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what has been said, so that a life that follows does not say it again, and how it began."""
        return {"said": dict(self._said), "first_task_loss": self._first_task_loss}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Return an advisor that goes on from what ``state_dict`` was taken of.

        Raises:
            ValueError: If what was said is no text, or the first task loss no number.
        """
        advisor = cls()
        advisor._said = {
            subject: as_string(sentence, f"{fields.name}.said[{subject!a}]")
            for subject, sentence in fields.items("said", limit=_MOST_SAID)
        }
        # A state of before it was kept lacks it.
        if fields.has("first_task_loss"):
            advisor._first_task_loss = fields.number_or_none("first_task_loss")
        return advisor

    @property
    def advice(self) -> tuple[str, ...]:
        """What held at the last look, in the words and with the numbers of then."""
        return tuple(self._holds.values())

    def look(self, evidence: Evidence) -> tuple[str, ...]:
        """Return the sentences that are new at this step, which they name.

        Args:
            evidence: What there is to see; every 20 steps.
        """
        if not any(teacher.share > 0.0 for teacher in evidence.teachers.values()):
            # What was so with the teachers of before holds no longer.
            self._agreement, self._term = _Recent(), _Recent()
        if evidence.agreement:
            self._agreement.add(statistics.fmean(evidence.agreement.values()))
        self._task_loss.add(evidence.task_loss)
        self._term.add(evidence.weighted_term)
        if self._first_task_loss is None:
            self._first_task_loss = self._task_loss.median
        self._holds = dict(self._findings(evidence))
        new = {
            subject: f"At step {evidence.step:,}: {sentence}"
            for subject, sentence in self._holds.items()
            if subject not in self._said
        }
        self._said |= new
        return tuple(new.values())

    def _findings(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        yield from self._on_agreement()
        yield from self._on_weight()
        yield from self._on_age(evidence)
        yield from self._on_unequal_peers(evidence)
        yield from self._on_weight_decay(evidence)

    def _on_agreement(self) -> Iterator[tuple[str, str]]:
        agreement, task_loss, first = self._agreement.median, self._task_loss.median, self._first_task_loss
        # Models that know nothing yet may agree, too: on the commonest class everywhere.
        has_learnt = task_loss is None or first is None or task_loss <= first / 2
        if has_learnt and agreement is not None and agreement >= AGREEMENT:
            yield (
                "agreement",
                f"Student and teachers choose the same class at {agreement:.1%} of the positions (median of "
                "200 steps): the distillation loss has little left to teach. Give peers different data "
                "(PartitionedSampler) or models, or save the teachers' forwards with a weight schedule that "
                "ends at 0.",
            )

    def _on_weight(self) -> Iterator[tuple[str, str]]:
        task_loss, term, first = self._task_loss.median, self._term.median, self._first_task_loss
        if task_loss is None or term is None or first is None:
            return
        if term > task_loss > first / 2 > 0:
            yield (
                "weight",
                f"The weighted distillation loss ({term:.3g}) is above the task loss ({task_loss:.3g}; "
                "medians of 200 steps), still over half of what it was at the start: the student follows its "
                "teachers rather than the data. Lower weight, or begin later with burn_in_steps.",
            )

    def _on_age(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        interval_steps = evidence.interval_steps
        if interval_steps is None:
            return
        for peer, teacher in evidence.teachers.items():
            is_old = teacher.age_steps >= OLD_INTERVALS * interval_steps
            # One that fades, or is bad, has been told of.
            counts = teacher.share == 1.0 and not teacher.is_finished
            self._looks_at_old[peer] = self._looks_at_old.get(peer, 0) + 1 if is_old and counts else 0
            if self._looks_at_old[peer] >= LOOKS:
                yield (
                    f"age {peer}",
                    f"The newest snapshot of peer {peer!r} is {teacher.age_steps:,} steps old, "
                    f"{teacher.age_steps // interval_steps} intervals: it trains much slower, has stopped, "
                    "or cannot reach the store. See codistill watch; Membership(max_age_steps=...) lets old "
                    "snapshots fade earlier, a longer interval_steps lets it keep up.",
                )

    def _on_unequal_peers(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        own = self._task_loss.median
        for peer, teacher in evidence.teachers.items():
            order = (teacher.incarnation, teacher.sequence)
            known = self._weaknesses.setdefault(peer, _Weakness(order))
            if own is None or teacher.task_loss is None:
                continue
            if known.order != order:
                is_weaker = teacher.task_loss > max(WEAKER * own, own + WORSE_BY) and own > 0
                known.order, known.snapshots = order, known.snapshots + 1 if is_weaker else 0
            if known.snapshots >= SNAPSHOTS:
                yield (
                    f"unequal {peer}",
                    f"Peer {peer!r} is much weaker than its student: its last {SNAPSHOTS} snapshots came "
                    f"with task losses of over {WEAKER} times the student's, {teacher.task_loss:.3g} against "
                    f"{own:.3g} now. Let it learn without teaching (topology=Directed(...)), or lower "
                    "weight.",
                )

    def _on_weight_decay(self, evidence: Evidence) -> Iterator[tuple[str, str]]:
        rate, decay = evidence.learning_rate, evidence.weight_decay
        if rate is None or decay is None or not evidence.teachers:
            return
        self._highest_rate = max(self._highest_rate, rate)
        self._first_decay = decay if self._first_decay is None else self._first_decay
        is_lowered = rate <= LOWERED_TO * self._highest_rate
        is_kept = decay >= self._first_decay > 0
        self._looks_at_same_decay = self._looks_at_same_decay + 1 if is_lowered and is_kept else 0
        if self._looks_at_same_decay >= LOOKS:
            yield (
                "weight decay",
                f"The learning rate was lowered from {self._highest_rate:.3g} to {rate:.3g} and the weight "
                f"decay is still {decay:.3g}: codistillation regularises, too, and may regularise too much. "
                "Lower weight decay where the learning rate drops, with "
                "codistill.schedules.apply(optimizer, weight_decay=...).",
            )


def largest(optimizer: Any, name: str) -> float | None:
    """Return the largest value of an option over an optimizer's groups; None if there is none.

    Args:
        optimizer: A ``torch.optim.Optimizer``, or what wraps one and has its ``param_groups``.
        name: "lr", say.
    """
    # Adafactor's learning rate may be None: it finds its own.
    values = [float(group[name]) for group in optimizer.param_groups if group.get(name) is not None]
    return max(values, default=None)
