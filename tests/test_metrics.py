import math

import pytest
import torch

from codistill.metrics import agreement, churn, distance_from_initialisation, mean_absolute_difference


def test_churn_is_the_share_of_different_labels():
    assert churn(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])) == 0.5
    assert agreement(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 2])) == 0.75


def test_churn_of_scores_is_that_of_their_largest():
    a = torch.tensor([[0.1, 0.9], [5.0, -5.0], [0.0, 1.0]])
    b = torch.tensor([[0.4, 0.6], [-1.0, 3.0], [9.0, 9.5]])
    assert churn(a, b) == pytest.approx(1 / 3)
    assert churn(a, b.argmax(1)) == pytest.approx(1 / 3)


def test_churn_of_one_logit_has_its_threshold_at_zero():
    a, b = torch.tensor([-0.1, 0.1, 3.0, 0.9]), torch.tensor([-2.0, -0.2, 4.0, 0.2])
    assert churn(a, b) == 0.25
    assert churn(a, torch.tensor([0, 1, 1, 1])) == 0.0
    assert churn(a, torch.tensor([False, True, True, False])) == 0.25


def test_churn_of_a_model_with_itself_is_zero():
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert churn(scores, scores.clone()) == 0.0
    assert agreement(scores, scores.clone()) == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, 1),
        torch.zeros(3, 2, 2),
        torch.zeros(0),
        torch.zeros(0, 4),
        torch.zeros(3, 2).long(),
        torch.zeros(()),
    ],
)
def test_churn_refuses_what_has_no_labels(bad):
    with pytest.raises(ValueError, match="predictions_a must be"):
        churn(bad, torch.zeros(3, 2))


def test_churn_refuses_other_examples():
    with pytest.raises(ValueError, match="of the examples of predictions_a, 3, got 2"):
        churn(torch.zeros(3, 2), torch.zeros(2, 2))


def test_mean_absolute_difference_is_over_examples_and_classes():
    a, b = torch.tensor([0.1, 0.5]), torch.tensor([0.2, 0.2])
    assert mean_absolute_difference(a, b) == pytest.approx(0.2)
    two_classes = [torch.stack((p, 1 - p), 1) for p in (a, b)]
    assert mean_absolute_difference(*two_classes) == pytest.approx(0.2)


def test_mean_absolute_difference_refuses_logits_and_other_shapes():
    with pytest.raises(ValueError, match=r"probabilities_b must lie within \[0, 1\], got 0.0 to 3.0"):
        mean_absolute_difference(torch.zeros(2), torch.tensor([0.0, 3.0]))
    with pytest.raises(ValueError, match=r"must lie within \[0, 1\]"):
        mean_absolute_difference(torch.tensor([math.nan]), torch.zeros(1))
    with pytest.raises(ValueError, match=r"the shape of probabilities_a, \[2\], got \[2, 1\]"):
        mean_absolute_difference(torch.zeros(2), torch.zeros(2, 1))
    for shape in ((0,), (2, 2, 2), ()):
        with pytest.raises(ValueError, match="and not empty"):
            mean_absolute_difference(torch.zeros(shape), torch.zeros(shape))


def test_distance_from_initialisation_is_the_norm_over_all_floating_tensors():
    initial = {"w": torch.zeros(2), "b": torch.ones(1, dtype=torch.bfloat16), "count": torch.tensor(0)}
    now = {
        "w": torch.tensor([2.0, 3.0]),
        "b": torch.full((1,), 7.0, dtype=torch.bfloat16),
        "count": torch.tensor(99),
    }
    assert distance_from_initialisation(now, initial) == pytest.approx(7.0)


def test_distance_from_initialisation_counts_buffers_unless_only_parameters_are_given():
    torch.manual_seed(0)
    model = torch.nn.BatchNorm1d(2)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(8, 2) + 3)
    assert distance_from_initialisation(model.state_dict(), start) > 0.1
    parameters = dict(model.named_parameters())
    assert distance_from_initialisation(parameters, {name: start[name] for name in parameters}) == 0.0


def test_distance_from_initialisation_refuses_another_model():
    with pytest.raises(ValueError, match=r"got \['b'\] in one of them only"):
        distance_from_initialisation({"w": torch.zeros(2)}, {"w": torch.zeros(2), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"got \[2\] and \[1\] for 'w'"):
        distance_from_initialisation({"w": torch.zeros(2)}, {"w": torch.zeros(1)})
    with pytest.raises(ValueError, match="state must hold a floating-point tensor"):
        distance_from_initialisation({"n": torch.tensor(1)}, {"n": torch.tensor(1)})
