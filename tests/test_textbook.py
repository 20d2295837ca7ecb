"""Peers that exchange snapshots or predictions, against Algorithm 1 of Sodhani et al. 2020 by hand."""

import copy
import json
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codistill.codistiller import Codistiller
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.exchange.prediction.exchange import PredictionExchange
from codistill.losses import Divergence
from codistill.stores import MemoryStore, Store
from codistill.testing import connect_peers, run_peers

CLASSES = 5
WEIGHT = 0.7
TEMPERATURE = 1.5


# --- the textbook: formulas and the loop, with nothing of the library in them ---


def log_p(logits: Tensor) -> Tensor:
    return logits / TEMPERATURE - torch.logsumexp(logits / TEMPERATURE, dim=1, keepdim=True)


def by_hand_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return TEMPERATURE**2 * (log_p(teacher).exp() * (log_p(teacher) - log_p(student))).sum(1)


def by_hand_jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = log_p(teacher).exp(), log_p(student).exp()
    m = (p + q) / 2
    return TEMPERATURE**2 * 0.5 * ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1))


def by_hand_bernoulli(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = torch.sigmoid(teacher / TEMPERATURE), torch.sigmoid(student / TEMPERATURE)
    return TEMPERATURE**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())


BY_HAND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": by_hand_kl,
    "reverse_kl": lambda student, teacher: by_hand_kl(teacher, student),
    "symmetric_kl": lambda s, t: (by_hand_kl(s, t) + by_hand_kl(t, s)) / 2,
    "jensen_shannon": by_hand_jensen_shannon,
    "soft_cross_entropy": lambda s, t: -(TEMPERATURE**2) * (log_p(t).exp() * log_p(s)).sum(1),
    "logit_mse": lambda s, t: ((s - t) ** 2).mean(1),
    "centred_logit_mse": lambda s, t: (((s - s.mean(1, True)) - (t - t.mean(1, True))) ** 2).mean(1),
    "bernoulli_kl": by_hand_bernoulli,
}


def by_hand_term(name: str, combine: str, student: Tensor, teachers: list[Tensor]) -> Tensor:
    divergence = BY_HAND[name]
    if combine == "losses":
        return torch.stack([divergence(student, teacher).mean() for teacher in teachers]).mean()
    stacked = torch.stack(teachers)
    if combine == "logits":
        return divergence(student, stacked.mean(0)).mean()
    if name == "bernoulli_kl":
        mean = torch.sigmoid(stacked / TEMPERATURE).mean(0)
        return divergence(student, TEMPERATURE * (mean.log() - (1 - mean).log())).mean()
    mean = torch.softmax(stacked / TEMPERATURE, dim=2).mean(0)
    return divergence(student, TEMPERATURE * mean.log()).mean()


class Peer:
    """One peer's model, optimizer and endless data."""

    def __init__(self, name: str, *, outputs: int, dtype: torch.dtype) -> None:
        torch.manual_seed(ord(name))
        self.model = nn.Sequential(
            nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, outputs)
        ).to(dtype)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3)
        self.generator = torch.Generator().manual_seed(ord(name))
        self.dtype = dtype
        self.outputs = outputs
        self.trace: list[float] = []

    def batch(self) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(8, 6, generator=self.generator, dtype=torch.float64).to(self.dtype)
        targets = inputs[:, :CLASSES].argmax(1) if self.outputs > 1 else (inputs[:, :1] > 0).to(self.dtype)
        return inputs, targets

    def task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.outputs > 1:
            return F.cross_entropy(logits, targets)
        return F.binary_cross_entropy_with_logits(logits, targets)

    def learn(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.trace.append(loss.item())
        self.trace.extend(parameter.grad.norm().item() for parameter in self.model.parameters())
        self.optimizer.step()


Term = Callable[[Tensor, list[Tensor]], Tensor]


def algorithm_1(peers: list[Peer], steps: int, term: Term) -> None:
    """Update all peers from step k's weights; teachers predict with running statistics."""
    frozen: list[nn.Module] = []
    for step in range(steps):
        batches = [peer.batch() for peer in peers]
        if step > 0:
            frozen = [copy.deepcopy(peer.model).eval() for peer in peers]
        all_logits = [peer.model(inputs) for peer, (inputs, _) in zip(peers, batches, strict=True)]
        if step == 0:
            # Peers meet in their first loss(), when a forward has touched the running statistics.
            frozen = [copy.deepcopy(peer.model).eval() for peer in peers]
        for i, peer in enumerate(peers):
            (inputs, targets), logits = batches[i], all_logits[i]
            with torch.no_grad():
                teachers = [teacher(inputs) for j, teacher in enumerate(frozen) if j != i]
            peer.learn(peer.task_loss(logits, targets) + WEIGHT * term(logits, teachers))


# --- the same with the library: one thread a peer, one store ---


class HastyClock:
    """The real clock, but nobody sleeps for long: a name that was not closed is watched for 15 s."""

    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.001))


