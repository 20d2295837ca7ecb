import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from codistill.lab.tasks.translation.beam_search import beam_search
from codistill.lab.tasks.translation.transformer import Transformer, sines
from codistill.lab.tasks.translation.vocabulary import BOS, EOS, PAD


def _model(*, dropout: float = 0.0, layers: int = 2) -> Transformer:
    torch.manual_seed(0)
    return Transformer(12, width=16, layers=layers, heads=2, feed_forward=24, dropout=dropout, pad=PAD)


def _tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 12, shape, generator=torch.Generator().manual_seed(seed))


def _parameters(classes: int, *, width: int, layers: int, feed_forward: int) -> int:
    attention = 4 * (width * width + width)
    norm = 2 * width
    perceptron = width * feed_forward + feed_forward + feed_forward * width + width
    encoder = attention + perceptron + 2 * norm
    decoder = 2 * attention + perceptron + 3 * norm
    return classes * width + layers * (encoder + decoder) + 2 * norm


@pytest.mark.parametrize(
    ("classes", "width", "heads", "expected"),
    [
        (32000, 512, 8, 60524544),
        (32000, 1024, 16, 209129472),
        (10000, 512, 8, 49260544),
        (10000, 1024, 16, 186601472),
    ],
)
def test_the_papers_sizes_have_as_many_parameters_as_documented(
    classes: int, width: int, heads: int, expected: int
) -> None:
    with torch.device("meta"):
        model = Transformer(
            classes, width=width, layers=6, heads=heads, feed_forward=4 * width, dropout=0.1, pad=PAD
        )
    assert _parameters(classes, width=width, layers=6, feed_forward=4 * width) == expected
    assert sum(p.numel() for p in model.parameters()) == expected


def test_padding_changes_no_scores_of_real_positions() -> None:
    model = _model().eval()
    source, decoder_input = _tokens(2, 5), _tokens(2, 4, seed=1)
    alone = model(source, decoder_input)
    padded = model(F.pad(source, (0, 3), value=PAD), F.pad(decoder_input, (0, 2), value=PAD))
    assert padded.shape == (2, 6, 12)
    torch.testing.assert_close(padded[:, :4], alone, rtol=1e-4, atol=1e-5)


def test_a_position_sees_all_of_the_source_and_nothing_later_of_the_target() -> None:
    model = _model().eval()
    source, decoder_input = _tokens(1, 5), _tokens(1, 6, seed=1)
    scores = model(source, decoder_input)
    other_input = decoder_input.clone()
    other_input[0, 3] = 3 + (other_input[0, 3] - 2) % 9
    changed = model(source, other_input)
    torch.testing.assert_close(changed[:, :3], scores[:, :3], rtol=1e-4, atol=1e-6)
    assert all(not torch.allclose(changed[:, t], scores[:, t]) for t in range(3, 6))
    other_source = source.clone()
    other_source[0, 4] = 3 + (other_source[0, 4] - 2) % 9
    assert all(not torch.allclose(model(other_source, decoder_input)[:, t], scores[:, t]) for t in range(6))


def test_the_next_scores_are_those_of_the_last_position() -> None:
    model = _model().eval()
    source, prefix = _tokens(3, 5), _tokens(3, 4, seed=1)
    source[1, 3:] = PAD
    found = model.next_scores(model.encode(source), source, prefix)
    torch.testing.assert_close(found, model(source, prefix)[:, -1])


def test_every_parameter_gets_a_gradient() -> None:
    model = _model()
    model(_tokens(2, 5), _tokens(2, 4, seed=1)).square().sum().backward()
    # What is added to all keys alike changes no attention.
    assert all(
        p.grad is not None and bool(p.grad.any())
        for name, p in model.named_parameters()
        if not name.endswith("key.bias")
    )


def test_dropout_drops_in_training_only() -> None:
    model = _model(dropout=0.5)
    source, decoder_input = _tokens(2, 5), _tokens(2, 4, seed=1)
    assert not torch.equal(model(source, decoder_input), model(source, decoder_input))
    model.eval()
    assert torch.equal(model(source, decoder_input), model(source, decoder_input))


def test_weights_come_from_the_global_generator() -> None:
    first, second = _model().state_dict(), _model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_positions_differ_and_are_known_by_distance() -> None:
    positions = sines(50, 16)
    products = positions @ positions.T
    assert products.diagonal().tolist() == pytest.approx([8.0] * 50, abs=1e-4)
    assert products.diagonal(3).tolist() == pytest.approx([float(products[0, 3])] * 47, abs=1e-4)
    assert float(products.fill_diagonal_(0).max()) < 7.9


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (3, 3), (0, 2)])
def test_a_width_that_the_heads_cannot_share_is_refused(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=rf"even and a multiple of heads \({heads}\), got {width}\."):
        Transformer(12, width=width, layers=1, heads=heads, feed_forward=8, dropout=0.0, pad=PAD)


def test_a_few_sentences_are_learned_and_found_again_by_beam_search() -> None:
    torch.manual_seed(0)
    model = Transformer(12, width=32, layers=1, heads=2, feed_forward=64, dropout=0.0, pad=PAD)
    words = _tokens(6, 4)
    end = torch.full((6, 1), EOS)
    source, targets = torch.cat([words, end], dim=1), torch.cat([words.flip(1), end], dim=1)
    decoder_input = torch.cat([torch.full((6, 1), BOS), targets[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = F.cross_entropy(model(source, decoder_input).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.1
    assert beam_search(model.eval(), source, longest=8) == words.flip(1).tolist()
