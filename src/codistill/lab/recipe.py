"""A recipe: everything that decides what one arm of an experiment trains, and nothing about where."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from codistill.errors import RecipeError
from codistill.lab import documents, methods, tasks

MOST_PEERS = 26
"""Peers are named with one letter each."""

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDER_NAME_RULE = "be made of letters, digits, '.', '_' and '-', beginning with a letter or digit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train on one task; change a field with `dataclasses.replace`.

    Raises:
        RecipeError: If a field is out of its range or contradicts another one.

    Example:
        >>> from dataclasses import replace
        >>> halves = Recipe(name="halves", task="digits", method="codistillation", regime="disjoint")
        >>> halves.peers, halves.label
        (2, 'codistillation')
        >>> replace(halves, updates=0)
        Traceback (most recent call last):
            ...
        codistill.errors.RecipeError: updates must be >= 1, got 0. Change it in recipe 'halves'.
    """

    name: str
    """Name of the recipe, and of the folder in runs/ that its results go to by default."""
    task: str
    """Data, model and metric: "cifar10", "digits" or "digits_clean"."""
    summary: str = ""
    """What it shows, in one line."""
    method: str = "codistillation"
    """How the models are trained: "codistillation", "all_reduce" or "alone"."""
    arm: str = ""
    """Name of the results in tables and folders; the method's if empty."""
    peers: int = 2
    """Models trained side by side; under all_reduce there is always one."""
    ranks_per_peer: int | None = None
    """Processes that share each model; one if not given, but ``ranks`` under all_reduce."""
    ranks: int = 2
    """Processes that share the one model of all_reduce if ``ranks_per_peer`` is not given."""
    updates: int = 1500
    """Optimizer steps of every model."""
    batch_size: int = 64
    """Samples an update, over all peers and ranks together: each gets an equal share."""
    learning_rate: float = 0.1
    """Learning rate of SGD at the start."""
    learning_rate_drops: tuple[float, ...] = (0.5, 0.75)
    """Where the learning rate drops, as fractions of the updates."""
    learning_rate_factor: float = 0.1
    """What the learning rate is multiplied by at every drop."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-3
    """Weight decay of SGD at the start."""
    weight_decay_factor: float = 1.0
    """What the weight decay is multiplied by at every drop of the learning rate (Sodhani et al., 3.2)."""
    label_smoothing: float = 0.0
    """Share of each label spread evenly over the classes, while training."""
    regime: Literal["all_data", "disjoint"] = "all_data"
    """Whether every peer sees all training data, or each a part of its own."""
    parts: int | None = None
    """Number of parts under "disjoint"; as many as models if not given. Model i trains on part i."""
    interval_steps: int = 10
    """Updates between two publishes of a codistilling peer."""
    topology: Literal["all", "ring", "directed"] = "all"
    """Who learns from whom: from all the others, from the one before in order of names, or by ``edges``."""
    edges: tuple[str, ...] = ()
    """Who teaches whom under "directed", as teacher:student, such as a:b; a model may have no teacher."""
    distillation_loss: str = "kl"
    """How disagreement with the others is measured: a name from codistill.losses."""
    distillation_weight: float = 1.0
    """Factor of the distillation loss."""
    temperature: float = 1.0
    """Softmax divisor of the distillation loss."""
    burn_in_steps: int = 0
    """First updates, in which the weight of the distillation loss is 0."""
    combine: Literal["losses", "probabilities", "logits"] = "losses"
    """What is averaged over several teachers."""
    lockstep: bool = True
    """Whether peers wait for one another's snapshots at every interval; if not, at the start only."""
    peer_learning_rates: tuple[float, ...] = ()
    """Learning rate of each peer in order of names; all have ``learning_rate`` if empty."""
    peer_widths: tuple[int, ...] = ()
    """Width of each peer's model in order of names, see `Task.model`; all have the task's if empty."""
    evaluate_every: int = 50
    """Updates between two evaluations on the validation set."""
    checkpoint_every: int | None = None
    """Updates between two checkpoints for resuming; none are written if not given."""
    seed: int = 0
    """Seed of initial weights, order of samples and augmentation, with the peer's number."""

    def __post_init__(self) -> None:
        # Both become folders, and must not lead out of the one they are put in.
        self._check("name", _FOLDER_NAME.fullmatch(self.name), _FOLDER_NAME_RULE)
        self._check("arm", not self.arm or _FOLDER_NAME.fullmatch(self.arm), _FOLDER_NAME_RULE)
        self._check_listed("task", tasks.names())
        self._check_listed("method", methods.names())
        self._check_listed("regime", ("all_data", "disjoint"))
        self._check_listed("topology", ("all", "ring", "directed"))
        self._check_listed("combine", ("losses", "probabilities", "logits"))
        self._check("peers", 1 <= self.peers <= MOST_PEERS, f"be from 1 to {MOST_PEERS}")
        for field in ("ranks", "updates", "batch_size", "interval_steps", "evaluate_every"):
            self._check(field, getattr(self, field) >= 1, "be >= 1")
        for field in ("ranks_per_peer", "checkpoint_every"):
            self._check(field, getattr(self, field) is None or getattr(self, field) >= 1, "be >= 1")
        for field in ("burn_in_steps", "seed"):
            self._check(field, getattr(self, field) >= 0, "be >= 0")
        for field in ("learning_rate", "learning_rate_factor", "temperature"):
            self._check(field, 0 < getattr(self, field) < math.inf, "be > 0 and finite")
        for field in ("weight_decay", "weight_decay_factor", "distillation_weight"):
            self._check(field, 0 <= getattr(self, field) < math.inf, "be >= 0 and finite")
        for field in ("momentum", "label_smoothing"):
            self._check(field, 0 <= getattr(self, field) < 1, "be >= 0 and < 1")
        drops = self.learning_rate_drops
        rising = all(0 < drop < 1 for drop in drops) and list(drops) == sorted(set(drops))
        self._check("learning_rate_drops", rising, "rise strictly between 0 and 1")
        for field in ("peer_learning_rates", "peer_widths"):
            values = getattr(self, field)
            self._check(
                field, len(values) in (0, self.peers), f"have one value for each of {self.peers} peers"
            )
            self._check(field, all(0 < value < math.inf for value in values), "be > 0 and finite")
        self._check_parts()
        self._check_edges()

    @property
    def label(self) -> str:
        """Name of the results: ``arm``, or the method's name if that is empty."""
        return self.arm or self.method

    def learning_rate_of(self, peer: str) -> float:
        """Return the learning rate of a peer at the start."""
        rates = self.peer_learning_rates
        return rates[peer_names(self.peers).index(peer)] if rates else self.learning_rate

    def width_of(self, peer: str) -> int | None:
        """Return the width of a peer's model; None for the task's own."""
        return self.peer_widths[peer_names(self.peers).index(peer)] if self.peer_widths else None

    def teacher_pairs(self) -> tuple[tuple[str, str], ...]:
        """Return ``edges`` as pairs of teacher and student."""
        return tuple(
            (teacher, student) for teacher, _, student in (edge.partition(":") for edge in self.edges)
        )

    def _check_edges(self) -> None:
        if self.topology != "directed":
            self._check("edges", not self.edges, "be left out unless topology is 'directed'")
            return
        self._check("edges", self.edges, "name at least one teacher:student under topology 'directed'")
        names = peer_names(self.peers)
        for teacher, student in self.teacher_pairs():
            is_pair = teacher in names and student in names and teacher != student
            self._check("edges", is_pair, f"join two different peers of {', '.join(names)}, such as a:b")

    def _check_parts(self) -> None:
        if self.parts is None:
            return
        self._check("parts", self.parts >= 1, "be >= 1")
        if self.regime != "disjoint":
            raise RecipeError(
                f'parts must be left out unless regime is "disjoint", got {self.parts}. '
                f'Set regime="disjoint" in recipe {self.name!r}.'
            )

    def _check(self, field: str, holds: object, rule: str) -> None:
        if not holds:
            raise RecipeError(
                f"{field} must {rule}, got {getattr(self, field)!r}. Change it in recipe {self.name!r}."
            )

    def _check_listed(self, field: str, choices: Iterable[str]) -> None:
        listed = ", ".join(repr(choice) for choice in choices)
        self._check(field, getattr(self, field) in choices, f"be one of {listed}")


def to_document(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe as JSON can hold them."""
    return documents.to_document(recipe)


def from_document(document: Mapping[str, Any], *, where: str) -> Recipe:
    """Return the recipe that `to_document` wrote.

    Args:
        document: Parsed JSON.
        where: File it was read from, for messages.

    Raises:
        RecipeError: If a field is unknown, missing, of another type or out of its range.
    """
    try:
        return documents.from_document(Recipe, document, where=where)
    except RecipeError:
        raise
    except ValueError as e:
        raise RecipeError(str(e)) from e


def peer_names(count: int) -> tuple[str, ...]:
    """Return the names of the first ``count`` peers.

    Example:
        >>> peer_names(3)
        ('a', 'b', 'c')
    """
    return tuple(chr(ord("a") + index) for index in range(count))
