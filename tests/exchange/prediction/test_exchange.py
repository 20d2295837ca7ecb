import copy
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from codistill import Codistiller, PredictionExchange, TopK
from codistill.errors import CodistillWarning, ExchangeTimeout, PeerMismatchError
from codistill.exchange.base import DistillationSettings, Progress
from codistill.exchange.prediction import exchange as prediction
from codistill.losses import Divergence
from codistill.parallel.group import PeerRanks
from codistill.schedules import AtDrops, Constant
from codistill.testing import connect_peers, run_peers

BATCH = 6


def model_of(number):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        return nn.Linear(4, 5)


def inputs_of(step):
    return torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step))


class Peer:
    """One peer of a test, in a thread of its own."""

    def __init__(self, group, *, model=None, codec="exact", **options):
        self.number = group.rank()
        self.model = model_of(self.number) if model is None else copy.deepcopy(model)
        self.exchange = PredictionExchange(group, codec=codec)
        self.codistiller = Codistiller(self.model, self.exchange, **options)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.done = 0

    def loss(self, inputs=None):
        inputs = inputs_of(self.done) if inputs is None else inputs
        return self.codistiller.loss(self.model(inputs), inputs)

    def step(self, inputs=None):
        inputs = inputs_of(self.done) if inputs is None else inputs
        logits = self.model(inputs)
        self.optimizer.zero_grad()
        (logits.square().mean() + self.codistiller.loss(logits, inputs)).backward()
        self.optimizer.step()
        self.done += 1
        return self.codistiller.step()


def among_peers(function, count=2, *, timeout_s=30.0, **options):
    """Run a function of a peer in as many threads, and return what each returned."""
    groups = connect_peers(count, timeout_s=timeout_s)
    peers = [Peer(group, **options) for group in groups]
    groups.clear()

    return list(run_peers(lambda name: function(peers[int(name)]), map(str, range(count))).values())


def errors_of(function, kind, count=2, **options):
    """Return the error that a function raises in each peer."""

    def run(peer):
        with pytest.raises(kind) as caught:
            function(peer)
        return caught.value

    return among_peers(run, count, **options)


def kl(student, teacher):
    return F.kl_div(
        student.log_softmax(-1), teacher.detach().log_softmax(-1), log_target=True, reduction="batchmean"
    )


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distillation_loss": "logit_mse"}, "distillation_loss must be 'kl' or 'soft_cross_entropy'"),
        ({"distillation_loss": "reverse_kl"}, "distillation_loss must be 'kl' or 'soft_cross_entropy'"),
        ({"combine": "logits"}, "combine must be 'losses' or 'probabilities' for sparse teachers"),
        ({"combine": "probabilities"}, "combine must be 'losses' for 'kl' and several sparse teachers"),
    ],
)
def test_losses_that_a_few_classes_would_bias_are_refused_at_construction(options, message):
    groups = connect_peers(3)
    with pytest.raises(ValueError, match=message):
        Peer(groups[0], codec=TopK(3, sampled=1), **options)


def test_two_peers_combine_a_few_classes_in_any_way_that_one_teacher_allows():
    groups = connect_peers(2)
    Peer(groups[0], codec=TopK(3, sampled=1), combine="probabilities")


def test_what_is_no_codec_or_group_is_named():
    with pytest.raises(ValueError, match=r"codec must be .*got 'int8'"):
        PredictionExchange(connect_peers(2)[0], codec="int8")
    with pytest.raises(TypeError, match=r"group must be .*got str"):
        PredictionExchange("world")


