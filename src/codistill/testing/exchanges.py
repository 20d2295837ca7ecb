"""What every exchange has to pass."""

import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codistill.exchange.base import Exchange, Predictions, Progress, TeacherInfo
from codistill.losses.targets import Target
from codistill.parallel.group import PeerRanks
from codistill.testing.peers import run_peers

MakeExchanges = Callable[[int], Sequence[Exchange]]

_BATCH, _FEATURES, _CLASSES = 5, 4, 3
_SAMPLES_A_STEP = 7
_ROUNDS = 3
_SEED = 1
_TIMEOUT_S = 60.0


class ExchangeContract:
    """Inherit from it in a test class and override the fixture `make_exchanges`.

    The suite drives the exchanges as the peers of one run, each in a thread of its own, in the order in
    which a ``Codistiller`` calls them: ``bind``, ``begin``, then ``predict`` and ``step`` in turn, and
    ``close``. Every peer makes a step before any makes the next.

    An exchange that works in the background while its student trains must be handed over such that a
    ``step`` ends when all that it began has been done: else there is no telling after which step a peer has
    its teacher. ``CheckpointExchange`` is tested with a `codistill.testing.InlineBackground`.

    Example::

        class TestMyExchange(ExchangeContract):
            @pytest.fixture
            def make_exchanges(self) -> MakeExchanges:
                def make(count: int) -> list[Exchange]:
                    run = MyRun()
                    return [MyExchange(run, peer=f"peer-{i}") for i in range(count)]

                return make
    """

    @pytest.fixture
    def make_exchanges(self) -> MakeExchanges:
        """Return a function from a number n >= 2 to that many exchanges; override it.

        Each call makes the n peers of a new run, none of them bound, that exchange something at every
        step and have it done when ``step`` returns, so that each has a teacher after the second.
        """
        raise NotImplementedError(
            "Override the fixture `make_exchanges` with one that returns a function from a number of peers "
            "to their exchanges."
        )

    def test_it_belongs_to_one_student(self, make_exchanges: MakeExchanges) -> None:
        """A second one is refused."""
        exchange = make_exchanges(2)[0]
        exchange.bind(_student(0), None)
        with pytest.raises(ValueError, match="exchange"):
            exchange.bind(_student(1), None)

    def test_it_says_how_often_it_publishes(self, make_exchanges: MakeExchanges) -> None:
        """At an interval of one step or more, and has cost nothing yet."""
        for exchange in make_exchanges(2):
            assert exchange.interval_steps >= 1
            assert exchange.counters.publishes == 0
            assert exchange.counters.fetched == []

    def test_there_are_no_teachers_before_it_begins(self, make_exchanges: MakeExchanges) -> None:
        """Neither before nor after it meets the student."""
        exchange = make_exchanges(2)[0]
        assert dict(exchange.teachers) == {}
        exchange.bind(_student(0), None)
        assert dict(exchange.teachers) == {}

    def test_every_peer_gets_a_teacher(self, make_exchanges: MakeExchanges) -> None:
        """Two learn from each other, three do in some way."""
        for count in (2, 3):
            for history in _train(make_exchanges(count)):
                assert history.predictions[-1].peers

    def test_predictions_are_one_a_teacher_in_sorted_order(self, make_exchanges: MakeExchanges) -> None:
        """And say whose weights made them."""
        for history in _train(make_exchanges(3)):
            for predictions, teachers in zip(history.predictions, history.teachers, strict=True):
                assert [prediction.peer for prediction in predictions.peers] == sorted(teachers)
                for prediction in predictions.peers:
                    info = teachers[prediction.peer]
                    assert info.peer == prediction.peer
                    assert (info.step, info.samples) == (prediction.step, prediction.samples)
                    assert (info.incarnation, info.sequence) == prediction.sequence

    def test_predictions_have_the_shape_of_the_logits(self, make_exchanges: MakeExchanges) -> None:
        """One score a class for every sample of the batch."""
        for history in _train(make_exchanges(2)):
            for predictions in history.predictions:
                for prediction in predictions.peers:
                    assert prediction.target.logits_shape(-1) == (_BATCH, _CLASSES)
                    assert all(tensor.isfinite().all() for tensor in _tensors(prediction.target))

    def test_models_may_return_more_than_logits(self, make_exchanges: MakeExchanges) -> None:
        """Then ``outputs_to_logits`` finds them."""
        students = [_Wordy(_student(0)), _Wordy(_student(1))]
        for history in _train(make_exchanges(2), students, lambda outputs: outputs["logits"]):
            (prediction,) = history.predictions[-1].peers
            assert prediction.target.logits_shape(-1) == (_BATCH, _CLASSES)

    def test_shares_are_between_0_and_1(self, make_exchanges: MakeExchanges) -> None:
        """And those of teachers that have just come are 1."""
        for history in _train(make_exchanges(2)):
            for predictions, teachers in zip(history.predictions, history.teachers, strict=True):
                assert all(0.0 <= float(prediction.share) <= 1.0 for prediction in predictions.peers)
                assert all(0.0 <= info.share <= 1.0 for info in teachers.values())
            assert float(history.predictions[-1].peers[0].share) == 1.0

    def test_predictions_carry_no_gradient(self, make_exchanges: MakeExchanges) -> None:
        """Nothing of them leads back to anybody's weights."""
        for history in _train(make_exchanges(2)):
            for prediction in history.predictions[-1].peers:
                for tensor in _tensors(prediction.target):
                    assert not tensor.requires_grad
                    assert tensor.grad_fn is None

    def test_teachers_are_as_far_as_their_peers_have_told(self, make_exchanges: MakeExchanges) -> None:
        """Steps and samples are those of a progress that was given to the exchange."""
        for history in _train(make_exchanges(2)):
            for round_, teachers in enumerate(history.teachers):
                for info in teachers.values():
                    assert 0 <= info.step <= round_ + 1
                    assert info.samples == info.step * _SAMPLES_A_STEP
                    assert 0 <= info.age_steps <= round_

    def test_the_student_stays_as_it_is(self, make_exchanges: MakeExchanges) -> None:
        """Weights, buffers, gradients, modes, submodules: no call touches them."""
        students = [_student(0), _student(1)]
        students[0][0].eval()  # a part that the user has frozen stays frozen
        before = [_look_at(student) for student in students]
        _train(make_exchanges(2), students)
        for student, seen in zip(students, before, strict=True):
            state, modes, gradients = _look_at(student)
            assert state.keys() == seen[0].keys()
            assert all(torch.equal(tensor, seen[0][name]) for name, tensor in state.items())
            assert modes == seen[1]
            assert gradients == seen[2]

    def test_random_numbers_stay_as_they_are(self, make_exchanges: MakeExchanges) -> None:
        """The student draws the same ones as without an exchange."""
        students = [_student(0), _student(1)]
        logits = [student(_inputs()).detach() for student in students]
        before = torch.random.get_rng_state()
        _train(make_exchanges(2), students, logits=logits)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_the_grad_mode_stays_as_it_is(self, make_exchanges: MakeExchanges) -> None:
        """It is the caller's."""
        for history in _train(make_exchanges(2)):
            assert history.is_grad_enabled

    def test_state_is_plain(self, make_exchanges: MakeExchanges) -> None:
        """It survives ``torch.load`` without pickle, and JSON."""
        exchanges = make_exchanges(2)
        _check_plain(exchanges[0].state_dict())
        for history in _train(exchanges):
            assert history.state
            _check_plain(history.state)

    def test_its_own_state_can_be_loaded_before_it_begins(self, make_exchanges: MakeExchanges) -> None:
        """A job that saved before its first step goes on as a new one."""
        exchanges = make_exchanges(2)
        for exchange in exchanges:
            exchange.load_state_dict(exchange.state_dict())
        assert all(history.predictions[-1].peers for history in _train(exchanges))

    def test_close_twice_is_no_error(self, make_exchanges: MakeExchanges) -> None:
        """Nor is closing what never began."""
        exchanges = make_exchanges(2)
        _train(exchanges)
        for exchange in exchanges:
            exchange.close(Progress(step=_ROUNDS), publish=True)
        unused = make_exchanges(2)[0]
        for _ in range(2):
            unused.close(Progress(), publish=False)

    def test_nothing_works_after_close(self, make_exchanges: MakeExchanges) -> None:
        """It says so instead of teaching from old weights."""
        exchanges = make_exchanges(2)
        _train(exchanges)
        for exchange in exchanges:
            with pytest.raises(RuntimeError, match="closed"):
                exchange.predict(_inputs(), torch.zeros(_BATCH, _CLASSES))
            with pytest.raises(RuntimeError, match="closed"):
                exchange.step(Progress(step=_ROUNDS + 1))

    def test_close_ends_what_goes_on_in_the_background(self, make_exchanges: MakeExchanges) -> None:
        """No thread of it is left."""
        before = set(threading.enumerate())
        _train(make_exchanges(2))
        left = [thread.name for thread in threading.enumerate() if thread not in before]
        assert not left, f"threads must end with close, got {left} left"

    def test_counters_grow(self, make_exchanges: MakeExchanges) -> None:
        """And ``fetched`` is about the last step only."""
        exchanges = make_exchanges(2)
        for exchange, history in zip(exchanges, _train(exchanges), strict=True):
            assert exchange.counters.bytes_published >= 0
            assert exchange.counters.bytes_fetched >= 0
            assert exchange.counters.publishes_skipped >= 0
            for fetched, teachers in zip(history.fetched, history.teachers[1:], strict=False):
                assert set(fetched) <= set(teachers)
                assert len(set(fetched)) == len(fetched)


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """What one peer saw."""

    predictions: list[Predictions]
    """What each round's prediction was."""
    teachers: list[dict[str, TeacherInfo]]
    """The teachers at that moment."""
    fetched: list[list[str]]
    """The counter after each round's step."""
    state: dict[str, Any]
    """The exchange's state before it was closed."""
    is_grad_enabled: bool
    """Whether gradients were on after all calls, as they were before."""


