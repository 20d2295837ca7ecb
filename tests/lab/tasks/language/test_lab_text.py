from pathlib import Path

import pytest
import torch

from codistill.errors import RecipeError
from codistill.lab.tasks.language import lab_text
from codistill.lab.tasks.language.shakespeare import Shakespeare


def test_models_have_their_own_width_or_the_one_asked_for(small_shakespeare: Path) -> None:
    task = Shakespeare(small_shakespeare)
    tokens, targets = task.train.batch(torch.arange(2))
    for name in task.models:
        for width in (None, 32):
            model = task.model(name, width=width)
            assert model.embedding.embedding_dim == (width or lab_text.WIDTHS[name])
            logits = model(task.inputs(tokens))
            assert logits.shape == (*targets.shape, task.classes)
            assert task.loss(logits, targets).dim() == 0
    assert type(task.model()) is type(task.model("lstm"))
    assert task.metric == "nll"


def test_models_that_cannot_be_are_refused(small_shakespeare: Path) -> None:
    task = Shakespeare(small_shakespeare)
    with pytest.raises(RecipeError, match="width must be a multiple of 32 for a transformer, got 100"):
        task.model("transformer", width=100)
    with pytest.raises(RecipeError, match="model must be one of lstm, transformer, got 'gru'"):
        task.model("gru")


def test_validation_and_test_are_cut_to_fixed_windows(
    small_shakespeare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_text, "VALIDATION_POSITIONS", 130)
    monkeypatch.setattr(lab_text, "TEST_POSITIONS", 64)
    one, other = Shakespeare(small_shakespeare), Shakespeare(small_shakespeare)
    assert len(one.validation) == 2
    assert len(one.test()) == 1
    rows = torch.arange(2)
    assert torch.equal(one.validation.batch(rows)[1], other.validation.batch(rows)[1])
