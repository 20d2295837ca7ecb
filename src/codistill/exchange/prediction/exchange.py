"""Exchange of predictions: all peers see one batch and swap what they make of it."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.exchange.base import (
    DistillationSettings,
    Exchange,
    ExchangeCounters,
    PeerPrediction,
    Predictions,
    Progress,
    TeacherInfo,
    check_inputs,
)
from codistill.exchange.notices import Notices
from codistill.exchange.prediction.agreement import PredictionAgreement, SwapHeader
from codistill.exchange.prediction.checksum import checksum
from codistill.exchange.prediction.codec import PredictionCodec, as_codec
from codistill.exchange.prediction.layout import PredictionLayout
from codistill.exchange.prediction.live_teachers import LiveTeachers
from codistill.exchange.usable import without_nan
from codistill.losses.divergences import Divergence
from codistill.parallel.counterparts import Counterparts, PeersGroup
from codistill.parallel.group import PeerRanks
from codistill.parallel.spread import model_spread
from codistill.snapshots.document import Fields

# Batches are compared at the first swap of a process and then every so many, as that waits for the device;
# logits in the next step, by when models that begin with a head of zeros differ.
_COMPARE_EVERY_SWAPS: Final = 100
# Optimizer steps between two looks, on an accelerator, at whether others' logits were numbers.
_LOOK_EVERY_STEPS: Final = 10


@final
class PredictionExchange(Exchange):
    """Peers see the same batch in the same order, and swap their logits at every loss.

    As in the code of Murai et al. 2020 ("Online-Codistillation Meets LARS"), for batches that all teams
    share: no copy of anybody's weights, no second forward, and teachers of age 0, which are what the others'
    models have just made of the batch, in train mode. All peers start and resume together. Let each draw its
    samples by ``PartitionedSampler(regime="same_batches")``.

    Peers are named by their number in the group, "0", "1" and so on. Every ``loss`` after burn-in swaps
    once, also where the weight is 0; so with accumulation each micro-batch does. A ``TopK`` draws from a
    generator that follows from peer, rank and step: the student's own random numbers stay as they are.

    **Ranks**: each rank swaps with the same rank of every other peer. In a world of peers x ranks, pass
    ``mesh["peers"]`` here and ``mesh["ranks"].get_group()`` as the ``group`` of the ``Codistiller``.
    **Blocks**: the first ``loss``, and each one after burn-in, until all peers are there; what is on an
    accelerator is waited for by its stream.
    **On failure**: a peer that has ended, or comes later than the timeout of the group, is an
    ``ExchangeTimeout``; with NCCL, if it goes in the middle of a swap, torch ends the process. Settings,
    steps, shapes or batches that differ are a ``PeerMismatchError`` in all peers; batches are compared at
    the first swap and every 100 swaps. Logits that are no numbers count nothing, which is said once, until
    they are numbers again.

    Example::

        mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("peers", "ranks"))
        model = DistributedDataParallel(model, process_group=mesh["ranks"].get_group())
        exchange = PredictionExchange(mesh["peers"], codec=TopK(32, sampled=16))
        codistiller = Codistiller(model, exchange, group=mesh["ranks"].get_group())
    """

    interval_steps = 1
    is_collective = True

    def __init__(self, group: PeersGroup, *, codec: str | PredictionCodec = "exact") -> None:
        """Take part in a group of peers; nothing is sent before the first loss.

        Args:
            group: One rank of each peer: a ``ProcessGroup``, or a 1-D ``DeviceMesh`` over peers.
            codec: What is sent: "exact" logits, "bfloat16", or ``TopK(k, sampled=s)``; the same in all.

        Raises:
            TypeError, ValueError: If an argument is not as described.
        """
        self._codec = as_codec(codec)
        self._counterparts = Counterparts(group)
        self._agreement = PredictionAgreement(self._counterparts)
        self.counters = ExchangeCounters()
        self._notices = Notices()
        self._process = os.getpid()
        self._model: nn.Module | None = None
        self._ranks = PeerRanks.alone()
        self._settings: DistillationSettings | None = None
        self._divergence = Divergence("kl")
        self._progress = Progress()
        self._has_begun = False
        self._is_closed = False
        # Swaps in all lives of the peer, in this process, and since the last step.
        self._swaps = 0
        self._swaps_of_process = 0
        self._swaps_of_step = 0
        # Where batches were compared last, until logits are too.
        self._compared_step: int | None = None
        self._teachers = LiveTeachers(self._notices)

    @override
    def bind(
        self,
        model: nn.Module,
        outputs_to_logits: Callable[[Any], Tensor] | None,
        ranks: PeerRanks | None = None,
        settings: DistillationSettings | None = None,
    ) -> None:
        if self._model is not None:
            raise ValueError(
                "exchange must be used by one Codistiller only, got a second. Make a new exchange."
            )
        ranks = self._ranks if ranks is None else ranks
        if model_spread(model) > ranks.size:
            raise ValueError(
                f"group must hold all ranks of this peer, got {ranks.size} of the {model_spread(model)} that "
                "the model is spread over. Wrap the model with the group of this peer's ranks, not of all "
                'peers\', and pass it: Codistiller(..., group=mesh["ranks"].get_group()).'
            )
        if settings is not None:
            self._codec.check_suits(
                settings.divergence, settings.combine, teachers=self._counterparts.size - 1
            )
            self._divergence = settings.divergence
        self._model, self._settings, self._ranks = model, settings, ranks

    @override
    def check_logits(self, logits: Tensor) -> None:
        self._encode(logits)

    @override
    def begin(self, progress: Progress) -> None:
        self._check_open()
        self._progress = progress
        if self._has_begun:
            return
        self._ranks.connect()
        self._counterparts.connect()
        self._agreement.on_settings(self._codec, self._settings, step=progress.step)
        self._has_begun = True

    @override
    def predict(self, inputs: Any, logits: Tensor | None) -> Predictions:
        self._check_open()
        if not self._has_begun:
            raise RuntimeError(
                "predict() must follow begin(), got none. Use the exchange through a Codistiller."
            )
        if logits is None:
            raise ValueError(
                "logits must be given, got None: they are what the other peers learn from. "
                "Call predict(inputs, logits=logits) with what the model made of these inputs."
            )
        check_inputs(inputs)
        tensors = self._encode(logits)
        layout = PredictionLayout.of(tensors, logits=logits)
        headers = self._agreement.on_swap(self._header(layout, inputs, logits), layout)
        self._notice_twins(headers)
        swapped = self._counterparts.gather(layout.pack(tensors), step=self._progress.step)
        self._count_swap(headers[self._counterparts.number], layout.nbytes)
        others = sorted((str(number), number) for number in range(len(headers)) if str(number) != self._name)
        self._teachers.meet({peer: headers[number] for peer, number in others}, swaps=self._swaps)
        return Predictions(
            tuple(
                self._prediction(peer, headers[number], layout.unpack(swapped[number]), logits.shape)
                for peer, number in others
            )
        )

    @override
    def step(self, progress: Progress) -> None:
        self._check_open()
        self._progress = progress
        self._swaps_of_step = 0
        if progress.step % _LOOK_EVERY_STEPS == 0:
            self._teachers.look()

    @property
    @override
    def teachers(self) -> Mapping[str, TeacherInfo]:
        return self._teachers.describe()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"peer": self._name, "swaps": self._swaps}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._has_begun:
            raise RuntimeError(
                "State must be loaded before the first loss(), got it after. "
                "Call load_state_dict where the model's own state is loaded."
            )
        fields = Fields(dict(state), "state")
        peer, swaps = fields.text("peer"), fields.integer("swaps")
        if peer != self._name:
            raise ValueError(
                f"state must be of peer {self._name!r}, got that of {peer!r}. "
                "Load the file that this peer saved, and start the peers in the same order."
            )
        self._swaps = swaps

    @override
    def close(self, progress: Progress, *, publish: bool, timeout_s: float = 60.0) -> None:
        self._is_closed = True

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "PredictionExchange cannot be pickled or copied: it belongs to one process and one student. "
            "Make it where it is used."
        )

    @property
    def _name(self) -> str:
        return str(self._counterparts.number)

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"Peer {self._name!r} has been closed. Make a new Codistiller to train on.")
        if self._model is None:
            raise RuntimeError("exchange must be given to a Codistiller first, got no student.")
        if self._process != os.getpid():
            raise RuntimeError(
                f"Peer {self._name!r} belongs to the process that made it, got a fork of that. "
                "Make a new Codistiller in the process that trains."
            )

    def _encode(self, logits: Tensor) -> dict[str, Tensor]:
        return self._codec.encode(
            logits,
            temperature=self._divergence.temperature,
            class_dim=self._divergence.class_dim,
            generator=self._generator(logits.device),
        )

    def _generator(self, device: torch.device) -> torch.Generator:
        """Return a generator that gives other numbers to each peer, rank and swap, and the same on resume."""
        place = f"{self._name}/{self._ranks.rank}/{self._progress.step}/{self._swaps_of_step}"
        # All bits of a seed must vary: torch's generator for the CPU takes the lower half only.
        digest = hashlib.blake2b(place.encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)

    def _header(self, layout: PredictionLayout, inputs: Any, logits: Tensor) -> SwapHeader:
        step, compared_step = self._progress.step, self._compared_step
        compares_batches = self._swaps_of_process % _COMPARE_EVERY_SWAPS == 0
        compares_logits = compared_step is not None and step > compared_step and logits.numel() > 0
        return SwapHeader(
            step=step,
            samples=self._progress.samples,
            layout=layout.digest,
            batch=checksum(inputs) if compares_batches else 0,
            logits=checksum(logits) if compares_logits else 0,
        )

    def _notice_twins(self, headers: list[SwapHeader]) -> None:
        own = headers[self._counterparts.number].logits
        twins = [
            str(number)
            for number, header in enumerate(headers)
            if number != self._counterparts.number and own and header.logits == own
        ]
        if twins:
            self._notices.say(
                "identical",
                f"Peers {self._name!r} and {twins[0]!r} have identical logits at step {self._progress.step}: "
                "while they have, the distillation loss is 0 and teaches nothing. Seed the initialisation of "
                "every peer differently.",
            )

    def _count_swap(self, own: SwapHeader, nbytes: int) -> None:
        if own.logits:
            self._compared_step = None
        if own.batch:
            self._compared_step = own.step
        others = self._counterparts.size - 1
        self.counters.bytes_published += others * nbytes
        self.counters.bytes_fetched += others * nbytes
        self._swaps += 1
        self._swaps_of_process += 1
        self._swaps_of_step += 1

    def _prediction(
        self, peer: str, header: SwapHeader, tensors: Mapping[str, Tensor], shape: torch.Size
    ) -> PeerPrediction:
        target, share = without_nan(
            self._codec.decode(
                tensors,
                shape=shape,
                temperature=self._divergence.temperature,
                class_dim=self._divergence.class_dim,
            )
        )
        self._teachers.note(peer, share)
        return PeerPrediction(
            peer=peer,
            target=target,
            step=header.step,
            samples=header.samples,
            sequence=(0, self._swaps),
            share=share,
        )
