"""A recipe: everything that decides what one arm of an experiment trains, and nothing about where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from codistill.errors import RecipeError
from codistill.lab import documents
from codistill.lab.peer_names import peer_names
from codistill.lab.recipe_rules import check_recipe


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
    """Data, models and metric: a name of `codistill.lab.tasks`, or "FILE.py:CLASS" for one of your own."""
    summary: str = ""
    """What it shows, in one line."""
    model: str | None = None
    """One of the task's models; its usual one if not given."""
    data_fraction: float = 1.0
    """Share of the training data that is used, the same samples in all arms and seeds."""
    method: str = "codistillation"
    """How the models are trained: a name of `codistill.lab.methods`, such as "codistillation"."""
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
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "adagrad", "lars"] = "sgd"
    """Which optimizer; "nesterov" and "lars" are SGD with `momentum`, as "sgd" is."""
    learning_rate: float = 0.1
    """Learning rate after the warm-up."""
    learning_rate_course: Literal["step", "cosine", "linear", "inverse_square_root", "constant"] = "step"
    """How it falls: by `learning_rate_factor` at drops, along a curve to 0, as 1 / sqrt(update), or not."""
    warmup_steps: int = 0
    """First updates, in which the learning rate rises in a straight line (Goyal et al. 2017)."""
    warmup_from: float = 0.0
    """Where it rises from, as a share of `learning_rate`."""
    learning_rate_drops: tuple[float, ...] = (0.5, 0.75)
    """Where the learning rate drops, as fractions of the updates."""
    learning_rate_factor: float = 0.1
    """What the learning rate is multiplied by at every drop."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-3
    """Weight decay at the start."""
    weight_decay_factor: float = 1.0
    """What the weight decay is multiplied by at every drop of the learning rate (Sodhani et al., 3.2)."""
    weight_decays: tuple[float, ...] = ()
    """The weight decay after each drop, in place of `weight_decay_factor`."""
    decays_norms_and_biases: bool = True
    """Whether parameters of one dimension decay too."""
    gradient_clip: float | None = None
    """Largest L2 norm of an update's gradient; not clipped if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What models compute in; "bfloat16" is torch's autocast, weights stay float32."""
    label_smoothing: float = 0.0
    """Share of each label spread over the classes, while training."""
    smoothing_prior: Literal["uniform", "unigram"] = "uniform"
    """How it is spread: evenly, or as the classes are distributed in the training data."""
    regime: Literal["all_data", "disjoint", "same_batches"] = "all_data"
    """Whether every peer sees all training data, each a part of its own, or all the same batches."""
    parts: int | None = None
    """Number of parts under "disjoint"; as many as models if not given. Model i trains on part i."""
    interval_steps: int = 10
    """Updates between two publishes of a codistilling peer, or two averagings of local SGD or DiLoCo."""
    codec: Literal["exact", "bfloat16", "int8"] = "exact"
    """How snapshots or predictions are written: "exact", "bfloat16", or "int8" for snapshots."""
    topology: Literal["all", "ring", "directed"] = "all"
    """Who learns from whom: from all the others, from the one before in order of names, or by ``edges``."""
    edges: tuple[str, ...] = ()
    """Who teaches whom under "directed", as teacher:student, such as a:b; a model may have no teacher."""
    distillation_loss: str = "kl"
    """How disagreement with the others is measured: a name from codistill.losses."""
    distillation_weight: float = 1.0
    """Factor of the distillation loss at the start."""
    distillation_weight_added: float = 0.0
    """What is added to the factor at every drop of the learning rate (Sodhani et al., A.1)."""
    distillation_weight_factor: float = 1.0
    """What the factor is multiplied by each epoch of a peer (Sodhani et al., A.3)."""
    distillation_weight_maximum: float | None = None
    """Where that growth stops; nowhere if not given. Ours: the paper has none."""
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
    peer_models: tuple[str, ...] = ()
    """Model of each peer in order of names; all have ``model`` if empty."""
    teacher_updates: int | None = None
    """Updates of the first phase under two_phase and frozen_previous; as many as ``updates`` if not given."""
    outer_learning_rate: float = 0.7
    """Learning rate of DiLoCo's outer Nesterov SGD (Douillard et al. 2023)."""
    outer_momentum: float = 0.9
    """Its momentum."""
    evaluate_every: int = 50
    """Updates between two evaluations on the validation set."""
    checkpoint_every: int | None = None
    """Updates between two checkpoints for resuming; none are written if not given."""
    seed: int = 0
    """Seed of initial weights, order of samples and augmentation, with the peer's number."""

    def __post_init__(self) -> None:
        check_recipe(self)

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

    def model_of(self, peer: str) -> str | None:
        """Return the name of a peer's model; None for the task's usual one."""
        return self.peer_models[peer_names(self.peers).index(peer)] if self.peer_models else self.model

    def teacher_pairs(self) -> tuple[tuple[str, str], ...]:
        """Return ``edges`` as pairs of teacher and student."""
        return tuple(
            (teacher, student) for teacher, _, student in (edge.partition(":") for edge in self.edges)
        )


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
