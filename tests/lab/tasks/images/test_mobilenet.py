import torch

from codistill.lab.tasks.images.mobilenet import MobileNet


def parameters(model: MobileNet) -> int:
    return sum(p.numel() for p in model.parameters())


def test_numbers_of_parameters_are_those_published() -> None:
    with torch.device("meta"):
        assert parameters(MobileNet(1000)) == 4_231_976  # 4.2 million in the paper, table 8
        assert parameters(MobileNet(100)) == 3_309_476  # 3.3 million in Deep Mutual Learning
        assert parameters(MobileNet(1000, width=16)) == 1_331_592  # 1.3 million with multiplier 0.5, table 6


def test_the_sizes_halve_four_times_and_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = MobileNet(7, width=4)
    images = torch.rand(8, 3, 32, 32)
    assert model.stem(images).shape == (8, 4, 32, 32)
    assert model.blocks(model.stem(images)).shape == (8, 128, 2, 2)
    scores = model(images)
    assert scores.shape == (8, 7)
    scores.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
