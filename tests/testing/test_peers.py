import threading

import pytest
import torch
import torch.distributed as dist

from codistill.testing.peers import connect_peers, run_peers


def test_results_come_in_the_order_of_the_peers():
    assert list(run_peers(lambda peer: peer * 2, ["b", "a"]).items()) == [("b", "bb"), ("a", "aa")]


def test_peers_run_at_the_same_time():
    barrier = threading.Barrier(3)
    run_peers(lambda peer: barrier.wait(timeout=30), ["a", "b", "c"])


def test_each_peer_begins_with_gradients_enabled():
    with torch.no_grad():
        assert run_peers(lambda peer: torch.is_grad_enabled(), ["a", "b"]) == {"a": True, "b": True}


def test_the_first_error_is_raised_with_the_peers_name():
    failed = threading.Event()

    def function(peer):
        if peer == "b":
            failed.set()
            raise KeyError("broken")
        failed.wait(timeout=30)

    with pytest.raises(KeyError, match="broken") as caught:
        run_peers(function, ["a", "b"])
    assert caught.value.__notes__ == ["raised by peer 'b'"]


def test_a_failed_assertion_of_pytest_is_raised_too():
    with pytest.raises(pytest.fail.Exception, match="on purpose"):
        run_peers(lambda peer: pytest.fail("on purpose"), ["a"])


def test_a_peer_that_does_not_end_is_an_error():
    release = threading.Event()
    threads = []

    def function(peer):
        threads.append(threading.current_thread())
        if peer == "slow":
            release.wait(timeout=30)

    with pytest.raises(TimeoutError, match=r"got \['slow'\] still running"):
        run_peers(function, ["quick", "slow"], timeout_s=0.01)
    release.set()
    for thread in threads:
        thread.join()


def test_an_error_names_the_peers_that_still_run():
    release = threading.Event()
    threads = []

    def function(peer):
        if peer == "broken":
            raise ValueError("first")
        threads.append(threading.current_thread())
        release.wait(timeout=30)

    with pytest.raises(ValueError, match="first") as caught:
        run_peers(function, ["broken", "slow"], timeout_s=0.01)
    assert caught.value.__notes__[1] == "peers ['slow'] were still running after 0.01 s"
    release.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_connected_peers_are_one_group(count):
    groups = connect_peers(count)
    assert [(group.rank(), group.size()) for group in groups] == [(number, count) for number in range(count)]

    def add(name):
        number = torch.tensor(int(name) + 1)
        dist.all_reduce(number, group=groups[int(name)])
        return number.item()

    assert set(run_peers(add, map(str, range(count))).values()) == {sum(range(count + 1))}
    assert not dist.is_initialized()


def test_a_connected_peer_waits_for_the_others_no_longer_than_told():
    group, _other = connect_peers(2, timeout_s=0.2)
    with pytest.raises(RuntimeError, match=r"[Tt]imed out"):
        dist.all_reduce(torch.zeros(1), group=group)
