"""What is promised on failure beside kills, damage, stores and names: each once, from a user's loop."""

import math
import time

import pytest
import torch
from torch import nn

from codistill import CheckpointExchange, Codistiller, load_snapshot
from codistill.errors import PeerMissingError
from codistill.exchange.checkpoint.lockstep import Lockstep
from codistill.exchange.checkpoint.membership import Membership
from codistill.exchange.teacher_options import TeacherOptions
from codistill.testing import FakeClock, run_peers

# What breaks is looked at here, not what settings would teach more.
pytestmark = pytest.mark.filterwarnings("ignore::codistill.errors.AdviceWarning")

# Silence


def test_a_silent_peer_serves_then_fades_and_counts_no_more(store, join):
    dead, survivor = join(store, "a", interval_steps=5), join(store, "b", interval_steps=5)
    dead.step(5)
    with torch.no_grad():
        survivor.model.weight[0] += 2.0
    survivor.step(5)
    shares, ages, terms, said = [], [], [], []
    for _ in range(44):
        said += survivor.say(5)
        info = survivor.codistiller.teachers.get("a")
        ages.append(ages[-1] + 5 if info is None else info.age_steps)
        shares.append(0.0 if info is None else info.share)
        terms.append(survivor.loss().item())
    # 20 intervals of 5 steps fully, 20 more to nothing.
    assert ages == list(range(10, 230, 5))
    assert shares == pytest.approx([min(1.0, max(0.0, 2.0 - age / 100)) for age in ages])
    # The whole term goes down with it.
    assert terms == pytest.approx([terms[0] * share for share in shares], rel=1e-5)
    assert terms[0] > 0.1
    stale = [message for message in said if "has published nothing new" in message]
    assert len(stale) == 1
    assert "Peer 'a'" in stale[0]


@pytest.mark.parametrize(("when_stale", "shares"), [("drop", {}), ("keep", {"a": 1.0})])
def test_a_silent_peer_may_be_dropped_or_kept(store, join, when_stale, shares):
    membership = Membership(max_age_steps=3, when_stale=when_stale)
    join(store, "a").step()
    survivor = join(store, "b", membership=membership)
    survivor.say(10)
    assert survivor.step().shares == shares


def test_a_peer_that_has_finished_never_ages(store, join):
    finished, survivor = join(store, "a"), join(store, "b")
    finished.step()
    survivor.step()
    finished.close()
    survivor.step(200)
    assert survivor.codistiller.teachers["a"].share == 1.0
    assert survivor.codistiller.teachers["a"].age_steps >= 198


def test_a_ring_closes_over_a_peer_that_has_faded_out(store, join):
    options = {"membership": Membership(max_age_steps=5)}
    first, dead, last = (join(store, peer, **options) for peer in "abc")
    for _ in range(2):
        for student in (first, dead, last):
            student.step()
    assert sorted(last.codistiller.teachers) == ["b"]
    for _ in range(15):
        for student in (first, last):
            student.say()
    assert sorted(last.codistiller.teachers) == ["a"]


# Ending before the first interval is over


@pytest.mark.parametrize("has_left", [True, False], ids=["left", "killed"])
def test_what_a_job_left_that_had_not_trained_is_no_peer_to_start_with(store, join, has_left):
    waits = Membership(start_with_peers=1, start_timeout_s=20.0)
    alone = join(store, "a", membership=waits)
    with pytest.raises(PeerMissingError):
        alone.loss()
    if not has_left:
        # As it was while it waited.
        store.write(
            "a/status.json", store.read("a/status.json", max_bytes=10**4).replace(b"left", b"running")
        )
    later = join(store, "b", membership=waits)
    reason = "left before it had trained" if has_left else "has not trained, and its heartbeat does not move"
    with pytest.raises(PeerMissingError, match=f"got 0 of 1 other peers.* 'a' does not count: it {reason}"):
        later.loss()
    assert later.clock.monotonic() == pytest.approx(20.0)


class PatientClock(FakeClock):
    """Lets others run while one sleeps."""

    def sleep(self, seconds):
        time.sleep(seconds)


@pytest.fixture
def two(store, join):
    """Return two peers that hold each other's untrained weights."""
    membership = Membership(start_with_peers=1)
    peers = {
        peer: join(store, peer, membership=membership, interval_steps=5, clock=PatientClock())
        for peer in "ab"
    }
    run_peers(lambda peer: peers[peer].step(), "ab")
    return peers["a"], peers["b"]


