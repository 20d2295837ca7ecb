import pytest
import torch

from codistill.lab.device import check_device, resolve_device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto", rank=1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto", rank=3) == torch.device("cuda", 1)
    assert resolve_device("meta", rank=3) == torch.device("meta")


@pytest.mark.parametrize("name", ["foo", "", "meta", "cuda", "cuda:0", "cuda:x"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f'device must be "auto", "cpu", .*, got {name!r}'):
        check_device(name)


def test_a_device_that_is_there_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cpu", "cuda", "cuda:1"):
        check_device(name)
    with pytest.raises(ValueError, match="got 'cuda:2'"):
        check_device("cuda:2")
