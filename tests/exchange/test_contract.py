import pytest
import torch

from codistill.exchange.base import Exchange, PeerPrediction, Predictions
from codistill.exchange.checkpoint import CheckpointExchange
from codistill.losses.targets import DenseTarget
from codistill.stores.directory import DirectoryStore
from codistill.stores.memory import MemoryStore
from codistill.testing.exchanges import ExchangeContract


class TestFreeRunning(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self):
        def make(count):
            store = MemoryStore()
            return [CheckpointExchange(store, peer=f"peer-{i}", interval_steps=1) for i in range(count)]

        return make


class TestFreeRunningInADirectory(ExchangeContract):
    @pytest.fixture
    def make_exchanges(self, tmp_path):
        def make(count):
            runs = len(list(tmp_path.iterdir()))
            store = DirectoryStore(tmp_path / str(runs))
            return [
                CheckpointExchange(store, peer=f"peer-{i}", interval_steps=1, topology="all")
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

    def bind(self, model, outputs_to_logits):
        self.inner.bind(model, outputs_to_logits)

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

    def close(self, progress, *, publish):
        self.inner.close(progress, publish=publish)


class TestSpoiltByNothing(ExchangeContract):
    """What the tests below spoil passes without it."""

    @pytest.fixture
    def make_exchanges(self):
        return maker_of(Spoilt)


def maker_of(kind):
    def make(count):
        store = MemoryStore()
        return [
            kind(CheckpointExchange(store, peer=f"peer-{i}", interval_steps=1, topology="all"))
            for i in range(count)
        ]

    return make


def test_the_contract_notices_a_second_student():
    class Shared(Spoilt):
        def bind(self, model, outputs_to_logits):
            self.inner._model = None
            super().bind(model, outputs_to_logits)

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
        def bind(self, model, outputs_to_logits):
            super().bind(model.eval(), outputs_to_logits)

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
        def close(self, progress, *, publish):
            """Do nothing."""

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        ExchangeContract().test_nothing_works_after_close(maker_of(Restless))
