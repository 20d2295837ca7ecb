"""What a student asks a prediction server: a batch, and whose predictions on it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, final, get_args

import torch
from torch import Tensor

from codistill.exchange.base import check_inputs
from codistill.exchange.checkpoint.membership import MAX_PEERS
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.prediction.codec import BFloat16, Exact, PredictionCodec, TopK
from codistill.exchange.served.tensor_message import read_message, write_message
from codistill.losses.logits import check_temperature
from codistill.snapshots.document import Fields, as_integer, as_string
from codistill.snapshots.keys import check_peer_name

Kind = Literal["tensor", "positional", "named"]

MAX_TENSORS: Final = 64
_MOST_DIMS: Final = 16
_MOST_CLASSES: Final = 2**20
# What PyTorch's models are called with; unsigned integers beyond a byte have few operators.
DTYPES: Final = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)
_ARGUMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """One batch, and what is wanted of it.

    Raises:
        TypeError, ValueError: If a field is not as described.
    """

    kind: Kind
    """How the model is called: with a tensor, with several by position, or with several by name."""
    tensors: Mapping[str, Tensor]
    """What it is called with; by position the names are "0", "1" and so on."""
    codec: PredictionCodec
    """How the predictions are to travel."""
    temperature: float = 1.0
    """The divergence's temperature."""
    class_dim: int = -1
    """The dimension of the classes in the logits."""
    peers: tuple[str, ...] | None = None
    """Whose predictions; None for those of all peers there are."""
    left_out: Mapping[str, Order | None]
    """Whose not: peers, with the one (incarnation, sequence) that is not wanted, or None for all."""
    seed: int = 0
    """What the random numbers of a ``TopK`` follow from."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"inputs must be one of {', '.join(get_args(Kind))}, got {self.kind!a:.80}.")
        if not 1 <= len(self.tensors) <= MAX_TENSORS:
            raise ValueError(f"inputs must be 1 to {MAX_TENSORS} tensors, got {len(self.tensors)}.")
        if self.kind != "named":
            if set(self.tensors) != set(map(str, range(len(self.tensors)))):
                raise ValueError("inputs by position must be named '0', '1' and so on.")
            if self.kind == "tensor" and len(self.tensors) != 1:
                raise ValueError(f"inputs must be one tensor, got {len(self.tensors)}.")
        for name, tensor in self.tensors.items():
            if self.kind == "named" and _ARGUMENT.fullmatch(name) is None:
                raise ValueError(f"names of inputs must be those of arguments in Python, got {name!a:.80}.")
            _check_input(name, tensor)
        check_temperature(self.temperature)
        as_integer(self.class_dim, "class_dim", minimum=-_MOST_DIMS, maximum=_MOST_DIMS)

    @classmethod
    def of(cls, inputs: Any, **wanted: Any) -> Self:
        """Return the question about what a student was called with.

        Args:
            inputs: A tensor, or tensors in a tuple or a mapping; copied to the CPU if need be.
            wanted: The other fields.

        Raises:
            TypeError, ValueError: If there is something in it that is not sent.
        """
        check_inputs(inputs)
        kind: Kind
        if isinstance(inputs, Tensor):
            kind, values = "tensor", {"0": inputs}
        elif isinstance(inputs, tuple):
            kind, values = "positional", {str(index): value for index, value in enumerate(inputs)}
        else:
            kind, values = "named", dict(inputs)
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"inputs must hold tensors only to be sent to a server, got {type(value).__name__} for "
                    f"{name!r}. Let the server's build fix what is no tensor."
                )
        tensors = {name: value.detach().cpu().contiguous() for name, value in values.items()}
        return cls(kind=kind, tensors=tensors, **wanted)

    @property
    def inputs(self) -> Any:
        """What to call the model with."""
        return call_inputs(self.kind, self.tensors)

    @property
    def rows(self) -> int:
        """The greatest first dimension of a tensor: how many samples there may be in it."""
        return max(tensor.shape[0] if tensor.dim() else 1 for tensor in self.tensors.values())

    @property
    def whole_numbers(self) -> int:
        """How many whole numbers there are in it, such as tokens."""
        return sum(tensor.numel() for tensor in self.tensors.values() if is_whole(tensor))

    @property
    def extent(self) -> int:
        """The most elements that a tensor without any would have, were its empty dimensions of length 1."""
        return max(
            math.prod(max(1, length) for length in tensor.shape) if tensor.numel() == 0 else 0
            for tensor in self.tensors.values()
        )

    def wants(self, peer: str, order: Order) -> bool:
        """Return whether a snapshot of a peer is to predict.

        Args:
            peer: Whose.
            order: Its (incarnation, sequence).
        """
        if self.peers is not None and peer not in self.peers:
            return False
        return peer not in self.left_out or self.left_out[peer] not in (None, order)

    def to_bytes(self) -> bytes:
        """Return it as it travels."""
        return write_message(
            {
                "inputs": self.kind,
                "codec": _describe(self.codec),
                "temperature": self.temperature,
                "class_dim": self.class_dim,
                "peers": None if self.peers is None else list(self.peers),
                "left_out": {
                    peer: None if order is None else list(order) for peer, order in self.left_out.items()
                },
                "seed": self.seed,
            },
            self.tensors,
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Parse what somebody else wrote.

        Raises:
            TypeError, ValueError: If it is not as ``to_bytes`` returns it.
        """
        document, tensors = read_message(content, most_tensors=MAX_TENSORS)
        temperature = document.number_or_none("temperature")
        if temperature is None:
            raise ValueError("temperature must be a number, got null.")
        names = None if document.is_null("peers") else document.array("peers", limit=MAX_PEERS)
        return cls(
            kind=document.text("inputs"),  # type: ignore[arg-type]  # checked when it is made
            tensors=tensors,
            codec=_codec(document.fields("codec")),
            temperature=temperature,
            class_dim=document.integer("class_dim", minimum=-_MOST_DIMS),
            peers=None if names is None else tuple(check_peer_name(as_string(one, "peers")) for one in names),
            left_out={
                check_peer_name(peer): None if order is None else _order(document.fields("left_out"), peer)
                for peer, order in document.items("left_out", limit=MAX_PEERS)
            },
            seed=document.integer("seed"),
        )


