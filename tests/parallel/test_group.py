import pytest
import torch.distributed as dist

from codistill.parallel.group import check_single_rank


def test_no_process_group_is_a_single_rank():
    check_single_rank()


def test_a_world_of_one_is_a_single_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        check_single_rank()
    finally:
        dist.destroy_process_group()


def test_a_world_of_two_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(
        RuntimeError, match=r"must be a single process in this version, got a world of 2 ranks\. Start"
    ):
        check_single_rank()
    monkeypatch.undo()


def test_a_torch_without_distributed_is_a_single_rank(monkeypatch):
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.setattr(dist, "is_initialized", lambda: pytest.fail("must not be asked"))
    check_single_rank()
    monkeypatch.undo()