def test_a_peer_that_ends_before_its_first_interval_teaches_nobody_any_more(two):
    dead, survivor = two
    survivor.step(4)
    assert survivor.value_of("a") == ord("a")
    dead.close(publish=False)
    survivor.step(5)
    assert dict(survivor.codistiller.teachers) == {}


def test_a_peer_that_is_killed_before_its_first_interval_teaches_nobody_any_more(two):
    _, survivor = two
    survivor.step(4)
    survivor.clock.advance(14.0)
    survivor.step(5)
    assert survivor.value_of("a") == ord("a")
    survivor.clock.advance(1.0)
    survivor.step(5)
    assert dict(survivor.codistiller.teachers) == {}


# Joining


def test_a_peer_that_joins_late_is_taken_up_without_a_restart(store, join):
    students = [join(store, peer, topology="all") for peer in "ab"]
    for _ in range(4):
        for student in students:
            student.step()
    late = join(store, "c", topology="all")
    late.step()
    for student in students:
        student.step()
        assert "c" in student.codistiller.teachers
    assert sorted(late.codistiller.teachers) == ["a", "b"]


def test_nobody_takes_more_teachers_than_allowed(store, join):
    for peer in "abcd":
        join(store, peer).say()
    student = join(store, "e", topology="all", teachers=TeacherOptions(max_teachers=2))
    (said,) = student.say(3)
    assert "max_teachers" in said
    assert sorted(student.codistiller.teachers) == ["a", "b"]


# Bad teachers


def test_nan_in_a_snapshot_quarantines_its_peer_until_a_good_one(store, join):
    sick, student = join(store, "a", value=1.0), join(store, "b")
    sick.step()
    student.step()
    sick.become(math.nan)
    sick.step()
    (said,) = student.say(5)
    assert "Peer 'a' is not learnt from" in said
    assert "NaN" in said
    assert student.step().quarantined == ("a",)
    assert student.loss() == 0.0
    sick.become(2.0)
    sick.step()
    report = student.step()
    assert report.quarantined == ()
    assert student.value_of("a") == 2.0


def test_nan_in_a_teachers_logits_counts_nothing_and_quarantines_it(store, join):
    class Overflows(nn.Linear):
        """Finite weights, and logits that are not."""

        def forward(self, inputs):
            return (
                super().forward(inputs) * 1e30 * 1e30 if self.weight[0, 0] > 50 else super().forward(inputs)
            )

    sick = join(store, "a", model=Overflows(4, 3), value=1.0)
    student = join(store, "b", model=Overflows(4, 3), value=2.0)
    sick.step()
    student.step(5)
    sick.become(60.0)
    sick.step()
    student.step()
    assert student.loss() == 0.0
    (said,) = student.say(10)
    assert "its predictions are not finite numbers" in said
    assert student.step().quarantined == ("a",)
    sick.become(3.0)
    sick.step()
    assert student.step().quarantined == ()
    assert student.value_of("a") == 3.0


def test_a_masked_class_at_minus_infinity_is_no_error(store, join):
    class Masks(nn.Linear):
        def forward(self, inputs):
            logits = super().forward(inputs)
            return torch.cat([logits[..., :1], torch.full_like(logits[..., 1:], -math.inf)], dim=-1)

    teacher, student = (join(store, peer, model=Masks(4, 3)) for peer in "ab")
    teacher.step()
    assert student.say(15) == []
    assert student.step().quarantined == ()
    assert student.codistiller.teachers["a"].share == 1.0
    assert math.isfinite(student.loss().item())


def test_a_teacher_that_is_far_worse_for_three_intervals_is_put_apart_until_it_is_better(store, join):
    bad, student = join(store, "a", value=1.0), join(store, "b", value=2.0)
    for interval in range(6):
        bad.step(task_loss=4.0)
        said = student.say(task_loss=1.0)
        if interval < 2:
            assert said == []
        if said:
            break
    (message,) = said
    assert "Peer 'a' is not learnt from" in message
    assert "over twice this peer's" in message
    for _ in range(3):
        bad.step(task_loss=4.0)
        assert student.say(task_loss=1.0) == []
    assert student.step(task_loss=1.0).quarantined == ("a",)
    bad.step(task_loss=1.5)
    assert student.step(task_loss=1.0).quarantined == ()


# The student's own term


