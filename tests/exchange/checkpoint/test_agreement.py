import threading

import pytest

from codistill.errors import PeerTakenError, SnapshotMismatchError, StoreError
from codistill.exchange.checkpoint.agreement import EVERY_STEPS, Agreement
from codistill.testing.peers import run_peers


class Table:
    """Where ranks that are threads meet, in place of torch.distributed."""

    def __init__(self, size):
        self.said = [None] * size
        self.barrier = threading.Barrier(size, timeout=30)

    def exchange(self, rank, value):
        self.said[rank] = value
        self.barrier.wait()
        heard = list(self.said)
        self.barrier.wait()
        return heard


class Rank:
    """The same as PeerRanks, over a table."""

    def __init__(self, table, rank):
        self.table, self.rank, self.size = table, rank, len(table.said)

    def maximum(self, numbers):
        return [max(column) for column in zip(*self.table.exchange(self.rank, list(numbers)), strict=True)]

    def broadcast(self, content, *, source=0):
        return self.table.exchange(self.rank, content)[source]


def on_ranks(function, size=3):
    """Return what a function of (agreement, rank) returned or raised on every rank."""
    table = Table(size)

    def run(name):
        rank = int(name)
        try:
            return function(Agreement(Rank(table, rank)), rank)
        except Exception as error:  # noqa: BLE001 - it is the result
            return error

    return list(run_peers(run, map(str, range(size))).values())


def test_a_single_rank_may_meet_after_any_step():
    agreement = Agreement(Rank(Table(1), 0))
    assert all(agreement.is_due(step) for step in range(1, 25))
    assert agreement.meet(None, [3, 1]) == [3, 1]
    with pytest.raises(StoreError, match="away"):
        agreement.meet(StoreError("away"))


def test_ranks_meet_every_ten_steps():
    agreement = Agreement(Rank(Table(2), 0))
    assert [step for step in range(1, 35) if agreement.is_due(step)] == [10, 20, 30]
    assert EVERY_STEPS == 10


def test_all_learn_the_greatest_numbers():
    assert on_ranks(lambda agreement, rank: agreement.meet(None, [rank, -rank, 5])) == [[2, 0, 5]] * 3


def test_what_went_well_everywhere_is_returned_to_each():
    assert on_ranks(lambda agreement, rank: agreement.do(lambda: 10 * rank)) == [0, 10, 20]


def test_an_error_of_one_rank_is_raised_on_all():
    def fail(agreement, rank):
        def job():
            if rank == 1:
                raise PeerTakenError("It is taken.", peer="a", step=7, key="a/lives/1.json")
            return rank

        return agreement.do(job)

    errors = on_ranks(fail)
    for error in errors:
        assert isinstance(error, PeerTakenError)
        assert (str(error), error.peer, error.step, error.key) == ("It is taken.", "a", 7, "a/lives/1.json")
    assert [getattr(error, "__notes__", []) for error in errors] == [
        ["raised on rank 1 of this peer"],
        [],
        ["raised on rank 1 of this peer"],
    ]


def test_an_error_of_another_kind_is_told_by_name():
    errors = on_ranks(lambda agreement, rank: agreement.meet(ZeroDivisionError("oh") if rank == 0 else None))
    assert isinstance(errors[0], ZeroDivisionError)
    for error in errors[1:]:
        assert isinstance(error, RuntimeError)
        assert str(error) == "Rank 0 of this peer failed with ZeroDivisionError: oh"


def test_a_name_that_is_no_error_of_codistills_raises_nothing_of_it():
    class annotations(Exception):
        """Named as something that the module of errors may hold."""

    errors = on_ranks(lambda agreement, rank: agreement.meet(annotations("oh") if rank == 0 else None))
    assert [type(error) for error in errors[1:]] == [RuntimeError] * 2


def test_if_several_fail_each_raises_its_own_and_the_others_the_highest_ranks():
    def fail(agreement, rank):
        return agreement.meet([StoreError("zero"), SnapshotMismatchError("one"), None][rank])

    errors = on_ranks(fail)
    assert [type(error) for error in errors] == [StoreError, SnapshotMismatchError, SnapshotMismatchError]
    assert [str(error) for error in errors] == ["zero", "one", "one"]
