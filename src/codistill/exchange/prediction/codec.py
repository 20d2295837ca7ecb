"""How predictions travel: a teacher's logits as a few tensors, and back to what a loss takes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from codistill.arguments import check_int
from codistill.losses.divergences import Divergence
from codistill.losses.sparse import SparseTarget, sample_top_k, validate_sparse
from codistill.losses.targets import Combine, DenseTarget, Target

_LOGITS: Final = "logits"


class PredictionCodec(ABC):
    """Turns logits into tensors that are sent, and those into a target.

    Names, dtypes and shapes of the tensors follow from the logits' dtype and shape alone, so that whoever
    receives them knows how many bytes will come.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called among peers: two codecs of one name are the same."""

    @abstractmethod
    def encode(
        self,
        logits: Tensor,
        *,
        temperature: float = 1.0,
        class_dim: int = -1,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the tensors to send, contiguous and on the logits' device.

        Logits that are not numbers are sent such that the receiver finds out (``decode``).

        Args:
            logits: [batch, ..., classes]; no gradient is kept.
            temperature: The divergence's.
            class_dim: The dimension of the classes.
            generator: What random numbers are drawn from, on the logits' device; None for torch's own.

        Raises:
            TypeError: If the logits are not a floating-point tensor.
        """

    @abstractmethod
    def decode(
        self,
        tensors: Mapping[str, Tensor],
        *,
        shape: torch.Size,
        temperature: float = 1.0,
        class_dim: int = -1,
    ) -> Target:
        """Return what was encoded, on the device where the tensors are.

        What may have come from a stranger is checked; that values are finite is not, as that would wait
        for the device.

        Args:
            tensors: What ``encode`` returned, under the same names.
            shape: The shape of the student's logits, which the teacher's had too.
            temperature: As in ``encode``.
            class_dim: As in ``encode``.

        Raises:
            ValueError: If names, dtypes or shapes are not those of such logits.
        """

    @abstractmethod
    def nbytes(self, positions: int, classes: int, *, itemsize: int = 4) -> int:
        """Return how many bytes one prediction takes.

        Args:
            positions: Positions of the batch, such as samples times tokens.
            classes: Outputs a position.
            itemsize: Bytes of one of the teacher's logits, where they are sent as they are.
        """

    @abstractmethod
    def check_suits(self, divergence: Divergence, combine: Combine, *, teachers: int | None) -> None:
        """Refuse a distillation loss that cannot be had from such predictions without a bias.

        Args:
            divergence: The loss between the student and one teacher.
            combine: How several teachers become one term.
            teachers: How many there will be, None if that is not known.

        Raises:
            ValueError: If it does not suit.
        """


