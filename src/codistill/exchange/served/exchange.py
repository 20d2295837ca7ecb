"""Exchange by a server: somebody else runs the teachers."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from codistill.arguments import check_int, check_seconds
from codistill.errors import PeerMismatchError
from codistill.exchange.base import (
    DistillationSettings,
    Exchange,
    ExchangeCounters,
    Predictions,
    Progress,
    TeacherInfo,
)
from codistill.exchange.checkpoint.exchange import CheckpointExchange
from codistill.exchange.checkpoint.membership import MAX_PEERS
from codistill.exchange.checkpoint.roster import Order, Sighted
from codistill.exchange.notices import Notices
from codistill.exchange.prediction.codec import BFloat16, Exact, PredictionCodec, TopK, as_codec
from codistill.exchange.served.answer import Answer, ServedPrediction
from codistill.exchange.served.bearer_token import BearerToken
from codistill.exchange.served.client import ServerAwayError, ServerClient, ServerRefusalError
from codistill.exchange.served.question import Question
from codistill.exchange.served.teachers import ServedTeachers
from codistill.exchange.served.tensor_message import MAX_HEADER_BYTES
from codistill.exchange.served.url import ServerUrl
from codistill.losses.sparse import check_draws
from codistill.losses.targets import Target
from codistill.parallel.group import PeerRanks
from codistill.snapshots.document import Fields, as_integer
from codistill.snapshots.keys import check_peer_name

PREDICTIONS_PATH: Final = "/v1/predictions"
PEERS_PATH: Final = "/v1/peers"

_STATE_VERSION: Final = 1
_LOOK_EVERY_STEPS: Final = 50
_MOST_PAUSED_STEPS: Final = 255
_MOST_BYTES_OF_PEERS: Final = 2**20
# Where the student's logits are not known, and with them the size of an answer.
_MOST_BYTES: Final = 2**30


@final
class ServedExchange(Exchange):
    """A student without memory for teachers asks a prediction server at every loss.

    The server (``codistill serve``) follows the snapshots that peers publish in a store. A student that is
    to be a peer itself publishes too: pass ``publishing=CheckpointExchange(store, peer="a", peers=["a"])``,
    which has no teachers of its own.

    Ages are counted in the student's own steps since it first saw a snapshot's predictions. One that is
    older than ``max_age_steps`` fades out over as many steps again, unless its peer has finished; it is then
    no more asked for. A server that goes back to an older snapshot than it has shown is not listened to.

    **Ranks**: each rank of the peer asks for itself; what is published is published as that exchange does.
    **Blocks**: each ``loss`` after burn-in, up to ``timeout_s``.
    **On failure**: while the server is away, or answers what cannot be used, there is no teacher and the
    distillation loss is 0; that is said once an outage, and after failures in a row the student trains 0, 1,
    3, 7 and up to 255 steps without asking. A server that refuses the first question raises
    ``PeerMismatchError``; later refusals are outages. Logits that are not numbers, and a peer whose task loss
    is over twice the student's and worse by 0.1 for three looks, count nothing until there is a better
    snapshot.

    Example:
        >>> exchange = ServedExchange("http://127.0.0.1:8765", peer="a", codec=TopK(32, sampled=16))
        >>> dict(exchange.teachers)
        {}
    """

    def __init__(
        self,
        url: str,
        *,
        peer: str | None = None,
        peers: Sequence[str] | None = None,
        codec: str | PredictionCodec = "exact",
        publishing: CheckpointExchange | None = None,
        token_file: str | Path | None = None,
        ca_file: str | Path | None = None,
        timeout_s: float = 10.0,
        max_age_steps: int | None = None,
    ) -> None:
        """Make no connection yet.

        Args:
            url: Where the server is: ``https://host:port``, or ``http://127.0.0.1:port`` on this machine.
            peer: This student's own name, if it publishes: it is not to learn from itself.
            peers: Whom to learn from; None for all whom the server follows.
            codec: What is sent: "exact" logits, "bfloat16", or ``TopK(k, sampled=s)``.
            publishing: Publishes the student's weights; None if it only learns.
            token_file: The server's token, if it asks for one.
            ca_file: Certificates that may have signed the server's; None for those of this machine.
            timeout_s: How long a question may take, > 0, in seconds.
            max_age_steps: The age up to which a snapshot counts fully; None is 20 of its peer's intervals.

        Raises:
            TypeError, ValueError: If an argument is not as described.
            ExtraMissingError: If the extra "serve" is not installed.
        """
        self._peer = None if peer is None else check_peer_name(peer)
        self._peers = _check_peers(peers)
        self._codec = _check_codec(codec)
        if max_age_steps is not None:
            check_int("max_age_steps", max_age_steps, minimum=1, hint="It counts optimizer steps.")
        self._publishing = _check_publishing(publishing, self._peer)
        check_seconds("timeout_s", timeout_s, hint="10.0 is the default.")
        self._url = ServerUrl.parse(url)
        self._client = ServerClient(
            self._url,
            token=None if token_file is None else BearerToken.from_file(token_file),
            ca_file=ca_file,
            timeout_s=timeout_s,
        )
        self.counters = ExchangeCounters() if publishing is None else publishing.counters
        self.interval_steps = _LOOK_EVERY_STEPS if publishing is None else publishing.interval_steps
        self._notices = Notices()
        self._teachers = ServedTeachers(
            self._notices,
            url=self._url.url,
            peer=self._peer,
            peers=self._peers,
            max_age_steps=max_age_steps,
        )
        self._step = 0
        self._questions_of_step = 0
        self._failures = 0
        self._ask_from_step = 0
        self._was_answered = False
        self._is_bound = False
        self._has_begun = False
        self._is_closed = False
        self._rank = 0
        self._temperature = 1.0
        self._class_dim = -1

    @override
    def bind(
        self,
        model: nn.Module,
        outputs_to_logits: Callable[[Any], Tensor] | None,
        ranks: PeerRanks | None = None,
        settings: DistillationSettings | None = None,
    ) -> None:
        if self._is_bound:
            raise ValueError(
                "exchange must be used by one Codistiller only, got a second. Make a new exchange."
            )
        if settings is None and isinstance(self._codec, TopK):
            raise ValueError(
                "settings must be given for TopK, got None: what is sent depends on the temperature. "
                "Use the exchange through a Codistiller."
            )
        if settings is not None:
            teachers = None if self._peers is None else len(self._peers)
            self._codec.check_suits(settings.divergence, settings.combine, teachers=teachers)
            self._temperature = settings.divergence.temperature
            self._class_dim = settings.divergence.class_dim
        if self._publishing is not None:
            self._publishing.bind(model, outputs_to_logits, ranks, settings)
        self._rank = 0 if ranks is None else ranks.rank
        self._is_bound = True

    @override
    def check_logits(self, logits: Tensor) -> None:
        if isinstance(self._codec, TopK):
            check_draws(self._codec.k, self._codec.sampled, logits.shape[self._class_dim])

    @override
    def begin(self, progress: Progress) -> None:
        self._check_open()
        if self._has_begun:
            return
        if self._publishing is not None:
            self._publishing.begin(progress)
        self._step = self._teachers.step = progress.step
        self._ask_from_step = progress.step
        try:
            self._client.get(PEERS_PATH, max_bytes=_MOST_BYTES_OF_PEERS)
        except ServerAwayError as error:
            self._note_failure(str(error))
            # It may be there by the end of burn-in, or of the first forward.
            self._ask_from_step = progress.step
        except ServerRefusalError as error:
            raise self._refused(str(error)) from error
        self._has_begun = True

    @override
    def predict(self, inputs: Any, logits: Tensor | None) -> Predictions:
        self._check_open()
        if not self._has_begun:
            raise RuntimeError(
                "predict() must follow begin(), got none. Use the exchange through a Codistiller."
            )
        if self._step < self._ask_from_step:
            return Predictions(())
        question = self._question(inputs)
        try:
            answer = self._ask(question, logits)
            targets = [self._decode(prediction) for prediction in answer.predictions]
        except ServerRefusalError as error:
            if not self._was_answered:
                raise self._refused(str(error)) from error
            self._note_failure(str(error))
        except ServerAwayError as error:
            self._note_failure(str(error))
        except (TypeError, ValueError) as error:
            # The question was checked when it was made: it is the answer that is not as it should be.
            self._note_failure(f"its answer cannot be used: {error}")
        else:
            if logits is not None and self._was_answered:
                answer, targets = self._teachers.without_other_shapes(answer, targets, logits.shape)
            self._note_success()
            device = _device_of(inputs) if logits is None else logits.device
            return self._teachers.take(answer, targets, device)
        return Predictions(())

    @override
    def step(self, progress: Progress) -> None:
        self._check_open()
        if self._publishing is not None and self._has_begun:
            self._publishing.step(progress)
            if self._publishing.teachers:
                self._notices.say(
                    "teachers",
                    "publishing must have no teachers of its own, which take memory and are not asked. Pass "
                    f"CheckpointExchange(store, peer={self._peer!r}, peers=[{self._peer!r}]).",
                )
        else:
            self.counters.fetched.clear()
        self.counters.fetched.extend(self._teachers.take_new())
        self._step = self._teachers.step = progress.step
        self._questions_of_step = 0
        if progress.step % self.interval_steps == 0:
            self._teachers.judge(progress.task_loss, is_away=self._failures > 0)

    @property
    @override
    def teachers(self) -> Mapping[str, TeacherInfo]:
        return self._teachers.describe(is_away=self._failures > 0)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "version": _STATE_VERSION,
            "seen": {peer: [*one.order, one.step] for peer, one in sorted(self._teachers.seen.items())},
            "publishing": None if self._publishing is None else self._publishing.state_dict(),
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._has_begun:
            raise RuntimeError(
                "State must be loaded before the first loss(), got it after. "
                "Call load_state_dict where the model's own state is loaded."
            )
        fields = Fields(dict(state), "state")
        as_integer(state.get("version"), "state.version", minimum=1, maximum=_STATE_VERSION)
        seen = {}
        for peer, _ in fields.items("seen", limit=2**20):
            incarnation, sequence, step = fields.fields("seen").integers(peer, limit=3)
            seen[check_peer_name(peer)] = Sighted((incarnation, sequence), step)
        if self._publishing is not None and not fields.is_null("publishing"):
            self._publishing.load_state_dict(state["publishing"])
        self._teachers.remember(seen)

    @override
    def close(self, progress: Progress, *, publish: bool, timeout_s: float = 60.0) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._client.close()
        if self._publishing is not None:
            self._publishing.close(progress, publish=publish, timeout_s=timeout_s)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "ServedExchange cannot be pickled or copied: it belongs to one process and one student. "
            "Make it where it is used."
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("The exchange has been closed. Make a new Codistiller to train on.")
        if not self._is_bound:
            raise RuntimeError("exchange must be given to a Codistiller first, got no student.")

    def _question(self, inputs: Any) -> Question:
        left_out: dict[str, Order | None] = dict(self._teachers.silent)
        if self._peer is not None:
            left_out[self._peer] = None
        place = f"{self._peer}/{self._rank}/{self._step}/{self._questions_of_step}"
        self._questions_of_step += 1
        return Question.of(
            inputs,
            codec=self._codec,
            temperature=self._temperature,
            class_dim=self._class_dim,
            peers=self._peers,
            left_out=left_out,
            seed=int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big") >> 1,
        )

    def _ask(self, question: Question, logits: Tensor | None) -> Answer:
        body = question.to_bytes()
        self.counters.bytes_published += len(body)
        content = self._client.post(PREDICTIONS_PATH, body, max_bytes=self._most_bytes(logits))
        self.counters.bytes_fetched += len(content)
        return Answer.from_bytes(content)

    def _most_bytes(self, logits: Tensor | None) -> int:
        """Return how large an answer to this student can be."""
        if logits is None:
            return _MOST_BYTES
        classes = logits.shape[self._class_dim] if logits.dim() > 0 else 1
        positions = logits.numel() // max(1, classes)
        peers = MAX_PEERS if self._peers is None else len(self._peers)
        itemsize = torch.float64.itemsize
        return peers * self._codec.nbytes(positions, classes, itemsize=itemsize) + 2 * MAX_HEADER_BYTES

    def _decode(self, prediction: ServedPrediction) -> Target:
        return self._codec.decode(
            prediction.tensors,
            shape=prediction.shape,
            temperature=self._temperature,
            class_dim=self._class_dim,
        )

    def _note_failure(self, reason: str) -> None:
        self._failures += 1
        paused_steps = min(2 ** (self._failures - 1) - 1, _MOST_PAUSED_STEPS)
        # At the earliest the next step: the other micro-batches of this one need not wait as well.
        self._ask_from_step = self._step + 1 + paused_steps
        self._notices.say(
            "server",
            f"The prediction server at {self._url.url} does not answer at step {self._step}: {reason}. "
            "Training goes on without teachers, and asks again, ever less often.",
        )

    def _note_success(self) -> None:
        self._failures = 0
        self._was_answered = True
        self._notices.has_passed("server")

    def _refused(self, reason: str) -> PeerMismatchError:
        return PeerMismatchError(
            f"The prediction server at {self._url.url} refuses this student: {reason}", step=self._step
        )


def _check_peers(peers: Sequence[str] | None) -> tuple[str, ...] | None:
    if peers is None:
        return None
    if isinstance(peers, str) or not isinstance(peers, Sequence):
        raise TypeError(f"peers must be a list of names, got {peers!r}. Pass [{peers!r}].")
    if not 1 <= len(peers) <= MAX_PEERS:
        raise ValueError(f"peers must be 1 to {MAX_PEERS}, got {len(peers)}. Leave them out for all.")
    return tuple(sorted({check_peer_name(name, f"peers[{i}]") for i, name in enumerate(peers)}))


def _check_codec(codec: str | PredictionCodec) -> PredictionCodec:
    codec = as_codec(codec)
    if not isinstance(codec, Exact | BFloat16 | TopK):
        raise TypeError(
            f"codec must be one that servers know, got {codec.name!r}. Pass 'exact', 'bfloat16' or TopK(...)."
        )
    return codec


def _check_publishing(publishing: CheckpointExchange | None, peer: str | None) -> CheckpointExchange | None:
    if publishing is None:
        return None
    if not isinstance(publishing, CheckpointExchange):
        raise TypeError(f"publishing must be a CheckpointExchange, got {type(publishing).__name__}.")
    if publishing.is_lockstep:
        raise ValueError("publishing must run free, got lockstep: a server waits for nobody.")
    if peer is None:
        raise ValueError(
            "peer must be given with publishing, got None. Pass the name it publishes under, so that the "
            "student does not learn from itself."
        )
    return publishing


def _device_of(inputs: Any) -> torch.device:
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    first: Tensor = inputs if isinstance(inputs, Tensor) else next(iter(values))
    return first.device
