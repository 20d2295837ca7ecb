import numpy as np
import pytest
import torch

from codistill.lab.tasks.language.windows import spread, windows


def test_every_target_is_the_token_after_its_input() -> None:
    stream = np.random.default_rng(0).integers(0, 9, size=50).astype(np.int32)
    split = windows(stream, positions=7)
    inputs, targets = split.batch(torch.arange(len(split)))
    assert isinstance(inputs, torch.Tensor)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (7, 7)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs.flatten().tolist() == stream[:49].tolist()
    assert targets.flatten().tolist() == stream[1:50].tolist()


def test_windows_do_not_overlap_and_leave_out_less_than_one() -> None:
    for length in range(5, 20):
        split = windows(np.arange(length), positions=4)
        predicted = split.targets.flatten().tolist()
        assert predicted == list(range(1, len(predicted) + 1))
        assert 0 <= length - 1 - len(predicted) < 4


def test_inputs_and_targets_share_their_memory() -> None:
    split = windows(np.arange(100), positions=8)
    assert isinstance(split.inputs, torch.Tensor)
    assert split.inputs.untyped_storage().data_ptr() == split.targets.untyped_storage().data_ptr()


@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_text_that_fills_no_window_is_refused(length: int) -> None:
    message = f"tokens must be more than the 4 positions of a window, got {length}"
    with pytest.raises(ValueError, match=message):
        windows(np.arange(length), positions=4)


def test_spread_samples_reach_through_the_whole() -> None:
    whole = windows(np.arange(101), positions=1)
    some = spread(whole, count=4)
    assert some.batch(torch.arange(4))[1].flatten().tolist() == [1, 26, 51, 76]
    assert spread(whole, count=100) is whole
