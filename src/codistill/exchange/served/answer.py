"""What a prediction server answers: what each peer would predict, and which snapshot of it did."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from codistill.exchange.checkpoint.membership import MAX_PEERS
from codistill.exchange.checkpoint.roster import Order
from codistill.exchange.served.tensor_message import read_message, write_message
from codistill.snapshots.document import Fields, finite_or_none
from codistill.snapshots.info import SnapshotInfo
from codistill.snapshots.keys import check_peer_name

_MOST_DIMS = 16
_MOST_TENSORS_A_PEER = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """Which snapshot of a peer a server predicts with."""

    peer: str
    """Whose."""
    incarnation: int
    """Which life of the peer published it."""
    sequence: int
    """Which snapshot of that life."""
    step: int
    """The peer's optimizer step then."""
    samples: int
    """Samples it had been trained on by then."""
    interval_steps: int
    """Steps between two publishes of the peer."""
    task_loss: float | None
    """Its task loss as published."""
    finished: bool
    """Whether the peer's training is over."""

    @property
    def order(self) -> Order:
        """(incarnation, sequence): which of two snapshots of a peer is newer."""
        return self.incarnation, self.sequence

    @classmethod
    def of(cls, info: SnapshotInfo) -> Self:
        """Return what of a snapshot's description a student needs."""
        return cls(
            peer=info.peer,
            incarnation=info.incarnation,
            sequence=info.sequence,
            step=info.step,
            samples=info.samples,
            interval_steps=info.interval_steps,
            task_loss=finite_or_none(info.task_loss),
            finished=info.finished,
        )

    def to_fields(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "peer": self.peer,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "step": self.step,
            "samples": self.samples,
            "interval_steps": self.interval_steps,
            "task_loss": self.task_loss,
            "finished": self.finished,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Parse what somebody else wrote.

        Raises:
            TypeError, ValueError: If it is not as ``to_fields`` returns it.
        """
        return cls(
            peer=check_peer_name(fields.text("peer")),
            incarnation=fields.integer("incarnation"),
            sequence=fields.integer("sequence"),
            step=fields.integer("step"),
            samples=fields.integer("samples"),
            interval_steps=fields.integer("interval_steps", minimum=1),
            task_loss=fields.number_or_none("task_loss"),
            finished=fields.boolean("finished"),
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedPrediction:
    """What one peer would predict, encoded."""

    version: ServedVersion
    """Which snapshot made it."""
    is_usable: bool
    """Whether its logits were numbers."""
    shape: torch.Size
    """Their shape."""
    tensors: Mapping[str, Tensor]
    """What the codec made of them; on the CPU."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """All predictions on one batch, of one moment: no snapshot changed between two of them."""

    predictions: tuple[ServedPrediction, ...]
    """One a peer, in sorted order of their names."""

    def to_bytes(self) -> bytes:
        """Return it as it travels."""
        return write_message(
            {
                "predictions": [
                    {
                        **prediction.version.to_fields(),
                        "usable": prediction.is_usable,
                        "shape": list(prediction.shape),
                    }
                    for prediction in self.predictions
                ]
            },
            {
                f"{index}.{name}": tensor
                for index, prediction in enumerate(self.predictions)
                for name, tensor in prediction.tensors.items()
            },
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Parse what somebody else wrote; the codec checks the tensors.

        Raises:
            TypeError, ValueError: If it is not as ``to_bytes`` returns it.
        """
        document, tensors = read_message(content, most_tensors=MAX_PEERS * _MOST_TENSORS_A_PEER)
        by_index: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for full_name, tensor in tensors.items():
            index, _, name = full_name.partition(".")
            by_index[index][name] = tensor
        predictions = tuple(
            ServedPrediction(
                version=ServedVersion.from_fields(fields),
                is_usable=fields.boolean("usable"),
                shape=torch.Size(fields.integers("shape", limit=_MOST_DIMS)),
                tensors=by_index[str(index)],
            )
            for index, fields in enumerate(document.objects("predictions", limit=MAX_PEERS))
        )
        names = [prediction.version.peer for prediction in predictions]
        if names != sorted(set(names)):
            raise ValueError(f"predictions must be of different peers in sorted order, got {names}.")
        return cls(predictions=predictions)
