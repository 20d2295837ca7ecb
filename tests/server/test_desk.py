import gc
import threading
import weakref
from concurrent.futures import wait
from http import HTTPStatus

import pytest
import torch
from torch import nn

from codistill.exchange.prediction.codec import BFloat16, Exact, TopK
from codistill.exchange.served.question import Question
from codistill.exchange.teachers import Teacher
from codistill.parallel.weights import named_tensors
from codistill.server.answering import Answering
from codistill.server.desk import Desk
from codistill.server.limits import Limits
from codistill.server.refusal import Refusal
from codistill.server.standby import Standby
from codistill.snapshots.info import SnapshotInfo

FEATURES, CLASSES = 4, 3


class Counted(nn.Module):
    """Waits at a gate before its first forward, and remembers how many rows each had."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner or nn.Linear(FEATURES, CLASSES)
        self.gate = threading.Event()
        self.has_come = threading.Event()
        self.rows = []

    def forward(self, inputs):
        self.has_come.set()
        assert self.gate.wait(30)
        self.rows.append(len(inputs))
        return self.inner(inputs)


@pytest.fixture
def open_desk():
    """Return a function that makes a desk, which ends with the test."""
    desks = []

    def make(*, limits=None, **answering):
        desks.append(Desk(limits=limits or Limits(), answering=Answering(**answering)))
        desks[-1].start()
        return desks[-1]

    yield make
    for desk in desks:
        assert desk.close(30)


def info_of(module, peer="b", *, sequence=0):
    return SnapshotInfo(
        peer=peer,
        incarnation=0,
        sequence=sequence,
        step=sequence,
        samples=sequence,
        task_loss=None,
        interval_steps=5,
        codec="exact",
        finished=False,
        metadata={},
        size_bytes=100,
        tensors={name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()},
    )


def bring(desk, module, peer="b", *, sequence=0):
    """Have a module served as it is."""
    info = info_of(module, peer, sequence=sequence)
    teacher = Teacher(module)
    state = {name: tensor.clone() for name, tensor in named_tensors(module).items()}
    teacher.load(state, info, first_seen_step=0)
    desk.bring(Standby(info=info, teacher=teacher, tensors=None))
    return teacher


def question(inputs, **wanted):
    return Question.of(inputs, **{"codec": Exact(), "left_out": {}, **wanted})


def batch(rows, *, seed=0):
    return torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(seed))


def logits_of(answer):
    (prediction,) = answer.result(30).predictions
    return prediction.tensors["logits"]


def hold(desk, module):
    """Make the desk busy with a question, and return its answer to come."""
    answer = desk.ask(question(batch(1)))
    assert module.has_come.wait(30)
    return answer


# Merging


def test_what_waits_is_answered_by_one_forward(open_desk):
    desk, module = open_desk(), Counted()
    bring(desk, module)
    first = hold(desk, module)
    batches = [batch(rows, seed=rows) for rows in (2, 3, 4)]
    answers = [desk.ask(question(inputs)) for inputs in batches]
    module.gate.set()
    wait([first, *answers], 30)
    # The first merged forward is compared with forwards apart.
    assert module.rows == [1, 9, 2, 3, 4]
    for inputs, answer in zip(batches, answers, strict=True):
        assert torch.allclose(logits_of(answer), module.inner(inputs), atol=1e-6)
    module.gate.clear()
    module.has_come.clear()
    module.rows.clear()
    first = hold(desk, module)
    answers = [desk.ask(question(inputs)) for inputs in batches]
    module.gate.set()
    wait([first, *answers], 30)
    assert module.rows == [1, 9]
    for inputs, answer in zip(batches, answers, strict=True):
        assert torch.allclose(logits_of(answer), module.inner(inputs), atol=1e-6)


def ask_together(desk, module, questions):
    """Return the answers to questions that wait at the same time, and the rows of the forwards for them."""
    module.gate.clear()
    module.has_come.clear()
    first = hold(desk, module)
    module.rows.clear()
    answers = []
    for one in questions:
        answers.append(desk.ask(one))
    module.gate.set()
    wait([first, *answers], 30)
    return answers, module.rows[1:]


def know_how_to_merge(desk, module):
    """Let the desk find out that questions of two dimensions can be merged."""
    ask_together(desk, module, [question(batch(1)), question(batch(1))])


def test_nothing_is_merged_beyond_the_limits(open_desk):
    desk, module = open_desk(limits=Limits(max_batch=5)), Counted()
    bring(desk, module)
    know_how_to_merge(desk, module)
    _, rows = ask_together(desk, module, [question(batch(rows)) for rows in (2, 3, 1, 4)])
    assert rows == [5, 5]


def test_nothing_is_merged_beyond_the_limit_of_whole_numbers(open_desk):
    embedding = nn.Sequential(nn.Embedding(10, CLASSES))
    desk, module = open_desk(limits=Limits(max_integers=10)), Counted(embedding)
    bring(desk, module)
    tokens = torch.ones(2, 2, dtype=torch.int64)
    module.gate.set()
    assert desk.ask(question(tokens)).result(30)
    module.gate.clear()
    module.has_come.clear()
    first = desk.ask(question(tokens))
    assert module.has_come.wait(30)
    module.rows.clear()
    answers = [desk.ask(question(tokens)) for _ in range(3)]
    module.gate.set()
    wait([first, *answers], 30)
    assert module.rows == [2, 4, 2, 2, 2]


def test_questions_are_answered_apart_if_so_told(open_desk):
    desk, module = open_desk(is_merging=False), Counted()
    bring(desk, module)
    _, rows = ask_together(desk, module, [question(batch(rows)) for rows in (2, 3)])
    assert rows == [2, 3]


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, FEATURES, dtype=torch.float64),
        (torch.zeros(2, FEATURES),),
        {"inputs": torch.zeros(2, FEATURES)},
        torch.zeros(2, 5, FEATURES),
    ],
    ids=["dtype", "positional", "named", "shape"],
)
def test_only_questions_of_one_layout_are_merged(open_desk, other):
    desk, module = open_desk(), Counted(nn.Softmax(dim=-1))
    bring(desk, module)
    know_how_to_merge(desk, module)
    _, rows = ask_together(desk, module, [question(batch(2)), question(other), question(batch(3))])
    assert rows == [5, 2]


def test_a_first_dimension_that_tensors_do_not_share_is_none_of_samples(open_desk):
    class Sum(nn.Module):
        def forward(self, x, places):
            return x + places

    desk, module = open_desk(), Counted()
    bring(desk, Sum())
    del module
    asked = (torch.zeros(2, 3), torch.arange(3.0))
    answers = [desk.ask(question(asked)) for _ in range(3)]
    assert all(torch.equal(logits_of(answer), torch.arange(3.0).expand(2, 3)) for answer in answers)


class TimeFirst(nn.Module):
    """A model whose first dimension is time: what comes later depends on what came before."""

    def forward(self, inputs):
        return inputs.cumsum(0)


class Outer(nn.Module):
    """A model that looks at all samples at once."""

    def forward(self, inputs):
        return inputs - inputs.mean(0)


@pytest.mark.parametrize("inner", [TimeFirst(), Outer()], ids=["time first", "mean of the batch"])
def test_a_model_that_merging_would_change_is_found_out_and_never_merged_again(open_desk, caplog, inner):
    desk, module = open_desk(), Counted(inner)
    bring(desk, module)
    batches = [batch(2, seed=seed) for seed in (1, 2)]
    for expected_rows in ([4, 2, 2], [2, 2]):
        answers, rows = ask_together(desk, module, [question(inputs) for inputs in batches])
        assert rows == expected_rows
        for inputs, answer in zip(batches, answers, strict=True):
            assert torch.equal(logits_of(answer), inner(inputs))
    assert caplog.text.count("answered apart") == 1


def test_a_model_that_can_only_be_called_with_one_size_is_found_out_too(open_desk):
    class OneSize(nn.Module):
        def forward(self, inputs):
            if len(inputs) != 2:
                raise ValueError("two rows, please")
            return inputs

    desk, module = open_desk(), Counted(OneSize())
    bring(desk, module)
    module.gate.set()
    answers = [desk.ask(question(batch(2, seed=seed))) for seed in range(5)]
    for seed, answer in enumerate(answers):
        assert torch.equal(logits_of(answer), batch(2, seed=seed))


def test_what_is_learnt_of_a_model_is_forgotten_with_it(open_desk):
    desk, module = open_desk(), Counted(TimeFirst())
    bring(desk, module)
    know_how_to_merge(desk, module)
    other = Counted()
    bring(desk, other, sequence=1)
    know_how_to_merge(desk, other)
    _, rows = ask_together(desk, other, [question(batch(rows)) for rows in (2, 3)])
    assert rows == [5]


def test_one_students_numbers_do_not_cost_the_others_theirs(open_desk):
    desk, module = open_desk(), Counted()
    bring(desk, module)
    know_how_to_merge(desk, module)
    bad = torch.full((2, FEATURES), torch.nan)
    (good, nan), rows = ask_together(desk, module, [question(batch(2)), question(bad)])
    assert rows == [4, 2, 2]
    assert torch.allclose(logits_of(good), module.inner(batch(2)), atol=1e-6)
    (prediction,) = nan.result().predictions
    assert not prediction.is_usable
    assert good.result().predictions[0].is_usable
    _, rows = ask_together(desk, module, [question(batch(2)), question(batch(2))])
    assert rows == [4]


def test_one_students_wrong_question_does_not_cost_the_others_their_answers(open_desk):
    class Picky(nn.Module):
        def forward(self, inputs):
            if (inputs > 100).any():
                raise RuntimeError("too much")
            return inputs

    desk, module = open_desk(), Counted(Picky())
    bring(desk, module)
    know_how_to_merge(desk, module)
    questions = [question(batch(2)), question(torch.full((2, FEATURES), 101.0))]
    (good, bad), _ = ask_together(desk, module, questions)
    assert torch.equal(logits_of(good), batch(2))
    with pytest.raises(Refusal, match="RuntimeError: too much") as refusal:
        bad.result()
    assert refusal.value.status == HTTPStatus.UNPROCESSABLE_ENTITY
    _, rows = ask_together(desk, module, [question(batch(2)), question(batch(2))])
    assert rows == [4]


# Whose predictions, and how they travel


def test_every_question_gets_whom_it_asks_for(open_desk):
    desk = open_desk()
    models = {peer: nn.Linear(FEATURES, CLASSES) for peer in "cab"}
    for peer, model in models.items():
        bring(desk, model, peer, sequence=3)
    inputs = batch(2)

    def peers_of(**wanted):
        predictions = desk.ask(question(inputs, **wanted)).result(30).predictions
        for prediction in predictions:
            model = models[prediction.version.peer]
            assert torch.allclose(prediction.tensors["logits"], model(inputs), atol=1e-6)
        return [prediction.version.peer for prediction in predictions]

    assert peers_of() == ["a", "b", "c"]
    assert peers_of(peers=("c", "a", "z")) == ["a", "c"]
    assert peers_of(left_out={"a": None}) == ["b", "c"]
    assert peers_of(left_out={"a": (0, 3), "b": (0, 2)}) == ["b", "c"]
    assert peers_of(peers=()) == []


def test_every_question_gets_its_own_codec_from_one_forward(open_desk):
    desk, module = open_desk(), Counted()
    bring(desk, module)
    know_how_to_merge(desk, module)
    sparse = {"codec": TopK(2, sampled=1), "temperature": 2.0, "seed": 7}
    questions = [question(batch(2), codec=BFloat16()), question(batch(2), **sparse), question(batch(2))]
    answers, rows = ask_together(desk, module, questions)
    assert rows == [6]
    half, few, exact = (answer.result().predictions[0] for answer in answers)
    assert half.tensors["logits"].dtype == torch.bfloat16
    assert exact.tensors["logits"].dtype == torch.float32
    assert few.shape == (2, CLASSES)
    expected = TopK(2, sampled=1).encode(
        module.inner(batch(2)), temperature=2.0, generator=torch.Generator().manual_seed(7)
    )
    assert few.tensors.keys() == expected.keys()
    assert all(torch.allclose(few.tensors[name].double(), expected[name].double()) for name in expected)


def test_a_codec_that_does_not_suit_the_logits_is_refused(open_desk):
    desk = open_desk()
    bring(desk, nn.Linear(FEATURES, CLASSES))
    for wanted in ({"codec": TopK(2)}, {"codec": TopK(2, sampled=1), "class_dim": 5}):
        with pytest.raises(Refusal):
            desk.ask(question(batch(2), **wanted)).result(30)
    assert desk.ask(question(batch(2))).result(30).predictions


def test_outputs_to_logits_finds_them(open_desk):
    class Wordy(nn.Module):
        def forward(self, inputs):
            return {"logits": inputs, "words": "many"}

    desk = open_desk(outputs_to_logits=lambda outputs: outputs["logits"])
    bring(desk, Wordy())
    assert torch.equal(logits_of(desk.ask(question(batch(2)))), batch(2))


# Versions


def test_a_snapshot_is_taken_between_two_batches(open_desk):
    desk, module = open_desk(), Counted()
    teacher = bring(desk, module)
    old = {name: tensor.clone() for name, tensor in named_tensors(module).items()}
    under_way = hold(desk, module)
    new = {name: tensor + 1.0 for name, tensor in old.items()}
    desk.bring(Standby(info=info_of(module, sequence=1), teacher=teacher, tensors=new))
    after = desk.ask(question(batch(2)))
    # The one that is under way still runs with the old weights.
    assert torch.equal(named_tensors(module)["inner.weight"], old["inner.weight"])
    module.gate.set()
    assert under_way.result(30).predictions[0].version.sequence == 0
    assert after.result(30).predictions[0].version.sequence == 1
    expected = batch(2) @ new["inner.weight"].T + new["inner.bias"]
    assert torch.allclose(logits_of(after), expected, atol=1e-5)
    assert torch.allclose(
        logits_of(under_way), batch(1) @ old["inner.weight"].T + old["inner.bias"], atol=1e-5
    )


def test_a_snapshot_that_cannot_be_taken_takes_its_teacher_away(open_desk, caplog):
    desk, module = open_desk(), nn.Linear(FEATURES, CLASSES)
    teacher = bring(desk, module)
    desk.bring(Standby(info=info_of(module, sequence=1), teacher=teacher, tensors={}))
    assert desk.ask(question(batch(2))).result(30).predictions == ()
    assert "could not be taken" in caplog.text
    state = {name: tensor.clone() for name, tensor in named_tensors(module).items()}
    desk.bring(Standby(info=info_of(module, sequence=2), teacher=teacher, tensors=state))
    assert desk.ask(question(batch(2))).result(30).predictions[0].version.sequence == 2


# Whole numbers


def test_indices_that_an_embedding_does_not_have_are_refused(open_desk):
    class Two(nn.Module):
        """Embeddings of two lengths: what is right for one is not for the other."""

        def __init__(self):
            super().__init__()
            self.words, self.kinds = nn.Embedding(10, CLASSES), nn.Embedding(2, CLASSES)

        def forward(self, words, kinds):
            return self.words(words) + self.kinds(input=kinds)

    desk = open_desk()
    bring(desk, Two())

    def ask(word, kind):
        return desk.ask(question((torch.tensor([word]), torch.tensor([kind])))).result(30)

    assert ask(9, 1).predictions
    for word, kind, reason in (
        (10, 0, "from 0 to 9 for peer 'b', got 10 to 10"),
        (-1, 0, "from 0 to 9 for peer 'b', got -1 to -1"),
        (0, 2, "IndexError: indices must be from 0 to 1, got 2 to 2"),
    ):
        with pytest.raises(Refusal, match=reason) as refusal:
            ask(word, kind)
        assert refusal.value.status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert ask(9, 1).predictions


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_indices_that_there_are_not_are_refused(open_desk, mode):
    desk = open_desk()
    bring(desk, nn.EmbeddingBag(10, CLASSES, mode=mode))

    def ask(*offsets):
        return desk.ask(question((torch.tensor([1, 2, 3]), torch.tensor(offsets)))).result(30)

    assert ask(0, 2, 2, 3).predictions
    for offsets in ((1, 2), (0, 2, 1), (0, 4), (0, 9, 1)):
        with pytest.raises(Refusal, match="offsets must rise from 0 to at most 3"):
            ask(*offsets)


def test_whole_numbers_need_a_range_that_is_known(open_desk):
    pixels = torch.tensor([[0, 255]], dtype=torch.uint8)

    class Pixels(nn.Module):
        def forward(self, inputs):
            return inputs.float()

    desk = open_desk()
    bring(desk, Pixels())
    with pytest.raises(Refusal, match=r"no embedding that tells their range.*--integers-below"):
        desk.ask(question(pixels)).result(30)
    assert desk.ask(question(pixels > 0)).result(30).predictions
    desk = open_desk(integers_below=256)
    bring(desk, Pixels())
    assert desk.ask(question(pixels)).result(30).predictions
    with pytest.raises(Refusal, match="from 0 to 255"):
        desk.ask(question(pixels.int() + 1)).result(30)


# How much waits, and the end


def test_more_than_may_wait_is_refused(open_desk):
    desk, module = open_desk(limits=Limits(max_pending=2)), Counted()
    bring(desk, module)
    under_way = hold(desk, module)
    answers = [desk.ask(question(batch(1))) for _ in range(2)]
    with pytest.raises(Refusal, match="too many") as refusal:
        desk.ask(question(batch(1)))
    assert refusal.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    module.gate.set()
    assert all(answer.result(30).predictions for answer in [under_way, *answers])


def test_a_question_that_nobody_waits_for_is_not_answered(open_desk):
    desk, module = open_desk(is_merging=False), Counted()
    bring(desk, module)
    under_way = hold(desk, module)
    cancelled, wanted = (desk.ask(question(batch(rows))) for rows in (2, 3))
    assert cancelled.cancel()
    module.gate.set()
    assert wanted.result(30).predictions
    assert under_way.result(30).predictions
    assert module.rows == [1, 3]


def test_a_question_that_nobody_waits_for_takes_no_room(open_desk):
    desk, module = open_desk(limits=Limits(max_pending=1)), Counted()
    bring(desk, module)
    under_way = hold(desk, module)
    inputs = batch(1)
    content = weakref.ref(inputs)
    assert desk.ask(question(inputs)).cancel()
    del inputs
    gc.collect()
    assert content() is None
    wanted = desk.ask(question(batch(1)))
    module.gate.set()
    assert wanted.result(30).predictions
    assert under_way.result(30).predictions


def test_what_waits_at_the_end_is_refused(open_desk):
    desk, module = open_desk(is_merging=False), Counted()
    bring(desk, module)
    under_way = hold(desk, module)
    waiting = desk.ask(question(batch(1)))
    assert not desk.close(0.0)
    module.gate.set()
    assert desk.close(30)
    assert under_way.result(30).predictions
    with pytest.raises(Refusal, match="closing"):
        waiting.result(30)
    with pytest.raises(Refusal, match="closing"):
        desk.ask(question(batch(1)))
    assert not desk.is_broken


def test_an_error_of_the_device_breaks_the_desk_and_lets_nobody_wait(open_desk, caplog):
    class Lost(nn.Module):
        def forward(self, inputs):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    desk, module = open_desk(is_merging=False), Counted(Lost())
    bring(desk, module)
    answer = hold(desk, module)
    waiting = desk.ask(question(batch(1)))
    module.gate.set()
    with pytest.raises(Refusal, match="has failed"):
        answer.result(30)
    with pytest.raises(Refusal, match="closing"):
        waiting.result(30)
    assert desk.close(30)
    assert desk.is_broken
    assert "has ended" in caplog.text


def test_a_model_out_of_memory_is_only_busy(open_desk):
    class Large(nn.Module):
        def forward(self, inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    desk = open_desk()
    bring(desk, Large())
    with pytest.raises(Refusal, match="ran out of memory") as refusal:
        desk.ask(question(batch(1))).result(30)
    assert refusal.value.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert not desk.is_broken