def codistil(
    peer: Peer,
    name: str,
    names: str,
    store: Store,
    steps: int,
    *,
    state: dict | None = None,
    **options: object,
) -> dict:
    exchange = CheckpointExchange(
        store, peer=name, peers=list(names), interval_steps=1, topology="all", lockstep=True
    )
    exchange.clock = HastyClock()
    codistiller = Codistiller(peer.model, exchange, weight=WEIGHT, **options)
    if state is not None:
        codistiller.load_state_dict(state)
    for _ in range(steps):
        inputs, targets = peer.batch()
        logits = peer.model(inputs)
        peer.learn(peer.task_loss(logits, targets) + codistiller.loss(logits, inputs))
        codistiller.step()
    saved = codistiller.state_dict()
    codistiller.close(publish=False)
    return saved


def pairs_admitted() -> Iterator[tuple[str, str]]:
    for name in BY_HAND:
        for combine in ("losses", "probabilities", "logits"):
            if not (combine == "probabilities" and name.endswith("logit_mse")):
                yield name, combine


@pytest.mark.parametrize("names", ["ab", "abc"])
@pytest.mark.parametrize(("name", "combine"), list(pairs_admitted()))
def test_lockstep_at_interval_1_is_algorithm_1(name: str, combine: str, names: str) -> None:
    outputs = 1 if name == "bernoulli_kl" else CLASSES
    by_hand = [Peer(peer, outputs=outputs, dtype=torch.float64) for peer in names]
    algorithm_1(by_hand, 4, lambda student, teachers: by_hand_term(name, combine, student, teachers))

    store = MemoryStore()
    peers = {peer: Peer(peer, outputs=outputs, dtype=torch.float64) for peer in names}
    run_peers(
        lambda peer: codistil(
            peers[peer], peer, names, store, 4, distillation_loss=divergence_of(name), combine=combine
        ),
        names,
    )
    for expected, peer in zip(by_hand, peers.values(), strict=True):
        assert_equal_to_six_digits(peer, expected)


def divergence_of(name: str) -> Divergence:
    return Divergence(name) if name.endswith("logit_mse") else Divergence(name, temperature=TEMPERATURE)


def assert_equal_to_six_digits(got: Peer, wanted: Peer) -> None:
    # Losses and the gradient norm of every parameter, at every step.
    torch.testing.assert_close(got.trace, wanted.trace, rtol=1e-6, atol=1e-6)
    for own, expected in zip(got.model.parameters(), wanted.model.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-6, atol=1e-6)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def state_of(peer: Peer) -> dict[str, Tensor]:
    momenta = peer.optimizer.state_dict()["state"]
    return {
        **peer.model.state_dict(),
        **{f"momentum {index}": entry["momentum_buffer"] for index, entry in momenta.items()},
    }


def assert_equal_to_the_bit(got: Peer, wanted: Peer) -> None:
    assert got.trace == wanted.trace
    expected = state_of(wanted)
    assert state_of(got).keys() == expected.keys()
    for name, tensor in state_of(got).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("names", ["ab", "abc"])
def test_50_steps_in_lockstep_are_algorithm_1_to_the_bit(names: str) -> None:
    def kl(student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)

    def term(student: Tensor, teachers: list[Tensor]) -> Tensor:
        return torch.stack([kl(student, teacher) for teacher in teachers]).mean(0).mean()

    by_hand = [Peer(peer, outputs=CLASSES, dtype=torch.float32) for peer in names]
    algorithm_1(by_hand, 50, term)

    store = MemoryStore()
    peers = {peer: Peer(peer, outputs=CLASSES, dtype=torch.float32) for peer in names}
    run_peers(lambda peer: codistil(peers[peer], peer, names, store, 50), names)
    for expected, peer in zip(by_hand, peers.values(), strict=True):
        assert_equal_to_the_bit(peer, expected)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("names", "stops"), [("ab", (20, 20)), ("ab", (20, 23)), ("abc", (21, 20, 23))])
