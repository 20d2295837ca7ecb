"""Both language models: what they have in common."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from codistill.lab.tasks.language.lstm import LSTMLanguageModel
from codistill.lab.tasks.language.transformer import TransformerLanguageModel

CLASSES = 11


def lstm(**settings: float) -> nn.Module:
    return LSTMLanguageModel(CLASSES, width=16, layers=2, **settings)


def transformer(**settings: float) -> nn.Module:
    return TransformerLanguageModel(CLASSES, width=16, layers=2, heads=2, positions=12, **settings)


both = pytest.mark.parametrize("build", [lstm, transformer])
Build = Callable[..., nn.Module]


@both
def test_a_later_token_does_not_change_earlier_scores(build: Build) -> None:
    torch.manual_seed(0)
    model = build()
    tokens = torch.randint(CLASSES, (3, 12))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % CLASSES
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 12, CLASSES)
    assert torch.equal(before[:, :7], after[:, :7])
    assert bool((before[:, 7:] != after[:, 7:]).flatten(1).any(dim=1).all())


@both
def test_earlier_tokens_are_remembered_to_the_end(build: Build) -> None:
    torch.manual_seed(0)
    model = build()
    tokens = torch.randint(CLASSES, (1, 12))
    changed = tokens.clone()
    changed[0, 0] = (changed[0, 0] + 1) % CLASSES
    assert not torch.equal(model(tokens)[0, -1], model(changed)[0, -1])


@both
def test_samples_of_a_batch_and_calls_do_not_influence_one_another(build: Build) -> None:
    torch.manual_seed(0)
    model = build()
    tokens = torch.randint(CLASSES, (4, 12))
    together = model(tokens)
    alone = torch.cat([model(one[None]) for one in tokens])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(model(tokens[:, :5]), together[:, :5])


@both
def test_a_repeating_pattern_is_learned(build: Build) -> None:
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    # What follows a 1 depends on what came before it.
    stream = torch.tensor([1, 1, 2, 3, 5, 8]).repeat(3)
    windows = torch.stack([stream[start : start + 13] for start in range(6)])
    for _ in range(150):
        # The first two positions cannot know where in the pattern they are.
        logits = model(windows[:, :-1])[:, 2:]
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 3:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.02


@both
def test_initial_weights_come_from_the_global_generator(build: Build) -> None:
    torch.manual_seed(3)
    one = build().state_dict()
    torch.manual_seed(3)
    other = build().state_dict()
    third = build().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], third["embedding.weight"])


@both
def test_an_untrained_model_scores_near_chance(build: Build) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(CLASSES, (8, 12))
    loss = F.cross_entropy(build()(tokens).flatten(0, 1), torch.randint(CLASSES, (96,)))
    assert loss.item() == pytest.approx(float(torch.tensor(CLASSES).log()), abs=0.25)


@both
def test_units_are_dropped_while_training_only(build: Build) -> None:
    torch.manual_seed(0)
    model = build(dropout=0.5)
    tokens = torch.randint(CLASSES, (2, 12))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@both
def test_tied_weights_have_one_name(build: Build) -> None:
    storages = [tensor.data_ptr() for tensor in build().state_dict().values()]
    assert len(storages) == len(set(storages))
    names = [name for name, weight in build().named_parameters() if weight.shape == (CLASSES, 16)]
    assert names == ["embedding.weight"]


def test_the_output_layer_of_an_lstm_can_be_its_own() -> None:
    tied = sum(p.numel() for p in LSTMLanguageModel(50, width=8).parameters())
    model = LSTMLanguageModel(50, width=8, tied=False)
    own = sum(p.numel() for p in model.parameters())
    # Two layers of four gates, with two vectors of biases each.
    assert tied == 50 * 8 + 2 * (2 * 4 * 8 * 8 + 2 * 4 * 8) + 50
    assert own == tied + 50 * 8
    assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 50)


def test_one_layer_of_an_lstm_takes_a_dropout() -> None:
    model = LSTMLanguageModel(50, width=8, layers=1, dropout=0.1)
    assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 50)


def test_a_transformer_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="width must be a multiple of heads, got 10 and 4"):
        TransformerLanguageModel(50, width=10, layers=1, heads=4, positions=4)
    with pytest.raises(ValueError, match="tokens must have at most 12 positions, got 13"):
        transformer()(torch.zeros(1, 13, dtype=torch.int64))
