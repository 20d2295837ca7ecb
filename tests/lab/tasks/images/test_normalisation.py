import pytest
import torch

from codistill.lab.tasks.images.normalisation import Normalisation


def test_pixels_of_the_given_mean_and_deviation_get_0_and_1() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 5, 7), dtype=torch.uint8)
    pixels = images.double() / 255
    mean, deviation = pixels.mean(dim=(0, 2, 3)).tolist(), pixels.std(dim=(0, 2, 3)).tolist()
    for stored in (images, images.contiguous(memory_format=torch.channels_last), images[:, :, 1:, :]):
        normal = Normalisation(tuple(mean), tuple(deviation))(stored)
        by_hand = (stored / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
        assert normal.dtype == torch.float32
        assert normal.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(normal, by_hand, atol=1e-6)
    normal = Normalisation(tuple(mean), tuple(deviation))(images)
    assert normal.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert normal.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=1e-5)


def test_what_is_given_stays_as_it_is() -> None:
    images = torch.full((2, 3, 4, 4), 100.0).contiguous(memory_format=torch.channels_last)
    Normalisation((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))(images)
    assert bool((images == 100).all())