def test_a_run_that_was_stopped_and_resumed_is_the_same_to_the_bit(
    names: str, stops: tuple[int, ...]
) -> None:
    steps = 40
    undisturbed = {peer: Peer(peer, outputs=CLASSES, dtype=torch.float32) for peer in names}
    other_store = MemoryStore()
    run_peers(lambda peer: codistil(undisturbed[peer], peer, names, other_store, steps), names)

    # The saved states are of different steps: peers went on with one another's help before everything died.
    store = MemoryStore()
    peers = {peer: Peer(peer, outputs=CLASSES, dtype=torch.float32) for peer in names}
    saved = {}

    def train_and_die(name: str) -> None:
        peer = peers[name]
        exchange = CheckpointExchange(
            store, peer=name, peers=list(names), interval_steps=1, topology="all", lockstep=True
        )
        codistiller = Codistiller(peer.model, exchange, weight=WEIGHT)
        for step in range(1, max(stops) + 1):
            inputs, targets = peer.batch()
            logits = peer.model(inputs)
            peer.learn(peer.task_loss(logits, targets) + codistiller.loss(logits, inputs))
            codistiller.step()
            if step == stops[names.index(name)]:
                saved[name] = (
                    copy.deepcopy(peer.model.state_dict()),
                    copy.deepcopy(peer.optimizer.state_dict()),
                    peer.generator.get_state(),
                    list(peer.trace),
                    json.loads(json.dumps(codistiller.state_dict())),
                )

    run_peers(train_and_die, names)

    def resume(name: str) -> Peer:
        model, optimizer, generator, trace, state = saved[name]
        peer = Peer(name, outputs=CLASSES, dtype=torch.float32)
        peer.model.load_state_dict(model)
        peer.optimizer.load_state_dict(optimizer)
        peer.generator.set_state(generator)
        peer.trace = trace
        codistil(peer, name, names, store, steps - stops[names.index(name)], state=state)
        return peer

    for name, peer in run_peers(resume, names).items():
        assert_equal_to_the_bit(peer, undisturbed[name])


# --- predictions: everybody sees the same batch, and learns from what the others have just said of it ---


def peers_of_one_batch(names: str, *, outputs: int) -> list[Peer]:
    peers = [Peer(name, outputs=outputs, dtype=torch.float64) for name in names]
    for peer in peers:
        peer.generator.manual_seed(0)
    return peers


def mutual_learning(peers: list[Peer], steps: int, term: Term) -> None:
    """Update all peers at once, each towards the others' outputs of the same forward."""
    for _ in range(steps):
        batches = [peer.batch() for peer in peers]
        all_logits = [peer.model(inputs) for peer, (inputs, _) in zip(peers, batches, strict=True)]
        constants = [logits.detach().clone() for logits in all_logits]
        for i, peer in enumerate(peers):
            teachers = [teacher for j, teacher in enumerate(constants) if j != i]
            task_loss = peer.task_loss(all_logits[i], batches[i][1])
            peer.learn(task_loss + WEIGHT * term(all_logits[i], teachers))


def swap_predictions(peer: Peer, exchange: PredictionExchange, steps: int, **options: object) -> None:
    with Codistiller(peer.model, exchange, weight=WEIGHT, **options) as codistiller:
        for _ in range(steps):
            inputs, targets = peer.batch()
            logits = peer.model(inputs)
            peer.learn(peer.task_loss(logits, targets) + codistiller.loss(logits, inputs))
            codistiller.step()


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
@pytest.mark.parametrize(("name", "combine"), list(pairs_admitted()))
def test_swapped_predictions_are_mutual_learning(name: str, combine: str, names: str) -> None:
    outputs = 1 if name == "bernoulli_kl" else CLASSES
    by_hand = peers_of_one_batch(names, outputs=outputs)
    mutual_learning(by_hand, 4, lambda student, teachers: by_hand_term(name, combine, student, teachers))

    peers = peers_of_one_batch(names, outputs=outputs)
    exchanges = [PredictionExchange(group) for group in connect_peers(len(names))]
    run_peers(
        lambda number: swap_predictions(
            peers[int(number)],
            exchanges[int(number)],
            4,
            distillation_loss=divergence_of(name),
            combine=combine,
        ),
        map(str, range(len(names))),
    )
    for peer, expected in zip(peers, by_hand, strict=True):
        assert_equal_to_six_digits(peer, expected)
