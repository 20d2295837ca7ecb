import torch

from codistill.lab.tasks.resnet import ResNet8


def test_resnet_8_has_78042_parameters() -> None:
    model = ResNet8(10)
    convolutions = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 + 32) * 32 * 9 + (32 + 64) * 64 * 9
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    head = 64 * 10 + 10
    assert convolutions + shortcuts + norms + head == 78042
    assert sum(p.numel() for p in model.parameters()) == 78042


def test_images_of_any_size_become_class_scores() -> None:
    torch.manual_seed(0)
    model = ResNet8(7)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert model(torch.rand(2, 3, 16, 24)).shape == (2, 7)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = ResNet8(10)
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_another_width_changes_all_channels() -> None:
    assert sum(p.numel() for p in ResNet8(10, width=16).parameters()) == 78042
    narrow = ResNet8(10, width=4)
    assert narrow.head.in_features == 16
    assert narrow(torch.rand(2, 3, 32, 32)).shape == (2, 10)