def call_inputs(kind: Kind, tensors: Mapping[str, Tensor]) -> Any:
    """Return what to call a model with.

    Args:
        kind: How it is called.
        tensors: By name, as in a question.
    """
    if kind == "tensor":
        return tensors["0"]
    if kind == "positional":
        return tuple(tensors[str(index)] for index in range(len(tensors)))
    return dict(tensors)


def is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor holds whole numbers, which a model may look something up by."""
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def _check_input(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in DTYPES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES))
        raise ValueError(f"input {name!r} must be of one of {known}, got {tensor.dtype}.")
    if tensor.dim() > _MOST_DIMS:
        raise ValueError(f"input {name!r} must have at most {_MOST_DIMS} dimensions, got {tensor.dim()}.")


def _describe(codec: PredictionCodec) -> dict[str, Any]:
    if isinstance(codec, TopK):
        return {"name": "top-k", "k": codec.k, "sampled": codec.sampled}
    assert isinstance(codec, Exact | BFloat16)
    return {"name": codec.name}


def _codec(fields: Fields) -> PredictionCodec:
    name = fields.text("name")
    if name == "top-k":
        k = fields.integer("k", maximum=_MOST_CLASSES)
        return TopK(k, sampled=fields.integer("sampled", maximum=_MOST_CLASSES))
    for codec in (Exact(), BFloat16()):
        if codec.name == name:
            return codec
    raise ValueError(f"codec.name must be exact, bfloat16 or top-k, got {name!a:.80}.")


def _order(fields: Fields, peer: str) -> Order:
    numbers = fields.integers(peer, limit=2)
    if len(numbers) != 2:
        raise ValueError(f"{fields.name}.{peer} must be incarnation and sequence, got {list(numbers)}.")
    return numbers
