import threading
from dataclasses import replace

import pytest
import torch
from typing_extensions import override

from codistill.exchange.base import Exchange, PeerPrediction, Predictions
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.exchange.checkpoint.background import Background, Threads, Worker
from codistill.exchange.prediction.codec import TopK
from codistill.exchange.prediction.exchange import PredictionExchange
from codistill.losses.targets import DenseTarget
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore
from codistill.testing.exchanges import ExchangeContract
from codistill.testing.inline_background import InlineBackground
from codistill.testing.peers import connect_peers


def make_exchange(store, background, **options):
    exchange = CheckpointExchange(store, interval_steps=1, **options)
    exchange.background = background
    return exchange


class TestFreeRunning(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self):
        def make(count):
            store = MemoryStore()
            return [make_exchange(store, InlineBackground(), peer=f"peer-{i}") for i in range(count)]

        return make


class AwaitedThreads(Background):
    """Threads whose every job is waited for, so that a step has done all it began."""

    def __init__(self):
        self.threads = Threads()

    @override
    def worker(self, name):
        return AwaitedWorker(self.threads.worker(name))

    @override
    def repeat(self, name, job, period_s):
        self.threads.repeat(name, job, period_s)

    @override
    def stop(self, timeout_s):
        return self.threads.stop(timeout_s)


class AwaitedWorker(Worker):
    def __init__(self, worker):
        self.worker = worker

    @property
    @override
    def is_idle(self):
        return self.worker.is_idle

    @override
    def offer(self, job):
        return self.worker.offer(job) and self.worker.wait(60)

    @override
    def take(self):
        return self.worker.take()

    @override
    def wait(self, timeout_s):
        return self.worker.wait(timeout_s)


class TestFreeRunningInThreads(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self):
        def make(count):
            store = MemoryStore()
            return [make_exchange(store, AwaitedThreads(), peer=f"peer-{i}") for i in range(count)]

        return make


class TestFreeRunningInADirectory(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self, tmp_path):
        def make(count):
            runs = len(list(tmp_path.iterdir()))
            store = DirectoryStore(tmp_path / str(runs))
            return [
                make_exchange(store, InlineBackground(), peer=f"peer-{i}", topology="all")
                for i in range(count)
            ]

        return make


class TestLockstep(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self):
        def make(count):
            store, peers = MemoryStore(), [f"peer-{i}" for i in range(count)]
            return [
                CheckpointExchange(
                    store, peer=peer, peers=peers, interval_steps=1, topology="all", lockstep=True
                )
                for peer in peers
            ]

        return make


class TestPredictions(ExchangeContract):
    @pytest.fixture(params=["exact", "bfloat16", TopK(2, sampled=1)], ids=str)
    def make_exchanges(self, request):
        def make(count):
            return [PredictionExchange(group, codec=request.param) for group in connect_peers(count)]

        return make


class Spoilt(Exchange):
    """Passes every call on, and spoils what a test says."""

    def __init__(self, inner):
        self.inner = inner
        self.interval_steps = inner.interval_steps

    @property
    def counters(self):
        return self.inner.counters

    @property
    def teachers(self):
        return self.inner.teachers

    def bind(self, model, outputs_to_logits, ranks=None, settings=None):
        self.inner.bind(model, outputs_to_logits, ranks, settings)

    def begin(self, progress):
        self.inner.begin(progress)

    def predict(self, inputs, logits):
        return self.inner.predict(inputs, logits)

    def step(self, progress):
        self.inner.step(progress)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)

    def close(self, progress, *, publish, timeout_s=60.0):
        self.inner.close(progress, publish=publish, timeout_s=timeout_s)


class TestSpoiltByNothing(ExchangeContract):
    """What the tests below spoil passes without it."""

    @pytest.fixture
    def make_exchanges(self):
        return maker_of(Spoilt)


def maker_of(kind):
    def make(count):
        store = MemoryStore()
        return [
            kind(make_exchange(store, InlineBackground(), peer=f"peer-{i}", topology="all"))
            for i in range(count)
        ]

    return make


def test_the_contract_notices_a_second_student():
    class Shared(Spoilt):
        def bind(self, model, outputs_to_logits, ranks=None, settings=None):
            self.inner._model = None
            super().bind(model, outputs_to_logits, ranks, settings)

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        ExchangeContract().test_it_belongs_to_one_student(maker_of(Shared))


def test_the_contract_notices_predictions_with_a_gradient():
    class Leaky(Spoilt):
        def predict(self, inputs, logits):
            return Predictions(
                tuple(
                    PeerPrediction(
                        peer=prediction.peer,
                        target=DenseTarget(prediction.target.logits.clone().requires_grad_()),
                        step=prediction.step,
                        samples=prediction.samples,
                        sequence=prediction.sequence,
                    )
                    for prediction in super().predict(inputs, logits).peers
                )
            )

    with pytest.raises(AssertionError):
        ExchangeContract().test_predictions_carry_no_gradient(maker_of(Leaky))


def test_the_contract_notices_predictions_out_of_order():
    class Reversed(Spoilt):
        def predict(self, inputs, logits):
            return Predictions(super().predict(inputs, logits).peers[::-1])

    with pytest.raises(AssertionError):
        ExchangeContract().test_predictions_are_one_a_teacher_in_sorted_order(maker_of(Reversed))


def test_the_contract_notices_a_student_in_eval_mode():
    class Evaluating(Spoilt):
        def bind(self, model, outputs_to_logits, ranks=None, settings=None):
            super().bind(model.eval(), outputs_to_logits, ranks, settings)

    with pytest.raises(AssertionError):
        ExchangeContract().test_the_student_stays_as_it_is(maker_of(Evaluating))


def test_the_contract_notices_drawn_random_numbers():
    class Drawing(Spoilt):
        def predict(self, inputs, logits):
            torch.rand(1)
            return super().predict(inputs, logits)

    with pytest.raises(AssertionError):
        ExchangeContract().test_random_numbers_stay_as_they_are(maker_of(Drawing))


def test_the_contract_notices_tensors_in_the_state():
    class Heavy(Spoilt):
        def state_dict(self):
            return super().state_dict() | {"weights": torch.zeros(2)}

    with pytest.raises(TypeError, match="not JSON serializable"):
        ExchangeContract().test_state_is_plain(maker_of(Heavy))


def test_the_contract_notices_an_exchange_that_goes_on_after_close():
    class Restless(Spoilt):
        def close(self, progress, *, publish, timeout_s=60.0):
            """Do nothing."""

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        ExchangeContract().test_nothing_works_after_close(maker_of(Restless))


def test_the_contract_notices_a_share_that_is_none():
    class Shouting(Spoilt):
        def predict(self, inputs, logits):
            return Predictions(
                tuple(replace(prediction, share=2.0) for prediction in super().predict(inputs, logits).peers)
            )

    with pytest.raises(AssertionError):
        ExchangeContract().test_shares_are_between_0_and_1(maker_of(Shouting))


def test_the_contract_notices_a_thread_that_is_left():
    wake = threading.Event()

    class Busy(Spoilt):
        def begin(self, progress):
            super().begin(progress)
            self.thread = threading.Thread(target=wake.wait, daemon=True)
            self.thread.start()

    made = []

    def make(count):
        made.extend(maker_of(Busy)(count))
        return made

    with pytest.raises(AssertionError, match="must end with close"):
        ExchangeContract().test_close_ends_what_goes_on_in_the_background(make)
    wake.set()
    for exchange in made:
        exchange.thread.join()
