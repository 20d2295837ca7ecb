import pytest
import torch

from codistill.errors import RecipeError
from codistill.lab.tasks.images.bottleneck import BOTTLENECK_NETS, BottleneckNet


def parameters(model: BottleneckNet) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("resnext152_32x4d", 59_951_400),
    ],
)
def test_numbers_of_parameters(name: str, expected: int) -> None:
    # All but the last are those of torchvision's nets of the same names, which has none like the last.
    with torch.device("meta"):
        assert parameters(BOTTLENECK_NETS[name](1000)) == expected


def test_resnet_50_learns_from_small_images() -> None:
    torch.manual_seed(0)
    model = BOTTLENECK_NETS["resnet50"](3)
    images = torch.rand(2, 3, 64, 64)
    assert model.blocks(model.stem(images)[:, :, ::2, ::2]).shape == (2, 2048, 2, 2)
    scores = model(images)
    assert scores.shape == (2, 3)
    # What a block adds starts at nothing, so the weights before its last normalisation have gradient 0.
    scores.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(bool(block.last_norm.weight.grad.any()) for block in model.blocks)


def test_blocks_start_as_their_shortcuts() -> None:
    torch.manual_seed(0)
    block = BottleneckNet(3, blocks=(2, 1, 1, 1), width=4).blocks[1]
    features = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(features), features)


def test_groups_are_those_of_the_3x3_convolutions_which_have_the_stride() -> None:
    with torch.device("meta"):
        block = BOTTLENECK_NETS["resnext50_32x4d"](10).blocks[3]
    assert block.middle.groups == 32
    assert (block.first.out_channels, block.middle.out_channels, block.last.out_channels) == (256, 256, 512)
    assert (block.first.stride, block.middle.stride, block.last.stride) == ((1, 1), (2, 2), (1, 1))
    assert block.first.groups == block.last.groups == 1


def test_a_narrow_net_with_groups_gets_a_gradient_everywhere() -> None:
    torch.manual_seed(0)
    model = BottleneckNet(3, blocks=(1, 1, 1, 1), groups=4, inner=2, width=4)
    for block in model.blocks:
        torch.nn.init.ones_(block.last_norm.weight)
    model(torch.rand(4, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_a_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="width must be a multiple of 16, as there are 32 groups, got 8"):
        BOTTLENECK_NETS["resnext50_32x4d"](10, width=8)
