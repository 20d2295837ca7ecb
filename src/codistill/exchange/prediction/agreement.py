"""Whether peers that swap predictions go together: their settings, steps, batches and shapes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, final

from codistill.errors import PeerMismatchError
from codistill.exchange.base import DistillationSettings
from codistill.exchange.prediction.codec import PredictionCodec
from codistill.exchange.prediction.layout import PredictionLayout
from codistill.parallel.counterparts import Counterparts
from codistill.schedules import Schedule

# Where weights are compared, counted from the end of burn-in.
_SAMPLED_STEPS: Final = (0, 1, 10, 100, 1_000, 10_000, 100_000)


class SwapHeader(NamedTuple):
    """What a peer says of its prediction before it sends it."""

    step: int
    """Optimizer steps done."""
    samples: int
    """Samples trained on."""
    layout: int
    """Digest of the prediction's layout."""
    batch: int = 0
    """Checksum of the batch; 0 where it is not compared."""
    logits: int = 0
    """Checksum of the peer's own logits; 0 where they are not compared."""


@final
class PredictionAgreement:
    """Compares what must be alike in all peers, before anybody relies on it.

    **Ranks**: a rank and its counterparts call every method together.
    **Blocks**: for the other peers, up to the timeout of their group.
    **On failure**: a difference is one and the same ``PeerMismatchError`` in all peers; nothing has changed.
    """

    def __init__(self, counterparts: Counterparts) -> None:
        """Compare with the same rank of the other peers."""
        self._counterparts = counterparts

    def on_settings(
        self, codec: PredictionCodec, settings: DistillationSettings | None, *, step: int
    ) -> None:
        """Refuse peers with different distillation losses or codecs.

        Weights are functions of the step: their values at some steps are compared.

        Raises:
            PeerMismatchError: If some differ.
            ExchangeTimeout: If a peer is missing.
        """
        own = {"codec": codec.name} if settings is None else {"codec": codec.name, **_fields(settings)}
        gathered = self._counterparts.gather_bytes(json.dumps(own).encode(), step=step)
        everybody: list[Mapping[str, Any]] = [json.loads(content) for content in gathered]
        for setting in dict.fromkeys(setting for fields in everybody for setting in fields):
            self._refuse_differences(
                [str(fields.get(setting)) for fields in everybody],
                rule=f"have the same {setting}",
                cure="Give all peers the same arguments.",
                step=step,
            )

    def on_swap(self, own: SwapHeader, layout: PredictionLayout) -> list[SwapHeader]:
        """Return every peer's header, by peer, if their predictions can be swapped.

        Raises:
            PeerMismatchError: If steps, batches, dtypes or shapes differ.
            ExchangeTimeout: If a peer is missing.
        """
        rows = self._counterparts.gather_words(own, step=own.step)
        headers = [SwapHeader(*row) for row in rows]
        self._refuse_differences(
            [f"step {header.step}" for header in headers],
            rule="be at the same step when they call loss()",
            cure="Call loss() and step() equally often in all peers, and resume all from states of one step.",
            step=own.step,
        )
        if any(header.layout != own.layout for header in headers):
            described = self._counterparts.gather_bytes(str(layout).encode(), step=own.step)
            self._refuse_differences(
                [content.decode() for content in described],
                rule="send predictions of one shape and dtype",
                cure='Give all peers the same batch; with codec="bfloat16" dtypes may differ.',
                step=own.step,
            )
        self._refuse_differences(
            [f"checksum {header.batch:016x}" for header in headers],
            rule="see the same batch, in the same order",
            cure='Draw it alike, such as with PartitionedSampler(regime="same_batches"), seed augmentations '
            "alike, and pass the same inputs.",
            step=own.step,
        )
        return headers

    def _refuse_differences(self, values: Sequence[str], *, rule: str, cure: str, step: int) -> None:
        peers: dict[str, list[str]] = {}
        for number, value in enumerate(values):
            peers.setdefault(value, []).append(str(number))
        if len(peers) == 1:
            return
        # The most are taken to be right, and among equals those who have the first of all.
        right = max(peers.values(), key=len)
        wrong = next(name for names in peers.values() if names is not right for name in names)
        said = "; ".join(f"{value} at {_list(names)}" for value, names in peers.items())
        raise PeerMismatchError(f"Peers must {rule}, got {said}. {cure}", peer=wrong, step=step)


def _list(names: Sequence[str]) -> str:
    return ("peer " if len(names) == 1 else "peers ") + ", ".join(map(repr, names))


def _fields(settings: DistillationSettings) -> dict[str, str]:
    return {
        "distillation_loss": repr(settings.divergence),
        "combine": settings.combine,
        "burn_in_steps": str(settings.burn_in_steps),
        **{
            f"weight at step {step}": _value(settings.weight, step)
            for step in (settings.burn_in_steps + after for after in _SAMPLED_STEPS)
        },
    }


def _value(schedule: Schedule, step: int) -> str:
    try:
        return repr(float(schedule(step)))
    except Exception as error:  # noqa: BLE001 - a function of the user's, perhaps at a step it never reaches
        return type(error).__name__
