import pytest
import torch

from codistill.lab.tasks.images.wide_resnet import WideResNet


def parameters(model: WideResNet) -> int:
    return sum(p.numel() for p in model.parameters())


def test_numbers_of_parameters_are_those_published() -> None:
    with torch.device("meta"):
        assert parameters(WideResNet(10, depth=28, width=160)) == 36_479_194  # 36.5 million
        assert parameters(WideResNet(100, depth=28, width=160)) == 36_536_884
        assert parameters(WideResNet(10, depth=16, width=32)) == 691_674  # 0.7 million
        assert parameters(WideResNet(10, depth=40, width=64)) == 8_949_210  # 8.9 million


def test_the_sizes_halve_twice_and_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = WideResNet(7, depth=10, width=16)
    images = torch.rand(4, 3, 32, 32)
    assert model.blocks(model.stem(images)).shape == (4, 64, 8, 8)
    scores = model(images)
    assert scores.shape == (4, 7)
    scores.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_a_block_that_changes_nothing_of_the_shape_adds_to_what_it_is_given() -> None:
    torch.manual_seed(0)
    block = WideResNet(7, depth=16, width=16).blocks[1]
    torch.nn.init.zeros_(block.second.weight)
    features = torch.randn(2, 16, 4, 4)
    assert torch.equal(block(features), features)


def test_other_depths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 4 with n >= 1, got 20"):
        WideResNet(10, depth=20, width=16)
