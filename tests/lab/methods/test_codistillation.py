from dataclasses import replace

import pytest

from codistill.errors import RecipeError
from codistill.lab.methods.codistillation import Codistillation
from codistill.lab.recipe import Recipe


def test_a_single_peer_cannot_codistill(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="peers must be >= 2 to codistill, got 1"):
        Codistillation.plan(replace(tiny, peers=1))


def test_a_loss_that_does_not_exist_is_noticed_before_anything_starts(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match="recipe 'tiny'"):
        Codistillation.plan(replace(tiny, distillation_loss="telepathy"))


def test_a_loss_that_does_not_go_with_combine_is_noticed_before_anything_starts(tiny: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"combine must be 'losses' or 'logits' .*recipe 'tiny'"):
        Codistillation.plan(replace(tiny, distillation_loss="logit_mse", combine="probabilities"))
