"""What is trained: all that costs depend on but the link."""

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import nn

from codistill.arguments import check_int, check_type
from codistill.exchange.prediction.codec import TopK
from codistill.parallel.weights import unwrap
from codistill.snapshots.precision import FEWEST_ROUNDED_ELEMENTS
from codistill.topologies import Topology, as_topology

ITEM_BYTES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Dtype of weights or logits -> bytes of one."""
DTYPES: Final = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""The same in the words of a snapshot."""
OPTIMIZER_STATES: Final = {
    "sgd": 0,
    "sgd_momentum": 1,
    "adagrad": 1,
    "rmsprop": 1,
    "adam": 2,
    "adamw": 2,
}
"""Optimizer -> how many numbers it keeps for each weight, in the weight's own dtype as torch's do."""
_K: Final = 64


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a peer trains, publishes, and averages gradients of.

    Raises:
        TypeError, ValueError: If a field is not as described.

    Example:
        >>> Model.of(nn.Linear(64, 10))
        Model(parameters=650, weight_dtype='float32', tensors=2, unrounded_elements=650, buffer_bytes=0)
    """

    parameters: int
    """Trained weights, tied ones counted once."""
    weight_dtype: str = "float32"
    """Dtype of weights and gradients."""
    tensors: int | None = None
    """Tensors in a snapshot, which decide the size of its documents; None for a guess by the parameters."""
    unrounded_elements: int = 0
    """Those of the parameters that lie in tensors so small that no codec rounds them."""
    buffer_bytes: int = 0
    """Buffers that travel with the weights, such as BatchNorm's statistics."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_int("parameters", self.parameters, minimum=1, hint="Count those that are trained.")
        object.__setattr__(self, "weight_dtype", check_dtype("weight_dtype", self.weight_dtype))
        if self.tensors is not None:
            check_int("tensors", self.tensors, minimum=1, hint="Leave it out for a guess.")
        check_int(
            "unrounded_elements",
            self.unrounded_elements,
            minimum=0,
            maximum=self.parameters,
            hint="They are some of the parameters.",
        )
        check_int("buffer_bytes", self.buffer_bytes, minimum=0, hint="0 for a model without buffers.")

    @classmethod
    def of(cls, module: nn.Module) -> "Model":
        """Count those of a module.

        Args:
            module: Any, perhaps wrapped, on any device.

        Raises:
            ValueError: If it has no parameters, or most of them are of a dtype that is not in `ITEM_BYTES`.
        """
        state = unwrap(module).state_dict(keep_vars=True).values()
        # Tied tensors are one object under several names.
        tensors = {id(tensor): tensor for tensor in state if isinstance(tensor, torch.Tensor)}.values()
        parameters = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
        if not parameters:
            raise ValueError("module must have parameters, got none. A plan is for what is trained.")
        of_dtype: dict[torch.dtype, int] = {}
        for parameter in parameters:
            of_dtype[parameter.dtype] = of_dtype.get(parameter.dtype, 0) + parameter.numel()
        sizes = [parameter.numel() for parameter in parameters]
        return cls(
            parameters=sum(sizes),
            weight_dtype=str(max(of_dtype, key=lambda dtype: of_dtype[dtype])),
            tensors=len(tensors),
            unrounded_elements=sum(size for size in sizes if size < FEWEST_ROUNDED_ELEMENTS),
            buffer_bytes=sum(t.nbytes for t in tensors if not isinstance(t, nn.Parameter)),
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights: P s_w of the formulas."""
        return self.parameters * ITEM_BYTES[self.weight_dtype]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """n peers and how each of them trains; a rank is one process, a peer the job that owns a model.

    Raises:
        TypeError, ValueError: If a field is not as described, or contradicts another.

    Example:
        >>> job = Job(model=Model(parameters=25_600_000), peers=2, batch_per_peer=256, outputs=1000)
        >>> job.model.weight_bytes, job.predictions, job.teachers
        (102400000, 256, 1)
    """

    model: Model
    """The model of every peer."""
    peers: int
    """Models that are trained: n."""
    ranks_per_peer: int = 1
    """Ranks that train one of them: g."""
    batch_per_peer: int
    """Samples a step of a peer, over all its ranks: B."""
    positions: int = 1
    """Predictions a sample: 1 for a class, the tokens that are predicted for a language model."""
    outputs: int
    """Classes or vocabulary: what a prediction is a distribution over."""
    logits_dtype: str = "float32"
    """Dtype of the logits as the model returns them."""
    optimizer: str = "adam"
    """A name of `OPTIMIZER_STATES`."""
    is_sharded: bool = False
    """Whether the ranks of a peer divide weights, gradients and optimizer among them (FSDP)."""
    interval_steps: int = 50
    """Steps between two publishes: T."""
    topology: str | Topology = "ring"
    """Who learns from whom, in an exchange of snapshots, peers being named "0", "1" and so on; of predictions
    everybody gets everybody's."""
    top_k: TopK | None = None
    """The codec of predictions that sends a few classes of each; None for 64 classes, 16 of them drawn, or
    for no such codec where there are no more outputs than that."""
    outer_steps: int = 500
    """Steps between two averages of DiLoCo: H."""
    step_s: float | None = None
    """Seconds a step takes without any exchange between peers; None if unknown."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_type("model", self.model, Model)
        check_int("peers", self.peers, minimum=2, hint="One model has nobody to learn from.")
        for argument in ("ranks_per_peer", "batch_per_peer", "positions", "interval_steps", "outer_steps"):
            check_int(argument, getattr(self, argument), minimum=1, hint="It is a count.")
        check_int("outputs", self.outputs, minimum=1, hint="It counts classes, or a vocabulary.")
        object.__setattr__(self, "logits_dtype", check_dtype("logits_dtype", self.logits_dtype))
        if self.optimizer not in OPTIMIZER_STATES:
            names = ", ".join(map(repr, OPTIMIZER_STATES))
            raise ValueError(
                f"optimizer must be one of {names}, got {self.optimizer!r}. "
                "Choose one that keeps as many numbers a weight."
            )
        check_type("is_sharded", self.is_sharded, bool)
        object.__setattr__(self, "topology", as_topology(self.topology))
        # A topology says only now whether it fits so many peers.
        self._teachers_by_peer()
        self._check_top_k()
        if self.step_s is not None:
            is_number = isinstance(self.step_s, int | float) and not isinstance(self.step_s, bool)
            if not is_number or not 0 < self.step_s < math.inf:
                raise ValueError(
                    f"step_s must be > 0, got {self.step_s!r}. Leave it out if you do not know it."
                )

    def _check_top_k(self) -> None:
        if self.top_k is None:
            if self.outputs > _K:
                object.__setattr__(self, "top_k", TopK(_K, sampled=_K // 4))
            return
        check_type("top_k", self.top_k, TopK)
        if self.top_k.k > self.outputs:
            raise ValueError(
                f"top_k must have k <= {self.outputs}, the number of outputs, got {self.top_k.k}. "
                "Choose fewer classes."
            )
        if self.top_k.sampled == 0 and self.top_k.k < self.outputs:
            raise ValueError(
                f"top_k must have sampled >= 1 where k < {self.outputs}, the number of outputs, got 0. "
                "The largest alone would bias the loss: draw a quarter of them."
            )

    @property
    def predictions(self) -> int:
        """Distributions that a peer predicts a step."""
        return self.batch_per_peer * self.positions

    @property
    def teachers(self) -> int:
        """Teachers of the peer that has most of them, in an exchange of snapshots: d."""
        return max(map(len, self._teachers_by_peer().values()))

    @property
    def reads(self) -> int:
        """Snapshots that all peers together read an interval: the edges of the topology."""
        return sum(map(len, self._teachers_by_peer().values()))

    def _teachers_by_peer(self) -> dict[str, tuple[str, ...]]:
        topology = as_topology(self.topology)
        return topology.teachers([str(peer) for peer in range(self.peers)])


def check_dtype(argument: str, value: object) -> str:
    """Return the name of a floating dtype that is given by its name or as torch's object.

    Raises:
        ValueError: If it is none of `ITEM_BYTES`.

    Example:
        >>> check_dtype("weight_dtype", torch.bfloat16)
        'bfloat16'
    """
    name = str(value).removeprefix("torch.")
    if name not in ITEM_BYTES:
        names = ", ".join(map(repr, ITEM_BYTES))
        raise ValueError(f"{argument} must be one of {names}, got {name!r}. Choose one of the same size.")
    return name