def test_a_term_that_diverges_is_halved_and_said_once(store, join):
    join(store, "a", value=0.0).step()
    student = join(store, "b", value=0.0, membership=Membership(when_stale="keep"))
    with torch.no_grad():
        student.model.weight[0] = 40.0
    assert student.loss().item() == pytest.approx(2 / 3 * 40 - math.log(3))  # 25.6
    student.step(100, task_loss=0.1)
    said = student.say(200, task_loss=9.0)
    assert student.step(task_loss=9.0).weight_factor == 0.25  # 25.6 and 12.8 are above 9, 6.4 is not
    (message,) = said
    assert "The distillation term diverges" in message
    assert "its weight is halved" in message


def test_identical_peers_are_told_so_once(store, join):
    students = [join(store, peer, value=1.0) for peer in "ab"]
    said = []
    for _ in range(5):
        for student in students:
            said += student.say()
    assert len(said) == 2  # each of them once
    assert all("have identical weights" in message and "Seed every peer" in message for message in said)


# Coming back


def test_a_student_that_restarts_has_its_step_and_its_teacher_again(store, join):
    teacher, student = join(store, "a", value=1.0), join(store, "b")
    teacher.step()
    student.step(7, samples=3)
    state = student.codistiller.state_dict()
    resumed = join(store, "b", state=state)
    resumed.loss()
    assert resumed.value_of("a") == 1.0
    report = resumed.step(samples=3)
    assert (report.step, report.samples) == (8, 24)
    assert load_snapshot(store, "b")[1].incarnation == 1


def test_a_student_whose_teacher_is_gone_takes_the_newest_and_says_so(store, join):
    teacher, student = join(store, "a", value=1.0), join(store, "b")
    teacher.step()
    student.step()
    state = student.codistiller.state_dict()
    student.close(publish=False)
    for value in (2.0, 3.0, 4.0, 5.0):
        teacher.become(value)
        teacher.step()
    resumed = join(store, "b", state=state)
    said = resumed.say()
    assert any("that this run had when it was saved cannot be read" in message for message in said)
    assert resumed.value_of("a") == 5.0


def test_a_missing_peer_in_lockstep_is_named_after_the_timeout(store, join):
    student = join(store, "a", peers=["a", "b"], lockstep=Lockstep(timeout_s=30.0))
    with pytest.raises(PeerMissingError, match="Peer 'b' did not publish step 0 within 30") as caught:
        student.step()
    assert (caught.value.peer, caught.value.step) == ("b", 0)
    assert sum(student.clock.sleeps) == pytest.approx(30.0)


def test_a_lockstep_run_that_was_interrupted_comes_out_the_same_to_the_bit(tmp_path):
    def train(folder, interrupted):
        store = tmp_path / folder

        def run(peer):
            torch.manual_seed(0)
            return _train_in_lockstep(store, peer, interrupted=interrupted)

        return run_peers(run, ["a", "b"])

    whole, resumed = train("whole", False), train("resumed", True)
    for peer in "ab":
        assert torch.equal(whole[peer], resumed[peer])
    assert not torch.equal(whole["a"], whole["b"])


def _train_in_lockstep(store, peer, *, interrupted):
    def start(state=None):
        generator = torch.Generator().manual_seed(ord(peer))
        model = nn.Linear(4, 3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(generator=generator)
        exchange = CheckpointExchange(store, peer=peer, peers=["a", "b"], interval_steps=2, lockstep=True)
        codistiller = Codistiller(model, exchange)
        if state is not None:
            model.load_state_dict(state["model"])
            codistiller.load_state_dict(state["codistiller"])
        return model, codistiller

    model, codistiller = start()
    for step in range(8):
        if interrupted and step == 5:
            state = {"model": model.state_dict(), "codistiller": codistiller.state_dict()}
            codistiller.close(publish=False)
            model, codistiller = start(state)
        generator = torch.Generator().manual_seed(1000 * ord(peer) + step)
        inputs = torch.randn(8, 4, generator=generator)
        logits = model(inputs)
        targets = torch.randint(3, (8,), generator=generator)
        loss = nn.functional.cross_entropy(logits, targets) + codistiller.loss(logits, inputs)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        codistiller.step()
    codistiller.close()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# The background


def test_an_error_in_the_background_reaches_the_caller_at_the_next_step(store, join):
    student = join(store, "a")
    student.step(2)
    store.faults.fail("write", key_contains="snapshots", times=1, error=ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        student.step(2)


def test_an_error_in_the_heart_reaches_the_caller_at_the_next_step(store, join):
    student = join(store, "a", interval_steps=1000)
    student.step(2)
    store.faults.fail("write", key_contains="status", times=1, error=ZeroDivisionError("a bug"))
    student.background.tick()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        student.step()
