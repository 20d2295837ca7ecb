import pytest
import torch

from codistill.lab.tasks.images.resnet import ResNet


def parameters(model: ResNet) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnet_8_has_78042_parameters() -> None:
    convolutions = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 + 32) * 32 * 9 + (32 + 64) * 64 * 9
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    head = 64 * 10 + 10
    assert convolutions + shortcuts + norms + head == 78042
    assert parameters(ResNet(10, depth=8)) == 78042


def test_deeper_ones_have_the_published_numbers_of_parameters_and_those_of_the_shortcuts() -> None:
    # Table 6 of the paper, in millions, without parameters in the shortcuts (option A). Ours (option B) have
    # two convolutions and their normalisations more.
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    published = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
    with torch.device("meta"):
        counts = {depth: parameters(ResNet(10, depth=depth)) for depth in published}
    assert counts[20] == 272_474
    assert counts[32] == 466_906
    for depth, millions in published.items():
        assert (counts[depth] - shortcuts) / 1e6 == pytest.approx(millions, abs=0.035)


def test_resnet_8_has_kept_its_weights_and_what_it_computes() -> None:
    # Numbers of the first version, which knew this depth only.
    torch.manual_seed(7)
    model = ResNet(10, depth=8)
    assert torch.rand(3).tolist() == pytest.approx([0.16450489, 0.34807426, 0.40441996])
    with torch.no_grad():
        sizes = float(sum(p.double().abs().sum() for p in model.parameters()))
    assert sizes == pytest.approx(2629.61507515, rel=1e-7)
    assert [name for name, _ in model.named_parameters() if not name.startswith("stages.0.")] == [
        "stem.weight",
        "stem_norm.weight",
        "stem_norm.bias",
        *(
            f"stages.{stage}.{name}"
            for stage in (1, 2)
            for name in (
                "first.weight",
                "first_norm.weight",
                "first_norm.bias",
                "second.weight",
                "second_norm.weight",
                "second_norm.bias",
                "shortcut.0.weight",
                "shortcut.1.weight",
                "shortcut.1.bias",
            )
        ),
        "head.weight",
        "head.bias",
    ]
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        trained = model(images)[:, :4]
        evaluated = model.eval()(images)[0, :4]
    assert trained[0].tolist() == pytest.approx([-0.29375309, 0.04944877, -0.12775192, 0.07557869], abs=1e-5)
    assert trained[1].tolist() == pytest.approx([-0.31066388, -0.05922391, 0.04717455, 0.01821928], abs=1e-5)
    assert evaluated.tolist() == pytest.approx([0.04610064, -0.04336486, -0.04019441, -0.08772904], abs=1e-5)


def test_images_of_any_size_become_class_scores() -> None:
    torch.manual_seed(0)
    model = ResNet(7, depth=14)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert model(torch.rand(2, 3, 16, 24)).shape == (2, 7)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = ResNet(10, depth=20)
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_another_width_changes_all_channels() -> None:
    narrow = ResNet(10, depth=8, width=4)
    assert narrow.head.in_features == 16
    assert narrow(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 9, 18])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 6 n \\+ 2 with n >= 1, got {depth}"):
        ResNet(10, depth=depth)