class _Wordy(nn.Module):
    """Returns its logits among other things."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> dict[str, Any]:
        return {"logits": self.inner(inputs), "words": "many"}


def _student(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(_FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, _CLASSES)
        )


def _inputs() -> Tensor:
    return torch.randn(_BATCH, _FEATURES, generator=torch.Generator().manual_seed(_SEED))


def _train(
    exchanges: Sequence[Exchange],
    students: Sequence[nn.Module] | None = None,
    outputs_to_logits: Callable[[Any], Tensor] | None = None,
    *,
    logits: Sequence[Tensor] | None = None,
) -> list[_History]:
    """Let all peers make some steps together, and close them."""
    barrier = threading.Barrier(len(exchanges), timeout=_TIMEOUT_S)
    models = students or [_student(seed) for seed in range(len(exchanges))]
    scores = logits or [torch.full((_BATCH, _CLASSES), float(index)) for index in range(len(exchanges))]

    def live(name: str) -> _History:
        index = int(name)
        try:
            return _live(exchanges[index], models[index], scores[index], outputs_to_logits, barrier)
        except BaseException:
            barrier.abort()  # the others shall not wait for this one
            raise

    histories = run_peers(live, [str(index) for index in range(len(exchanges))], timeout_s=_TIMEOUT_S)
    return list(histories.values())


def _live(
    exchange: Exchange,
    model: nn.Module,
    logits: Tensor,
    outputs_to_logits: Callable[[Any], Tensor] | None,
    barrier: threading.Barrier,
) -> _History:
    predictions, teachers, fetched = [], [], []
    exchange.bind(model, outputs_to_logits, PeerRanks())
    exchange.begin(Progress())
    for step in range(1, _ROUNDS + 1):
        barrier.wait()
        predictions.append(exchange.predict(_inputs(), logits))
        teachers.append(dict(exchange.teachers))
        exchange.step(Progress(step=step, samples=step * _SAMPLES_A_STEP, task_loss=1.0))
        fetched.append(list(exchange.counters.fetched))
    barrier.wait()
    history = _History(
        predictions=predictions,
        teachers=teachers,
        fetched=fetched,
        state=exchange.state_dict(),
        is_grad_enabled=torch.is_grad_enabled(),
    )
    end = Progress(step=_ROUNDS, samples=_ROUNDS * _SAMPLES_A_STEP)
    exchange.close(end, publish=True, timeout_s=_TIMEOUT_S)
    return history


def _look_at(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, bool], dict[str, tuple[bool, bool]]]:
    """Return a copy of everything that an exchange must leave alone."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: module.training for name, module in model.named_modules()},
        {
            name: (parameter.requires_grad, parameter.grad is None)
            for name, parameter in model.named_parameters()
        },
    )


def _tensors(target: Target) -> list[Tensor]:
    values = [getattr(target, field.name) for field in fields(target)]
    return [value for value in values if isinstance(value, Tensor)]


def _check_plain(state: dict[str, Any]) -> None:
    assert json.loads(json.dumps(state)) == state
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state