class _Dense(PredictionCodec):
    """All logits, in a dtype of the codec's or their own."""

    __slots__ = ()

    @property
    @abstractmethod
    def _dtype(self) -> torch.dtype | None:
        """What logits are rounded to, None for nothing."""

    @override
    def encode(
        self,
        logits: Tensor,
        *,
        temperature: float = 1.0,
        class_dim: int = -1,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        logits = DenseTarget(logits.detach()).logits
        return {_LOGITS: logits.to(self._dtype or logits.dtype).contiguous()}

    @override
    def decode(
        self,
        tensors: Mapping[str, Tensor],
        *,
        shape: torch.Size,
        temperature: float = 1.0,
        class_dim: int = -1,
    ) -> DenseTarget:
        _check_names(tensors, (_LOGITS,))
        logits = tensors[_LOGITS]
        if not logits.is_floating_point():
            raise ValueError(f"logits of a prediction must be of floating point, got {logits.dtype}.")
        _check_dtype(_LOGITS, logits, self._dtype or logits.dtype)
        _check_shape(_LOGITS, logits, tuple(shape))
        return DenseTarget(logits)

    @override
    def nbytes(self, positions: int, classes: int, *, itemsize: int = 4) -> int:
        return positions * classes * (itemsize if self._dtype is None else self._dtype.itemsize)

    @override
    def check_suits(self, divergence: Divergence, combine: Combine, *, teachers: int | None) -> None:
        pass


@final
@dataclass(frozen=True, slots=True)
class Exact(_Dense):
    """The logits as they are."""

    @property
    @override
    def name(self) -> str:
        return "exact"

    @property
    @override
    def _dtype(self) -> None:
        return None


@final
@dataclass(frozen=True, slots=True)
class BFloat16(_Dense):
    """The logits rounded to bfloat16: half the bytes of float32, two to three decimal digits."""

    @property
    @override
    def name(self) -> str:
        return "bfloat16"

    @property
    @override
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16


@final
@dataclass(frozen=True, slots=True)
class TopK(PredictionCodec):
    """A few classes a position, such that what is linear in the probabilities is right in expectation.

    At the divergence's temperature: the k - s largest probabilities as they are, s classes drawn from the
    rest, each of which carries rest / s, and the entropy of the whole distribution. The k largest alone
    would bias the loss (Sparse Logit Sampling, arXiv:2503.16870). Sent are the classes (int32), the
    exact probabilities, the rest and the entropy (float32 each): 8 k - 4 s + 8 bytes a position.

    Raises:
        TypeError, ValueError: If a field is not as described.

    Example:
        >>> TopK(32, sampled=16).nbytes(1024, 50257)
        204800
    """

    k: int
    """Classes a position, >= 1; all of them if there are fewer."""
    sampled: int = field(default=0, kw_only=True)
    """How many of the k are drawn, s; 0 only where k is at least the number of classes."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_int("k", self.k, minimum=1, hint="It counts classes a position.")
        check_int(
            "sampled",
            self.sampled,
            minimum=0,
            maximum=self.k,
            hint="It counts those of the k that are drawn.",
        )

    @property
    @override
    def name(self) -> str:
        return f"top-{self.k}, {self.sampled} of them sampled"

    @override
    def encode(
        self,
        logits: Tensor,
        *,
        temperature: float = 1.0,
        class_dim: int = -1,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        target = sample_top_k(
            DenseTarget(logits.detach()).logits,
            k=self.k,
            sampled=self.sampled,
            temperature=temperature,
            class_dim=class_dim,
            generator=generator,
        )
        exact, _ = self._numbers(target.class_count)
        # Every sampled class carries the same, so that one number a position tells all of theirs.
        rest = target.weights[..., exact:].sum(-1)
        return {
            "classes": target.classes.to(torch.int32).contiguous(),
            "probabilities": target.weights[..., :exact].float().contiguous(),
            "rest": rest.float().contiguous(),
            "entropy": target.entropy.float().contiguous(),
        }

    @override
    def decode(
        self,
        tensors: Mapping[str, Tensor],
        *,
        shape: torch.Size,
        temperature: float = 1.0,
        class_dim: int = -1,
    ) -> SparseTarget:
        _check_names(tensors, ("classes", "probabilities", "rest", "entropy"))
        if not -len(shape) <= class_dim < len(shape):
            raise ValueError(
                f"shape of a prediction must have a dimension {class_dim} of classes, got {list(shape)}."
            )
        classes = shape[class_dim]
        positions = list(shape)
        del positions[class_dim]
        exact, sampled = self._numbers(classes)
        wanted = {
            "classes": (torch.int32, (*positions, exact + sampled)),
            "probabilities": (torch.float32, (*positions, exact)),
            "rest": (torch.float32, (*positions,)),
            "entropy": (torch.float32, (*positions,)),
        }
        for name, (dtype, its_shape) in wanted.items():
            _check_dtype(name, tensors[name], dtype)
            _check_shape(name, tensors[name], its_shape)
        _check_classes(tensors["classes"], classes)
        weights = tensors["probabilities"]
        if sampled:
            each = (tensors["rest"] / sampled).unsqueeze(-1).expand(*positions, sampled)
            weights = torch.cat([weights, each], dim=-1)
        return SparseTarget(
            classes=tensors["classes"].to(torch.int64),
            weights=weights,
            entropy=tensors["entropy"],
            temperature=temperature,
            class_count=classes,
        )

    def _numbers(self, classes: int) -> tuple[int, int]:
        """Return how many classes travel with a probability of their own, and how many are drawn."""
        return (classes, 0) if self.k >= classes else (self.k - self.sampled, self.sampled)

    @override
    def nbytes(self, positions: int, classes: int, *, itemsize: int = 4) -> int:
        exact, sampled = self._numbers(classes)
        return positions * 4 * (2 * exact + sampled + 2)

    @override
    def check_suits(self, divergence: Divergence, combine: Combine, *, teachers: int | None) -> None:
        validate_sparse(divergence, combine, teachers)


def as_codec(codec: str | PredictionCodec) -> PredictionCodec:
    """Return the codec that a name or a ``TopK`` stands for.

    Args:
        codec: "exact", "bfloat16" or ``TopK(k, sampled=s)``.

    Raises:
        TypeError: If it is neither a name nor a codec.
        ValueError: If there is no such name.

    Example:
        >>> as_codec("bfloat16").nbytes(1024, 50257)
        102926336
    """
    if isinstance(codec, PredictionCodec):
        return codec
    if not isinstance(codec, str):
        raise TypeError(
            f"codec must be 'exact', 'bfloat16' or TopK(k, sampled=s), got {codec!r}. 'exact' is the default."
        )
    named: dict[str, PredictionCodec] = {"exact": Exact(), "bfloat16": BFloat16()}
    if codec not in named:
        raise ValueError(
            f"codec must be 'exact', 'bfloat16' or TopK(k, sampled=s), got {codec!r}. 'exact' is the default."
        )
    return named[codec]


def _check_names(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
    if sorted(tensors) != sorted(names):
        raise ValueError(f"a prediction must hold {sorted(names)}, got {sorted(tensors)}.")


def _check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise ValueError(f"{name} of a prediction must be of {dtype}, got {tensor.dtype}.")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} of a prediction must be of shape {list(shape)}, got {list(tensor.shape)}.")


def _check_classes(classes: Tensor, count: int) -> None:
    # On another device the look would wait for it; there they have come from a peer, not from a stranger.
    if classes.device.type != "cpu" or classes.numel() == 0:
        return
    least, most = (int(bound) for bound in classes.aminmax())
    if least < 0 or most >= count:
        raise ValueError(f"classes of a prediction must be between 0 and {count - 1}, got {least} to {most}.")