def test_a_model_that_is_spread_over_more_ranks_than_the_peer_has_is_refused():
    def join(number):
        ranks = groups[number // 2 + 1][number % 2]
        model = DistributedDataParallel(model_of(0), process_group=ranks)
        with pytest.raises(ValueError, match="group must hold all ranks of this peer, got 1 of the 2 that"):
            Codistiller(model, PredictionExchange(groups[0][number]))
        # As if it had been wrapped with the group of all peers' ranks.
        model = DistributedDataParallel(model_of(0), process_group=groups[0][number])
        with pytest.raises(ValueError, match="got 1 of the 4 that"):
            Codistiller(model, PredictionExchange(groups[0][number]))

    groups = [connect_peers(4), connect_peers(2), connect_peers(2)]
    run_peers(lambda name: join(int(name)), "0123")
    groups.clear()


def test_it_cannot_be_copied_or_pickled():
    exchange = PredictionExchange(connect_peers(2)[0])
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copied(exchange)


# The swap


@pytest.mark.parametrize("count", [2, 3])
def test_teachers_are_the_others_students_of_this_very_step(count):
    def train(peer):
        seen = []
        for _ in range(3):
            inputs = inputs_of(peer.done)
            logits = peer.model(inputs)
            predictions = peer.codistiller.predict(inputs, logits=logits)
            loss = peer.codistiller.loss(logits, predictions)
            seen.append((logits.detach(), predictions, loss.detach()))
            peer.optimizer.zero_grad()
            loss.backward()
            peer.optimizer.step()
            peer.done += 1
            report = peer.codistiller.step()
            others = [str(number) for number in range(count) if number != peer.number]
            assert dict(report.teachers) == dict.fromkeys(others, 0)
            assert dict(report.shares) == dict.fromkeys(others, 1.0)
        return seen

    histories = among_peers(train, count)
    for step in range(3):
        for number, history in enumerate(histories):
            own, predictions, loss = history[step]
            terms = []
            for taught in predictions.peers:
                logits = histories[int(taught.peer)][step][0]
                assert torch.equal(taught.target.logits, logits)
                assert taught.peer != str(number)
                assert (taught.step, taught.sequence) == (step, (0, step + 1))
                assert taught.samples == step * BATCH
                terms.append(kl(own, logits))
            torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_more_than_ten_peers_come_in_sorted_order():
    def swap(peer):
        peer.step()
        return list(peer.codistiller.teachers)

    orders = among_peers(swap, 12)
    names = sorted(map(str, range(12)))
    assert orders == [[name for name in names if name != str(number)] for number in range(12)]


def test_gradients_reach_the_own_student_only():
    def learn(peer):
        loss = peer.loss()
        loss.backward()
        return loss.item(), peer.model.weight.grad

    (loss, gradient), _ = among_peers(learn)
    students = [model_of(0), model_of(1)]
    by_hand = kl(*(student(inputs_of(0)) for student in students))
    by_hand.backward()
    assert loss == pytest.approx(by_hand.item())
    torch.testing.assert_close(gradient, students[0].weight.grad)
    assert students[1].weight.grad is None


def test_peers_also_swap_where_their_weights_are_0_and_not_during_burn_in():
    def train(peer):
        history = []
        for _ in range(5):
            report = peer.step()
            history.append((report.weight, report.bytes_published, list(report.teachers)))
        return history

    weight = AtDrops(0.5, {3: 0.0, 4: 1.0})
    nbytes, other = BATCH * 5 * 4, {0: ["1"], 1: ["0"]}
    for number, history in enumerate(among_peers(train, weight=weight, burn_in_steps=2)):
        assert history == [
            (0.0, 0, []),
            (0.0, 0, []),
            (0.5, nbytes, other[number]),
            (0.0, 2 * nbytes, other[number]),
            (1.0, 3 * nbytes, other[number]),
        ]


def test_one_peers_weight_may_be_lowered_by_its_guard_alone():
    def train(peer):
        losses = [peer.loss().item()]
        if peer.number == 0:
            peer.codistiller._checkup._guard.halve()
        return [*losses, peer.loss().item()]

    first, second = among_peers(train)
    assert first[1] == pytest.approx(first[0] / 2)
    assert second[1] == pytest.approx(second[0])


@pytest.mark.parametrize("codec", ["exact", "bfloat16", TopK(3, sampled=1)], ids=str)
def test_bytes_are_counted_once_for_each_other_peer(codec):
    def train(peer):
        peer.loss()
        peer.loss()  # as for two micro-batches
        return peer.codistiller.step()

    nbytes = {"exact": 4 * 5, "bfloat16": 2 * 5}.get(codec, 8 * 3 - 4 + 8)
    for report in among_peers(train, 3, codec=codec):
        assert report.bytes_published == report.bytes_fetched == 2 * 2 * BATCH * nbytes
        assert (report.fetched, report.published, report.publishes_skipped) == ((), False, 0)
        assert report.samples == 2 * BATCH
        assert report.teacher_samples == 2 * 2 * BATCH
        assert report.stall_s > 0.0


def test_empty_batches_are_swapped_too():
    def swap(peer):
        return [peer.loss(torch.zeros(0, 4)).item() for _ in range(3)]

    assert among_peers(swap) == [[0.0] * 3] * 2


def test_other_dtypes_go_together_in_bfloat16():
    def swap(peer):
        peer.model.to(torch.float64 if peer.number else torch.float32)
        inputs = inputs_of(0)
        logits = peer.model(inputs.to(peer.model.weight.dtype))
        return peer.codistiller.loss(logits, inputs)

    losses = among_peers(swap, codec="bfloat16")
    assert [loss.dtype for loss in losses] == [torch.float32, torch.float64]
    assert all(loss > 0 for loss in losses)
    for error in errors_of(swap, PeerMismatchError):
        assert "float32 [6, 5] at peer '0'" in str(error)
        assert 'with codec="bfloat16" dtypes may differ' in str(error)


def test_losses_are_not_read_as_nobody_is_told_them():
    told = []

    def train(peer):
        step = peer.exchange.step
        peer.exchange.step = lambda progress: (told.append(progress), step(progress))
        peer.loss()
        peer.codistiller.step(task_loss=torch.tensor(1.0))
        peer.codistiller.close()

    among_peers(train)
    assert [(progress.step, progress.task_loss, progress.distillation_loss) for progress in told] == [
        (1, None, None)
    ] * 2


# What would leave the others waiting


@contextmanager
def without_gradients(kind):
    with (torch.no_grad if kind == "no_grad" else torch.inference_mode)():
        yield


@pytest.mark.parametrize("kind", ["no_grad", "inference_mode"])
def test_validation_is_refused_with_the_cure(kind):
    def validate(peer):
        peer.step()
        inputs = inputs_of(0)
        with without_gradients(kind):
            logits = peer.model(inputs)
            with pytest.raises(RuntimeError, match=r"loss\(\) must not be called under .*leave it out"):
                peer.codistiller.loss(logits, inputs)
            with pytest.raises(RuntimeError, match=r"predict\(\) must not be called under"):
                peer.codistiller.predict(inputs, logits=logits)
        return peer.step().step

    assert among_peers(validate) == [2, 2]


def test_validation_is_refused_before_the_first_swap_too():
    peer = Peer(connect_peers(2)[0], burn_in_steps=10)
    with torch.no_grad(), pytest.raises(RuntimeError, match="must not be called under"):
        peer.loss()


def test_predictions_that_were_swapped_may_be_compared_without_gradients():
    def swap(peer):
        logits = peer.model(inputs_of(0))
        predictions = peer.codistiller.predict(inputs_of(0), logits=logits)
        with torch.no_grad():
            return peer.codistiller.loss(logits, predictions).item()

    assert all(loss > 0 for loss in among_peers(swap))


def test_predict_needs_the_students_logits():
    peer = Peer(connect_peers(2)[0], burn_in_steps=10)
    with pytest.raises(ValueError, match=r"logits must be given to predict\(\).*logits=model\(inputs\)"):
        peer.codistiller.predict(inputs_of(0))


def test_a_codec_that_cannot_send_such_logits_is_refused_during_burn_in():
    peer = Peer(connect_peers(2)[0], codec=TopK(3), burn_in_steps=10)
    with pytest.raises(ValueError, match="sampled must be >= 1 for k=3 of 5 classes"):
        peer.loss()


def test_calls_out_of_order_are_refused():
    exchange = PredictionExchange(connect_peers(2)[0])
    with pytest.raises(RuntimeError, match="exchange must be given to a Codistiller first"):
        exchange.begin(Progress())
    exchange.bind(model_of(0), None)
    with pytest.raises(RuntimeError, match=r"predict\(\) must follow begin\(\)"):
        exchange.predict(inputs_of(0), torch.zeros(BATCH, 5))


def test_a_forked_process_may_not_use_it(monkeypatch):
    peer = Peer(connect_peers(2)[0])
    monkeypatch.setattr(prediction.os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="belongs to the process that made it"):
        peer.loss()
    monkeypatch.undo()


# Peers that do not go together


def test_different_losses_are_refused_by_all_at_the_first_loss_of_burn_in():
    groups = connect_peers(2)
    losses = [Divergence("kl"), Divergence("kl", temperature=2.0)]
    peers = [
        Peer(group, distillation_loss=loss, burn_in_steps=9)
        for group, loss in zip(groups, losses, strict=True)
    ]

    def begin(name):
        with pytest.raises(PeerMismatchError, match=r"same distillation_loss.*temperature=2\.0"):
            peers[int(name)].loss()

    run_peers(begin, "01")


def test_peers_that_are_not_at_one_step_are_refused_by_all():
    def train(peer):
        peer.step()
        peer.loss()
        if peer.number == 1:
            peer.codistiller.step()
        peer.loss()

    for error in errors_of(train, PeerMismatchError, 3):
        assert (error.peer, "step 2 at peer '1'" in str(error)) == ("1", True)


def test_different_batches_are_refused_by_all_at_the_first_swap():
    for error in errors_of(lambda peer: peer.loss(inputs_of(peer.number // 2)), PeerMismatchError, 3):
        assert error.peer == "2"
        assert "Peers must see the same batch, in the same order" in str(error)


def test_another_order_of_a_nested_batch_is_noticed():
    def swap(peer):
        inputs = inputs_of(0)
        peer.codistiller.loss(peer.model(inputs), {"x": [inputs if peer.number == 0 else inputs.flip(0)]})

    errors_of(swap, PeerMismatchError)


def test_batches_are_compared_again_once_in_a_while(monkeypatch):
    monkeypatch.setattr(prediction, "_COMPARE_EVERY_SWAPS", 3)

    def train(peer):
        for swap in range(5):
            try:
                peer.step(inputs_of(10 * peer.number if swap > 0 else 0))
            except PeerMismatchError:
                return swap
        return None

    assert among_peers(train) == [3, 3]
    monkeypatch.undo()


def test_another_shape_is_an_error_in_all():
    def swap(peer):
        peer.step()
        peer.loss(inputs_of(0)[: BATCH - peer.number])

    for error in errors_of(swap, PeerMismatchError):
        assert "logits of shape [6, 5]" in str(error)
        assert "logits of shape [5, 5]" in str(error)
        assert error.step == 1


def test_another_number_of_classes_is_an_error_also_where_few_are_sent():
    def swap(peer):
        peer.model = nn.Linear(4, 5 + peer.number)
        peer.loss()

    for error in errors_of(swap, PeerMismatchError, codec=TopK(3, sampled=1)):
        assert "logits of shape [6, 6]" in str(error)


def test_the_shape_may_change_in_all_peers_at_once():
    def train(peer):
        return [peer.loss(inputs_of(0)[:rows]).item() > 0 for rows in (6, 2, 5)]

    assert among_peers(train) == [[True] * 3] * 2


def test_after_a_mismatch_the_swap_may_be_repeated():
    def train(peer):
        with pytest.raises(PeerMismatchError):
            peer.loss(inputs_of(peer.number))
        return peer.loss().item()

    assert all(loss > 0 for loss in among_peers(train))


def test_twins_are_told_once_that_they_teach_one_another_nothing(monkeypatch):
    monkeypatch.setattr(prediction, "_COMPARE_EVERY_SWAPS", 2)
    with pytest.warns(CodistillWarning) as caught:
        among_peers(lambda peer: [peer.step() for _ in range(6)], model=model_of(0))
    messages = {str(warning.message) for warning in caught}
    assert len(caught) == len(messages) == 2
    assert all("have identical logits at step 1" in message for message in messages)
    monkeypatch.undo()


@pytest.mark.parametrize("batches_of_step", [1, 3])
def test_models_that_only_begin_alike_are_no_twins(batches_of_step):
    def train(peer):
        nn.init.zeros_(peer.model.weight)
        nn.init.constant_(peer.model.bias, 0.0)
        inputs = inputs_of(0)
        for _ in range(3):
            peer.optimizer.zero_grad()
            for _ in range(batches_of_step):
                logits = peer.model(inputs)
                task_loss = F.cross_entropy(logits, torch.full((BATCH,), peer.number))
                (task_loss + peer.codistiller.loss(logits, inputs)).backward()
            peer.optimizer.step()
            peer.codistiller.step()

    among_peers(train)


# Peers that fail


def test_a_peer_that_has_ended_is_an_exchange_timeout():
    gone = threading.Event()

    def train(peer):
        peer.step()
        if peer.number == 1:
            # Its end of the group goes with its last reference, as with its process.
            peer.exchange._counterparts._group = peer.exchange._counterparts._words = None
            gone.set()
            return None
        gone.wait(30)
        with pytest.raises(ExchangeTimeout) as caught:
            peer.step()
        return caught.value

    error, _ = among_peers(train)
    assert (error.peer, error.step) == ("1", 1)


def test_logits_that_are_no_numbers_count_nothing_until_they_are_again():
    def train(peer):
        reports = []
        for step in range(4):
            inputs = inputs_of(step)
            logits = peer.model(inputs)
            sent = logits + (torch.nan if peer.number == 1 and step in (1, 2) else 0.0)
            predictions = peer.codistiller.predict(inputs, logits=sent)
            loss = peer.codistiller.loss(logits, predictions).item()
            teachers = dict(peer.codistiller.teachers)
            report = peer.codistiller.step()
            reports.append(
                (loss > 0, report.quarantined, {name: info.share for name, info in teachers.items()})
            )
        return reports

    with pytest.warns(CodistillWarning, match="Peer '1' is not learnt from at step 1") as caught:
        first, second, third = among_peers(train, 3)
    assert len(caught) == 2  # once in each of the two others
    expected = [
        (True, (), {"1": 1.0, "2": 1.0}),
        (True, ("1",), {"1": 0.0, "2": 1.0}),
        (True, ("1",), {"1": 0.0, "2": 1.0}),
        (True, (), {"1": 1.0, "2": 1.0}),
    ]
    assert first == expected
    assert [report[1] for report in third] == [report[1] for report in expected]
    assert [report[1] for report in second] == [()] * 4


def test_without_any_teacher_of_numbers_the_loss_is_exactly_0():
    def swap(peer):
        inputs = inputs_of(0)
        logits = peer.model(inputs)
        sent = logits * torch.inf if peer.number == 1 else logits
        return peer.codistiller.loss(logits, peer.codistiller.predict(inputs, logits=sent)).item()

    with pytest.warns(CodistillWarning, match="not learnt from"):
        first, second = among_peers(swap)
    assert first == 0.0
    assert second > 0.0


# Random numbers


def draws_of(peer):
    inputs = inputs_of(0)
    predictions = peer.codistiller.predict(inputs, logits=peer.model(inputs))
    return [prediction.target.classes for prediction in predictions.peers]


def test_each_peer_and_each_swap_draws_other_classes():
    def swap(peer):
        peer.model = model_of(0)
        first, again = draws_of(peer), draws_of(peer)
        peer.codistiller.step()
        return [*first, *again, *draws_of(peer)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CodistillWarning)  # they are twins, for the sake of this test
        of_peer_1, of_peer_0 = among_peers(swap, codec=TopK(4, sampled=4))
    draws = [*of_peer_0, *of_peer_1]
    assert not any(torch.equal(one, other) for i, one in enumerate(draws) for other in draws[:i])


def test_each_rank_of_a_peer_draws_other_classes():
    group = connect_peers(2)[0]
    settings = DistillationSettings(divergence=Divergence("kl"), weight=Constant(1.0))
    seeds = set()
    for rank in range(2):
        exchange, ranks = PredictionExchange(group, codec=TopK(3, sampled=2)), PeerRanks.alone()
        ranks._rank = rank
        exchange.bind(model_of(0), None, ranks, settings)
        seeds.add(exchange._generator(torch.device("cpu")).initial_seed())
    assert len(seeds) == 2


def test_a_run_that_was_stopped_and_resumed_draws_the_same_classes():
    def train(peer, steps):
        drawn = []
        for _ in range(steps):
            drawn += draws_of(peer)
            peer.codistiller.step()
        return drawn

    codec = TopK(3, sampled=2)
    undisturbed = among_peers(lambda peer: train(peer, 4), codec=codec)

    def stop(peer):
        drawn = train(peer, 2)
        return drawn, json.loads(json.dumps(peer.codistiller.state_dict()))

    stopped = among_peers(stop, codec=codec)

    def resume(peer):
        peer.codistiller.load_state_dict(stopped[peer.number][1])
        return train(peer, 2), dict(peer.codistiller.teachers)

    for number, (drawn, teachers) in enumerate(among_peers(resume, codec=codec)):
        all_drawn = [*stopped[number][0], *drawn]
        assert all(torch.equal(*pair) for pair in zip(all_drawn, undisturbed[number], strict=True))
        (info,) = teachers.values()
        assert (info.step, info.sequence) == (3, 4)


# State and end


def test_only_some_peers_that_have_loaded_a_state_are_noticed():
    saved = among_peers(lambda peer: (peer.step(), peer.codistiller.state_dict())[1])

    def resume(peer):
        if peer.number == 0:
            peer.codistiller.load_state_dict(saved[0])
        peer.loss()

    for error in errors_of(resume, PeerMismatchError):
        assert "step 1 at peer '0'; step 0 at peer '1'" in str(error)


def test_state_of_another_peer_or_after_the_first_loss_is_refused():
    def load(peer):
        state = peer.exchange.state_dict()
        with pytest.raises(ValueError, match=f"must be of peer '{peer.number}', got that of 'x'"):
            peer.exchange.load_state_dict({**state, "peer": "x"})
        with pytest.raises(ValueError, match="swaps"):
            peer.exchange.load_state_dict({"peer": str(peer.number)})
        peer.step()
        with pytest.raises(RuntimeError, match="before the first loss"):
            peer.exchange.load_state_dict(state)

    among_peers(load)


def test_close_needs_nobody():
    def end(peer):
        peer.step()
        peer.codistiller.close()
        peer.codistiller.close()
        with pytest.raises(RuntimeError, match="closed"):
            peer.loss()
        with pytest.raises(RuntimeError, match=f"Peer '{peer.number}' has been closed"):
            peer.exchange.step(Progress(step=2))

    assert among_peers(end) == [None, None]


# Real processes

PROGRAM = Path(__file__).with_name("ranks.py")
TIMEOUT_S = 100


def load_program():
    spec = importlib.util.spec_from_file_location("prediction_ranks", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def program():
    """Models, batches and numbers of the program; none of its training."""
    return load_program()


@pytest.fixture(scope="module")
def results(program, tmp_path_factory):
    """What each of four processes has seen."""
    folder = tmp_path_factory.mktemp("predictions")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    try:
        for rank in range(program.PROCESSES):
            with (folder / f"{rank}.log").open("wb") as log:
                command = [sys.executable, str(PROGRAM), str(rank), str(folder)]
                processes.append(subprocess.Popen(command, stderr=log, env=environment))
        codes = [process.wait(TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = [(folder / f"{rank}.log").read_text() for rank in range(program.PROCESSES)]
    assert codes == [0] * program.PROCESSES, "\n".join(logs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(program.PROCESSES)]


def textbook(program, count, name="kl", combine="losses"):
    """Train all peers in this process, by the formulas of the papers, and return what each has seen."""
    t = program.TEMPERATURE

    def kl(p, q):
        return t**2 * (p * (p / q).log()).sum(1).mean()

    def term(student, teachers):
        q, ps = torch.softmax(student / t, 1), [torch.softmax(teacher / t, 1) for teacher in teachers]
        if (name, combine) == ("kl", "losses"):
            return sum(kl(p, q) for p in ps) / len(ps)
        if (name, combine) == ("kl", "probabilities"):
            return kl(sum(ps) / len(ps), q)
        if (name, combine) == ("kl", "logits"):
            return kl(torch.softmax(sum(teachers) / len(teachers) / t, 1), q)
        if (name, combine) == ("jensen_shannon", "losses"):
            return sum((kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2 for p in ps) / len(ps)
        assert (name, combine) == ("logit_mse", "logits")
        return (student - sum(teachers) / len(teachers)).square().mean()

    models = [program.make_model(number) for number in range(count)]
    optimizers = [program.make_optimizer(model) for model in models]
    losses = [[] for _ in models]
    for step in range(program.STEPS):
        inputs, targets = program.batch(step)
        all_logits = [model(inputs) for model in models]
        constants = [logits.detach().clone() for logits in all_logits]
        for number, logits in enumerate(all_logits):
            teachers = constants[:number] + constants[number + 1 :]
            loss = F.cross_entropy(logits, targets) + program.WEIGHT * term(logits, teachers)
            optimizers[number].zero_grad()
            loss.backward()
            losses[number].append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
    return [
        {
            "losses": losses[number],
            "gradients": [parameter.grad.tolist() for parameter in model.parameters()],
            "weights": [parameter.tolist() for parameter in model.parameters()],
        }
        for number, model in enumerate(models)
    ]


def assert_close(got, expected, *, keys):
    for key in keys:
        for own, wanted in zip(got[key], expected[key], strict=True):
            torch.testing.assert_close(torch.tensor(own), torch.tensor(wanted), rtol=1e-6, atol=1e-6)


@pytest.mark.spawn
@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_that_swap_predictions_are_the_textbook_loop(count, results, program):
    for name, combine in program.TERMS:
        for number, expected in enumerate(textbook(program, count, name, combine)):
            got = results[number]["peers_of_one_rank"][f"{count} {name} {combine}"]
            assert_close(got, expected, keys=("losses", "gradients", "weights"))
            assert got["samples"] == program.STEPS * program.BATCH
            assert got["teachers"] == {str(other): 0 for other in range(count) if other != number}


@pytest.mark.spawn
def test_a_process_outside_of_the_group_is_told_so(results):
    outside = results[3]["peers_of_one_rank"]
    for count in (2, 3):
        assert "group must hold this process" in outside[f"outside {count}"]


@pytest.mark.spawn
@pytest.mark.parametrize("kind", ["data_parallel_peers", "sharded_peers"])
def test_peers_of_two_ranks_are_the_textbook_loop(kind, results, program):
    expected = textbook(program, 2)
    for rank in range(program.PROCESSES):
        peer, got = rank // 2, results[rank][kind]
        assert_close(got, expected[peer], keys=("gradients", "weights"))
        assert got["samples"] == program.STEPS * program.BATCH
        assert got["teachers"] == {str(1 - peer): 0}
    for peer in range(2):
        losses = [results[2 * peer + rank][kind]["losses"] for rank in range(2)]
        means = [sum(pair) / 2 for pair in zip(*losses, strict=True)]
        assert means == pytest.approx(expected[peer]["losses"], rel=1e-6)


@pytest.mark.spawn
def test_sharded_peers_may_swap_a_few_classes(results, program):
    for rank in range(program.PROCESSES):
        got = results[rank]["a_few_classes_of_sharded_peers"]
        assert torch.tensor(got["losses"]).isfinite().all()
        assert got["weights"] == results[rank ^ 1]["a_few_classes_of_sharded_peers"]["weights"]


@pytest.mark.spawn
def test_a_rank_with_another_batch_is_an_error_of_it_and_its_counterparts(results):
    seen = [results[rank]["one_rank_with_another_batch"] for rank in range(4)]
    assert seen[0] > 0.0
    assert seen[2] > 0.0
    assert seen[1] == seen[3]
    assert seen[1][0] == "1"
    assert "Peers must see the same batch" in seen[1][1]


@pytest.mark.spawn
def test_a_process_that_dies_is_an_exchange_timeout_of_all_others(results):
    for rank in range(3):
        step, message = results[rank]["a_peer_that_dies"]
        assert step == 2
        assert "did not take part in the swap of predictions at step 2" in message
