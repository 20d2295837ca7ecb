import math

import pytest
import torch

from codistill.losses.draws import draw_classes


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("exact", [0, 2])
def test_the_least_and_the_largest_number_draw_a_class_that_has_mass(uniform, exact):
    logits = torch.full((1, 200), -math.inf)
    logits[0, 70:130] = torch.randn(60, generator=torch.Generator().manual_seed(0))
    logits[0, [70, 71, 129]] = 3.0
    uniforms = torch.full((1, 1, 2), uniform, dtype=torch.float64)
    drawn = draw_classes(logits, uniforms, exact=exact, temperature=1.0).classes[0, exact:].item()
    kept = logits[0].topk(exact).indices.tolist()
    possible = [c for c in range(70, 130) if c not in kept]
    assert drawn == (possible[0] if uniform == 0.0 else possible[-1])


@pytest.mark.parametrize("rare", [20, 150], ids=["in the same block", "in another block"])
def test_a_class_too_rare_for_a_sum_in_float32_is_drawn_when_its_turn_comes(rare):
    logits = torch.full((1, 200), -math.inf)
    logits[0, 3], logits[0, rare] = 0.0, math.log(1e-9)
    for uniform, expected in ((1 - 2e-9, 3), (1 - 5e-10, rare)):
        uniforms = torch.full((1, 1, 2), uniform, dtype=torch.float64)
        drawn = draw_classes(logits, uniforms, exact=0, temperature=1.0)
        assert drawn.classes.item() == expected


@pytest.mark.parametrize(("classes", "exact"), [(129, 8), (129, 127), (65, 63), (90, 80)])
def test_what_fills_up_the_last_block_does_not_count_for_the_last_class(classes, exact):
    # All but the last classes are ruled out, so that the largest are also looked for beyond them.
    logits = torch.full((2, classes), -math.inf)
    logits[:, -2:] = torch.tensor([math.log(3.0), 0.0])
    draws = draw_classes(logits, torch.rand(2, 1, 2, dtype=torch.float64), exact=exact, temperature=1.0)
    weights = torch.zeros(2, classes).scatter_add_(1, draws.classes, draws.weights)
    torch.testing.assert_close(weights, logits.softmax(-1))
    torch.testing.assert_close(draws.entropy, torch.distributions.Categorical(logits=logits).entropy())
